//! Listings are exact: nothing that lives is missing, nothing dead or removed is there.

mod support;

use std::collections::BTreeSet;

use sessionfs::redis::RedisStore;
use sessionfs::session::content::Class;
use sessionfs::session::name::{Alias, Form, Shard};
use sessionfs::store::{Link as _, Publish, Sessions as _};
use support::index;
use support::redis::Redis;
use support::store::*;

async fn names(store: &RedisStore, shard: &str) -> BTreeSet<Alias> {
    let shard = Shard::parse(shard).expect("a shard");
    let listed = store.list(shard).await.expect("a listing");
    let names: BTreeSet<_> = listed.iter().map(|l| l.alias.clone()).collect();
    assert_eq!(names.len(), listed.len(), "nothing is there twice");
    names
}

#[tokio::test]
async fn a_shard_lists_what_lives_and_nothing_else() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let [lives, removed, dead, other] =
        std::array::from_fn(|n| alias("ab", n.try_into().expect("small")));
    let elsewhere = alias("-_", 1);
    taken(&node, &login(&node, &dead)).await;
    pass(&redis, 15 * MINUTE);
    for sid in [&lives, &removed, &other, &elsewhere] {
        taken(&node, &login(&node, sid)).await;
    }
    gone(&node, &removal(&node, &removed)).await;
    assert_eq!(names(&node, "ab").await, BTreeSet::from([lives.clone(), other.clone()]));
    assert_eq!(names(&node, "-_").await, BTreeSet::from([elsewhere]));
    assert_eq!(names(&node, "zz").await, BTreeSet::new());
    // What a listing tells is what a look tells.
    let listed = node.list(lives.shard()).await.expect("a listing");
    let one = listed.into_iter().find(|l| l.alias == lives).expect("listed").meta;
    let seen = look(&node, &lives).await.expect("alive");
    assert_eq!(
        sessionfs::store::Meta { left_ms: 0, ..one },
        sessionfs::store::Meta { left_ms: 0, ..seen }
    );
}

#[tokio::test]
async fn members_whose_key_is_gone_leave_the_index() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let (stays, forgotten) = (alias("ab", 1), alias("ab", 2));
    taken(&node, &login(&node, &stays)).await;
    taken(&node, &login(&node, &forgotten)).await;
    let _: u64 = redis.run(&format!("DEL sessionfs:s:{{ab}}:{forgotten}"));
    assert_eq!(names(&node, "ab").await, BTreeSet::from([stays]));
    assert_eq!(index::size(&redis, "ab"), 1);
}

#[tokio::test]
async fn strangers_in_the_index_are_passed_over() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    taken(&node, &login(&node, &sid)).await;
    let _: u64 = redis.run(&format!("ZADD sessionfs:a:{{ab}} 5 hello 6 {}", alias("cd", 1)));
    assert_eq!(names(&node, "ab").await, BTreeSet::from([sid]));
}

/// Whoever can write Redis could otherwise have a session live on that nobody sees.
#[tokio::test]
async fn a_score_that_is_no_time_hides_no_session() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    taken(&node, &login(&node, &sid)).await;
    let activity_ms = look(&node, &sid).await.expect("alive").activity_ms;
    for score in ["+inf", "1e300", "1e15", "-inf"] {
        index::set_score(&redis, &sid, score);
        assert_eq!(names(&node, "ab").await, BTreeSet::from([sid.clone()]), "{score}");
        let seen = look(&node, &sid).await.expect("alive");
        assert_eq!(seen.activity_ms, activity_ms, "{score}");
    }
    // A look has put the time in its place.
    index::set_score(&redis, &sid, "+inf");
    look(&node, &sid).await.expect("alive");
    assert!(index::score(&redis, &sid).expect("an entry") < 1e15);
}

#[tokio::test]
async fn a_large_shard_is_complete_also_where_all_have_one_score() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let all: BTreeSet<_> = (0..1100).map(|n| alias("ab", n)).collect();
    for sid in &all {
        taken(&node, &login(&node, sid)).await;
    }
    assert_eq!(names(&node, "ab").await, all);
    let mut connection = redis.connection();
    let score = index::score(&redis, &alias("ab", 1099)).expect("an entry");
    for key in index::keys("ab") {
        let members: Vec<Vec<u8>> = redis.run(&format!("ZRANGE {key} 0 -1"));
        for member in members {
            let mut command = redis::cmd("ZADD");
            command.arg(&key).arg(score).arg(member).exec(&mut connection).expect("added");
        }
    }
    assert_eq!(names(&node, "ab").await, all);
}

