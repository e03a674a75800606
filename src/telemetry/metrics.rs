//! What is counted: one registry for the process. `docs/monitoring.md` describes every metric, and
//! a test holds the two together.
//!
//! Whoever counts holds a handle that was made beforehand: counting is one atomic addition.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::latency::Latency;
use super::links::Links;
use super::request::{Operation, Outcome};
use crate::request::Class;
use crate::store::{Kept, Refusal, Usage};
use crate::telemetry::now_ms;
use crate::telemetry::unidentified::Unidentified;

/// Begins every name.
const PREFIX: &str = "sessionfs";
/// The limits that a session can meet, as the scripts call them.
const LIMITS: [&str; 3] = ["idle", "unopened", "absolute"];

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// All metrics of this process.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Vec<Counter>,
    request_latency: Vec<Latency>,
    /// Requests sent to Redis, including heartbeats.
    pub redis_round_trips: Counter,
    /// Those that were not answered within their bound.
    pub redis_unanswered: Counter,
    /// How long the answered ones took.
    pub redis_latency: Latency,
    pub near_cache: NearCache,
    /// Activity of sessions written to Redis.
    pub activity_writes: Counter,
    /// Contents that did not open with their own session's key.
    pub broken_seals: Counter,
    /// Visitors' sessions that were ended because Redis was full.
    pub ended_for_room: Counter,
    /// Workers that ended without being asked to.
    pub worker_restarts: Counter,
    pub(super) spool: Spool,
    pub(super) links: Links,
    pub trail: Trail,
    expired: [Counter; LIMITS.len()],
    refused: Vec<Counter>,
    opens: [Counter; Class::LABELS.len()],
    /// Each with the time of the last one, milliseconds since the epoch.
    unidentified: Vec<(Counter, AtomicU64)>,
    gauges: Gauges,
}

/// The metrics of this process.
pub(crate) fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
    &METRICS
}

impl Metrics {
    fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running program", version);
        started(&mut registry);

        let requests = Family::<Labels<2>, Counter>::default();
        let latency = Family::<Labels<1>, Latency>::default();
        registry.register("requests", "Answered requests from the kernel", requests.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from reading a request to answering it",
            Unit::Seconds,
            latency.clone(),
        );
        let every = Operation::ALL.iter().flat_map(|operation| {
            Outcome::ALL.iter().map(|outcome| (operation.label(), outcome.label()))
        });

