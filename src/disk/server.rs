//! The process: one request after the other, until nobody asks any more.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::Place;
use super::directory::{Directory, Found, Look, Take};
use super::opened::NotServed;
use super::wire::{self, Answer, Request};

/// The directory, or why there is none to serve.
pub(crate) type Opened = Result<Directory, NotServed>;

/// Names sent at once.
const NAMES_BYTES: usize = 256 * 1024;
/// Answers to requests that have come together are sent together, up to this.
const ANSWERS_BYTES: usize = 64 * 1024;
/// And no later than this after the ones before.
const ANSWERED_WITHIN: Duration = Duration::from_millis(100);

/// Serves until the other side closes its end. One that is killed does so in the middle of a request
/// or of an answer, which is no error.
pub(crate) fn serve(opened: &Opened, mut socket: UnixStream) -> io::Result<()> {
    match converse(opened, &mut socket) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
            ) =>
        {
            Ok(())
        }
        ended => ended,
    }
}

/// Answers one request after the other. Ends with the error of the socket, and never by one of a
/// file.
fn converse(opened: &Opened, socket: &mut UnixStream) -> io::Result<()> {
    let mut requests = BufReader::new(socket.try_clone()?);
    let mut answers = BufWriter::with_capacity(ANSWERS_BYTES, socket);
    let mut sent_at = Instant::now();
    loop {
        // Whoever has sent no more waits for what is answered; on a slow disk, others do, too.
        if requests.buffer().is_empty() || sent_at.elapsed() >= ANSWERED_WITHIN {
            answers.flush()?;
            sent_at = Instant::now();
        }
        let (request, body) = next(&mut requests)?;
        let directory = match opened {
            Ok(directory) => directory,
            Err(why) => {
                send(&mut answers, &Answer::NotServed(why.clone()), &[])?;
                continue;
            }
        };
        if matches!(request, Request::List) {
            list(directory, &mut answers)?;
            continue;
        }
        let (answer, bytes) = answer(directory, request, body);
        send(&mut answers, &answer, &bytes)?;
    }
}

fn next(requests: &mut impl Read) -> io::Result<(Request, Vec<u8>)> {
    let mut prefix = [0; wire::PREFIX_BYTES];
    requests.read_exact(&mut prefix)?;
    let (head, body) = wire::lengths(prefix)?;
    let mut bytes = vec![0; head + body];
    requests.read_exact(&mut bytes)?;
    let body = bytes.split_off(head);
    Ok((wire::unpack(&bytes)?, body))
}

fn send(answers: &mut impl Write, answer: &Answer, body: &[u8]) -> io::Result<()> {
    answers.write_all(&wire::pack(answer, body)?)
}

fn list(directory: &Directory, answers: &mut impl Write) -> io::Result<()> {
    let mut names = String::new();
    let listed = directory.list(|name| {
        names.push_str(&name);
        names.push('\n');
        if names.len() >= NAMES_BYTES {
            send(answers, &Answer::Names { last: None }, names.as_bytes())?;
            names.clear();
        }
        Ok(())
    });
    match listed {
        Ok(others) => send(answers, &Answer::Names { last: Some(others) }, names.as_bytes()),
        Err(error) => send(answers, &failed(&error), &[]),
    }
}

/// Names are read anew here, by the only code that knows what a session's file is called.
fn answer(directory: &Directory, request: Request, body: Vec<u8>) -> (Answer, Vec<u8>) {
    let place = |path: &str| {
        Place::parse(path)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not the name of a session"))
    };
    let done = |result: io::Result<()>| result.map(|()| (Answer::Done, Vec::new()));
    let result = match request {
        Request::Read { path } => {
            place(&path).and_then(|place| directory.read(&place)).map(|look| match look {
                Look::Found(Found { bytes, mtime_ns, mode, inode }) => {
                    (Answer::File { mtime_ns, mode, inode }, bytes)
                }
                Look::Absent => (Answer::Absent, Vec::new()),
                Look::TooLong => (Answer::TooLong, Vec::new()),
            })
        }
        Request::Take { path, inode } => {
            place(&path).and_then(|place| directory.take(&place, inode)).map(|take| match take {
                Take::Done => (Answer::Done, Vec::new()),
                Take::Changed => (Answer::Changed, Vec::new()),
            })
        }
        Request::Retire { path } => done(place(&path).and_then(|place| directory.retire(&place))),
        Request::Write { path, mtime_ns, mode } => done(place(&path).and_then(|place| {
            directory.write(&place, &Found { bytes: body, mtime_ns, mode, inode: 0 })
        })),
        Request::Tidy => done(directory.tidy()),
        Request::Look => Ok((Answer::Done, Vec::new())),
        Request::List => Err(io::Error::other("answered elsewhere")),
    };
    result.unwrap_or_else(|error| (failed(&error), Vec::new()))
}

fn failed(error: &io::Error) -> Answer {
    Answer::Failed { why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::client::{Disk, DiskError};

    #[test]
    fn a_client_that_ends_anywhere_ends_the_service_without_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let request = wire::pack(&Request::List, &[]).unwrap();
        for sent in [&[] as &[u8], &request[..3], &request[..wire::PREFIX_BYTES], &request] {
            for has_unread in [false, true] {
                let (mut client, mut server) = UnixStream::pair().unwrap();
                if has_unread {
                    server.write_all(b"an answer").unwrap();
                }
                client.write_all(sent).unwrap();
                drop(client);
                let root = std::fs::File::open(dir.path()).unwrap().into();
                let directory =
                    Directory { root, archive: None, owner: None, session_max_bytes: 1024 };
                serve(&Ok(directory), server).unwrap();
            }
        }
    }

    #[test]
    fn who_asks_for_what_cannot_be_served_is_told_why() {
        let (client, server) = UnixStream::pair().unwrap();
        let why = NotServed::Unmovable { dir: "/srv/sessions".into(), error: "EROFS".into() };
        let opened = Err(why.clone());
        std::thread::spawn(move || serve(&opened, server).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let within = super::super::client::OPENED_WITHIN;
            let disk = Disk::connect(client.into(), within, 1, || panic!("it has ended")).unwrap();
            assert_eq!(disk.look().await, Err(DiskError::NotServed(why.clone())));
            assert_eq!(disk.list().await.unwrap_err(), DiskError::NotServed(why));
        });
    }

    #[test]
    fn what_is_no_request_is_an_error() {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        client.write_all(&wire::pack(&"nonsense", &[]).unwrap()).unwrap();
        assert_eq!(next(&mut server).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
