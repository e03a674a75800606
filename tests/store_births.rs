//! Nothing is revived: which saves are taken, and as which life (design: births).

mod support;

use sessionfs::redis::envelope::{Header, State};
use sessionfs::session::content::Class;
use sessionfs::session::policy::Lifetimes;
use sessionfs::store::{ChangeId, Lookup, Publish, Published, Sessions as _, Unlinked};
use support::index;
use support::redis::Redis;
use support::store::*;

#[tokio::test]
async fn a_first_save_is_a_birth_and_later_saves_go_on_with_it() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    let first = login(&node, &sid);
    let born = taken(&node, &first).await;
    assert_eq!((born.birth, born.version), (first.stamp.id, first.stamp.id));
    assert_eq!(born.mode, 0o644);

    let second = page(&node, &sid, born.birth);
    let later = taken(&node, &second).await;
    assert_eq!((later.birth, later.version), (born.birth, second.stamp.id));

    let Ok(Lookup::Session { meta, sealed, .. }) = node.fetch(&sid, None).await else { panic!() };
    assert_eq!(meta.version, second.stamp.id);
    assert_eq!(sealed.as_ref(), b"abc");
}

#[tokio::test]
async fn a_page_load_under_way_at_logout_does_not_revive_the_cookie() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    let born = taken(&node, &login(&node, &sid)).await;
    assert_eq!(gone(&node, &removal(&node, &sid)).await, born.birth);
    assert_eq!(refused(&node, &page(&node, &sid, born.birth)).await, "the session has ended");
    // Nor where we no longer know what the thread had opened.
    assert_eq!(refused(&node, &login(&node, &sid)).await, "the session has ended");
    assert_eq!(look(&node, &sid).await, None);
}

#[tokio::test]
async fn the_tombstone_is_kept_for_its_time_and_then_the_name_is_free() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    taken(&node, &login(&node, &sid)).await;
    gone(&node, &removal(&node, &sid)).await;
    let key = format!("sessionfs:s:{{ab}}:{sid}");
    let left: u64 = redis.run(&format!("PTTL {key}"));
    let tombstone_ms = Lifetimes::default().tombstone_ms;
    assert!(left <= tombstone_ms && left > tombstone_ms - 10 * SECOND, "{left}");
    assert_eq!(index::size(&redis, "ab"), 0, "a tombstone has no place in the index");
    let _: u64 = redis.run(&format!("DEL {key}")); // what its TTL will do
    taken(&node, &login(&node, &sid)).await;
}

#[tokio::test]
async fn a_slow_request_over_the_end_of_the_absolute_lifetime_is_refused() {
    let redis = Redis::start();
    let limits = Lifetimes { absolute_ms: Some(8 * HOUR), ..Lifetimes::default() };
    let node = node_with(&redis, limits).await;
    let sid = alias("ab", 1);
    let born = taken(&node, &login(&node, &sid)).await;
    for _ in 0..47 {
        pass(&redis, 10 * MINUTE);
        taken(&node, &page(&node, &sid, born.birth)).await;
    }
    pass(&redis, 10 * MINUTE);
    // Its own save finds it dead, before any read has.
    assert_eq!(refused(&node, &page(&node, &sid, born.birth)).await, "the session has ended");
    assert_eq!(look(&node, &sid).await, None);
    assert_eq!(refused(&node, &page(&node, &sid, born.birth)).await, "the session has ended");
    assert_eq!(refused(&node, &login(&node, &sid)).await, "the session has ended");
}

#[tokio::test]
async fn an_authenticated_save_after_the_websockets_anonymous_one_is_refused() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    let born = taken(&node, &login(&node, &sid)).await;
    pass(&redis, 15 * MINUTE);
    assert_eq!(look(&node, &sid).await, None);
    let websocket = Publish { background: true, is_activity: false, ..visit(&node, &sid) };
    let anew = taken(&node, &websocket).await;
    assert_ne!(anew.birth, born.birth);
    assert_eq!(anew.class, Class::Anonymous);
    assert_eq!(
        refused(&node, &page(&node, &sid, born.birth)).await,
        "the session was recreated after it was read"
    );
    // Nor by who has opened the visitor's: Odoo gives a new id at each login, so this was loaded
    // before (in the evented process, many requests share a thread).
    assert_eq!(
        refused(&node, &page(&node, &sid, anew.birth)).await,
        "a login under an id that was logged out"
    );
}

