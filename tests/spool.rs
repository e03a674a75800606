//! What Redis does not take is kept on this host and sent later: on real mounts and a real Redis.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use support::mount::{Mount, alias, anonymous, authenticated, errno, in_thread, sid, temp_name};
use support::redis::Redis;

/// An outage whose budget no test spends.
const LONG_OUTAGE: &str = "[outage]\nwait_step = \"200ms\"\nwait_total = \"5min\"";
/// Every answered change outlives the server.
const DURABLE: [&str; 6] =
    ["--appendonly", "yes", "--appendfsync", "always", "--unixsocketperm", "777"];
const WITHIN: Duration = Duration::from_secs(30);

fn node() -> (Redis, Mount) {
    let redis = Redis::start_with(&DURABLE);
    let mount = Mount::start(&redis, LONG_OUTAGE);
    (redis, mount)
}

/// Waits until something holds.
fn until(mount: &Mount, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time:\n{}", mount.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the log says so often.
fn logged(mount: &Mount, text: &str) -> usize {
    mount.log().matches(text).count()
}

/// The directories in which this mount keeps changes: on the tmpfs, and on the disk.
fn directories(mount: &Mount) -> [PathBuf; 2] {
    use sessionfs::config::paths;
    let staging = paths::staging_dir(None, &mount.path()).unwrap();
    paths::spool_dirs(&staging, &mount.path())
}

fn files(dir: &PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_none_or(|kind| kind != "tmp"));
    files.sort();
    files
}

/// Waits until everything is sent, and nothing is left.
fn until_sent(mount: &Mount) {
    until(mount, || directories(mount).iter().all(|dir| files(dir).is_empty()));
}

/// What a command of sessionfs prints about this mount.
fn said(mount: &Mount, words: &[&str]) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_sessionfs"))
        .args(words)
        .arg(mount.path())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A save that is written while Redis is there and renamed when it is not.
struct Saving {
    temp: PathBuf,
    target: PathBuf,
}

impl Saving {
    fn begin(mount: &Mount, id: &str, content: &[u8]) -> Self {
        Self { temp: mount.stage(content).unwrap(), target: mount.sharded(id) }
    }

    fn end(self) {
        fs::rename(&self.temp, &self.target).unwrap();
        fs::set_permissions(&self.target, fs::Permissions::from_mode(0o644)).unwrap();
    }
}

/// The worker does nothing any more, until it is killed.
fn stop_worker(mount: &Mount) -> nix::unistd::Pid {
    let worker = nix::unistd::Pid::from_raw(i32::try_from(mount.worker()).unwrap());
    nix::sys::signal::kill(worker, nix::sys::signal::Signal::SIGSTOP).unwrap();
    worker
}

/// A session that is saved anew while Redis is killed.
fn saved_without_redis(redis: &mut Redis, mount: &Mount, id: &str) {
    mount.save(id, &authenticated("old")).unwrap();
    in_thread(|| {
        mount.read(id).unwrap();
        let saving = Saving::begin(mount, id, &authenticated("new"));
        redis.kill();
        saving.end();
        assert_eq!(mount.read(id).unwrap(), authenticated("new"));
    });
}

/// A mount that was killed, as was its Redis, while it kept a save of the first session and a removal of
/// the second on the disk.
fn killed_with_changes() -> (Redis, Mount, [String; 2]) {
    let (mut redis, mut mount) = node();
    let (one, two) = (sid("ab", 1), sid("cd", 2));
    mount.save(&two, &authenticated("old")).unwrap();
    saved_without_redis(&mut redis, &mount, &one);
    in_thread(|| mount.unlink(&two)).unwrap();
    let [_, disk] = directories(&mount);
    until(&mount, || files(&disk).len() == 2);
    mount.kill();
    (redis, mount, [one, two])
}

