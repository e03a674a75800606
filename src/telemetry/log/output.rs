//! Standard error, which holds nobody for long: its reader may have stopped to read (the journal, the runtime of a
//! container, a terminal), and a thread may be stuck while it writes. Then lines are lost, and requests go on.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sync::lock;

/// How long a line may wait. Those that follow do not wait, until one can be written again.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);
/// What pipe(7) (`PIPE_BUF`) takes in one piece. A pipe or a socket that can be written to has room for so much.
const PIECE_MAX: usize = 4096;

/// A descriptor that one thread at a time writes to.
pub(super) struct Output<D> {
    descriptor: D,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    /// A thread writes.
    busy: bool,
    /// The last line could not be written in time.
    late: bool,
}

impl<D: AsFd> Output<D> {
    pub(super) fn new(descriptor: D) -> Self {
        Self { descriptor, state: Mutex::default(), freed: Condvar::new() }
    }

    fn write_until(&self, mut bytes: &[u8], end: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            let descriptor = self.descriptor.as_fd();
            let left = end.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(descriptor, PollFlags::POLLOUT)], left) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            match nix::unistd::write(descriptor, &bytes[..bytes.len().min(PIECE_MAX)]) {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

impl<D: AsFd> io::Write for &Output<D> {
    /// Writes all of it, or fails when that takes too long.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let state = lock(&self.state);
        let within = if state.late { Duration::ZERO } else { WRITTEN_WITHIN };
        let end = Instant::now() + within;
        let waited = self.freed.wait_timeout_while(state, within, |state| state.busy);
        let (mut state, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.busy {
            state.late = true;
            return Err(io::ErrorKind::TimedOut.into());
        }
        state.busy = true;
        drop(state);
        let written = self.write_until(bytes, end);
        let mut state = lock(&self.state);
        *state = State { busy: false, late: written.is_err() };
        drop(state);
        self.freed.notify_one();
        written.map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn who_does_not_read_costs_lines_and_not_time() {
        let (mut reader, writer) = io::pipe().unwrap();
        let output = Output::new(writer);
        let mut taken = 0;
        let began = Instant::now();
        while (&output).write_all(&[b'x'; 10_000]).is_ok() {
            taken += 1;
        }
        for _ in 0..100 {
            assert!((&output).write_all(b"lost").is_err());
        }
        assert!(began.elapsed() < 20 * WRITTEN_WITHIN, "each line has waited");
        let mut read = vec![0; taken * 10_000];
        reader.read_exact(&mut read).unwrap();
        while (&output).write_all(b"again").is_err() {
            let _ = reader.read(&mut read).unwrap();
        }
    }

    #[test]
    fn a_thread_that_is_stuck_while_it_writes_holds_no_other() {
        let output = Output::new(io::stderr());
        lock(&output.state).busy = true;
        for _ in 0..100 {
            let failure = (&output).write_all(b"x").unwrap_err();
            assert_eq!(failure.kind(), io::ErrorKind::TimedOut);
        }
    }
}
