//! The secret of a cluster: who makes it, who is refused without it, and how it is changed while
//! people are logged in.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sessionfs::redis::envelope::Header;
use sessionfs::session::name::Sid;
use sessionfs::session::seal::seal;
use sessionfs::session::secret::{Keyring, Secret};
use support::mount::{Mount, authenticated, errno, in_thread, sid};
use support::redis::Redis;

/// The documented exit code.
const REFUSED: Option<i32> = Some(37);
const WITHIN: Duration = Duration::from_secs(30);
/// So that an outage is over soon.
const IMPATIENT: &str = "[outage]\nwait_step = \"100ms\"\nwait_total = \"200ms\"\n";

/// A server's own file of secrets.
struct Server {
    directory: tempfile::TempDir,
}

impl Server {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("sessionfs.toml"), "").unwrap();
        Self { directory }
    }

    /// One that says nothing, whatever this machine has.
    fn configuration(&self) -> PathBuf {
        self.directory.path().join("sessionfs.toml")
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("state/secret")
    }

    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
        command.env("SESSIONFS_SECRET_FILE", self.file());
        command
    }

    fn mount(&self, redis: &Redis) -> Mount {
        Mount::start_in(redis, IMPATIENT, self.program())
    }

    /// `sessionfs secret` with this standard input: exit code, standard output, standard error.
    fn secret(&self, redis: &Redis, words: &[&str], input: &str) -> (Option<i32>, String, String) {
        let mut child = self
            .program()
            .arg("secret")
            .args(words)
            .args(["--redis", &redis.url(), "--config"])
            .arg(self.configuration())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may have read enough before the end.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    #[track_caller]
    fn secret_ok(&self, redis: &Redis, words: &[&str], input: &str) -> String {
        let (code, out, error) = self.secret(redis, words, input);
        assert_eq!(code, Some(0), "{words:?}: {out}{error}");
        out
    }

    /// The lines of the file that are secrets.
    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.file()).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(ToOwned::to_owned).collect()
    }

    /// The fingerprints, in the order of the file.
    fn held(&self, redis: &Redis) -> Vec<String> {
        // Refused where Redis is written with another one, and told all the same.
        let (_, shown, _) = self.secret(redis, &["show", "--json"], "");
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let held = shown["held"].as_array().unwrap();
        held.iter().map(|one| one.as_str().unwrap().to_owned()).collect()
    }
}

fn written(redis: &Redis) -> Option<String> {
    redis.run("GET sessionfs:secret")
}

#[track_caller]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a mount that must not start says.
fn refusal(server: &Server, redis: &Redis) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let output = server
        .program()
        .args(["mount", "--owner", "root", "--group", "root", "--redis", &redis.url(), "--config"])
        .arg(server.configuration())
        .arg(directory.path())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_first_server_makes_the_secret_and_a_further_one_needs_it() {
    let redis = Redis::start();
    let (first, second) = (Server::new(), Server::new());
    let one = first.mount(&redis);
    assert_eq!(first.file().metadata().unwrap().mode() & 0o7777, 0o600);
    assert_eq!(first.lines().len(), 1);
    let made = first.held(&redis).remove(0);
    assert_eq!(written(&redis), Some(made.clone()));
    assert!(one.log().contains("secret_made") && one.log().contains(&made), "{}", one.log());
    one.save(&sid("ab", 1), &authenticated("x")).unwrap();

    // Without a file, and with a secret of its own.
    let (code, why) = refusal(&second, &redis);
    assert_eq!(code, REFUSED, "{why}");
    assert!(why.contains("secret import"), "{why}");
    assert!(!second.file().exists());
    // A new one is of no use for a Redis that is written with another.
    let (code, _, why) = second.secret(&redis, &["create"], "");
    assert_eq!(code, REFUSED, "{why}");
    assert!(why.contains(&made) && !second.file().exists(), "{why}");
    second.secret_ok(&redis, &["create", "--force"], "");
    let (code, why) = refusal(&second, &redis);
    assert_eq!(code, REFUSED, "{why}");
    assert!(why.contains(&made) && why.contains("secret import"), "{why}");
    assert_eq!(written(&redis), Some(made));

    let exported = first.secret_ok(&redis, &["export"], "");
    second.secret_ok(&redis, &["import"], &exported);
    let two = second.mount(&redis);
    assert_eq!(two.read(&sid("ab", 1)).unwrap(), authenticated("x"));

    // No secret is anywhere but in the files.
    let dump = redis.dump();
    for line in second.lines() {
        for text in [one.log(), two.log(), String::from_utf8_lossy(&dump).into_owned()] {
            assert!(!text.contains(&line));
        }
    }
}

#[test]
fn a_file_that_others_can_read_is_refused_with_the_remedy() {
    let (redis, server) = (Redis::start(), Server::new());
    server.secret_ok(&redis, &["create"], "");
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(server.file(), readable).unwrap();
    let (code, why) = refusal(&server, &redis);
    assert_eq!(code, REFUSED, "{why}");
    assert!(why.contains("chmod 0600"), "{why}");
    assert_eq!(written(&redis), None);
}

