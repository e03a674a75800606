//! Sessions in Redis: the adapter that implements the port [`crate::store`].
//!
//! | what | where |
//! |---|---|
//! | what is sent: every request, its arguments, the keys | [`requests`], [`args`], [`keys`] |
//! | the rules of sessions, in Lua, and the value's header line | [`scripts`], [`rules`], [`owners`], [`envelope`] |
//! | what the answers mean: one session, listings, files that are imported | [`sessions`], [`listing`], [`import`] |
//! | activity, collected and written in batches | [`activity`] |
//! | several sessions in one call, and each by itself where a slot is moved | [`several`] |
//! | how often a change is sent | [`retry`] |
//! | large contents: the second connection, and what is read by it | [`bulk`], [`transfer`] |
//! | one server that takes writes, and which one has a key | [`primary`], [`primaries`] |
//! | its connection, its health, its clock, its errors | [`link`], [`greeting`], [`clock`], [`errors`] |
//! | what the next worker has to know of it | [`kept`] |
//! | what a server tells of changes | [`tracking`] |
//! | room for those who are logged in, when it is full | [`room`] |
//! | the audit trail: what was done, what is over, and who writes it | [`outbox`], [`sweep`], [`auditor`] |
//! | whether writes are taken, and whether Redis can serve at all | [`writes`], [`probe`], [`admission`], [`acl`] |
//! | what all servers agree on: secret and format | [`agreement`] |
//! | where it is, and how it is connected to | [`endpoint`], [`access`], [`credentials`] |
//! | which server that is now | [`target`], [`sentinel`], [`cluster`] |
//! | the settings | [`settings`], [`live`] |
//! | for commands, metrics and Odoo's socket | [`scan`], [`ending`], [`population`], [`memory`], [`servers`], [`deployment`] |

pub(crate) mod access;
pub(crate) mod acl;
mod activity;
mod admission;
mod agreement;
mod args;
mod auditor;
mod bulk;
pub(crate) mod clock;
pub(crate) mod cluster;
pub(crate) mod credentials;
pub(crate) mod deployment;
pub(crate) mod ending;
pub(crate) mod endpoint;
pub mod envelope;
pub mod errors;
mod greeting;
mod headers;
mod import;
mod index;
mod kept;
pub(crate) mod keys;
pub mod latest;
pub(crate) mod link;
mod listing;
pub(crate) mod live;
pub(crate) mod memory;
mod outbox;
mod owners;
pub mod population;
mod primaries;
mod primary;
pub mod probe;
mod requests;
mod retry;
mod room;
mod rules;
pub mod scan;
pub mod scripts;
pub(crate) mod search;
pub(crate) mod sentinel;
pub(crate) mod servers;
mod sessions;
mod settings;
mod several;
mod sweep;
mod system_certificates;
mod target;
mod tracking;
mod transfer;
pub mod writes;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::cluster_routing::Slot;
use redis::{Cmd, FromRedisValue as _, Value};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use self::activity::{Touches, write_touches};
use self::agreement::Agreement;
use self::bulk::LARGE_BYTES;
use self::endpoint::{BadUrl, Place};
use self::errors::ErrorCode;
use self::greeting::Greeter;
use self::keys::Keys;
use self::link::{Fault, Need};
use self::live::Live;
use self::owners::Owners;
use self::primaries::{Primaries, Redirect};
use self::primary::{Common, Primary};
use self::probe::ServerInfo;
use self::requests::{Indexes, Requests};
use self::scripts::{Answer, Call, CallFault, ClockView, Policy, Scripts, Way};
use self::sentinel::Sentinels;
use self::tracking::Tracking;
use crate::handoff::Kept;
use crate::session::name::Shard;
use crate::session::policy::rules::Rules;
use crate::store::{Changes, Health, StoreError, held_in_store_ms};
use crate::telemetry::metrics::metrics;

pub use self::admission::Admission;
pub use self::auditor::Keeping;
pub use self::credentials::{Credential, Credentials};
pub use self::outbox::Origin;
pub use self::settings::{DEFAULT_PREFIX, Settings};

