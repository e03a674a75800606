//! What a listing allows the thread that has taken it.
//!
//! Odoo's collectors and its revocation of devices list, look at what they found, and remove some of
//! it by the listed names. So a listing grants its thread the removal of what it shows, and for a
//! moment answers the thread's look-ups of it. The grant ends when the thread tries to open a
//! session, since another request begins then, and some seconds after its last use.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::caller::ThreadId;
use super::kept::KeptState;
use crate::session::name::Alias;
use crate::store::Listed;

/// How long after its last use a grant ends. The collector of Odoo 14 looks at 20,000 names before
/// it removes one.
pub(super) const ENDS_AFTER: Duration = Duration::from_secs(10);
/// How long look-ups are answered from a listing after the last one that was.
const ANSWERS_FOR: Duration = Duration::from_secs(2);
/// The same since the listing was taken, whatever was asked since.
const ANSWERS_AT_MOST: Duration = Duration::from_secs(10);
const MAX_THREADS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Of all threads together, and fewer where `limits.memory` is small. The grant that was used longest ago goes first.
const MAX_SESSIONS: usize = 262_144;
/// What a session that is granted takes in memory, with what the listing has shown of it.
const GRANTED_BYTES: usize = 400;

/// The grants of all threads.
pub(super) struct Grants {
    threads: LruCache<ThreadId, Grant>,
    sessions: usize,
    most: usize,
    kept: KeptState,
}

/// What was listed to one thread: several directories, since Odoo lists all it needs before it
/// removes.
struct Grant {
    sessions: HashMap<Alias, Shown>,
    used: Instant,
    answered: Instant,
    /// Of the listings, for the next worker.
    numbers: Vec<u64>,
}

/// A session as a listing shows it, and when that was taken.
struct Shown {
    one: Arc<Listed>,
    listed: Instant,
}

impl Grants {
    /// None yet. They may take so much memory. The listings of one that ends are no longer kept.
    pub(super) fn new(max_bytes: usize, kept: KeptState) -> Self {
        let most = (max_bytes / GRANTED_BYTES).min(MAX_SESSIONS);
        Self { threads: LruCache::new(MAX_THREADS), sessions: 0, most, kept }
    }

    /// What they take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.sessions * GRANTED_BYTES
    }

    /// A listing was taken by `thread` then, has this number for the next worker, and shows `listed`. That is a use, also
    /// where a worker takes it up from the one before.
    pub(super) fn listed<'a>(
        &mut self,
        thread: Option<ThreadId>,
        number: Option<u64>,
        listed: impl Iterator<Item = &'a Arc<Listed>>,
        taken: Instant,
        now: Instant,
    ) {
        let Some(thread) = thread else { return };
        self.drop_ended(now);
        let mut grant = self.take(thread).unwrap_or_else(|| Grant {
            sessions: HashMap::new(),
            used: now,
            answered: taken,
            numbers: Vec::new(),
        });
        grant.numbers.extend(number);
        (grant.used, grant.answered) = (now, taken);
        grant.sessions.extend(
            listed.map(|one| (one.alias.clone(), Shown { one: Arc::clone(one), listed: taken })),
        );
        self.sessions += grant.sessions.len();
        if let Some((_, out)) = self.threads.push(thread, grant) {
            self.sessions -= out.sessions.len();
            self.forget(&out);
        }
        // The newest is kept even if it is larger: it is no larger than the listing itself.
        while self.sessions > self.most && self.threads.len() > 1 {
            self.drop_oldest();
        }
    }

    /// Whether this session was listed to the thread, which may remove it then. Counts as a use.
    pub(super) fn allows(&mut self, thread: Option<ThreadId>, alias: &Alias, now: Instant) -> bool {
        self.used(thread, alias, now).is_some()
    }

    /// A look-up by the thread: what the listing shows, as long as that answers for the store. Counts
    /// as a use.
    pub(super) fn look_up(
        &mut self,
        thread: Option<ThreadId>,
        alias: &Alias,
        now: Instant,
    ) -> Option<Arc<Listed>> {
        let grant = self.used(thread, alias, now)?;
        let shown = grant.sessions.get(alias)?;
        let since = |then| now.saturating_duration_since(then);
        if since(grant.answered) >= ANSWERS_FOR || since(shown.listed) >= ANSWERS_AT_MOST {
            return None;
        }
        let one = Arc::clone(&shown.one);
        grant.answered = now;
        Some(one)
    }

    /// The thread has removed this session.
    pub(super) fn removed(&mut self, thread: Option<ThreadId>, alias: &Alias) {
        let Some(grant) = thread.and_then(|thread| self.threads.get_mut(&thread)) else { return };
        if grant.sessions.remove(alias).is_some() {
            self.sessions -= 1;
        }
    }

    /// The thread tries to open a session.
    pub(super) fn end(&mut self, thread: Option<ThreadId>) {
        if let Some(grant) = thread.and_then(|thread| self.take(thread)) {
            self.forget(&grant);
        }
    }

    fn used(
        &mut self,
        thread: Option<ThreadId>,
        alias: &Alias,
        now: Instant,
    ) -> Option<&mut Grant> {
        let thread = thread?;
        if self.threads.peek(&thread).is_some_and(|grant| grant.has_ended(now)) {
            self.end(Some(thread));
        }
        let grant = self.threads.get_mut(&thread)?;
        if !grant.sessions.contains_key(alias) {
            return None;
        }
        grant.used = now;
        Some(grant)
    }

    fn take(&mut self, thread: ThreadId) -> Option<Grant> {
        let grant = self.threads.pop(&thread)?;
        self.sessions -= grant.sessions.len();
        Some(grant)
    }

    /// Grants that have ended allow nothing, and take memory.
    pub(super) fn drop_ended(&mut self, now: Instant) {
        while self.threads.peek_lru().is_some_and(|(_, grant)| grant.has_ended(now)) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, grant)) = self.threads.pop_lru() {
            self.sessions -= grant.sessions.len();
            self.forget(&grant);
        }
    }

    /// Its listings allow nothing any more.
    fn forget(&self, grant: &Grant) {
        for number in &grant.numbers {
            self.kept.forget_listing(*number);
        }
    }
}

impl Grant {
    fn has_ended(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) >= ENDS_AFTER
    }
}
