//! One worker process and the conversation with it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::connection::Connection;
use super::disks::Disks;
use super::listen::Listeners;
use super::parameters::Parameters;
use super::program::Program;
use super::requests::Requests;
use super::secrets::Secrets;
use super::trail::Trail;
use crate::config::Config;
use crate::exit::{ExitCode, Failure};
use crate::fuse::kernel::Offers;
use crate::handoff::Ended;
use crate::host::process::{self, Process};
use crate::host::procfs;
use crate::supervision::{
    self, Channel, Handover, KeeperInfo, Order, Received, RedisState, Report, credentials,
};
use crate::telemetry::metrics::metrics;
use crate::telemetry::now_ms;
use crate::telemetry::recent::recent;

/// What each worker needs to serve the status: who its keeper is, the sockets, and whether requests are told apart.
#[derive(Clone)]
pub(super) struct StatusContext {
    id: String,
    since_ms: u64,
    /// How many workers were started, by whichever copy of this.
    workers: Arc<AtomicU64>,
    listeners: Listeners,
    requests: Requests,
    trail: Trail,
}

impl StatusContext {
    /// Of this keeper, with its sockets. The id is new with each keeper: an id that is kept on disk
    /// would be shared by hosts that were cloned, and each would overwrite the other's registration.
    pub(super) fn new(listeners: Listeners, requests: Requests, trail: Trail) -> Self {
        Self {
            id: format!("{:016x}", rand::random::<u64>()),
            since_ms: now_ms(),
            workers: Arc::default(),
            listeners,
            requests,
            trail,
        }
    }

    /// The same for a changed configuration.
    pub(super) fn renewed(&self, config: &Config, program: &Program) -> Result<Self, Failure> {
        let listeners = self.listeners.renewed(config)?;
        let trail = Trail::renewed(config)?;
        let requests = self.requests.renewed(config, program);
        let workers = Arc::clone(&self.workers);
        Ok(Self { id: self.id.clone(), workers, listeners, requests, trail, ..*self })
    }

    fn keeper_info(&self) -> KeeperInfo {
        KeeperInfo {
            id: self.id.clone(),
            pid: std::process::id(),
            since_ms: self.since_ms,
            worker_restarts: metrics().worker_restarts.get(),
            requests: self.requests.state(),
            recent: recent(),
        }
    }
}

/// What a worker that starts makes of a Redis that is not there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Contact {
    /// It fails: somebody waits for the outcome.
    Required,
    /// It waits for a while, and then serves without: a service must not stay away for ever.
    Awaited,
    /// It serves without.
    Later,
}

/// A worker that was started, and may have ended since.
pub(super) struct Running {
    process: Process,
    /// Its disk servers, which end with it or before.
    disks: Vec<Process>,
    /// What reads Odoo's system parameters for it.
    parameters: Option<Parameters>,
    /// Ours of the two ends.
    pub channel: Channel,
    /// Where it asks for credentials.
    credentials: credentials::Keeper,
    /// It has closed its end. A closed channel stays readable, so nobody waits for it any more.
    closed: bool,
    /// What it is handed when it asks, and the file they are in.
    secrets: (Secrets, PathBuf),
    /// Why it could not continue, as it reported.
    pub failure: Option<Failure>,
    /// The state of Redis, as it reported, and since when.
    redis: (RedisState, Instant),
    /// What it had collected is written.
    has_drained: bool,
    /// It has found what the workers before have died of.
    found_cause: bool,
}

/// The thread of a worker that asks the kernel to forget entries (`fuse.rs`). The kernel makes it wait, though it was
/// killed, for whoever holds the directory: and that may be a caller whom only the next worker answers.
pub(super) const WAITING_THREAD: &str = "evict";

