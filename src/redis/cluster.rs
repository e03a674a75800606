//! Which servers a Redis Cluster has, and which of its slots each primary has.
//!
//! Any server of the Cluster tells all others. It is asked again and again: once a second, more
//! often while a primary is away, and at once when a server says that it does not have a key (any
//! more). A replica that is promoted takes the place of the primary that it replicated: its link,
//! and the budget of its outage, go on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom as _;
use redis::Value;
use redis::aio::MultiplexedConnection;
use redis::cluster_routing::Slot;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::access::Access;
use super::endpoint::Address;
use super::kept::Names;
use super::link::error_text;
use super::primaries::{Primaries, Topology};
use super::primary::{Common, Primary};
use super::target::{Followed, Found, Target};
use crate::store::Health;

/// A server that takes longer is passed over.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
const ASK_EVERY: Duration = Duration::from_secs(1);
/// While a primary is away.
const ASK_AWAY_EVERY: Duration = Duration::from_millis(250);
/// However often it is wanted.
const ASK_PAUSE: Duration = Duration::from_millis(10);
/// While a primary is away, another server is asked after so many questions: the one that is asked
/// may be cut off from the others.
const ASKED_IN_VAIN: u32 = 4;
pub(super) const SLOTS: u16 = 16_384;

/// The servers that are known, and how to connect to one.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub access: Access,
    /// Those that the URL names.
    pub named: Vec<Address>,
}

/// One server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Member {
    pub id: String,
    pub at: Address,
}

/// A primary, its slots and its replicas.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Group {
    pub primary: Member,
    pub replicas: Vec<Member>,
    /// First and last of each range.
    pub slots: Vec<(u16, u16)>,
}

impl Group {
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }

    pub(crate) fn slot_set(&self) -> HashSet<Slot> {
        self.slots.iter().flat_map(|(first, last)| *first..=*last).filter_map(Slot::new).collect()
    }
}

/// The slots that no primary has.
pub(crate) fn uncovered(groups: &[Group]) -> u16 {
    let covered: HashSet<Slot> = groups.iter().flat_map(Group::slot_set).collect();
    SLOTS - u16::try_from(covered.len()).unwrap_or(SLOTS)
}

impl Cluster {
    /// Its groups, as the first server says that knows one for each slot, else the one that knows
    /// most; or what was seen.
    pub(crate) async fn find(&self) -> Result<Vec<Group>, String> {
        let mut seen = Vec::new();
        let mut best: Option<Vec<Group>> = None;
        for at in &self.named {
            let found = match self.open(at).await {
                Ok(mut connection) => ask(&mut connection, at).await,
                Err(why) => Err(why),
            };
            match found {
                Ok(groups) if uncovered(&groups) == 0 => return Ok(groups),
                Ok(groups) => match &best {
                    Some(best) if uncovered(best) <= uncovered(&groups) => {}
                    _ => best = Some(groups),
                },
                Err(why) => seen.push(format!("{at}: {why}")),
            }
        }
        if let Some(groups) = best {
            return Ok(groups);
        }
        Err(format!("no server of the Cluster answers ({})", seen.join("; ")))
    }

    async fn open(&self, at: &Address) -> Result<MultiplexedConnection, String> {
        let open = self.access.connect(at, ANSWER_WITHIN, |_| {});
        match timeout(ANSWER_WITHIN, open).await {
            Ok(opened) => opened.map_err(|error| error_text(&error)),
            Err(_) => Err(silent()),
        }
    }

