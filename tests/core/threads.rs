//! What is remembered of a calling thread, and what another thread with the same id inherits:
//! nothing.

use std::time::Duration;

use sessionfs::session::name::Sid;
use sessionfs::store::HELD_IN_STORE_MS;

use super::support::kernel::{FIRST_TID, Kernel, foreign, person, sid, thread};
use super::support::memory::Fault;
use super::support::model::UNIT;
use super::{one, shard};

/// Longer than what was read of a process is trusted.
const LATER: Duration = Duration::from_secs(2);

/// The thread of that number ends, and another one gets its id.
fn reuse(kernel: &Kernel, number: u32) {
    kernel.host.pass(LATER);
    kernel.host.reuse(FIRST_TID + number);
}

/// A session that `thread(1)` opened has ended, and nothing is remembered of it.
fn opened_and_gone(kernel: &Kernel) {
    kernel.save(thread(1), &sid('a', 1), &person("x")).unwrap();
    kernel.read(thread(1), &sid('a', 1)).unwrap();
    kernel.unlink(thread(9), &sid('a', 1)).unwrap();
    kernel.store.model().pass(100 * UNIT);
}

#[test]
fn a_reused_id_inherits_no_birth() {
    let kernel = one();
    opened_and_gone(&kernel);
    let login = || kernel.save(thread(1), &sid('a', 1), &person("a login"));
    assert_eq!(login(), Err(libc::EACCES));
    reuse(&kernel, 1);
    assert!(login().is_ok());
}

#[test]
fn a_reused_id_inherits_no_birth_when_the_table_of_threads_is_full() {
    const MORE_THAN_ARE_KNOWN: u32 = 16_384 + 1;
    let kernel = one();
    opened_and_gone(&kernel);
    for number in 100..100 + MORE_THAN_ARE_KNOWN {
        kernel.lookup(thread(number), &sid('a', 2)).unwrap_err();
    }
    kernel.host.reuse(FIRST_TID + 1);
    assert!(kernel.save(thread(1), &sid('a', 1), &person("a login")).is_ok());
}

#[test]
fn a_reused_id_inherits_no_right_to_save_what_it_removed() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    kernel.read(thread(1), &session).unwrap();
    remove_own(&kernel, 1, &session);
    reuse(&kernel, 1);
    // As anybody's save, it is taken and does not take the removal back.
    kernel.save(thread(1), &session, &person("late")).unwrap();
    kernel.store.model().pass(HELD_IN_STORE_MS);
    assert_eq!(kernel.read(thread(1), &session), Err(libc::ENOENT));
    assert_eq!(kernel.save(thread(1), &session, &person("late")), Err(libc::EACCES));
}

/// A removal by the name that a listing shows, as Odoo 19 makes it.
fn remove_own(kernel: &Kernel, number: u32, session: &Sid) {
    kernel.list(thread(number), shard()).unwrap();
    kernel.unlink_name(thread(number), shard(), session.alias().as_str()).unwrap();
}

#[test]
fn a_removal_is_held_if_it_is_of_the_session_that_the_thread_opened_last() {
    let kernel = one();
    let (session, other) = (sid('a', 1), sid('a', 2));
    for session in [&session, &other] {
        kernel.save(thread(1), session, &person("x")).unwrap();
        kernel.read(thread(1), session).unwrap();
    }
    remove_own(&kernel, 1, &session);
    assert_eq!(kernel.read(thread(2), &session), Err(libc::ENOENT));
    // Another thread has listed it before: once its removal is held, no listing shows it.
    kernel.list(thread(4), shard()).unwrap();
    remove_own(&kernel, 1, &other);
    assert_eq!(kernel.read(thread(2), &other), Ok(person("x")));
    assert_eq!(kernel.list(thread(2), shard()), Ok(vec![]));
    // One that did not open it removes it at once.
    kernel.unlink_name(thread(4), shard(), other.alias().as_str()).unwrap();
    assert_eq!(kernel.read(thread(2), &other), Err(libc::ENOENT));
    kernel.save(thread(3), &session, &person("x")).unwrap_err();
}

#[test]
fn in_a_background_process_a_removal_is_held_for_a_minute_after_the_open() {
    let kernel = one();
    kernel.host.set_cmdline(FIRST_TID + 1, b"python3\0odoo\0gevent\0");
    for (number, passed, held) in [(1, 59, true), (2, 60, false)] {
        let session = sid('a', number);
        kernel.save(thread(2), &session, &person("x")).unwrap();
        kernel.save(thread(2), &sid('a', 9), &person("x")).unwrap();
        kernel.read(thread(1), &session).unwrap();
        kernel.host.pass(Duration::from_secs(passed));
        // Another request of the same thread.
        kernel.read(thread(1), &sid('a', 9)).unwrap();
        remove_own(&kernel, 1, &session);
        assert_eq!(kernel.read(thread(3), &session).is_ok(), held, "after {passed} seconds");
        // That one may open it, too: the removal stays the other's to take back.
        if held {
            kernel.read(thread(1), &session).unwrap();
            kernel.save(thread(1), &session, &person("again")).unwrap();
            kernel.store.model().pass(UNIT);
            assert_eq!(kernel.read(thread(3), &session), Ok(person("again")));
        }
    }
}

