//! Random histories of two servers, with what the kernel does on each: every read gives the
//! content that is current, or says that there is none when there is none, whatever was cached,
//! forgotten or lost on the way; and in the end nothing is held.

use std::sync::mpsc::Receiver;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use sessionfs::fs::attributes::Change;
use sessionfs::fs::inode::{Eviction, InodeId};
use sessionfs::session::name::Sid;
use sessionfs::session::seal;
use sessionfs::session::secret::Keyring;
use sessionfs::store::HELD_IN_STORE_MS;
use sessionfs::store::{Health, Link as _};

use super::support::kernel::{Kernel, person, sid, thread, visitor};
use super::support::memory::{Fault, Memory};
use super::support::model::UNIT;
use super::{NOTHING, shard};

const SESSIONS: u32 = 3;
const THREADS: u32 = 3;

#[derive(Clone, Debug)]
enum Op {
    Save {
        at: At,
        person: bool,
        text: u16,
    },
    Read {
        at: At,
    },
    /// A look-up whose inode is opened later, perhaps after others have saved.
    Look {
        at: At,
    },
    OpenLooked {
        server: usize,
        thread: u32,
        which: prop::sample::Index,
    },
    Unlink {
        at: At,
    },
    /// Listed, then removed by what the listing shows.
    Revoke {
        at: At,
    },
    Pass {
        units: u64,
    },
    Forget {
        server: usize,
    },
    /// The next request of a server fails.
    Fail {
        server: usize,
        unreadable: bool,
    },
    /// The link of a server gets worse, or is up again.
    Link {
        server: usize,
        health: Health,
    },
    /// The kernel does what it was asked to, and forgets the oldest entries.
    Evict {
        server: usize,
    },
    /// `chmod` of an inode that was looked up.
    Chmod {
        server: usize,
        thread: u32,
        mode: u32,
        which: prop::sample::Index,
    },
}

#[derive(Clone, Copy, Debug)]
struct At {
    server: usize,
    thread: u32,
    session: u32,
}

fn op() -> impl Strategy<Value = Op> {
    let at = || {
        (0..2_usize, 0..THREADS, 0..SESSIONS).prop_map(|(server, thread, session)| At {
            server,
            thread,
            session,
        })
    };
    let health =
        prop_oneof![2 => Just(Health::Up), 1 => Just(Health::Degraded), 1 => Just(Health::Down)];
    prop_oneof![
        6 => (at(), prop::bool::weighted(0.8), any::<u16>())
            .prop_map(|(at, person, text)| Op::Save { at, person, text }),
        8 => at().prop_map(|at| Op::Read { at }),
        4 => at().prop_map(|at| Op::Look { at }),
        4 => (0..2_usize, 0..THREADS, any::<prop::sample::Index>())
            .prop_map(|(server, thread, which)| Op::OpenLooked { server, thread, which }),
        2 => at().prop_map(|at| Op::Unlink { at }),
        1 => at().prop_map(|at| Op::Revoke { at }),
        2 => (1..10_u64).prop_map(|units| Op::Pass { units }),
        1 => (0..2_usize).prop_map(|server| Op::Forget { server }),
        2 => (0..2_usize, any::<bool>())
            .prop_map(|(server, unreadable)| Op::Fail { server, unreadable }),
        2 => (0..2_usize, health).prop_map(|(server, health)| Op::Link { server, health }),
        1 => (0..2_usize).prop_map(|server| Op::Evict { server }),
        1 => (0..2_usize, 0..THREADS, 0..0o1000_u32, any::<prop::sample::Index>()).prop_map(
            |(server, thread, mode, which)| Op::Chmod { server, thread, mode, which }
        ),
    ]
}

struct History {
    servers: [Kernel; 2],
    /// Inodes that the kernel of each server may open, with their session.
    looked: [Vec<(u32, InodeId)>; 2],
    /// The entries that the kernel of each server was asked to forget.
    evictions: [Receiver<Eviction>; 2],
    /// The faults that were yet to happen before this step, on each server.
    pending: [usize; 2],
}

