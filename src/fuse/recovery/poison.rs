//! A request that kills each worker which handles it would be replayed for ever. So deaths are counted by the requests
//! that they have left unanswered.
//!
//! Most of these are innocent: they have waited for the store, or stood in line. So a request that two workers have
//! left is tried alone from then on, and a death counts for the one on trial only.

use crate::handoff::{Ended, Kept, Kind};

/// What is too much: three deaths of a worker by itself.
const FATAL: u64 = 9;
/// From so many deaths on a request is tried alone.
const TRIED_AFTER: u64 = 2;

/// How much a death says against the requests that it has left unanswered.
fn weight(ended: Ended) -> u64 {
    match ended {
        Ended::Planned => 0,
        // Most likely somebody else's doing; the kernel's, when the worker takes too much memory.
        Ended::Killed => 1,
        Ended::Crashed | Ended::Stuck => 3,
    }
}

/// The requests that workers have left unanswered. One that was answered since stays until the bound: no other has its
/// number.
pub(super) struct Suspects<'a> {
    kept: &'a Kept,
}

/// What is held against one, as a single number.
#[derive(Clone, Copy)]
struct Suspicion(u64);

impl Suspicion {
    const ONE_DEATH: u64 = 1 << 32;

    fn deaths(self) -> u64 {
        self.0 / Self::ONE_DEATH
    }

    fn weight(self) -> u64 {
        self.0 % Self::ONE_DEATH
    }
}

impl<'a> Suspects<'a> {
    pub(super) fn new(kept: &'a Kept) -> Self {
        Self { kept }
    }

    /// A worker has died and has left these. Whoever was on trial is the only suspect. Otherwise each is, but for those
    /// that have been tried and have outlived it.
    pub(super) fn worker_died(&self, ended: Ended, unanswered: &[u64]) {
        let weight = weight(ended);
        let on_trial = self.kept.on_trial().filter(|number| unanswered.contains(number));
        if weight > 0 {
            let is_suspect = |number: &&u64| match on_trial {
                Some(on_trial) => **number == on_trial,
                None => !self.must_be_tried(**number),
            };
            for number in unanswered.iter().filter(is_suspect) {
                self.add(*number, weight);
            }
        }
        self.kept.set_on_trial(None);
    }

    /// Whether a request is to be tried alone.
    pub(super) fn must_be_tried(&self, number: u64) -> bool {
        self.of(number).deaths() >= TRIED_AFTER
    }

    /// Whether workers have died of it.
    pub(super) fn is_poison(&self, number: u64) -> bool {
        self.of(number).weight() >= FATAL
    }

    fn of(&self, number: u64) -> Suspicion {
        Suspicion(self.kept.count(Kind::Suspect, number, 0).unwrap_or(0))
    }

    fn add(&self, number: u64, weight: u64) {
        if self.kept.count(Kind::Suspect, number, 0).is_none() {
            self.kept.put(Kind::Suspect, number, &[]);
        }
        let by = i64::try_from(Suspicion::ONE_DEATH + weight).unwrap_or(i64::MAX);
        self.kept.count(Kind::Suspect, number, by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff;

    fn kept() -> Kept {
        Kept::open(handoff::create().unwrap()).unwrap()
    }

    #[test]
    fn the_third_death_of_a_worker_by_itself_is_too_much_for_the_one_on_trial_alone() {
        let kept = kept();
        let suspects = Suspects::new(&kept);
        for deaths in 1..=2 {
            suspects.worker_died(Ended::Crashed, &[2, 4]);
            assert_eq!(suspects.must_be_tried(2), deaths == 2);
        }
        kept.set_on_trial(Some(4));
        suspects.worker_died(Ended::Stuck, &[2, 4, 6]);
        assert!(suspects.is_poison(4) && !suspects.is_poison(2));
        // It came during the trial of another.
        assert!(!suspects.must_be_tried(6));
        assert_eq!(kept.on_trial(), None);
    }

    #[test]
    fn who_has_outlived_a_trial_is_not_counted() {
        let kept = kept();
        let suspects = Suspects::new(&kept);
        for _ in 0..50 {
            suspects.worker_died(Ended::Crashed, &[2]);
            // One that was on trial, and was answered.
            kept.set_on_trial(Some(8));
        }
        assert!(suspects.must_be_tried(2) && !suspects.is_poison(2));
    }

    #[test]
    fn a_kill_by_somebody_counts_a_third_and_a_planned_end_nothing() {
        let kept = kept();
        let suspects = Suspects::new(&kept);
        for deaths in 1..=9 {
            suspects.worker_died(Ended::Planned, &[2]);
            kept.set_on_trial((deaths > 2).then_some(2));
            suspects.worker_died(Ended::Killed, &[2]);
            assert_eq!(suspects.must_be_tried(2), deaths >= 2, "{deaths}");
            assert_eq!(suspects.is_poison(2), deaths == 9, "{deaths}");
        }
    }

    #[test]
    fn one_is_found_among_all_that_can_be_in_flight() {
        let kept = kept();
        let suspects = Suspects::new(&kept);
        let all: Vec<_> = (1..=8192).collect();
        for _ in 0..2 {
            suspects.worker_died(Ended::Crashed, &all);
        }
        kept.set_on_trial(Some(1));
        suspects.worker_died(Ended::Crashed, &all);
        assert!(suspects.is_poison(1) && !suspects.is_poison(8192));
    }
}
