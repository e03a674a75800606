//! Listings: every living session of a shard, and what the root directory shows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use redis::{Cmd, FromRedisValue as _, Value};
use tokio::task::JoinSet;

use super::Inner;
use super::headers::{Plain, Scored};
use super::index::{Entry, FIRST_SHORT, INDEXES, LONG};
use super::keys::Keys;
use super::link::Need;
use super::requests::{Requests, Sought, exists, page, size};
use super::scan::{LiveSession, Stale};
use super::scripts::CallFault;
use crate::session::name::{Form, Shard};
use crate::store::{Listed, RootListing, StoreError};
use crate::telemetry::Event;

/// How many members of a shard one step of a listing takes.
pub(super) const PAGE: usize = 250;
/// In which order the indexes of a shard are read.
const READ: [usize; INDEXES + 1] =
    [LONG, FIRST_SHORT, FIRST_SHORT + 1, FIRST_SHORT + 2, FIRST_SHORT + 3, LONG];
/// How many shards are asked for their size at once.
pub(super) const SHARDS_AT_ONCE: u16 = 512;
/// Where more shards are in use, each has a session that lives, for the root: to look at thousands takes a second. A shard
/// without one is shown at most until it is listed: what has ended leaves the index then.
const LOOKED_AT: usize = 256;
/// And so it is for a shard with more sessions.
const FEW: u64 = 8;
/// How many shards are listed side by side for the root.
const LISTED_AT_ONCE: usize = 64;

impl Inner {
    /// The first `count` entries of a shard's indexes from `from` (a score) on, by their scores.
    pub(super) async fn page(
        &self,
        shard: Shard,
        from: &str,
        count: usize,
    ) -> Result<Ranked, StoreError> {
        let ask = |index: &String| page(index, from, 0, count);
        let mut ranked = self.ranked(&[shard], ask).await?.pop().unwrap_or_default();
        ranked.sort_unstable_by(|a, b| a.1.total_cmp(&b.1));
        ranked.truncate(count);
        Ok(ranked)
    }

    /// What each index of these shards answers to a question for members with scores: in one round trip, put together
    /// by shard. Strangers are `None`: whoever reads a page has to know how far it goes.
    ///
    /// A save by a server that writes another format moves a session between the long index and a short one. So the
    /// long one is read first and once more last: the session is met in one of its two places.
    pub(super) async fn ranked(
        &self,
        shards: &[Shard],
        ask: impl Fn(&String) -> Cmd,
    ) -> Result<Vec<Ranked>, StoreError> {
        let of_shard = |shard: &Shard| {
            let indexes = self.keys.indexes(*shard);
            READ.map(|number| (Keys::slot(*shard), ask(&indexes[number])))
        };
        let answers = self.ask_indexes(shards.iter().flat_map(of_shard).collect()).await?;
        let members = Vec::<Vec<(Vec<u8>, f64)>>::from_redis_value(Value::Array(answers))
            .map_err(|_| StoreError::Unreadable("an index of another shape".into()))?;
        let ranked = shards.iter().zip(members.chunks(READ.len())).map(|(shard, indexes)| {
            let mut of_long = HashSet::new();
            let mut ranked = Vec::new();
            for (number, members) in READ.into_iter().zip(indexes) {
                for (member, score) in members {
                    if number != LONG || of_long.insert(member) {
                        ranked.push((Entry::read(*shard, number, member), *score));
                    }
                }
            }
            ranked
        });
        Ok(ranked.collect())
    }

    /// Every entry of a shard's indexes.
    pub(super) async fn members(&self, shard: Shard) -> Result<Vec<Entry>, StoreError> {
        Ok(self.scored(shard).await?.into_iter().map(|(entry, _)| entry).collect())
    }

