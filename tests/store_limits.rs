//! What the store does on a server that takes no writes, and what it needs to be allowed.

mod support;

use sessionfs::redis::probe::{ProbeError, probe};
use sessionfs::redis::{RedisStore, Settings};
use sessionfs::session::policy::Lifetimes;
use sessionfs::store::{Health, Link as _, Lookup, Publish, Sessions as _, StoreError, Unlinked};
use support::index;
use support::redis::Redis;
use support::store::*;

/// Each way in which a server takes no writes, and how it takes them again.
fn refusals() -> [(&'static str, Vec<String>, Vec<String>); 4] {
    let words = |lines: &[&str]| lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
    [
        ("OOM", words(&["CONFIG SET maxmemory 1"]), words(&["CONFIG SET maxmemory 0"])),
        ("READONLY", words(&["REPLICAOF 127.0.0.1 1"]), words(&["REPLICAOF NO ONE"])),
        (
            "NOREPLICAS",
            words(&["CONFIG SET min-replicas-to-write 1"]),
            words(&["CONFIG SET min-replicas-to-write 0"]),
        ),
        ("MISCONF", words(&["BGSAVE"]), words(&["CONFIG SET stop-writes-on-bgsave-error no"])),
    ]
}

async fn refuse(redis: &Redis, code: &str, how: &[String]) {
    if code == "MISCONF" {
        // A directory where the dump should go: the background save fails, for root as well.
        let _ = std::fs::create_dir_all(redis.directory().join("dump.rdb/in"));
        let mut connection = redis.connection();
        redis::cmd("CONFIG")
            .arg(&["SET", "save", "3600 1"])
            .query::<()>(&mut connection)
            .expect("configured");
    }
    for command in how {
        let _: redis::Value = redis.run(command);
    }
    until(code, || {
        redis.try_run::<redis::Value>("SET test:any 1").is_err_and(|e| e.code() == Some(code))
    })
    .await;
}

fn script_may_write(redis: &Redis) -> bool {
    redis::cmd("EVAL")
        .arg("return redis.call('SET', 'test:any', '1')")
        .arg(0)
        .query::<redis::Value>(&mut redis.connection())
        .is_ok()
}

fn accept(redis: &Redis, how: &[String]) {
    for command in how {
        let _: redis::Value = redis.run(command);
    }
}

#[tokio::test]
async fn while_writes_are_refused_nothing_is_judged_stale_and_reads_go_on() {
    for (code, refusing, accepting) in refusals() {
        let redis = Redis::start();
        let node = node_with(&redis, Lifetimes { idle_ms: 1, ..Lifetimes::default() }).await;
        let (sid, nobody) = (alias("ab", 1), alias("ab", 2));
        let long = node_with(&redis, Lifetimes::default()).await;
        taken(&long, &login(&long, &sid)).await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        refuse(&redis, code, &refusing).await;
        if code == "NOREPLICAS" && script_may_write(&redis) {
            continue; // Redis 6.0: the touches of a script are kept, so there is no exception
        }
        let meta = look(&node, &sid).await.unwrap_or_else(|| panic!("{code}: judged stale"));
        assert_eq!(meta.left_ms, 0);
        assert!(
            matches!(node.fetch(&nobody, Some(&sid)).await, Ok(Lookup::Alias { .. })),
            "{code}"
        );
        assert_eq!(node.list(sid.shard()).await.map(|l| l.len()), Ok(1), "{code}");
        let touched = long.touch_now(&sid).await;
        assert!(
            matches!(&touched, Err(StoreError::Refused(why)) if why.contains(code)),
            "{touched:?}"
        );
        let quick = Settings { retry_total_ms: 100, ..settings(&redis) };
        let quick = connected(RedisStore::start(quick).expect("a good URL")).await;
        let saved = published(&quick, &login(&quick, &sid)).await;
        assert!(matches!(&saved, Err(StoreError::Refused(why)) if why.contains(code)), "{saved:?}");
        assert_eq!(look(&node, &sid).await.map(|m| m.version), Some(meta.version), "{code}");

        accept(&redis, &accepting);
        let mut saved = published(&quick, &login(&quick, &sid)).await;
        if saved.is_err() {
            saved = published(&quick, &login(&quick, &sid)).await; // the link was just being renewed
        }
        assert!(saved.is_ok(), "{code}: {saved:?}");
    }
}

#[tokio::test]
async fn a_touch_that_was_refused_is_kept_and_written_later() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    taken(&node, &login(&node, &sid)).await;
    pass(&redis, 10 * MINUTE);
    node.fetch(&alias("zz", 0), None).await.expect("an answer");
    let _: redis::Value = redis.run("CONFIG SET maxmemory 1");
    node.touch(&sid);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let _: redis::Value = redis.run("CONFIG SET maxmemory 0");
    let before = node.stamp(any_shard()).first_ms - MINUTE;
    #[allow(clippy::cast_precision_loss)]
    until("the touch is written", || index::score(&redis, &sid) > Some(before as f64)).await;
}

