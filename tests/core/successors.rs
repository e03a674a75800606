//! A worker dies, and the next one goes on with what it has kept: nobody notices.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::time::Duration;

use sessionfs::fs::caller::Caller;
use sessionfs::fs::handle::HandleId;
use sessionfs::fs::inode::InodeId;
use sessionfs::fs::open::Mode;
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

#[test]
fn the_error_that_a_thread_owes_is_told_again_if_the_answer_did_not_arrive() {
    let (mut kernel, session) = (kept(), sid('a', 1));
    kernel.save(thread(2), &session, &person("x")).unwrap();
    kernel.store.next_fault(Fault::Unreadable);
    assert_eq!(kernel.read(thread(1), &session), Err(libc::EIO));
    let create = |kernel: &Kernel, by| kernel.create(by, "tmpaaaaaaaa.__wz_sess").map(drop);
    assert_eq!(create(&kernel, request(thread(1), 10)), Err(libc::EIO));
    kernel.succeed();
    assert_eq!(create(&kernel, repeated(thread(1), 10)), Err(libc::EIO));
    kernel.succeed();
    assert_eq!(create(&kernel, request(thread(1), 12)), Ok(()));
}

/// A session that another server has saved twice: its inode of the first version, of which `thread(3)` has been told
/// that it is stale, by its request 10.
fn told_stale(here: &Kernel, there: &Kernel, session: &Sid) -> InodeId {
    there.save(thread(1), session, &person("one")).unwrap();
    let old = here.lookup(thread(1), session).unwrap().attributes.inode;
    there.save(thread(1), session, &person("two")).unwrap();
    assert_eq!(here.open_inode(request(thread(3), 10), old), Err(libc::ESTALE));
    old
}

#[test]
fn an_open_that_one_worker_ended_with_estale_is_not_ended_so_by_the_next() {
    let (mut here, session) = (kept(), sid('a', 1));
    let there = Kernel::new(here.store.other_server());
    told_stale(&here, &there, &session);
    here.succeed();
    let found = here.lookup(thread(3), &session).unwrap().attributes.inode;
    here.succeed();
    there.save(thread(1), &session, &person("three")).unwrap();
    let handle = here.open_inode(request(thread(3), 12), found).unwrap();
    assert_eq!(here.read_handle(handle), person("three"));
    // The next one is another call.
    assert_eq!(here.open_inode(request(thread(3), 14), found), Err(libc::ESTALE));
}

#[test]
fn an_answer_of_estale_that_did_not_arrive_is_given_again() {
    let (mut here, session) = (kept(), sid('a', 1));
    let there = Kernel::new(here.store.other_server());
    let old = told_stale(&here, &there, &session);
    here.succeed();
    assert_eq!(here.open_inode(repeated(thread(3), 10), old), Err(libc::ESTALE));
    assert!(here.open_inode(request(thread(3), 12), old).is_ok());
}

#[test]
fn an_open_that_repeats_another_is_still_that_one_at_the_next_worker() {
    let (mut here, session) = (kept(), sid('a', 1));
    let there = Kernel::new(here.store.other_server());
    told_stale(&here, &there, &session);
    let found = here.lookup(thread(3), &session).unwrap().attributes.inode;
    here.host.pass(Duration::from_secs(2));
    // It dies before it has answered.
    drop(here.core.open(request(thread(3), 12), found, Mode::default()));
    here.succeed();
    there.save(thread(1), &session, &person("three")).unwrap();
    let handle = here.open_inode(repeated(thread(3), 12), found).unwrap();
    assert_eq!(here.read_handle(handle), person("three"));
    there.save(thread(1), &session, &person("four")).unwrap();
    assert_eq!(here.open_inode(request(thread(3), 14), found), Err(libc::ESTALE));
}

