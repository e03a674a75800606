//! Removals: what is held, what is taken back, and what ends all the same.

mod support;

use sessionfs::redis::scan::Filter;
use sessionfs::redis::scripts::Scripts;
use sessionfs::redis::{RedisStore, Settings};
use sessionfs::session::content::Class;
use sessionfs::session::name::{Alias, Form};
use sessionfs::session::policy::Lifetimes;
use sessionfs::store::{
    ChangeId, HELD_IN_STORE_MS, Import, Imported, Intake as _, Link as _, Meta, Publish, Published,
    Sessions as _, StoreError, Unlink, Unlinked,
};
use support::index;
use support::redis::Redis;
use support::store::*;

/// The name that a listing shows, removed by the thread that has opened this birth.
fn own_removal(node: &RedisStore, session: &Alias, birth: ChangeId) -> Unlink {
    let listed = Some(session.clone());
    Unlink { listed, held: Some(birth), ..removal(node, &alias("ab", 99)) }
}

/// Asks for a removal that has to be held.
async fn hold(node: &RedisStore, session: &Alias, birth: ChangeId) -> Unlink {
    let unlink = own_removal(node, session, birth);
    let held = Unlinked::Held { alias: session.clone(), birth };
    assert_eq!(node.unlink(&unlink).await, Ok(held));
    unlink
}

/// The save that follows a held removal in the same thread.
fn taking_back(node: &RedisStore, session: &Alias, birth: ChangeId, removal: &Unlink) -> Publish {
    claiming(page(node, session, birth), |claim| claim.held_removal = Some(removal.stamp.id))
}

/// Redis's clock moves on.
async fn settle() {
    tokio::time::sleep(std::time::Duration::from_millis(3)).await;
}

async fn logged_in(node: &RedisStore, session: &Alias) -> Meta {
    taken(node, &login(node, session)).await
}

#[tokio::test]
async fn odoo_19_removes_its_own_session_and_nobody_misses_it() {
    let redis = Redis::start();
    let limits = Lifetimes { absolute_ms: Some(HOUR), ..Lifetimes::default() };
    let (one, two) = (node_with(&redis, limits).await, node_with(&redis, limits).await);
    let sid = alias("ab", 1);
    let born = logged_in(&one, &sid).await;
    pass(&redis, 10 * MINUTE);
    let unlink = hold(&one, &sid, born.birth).await;
    // A request on another server is served meanwhile. A listing shows it no more: Odoo looks.
    assert_eq!(look(&two, &sid).await.map(|meta| meta.version), Some(born.version));
    assert_eq!(two.list(sid.shard()).await, Ok(vec![]));
    let meta = taken(&one, &taking_back(&one, &sid, born.birth, &unlink)).await;
    assert_eq!(meta.birth, born.birth, "the same life goes on");
    assert_eq!(two.list(sid.shard()).await.map(|listed| listed.len()), Ok(1));
    // It goes on for good, and so does the clock of the absolute lifetime.
    for _ in 0..4 {
        pass(&redis, 10 * MINUTE);
        use_it(&two, &sid).await;
    }
    pass(&redis, 10 * MINUTE - 10 * SECOND);
    assert!(look(&one, &sid).await.is_some());
    pass(&redis, 10 * SECOND);
    assert_eq!(look(&one, &sid).await, None);
}

#[tokio::test]
async fn a_removal_that_no_save_takes_back_ends_the_session_after_its_time() {
    let redis = Redis::start();
    let (one, two) = (node(&redis).await, node(&redis).await);
    let sid = alias("ab", 1);
    let born = logged_in(&one, &sid).await;
    hold(&one, &sid, born.birth).await;
    // By the key's own TTL too, whatever becomes of this server.
    let left: u64 = redis.run(&format!("PTTL sessionfs:s:{{ab}}:{sid}"));
    assert!(left <= HELD_IN_STORE_MS + Lifetimes::default().tombstone_ms, "{left}");
    // Use does not prolong it.
    use_it(&two, &sid).await;
    let prolonged: u64 = redis.run(&format!("PTTL sessionfs:s:{{ab}}:{sid}"));
    assert!(prolonged <= left, "{prolonged}");
    pass(&redis, HELD_IN_STORE_MS);
    assert_eq!(look(&two, &sid).await, None);
    assert_eq!(two.list(sid.shard()).await, Ok(vec![]));
    assert_eq!(refused(&two, &page(&two, &sid, born.birth)).await, "the session has ended");
    assert_eq!(refused(&two, &login(&two, &sid)).await, "the session has ended");
}

