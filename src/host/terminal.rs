//! The terminal on standard output, and the person at it.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use rustix::termios::{LocalModes, OptionalActions};
use zeroize::Zeroizing;

use super::signals::Interrupts;

/// How many characters a line of it has; `None` if standard output is no terminal.
pub(crate) fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then(|| size.ws_col.into())
}

/// The longest answer of a person.
const ANSWER_MAX_BYTES: usize = 1024;

/// Asks a person on their terminal for something that must not be seen. An error says why nobody could
/// be asked, or that they gave up ([`io::ErrorKind::Interrupted`]).
pub(crate) fn ask_secret(question: &str) -> io::Result<Zeroizing<String>> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    let before = rustix::termios::tcgetattr(&terminal)?;
    let mut silent = before.clone();
    // Read key by key, Ctrl-C among them, and signals are noted: whatever happens, the terminal is put back.
    let _interrupts = Interrupts::note();
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    rustix::termios::tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
    let answer =
        terminal.write_all(question.as_bytes()).and_then(|()| read_keys(Waiting(&terminal)));
    rustix::termios::tcsetattr(&terminal, OptionalActions::Flush, &before)?;
    terminal.write_all(b"\n")?;
    let answer = answer?;
    let text = std::str::from_utf8(&answer).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// A terminal that is waited for until a signal asks for the end.
struct Waiting<'a>(&'a File);

impl Read for Waiting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        const LOOK_EVERY_MS: u16 = 100;
        loop {
            if Interrupts::noted() {
                // Not `Interrupted`, which is tried again.
                return Err(io::Error::other("ended by a signal"));
            }
            let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, LOOK_EVERY_MS) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return self.0.read(buffer),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What is typed until the line ends.
fn read_keys(mut terminal: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    const BACKSPACES: [u8; 2] = [8, 127];
    // Never moved, or a part of it would be left behind.
    let mut typed = Zeroizing::new(Vec::with_capacity(ANSWER_MAX_BYTES));
    loop {
        let mut key = [0];
        terminal.read_exact(&mut key)?;
        match key[0] {
            b'\r' | b'\n' => return Ok(typed),
            CTRL_C | CTRL_D => return Err(io::ErrorKind::Interrupted.into()),
            key if BACKSPACES.contains(&key) => drop(typed.pop()),
            _ if typed.len() == ANSWER_MAX_BYTES => return Err(io::ErrorKind::InvalidInput.into()),
            key => typed.push(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_taken_until_the_line_ends() {
        let typed = |keys: &[u8]| read_keys(keys).map(|typed| typed.to_vec());
        assert_eq!(typed(b"ab\x7fc\rmore").unwrap(), b"ac");
        assert_eq!(typed(b"\x08a\n").unwrap(), b"a");
        assert_eq!(typed(b"a\x03\n").unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert_eq!(typed(b"a").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let long = [b'a'; ANSWER_MAX_BYTES + 1];
        assert_eq!(typed(&long).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
