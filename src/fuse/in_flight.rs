//! Requests between being read and being answered, as the next worker finds them.
//!
//! The kernel writes each request into a buffer that outlives this process. There it stays as long as its thread
//! handles it. When it is handed to a task the thread reads the next one into the same buffer, so it is copied before. If
//! there is no room for the copy, the thread does not read another one until the task is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::REQUEST_MAX_BYTES;
use super::wire::{Header, Unique};
use crate::handoff::{Kept, Kind, SMALL_BYTES};
use crate::host::read_buffer::with_last_read;

/// The requests of this worker.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    kept: Kept,
    sends_again: bool,
    /// It was logged that one could not be kept.
    is_told: Arc<AtomicBool>,
    is_occupied: Arc<AtomicBool>,
}

/// A thread waits for a request that has no room.
#[derive(Debug)]
pub(super) struct Occupied(Arc<AtomicBool>);

/// One that is kept until it is answered.
#[derive(Debug)]
pub(super) struct Recorded {
    kept: Kept,
    unique: Unique,
}

/// What became of a request that its thread is about to leave to a task.
#[derive(Debug)]
pub(super) enum Keeping {
    Kept(Recorded),
    /// It is recorded already, because it is replayed; or the kernel sends it again to the next worker.
    Needless,
    /// Its buffer is the only record: it is lost when its thread reads the next one.
    NoRoom {
        /// It carries a content. Python repeats such a call when it is interrupted.
        is_large: bool,
    },
}

impl InFlight {
    /// `sends_again`: whether the kernel sends again what was not answered.
    pub(super) fn new(kept: Kept, sends_again: bool) -> Self {
        Self { kept, sends_again, is_told: Arc::default(), is_occupied: Arc::default() }
    }

    /// Keeps the request that this thread has read last.
    pub(super) fn keep(&self, unique: Unique) -> Keeping {
        if !self.kept.is_there() || is_kept(&self.kept, unique) {
            return Keeping::Needless;
        }
        let put = with_last_read(REQUEST_MAX_BYTES, |bytes| {
            let header = Header::parse(bytes).filter(|header| header.unique == unique)?;
            let length_bytes = header.length_bytes;
            Some((put(&self.kept, unique, &bytes[..length_bytes]), length_bytes))
        });
        let (what, keeping) = match put.flatten() {
            Some((true, _)) => {
                return Keeping::Kept(Recorded { kept: self.kept.clone(), unique });
            }
            _ if self.sends_again => return Keeping::Needless,
            Some((false, length_bytes)) => {
                let is_large = length_bytes > SMALL_BYTES;
                (
                    "no more requests can be recorded: one waits in its thread",
                    Keeping::NoRoom { is_large },
                )
            }
            None => (
                "a request is not recorded: it would not be answered if this worker died now",
                Keeping::Needless,
            ),
        };
        if !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!("{what}");
        }
        keeping
    }

    /// Takes the one thread that may wait for a request which has no room, so that others are served meanwhile. `None`
    /// if it is taken.
    pub(super) fn occupy(&self) -> Option<Occupied> {
        let was_free = !self.is_occupied.swap(true, Ordering::AcqRel);
        was_free.then(|| Occupied(Arc::clone(&self.is_occupied)))
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Recorded {
    /// The kernel has its answer.
    pub(super) fn answered(self) {
        forget(&self.kept, self.unique);
    }
}

/// Whether it is recorded.
pub(super) fn is_kept(kept: &Kept, unique: Unique) -> bool {
    kept.count(Kind::Request, unique.of_request(), 0).is_some()
}

/// Keeps the bytes of a request.
pub(super) fn put(kept: &Kept, unique: Unique, bytes: &[u8]) -> bool {
    kept.put(Kind::Request, unique.of_request(), &[bytes])
}

/// It is answered: neither it nor its change will be repeated.
pub(super) fn forget(kept: &Kept, unique: Unique) {
    kept.remove(Kind::Request, unique.of_request());
    kept.remove(Kind::Change, unique.of_request());
}
