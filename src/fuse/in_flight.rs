//! Requests between being read and being answered, as the next worker finds them.
//!
//! The kernel writes each request into a buffer that outlives this process. There it stays as long as its thread
//! handles it. When it is handed to a task the thread reads the next one into the same buffer, so it is copied before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::REQUEST_MAX_BYTES;
use super::wire::{Header, Unique};
use crate::handoff::{Kept, Kind};
use crate::host::read_buffer::with_last_read;

/// The requests of this worker.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    kept: Kept,
    /// It was logged that one could not be kept.
    is_told: Arc<AtomicBool>,
}

/// One that is kept until it is answered.
#[derive(Debug)]
pub(super) struct Recorded {
    kept: Kept,
    unique: Unique,
}

impl InFlight {
    pub(super) fn new(kept: Kept) -> Self {
        Self { kept, is_told: Arc::default() }
    }

    /// Keeps the request that this thread has read last. `None` if it is kept already, because it is replayed, or
    /// cannot be.
    pub(super) fn keep(&self, unique: Unique) -> Option<Recorded> {
        if !self.kept.is_there() || is_kept(&self.kept, unique) {
            return None;
        }
        let is_kept = with_last_read(REQUEST_MAX_BYTES, |bytes| {
            Header::parse(bytes)
                .filter(|header| header.unique == unique)
                .is_some_and(|header| put(&self.kept, unique, &bytes[..header.length_bytes]))
        });
        if is_kept != Some(true) && !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a request is not recorded: it would not be answered if this worker died now"
            );
        }
        (is_kept == Some(true)).then(|| Recorded { kept: self.kept.clone(), unique })
    }
}

impl Recorded {
    /// The kernel has its answer.
    pub(super) fn answered(self) {
        forget(&self.kept, self.unique);
    }
}

fn is_kept(kept: &Kept, unique: Unique) -> bool {
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