#[tokio::test]
async fn an_unlink_is_never_refused_for_want_of_memory() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let (sid, listed) = (alias("ab", 1), alias("ab", 2));
    let born = taken(&node, &login(&node, &sid)).await;
    taken(&node, &login(&node, &listed)).await;
    let _: redis::Value = redis.run("CONFIG SET maxmemory 1");
    assert_eq!(gone(&node, &removal(&node, &sid)).await, born.birth);
    assert_eq!(look(&node, &sid).await, None);
    let mut unlink = removal(&node, &alias("ab", 3));
    unlink.listed = Some(listed.clone());
    assert!(matches!(node.unlink(&unlink).await, Ok(Unlinked::Gone { .. })));
    assert_eq!(node.list(sid.shard()).await, Ok(vec![]));
}

/// The line of the documentation, with a password that is one.
fn documented_acl() -> String {
    let docs = include_str!("../docs/redis.md");
    let line =
        docs.lines().find(|l| l.trim_start().starts_with("ACL SETUSER")).expect("documented");
    line.trim().replace(">PASSWORD", ">geheim")
}

/// A store of that user, which may not ask how full the server is.
async fn by_documented_user(redis: &Redis) -> RedisStore {
    let _: redis::Value = redis.run(&documented_acl());
    let settings = Settings { url: redis.url_as("sessionfs", "geheim"), ..settings(redis) };
    connected(RedisStore::start(settings).expect("a good URL")).await
}

#[tokio::test]
async fn the_documented_acl_user_can_do_all_that_is_needed_and_nothing_else() {
    let redis = Redis::start();
    let _: redis::Value = redis.run(&documented_acl());
    let settings = Settings {
        url: redis.url_as("sessionfs", "geheim"),
        live: Some(sessionfs::config::lifetime::LIVE),
        ..settings(&redis)
    };
    probe(&settings).await.expect("all is allowed");
    let store = connected(RedisStore::start(settings).expect("a good URL")).await;
    let (sid, next) = (alias("ab", 1), alias("ab", 2));
    let born = taken(&store, &login(&store, &sid)).await;
    taken(&store, &rotated(&store, &next, &sid)).await;
    look(&store, &sid).await.expect("alive");
    use_it(&store, &sid).await;
    let _: redis::Value = redis.run("SCRIPT FLUSH");
    taken(&store, &page(&store, &sid, born.birth)).await;
    let amend = sessionfs::store::Amend {
        stamp: store.stamp(any_shard()),
        alias: sid.clone(),
        mode: Some(0o600),
        mtime: None,
    };
    store.amend(&amend).await.expect("answered").expect("alive");
    assert_eq!(store.list(sid.shard()).await.map(|l| l.len()), Ok(2));
    assert_eq!(store.list_root().await.map(|r| r.shards.len()), Ok(1));
    assert_eq!(store.keep(sid.shard(), std::slice::from_ref(&sid)).await, Ok(1));
    for text in [Some("20min"), None] {
        store.change_live("lifetime.idle", text).await.expect("changed");
        let found = store.live_settings().await.expect("read");
        assert_eq!(found.values.get("lifetime.idle").map(String::as_str), text);
    }
    // It ends one that is dead.
    store.set_lifetimes(Lifetimes { idle_ms: 1, ..Lifetimes::default() });
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    assert_eq!(look(&store, &next).await, None);
    store.set_lifetimes(Lifetimes::default());
    gone(&store, &removal(&store, &sid)).await;
    let log: Vec<redis::Value> = redis.run("ACL LOG");
    assert!(log.is_empty(), "something was not allowed: {log:?}");

    let client = redis::Client::open(redis.url_as("sessionfs", "geheim")).expect("a good URL");
    let mut connection = client.get_connection().expect("connected");
    for forbidden in ["KEYS *", "SCAN 0", "CONFIG GET save", "FLUSHALL", "SET other 1", "INFO"] {
        let words: Vec<_> = forbidden.split(' ').collect();
        let outcome = redis::cmd(words[0]).arg(&words[1..]).query::<redis::Value>(&mut connection);
        assert!(outcome.is_err_and(|e| e.code() == Some("NOPERM")), "{forbidden}");
    }
}

