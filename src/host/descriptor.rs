//! Descriptors that another process has handed over, and those that take the place of another.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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
    let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
    // No further child is to inherit it.
    fcntl(borrowed, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).map_err(|_| by_hand())?;
    // SAFETY: it is open, was handed to this process for this purpose, and nothing else in it
    // knows the number: this is the first thing the process does.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Puts what `by` leads to in the place of what `place` leads to: whoever reads or writes by that number meets
/// the other from now on.
pub(crate) fn put_over(place: BorrowedFd<'_>, by: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both numbers are open as long as they are borrowed. The number of the first stays open, and its owner
    // goes on to own it.
    let result = unsafe { libc::dup3(by.as_raw_fd(), place.as_raw_fd(), libc::O_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
