//! Whether an upgraded program can go on with the mount as its keeper: asked of that program itself, before anything is
//! given up for it.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::connection::{self, Connection};
use super::program::Program;
use super::running::status_words;
use super::{CommandLine, mount};
use crate::exit::{ExitCode, Failure};
use crate::host::process::{self, Process};
use crate::host::signals::Signals;

/// It reads its configuration, and asks nobody.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
const GOES_ON: &str = "goes on";
const REPLACES: &str = "replaces";

/// What the program says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// It goes on with the mount.
    GoesOn,
    /// It cannot read what the worker leaves, and puts a new mount in the place of this one.
    Replaces,
}

/// Asks a program that is to be executed with these arguments. Fails with its reason if it could not serve.
pub(super) fn ask(
    program: &Program,
    arguments: &[OsString],
    connection: &Connection,
    signals: &mut Signals,
) -> Result<Verdict, Failure> {
    let refused = |why: &str| {
        let name = program.installed_as().display();
        Failure::new(
            ExitCode::ReloadFailed,
            format!("program {name}: it cannot go on with this mount: {why}; nothing was changed"),
        )
    };
    let start = || -> io::Result<(Process, io::PipeReader, io::PipeReader)> {
        let descriptors = connection.for_trial();
        let mut command = process::prepare(&program.path(), "mount", &descriptors);
        let ((said, out), (complained, err)) = (io::pipe()?, io::pipe()?);
        command.args(arguments).current_dir(std::env::current_dir()?).stdout(out).stderr(err);
        Ok((command.stdin(Stdio::null()).spawn().and_then(Process::of_child)?, said, complained))
    };
    let (mut process, said, complained) = start().map_err(|error| refused(&error.to_string()))?;
    let until = Instant::now() + ANSWERS_WITHIN;
    while !process.has_ended() {
        if Instant::now() >= until || signals.received() > 0 {
            process.kill();
            return Err(refused("it does not answer"));
        }
        signals.wait(&[process.as_fd()], Some(until));
    }
    let status = status_words(process.status());
    match text(said).trim() {
        GOES_ON => Ok(Verdict::GoesOn),
        REPLACES => Ok(Verdict::Replaces),
        _ => {
            let complaint = text(complained);
            let complaint = complaint.lines().last().unwrap_or(&status);
            Err(refused(complaint.trim_start_matches("<3>").trim_start_matches("sessionfs: ")))
        }
    }
}

/// What it has written before it ended.
fn text(pipe: io::PipeReader) -> String {
    const LENGTH_MAX_BYTES: u64 = 4096;
    let mut bytes = Vec::new();
    // What cannot be read was not said.
    let _ = pipe.take(LENGTH_MAX_BYTES).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Answers, in the program that is asked.
pub(super) fn answer(
    command_line: &CommandLine,
    note: OwnedFd,
    memory: &OwnedFd,
) -> Result<&'static str, Failure> {
    command_line.resolve()?;
    mount::open_device()?;
    Ok(if connection::is_understood(note, memory) { GOES_ON } else { REPLACES })
}
