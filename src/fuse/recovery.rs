//! What a worker does first on a connection that another one has served: the requests which that one has read and not
//! answered are answered.
//!
//! They are found in the memory: in the buffers that the kernel has written them to, and among those that were handed
//! to a task. Which of them are still waited for, the kernel says. Then each is replayed, as the kernel has sent it.
//! Where the kernel can do so (6.9 and later) it sends them again instead.
//!
//! Asked before the replay, and not after a failure of it: a removal that was answered and is replayed would remove a
//! later save.
//!
//! - [`replay`]: sends requests to the filesystem as the kernel has sent them
//! - [`poison`]: which requests workers have died of
//! - [`subject`]: what a request is about

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use fuser::Filesystem;
use nix::errno::Errno;

use super::REQUEST_MAX_BYTES;
use super::in_flight;
use super::wire::{self, Header, Init, Unique, operation_name};
use crate::fs::poison::Subject;
use crate::handoff::{Ended, Kept, Kind};
use crate::host::device;
use crate::session::name::Alias;
use poison::Suspects;

mod poison;
mod replay;
mod subject;

/// A request that is waited for.
struct Unanswered {
    header: Header,
    bytes: Vec<u8>,
}

/// Where the kernel reads what a filesystem writes.
pub(super) trait Kernel: Clone + Send + 'static {
    /// Writes one message.
    fn write(&self, message: &[u8]) -> nix::Result<()>;

    /// Reads one that is there already; `None` if there is none.
    fn read(&self) -> io::Result<Option<Vec<u8>>>;
}

/// The device of a connection.
#[derive(Clone, Debug)]
pub(super) struct Device(pub(super) Arc<OwnedFd>);

impl Kernel for Device {
    fn write(&self, message: &[u8]) -> nix::Result<()> {
        nix::unistd::write(&self.0, message).map(drop)
    }

    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        match device::read_within(self.0.as_fd(), REQUEST_MAX_BYTES, Duration::ZERO) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// How the worker before has left a connection, and how it is taken over.
pub(super) struct Recovery<'a, K> {
    pub kernel: K,
    pub init: &'a Init,
    pub kept: &'a Kept,
    /// How the worker before has ended.
    pub after: Ended,
    /// Whether the kernel may be asked to send requests again, if it can.
    pub may_resend: bool,
    /// The alias of the session that a request is about.
    pub alias: &'a dyn Fn(&Subject<'_>) -> Option<Alias>,
    /// Told of a request that is about to fail, because workers died of it.
    pub died_of: &'a dyn Fn(&Subject<'_>),
    /// Waits until the store is there, or has not come in time.
    pub await_store: &'a dyn Fn(),
}

