//! A worker dies, is stuck, or is replaced, and callers notice a pause at most.
//!
//! Everything is tried in both ways: with a kernel that sends requests again (Linux 6.9 and later), and without.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rand::Rng;

use support::load::{Load, OWNER};
use support::mount::{Mount, authenticated, errno, sid, temp_name};
use support::redis::Redis;

/// What `SESSIONFS_KERNEL_WITHOUT` is set to in each way, and its name.
const WAYS: [(&str, &str); 2] = [("RESEND", ""), ("replay", "resend")];

fn node(without: &str, configuration: &str) -> (Redis, Mount) {
    let redis = Redis::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
    command.env("SESSIONFS_KERNEL_WITHOUT", without);
    let mount = Mount::start_owned_in(&redis, configuration, OWNER, command);
    (redis, mount)
}

fn in_each_way(test: impl Fn(&Redis, &mut Mount)) {
    for (_, without) in WAYS {
        let (redis, mut mount) = node(without, "");
        test(&redis, &mut mount);
    }
}

fn send(pid: u32, signal: Signal) {
    // One that has just ended is no error.
    let _ = kill(Pid::from_raw(pid.try_into().unwrap()), signal);
}

/// Kills the worker, and waits until the next one serves.
fn succeed(mount: &mut Mount) {
    let worker = mount.worker();
    send(worker, Signal::SIGKILL);
    mount.wait_until_served();
    assert_ne!(mount.worker(), worker);
}

/// How many kills: enough to see a pattern, and more for `SESSIONFS_TEST_KILLS`.
fn kills() -> u32 {
    let named = std::env::var("SESSIONFS_TEST_KILLS").ok();
    named.and_then(|number| number.parse().ok()).unwrap_or(12)
}

/// Prints what callers have seen of kills at random moments, also in the midst of a recovery.
#[test]
fn callers_see_no_error_of_killed_workers() {
    println!("{:<8} {:>6} {:>10} {:>9}  errors", "way", "kills", "operations", "worst");
    for (way, without) in WAYS {
        let (_redis, mount) = node(without, "");
        let load = Load::start(&mount, 1);
        let mut rng = rand::rng();
        for _ in 0..kills() {
            // A recovery takes some 100 ms.
            let pause_ms = if rng.random_bool(0.3) { 20..150 } else { 300..900 };
            thread::sleep(Duration::from_millis(rng.random_range(pause_ms)));
            if let Some(worker) = mount.any_worker() {
                send(worker, Signal::SIGKILL);
            }
        }
        thread::sleep(Duration::from_secs(1));
        let seen = load.end(&mount);
        println!(
            "{way:<8} {:>6} {:>10} {:>6} ms  {:?} ({})",
            kills(),
            seen.operations,
            seen.worst_ms,
            seen.errors,
            seen.worst
        );
        assert!(seen.errors.is_empty(), "{way}: {:?}\n{}", seen.errors, mount.log());
        assert!(seen.operations > 50, "{seen:?}");
    }
}

#[test]
fn an_open_file_is_read_on() {
    in_each_way(|_, mount| {
        let sid = sid("aa", 1);
        let content = authenticated(&"x".repeat(100_000));
        mount.save(&sid, &content).unwrap();
        // The page cache has none of it.
        let mut open = File::open(mount.sharded(&sid)).unwrap();
        succeed(mount);
        mount.save(&sid, &authenticated("new")).unwrap();
        assert_eq!(open.metadata().unwrap().len(), content.len() as u64);
        let mut read = Vec::new();
        open.read_to_end(&mut read).unwrap();
        assert_eq!(read, content);
        assert_eq!(mount.read(&sid).unwrap(), authenticated("new"));
    });
}

#[test]
fn a_save_under_way_completes() {
    in_each_way(|_, mount| {
        let sid = sid("aa", 1);
        let temp = mount.path().join(temp_name());
        let mut file = File::create_new(&temp).unwrap();
        succeed(mount);
        file.write_all(b"half").unwrap();
        succeed(mount);
        file.write_all(b" and half").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 13);
        drop(file);
        succeed(mount);
        std::fs::rename(&temp, mount.sharded(&sid)).unwrap();
        assert_eq!(mount.read(&sid).unwrap(), b"half and half");
    });
}

