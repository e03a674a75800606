//! Rules: which lifetimes a session has by its database, its login and its user id.
//!
//! The scripts choose on Redis, `session::policy` here: the two are held against each other. The
//! clock stands still until a test lets time pass, so all is exact to the millisecond.

mod support;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sessionfs::config::lifetime::LIVE;
use sessionfs::redis::scripts::Scripts;
use sessionfs::redis::{RedisStore, Settings};
use sessionfs::session::content::{self, Class, Content};
use sessionfs::session::policy::rule::{Rule, Selector, Setting, Source};
use sessionfs::session::policy::rules::Rules;
use sessionfs::session::policy::{Lifetimes, Times};
use sessionfs::store::{Lookup, Publish, Sessions as _};
use support::redis::Redis;
use support::store::{DAY, HOUR, MINUTE, alias, connected, look, save, settings, taken, use_it};

/// A clock that stands still until a test sets it.
const CLOCK: &str = "
if redis.replicate_commands then redis.replicate_commands() end
local function now_ms() return tonumber(redis.call('GET', 'test:now') or '1800000000000') end
";
const BEGIN_MS: u64 = 1_800_000_000_000;
/// What is not found by any rule.
const GENERAL: Lifetimes = Lifetimes {
    idle_ms: 15 * MINUTE,
    anonymous_idle_ms: 7 * DAY,
    anonymous_unopened_ms: HOUR,
    absolute_ms: None,
    grace_ms: 10 * MINUTE,
    tombstone_ms: HOUR,
};

async fn started(settings: Settings) -> RedisStore {
    let scripts = Scripts::with_clock(CLOCK);
    connected(RedisStore::start_with(settings, scripts).expect("a good URL")).await
}

/// Two servers with these rules.
async fn two(redis: &Redis, rules: &[(&str, Option<u64>)]) -> [RedisStore; 2] {
    let rules: Vec<_> = rules.iter().map(|(place, ms)| rule(place, *ms)).collect();
    let of =
        |rules: &[Rule]| Settings { lifetimes: GENERAL, rules: rules.to_vec(), ..settings(redis) };
    [started(of(&rules)).await, started(of(&rules)).await]
}

fn rule(place: &str, ms: Option<u64>) -> Rule {
    let (key, selector) = place.split_once(' ').expect("a key and a selector");
    let setting = Setting::of_key(key).expect("a setting");
    let selector = Selector::parse(selector).expect("a selector");
    Rule::new(setting, selector, ms, Source::File).expect("a rule")
}

fn person(db: &str, login: &str, uid: i64) -> Content {
    Content {
        class: Class::Authenticated,
        uid: Some(uid),
        db: Some(db.to_owned()),
        login: Some(login.to_owned()),
    }
}

fn visitor(db: &str) -> Content {
    Content { class: Class::Anonymous, uid: None, db: Some(db.to_owned()), login: None }
}

fn at(redis: &Redis, ms: u64) {
    let _: String = redis.run(&format!("SET test:now {}", BEGIN_MS + ms));
}

/// A session of this owner, saved now.
fn saved(store: &RedisStore, number: u32, owner: &Content) -> Publish {
    Publish { content: owner.clone(), ..save(store, &alias("ab", number), owner.class, None) }
}

