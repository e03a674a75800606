//! Which primary has which key: one has all, or each of a Cluster has some slots.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::cluster_routing::Slot;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::access::Access;
use super::cluster::{self, Cluster, SLOTS, redirected_to};
use super::credentials::Credentials;
use super::endpoint::{Endpoint, Place};
use super::errors::{ErrorCode, ServerError};
use super::kept::{Names, are_known};
use super::keys::Keys;
use super::primary::{Common, Primary};
use super::sentinel::Sentinels;
use super::target::{Followed, Target};
use crate::handoff::Kept;
use crate::session::name::Shard;
use crate::store::{Health, Wait, Waited};

/// Before a request is sent again to whoever has its key now.
const REDIRECT_PAUSE: Duration = Duration::from_millis(10);

/// The primaries of a moment.
pub(super) struct Topology {
    /// Never empty.
    pub all: Vec<Arc<Primary>>,
    pub of_slot: HashMap<Slot, Arc<Primary>>,
    /// Has every other slot: the only primary, or, in a Cluster, what stands for the slots that no
    /// primary has, whose link is down. Where each slot has a primary, it is any of them.
    pub rest: Arc<Primary>,
}

impl Topology {
    /// Whether a Cluster has slots without a primary.
    pub(super) fn is_incomplete(&self) -> bool {
        self.of_slot.len() < usize::from(SLOTS)
    }
}

pub(super) struct Primaries {
    now: watch::Sender<Arc<Topology>>,
    /// Notified when a Cluster should be asked for its primaries.
    ask: Arc<Notify>,
    /// Counts the answers.
    refreshed: watch::Sender<u64>,
    is_cluster: bool,
    /// Where what is known of each is left to the next worker.
    kept: OnceLock<Kept>,
}

/// What to do with a request that was redirected.
pub(super) enum Redirect {
    /// Send it to whoever has the key now.
    Again,
    /// Send it to this one, which is just being given the key.
    Asking(Arc<Primary>),
}

/// The primaries of a deployment, on the current runtime, and the task that finds them, if they can
/// change.
pub(super) fn start(
    endpoint: &Endpoint,
    credentials: &Credentials,
    common: &Arc<Common>,
) -> (Arc<Primaries>, Option<AbortHandle>) {
    let access = Access::to_servers(endpoint, credentials);
    match &endpoint.place {
        Place::Single(at) => {
            let target = Target::fixed(access, at.clone(), endpoint.to_string());
            (Arc::new(Primaries::one(Primary::start(target, Names::Only, common, None))), None)
        }
        Place::Sentinel { sentinels, master } => {
            let (sender, found) = watch::channel(Err("no sentinel has answered yet".to_owned()));
            let ask = Arc::<Notify>::default();
            let followed = Followed { found, ask: Arc::clone(&ask) };
            let primary =
                Primary::start(Target::followed(access, followed), Names::Only, common, None);
            let sentinels = Sentinels {
                access: Access::to_sentinels(endpoint, credentials),
                at: sentinels.clone(),
                master: master.clone(),
            };
            let finder = tokio::spawn(sentinels.follow(sender, ask)).abort_handle();
            (Arc::new(Primaries::one(primary)), Some(finder))
        }
        Place::Cluster(named) => {
            let ask = Arc::<Notify>::default();
            let why = "no server of the Cluster has answered yet";
            let (nobody, unfound) = cluster::nobody(&access, common, Arc::clone(&ask), why);
            let primaries = Arc::new(Primaries::of_cluster(nobody, ask));
            let cluster = Cluster { access, named: named.clone() };
            let follow = cluster.follow(Arc::clone(&primaries), Arc::clone(common), unfound);
            (primaries, Some(tokio::spawn(follow).abort_handle()))
        }
    }
}

impl Primaries {
    /// One that has all keys.
    pub(super) fn one(primary: Arc<Primary>) -> Self {
        Self::new(primary, Arc::default(), false)
    }

    /// Those of a Cluster, none of which is known yet; `nobody` stands for them.
    pub(super) fn of_cluster(nobody: Arc<Primary>, ask: Arc<Notify>) -> Self {
        Self::new(nobody, ask, true)
    }

    fn new(rest: Arc<Primary>, ask: Arc<Notify>, is_cluster: bool) -> Self {
        let all = vec![Arc::clone(&rest)];
        let now = Arc::new(Topology { all, of_slot: HashMap::new(), rest });
        let (now, refreshed) = (watch::Sender::new(now), watch::Sender::new(0));
        Self { now, ask, refreshed, is_cluster, kept: OnceLock::new() }
    }

    /// Goes on with what the worker before has known of each, also of those that are found later, and leaves it to the
    /// next one.
    pub(super) fn take_up(&self, kept: &Kept) {
        self.kept.get_or_init(|| kept.clone());
        self.all_take_up();
    }

    fn all_take_up(&self) {
        if let Some(kept) = self.kept.get() {
            for primary in self.all() {
                primary.take_up(kept);
            }
            if !self.members().is_empty() {
                are_known(kept);
            }
        }
    }

    pub(super) fn now(&self) -> Arc<Topology> {
        Arc::clone(&self.now.borrow())
    }

    /// The one that has the keys of a slot.
    pub(super) fn of(&self, slot: Slot) -> Arc<Primary> {
        let now = self.now.borrow();
        Arc::clone(now.of_slot.get(&slot).unwrap_or(&now.rest))
    }

