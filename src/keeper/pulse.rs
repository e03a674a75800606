//! Liveness: whether the mount still answers, and is still in the mount table. A worker may live and
//! serve nobody, because it was stopped or hangs. And a mount that is unmounted while somebody uses it
//! lives on, and no name leads to it any more.
//!
//! Only `stat` and `statfs` of the root are asked for. The worker answers them from memory, so that an
//! outage of Redis never delays them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::host::mount::is_taken_away;
use crate::host::prober::{Prober, Question, Root};

/// The bound is counted in looks, not by the clock: after a suspend of the whole host the clock says
/// that the worker had its time, and it has had none.
const LOOKS: u32 = 10;
/// So many looks the process that asks may need to begin. On a host that is short of memory or time it is late, and that
/// says nothing of the worker. Then another one asks: this one may have been stopped.
const BEGINS_WITHIN_LOOKS: u32 = 3 * LOOKS;
/// The mount is asked so often in the time that it has for an answer.
const QUESTIONS: u32 = 5;

/// The outcome of a look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Beat {
    /// It answers, as far as is known.
    Alive,
    /// The mount has not answered in time.
    Unresponsive,
    /// It is not in the mount table any more.
    Unmounted,
}

/// A question that is not answered yet, and how often it was looked for.
struct Asked {
    question: Question,
    /// Before the process that asks had begun.
    late: u32,
    /// Since then.
    unanswered: u32,
}

/// Asks the mount periodically.
pub(super) struct Pulse {
    mountpoint: PathBuf,
    answer_within: Duration,
    asked: Option<Asked>,
    next: Instant,
}

impl Pulse {
    /// Of the filesystem at this mountpoint, which has to answer within this time.
    pub(super) fn new(mountpoint: PathBuf, answer_within: Duration) -> Self {
        Self {
            mountpoint,
            answer_within,
            asked: None,
            next: Instant::now() + answer_within / QUESTIONS,
        }
    }

    /// When to look again, if no answer comes before.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    pub(super) fn look(&mut self, prober: &mut Prober) -> Beat {
        let now = Instant::now();
        let due = now >= self.next;
        match self.asked.take() {
            // An error is an answer, too: that the worker has ended is seen by its end.
            Some(asked) if prober.answer(asked.question).is_some() => {
                self.next = now + self.answer_within / QUESTIONS;
            }
            Some(mut asked) if due => {
                self.next = now + self.answer_within / LOOKS;
                if prober.has_begun() {
                    asked.unanswered += 1;
                } else {
                    asked.late += 1;
                }
                if asked.unanswered >= LOOKS {
                    return Beat::Unresponsive;
                }
                if asked.late >= BEGINS_WITHIN_LOOKS {
                    tracing::warn!(
                        "the process that checks whether the mount answers is replaced: it did not begin"
                    );
                    prober.give_up();
                } else {
                    self.asked = Some(asked);
                }
            }
            Some(asked) => self.asked = Some(asked),
            None if due => {
                if is_taken_away(&self.mountpoint) {
                    return Beat::Unmounted;
                }
                match prober.ask(&Root::At(&self.mountpoint)) {
                    Ok(question) => {
                        self.asked = Some(Asked { question, late: 0, unanswered: 0 });
                    }
                    Err(error) => tracing::warn!(%error, "cannot check whether the mount answers"),
                }
                self.next = now + self.answer_within / LOOKS;
            }
            None => {}
        }
        Beat::Alive
    }
}
