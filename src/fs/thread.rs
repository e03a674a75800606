//! What is remembered of each calling thread.
//!
//! Odoo serves one request at a time in a thread, so "this thread opened that birth" stands for
//! "this request loaded that session". Everything is bounded: forgetting costs a round trip or a
//! refusal by the store's own rules, never a wrong answer. A thread that cannot be seen (another
//! PID namespace) is not remembered at all.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::caller::{Identity, ThreadId};
use super::inode::InodeId;
use crate::session::name::{Alias, Shard};
use crate::store::{ChangeId, Claim};

const MAX_THREADS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
const MAX_SESSIONS: NonZeroUsize = NonZeroUsize::new(131_072).unwrap();
/// From how many of the shards that it listed last a thread may remove by alias.
const MAX_LISTED: usize = 4_096;
/// How long after a removal that is held a save by the same thread may take it back. Odoo 19 does so
/// within one request; longer would let a later request revive what was logged out.
const HELD_REMOVAL: Duration = Duration::from_secs(10);
/// How long after its open a session counts as that of the request which a background process
/// serves in a thread of many.
const BACKGROUND_REQUEST: Duration = Duration::from_secs(60);

/// A directory that was listed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Listing {
    /// The root, with the flat names of Odoo 14 and 15.
    Root,
    Shard(Shard),
}

/// The memory of all threads.
pub(crate) struct Threads {
    threads: LruCache<ThreadId, Thread>,
    sessions: LruCache<(ThreadId, Alias), Session>,
}

/// One thread's state between its requests.
#[derive(Debug, Default)]
pub(crate) struct Thread {
    /// It has used the name of a shard, so it is an Odoo of 16 or later: its probes of flat names
    /// get ENOENT without a request to the store.
    pub names_shards: bool,
    /// It has created a staging file and not renamed it yet. Its next look-up of a session name is
    /// the one that the kernel makes of the rename's target.
    pub unpublished: bool,
    /// The name of that look-up. The kernel makes a second one if it knew another version by it.
    pub target: Option<Alias>,
    /// The version that its last rename made. The look-up that follows is for the `chmod` that ends
    /// the save.
    pub published: Option<(Alias, InodeId)>,
    /// The version that its last look-up fetched: current inside the `open` under way.
    pub fetched: Option<InodeId>,
    /// The inode for which its `open` got `ESTALE`. The kernel retries that once.
    pub stale: Option<InodeId>,
    /// An `open` failed with an error of ours: its next create or first write must fail, too, or
    /// Odoo 14 would hand out a new cookie for an empty session.
    pub must_fail_next_save: bool,
    /// The session that it opened last: that of its request.
    last_opened: Option<Alias>,
    listed: Vec<Listing>,
}

/// What one thread knows of one session.
#[derive(Clone, Debug, Default)]
struct Session {
    birth: Option<ChangeId>,
    /// When it was opened last.
    opened_at: Option<Instant>,
    held_removal: Option<(ChangeId, Instant)>,
    after_failed_read: bool,
}

impl Session {
    /// It was opened, or saved, as this birth.
    fn open(&mut self, birth: ChangeId) {
        *self = Self { birth: Some(birth), opened_at: self.opened_at, ..Self::default() };
    }
}

impl Default for Threads {
    fn default() -> Self {
        Self { threads: LruCache::new(MAX_THREADS), sessions: LruCache::new(MAX_SESSIONS) }
    }
}

impl Threads {
    /// The state of a thread; `None` for one that cannot be seen.
    pub(crate) fn get(&mut self, thread: Option<ThreadId>) -> Option<&mut Thread> {
        Some(self.threads.get_or_insert_mut(thread?, Thread::default))
    }

    /// It opened this birth, at `now`.
    pub(crate) fn opened(&mut self, by: Identity, alias: &Alias, birth: ChangeId, now: Instant) {
        let Some(state) = self.get(by.thread) else { return };
        state.must_fail_next_save = false;
        state.stale = None;
        state.last_opened = Some(alias.clone());
        if let Some(session) = self.session(by.thread, alias) {
            // Elsewhere a new request has begun, and the removal belongs to an earlier one.
            let held_removal = session.held_removal.take().filter(|_| by.background);
            session.open(birth);
            session.opened_at = Some(now);
            session.held_removal = held_removal;
        }
    }

