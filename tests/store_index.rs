//! The indexes of a shard: a session is in one of them, whatever its format and whoever it belongs to, and the sessions
//! of a user are found by it.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

use std::collections::BTreeSet;

use sessionfs::redis::envelope::{COMPACT_FORMAT, OLDEST_FORMAT};
use sessionfs::redis::scan::Filter;
use sessionfs::redis::scripts::Scripts;
use sessionfs::redis::{RedisStore, Settings};
use sessionfs::session::content::{Class, Content};
use sessionfs::session::name::{Alias, Form, Shard};
use sessionfs::store::{Publish, Sessions as _};
use support::index;
use support::redis::Redis;
use support::store::{
    CLOCK, MINUTE, SECOND, alias, connected, gone, login, look, page, pass, removal, save,
    settings, short_alias, taken, use_it,
};

/// A server that writes this format.
async fn writes(redis: &Redis, format: u32) -> RedisStore {
    let settings = Settings { newest_written: format, ..settings(redis) };
    connected(RedisStore::start_with(settings, Scripts::with_clock(CLOCK)).unwrap()).await
}

fn is_short((key, member, _): &(String, Vec<u8>, f64)) -> bool {
    let is_quarter = key.len() == "sessionfs:a:{ab}:0".len();
    assert_eq!(is_quarter, member.len() == 64 || member.len() == 21, "{key}");
    is_quarter
}

async fn found(store: &RedisStore, filter: Filter) -> BTreeSet<Alias> {
    let mut scan = store.scan(filter);
    let mut found = BTreeSet::new();
    while let Some(page) = scan.next().await {
        found.extend(page.unwrap().living.into_iter().map(|living| living.alias));
    }
    found
}

#[tokio::test]
async fn a_session_is_in_the_index_of_its_format_and_moves_with_a_save() {
    let redis = Redis::start();
    let (old, new) = (writes(&redis, OLDEST_FORMAT).await, writes(&redis, COMPACT_FORMAT).await);
    for sid in [alias("ab", 1), short_alias("ab", 2)] {
        let birth = taken(&old, &login(&old, &sid)).await.birth;
        assert!(!is_short(&index::entry(&redis, &sid).unwrap()));

        // A use goes where the session is, whichever server sees it.
        pass(&redis, 10 * MINUTE);
        use_it(&new, &sid).await;
        assert!(!is_short(&index::entry(&redis, &sid).unwrap()));
        pass(&redis, 10 * MINUTE);
        let seen = look(&old, &sid).await.expect("alive");
        assert!(seen.left_ms > 4 * MINUTE, "{}", seen.left_ms);

        taken(&new, &page(&new, &sid, birth)).await;
        assert!(is_short(&index::entry(&redis, &sid).unwrap()));
        pass(&redis, 10 * MINUTE);
        use_it(&old, &sid).await;
        assert!(is_short(&index::entry(&redis, &sid).unwrap()));
        pass(&redis, 10 * MINUTE);
        let seen = look(&new, &sid).await.expect("alive");
        assert!(seen.left_ms > 5 * MINUTE - SECOND, "{}", seen.left_ms);

        taken(&old, &page(&old, &sid, birth)).await;
        assert!(!is_short(&index::entry(&redis, &sid).unwrap()));
        taken(&new, &page(&new, &sid, birth)).await;
        gone(&new, &removal(&new, &sid)).await;
        assert_eq!(index::size(&redis, "ab"), 0);
    }
}

#[tokio::test]
async fn what_ends_by_its_time_leaves_the_short_index() {
    let redis = Redis::start();
    let node = writes(&redis, COMPACT_FORMAT).await;
    let (one, other) = (alias("ab", 1), alias("ab", 2));
    for sid in [&one, &other] {
        taken(&node, &login(&node, sid)).await;
    }
    pass(&redis, 15 * MINUTE);
    assert_eq!(look(&node, &one).await, None);
    assert_eq!(index::size(&redis, "ab"), 1);
    assert!(node.list(one.shard()).await.unwrap().is_empty());
    assert_eq!(index::size(&redis, "ab"), 0);
}

/// Somebody who logs in on the visitor's session, and two entries of one session in Redis.
#[tokio::test]
async fn marks_follow_the_user_and_an_entry_that_is_none_leaves() {
    let redis = Redis::start();
    let node = writes(&redis, COMPACT_FORMAT).await;
    let sid = alias("ab", 1);
    let visit = taken(&node, &save(&node, &sid, Class::Anonymous, None)).await;
    let (key, before, score) = index::entry(&redis, &sid).unwrap();
    taken(&node, &save(&node, &sid, Class::Authenticated, Some(visit.birth))).await;
    let (_, after, _) = index::entry(&redis, &sid).unwrap();
    assert_ne!(before[..2], after[..2]);
    assert_eq!(before[2..], after[2..]);

    let mut command = redis::cmd("ZADD");
    command.arg(&key).arg(score).arg(before).arg(score).arg("x").arg(score).arg(vec![7_u8; 64]);
    command.exec(&mut redis.connection()).unwrap();
    assert_eq!(node.list(sid.shard()).await.unwrap().len(), 1);
    assert_eq!(index::entry(&redis, &sid).unwrap().1, after);
}

