//! `sessionfs disk`: not for people. Started by the keeper or by `import` with its descriptors;
//! touches session files for those who have no right to.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use crate::disk::directory::Directory;
use crate::disk::server::{self, Opened};
use crate::disk::{mirror, opened};
use crate::exit::{ExitCode, Failure};
use crate::host::confine::{self, Files, Right};
use crate::host::{descriptor, signals};

/// The process that touches session files on a disk; started by `mount` and `import`
#[derive(clap::Args, Debug)]
pub(super) struct Disk {
    /// The conversation with the client
    #[arg(long)]
    socket_fd: RawFd,
    /// The directory
    #[arg(long, required_unless_present_any = ["beneath", "mirror"])]
    root_fd: Option<RawFd>,
    /// The directory beneath what is mounted there
    #[arg(long, value_name = "DIR", conflicts_with = "root_fd")]
    beneath: Option<PathBuf>,
    /// The directory of a mirror; made if it is not there
    #[arg(long, value_name = "DIR", conflicts_with_all = ["root_fd", "beneath"], requires = "owner_uid")]
    mirror: Option<PathBuf>,
    /// Where imported files go
    #[arg(long)]
    archive_fd: Option<RawFd>,
    /// They go beside this directory
    #[arg(long, value_name = "DIR", conflicts_with = "archive_fd")]
    archive_beside: Option<PathBuf>,
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
        // Who ends a whole service sends its signal to all at once; this one ends with its asker.
        signals::block()?;
        confine::end_with_parent()?;
        let given = Given {
            root: self.root_fd.map(descriptor::take).transpose()?,
            archive: self.archive_fd.map(descriptor::take).transpose()?,
        };
        let opened = self.open(given);
        let directory = opened.as_ref().ok();
        let root = directory.map(|directory| directory.root.as_fd());
        let archive = directory.and_then(|directory| Some(directory.archive.as_ref()?.as_fd()));
        let files = root
            .into_iter()
            .chain(archive)
            .try_fold(Files::default().with_moves(), |files, opened| {
                files.descriptor(opened, Right::Own)
            })
            .map_err(|e| Failure::internal("confine itself", e))?;
        confine::become_disk_server(&files)?;
        server::serve(&opened, UnixStream::from(socket))
            .map_err(|e| Failure::internal("serve session files", e))
    }

    /// Opens what was not given. That may take as long as the disk wants.
    fn open(&self, given: Given) -> Opened {
        let owner = self.owner_uid.zip(self.owner_gid);
        let root = match (given.root, &self.beneath, self.mirror.as_ref().zip(owner)) {
            (Some(root), ..) => root,
            (None, Some(mountpoint), _) => opened::beneath(mountpoint)?,
            (None, None, Some((dir, owner))) => mirror::make_or_open(dir, owner)?,
            (None, None, None) => return Err(by_hand().into()),
        };
        let archive = match (given.archive, &self.archive_beside) {
            (None, Some(dir)) => opened::archive_beside(dir, root.as_fd())?,
            (given, _) => given,
        };
        Ok(Directory { root, archive, owner, session_max_bytes: self.session_max_bytes })
    }
}

/// What whoever has started it has opened.
struct Given {
    root: Option<OwnedFd>,
    archive: Option<OwnedFd>,
}

fn by_hand() -> Failure {
    Failure::new(ExitCode::Usage, "this command is only started by 'sessionfs mount'")
}
