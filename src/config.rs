//! File, environment and command line, resolved into the one configuration that is used.
//!
//! What the user wrote ([`File`], [`Flags`]) and what is used ([`Config`]) are different types:
//! the first has every key optional and every value text, the second has neither. A [`Config`]
//! can be serialised, because the keeper resolves it as root (only root may read the password)
//! and hands it to the unprivileged worker through a pipe. Never through arguments or the
//! environment: those can be read in `/proc`.

pub mod audit;
#[cfg(test)]
mod documented;
pub(crate) mod file;
pub(crate) mod flags;
pub mod lifetime;
pub(crate) mod listen;
pub(crate) mod odoo;
pub mod paths;
pub(crate) mod people;
pub(crate) mod private_redis;
pub(crate) mod reference;
pub(crate) mod secret_file;
mod tmpfs;
pub(crate) mod units;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exit::{ExitCode, Failure};
use crate::host::confine;
use crate::host::directory::Ownership;
use crate::redis;
use crate::redis::credentials::{self, Credential, Credentials, password_in};
use crate::redis::endpoint::{Endpoint, Login, unix_url};
use crate::redis::envelope::{FORMAT, OLDEST_FORMAT};
use crate::request::{Class, rules};
use crate::session::policy::Lifetimes;
use crate::session::policy::rule::Rule;
use crate::session::policy::rules::Rules;
use crate::session::secret::Keyring;
use audit::Audit;
use file::File;
use flags::{Flags, Place};
use listen::Listen;
use odoo::Odoo;
use people::Person;

pub use crate::redis::DEFAULT_PREFIX;

/// The environment variable that says what is logged.
pub const LOG_VARIABLE: &str = "SESSIONFS_LOG";
/// The environment variable that names the file of secrets.
pub const SECRET_VARIABLE: &str = "SESSIONFS_SECRET_FILE";

const SECOND_MS: u64 = 1000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
/// As who reads and writes durations counts it.
const YEAR_MS: u64 = 31_557_600 * SECOND_MS;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// How old a session file may be that is imported: as long as Odoo itself keeps one.
pub(crate) const IMPORT_MAX_AGE_MS: u64 = 7 * 24 * HOUR_MS;

/// Everything that is configured, resolved.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Config {
    /// Where the tree appears; absolute, without symbolic links.
    pub mountpoint: PathBuf,
    pub log: String,
    pub tree: Ownership,
    /// The Redis that holds the sessions; the private one, if no other was named.
    pub redis: Redis,
    /// How to run the private Redis, if no other was named.
    pub private_redis: Option<PrivateRedis>,
    /// The file of the secrets that contents are sealed with.
    pub secret_file: PathBuf,
    /// As whom the worker runs.
    pub worker: Worker,
    /// When a session ends.
    pub lifetimes: Lifetimes,
    /// Of some sessions others. An older keeper knows none.
    #[serde(default)]
    pub rules: Vec<Rule>,
    pub limits: Limits,
    /// Which session files become sessions.
    pub import: Import,
    /// What callers see of an outage.
    pub outage: Outage,
    /// What is answered without asking Redis; `None`: nothing.
    #[serde(default)]
    pub near_cache: Option<NearCache>,
    /// Who acts for no person.
    pub activity: Activity,
    /// Where metrics are served, if anywhere.
    pub metrics: Option<Listen>,
    /// Where the audit trail is written besides the log. An older keeper does not know it.
    #[serde(default)]
    pub audit: Option<Audit>,
    /// What Odoo itself may ask for. An older keeper does not know it.
    #[serde(default)]
    pub odoo: Odoo,
    /// Where this mount's staging files lie: on a tmpfs, the worker's own, 0700.
    pub staging_dir: PathBuf,
    /// Where changes are kept that Redis does not take. An older keeper does not know it.
    #[serde(default)]
    pub spool: Option<Spool>,
    /// Where each session is also written to, in plain text.
    pub mirror: Option<PathBuf>,
}

#[derive(Clone, Deserialize, Serialize)]
pub struct Redis {
    /// Its address without user and password.
    pub url: String,
    /// User name, from the URL or its own key.
    pub username: Option<String>,
    /// Password, from the URL or its file.
    pub password: Option<String>,
    /// The file that the password was read from. It is read again at each connection.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The same of the sentinels.
    #[serde(default)]
    pub sentinel_username: Option<String>,
    #[serde(default)]
    pub sentinel_password: Option<String>,
    #[serde(default)]
    pub sentinel_password_file: Option<PathBuf>,
    /// Who signs its certificates, if not an authority that the system trusts.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The certificate and the key that this host shows.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The beginning of every key.
    pub prefix: String,
    /// Bound of one attempt to connect.
    pub connect_timeout_ms: u64,
    pub request_timeout_ms: u64,
    /// How long a first start waits for it.
    pub start_wait_ms: u64,
    /// Whether contents are packed, once all servers can unpack them.
    #[serde(default)]
    pub packs: bool,
}

impl fmt::Debug for Redis {
    /// Without the password: a configuration is printed in errors and logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("url", &self.url)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "..."))
            .field("password_file", &self.password_file)
            .field("sentinel_username", &self.sentinel_username)
            .field("sentinel_password", &self.sentinel_password.as_ref().map(|_| "..."))
            .field("sentinel_password_file", &self.sentinel_password_file)
            .field("ca_file", &self.ca_file)
            .field("cert_file", &self.cert_file)
            .field("key_file", &self.key_file)
            .field("prefix", &self.prefix)
            .field("connect_timeout_ms", &self.connect_timeout_ms)
            .field("request_timeout_ms", &self.request_timeout_ms)
            .field("start_wait_ms", &self.start_wait_ms)
            .field("packs", &self.packs)
            .finish()
    }
}