#[test]
fn a_listing_half_read_goes_on() {
    in_each_way(|_, mount| {
        let number = 2000;
        for one in 0..number {
            mount.save(&sid("aa", one), &authenticated("x")).unwrap();
        }
        let mut entries = std::fs::read_dir(mount.path().join("aa")).unwrap();
        let mut names: Vec<_> =
            entries.by_ref().take(10).map(|one| one.unwrap().file_name()).collect();
        succeed(mount);
        names.extend(entries.map(|one| one.unwrap().file_name()));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), usize::try_from(number).unwrap());
        // By its listed name, which no session id is.
        let first = mount.path().join("aa").join(&names[0]);
        succeed(mount);
        assert!(first.metadata().unwrap().size() > 0);
    });
}

/// Both renames are in flight when the worker dies.
#[test]
fn two_saves_of_one_session_are_both_whole() {
    for (_, without) in WAYS {
        let (mut redis, mut mount) = node(without, "");
        let session = sid("aa", 1);
        mount.save(&session, &authenticated("first")).unwrap();
        let contents = ["one", "other"].map(|note| authenticated(&note.repeat(10_000)));
        let staged = contents.each_ref().map(|content| mount.stage(content).unwrap());
        redis.pause();
        let savers = staged.map(|staged| {
            let target = mount.sharded(&session);
            thread::spawn(move || std::fs::rename(staged, target))
        });
        // What is not answered within a moment is kept on this host, and sent later.
        succeed(&mut mount);
        redis.resume();
        for saver in savers {
            saver.join().unwrap().unwrap();
        }
        let read = mount.read(&session).unwrap();
        assert!(contents.contains(&read), "{} bytes", read.len());
        // None is repeated later.
        let newest = authenticated("newest");
        mount.save(&session, &newest).unwrap();
        succeed(&mut mount);
        let read = mount.read(&session).unwrap();
        assert!(read == newest, "{} bytes: {}", read.len(), mount.log());
    }
}

/// Its life is not known while Redis is away, and may be another than expected.
#[test]
fn a_kept_save_of_a_session_that_was_not_read_outlives_its_worker() {
    for (_, without) in WAYS {
        let (mut redis, mut mount) = node(without, "");
        let session = sid("aa", 1);
        mount.save(&session, &authenticated("first")).unwrap();
        let newest = authenticated("newest");
        let staged = mount.stage(&newest).unwrap();
        let target = mount.sharded(&session);
        redis.pause();
        // Another thread, which has not read it.
        thread::spawn(move || std::fs::rename(staged, target)).join().unwrap().unwrap();
        succeed(&mut mount);
        redis.resume();
        mount.wait_for_log("change_sent");
        assert_eq!(mount.read(&session).unwrap(), newest);
    }
}

/// The kernel asks to interrupt its request, and then waits for the answer.
#[test]
fn a_client_that_is_killed_while_it_waits_ends_with_the_answer() {
    for (_, without) in WAYS {
        let (mut redis, mut mount) = node(without, "[outage]\nwait_total = \"2min\"\n");
        let session = sid("aa", 1);
        mount.save(&session, &authenticated("x")).unwrap();
        redis.pause();
        let mut clients = [(); 2].map(|()| {
            let path = mount.sharded(&session);
            Command::new("cat").arg(path).stdout(std::process::Stdio::null()).spawn().unwrap()
        });
        mount.wait_for_log("state=\"down\"");
        // One while the first worker has its request, one while the next has.
        clients[0].kill().unwrap();
        succeed(&mut mount);
        clients[1].kill().unwrap();
        succeed(&mut mount);
        redis.resume();
        for client in &mut clients {
            support::http::until("it ends", || client.try_wait().unwrap().is_some());
        }
        support::http::until("it is read", || mount.read(&session).is_ok());
    }
}

