//! Workers have died of a request: it is failed, and so is what comes of the same session.

use std::ffi::OsStr;
use std::time::Duration;

use sessionfs::fs::inode::InodeId;
use sessionfs::fs::poison::{Does, Subject};
use sessionfs::session::name::Sid;
use sessionfs::store::HELD_IN_STORE_MS;

use super::shard;
use super::support::kernel::{Kernel, person, repeated, request, sid, thread};
use super::support::memory::Memory;

/// Longer than it is remembered.
const LATER: Duration = Duration::from_secs(301);

/// A worker that is told that others have died of an `open` of this session by `thread(1)`.
fn after_an_open(session: &Sid) -> Kernel {
    let mut kernel = Kernel::kept(Memory::new());
    kernel.save(thread(2), session, &person("x")).unwrap();
    let inode = kernel.lookup(thread(1), session).unwrap().attributes.inode;
    kernel.succeed();
    let caller = repeated(thread(1), 10);
    kernel.died_of(&Subject { caller, does: Does::Read, inode, target: None });
    kernel
}

#[test]
fn a_session_that_workers_died_of_fails_for_a_while_and_no_other() {
    let (session, other) = (sid('a', 1), sid('b', 2));
    let mut kernel = after_an_open(&session);
    kernel.save(thread(2), &other, &person("y")).unwrap();
    for _ in 0..2 {
        assert_eq!(kernel.read(thread(3), &session), Err(libc::EIO));
        assert_eq!(kernel.read(thread(2), &other), Ok(person("y")));
        assert_eq!(kernel.save(thread(4), &session, &person("z")), Err(libc::EIO));
        kernel.succeed();
    }
    kernel.host.pass(LATER);
    assert_eq!(kernel.read(thread(5), &session), Ok(person("x")));
}

#[test]
fn it_can_be_removed_and_is_gone_then() {
    let session = sid('a', 1);
    let kernel = after_an_open(&session);
    assert!(kernel.stat(thread(3), shard(), session.expose()).is_ok());
    kernel.unlink(thread(3), &session).unwrap();
    assert_eq!(kernel.read(thread(3), &session), Err(libc::ENOENT));
}

/// As after every read that fails: Odoo 14 would save an empty session under a new cookie.
#[test]
fn the_thread_that_opened_it_owes_an_error() {
    let kernel = after_an_open(&sid('a', 1));
    let create = || kernel.create(thread(1), "tmpaaaaaaaa.__wz_sess").map(drop);
    assert_eq!((create(), create()), (Err(libc::EIO), Ok(())));
}

/// Odoo 19 removes the session of its own request by its listed name, and saves it again. That save fails.
#[test]
fn a_save_that_workers_died_of_takes_back_what_its_thread_has_removed() {
    for was_sent in [false, true] {
        let (mut kernel, session) = (Kernel::kept(Memory::new()), sid('a', 1));
        kernel.save(thread(2), &session, &person("x")).unwrap();
        kernel.read(thread(1), &session).unwrap();
        kernel.list(request(thread(1), 100), shard()).unwrap();
        let listed = session.alias();
        kernel.unlink_name(request(thread(1), 102), shard(), listed.as_str()).unwrap();
        let temp = "tmpaaaaaaaa.__wz_sess";
        let (_, handle) = kernel.create(thread(1), temp).unwrap();
        kernel.run(kernel.core.write(thread(1), handle, 0, &person("again"))).unwrap();
        let target = (shard(), OsStr::new(session.expose()));
        if was_sent {
            // As far as the worker knows.
            let from = (InodeId::ROOT, OsStr::new(temp));
            drop(kernel.core.rename(request(thread(1), 104), from, target));
        }
        kernel.succeed();
        let caller = repeated(thread(1), 104);
        let inode = InodeId::ROOT;
        kernel.died_of(&Subject { caller, does: Does::Save, inode, target: Some(target) });
        kernel.host.pass(LATER);
        kernel.wait_for_tasks();
        kernel.store.model().pass(HELD_IN_STORE_MS);
        assert_eq!(kernel.read(thread(3), &session), Ok(person("x")), "{was_sent}");
    }
}

#[test]
fn a_request_is_known_by_the_session_that_it_names_or_that_its_thread_has_opened() {
    let (kernel, session) = (Kernel::kept(Memory::new()), sid('a', 1));
    kernel.save(thread(2), &session, &person("x")).unwrap();
    kernel.read(thread(1), &session).unwrap();
    kernel.list(request(thread(1), 100), shard()).unwrap();
    let (temp, _) = kernel.create(thread(1), "tmpaaaaaaaa.__wz_sess").unwrap();
    let alias = session.alias();
    let [by_id, listed] = [session.expose(), alias.as_str()].map(OsStr::new);
    let named = |name| (InodeId::ROOT, Some((shard(), name)));
    for (does, (inode, target), is_known) in [
        (Does::Read, named(by_id), true),
        (Does::Other, named(listed), true),
        (Does::Save, named(by_id), true),
        (Does::Save, (temp, None), true),
        (Does::Other, (InodeId::ROOT, None), false),
        (Does::Read, named(OsStr::new("none")), false),
    ] {
        let subject = Subject { caller: repeated(thread(1), 10), does, inode, target };
        let found = kernel.core.session_of(&subject);
        assert_eq!(found, is_known.then(|| alias.clone()), "{subject:?}");
    }
}
