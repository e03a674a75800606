//! A request that kills each worker which handles it would be replayed for ever. So deaths are counted by the requests
//! that they have left unanswered.
//!
//! Most of these are innocent: they have waited for the store, or stood in line. So a request with two deaths is on
//! trial from then on: the suspects are replayed one after the other. One that is not answered in time is let go, and
//! stays a suspect as long as it is not answered: it may kill the worker later. A death counts for the only suspect
//! that was running. If several were, none is counted; the next worker tries these first and for longer, the last one
//! before the others, so that fewer run at its death.

use crate::handoff::{Ended, Kept, Kind};

/// What is too much: three deaths of a worker by itself.
const FATAL: u64 = 27;
/// From here on a request is on trial: two deaths of a worker by itself.
const TRIED_FROM: u64 = 18;

/// How much a death says against the requests that it has left unanswered.
fn weight(ended: Ended) -> u64 {
    match ended {
        Ended::Planned => 0,
        // Most likely somebody else's doing, and on a busy host nothing is answered between one and the next. It may be
        // the kernel's, when the worker takes too much memory.
        Ended::Killed => 1,
        Ended::Crashed | Ended::Stuck => 9,
    }
}

/// The requests that workers have left unanswered. One that was answered since stays until the bound: no other has its
/// number.
pub(super) struct Suspects<'a> {
    kept: &'a Kept,
}

/// A request that is to be tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Trial {
    pub(super) number: u64,
    /// How often a worker has died while it was running beside other suspects.
    pub(super) undecided: u64,
}

/// What is held against one, as a single number, so that it is written by one store.
#[derive(Clone, Copy, Debug, Default)]
struct Suspicion {
    weight: u64,
    undecided: u64,
    /// Its place in the order of the trial, while it is running; the first is 1, and 0: it is not running.
    position: u64,
}

impl Suspicion {
    const WEIGHT_BITS: u32 = 16;
    const UNDECIDED_BITS: u32 = 16;

    fn of(value: u64) -> Self {
        let field = |at: u32, bits: u32| (value >> at) & ((1 << bits) - 1);
        Self {
            weight: field(0, Self::WEIGHT_BITS),
            undecided: field(Self::WEIGHT_BITS, Self::UNDECIDED_BITS),
            position: field(Self::WEIGHT_BITS + Self::UNDECIDED_BITS, 31),
        }
    }

    fn value(self) -> u64 {
        let most = |field: u64, bits: u32| field.min((1 << bits) - 1);
        most(self.weight, Self::WEIGHT_BITS)
            | most(self.undecided, Self::UNDECIDED_BITS) << Self::WEIGHT_BITS
            | most(self.position, 31) << (Self::WEIGHT_BITS + Self::UNDECIDED_BITS)
    }

    fn is_tried(self) -> bool {
        self.weight >= TRIED_FROM
    }
}

impl<'a> Suspects<'a> {
    pub(super) fn new(kept: &'a Kept) -> Self {
        Self { kept }
    }

    /// A worker has died and has left these, the oldest first. Returns those to be tried, in that order.
    pub(super) fn worker_died(&self, ended: Ended, unanswered: &[u64]) -> Vec<Trial> {
        let mut running: Vec<_> = unanswered
            .iter()
            .map(|number| (self.of(*number).position, *number))
            .filter(|(position, _)| *position > 0)
            .collect();
        running.sort_unstable();
        let weight = weight(ended);
        if weight > 0 {
            self.blame(weight, &running, unanswered);
        }
        let others = unanswered.iter().filter(|number| self.of(**number).position == 0);
        // The last one that was sent is the likeliest.
        let order: Vec<_> =
            running.iter().rev().map(|(_, number)| number).chain(others).copied().collect();
        for (_, number) in &running {
            self.set(*number, Suspicion { position: 0, ..self.of(*number) });
        }
        let trial = |number: u64| Trial { number, undecided: self.of(number).undecided };
        let is_tried = |number: &u64| self.of(*number).is_tried() && !self.is_poison(*number);
        let mut trials: Vec<_> = order.into_iter().filter(is_tried).map(trial).collect();
        trials.sort_by_key(|trial| std::cmp::Reverse(trial.undecided));
        trials
    }

    fn blame(&self, weight: u64, running: &[(u64, u64)], unanswered: &[u64]) {
        match running {
            [] => {
                // Those on trial were not sent yet.
                for number in unanswered {
                    let of = self.of(*number);
                    if !of.is_tried() {
                        self.set(*number, Suspicion { weight: of.weight + weight, ..of });
                    }
                }
            }
            [(_, one)] => {
                let of = self.of(*one);
                self.set(*one, Suspicion { weight: of.weight + weight, ..of });
            }
            several => {
                for (_, number) in several {
                    let of = self.of(*number);
                    self.set(*number, Suspicion { undecided: of.undecided + 1, ..of });
                }
            }
        }
    }

