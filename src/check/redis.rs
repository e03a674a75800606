//! Redis: whether it serves, keeps what it is given, and keeps others out.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use super::{Finding, Id, what_and_remedy};
use crate::exit::Failure;
use crate::redis::deployment::{Deployment, NAMED_MAX};
use crate::redis::endpoint::{Address, Endpoint, Place};
use crate::redis::errors::ErrorCode;
use crate::redis::probe::places::{self, Places};
use crate::redis::probe::{ProbeError, ServerInfo, probe};
use crate::redis::{RedisStore, Settings};

/// Round trips that are measured.
const ROUND_TRIPS: usize = 50;
/// All questions together.
const WITHIN: Duration = Duration::from_secs(10);
const STRANGER_WITHIN: Duration = Duration::from_millis(500);
/// Slower than this, each page waits noticeably.
const SLOW: Duration = Duration::from_millis(5);
/// What two clocks kept by NTP never differ by.
const CLOCK_APART_MS: i64 = 2000;
/// Stands for the servers in what is found, until it is known which have it in common.
const AT: &str = "{at}";

#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// What answers there, or why nothing does.
    pub probe: Result<ServerInfo, ProbeError>,
    /// Each that takes writes and could be asked.
    pub servers: Vec<Server>,
    /// Who gets an answer without a password, and where.
    pub open: Option<Open>,
    /// Who administers it, as its URL says.
    pub kind: Kind,
    /// Which servers it has.
    pub deployment: Option<Deployment>,
}

/// Which Redis it is, as it is mended in different ways.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// The one that a mount without configuration starts.
    Private,
    /// An instance of the distribution's unit, as `sessionfs-setup` sets it up. The distribution's
    /// own on port 6379 is another one, and `redis-cli` alone would lead there.
    Instance {
        /// `redis` or `valkey`.
        server: String,
        /// What its unit is called after the `@`.
        name: String,
    },
    /// Any other, and the `redis-cli` that leads to it.
    Other(String),
}

impl Kind {
    pub(crate) fn of(address: &str, is_private: bool) -> Self {
        if is_private {
            return Self::Private;
        }
        let Some(path) = address.strip_prefix("unix:") else {
            return Self::Other(Self::cli(address));
        };
        let path = path.split('?').next().unwrap_or_default();
        let instance = |server: &str| {
            let name = path.strip_prefix(&format!("/run/{server}-"))?;
            let name = name.strip_suffix(&format!("/{server}-server.sock"))?;
            Some(Self::Instance { server: server.to_owned(), name: name.to_owned() })
        };
        ["redis", "valkey"]
            .into_iter()
            .find_map(instance)
            .unwrap_or_else(|| Self::Other(format!("redis-cli -s {path}")))
    }

    fn cli(address: &str) -> String {
        match Endpoint::parse(address) {
            Ok(Endpoint { place: Place::Single(Address::Tcp(host, port)), tls, .. }) => {
                let tls = if tls { " --tls" } else { "" };
                format!("redis-cli -h {host} -p {port}{tls}")
            }
            // Which server it is, is not known.
            _ => "redis-cli -h HOST -p PORT".to_owned(),
        }
    }

    fn unit(server: &str, name: &str) -> String {
        format!("{server}-server@{name}")
    }

    /// So that it runs.
    fn start(&self) -> String {
        match self {
            Self::Private => "the keeper restarts it; see the log of sessionfs".to_owned(),
            Self::Instance { server, name } => {
                let unit = Self::unit(server, name);
                format!(
                    "systemctl start {unit} (after too many failures, systemctl reset-failed \
                     {unit} first; if it runs and does not answer, systemctl restart {unit}); the \
                     reason is in journalctl -u {unit} and /var/log/{server}"
                )
            }
            Self::Other(_) => "start it, or correct redis.url".to_owned(),
        }
    }

    /// So that it may hold more.
    fn enlarge(&self) -> String {
        match self {
            Self::Private => "raise private_redis.memory, and restart sessionfs".to_owned(),
            Self::Instance { name, .. } => {
                // One that belongs to a mount of several is called after it.
                let mount = match name.strip_prefix("sessionfs-") {
                    Some(mount) => format!(" --instance {mount}"),
                    None => String::new(),
                };
                format!("sessionfs-setup{mount} --redis-memory SIZE (for example 2gb)")
            }
            Self::Other(_) => self.set("maxmemory", "2gb"),
        }
    }

