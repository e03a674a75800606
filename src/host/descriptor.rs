//! Descriptors that another process has handed over.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, fcntl};

use crate::exit::{ExitCode, Failure};

/// Takes over a descriptor that was named on the command line.
pub(crate) fn take(raw: RawFd) -> Result<OwnedFd, Failure> {
    let by_hand =
        || Failure::new(ExitCode::Usage, "this command is only started by 'sessionfs mount'");
    if raw <= libc::STDERR_FILENO {
        return Err(by_hand());
    }
    // SAFETY: the number is only looked up; a closed one gives EBADF.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(raw) };
    // No further child is to inherit it.
    fcntl(borrowed, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).map_err(|_| by_hand())?;
    // SAFETY: it is open, was handed to this process for this purpose, and nothing else in it
    // knows the number: this is the first thing the process does.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