    pub(super) fn all(&self) -> Vec<Arc<Primary>> {
        self.now.borrow().all.clone()
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.is_cluster
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
        worst.unwrap_or_else(|| Arc::clone(&self.now().rest))
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

    /// A shard of one that is up, in a Cluster; of one that has answered a moment ago, if there is any.
    pub(super) fn any_up(&self) -> Option<Shard> {
        let members = if self.is_cluster { self.members() } else { Vec::new() };
        let up = members.iter().filter(|primary| primary.link.health() == Health::Up);
        let shards =
            up.filter_map(|primary| Some((primary.link.is_fresh(), primary.slots().shard()?)));
        shards.max_by_key(|(is_fresh, _)| *is_fresh).map(|(_, shard)| shard)
    }

    /// Whether one of them refuses changes because its memory is full.
    pub(super) fn is_full(&self, shard: Option<Shard>) -> bool {
        self.needed(shard).iter().any(|primary| primary.link.is_full())
    }

    /// Waits until all of them are as is needed, at most for one step of the first that is not.
    /// Another primary may be given the shard meanwhile.
    pub(super) async fn wait_up(&self, wait: Wait) -> Waited {
        let mut changes = self.now.subscribe();
        loop {
            changes.mark_unchanged();
            let all_up = async {
                for primary in self.needed(wait.shard) {
                    match primary.link.wait_up(wait).await {
                        Waited::Up => {}
                        waited => return waited,
                    }
                }
                Waited::Up
            };
            tokio::select! {
                biased;
                waited = all_up => return waited,
                Ok(()) = changes.changed() => {}
            }
        }
    }

    /// Waits until none is down, at most until `deadline`; false if one still is.
    pub(super) async fn up(&self, deadline: Instant) -> bool {
        let mut changes = self.now.subscribe();
        loop {
            changes.mark_unchanged();
            let all_up = async {
                for primary in self.all() {
                    if !primary.link.up(deadline).await {
                        return false;
                    }
                }
                true
            };
            tokio::select! {
                biased;
                up = all_up => return up,
                Ok(()) = changes.changed() => {}
            }
        }
    }

    /// For how long one could not be read (and changed, if `writes`): the longest time, if there is
    /// one.
    pub(super) fn outage(&self, writes: bool) -> Option<Duration> {
        self.all().iter().filter_map(|primary| primary.link.outage(writes)).max()
    }

    /// How long none of them could be read.
    pub(super) fn whole_outage(&self) -> Option<Duration> {
        let each: Option<Vec<_>> =
            self.all().iter().map(|primary| primary.link.outage(false)).collect();
        each?.into_iter().min()
    }
}

/// What a Cluster needs.
impl Primaries {
    /// All that there are: not what stands for slots that none has.
    pub(super) fn members(&self) -> Vec<Arc<Primary>> {
        let now = self.now();
        let lacks = self.is_cluster && now.is_incomplete();
        let is_there = |primary: &Arc<Primary>| !lacks || !Arc::ptr_eq(primary, &now.rest);
        now.all.iter().filter(|primary| is_there(primary)).cloned().collect()
    }

    /// The slots that no primary has.
    pub(super) fn uncovered_slots(&self) -> u16 {
        let covered = u16::try_from(self.now.borrow().of_slot.len()).unwrap_or(SLOTS);
        if self.is_cluster { SLOTS - covered } else { 0 }
    }

    pub(super) fn ask(&self) -> Arc<Notify> {
        Arc::clone(&self.ask)
    }

    /// Waits until somebody wants the Cluster to be asked.
    pub(super) async fn wanted(&self) {
        self.ask.notified().await;
    }

    /// The Cluster was asked, and what it said is followed.
    pub(super) fn tell_refreshed(&self) {
        self.refreshed.send_modify(|count| *count += 1);
    }

    /// Another topology holds from now on. What is no part of it is not used any more.
    pub(super) fn become_topology(&self, topology: Topology) {
        let topology = Arc::new(topology);
        let before = self.now.send_replace(Arc::clone(&topology));
        self.all_take_up();
        for primary in &before.all {
            if !topology.all.iter().any(|now| Arc::ptr_eq(now, primary)) {
                primary.link.retire("others have its slots");
            }
        }
    }

    /// What to do with a request that got this error, until `deadline`; `None`: give up.
    pub(super) async fn redirect(
        &self,
        error: &ServerError,
        deadline: Instant,
    ) -> Option<Redirect> {
        if !self.is_cluster || Instant::now() + REDIRECT_PAUSE >= deadline {
            return None;
        }
        if error.code == ErrorCode::Ask
            && let Some(primary) = self.at(error)
        {
            return Some(Redirect::Asking(primary));
        }
        if error.code != ErrorCode::TryAgain {
            let mut refreshed = self.refreshed.subscribe();
            self.ask.notify_one();
            timeout_at(deadline, refreshed.changed()).await.ok()?.ok()?;
        }
        sleep(REDIRECT_PAUSE).await;
        Some(Redirect::Again)
    }

    /// The primary that a redirection names.
    fn at(&self, error: &ServerError) -> Option<Arc<Primary>> {
        let at = redirected_to(error.words())?.to_string();
        self.all().into_iter().find(|primary| primary.link.server() == at)
    }
}
