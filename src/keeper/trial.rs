//! Whether an upgraded program can go on with the mount as its keeper: asked of that program itself, before anything is
//! given up for it.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::connection::{self, Connection};
use super::listen::Listeners;
use super::program::Program;
use super::running::status_words;
use super::{CommandLine, mount};
use crate::exit::{ExitCode, Failure};
use crate::host::process::{self, Process};

/// It reads its configuration, and asks nobody.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
const GOES_ON: &str = "goes on";
const NEEDS_RESTART: &str = "needs a restart";

/// A program that is asked, and has not answered yet.
pub(super) struct Trial {
    installed_as: PathBuf,
    process: Process,
    said: io::PipeReader,
    complained: io::PipeReader,
    until: Instant,
}

impl Trial {
    /// Asks a program that is to be executed with these arguments.
    pub(super) fn begin(
        program: &Program,
        arguments: &[OsString],
        connection: &Connection,
    ) -> Result<Self, Failure> {
        let installed_as = program.installed_as().to_owned();
        let start = || -> io::Result<(Process, io::PipeReader, io::PipeReader)> {
            let descriptors = connection.for_trial();
            let mut command = process::prepare(&program.path(), "mount", &descriptors);
            let ((said, out), (complained, err)) = (io::pipe()?, io::pipe()?);
            command.args(arguments).stdout(out).stderr(err);
            Ok((command.spawn().and_then(Process::of_child)?, said, complained))
        };
        let (process, said, complained) =
            start().map_err(|error| refused(&installed_as, &error.to_string()))?;
        let until = Instant::now() + ANSWERS_WITHIN;
        Ok(Self { installed_as, process, said, complained, until })
    }

    /// What to wait for before the next look.
    pub(super) fn waits_for(&self) -> (BorrowedFd<'_>, Instant) {
        (self.process.as_fd(), self.until)
    }

    /// What it says, once it has: whether it could serve, and if not, why.
    pub(super) fn answer(&mut self) -> Option<Result<(), Failure>> {
        if !self.process.has_ended() {
            let is_late = Instant::now() >= self.until;
            return is_late.then(|| Err(refused(&self.installed_as, "it does not answer")));
        }
        let status = status_words(self.process.status());
        Some(match text(&mut self.said).trim() {
            GOES_ON => Ok(()),
            NEEDS_RESTART => Err(refused(
                &self.installed_as,
                "it cannot read what this version leaves to the next worker. It needs a restart of sessionfs, which \
                 makes a new mount",
            )),
            _ => {
                let complaint = text(&mut self.complained);
                let complaint = complaint.lines().last().unwrap_or(&status);
                let complaint =
                    complaint.trim_start_matches("<3>").trim_start_matches("sessionfs: ");
                Err(refused(&self.installed_as, complaint))
            }
        })
    }
}

fn refused(program: &Path, why: &str) -> Failure {
    let program = program.display();
    Failure::new(
        ExitCode::ReloadFailed,
        format!("program {program}: it cannot go on with this mount: {why}; nothing was changed"),
    )
}

/// What it has written before it ended.
fn text(pipe: &mut io::PipeReader) -> String {
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
    let config = match command_line.resolve_soon() {
        Ok(config) => Some(config),
        // What cannot be found out now is no mistake: it goes on with the configuration from before.
        Err(failure) if failure.code == ExitCode::Internal => None,
        Err(failure) => return Err(failure),
    };
    mount::open_device()?;
    config.as_ref().map_or(Ok(()), Listeners::try_out)?;
    Ok(if connection::is_understood(note, memory) { GOES_ON } else { NEEDS_RESTART })
}
