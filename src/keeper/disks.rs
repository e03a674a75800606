//! The processes that touch session files on disks for a worker: of the underlying directory, and
//! of the mirror.

use std::os::fd::OwnedFd;

use super::mirror;
use super::program::Program;
use crate::config::Config;
use crate::disk::launch::{self, Archive, Root, Served};
use crate::exit::Failure;
use crate::host::process::{self, Process};

/// So many that were killed may be held by their disk. With more, a worker does without.
const HELD_MAX: usize = 8;

/// Started, and not yet handed to the worker.
pub(super) struct Disks {
    /// The processes. They end with the worker, or before it.
    pub processes: Vec<Process>,
    /// How to ask each, and the flag that names it to the worker.
    pub sockets: Vec<(&'static str, OwnedFd)>,
}

impl Disks {
    /// Starts them. They open the directories, and the worker hears whether they could: a disk that does not answer
    /// holds nobody who starts a worker.
    ///
    /// The underlying directory is served even if it is empty: until the mount is in its place Odoo may save a session
    /// there. (Only such a late one is deleted once it is imported; there is no archive for it.)
    ///
    /// The `first` start fails if a directory cannot be used. A later one does without what needs
    /// it: a mount is worth more than a mirror, and than sessions that nobody has asked for so far.
    pub(super) fn start(
        program: &Program,
        config: &Config,
        first: bool,
        underlying: Root<'_>,
    ) -> Result<Self, Failure> {
        let mut disks = Self { processes: Vec::new(), sockets: Vec::new() };
        if process::unended() >= HELD_MAX {
            let failure = Failure::internal(
                "start the process that reads session files",
                format!("{HELD_MAX} earlier ones do not end; see the disk that they are on"),
            );
            if first {
                return Err(failure);
            }
            tracing::error!(%failure, "session files of the underlying directory and the mirror are left alone");
            return Ok(disks);
        }
        let archive = Archive::Beside(&config.mountpoint);
        disks.add("--underlying-fd", program, config, underlying, archive)?;
        let Some(dir) = &config.mirror else { return Ok(disks) };
        match mirror::refuse_place(dir, config) {
            Ok(()) => {
                disks.add("--mirror-fd", program, config, Root::Mirror(dir), Archive::None)?;
            }
            Err(failure) if first => return Err(failure),
            Err(failure) => tracing::error!(
                %failure, "the mirror is not written; correct the cause and run 'sessionfs reload'"
            ),
        }
        Ok(disks)
    }

    fn add(
        &mut self,
        flag: &'static str,
        program: &Program,
        config: &Config,
        root: Root<'_>,
        archive: Archive<'_>,
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
