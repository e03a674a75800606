//! What Redis lets us in by, in files that only root can read and that may change while a worker serves:
//! the worker asks for one by its name, and the keeper reads the file and answers.
//!
//! This is a channel of its own, so that any thread of the worker may ask at any time. There is one
//! question at a time. The worker names what it wants and never a path: a worker that was taken over
//! learns no more than what it was given already.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{Channel, Received};
use crate::config::file::read_bounded;
use crate::redis::Credential as Name;
use crate::redis::credentials::LENGTH_MAX_BYTES;
use crate::sync::lock;

/// The keeper answers between two of its tasks, the longest of which is the end of a process.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[derive(Deserialize, Serialize)]
struct Answer {
    name: Name,
    /// The content of its file, in base64; or why there is none.
    content: Result<String, String>,
}

/// Where each credential lies. One that is not configured is not there.
pub(crate) type Files = BTreeMap<Name, PathBuf>;

/// The keeper's end.
pub(crate) struct Keeper {
    channel: Channel,
    files: Files,
    is_closed: bool,
}

impl Keeper {
    /// Makes both ends; the second is for [`Worker::new`].
    pub(crate) fn pair(files: Files) -> io::Result<(Self, OwnedFd)> {
        let (channel, theirs) = super::pair()?;
        Ok((Self { channel, files, is_closed: false }, theirs))
    }

    /// What to wait for. A closed channel stays readable, so nobody waits for it any more.
    pub(crate) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        (!self.is_closed).then(|| self.channel.as_fd())
    }

    /// Answers one question, if there is one. Does not wait for whoever asked.
    pub(crate) fn answer(&mut self) {
        match self.channel.try_receive() {
            Received::Message(name) => {
                let content = self.read(name).map(|content| STANDARD.encode(content));
                // A worker that does not read its answers has none.
                let _ = self.channel.send(&Answer { name, content });
            }
            Received::Empty => {}
            Received::Closed => self.is_closed = true,
        }
    }

    fn read(&self, name: Name) -> Result<String, String> {
        let path = self.files.get(&name).ok_or("it is not configured")?;
        read_bounded(path, LENGTH_MAX_BYTES).map_err(|e| format!("{}: {e}", path.display()))
    }
}

/// The worker's end.
#[derive(Debug)]
pub(crate) struct Worker {
    channel: Mutex<Channel>,
}

impl Worker {
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let channel = Channel::new(socket);
        channel.receive_within(ANSWER_WITHIN)?;
        Ok(Self { channel: Mutex::new(channel) })
    }

    /// The content of a credential's file, as it is now. Waits for the keeper, for ten seconds at most: not
    /// to be called on a thread that carries others' requests.
    pub(crate) fn ask(&self, name: Name) -> io::Result<Vec<u8>> {
        let channel = lock(&self.channel);
        // An answer that came too late for whoever asked before.
        while let Received::Message(_) = channel.try_receive::<Answer>() {}
        channel.send(&name)?;
        loop {
            let content = match channel.receive::<Answer>() {
                Received::Message(answer) if answer.name != name => continue,
                Received::Message(answer) => answer.content.map_err(io::Error::other)?,
                Received::Empty => return Err(io::ErrorKind::TimedOut.into()),
                Received::Closed => return Err(io::ErrorKind::BrokenPipe.into()),
            };
            return STANDARD.decode(content).map_err(io::Error::other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(text: &str) -> (Keeper, Worker, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let files = Files::from([(Name::RedisPassword, file.path().to_owned())]);
        let (keeper, theirs) = Keeper::pair(files).unwrap();
        (keeper, Worker::new(theirs).unwrap(), file)
    }

    /// Asks while the keeper answers.
    fn asked(keeper: &mut Keeper, worker: &Worker) -> io::Result<Vec<u8>> {
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| worker.ask(Name::RedisPassword));
            while !asking.is_finished() {
                keeper.answer();
                std::thread::yield_now();
            }
            asking.join().unwrap()
        })
    }

    #[test]
    fn a_credential_is_read_anew_at_each_question() {
        let (mut keeper, worker, file) = ends("first\n");
        assert_eq!(asked(&mut keeper, &worker).unwrap(), b"first\n");
        std::fs::write(file.path(), "second").unwrap();
        assert_eq!(asked(&mut keeper, &worker).unwrap(), b"second");
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_names_the_file() {
        let (mut keeper, worker, file) = ends("");
        let path = file.path().display().to_string();
        std::fs::write(file.path(), "x".repeat(40 * 1024)).unwrap();
        assert!(asked(&mut keeper, &worker).unwrap_err().to_string().contains(&path));
        drop(file);
        assert!(asked(&mut keeper, &worker).unwrap_err().to_string().contains(&path));
        keeper.files.clear();
        let error = asked(&mut keeper, &worker).unwrap_err();
        assert_eq!(error.to_string(), "it is not configured");
    }

    #[test]
    fn the_longest_credential_fits() {
        let longest = "x".repeat(usize::try_from(LENGTH_MAX_BYTES).unwrap());
        let (mut keeper, worker, _file) = ends(&longest);
        assert_eq!(asked(&mut keeper, &worker).unwrap(), longest.as_bytes());
    }

    #[test]
    fn without_a_keeper_there_is_an_error_at_once() {
        let (keeper, worker, _file) = ends("x");
        drop(keeper);
        assert!(worker.ask(Name::RedisPassword).is_err());
    }

    #[test]
    fn a_worker_that_only_asks_does_not_hold_the_keeper() {
        let (mut keeper, worker, _file) = ends(&"x".repeat(30_000));
        let channel = lock(&worker.channel);
        for _ in 0..1000 {
            let _ = channel.send(&Name::RedisPassword);
            keeper.answer();
        }
        drop(channel);
        drop(worker);
        while keeper.waits_for().is_some() {
            keeper.answer();
        }
    }
}