    /// So that it can write to its disk.
    fn disk(&self) -> String {
        match self {
            Self::Instance { server, name } => format!(
                "free space in /var/lib/{server} (df /var/lib/{server}); \
                 /var/log/{server}/{server}-server-{name}.log has the error"
            ),
            Self::Private | Self::Other(_) => {
                "check its log, and free space and permissions of its disk".to_owned()
            }
        }
    }

    /// So that it has another setting, now and after a restart.
    fn set(&self, key: &str, value: &str) -> String {
        match self {
            Self::Private => {
                format!("restart sessionfs: it starts the private Redis with {key} {value}")
            }
            Self::Instance { server, name } => format!(
                "write '{key} {value}' in /etc/{server}/{server}-{name}.conf, and systemctl restart {}",
                Self::unit(server, name)
            ),
            Self::Other(cli) => {
                format!("{cli} CONFIG SET {key} {value}, and set the same in its redis.conf")
            }
        }
    }
}

/// Whom Redis lets in without a password.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Open {
    /// Everybody on this host, at this address.
    Here(String),
    /// Everybody who reaches this address.
    Everywhere(String),
}

/// What is known of one server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Where it is, without credentials.
    pub at: String,
    /// Who administers it.
    pub kind: Kind,
    /// What it says of itself, if this user may ask.
    pub says: Says,
    /// Median and longest round trip.
    pub round_trip: Option<(Duration, Duration)>,
    /// How far its clock is ahead of this host's.
    pub ahead_ms: Option<i64>,
}

/// What `INFO` and `CONFIG GET` say, as far as they are allowed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Says {
    /// The fields of `INFO`.
    pub info: HashMap<String, String>,
    pub config: HashMap<String, String>,
}

/// The settings that are asked for.
const CONFIG: [&str; 5] =
    ["save", "appendfsync", "min-replicas-to-write", "bind", "protected-mode"];

impl Says {
    /// From the answer to `INFO`.
    pub(crate) fn parse(info: &str) -> Self {
        let fields = info
            .lines()
            .filter_map(|line| line.trim().split_once(':'))
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self { info: fields.collect(), config: HashMap::new() }
    }

    async fn ask(connection: &mut MultiplexedConnection) -> Self {
        let info: Result<String, _> = redis::cmd("INFO").query_async(connection).await;
        let mut says = info.map(|info| Self::parse(&info)).unwrap_or_default();
        for key in CONFIG {
            let pair: Result<HashMap<String, String>, _> =
                redis::cmd("CONFIG").arg("GET").arg(key).query_async(connection).await;
            says.config.extend(pair.unwrap_or_default());
        }
        says
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.info.get(key)?.parse().ok()
    }

    fn is(&self, key: &str, value: &str) -> bool {
        self.info.get(key).is_some_and(|found| found == value)
    }

    fn set_to(&self, key: &str) -> Option<&str> {
        self.config.get(key).map(String::as_str)
    }
}

/// Median and longest round trip, and how far the server's clock is ahead of this host's.
async fn measure(
    connection: &mut MultiplexedConnection,
) -> (Option<(Duration, Duration)>, Option<i64>) {
    let (mut times, mut ahead_ms) = (Vec::with_capacity(ROUND_TRIPS), None);
    for _ in 0..ROUND_TRIPS {
        let asked = (Instant::now(), SystemTime::now());
        let answer: Result<(i64, i64), _> = redis::cmd("TIME").query_async(connection).await;
        let Ok((seconds, micros)) = answer else { break };
        let took = asked.0.elapsed();
        if times.iter().all(|known| took < *known) {
            // The fastest says the most of the clock.
            let here = (asked.1 + took / 2).duration_since(UNIX_EPOCH).unwrap_or_default();
            let here_ms = i64::try_from(here.as_millis()).unwrap_or_default();
            ahead_ms = Some(seconds * 1000 + micros / 1000 - here_ms);
        }
        times.push(took);
    }
    times.sort_unstable();
    (times.get(times.len() / 2).copied().zip(times.last().copied()), ahead_ms)
}

