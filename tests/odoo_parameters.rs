//! Odoo's system parameters become the lifetimes of its databases (docs/odoo-parameters.md), with a real PostgreSQL.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, setsockopt, socketpair};
use nix::sys::time::TimeVal;
use nix::unistd::User;
use serde_json::Value;
use support::authority::Authority;
use support::http::{get, until};
use support::mount::{Mount, errno, sid};
use support::postgres::{Postgres, Running, command_as};
use support::redis::Redis;

/// Whose directory it is: Odoo's user, with the same role.
const ODOO: &str = "nobody";
const IDLE: &str = "session.timeout";

/// Every user can read what lies in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Self(folder)
    }

    /// A configuration file of Odoo.
    fn odoo_conf(&self, options: &str) -> PathBuf {
        let path = self.0.path().join("odoo.conf");
        std::fs::write(&path, format!("[options]\n{options}\n")).unwrap();
        path
    }
}

/// An Odoo that reads this file.
fn odoo(conf: &Path, environment: &[(&str, &str)]) -> Running {
    let mut command = command_as(ODOO, "/usr/bin/sleep");
    command.arg0("odoo").arg("3600").env("ODOO_RC", conf).envs(environment.iter().copied());
    Running::start(&mut command)
}

/// What the process that asks PostgreSQL tells first.
fn round(conf: &Path) -> Value {
    let user = User::from_name(ODOO).unwrap().unwrap();
    let flags = SockFlag::empty();
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
    command.args(["parameters", "--socket-fd", &theirs.as_raw_fd().to_string()]);
    command.args(["--uid", &user.uid.to_string(), "--gid", &user.gid.to_string()]);
    command.args(["--sessions", "/nonexistent", "--config"]).arg(conf).stdin(Stdio::null());
    let _running = Running::start(&mut command);
    setsockopt(&ours, ReceiveTimeout, &TimeVal::new(30, 0)).unwrap();
    let mut packet = vec![0; 1 << 16];
    let length = recv(ours.as_raw_fd(), &mut packet, MsgFlags::empty()).expect("it tells");
    serde_json::from_slice(&packet[..length]).unwrap()
}

/// Each database with its idle time, or why that cannot be read; or why there are none,
/// without who was asked.
fn read(conf: &Path) -> String {
    let what = |why: &str| why.split(" (as ").next().unwrap_or_default().to_owned();
    let round = round(conf);
    let databases = round["databases"].as_array().unwrap().iter().map(|database| {
        let (name, values) = (database["name"].as_str().unwrap(), &database["values"]);
        let idle = values["Ok"]["idle"].as_str().or(values["Err"].as_str()).unwrap_or("-");
        format!("{name}={}", what(idle))
    });
    let databases = databases.collect::<Vec<_>>().join(" ");
    round["failure"].as_str().map_or(databases, what)
}

