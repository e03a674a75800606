//! The filesystem's core without a kernel and without Redis, as an ordinary user: the kernel's part
//! is played by `support::kernel`, the store's by `support::memory`.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

#[path = "core/aliases.rs"]
mod aliases;
#[path = "core/guesses.rs"]
mod guesses;
#[path = "core/histories.rs"]
mod histories;
#[path = "core/poison.rs"]
mod poison;
#[path = "core/stale.rs"]
mod stale;
#[path = "core/successors.rs"]
mod successors;
#[path = "core/threads.rs"]
mod threads;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use sessionfs::fs::Settings;
use sessionfs::fs::attributes::{Attributes, Change};
use sessionfs::fs::inode::InodeId;
use sessionfs::session::name::{Alias, Sid};
use sessionfs::store::{Changes as _, Health, Meta, Observer, Usage, Waited};
use support::kernel::{Kernel, flat_sid, person, sid, thread, visitor};
use support::memory::{Fault, Memory};
use support::model::UNIT;

const NOTHING: Usage =
    Usage { inodes: 0, handles: 0, staging_files: 0, staging_bytes: 0, memory_bytes: 0 };

fn one() -> Kernel {
    Kernel::new(Memory::new())
}

fn two() -> (Kernel, Kernel) {
    let store = Memory::new();
    (Kernel::new(store.clone()), Kernel::new(store.other_server()))
}

fn shard() -> InodeId {
    InodeId::of_shard(sid('a', 0).shard())
}

#[test]
fn a_save_is_read_and_in_the_end_nothing_is_held() {
    let kernel = one();
    // An Odoo of 18 or later, and one of 14.
    for (session, one, other) in [(sid('a', 1), 1, 2), (flat_sid(1), 3, 4)] {
        kernel.save(thread(one), &session, &person("first")).unwrap();
        assert_eq!(kernel.read(thread(other), &session), Ok(person("first")));
        kernel.save(thread(other), &session, &person("second")).unwrap();
        assert_eq!(kernel.read(thread(one), &session), Ok(person("second")));
    }
    assert!(kernel.core.in_use().inodes > 0);
    assert_eq!(kernel.forget_all(), NOTHING);
}

#[test]
fn an_inode_is_kept_until_the_last_of_its_look_ups_is_forgotten() {
    let kernel = one();
    kernel.save(thread(1), &sid('a', 1), &person("x")).unwrap();
    kernel.forget_all();
    let inode = kernel.lookup(thread(2), &sid('a', 1)).unwrap().attributes.inode;
    for _ in 0..2 {
        assert_eq!(kernel.lookup(thread(2), &sid('a', 1)).unwrap().attributes.inode, inode);
    }
    kernel.core.forget(inode, 2);
    assert_eq!(kernel.attributes(inode).unwrap().size_bytes, person("x").len() as u64);
    kernel.core.forget(inode, 1);
    assert_eq!(kernel.attributes(inode).unwrap_err(), libc::ESTALE);
    // More than it was told does no harm.
    kernel.core.forget(inode, 7);
    assert_eq!(kernel.core.in_use(), NOTHING);
}

#[test]
fn beyond_the_bound_the_kernel_is_asked_to_forget_the_oldest() {
    let kernel = Kernel::with(Memory::new(), |settings| settings.max_inodes = 2);
    let evictions = kernel.core.take_evictions().unwrap();
    for number in 0..4 {
        kernel.save(thread(1), &sid('a', number), &person("x")).unwrap();
    }
    let evicted: Vec<_> = evictions.try_iter().collect();
    assert!(evicted.iter().all(|eviction| eviction.parent == shard()));
    assert!(evicted.iter().any(|eviction| eviction.name == sid('a', 0).expose()));
    assert!(kernel.core.take_evictions().is_none());
    // It may be open yet, so it is known until FORGET, and read without harm.
    assert_eq!(kernel.read(thread(2), &sid('a', 0)), Ok(person("x")));
    assert_eq!(kernel.forget_all(), NOTHING);
}

