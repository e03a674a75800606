//! The link: how it judges a server that is slow, gone, back, or the wrong one.

mod support;

use std::time::{Duration, Instant};

use sessionfs::redis::{RedisStore, Settings};
use sessionfs::session::policy::Lifetimes;
use sessionfs::store::{Health, Link as _, Sessions as _, StoreError, Wait, Waited};
use support::redis::Redis;
use support::store::*;

/// The times of the design, with a short budget.
fn real(redis: &Redis) -> Settings {
    Settings { url: redis.url(), wait_step_ms: 200, outage_budget_ms: 1000, ..Settings::default() }
}

async fn store(settings: Settings) -> RedisStore {
    connected(RedisStore::start(settings).expect("a good URL")).await
}

fn ms(since: Instant) -> u128 {
    since.elapsed().as_millis()
}

#[tokio::test]
async fn a_server_that_dies_is_noticed_at_once_and_found_again() {
    let mut redis = Redis::start();
    let store = store(real(&redis)).await;
    redis.kill();
    let died = Instant::now();
    until_health(&store, Health::Down).await;
    assert!(ms(died) < 100, "{} ms", ms(died));
    // Nobody queues behind a dead link.
    let asked = Instant::now();
    let outcome = store.fetch(&alias("ab", 1), None).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    assert!(ms(asked) < 50, "{} ms", ms(asked));
    redis.restart();
    assert_eq!(store.wait_up(Wait::default()).await, Waited::Up);
    taken(&store, &login(&store, &alias("ab", 1))).await;
}

#[tokio::test]
async fn a_server_that_stands_still_is_doubted_and_then_given_up() {
    let mut redis = Redis::start();
    let store = store(real(&redis)).await;
    redis.pause();
    let asked = Instant::now();
    let outcome = store.fetch(&alias("ab", 1), None).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    assert!((90..300).contains(&ms(asked)), "a look-up waits no longer: {} ms", ms(asked));
    assert_eq!(store.health(None), Health::Degraded);
    // Others do not even ask.
    let second = Instant::now();
    assert!(store.fetch(&alias("ab", 1), None).await.is_err());
    assert!(ms(second) < 50, "{} ms", ms(second));
    until_health(&store, Health::Down).await;
    assert!((400..900).contains(&ms(asked)), "{} ms", ms(asked));
    redis.resume();
    until_health(&store, Health::Up).await;
    look(&store, &alias("ab", 1)).await;
}

#[tokio::test]
async fn a_silent_link_is_found_dead_without_any_request() {
    let mut redis = Redis::start();
    let store = store(real(&redis)).await;
    redis.pause();
    let stopped = Instant::now();
    until_health(&store, Health::Down).await;
    assert!(ms(stopped) < 1200, "{} ms", ms(stopped));
    redis.resume();
    until_health(&store, Health::Up).await;
}

#[tokio::test]
async fn a_short_stall_is_a_doubt_and_no_more() {
    let mut redis = Redis::start();
    let store = store(real(&redis)).await;
    let connections = |redis: &Redis| -> u64 {
        let info: String = redis.run("INFO stats");
        let line = info.lines().find(|l| l.starts_with("total_connections_received:"));
        line.and_then(|l| l.split(':').nth(1))
            .and_then(|n| n.trim().parse().ok())
            .expect("a number")
    };
    let before = connections(&redis);
    redis.pause();
    assert!(store.fetch(&alias("ab", 1), None).await.is_err());
    assert_eq!(store.health(None), Health::Degraded);
    redis.resume();
    until_health(&store, Health::Up).await;
    assert_eq!(connections(&redis), before + 1, "only the test's own is new");
}

#[tokio::test]
async fn a_change_waits_for_a_slow_answer_longer_than_a_look() {
    let mut redis = Redis::start();
    let store = store(real(&redis)).await;
    let sid = alias("ab", 1);
    redis.pause();
    let resumed = async {
        tokio::time::sleep(Duration::from_millis(180)).await;
        redis.resume();
    };
    let publish = login(&store, &sid);
    let (meta, ()) = tokio::join!(taken(&store, &publish), resumed);
    assert_eq!(meta.version, publish.stamp.id);
}