#[test]
fn a_kept_save_is_on_the_disk_when_chmod_returns_and_only_the_worker_can_read_it() {
    let (mut redis, mount) = node();
    let id = sid("ab", 1);
    saved_without_redis(&mut redis, &mount, &id);
    let [memory, disk] = directories(&mount);
    let owner = fs::metadata(&disk).unwrap().uid();
    assert_ne!(owner, 0);
    for dir in [&memory, &disk] {
        assert_eq!(fs::metadata(dir).unwrap().mode() & 0o7777, 0o700);
        let above = fs::metadata(dir.parent().unwrap()).unwrap();
        assert_eq!((above.uid(), above.mode() & 0o022), (0, 0));
        let [file] = &files(dir)[..] else { panic!("{:?}", files(dir)) };
        let found = fs::metadata(file).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (owner, 0o600));
        let content = fs::read(file).unwrap();
        let has = |text: &str| content.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(has(&alias(&id)) && !has(&id) && !has("session_token"), "{file:?}");
    }
    let text = said(&mount, &["status"]);
    assert!(text.contains("1 change on this host until Redis takes them"), "{text}");
    let found = said(&mount, &["check", "--json"]);
    assert!(found.contains("\"spool.kept\"") && found.contains("correct redis."), "{found}");
    redis.restart();
    until_sent(&mount);
    let other = Mount::start(&redis, "");
    assert_eq!(other.read(&id).unwrap(), authenticated("new"));
    // A clean end leaves no directory.
    assert!(mount.stop_and(|| !memory.exists() && !disk.exists()));
}

#[test]
fn what_is_kept_outlives_the_worker_from_the_rename_on() {
    let (mut redis, mut mount) = node();
    let id = sid("ab", 1);
    mount.save(&id, &authenticated("old")).unwrap();
    in_thread(|| {
        mount.read(&id).unwrap();
        let saving = Saving::begin(&mount, &id, &authenticated("new"));
        redis.pause();
        fs::rename(&saving.temp, &saving.target).unwrap();
    });
    let worker = i32::try_from(mount.worker()).unwrap();
    let signal = nix::sys::signal::Signal::SIGKILL;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker), signal).unwrap();
    mount.wait_until_served();
    assert_eq!(in_thread(|| mount.read(&id)).unwrap(), authenticated("new"));
    redis.resume();
    until_sent(&mount);
    assert_eq!(in_thread(|| mount.read(&id)).unwrap(), authenticated("new"));
    assert_eq!(logged(&mount, "change_dropped"), 0);
}

#[test]
fn what_is_kept_outlives_the_whole_program_and_a_boot() {
    let (mut redis, mut mount, [one, two]) = killed_with_changes();
    let [memory, _] = directories(&mount);
    // A boot: what is on the tmpfs is lost.
    fs::remove_dir_all(&memory).unwrap();
    redis.restart();
    mount.restart(None);
    until_sent(&mount);
    assert_eq!(in_thread(|| mount.read(&one)).unwrap(), authenticated("new"));
    assert_eq!(in_thread(|| errno(mount.read(&two))), libc::ENOENT);
}

#[test]
fn a_reload_takes_over_what_another_worker_has_left() {
    let (mut redis, mount) = node();
    let id = sid("ab", 1);
    saved_without_redis(&mut redis, &mount, &id);
    let [memory, _] = directories(&mount);
    let [file] = &files(&memory)[..] else { panic!("{:?}", files(&memory)) };
    let (content, owner) = (fs::read(file).unwrap(), fs::metadata(file).unwrap().uid());
    redis.restart();
    until_sent(&mount);
    in_thread(|| mount.save_in_request(&id, &authenticated("newer"))).unwrap();
    fs::write(file, content).unwrap();
    std::os::unix::fs::chown(file, Some(owner), Some(owner)).unwrap();
    let (code, said) = mount.command("reload");
    assert_eq!(code, Some(0), "{said}");
    until_sent(&mount);
    mount.wait_for_log("reason=\"superseded\"");
    assert_eq!(in_thread(|| mount.read(&id)).unwrap(), authenticated("newer"));
}