#[tokio::test]
async fn who_was_logged_out_in_place_stays_so_however_many_visitors_follow() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    let born = taken(&node, &login(&node, &sid)).await;
    taken(&node, &save(&node, &sid, Class::Anonymous, Some(born.birth))).await;
    gone(&node, &removal(&node, &sid)).await;
    let visitor = taken(&node, &visit(&node, &sid)).await;
    for publish in [page(&node, &sid, visitor.birth), login(&node, &sid)] {
        assert_eq!(refused(&node, &publish).await, "a login under an id that was logged out");
    }
    // A visitor's own session may become somebody's.
    let other = alias("ab", 2);
    let visitor = taken(&node, &visit(&node, &other)).await;
    let logged_in = taken(&node, &page(&node, &other, visitor.birth)).await;
    assert_eq!(logged_in.birth, visitor.birth);
}

fn background(publish: Publish) -> Publish {
    Publish { background: true, is_activity: false, ..publish }
}

#[tokio::test]
async fn a_background_process_logs_nobody_in_and_nobody_out() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let why = "a background process does not log anybody in or out";
    // Neither over a visitor's session nor under a free name.
    let visitor = taken(&node, &visit(&node, &alias("ab", 1))).await;
    let login_there = background(page(&node, &alias("ab", 1), visitor.birth));
    assert_eq!(refused(&node, &login_there).await, why);
    assert_eq!(refused(&node, &background(login(&node, &alias("ab", 2)))).await, why);
    // The save of a request that found nothing, over a session that another one has opened.
    let sid = alias("ab", 3);
    let born = taken(&node, &login(&node, &sid)).await;
    let empty = background(save(&node, &sid, Class::Anonymous, Some(born.birth)));
    assert_eq!(refused(&node, &empty).await, why);
    assert_eq!(look(&node, &sid).await.map(|meta| meta.version), Some(born.version));
    // Its own sessions are its own.
    taken(&node, &background(page(&node, &sid, born.birth))).await;
    taken(&node, &background(visit(&node, &alias("ab", 4)))).await;
    // A rotation needs a sibling that lives.
    let rotation = background(rotated(&node, &alias("ab", 5), &sid));
    taken(&node, &rotation).await;
    gone(&node, &removal(&node, &sid)).await;
    let rotation = background(rotated(&node, &alias("ab", 6), &sid));
    assert_eq!(refused(&node, &rotation).await, why);
}

#[tokio::test]
async fn anonymous_content_takes_the_name_of_a_dead_or_removed_session_as_a_new_life() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let dead = alias("ab", 1);
    let born = taken(&node, &login(&node, &dead)).await;
    pass(&redis, 15 * MINUTE);
    assert_ne!(taken(&node, &visit(&node, &dead)).await.birth, born.birth);
    let removed = alias("ab", 2);
    let born = taken(&node, &login(&node, &removed)).await;
    gone(&node, &removal(&node, &removed)).await;
    assert_ne!(taken(&node, &visit(&node, &removed)).await.birth, born.birth);
}

#[tokio::test]
async fn anonymous_content_over_an_authenticated_session_is_a_logout_in_place() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    let born = taken(&node, &login(&node, &sid)).await;
    let out = save(&node, &sid, Class::Anonymous, Some(born.birth));
    let anew = taken(&node, &out).await;
    assert_ne!(anew.birth, born.birth);
    refused(&node, &page(&node, &sid, born.birth)).await;
}

