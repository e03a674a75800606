//! The device through which the kernel asks a filesystem: what is read and written beside the requests themselves.

use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;

/// Reads one request, which is no longer than this, and has to come within a bound.
pub(crate) fn read_within(
    device: BorrowedFd<'_>,
    length_max_bytes: usize,
    bound: Duration,
) -> io::Result<Vec<u8>> {
    let until = Instant::now() + bound;
    let mut bytes = vec![0; length_max_bytes];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(device, PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        match read(device, &mut bytes) {
            Ok(length) => {
                bytes.truncate(length);
                return Ok(bytes);
            }
            Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Whether the kernel has ended the connection.
pub(crate) fn is_dead(device: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(device, PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).is_ok()
        && polled[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLERR))
}
