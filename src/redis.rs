//! Sessions in Redis: the link, the keys, the envelope and the scripts.
//!
//! [`RedisStore`] implements the port ([`crate::store`]): it turns each operation into one call of a
//! script and its answer into the filesystem's words. What the rules are is in `redis/scripts`; how
//! the connection is, in [`link`].

pub mod acl;
pub mod census;
pub mod clock;
pub mod endpoint;
pub mod envelope;
pub mod errors;
mod import;
pub mod keys;
pub mod link;
pub mod live;
pub mod memory;

pub mod population;
pub mod probe;
pub mod scripts;
pub mod servers;
mod touch;
pub mod writes;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use redis::{FromRedisValue as _, Value};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use self::clock::Clock;
use self::endpoint::{BadUrl, Endpoint};
use self::envelope::{Header, class_text, form_text, id_text, mode_text, text, uid_text};
use self::errors::ErrorCode;
use self::keys::Keys;
use self::link::{Link, Need, Timing};
use self::live::Live;
use self::probe::ServerInfo;
use self::scripts::{Answer, Call, CallFault, ClockView, Policy, Scripts};
use self::touch::Touches;
use crate::session::name::{Alias, Form, Shard};
use crate::session::policy::Lifetimes;
use crate::store::{
    Amend, Attempt, ChangeId, Health, Listed, Lookup, Meta, Mtime, Publish, Published, Refusal,
    RootListing, Sessions, Stamp, StoreError, Unlink, Unlinked, Waited,
};
use crate::sync::lock;
use crate::telemetry::Event;
use crate::telemetry::metrics::metrics;

/// How many members of a shard one step of a listing takes.
const PAGE: usize = 250;
/// How many shards are asked for their size at once.
const SHARDS_AT_ONCE: u16 = 512;
/// How many shards are listed side by side for the root.
const LISTED_AT_ONCE: usize = 8;
/// How many touches one call of the script carries.
const TOUCHES_AT_ONCE: usize = 100;

/// What the store is told at its start. All times are milliseconds.
#[derive(Clone)]
pub struct Settings {
    /// `redis://`, `rediss://` or `unix:`, with user, password and database.
    pub url: String,
    /// The user, unless the URL names one.
    pub username: Option<String>,
    /// The password, unless the URL holds one.
    pub password: Option<String>,
    /// Begins every key.
    pub prefix: String,
    /// When sessions end.
    pub lifetimes: Lifetimes,
    /// Connecting, authenticating and greeting take at most this long.
    pub connect_timeout_ms: u64,
    /// A request without an answer for this long puts the link in doubt; a look-up waits no longer.
    pub overdue_ms: u64,
    /// Without an answer for this long the link is down.
    pub down_after_ms: u64,
    /// One attempt of a change.
    pub attempt_ms: u64,
    /// All attempts of a change.
    pub retry_total_ms: u64,
    /// The longest single wait for a well link.
    pub wait_step_ms: u64,
    /// All waits of one outage, from its beginning.
    pub outage_budget_ms: u64,
    /// A wait asks a link that has been silent for this long.
    pub silent_ping_ms: u64,
    /// A link that has been silent for this long is asked anyway.
    pub heartbeat_ms: u64,
    /// Touches are collected for this long.
    pub touch_batch_ms: u64,
    /// What of this Redis overrides; `None`: nothing.
    pub live: Option<live::Rules>,
    /// Whether a session that is found over is ended. A command's configuration need not be that
    /// of the mounts, so it ends none.
    pub ends_stale: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379/0".into(),
            username: None,
            password: None,
            prefix: "sessionfs".into(),
            lifetimes: Lifetimes::default(),
            connect_timeout_ms: 1000,
            overdue_ms: 100,
            down_after_ms: 500,
            attempt_ms: 250,
            retry_total_ms: 1000,
            wait_step_ms: 2000,
            outage_budget_ms: 20_000,
            silent_ping_ms: 100,
            heartbeat_ms: 250,
            touch_batch_ms: 1000,
            live: None,
            ends_stale: true,
        }
    }
}

