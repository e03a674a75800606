//! When a session ends by itself, and what keeps it alive.
//!
//! The passing of time is what these tests are about, so they wait for it.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::node;
use crate::support::mount::{Mount, anonymous, authenticated, errno, in_thread, sid};

/// Long against what a request takes on a busy machine.
const IDLE: Duration = Duration::from_secs(3);
const SHORT: &str = "[lifetime]\nidle = \"3s\"";

/// Reads the session (or what else `touch` does) ten times a second until it is gone, for at most
/// 9 s; prints whether it is.
const UNTIL_GONE: &str = "
import os, sys, time
if sys.argv[-1] == 'gevent':
    # Odoo's own place for it is before all other arguments.
    python, flag, script = sys.orig_argv[:3]
    os.execv(sys.executable, [python, flag, script, 'gevent', *sys.argv[1:4]])
root, id, touch = sys.argv[-3:]
path = f'{root}/ab/{id}'
def read():
    with open(path, 'rb') as f: f.read()
def save():
    with open(path, 'rb') as f: content = f.read()
    temp = f'{root}/tmp000passv.__wz_sess'
    with open(temp, 'wb') as f: f.write(content)
    os.rename(temp, path)
do = {'read': read, 'save': save, 'stat': lambda: os.stat(path)}[touch]
# From the beginning of one use to the end of the next; before the first, this program started.
last, longest = float('-inf'), 0
end = time.monotonic() + 9
try:
    while (begun := time.monotonic()) < end:
        do()
        if last > 0: longest = max(longest, time.monotonic() - last)
        last = begun
        time.sleep(0.1)
    print('alive')
except (FileNotFoundError, PermissionError):
    longest = max(longest, time.monotonic() - last)
    print('gone' if longest < 2 else 'gone after a standstill of this machine')";

#[track_caller]
fn assert_gone_in_time(mount: &Mount, arguments: &[&str]) {
    let begun = Instant::now();
    assert_ne!(mount.python(UNTIL_GONE, arguments), "alive");
    let lived = begun.elapsed();
    assert!(lived + Duration::from_secs(1) > IDLE && lived < IDLE * 2, "{lived:?}");
}

#[test]
fn an_idle_session_ends_and_leaves_the_listing() {
    let (_redis, mount) = node(SHORT);
    let id = sid("ab", 1);
    mount.save(&id, &authenticated("")).unwrap();
    sleep(IDLE + Duration::from_millis(100));
    assert_eq!(errno(mount.read(&id)), libc::ENOENT);
    assert_eq!(errno(fs::metadata(mount.sharded(&id))), libc::ENOENT);
    assert!(mount.list(&mount.path().join("ab")).is_empty());
    assert_eq!(errno(mount.unlink(&id)), libc::ENOENT);
}

#[test]
fn a_read_of_a_person_prolongs_a_session() {
    // Slow answers are no outage.
    let (_redis, mount) = node(&format!("{SHORT}\n[redis]\nrequest_timeout = \"5s\""));
    // A machine that stands still for an idle time says nothing; it is asked again.
    let ends = (1..=20).map(|trial| {
        let id = sid("ab", trial);
        mount.save(&id, &authenticated("")).unwrap();
        mount.python(UNTIL_GONE, &[&id, "read"])
    });
    assert_eq!(
        ends.into_iter().find(|end| !end.ends_with("standstill of this machine")).as_deref(),
        Some("alive")
    );
}

#[test]
fn a_read_of_the_evented_process_does_not() {
    let (_redis, mount) = node(SHORT);
    let id = sid("ab", 1);
    mount.save(&id, &authenticated("")).unwrap();
    assert_gone_in_time(&mount, &[&id, "read", "gevent"]);
}

#[test]
fn a_save_of_the_evented_process_does_not_either() {
    let (_redis, mount) = node(SHORT);
    let id = sid("ab", 1);
    mount.save(&id, &authenticated("")).unwrap();
    assert_gone_in_time(&mount, &[&id, "save", "gevent"]);
}

#[test]
fn stat_is_no_activity() {
    let (_redis, mount) = node(SHORT);
    let id = sid("ab", 1);
    mount.save(&id, &authenticated("")).unwrap();
    assert_gone_in_time(&mount, &[&id, "stat"]);
}

#[test]
fn a_visitor_outlives_the_idle_time_of_those_who_are_logged_in() {
    let (_redis, mount) = node("[lifetime]\nidle = \"1s\"");
    let (visitor, person) = (sid("ab", 1), sid("ab", 2));
    mount.save(&visitor, &anonymous("a cart")).unwrap();
    mount.save(&person, &authenticated("")).unwrap();
    sleep(Duration::from_millis(1100));
    assert_eq!(errno(mount.read(&person)), libc::ENOENT);
    assert_eq!(mount.read(&visitor).unwrap(), anonymous("a cart"));
}

#[test]
fn the_absolute_lifetime_ends_under_a_slow_request() {
    let (_redis, mount) = node("[lifetime]\nabsolute = \"2s\"");
    let id = sid("ab", 1);
    in_thread(|| mount.save(&id, &authenticated("")).unwrap());
    in_thread(|| {
        mount.read(&id).unwrap();
        sleep(Duration::from_millis(2100));
        assert_eq!(errno(mount.save(&id, &authenticated("late"))), libc::EACCES);
    });
    assert_eq!(errno(mount.read(&id)), libc::ENOENT);
}

#[test]
fn soft_rotation_does_not_begin_the_absolute_lifetime_anew() {
    let (_redis, mount) = node("[lifetime]\nabsolute = \"6s\"");
    let old = sid("ab", 1);
    let new = format!("{}{}", &old[..42], &sid("xx", 2)[42..]);
    let begun = Instant::now();
    in_thread(|| mount.save(&old, &authenticated("")).unwrap());
    sleep(Duration::from_secs(2));
    in_thread(|| {
        mount.read(&old).unwrap();
        mount.save(&old, &authenticated("next_sid")).unwrap();
        mount.save(&new, &authenticated("")).unwrap();
    });
    mount.read(&new).unwrap();
    while mount.read(&new).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(7), "it lives on");
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_dead_session_is_not_revived_by_a_login_under_its_id_but_by_a_visit() {
    let (_redis, mount) = node("[lifetime]\nidle = \"1s\"");
    let id = sid("ab", 1);
    in_thread(|| mount.save(&id, &authenticated("")).unwrap());
    sleep(Duration::from_millis(1100));
    in_thread(|| assert_eq!(errno(mount.save(&id, &authenticated("late"))), libc::EACCES));
    in_thread(|| mount.save(&id, &anonymous("websocket")).unwrap());
    assert_eq!(mount.read(&id).unwrap(), anonymous("websocket"));
}
