//! Room in a full Redis: sessions of visitors end before a save of somebody logged in is refused.
//!
//! Visitors need no login to store something, so they could use up the memory that all share. Those
//! who have had something stored for longer than a minute, and came back to it, go last: a cart
//! outlives a flood.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rand::seq::SliceRandom as _;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::keys::Keys;
use super::link::Need;
use super::listing::Ranked;
use super::memory::Memory;
use super::primary::Primary;
use super::requests::Requests;
use super::scan::{LiveSession, Stale};
use super::{Inner, RedisStore};
use crate::session::content::Class;
use crate::session::name::{Alias, Shard};
use crate::session::packing;
use crate::store::{ChangeId, StoreError};
use crate::sync::lock;
use crate::telemetry::Event;

/// How many shards one try looks at.
const SHARDS: usize = 16;
/// How many sessions of each are looked at together: those that were used least recently, and those used last, where a flood
/// is.
const LOOKED_AT: usize = 64;
/// Who has been away for longest may be people alone: as often the next ones are looked at, until there is a visitor.
const PAGES: usize = 2;
/// How many shards of this server's last visitors are remembered.
const REMEMBERED: usize = 256;
/// A visitor of that age is spared as long as others are there.
const FRESH_MS: u64 = 60_000;
/// What a session takes besides its content.
const OVERHEAD_BYTES: u64 = 512;
/// One try ends at least as much. Redis 8 counts the buffers of requests and answers as used.
const LEAST_BYTES: u64 = 512 * 1024;
/// From there on room is made ahead, down to a little less.
const FULL_PERCENT: u64 = 95;
const ENOUGH_PERCENT: u64 = 94;
/// Sessions do not fill it so far: Redis takes none beyond its limit.
const HOPELESS_PERCENT: u64 = 125;
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many tries one look leads to, and the pause between them.
const TRIES: usize = 32;
const PAUSE: Duration = Duration::from_millis(20);

/// What is known of where visitors are.
#[derive(Default)]
pub(super) struct Room {
    /// The shards of the visitors that this server has saved last, the last one first.
    visitors: Mutex<VecDeque<Shard>>,
    /// Notified when Redis has refused something because it is full.
    wanted: Notify,
    /// Held during a try: a second one would end others for the same need.
    trying: tokio::sync::Mutex<()>,
}

impl Room {
    /// A visitor's session was saved.
    pub(super) fn note_visitor(&self, alias: &Alias) {
        let mut visitors = lock(&self.visitors);
        let shard = alias.shard();
        if visitors.front() != Some(&shard) {
            visitors.push_front(shard);
            visitors.truncate(REMEMBERED);
        }
    }

    /// Redis is full.
    pub(super) fn want(&self) {
        self.wanted.notify_one();
    }
}

impl Inner {
    /// One short try to make that much room on a primary. Returns how much was made, as far as it is known.
    pub(super) async fn make_room(
        self: &Arc<Self>,
        primary: &Arc<Primary>,
        wanted_bytes: u64,
    ) -> Result<u64, StoreError> {
        let _trying = self.room.trying.lock().await;
        // Its limit was lowered, or something else uses it: no end of sessions would help.
        let memory = self.memory_of(primary).await.ok();
        if memory.and_then(|memory| memory.percent()).is_some_and(|full| full > HOPELESS_PERCENT) {
            return Ok(0);
        }
        let wanted = wanted_bytes.max(LEAST_BYTES);
        let mut ended: BTreeMap<Shard, Vec<&LiveSession>> = BTreeMap::new();
        let visitors = self.visitors(primary).await?;
        let mut found = 0;
        for visitor in &visitors {
            if found >= wanted {
                break;
            }
            found += size_bytes(visitor);
            ended.entry(visitor.alias.shard()).or_default().push(visitor);
        }
        let mut made = 0;
        let mut failed = None;
        for (shard, visitors) in ended {
            match self.end_visitors(shard, &visitors).await {
                Ok(bytes) => made += bytes,
                // A slot of a Cluster that is being moved: others have room, too.
                Err(error) => failed = Some(error),
            }
        }
        failed.filter(|_| made == 0).map_or(Ok(made), Err)
    }