impl fmt::Debug for Settings {
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
    fn timing(&self) -> Timing {
        Timing {
            connect: Duration::from_millis(self.connect_timeout_ms),
            overdue: Duration::from_millis(self.overdue_ms),
            down_after: Duration::from_millis(self.down_after_ms),
            silent_ping: Duration::from_millis(self.silent_ping_ms),
            heartbeat: Duration::from_millis(self.heartbeat_ms),
            wait_step: Duration::from_millis(self.wait_step_ms),
            outage_budget: Duration::from_millis(self.outage_budget_ms),
        }
    }
}

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
    time: Arc<Time>,
    live: Arc<Live>,
    touches: Touches,
    writes: writes::Observed,
}

struct Tasks(Vec<AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Redis's clock as this node knows it, and when it last jumped.
struct Time {
    /// Whether the scripts ask that clock too (always, but in tests).
    real: bool,
    clock: Mutex<Clock>,
    jumped: Mutex<Option<Instant>>,
}

impl Time {
    fn new(real: bool) -> Self {
        Self { real, clock: Mutex::default(), jumped: Mutex::default() }
    }

    fn told(&self, now_ms: u64) {
        let now = Instant::now();
        let jump = lock(&self.clock).told(now_ms, now);
        if let Some(ahead_ms) = jump.filter(|_| self.real) {
            *lock(&self.jumped) = Some(now);
            tracing::warn!(
                event = "clock_jump",
                ahead_ms,
                "Redis's clock has jumped; for one idle time no session is judged stale"
            );
        }
    }

    /// `TIME` answers seconds and microseconds.
    fn told_by(&self, answer: &Value) {
        if !self.real {
            return;
        }
        if let Ok((seconds, micros)) = <(u64, u64)>::from_redis_value_ref(answer) {
            self.told(seconds.saturating_mul(1000).saturating_add(micros / 1000));
        }
    }

    /// 0 when nothing is known yet.
    fn now_ms(&self) -> u64 {
        let clock = lock(&self.clock);
        clock.at(Instant::now()).unwrap_or(0)
    }

    /// For one idle time after a jump nothing is judged stale.
    fn view(&self, idle_ms: u64) -> ClockView {
        let jumped = *lock(&self.jumped);
        if jumped.is_some_and(|at| at.elapsed() < Duration::from_millis(idle_ms)) {
            return ClockView::Jumped;
        }
        match self.now_ms() {
            0 => ClockView::Unknown,
            _ if !self.real => ClockView::Unknown,
            now_ms => ClockView::Expected(now_ms),
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
            .with_credentials(settings.username.as_deref(), settings.password.as_deref())?;
        let time = Arc::new(Time::new(scripts.own_clock));
        let keys = Keys::new(settings.prefix.clone());
        let live = Arc::new(Live::new(settings.lifetimes, settings.live));
        let mut greeting: Vec<_> = scripts.all().iter().map(|script| script.load()).collect();
        let question = live.question(&scripts.settings, &keys);
        let follows = question.is_some();
        greeting.extend(question);
        greeting.push(redis::cmd("TIME"));
        let (greeted, heard, following) = (Arc::clone(&time), Arc::clone(&time), Arc::clone(&live));
        let (link, supervisor) = Link::new(
            endpoint,
            settings.timing(),
            greeting,
            move |mut answers| {
                greeted.told_by(&answers.pop().unwrap_or(Value::Nil));
                if follows {
                    following.told(answers.pop().unwrap_or(Value::Nil));
                }
            },
            move |answer| heard.told_by(answer),
        );
        let inner = Arc::new(Inner {
            keys,
            live,
            settings,
            scripts,
            link,
            time,
            touches: Touches::default(),
            writes: writes::Observed::default(),
        });
        let writer = tokio::spawn(write_touches(Arc::clone(&inner)));
        let supervisor = tokio::spawn(supervisor);
        let mut tasks = vec![supervisor.abort_handle(), writer.abort_handle()];
        tasks.extend(live::task(&inner));
        let tasks = Tasks(tasks);
        Ok(Self { inner, _tasks: Arc::new(tasks) })
    }

    /// How many requests were sent to Redis since the start, heartbeats included.
    pub fn round_trips(&self) -> u64 {
        self.inner.link.sent()
    }

    /// What was last seen of the link, in words.
    pub fn link_cause(&self) -> String {
        self.inner.link.cause()
    }

    /// How long the current outage lasts, if there is one.
    pub fn outage(&self) -> Option<Duration> {
        self.inner.link.outage()
    }

    /// Where Redis is, without credentials.
    pub fn address(&self) -> String {
        self.inner.link.address()
    }

    /// Who answers there now.
    pub async fn server(&self) -> Result<ServerInfo, StoreError> {
        let answer = self.inner.ask(redis::cmd("HELLO").arg(3)).await?;
        ServerInfo::read(&answer, self.address())
            .ok_or_else(|| StoreError::Unreadable("an answer to HELLO of another shape".into()))
    }
}

impl Inner {
    fn policy(&self) -> Policy {
        let lifetimes = self.live.lifetimes();
        let clock = if self.settings.ends_stale {
            self.time.view(lifetimes.idle_ms)
        } else {
            ClockView::Jumped
        };
        Policy { lifetimes, clock }
    }

    fn attempt(&self) -> Duration {
        Duration::from_millis(self.settings.attempt_ms)
    }

    /// Sends a call, and takes in what every answer tells: the time, and what has expired.
    async fn call(
        &self,
        call: &Call<'_>,
        need: Need,
        bound: Duration,
    ) -> Result<Answer, CallFault> {
        let answer = call.send(&self.link, need, bound).await.inspect_err(|fault| {
            if let CallFault::Server(error, _) = fault {
                self.writes.error(error);
            }
        })?;
        self.time.told(answer.now_ms);
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

    /// Tries a change until it is answered, within the short total bound. From the second sending
    /// on it is a retry. `build` puts the call together for one attempt.
    async fn insist<'a>(
        &self,
        attempt: Attempt,
        build: impl Fn(bool) -> Call<'a>,
    ) -> Result<Answer, StoreError> {
        let mut retry = attempt == Attempt::Again;
        let deadline = Instant::now() + Duration::from_millis(self.settings.retry_total_ms);
        loop {
            // An outage that has outlived its budget is not waited for again by everybody.
            if !self.link.budget_spent() {
                self.link.up(deadline).await;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let bound = self.attempt().min(left).max(Duration::from_millis(1));
            let fault = match self.call(&build(retry), Need::Up, bound).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            match fault {
                CallFault::NotSent(text) => {
                    if self.link.budget_spent() || Instant::now() >= deadline {
                        return Err(StoreError::Unavailable(text));
                    }
                }
                CallFault::Lost(text) => {
                    retry = true;
                    if Instant::now() >= deadline {
                        return Err(StoreError::Unavailable(text));
                    }
                }
                CallFault::Server(error, generation) => {
                    // A replica: the master is looked for, and will take what this one did not.
                    let is_replica = error.code == ErrorCode::ReadOnly;
                    if !is_replica || !self.link.newer(generation, deadline).await {
                        return Err(error.into());
                    }
                }
                CallFault::Unreadable(error) => return Err(error),
            }
        }
    }

    /// A stamp made before Redis was ever heard of gets its time now that it is.
    fn first_ms(&self, stamp: &Stamp) -> String {
        let first_ms = if stamp.first_ms == 0 { self.time.now_ms() } else { stamp.first_ms };
        first_ms.to_string()
    }

    fn changing<'a>(
        &'a self,
        script: &'a scripts::Script,
        alias: &Alias,
        stamp: &Stamp,
        retry: bool,
    ) -> Call<'a> {
        let mut call = script.call(&self.policy());
        call.key(self.keys.session(alias))
            .key(self.keys.index(alias.shard()))
            .argument(alias.as_str())
            .argument(id_text(stamp.id))
            .argument(self.first_ms(stamp))
            .argument(if retry {
                "again".to_owned()
            } else {
                self.settings.attempt_ms.to_string()
            });
        call
    }

    async fn fetch(&self, alias: &Alias, listed: Option<&Alias>) -> Result<Lookup, StoreError> {
        let listed = listed.filter(|listed| listed.shard() == alias.shard());
        let mut call = self.scripts.fetch.call(&self.policy());
        call.key(self.keys.session(alias))
            .key(self.keys.index(alias.shard()))
            .key(self.keys.session(listed.unwrap_or(alias)))
            .argument(alias.as_str())
            .argument(listed.map_or("", Alias::as_str));
        let bound = Duration::from_millis(self.settings.overdue_ms);
        let mut answer = self.call(&call, Need::Well, bound).await?;
        match answer.status.as_str() {
            "session" => {
                let left_ms = answer.number()?;
                let value = Bytes::from(answer.bytes()?);
                let (header, content) = Header::parse(&value)?;
                Ok(Lookup::Session { meta: header.meta(left_ms), sealed: value.slice(content..) })
            }
            "alias" => Ok(Lookup::Alias { meta: meta(&mut answer)? }),
            "absent" => Ok(Lookup::Absent),
            _ => Err(answer.strange()),
        }
    }

    async fn publish(&self, publish: &Publish) -> Result<Published, StoreError> {
        let claim = &publish.claim;
        let sibling = claim.sibling.as_ref().filter(|s| s.shard() == publish.alias.shard());
        let content = &publish.content;
        let build = |retry| {
            let mut call =
                self.changing(&self.scripts.publish, &publish.alias, &publish.stamp, retry);
            call.key(self.keys.session(sibling.unwrap_or(&publish.alias)))
                .argument(class_text(content.class))
                .argument(uid_text(content.uid))
                .argument(text(content.db.as_deref()))
                .argument(text(content.login.as_deref()))
                .argument(publish.size_bytes.to_string())
                .argument(form_text(publish.form))
                .argument(claim.opened.map(id_text).unwrap_or_default())
                .argument(claim.own_unlink.map(id_text).unwrap_or_default())
                .argument(sibling.map_or("", Alias::as_str))
                .argument(flag(publish.background))
                .argument(flag(claim.after_failed_read))
                .bytes(&publish.sealed);
            call
        };
        let mut answer = self.insist(publish.stamp.attempt, build).await?;
        match answer.status.as_str() {
            "taken" => {
                self.writes.taken();
                Ok(Published::Taken(meta(&mut answer)?))
            }
            "superseded" => Ok(Published::Superseded),
            "refused" => Ok(Published::Refused(refusal(&answer.text()?))),
            _ => Err(answer.strange()),
        }
    }

    async fn unlink(&self, unlink: &Unlink) -> Result<Unlinked, StoreError> {
        let listed = unlink.listed.as_ref().filter(|l| l.shard() == unlink.alias.shard());
        let build = |retry| {
            let mut call = self.changing(&self.scripts.unlink, &unlink.alias, &unlink.stamp, retry);
            call.key(self.keys.session(listed.unwrap_or(&unlink.alias)))
                .argument(listed.map_or("", Alias::as_str));
            call
        };
        let mut answer = self.insist(unlink.stamp.attempt, build).await?;
        match answer.status.as_str() {
            "gone" => {
                let alias = answer.alias()?;
                let birth = envelope::parse_id(&answer.text()?).ok_or_else(|| answer.strange())?;
                Ok(Unlinked::Gone { alias, birth })
            }
            "absent" => Ok(Unlinked::Absent),
            "superseded" => Ok(Unlinked::Superseded),
            _ => Err(answer.strange()),
        }
    }

    async fn amend(&self, amend: &Amend) -> Result<Option<Meta>, StoreError> {
        let build = |retry| {
            let mut call = self.changing(&self.scripts.amend, &amend.alias, &amend.stamp, retry);
            call.argument(amend.mode.map(mode_text).unwrap_or_default()).argument(
                match amend.mtime {
                    None => String::new(),
                    Some(Mtime::Now) => "now".to_owned(),
                    Some(Mtime::Ns(ns)) => ns.to_string(),
                },
            );
            call
        };
        let mut answer = self.insist(amend.stamp.attempt, build).await?;
        match answer.status.as_str() {
            "taken" => Ok(Some(meta(&mut answer)?)),
            "absent" => Ok(None),
            _ => Err(answer.strange()),
        }
    }

    /// Writes activity of sessions of one shard; no time is no activity. Gives the number of those
    /// that live.
    async fn touch(
        &self,
        shard: Shard,
        touches: &[(Alias, Option<u64>)],
    ) -> Result<u64, StoreError> {
        let mut call = self.scripts.touch.call(&self.policy());
        call.key(self.keys.index(shard));
        for (alias, at_ms) in touches {
            call.key(self.keys.session(alias));
            let at_ms = at_ms.map(|ms| ms.to_string()).unwrap_or_default();
            call.argument(alias.as_str()).argument(at_ms);
        }
        let mut answer = self.call(&call, Need::Up, self.attempt()).await?;
        if answer.status != "done" {
            return Err(answer.strange());
        }
        metrics().activity_writes.inc_by(touches.len() as u64);
        answer.number()
    }

    /// Writes all that is collected; what could not be written stays. False if something did.
    async fn write_collected(self: &Arc<Self>) -> bool {
        let mut shards: BTreeMap<Shard, Vec<(Alias, Option<u64>)>> = BTreeMap::new();
        for (alias, at_ms) in self.touches.take() {
            shards.entry(alias.shard()).or_default().push((alias, Some(at_ms)));
        }
        let mut writing = JoinSet::new();
        for (shard, touches) in shards {
            for touches in touches.chunks(TOUCHES_AT_ONCE) {
                let guard = Unwritten { store: Arc::clone(self), touches: touches.to_vec() };
                writing.spawn(async move {
                    let mut guard = guard;
                    let written = guard.store.touch(shard, &guard.touches).await;
                    if matches!(written, Ok(_) | Err(StoreError::Unreadable(_))) {
                        guard.touches.clear();
                    }
                    guard.touches.is_empty()
                });
            }
        }
        let mut all = true;
        while let Some(written) = writing.join_next().await {
            all &= written.unwrap_or(false);
        }
        all
    }

    /// Members of a shard's index from `from` (a score) on: a page of them with their scores.
    async fn page(
        &self,
        shard: Shard,
        from: &str,
        count: usize,
    ) -> Result<Vec<(String, f64)>, StoreError> {
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(self.keys.index(shard)).arg(from).arg("+inf").arg("WITHSCORES");
        command.arg("LIMIT").arg(0).arg(count);
        let reply = self.ask(&command).await?;
        Vec::<(String, f64)>::from_redis_value(reply)
            .map_err(|_| StoreError::Unreadable("an index of another shape".into()))
    }

    async fn ask(&self, command: &redis::Cmd) -> Result<Value, StoreError> {
        let bound = Duration::from_millis(self.settings.down_after_ms);
        Ok(self.link.request(command, Need::Up, bound).await?.value)
    }

    /// Every alias in a shard's index. Exact while entries change: a score only ever grows, so
    /// going upwards by score meets every entry that stays, perhaps twice.
    async fn members(&self, shard: Shard) -> Result<Vec<Alias>, StoreError> {
        let mut found = HashSet::new();
        let mut from = "-inf".to_owned();
        let mut count = PAGE;
        loop {
            let page = self.page(shard, &from, count).await?;
            let full = page.len() >= count;
            let last = page.last().map(|(_, score)| score.to_string());
            found.extend(page.into_iter().filter_map(|(member, _)| {
                Alias::parse(&member).filter(|alias| alias.shard() == shard)
            }));
            match last {
                Some(last) if full => {
                    // More of one score than a page holds: a larger page.
                    count = if last == from { count.saturating_mul(2) } else { PAGE };
                    from = last;
                }
                _ => return Ok(found.into_iter().collect()),
            }
        }
    }

    /// The living among `aliases`, all of one shard.
    async fn living(&self, shard: Shard, aliases: &[Alias]) -> Result<Vec<Listed>, StoreError> {
        let living = self.living_by(&self.policy(), shard, aliases).await?;
        let listed = living
            .into_iter()
            .map(|living| Listed { meta: living.header.meta(living.left_ms), alias: living.alias });
        Ok(listed.collect())
    }

    async fn list(&self, shard: Shard) -> Result<Vec<Listed>, StoreError> {
        let members = self.members(shard).await?;
        let mut listed = Vec::with_capacity(members.len());
        for aliases in members.chunks(PAGE) {
            listed.append(&mut self.living(shard, aliases).await?);
        }
        Ok(listed)
    }

    /// Whether a shard has a living session saved under its sharded name, and its flat ones.
    async fn list_for_root(&self, shard: Shard) -> Result<(bool, Vec<Listed>), StoreError> {
        // Only ids of Odoo 14 to 17 can have a flat name: all of those have to be looked at. Of
        // the others one that lives is enough.
        let (short, long): (Vec<_>, Vec<_>) =
            self.members(shard).await?.into_iter().partition(|alias| alias.family().is_none());
        let mut sharded = false;
        let mut flat = Vec::new();
        for aliases in short.chunks(PAGE) {
            for listed in self.living(shard, aliases).await? {
                match listed.meta.form {
                    Form::Flat => flat.push(listed),
                    Form::Sharded => sharded = true,
                }
            }
        }
        for aliases in long.chunks(PAGE) {
            if sharded {
                break;
            }
            sharded = !self.living(shard, aliases).await?.is_empty();
        }
        Ok((sharded, flat))
    }

    async fn list_root(self: &Arc<Self>) -> Result<RootListing, StoreError> {
        let mut root = RootListing::default();
        let mut listing: JoinSet<Result<_, StoreError>> = JoinSet::new();
        for (shard, _) in self.shards_in_use().await? {
            if listing.len() >= LISTED_AT_ONCE {
                note_shard(&mut root, listing.join_next().await)?;
            }
            let store = Arc::clone(self);
            listing.spawn(async move { Ok((shard, store.list_for_root(shard).await?)) });
        }
        while let Some(listed) = listing.join_next().await {
            note_shard(&mut root, Some(listed))?;
        }
        root.shards.sort_unstable();
        Ok(root)
    }

    /// The shards whose index is not empty, and how many sessions each has. Those that have ended
    /// and were not asked for since are among them.
    async fn shards_in_use(&self) -> Result<Vec<(Shard, u64)>, StoreError> {
        let bound = Duration::from_millis(self.settings.down_after_ms);
        let all: Vec<Shard> = (0..Shard::COUNT).filter_map(Shard::from_index).collect();
        let mut in_use = Vec::new();
        for shards in all.chunks(usize::from(SHARDS_AT_ONCE)) {
            let mut questions = redis::pipe();
            for shard in shards {
                questions.cmd("ZCARD").arg(self.keys.index(*shard));
            }
            let reply = self.link.request_all(&questions, Need::Up, bound).await?;
            let sizes = Vec::<u64>::from_redis_value(reply.value)
                .ok()
                .filter(|sizes| sizes.len() == shards.len())
                .ok_or_else(|| StoreError::Unreadable("an index of another shape".into()))?;
            in_use.extend(shards.iter().copied().zip(sizes).filter(|(_, size)| *size > 0));
        }
        Ok(in_use)
    }
}

type ListedShard = Result<(Shard, (bool, Vec<Listed>)), StoreError>;

fn note_shard(
    root: &mut RootListing,
    listed: Option<Result<ListedShard, tokio::task::JoinError>>,
) -> Result<(), StoreError> {
    let Some(listed) = listed else { return Ok(()) };
    let (shard, (sharded, mut flat)) =
        listed.map_err(|error| StoreError::Unavailable(error.to_string()))??;
    if sharded {
        root.shards.push(shard);
    }
    root.flat.append(&mut flat);
    Ok(())
}

/// Touches on their way. What was not written goes back, also when the writing task is dropped.
struct Unwritten {
    store: Arc<Inner>,
    touches: Vec<(Alias, Option<u64>)>,
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        for (alias, at_ms) in self.touches.drain(..) {
            if let Some(at_ms) = at_ms {
                self.store.touches.put(&alias, at_ms);
            }
        }
    }
}

