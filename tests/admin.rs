//! What an administrator does with the sessions and settings of the whole cluster.

mod support;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sessionfs::redis::RedisStore;
use sessionfs::redis::scan::Filter;
use sessionfs::session::content::{Class, Content};
use sessionfs::session::name::{Alias, Shard};
use sessionfs::session::policy::Lifetimes;
use support::crowd;
use support::index;
use support::mount::{Mount, alias, authenticated, errno, in_thread, sid};
use support::redis::Redis;
use support::store;

/// What a person waits for at most; far above what it takes.
const WITHIN: Duration = Duration::from_secs(20);
const HOSTILE: &str = "\u{1b}[2J\u{9b}1m\r\nroot \u{202e}nimda";

/// `sessionfs`, on this Redis and with the defaults of a file that says nothing.
fn run(redis: &Redis, arguments: &[&str], input: &str) -> Output {
    let file = redis.directory().join("says-nothing.toml");
    std::fs::write(&file, "").expect("written");
    let command_words = if arguments[0] == "config" { 2 } else { 1 };
    let (command, rest) = arguments.split_at(command_words);
    let mut child = Command::new(env!("CARGO_BIN_EXE_sessionfs"))
        .args(command)
        .args(["--redis", &redis.url(), "--config"])
        .arg(file)
        .args(rest)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sessionfs starts");
    // It may end without reading it.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

#[track_caller]
fn says(redis: &Redis, arguments: &[&str]) -> String {
    let output = run(redis, arguments, "");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[track_caller]
fn refuses(redis: &Redis, arguments: &[&str], input: &str, code: i32) -> String {
    let output = run(redis, arguments, input);
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[track_caller]
fn json(redis: &Redis, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    serde_json::from_str(&says(redis, &arguments)).expect("JSON")
}

/// The aliases that `list` with these arguments gives.
#[track_caller]
fn listed(redis: &Redis, arguments: &[&str]) -> BTreeSet<String> {
    let arguments: Vec<&str> = ["list"].into_iter().chain(arguments.iter().copied()).collect();
    let list = json(redis, &arguments);
    let aliases: Vec<String> = list
        .as_array()
        .expect("an array")
        .iter()
        .map(|session| session["alias"].as_str().expect("an alias").to_owned())
        .collect();
    let set: BTreeSet<String> = aliases.iter().cloned().collect();
    assert_eq!(set.len(), aliases.len(), "each once");
    set
}

/// Content of whoever it says.
fn content(db: &str, login: Option<&str>, uid: Option<i64>) -> Vec<u8> {
    let token = login.map(|_| "5f".repeat(32));
    serde_json::json!({"db": db, "login": login, "uid": uid, "session_token": token})
        .to_string()
        .into_bytes()
}

fn is_there(node: &Mount, sid: &str) -> bool {
    std::fs::metadata(node.sharded(sid)).is_ok()
}

#[track_caller]
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Two nodes, and five sessions saved on the first: two of one device.
struct Shop {
    redis: Redis,
    here: Mount,
    there: Mount,
    sids: Vec<String>,
}

const ADMIN: usize = 0;
const ADMIN_ROTATED: usize = 1;
const MARC: usize = 2;
const EVIL: usize = 3;
const VISITOR: usize = 4;

impl Shop {
    fn open() -> Self {
        let redis = Redis::start();
        let (here, there) = (Mount::start(&redis, ""), Mount::start(&redis, ""));
        let admin = sid("ab", 1);
        let rotated = format!("{}{}", &admin[..42], &sid("ab", 9)[42..]);
        let sids = vec![admin, rotated, sid("-_", 2), sid("cd", 3), sid("ab", 4)];
        let contents = [
            content("shop", Some("admin"), Some(2)),
            content("shop", Some("admin"), Some(2)),
            content("other", Some("marc"), Some(6)),
            content("other", Some(HOSTILE), Some(6)),
            content("shop", None, None),
        ];
        for (sid, content) in sids.iter().zip(contents) {
            here.save(sid, &content).expect("saved");
        }
        Self { redis, here, there, sids }
    }

    fn aliases(&self, which: &[usize]) -> BTreeSet<String> {
        which.iter().map(|index| alias(&self.sids[*index])).collect()
    }

    #[track_caller]
    fn assert_no_sid_in(&self, text: &str) {
        for sid in &self.sids {
            // The family (its first 42) is no secret; what follows is.
            assert!(!text.contains(&sid[43..]), "{text}");
        }
    }
}

#[test]
fn list_and_kill_mean_the_same_by_every_filter() {
    let shop = Shop::open();
    let family = shop.sids[ADMIN][..42].to_owned();
    let marc = alias(&shop.sids[MARC]);
    let short = format!("{}..{}", &marc[..8], &marc[marc.len() - 6..]);
    let all = [ADMIN, ADMIN_ROTATED, MARC, EVIL, VISITOR];
    let cases: Vec<(Vec<&str>, Vec<usize>)> = vec![
        (vec!["--user-id", "6"], vec![MARC, EVIL]),
        (vec!["--login", "admin"], vec![ADMIN, ADMIN_ROTATED]),
        (vec!["--database", "shop"], vec![ADMIN, ADMIN_ROTATED, VISITOR]),
        (vec!["--database", "shop", "--class", "authenticated"], vec![ADMIN, ADMIN_ROTATED]),
        (vec!["--class", "anonymous"], vec![VISITOR]),
        (vec!["--family", &family], vec![ADMIN, ADMIN_ROTATED]),
        (vec!["--idle", "1ms"], all.to_vec()),
        (vec!["--idle", "1h"], vec![]),
        (vec!["--age", "1ms"], all.to_vec()),
        (vec!["--age", "1h"], vec![]),
        (vec!["--login", "admin", "--user-id", "6"], vec![]),
        (vec!["--json", "--", &short], vec![MARC]),
    ];
    // Each is at least a millisecond old.
    std::thread::sleep(Duration::from_millis(2));
    for (arguments, meant) in &cases {
        let named = arguments.contains(&"--");
        let mut list: Vec<&str> = vec!["list"];
        list.extend(arguments);
        let found = if named {
            let list: Value = serde_json::from_str(&says(&shop.redis, &list)).expect("JSON");
            assert_eq!(list.as_array().map(Vec::len), Some(1));
            BTreeSet::from([list[0]["alias"].as_str().expect("an alias").to_owned()])
        } else {
            listed(&shop.redis, arguments)
        };
        assert_eq!(found, shop.aliases(meant), "{arguments:?}");
        let mut kill: Vec<&str> = vec!["kill"];
        kill.extend(arguments);
        if !named {
            kill.push("--json");
        }
        let output = run(&shop.redis, &kill, "");
        let nobody = if meant.is_empty() { Some(53) } else { Some(0) };
        assert_eq!(output.status.code(), nobody, "{output:?}");
        let kill: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&kill["dry_run"], &kill["ended"]), (&true.into(), &0.into()));
        assert_eq!(kill["matched"], meant.len(), "{arguments:?}");
    }
    // Without --yes nothing was changed.
    assert_eq!(listed(&shop.redis, &[]), shop.aliases(&all));

    let killed = json(&shop.redis, &["kill", "--login", "admin", "--yes"]);
    assert_eq!((&killed["ended"], &killed["dry_run"]), (&2.into(), &false.into()));
    for node in [&shop.here, &shop.there] {
        for index in all {
            let ended = [ADMIN, ADMIN_ROTATED].contains(&index);
            assert_eq!(is_there(node, &shop.sids[index]), !ended, "{index}");
        }
    }
    let text = says(&shop.redis, &["kill", "--all", "--yes", "--verbose"]);
    assert!(text.contains("ended 3 sessions") && text.contains(&marc), "{text}");
    assert_eq!(listed(&shop.redis, &[]), BTreeSet::new());
    assert_eq!(says(&shop.redis, &["kill", "--all", "--yes"]), "ended 0 sessions\n");
}

#[test]
fn a_request_under_way_does_not_revive_what_was_killed() {
    let shop = Shop::open();
    for (node, index) in [(&shop.here, ADMIN), (&shop.there, MARC)] {
        let sid = &shop.sids[index];
        let refused = in_thread(|| {
            node.read(sid).expect("alive");
            says(&shop.redis, &["kill", "--yes", "--", &alias(sid)]);
            errno(node.save(sid, &authenticated("late")))
        });
        assert_eq!(refused, libc::EACCES);
        assert!(!is_there(&shop.here, sid) && !is_there(&shop.there, sid));
        // Nor by somebody who never read it, on either node.
        for node in [&shop.here, &shop.there] {
            let refused = in_thread(|| errno(node.save(sid, &authenticated("later"))));
            assert_eq!(refused, libc::EACCES);
        }
    }
}

#[test]
fn a_kill_by_cookie_ends_that_session_alone() {
    let shop = Shop::open();
    let output = run(&shop.redis, &["kill", "--sid", "-", "--yes"], &shop.sids[ADMIN]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(listed(&shop.redis, &[]), shop.aliases(&[ADMIN_ROTATED, MARC, EVIL, VISITOR]));
    refuses(&shop.redis, &["kill", "--sid", "-", "--yes"], &shop.sids[ADMIN], 53);
}

#[test]
fn what_is_meant_has_to_be_said() {
    let shop = Shop::open();
    refuses(&shop.redis, &["kill"], "", 2);
    refuses(&shop.redis, &["kill", "--yes"], "", 2);
    refuses(&shop.redis, &["kill", "--all", "--login", "admin"], "", 2);
    refuses(&shop.redis, &["show"], "", 2);
    refuses(&shop.redis, &["list", "--idle", "soon"], "", 2);
    refuses(&shop.redis, &["list", "--family", "short"], "", 2);
    refuses(&shop.redis, &["show", "zzzz"], "", 53);
    refuses(&shop.redis, &["kill", "zzzz", "--yes"], "", 53);
    let text = refuses(&shop.redis, &["kill", &shop.sids[ADMIN][..12], "--yes"], "", 54);
    assert!(text.contains("2 sessions match this alias"), "{text}");
    let whole = alias(&shop.sids[MARC]);
    refuses(&shop.redis, &["kill", "--login", "admin", "--yes", "--", &whole], "", 53);
    // A cookie on the command line is read by everybody, so it is not taken, and not repeated.
    for command in ["show", "kill"] {
        let text = refuses(&shop.redis, &[command, "--sid", &shop.sids[ADMIN]], "", 2);
        shop.assert_no_sid_in(&text);
        let text = refuses(&shop.redis, &[command, "--sid", "-"], "no cookie", 2);
        assert!(!text.contains("no cookie"));
        refuses(&shop.redis, &[command, &shop.sids[ADMIN]], "", 53);
    }
    assert_eq!(listed(&shop.redis, &[]).len(), 5);
}

#[test]
fn no_output_shows_an_id_or_commands_a_terminal() {
    let shop = Shop::open();
    let evil = alias(&shop.sids[EVIL]);
    let mut texts = vec![
        says(&shop.redis, &["list"]),
        says(&shop.redis, &["list", "--json"]),
        says(&shop.redis, &["list", "--sort", "login", "--reverse", "--limit", "2"]),
        says(&shop.redis, &["show", &evil]),
        says(&shop.redis, &["show", &evil, "--json"]),
        says(&shop.redis, &["kill", "--all"]),
        says(&shop.redis, &["kill", "--all", "--json"]),
    ];
    // What is stored in the content of a session is the next id of another.
    let content = serde_json::json!({
        "login": HOSTILE, "uid": 6, "session_token": "f00d", "next_sid": shop.sids[ADMIN],
        "kept": [HOSTILE, shop.sids[MARC]],
    });
    shop.here.save_in_request(&shop.sids[EVIL], content.to_string().as_bytes()).expect("saved");
    for arguments in [&["show", "--sid", "-"][..], &["show", "--sid", "-", "--json"]] {
        let cookie = format!("session_id={}\n", shop.sids[EVIL]);
        let output = run(&shop.redis, arguments, &cookie);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(text.contains("\"next_sid\": \"(hidden, 84 characters)\""), "{text}");
        assert!(!text.contains("f00d"), "{text}");
        texts.push(text);
    }
    for text in &texts {
        shop.assert_no_sid_in(text);
        let obeyed = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!text.contains(obeyed), "{text:?}");
        assert!(text.contains("1b") || text.contains("shown"), "{text}");
    }
    // For programs it is the same text.
    let shown: Value = serde_json::from_str(&texts[4]).expect("JSON");
    assert_eq!(shown["login"], HOSTILE.to_ascii_lowercase());
    for line in texts[0].lines() {
        assert!(line.chars().count() <= 120, "{line}");
    }
    assert!(texts[2].ends_with("5 sessions, 2 shown (--limit 0 shows all)\n"), "{}", texts[2]);
}

#[test]
fn show_says_of_a_pickle_that_it_is_one() {
    let redis = Redis::start();
    let node = Mount::start(&redis, "");
    let sid = "0123456789abcdef0123456789abcdef01234567";
    let pickle = include_bytes!("fixtures/sessions/authenticated-fresh.4.pickle");
    node.save_as(&node.flat(sid), pickle).expect("saved");
    let output = run(&redis, &["show", "--sid", "-"], sid);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains(&format!("a pickle of {} bytes", pickle.len())), "{text}");
    assert!(text.contains("werkzeug_....sess") && !text.contains(sid), "{text}");
}

