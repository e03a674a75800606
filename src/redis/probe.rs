//! Finds out at the start whether Redis can serve sessions, and says in one line what is wrong and
//! what to do about it. No message holds a password.
//!
//! Everything that the store will ever send is sent once, on a session of its own that lives for
//! a few seconds at most.

pub(crate) mod places;
mod tls;

use std::collections::HashSet;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::cluster_routing::Slot;
use redis::{Cmd, ErrorKind, RedisError, Value};
use tokio::time::timeout;

use self::places::{Places, Server};
use super::Settings;
use super::agreement;
use super::credentials::Credentials;
use super::endpoint::{BadUrl, Place};
use super::errors::{ErrorCode, ServerError};
use super::index::Entry;
use super::keys::Keys;
use super::link::error_text;
use super::requests::{Dead, Requests};
use super::scripts::{Answer, Call, ClockView, Formats, Policy, Scripts};
use crate::foreign::one_line;
use crate::session::content::{Class, Content};
use crate::session::name::{Alias, Form, Shard};
use crate::session::packing;
use crate::session::policy::Lifetimes;
use crate::session::policy::rules::Rules;
use crate::session::secret::{Fingerprint, Keyring};
use crate::store::{Amend, Attempt, Claim, Import, Publish, Stamp, StoreError, Unlink};

/// The oldest version that has what we need.
const OLDEST: (u64, u64) = (6, 0);
/// How long what the probe writes lives, should it not come to removing it.
const PROBE_LIFE_MS: u64 = 5000;

/// What answers there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerInfo {
    /// `redis` or `valkey`.
    pub server: String,
    pub version: String,
    /// Where, without credentials.
    pub address: String,
}

impl ServerInfo {
    /// From an answer to `HELLO` in protocol 3.
    pub fn read(answer: &Value, address: String) -> Option<Self> {
        let server = fact(answer, "server")?;
        let version = fact(answer, "version")?;
        Some(Self { server, version, address })
    }
}

/// One of the facts in an answer to `HELLO`.
pub(crate) fn fact(answer: &Value, name: &str) -> Option<String> {
    let Value::Map(facts) = answer else { return None };
    facts.iter().find_map(|(key, value)| {
        (plain(key)? == name).then(|| plain(value).map(one_line)).flatten()
    })
}

/// Why Redis cannot serve sessions. `Display` is one line with the remedy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ProbeError {
    /// The URL cannot be used.
    BadUrl(BadUrl),
    /// Nobody answers: address and what was seen.
    Unreachable(String, String),
    /// The system does not let this user connect to the socket: address.
    NoSocketRight(String),
    /// TLS failed.
    Tls { at: String, why: String, remedy: String },
    /// Wrong or missing password or user: address.
    AuthFailed(String),
    /// There is no such database: address.
    NoDatabase(String),
    /// The user may not do what is needed: address and the server's words.
    NoPermission(String, String),
    /// Something answers that is not Redis: address.
    NotRedis(String),
    /// Address and version.
    TooOld(String, String),
    /// It runs in another mode than its URL says.
    Mode {
        at: String,
        /// `standalone`, `sentinel` or `cluster`.
        mode: String,
        /// The URL to write instead.
        url: String,
    },
    /// Wrong or missing password or user of a sentinel: address.
    SentinelAuth(String),
    /// The sentinels do not name the master: address and what was seen.
    NoMaster(String, String),
    /// The server that the sentinels name is none: address and its role.
    NotMaster(String, String),
    /// It is there, and not yet (or not now) at work: address and its words.
    NotReady(String, String),
    /// It takes no writes: address and its error.
    NoWrites(String, ServerError),
    /// Sessions there are sealed with a secret that is not held: address and fingerprint.
    OtherSecret(String, Fingerprint),
    /// Anything else: address and what was seen.
    Strange(String, String),
}

