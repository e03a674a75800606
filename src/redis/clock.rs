//! Redis's time as this server knows it between two answers: the last time that an answer carried,
//! and the monotonic time since. Never the wall clock. A worker leaves it to the next one.

use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use redis::{FromRedisValue as _, Value};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::kept::Place;
use super::scripts::ClockView;
use crate::handoff::moment;
use crate::sync::lock;

/// How far the two clocks may drift apart, per mille of the time that passes.
const DRIFT_PER_MILLE: f64 = 0.2;
/// A difference from what was expected that is no delay and no drift: the clock was set, or
/// another server answers now.
const JUMP_MS: f64 = 2000.0;
/// How often the estimate is kept for the next worker: it goes on with an older one as well. A jump is kept at once.
const KEPT_EVERY: Duration = Duration::from_secs(1);

/// An estimate of Redis's clock that is never ahead of it (but for drift): a change's "first
/// attempt" must not seem later than a newer save of another server.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Clock {
    known: Option<Known>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Known {
    /// When the request was sent whose answer travelled fastest.
    #[serde(rename = "sent_ns", with = "moment")]
    sent: Instant,
    /// When that answer came in, and the time that it carried.
    #[serde(rename = "at_ns", with = "moment")]
    at: Instant,
    server_ms: u64,
}

impl Known {
    #[allow(clippy::cast_precision_loss)] // milliseconds of this century
    fn at(self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64() * 1000.0;
        self.server_ms as f64 + passed * (1.0 - DRIFT_PER_MILLE / 1000.0)
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
        let observed = Known { sent, at: received, server_ms };
        let Some(known) = self.known else {
            self.known = Some(observed);
            return None;
        };
        let ahead = server_ms as f64 - known.at(received);
        let behind = server_ms as f64 - known.at(sent);
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
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Jump {
    #[serde(rename = "at_ns", with = "moment")]
    at: Instant,
    /// By how much the jumps since the first one have moved it forward, milliseconds.
    ahead_ms: u64,
}

/// What was seen of Redis's clock.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Seen {
    clock: Clock,
    jumped: Option<Jump>,
}

/// Redis's clock as this server knows it, and when it last jumped.
pub(super) struct Time {
    /// Whether the scripts ask that clock too (always, but in tests).
    real: bool,
    seen: Mutex<Seen>,
    kept: OnceLock<KeptAt>,
}

/// Where it is kept for the next worker.
struct KeptAt {
    place: Place,
    last: Mutex<Instant>,
}

impl Jump {
    fn is_recent(&self, idle_ms: u64) -> bool {
        self.at.elapsed() < Duration::from_millis(idle_ms)
    }
}

impl Seen {
    /// Notes a jump by so many milliseconds. Those within one idle time add up.
    fn jumps(&mut self, by_ms: i64, idle_ms: u64) {
        let before = self.recent_jump(idle_ms).map_or(0, |jump| jump.ahead_ms);
        let ahead_ms = before.saturating_add(u64::try_from(by_ms).unwrap_or(0));
        self.jumped = Some(Jump { at: Instant::now(), ahead_ms });
        tracing::warn!(
            event = "clock_jump",
            ahead_ms = by_ms,
            "Redis's clock has jumped; for one idle time no session is judged stale"
        );
    }

    fn recent_jump(&self, idle_ms: u64) -> Option<Jump> {
        self.jumped.filter(|jump| jump.is_recent(idle_ms))
    }

    /// Goes on with what the worker before has seen. Returns by how much the clock has jumped between what each of the
    /// two has seen of it.
    fn take_up(&mut self, former: Self) -> Option<i64> {
        let own = std::mem::replace(self, former);
        // Both may have seen the same jump.
        let jumps = former.jumped.into_iter().chain(own.jumped);
        self.jumped = jumps.reduce(|one, other| Jump {
            at: one.at.max(other.at),
            ahead_ms: one.ahead_ms.max(other.ahead_ms),
        });
        let own_known = own.clock.known?;
        // The worker before has perhaps served until a moment ago.
        let later = match former.clock.known {
            Some(known) if known.at > own_known.at => {
                self.clock = own.clock;
                known
            }
            _ => own_known,
        };
        self.clock.observe(later.server_ms, later.sent, later.at)
    }
}

impl Time {
    pub(super) fn new(real: bool) -> Self {
        Self { real, seen: Mutex::default(), kept: OnceLock::new() }
    }