/// The kernel answers for names that it keeps, so that each has to be forgotten when it stands for something else.
#[test]
fn no_name_is_kept_that_has_changed_however_many_do_at_once() {
    const MANY: u32 = 3000;
    let store = Memory::new();
    let near = |settings: &mut Settings| settings.name_valid_ms = 60_000;
    let kernel = Kernel::with(store, near);
    let evictions = kernel.core.take_evictions().unwrap();
    for number in 0..MANY {
        kernel.save(thread(1), &sid('a', number), &person("x")).unwrap();
    }
    let _: Vec<_> = evictions.try_iter().collect();
    // Nobody sends them on meanwhile.
    for number in 0..MANY {
        kernel.core.changed(&sid('a', number).alias());
    }
    let mut forgotten = BTreeSet::new();
    for _ in 0..MANY {
        forgotten.extend(evictions.try_iter().map(|eviction| eviction.name));
        kernel.core.expire();
    }
    assert_eq!(forgotten.len(), MANY as usize);
}

#[test]
fn what_listings_have_shown_is_counted_until_it_allows_nothing_any_more() {
    const MANY: u32 = 1000;
    let kernel = one();
    for number in 0..MANY {
        kernel.save(thread(1), &sid('a', number), &person("x")).unwrap();
    }
    kernel.forget_all();
    let before = kernel.core.in_use().memory_bytes;
    kernel.list(thread(2), shard()).unwrap();
    kernel.forget_all();
    let shown = kernel.core.in_use().memory_bytes - before;
    assert!(shown > u64::from(MANY) * 500, "{shown}");
    kernel.host.pass(Duration::from_secs(60));
    kernel.core.expire();
    let names = kernel.core.in_use().memory_bytes - before;
    assert!(0 < names && names < shown / 2, "its aliases are known yet: {names} of {shown}");
}

#[test]
fn beyond_the_bound_of_bytes_content_is_dropped_and_asked_for_again() {
    let kernel = Kernel::with(Memory::new(), |settings| settings.max_memory_bytes = 1);
    kernel.save(thread(1), &sid('a', 1), &person("x")).unwrap();
    assert_eq!(kernel.read(thread(1), &sid('a', 1)), Ok(person("x")));
    assert_eq!(kernel.forget_all(), NOTHING);
}

#[test]
fn an_open_handle_keeps_what_it_opened() {
    let (here, there) = two();
    let session = sid('a', 1);
    there.save(thread(1), &session, &person("one")).unwrap();
    let handle = here.open(thread(1), &session).unwrap();
    there.save(thread(1), &session, &person("two")).unwrap();
    there.unlink(thread(1), &session).unwrap();
    assert_eq!(here.read_handle(handle), person("one"));
    here.forget_all();
    assert_eq!(here.read_handle(handle), person("one"));
    here.core.release(handle);
    assert_eq!(here.core.in_use(), NOTHING);
}

#[test]
fn a_save_costs_one_request_and_a_read_one() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    assert_eq!(kernel.store.requests(), 1);
    kernel.read(thread(2), &session).unwrap();
    assert_eq!(kernel.store.requests(), 2);
    assert_eq!(kernel.store.touched(), [session.alias()]);
}

#[test]
fn the_second_look_of_a_rename_is_answered_without_a_request() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    let (_, handle) = kernel.create(thread(1), "tmpaaaaaaaa.__wz_sess").unwrap();
    kernel.run(kernel.core.write(thread(1), handle, 0, b"{}")).unwrap();
    let before = kernel.store.requests();
    kernel.lookup(thread(1), &session).unwrap();
    kernel.lookup(thread(1), &session).unwrap();
    assert_eq!(kernel.store.requests(), before);
    // Another session's look-up is none of the rename's.
    assert_eq!(kernel.lookup(thread(1), &sid('a', 2)).unwrap_err(), libc::ENOENT);
    assert_eq!(kernel.store.requests(), before + 1);
}

#[test]
fn a_look_up_that_was_answered_without_a_request_is_no_part_of_an_open() {
    let (here, there) = two();
    let session = sid('a', 1);
    there.save(thread(1), &session, &person("one")).unwrap();
    here.lookup(thread(2), &session).unwrap();
    there.save(thread(1), &session, &person("two")).unwrap();
    // A save that gets no further: the next look-up seems to be its rename's.
    here.create(thread(2), "tmpaaaaaaaa.__wz_sess").unwrap();
    assert_eq!(here.read(thread(2), &session), Ok(person("two")));
}