impl ProbeError {
    /// Whether waiting may help: it is not there yet, or is still starting.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(..) | Self::NotReady(..) | Self::NoWrites(..) | Self::NotMaster(..)
        )
    }
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadUrl(bad) => bad.fmt(f),
            Self::Unreachable(at, why) => {
                write!(f, "cannot reach Redis at {at}: {why}; start it, or correct redis.url")
            }
            Self::NoSocketRight(at) => write!(
                f,
                "the worker's user has no permission for the socket of Redis at {at}; allow it \
                 (unixsocketperm in redis.conf, and the directories above), or set another \
                 worker.user"
            ),
            Self::Tls { at, why, remedy } => {
                write!(f, "TLS to Redis at {at} failed: {why}; {remedy}")
            }
            Self::AuthFailed(at) => {
                write!(
                    f,
                    "Redis at {at} refuses the user or the password; correct redis.username and \
                     redis.password_file"
                )
            }
            Self::NoDatabase(at) => write!(
                f,
                "Redis at {at}: the database's number is out of range; correct redis.url, or raise \
                 `databases` in redis.conf"
            ),
            Self::NoPermission(at, what) => write!(
                f,
                "Redis at {at} does not allow this user what sessionfs needs: {what}; give it the \
                 ACL of docs/redis.md"
            ),
            Self::NotRedis(at) => write!(
                f,
                "the server at {at} does not use the Redis protocol (or needs TLS: then use \
                 rediss://); correct redis.url"
            ),
            Self::TooOld(at, version) => write!(
                f,
                "Redis at {at} is version {version}, and {}.{} or newer is needed; upgrade it, or use \
                 the private Redis",
                OLDEST.0, OLDEST.1
            ),
            Self::Mode { at, mode, url } => {
                write!(f, "Redis at {at} runs in {mode} mode; write redis.url as {url}")
            }
            Self::SentinelAuth(at) => write!(
                f,
                "the sentinel at {at} refuses the user or the password; correct \
                 redis.sentinel_username and redis.sentinel_password_file"
            ),
            Self::NoMaster(at, why) => write!(
                f,
                "{at} leads to no master: {why}; correct the name in redis.url (SENTINEL MASTERS \
                 lists them)"
            ),
            Self::NotMaster(at, role) => write!(
                f,
                "the sentinels name {at}, which is a {role}; wait until the failover is over, or \
                 look at SENTINEL MASTERS"
            ),
            Self::NotReady(at, why) => {
                write!(f, "Redis at {at} is not ready: {why}; try again when it is")
            }
            Self::NoWrites(at, why) => {
                let remedy = match why.code {
                    ErrorCode::Oom => "raise its maxmemory",
                    ErrorCode::MisConf => "check its log and the free space of its disk",
                    ErrorCode::NoReplicas => {
                        "bring its replicas back, or lower min-replicas-to-write"
                    }
                    _ => "it is a replica: name the master",
                };
                write!(f, "Redis at {at} accepts no writes: {why}; {remedy}")
            }
            Self::OtherSecret(at, secret) => write!(
                f,
                "Redis at {at} is written with the secret {secret}, which this server does not hold; \
                 copy it from a server that does (ssh SERVER sudo sessionfs secret export | sudo \
                 sessionfs secret import)"
            ),
            Self::Strange(at, what) => {
                write!(f, "Redis at {at} gave an invalid answer: {what}; see its log")
            }
        }
    }
}

impl std::error::Error for ProbeError {}

impl From<BadUrl> for ProbeError {
    fn from(bad: BadUrl) -> Self {
        Self::BadUrl(bad)
    }
}

/// Connects as the store will, and tries all that it will do. Takes at most twice
/// `connect_timeout_ms` for each server.
pub async fn probe(settings: &Settings) -> Result<ServerInfo, ProbeError> {
    let bound = Duration::from_millis(settings.connect_timeout_ms);
    let places = Places::new(settings.endpoint()?, &settings.credentials, bound);
    let mut first = None;
    for server in places.servers().await? {
        let mut probe = Probe {
            connection: places.connect(&server).await?,
            at: server.shown.clone(),
            server,
            places: &places,
            keys: Keys::new(settings.prefix.clone()),
            keyring: settings.keyring.clone(),
        };
        let found = match timeout(bound, probe.run()).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(silent(&probe.at, bound)),
        };
        first.get_or_insert(ServerInfo { address: places.endpoint.to_string(), ..found });
    }
    first.ok_or_else(|| silent(&places.endpoint.to_string(), bound))
}

fn silent(at: &str, bound: Duration) -> ProbeError {
    ProbeError::Unreachable(at.to_owned(), format!("no answer within {} ms", bound.as_millis()))
}