/// How to run the private Redis.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PrivateRedis {
    /// Its state directory.
    pub dir: PathBuf,
    pub server: PathBuf,
    /// The most memory it may use.
    pub memory_bytes: u64,
}

/// As whom the worker (and the private Redis) runs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Worker {
    /// The user's name, for messages.
    pub user: String,
    /// Its id; never 0.
    pub uid: u32,
    /// Its only group.
    pub gid: u32,
    /// The mount answers within this time, or the worker is stuck.
    pub answer_within_ms: u64,
}

impl Worker {
    pub fn account(&self) -> confine::User {
        confine::User { name: self.user.clone(), uid: self.uid, gid: self.gid }
    }
}

/// Bounds of what one mount holds.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Limits {
    /// One session; a longer one fails at `write`.
    pub session_bytes: u64,
    /// One session of a visitor; a longer one fails at `rename`.
    pub anonymous_bytes: u64,
    /// All staging files together.
    pub staging_bytes: u64,
    /// How many staging files there may be.
    pub staging_files: u64,
    /// Inodes that the kernel may hold.
    pub inodes: u64,
    /// What is kept of sessions in memory, the near cache included.
    pub memory_bytes: u64,
}

/// Which session files become sessions.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Import {
    /// A file whose last save is longer ago is not imported.
    pub max_age_ms: u64,
}

/// What callers see of an outage.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Outage {
    /// One step of waiting, ended by EINTR.
    pub wait_step_ms: u64,
    /// All of it, ended by EIO.
    pub wait_total_ms: u64,
    /// The same for background processes. An older keeper does not say.
    #[serde(default = "default_wait_background_ms")]
    pub wait_background_ms: u64,
}

fn default_wait_background_ms() -> u64 {
    redis::Settings::default().background_budget_ms
}

/// What is answered without asking Redis: sessions that were read or saved here a moment ago.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NearCache {
    /// How long they are served while Redis does not answer.
    pub grace_ms: u64,
    /// The most memory that they use.
    pub memory_bytes: u64,
}

/// Where changes are kept that Redis does not take.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Spool {
    /// On a tmpfs, the worker's own, 0700.
    pub memory_dir: PathBuf,
    /// The same on a disk.
    pub disk_dir: PathBuf,
    /// The most that is kept.
    pub max_bytes: u64,
}

/// Which processes act for no person.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Activity {
    /// One of these among its arguments.
    pub background_argv: Vec<String>,
    /// One of these at the beginning of its title.
    pub background_title: Vec<String>,
    /// How requests are told apart; `None`: they are not. An older keeper does not know it.
    #[serde(default)]
    pub requests: Option<Requests>,
}

/// How requests that a browser sends by itself are told from those of a person.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Requests {
    /// Odoo's HTTP ports; none: those that Odoo's own configuration names.
    pub ports: Vec<u16>,
    /// Paths of requests that a browser sends by itself, besides those that sessionfs knows.
    pub passive: Vec<String>,
    /// Paths of requests that count.
    pub active: Vec<String>,
}

/// The directory that a command is about: the one it names, else the one that the configuration
/// file does.
pub fn mountpoint(dir: Option<&Path>, config: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(dir) = dir {
        return Ok(dir.to_owned());
    }
    match file::mountpoint(config)? {
        Some(named) if named.is_absolute() => Ok(named),
        Some(named) => Err(bad("mountpoint", &named.to_string_lossy(), "is not an absolute path")),
        None => Err(Failure::new(
            ExitCode::Usage,
            format!(
                "no directory is named: name DIR, or set the key 'mountpoint' in {}",
                config.unwrap_or(Path::new(file::DEFAULT_PATH)).display()
            ),
        )),
    }
}

impl Config {
    /// Resolves the flags of `mount` and the file they name. `mountpoint` is resolved already.
    pub fn resolve(mountpoint: &Path, flags: &Flags) -> Result<Self, Failure> {
        let file = File::load(flags.place.config.as_deref())?;
        let worker = worker(&file.worker)?;
        let private_redis = match named_redis(&flags.place, &file) {
            Some(_) => None,
            None => Some(private_redis(&file.private_redis)?),
        };
        let limits = limits(&file.limits)?;
        let lifetimes = lifetime::own(&file.lifetime)?;
        let staging_dir = paths::staging_dir(file.staging_dir.as_deref(), mountpoint)?;
        let tree = tree(flags, &file)?;
        Ok(Self {
            spool: Some(spool(&file.outage, &staging_dir, mountpoint)?),
            mountpoint: mountpoint.to_owned(),
            log: log_filter(flags, &file)?,
            tree,
            redis: redis(&flags.place, &file)?,
            private_redis,
            secret_file: secret_file(&file)?,
            worker,
            lifetimes: *lifetimes.general(),
            rules: lifetimes.all().to_vec(),
            near_cache: near_cache(&file.near_cache, limits.memory_bytes)?,
            limits,
            import: import(flags, &file.import)?,
            outage: outage(&file.outage)?,
            activity: activity(&file.activity)?,
            metrics: metrics(&file.metrics)?,
            audit: audit(&file.audit)?,
            odoo: Odoo::resolve(&file.odoo, &file.lifetime, mountpoint, tree.owner_uid)?,
            staging_dir,
            mirror: mirror(flags, &file)?,
        })
    }

