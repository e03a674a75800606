//! The worker as the keeper sees it: started, mounted for, watched, and replaced when it dies.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::mount::{self, Mounted, Mountpoint, Probe};
use super::process::{self, Process};
use super::report::{self, Handover, Heard, Line, Order, Report};
use crate::config::Config;
use crate::exit::{ExitCode, Failure};
use crate::telemetry::Event;

/// From the order to serve until the mount must answer.
const SERVING_WITHIN: Duration = Duration::from_secs(10);
/// Given on top of the wait for Redis, for everything else a start does.
const START_WITHIN: Duration = Duration::from_secs(10);
/// How long a worker may write what it has collected, when the end is near.
pub const DRAIN_WITHIN: Duration = Duration::from_secs(2);

/// The mount and whoever serves it now.
pub struct Watched {
    config: Config,
    phase: Phase,
    backoff: Backoff,
    /// A mount has been served once: from then on nothing is given up.
    served: bool,
}

enum Phase {
    /// Nobody serves; when to start the next.
    Down { retry_at: Instant },
    /// Started, and not yet sure of Redis. The descriptor is held until it is mounted.
    Connecting { running: Running, device: OwnedFd, until: Instant },
    /// Mounted, and not yet seen to answer.
    Mounted { running: Running, probe: Option<Probe>, until: Instant },
    /// It serves.
    Serving { running: Running, since: Instant },
    /// It was unmounted by somebody, who thereby asked for the end.
    Ended,
}

struct Running {
    process: Process,
    line: Line,
    /// It has closed its end, which would read as news for ever.
    silent: bool,
    /// What it said was wrong, before it ended.
    failure: Option<Failure>,
}

/// What a look at the worker came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Seen {
    /// Nothing that concerns others.
    Nothing,
    /// A mount is ready from now on.
    Ready,
    /// Somebody unmounted it.
    Unmounted,
}

impl Watched {
    /// Nobody serves yet.
    pub fn new(config: Config) -> Self {
        let phase = Phase::Down { retry_at: Instant::now() };
        Self { config, phase, backoff: Backoff::default(), served: false }
    }

    /// Whether a mount has ever been ready.
    pub fn has_served(&self) -> bool {
        self.served
    }

    /// What to wait for before the next look.
    pub fn waits_for(&self) -> (Vec<BorrowedFd<'_>>, Option<Instant>) {
        match &self.phase {
            Phase::Down { retry_at } => (Vec::new(), Some(*retry_at)),
            Phase::Connecting { running, until, .. } => (running.descriptors(), Some(*until)),
            Phase::Mounted { running, probe, until } => {
                let probe = probe.as_ref().map(Probe::as_fd);
                (running.descriptors().into_iter().chain(probe).collect(), Some(*until))
            }
            Phase::Serving { running, .. } => (running.descriptors(), None),
            Phase::Ended => (Vec::new(), None),
        }
    }

    /// Looks at what has happened, and does what follows. A failure is one of the first start:
    /// later ones are logged, and tried again.
    pub fn advance(&mut self) -> Result<Seen, Failure> {
        let phase = std::mem::replace(&mut self.phase, Phase::Ended);
        match self.step(phase) {
            Ok((phase, seen)) => {
                self.phase = phase;
                Ok(seen)
            }
            Err(failure) if self.served => {
                tracing::error!(%failure, "the mount is not served; trying again");
                self.phase = Phase::Down { retry_at: self.backoff.failed(None) };
                Ok(Seen::Nothing)
            }
            Err(failure) => Err(failure),
        }
    }

    fn step(&mut self, phase: Phase) -> Result<(Phase, Seen), Failure> {
        let now = Instant::now();
        Ok(match phase {
            Phase::Down { retry_at } if now < retry_at => (Phase::Down { retry_at }, Seen::Nothing),
            Phase::Down { .. } => (self.start()?, Seen::Nothing),
            Phase::Connecting { mut running, device, until } => match running.hear() {
                Some(Report::RedisOk) => (self.mount(running, device)?, Seen::Nothing),
                _ if running.process.has_ended() || now >= until => {
                    return Err(running.end("was not ready in time"));
                }
                _ => (Phase::Connecting { running, device, until }, Seen::Nothing),
            },
            Phase::Mounted { running, probe, until } => self.look(running, probe, until)?,
            Phase::Serving { mut running, since } => {
                while running.hear().is_some() {}
                if running.process.has_ended() {
                    self.lost(running, since)?
                } else {
                    (Phase::Serving { running, since }, Seen::Nothing)
                }
            }
            Phase::Ended => (Phase::Ended, Seen::Unmounted),
        })
    }

