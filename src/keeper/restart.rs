//! The end of a keeper that is a pause of its mount: systemd starts the next keeper, which goes on with the connection
//! that is in systemd's descriptor store.
//!
//! Two ask: a keeper that is told to end, and `sessionfs unmount --after-service` when one has ended, however it did
//! (`ExecStopPost=` of the units). Whatever is not known for certain is an end, with the mount removed.

use std::path::Path;
use std::time::{Duration, Instant};

use super::trial::Trial;
use super::{Keeper, is_held, mount, reload};
use crate::config::Config;
use crate::config::paths::lock_file;
use crate::exit::{ExitCode, Failure};
use crate::host::mount::{force_off, is_ours};
use crate::host::service_manager;
use crate::host::signals::Signals;
use crate::host::unit::{State, Unit};

/// How long systemd may take to say what it is about to do: it may have much to do just now, such as to read its units
/// again. The time that it gives a keeper to end is longer (`TimeoutStopSec=` of the units).
const SAID_WITHIN: Duration = Duration::from_secs(5);
/// The device, the memory and the note.
const STORED: usize = 3;

impl Keeper {
    /// Whether systemd ends this keeper only to start the next one, and that can go on with the mount. While systemd is
    /// asked, the worker writes what it has collected.
    pub(super) fn is_restarted(&mut self, signals: &mut Signals) -> bool {
        const LOOK_EVERY: Duration = Duration::from_millis(20);
        if !self.worker.is_mounted()
            || !service_manager::Manager::is_there()
            || !goes_on_with(&self.config, self.command_line.resolve_soon())
        {
            return false;
        }
        let Ok(asked) = std::thread::Builder::new().name("systemctl".into()).spawn(state) else {
            return false;
        };
        self.worker.drain();
        // A second signal hurries.
        while !asked.is_finished() && signals.received() < 2 {
            signals.wait(&[], Some(Instant::now() + LOOK_EVERY));
        }
        asked.is_finished()
            && asked.join().ok().flatten().is_some_and(|state| state.restarts())
            && self.is_succeeded(signals)
    }

    /// Whether the program that systemd will start can go on with the mount. One that was upgraded meanwhile is asked.
    fn is_succeeded(&self, signals: &mut Signals) -> bool {
        let (Ok(program), Some(connection)) =
            (self.worker.program().installed(), self.worker.connection())
        else {
            return false;
        };
        if !program.is_another() {
            return true;
        }
        let Ok(mut trial) = Trial::begin(&program, &self.command_line.arguments(), connection)
        else {
            return false;
        };
        loop {
            if let Some(answer) = trial.answer() {
                return answer
                    .inspect_err(|failure| tracing::error!(%failure, "the mount is made anew"))
                    .is_ok();
            }
            if signals.received() >= 2 {
                return false;
            }
            let (process, until) = trial.waits_for();
            signals.wait(&[process], Some(until));
        }
    }

    /// Ends all processes, and leaves the mount: whoever asks it something waits for the next keeper.
    pub(super) fn pause(mut self, signals: &mut Signals) {
        service_manager::stopping("restarting");
        self.drain(signals, |_| true);
        self.worker.leave();
        if let Some(mut redis) = self.redis.take() {
            redis.stop(signals);
        }
        crate::telemetry::log::tell_all_repeated();
        tracing::info!("ended for a restart; requests wait for the next sessionfs");
    }
}

/// Whether the next keeper goes on with this configuration, or with what it is to be now. What could not be found out now
/// is no mistake: then that one uses the configuration from before.
fn goes_on_with(config: &Config, next: Result<Config, Failure>) -> bool {
    match next {
        Ok(next) => reload::needs_restart(config, &next).is_none(),
        Err(failure) => failure.code == ExitCode::Internal,
    }
}

/// After a keeper that was a service has ended: removes what it has left mounted, unless the next one goes on with it.
/// Whether there was something to remove.
pub(crate) fn clear_after(dir: &Path) -> Result<bool, Failure> {
    let mountpoint = mount::resolve_trusted(dir)?;
    if !is_ours(&mountpoint) || is_held(&lock_file(&mountpoint)) {
        return Ok(false);
    }
    let status = std::env::var("EXIT_STATUS").unwrap_or_default();
    if !ends_for_good(&status) && state().is_none_or(|state| state.goes_on()) {
        return Ok(false);
    }
    force_off(&mountpoint).map(|_| true)
}

fn state() -> Option<State> {
    Unit::own()?.state(SAID_WITHIN)
}

impl State {
    /// A process that is told to end is ended to be started again.
    fn restarts(&self) -> bool {
        self.stored >= STORED && self.job.as_deref() == Some("restart")
    }

    /// After a process has ended, another one is started: for a job, or by `Restart=`.
    fn goes_on(&self) -> bool {
        self.stored >= STORED && self.job.as_deref() != Some("stop")
    }
}

/// Whether this is an exit status (`$EXIT_STATUS` of systemd, which is the name of a signal otherwise) after which systemd
/// does not start the service again.
fn ends_for_good(status: &str) -> bool {
    status
        .parse()
        .is_ok_and(|status: u8| ExitCode::FINAL.iter().any(|code| u8::from(*code) == status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::flags::Flags;

    fn state(job: Option<&str>, stored: usize) -> State {
        State { job: job.map(ToOwned::to_owned), stored }
    }

    #[test]
    fn only_a_restart_with_a_stored_connection_is_a_pause() {
        assert!(state(Some("restart"), 3).restarts());
        assert!(!state(Some("restart"), 2).restarts());
        for job in [None, Some("stop"), Some("start"), Some("reload")] {
            assert!(!state(job, 3).restarts(), "{job:?}");
        }
    }

    #[test]
    fn a_directory_service_that_does_not_answer_is_no_reason_to_end_a_mount() {
        let config = Config::resolve(Path::new("/mnt"), &Flags::default()).unwrap();
        let failed = |code| Err(Failure::new(code, "no"));
        assert!(goes_on_with(&config, Ok(config.clone())));
        assert!(goes_on_with(&config, failed(ExitCode::Internal)));
        assert!(!goes_on_with(&config, failed(ExitCode::BadUrl)));
        let next = Config { staging_dir: "/elsewhere".into(), ..config.clone() };
        assert!(!goes_on_with(&config, Ok(next)));
    }

    #[test]
    fn what_a_dead_keeper_has_left_is_kept_unless_its_unit_stops() {
        for job in [None, Some("restart"), Some("start")] {
            assert!(state(job, 3).goes_on(), "{job:?}");
            assert!(!state(job, 0).goes_on(), "{job:?}");
        }
        assert!(!state(Some("stop"), 3).goes_on());
        assert!(ends_for_good("11") && ends_for_good("2"));
        assert!(!ends_for_good("42") && !ends_for_good("KILL") && !ends_for_good(""));
    }
}
