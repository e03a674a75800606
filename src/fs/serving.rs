//! Which processes serve cookies.
//!
//! A cookie may hold somebody's alias, and a logout with it must not end that session. So a process
//! that serves cookies may remove by alias only what was listed to it ([`super::grants`]). A process
//! that has never tried to open a session, nor to save one, serves none: `rm`, `find`, a shell.

use std::num::NonZeroUsize;

use lru::LruCache;

use super::caller::ProcessId;

const MAX_PROCESSES: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// The processes that were seen to serve cookies.
pub(super) struct Serving {
    known: LruCache<ProcessId, ()>,
    /// What a process did that began no later is not known: this worker was not mounted yet, or its
    /// record was pushed out. Clock ticks since boot.
    unknown_until_ticks: u64,
}

impl Default for Serving {
    fn default() -> Self {
        // Until the mount is in place, nothing is known.
        Self { known: LruCache::new(MAX_PROCESSES), unknown_until_ticks: u64::MAX }
    }
}

impl Serving {
    /// The directory is mounted, at `now_ticks`: processes that begin later are seen from the start.
    pub(super) fn mounted(&mut self, now_ticks: u64) {
        if self.unknown_until_ticks == u64::MAX {
            self.unknown_until_ticks = now_ticks;
        }
    }

    /// It has tried to open a session, or to save one.
    pub(super) fn insert(&mut self, process: Option<ProcessId>) {
        let Some(process) = process else { return };
        if let Some((out, ())) = self.known.push(process, ())
            && out != process
        {
            self.unknown_until_ticks = self.unknown_until_ticks.max(out.start_ticks);
        }
    }

    /// Whether this process may serve cookies: it was seen to, or it is not known. `None` for one
    /// that cannot be seen.
    pub(super) fn may_contain(&self, process: Option<ProcessId>) -> bool {
        process.is_none_or(|process| {
            process.start_ticks <= self.unknown_until_ticks || self.known.contains(&process)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(start_ticks: u64) -> ProcessId {
        ProcessId { tid: 1, start_ticks }
    }

    #[test]
    fn a_process_is_unknown_if_it_began_before_the_mount_or_was_pushed_out() {
        let mut serving = Serving::default();
        assert!(serving.may_contain(Some(process(7))));
        serving.mounted(10);
        for (number, may) in [(9, true), (10, true), (11, false)] {
            assert_eq!(serving.may_contain(Some(process(number))), may, "{number}");
        }
        // A second order changes nothing.
        serving.mounted(20);
        assert!(!serving.may_contain(Some(process(11))));
        let full = MAX_PROCESSES.get() as u64;
        for number in 12..12 + full {
            serving.insert(Some(process(number)));
        }
        assert!(!serving.may_contain(Some(process(11))));
        serving.insert(Some(process(100_000)));
        assert_eq!(serving.known.len(), MAX_PROCESSES.get());
        for (number, may) in [(11, true), (12, true), (13, true), (100_001, false)] {
            assert_eq!(serving.may_contain(Some(process(number))), may, "{number}");
        }
    }
}