#[test]
fn a_look_up_after_a_save_counts_a_newer_version_once() {
    let (here, there) = two();
    let session = sid('a', 1);
    let (saved, handle) = here.create(thread(1), "tmpaaaaaaaa.__wz_sess").unwrap();
    here.run(here.core.write(thread(1), handle, 0, &person("ours"))).unwrap();
    here.core.release(handle);
    here.rename(thread(1), "tmpaaaaaaaa.__wz_sess", &session).unwrap();
    there.save(thread(1), &session, &person("theirs")).unwrap();
    assert_eq!(here.read(thread(2), &session), Ok(person("theirs")));
    assert_ne!(here.lookup(thread(1), &session).unwrap().attributes.inode, saved);
    assert_eq!(here.forget_all(), NOTHING);
}

#[test]
fn a_save_finds_no_version_of_a_session_that_was_found_to_be_gone() {
    let (here, there) = two();
    let session = sid('a', 1);
    here.save(thread(1), &session, &person("x")).unwrap();
    there.unlink(thread(1), &session).unwrap();
    assert_eq!(here.lookup(thread(2), &session).unwrap_err(), libc::ENOENT);
    here.create(thread(2), "tmpaaaaaaaa.__wz_sess").unwrap();
    let target = here.lookup(thread(2), &session).unwrap().attributes;
    assert_eq!((target.size_bytes, target.valid), (0, Duration::ZERO));
}

#[test]
fn ten_thousand_left_temp_files_stop_nobodys_save() {
    let kernel = Kernel::with(one().store, |settings| {
        settings.max_staging_files = 8;
        settings.max_open_staging_files = 2;
    });
    // Somebody's save is under way all the time.
    let (_, slow) = kernel.create(thread(1), "tmpslow0000.__wz_sess").unwrap();
    kernel.run(kernel.core.write(thread(1), slow, 0, &person("slow"))).unwrap();
    for number in 0..10_000 {
        let name = format!("tmpl{number:07}.__wz_sess");
        let (inode, handle) = kernel.create(thread(2), &name).unwrap();
        kernel.core.release(handle);
        kernel.forget(inode);
        assert!(kernel.core.in_use().staging_files <= 8);
        if number % 100 == 0 {
            let text = person(&number.to_string());
            kernel.save(thread(3), &sid('a', 3), &text).unwrap();
            assert_eq!(kernel.read(thread(4), &sid('a', 3)), Ok(text));
        }
    }
    kernel.core.release(slow);
    kernel.rename(thread(1), "tmpslow0000.__wz_sess", &sid('a', 1)).unwrap();
    assert_eq!(kernel.read(thread(4), &sid('a', 1)), Ok(person("slow")));
}

#[test]
fn a_save_that_is_refused_or_fails_leaves_nothing_once_it_is_closed() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    kernel.read(thread(2), &session).unwrap();
    kernel.unlink(thread(1), &session).unwrap();
    // A request that was under way at the logout.
    assert_eq!(kernel.save(thread(2), &session, &person("late")), Err(libc::EACCES));
    assert_eq!(kernel.core.in_use().staging_files, 0);
    for fault in [Fault::Unavailable, Fault::Refused] {
        kernel.store.next_fault(fault);
        let (_, open) = kernel.create(thread(3), "tmpaaaaaaaa.__wz_sess").unwrap();
        kernel.run(kernel.core.write(thread(3), open, 0, &visitor("x"))).unwrap();
        let renamed = kernel.rename(thread(3), "tmpaaaaaaaa.__wz_sess", &sid('b', 1));
        assert_eq!(renamed, Err(libc::EIO));
        assert_eq!(kernel.core.in_use().staging_files, 1);
        kernel.core.release(open);
        assert_eq!(kernel.core.in_use().staging_files, 0);
    }
    assert_eq!(kernel.forget_all(), NOTHING);
}

#[derive(Debug, Default)]
struct Notes(Mutex<Vec<String>>);

impl Observer for Notes {
    fn current(&self, sid: &Sid, meta: &Meta, plain: &Bytes) {
        assert_eq!(meta.size_bytes, plain.len() as u64);
        self.0.lock().unwrap().push(format!("current {}", sid.alias()));
    }

    fn ended(&self, alias: &Alias) {
        self.0.lock().unwrap().push(format!("ended {alias}"));
    }
}