    /// A request is sent now, as this one of the trial, the first of which is 1.
    pub(super) fn begins(&self, number: u64, position: usize) {
        let position = position as u64;
        self.set(number, Suspicion { position, ..self.of(number) });
    }

    /// Whether workers have died of it.
    pub(super) fn is_poison(&self, number: u64) -> bool {
        self.of(number).weight >= FATAL
    }

    fn of(&self, number: u64) -> Suspicion {
        Suspicion::of(self.kept.count(Kind::Suspect, number, 0).unwrap_or(0))
    }

    fn set(&self, number: u64, suspicion: Suspicion) {
        if self.kept.count(Kind::Suspect, number, 0).is_none() {
            self.kept.put(Kind::Suspect, number, &[]);
        }
        let now = self.kept.count(Kind::Suspect, number, 0).unwrap_or(0);
        let by = suspicion.value().cast_signed().wrapping_sub(now.cast_signed());
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

    fn numbers(trials: &[Trial]) -> Vec<u64> {
        trials.iter().map(|trial| trial.number).collect()
    }

    #[test]
    fn the_third_death_of_a_worker_by_itself_is_too_much_for_the_only_one_that_is_tried() {
        let kept = kept();
        let suspects = Suspects::new(&kept);
        assert_eq!(suspects.worker_died(Ended::Crashed, &[2, 4]), []);
        assert_eq!(numbers(&suspects.worker_died(Ended::Crashed, &[2, 4])), [2, 4]);
        // The other one was answered.
        suspects.begins(2, 1);
        suspects.begins(4, 2);
        assert_eq!(suspects.worker_died(Ended::Stuck, &[4, 6]), []);
        assert!(suspects.is_poison(4) && !suspects.is_poison(2) && !suspects.is_poison(6));
    }

    #[test]
    fn who_is_let_go_without_an_answer_is_as_suspect_as_who_comes_later() {
        let kept = kept();
        let suspects = Suspects::new(&kept);
        let all = [2, 4, 6, 8];
        for _ in 0..2 {
            suspects.worker_died(Ended::Crashed, &all);
        }
        for (at, number) in [2, 4, 6].into_iter().enumerate() {
            suspects.begins(number, at + 1);
        }
        // The one that was not sent yet is the last now.
        let trials = suspects.worker_died(Ended::Crashed, &all);
        assert_eq!(numbers(&trials), [6, 4, 2, 8]);
        assert_eq!(trials.iter().map(|trial| trial.undecided).collect::<Vec<_>>(), [1, 1, 1, 0]);
        assert!(all.into_iter().all(|number| !suspects.is_poison(number)));
        // Less of them run at the next death, and the last one alone.
        suspects.begins(6, 1);
        suspects.begins(4, 2);
        assert_eq!(numbers(&suspects.worker_died(Ended::Crashed, &all)), [4, 6, 2, 8]);
        suspects.begins(4, 1);
        assert_eq!(numbers(&suspects.worker_died(Ended::Crashed, &all)), [6, 2, 8]);
        assert!(suspects.is_poison(4));
    }

    #[test]
    fn who_was_not_sent_again_is_not_counted() {
        let kept = kept();
        let suspects = Suspects::new(&kept);
        for _ in 0..50 {
            suspects.worker_died(Ended::Crashed, &[2]);
        }
        assert_eq!(numbers(&suspects.worker_died(Ended::Crashed, &[2])), [2]);
    }

    #[test]
    fn a_kill_by_somebody_counts_a_ninth_and_a_planned_end_nothing() {
        let kept = kept();
        let suspects = Suspects::new(&kept);
        for deaths in 1..=27 {
            suspects.worker_died(Ended::Planned, &[2]);
            if deaths > 18 {
                suspects.begins(2, 1);
            }
            let trials = suspects.worker_died(Ended::Killed, &[2]);
            assert_eq!(numbers(&trials).contains(&2), (18..27).contains(&deaths), "{deaths}");
            assert_eq!(suspects.is_poison(2), deaths == 27, "{deaths}");
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
        suspects.begins(1, 1);
        suspects.worker_died(Ended::Crashed, &all);
        assert!(suspects.is_poison(1) && !suspects.is_poison(8192));
    }

    #[test]
    fn a_suspicion_is_a_single_number() {
        let suspicion = Suspicion { weight: 9, undecided: 3, position: 8192 };
        let same = Suspicion::of(suspicion.value());
        assert_eq!((same.weight, same.undecided, same.position), (9, 3, 8192));
        let most = Suspicion { weight: u64::MAX, undecided: u64::MAX, position: u64::MAX };
        assert!(i64::try_from(most.value()).is_ok());
    }
}