impl Facts {
    pub(crate) fn gather(settings: &Settings, is_private: bool) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::internal("start the Redis client", error))?;
        Ok(runtime.block_on(Self::ask(settings, is_private)))
    }

    async fn ask(settings: &Settings, is_private: bool) -> Self {
        let endpoint = settings.endpoint();
        let address = endpoint.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut facts = Self {
            probe: probe(settings).await,
            servers: Vec::new(),
            open: None,
            kind: Kind::of(&address, is_private),
            deployment: None,
        };
        let bound = Duration::from_millis(settings.connect_timeout_ms);
        if let Ok(endpoint) = endpoint {
            let places = Places::new(endpoint, &settings.credentials, bound);
            let all = places.servers().await.unwrap_or_default();
            // What was learnt before the bound is kept.
            let _ = timeout(WITHIN, facts.learn(&places, &all, is_private)).await;
        }
        if facts.probe.is_ok()
            && let Ok(store) = RedisStore::start(settings.clone())
            && store.is_there_within(bound).await
        {
            facts.deployment = timeout(WITHIN, store.deployment()).await.ok();
        }
        facts
    }

    async fn learn(&mut self, places: &Places, all: &[places::Server], is_private: bool) {
        for server in all {
            let Ok(mut connection) = places.connect(server).await else { continue };
            let says = Says::ask(&mut connection).await;
            if !places.endpoint.tls {
                self.open = self.open.take().or_else(|| open(&server.at, &says));
            }
            let (round_trip, ahead_ms) = measure(&mut connection).await;
            let kind = Kind::of(&server.shown, is_private);
            let at = server.shown.clone();
            self.servers.push(Server { at, kind, says, round_trip, ahead_ms });
        }
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        let info = match &self.probe {
            Ok(info) => info,
            Err(error) => return vec![refused(error, &self.kind)],
        };
        let at = &info.address;
        let mut found = self.of_servers();
        found.extend(self.reach());
        found.extend(self.sentinels(at));
        if found.iter().all(|finding| finding.id.severity() > super::Severity::Warning) {
            let slowest = self.servers.iter().filter_map(|server| server.round_trip).max();
            let round_trip = slowest
                .map(|(median, longest)| {
                    format!(", round trip {} (at most {})", ms(median), ms(longest))
                })
                .unwrap_or_default();
            let servers =
                self.deployment.as_ref().map(|deployment| format!("; {}", deployment.words()));
            found.push(Finding::ok(
                Id::RedisOk,
                format!(
                    "{} {} at {at} serves{round_trip}{}",
                    info.server,
                    info.version,
                    servers.unwrap_or_default()
                ),
            ));
        }
        found
    }

    /// Those of each server. What several have in common is one.
    fn of_servers(&self) -> Vec<Finding> {
        let mut common: Vec<(Finding, Vec<&str>)> = Vec::new();
        for server in &self.servers {
            for finding in server.findings() {
                let is_same =
                    |known: &Finding| known.id == finding.id && known.what == finding.what;
                match common.iter_mut().find(|(known, _)| is_same(known)) {
                    Some((_, at)) => at.push(&server.at),
                    None => common.push((finding, vec![&server.at])),
                }
            }
        }
        let finish = |(mut finding, at): (Finding, Vec<&str>)| {
            finding.what = finding.what.replace(AT, &named(&at));
            if at.len() > 1 {
                finding.remedy.push_str(" (the same for the others)");
            }
            finding
        };
        common.into_iter().map(finish).collect()
    }

    fn sentinels(&self, at: &str) -> Option<Finding> {
        let sentinels = &self.deployment.as_ref()?.sentinels;
        let silent: Vec<_> = sentinels
            .iter()
            .filter(|one| !one.answers)
            .map(|one| one.address.to_string())
            .collect();
        (!silent.is_empty()).then(|| {
            Finding::new(
                Id::Sentinels,
                format!(
                    "of the sentinels in {at}, {} of {} do not answer: {}",
                    silent.len(),
                    sentinels.len(),
                    silent.join(", ")
                ),
                "start them, or correct redis.url and redis.sentinel_password_file",
            )
        })
    }

    fn reach(&self) -> Option<Finding> {
        Some(match self.open.as_ref()? {
            Open::Everywhere(at) => Finding::new(
                Id::Open,
                format!("Redis at {at} answers every client without a password"),
                "set a password or ACL users (docs/redis.md), and bind it only to the addresses \
                 that are needed",
            ),
            Open::Here(at) => Finding::new(
                Id::OpenHere,
                format!("every user of this host can use Redis at {at} without a password"),
                "set a password, or use port 0 and a unix socket; these users can end sessions, \
                 but not read them",
            ),
        })
    }
}

