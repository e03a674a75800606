//! Random histories of two nodes on one Redis against a plain map with expiry.
//!
//! The model judges by `session::policy`, rules included, the nodes by the scripts: the two are held
//! against each other at every step. 256 histories; 64 with `SESSIONFS_TEST_QUICK=1`, and as many as
//! `PROPTEST_CASES` says if it says so. A run that fails names its seed: with the same one in
//! `PROPTEST_RNG_SEED` the histories are the same.

mod support;

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};
use sessionfs::redis::scripts::Scripts;
use sessionfs::redis::{RedisStore, Settings};
use sessionfs::session::content::{Class, Content};
use sessionfs::session::name::{Alias, Form};
use sessionfs::session::packing;
use sessionfs::session::policy::Lifetimes;
use sessionfs::session::policy::rule::{Rule, Selector, Setting, Source};
use sessionfs::session::policy::rules::Rules;
use sessionfs::store::{
    Amend, Attempt, ChangeId, Claim, Listed, Lookup, Mtime, Publish, Published, Sessions as _,
    Stamp, Unlink, Unlinked,
};
use support::model::{Model, Outcome, UNIT};
use support::redis::Redis;
use support::store::{alias, connected, settings, short_alias};

const SHARD: &str = "ab";
const SESSIONS: usize = 4;
const THREADS: usize = 3;
/// The first time on the clock.
const BEGIN_MS: u64 = 1_800_000_000_000;

/// A clock that stands still until a history lets time pass.
const CLOCK: &str = "
if redis.replicate_commands then redis.replicate_commands() end
local function now_ms() return tonumber(redis.call('GET', 'test:now') or '1800000000000') end
";

/// Lets `ARGV[1]` ms pass for every key, and sets the clock to `ARGV[2]`. TTLs come out in half
/// units, as if no real time had passed (the 2 ms: a first opening may have added one).
const PASS: &str = "
for _, key in ipairs(redis.call('KEYS', 'sessionfs:*')) do
  local left = math.ceil((redis.call('PTTL', key) - ARGV[1] - 2) / 30000) * 30000
  if left > 0 then redis.call('PEXPIRE', key, left) else redis.call('DEL', key) end
end
redis.call('SET', 'test:now', ARGV[2])
";

#[derive(Clone, Debug)]
enum Op {
    /// A save by a thread of a node; `sent: false`: its first sending is lost on the way.
    Save {
        by: By,
        session: usize,
        save: Save,
        sent: bool,
    },
    /// A read; activity unless the process is a background one.
    Open {
        by: By,
        session: usize,
        background: bool,
    },
    /// A removal by the id, or by the alias out of a listing.
    Unlink {
        by: By,
        session: usize,
        listed: bool,
        /// It may be held, if this thread has opened the session.
        held: bool,
        sent: bool,
    },
    /// `chmod` or `utimens`.
    Amend {
        by: By,
        session: usize,
        mode: Option<u32>,
        mtime: Option<i64>,
    },
    List {
        by: By,
    },
    /// Time passes.
    Pass {
        units: u64,
    },
    /// An earlier change is sent again, by any node.
    Again {
        by: By,
        /// Which one, counted from the first and over again.
        which: usize,
    },
}

#[derive(Clone, Copy, Debug)]
struct By {
    node: usize,
    thread: usize,
}

#[derive(Clone, Debug)]
struct Save {
    authenticated: bool,
    uid: i64,
    background: bool,
    after_failed_read: bool,
    /// Tell of another session of the family that this thread may have opened.
    sibling: Option<usize>,
    size: usize,
}

fn by() -> impl Strategy<Value = By> {
    (0..2_usize, 0..THREADS).prop_map(|(node, thread)| By { node, thread })
}