/// Writes the collected touches, batch after batch, for ever.
async fn write_touches(store: Arc<Inner>) {
    let pause = Duration::from_millis(store.settings.touch_batch_ms);
    loop {
        store.touches.bell.notified().await;
        tokio::time::sleep(pause).await;
        // What stays has rung the bell again when it was put back.
        store.write_collected().await;
    }
}

impl Sessions for RedisStore {
    async fn fetch(&self, alias: &Alias, listed: Option<&Alias>) -> Result<Lookup, StoreError> {
        self.inner.fetch(alias, listed).await
    }

    async fn publish(&self, publish: &Publish) -> Result<Published, StoreError> {
        self.inner.publish(publish).await
    }

    async fn unlink(&self, unlink: &Unlink) -> Result<Unlinked, StoreError> {
        self.inner.unlink(unlink).await
    }

    async fn amend(&self, amend: &Amend) -> Result<Option<Meta>, StoreError> {
        self.inner.amend(amend).await
    }

    async fn list(&self, shard: Shard) -> Result<Vec<Listed>, StoreError> {
        self.inner.list(shard).await
    }

    async fn list_root(&self) -> Result<RootListing, StoreError> {
        self.inner.list_root().await
    }

    fn touch(&self, alias: &Alias) {
        self.inner.touches.put(alias, self.inner.time.now_ms());
    }

