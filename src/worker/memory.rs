//! What was kept of sessions and is no longer goes back to the system.

use std::time::Duration;

use crate::host::heap;

const LOOKS_EVERY: Duration = Duration::from_secs(10);
/// So much less than at its highest is worth the time that it takes.
const WORTH_BYTES: u64 = 8 * 1024 * 1024;

/// Looks at what is in use, until the worker ends.
pub(super) async fn give_back(used_bytes: impl Fn() -> u64) {
    let mut highest = Highest::default();
    loop {
        tokio::time::sleep(LOOKS_EVERY).await;
        if highest.has_fallen(used_bytes()) {
            // It may take some milliseconds, in which this thread would answer nobody.
            let _ = tokio::task::spawn_blocking(heap::give_back).await;
        }
    }
}

/// The most that was in use since memory was given back last, bytes.
#[derive(Default)]
struct Highest(u64);

impl Highest {
    fn has_fallen(&mut self, used_bytes: u64) -> bool {
        self.0 = self.0.max(used_bytes);
        let has_fallen = self.0 - used_bytes >= WORTH_BYTES;
        if has_fallen {
            self.0 = used_bytes;
        }
        has_fallen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_when_much_is_free_and_not_again_until_then() {
        let mut highest = Highest::default();
        let much = 100 * WORTH_BYTES;
        for (used, expected) in [
            (0, false),
            (much, false),
            (much - 1, false),
            (much - WORTH_BYTES, true),
            (much - WORTH_BYTES, false),
            (0, true),
            (WORTH_BYTES - 1, false),
            (0, false),
        ] {
            assert_eq!(highest.has_fallen(used), expected, "{used}");
        }
    }
}
