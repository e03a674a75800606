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
const PIECE_BYTES: usize = 4096;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unanswered {
    /// The program cannot be started.
    NotStarted,
    /// It has not ended in time.
    TooLate,
    /// It says more than is taken.
    TooMuch,
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotStarted => "it cannot be started",
            Self::TooLate => "it has not ended in time",
            Self::TooMuch => "it says too much",
        })
    }
}

/// What a program says on its standard output; `None` if it cannot be started, does not end in time, or says more than
/// a mebibyte.
pub(crate) fn ask(command: &mut Command, within: Duration) -> Option<String> {
    let mut said = Vec::new();
    let take = |piece: &[u8]| said.extend_from_slice(piece);
    hear(command, within, ANSWER_MAX_BYTES, take).ok()?;
    Some(String::from_utf8_lossy(&said).into_owned())
}

/// The same for an answer that is looked at piece by piece, of at most so many bytes.
pub(crate) fn hear(
    command: &mut Command,
    within: Duration,
    most_bytes: u64,
    mut take: impl FnMut(&[u8]),
) -> Result<(), Unanswered> {
    let until = Instant::now() + within;
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.map_err(|_| Unanswered::NotStarted)?;
    let Some(mut out) = child.stdout.take() else { return Err(Unanswered::NotStarted) };
    let mut left_bytes = most_bytes;
    let heard = loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut polled = [PollFd::new(out.as_fd(), PollFlags::POLLIN)];
        if !poll(&mut polled, left).is_ok_and(|ready| ready > 0) {
            break Err(Unanswered::TooLate);
        }
        let mut piece = [0; PIECE_BYTES];
        match out.read(&mut piece) {
            Ok(0) => break Ok(()),
            Ok(length) => match left_bytes.checked_sub(length as u64) {
                Some(left) => {
                    left_bytes = left;
                    take(&piece[..length]);
                }
                None => break Err(Unanswered::TooMuch),
            },
            Err(_) => break Err(Unanswered::TooLate),
        }
    };
    if heard.is_ok() {
        // It has closed its output, so it is ending.
        let _ = child.wait();
        return heard;
    }
    // One that waits for a filesystem ends when that does; it is not waited for.
    let _ = child.kill();
    let _ = child.try_wait();
    heard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_not_whole_is_none_and_says_why() {
        let hear = |program: &str, argument: &str| {
            let mut length = 0;
            let within = Duration::from_secs(5);
            let mut command = Command::new(program);
            hear(command.arg(argument), within, 6, |piece| length += piece.len()).map(|()| length)
        };
        assert_eq!(hear("echo", "hello"), Ok(6));
        assert_eq!(hear("echo", "hello!"), Err(Unanswered::TooMuch));
        assert_eq!(hear("/none/echo", "hello"), Err(Unanswered::NotStarted));
        let late =
            super::hear(Command::new("sleep").arg("9"), Duration::from_millis(10), 6, |_| {});
        assert_eq!(late, Err(Unanswered::TooLate));
    }
}
