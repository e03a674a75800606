//! Stores and changes for the tests of the store.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sessionfs::redis::envelope::FORMAT;
use sessionfs::redis::scripts::Scripts;
use sessionfs::redis::{RedisStore, Settings};
use sessionfs::session::content::{Class, Content};
use sessionfs::session::name::{Alias, Form, Shard};
use sessionfs::session::packing;
use sessionfs::session::policy::Lifetimes;
use sessionfs::store::{
    ChangeId, Claim, Health, Link as _, Lookup, Meta, Publish, Published, Sessions as _,
    StoreError, Unlink, Unlinked, Wait, Waited,
};

use super::redis::Redis;

pub const SECOND: u64 = 1000;
pub const MINUTE: u64 = 60 * SECOND;
pub const HOUR: u64 = 60 * MINUTE;
pub const DAY: u64 = 24 * HOUR;

/// Redis's clock, ahead by what `test:clock` holds: hours pass without waiting.
pub const CLOCK: &str = "
if redis.replicate_commands then redis.replicate_commands() end
local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
    + tonumber(redis.call('GET', 'test:clock') or 0)
end
";

/// For what does not depend on the shard: the store of these tests is one server.
pub fn any_shard() -> Shard {
    Shard::parse("ab").expect("a shard")
}

/// Defaults, but for bounds that a loaded test machine would not keep. `SESSIONFS_TEST_FORMAT` names another format of
/// headers.
pub fn settings(redis: &Redis) -> Settings {
    let format = std::env::var("SESSIONFS_TEST_FORMAT");
    Settings {
        newest_written: format.map_or(FORMAT, |format| format.parse().expect("a number")),
        url: redis.url(),
        overdue_ms: 1000,
        down_after_ms: 3000,
        attempt_ms: 2000,
        retry_total_ms: 5000,
        touch_batch_ms: 20,
        ..Settings::default()
    }
}

/// A store whose hours can be let pass by [`pass`].
pub async fn node(redis: &Redis) -> RedisStore {
    node_with(redis, Lifetimes::default()).await
}

pub async fn node_with(redis: &Redis, lifetimes: Lifetimes) -> RedisStore {
    let settings = Settings { lifetimes, ..settings(redis) };
    connected(RedisStore::start_with(settings, Scripts::with_clock(CLOCK)).expect("a good URL"))
        .await
}

/// Waits until it is well, and lets it hear Redis's clock.
pub async fn connected(store: RedisStore) -> RedisStore {
    let deadline = Instant::now() + Duration::from_secs(10);
    // However short a step of waiting is there.
    while store.wait_up(Wait::default()).await != Waited::Up {
        assert!(Instant::now() < deadline, "{}", store.link_cause());
    }
    let nobody = alias("zz", 0);
    assert_eq!(store.fetch(&nobody, None).await, Ok(Lookup::Absent));
    store
}

/// Lets `ms` pass on Redis's clock.
pub fn pass(redis: &Redis, ms: u64) {
    let _: i64 = redis.run(&format!("INCRBY test:clock {ms}"));
}

/// The alias of that number in a shard, of Odoo 18's length.
pub fn alias(shard: &str, number: u32) -> Alias {
    Alias::parse(&format!("{shard}{number:082}")).expect("an alias")
}

/// The same, of Odoo 14's length.
pub fn short_alias(shard: &str, number: u32) -> Alias {
    Alias::parse(&format!("{shard}{number:038}")).expect("an alias")
}

pub fn content(class: Class) -> Content {
    let authenticated = class == Class::Authenticated;
    Content {
        class,
        uid: authenticated.then_some(7),
        db: Some("shop".into()),
        login: authenticated.then(|| "admin".into()),
    }
}

pub fn save(store: &RedisStore, alias: &Alias, class: Class, opened: Option<ChangeId>) -> Publish {
    let stamp = store.stamp(any_shard());
    Publish {
        birth: opened.unwrap_or(stamp.id),
        stamp,
        alias: alias.clone(),
        form: if alias.family().is_some() { Form::Sharded } else { Form::Flat },
        content: content(class),
        size_bytes: 3,
        packing: packing::PLAIN,
        sealed: Bytes::from_static(b"abc"),
        sealer: None,
        claim: Claim { opened, ..Claim::default() },
        background: false,
        is_activity: true,
    }
}

pub fn login(store: &RedisStore, alias: &Alias) -> Publish {
    save(store, alias, Class::Authenticated, None)
}

/// A login that rotates the session `from`.
pub fn rotated(store: &RedisStore, alias: &Alias, from: &Alias) -> Publish {
    claiming(login(store, alias), |claim| claim.sibling = Some(from.clone()))
}

pub fn visit(store: &RedisStore, alias: &Alias) -> Publish {
    save(store, alias, Class::Anonymous, None)
}

/// A later save by who has opened `birth`.
pub fn page(store: &RedisStore, alias: &Alias, birth: ChangeId) -> Publish {
    save(store, alias, Class::Authenticated, Some(birth))
}

/// The same save, sent once more.
pub fn again(publish: &Publish) -> Publish {
    Publish { stamp: publish.stamp.again(), ..publish.clone() }
}

/// The same with another claim.
pub fn claiming(publish: Publish, change: impl FnOnce(&mut Claim)) -> Publish {
    let mut publish = publish;
    change(&mut publish.claim);
    publish
}

pub fn removal(store: &RedisStore, alias: &Alias) -> Unlink {
    Unlink {
        stamp: store.stamp(any_shard()),
        alias: alias.clone(),
        listed: None,
        held: None,
        opened: None,
    }
}

/// What becomes of a save whose content is sealed anew where the store asks for that.
pub async fn published(store: &RedisStore, publish: &Publish) -> Result<Published, StoreError> {
    match store.publish(publish).await? {
        Published::Rebind { birth } => store.publish(&Publish { birth, ..publish.clone() }).await,
        other => Ok(other),
    }
}

pub async fn taken(store: &RedisStore, publish: &Publish) -> Meta {
    match published(store, publish).await {
        Ok(Published::Taken(meta)) => meta,
        other => panic!("not taken: {other:?}"),
    }
}

pub async fn refused(store: &RedisStore, publish: &Publish) -> &'static str {
    match published(store, publish).await {
        Ok(Published::Refused(reason)) => reason.text(),
        other => panic!("not refused: {other:?}"),
    }
}

pub async fn gone(store: &RedisStore, unlink: &Unlink) -> ChangeId {
    match store.unlink(unlink).await {
        Ok(Unlinked::Gone { birth, .. }) => birth,
        other => panic!("not gone: {other:?}"),
    }
}

/// The living session's meta; `None` if it is absent.
pub async fn look(store: &RedisStore, alias: &Alias) -> Option<Meta> {
    match store.fetch(alias, None).await {
        Ok(Lookup::Session { meta, .. }) => Some(meta),
        Ok(Lookup::Absent) => None,
        other => panic!("neither there nor absent: {other:?}"),
    }
}

/// Lets a node hear the time, which it cannot know after [`pass`]: by its own clock nothing passed.
pub async fn hear(store: &RedisStore) {
    store.fetch(&alias("zz", 0), None).await.expect("an answer");
}

/// A person opens it now.
pub async fn use_it(store: &RedisStore, alias: &Alias) {
    hear(store).await;
    store.touch_now(alias).await.expect("written");
}

/// Waits for another process's effect.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub async fn until_health(store: &RedisStore, health: Health) {
    until(&format!("{health:?}"), || store.health(None) == health).await;
}
