//! Sessions in Redis: the adapter that implements the port [`crate::store`].
//!
//! | what | where |
//! |---|---|
//! | what is sent: every request, its arguments, the keys | [`requests`], [`args`], [`keys`] |
//! | the rules of sessions, in Lua, and the value's header line | [`scripts`], [`envelope`] |
//! | what the answers mean: one session, listings, files that are imported | [`sessions`], [`listing`], [`import`] |
//! | activity, collected and written in batches | [`activity`] |
//! | how often a change is sent | [`retry`] |
//! | large contents: the second connection, and what is read by it | [`bulk`], [`transfer`] |
//! | the connection, its health, Redis's clock, its errors | [`link`], [`clock`], [`errors`] |
//! | room for those who are logged in, when it is full | [`room`] |
//! | whether writes are taken, and whether Redis can serve at all | [`writes`], [`probe`], [`acl`] |
//! | what all servers agree on: secret and format | [`agreement`] |
//! | where it is, and the settings | [`endpoint`], [`settings`], [`live`] |
//! | for commands and metrics | [`scan`], [`population`], [`memory`], [`servers`] |

pub(crate) mod acl;
mod activity;
mod agreement;
mod args;
mod bulk;
pub(crate) mod clock;
pub(crate) mod endpoint;
pub mod envelope;
pub mod errors;
mod import;
pub(crate) mod keys;
pub(crate) mod link;
mod listing;
pub(crate) mod live;
pub(crate) mod memory;
pub mod population;
pub mod probe;
mod requests;
mod retry;
mod room;
pub mod scan;
pub mod scripts;
pub(crate) mod servers;
mod sessions;
mod settings;
mod transfer;
pub mod writes;

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::task::AbortHandle;

use self::activity::{Touches, write_touches};
use self::agreement::Agreement;
use self::bulk::{Bulk, LARGE_BYTES};
use self::clock::Time;
use self::endpoint::{BadUrl, Endpoint};
use self::keys::Keys;
use self::link::{Link, Need};
use self::live::Live;
use self::probe::ServerInfo;
use self::requests::Requests;
use self::scripts::{Answer, Call, CallFault, ClockView, Policy, Scripts, Way};
use crate::store::StoreError;
use crate::telemetry::Event;

pub use self::settings::{DEFAULT_PREFIX, PasswordSource, Settings};

/// The store on Redis. Clones share it; with the last one its tasks end.
#[derive(Clone)]
pub struct RedisStore {
    inner: Arc<Inner>,
    _tasks: Arc<Tasks>,
}

struct Inner {
    settings: Settings,
    keys: Keys,
    scripts: Scripts,
    link: Link,
    bulk: Bulk,
    time: Arc<Time>,
    live: Arc<Live>,
    agreement: Arc<Agreement>,
    touches: Touches,
    writes: writes::Observed,
    room: room::Room,
    memory_refused: memory::Refused,
}