    /// How a command that is no mount reaches the sessions: the Redis (and its password, prefix
    /// and bounds) that a mount with the same flags and file would use. Nothing is started.
    pub fn resolve_redis(place: &Place) -> Result<redis::Settings, Failure> {
        let file = File::load(place.config.as_deref())?;
        let redis = redis(place, &file)?;
        let lifetimes = lifetime::own(&file.lifetime)?;
        let settings = store_settings(&redis, &lifetimes, &outage(&file.outage)?);
        // A command can wait longer than whoever waits for a file.
        Ok(redis::Settings {
            import_max_age_ms: import(&Flags::default(), &file.import)?.max_age_ms,
            ends_stale: false,
            overdue_ms: 1_000,
            attempt_ms: 2_000,
            retry_total_ms: 5_000,
            down_after_ms: settings.down_after_ms.max(5_000),
            wait_step_ms: 500,
            ..settings
        })
    }

    /// Where a mount with the same file writes the audit trail.
    pub(crate) fn resolve_audit(config: Option<&Path>) -> Result<Option<Audit>, Failure> {
        audit(&File::load(config)?.audit)
    }

    /// Where the secrets are that a mount with the same file would use.
    pub fn resolve_secret_file(place: &Place) -> Result<PathBuf, Failure> {
        secret_file(&File::load(place.config.as_deref())?)
    }
}

/// The settings of each part.
impl Config {
    /// Of the store; with the keyring, if contents are opened or sealed.
    pub fn store_settings(&self, keyring: Option<Keyring>) -> redis::Settings {
        let settings = store_settings(&self.redis, &self.lifetimes.into(), &self.outage);
        redis::Settings {
            rules: self.rules.clone(),
            keyring,
            import_max_age_ms: self.import.max_age_ms,
            // A change is tried once: then it is kept here.
            retry_total_ms: settings.attempt_ms,
            ..settings
        }
    }

    /// The files of credentials that are read while a mount serves.
    pub(crate) fn credential_files(&self) -> BTreeMap<Credential, PathBuf> {
        self.redis.credential_files()
    }
}

impl Redis {
    fn credential_files(&self) -> BTreeMap<Credential, PathBuf> {
        let named = [
            (Credential::RedisPassword, &self.password_file),
            (Credential::SentinelPassword, &self.sentinel_password_file),
            (Credential::RedisCa, &self.ca_file),
            (Credential::RedisCertificate, &self.cert_file),
            (Credential::RedisKey, &self.key_file),
        ];
        named.into_iter().filter_map(|(name, file)| Some((name, file.clone()?))).collect()
    }
}

fn store_settings(redis: &Redis, lifetimes: &Rules, outage: &Outage) -> redis::Settings {
    redis::Settings {
        url: redis.url.clone(),
        username: redis.username.clone(),
        password: redis.password.clone(),
        sentinel_username: redis.sentinel_username.clone(),
        sentinel_password: redis.sentinel_password.clone(),
        credentials: Credentials::of(redis.credential_files()),
        prefix: redis.prefix.clone(),
        lifetimes: *lifetimes.general(),
        rules: lifetimes.all().to_vec(),
        connect_timeout_ms: redis.connect_timeout_ms,
        down_after_ms: redis.request_timeout_ms,
        wait_step_ms: outage.wait_step_ms,
        outage_budget_ms: outage.wait_total_ms,
        background_budget_ms: outage.wait_background_ms,
        live: Some(lifetime::LIVE),
        newest_written: if redis.packs { FORMAT } else { OLDEST_FORMAT },
        ..redis::Settings::default()
    }
}

/// What is logged: flag, environment, file, in this order.
fn log_filter(flags: &Flags, file: &File) -> Result<String, Failure> {
    let environment = std::env::var(LOG_VARIABLE).ok().filter(|filter| !filter.is_empty());
    let filter = flags
        .log
        .clone()
        .or(environment)
        .or_else(|| file.log.clone())
        .unwrap_or_else(|| "info".to_owned());
    crate::telemetry::log::check_filter(&filter)?;
    Ok(filter)
}

/// The mirror's one true name, as far as it exists.
fn mirror(flags: &Flags, file: &File) -> Result<Option<PathBuf>, Failure> {
    let Some(dir) = flags.mirror.as_ref().or(file.mirror.as_ref()) else { return Ok(None) };
    let refuse = |why: &str| {
        Failure::new(ExitCode::MirrorRefused, format!("mirror {}: {why}", dir.display()))
    };
    let (Some(parent), Some(name), true) = (dir.parent(), dir.file_name(), dir.is_absolute())
    else {
        return Err(refuse("is not an absolute path; name a directory in full"));
    };
    let parent = parent.canonicalize().map_err(|e| {
        refuse(&format!("{} is not accessible: {e}; create it (mkdir -p)", parent.display()))
    })?;
    Ok(Some(parent.join(name)))
}

