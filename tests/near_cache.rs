//! The near cache on real mounts: what is answered without asking Redis, what another server changes, and what is seen
//! while Redis does not answer.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use support::http::{metric, until};
use support::mount::{Mount, authenticated, errno, in_thread, sid};
use support::redis::Redis;

const NEAR: &str = "[near_cache]\nfreshness = \"near\"\n";
const STRICT: &str = "[near_cache]\nfreshness = \"strict\"\n";

/// How often a session was known, and how often Redis was asked.
fn hits_and_misses(mount: &Mount) -> (f64, f64) {
    let count =
        |what| metric(mount, &format!("sessionfs_near_cache_{what}_total")).expect("a metric");
    (count("hits"), count("misses"))
}

/// Two servers on one Redis.
fn nodes(configuration: &str) -> (Redis, [Mount; 2]) {
    let redis = Redis::start();
    let nodes = [(); 2].map(|()| Mount::start(&redis, configuration));
    (redis, nodes)
}

/// Before what is known would be asked for again whatever is told. Nearly always it takes less than a millisecond.
fn soon_reads(mount: &Mount, sid: &str, content: &[u8]) {
    let end = Instant::now() + Duration::from_secs(3);
    while mount.read(sid).ok().as_deref() != Some(content) {
        assert!(Instant::now() < end, "it was not told that the session has changed");
        std::thread::yield_now();
    }
}

fn eventually_ends(mount: &Mount, sid: &str) {
    until("it has ended", || errno_of(mount, sid) == Some(libc::ENOENT));
}

fn errno_of(mount: &Mount, sid: &str) -> Option<i32> {
    mount.read(sid).err().and_then(|error| error.raw_os_error())
}

#[test]
fn what_is_known_is_read_without_asking_redis() {
    let (_redis, [one, other]) = nodes(NEAR);
    let sid = sid("ab", 1);
    one.save(&sid, &authenticated("x")).unwrap();
    for _ in 0..100 {
        assert_eq!(one.read(&sid).unwrap(), authenticated("x"));
        assert_eq!(other.read(&sid).unwrap(), authenticated("x"));
    }
    // The server that has saved it knows it from the beginning. The other one asks at first, and once more for a use of
    // the session that the first one has written down.
    for (node, most) in [(&one, 2.0), (&other, 5.0)] {
        let (hits, misses) = hits_and_misses(node);
        assert!(hits >= 95.0 && misses <= most, "{hits} {misses}");
    }
}

#[test]
fn every_open_asks_redis_without_it() {
    let (_redis, [one, _]) = nodes("");
    let sid = sid("ab", 1);
    one.save(&sid, &authenticated("x")).unwrap();
    assert_eq!(one.read(&sid).unwrap(), authenticated("x"));
    let (hits, misses) = hits_and_misses(&one);
    assert!(hits + misses < 1.0, "{hits} {misses}");
}

#[test]
fn an_own_save_and_an_own_removal_are_seen_at_once() {
    let (_redis, [one, _]) = nodes(NEAR);
    let sid = sid("ab", 1);
    for round in 0..200 {
        let content = authenticated(&round.to_string());
        one.save(&sid, &content).unwrap();
        assert_eq!(one.read(&sid).unwrap(), content);
    }
    one.unlink(&sid).unwrap();
    assert_eq!(errno(one.read(&sid)), libc::ENOENT);
}

#[test]
fn what_another_server_changes_is_seen() {
    let (_redis, [one, other]) = nodes(NEAR);
    let sid = sid("ab", 1);
    for round in 0..50 {
        let content = authenticated(&round.to_string());
        let [saver, reader] = if round % 2 == 0 { [&one, &other] } else { [&other, &one] };
        saver.save(&sid, &content).unwrap();
        assert_eq!(saver.read(&sid).unwrap(), content);
        soon_reads(reader, &sid, &content);
    }
    in_thread(|| one.unlink(&sid)).unwrap();
    eventually_ends(&other, &sid);
    assert_eq!(errno(other.read(&sid)), libc::ENOENT);
}

/// Of its own changes below the near cache a server is not told: a use that is written down, a session that expires.
#[test]
fn what_this_server_has_written_down_does_not_hide_the_next_change() {
    let (redis, [one, other]) =
        nodes(&format!("{NEAR}[lifetime]\nidle = \"12s\"\ngrace = \"1s\"\n"));
    let sid = sid("ab", 1);
    one.save(&sid, &authenticated("old")).unwrap();
    // Until its use there has moved the key's time to live, which is a change of the key.
    let key = redis.session_keys().into_iter().find(|key| key.contains(":s:")).unwrap();
    let ttl = || redis.run::<i64>(&format!("PTTL {key}"));
    let mut before = ttl();
    until("a use is written down", || {
        assert_eq!(other.read(&sid).unwrap(), authenticated("old"));
        let now = ttl();
        now > std::mem::replace(&mut before, now)
    });
    // What is known is good for six seconds.
    assert_eq!(other.read(&sid).unwrap(), authenticated("old"));
    one.save(&sid, &authenticated("new")).unwrap();
    soon_reads(&other, &sid, &authenticated("new"));
    // Nobody uses it any more: a listing is no use.
    until("it expires", || other.list(&other.path().join("ab")).is_empty());
    assert_eq!(errno(other.read(&sid)), libc::ENOENT);
}

#[test]
fn nothing_is_missed_when_the_connection_is_lost() {
    let (redis, [one, other]) = nodes(NEAR);
    let sid = sid("ab", 1);
    for round in 0..20 {
        let content = authenticated(&round.to_string());
        one.save(&sid, &content).unwrap();
        soon_reads(&other, &sid, &content);
        let content = authenticated(&format!("{round} again"));
        let _: i64 = redis.run("CLIENT KILL TYPE normal SKIPME yes");
        one.save(&sid, &content).unwrap();
        soon_reads(&other, &sid, &content);
    }
}

