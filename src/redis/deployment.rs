//! How Redis is deployed, as it is seen now: for `status` and `check`.

use serde::{Deserialize, Serialize};

use super::RedisStore;
use super::endpoint::{Endpoint, Place};
use super::primary::Primary;
use super::sentinel::Sentinels;
use crate::foreign::Foreign;
use crate::store::Health;

/// So many servers are named in a sentence.
pub(crate) const NAMED_MAX: usize = 3;

/// One server, a master that sentinels name, or a Cluster.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    Standalone,
    Sentinel,
    Cluster,
}

impl Mode {
    /// That of a URL.
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        match endpoint.place {
            Place::Single(_) => Self::Standalone,
            Place::Sentinel { .. } => Self::Sentinel,
            Place::Cluster(_) => Self::Cluster,
        }
    }
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Deployment {
    pub mode: Mode,
    /// The servers that take writes; only a Cluster has several.
    pub primaries: Vec<Server>,
    /// Slots of a Cluster that no primary has: their sessions wait.
    pub uncovered_slots: u16,
    /// Those that the URL names.
    pub sentinels: Vec<Watcher>,
}

/// A server that takes writes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Server {
    pub address: Foreign,
    /// How the link to it is.
    pub link: Foreign,
    /// How many slots of a Cluster it has.
    pub slots: Option<u16>,
    /// Nothing if that may not be asked (`INFO`).
    pub replicas: Option<Vec<Replica>>,
}

/// What follows a server.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Replica {
    pub address: Foreign,
    /// Whether it receives what is written: else it is being given everything first.
    pub online: bool,
    /// What it has not confirmed yet.
    pub behind_bytes: u64,
    /// Since it has confirmed anything.
    pub lag_seconds: u64,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Watcher {
    pub address: Foreign,
    pub answers: bool,
}

impl Server {
    fn is_away(&self) -> bool {
        [Health::Down, Health::Degraded].iter().any(|away| self.link == *away.label())
    }
}

impl Deployment {
    /// The replicas, if all primaries tell theirs.
    pub(crate) fn replicas(&self) -> Option<Vec<&Replica>> {
        let each: Option<Vec<_>> = self.primaries.iter().map(|one| one.replicas.as_ref()).collect();
        Some(each?.into_iter().flatten().collect())
    }

    /// Which primaries are not up, in words.
    fn unwell(&self) -> Option<String> {
        let unwell = self.primaries.iter().filter(|one| one.link != *"up");
        let mut named: Vec<_> =
            unwell.map(|one| format!("{} is {}", one.address, one.link)).collect();
        let more = named.split_off(named.len().min(NAMED_MAX)).len();
        if more > 0 {
            named.push(format!("{more} more are not up"));
        }
        (!named.is_empty()).then(|| named.join(", "))
    }

    /// How many primaries are away, and of how many, if it is not all of them.
    pub(crate) fn partly_away(&self) -> Option<(usize, usize)> {
        let away = self.primaries.iter().filter(|one| one.is_away()).count();
        (0 < away && away < self.primaries.len()).then_some((away, self.primaries.len()))
    }

    /// In words, for people; the address is elsewhere.
    pub(crate) fn words(&self) -> String {
        let counted = |count: usize, one: &str, more: &str| {
            format!("{count} {}", if count == 1 { one } else { more })
        };
        let mut words = Vec::new();
        match self.mode {
            Mode::Standalone => {}
            Mode::Sentinel => {
                let master = self.primaries.first().map(|one| one.address.to_string());
                words.push(format!("master {}", master.unwrap_or_default()));
            }
            Mode::Cluster => {
                let slots = match self.uncovered_slots {
                    0 => "all slots are covered".to_owned(),
                    lacking => format!("{lacking} slots have no primary"),
                };
                words.push(format!(
                    "{}, {slots}",
                    counted(self.primaries.len(), "primary", "primaries")
                ));
                words.extend(self.unwell());
            }
        }
        words.push(match self.replicas() {
            None if self.primaries.iter().all(|one| one.replicas.is_some() || one.is_away()) => {
                "replicas: unknown while Redis is away".to_owned()
            }
            None => "replicas: not permitted to ask (INFO)".to_owned(),
            Some(replicas) if replicas.is_empty() => "no replica".to_owned(),
            Some(replicas) => {
                let behind = replicas.iter().map(|one| one.behind_bytes).max().unwrap_or(0);
                let lag = replicas.iter().map(|one| one.lag_seconds).max().unwrap_or(0);
                let offline = match replicas.iter().filter(|one| !one.online).count() {
                    0 => String::new(),
                    n => format!(", {n} not in step"),
                };
                format!(
                    "{}{offline}, behind by at most {behind} bytes and {lag} s",
                    counted(replicas.len(), "replica", "replicas")
                )
            }
        });
        if !self.sentinels.is_empty() {
            let all = self.sentinels.len();
            let answer = self.sentinels.iter().filter(|one| one.answers).count();
            words.push(format!("{answer} of {} answer", counted(all, "sentinel", "sentinels")));
        }
        words.join("; ")
    }
}