#[tokio::test]
async fn one_outage_has_one_budget_whoever_waits() {
    let mut redis = Redis::start();
    let store = store(real(&redis)).await;
    redis.kill();
    until_health(&store, Health::Down).await;
    let began = Instant::now();
    assert_eq!(store.wait_up(Wait::default()).await, Waited::StepOver);
    assert!((180..300).contains(&ms(began)), "{} ms", ms(began));
    tokio::time::sleep(Duration::from_millis(700)).await;
    // A second one comes late and has only what is left.
    let late = Instant::now();
    assert_eq!(store.wait_up(Wait::default()).await, Waited::BudgetSpent);
    assert!(ms(late) < 150, "{} ms", ms(late));
    let third = Instant::now();
    assert_eq!(store.wait_up(Wait::default()).await, Waited::BudgetSpent);
    assert!(ms(third) < 20, "{} ms", ms(third));
    // Changes do not wait any more either.
    let asked = Instant::now();
    assert!(store.unlink(&removal(&store, &alias("ab", 1))).await.is_err());
    assert!(ms(asked) < 50, "{} ms", ms(asked));
    // A link that is up for a moment only has no new one: what was spent comes back while it is up.
    redis.restart();
    until_health(&store, Health::Up).await;
    redis.kill();
    until_health(&store, Health::Down).await;
    assert_eq!(store.wait_up(Wait::default()).await, Waited::BudgetSpent);
    redis.restart();
    until_health(&store, Health::Up).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    redis.kill();
    until_health(&store, Health::Down).await;
    assert_eq!(store.wait_up(Wait::default()).await, Waited::StepOver);
}

#[tokio::test]
async fn a_change_outlasts_a_short_outage() {
    let mut redis = Redis::start();
    let patient = Settings { retry_total_ms: 10_000, outage_budget_ms: 20_000, ..real(&redis) };
    let store = store(patient).await;
    redis.kill();
    until_health(&store, Health::Down).await;
    let sid = alias("ab", 1);
    let publish = login(&store, &sid);
    let (meta, ()) = tokio::join!(taken(&store, &publish), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        redis.restart();
    });
    assert_eq!(meta.version, publish.stamp.id);
}

#[tokio::test]
async fn a_wait_asks_a_link_that_has_been_silent() {
    let mut redis = Redis::start();
    let quiet = Settings { heartbeat_ms: 3_600_000, ..real(&redis) };
    let store = store(quiet).await;
    let before = store.round_trips();
    assert_eq!(store.wait_up(Wait::default()).await, Waited::Up);
    assert_eq!(store.round_trips(), before, "it has just answered");
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(store.wait_up(Wait::default()).await, Waited::Up);
    assert_eq!(store.round_trips(), before + 1);
    tokio::time::sleep(Duration::from_millis(150)).await;
    redis.pause();
    assert_eq!(store.wait_up(Wait::default()).await, Waited::StepOver);
    assert_ne!(store.health(None), Health::Up);
    redis.resume();
}

#[tokio::test]
async fn a_store_may_start_before_its_server() {
    let mut redis = Redis::start();
    redis.kill();
    let store = RedisStore::start(real(&redis)).expect("a good URL");
    assert_eq!(store.health(None), Health::Down);
    assert_eq!(store.wait_up(Wait::default()).await, Waited::StepOver);
    let stamp = store.stamp(any_shard());
    redis.restart();
    until_health(&store, Health::Up).await;
    // A stamp from before anything was known of the time still serves.
    let mut publish = login(&store, &alias("ab", 1));
    publish.stamp = stamp;
    assert_eq!(stamp.first_ms, 0);
    taken(&store, &publish).await;
}

#[tokio::test]
async fn a_wrong_password_at_reconnect_is_outlived() {
    let mut redis = Redis::start_with(&["--requirepass", "geheim"]);
    let settings = Settings { url: redis.url_as("default", "geheim"), ..real(&redis) };
    let store = store(settings).await;
    redis.kill();
    until_health(&store, Health::Down).await;
    redis.restart_with(&["--requirepass", "another"]);
    until("the cause is known", || store.link_cause().contains("WRONGPASS")).await;
    assert_eq!(store.health(None), Health::Down);
    let client = redis::Client::open(redis.url_as("default", "another")).expect("a good URL");
    let mut connection = client.get_connection().expect("connected");
    redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", "geheim"])
        .query::<()>(&mut connection)
        .expect("set");
    until_health(&store, Health::Up).await;
}