#[test]
fn what_a_listing_allows_is_allowed_by_the_next_worker_for_a_while() {
    // Nobody could use it while nobody served: that is up to 30 s.
    for (age_s, allowed) in [(5, true), (30, true), (70, false)] {
        let (mut kernel, session) = (kept(), sid('a', 1));
        kernel.save(thread(2), &session, &person("x")).unwrap();
        kernel.list(request(thread(1), 100), shard()).unwrap();
        kernel.host.pass(Duration::from_secs(age_s));
        kernel.succeed();
        let removed = remove_listed(&kernel, request(thread(1), 102), &session);
        assert_eq!(removed.is_ok(), allowed, "{age_s} s: {removed:?}");
        // What allows nothing is not kept for a further worker.
        assert_eq!(kernel.listings_kept(), usize::from(allowed));
    }
}

#[test]
fn what_was_taken_up_ends_ten_seconds_after_its_last_use() {
    let (mut kernel, session) = (kept(), sid('a', 1));
    kernel.save(thread(2), &session, &person("x")).unwrap();
    kernel.list(request(thread(1), 100), shard()).unwrap();
    kernel.host.pass(Duration::from_secs(30));
    kernel.succeed();
    kernel.host.pass(Duration::from_secs(10));
    remove_listed(&kernel, request(thread(1), 102), &session).unwrap_err();
}

#[test]
fn a_listing_is_not_kept_longer_than_it_allows_something() {
    let (kernel, session) = (kept(), sid('a', 1));
    kernel.save(thread(2), &session, &person("x")).unwrap();
    kernel.list(request(thread(1), 100), shard()).unwrap();
    assert_eq!(kernel.listings_kept(), 1);
    kernel.host.pass(Duration::from_secs(20));
    // Its own next one ends it, and that of any other thread.
    kernel.list(request(thread(4), 102), shard()).unwrap();
    assert_eq!(kernel.listings_kept(), 1);
    kernel.read(thread(4), &session).unwrap();
    assert_eq!(kernel.listings_kept(), 0);
}

/// Nobody will close what its open was not told of.
#[test]
fn a_repeated_open_that_fails_leaves_nothing_open() {
    let (mut kernel, session) = (kept(), sid('a', 1));
    kernel.save(thread(2), &session, &person("x")).unwrap();
    let inode = kernel.lookup(thread(1), &session).unwrap().attributes.inode;
    kernel.open_inode(request(thread(1), 10), inode).unwrap();
    kernel.create(request(thread(1), 12), "tmpaaaaaaaa.__wz_sess").unwrap();
    let listing = kernel.core.open_directory(request(thread(1), 14), shard());
    kernel.run(listing).unwrap();
    assert_eq!(kernel.open_kept(), 3);
    kernel.succeed();
    kernel.store.next_fault(Fault::Unreadable);
    assert_eq!(kernel.open_inode(repeated(thread(1), 10), inode), Err(libc::EIO));
    // Which its thread owes to its next save.
    let created = kernel.create(repeated(thread(1), 12), "tmpaaaaaaaa.__wz_sess");
    assert_eq!(created.unwrap_err(), libc::EIO);
    kernel.store.next_fault(Fault::Refused);
    let listing = kernel.core.open_directory(repeated(thread(1), 14), shard());
    assert_eq!(kernel.run(listing), Err(libc::EIO));
    assert_eq!(kernel.open_kept(), 0);
}

/// READDIRPLUS counts each entry that it shows.
#[test]
fn look_ups_are_counted_over_a_death() {
    let (mut kernel, session) = (kept(), sid('a', 1));
    kernel.save(thread(2), &session, &person("x")).unwrap();
    for _ in 0..2 {
        kernel.list(request(thread(1), 100), shard()).unwrap();
        kernel.lookup(thread(1), &session).unwrap();
        kernel.succeed();
    }
    let inode = kernel.lookup(thread(1), &session).unwrap().attributes.inode;
    assert!(kernel.inodes_kept() > 1);
    assert!(kernel.attributes(inode).is_ok());
    kernel.forget_all();
    assert_eq!(kernel.inodes_kept(), 0);
}

