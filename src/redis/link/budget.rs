//! For how long callers wait in an outage: one budget, whoever waits.

use std::time::Duration;

use tokio::time::Instant;

/// How much faster a budget comes back than it is spent.
const COMES_BACK: u32 = 4;

/// The budget of one kind of outage. It is spent while the outage lasts, and comes back while there
/// is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    total: Duration,
    /// Since when there is an outage.
    since: Option<Instant>,
    /// What was spent before that, by the end of the last one.
    spent: Duration,
    /// When that ended, and how long it lasted.
    ended: Option<Instant>,
    lasted: Duration,
}

impl Budget {
    /// A full one, in an outage that begins at `since`.
    pub(super) fn new(total: Duration, since: Instant) -> Self {
        Self {
            total,
            since: Some(since),
            spent: Duration::ZERO,
            ended: None,
            lasted: Duration::ZERO,
        }
    }

    /// There is an outage, or there is none; if that is new, it is so since `at`.
    pub(super) fn follow(&mut self, is_outage: bool, at: Instant) {
        match (self.since, is_outage) {
            (None, true) => {
                let well =
                    self.ended.map_or(Duration::ZERO, |ended| at.saturating_duration_since(ended));
                self.spent = self.spent.saturating_sub(well * COMES_BACK);
                self.since = Some(at);
            }
            (Some(since), false) => {
                let lasted = at.saturating_duration_since(since);
                self.spent = (self.spent + lasted).min(self.total);
                self.since = None;
                self.ended = Some(at);
                self.lasted = lasted;
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    /// Nobody has waited in the outages until now.
    pub(super) fn forget(&mut self) {
        (self.spent, self.ended, self.lasted) = (Duration::ZERO, None, Duration::ZERO);
    }

    /// Since when there is an outage.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// How long the outage lasts until now, or has lasted that ended within `lately`.
    pub(super) fn lasted(&self, lately: Duration) -> Duration {
        match (self.since, self.ended) {
            (Some(since), _) => since.elapsed(),
            (None, Some(ended)) if ended.elapsed() < lately => self.lasted,
            (None, _) => Duration::ZERO,
        }
    }

    /// For how long somebody may have waited in it.
    pub(super) fn waited(&self, lately: Duration) -> Duration {
        self.lasted(lately).min(self.total)
    }

    /// Until when those wait in this outage who may wait for `most` in all; `None` if there is no
    /// outage.
    pub(super) fn over(&self, most: Duration) -> Option<Instant> {
        self.since.map(|since| since + most.min(self.total).saturating_sub(self.spent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: Duration = Duration::from_secs(20);

    #[test]
    fn a_link_that_is_well_for_a_moment_only_has_no_new_budget() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut budget = Budget::new(TOTAL, start);
        assert_eq!(budget.over(TOTAL), Some(at(20)));
        budget.follow(false, at(18));
        assert_eq!((budget.over(TOTAL), budget.since()), (None, None));
        // One second gives four back.
        budget.follow(true, at(19));
        assert_eq!(budget.over(TOTAL), Some(at(19 + 6)));
        // Whoever may wait for less has less left.
        assert_eq!(budget.over(Duration::from_secs(5)), Some(at(19)));
        // An outage spends no more than there is.
        budget.follow(false, at(1000));
        budget.follow(true, at(1004));
        assert_eq!(budget.over(TOTAL), Some(at(1004 + 16)));
        budget.follow(false, at(1005));
        budget.follow(true, at(1010));
        assert_eq!(budget.over(TOTAL), Some(at(1030)));
    }

    #[test]
    fn short_outages_that_come_again_and_again_spend_nothing() {
        let start = Instant::now();
        let mut budget = Budget::new(TOTAL, start);
        for round in 0..1000 {
            let begins = start + Duration::from_secs(4 * round);
            budget.follow(true, begins);
            budget.follow(false, begins + Duration::from_secs(3));
        }
        budget.follow(true, start + Duration::from_secs(4000));
        assert_eq!(budget.over(TOTAL), Some(start + Duration::from_secs(4020)));
    }
}