/// The owner of the tree.
pub(crate) fn tree(flags: &Flags, file: &File) -> Result<Ownership, Failure> {
    let owner = match flags.owner.as_deref().or(file.owner.as_deref()) {
        Some(name) => people::user(name, "owner")?,
        None => people::find("odoo", "owner")?.map_or_else(|| people::user("root", "owner"), Ok)?,
    };
    let owner_gid = match (flags.group.as_deref().or(file.group.as_deref()), owner.gid) {
        (Some(name), _) => people::group(name, "group")?,
        (None, Some(gid)) => gid,
        (None, None) => {
            return Err(Failure::new(
                ExitCode::UnknownUser,
                format!("group: user {} has no account, so set the group as well", owner.name),
            ));
        }
    };
    let mode = match flags.mode.as_deref().or(file.mode.as_deref()) {
        Some(text) => units::mode(text).map_err(|e| bad("mode", text, &e))?,
        None => 0o700,
    };
    Ok(Ownership { owner_uid: owner.uid, owner_gid, mode })
}

fn worker(file: &file::Worker) -> Result<Worker, Failure> {
    const KEY: &str = "worker.user";
    let person = match file.user.as_deref() {
        Some(name) => people::user(name, KEY)?,
        None => people::find("sessionfs", KEY)?.map_or_else(|| people::user("nobody", KEY), Ok)?,
    };
    let Person { name, uid, gid: Some(gid) } = person else {
        return Err(bad(KEY, &person.name, "has no account, so its group is not known"));
    };
    if uid == 0 || gid == 0 {
        return Err(bad(KEY, &name, "would run as root; name an unprivileged user"));
    }
    let answer_within_ms = duration(
        "worker.answer_within",
        file.answer_within.as_deref(),
        5 * SECOND_MS,
        SECOND_MS..=10 * MINUTE_MS,
    )?;
    Ok(Worker { user: name, uid, gid, answer_within_ms })
}

fn private_redis(file: &file::PrivateRedis) -> Result<PrivateRedis, Failure> {
    Ok(PrivateRedis {
        dir: private_dir(file)?,
        server: private_redis::program(file.server.as_deref())?,
        memory_bytes: size(
            "private_redis.memory",
            file.memory.as_deref(),
            256 * MIB,
            16 * MIB..=1024 * GIB,
        )?,
    })
}

fn private_dir(file: &file::PrivateRedis) -> Result<PathBuf, Failure> {
    let dir = file.dir.clone().unwrap_or_else(|| PathBuf::from(paths::STATE_DIR));
    if !dir.is_absolute() {
        return Err(bad("private_redis.dir", &dir.to_string_lossy(), "is not an absolute path"));
    }
    Ok(dir)
}

/// The file of secrets: environment, file, or beside the private Redis's data, in this order.
fn secret_file(file: &File) -> Result<PathBuf, Failure> {
    let environment = std::env::var_os(SECRET_VARIABLE).filter(|path| !path.is_empty());
    let path = match environment.map(PathBuf::from).or_else(|| file.secret.file.clone()) {
        Some(path) => path,
        None => private_dir(&file.private_redis)?.join("secret"),
    };
    if !path.is_absolute() {
        return Err(bad("secret.file", &path.to_string_lossy(), "is not an absolute path"));
    }
    Ok(path)
}

/// The Redis that is there already, if one is named.
fn named_redis<'a>(place: &'a Place, file: &'a File) -> Option<&'a String> {
    place.redis.as_ref().or(file.redis.url.as_ref())
}

/// How to reach Redis: the one named, or the private one's socket.
fn redis(place: &Place, file: &File) -> Result<Redis, Failure> {
    let named = named_redis(place, file);
    let private = &file.private_redis;
    let default = redis::Settings::default();
    let file = &file.redis;
    let mut redis = Redis {
        url: String::new(),
        username: file.username.clone(),
        password: password("redis.password_file", file.password_file.as_deref())?,
        password_file: file.password_file.clone(),
        sentinel_username: file.sentinel_username.clone(),
        sentinel_password: password(
            "redis.sentinel_password_file",
            file.sentinel_password_file.as_deref(),
        )?,
        sentinel_password_file: file.sentinel_password_file.clone(),
        ca_file: readable("redis.ca_file", file.ca_file.as_deref())?,
        cert_file: readable("redis.cert_file", file.cert_file.as_deref())?,
        key_file: readable("redis.key_file", file.key_file.as_deref())?,
        prefix: prefix(file.prefix.as_deref().unwrap_or(DEFAULT_PREFIX))?,
        connect_timeout_ms: duration(
            "redis.connect_timeout",
            file.connect_timeout.as_deref(),
            default.connect_timeout_ms,
            10..=MINUTE_MS,
        )?,
        request_timeout_ms: duration(
            "redis.request_timeout",
            file.request_timeout.as_deref(),
            default.down_after_ms,
            10..=MINUTE_MS,
        )?,
        packs: match file.packing.as_deref() {
            None | Some("zstd") => true,
            Some("off") => false,
            Some(other) => {
                return Err(bad("redis.packing", other, "is neither 'zstd' nor 'off'"));
            }
        },
        start_wait_ms: duration(
            "redis.start_wait",
            file.start_wait.as_deref(),
            30 * SECOND_MS,
            1..=24 * HOUR_MS,
        )?,
    };
    let Some(url) = named else {
        redis.url = unix_url(&private_redis::socket_path(&private_dir(private)?));
        return Ok(redis);
    };
    let named = split_url(url)?;
    redis.url = named.url;
    redis.username = once("redis.username", redis.username, named.login.username)?;
    redis.password = once("redis.password_file", redis.password, named.login.password)?;
    let Login { username, password } = named.sentinel_login;
    redis.sentinel_username = once("redis.sentinel_username", redis.sentinel_username, username)?;
    redis.sentinel_password =
        once("redis.sentinel_password_file", redis.sentinel_password, password)?;
    fit_together(&redis)?;
    Ok(redis)
}