#[test]
fn without_redis_every_command_says_so_soon() {
    let mut redis = Redis::start();
    redis.kill();
    for arguments in [
        &["list"][..],
        &["show", "abcd"],
        &["kill", "--all", "--yes"],
        &["config", "get"],
        &["config", "set", "lifetime.idle", "1h"],
    ] {
        let started = Instant::now();
        let text = refuses(&redis, arguments, "", 30);
        assert!(text.contains("cannot reach Redis at unix:"), "{text}");
        assert!(started.elapsed() < WITHIN);
    }
    redis.restart();
    redis.pause();
    let started = Instant::now();
    refuses(&redis, &["list"], "", 30);
    assert!(started.elapsed() < WITHIN);
    redis.resume();
}

#[test]
fn every_node_follows_a_live_setting_and_goes_back() {
    let redis = Redis::start();
    let here = Mount::start(&redis, "");
    let there = Mount::start(&redis, "[lifetime]\nidle = \"30min\"\n");
    let sid = sid("ab", 1);
    here.save(&sid, &authenticated("x")).expect("saved");
    says(&redis, &["config", "set", "lifetime.idle", "1s", "--yes"]);
    for node in [&here, &there] {
        node.wait_for_log("key=\"lifetime.idle\" new=\"1s\"");
    }
    // What was saved under the longer one ends by the shorter.
    until("it ends", || !is_there(&there, &sid));
    let setting = &json(&redis, &["config", "get", "lifetime.idle"])[0];
    assert_eq!((&setting["value"], &setting["source"]), (&"1s".into(), &"live".into()));

    // A new node knows it before it serves.
    drop(here);
    let here = Mount::start(&redis, "");
    assert!(here.log().contains("key=\"lifetime.idle\" new=\"1s\""), "{}", here.log());

    says(&redis, &["config", "unset", "lifetime.idle"]);
    for node in [&here, &there] {
        node.wait_for_log("key=\"lifetime.idle\" old=\"1s\"");
    }
    let setting = &json(&redis, &["config", "get", "lifetime.idle"])[0];
    assert_eq!((&setting["value"], &setting["source"]), (&"15min".into(), &"default".into()));
}