#[tokio::test]
async fn a_removal_is_held_for_longer_than_a_save_may_wait() {
    const WAIT_MS: u64 = 10 * MINUTE;
    let redis = Redis::start();
    let patient = Settings { outage_budget_ms: WAIT_MS, ..settings(&redis) };
    let clocked = RedisStore::start_with(patient, Scripts::with_clock(CLOCK)).expect("a good URL");
    let (one, two) = (connected(clocked).await, node(&redis).await);
    let sid = alias("ab", 1);
    let born = logged_in(&one, &sid).await;
    let unlink = hold(&one, &sid, born.birth).await;
    pass(&redis, WAIT_MS);
    assert!(look(&two, &sid).await.is_some());
    taken(&one, &taking_back(&one, &sid, born.birth, &unlink)).await;
}

#[tokio::test]
async fn a_removal_that_is_taken_back_without_a_save_ends_nothing() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    let born = logged_in(&node, &sid).await;
    let removal = hold(&node, &sid, born.birth).await;
    // Another one's is not touched.
    node.take_back(&sid, ChangeId(1)).await.expect("answered");
    assert_eq!(node.list(sid.shard()).await.expect("a listing").len(), 0);
    node.take_back(&sid, removal.stamp.id).await.expect("answered");
    assert_eq!(node.list(sid.shard()).await.expect("a listing").len(), 1);
    pass(&redis, HELD_IN_STORE_MS);
    assert!(look(&node, &sid).await.is_some());
}

#[tokio::test]
async fn it_ends_in_every_script_without_having_been_read_before() {
    let redis = Redis::start();
    let node = node(&redis).await;
    for number in 0..4 {
        let sid = alias("ab", number);
        let born = logged_in(&node, &sid).await;
        hold(&node, &sid, born.birth).await;
    }
    pass(&redis, HELD_IN_STORE_MS);
    hear(&node).await;
    let amend = sessionfs::store::Amend {
        stamp: node.stamp(any_shard()),
        alias: alias("ab", 0),
        mode: Some(0o600),
        mtime: None,
    };
    assert_eq!(node.amend(&amend).await, Ok(None));
    assert_eq!(node.unlink(&removal(&node, &alias("ab", 1))).await, Ok(Unlinked::Absent));
    assert_eq!(node.list(alias("ab", 2).shard()).await, Ok(vec![]));
    assert_eq!(refused(&node, &login(&node, &alias("ab", 3))).await, "the session has ended");
}

#[tokio::test]
async fn it_ends_while_the_clock_is_not_trusted() {
    use sessionfs::redis::scripts::Scripts;
    let redis = Redis::start();
    let scripts = Scripts::with_clock(CLOCK).heeding_jumps();
    let node = connected(RedisStore::start_with(settings(&redis), scripts).unwrap()).await;
    let (sid, other) = (alias("ab", 1), alias("ab", 2));
    let born = logged_in(&node, &sid).await;
    logged_in(&node, &other).await;
    hold(&node, &sid, born.birth).await;
    pass(&redis, 20 * MINUTE);
    assert!(look(&node, &other).await.is_some(), "a jump ends nothing");
    assert_eq!(look(&node, &sid).await, None);
}

#[tokio::test]
async fn a_save_that_comes_a_little_late_takes_it_back_and_one_that_is_very_late_does_not() {
    let redis = Redis::start();
    let node = node(&redis).await;
    for (seen, late_ms, alive) in [
        (false, HELD_IN_STORE_MS, true),
        (true, HELD_IN_STORE_MS, true),
        (false, HELD_IN_STORE_MS + 10 * SECOND, false),
        (true, HELD_IN_STORE_MS + 10 * SECOND, false),
    ] {
        let sid = alias("ab", u32::try_from(late_ms).unwrap() + u32::from(seen));
        let born = logged_in(&node, &sid).await;
        let unlink = hold(&node, &sid, born.birth).await;
        let save = taking_back(&node, &sid, born.birth, &unlink);
        pass(&redis, late_ms);
        if seen {
            assert_eq!(look(&node, &sid).await, None);
        }
        // However it was sent.
        let outcome = published(&node, &again(&save)).await;
        if alive {
            let Ok(Published::Taken(meta)) = outcome else { panic!("{outcome:?}") };
            assert_eq!(meta.birth, born.birth);
            pass(&redis, MINUTE);
            assert!(look(&node, &sid).await.is_some());
        } else {
            assert!(!matches!(outcome, Ok(Published::Taken(_))), "{outcome:?}");
            assert_eq!(look(&node, &sid).await, None);
        }
    }
}

