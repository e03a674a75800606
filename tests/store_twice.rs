//! Every change can be sent twice, and a late retry never undoes a newer change.

mod support;

use sessionfs::redis::{RedisStore, Settings};
use sessionfs::session::content::Class;
use sessionfs::store::{
    Amend, Link as _, Publish, Published, Sessions as _, StoreError, Unlink, Unlinked,
};
use support::redis::Redis;
use support::store::*;

#[tokio::test]
async fn a_save_sent_twice_is_taken_once() {
    let redis = Redis::start();
    let (one, two) = (node(&redis).await, node(&redis).await);
    let sid = alias("ab", 1);
    let publish = login(&one, &sid);
    let first = taken(&one, &publish).await;
    let before: Vec<u8> = redis.run(&format!("GET sessionfs:s:{{ab}}:{sid}"));
    for again in [one.publish(&publish).await, two.publish(&again(&publish)).await] {
        let Ok(Published::Taken(meta)) = again else { panic!("{again:?}") };
        assert_eq!((meta.version, meta.birth), (first.version, first.birth));
        assert_eq!(meta.mtime_ns, first.mtime_ns);
    }
    let after: Vec<u8> = redis.run(&format!("GET sessionfs:s:{{ab}}:{sid}"));
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_late_retry_of_a_save_does_not_undo_a_newer_save() {
    let redis = Redis::start();
    let (one, two) = (node(&redis).await, node(&redis).await);
    let sid = alias("ab", 1);
    let born = taken(&one, &login(&one, &sid)).await;
    let slow = page(&one, &sid, born.birth);
    settle().await;
    let newer = taken(&two, &page(&two, &sid, born.birth)).await;
    // Its first sending never arrived, or its reply was lost: both look alike from here.
    assert_eq!(one.publish(&again(&slow)).await, Ok(Published::Superseded { birth: None }));
    assert_eq!(look(&one, &sid).await.map(|m| m.version), Some(newer.version));
}

#[tokio::test]
async fn a_save_whose_reply_was_lost_does_not_undo_what_was_saved_since() {
    let redis = Redis::start();
    let (one, two) = (node(&redis).await, node(&redis).await);
    let sid = alias("ab", 1);
    let first = login(&one, &sid);
    let born = taken(&one, &first).await;
    settle().await;
    let newer = taken(&two, &page(&two, &sid, born.birth)).await;
    // Whoever made it did not know of a life, and is told which one it is.
    let birth = Some(born.birth);
    assert_eq!(one.publish(&again(&first)).await, Ok(Published::Superseded { birth }));
    assert_eq!(look(&one, &sid).await.map(|m| m.version), Some(newer.version));
}

#[tokio::test]
async fn a_first_sending_that_was_stuck_on_its_way_counts_as_a_retry() {
    let redis = Redis::start();
    let (one, two) = (node(&redis).await, node(&redis).await);
    let (sid, other) = (alias("ab", 1), alias("ab", 2));
    let born = taken(&one, &login(&one, &sid)).await;
    taken(&one, &login(&one, &other)).await;
    // Sent now, and held up by the network; its sender gives the connection up.
    let (stuck, stuck_unlink) = (page(&one, &sid, born.birth), removal(&one, &other));
    pass(&redis, 10 * SECOND);
    hear(&two).await;
    let newer = taken(&two, &page(&two, &sid, born.birth)).await;
    gone(&two, &removal(&two, &other)).await;
    let anew = taken(&two, &visit(&two, &other)).await;
    assert_eq!(one.publish(&stuck).await, Ok(Published::Superseded { birth: None }));
    assert_eq!(one.unlink(&stuck_unlink).await, Ok(Unlinked::Superseded));
    assert_eq!(look(&one, &sid).await.map(|m| m.version), Some(newer.version));
    assert_eq!(look(&one, &other).await.map(|m| m.version), Some(anew.version));
}

#[tokio::test]
async fn a_retry_that_finds_only_older_things_is_carried_out() {
    let redis = Redis::start();
    let (one, two) = (node(&redis).await, node(&redis).await);
    let sid = alias("ab", 1);
    let born = taken(&two, &login(&two, &sid)).await;
    settle().await;
    hear(&one).await;
    let lost = page(&one, &sid, born.birth);
    let Ok(Published::Taken(meta)) = one.publish(&again(&lost)).await else { panic!() };
    assert_eq!(meta.version, lost.stamp.id);
}

#[tokio::test]
async fn a_late_retry_of_a_save_does_not_undo_a_logout() {
    let redis = Redis::start();
    let (one, two) = (node(&redis).await, node(&redis).await);
    let sid = alias("ab", 1);
    let first = login(&one, &sid);
    let born = taken(&one, &first).await;
    settle().await;
    assert_eq!(gone(&two, &removal(&two, &sid)).await, born.birth);
    for publish in [&first, &page(&one, &sid, born.birth)] {
        let outcome = one.publish(&again(publish)).await;
        assert!(
            matches!(outcome, Ok(Published::Superseded { birth: None } | Published::Refused(_))),
            "{outcome:?}"
        );
        assert_eq!(look(&one, &sid).await, None);
    }
    // Not even an anonymous one, which the name would otherwise be free for.
    let visitor = Publish { stamp: first.stamp, ..visit(&one, &sid) };
    assert_eq!(one.publish(&again(&visitor)).await, Ok(Published::Superseded { birth: None }));
}

#[tokio::test]
async fn a_removal_sent_twice_finds_its_own_tombstone() {
    let redis = Redis::start();
    let (one, two) = (node(&redis).await, node(&redis).await);
    let sid = alias("ab", 1);
    let born = taken(&one, &login(&one, &sid)).await;
    let unlink = removal(&one, &sid);
    let again = Unlink { stamp: unlink.stamp.again(), ..unlink.clone() };
    let gone = Ok(Unlinked::Gone { alias: sid.clone(), birth: born.birth });
    assert_eq!(one.unlink(&unlink).await, gone);
    assert_eq!(one.unlink(&again).await, gone);
    assert_eq!(two.unlink(&again).await, gone);
    // Another removal finds nothing.
    assert_eq!(two.unlink(&removal(&two, &sid)).await, Ok(Unlinked::Absent));
    // The same by alias.
    let (nobody, sid) = (alias("ab", 2), alias("ab", 3));
    let born = taken(&one, &login(&one, &sid)).await;
    let unlink = Unlink { listed: Some(sid.clone()), ..removal(&one, &nobody) };
    let again = Unlink { stamp: unlink.stamp.again(), ..unlink.clone() };
    let gone = Ok(Unlinked::Gone { alias: sid.clone(), birth: born.birth });
    assert_eq!(one.unlink(&unlink).await, gone);
    assert_eq!(two.unlink(&again).await, gone);
}

#[tokio::test]
async fn a_late_retry_of_a_removal_does_not_remove_a_newer_life() {
    let redis = Redis::start();
    let (one, two) = (node(&redis).await, node(&redis).await);
    let sid = alias("ab", 1);
    taken(&one, &login(&one, &sid)).await;
    let unlink = removal(&one, &sid);
    let again = Unlink { stamp: unlink.stamp.again(), ..unlink.clone() };
    gone(&one, &unlink).await;
    settle().await;
    let anew = taken(&two, &save(&two, &sid, Class::Anonymous, None)).await;
    assert_eq!(one.unlink(&again).await, Ok(Unlinked::Superseded));
    assert_eq!(look(&one, &sid).await.map(|m| m.version), Some(anew.version));
    // First sent now it is a removal like any other.
    gone(&one, &removal(&one, &sid)).await;
}

/// What was kept while Redis was away: each change is older than the moment in which it is sent.
#[tokio::test]
async fn changes_that_are_sent_late_one_after_another_do_not_overtake_each_other() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    let first = login(&node, &sid);
    settle().await;
    let second = page(&node, &sid, first.stamp.id);
    settle().await;
    let unlink = removal(&node, &sid);
    settle().await;
    let visitor = save(&node, &sid, Class::Anonymous, None);
    settle().await;
    for publish in [&first, &second] {
        let version = taken(&node, &again(publish)).await.version;
        assert_eq!(version, publish.stamp.id);
        settle().await;
    }
    // It is as old as its first attempt, here as in Redis.
    let mtime_ms = look(&node, &sid).await.map(|meta| meta.mtime_ns / 1_000_000);
    assert_eq!(mtime_ms, i64::try_from(second.stamp.first_ms).ok());
    gone(&node, &Unlink { stamp: unlink.stamp.again(), ..unlink }).await;
    settle().await;
    taken(&node, &again(&visitor)).await;
}