#[test]
fn what_a_flush_has_taken_is_put_back() {
    let (redis, server) = (Redis::start(), Server::new());
    let _mount = server.mount(&redis);
    let made = written(&redis);
    assert!(made.is_some());
    let _: () = redis.run("FLUSHALL");
    until("the fingerprint is back", || written(&redis) == made);
}

/// The name leads to another Redis, or somebody has switched to a secret that this server lacks.
#[test]
fn a_server_that_lacks_the_secret_later_reads_and_writes_nothing_until_it_has_it() {
    let redis = Redis::start();
    let (server, other) = (Server::new(), Server::new());
    let mount = server.mount(&redis);
    let (sid, fresh) = (sid("ab", 1), sid("ab", 2));
    mount.save(&sid, &authenticated("x")).unwrap();
    other.secret_ok(&Redis::start(), &["create"], "");
    let lacking = other.held(&redis).remove(0);
    let before = redis.session_keys();
    let _: () = redis.run(&format!("SET sessionfs:secret {lacking}"));
    mount.wait_for_log(&format!("written with the secret {lacking}"));

    until("an error", || in_thread(|| mount.read(&sid)).is_err());
    for _ in 0..5 {
        assert_eq!(errno(in_thread(|| mount.read(&sid))), libc::EIO);
        assert_eq!(errno(in_thread(|| mount.read(&fresh))), libc::EIO);
        assert!(in_thread(|| mount.save(&fresh, &authenticated("y"))).is_err());
    }
    assert_eq!(redis.session_keys(), before);
    let (status, words) = mount.command("status");
    assert_eq!(status, Some(43), "{words}");
    assert!(words.contains(&lacking), "{words}");
    // Nothing is put in the place of what others have written.
    assert_eq!(written(&redis), Some(lacking));

    let exported = other.secret_ok(&redis, &["export"], "");
    server.secret_ok(&redis, &["import"], &exported);
    until("it goes on", || in_thread(|| mount.read(&sid)).is_ok());
    assert_eq!(mount.read(&sid).unwrap(), authenticated("x"));
    mount.save(&fresh, &authenticated("y")).unwrap();
}

/// The file was lost, and somebody has made another one.
#[test]
fn a_server_goes_on_with_the_secret_that_is_written_with_whatever_becomes_of_its_file() {
    let redis = Redis::start();
    let (server, other) = (Server::new(), Server::new());
    let mount = server.mount(&redis);
    let sid = sid("ab", 1);
    mount.save(&sid, &authenticated("x")).unwrap();
    let made = written(&redis).unwrap();
    std::fs::remove_file(server.file()).unwrap();
    other.secret_ok(&Redis::start(), &["create"], "");
    std::fs::copy(other.file(), server.file()).unwrap();
    mount.wait_for_log(&format!("does not hold {made} any more"));
    assert_eq!(in_thread(|| mount.read(&sid)).unwrap(), authenticated("x"));
    // A Redis that has lost its data is not taken over with the other one.
    let _: () = redis.run("FLUSHALL");
    until("it says with which it writes", || written(&redis).is_some());
    assert_eq!(written(&redis), Some(made));
}

#[test]
fn a_secret_is_changed_while_people_are_logged_in() {
    let redis = Redis::start();
    let (first, second) = (Server::new(), Server::new());
    let one = first.mount(&redis);
    second.secret_ok(&redis, &["import"], &first.secret_ok(&redis, &["export"], ""));
    let two = second.mount(&redis);
    let sid = sid("ab", 1);
    one.save(&sid, &authenticated("old")).unwrap();

    first.secret_ok(&redis, &["create"], "");
    let [old, new]: [String; 2] = first.held(&redis).try_into().unwrap();
    // The second server does not hold it.
    let (code, _, why) = second.secret(&redis, &["use", &new], "");
    assert_eq!(code, REFUSED, "{why}");
    until("the first server says what it holds", || {
        first.secret_ok(&redis, &["show", "--json"], "").matches(&new).count() == 2
    });
    let (code, _, why) = first.secret(&redis, &["use", &new], "");
    assert_eq!(code, REFUSED, "{why}");
    assert!(why.contains("does not hold"), "{why}");
    assert_eq!(written(&redis), Some(old.clone()));

    second.secret_ok(&redis, &["import"], &first.secret_ok(&redis, &["export"], ""));
    until("both may write with it", || {
        assert_eq!(two.read(&sid).unwrap(), authenticated("old"));
        first.secret(&redis, &["use", &new[..6]], "").0 == Some(0)
    });
    assert_eq!(written(&redis), Some(new.clone()));
    for (mount, other) in [(&one, &two), (&two, &one)] {
        mount.wait_for_log("written with another secret");
        assert_eq!(in_thread(|| other.read(&sid)).unwrap(), authenticated("old"));
    }
    // Both orders of servers, before and after.
    two.save_in_request(&sid, &authenticated("new")).unwrap();
    assert_eq!(one.read(&sid).unwrap(), authenticated("new"));

    // What is written with cannot be removed, and what is not can.
    let (code, _, why) = first.secret(&redis, &["remove", &new], "");
    assert_eq!(code, REFUSED, "{why}");
    for server in [&first, &second] {
        server.secret_ok(&redis, &["remove", &old], "");
        assert_eq!(server.held(&redis), std::slice::from_ref(&new));
    }
    until("the servers have forgotten it", || {
        !first.secret_ok(&redis, &["show", "--json"], "").contains(&old)
    });
    assert_eq!(one.read(&sid).unwrap(), authenticated("new"));
    assert_eq!(two.read(&sid).unwrap(), authenticated("new"));
}

