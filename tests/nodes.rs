//! Nodes that differ, come and go, or may remember little: what people see stays the same.
//!
//! That a late retry on two nodes never undoes a newer change is held by the store's own tests and
//! by the model.

mod support;

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use support::mount::{Mount, anonymous, authenticated, sid};
use support::redis::Redis;

/// Answers are in whole milliseconds, and ours are not.
const ROUNDING: Duration = Duration::from_millis(2);
/// No outage of these tests is longer.
const OUTAGE: Duration = Duration::from_secs(1);

#[test]
fn nodes_whose_clocks_differ_by_an_hour_agree_when_a_session_ends() {
    const IDLE: Duration = Duration::from_secs(3);
    let redis = Redis::start();
    let configuration = "[lifetime]\nidle = \"3s\"\n";
    let here = Mount::start(&redis, configuration);
    let ahead = Mount::start_in(&redis, configuration, an_hour_ahead());
    assert_is_an_hour_ahead(&ahead);

    let cases = [(&here, &ahead, 1), (&ahead, &here, 2), (&here, &here, 3), (&ahead, &ahead, 4)];
    std::thread::scope(|scope| {
        for (saver, judge, seed) in cases {
            scope.spawn(move || {
                let sid = sid("ab", seed);
                let before = Instant::now();
                saver.save(&sid, &authenticated("x")).expect("saved");
                ends_between(judge, &sid, before + IDLE, Instant::now() + IDLE);
            });
        }
        // A use on the one node counts on the other, from its own second on.
        scope.spawn(|| {
            let sid = sid("ab", 5);
            here.save(&sid, &authenticated("x")).expect("saved");
            let half = Instant::now() + IDLE / 2;
            while Instant::now() < half {
                std::fs::metadata(here.sharded(&sid)).expect("alive");
            }
            let before = Instant::now();
            ahead.read(&sid).expect("alive");
            // A node's estimate of Redis's clock is never ahead of it, but a little behind.
            let least = Duration::from_millis(2_500);
            ends_between(&here, &sid, before + least, Instant::now() + IDLE);
        });
    });
    // The saves of both carry Redis's time.
    here.save(&sid("ab", 6), &anonymous("x")).expect("saved");
    ahead.save(&sid("ab", 7), &anonymous("x")).expect("saved");
    for seed in [6, 7] {
        let mtime = std::fs::metadata(here.sharded(&sid("ab", seed))).unwrap().modified().unwrap();
        let age = SystemTime::now().duration_since(mtime).unwrap_or_default();
        assert!(mtime <= SystemTime::now() && age < Duration::from_secs(60), "{age:?}");
    }
}

/// Whether a request of this node was overdue, as on a machine that is busy: what such an outage takes
/// counts for nobody.
fn was_overdue(node: &Mount) -> bool {
    node.log().contains("state=\"degraded\"")
}

/// Asks without end (`stat` is no activity) until the session is gone: no answer that was asked for
/// after `latest` says that it lives, and none that came before `earliest` that it does not.
fn ends_between(node: &Mount, sid: &str, earliest: Instant, latest: Instant) {
    loop {
        let asked = Instant::now();
        match std::fs::metadata(node.sharded(sid)) {
            Ok(_) => {
                let late = asked.saturating_duration_since(latest);
                let granted = if was_overdue(node) { OUTAGE } else { Duration::ZERO };
                assert!(late <= granted, "it lives {late:?} too long");
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
                let answered = Instant::now();
                assert!(
                    answered + ROUNDING >= earliest,
                    "it ends {:?} too early",
                    earliest - answered
                );
                return;
            }
        }
    }
}

/// The daemon with a wall clock an hour ahead: the library of the package `faketime`, by the name
/// that the loader completes. Its program would be the parent of the daemon, and it refuses a pid
/// whose semaphore a killed one left.
fn an_hour_ahead() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
    command
        .env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketime.so.1")
        .env("FAKETIME", "+1h")
        // Waits for a monotonic time go past the library.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}

