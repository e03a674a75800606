//! Where the core answers a look-up without asking the store, and what ends that.

use std::time::Duration;

use sessionfs::fs::inode::InodeId;
use sessionfs::session::name::Sid;
use sessionfs::store::Health;

use super::support::kernel::{Kernel, flat_sid, person, sid, thread, visitor};
use super::support::memory::Fault;
use super::{one, shard, two};

/// A session of Odoo 16 and 17: a short id in its shard.
fn save_short(kernel: &Kernel, session: &Sid) {
    let (_, handle) = kernel.create(thread(90), "tmpzzzzzzzz.__wz_sess").unwrap();
    kernel.run(kernel.core.write(thread(90), handle, 0, &person("x"))).unwrap();
    kernel.core.release(handle);
    let from = (InodeId::ROOT, std::ffi::OsStr::new("tmpzzzzzzzz.__wz_sess"));
    let to = (shard(), std::ffi::OsStr::new(session.expose()));
    kernel.run(kernel.core.rename(thread(90), from, to)).unwrap();
}

fn flat_name(session: &Sid) -> String {
    format!("werkzeug_{}.sess", session.expose())
}

/// Odoo 16 reads a session: it asks for the flat name first. Says whether that was found.
fn read_as_16(kernel: &Kernel, number: u32, session: &Sid) -> bool {
    let found = kernel.stat(thread(number), InodeId::ROOT, &flat_name(session)).is_ok();
    let entry = kernel.lookup_name(thread(number), shard(), session.expose()).unwrap();
    let handle = kernel.open_inode(thread(number), entry.attributes.inode).unwrap();
    kernel.core.release(handle);
    found
}

#[test]
fn a_flat_probe_costs_no_request_for_a_thread_that_has_made_one() {
    let kernel = one();
    let session = flat_sid(1);
    save_short(&kernel, &session);
    // Both names are there, and the first probe is not known for one yet.
    assert!(read_as_16(&kernel, 1, &session));
    for _ in 0..3 {
        // The kernel asks once more where it knew the name.
        let _ = kernel.lookup_name(thread(1), InodeId::ROOT, &flat_name(&session));
        let before = kernel.store.requests();
        assert!(!read_as_16(&kernel, 1, &session));
        assert_eq!(kernel.store.requests(), before + 1);
    }
}

#[test]
fn a_thread_that_has_named_a_shard_still_finds_flat_names() {
    let kernel = one();
    let flat = flat_sid(1);
    kernel.save(thread(90), &flat, &person("x")).unwrap();
    save_short(&kernel, &flat_sid(2));
    // A module walks the tree: it opens shards, and looks at what they list.
    let walk = |number| {
        for directory in [InodeId::ROOT, shard()] {
            for (name, _) in kernel.list(thread(number), directory).unwrap() {
                if name.len() > 2 {
                    kernel.stat(thread(number), directory, &name).unwrap();
                }
            }
        }
    };
    walk(1);
    assert_eq!(kernel.read(thread(1), &flat), Ok(person("x")));
    walk(1);
    assert_eq!(kernel.read(thread(1), &flat), Ok(person("x")));
    // Not even a thread whose probes were in vain takes a listed name for one.
    read_as_16(&kernel, 2, &flat_sid(2));
    read_as_16(&kernel, 2, &flat_sid(2));
    walk(2);
    let listed = format!("werkzeug_{}.sess", flat.alias());
    kernel.host.pass(Duration::from_secs(60));
    assert!(kernel.stat(thread(2), InodeId::ROOT, &listed).is_ok());
}

#[test]
fn a_thread_that_has_saved_a_flat_name_finds_it() {
    let kernel = one();
    let flat = flat_sid(1);
    save_short(&kernel, &flat_sid(2));
    read_as_16(&kernel, 1, &flat_sid(2));
    read_as_16(&kernel, 1, &flat_sid(2));
    kernel.save(thread(1), &flat, &person("x")).unwrap();
    assert!(kernel.stat(thread(1), InodeId::ROOT, &flat_name(&flat)).is_ok());
    assert_eq!(kernel.read(thread(1), &flat), Ok(person("x")));
}

#[test]
fn attributes_after_a_create_are_true() {
    let (here, there) = two();
    let (dead, grown, absent) = (sid('a', 1), sid('a', 2), sid('a', 3));
    for session in [&dead, &grown] {
        here.save(thread(1), session, &person("x")).unwrap();
    }
    there.unlink(thread(1), &dead).unwrap();
    there.save(thread(1), &grown, &person("much longer than before")).unwrap();
    let stat = |session: &Sid| here.stat(thread(2), shard(), session.expose());
    for (session, size) in [
        (&absent, Err(libc::ENOENT)),
        (&dead, Err(libc::ENOENT)),
        (&grown, Ok(person("much longer than before").len() as u64)),
    ] {
        let (_, handle) = here.create(thread(2), "tmpaaaaaaaa.__wz_sess").unwrap();
        assert_eq!(stat(session).map(|found| found.size_bytes), size);
        here.core.release(handle);
        here.unlink_name(thread(2), InodeId::ROOT, "tmpaaaaaaaa.__wz_sess").unwrap();
    }
    // Of what a listing shows, too.
    here.list(thread(3), shard()).unwrap();
    here.create(thread(3), "tmpaaaaaaaa.__wz_sess").unwrap();
    let found = here.stat(thread(3), shard(), grown.alias().as_str()).unwrap();
    assert_eq!(found.size_bytes, person("much longer than before").len() as u64);
}