/// A WRITE carries at most 128 KiB, so this takes several, each of which more than a page.
#[test]
fn large_writes_are_made_once_and_in_their_places() {
    for (_, without) in WAYS {
        let (mut redis, mut mount) = node(without, "[outage]\nwait_total = \"2min\"\n");
        let session = sid("aa", 1);
        let content: Vec<u8> =
            (0..1_500_000_u32).map(|number| b'a' + u8::try_from(number % 23).unwrap()).collect();
        let content = authenticated(std::str::from_utf8(&content).unwrap());
        let temp = mount.path().join(temp_name());
        let mut file = File::create_new(&temp).unwrap();
        redis.pause();
        let path = mount.sharded(&sid("bb", 2));
        // Somebody notices that Redis does not answer.
        let noticing = thread::spawn(move || std::fs::read(path));
        mount.wait_for_log("state=\"down\"");
        let writer = {
            let content = content.clone();
            thread::spawn(move || {
                for part in content.chunks(400_000) {
                    file.write_all(part).unwrap();
                }
            })
        };
        // The first one waits for Redis.
        succeed(&mut mount);
        redis.resume();
        while !writer.is_finished() {
            if let Some(worker) = mount.any_worker() {
                send(worker, Signal::SIGKILL);
            }
            // Also during a recovery, but not always: on a slow host none would ever answer.
            if rand::rng().random_bool(0.5) {
                mount.wait_until_served();
            }
            thread::sleep(Duration::from_millis(rand::rng().random_range(200..500)));
        }
        writer.join().unwrap();
        let _ = noticing.join().unwrap();
        std::fs::rename(&temp, mount.sharded(&session)).unwrap();
        let read = mount.read(&session).unwrap();
        assert!(read == content, "{} bytes of {}", read.len(), content.len());
    }
}

/// Each entry that READDIRPLUS shows counts as a look-up. An inode that is counted too low is gone too early.
#[test]
fn what_a_listing_has_shown_is_known_when_all_is_forgotten() {
    in_each_way(|_, mount| {
        for one in 0..50 {
            mount.save(&sid("aa", one), &authenticated("x")).unwrap();
        }
        let mut open = File::open(mount.sharded(&sid("aa", 1))).unwrap();
        let list = |mount: &Mount| {
            let entries = std::fs::read_dir(mount.path().join("aa")).unwrap();
            entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum::<u64>()
        };
        let shown = list(mount);
        for _ in 0..3 {
            succeed(mount);
            assert_eq!(list(mount), shown);
        }
        // The kernel forgets what nobody uses, also look-ups of workers that have died.
        std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        succeed(mount);
        assert_eq!(list(mount), shown);
        let mut read = Vec::new();
        open.read_to_end(&mut read).unwrap();
        assert_eq!(read, authenticated("x"));
        assert_eq!(open.metadata().unwrap().len(), read.len() as u64);
    });
}

#[test]
fn who_waits_is_answered_by_the_next_worker() {
    for (_, without) in WAYS {
        let (mut redis, mut mount) = node(without, "");
        let sid = sid("aa", 1);
        mount.save(&sid, &authenticated("x")).unwrap();
        redis.pause();
        let path = mount.sharded(&sid);
        let reader = thread::spawn(move || std::fs::read(path));
        mount.wait_for_log("state=\"down\"");
        succeed(&mut mount);
        succeed(&mut mount);
        assert!(!reader.is_finished());
        redis.resume();
        assert_eq!(reader.join().unwrap().unwrap(), authenticated("x"));
    }
}

#[test]
fn a_stuck_worker_is_succeeded() {
    for (_, without) in WAYS {
        let (_redis, mount) = node(without, "[worker]\nanswer_within = \"1s\"\n");
        let sid = sid("aa", 1);
        mount.save(&sid, &authenticated("x")).unwrap();
        send(mount.worker(), Signal::SIGSTOP);
        let began = Instant::now();
        assert_eq!(mount.read(&sid).unwrap(), authenticated("x"));
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        mount.wait_for_log("worker_stuck");
    }
}

