//! The processes that touch session files on disks for a worker: of the underlying directory, and
//! of the mirror.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::mirror;
use super::mount::Mountpoint;
use super::program::Program;
use crate::config::Config;
use crate::disk::archive;
use crate::disk::launch::{self, Served};
use crate::exit::Failure;
use crate::host::process::Process;

/// Started, and not yet handed to the worker.
pub(super) struct Disks {
    /// The processes. They end with the worker, or before it.
    pub processes: Vec<Process>,
    /// How to ask each, and the flag that names it to the worker.
    pub sockets: Vec<(&'static str, OwnedFd)>,
}

impl Disks {
    /// Starts them. The underlying directory is served even if it is empty: until the mount is in
    /// its place Odoo may save a session there. (Only such a late one is deleted once it is imported;
    /// there is no archive for it.)
    ///
    /// The `first` start fails if a directory cannot be used. A later one does without what needs
    /// it: a mount is worth more than a mirror, and than sessions that nobody has asked for so far.
    pub(super) fn start(
        program: &Program,
        config: &Config,
        first: bool,
        below: &Mountpoint,
    ) -> Result<Self, Failure> {
        let mut disks = Self { processes: Vec::new(), sockets: Vec::new() };
        let tolerated = |without: &str, failure: Failure| {
            if first {
                return Err(failure);
            }
            tracing::error!(%failure, "{without}; correct the cause and run 'sessionfs reload'");
            Ok(())
        };
        let archive =
            below.holds_sessions().then(|| archive::make_beside(&config.mountpoint)).transpose();
        match archive {
            Ok(_) if below.unmovable().is_some() => {
                let dir = config.mountpoint.display();
                let error = below.unmovable().map_or_else(String::new, |error| error.to_string());
                tracing::error!(
                    %dir, %error,
                    "session files of the underlying directory cannot be moved, so none is imported \
                     and their users have to log in again; make the directory writable and run \
                     'sessionfs reload'"
                );
            }
            Ok(archive) => {
                let archive = archive.as_ref().map(AsFd::as_fd);
                disks.add("--underlying-fd", program, config, below.as_fd(), archive)?;
            }
            // Without an archive the files would be deleted; so they stay, untouched.
            Err(failure) => {
                tolerated("session files of the underlying directory are not imported", failure)?;
            }
        }
        match config.mirror.as_ref().map(|dir| mirror::open(dir, config)).transpose() {
            Ok(None) => {}
            Ok(Some(mirror)) => {
                disks.add("--mirror-fd", program, config, mirror.as_fd(), None)?;
            }
            Err(failure) => tolerated("the mirror is not written", failure)?,
        }
        Ok(disks)
    }

    fn add(
        &mut self,
        flag: &'static str,
        program: &Program,
        config: &Config,
        root: BorrowedFd<'_>,
        archive: Option<BorrowedFd<'_>>,
    ) -> Result<(), Failure> {
        let served = Served {
            root,
            archive,
            owner: Some((config.tree.owner_uid, config.tree.owner_gid)),
            session_max_bytes: config.limits.session_bytes,
        };
        let (process, socket) = launch::start(&program.path(), served)
            .map_err(|e| Failure::internal("start the process that reads session files", e))?;
        self.processes.push(process);
        self.sockets.push((flag, socket));
        Ok(())
    }
}
