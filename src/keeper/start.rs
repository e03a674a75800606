//! The start of a worker: it is started, it reaches Redis, it answers. Until it answers no name leads
//! to its filesystem, so a start that fails leaves nothing behind.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::mount::{self, Mountpoint};
use super::program::Program;
use super::running::{Contact, Running, StatusContext};
use super::secrets::Secrets;
use crate::config::Config;
use crate::exit::Failure;
use crate::host::mount::Probe;
use crate::host::mount_api::Filesystem;
use crate::supervision::{Order, Report};

/// From the order to serve until the filesystem must answer.
const SERVING_WITHIN: Duration = Duration::from_secs(10);
/// Given on top of the wait for Redis, for everything else a start does.
const START_WITHIN: Duration = Duration::from_secs(10);

/// The longest that a start may take.
pub(super) fn longest(config: &Config) -> Duration {
    connecting_within(config) + SERVING_WITHIN
}

fn connecting_within(config: &Config) -> Duration {
    Duration::from_millis(config.redis.start_wait_ms) + START_WITHIN
}

/// A worker that does not serve yet.
pub(super) struct Start {
    running: Running,
    step: Step,
    until: Instant,
}

enum Step {
    /// It has not reached Redis yet. The descriptor is held until there is a filesystem behind it.
    Connecting { device: OwnedFd },
    /// The filesystem is made, and not yet seen to answer.
    Made { filesystem: Filesystem, probe: Option<Probe> },
}

/// The outcome of a step.
pub(super) enum Progress {
    /// It is still starting.
    Waiting(Start),
    /// It answers, and can be mounted.
    Answers(Running, Filesystem),
}

impl Start {
    /// Starts one, to be mounted on `underlying`.
    pub(super) fn begin(
        program: &Program,
        config: &Config,
        contact: Contact,
        status: &StatusContext,
        secrets: &Secrets,
        underlying: &Mountpoint,
    ) -> Result<Self, Failure> {
        let device = mount::open_device()?;
        let running =
            Running::start(program, config, contact, &device, status, secrets, underlying)?;
        tracing::info!(pid = running.process.pid(), user = config.worker.user, "worker started");
        let until = Instant::now() + connecting_within(config);
        Ok(Self { running, step: Step::Connecting { device }, until })
    }

    /// What to wait for before the next look.
    pub(super) fn waits_for(&self) -> (Vec<BorrowedFd<'_>>, Instant) {
        let probe = match &self.step {
            Step::Made { probe: Some(probe), .. } => Some(probe.as_fd()),
            _ => None,
        };
        (self.running.descriptors().into_iter().chain(probe).collect(), self.until)
    }

    /// Whether it waits for Redis, as far as the keeper knows.
    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.step, Step::Connecting { .. })
    }

    /// Looks at what has happened, and does what follows. On a failure the worker has ended.
    pub(super) fn advance(mut self, mountpoint: &Path) -> Result<Progress, Failure> {
        let report = self.running.next_report();
        self.step = match (self.step, report) {
            (Step::Connecting { device }, Some(Report::RedisReady)) => {
                match Filesystem::make(device.as_fd()) {
                    // From here on the worker alone holds the device: when it dies, the kernel
                    // knows.
                    Ok(filesystem) => {
                        drop(device);
                        if self.running.channel.send(&Order::Serve).is_err() {
                            return Err(self.running.end("does not read its orders"));
                        }
                        self.until = Instant::now() + SERVING_WITHIN;
                        Step::Made { filesystem, probe: None }
                    }
                    Err(errno) => {
                        self.running.kill();
                        return Err(mount::refused(mountpoint, errno));
                    }
                }
            }
            (Step::Made { filesystem, .. }, Some(Report::Serving)) => {
                let root = format!("/proc/self/fd/{}", filesystem.as_fd().as_raw_fd());
                let probe = Some(Probe::start(Path::new(&root))?);
                Step::Made { filesystem, probe }
            }
            (step, _) => step,
        };
        let late = Instant::now() >= self.until;
        match self.step {
            Step::Made { filesystem, probe: Some(probe) } => match probe.answer() {
                Ok(Ok(())) => return Ok(Progress::Answers(self.running, filesystem)),
                Ok(Err(_)) => return Err(self.running.end("did not mount")),
                Err(probe) => self.step = Step::Made { filesystem, probe: Some(probe) },
            },
            step => self.step = step,
        }
        if self.running.process.has_ended() || late {
            return Err(self.running.end("was not ready in time"));
        }
        Ok(Progress::Waiting(self))
    }

    pub(super) fn end(mut self) {
        self.running.kill();
    }
}