impl History {
    /// `is_near`: what is current is at hand on each server, and its kernel keeps names.
    fn new(is_near: bool) -> Self {
        let store = Memory::new();
        let few = |store: Memory| {
            if is_near {
                store.keep_at_hand();
            }
            Kernel::with(store, |settings| {
                settings.max_inodes = 4;
                settings.name_valid_ms = if is_near { 60_000 } else { 0 };
            })
        };
        let servers = [few(store.clone()), few(store.other_server())];
        let evictions = [0, 1]
            .map(|server: usize| servers[server].core.take_evictions().expect("given out once"));
        Self { servers, looked: [vec![], vec![]], evictions, pending: [0, 0] }
    }

    /// The content that whoever opens the session now has to get.
    fn current(&self, session: &Sid) -> Option<Bytes> {
        let (_, bound, sealed) = self.servers[0].store.model().fetch(&session.alias())?;
        let plain = seal::open(&Keyring::for_tests(), session, &bound, &sealed);
        Some(plain.expect("sealed by its holder").into())
    }

    /// Whether a request of this step failed, or may have, so that its answer may be another than
    /// the true one.
    fn was_disturbed(&self, server: usize) -> bool {
        let store = &self.servers[server].store;
        store.pending_faults() < self.pending[server] || store.health(None) != Health::Up
    }

    fn judge(&self, server: usize, session: &Sid, got: Result<Bytes, i32>) -> Result<(), String> {
        let current = self.current(session);
        let disturbed = self.was_disturbed(server);
        match (got, current) {
            (Ok(got), Some(current)) if got == current => Ok(()),
            (Err(libc::ENOENT), None) => Ok(()),
            // Never ENOENT, and never another content, for a fault of ours.
            (Err(libc::EIO | libc::EINTR), _) if disturbed => Ok(()),
            (got, current) => Err(format!("got {got:?}, current is {current:?}")),
        }
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        self.pending = [0, 1].map(|server| self.servers[server].store.pending_faults());
        match *op {
            Op::Save { at, person, text } => self.save(at, person, text),
            Op::Read { at } => {
                let session = sid('a', at.session);
                let got = self.servers[at.server].read(thread(at.thread), &session);
                self.judge(at.server, &session, got)
            }
            Op::Look { at } => self.look(at),
            Op::OpenLooked { server, thread, which } => self.open_looked(server, thread, which),
            Op::Unlink { at } => self.unlink(at),
            Op::Revoke { at } => self.revoke(at),
            Op::Chmod { server, thread, mode, which } => self.chmod(server, thread, mode, which),
            Op::Forget { server } => self.forget(server),
            Op::Evict { server } => {
                for eviction in self.evictions[server].try_iter() {
                    if let Some(inode) = self.servers[server].invalidate(&eviction) {
                        self.looked[server].retain(|(_, looked)| *looked != inode);
                    }
                }
                Ok(())
            }
            Op::Pass { units } => {
                self.servers[0].store.model().pass(units * UNIT);
                Ok(())
            }
            Op::Link { server, health } => {
                self.servers[server].store.set_health(health);
                Ok(())
            }
            Op::Fail { server, unreadable } => {
                let fault = if unreadable { Fault::Unreadable } else { Fault::Unavailable };
                self.servers[server].store.next_fault(fault);
                Ok(())
            }
        }
    }

    fn save(&self, at: At, logged_in: bool, text: u16) -> Result<(), String> {
        let content = if logged_in { person } else { visitor }(&text.to_string());
        let session = sid('a', at.session);
        let saved = self.servers[at.server].save(thread(at.thread), &session, &content);
        let disturbed = self.was_disturbed(at.server);
        match saved {
            Ok(_) if self.current(&session).as_ref() == Some(&content) => Ok(()),
            // EIO: because of an earlier failed open, or lost now.
            Err(libc::EACCES | libc::EIO) => Ok(()),
            Err(libc::EINTR) if disturbed => Ok(()),
            other => Err(format!("{other:?}, disturbed: {disturbed}")),
        }
    }

    fn look(&mut self, at: At) -> Result<(), String> {
        let session = sid('a', at.session);
        let kernel = &self.servers[at.server];
        let before = kernel.store.requests();
        let found = kernel.lookup(thread(at.thread), &session);
        let disturbed = self.was_disturbed(at.server);
        // A thread with a save under way is answered without a request.
        let was_guessed = kernel.store.requests() == before;
        match (found, self.current(&session)) {
            (Ok(entry), current) if current.is_some() || disturbed || was_guessed => {
                self.looked[at.server].push((at.session, entry.attributes.inode));
                Ok(())
            }
            (Err(libc::ENOENT), None) => Ok(()),
            (Err(libc::EIO), _) if disturbed => Ok(()),
            (found, current) => Err(format!("found {found:?}, current is {current:?}")),
        }
    }