#[test]
fn a_reload_knows_what_the_worker_before_has_kept_to_the_last() {
    let (mut redis, mount) = node();
    let [one, two] = [sid("ab", 1), sid("cd", 2)];
    for id in [&one, &two] {
        mount.save(id, &authenticated("old")).unwrap();
    }
    in_thread(|| {
        let savings = [&one, &two].map(|id| {
            mount.read(id).unwrap();
            Saving::begin(&mount, id, &authenticated("new"))
        });
        redis.kill();
        savings.into_iter().for_each(Saving::end);
    });
    let dirs = directories(&mount);
    until(&mount, || files(&dirs[1]).len() == 2);
    // It sends nothing of that, and is waited for at the reload.
    let process = stop_worker(&mount);
    redis.restart();
    let last = files(&dirs[0]).pop().unwrap();
    let (content, owner) = (fs::read(&last).unwrap(), fs::metadata(&last).unwrap().uid());
    fs::remove_file(&last).unwrap();
    fs::remove_file(dirs[1].join(last.file_name().unwrap())).unwrap();
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| mount.command("reload"));
        mount.wait_for_log("the new worker is ready");
        fs::write(&last, content).unwrap();
        std::os::unix::fs::chown(&last, Some(owner), Some(owner)).unwrap();
        assert!(nix::sys::signal::kill(process, None).is_ok(), "it was not waited for");
        let (code, said) = reload.join().unwrap();
        assert_eq!(code, Some(0), "{said}");
    });
    assert_eq!(in_thread(|| mount.read(&two)).unwrap(), authenticated("new"));
    until_sent(&mount);
    assert_eq!(logged(&mount, "change_dropped"), 0);
}

/// Who has logged in when Redis was lost. The first worker alone knows that somebody was there meanwhile, and it is gone
/// before it can send anything.
#[test]
fn a_reload_after_a_long_outage_drops_nothing_of_who_was_active() {
    const IDLE: Duration = Duration::from_secs(2);
    let mut redis = Redis::start_with(&DURABLE);
    let configuration = format!("{LONG_OUTAGE}\n[lifetime]\nidle = \"{}s\"", IDLE.as_secs());
    let mount = Mount::start(&redis, &configuration);
    let id = sid("ab", 1);
    in_thread(|| {
        let saving = Saving::begin(&mount, &id, &authenticated("new"));
        redis.kill();
        saving.end();
    });
    let kept = Instant::now();
    while kept.elapsed() < IDLE + IDLE / 2 {
        assert_eq!(in_thread(|| mount.read(&id)).unwrap(), authenticated("new"));
        std::thread::sleep(IDLE / 8);
    }
    stop_worker(&mount);
    redis.restart();
    let (code, said) = mount.command("reload");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(in_thread(|| mount.read(&id)).unwrap(), authenticated("new"), "{}", mount.log());
    until_sent(&mount);
    assert_eq!(logged(&mount, "change_dropped"), 0);
}

#[test]
fn a_frozen_redis_takes_everything_of_a_session_in_order() {
    let (mut redis, mount) = node();
    let (id, other) = (sid("ab", 1), sid("ab", 2));
    in_thread(|| {
        mount.save(&id, &authenticated("0")).unwrap();
        mount.save(&other, &authenticated("0")).unwrap();
        let savings: Vec<_> = (1..=3)
            .map(|number| Saving::begin(&mount, &id, &authenticated(&number.to_string())))
            .collect();
        redis.pause();
        for saving in savings {
            saving.end();
        }
        mount.unlink(&other).unwrap();
    });
    let seen = in_thread(|| mount.read(&id)).unwrap();
    assert_eq!(seen, authenticated("3"), "{}", mount.log());
    redis.resume();
    until_sent(&mount);
    let second = Mount::start(&redis, "");
    assert_eq!(second.read(&id).unwrap(), authenticated("3"));
    assert_eq!(errno(second.read(&other)), libc::ENOENT);
    assert_eq!(second.list(&second.path().join("ab")), [alias(&id)]);
}

