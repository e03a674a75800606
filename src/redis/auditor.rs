//! Keeps the audit trail: of all servers one has the lease on it, ends what is over ([`super::sweep`]), and writes what
//! is in the outbox ([`super::outbox`]). A server with a file goes before one that has the log alone.

use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::FromRedisValue as _;
use redis::cluster_routing::Slot;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::link::Need;
use super::outbox::Page;
use super::requests::Requests;
use super::sweep::{STEP, Sweep};
use super::{Inner, RedisStore};
use crate::session::policy::rules::Rules;
use crate::store::{Health, StoreError};
use crate::trail::Trail;
use crate::trail::entry::{Entry, Event};

/// How often others ask for the lease in the time that it lasts.
const ASKED: u32 = 4;
/// How many pages of the outbox are written in one step.
const PAGES: usize = 20;
/// How often it is said what holds.
const STATE_EVERY: Duration = Duration::from_secs(60 * 60);
/// How many entries wait that the outbox has not taken.
pub(super) const UNTOLD: usize = 1000;

/// How the auditor of this server is reached.
pub(super) struct Handle {
    untold: mpsc::Sender<Entry>,
    leave: mpsc::Sender<oneshot::Sender<()>>,
    trail: Trail,
}

/// Who writes the trail of all servers now, and what waits for that.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Keeping {
    /// The host; `None`: nobody.
    pub writer: Option<String>,
    /// That one has a file, or a socket.
    pub has_file: bool,
    /// Entries that wait in Redis.
    pub waiting: u64,
}

/// Of one server.
struct Auditor {
    store: Weak<Inner>,
    trail: Trail,
    /// Names this server, this time.
    holder: String,
    /// How long the lease lasts.
    lease: Duration,
    /// Since when the lease was last known to be ours.
    held: Option<Instant>,
    asked: Option<Instant>,
    /// It was gone while it was ours, and it is not known yet whether all else is, too.
    is_lease_lost: bool,
    sweep: Sweep,
    /// What was said last to hold, and when.
    said: Option<(Arc<Rules>, Instant)>,
    /// How many sessions of people there were, as far as is known, and when they were counted.
    people: Option<(u64, u64)>,
    /// What the outbox has not taken, of this server.
    untold: mpsc::Receiver<Entry>,
    /// Who waits until another server may have the lease.
    leave: mpsc::Receiver<oneshot::Sender<()>>,
    unwritten: Vec<Entry>,
    /// Since when nothing is ended, and why.
    nothing_ends: Option<(Instant, &'static str)>,
    /// It was seen once that something is.
    has_ended: bool,
}

impl RedisStore {
    /// Takes part in keeping the audit trail, until the store ends.
    pub fn keep_trail(&self, trail: Trail) {
        let (untold_to, untold) = mpsc::channel(UNTOLD);
        let (leave_to, leave) = mpsc::channel(1);
        let handle = Handle { untold: untold_to, leave: leave_to, trail: trail.clone() };
        if self.inner.auditor.set(handle).is_err() {
            return;
        }
        let origin = &self.inner.settings.origin.server;
        let auditor = Auditor {
            store: Arc::downgrade(&self.inner),
            trail,
            holder: format!("{origin}/{:016x}", rand::random::<u64>()),
            lease: Duration::from_millis(self.inner.settings.trail_lease_ms),
            held: None,
            asked: None,
            is_lease_lost: false,
            sweep: Sweep::default(),
            said: None,
            people: None,
            untold,
            leave,
            unwritten: Vec::new(),
            nothing_ends: None,
            has_ended: false,
        };
        tokio::spawn(auditor.run());
    }

    /// Who writes the trail now.
    pub async fn trail_keeping(&self) -> Result<Keeping, StoreError> {
        let inner = &self.inner;
        let key = inner.keys.lease();
        let lease = inner.ask(Slot::for_key(&key), redis::cmd("GET").arg(&key)).await?;
        let lease = Option::<String>::from_redis_value(lease).ok().flatten().unwrap_or_default();
        let (writer, has_file) = holder(&lease, inner.now_of_servers_ms()).unzip();
        let waiting = inner.waiting().await?;
        Ok(Keeping { writer, has_file: has_file.unwrap_or(false), waiting })
    }

    /// Whether this server's file takes entries, as far as is known; without one, the log does.
    pub(crate) fn takes_trail(&self) -> bool {
        self.inner.auditor.get().is_some_and(|auditor| auditor.trail.takes())
    }