#[test]
fn an_observer_receives_what_is_saved_opened_removed_and_found_gone() {
    let notes = Arc::new(Notes::default());
    let store = Memory::new();
    let here = Kernel::with(store.clone(), |settings| {
        settings.observer = Some(Arc::clone(&notes) as Arc<dyn Observer>);
    });
    let there = Kernel::new(store.other_server());
    let session = sid('a', 1);
    let alias = session.alias();
    let (current, ended) = (format!("current {alias}"), format!("ended {alias}"));
    let received = || std::mem::take(&mut *notes.0.lock().unwrap());
    here.save(thread(1), &session, &person("x")).unwrap();
    assert_eq!(received(), [current.as_str()]);
    here.read(thread(2), &session).unwrap();
    assert_eq!(received(), [current.as_str()]);
    here.unlink(thread(1), &session).unwrap();
    assert_eq!(received(), [ended.as_str()]);
    let session = sid('a', 2);
    let alias = session.alias();
    here.save(thread(1), &session, &person("x")).unwrap();
    there.unlink(thread(1), &session).unwrap();
    here.read(thread(2), &session).unwrap_err();
    assert_eq!(received(), [format!("current {alias}"), format!("ended {alias}")]);
    // Nobody is told of a removal that is held before it has ended.
    let session = sid('a', 3);
    let alias = session.alias();
    here.save(thread(1), &session, &person("x")).unwrap();
    here.read(thread(1), &session).unwrap();
    here.list(thread(1), shard()).unwrap();
    received();
    here.unlink_name(thread(1), shard(), alias.as_str()).unwrap();
    assert_eq!(received(), [""; 0]);
    store.model().pass(UNIT);
    here.read(thread(2), &session).unwrap_err();
    assert_eq!(received(), [format!("ended {alias}")]);
}

#[test]
fn two_workers_never_give_the_same_inode_number() {
    let store = Memory::new();
    Kernel::new(store.clone()).save(thread(1), &sid('a', 1), &person("x")).unwrap();
    let inodes: std::collections::BTreeSet<_> = (0..3)
        .map(|worker| {
            let kernel = Kernel::with(store.clone(), |settings| settings.worker = worker);
            kernel.lookup(thread(1), &sid('a', 1)).unwrap().attributes.inode.0
        })
        .collect();
    assert_eq!(inodes.len(), 3);
}

fn chmod(kernel: &Kernel, inode: InodeId, mode: u32) -> Result<Attributes, i32> {
    let change = Change { mode: Some(mode), ..Change::default() };
    kernel.run(kernel.core.set_attributes(thread(1), inode, None, change))
}

#[test]
fn a_chmod_makes_a_new_version_and_one_to_the_same_mode_costs_nothing() {
    let (here, there) = two();
    let session = sid('a', 1);
    here.save(thread(1), &session, &person("x")).unwrap();
    let inode = here.lookup(thread(1), &session).unwrap().attributes.inode;
    let before = here.store.requests();
    assert_eq!(chmod(&here, inode, 0o644).unwrap().mode, Some(0o644));
    assert_eq!(here.store.requests(), before);
    let changed = chmod(&here, inode, 0o600).unwrap();
    assert_eq!((changed.inode, changed.mode), (inode, Some(0o600)));
    // The kernel may not keep them: they are those of another version.
    assert!(changed.valid.is_zero());
    let found = there.lookup(thread(1), &session).unwrap().attributes;
    assert_eq!(found.mode, Some(0o600));
    assert_ne!(here.lookup(thread(1), &session).unwrap().attributes.inode, inode);
    assert_eq!(there.read(thread(1), &session), Ok(person("x")));
}

#[test]
fn a_chmod_in_an_outage_waits_one_step_and_is_tried_once_more() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    let inode = kernel.lookup(thread(1), &session).unwrap().attributes.inode;
    // The link is up again within the step.
    for (fault, mode) in [(Fault::Unavailable, 0o640), (Fault::Refused, 0o600)] {
        kernel.store.next_fault(fault);
        assert_eq!(chmod(&kernel, inode, mode).unwrap().mode, Some(mode));
    }
    // It is not, or not for long enough.
    kernel.store.next_fault(Fault::Unavailable);
    kernel.store.next_waits([Waited::StepOver]);
    assert_eq!(chmod(&kernel, inode, 0o640).unwrap_err(), libc::EIO);
    for _ in 0..2 {
        kernel.store.next_fault(Fault::Unavailable);
    }
    assert_eq!(chmod(&kernel, inode, 0o640).unwrap_err(), libc::EIO);
    assert_eq!(kernel.store.pending_faults(), 0);
    assert_eq!(kernel.lookup(thread(1), &session).unwrap().attributes.mode, Some(0o600));
}

