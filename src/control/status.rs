//! The status of a server, as JSON. Times are seconds, or milliseconds since the epoch where the name
//! says so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::foreign::Foreign;
use crate::parameters::follow::State as Parameters;
use crate::redis::deployment::Deployment;
use crate::redis::memory::Memory;
use crate::redis::population::Population;
use crate::redis::probe::ServerInfo;
use crate::redis::servers::Registered;
use crate::redis::writes::Writes;
use crate::redis::{Keeping, RedisStore};
use crate::request::State;
use crate::session::secret::Fingerprint;
use crate::store::Link as _;
use crate::store::{Kept, Usage};
use crate::telemetry::metrics::metrics;
use crate::telemetry::now_ms;
use crate::telemetry::recent::Recent;
use crate::telemetry::unidentified::Unidentified;

/// What `GET /status` answers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Status {
    /// What is also published to the cluster.
    pub server: Report,
    /// The process that owns the mount.
    pub keeper: Process,
    /// The process that does the work.
    pub worker: Worker,
    /// Workers that ended without being asked to.
    pub worker_restarts: u64,
    pub redis: Redis,
    /// Sessions in Redis, of all servers; those that have ended and were not asked for since are
    /// counted. Nothing while Redis is away.
    pub sessions: Option<u64>,
    /// How many of them live, as it was at most a minute ago. Nothing while Redis is away.
    #[serde(default)]
    pub living: Option<Population>,
    /// What the filesystem holds.
    pub in_use: Usage,
    /// What temp files of saves may take together. An older worker does not say.
    #[serde(default)]
    pub staging_max_bytes: u64,
    /// What may be kept of sessions in memory, bytes. An older worker does not say.
    #[serde(default)]
    pub memory_max_bytes: u64,
    /// Changes that Redis has not taken yet.
    #[serde(default)]
    pub kept: Kept,
    /// Whether requests that a browser sends by itself are told from a person's. An older worker does not say.
    #[serde(default)]
    pub requests: State,
    /// How the audit trail fares. An older worker does not say.
    #[serde(default)]
    pub trail: Option<Trail>,
    /// Who uses it and cannot be identified.
    #[serde(default)]
    pub unidentified_callers: Vec<UnidentifiedCallers>,
    /// What Odoo's system parameters ask for; nothing if they are not followed.
    #[serde(default)]
    pub parameters: Option<Parameters>,
    /// Where they are not followed: the rules that they have given, and that hold still.
    #[serde(default)]
    pub parameters_left: Vec<String>,
    /// The last warnings and errors, oldest first.
    pub recent: Vec<Recent>,
    /// The servers of the cluster, this one among them. Nothing while Redis is away.
    pub cluster: Option<Vec<Report>>,
}

/// What a server says of itself in Redis.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    /// Names its keeper.
    pub id: Foreign,
    pub host: Foreign,
    /// Where its tree appears.
    pub mountpoint: Foreign,
    pub version: Foreign,
    /// When its keeper was started: milliseconds since the epoch, by its host's clock.
    pub since_ms: u64,
    /// How its connection to Redis is: `up`, `degraded`, `down`.
    pub link: Foreign,
    /// What it holds to open contents with.
    #[serde(default)]
    pub secrets: Vec<Fingerprint>,
    /// The newest format of sessions that it reads.
    #[serde(default)]
    pub format: u32,
    /// How many rules of lifetimes it follows. An older version follows none, and does not say so.
    #[serde(default)]
    pub rules: Option<usize>,
    pub traffic: Traffic,
    /// How long ago it said so, if not just now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_seconds_ago: Option<u64>,
}

/// How the audit trail of all servers fares, and this server's part in it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Trail {
    /// Where this server writes it besides the log, if anywhere.
    pub place: Option<String>,
    /// That takes what it is given, as far as is known.
    pub is_taken: bool,
    /// The host that writes it now; nothing if nobody does, or Redis is away.
    pub writer: Option<Foreign>,
    /// That one writes it to a file or a socket.
    pub writer_has_file: bool,
    /// Entries that wait in Redis; nothing while it is away.
    pub waiting: Option<u64>,
    /// Entries that could not be kept, as this worker knows.
    pub left_out: u64,
}

