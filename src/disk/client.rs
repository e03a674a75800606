//! Asking the disk server. One task speaks with it, so that a caller who stops waiting leaves no
//! half of an answer behind.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, BufWriter,
};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::Place;
use super::directory::{Found, Look, Others, Take};
use super::opened::NotServed;
use super::wire::{self, Answer, Request};

/// Requests that may wait to be sent.
const MAX_WAITING: usize = 256;
/// For who serves a mount: one file of a few KiB on a disk that is well; whoever asked gets an error
/// after it.
pub(crate) const SERVING_WITHIN: Duration = Duration::from_secs(5);
/// For callers that can wait for a slow disk.
pub(crate) const PATIENT_WITHIN: Duration = Duration::from_secs(60);
/// A directory is opened, on whichever disk, or nobody waits for it any more.
pub(crate) const OPENED_WITHIN: Duration = Duration::from_secs(10);
/// A directory of millions of files on a slow disk.
const LIST_WITHIN: Duration = Duration::from_secs(120);

/// The conversation with a disk server. Clones share it; with the last one the server ends.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    requests: mpsc::Sender<Asked>,
    file_within: Duration,
}

/// Why there is no answer. Holds no name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum DiskError {
    /// The server has ended.
    Gone,
    /// It did not answer in time.
    Overdue,
    /// It touches nothing.
    NotServed(NotServed),
    /// The system's words.
    Failed(String),
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the process that reads session files has exited"),
            Self::Overdue => f.write_str("the disk does not answer"),
            Self::NotServed(NotServed::Unusable(failure)) => write!(f, "{failure}"),
            Self::NotServed(NotServed::Unmovable { error, .. }) => {
                write!(f, "session files cannot be moved: {error}")
            }
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// What lies in the directory.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The session files.
    pub places: Vec<Place>,
    /// What else is there.
    pub others: Others,
}

#[derive(Debug)]
struct Asked {
    frame: Vec<u8>,
    /// Nothing is changed by it.
    only_reads: bool,
    answers: Answers,
}

/// Where every frame of an answer goes; the last one ends it.
type Answers = oneshot::Sender<Vec<(Answer, Vec<u8>)>>;

impl Disk {
    /// Speaks over `socket`, by a task on the current runtime. One file may take `file_within`. `at_once` requests are on
    /// their way together: with one, nobody waits behind a read that was given up.
    /// `on_gone` is called if the server ends while it may still be asked.
    pub(crate) fn connect(
        socket: OwnedFd,
        file_within: Duration,
        at_once: usize,
        on_gone: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        let socket = UnixStream::from_std(socket)?;
        let (requests, asked) = mpsc::channel(MAX_WAITING);
        tokio::spawn(async move {
            if converse(socket, asked, at_once).await.is_err() {
                on_gone();
            }
        });
        Ok(Self { requests, file_within })
    }

    /// Whether everything is opened.
    pub(crate) async fn look(&self) -> Result<(), DiskError> {
        match self.ask(&Request::Look, &[], OPENED_WITHIN).await?.pop() {
            Some((Answer::Done, _)) => Ok(()),
            other => Err(other.map_or_else(strange, |(answer, _)| failure(answer))),
        }
    }

    /// Every session file, and what else is there.
    pub(crate) async fn list(&self) -> Result<Listing, DiskError> {
        let mut listing = Listing::default();
        for (answer, names) in self.ask(&Request::List, &[], LIST_WITHIN).await? {
            match answer {
                Answer::Names { last } => {
                    let names = String::from_utf8(names).map_err(|_| strange())?;
                    listing.places.extend(names.lines().filter_map(Place::parse));
                    listing.others = last.unwrap_or_default();
                }
                other => return Err(failure(other)),
            }
        }
        Ok(listing)
    }

    /// A file's content.
    pub(crate) async fn read(&self, place: &Place) -> Result<Look, DiskError> {
        match self.one(&Request::Read { path: place.path() }, &[]).await? {
            (Answer::File { mtime_ns, mode, inode }, bytes) => {
                Ok(Look::Found(Found { bytes, mtime_ns, mode, inode }))
            }
            (Answer::Absent, _) => Ok(Look::Absent),
            (Answer::TooLong, _) => Ok(Look::TooLong),
            (other, _) => Err(failure(other)),
        }
    }

    /// Moves a file that waits to the import directory, if it still is the one with that inode.
    pub(crate) async fn take(&self, place: &Place, inode: u64) -> Result<Take, DiskError> {
        match self.one(&Request::Take { path: place.path(), inode }, &[]).await? {
            (Answer::Done, _) => Ok(Take::Done),
            (Answer::Changed, _) => Ok(Take::Changed),
            (other, _) => Err(failure(other)),
        }
    }

    /// Takes a file away; one that is not there is no error.
    pub(crate) async fn retire(&self, place: &Place) -> Result<(), DiskError> {
        self.done(&Request::Retire { path: place.path() }, &[]).await
    }

