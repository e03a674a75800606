//! How long to wait before the next try: nothing the first time, then longer and longer, never
//! without end, and never as long as another keeper that began to fail at the same moment.

use std::time::{Duration, Instant};

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);
/// The same where somebody waits on the mount for each try.
const SHORTEST_OF_MOUNT: Duration = Duration::from_millis(10);
const LONGEST_OF_MOUNT: Duration = Duration::from_secs(1);
/// What has worked for so long is taken as mended.
const MENDED_AFTER: Duration = Duration::from_secs(30);

/// Counts the failures of one thing in a row.
#[derive(Debug)]
pub(super) struct Backoff {
    failures: u32,
    shortest: Duration,
    longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { failures: 0, shortest: SHORTEST, longest: LONGEST }
    }
}

impl Backoff {
    /// Of what serves a mount.
    pub(super) fn of_mount() -> Self {
        Self { failures: 0, shortest: SHORTEST_OF_MOUNT, longest: LONGEST_OF_MOUNT }
    }

    /// It failed; it had worked since `worked_since`, if it had at all. Says when to try again.
    pub(super) fn failed(&mut self, worked_since: Option<Instant>) -> Instant {
        if worked_since.is_some_and(|since| since.elapsed() >= MENDED_AFTER) {
            self.failures = 0;
        }
        let wait = if self.failures == 0 {
            Duration::ZERO
        } else {
            self.shortest.saturating_mul(1 << (self.failures - 1).min(16)).min(self.longest)
        };
        self.failures = self.failures.saturating_add(1);
        Instant::now() + wait.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_at_once_and_none_is_longer_than_the_longest() {
        let mut backoff = Backoff::default();
        assert!(backoff.failed(None) <= Instant::now());
        let mut before = Duration::ZERO;
        for _ in 0..100 {
            let wait = backoff.failed(Some(Instant::now())) - Instant::now();
            assert!(wait <= LONGEST);
            before = before.max(wait);
        }
        assert!(before > LONGEST / 2);
    }

    #[test]
    fn what_has_worked_for_long_starts_over() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.failed(None);
        }
        let since = Instant::now().checked_sub(MENDED_AFTER).unwrap();
        assert!(backoff.failed(Some(since)) <= Instant::now());
    }
}