/// Stops one thread of a worker as a debugger does, at work (when it makes a system call other than `read`) or at once,
/// until the worker has ended.
fn stop_thread(worker: u32, name: &str, at_work: bool) {
    let tasks = format!("/proc/{worker}/task");
    let thread =
        std::fs::read_dir(&tasks).unwrap().map(|entry| entry.unwrap().path()).find(|path| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        });
    let thread = thread.unwrap_or_else(|| panic!("no thread {name}"));
    let id = Pid::from_raw(thread.file_name().unwrap().to_str().unwrap().parse().unwrap());
    let (began, has_begun) = std::sync::mpsc::channel();
    // The thread that begins to trace is the only one that may go on with it.
    thread::spawn(move || {
        let next = || waitpid(id, Some(WaitPidFlag::__WALL)).unwrap();
        ptrace::seize(id, ptrace::Options::PTRACE_O_TRACESYSGOOD).unwrap();
        ptrace::interrupt(id).unwrap();
        next();
        began.send(()).unwrap();
        // -1: it runs its own code, which may be on the way to the next read.
        let is_at_work = || {
            let call = std::fs::read_to_string(thread.join("syscall")).unwrap();
            let number = call.split(' ').next().unwrap().parse::<libc::c_long>();
            number.is_ok_and(|number| number >= 0 && number != libc::SYS_read)
        };
        while at_work && !is_at_work() {
            ptrace::syscall(id, None).unwrap();
            if matches!(next(), WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
                return;
            }
        }
        while !matches!(next(), WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {}
    });
    has_begun.recv().unwrap();
}

/// Each of the threads that requests depend on. The mount answers all the same, if another thread reads requests.
#[test]
fn a_worker_with_a_stuck_thread_is_succeeded() {
    for (name, at_work) in [("store", false), ("fuser-0", true), ("fuser-1", true)] {
        let (_redis, mount) = node("", "[worker]\nanswer_within = \"1s\"\n");
        let mount = std::sync::Arc::new(mount);
        let sid = sid("aa", 1);
        mount.save(&sid, &authenticated("x")).unwrap();
        let worker = mount.worker();
        stop_thread(worker, name, at_work);
        let (read, was_read) = std::sync::mpsc::channel();
        let reader = std::sync::Arc::clone(&mount);
        thread::spawn(move || {
            // Until each thread has had one.
            while reader.any_worker() == Some(worker) {
                read.send(reader.read(&sid)).unwrap();
            }
            read.send(reader.read(&sid)).unwrap();
        });
        while let Ok(content) = was_read.recv_timeout(Duration::from_secs(10)) {
            assert_eq!(content.unwrap(), authenticated("x"));
        }
        assert_ne!(mount.any_worker(), Some(worker), "{name}: {}", mount.log());
        // By itself; or by the keeper, where the thread held what the others need to answer.
        let log = mount.log();
        let noticed = ["is stuck: this worker ends", "event=\"worker_stuck\""];
        assert!(noticed.iter().any(|line| log.contains(line)), "{name}: {log}");
    }
}

/// Of crashes, and not of somebody's kill, a request that is under way may be the cause. It is found by trials, so that
/// others that waited meanwhile do not fail with it.
#[test]
fn a_request_that_three_workers_died_of_fails_alone() {
    for (_, without) in WAYS {
        let (mut redis, mut mount) = node(without, "[outage]\nwait_total = \"2min\"\n");
        let (poison, innocent) = (sid("aa", 1), sid("bb", 2));
        for session in [&poison, &innocent] {
            mount.save(session, &authenticated("x")).unwrap();
        }
        redis.pause();
        let [reader, waiting] = [&poison, &innocent].map(|session| {
            let path = mount.sharded(session);
            thread::spawn(move || std::fs::read(path))
        });
        mount.wait_for_log("state=\"down\"");
        send(mount.worker(), Signal::SIGABRT);
        mount.wait_until_served();
        send(mount.worker(), Signal::SIGABRT);
        // From now on a worker dies when it tries that one. A death that comes too late does not count, and the next
        // worker tries it again.
        let (mut trials, mut died) = (0, Instant::now());
        support::http::until("it fails", || {
            let log = mount.log();
            let tried: Vec<_> =
                log.lines().filter(|line| line.contains("is replayed alone")).collect();
            let is_tried = tried.last().is_some_and(|line| line.contains("alias=aa"));
            let is_late = died.elapsed() > Duration::from_secs(4);
            if (is_late || is_tried && tried.len() > trials)
                && let Some(worker) = mount.any_worker()
            {
                (trials, died) = (tried.len(), Instant::now());
                send(worker, Signal::SIGABRT);
            }
            reader.is_finished()
        });
        let error = reader.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        let log = mount.log();
        let line = log.lines().find(|line| line.contains("because workers died of it")).unwrap();
        assert!(line.contains("operation=\"open\"") && line.contains("alias=aa"), "{line}");
        redis.resume();
        assert_eq!(waiting.join().unwrap().unwrap(), authenticated("x"));
        // Its browser asks again, which costs no worker.
        let worker = mount.any_worker();
        assert_eq!(errno(mount.read(&poison)), libc::EIO);
        assert_eq!(mount.read(&innocent).unwrap(), authenticated("x"));
        mount.unlink(&poison).unwrap();
        assert_eq!(errno(mount.read(&poison)), libc::ENOENT);
        assert_eq!(mount.any_worker(), worker);
    }
}