        let expired = counters(
            &mut registry,
            "sessions_expired",
            "Sessions that reached a limit and were ended",
        );
        let refused = counters(
            &mut registry,
            "saves_refused",
            "Refused saves: they would have restored or destroyed a session",
        );
        let unidentified = counters(
            &mut registry,
            "unidentified_callers",
            "Opens and saves by processes that cannot be identified",
        );
        Self {
            unidentified: Unidentified::ALL
                .iter()
                .map(|why| unidentified.get_or_create_owned(&[("reason", why.label())]))
                .map(|counter| (counter, AtomicU64::new(0)))
                .collect(),
            requests: every
                .map(|(operation, outcome)| {
                    requests.get_or_create_owned(&[("operation", operation), ("outcome", outcome)])
                })
                .collect(),
            request_latency: Operation::ALL
                .iter()
                .map(|operation| latency.get_or_create_owned(&[("operation", operation.label())]))
                .collect(),
            expired: LIMITS.map(|limit| expired.get_or_create_owned(&[("limit", limit)])),
            opens: opens(&mut registry),
            refused: Refusal::ALL
                .iter()
                .map(|reason| refused.get_or_create_owned(&[("reason", reason.label())]))
                .collect(),
            broken_seals: counter(
                &mut registry,
                "broken_seals",
                "Stored contents that cannot be opened with their session's key",
            ),
            ended_for_room: counter(
                &mut registry,
                "sessions_ended_for_room",
                "Visitors' sessions that were ended because Redis was full",
            ),
            near_cache: NearCache::new(&mut registry),
            activity_writes: counter(
                &mut registry,
                "activity_writes",
                "Sessions whose activity was written to Redis",
            ),
            worker_restarts: counter(
                &mut registry,
                "worker_restarts",
                "Workers of this mount that died or were stuck",
            ),
            redis_round_trips: counter(
                &mut registry,
                "redis_round_trips",
                "Requests sent to Redis, including heartbeats",
            ),
            redis_unanswered: counter(
                &mut registry,
                "redis_unanswered",
                "Requests to Redis that were not answered in time",
            ),
            redis_latency: {
                let latency = Latency::default();
                registry.register_with_unit(
                    "redis_round_trip_duration",
                    "Time from sending a request to Redis to its answer",
                    Unit::Seconds,
                    latency.clone(),
                );
                latency
            },
            trail: Trail::new(&mut registry),
            spool: Spool::new(&mut registry),
            links: Links::new(&mut registry),
            gauges: Gauges::new(&mut registry),
            registry,
        }
    }

    /// Counts an answered request.
    pub(crate) fn answered(&self, operation: Operation, outcome: Outcome, took: Duration) {
        self.requests[operation as usize * Outcome::ALL.len() + outcome as usize].inc();
        self.request_latency[operation as usize].observe(took);
    }

    /// How many requests were answered in this way.
    pub(crate) fn requests(&self, operation: Operation, outcome: Outcome) -> u64 {
        self.requests[operation as usize * Outcome::ALL.len() + outcome as usize].get()
    }

    /// How many requests were answered in this way, whatever they asked for.
    pub(crate) fn requests_by_outcome(&self, outcome: Outcome) -> u64 {
        Operation::ALL.iter().map(|operation| self.requests(*operation, outcome)).sum()
    }

    /// How long the requests of this kind took.
    pub(crate) fn request_latency(&self, operation: Operation) -> &Latency {
        &self.request_latency[operation as usize]
    }

    /// Sessions that were ended, by whatever limit.
    pub(crate) fn expired(&self) -> u64 {
        self.expired.iter().map(Counter::get).sum()
    }

    /// A session met `limit`.
    pub(crate) fn session_expired(&self, limit: &str) {
        if let Some(position) = LIMITS.iter().position(|known| *known == limit) {
            self.expired[position].inc();
        }
    }

    /// Sessions that were opened for a request of this class.
    pub(crate) fn opens(&self, class: Class) -> &Counter {
        &self.opens[class.label()]
    }

    /// A save was refused.
    pub(super) fn save_refused(&self, reason: Refusal) {
        self.refused[reason as usize].inc();
    }

    /// An open or a save came from a process that cannot be identified; returns how many have.
    pub(super) fn caller_unidentified(&self, why: Unidentified) -> u64 {
        let (counter, last_ms) = &self.unidentified[why as usize];
        last_ms.store(now_ms(), Ordering::Relaxed);
        counter.inc() + 1
    }

    /// How many opens and saves came from processes that cannot be identified, and when the last
    /// one came (milliseconds since the epoch).
    pub(crate) fn unidentified(&self, why: Unidentified) -> (u64, u64) {
        let (counter, last_ms) = &self.unidentified[why as usize];
        (counter.get(), last_ms.load(Ordering::Relaxed))
    }

    /// How often a connection to Redis was lost, and how long Redis could not be read, all in all.
    pub(crate) fn outages(&self) -> (u64, Duration) {
        self.links.outages()
    }

    /// All metrics in Prometheus's text format ([`CONTENT_TYPE`]), with what is so now.
    pub(crate) fn encode(&self, now: &Now) -> Result<String, fmt::Error> {
        self.gauges.set(now);
        self.links.show();
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// What [`Metrics::encode`] writes.
pub(crate) use prometheus_text::CONTENT_TYPE;

fn started(registry: &mut Registry) {
    let started: Gauge = Gauge::default();
    started.set(unix_seconds());
    registry.register_with_unit(
        "worker_start_time",
        "When the worker was started, since the epoch",
        Unit::Seconds,
        started,
    );
}

pub(super) fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

/// Counters of one name, distinguished by a label.
fn counters(registry: &mut Registry, name: &str, help: &str) -> Family<Labels<1>, Counter> {
    let counters = Family::default();
    registry.register(name, help, Family::clone(&counters));
    counters
}

fn opens(registry: &mut Registry) -> [Counter; Class::LABELS.len()] {
    let opens = counters(
        registry,
        "opens_by_request",
        "Opened sessions by what is known of the HTTP request, without those of background processes",
    );
    Class::LABELS.map(|class| opens.get_or_create_owned(&[("class", class)]))
}

fn unix_seconds() -> i64 {
    i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX)
}

/// Why a kept change is not sent any more.
const DROPS: [&str; 7] =
    ["ended", "expired", "refused", "replaced", "superseded", "unbound", "unreadable"];

/// What became of changes that Redis did not take.
/// What the near cache was asked for.
pub(crate) struct NearCache {
    /// Opens that were answered from memory.
    pub hits: Counter,
    /// How often Redis was asked for a session instead.
    pub misses: Counter,
}

impl NearCache {
    fn new(registry: &mut Registry) -> Self {
        let hits = "Opens that were answered from memory";
        let misses = "How often Redis was asked for a session that was not known on this server";
        Self {
            hits: counter(registry, "near_cache_hits", hits),
            misses: counter(registry, "near_cache_misses", misses),
        }
    }
}