/// What belongs to sentinels or to TLS is wrong where the URL has none.
fn fit_together(redis: &Redis) -> Result<(), Failure> {
    let refuse = |key: &str, why: &str| {
        Err(Failure::new(ExitCode::BadValue, format!("{key} is set, and {why}")))
    };
    let (is_sentinel, is_tls) =
        (redis.url.contains("-sentinel://"), redis.url.starts_with("rediss"));
    for (key, is_set) in [
        ("redis.sentinel_username", redis.sentinel_username.is_some()),
        ("redis.sentinel_password_file", redis.sentinel_password.is_some()),
    ] {
        if is_set && !is_sentinel {
            return refuse(key, "the Redis URL names no sentinels; write redis-sentinel://...");
        }
    }
    for (key, file) in [
        ("redis.ca_file", &redis.ca_file),
        ("redis.cert_file", &redis.cert_file),
        ("redis.key_file", &redis.key_file),
    ] {
        if file.is_some() && !is_tls {
            return refuse(key, "the Redis URL is one without TLS; write rediss://...");
        }
    }
    match (&redis.cert_file, &redis.key_file) {
        (Some(_), None) => refuse("redis.cert_file", "redis.key_file is not; set both"),
        (None, Some(_)) => refuse("redis.key_file", "redis.cert_file is not; set both"),
        _ => Ok(()),
    }
}

/// A URL taken apart, so that what is logged cannot hold the password.
pub struct NamedUrl {
    /// Without user and password.
    pub url: String,
    login: Login,
    sentinel_login: Login,
}

/// Takes a Redis URL apart.
pub fn split_url(url: &str) -> Result<NamedUrl, Failure> {
    let endpoint =
        Endpoint::parse(url).map_err(|bad| Failure::new(ExitCode::BadUrl, bad.to_string()))?;
    Ok(NamedUrl {
        url: endpoint.to_string(),
        login: endpoint.login,
        sentinel_login: endpoint.sentinel_login,
    })
}

/// A setting that may stand in the URL or under its own key, not both.
fn once<T>(key: &str, own: Option<T>, url: Option<T>) -> Result<Option<T>, Failure> {
    if own.is_some() && url.is_some() {
        return Err(Failure::new(
            ExitCode::BadValue,
            format!("{key} is set, and the Redis URL contains it as well; remove one of them"),
        ));
    }
    Ok(own.or(url))
}

/// The password in a file, if one is named.
fn password(key: &str, path: Option<&Path>) -> Result<Option<String>, Failure> {
    const LENGTH_MAX_BYTES: u64 = 4096;
    let Some(path) = path else { return Ok(None) };
    let text = file::read_bounded(path, LENGTH_MAX_BYTES).map_err(|e| {
        Failure::new(
            ExitCode::UnreadableFile,
            format!("{key} {}: {e}; name a readable file", path.display()),
        )
    })?;
    let password = password_in(&text);
    if password.is_empty() {
        return Err(bad(key, &path.to_string_lossy(), "is empty"));
    }
    Ok(Some(password.to_owned()))
}

/// A file that is there and can be read, if one is named. It is read again at each connection.
fn readable(key: &str, path: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    let Some(path) = path else { return Ok(None) };
    match file::read_bounded(path, credentials::LENGTH_MAX_BYTES) {
        Ok(_) => Ok(Some(path.to_owned())),
        Err(e) => Err(Failure::new(
            ExitCode::UnreadableFile,
            format!("{key} {}: {e}; name a readable file", path.display()),
        )),
    }
}

/// A prefix of keys, if it can be one.
pub fn prefix(text: &str) -> Result<String, Failure> {
    const LENGTH_MAX_BYTES: usize = 64;
    // Braces would move the hash tag; glob characters would widen an ACL's key pattern.
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/".contains(&b);
    if text.is_empty() || text.len() > LENGTH_MAX_BYTES || !text.bytes().all(allowed) {
        return Err(bad("redis.prefix", text, "is not 1 to 64 letters, digits or any of -_.:/"));
    }
    Ok(text.to_owned())
}

fn import(flags: &Flags, file: &file::Import) -> Result<Import, Failure> {
    let text = flags.import_max_age.as_deref().or(file.max_age.as_deref());
    let max_age_ms = duration("import.max_age", text, IMPORT_MAX_AGE_MS, SECOND_MS..=10 * YEAR_MS)?;
    Ok(Import { max_age_ms })
}

fn limits(file: &file::Limits) -> Result<Limits, Failure> {
    const INODES: RangeInclusive<u64> = 1_000..=100_000_000;
    const STAGING_FILES: RangeInclusive<u64> = 16..=1_000_000;
    let session_bytes =
        size("limits.session", file.session.as_deref(), 4 * MIB, 4 * KIB..=64 * MIB)?;
    let anonymous_bytes = size(
        "limits.anonymous",
        file.anonymous.as_deref(),
        MIB.min(session_bytes),
        4 * KIB..=session_bytes,
    )?;
    let staging_bytes =
        size("limits.staging", file.staging.as_deref(), 256 * MIB, session_bytes..=64 * GIB)?;
    let staging_files =
        number("limits.staging_files", file.staging_files.unwrap_or(10_000), STAGING_FILES)?;
    let inodes = number("limits.inodes", file.inodes.unwrap_or(1_000_000), INODES)?;
    let memory_bytes =
        size("limits.memory", file.memory.as_deref(), 256 * MIB, 16 * MIB..=64 * GIB)?;
    Ok(Limits {
        session_bytes,
        anonymous_bytes,
        staging_bytes,
        staging_files,
        inodes,
        memory_bytes,
    })
}