/// Contents that are written wait for Redis, more than can be recorded. On a kernel that does not send them again
/// whoever was not recorded would wait for ever.
#[test]
fn more_writes_than_can_be_recorded_outlive_a_worker() {
    const WRITERS: usize = 240;
    for (_, without) in WAYS {
        let (mut redis, mut mount) = node(without, "[outage]\nwait_total = \"2min\"\n");
        let content = [authenticated("x"), vec![b' '; 120 * 1024]].concat();
        mount.save(&sid("aa", 0), &content).unwrap();
        redis.pause();
        mount.wait_for_log("state=\"down\"");
        let (wrote, written) = std::sync::mpsc::channel();
        for _ in 0..WRITERS {
            let path = mount.path().join(temp_name());
            let (content, wrote) = (content.clone(), wrote.clone());
            thread::spawn(move || {
                // A write that is interrupted is repeated.
                let result = File::create(path).and_then(|mut file| file.write_all(&content));
                let _ = wrote.send(result);
            });
        }
        if without == "resend" {
            mount.wait_for_log("no more requests can be recorded");
        }
        for _ in 0..2 {
            succeed(&mut mount);
        }
        redis.resume();
        for number in 0..WRITERS {
            let result = written.recv_timeout(Duration::from_secs(30));
            let result =
                result.unwrap_or_else(|_| panic!("{number} have written: {}", mount.log()));
            result.unwrap();
        }
    }
}

/// Nobody is served meanwhile: each dies in its recovery, which takes its time because of a trial.
#[test]
fn a_mount_is_not_given_up_for_kills_in_recoveries() {
    const TOLD: &str = "the worker is told to serve";
    let (mut redis, mut mount) = node("", "[outage]\nwait_total = \"2min\"\n");
    let sid = sid("aa", 1);
    mount.save(&sid, &authenticated("x")).unwrap();
    redis.pause();
    let path = mount.sharded(&sid);
    let reader = thread::spawn(move || std::fs::read(path));
    mount.wait_for_log("state=\"down\"");
    for _ in 0..2 {
        send(mount.worker(), Signal::SIGABRT);
        mount.wait_until_served();
    }
    let began = Instant::now();
    let mut told = mount.log().matches(TOLD).count();
    send(mount.worker(), Signal::SIGKILL);
    while began.elapsed() < Duration::from_secs(33) {
        support::http::until("the next one is told", || mount.log().matches(TOLD).count() > told);
        told = mount.log().matches(TOLD).count();
        if let Some(worker) = mount.any_worker() {
            send(worker, Signal::SIGKILL);
        }
    }
    redis.resume();
    assert_eq!(reader.join().unwrap().unwrap(), authenticated("x"));
    assert!(!mount.log().contains("the mount is removed"));
}

/// Kills a worker, and then its successor by this signal, before that one is seen to answer.
fn end_in_recovery(mount: &mut Mount, signal: Signal) {
    const TOLD: &str = "the worker is told to serve";
    const FAILED: &str = "the mount is not served; retrying";
    const TRIES: usize = 50;
    let number = |mount: &Mount, of: &str| mount.log().matches(of).count();
    for _ in 0..TRIES {
        let (told, failed) = (number(mount, TOLD), number(mount, FAILED));
        let worker = mount.worker();
        send(worker, Signal::SIGKILL);
        while number(mount, TOLD) == told {}
        send(mount.worker(), signal);
        mount.wait_until_served();
        if number(mount, FAILED) > failed {
            return;
        }
        // It was seen to answer before.
        mount.wait_until_served();
    }
    panic!("none was ended in its recovery:\n{}", mount.log());
}