    /// The visitors' sessions of a few of its shards, in the order in which they go.
    async fn visitors(
        self: &Arc<Self>,
        primary: &Arc<Primary>,
    ) -> Result<Vec<LiveSession>, StoreError> {
        let is_there = |shard: &Shard| Arc::ptr_eq(&self.primary_of(*shard), primary);
        let mut shards: Vec<Shard> = Shard::all().filter(is_there).collect();
        shards.shuffle(&mut rand::rng());
        let known: HashMap<Shard, usize> =
            lock(&self.room.visitors).iter().copied().zip(0..).collect();
        // Stable: behind the shards that have had a visitor the others stay in random order.
        shards.sort_by_key(|shard| known.get(shard).copied().unwrap_or(usize::MAX));
        let mut looking = JoinSet::new();
        for shard in self.first_in_use(&shards).await? {
            let store = Arc::clone(self);
            looking.spawn(async move { store.visitors_of(shard).await });
        }
        let mut visitors = Vec::new();
        let mut failed = None;
        while let Some(found) = looking.join_next().await {
            match found.map_err(|error| StoreError::Unavailable(error.to_string()))? {
                Ok(mut found) => visitors.append(&mut found),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed.filter(|_| visitors.is_empty()) {
            return Err(error);
        }
        visitors.sort_by_key(|visitor| (is_spared(visitor), visitor.activity_ms));
        Ok(visitors)
    }

    /// The first of these shards that are in use. Mostly all are: a server that is full holds many sessions.
    async fn first_in_use(&self, shards: &[Shard]) -> Result<Vec<Shard>, StoreError> {
        let mut first = Vec::new();
        let (mut rest, mut count) = (shards, 2 * SHARDS);
        while first.len() < SHARDS && !rest.is_empty() {
            let (some, later) = rest.split_at(count.min(rest.len()));
            first.extend(self.in_use(some.to_vec()).await?);
            (rest, count) = (later, count * 2);
        }
        first.truncate(SHARDS);
        Ok(first)
    }

    /// Some visitors of a shard: those who came last, and of the others those who have been away for longest. What is not
    /// there any more leaves the index by the way: mostly Redis has ended it, and nobody has looked since.
    async fn visitors_of(&self, shard: Shard) -> Result<Vec<LiveSession>, StoreError> {
        let newest = self.newest(shard, LOOKED_AT).await?;
        let is_all = newest.len() < LOOKED_AT;
        let mut visitors = self.visitors_among(shard, newest).await?;
        let mut from = "-inf".to_owned();
        for _ in 0..PAGES {
            if is_all {
                break;
            }
            let page = self.page(shard, &from, LOOKED_AT).await?;
            let last = page.last().map(|(_, score)| score.to_string());
            let is_last = page.len() < LOOKED_AT || last.as_ref() == Some(&from);
            let found = self.visitors_among(shard, page).await?;
            let any = !found.is_empty();
            visitors.extend(found);
            let Some(last) = last.filter(|_| !any && !is_last) else { break };
            from = last;
        }
        visitors.sort_unstable_by(|a, b| a.alias.cmp(&b.alias));
        visitors.dedup_by(|a, b| a.alias == b.alias);
        Ok(visitors)
    }

    async fn visitors_among(
        &self,
        shard: Shard,
        ranked: Ranked,
    ) -> Result<Vec<LiveSession>, StoreError> {
        let entries: Vec<_> = ranked.into_iter().filter_map(|(entry, _)| entry).collect();
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut living = self.living_by(Stale::StaysIfKept, shard, &entries).await?.living;
        living.retain(|one| one.header.content.class == Class::Anonymous);
        Ok(living)
    }

    async fn end_visitors(
        &self,
        shard: Shard,
        visitors: &[&LiveSession],
    ) -> Result<u64, StoreError> {
        let named: Vec<(Alias, ChangeId)> = visitors
            .iter()
            .map(|visitor| (visitor.alias.clone(), visitor.header.version))
            .collect();
        let build = |requests| Requests::room(&requests, shard, &named);
        let slot = Keys::slot(shard);
        let mut answer =
            self.call(slot, Need::Connected, self.attempt(), build).await.inspect_err(|_| {
                // It may have been carried out, and Redis tells nobody of his own changes.
                for (alias, _) in &named {
                    self.tracking.changed(alias);
                }
            })?;
        if answer.status != "ended" {
            return Err(answer.strange());
        }
        let mut ended = answer.nested()?;
        let mut made = 0;
        while ended.more() {
            let alias = ended.alias()?;
            let Some(visitor) = visitors.iter().find(|visitor| visitor.alias == alias) else {
                return Err(answer.strange());
            };
            let (size_bytes, idle_ms) = (size_bytes(visitor), visitor.idle_ms());
            self.tracking.changed(&alias);
            Event::EndedForRoom { alias: &alias, size_bytes, idle_ms }.emit();
            made += size_bytes;
        }
        Ok(made)
    }

    /// Makes room until there is enough, in a bounded number of tries.
    async fn make_room_ahead(self: &Arc<Self>, primary: &Arc<Primary>) {
        for _ in 0..TRIES {
            // Where the user may not ask, the refusal that has led here is all that is known.
            let (wanted, last) = match self.memory_of(primary).await {
                Ok(memory) => match excess_bytes(&memory) {
                    None => return,
                    Some(bytes) => (bytes, false),
                },
                Err(_) => (LEAST_BYTES, true),
            };
            match self.make_room(primary, wanted).await {
                // Where nobody was found there may be nobody: to look takes time of Redis's that all need.
                Ok(made) if made > 0 && !last => sleep(PAUSE).await,
                _ => return,
            }
        }
    }
}

/// By how much Redis is too full, once it is.
fn excess_bytes(memory: &Memory) -> Option<u64> {
    let enough = memory.max_bytes / 100 * ENOUGH_PERCENT;
    (memory.percent()? >= FULL_PERCENT).then(|| memory.used_bytes.saturating_sub(enough))
}

fn size_bytes(visitor: &LiveSession) -> u64 {
    // Nobody knows how long a packed content is: it may be as short as none.
    let is_plain = visitor.header.packing == packing::PLAIN;
    if is_plain { visitor.header.size_bytes + OVERHEAD_BYTES } else { OVERHEAD_BYTES }
}

fn is_spared(visitor: &LiveSession) -> bool {
    let age_ms = visitor.now_ms.saturating_sub(visitor.header.login_ms);
    visitor.header.opened && age_ms > FRESH_MS
}

impl RedisStore {
    /// From now on, makes room ahead: what a server does, and no command. Must be called in a
    /// runtime; ends with the store.
    pub fn keep_room(&self) {
        tokio::spawn(keep(Arc::downgrade(&self.inner)));
    }
}

/// Looks at the memory, and makes room when it is nearly full. Ends with the store.
async fn keep(store: Weak<Inner>) {
    while let Some(inner) = store.upgrade() {
        let woken = timeout(LOOK_EVERY, inner.room.wanted.notified()).await.is_ok();
        for primary in inner.primaries.all() {
            if !primary.link.health().is_readable() {
                continue;
            }
            match inner.memory_of(&primary).await {
                Ok(memory) if excess_bytes(&memory).is_none() => {}
                Ok(_) => inner.make_room_ahead(&primary).await,
                Err(StoreError::Refused(_)) if woken => inner.make_room_ahead(&primary).await,
                Err(_) => {}
            }
            // Whoever waits for that goes on at once.
            if woken && primary.link.is_full() {
                primary.link.ask_writes(Duration::ZERO).await;
            }
        }
    }
}