impl Trail {
    /// Of this process. `keeping`: what Redis says of it.
    pub(crate) fn of(place: Option<String>, is_taken: bool, keeping: Option<Keeping>) -> Self {
        let waiting = keeping.as_ref().map(|keeping| keeping.waiting);
        let Keeping { writer, has_file, .. } = keeping.unwrap_or_default();
        Self {
            place,
            is_taken,
            writer: writer.map(Foreign::from),
            writer_has_file: has_file,
            waiting,
            left_out: metrics().trail.left_out.get(),
        }
    }

    /// In one line.
    pub(crate) fn words(&self) -> String {
        let place = self.place.as_deref().unwrap_or("the log alone");
        let writer = self
            .writer
            .as_ref()
            .map_or("nobody writes it now".to_owned(), |writer| format!("written by {writer}"));
        let waiting = match self.waiting {
            None => String::new(),
            Some(1) => "; 1 entry waits in Redis".to_owned(),
            Some(count) => format!("; {count} entries wait in Redis"),
        };
        let left_out = match self.left_out {
            0 => String::new(),
            count => format!("; {count} could not be kept"),
        };
        format!("{place}, {writer}{waiting}{left_out}")
    }

    /// What is taken by no file, and the remedy.
    pub(crate) fn refused(&self) -> Option<(String, &'static str)> {
        let place = self.place.as_ref().filter(|_| !self.is_taken)?;
        let what = format!("{place} takes no entries of the audit trail; they wait in Redis");
        Some((what, "mend what the log of sessionfs names, and run sessionfs reload"))
    }

    /// Why a part of the trail may be in no file though there is one, and the remedy.
    pub(crate) fn parted(&self) -> Option<(String, &'static str)> {
        let writer = self.writer.as_ref()?;
        let what = match (&self.place, self.writer_has_file) {
            (Some(_), false) if self.is_taken => {
                format!("{writer} writes the audit trail of all servers to its log alone")
            }
            (None, true) => format!(
                "{writer} writes the audit trail to a file, and this server has none: what it writes in its place is in \
                 the log alone"
            ),
            _ => return None,
        };
        Some((what, "set audit.trail on each server"))
    }
}

/// The last seconds, and sums since the worker's start.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Traffic {
    /// How long the last seconds are.
    pub window_seconds: f64,
    /// Requests of the kernel a second.
    pub requests_per_second: f64,
    /// Answered with EIO in the last minute.
    pub failed_last_minute: u64,
    /// Answered with EINTR in the last minute: callers that wait for Redis.
    pub waited_last_minute: u64,
    /// Sessions ended by a limit in the last minute.
    pub expired_last_minute: u64,
    /// The same in the last hour.
    pub expired_last_hour: u64,
    /// Sessions opened since the worker's start.
    pub opens_total: u64,
    /// Saves since the worker's start.
    pub saves_total: u64,
    /// What people wait for, by the name of the kernel's request: `lookup` (the step of a read
    /// that asks Redis), `open`, `rename` (a save), `unlink`.
    pub operations: BTreeMap<String, Speed>,
    /// Round trips to Redis.
    pub redis: Speed,
}

/// How often, and how fast.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Speed {
    pub per_second: f64,
    /// Half of them took at most this long; nothing if there were none.
    pub p50_seconds: Option<f64>,
    /// 99 of 100 took at most this long.
    pub p99_seconds: Option<f64>,
}

/// Opens and saves by processes that cannot be identified, since the worker's start.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct UnidentifiedCallers {
    /// Why they cannot.
    pub reason: Unidentified,
    pub count: u64,
    /// When the last one came: milliseconds since the epoch.
    pub last_ms: u64,
}

impl UnidentifiedCallers {
    /// Those of this process.
    pub(crate) fn own() -> Vec<Self> {
        let counted = Unidentified::ALL.iter().map(|reason| {
            let (count, last_ms) = metrics().unidentified(*reason);
            Self { reason: *reason, count, last_ms }
        });
        counted.filter(|callers| callers.count > 0).collect()
    }

