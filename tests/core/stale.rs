//! ESTALE: the kernel repeats an `open` that it ends, once, so it is never told so twice.

use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use sessionfs::fs::Settings;
use sessionfs::fs::attributes::Change;
use sessionfs::fs::inode::InodeId;

use super::support::kernel::{Kernel, foreign, person, sid, thread};
use super::support::memory::Memory;
use super::support::model::UNIT;
use super::{NOTHING, one, two};

/// Longer than what was read of a process is trusted.
const LATER: Duration = Duration::from_secs(2);

#[test]
fn a_replaced_version_is_stale_once_and_then_what_the_retry_found() {
    let (here, there) = two();
    let session = sid('a', 1);
    there.save(thread(1), &session, &person("one")).unwrap();
    // Known to the kernel by an earlier look-up, and replaced since.
    let old = here.lookup(thread(1), &session).unwrap().attributes.inode;
    here.lookup(thread(2), &session).unwrap();
    there.save(thread(1), &session, &person("two")).unwrap();
    assert_eq!(here.open_inode(thread(3), old), Err(libc::ESTALE));
    let retried = here.lookup(thread(3), &session).unwrap().attributes.inode;
    assert_ne!(retried, old);
    // Replaced once more, after the look-up of this very open: that version was current in it.
    there.save(thread(1), &session, &person("three")).unwrap();
    let handle = here.open_inode(thread(3), retried).unwrap();
    assert_eq!(here.read_handle(handle), person("two"));
    here.core.release(handle);
    assert_eq!(here.read(thread(3), &session), Ok(person("three")));
}

#[test]
fn estale_is_never_said_twice_for_one_inode() {
    let (here, there) = two();
    let session = sid('a', 1);
    there.save(thread(1), &session, &person("one")).unwrap();
    let old = here.lookup(thread(1), &session).unwrap().attributes.inode;
    there.save(thread(1), &session, &person("two")).unwrap();
    assert_eq!(here.open_inode(thread(2), old), Err(libc::ESTALE));
    let handle = here.open_inode(thread(2), old).unwrap();
    assert_eq!(here.read_handle(handle), person("two"));
}

#[test]
fn estale_is_never_said_to_a_caller_that_cannot_be_followed() {
    let (here, there) = two();
    let session = sid('a', 1);
    there.save(thread(1), &session, &person("one")).unwrap();
    let old = here.lookup(foreign(), &session).unwrap().attributes.inode;
    there.save(thread(1), &session, &person("two")).unwrap();
    assert!(here.open_inode(foreign(), old).is_ok());
}

/// A server, and what makes a new version on another one.
fn here_and_saves(change: impl FnOnce(&mut Settings)) -> (Kernel, impl Fn(&str)) {
    let store = Memory::new();
    let (here, there) = (Kernel::with(store.clone(), change), Kernel::new(store.other_server()));
    // Each by a thread that knows of no life before.
    let savers = Cell::new(100);
    let save = move |text: &str| {
        there.save(thread(savers.replace(savers.get() + 1)), &sid('a', 1), &person(text)).unwrap();
    };
    (here, save)
}

/// An `open` of `thread(3)` is answered with ESTALE; the inode that the kernel's own retry finds.
fn stale_then_found(here: &Kernel, save: &impl Fn(&str)) -> InodeId {
    save("one");
    let old = here.lookup(thread(1), &sid('a', 1)).unwrap().attributes.inode;
    save("two");
    assert_eq!(here.open_inode(thread(3), old), Err(libc::ESTALE));
    here.lookup(thread(3), &sid('a', 1)).unwrap().attributes.inode
}

fn opened(here: &Kernel, inode: InodeId) -> Bytes {
    let handle = here.open_inode(thread(3), inode).unwrap();
    let bytes = here.read_handle(handle);
    here.core.release(handle);
    bytes
}

#[test]
fn a_retry_after_estale_opens_what_it_found_however_late_it_comes() {
    let (here, save) = here_and_saves(|_| {});
    let found = stale_then_found(&here, &save);
    // This server stands still, and sees the newer version before the retry has opened its own.
    save("three");
    here.host.pass(Duration::from_millis(500));
    here.lookup(thread(4), &sid('a', 1)).unwrap();
    assert_eq!(opened(&here, found), person("two"));
    // The next call is another one.
    assert_eq!(here.open_inode(thread(3), found), Err(libc::ESTALE));
}

#[test]
fn a_retry_after_estale_opens_what_is_current_if_it_does_not_have_what_it_found() {
    // Content is dropped at once, or so late that the look-up may be another call's.
    for (kept_bytes, late_ms) in [(1, 0), (1 << 20, 1000)] {
        let (here, save) = here_and_saves(|settings| settings.max_memory_bytes = kept_bytes);
        let found = stale_then_found(&here, &save);
        save("three");
        here.host.pass(Duration::from_millis(late_ms));
        assert_eq!(opened(&here, found), person("three"));
    }
}

