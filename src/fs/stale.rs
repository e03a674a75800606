//! ESTALE: the inode is not what its name stands for any more.
//!
//! The kernel then repeats the call with look-ups of its own. It does so once: a second ESTALE would
//! reach Odoo, which takes the session for lost. So the `open` that follows one is answered
//! otherwise, whichever inode the new look-up has found. A thread makes one call at a time, and is
//! known here by its id alone: what `/proc` shows of it may be missing the second time.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::caller::Identity;
use super::kept::KeptState;
use crate::error::Error;

const MAX_TOLD: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// Who was told is not forgotten sooner: the repeated call is under way.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// The threads whose last `open` was answered with ESTALE.
pub(super) struct Stale {
    told: LruCache<u32, Told>,
    kept: KeptState,
}

#[derive(Clone, Copy)]
struct Told {
    at: Instant,
    /// The request that was answered so; `None` without a kernel.
    request: Option<u64>,
    /// The one that repeats it. Once the thread makes another call, it has been answered.
    repeated_by: Option<u64>,
}

impl Stale {
    /// Those whom the worker before has told so.
    pub(super) fn new(kept: KeptState, now: Instant) -> Self {
        let mut told = LruCache::new(MAX_TOLD);
        for (tid, request, repeated_by) in kept.told_stale() {
            told.put(tid, Told { at: now, request: Some(request), repeated_by });
        }
        Self { told, kept }
    }

    /// An `open` has come. Whether it is the one that the kernel has repeated.
    pub(super) fn take(&mut self, by: Identity) -> bool {
        if self.told.is_empty() {
            return false;
        }
        let Some(told) = self.told.peek_mut(&by.tid) else { return false };
        let Some(request) = by.request.map(|request| request.number) else {
            self.forget(by.tid);
            return true;
        };
        // The worker before has died while it told this very request: the kernel has not heard it.
        let is_told = told.request == Some(request);
        let is_repeated = !is_told && told.repeated_by.is_none_or(|number| number == request);
        if !is_repeated {
            self.forget(by.tid);
        } else if let Some(first) = told.request
            && told.repeated_by.is_none()
        {
            // Not forgotten before it is answered: the next worker may have to answer it.
            told.repeated_by = Some(request);
            self.kept.put_told_stale(by.tid, first, Some(request));
        }
        is_repeated
    }

    /// Whether the next `open` of this thread is one that the kernel repeats.
    pub(super) fn is_told(&self, by: Identity) -> bool {
        self.told.peek(&by.tid).is_some_and(|told| told.repeated_by.is_none())
    }

    fn forget(&mut self, tid: u32) {
        self.told.pop(&tid);
        self.kept.forget_told_stale(tid);
    }

    /// The repeated call has found no file to open.
    pub(super) fn end(&mut self, by: Identity) {
        self.take(by);
    }

    /// An `open` that was not repeated is to be answered with ESTALE, at `now`. False if that cannot
    /// be remembered: for a thread that cannot be seen, or for more than fit.
    pub(super) fn tell(&mut self, by: Identity, now: Instant) -> bool {
        let is_full = self.told.len() == MAX_TOLD.get();
        let oldest = self.told.peek_lru().map(|(_, told)| now.saturating_duration_since(told.at));
        if by.tid == 0 || is_full && oldest.is_some_and(|age| age < KEPT_FOR) {
            return false;
        }
        let request = by.request.map(|request| request.number);
        if let Some((out, _)) = self.told.push(by.tid, Told { at: now, request, repeated_by: None })
        {
            self.kept.forget_told_stale(out);
        }
        if let Some(request) = request {
            self.kept.put_told_stale(by.tid, request, None);
        }
        true
    }
}

/// The name stands for another version by now.
pub(super) fn replaced() -> Error {
    Error::expected(libc::ESTALE, "another version is current")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Class;

    fn caller(tid: u32) -> Identity {
        Identity {
            tid,
            uid: 1000,
            thread: None,
            process: None,
            background: false,
            serves: Class::Unknown,
            request: None,
        }
    }

    fn stale() -> Stale {
        Stale::new(KeptState::default(), Instant::now())
    }

    #[test]
    fn the_open_after_one_that_was_stale_is_a_repeated_one() {
        let (mut stale, now) = (stale(), Instant::now());
        assert!(stale.tell(caller(1), now));
        assert!(!stale.take(caller(2)));
        assert!(stale.take(caller(1)));
        assert!(!stale.take(caller(1)));
        // Nobody knows whether the next one would be the same thread's.
        assert!(!stale.tell(caller(0), now));
    }

    #[test]
    fn nobody_is_told_beyond_the_bound_while_the_others_may_be_under_way() {
        let (mut stale, now) = (stale(), Instant::now());
        let full = u32::try_from(MAX_TOLD.get()).unwrap();
        for tid in 1..=full {
            assert!(stale.tell(caller(tid), now));
        }
        assert!(!stale.tell(caller(full + 1), now));
        assert!(stale.take(caller(1)));
        assert!(stale.tell(caller(full + 1), now));
        // Who has not come back by now has ended.
        let later = now + KEPT_FOR;
        assert!(stale.tell(caller(full + 2), later));
        assert!(!stale.take(caller(2)));
        assert_eq!(stale.told.len(), MAX_TOLD.get());
    }
}