    fn start(&self) -> Result<Phase, Failure> {
        super::staging::prepare(&self.config.staging_dir, &self.config.worker)?;
        let device = mount::open_device()?;
        let running = Running::start(&self.config, !self.served, &device)?;
        tracing::info!(
            pid = running.process.pid(),
            user = self.config.worker.user,
            "worker started"
        );
        let wait = Duration::from_millis(self.config.redis.start_wait_ms) + START_WITHIN;
        Ok(Phase::Connecting { running, device, until: Instant::now() + wait })
    }

    fn mount(&self, mut running: Running, device: OwnedFd) -> Result<Phase, Failure> {
        let mounted = Mountpoint::take(&self.config.mountpoint)
            .and_then(|mountpoint| mountpoint.mount(device.as_fd()));
        // From here on the worker alone holds the device: when it dies, the kernel knows.
        drop(device);
        if let Err(failure) = mounted {
            running.process.kill();
            return Err(failure);
        }
        if running.line.say(&Order::Go).is_err() {
            return Err(self.unserved(running));
        }
        Ok(Phase::Mounted { running, probe: None, until: Instant::now() + SERVING_WITHIN })
    }

    /// Waits for the worker to serve, then for the root to answer.
    fn look(
        &mut self,
        mut running: Running,
        mut probe: Option<Probe>,
        until: Instant,
    ) -> Result<(Phase, Seen), Failure> {
        if running.hear() == Some(Report::Serving) {
            probe = Some(Probe::start(&self.config.mountpoint)?);
        }
        if let Some(asked) = probe.take() {
            match asked.answer() {
                Ok(Ok(())) if Mounted::is_ours(&self.config.mountpoint) => {
                    self.served = true;
                    return Ok((Phase::Serving { running, since: Instant::now() }, Seen::Ready));
                }
                Ok(_) => return Err(self.unserved(running)),
                Err(asked) => probe = Some(asked),
            }
        }
        if running.process.has_ended() || Instant::now() >= until {
            return Err(self.unserved(running));
        }
        Ok((Phase::Mounted { running, probe, until }, Seen::Nothing))
    }

    /// Mounted, but it will not be served: nothing is left behind.
    fn unserved(&self, running: Running) -> Failure {
        let failure = running.end("did not serve the mount");
        match mount::detach(&self.config.mountpoint) {
            Ok(()) => failure,
            Err(also) => Failure::new(failure.code, format!("{failure}; {also}")),
        }
    }

    /// A worker that served has ended without being asked to.
    fn lost(&mut self, mut running: Running, since: Instant) -> Result<(Phase, Seen), Failure> {
        let status = running.process.status();
        if status.is_some_and(|status| status.success())
            && !Mounted::is_ours(&self.config.mountpoint)
        {
            tracing::warn!("the mount was taken away with umount; ending");
            return Ok((Phase::Ended, Seen::Unmounted));
        }
        let mut words = status_words(status);
        if let Some(failure) = running.failure {
            words = format!("{words}: {failure}");
        }
        Event::WorkerDied { status: &words }.emit();
        mount::detach(&self.config.mountpoint)?;
        Ok((Phase::Down { retry_at: self.backoff.failed(Some(since)) }, Seen::Nothing))
    }