#[test]
fn who_can_write_redis_and_has_no_secret_plants_nothing() {
    let (redis, server) = (Redis::start(), Server::new());
    let mount = server.mount(&redis);
    let sid = sid("ab", 1);
    mount.save(&sid, &authenticated("mine")).unwrap();
    // The thief has the cookie, the header and the program, and not the secret.
    let name = Sid::parse(&sid).unwrap();
    let key = format!("sessionfs:s:{{ab}}:{}", name.alias());
    let value: Vec<u8> = redis.run(&format!("GET {key}"));
    let (header, at) = Header::parse(&value).unwrap();
    let thiefs = Keyring::new(vec![Secret::generate()]).unwrap();
    let forged = seal(&thiefs, &name, &header.bound(&name.alias()), &authenticated("forged"));
    let set = |value: &[u8]| {
        let mut command = redis::cmd("SET");
        command.arg(&key).arg(value).arg("KEEPTTL");
        command.query::<()>(&mut redis.connection()).unwrap();
    };
    set(&[&value[..at], &forged[..]].concat());
    assert_eq!(errno(in_thread(|| mount.read(&sid))), libc::EIO);
    set(&value);
    assert_eq!(in_thread(|| mount.read(&sid)).unwrap(), authenticated("mine"));
}

#[test]
fn what_is_no_secret_is_not_imported() {
    let (redis, server) = (Redis::start(), Server::new());
    server.secret_ok(&redis, &["create"], "");
    let before = server.lines();
    let long = "x".repeat(1 << 20);
    for input in ["", "hello\n", &before[0][1..], &long] {
        let (code, out, why) = server.secret(&redis, &["import"], input);
        assert_eq!(code, REFUSED, "{out}{why}");
        assert!(input.is_empty() || !why.contains(input), "{why}");
        assert_eq!(server.lines(), before);
    }
    // What is there already is no second one.
    server.secret_ok(&redis, &["import"], &before[0]);
    assert_eq!(server.lines(), before);
    let (code, _, why) = server.secret(&redis, &["remove", &server.held(&redis)[0], "--force"], "");
    assert_eq!(code, REFUSED, "{why}");
    assert_eq!(server.lines(), before);
}

#[test]
fn a_link_in_the_place_of_the_file_leads_nowhere() {
    let (redis, server) = (Redis::start(), Server::new());
    let victim = server.directory.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    std::fs::create_dir(server.file().parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&victim, server.file()).unwrap();
    for words in [&["create"] as &[&str], &["show"]] {
        let (code, out, why) = server.secret(&redis, words, "");
        assert_eq!(code, REFUSED, "{out}{why}");
        assert!(!why.contains("precious"), "{why}");
    }
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
}

/// What `check` says of the secret, and what it advises where nothing is mounted.
fn checked(mut check: Command, arguments: &[&str]) -> (Option<String>, Option<String>) {
    let output = check.args(["check", "--json"]).args(arguments).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let find = |id: &str, key: &str| {
        let mut findings = report["findings"].as_array().unwrap().iter();
        let found = findings.find(|finding| finding["id"] == id)?;
        Some(found[key].as_str().unwrap().to_owned())
    };
    (find("redis.secret", "what"), find("mount.missing", "remedy"))
}

#[test]
fn check_says_that_the_file_is_lost_while_a_server_runs_and_after_it() {
    let redis = Redis::start();
    let server = Server::new();
    let mount = Mount::start_in(&redis, "", server.program());
    let made = server.held(&redis).remove(0);
    // The file is the one of the server that runs, whatever the environment of check.
    let path = mount.path();
    let directory = path.to_str().unwrap();
    let plain = || Command::new(env!("CARGO_BIN_EXE_sessionfs"));
    assert_eq!(checked(plain(), &[directory]).0, None);
    std::fs::remove_file(server.file()).unwrap();
    let (lost, _) = checked(plain(), &[directory]);
    assert!(lost.as_ref().is_some_and(|what| what.contains(&made)), "{lost:?}");

    drop(mount);
    let empty = tempfile::tempdir().unwrap();
    let (url, configuration) = (redis.url(), server.configuration());
    let (directory, file) = (empty.path().to_str().unwrap(), configuration.to_str().unwrap());
    let (lost, remedy) = checked(server.program(), &[directory, "--redis", &url, "--config", file]);
    assert!(lost.as_ref().is_some_and(|what| what.contains(&made)), "{lost:?}");
    assert!(remedy.as_ref().is_some_and(|it| it.starts_with("correct redis.secret")), "{remedy:?}");
}