fn number(key: &str, value: u64, range: RangeInclusive<u64>) -> Result<u64, Failure> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(bad(key, &value.to_string(), &range_words(range, |n| n.to_string())))
}

fn outage(file: &file::Outage) -> Result<Outage, Failure> {
    let default = redis::Settings::default();
    let wait_step_ms = duration(
        "outage.wait_step",
        file.wait_step.as_deref(),
        default.wait_step_ms,
        100..=10 * SECOND_MS,
    )?;
    let wait_total_ms = duration(
        "outage.wait_total",
        file.wait_total.as_deref(),
        default.outage_budget_ms.max(wait_step_ms),
        wait_step_ms..=10 * MINUTE_MS,
    )?;
    let wait_background_ms = duration(
        "outage.wait_background",
        file.wait_background.as_deref(),
        default.background_budget_ms.min(wait_total_ms),
        0..=wait_total_ms,
    )?;
    Ok(Outage { wait_step_ms, wait_total_ms, wait_background_ms })
}

fn spool(file: &file::Outage, staging_dir: &Path, mountpoint: &Path) -> Result<Spool, Failure> {
    let max_bytes = size("outage.spool_max", file.spool_max.as_deref(), 64 * MIB, MIB..=4 * GIB)?;
    let [memory_dir, disk_dir] = paths::spool_dirs(staging_dir, mountpoint);
    Ok(Spool { memory_dir, disk_dir, max_bytes })
}

fn near_cache(file: &file::NearCache, all_bytes: u64) -> Result<Option<NearCache>, Failure> {
    const KEY: &str = "near_cache.freshness";
    let grace_ms =
        duration("near_cache.grace", file.grace.as_deref(), MINUTE_MS, 0..=10 * MINUTE_MS)?;
    // The rest is for inodes and their contents.
    let memory_bytes =
        size("near_cache.memory", file.memory.as_deref(), all_bytes / 4, MIB..=all_bytes / 2)?;
    match file.freshness.as_deref() {
        None | Some("near") => Ok(Some(NearCache { grace_ms, memory_bytes })),
        Some("strict") => Ok(None),
        Some(other) => Err(bad(KEY, other, "is neither 'near' nor 'strict'")),
    }
}

fn metrics(file: &file::Metrics) -> Result<Option<Listen>, Failure> {
    let Some(text) = file.listen.as_deref() else { return Ok(None) };
    Listen::parse(text).map_err(|e| bad("metrics.listen", text, &e))
}

fn audit(file: &file::Audit) -> Result<Option<Audit>, Failure> {
    let max_bytes = size("audit.trail_max", file.trail_max.as_deref(), GIB, MIB..=1024 * GIB)?;
    let Some(text) = file.trail.as_deref() else { return Ok(None) };
    let place = audit::Place::parse(text).map_err(|e| bad("audit.trail", text, &e))?;
    Ok(place.map(|place| Audit { place, max_bytes }))
}

fn activity(file: &file::Activity) -> Result<Activity, Failure> {
    const WORDS_MAX: usize = 64;
    let words = |key, words: Option<&Vec<String>>, default: &str| {
        let words = words.cloned().unwrap_or_else(|| vec![default.to_owned()]);
        if words.len() > WORDS_MAX || words.iter().any(String::is_empty) {
            return Err(bad(key, &words.join(", "), "has an empty word, or more than 64"));
        }
        Ok(words)
    };
    Ok(Activity {
        background_argv: words(
            "activity.background_argv",
            file.background_argv.as_ref(),
            "gevent",
        )?,
        background_title: words(
            "activity.background_title",
            file.background_title.as_ref(),
            "odoo: WorkerCron",
        )?,
        requests: requests(file)?,
    })
}

fn requests(file: &file::Activity) -> Result<Option<Requests>, Failure> {
    const PORTS_MAX: usize = 64;
    let ports = file.ports.clone().unwrap_or_default();
    if ports.len() > PORTS_MAX || ports.contains(&0) {
        let shown: Vec<String> = ports.iter().map(ToString::to_string).collect();
        return Err(bad("activity.ports", &shown.join(", "), "has a port 0, or more than 64"));
    }
    let paths = |key, paths: Option<&Vec<String>>, class| {
        let paths = paths.cloned().unwrap_or_default();
        if paths.len() > rules::RULES_MAX {
            return Err(bad(key, "...", "has more than 256 paths"));
        }
        for path in &paths {
            rules::Rule::parse(path, class).map_err(|why| bad(key, path, why))?;
        }
        Ok(paths)
    };
    let passive = paths("activity.passive", file.passive.as_ref(), Class::Passive)?;
    let active = paths("activity.active", file.active.as_ref(), Class::Active)?;
    rules::rules(&passive, &active)
        .map_err(|(path, why)| bad("activity.passive, activity.active", &path, why))?;
    match file.requests.as_deref() {
        None | Some("auto") => Ok(Some(Requests { ports, passive, active })),
        Some("off") => Ok(None),
        Some(other) => Err(bad("activity.requests", other, "is neither 'auto' nor 'off'")),
    }
}

