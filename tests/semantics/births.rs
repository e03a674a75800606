//! What is never revived.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use sessionfs::store::HELD_REMOVAL_MS;

use crate::support::mount::{Mount, anonymous, authenticated, errno, in_thread, sid};
use crate::{HEX, node, two_nodes};

/// A request that read the session, and saves it after `meanwhile`.
#[track_caller]
fn late_save(mount: &Mount, id: &str, meanwhile: impl FnOnce() + Send) -> std::io::Result<()> {
    in_thread(|| {
        mount.read(id).unwrap();
        in_thread(meanwhile);
        mount.save(id, &authenticated("late"))
    })
}

#[test]
fn a_slow_request_does_not_revive_what_was_logged_out() {
    let (_redis, first, second) = two_nodes();
    for (id, other) in [(sid("ab", 1), &first), (sid("ab", 2), &second)] {
        in_thread(|| first.save(&id, &authenticated("")).unwrap());
        let saved = late_save(&first, &id, || other.unlink(&id).unwrap());
        assert_eq!(errno(saved), libc::EACCES);
        assert_eq!(errno(first.read(&id)), libc::ENOENT);
        assert_eq!(errno(second.read(&id)), libc::ENOENT);
    }
}

#[test]
fn a_thread_that_never_opened_it_does_not_revive_it_either() {
    let (_redis, first, second) = two_nodes();
    in_thread(|| first.save(HEX, &authenticated("")).unwrap());
    in_thread(|| first.unlink(HEX).unwrap());
    for mount in [&first, &second] {
        let saved = in_thread(|| mount.save(HEX, &authenticated("again")));
        assert_eq!(errno(saved), libc::EACCES);
        assert_eq!(errno(mount.read(HEX)), libc::ENOENT);
    }
}

/// Removes it by the name that a listing shows.
fn remove_listed(mount: &Mount, id: &str) {
    let shard = mount.path().join(&id[..2]);
    let listed = fs::read_dir(shard).unwrap().next().expect("one is there").unwrap();
    fs::remove_file(listed.path()).unwrap();
}

#[test]
fn a_thread_that_unlinked_it_may_create_it_again() {
    let (_redis, first, second) = two_nodes();
    first.save(HEX, &authenticated("")).unwrap();
    first.read(HEX).unwrap();
    remove_listed(&first, HEX);
    assert_eq!(second.read(HEX).unwrap(), authenticated(""), "nobody misses it");
    first.save(HEX, &authenticated("again")).unwrap();
    thread::sleep(Duration::from_millis(HELD_REMOVAL_MS + 100));
    in_thread(|| assert_eq!(second.read(HEX).unwrap(), authenticated("again")));
}

#[test]
fn a_thread_that_unlinked_it_and_found_it_gone_may_not() {
    let (_redis, mount) = node("");
    mount.save(HEX, &authenticated("")).unwrap();
    mount.read(HEX).unwrap();
    remove_listed(&mount, HEX);
    // It is carried out when no save has followed for a second.
    let deadline = Instant::now() + Duration::from_secs(20);
    while in_thread(|| mount.read(HEX)).is_ok() {
        assert!(Instant::now() < deadline, "it is still there");
    }
    // This is the thread's next request, with the dead cookie.
    assert_eq!(errno(mount.read(HEX)), libc::ENOENT);
    assert_eq!(errno(mount.save(HEX, &authenticated("again"))), libc::EACCES);
    assert_eq!(errno(mount.read(HEX)), libc::ENOENT);
}

#[test]
fn a_thread_that_unlinked_it_by_its_id_may_not_create_it_again() {
    let (_redis, mount) = node("");
    mount.save(HEX, &authenticated("")).unwrap();
    fs::remove_file(mount.sharded(HEX)).unwrap();
    assert_eq!(errno(mount.save(HEX, &authenticated("again"))), libc::EACCES);
}

#[test]
fn anonymous_content_takes_a_dead_name_as_a_new_birth() {
    let (_redis, mount) = node("");
    in_thread(|| mount.save(HEX, &authenticated("")).unwrap());
    let saved = late_save(&mount, HEX, || {
        mount.unlink(HEX).unwrap();
        // The websocket's handshake.
        in_thread(|| mount.save(HEX, &anonymous("websocket")).unwrap());
    });
    assert_eq!(errno(saved), libc::EACCES);
    assert_eq!(mount.read(HEX).unwrap(), anonymous("websocket"));
    // Odoo gives a new id at each login: under this one nobody is logged in again.
    let revived = in_thread(|| {
        mount.read(HEX).unwrap();
        mount.save(HEX, &authenticated("login"))
    });
    assert_eq!(errno(revived), libc::EACCES);
    assert_eq!(mount.read(HEX).unwrap(), anonymous("websocket"));
}

#[test]
fn a_refused_save_leaves_nothing() {
    let (_redis, mount) = node("");
    in_thread(|| mount.save(HEX, &authenticated("")).unwrap());
    in_thread(|| mount.unlink(HEX).unwrap());
    in_thread(|| {
        let temp = mount.stage(&authenticated("again")).unwrap();
        assert_eq!(errno(fs::rename(&temp, mount.sharded(HEX))), libc::EACCES);
        assert_eq!(errno(fs::metadata(&temp)), libc::ENOENT);
        assert_eq!(errno(mount.read(HEX)), libc::ENOENT);
    });
}