#[test]
fn a_longer_lifetime_holds_for_the_sessions_that_are_there() {
    const HOUR_MS: i64 = 3_600_000;
    let redis = Redis::start();
    let node = Mount::start(&redis, "");
    let sid = sid("ab", 1);
    node.save(&sid, &authenticated("x")).expect("saved");
    let ttl = || redis.run::<i64>(&format!("PTTL sessionfs:s:{{ab}}:{}", alias(&sid)));
    let name = Alias::parse(&alias(&sid)).expect("an alias");
    let activity = || index::score(&redis, &name).expect("an entry");
    let before = (ttl(), activity());
    assert!(before.0 < HOUR_MS);
    let change = json(&redis, &["config", "set", "lifetime.idle", "8h"]);
    assert_eq!((&change["old"], &change["new"]), (&"15min".into(), &"8h".into()));
    assert_eq!(change["kept"], 1);
    assert!(ttl() > 8 * HOUR_MS);
    assert!(index::ttl(&redis, "ab") > 8 * HOUR_MS);
    // That was no use of it.
    assert!((activity() - before.1).abs() < 0.5);
    assert!(is_there(&node, &sid));
}

#[test]
fn a_shorter_lifetime_tells_whom_it_ends_and_asks() {
    let shop = Shop::open();
    std::thread::sleep(Duration::from_millis(1100));
    let set = ["config", "set", "lifetime.idle", "1s"];
    let output = run(&shop.redis, &set, "");
    assert_eq!(output.status.code(), Some(58), "{output:?}");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(said, "lifetime.idle: 15min -> 1s would end 4 sessions of logged-in users now\n");
    let asked = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(asked.contains("nothing was changed") && asked.contains("--yes"), "{asked}");
    assert_eq!(shop.redis.run::<Vec<String>>("HGETALL sessionfs:config"), Vec::<String>::new());
    assert_eq!(listed(&shop.redis, &[]).len(), 5);

    // Visitors have limits of their own.
    let output =
        run(&shop.redis, &["config", "set", "lifetime.anonymous_idle", "1s", "--json"], "");
    assert_eq!(output.status.code(), Some(58), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&said["dry_run"], &said["ends"]["anonymous"]), (&true.into(), &1.into()));
    // What ends nobody in this moment asks as well: else it would depend on the hour.
    refuses(&shop.redis, &["config", "set", "lifetime.absolute", "10years"], "", 58);

    let said = says(&shop.redis, &["config", "set", "lifetime.idle", "1s", "--yes"]);
    assert!(said.contains("ended: 4 sessions of logged-in users\n"), "{said}");
    until("they end", || !is_there(&shop.there, &shop.sids[MARC]));
    // Back to a longer one nobody has to be asked; back to a shorter one everybody has.
    says(&shop.redis, &["config", "set", "lifetime.idle", "8h"]);
    refuses(&shop.redis, &["config", "unset", "lifetime.idle"], "", 58);
    says(&shop.redis, &["config", "unset", "lifetime.idle", "--yes"]);
}