fn save() -> impl Strategy<Value = Save> {
    let rarely = || prop::bool::weighted(0.2);
    (
        prop::bool::weighted(0.7),
        7_i64..9,
        rarely(),
        rarely(),
        prop::option::weighted(0.2, 0..SESSIONS),
        0..50_usize,
    )
        .prop_map(|(authenticated, uid, background, after_failed_read, sibling, size)| Save {
            authenticated,
            uid,
            background,
            after_failed_read,
            sibling,
            size,
        })
}

fn op() -> impl Strategy<Value = Op> {
    let session = || 0..SESSIONS;
    let sent = || prop::bool::weighted(0.85);
    let pass = prop_oneof![4 => 1..20_u64, 1 => 20..200_u64];
    prop_oneof![
        6 => (by(), session(), save(), sent())
            .prop_map(|(by, session, save, sent)| Op::Save { by, session, save, sent }),
        6 => (by(), session(), prop::bool::weighted(0.3))
            .prop_map(|(by, session, background)| Op::Open { by, session, background }),
        3 => (by(), session(), prop::bool::weighted(0.5), any::<bool>(), sent()).prop_map(
            |(by, session, listed, held, sent)| Op::Unlink { by, session, listed, held, sent }
        ),
        1 => (by(), session(), prop::option::of(0..0o1000_u32), prop::option::of(any::<i64>()))
            .prop_map(|(by, session, mode, mtime)| Op::Amend { by, session, mode, mtime }),
        1 => by().prop_map(|by| Op::List { by }),
        4 => pass.prop_map(|units| Op::Pass { units }),
        3 => (by(), any::<usize>()).prop_map(|(by, which)| Op::Again { by, which }),
    ]
}

/// Rules for some of the sessions of a history: those of `a b` in `shop`, who has the user id 7 or 8.
fn rules() -> impl Strategy<Value = Vec<Rule>> {
    const OF: [(Setting, &str); 9] = [
        (Setting::Idle, "database=shop user_id=7"),
        (Setting::Idle, "database=shop login=a%20b"),
        (Setting::Idle, "login=a*b"),
        (Setting::Idle, "database=shop"),
        (Setting::Absolute, "database=shop user_id=8"),
        (Setting::Absolute, "login=*%20b"),
        (Setting::AnonymousIdle, "database=shop"),
        (Setting::AnonymousUnopened, "database=shop"),
        (Setting::Idle, "database=other"),
    ];
    let rule = (prop::sample::select(&OF[..]), 2..40_u64).prop_map(|((setting, text), units)| {
        let selector = Selector::parse(text).expect("a selector");
        let ms = (2 * units + 1) * UNIT;
        Rule::new(setting, selector, Some(ms), Source::File).expect("a rule")
    });
    prop_oneof![1 => Just(Vec::new()), 2 => vec(rule, 1..5)]
}

/// Idle times are odd, so that half of one falls between two steps of the clock.
fn lifetimes() -> impl Strategy<Value = Lifetimes> {
    let absolute = prop_oneof![Just(None), Just(Some(20)), Just(Some(8))];
    (absolute, prop_oneof![Just(11_u64), Just(101)], 0..12_u64, 1..80_u64).prop_map(
        |(absolute, unopened, grace, tombstone)| Lifetimes {
            idle_ms: 15 * UNIT,
            anonymous_idle_ms: 61 * UNIT,
            anonymous_unopened_ms: unopened * UNIT,
            absolute_ms: absolute.map(|units: u64| units * UNIT),
            grace_ms: grace * UNIT,
            tombstone_ms: tombstone * UNIT,
        },
    )
}