#[tokio::test]
async fn a_removal_that_nobody_has_noticed_is_not_undone_by_an_older_save() {
    let redis = Redis::start();
    let (one, two) = (node(&redis).await, node(&redis).await);
    for (number, seen) in [(1, false), (2, true)] {
        let sid = alias("ab", number);
        let born = taken(&one, &visit(&one, &sid)).await;
        settle().await;
        let lost = save(&two, &sid, Class::Anonymous, Some(born.birth));
        settle().await;
        hold(&one, &sid, born.birth).await;
        pass(&redis, HELD_IN_STORE_MS);
        hear(&two).await;
        settle().await;
        let newer = visit(&two, &sid);
        pass(&redis, MINUTE);
        if seen {
            assert_eq!(look(&one, &sid).await, None);
        }
        assert_eq!(
            two.publish(&again(&lost)).await,
            Ok(Published::Superseded { birth: None }),
            "seen: {seen}"
        );
        assert_eq!(look(&one, &sid).await, None);
        // What was saved after its end has the name to itself.
        let anew = taken(&two, &again(&newer)).await;
        assert_ne!(anew.birth, born.birth);
    }
}

#[tokio::test]
async fn the_index_is_kept_for_as_long_as_a_session_whose_removal_is_held() {
    let redis = Redis::start();
    let limits = Lifetimes { tombstone_ms: DAY, ..Lifetimes::default() };
    let node = node_with(&redis, limits).await;
    let sid = alias("ab", 1);
    let born = logged_in(&node, &sid).await;
    hold(&node, &sid, born.birth).await;
    // The index first: time goes on between the two.
    let index = index::ttl(&redis, "ab");
    let session: i64 = redis.run(&format!("PTTL sessionfs:s:{{ab}}:{sid}"));
    assert!(index >= session, "{index} < {session}");
}

#[tokio::test]
async fn a_save_of_another_thread_is_taken_and_does_not_take_the_removal_back() {
    let redis = Redis::start();
    let (one, two) = (node(&redis).await, node(&redis).await);
    let sid = alias("ab", 1);
    let born = logged_in(&one, &sid).await;
    let unlink = hold(&one, &sid, born.birth).await;
    let parallel = taken(&two, &page(&two, &sid, born.birth)).await;
    assert_eq!(look(&two, &sid).await.map(|meta| meta.version), Some(parallel.version));
    pass(&redis, HELD_IN_STORE_MS);
    assert_eq!(look(&two, &sid).await, None);
    // The remover's own save, a little late: nothing else came between.
    let meta = taken(&one, &taking_back(&one, &sid, born.birth, &unlink)).await;
    assert_eq!(meta.birth, born.birth);
}

#[tokio::test]
async fn two_threads_that_hold_a_removal_each_take_back_their_own() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    let born = logged_in(&node, &sid).await;
    let first = hold(&node, &sid, born.birth).await;
    let second = hold(&node, &sid, born.birth).await;
    taken(&node, &taking_back(&node, &sid, born.birth, &first)).await;
    taken(&node, &taking_back(&node, &sid, born.birth, &second)).await;
    pass(&redis, MINUTE);
    assert!(look(&node, &sid).await.is_some());
    // The second of them dies before its save: its removal counts.
    let first = hold(&node, &sid, born.birth).await;
    hold(&node, &sid, born.birth).await;
    taken(&node, &taking_back(&node, &sid, born.birth, &first)).await;
    pass(&redis, HELD_IN_STORE_MS);
    assert_eq!(look(&node, &sid).await, None);
}

#[tokio::test]
async fn a_full_server_holds_a_removal_and_takes_the_save_that_follows() {
    let redis = Redis::start();
    let (node, other) = (node(&redis).await, node(&redis).await);
    let sid = alias("ab", 1);
    let born = logged_in(&node, &sid).await;
    let _: redis::Value = redis.run("CONFIG SET maxmemory 1");
    let unlink = hold(&node, &sid, born.birth).await;
    assert_eq!(look(&other, &sid).await.map(|meta| meta.version), Some(born.version));
    let saved = taken(&node, &taking_back(&node, &sid, born.birth, &unlink)).await;
    assert_eq!(saved.birth, born.birth);
    // Other saves are refused as before.
    let next = node.publish(&page(&node, &sid, born.birth)).await;
    assert!(matches!(&next, Err(StoreError::Refused(why)) if why.contains("OOM")), "{next:?}");
    let _: redis::Value = redis.run("CONFIG SET maxmemory 0");
    pass(&redis, HELD_IN_STORE_MS);
    assert_eq!(look(&other, &sid).await.map(|meta| meta.version), Some(saved.version));
}

