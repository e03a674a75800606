//! Whether a mount is served at all: one that no worker serves for long is given up, so that whoever waits for it is
//! released.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::exit::{ExitCode, Failure};

/// A worker that has served for so long is not one of a row of failures.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// A mount that no worker has served for long, for so long, is given up.
pub(super) const GIVEN_UP_AFTER: Duration = Duration::from_secs(30);
/// So is one on which none has answered at all for so long, whatever has ended them: whoever waits there waits for nobody.
const UNANSWERED_MAX: Duration = Duration::from_secs(300);
/// So is one of which so many keepers in a row have died, though each had served it. More than it takes to find out
/// which request kills them.
const SHORT_LIVED_MAX: u32 = 20;
/// So many times in a row the time begins anew because it was found which request workers have died of. One that fails
/// does not kill again, but others may.
const CAUSES_MAX: u32 = 20;

/// The failure of a mount that is given up.
pub(super) fn not_served(mountpoint: &Path) -> Failure {
    Failure::new(
        ExitCode::WorkerFailed,
        format!(
            "no worker has served {} for long in {} s: the mount is removed; see the log above",
            mountpoint.display(),
            GIVEN_UP_AFTER.as_secs()
        ),
    )
}

/// Since when no worker has served for long.
#[derive(Clone, Debug, Default)]
pub(super) struct Stability {
    /// `None` while one does.
    unstable_since: Option<Instant>,
    /// Since when none has answered. `None` while one does.
    unanswered_since: Option<Instant>,
    /// A keeper has died, and nobody serves yet what it has left.
    is_resumed: bool,
    /// How many keepers in a row have died that had served it, none for long.
    short_lived: u32,
    /// How often in a row it was found what workers have died of.
    causes: u32,
}

impl Stability {
    /// Nobody has served it since then, of one keeper or several, and so many keepers in a row have died that had.
    pub(super) fn resumed(since: Instant, short_lived: u32) -> Self {
        let since = Some(since);
        Self {
            unstable_since: since,
            unanswered_since: since,
            is_resumed: true,
            short_lived,
            causes: 0,
        }
    }

    /// How many keepers in a row have not served it for long, this one included if it serves.
    pub(super) fn short_lived(&self) -> u32 {
        self.short_lived
    }

    /// A worker answers. Nobody waits any more for what a keeper has left: the deaths of keepers that have served do
    /// not add up in time, only in number.
    pub(super) fn answers(&mut self) {
        self.unanswered_since = None;
        if std::mem::take(&mut self.is_resumed) {
            self.unstable_since = None;
            self.short_lived = self.short_lived.saturating_add(1);
        }
    }

    /// Since when nobody has served it for long; `None` while somebody does.
    pub(super) fn unstable_since(&self) -> Option<Instant> {
        self.unstable_since
    }

    /// A worker serves, since then. Failures from before it has served for long are not counted any more.
    pub(super) fn serves(&mut self, since: Instant, now: Instant) {
        self.unanswered_since = None;
        if now.saturating_duration_since(since) >= STABLE_AFTER {
            self.unstable_since = None;
            self.short_lived = 0;
            self.causes = 0;
        }
    }

    /// A worker has failed, or could not be started.
    pub(super) fn failed(&mut self, now: Instant) {
        self.unstable_since.get_or_insert(now);
        self.unanswered_since.get_or_insert(now);
    }

    /// It was found what workers have died of, and that fails from now on: they do not count, up to a bound.
    pub(super) fn cause_found(&mut self, now: Instant) {
        if self.causes < CAUSES_MAX && !self.is_resumed {
            self.causes += 1;
            self.unstable_since = self.unstable_since.map(|_| now);
        }
    }

    /// Somebody has killed a worker that served, or was about to, or it was ended for its successor: the mount is not
    /// given up for that, however often, but it has to be served again.
    pub(super) fn killed(&mut self, now: Instant) {
        self.unstable_since = Some(now);
        self.unanswered_since.get_or_insert(now);
    }

    /// When the mount is given up, if nobody serves it then.
    pub(super) fn give_up_at(&self) -> Option<Instant> {
        let unstable = self.unstable_since.map(|since| since + GIVEN_UP_AFTER);
        let unanswered = self.unanswered_since.map(|since| since + UNANSWERED_MAX);
        unstable.into_iter().chain(unanswered).min()
    }

    /// Whether that time has come.
    pub(super) fn is_given_up(&self, now: Instant) -> bool {
        self.give_up_at().is_some_and(|at| now >= at)
            || (self.is_resumed && self.short_lived >= SHORT_LIVED_MAX)
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
    fn deaths_of_keepers_that_served_add_up_in_number_and_not_in_time() {
        let start = Instant::now();
        let mut short_lived = 0;
        for keepers in 0..SHORT_LIVED_MAX {
            let now = start + keepers * 9 * SECOND;
            let mut stability = Stability::resumed(now, short_lived);
            assert!(!stability.is_given_up(now));
            stability.answers();
            stability.serves(now, now + 8 * SECOND);
            assert_eq!(stability.unstable_since(), None);
            // What its own workers do is judged as ever.
            stability.failed(now);
            assert!(!stability.is_given_up(now + SECOND));
            short_lived = stability.short_lived();
        }
        assert!(Stability::resumed(start, short_lived).is_given_up(start));
        let mut long = Stability::resumed(start, short_lived - 1);
        long.answers();
        long.serves(start, start + STABLE_AFTER);
        assert_eq!(long.short_lived(), 0);
    }

    #[test]
    fn keepers_that_do_not_get_a_worker_to_answer_share_one_time() {
        let start = Instant::now();
        assert!(!Stability::resumed(start, 0).is_given_up(start + 29 * SECOND));
        assert!(Stability::resumed(start, 0).is_given_up(start + 31 * SECOND));
    }

    #[test]
    fn a_mount_on_which_none_has_answered_for_minutes_is_given_up_for_kills_too() {
        let start = Instant::now();
        let mut stability = Stability::default();
        for seconds in 0..300 {
            let now = start + seconds * SECOND;
            stability.killed(now);
            assert!(!stability.is_given_up(now));
        }
        let mut answered = stability.clone();
        answered.answers();
        answered.killed(start + 300 * SECOND);
        assert!(!answered.is_given_up(start + 300 * SECOND));
        stability.killed(start + 300 * SECOND);
        assert!(stability.is_given_up(start + 300 * SECOND));
    }

    #[test]
    fn deaths_whose_cause_is_found_do_not_add_up_in_time_but_in_number() {
        let start = Instant::now();
        let mut stability = Stability::default();
        let mut now = start;
        for _ in 0..CAUSES_MAX {
            for _ in 0..3 {
                now += 3 * SECOND;
                stability.failed(now);
                assert!(!stability.is_given_up(now));
                stability.answers();
            }
            stability.cause_found(now);
        }
        stability.cause_found(now + SECOND);
        assert!(stability.is_given_up(now + GIVEN_UP_AFTER));
        stability.serves(now, now + STABLE_AFTER);
        stability.failed(now);
        stability.cause_found(now + SECOND);
        assert!(!stability.is_given_up(now + GIVEN_UP_AFTER));
    }

    #[test]
    fn kills_of_workers_that_served_do_not_add_up() {
        let start = Instant::now();
        let mut stability = Stability::default();
        for seconds in 0..100 {
            let now = start + seconds * SECOND;
            assert!(!stability.is_given_up(now));
            stability.killed(now);
            stability.answers();
        }
        // Nobody has served since.
        assert!(stability.is_given_up(start + 130 * SECOND));
    }
}
