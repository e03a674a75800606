//! `sessionfs disk`: not for people. Started by the keeper or by `import` with its descriptors;
//! touches session files for those who have no right to.

use std::os::fd::{AsFd, RawFd};
use std::os::unix::net::UnixStream;

use crate::disk::directory::Directory;
use crate::disk::server;
use crate::exit::Failure;
use crate::host::confine::{self, Files, Right};
use crate::host::{descriptor, signals};

/// The process that touches session files on a disk; started by `mount` and `import`
#[derive(clap::Args, Debug)]
pub(super) struct Disk {
    /// The conversation with the client
    #[arg(long)]
    socket_fd: RawFd,
    /// The directory
    #[arg(long)]
    root_fd: RawFd,
    /// Where imported files go
    #[arg(long)]
    archive_fd: Option<RawFd>,
    /// Whose the files are; not given for a directory that only root can write to
    #[arg(long, requires = "owner_gid")]
    owner_uid: Option<u32>,
    /// And their group
    #[arg(long)]
    owner_gid: Option<u32>,
    /// A longer file is no session
    #[arg(long)]
    session_max_bytes: u64,
}

impl Disk {
    /// Serves until nobody asks any more.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let socket = descriptor::take(self.socket_fd)?;
        let directory = Directory {
            root: descriptor::take(self.root_fd)?,
            archive: self.archive_fd.map(descriptor::take).transpose()?,
            owner: self.owner_uid.zip(self.owner_gid),
            session_max_bytes: self.session_max_bytes,
        };
        let opened = [Some(&directory.root), directory.archive.as_ref()].into_iter().flatten();
        let files = opened
            .map(AsFd::as_fd)
            .try_fold(Files::default().with_moves(), |files, opened| {
                files.descriptor(opened, Right::Own)
            })
            .map_err(|e| Failure::internal("confine itself", e))?;
        confine::become_disk_server(&files)?;
        // Who ends a whole service sends its signal to all at once; this one ends with its asker.
        signals::block()?;
        server::serve(&directory, UnixStream::from(socket))
            .map_err(|e| Failure::internal("serve session files", e))
    }
}