impl Running {
    /// Starts a program as the worker, with its descriptors, to serve this connection.
    pub(super) fn start(
        program: &Program,
        config: &Config,
        contact: Contact,
        status: &StatusContext,
        secrets: &Secrets,
        connection: &Connection,
    ) -> Result<Self, Failure> {
        let failed = |e: io::Error| Failure::internal("start the worker", e);
        let handed_secrets = secrets.read(&config.secret_file)?;
        let (channel, theirs) = supervision::pair().map_err(failed)?;
        let (credentials, asking) =
            credentials::Keeper::pair(config.credential_files()).map_err(failed)?;
        let processes = procfs::open(Offers::from_environment().proc_mount()).map_err(failed)?;
        let (handed, handing) = io::pipe().map_err(failed)?;
        let Disks { processes: disks, sockets } =
            Disks::start(program, config, contact != Contact::Later, connection.underlying())?;
        let mut descriptors = vec![
            ("--status-fd", theirs.as_fd()),
            ("--config-fd", handed.as_fd()),
            ("--credentials-fd", asking.as_fd()),
            ("--processes-fd", processes.as_fd()),
        ];
        descriptors.extend(connection.descriptors());
        descriptors.extend(status.listeners.descriptors());
        let (parameters, reported) =
            Parameters::start(program.path(), config).map_err(failed)?.unzip();
        descriptors.extend(reported.as_ref().map(|end| ("parameters", end.as_fd())));
        descriptors.extend(status.trail.descriptor());
        descriptors.extend(sockets.iter().map(|(flag, socket)| (*flag, socket.as_fd())));
        descriptors.extend(status.requests.marks().map(|marks| ("requests", marks)));
        let mut command = process::prepare(&program.path(), "worker", &descriptors);
        let process = command.spawn().and_then(Process::of_child).map_err(failed)?;
        let mut running = Self {
            process,
            disks,
            parameters,
            channel,
            credentials,
            closed: false,
            secrets: (secrets.clone(), config.secret_file.clone()),
            failure: None,
            redis: (RedisState::Up, Instant::now()),
            has_drained: false,
            found_cause: false,
        };
        drop((theirs, asking, handed, sockets, reported));
        // A configuration is smaller than a pipe; a worker that dies meanwhile breaks it.
        let written = serde_json::to_vec(&Handover {
            keeper: env!("CARGO_PKG_VERSION").into(),
            config: config.clone(),
            secrets: handed_secrets,
            first: contact != Contact::Later,
            may_lack_redis: contact == Contact::Awaited,
            worker: status.workers.fetch_add(1, Ordering::Relaxed),
            keeper_info: status.keeper_info(),
        })
        .map_err(io::Error::other)
        .and_then(|bytes| File::from(OwnedFd::from(handing)).write_all(&bytes));
        match written {
            Ok(()) => Ok(running),
            Err(error) => {
                running.kill();
                Err(failed(error))
            }
        }
    }