    fn looked_inode(&self, server: usize, which: prop::sample::Index) -> Option<(Sid, InodeId)> {
        let looked = &self.looked[server];
        let (session, inode) = (!looked.is_empty()).then(|| *which.get(looked))?;
        Some((sid('a', session), inode))
    }

    fn open_looked(
        &self,
        server: usize,
        number: u32,
        which: prop::sample::Index,
    ) -> Result<(), String> {
        let Some((session, inode)) = self.looked_inode(server, which) else { return Ok(()) };
        let kernel = &self.servers[server];
        // Not the thread that looked: for that one the look-up is part of this very open, and what
        // was current at it is right.
        let by = thread(THREADS + number);
        let got = match kernel.open_inode(by, inode) {
            Err(libc::ESTALE) => kernel.read(by, &session),
            opened => opened.map(|handle| {
                let bytes = kernel.read_handle(handle);
                kernel.core.release(handle);
                bytes
            }),
        };
        self.judge(server, &session, got)
    }

    fn chmod(
        &self,
        server: usize,
        number: u32,
        mode: u32,
        which: prop::sample::Index,
    ) -> Result<(), String> {
        let Some((session, inode)) = self.looked_inode(server, which) else { return Ok(()) };
        let kernel = &self.servers[server];
        let change = Change { mode: Some(mode), ..Change::default() };
        let changed = kernel.run(kernel.core.set_attributes(thread(number), inode, None, change));
        kernel.changed(inode);
        match changed.map(|attributes| attributes.mode) {
            Ok(now) if now == Some(mode) => Ok(()),
            Err(libc::EIO) if self.was_disturbed(server) => Ok(()),
            Err(libc::ENOENT) if self.current(&session).is_none() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    fn unlink(&self, at: At) -> Result<(), String> {
        let session = sid('a', at.session);
        let before = self.current(&session).is_some();
        let removed = self.servers[at.server].unlink(thread(at.thread), &session);
        match removed {
            Ok(()) if before && self.current(&session).is_none() => Ok(()),
            Err(libc::ENOENT) if !before => Ok(()),
            Err(libc::EIO) if self.was_disturbed(at.server) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    fn revoke(&self, at: At) -> Result<(), String> {
        let kernel = &self.servers[at.server];
        let listed = kernel.list(thread(at.thread), shard());
        let alias = sid('a', at.session).alias();
        if !listed.is_ok_and(|all| all.iter().any(|(name, _)| name == alias.as_str())) {
            return Ok(());
        }
        // The look-up that unlink(2) makes first.
        let _ = kernel.lookup_name(thread(at.thread), shard(), alias.as_str());
        let removed = kernel.unlink_name(thread(at.thread), shard(), alias.as_str());
        if removed.is_ok() {
            // A removal of the session that this thread opened last is held.
            kernel.store.model().pass(HELD_IN_STORE_MS);
        }
        let is_gone = self.current(&sid('a', at.session)).is_none();
        // It is held on the server while its link is not up, for longer than any history takes.
        if removed == Ok(()) && !is_gone && !self.was_disturbed(at.server) {
            return Err("removed, and still there".into());
        }
        Ok(())
    }

    fn forget(&mut self, server: usize) -> Result<(), String> {
        self.looked[server].clear();
        let held = self.servers[server].forget_all();
        // What failed saves have left is removed as an orphan later.
        if held.inodes == 0 && held.handles == 0 { Ok(()) } else { Err(format!("{held:?}")) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_read_gives_what_is_current_and_in_the_end_nothing_is_held(
        ops in vec(op(), 1..80), is_near: bool
    ) {
        let mut history = History::new(is_near);
        for (step, op) in ops.iter().enumerate() {
            history.step(op).map_err(|why| {
                TestCaseError::fail(format!("step {step}, {op:?}: {why}"))
            })?;
        }
        for kernel in &history.servers {
            let held = kernel.forget_all();
            prop_assert_eq!((held.inodes, held.handles), (NOTHING.inodes, NOTHING.handles));
        }
    }
}