#[test]
fn everything_is_asked_for_again_after_a_flush() {
    let (redis, [one, other]) = nodes(NEAR);
    let sid = sid("ab", 1);
    one.save(&sid, &authenticated("x")).unwrap();
    soon_reads(&other, &sid, &authenticated("x"));
    let _: String = redis.run("FLUSHALL");
    for node in [&one, &other] {
        eventually_ends(node, &sid);
    }
}

#[test]
fn known_sessions_are_read_while_redis_does_not_answer() {
    let (mut redis, [one, _]) = nodes(NEAR);
    let [known, unknown] = [1, 2].map(|seed| sid("ab", seed));
    for sid in [&known, &unknown] {
        one.save(sid, &authenticated("x")).unwrap();
    }
    // The second one is forgotten.
    let _: i64 = redis.run("CLIENT KILL TYPE normal SKIPME yes");
    until("it is asked for", || one.read(&known).is_ok() && hits_and_misses(&one).0 > 0.0);
    redis.pause();
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(one.read(&known).unwrap(), authenticated("x"));
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| one.read(&unknown));
        one.wait_for_log("state=\"down\"");
        assert_eq!(one.read(&known).unwrap(), authenticated("x"));
        redis.resume();
        assert_eq!(waits.join().unwrap().unwrap(), authenticated("x"));
    });
}

#[test]
fn the_grace_ends() {
    let (mut redis, [one, _]) = nodes(&format!(
        "{NEAR}grace = \"1s\"\n[outage]\nwait_step = \"200ms\"\nwait_total = \"2s\"\n"
    ));
    let sid = sid("ab", 1);
    one.save(&sid, &authenticated("x")).unwrap();
    assert_eq!(one.read(&sid).unwrap(), authenticated("x"));
    redis.pause();
    until("it is an error", || errno_of(&one, &sid) == Some(libc::EIO));
    redis.resume();
    until("it is read", || one.read(&sid).is_ok());
}

/// A Redis that grants the rights of an earlier version.
#[test]
fn a_redis_that_does_not_tell_is_asked_at_every_open() {
    let (redis, [one, other]) = nodes(NEAR);
    drop([one, other]);
    let _: String = redis.run("ACL SETUSER default -client|tracking");
    let nodes = [(); 2].map(|()| Mount::start(&redis, NEAR));
    let sid = sid("ab", 1);
    for round in 0..20 {
        let content = authenticated(&round.to_string());
        nodes[round % 2].save(&sid, &content).unwrap();
        for node in &nodes {
            assert_eq!(node.read(&sid).unwrap(), content);
        }
    }
    for node in &nodes {
        assert!(hits_and_misses(node).0 < 1.0);
        node.wait_for_log("changes_not_told");
    }
}

/// How many requests of this kind the kernel has sent.
fn requests(mount: &Mount, operation: &str) -> f64 {
    let line = format!("sessionfs_request_duration_seconds_count{{operation=\"{operation}\"}}");
    metric(mount, &line).unwrap_or_default()
}

#[test]
fn the_kernel_keeps_the_names_of_known_sessions() {
    let (_redis, [one, other]) = nodes(NEAR);
    let sid = sid("ab", 1);
    one.save(&sid, &authenticated("x")).unwrap();
    for node in [&one, &other] {
        // The first one is asked for, the second one is known.
        for _ in 0..2 {
            assert_eq!(node.read(&sid).unwrap(), authenticated("x"));
        }
        let before = requests(node, "lookup");
        for _ in 0..100 {
            assert_eq!(node.read(&sid).unwrap(), authenticated("x"));
        }
        assert!(requests(node, "lookup") - before < 10.0);
    }
    // The other kernel is told to forget it.
    one.save(&sid, &authenticated("longer than before")).unwrap();
    soon_reads(&other, &sid, &authenticated("longer than before"));
    let is_there = |node: &Mount| node.sharded(&sid).try_exists().unwrap();
    in_thread(|| one.unlink(&sid)).unwrap();
    assert!(!is_there(&one));
    until("it is gone", || !is_there(&other));
}

#[test]
fn a_kept_name_shows_what_was_set_by_it() {
    let (_redis, [one, other]) = nodes(NEAR);
    let sid = sid("ab", 1);
    one.save(&sid, &authenticated("x")).unwrap();
    let path = one.sharded(&sid);
    for _ in 0..2 {
        one.read(&sid).unwrap();
    }
    let then = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let mtime = |path: &std::path::Path| path.metadata().unwrap().modified().unwrap();
    std::fs::File::open(&path).unwrap().set_modified(then).unwrap();
    assert_eq!(mtime(&path), then);
    assert_eq!(one.read(&sid).unwrap(), authenticated("x"));
    assert_eq!(mtime(&path), then);
    until("the other server shows it", || mtime(&other.sharded(&sid)) == then);
}

#[test]
fn what_was_saved_is_read_without_a_request() {
    for (freshness, without) in [(NEAR, ""), (STRICT, ""), (NEAR, "notify_store")] {
        let redis = Redis::start();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
        command.env("SESSIONFS_KERNEL_WITHOUT", without);
        let mount = Mount::start_in(&redis, freshness, command);
        for round in 0..50 {
            let (sid, content) = (sid("ab", round % 5), authenticated(&round.to_string()));
            mount.save(&sid, &content).unwrap();
            assert_eq!(mount.read(&sid).unwrap(), content);
        }
        // It is given to the kernel if the file was closed in time, which is nearly always.
        let reads = requests(&mount, "read");
        assert_eq!(reads < 25.0, without.is_empty(), "{reads} of 50 in {freshness:?} {without:?}");
    }
}