    /// What to wait for before the next look at it.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let channel = (!self.closed).then(|| self.channel.as_fd());
        let disks = self.disks.iter().map(Process::as_fd);
        let parameters = self.parameters.as_ref().and_then(Parameters::waits_for);
        std::iter::once(self.process.as_fd())
            .chain(channel)
            .chain(self.credentials.waits_for())
            .chain(disks)
            .chain(parameters)
            .collect()
    }

    /// Its number, for messages.
    pub(super) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Whether nothing of it serves any more.
    pub(super) fn has_ended(&self) -> bool {
        self.process.has_ended() || self.process.has_ended_but_for(WAITING_THREAD)
    }

    /// Orders it to write what it has collected.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        self.has_drained = false;
        self.channel.send(&Order::Drain)
    }

    /// Whether that is done, or nobody is left to do it.
    pub(super) fn has_drained(&mut self) -> bool {
        self.drain_reports();
        self.has_drained || self.has_ended()
    }

    /// Whether it has found what the workers before have died of. Told once.
    pub(super) fn take_found_cause(&mut self) -> bool {
        std::mem::take(&mut self.found_cause)
    }

    /// Kills it and its disk servers, and waits for that.
    pub(super) fn kill(&mut self) -> Option<ExitStatus> {
        let status = self.process.kill_but_for(WAITING_THREAD);
        if let Some(parameters) = &mut self.parameters {
            parameters.kill();
        }
        for disk in &mut self.disks {
            // Callers wait for the next worker, whatever a disk does.
            disk.kill_within(Duration::from_millis(100));
        }
        status
    }

    /// Forgets the disk servers that have ended. The worker does not need them any more, or notices
    /// it itself.
    fn reap_disks(&mut self) {
        self.disks.retain_mut(|disk| {
            let ended = disk.has_ended();
            if ended {
                disk.status();
            }
            !ended
        });
    }

    /// Its next report, if there is one. A failure, the state of Redis and a drain are kept here instead. A
    /// question for a credential is answered on the way.
    pub(super) fn next_report(&mut self) -> Option<Report> {
        self.reap_disks();
        if let Some(parameters) = &mut self.parameters {
            parameters.look();
        }
        self.credentials.answer();
        match self.channel.try_receive() {
            Received::Message(Report::Failed(failure)) => {
                self.failure = Some(failure);
                None
            }
            Received::Message(Report::Redis(state)) => {
                self.redis = (state, Instant::now());
                None
            }
            Received::Message(Report::Drained) => {
                self.has_drained = true;
                None
            }
            Received::Message(Report::CauseFound) => {
                self.found_cause = true;
                None
            }
            Received::Message(Report::Secrets { make }) => {
                self.hand_secrets(make);
                None
            }
            Received::Message(report) => Some(report),
            Received::Empty => None,
            Received::Closed => {
                self.closed = true;
                None
            }
        }
    }

    /// Answers a worker that asks. Where there is nothing to hand over it goes on with what it has,
    /// or ends by the failure that is kept here.
    fn hand_secrets(&mut self, make: bool) {
        let (secrets, file) = &self.secrets;
        match if make { secrets.make(file) } else { secrets.read(file) } {
            // A worker that does not listen now asks again.
            Ok(secrets) => drop(self.channel.send(&Order::Secrets(secrets))),
            Err(failure) => {
                self.failure = Some(failure);
                self.process.signal(Signal::SIGKILL);
            }
        }
    }

    /// The state of the mount that it serves, in words.
    pub(super) fn words(&self, mountpoint: &Path) -> String {
        let mountpoint = mountpoint.display();
        match &self.redis {
            (RedisState::Up, _) => format!("serving {mountpoint}"),
            (RedisState::Down, since) => {
                format!("waiting for Redis, {} s", since.elapsed().as_secs())
            }
            (RedisState::NoWrites(why), _) => {
                format!("serving {mountpoint}; Redis accepts no writes: {}", plain(why))
            }
        }
    }

    /// When these words change by themselves.
    pub(super) fn words_change(&self) -> Option<Instant> {
        const EVERY: Duration = Duration::from_secs(1);
        (self.redis.0 == RedisState::Down).then(|| Instant::now() + EVERY)
    }

    /// Reads the reports that nobody waits for. Their number is bounded, so that a worker that never
    /// stops sending does not hold the keeper.
    pub(super) fn drain_reports(&mut self) {
        const MESSAGES_MAX: usize = 64;
        for _ in 0..MESSAGES_MAX {
            if self.next_report().is_none() {
                break;
            }
        }
    }

    /// Ends it, and returns why: the failure that it reported, if it did, else `otherwise`. And how it has ended, if
    /// that was not done here.
    pub(super) fn end(mut self, otherwise: &str) -> (Failure, Option<Ended>) {
        let has_ended = self.has_ended();
        let status = self.kill();
        self.drain_reports();
        let failure = self.failure.unwrap_or_else(|| {
            let what = if has_ended { status_words(status) } else { otherwise.to_owned() };
            Failure::new(ExitCode::WorkerFailed, format!("the worker {what}; see the log above"))
        });
        (failure, has_ended.then(|| unasked_end(status)))
    }
}

/// How a worker has ended that was not asked to. As long as a thread of it is held in the kernel nobody knows; then the
/// requests under way are not taken for the cause.
pub(super) fn unasked_end(status: Option<ExitStatus>) -> Ended {
    match status.map(|status| status.signal()) {
        None | Some(Some(libc::SIGKILL)) => Ended::Killed,
        Some(_) => Ended::Crashed,
    }
}

/// The words of Redis, as one short line: the end of a line would begin another message to the
/// service manager.
fn plain(words: &str) -> String {
    const CHARS_MAX: usize = 200;
    let shown = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    words.chars().take(CHARS_MAX).map(shown).collect()
}

/// How a process ended, in words.
pub(super) fn status_words(status: Option<ExitStatus>) -> String {
    match status {
        None => "ended".into(),
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => format!("ended: {status}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_redis_are_one_short_line() {
        assert_eq!(plain("OOM\nREADY=1 \u{1b}[31m"), "OOM?READY=1 ?[31m");
        assert_eq!(plain(&"x".repeat(10_000)).len(), 200);
    }
}