#[tokio::test]
async fn each_filter_finds_what_a_look_at_all_finds() {
    let redis = Redis::start();
    let (old, new) = (writes(&redis, OLDEST_FORMAT).await, writes(&redis, COMPACT_FORMAT).await);
    let logins = ["admin", "jos\u{e9}@example.com", "-", "a b", ""];
    for number in 0..240_u32 {
        let shard = ["ab", "cd", "Z-"][number as usize % 3];
        let is_hex = number % 2 == 0 && shard != "Z-";
        let sid = if is_hex { short_alias(shard, number) } else { alias(shard, number) };
        let store = if number % 5 == 0 { &old } else { &new };
        let class = if number % 4 == 0 { Class::Anonymous } else { Class::Authenticated };
        let publish = save(store, &sid, class, None);
        let who = (class == Class::Authenticated).then_some(number as usize % logins.len());
        let content = Content {
            uid: who.map(|who| i64::try_from(who).unwrap() * 1_000_003 - 1),
            db: Some(["shop", "erp"][number as usize / 20 % 2].into()),
            login: who.map(|who| logins[who].into()),
            ..publish.content.clone()
        };
        taken(store, &Publish { content, ..publish }).await;
    }
    let all = found(&new, Filter::default()).await;
    assert_eq!(all.len(), 240);
    for (who, login) in logins.iter().enumerate() {
        let login = Some((*login).to_owned());
        let user_id = Some(i64::try_from(who).unwrap() * 1_000_003 - 1);
        let database = Some("shop".to_owned());
        let by_login = found(&new, Filter { login: login.clone(), ..Filter::default() }).await;
        let by_user = found(&new, Filter { user_id, ..Filter::default() }).await;
        assert_eq!((by_login.len(), &by_login), (36, &by_user), "{login:?}");
        let both = Filter { login, user_id, database, ..Filter::default() };
        assert_eq!(found(&new, both).await.len(), 18);
    }
}

#[tokio::test]
async fn a_large_shard_is_gone_through_by_pages() {
    let redis = Redis::start();
    let node = writes(&redis, COMPACT_FORMAT).await;
    let sid = alias("ab", 1);
    taken(&node, &login(&node, &sid)).await;
    let mut command = redis::cmd("ZADD");
    command.arg(&index::keys("ab")[0]);
    for number in 0..10_000 {
        command.arg(number).arg(format!("stranger {number}"));
    }
    command.exec(&mut redis.connection()).unwrap();
    let filter = Filter { login: Some("admin".into()), ..Filter::default() };
    assert_eq!(found(&node, filter).await, BTreeSet::from([sid]));
}

#[tokio::test]
async fn the_root_shows_the_flat_ones_among_many() {
    let redis = Redis::start();
    let node = writes(&redis, COMPACT_FORMAT).await;
    for number in 0..30 {
        let publish = login(&node, &short_alias("ab", number));
        let form = if number % 10 == 0 { Form::Flat } else { Form::Sharded };
        taken(&node, &Publish { form, ..publish }).await;
    }
    let root = node.list_root().await.unwrap();
    assert_eq!(root.shards, [Shard::parse("ab").unwrap()]);
    assert_eq!(root.flat.len(), 3);
    assert!(root.flat.iter().all(|flat| flat.meta.form == Form::Flat));
}

/// A page that holds a stranger is as full as any other.
#[tokio::test]
async fn a_stranger_in_an_index_hides_no_session() {
    let redis = Redis::start();
    let node = writes(&redis, COMPACT_FORMAT).await;
    // More than a page, in all indexes.
    let sids: BTreeSet<_> = (0..300)
        .map(|number| {
            let third = ["A", "Q", "g", "w"][number % 4];
            Alias::parse(&format!("ab{third}{number:081}")).unwrap()
        })
        .collect();
    for sid in &sids {
        taken(&node, &login(&node, sid)).await;
    }
    for stranger in ["stranger", "another"] {
        let _: u64 = redis.run(&format!("ZADD {} 1 {stranger}", index::keys("ab")[1]));
    }
    let filter = Filter { login: Some("admin".into()), ..Filter::default() };
    for filter in [Filter::default(), filter] {
        assert_eq!(found(&node, filter).await, sids);
    }
    assert_eq!(node.list(Shard::parse("ab").unwrap()).await.unwrap().len(), sids.len());
}

/// As many as a shard has of a million.
#[tokio::test]
async fn redis_keeps_a_short_index_as_a_list() {
    let redis = Redis::start();
    let node = writes(&redis, COMPACT_FORMAT).await;
    for number in 0..244_u32 {
        let third = char::from(b"ABCDEFGHIJ"[number as usize % 10]);
        let sid = Alias::parse(&format!("ab{third}{number:081}")).unwrap();
        taken(&node, &login(&node, &sid)).await;
    }
    assert_eq!(index::size(&redis, "ab"), 244);
    for key in &index::keys("ab")[1..] {
        let encoding: String = redis.run(&format!("OBJECT ENCODING {key}"));
        assert!(["listpack", "ziplist"].contains(&encoding.as_str()), "{encoding}");
    }
}