#[test]
fn a_rule_holds_for_whom_it_names_and_says_so() {
    let shop = Shop::open();
    let redis = &shop.redis;
    let left = |which: usize| {
        let shown = json(redis, &["show", &alias(&shop.sids[which])]);
        (shown["left_seconds"].as_u64().expect("a time"), shown["rule"].clone())
    };
    let of_admins = ["--database", "shop", "--login", "adm*"];
    let set =
        |value: &'static str| [&["config", "set", "lifetime.idle", value], &of_admins[..]].concat();
    // Shorter than what holds for all.
    let output = run(redis, &set("5min"), "");
    assert_eq!(output.status.code(), Some(58), "{output:?}");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    let place = "lifetime.idle database=shop login=adm*";
    assert_eq!(said, format!("{place}: no rule -> 5min would end no session now\n"));
    let said = says(redis, &[&set("5min")[..], &["--yes"]].concat());
    let expected = format!("{place}: no rule -> 5min; every server follows within a second\n");
    assert_eq!(said, expected);
    let (seconds, rule) = left(ADMIN);
    assert!(seconds <= 300 && seconds > 200, "{seconds}");
    assert_eq!(rule, "database=shop login=adm*");
    let (seconds, rule) = left(MARC);
    assert!(seconds > 600 && rule.is_null(), "{seconds} {rule}");

    // Everybody of a database, for longer.
    let said = says(redis, &["config", "set", "lifetime.idle", "8h", "--database", "other"]);
    assert!(
        said.contains('\n') && said.starts_with("lifetime.idle database=other: no rule -> 8h"),
        "{said}"
    );
    assert!(said.contains("2 sessions live longer now"), "{said}");
    assert!(left(MARC).0 > 7 * 3600);
    let change = json(redis, &["config", "set", "lifetime.idle", "9h", "--database", "other"]);
    assert_eq!((&change["old"], &change["new"]), (&"8h".into(), &"9h".into()));
    assert_eq!((&change["database"], &change["rule"]), (&"other".into(), &"database=other".into()));

    let text = says(redis, &["show", &alias(&shop.sids[ADMIN])]);
    assert!(
        text.contains("idle limit  5min, by the rule database=shop login=adm* (live)\n"),
        "{text}"
    );
    assert!(text.contains("age limit   off\n"), "{text}");
    let text = says(redis, &["list"]);
    assert!(text.lines().next().is_some_and(|line| line.ends_with("RULE")), "{text}");
    assert_eq!(text.matches("database=shop login=adm*").count(), 2, "{text}");
    let text = says(redis, &["config", "get", "lifetime.idle"]);
    assert!(text.contains("lifetime.idle                           15min  default\n"), "{text}");
    assert!(text.contains("lifetime.idle database=shop login=adm*  5min   live\n"), "{text}");

    // What is shorter for one may be so for all.
    refuses(redis, &["config", "unset", "lifetime.idle", "--database", "other"], "", 58);
    let unset = [&["config", "unset", "lifetime.idle"], &of_admins[..]].concat();
    let said = says(redis, &unset);
    assert!(said.starts_with(&format!("{place}: 5min -> no rule; every server")), "{said}");
    assert!(left(ADMIN).0 > 600);
}