impl Server {
    /// With [`AT`] for where it is.
    fn findings(&self) -> Vec<Finding> {
        let mut found = self.memory();
        found.extend(self.persistence());
        found.extend(self.replication());
        found.extend(self.speed());
        found.extend(self.clock());
        if self.says.info.is_empty() || self.says.config.is_empty() {
            found.push(Finding::new(
                Id::RedisUnseen,
                format!(
                    "Redis at {AT} does not show this user all settings: memory, persistence, \
                     replicas and access cannot be checked"
                ),
                "run the check as a Redis administrator: sessionfs check --config FILE, with \
                 redis.url, redis.username and redis.password_file of one",
            ));
        }
        found
    }

    fn speed(&self) -> Option<Finding> {
        let (median, longest) = self.round_trip.filter(|(median, _)| *median > SLOW)?;
        let what = format!(
            "a round trip to Redis at {AT} takes {}, at most {}: every request of Odoo waits for \
             two or three",
            ms(median),
            ms(longest)
        );
        let remedy = match &self.kind {
            Kind::Other(cli) => format!(
                "move Redis closer; look for slow commands of other clients ({cli} SLOWLOG GET)"
            ),
            Kind::Private | Kind::Instance { .. } => {
                "find out what uses the processors of this host".to_owned()
            }
        };
        Some(Finding::new(Id::Slow, what, remedy))
    }

    fn clock(&self) -> Option<Finding> {
        let ahead_ms = self.ahead_ms.filter(|ahead| ahead.abs() > CLOCK_APART_MS)?;
        let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
        let seconds = ahead_ms.unsigned_abs() / 1000;
        Some(Finding::new(
            Id::Clock,
            format!("the clock of Redis at {AT} is {seconds} s {way} this host's"),
            "synchronise both by NTP; sessions end by Redis's clock",
        ))
    }

    fn memory(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if let Some(policy) =
            self.says.info.get("maxmemory_policy").filter(|it| *it != "noeviction")
        {
            found.push(Finding::new(
                Id::Evicts,
                format!(
                    "Redis at {AT} has maxmemory-policy {policy}: when it is full, it evicts \
                     sessions, which logs users out"
                ),
                self.kind.set("maxmemory-policy", "noeviction"),
            ));
        }
        let (used, bound) = (self.says.number("used_memory"), self.says.number("maxmemory"));
        match (used, bound) {
            (_, Some(0)) => found.push(Finding::new(
                Id::NoBound,
                format!("Redis at {AT} has no maxmemory: it grows until the kernel kills it"),
                format!("{} (twice what is needed)", self.kind.set("maxmemory", "1gb")),
            )),
            (Some(used), Some(bound)) => {
                let percent = used.saturating_mul(100) / bound;
                let what = format!("Redis at {AT} has used {percent} % of its maxmemory");
                let remedy =
                    format!("{}; sessionfs list shows what the sessions are", self.kind.enlarge());
                if percent >= 98 {
                    found.push(Finding::new(Id::Full, format!("{what}: saves fail"), remedy));
                } else if percent >= 70 {
                    found.push(Finding::new(Id::Filling, what, remedy));
                }
            }
            _ => {}
        }
        found
    }

    fn persistence(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let appends = self.says.is("aof_enabled", "1");
        let failing =
            ["aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"]
                .into_iter()
                .find(|key| self.says.is(key, "err"));
        if let Some(failing) = failing {
            found.push(Finding::new(
                Id::Failing,
                format!("Redis at {AT} cannot write to its disk ({failing} is err)"),
                self.kind.disk(),
            ));
        }
        let snapshots = self.says.set_to("save").map(|save| !save.is_empty());
        if self.says.is("aof_enabled", "0") {
            let remedy = self.kind.set("appendonly", "yes");
            found.push(match snapshots {
                Some(false) => Finding::new(
                    Id::Volatile,
                    format!("Redis at {AT} stores nothing on disk: a restart logs all users out"),
                    remedy,
                ),
                Some(true) | None => Finding::new(
                    Id::Snapshots,
                    format!(
                        "Redis at {AT} stores only snapshots: a restart brings back ended sessions \
                         and loses those since the last snapshot"
                    ),
                    remedy,
                ),
            });
        }
        if appends && self.says.set_to("appendfsync") == Some("no") {
            found.push(Finding::new(
                Id::Fsync,
                format!(
                    "Redis at {AT} has appendfsync no: a crash of its host may lose about 30 s"
                ),
                self.kind.set("appendfsync", "everysec"),
            ));
        }
        found
    }

