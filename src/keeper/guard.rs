//! The guard: a process that ends the connection to the kernel when the keeper is gone.
//!
//! The kernel ends a connection when the last descriptor of it is closed. A thread that is killed closes nothing while
//! it waits in the kernel for a caller of the mount: and who waits for an answer that was begun on is not woken before
//! the connection ends (`request_wait_answer` in fs/fuse/dev.c). The thread of a worker that asks the kernel to forget
//! entries may wait like that, as it takes the directory's lock, which a caller may hold. So both would wait for ever.
//! Taking an entry's time instead does not help: the kernel keeps what is out of date, too (`delete_stale` is set by
//! virtiofs alone).
//!
//! The guard has nothing open but the keeper. Under a service manager there is none: the next keeper goes on.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::process::Stdio;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::exit::Failure;
use crate::host::mount::{end_connection, mounted};
use crate::host::process::{self, Process};
use crate::host::service_manager::Manager;

/// The guard of one filesystem. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Guard {
    filesystem: String,
    /// `None` if there is none, or it could not be started.
    _process: Option<Process>,
}

impl Guard {
    /// Of the filesystem of that device number, which is mounted there.
    pub(super) fn start(mountpoint: &Path, filesystem: &str) -> Self {
        let process = (!Manager::is_there()).then(|| launch(mountpoint, filesystem)).transpose();
        let process = process.unwrap_or_else(|error| {
            tracing::warn!(%error, "if this process is killed, callers of the mount may wait for ever");
            None
        });
        Self { filesystem: filesystem.to_owned(), _process: process }
    }

    /// Which filesystem it guards.
    pub(super) fn filesystem(&self) -> &str {
        &self.filesystem
    }
}

fn launch(mountpoint: &Path, filesystem: &str) -> io::Result<Process> {
    let keeper = Process::found(i32::try_from(std::process::id()).map_err(io::Error::other)?)?;
    let descriptors = [("--keeper-fd", keeper.as_fd())];
    let mut command = process::prepare(Path::new("/proc/self/exe"), "guard", &descriptors);
    command.arg("--filesystem").arg(filesystem).arg(mountpoint).stderr(Stdio::null());
    command.spawn().and_then(Process::of_child)
}

/// The guard's own process: waits for the keeper's end, and then ends the connection, if the filesystem is still mounted.
pub(crate) fn serve(
    keeper: BorrowedFd<'_>,
    mountpoint: &Path,
    filesystem: &str,
) -> Result<(), Failure> {
    loop {
        match poll(&mut [PollFd::new(keeper, PollFlags::POLLIN)], PollTimeout::NONE) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(Failure::internal("wait for the keeper", error)),
        }
    }
    // Another keeper may have mounted there meanwhile.
    if mounted(mountpoint).is_some_and(|found| found.is_ours() && found.device == filesystem) {
        end_connection(mountpoint)?;
    }
    Ok(())
}
