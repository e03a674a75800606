//! Who may remove a session by its alias, and what a listing answers.

use std::ffi::OsStr;
use std::time::Duration;

use sessionfs::fs::caller::Caller;
use sessionfs::fs::inode::InodeId;
use sessionfs::session::name::Sid;
use sessionfs::store::Health;

use super::support::kernel::{FIRST_TID, Kernel, flat_sid, foreign, person, sid, thread};
use super::{NOTHING, one, shard, two};

/// Sessions of other people: `sid('v', 1)` to `sid('v', number)`.
fn victims(kernel: &Kernel, number: u32) {
    for number in 1..=number {
        kernel.save(thread(90), &sid('v', number), &person("x")).unwrap();
    }
}

fn remove(kernel: &Kernel, by: Caller, session: &Sid) -> Result<(), i32> {
    kernel.unlink_name(by, shard(), session.alias().as_str())
}

/// What Odoo does first in every request: it reads the session of the cookie.
fn begin_request(kernel: &Kernel, by: Caller) {
    let _ = kernel.read(by, &sid('c', 1));
}

fn is_alive(kernel: &Kernel, session: &Sid) -> bool {
    kernel.read(thread(91), session).is_ok()
}

#[test]
fn a_process_that_serves_no_cookies_removes_what_anybody_has_listed() {
    let kernel = one();
    victims(&kernel, 2);
    // The shell lists, and `rm` removes.
    kernel.list(thread(1), shard()).unwrap();
    assert_eq!(remove(&kernel, thread(2), &sid('v', 1)), Ok(()));
    assert!(!is_alive(&kernel, &sid('v', 1)));
    // It has looked at the names and found one gone: that is no cookie.
    let gone = sid('v', 1).alias();
    assert_eq!(kernel.stat(thread(3), shard(), gone.as_str()).unwrap_err(), libc::ENOENT);
    assert_eq!(remove(&kernel, thread(3), &sid('v', 2)), Ok(()));
}

#[test]
fn a_process_that_has_tried_to_open_or_to_save_a_session_serves_cookies() {
    let kernel = one();
    victims(&kernel, 1);
    let victim = sid('v', 1);
    kernel.save(thread(90), &sid('c', 2), &person("x")).unwrap();
    kernel.list(thread(80), shard()).unwrap();
    kernel.read(thread(1), &sid('c', 2)).unwrap();
    kernel.read(thread(2), &sid('c', 3)).unwrap_err();
    kernel.create(thread(3), "tmpaaaaaaaa.__wz_sess").unwrap();
    kernel.read(thread(5), &flat_sid(1)).unwrap_err();
    // The alias itself, by which nothing can be opened.
    let found = kernel.lookup_name(thread(4), shard(), victim.alias().as_str()).unwrap();
    kernel.open_inode(thread(4), found.attributes.inode).unwrap_err();
    for number in 1..=5 {
        assert_eq!(remove(&kernel, thread(number), &victim), Err(libc::EPERM), "{number}");
    }
    assert!(is_alive(&kernel, &victim));
    // One that is gone is absent for everybody.
    kernel.unlink(thread(90), &victim).unwrap();
    assert_eq!(remove(&kernel, thread(1), &victim), Err(libc::ENOENT));
}

/// Early 16 and later keep the id of a cookie that they do not find, and remove it at the logout.
#[test]
fn the_first_request_of_a_new_worker_cannot_log_out_whose_alias_its_cookie_holds() {
    let kernel = one();
    victims(&kernel, 1);
    let alias = sid('v', 1).alias();
    kernel.list(thread(80), shard()).unwrap();
    let first = thread(1);
    let probe = format!("werkzeug_{}.sess", alias.as_str());
    let _ = kernel.lookup_name(first, InodeId::ROOT, &probe);
    let found = kernel.lookup_name(first, shard(), alias.as_str()).unwrap();
    assert_eq!(kernel.open_inode(first, found.attributes.inode), Err(libc::ENOENT));
    assert_eq!(remove(&kernel, first, &sid('v', 1)), Err(libc::EPERM));
    assert!(is_alive(&kernel, &sid('v', 1)));
}