#[test]
fn a_listing_in_an_outage_waits_and_is_tried_once_more() {
    let kernel = one();
    kernel.save(thread(1), &sid('a', 1), &person("x")).unwrap();
    for directory in [InodeId::ROOT, shard()] {
        kernel.store.next_fault(Fault::Unavailable);
        assert_eq!(kernel.list(thread(1), directory).unwrap().len(), 1);
        kernel.store.next_fault(Fault::Unavailable);
        kernel.store.next_waits([Waited::StepOver, Waited::Up]);
        assert_eq!(kernel.list(thread(1), directory).unwrap().len(), 1);
        kernel.store.next_fault(Fault::Unavailable);
        kernel.store.next_waits([Waited::StepOver, Waited::BudgetSpent]);
        assert_eq!(kernel.list(thread(1), directory).unwrap_err(), libc::EIO);
    }
}

#[test]
fn what_the_holder_of_a_session_did_not_seal_is_no_session() {
    let kernel = one();
    let (session, other) = (sid('a', 1), sid('a', 2));
    kernel.save(thread(1), &session, &person("x")).unwrap();
    kernel.store.model().copy(&session.alias(), &other.alias());
    assert_eq!(kernel.lookup(thread(1), &other).unwrap_err(), libc::ENOENT);
    // No fault of ours: a login may be saved.
    kernel.save(thread(1), &other, &person("a login")).unwrap();
    assert_eq!(kernel.read(thread(1), &other), Ok(person("a login")));
}

/// A save by `thread(1)` whose first sending is lost, and the inode of its temp file: another server
/// saves before the second one arrives.
fn overtaken(here: &Kernel, there: &Kernel, content: &str) -> InodeId {
    let session = sid('a', 1);
    let (inode, handle) = here.create(thread(1), "tmpaaaaaaaa.__wz_sess").unwrap();
    here.run(here.core.write(thread(1), handle, 0, &person(content))).unwrap();
    here.core.release(handle);
    here.lookup(thread(1), &session).unwrap();
    // Its time is taken here; it is sent when it is run.
    let rename = here.core.rename(
        thread(1),
        (InodeId::ROOT, OsStr::new("tmpaaaaaaaa.__wz_sess")),
        (shard(), OsStr::new(session.expose())),
    );
    here.store.model().pass(1);
    there.read(thread(9), &session).unwrap();
    there.save(thread(9), &session, &person("theirs")).unwrap();
    here.store.next_fault(Fault::Again);
    here.run(rename).unwrap();
    inode
}

#[test]
fn a_save_that_was_overtaken_changes_nothing_and_the_next_one_is_taken() {
    let (here, there) = two();
    let session = sid('a', 1);
    here.save(thread(1), &session, &person("first")).unwrap();
    overtaken(&here, &there, "overtaken");
    assert_eq!(there.read(thread(9), &session), Ok(person("theirs")));
    // No `open` between: what the thread knows of the session is what it knew before.
    here.save(thread(1), &session, &person("next")).unwrap();
    assert_eq!(there.read(thread(9), &session), Ok(person("next")));
    assert_eq!((here.forget_all(), there.forget_all()), (NOTHING, NOTHING));
}

#[test]
fn the_inode_of_an_overtaken_save_shows_itself_and_opens_what_is_current() {
    let (here, there) = two();
    here.save(thread(1), &sid('a', 1), &person("first")).unwrap();
    let inode = overtaken(&here, &there, "overtaken and longer");
    let size_bytes = person("overtaken and longer").len() as u64;
    assert_eq!(here.attributes(inode).unwrap().size_bytes, size_bytes);
    // Its chmod is not another's.
    let before = here.store.requests();
    let change = Change { mode: Some(0o640), ..Change::default() };
    here.run(here.core.set_attributes(thread(1), inode, None, change)).unwrap();
    assert_eq!(here.store.requests(), before);
    // Whoever still has it by its name is to look again, once: it may be by a descriptor.
    assert_eq!(here.open_inode(thread(1), inode), Err(libc::ESTALE));
    let handle = here.open_inode(thread(1), inode).unwrap();
    assert_eq!(here.read_handle(handle), person("theirs"));
    here.core.release(handle);
    assert_eq!(here.forget_all(), NOTHING);
}