    /// Goes on with what the worker before has seen, and leaves it to the next one.
    pub(super) fn take_up(&self, place: Place, former: Option<Seen>, idle_ms: u64) {
        let kept = KeptAt { place, last: Mutex::new(Instant::now()) };
        if self.kept.set(kept).is_err() {
            return;
        }
        let mut seen = lock(&self.seen);
        let jump = former.and_then(|former| seen.take_up(former));
        if let Some(by_ms) = jump.filter(|_| self.real) {
            seen.jumps(by_ms, idle_ms);
        }
        self.keep(&seen, true);
    }

    /// Notes a time that the answer to a request of `sent` carried.
    pub(super) fn observe(&self, now_ms: u64, sent: Instant, idle_ms: u64) {
        let mut seen = lock(&self.seen);
        let jump = seen.clock.observe(now_ms, sent, Instant::now()).filter(|_| self.real);
        if let Some(by_ms) = jump {
            seen.jumps(by_ms, idle_ms);
        }
        self.keep(&seen, jump.is_some());
    }

    /// Keeps it for the next worker, if it has to be kept now, or was not for a while.
    fn keep(&self, seen: &Seen, now: bool) {
        let Some(KeptAt { place, last }) = self.kept.get() else { return };
        let mut last = lock(last);
        if now || last.elapsed() >= KEPT_EVERY {
            *last = Instant::now();
            place.put_clock(seen);
        }
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
        let seen = lock(&self.seen);
        seen.clock.at(Instant::now()).unwrap_or(0)
    }

    /// For one idle time of its own after a jump a session is not judged stale: `idle_ms` is the longest one.
    pub(super) fn view(&self, idle_ms: u64) -> ClockView {
        let jumped = lock(&self.seen).recent_jump(idle_ms);
        if let Some(jump) = jumped {
            let ago_ms = u64::try_from(jump.at.elapsed().as_millis()).unwrap_or(u64::MAX);
            return ClockView::Jumped { ahead_ms: jump.ahead_ms, ago_ms };
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

    /// What the next worker finds, whose own link has said this time already.
    fn next(former: Seen, own_ms: u64, own_at: Instant) -> (Seen, Option<i64>) {
        let kept: Seen = serde_json::from_str(&serde_json::to_string(&former).unwrap()).unwrap();
        let mut next = Seen::default();
        next.clock.observe(own_ms, own_at, own_at);
        let jump = next.take_up(kept);
        (next, jump)
    }

    fn seen(server_ms: u64, at: Instant) -> Seen {
        let mut seen = Seen::default();
        seen.clock.observe(server_ms, at, at);
        seen
    }

    #[test]
    fn the_next_worker_notices_a_jump_that_nobody_has_seen() {
        let now = Instant::now();
        let ago = |ms| now.checked_sub(Duration::from_millis(ms)).unwrap();
        let former = seen(1_000_000, ago(5000));
        assert_eq!(next(former, 1_004_990, now).1, None);
        assert_eq!(next(former, 4_605_000, now).1, Some(3_600_001));
        // It was connected before the worker before has heard the time last.
        let former = seen(4_605_000, now);
        assert_eq!(next(former, 1_000_000, ago(5000)).1, Some(3_600_001));
    }

    #[test]
    fn the_next_worker_knows_of_a_jump_and_of_two_that_there_was_one() {
        let now = Instant::now();
        let mut former = seen(1_000_000, now);
        former.jumps(60_000, 900_000);
        let (found, jump) = next(former, 1_000_000, now);
        assert_eq!((found.recent_jump(900_000).unwrap().ahead_ms, jump), (60_000, None));
        let mut own = former;
        own.take_up(former);
        assert_eq!(own.recent_jump(900_000).unwrap().ahead_ms, 60_000);
        // Another one adds up.
        own.jumps(1000, 900_000);
        assert_eq!(own.recent_jump(900_000).unwrap().ahead_ms, 61_000);
    }

    /// Another version finds it when it takes over.
    #[test]
    fn it_is_kept_as_it_was() {
        for golden in [
            r#"{"clock":{"sent_ns":1000000,"at_ns":1000007,"server_ms":3},"jumped":{"at_ns":1000000,"ahead_ms":9}}"#,
            r#"{"clock":null,"jumped":null}"#,
        ] {
            let seen: Seen = serde_json::from_str(golden).unwrap();
            assert_eq!(serde_json::to_string(&seen).unwrap(), golden);
        }
    }
}