struct Probe<'a> {
    connection: MultiplexedConnection,
    at: String,
    server: Server,
    places: &'a Places,
    keys: Keys,
    keyring: Option<Keyring>,
}

impl Probe<'_> {
    async fn run(&mut self) -> Result<ServerInfo, ProbeError> {
        let server = self.introduce().await?;
        if self.has(&self.keys.secret()) {
            self.look_at_secret().await?;
        }
        self.work().await?;
        Ok(server)
    }

    /// What is sealed with a secret that is not held could not be read, nor what we seal by others.
    async fn look_at_secret(&mut self) -> Result<(), ProbeError> {
        let answer = self.ask(&agreement::fingerprint_command(&self.keys)).await?;
        let Some(keyring) = &self.keyring else { return Ok(()) };
        match agreement::fingerprint(answer).map_err(|what| self.strange(&what))? {
            Some(written) if !keyring.holds(written) => {
                Err(ProbeError::OtherSecret(self.at.clone(), written))
            }
            _ => Ok(()),
        }
    }

    async fn ask(&mut self, command: &Cmd) -> Result<Value, ProbeError> {
        self.connection
            .send_packed_command(command)
            .await
            .and_then(Value::extract_error)
            .map_err(|error| self.places.understand(&self.at, &error))
    }

    /// `HELLO` says which server it is, and is allowed to every user.
    async fn introduce(&mut self) -> Result<ServerInfo, ProbeError> {
        let answer = self.ask(redis::cmd("HELLO").arg(3)).await?;
        let Some(found) = ServerInfo::read(&answer, self.at.clone()) else {
            return Err(ProbeError::NotRedis(self.at.clone()));
        };
        // Valkey begins at 7.2.
        if read_version(&found.version) < Some(OLDEST) {
            return Err(ProbeError::TooOld(self.at.clone(), found.version));
        }
        let expected = if self.server.slots.is_some() { "cluster" } else { "standalone" };
        if let Some(mode) = fact(&answer, "mode")
            && mode != expected
        {
            return Err(self.places.wrong_mode(self.at.clone(), mode));
        }
        if matches!(self.places.endpoint.place, Place::Sentinel { .. })
            && let Some(role) = fact(&answer, "role")
            && role != "master"
        {
            return Err(ProbeError::NotMaster(self.at.clone(), role));
        }
        Ok(found)
    }

    /// Whether the server has this key.
    fn has(&self, key: &str) -> bool {
        self.server.slots.as_ref().is_none_or(|slots| slots.contains(&Slot::for_key(key)))
    }

    /// A whole life of a session of our own, by the requests of a mount, and then every command by
    /// itself: a script asks some only of some sessions (an index that lives long enough needs no
    /// `PEXPIRE`), and passes over what some answer.
    async fn work(&mut self) -> Result<(), ProbeError> {
        let scripts = Scripts::default();
        for script in scripts.all() {
            self.ask(&script.load()).await?;
        }
        let keys = self.keys.clone();
        // What a server without a shard would be tried by is not there.
        let Some(alias) = own_alias(self.server.slots.as_ref()) else { return Ok(()) };
        self.live_through(&scripts, &keys, &alias).await?;
        for command in single_commands(&keys, &alias) {
            self.ask(&command).await?;
        }
        Ok(())
    }

    /// Each operation on a session, and what it must answer.
    async fn live_through(
        &mut self,
        scripts: &Scripts,
        keys: &Keys,
        alias: &Alias,
    ) -> Result<(), ProbeError> {
        let lifetimes = Lifetimes {
            idle_ms: PROBE_LIFE_MS,
            anonymous_idle_ms: PROBE_LIFE_MS,
            anonymous_unopened_ms: PROBE_LIFE_MS,
            absolute_ms: None,
            grace_ms: 0,
            tombstone_ms: 1,
        };
        let policy = Policy {
            lifetimes: Rules::from(lifetimes).into(),
            owner: Arc::default(),
            import_max_age_ms: 1,
            formats: Formats::default(),
            clock: ClockView::Unknown,
            waited_ms: 0,
            unwritten_ms: 0,
            // What it does is no news of anybody.
            outbox: "",
            origin: "",
        };
        let requests = Requests { policy, ..Requests::unserved(scripts, keys) };
        let save = own_save(alias);
        let amend =
            Amend { stamp: own_stamp(), alias: alias.clone(), mode: Some(0o600), mtime: None };
        let touches = [(alias.clone(), Some(0))];
        let file = Import {
            stamp: own_stamp(),
            alias: alias.clone(),
            form: save.form,
            content: save.content.clone(),
            size_bytes: 0,
            packing: packing::PLAIN,
            sealed: Bytes::new(),
            mtime_ns: 0,
            mode: 0o600,
        };
        let unlink = Unlink {
            stamp: own_stamp(),
            alias: alias.clone(),
            listed: None,
            held: None,
            opened: None,
        };
        let entry = Entry { alias: alias.clone(), marks: None };
        for (call, expected) in [
            (requests.fetch(alias, None), "absent"),
            (requests.publish(&save, Attempt::First), "taken"),
            (requests.touch(alias.shard(), &touches), "done"),
            (requests.amend(&amend, Attempt::First), "taken"),
            (requests.list(alias.shard(), std::slice::from_ref(&entry), Dead::Leave), "listed"),
            (requests.import(&file, Attempt::First), "kept"),
            (requests.unlink(&unlink, Attempt::First), "gone"),
            (requests.run_nothing(alias.shard()), "taken"),
        ] {
            self.call(&call, expected).await?;
        }
        Ok(())
    }

    async fn call(&mut self, call: &Call<'_>, expected: &str) -> Result<(), ProbeError> {
        let value = self.ask(&call.command()).await?;
        let unreadable = |error: StoreError| self.strange(&error.to_string());
        let mut answer = Answer::parts("probe", value).map_err(unreadable)?;
        match answer.failure().map_err(unreadable)? {
            Some(error) => Err(refused(&self.at, error)),
            None if answer.status == expected => Ok(()),
            None => Err(self.strange(&format!("{} instead of {expected}", answer.status))),
        }
    }

    fn strange(&self, what: &str) -> ProbeError {
        ProbeError::Strange(self.at.clone(), what.to_owned())
    }
}