/// Told to try again, Python would do so for ever: no outage begins that could end.
#[test]
fn an_open_that_the_store_goes_on_refusing_is_an_error_at_once() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    // The look-up, and what one open asks.
    for _ in 0..4 {
        kernel.store.next_fault(Fault::Refused);
    }
    assert_eq!(kernel.read(thread(2), &session), Err(libc::EIO));
    assert_eq!(kernel.store.pending_faults(), 0);
    assert_eq!(kernel.read(thread(2), &session), Ok(person("x")));
    // A refusal whose link goes down is one of an outage.
    for _ in 0..2 {
        kernel.store.next_fault(Fault::Refused);
    }
    kernel.store.next_waits([Waited::StepOver]);
    assert_eq!(kernel.read(thread(2), &session), Err(libc::EINTR));
}

#[test]
fn a_failed_open_is_owed_one_error_at_the_next_create() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    kernel.store.set_health(Health::Down);
    kernel.store.next_waits([Waited::BudgetSpent]);
    assert_eq!(kernel.read(thread(1), &session), Err(libc::EIO));
    kernel.store.set_health(Health::Up);
    assert_eq!(kernel.create(thread(1), "tmpaaaaaaaa.__wz_sess").unwrap_err(), libc::EIO);
    // Once, and no other thread.
    assert!(kernel.create(thread(1), "tmpaaaaaaaa.__wz_sess").is_ok());
    assert!(kernel.create(thread(2), "tmpbbbbbbbb.__wz_sess").is_ok());
}

#[test]
fn a_failed_open_is_owed_one_error_at_the_next_write() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    let (_, handle) = kernel.create(thread(1), "tmpaaaaaaaa.__wz_sess").unwrap();
    kernel.store.next_fault(Fault::Unreadable);
    assert_eq!(kernel.read(thread(1), &session), Err(libc::EIO));
    let write = |content| kernel.run(kernel.core.write(thread(1), handle, 0, content));
    assert_eq!(write(b"{}"), Err(libc::EIO));
    assert_eq!(write(b"{}"), Ok(2));
}

#[test]
fn an_open_that_succeeds_pays_what_a_failed_one_owed() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    kernel.store.next_fault(Fault::Unreadable);
    assert_eq!(kernel.read(thread(1), &session), Err(libc::EIO));
    assert_eq!(kernel.read(thread(1), &session), Ok(person("x")));
    assert!(kernel.create(thread(1), "tmpaaaaaaaa.__wz_sess").is_ok());
}

#[test]
fn after_a_failed_read_a_visitors_content_never_replaces_a_persons() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    kernel.store.next_fault(Fault::Unreadable);
    assert_eq!(kernel.read(thread(1), &session), Err(libc::EIO));
    // The error that is owed is paid by another save.
    assert_eq!(kernel.save(thread(1), &sid('a', 2), &visitor("y")).unwrap_err(), libc::EIO);
    assert_eq!(kernel.save(thread(1), &session, &visitor("empty")).unwrap_err(), libc::EACCES);
    assert_eq!(kernel.read(thread(2), &session), Ok(person("x")));
}

#[test]
fn a_name_that_cannot_be_asked_about_is_there_and_its_open_asks() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    kernel.forget_all();
    kernel.store.set_health(Health::Degraded);
    let before = kernel.store.requests();
    let found = kernel.lookup(thread(2), &session).unwrap().attributes;
    assert_eq!((found.size_bytes, found.valid.as_nanos()), (0, 0));
    assert_eq!(kernel.store.requests(), before);
    // The same inode again, whoever asks, until it is forgotten.
    assert_eq!(kernel.lookup(thread(3), &session).unwrap().attributes.inode, found.inode);
    let handle = kernel.open_inode(thread(2), found.inode).unwrap();
    assert_eq!(kernel.read_handle(handle), person("x"));
    kernel.core.release(handle);
    assert_eq!(kernel.attributes(found.inode).unwrap().size_bytes, person("x").len() as u64);
    assert_eq!(kernel.forget_all(), NOTHING);
}