    /// Keeps the primaries as they are in the Cluster, from now on. `unfound` explains why the primaries
    /// of the beginning are not known.
    pub(super) async fn follow(
        self,
        primaries: Arc<Primaries>,
        common: Arc<Common>,
        unfound: watch::Sender<Found>,
    ) {
        let mut parts = Parts {
            access: self.access.clone(),
            common,
            primaries: Arc::clone(&primaries),
            all: Vec::new(),
        };
        let mut source = Source { next: self.named.clone(), asked: None, cluster: self };
        let mut in_vain = 0;
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let answer = source.groups().await.and_then(|(at, groups)| {
                // One that was removed may be in another Cluster by now.
                let is_last = seen.len() + 1 >= source.next.len();
                if is_last || parts.knows(&groups) { Ok(groups) } else { Err((at, strange())) }
            });
            match answer {
                Ok(groups) => {
                    source.know(&groups);
                    parts.update(&groups);
                    primaries.tell_refreshed();
                    seen.clear();
                }
                Err((at, why)) => {
                    source.asked = None;
                    tracing::debug!(server = %at, why, "another server of the Cluster is asked");
                    seen.insert(at.to_string(), why);
                    if seen.len() >= source.next.len() {
                        unfound.send_if_modified(|found| explain(found, &seen));
                    }
                    // One round of all takes no shorter.
                    sleep(ASK_AWAY_EVERY / u32::try_from(source.next.len()).unwrap_or(1)).await;
                    continue;
                }
            }
            let is_well = primaries.health(None) == Health::Up;
            in_vain = if is_well { 0 } else { in_vain + 1 };
            if in_vain >= ASKED_IN_VAIN {
                (source.asked, in_vain) = (None, 0);
            }
            let pause = if is_well { ASK_EVERY } else { ASK_AWAY_EVERY };
            sleep(ASK_PAUSE).await;
            let _ = timeout(pause, primaries.wanted()).await;
        }
    }
}

/// The server that is asked, and those that are when it does not answer.
struct Source {
    cluster: Cluster,
    next: Vec<Address>,
    asked: Option<(Address, MultiplexedConnection)>,
}

impl Source {
    /// What the server says that is asked now; or which one did not answer, and why.
    async fn groups(&mut self) -> Result<(Address, Vec<Group>), (Address, String)> {
        let (at, mut connection) = match self.asked.take() {
            Some(asked) => asked,
            None => self.open_next().await?,
        };
        match ask(&mut connection, &at).await {
            Ok(groups) => {
                self.asked = Some((at.clone(), connection));
                Ok((at, groups))
            }
            Err(why) => Err((at, why)),
        }
    }

    async fn open_next(&mut self) -> Result<(Address, MultiplexedConnection), (Address, String)> {
        let at = self.next.remove(0);
        self.next.push(at.clone());
        match self.cluster.open(&at).await {
            Ok(connection) => Ok((at, connection)),
            Err(why) => Err((at, why)),
        }
    }

    /// Next are asked those that the Cluster has, by chance, and then those of the URL.
    fn know(&mut self, groups: &[Group]) {
        let members = groups.iter().flat_map(Group::members);
        self.next = members.map(|member| member.at.clone()).collect();
        self.next.shuffle(&mut rand::rng());
        for named in &self.cluster.named {
            if !self.next.contains(named) {
                self.next.push(named.clone());
            }
        }
    }
}

/// A group, and the primary that stands for it here.
struct Part {
    group: Group,
    primary: Arc<Primary>,
    found: watch::Sender<Found>,
}

struct Parts {
    access: Access,
    common: Arc<Common>,
    primaries: Arc<Primaries>,
    all: Vec<Part>,
}

impl Parts {
    /// Whether these are groups of the same Cluster: one of the servers is the same.
    fn knows(&self, groups: &[Group]) -> bool {
        let mut known = self.all.iter().flat_map(|part| part.group.members());
        self.all.is_empty()
            || known.any(|old| groups.iter().flat_map(Group::members).any(|new| new.id == old.id))
    }

    /// Follows what a server says.
    fn update(&mut self, groups: &[Group]) {
        if groups.len() == self.all.len()
            && groups.iter().all(|group| self.all.iter().any(|part| part.group == *group))
        {
            return;
        }
        let mut before = std::mem::take(&mut self.all);
        for group in groups {
            // By its primary, or by a replica that was promoted.
            let is_same = |part: &Part| part.group.primary.id == group.primary.id;
            let shares = |part: &Part| {
                part.group.members().any(|old| group.members().any(|new| new.id == old.id))
                    && !groups.iter().any(|other| other.primary.id == part.group.primary.id)
            };
            let known = before.iter().position(is_same).or_else(|| before.iter().position(shares));
            let part = match known {
                Some(known) => before.swap_remove(known).become_group(group),
                None => self.begin(group),
            };
            self.all.push(part);
        }
        self.tell();
    }