#[test]
fn a_worker_is_told_how_one_has_ended_that_did_not_answer_yet() {
    let (_redis, mut mount) = node("", "");
    for (signal, after) in [(Signal::SIGABRT, "after=Crashed"), (Signal::SIGKILL, "after=Killed")] {
        end_in_recovery(&mut mount, signal);
        let log = mount.log();
        let told = log.lines().rfind(|line| line.contains("is told to serve")).unwrap();
        assert!(told.contains(after), "{told}");
    }
}

#[test]
fn a_reload_whose_worker_dies_when_it_is_ready_changes_nothing() {
    let (_redis, mut mount) = node("", "");
    let worker = mount.worker();
    // So it does not say that it has written what it has collected.
    send(worker, Signal::SIGSTOP);
    thread::scope(|scope| {
        let reload = scope.spawn(|| mount.command("reload"));
        mount.wait_for_log("the new worker is ready");
        send(mount.worker(), Signal::SIGKILL);
        let (code, said) = reload.join().unwrap();
        assert_ne!(code, Some(0), "{said}");
        send(worker, Signal::SIGCONT);
    });
    assert_eq!(mount.worker(), worker);
    let sid = sid("aa", 1);
    mount.save(&sid, &authenticated("x")).unwrap();
    // And it can be succeeded as before.
    succeed(&mut mount);
    assert_eq!(mount.read(&sid).unwrap(), authenticated("x"));
}

#[test]
fn a_connection_that_the_kernel_ends_is_replaced() {
    in_each_way(|_, mount| {
        let sid = sid("aa", 1);
        mount.save(&sid, &authenticated("x")).unwrap();
        // In use, it stays in the mount table, and every call fails.
        let _used = File::open(mount.path()).unwrap();
        let refused = umount2(&mount.path(), MntFlags::MNT_FORCE);
        assert_eq!(refused, Err(nix::errno::Errno::EBUSY));
        mount.wait_until_served();
        assert_eq!(mount.read(&sid).unwrap(), authenticated("x"));
        assert!(mount.log().contains("the kernel has ended the connection"));
    });
}

#[test]
fn an_unmount_while_nobody_serves_is_an_end() {
    in_each_way(|_, mount| {
        let keeper = mount.keeper();
        send(keeper, Signal::SIGSTOP);
        send(mount.worker(), Signal::SIGKILL);
        umount2(&mount.path(), MntFlags::UMOUNT_NOFOLLOW).unwrap();
        send(keeper, Signal::SIGCONT);
        assert_eq!(mount.wait(), Some(0), "{}", mount.log());
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(mount.path().to_str().unwrap()));
    });
}

#[test]
fn an_end_releases_who_waits() {
    for (_, without) in WAYS {
        let (_redis, mount) = node(without, "[worker]\nanswer_within = \"10min\"\n");
        let session = sid("aa", 1);
        mount.save(&session, &authenticated("x")).unwrap();
        send(mount.worker(), Signal::SIGSTOP);
        let path = mount.sharded(&session);
        let reader = thread::spawn(move || std::fs::read(path));
        thread::sleep(Duration::from_millis(100));
        assert!(!reader.is_finished());
        let (code, said) = mount.command("unmount");
        assert_eq!(code, Some(0), "{said}");
        assert!(reader.join().unwrap().is_err());
    }
}

#[test]
fn a_mount_that_cannot_be_served_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("sessionfs");
    // Not by this process, which another test may fork meanwhile: nobody may hold it open for writing.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_sessionfs")).arg(&program).status();
    assert!(copied.unwrap().success());
    let redis = Redis::start();
    let mut mount = Mount::start_in(&redis, "", Command::new(&program));
    let session = sid("aa", 1);
    mount.save(&session, &authenticated("x")).unwrap();
    // No further worker can be started.
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    send(mount.worker(), Signal::SIGKILL);
    let path = mount.sharded(&session);
    let reader = thread::spawn(move || std::fs::read(path));
    mount.wait_for_log("the mount is not served; retrying");
    let code = mount.wait();
    assert_eq!(
        code,
        Some(u8::from(sessionfs::exit::ExitCode::WorkerFailed).into()),
        "{}",
        mount.log()
    );
    assert!(reader.join().unwrap().is_err());
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(mount.path().to_str().unwrap()));
}
