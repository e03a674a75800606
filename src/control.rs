//! The status of a server: served on its sockets, and registered in Redis for its cluster.
//!
//! All of it runs on one thread of its own. The filesystem never waits for it: the status is read
//! from counters, and a slow client holds up only other clients.
//!
//! - [`pulse`]: the traffic of the last seconds, from counters that only grow; the registration
//! - [`health`]: whether sessions are served, for a load balancer
//! - [`gauges`]: values that have to be asked of Redis
//! - [`status`]: the status as JSON
//! - [`odoo`]: the sessions of a user, which Odoo's user may list and end
//! - [`server`]: HTTP on the sockets; [`client`]: the other end

pub mod client;
mod gauges;
pub(crate) mod health;
mod odoo;
mod pulse;
mod server;
pub(crate) mod status;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use self::gauges::Gauges;
use self::health::Health;
use self::pulse::Pulse;
use self::server::Endpoint;
use self::status::{Status, Worker};
use crate::config::Config;
use crate::parameters::follow::Shared;
use crate::redis::RedisStore;
use crate::session::policy::rule::Source;
use crate::store::{Health as Link, Link as _};
use crate::store::{Kept, Usage};
use crate::supervision::{KeeperInfo, RedisState};
use crate::sync::{lock, optional};
use crate::telemetry::metrics::{Now, metrics};
use crate::telemetry::recent;

/// The sockets that the keeper has made.
pub(crate) struct Sockets {
    /// For `status`.
    pub control: Option<OwnedFd>,
    /// For Prometheus: a unix or a TCP socket, as configured.
    pub metrics: Option<OwnedFd>,
    /// For Odoo's user.
    pub odoo: Option<OwnedFd>,
}

/// Serves and registers the status of one mount.
pub(crate) struct StatusService {
    config: Config,
    store: RedisStore,
    keeper: KeeperInfo,
    worker: Worker,
    parameters: Option<Shared>,
    in_use: Box<dyn Fn() -> (Usage, Kept) + Send + Sync>,
    report_to_keeper: Box<dyn Fn(RedisState) + Send + Sync>,
    pulse: Pulse,
    gauges: Gauges,
    stage: watch::Sender<Stage>,
}

/// The stages of its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// The filesystem is not mounted yet: clients wait, or the worker before answers them.
    Preparing,
    /// It serves the status, and is registered.
    Active,
    /// The end is near: it is not registered any more, and still answers.
    Leaving,
}