#[test]
fn two_nodes_do_what_a_plain_map_with_expiry_does() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let redis = Redis::start();
    let nodes = runtime.block_on(two_nodes(&redis));
    let cases = if std::env::var_os("SESSIONFS_TEST_QUICK").is_some() { 64 } else { 256 };
    let default = Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { cases };
    let seed = match default.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => rand::random(),
    };
    eprintln!("PROPTEST_RNG_SEED={seed}");
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 4000,
        ..default
    };
    // The clock goes on over all histories: a node's estimate of it never runs backwards.
    let clock = std::cell::Cell::new(BEGIN_MS);
    let case = (lifetimes(), rules(), vec(op(), 1..60));
    let outcome = TestRunner::new(config).run(&case, |(limits, rules, ops)| {
        redis.run::<()>("FLUSHDB");
        clock.set(clock.get() + 1000 * UNIT);
        let rules = Rules::new(limits, rules).expect("few");
        let mut history = History::new(&redis, &nodes, rules, clock.get());
        let verdict = runtime.block_on(history.run(&ops));
        clock.set(history.model.now);
        verdict.map_err(TestCaseError::fail)
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, (limits, rules, ops))) => {
            panic!("{reason}\n{limits:?}\n{rules:?}\n{ops:#?}")
        }
        Err(error) => panic!("{error}"),
    }
}

/// A removal is held, no save takes it back, and the session is remembered for longer than it would
/// have lived. Then a save arrives that is older than the removal.
#[tokio::test]
async fn an_older_save_does_not_undo_a_removal_whether_it_was_noticed_or_not() {
    let limits = Lifetimes {
        idle_ms: 15 * UNIT,
        anonymous_idle_ms: 61 * UNIT,
        anonymous_unopened_ms: 11 * UNIT,
        absolute_ms: None,
        grace_ms: 0,
        tombstone_ms: 43 * UNIT,
    };
    let redis = Redis::start();
    let nodes = two_nodes(&redis).await;
    let (by, session) = (By { node: 1, thread: 0 }, 2);
    let visit = |sent| {
        let save = Save {
            authenticated: false,
            uid: 7,
            background: false,
            after_failed_read: false,
            sibling: None,
            size: 3,
        };
        Op::Save { by, session, save, sent }
    };
    let mut now = BEGIN_MS;
    for noticed in [false, true] {
        redis.run::<()>("FLUSHDB");
        let mut history = History::new(&redis, &nodes, limits.into(), now);
        let mut ops = vec![
            visit(false),
            visit(true),
            Op::Unlink { by, session, listed: true, held: true, sent: true },
            Op::Pass { units: 20 },
        ];
        ops.extend(noticed.then_some(Op::List { by }));
        ops.push(Op::Again { by, which: 0 });
        history.run(&ops).await.expect("the nodes do what the model does");
        let found = nodes[0].fetch(&name(session), None).await;
        assert_eq!(found, Ok(Lookup::Absent), "noticed: {noticed}");
        now = history.model.now;
    }
}

/// A test machine that stands still is no outage: what a store does in one is tested elsewhere.
async fn two_nodes(redis: &Redis) -> [RedisStore; 2] {
    let patient = || Settings {
        overdue_ms: 20_000,
        down_after_ms: 20_000,
        attempt_ms: 20_000,
        retry_total_ms: 20_000,
        ..settings(redis)
    };
    let start =
        || RedisStore::start_with(patient(), Scripts::with_clock(CLOCK)).expect("a good URL");
    [connected(start()).await, connected(start()).await]
}

/// A change that can be sent again.
#[derive(Clone)]
enum Change {
    Save(Box<Publish>),
    Removal(Unlink),
}

/// What a thread remembers of a session, as the filesystem does.
#[derive(Clone, Copy, Default)]
struct Memory {
    opened: Option<ChangeId>,
    held_removal: Option<ChangeId>,
}

struct History<'a> {
    redis: &'a Redis,
    nodes: &'a [RedisStore; 2],
    model: Model,
    changes: Vec<Change>,
    memory: BTreeMap<(usize, usize, usize), Memory>,
    last_id: u128,
}

impl<'a> History<'a> {
    fn new(redis: &'a Redis, nodes: &'a [RedisStore; 2], rules: Rules, now: u64) -> Self {
        for node in nodes {
            node.set_lifetimes(rules.clone());
        }
        let mut model = Model::new(*rules.general(), now);
        model.rules = rules;
        Self { redis, nodes, model, changes: vec![], memory: BTreeMap::new(), last_id: 0 }
    }

