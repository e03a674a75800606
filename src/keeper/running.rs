//! One worker process and the conversation with it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::disks::Disks;
use super::listen::Listeners;
use super::mount::Mountpoint;
use super::program::Program;
use super::report::{self, Handover, Heard, Line, Node, Report, Standing};
use crate::config::Config;
use crate::exit::{ExitCode, Failure};
use crate::host::process::{self, Process};
use crate::telemetry::metrics::metrics;
use crate::telemetry::now_ms;
use crate::telemetry::recent::recent;

/// What each worker is given to tell of its node.
#[derive(Clone)]
pub struct Told {
    id: String,
    since_ms: u64,
    listeners: Listeners,
}

impl Told {
    /// By whoever asks on these sockets. The id is new with each keeper: one that hosts share
    /// (because they were cloned) would have them take each other's place.
    pub fn new(listeners: Listeners) -> Self {
        Self { id: format!("{:016x}", rand::random::<u64>()), since_ms: now_ms(), listeners }
    }

    /// The same with the sockets of a changed configuration.
    pub fn renewed(&self, config: &Config) -> Result<Self, Failure> {
        let listeners = self.listeners.renewed(config)?;
        Ok(Self { id: self.id.clone(), listeners, ..*self })
    }

    fn node(&self) -> Node {
        Node {
            id: self.id.clone(),
            keeper_pid: std::process::id(),
            keeper_since_ms: self.since_ms,
            worker_restarts: metrics().worker_restarts.get(),
            recent: recent(),
        }
    }
}

/// A worker that was started, and may have ended since.
pub struct Running {
    /// The process.
    pub process: Process,
    /// They touch session files on disks for it, and end with it or before.
    disks: Vec<Process>,
    /// The conversation.
    pub line: Line,
    /// It has closed its end, which would read as news for ever.
    silent: bool,
    /// What it said was wrong, before it ended.
    pub failure: Option<Failure>,
    /// How it said it stands with Redis, and when.
    standing: (Standing, Instant),
}

impl Running {
    /// Starts a program as the worker, with its descriptors; `below` is the directory that it is to
    /// be mounted on.
    pub fn start(
        program: &Program,
        config: &Config,
        first: bool,
        device: &OwnedFd,
        told: &Told,
        below: &Mountpoint,
    ) -> Result<Self, Failure> {
        let failed = |e: io::Error| Failure::internal("start the worker", e);
        let (line, theirs) = report::pair().map_err(failed)?;
        let (handed, handing) = io::pipe().map_err(failed)?;
        let Disks { processes: disks, sockets } = Disks::start(program, config, first, below)?;
        let mut descriptors = vec![
            ("--status-fd", theirs.as_fd()),
            ("--config-fd", handed.as_fd()),
            ("--fuse-fd", device.as_fd()),
        ];
        descriptors.extend(told.listeners.descriptors());
        descriptors.extend(sockets.iter().map(|(flag, socket)| (*flag, socket.as_fd())));
        let mut command = process::prepare(&program.path(), "worker", &descriptors);
        let process = command.spawn().and_then(Process::of_child).map_err(failed)?;
        let mut running = Self {
            process,
            disks,
            line,
            silent: false,
            failure: None,
            standing: (Standing::Well, Instant::now()),
        };
        drop((theirs, handed, sockets));
        // A configuration is smaller than a pipe; a worker that dies meanwhile breaks it.
        let written = serde_json::to_vec(&Handover {
            keeper: env!("CARGO_PKG_VERSION").into(),
            config: config.clone(),
            first,
            node: told.node(),
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
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let line = (!self.silent).then(|| self.line.as_fd());
        let disks = self.disks.iter().map(Process::as_fd);
        std::iter::once(self.process.as_fd()).chain(line).chain(disks).collect()
    }

    /// Ends it and what works for it, by force, and waits for that.
    pub fn kill(&mut self) -> Option<ExitStatus> {
        let status = self.process.kill();
        for disk in &mut self.disks {
            disk.kill();
        }
        status
    }

    /// Forgets the disk servers that have ended: the worker needs them no more, or notices itself.
    fn let_disks_go(&mut self) {
        self.disks.retain_mut(|disk| {
            let ended = disk.has_ended();
            if ended {
                disk.status();
            }
            !ended
        });
    }

    /// What it says now, if anything; a failure is kept for its end. Those that worked for it and
    /// have ended are forgotten.
    pub fn hear(&mut self) -> Option<Report> {
        self.let_disks_go();
        match self.line.hear() {
            Heard::Message(Report::Failed(failure)) => {
                self.failure = Some(failure);
                None
            }
            Heard::Message(Report::Standing(standing)) => {
                self.standing = (standing, Instant::now());
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

    /// How the mount that it serves is, in words.
    pub fn words(&self, mountpoint: &Path) -> String {
        let mountpoint = mountpoint.display();
        match &self.standing {
            (Standing::Well, _) => format!("serving {mountpoint}"),
            (Standing::Away, since) => {
                format!("waiting for Redis, {} s", since.elapsed().as_secs())
            }
            (Standing::NoWrites(why), _) => {
                format!("serving {mountpoint}; Redis takes no writes: {}", plain(why))
            }
        }
    }

    /// When these words change by themselves.
    pub fn words_change(&self) -> Option<Instant> {
        const EVERY: Duration = Duration::from_secs(1);
        (self.standing.0 == Standing::Away).then(|| Instant::now() + EVERY)
    }

    /// Hears what it has to say and nobody waits for; at most so much at a time that one that never
    /// stops speaking does not hold the keeper.
    pub fn hear_out(&mut self) {
        const MESSAGES_MAX: usize = 64;
        for _ in 0..MESSAGES_MAX {
            if self.hear().is_none() {
                break;
            }
        }
    }

    /// Ends it and says why it ended: in its own words, if it found any.
    pub fn end(mut self, otherwise: &str) -> Failure {
        let ended = self.process.has_ended();
        let status = self.kill();
        self.hear_out();
        self.failure.unwrap_or_else(|| {
            let what = if ended { status_words(status) } else { otherwise.to_owned() };
            Failure::new(ExitCode::WorkerFailed, format!("the worker {what}; see the log above"))
        })
    }
}

/// What a worker repeats of a server's words, as one short line: a line's end would be another
/// message to the service manager.
fn plain(words: &str) -> String {
    const CHARS_MAX: usize = 200;
    let shown = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    words.chars().take(CHARS_MAX).map(shown).collect()
}

/// How a process ended, in words.
pub fn status_words(status: Option<ExitStatus>) -> String {
    match status {
        None => "ended".into(),
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => format!("ended: {status}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_repeated_is_one_short_line() {
        assert_eq!(plain("OOM\nREADY=1 \u{1b}[31m"), "OOM?READY=1 ?[31m");
        assert_eq!(plain(&"x".repeat(10_000)).len(), 200);
    }
}