    /// Whether it is still so: the last one came within the last hour.
    pub(crate) fn is_current(&self) -> bool {
        const CURRENT_MS: u64 = 60 * 60 * 1000;
        now_ms().saturating_sub(self.last_ms) < CURRENT_MS
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Process {
    pub pid: u32,
    /// When it was started: milliseconds since the epoch.
    pub since_ms: u64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Worker {
    #[serde(flatten)]
    pub process: Process,
    /// The name of this host.
    pub host: String,
}

impl Worker {
    /// This process, just started.
    pub(crate) fn own() -> Self {
        let host = nix::unistd::gethostname().unwrap_or_default();
        Self {
            process: Process { pid: std::process::id(), since_ms: now_ms() },
            host: host.to_string_lossy().into_owned(),
        }
    }
}

/// The connection to Redis.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Redis {
    /// Where it leads, without credentials.
    pub address: Foreign,
    /// `redis` or `valkey`; nothing while it is away.
    pub server: Option<Foreign>,
    pub version: Option<Foreign>,
    /// What was seen of the connection last.
    pub cause: String,
    /// How often the connection was lost since the worker's start.
    pub outages: u64,
    /// How long it was not well, all in all.
    pub outage_seconds: f64,
    /// Whether it takes writes; nothing if that is not known.
    #[serde(default)]
    pub takes_writes: Option<bool>,
    /// Its words, if it takes none.
    #[serde(default)]
    pub writes_refused: Option<String>,
    /// The secret that it is written with.
    #[serde(default)]
    pub written_with: Option<Fingerprint>,
    /// The same, if this server does not hold it: nothing is read or written then.
    #[serde(default)]
    pub missing_secret: Option<Fingerprint>,
    /// The format in which sessions are written.
    #[serde(default)]
    pub written_format: u32,
    /// How full it is; nothing if it does not say.
    #[serde(default)]
    pub memory: Option<Memory>,
    /// Which servers it has.
    #[serde(default)]
    pub deployment: Option<Deployment>,
}

impl Redis {
    /// As a store sees it.
    pub(crate) fn of(
        store: &RedisStore,
        server: Option<ServerInfo>,
        writes: &Writes,
        memory: Option<Memory>,
        deployment: Deployment,
    ) -> Self {
        let (outages, outage) = metrics().outages();
        let (server, version) = server.map(|found| (found.server, found.version)).unzip();
        Self {
            address: store.address().into(),
            server: server.map(Foreign::from),
            version: version.map(Foreign::from),
            cause: if store.health(None) == crate::store::Health::Up {
                "connected".into()
            } else {
                store.link_cause()
            },
            outages,
            outage_seconds: outage.as_secs_f64(),
            takes_writes: takes_writes(writes),
            writes_refused: writes.refusal().map(ToOwned::to_owned),
            written_with: store.writing_secret(),
            missing_secret: store.missing_secret(),
            written_format: store.written_format(),
            memory,
            deployment: Some(deployment),
        }
    }
}

/// Whether Redis takes writes; `None` if that is not known.
pub(super) fn takes_writes(writes: &Writes) -> Option<bool> {
    match writes {
        Writes::Unknown => None,
        Writes::Taken => Some(true),
        Writes::Refused(_) => Some(false),
    }
}

/// The servers that registered, in the order of their names; what another version wrote and this
/// one cannot read is left out. Of the one that tells this, what it says now.
pub(crate) fn cluster(registered: &[Registered], own: Option<&Report>) -> Vec<Report> {
    let read = |one: &Registered| {
        let mut report: Report = serde_json::from_str(&one.report).ok()?;
        if let Some(own) = own.filter(|own| own.id == report.id) {
            return Some(own.clone());
        }
        report.seen_seconds_ago = Some(one.age_ms / 1000);
        Some(report)
    };
    let mut servers: Vec<Report> = registered.iter().filter_map(read).collect();
    servers.sort_by(|a, b| (&a.host, &a.mountpoint, &a.id).cmp(&(&b.host, &b.mountpoint, &b.id)));
    servers
}