/// A look-up does not read a large content, so the one that it has found may be gone at the `open`.
#[test]
fn a_retry_after_estale_tells_the_size_of_the_large_content_that_it_opens() {
    let (here, save) = here_and_saves(|_| {});
    here.store.make_contents_large();
    let found = stale_then_found(&here, &save);
    save("three, which is longer");
    let handle = here.open_inode(thread(3), found).unwrap();
    // Others that find the session meanwhile do not change it.
    save("four");
    assert_ne!(here.lookup(thread(4), &sid('a', 1)).unwrap().attributes.inode, found);
    assert_eq!(here.read(thread(4), &sid('a', 1)), Ok(person("four")));
    let bytes = here.read_handle(handle);
    assert_eq!(bytes, person("three, which is longer"));
    assert_eq!(here.attributes(found).unwrap().size_bytes, bytes.len() as u64);
    here.core.release(handle);
    assert_eq!(here.forget_all(), NOTHING);
}

#[test]
fn a_retry_after_estale_is_known_though_its_thread_is_not() {
    const MORE_THAN_ARE_KNOWN: u32 = 16_384 + 1;
    let hidden = |here: &Kernel| {
        here.host.pass(LATER);
        here.host.hide();
    };
    let pushed_out = |here: &Kernel| {
        for number in 100..100 + MORE_THAN_ARE_KNOWN {
            here.lookup(thread(number), &sid('b', 2)).unwrap_err();
        }
    };
    for forget in [&hidden as &dyn Fn(&Kernel), &pushed_out] {
        let (here, save) = here_and_saves(|_| {});
        let found = stale_then_found(&here, &save);
        forget(&here);
        save("three");
        assert_eq!(opened(&here, found), person("three"));
    }
}

#[test]
fn a_retry_that_finds_nothing_is_over() {
    let (here, save) = here_and_saves(|_| {});
    let found = stale_then_found(&here, &save);
    here.unlink(thread(4), &sid('a', 1)).unwrap();
    here.lookup(thread(3), &sid('a', 1)).unwrap_err();
    here.store.model().pass(100 * UNIT);
    save("three");
    assert_eq!(here.open_inode(thread(3), found), Err(libc::ESTALE));
}

/// A worker does not know the inodes of the one before it.
#[test]
fn an_open_of_an_unknown_inode_is_repeated_once_and_not_told_estale_again() {
    let (here, save) = here_and_saves(|_| {});
    let unknown = InodeId((1 << 63) + 99);
    for by in [thread(3), foreign()] {
        assert_eq!(here.open_inode(by, unknown), Err(libc::ESTALE));
    }
    save("one");
    let found = here.lookup(thread(3), &sid('a', 1)).unwrap().attributes.inode;
    save("two");
    here.host.pass(LATER);
    assert_eq!(opened(&here, found), person("two"));
    // By a descriptor: the retry names the same one. Odoo must not take that for an empty session.
    assert_eq!(here.open_inode(thread(3), unknown), Err(libc::ESTALE));
    assert_eq!(here.open_inode(thread(3), unknown), Err(libc::EIO));
    assert_eq!(here.create(thread(3), "tmpaaaaaaaa.__wz_sess").unwrap_err(), libc::EIO);
}

/// `fstat` and `ftruncate` are not repeated.
#[test]
fn a_temp_file_that_was_removed_is_there_for_who_has_it_open() {
    let kernel = one();
    let (inode, handle) = kernel.create(thread(1), "tmpaaaaaaaa.__wz_sess").unwrap();
    kernel.run(kernel.core.write(thread(1), handle, 0, b"ten bytes.")).unwrap();
    kernel.unlink_name(thread(1), InodeId::ROOT, "tmpaaaaaaaa.__wz_sess").unwrap();
    assert_eq!(kernel.attributes(inode).unwrap().size_bytes, 10);
    let change = Change { size_bytes: Some(3), ..Change::default() };
    kernel.run(kernel.core.set_attributes(thread(1), inode, Some(handle), change)).unwrap();
    let again = kernel.open_inode(thread(2), inode).unwrap();
    assert_eq!(kernel.read_handle(again), "ten");
    kernel.core.release(handle);
    assert_eq!(kernel.attributes(inode).unwrap().size_bytes, 3);
    kernel.core.release(again);
    // What has no name and is not open is gone, which every call is told at once.
    assert_eq!(kernel.attributes(inode).unwrap_err(), libc::ENOENT);
    assert_eq!(kernel.open_inode(thread(1), inode), Err(libc::ENOENT));
    assert_eq!(kernel.forget_all(), NOTHING);
}

/// The thread has a save under way, so its look-up is answered as that of a rename.
#[test]
fn attributes_of_what_a_save_was_told_are_asked_for_and_stale_only_if_replaced() {
    let (here, save) = here_and_saves(|_| {});
    save("one");
    here.lookup(thread(1), &sid('a', 1)).unwrap();
    for (replaced, told) in [(false, None), (true, Some(libc::ESTALE))] {
        let (_, handle) = here.create(thread(2), "tmpaaaaaaaa.__wz_sess").unwrap();
        let guess = here.lookup(thread(2), &sid('a', 1)).unwrap().attributes.inode;
        if replaced {
            save("longer");
        }
        assert_eq!(here.attributes_for(thread(2), guess).err(), told);
        assert!(here.attributes_for(thread(2), guess).is_ok());
        here.core.release(handle);
        here.unlink_name(thread(2), InodeId::ROOT, "tmpaaaaaaaa.__wz_sess").unwrap();
    }
}