#[tokio::test]
async fn a_server_that_is_busy_with_something_else_is_down_until_it_is_not() {
    let redis = Redis::start_with(&["--lua-time-limit", "10"]);
    let store = store(real(&redis)).await;
    let client = redis::Client::open(redis.url()).expect("a good URL");
    let endless = std::thread::spawn(move || {
        let mut connection = client.get_connection().expect("connected");
        redis::cmd("EVAL").arg("while true do end").arg(0).query::<()>(&mut connection)
    });
    until("the server is busy", || {
        redis.try_run::<redis::Value>("GET x").is_err_and(|e| e.code() == Some("BUSY"))
    })
    .await;
    until_health(&store, Health::Down).await;
    let _: redis::Value = redis.run("SCRIPT KILL");
    until_health(&store, Health::Up).await;
    assert!(endless.join().expect("ended").is_err());
}

#[tokio::test]
async fn a_server_that_became_a_replica_is_left_for_the_master() {
    let (old, new) = (Redis::start(), Redis::start());
    // A name that leads to the master, as a failover moves it.
    let name = old.directory().join("name.sock");
    std::os::unix::fs::symlink(old.socket(), &name).expect("linked");
    let settings = Settings { url: format!("unix:{}", name.display()), ..settings(&old) };
    let store = store(settings).await;
    let sid = alias("ab", 1);
    taken(&store, &login(&store, &sid)).await;
    let _: redis::Value = old.run("REPLICAOF 127.0.0.1 1");
    std::fs::remove_file(&name).expect("removed");
    std::os::unix::fs::symlink(new.socket(), &name).expect("linked");
    // The save itself finds its way.
    let publish = visit(&store, &sid);
    let meta = taken(&store, &publish).await;
    assert_eq!(meta.version, publish.stamp.id);
    assert_eq!(new.run::<u64>(&format!("EXISTS sessionfs:s:{{ab}}:{sid}")), 1);
}

#[tokio::test]
async fn a_replica_goes_on_being_read_until_there_is_a_master() {
    let redis = Redis::start();
    let store = store(real(&redis)).await;
    let sid = alias("ab", 1);
    taken(&store, &login(&store, &sid)).await;
    let _: redis::Value = redis.run("REPLICAOF 127.0.0.1 1");
    let outcome = store.publish(&visit(&store, &sid)).await;
    assert!(matches!(&outcome, Err(StoreError::Refused(_))), "{outcome:?}");
    look(&store, &sid).await.expect("alive");
    assert_eq!(store.health(None), Health::ReadOnly);
    let _: redis::Value = redis.run("REPLICAOF NO ONE");
    until_health(&store, Health::Up).await;
    let publish = visit(&store, &sid);
    taken(&store, &publish).await;
}

#[tokio::test]
async fn who_waits_in_an_outage_is_judged_by_when_the_wait_began() {
    let mut redis = Redis::start();
    let lifetimes = Lifetimes { idle_ms: 1000, ..Lifetimes::default() };
    let patient = Settings { lifetimes, outage_budget_ms: 20_000, ..real(&redis) };
    let store = store(patient).await;
    let hasty = Settings { lifetimes, outage_budget_ms: 300, ..real(&redis) };
    let hasty = connected(RedisStore::start(hasty).expect("a good URL")).await;
    let (sid, other) = (alias("ab", 1), alias("ab", 2));
    taken(&store, &login(&store, &sid)).await;
    taken(&store, &login(&store, &other)).await;
    redis.pause();
    until_health(&store, Health::Down).await;
    until_health(&hasty, Health::Down).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    redis.resume();
    until_health(&hasty, Health::Up).await;
    until_health(&store, Health::Up).await;
    look(&store, &sid).await.expect("its owner was there when the outage began");
    // From there on it is used, and lives as any other.
    store.touch_now(&sid).await.expect("taken");
    look(&hasty, &sid).await.expect("it was used a moment ago");
    assert_eq!(look(&hasty, &other).await, None, "nobody waits that long there");
}

#[tokio::test]
async fn with_the_last_handle_its_tasks_end() {
    let redis = Redis::start();
    let store = store(real(&redis)).await;
    let clients = || -> usize {
        let list: String = redis.run("CLIENT LIST");
        list.lines().count() - 1 // the test's own
    };
    let clone = store.clone();
    drop(store);
    assert_eq!(clients(), 1);
    drop(clone);
    until("the connection is closed", || clients() == 0).await;
}