    /// Asks the worker to write what it has collected, before the mount is taken away. Says until
    /// when it is worth waiting; `None` if nobody serves.
    pub fn drain(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Serving { running, .. } => {
                running.line.say(&Order::Drain).ok().map(|()| Instant::now() + DRAIN_WITHIN)
            }
            _ => None,
        }
    }

    /// Whether that has been done (or nobody is left to do it).
    pub fn has_drained(&mut self) -> bool {
        match &mut self.phase {
            Phase::Serving { running, .. } => {
                running.hear() == Some(Report::Drained) || running.process.has_ended()
            }
            _ => true,
        }
    }

    /// Whether the process has ended. What it still says is of no use any more.
    pub fn has_ended(&mut self) -> bool {
        match &mut self.phase {
            Phase::Down { .. } | Phase::Ended => true,
            Phase::Connecting { running, .. }
            | Phase::Mounted { running, .. }
            | Phase::Serving { running, .. } => {
                while running.hear().is_some() {}
                running.process.has_ended()
            }
        }
    }

    /// Whether a mount is there to be taken away.
    pub fn is_mounted(&self) -> bool {
        matches!(self.phase, Phase::Mounted { .. } | Phase::Serving { .. })
    }

    /// Ends the process by force if it has not ended, and waits for it.
    pub fn finish(&mut self) {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Connecting { mut running, .. }
            | Phase::Mounted { mut running, .. }
            | Phase::Serving { mut running, .. } => {
                running.process.kill();
            }
            Phase::Down { .. } | Phase::Ended => {}
        }
    }
}

impl Running {
    /// Starts this same program anew as the worker, with three descriptors.
    fn start(config: &Config, first: bool, device: &OwnedFd) -> Result<Self, Failure> {
        let failed = |e: io::Error| Failure::internal("start the worker", e);
        let (line, theirs) = report::pair().map_err(failed)?;
        let (handed, handing) = io::pipe().map_err(failed)?;
        let descriptors = [
            ("--status-fd", theirs.as_fd()),
            ("--config-fd", handed.as_fd()),
            ("--fuse-fd", device.as_fd()),
        ];
        let inherited: Vec<RawFd> = descriptors.iter().map(|(_, fd)| fd.as_raw_fd()).collect();

        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("sessionfs")
            .arg("worker")
            .args(
                descriptors
                    .iter()
                    .flat_map(|(flag, fd)| [(*flag).to_owned(), fd.as_raw_fd().to_string()]),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .current_dir("/")
            // A Ctrl-C is for the keeper, who ends the worker in order.
            .process_group(0);
        // SAFETY: between fork and exec this only makes system calls, which are async-signal-safe,
        // on descriptors that stay open until `spawn` has returned.
        unsafe {
            command.pre_exec(move || process::inherit_only(&inherited));
        }
        let process = command.spawn().and_then(Process::of_child).map_err(failed)?;
        let mut running = Self { process, line, silent: false, failure: None };
        drop((theirs, handed));
        // A configuration is smaller than a pipe; a worker that dies meanwhile breaks it.
        let written = serde_json::to_vec(&Handover { config: config.clone(), first })
            .map_err(io::Error::other)
            .and_then(|bytes| File::from(OwnedFd::from(handing)).write_all(&bytes));
        match written {
            Ok(()) => Ok(running),
            Err(error) => {
                running.process.kill();
                Err(failed(error))
            }
        }
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let line = (!self.silent).then(|| self.line.as_fd());
        std::iter::once(self.process.as_fd()).chain(line).collect()
    }

    /// What it says now, if anything; a failure is kept for its end.
    fn hear(&mut self) -> Option<Report> {
        match self.line.hear() {
            Heard::Message(Report::Failed(failure)) => {
                self.failure = Some(failure);
                None
            }
            Heard::Message(report) => Some(report),
            Heard::Nothing => None,
            Heard::Gone => {
                self.silent = true;
                None
            }
        }
    }

    /// Ends it and says why it ended: in its own words, if it found any.
    fn end(mut self, otherwise: &str) -> Failure {
        let ended = self.process.has_ended();
        let status = self.process.kill();
        while self.hear().is_some() {}
        self.failure.unwrap_or_else(|| {
            let what = if ended { status_words(status) } else { otherwise.to_owned() };
            Failure::new(ExitCode::WorkerFailed, format!("the worker {what}; see the log above"))
        })
    }
}

fn status_words(status: Option<ExitStatus>) -> String {
    match status {
        None => "ended".into(),
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => format!("ended: {status}"),
        },
    }
}
