//! What a node tells of itself: to who asks on its sockets, and now and then to its cluster.
//!
//! All of it runs on one thread of its own. The filesystem never waits for it: what is told is
//! read from counters, and whoever asks slowly holds up only this thread's other askers.
//!
//! - [`pulse`]: the last seconds, from counters that only ever grow; the registration
//! - [`health`]: whether sessions are served, for a load balancer
//! - [`gauges`]: what is asked of Redis for who looks on
//! - [`status`]: what is told, as JSON
//! - [`server`]: HTTP on the sockets; [`client`]: the other end

pub mod client;
mod gauges;
pub mod health;
mod pulse;
mod server;
pub mod status;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use self::gauges::Gauges;
use self::health::Health;
use self::pulse::Pulse;
use self::server::Door;
use self::status::{Status, Worker};
use crate::config::Config;
use crate::redis::RedisStore;
use crate::store::Usage;
use crate::store::{Health as Link, Link as _};
use crate::supervision::{KeeperInfo, RedisState};
use crate::telemetry::metrics::{Now, metrics};
use crate::telemetry::recent;

/// The sockets that the keeper has made.
pub struct Sockets {
    /// For `status`.
    pub control: Option<OwnedFd>,
    /// For Prometheus; what it is, the configuration says.
    pub metrics: Option<OwnedFd>,
}

/// A node that tells of itself.
pub struct Node {
    config: Config,
    store: RedisStore,
    keeper: KeeperInfo,
    worker: Worker,
    in_use: Box<dyn Fn() -> Usage + Send + Sync>,
    tell_keeper: Box<dyn Fn(RedisState) + Send + Sync>,
    pulse: Pulse,
    gauges: Gauges,
    stage: watch::Sender<Stage>,
}

/// Whether it still tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// Its mount is not in its place yet: whoever asks waits, or is answered by the worker before.
    Preparing,
    Telling,
    /// The end is near: it is taken out of the cluster, and goes on answering.
    Leaving,
    /// Another worker tells of this node.
    Succeeded,
}

impl Node {
    /// Gets ready to tell, from [`Node::in_place`] on. `in_use` says what the filesystem holds;
    /// `tell_keeper` says how it stands with Redis, whenever that has changed.
    pub fn start(
        config: Config,
        store: RedisStore,
        keeper: KeeperInfo,
        sockets: Sockets,
        in_use: impl Fn() -> Usage + Send + Sync + 'static,
        tell_keeper: impl Fn(RedisState) + Send + Sync + 'static,
    ) -> io::Result<Arc<Self>> {
        metrics().worker_restarts.inc_by(keeper.worker_restarts);
        recent::inherit(keeper.recent.clone());
        let node = Arc::new(Self {
            worker: Worker::own(),
            pulse: Pulse::default(),
            gauges: Gauges::default(),
            stage: watch::Sender::new(Stage::Preparing),
            in_use: Box::new(in_use),
            tell_keeper: Box::new(tell_keeper),
            config,
            store,
            keeper,
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let telling = Arc::clone(&node);
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || runtime.block_on(tell(telling, sockets)))?;
        Ok(node)
    }

    /// The mount is in its place: it tells from now on.
    pub fn in_place(&self) {
        self.pulse.begin();
        self.turn(Stage::Preparing, Stage::Telling);
    }

    /// From one stage to the next; false if it was in another.
    fn turn(&self, from: Stage, to: Stage) -> bool {
        self.stage.send_if_modified(|stage| {
            let turns = *stage == from;
            if turns {
                *stage = to;
            }
            turns
        })
    }

    /// The end is near: this node is not one of the cluster any more.
    pub async fn leave(&self) {
        let told = self.turn(Stage::Telling, Stage::Leaving);
        if told && let Err(error) = self.store.remove_server(&self.keeper.id).await {
            tracing::debug!(%error, "this server is still registered, for some seconds");
        }
    }

    /// Another worker of the same keeper tells from now on.
    pub fn succeeded(&self) {
        self.stage.send_replace(Stage::Succeeded);
    }

    fn is_telling(&self) -> bool {
        *self.stage.borrow() == Stage::Telling
    }

    async fn metrics_text(&self) -> Result<String, std::fmt::Error> {
        let (writes, memory, population) = tokio::join!(
            self.store.ask_writes(),
            self.gauges.memory(&self.store),
            self.gauges.population(&self.store)
        );
        metrics().encode(&Now { in_use: (self.in_use)(), writes, memory, population })
    }

    async fn health(&self) -> Health {
        let writes = self.store.ask_writes().await;
        let facts = health::Facts {
            stage: *self.stage.borrow(),
            unasked: self.pulse.unasked(),
            unasked_max: pulse::unasked_max(self.config.worker.answer_within_ms),
            outage: self.store.outage().map(|outage| (outage, self.store.link_cause())),
            wait_total: Duration::from_millis(self.config.outage.wait_total_ms),
            writes,
        };
        facts.health()
    }

    /// Everything, with what has to be asked of Redis for it.
    async fn status(&self) -> Status {
        let (server, sessions, cluster, writes, memory, population) = tokio::join!(
            self.store.server(),
            self.store.rough_count(),
            self.store.servers(),
            self.store.ask_writes(),
            self.gauges.memory(&self.store),
            self.gauges.population(&self.store)
        );
        let report = self.report();
        Status {
            keeper: status::Process { pid: self.keeper.pid, since_ms: self.keeper.since_ms },
            worker: self.worker.clone(),
            worker_restarts: metrics().worker_restarts.get(),
            redis: status::Redis::of(&self.store, server.ok(), &writes, memory),
            sessions: sessions.ok(),
            living: population,
            in_use: (self.in_use)(),
            unidentified_callers: status::UnidentifiedCallers::own(),
            recent: recent::recent(),
            cluster: cluster.ok().map(|nodes| status::cluster(&nodes, Some(&report))),
            server: report,
        }
    }

    /// How it stands with Redis, by what is known.
    fn standing(&self) -> RedisState {
        match self.store.writes().refusal() {
            _ if self.store.health() == Link::Down => RedisState::Down,
            Some(why) => RedisState::NoWrites(why.to_owned()),
            None => RedisState::Up,
        }
    }

    /// What it says of itself to the cluster.
    fn report(&self) -> status::Report {
        status::Report {
            id: self.keeper.id.clone(),
            host: self.worker.host.clone(),
            mountpoint: self.config.mountpoint.to_string_lossy().into_owned(),
            version: env!("CARGO_PKG_VERSION").into(),
            since_ms: self.keeper.since_ms,
            link: self.store.health().label().into(),
            traffic: self.pulse.traffic(),
            seen_seconds_ago: None,
        }
    }
}

/// Until another worker tells.
async fn tell(node: Arc<Node>, sockets: Sockets) {
    let mut stage = node.stage.subscribe();
    let _ = stage.wait_for(|stage| *stage != Stage::Preparing).await;
    let doors = [
        sockets.control.map(Door::control),
        sockets.metrics.map(|socket| Door::metrics(socket, node.config.metrics.as_ref())),
    ];
    for door in doors.into_iter().flatten() {
        match door {
            Ok(door) => drop(tokio::spawn(server::serve(door, Arc::clone(&node)))),
            Err(error) => tracing::warn!(%error, "a socket cannot be served"),
        }
    }
    tokio::spawn(pulse::beat(Arc::clone(&node)));
    // With the end of this the thread's tasks end, and its sockets are closed.
    let _ = stage.wait_for(|stage| *stage == Stage::Succeeded).await;
}