    fn replication(&self) -> Option<Finding> {
        let replicas = self.says.number("connected_slaves").filter(|count| *count > 0)?;
        (self.says.set_to("min-replicas-to-write")? == "0").then(|| {
            Finding::new(
                Id::Replicas,
                format!(
                    "Redis at {AT} has {} and does not require any for a write: a failover may \
                     lose saves and bring back ended sessions",
                    super::counted(replicas, "replica")
                ),
                self.kind.set("min-replicas-to-write", "1"),
            )
        })
    }
}

/// Some servers, for a sentence.
fn named(at: &[&str]) -> String {
    let (named, more) = at.split_at(at.len().min(NAMED_MAX));
    match (named, more.len()) {
        ([one], 0) => (*one).to_owned(),
        ([first @ .., last], 0) => format!("{} and {last}", first.join(", ")),
        _ => format!("{} and {} more", named.join(", "), more.len()),
    }
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

/// The probe's own words are a statement and a remedy.
fn refused(error: &ProbeError, kind: &Kind) -> Finding {
    if let ProbeError::NoWrites(at, why) = error {
        let there = Kind::of(at, false);
        let kind = if matches!(kind, Kind::Private) { kind } else { &there };
        match why.code {
            ErrorCode::Oom => {
                let what = format!("Redis at {at} is full, so sessions cannot be saved: {why}");
                return Finding::new(Id::Full, what, kind.enlarge());
            }
            ErrorCode::MisConf => {
                let what = format!(
                    "Redis at {at} cannot write to its disk, so sessions cannot be saved: {why}"
                );
                return Finding::new(Id::Failing, what, kind.disk());
            }
            _ => {}
        }
    }
    let id = match error {
        ProbeError::Unreachable(..) | ProbeError::NoSocketRight(..) | ProbeError::Tls { .. } => {
            Id::Unreachable
        }
        ProbeError::AuthFailed(..) | ProbeError::SentinelAuth(..) => Id::Password,
        ProbeError::NoPermission(..) => Id::Rights,
        ProbeError::OtherSecret(..) => Id::Secret,
        _ => Id::Unusable,
    };
    let text = error.to_string();
    let (what, remedy) = what_and_remedy(&text, "correct redis.url");
    match error {
        ProbeError::Unreachable(..) => Finding::new(id, what, kind.start()),
        _ => Finding::new(id, what, remedy),
    }
}

/// Tries as a stranger: over TCP, without user and password.
fn open(at: &Address, says: &Says) -> Option<Open> {
    let (host, port, by_socket) = match at {
        Address::Tcp(host, port) => (host.clone(), *port, false),
        Address::Unix(_) => {
            ("127.0.0.1".to_owned(), u16::try_from(says.number("tcp_port")?).ok()?, true)
        }
    };
    if port == 0 || !answers_a_stranger(&host, port) {
        return None;
    }
    let is_local = |name: &str| {
        let name = name.trim_start_matches('-');
        name == "localhost" || name == "::1" || name.starts_with("127.")
    };
    // No list means every address.
    let binds_beyond = says
        .set_to("bind")
        .is_some_and(|bind| bind.is_empty() || bind.split_whitespace().any(|name| !is_local(name)));
    let beyond = binds_beyond && says.set_to("protected-mode") == Some("no");
    let at = format!("{host}:{port}");
    Some(if beyond || (!by_socket && !is_local(&host)) {
        Open::Everywhere(at)
    } else {
        Open::Here(at)
    })
}

fn answers_a_stranger(host: &str, port: u16) -> bool {
    let Some(address) = (host, port).to_socket_addrs().ok().and_then(|mut all| all.next()) else {
        return false;
    };
    let asked = TcpStream::connect_timeout(&address, STRANGER_WITHIN).and_then(|mut stream| {
        stream.set_read_timeout(Some(STRANGER_WITHIN))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    });
    asked.is_ok_and(|answer| &answer == b"+PONG")
}