impl<K: Kernel> Recovery<'_, K> {
    /// Has `filesystem` answer what is not answered. Returns when all of it is under way.
    pub(super) fn run<F: Filesystem>(
        &self,
        filesystem: F,
        config: fuser::Config,
    ) -> io::Result<()> {
        if self.kept.generation() <= Some(1) {
            // Nobody has served before.
            return Ok(());
        }
        let mut unanswered = self.unanswered()?;
        let suspects = Suspects::new(self.kept);
        let numbers: Vec<_> = unanswered.iter().map(Unanswered::number).collect();
        let trials = suspects.worker_died(self.after, &numbers);
        unanswered.retain(|request| !self.fails(&suspects, request));
        if trials.is_empty() {
            if self.resend(&unanswered) {
                return Ok(());
            }
        } else {
            unanswered = self.with_sent_again(unanswered)?;
        }
        if unanswered.is_empty() {
            return Ok(());
        }
        let on_trial = trials.len();
        tracing::info!(requests = unanswered.len(), on_trial, "replaying what was not answered");
        self.replay(filesystem, config, &unanswered, &trials)
    }

    /// All that is waited for, with what was not recorded, if the kernel can send it again. It sends that before what is
    /// new, so it is read here until something new comes.
    fn with_sent_again(&self, recorded: Vec<Unanswered>) -> io::Result<Vec<Unanswered>> {
        if !self.has_resend() || self.kernel.write(&wire::resend()).is_err() {
            return Ok(recorded);
        }
        let mut all: BTreeMap<_, _> =
            recorded.into_iter().map(|request| (request.number(), request)).collect();
        while let Some(bytes) = self.kernel.read()? {
            let Some(header) = Header::parse(&bytes) else { continue };
            if header.is_interruption() {
                // What is interrupted is answered all the same.
                continue;
            }
            if header.is_answered() {
                // One that has no room is sent again to the next worker, too.
                in_flight::put(self.kept, header.unique, &bytes[..header.length_bytes]);
            }
            let is_new = header.is_answered() && !header.unique.is_sent_again();
            let request = Unanswered { header, bytes };
            all.insert(request.number(), request);
            if is_new {
                break;
            }
        }
        Ok(all.into_values().collect())
    }

    fn has_resend(&self) -> bool {
        self.may_resend && self.init.has_resend()
    }

    /// What is recorded and still waited for, the oldest first.
    fn unanswered(&self) -> io::Result<Vec<Unanswered>> {
        let mut found = BTreeMap::new();
        let handed = self.kept.numbers(Kind::Request);
        let handed = handed.into_iter().filter_map(|number| self.kept.get(Kind::Request, number));
        for mut bytes in handed.chain(self.kept.last_read(REQUEST_MAX_BYTES)) {
            let Some(header) = Header::parse(&bytes).filter(Header::is_answered) else { continue };
            bytes.truncate(header.length_bytes);
            found.insert(header.unique.of_request(), Unanswered { header, bytes });
        }
        // What is kept and is no request is of no use.
        for number in self.kept.numbers(Kind::Request) {
            if !found.contains_key(&number) {
                self.kept.remove(Kind::Request, number);
            }
        }
        let mut unanswered = Vec::new();
        for (number, request) in found {
            if self.is_waited_for(request.header.unique)? {
                if self.is_recorded(&request) || !self.is_interrupted(&request.header) {
                    unanswered.push(request);
                }
            } else {
                // Its change stays. The kernel denies a request, too, that it is about to send again.
                self.kept.remove(Kind::Request, number);
            }
        }
        Ok(unanswered)
    }

    /// Records what was found in a buffer alone: the buffers are used anew. False if there is no room, and the kernel
    /// does not send it again.
    fn is_recorded(&self, request: &Unanswered) -> bool {
        let unique = request.header.unique;
        in_flight::is_kept(self.kept, unique)
            || in_flight::put(self.kept, unique, &request.bytes)
            || self.has_resend()
    }

    /// Has a write be repeated by its caller: Python does so at once.
    fn is_interrupted(&self, header: &Header) -> bool {
        let is_answered = |answer: &[u8]| self.kernel.write(answer).is_ok();
        header.is_write() && is_answered(&wire::failure(header.unique, libc::EINTR))
    }

    fn is_waited_for(&self, unique: Unique) -> io::Result<bool> {
        match self.kernel.write(&wire::probe(unique)) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Fails a request if workers have died of it.
    fn fails(&self, suspects: &Suspects, request: &Unanswered) -> bool {
        if !suspects.is_poison(request.number()) {
            return false;
        }
        let (header, subject) = (&request.header, subject::of(request));
        tracing::error!(
            operation = operation_name(header.operation),
            alias = (self.alias)(&subject).map(tracing::field::display),
            "a request is failed, because workers died of it"
        );
        // Before its caller goes on.
        (self.died_of)(&subject);
        // ENOENT: nobody waits for it any more.
        let _ = self.kernel.write(&wire::failure(header.unique, libc::EIO));
        in_flight::forget(self.kept, header.unique);
        true
    }

    /// Has the kernel send again what was not answered; false if it does not.
    fn resend(&self, unanswered: &[Unanswered]) -> bool {
        if !self.has_resend() {
            return false;
        }
        // Before it is asked: each request is recorded anew when it is read. A worker that dies in between leaves
        // nothing that its successor would ask the kernel about, which does not know a request that it is about to
        // send again.
        for request in unanswered {
            self.kept.remove(Kind::Request, request.number());
        }
        self.kept.clear_last_read();
        let recorded = unanswered.len();
        match self.kernel.write(&wire::resend()) {
            Ok(()) => {
                tracing::info!(recorded, "the kernel sends again what was not answered");
                true
            }
            Err(errno) => {
                tracing::warn!(%errno, "the kernel does not send again what was not answered");
                for request in unanswered {
                    in_flight::put(self.kept, request.header.unique, &request.bytes);
                }
                false
            }
        }
    }
}

impl Unanswered {
    fn number(&self) -> u64 {
        self.header.unique.of_request()
    }
}

#[cfg(test)]
mod tests;
