//! Near cache: what was read or saved on this host a moment ago is answered without asking the store.
//!
//! The store tells of each change of what it has answered ([`Changes`]). An answer may arrive after the news that it is
//! old. So every change counts, and an answer is kept only if nothing was counted since it was asked for: neither what
//! the store tells nor a save of this host.
//!
//! A session is asked for again after half of what it had to live, and after [`MAX_AGE`] at the latest: that bounds what
//! a change can cost of which the store does not tell. While the store does not answer, what is known is served for the
//! grace.

use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lru::{DefaultHasher, LruCache};

use crate::session::name::{Alias, Shard};
use crate::session::policy::rules::Rules;
use crate::store::{
    Amend, ChangeId, Changes, Health, Link, Listed, Lookup, Meta, Publish, Published, RootListing,
    Sessions, Settling, Stamp, StoreError, Unlink, Unlinked, Wait, Waited,
};
use crate::sync::lock;
use crate::telemetry::metrics::metrics;

/// How long an answer is good for on a link that is well.
const MAX_AGE: Duration = Duration::from_secs(60);
/// A longer content is not kept. The store carries large ones by a connection of which it does not tell changes.
const MAX_CONTENT_BYTES: usize = 32 * 1024;
/// What a session takes besides its content: its alias three times, database, login, and the tables.
const OVERHEAD_BYTES: usize = 768;
/// How many counts of changes there are. Two sessions with one count only make each other be asked for again.
const COUNTS: usize = 1 << 14;

/// The bounds of the cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// All that is kept, at most.
    pub max_bytes: usize,
    /// How long sessions that are known are served while the store does not answer.
    pub grace: Duration,
}

/// Sessions over those of a store. Clones share what is kept.
#[derive(Clone)]
pub(crate) struct NearCache<S> {
    sessions: S,
    /// None: every `open` asks the store.
    cache: Option<Arc<Cache>>,
}

/// What is kept, and what has changed.
struct Cache {
    settings: Settings,
    rules: Box<dyn Fn() -> Arc<Rules> + Send + Sync>,
    kept: Mutex<Kept>,
}

struct Kept {
    entries: LruCache<Alias, Entry>,
    bytes: usize,
    /// How often everything may have changed.
    epoch: u64,
    /// How often a session may have changed, one of those that share the count.
    counts: Box<[u64]>,
    hasher: DefaultHasher,
}

struct Entry {
    asked_at: Instant,
    /// By which its time to live was judged.
    rules: Arc<Rules>,
    meta: Meta,
    bound: crate::store::Bound,
    sealed: Bytes,
}

/// What was counted when something was asked for.
#[derive(Clone, Copy)]
struct Asked {
    at: Instant,
    epoch: u64,
    count: u64,
}

impl<S: Link> NearCache<S> {
    /// Over a store whose lifetimes are those that the function gives; without settings every `open` asks it.
    pub(crate) fn over(
        sessions: S,
        settings: Option<Settings>,
        rules: impl Fn() -> Arc<Rules> + Send + Sync + 'static,
    ) -> Self {
        let cache = settings.map(|settings| {
            let kept = Kept {
                entries: LruCache::unbounded(),
                bytes: 0,
                epoch: 0,
                counts: vec![0; COUNTS].into(),
                hasher: DefaultHasher::default(),
            };
            Arc::new(Cache { settings, rules: Box::new(rules), kept: Mutex::new(kept) })
        });
        Self { sessions, cache }
    }

    /// What is kept, bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.cache.as_ref().map_or(0, |cache| cache.kept().bytes as u64)
    }

    /// Who has to be told of changes, if anything is kept.
    pub(crate) fn changes(&self) -> Option<Arc<dyn Changes>> {
        self.cache.clone().map(|cache| cache as Arc<dyn Changes>)
    }

    /// What is known of a session, if it may be served now.
    fn known(&self, cache: &Cache, alias: &Alias) -> Option<Lookup> {
        let shard = alias.shard();
        let is_well = self.sessions.health(Some(shard)).is_readable();
        if !is_well && self.sessions.unreadable_for(shard)? >= cache.settings.grace {
            return None;
        }
        cache.find(alias, is_well, Instant::now())
    }
}

impl<S: Sessions + Link> NearCache<S> {
    /// A session is used now, by the store's time.
    fn used(&self, alias: &Alias) {
        if let Some(cache) = &self.cache
            && let Some(entry) = cache.kept().entries.peek_mut(alias)
        {
            let now_ms = self.sessions.stamp(alias.shard()).first_ms;
            entry.meta.activity_ms = entry.meta.activity_ms.max(now_ms);
        }
    }

