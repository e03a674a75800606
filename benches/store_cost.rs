//! What sessions cost inside Redis: the numbers of docs/redis.md, and with `rules` what rules of lifetimes
//! cost a fetch: those of docs/lifetimes.md.
//!
//!     cargo bench --bench store_cost [-- rules]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sessionfs::redis::RedisStore;
use sessionfs::session::policy::Lifetimes;
use sessionfs::session::policy::rule::{Rule, Selector, Setting, Source};
use sessionfs::session::policy::rules::Rules;
use sessionfs::store::{Amend, Link as _, Publish, Sessions as _};
use support::redis::Redis;
use support::store::{alias, connected, gone, login, look, page, removal, settings, taken};

const SESSIONS: u32 = 20_000;
/// A session of Odoo 18, sealed.
const SEALED_BYTES: usize = 740;

/// Microseconds and number of all script calls since the last question.
fn script_cost(redis: &Redis) -> (f64, u64) {
    let info: String = redis.run("INFO commandstats");
    let line = info.lines().find(|l| l.starts_with("cmdstat_evalsha:")).expect("scripts have run");
    let facts: BTreeMap<_, _> = line["cmdstat_evalsha:".len()..]
        .split(',')
        .filter_map(|fact| fact.split_once('='))
        .collect();
    let number = |name: &str| facts[name].parse::<f64>().expect("a number");
    let cost = (number("usec_per_call"), facts["calls"].parse().expect("a number"));
    let _: redis::Value = redis.run("CONFIG RESETSTAT");
    cost
}

fn memory(redis: &Redis) -> u64 {
    let info: String = redis.run("INFO memory");
    let line = info.lines().find_map(|l| l.strip_prefix("used_memory:")).expect("told");
    line.trim().parse().expect("a number")
}

/// The server's processor time in user mode so far, microseconds: a loaded machine does not add to
/// it, as it does to the server's own clock.
fn processor(redis: &Redis) -> f64 {
    let info: String = redis.run("INFO cpu");
    let line = info.lines().find_map(|l| l.strip_prefix("used_cpu_user:")).expect("told");
    line.trim().parse::<f64>().expect("a number") * 1e6
}

struct Meter<'a> {
    redis: &'a Redis,
    processor: f64,
}

impl Meter<'_> {
    #[allow(clippy::cast_precision_loss)]
    fn report(&mut self, what: &str) {
        let (micros, calls) = script_cost(self.redis);
        let now = processor(self.redis);
        let used = (now - self.processor) / calls as f64;
        self.processor = now;
        println!(
            "{what:<34} {micros:8.2} us by the server's clock, {used:8.2} us of processor time in \
             all  ({calls} calls)"
        );
    }
}

/// Twenty idle times, for the sessions that these words select.
fn twenty(selectors: impl Iterator<Item = String>) -> Rules {
    let rules = (1..).zip(selectors.take(20)).map(|(n, selector)| {
        let selector = Selector::parse(&selector).expect("a selector");
        Rule::new(Setting::Idle, selector, Some(n * 600_000), Source::File).expect("a rule")
    });
    let rules: Vec<_> = rules.collect();
    assert_eq!(rules.len(), 20);
    Rules::new(Lifetimes::default(), rules).expect("few")
}

/// What the rules are that a fetch of a session of `admin` in `shop` is judged by.
fn sets_of_rules() -> Vec<(&'static str, Rules)> {
    let databases = || (0..).map(|n| format!("database=shop{n}"));
    let mixed = [
        "database=shop",
        "database=shop login=till*",
        "database=shop login=*@example.com",
        "database=shop login=anna",
        "database=shop user_id=9",
        "login=robot*",
        "login=backup",
    ];
    let patterns = || (0..).map(|n| format!("database=shop login=till{n}*"));
    vec![
        ("none", Rules::default()),
        ("twenty, for other databases", twenty(databases())),
        (
            "twenty, seven of which may be for it",
            twenty(mixed.into_iter().map(ToOwned::to_owned).chain(databases())),
        ),
        ("twenty patterns of its database", twenty(patterns())),
    ]
}

