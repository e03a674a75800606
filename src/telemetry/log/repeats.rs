//! What was logged just now, by kind: an outage, or somebody without a login, can cause one event
//! a request, and a journal that is flooded drops the lines of others.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tracing::Level;

/// Lines of a kind are written once within this time.
const WINDOW: Duration = Duration::from_secs(10);
/// There are about as many kinds as lines in the program that log; beyond, all are one.
const KINDS_MAX: usize = 256;

/// The kinds that were seen in their last window.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    kinds: HashMap<String, Kind>,
}

#[derive(Debug)]
struct Kind {
    since: Instant,
    /// What was not written since.
    unwritten: Option<Repeated>,
}

/// Lines that were not written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Repeated {
    pub count: u64,
    /// Within how many seconds.
    pub within_seconds: u64,
    pub level: Level,
    pub text: String,
}

impl Repeats {
    /// Whether an event is to be written; else it is counted.
    pub(super) fn is_new(
        &mut self,
        kind: String,
        level: Level,
        text: impl FnOnce() -> String,
        now: Instant,
    ) -> bool {
        let kind = if self.kinds.len() < KINDS_MAX || self.kinds.contains_key(&kind) {
            kind
        } else {
            String::new()
        };
        let Some(known) = self.kinds.get_mut(&kind) else {
            self.kinds.insert(kind, Kind { since: now, unwritten: None });
            return true;
        };
        let count = known.unwritten.as_ref().map_or(0, |repeated| repeated.count) + 1;
        known.unwritten = Some(Repeated { count, within_seconds: 0, level, text: text() });
        false
    }

    /// What is due now: each kind whose time is over; `all` of them at the end.
    pub(super) fn due(&mut self, now: Instant, all: bool) -> Vec<Repeated> {
        let mut due = Vec::new();
        self.kinds.retain(|_, kind| {
            let elapsed = now.saturating_duration_since(kind.since);
            if elapsed < WINDOW && !all {
                return true;
            }
            let Some(repeated) = kind.unwritten.take() else { return false };
            due.push(Repeated { within_seconds: elapsed.as_secs(), ..repeated });
            kind.since = now;
            true
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_has_one_line_and_nothing_is_lost() {
        let start = Instant::now();
        let mut repeats = Repeats::default();
        let (mut written, mut counted, mut lines) = (0, 0, 0);
        // A flood of 35 seconds, and as much silence.
        for second in 0..70 {
            let now = start + Duration::from_secs(second);
            for number in 0..if second < 35 { 100 } else { 0 } {
                let text = || number.to_string();
                written += u64::from(repeats.is_new("flood".into(), Level::WARN, text, now));
            }
            for repeated in repeats.due(now, false) {
                assert_eq!((repeated.within_seconds, repeated.text.as_str()), (10, "99"));
                counted += repeated.count;
                lines += 1;
            }
        }
        assert_eq!((written, written + counted, lines), (1, 3500, 4));
        assert!(repeats.kinds.is_empty());
    }

    #[test]
    fn kinds_are_bounded() {
        let now = Instant::now();
        let mut repeats = Repeats::default();
        for number in 0..10_000 {
            repeats.is_new(number.to_string(), Level::WARN, String::new, now);
        }
        assert!(repeats.kinds.len() <= KINDS_MAX + 1);
        let counted: u64 = repeats.due(now, true).iter().map(|repeated| repeated.count).sum();
        assert_eq!(counted, 10_000 - KINDS_MAX as u64 - 1);
    }
}
