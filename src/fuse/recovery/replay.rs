//! Sends requests to the filesystem as the kernel has sent them: by another session of fuser over a socket pair, whose
//! answers are passed on to the kernel.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::{Filesystem, Session, SessionACL};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt,
};

use super::super::ANSWER_MAX_BYTES;
use super::super::in_flight;
use super::super::wire::{self, Init, Unique, operation_name};
use super::{Kernel, Unanswered};
use crate::handoff::Kept;
use crate::session::name::Alias;

/// A trial is over when the request has waited so long for its answer since it was handed to a task.
const TRIED_FOR: Duration = Duration::from_millis(100);
/// The same for all that are tried after one death.
const ALL_TRIED_FOR: Duration = Duration::from_secs(1);
/// For one message of the greatest length, whatever the system's default is. (Linux counts its own overhead, too.)
const SEND_BUFFER_BYTES: usize = 2 * ANSWER_MAX_BYTES;

/// How requests are sent.
pub(super) enum Manner<'a> {
    /// All at once.
    Together,
    /// One after the other, each as the only suspect of a death meanwhile. The alias of an inode is for the log.
    Alone(&'a dyn Fn(u64) -> Option<Alias>),
}

/// Answers what the kernel waits for.
pub(super) struct Replay<'a, K> {
    pub kernel: &'a K,
    pub init: &'a Init,
    pub kept: &'a Kept,
}

impl<K: Kernel> Replay<'_, K> {
    /// Sends all. Returns when each is answered, or with a task.
    pub(super) fn run<F: Filesystem>(
        &self,
        filesystem: F,
        config: fuser::Config,
        requests: &[Unanswered],
        manner: &Manner,
    ) -> io::Result<()> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        for end in [&ours, &theirs] {
            setsockopt(end, sockopt::SndBuf, &SEND_BUFFER_BYTES)?;
        }
        let ours = Arc::new(ours);
        send_to(&ours, self.init.bytes())?;
        let session = Session::from_fd(filesystem, theirs, SessionACL::All, config)?;
        // Its answer to INIT. The kernel has had one.
        recv(ours.as_raw_fd(), &mut vec![0; ANSWER_MAX_BYTES], MsgFlags::MSG_DONTWAIT)?;
        let (answered, answers) = channel();
        pass_on_answers(Arc::clone(&ours), self.kernel.clone(), self.kept.clone(), answered)?;
        let replaying: JoinHandle<io::Result<()>> =
            std::thread::Builder::new().name("replay".into()).spawn(move || session.run())?;
        let wait = TRIED_FOR.min(ALL_TRIED_FOR / u32::try_from(requests.len()).unwrap_or(u32::MAX));
        for request in requests {
            match manner {
                Manner::Together => send_to(&ours, &request.bytes)?,
                Manner::Alone(alias) => {
                    tracing::info!(
                        operation = operation_name(request.header.operation),
                        alias = alias(request.header.inode).map(tracing::field::display),
                        "a request is replayed alone, because workers died before it was answered"
                    );
                    self.kept.set_on_trial(Some(request.number()));
                    send_to(&ours, &request.bytes)?;
                    send_to(&ours, &wire::mark())?;
                    await_answer(&answers, request.header.unique, wait);
                    self.kept.set_on_trial(None);
                }
            }
        }
        send_to(&ours, &wire::end_of_session())?;
        replaying.join().map_err(|_| io::Error::other("the replay has panicked"))?
    }
}

fn send_to(end: &OwnedFd, message: &[u8]) -> io::Result<()> {
    send(end.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

/// Waits until the request is no longer handled by the thread that has read it, and then for a short time until it is
/// answered. One that its thread does not get rid of is on trial until the keeper ends this worker.
fn await_answer(answers: &Receiver<Unique>, unique: Unique, wait: Duration) {
    let mut is_answered = false;
    loop {
        match answers.recv() {
            Ok(one) if one == wire::MARK => break,
            Ok(one) => is_answered |= one == unique,
            Err(_) => return,
        }
    }
    let until = Instant::now() + wait;
    while !is_answered {
        match answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(one) => is_answered = one == unique,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Passes the answers of replayed requests on to the kernel, until the last one is given. Tells of each.
fn pass_on_answers(
    from: Arc<OwnedFd>,
    kernel: impl Kernel,
    kept: Kept,
    answered: Sender<Unique>,
) -> io::Result<()> {
    let pass_on = move || {
        let mut answer = vec![0; ANSWER_MAX_BYTES];
        loop {
            let length = match recv(from.as_raw_fd(), &mut answer, MsgFlags::empty()) {
                Ok(0) => return,
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(errno) => {
                    tracing::error!(%errno, "answers of replayed requests are lost");
                    return;
                }
            };
            // The end of the session answers no request.
            let Some(unique) = wire::answered(&answer[..length]) else { continue };
            if unique != wire::MARK {
                pass_on_one(&kernel, unique, &answer[..length]);
                in_flight::forget(&kept, unique);
            }
            // Who does not wait for it has no trial.
            let _ = answered.send(unique);
        }
    };
    std::thread::Builder::new().name("answers".into()).spawn(pass_on).map(drop)
}

fn pass_on_one(kernel: &impl Kernel, unique: Unique, answer: &[u8]) {
    match kernel.write(answer) {
        // ENOENT: nobody waits for it any more.
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => {
            tracing::warn!(%errno, "the kernel refuses the answer of a replayed request");
            // Its caller would wait without end.
            let _ = kernel.write(&wire::failure(unique, libc::EIO));
        }
    }
}
