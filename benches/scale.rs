//! What listings cost with many sessions: the table of docs/performance.md.
//!
//!     cargo bench --bench scale [-- NUMBER...]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Instant;

use sessionfs::redis::RedisStore;
use sessionfs::redis::scan::{Filter, Scan};
use sessionfs::session::content::Content;
use sessionfs::session::name::{Alias, Shard};
use sessionfs::store::{Publish, Sessions as _};
use support::crowd;
use support::redis::Redis;
use support::store::{alias, connected, login, settings, taken};

const NUMBERS: [u32; 3] = [1_000, 100_000, 1_000_000];
/// The sessions are copies of those of so many users.
const USERS: u32 = 500;
const ROUNDS: usize = 3;

fn name(number: u32) -> Alias {
    let mut shards = Shard::all();
    let shard = shards.nth(number as usize % 4096).expect("one of 4096");
    alias(shard.as_str(), number)
}

/// The server's processor time so far, ms: on a loaded machine, and with a program that is not optimized, it says as much.
fn processor_ms(redis: &Redis) -> f64 {
    let info: String = redis.run("INFO cpu");
    let seconds = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)).expect("told");
        line.trim().parse::<f64>().expect("a number")
    };
    (seconds("used_cpu_user:") + seconds("used_cpu_sys:")) * 1e3
}

/// The median of some rounds, and of Redis's processor time for one, in milliseconds.
async fn median<T>(redis: &Redis, mut round: impl AsyncFnMut() -> T) -> String {
    let (mut took, mut used) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (began, before) = (Instant::now(), processor_ms(redis));
        round().await;
        took.push(began.elapsed().as_secs_f64() * 1e3);
        used.push(processor_ms(redis) - before);
    }
    let middle = |mut numbers: Vec<f64>| {
        numbers.sort_unstable_by(f64::total_cmp);
        numbers[ROUNDS / 2]
    };
    format!("{:.1} | {:.1}", middle(took), middle(used))
}

async fn found(mut scan: Scan) -> usize {
    let mut found = 0;
    while let Some(page) = scan.next().await {
        found += page.expect("a page").living.len();
    }
    found
}

#[tokio::main]
async fn main() {
    let numbers: Vec<u32> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let numbers = if numbers.is_empty() { NUMBERS.to_vec() } else { numbers };
    println!(
        "| sessions | root, ms | Redis | a shard, ms | Redis | last 20, ms | Redis | a user's, ms | Redis |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for number in numbers {
        let redis = Redis::start();
        let store = connected(RedisStore::start(settings(&redis)).expect("a good URL")).await;
        let mut saved = Vec::new();
        let mut saved_ms = 0;
        for user in 0..USERS {
            let sid = name(user);
            let publish = login(&store, &sid);
            let content = Content { uid: Some(user.into()), ..publish.content.clone() };
            saved_ms = taken(&store, &Publish { content, ..publish }).await.activity_ms;
            saved.push(sid);
        }
        let copies: Vec<_> =
            (USERS..number).map(|n| (name(n), saved_ms + u64::from(n % 60_000))).collect();
        crowd::copy(&mut redis.connection(), &saved, &copies);
        let shard = name(0).shard();
        let of_user = || Filter { user_id: Some(7), ..Filter::default() };
        let root = median(&redis, async || store.list_root().await.expect("a listing")).await;
        let one = median(&redis, async || store.list(shard).await.expect("a listing")).await;
        let last = median(&redis, async || match store.last_used(20).await.expect("an answer") {
            Some(scan) => found(scan).await,
            None => found(store.scan(Filter::default())).await,
        });
        let last = last.await;
        let user = median(&redis, async || found(store.scan(of_user())).await).await;
        println!("| {number} | {root} | {one} | {last} | {user} |");
    }
}