fn config(mount: &Mount, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
    command.arg("config").args(words).arg("--config").arg(mount.configuration());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The line of the rule for this database, without spaces between.
fn rule(mount: &Mount, database: &str) -> Option<String> {
    let text = config(mount, &["get", "lifetime.idle"]);
    let of = format!("database={database}");
    let line = text.lines().find(|line| line.split_whitespace().any(|word| word == of))?;
    Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Two servers of one Redis; the first follows, the other has no PostgreSQL.
struct Servers {
    follower: Mount,
    other: Mount,
    _odoo: Running,
    _folder: Folder,
    redis: Redis,
}

impl Servers {
    fn start(postgres: &Postgres, lifetime: &str) -> Self {
        let (redis, folder) = (Redis::start(), Folder::new());
        let conf = folder.odoo_conf(&format!("db_host = False\ndb_port = {}", postgres.port));
        // Odoo's environment says where PostgreSQL is.
        let odoo = odoo(&conf, &[("PGHOST", postgres.directory().to_str().unwrap())]);
        let url = redis.url();
        let more = format!("[redis]\nurl = \"{url}\"\n[lifetime]\n{lifetime}\n");
        let follows =
            format!("[odoo]\nfollow_parameters = true\nconfig = \"{}\"\n{more}", conf.display());
        let owner = (ODOO, "nogroup");
        let follower = Mount::start_owned(&redis, &follows, owner);
        let other = Mount::start_owned(&redis, &more, owner);
        Self { follower, other, _odoo: odoo, _folder: folder, redis }
    }

    /// Waits until both have this rule, and no longer than a change may take.
    #[track_caller]
    fn follow(&self, database: &str, idle: &str) {
        let line = format!("lifetime.idle database={database} {idle} odoo");
        let began = Instant::now();
        until(&line, || {
            [&self.follower, &self.other]
                .iter()
                .all(|mount| rule(mount, database).as_deref() == Some(&line))
        });
        assert!(began.elapsed() < Duration::from_secs(10), "{line}: {:?}", began.elapsed());
    }

    /// For how many minutes Redis keeps the key of the only session.
    fn kept_min(&self) -> i64 {
        let mut connection = self.redis.connection();
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("sessionfs:s:*").query(&mut connection).unwrap();
        assert_eq!(keys.len(), 1, "{keys:?}");
        let ms: i64 = redis::cmd("PTTL").arg(&keys[0]).query(&mut connection).unwrap();
        ms / 60_000
    }

    #[track_caller]
    fn told(&self, words: &str) {
        until(words, || get(&self.follower, "/status").contains(words));
    }
}

fn postgres() -> Postgres {
    let postgres = Postgres::start("", None);
    postgres.sql("postgres", &format!("CREATE ROLE {ODOO} LOGIN"));
    postgres
}

fn session(database: &str) -> Vec<u8> {
    let token = "5f".repeat(32);
    format!(r#"{{"db": "{database}", "login": "a", "uid": 2, "session_token": "{token}"}}"#).into()
}

#[test]
fn sessions_of_a_database_end_by_its_parameter_on_every_server() {
    let postgres = postgres();
    postgres.create("shop", ODOO);
    postgres.create("office", ODOO);
    // Odoo does not list what belongs to somebody else.
    postgres.create("others", "postgres");
    postgres.set("others", IDLE, "77");
    let servers = Servers::start(&postgres, "idle_min = \"1s\"");
    let (of_shop, of_office) = (sid("ab", 1), sid("cd", 2));
    for mount in [&servers.follower, &servers.other] {
        mount.save(&of_shop, &session("shop")).unwrap();
        mount.save(&of_office, &session("office")).unwrap();
        assert!(mount.read(&of_shop).is_ok());
    }
    postgres.set("shop", IDLE, "2");
    servers.follow("shop", "2s");
    // Nobody uses it for that time.
    std::thread::sleep(Duration::from_millis(2100));
    for mount in [&servers.other, &servers.follower] {
        assert_eq!(errno(mount.read(&of_shop)), nix::libc::ENOENT);
        assert!(mount.read(&of_office).is_ok());
    }
    let status = get(&servers.follower, "/status");
    assert!(status.contains("office") && !status.contains("others"), "{status}");
    // Whoever has the lease writes the audit trail.
    until("it is in the audit trail", || {
        let told = "Odoo: lifetime.idle database=shop source=odoo: none -> 2s";
        [&servers.follower, &servers.other].iter().any(|mount| mount.log().contains(told))
    });
    // Each server logs what it follows from now on.
    servers.other.wait_for_log("lifetime.idle database=shop source=odoo");
}

#[test]
fn a_parameter_is_followed_whatever_becomes_of_it() {
    let mut postgres = postgres();
    postgres.create("shop", ODOO);
    postgres.set("shop", IDLE, "900");
    let servers = Servers::start(&postgres, "idle_max = \"1h\"");
    servers.follow("shop", "15min");
    servers.other.save(&sid("ab", 1), &session("shop")).unwrap();
    assert!(servers.kept_min() < 45);
    postgres.set("shop", IDLE, "3000");
    servers.follow("shop", "50min");
    // Redis keeps for longer what may live longer.
    until("the key is kept for longer", || servers.kept_min() >= 55);

    // What would lock people out, and what is too long.
    postgres.set("shop", IDLE, "5");
    servers.follow("shop", "1min");
    servers.told("5 s is not allowed; 1min, the smallest, is used");
    postgres.set("shop", IDLE, "7200");
    servers.follow("shop", "1h");
    servers.told("7200 s is not allowed; 1h, the largest, is used");
    postgres.set("shop", IDLE, "soon");
    servers.told("'soon' is not a number");
    servers.follow("shop", "1h");

    // A live rule goes before it, and gives way to it again.
    config(&servers.other, &["set", "lifetime.idle", "3h", "--database", "shop"]);
    until("the live rule", || {
        rule(&servers.follower, "shop").is_some_and(|rule| rule.ends_with("3h live"))
    });
    config(&servers.other, &["unset", "lifetime.idle", "--database", "shop", "--yes"]);
    servers.follow("shop", "1h");

    postgres.unset("shop", IDLE);
    until("the rule is gone", || rule(&servers.other, "shop").is_none());
    postgres.set("shop", IDLE, "900");
    servers.follow("shop", "15min");

    // PostgreSQL is away.
    postgres.stop();
    servers.told("error connecting");
    servers.follow("shop", "15min");
    postgres.start_again();
    postgres.set("shop", IDLE, "600");
    until("it is asked again", || {
        rule(&servers.other, "shop").is_some_and(|rule| rule.contains("10min"))
    });

    // The database is dropped, while nobody is connected to it, and restored.
    until("it is dropped", || postgres.try_sql("postgres", "DROP DATABASE shop"));
    servers.told("does not serve this database any more");
    servers.follow("shop", "10min");
    postgres.create("shop", ODOO);
    postgres.set("shop", IDLE, "300");
    servers.follow("shop", "5min");
    until("nothing is wrong any more", || {
        let status: Value = serde_json::from_str(&get(&servers.follower, "/status")).unwrap();
        status["parameters"]["databases"]["shop"]["problems"] == serde_json::json!([])
    });

    // What stays of a server that follows no more is told, and can be removed.
    let Servers { follower, other, .. } = servers;
    until("it is seen there", || get(&other, "/status").contains("lifetime.idle database=shop"));
    follower.stop();
    config(&other, &["unset", "lifetime.idle", "--database", "shop", "--yes"]);
    assert_eq!(rule(&other, "shop"), None);
}

#[test]
fn check_and_status_say_what_holds_and_what_is_wrong() {
    let postgres = postgres();
    postgres.create("shop", ODOO);
    postgres.create("office", ODOO);
    postgres.set("shop", IDLE, "900");
    postgres.set("office", IDLE, "never");
    let servers = Servers::start(&postgres, "");
    servers.follow("shop", "15min");
    servers.told("'never' is not a number");
    let said = |command: &str, mount: &Mount| {
        let mut sessionfs = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
        sessionfs.arg(command).arg(mount.path());
        if command == "check" {
            sessionfs.arg("--config").arg(mount.configuration());
        }
        let text = String::from_utf8_lossy(&sessionfs.output().unwrap().stdout).into_owned();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let status = said("status", &servers.follower);
    assert!(status.contains("shop: idle 15min, absolute -"), "{status}");
    assert!(status.contains("office: session.timeout: 'never' is not a number"), "{status}");
    let checked = said("check", &servers.follower);
    assert!(checked.contains("followed: office: no parameter; shop: idle 15min"), "{checked}");
    assert!(checked.contains("of database office: session.timeout: 'never'"), "{checked}");
    assert!(checked.contains("[parameters.problem]"), "{checked}");
    let checked = said("check", &servers.other);
    assert!(checked.contains("1 lifetime that they gave still holds"), "{checked}");
}

#[test]
fn what_odoo_serves_is_asked_and_nothing_else() {
    let postgres = postgres();
    for database in ["shop", "shop_test", "office"] {
        postgres.create(database, ODOO);
        postgres.set(database, IDLE, "60");
    }
    postgres.sql("postgres", &format!("CREATE DATABASE not_of_odoo OWNER {ODOO}"));
    let folder = Folder::new();
    let at = format!("db_host = {}\ndb_port = {}", postgres.directory().display(), postgres.port);
    for (more, expected) in [
        ("", "office=60 shop=60 shop_test=60"),
        ("db_name = shop", "shop=60"),
        ("db_name = office,missing", "office=60 missing=database \"missing\" does not exist"),
        ("db_name = office\ndbfilter = ^shop", "shop=60 shop_test=60"),
        ("dbfilter = ^%d$", "office=60 shop=60 shop_test=60"),
        ("db_template = shop", "office=60 shop_test=60"),
        ("db_user = nobody_else", "Peer authentication failed for user \"nobody_else\""),
    ] {
        assert_eq!(read(&folder.odoo_conf(&format!("{at}\n{more}"))), expected, "{more}");
    }
    // A slip in the filter keeps all out.
    let told = round(&folder.odoo_conf(&format!("{at}\ndbfilter = ^shpo$"))).to_string();
    assert!(told.contains("dbfilter lets none of 4 databases through"), "{told}");
    // One that is just being restored has a table, and no parameters yet.
    postgres.unset("office", "database.uuid");
    let told = read(&folder.odoo_conf(&format!("{at}\ndb_name = office")));
    assert!(told.starts_with("office=it has no system parameters"), "{told}");
    postgres.set("office", "database.uuid", "restored");
    // Somebody holds the table of one; the others are read, and that one the next time.
    let mut psql = command_as("postgres", "/usr/bin/psql");
    psql.args(["-d", "office", "-h"]).arg(postgres.directory());
    psql.args(["-p", &postgres.port.to_string(), "-c"]);
    psql.arg("BEGIN; LOCK ir_config_parameter; SELECT pg_sleep(3600)").stdout(Stdio::null());
    let held = Running::start(&mut psql);
    let conf = folder.odoo_conf(&at);
    until("it is held", || read(&conf) == "office=no answer within 3 s shop=60 shop_test=60");
    // Whoever was not answered in time waits no longer.
    let nobody_waits =
        "SELECT 1 / (count(*) = 0)::int FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    until("nobody waits for it", || postgres.try_sql("postgres", nobody_waits));
    drop(held);
    // No server is there.
    let away = folder.odoo_conf("db_host = 127.0.0.1\ndb_port = 1");
    let told = round(&away).to_string();
    assert!(told.contains("error connecting to server: "), "{told}");
    assert!(told.contains("(as ") && told.contains(" at 127.0.0.1, port 1)"), "{told}");
    let conf = folder.odoo_conf("");
    std::fs::set_permissions(&conf, PermissionsExt::from_mode(0o600)).unwrap();
    assert!(read(&conf).contains("odoo.conf: Permission denied"), "{}", read(&conf));
}

#[test]
fn a_password_over_tcp_is_that_of_odoo_and_is_never_told() {
    let postgres = Postgres::start("host all shopkeeper 127.0.0.1/32 scram-sha-256", None);
    postgres.sql("postgres", "CREATE ROLE shopkeeper LOGIN PASSWORD 'geheim'");
    postgres.create("shop", "shopkeeper");
    postgres.set("shop", IDLE, "60");
    let folder = Folder::new();
    let at = format!("db_host = 127.0.0.1\ndb_port = {}\ndb_user = shopkeeper", postgres.port);
    let conf = folder.odoo_conf(&format!("{at}\ndb_password = geheim"));
    assert_eq!(read(&conf), "shop=60");
    let conf = folder.odoo_conf(&format!("{at}\ndb_password = falsch"));
    let told = round(&conf).to_string();
    assert!(told.contains("password authentication failed"), "{told}");
    assert!(!told.contains("falsch"), "{told}");
    // Of Odoo's environment, and of a file in its home.
    let conf = folder.odoo_conf(&at);
    assert!(read(&conf).contains("password"), "{}", read(&conf));
    let by_environment = odoo(&conf, &[("PGPASSWORD", "geheim")]);
    until("Odoo runs", || read(&conf) == "shop=60");
    drop(by_environment);
    let passfile = folder.0.path().join(".pgpass");
    std::fs::write(&passfile, "127.0.0.1:*:*:shopkeeper:geheim\n").unwrap();
    let user = User::from_name(ODOO).unwrap().unwrap();
    nix::unistd::chown(&passfile, Some(user.uid), None).unwrap();
    std::fs::set_permissions(&passfile, PermissionsExt::from_mode(0o600)).unwrap();
    let _by_home = odoo(&conf, &[("HOME", folder.0.path().to_str().unwrap())]);
    until("Odoo runs", || read(&conf) == "shop=60");
}

#[test]
fn a_connection_is_encrypted_as_odoo_has_it() {
    let authority = Authority::new();
    let postgres = Postgres::start("hostssl all shopkeeper 127.0.0.1/32 trust", Some(&authority));
    postgres.sql("postgres", "CREATE ROLE shopkeeper LOGIN");
    postgres.create("shop", "shopkeeper");
    postgres.set("shop", IDLE, "60");
    let homes = [Folder::new(), Folder::new(), Folder::new()];
    let other = Authority::new();
    for (home, known) in homes.iter().zip([None, Some(&authority), Some(&other)]) {
        let directory = home.0.path().join(".postgresql");
        std::fs::create_dir(&directory).unwrap();
        if let Some(known) = known {
            std::fs::copy(known.path("ca.pem"), directory.join("root.crt")).unwrap();
        }
    }
    let [none, right, wrong] = &homes;
    for (mode, host, home, expected) in [
        ("disable", "localhost", none, Err("no pg_hba.conf entry")),
        ("allow", "localhost", none, Ok(())),
        ("prefer", "localhost", none, Ok(())),
        ("require", "localhost", none, Ok(())),
        ("require", "localhost", wrong, Err("certificate")),
        ("verify-ca", "localhost", none, Err("no file of authorities")),
        ("verify-ca", "127.0.0.1", right, Ok(())),
        ("verify-ca", "127.0.0.1", wrong, Err("certificate")),
        ("verify-full", "localhost", right, Ok(())),
        ("verify-full", "127.0.0.1", right, Err("certificate")),
        ("verify-full", "localhost", wrong, Err("certificate")),
    ] {
        let folder = Folder::new();
        let conf = folder.odoo_conf(&format!(
            "db_host = {host}\ndb_port = {}\ndb_user = shopkeeper\ndb_sslmode = {mode}",
            postgres.port
        ));
        let _odoo = odoo(&conf, &[("HOME", home.0.path().to_str().unwrap())]);
        let said = read(&conf);
        match expected {
            Ok(()) => assert_eq!(said, "shop=60", "{mode} {host}"),
            Err(words) => assert!(said.contains(words), "{mode} {host}: {said}"),
        }
    }
}