    fn begin(&self, group: &Group) -> Part {
        let (found, followed) = self.followed(Ok(group.primary.at.clone()));
        let target = Target::followed(self.access.clone(), followed);
        let names = Names::Ids(group.members().map(|member| member.id.clone()).collect());
        let primary = Primary::start(target, names, &self.common, Some(group.slot_set()));
        Part { group: group.clone(), primary, found }
    }

    fn followed(&self, found: Found) -> (watch::Sender<Found>, Followed) {
        let (sender, found) = watch::channel(found);
        let ask = self.primaries.ask();
        (sender, Followed { found, ask })
    }

    fn tell(&self) {
        let mut of_slot = HashMap::with_capacity(SLOTS.into());
        for part in &self.all {
            let slots = part.group.slot_set();
            of_slot.extend(slots.into_iter().map(|slot| (slot, Arc::clone(&part.primary))));
        }
        let mut all: Vec<_> = self.all.iter().map(|part| Arc::clone(&part.primary)).collect();
        let is_covered = of_slot.len() == usize::from(SLOTS);
        let before = self.primaries.now();
        let rest = match all.first() {
            Some(any) if is_covered => Arc::clone(any),
            // Whoever waits for slots that nobody has had before goes on waiting.
            _ if before.is_incomplete() => Arc::clone(&before.rest),
            _ => {
                let ask = self.primaries.ask();
                nobody(&self.access, &self.common, ask, "slots have no primary").0
            }
        };
        if !is_covered {
            all.push(Arc::clone(&rest));
        }
        self.primaries.become_topology(Topology { all, of_slot, rest });
        // Of what was read from a server that has lost its slot, nobody tells.
        self.common.tracking.all_changed();
    }
}

fn explain(found: &mut Found, seen: &BTreeMap<String, String>) -> bool {
    let seen: Vec<_> = seen.iter().map(|(at, why)| format!("{at}: {why}")).collect();
    let now = Err(format!("no server of the Cluster answers ({})", seen.join("; ")));
    let changes = *found != now;
    *found = now;
    changes
}

/// Stands for the slots that no primary has: its link is down.
pub(super) fn nobody(
    access: &Access,
    common: &Arc<Common>,
    ask: Arc<Notify>,
    why: &str,
) -> (Arc<Primary>, watch::Sender<Found>) {
    let (sender, found) = watch::channel(Err(why.to_owned()));
    let target = Target::followed(access.clone(), Followed { found, ask });
    (Primary::start(target, Names::Nobody, common, Some(HashSet::new())), sender)
}

impl Part {
    fn become_group(self, group: &Group) -> Self {
        let now = Ok(group.primary.at.clone());
        self.found.send_if_modified(|found| {
            let changes = *found != now;
            *found = now;
            changes
        });
        self.primary.has(Some(group.slot_set()));
        Self { group: group.clone(), ..self }
    }
}

async fn ask(connection: &mut MultiplexedConnection, at: &Address) -> Result<Vec<Group>, String> {
    let command = redis::cmd("CLUSTER").arg("SLOTS").to_owned();
    let answer = timeout(ANSWER_WITHIN, connection.send_packed_command(&command)).await;
    let answer = answer.map_err(|_| silent())?;
    let answer = answer.and_then(Value::extract_error).map_err(|error| error_text(&error))?;
    match read(answer, at) {
        // One that was reset, as `redis-cli --cluster del-node` does. The others know more.
        Some(groups) if groups.is_empty() => Err("it knows of no slots".to_owned()),
        Some(groups) => Ok(groups),
        None => Err("it gave an invalid answer to CLUSTER SLOTS".to_owned()),
    }
}

fn strange() -> String {
    "it is in another Cluster".to_owned()
}

fn silent() -> String {
    format!("no answer within {} ms", ANSWER_WITHIN.as_millis())
}

