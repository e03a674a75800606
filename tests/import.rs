//! Session files that were there before: nobody is logged out by the mount, nor by the way back.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use support::mount::{Mount, alias, anonymous, authenticated, errno, in_thread, sid};
use support::redis::Redis;

/// 40 hex digits: Odoo 14 to 17.
const HEX: &str = "ab0123456789012345678901234567890123456f";
const OTHER_HEX: &str = "cd0123456789012345678901234567890123456f";
const ROOT: (&str, &str) = ("root", "root");

const IMPORT_INCOMPLETE: i32 = 56;
const MIRROR_REFUSED: i32 = 57;

/// Neither root nor the tree's owner.
const STRANGER: u32 = 12_345;

/// What Odoo 17 writes.
fn pickled() -> Vec<u8> {
    std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/sessions/authenticated-fresh.5.pickle"),
    )
    .unwrap()
}

fn sharded(sid: &str) -> String {
    format!("{}/{sid}", &sid[..2])
}

fn flat(sid: &str) -> String {
    format!("werkzeug_{sid}.sess")
}

/// A session file of an hour ago, as Odoo leaves it.
fn put(dir: &Path, name: &str, content: &[u8]) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(an_hour_ago()).unwrap();
}

/// To the nanosecond the same at every call.
fn an_hour_ago() -> SystemTime {
    static AT: std::sync::OnceLock<SystemTime> = std::sync::OnceLock::new();
    *AT.get_or_init(|| SystemTime::now() - Duration::from_secs(3600))
}

/// The files below a directory, by their path in it.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(next) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn beside(dir: &Path) -> PathBuf {
    PathBuf::from(format!("{}.imported", dir.display()))
}

