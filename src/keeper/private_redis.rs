//! The private Redis: a server for the sessions of one mount, where no other Redis is named.
//!
//! It is a child of the keeper's main thread, and the kernel sends it SIGTERM when that thread ends
//! (`PR_SET_PDEATHSIG`). So a keeper that is killed leaves no server behind: the server writes its
//! append-only file to the end, and the next keeper starts another one on it. It could go on instead and be found again,
//! but a keeper that never comes would leave a server that nobody stops, and there would be two ways to come back. A
//! keeper that executes another program in its place keeps its main thread, and so its child; it hands it over
//! ([`PrivateRedis::handed`]).
//!
//! Two lock files in the data directory say who uses it, and both are released by the kernel:
//!
//! - `mount.lock` is held by the keeper. A second mount with this directory is refused.
//! - `redis.lock` is held by the server, which inherits it. Whatever became of its keeper, no other
//!   server is started on the same data before it has ended.
//!
//! The directory belongs to the worker's user. So root follows no link in it, and signals no process
//! that does not run as that user.

mod directory;
mod server;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::backoff::Backoff;
use crate::config::private_redis::socket_path;
use crate::config::{self, Config};
use crate::exit::Failure;
use crate::host::process::Process;
use crate::host::signals::Signals;
use server::Server;

/// How long a start may take: a large append-only file is read before the first answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a server may take to end: it writes its append-only file to the end.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often to look whether a server is ready, or whether an earlier one has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What the program before has handed over.
pub(crate) struct Handed {
    mount_lock: File,
    server: Process,
}

impl Handed {
    /// Of this process, if it still is what it was.
    pub(crate) fn found(mount_lock: OwnedFd, pid: i32) -> Option<Self> {
        let server = Process::found(pid).ok().filter(|server| !server.has_ended())?;
        Some(Self { mount_lock: mount_lock.into(), server })
    }
}

/// The private Redis of one mount.
pub(crate) struct PrivateRedis {
    settings: config::PrivateRedis,
    worker: config::Worker,
    /// Keeps other mounts from the directory.
    mount_lock: File,
    phase: Phase,
    backoff: Backoff,
    /// It has been ready once. From then on no failure ends the mount.
    was_ready: bool,
}

enum Phase {
    /// No server runs; the next one is started at `retry_at`.
    Down {
        retry_at: Instant,
    },
    /// The server of an earlier keeper has not ended yet.
    Waiting {
        until: Instant,
    },
    /// It does not answer yet.
    Starting {
        server: Server,
        until: Instant,
    },
    Up {
        server: Process,
        since: Instant,
    },
}

impl PrivateRedis {
    /// The longest that it may take until it is up: an earlier one ends first.
    pub(crate) const START_WITHIN: Duration = START_TIMEOUT.saturating_mul(2);

    /// Takes the data directory for this mount, if the configuration asks for a private Redis.
    /// Nothing is started yet. Fails if another mount uses the directory.
    ///
    /// `was_ready` says that the mount was served before: then no failure of the Redis ends it.
    pub(crate) fn new(
        config: &Config,
        was_ready: bool,
        before: Option<Handed>,
    ) -> Result<Option<Self>, Failure> {
        let Some(settings) = &config.private_redis else { return Ok(None) };
        if let Some(Handed { mount_lock, server }) = before {
            tracing::info!(pid = server.pid(), "going on with the private Redis");
            return Ok(Some(Self {
                settings: settings.clone(),
                worker: config.worker.clone(),
                mount_lock,
                phase: Phase::Up { server, since: Instant::now() },
                backoff: Backoff::default(),
                was_ready,
            }));
        }
        directory::check_socket_length(&socket_path(&settings.dir))?;
        directory::prepare(&settings.dir, &config.worker)?;
        Ok(Some(Self {
            settings: settings.clone(),
            worker: config.worker.clone(),
            mount_lock: directory::lock(&settings.dir, config)?,
            phase: Phase::Down { retry_at: Instant::now() },
            backoff: Backoff::default(),
            was_ready,
        }))
    }

    /// What another program that is executed in the place of this one goes on with: the lock of the directory, and the
    /// process, if it answers.
    pub(crate) fn handed(&self) -> Option<(BorrowedFd<'_>, i32)> {
        match &self.phase {
            Phase::Up { server, .. } => Some((self.mount_lock.as_fd(), server.pid())),
            _ => None,
        }
    }

