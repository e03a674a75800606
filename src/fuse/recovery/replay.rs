//! Sends requests to the filesystem as the kernel has sent them: by another session of fuser over a socket pair, whose
//! answers are passed on to the kernel.

use std::collections::{HashMap, HashSet};
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
use super::super::wire::{self, Unique, operation_name};
use super::poison::{Suspects, Trial};
use super::{Kernel, Recovery, Unanswered, subject};
use crate::handoff::Kept;

/// How long each suspect is awaited since it was handed to a task, and all that are tried after one death together: by
/// how often a worker has died while several were running.
const TRIED_FOR: [(Duration, Duration); 3] = [
    (Duration::from_millis(100), Duration::from_secs(1)),
    (Duration::from_secs(1), Duration::from_secs(2)),
    (Duration::from_secs(3), Duration::from_secs(4)),
];
/// For one message of the greatest length, whatever the system's default is. (Linux counts its own overhead, too.)
const SEND_BUFFER_BYTES: usize = 2 * ANSWER_MAX_BYTES;

impl<K: Kernel> Recovery<'_, K> {
    /// Sends all: those that are not to be tried at once, and then one trial after the other. Returns when each is
    /// answered, or with a task.
    pub(super) fn replay<F: Filesystem>(
        &self,
        filesystem: F,
        config: fuser::Config,
        requests: &[Unanswered],
        trials: &[Trial],
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
        let is_tried: HashSet<_> = trials.iter().map(|trial| trial.number).collect();
        for request in requests.iter().filter(|request| !is_tried.contains(&request.number())) {
            send_to(&ours, &request.bytes)?;
        }
        if !trials.is_empty() {
            send_to(&ours, &wire::mark())?;
            await_mark(&answers, None);
            // What needs the store does nothing before.
            (self.await_store)();
            self.try_all(&ours, &answers, requests, trials)?;
        }
        send_to(&ours, &wire::end_of_session())?;
        replaying.join().map_err(|_| io::Error::other("the replay has panicked"))?
    }

    /// Sends one suspect after the other.
    fn try_all(
        &self,
        to: &OwnedFd,
        answers: &Receiver<Unique>,
        requests: &[Unanswered],
        trials: &[Trial],
    ) -> io::Result<()> {
        let suspects = Suspects::new(self.kept);
        let requests: HashMap<_, _> =
            requests.iter().map(|request| (request.number(), request)).collect();
        for (index, trial) in trials.iter().enumerate() {
            let Some(request) = requests.get(&trial.number) else { continue };
            tracing::info!(
                operation = operation_name(request.header.operation),
                alias = (self.alias)(&subject::of(request)).map(tracing::field::display),
                "a request is replayed alone, because workers died before it was answered"
            );
            suspects.begins(trial.number, index + 1);
            send_to(to, &request.bytes)?;
            send_to(to, &wire::mark())?;
            await_answer(answers, request.header.unique, tried_for(trial, trials));
        }
        Ok(())
    }
}

/// How long a suspect is awaited, if it is one of these.
fn tried_for(trial: &Trial, trials: &[Trial]) -> Duration {
    let last = TRIED_FOR.len() - 1;
    let step = |trial: &Trial| usize::try_from(trial.undecided).map_or(last, |at| at.min(last));
    let alike = trials.iter().filter(|other| step(other) == step(trial)).count();
    let (one, all) = TRIED_FOR[step(trial)];
    one.min(all / u32::try_from(alike.max(1)).unwrap_or(u32::MAX))
}

fn send_to(end: &OwnedFd, message: &[u8]) -> io::Result<()> {
    send(end.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

/// Waits until the request is no longer handled by the thread that has read it, and then for a short time until it is
/// answered. One that its thread does not get rid of is on trial until the keeper ends this worker.
fn await_answer(answers: &Receiver<Unique>, unique: Unique, wait: Duration) {
    let mut is_answered = await_mark(answers, Some(unique));
    let until = Instant::now() + wait;
    while !is_answered {
        match answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(one) => is_answered = one == unique,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Waits until all that was sent is handled by its thread. Whether this one is answered by then.
fn await_mark(answers: &Receiver<Unique>, unique: Option<Unique>) -> bool {
    let mut is_answered = false;
    while let Ok(one) = answers.recv() {
        if one == wire::MARK {
            return is_answered;
        }
        is_answered |= Some(one) == unique;
    }
    // Nobody passes answers on.
    true
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
                    // Who waits for one would do so for ever; a successor asks again what is not answered.
                    tracing::error!(%errno, "answers of replayed requests are lost: this worker ends");
                    std::process::abort();
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
