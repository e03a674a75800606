//! When sessions end, on Redis's clock, and how long keys are kept.

mod support;

use sessionfs::redis::envelope::Header;
use sessionfs::session::content::Class;
use sessionfs::session::policy::{Lifetimes, Times};
use sessionfs::store::{Link as _, Publish, Sessions as _};
use support::index;
use support::redis::Redis;
use support::store::*;

/// How much earlier than asked the last look is, so that real time does not decide.
const MARGIN: u64 = 2 * SECOND;

#[tokio::test]
async fn an_authenticated_session_ends_after_its_idle_time() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    taken(&node, &login(&node, &sid)).await;
    pass(&redis, 15 * MINUTE - MARGIN);
    let left_ms = look(&node, &sid).await.expect("alive").left_ms;
    assert!(left_ms <= MARGIN, "{left_ms}");
    pass(&redis, MARGIN);
    assert_eq!(look(&node, &sid).await, None);
}

#[tokio::test]
async fn use_moves_the_end_and_a_look_does_not() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let (used, looked_at) = (alias("ab", 1), alias("ab", 2));
    taken(&node, &login(&node, &used)).await;
    taken(&node, &login(&node, &looked_at)).await;
    pass(&redis, 10 * MINUTE);
    use_it(&node, &used).await;
    look(&node, &looked_at).await.expect("alive");
    node.list(used.shard()).await.expect("a listing");
    pass(&redis, 10 * MINUTE);
    look(&node, &used).await.expect("alive");
    assert_eq!(look(&node, &looked_at).await, None);
}

#[tokio::test]
async fn a_background_save_keeps_the_last_activity() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    let born = taken(&node, &login(&node, &sid)).await;
    pass(&redis, 5 * MINUTE);
    use_it(&node, &sid).await;
    pass(&redis, 10 * MINUTE);
    let handshake =
        Publish { background: true, is_activity: false, ..page(&node, &sid, born.birth) };
    let left_ms = taken(&node, &handshake).await.left_ms;
    assert!(left_ms <= 5 * MINUTE && left_ms > 4 * MINUTE, "{left_ms}");
    pass(&redis, 5 * MINUTE);
    assert_eq!(look(&node, &sid).await, None);
}

#[tokio::test]
async fn a_visitors_session_lives_a_week_once_opened_and_an_hour_if_never() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let (bot, opened, saved) = (alias("ab", 1), alias("ab", 2), alias("ab", 3));
    for sid in [&bot, &opened, &saved] {
        taken(&node, &visit(&node, sid)).await;
    }
    use_it(&node, &opened).await;
    let again = look(&node, &saved).await.expect("alive");
    taken(&node, &save(&node, &saved, Class::Anonymous, Some(again.birth))).await;
    pass(&redis, HOUR - MARGIN);
    look(&node, &bot).await.expect("alive");
    pass(&redis, MARGIN);
    assert_eq!(look(&node, &bot).await, None);
    pass(&redis, 7 * DAY - HOUR - MARGIN);
    for sid in [&opened, &saved] {
        look(&node, sid).await.expect("alive");
    }
    // A first opening in the very millisecond of the save counts as one millisecond later.
    pass(&redis, MARGIN + 1);
    for sid in [&opened, &saved] {
        assert_eq!(look(&node, sid).await, None);
    }
}

#[tokio::test]
async fn a_bot_that_saves_again_and_again_without_opening_is_never_opened() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    taken(&node, &visit(&node, &sid)).await;
    pass(&redis, 30 * MINUTE);
    let left_ms = taken(&node, &visit(&node, &sid)).await.left_ms;
    assert!(left_ms <= HOUR, "{left_ms}");
}