    async fn run(&mut self, ops: &[Op]) -> Result<(), String> {
        self.pass(0).await;
        for (step, op) in ops.iter().enumerate() {
            self.step(op).await.map_err(|why| format!("step {step}, {op:?}: {why}"))?;
        }
        // In the end both see the same, whatever was looked at on the way.
        for node in 0..2 {
            self.list(node).await.map_err(|why| format!("at the end: {why}"))?;
        }
        Ok(())
    }

    async fn step(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Save { by, session, save, sent } => {
                let publish = self.publish(*by, *session, save);
                self.changes.push(Change::Save(Box::new(publish.clone())));
                if *sent { self.save(*by, *session, &publish).await } else { Ok(()) }
            }
            Op::Open { by, session, background } => self.open(*by, *session, *background).await,
            Op::Unlink { by, session, listed, held, sent } => {
                let own = name(*session);
                let unlink = Unlink {
                    stamp: self.stamp(),
                    alias: if *listed { alias(SHARD, 99) } else { own.clone() },
                    listed: listed.then_some(own),
                    held: self.memory(*by, *session).opened.filter(|_| *held),
                    opened: None,
                };
                self.changes.push(Change::Removal(unlink.clone()));
                if *sent { self.remove(*by, *session, &unlink).await } else { Ok(()) }
            }
            Op::Amend { by, session, mode, mtime } => {
                let mtime = mtime.map(Mtime::Ns);
                let amend =
                    Amend { stamp: self.stamp(), alias: name(*session), mode: *mode, mtime };
                let expected = self.model.amend(&amend);
                let got = self.nodes[by.node].amend(&amend).await.map_err(|e| e.to_string())?;
                same(&got, &expected)
            }
            Op::List { by } => self.list(by.node).await,
            Op::Pass { units } => {
                self.pass(*units).await;
                Ok(())
            }
            Op::Again { .. } if self.changes.is_empty() => Ok(()),
            Op::Again { by, which } => match self.changes[which % self.changes.len()].clone() {
                Change::Save(mut publish) => {
                    publish.stamp = publish.stamp.again();
                    let session = number(&publish.alias);
                    self.save(*by, session, &publish).await
                }
                Change::Removal(mut unlink) => {
                    unlink.stamp = unlink.stamp.again();
                    let session = number(unlink.listed.as_ref().unwrap_or(&unlink.alias));
                    self.remove(*by, session, &unlink).await
                }
            },
        }
    }

    fn stamp(&mut self) -> Stamp {
        self.last_id += 1;
        Stamp::new(ChangeId(self.last_id), self.model.now)
    }

    fn memory(&mut self, by: By, session: usize) -> &mut Memory {
        self.memory.entry((by.node, by.thread, session)).or_default()
    }

    fn publish(&mut self, by: By, session: usize, save: &Save) -> Publish {
        let stamp = self.stamp();
        let memory = *self.memory(by, session);
        let class = if save.authenticated { Class::Authenticated } else { Class::Anonymous };
        Publish {
            birth: memory.opened.unwrap_or(stamp.id),
            stamp,
            alias: name(session),
            form: if name(session).family().is_some() { Form::Sharded } else { Form::Flat },
            content: Content {
                class,
                uid: save.authenticated.then_some(save.uid),
                db: Some("shop".into()),
                login: save.authenticated.then(|| "a b".into()),
            },
            size_bytes: save.size as u64,
            packing: packing::PLAIN,
            sealed: format!("{:?} {}", stamp.id, "x".repeat(save.size)).into(),
            sealer: None,
            claim: Claim {
                opened: memory.opened,
                held_removal: memory.held_removal,
                sibling: save.sibling.filter(|&sibling| sibling != session).map(name),
                after_failed_read: save.after_failed_read,
            },
            background: save.background,
            is_activity: !save.background,
        }
    }

    async fn save(&mut self, by: By, session: usize, publish: &Publish) -> Result<(), String> {
        let node = &self.nodes[by.node];
        let again = publish.stamp.attempt == Attempt::Again;
        let got = match node.publish(publish).await.map_err(|error| error.to_string())? {
            Published::Taken(meta) => Outcome::Taken(meta),
            Published::Superseded { birth } => Outcome::Superseded(birth),
            Published::Refused(_) => Outcome::Refused,
            Published::Rebind { birth } => Outcome::Rebind(birth),
        };
        if let (Outcome::Taken(meta), false) = (&got, again) {
            *self.memory(by, session) = Memory { opened: Some(meta.birth), held_removal: None };
        }
        same(&got, &self.model.publish(publish))?;
        // As the filesystem does: the same change, sealed for the other life.
        if let Outcome::Rebind(birth) = got {
            return Box::pin(self.save(by, session, &Publish { birth, ..publish.clone() })).await;
        }
        Ok(())
    }

    async fn open(&mut self, by: By, session: usize, background: bool) -> Result<(), String> {
        let alias = name(session);
        let node = &self.nodes[by.node];
        let got = match node.fetch(&alias, None).await.map_err(|error| error.to_string())? {
            Lookup::Session { meta, bound, sealed } => Some((meta, bound, sealed)),
            Lookup::Absent => None,
            Lookup::Large { .. } | Lookup::Alias { .. } => return Err("no such session".into()),
        };
        same(&got, &self.model.fetch(&alias))?;
        if got.is_some() && !background {
            node.touch_now(&alias).await.map_err(|error| error.to_string())?;
            self.model.touch(&alias);
        }
        match got {
            Some((meta, ..)) => {
                *self.memory(by, session) = Memory { opened: Some(meta.birth), held_removal: None };
            }
            None => self.memory(by, session).held_removal = None,
        }
        Ok(())
    }

    async fn remove(&mut self, by: By, session: usize, unlink: &Unlink) -> Result<(), String> {
        let node = &self.nodes[by.node];
        let again = unlink.stamp.attempt == Attempt::Again;
        let got = node.unlink(unlink).await.map_err(|error| error.to_string())?;
        if let (Unlinked::Held { .. }, false) = (&got, again) {
            self.memory(by, session).held_removal = Some(unlink.stamp.id);
        }
        same(&got, &self.model.unlink(unlink))
    }

    async fn list(&mut self, node: usize) -> Result<(), String> {
        let shard = name(0).shard();
        let listed = self.nodes[node].list(shard).await.map_err(|error| error.to_string())?;
        let by_number = |listed: Vec<Listed>| -> BTreeMap<_, _> {
            listed.into_iter().map(|Listed { alias, meta }| (number(&alias), meta)).collect()
        };
        same(&by_number(listed), &by_number(self.model.list()))
    }

    async fn pass(&mut self, units: u64) {
        self.model.pass(units * UNIT);
        redis::Script::new(PASS)
            .arg(units * UNIT)
            .arg(self.model.now)
            .invoke::<()>(&mut self.redis.connection())
            .expect("time passes");
        // Touches carry a node's own estimate of the time: let it hear.
        for node in self.nodes {
            node.fetch(&alias("zz", 0), None).await.expect("an answer");
        }
    }
}

fn same<T: PartialEq + std::fmt::Debug>(got: &T, expected: &T) -> Result<(), String> {
    if got == expected { Ok(()) } else { Err(format!("got {got:?}\n  expected {expected:?}")) }
}

/// Three sessions of one family, and one of an older Odoo.
fn name(session: usize) -> Alias {
    let number = u32::try_from(session).expect("few");
    if session + 1 == SESSIONS { short_alias(SHARD, number) } else { alias(SHARD, number) }
}

fn number(alias: &Alias) -> usize {
    (0..SESSIONS).find(|&session| name(session) == *alias).expect("one of ours")
}
