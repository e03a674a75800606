//! How long one `open` has waited, over all the calls in which Python repeats it after EINTR.
//!
//! The budget of an outage ends an `open` while the link is down. This one ends it whatever the
//! link says, so no worker of Odoo hangs in it.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::caller::ThreadId;
use crate::session::name::Alias;

const MAX_WAITS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// Python repeats a call at once; what comes later is another `open`.
const REPEATED_WITHIN: Duration = Duration::from_secs(1);

/// The `open`s that wait. Threads that cannot be seen share one wait for a session.
pub(super) struct Patience {
    waits: LruCache<(Option<ThreadId>, Alias), Wait>,
    /// After so long an `open` fails.
    budget: Duration,
}

#[derive(Clone, Copy)]
struct Wait {
    began: Instant,
    last: Instant,
}

impl Patience {
    pub(super) fn new(budget: Duration) -> Self {
        Self { waits: LruCache::new(MAX_WAITS), budget }
    }

    /// An `open` that has begun at `began` is about to be answered with EINTR, at `now`. False if
    /// its budget is spent.
    pub(super) fn wait_on(
        &mut self,
        thread: Option<ThreadId>,
        alias: &Alias,
        began: Instant,
        now: Instant,
    ) -> bool {
        let key = (thread, alias.clone());
        let known = self.waits.pop(&key);
        let known = known
            .filter(|wait| began.saturating_duration_since(wait.last) < REPEATED_WITHIN)
            .map_or(began, |wait| wait.began);
        let goes_on = now.saturating_duration_since(known) < self.budget;
        if goes_on {
            self.waits.put(key, Wait { began: known, last: now });
        }
        goes_on
    }

    /// That `open` is answered.
    pub(super) fn answered(&mut self, thread: Option<ThreadId>, alias: &Alias) {
        if !self.waits.is_empty() {
            self.waits.pop(&(thread, alias.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_that_is_repeated_at_once_has_one_budget() {
        let alias = Alias::parse(&format!("ab{:082}", 1)).expect("an alias");
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut patience = Patience::new(Duration::from_secs(3));
        assert!(patience.wait_on(None, &alias, at(0), at(2000)));
        assert!(!patience.wait_on(None, &alias, at(2001), at(4000)));
        // The next one, and one that begins later, has a budget of its own.
        assert!(patience.wait_on(None, &alias, at(4001), at(6000)));
        assert!(patience.wait_on(None, &alias, at(7500), at(9000)));
        patience.answered(None, &alias);
        assert!(patience.wait_on(None, &alias, at(9001), at(11_000)));
    }
}