    async fn touch_now(&self, alias: &Alias) -> Result<(), StoreError> {
        let at_ms = self.inner.time.now_ms();
        let written = self.inner.touch(alias.shard(), &[(alias.clone(), Some(at_ms))]).await;
        if matches!(written, Err(StoreError::Unavailable(_) | StoreError::Refused(_))) {
            self.inner.touches.put(alias, at_ms);
        }
        written.map(|_| ())
    }
}

impl crate::store::Link for RedisStore {
    fn stamp(&self) -> Stamp {
        Stamp {
            id: ChangeId(rand::random()),
            first_ms: self.inner.time.now_ms(),
            attempt: Attempt::First,
        }
    }

    fn health(&self) -> Health {
        self.inner.link.health()
    }

    fn is_fresh(&self) -> bool {
        self.inner.link.is_fresh()
    }

    async fn wait_up(&self) -> Waited {
        self.inner.link.wait_up().await
    }

    async fn drain(&self, bound: Duration) {
        // What is not written within the bound goes back to the collected ones.
        let _ = tokio::time::timeout(bound, self.inner.write_collected()).await;
    }
}

fn meta(answer: &mut Answer) -> Result<Meta, StoreError> {
    let left_ms = answer.number()?;
    Ok(answer.header()?.meta(left_ms))
}

fn flag(value: bool) -> &'static str {
    if value { "1" } else { "0" }
}

/// The codes that `publish.lua` gives; one of a later version is `Other`.
fn refusal(code: &str) -> Refusal {
    Refusal::ALL.iter().copied().find(|known| known.label() == code).unwrap_or(Refusal::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_script_is_a_refusal_and_every_refusal_has_its_code() {
        let script = include_str!("redis/scripts/publish.lua");
        let mut codes: Vec<_> = script
            .split("answer('refused', '")
            .skip(1)
            .filter_map(|rest| rest.split('\'').next())
            .collect();
        codes.sort_unstable();
        codes.dedup();
        let known = Refusal::ALL.iter().filter(|refusal| **refusal != Refusal::Other);
        let mut labels: Vec<_> = known.map(|refusal| refusal.label()).collect();
        labels.sort_unstable();
        assert_eq!(codes, labels);
        assert_eq!(refusal("of a later version"), Refusal::Other);
    }
}
