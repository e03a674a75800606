//! How long answers take on this line, as far as that is no fault.

use std::time::Duration;

/// So many answers in a row must have been slow. One that is slow says something of its server, not
/// of the line.
const ANSWERS: usize = 4;
/// By how much an answer may take longer than the quickest of them.
const SLACK: u32 = 2;

/// The last answers.
#[derive(Debug, Default)]
pub(super) struct Pace {
    took: [Duration; ANSWERS],
    next: usize,
}

impl Pace {
    /// An answer has arrived so long after its request.
    pub(super) fn answered(&mut self, took: Duration) {
        self.took[self.next] = took;
        self.next = (self.next + 1) % ANSWERS;
    }

    /// After how long a request is overdue on this line: `least`, or more if all answers take long.
    pub(super) fn overdue(&self, least: Duration, most: Duration) -> Duration {
        let usual = self.took.iter().min().copied().unwrap_or_default() * SLACK;
        usual.min(most).max(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_line_that_is_always_slow_gets_more_time() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        let overdue = |pace: &Pace| pace.overdue(ms(100), ms(500));
        assert_eq!(overdue(&pace), ms(100));
        for _ in 0..ANSWERS - 1 {
            pace.answered(ms(200));
            assert_eq!(overdue(&pace), ms(100));
        }
        pace.answered(ms(200));
        assert_eq!(overdue(&pace), ms(400));
        pace.answered(ms(1));
        assert_eq!(overdue(&pace), ms(100));
        for _ in 0..ANSWERS {
            pace.answered(ms(2_000));
        }
        assert_eq!(overdue(&pace), ms(500));
    }
}