/// What its entries tell of, as the audit trail calls it.
pub(crate) const TRAILED: [&str; 11] = [
    "session_began",
    "session_rotated",
    "identity_changed",
    "session_ended",
    "save_refused",
    "setting_changed",
    "command",
    "state",
    "redis_lost",
    "nothing_ended",
    "left_out",
];

/// The audit trail.
pub(crate) struct Trail {
    written: [Counter; TRAILED.len()],
    /// Entries that could not be kept.
    pub left_out: Counter,
    /// How often the file did not take what was to be written.
    pub refused: Counter,
}

impl Trail {
    fn new(registry: &mut Registry) -> Self {
        let help = "Entries of the audit trail that this server has written";
        let written = counters(registry, "trail_entries", help);
        let left_out = "Entries of the audit trail that could not be kept";
        let refused = "How often the file of the audit trail took nothing";
        Self {
            written: TRAILED.map(|event| written.get_or_create_owned(&[("event", event)])),
            left_out: counter(registry, "trail_left_out", left_out),
            refused: counter(registry, "trail_refused", refused),
        }
    }

    /// An entry was written.
    pub(crate) fn written(&self, event: &str) {
        if let Some(position) = TRAILED.iter().position(|known| *known == event) {
            self.written[position].inc();
        }
    }
}

pub(super) struct Spool {
    pub(super) kept: Counter,
    pub(super) sent: Counter,
    dropped: [Counter; DROPS.len()],
}

impl Spool {
    fn new(registry: &mut Registry) -> Self {
        let kept = "Changes that Redis did not take and that were kept on this host";
        Self {
            kept: counter(registry, "spool_kept", kept),
            sent: counter(registry, "spool_sent", "Kept changes that were sent to Redis"),
            dropped: {
                let help = "Kept changes that were not sent any more";
                let dropped = counters(registry, "spool_dropped", help);
                DROPS.map(|reason| dropped.get_or_create_owned(&[("reason", reason)]))
            },
        }
    }

    pub(super) fn dropped(&self, reason: &str) {
        if let Some(position) = DROPS.iter().position(|known| *known == reason) {
            self.dropped[position].inc();
        }
    }
}

/// The values at the moment of a scrape. What is not known then is `None`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Now {
    /// What the filesystem holds.
    pub in_use: Usage,
    /// What is kept on this host.
    pub kept: Kept,
    /// Whether Redis takes writes.
    pub takes_writes: Option<bool>,
    /// The memory that Redis uses.
    pub redis_memory_used_bytes: Option<u64>,
    /// The memory that Redis may use; 0 if there is no bound.
    pub redis_memory_max_bytes: Option<u64>,
    /// Live sessions in which a user is logged in.
    pub authenticated_sessions: Option<u64>,
    /// Live sessions of visitors.
    pub anonymous_sessions: Option<u64>,
}

/// The gauges of a moment. What is not known then has no line.
struct Gauges {
    inodes: Gauge,
    handles: Gauge,
    staging_files: Gauge,
    staging_bytes: Gauge,
    memory_bytes: Gauge,
    spool_changes: Gauge,
    spool_bytes: Gauge,
    spool_oldest: Gauge,
    spool_unsendable: Gauge,
    takes_writes: Family<Labels<0>, Gauge>,
    memory_used: Family<Labels<0>, Gauge>,
    memory_max: Family<Labels<0>, Gauge>,
    sessions: Family<Labels<1>, Gauge>,
}

impl Gauges {
    fn new(registry: &mut Registry) -> Self {
        let gauge = |registry: &mut Registry, name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let of_unit = |registry: &mut Registry, name: &str, help: &str, unit| {
            let gauge = Gauge::default();
            registry.register_with_unit(name, help, unit, gauge.clone());
            gauge
        };
        let bytes = |registry: &mut Registry, name: &str, help: &str| {
            let family = Family::<Labels<0>, Gauge>::default();
            registry.register_with_unit(name, help, Unit::Bytes, family.clone());
            family
        };
        Self {
            inodes: gauge(registry, "inodes", "Inodes that the kernel holds"),
            handles: gauge(registry, "open_handles", "Open files and directories"),
            staging_files: gauge(registry, "staging_files", "Temp files of saves in progress"),
            staging_bytes: of_unit(
                registry,
                "staging",
                "Size of the temp files of saves in progress",
                Unit::Bytes,
            ),
            memory_bytes: of_unit(
                registry,
                "known_sessions",
                "What is kept of sessions in memory",
                Unit::Bytes,
            ),
            spool_changes: gauge(
                registry,
                "spool_changes",
                "Changes that are kept on this host until Redis takes them",
            ),
            spool_bytes: of_unit(registry, "spool", "Size of the kept changes", Unit::Bytes),
            spool_oldest: of_unit(
                registry,
                "spool_oldest",
                "How long the oldest kept change has been kept",
                Unit::Seconds,
            ),
            spool_unsendable: gauge(
                registry,
                "spool_unsendable",
                "Kept changes that cannot be sent",
            ),
            takes_writes: {
                let family = Family::<Labels<0>, Gauge>::default();
                registry.register(
                    "redis_takes_writes",
                    "1 if Redis accepts writes, 0 if it refuses them",
                    family.clone(),
                );
                family
            },
            memory_used: bytes(registry, "redis_memory_used", "Memory that Redis uses"),
            memory_max: bytes(
                registry,
                "redis_memory_max",
                "Memory that Redis may use; 0: no limit",
            ),
            sessions: {
                let family = Family::<Labels<1>, Gauge>::default();
                registry.register("sessions", "Live sessions of all servers", family.clone());
                family
            },
        }
    }

