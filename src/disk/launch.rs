//! Starting the disk server: by the keeper for a worker, by `import` for itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::host::process::{self, Process};

/// What a disk server is to serve.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served<'a> {
    pub root: Root<'a>,
    /// Where imported files go.
    pub archive: Archive<'a>,
    /// Whose the files are: user and group ([`super::directory::Directory::owner`]).
    pub owner: Option<(u32, u32)>,
    /// A longer file is no session.
    pub session_max_bytes: u64,
}

/// Which directory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Root<'a> {
    Opened(BorrowedFd<'a>),
    /// The one beneath a filesystem of ours that is mounted there.
    Beneath(&'a Path),
    /// A mirror, which is made if it is not there.
    Mirror(&'a Path),
}

/// Which archive.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Archive<'a> {
    /// None: imported files are deleted.
    None,
    Opened(BorrowedFd<'a>),
    /// The one beside this directory, if there are session files.
    Beside(&'a Path),
}

/// Starts a program (this same one, or its successor) as a disk server; also gives the end to ask it by. Nothing is
/// waited for: it opens what it serves itself.
pub(crate) fn start(program: &Path, served: Served<'_>) -> io::Result<(Process, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut descriptors = vec![("--socket-fd", theirs.as_fd())];
    let mut paths = Vec::new();
    match served.root {
        Root::Opened(root) => descriptors.push(("--root-fd", root)),
        Root::Beneath(mountpoint) => paths.push(("--beneath", mountpoint)),
        Root::Mirror(dir) => paths.push(("--mirror", dir)),
    }
    match served.archive {
        Archive::None => {}
        Archive::Opened(archive) => descriptors.push(("--archive-fd", archive)),
        Archive::Beside(dir) => paths.push(("--archive-beside", dir)),
    }
    let mut command = process::prepare(program, "disk", &descriptors);
    for (flag, path) in paths {
        command.arg(flag).arg(path);
    }
    if let Some((uid, gid)) = served.owner {
        command.args(["--owner-uid", &uid.to_string(), "--owner-gid", &gid.to_string()]);
    }
    command.args(["--session-max-bytes", &served.session_max_bytes.to_string()]);
    let process = command.spawn().and_then(Process::of_child)?;
    Ok((process, ours.into()))
}
