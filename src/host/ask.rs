//! A question to another program, with a bound.
//!
//! Whatever may never be answered is asked in a process of its own: a thread that waits for a
//! filesystem cannot be given up, a process can.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const ANSWER_MAX_BYTES: u64 = 1 << 20;

/// What a program says on its standard output; `None` if it cannot be started or does not end in
/// time.
pub(crate) fn ask(command: &mut Command, within: Duration) -> Option<String> {
    let until = Instant::now() + within;
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let mut out = child.stdout.take()?;
    let mut said = Vec::new();
    let complete = loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut polled = [PollFd::new(out.as_fd(), PollFlags::POLLIN)];
        if !poll(&mut polled, left).is_ok_and(|ready| ready > 0) {
            break false;
        }
        let mut piece = [0; 4096];
        match out.read(&mut piece) {
            Ok(0) => break true,
            Ok(length) if said.len() as u64 <= ANSWER_MAX_BYTES => {
                said.extend_from_slice(&piece[..length]);
            }
            _ => break false,
        }
    };
    if complete {
        // It has closed its output, so it is ending.
        let _ = child.wait();
        return Some(String::from_utf8_lossy(&said).into_owned());
    }
    // One that waits for a filesystem ends when that does; it is not waited for.
    let _ = child.kill();
    let _ = child.try_wait();
    None
}