#[test]
fn all_threads_of_a_process_serve_cookies_and_a_process_that_is_not_known_may() {
    let kernel = one();
    victims(&kernel, 1);
    kernel.list(thread(80), shard()).unwrap();
    for number in [1, 2] {
        kernel.host.set_process(FIRST_TID + number, FIRST_TID + 7);
    }
    begin_request(&kernel, thread(1));
    kernel.host.set_old(FIRST_TID + 3);
    for by in [thread(2), thread(3), foreign()] {
        assert_eq!(remove(&kernel, by, &sid('v', 1)), Err(libc::EPERM), "{by:?}");
    }
    let root = Caller { uid: 0, ..foreign() };
    assert_eq!(remove(&kernel, root, &sid('v', 1)), Ok(()));
}

#[test]
fn a_process_that_proc_hides_may_serve_cookies() {
    let kernel = one();
    victims(&kernel, 1);
    kernel.host.hide();
    kernel.list(thread(80), shard()).unwrap();
    assert_eq!(remove(&kernel, thread(1), &sid('v', 1)), Err(libc::EPERM));
    // By its id its thread is known all the same.
    assert_eq!(remove(&kernel, thread(80), &sid('v', 1)), Ok(()));
}

#[test]
fn a_listing_allows_its_thread_what_it_has_shown() {
    let kernel = one();
    victims(&kernel, 2);
    let other = flat_sid(1);
    kernel.save(thread(90), &other, &person("x")).unwrap();
    kernel.list(thread(80), InodeId::ROOT).unwrap();
    begin_request(&kernel, thread(1));
    // Odoo lists all its shards before it removes.
    kernel.list(thread(1), shard()).unwrap();
    kernel
        .list(thread(1), InodeId::of_shard(Sid::parse(&"9".repeat(40)).unwrap().shard()))
        .unwrap();
    assert_eq!(remove(&kernel, thread(1), &sid('v', 1)), Ok(()));
    // Not what it has not listed, although another has.
    let flat = format!("werkzeug_{}.sess", other.alias());
    assert_eq!(kernel.unlink_name(thread(1), InodeId::ROOT, &flat), Err(libc::EPERM));
    // Its own save is none of another request.
    kernel.save(thread(1), &sid('c', 1), &person("x")).unwrap();
    assert_eq!(remove(&kernel, thread(1), &sid('v', 2)), Ok(()));
}

#[test]
fn what_a_listing_allows_ends_with_the_next_open() {
    let kernel = one();
    victims(&kernel, 1);
    kernel.save(thread(90), &sid('c', 1), &person("x")).unwrap();
    let absent = sid('c', 9);
    for cookie in [sid('c', 1), absent] {
        kernel.list(thread(1), shard()).unwrap();
        let _ = kernel.read(thread(1), &cookie);
        assert_eq!(remove(&kernel, thread(1), &sid('v', 1)), Err(libc::EPERM));
    }
    // Also if the cookie holds the alias, and nothing else was asked for.
    kernel.list(thread(1), shard()).unwrap();
    let alias = sid('v', 1).alias();
    let found = kernel.lookup_name(thread(1), shard(), alias.as_str()).unwrap();
    kernel.open_inode(thread(1), found.attributes.inode).unwrap_err();
    assert_eq!(remove(&kernel, thread(1), &sid('v', 1)), Err(libc::EPERM));
    assert!(is_alive(&kernel, &sid('v', 1)));
}

#[test]
fn what_a_listing_allows_ends_ten_seconds_after_its_last_use() {
    let kernel = one();
    victims(&kernel, 3);
    begin_request(&kernel, thread(1));
    kernel.list(thread(1), shard()).unwrap();
    let nearly = Duration::from_secs(9);
    for number in 1..=2 {
        kernel.host.pass(nearly);
        // The collector looks at each name before it removes one.
        kernel.stat(thread(1), shard(), sid('v', 3).alias().as_str()).unwrap();
        kernel.host.pass(nearly);
        assert_eq!(remove(&kernel, thread(1), &sid('v', number)), Ok(()));
    }
    kernel.host.pass(Duration::from_secs(10));
    assert_eq!(remove(&kernel, thread(1), &sid('v', 3)), Err(libc::EPERM));
    kernel.list(thread(1), shard()).unwrap();
    assert_eq!(remove(&kernel, thread(1), &sid('v', 3)), Ok(()));
}

