//! Whether a mount is served at all: one that no worker serves for long is given up, so that whoever waits for it is
//! released.

use std::time::{Duration, Instant};

/// A worker that has served for so long is not one of a row of failures.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// A mount that no worker has served for long, for so long, is given up.
pub(super) const GIVEN_UP_AFTER: Duration = Duration::from_secs(30);

/// Since when no worker has served for long.
#[derive(Debug, Default)]
pub(super) struct Stability {
    /// `None` while one does.
    unstable_since: Option<Instant>,
}

impl Stability {
    /// Nobody has served it for long since then.
    pub(super) fn since(then: Instant) -> Self {
        Self { unstable_since: Some(then) }
    }

    /// Since when nobody has served it for long; `None` while somebody does.
    pub(super) fn unstable_since(&self) -> Option<Instant> {
        self.unstable_since
    }

    /// A worker serves, since then. Failures from before it has served for long are not counted any more.
    pub(super) fn serves(&mut self, since: Instant, now: Instant) {
        if now.saturating_duration_since(since) >= STABLE_AFTER {
            self.unstable_since = None;
        }
    }

    /// A worker has failed, or could not be started.
    pub(super) fn failed(&mut self, now: Instant) {
        self.unstable_since.get_or_insert(now);
    }

    /// Somebody has killed a worker that served, or it was ended for its successor: the mount is not given up for that,
    /// however often, but it has to be served again.
    pub(super) fn killed(&mut self, now: Instant) {
        self.unstable_since = Some(now);
    }

    /// When the mount is given up, if nobody serves it then.
    pub(super) fn give_up_at(&self) -> Option<Instant> {
        self.unstable_since.map(|since| since + GIVEN_UP_AFTER)
    }

    /// Whether that time has come.
    pub(super) fn is_given_up(&self, now: Instant) -> bool {
        self.give_up_at().is_some_and(|at| now >= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_row_of_failures_ends_in_giving_up() {
        let start = Instant::now();
        let mut stability = Stability::default();
        for seconds in 0..30 {
            let now = start + seconds * SECOND;
            assert!(!stability.is_given_up(now));
            // It had served a little.
            stability.serves(now, now + SECOND / 2);
            stability.failed(now + SECOND / 2);
        }
        assert!(stability.is_given_up(start + 31 * SECOND));
    }

    #[test]
    fn a_failure_is_forgiven_by_the_next_worker_that_serves_for_long() {
        let start = Instant::now();
        let mut stability = Stability::default();
        stability.failed(start);
        let since = start + SECOND;
        stability.serves(since, since + 9 * SECOND);
        assert_eq!(stability.give_up_at(), Some(start + GIVEN_UP_AFTER));
        stability.serves(since, since + STABLE_AFTER);
        assert_eq!(stability.give_up_at(), None);
        let later = start + 100 * SECOND;
        stability.failed(later);
        assert!(!stability.is_given_up(later));
    }

    #[test]
    fn kills_of_workers_that_served_do_not_add_up() {
        let start = Instant::now();
        let mut stability = Stability::default();
        for seconds in 0..100 {
            let now = start + seconds * SECOND;
            assert!(!stability.is_given_up(now));
            stability.killed(now);
        }
        // Nobody has served since.
        assert!(stability.is_given_up(start + 130 * SECOND));
    }
}