    /// Writes a file anew.
    pub(crate) async fn write(
        &self,
        place: &Place,
        mtime_ns: i64,
        mode: u32,
        bytes: &[u8],
    ) -> Result<(), DiskError> {
        self.done(&Request::Write { path: place.path(), mtime_ns, mode }, bytes).await
    }

    /// Removes empty shard directories.
    pub(crate) async fn tidy(&self) -> Result<(), DiskError> {
        match self.ask(&Request::Tidy, &[], LIST_WITHIN).await?.pop() {
            Some((Answer::Done, _)) => Ok(()),
            other => Err(other.map_or_else(strange, |(answer, _)| failure(answer))),
        }
    }

    async fn done(&self, request: &Request, body: &[u8]) -> Result<(), DiskError> {
        match self.one(request, body).await? {
            (Answer::Done, _) => Ok(()),
            (other, _) => Err(failure(other)),
        }
    }

    async fn one(&self, request: &Request, body: &[u8]) -> Result<(Answer, Vec<u8>), DiskError> {
        self.ask(request, body, self.file_within).await?.pop().ok_or_else(strange)
    }

    async fn ask(
        &self,
        request: &Request,
        body: &[u8],
        within: Duration,
    ) -> Result<Vec<(Answer, Vec<u8>)>, DiskError> {
        let frame =
            wire::pack(request, body).map_err(|error| DiskError::Failed(error.to_string()))?;
        let only_reads = matches!(request, Request::Look | Request::List | Request::Read { .. });
        let (answers, answered) = oneshot::channel();
        let asked = async {
            self.requests
                .send(Asked { frame, only_reads, answers })
                .await
                .map_err(|_| DiskError::Gone)?;
            answered.await.map_err(|_| DiskError::Gone)
        };
        tokio::time::timeout(within, asked).await.map_err(|_| DiskError::Overdue)?
    }
}

fn failure(answer: Answer) -> DiskError {
    match answer {
        Answer::Failed { why } => DiskError::Failed(why),
        Answer::NotServed(why) => DiskError::NotServed(why),
        _ => strange(),
    }
}

fn strange() -> DiskError {
    DiskError::Failed("an answer with an unexpected format".into())
}

/// Sends requests, `at_once` before the first of them is answered, and hands out answers, in order, until nobody asks; an
/// error if nobody answers.
async fn converse(
    socket: UnixStream,
    mut asked: mpsc::Receiver<Asked>,
    at_once: usize,
) -> io::Result<()> {
    let (reader, writer) = socket.into_split();
    // What waits together is sent together.
    let mut writer = BufWriter::new(writer);
    let (waiting, mut who_waits) = mpsc::channel::<(Answers, OwnedSemaphorePermit)>(at_once);
    let free = Arc::new(Semaphore::new(at_once));
    let ask = async {
        while let Some(Asked { frame, only_reads, answers }) = next(&mut asked, &mut writer).await?
        {
            let place = if let Ok(place) = Arc::clone(&free).try_acquire_owned() {
                place
            } else {
                writer.flush().await?;
                Arc::clone(&free).acquire_owned().await.map_err(io::Error::other)?
            };
            // A read that was given up is not made: it would hold up those that are waited for.
            if only_reads && answers.is_closed() {
                continue;
            }
            waiting.send((answers, place)).await.map_err(io::Error::other)?;
            writer.write_all(&frame).await?;
        }
        Ok(())
    };
    let hear = async {
        let mut reader = BufReader::new(reader);
        loop {
            // Nothing is said unasked: if nobody waits, this is the server's end.
            let is_end = reader.fill_buf().await?.is_empty();
            let Some((answers, _place)) = who_waits.try_recv().ok().filter(|_| !is_end) else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            // Who does not wait any more need not hear it.
            let _ = answers.send(answer(&mut reader).await?);
        }
    };
    tokio::select! {
        biased;
        ended = ask => ended,
        ended = hear => ended,
    }
}

/// The next request. Before one is waited for, the server gets those that it lacks.
async fn next(
    asked: &mut mpsc::Receiver<Asked>,
    writer: &mut BufWriter<OwnedWriteHalf>,
) -> io::Result<Option<Asked>> {
    if let Ok(next) = asked.try_recv() {
        return Ok(Some(next));
    }
    writer.flush().await?;
    Ok(asked.recv().await)
}

/// Every frame of one answer.
async fn answer(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Vec<(Answer, Vec<u8>)>> {
    let mut answers = Vec::new();
    loop {
        let mut prefix = [0; wire::PREFIX_BYTES];
        reader.read_exact(&mut prefix).await?;
        let (head, body) = wire::lengths(prefix)?;
        let mut bytes = vec![0; head + body];
        reader.read_exact(&mut bytes).await?;
        let body = bytes.split_off(head);
        let answer: Answer = wire::unpack(&bytes)?;
        let last = !matches!(answer, Answer::Names { last: None });
        answers.push((answer, body));
        if last {
            return Ok(answers);
        }
    }
}