#[tokio::test]
async fn anonymous_content_after_a_failed_read_never_replaces_an_authenticated_session() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    let born = taken(&node, &login(&node, &sid)).await;
    let unread = claiming(visit(&node, &sid), |claim| claim.after_failed_read = true);
    assert_eq!(refused(&node, &unread).await, "anonymous content after a failed read");
    assert_eq!(look(&node, &sid).await.map(|meta| meta.version), Some(born.version));
    // It may replace an anonymous one, and take a free name.
    let other = alias("ab", 2);
    let unread = claiming(visit(&node, &other), |claim| claim.after_failed_read = true);
    let first = taken(&node, &unread).await;
    let unread = claiming(visit(&node, &other), |claim| claim.after_failed_read = true);
    assert_eq!(taken(&node, &unread).await.birth, first.birth);
}

#[tokio::test]
async fn a_thread_that_opened_a_session_saves_to_that_one_only() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    let opened = sessionfs::store::ChangeId(5);
    assert_eq!(refused(&node, &page(&node, &sid, opened)).await, "the session has ended");
    let born = taken(&node, &login(&node, &sid)).await;
    refused(&node, &page(&node, &sid, opened)).await;
    // Who does not know (after our restart) goes on with what lives.
    assert_eq!(taken(&node, &login(&node, &sid)).await.birth, born.birth);
}

#[tokio::test]
async fn removing_by_alias_and_by_id() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let (by_id, listed) = (alias("ab", 1), alias("ab", 2));
    let born = taken(&node, &login(&node, &listed)).await;
    // Only where the caller may.
    assert_eq!(node.unlink(&removal(&node, &by_id)).await, Ok(Unlinked::Absent));
    let mut unlink = removal(&node, &by_id);
    unlink.listed = Some(listed.clone());
    assert_eq!(
        node.unlink(&unlink).await,
        Ok(Unlinked::Gone { alias: listed.clone(), birth: born.birth })
    );
    assert_eq!(look(&node, &listed).await, None);
    // The id comes first.
    taken(&node, &visit(&node, &by_id)).await;
    taken(&node, &visit(&node, &listed)).await;
    let mut unlink = removal(&node, &by_id);
    unlink.listed = Some(listed.clone());
    assert!(
        matches!(node.unlink(&unlink).await, Ok(Unlinked::Gone { alias, .. }) if alias == by_id)
    );
    assert!(look(&node, &listed).await.is_some());
}

#[tokio::test]
async fn removing_a_dead_session_ends_it_and_finds_nothing() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    taken(&node, &login(&node, &sid)).await;
    pass(&redis, 15 * MINUTE);
    assert_eq!(node.unlink(&removal(&node, &sid)).await, Ok(Unlinked::Absent));
    let header: String = redis.run(&format!("GET sessionfs:s:{{ab}}:{sid}"));
    let (header, _) = Header::parse(header.as_bytes()).expect("a header");
    assert_eq!((header.state, header.version), (State::Gone, ChangeId(0)));
}

#[tokio::test]
async fn an_alias_tells_of_a_session_and_never_gives_its_content() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let (nobody, sid) = (alias("ab", 1), alias("ab", 2));
    let born = taken(&node, &login(&node, &sid)).await;
    let Ok(Lookup::Alias { meta }) = node.fetch(&nobody, Some(&sid)).await else { panic!() };
    assert_eq!(meta.version, born.version);
    pass(&redis, 15 * MINUTE);
    assert_eq!(node.fetch(&nobody, Some(&sid)).await, Ok(Lookup::Absent));
    assert_eq!(node.fetch(&nobody, Some(&nobody)).await, Ok(Lookup::Absent));
}

#[tokio::test]
async fn the_value_is_a_readable_header_and_then_the_sealed_bytes() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    let mut publish = login(&node, &sid);
    publish.content.db = Some("my shop".into());
    publish.content.login = Some("jos\u{e9}@example.com".into());
    let meta = taken(&node, &publish).await;
    let value: Vec<u8> = redis.run(&format!("GET sessionfs:s:{{ab}}:{sid}"));
    let (header, at) = Header::parse(&value).expect("a header");
    assert_eq!(&value[at..], b"abc");
    let format = settings(&redis).newest_written;
    let line = header.line_in(format);
    assert_eq!(line.as_bytes(), &value[..at], "Rust writes the line that Lua writes");
    assert_eq!(header.content, publish.content);
    assert_eq!(header.meta(meta.activity_ms, meta.left_ms), meta);
}

