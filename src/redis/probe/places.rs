//! Which servers are probed: the one that the URL names, the master that sentinels name, or each
//! primary of a Cluster. A URL of another kind than the server is refused with the right one.

use std::collections::HashSet;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster_routing::Slot;
use redis::{RedisError, Value};
use tokio::time::timeout;

use super::{ProbeError, fact, silent, understand};
use crate::redis::access::Access;
use crate::redis::cluster::{Cluster, Group, uncovered};
use crate::redis::credentials::Credentials;
use crate::redis::endpoint::{Address, Endpoint, Place};
use crate::redis::sentinel::Sentinels;

/// How to connect to the servers of a deployment.
pub(crate) struct Places {
    pub endpoint: Endpoint,
    credentials: Credentials,
    access: Access,
    to_sentinels: Access,
    bound: Duration,
}

/// One server that takes writes.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub at: Address,
    /// For messages, without credentials.
    pub shown: String,
    /// The slots that it has, in a Cluster.
    pub slots: Option<HashSet<Slot>>,
}

impl Places {
    pub(crate) fn new(endpoint: Endpoint, credentials: &Credentials, bound: Duration) -> Self {
        Self {
            access: Access::to_servers(&endpoint, credentials),
            to_sentinels: Access::to_sentinels(&endpoint, credentials),
            credentials: credentials.clone(),
            endpoint,
            bound,
        }
    }

    /// Connects to one of its servers.
    pub(crate) async fn connect(
        &self,
        server: &Server,
    ) -> Result<MultiplexedConnection, ProbeError> {
        open(&self.access, &server.at, self.bound)
            .await
            .map_err(|why| self.unopened(&server.shown, &why))
    }

    /// The servers that take writes, as far as that is known.
    pub(crate) async fn servers(&self) -> Result<Vec<Server>, ProbeError> {
        match &self.endpoint.place {
            Place::Single(at) => {
                let (at, shown) = (at.clone(), self.endpoint.to_string());
                Ok(vec![Server { at, shown, slots: None }])
            }
            Place::Sentinel { sentinels, .. } => {
                self.first(&self.to_sentinels, sentinels, "sentinel").await?;
                let at = self.master(&self.sentinels()).await?;
                Ok(vec![Server { shown: self.shown(&at), at, slots: None }])
            }
            Place::Cluster(named) => {
                self.first(&self.access, named, "cluster").await?;
                self.primaries(&self.groups(named).await?)
            }
        }
    }

    /// The first master that a sentinel names. One that is wrong may know less than the others; if
    /// all are, what the first one names is looked at.
    async fn master(&self, sentinels: &Sentinels) -> Result<Address, ProbeError> {
        let (mut named, mut seen) = (None, Vec::new());
        for at in &sentinels.at {
            match sentinels.asked(at).await {
                Ok(server) if self.is_master(&server).await => return Ok(server),
                Ok(server) => drop(named.get_or_insert(server)),
                Err(why) => seen.push(format!("{at}: {why}")),
            }
        }
        named.ok_or_else(|| {
            let (master, seen) = (&sentinels.master, seen.join("; "));
            let why = format!("no sentinel names the master {master} ({seen})");
            ProbeError::NoMaster(self.endpoint.to_string(), why)
        })
    }

    async fn is_master(&self, at: &Address) -> bool {
        let Ok(mut connection) = open(&self.access, at, self.bound).await else { return false };
        let asked = timeout(self.bound, hello(&mut connection)).await;
        asked.is_ok_and(|answer| {
            let is = |name, value| {
                answer.as_ref().is_ok_and(|all| fact(all, name).is_some_and(|found| found == value))
            };
            is("mode", "standalone") && is("role", "master")
        })
    }

    /// The sentinels, if that is what the URL names.
    pub(crate) fn sentinels(&self) -> Sentinels {
        let (at, master) = match &self.endpoint.place {
            Place::Sentinel { sentinels, master } => (sentinels.clone(), master.clone()),
            Place::Single(_) | Place::Cluster(_) => (Vec::new(), String::new()),
        };
        Sentinels { access: self.to_sentinels.clone(), at, master }
    }

