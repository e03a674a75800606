//! The queue from the filesystem to the mirror. Its sender never waits: a note that does not fit is
//! dropped and counted, and the next `open` of that session sends it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::session::name::{Alias, Sid};
use crate::store::{Meta, Observer};

/// How many notes may wait.
const MAX_NOTES: usize = 1024;
/// How much content may wait with them.
const MAX_WAITING_BYTES: u64 = 64 << 20;

/// A change for the mirror to write.
#[derive(Debug)]
pub(crate) enum Note {
    /// The current version of a session.
    Current { sid: Sid, meta: Meta, plain: Bytes },
    /// This session has ended.
    Ended(Alias),
}

/// The end that the filesystem has.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    notes: mpsc::Sender<Note>,
    waiting: Arc<Waiting>,
}

/// The end that the mirror has.
#[derive(Debug)]
pub(crate) struct Receiver {
    notes: mpsc::Receiver<Note>,
    waiting: Arc<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicU64,
    dropped: AtomicU64,
}

/// A queue of its two ends.
pub(crate) fn queue() -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(MAX_NOTES);
    let waiting = Arc::<Waiting>::default();
    (Sender { notes: sender, waiting: Arc::clone(&waiting) }, Receiver { notes: receiver, waiting })
}

impl Observer for Sender {
    fn current(&self, sid: &Sid, meta: &Meta, plain: &Bytes) {
        let length = plain.len() as u64;
        let before = self.waiting.bytes.fetch_add(length, Ordering::Relaxed);
        let note = Note::Current { sid: sid.clone(), meta: meta.clone(), plain: plain.clone() };
        if before + length > MAX_WAITING_BYTES || self.notes.try_send(note).is_err() {
            self.waiting.bytes.fetch_sub(length, Ordering::Relaxed);
            self.waiting.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn ended(&self, alias: &Alias) {
        if self.notes.try_send(Note::Ended(alias.clone())).is_err() {
            self.waiting.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Receiver {
    /// The next note; `None` when there is no sender any more.
    pub(crate) async fn next(&mut self) -> Option<Note> {
        let note = self.notes.recv().await;
        if let Some(Note::Current { plain, .. }) = &note {
            self.waiting.bytes.fetch_sub(plain.len() as u64, Ordering::Relaxed);
        }
        note
    }

    /// Whether no note waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    /// How many notes were dropped since the last call.
    pub(crate) fn take_dropped(&self) -> u64 {
        self.waiting.dropped.swap(0, Ordering::Relaxed)
    }
}
