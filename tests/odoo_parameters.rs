//! Odoo's system parameters become the lifetimes of its databases (docs/odoo-parameters.md), with a real PostgreSQL.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown};
use support::http::{get, until};
use support::mount::{Mount, errno, sid};
use support::redis::Redis;

/// Whose directory it is: Odoo's user.
const ODOO: &str = "nobody";

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Postgres ends its own processes on this.
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGINT);
        let _ = self.0.wait();
    }
}

fn command_as(user: &str, program: impl AsRef<Path>) -> Command {
    let user = User::from_name(user).unwrap().unwrap_or_else(|| panic!("no user {user}"));
    let mut command = Command::new(program.as_ref());
    command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/").env_clear();
    command.env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    command
}

struct Postgres {
    _server: Running,
    programs: PathBuf,
    directory: tempfile::TempDir,
}

impl Postgres {
    /// With peer authentication, on a socket.
    fn start() -> Self {
        let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
        let newest = versions.map(|version| version.unwrap().path()).max().expect("a version");
        let programs = newest.join("bin");
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let user = User::from_name("postgres").unwrap().expect("the user postgres");
        chown(directory.path(), Some(user.uid), Some(user.gid)).unwrap();
        let data = directory.path().join("data");
        let made = command_as("postgres", programs.join("initdb"))
            .args(["--auth=peer", "--no-sync", "-U", "postgres", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let server = command_as("postgres", programs.join("postgres"))
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-k"])
            .arg(directory.path())
            .arg("-D")
            .arg(&data)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let postgres = Self { _server: Running(server), programs, directory };
        until("PostgreSQL answers", || postgres.try_sql("postgres", "SELECT 1"));
        postgres
    }

    fn try_sql(&self, database: &str, sql: &str) -> bool {
        let mut psql = command_as("postgres", self.programs.join("psql"));
        psql.args(["-v", "ON_ERROR_STOP=1", "-q", "-d", database, "-c", sql, "-h"]);
        psql.arg(self.directory.path()).stdout(Stdio::null()).stderr(Stdio::null());
        psql.status().unwrap().success()
    }

    #[track_caller]
    fn sql(&self, database: &str, sql: &str) {
        assert!(self.try_sql(database, sql), "{database}: {sql}");
    }

    fn set(&self, key: &str, value: &str) {
        self.sql("shop", &format!("DELETE FROM ir_config_parameter WHERE key = '{key}'"));
        self.sql("shop", &format!("INSERT INTO ir_config_parameter VALUES ('{key}', '{value}')"));
    }
}

fn config(mount: &Mount, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
    command.arg("config").args(words).arg("--config").arg(mount.configuration());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The line of the rule for the shop, without spaces between.
fn idle_of_shop(mount: &Mount) -> Option<String> {
    let text = config(mount, &["get", "lifetime.idle"]);
    let line = text.lines().find(|line| line.contains("database=shop"))?;
    Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[test]
fn a_changed_parameter_is_followed_on_every_server_and_a_bad_one_is_told() {
    let postgres = Postgres::start();
    postgres.sql("postgres", &format!("CREATE ROLE {ODOO} LOGIN"));
    postgres.sql("postgres", "CREATE DATABASE shop");
    postgres.sql("postgres", "CREATE DATABASE not_of_odoo");
    postgres.sql("shop", "CREATE TABLE ir_config_parameter (key varchar, value text)");
    postgres.sql("shop", &format!("GRANT SELECT ON ir_config_parameter TO {ODOO}"));
    postgres.set("session.timeout", "900");

    // Odoo's environment says where PostgreSQL is.
    let odoo = command_as(ODOO, "/usr/bin/sleep")
        .arg0("odoo")
        .arg("3600")
        .env("PGHOST", postgres.directory.path())
        .spawn();
    let _odoo = Running(odoo.unwrap());
    let redis = Redis::start();
    let odoo_conf = redis.directory().join("odoo.conf");
    std::fs::write(&odoo_conf, "[options]\ndb_host = False\n").unwrap();
    let redis_url = redis.url();
    let more = format!("[redis]\nurl = \"{redis_url}\"\n");
    let follows = format!("[odoo]\nfollow_parameters = true\nconfig = {odoo_conf:?}\n{more}");
    let here = Mount::start_owned(&redis, &follows, (ODOO, "nogroup"));
    // It has no PostgreSQL.
    let there = Mount::start_owned(&redis, &more, (ODOO, "nogroup"));
    let is = |expected: &str| {
        let line = format!("lifetime.idle database=shop {expected} odoo");
        until(expected, || {
            [&here, &there].iter().all(|mount| idle_of_shop(mount).as_deref() == Some(&line))
        });
    };
    is("15min");
    assert!(!get(&here, "/status").contains("not_of_odoo"));

    postgres.set("session.timeout", "1200");
    is("20min");
    postgres.set("session.timeout", "5");
    is("1min");
    until("the clamped value is told", || get(&here, "/status").contains("5 s is not allowed"));
    postgres.set("session.timeout", "soon");
    until("the bad value is told", || get(&here, "/status").contains("'soon' is not a number"));
    is("1min");

    // A session of the shop ends by its own parameter on the server that cannot reach PostgreSQL.
    let content = format!(
        r#"{{"db": "shop", "login": "a", "uid": 2, "session_token": "{}"}}"#,
        "5f".repeat(32)
    );
    let sid = sid("ab", 1);
    there.save(&sid, content.as_bytes()).unwrap();
    config(&there, &["set", "lifetime.idle", "1s", "--database", "shop", "--yes"]);
    until("the session is over", || there.read(&sid).is_err());
    assert_eq!(errno(there.read(&sid)), nix::libc::ENOENT);
    config(&there, &["unset", "lifetime.idle", "--database", "shop", "--yes"]);
    is("1min");

    postgres.sql("shop", "DELETE FROM ir_config_parameter");
    until("the rule is gone", || idle_of_shop(&there).is_none());
    postgres.set("session.timeout", "900");
    is("15min");

    // What stays of a server that follows no more can be removed.
    here.stop();
    config(&there, &["unset", "lifetime.idle", "--database", "shop", "--yes"]);
    assert_eq!(idle_of_shop(&there), None);
}