#[test]
fn explain_names_the_rule_that_gives_each_value() {
    let redis = Redis::start();
    for (key, value, of) in [
        ("lifetime.idle", "5min", &["--database", "shop", "--login", "till*"][..]),
        ("lifetime.idle", "1min", &["--database", "shop", "--user-id", "7"]),
        ("lifetime.absolute", "12h", &["--database", "shop"]),
        ("lifetime.anonymous_idle", "1day", &["--database", "shop"]),
    ] {
        says(&redis, &[&["config", "set", key, value, "--yes"], of].concat());
    }
    let explain = |of: &[&str]| {
        let lines = json(&redis, &[&["config", "explain"], of].concat());
        let word = |value: &Value| value.as_str().map(ToOwned::to_owned).unwrap_or_default();
        let line = |line: &Value| {
            [word(&line["value"]), word(&line["rule"]), word(&line["source"])].join("|")
        };
        lines.as_array().expect("an array").iter().map(line).collect::<Vec<_>>()
    };
    let till = "5min|database=shop login=till*|live";
    let expected = [till, "12h|database=shop|live", "1day|database=shop|live", "1h||default"];
    assert_eq!(explain(&["--database", "shop", "--login", "till3"]), expected);
    assert_eq!(
        explain(&["--database", "shop", "--login", "x", "--user-id", "7"])[0],
        "1min|database=shop user_id=7|live"
    );
    assert_eq!(explain(&["--database", "b", "--login", "till3"])[0], "15min||default");
    let text = says(&redis, &["config", "explain", "--database", "shop", "--login", "till3"]);
    assert!(
        text.contains("lifetime.idle                5min   live: database=shop login=till*\n"),
        "{text}"
    );
    assert!(text.contains("1 rule of this database is for a user id"), "{text}");
}

