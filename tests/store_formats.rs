//! Two formats of headers on one Redis, server by server: what is written is what all servers read,
//! and what a server cannot read is an error and never "no session".
//!
//! The next format after ours is made of a server that reads one number more.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

use sessionfs::redis::envelope::{COMPACT_FORMAT, FORMAT, OLDEST_FORMAT};
use sessionfs::redis::scripts::Scripts;
use sessionfs::redis::{RedisStore, Settings};
use sessionfs::session::content::Class;
use sessionfs::session::name::Alias;
use sessionfs::session::secret::Keyring;
use sessionfs::store::{Amend, Link as _, Lookup, Sessions as _, StoreError};
use support::redis::Redis;
use support::store::{
    CLOCK, MINUTE, alias, any_shard, connected, gone, hear, login, look, page, pass, removal, save,
    settings, taken,
};

const NEXT: u32 = FORMAT + 1;

/// A server that reads up to this format, connected and not registered.
async fn server(redis: &Redis, newest_format: u32) -> RedisStore {
    let keyring = Some(Keyring::for_tests());
    let newest_written = newest_format;
    let settings = Settings { newest_format, newest_written, keyring, ..settings(redis) };
    connected(RedisStore::start_with(settings, Scripts::with_clock(CLOCK)).unwrap()).await
}

async fn registered(redis: &Redis, id: &str, newest_format: u32) -> RedisStore {
    let store = server(redis, newest_format).await;
    store.register_server(id, "{}").await.unwrap();
    store
}

/// The format in which a session is kept.
fn kept(redis: &Redis, alias: &Alias) -> u32 {
    let key = format!("sessionfs:s:{{{}}}:{alias}", alias.shard().as_str());
    let value: Vec<u8> = redis.run(&format!("GETRANGE {key} 0 63"));
    let line = String::from_utf8_lossy(&value).into_owned();
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

fn is_too_new<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> bool {
    let what = format!("{answer:?}");
    let is_error = matches!(answer, Err(StoreError::Unreadable(why)) if why.contains("format"));
    assert!(is_error, "{what}");
    is_error
}

#[tokio::test]
async fn servers_are_upgraded_one_by_one_and_nobody_is_logged_out() {
    let redis = Redis::start();
    let people: Vec<Alias> = (0..4).map(|number| alias("ab", number)).collect();
    let (one, two) = (registered(&redis, "1", FORMAT).await, registered(&redis, "2", FORMAT).await);
    let mut births = Vec::new();
    for person in &people {
        births.push(taken(&one, &login(&one, person)).await.birth);
    }

    // The first server is upgraded: it writes what the other one reads.
    one.remove_server("1").await.unwrap();
    drop(one);
    let one = registered(&redis, "1", NEXT).await;
    assert_eq!((one.written_format(), one.newest_format()), (FORMAT, NEXT));
    for (person, birth) in people.iter().zip(&births) {
        taken(&one, &page(&one, person, *birth)).await;
        assert_eq!(kept(&redis, person), FORMAT);
        assert!(look(&two, person).await.is_some());
        taken(&two, &page(&two, person, *birth)).await;
    }

    // With the second one all read the next.
    two.remove_server("2").await.unwrap();
    drop(two);
    let two = registered(&redis, "2", NEXT).await;
    for store in [&one, &two] {
        store.agree().await.unwrap();
        assert_eq!(store.written_format(), NEXT);
    }
    for (person, birth) in people.iter().zip(&births) {
        assert!(look(&two, person).await.is_some(), "what is kept in the former is read");
        taken(&one, &page(&one, person, *birth)).await;
        assert_eq!(kept(&redis, person), NEXT);
        assert!(look(&two, person).await.is_some());
    }
    // Every change writes it, a tombstone too.
    let amend = Amend {
        stamp: two.stamp(any_shard()),
        alias: people[0].clone(),
        mode: Some(0o600),
        mtime: None,
    };
    assert!(two.amend(&amend).await.unwrap().is_some());
    assert_eq!(kept(&redis, &people[0]), NEXT);
    gone(&two, &removal(&two, &people[1])).await;
    assert_eq!(kept(&redis, &people[1]), NEXT);
}

#[tokio::test]
async fn a_server_of_before_lowers_what_is_written_and_is_told_no_ended_session() {
    let redis = Redis::start();
    let new = registered(&redis, "1", NEXT).await;
    let person = alias("ab", 1);
    let birth = taken(&new, &login(&new, &person)).await.birth;
    assert_eq!(kept(&redis, &person), NEXT);

    let old = registered(&redis, "2", FORMAT).await;
    assert!(is_too_new(old.fetch(&person, None).await));
    // Nothing of it is overwritten by who cannot read it.
    assert!(is_too_new(old.publish(&page(&old, &person, birth)).await));
    assert!(is_too_new(old.publish(&save(&old, &person, Class::Anonymous, None)).await));
    assert!(look(&new, &person).await.is_some());

    new.agree().await.unwrap();
    assert_eq!(new.written_format(), FORMAT);
    taken(&new, &page(&new, &person, birth)).await;
    assert_eq!(kept(&redis, &person), FORMAT);
    assert!(matches!(old.fetch(&person, None).await, Ok(Lookup::Session { .. })));
}

#[tokio::test]
async fn only_servers_that_live_count() {
    let redis = Redis::start();
    let old = registered(&redis, "1", FORMAT).await;
    let new = registered(&redis, "2", NEXT).await;
    assert_eq!(new.written_format(), FORMAT);
    // It was killed: nothing says that it has stopped.
    drop(old);
    pass(&redis, 2 * MINUTE);
    hear(&new).await;
    new.agree().await.unwrap();
    assert_eq!(new.written_format(), NEXT);
    // What is no registration of ours is that of a server that reads the oldest.
    let now: String = redis.run::<Vec<String>>("TIME")[0].clone();
    let at_ms = now.parse::<u64>().unwrap() * 1000 + 2 * MINUTE;
    let _: u64 = redis.run(&format!("ZADD sessionfs:servers {at_ms} somebody"));
    new.agree().await.unwrap();
    assert_eq!(new.written_format(), OLDEST_FORMAT);
}

#[tokio::test]
async fn contents_are_packed_when_all_servers_can_unpack_them() {
    let redis = Redis::start();
    let old = registered(&redis, "1", COMPACT_FORMAT - 1).await;
    let new = registered(&redis, "2", FORMAT).await;
    assert!(!old.takes_packed() && !new.takes_packed());
    drop(old);
    pass(&redis, 2 * MINUTE);
    hear(&new).await;
    new.agree().await.unwrap();
    assert!(new.takes_packed());
}

/// A command has no keyring, and writes tombstones.
#[tokio::test]
async fn a_command_writes_what_all_servers_read() {
    let redis = Redis::start();
    let old = registered(&redis, "1", FORMAT).await;
    let person = alias("ab", 1);
    taken(&old, &login(&old, &person)).await;
    let settings = Settings { newest_format: NEXT, newest_written: NEXT, ..settings(&redis) };
    let command = connected(RedisStore::start(settings).unwrap()).await;
    gone(&command, &removal(&command, &person)).await;
    assert_eq!(kept(&redis, &person), FORMAT);
    assert_eq!(look(&old, &person).await, None);
}
