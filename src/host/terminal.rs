//! The terminal on standard output, and the person at it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions};
use zeroize::Zeroizing;

/// How many characters a line of it has; `None` if standard output is no terminal.
pub(crate) fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then(|| size.ws_col.into())
}

/// Asks a person on their terminal for something that must not be seen, which may not be longer than
/// a few hundred characters. An error says why nobody could be asked, or that they gave up.
pub(crate) fn ask_secret(question: &str) -> io::Result<Zeroizing<String>> {
    const LENGTH_MAX_BYTES: usize = 1024;
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    terminal.write_all(question.as_bytes())?;
    let before = rustix::termios::tcgetattr(&terminal)?;
    let mut silent = before.clone();
    // Read key by key, Ctrl-C among them: whatever happens, the terminal is put back below.
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    rustix::termios::tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
    let mut typed = Zeroizing::new(Vec::with_capacity(LENGTH_MAX_BYTES));
    let ended = loop {
        let mut key = [0];
        match terminal.read(&mut key) {
            Ok(0) => break Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Err(error) => break Err(error),
            Ok(_) => match key[0] {
                b'\r' | b'\n' => break Ok(()),
                // Ctrl-C and Ctrl-D.
                3 | 4 => break Err(io::Error::from(io::ErrorKind::Interrupted)),
                8 | 127 => drop(typed.pop()),
                _ if typed.len() == LENGTH_MAX_BYTES => {
                    break Err(io::Error::from(io::ErrorKind::InvalidInput));
                }
                key => typed.push(key),
            },
        }
    };
    rustix::termios::tcsetattr(&terminal, OptionalActions::Flush, &before)?;
    terminal.write_all(b"\n")?;
    ended?;
    let text = std::str::from_utf8(&typed).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Zeroizing::new(text.to_owned()))
}