#[test]
fn a_replica_keeps_nobody_from_going_on() {
    let (redis, mount) = node();
    let (id, ended) = (sid("ab", 1), sid("ab", 2));
    let saving = in_thread(|| {
        mount.save(&ended, &authenticated("0")).unwrap();
        mount.save(&id, &authenticated("old")).unwrap();
        Saving::begin(&mount, &id, &authenticated("new"))
    });
    let _: () = redis.run("REPLICAOF 127.0.0.1 1");
    in_thread(|| saving.end());
    in_thread(|| mount.unlink(&ended)).unwrap();
    // Redis is read on, and what is kept is seen in a listing, too.
    assert_eq!(in_thread(|| mount.read(&id)).unwrap(), authenticated("new"));
    assert_eq!(in_thread(|| errno(mount.read(&ended))), libc::ENOENT);
    until(&mount, || fs::read_dir(mount.path().join("ab")).is_ok_and(|names| names.count() == 1));
    let _: () = redis.run("REPLICAOF NO ONE");
    until_sent(&mount);
    assert_eq!(in_thread(|| errno(mount.read(&ended))), libc::ENOENT);
    assert_eq!(logged(&mount, "change_dropped"), 0);
}

#[test]
fn a_full_redis_takes_a_save_when_it_has_room() {
    let (redis, mount) = node();
    let id = sid("ab", 1);
    let saving = in_thread(|| {
        mount.save(&id, &authenticated("old")).unwrap();
        Saving::begin(&mount, &id, &authenticated("new"))
    });
    let _: () = redis.run("CONFIG SET maxmemory 1");
    in_thread(|| saving.end());
    assert_eq!(in_thread(|| mount.read(&id)).unwrap(), authenticated("new"));
    let _: () = redis.run("CONFIG SET maxmemory 0");
    until_sent(&mount);
    let second = Mount::start(&redis, "");
    assert_eq!(second.read(&id).unwrap(), authenticated("new"));
}

#[test]
fn a_logout_goes_through_to_a_full_redis_before_a_kept_save_of_the_same_session() {
    let (redis, mount) = node();
    let second = Mount::start(&redis, LONG_OUTAGE);
    let id = sid("ab", 1);
    in_thread(|| {
        mount.save(&id, &authenticated("old")).unwrap();
        let saving = Saving::begin(&mount, &id, &authenticated("new"));
        let _: () = redis.run("CONFIG SET maxmemory 1");
        saving.end();
        assert_eq!(mount.read(&id).unwrap(), authenticated("new"));
        mount.unlink(&id).unwrap();
    });
    assert_eq!(in_thread(|| errno(mount.read(&id))), libc::ENOENT);
    // At once, or as soon as the save that was being sent is refused.
    until(&second, || in_thread(|| second.read(&id)).is_err());
    assert_eq!(in_thread(|| errno(second.read(&id))), libc::ENOENT);
    // Nothing is left that could be sent.
    until_sent(&mount);
    let _: () = redis.run("CONFIG SET maxmemory 0");
    assert_eq!(in_thread(|| errno(second.read(&id))), libc::ENOENT);
}

#[test]
fn a_kept_logout_is_sent_to_a_full_redis_before_kept_saves() {
    let (redis, mount) = node();
    let second = Mount::start(&redis, LONG_OUTAGE);
    let (saved, both, ended) = (sid("ab", 1), sid("ab", 2), sid("ab", 3));
    for id in [&saved, &both, &ended] {
        mount.save(id, &authenticated("old")).unwrap();
    }
    let savings: Vec<_> = [&saved, &both]
        .map(|id| {
            in_thread(|| {
                mount.read(id).unwrap();
                Saving::begin(&mount, id, &authenticated("new"))
            })
        })
        .into();
    let _: () = redis.run("REPLICAOF 127.0.0.1 1");
    // A save belongs to who has opened the session.
    for (id, saving) in [&saved, &both].into_iter().zip(savings) {
        in_thread(|| {
            mount.read(id).unwrap();
            saving.end();
        });
    }
    for id in [&both, &ended] {
        in_thread(|| {
            mount.read(id).unwrap();
            mount.unlink(id).unwrap();
        });
    }
    let _: () = redis.run("CONFIG SET maxmemory 1");
    let _: () = redis.run("REPLICAOF NO ONE");
    for id in [&both, &ended] {
        until(&second, || in_thread(|| second.read(id)).is_err());
        assert_eq!(in_thread(|| errno(second.read(id))), libc::ENOENT);
    }
    assert_eq!(in_thread(|| mount.read(&saved)).unwrap(), authenticated("new"));
    let _: () = redis.run("CONFIG SET maxmemory 0");
    until_sent(&mount);
    assert_eq!(in_thread(|| second.read(&saved)).unwrap(), authenticated("new"));
    assert_eq!(in_thread(|| errno(second.read(&both))), libc::ENOENT);
}