#[test]
fn look_ups_of_what_a_thread_has_just_listed_cost_no_request() {
    const NUMBER: u32 = 300;
    let kernel = one();
    victims(&kernel, NUMBER);
    kernel.list(thread(1), shard()).unwrap();
    let before = kernel.store.requests();
    let stat = |by, number| kernel.stat(by, shard(), sid('v', number).alias().as_str());
    for number in 1..=NUMBER {
        assert_eq!(stat(thread(1), number).unwrap().size_bytes, person("x").len() as u64);
        kernel.host.pass(Duration::from_millis(20));
    }
    assert_eq!(kernel.store.requests(), before);
    // Another thread has not listed.
    stat(thread(2), 1).unwrap();
    assert_eq!(kernel.store.requests(), before + 1);
    // What the thread itself removed is gone at once, and the rest is asked for after a moment.
    assert_eq!(remove(&kernel, thread(1), &sid('v', 1)), Ok(()));
    assert_eq!(stat(thread(1), 1).unwrap_err(), libc::ENOENT);
    stat(thread(1), 2).unwrap();
    let before = kernel.store.requests();
    kernel.host.pass(Duration::from_secs(2));
    stat(thread(1), 2).unwrap();
    assert_eq!(kernel.store.requests(), before + 1);
    assert_eq!(kernel.forget_all(), NOTHING);
}

#[test]
fn a_listing_opens_no_session_that_has_ended() {
    let (here, there) = two();
    let session = sid('v', 1);
    here.save(thread(1), &session, &person("x")).unwrap();
    here.list(thread(1), shard()).unwrap();
    there.unlink(thread(1), &session).unwrap();
    assert_eq!(here.read(thread(1), &session), Err(libc::ENOENT));
    let alias = session.alias();
    assert_eq!(here.stat(thread(1), shard(), alias.as_str()).unwrap_err(), libc::ENOENT);
}

#[test]
fn a_directory_that_is_read_from_its_start_again_is_listed_anew() {
    let kernel = one();
    victims(&kernel, 2);
    let handle = kernel.run(kernel.core.open_directory(thread(1), shard())).unwrap();
    let read = |offset| {
        let snapshot =
            kernel.run(kernel.core.read_directory(thread(1), shard(), handle, offset)).unwrap();
        snapshot.entries.iter().map(|item| item.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(read(0).len(), 2);
    kernel.unlink(thread(2), &sid('v', 1)).unwrap();
    assert_eq!(read(3).len(), 2);
    assert_eq!(read(0), [sid('v', 2).alias().as_str()]);
    assert_eq!(read(3).len(), 1);
    // No wait, since the directory is locked.
    kernel.store.set_health(Health::Down);
    let again = kernel.run(kernel.core.read_directory(thread(1), shard(), handle, 0));
    assert_eq!(again.err(), Some(libc::EIO));
    kernel.core.release(handle);
}

#[test]
fn a_shard_is_removed_when_it_is_empty_and_is_another_directory_afterwards() {
    let kernel = one();
    victims(&kernel, 1);
    let rmdir = |name| kernel.run(kernel.core.rmdir(InodeId::ROOT, OsStr::new(name)));
    let find = || kernel.lookup_name(thread(1), InodeId::ROOT, "ab").unwrap().attributes.inode;
    assert_eq!(rmdir("ab"), Err(libc::ENOTEMPTY));
    assert_eq!(rmdir("abc"), Err(libc::ENOENT));
    assert_eq!(find(), shard());
    kernel.list(thread(1), shard()).unwrap();
    remove(&kernel, thread(1), &sid('v', 1)).unwrap();
    for _ in 0..3 {
        let before = find();
        assert_eq!(rmdir("ab"), Ok(()));
        assert_ne!(find(), before);
        assert_eq!(find().shard(), shard().shard());
    }
    // A save goes on in it, and a handle on the removed one finds it.
    kernel.save(thread(90), &sid('v', 2), &person("x")).unwrap();
    for directory in [shard(), find()] {
        assert_eq!(kernel.list(thread(1), directory).unwrap().len(), 1);
    }
    assert_eq!(
        kernel.list(thread(1), InodeId::ROOT).unwrap()[0].1.unwrap().attributes.inode,
        find()
    );
    kernel.store.set_health(Health::Down);
    assert_eq!(rmdir("ab"), Err(libc::EIO));
}