/// It is the worker that judges: the times of its own log lines tell its clock.
fn assert_is_an_hour_ahead(node: &Mount) {
    const NAME: &str = "nobody-looks-for-this";
    assert!(std::fs::metadata(node.path().join(NAME)).is_err());
    node.wait_for_log("sessionfs::fuse");
    let log = node.log();
    let line = log.lines().find(|line| line.contains("sessionfs::fuse")).expect("a line");
    let time = line.split_whitespace().next().expect("a time");
    let time = humantime::parse_rfc3339(time).expect("a time");
    let ahead = time.duration_since(SystemTime::now()).expect("ahead");
    assert!(ahead > Duration::from_secs(59 * 60), "only {ahead:?}: {line}");
}

#[test]
fn a_restart_of_a_node_leaves_its_sessions() {
    let redis = Redis::start();
    let (user, visitor) = (sid("ab", 1), sid("cd", 2));
    let node = Mount::start(&redis, "");
    node.save(&user, &authenticated("x")).expect("saved");
    node.save(&visitor, &anonymous("x")).expect("saved");
    node.stop();

    let node = Mount::start(&redis, "");
    assert_eq!(node.read(&user).expect("alive"), authenticated("x"));
    assert_eq!(node.read(&visitor).expect("alive"), anonymous("x"));
    node.save(&user, &authenticated("y")).expect("saved");
    assert_eq!(node.read(&user).expect("alive"), authenticated("y"));
    assert_eq!(node.list(&node.path()), ["ab", "cd"]);
}

#[test]
fn a_killed_redis_comes_back_with_what_was_acknowledged() {
    let mut redis = Redis::start_with(&[
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--unixsocketperm",
        "777",
    ]);
    // However long this machine takes for a restart or for an answer.
    let patient = "[redis]\nrequest_timeout = \"5s\"\n[outage]\nwait_total = \"5min\"";
    let nodes = [Mount::start(&redis, patient), Mount::start(&redis, patient)];
    let sid = sid("ab", 1);
    for round in 0..3 {
        let content = authenticated(&round.to_string());
        nodes[round % 2].save(&sid, &content).expect("saved");
        redis.kill();
        std::thread::scope(|scope| {
            // Reads begun meanwhile wait, and find it.
            let readers = nodes.each_ref().map(|node| scope.spawn(|| node.read(&sid)));
            redis.restart();
            for reader in readers {
                assert_eq!(reader.join().expect("no panic").expect("read"), content);
            }
        });
        // Whether the link is well again is known by a read.
        for node in &nodes {
            assert_eq!(node.read(&sid).expect("read"), content);
        }
    }
    assert_eq!(nodes[0].list(&nodes[0].path().join("ab")).len(), 1);
}

#[test]
fn a_node_with_little_room_forgets_and_serves_all() {
    const SESSIONS: u64 = 3_000;
    // The least that is taken.
    const BOUND: u64 = 1_000;
    let redis = Redis::start();
    let node = Mount::start(&redis, &format!("[limits]\ninodes = {BOUND}\n"));
    let sids: Vec<String> = (0..SESSIONS).map(|seed| sid("ab", seed)).collect();
    let content = |sid: &str| authenticated(&sid[..40]);
    for sid in &sids {
        node.save(sid, &content(sid)).expect("saved");
    }
    for sid in &sids {
        assert!(node.read(sid).expect("there") == content(sid));
    }
    let inode = |sid: &String| std::fs::metadata(node.sharded(sid)).expect("there").ino();
    // A version has one inode number until the kernel has forgotten it; then it gets another.
    let first: BTreeSet<u64> = sids.iter().map(inode).collect();
    let kept = sids.iter().map(inode).filter(|number| first.contains(number)).count() as u64;
    assert!(kept <= BOUND + BOUND / 4, "{kept} of {SESSIONS} were never forgotten");
    // Nothing of those forgotten stays: each round makes thousands of nodes.
    let before = resident_bytes(&node);
    for _ in 0..4 {
        for sid in &sids {
            inode(sid);
        }
    }
    let grown = resident_bytes(&node).saturating_sub(before);
    assert!(grown < 4 << 20, "grown by {} KiB", grown >> 10);
    // An open file outlives the forgetting of its name.
    let mut open = std::fs::File::open(node.sharded(&sids[0])).expect("there");
    for sid in &sids[1..] {
        inode(sid);
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut open, &mut bytes).expect("read");
    assert!(bytes == content(&sids[0]));
}

fn resident_bytes(node: &Mount) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", node.worker())).expect("a status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib << 10
}
