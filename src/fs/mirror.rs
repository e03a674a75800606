//! What the filesystem tells of the sessions that come by, for who writes them back to a disk.
//!
//! Only here are the session id and the plain content known. Telling never waits and never fails:
//! what does not fit is dropped, counted, and told again at the next `open`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::session::name::{Alias, Sid};
use crate::store::Meta;

/// Notes that may wait.
const MAX_NOTES: usize = 1024;
/// The content that may wait with them.
const MAX_WAITING_BYTES: u64 = 64 << 20;

/// Something to be written down.
#[derive(Debug)]
pub enum Note {
    /// This is a session's current version.
    Current {
        /// Whose.
        sid: Sid,
        /// Its attributes.
        meta: Meta,
        /// Its plain content.
        plain: Bytes,
    },
    /// This session has ended.
    Ended(Alias),
}

/// Where the filesystem tells.
#[derive(Clone, Debug)]
pub struct Mirror {
    notes: Sender<Note>,
    waiting: Arc<Waiting>,
}

/// Where it is heard.
#[derive(Debug)]
pub struct Told {
    notes: Receiver<Note>,
    waiting: Arc<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicU64,
    dropped: AtomicU64,
}

impl Mirror {
    /// Both ends.
    pub fn pair() -> (Self, Told) {
        let (sender, receiver) = channel(MAX_NOTES);
        let waiting = Arc::<Waiting>::default();
        (Self { notes: sender, waiting: Arc::clone(&waiting) }, Told { notes: receiver, waiting })
    }

    /// A version was opened or saved.
    pub fn current(&self, sid: &Sid, meta: &Meta, plain: &Bytes) {
        let length = plain.len() as u64;
        let before = self.waiting.bytes.fetch_add(length, Ordering::Relaxed);
        let note = Note::Current { sid: sid.clone(), meta: meta.clone(), plain: plain.clone() };
        if before + length > MAX_WAITING_BYTES || self.notes.try_send(note).is_err() {
            self.waiting.bytes.fetch_sub(length, Ordering::Relaxed);
            self.waiting.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A session was found to be gone.
    pub fn ended(&self, alias: &Alias) {
        if self.notes.try_send(Note::Ended(alias.clone())).is_err() {
            self.waiting.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Told {
    /// The next note; `None` when nobody can tell any more.
    pub async fn next(&mut self) -> Option<Note> {
        let note = self.notes.recv().await;
        if let Some(Note::Current { plain, .. }) = &note {
            self.waiting.bytes.fetch_sub(plain.len() as u64, Ordering::Relaxed);
        }
        note
    }

    /// Whether no note waits.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    /// How many notes did not fit since this was asked last.
    pub fn take_dropped(&self) -> u64 {
        self.waiting.dropped.swap(0, Ordering::Relaxed)
    }
}