#[tokio::test]
async fn each_kind_of_rule_ends_a_session_to_the_millisecond_on_both_servers() {
    let rules = [
        ("lifetime.idle database=shop", Some(40_007)),
        ("lifetime.idle login=till*", Some(30_011)),
        ("lifetime.idle database=shop login=till*", Some(20_021)),
        ("lifetime.idle login=till9", Some(19_001)),
        ("lifetime.idle database=shop login=till1", Some(10_037)),
        ("lifetime.idle database=shop user_id=7", Some(5_003)),
        ("lifetime.idle login=*@x.example", Some(6_007)),
        ("lifetime.absolute database=old", Some(7_001)),
        ("lifetime.anonymous_idle database=shop", Some(9_001)),
        ("lifetime.anonymous_unopened database=old", Some(8_009)),
    ];
    let cases = [
        (person("shop", "admin", 2), 40_007),
        (person("other", "till2", 2), 30_011),
        (person("shop", "till2", 2), 20_021),
        (person("shop", "till9", 2), 19_001),
        (person("other", "till9", 2), 19_001),
        (person("shop", "till1", 2), 10_037),
        (person("shop", "till1", 7), 5_003),
        (person("other", "admin", 7), GENERAL.idle_ms),
        (person("other", "a@x.example", 7), 6_007),
        (person("other", "a@xyexample", 7), GENERAL.idle_ms),
        (person("old", "admin", 7), 7_001),
        (visitor("shop"), 9_001),
        (visitor("old"), 8_009),
        (visitor("other"), GENERAL.anonymous_unopened_ms),
    ];
    let redis = Redis::start();
    let [one, other] = two(&redis, &rules).await;
    for (number, (owner, lives_ms)) in (0..).zip(cases) {
        for (saver, reader) in [(&one, &other), (&other, &one)] {
            redis.run::<()>("FLUSHDB");
            at(&redis, 0);
            let meta = taken(saver, &saved(saver, number, &owner)).await;
            assert_eq!(meta.left_ms, lives_ms, "{owner:?}");
            at(&redis, lives_ms - 1);
            for store in [saver, reader] {
                let found = look(store, &alias("ab", number)).await.expect("alive");
                assert_eq!(found.left_ms, 1, "{owner:?}");
            }
            at(&redis, lives_ms);
            for store in [reader, saver] {
                assert_eq!(look(store, &alias("ab", number)).await, None, "{owner:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_rule_can_take_a_limit_away_and_the_key_is_kept_for_as_long_as_it_says() {
    let redis = Redis::start();
    let rules = [
        ("lifetime.absolute database=shop login=robot*", None),
        ("lifetime.absolute database=shop", Some(HOUR)),
        ("lifetime.idle database=shop login=robot*", Some(30 * DAY)),
    ];
    let [one, other] = two(&redis, &rules).await;
    at(&redis, 0);
    let robot = person("shop", "robot-1", 7);
    assert_eq!(taken(&one, &saved(&one, 1, &robot)).await.left_ms, 30 * DAY);
    let key = format!("PTTL sessionfs:s:{{ab}}:{}", alias("ab", 1));
    let ttl: u64 = redis.run(&key);
    assert!(ttl > 45 * DAY && ttl <= 45 * DAY + GENERAL.grace_ms, "{ttl}");
    assert_eq!(look(&other, &alias("ab", 1)).await.expect("alive").left_ms, 30 * DAY);
    // A use moves the end by the rule, too.
    at(&redis, 29 * DAY);
    look(&other, &alias("ab", 1)).await.expect("alive");
    use_it(&other, &alias("ab", 1)).await;
    assert_eq!(look(&one, &alias("ab", 1)).await.expect("alive").left_ms, 30 * DAY);
    let admin = person("shop", "admin", 2);
    assert_eq!(taken(&one, &saved(&one, 2, &admin)).await.left_ms, GENERAL.idle_ms);
}

#[tokio::test]
async fn a_session_that_changes_hands_is_judged_as_whose_it_is_now() {
    let redis = Redis::start();
    let rules = [
        ("lifetime.idle database=shop login=till*", Some(5 * MINUTE)),
        ("lifetime.absolute database=shop user_id=2", Some(6 * MINUTE)),
        ("lifetime.anonymous_unopened database=shop", Some(7 * MINUTE)),
        ("lifetime.anonymous_idle database=shop", Some(8 * MINUTE)),
    ];
    let [one, other] = two(&redis, &rules).await;
    at(&redis, 0);
    let steps = [
        (visitor("shop"), 7 * MINUTE),
        (person("shop", "till1", 7), 5 * MINUTE),
        (person("shop", "anna", 2), 6 * MINUTE),
        (person("other", "anna", 2), GENERAL.idle_ms),
        // What nobody is called is no other's name.
        (person("shop", "", 2), 6 * MINUTE),
    ];
    let mut opened = None;
    for (owner, lives_ms) in steps {
        let publish = save(&one, &alias("ab", 1), owner.class, opened);
        opened = Some(taken(&one, &Publish { content: owner.clone(), ..publish }).await.birth);
        // The first time nobody knows whose it is; later each has an opinion, perhaps a former one.
        for _ in 0..2 {
            for store in [&one, &other] {
                let found = look(store, &alias("ab", 1)).await.expect("alive");
                assert_eq!(found.left_ms, lives_ms, "{owner:?}");
            }
        }
    }
}

/// Names that mean something in a pattern, in the text of the rules, or in a header.
fn name() -> impl Strategy<Value = String> {
    const PARTS: &[&str] = &[
        "a", "b", "till", "20", "%", "%20", " ", "\n", ".", "-", "+", "[", "]", "^", "$", "(", ")",
        "?", "\u{0}", "\u{e9}", "#7", "=", "~", ",", "x", "\t", "\u{7f}", "'", "\"", "\\",
    ];
    prop::collection::vec(prop::sample::select(PARTS), 1..5).prop_map(|parts| parts.concat())
}

/// Logins, and patterns that compete for them.
fn common() -> impl Strategy<Value = String> {
    const LOGINS: &[&str] = &["till", "tall", "a till", "a"];
    prop::sample::select(LOGINS).prop_map(ToOwned::to_owned)
}

fn competing() -> impl Strategy<Value = String> {
    const PATTERNS: &[&str] = &[
        "t*", "*l", "t*l", "*il*", "*al*", "ti*", "*ll", "ta*", "t*ll", "til*", "*till", "*", "a*",
        "a *", "*a", "till",
    ];
    prop::sample::select(PATTERNS).prop_map(ToOwned::to_owned)
}

fn login() -> impl Strategy<Value = String> {
    let star = || prop::sample::select(vec!["", "", "*"]);
    (star(), name(), star(), name(), star()).prop_map(|(before, a, between, b, after)| {
        // Two at most.
        let after = if before == "*" && between == "*" { "" } else { after };
        [before, &a, between, if between == "*" { &b } else { "" }, after].concat()
    })
}

fn selector() -> impl Strategy<Value = Selector> {
    let database = || prop::sample::select(vec!["shop", "a b%\n", "-"]);
    prop_oneof![
        1 => database().prop_map(|db| Selector::new(Some(db), None, None)),
        1 => (database(), -1_i64..3).prop_map(|(db, id)| Selector::new(Some(db), None, Some(id))),
        3 => (prop::option::of(database()), prop_oneof![competing(), login()])
            .prop_map(|(db, login)| Selector::new(db, Some(&login), None)),
    ]
    // Of blanks nothing is left.
    .prop_filter_map("a login", Result::ok)
}

fn any_rule() -> impl Strategy<Value = Rule> {
    (prop::sample::select(&Setting::ALL[..]), selector(), 1_u64..100_000).prop_map(
        |(setting, selector, ms)| {
            // No limit, now and then, where that can be.
            let ms = (setting != Setting::Absolute || ms % 5 != 0).then_some(ms);
            let by_database = || Selector::new(Some("shop"), None, None).expect("a selector");
            Rule::new(setting, selector, ms, Source::File)
                .or_else(|_| Rule::new(setting, by_database(), ms, Source::File))
                .expect("a rule")
        },
    )
}

/// Somebody whom one of these rules may be for.
fn owner() -> impl Strategy<Value = Content> {
    (
        prop::option::weighted(0.9, prop::sample::select(vec!["shop", "a b%\n", "-", "other"])),
        prop::option::weighted(0.9, prop_oneof![common(), name()]),
        prop::option::weighted(0.9, -1_i64..3),
        prop::bool::weighted(0.8),
    )
        .prop_map(|(db, login, uid, authenticated)| Content {
            class: if authenticated { Class::Authenticated } else { Class::Anonymous },
            uid,
            db: db.map(ToOwned::to_owned),
            login: login.as_deref().map(content::login),
        })
}

#[test]
fn the_scripts_choose_as_the_policy_does() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let redis = Redis::start();
    at(&redis, 0);
    let store = runtime.block_on(async { started(settings(&redis)).await });
    let case = (prop::collection::vec(any_rule(), 0..25), prop::collection::vec(owner(), 1..12));
    let config = Config { failure_persistence: None, ..Config::with_cases(200) };
    let last = std::cell::Cell::new(0);
    let outcome = TestRunner::new(config).run(&case, |(rules, owners)| {
        let rules = Rules::new(GENERAL, rules).expect("few");
        store.set_lifetimes(rules.clone());
        for owner in &owners {
            let number = last.get() + 1;
            last.set(number);
            let publish = saved(&store, number, owner);
            let meta = runtime.block_on(taken(&store, &publish));
            let times = Times { login_ms: BEGIN_MS, activity_ms: BEGIN_MS, opened: false };
            let end_ms = rules.of(owner).end_ms(owner.class, times);
            prop_assert_eq!(meta.left_ms, end_ms - BEGIN_MS, "{:?}", owner);
            // First the script finds the rules, then it is told whose session it may be.
            for _ in 0..2 {
                let found = runtime.block_on(look(&store, &publish.alias)).expect("alive");
                prop_assert_eq!(found.left_ms, meta.left_ms);
            }
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

/// Follows live settings.
async fn following(redis: &Redis) -> RedisStore {
    started(Settings { lifetimes: GENERAL, live: Some(LIVE), ..settings(redis) }).await
}

/// Waits until the store judges a session so.
async fn lives(store: &RedisStore, number: u32, ms: u64) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let left_ms = match store.fetch(&alias("ab", number), None).await {
            Ok(Lookup::Session { meta, .. }) => meta.left_ms,
            other => panic!("{other:?}"),
        };
        if left_ms == ms {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{left_ms} instead of {ms}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn both_servers_follow_a_live_rule_and_its_end() {
    let redis = Redis::start();
    let [one, other] = [following(&redis).await, following(&redis).await];
    at(&redis, 0);
    taken(&one, &saved(&one, 1, &person("shop", "till1", 7))).await;
    let place = "lifetime.idle database=shop login=till*";
    one.change_live(place, Some("5min")).await.expect("changed");
    for store in [&one, &other] {
        lives(store, 1, 5 * MINUTE).await;
    }
    let found = other.live_settings().await.expect("read");
    assert_eq!(found.rules.get(place).map(String::as_str), Some("5min"));
    one.change_live("lifetime.idle", Some("1h")).await.expect("changed");
    one.change_live(place, None).await.expect("changed");
    for store in [&one, &other] {
        lives(store, 1, HOUR).await;
    }
}

#[tokio::test]
async fn what_is_no_rule_is_not_followed_and_leaves_the_others() {
    let redis = Redis::start();
    let store = following(&redis).await;
    at(&redis, 0);
    taken(&store, &saved(&store, 1, &person("shop", "till1", 7))).await;
    let long = format!("lifetime.idle login={}", "x".repeat(10_000));
    let hostile = [
        ("lifetime.idle database=shop login=till*", "1s;"),
        ("lifetime.idle login=a*b*c*d*e", "1s"),
        ("lifetime.grace database=shop", "1s"),
        ("lifetime.idle database=shop\nlogin=till*", "1s"),
        ("lifetime.idle login=%", "1s"),
        (&long, "1s"),
        ("lifetime.idle ", "1s"),
        ("anything", "at all"),
    ];
    let mut connection = redis.connection();
    for (field, text) in hostile {
        let _: i64 = redis::cmd("HSET")
            .arg("sessionfs:config")
            .arg(field)
            .arg(text)
            .query(&mut connection)
            .expect("written");
    }
    store.change_live("lifetime.idle login=till*", Some("2min")).await.expect("changed");
    lives(&store, 1, 2 * MINUTE).await;
    assert_eq!(store.rules().all().len(), 1);
    // More than anybody has: the last ones stay, and so do other settings.
    for number in 0..1000 {
        let _: i64 = redis.run(&format!("HSET sessionfs:config lifetime.idle:login={number} 1s"));
    }
    store.change_live("lifetime.idle login=till*", Some("3min")).await.expect("changed");
    store.change_live("lifetime.absolute", Some("90s")).await.expect("changed");
    lives(&store, 1, 90_000).await;
    store.change_live("lifetime.absolute", None).await.expect("changed");
    lives(&store, 1, 2 * MINUTE).await;
    let found = store.live_settings().await.expect("read");
    assert!(found.unread.is_some_and(|why| why.contains("at most 512")));
}

#[tokio::test]
async fn a_thousand_rules_are_not_followed() {
    let redis = Redis::start();
    let store = following(&redis).await;
    at(&redis, 0);
    taken(&store, &saved(&store, 1, &person("shop", "u1", 7))).await;
    let mut command = redis::cmd("HSET");
    command.arg("sessionfs:config");
    for number in 0..400 {
        command.arg(format!("lifetime.idle login=u{number}")).arg("1min");
    }
    let _: i64 = command.query(&mut redis.connection()).expect("written");
    store.change_live("lifetime.absolute", Some("90s")).await.expect("changed");
    lives(&store, 1, 90_000).await;
    assert_eq!(store.rules().all(), []);
    // Fewer of them are.
    let mut command = redis::cmd("HDEL");
    command.arg("sessionfs:config");
    for number in 150..400 {
        command.arg(format!("lifetime.idle login=u{number}"));
    }
    let _: i64 = command.query(&mut redis.connection()).expect("removed");
    lives(&store, 1, MINUTE).await;
    assert_eq!(store.rules().all().len(), 150);
}