/// Every command of a script or of the store, on the keys of our own session, which is gone by now.
fn single_commands(keys: &Keys, alias: &Alias) -> Vec<Cmd> {
    let (session, index) = (keys.session(alias), keys.index(alias.shard()));
    let life = PROBE_LIFE_MS.to_string();
    // A hash of our own stands for the live settings, which are left alone.
    [
        &["ZREM", &index, alias.as_str()] as &[&str],
        &["ZSCORE", &index, alias.as_str()],
        &["DEL", &session],
        &["HSET", &session, "setting", "1"],
        &["PEXPIRE", &session, &life],
        &["HINCRBY", &session, "setting", "1"],
        &["HMGET", &session, "setting"],
        &["HLEN", &session],
        &["HGETALL", &session],
        &["HDEL", &session, "setting"],
        &["PTTL", &session],
        &["STRLEN", &session],
        &["GETRANGE", &session, "0", "0"],
        &["EXISTS", &index],
        &["ZCARD", &index],
        &["ZRANGEBYSCORE", &index, "-inf", "+inf", "WITHSCORES", "LIMIT", "0", "1"],
        &["ZREVRANGEBYSCORE", &index, "+inf", "-inf", "WITHSCORES", "LIMIT", "0", "1"],
        &["TIME"],
    ]
    .iter()
    .map(|words| {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command
    })
    .collect()
}

/// A first attempt in the far future: never late, never older than anything.
fn own_stamp() -> Stamp {
    Stamp::random(9_999_999_999_999)
}

fn own_save(alias: &Alias) -> Publish {
    let stamp = own_stamp();
    Publish {
        birth: stamp.id,
        stamp,
        alias: alias.clone(),
        form: Form::Sharded,
        content: Content { class: Class::Anonymous, uid: None, db: None, login: None },
        size_bytes: 0,
        packing: packing::PLAIN,
        sealed: Bytes::new(),
        sealer: None,
        claim: Claim::default(),
        background: false,
        is_activity: true,
    }
}

