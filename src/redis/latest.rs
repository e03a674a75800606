//! The sessions that were used last, without a look at all others.

use tokio::task::JoinSet;

use super::index::Entry;
use super::listing::{Ranked, SHARDS_AT_ONCE};
use super::requests::latest;
use super::scan::{Members, Page, Scan, Stale};
use super::{Inner, RedisStore};
use crate::session::name::Shard;
use crate::store::StoreError;

/// At most so many are found this way.
pub const LATEST_MAX: usize = 1000;
/// Some of those that were used last have ended, so a few more are read.
const MORE: usize = 100;

impl RedisStore {
    /// At least `count` sessions that live, no other of which was used later; `None` if that cannot be said
    /// without a look at all. It reads only, as a scan does.
    pub async fn last_used(&self, count: usize) -> Result<Option<Scan>, StoreError> {
        if count == 0 || count > LATEST_MAX {
            return Ok(None);
        }
        let inner = &self.inner;
        let (candidates, floor) = inner.candidates(count + MORE).await?;
        let mut page = Page { looked_at: 0, living: Vec::new(), unreadable: Vec::new() };
        let mut reading: JoinSet<Result<Members, StoreError>> = JoinSet::new();
        for (shard, entries) in candidates {
            page.looked_at += entries.len() as u64;
            let store = std::sync::Arc::clone(inner);
            reading.spawn(
                async move { store.living_by(Stale::Stays, shard, &entries).await?.whole() },
            );
        }
        while let Some(read) = reading.join_next().await {
            let read = read.map_err(|error| StoreError::Unavailable(error.to_string()))??;
            page.living.extend(read.living);
            page.unreadable.extend(read.unreadable);
        }
        // A score that is no time stands for an activity that is none of the last ones.
        page.living.retain(|living| living.left_ms > 0 && float(living.activity_ms) >= floor);
        Ok((page.living.len() >= count).then(|| Scan::of(page)))
    }
}

impl Inner {
    /// The `count` entries of all indexes with the highest scores, by their shard, and the score that no other
    /// entry exceeds.
    async fn candidates(
        &self,
        count: usize,
    ) -> Result<(Vec<(Shard, Vec<Entry>)>, f64), StoreError> {
        let all: Vec<_> = Shard::all().collect();
        let mut highest: Vec<(Shard, f64)> = Vec::new();
        for (shard, members) in self.highest(&all, f64::NEG_INFINITY, 1).await? {
            highest.extend(members.first().map(|(_, score)| (shard, *score)));
        }
        // So many shards have one each that is as high as this: no lower one is among the highest.
        highest.sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
        let floor = highest.get(count - 1).map_or(f64::NEG_INFINITY, |(_, score)| *score);
        let shards: Vec<_> = highest
            .into_iter()
            .take_while(|(_, score)| *score >= floor)
            .map(|(shard, _)| shard)
            .collect();
        // Strangers count: beyond them may be others.
        let mut members: Vec<(Shard, Option<Entry>, f64)> = Vec::new();
        for (shard, some) in self.highest(&shards, floor, count).await? {
            members.extend(some.into_iter().map(|(entry, score)| (shard, entry, score)));
        }
        members.sort_unstable_by(|a, b| b.2.total_cmp(&a.2));
        members.truncate(count);
        let is_all = members.len() < count;
        let floor = members.last().filter(|_| !is_all).map_or(f64::NEG_INFINITY, |last| last.2);
        let mut candidates: Vec<(Shard, Vec<Entry>)> = Vec::new();
        members.sort_unstable_by_key(|(shard, ..)| *shard);
        for (shard, entry) in
            members.into_iter().filter_map(|(shard, entry, _)| Some((shard, entry?)))
        {
            match candidates.last_mut().filter(|(last, _)| *last == shard) {
                Some((_, entries)) => entries.push(entry),
                None => candidates.push((shard, vec![entry])),
            }
        }
        Ok((candidates, floor))
    }

    /// The `count` entries of a shard that were used last.
    pub(super) async fn newest(&self, shard: Shard, count: usize) -> Result<Ranked, StoreError> {
        let mut found = self.highest(&[shard], f64::NEG_INFINITY, count).await?;
        Ok(found.pop().map(|(_, ranked)| ranked).unwrap_or_default())
    }

    /// The `count` entries of each of these shards that have the highest scores, of `floor` at least.
    async fn highest(
        &self,
        shards: &[Shard],
        floor: f64,
        count: usize,
    ) -> Result<Vec<(Shard, Ranked)>, StoreError> {
        let mut found = Vec::new();
        for shards in shards.chunks(usize::from(SHARDS_AT_ONCE)) {
            let ask = |index: &String| latest(index, floor, count);
            for (shard, mut ranked) in shards.iter().zip(self.ranked(shards, ask).await?) {
                ranked.sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
                ranked.truncate(count);
                found.push((*shard, ranked));
            }
        }
        Ok(found)
    }
}

#[expect(clippy::cast_precision_loss, reason = "no time comes near 2^53")]
fn float(ms: u64) -> f64 {
    ms as f64
}