#[tokio::test]
async fn no_session_that_lives_all_through_is_missed_while_others_come_go_and_move() {
    let redis = Redis::start();
    let (one, two) = (node(&redis).await, node(&redis).await);
    let stay: BTreeSet<_> = (0..600).map(|n| alias("ab", n)).collect();
    for sid in &stay {
        taken(&one, &login(&one, sid)).await;
    }
    let busy = async {
        for n in 0..1500 {
            let moved = alias("ab", n * 7 % 600);
            two.touch_now(&moved).await.expect("written");
            let comes = alias("ab", 1000 + n);
            taken(&two, &login(&two, &comes)).await;
            gone(&two, &removal(&two, &comes)).await;
        }
    };
    let lists = async {
        for _ in 0..15 {
            let names = names(&one, "ab").await;
            assert!(names.is_superset(&stay), "{} of {}", names.len(), stay.len());
            assert!(names.len() <= stay.len() + 2, "hardly any other lives at a time");
        }
    };
    tokio::join!(busy, lists);
}

#[tokio::test]
async fn the_root_shows_shards_in_use_and_flat_sessions() {
    let redis = Redis::start();
    let node = node(&redis).await;
    assert_eq!(node.list_root().await, Ok(sessionfs::store::RootListing::default()));
    let shard = |text| Shard::parse(text).expect("a shard");
    taken(&node, &login(&node, &alias("aa", 1))).await;
    taken(&node, &login(&node, &alias("-_", 1))).await;
    // A flat one alone does not show its shard.
    let flat = short_alias("ab", 1);
    taken(&node, &login(&node, &flat)).await;
    // Both forms in one shard.
    let mixed = short_alias("cd", 1);
    taken(&node, &login(&node, &mixed)).await;
    let sharded = Publish { form: Form::Sharded, ..login(&node, &short_alias("cd", 2)) };
    taken(&node, &sharded).await;
    // Neither a removed one nor, later, dead ones.
    taken(&node, &login(&node, &alias("ee", 1))).await;
    gone(&node, &removal(&node, &alias("ee", 1))).await;
    let root = node.list_root().await.expect("a listing");
    assert_eq!(root.shards, [shard("-_"), shard("aa"), shard("cd")]);
    let flats: BTreeSet<_> = root.flat.iter().map(|l| l.alias.clone()).collect();
    assert_eq!(flats, BTreeSet::from([flat.clone(), mixed]));
    // Odoo 16 saves it again under its sharded name.
    let meta = look(&node, &flat).await.expect("alive");
    let moved = save(&node, &flat, Class::Authenticated, Some(meta.birth));
    taken(&node, &Publish { form: Form::Sharded, ..moved }).await;
    let root = node.list_root().await.expect("a listing");
    assert!(root.shards.contains(&shard("ab")) && root.flat.len() == 1);
    pass(&redis, 15 * MINUTE);
    assert_eq!(node.list_root().await, Ok(sessionfs::store::RootListing::default()));
}

/// Of sessions that can have no flat name, one that lives is all that the root asks for.
#[tokio::test]
async fn the_root_does_not_ask_for_every_session() {
    let redis = Redis::start();
    let quiet = sessionfs::redis::Settings { heartbeat_ms: 3_600_000, ..settings(&redis) };
    let store = connected(RedisStore::start(quiet).expect("a good URL")).await;
    for n in 0..600 {
        taken(&store, &login(&store, &alias("ab", n))).await;
    }
    for n in 0..9 {
        taken(&store, &login(&store, &alias("ZZ", n))).await;
    }
    taken(&store, &login(&store, &alias("zz", 1))).await;
    let before = store.round_trips();
    let root = store.list_root().await.expect("a listing");
    assert_eq!(root.shards.iter().map(Shard::as_str).collect::<Vec<_>>(), ["ZZ", "ab", "zz"]);
    let trips = store.round_trips() - before;
    assert_eq!(
        trips,
        8 + 1 + 1 + 2,
        "who is there; sizes; flat names of one shard; two for that with few"
    );
}

/// Redis remembers a key for each connection that is told of changes and has read it, and goes on when that is gone.
#[tokio::test]
async fn redis_remembers_no_index_for_who_has_read_it() {
    let redis = Redis::start();
    let told = sessionfs::redis::Settings { tracks_changes: true, ..settings(&redis) };
    let store = connected(RedisStore::start(told).expect("a good URL")).await;
    taken(&store, &login(&store, &alias("ab", 1))).await;
    look(&store, &alias("ab", 1)).await.expect("alive");
    store.list_root().await.expect("a listing");
    store.list(alias("ab", 1).shard()).await.expect("a listing");
    let info: String = redis.run("INFO stats");
    let items = info.lines().find_map(|line| line.strip_prefix("tracking_total_items:"));
    let items: u64 = items.expect("it says so").trim().parse().expect("a number");
    assert!((1..20).contains(&items), "{items} keys are remembered");
}

