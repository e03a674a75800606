//! The settings of the store, and their defaults: those of the product.

use std::fmt;
use std::time::Duration;

use super::admission::Admission;
use super::credentials::Credentials;
use super::endpoint::{BadUrl, Endpoint, Login};
use super::envelope::FORMAT;
use super::link::Timing;
use super::live::Schema;
use super::outbox::Origin;
use crate::session::policy::Lifetimes;
use crate::session::policy::rule::Rule;
use crate::session::secret::Keyring;

/// Begins every key, if no other prefix is configured.
pub const DEFAULT_PREFIX: &str = "sessionfs";

/// How the store reaches Redis, and its bounds. All times are milliseconds.
#[derive(Clone)]
pub struct Settings {
    /// Of one server, of sentinels or of a Cluster: see [`Endpoint`].
    pub url: String,
    /// The user, unless the URL names one.
    pub username: Option<String>,
    /// The password, unless the URL holds one.
    pub password: Option<String>,
    /// The same of the sentinels.
    pub sentinel_username: Option<String>,
    pub sentinel_password: Option<String>,
    /// What is in files: passwords, which go before those above, and certificates.
    pub credentials: Credentials,
    /// Begins every key.
    pub prefix: String,
    /// When sessions end.
    pub lifetimes: Lifetimes,
    /// Of some sessions others. At most [`RULES_MAX`](crate::session::policy::rules::RULES_MAX).
    pub rules: Vec<Rule>,
    /// For how long session files are imported after their last save. The end of a session that
    /// came from a file is remembered for as long.
    pub import_max_age_ms: u64,
    /// Connecting, authenticating and greeting take at most this long.
    pub connect_timeout_ms: u64,
    /// A request that is not answered within this makes the link degraded; a look-up waits no longer.
    pub overdue_ms: u64,
    /// Without an answer for this long the link is down.
    pub down_after_ms: u64,
    /// One attempt of a change.
    pub attempt_ms: u64,
    /// All attempts of a change.
    pub retry_total_ms: u64,
    /// The longest single wait until the link is up.
    pub wait_step_ms: u64,
    /// All waits of one outage, from its beginning.
    pub outage_budget_ms: u64,
    /// The same for background processes: many requests wait for one.
    pub background_budget_ms: u64,
    /// A wait pings a link that has been silent for this long.
    pub silent_ping_ms: u64,
    /// A link that has been silent for this long is pinged.
    pub heartbeat_ms: u64,
    /// Touches are collected for this long.
    pub touch_batch_ms: u64,
    /// Which live settings are followed; `None`: none.
    pub live: Option<Schema>,
    /// What contents are sealed with: a Redis that is written with another secret is not used.
    /// `None` for commands that open and seal nothing.
    pub keyring: Option<Keyring>,
    /// The newest format of headers that is read. Never an older one than there is: tests have
    /// newer ones.
    pub newest_format: u32,
    /// The newest one that is written, where all servers read it.
    pub newest_written: u32,
    /// Whether this Redis may be used.
    pub admission: Admission,
    /// Whether a session that is found expired is ended. A command's configuration need not be that
    /// of the mounts, so it ends none.
    pub ends_stale: bool,
    /// Whether Redis is asked to tell of changes ([`super::RedisStore::tell_changes`]).
    pub tracks_changes: bool,
    /// Whether a worker has served before, or may have. Until what it knew is taken up ([`super::RedisStore::take_up`])
    /// no session is ended.
    pub takes_up: bool,
    /// In this time each shard is looked at for sessions that are over, by the server that writes the audit trail.
    pub trail_round_ms: u64,
    /// That server is another one when it was not heard of for so long.
    pub trail_lease_ms: u64,
    /// Who asks, for the audit trail.
    pub origin: Origin,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379/0".into(),
            username: None,
            password: None,
            sentinel_username: None,
            sentinel_password: None,
            credentials: Credentials::default(),
            prefix: DEFAULT_PREFIX.into(),
            lifetimes: Lifetimes::default(),
            rules: Vec::new(),
            import_max_age_ms: 7 * 24 * 60 * 60 * 1000,
            connect_timeout_ms: 2000,
            overdue_ms: 100,
            down_after_ms: 500,
            attempt_ms: 250,
            retry_total_ms: 1000,
            wait_step_ms: 2000,
            outage_budget_ms: 20_000,
            background_budget_ms: 5_000,
            silent_ping_ms: 100,
            heartbeat_ms: 250,
            touch_batch_ms: 1000,
            live: None,
            keyring: None,
            newest_format: FORMAT,
            newest_written: FORMAT,
            admission: Admission::default(),
            ends_stale: true,
            tracks_changes: false,
            takes_up: false,
            trail_round_ms: 45_000,
            trail_lease_ms: 15_000,
            origin: Origin::default(),
        }
    }
}

impl fmt::Debug for Settings {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = Endpoint::parse(&self.url)
            .map_or_else(|_| "(not usable)".to_owned(), |endpoint| endpoint.to_string());
        f.debug_struct("Settings")
            .field("url", &url)
            .field("prefix", &self.prefix)
            .field("lifetimes", &self.lifetimes)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Where Redis is, with users and passwords.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, BadUrl> {
        let login = Login { username: self.username.clone(), password: self.password.clone() };
        let sentinel_login = Login {
            username: self.sentinel_username.clone(),
            password: self.sentinel_password.clone(),
        };
        Ok(Endpoint::parse(&self.url)?.with_logins(login, sentinel_login))
    }

    pub(super) fn timing(&self) -> Timing {
        Timing {
            connect: Duration::from_millis(self.connect_timeout_ms),
            overdue: Duration::from_millis(self.overdue_ms),
            down_after: Duration::from_millis(self.down_after_ms),
            silent_ping: Duration::from_millis(self.silent_ping_ms),
            heartbeat: Duration::from_millis(self.heartbeat_ms),
            wait_step: Duration::from_millis(self.wait_step_ms),
            outage_budget: Duration::from_millis(self.outage_budget_ms),
            background_budget: Duration::from_millis(self.background_budget_ms),
        }
    }
}
