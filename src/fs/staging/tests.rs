use super::*;

fn staging(change: impl FnOnce(&mut Settings)) -> (tempfile::TempDir, Arc<Staging>) {
    // A tmpfs never gives the number of an inode to a second file.
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut settings =
        Settings { staging_dir: directory.path().join("staging"), ..Settings::default() };
    change(&mut settings);
    let staging = Staging::open(&settings).unwrap();
    (directory, staging)
}

fn left(staging: &Staging) -> Vec<String> {
    let mut names: Vec<String> = staging.all().iter().map(|one| one.name.clone()).collect();
    names.sort_unstable();
    let mut on_disk: Vec<String> = std::fs::read_dir(&staging.dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    on_disk.sort_unstable();
    assert_eq!(on_disk, names);
    names
}

/// As if the file had been closed so long ago.
fn age(staging: &Staging, inode: InodeId, by: Duration) {
    if let Some(since) = lock(&staging.files).closed.get_mut(&inode) {
        *since -= by;
    }
}

fn temp(number: u32) -> String {
    format!("tmp{number:08}.__wz_sess")
}

#[test]
fn a_descriptor_is_held_only_while_a_file_is_open() {
    let (_directory, staging) = staging(|settings| settings.max_open_staging_files = 1);
    for number in 0..10 {
        let open = staging.create(&temp(number), 0o600).unwrap();
        let full = staging.create(&temp(99), 0o600).unwrap_err();
        assert_eq!(full.errno(), libc::EMFILE);
        staging.write(&open.staged, b"{}", 0).unwrap();
    }
    let files = lock(&staging.files);
    assert!(files.by_inode.values().all(|staged| lock(&staged.open).file.is_none()));
    assert_eq!((files.open, files.by_inode.len()), (0, 10));
}

#[test]
fn a_closed_file_is_found_again_whatever_mode_it_was_given() {
    let (_directory, staging) = staging(|_| {});
    for mode in [0o600, 0o000, 0o444] {
        let name = temp(mode);
        let open = staging.create(&name, mode).unwrap();
        staging.write(&open.staged, b"content", 0).unwrap();
        open.staged.set_mode(mode);
        drop(open);
        let found = staging.find(&name).unwrap();
        assert_eq!((found.mode(), found.metadata().unwrap().len()), (mode, 7));
        assert_eq!(staging.hold(&found).unwrap().content().unwrap(), b"content");
    }
}

#[test]
fn the_file_that_was_closed_first_goes_when_there_is_no_room() {
    let (_directory, staging) = staging(|settings| settings.max_staging_files = 3);
    let kept = staging.create(&temp(0), 0o600).unwrap();
    for number in 1..100 {
        drop(staging.create(&temp(number), 0o600).unwrap());
    }
    assert_eq!(left(&staging), [temp(0), temp(98), temp(99)]);
    let _held = [98, 99].map(|number| staging.hold(&staging.find(&temp(number)).unwrap()).unwrap());
    assert_eq!(staging.create(&temp(100), 0o600).unwrap_err().errno(), libc::ENOSPC);
    drop(kept);
    assert!(staging.create(&temp(100), 0o600).is_ok());
}

#[test]
fn bytes_of_closed_files_make_room_for_a_write() {
    let (_directory, staging) = staging(|settings| {
        settings.max_session_bytes = 32 << 10;
        settings.max_staging_bytes = 64 << 10;
    });
    for number in 0..10 {
        let open = staging.create(&temp(number), 0o600).unwrap();
        staging.write(&open.staged, &vec![b'x'; 32 << 10], 0).unwrap();
        assert!(staging.total_bytes() <= 64 << 10);
    }
    assert_eq!(left(&staging), [temp(8), temp(9)]);
    let huge = staging.find(&temp(9)).unwrap();
    assert_eq!(staging.set_len(&huge, (32 << 10) + 1).unwrap_err().errno(), libc::EFBIG);
    // It does not go itself to make room for itself.
    staging.set_len(&huge, 0).unwrap();
    staging.set_len(&huge, 32 << 10).unwrap();
    assert_eq!(left(&staging), [temp(8), temp(9)]);
}

#[test]
fn what_is_written_after_an_unlink_is_given_back_at_the_close() {
    let (_directory, staging) = staging(|settings| settings.max_staging_bytes = 8 << 20);
    for number in 0..10 {
        let open = staging.create(&temp(number), 0o600).unwrap();
        staging.remove(open.staged.inode);
        staging.write(&open.staged, &vec![b'x'; 2 << 20], 0).unwrap();
        assert_eq!(staging.total_bytes(), 2 << 20);
        assert_eq!(staging.count(), 1);
        assert_eq!(open.content().unwrap().len(), 2 << 20);
        drop(open);
        assert_eq!((staging.count(), staging.total_bytes()), (0, 0));
    }
}

#[test]
fn what_has_failed_goes_at_the_close_and_the_rest_after_its_time() {
    let (_directory, staging) = staging(|_| {});
    let [failed, retried, discarded, old, new] = [0, 1, 2, 3, 4].map(temp);
    let open = staging.create(&failed, 0o600).unwrap();
    open.staged.note_failure();
    drop(open);
    let open = staging.create(&retried, 0o600).unwrap();
    open.staged.note_failure();
    staging.write(&open.staged, b"{}", 0).unwrap();
    drop(open);
    let open = staging.create(&discarded, 0o600).unwrap();
    staging.discard(&open.staged);
    staging.write(&open.staged, b"{}", 0).unwrap();
    assert_eq!(left(&staging), [retried.as_str(), discarded.as_str()]);
    drop(open);
    let held = staging.create(&old, 0o600).unwrap();
    drop(staging.create(&new, 0o600).unwrap());
    let spool = format!("werkzeug_{}_{}.file", "a".repeat(40), "b".repeat(32));
    drop(staging.create(&spool, 0o600).unwrap());
    assert_eq!(left(&staging), [&retried, &old, &new, &spool].map(String::as_str));
    for staged in staging.all() {
        age(&staging, staged.inode, staging.orphan_after);
    }
    staging.expire_orphans();
    assert_eq!(left(&staging), [&old, &spool].map(String::as_str));
    drop(held);
    for staged in staging.all() {
        age(&staging, staged.inode, SPOOL_KEPT);
    }
    staging.expire_orphans();
    assert_eq!(left(&staging), <[String; 0]>::default());
    assert_eq!(staging.total_bytes(), 0);
}

#[test]
fn more_files_than_the_bound_are_taken_over_and_then_go() {
    let (directory, before) = staging(|_| {});
    for number in 0..20 {
        drop(before.create(&temp(number), 0o600).unwrap());
    }
    let settings = Settings {
        staging_dir: directory.path().join("staging"),
        max_staging_files: 3,
        ..Settings::default()
    };
    let after = Staging::open(&settings).unwrap();
    assert_eq!(after.count(), 20);
    assert!(after.create(&temp(99), 0o600).is_ok());
    assert_eq!(after.count(), 3);
}