/// Its temp file is gone either way.
#[test]
fn a_save_whose_answer_is_missing_is_acknowledged_only_if_it_was_taken() {
    let temp = "tmpaaaaaaaa.__wz_sess";
    for (fault, outcome) in [(None, Ok(())), (Some(Fault::Refused), Err(libc::ENOENT))] {
        let (mut kernel, session) = (kept(), sid('a', 1));
        let (_, handle) = kernel.create(thread(1), temp).unwrap();
        kernel.run(kernel.core.write(thread(1), handle, 0, &person("x"))).unwrap();
        kernel.core.release(handle);
        let fails = fault.is_some();
        if let Some(fault) = fault {
            kernel.store.next_fault(fault);
        }
        assert_eq!(kernel.rename(request(thread(1), 10), temp, &session).is_err(), fails);
        kernel.succeed();
        assert_eq!(kernel.rename(repeated(thread(1), 10), temp, &session), outcome);
        assert_eq!(kernel.read(thread(2), &session).is_err(), fails);
    }
}

#[test]
fn a_removal_is_not_carried_from_one_store_to_another() {
    let (mut kernel, session) = (kept(), sid('a', 1));
    opened_and_listed(&kernel, &session);
    kernel.store.next_fault(Fault::Unanswered);
    let name = session.alias();
    let step = kernel.core.unlink(request(thread(1), 102), shard(), OsStr::new(name.as_str()));
    kernel.give_up(step);
    // The other one has a session of that name, too.
    let other = Memory::new();
    Kernel::new(other.other_server()).save(thread(1), &session, &person("other")).unwrap();
    kernel.succeed_with(other, "other");
    for name in [session.alias().as_str(), session.expose()] {
        let by = repeated(thread(1), 102);
        assert_eq!(kernel.unlink_name(by, shard(), name), Err(libc::EIO));
    }
    must_live(&kernel, &session, "other");
    // Nor does a listing of the former store allow anything.
    assert_eq!(remove_listed(&kernel, request(thread(1), 104), &session), Err(libc::ENOENT));
    kernel.unlink(request(thread(1), 106), &session).unwrap();
}

/// Names as READDIR gives them from an offset on, and the offset at the end.
fn read_on(kernel: &Kernel, handle: HandleId, offset: u64, most: usize) -> (Vec<String>, u64) {
    let step = kernel.core.read_directory(request(thread(1), 7), shard(), handle, offset);
    let snapshot = kernel.run(step).unwrap();
    let (mut names, mut end) = (Vec::new(), offset);
    for (next, name, _) in snapshot.rest(offset).take(most) {
        names.push(name.to_owned());
        end = next;
    }
    (names, end)
}

#[test]
fn a_listing_that_was_not_kept_lacks_no_entry_when_it_is_read_on() {
    const NUMBER: u32 = 30;
    let (mut kernel, open) = (kept(), request(thread(1), 100));
    for number in 0..NUMBER {
        kernel.save(thread(2), &sid('a', number), &person("x")).unwrap();
    }
    let handle = kernel.run(kernel.core.open_directory(open, shard())).unwrap();
    let (mut names, mut offset) = read_on(&kernel, handle, 0, 10);
    // There was no room for it.
    kernel.core.release(handle);
    let of_name = |name: &str| (0..NUMBER).find(|n| sid('a', *n).alias().as_str() == name).unwrap();
    // Those that came first after the dots are gone when it is listed anew.
    let gone = [2, 3].map(|index: usize| of_name(&names[index]));
    for number in gone {
        kernel.unlink(thread(2), &sid('a', number)).unwrap();
        kernel.succeed();
        let (more, end) = read_on(&kernel, handle, offset, 10);
        names.extend(more);
        assert!(end > offset);
        offset = end;
    }
    let (rest, end) = read_on(&kernel, handle, offset, usize::MAX);
    names.extend(rest);
    assert_eq!(read_on(&kernel, handle, end, usize::MAX).0, [""; 0]);
    let shown: BTreeSet<_> = names.into_iter().collect();
    for number in (0..NUMBER).filter(|number| !gone.contains(number)) {
        assert!(shown.contains(sid('a', number).alias().as_str()), "{number} is left out");
    }
    // From its start it is read once, with the dots.
    assert_eq!(read_on(&kernel, handle, 0, usize::MAX).0.len(), NUMBER as usize);
}