/// The store on Redis. Clones share it; with the last one its tasks end.
#[derive(Clone)]
pub struct RedisStore {
    inner: Arc<Inner>,
    _tasks: Arc<Tasks>,
}

struct Inner {
    owners: Owners,
    settings: Settings,
    keys: Keys,
    scripts: Arc<Scripts>,
    /// Where Redis is, without credentials.
    address: String,
    primaries: Arc<Primaries>,
    /// Those that are asked for the master.
    sentinels: Option<Sentinels>,
    live: Arc<Live>,
    agreement: Arc<Agreement>,
    touches: Touches,
    room: room::Room,
    tracking: Arc<Tracking>,
    /// For the audit trail: where the scripts say what has happened, and for whom they are called.
    outbox: String,
    origin: String,
    /// The auditor of this server, if it has one.
    auditor: OnceLock<auditor::Handle>,
}

/// Commands for one primary, each with its place among all, and its slot.
struct Part {
    primary: Arc<Primary>,
    commands: Vec<(usize, Slot, Cmd)>,
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
        let endpoint = settings.endpoint()?;
        let keys = Keys::new(settings.prefix.clone());
        let scripts = Arc::new(scripts);
        let tracking = Arc::new(Tracking::new(keys.clone(), settings.tracks_changes));
        // More rules than there can be were refused when they were configured.
        let own = Rules::new(settings.lifetimes, settings.rules.clone())
            .unwrap_or_else(|_| settings.lifetimes.into());
        let live = Arc::new(Live::new(own, settings.live));
        let agreement = Arc::new(Agreement::new(&settings));
        let common = Arc::new(Common {
            timing: settings.timing(),
            greeter: Greeter::new(&keys, &scripts, &live, &agreement, &settings.admission),
            live: Arc::clone(&live),
            tracking: Arc::clone(&tracking),
            asks_role: matches!(endpoint.place, Place::Sentinel { .. }),
            real_clock: scripts.own_clock,
        });
        let (address, credentials) = (endpoint.to_string(), settings.credentials.clone());
        let (primaries, finder) = primaries::start(&endpoint, &settings.credentials, &common);
        let outbox = if primaries.is_cluster() { keys.outboxes() } else { keys.outbox() };
        let inner = Arc::new(Inner {
            outbox,
            origin: settings.origin.words(),
            auditor: OnceLock::new(),
            owners: Owners::default(),
            keys,
            live,
            agreement,
            settings,
            scripts,
            address,
            primaries,
            sentinels: Sentinels::of(&endpoint, &credentials),
            touches: Touches::default(),
            room: room::Room::default(),
            tracking,
        });
        let writer = tokio::spawn(write_touches(Arc::clone(&inner)));
        let mut tasks = vec![writer.abort_handle()];
        tasks.extend(finder);
        tasks.extend(live::task(&inner));
        tasks.extend(agreement::task(&inner));
        let tasks = Tasks(tasks);
        Ok(Self { inner, _tasks: Arc::new(tasks) })
    }

    /// Tells `hearer` of changes from now on, where [`Settings::tracks_changes`].
    pub(crate) fn tell_changes(&self, hearer: Arc<dyn Changes>) {
        self.inner.tracking.tell(hearer);
    }

    /// How many requests were sent to Redis since the start, heartbeats included.
    pub fn round_trips(&self) -> u64 {
        let sent = |primary: &Arc<Primary>| primary.link.sent() + primary.bulk.sent();
        self.inner.primaries.all().iter().map(sent).sum()
    }

    /// The last event of the link, in words.
    pub fn link_cause(&self) -> String {
        self.inner.primaries.worst().link.cause()
    }

    /// Waits for a connection, whatever an outage's budget is. `false` if there is none by then.
    pub(crate) async fn is_there_within(&self, bound: Duration) -> bool {
        self.inner.primaries.up(Instant::now() + bound).await
    }

    /// Nobody has waited for Redis until now: what the start took is no outage.
    pub(crate) fn forget_outages(&self) {
        for primary in self.inner.primaries.all() {
            primary.link.forget_outages();
        }
    }

    /// Goes on with what the worker before has known, and not written, and leaves as much to the next one.
    pub fn take_up(&self, kept: &Kept) {
        self.inner.primaries.take_up(kept);
        self.inner.touches.take_up(kept);
    }

    /// Names what sessions are kept in: another name is another store. Holds no password.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.inner.address, self.inner.settings.prefix)
    }

    /// How long the current outage lasts, if there is one: sessions cannot be read.
    pub fn outage(&self) -> Option<Duration> {
        self.inner.primaries.outage(false)
    }

    /// The same for all sessions: a Cluster that has lost one server serves those of the others.
    pub fn whole_outage(&self) -> Option<Duration> {
        self.inner.primaries.whole_outage()
    }

    /// Where Redis is, without credentials.
    pub fn address(&self) -> String {
        self.inner.address.clone()
    }

    /// Which server answers now.
    pub async fn server(&self) -> Result<ServerInfo, StoreError> {
        let primary = self.inner.primaries.worst();
        let answer = self.inner.ask_primary(&primary, redis::cmd("HELLO").arg(3)).await?;
        ServerInfo::read(&answer, self.address()).ok_or_else(|| {
            StoreError::Unreadable("an answer to HELLO with an unexpected format".into())
        })
    }
}

