//! The file, or the socket, that takes the trail's lines. It was opened by the keeper; a thread of its own writes, so
//! that a slow disk keeps nobody waiting but the outbox.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{SockType, getsockopt, sockopt};
use tokio::sync::oneshot;

/// How many batches wait. Whoever writes waits for each, so there is one, and one of a server's own.
const WAITING: usize = 8;
/// How often a failure is told.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// A socket that takes nothing for so long has failed.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(5);

/// Hands lines to the thread. With the last handle it ends.
pub(crate) struct File {
    batches: SyncSender<Batch>,
}

struct Batch {
    lines: Vec<Vec<u8>>,
    written: oneshot::Sender<bool>,
}

impl File {
    /// One that grows up to that size.
    pub(crate) fn open(descriptor: OwnedFd, max_bytes: u64) -> io::Result<Self> {
        let mut sink = Sink::of(descriptor, max_bytes)?;
        let (batches, waiting) = sync_channel(WAITING);
        thread::Builder::new().name("trail".to_owned()).spawn(move || sink.write_all(&waiting))?;
        Ok(Self { batches })
    }

    /// Writes these lines; `false` if that failed, or too much is waiting.
    pub(crate) async fn write(&self, lines: Vec<Vec<u8>>) -> bool {
        let (written, outcome) = oneshot::channel();
        let is_sent = self.batches.try_send(Batch { lines, written }).is_ok();
        is_sent && outcome.await.unwrap_or(false)
    }
}

enum Sink {
    File {
        file: std::fs::File,
        max_bytes: u64,
        /// What was written last ends within a line.
        is_torn: bool,
    },
    Datagrams(UnixDatagram),
    Stream {
        stream: UnixStream,
        /// The same.
        is_torn: bool,
    },
}

impl Sink {
    fn of(descriptor: OwnedFd, max_bytes: u64) -> io::Result<Self> {
        Ok(match getsockopt(&descriptor, sockopt::SockType) {
            Err(_) => {
                let file = std::fs::File::from(descriptor);
                // What was written before may end within a line, and an empty line is none.
                let is_torn = file.metadata().is_ok_and(|found| found.is_file() && found.len() > 0);
                Self::File { file, max_bytes, is_torn }
            }
            Ok(SockType::Datagram) => {
                let socket = UnixDatagram::from(descriptor);
                socket.set_write_timeout(Some(SOCKET_TIMEOUT))?;
                Self::Datagrams(socket)
            }
            Ok(_) => {
                let stream = UnixStream::from(descriptor);
                stream.set_write_timeout(Some(SOCKET_TIMEOUT))?;
                Self::Stream { stream, is_torn: false }
            }
        })
    }

    fn write_all(&mut self, waiting: &Receiver<Batch>) {
        let mut told: Option<Instant> = None;
        while let Ok(Batch { lines, written }) = waiting.recv() {
            let outcome = self.write(&lines);
            if let Err(error) = &outcome
                && told.is_none_or(|told| told.elapsed() >= TOLD_EVERY)
            {
                told = Some(Instant::now());
                tracing::error!(
                    event = "trail_not_written",
                    %error,
                    "the audit trail is not written; its entries wait in Redis"
                );
            }
            if outcome.is_ok() && told.take().is_some() {
                tracing::info!(event = "trail_written", "the audit trail is written again");
            }
            // Whoever gave it up writes it again.
            let _ = written.send(outcome.is_ok());
        }
    }

    fn write(&mut self, lines: &[Vec<u8>]) -> io::Result<()> {
        match self {
            Self::File { file, max_bytes, is_torn } => {
                let bytes = lines.concat();
                if file.metadata()?.len().saturating_add(bytes.len() as u64) > *max_bytes {
                    return Err(io::Error::other(
                        "it is full (audit.trail_max); rotate it, and reload",
                    ));
                }
                write_whole(file, &bytes, is_torn)?;
                // Of what cannot be synced (a pipe) nothing more can be said.
                match file.sync_data() {
                    Err(error) if error.raw_os_error() != Some(libc::EINVAL) => Err(error),
                    _ => Ok(()),
                }
            }
            Self::Datagrams(socket) => {
                lines.iter().try_for_each(|line| socket.send(line).map(|_| ()))
            }
            Self::Stream { stream, is_torn } => write_whole(stream, &lines.concat(), is_torn),
        }
    }
}

/// Writes all of it. After a failure the next line begins as one.
fn write_whole(sink: &mut impl io::Write, bytes: &[u8], is_torn: &mut bool) -> io::Result<()> {
    if *is_torn {
        sink.write_all(b"\n")?;
    }
    *is_torn = true;
    sink.write_all(bytes)?;
    *is_torn = false;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn lines(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| format!("{text}\n").into_bytes()).collect()
    }

    #[tokio::test]
    async fn lines_are_appended_until_it_is_full() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || {
            let options = std::fs::File::options().append(true).open(file.path());
            File::open(options.unwrap().into(), 12).unwrap()
        };
        let trail = open();
        assert!(trail.write(lines(&["one", "two"])).await);
        assert!(!trail.write(lines(&["three"])).await);
        // Whoever rotates it by copying makes room.
        std::fs::File::options().write(true).open(file.path()).unwrap().set_len(0).unwrap();
        assert!(trail.write(lines(&["three"])).await);
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "three\n");
    }

    #[tokio::test]
    async fn a_stream_and_a_datagram_socket_take_lines() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let trail = File::open(ours.into(), 0).unwrap();
        assert!(trail.write(lines(&["one", "two"])).await);
        let mut read = [0; 8];
        theirs.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"one\ntwo\n");
        drop(theirs);
        assert!(!trail.write(lines(&["three"])).await);

        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let trail = File::open(ours.into(), 0).unwrap();
        assert!(trail.write(lines(&["one", "two"])).await);
        let mut read = [0; 16];
        assert_eq!(theirs.recv(&mut read).unwrap(), 4);
        assert_eq!(theirs.recv(&mut read).unwrap(), 4);
    }

    #[test]
    fn after_a_torn_line_the_next_one_begins_as_one() {
        struct Full(Vec<u8>);
        impl io::Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if self.0.len() == 2 {
                    self.0.push(b'.');
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let taken = if self.0.is_empty() { 2 } else { bytes.len() };
                self.0.extend_from_slice(&bytes[..taken]);
                Ok(taken)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut sink, mut is_torn) = (Full(Vec::new()), false);
        assert!(write_whole(&mut sink, b"one\n", &mut is_torn).is_err());
        assert!(write_whole(&mut sink, b"one\n", &mut is_torn).is_ok());
        assert_eq!(sink.0, b"on.\none\n");
    }
}
