//! Starting the disk server: by the keeper for a worker, by `import` for itself.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::keeper::notify;
use crate::keeper::process::{self, Process};

/// What a disk server is to serve.
#[derive(Clone, Copy, Debug)]
pub struct Served<'a> {
    /// The directory.
    pub root: BorrowedFd<'a>,
    /// Where retired files go; without it they are deleted.
    pub aside: Option<BorrowedFd<'a>>,
    /// Whose the written files are: user and group.
    pub owner: (u32, u32),
    /// A longer file is no session.
    pub session_max_bytes: u64,
}

/// Starts a program (this same one, or its successor) as a disk server; also gives the end to ask it by.
pub fn start(program: &Path, served: Served<'_>) -> io::Result<(Process, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair()?;
    let (uid, gid) = served.owner;
    let mut descriptors = vec![("--socket-fd", theirs.as_fd()), ("--root-fd", served.root)];
    descriptors.extend(served.aside.map(|aside| ("--aside-fd", aside)));
    let inherited: Vec<RawFd> = descriptors.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
    let mut command = Command::new(program);
    notify::keep_from(&mut command)
        .arg0("sessionfs")
        .arg("disk")
        .args(
            descriptors
                .iter()
                .flat_map(|(flag, fd)| [(*flag).to_owned(), fd.as_raw_fd().to_string()]),
        )
        .args(["--owner-uid", &uid.to_string(), "--owner-gid", &gid.to_string()])
        .args(["--session-max-bytes", &served.session_max_bytes.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .current_dir("/")
        // It ends with who asks it, not by a Ctrl-C of its own.
        .process_group(0);
    // SAFETY: between fork and exec this only makes system calls, which are async-signal-safe, on
    // descriptors that stay open until `spawn` has returned.
    unsafe {
        command.pre_exec(move || process::inherit_only(&inherited));
    }
    let process = command.spawn().and_then(Process::of_child)?;
    Ok((process, ours.into()))
}