/// Fetches by each set of rules in turn, so that all meet the same machine.
async fn compare_rules(redis: &Redis, store: &RedisStore) {
    const TURNS: usize = 100;
    const SESSIONS: u32 = 50;
    const FETCHES: u32 = 300;
    let sealed = Bytes::from(vec![0xa5; SEALED_BYTES]);
    let session = |n: u32| alias("ab", n);
    for n in 0..SESSIONS {
        let publish = Publish { sealed: sealed.clone(), ..login(store, &session(n)) };
        taken(store, &publish).await;
    }
    let sets = sets_of_rules();
    let mut trips: Vec<Vec<f64>> = vec![Vec::new(); sets.len()];
    let mut scripts = trips.clone();
    for _ in 0..TURNS {
        for (place, (_, rules)) in sets.iter().enumerate() {
            store.set_lifetimes(rules.clone());
            // As a server that has read them before.
            for n in 0..SESSIONS {
                look(store, &session(n)).await.expect("alive");
            }
            script_cost(redis);
            for n in 0..FETCHES {
                let session = session(n % SESSIONS);
                // Each by itself: where the machine was busy with something else, one is lost and not all.
                let began = Instant::now();
                look(store, &session).await.expect("alive");
                trips[place].push(began.elapsed().as_secs_f64() * 1e6);
            }
            scripts[place].push(script_cost(redis).0);
        }
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!("| rules | in Redis | round trip | more |");
    println!("|---|---:|---:|---:|");
    let mut none = 0.0;
    for (place, (what, _)) in sets.iter().enumerate() {
        let trip = median(&mut trips[place]);
        if place == 0 {
            none = trip;
        }
        println!(
            "| {what} | {:.1} us | {trip:.1} us | {:+.1} % |",
            median(&mut scripts[place]),
            (trip / none - 1.0) * 100.0
        );
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let redis = Redis::start();
    let store = connected(RedisStore::start(settings(&redis)).expect("a good URL")).await;
    if std::env::args().any(|argument| argument == "rules") {
        compare_rules(&redis, &store).await;
        return;
    }
    let alphabet: Vec<char> = "0123456789abcdef".chars().collect();
    let alias = |n: u32| {
        let (high, low) = (n as usize / 16 % 16, n as usize % 16);
        alias(&format!("{}{}", alphabet[high], alphabet[low]), n)
    };
    let sealed = Bytes::from(vec![0xa5; SEALED_BYTES]);
    // The shard's index keys are there before and after.
    for n in 0..256 {
        taken(&store, &login(&store, &alias(1_000_000 + n))).await;
    }
    let mut meter = Meter { redis: &redis, processor: 0.0 };
    meter.report("(start)");
    let before = memory(&redis);
    let mut births = Vec::new();
    for n in 0..SESSIONS {
        let publish = Publish { sealed: sealed.clone(), ..login(&store, &alias(n)) };
        births.push(taken(&store, &publish).await.birth);
    }
    meter.report("publish, first save");
    let bytes = (memory(&redis) - before) / u64::from(SESSIONS);
    let header: Vec<u8> = redis.run(&format!("GET sessionfs:s:{{00}}:{}", alias(0)));
    println!(
        "memory for each session            {bytes} B (content {SEALED_BYTES} B, header {} B)",
        header.len() - SEALED_BYTES
    );
    for (n, birth) in (0..SESSIONS).zip(&births) {
        let publish = Publish { sealed: sealed.clone(), ..page(&store, &alias(n), *birth) };
        taken(&store, &publish).await;
    }
    meter.report("publish, later save");
    for n in 0..SESSIONS {
        look(&store, &alias(n)).await.expect("alive");
    }
    meter.report("fetch");
    for n in 0..SESSIONS {
        look(&store, &alias(2_000_000 + n)).await;
    }
    meter.report("fetch, absent");
    for n in 0..SESSIONS {
        store.touch_now(&alias(n)).await.expect("written");
    }
    meter.report("touch, one session");
    for n in 0..SESSIONS {
        store.touch(&alias(n));
    }
    store.drain(Duration::from_secs(60)).await;
    meter.report("touch, all in batches by shard");
    for n in 0..SESSIONS {
        let amend = Amend {
            stamp: store.stamp(alias(n).shard()),
            alias: alias(n),
            mode: Some(0o644),
            mtime: None,
        };
        store.amend(&amend).await.expect("answered").expect("alive");
    }
    meter.report("amend");
    for n in 0..256 {
        store.list(alias(n).shard()).await.expect("a listing");
    }
    meter.report("list, 79 sessions of a shard");
    let began = std::time::Instant::now();
    let root = store.list_root().await.expect("a listing");
    println!("the root of {} shards took {:?}", root.shards.len(), began.elapsed());
    script_cost(&redis);
    for n in 0..SESSIONS {
        gone(&store, &removal(&store, &alias(n))).await;
    }
    meter.report("unlink");
    let bytes = (memory(&redis) - before) / u64::from(SESSIONS);
    println!("memory for each tombstone          {bytes} B");
}