    /// Writes what there is, and gives up the lease: another server may have it at once.
    pub async fn leave_trail(&self) {
        let Some(Handle { leave, .. }) = self.inner.auditor.get() else { return };
        let (done, is_done) = oneshot::channel();
        // Where it does not listen any more, the lease ends by itself.
        if leave.send(done).await.is_ok() {
            let _ = is_done.await;
        }
    }
}

/// The host that has the lease, and whether it has a file: what `lease.lua` writes.
fn holder(lease: &str, now_ms: u64) -> Option<(String, bool)> {
    let mut words = lease.splitn(3, ' ');
    let (rank, until_ms, holder) = (words.next()?, words.next()?, words.next()?);
    let is_held = until_ms.parse::<u64>().is_ok_and(|until_ms| until_ms > now_ms);
    let (host, _) = holder.rsplit_once('/').filter(|_| is_held)?;
    Some((host.to_owned(), rank == "2"))
}

/// What became of a request for the lease.
#[derive(Debug, Eq, PartialEq)]
enum Lease {
    Mine,
    /// The same, and it goes on as it was.
    Kept,
    Taken,
    /// Nobody had it, as far as Redis knows.
    Alone,
    Other,
}

impl Auditor {
    async fn run(mut self) {
        let mut steps = interval(STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let left = tokio::select! {
                _ = steps.tick() => None,
                left = self.leave.recv() => left,
            };
            let Some(store) = self.store.upgrade() else { return };
            if let Err(error) = self.step(&store).await {
                tracing::debug!(%error, "the audit trail waits");
            }
            if let Some(left) = left {
                self.leave(&store).await;
                // Whoever has asked for it may have gone.
                let _ = left.send(());
            }
        }
    }

    /// Gives up the lease, and leaves others the time to take it.
    async fn leave(&mut self, store: &Inner) {
        if self.held.take().is_some() {
            // It ends by itself.
            let _ = store.lease(&self.holder, 0, self.lease).await;
        }
        self.asked = Some(Instant::now() + self.lease);
    }

    async fn step(&mut self, store: &Arc<Inner>) -> Result<(), StoreError> {
        self.look_what_ends(store);
        self.write_untold().await;
        if store.primaries.health(None) > Health::ReadOnly || !store.live.is_known() {
            return Ok(());
        }
        self.ask(store).await?;
        if self.held.is_none() {
            return Ok(());
        }
        if self.is_lease_lost {
            self.look_what_is_lost(store).await?;
        }
        // Before what takes longer: another server may have the lease by then.
        self.write_outbox(store).await?;
        self.say_what_holds(store).await?;
        let (shards, swept) = store.sweep(&mut self.sweep).await;
        // Also where a slot that is being moved keeps sessions from being judged.
        if store.primaries.is_cluster() {
            for page in store.outboxes_of(&shards).await? {
                self.write(store, &page).await?;
            }
        }
        swept
    }

    /// Says for how long nothing was ended, when that is over. A start is no such time.
    fn look_what_ends(&mut self, store: &Inner) {
        let why = store.why_nothing_ends();
        self.has_ended |= why.is_none();
        match (self.nothing_ends, why) {
            (None, Some(why)) if self.has_ended => self.nothing_ends = Some((Instant::now(), why)),
            (Some((since, reason)), None) => {
                self.nothing_ends = None;
                let lasted = since.elapsed();
                if lasted > 2 * STEP && self.unwritten.len() < UNTOLD {
                    let lasted_ms = u64::try_from(lasted.as_millis()).ok();
                    let reason = Some(reason.to_owned());
                    let entry = store.entry(Event::NothingEnded);
                    self.unwritten.push(Entry { reason, lasted_ms, ..entry });
                }
            }
            _ => {}
        }
    }

    /// Takes or renews the lease. Who has it asks in each step, so that no two write at the same time.
    async fn ask(&mut self, store: &Inner) -> Result<(), StoreError> {
        let is_soon = |asked: Instant| asked + self.lease / ASKED > Instant::now();
        if self.held.is_none() && self.asked.is_some_and(is_soon) {
            return Ok(());
        }
        self.asked = Some(Instant::now());
        let rank = if self.trail.has_file() { 2 } else { 1 };
        let sent = Instant::now();
        let lease = store.lease(&self.holder, rank, self.lease).await;
        let before = self.held.filter(|held| held.elapsed() < self.lease);
        match lease? {
            Lease::Other => {
                (self.held, self.said) = (None, None);
                return Ok(());
            }
            // Nobody takes it away while it is held; it ends with all other keys of that Redis, or somebody has deleted it.
            Lease::Alone if before.is_some() => self.is_lease_lost = true,
            Lease::Taken | Lease::Alone => {
                tracing::debug!("this server writes the audit trail");
                (self.sweep, self.said) = (Sweep::default(), None);
            }
            Lease::Kept => return Ok(()),
            Lease::Mine => {}
        }
        self.held = Some(sent);
        Ok(())
    }

