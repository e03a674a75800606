//! What a worker does first on a connection that another one has served: the requests which that one has read and not
//! answered are answered.
//!
//! They are found in the memory: in the buffers that the kernel has written them to, and among those that were handed
//! to a task. Which of them are still waited for, the kernel says. Then each is replayed, as the kernel has sent it, by
//! another session of fuser over a socket pair; its answers are passed on. Where the kernel can do so (6.9 and later)
//! it sends them again instead.
//!
//! Asked before the replay, and not after a failure of it: a removal that was answered and is replayed would remove a
//! later save.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use fuser::{Filesystem, Session, SessionACL};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::unistd::write;

use super::in_flight;
use super::wire::{self, Header, Init, Unique, operation_name};
use super::{ANSWER_MAX_BYTES, REQUEST_MAX_BYTES};
use crate::handoff::{Ended, Kept, Kind};
use crate::session::name::Alias;

/// How many workers a request may take with it.
const DEATHS_MAX: u64 = 3;

/// A request that is waited for.
struct Unanswered {
    header: Header,
    bytes: Vec<u8>,
}

/// How the worker before has left a connection, and how it is taken over.
pub(super) struct Recovery<'a> {
    pub device: BorrowedFd<'a>,
    pub init: &'a Init,
    pub kept: &'a Kept,
    /// How the worker before has ended.
    pub after: Ended,
    /// Whether the kernel may be asked to send requests again, if it can.
    pub may_resend: bool,
    /// The alias of the session that an inode stands for.
    pub alias: &'a dyn Fn(u64) -> Option<Alias>,
}

impl Recovery<'_> {
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
        if self.after.is_by_itself() {
            unanswered.retain(|request| !self.is_poison(&request.header));
        }
        self.forget_suspects(&unanswered);
        if self.may_resend && self.init.has_resend() {
            write(self.device, &wire::resend())?;
            for request in &unanswered {
                // It is recorded anew when it is read. Its change stays.
                self.kept.remove(Kind::Request, request.header.unique.of_request());
            }
            let recorded = unanswered.len();
            tracing::info!(recorded, "the kernel sends again what was not answered");
            return Ok(());
        }
        if unanswered.is_empty() {
            return Ok(());
        }
        tracing::info!(requests = unanswered.len(), "replaying what was not answered");
        self.replay(filesystem, config, &unanswered)
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
        for (_, request) in found {
            let Unanswered { header, bytes } = &request;
            if self.is_waited_for(header.unique)? {
                // Also what was found in a buffer: the buffers are used anew.
                in_flight::put(self.kept, header.unique, bytes);
                unanswered.push(request);
            } else {
                in_flight::forget(self.kept, header.unique);
            }
        }
        Ok(unanswered)
    }

    fn is_waited_for(&self, unique: Unique) -> io::Result<bool> {
        match write(self.device, &wire::probe(unique)) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether the worker has died so often with this request unanswered that it is the likely cause. Then it fails.
    fn is_poison(&self, header: &Header) -> bool {
        let number = header.unique.of_request();
        if self.kept.count(Kind::Suspect, number, 0).is_none() {
            self.kept.put(Kind::Suspect, number, &[]);
        }
        let deaths = self.kept.count(Kind::Suspect, number, 1).unwrap_or(0);
        if deaths < DEATHS_MAX {
            return false;
        }
        tracing::error!(
            operation = operation_name(header.operation),
            alias = (self.alias)(header.inode).map(tracing::field::display),
            deaths,
            "a request is failed, because workers died of it"
        );
        // ENOENT: nobody waits for it any more.
        let _ = write(self.device, &wire::failure(header.unique, libc::EIO));
        in_flight::forget(self.kept, header.unique);
        self.kept.remove(Kind::Suspect, number);
        true
    }

    /// Those that were answered are none.
    fn forget_suspects(&self, unanswered: &[Unanswered]) {
        for number in self.kept.numbers(Kind::Suspect) {
            if !unanswered.iter().any(|request| request.header.unique.of_request() == number) {
                self.kept.remove(Kind::Suspect, number);
            }
        }
    }

    fn replay<F: Filesystem>(
        &self,
        filesystem: F,
        config: fuser::Config,
        requests: &[Unanswered],
    ) -> io::Result<()> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let ours = Arc::new(ours);
        send(ours.as_raw_fd(), self.init.bytes(), MsgFlags::MSG_NOSIGNAL)?;
        let session = Session::from_fd(filesystem, theirs, SessionACL::All, config)?;
        // Its answer to INIT. The kernel has had one.
        recv(ours.as_raw_fd(), &mut vec![0; ANSWER_MAX_BYTES], MsgFlags::MSG_DONTWAIT)?;
        let device = self.device.try_clone_to_owned()?;
        pass_on_answers(Arc::clone(&ours), device, self.kept.clone())?;
        let replaying: JoinHandle<io::Result<()>> =
            std::thread::Builder::new().name("replay".into()).spawn(move || session.run())?;
        for request in requests {
            send(ours.as_raw_fd(), &request.bytes, MsgFlags::MSG_NOSIGNAL)?;
        }
        send(ours.as_raw_fd(), &wire::end_of_session(), MsgFlags::MSG_NOSIGNAL)?;
        // Then each is answered, or with a task.
        replaying.join().map_err(|_| io::Error::other("the replay has panicked"))?
    }
}

/// Passes the answers of replayed requests on to the kernel, until the last one is given.
fn pass_on_answers(from: Arc<OwnedFd>, device: OwnedFd, kept: Kept) -> io::Result<()> {
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
            match write(&device, &answer[..length]) {
                // ENOENT: nobody waits for it any more.
                Ok(_) | Err(Errno::ENOENT) => {}
                Err(errno) => {
                    tracing::warn!(%errno, "the kernel refuses the answer of a replayed request");
                }
            }
            in_flight::forget(&kept, unique);
        }
    };
    std::thread::Builder::new().name("answers".into()).spawn(pass_on).map(drop)
}