#[tokio::test]
async fn a_login_starts_the_absolute_clock_and_later_saves_keep_it() {
    let redis = Redis::start();
    let limits = Lifetimes { absolute_ms: Some(HOUR), ..Lifetimes::default() };
    let node = node_with(&redis, limits).await;
    let sid = alias("ab", 1);
    let visitor = taken(&node, &visit(&node, &sid)).await;
    pass(&redis, 50 * MINUTE);
    use_it(&node, &sid).await;
    // The visitor logs in without a new id (some modules do).
    taken(&node, &page(&node, &sid, visitor.birth)).await;
    for _ in 0..5 {
        pass(&redis, 10 * MINUTE);
        taken(&node, &page(&node, &sid, visitor.birth)).await;
    }
    pass(&redis, 10 * MINUTE - MARGIN);
    look(&node, &sid).await.expect("alive");
    pass(&redis, MARGIN);
    assert_eq!(look(&node, &sid).await, None);
}

#[tokio::test]
async fn touch_and_ttl_never_revive() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let (dead, removed, never) = (alias("ab", 1), alias("ab", 2), alias("ab", 3));
    taken(&node, &login(&node, &dead)).await;
    pass(&redis, 15 * MINUTE);
    taken(&node, &login(&node, &removed)).await;
    gone(&node, &removal(&node, &removed)).await;
    for sid in [&dead, &removed, &never] {
        use_it(&node, sid).await;
        assert_eq!(look(&node, sid).await, None);
    }
    let keys: u64 = redis.run(&format!("EXISTS sessionfs:s:{{ab}}:{never}"));
    assert_eq!(keys, 0);
}

#[tokio::test]
async fn a_touch_out_of_an_old_pocket_never_sets_activity_back_or_ahead() {
    let redis = Redis::start();
    let (late, node) = (node(&redis).await, node(&redis).await);
    let sid = alias("ab", 1);
    taken(&node, &login(&node, &sid)).await;
    pass(&redis, 10 * MINUTE);
    use_it(&node, &sid).await;
    late.touch_now(&sid).await.expect("written"); // its clock has not heard of the ten minutes
    let left_ms = look(&node, &sid).await.expect("alive").left_ms;
    assert!(left_ms > 14 * MINUTE, "{left_ms}");
}

#[tokio::test]
async fn a_missing_index_entry_is_no_staleness_and_comes_back() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    taken(&node, &login(&node, &sid)).await;
    let _: u64 = redis.run(&format!("DEL {}", index::keys("ab").join(" ")));
    look(&node, &sid).await.expect("alive");
    assert_eq!(index::size(&redis, "ab"), 1);
    assert!(index::ttl(&redis, "ab") > 0);
}

#[tokio::test]
async fn every_key_has_a_ttl_and_outlives_the_life_by_its_grace() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let limits = Lifetimes::default();
    let (user, bot) = (alias("ab", 1), alias("ab", 2));
    taken(&node, &login(&node, &user)).await;
    taken(&node, &visit(&node, &bot)).await;
    let ttl = |key: String| redis.run::<u64>(&format!("PTTL {key}"));
    let user_ttl = ttl(format!("sessionfs:s:{{ab}}:{user}"));
    let bot_ttl = ttl(format!("sessionfs:s:{{ab}}:{bot}"));
    let index_ttl = u64::try_from(index::ttl(&redis, "ab")).expect("a time to live");
    let expected = limits.idle_ms + limits.idle_ms / 2 + limits.grace_ms;
    assert!(user_ttl <= expected && user_ttl > expected - 10 * SECOND, "{user_ttl}");
    let expected = HOUR + HOUR / 2 + limits.grace_ms;
    assert!(bot_ttl <= expected && bot_ttl > expected - 10 * SECOND, "{bot_ttl}");
    assert!(
        index_ttl + SECOND >= bot_ttl, // it was asked later
        "{index_ttl} {bot_ttl}"
    );
}

#[tokio::test]
async fn an_absolute_lifetime_bounds_the_ttl_too() {
    let redis = Redis::start();
    let limits = Lifetimes { absolute_ms: Some(MINUTE), ..Lifetimes::default() };
    let node = node_with(&redis, limits).await;
    let sid = alias("ab", 1);
    taken(&node, &login(&node, &sid)).await;
    let ttl: u64 = redis.run(&format!("PTTL sessionfs:s:{{ab}}:{sid}"));
    assert!(ttl <= MINUTE + limits.grace_ms, "{ttl}");
}