    /// The birth of this session, if the request that the thread serves at `now` has opened it: it
    /// is the one that the thread opened last, or in a background process, where requests share a
    /// thread, one that was opened within the last minute.
    pub(crate) fn last_opened(
        &mut self,
        by: Identity,
        alias: &Alias,
        now: Instant,
    ) -> Option<ChangeId> {
        let thread = by.thread?;
        let session = self.sessions.peek(&(thread, alias.clone()))?;
        let opened_at = session.opened_at?;
        let is_own = if by.background {
            now.saturating_duration_since(opened_at) < BACKGROUND_REQUEST
        } else {
            self.threads.peek(&thread)?.last_opened.as_ref() == Some(alias)
        };
        session.birth.filter(|_| is_own)
    }

    /// Its open failed with an error of ours.
    pub(crate) fn read_failed(&mut self, thread: Option<ThreadId>, alias: &Alias) {
        let Some(state) = self.get(thread) else { return };
        state.must_fail_next_save = true;
        if let Some(session) = self.session(thread, alias) {
            session.after_failed_read = true;
        }
    }

    /// It looked for a session and there was none: what it removed before belongs to an earlier
    /// request.
    pub(crate) fn found_absent(&mut self, thread: Option<ThreadId>, alias: &Alias) {
        let Some(thread) = thread else { return };
        if let Some(session) = self.sessions.get_mut(&(thread, alias.clone())) {
            session.held_removal = None;
        }
    }

    /// Its removal of this session, asked for at `now`, is held.
    pub(crate) fn removal_held(
        &mut self,
        thread: Option<ThreadId>,
        alias: &Alias,
        removal: ChangeId,
        now: Instant,
    ) {
        if let Some(session) = self.session(thread, alias) {
            session.held_removal = Some((removal, now));
        }
    }

    /// Its save was taken, in this birth.
    pub(crate) fn published(
        &mut self,
        thread: Option<ThreadId>,
        alias: &Alias,
        birth: ChangeId,
        inode: InodeId,
    ) {
        let Some(state) = self.get(thread) else { return };
        state.unpublished = false;
        state.published = Some((alias.clone(), inode));
        if let Some(session) = self.session(thread, alias) {
            session.open(birth);
        }
    }

    /// Its save was superseded. The current birth is not known, so what it opened stays.
    pub(crate) fn superseded(&mut self, thread: Option<ThreadId>) {
        if let Some(state) = self.get(thread) {
            state.unpublished = false;
        }
    }

    /// What this thread knows of a session that it saves at `now`.
    pub(crate) fn claim(&mut self, thread: Option<ThreadId>, alias: &Alias, now: Instant) -> Claim {
        let Some(thread) = thread else { return Claim::default() };
        if let Some(state) = self.threads.get_mut(&thread) {
            state.target = None;
        }
        let session = self.sessions.get(&(thread, alias.clone())).cloned().unwrap_or_default();
        Claim {
            opened: session.birth,
            held_removal: session
                .held_removal
                .filter(|(_, at)| now.saturating_duration_since(*at) < HELD_REMOVAL)
                .map(|(removal, _)| removal),
            sibling: if session.birth.is_some() { None } else { self.sibling(thread, alias) },
            after_failed_read: session.after_failed_read,
        }
    }

    /// It listed a directory.
    pub(crate) fn listed(&mut self, thread: Option<ThreadId>, listing: Listing) {
        let Some(state) = self.get(thread) else { return };
        state.listed.retain(|&known| known != listing);
        if state.listed.len() == MAX_LISTED {
            state.listed.remove(0);
        }
        state.listed.push(listing);
    }

    /// Whether it has listed that directory, and so may remove what it saw there.
    pub(crate) fn has_listed(&mut self, thread: Option<ThreadId>, listing: Listing) -> bool {
        self.get(thread).is_some_and(|state| state.listed.contains(&listing))
    }

    fn session(&mut self, thread: Option<ThreadId>, alias: &Alias) -> Option<&mut Session> {
        Some(self.sessions.get_or_insert_mut((thread?, alias.clone()), Session::default))
    }

    /// The session that this thread opened last and that shares the family of `alias`. A soft
    /// rotation reads and rewrites the old session moments before it writes the new one, so only
    /// a few entries are searched.
    fn sibling(&self, thread: ThreadId, alias: &Alias) -> Option<Alias> {
        const LOOK_BACK: usize = 256;
        let family = alias.family()?;
        self.sessions
            .iter()
            .take(LOOK_BACK)
            .find(|((by, other), session)| {
                *by == thread
                    && session.birth.is_some()
                    && other != alias
                    && other.family() == Some(family)
            })
            .map(|((_, other), _)| other.clone())
    }
}