    async fn groups(&self, named: &[Address]) -> Result<Vec<Group>, ProbeError> {
        let cluster = Cluster { access: self.access.clone(), named: named.to_vec() };
        let at = || self.endpoint.to_string();
        cluster.find().await.map_err(|why| {
            if why.contains("NOPERM") {
                ProbeError::NoPermission(at(), why)
            } else {
                ProbeError::Unreachable(at(), why)
            }
        })
    }

    fn primaries(&self, groups: &[Group]) -> Result<Vec<Server>, ProbeError> {
        let lacking = uncovered(groups);
        if lacking > 0 {
            let why = format!("no primary has {lacking} of its 16384 slots");
            return Err(ProbeError::NotReady(self.endpoint.to_string(), why));
        }
        let server = |group: &Group| {
            let at = group.primary.at.clone();
            Server { shown: self.shown(&at), at, slots: Some(group.slot_set()) }
        };
        Ok(groups.iter().map(server).collect())
    }

    fn shown(&self, at: &Address) -> String {
        let scheme = if self.endpoint.tls { "rediss" } else { "redis" };
        format!("{scheme}://{at}")
    }

    /// The first that answers, if it runs in this mode; else what was seen of the first.
    async fn first(
        &self,
        access: &Access,
        named: &[Address],
        mode: &str,
    ) -> Result<(), ProbeError> {
        let mut seen = None;
        for at in named {
            let shown = self.shown(at);
            let outcome = match open(access, at, self.bound).await {
                Ok(mut connection) => match hello(&mut connection).await {
                    Ok(answer) => return self.in_mode(shown, fact(&answer, "mode"), mode),
                    Err(error) => self.understand(&shown, &error),
                },
                Err(why) => self.unopened(&shown, &why),
            };
            // The others may be well.
            seen.get_or_insert(match outcome {
                ProbeError::AuthFailed(at) if mode == "sentinel" => ProbeError::SentinelAuth(at),
                outcome => outcome,
            });
        }
        Err(seen.unwrap_or_else(|| silent(&self.endpoint.to_string(), self.bound)))
    }

    fn unopened(&self, shown: &str, why: &Unopened) -> ProbeError {
        match why {
            Unopened::Failed(error) => self.understand(shown, error),
            Unopened::Silent => silent(shown, self.bound),
        }
    }

    /// What an error of the server at `shown` means.
    pub(super) fn understand(&self, shown: &str, error: &RedisError) -> ProbeError {
        understand(shown, error, &self.credentials)
    }

    fn in_mode(&self, shown: String, found: Option<String>, mode: &str) -> Result<(), ProbeError> {
        match found {
            Some(found) if found != mode => Err(self.wrong_mode(shown, found)),
            _ => Ok(()),
        }
    }

    /// It runs in another mode than the URL says.
    pub(super) fn wrong_mode(&self, shown: String, found: String) -> ProbeError {
        let tls = if self.endpoint.tls { "rediss" } else { "redis" };
        let at = match &self.endpoint.place {
            Place::Single(Address::Unix(_)) => "HOST:PORT".to_owned(),
            _ => shown
                .split("://")
                .nth(1)
                .unwrap_or_default()
                .split('/')
                .next()
                .unwrap_or_default()
                .to_owned(),
        };
        let url = match found.as_str() {
            "sentinel" => format!("{tls}-sentinel://{at}/MASTER/DB"),
            "cluster" => format!("{tls}-cluster://{at}"),
            _ => format!("{tls}://{at}/DB"),
        };
        ProbeError::Mode { at: shown, mode: found, url }
    }
}

/// Why a server cannot be connected to.
enum Unopened {
    Failed(RedisError),
    Silent,
}

async fn open(
    access: &Access,
    at: &Address,
    bound: Duration,
) -> Result<MultiplexedConnection, Unopened> {
    match timeout(bound, access.connect(at, bound, |_| {})).await {
        Ok(opened) => opened.map_err(Unopened::Failed),
        Err(_) => Err(Unopened::Silent),
    }
}

async fn hello(connection: &mut MultiplexedConnection) -> Result<Value, RedisError> {
    let command = redis::cmd("HELLO").arg(3).to_owned();
    connection.send_packed_command(&command).await.and_then(Value::extract_error)
}
