//! How many staging files there are and what they take, within bounds. What a file takes is charged
//! to the file itself: it is given back when the last who has it open closes it, like the memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// No file takes less of a tmpfs, whatever its size.
const PAGE_BYTES: u64 = 4096;

/// What the staging files of a mount take together.
#[derive(Debug)]
pub(super) struct Account {
    used: Mutex<Used>,
    max: Used,
}

/// A number of files, and their size in whole pages.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Used {
    pub files: u64,
    pub bytes: u64,
}

/// What one file takes, until it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    account: Arc<Account>,
    /// Changed under the account's lock alone.
    size_bytes: AtomicU64,
}

impl Account {
    pub(super) fn new(max: Used) -> Arc<Self> {
        Arc::new(Self { used: Mutex::default(), max })
    }

    pub(super) fn used(&self) -> Used {
        *lock(&self.used)
    }

    /// A new file; `None` if there is no room for it.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Charge> {
        let mut used = lock(&self.used);
        let fits = used.files < self.max.files && used.bytes + PAGE_BYTES <= self.max.bytes;
        fits.then(|| self.add(&mut used, 0))
    }

    /// A file that is there already, whatever the bounds.
    pub(super) fn charge(self: &Arc<Self>, size_bytes: u64) -> Charge {
        self.add(&mut lock(&self.used), size_bytes)
    }

    fn add(self: &Arc<Self>, used: &mut Used, size_bytes: u64) -> Charge {
        used.files += 1;
        used.bytes += taken(size_bytes);
        Charge { account: Arc::clone(self), size_bytes: AtomicU64::new(size_bytes) }
    }
}

impl Charge {
    /// Makes room for a file of at least `size_bytes`. Whether there is room.
    pub(super) fn grow(&self, size_bytes: u64) -> bool {
        let mut used = lock(&self.account.used);
        let before = self.size_bytes.load(Ordering::Relaxed);
        let growth = taken(size_bytes).saturating_sub(taken(before));
        if growth > 0 && used.bytes + growth > self.account.max.bytes {
            return false;
        }
        used.bytes += growth;
        self.size_bytes.store(before.max(size_bytes), Ordering::Relaxed);
        true
    }

    /// Gives back what is beyond `size_bytes`.
    pub(super) fn shrink(&self, size_bytes: u64) {
        let mut used = lock(&self.account.used);
        let before = self.size_bytes.load(Ordering::Relaxed);
        used.bytes -= taken(before).saturating_sub(taken(size_bytes));
        self.size_bytes.store(before.min(size_bytes), Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut used = lock(&self.account.used);
        used.files -= 1;
        used.bytes -= taken(self.size_bytes.load(Ordering::Relaxed));
    }
}

fn taken(size_bytes: u64) -> u64 {
    size_bytes.max(1).saturating_add(PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Arc<Account> {
        Account::new(Used { files: 2, bytes: 4 * PAGE_BYTES })
    }

    #[test]
    fn files_and_pages_are_bounded_and_given_back() {
        let account = account();
        let (one, two) = (account.admit().unwrap(), account.admit().unwrap());
        assert!(account.admit().is_none());
        assert!(one.grow(PAGE_BYTES + 1) && two.grow(1));
        assert_eq!(account.used(), Used { files: 2, bytes: 3 * PAGE_BYTES });
        assert!(!two.grow(2 * PAGE_BYTES + 1));
        // What did not fit is not charged.
        assert!(two.grow(2 * PAGE_BYTES));
        one.shrink(0);
        assert_eq!(account.used(), Used { files: 2, bytes: 3 * PAGE_BYTES });
        drop((one, two));
        assert_eq!(account.used(), Used::default());
    }

    #[test]
    fn what_is_there_already_is_charged_beyond_the_bounds() {
        let account = account();
        let there = [9 * PAGE_BYTES, 0, 0].map(|size| account.charge(size));
        assert!(account.admit().is_none());
        assert!(!there[1].grow(PAGE_BYTES + 1) && there[0].grow(PAGE_BYTES));
        drop(there);
        assert!(account.admit().is_some());
    }
}
