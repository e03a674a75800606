//! Listings: every living session of a shard, and what the root directory shows.

use std::collections::HashSet;
use std::sync::Arc;

use redis::{FromRedisValue as _, Value};
use tokio::task::JoinSet;

use super::Inner;
use super::keys::Keys;
use super::link::Need;
use super::requests::{Requests, page, size};
use super::scan::{LiveSession, Stale};
use crate::session::name::{Alias, Form, Shard};
use crate::store::{Listed, RootListing, StoreError};
use crate::telemetry::Event;

/// How many members of a shard one step of a listing takes.
pub(super) const PAGE: usize = 250;
/// How many shards are asked for their size at once.
pub(super) const SHARDS_AT_ONCE: u16 = 512;
/// Of a shard with more sessions one is taken to live, for the root. What has ended leaves the index when its shard is
/// listed, and to look at each shard takes a second.
const FEW: u64 = 8;
/// How many shards are listed side by side for the root.
const LISTED_AT_ONCE: usize = 64;

impl Inner {
    /// Members of a shard's index from `from` (a score) on: a page of them with their scores.
    pub(super) async fn page(
        &self,
        shard: Shard,
        from: &str,
        count: usize,
    ) -> Result<Vec<(String, f64)>, StoreError> {
        let reply = self.ask(Keys::slot(shard), &page(&self.keys, shard, from, count)).await?;
        Vec::<(String, f64)>::from_redis_value(reply)
            .map_err(|_| StoreError::Unreadable("an index of another shape".into()))
    }

    /// Every alias in a shard's index. Exact while entries change: a score only ever grows, so
    /// going upwards by score meets every entry that stays, perhaps twice.
    pub(super) async fn members(&self, shard: Shard) -> Result<Vec<Alias>, StoreError> {
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

    /// The living among `aliases`, all of one shard, as a directory shows them. One whose removal is
    /// held is served until it ends, but whoever has removed it expects to find it in no listing.
    async fn listed(&self, shard: Shard, aliases: &[Alias]) -> Result<Vec<Listed>, StoreError> {
        let members = self.living_by(Stale::Ends, shard, aliases).await?;
        for alias in &members.unreadable {
            Event::Unreadable { alias }.emit();
        }
        let listed = |living: LiveSession| Listed {
            meta: living.header.meta(living.activity_ms, living.left_ms),
            alias: living.alias,
        };
        let stays = |living: &LiveSession| living.header.end_ms == 0;
        Ok(members.living.into_iter().filter(stays).map(listed).collect())
    }

    pub(super) async fn list(&self, shard: Shard) -> Result<Vec<Listed>, StoreError> {
        let members = self.members(shard).await?;
        let mut listed = Vec::with_capacity(members.len());
        for aliases in members.chunks(PAGE) {
            listed.append(&mut self.listed(shard, aliases).await?);
        }
        Ok(listed)
    }

    /// Whether a shard has a living session saved under its sharded name, and its flat ones.
    async fn list_for_root(
        &self,
        shard: Shard,
        size: u64,
    ) -> Result<(bool, Vec<Listed>), StoreError> {
        if let Some(Outline { mut aliases, is_whole }) = self.outline(shard).await? {
            let is_taken_to_live = size > FEW && !is_whole;
            if is_taken_to_live {
                aliases.retain(|alias| alias.family().is_none());
            }
            let (sharded, flat) = self.forms(shard, aliases).await?;
            if is_whole || sharded || is_taken_to_live {
                return Ok((sharded || is_taken_to_live, flat));
            }
        }
        // The one used last has ended: another one may live.
        let members = self.members(shard).await?;
        self.forms(shard, members).await
    }

    /// What may be all that the root shows of a shard; `None` if its index is a large one.
    async fn outline(&self, shard: Shard) -> Result<Option<Outline>, StoreError> {
        let build = |requests| Requests::outline(&requests, shard);
        let slot = Keys::slot(shard);
        let mut answer = self.call(slot, Need::Connected, self.patience(), build).await?;
        match answer.status.as_str() {
            "outlined" => {}
            "large" => return Ok(None),
            _ => return Err(answer.strange()),
        }
        let (mut short, mut last) = (answer.nested()?, answer.nested()?);
        let is_whole = !last.more();
        let mut aliases = Vec::new();
        for names in [&mut short, &mut last] {
            while names.more() {
                // Strangers are passed over.
                let alias = Alias::parse(&names.text()?);
                aliases.extend(alias.filter(|alias| alias.shard() == shard));
            }
        }
        Ok(Some(Outline { aliases, is_whole }))
    }

    /// Whether any of these members of a shard lives under its sharded name, and the flat ones.
    async fn forms(
        &self,
        shard: Shard,
        members: Vec<Alias>,
    ) -> Result<(bool, Vec<Listed>), StoreError> {
        // Only ids of Odoo 14 to 17 can have a flat name: all of those have to be looked at. Of
        // the others one that lives is enough.
        let (short, long): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|alias| alias.family().is_none());
        let mut sharded = false;
        let mut flat = Vec::new();
        for aliases in short.chunks(PAGE) {
            for listed in self.listed(shard, aliases).await? {
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
            sharded = !self.listed(shard, aliases).await?.is_empty();
        }
        Ok((sharded, flat))
    }

    pub(super) async fn list_root(self: &Arc<Self>) -> Result<RootListing, StoreError> {
        let mut root = RootListing::default();
        let mut listing: JoinSet<Result<_, StoreError>> = JoinSet::new();
        for (shard, size) in self.shards_in_use().await? {
            if size > FEW && !shard.may_be_hex() {
                root.shards.push(shard);
                continue;
            }
            if listing.len() >= LISTED_AT_ONCE {
                note_shard(&mut root, listing.join_next().await)?;
            }
            let store = Arc::clone(self);
            listing.spawn(async move { Ok((shard, store.list_for_root(shard, size).await?)) });
        }
        while let Some(listed) = listing.join_next().await {
            note_shard(&mut root, Some(listed))?;
        }
        root.shards.sort_unstable();
        Ok(root)
    }

    /// The shards whose index is not empty, and how many sessions each has. Those that have ended
    /// and have not been read since are among them.
    pub(super) async fn shards_in_use(&self) -> Result<Vec<(Shard, u64)>, StoreError> {
        self.in_use(Shard::all().collect()).await
    }

    /// The same, of these shards.
    pub(super) async fn in_use(&self, all: Vec<Shard>) -> Result<Vec<(Shard, u64)>, StoreError> {
        let mut in_use = Vec::new();
        for shards in all.chunks(usize::from(SHARDS_AT_ONCE)) {
            let ask = |shard: &Shard| (Keys::slot(*shard), size(&self.keys, *shard));
            let answers = self.ask_all(shards.iter().map(ask).collect(), Need::Connected).await?;
            let sizes = Vec::<u64>::from_redis_value(Value::Array(answers))
                .map_err(|_| StoreError::Unreadable("an index of another shape".into()))?;
            in_use.extend(shards.iter().copied().zip(sizes).filter(|(_, size)| *size > 0));
        }
        Ok(in_use)
    }
}

/// Of the members of a shard's index, those that the root has to look at.
struct Outline {
    /// All that may be flat, and of the others the one used last.
    aliases: Vec<Alias>,
    /// There are no others.
    is_whole: bool,
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
