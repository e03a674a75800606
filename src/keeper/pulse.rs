//! Whether the mount still answers, and is still there. A worker may live and serve nobody: stopped,
//! or caught in a mistake of its own. And a mount that is taken away while somebody uses it lives on,
//! and no name leads to it any more.
//!
//! Only `stat` and `statfs` of the root are asked for, which the worker answers from what it knows:
//! that Redis is away, or slow, never delays them.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::host::mount::{Probe, is_taken_away};

/// The bound is counted in so many looks, not by the clock: when a whole host has been asleep, the
/// clock says that the worker had its time, and it has had none.
const LOOKS: u32 = 10;

/// What a look came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Beat {
    /// Nothing is known to be wrong.
    Well,
    /// The mount has not answered in time.
    Silent,
    /// The mount was taken away.
    TakenAway,
}

/// Asks the mount again and again.
pub struct Pulse {
    mountpoint: PathBuf,
    answer_within: Duration,
    asked: Option<(Probe, u32)>,
    next: Instant,
}

impl Pulse {
    /// Of the filesystem that is served at this mountpoint, which has so long for an answer.
    pub fn new(mountpoint: PathBuf, answer_within: Duration) -> Self {
        Self { mountpoint, answer_within, asked: None, next: Instant::now() + answer_within / 2 }
    }

    /// What to wait for before the next look.
    pub fn waits_for(&self) -> (Option<BorrowedFd<'_>>, Instant) {
        (self.asked.as_ref().map(|(probe, _)| probe.as_fd()), self.next)
    }

    /// Looks.
    pub fn look(&mut self) -> Beat {
        let now = Instant::now();
        let due = now >= self.next;
        match self.asked.take() {
            Some((probe, looks)) => match probe.answer() {
                // An error is an answer, too: that the worker has ended is seen by its end.
                Ok(_) => {
                    self.next = now + self.answer_within / 2;
                }
                Err(probe) => {
                    let looks = looks + u32::from(due);
                    self.asked = Some((probe, looks));
                    if due {
                        self.next = now + self.answer_within / LOOKS;
                    }
                    return if looks >= LOOKS { Beat::Silent } else { Beat::Well };
                }
            },
            None if due => {
                if is_taken_away(&self.mountpoint) {
                    return Beat::TakenAway;
                }
                match Probe::start(&self.mountpoint) {
                    Ok(probe) => self.asked = Some((probe, 0)),
                    Err(failure) => {
                        tracing::warn!(%failure, "cannot see whether the mount answers");
                    }
                }
                self.next = now + self.answer_within / LOOKS;
            }
            None => {}
        }
        Beat::Well
    }
}