#[test]
fn newer_content_of_another_server_wins() {
    let (redis, mount) = node();
    let second = Mount::start(&redis, "");
    let id = sid("ab", 1);
    let saving = in_thread(|| {
        mount.save(&id, &authenticated("old")).unwrap();
        Saving::begin(&mount, &id, &authenticated("kept"))
    });
    // For this server alone Redis is away.
    let _: () = redis.run("CONFIG SET maxmemory 1");
    in_thread(|| saving.end());
    saved_meanwhile(&redis, &mount, &second, &id);
    mount.wait_for_log("reason=\"superseded\"");
    for node in [&mount, &second] {
        assert_eq!(in_thread(|| node.read(&id)).unwrap(), authenticated("newer"));
    }
}

/// The second server saves, and Redis has room again, before the first one can send anything.
fn saved_meanwhile(redis: &Redis, first: &Mount, second: &Mount, id: &str) {
    let freeze = |state| {
        let worker = nix::unistd::Pid::from_raw(i32::try_from(first.worker()).unwrap());
        nix::sys::signal::kill(worker, state).unwrap();
    };
    freeze(nix::sys::signal::Signal::SIGSTOP);
    let _: () = redis.run("CONFIG SET maxmemory 0");
    until(second, || in_thread(|| second.save_in_request(id, &authenticated("newer"))).is_ok());
    freeze(nix::sys::signal::Signal::SIGCONT);
}

#[test]
fn who_saved_what_is_superseded_goes_on_with_what_is_newer() {
    let (redis, mount) = node();
    let second = Mount::start(&redis, "");
    let id = sid("ab", 1);
    in_thread(|| second.save(&id, &authenticated("old")).unwrap());
    in_thread(|| {
        // This thread has not read it, so its saves seem to begin a life.
        let saving = ["one", "two"].map(|note| Saving::begin(&mount, &id, &authenticated(note)));
        let _: () = redis.run("CONFIG SET maxmemory 1");
        saving.into_iter().for_each(Saving::end);
        saved_meanwhile(&redis, &mount, &second, &id);
        until_sent(&mount);
        assert_eq!(in_thread(|| second.read(&id)).unwrap(), authenticated("newer"));
        mount.save(&id, &authenticated("three")).unwrap();
    });
    assert_eq!(in_thread(|| second.read(&id)).unwrap(), authenticated("three"));
}

#[test]
fn a_kept_save_goes_on_with_the_life_that_it_did_not_know() {
    let redis = &mut Redis::start_with(&DURABLE);
    let first = Mount::start(redis, LONG_OUTAGE);
    let second = Mount::start(redis, LONG_OUTAGE);
    let id = sid("ab", 1);
    in_thread(|| first.save(&id, &authenticated("first")).unwrap());
    in_thread(|| {
        // This thread has not read it, so the save seems to begin a life.
        let saving = Saving::begin(&second, &id, &authenticated("second"));
        redis.kill();
        saving.end();
        redis.restart();
        until_sent(&second);
        // It did not, and the thread may go on.
        second.save(&id, &authenticated("third")).unwrap();
    });
    assert_eq!(in_thread(|| first.read(&id).unwrap()), authenticated("third"));
}