#[tokio::test]
async fn a_save_that_takes_a_removal_back_and_is_refused_loses_nothing() {
    let redis = Redis::start();
    let (node, other) = (node(&redis).await, node(&redis).await);
    let sid = alias("ab", 1);
    let born = logged_in(&node, &sid).await;
    let unlink = hold(&node, &sid, born.birth).await;
    let _: redis::Value = redis.run("ACL SETUSER default -set");
    let save = taking_back(&node, &sid, born.birth, &unlink);
    let refused = node.publish(&save).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(look(&other, &sid).await.map(|meta| meta.version), Some(born.version));
    let _: redis::Value = redis.run("ACL SETUSER default +set");
    let save = Publish { stamp: save.stamp.again(), ..save };
    assert_eq!(taken(&node, &save).await.birth, born.birth);
    assert_eq!(look(&other, &sid).await.map(|meta| meta.version), Some(save.stamp.id));
}

#[tokio::test]
async fn a_held_removal_sent_again_finds_itself_noted() {
    let redis = Redis::start();
    let (one, two) = (node(&redis).await, node(&redis).await);
    let sid = alias("ab", 1);
    let born = logged_in(&one, &sid).await;
    let unlink = hold(&one, &sid, born.birth).await;
    let again = Unlink { stamp: unlink.stamp.again(), ..unlink.clone() };
    let held = Ok(Unlinked::Held { alias: sid.clone(), birth: born.birth });
    pass(&redis, HELD_IN_STORE_MS / 2);
    assert_eq!(one.unlink(&again).await, held);
    taken(&one, &taking_back(&one, &sid, born.birth, &unlink)).await;
    assert_eq!(two.unlink(&again).await, held, "taken back, it changes nothing");
    pass(&redis, MINUTE);
    assert!(look(&one, &sid).await.is_some());
    // One that ended so is known by its tombstone.
    let unlink = hold(&one, &sid, born.birth).await;
    pass(&redis, HELD_IN_STORE_MS);
    let gone = Ok(Unlinked::Gone { alias: sid.clone(), birth: born.birth });
    let again = Unlink { stamp: unlink.stamp.again(), ..unlink };
    assert_eq!(one.unlink(&again).await, gone);
}

#[tokio::test]
async fn a_held_removal_that_arrives_after_its_save_changes_nothing() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    let born = logged_in(&node, &sid).await;
    let lost = own_removal(&node, &sid, born.birth);
    taken(&node, &taking_back(&node, &sid, born.birth, &lost)).await;
    let late = Unlink { stamp: lost.stamp.again(), ..lost };
    let held = Ok(Unlinked::Held { alias: sid.clone(), birth: born.birth });
    assert_eq!(node.unlink(&late).await, held);
    pass(&redis, MINUTE);
    assert!(look(&node, &sid).await.is_some());
}

#[tokio::test]
async fn any_other_removal_is_at_once_and_final() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    let born = logged_in(&node, &sid).await;
    // By the id: a logout, also while another removal is held.
    let held = hold(&node, &sid, born.birth).await;
    assert_eq!(gone(&node, &removal(&node, &sid)).await, born.birth);
    let save = taking_back(&node, &sid, born.birth, &held);
    assert_eq!(refused(&node, &save).await, "the session has ended");
    assert_eq!(look(&node, &sid).await, None);
    // Of a session that the thread did not open, and of a life that it did not.
    for held in [None, Some(ChangeId(5))] {
        let sid = alias("ab", if held.is_some() { 2 } else { 3 });
        let born = logged_in(&node, &sid).await;
        let unlink = Unlink { held, ..own_removal(&node, &sid, born.birth) };
        assert_eq!(gone(&node, &unlink).await, born.birth);
        let save = taking_back(&node, &sid, born.birth, &unlink);
        assert_eq!(refused(&node, &save).await, "the session has ended");
    }
}

#[tokio::test]
async fn a_background_thread_may_take_its_removal_back_and_create_nothing_else() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let background = |publish| Publish { background: true, is_activity: false, ..publish };
    let sid = alias("ab", 1);
    let born = logged_in(&node, &sid).await;
    for late_ms in [0, HELD_IN_STORE_MS] {
        let unlink = hold(&node, &sid, born.birth).await;
        pass(&redis, late_ms);
        let save = background(taking_back(&node, &sid, born.birth, &unlink));
        assert_eq!(taken(&node, &save).await.birth, born.birth);
    }
}