    /// Says that Redis has lost what it held, unless most sessions of people are still there: then it was the lease alone.
    async fn look_what_is_lost(&mut self, store: &Arc<Inner>) -> Result<(), StoreError> {
        let left = store.population().await?.authenticated;
        let before = self.people.map(|(people, _)| people);
        self.is_lease_lost = false;
        if left > before.unwrap_or(0) / 2 {
            tracing::debug!("the lease on the audit trail was deleted");
            return Ok(());
        }
        let reason =
            "the lease on the trail was not there any more, nor were the sessions".to_owned();
        self.say(Entry {
            reason: Some(reason),
            count: before.map(|before| before - left),
            ..store.entry(Event::RedisLost)
        })
        .await;
        (self.sweep, self.said) = (Sweep::default(), None);
        Ok(())
    }

    /// Says which lifetimes hold, and how many sessions live: at the beginning, when they change, and now and then.
    async fn say_what_holds(&mut self, store: &Arc<Inner>) -> Result<(), StoreError> {
        let rules = store.live.judged().rules;
        let is_said =
            |(said, at): &(Arc<Rules>, Instant)| *said == rules && at.elapsed() < STATE_EVERY;
        if self.said.as_ref().is_some_and(is_said) {
            return Ok(());
        }
        let at_ms = store.now_of_servers_ms();
        let population = store.population().await?;
        self.people = Some((population.authenticated, at_ms));
        self.said = Some((Arc::clone(&rules), Instant::now()));
        let entry = Entry {
            authenticated: Some(population.authenticated),
            anonymous: Some(population.anonymous),
            lifetimes: Some(*rules.general()),
            rules: rules.all().to_vec(),
            ..store.entry(Event::State)
        };
        self.say(entry).await;
        Ok(())
    }

    /// Writes an entry of our own, now or with the next step.
    async fn say(&mut self, entry: Entry) {
        if self.unwritten.len() < UNTOLD {
            self.unwritten.push(entry);
        }
        self.write_untold().await;
    }

    /// Writes what the outbox has not taken.
    async fn write_untold(&mut self) {
        while self.unwritten.len() < UNTOLD
            && let Ok(entry) = self.untold.try_recv()
        {
            self.unwritten.push(entry);
        }
        if self.trail.write(&self.unwritten).await {
            self.unwritten.clear();
        }
    }

    async fn write_outbox(&mut self, store: &Inner) -> Result<(), StoreError> {
        for _ in 0..PAGES {
            let page = store.outbox().await?;
            if !self.write(store, &page).await? || !page.is_full {
                break;
            }
        }
        Ok(())
    }

    /// Writes a page, and takes it out of its outbox. `false`: it could not be written.
    async fn write(&mut self, store: &Inner, page: &Page) -> Result<bool, StoreError> {
        // Another server may write it by now.
        let is_mine = self.held.is_some_and(|held| held.elapsed() < self.lease);
        if !is_mine || page.is_empty() {
            return Ok(false);
        }
        if !self.trail.write(&page.entries).await {
            return Ok(false);
        }
        for entry in &page.entries {
            self.count(entry);
        }
        store.written(page).await?;
        Ok(true)
    }

    /// Keeps the number of people's sessions between two looks.
    fn count(&mut self, entry: &Entry) {
        let Some((people, at_ms)) = &mut self.people else { return };
        // What was in the outbox when they were counted is counted.
        if entry.at_ms <= *at_ms {
            return;
        }
        match entry.event {
            Event::SessionBegan | Event::SessionRotated => *people += 1,
            Event::SessionEnded => *people = people.saturating_sub(1),
            _ => {}
        }
    }
}

impl Inner {
    /// An entry of this server, now.
    fn entry(&self, event: Event) -> Entry {
        let server = Some(self.settings.origin.server.clone());
        Entry { server, ..Entry::new(self.now_of_servers_ms(), event) }
    }

    async fn lease(&self, holder: &str, rank: u8, lease: Duration) -> Result<Lease, StoreError> {
        let slot = Slot::for_key(self.keys.lease());
        let build = |requests| Requests::lease(&requests, holder, rank, lease);
        let answer = self.call(slot, Need::Connected, self.patience(), build).await?;
        match answer.status.as_str() {
            "mine" => Ok(Lease::Mine),
            "kept" => Ok(Lease::Kept),
            "taken" => Ok(Lease::Taken),
            "alone" => Ok(Lease::Alone),
            "other" | "gone" => Ok(Lease::Other),
            _ => Err(answer.strange()),
        }
    }

    /// What the outbox has not taken is written by this server. A command writes nothing: it tries the outbox that is of no
    /// shard.
    pub(super) async fn note_untold(&self, words: &str, at_ms: u64) {
        let Some(entry) = super::outbox::told(words, at_ms) else { return };
        let is_taken = match self.auditor.get() {
            Some(auditor) => auditor.untold.try_send(entry).is_ok(),
            None => self.tell(&entry).await.is_ok(),
        };
        if !is_taken {
            crate::telemetry::metrics::metrics().trail.left_out.inc();
        }
    }
}