#[test]
fn a_logout_survives_and_no_page_load_undoes_it() {
    let (mut redis, mount) = node();
    let id = sid("ab", 1);
    mount.save(&id, &authenticated("old")).unwrap();
    in_thread(|| {
        mount.read(&id).unwrap();
        let pages = ["one", "two"].map(|note| Saving::begin(&mount, &id, &authenticated(note)));
        in_thread(|| {
            mount.read(&id).unwrap();
            redis.pause();
            mount.unlink(&id).unwrap();
        });
        let [one, two] = pages;
        let refused = |page: Saving| errno(fs::rename(page.temp, page.target));
        assert_eq!(refused(one), libc::EACCES);
        redis.resume();
        until_sent(&mount);
        // Nothing here knows of the logout any more, so this one is kept until Redis can say it.
        redis.pause();
        fs::rename(two.temp, two.target).unwrap();
        redis.resume();
        mount.wait_for_log("change=\"save\" reason=\"refused\"");
        until_sent(&mount);
    });
    assert_eq!(in_thread(|| errno(mount.read(&id))), libc::ENOENT);
}

#[test]
fn a_torn_file_is_named_and_moved_aside() {
    let (mut redis, mut mount, [one, two]) = killed_with_changes();
    let [memory, disk] = directories(&mount);
    let torn = files(&disk)[0].file_name().unwrap().to_owned();
    for dir in [&memory, &disk] {
        let file = File::options().write(true).open(dir.join(&torn)).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    }
    redis.restart();
    mount.restart(None);
    let aside = disk.join(format!("{}.damaged", torn.to_str().unwrap()));
    mount.wait_for_log(aside.to_str().unwrap());
    // The others are sent.
    until(&mount, || in_thread(|| errno(mount.read(&two)) == libc::ENOENT));
    assert_eq!(in_thread(|| mount.read(&one)).unwrap(), authenticated("old"));
    assert!(aside.exists());
    mount.stop_and(|| {
        for dir in [&memory, &disk] {
            fs::remove_dir_all(dir).unwrap();
        }
    });
}

#[test]
fn nothing_is_sent_to_another_redis() {
    let (mut redis, mut mount) = node();
    let id = sid("ab", 1);
    saved_without_redis(&mut redis, &mount, &id);
    let other = Redis::start();
    mount.restart(Some(&other));
    mount.wait_for_log("kept_changes_unsendable");
    assert_eq!(in_thread(|| errno(mount.read(&id))), libc::ENOENT);
    let [_, disk] = directories(&mount);
    assert_eq!(files(&disk).len(), 1);
    let found = said(&mount, &["check", "--json"]);
    let why = format!("they are for the Redis at {}", redis.url());
    assert!(found.contains("\"spool.unsendable\"") && found.contains(&why), "{found}");
    // It is sent when this Redis is named again.
    redis.restart();
    mount.restart(Some(&redis));
    until_sent(&mount);
    assert_eq!(in_thread(|| mount.read(&id)).unwrap(), authenticated("new"));
}

#[test]
fn a_full_spool_fails_saves_at_their_first_write_and_takes_removals() {
    let redis = Redis::start_with(&DURABLE);
    // Packed, one letter many times is short.
    let small = format!(
        "{LONG_OUTAGE}\nspool_max = \"1MiB\"\n[limits]\nsession = \"1MiB\"\n[redis]\npacking = \"off\""
    );
    let mount = Mount::start(&redis, &small);
    let large = authenticated(&"x".repeat(200_000));
    let ids: Vec<_> = (0..5).map(|seed| sid("ab", seed)).collect();
    let small = authenticated(&"y".repeat(60_000));
    let savings: Vec<_> = in_thread(|| {
        let large = ids.iter().map(|id| Saving::begin(&mount, id, &large));
        let small = Saving::begin(&mount, &sid("ef", 1), &small);
        large.chain([small]).collect()
    });
    let ended = sid("cd", 1);
    mount.save(&ended, &authenticated("old")).unwrap();
    let _: () = redis.run("REPLICAOF 127.0.0.1 1");
    let renamed: Vec<_> = in_thread(|| {
        let rename = |saving: Saving| fs::rename(saving.temp, saving.target);
        savings.into_iter().map(rename).map(|renamed| renamed.is_ok()).collect()
    });
    assert_eq!(renamed, [true, true, true, true, false, true]);
    mount.wait_for_log("spool_full");
    // Nobody waits for an error that is certain.
    in_thread(|| {
        let mut file = File::create_new(mount.path().join(temp_name())).unwrap();
        assert_eq!(errno(file.write(b"{}")), libc::EIO);
    });
    in_thread(|| {
        mount.read(&ended).unwrap();
        mount.unlink(&ended).unwrap();
    });
    assert_eq!(in_thread(|| errno(mount.read(&ended))), libc::ENOENT);
    let _: () = redis.run("REPLICAOF NO ONE");
    until_sent(&mount);
    in_thread(|| mount.save(&ids[4], &large)).unwrap();
}