impl Inner {
    /// The primary that has the sessions of a shard.
    fn primary_of(&self, shard: Shard) -> Arc<Primary> {
        self.primaries.of(Keys::slot(shard))
    }

    fn policy(&self, primary: &Primary) -> Policy<'_> {
        let lifetimes = self.live.judged();
        let knows_former = !self.settings.takes_up || primary.has_taken_up();
        let clock = if self.settings.ends_stale && knows_former && self.knows_settings() {
            primary.time.view(lifetimes.longest_idle_ms)
        } else {
            ClockView::NotJudged
        };
        // Another clock than the server's own passes by itself.
        let link = self.scripts.own_clock.then_some(&primary.link);
        let ms = |time: Option<Duration>| {
            u64::try_from(time.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
        };
        Policy {
            lifetimes,
            owner: Arc::default(),
            import_max_age_ms: self.settings.import_max_age_ms,
            formats: self.agreement.formats(),
            clock,
            waited_ms: ms(link.map(link::Link::waited)),
            unwritten_ms: ms(link.map(link::Link::unwritten)),
            outbox: &self.outbox,
            origin: &self.origin,
        }
    }

    /// Whether a change of the live settings would be known. In a Cluster another server than that of
    /// a session may have them; while it is away, nothing is judged stale.
    fn knows_settings(&self) -> bool {
        !self.primaries.is_cluster()
            || self.primaries.of(self.slot_of_settings()).link.health() == Health::Up
    }

