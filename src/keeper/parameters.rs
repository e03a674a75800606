//! The process that reads Odoo's system parameters for a worker. It ends by itself when Odoo is started anew, and is
//! started again; the worker does not notice.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::host::process::{self, Process};
use crate::supervision;

/// From one start to the next.
const START_EVERY: Duration = Duration::from_secs(10);

/// One that is running, or was to run.
pub(super) struct Parameters {
    program: PathBuf,
    arguments: Vec<String>,
    /// Its end of the conversation.
    theirs: OwnedFd,
    process: Option<Process>,
    started: Instant,
    /// The last one has ended in another way than by itself, and that was told.
    complained: bool,
}

impl Parameters {
    /// Starts it, if it is configured; also gives the worker's end. Without it the last values stay.
    pub(super) fn start(program: PathBuf, config: &Config) -> io::Result<Option<(Self, OwnedFd)>> {
        if config.odoo.parameters.is_none() {
            return Ok(None);
        }
        let (ours, theirs) = supervision::pair()?;
        let mut arguments = vec![
            "--uid".to_owned(),
            config.tree.owner_uid.to_string(),
            "--gid".to_owned(),
            config.tree.owner_gid.to_string(),
            "--sessions".to_owned(),
            config.mountpoint.to_string_lossy().into_owned(),
        ];
        if let Some(file) = &config.odoo.config {
            arguments.extend(["--config".to_owned(), file.to_string_lossy().into_owned()]);
        }
        let mut parameters = Self {
            program,
            arguments,
            theirs,
            process: None,
            started: Instant::now(),
            complained: false,
        };
        parameters.spawn();
        Ok(Some((parameters, ours.into_socket())))
    }

    fn spawn(&mut self) {
        self.started = Instant::now();
        let descriptors = [("--socket-fd", self.theirs.as_fd())];
        let mut command = process::prepare(&self.program, "parameters", &descriptors);
        command.args(&self.arguments);
        match command.spawn().and_then(Process::of_child) {
            Ok(process) => self.process = Some(process),
            Err(error) => tracing::warn!(%error, "Odoo's system parameters cannot be read"),
        }
    }

    /// What to wait for before the next look at it.
    pub(super) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.process.as_ref().map(Process::as_fd)
    }

    /// Starts it again if it has ended.
    pub(super) fn look(&mut self) {
        if let Some(mut process) = self.process.take_if(|process| process.has_ended()) {
            let status = process.status();
            let by_itself = status.is_some_and(|status| status.success());
            if !by_itself && !self.complained {
                let status = status.map(|status| status.to_string());
                tracing::warn!(
                    status,
                    "the process that reads Odoo's system parameters has ended; it is started again"
                );
            }
            self.complained = !by_itself;
        }
        if self.process.is_none() && self.started.elapsed() >= START_EVERY {
            self.spawn();
        }
    }

    /// Ends it.
    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill_within(Duration::from_millis(100));
        }
    }
}
