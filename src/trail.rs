//! The audit trail: what has happened to the sessions of people, and who changed what, one entry each.
//!
//! - [`entry`]: an entry, as a line of JSON and in the log
//! - [`file`](mod@file): where lines are written, by a thread of its own
//!
//! Entries are made by the scripts in Redis, in the step that does what they tell of, and lie in an outbox there until
//! one server has written them (`crate::redis::outbox`, `crate::redis::auditor`). So each is made once, whoever asks
//! again, and none is lost with a reply, a worker or a full disk.

pub mod entry;
pub(crate) mod file;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use self::entry::{Entry, Event};
use self::file::File;
use crate::telemetry::metrics::metrics;

/// Where entries go: the log, the metrics, and the file if there is one. Clones share it.
#[derive(Clone, Default)]
pub struct Trail {
    file: Option<Arc<File>>,
    /// There is to be a file, and it could not be opened.
    is_missing: bool,
    /// The file has not taken what was written last.
    has_refused: Arc<AtomicBool>,
}

impl Trail {
    /// One that writes to this file or socket, too. A file grows up to that size.
    pub fn to(descriptor: OwnedFd, max_bytes: u64) -> io::Result<Self> {
        let file = Some(Arc::new(File::open(descriptor, max_bytes)?));
        Ok(Self { file, ..Self::default() })
    }

    /// One that takes nothing, since its file could not be opened: the entries wait for a server that has one, or for a
    /// reload.
    pub(crate) fn missing() -> Self {
        Self { is_missing: true, ..Self::default() }
    }

    /// Whether there is a file.
    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Whether entries are taken, as far as is known.
    pub(crate) fn takes(&self) -> bool {
        !self.is_missing && !self.has_refused.load(Ordering::Relaxed)
    }

    /// Writes these entries. `false`: the file did not take them, and nothing was said of them; they are to be
    /// written later.
    pub(crate) async fn write(&self, entries: &[Entry]) -> bool {
        if entries.is_empty() {
            return true;
        }
        if self.is_missing {
            return false;
        }
        if let Some(file) = &self.file {
            let is_taken = file.write(entries.iter().map(Entry::line).collect()).await;
            self.has_refused.store(!is_taken, Ordering::Relaxed);
            if !is_taken {
                metrics().trail.refused.inc();
                return false;
            }
        }
        for entry in entries {
            entry.log();
            metrics().trail.written(entry.event.label());
            if entry.event == Event::LeftOut {
                metrics().trail.left_out.inc_by(entry.count.unwrap_or(1));
            }
        }
        true
    }
}
