//! A session of fuser on a connection that may have been served before.
//!
//! fuser wants to see the kernel's first request, which comes once in the life of a connection. So it is played to
//! fuser over a socket pair. fuser's answer is passed on to the kernel, and then the device takes the place of
//! fuser's end of the pair.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use fuser::{Filesystem, Session, SessionACL};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use super::wire::Init;
use crate::host::descriptor::put_over;

/// fuser's answer to INIT is shorter.
const ANSWER_MAX_BYTES: usize = 4096;

/// A session that serves `device`.
pub(super) fn begin<F: Filesystem>(
    filesystem: F,
    device: BorrowedFd<'_>,
    init: &Init,
    config: fuser::Config,
) -> io::Result<Session<F>> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    send(ours.as_raw_fd(), init.bytes(), MsgFlags::MSG_NOSIGNAL)?;
    let session = Session::from_fd(filesystem, theirs, SessionACL::All, config)?;
    let mut answer = [0; ANSWER_MAX_BYTES];
    // It is there: fuser writes it before it returns.
    let length = recv(ours.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
    match nix::unistd::write(device, &answer[..length]) {
        // ENOENT: the kernel has had the answer of a worker before this one.
        Ok(_) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    put_over(session.as_fd(), device)?;
    Ok(session)
}
