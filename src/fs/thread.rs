//! What is remembered of a calling thread.
//!
//! Odoo serves one request at a time in a thread, so "this thread opened that birth" stands for
//! "this request loaded that session". Everything is bounded: forgetting costs a round trip or a
//! refusal by the store's own rules, never a wrong answer. A thread of id 0 (another PID
//! namespace) is not remembered at all.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::inode::InodeId;
use crate::session::name::{Alias, Shard};
use crate::store::{ChangeId, Claim};

const MAX_THREADS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
const MAX_OPENED: NonZeroUsize = NonZeroUsize::new(131_072).unwrap();
/// How many shards of its last listings a thread may remove from by alias.
const MAX_LISTED: usize = 4_096;
/// How long after its own unlink a thread may let the same life go on. Odoo 19 does it within
/// one request; longer would let a later request revive what was logged out.
const OWN_UNLINK: Duration = Duration::from_secs(10);

/// A directory that was listed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Listing {
    /// The root, with the flat names of Odoo 14 and 15.
    Root,
    /// One shard.
    Shard(Shard),
}

/// The memory of all threads.
pub struct Threads {
    threads: LruCache<u32, Thread>,
    opened: LruCache<(u32, Alias), Session>,
}

/// One thread's state between its requests to us.
#[derive(Debug, Default)]
pub struct Thread {
    /// It has named a shard, so it is an Odoo of 16 or later and its flat probes are in vain.
    pub names_shards: bool,
    /// It has created a staging file and not renamed it yet: its next look-up of a session name is
    /// that rename's own look at its target.
    pub unpublished: bool,
    /// The name of that look. The kernel looks again if it knew another version by it, and the
    /// second look belongs to the rename as well.
    pub target: Option<Alias>,
    /// The version that its last rename made: the look-up that follows is the `chmod` of the save.
    pub published: Option<(Alias, InodeId)>,
    /// The version inode that its last look-up fetched: current inside the `open` under way.
    pub fetched: Option<InodeId>,
    /// The inode for which its `open` was told `ESTALE`; the kernel retries that once.
    pub told_stale: Option<InodeId>,
    /// An `open` failed for our own fault: its next create or first write must fail, too, or
    /// Odoo 14 would hand out a new cookie for an empty session.
    pub owes_failure: bool,
    listed: Vec<Listing>,
}

#[derive(Clone, Debug, Default)]
struct Session {
    birth: Option<ChangeId>,
    own_unlink: Option<(ChangeId, Instant)>,
    after_failed_read: bool,
}

impl Default for Threads {
    fn default() -> Self {
        Self { threads: LruCache::new(MAX_THREADS), opened: LruCache::new(MAX_OPENED) }
    }
}

impl Threads {
    /// The state of thread `tid`; `None` for a foreign one.
    pub fn get(&mut self, tid: u32) -> Option<&mut Thread> {
        (tid != 0).then(|| self.threads.get_or_insert_mut(tid, Thread::default))
    }

    /// The id belongs to another thread now. Births it opened are left to be pushed out: they
    /// are asked for by alias, and a wrong one is refused by the store.
    pub fn forget(&mut self, tid: u32) {
        self.threads.pop(&tid);
    }

    /// It opened this birth: it owes nothing any more.
    pub fn opened(&mut self, tid: u32, alias: &Alias, birth: ChangeId) {
        let Some(thread) = self.get(tid) else { return };
        thread.owes_failure = false;
        thread.told_stale = None;
        self.opened.put(
            (tid, alias.clone()),
            Session { birth: Some(birth), own_unlink: None, after_failed_read: false },
        );
    }

    /// Its open failed for our own fault.
    pub fn failed_to_open(&mut self, tid: u32, alias: &Alias) {
        let Some(thread) = self.get(tid) else { return };
        thread.owes_failure = true;
        self.session(tid, alias).after_failed_read = true;
    }

    /// It looked for a session and there was none: what it unlinked before belongs to an earlier
    /// request.
    pub fn found_absent(&mut self, tid: u32, alias: &Alias) {
        if let Some(session) = self.opened.get_mut(&(tid, alias.clone())) {
            session.own_unlink = None;
        }
    }

    /// It removed this birth.
    pub fn unlinked(&mut self, tid: u32, alias: &Alias, birth: ChangeId) {
        if tid != 0 {
            self.session(tid, alias).own_unlink = Some((birth, Instant::now()));
        }
    }

    /// Its save was taken, in this birth.
    pub fn published(&mut self, tid: u32, alias: &Alias, birth: ChangeId, inode: InodeId) {
        let Some(thread) = self.get(tid) else { return };
        thread.unpublished = false;
        thread.published = Some((alias.clone(), inode));
        self.opened.put(
            (tid, alias.clone()),
            Session { birth: Some(birth), own_unlink: None, after_failed_read: false },
        );
    }

    /// Its save was overtaken. The birth that is current now is not known, so what it opened
    /// stays as it was.
    pub fn superseded(&mut self, tid: u32) {
        if let Some(thread) = self.get(tid) {
            thread.unpublished = false;
            thread.published = None;
        }
    }

    /// What this thread knows of a session that it is about to save.
    pub fn claim(&mut self, tid: u32, alias: &Alias) -> Claim {
        if let Some(thread) = self.get(tid) {
            thread.target = None;
        }
        let session = (tid != 0).then(|| self.opened.get(&(tid, alias.clone())).cloned()).flatten();
        let sibling = match &session {
            Some(Session { birth: Some(_), .. }) => None,
            _ => self.sibling(tid, alias),
        };
        let session = session.unwrap_or_default();
        Claim {
            opened: session.birth,
            own_unlink: session
                .own_unlink
                .filter(|(_, at)| at.elapsed() < OWN_UNLINK)
                .map(|(birth, _)| birth),
            sibling,
            after_failed_read: session.after_failed_read,
        }
    }

    /// Notes that it listed a directory.
    pub fn listed(&mut self, tid: u32, listing: Listing) {
        let Some(thread) = self.get(tid) else { return };
        thread.listed.retain(|&known| known != listing);
        if thread.listed.len() == MAX_LISTED {
            thread.listed.remove(0);
        }
        thread.listed.push(listing);
    }

    /// Whether it has listed that directory, and so may remove what it saw there.
    pub fn has_listed(&mut self, tid: u32, listing: Listing) -> bool {
        self.get(tid).is_some_and(|thread| thread.listed.contains(&listing))
    }

    fn session(&mut self, tid: u32, alias: &Alias) -> &mut Session {
        self.opened.get_or_insert_mut((tid, alias.clone()), Session::default)
    }

    /// The session that this thread opened last and that shares the family of `alias`. A soft
    /// rotation reads and rewrites the old session moments before it writes the new one, so the
    /// look goes back a few entries only.
    fn sibling(&self, tid: u32, alias: &Alias) -> Option<Alias> {
        const LOOK_BACK: usize = 256;
        let family = alias.family()?;
        self.opened
            .iter()
            .take(LOOK_BACK)
            .find(|((by, other), session)| {
                *by == tid
                    && session.birth.is_some()
                    && other != alias
                    && other.family() == Some(family)
            })
            .map(|((_, other), _)| other.clone())
    }
}
