//! Which primary has which key: there is one for all, or each of a Cluster has some slots.

use std::sync::Arc;
use std::time::Duration;

use redis::cluster_routing::Slot;
use tokio::time::Instant;

use super::keys::Keys;
use super::primary::Primary;
use crate::session::name::Shard;
use crate::store::{Health, Wait, Waited};

/// All primaries; never none.
pub(super) struct Primaries {
    one: Arc<Primary>,
}

impl Primaries {
    /// One that has all keys.
    pub(super) fn one(primary: Arc<Primary>) -> Self {
        Self { one: primary }
    }

    /// The one that has the keys of a slot.
    pub(super) fn of(&self, _slot: Slot) -> Arc<Primary> {
        Arc::clone(&self.one)
    }

    pub(super) fn all(&self) -> Vec<Arc<Primary>> {
        vec![Arc::clone(&self.one)]
    }

    /// All with the connections that they have now, to be given up together.
    pub(super) fn connections(&self) -> Vec<(Arc<Primary>, u64)> {
        let connection = |primary: Arc<Primary>| {
            let generation = primary.link.generation();
            (primary, generation)
        };
        self.all().into_iter().map(connection).collect()
    }

    /// The one that has a shard, or all.
    fn needed(&self, shard: Option<Shard>) -> Vec<Arc<Primary>> {
        match shard {
            Some(shard) => vec![self.of(Keys::slot(shard))],
            None => self.all(),
        }
    }

    /// The one whose link is worst.
    pub(super) fn worst(&self) -> Arc<Primary> {
        let worst = self.all().into_iter().max_by_key(|primary| primary.link.health());
        worst.unwrap_or_else(|| Arc::clone(&self.one))
    }

    /// How the links are that are needed for a shard, or for all: the worst of them.
    pub(super) fn health(&self, shard: Option<Shard>) -> Health {
        let health = self.needed(shard).iter().map(|primary| primary.link.health()).max();
        health.unwrap_or(Health::Down)
    }

    /// Whether all of them have answered a moment ago.
    pub(super) fn is_fresh(&self, shard: Option<Shard>) -> bool {
        self.needed(shard).iter().all(|primary| primary.link.is_fresh())
    }

    /// Whether one of them refuses changes because its memory is full.
    pub(super) fn is_full(&self, shard: Option<Shard>) -> bool {
        self.needed(shard).iter().any(|primary| primary.link.is_full())
    }

    /// Waits until all of them are as is needed, at most for one step of the first that is not.
    pub(super) async fn wait_up(&self, wait: Wait) -> Waited {
        for primary in self.needed(wait.shard) {
            match primary.link.wait_up(wait).await {
                Waited::Up => {}
                waited => return waited,
            }
        }
        Waited::Up
    }

    /// Waits until none is down, at most until `deadline`; false if one still is.
    pub(super) async fn up(&self, deadline: Instant) -> bool {
        for primary in self.all() {
            if !primary.link.up(deadline).await {
                return false;
            }
        }
        true
    }

    /// For how long one could not be read (and changed, if `writes`): the longest time, if there is
    /// one.
    pub(super) fn outage(&self, writes: bool) -> Option<Duration> {
        self.all().iter().filter_map(|primary| primary.link.outage(writes)).max()
    }
}
