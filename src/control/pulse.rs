//! The traffic of the last seconds, from readings of the counters once a second. Less often: whether
//! Redis takes writes, and the registration in the cluster.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::StatusService;
use super::status::{Speed, Traffic};
use crate::session::secret::Fingerprint;
use crate::store::{Health, Link as _};
use crate::sync::lock;
use crate::telemetry::latency::Counted;
use crate::telemetry::metrics::metrics;
use crate::telemetry::request::{Operation, Outcome};

const EVERY: Duration = Duration::from_secs(1);
/// How often Redis is asked whether it takes writes, if nobody else asks; each second while it
/// takes none.
const WRITES_EVERY: Duration = Duration::from_secs(5);
/// How often a server registers that people use. Each time is a kilobyte in the append-only file.
const REGISTERED_EVERY: Duration = Duration::from_secs(5);
/// How often one registers that nobody uses. Three times in the life of a registration.
const IDLE_REGISTERED_EVERY: Duration = Duration::from_secs(30);
/// What "the last seconds" are.
const WINDOW: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
/// The operations that users wait for.
const SHOWN: [Operation; 4] =
    [Operation::Lookup, Operation::Open, Operation::Rename, Operation::Unlink];

/// What was counted at a moment.
#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    requests: u64,
    failed: u64,
    waited: u64,
    expired: u64,
    shown: [Counted; SHOWN.len()],
    redis: Counted,
}

impl Reading {
    fn now() -> Self {
        let metrics = metrics();
        let count = |outcome: &Outcome| metrics.requests_by_outcome(*outcome);
        Self {
            at: Instant::now(),
            requests: Outcome::ALL.iter().map(count).sum(),
            failed: count(&Outcome::Failed),
            waited: count(&Outcome::Waiting),
            expired: metrics.expired(),
            shown: SHOWN.map(|operation| metrics.request_latency(operation).read()),
            redis: metrics.redis_latency.read(),
        }
    }
}

/// Readings of the last hour: one a second for the window, one a minute before that.
pub(super) struct Pulse(Mutex<Kept>);

struct Kept {
    seconds: VecDeque<Reading>,
    minutes: VecDeque<Reading>,
    /// When a request of the kernel was last seen to be answered, and how many there were then.
    answered: (Instant, u64),
}

impl Default for Pulse {
    fn default() -> Self {
        let first = Reading::now();
        Self(Mutex::new(Kept {
            seconds: [first].into(),
            minutes: [first].into(),
            answered: (first.at, first.requests),
        }))
    }
}

/// How long at most no request comes on a mount that is served: its keeper asks each fifth of this
/// time (`keeper::pulse`), and may be a little late.
pub(super) fn unasked_max(answer_within_ms: u64) -> Duration {
    Duration::from_millis(answer_within_ms) * 3 / 4
}

impl Pulse {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.0)
    }

    /// Requests are expected from now on.
    pub(super) fn begin(&self) {
        self.kept().answered.0 = Instant::now();
    }

    /// How long ago the kernel was last answered.
    pub(super) fn unasked(&self) -> Duration {
        let now = Reading::now();
        let mut kept = self.kept();
        kept.note(&now);
        now.at - kept.answered.0
    }

    fn beat(&self) {
        let now = Reading::now();
        let mut kept = self.kept();
        kept.note(&now);
        keep(&mut kept.seconds, &now, EVERY, MINUTE);
        keep(&mut kept.minutes, &now, MINUTE, HOUR);
    }

    /// What has happened up to now.
    pub(super) fn traffic(&self) -> Traffic {
        let now = Reading::now();
        let (window, minute, hour) = {
            let kept = self.kept();
            let window = before(&kept.seconds, now.at, WINDOW);
            let minute = before(&kept.seconds, now.at, MINUTE);
            (window, minute, before(&kept.minutes, now.at, HOUR))
        };
        let (window, minute, hour) =
            (window.unwrap_or(now), minute.unwrap_or(now), hour.unwrap_or(now));
        let seconds = (now.at - window.at).as_secs_f64();
        let operations: BTreeMap<String, Speed> = SHOWN
            .iter()
            .zip(now.shown.iter().zip(&window.shown))
            .map(|(operation, (now, then))| {
                (operation.label().to_owned(), speed(&now.since(then), seconds))
            })
            .collect();
        Traffic {
            window_seconds: seconds,
            requests_per_second: rate(now.requests - window.requests, seconds),
            failed_last_minute: now.failed - minute.failed,
            waited_last_minute: now.waited - minute.waited,
            expired_last_minute: now.expired - minute.expired,
            expired_last_hour: now.expired - hour.expired,
            opens_total: metrics().requests(Operation::Open, Outcome::Ok),
            saves_total: metrics().requests(Operation::Rename, Outcome::Ok),
            operations,
            redis: speed(&now.redis.since(&window.redis), seconds),
        }
    }
}

impl Kept {
    fn note(&mut self, now: &Reading) {
        if now.requests != self.answered.1 {
            self.answered = (now.at, now.requests);
        }
    }
}

/// Keeps a reading if it is time for one, and those not older than `most`.
fn keep(readings: &mut VecDeque<Reading>, now: &Reading, every: Duration, most: Duration) {
    // A tick may come a little early.
    let due = readings.back().is_none_or(|last| now.at - last.at >= every.mul_f64(0.9));
    if due {
        readings.push_back(*now);
    }
    while readings.get(1).is_some_and(|second| now.at - second.at >= most) {
        readings.pop_front();
    }
}