#[test]
fn an_open_in_an_outage_waits_in_steps_and_fails_when_the_budget_is_spent() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    kernel.store.set_health(Health::Down);
    kernel.store.next_waits([Waited::StepOver, Waited::StepOver, Waited::BudgetSpent]);
    assert_eq!(kernel.read(thread(2), &session), Err(libc::EINTR));
    assert_eq!(kernel.read(thread(2), &session), Err(libc::EINTR));
    assert_eq!(kernel.read(thread(2), &session), Err(libc::EIO));
    // No outage says that a session is gone.
    kernel.store.set_health(Health::Up);
    assert_eq!(kernel.read(thread(2), &session), Ok(person("x")));
}

#[test]
fn an_open_that_is_answered_has_ended_its_wait_whatever_it_is_answered_from() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    // Much longer than one open may wait, all in all.
    for _ in 0..60 {
        kernel.store.set_health(Health::Down);
        kernel.store.next_waits([Waited::StepOver]);
        assert_eq!(kernel.read(thread(2), &session), Err(libc::EINTR));
        kernel.store.set_health(Health::Up);
        assert_eq!(kernel.read(thread(2), &session), Ok(person("x")));
        kernel.host.pass(Duration::from_millis(900));
    }
}

#[test]
fn a_visitors_session_beyond_its_cap_is_efbig_at_the_rename() {
    let kernel = Kernel::with(Memory::new(), |settings| settings.max_anonymous_bytes = 100);
    let session = sid('a', 1);
    let (small, large) = ("x".repeat(10), "x".repeat(100));
    kernel.save(thread(1), &session, &visitor(&small)).unwrap();
    assert_eq!(kernel.save(thread(1), &session, &visitor(&large)), Err(libc::EFBIG));
    assert_eq!(kernel.read(thread(2), &session), Ok(visitor(&small)));
    // Who is logged in has the limit of sessions.
    kernel.save(thread(1), &sid('a', 2), &person(&large)).unwrap();
    assert_eq!(kernel.read(thread(2), &sid('a', 2)), Ok(person(&large)));
}

#[test]
fn a_large_content_is_read_by_the_open_and_kept() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    kernel.forget_all();
    kernel.store.make_contents_large();
    // The look-up takes the header alone.
    let before = kernel.store.requests();
    let inode = kernel.lookup(thread(2), &session).unwrap().attributes.inode;
    assert_eq!(kernel.store.requests(), before + 1);
    assert_eq!(kernel.attributes(inode).unwrap().size_bytes, person("x").len() as u64);
    assert_eq!(kernel.read(thread(2), &session), Ok(person("x")));
    // From then on it is known, and only whether it is current is asked.
    let before = kernel.store.requests();
    assert_eq!(kernel.read(thread(3), &session), Ok(person("x")));
    assert_eq!(kernel.store.requests(), before + 1);
    assert_eq!(kernel.forget_all(), NOTHING);
}

#[test]
fn an_open_has_a_budget_of_its_own_whatever_the_link_says() {
    let kernel = Kernel::with(Memory::new(), |settings| settings.open_budget_ms = 0);
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    // The link is up, and no answer ever comes: the look-up, and what one open asks.
    for _ in 0..4 {
        kernel.store.next_fault(Fault::Unavailable);
    }
    assert_eq!(kernel.read(thread(2), &session), Err(libc::EIO));
    // Its save would make an empty session of it.
    assert_eq!(kernel.save(thread(2), &session, &visitor("y")), Err(libc::EIO));
    assert_eq!(kernel.read(thread(2), &session), Ok(person("x")));
}

#[test]
fn the_first_write_of_a_save_waits_and_the_others_do_not() {
    let kernel = one();
    let (_, handle) = kernel.create(thread(1), "tmpaaaaaaaa.__wz_sess").unwrap();
    kernel.store.set_health(Health::Down);
    kernel.store.next_waits([Waited::StepOver, Waited::Up]);
    let write = |offset| kernel.run(kernel.core.write(thread(1), handle, offset, b"{}"));
    assert_eq!(write(0), Err(libc::EINTR));
    assert_eq!(write(0), Ok(2));
    assert_eq!(write(2), Ok(2));
}