#[test]
fn a_rule_that_cannot_be_is_refused_with_the_remedy() {
    let redis = Redis::start();
    let long = "x".repeat(10_000);
    for (key, of, words) in [
        ("lifetime.idle", &["--user-id", "7"][..], "name the database, too"),
        ("lifetime.idle", &["--login", "a*b*c*d"], "at most 2 '*'"),
        ("lifetime.idle", &["--database", "s*"], "named in full"),
        ("lifetime.idle", &["--login", ""], "is empty"),
        ("lifetime.idle", &["--login", &long], "10000 bytes"),
        (
            "lifetime.idle",
            &["--database", "a", "--login", "b", "--user-id", "7"],
            "name the one or the other",
        ),
        ("lifetime.grace", &["--database", "shop"], "it holds for all sessions"),
        ("lifetime.anonymous_idle", &["--login", "a"], "a visitor has no login"),
    ] {
        for command in [&["config", "set", key, "1h"][..], &["config", "unset", key]] {
            let said = refuses(&redis, &[command, of].concat(), "", 12);
            assert!(said.contains(words) && said.len() < 400, "{said}");
        }
    }
    assert_eq!(redis.run::<Vec<String>>("HGETALL sessionfs:config"), Vec::<String>::new());
    // Names that mean something elsewhere are names here.
    for login in ["a b", "a%20b", "a\nb", "-x", "\u{1b}[2J", "a=b login=c"] {
        let of = ["--login", login];
        let said = says(&redis, &[&["config", "set", "lifetime.idle", "1h"], &of[..]].concat());
        assert!(!said.contains('\u{1b}') && said.lines().count() == 1, "{said}");
        let explained = json(&redis, &[&["config", "explain"], &of[..]].concat());
        assert_eq!(explained[0]["value"], "1h", "{login}");
        says(&redis, &[&["config", "unset", "lifetime.idle", "--yes"], &of[..]].concat());
    }
    let left: Vec<String> = redis.run("HKEYS sessionfs:config");
    assert_eq!(left, ["generation"]);
}

#[test]
fn both_servers_follow_a_rule_and_one_that_is_none_is_told_once() {
    let shop = Shop::open();
    let redis = &shop.redis;
    let of = ["--database", "other", "--login", "marc"];
    says(redis, &[&["config", "set", "lifetime.idle", "1s", "--yes"], &of[..]].concat());
    for node in [&shop.here, &shop.there] {
        node.wait_for_log("key=\"lifetime.idle database=other login=marc\" new=\"1s\"");
    }
    until("it ends", || !is_there(&shop.there, &shop.sids[MARC]));
    assert!(is_there(&shop.there, &shop.sids[ADMIN]) && is_there(&shop.here, &shop.sids[EVIL]));
    let mut command = redis::cmd("HSET");
    command.arg("sessionfs:config").arg("lifetime.idle login=a*b*c*d").arg("1s");
    let _: i64 = command.query(&mut redis.connection()).expect("written");
    shop.here.wait_for_log("bad_setting");
    let said = says(redis, &["config", "get"]);
    assert!(
        said.contains("not followed: lifetime.rules: 'lifetime.idle login=a*b*c*d' is no rule"),
        "{said}"
    );
    // A server that comes later follows what was set before.
    let later = Mount::start(redis, "[[lifetime.rules]]\ndatabase = \"shop\"\nidle = \"1s\"\n");
    until("it ends there", || !is_there(&later, &shop.sids[ADMIN]));
    assert_eq!(shop.here.log().matches("bad_setting").count(), 1, "{}", shop.here.log());
}

#[test]
fn a_duration_is_shown_in_one_way_however_it_was_typed() {
    let redis = Redis::start();
    says(&redis, &["config", "set", "lifetime.idle", "1800s"]);
    assert_eq!(json(&redis, &["config", "get", "lifetime.idle"])[0]["value"], "30min");
    let _: i64 = redis.run("HSET sessionfs:config lifetime.idle 90m");
    assert_eq!(json(&redis, &["config", "get", "lifetime.idle"])[0]["value"], "1h 30min");
    let said = refuses(&redis, &["config", "set", "lifetime.absolute", "0"], "", 12);
    assert!(said.contains("not between 1s and 10years; \"off\" means no limit"), "{said}");
}

/// Of many sessions, those that were used last are found without a look at the others.
#[tokio::test]
async fn the_last_used_of_many_sessions_are_listed() {
    const MANY: u32 = 10_100;
    const SHOWN: usize = 20;
    let redis = Redis::start();
    let started = RedisStore::start(store::settings(&redis)).expect("a good URL");
    let node = store::connected(started).await;
    let saved = store::alias("zz", 0);
    let activity_ms = store::taken(&node, &store::login(&node, &saved)).await.activity_ms;
    let shards: Vec<Shard> = Shard::all().take(500).collect();
    let name = |n: u32| store::alias(shards[n as usize % shards.len()].as_str(), n);
    let copies: Vec<_> = (0..MANY).map(|n| (name(n), activity_ms + 1 + u64::from(n))).collect();
    crowd::copy(&mut redis.connection(), &[saved], &copies);
    // The last one has ended; the score of an early one is no time.
    let ended = name(MANY - 1);
    let _: u64 = redis.run(&format!("DEL sessionfs:s:{{{}}}:{ended}", ended.shard()));
    index::set_score(&redis, &name(5), "+inf");
    let list = ["list", "--sort", "idle", "--limit", "20"];
    let shown = json(&redis, &list);
    let shown: Vec<_> = shown.as_array().expect("an array").iter().collect();
    let latest: Vec<_> = (0..MANY - 1).rev().take(SHOWN).map(name).collect();
    assert_eq!(shown.len(), SHOWN);
    for (shown, alias) in shown.into_iter().zip(&latest) {
        assert_eq!(shown["alias"], alias.as_str());
    }
    let text = says(&redis, &list);
    assert!(text.ends_with("about 10101 sessions, 20 shown (--limit 0 shows all)\n"), "{text}");
    // Any other order needs all.
    let text = says(&redis, &["list", "--sort", "age", "--limit", "20"]);
    assert!(text.ends_with("\n10100 sessions, 20 shown (--limit 0 shows all)\n"), "{text}");
}