/// A thread that has opened its session and listed it, as Odoo 19 does before it removes it.
fn opened_and_listed(mount: &Mount, id: &str) -> PathBuf {
    mount.read(id).unwrap();
    let shard = mount.path().join(&id[..2]);
    assert!(mount.list(&shard).contains(&alias(id)));
    shard.join(alias(id))
}

#[test]
fn an_own_removal_without_redis_is_taken_back_by_the_save() {
    let (mut redis, mount) = node();
    let id = sid("ab", 1);
    mount.save(&id, &authenticated("old")).unwrap();
    in_thread(|| {
        let listed = opened_and_listed(&mount, &id);
        let saving = Saving::begin(&mount, &id, &authenticated("new"));
        redis.kill();
        until(&mount, || mount.log().contains("state=\"down\""));
        fs::remove_file(&listed).unwrap();
        // It is served as before, and nothing was kept.
        assert_eq!(logged(&mount, "change_kept"), 0);
        saving.end();
        assert_eq!(mount.read(&id).unwrap(), authenticated("new"));
    });
    redis.restart();
    until_sent(&mount);
    // Longer than a removal is held.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(in_thread(|| mount.read(&id)).unwrap(), authenticated("new"));
    assert_eq!(logged(&mount, "change=\"removal\""), 0);
}

#[test]
fn an_own_removal_waits_as_long_as_the_save_that_follows() {
    let (mut redis, mount) = node();
    let id = sid("ab", 1);
    mount.save(&id, &authenticated("old")).unwrap();
    std::thread::scope(|scope| {
        let (begun, begins) = std::sync::mpsc::channel();
        let mount = &mount;
        let saver = scope.spawn({
            let id = id.clone();
            move || {
                let listed = opened_and_listed(mount, &id);
                begun.send(()).unwrap();
                until(mount, || mount.log().contains("state=\"down\""));
                fs::remove_file(&listed).unwrap();
                // Its first write waits for Redis.
                mount.save(&id, &authenticated("new")).unwrap();
            }
        });
        begins.recv().unwrap();
        redis.kill();
        // Longer than a removal is held.
        std::thread::sleep(Duration::from_millis(2500));
        redis.restart();
        saver.join().unwrap();
    });
    assert_eq!(in_thread(|| mount.read(&id)).unwrap(), authenticated("new"));
    assert_eq!(logged(&mount, "change=\"removal\""), 0);
}

#[test]
fn an_own_removal_is_carried_out_if_no_save_follows() {
    let (mut redis, mount) = node();
    let id = sid("ab", 1);
    mount.save(&id, &authenticated("old")).unwrap();
    in_thread(|| {
        let listed = opened_and_listed(&mount, &id);
        redis.kill();
        until(&mount, || mount.log().contains("state=\"down\""));
        fs::remove_file(&listed).unwrap();
    });
    mount.wait_for_log("change_kept");
    assert_eq!(in_thread(|| errno(mount.read(&id))), libc::ENOENT);
    redis.restart();
    until_sent(&mount);
    until(&mount, || in_thread(|| mount.read(&id)).is_err());
    assert_eq!(in_thread(|| errno(mount.read(&id))), libc::ENOENT);
}

