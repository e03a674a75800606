//! For how long callers wait in an outage: one budget, whoever waits, and whichever worker serves them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::handoff::moment;

/// How much faster a budget comes back than it is spent.
const COMES_BACK: u32 = 4;

/// Whoever has waited for the end of an outage asks within this time, and what he does is written.
const LET_GO_WITHIN: Duration = Duration::from_secs(5);

/// Those of a server.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(in crate::redis) struct Budgets {
    /// For the time in which it cannot be read.
    pub(super) unreadable: Budget,
    /// For the time in which it takes no changes.
    pub(super) unwritable: Budget,
}

/// The budget of one kind of outage. It is spent while the outage lasts, and comes back while there
/// is none.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Budget {
    #[serde(skip)]
    total: Duration,
    /// Since when there is an outage.
    #[serde(rename = "since_ns", with = "moment::maybe")]
    since: Option<Instant>,
    /// What was spent before that, by the end of the last one.
    spent: Duration,
    /// When that ended, and how long it lasted, or one that had ended shortly before it.
    #[serde(rename = "ended_ns", with = "moment::maybe")]
    ended: Option<Instant>,
    lasted: Duration,
    /// It is not known before that there is an outage: the first attempt to connect takes its time.
    #[serde(skip)]
    unknown_until: Option<Instant>,
}

impl Budgets {
    /// Full ones, in an outage that begins at `since`.
    pub(super) fn new(total: Duration, since: Instant) -> Self {
        let full = Budget::new(total, since);
        Self { unreadable: full, unwritable: full }
    }

    /// Goes on with those of the worker before. What has happened since this one was started comes after them. Nobody is
    /// refused before `unknown_until`.
    pub(super) fn take_up(&mut self, former: Self, unknown_until: Instant) {
        self.unreadable.take_up(former.unreadable, unknown_until);
        self.unwritable.take_up(former.unwritable, unknown_until);
    }

    /// Since when it cannot be read.
    pub(in crate::redis) fn unreadable_since(&self) -> Option<Instant> {
        self.unreadable.since
    }

    /// For how long the use of a session may not have been written down: who asks now may have waited,
    /// and may have used it all the time in which the store could only be read.
    pub(super) fn unwritten(&self) -> Duration {
        let only_readable = self.unwritable.lasted().saturating_sub(self.unreadable.lasted());
        only_readable + self.unreadable.waited()
    }
}

impl Budget {
    /// A full one, in an outage that begins at `since`.
    fn new(total: Duration, since: Instant) -> Self {
        Self {
            total,
            since: Some(since),
            spent: Duration::ZERO,
            ended: None,
            lasted: Duration::ZERO,
            unknown_until: None,
        }
    }

    fn take_up(&mut self, former: Self, unknown_until: Instant) {
        let former = Self { total: self.total, unknown_until: Some(unknown_until), ..former };
        let own = std::mem::replace(self, former);
        if let Some(ended) = own.ended {
            self.follow(true, ended.checked_sub(own.lasted).unwrap_or(ended));
            self.follow(false, ended);
        }
        if let Some(since) = own.since {
            self.follow(true, since);
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
                self.lasted = lasted.max(self.lasted_before(since));
                self.spent = (self.spent + lasted).min(self.total);
                self.since = None;
                self.ended = Some(at);
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

    /// How long the outage lasts until now, or has lasted that has just ended.
    fn lasted(&self) -> Duration {
        match self.since {
            Some(since) => since.elapsed().max(self.lasted_before(since)),
            None => self.lasted_before(Instant::now()),
        }
    }

    /// How long the outage lasted whose callers may be asking at `at`.
    fn lasted_before(&self, at: Instant) -> Duration {
        let is_late = |ended| at.saturating_duration_since(ended) >= LET_GO_WITHIN;
        if self.ended.is_none_or(is_late) { Duration::ZERO } else { self.lasted }
    }

    /// For how long somebody may have waited in it.
    pub(super) fn waited(&self) -> Duration {
        self.lasted().min(self.total)
    }

    /// Until when those wait in this outage who may wait for `most` in all; `None` if there is no
    /// outage.
    pub(super) fn over(&self, most: Duration) -> Option<Instant> {
        let over = self.since? + most.min(self.total).saturating_sub(self.spent);
        Some(self.unknown_until.map_or(over, |until| until.max(over)))
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

    /// What the next worker finds.
    fn kept(budget: Budget) -> Budget {
        serde_json::from_str(&serde_json::to_string(&budget).unwrap()).unwrap()
    }

    #[test]
    fn the_next_worker_goes_on_with_the_budget_of_an_outage() {
        let now = Instant::now();
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
        // It began 15 s ago, and nothing was spent before; the worker was started a second ago.
        let former = kept(Budget::new(TOTAL, ago(15)));
        let mut next = Budget::new(TOTAL, ago(1));
        next.take_up(former, ago(0));
        assert_eq!((next.since(), next.over(TOTAL)), (Some(ago(15)), Some(ago(15) + TOTAL)));
        assert!(next.waited() >= Duration::from_secs(15));
        // All is spent. A first attempt to connect is awaited all the same.
        let mut next = Budget::new(TOTAL, ago(1));
        next.take_up(kept(Budget::new(TOTAL, ago(40))), now + Duration::from_secs(1));
        assert_eq!(next.over(TOTAL), Some(now + Duration::from_secs(1)));
        // It is connected already: who has waited until then is forgiven that time.
        let mut next = Budget::new(TOTAL, ago(2));
        next.follow(false, ago(1));
        next.take_up(former, ago(0));
        assert_eq!((next.since(), next.waited()), (None, Duration::from_secs(14)));
        next.follow(true, ago(1));
        assert_eq!(next.over(TOTAL), Some(ago(1) + Duration::from_secs(6)));
    }

    #[test]
    fn who_waited_in_an_outage_is_forgiven_although_the_next_worker_has_just_connected() {
        let now = Instant::now();
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
        let mut former = Budget::new(TOTAL, ago(14));
        former.follow(false, ago(4));
        for is_connected in [true, false] {
            let mut next = Budget::new(TOTAL, ago(2));
            if is_connected {
                next.follow(false, ago(1));
            }
            next.take_up(kept(former), ago(0));
            assert_eq!(next.waited(), Duration::from_secs(10));
            next.follow(false, ago(0));
            assert_eq!(next.waited(), Duration::from_secs(10));
        }
        former.follow(true, ago(2));
        former.forget();
        let mut next = Budget::new(TOTAL, ago(0));
        next.take_up(kept(former), ago(0));
        assert_eq!(next.since(), Some(ago(2)));
    }

    /// Another version finds it when it takes over.
    #[test]
    fn it_is_kept_as_it_was() {
        let golden = r#"{"since_ns":null,"spent":{"secs":1,"nanos":5},"ended_ns":7000000,"lasted":{"secs":2,"nanos":0}}"#;
        let budget: Budget = serde_json::from_str(golden).unwrap();
        assert_eq!(budget.spent, Duration::new(1, 5));
        assert!(budget.ended.is_some());
        assert_eq!(serde_json::to_string(&budget).unwrap(), golden);
    }
}