#[test]
fn who_is_mistaken_is_told_what_may_be_meant() {
    let shop = Shop::open();
    for yes in [&[][..], &["--yes"]] {
        for who in [&["--login", "admi"][..], &["--login", "adm*"], &["--idle", "1h"]] {
            let said = refuses(&shop.redis, &[&["kill"], who, yes].concat(), "", 53);
            assert!(said.contains("no session matches"), "{said}");
        }
    }
    let said = refuses(&shop.redis, &["list", "admin"], "", 53);
    assert!(said.contains("did you mean --login admin?\n"), "{said}");
    let said = refuses(&shop.redis, &["list", "marc@example.com"], "", 2);
    assert!(said.contains("--login"), "{said}");
    // It may be a cookie.
    let said = refuses(&shop.redis, &["list", &shop.sids[EVIL]], "", 53);
    shop.assert_no_sid_in(&said);
    for (line, help) in [
        ("list --sort foo", "; see 'sessionfs list --help'\n"),
        ("kill --frob", "; see 'sessionfs kill --help'\n"),
        ("config", "no command is given; see 'sessionfs config --help'\n"),
        ("config set lifetime.idle", "; see 'sessionfs config set --help'\n"),
        ("lst", "; see 'sessionfs --help'\n"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_sessionfs"))
            .args(line.split(' '))
            .output()
            .expect("sessionfs runs");
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.ends_with(help) && said.matches("--help").count() == 1, "{said}");
    }
}