/// A removal ends the life, whatever was saved in it since; and no later life.
#[tokio::test]
async fn a_logout_that_is_late_ends_a_session_that_was_saved_since() {
    let redis = Redis::start();
    let (one, two) = (node(&redis).await, node(&redis).await);
    let sid = alias("ab", 1);
    let born = logged_in(&one, &sid).await;
    settle().await;
    hear(&one).await;
    let late = removal(&one, &sid);
    settle().await;
    taken(&two, &page(&two, &sid, born.birth)).await;
    let late = Unlink { stamp: late.stamp.again(), ..late };
    assert_eq!(gone(&one, &late).await, born.birth);
    assert_eq!(look(&two, &sid).await, None);
    // The same removal, after a visitor has taken the name: it has done its work.
    let anew = taken(&two, &visit(&two, &sid)).await;
    assert_eq!(one.unlink(&late).await, Ok(Unlinked::Superseded));
    assert_eq!(look(&two, &sid).await.map(|meta| meta.version), Some(anew.version));
    assert_eq!(anew.class, Class::Anonymous);
}

/// A session that came from a file, as it is imported.
async fn imported(node: &RedisStore, session: &Alias) -> Imported {
    let stamp = node.stamp(any_shard());
    let import = Import {
        alias: session.clone(),
        form: Form::Sharded,
        content: content(Class::Authenticated),
        size_bytes: 3,
        packing: sessionfs::session::packing::PLAIN,
        sealed: bytes::Bytes::from_static(b"abc"),
        mtime_ns: i64::try_from(stamp.first_ms).expect("of this century") * 1_000_000,
        mode: 0o644,
        stamp,
    };
    node.import(&import).await.expect("answered")
}

#[tokio::test]
async fn the_end_of_a_session_from_a_file_is_remembered_for_as_long_as_files_are_imported() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let ttl = |session: &Alias| -> u64 { redis.run(&format!("PTTL sessionfs:s:{{ab}}:{session}")) };
    let [removed, expired, followed] = [1, 2, 3].map(|number| alias("ab", number));
    for session in [&removed, &expired, &followed] {
        assert_eq!(imported(&node, session).await, Imported::Taken);
    }
    gone(&node, &removal(&node, &removed)).await;
    assert!(ttl(&removed) > 6 * DAY);
    // Whatever takes the name since: the file may lie elsewhere all the same.
    taken(&node, &visit(&node, &followed)).await;
    gone(&node, &removal(&node, &followed)).await;
    assert!(ttl(&followed) > 6 * DAY);
    // Its key alone, if nobody asks for it any more; and its tombstone.
    assert!(ttl(&expired) > 7 * DAY);
    pass(&redis, HOUR);
    assert_eq!(look(&node, &expired).await, None);
    assert!(ttl(&expired) > 6 * DAY);
    for session in [&removed, &expired, &followed] {
        assert_eq!(imported(&node, session).await, Imported::Kept);
    }
}

/// Headers that another version may have written, and what is no header at all.
const STRANGE: [&str; 3] = ["sessionfs 3 s=a x=1\n", "sessionfs 1 state=alive\n", "hello"];

#[tokio::test]
async fn one_header_that_cannot_be_read_hides_no_other_and_can_be_ended() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let well = alias("ab", 1);
    logged_in(&node, &well).await;
    for (number, strange) in (2..).zip(STRANGE) {
        let sid = alias("ab", number);
        let key = format!("sessionfs:s:{{ab}}:{sid}");
        let mut connection = redis.connection();
        redis::cmd("SET").arg(&key).arg(strange).exec(&mut connection).expect("written");
        let _: i64 = redis.run(&format!("ZADD sessionfs:a:{{ab}} 1 {sid}"));
        let listed = node.list(well.shard()).await.expect("listed");
        assert_eq!(listed.len(), 1, "{strange}");
        assert_eq!(node.list_root().await.expect("listed").shards, [well.shard()]);
        let mut scan = node.scan(Filter::default());
        let page = scan.next().await.expect("a page").expect("read");
        assert_eq!((page.living.len(), page.unreadable), (1, vec![sid.clone()]));
        assert!(node.population().await.is_ok());
        // A person is not, who asks for more than a name.
        let mut scan = node.scan(Filter { user_id: Some(7), ..Filter::default() });
        assert!(scan.next().await.expect("a page").expect("read").unreadable.is_empty());
        gone(&node, &removal(&node, &sid)).await;
        assert_eq!(look(&node, &sid).await, None);
        assert_eq!(refused(&node, &login(&node, &sid)).await, "the session has ended");
    }
}