/// Odoo 19 removes the old session of a rotation together with the new one, and saves the new one
/// alone.
#[test]
fn a_save_takes_back_the_removal_of_its_own_session_alone() {
    let kernel = one();
    kernel.host.set_cmdline(FIRST_TID + 1, b"python3\0odoo\0gevent\0");
    let (old, new) = (sid('a', 1), sid('a', 2));
    for session in [&old, &new] {
        kernel.save(thread(2), session, &person("x")).unwrap();
        kernel.read(thread(1), session).unwrap();
    }
    kernel.list(thread(1), shard()).unwrap();
    for session in [&old, &new] {
        kernel.unlink_name(thread(1), shard(), session.alias().as_str()).unwrap();
    }
    kernel.save(thread(1), &new, &person("again")).unwrap();
    let listed = kernel.list(thread(3), shard()).unwrap();
    assert_eq!(listed.iter().map(|(name, _)| name).collect::<Vec<_>>(), [new.alias().as_str()]);
    // Both were held, so the old one is served for that second.
    assert_eq!(kernel.read(thread(3), &old), Ok(person("x")));
    kernel.store.model().pass(HELD_IN_STORE_MS);
    assert_eq!(kernel.read(thread(3), &old), Err(libc::ENOENT));
    assert_eq!(kernel.save(thread(3), &old, &person("late")), Err(libc::EACCES));
    assert_eq!(kernel.read(thread(3), &new), Ok(person("again")));
}

#[test]
fn a_request_that_begins_after_a_held_removal_does_not_take_it_back() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    kernel.read(thread(1), &session).unwrap();
    remove_own(&kernel, 1, &session);
    kernel.read(thread(1), &session).unwrap();
    kernel.save(thread(1), &session, &person("late")).unwrap();
    kernel.store.model().pass(HELD_IN_STORE_MS);
    assert_eq!(kernel.read(thread(1), &session), Err(libc::ENOENT));
}

#[test]
fn a_reused_id_inherits_no_failure() {
    let kernel = one();
    kernel.save(thread(2), &sid('a', 1), &person("x")).unwrap();
    kernel.store.next_fault(Fault::Unreadable);
    assert_eq!(kernel.read(thread(1), &sid('a', 1)), Err(libc::EIO));
    reuse(&kernel, 1);
    assert!(kernel.create(thread(1), "tmpaaaaaaaa.__wz_sess").is_ok());
}

#[test]
fn a_reused_id_inherits_no_listing() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(2), &session, &person("x")).unwrap();
    // Threads of the process that has saved it.
    kernel.host.set_process(FIRST_TID + 1, FIRST_TID + 2);
    kernel.list(thread(1), shard()).unwrap();
    reuse(&kernel, 1);
    let remove = || kernel.unlink_name(thread(1), shard(), session.alias().as_str());
    assert_eq!(remove(), Err(libc::EPERM));
    kernel.list(thread(1), shard()).unwrap();
    assert_eq!(remove(), Ok(()));
}

#[test]
fn the_right_to_save_what_was_removed_ends_after_ten_seconds() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    for (passed, saved) in [(9, true), (10, false)] {
        kernel.read(thread(1), &session).unwrap();
        remove_own(&kernel, 1, &session);
        kernel.host.pass(Duration::from_secs(passed));
        kernel.store.model().pass(HELD_IN_STORE_MS);
        let again = kernel.save(thread(1), &session, &person("again"));
        assert_eq!(again.is_ok(), saved, "after {passed} seconds: {again:?}");
    }
}

#[test]
fn the_right_to_save_what_was_removed_ends_when_the_session_is_found_gone() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    kernel.read(thread(1), &session).unwrap();
    remove_own(&kernel, 1, &session);
    kernel.store.model().pass(HELD_IN_STORE_MS);
    assert_eq!(kernel.read(thread(1), &session), Err(libc::ENOENT));
    assert_eq!(kernel.save(thread(1), &session, &person("late")), Err(libc::EACCES));
}

#[test]
fn a_process_is_looked_at_once_a_second() {
    let kernel = one();
    for _ in 0..2 {
        kernel.save(thread(1), &sid('a', 1), &person("x")).unwrap();
        kernel.read(thread(1), &sid('a', 1)).unwrap();
    }
    assert_eq!(kernel.host.reads(), 1);
    kernel.host.pass(Duration::from_secs(1));
    kernel.read(thread(1), &sid('a', 1)).unwrap();
    assert_eq!(kernel.host.reads(), 2);
}

#[test]
fn a_background_process_uses_no_session() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.host.set_cmdline(FIRST_TID + 1, b"python3\0odoo\0gevent\0");
    kernel.save(thread(2), &session, &person("x")).unwrap();
    kernel.store.model().pass(10 * UNIT);
    kernel.read(thread(1), &session).unwrap();
    kernel.save(thread(1), &session, &person("y")).unwrap();
    assert_eq!(kernel.store.touched(), []);
    // Five more units, and the idle time since its login is over.
    kernel.store.model().pass(5 * UNIT);
    assert_eq!(kernel.read(thread(2), &session), Err(libc::ENOENT));
}

#[test]
fn a_process_that_is_hidden_or_foreign_counts_as_a_person() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.host.set_cmdline(FIRST_TID + 1, b"python3\0odoo\0gevent\0");
    kernel.host.hide();
    kernel.save(thread(2), &session, &person("x")).unwrap();
    for by in [thread(1), foreign()] {
        kernel.read(by, &session).unwrap();
    }
    assert_eq!(kernel.store.touched(), [session.alias(), session.alias()]);
}

#[test]
fn a_hidden_thread_is_remembered_by_its_id_and_a_foreign_one_is_not() {
    let kernel = one();
    kernel.host.hide();
    for (by, saved) in [(thread(1), false), (foreign(), true)] {
        let session = sid('a', by.tid);
        kernel.save(by, &session, &person("x")).unwrap();
        kernel.read(by, &session).unwrap();
        kernel.unlink(thread(9), &session).unwrap();
        kernel.store.model().pass(100 * UNIT);
        let again = kernel.save(by, &session, &person("again"));
        assert_eq!(again.is_ok(), saved, "{by:?}: {again:?}");
    }
}
