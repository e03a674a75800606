//! Starting the disk server: by the keeper for a worker, by `import` for itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::host::process::{self, Process};

/// What a disk server is to serve.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served<'a> {
    pub root: BorrowedFd<'a>,
    /// Where imported files go; without it they are deleted.
    pub archive: Option<BorrowedFd<'a>>,
    /// Whose the files are: user and group ([`super::directory::Directory::owner`]).
    pub owner: Option<(u32, u32)>,
    /// A longer file is no session.
    pub session_max_bytes: u64,
}

/// Starts a program (this same one, or its successor) as a disk server; also gives the end to ask it by.
pub(crate) fn start(program: &Path, served: Served<'_>) -> io::Result<(Process, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut descriptors = vec![("--socket-fd", theirs.as_fd()), ("--root-fd", served.root)];
    descriptors.extend(served.archive.map(|archive| ("--archive-fd", archive)));
    let mut command = process::prepare(program, "disk", &descriptors);
    if let Some((uid, gid)) = served.owner {
        command.args(["--owner-uid", &uid.to_string(), "--owner-gid", &gid.to_string()]);
    }
    command.args(["--session-max-bytes", &served.session_max_bytes.to_string()]);
    let process = command.spawn().and_then(Process::of_child)?;
    Ok((process, ours.into()))
}
