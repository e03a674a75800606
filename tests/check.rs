//! `sessionfs check` and `sessionfs discover` on real mounts, real Redis servers and processes that
//! look like Odoo's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::mount::{Mount, sid};
use support::redis::{Redis, free_port};

/// Every Odoo of this host is looked at, so each test has the host for itself. (Who shares it with
/// others all the same: beside an Odoo that uses the mount, another one is only noted.)
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Checked {
    code: i32,
    findings: Vec<(String, String)>,
    remedies: HashMap<String, String>,
}

impl Checked {
    #[track_caller]
    fn has(&self, code: i32, id: &str, words: &str) {
        let found = self.findings.iter().find(|(found, _)| found == id);
        let (_, what) = found.unwrap_or_else(|| panic!("no {id} in {:#?}", self.findings));
        assert!(what.contains(words), "{what}");
        assert_eq!(self.code, code, "{:#?}", self.findings);
    }
}

fn run(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sessionfs"))
        .args(arguments)
        .output()
        .expect("sessionfs runs");
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("geheim") && !errors.contains("geheim"), "{said}{errors}");
    (output.status.code().expect("an exit code"), said)
}

#[track_caller]
fn check(directory: &Path, arguments: &[&str]) -> Checked {
    let mut all = vec!["check", "--json", directory.to_str().expect("UTF-8")];
    all.extend(arguments);
    let (code, said) = run(&all);
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("no JSON: {said}"));
    let text = |finding: &Value, key: &str| finding[key].as_str().expect("a text").to_owned();
    let findings = report["findings"].as_array().expect("findings");
    let severities: Vec<String> = findings.iter().map(|found| text(found, "severity")).collect();
    let order =
        |severity: &String| ["error", "warning", "note", "ok"].iter().position(|it| it == severity);
    assert!(severities.is_sorted_by_key(order), "{severities:?}");
    let remedies =
        findings.iter().map(|found| (text(found, "id"), text(found, "remedy"))).collect();
    let findings: Vec<_> =
        findings.iter().map(|found| (text(found, "id"), text(found, "what"))).collect();
    Checked { code, findings, remedies }
}

/// A Redis that has nothing to be complained of.
fn good() -> Redis {
    Redis::start_with(&["--appendonly", "yes", "--maxmemory", "64mb"])
}

/// A process that looks like Odoo, in whatever `command` makes of it.
struct Odoo(Child);

impl Odoo {
    fn start(mut command: Command, data_dir: &Path, more: &[&str]) -> Self {
        let program = tempfile::tempdir().expect("a temporary directory").keep().join("odoo-bin");
        std::fs::set_permissions(program.parent().unwrap(), PermissionsExt::from_mode(0o755))
            .unwrap();
        std::fs::write(&program, "import sys\nprint('up', flush=True)\nsys.stdin.read()\n")
            .unwrap();
        let mut child = command
            .arg("python3")
            .arg(&program)
            .arg("-D")
            .arg(data_dir)
            .args(["--workers", "2", "--proxy-mode"])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        std::fs::remove_dir_all(program.parent().unwrap()).unwrap();
        Self(child)
    }

    fn plain(data_dir: &Path) -> Self {
        Self::start(Command::new("env"), data_dir, &[])
    }

    /// In a mount namespace of its own, after `before` was done in it.
    fn apart(data_dir: &Path, before: &str) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", &format!("{before}; exec \"$@\""), "sh"]);
        Self::start(command, data_dir, &[])
    }
}

impl Drop for Odoo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A session file on a disk, written in the future of every mount.
fn plain_file(directory: &Path, seed: u64) {
    let name = sid("ab", seed);
    let shard = directory.join("ab");
    std::fs::create_dir_all(&shard).unwrap();
    let mut file = File::create(shard.join(name)).unwrap();
    file.write_all(b"{}").unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(300)).unwrap();
}