#[test]
fn on_a_narrow_terminal_a_line_stays_a_line() {
    let shop = Shop::open();
    let on = |columns: u32| {
        let list = format!(
            "stty cols {columns}; {} list --redis {} --config {}",
            env!("CARGO_BIN_EXE_sessionfs"),
            shop.redis.url(),
            shop.here.configuration().display()
        );
        // It stands for a terminal.
        let output = Command::new("script").args(["-qec", &list, "/dev/null"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let (narrow, wide) = (on(100), on(200));
    assert!(wide.contains("SIZE") && !narrow.contains("SIZE"), "{narrow}\n{wide}");
    assert!(narrow.contains("LEFT") && narrow.contains("5 sessions"), "{narrow}");
    // What is no terminal has no width.
    assert!(says(&shop.redis, &["list"]).contains("SIZE"));
}

#[test]
fn the_log_of_the_host_knows_who_typed_it() {
    let shop = Shop::open();
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("log");
    let listener = std::os::unix::net::UnixDatagram::bind(&socket).expect("bound");
    listener.set_read_timeout(Some(WITHIN)).expect("a bound");
    // A /dev of its own, in which syslog's socket is ours.
    let script = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && ln -s \"$0\" /dev/log && \
                  exec \"$@\"";
    let typed = |arguments: &[&str]| {
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(&socket)
            .arg(env!("CARGO_BIN_EXE_sessionfs"))
            .args(arguments)
            .args(["--redis", &shop.redis.url()])
            .env("SUDO_USER", "an\u{1b}na")
            .output()
            .expect("unshare runs");
        assert!(output.status.success(), "{output:?}");
        let mut packet = [0; 2048];
        let length = listener.recv(&mut packet).expect("a line for the log");
        String::from_utf8_lossy(&packet[..length]).into_owned()
    };
    let by = ", by root (sudo: an\\u{1b}na) without a terminal";
    let said = typed(&["kill", "--login", "admin", "--yes"]);
    assert!(said.starts_with("<85>sessionfs["), "{said}");
    let expected = format!("]: kill: ended 2 sessions (--login 'admin'){by}");
    assert!(said.ends_with(&expected), "{said}");
    let said = typed(&["config", "set", "lifetime.idle", "8h"]);
    assert!(said.ends_with(&format!("]: config: lifetime.idle: 15min -> 8h{by}")), "{said}");
}

#[test]
fn who_may_not_read_the_configuration_is_told_to_use_sudo() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = directory.path().join("sessionfs");
    std::fs::copy(env!("CARGO_BIN_EXE_sessionfs"), &program).expect("copied");
    let file = directory.path().join("sessionfs.toml");
    std::fs::write(&file, "").expect("written");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    for command in [&["list"][..], &["kill", "--all"], &["config", "get"]] {
        let output = Command::new(&program)
            .args(command)
            .arg("--config")
            .arg(&file)
            .uid(65534)
            .gid(65534)
            .output()
            .expect("sessionfs runs");
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(10), "{said}");
        assert!(said.trim_end().ends_with("; run it with sudo"), "{said}");
    }
}

#[test]
fn what_is_no_setting_harms_nobody() {
    let redis = Redis::start();
    let node = Mount::start(&redis, "");
    let sid = sid("ab", 1);
    node.save(&sid, &authenticated("x")).expect("saved");
    for (key, value, code) in [
        ("lifetime.idle", "1ms", 12),
        ("lifetime.idle", "soon", 12),
        ("lifetime.absolute", "never", 12),
        ("lifetime.absolute", "0", 12),
        ("lifetime.idel", "1h", 11),
        ("redis.url", "redis://h", 12),
    ] {
        refuses(&redis, &["config", "set", key, value], "", code);
        let hash: Vec<String> = redis.run("HGETALL sessionfs:config");
        assert_eq!(hash, Vec::<String>::new(), "{key}");
    }
    says(&redis, &["config", "set", "lifetime.idle", "20min"]);
    node.wait_for_log("new=\"20min\"");
    // Whoever writes there by hand.
    let _: i64 = redis.run("HSET sessionfs:config lifetime.idle nonsense generation x any 1");
    node.wait_for_log("bad_setting");
    let setting = &json(&redis, &["config", "get", "lifetime.idle"])[0];
    assert_eq!(setting["ignored"], "nonsense");
    let later = Mount::start(&redis, "");
    assert!(is_there(&node, &sid) && is_there(&later, &sid));
    let _: i64 = redis.run("DEL sessionfs:config");
    let _: String = redis.run("SET sessionfs:config nonsense");
    node.wait_for_log("cannot read the live settings");
    let latest = Mount::start(&redis, "");
    assert!(is_there(&node, &sid) && is_there(&latest, &sid));
    let _: i64 = redis.run("DEL sessionfs:config");
    says(&redis, &["config", "set", "lifetime.idle", "25min"]);
    node.wait_for_log("new=\"25min\"");
    // Told once each, however often it was read.
    assert_eq!(node.log().matches("bad_setting").count(), 2, "{}", node.log());
}

#[tokio::test]
async fn a_scan_meets_every_session_once_and_ends_none() {
    const COUNT: u32 = 5_000;
    let redis = Redis::start();
    let node = store::node(&redis).await;
    let mut expected = BTreeSet::new();
    for number in 0..COUNT {
        // All of one shard in one half: more than a page of it.
        let shard = if number % 2 == 0 {
            "ab".to_owned()
        } else {
            Shard::from_index(u16::try_from(number % 4096).unwrap()).unwrap().to_string()
        };
        let alias = store::alias(&shard, number);
        let class = if number % 5 == 0 { Class::Anonymous } else { Class::Authenticated };
        let mut save = store::save(&node, &alias, class, None);
        save.content = Content { uid: Some(number.into()), ..store::content(class) };
        store::taken(&node, &save).await;
        expected.insert(alias);
    }
    let scan = async |node: &RedisStore, filter: Filter| {
        let (mut found, mut looked_at, mut count) = (BTreeSet::new(), 0, 0);
        let mut scan = node.scan(filter);
        while let Some(page) = scan.next().await {
            let page = page.expect("a page");
            looked_at += page.looked_at;
            count += page.living.len();
            found.extend(page.living.into_iter().map(|living| living.alias));
        }
        assert_eq!(count, found.len(), "each once");
        (found, looked_at)
    };
    let (found, looked_at) = scan(&node, Filter::default()).await;
    assert_eq!((found, looked_at), (expected.clone(), COUNT.into()));
    let (visitors, _) =
        scan(&node, Filter { class: Some(Class::Anonymous), ..Filter::default() }).await;
    assert_eq!(visitors.len(), usize::try_from(COUNT / 5).unwrap());
    let (one, _) = scan(&node, Filter { user_id: Some(77), ..Filter::default() }).await;
    assert_eq!(one.len(), 1);

    // Whoever counts by a shorter idle time ends nobody's session, and says that it is over.
    let short = Lifetimes { idle_ms: 1, ..Default::default() };
    let short = store::node_with(&redis, short).await;
    store::pass(&redis, store::MINUTE);
    let (found, _) = scan(&short, Filter::default()).await;
    assert_eq!(found.len(), expected.len());
    let (found, _) = scan(&node, Filter::default()).await;
    assert_eq!(found, expected);

    // The last activity is the index's, not only that of the save.
    let used = expected.first().expect("one").clone();
    store::use_it(&node, &used).await;
    let filter = Filter { idle_ms: Some(store::SECOND * 30), ..Filter::default() };
    let (idle, _) = scan(&node, filter).await;
    assert!(!idle.contains(&used) && idle.len() == expected.len() - 1);
}
