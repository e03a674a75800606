//! One Redis server that takes writes, and what is known of it alone: its connections, its clock,
//! and what it refuses. A replica that takes its place becomes the same primary.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, Once};

use redis::cluster_routing::Slot;
use tokio::task::AbortHandle;

use super::bulk::Bulk;
use super::clock::Time;
use super::greeting::Greeter;
use super::kept::Names;
use super::keys::Keys;
use super::link::{Link, Timing};
use super::live::Live;
use super::memory;
use super::target::Target;
use super::tracking::Tracking;
use crate::handoff::Kept;
use crate::session::name::Shard;
use crate::sync::lock;

/// With the last reference its task ends.
pub(super) struct Primary {
    pub link: Link,
    pub bulk: Bulk,
    pub time: Arc<Time>,
    pub info_refused: memory::Refused,
    names: Names,
    taken_up: Once,
    live: Arc<Live>,
    slots: Arc<Mutex<Slots>>,
    supervisor: AbortHandle,
}

/// Which slots a primary has.
#[derive(Clone, Default)]
pub(super) struct Slots {
    /// `None`: it is no part of a Cluster, and has all keys.
    some: Option<Arc<HashSet<Slot>>>,
    /// A shard among them, if there is one.
    shard: Option<Shard>,
}

impl Slots {
    fn of(some: Option<HashSet<Slot>>) -> Self {
        let has =
            |shard: &Shard| some.as_ref().is_none_or(|some| some.contains(&Keys::slot(*shard)));
        let shard = Shard::all().find(has);
        Self { some: some.map(Arc::new), shard }
    }

    pub(super) fn has(&self, slot: Slot) -> bool {
        self.some.as_ref().is_none_or(|some| some.contains(&slot))
    }

    /// A shard that it has: its keys stand for all others. `None` where there are too few slots.
    pub(super) fn shard(&self) -> Option<Shard> {
        self.shard
    }

    /// How many, in a Cluster.
    pub(super) fn count(&self) -> Option<u16> {
        Some(u16::try_from(self.some.as_ref()?.len()).unwrap_or(u16::MAX))
    }

    pub(super) fn is_part(&self) -> bool {
        self.some.is_some()
    }
}

/// What every primary is made with.
pub(super) struct Common {
    pub timing: Timing,
    pub greeter: Greeter,
    pub live: Arc<Live>,
    pub tracking: Arc<Tracking>,
    /// That a server is a master is asked of it: it is one that sentinels name.
    pub asks_role: bool,
    /// Whether Redis's clock is asked for: see [`Time`].
    pub real_clock: bool,
}

impl Primary {
    /// Connects from now on, on the current runtime.
    pub(super) fn start(
        target: Target,
        names: Names,
        common: &Arc<Common>,
        slots: Option<HashSet<Slot>>,
    ) -> Arc<Self> {
        let time = Arc::new(Time::new(common.real_clock));
        let bulk = Bulk::new(target.clone(), common.timing.connect);
        let slots = Arc::new(Mutex::new(Slots::of(slots)));
        let (now, probed) = (Arc::clone(&slots), Arc::clone(&slots));
        let probing = Arc::clone(common);
        let (greeting, greeted) = (Arc::clone(common), Arc::clone(&time));
        let (live, heartbeat) = (Arc::clone(&common.live), Arc::clone(&time));
        let (link, supervisor) = Link::new(
            target,
            common.timing,
            move || greeting.greeter.questions(&greeted, &lock(&now), greeting.asks_role),
            move || probing.greeter.probe(&lock(&probed)),
            Arc::clone(&common.tracking),
            move |answer, sent| {
                heartbeat.observe_answer(answer, sent, live.longest_idle_ms());
            },
        );
        Arc::new(Self {
            link,
            bulk,
            time,
            info_refused: memory::Refused::default(),
            names,
            taken_up: Once::new(),
            live: Arc::clone(&common.live),
            slots,
            supervisor: tokio::spawn(supervisor).abort_handle(),
        })
    }
}

impl Primary {
    /// Goes on with what the worker before has known of it, and leaves that to the next one. Once.
    pub(super) fn take_up(&self, kept: &Kept) {
        self.taken_up.call_once(|| {
            let (place, clock) = self.names.clock(kept);
            self.time.take_up(place, clock, self.live.longest_idle_ms());
            let (place, outages) = self.names.outages(kept);
            self.link.take_up(place, outages);
        });
    }

    /// Whether that was done.
    pub(super) fn has_taken_up(&self) -> bool {
        self.taken_up.is_completed()
    }

    pub(super) fn slots(&self) -> Slots {
        lock(&self.slots).clone()
    }

    /// It has these slots from now on.
    pub(super) fn has(&self, slots: Option<HashSet<Slot>>) {
        *lock(&self.slots) = Slots::of(slots);
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}