#[tokio::test]
async fn each_missing_permission_is_found_at_the_start() {
    let redis = Redis::start();
    let acl = documented_acl();
    // HELLO and AUTH are allowed to everybody whatever the ACL says; SELECT only database 0 needs not; without CLIENT
    // TRACKING there is no near cache.
    let needed: Vec<_> = acl
        .split(' ')
        .filter(|word| word.starts_with('+'))
        .filter(|word| !["+hello", "+auth", "+select", "+eval", "+client|tracking"].contains(word))
        .collect();
    assert!(needed.len() > 10);
    for missing in needed {
        let words = acl.split(' ').filter(|word| *word != missing).collect::<Vec<_>>().join(" ");
        let _: redis::Value = redis.run(&words);
        let settings = Settings { url: redis.url_as("sessionfs", "geheim"), ..settings(&redis) };
        match probe(&settings).await {
            Err(error @ ProbeError::NoPermission(..)) => {
                assert!(!error.to_string().contains("geheim"));
            }
            other => panic!("without {missing}: {other:?}"),
        }
    }
    let _: redis::Value = redis.run(&acl.replace("~sessionfs:*", "~other:*"));
    let settings = Settings { url: redis.url_as("sessionfs", "geheim"), ..settings(&redis) };
    assert!(matches!(probe(&settings).await, Err(ProbeError::NoPermission(..))));
}

#[tokio::test]
async fn a_right_that_no_read_needs_is_taken_away_without_an_outage() {
    let redis = Redis::start();
    let store = by_documented_user(&redis).await;
    let _: redis::Value = redis.run("ACL SETUSER sessionfs -exists");
    let listed = store.list_root().await;
    assert!(
        matches!(&listed, Err(StoreError::Refused(why)) if why.contains("'exists'")),
        "{listed:?}"
    );
    assert_eq!(store.health(None), Health::Up);
    let _: redis::Value = redis.run("ACL SETUSER sessionfs -zadd");
    let registered = store.register_server("one", "{}").await;
    assert!(matches!(&registered, Err(StoreError::Refused(_))), "{registered:?}");
    assert_eq!(store.health(None), Health::ReadOnly);
}

#[tokio::test]
async fn a_large_session_is_kept_whole() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    let sealed: bytes::Bytes = (0..4 * 1024 * 1024_u32).map(|n| n.to_le_bytes()[1]).collect();
    let publish = Publish { sealed: sealed.clone(), ..login(&node, &sid) };
    let meta = taken(&node, &publish).await;
    assert_eq!(node.content(&sid, meta.version).await, Ok(Some(sealed.clone())));
    let amend = sessionfs::store::Amend {
        stamp: node.stamp(any_shard()),
        alias: sid.clone(),
        mode: Some(0o640),
        mtime: None,
    };
    let amended = node.amend(&amend).await.expect("answered").expect("alive");
    assert_ne!(amended.version, meta.version);
    assert_eq!(node.content(&sid, meta.version).await, Ok(Some(sealed)));
}