    /// Carries out a change of a session. What was asked for before it ends is not kept.
    async fn change<T>(&self, alias: &Alias, change: impl Future<Output = T>) -> T {
        let Some(cache) = &self.cache else { return change.await };
        cache.changed(alias);
        // Also if whoever waits for it goes away.
        let _after = After { cache, alias };
        change.await
    }
}

/// Counts a change once more when it is over.
struct After<'a> {
    cache: &'a Cache,
    alias: &'a Alias,
}

impl Drop for After<'_> {
    fn drop(&mut self) {
        self.cache.changed(self.alias);
    }
}

impl Cache {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }

    /// What is kept of a session, if it is good for now.
    fn find(&self, alias: &Alias, is_well: bool, now: Instant) -> Option<Lookup> {
        let mut kept = self.kept();
        let entry = kept.entries.get(alias)?;
        let age = now.saturating_duration_since(entry.asked_at);
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let left_ms = entry.meta.left_ms.saturating_sub(age_ms);
        let is_good = if is_well { left_ms > age_ms && age < MAX_AGE } else { left_ms > 0 };
        if !is_good || !are_same(&entry.rules, &(self.rules)()) {
            // In an outage it may be good for longer.
            return None;
        }
        Some(Lookup::Session {
            meta: Meta { left_ms, ..entry.meta.clone() },
            bound: entry.bound.clone(),
            sealed: entry.sealed.clone(),
        })
    }

    /// A session is asked for now.
    fn asks(&self, alias: &Alias) -> Asked {
        let kept = self.kept();
        Asked { at: Instant::now(), epoch: kept.epoch, count: kept.counts[kept.place(alias)] }
    }

    /// Keeps an answer, unless something has changed since it was asked for.
    fn keep(&self, alias: &Alias, asked: Asked, answer: &Lookup) {
        let Lookup::Session { meta, bound, sealed } = answer else { return };
        if sealed.len() > MAX_CONTENT_BYTES {
            return;
        }
        let entry = Entry {
            asked_at: asked.at,
            rules: (self.rules)(),
            meta: meta.clone(),
            bound: bound.clone(),
            // It may be a part of a longer answer.
            sealed: Bytes::copy_from_slice(sealed),
        };
        let mut kept = self.kept();
        if kept.epoch == asked.epoch && kept.counts[kept.place(alias)] == asked.count {
            kept.put(alias.clone(), entry, self.settings.max_bytes);
        }
    }

    /// Keeps a save that this host has made, as [`Cache::keep`]. Whoever has asked meanwhile may have the former one.
    fn keep_save(&self, alias: &Alias, asked: Asked, answer: &Lookup) {
        let is_last = {
            let mut kept = self.kept();
            let place = kept.place(alias);
            let is_last = kept.epoch == asked.epoch && kept.counts[place] == asked.count;
            kept.counts[place] += 1;
            // What was read meanwhile. The save itself may be too long to be kept.
            kept.remove(alias);
            is_last.then(|| Asked { count: kept.counts[place], ..asked })
        };
        if let Some(asked) = is_last {
            self.keep(alias, asked, answer);
        }
    }
}

impl Changes for Cache {
    fn changed(&self, alias: &Alias) {
        let mut kept = self.kept();
        let place = kept.place(alias);
        kept.counts[place] += 1;
        kept.remove(alias);
    }

    fn all_changed(&self) {
        let mut kept = self.kept();
        kept.epoch += 1;
        kept.entries.clear();
        kept.bytes = 0;
    }
}

impl Kept {
    fn place(&self, alias: &Alias) -> usize {
        usize::try_from(self.hasher.hash_one(alias) % COUNTS as u64).unwrap_or_default()
    }

    fn put(&mut self, alias: Alias, entry: Entry, max_bytes: usize) {
        self.bytes += entry.size_bytes();
        if let Some((_, former)) = self.entries.push(alias, entry) {
            self.bytes -= former.size_bytes();
        }
        while self.bytes > max_bytes
            && let Some((_, oldest)) = self.entries.pop_lru()
        {
            self.bytes -= oldest.size_bytes();
        }
    }

    fn remove(&mut self, alias: &Alias) {
        if let Some(entry) = self.entries.pop(alias) {
            self.bytes -= entry.size_bytes();
        }
    }
}