#[test]
fn an_own_removal_is_taken_back_by_a_save_that_fails_at_its_first_write() {
    let redis = Redis::start_with(&DURABLE);
    let short = "[outage]\nwait_step = \"200ms\"\nwait_total = \"1s\"";
    let mount = Mount::start(&redis, short);
    let mut redis = redis;
    let id = sid("ab", 1);
    mount.save(&id, &authenticated("old")).unwrap();
    in_thread(|| {
        let listed = opened_and_listed(&mount, &id);
        redis.kill();
        until(&mount, || mount.log().contains("state=\"down\""));
        fs::remove_file(&listed).unwrap();
        assert_eq!(errno(mount.save(&id, &authenticated("new"))), libc::EIO);
    });
    // Longer than a removal is held.
    std::thread::sleep(Duration::from_millis(1500));
    redis.restart();
    until(&mount, || in_thread(|| mount.read(&id)).is_ok());
    assert_eq!(in_thread(|| mount.read(&id)).unwrap(), authenticated("old"));
    assert_eq!(logged(&mount, "change_kept"), 0);
}

#[test]
fn a_visitors_save_after_a_failed_read_replaces_nobody() {
    let redis = Redis::start_with(&DURABLE);
    let short = "[outage]\nwait_step = \"100ms\"\nwait_total = \"500ms\"";
    let mount = Mount::start(&redis, short);
    let mut redis = redis;
    let id = sid("ab", 1);
    mount.save(&id, &authenticated("old")).unwrap();
    in_thread(|| {
        redis.kill();
        assert_eq!(errno(mount.read(&id)), libc::EIO);
        redis.restart();
        until(&mount, || in_thread(|| mount.read(&id)).is_ok());
        // The one error that this thread owes.
        assert_eq!(errno(mount.stage(b"{}")), libc::EIO);
        let saving = Saving::begin(&mount, &id, &anonymous("empty"));
        redis.kill();
        fs::rename(&saving.temp, &saving.target).unwrap();
    });
    // Nobody is shown it before Redis has decided.
    assert_ne!(in_thread(|| mount.read(&id)).ok(), Some(anonymous("empty")));
    redis.restart();
    mount.wait_for_log("reason=\"refused\"");
    until(&mount, || in_thread(|| mount.read(&id)).is_ok());
    assert_eq!(in_thread(|| mount.read(&id)).unwrap(), authenticated("old"));
}

#[test]
fn who_was_active_while_redis_took_no_writes_stays_logged_in() {
    const IDLE: Duration = Duration::from_secs(2);
    let redis = Redis::start_with(&DURABLE);
    let short = format!(
        "[outage]\nwait_step = \"200ms\"\nwait_total = \"1s\"\n[lifetime]\nidle = \"{}s\"",
        IDLE.as_secs()
    );
    let (mount, other) = (Mount::start(&redis, &short), Mount::start(&redis, &short));
    let (saved, read, there) = (sid("ab", 1), sid("Cd", 2), sid("Ef", 3));
    for id in [&saved, &read, &there] {
        mount.save(id, &authenticated("old")).unwrap();
    }
    in_thread(|| {
        mount.read(&saved).unwrap();
        let saving = Saving::begin(&mount, &saved, &authenticated("new"));
        let _: () = redis.run("REPLICAOF 127.0.0.1 1");
        saving.end();
    });
    let begun = Instant::now();
    while begun.elapsed() < 3 * IDLE {
        assert_eq!(in_thread(|| mount.read(&saved)).unwrap(), authenticated("new"));
        in_thread(|| mount.read(&read)).unwrap();
        in_thread(|| other.read(&there)).unwrap();
        std::thread::sleep(IDLE / 8);
    }
    let _: () = redis.run("REPLICAOF NO ONE");
    // The server that has not served it meanwhile asks first.
    in_thread(|| other.read(&read)).unwrap();
    until_sent(&mount);
    assert_eq!(in_thread(|| other.read(&saved)).unwrap(), authenticated("new"));
    assert_eq!(logged(&mount, "change_dropped"), 0);
}
