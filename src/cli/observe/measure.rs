//! The measurement: what is said before, shown meanwhile and printed at the end.

use std::fs::File;
use std::io::{IsTerminal as _, Read as _};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::poll::{PollTimeout, poll};

use super::{Observe, text};
use crate::cli::output;
use crate::exit::{ExitCode, Failure};
use crate::foreign::escaped;
use crate::host::signals::Interrupts;
use crate::observe::report::{Comparison, Report, Scene};
use crate::observe::watched::Whom;
use crate::observe::{Error, Observation};

/// How often the table is drawn anew.
const TICK: Duration = Duration::from_secs(1);
/// After so many times all processes are looked at again.
const TICKS_PER_LOOK: u64 = 5;
/// How many processes are named.
const NAMED_MAX: usize = 20;
/// The largest result that is read for a comparison.
const REPORT_BYTES_MAX: u64 = 16 << 20;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Bpf(error) => error.into(),
            Error::Nobody(_) => Self::new(ExitCode::NobodyObserved, error.to_string()),
            Error::Directory(..) => Self::new(ExitCode::ObservedDirectory, error.to_string()),
        }
    }
}

pub(super) fn run(asked: &Observe) -> Result<(), Failure> {
    // What cannot be read is better known before than after an hour.
    let before = asked.compare.as_deref().map(read).transpose()?;
    let whom = match (asked.port, asked.pid.as_slice()) {
        (Some(port), _) => Whom::Port(port),
        (None, []) => Whom::Odoo,
        (None, pids) => Whom::Processes(pids.to_vec()),
    };
    let _interrupts = Interrupts::note();
    let mut observation = Observation::start(&asked.directory, &whom, asked.time)?;
    announce(observation.scene(), asked.time);
    let interrupted = wait(&mut observation, asked.time)?;
    let after = observation.finish(interrupted)?;
    warn(&after);
    print(asked, before, after)?;
    if interrupted {
        let message = "interrupted; what was measured so far was printed";
        return Err(Failure::new(ExitCode::Interrupted, message));
    }
    Ok(())
}

/// Says what a result lacks, so that nobody takes it for little.
fn warn(found: &Report) {
    if found.total.calls == 0 {
        eprintln!(
            "warning: no call on the session directory was seen: Odoo had nothing to do, or other processes use the \
             directory; name them with --pid or --port, or measure for longer"
        );
    } else if found.total.calls_by_path == 0 {
        eprintln!(
            "warning: no call with a path was seen (stat, rename, unlink): Odoo may use another name of the directory, as in \
             a container; name the directory as Odoo's data_dir has it, or leave out --pid and --port"
        );
    }
}

fn print(asked: &Observe, before: Option<Report>, after: Report) -> Result<(), Failure> {
    match (before, asked.format.json) {
        (None, true) => output::json(&after),
        (None, false) => output::say(text::report(&after)),
        (Some(before), is_json) => {
            let both = Comparison { before, after };
            if is_json { output::json(&both) } else { output::say(text::comparison(&both)) }
        }
    }
}

/// An earlier result.
fn read(path: &Path) -> Result<Report, Failure> {
    let failed = |why: String| {
        let remedy =
            "name a file with what `sessionfs observe --json` has printed without --compare";
        let message = format!("--compare {}: {why}; {remedy}", path.display());
        Failure::new(ExitCode::NothingToCompare, message)
    };
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(REPORT_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| failed(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
}

/// Says whom it observes, and what that costs the machine.
fn announce(scene: &Scene, time: Duration) {
    let list = |numbers: &mut dyn Iterator<Item = String>| numbers.collect::<Vec<_>>().join(", ");
    let more = scene.pids.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let pids = list(&mut scene.pids.iter().take(NAMED_MAX).map(|pid| {
        let kind = if scene.evented_pids.contains(pid) { " (evented)" } else { "" };
        format!("{pid}{kind}")
    }));
    let directory = escaped(&scene.directory);
    eprintln!("observing {directory} ({}), processes {pids}{more}", escaped(&scene.filesystem));
    let ports = list(&mut scene.ports.iter().map(u16::to_string));
    if ports.is_empty() {
        eprintln!("none of these listens on a port, so calls are not told apart by request");
    } else {
        eprintln!("reading the paths of requests on port {ports}");
    }
    eprintln!(
        "until it ends, in {}, every system call of this machine takes a fraction of a microsecond longer",
        humantime::format_duration(time)
    );
}

/// Waits until the time is over, or nobody is left; whether a signal came first.
fn wait(observation: &mut Observation, time: Duration) -> Result<bool, Failure> {
    let bar = progress(time);
    let mut ticks = 0_u64;
    loop {
        let left = time.saturating_sub(observation.elapsed());
        if left.is_zero() || Interrupts::noted() {
            break;
        }
        let left = left.min(TICK).as_millis().max(1);
        // A signal ends it.
        let _ = poll(&mut [], PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO));
        ticks += 1;
        if ticks.is_multiple_of(TICKS_PER_LOOK) && !observation.look_again() {
            eprintln!("no observed process runs any more");
            break;
        }
        if !bar.is_hidden() {
            bar.set_message(text::live(&observation.so_far()?));
            bar.set_position(u64::try_from(observation.elapsed().as_millis()).unwrap_or(u64::MAX));
        }
    }
    bar.finish_and_clear();
    Ok(Interrupts::noted())
}

/// A bar with the table below it, on standard error; nothing when that is not a terminal.
fn progress(time: Duration) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let length = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let bar = ProgressBar::with_draw_target(Some(length), target);
    if let Ok(style) =
        ProgressStyle::with_template("[{bar:40}] {elapsed_precise} left {eta_precise}\n{msg}")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