struct Tasks(Vec<AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl RedisStore {
    /// Starts the store's tasks on the current runtime and returns without waiting for Redis:
    /// [`crate::store::Link::wait_up`] does that, [`probe::probe`] finds out beforehand whether it can work.
    pub fn start(settings: Settings) -> Result<Self, BadUrl> {
        Self::start_with(settings, Scripts::default())
    }

    /// The same with other scripts ([`Scripts::with_clock`]).
    pub fn start_with(settings: Settings, scripts: Scripts) -> Result<Self, BadUrl> {
        let endpoint = Endpoint::parse(&settings.url)?
            .with_credentials(settings.username.as_deref(), settings.password.as_deref())?
            .asking(settings.password_source.clone());
        let time = Arc::new(Time::new(scripts.own_clock));
        let keys = Keys::new(settings.prefix.clone());
        let live = Arc::new(Live::new(settings.lifetimes, settings.live));
        let mut greeting: Vec<_> = scripts.all().iter().map(|script| script.load()).collect();
        let read_settings = live.request(&scripts, &keys);
        let follows = read_settings.is_some();
        greeting.extend(read_settings);
        greeting.extend(Agreement::requests(&keys));
        greeting.push(redis::cmd("TIME"));
        let (greeted, heartbeat) = (Arc::clone(&time), Arc::clone(&time));
        let (following, followed) = (Arc::clone(&live), Arc::clone(&live));
        let agreement = Arc::new(Agreement::new(settings.keyring.clone(), settings.newest_format));
        let agreeing = Arc::clone(&agreement);
        let bulk = Bulk::new(endpoint.clone(), settings.timing().connect);
        let (link, supervisor) = Link::new(
            endpoint,
            settings.timing(),
            greeting,
            move |mut answers, sent| {
                let time = answers.pop().unwrap_or(Value::Nil);
                greeted.observe_answer(&time, sent, following.lifetimes().idle_ms);
                let members = answers.pop().unwrap_or(Value::Nil);
                let secret = answers.pop().unwrap_or(Value::Nil);
                agreeing.follow([secret, members], greeted.now_ms())?;
                if follows {
                    following.take_in(answers.pop().unwrap_or(Value::Nil));
                }
                Ok(())
            },
            move |answer, sent| {
                heartbeat.observe_answer(answer, sent, followed.lifetimes().idle_ms);
            },
        );
        let inner = Arc::new(Inner {
            keys,
            live,
            agreement,
            settings,
            scripts,
            link,
            bulk,
            time,
            touches: Touches::default(),
            writes: writes::Observed::default(),
            room: room::Room::default(),
            memory_refused: memory::Refused::default(),
        });
        let writer = tokio::spawn(write_touches(Arc::clone(&inner)));
        let supervisor = tokio::spawn(supervisor);
        let mut tasks = vec![supervisor.abort_handle(), writer.abort_handle()];
        tasks.extend(live::task(&inner));
        tasks.extend(agreement::task(&inner));
        let tasks = Tasks(tasks);
        Ok(Self { inner, _tasks: Arc::new(tasks) })
    }

    /// How many requests were sent to Redis since the start, heartbeats included.
    pub fn round_trips(&self) -> u64 {
        self.inner.link.sent()
    }

    /// The last event of the link, in words.
    pub fn link_cause(&self) -> String {
        self.inner.link.cause()
    }

    /// Waits for a connection, whatever an outage's budget is. `false` if there is none by then.
    pub(crate) async fn is_there_within(&self, bound: Duration) -> bool {
        self.inner.link.up(tokio::time::Instant::now() + bound).await
    }

    /// How long the current outage lasts, if there is one.
    pub fn outage(&self) -> Option<Duration> {
        self.inner.link.outage()
    }

    /// Where Redis is, without credentials.
    pub fn address(&self) -> String {
        self.inner.link.address()
    }

    /// Which server answers now.
    pub async fn server(&self) -> Result<ServerInfo, StoreError> {
        let answer = self.inner.ask(redis::cmd("HELLO").arg(3)).await?;
        ServerInfo::read(&answer, self.address()).ok_or_else(|| {
            StoreError::Unreadable("an answer to HELLO with an unexpected format".into())
        })
    }
}

impl Inner {
    fn policy(&self) -> Policy {
        let lifetimes = self.live.lifetimes();
        let clock = if self.settings.ends_stale {
            self.time.view(lifetimes.idle_ms)
        } else {
            ClockView::Jumped { ahead_ms: 0 }
        };
        Policy {
            lifetimes,
            import_max_age_ms: self.settings.import_max_age_ms,
            formats: self.agreement.formats(),
            clock,
        }
    }

    fn requests(&self) -> Requests<'_> {
        self.requests_by(self.policy())
    }

    fn requests_by(&self, policy: Policy) -> Requests<'_> {
        Requests {
            scripts: &self.scripts,
            keys: &self.keys,
            policy,
            attempt_ms: self.settings.attempt_ms,
            now_ms: self.time.now_ms(),
        }
    }

    fn attempt(&self) -> Duration {
        Duration::from_millis(self.settings.attempt_ms)
    }

    /// Sends a command and waits as long as an answer may take on a link that is not down.
    async fn ask(&self, command: &redis::Cmd) -> Result<Value, StoreError> {
        let bound = Duration::from_millis(self.settings.down_after_ms);
        Ok(self.link.request(command, Need::Connected, bound).await?.value)
    }

    /// Sends a call, and uses what every answer carries: the time, and what has expired.
    async fn call(
        &self,
        call: &Call<'_>,
        need: Need,
        bound: Duration,
    ) -> Result<Answer, CallFault> {
        let large = call.length_bytes() > LARGE_BYTES;
        let way = if large { Way::BulkWrite(&self.bulk) } else { Way::Link(need) };
        self.heard(call.send(&self.link, way, bound).await)
    }

    /// The same, for a call whose answer may be large: by the second connection.
    async fn call_bulk(&self, call: &Call<'_>, bound: Duration) -> Result<Answer, CallFault> {
        self.heard(call.send(&self.link, Way::BulkRead(&self.bulk), bound).await)
    }

    fn heard(&self, sent: Result<Answer, CallFault>) -> Result<Answer, CallFault> {
        let answer = sent.inspect_err(|fault| {
            if let CallFault::Server(error, _) = fault {
                self.writes.error(error);
            }
        })?;
        self.time.observe(answer.now_ms, answer.sent_at, self.live.lifetimes().idle_ms);
        for ended in &answer.expired {
            Event::Expired {
                alias: &ended.alias,
                db: ended.header.content.db.as_deref(),
                uid: ended.header.content.uid,
                limit: &ended.limit,
                age_ms: ended.age_ms,
                idle_ms: ended.idle_ms,
            }
            .emit();
        }
        Ok(answer)
    }
}