impl RedisStore {
    /// Asks all servers, and all sentinels whether they answer.
    pub(crate) async fn deployment(&self) -> Deployment {
        let inner = &self.inner;
        let mut primaries = Vec::new();
        for primary in inner.primaries.members() {
            primaries.push(self.server_now(&primary).await);
        }
        let sentinels = match &inner.sentinels {
            Some(sentinels) => watchers(sentinels).await,
            None => Vec::new(),
        };
        let endpoint = inner.settings.endpoint();
        let mode = endpoint.as_ref().map_or(Mode::Standalone, Mode::of);
        let uncovered_slots = inner.primaries.uncovered_slots();
        Deployment { mode, primaries, uncovered_slots, sentinels }
    }

    async fn server_now(&self, primary: &Primary) -> Server {
        let info = self.inner.info(primary, "replication").await;
        Server {
            address: primary.link.server().into(),
            link: primary.link.health().label().into(),
            slots: primary.slots().count(),
            replicas: info.ok().map(|info| replicas(&info)),
        }
    }
}

async fn watchers(sentinels: &Sentinels) -> Vec<Watcher> {
    let mut watchers = Vec::new();
    for at in &sentinels.at {
        watchers
            .push(Watcher { address: at.to_string().into(), answers: sentinels.answers(at).await });
    }
    watchers
}

/// From an answer to `INFO replication`.
fn replicas(info: &str) -> Vec<Replica> {
    let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or(0_u64);
    let fact = |name: &str| {
        info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
    };
    let offset = number(fact("master_repl_offset"));
    let lines = info.lines().filter_map(|line| {
        let (name, facts) = line.trim().split_once(':')?;
        let number = name.strip_prefix("slave")?;
        number.bytes().all(|b| b.is_ascii_digit()).then_some(facts)
    });
    lines
        .map(|facts| {
            let fact = |name: &str| {
                facts.split(',').find_map(|fact| fact.strip_prefix(name)?.strip_prefix('='))
            };
            let (host, port) = (fact("ip").unwrap_or_default(), fact("port").unwrap_or_default());
            Replica {
                address: format!("{host}:{port}").into(),
                online: fact("state") == Some("online"),
                behind_bytes: offset.saturating_sub(number(fact("offset"))),
                lag_seconds: number(fact("lag")),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_read_from_info() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
                    slave0:ip=10.0.0.2,port=6379,state=online,offset=90,lag=1\r\n\
                    slave1:ip=10.0.0.3,port=6380,state=wait_bgsave,offset=0,lag=0\r\n\
                    slave_read_only:1\r\nmaster_repl_offset:100\r\n";
        let found = replicas(info);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].address.to_string(), "10.0.0.2:6379");
        assert_eq!((found[0].online, found[0].behind_bytes, found[0].lag_seconds), (true, 10, 1));
        assert!(!found[1].online);
        let server = |replicas| Server {
            address: "10.0.0.1:6379".into(),
            link: "up".into(),
            slots: None,
            replicas,
        };
        let watcher = |answers| Watcher { address: "s".into(), answers };
        let mut deployment = Deployment {
            mode: Mode::Sentinel,
            primaries: vec![server(Some(found))],
            uncovered_slots: 0,
            sentinels: vec![watcher(true), watcher(false)],
        };
        assert_eq!(
            deployment.words(),
            "master 10.0.0.1:6379; 2 replicas, 1 not in step, behind by at most 100 bytes and 1 s; \
             1 of 2 sentinels answer"
        );
        deployment.primaries = vec![Server { link: "down".into(), ..server(None) }];
        assert!(deployment.words().contains("replicas: unknown while Redis is away"));
        deployment = Deployment {
            mode: Mode::Cluster,
            primaries: vec![
                server(None),
                Server { address: "10.0.0.2:6379".into(), link: "down".into(), ..server(None) },
            ],
            uncovered_slots: 7,
            sentinels: vec![],
        };
        assert_eq!(
            deployment.words(),
            "2 primaries, 7 slots have no primary; 10.0.0.2:6379 is down; \
             replicas: not permitted to ask (INFO)"
        );
    }
}