#[tokio::test]
async fn touches_move_the_ttl_only_a_handful_of_times_an_hour() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    taken(&node, &login(&node, &sid)).await;
    let key = format!("sessionfs:s:{{ab}}:{sid}");
    let _: redis::Value = redis.run("CONFIG RESETSTAT");
    let mut connection = redis.connection();
    for _ in 0..120 {
        // Half a minute passes for the rules, and for the key's own TTL.
        pass(&redis, 30 * SECOND);
        let ttl: i64 = redis::cmd("PTTL").arg(&key).query(&mut connection).expect("a ttl");
        let _: i64 = redis::cmd("PEXPIRE")
            .arg(&key)
            .arg(ttl - 30_000)
            .query(&mut connection)
            .expect("moved");
        use_it(&node, &sid).await;
    }
    let stats: String = redis.run("INFO commandstats");
    let line = stats.lines().find(|l| l.starts_with("cmdstat_pexpire:")).expect("counted");
    let calls = line.split(&['=', ','][..]).nth(1).and_then(|n| n.parse::<u64>().ok());
    let moved = calls.expect("a number") - 120; // without the test's own
    // The session's key and the index's own, a few times each.
    assert!((4..=20).contains(&moved), "{moved}");
    look(&node, &sid).await.expect("alive after an hour of use");
}

#[tokio::test]
async fn other_lifetimes_count_at_once() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    taken(&node, &login(&node, &sid)).await;
    pass(&redis, 5 * MINUTE);
    node.set_lifetimes(Lifetimes { idle_ms: HOUR, ..Lifetimes::default() });
    let left_ms = look(&node, &sid).await.expect("alive").left_ms;
    assert!(left_ms > 54 * MINUTE, "{left_ms}");
    // The key's TTL follows with the next use.
    use_it(&node, &sid).await;
    let ttl: u64 = redis.run(&format!("PTTL sessionfs:s:{{ab}}:{sid}"));
    assert!(ttl > HOUR, "{ttl}");
    node.set_lifetimes(Lifetimes { idle_ms: 1, ..Lifetimes::default() });
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    assert_eq!(look(&node, &sid).await, None);
}

