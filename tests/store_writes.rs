//! Whether Redis takes writes is known, and asking adds nothing to what it keeps.

mod support;

use sessionfs::redis::errors::ErrorCode;
use sessionfs::redis::population::Population;
use sessionfs::redis::writes::Writes;
use sessionfs::redis::{RedisStore, Settings};
use sessionfs::store::{Health, Sessions as _, StoreError};
use support::index;
use support::redis::Redis;
use support::store::*;

async fn start(redis: &Redis) -> RedisStore {
    connected(RedisStore::start(settings(redis)).expect("a good URL")).await
}

/// Asks until it is as expected: an answer of the last second is kept.
async fn becomes(store: &RedisStore, expected: Option<ErrorCode>) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let writes = store.ask_writes().await;
        let found = match &writes {
            Writes::Refused(error) => Some(error.code.clone()),
            Writes::Taken | Writes::Unknown => None,
        };
        if found == expected && writes != Writes::Unknown {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{writes:?} instead of {expected:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_server_without_work_notices_that_redis_takes_no_writes() {
    let redis = Redis::start();
    let store = start(&redis).await;
    let _: redis::Value = redis.run("REPLICAOF 127.0.0.1 1");
    until_health(&store, Health::ReadOnly).await;
    let _: redis::Value = redis.run("REPLICAOF NO ONE");
    until_health(&store, Health::Up).await;
}

fn aof_bytes(redis: &Redis) -> u64 {
    let info: String = redis.run("INFO persistence");
    let size = info.lines().find_map(|line| line.strip_prefix("aof_current_size:"));
    size.expect("an append-only file").trim().parse().expect("a number")
}

#[tokio::test]
async fn each_reason_for_which_redis_takes_no_writes_is_known_and_its_end() {
    let redis = Redis::start();
    let _: String = redis.run("ACL SETUSER shop on >secret ~* +@all");
    let url = redis.url_as("shop", "secret");
    let store = RedisStore::start(Settings { url, ..settings(&redis) }).expect("a good URL");
    let store = connected(store).await;
    becomes(&store, None).await;
    for (begin, end, refusal) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", ErrorCode::Oom),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", ErrorCode::ReadOnly),
        (
            "CONFIG SET min-replicas-to-write 1",
            "CONFIG SET min-replicas-to-write 0",
            ErrorCode::NoReplicas,
        ),
    ] {
        let _: redis::Value = redis.run(begin);
        becomes(&store, Some(refusal)).await;
        let _: redis::Value = redis.run(end);
        becomes(&store, None).await;
    }
    // Somebody changes what the user may: any part of that which saves need.
    for right in ["set", "del", "zadd", "zrem", "pexpire"] {
        let _: String = redis.run(&format!("ACL SETUSER shop -{right}"));
        becomes(&store, Some(ErrorCode::NoPerm { command: Some(right.into()) })).await;
        let _: String = redis.run(&format!("ACL SETUSER shop +{right}"));
        becomes(&store, None).await;
    }
    // A disk that cannot be written to: something else is where the snapshot goes.
    let obstacle = redis.directory().join("dump.rdb");
    std::fs::create_dir(&obstacle).expect("made");
    let mut command = redis::cmd("CONFIG");
    let _: String =
        command.arg(&["SET", "save", "3600 1"]).query(&mut redis.connection()).expect("set");
    let _: String = redis.run("BGSAVE");
    becomes(&store, Some(ErrorCode::MisConf)).await;
    std::fs::remove_dir(&obstacle).expect("removed");
    let _: String = redis.run("BGSAVE");
    becomes(&store, None).await;
}

#[tokio::test]
async fn a_save_that_is_refused_tells_it_at_once() {
    let redis = Redis::start();
    let store = start(&redis).await;
    becomes(&store, None).await;
    let _: String = redis.run("CONFIG SET maxmemory 1");
    let outcome = store.publish(&login(&store, &alias("ab", 1))).await;
    assert!(matches!(outcome, Err(StoreError::Refused(_))), "{outcome:?}");
    let known = store.writes();
    assert!(known.refusal().is_some_and(|why| why.starts_with("OOM ")), "{known:?}");
    let _: String = redis.run("CONFIG SET maxmemory 0");
    taken(&store, &login(&store, &alias("ab", 1))).await;
    assert_eq!(store.writes(), Writes::Taken);
}

#[tokio::test]
async fn to_ask_writes_nothing_and_is_done_once_a_second_however_many_ask() {
    let redis = Redis::start_with(&["--appendonly", "yes"]);
    let store = start(&redis).await;
    let _: redis::Value = redis.run("CONFIG RESETSTAT");
    let (bytes, keys) = (aof_bytes(&redis), redis.run::<u64>("DBSIZE"));
    let begun = std::time::Instant::now();
    for _ in 0..1000 {
        assert_eq!(store.ask_writes().await, Writes::Taken);
    }
    let seconds = begun.elapsed().as_secs();
    let info: String = redis.run("INFO commandstats");
    let asked: u64 = info
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_set:calls=")?.split(',').next()?.parse().ok())
        .expect("it was asked");
    assert!(asked <= seconds + 1, "{asked} times in {seconds} s");
    assert_eq!((aof_bytes(&redis), redis.run::<u64>("DBSIZE")), (bytes, keys));
    // Should somebody have made that key, it ends, and is no harm.
    let _: String = redis.run("SET sessionfs:write-probe:{AA} x");
    while redis.run::<u64>("EXISTS sessionfs:write-probe:{AA}") == 1 {
        assert!(begun.elapsed().as_secs() < 20, "it stays");
        assert_eq!(store.ask_writes().await, Writes::Taken);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn few_sessions_are_counted_by_class_and_the_dead_are_not() {
    let redis = Redis::start();
    let store = node(&redis).await;
    assert_eq!(store.population().await, Ok(Population { exact: true, ..Population::default() }));
    for number in 0..30 {
        taken(&store, &login(&store, &alias("ab", number))).await;
        taken(&store, &visit(&store, &alias("cd", number))).await;
    }
    let all = Population { authenticated: 30, anonymous: 30, exact: true };
    assert_eq!(store.population().await, Ok(all));
    // People are out after their idle time, visitors are not; nobody has asked for them since.
    pass(&redis, 20 * MINUTE);
    let later = Population { authenticated: 0, ..all };
    assert_eq!(store.population().await, Ok(later));
    assert_eq!(index::size(&redis, "ab"), 30, "nothing was ended by counting");
}