/// Fills a server with `maxmemory` by visitors' sessions, until it is full.
async fn filled(redis: &Redis, node: &RedisStore, headroom_bytes: u64) -> u32 {
    let info: String = redis.run("INFO memory");
    let used: u64 = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"))
        .and_then(|number| number.trim().parse().ok())
        .expect("a number");
    let _: redis::Value = redis.run(&format!("CONFIG SET maxmemory {}", used + headroom_bytes));
    for number in 0..1000 {
        let letter = |number: u32| char::from_digit(10 + number % 20, 36).expect("a letter");
        let shard: String = [letter(number / 20), letter(number)].iter().collect();
        let mut publish = visit(node, &alias(&shard, number));
        publish.sealed = vec![7; 60_000].into();
        publish.size_bytes = 60_000;
        match node.publish(&publish).await {
            Ok(_) => {}
            Err(StoreError::Refused(why)) if why.starts_with("OOM") => return number,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it never fills");
}

#[tokio::test]
async fn a_login_on_a_full_server_takes_the_room_of_visitors_in_any_shard() {
    let redis = Redis::start();
    // Nothing is done ahead by one that may not ask for the fill.
    let node = by_documented_user(&redis).await;
    let before = alias("zy", 1);
    let born = taken(&node, &login(&node, &before)).await;
    let visitors = filled(&redis, &node, 2_000_000).await;
    assert!(visitors > 10, "{visitors}");
    // No visitor is in the shard of the login.
    let person = alias("zz", 7);
    taken(&node, &login(&node, &person)).await;
    taken(&node, &page(&node, &before, born.birth)).await;
    for one in [&before, &person] {
        look(&node, one).await.expect("nobody who is logged in is ended");
    }
}

/// Redis itself has ended most sessions of a flood, and nobody has listed their shards since.
#[tokio::test]
async fn what_is_left_of_a_flood_in_the_indexes_hides_no_visitor() {
    let redis = Redis::start();
    let node = by_documented_user(&redis).await;
    let known = alias("zy", 1);
    taken(&node, &login(&node, &known)).await;
    let (_, member, _) = index::entry(&redis, &known).expect("it is in an index");
    let shards = "abcdefghij"
        .chars()
        .flat_map(|a| "abcdefghijklmnopqrst".chars().map(move |b| format!("{a}{b}")));
    let mut left = redis::pipe();
    for shard in shards {
        for number in 100..200 {
            let (index, member) = index::like(&alias(&shard, number), &member);
            left.zadd(index, member, 1).ignore();
        }
    }
    left.exec(&mut redis.connection()).expect("added");
    let visitors = filled(&redis, &node, 2_000_000).await;
    assert!(visitors > 10, "{visitors}");
    for number in 0..visitors / 2 {
        let person = login(&node, &alias("zz", number));
        taken(&node, &Publish { sealed: vec![7; 60_000].into(), ..person }).await;
    }
    look(&node, &known).await.expect("nobody who is logged in is ended");
}

#[tokio::test]
async fn a_visitors_session_that_was_somebodys_is_not_his_again_when_its_room_is_needed() {
    let redis = Redis::start();
    let node = by_documented_user(&redis).await;
    let logged_out = alias("lo", 1);
    taken(&node, &login(&node, &logged_out)).await;
    gone(&node, &removal(&node, &logged_out)).await;
    taken(&node, &visit(&node, &logged_out)).await;
    filled(&redis, &node, 1_500_000).await;
    // As large as those, so that each needs room.
    for number in 0..100 {
        if look(&node, &logged_out).await.is_none() {
            break;
        }
        let person = login(&node, &alias("zz", number));
        taken(&node, &Publish { sealed: vec![7; 60_000].into(), ..person }).await;
    }
    assert_eq!(look(&node, &logged_out).await, None, "it goes first");
    let _: redis::Value = redis.run("CONFIG SET maxmemory 0");
    assert_eq!(refused(&node, &login(&node, &logged_out)).await, "the session has ended");
}

#[tokio::test]
async fn a_full_server_of_people_ends_nobody() {
    let redis = Redis::start();
    let node = connected(RedisStore::start(settings(&redis)).expect("a good URL")).await;
    let sid = alias("ab", 1);
    taken(&node, &login(&node, &sid)).await;
    let _: redis::Value = redis.run("CONFIG SET maxmemory 1");
    let saved = node.publish(&login(&node, &alias("cd", 2))).await;
    assert!(matches!(&saved, Err(StoreError::Refused(why)) if why.contains("OOM")), "{saved:?}");
    look(&node, &sid).await.expect("alive");
}

#[tokio::test]
async fn room_is_made_ahead_and_a_cart_goes_last() {
    let redis = Redis::start();
    let node = node(&redis).await;
    node.keep_room();
    let cart = alias("ca", 1);
    taken(&node, &visit(&node, &cart)).await;
    pass(&redis, 5 * MINUTE);
    use_it(&node, &cart).await;
    filled(&redis, &node, 2_000_000).await;
    let info = || -> u64 {
        let info: String = redis.run("INFO memory");
        let number = |name: &str| -> u64 {
            let found = info.lines().find_map(|line| line.strip_prefix(name));
            found.and_then(|number| number.trim().parse().ok()).expect("a number")
        };
        number("used_memory:") * 100 / number("maxmemory:")
    };
    until("room is made ahead", || info() < 95).await;
    look(&node, &cart).await.expect("others went before it");
}