#[tokio::test]
async fn the_scripts_judge_as_the_policy_does() {
    let redis = Redis::start();
    for absolute_ms in [None, Some(20 * MINUTE), Some(5 * MINUTE)] {
        for unopened_ms in [HOUR, 30 * DAY] {
            let limits = Lifetimes {
                absolute_ms,
                anonymous_unopened_ms: unopened_ms,
                ..Lifetimes::default()
            };
            let node = node_with(&redis, limits).await;
            for class in [Class::Authenticated, Class::Anonymous] {
                for opened in [false, true] {
                    let sid = alias("ab", rand::random());
                    taken(&node, &save(&node, &sid, class, None)).await;
                    if opened {
                        use_it(&node, &sid).await;
                    }
                    let left_ms = look(&node, &sid).await.expect("alive").left_ms;
                    let value: Vec<u8> = redis.run(&format!("GET sessionfs:s:{{ab}}:{sid}"));
                    let score = index::score(&redis, &sid).expect("an entry");
                    let (header, _) = Header::parse(&value).expect("a header");
                    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                    let activity_ms = score as u64;
                    let end_ms = limits
                        .end_ms(class, Times { login_ms: header.login_ms, activity_ms, opened });
                    let now_ms = node.stamp(any_shard()).first_ms;
                    let expected = end_ms - now_ms;
                    assert!(left_ms.abs_diff(expected) < 500, "{left_ms} {expected} {limits:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn amend_makes_a_version_and_leaves_the_lifetime() {
    use sessionfs::store::{Amend, Mtime};
    let redis = Redis::start();
    let node = node(&redis).await;
    let sid = alias("ab", 1);
    let born = taken(&node, &login(&node, &sid)).await;
    pass(&redis, 5 * MINUTE);
    let amend = Amend {
        stamp: node.stamp(any_shard()),
        alias: sid.clone(),
        mode: Some(0o600),
        mtime: Some(Mtime::Ns(-1_500_000_000)),
    };
    let meta = node.amend(&amend).await.expect("answered").expect("alive");
    assert_eq!((meta.version, meta.birth), (amend.stamp.id, born.birth));
    assert_eq!((meta.mode, meta.mtime_ns), (0o600, -1_500_000_000));
    assert!(meta.left_ms <= 10 * MINUTE);
    assert_eq!(node.amend(&amend).await.expect("answered").expect("alive").version, meta.version);
    let seen = look(&node, &sid).await.expect("alive");
    assert_eq!((seen.version, seen.mode, seen.mtime_ns), (meta.version, 0o600, -1_500_000_000));
    // A save keeps the mode and makes its own mtime.
    let saved = taken(&node, &page(&node, &sid, born.birth)).await;
    assert_eq!(saved.mode, 0o600);
    assert!(saved.mtime_ns > 0);
    let now = Amend {
        stamp: node.stamp(any_shard()),
        mode: None,
        mtime: Some(Mtime::Now),
        ..amend.clone()
    };
    let meta = node.amend(&now).await.expect("answered").expect("alive");
    assert!(meta.mtime_ns >= saved.mtime_ns && meta.mode == 0o600);
    // What is gone is not amended.
    pass(&redis, 15 * MINUTE);
    let late = Amend { stamp: node.stamp(any_shard()), ..amend.clone() };
    assert_eq!(node.amend(&late).await, Ok(None));
    assert_eq!(look(&node, &sid).await, None);
    let never = Amend { alias: alias("ab", 9), ..late };
    assert_eq!(node.amend(&never).await, Ok(None));
}

#[tokio::test]
async fn when_the_servers_own_clock_jumps_nothing_is_judged_stale_for_an_idle_time() {
    use sessionfs::redis::RedisStore;
    use sessionfs::redis::scripts::Scripts;
    let redis = Redis::start();
    let limits = Lifetimes { idle_ms: MINUTE, ..Lifetimes::default() };
    let settings = sessionfs::redis::Settings { lifetimes: limits, ..settings(&redis) };
    let scripts = Scripts::with_clock(CLOCK).heeding_jumps();
    let heeding = connected(RedisStore::start_with(settings, scripts).expect("a good URL")).await;
    let sid = alias("ab", 1);
    let born = taken(&heeding, &login(&heeding, &sid)).await;
    pass(&redis, HOUR);
    // Not even by the very first call, and by the next ones neither.
    for _ in 0..3 {
        look(&heeding, &sid).await.expect("not judged");
    }
    // People go on working, which brings its activity up to the new time.
    taken(&heeding, &page(&heeding, &sid, born.birth)).await;
    let node = node_with(&redis, limits).await;
    look(&node, &sid).await.expect("alive by the new time");
    pass(&redis, MINUTE);
    assert_eq!(look(&node, &sid).await, None, "a node that has seen no jump judges");
}

#[tokio::test]
async fn a_call_that_was_long_on_its_way_ends_nothing_and_prolongs_nothing() {
    use sessionfs::redis::{RedisStore, Settings};
    let mut redis = Redis::start();
    let limits = Lifetimes { idle_ms: SECOND, ..Lifetimes::default() };
    let patient = Settings {
        lifetimes: limits,
        overdue_ms: 20_000,
        down_after_ms: 30_000,
        attempt_ms: 20_000,
        ..settings(&redis)
    };
    let node = connected(RedisStore::start(patient).expect("a good URL")).await;
    let sid = alias("ab", 1);
    taken(&node, &login(&node, &sid)).await;
    redis.pause();
    let resumed = async {
        tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
        redis.resume();
    };
    let (touched, found, ()) = tokio::join!(node.touch_now(&sid), look(&node, &sid), resumed);
    touched.expect("answered");
    // It was alive when the question was sent. By the time of the answer it is over, and stays so.
    assert_eq!(found.map(|meta| meta.left_ms), Some(0));
    assert_eq!(look(&node, &sid).await, None, "nothing has jumped, so it is judged");
}
