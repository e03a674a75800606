//! Whether a mounted filesystem answers, asked by a process of its own.
//!
//! Whoever waits for an answer that a FUSE server has begun to work on cannot be killed (`request_wait_answer` in the
//! kernel's fs/fuse/dev.c), and what it has open stays open. So the process that asks has nothing open but a socket.
//! Where that does not answer, the mount does not answer.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::statfs::statfs;
use rustix::net::SendFlags;

use super::packet;
use super::process::{self, Process};
use super::signals::Signals;

/// The number of a question, and the path that is asked for.
const NUMBER_BYTES: usize = 8;
const QUESTION_MAX_BYTES: usize = NUMBER_BYTES + libc::PATH_MAX as usize;
/// The number of the question, and an errno, 0, or [`BEGUN`].
const ANSWER_BYTES: usize = NUMBER_BYTES + 4;
/// In the place of an answer: the process has read the question, and asks now. No errno is negative.
const BEGUN: i32 = -1;
/// How long those that were killed are waited for at the end.
const ENDED_WITHIN: Duration = Duration::from_secs(1);
/// So many processes may wait for answers that do not come.
const ABANDONED_MAX: usize = 8;

/// What is asked.
#[derive(Debug)]
pub(crate) enum Root<'a> {
    /// What is mounted on this directory.
    At(&'a Path),
    /// The filesystem that this is the root of; it may not have a name yet.
    Of(BorrowedFd<'a>),
}

/// One that was asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Question(u64);

/// Asks one question at a time.
#[derive(Debug, Default)]
pub(crate) struct Prober {
    asker: Option<Asker>,
    /// Killed while they waited for an answer. They end when it comes, or when the filesystem ends.
    abandoned: Vec<Process>,
    last: u64,
    is_waiting: bool,
    /// The last question is being asked. Until then only the process that asks is late.
    has_begun: bool,
}

#[derive(Debug)]
struct Asker {
    process: Process,
    socket: OwnedFd,
}

impl Asker {
    /// Starts this same program, whatever is installed by now.
    fn start() -> io::Result<Self> {
        let (socket, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let descriptors = [("--socket-fd", theirs.as_fd())];
        let mut command = process::prepare(Path::new("/proc/self/exe"), "prober", &descriptors);
        let process = command.stderr(Stdio::null()).spawn().and_then(Process::of_child)?;
        Ok(Self { process, socket })
    }

    fn send(&self, number: u64, root: &Root<'_>) -> io::Result<()> {
        let number = number.to_le_bytes();
        let path = match root {
            Root::At(path) => path.as_os_str().as_bytes(),
            Root::Of(_) => &[],
        };
        let root = match root {
            Root::At(_) => &[][..],
            Root::Of(root) => std::slice::from_ref(root),
        };
        let parts = [IoSlice::new(&number), IoSlice::new(path)];
        packet::send(&self.socket, &parts, root, SendFlags::DONTWAIT)
    }
}

impl Prober {
    /// Asks. The answer to what was asked before is of no use any more.
    pub(crate) fn ask(&mut self, root: &Root<'_>) -> io::Result<Question> {
        self.reap();
        if self.asker.as_ref().is_none_or(|asker| asker.process.has_ended()) {
            if self.abandoned.len() >= ABANDONED_MAX {
                return Err(io::Error::other("too many processes wait for its answer already"));
            }
            self.asker = Some(Asker::start()?);
        }
        self.last += 1;
        if let Some(asker) = &self.asker {
            asker.send(self.last, root)?;
        }
        self.is_waiting = true;
        self.has_begun = false;
        Ok(Question(self.last))
    }

    /// The answer to the last question, if it has come. An error of the kind `BrokenPipe` says that there will be none,
    /// because the process that asked has ended.
    pub(crate) fn answer(&mut self, question: Question) -> Option<io::Result<()>> {
        let ended = || Some(Err(ErrorKind::BrokenPipe.into()));
        let Some(asker) = self.asker.as_ref().filter(|_| Question(self.last) == question) else {
            return ended();
        };
        let mut answer = [0; ANSWER_BYTES];
        loop {
            match recv(asker.socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => return None,
                Err(Errno::EINTR) => {}
                Ok(ANSWER_BYTES) => {
                    let [number @ .., a, b, c, d] = answer;
                    let errno = i32::from_le_bytes([a, b, c, d]);
                    if u64::from_le_bytes(number) != question.0 {
                        continue;
                    }
                    if errno == BEGUN {
                        self.has_begun = true;
                    } else {
                        self.is_waiting = false;
                        let is_error = errno != 0;
                        return Some(if is_error {
                            Err(io::Error::from_raw_os_error(errno))
                        } else {
                            Ok(())
                        });
                    }
                }
                Ok(_) | Err(_) => {
                    self.is_waiting = false;
                    self.asker = None;
                    return ended();
                }
            }
        }
    }

    /// Whether the last question is being asked, as far as [`Self::answer`] has seen: from then on it is the filesystem
    /// that does not answer.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// What to wait for before the next look, while an answer is waited for.
    pub(crate) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.asker.as_ref().filter(|_| self.is_waiting).map(|asker| asker.socket.as_fd())
    }

    /// Waits for the answer, within a bound and without regard to signals.
    pub(crate) fn wait(
        &mut self,
        question: Question,
        bound: Duration,
        signals: &mut Signals,
    ) -> io::Result<()> {
        let until = Instant::now() + bound;
        loop {
            if let Some(answer) = self.answer(question) {
                return answer;
            }
            if Instant::now() >= until {
                return Err(ErrorKind::TimedOut.into());
            }
            let waits_for: Vec<BorrowedFd<'_>> = self.waits_for().into_iter().collect();
            signals.wait(&waits_for, Some(until));
        }
    }

    /// Whether what is mounted there answers within a bound.
    pub(crate) fn answers(&mut self, mountpoint: &Path, bound: Duration) -> bool {
        let Ok(question) = self.ask(&Root::At(mountpoint)) else { return false };
        let until = Instant::now() + bound;
        loop {
            if let Some(answer) = self.answer(question) {
                return answer.is_ok();
            }
            let left = until.saturating_duration_since(Instant::now());
            let Some(socket) = self.waits_for().filter(|_| !left.is_zero()) else { return false };
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let _ = poll(&mut [PollFd::new(socket, PollFlags::POLLIN)], timeout);
        }
    }

    /// Ends the process that asks, without waiting for it. The next question is asked by another one.
    pub(crate) fn give_up(&mut self) {
        self.is_waiting = false;
        if let Some(Asker { mut process, .. }) = self.asker.take() {
            process.kill_without_waiting();
            self.abandoned.push(process);
        }
        self.reap();
    }

    /// The same, and nobody waits for its end: the mount is left to somebody else, and is not answered before.
    pub(crate) fn leave(&mut self) {
        self.give_up();
        self.abandoned.clear();
    }

    /// Those that have ended are not left behind as zombies.
    fn reap(&mut self) {
        self.abandoned.retain_mut(|process| {
            let has_ended = process.has_ended();
            if has_ended {
                process.status();
            }
            !has_ended
        });
    }
}

impl Drop for Prober {
    /// An orderly end leaves no process. One that waits for a mount that does not answer cannot be ended.
    fn drop(&mut self) {
        self.give_up();
        let until = Instant::now() + ENDED_WITHIN;
        for process in &mut self.abandoned {
            process.kill_within(until.saturating_duration_since(Instant::now()));
        }
    }
}

/// The process that asks: until nobody is left who wants to know.
pub(crate) fn serve(socket: &OwnedFd) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    while let Some((number, path, root)) = receive(socket)? {
        let path = match &root {
            Some(root) => PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd())),
            None => path,
        };
        if !reply(socket, number, BEGUN)? {
            break;
        }
        // The kernel may answer `stat` from what it remembers, of a dead mount as well; `statfs` always asks.
        let answer = std::fs::metadata(&path)
            .and_then(|_| statfs(&path).map_err(io::Error::from))
            .map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |_| 0);
        // Held, it would be in use.
        drop(root);
        if !reply(socket, number, answer)? {
            break;
        }
    }
    Ok(())
}

/// `false` if nobody wants to know any more.
fn reply(socket: &OwnedFd, number: u64, answer: i32) -> io::Result<bool> {
    let answer = [&number.to_le_bytes()[..], &answer.to_le_bytes()[..]].concat();
    match send(socket.as_raw_fd(), &answer, MsgFlags::MSG_NOSIGNAL) {
        Ok(_) => Ok(true),
        Err(Errno::EPIPE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The next question: its number, and the path or the root that is asked for. `None` if there will be none.
fn receive(socket: &OwnedFd) -> io::Result<Option<(u64, PathBuf, Option<OwnedFd>)>> {
    let mut question = [0; QUESTION_MAX_BYTES];
    let (length, roots) = packet::receive(socket, &mut question)?;
    let root = roots.into_iter().next();
    let question = question.get(..length).and_then(|question| question.split_first_chunk());
    Ok(question.map(|(number, path)| {
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
        (u64::from_le_bytes(*number), path, root)
    }))
}
