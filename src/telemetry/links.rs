//! The connections to the servers of Redis: what is counted of them, all together and each by
//! itself.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::metrics::{counter, metrics};
use crate::store::Health;
use crate::sync::lock;

/// Servers that have lines of their own. The addresses of a Cluster's servers come from it.
const SERVERS_MAX: usize = 128;

/// One connection. It counts until it is dropped.
#[derive(Debug)]
pub struct Observed(u64);

impl Observed {
    /// One that is not connected yet, which is no loss.
    pub(crate) fn new() -> Self {
        Self(metrics().links.begin())
    }

    /// It is in this state now, and leads to this server, if that is known.
    pub(super) fn is(&self, health: Health, server: Option<&str>) {
        metrics().links.is(self.0, health, server);
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        metrics().links.end(self.0);
    }
}

type States = [(&'static str, String); 2];

pub(super) struct Links {
    /// Of the worst.
    states: [(Health, Gauge); Health::ALL.len()],
    each: Family<States, Gauge>,
    down: Counter,
    outage: Counter<f64, AtomicU64>,
    /// Asked rarely: not by requests.
    now: Mutex<Now>,
}

struct Now {
    links: BTreeMap<u64, State>,
    begun: u64,
    /// Up to when the time of outages was counted.
    counted: Instant,
}

struct State {
    health: Health,
    server: Option<String>,
}

impl Now {
    fn worst(&self) -> Health {
        self.links.values().map(|link| link.health).max().unwrap_or(Health::Down)
    }
}

impl Links {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let states = Family::<[(&'static str, &'static str); 1], Gauge>::default();
        registry.register(
            "redis_link_state",
            "1 for the current state of the connection to Redis",
            states.clone(),
        );
        let each = Family::<States, Gauge>::default();
        registry.register(
            "redis_server_link_state",
            "1 for the current state of the connection to a server of Redis that takes writes",
            each.clone(),
        );
        let outage = Counter::default();
        registry.register_with_unit(
            "redis_outage",
            "Total time in which Redis could not be read",
            Unit::Seconds,
            outage.clone(),
        );
        let state =
            |health: Health| (health, states.get_or_create_owned(&[("state", health.label())]));
        Self {
            states: Health::ALL.map(state),
            each,
            down: counter(
                registry,
                "redis_link_down",
                "How often the connection to a server of Redis was lost",
            ),
            outage,
            now: Mutex::new(Now { links: BTreeMap::new(), begun: 0, counted: Instant::now() }),
        }
    }

    fn begin(&self) -> u64 {
        self.change(|now| {
            now.begun += 1;
            now.links.insert(now.begun, State { health: Health::Down, server: None });
            now.begun
        })
    }

    fn is(&self, link: u64, health: Health, server: Option<&str>) {
        self.change(|now| {
            let Some(state) = now.links.get_mut(&link) else { return };
            if health == Health::Down && state.health != Health::Down {
                self.down.inc();
            }
            state.health = health;
            state.server = server.map(ToOwned::to_owned);
        });
    }

    fn end(&self, link: u64) {
        self.change(|now| drop(now.links.remove(&link)));
    }

    fn change<T>(&self, change: impl FnOnce(&mut Now) -> T) -> T {
        let mut now = lock(&self.now);
        self.count(&mut now);
        change(&mut now)
    }

    /// Brings the time of outages up to now.
    fn count(&self, now: &mut Now) {
        let until = Instant::now();
        if !now.worst().is_readable() {
            self.outage.inc_by((until - now.counted).as_secs_f64());
        }
        now.counted = until;
    }

    /// How often a connection was lost, and how long one could not be read, all in all.
    pub(super) fn outages(&self) -> (u64, Duration) {
        self.change(|_| {});
        (self.down.get(), Duration::from_secs_f64(self.outage.get()))
    }

    /// Sets the gauges to what is so now.
    pub(super) fn show(&self) {
        self.change(|now| {
            for (state, gauge) in &self.states {
                gauge.set((*state == now.worst()).into());
            }
            self.each.clear();
            let known = now.links.values().filter_map(|link| Some((link, link.server.as_ref()?)));
            for (link, server) in known.take(SERVERS_MAX) {
                for state in Health::ALL {
                    let labels = [("server", server.clone()), ("state", state.label().to_owned())];
                    self.each.get_or_create(&labels).set((state == link.health).into());
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    /// With what they show.
    fn links() -> (Links, impl Fn(&Links) -> String) {
        let mut registry = Registry::default();
        let links = Links::new(&mut registry);
        let shown = move |links: &Links| {
            let mut text = String::new();
            links.show();
            encode(&mut text, &registry).unwrap();
            text
        };
        (links, shown)
    }

    #[test]
    fn an_outage_is_counted_once_and_for_as_long_as_it_lasts() {
        let (links, shown) = links();
        let link = links.begin();
        links.is(link, Health::Down, None);
        links.is(link, Health::Up, Some("a:1"));
        let (down, before) = links.outages();
        assert_eq!(down, 0, "a start is no loss");
        links.is(link, Health::Degraded, Some("a:1"));
        links.is(link, Health::Down, Some("a:1"));
        links.is(link, Health::Down, Some("a:1"));
        let (down, during) = links.outages();
        assert_eq!(down, 1);
        assert!(during > before);
        links.is(link, Health::Up, Some("a:1"));
        let (_, after) = links.outages();
        assert_eq!(links.outages(), (1, after));
        let text = shown(&links);
        assert!(text.contains("redis_link_state{state=\"up\"} 1\n"), "{text}");
        assert!(text.contains("redis_link_state{state=\"down\"} 0\n"), "{text}");
    }

    #[test]
    fn one_server_of_several_is_seen_and_the_worst_counts() {
        let (links, shown) = links();
        let (one, other) = (links.begin(), links.begin());
        links.is(one, Health::Up, Some("a:1"));
        links.is(other, Health::Up, Some("b:2"));
        links.is(one, Health::Down, Some("a:1"));
        // Later news of another one change nothing about it.
        links.is(other, Health::ReadOnly, Some("b:2"));
        let text = shown(&links);
        for line in [
            "redis_link_state{state=\"down\"} 1\n",
            "redis_server_link_state{server=\"a:1\",state=\"down\"} 1\n",
            "redis_server_link_state{server=\"b:2\",state=\"down\"} 0\n",
            "redis_server_link_state{server=\"b:2\",state=\"read_only\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        // It has left the Cluster.
        links.end(one);
        let text = shown(&links);
        assert!(text.contains("redis_link_state{state=\"read_only\"} 1\n"), "{text}");
        assert!(!text.contains("a:1"), "{text}");
        for _ in 0..2 * SERVERS_MAX {
            let link = links.begin();
            links.is(link, Health::Up, Some(&link.to_string()));
        }
        let series = shown(&links).matches("redis_server_link_state{").count();
        assert_eq!(series, SERVERS_MAX * Health::ALL.len());
    }
}