/// Reads an answer to `CLUSTER SLOTS` of the server at `at`.
fn read(answer: Value, at: &Address) -> Option<Vec<Group>> {
    let Value::Array(ranges) = answer else { return None };
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for range in ranges {
        let Value::Array(facts) = range else { return None };
        let [Value::Int(first), Value::Int(last), primary, replicas @ ..] = &facts[..] else {
            return None;
        };
        let range = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
        if range.0 > range.1 || range.1 >= SLOTS {
            return None;
        }
        let primary = member(primary, at)?;
        let replicas: Vec<Member> = replicas.iter().filter_map(|one| member(one, at)).collect();
        let id = primary.id.clone();
        let group =
            groups.entry(id).or_insert(Group { primary, replicas: Vec::new(), slots: Vec::new() });
        group.slots.push(range);
        for replica in replicas {
            if !group.replicas.contains(&replica) {
                group.replicas.push(replica);
            }
        }
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    for group in &mut groups {
        group.slots.sort_unstable();
        group.replicas.sort_by(|a, b| a.id.cmp(&b.id));
    }
    Some(groups)
}

/// Host, port and id. A host that the server does not know is the one that was asked.
fn member(value: &Value, at: &Address) -> Option<Member> {
    let Value::Array(facts) = value else { return None };
    let [host, Value::Int(port), id, ..] = &facts[..] else { return None };
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    };
    let host = match (text(host).filter(|host| !host.is_empty() && host != "?"), at) {
        (Some(host), _) => host,
        (None, Address::Tcp(host, _)) => host.clone(),
        (None, Address::Unix(_)) => return None,
    };
    Some(Member { id: text(id)?, at: Address::Tcp(host, u16::try_from(*port).ok()?) })
}

/// Where a server says that a key is, in `ASK SLOT HOST:PORT` or `MOVED SLOT HOST:PORT`.
pub(super) fn redirected_to(words: &str) -> Option<Address> {
    let (host, port) = words.split(' ').nth(2)?.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some(Address::Tcp(host.to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn server(host: Value, port: i64, id: &str) -> Value {
        Value::Array(vec![host, Value::Int(port), text(id), Value::Array(vec![])])
    }

    #[test]
    fn slots_and_replicas_of_one_primary_are_one_group() {
        let asked = Address::Tcp("seed".into(), 7000);
        let range = |first, last, servers: Vec<Value>| {
            Value::Array([vec![Value::Int(first), Value::Int(last)], servers].concat())
        };
        let a = || server(text("10.0.0.1"), 1, "a");
        let answer = Value::Array(vec![
            range(10, 20, vec![a(), server(text("10.0.0.2"), 2, "r")]),
            range(0, 5, vec![a()]),
            range(6, 9, vec![server(Value::Nil, 3, "b")]),
            range(21, 16_383, vec![server(text("?"), 4, "c")]),
        ]);
        let groups = read(answer, &asked).expect("an answer");
        let of = |id: &str| groups.iter().find(|group| group.primary.id == id).expect(id);
        assert_eq!(of("a").slots, [(0, 5), (10, 20)]);
        assert_eq!(of("a").replicas.len(), 1);
        assert_eq!(of("b").primary.at, Address::Tcp("seed".into(), 3));
        assert_eq!(of("c").primary.at, Address::Tcp("seed".into(), 4));
        assert_eq!(uncovered(&groups), 0);
        assert_eq!(uncovered(&groups[..1]), 16_384 - 17);
    }

    #[test]
    fn an_answer_of_another_shape_is_none() {
        let asked = Address::Tcp("seed".into(), 7000);
        for answer in [
            Value::Nil,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![Value::Array(vec![Value::Int(0), Value::Int(20_000)])]),
            Value::Array(vec![Value::Array(vec![
                Value::Int(0),
                Value::Int(20_000),
                server(text("h"), 1, "a"),
            ])]),
        ] {
            assert_eq!(read(answer, &asked), None);
        }
    }

    #[test]
    fn a_redirection_names_the_server() {
        let to = |words| redirected_to(words);
        assert_eq!(to("ASK 5 10.0.0.1:6380"), Some(Address::Tcp("10.0.0.1".into(), 6380)));
        assert_eq!(to("MOVED 5 ::1:6380"), Some(Address::Tcp("::1".into(), 6380)));
        assert_eq!(to("ASK 5"), None);
    }
}