#[tokio::test]
async fn the_root_shows_a_shard_if_any_of_its_sessions_lives() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let [lives, last] = [1, 2].map(|n| alias("ab", n));
    for sid in [&lives, &last] {
        taken(&node, &login(&node, sid)).await;
        pass(&redis, 1);
    }
    let shards = async || node.list_root().await.expect("a listing").shards;
    let stranger = "x".repeat(84);
    for former in [last.as_str(), &stranger] {
        let _: u64 = redis.run(&format!("DEL sessionfs:s:{{ab}}:{former}"));
        let _: u64 = redis.run(&format!("ZADD sessionfs:a:{{ab}} +inf {former}"));
        assert_eq!(shards().await, [lives.shard()], "{former}");
    }
    let _: u64 = redis.run(&format!("DEL sessionfs:s:{{ab}}:{lives}"));
    assert_eq!(shards().await, []);
}

#[tokio::test]
async fn the_root_shows_all_flat_sessions_of_a_large_shard() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let (sharded, flat) = (alias("ab", 1), short_alias("ab", 1));
    taken(&node, &login(&node, &flat)).await;
    taken(&node, &login(&node, &sharded)).await;
    let strangers: Vec<_> = (0..1000).map(|n| format!("{n} stranger{n}")).collect();
    let _: u64 = redis.run(&format!("ZADD sessionfs:a:{{ab}} {}", strangers.join(" ")));
    let root = node.list_root().await.expect("a listing");
    assert_eq!(root.shards, [sharded.shard()]);
    assert_eq!(root.flat.into_iter().map(|listed| listed.alias).collect::<Vec<_>>(), [flat]);
}

#[tokio::test]
async fn round_trips_are_few_and_counted() {
    let redis = Redis::start();
    // Without heartbeats in between.
    let quiet = sessionfs::redis::Settings { heartbeat_ms: 3_600_000, ..settings(&redis) };
    let store = connected(RedisStore::start(quiet).expect("a good URL")).await;
    let sid = alias("ab", 1);
    let before = store.round_trips();
    let born = taken(&store, &login(&store, &sid)).await;
    assert_eq!(store.round_trips() - before, 1, "a save");
    let before = store.round_trips();
    look(&store, &sid).await.expect("alive");
    assert_eq!(store.round_trips() - before, 1, "a look");
    let before = store.round_trips();
    names(&store, "ab").await;
    assert_eq!(store.round_trips() - before, 2, "a listing");
    for n in 2..50 {
        taken(&store, &login(&store, &alias("ab", n))).await;
    }
    let before = store.round_trips();
    for n in 1..50 {
        for _ in 0..100 {
            store.touch(&alias("ab", n));
        }
    }
    store.drain(std::time::Duration::from_secs(5)).await;
    assert_eq!(store.round_trips() - before, 1, "all touches of a shard");
    gone(&store, &removal(&store, &sid)).await;
    refused(&store, &page(&store, &sid, born.birth)).await;
}

/// Redis takes no further connection.
#[tokio::test]
async fn a_listing_needs_no_second_connection() {
    let redis = Redis::start();
    let store = connected(RedisStore::start(settings(&redis)).expect("a good URL")).await;
    let sid = alias("ab", 1);
    taken(&store, &login(&store, &sid)).await;
    let mut admin = redis.connection();
    let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut admin).expect("a list");
    let most = clients.lines().count();
    redis::cmd("CONFIG").arg("SET").arg("maxclients").arg(most).exec(&mut admin).expect("set");
    assert_eq!(store.list(sid.shard()).await.expect("a listing").len(), 1);
}

/// An index that is none costs its shard the listings and nothing else.
#[tokio::test]
async fn sessions_are_read_and_removed_beside_an_index_that_is_none() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let (read, removed) = (alias("ab", 1), alias("ab", 2));
    for sid in [&read, &removed] {
        taken(&node, &login(&node, sid)).await;
    }
    let _: () = redis.run("SET sessionfs:a:{ab} hello");
    look(&node, &read).await.expect("alive");
    gone(&node, &removal(&node, &removed)).await;
    assert!(look(&node, &removed).await.is_none());
    taken(&node, &login(&node, &alias("ab", 3))).await;
    pass(&redis, 15 * MINUTE);
    assert!(look(&node, &read).await.is_none());
}