fn start_import(redis: &Redis, dir: &Path, arguments: &[&str]) -> Command {
    for shared in [redis.directory(), &redis.socket()] {
        std::fs::set_permissions(shared, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let configuration = redis.directory().join("import.toml");
    std::fs::write(&configuration, "[limits]\nsession = \"64KiB\"\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
    command
        .arg("import")
        .arg(dir)
        .args(["--redis", &redis.url()])
        .arg("--config")
        .arg(configuration)
        .args(arguments);
    command
}

/// Runs the import; what it prints holds no session id.
fn import(redis: &Redis, dir: &Path, arguments: &[&str]) -> Output {
    let output = start_import(redis, dir, arguments).output().unwrap();
    for text in [&output.stdout, &output.stderr] {
        assert_secret(&String::from_utf8_lossy(text));
    }
    output
}

/// The import's result as JSON.
#[track_caller]
fn imported(redis: &Redis, dir: &Path, arguments: &[&str]) -> serde_json::Value {
    let output = import(redis, dir, &[&["--json"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// No session id of these tests is in it.
#[track_caller]
fn assert_secret(text: &str) {
    let long = (0..20).map(|seed| sid("ab", seed));
    for sid in long.chain([HEX.to_owned(), OTHER_HEX.to_owned()]) {
        assert!(!text.contains(&sid), "a session id in: {text}");
    }
}

#[test]
fn whoever_was_logged_in_stays_so_from_the_first_moment() {
    let redis = Redis::start();
    let json = sid("ab", 1);
    let mount = Mount::start_over(&redis, "", ROOT, |dir| {
        put(dir, &sharded(&json), &authenticated("json"));
        put(dir, &sharded(HEX), &pickled());
        put(dir, &flat(OTHER_HEX), &pickled());
        put(dir, "tmpabcdefgh.__wz_sess", b"{");
    });
    assert_eq!(mount.read(&json).unwrap(), authenticated("json"));
    assert_eq!(mount.read(HEX).unwrap(), pickled());
    assert_eq!(in_thread(|| std::fs::read(mount.flat(OTHER_HEX)).unwrap()), pickled());
    assert_eq!(std::fs::metadata(mount.sharded(&json)).unwrap().modified().unwrap(), an_hour_ago());
    assert_eq!(errno(mount.read(&sid("ab", 2))), libc::ENOENT);
    mount.wait_for_log("all session files of the underlying directory have been imported");
    // In a request that has read it, a save goes on with that session.
    in_thread(|| mount.save_in_request(&json, &authenticated("saved"))).unwrap();
    assert_eq!(mount.read(&json).unwrap(), authenticated("saved"));
    let dir = mount.path();
    let moved = [sharded(HEX), sharded(&json), flat(OTHER_HEX)];
    assert_eq!(files(&beside(&dir)), moved);
    assert_eq!(std::fs::metadata(beside(&dir)).unwrap().mode() & 0o777, 0o700);
    let log = mount.stop();
    assert_secret(&log);
}

#[test]
fn a_session_that_ended_before_its_import_does_not_come_back() {
    let redis = Redis::start();
    let user = sid("ab", 1);
    let fill = |dir: &Path| put(dir, &sharded(&user), &authenticated("x"));
    let mount = Mount::start_over(&redis, "", ROOT, fill);
    mount.unlink(&user).unwrap();
    assert_eq!(errno(mount.read(&user)), libc::ENOENT);
    // Whatever brings the file back: its name is known to have ended.
    let copy = tempfile::tempdir().unwrap();
    fill(copy.path());
    let summary = imported(&redis, copy.path(), &[]);
    assert_eq!((&summary["kept"], &summary["authenticated"]), (&1.into(), &0.into()));
    assert_eq!(errno(mount.read(&user)), libc::ENOENT);
    assert_eq!(errno(mount.save(&user, &authenticated("again"))), libc::EACCES);
}

/// Redis stalls for longer than one attempt may take, and goes on before the operations give up. On a
/// busy machine they may fail; then nothing is promised, and the next sessions are tried.
#[test]
fn what_waits_for_redis_together_with_its_import_takes_effect() {
    const STALL: Duration = Duration::from_millis(650);
    let mut redis = Redis::start();
    let rounds = [1, 2, 3, 4].map(|round| (sid("ab", round), sid("cd", round)));
    let mount = Mount::start_over(&redis, "", ROOT, |dir| {
        for (ended, saved) in &rounds {
            put(dir, &sharded(ended), &authenticated("old"));
            put(dir, &sharded(saved), &authenticated("old"));
        }
    });
    let mut counted = [0, 0];
    for (ended, saved) in &rounds {
        redis.pause();
        let (unlinked, published) = std::thread::scope(|scope| {
            let unlink = scope.spawn(|| mount.unlink(ended));
            let save = scope.spawn(|| mount.save(saved, &authenticated("new")));
            std::thread::sleep(STALL);
            redis.resume();
            (unlink.join().unwrap(), save.join().unwrap())
        });
        if unlinked.is_ok() {
            counted[0] += 1;
            assert_eq!(errno(in_thread(|| mount.read(ended))), libc::ENOENT);
        }
        if published.is_ok() {
            counted[1] += 1;
            assert_eq!(in_thread(|| mount.read(saved)).unwrap(), authenticated("new"));
        }
    }
    assert!(counted.iter().all(|count| *count > 0), "all have failed: {counted:?}");
    mount.stop();
}

#[test]
fn a_listing_shows_what_nobody_has_asked_for_yet() {
    let redis = Redis::start();
    let device: Vec<String> = (1..4).map(|seed| sid("ab", seed)).collect();
    let mount = Mount::start_over(&redis, "", ROOT, |dir| {
        for sid in &device {
            put(dir, &sharded(sid), &authenticated("x"));
        }
        put(dir, &flat(OTHER_HEX), &pickled());
    });
    let shown = alias(OTHER_HEX);
    assert_eq!(mount.list(&mount.path()), ["ab".to_owned(), flat(&shown)]);
    let mut aliases: Vec<String> = device.iter().map(|sid| alias(sid)).collect();
    aliases.sort();
    assert_eq!(mount.list(&mount.path().join("ab")), aliases);
    // The revocation of a device unlinks what its listing shows.
    in_thread(|| {
        mount.list(&mount.path().join("ab"));
        std::fs::remove_file(mount.path().join("ab").join(&aliases[0])).unwrap();
    });
    assert_eq!(mount.list(&mount.path().join("ab")).len(), 2);
}

#[test]
fn the_later_of_a_sessions_two_files_counts() {
    let redis = Redis::start();
    let mount = Mount::start_over(&redis, "", ROOT, |dir| {
        put(dir, &flat(HEX), &pickled());
        std::fs::create_dir(dir.join("ab")).unwrap();
        std::fs::write(dir.join(sharded(HEX)), authenticated("later")).unwrap();
    });
    assert_eq!(mount.read(HEX).unwrap(), authenticated("later"));
    assert_eq!(files(&beside(&mount.path())), [sharded(HEX), flat(HEX)]);
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_and_then_absent() {
    let redis = Redis::start();
    let user = sid("ab", 1);
    let mount = Mount::start_over(&redis, "", ROOT, |dir| {
        put(dir, &sharded(&user), &authenticated("x"));
        // What is not the tree's owner's is not read.
        std::os::unix::fs::chown(dir.join(sharded(&user)), Some(STRANGER), None).unwrap();
    });
    // The error reaches who would save now, or Odoo 14 would give a new cookie.
    in_thread(|| {
        assert_eq!(errno(mount.read(&user)), libc::EIO);
        assert_eq!(errno(mount.stage(b"anonymous")), libc::EIO);
    });
    for expected in [libc::EIO, libc::ENOENT, libc::ENOENT] {
        assert_eq!(errno(mount.read(&user)), expected);
    }
    let log = mount.log();
    assert_eq!(log.matches("a session file cannot be read or moved").count(), 1, "{log}");
    assert!(log.contains(&alias(&user)));
    let dir = mount.path();
    mount.stop_and(|| assert_eq!(files(&dir), [sharded(&user)]));
}

#[test]
fn a_backup_of_hard_links_is_no_hindrance() {
    let redis = Redis::start();
    let user = sid("ab", 1);
    let backup = tempfile::tempdir().unwrap();
    let mount = Mount::start_over(&redis, "", ROOT, |dir| {
        put(dir, &sharded(&user), &authenticated("x"));
        std::fs::hard_link(dir.join(sharded(&user)), backup.path().join("link")).unwrap();
    });
    assert_eq!(mount.read(&user).unwrap(), authenticated("x"));
}

#[test]
fn a_removal_is_not_refused_for_want_of_memory() {
    let redis = Redis::start();
    let user = sid("ab", 1);
    let mount = Mount::start_over(&redis, "", ROOT, |dir| {
        put(dir, &sharded(&user), &authenticated("x"));
    });
    let _: redis::Value = redis.run("CONFIG SET maxmemory 1");
    std::fs::remove_file(mount.path().join(sharded(&user))).unwrap();
    let _: redis::Value = redis.run("CONFIG SET maxmemory 0");
    assert_eq!(errno(mount.read(&user)), libc::ENOENT);
    let dir = mount.path();
    mount.stop_and(|| assert_eq!(files(&dir), [""; 0]));
}

#[test]
fn a_file_that_cannot_be_taken_away_is_told_and_its_session_goes_on() {
    let redis = Redis::start();
    let user = sid("ab", 1);
    let mount = Mount::start_over(&redis, "", ROOT, |dir| {
        put(dir, &sharded(&user), &authenticated("x"));
        // Where it should go another thing stands in the way.
        std::fs::create_dir(beside(dir)).unwrap();
        std::fs::set_permissions(beside(dir), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::write(beside(dir).join("ab"), "").unwrap();
    });
    assert_eq!(mount.read(&user).unwrap(), authenticated("x"));
    mount.wait_for_log("it was imported, but its file cannot be archived");
    in_thread(|| mount.save_in_request(&user, &authenticated("y"))).unwrap();
    assert_eq!(mount.read(&user).unwrap(), authenticated("y"));
    let output = import(&redis, &mount.path(), &[]);
    assert_eq!(output.status.code(), Some(IMPORT_INCOMPLETE));
    assert_eq!(mount.read(&user).unwrap(), authenticated("y"));
}

#[test]
fn the_import_beside_a_living_mount_takes_in_everything() {
    let redis = Redis::start();
    let (user, visitor) = (sid("ab", 1), sid("ab", 2));
    let mount = Mount::start_over(&redis, "", ROOT, |dir| {
        put(dir, &sharded(&user), &authenticated("x"));
        put(dir, &sharded(&visitor), &anonymous("x"));
        put(dir, &flat(OTHER_HEX), &pickled());
        put(dir, "tmpabcdefgh.__wz_sess", b"{");
        put(dir, "ab/abc", b"{}");
    });
    assert_eq!(mount.read(&user).unwrap(), authenticated("x"));
    let summary = imported(&redis, &mount.path(), &[]);
    for (what, count) in [
        ("authenticated", 1),
        ("anonymous", 1),
        ("temporary", 1),
        ("foreign", 1),
        ("kept", 0),
        ("failed", 0),
    ] {
        assert_eq!(summary[what], count, "{what}: {summary}");
    }
    assert_eq!(summary["foreign_names"], serde_json::json!(["ab/abc"]));
    mount.wait_for_log("all session files of the underlying directory have been imported");
    assert_eq!(mount.read(&visitor).unwrap(), anonymous("x"));
    assert_eq!(in_thread(|| std::fs::read(mount.flat(OTHER_HEX)).unwrap()), pickled());
    let again = imported(&redis, &mount.path(), &[]);
    assert_eq!(again["authenticated"], 0, "{again}");
    let dir = mount.path();
    mount.stop_and(|| assert_eq!(files(&dir), ["ab/abc", "tmpabcdefgh.__wz_sess"]));
}

#[test]
fn the_files_that_a_mount_has_moved_are_named_by_the_import_that_finds_none() {
    let redis = Redis::start();
    let user = sid("ab", 1);
    let mount = Mount::start_over(&redis, "", ROOT, |dir| {
        put(dir, &sharded(&user), &authenticated("x"));
    });
    assert_eq!(mount.read(&user).unwrap(), authenticated("x"));
    mount.wait_for_log("all session files of the underlying directory have been imported");
    let dir = mount.path();
    let output = import(&redis, &dir, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("There was no session to import"), "{text}");
    assert!(text.contains(&format!("The files are now in {}.imported", dir.display())), "{text}");
    // The command that is named is for this directory and this Redis.
    let config = redis.directory().join("import.toml");
    let command = format!(
        "    sessionfs import {} --config {} --redis URL --after-import delete",
        dir.display(),
        config.display()
    );
    assert!(text.contains(&command), "{text}");
}

#[test]
fn a_dry_run_changes_nothing_and_tells_the_same() {
    let redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &sharded(&sid("ab", 1)), &authenticated("x"));
    put(dir.path(), &flat(HEX), &pickled());
    put(dir.path(), &sharded(&sid("ab", 2)), b"");
    let before = files(dir.path());
    let foreseen = imported(&redis, dir.path(), &["--dry-run"]);
    assert_eq!(files(dir.path()), before);
    assert!(!beside(dir.path()).exists());
    assert_eq!(redis.run::<i64>("DBSIZE"), 0);
    let done = imported(&redis, dir.path(), &[]);
    for what in ["authenticated", "anonymous", "no_session", "kept"] {
        assert_eq!(foreseen[what], done[what], "{what}");
    }
    assert_eq!(foreseen["no_session"], 1);
    assert_eq!(files(dir.path()), [sharded(&sid("ab", 2))]);
    std::fs::remove_dir_all(beside(dir.path())).unwrap();
}

#[test]
fn two_imports_at_once_do_no_harm() {
    let redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    let sids: Vec<String> = (0..300).map(|seed| sid("ab", seed)).collect();
    for sid in &sids {
        put(dir.path(), &sharded(sid), &authenticated("x"));
    }
    let run = || imported(&redis, dir.path(), &["--after-import", "delete"]);
    let (one, two) = std::thread::scope(|scope| {
        let other = scope.spawn(run);
        (run(), other.join().unwrap())
    });
    let count = |what: &str| one[what].as_u64().unwrap() + two[what].as_u64().unwrap();
    assert_eq!(count("authenticated"), 300, "{one} {two}");
    assert_eq!(count("failed"), 0);
    assert_eq!(files(dir.path()), Vec::<String>::new());
    let mount = Mount::start(&redis, "");
    for sid in &sids {
        assert_eq!(mount.read(sid).unwrap(), authenticated("x"));
    }
}

#[test]
fn what_cannot_be_imported_is_named_and_left() {
    let redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    let (long, link) = (sid("ab", 1), sid("ab", 2));
    put(dir.path(), &sharded(&long), format!("{{{}", " ".repeat(70_000)).as_bytes());
    put(dir.path(), &format!("{HEX}.bak"), b"{}");
    std::fs::hard_link(dir.path().join(format!("{HEX}.bak")), dir.path().join(sharded(&link)))
        .unwrap();
    std::os::unix::fs::chown(dir.path().join(sharded(&link)), Some(STRANGER), None).unwrap();
    let output = import(&redis, dir.path(), &[]);
    assert_eq!(output.status.code(), Some(IMPORT_INCOMPLETE));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("left {}: it is larger than", alias(&long))), "{text}");
    assert!(
        text.contains(&format!("left {}: it cannot be read: it belongs to user", alias(&link))),
        "{text}"
    );
    assert!(text.contains("not Odoo's: ab01....bak"), "{text}");
    assert_eq!(files(dir.path()).len(), 3);
}

#[test]
fn deleting_takes_away_what_was_moved_before() {
    let redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &sharded(&sid("ab", 1)), &authenticated("x"));
    imported(&redis, dir.path(), &[]);
    assert_eq!(files(&beside(dir.path())).len(), 1);
    put(dir.path(), &sharded(&sid("ab", 2)), &authenticated("x"));
    let summary = imported(&redis, dir.path(), &["--after-import", "delete"]);
    assert_eq!((&summary["authenticated"], &summary["deleted_archived"]), (&1.into(), &1.into()));
    assert_eq!(files(dir.path()), Vec::<String>::new());
    assert_eq!(files(&beside(dir.path())), Vec::<String>::new());
    std::fs::remove_dir_all(beside(dir.path())).unwrap();
}

/// Redis may answer before what it has taken is on its disk.
#[test]
fn what_redis_loses_at_once_is_imported_again_before_its_file_is_deleted() {
    let mut redis = Redis::start_with(&["--unixsocketperm", "777"]);
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &sharded(&sid("ab", 1)), &authenticated("x"));
    let child = start_import(&redis, dir.path(), &["--json", "--after-import", "delete"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Not any key: the import tries its rights on one before.
    let key = format!("sessionfs:s:{{ab}}:{}", alias(&sid("ab", 1)));
    let sessions = |redis: &Redis| redis.run::<u64>(&format!("EXISTS {key}"));
    let deadline = Instant::now() + Duration::from_secs(20);
    while sessions(&redis) == 0 {
        assert!(Instant::now() < deadline, "it is not imported");
        std::thread::sleep(Duration::from_millis(5));
    }
    redis.kill();
    redis.restart();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["authenticated"], &summary["failed"]), (&1.into(), &0.into()));
    assert_eq!(sessions(&redis), 1, "it is there again");
    assert_eq!(files(dir.path()), Vec::<String>::new());
}

#[test]
fn a_directory_with_something_foreign_is_not_mounted_on() {
    let redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &sharded(HEX), &pickled());
    put(dir.path(), "filestore.txt", b"x");
    let output = Command::new(env!("CARGO_BIN_EXE_sessionfs"))
        .arg("mount")
        .arg(dir.path())
        .args(["--redis", &redis.url()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(25));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("contains files that are not Odoo's (filestore.txt)"), "{text}");
    assert_eq!(files(dir.path()).len(), 2);
}

/// Waits for the second worker's mount. (Meanwhile root could read the files below.) Until when
/// whatever follows should have happened.
fn until_ready_again(mount: &Mount) -> Instant {
    let deadline = Instant::now() + Duration::from_secs(20);
    while mount.log().matches(": ready mountpoint=").count() < 2 {
        assert!(Instant::now() < deadline, "{}", mount.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    deadline
}

#[test]
fn a_killed_worker_leaves_nobody_logged_out() {
    let redis = Redis::start();
    let sids: Vec<String> = (0..20).map(|seed| sid("ab", seed)).collect();
    let mount = Mount::start_over(&redis, "", ROOT, |dir| {
        for sid in &sids {
            put(dir, &sharded(sid), &authenticated("x"));
        }
    });
    assert_eq!(mount.read(&sids[0]).unwrap(), authenticated("x"));
    let worker = nix::unistd::Pid::from_raw(i32::try_from(mount.worker()).unwrap());
    nix::sys::signal::kill(worker, nix::sys::signal::Signal::SIGKILL).unwrap();
    until_ready_again(&mount);
    for sid in &sids {
        assert_eq!(mount.read(sid).unwrap(), authenticated("x"));
    }
    mount.wait_for_log("all session files of the underlying directory have been imported");
}

#[test]
fn a_worker_takes_over_though_the_disk_does_not_answer() {
    let redis = Redis::start();
    let (below, saved) = (sid("ab", 1), sid("ab", 2));
    let mut mount = Mount::start_over(&redis, "", ROOT, |dir| {
        put(dir, &sharded(&below), &authenticated("x"));
    });
    mount.save(&saved, &authenticated("y")).unwrap();
    let signal = |pid: u32, signal| {
        let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    };
    let former = mount.disk();
    kill_worker(&mount);
    let disk = loop {
        match mount.disk() {
            Some(disk) if Some(disk) != former => break disk,
            _ => {}
        }
    };
    // Before it has answered anything.
    signal(disk, nix::sys::signal::Signal::SIGSTOP);
    mount.wait_until_served();
    assert!(std::fs::metadata(mount.path()).unwrap().is_dir());
    std::thread::scope(|scope| {
        let readers = [(&below, "x"), (&saved, "y")]
            .map(|(sid, note)| (scope.spawn(|| mount.read(sid)), authenticated(note)));
        signal(disk, nix::sys::signal::Signal::SIGCONT);
        for (reader, content) in readers {
            assert_eq!(reader.join().unwrap().unwrap(), content);
        }
    });
}

/// Ends its worker, and has the disk of the next one hang before it has answered anything.
fn succeed_with_a_disk_that_hangs(mount: &mut Mount) -> Hanging {
    let former = mount.disk();
    kill_worker(mount);
    let deadline = Instant::now() + Duration::from_secs(60);
    // More often than it takes to list a directory.
    let next = loop {
        if let Some(pid) = mount.disk().filter(|pid| Some(*pid) != former) {
            break pid;
        }
        assert!(Instant::now() < deadline, "no disk server:\n{}", mount.log());
        std::thread::sleep(Duration::from_millis(1));
    };
    let hanging = Hanging::process(next);
    mount.wait_until_served();
    hanging
}

/// Odoo 19 removes the session of its own request by its listed name, and saves it again.
#[test]
fn a_removal_that_is_taken_back_is_not_carried_out_when_the_disk_answers() {
    let redis = Redis::start();
    let (below, own) = (sid("ab", 1), sid("ab", 2));
    let mut mount = Mount::start_over(&redis, "", ROOT, |dir| {
        put(dir, &sharded(&below), &authenticated("x"));
        put(dir, &sharded(&sid("cd", 3)), &authenticated("x"));
    });
    mount.save(&own, &authenticated("old")).unwrap();
    in_thread(|| {
        mount.read(&own).unwrap();
        let shard = mount.path().join("ab");
        let listed = shard.join(alias(&own));
        assert!(mount.list(&shard).contains(&alias(&own)));
        let hanging = succeed_with_a_disk_that_hangs(&mut mount);
        // The worker has reached Redis.
        in_thread(|| mount.save(&sid("ef", 4), &authenticated("other"))).unwrap();
        std::fs::remove_file(&listed).unwrap();
        mount.save(&own, &authenticated("new")).unwrap();
        // One that waits for the disk, and is carried out after the other one would be.
        let _ = mount.unlink(&sid("cd", 3));
        drop(hanging);
    });
    mount.wait_for_log("all session files of the underlying directory have been imported");
    assert_eq!(errno(in_thread(|| mount.read(&sid("cd", 3)))), libc::ENOENT);
    assert_eq!(in_thread(|| mount.read(&own)).unwrap(), authenticated("new"));
}

#[test]
fn a_removal_that_waits_for_its_import_outlives_the_worker() {
    let redis = Redis::start();
    let [gone, other] = [1, 2].map(|seed| sid("ab", seed));
    let (mut mount, hidden) = start_over(&redis, "", |dir| {
        for sid in [&gone, &other] {
            put(dir, &sharded(sid), &authenticated("x"));
        }
    });
    let hanging = Hanging::disk_of(&mount);
    in_thread(|| mount.unlink(&gone)).unwrap();
    kill_worker(&mount);
    mount.wait_until_served();
    drop(hanging);
    assert_eq!(errno(in_thread(|| mount.read(&gone))), libc::ENOENT);
    assert_eq!(in_thread(|| mount.read(&other)).unwrap(), authenticated("x"));
    mount.wait_for_log("all session files of the underlying directory have been imported");
    assert_eq!(errno(in_thread(|| mount.read(&gone))), libc::ENOENT);
    assert_eq!(files(&hidden.path()), [""; 0]);
}

/// The last file below is given up as too old, with which the disk server is about to end.
#[test]
fn a_removal_that_waits_archives_the_last_file_though_it_is_too_old() {
    let redis = Redis::start();
    let gone = sid("ab", 1);
    let (mount, hidden) = start_over(&redis, "[import]\nmax_age = \"1h\"\n", |dir| {
        put(dir, &sharded(&gone), &authenticated("x"));
        let before = std::time::SystemTime::now() - Duration::from_secs(7200);
        let file = std::fs::File::options().write(true).open(dir.join(sharded(&gone))).unwrap();
        file.set_modified(before).unwrap();
    });
    let hanging = Hanging::disk_of(&mount);
    in_thread(|| mount.unlink(&gone)).unwrap();
    drop(hanging);
    mount.wait_for_log("all session files of the underlying directory have been imported");
    let deadline = Instant::now() + Duration::from_secs(60);
    while files(&hidden.path()) != [""; 0] {
        assert!(Instant::now() < deadline, "it is still there:\n{}", mount.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_killed_disk_server_leaves_nobody_logged_out() {
    let redis = Redis::start();
    let (one, other) = (sid("ab", 1), sid("ab", 2));
    let mount = Mount::start_over(&redis, "", ROOT, |dir| {
        put(dir, &sharded(&one), &authenticated("x"));
        put(dir, &sharded(&other), &authenticated("x"));
    });
    assert_eq!(mount.read(&one).unwrap(), authenticated("x"));
    let disk = nix::unistd::Pid::from_raw(i32::try_from(mount.disk().unwrap()).unwrap());
    nix::sys::signal::kill(disk, nix::sys::signal::Signal::SIGKILL).unwrap();
    mount.wait_for_log("the process that reads session files has exited");
    let deadline = until_ready_again(&mount);
    assert_eq!(mount.read(&other).unwrap(), authenticated("x"));
    mount.wait_for_log("all session files of the underlying directory have been imported");
    // Then it is not needed any more.
    while mount.disk().is_some() {
        assert!(Instant::now() < deadline, "it is still there");
    }
}

#[test]
fn a_session_saved_while_the_mount_was_on_its_way_is_there() {
    let mut redis = Redis::start();
    let late = sid("ab", 1);
    let server: String = redis.run("INFO server");
    let pid = server.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap();
    let pid = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
    redis.pause();
    let (tell, told) = std::sync::mpsc::channel::<PathBuf>();
    let file = sharded(&late);
    let mount = std::thread::scope(|scope| {
        scope.spawn(move || {
            let dir = told.recv().unwrap();
            let log = dir.parent().unwrap().join("log");
            let deadline = Instant::now() + Duration::from_secs(20);
            while !std::fs::read_to_string(&log).unwrap_or_default().contains("waiting for Redis") {
                assert!(Instant::now() < deadline, "it does not wait");
                std::thread::sleep(Duration::from_millis(5));
            }
            put(&dir, &file, &authenticated("x"));
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
        });
        Mount::start_over(&redis, "", ROOT, |dir| tell.send(dir.to_owned()).unwrap())
    });
    redis.resume();
    assert_eq!(mount.read(&late).unwrap(), authenticated("x"));
}

/// A mount with a mirror in a directory of its own.
fn mirrored(redis: &Redis, owner: (&str, &str)) -> (tempfile::TempDir, PathBuf, Mount) {
    mirrored_with(redis, owner, "")
}

fn mirrored_with(
    redis: &Redis,
    owner: (&str, &str),
    more: &str,
) -> (tempfile::TempDir, PathBuf, Mount) {
    let parent = tempfile::tempdir().unwrap();
    let mirror = parent.path().join("mirror");
    let configuration = format!("mirror = \"{}\"\n{more}", mirror.display());
    let mount = Mount::start_over(redis, &configuration, owner, |_| ());
    (parent, mirror, mount)
}

/// Waits until the mirror holds these files and no others.
#[track_caller]
fn until_files(mirror: &Path, expected: &[String]) {
    let mut expected = expected.to_vec();
    expected.sort();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found: Vec<_> =
            files(mirror).into_iter().filter(|name| !name.starts_with("tmp")).collect();
        if found == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?} instead of {expected:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_mirror_holds_what_came_by_and_odoo_can_go_on_with_it() {
    let redis = Redis::start();
    let (user, visitor, gone) = (sid("ab", 1), sid("cd", 2), sid("ef", 3));
    // Saved before there was a mirror: written when its owner comes by.
    let plain = Mount::start(&redis, "");
    plain.save(&visitor, &anonymous("x")).unwrap();
    plain.stop();
    let (_parent, mirror, mount) = mirrored(&redis, ("nobody", "nogroup"));
    until_files(&mirror, &[]);
    mount.save(&user, &authenticated("x")).unwrap();
    mount.save(&gone, &authenticated("x")).unwrap();
    in_thread(|| mount.save_as(&mount.flat(HEX), &pickled())).unwrap();
    until_files(&mirror, &[sharded(&user), sharded(&gone), flat(HEX)]);
    mount.unlink(&gone).unwrap();
    assert_eq!(mount.read(&visitor).unwrap(), anonymous("x"));
    in_thread(|| mount.save_in_request(&user, &authenticated("later"))).unwrap();
    let mtime = |path: PathBuf| std::fs::metadata(path).unwrap().modified().unwrap();
    let mtimes = [mtime(mount.sharded(&user)), mtime(mount.sharded(&visitor))];
    let log = mount.stop();
    assert_secret(&log);
    assert!(log.contains("in plain text"), "{log}");
    // The end waits for what is under way.
    until_files(&mirror, &[sharded(&user), sharded(&visitor), flat(HEX)]);
    assert_eq!(std::fs::read(mirror.join(sharded(&user))).unwrap(), authenticated("later"));
    assert_eq!(std::fs::read(mirror.join(flat(HEX))).unwrap(), pickled());
    assert_eq!([mtime(mirror.join(sharded(&user))), mtime(mirror.join(sharded(&visitor)))], mtimes);
    for path in [mirror.clone(), mirror.join("ab"), mirror.join(sharded(&user))] {
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid()), (65534, 65534), "{}", path.display());
    }
    assert_eq!(std::fs::metadata(mirror.join(sharded(&user))).unwrap().mode() & 0o7777, 0o644);
    assert_eq!(std::fs::metadata(&mirror).unwrap().mode() & 0o7777, 0o700);
    // And back again: the mirror in the place of the directory.
    let redis = Redis::start();
    let back = Mount::start_over(&redis, "", ("nobody", "nogroup"), |dir| {
        std::fs::remove_dir(dir).unwrap();
        std::fs::rename(&mirror, dir).unwrap();
    });
    assert_eq!(back.read(&user).unwrap(), authenticated("later"));
}

#[test]
fn a_mirror_loses_what_ends_without_anybody_coming_by() {
    let redis = Redis::start();
    let (here, there) = (sid("ab", 1), sid("ab", 2));
    let (_parent, mirror, mount) = mirrored(&redis, ROOT);
    let other = Mount::start(&redis, "");
    for sid in [&here, &there] {
        mount.save(sid, &authenticated("x")).unwrap();
    }
    until_files(&mirror, &[sharded(&here), sharded(&there)]);
    // On another node: this one is not asked.
    in_thread(|| {
        other.read(&here).unwrap();
        other.save(&here, &authenticated("elsewhere")).unwrap();
        other.unlink(&there).unwrap();
    });
    mount.stop();
    until_files(&mirror, &[sharded(&here)]);
    assert_eq!(std::fs::read(mirror.join(sharded(&here))).unwrap(), authenticated("elsewhere"));
}

#[test]
fn a_mirror_loses_what_has_expired_when_it_is_found_gone() {
    let redis = Redis::start();
    let (_parent, mirror, mount) = mirrored_with(&redis, ROOT, "[lifetime]\nidle = \"1s\"\n");
    let user = sid("ab", 1);
    mount.save(&user, &authenticated("x")).unwrap();
    until_files(&mirror, &[sharded(&user)]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::metadata(mount.sharded(&user)).is_ok() {
        assert!(Instant::now() < deadline, "it never expires");
        std::thread::sleep(Duration::from_millis(10));
    }
    until_files(&mirror, &[]);
}

#[test]
fn another_directory_can_be_imported_beside_the_mount() {
    let redis = Redis::start();
    let mount = Mount::start(&redis, "");
    let backup = tempfile::tempdir().unwrap();
    put(backup.path(), &sharded(HEX), &pickled());
    assert_eq!(errno(mount.read(HEX)), libc::ENOENT);
    let mut command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
    command.arg("import").arg("--from").arg(backup.path()).args(["--redis", &redis.url()]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(mount.read(HEX).unwrap(), pickled());
    std::fs::remove_dir_all(beside(backup.path())).unwrap();
}

fn kill_worker(mount: &Mount) {
    let pid = nix::unistd::Pid::from_raw(mount.worker().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn a_mirror_that_is_lost_later_does_not_keep_sessions_from_being_served() {
    let redis = Redis::start();
    let (_parent, mirror, mut mount) = mirrored(&redis, ROOT);
    let user = sid("ab", 1);
    mount.save(&user, &authenticated("kept")).unwrap();
    until_files(&mirror, &[sharded(&user)]);
    std::fs::remove_dir_all(&mirror).unwrap();
    std::fs::write(&mirror, "no directory").unwrap();
    kill_worker(&mount);
    mount.wait_until_served();
    assert_eq!(mount.read(&user).unwrap(), authenticated("kept"));
    let log = mount.log();
    assert!(log.contains("the mirror is not written"), "{log}");
}

#[test]
fn files_below_stay_untouched_when_the_place_aside_is_lost_later() {
    let redis = Redis::start();
    let mut mount = Mount::start_over(&redis, "", ROOT, |dir| put(dir, &sharded(HEX), &pickled()));
    let aside = beside(&mount.path());
    std::fs::remove_dir_all(&aside).unwrap();
    std::fs::write(&aside, "no directory").unwrap();
    kill_worker(&mount);
    mount.wait_until_served();
    assert_eq!(errno(mount.read(HEX)), libc::ENOENT);
    let new = sid("ab", 1);
    mount.save(&new, &authenticated("new")).unwrap();
    assert_eq!(mount.read(&new).unwrap(), authenticated("new"));
    let log = mount.log();
    assert!(log.contains("session files of the underlying directory are not imported"), "{log}");
    let dir = mount.path();
    assert_eq!(mount.stop_and(|| files(&dir)), [sharded(HEX)]);
}

/// A filesystem of which nobody answers, on directories.
struct Silent {
    _mount: Mount,
    worker: nix::unistd::Pid,
    directories: Vec<PathBuf>,
}

impl Silent {
    fn on(redis: &Redis, directories: &[PathBuf]) -> Self {
        use nix::mount::{MsFlags, mount};
        let served = Mount::start(redis, "[worker]\nanswer_within = \"1min\"\n");
        for directory in directories {
            let (none, flags) = (None::<&str>, MsFlags::MS_BIND);
            mount(Some(&served.path()), directory, none, flags, none).unwrap();
        }
        let worker = nix::unistd::Pid::from_raw(i32::try_from(served.worker()).unwrap());
        nix::sys::signal::kill(worker, nix::sys::signal::Signal::SIGSTOP).unwrap();
        Self { _mount: served, worker, directories: directories.to_vec() }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        for directory in &self.directories {
            let _ = nix::mount::umount2(directory, nix::mount::MntFlags::MNT_DETACH);
        }
        let _ = nix::sys::signal::kill(self.worker, nix::sys::signal::Signal::SIGCONT);
    }
}

#[test]
fn a_disk_that_does_not_answer_holds_no_next_worker() {
    let (redis, other) = (Redis::start(), Redis::start());
    let parent = tempfile::tempdir().unwrap();
    let mirror = parent.path().join("mirror");
    let configuration = format!("mirror = \"{}\"\n", mirror.display());
    let fill = |dir: &Path| put(dir, &sharded(HEX), &pickled());
    let mount = Mount::start_over(&redis, &configuration, ROOT, fill);
    let silent = Silent::on(&other, &[mirror, beside(&mount.path())]);
    kill_worker(&mount);
    let is_served = || mount.log().matches("keeper: ready").count() == 2;
    support::http::until("another worker serves", is_served);
    mount.save(&sid("cd", 1), &authenticated("new")).unwrap();
    assert!(!mount.log().contains("no answer within"), "{}", mount.log());
    drop(silent);
    mount.stop();
}

/// The underlying directory, as root reaches it whatever is mounted on it.
struct Hidden(std::fs::File);

impl Hidden {
    fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd as _;
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// A mount over files, and the way to its underlying directory.
fn start_over(redis: &Redis, configuration: &str, fill: impl FnOnce(&Path)) -> (Mount, Hidden) {
    let mut hidden = None;
    let mount = Mount::start_over(redis, configuration, ROOT, |dir| {
        fill(dir);
        hidden = Some(Hidden(std::fs::File::open(dir).unwrap()));
    });
    (mount, hidden.unwrap())
}

/// Where a file is while it is imported.
fn taken(name: &str) -> String {
    format!(".sessionfs-import/{name}")
}

/// Puts a file where an import has left it that was not completed.
fn put_taken(dir: &Path, name: &str, content: &[u8]) {
    put(dir, &taken(name), content);
    for made in [".sessionfs-import".to_owned(), taken(&name[..2])] {
        let closed = std::fs::Permissions::from_mode(0o700);
        if dir.join(&made).is_dir() {
            std::fs::set_permissions(dir.join(made), closed).unwrap();
        }
    }
}

#[test]
fn a_file_that_is_too_old_is_left_and_counted() {
    let redis = Redis::start();
    let (user, recent) = (sid("ab", 1), sid("cd", 2));
    let (mount, hidden) = start_over(&redis, "[import]\nmax_age = \"30min\"\n", |dir| {
        put(dir, &sharded(&user), &authenticated("x"));
        put(dir, &sharded(&recent), &authenticated("x"));
        std::fs::File::options()
            .write(true)
            .open(dir.join(sharded(&recent)))
            .unwrap()
            .set_modified(SystemTime::now())
            .unwrap();
    });
    assert_eq!(errno(mount.read(&user)), libc::ENOENT);
    assert_eq!(mount.read(&recent).unwrap(), authenticated("x"));
    assert_eq!(files(&hidden.path()), [sharded(&user)]);
    let import = |arguments: &[&str]| imported(&redis, &mount.path(), arguments);
    let all = ["--dry-run", "--max-age", "30min"];
    for arguments in [&all[..], &all[1..]] {
        let summary = import(arguments);
        assert_eq!((&summary["too_old"], &summary["authenticated"]), (&1.into(), &0.into()));
        assert_eq!(files(&hidden.path()), [sharded(&user)]);
    }
    let output = self::import(&redis, &mount.path(), &["--max-age", "30min"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("1  left: older than import.max_age"), "{text}");
    // What is not imported by the default of a week, for whom a week is enough.
    let summary = import(&[]);
    assert_eq!((&summary["too_old"], &summary["authenticated"]), (&0.into(), &1.into()));
    assert_eq!(mount.read(&user).unwrap(), authenticated("x"));
}

#[test]
fn an_import_that_was_not_completed_is_completed_by_whoever_comes_next() {
    let redis = Redis::start();
    let (user, other) = (sid("ab", 1), sid("cd", 2));
    // After a crash.
    let (mount, hidden) = start_over(&redis, "", |dir| {
        put_taken(dir, &sharded(&user), &authenticated("x"));
        put(dir, &sharded(&other), &authenticated("x"));
    });
    assert_eq!(mount.read(&user).unwrap(), authenticated("x"));
    // By another server, to which this directory belongs as well.
    put_taken(&hidden.path(), &sharded(&other), &authenticated("x"));
    std::fs::remove_file(hidden.path().join(sharded(&other))).unwrap();
    assert_eq!(mount.read(&other).unwrap(), authenticated("x"));
    mount.wait_for_log("all session files of the underlying directory have been imported");
    assert_eq!(files(&beside(&mount.path())), [sharded(&user), sharded(&other)]);
    assert_eq!(files(&hidden.path()), [""; 0]);
    // By the command, and as it says before.
    let dir = tempfile::tempdir().unwrap();
    put_taken(dir.path(), &flat(HEX), &pickled());
    for arguments in [&["--dry-run"][..], &[]] {
        assert_eq!(imported(&redis, dir.path(), arguments)["authenticated"], 1);
    }
    assert_eq!(files(&beside(dir.path())), [flat(HEX)]);
    assert!(!dir.path().join(".sessionfs-import").exists());
    std::fs::remove_dir_all(beside(dir.path())).unwrap();
}

/// What is imported has been taken away before, so no copy of it is left that could come back.
#[test]
fn a_file_is_taken_away_before_its_session_is_in_redis() {
    let redis = Redis::start();
    let user = sid("ab", 1);
    let (mount, hidden) = start_over(&redis, "", |dir| {
        put(dir, &sharded(&user), &authenticated("x"));
    });
    let _: redis::Value = redis.run("CONFIG SET maxmemory 1");
    assert!(mount.read(&user).is_err());
    assert_eq!(files(&hidden.path()), [taken(&sharded(&user))]);
    assert_eq!(files(&beside(&mount.path())), [""; 0]);
    // What is on its way is given back for the way back.
    let output = Command::new(env!("CARGO_BIN_EXE_sessionfs"))
        .arg("release")
        .arg(mount.path())
        .arg("--config")
        .arg(mount.configuration())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("moved 1 session file back"), "{text}");
    assert_eq!(files(&hidden.path()), [sharded(&user)]);
    let _: redis::Value = redis.run("CONFIG SET maxmemory 0");
    assert_eq!(mount.read(&user).unwrap(), authenticated("x"));
}

#[test]
fn nothing_is_imported_from_a_directory_whose_files_cannot_be_moved() {
    let redis = Redis::start();
    let user = sid("ab", 1);
    let fill = |dir: &Path| {
        put(dir, &sharded(&user), &authenticated("x"));
        // Not root's own: whoever owns it could take files away that are on their way.
        std::fs::create_dir(dir.join(".sessionfs-import")).unwrap();
        std::os::unix::fs::chown(dir.join(".sessionfs-import"), Some(STRANGER), None).unwrap();
    };
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let mut look = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
    look.arg("mount").arg("--dry-run").arg(dir.path()).args(["--redis", &redis.url()]);
    let text = String::from_utf8(look.output().unwrap().stdout).unwrap();
    assert!(text.contains("\nsessions 1\nunmovable .sessionfs-import"), "{text}");
    for arguments in [&["--dry-run"][..], &[]] {
        let output = import(&redis, dir.path(), arguments);
        assert_eq!(output.status.code(), Some(IMPORT_INCOMPLETE));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("its files cannot be moved"), "{text}");
    }
    let (mount, hidden) = start_over(&redis, "", fill);
    assert!(mount.log().contains("cannot be moved, so none is imported"), "{}", mount.log());
    assert_eq!(errno(mount.read(&user)), libc::ENOENT);
    assert_eq!(redis.session_keys().len(), 0);
    assert_eq!(files(&hidden.path()), [sharded(&user)]);
    mount.save(&sid("cd", 1), &authenticated("new")).unwrap();
}

/// Odoo's user has moved a file into his directory that only root may read.
#[test]
fn a_file_that_its_owner_may_not_read_does_not_become_his_session() {
    let redis = Redis::start();
    let (secret, saved) = (sid("ab", 1), sid("cd", 2));
    let mount = Mount::start_over(&redis, "", ("nobody", "nogroup"), |dir| {
        put(dir, &sharded(&secret), b"{\"root\": \"only\"}");
        let closed = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(dir.join(sharded(&secret)), closed).unwrap();
        // By an Odoo that root has started by hand.
        put(dir, &sharded(&saved), &authenticated("x"));
    });
    assert_eq!(mount.read(&saved).unwrap(), authenticated("x"));
    for expected in [libc::EIO, libc::EIO, libc::ENOENT] {
        assert_eq!(errno(mount.read(&secret)), expected);
    }
    assert!(!String::from_utf8_lossy(&redis.dump()).contains(&alias(&secret)));
    let dir = mount.path();
    mount.stop_and(|| assert_eq!(files(&dir), [sharded(&secret)]));
}

#[test]
fn marks_and_what_filesystems_keep_are_neither_sessions_nor_a_hindrance() {
    let redis = Redis::start();
    let user = sid("ab", 1);
    let fill = |dir: &Path| {
        for mark in [".gitkeep", ".nfs000000000123abcd00000001", "ab/.nfs000000000123abcd00000002"]
        {
            put(dir, mark, b"");
        }
        std::fs::create_dir(dir.join("lost+found")).unwrap();
    };
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let summary = imported(&redis, dir.path(), &[]);
    assert_eq!((&summary["foreign"], &summary["failed"]), (&0.into(), &0.into()));
    std::fs::remove_dir_all(beside(dir.path())).unwrap();
    let mut look = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
    look.arg("mount").arg("--dry-run").arg(dir.path()).args(["--redis", &redis.url()]);
    let text = String::from_utf8(look.output().unwrap().stdout).unwrap();
    assert!(text.contains("\nsessions 0\n"), "{text}");
    let mount = Mount::start_over(&redis, "", ROOT, fill);
    mount.save(&user, &authenticated("x")).unwrap();
    assert_eq!(mount.read(&user).unwrap(), authenticated("x"));
    assert!(!mount.log().contains("there are session files"), "{}", mount.log());
}

/// Stops the process that touches session files, as a disk that hangs does.
struct Hanging(nix::unistd::Pid);

impl Hanging {
    fn disk_of(mount: &Mount) -> Self {
        Self::process(mount.disk().unwrap())
    }

    fn process(pid: u32) -> Self {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        Self(pid)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.0, nix::sys::signal::Signal::SIGCONT);
    }
}

#[test]
fn a_disk_that_hangs_keeps_nobody_else_from_saving() {
    let redis = Redis::start();
    let flats: Vec<String> = (1..6).map(|seed| format!("ab{seed:038x}")).collect();
    let [gone, stuck] = [7, 8].map(|seed| format!("ab{seed:038x}"));
    let other = sid("cd", 9);
    let (mount, hidden) = start_over(&redis, "", |dir| {
        for sid in flats.iter().chain([&gone, &stuck]) {
            put(dir, &flat(sid), &authenticated("old"));
        }
    });
    mount.save(&other, &authenticated("x")).unwrap();
    let hanging = Hanging::disk_of(&mount);
    std::thread::scope(|scope| {
        let readers: Vec<_> =
            flats.iter().map(|sid| scope.spawn(|| std::fs::read(mount.flat(sid)))).collect();
        // In the same directory, the root, while the others wait.
        for round in 0..20 {
            in_thread(|| {
                mount.read(&other).unwrap();
                mount.save(&other, &authenticated(&round.to_string())).unwrap();
            });
            // It exists, as far as can be told.
            assert!(in_thread(|| mount.flat(&stuck).exists()));
        }
        assert!(readers.iter().all(|reader| !reader.is_finished()), "they do not wait");
        // A removal is not lost, though the file cannot be reached now.
        in_thread(|| std::fs::remove_file(mount.flat(&gone))).unwrap();
        assert_eq!(errno(in_thread(|| std::fs::read(mount.flat(&gone)))), libc::ENOENT);
        assert!(in_thread(|| mount.save_as(&mount.flat(&stuck), &anonymous("late"))).is_err());
        drop(hanging);
        for reader in readers {
            assert_eq!(reader.join().unwrap().unwrap(), authenticated("old"));
        }
    });
    assert_eq!(in_thread(|| std::fs::read(mount.flat(&stuck))).unwrap(), authenticated("old"));
    mount.wait_for_log("all session files of the underlying directory have been imported");
    assert_eq!(files(&hidden.path()), [""; 0]);
    assert_eq!(errno(in_thread(|| std::fs::read(mount.flat(&gone)))), libc::ENOENT);
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &flat(&gone), &authenticated("old"));
    assert_eq!(imported(&redis, dir.path(), &["--after-import", "delete"])["kept"], 1);
}

#[test]
fn a_disk_that_hangs_for_long_is_an_error_that_ends() {
    let redis = Redis::start();
    let user = sid("ab", 1);
    let (mount, _hidden) = start_over(&redis, "", |dir| {
        put(dir, &sharded(&user), &authenticated("x"));
    });
    let _hanging = Hanging::disk_of(&mount);
    for expected in [libc::EIO, libc::EIO, libc::ENOENT] {
        assert_eq!(errno(in_thread(|| mount.read(&user))), expected);
    }
}

#[test]
fn a_mirror_that_would_be_unsafe_is_refused() {
    let redis = Redis::start();
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("sessions");
    let open = parent.path().join("open");
    let link = parent.path().join("link");
    for made in [&dir, &open] {
        std::fs::create_dir(made).unwrap();
    }
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("/etc", &link).unwrap();
    for (mirror, why) in [
        (dir.join("mirror"), "inside the mountpoint or contains it"),
        (parent.path().to_owned(), "inside the mountpoint or contains it"),
        (open, "read by other users"),
        (link, "directory"),
        (beside(&dir), "the archive of imported files"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_sessionfs"))
            .arg("mount")
            .arg(&dir)
            .args(["--redis", &redis.url()])
            .arg("--mirror")
            .arg(&mirror)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(MIRROR_REFUSED), "{text}");
        assert!(text.contains(why), "{text}");
    }
}