    fn set(&self, now: &Now) {
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.inodes.set(whole(now.in_use.inodes));
        self.handles.set(whole(now.in_use.handles));
        self.staging_files.set(whole(now.in_use.staging_files));
        self.staging_bytes.set(whole(now.in_use.staging_bytes));
        self.memory_bytes.set(whole(now.in_use.memory_bytes));
        self.spool_changes.set(whole(now.kept.changes));
        self.spool_bytes.set(whole(now.kept.bytes));
        self.spool_oldest.set(whole(now.kept.oldest_seconds));
        self.spool_unsendable.set(whole(now.kept.unsendable));
        let one = |family: &Family<Labels<0>, Gauge>, value: Option<i64>| match value {
            Some(value) => drop(family.get_or_create(&[]).set(value)),
            None => family.clear(),
        };
        one(&self.takes_writes, now.takes_writes.map(i64::from));
        one(&self.memory_used, now.redis_memory_used_bytes.map(whole));
        one(&self.memory_max, now.redis_memory_max_bytes.map(whole));
        self.sessions.clear();
        for (class, number) in
            [("authenticated", now.authenticated_sessions), ("anonymous", now.anonymous_sessions)]
        {
            if let Some(number) = number {
                self.sessions.get_or_create(&[("class", class)]).set(whole(number));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_has_no_line() {
        let metrics = Metrics::new();
        let known = Now {
            takes_writes: Some(false),
            redis_memory_used_bytes: Some(3),
            redis_memory_max_bytes: Some(4),
            authenticated_sessions: Some(5),
            anonymous_sessions: Some(6),
            ..Now::default()
        };
        let lines = [
            "sessionfs_redis_takes_writes 0\n",
            "sessionfs_redis_memory_used_bytes 3\n",
            "sessionfs_redis_memory_max_bytes 4\n",
            "sessionfs_sessions{class=\"authenticated\"} 5\n",
            "sessionfs_sessions{class=\"anonymous\"} 6\n",
        ];
        let text = metrics.encode(&known).unwrap();
        assert!(lines.iter().all(|line| text.contains(line)), "{text}");
        let text = metrics.encode(&Now::default()).unwrap();
        let names = lines.map(|line| line.split(['{', ' ']).next().unwrap_or_default());
        assert!(!names.iter().any(|name| text.contains(&format!("{name} "))), "{text}");
        assert!(!text.contains("sessionfs_sessions{"), "{text}");
    }

    #[test]
    fn a_request_is_counted_under_its_own_labels() {
        let metrics = Metrics::new();
        metrics.answered(Operation::Unlink, Outcome::Absent, Duration::from_micros(40));
        assert_eq!(metrics.requests(Operation::Unlink, Outcome::Absent), 1);
        assert_eq!(metrics.requests_by_outcome(Outcome::Ok), 0);
        let text = metrics
            .encode(&Now {
                in_use: Usage { staging_bytes: 7, ..Usage::default() },
                ..Now::default()
            })
            .unwrap();
        for line in [
            "sessionfs_requests_total{operation=\"unlink\",outcome=\"absent\"} 1",
            "sessionfs_request_duration_seconds_count{operation=\"unlink\"} 1",
            "sessionfs_staging_bytes 7",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }

    #[test]
    fn every_limit_and_reason_has_its_counter() {
        let metrics = Metrics::new();
        for limit in LIMITS {
            metrics.session_expired(limit);
        }
        for reason in Refusal::ALL {
            metrics.save_refused(*reason);
        }
        for why in Unidentified::ALL {
            assert_eq!(metrics.caller_unidentified(*why), 1);
            assert_eq!(metrics.unidentified(*why).0, 1);
        }
        assert_eq!(metrics.expired(), LIMITS.len() as u64);
        assert!(metrics.refused.iter().all(|counter| counter.get() == 1));
    }
}