fn duration(
    key: &str,
    text: Option<&str>,
    default_ms: u64,
    range_ms: RangeInclusive<u64>,
) -> Result<u64, Failure> {
    let Some(text) = text else { return Ok(default_ms) };
    let ms = units::duration_ms(text).map_err(|e| bad(key, text, &e))?;
    if range_ms.contains(&ms) {
        return Ok(ms);
    }
    Err(bad(key, text, &range_words(range_ms, units::duration_text)))
}

fn size(
    key: &str,
    text: Option<&str>,
    default_bytes: u64,
    range_bytes: RangeInclusive<u64>,
) -> Result<u64, Failure> {
    let bytes = match text {
        Some(text) => units::size_bytes(text).map_err(|e| bad(key, text, &e))?,
        None => default_bytes.clamp(*range_bytes.start(), *range_bytes.end()),
    };
    if range_bytes.contains(&bytes) {
        return Ok(bytes);
    }
    Err(bad(key, text.unwrap_or_default(), &range_words(range_bytes, units::size_text)))
}

fn range_words(range: RangeInclusive<u64>, words: impl Fn(u64) -> String) -> String {
    format!("is not between {} and {}", words(*range.start()), words(*range.end()))
}

fn bad(key: &str, value: &str, reason: &str) -> Failure {
    Failure::new(ExitCode::BadValue, format!("{key}: '{value}' {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str, redis: Option<&str>) -> Result<Config, Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let flags = Flags {
            place: Place {
                config: Some(file.path().to_owned()),
                redis: redis.map(ToOwned::to_owned),
            },
            log: Some("info".into()),
            ..Flags::default()
        };
        Config::resolve(Path::new("/mnt"), &flags)
    }

    const REDIS: Option<&str> = Some("redis://localhost:6379/3");

    #[test]
    fn defaults() {
        let config = resolve("staging_dir = \"/dev/shm/sessionfs-test\"", REDIS).unwrap();
        assert_eq!(config.tree.mode, 0o700);
        assert_eq!(config.redis.url, "redis://localhost:6379/3");
        assert_eq!(config.redis.prefix, "sessionfs");
        assert_eq!(config.private_redis, None);
        assert_eq!(config.lifetimes, Lifetimes::default());
        assert_eq!(config.limits.session_bytes, 4 << 20);
        assert_eq!(config.limits.anonymous_bytes, 1 << 20);
        assert_eq!(
            config.outage,
            Outage { wait_step_ms: 2000, wait_total_ms: 20_000, wait_background_ms: 5_000 }
        );
        assert_ne!(config.worker.uid, 0);
    }

    #[test]
    fn the_flag_wins_over_the_file() {
        let config = resolve("[redis]\nurl = \"redis://elsewhere\"", REDIS).unwrap();
        assert_eq!(config.redis.url, "redis://localhost:6379/3");
        let config = resolve("[redis]\nurl = \"redis://elsewhere\"", None).unwrap();
        assert_eq!(config.redis.url, "redis://elsewhere:6379/0");
    }

    #[test]
    fn a_password_is_kept_out_of_url_and_debug_output() {
        let config = resolve("", Some("rediss://me:s%40cret@[::1]:7000/2")).unwrap();
        assert_eq!(config.redis.url, "rediss://[::1]:7000/2");
        assert_eq!(config.redis.username.as_deref(), Some("me"));
        assert_eq!(config.redis.password.as_deref(), Some("s@cret"));
        assert!(!format!("{:?}", config.redis).contains("cret"));
        let crossed = serde_json::to_string(&config).unwrap();
        let crossed: Config = serde_json::from_str(&crossed).unwrap();
        assert_eq!(crossed.redis.password, config.redis.password);
    }

    #[test]
    fn a_unix_socket_with_an_odd_name_survives() {
        let config = resolve("", Some("unix:/tmp/a%20b%23%3F/redis.sock?db=4")).unwrap();
        assert_eq!(config.redis.url, "unix:/tmp/a%20b%23%3F/redis.sock?db=4");
    }

    #[test]
    fn bad_urls_are_told_without_repeating_them() {
        for url in
            ["localhost", "http://:secret@x", "redis://:secret@", "redis://h/secret", "unix:x"]
        {
            let failure = resolve("", Some(url)).unwrap_err();
            assert_eq!(failure.code, ExitCode::BadUrl, "{url}");
            assert!(!failure.to_string().contains("secret"), "{failure}");
        }
    }

    #[test]
    fn values_out_of_range_name_key_and_range() {
        let cases = [
            ("[lifetime]\nidle = \"1ms\"", "lifetime.idle: '1ms' is not between 1s and"),
            ("[lifetime]\nidle = \"off\"", "lifetime.idle: 'off' is not a duration"),
            (
                "[limits]\nsession = \"1GiB\"",
                "limits.session: '1GiB' is not between 4KiB and 64MiB",
            ),
            (
                "[limits]\nsession = \"8KiB\"\nanonymous = \"1MiB\"",
                "limits.anonymous: '1MiB' is not between 4KiB and 8KiB",
            ),
            ("[limits]\ninodes = 1", "limits.inodes: '1' is not between 1000 and"),
            ("[redis]\npacking = \"zip\"", "redis.packing: 'zip' is neither 'zstd' nor 'off'"),
            (
                "[near_cache]\nfreshness = \"fresh\"",
                "near_cache.freshness: 'fresh' is neither 'near' nor 'strict'",
            ),
            ("[outage]\nwait_total = \"1s\"", "outage.wait_total: '1s' is not between 2s and"),
            ("[redis]\nprefix = \"{x}\"", "redis.prefix: '{x}' is not"),
            (
                "[activity]\nbackground_argv = [\"\"]",
                "activity.background_argv: '' has an empty word",
            ),
            (
                "[activity]\nrequests = \"on\"",
                "activity.requests: 'on' is neither 'auto' nor 'off'",
            ),
            ("[activity]\nports = [0]", "activity.ports: '0' has a port 0"),
            ("[activity]\npassive = [\"x\"]", "activity.passive: 'x' does not begin with '/'"),
            (
                "[activity]\npassive = [\"/x\"]\nactive = [\"/x\"]",
                "activity.passive, activity.active: '/x' is listed twice",
            ),
            ("mode = \"rwx\"", "mode: 'rwx' is not a mode"),
            (
                "[metrics]\nlisten = \":9401\"",
                "metrics.listen: ':9401' is not an address to listen on",
            ),
            ("[worker]\nuser = \"root\"", "worker.user: 'root' would run as root"),
        ];
        for (text, expected) in cases {
            let failure = resolve(text, REDIS).unwrap_err();
            assert_eq!(failure.code, ExitCode::BadValue, "{text}");
            assert!(failure.to_string().starts_with(expected), "{failure}");
        }
    }

    #[test]
    fn absolute_may_be_off_or_a_duration() {
        let config = resolve("[lifetime]\nabsolute = \"12h\"", REDIS).unwrap();
        assert_eq!(config.lifetimes.absolute_ms, Some(12 * HOUR_MS));
        let config = resolve("[lifetime]\nabsolute = \"off\"", REDIS).unwrap();
        assert_eq!(config.lifetimes.absolute_ms, None);
    }

    #[test]
    fn commands_reach_the_redis_that_a_mount_uses() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let settings = |text: &str, redis: Option<&str>| {
            std::fs::write(file.path(), text).unwrap();
            let redis = redis.map(ToOwned::to_owned);
            Config::resolve_redis(&Place { config: Some(file.path().to_owned()), redis }).unwrap()
        };
        let text =
            "[private_redis]\ndir = \"/srv/x\"\n[redis]\nprefix = \"p\"\n[lifetime]\nidle = \"1h\"";
        let found = settings(text, None);
        assert_eq!((found.url.as_str(), found.prefix.as_str()), ("unix:/srv/x/redis.sock", "p"));
        assert_eq!(found.lifetimes.idle_ms, HOUR_MS);
        assert_eq!(settings(text, REDIS).url, resolve(text, REDIS).unwrap().redis.url);
        assert_eq!(settings("[redis]\nurl = \"redis://h\"", None).url, "redis://h:6379/0");
    }

    #[test]
    fn a_password_given_twice_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret\n").unwrap();
        let text = format!("[redis]\npassword_file = {:?}", file.path());
        assert_eq!(resolve(&text, REDIS).unwrap().redis.password.as_deref(), Some("secret"));
        let failure = resolve(&text, Some("redis://:other@h")).unwrap_err();
        assert_eq!(failure.code, ExitCode::BadValue);
    }

    #[test]
    fn a_file_that_says_nothing_resolves_to_the_defaults_of_the_store() {
        let file = File::default();
        let redis = redis(&Place::default(), &file).expect("resolved");
        let url = redis.url.clone();
        let lifetimes = lifetime::own(&file.lifetime).expect("resolved");
        let outage = outage(&file.outage).expect("resolved");
        let resolved = store_settings(&redis, &lifetimes, &outage);
        assert!(resolved.live.is_some(), "a mount follows live settings");
        let expected = redis::Settings { url, live: resolved.live, ..redis::Settings::default() };
        assert_eq!(fields(&resolved), fields(&expected));
    }

    /// All of them, so that a new one cannot be forgotten here.
    fn fields(settings: &redis::Settings) -> impl PartialEq + fmt::Debug {
        let redis::Settings {
            url,
            username,
            password,
            sentinel_username,
            sentinel_password,
            credentials: _,
            prefix,
            lifetimes,
            rules,
            import_max_age_ms,
            connect_timeout_ms,
            overdue_ms,
            down_after_ms,
            attempt_ms,
            retry_total_ms,
            wait_step_ms,
            outage_budget_ms,
            background_budget_ms,
            silent_ping_ms,
            heartbeat_ms,
            touch_batch_ms,
            live: _,
            keyring: _,
            newest_format,
            newest_written,
            admission: _,
            ends_stale,
            tracks_changes,
            takes_up,
            origin: _,
            trail_round_ms,
            trail_lease_ms,
        } = settings.clone();
        let times = [
            import_max_age_ms,
            connect_timeout_ms,
            overdue_ms,
            down_after_ms,
            attempt_ms,
            retry_total_ms,
            wait_step_ms,
            outage_budget_ms,
            background_budget_ms,
            silent_ping_ms,
            heartbeat_ms,
            touch_batch_ms,
            trail_round_ms,
            trail_lease_ms,
        ];
        let sentinel = (sentinel_username, sentinel_password);
        let judging = (newest_format, newest_written, ends_stale, tracks_changes, takes_up);
        (url, username, password, sentinel, prefix, (lifetimes, rules), times, judging)
    }
}