/// Whether a session is judged alike by both. They are mostly the very same.
fn are_same(one: &Arc<Rules>, other: &Arc<Rules>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

impl Entry {
    fn size_bytes(&self) -> usize {
        self.sealed.len() + OVERHEAD_BYTES
    }
}

impl<S: Sessions + Link> Sessions for NearCache<S> {
    async fn is_ready(&self, alias: &Alias) -> Result<bool, StoreError> {
        self.sessions.is_ready(alias).await
    }

    fn at_hand(&self, alias: &Alias) -> Option<Lookup> {
        self.known(self.cache.as_ref()?, alias)
    }

    async fn fetch(&self, alias: &Alias, listed: Option<&Alias>) -> Result<Lookup, StoreError> {
        let Some(cache) = &self.cache else { return self.sessions.fetch(alias, listed).await };
        if let Some(found) = self.at_hand(alias) {
            return Ok(found);
        }
        metrics().near_cache.misses.inc();
        let asked = cache.asks(alias);
        let found = self.sessions.fetch(alias, listed).await?;
        if self.sessions.tells_changes(alias.shard()) {
            cache.keep(alias, asked, &found);
        }
        Ok(found)
    }

    async fn content(&self, alias: &Alias, save: ChangeId) -> Result<Option<Bytes>, StoreError> {
        self.sessions.content(alias, save).await
    }

    async fn publish(&self, publish: &Publish) -> Result<Published, StoreError> {
        let Some(cache) = &self.cache else { return self.sessions.publish(publish).await };
        let alias = &publish.alias;
        cache.changed(alias);
        let asked = cache.asks(alias);
        // Whoever waits for it may go away.
        let over = After { cache, alias };
        let published = self.sessions.publish(publish).await?;
        if let Published::Taken(meta) = &published
            && self.sessions.tells_changes(alias.shard())
        {
            std::mem::forget(over);
            let (meta, sealed) = (meta.clone(), publish.sealed.clone());
            cache.keep_save(
                alias,
                asked,
                &Lookup::Session { meta, bound: publish.bound(), sealed },
            );
        }
        Ok(published)
    }

    async fn unlink(&self, unlink: &Unlink) -> Result<Unlinked, StoreError> {
        let removed = self.sessions.unlink(unlink);
        match &unlink.listed {
            Some(listed) => self.change(&unlink.alias, self.change(listed, removed)).await,
            None => self.change(&unlink.alias, removed).await,
        }
    }

    async fn take_back(&self, alias: &Alias, removal: ChangeId) -> Result<(), StoreError> {
        self.change(alias, self.sessions.take_back(alias, removal)).await
    }

    async fn amend(&self, amend: &Amend) -> Result<Option<Meta>, StoreError> {
        self.change(&amend.alias, self.sessions.amend(amend)).await
    }

    async fn list(&self, shard: Shard) -> Result<Vec<Listed>, StoreError> {
        self.sessions.list(shard).await
    }

    async fn list_root(&self) -> Result<RootListing, StoreError> {
        self.sessions.list_root().await
    }

    fn touch(&self, alias: &Alias) {
        self.used(alias);
        self.sessions.touch(alias);
    }

    async fn touch_now(&self, alias: &Alias) -> Result<(), StoreError> {
        self.used(alias);
        self.sessions.touch_now(alias).await
    }

    fn takes_saves(&self) -> bool {
        self.sessions.takes_saves()
    }

    fn knows_more(&self, alias: &Alias) -> bool {
        self.sessions.knows_more(alias)
    }

    fn settling(&self, alias: &Alias) -> Option<Settling> {
        self.sessions.settling(alias)
    }
}

impl<S: Link> Link for NearCache<S> {
    fn health(&self, shard: Option<Shard>) -> Health {
        self.sessions.health(shard)
    }

    fn is_fresh(&self, shard: Option<Shard>) -> bool {
        self.sessions.is_fresh(shard)
    }

    fn any_up(&self) -> Option<Shard> {
        self.sessions.any_up()
    }

    fn unreadable_for(&self, shard: Shard) -> Option<Duration> {
        self.sessions.unreadable_for(shard)
    }

    fn tells_changes(&self, shard: Shard) -> bool {
        self.sessions.tells_changes(shard)
    }

    fn takes_packed(&self) -> bool {
        self.sessions.takes_packed()
    }

    async fn wait_up(&self, wait: Wait) -> Waited {
        self.sessions.wait_up(wait).await
    }

    fn stamp(&self, shard: Shard) -> Stamp {
        self.sessions.stamp(shard)
    }

    async fn drain(&self, bound: Duration) {
        self.sessions.drain(bound).await;
    }
}

#[cfg(test)]
mod tests;