#[tokio::test]
async fn what_is_not_ours_is_unreadable_and_never_absent() {
    use sessionfs::store::StoreError;
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    let key = format!("sessionfs:s:{{ab}}:{sid}");
    for command in
        [format!("SET {key} hello"), format!("SET {key} sessionfs"), format!("LPUSH {key} x")]
    {
        let _: redis::Value = redis.run(&format!("DEL {key}"));
        let _: redis::Value = redis.run(&command);
        let unreadable = |e: &StoreError| matches!(e, StoreError::Unreadable(_));
        assert!(node.fetch(&sid, None).await.is_err_and(|e| unreadable(&e)), "{command}");
        assert!(node.publish(&login(&node, &sid)).await.is_err_and(|e| unreadable(&e)));
        assert_eq!(node.list(sid.shard()).await, Ok(vec![]));
        // A removal needs no header.
        gone(&node, &removal(&node, &sid)).await;
        assert_eq!(look(&node, &sid).await, None);
    }
}

#[tokio::test]
async fn a_soft_rotation_inherits_login_time_and_when_background_activity() {
    let redis = Redis::start();
    let limits = Lifetimes { absolute_ms: Some(HOUR), ..Lifetimes::default() };
    let node = node_with(&redis, limits).await;
    let (old, next) = (alias("ab", 1), alias("ab", 2));
    taken(&node, &login(&node, &old)).await;
    for _ in 0..5 {
        pass(&redis, 10 * MINUTE);
        use_it(&node, &old).await;
    }
    let rotation = Publish { background: true, is_activity: false, ..rotated(&node, &next, &old) };
    let meta = taken(&node, &rotation).await;
    assert!(meta.left_ms <= 10 * MINUTE, "ten minutes are left since login: {}", meta.left_ms);
    // Another person's session is no sibling.
    let mut stranger = rotated(&node, &alias("ab", 3), &old);
    stranger.content.uid = Some(8);
    assert!(taken(&node, &stranger).await.left_ms > 10 * MINUTE);

    let (idle, next) = (alias("cd", 1), alias("cd", 2));
    taken(&node, &login(&node, &idle)).await;
    pass(&redis, 12 * MINUTE);
    let rotation = Publish { background: true, is_activity: false, ..rotated(&node, &next, &idle) };
    let left_ms = taken(&node, &rotation).await.left_ms;
    assert!(left_ms <= 3 * MINUTE, "nobody has moved meanwhile: {left_ms}");
    // By a person it is activity; the sibling may be a tombstone by then (14 to 18 remove first).
    gone(&node, &removal(&node, &idle)).await;
    let rotation = rotated(&node, &alias("cd", 3), &idle);
    let left_ms = taken(&node, &rotation).await.left_ms;
    assert!(left_ms > 14 * MINUTE, "{left_ms}");
}

#[tokio::test]
async fn two_nodes_see_each_other_at_once() {
    let redis = Redis::start();
    let (one, two) = (node(&redis).await, node(&redis).await);
    let sid = alias("ab", 1);
    let born = taken(&one, &login(&one, &sid)).await;
    assert_eq!(look(&two, &sid).await.map(|m| m.version), Some(born.version));
    let saved = taken(&two, &page(&two, &sid, born.birth)).await;
    assert_eq!(look(&one, &sid).await.map(|m| m.version), Some(saved.version));
    gone(&one, &removal(&one, &sid)).await;
    assert_eq!(look(&two, &sid).await, None);
    assert!(matches!(two.publish(&page(&two, &sid, born.birth)).await, Ok(Published::Refused(_))));
}