#[tokio::test]
async fn an_amend_sent_twice_makes_one_version_and_never_overwrites_bytes() {
    let redis = Redis::start();
    let (one, two) = (node(&redis).await, node(&redis).await);
    let sid = alias("ab", 1);
    let born = taken(&one, &login(&one, &sid)).await;
    let amend =
        Amend { stamp: one.stamp(any_shard()), alias: sid.clone(), mode: Some(0o600), mtime: None };
    let first = one.amend(&amend).await.expect("answered").expect("alive");
    let again = two.amend(&amend).await.expect("answered").expect("alive");
    assert_eq!(first.version, again.version);
    let mut other = page(&two, &sid, born.birth);
    other.sealed = bytes::Bytes::from_static(b"newer");
    taken(&two, &other).await;
    one.amend(&amend).await.expect("answered").expect("alive");
    let value: Vec<u8> = redis.run(&format!("GET sessionfs:s:{{ab}}:{sid}"));
    assert!(value.ends_with(b"\nnewer"));
}

#[tokio::test]
async fn a_lost_reply_is_made_up_for_by_the_store_itself() {
    let mut redis = Redis::start();
    let quick = Settings {
        overdue_ms: 50,
        down_after_ms: 100,
        attempt_ms: 100,
        retry_total_ms: 5000,
        ..settings(&redis)
    };
    let store = connected(RedisStore::start(quick).expect("a good URL")).await;
    let sid = alias("ab", 1);
    let publish = login(&store, &sid);
    // It stands still with the save in its socket: carried out later, answered to nobody.
    redis.pause();
    let resumed = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        redis.resume();
    };
    let (saved, ()) = tokio::join!(store.publish(&publish), resumed);
    let Ok(Published::Taken(meta)) = saved else { panic!("{saved:?}") };
    assert_eq!(meta.version, publish.stamp.id);
    assert_eq!(look(&store, &sid).await.map(|m| m.version), Some(publish.stamp.id));
}

#[tokio::test]
async fn a_change_gives_up_within_its_bound_and_says_unavailable() {
    let mut redis = Redis::start();
    let quick = Settings {
        overdue_ms: 50,
        down_after_ms: 100,
        attempt_ms: 100,
        retry_total_ms: 400,
        ..settings(&redis)
    };
    let store = connected(RedisStore::start(quick).expect("a good URL")).await;
    redis.pause();
    let began = std::time::Instant::now();
    let sid = alias("ab", 1);
    let outcome = store.publish(&login(&store, &sid)).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    let outcome = store.unlink(&removal(&store, &sid)).await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    let took = began.elapsed().as_millis();
    assert!((400..1500).contains(&took), "{took} ms");
    redis.resume();
}

/// Two things of one millisecond are not newer than each other.
async fn settle() {
    tokio::time::sleep(std::time::Duration::from_millis(3)).await;
}
