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

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use fuser::Filesystem;
use nix::errno::Errno;

use super::REQUEST_MAX_BYTES;
use super::in_flight;
use super::wire::{self, Header, Init, Unique, operation_name};
use crate::handoff::{Ended, Kept, Kind};
use crate::session::name::Alias;
use poison::Suspects;
use replay::{Manner, Replay};

mod poison;
mod replay;

/// A request that is waited for.
struct Unanswered {
    header: Header,
    bytes: Vec<u8>,
}

/// Where the kernel reads what a filesystem writes.
pub(super) trait Kernel: Clone + Send + 'static {
    /// Writes one message.
    fn write(&self, message: &[u8]) -> nix::Result<()>;
}

/// The device of a connection.
#[derive(Clone, Debug)]
pub(super) struct Device(pub(super) Arc<OwnedFd>);

impl Kernel for Device {
    fn write(&self, message: &[u8]) -> nix::Result<()> {
        nix::unistd::write(&self.0, message).map(drop)
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
    /// The alias of the session that an inode stands for.
    pub alias: &'a dyn Fn(u64) -> Option<Alias>,
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
        suspects.worker_died(self.after, &numbers);
        unanswered.retain(|request| !self.fails(&suspects, &request.header));
        let on_trial = unanswered.iter().any(|request| suspects.must_be_tried(request.number()));
        if !on_trial && self.resend(&unanswered) {
            return Ok(());
        }
        if unanswered.is_empty() {
            return Ok(());
        }
        let manner = if on_trial { Manner::Alone(self.alias) } else { Manner::Together };
        tracing::info!(requests = unanswered.len(), on_trial, "replaying what was not answered");
        Replay { kernel: &self.kernel, init: self.init, kept: self.kept }.run(
            filesystem,
            config,
            &unanswered,
            &manner,
        )
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
                // Also what was found in a buffer: the buffers are used anew.
                in_flight::put(self.kept, request.header.unique, &request.bytes);
                unanswered.push(request);
            } else {
                // Its change stays. The kernel denies a request, too, that it is about to send again.
                self.kept.remove(Kind::Request, number);
            }
        }
        Ok(unanswered)
    }

    fn is_waited_for(&self, unique: Unique) -> io::Result<bool> {
        match self.kernel.write(&wire::probe(unique)) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Fails a request if workers have died of it.
    fn fails(&self, suspects: &Suspects, header: &Header) -> bool {
        let number = header.unique.of_request();
        if !suspects.is_poison(number) {
            return false;
        }
        tracing::error!(
            operation = operation_name(header.operation),
            alias = (self.alias)(header.inode).map(tracing::field::display),
            "a request is failed, because workers died of it"
        );
        // ENOENT: nobody waits for it any more.
        let _ = self.kernel.write(&wire::failure(header.unique, libc::EIO));
        in_flight::forget(self.kept, header.unique);
        true
    }

    /// Has the kernel send again what was not answered; false if it does not.
    fn resend(&self, unanswered: &[Unanswered]) -> bool {
        if !self.may_resend || !self.init.has_resend() {
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