/// The oldest reading not older than `span`, or the newest before.
fn before(readings: &VecDeque<Reading>, now: Instant, span: Duration) -> Option<Reading> {
    readings.iter().find(|one| now - one.at <= span).or(readings.back()).copied()
}

#[expect(clippy::cast_precision_loss, reason = "counts of a few seconds, for people")]
fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

fn speed(counted: &Counted, seconds: f64) -> Speed {
    Speed {
        per_second: rate(counted.count(), seconds),
        p50_seconds: counted.quantile_seconds(0.5),
        p99_seconds: counted.quantile_seconds(0.99),
    }
}

/// Runs without end.
pub(super) async fn beat(service: Arc<StatusService>) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut registration = Registration::default();
    let mut state = None;
    let mut writes_asked = None;
    loop {
        every.tick().await;
        service.pulse.beat();
        let refused = service.store.writes().refusal().is_some();
        if refused || is_due(writes_asked, WRITES_EVERY) {
            service.store.ask_writes().await;
            writes_asked = Some(Instant::now());
        }
        let now = service.redis_state();
        if state.as_ref() != Some(&now) {
            (service.report_to_keeper)(now.clone());
            state = Some(now);
        }
        if service.is_active() && service.store.health(None) == Health::Up {
            registration.renew(&service).await;
        }
    }
}

fn is_due(last: Option<Instant>, every: Duration) -> bool {
    // A tick may come a little early.
    last.is_none_or(|last| last.elapsed() >= every.mul_f64(0.95))
}

/// The last registration of this server.
#[derive(Default)]
struct Registration {
    at: Option<Instant>,
    noted: Noted,
    cleared: bool,
}

/// A change in these is worth a registration.
#[derive(Clone, Default, Eq, PartialEq)]
struct Noted {
    /// Requests that users wait for.
    asked: u64,
    /// Redis may have lost it in an outage.
    outages: u64,
    /// Whoever changes them waits for all servers to hold the same.
    secrets: Vec<Fingerprint>,
}

impl Noted {
    fn now(secrets: Vec<Fingerprint>) -> Self {
        let metrics = metrics();
        let all = |operation: &Operation| metrics.request_latency(*operation).read().count();
        Self { asked: SHOWN.iter().map(all).sum(), outages: metrics.outages().0, secrets }
    }
}

impl Registration {
    fn is_due(&self, now: &Noted) -> bool {
        now.outages != self.noted.outages
            || now.secrets != self.noted.secrets
            || is_due(self.at, IDLE_REGISTERED_EVERY)
            || (now.asked != self.noted.asked && is_due(self.at, REGISTERED_EVERY))
    }

    async fn renew(&mut self, service: &StatusService) {
        let now = Noted::now(service.store.held_secrets());
        if !self.is_due(&now) {
            return;
        }
        if let Err(error) = register(service).await {
            tracing::debug!(%error, "cannot write the status of this server to Redis");
            return;
        }
        (self.at, self.noted) = (Some(Instant::now()), now);
        if !service.is_active() {
            // It was deregistered meanwhile, and this has just undone that.
            let _ = service.store.remove_server(&service.keeper.id).await;
        } else if !self.cleared {
            self.cleared = service.store.forget_old_servers().await.is_ok();
        }
    }
}

async fn register(service: &StatusService) -> Result<(), String> {
    let report = serde_json::to_string(&service.report()).map_err(|error| error.to_string())?;
    let written = service.store.register_server(&service.keeper.id, &report).await;
    written.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_kept_for_as_long_as_they_are_asked_for() {
        let first = Reading::now();
        let mut readings = VecDeque::from([first]);
        for second in 1..=200 {
            let at = first.at + Duration::from_secs(second);
            keep(&mut readings, &Reading { at, requests: second, ..first }, EVERY, MINUTE);
        }
        assert_eq!(readings.len(), 61);
        let now = first.at + Duration::from_secs(200);
        assert_eq!(before(&readings, now, WINDOW).unwrap().requests, 190);
        assert_eq!(before(&readings, now, MINUTE).unwrap().requests, 140);
        // Nothing was kept for long: the newest there is.
        let later = now + HOUR;
        assert_eq!(before(&readings, later, WINDOW).unwrap().requests, 200);
    }

    #[test]
    fn a_reading_that_comes_too_early_is_not_kept() {
        let first = Reading::now();
        let mut readings = VecDeque::from([first]);
        for tenth in 1..=20 {
            let at = first.at + Duration::from_millis(tenth * 100);
            keep(&mut readings, &Reading { at, ..first }, EVERY, MINUTE);
        }
        assert_eq!(readings.len(), 3);
    }

    #[test]
    fn an_idle_server_registers_seldom_and_a_used_one_more_often() {
        let noted = Noted { asked: 1, ..Noted::default() };
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
        let registered =
            |seconds| Registration { at: ago(seconds), noted: noted.clone(), cleared: true };
        assert!(Registration::default().is_due(&Noted::default()), "at once at the start");
        assert!(!registered(20).is_due(&noted));
        assert!(registered(30).is_due(&noted));
        let used = Noted { asked: 2, ..Noted::default() };
        assert!(!registered(3).is_due(&used));
        assert!(registered(5).is_due(&used));
        assert!(
            registered(1).is_due(&Noted { outages: 1, ..noted.clone() }),
            "Redis may have lost it"
        );
    }
}