    /// What is sent to this primary, by its clock.
    fn requests(&self, primary: &Primary) -> Requests<'_> {
        Requests {
            scripts: &self.scripts,
            keys: &self.keys,
            policy: self.policy(primary),
            attempt_ms: self.settings.attempt_ms,
            now_ms: primary.time.now_ms(),
            hold_ms: held_in_store_ms(self.settings.outage_budget_ms),
            indexes: Indexes::Likely,
        }
    }

    fn attempt(&self) -> Duration {
        Duration::from_millis(self.settings.attempt_ms)
    }

    /// How long an answer may take on a link that is not down.
    fn patience(&self) -> Duration {
        Duration::from_millis(self.settings.down_after_ms)
    }

    /// Sends a command to the primary of its key and waits for the answer.
    async fn ask(&self, slot: Slot, command: &Cmd) -> Result<Value, StoreError> {
        let mut answers = self.ask_all(vec![(slot, command.clone())], Need::Connected).await?;
        answers.pop().ok_or_else(|| StoreError::Unreadable("no answer".into()))
    }

    async fn ask_primary(&self, primary: &Primary, command: &Cmd) -> Result<Value, StoreError> {
        Ok(primary.link.request(command, Need::Connected, self.patience()).await?.value)
    }

    /// Sends several commands at once, each to the primary of its key; the answers are in the same
    /// order.
    async fn ask_all(
        &self,
        commands: Vec<(Slot, Cmd)>,
        need: Need,
    ) -> Result<Vec<Value>, StoreError> {
        self.ask_parts(commands, Way::Link(need)).await
    }

    /// The same, for commands that read indexes, of which there may be thousands: by the second connection.
    async fn ask_indexes(&self, commands: Vec<(Slot, Cmd)>) -> Result<Vec<Value>, StoreError> {
        // The second one takes room in a server that may be full: only where Redis remembers what was read by the first.
        let told = self.settings.tracks_changes;
        let way = if told { Way::BulkRead } else { Way::Link(Need::Connected) };
        self.ask_parts(commands, way).await
    }

    async fn ask_parts(
        &self,
        commands: Vec<(Slot, Cmd)>,
        way: Way,
    ) -> Result<Vec<Value>, StoreError> {
        let mut answers = Vec::new();
        for part in self.parts(commands) {
            // Boxed: whoever asks would be as large as all that it may come to.
            answers.extend(Box::pin(self.ask_part(part, way)).await?);
        }
        answers.sort_by_key(|(place, _)| *place);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }

    /// Commands by the primary that has their keys.
    fn parts(&self, commands: Vec<(Slot, Cmd)>) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for (place, (slot, command)) in commands.into_iter().enumerate() {
            let primary = self.primaries.of(slot);
            let known = parts.iter().position(|part| Arc::ptr_eq(&part.primary, &primary));
            let part = known.unwrap_or_else(|| {
                parts.push(Part { primary, commands: Vec::new() });
                parts.len() - 1
            });
            parts[part].commands.push((place, slot, command));
        }
        parts
    }

    /// Sends the commands for one primary. Where another one has a key by now, each is sent by
    /// itself.
    async fn ask_part(&self, part: Part, way: Way) -> Result<Vec<(usize, Value)>, StoreError> {
        let Part { primary, commands } = part;
        let need = if let Way::Link(need) = way { need } else { Need::Connected };
        let mut pipeline = redis::pipe();
        for (_, _, command) in &commands {
            pipeline.add_command(command.clone());
        }
        let bound = self.patience();
        let by_link = || primary.link.request_all(&pipeline, need, bound);
        let answered = match way {
            Way::BulkRead => match primary.bulk.read_all(&primary.link, &pipeline, bound).await {
                // Redis takes no further connection: the first one has to do.
                Err(Fault::NotSent(_)) => by_link().await,
                answered => answered,
            },
            _ => by_link().await,
        };
        let reply = match answered {
            Err(Fault::Server(error, _))
                if error.code.redirects() && self.primaries.is_cluster() =>
            {
                let mut answers = Vec::new();
                for (place, slot, command) in commands {
                    let answer = Box::pin(self.ask_redirected(slot, &command, need)).await?;
                    answers.push((place, answer));
                }
                return Ok(answers);
            }
            reply => reply?,
        };
        let answers = Vec::<Value>::from_redis_value(reply.value).unwrap_or_default();
        if answers.len() != commands.len() {
            return Err(StoreError::Unreadable("answers of an unexpected format".into()));
        }
        Ok(commands.into_iter().map(|(place, ..)| place).zip(answers).collect())
    }

    /// Sends a command to whoever has its key, and again where that is another one by then.
    async fn ask_redirected(
        &self,
        slot: Slot,
        command: &Cmd,
        need: Need,
    ) -> Result<Value, StoreError> {
        let deadline = Instant::now() + self.patience();
        let mut asking: Option<Arc<Primary>> = None;
        loop {
            let (bound, given) = (self.patience(), asking.take());
            let sent = match &given {
                Some(primary) => primary.link.request_asking(command, need, bound).await,
                None => self.primaries.of(slot).link.request(command, need, bound).await,
            };
            match sent {
                Err(Fault::Server(error, generation)) if error.code.redirects() => {
                    match self.primaries.redirect(&error, deadline).await {
                        Some(Redirect::Again) => {}
                        Some(Redirect::Asking(primary)) => asking = Some(primary),
                        None => return Err(Fault::Server(error, generation).into()),
                    }
                }
                sent => return Ok(sent?.value),
            }
        }
    }

    /// Sends a call to the primary of its keys, and uses what every answer carries: the time, and
    /// what has expired.
    async fn call<'a>(
        &'a self,
        slot: Slot,
        need: Need,
        bound: Duration,
        build: impl Fn(Requests<'a>) -> Call<'a>,
    ) -> Result<Answer, CallFault> {
        let way = |call: &Call<'_>| {
            let large = call.length_bytes() > LARGE_BYTES;
            if large { Way::BulkWrite } else { Way::Link(need) }
        };
        self.call_by(slot, way, bound, bound, build).await
    }

    /// The same, for a call that is repeated no longer than `parted` while its keys are on two servers.
    async fn call_parted<'a>(
        &'a self,
        slot: Slot,
        bound: Duration,
        parted: Duration,
        way: Way,
        build: impl Fn(Requests<'a>) -> Call<'a>,
    ) -> Result<Answer, CallFault> {
        self.call_by(slot, |_| way, bound, parted, build).await
    }

    /// The same, for a call whose answer may be large: by the second connection.
    async fn call_bulk<'a>(
        &'a self,
        slot: Slot,
        bound: Duration,
        build: impl Fn(Requests<'a>) -> Call<'a>,
    ) -> Result<Answer, CallFault> {
        self.call_by(slot, |_| Way::BulkRead, bound, bound, build).await
    }

    /// Sends a call, and again where another primary has its keys by then.
    async fn call_by<'a>(
        &'a self,
        slot: Slot,
        way: impl Fn(&Call<'_>) -> Way,
        bound: Duration,
        parted: Duration,
        build: impl Fn(Requests<'a>) -> Call<'a>,
    ) -> Result<Answer, CallFault> {
        let deadline = Instant::now() + bound;
        let parted_until = Instant::now() + parted;
        let mut asking: Option<Arc<Primary>> = None;
        let (mut indexes, mut within) = (Indexes::Likely, bound);
        loop {
            let given = asking.take();
            let primary = given.clone().unwrap_or_else(|| self.primaries.of(slot));
            let requests = Requests { indexes, ..self.requests(&primary) };
            // An outbox there would be in the way of the one that is still to be moved to it.
            let requests = if given.is_some() { requests.telling_in_answers() } else { requests };
            let call = build(requests);
            let way = if given.is_some() { Way::Asking(Need::Connected) } else { way(&call) };
            match self.call_primary(&primary, &call, way, within).await {
                Err(CallFault::Server(error, generation)) if error.code.redirects() => {
                    let is_parted = error.code == ErrorCode::TryAgain;
                    let until = if is_parted { parted_until } else { deadline };
                    match Box::pin(self.primaries.redirect(&error, until)).await {
                        Some(Redirect::Again) => {}
                        Some(Redirect::Asking(primary)) => asking = Some(primary),
                        None => return Err(CallFault::Server(error, generation)),
                    }
                }
                Err(CallFault::OtherIndex) if indexes != Indexes::All => {
                    (indexes, asking) = (indexes.next(), given);
                    // All of it together takes no longer than one call may, or little.
                    let left = deadline.saturating_duration_since(Instant::now());
                    within = left.max(bound / 4);
                }
                sent => return sent,
            }
        }
    }

    async fn call_primary(
        &self,
        primary: &Primary,
        call: &Call<'_>,
        way: Way,
        bound: Duration,
    ) -> Result<Answer, CallFault> {
        let sent = call.send(primary, way, bound).await;
        let answer = sent?;
        primary.time.observe(answer.now_ms, answer.sent_at, self.live.longest_idle_ms());
        // The server does not tell us of what we have changed.
        for alias in answer.ended.iter().chain(answer.expired.iter().map(|ended| &ended.alias)) {
            self.tracking.changed(alias);
        }
        for words in &answer.untold {
            // Boxed: it is rare, and every call would be as large.
            Box::pin(self.note_untold(words, answer.now_ms)).await;
        }
        for ended in &answer.expired {
            metrics().session_expired(&ended.limit);
        }
        answer.or_fault(&primary.link)
    }
}
