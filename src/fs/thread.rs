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
use super::flat::FlatNames;
use super::inode::InodeId;
use super::kept::{KeptState, KeptThread};
use crate::session::content::Class;
use crate::session::name::{Alias, Shard};
use crate::store::{ChangeId, Claim};

const MAX_THREADS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
const MAX_SESSIONS: NonZeroUsize = NonZeroUsize::new(131_072).unwrap();
/// How long after a removal that is held a save by the same thread may take it back. Odoo 19 does so
/// within one request; longer would let a later request revive what was logged out.
const HELD_REMOVAL: Duration = Duration::from_secs(10);
/// How long after its open a session counts as that of the request which a background process
/// serves in a thread of many.
const BACKGROUND_REQUEST: Duration = Duration::from_secs(60);
/// Look-ups by threads that cannot be seen.
const MAX_UNSEEN: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// How many families a thread is known to have opened. A soft rotation reads and rewrites the old
/// session moments before it saves the new one, but in a background process other requests come
/// between.
const MAX_FAMILIES: usize = 16;
const MAX_FAMILIES_IN_BACKGROUND: usize = 1024;

/// The memory of all threads.
pub(crate) struct Threads {
    seen: LruCache<ThreadId, Thread>,
    sessions: LruCache<(ThreadId, Alias), Session>,
    /// What look-ups by threads that cannot be seen fetched, and when.
    unseen: LruCache<InodeId, Instant>,
    /// When this memory began.
    since: Instant,
    kept: KeptState,
}

/// One thread's state between its requests.
#[derive(Debug, Default)]
pub(crate) struct Thread {
    /// What it does with the flat names of sessions.
    pub flat: FlatNames,
    /// Its save between CREATE and RENAME.
    pub saving: Option<Saving>,
    /// The version that its last rename made. The look-up that follows is for the `chmod` that ends
    /// the save.
    pub published: Option<(Alias, InodeId, Instant)>,
    /// The version that its last look-up fetched, and when: current inside the `open` under way.
    fetched: Option<(InodeId, Instant)>,
    /// An `open` failed with an error of ours: its next create or first write must fail, too, or
    /// Odoo 14 would hand out a new cookie for an empty session.
    must_fail_next_save: bool,
    /// The request that was told so last. It is told so again if it is repeated.
    failed_save: Option<u64>,
    /// The session whose read has failed last.
    failed_read: Option<Alias>,
    /// The session that it opened last: that of its request.
    last_opened: Option<Alias>,
    /// Of each family the session that it opened last, the latest at the end.
    families: Vec<Alias>,
}

/// A save that is not renamed yet. The next look-up of a session's name is the one that the kernel
/// makes of the rename's target, so it is answered with a guess.
#[derive(Debug, Default)]
pub(crate) struct Saving {
    /// The name of that look-up, and the inode that was guessed. The kernel makes a second one if it
    /// knew another version by that name.
    pub target: Option<(Alias, InodeId)>,
}

/// A session as a thread has opened or saved it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct OpenedSession {
    pub birth: ChangeId,
    /// Whose it was.
    pub class: Class,
}

/// What one thread knows of one session.
#[derive(Clone, Debug, Default)]
struct Session {
    known: Option<OpenedSession>,
    /// When it was opened last.
    opened_at: Option<Instant>,
    held_removal: Option<(ChangeId, Instant)>,
    /// Its last read of it failed with an error of ours.
    failed_read: bool,
}

impl Threads {
    /// None yet. What the worker before has kept of a thread is found when the thread is heard of.
    pub(super) fn new(kept: KeptState) -> Self {
        Self {
            seen: LruCache::new(MAX_THREADS),
            sessions: LruCache::new(MAX_SESSIONS),
            unseen: LruCache::new(MAX_UNSEEN),
            since: Instant::now(),
            kept,
        }
    }

    /// The state of a thread; `None` for one that cannot be seen.
    pub(crate) fn get(&mut self, thread: Option<ThreadId>) -> Option<&mut Thread> {
        let thread = thread?;
        if !self.seen.contains(&thread) {
            let state = self.take_up(thread);
            self.seen.put(thread, state);
        }
        self.seen.get_mut(&thread)
    }