#[test]
fn a_rename_is_answered_with_a_guess_until_the_save_is_given_up() {
    let kernel = one();
    let absent = sid('a', 1);
    let guessed = |by| kernel.lookup(by, &absent).is_ok();
    let create = |number| kernel.create(thread(number), &format!("tmp0000000{number}.__wz_sess"));
    create(1).unwrap();
    assert!(guessed(thread(1)));
    // An open.
    create(2).unwrap();
    kernel.save(thread(9), &sid('a', 2), &person("x")).unwrap();
    let inode = kernel.lookup(thread(9), &sid('a', 2)).unwrap().attributes.inode;
    kernel.open_inode(thread(2), inode).unwrap();
    assert!(!guessed(thread(2)));
    // The temp file's removal.
    create(3).unwrap();
    kernel.unlink_name(thread(3), InodeId::ROOT, "tmp00000003.__wz_sess").unwrap();
    assert!(!guessed(thread(3)));
    // A create that fails.
    create(4).unwrap();
    assert_eq!(create(4).unwrap_err(), libc::EEXIST);
    assert!(!guessed(thread(4)));
}

#[test]
fn attributes_of_a_name_that_could_not_be_asked_about_are_asked_for_when_they_can_be() {
    let kernel = one();
    let (session, absent) = (sid('a', 1), sid('a', 2));
    kernel.save(thread(1), &session, &person("x")).unwrap();
    kernel.forget_all();
    kernel.store.set_health(Health::Degraded);
    let found = kernel.lookup(thread(2), &session).unwrap().attributes.inode;
    let not_there = kernel.lookup(thread(2), &absent).unwrap().attributes.inode;
    assert_eq!(kernel.attributes(found).unwrap().size_bytes, 0);
    kernel.store.set_health(Health::Up);
    assert_eq!(kernel.attributes(found).unwrap().size_bytes, person("x").len() as u64);
    assert_eq!(kernel.attributes(not_there).unwrap_err(), libc::ENOENT);
    // No failure of the store says that it is gone, and none is a failed read.
    kernel.store.next_fault(Fault::Unreadable);
    assert!(kernel.attributes(found).is_ok());
    kernel.create(thread(0), "tmpaaaaaaaa.__wz_sess").unwrap();
    // An open handle keeps what it opened, after the end as well.
    let handle = kernel.open_inode(thread(2), found).unwrap();
    kernel.unlink(thread(1), &session).unwrap();
    assert_eq!(kernel.attributes(found).unwrap().size_bytes, person("x").len() as u64);
    kernel.core.release(handle);
}

/// A descriptor without access to the bytes (`O_PATH`) is opened again without a look-up.
#[test]
fn what_a_look_up_fetched_is_opened_by_its_own_open_alone() {
    let (here, there) = two();
    let fetch = |session: &Sid| {
        there.save(thread(9), session, &person("x")).unwrap();
        here.lookup(thread(1), session).unwrap().attributes.inode
    };
    // Ended elsewhere, a moment later.
    let session = sid('a', 1);
    let inode = fetch(&session);
    there.unlink(thread(9), &session).unwrap();
    here.host.pass(Duration::from_millis(20));
    assert_eq!(here.open_inode(thread(1), inode), Err(libc::ENOENT));
    // Ended here.
    let session = sid('a', 2);
    let inode = fetch(&session);
    here.unlink(thread(2), &session).unwrap();
    assert_eq!(here.open_inode(thread(1), inode), Err(libc::ENOENT));
    // Another look-up since.
    let session = sid('a', 3);
    let inode = fetch(&session);
    let _ = here.lookup(thread(1), &sid('a', 4));
    there.unlink(thread(9), &session).unwrap();
    assert_eq!(here.open_inode(thread(1), inode), Err(libc::ENOENT));
}

#[test]
fn a_soft_rotation_inherits_whatever_other_threads_open_between() {
    const MORE_THAN_ONE_LOOKS_BACK: u32 = 600;
    let kernel = one();
    let (old, new) = (sid('a', 1), sid('a', 2));
    kernel.store.model().limits.absolute_ms = Some(20 * super::support::model::UNIT);
    for number in 0..MORE_THAN_ONE_LOOKS_BACK {
        kernel.save(thread(9), &sid('b', number), &visitor("x")).unwrap();
    }
    kernel.save(thread(1), &old, &person("x")).unwrap();
    kernel.store.model().pass(10 * super::support::model::UNIT);
    kernel.read(thread(1), &old).unwrap();
    kernel.save(thread(1), &old, &person("next_sid")).unwrap();
    for number in 0..MORE_THAN_ONE_LOOKS_BACK {
        kernel.read(thread(9), &sid('b', number)).unwrap();
    }
    kernel.save(thread(1), &new, &person("rotated")).unwrap();
    kernel.store.model().pass(11 * super::support::model::UNIT);
    assert_eq!(kernel.read(thread(2), &new), Err(libc::ENOENT));
}