    /// Whether it answers, as far as is known.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up { .. })
    }

    /// What to wait for before the next look.
    pub(crate) fn waits_for(&self) -> (Vec<BorrowedFd<'_>>, Option<Instant>) {
        let soon = Instant::now() + POLL_INTERVAL;
        match &self.phase {
            Phase::Down { retry_at } => (Vec::new(), Some(*retry_at)),
            Phase::Waiting { .. } => (Vec::new(), Some(soon)),
            Phase::Starting { server, .. } => (vec![server.process.as_fd()], Some(soon)),
            Phase::Up { server, .. } => (vec![server.as_fd()], None),
        }
    }

    /// Looks at what has happened, and does what follows. Fails if the first start fails; later
    /// failures are logged, and the start is tried again.
    pub(crate) fn advance(&mut self) -> Result<(), Failure> {
        let phase = std::mem::replace(&mut self.phase, Phase::Down { retry_at: Instant::now() });
        match self.step(phase) {
            Ok(phase) => self.phase = phase,
            Err(failure) if self.was_ready => {
                tracing::error!(%failure, "the private Redis is down; retrying");
                self.phase = Phase::Down { retry_at: self.backoff.failed(None) };
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    fn step(&mut self, phase: Phase) -> Result<Phase, Failure> {
        match phase {
            Phase::Down { retry_at } if Instant::now() < retry_at => Ok(phase),
            Phase::Down { .. } => self.start(None),
            Phase::Waiting { until } => self.start(Some(until)),
            Phase::Starting { server, until } => self.check_start(server, until),
            Phase::Up { mut server, since } if server.has_ended() => {
                let status = server.status().map_or_else(String::new, |s| format!(" ({s})"));
                tracing::error!(pid = server.pid(), "the private Redis died{status}");
                Ok(Phase::Down { retry_at: self.backoff.failed(Some(since)) })
            }
            Phase::Up { .. } => Ok(phase),
        }
    }

    /// Starts a server, unless an earlier one has not ended yet: that is waited for.
    fn start(&self, waiting_until: Option<Instant>) -> Result<Phase, Failure> {
        let dir = &self.settings.dir;
        if let Some(lock) =
            server::lock(dir).map_err(|e| self.failed(&format!("redis.lock: {e}")))?
        {
            let server = Server::start(&self.settings, &self.worker, &lock)?;
            tracing::info!(
                pid = server.process.pid(), socket = %socket_path(dir).display(),
                user = self.worker.user, program = %self.settings.server.display(),
                "no Redis is configured: started a private one; sessions are stored in {}", dir.display()
            );
            return Ok(Phase::Starting { server, until: Instant::now() + START_TIMEOUT });
        }
        match waiting_until {
            Some(until) if Instant::now() < until => Ok(Phase::Waiting { until }),
            Some(_) => Err(self.failed(&format!(
                "another process holds redis.lock and does not end; find it with 'fuser -v \
                 {}/redis.lock', and end it",
                dir.display()
            ))),
            None => {
                tracing::info!("waiting for the private Redis of an earlier sessionfs to end");
                // Where a security module confines the server, the kernel has dropped its death
                // signal. A second SIGTERM changes nothing.
                if let Some((earlier, _)) = server::ask(dir, &self.worker) {
                    earlier.signal(Signal::SIGTERM);
                }
                Ok(Phase::Waiting { until: Instant::now() + START_TIMEOUT })
            }
        }
    }

    fn check_start(&mut self, mut server: Server, until: Instant) -> Result<Phase, Failure> {
        if server.process.has_ended() {
            return Err(self.failed(&format!("it exited at once {}", server.last_words())));
        }
        let pid = server.process.pid();
        match server::ask(&self.settings.dir, &self.worker) {
            Some((found, true)) if found.pid() == pid => {
                if std::mem::replace(&mut self.was_ready, true) {
                    tracing::warn!(pid, "the private Redis is back");
                }
                Ok(Phase::Up { server: server.process, since: Instant::now() })
            }
            _ if Instant::now() < until => Ok(Phase::Starting { server, until }),
            _ => {
                server.process.kill();
                Err(self.failed("it does not answer"))
            }
        }
    }

    /// Ends the server, and waits until its append-only file is complete. A second signal skips the
    /// wait. It can be started again.
    pub(crate) fn stop(&mut self, signals: &mut Signals) {
        let down = Phase::Down { retry_at: Instant::now() };
        let mut server = match std::mem::replace(&mut self.phase, down) {
            Phase::Up { server, .. } => server,
            Phase::Starting { server, .. } => server.process,
            Phase::Down { .. } | Phase::Waiting { .. } => return,
        };
        let pid = server.pid();
        tracing::info!(pid, "stopping the private Redis");
        server.signal(Signal::SIGTERM);
        let until = Instant::now() + STOP_TIMEOUT;
        while !server.has_ended() {
            if Instant::now() >= until || signals.received() > 1 {
                tracing::warn!(pid, "the private Redis does not stop in time: killing it");
                server.kill();
                return;
            }
            signals.wait(&[server.as_fd()], Some(until));
        }
        // A child that has ended is not left behind as a zombie.
        server.status();
    }

    fn failed(&self, reason: &str) -> Failure {
        server::failure(&self.settings.dir, reason)
    }
}
