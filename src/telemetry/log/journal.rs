//! The journal of systemd, where it reads standard error: it has a time of its own for each line,
//! and takes a line's priority from its beginning (sd-daemon(3)).

use std::os::fd::BorrowedFd;

use tracing::Level;

/// Whether the journal reads what is written there. The variable alone says little: whoever
/// starts a program under systemd may send its standard error elsewhere.
pub(super) fn is_behind(descriptor: BorrowedFd<'_>) -> bool {
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| is_stream(&stream, descriptor))
}

/// `stream` is `DEVICE:INODE`, as systemd.exec(5) has it.
fn is_stream(stream: &str, descriptor: BorrowedFd<'_>) -> bool {
    let numbers = stream.split_once(':').and_then(|(device, inode)| {
        Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
    });
    let found = nix::sys::stat::fstat(descriptor).ok();
    numbers.is_some() && numbers == found.map(|found| (found.st_dev, found.st_ino))
}

/// syslog's number for a level.
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn only_the_stream_that_is_named_is_the_journals() {
        let (read, write) = std::io::pipe().unwrap();
        let found = nix::sys::stat::fstat(write.as_fd()).unwrap();
        let stream = format!("{}:{}", found.st_dev, found.st_ino);
        assert!(is_stream(&stream, write.as_fd()));
        let (_other, elsewhere) = std::io::pipe().unwrap();
        assert!(!is_stream(&stream, elsewhere.as_fd()));
        for text in ["", ":", "9", "a:b", "9:"] {
            assert!(!is_stream(text, read.as_fd()), "{text}");
        }
    }
}