impl StatusService {
    /// Prepares the service, which is active from [`StatusService::mounted`] on. `in_use` returns what
    /// the filesystem holds, and what is kept beside the store; `report_to_keeper` is called when the state of Redis has changed.
    pub(crate) fn start(
        config: Config,
        store: RedisStore,
        keeper: KeeperInfo,
        sockets: Sockets,
        parameters: Option<Shared>,
        in_use: impl Fn() -> (Usage, Kept) + Send + Sync + 'static,
        report_to_keeper: impl Fn(RedisState) + Send + Sync + 'static,
    ) -> io::Result<Arc<Self>> {
        metrics().worker_restarts.inc_by(keeper.worker_restarts);
        recent::inherit(keeper.recent.clone());
        let service = Arc::new(Self {
            worker: Worker::own(),
            pulse: Pulse::default(),
            gauges: Gauges::default(),
            stage: watch::Sender::new(Stage::Preparing),
            in_use: Box::new(in_use),
            report_to_keeper: Box::new(report_to_keeper),
            config,
            store,
            keeper,
            parameters,
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let running = Arc::clone(&service);
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || runtime.block_on(run(running, sockets)))?;
        Ok(service)
    }

    /// The filesystem is mounted, or goes on to be: the service is active from now on.
    pub(crate) fn mounted(&self) {
        self.pulse.begin();
        self.stage.send_replace(Stage::Active);
    }

    /// The end is near: removes the registration.
    pub(crate) async fn leave(&self) {
        let was_active = self.stage.send_if_modified(|stage| {
            let is_active = *stage == Stage::Active;
            if is_active {
                *stage = Stage::Leaving;
            }
            is_active
        });
        if was_active && let Err(error) = self.store.remove_server(&self.keeper.id).await {
            tracing::debug!(%error, "cannot remove the status of this server from Redis; it \
                                     expires by itself");
        }
    }

    fn is_active(&self) -> bool {
        *self.stage.borrow() == Stage::Active
    }

    async fn metrics_text(&self) -> Result<String, std::fmt::Error> {
        let (writes, memory, population) = tokio::join!(
            self.store.ask_writes(),
            self.gauges.memory(&self.store),
            self.gauges.population(&self.store)
        );
        let (in_use, kept) = (self.in_use)();
        metrics().encode(&Now {
            in_use,
            kept,
            takes_writes: status::takes_writes(&writes),
            redis_memory_used_bytes: memory.map(|memory| memory.used_bytes),
            redis_memory_max_bytes: memory.map(|memory| memory.max_bytes),
            authenticated_sessions: population.map(|population| population.authenticated),
            anonymous_sessions: population.map(|population| population.anonymous),
        })
    }

    async fn health(&self) -> Health {
        let writes = self.store.ask_writes().await;
        let facts = health::Facts {
            stage: *self.stage.borrow(),
            unasked: self.pulse.unasked(),
            unasked_max: pulse::unasked_max(self.config.worker.answer_within_ms),
            outage: self.store.outage().map(|outage| (outage, self.store.link_cause())),
            whole_outage: self.store.whole_outage(),
            wait_total: Duration::from_millis(self.config.outage.wait_total_ms),
            writes,
        };
        facts.health()
    }

    /// The whole status, with what has to be asked of Redis for it.
    async fn status(&self) -> Status {
        let (server, sessions, cluster, writes, memory, population, deployment, keeping) = tokio::join!(
            self.store.server(),
            self.store.rough_count(),
            self.store.servers(),
            self.store.ask_writes(),
            self.gauges.memory(&self.store),
            self.gauges.population(&self.store),
            Box::pin(self.store.deployment()),
            Box::pin(self.store.trail_keeping())
        );
        let place = self.config.audit.as_ref().map(|audit| audit.place.to_string());
        let report = self.report();
        let (in_use, kept) = (self.in_use)();
        Status {
            keeper: status::Process { pid: self.keeper.pid, since_ms: self.keeper.since_ms },
            worker: self.worker.clone(),
            worker_restarts: metrics().worker_restarts.get(),
            redis: status::Redis::of(&self.store, server.ok(), &writes, memory, deployment),
            sessions: sessions.ok(),
            living: population,
            in_use,
            staging_max_bytes: self.config.limits.staging_bytes,
            memory_max_bytes: self.config.limits.memory_bytes,
            kept,
            requests: self.keeper.requests.clone(),
            trail: Some(status::Trail::of(place, self.store.takes_trail(), keeping.ok())),
            unidentified_callers: status::UnidentifiedCallers::own(),
            parameters: self.parameters.as_ref().map(|state| lock(state).clone()),
            parameters_left: self.parameters_left(),
            recent: recent::recent(),
            cluster: cluster.ok().map(|nodes| status::cluster(&nodes, Some(&report))),
            server: report,
        }
    }

    /// The rules that Odoo's system parameters have given, if these are not followed here.
    fn parameters_left(&self) -> Vec<String> {
        let rules = self.store.rules();
        let given = rules.all().iter().filter(|rule| rule.source == Source::Odoo);
        let places = given.map(|rule| format!("{} {}", rule.setting.key(), rule.selector));
        if self.parameters.is_some() { Vec::new() } else { places.collect() }
    }

    /// The state of Redis, as far as is known.
    fn redis_state(&self) -> RedisState {
        match self.store.writes().refusal() {
            _ if self.store.health(None) == Link::Down => RedisState::Down,
            Some(why) => RedisState::NoWrites(why.to_owned()),
            None => RedisState::Up,
        }
    }

    fn report(&self) -> status::Report {
        status::Report {
            id: self.keeper.id.clone().into(),
            host: self.worker.host.clone().into(),
            mountpoint: self.config.mountpoint.to_string_lossy().into_owned().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            since_ms: self.keeper.since_ms,
            link: self.store.health(None).label().into(),
            secrets: self.store.held_secrets(),
            format: self.store.newest_format(),
            rules: Some(self.store.rules().all().len()),
            traffic: self.pulse.traffic(),
            seen_seconds_ago: None,
        }
    }
}

/// Runs until the process ends.
async fn run(service: Arc<StatusService>, sockets: Sockets) {
    let mut stage = service.stage.subscribe();
    let _ = stage.wait_for(|stage| *stage != Stage::Preparing).await;
    let endpoints = [
        sockets.control.map(Endpoint::control),
        sockets.metrics.map(|socket| Endpoint::metrics(socket, service.config.metrics.as_ref())),
        sockets.odoo.map(|socket| Endpoint::odoo(socket, &service)),
    ];
    for endpoint in endpoints.into_iter().flatten() {
        match endpoint {
            Ok(endpoint) => {
                drop(tokio::spawn(optional(server::serve(endpoint, Arc::clone(&service)))));
            }
            Err(error) => tracing::warn!(%error, "a socket cannot be served"),
        }
    }
    tokio::spawn(optional(pulse::beat(Arc::clone(&service))));
    // With the end of this the thread's tasks would end.
    std::future::pending::<()>().await;
}
