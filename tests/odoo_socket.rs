//! The socket on which Odoo's user lists and ends the sessions of a user (docs/odoo-socket.md).

mod support;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::Value;
use support::http::until;
use support::mount::{Mount, alias, errno, in_thread, sid};
use support::redis::Redis;

const NEAR: &str = "[near_cache]\nfreshness = \"near\"\n";
/// An answer: code and body.
type Answer = (u16, Value);

fn socket(mount: &Mount) -> PathBuf {
    sessionfs::config::paths::odoo_socket(&mount.path())
}

fn ask_with(mount: &Mount, method: &str, query: &str, header: &str) -> Answer {
    let mut stream = UnixStream::connect(socket(mount)).expect("connected");
    write!(stream, "{method} {query} HTTP/1.1\r\nHost: x\r\n{header}\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code");
    (code, serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON: {body}")))
}

fn ask(mount: &Mount, method: &str, query: &str) -> Answer {
    ask_with(mount, method, query, "")
}

#[track_caller]
fn done(mount: &Mount, method: &str, query: &str) -> Value {
    let (code, body) = ask(mount, method, query);
    assert_eq!(code, 200, "{body}");
    body
}

fn content(database: &str, login: &str, uid: i64) -> Vec<u8> {
    let token = "5f".repeat(32);
    serde_json::json!({"db": database, "login": login, "uid": uid, "session_token": token})
        .to_string()
        .into_bytes()
}

fn aliases(list: &Value) -> BTreeSet<String> {
    let sessions = list["sessions"].as_array().expect("an array");
    sessions.iter().map(|session| session["alias"].as_str().expect("an alias").to_owned()).collect()
}

/// Two servers, and the sessions of three people; the first five are admin's of the shop.
struct Shop {
    redis: Redis,
    here: Mount,
    there: Mount,
    sids: Vec<String>,
}

const ADMIN: std::ops::Range<usize> = 0..5;
const MARC: usize = 5;
const ELSEWHERE: usize = 6;
const VISITOR: usize = 7;
const ADMINS: &str = "/sessions?database=shop&user_id=2";

impl Shop {
    fn open() -> Self {
        let redis = Redis::start();
        let (here, there) = (Mount::start(&redis, NEAR), Mount::start(&redis, NEAR));
        let sids: Vec<String> = (0..8).map(|n| sid(["ab", "cd", "-_"][n % 3], n as u64)).collect();
        for (n, sid) in sids.iter().enumerate() {
            let visitor = br#"{"db": "shop", "login": null, "uid": null, "session_token": null}"#;
            let content = match n {
                MARC => content("shop", "marc", 6),
                ELSEWHERE => content("other", "admin", 2),
                VISITOR => visitor.to_vec(),
                _ => content("shop", "admin", 2),
            };
            // As another person's worker: each logs in by a request of its own.
            in_thread(|| here.save(sid, &content)).expect("saved");
            // By both servers, so that both answer from memory.
            for mount in [&here, &there] {
                in_thread(|| mount.read(sid)).expect("read");
            }
        }
        Self { redis, here, there, sids }
    }

    fn aliases(&self, which: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
        which.into_iter().map(|n| alias(&self.sids[n])).collect()
    }

    /// Exactly these live, on both servers.
    #[track_caller]
    fn assert_living(&self, living: &[usize]) {
        for (n, sid) in self.sids.iter().enumerate() {
            let is_wanted = living.contains(&n);
            for mount in [&self.here, &self.there] {
                // The other server hears of it a moment later.
                until(&format!("session {n} lives: {is_wanted}"), || {
                    in_thread(|| mount.read(sid)).is_ok() == is_wanted
                });
            }
        }
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
fn the_sessions_of_one_user_of_one_database_are_listed_without_secrets() {
    let shop = Shop::open();
    let own = format!("Session-Id: {}\r\n", shop.sids[1]);
    let (code, list) = ask_with(&shop.there, "GET", ADMINS, &own);
    assert_eq!((code, &list["next"]), (200, &Value::Null), "{list}");
    assert_eq!(aliases(&list), shop.aliases(ADMIN));
    shop.assert_no_sid_in(&list.to_string());
    for session in list["sessions"].as_array().unwrap() {
        assert_eq!(session["database"], "shop");
        assert_eq!((&session["login"], &session["user_id"]), (&"admin".into(), &2.into()));
        assert_eq!(session["class"], "authenticated");
        assert_eq!(session["current"], session["alias"] == *alias(&shop.sids[1]));
        let left = session["left_seconds"].as_u64().unwrap();
        assert!((800..=900).contains(&left), "{session}");
        assert!(session["ends_ms"].as_u64() > session["logged_in_ms"].as_u64(), "{session}");
    }
    let marc = done(&shop.here, "GET", "/sessions?database=shop&login=marc");
    assert_eq!(aliases(&marc), shop.aliases([MARC]));
    let both = done(&shop.here, "GET", "/sessions?database=shop&login=marc&user_id=2");
    assert_eq!(aliases(&both), BTreeSet::new());
    // A page at a time they are all there, each once.
    let (mut found, mut query) = (Vec::new(), format!("{ADMINS}&limit=2"));
    loop {
        let page = done(&shop.here, "GET", &query);
        found.extend(aliases(&page));
        match page["next"].as_str() {
            Some(next) => query = format!("{ADMINS}&limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(found.len(), 5);
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), shop.aliases(ADMIN));
    shop.assert_living(&[0, 1, 2, 3, 4, MARC, ELSEWHERE, VISITOR]);
}

#[test]
fn a_person_is_logged_out_everywhere_but_where_he_asks() {
    let shop = Shop::open();
    let own = format!("Session-Id: {}\r\n", shop.sids[3]);
    let (code, outcome) = ask_with(&shop.here, "DELETE", ADMINS, &own);
    assert_eq!(code, 200, "{outcome}");
    assert_eq!(outcome["ended"], 4);
    assert_eq!((&outcome["kept"], &outcome["gone_before"]), (&1.into(), &0.into()));
    let ended: BTreeSet<String> = serde_json::from_value(outcome["sessions"].clone()).unwrap();
    assert_eq!(ended, shop.aliases([0, 1, 2, 4]));
    // At once on the server that was asked, though it had them in memory.
    for n in [0, 1, 2, 4] {
        let read = in_thread(|| shop.here.read(&shop.sids[n]));
        assert_eq!(errno(read), libc::ENOENT, "session {n}");
    }
    shop.assert_living(&[3, MARC, ELSEWHERE, VISITOR]);
    // Nothing is revived by a page that was under way.
    let page = || shop.there.save(&shop.sids[0], &content("shop", "admin", 2));
    assert_eq!(errno(in_thread(page)), libc::EACCES);
    let without = done(&shop.there, "DELETE", &format!("{ADMINS}&except={}", alias(&shop.sids[0])));
    assert_eq!(without["ended"], 1);
    shop.assert_living(&[MARC, ELSEWHERE, VISITOR]);
    let log = shop.here.stop();
    assert!(log.contains("ended_by_odoo"), "{log}");
    let lines = |log: &str, words: &str| log.lines().filter(|line| line.contains(words)).count();
    // In the trail nobody has logged out by himself.
    assert_eq!(lines(&log, "reason=\"killed\"") + lines(&log, "reason=killed"), 5, "{log}");
    assert_eq!(lines(&log, "logout"), 0, "{log}");
    assert!(log.contains("Odoo, by its socket"), "{log}");
    assert!(!log.contains("cannot write to the audit trail"), "{log}");
    for sid in &shop.sids {
        assert!(!log.contains(&sid[43..]), "a session id is in the log");
    }
}

#[test]
fn what_a_client_asked_for_is_carried_out_and_told_though_it_is_gone() {
    let shop = Shop::open();
    // Long enough for the server to see that the client is gone, and too short to be taken for an outage.
    let _: () = shop.redis.run("CLIENT PAUSE 250");
    let mut stream = UnixStream::connect(socket(&shop.here)).expect("connected");
    write!(stream, "DELETE {ADMINS} HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    drop(stream);
    shop.here.wait_for_log("ended_by_odoo");
    shop.assert_living(&[MARC, ELSEWHERE, VISITOR]);
}

#[test]
fn the_newest_are_kept() {
    let shop = Shop::open();
    let kept = done(&shop.here, "DELETE", &format!("{ADMINS}&keep_newest=5"));
    assert_eq!((&kept["ended"], &kept["kept"]), (&0.into(), &5.into()));
    let kept = done(&shop.here, "DELETE", &format!("{ADMINS}&keep_newest=3"));
    assert_eq!((&kept["ended"], &kept["kept"]), (&2.into(), &3.into()));
    shop.assert_living(&[2, 3, 4, MARC, ELSEWHERE, VISITOR]);
    // The one that asks counts among them, and stays though it is the oldest.
    let own = format!("Session-Id: {}\r\n", shop.sids[2]);
    let (code, kept) = ask_with(&shop.here, "DELETE", &format!("{ADMINS}&keep_newest=2"), &own);
    assert_eq!((code, &kept["ended"], &kept["kept"]), (200, &1.into(), &2.into()), "{kept}");
    shop.assert_living(&[2, 4, MARC, ELSEWHERE, VISITOR]);
    // One of another user takes nobody's place, and one that is spared twice takes one.
    let other = format!("Session-Id: {}\r\n", shop.sids[MARC]);
    let (_, kept) = ask_with(&shop.here, "DELETE", &format!("{ADMINS}&keep_newest=2"), &other);
    assert_eq!((&kept["ended"], &kept["kept"]), (&0.into(), &2.into()), "{kept}");
    let twice = format!("{ADMINS}&keep_newest=2&except={}", alias(&shop.sids[2]));
    let (_, kept) = ask_with(&shop.here, "DELETE", &twice, &own);
    assert_eq!((&kept["ended"], &kept["kept"]), (&0.into(), &2.into()), "{kept}");
    let (code, refused) = ask_with(&shop.here, "DELETE", ADMINS, &format!("{own}{other}"));
    assert_eq!(code, 400, "{refused}");
    shop.assert_living(&[2, 4, MARC, ELSEWHERE, VISITOR]);
}

#[test]
fn what_is_asked_badly_ends_nothing() {
    let shop = Shop::open();
    let all = [0, 1, 2, 3, 4, MARC, ELSEWHERE, VISITOR];
    let long = format!("/sessions?database=shop&login={}", "x".repeat(2000));
    let cookie = format!("{ADMINS}&except={}x", shop.sids[0]);
    for (query, why) in [
        ("/sessions", "database is missing"),
        ("/sessions?login=admin", "database is missing"),
        ("/sessions?database=shop", "login or user_id is missing"),
        ("/sessions?database=shop&login=", "login is empty"),
        ("/sessions?database=shop&user_id=2&all=1", "is not known"),
        ("/sessions?database=shop&database=other&user_id=2", "twice"),
        ("/sessions?database=shop&user_id=2&keep_newest=many", "is not a number"),
        ("/sessions?database=shop&user_id=2&except=ab", "is not a whole alias"),
        (&long, "too long"),
        (&cookie, "is not a whole alias"),
    ] {
        let (code, body) = ask(&shop.here, "DELETE", query);
        assert_eq!(code, 400, "{query}: {body}");
        assert!(body["error"].as_str().unwrap().contains(why), "{query}: {body}");
        shop.assert_no_sid_in(&body.to_string());
    }
    let (code, body) = ask_with(&shop.here, "DELETE", ADMINS, "Session-Id: x\r\n");
    assert_eq!(code, 400, "{body}");
    for (method, path, code) in [
        ("POST", ADMINS, 405),
        ("GET", "/status", 404),
        ("GET", "/metrics", 404),
        ("DELETE", "/", 404),
    ] {
        assert_eq!(ask(&shop.here, method, path).0, code, "{method} {path}");
    }
    shop.assert_living(&all);
}

const CONNECTS: &str = "
import http.client, socket, sys
connection = http.client.HTTPConnection('localhost')
connection.sock = socket.socket(socket.AF_UNIX)
try:
    connection.sock.connect(sys.argv[2])
    connection.request('GET', '/sessions?database=shop&user_id=2')
    print(connection.getresponse().status)
except OSError as error:
    print(error.strerror)
";

#[test]
fn only_the_owner_of_the_tree_and_root_are_answered() {
    const OWNER: u32 = 12_345;
    const OTHER: u32 = 23_456;
    let redis = Redis::start();
    let mount = Mount::start_owned(&redis, "", ("12345", "12345"));
    let found = socket(&mount).metadata().expect("a socket");
    assert_eq!((found.uid(), found.mode() & 0o777), (OWNER, 0o600));
    let path = socket(&mount);
    let ask = |uid| mount.python_as(uid, CONNECTS, &[path.to_str().unwrap()]);
    assert_eq!((ask(OWNER), ask(0)), ("200".to_owned(), "200".to_owned()));
    assert_eq!(ask(OTHER), "Permission denied");
    // Whoever opens it to all is not obeyed.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!((ask(OTHER), ask(OWNER)), ("403".to_owned(), "200".to_owned()));
    mount.stop();
    assert!(!path.exists(), "it is left behind");
}

#[test]
fn a_flood_is_refused_and_sessions_are_served() {
    let shop = Shop::open();
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for _ in 0..30 {
            threads.push(scope.spawn(|| {
                // Nothing is quicker to answer, and so harder to bound by the work that it is.
                (0..30).map(|_| ask(&shop.here, "GET", "/sessions").0).collect::<Vec<_>>()
            }));
        }
        in_thread(|| shop.here.read(&shop.sids[0])).expect("served in the flood");
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let count = |code| answers.iter().filter(|answer| **answer == code).count();
    assert_eq!(count(400) + count(429), 900, "{answers:?}");
    assert!(count(400) >= 40 && count(429) > 0, "{answers:?}");
    until("it is answered again", || ask(&shop.here, "GET", ADMINS).0 == 200);
}

#[test]
fn there_is_none_where_it_is_off_and_another_where_one_is_named() {
    let redis = Redis::start();
    let mount = Mount::start(&redis, "[odoo]\nsocket = \"off\"\n");
    assert!(!socket(&mount).exists());
    let directory = tempfile::tempdir().unwrap();
    let named = directory.path().join("odoo.sock");
    let line = format!("[odoo]\nsocket = \"{}\"\n", named.display());
    std::fs::write(mount.configuration(), &line).unwrap();
    let (code, said) = mount.command("reload");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(named.metadata().unwrap().mode() & 0o777, 0o600);
    assert_eq!(mount.python(CONNECTS, &[named.to_str().unwrap()]), "200");
    std::fs::write(mount.configuration(), "").unwrap();
    let (code, said) = mount.command("reload");
    assert_eq!(code, Some(0), "{said}");
    assert!(!named.exists() && socket(&mount).exists());
    assert_eq!(done(&mount, "GET", ADMINS)["sessions"], serde_json::json!([]));
}

#[test]
fn the_example_keeps_no_page_waiting_for_a_socket_that_does_not_answer() {
    // What the module uses of Odoo.
    const SCRIPT: &str = "
import importlib, socket, sys, time, types
sys.path.insert(0, sys.argv[2])
class Session(dict):
    uid, sid, db = 2, 'x' * 84, 'shop'
class Parameters:
    value = '2'
    def __getitem__(self, name): return self
    def sudo(self): return self
    def get_param(self, name): return self.value
class Model:
    env = Parameters()
class Config(dict):
    pass
request = types.SimpleNamespace(session=Session())
config = Config(sessionfs_socket=sys.argv[1] + '.silent')
for name, values in {
    'odoo': {'_': str, 'models': types.SimpleNamespace(Model=Model, AbstractModel=Model)},
    'odoo.exceptions': {'AccessError': Exception, 'UserError': Exception},
    'odoo.http': {'request': request},
    'odoo.tools': {'config': config},
}.items():
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(values)
models = importlib.import_module('sessionfs_sessions.models')
silent = socket.socket(socket.AF_UNIX)
silent.bind(sys.argv[1] + '.silent')
silent.listen()
def page():
    began = time.monotonic()
    models.IrHttp()._sessionfs_limit()
    return time.monotonic() - began
took = [page() for _ in range(20)]
models.Pause.until = 0
Parameters.value = '5.0'
wrong = page()
words = [models.sessionfs.limit(text) for text in (False, '', '0', ' 5', '5000')]
Parameters.value, models.Pause.until, asked = '2', 0, []
models.sessionfs.ask = lambda *words, **more: asked.append((words[1:], more))
request.session = Session()
request.session.should_rotate = True
page()
request.session.should_rotate = False
page()
page()
wanted = [(('DELETE',), {'timeout_s': 1, 'database': 'shop', 'user_id': 2, 'keep_newest': 2})]
assert asked == wanted, asked
models.Pause.begin()
print(took[0] < 3, sum(took[1:]) < 0.5, wrong < 0.5, models.Pause.is_over(), words)
";
    let directory = tempfile::tempdir().unwrap();
    let silent = directory.path().join("odoo.sock");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/odoo");
    let output = std::process::Command::new("python3")
        .args(["-B", "-c", SCRIPT])
        .arg(&silent)
        .arg(example)
        .output()
        .expect("python3 runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let wanted = "True True True False [None, None, None, 5, 1000]\n";
    assert_eq!(said, wanted, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_example_for_odoo_finds_the_socket_and_uses_it() {
    const SCRIPT: &str = "
import json, sys
sys.path.insert(0, sys.argv[2])
import sessionfs
path = sessionfs.socket_path(sys.argv[1])
listed = sessionfs.ask(path, 'GET', sys.argv[3], database='shop', user_id=2)
ended = sessionfs.ask(path, 'DELETE', sys.argv[3], database='shop', user_id=2, keep_newest=2)
try:
    sessionfs.ask(path, 'DELETE', database='shop')
    refused = None
except sessionfs.SessionfsError as error:
    refused = str(error)
print(json.dumps([len(listed['sessions']), sum(s['current'] for s in listed['sessions']), ended['ended'], refused]))
";
    let shop = Shop::open();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/odoo/sessionfs_sessions");
    let said = shop.here.python(SCRIPT, &[example, &shop.sids[0]]);
    let [listed, current, ended, refused] = serde_json::from_str::<[Value; 4]>(&said).unwrap();
    assert_eq!((listed, current, ended), (5.into(), 1.into(), 3.into()));
    assert!(refused.as_str().unwrap().ends_with("login or user_id is missing"), "{refused}");
    shop.assert_living(&[0, 4, MARC, ELSEWHERE, VISITOR]);
}