#[test]
fn what_is_well_is_told_as_well() {
    let _alone = alone();
    let redis = good();
    let mounted = Mount::start(&redis, "");
    let odoo = Odoo::plain(mounted.path().parent().unwrap());
    let found = check(&mounted.path(), &[]);
    for id in ["mount.ok", "odoo.ok", "redis.ok", "host.ok"] {
        found.has(0, id, "");
    }
    let (code, said) = run(&["check", mounted.path().to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("\nok       ") && said.contains(") sees the mount"), "{said}");
    drop(odoo);
    assert!(said.lines().all(|line| line.len() <= 100), "{said}");
    // Nothing is left of the session that was tried, but the mark of its end.
    assert_eq!(mounted.list(&mounted.path()), Vec::<String>::new());
}

#[test]
fn each_setting_of_redis_that_loses_sessions_is_told() {
    let _alone = alone();
    let redis = good();
    let mounted = Mount::start(&redis, "");
    let _odoo = Odoo::plain(mounted.path().parent().unwrap());
    for (set, back, code, id, words) in [
        (
            "maxmemory-policy allkeys-lru",
            "maxmemory-policy noeviction",
            61,
            "redis.evicts",
            "allkeys-lru",
        ),
        ("maxmemory 0", "maxmemory 64mb", 60, "redis.no-bound", "no maxmemory"),
        ("appendonly no", "appendonly yes", 60, "redis.volatile", "stores nothing"),
        ("appendfsync no", "appendfsync everysec", 60, "redis.fsync", "appendfsync no"),
    ] {
        let _: String = redis.run(&format!("CONFIG SET {set}"));
        check(&mounted.path(), &[]).has(code, id, words);
        let _: String = redis.run(&format!("CONFIG SET {back}"));
    }
    let _: String = redis.run("CONFIG SET appendonly no");
    let _: String = redis::cmd("CONFIG")
        .arg(&["SET", "save", "3600 1"])
        .query(&mut redis.connection())
        .unwrap();
    check(&mounted.path(), &[]).has(60, "redis.snapshots", "only snapshots");
    let used: u64 = {
        let info: String = redis.run("INFO memory");
        info.lines().find_map(|line| line.strip_prefix("used_memory:")?.parse().ok()).unwrap()
    };
    let _: String = redis.run("CONFIG SET appendonly yes");
    let _: String = redis.run(&format!("CONFIG SET maxmemory {}", used * 10 / 9));
    check(&mounted.path(), &[]).has(60, "redis.filling", "% of its maxmemory");
}

#[test]
fn a_redis_that_takes_no_writes_is_the_cause_and_not_the_mount() {
    let _alone = alone();
    let redis = good();
    let mounted = Mount::start(&redis, "[outage]\nwait_step = \"200ms\"\nwait_total = \"1s\"");
    let _odoo = Odoo::plain(mounted.path().parent().unwrap());
    let _: String = redis.run("CONFIG SET maxmemory 1");
    // Its save is the first that is refused, so it is kept; from then on saves fail.
    check(&mounted.path(), &[]).has(61, "redis.full", "is full");
    let found = check(&mounted.path(), &[]);
    found.has(61, "redis.full", "is full, so sessions cannot be saved: OOM command not allowed");
    found.has(61, "mount.unserved", "a session cannot be saved");
    let remedy = &found.remedies["mount.unserved"];
    assert!(remedy.starts_with("the cause is Redis: see redis.full"), "{remedy}");
    assert!(!found.remedies.contains_key("redis.unusable"));
}

#[test]
fn a_redis_that_refuses_is_told_and_one_that_says_little_is_noted() {
    let _alone = alone();
    let mut redis = good();
    let mounted = Mount::start(&redis, "");
    let _odoo = Odoo::plain(mounted.path().parent().unwrap());
    let dir = mounted.path();
    let _: String = redis.run("ACL SETUSER few on >geheim ~sessionfs:* +hello +auth +select +time");
    check(&dir, &["--redis", &redis.url_as("few", "geheim")]).has(
        61,
        "redis.rights",
        "does not allow",
    );
    check(&dir, &["--redis", &redis.url_as("few", "geheim2")]).has(
        61,
        "redis.password",
        "refuses the user",
    );
    let documented = std::fs::read_to_string("docs/redis.md").expect("the documentation");
    let line = documented.lines().find(|line| line.contains("ACL SETUSER")).expect("the ACL line");
    let _: String = redis.run(&line.trim().replace("PASSWORD", "geheim"));
    let found = check(&dir, &["--redis", &redis.url_as("sessionfs", "geheim")]);
    found.has(0, "redis.unseen", "does not show this user");
    found.has(0, "redis.ok", "serves");
    let url = redis.url();
    redis.kill();
    check(&dir, &["--redis", &url]).has(61, "redis.unreachable", "cannot reach Redis");
}

#[test]
fn whoever_gets_in_without_a_password_is_told() {
    let _alone = alone();
    let port = free_port().to_string();
    let redis = Redis::start_with(&["--appendonly", "yes", "--maxmemory", "64mb", "--port", &port]);
    let mounted = Mount::start(&redis, "");
    let _odoo = Odoo::plain(mounted.path().parent().unwrap());
    let _: String = redis.run("CONFIG SET bind 127.0.0.1");
    check(&mounted.path(), &[]).has(0, "redis.open-here", &port);
    let _: String = redis.run("CONFIG SET bind 0.0.0.0");
    let _: String = redis.run("CONFIG SET protected-mode no");
    check(&mounted.path(), &[]).has(61, "redis.open", "answers every client");
}

#[test]
fn a_mount_that_is_missing_another_or_covered_is_told() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let redis = good();
    let url = redis.url();
    let tmpfs = |path: &Path| {
        mount(Some("none"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("a tmpfs");
    };
    let off = |path: &Path| umount2(path, MntFlags::MNT_DETACH).expect("an end");
    check(dir.path(), &["--redis", &url]).has(61, "mount.missing", "nothing is mounted");
    tmpfs(dir.path());
    let found = check(dir.path(), &["--redis", &url]);
    off(dir.path());
    found.has(61, "mount.foreign", "a tmpfs filesystem is mounted on");
    let mounted = Mount::start(&redis, "");
    tmpfs(&mounted.path());
    let found = check(&mounted.path(), &[]);
    off(&mounted.path());
    found.has(61, "mount.covered", "a tmpfs filesystem is mounted over");
}

#[test]
fn a_mount_that_is_dead_or_silent_is_told_within_its_bound() {
    let _alone = alone();
    let redis = good();
    let mounted = Mount::start(&redis, "");
    let worker = Pid::from_raw(mounted.worker().try_into().unwrap());
    let (keeper, _) = sessionfs::keeper::serving(&mounted.path()).expect("a keeper");
    let keeper = Pid::from_raw(keeper);
    // The keeper would replace a worker that does not answer.
    kill(keeper, Signal::SIGSTOP).unwrap();
    kill(worker, Signal::SIGSTOP).unwrap();
    let found = check(&mounted.path(), &[]);
    found.has(61, "mount.silent", "does not answer within 5 s");
    found.has(61, "redis.ok", "serves");
    kill(worker, Signal::SIGCONT).unwrap();
    kill(keeper, Signal::SIGKILL).unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while nix::sys::statfs::statfs(&mounted.path()).err() != Some(nix::Error::ENOTCONN) {
        assert!(Instant::now() < until, "the worker does not end with its keeper");
        std::thread::yield_now();
    }
    let found = check(&mounted.path(), &["--redis", &redis.url()]);
    found.has(61, "mount.dead", "the process that served it does not exist any more");
    found.has(61, "mount.keeper", "has no keeper");
}

#[test]
fn an_odoo_that_does_not_see_the_mount_is_told_with_what_it_writes() {
    let _alone = alone();
    let redis = good();
    let mounted = Mount::start(&redis, "");
    let data_dir = mounted.path().parent().unwrap().to_owned();
    let dir = mounted.path();
    let below = tempfile::tempdir().unwrap();
    plain_file(below.path(), 1);
    let before = format!(
        "umount {0}; chmod 777 {0}; cp -a {1}/ab {0}/",
        dir.display(),
        below.path().display()
    );
    let odoo = Odoo::apart(&data_dir, &before);
    let found = check(&dir, &[]);
    found.has(61, "odoo.blind", &format!("Odoo (pid {}) does not see the mount", odoo.0.id()));
    found.has(
        61,
        "files.underlying-written",
        "1 session file was written to the underlying directory",
    );
    found.has(61, "files.unguarded", "mode 0777");
    drop(odoo);
    // Without a new one it is the same; with one it is of before.
    let odoo = Odoo::apart(&data_dir, "true");
    check(&dir, &[]).has(61, "odoo.ok", "sees the mount");
    drop(odoo);
}

#[test]
fn an_odoo_that_kept_an_ended_mount_is_told() {
    let _alone = alone();
    let redis = good();
    let first = Mount::start(&redis, "");
    // Its namespace keeps the first mount, at the place of the second.
    let second = Mount::start(&redis, "");
    let before = format!(
        "umount {0}; mount --bind {1} {0}",
        second.path().display(),
        first.path().display()
    );
    let _odoo = Odoo::apart(second.path().parent().unwrap(), &before);
    drop(first);
    check(&second.path(), &[]).has(61, "odoo.stale", "that has ended");
}

#[test]
fn an_odoo_with_another_directory_user_or_module_is_told() {
    let _alone = alone();
    let redis = good();
    let mounted = Mount::start(&redis, "[activity]\nrequests = \"off\"\n");
    let old = tempfile::tempdir().unwrap();
    plain_file(&old.path().join("sessions"), 2);
    let odoo = Odoo::plain(old.path());
    let found = check(&mounted.path(), &[]);
    found.has(61, "odoo.elsewhere", old.path().to_str().unwrap());
    found.has(61, "files.fresh", "1 session file was written");
    drop(odoo);
    let mut other = Command::new("env");
    other.uid(65534).gid(65534);
    let odoo = Odoo::start(other, mounted.path().parent().unwrap(), &[]);
    check(&mounted.path(), &[]).has(61, "odoo.owner", "belongs to root (0)");
    drop(odoo);
    let more = ["--load", "base,web,session_redis", "--workers", "0"];
    let odoo = Odoo::start(Command::new("env"), mounted.path().parent().unwrap(), &more);
    let found = check(&mounted.path(), &[]);
    found.has(61, "odoo.module", "session_redis");
    found.has(61, "odoo.workers", "no workers");
    // Where requests are seen it does not matter.
    let configuration = std::fs::read_to_string(mounted.configuration()).unwrap();
    std::fs::write(mounted.configuration(), configuration.replace("\"off\"", "\"auto\"")).unwrap();
    assert_eq!(mounted.command("reload").0, Some(0), "{}", mounted.log());
    let found = check(&mounted.path(), &[]);
    found.has(61, "activity.ok", "are told from a person's");
    assert!(!found.findings.iter().any(|(id, _)| id == "odoo.workers"));
    drop(odoo);
    // Of an Odoo that was not there when ports were looked for, they are not, until that is done again.
    let more = ["--workers", "0", "-p", "8123"];
    let odoo = Odoo::start(Command::new("env"), mounted.path().parent().unwrap(), &more);
    let found = check(&mounted.path(), &[]);
    found.has(60, "activity.ports", &format!("Odoo (pid {}) on port 8123", odoo.0.id()));
    found.has(60, "odoo.workers", "no workers");
    assert_eq!(mounted.command("reload").0, Some(0), "{}", mounted.log());
    let found = check(&mounted.path(), &[]);
    found.has(0, "activity.ok", "8123");
    drop(odoo);
}

#[test]
fn the_sessions_of_another_running_odoo_are_left_to_it() {
    let _alone = alone();
    let redis = good();
    let mounted = Mount::start(&redis, "");
    let _ours = Odoo::plain(mounted.path().parent().unwrap());
    let other = tempfile::tempdir().unwrap();
    let sessions = other.path().join("sessions");
    plain_file(&sessions, 3);
    let odoo = Odoo::plain(other.path());
    let found = check(&mounted.path(), &[]);
    found.has(0, "odoo.other", &format!("Odoo (pid {}) keeps its sessions in", odoo.0.id()));
    assert!(!found.findings.iter().any(|(id, _)| id == "files.left"), "{:#?}", found.findings);
    for more in [&[][..], &["--dry-run"]] {
        let from = ["import", "--redis", &redis.url(), "--from", sessions.to_str().unwrap()];
        let output = Command::new(env!("CARGO_BIN_EXE_sessionfs"))
            .args(from)
            .args(more)
            .output()
            .expect("sessionfs runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(59), "{said}");
        assert!(said.contains(&format!("Odoo (pid {}) uses it", odoo.0.id())), "{said}");
        assert!(said.contains("sessionfs-setup --instance NAME"), "{said}");
    }
    assert_eq!(std::fs::read_dir(sessions.join("ab")).unwrap().count(), 1);
    // Once that Odoo has ended, they may be of before.
    drop(odoo);
    let (code, said) = run(&[
        "import",
        "--redis",
        &redis.url(),
        "--from",
        sessions.to_str().unwrap(),
        "--dry-run",
    ]);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn two_mounts_with_an_odoo_each_are_each_told_as_well() {
    let _alone = alone();
    let redis = good();
    let (one, two) = (Mount::start(&redis, ""), Mount::start(&redis, ""));
    let _odoos = [&one, &two].map(|mount| Odoo::plain(mount.path().parent().unwrap()));
    for mount in [&one, &two] {
        let found = check(&mount.path(), &[]);
        found.has(0, "odoo.ok", "1 process in all");
    }
    // A directory that neither uses.
    let neither = tempfile::tempdir().unwrap();
    let missing = neither.path().join("sessions");
    let found = check(&missing, &["--redis", &redis.url()]);
    found.has(61, "mount.missing", "does not exist");
    found.has(61, "odoo.unused", "where sessionfs is also mounted");

    // Without a directory all are looked at. Others may have mounts on this host.
    let script = "findmnt -nlt fuse.sessionfs -o TARGET | while read -r at; do \
                  [ \"$at\" = \"$1\" ] || [ \"$at\" = \"$2\" ] || umount -l \"$at\"; done; \
                  shift 2; exec \"$0\" check \"$@\"";
    let all = |more: &[&str]| {
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(env!("CARGO_BIN_EXE_sessionfs"))
            .args([one.path(), two.path()])
            .args(more)
            .output()
            .expect("unshare runs");
        let said = String::from_utf8(output.stdout).expect("UTF-8");
        (output.status.code(), said, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said, errors) = all(&["--json"]);
    assert_eq!(code, Some(0), "{said}{errors}");
    let report: Value = serde_json::from_str(&said).expect("JSON");
    for mount in [&one, &two] {
        let path = mount.path();
        let ours: Vec<&str> = report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|finding| finding["directory"] == path.to_str().unwrap())
            .map(|finding| finding["id"].as_str().unwrap())
            .collect();
        assert!(ours.contains(&"mount.ok") && ours.contains(&"odoo.ok"), "{report:#}");
    }
    // This host's state is told once.
    assert_eq!(said.matches("host.ok").count(), 1, "{said}");
    let (_, said, _) = all(&[]);
    assert!(said.contains(&format!("{}\n", one.path().display())), "{said}");
    assert_eq!(all(&["--quiet"]), (Some(0), String::new(), String::new()));
    let _: String = redis.run("CONFIG SET maxmemory 0");
    let (code, said, errors) = all(&["--quiet"]);
    assert_eq!(code, Some(60), "{said}{errors}");
    assert!(said.contains("[redis.no-bound]") && !said.contains("ok       "), "{said}");
    assert!(errors.contains(": 0 errors, 1 warning\n"), "{errors}");
}

#[test]
fn in_an_outage_redis_is_named_first_and_no_restart_is_advised() {
    let _alone = alone();
    let mut redis = good();
    let mounted = Mount::start(&redis, "");
    redis.kill();
    let (code, said) = run(&["check", mounted.path().to_str().unwrap()]);
    assert_eq!(code, 61, "{said}");
    assert!(said.starts_with("error    cannot reach Redis"), "{said}");
    assert!(
        said.contains("[mount.silent]")
            && said.contains("the cause is Redis: see redis.unreachable"),
        "{said}"
    );
    assert!(!said.contains("systemctl restart"), "{said}");
    redis.restart();
}

#[test]
fn a_named_configuration_file_that_leads_elsewhere_is_noted() {
    let _alone = alone();
    let redis = good();
    let mounted = Mount::start(&redis, "");
    let _odoo = Odoo::plain(mounted.path().parent().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("odoo.conf");
    std::fs::write(&file, "[options]\ndata_dir = /srv/other\nadmin_passwd = geheim\n").unwrap();
    let named = ["--odoo-conf", file.to_str().unwrap()];
    check(&mounted.path(), &named).has(0, "odoo.other-conf", "sessions in /srv/other/sessions");
    std::fs::write(&file, "admin_passwd = geheim\n").unwrap();
    check(&mounted.path(), &named).has(60, "odoo.conf", "no section [options]");
}

#[test]
fn a_configuration_that_cannot_be_used_is_told() {
    let _alone = alone();
    let redis = good();
    let mounted = Mount::start(&redis, "");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sessionfs.toml");
    std::fs::write(&file, "[worker]\nuser = \"nobody-at-all\"\n").unwrap();
    let named = ["--config", file.to_str().unwrap(), "--redis", &redis.url()];
    check(&mounted.path(), &named).has(61, "config.unusable", "no user 'nobody-at-all'");
}

#[test]
fn who_is_not_root_is_told_what_cannot_be_seen() {
    let _alone = alone();
    let redis = good();
    let mounted = Mount::start(&redis, "");
    let program = tempfile::tempdir().unwrap();
    std::fs::set_permissions(program.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let copy = program.path().join("sessionfs");
    std::fs::copy(env!("CARGO_BIN_EXE_sessionfs"), &copy).unwrap();
    let mut child = Command::new(&copy)
        .arg("check")
        .arg(mounted.path())
        .args(["--redis", &redis.url()])
        .uid(65534)
        .gid(65534)
        .stdout(Stdio::piped())
        .spawn()
        .expect("sessionfs runs");
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
    for id in ["[check.not-root]", "[files.unseen]"] {
        assert!(said.contains(id), "{said}");
    }
}

#[test]
fn discover_names_the_mounted_directory_of_a_running_odoo_once() {
    let _alone = alone();
    let redis = good();
    let mounted = Mount::start(&redis, "");
    let link = tempfile::tempdir().unwrap();
    symlink(mounted.path().parent().unwrap(), link.path().join("data")).unwrap();
    let _one = Odoo::plain(mounted.path().parent().unwrap());
    let _two = Odoo::plain(&link.path().join("data"));
    let (code, said) = run(&["discover", "--json"]);
    assert_eq!(code, 0);
    let found: Vec<Value> = serde_json::from_str(&said).expect("JSON");
    let path = mounted.path();
    let ours: Vec<_> = found.iter().filter(|it| it["path"] == path.to_str().unwrap()).collect();
    assert_eq!(ours.len(), 1, "{said}");
    assert_eq!((&ours[0]["mounted"], &ours[0]["exists"]), (&true.into(), &true.into()));
    assert_eq!((&ours[0]["owner"], &ours[0]["group"]), (&"root".into(), &"root".into()));
    assert!(ours[0]["source"].as_str().unwrap().starts_with("Odoo runs (pid "), "{said}");
    let (code, said) = run(&["discover"]);
    assert_eq!(code, 0);
    assert!(said.starts_with("DIRECTORY") && said.contains("mounted"), "{said}");
}