    /// What the worker before has remembered of a thread.
    fn take_up(&mut self, thread: ThreadId) -> Thread {
        let Some(kept) = self.kept.thread(thread) else { return Thread::default() };
        let KeptThread { opened, must_fail_next_save, failed_save, failed_read } = kept;
        let mut state = Thread {
            must_fail_next_save,
            failed_save,
            failed_read: failed_read.clone(),
            ..Thread::default()
        };
        let since = self.since;
        if let Some(alias) = failed_read
            && let Some(session) = self.session(Some(thread), &alias)
        {
            session.failed_read = true;
        }
        if let Some((alias, known)) = opened
            && let Some(session) = self.session(Some(thread), &alias)
        {
            // Whatever is known here is newer.
            session.known.get_or_insert(known);
            session.opened_at.get_or_insert(since);
            state.families.extend(alias.family().map(|_| alias.clone()));
            state.last_opened = Some(alias);
        }
        state
    }

    /// Keeps what the next worker has to know of a thread.
    fn keep(&self, thread: Option<ThreadId>) {
        let Some((thread, state)) = thread.and_then(|id| Some((id, self.seen.peek(&id)?))) else {
            return;
        };
        let session = |alias: &Alias| self.sessions.peek(&(thread, alias.clone()));
        let opened = |alias: &Alias| Some((alias.clone(), session(alias)?.known?));
        let failed = |alias: &&Alias| session(alias).is_some_and(|session| session.failed_read);
        self.kept.put_thread(
            thread,
            &KeptThread {
                opened: state.last_opened.as_ref().and_then(opened),
                must_fail_next_save: state.must_fail_next_save,
                failed_save: state.failed_save,
                failed_read: state.failed_read.as_ref().filter(failed).cloned(),
            },
        );
    }

    /// Its look-up fetched this version, at `now`.
    pub(crate) fn fetched(&mut self, thread: Option<ThreadId>, inode: InodeId, now: Instant) {
        match self.get(thread) {
            Some(state) => state.fetched = Some((inode, now)),
            None => drop(self.unseen.put(inode, now)),
        }
    }

    /// It looks up a name: what it fetched before is no part of the `open` that may follow.
    pub(crate) fn looks_up(&mut self, thread: Option<ThreadId>) {
        if let Some(state) = self.get(thread) {
            state.fetched = None;
        }
    }

    /// How long before `now` its last look-up was, if that fetched this version. Told once.
    pub(crate) fn take_fetched(
        &mut self,
        thread: Option<ThreadId>,
        inode: InodeId,
        now: Instant,
    ) -> Option<Duration> {
        let fetched = match self.get(thread) {
            Some(state) => state.fetched.take().filter(|(fetched, _)| *fetched == inode),
            None => self.unseen.pop(&inode).map(|at| (inode, at)),
        };
        fetched.map(|(_, at)| now.saturating_duration_since(at))
    }

    /// It opened this session, at `now`.
    pub(crate) fn opened(
        &mut self,
        by: Identity,
        alias: &Alias,
        opened: OpenedSession,
        now: Instant,
    ) {
        let Some(state) = self.get(by.thread) else { return };
        state.must_fail_next_save = false;
        state.last_opened = Some(alias.clone());
        state.used_family(by, alias);
        if let Some(session) = self.session(by.thread, alias) {
            // Elsewhere a new request has begun, and the removal belongs to an earlier one.
            let held_removal = session.held_removal.take().filter(|_| by.background);
            session.open(opened);
            session.opened_at = Some(now);
            session.held_removal = held_removal;
        }
        self.keep(by.thread);
    }

    /// What is known of this session, if the request that the thread serves at `now` has opened it: it
    /// is the one that the thread opened last, or in a background process, where requests share a
    /// thread, one that was opened within the last minute.
    pub(crate) fn last_opened(
        &mut self,
        by: Identity,
        alias: &Alias,
        now: Instant,
    ) -> Option<OpenedSession> {
        let thread = by.thread?;
        self.get(by.thread)?;
        let session = self.sessions.peek(&(thread, alias.clone()))?;
        let opened_at = session.opened_at?;
        let is_own = if by.background {
            now.saturating_duration_since(opened_at) < BACKGROUND_REQUEST
        } else {
            self.seen.peek(&thread)?.last_opened.as_ref() == Some(alias)
        };
        session.known.filter(|_| is_own)
    }

    /// Its open failed with an error of ours.
    pub(crate) fn read_failed(&mut self, thread: Option<ThreadId>, alias: &Alias) {
        let Some(state) = self.get(thread) else { return };
        state.must_fail_next_save = true;
        state.failed_read = Some(alias.clone());
        if let Some(session) = self.session(thread, alias) {
            session.failed_read = true;
        }
        self.keep(thread);
    }