#[test]
fn an_alias_is_found_only_after_a_listing_has_shown_it() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    let alias = session.alias();
    let look = || kernel.lookup_name(thread(2), shard(), alias.as_str());
    assert_eq!(look().unwrap_err(), libc::ENOENT);
    let listed = kernel.list(thread(2), shard()).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].0, alias.as_str());
    let found = look().unwrap().attributes;
    assert_eq!(found.size_bytes, person("x").len() as u64);
    // It is no way to the content.
    assert_eq!(kernel.open_inode(thread(2), found.inode), Err(libc::ENOENT));
    assert_eq!(kernel.forget_all(), NOTHING);
}

#[test]
fn an_open_listing_stays_as_it_was_taken() {
    let kernel = one();
    for number in 1..=2 {
        kernel.save(thread(1), &sid('a', number), &person("x")).unwrap();
    }
    let (_, handle) = kernel.create(thread(1), "tmpaaaaaaaa.__wz_sess").unwrap();
    kernel.core.release(handle);
    let open = |inode| kernel.run(kernel.core.open_directory(thread(2), inode)).unwrap();
    let (root, directory) = (open(InodeId::ROOT), open(shard()));
    kernel.unlink(thread(1), &sid('a', 1)).unwrap();
    kernel.save(thread(1), &sid('a', 3), &person("x")).unwrap();
    kernel.unlink_name(thread(1), InodeId::ROOT, "tmpaaaaaaaa.__wz_sess").unwrap();
    let names = |handle| {
        let snapshot = kernel.core.snapshot(handle).unwrap();
        snapshot.entries.iter().map(|item| item.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(directory), [1, 2].map(|n| sid('a', n).alias().as_str().to_owned()));
    assert_eq!(names(root), ["ab", "tmpaaaaaaaa.__wz_sess"]);
    // A temp file that is gone has no attributes to show.
    let snapshot = kernel.core.snapshot(root).unwrap();
    assert!(kernel.core.enter_listed(&snapshot.entries[1]).is_none());
    for handle in [root, directory] {
        kernel.core.release(handle);
    }
    assert_eq!(kernel.forget_all(), NOTHING);
}

#[test]
fn a_thread_that_removed_its_own_session_by_its_listed_name_may_save_it_again() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    kernel.read(thread(1), &session).unwrap();
    kernel.list(thread(1), shard()).unwrap();
    kernel.unlink_name(thread(1), shard(), session.alias().as_str()).unwrap();
    assert_eq!(kernel.read(thread(2), &session), Ok(person("x")), "nobody misses it");
    kernel.save(thread(1), &session, &person("again")).unwrap();
    kernel.store.model().pass(UNIT);
    assert_eq!(kernel.read(thread(2), &session), Ok(person("again")));
    // By its id it is a logout.
    kernel.unlink(thread(2), &session).unwrap();
    assert_eq!(kernel.save(thread(2), &session, &person("late")).unwrap_err(), libc::EACCES);
    assert_eq!(kernel.save(thread(1), &session, &person("late")).unwrap_err(), libc::EACCES);
}

#[test]
fn a_session_that_expired_is_absent_and_its_inode_leads_nowhere() {
    let kernel = one();
    let session = sid('a', 1);
    kernel.save(thread(1), &session, &person("x")).unwrap();
    let inode = kernel.lookup(thread(2), &session).unwrap().attributes.inode;
    kernel.store.model().pass(16 * UNIT);
    assert_eq!(kernel.read(thread(1), &session), Err(libc::ENOENT));
    assert_eq!(kernel.open_inode(thread(1), inode), Err(libc::ENOENT));
    assert_eq!(kernel.list(thread(1), shard()), Ok(vec![]));
    assert_eq!(kernel.forget_all(), NOTHING);
}

#[test]
fn names_that_are_neither_session_nor_temp_file_cannot_be_made() {
    let kernel = one();
    for name in ["x", "tmp.__wz_sess", "werkzeug_x.sess", "ab", "tmpAAAAAAAA.__wz_sess"] {
        assert_eq!(kernel.create(thread(1), name).unwrap_err(), libc::EACCES, "{name}");
    }
    assert_eq!(kernel.core.in_use(), NOTHING);
}