/// An alias that no session has, in a shard that the server has: nobody hashes to 82 digits of that
/// kind.
fn own_alias(slots: Option<&HashSet<Slot>>) -> Option<Alias> {
    let is_there = |shard: &Shard| slots.is_none_or(|slots| slots.contains(&Keys::slot(*shard)));
    let shard = Shard::parse("zz").filter(is_there).or_else(|| Shard::all().find(is_there))?;
    let number: u128 = rand::random();
    Alias::parse(&format!("{}{}{number:039}", shard.as_str(), "-".repeat(43)))
}

fn plain(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

fn read_version(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn understand(at: &str, error: &RedisError, credentials: &Credentials) -> ProbeError {
    let text = error_text(error);
    let here = at.to_owned();
    let tls = at.starts_with("rediss");
    match error.kind() {
        ErrorKind::AuthenticationFailed => return ProbeError::AuthFailed(here),
        ErrorKind::RESP3NotSupported => return ProbeError::TooOld(here, "before 6.0".into()),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => return ProbeError::NotRedis(here),
        _ => {}
    }
    if let Some(error) = ServerError::of(error) {
        return refused(at, error);
    }
    if tls && !error.is_connection_refusal() && !error.is_timeout() {
        let remedy = tls::remedy(error, credentials);
        return ProbeError::Tls { at: here, why: text, remedy };
    }
    if error.is_connection_dropped() && !error.is_connection_refusal() {
        return ProbeError::NotRedis(here);
    }
    if lacks_permission(error) {
        return ProbeError::NoSocketRight(here);
    }
    ProbeError::Unreachable(here, text)
}

/// Whether the system refused what was behind this error, which no waiting mends.
fn lacks_permission(error: &RedisError) -> bool {
    cause::<io::Error>(error).is_some_and(|io| io.kind() == io::ErrorKind::PermissionDenied)
}

/// What was behind this error, if it is of this kind.
fn cause<T: Error + 'static>(error: &RedisError) -> Option<&T> {
    // The crate shares its cause, so it is not the cause itself that is found first.
    type Shared = Arc<dyn Error + Send + Sync>;
    let cause = error.source()?;
    match cause.downcast_ref::<Shared>() {
        Some(shared) => (&**shared as &(dyn Error + 'static)).downcast_ref(),
        None => cause.downcast_ref(),
    }
}

/// What the server itself answered.
fn refused(at: &str, error: ServerError) -> ProbeError {
    let (at, words) = (at.to_owned(), error.to_string());
    match error.code {
        ErrorCode::NoAuth | ErrorCode::WrongPass => ProbeError::AuthFailed(at),
        ErrorCode::NoPerm { .. } => ProbeError::NoPermission(at, words),
        ErrorCode::NoDatabase => ProbeError::NoDatabase(at),
        ErrorCode::Loading | ErrorCode::MasterDown | ErrorCode::Busy | ErrorCode::ClusterDown => {
            ProbeError::NotReady(at, words)
        }
        ErrorCode::Oom | ErrorCode::MisConf | ErrorCode::ReadOnly | ErrorCode::NoReplicas => {
            ProbeError::NoWrites(at, error)
        }
        ErrorCode::UnknownCommand => {
            ProbeError::TooOld(at, format!("without a command that is needed ({words})"))
        }
        ErrorCode::ProtectedMode => ProbeError::Unreachable(at, words),
        ErrorCode::NoScript
        | ErrorCode::WrongType
        | ErrorCode::MaxClients
        | ErrorCode::Moved
        | ErrorCode::Ask
        | ErrorCode::TryAgain
        | ErrorCode::Other => ProbeError::Strange(at, words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(read_version("6.0.16") >= Some(OLDEST));
        assert!(read_version("10.1") >= Some(OLDEST));
        assert!(read_version("5.0.14") < Some(OLDEST));
        assert_eq!(read_version("unknown"), None);
    }

    #[test]
    fn the_probe_has_an_alias_of_its_own() {
        let alias = own_alias(None).expect("an alias");
        assert_eq!(alias.shard().as_str(), "zz");
        assert_ne!(own_alias(None), Some(alias));
        let shard = Shard::parse("ab").expect("a shard");
        let slots = HashSet::from([Keys::slot(shard)]);
        assert_eq!(
            Keys::slot(own_alias(Some(&slots)).expect("an alias").shard()),
            Keys::slot(shard)
        );
        assert_eq!(own_alias(Some(&HashSet::new())), None);
    }
}