    /// The next save of this thread has to fail.
    pub(crate) fn fail_next_save(&mut self, thread: Option<ThreadId>) {
        if let Some(state) = self.get(thread) {
            state.must_fail_next_save = true;
            self.keep(thread);
        }
    }

    /// Whether this save of the thread has to fail. Told to one request, however often it is repeated.
    pub(crate) fn must_fail_save(&mut self, by: Identity) -> bool {
        let Some(state) = self.get(by.thread) else { return false };
        let request = by.request.map(|request| request.number);
        let was_told = by.is_repeated() && state.failed_save == request;
        if std::mem::take(&mut state.must_fail_next_save) {
            state.failed_save = request;
            self.keep(by.thread);
            return true;
        }
        was_told
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

    /// The removal of this session that its request has asked for, if it was held.
    pub(crate) fn asked_for(&self, thread: Option<ThreadId>, alias: &Alias) -> Option<ChangeId> {
        let session = self.sessions.peek(&(thread?, alias.clone()))?;
        session.held_removal.map(|(removal, _)| removal)
    }

    /// Its save was taken, at `now`: it is this session.
    pub(crate) fn published(
        &mut self,
        by: Identity,
        alias: &Alias,
        saved: OpenedSession,
        inode: InodeId,
        now: Instant,
    ) {
        let Some(state) = self.get(by.thread) else { return };
        state.published = Some((alias.clone(), inode, now));
        state.used_family(by, alias);
        if let Some(session) = self.session(by.thread, alias) {
            session.open(saved);
        }
        self.keep(by.thread);
    }

    /// What this thread knows of a session that it saves at `now`.
    pub(crate) fn claim(&mut self, by: Identity, alias: &Alias, now: Instant) -> Claim {
        let Some(thread) = by.thread else { return Claim::default() };
        // It may be one that the worker before has known.
        self.get(by.thread);
        let session = self.sessions.get(&(thread, alias.clone())).cloned().unwrap_or_default();
        let mut claim = Claim {
            opened: session.known.map(|known| known.birth),
            held_removal: session
                .held_removal
                .filter(|(_, at)| now.saturating_duration_since(*at) < HELD_REMOVAL)
                .map(|(removal, _)| removal),
            sibling: None,
            after_failed_read: session.failed_read,
        };
        if let Some(state) = self.seen.get_mut(&thread) {
            state.saving = None;
            if session.known.is_none() {
                claim.sibling = state.sibling(alias);
            }
        }
        claim
    }

    fn session(&mut self, thread: Option<ThreadId>, alias: &Alias) -> Option<&mut Session> {
        Some(self.sessions.get_or_insert_mut((thread?, alias.clone()), Session::default))
    }
}

impl Thread {
    /// The session that it opened last.
    pub(crate) fn last_opened(&self) -> Option<&Alias> {
        self.last_opened.as_ref()
    }

    /// Its shard.
    pub(crate) fn last_shard(&self) -> Option<Shard> {
        self.last_opened().map(Alias::shard)
    }

    /// The save under way is given up, or nothing more is known of it.
    pub(crate) fn end_save(&mut self) {
        self.saving = None;
    }

    /// Whether `inode` is what the look-up of a rename's target was answered with. Who asks for its
    /// attributes makes no rename, and is no longer answered with guesses.
    pub(crate) fn end_guess(&mut self, inode: InodeId) -> bool {
        let target = self.saving.as_ref().and_then(|saving| saving.target.as_ref());
        let guessed = target.is_some_and(|(_, guessed)| *guessed == inode);
        if guessed {
            self.saving = None;
        }
        guessed
    }

    fn used_family(&mut self, by: Identity, alias: &Alias) {
        let at_most = if by.background { MAX_FAMILIES_IN_BACKGROUND } else { MAX_FAMILIES };
        let Some(family) = alias.family() else { return };
        if self.families.last() == Some(alias) {
            return;
        }
        self.families.retain(|known| known.family() != Some(family));
        if self.families.len() >= at_most {
            self.families.remove(0);
        }
        self.families.push(alias.clone());
    }

    /// The session of the family of `alias` that it opened last. A soft rotation reads and rewrites
    /// the old session before it saves the new one.
    fn sibling(&self, alias: &Alias) -> Option<Alias> {
        let family = alias.family()?;
        self.families
            .iter()
            .rev()
            .find(|known| *known != alias && known.family() == Some(family))
            .cloned()
    }
}

impl Session {
    /// It was opened, or saved.
    fn open(&mut self, known: OpenedSession) {
        *self = Self { known: Some(known), opened_at: self.opened_at, ..Self::default() };
    }
}
