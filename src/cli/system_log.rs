//! A line in the log of the host where a command is typed (syslog, or the journal) that says who
//! typed what: what changes sessions or settings is asked for later.

use std::io::{self, ErrorKind, IsTerminal as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use super::output::visible;

/// Where syslog listens, and the journal in its place.
const SOCKET: &str = "/dev/log";
/// Facility `authpriv`, severity `notice`: what is kept from other users' eyes.
const PRIORITY: u8 = 10 << 3 | 5;

/// Notes what was done. A host without such a log has no such line, and a log that takes none does
/// not keep the command from its work.
pub(super) fn note(what: &str) {
    match send(Path::new(SOCKET), &entry(what, &who())) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            anstream::eprintln!("sessionfs: cannot write to the system log ({SOCKET}): {error}");
        }
        _ => {}
    }
}

fn send(socket: &Path, text: &str) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to(text.as_bytes(), socket).map(|_| ())
}

fn entry(what: &str, who: &str) -> String {
    const TEXT_CHARS: usize = 900;
    let text = visible(&format!("{what}, by {who}"), TEXT_CHARS);
    format!("<{PRIORITY}>sessionfs[{}]: {text}", std::process::id())
}

/// Who typed the command: the user, whom sudo knows it by, and the terminal.
pub(super) fn who() -> String {
    const NAME_CHARS: usize = 64;
    let uid = nix::unistd::getuid();
    let mut who = match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => format!("user {uid}"),
    };
    if let Ok(name) = std::env::var("SUDO_USER") {
        who = format!("{who} (sudo: {})", visible(&name, NAME_CHARS));
    }
    let (stdin, stderr) = (io::stdin(), io::stderr());
    match terminal(stdin.as_fd()).or_else(|| terminal(stderr.as_fd())) {
        Some(terminal) => format!("{who} on {terminal}"),
        None => format!("{who} without a terminal"),
    }
}

/// The name of the terminal that is behind it, if one is.
fn terminal(descriptor: BorrowedFd<'_>) -> Option<String> {
    let link = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let path = descriptor.is_terminal().then(|| std::fs::read_link(link))?;
    path.ok().map(|path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_one_line_for_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("log");
        let listener = UnixDatagram::bind(&socket).unwrap();
        send(&socket, &entry("kill: ended 2 sessions (--login 'a\nb')", "root (sudo: anna)"))
            .unwrap();
        let mut packet = [0; 2048];
        let length = listener.recv(&mut packet).unwrap();
        let text = String::from_utf8_lossy(&packet[..length]).into_owned();
        let expected = format!(
            "<85>sessionfs[{}]: kill: ended 2 sessions (--login 'a\\u{{a}}b'), by root (sudo: anna)",
            std::process::id()
        );
        assert_eq!(text, expected);
        let nobody = send(&directory.path().join("none"), "x").unwrap_err();
        assert_eq!(nobody.kind(), ErrorKind::NotFound);
    }
}
