//! Redis's time as this server knows it between two answers: the last time that an answer carried,
//! and the monotonic time since. Never the wall clock.

use std::sync::Mutex;
use std::time::Duration;

use redis::{FromRedisValue as _, Value};
use tokio::time::Instant;

use super::scripts::ClockView;
use crate::sync::lock;

/// How far the two clocks may drift apart, per mille of the time that passes.
const DRIFT_PER_MILLE: f64 = 0.2;
/// A difference from what was expected that is no delay and no drift: the clock was set, or
/// another server answers now.
const JUMP_MS: f64 = 2000.0;

/// An estimate of Redis's clock that is never ahead of it (but for drift): a change's "first
/// attempt" must not seem later than a newer save of another server.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    known: Option<Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// When the answer that travelled fastest came in, and the time that it carried.
    at: Instant,
    server_ms: f64,
}

impl Known {
    #[allow(clippy::cast_precision_loss)] // milliseconds of this century
    fn at(self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64() * 1000.0;
        self.server_ms + passed * (1.0 - DRIFT_PER_MILLE / 1000.0)
    }
}

impl Clock {
    /// Notes that the answer to a request of `sent`, received at `received`, carried the time
    /// `server_ms`. Returns by how much Redis's clock has jumped, if it has (milliseconds, forward
    /// is positive).
    ///
    /// The server answered at some time between the two, however far apart they are: only a time
    /// outside them is a jump.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    pub(crate) fn observe(
        &mut self,
        server_ms: u64,
        sent: Instant,
        received: Instant,
    ) -> Option<i64> {
        let observed = Known { at: received, server_ms: server_ms as f64 };
        let Some(known) = self.known else {
            self.known = Some(observed);
            return None;
        };
        let ahead = observed.server_ms - known.at(received);
        let behind = observed.server_ms - known.at(sent);
        let jump = [ahead.max(0.0), behind.min(0.0)].into_iter().find(|by| by.abs() > JUMP_MS);
        // A late answer carries an old time: the estimate that there is is the better one.
        if jump.is_some() || ahead >= 0.0 {
            self.known = Some(observed);
        }
        jump.map(|by| by as i64)
    }

    /// Redis's time at `now`, milliseconds; `None` before the first answer.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(crate) fn at(&self, now: Instant) -> Option<u64> {
        self.known.map(|known| known.at(now).max(0.0) as u64)
    }
}

/// A jump of Redis's clock that is not an idle time ago.
#[derive(Clone, Copy, Debug)]
struct Jump {
    at: Instant,
    /// By how much the jumps since the first one have moved it forward, milliseconds.
    ahead_ms: u64,
}

/// Redis's clock as this server knows it, and when it last jumped.
pub(super) struct Time {
    /// Whether the scripts ask that clock too (always, but in tests).
    real: bool,
    clock: Mutex<Clock>,
    jumped: Mutex<Option<Jump>>,
}

impl Jump {
    fn is_recent(&self, idle_ms: u64) -> bool {
        self.at.elapsed() < Duration::from_millis(idle_ms)
    }
}

impl Time {
    pub(super) fn new(real: bool) -> Self {
        Self { real, clock: Mutex::default(), jumped: Mutex::default() }
    }

    /// Notes a time that the answer to a request of `sent` carried. Jumps within one idle time add
    /// up.
    pub(super) fn observe(&self, now_ms: u64, sent: Instant, idle_ms: u64) {
        let now = Instant::now();
        let jump = lock(&self.clock).observe(now_ms, sent, now);
        let Some(ahead_ms) = jump.filter(|_| self.real) else { return };
        let mut jumped = lock(&self.jumped);
        let before = jumped.filter(|jump| jump.is_recent(idle_ms)).map_or(0, |jump| jump.ahead_ms);
        let ahead = before.saturating_add(u64::try_from(ahead_ms).unwrap_or(0));
        *jumped = Some(Jump { at: now, ahead_ms: ahead });
        drop(jumped);
        tracing::warn!(
            event = "clock_jump",
            ahead_ms,
            "Redis's clock has jumped; for one idle time no session is judged stale"
        );
    }

    /// Notes an answer to `TIME`: seconds and microseconds.
    pub(super) fn observe_answer(&self, answer: &Value, sent: Instant, idle_ms: u64) {
        if !self.real {
            return;
        }
        if let Ok((seconds, micros)) = <(u64, u64)>::from_redis_value_ref(answer) {
            let now_ms = seconds.saturating_mul(1000).saturating_add(micros / 1000);
            self.observe(now_ms, sent, idle_ms);
        }
    }

    /// 0 when nothing is known yet.
    pub(super) fn now_ms(&self) -> u64 {
        let clock = lock(&self.clock);
        clock.at(Instant::now()).unwrap_or(0)
    }

    /// For one idle time after a jump nothing is judged stale.
    pub(super) fn view(&self, idle_ms: u64) -> ClockView {
        let jumped = *lock(&self.jumped);
        if let Some(jump) = jumped.filter(|jump| jump.is_recent(idle_ms)) {
            return ClockView::Jumped { ahead_ms: jump.ahead_ms };
        }
        match self.now_ms() {
            0 => ClockView::Unknown,
            _ if !self.real => ClockView::Unknown,
            now_ms => ClockView::Expected(now_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_fastest_answer_counts_and_a_slow_one_does_not_set_it_back() {
        let start = Instant::now();
        let mut clock = Clock::default();
        assert_eq!(clock.at(start), None);
        assert_eq!(clock.observe(1_000_000, start, start), None);
        // 100 ms later an answer that took 80 ms.
        let later = start + Duration::from_millis(100);
        assert_eq!(clock.observe(1_000_020, start, later), None);
        assert_eq!(clock.at(later), Some(1_000_099));
    }

    #[test]
    fn a_jump_is_noticed_once() {
        let start = Instant::now();
        let mut clock = Clock::default();
        clock.observe(1_000_000, start, start);
        let later = start + Duration::from_secs(1);
        assert_eq!(clock.observe(4_601_000, later, later), Some(3_600_000));
        assert_eq!(clock.observe(4_601_000, later, later), None);
    }

    #[test]
    fn an_answer_that_was_read_late_is_no_jump() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut clock = Clock::default();
        clock.observe(1_000_000, start, start);
        // Answered at once and read after a stall of 3 s; then one that the server answered late.
        assert_eq!(clock.observe(1_000_010, at(10), at(3010)), None);
        assert_eq!(clock.observe(1_006_000, at(3010), at(6010)), None);
        assert_eq!(clock.at(at(6010)), Some(1_006_008));
        // Outside the time between sending and reading it is a jump, in either direction.
        assert_eq!(clock.observe(1_003_900, at(6100), at(9100)), Some(-2198));
        assert!(clock.observe(1_010_000, at(9100), at(9200)).is_some_and(|by| by > 2000));
    }

    #[test]
    fn drift_never_leaves_it_ahead() {
        let start = Instant::now();
        let mut clock = Clock::default();
        clock.observe(1_000_000, start, start);
        let day = start + Duration::from_secs(86_400);
        // Redis's clock lost 10 s in a day (116 ppm).
        assert!(clock.at(day).expect("known") <= 1_000_000 + 86_400_000 - 10_000);
    }
}
