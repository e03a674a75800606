//! A worker dies, and the next one goes on with what it has kept: nobody notices.

use std::ffi::OsStr;

use sessionfs::fs::caller::Caller;
use sessionfs::session::name::Sid;
use sessionfs::store::HELD_IN_STORE_MS;

use super::shard;
use super::support::kernel::{Kernel, person, repeated, request, sid, thread, visitor};
use super::support::memory::{Fault, Memory};

fn kept() -> Kernel {
    Kernel::kept(Memory::new())
}

/// A session that `thread(1)` has opened and listed.
fn opened_and_listed(kernel: &Kernel, session: &Sid) {
    kernel.save(thread(2), session, &person("x")).unwrap();
    kernel.read(thread(1), session).unwrap();
    kernel.list(request(thread(1), 100), shard()).unwrap();
}

fn remove_listed(kernel: &Kernel, by: Caller, session: &Sid) -> Result<(), i32> {
    kernel.unlink_name(by, shard(), session.alias().as_str())
}

/// It lives on, also when a removal of it that was held would have ended it.
fn must_live(kernel: &Kernel, session: &Sid, content: &str) {
    assert_eq!(kernel.read(thread(3), session), Ok(person(content)));
    kernel.store.model().pass(HELD_IN_STORE_MS);
    assert_eq!(kernel.read(thread(3), session), Ok(person(content)));
}

/// Odoo 19 removes the session of its own request by its listed name, and saves it again.
#[test]
fn what_a_thread_has_opened_may_be_removed_and_saved_again_at_the_next_worker() {
    let (mut kernel, session) = (kept(), sid('a', 1));
    opened_and_listed(&kernel, &session);
    kernel.succeed();
    remove_listed(&kernel, request(thread(1), 102), &session).unwrap();
    // It is held: other requests of this user are served.
    assert_eq!(kernel.read(thread(3), &session), Ok(person("x")));
    kernel.save(thread(1), &session, &person("again")).unwrap();
    must_live(&kernel, &session, "again");
}

#[test]
fn a_removal_is_repeated_with_what_its_thread_knew() {
    let (mut kernel, session) = (kept(), sid('a', 1));
    opened_and_listed(&kernel, &session);
    kernel.store.next_fault(Fault::Unanswered);
    let name = session.alias();
    let unlink = |kernel: &Kernel, by| kernel.core.unlink(by, shard(), OsStr::new(name.as_str()));
    let step = unlink(&kernel, request(thread(1), 102));
    kernel.die_of(step);
    // Its thread is known as one that has opened something else since.
    kernel.save(thread(2), &sid('b', 2), &person("other")).unwrap();
    kernel.read(thread(1), &sid('b', 2)).unwrap();
    kernel.run(unlink(&kernel, repeated(thread(1), 102))).unwrap();
    assert_eq!(kernel.read(thread(3), &session), Ok(person("x")));
    kernel.save(thread(1), &session, &person("again")).unwrap();
    must_live(&kernel, &session, "again");
}

#[test]
fn a_thread_owes_the_error_of_a_failed_read_at_the_next_worker() {
    let (mut kernel, session) = (kept(), sid('a', 1));
    kernel.save(thread(2), &session, &person("x")).unwrap();
    let fail = |kernel: &Kernel| {
        kernel.store.next_fault(Fault::Unreadable);
        assert_eq!(kernel.read(thread(1), &session), Err(libc::EIO));
    };
    fail(&kernel);
    kernel.succeed();
    assert_eq!(kernel.create(thread(1), "tmpaaaaaaaa.__wz_sess").unwrap_err(), libc::EIO);
    // Once.
    kernel.succeed();
    assert!(kernel.create(thread(1), "tmpaaaaaaaa.__wz_sess").is_ok());
    // What it makes of that failed read replaces nothing.
    assert_eq!(kernel.save(thread(1), &session, &visitor("none")), Err(libc::EACCES));
    assert_eq!(kernel.read(thread(3), &session), Ok(person("x")));
}