    /// The same with their scores. Exact while entries change: a score only ever grows, so
    /// going upwards by score meets every entry that stays, perhaps twice.
    async fn scored(&self, shard: Shard) -> Result<Vec<Scored>, StoreError> {
        let mut found = HashMap::new();
        let mut from = "-inf".to_owned();
        let mut count = PAGE;
        loop {
            let page = self.page(shard, &from, count).await?;
            let full = page.len() >= count;
            let last = page.last().map(|(_, score)| score.to_string());
            found.extend(page.into_iter().filter_map(|(entry, score)| Some((entry?, score))));
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

    /// The entries of a shard that may bear these marks.
    pub(super) async fn sought(
        &self,
        shard: Shard,
        sought: Sought,
    ) -> Result<Vec<Entry>, StoreError> {
        let build = |requests| Requests::find(&requests, shard, sought);
        let slot = Keys::slot(shard);
        let mut answer = match self.call(slot, Need::Connected, self.patience(), build).await {
            // While a slot is moved no script is run that asks for all indexes.
            Err(CallFault::Server(error, _)) if error.code.redirects() => {
                return self.members(shard).await;
            }
            answer => answer?,
        };
        match answer.status.as_str() {
            "found" => {}
            "large" => return self.members(shard).await,
            _ => return Err(answer.strange()),
        }
        let mut found = Vec::new();
        let (mut short, mut long) = (answer.nested()?, answer.nested()?);
        while short.more() {
            found.extend(Entry::read_short(shard, &short.bytes()?));
        }
        while long.more() {
            found.extend(Entry::read(shard, LONG, &long.bytes()?));
        }
        Ok(found)
    }

    /// The living among `entries`, all of one shard, as a directory shows them. One whose removal is
    /// held is served until it ends, but whoever has removed it expects to find it in no listing.
    async fn listed(&self, shard: Shard, entries: &[Entry]) -> Result<Vec<Listed>, StoreError> {
        let members = self.living_by(Stale::Ends, shard, entries).await?.whole()?;
        for alias in &members.unreadable {
            Event::Unreadable { alias }.emit();
        }
        let stays = |living: &LiveSession| living.header.end_ms == 0;
        Ok(members.living.into_iter().filter(stays).map(listed).collect())
    }

    pub(super) async fn list(&self, shard: Shard) -> Result<Vec<Listed>, StoreError> {
        let entries = self.scored(shard).await?;
        let mut all = Vec::with_capacity(entries.len());
        for entries in entries.chunks(PAGE) {
            let Plain { living, others } = self.read_headers(shard, entries).await;
            all.extend(living.into_iter().map(listed));
            if !others.is_empty() {
                all.append(&mut self.listed(shard, &others).await?);
            }
        }
        only_once(&mut all);
        Ok(all)
    }

    /// Whether a shard has a living session saved under its sharded name, which may be taken for granted, and its flat
    /// ones.
    async fn list_for_root(
        &self,
        shard: Shard,
        is_taken_to_live: bool,
    ) -> Result<(bool, Vec<Listed>), StoreError> {
        let entries = if is_taken_to_live {
            let flat = Sought { flat: true, ..Sought::default() };
            self.sought(shard, flat).await?
        } else {
            self.members(shard).await?
        };
        let mut sharded = is_taken_to_live;
        let mut all_flat = Vec::new();
        for entries in entries.chunks(PAGE) {
            let (flat, others): (Vec<_>, Vec<_>) = self
                .listed(shard, entries)
                .await?
                .into_iter()
                .partition(|listed| listed.meta.form == Form::Flat);
            sharded |= !others.is_empty();
            all_flat.extend(flat);
        }
        only_once(&mut all_flat);
        Ok((sharded, all_flat))
    }

    pub(super) async fn list_root(self: &Arc<Self>) -> Result<RootListing, StoreError> {
        let mut root = RootListing::default();
        let mut listing: JoinSet<Result<_, StoreError>> = JoinSet::new();
        let in_use = self.shards_in_use().await?;
        let with_size = if in_use.len() > LOOKED_AT {
            in_use.into_iter().map(|shard| (shard, u64::MAX)).collect()
        } else {
            self.sized(&in_use).await?
        };
        for (shard, size) in with_size {
            let is_taken_to_live = size > FEW;
            if is_taken_to_live && !shard.may_be_hex() {
                root.shards.push(shard);
                continue;
            }
            if listing.len() >= LISTED_AT_ONCE {
                note_shard(&mut root, listing.join_next().await)?;
            }
            let store = Arc::clone(self);
            listing.spawn(async move {
                Ok((shard, store.list_for_root(shard, is_taken_to_live).await?))
            });
        }
        while let Some(listed) = listing.join_next().await {
            note_shard(&mut root, Some(listed))?;
        }
        root.shards.sort_unstable();
        Ok(root)
    }

    /// The shards whose index is not empty. Those with nothing but sessions that have ended and have not been read since
    /// are among them.
    pub(super) async fn shards_in_use(&self) -> Result<Vec<Shard>, StoreError> {
        self.in_use(Shard::all().collect()).await
    }

    /// The same, of these shards.
    pub(super) async fn in_use(&self, all: Vec<Shard>) -> Result<Vec<Shard>, StoreError> {
        let mut in_use = Vec::new();
        for shards in all.chunks(usize::from(SHARDS_AT_ONCE)) {
            in_use.extend(match self.exist(shards).await {
                // While a slot is moved nobody answers for several keys of it.
                Err(_) if self.primaries.is_cluster() => {
                    self.sized(shards).await?.into_iter().map(|(shard, _)| shard).collect()
                }
                found => found?,
            });
        }
        Ok(in_use)
    }

    async fn exist(&self, shards: &[Shard]) -> Result<Vec<Shard>, StoreError> {
        let of_shard = |shard: &Shard| (Keys::slot(*shard), exists(&self.keys.indexes(*shard)));
        let answers = self.ask_indexes(shards.iter().map(of_shard).collect()).await?;
        let counts = counts(answers, "an index")?;
        Ok(shards
            .iter()
            .copied()
            .zip(counts)
            .filter(|(_, n)| *n > 0)
            .map(|(shard, _)| shard)
            .collect())
    }

    /// All shards in use, and how many sessions each has.
    pub(super) async fn sizes_in_use(&self) -> Result<Vec<(Shard, u64)>, StoreError> {
        self.sized(&self.shards_in_use().await?).await
    }

    /// Those of these shards that are in use, and how many sessions each has.
    async fn sized(&self, shards: &[Shard]) -> Result<Vec<(Shard, u64)>, StoreError> {
        let mut found = Vec::new();
        for shards in shards.chunks(usize::from(SHARDS_AT_ONCE)) {
            let sizes = self.sizes(shards).await?;
            let sizes = sizes.chunks(INDEXES).map(|sizes| sizes.iter().sum::<u64>());
            found.extend(shards.iter().copied().zip(sizes).filter(|(_, size)| *size > 0));
        }
        Ok(found)
    }

    /// The size of each index of these shards.
    pub(super) async fn sizes(&self, shards: &[Shard]) -> Result<Vec<u64>, StoreError> {
        let of_shard = |shard: &Shard| {
            self.keys.indexes(*shard).map(|index| (Keys::slot(*shard), size(&index)))
        };
        let commands = shards.iter().flat_map(of_shard).collect();
        counts(self.ask_indexes(commands).await?, "an index")
    }
}

/// Reads answers that are numbers; `of`: what they were asked of.
pub(super) fn counts(answers: Vec<Value>, of: &str) -> Result<Vec<u64>, StoreError> {
    Vec::from_redis_value(Value::Array(answers))
        .map_err(|_| StoreError::Unreadable(format!("{of} of another shape")))
}

/// A session as a directory shows it.
fn listed(living: LiveSession) -> Listed {
    let meta = living.header.meta(living.activity_ms, living.left_ms);
    Listed { meta, alias: living.alias }
}

/// A session that was saved meanwhile may have been met by two entries.
fn only_once(listed: &mut Vec<Listed>) {
    listed.sort_unstable_by(|a, b| a.alias.cmp(&b.alias));
    listed.dedup_by(|a, b| a.alias == b.alias);
}

/// Entries and their scores; `None` is no entry of ours.
pub(super) type Ranked = Vec<(Option<Entry>, f64)>;

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
