//! What each operation does to a file or a directory.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::{Duration, SystemTime};

use nix::mount::{MntFlags, MsFlags, umount2};

use crate::support::mount::{Mount, alias, anonymous, authenticated, errno, in_thread, sid};
use crate::support::redis::Redis;
use crate::{HEX, node, two_nodes};

#[test]
fn reading_what_is_not_there_is_enoent() {
    let (_redis, mount) = node("");
    assert_eq!(errno(mount.read(HEX)), libc::ENOENT);
    assert_eq!(errno(fs::metadata(mount.sharded(HEX))), libc::ENOENT);
}

#[test]
fn a_read_gives_what_was_saved() {
    let (_redis, mount) = node("");
    mount.save(HEX, &authenticated("a")).unwrap();
    let mut file = File::open(mount.sharded(HEX)).unwrap();
    let length = file.metadata().unwrap().len();
    assert_eq!(length, authenticated("a").len() as u64);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(length - 3)).unwrap();
    file.read_to_end(&mut tail).unwrap();
    assert_eq!(tail, &authenticated("a")[authenticated("a").len() - 3..]);
    assert_eq!(file.read_at(&mut [0; 8], length + 5).unwrap(), 0);
}

#[test]
fn a_session_cannot_be_opened_for_writing() {
    let (_redis, mount) = node("");
    mount.save(HEX, &authenticated("a")).unwrap();
    let path = mount.sharded(HEX);
    assert_eq!(errno(OpenOptions::new().write(true).open(&path)), libc::EACCES);
    assert_eq!(errno(OpenOptions::new().read(true).write(true).open(&path)), libc::EACCES);
    assert_eq!(errno(OpenOptions::new().append(true).open(&path)), libc::EACCES);
    assert_eq!(errno(File::create(&path)), libc::EACCES);
    assert_eq!(mount.read(HEX).unwrap(), authenticated("a"));
}

#[test]
fn an_open_handle_keeps_what_it_opened() {
    let (_redis, first, second) = two_nodes();
    first.save(HEX, &authenticated("old")).unwrap();
    let mut open = File::open(first.sharded(HEX)).unwrap();
    second.save_in_request(HEX, &authenticated("new")).unwrap();
    second.unlink(HEX).unwrap();
    let mut content = Vec::new();
    open.read_to_end(&mut content).unwrap();
    assert_eq!(content, authenticated("old"));
    assert_eq!(open.metadata().unwrap().len(), content.len() as u64);
    assert_eq!(errno(first.read(HEX)), libc::ENOENT);
}

#[test]
fn a_save_makes_a_new_inode() {
    let (_redis, first, second) = two_nodes();
    let mut inodes = std::collections::BTreeSet::new();
    for round in 0..10 {
        let mount = if round % 2 == 0 { &first } else { &second };
        mount.save_in_request(HEX, &authenticated(&round.to_string())).unwrap();
        inodes.insert(fs::metadata(first.sharded(HEX)).unwrap().ino());
    }
    assert_eq!(inodes.len(), 10);
}

#[test]
fn an_inode_stays_while_nothing_is_saved() {
    let (_redis, mount) = node("");
    mount.save(HEX, &authenticated("")).unwrap();
    let ino = fs::metadata(mount.sharded(HEX)).unwrap().ino();
    for _ in 0..3 {
        mount.read(HEX).unwrap();
        in_thread(|| assert_eq!(fs::metadata(mount.sharded(HEX)).unwrap().ino(), ino));
    }
}

#[test]
fn two_nodes_see_each_others_saves_and_unlinks_at_once() {
    let (_redis, first, second) = two_nodes();
    let id = sid("ab", 1);
    for round in 0..50 {
        let content = anonymous(&round.to_string());
        let (saver, reader) = if round % 2 == 0 { (&first, &second) } else { (&second, &first) };
        saver.save(&id, &content).unwrap();
        assert_eq!(reader.read(&id).unwrap(), content);
        assert_eq!(fs::metadata(reader.sharded(&id)).unwrap().len(), content.len() as u64);
        if round % 5 == 4 {
            reader.unlink(&id).unwrap();
            assert_eq!(errno(saver.read(&id)), libc::ENOENT);
        }
    }
}

#[test]
fn create_is_exclusive() {
    let (_redis, mount) = node("");
    let temp = mount.stage(b"x").unwrap();
    let again = OpenOptions::new().write(true).create_new(true).open(&temp);
    assert_eq!(errno(again), libc::EEXIST);
    assert_eq!(fs::read(&temp).unwrap(), b"x");
    assert_eq!(fs::metadata(&temp).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn a_temp_file_is_written_and_cut_like_any_file() {
    let (_redis, mount) = node("");
    let temp = mount.stage(b"0123456789").unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&temp).unwrap();
    file.write_all_at(b"ab", 4).unwrap();
    file.set_len(6).unwrap();
    assert_eq!(fs::read(&temp).unwrap(), b"0123ab");
    fs::write(&temp, b"anew").unwrap();
    assert_eq!(fs::metadata(&temp).unwrap().len(), 4);
    fs::remove_file(&temp).unwrap();
    assert_eq!(errno(fs::metadata(&temp)), libc::ENOENT);
}

#[test]
fn a_save_shows_at_its_rename_and_not_before() {
    let (_redis, mount) = node("");
    mount.save(HEX, &anonymous("old")).unwrap();
    let temp = mount.stage(&anonymous("new")).unwrap();
    in_thread(|| assert_eq!(mount.read(HEX).unwrap(), anonymous("old")));
    fs::rename(&temp, mount.sharded(HEX)).unwrap();
    assert_eq!(mount.read(HEX).unwrap(), anonymous("new"));
    assert_eq!(errno(fs::metadata(&temp)), libc::ENOENT);
}

#[test]
fn a_save_does_not_need_the_temp_file_to_be_closed() {
    let (_redis, mount) = node("");
    let temp = mount.stage(b"").unwrap();
    let mut open = OpenOptions::new().write(true).open(&temp).unwrap();
    open.write_all(&anonymous("a")).unwrap();
    fs::rename(&temp, mount.sharded(HEX)).unwrap();
    assert_eq!(mount.read(HEX).unwrap(), anonymous("a"));
    drop(open);
    assert_eq!(mount.read(HEX).unwrap(), anonymous("a"));
}

#[test]
fn a_write_after_the_rename_does_not_change_the_session() {
    let (_redis, mount) = node("");
    let temp = mount.stage(&anonymous("a")).unwrap();
    let open = OpenOptions::new().write(true).open(&temp).unwrap();
    fs::rename(&temp, mount.sharded(HEX)).unwrap();
    let _ = open.write_all_at(b"torn", 0);
    drop(open);
    in_thread(|| assert_eq!(mount.read(HEX).unwrap(), anonymous("a")));
}

#[test]
fn a_large_session_is_saved_in_many_small_writes() {
    let (_redis, first, second) = two_nodes();
    let id = sid("ab", 1);
    let large = authenticated(&"0123456789".repeat(100_000));
    let temp = first.stage(b"").unwrap();
    let mut file = OpenOptions::new().write(true).open(&temp).unwrap();
    // The sizes that json.dump writes through a text file.
    let mut rest = large.as_slice();
    for size in [8190, 2, 8188, 4].into_iter().cycle() {
        let (now, later) = rest.split_at(size.min(rest.len()));
        file.write_all(now).unwrap();
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    drop(file);
    fs::rename(&temp, first.sharded(&id)).unwrap();
    assert_eq!(first.read(&id).unwrap(), large);
    assert_eq!(second.read(&id).unwrap(), large);
}

#[test]
fn a_write_beyond_the_cap_is_efbig_and_the_old_content_stays() {
    let (_redis, mount) = node("[limits]\nsession = \"64KiB\"");
    mount.save(HEX, &authenticated("old")).unwrap();
    let temp = mount.stage(&vec![b'x'; 64 << 10]).unwrap();
    let file = OpenOptions::new().write(true).open(&temp).unwrap();
    assert_eq!(errno(file.write_all_at(b"x", 64 << 10)), libc::EFBIG);
    assert_eq!(errno(file.set_len((64 << 10) + 1)), libc::EFBIG);
    assert_eq!(file.metadata().unwrap().len(), 64 << 10);
    assert_eq!(errno(mount.save(HEX, &vec![b'x'; (64 << 10) + 1])), libc::EFBIG);
    assert_eq!(mount.read(HEX).unwrap(), authenticated("old"));
}

#[test]
fn a_visitors_session_beyond_its_cap_is_efbig_at_the_rename() {
    let (_redis, mount) = node("[limits]\nanonymous = \"4KiB\"");
    let large = "x".repeat(4 << 10);
    mount.save(HEX, &anonymous("old")).unwrap();
    let temp = mount.stage(&anonymous(&large)).unwrap();
    assert_eq!(errno(fs::rename(temp, mount.sharded(HEX))), libc::EFBIG);
    assert_eq!(mount.read(HEX).unwrap(), anonymous("old"));
    let other = HEX.replace('f', "e");
    mount.save(&other, &authenticated(&large)).unwrap();
    assert_eq!(mount.read(&other).unwrap(), authenticated(&large));
}

#[test]
fn a_large_session_is_read_whole_by_many_at_once() {
    let (_redis, mount) = node("");
    let content = authenticated(&"x".repeat(3 << 20));
    mount.save(HEX, &content).unwrap();
    let (mount, content) = (&mount, &content);
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(move || assert!(mount.read(HEX).unwrap() == *content));
        }
    });
}

#[test]
fn staging_files_beyond_their_bound_are_enospc() {
    let (_redis, mount) = node("[limits]\nsession = \"64KiB\"\nstaging = \"128KiB\"");
    let first = mount.stage(&vec![b'x'; 64 << 10]).unwrap();
    let second = mount.stage(&vec![b'x'; 64 << 10]).unwrap();
    let open = [&first, &second].map(|temp| File::open(temp).unwrap());
    assert_eq!(errno(mount.stage(b"x")), libc::ENOSPC);
    drop(open);
    let third = mount.stage(b"x").unwrap();
    let is_there = [&first, &second, &third].map(|temp| temp.exists());
    assert_eq!(is_there.iter().filter(|is_there| **is_there).count(), 2);
    assert!(third.exists());
}

/// A small tmpfs, until it is dropped.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn of_4_mib() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let size = Some("size=4m,mode=755");
        nix::mount::mount(Some("none"), dir.path(), Some("tmpfs"), MsFlags::empty(), size).unwrap();
        Self(dir)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

#[test]
fn staging_files_take_at_most_a_quarter_of_their_tmpfs() {
    let tmpfs = Tmpfs::of_4_mib();
    let (_redis, mount) = node(&format!("staging_dir = {:?}", tmpfs.0.path()));
    mount.stage(&vec![b'x'; 1 << 20]).unwrap();
    assert_eq!(errno(mount.stage(&vec![b'x'; (1 << 20) + 1])), libc::ENOSPC);
    let mut status = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
    let output = status.arg("status").arg(mount.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(" of 1.00 MiB)"), "{text}");
}

#[test]
fn left_temp_files_never_stop_a_save() {
    let (_redis, mount) = node("[limits]\nstaging_files = 16");
    for number in 0..500 {
        // What an early Odoo 16 leaves of a cookie that is no id, and 14 of an upload.
        mount.stage(&anonymous("")).unwrap();
        let spool = format!("werkzeug_{HEX}_{number:032x}.file");
        File::create(mount.path().join(spool)).unwrap();
        mount.save(HEX, &authenticated("another person")).unwrap();
    }
    assert_eq!(mount.read(HEX).unwrap(), authenticated("another person"));
    assert!(mount.list(&mount.path()).len() < 4096 + 17 + 1);
}

#[test]
fn a_refused_rename_leaves_nothing() {
    let (_redis, mount) = node("");
    for target in ["ab/abc", "abc", "tmpaaaaaaaa.__wz_sess"] {
        let temp = mount.stage(b"x").unwrap();
        assert_eq!(errno(fs::rename(&temp, mount.path().join(target))), libc::EACCES);
        assert_eq!(errno(fs::metadata(&temp)), libc::ENOENT, "{target}");
    }
}

#[test]
fn what_is_written_after_an_unlink_is_given_back() {
    let (_redis, mount) = node("[limits]\nsession = \"4MiB\"\nstaging = \"8MiB\"");
    for _ in 0..10 {
        let temp = mount.stage(b"").unwrap();
        let open = OpenOptions::new().write(true).open(&temp).unwrap();
        fs::remove_file(&temp).unwrap();
        open.write_all_at(&vec![b'x'; 2 << 20], 0).unwrap();
        assert_eq!(open.metadata().unwrap().len(), 2 << 20);
        open.set_len(3).unwrap();
        assert_eq!(open.metadata().unwrap().len(), 3);
        open.set_len(2 << 20).unwrap();
    }
    mount.save(HEX, &authenticated("a")).unwrap();
}

#[test]
fn renaming_to_the_other_name_changes_nothing() {
    let (_redis, mount) = node("");
    mount.save_as(&mount.flat(HEX), &anonymous("a")).unwrap();
    fs::rename(mount.flat(HEX), mount.sharded(HEX)).unwrap();
    assert_eq!(mount.read(HEX).unwrap(), anonymous("a"));
}

#[test]
fn other_renames_are_refused() {
    let (_redis, mount) = node("");
    let other = sid("ab", 2);
    mount.save(HEX, &authenticated("a")).unwrap();
    let temp = mount.stage(b"x").unwrap();
    let path = mount.path();
    assert_eq!(errno(fs::rename(mount.sharded(HEX), mount.sharded(&other))), libc::EACCES);
    assert_eq!(errno(fs::rename(mount.sharded(HEX), path.join("x"))), libc::EACCES);
    assert_eq!(errno(fs::rename(&temp, path.join("tmpaaaaaaaa.__wz_sess"))), libc::EACCES);
    assert_eq!(errno(fs::rename(path.join("ab"), path.join("cd"))), libc::EACCES);
    let missing = path.join("tmpbbbbbbbb.__wz_sess");
    assert_eq!(errno(fs::rename(missing, mount.sharded(HEX))), libc::ENOENT);
    let outside = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(errno(fs::rename(outside.path(), mount.sharded(HEX))), libc::EXDEV);
    assert_eq!(mount.read(HEX).unwrap(), authenticated("a"));
}

#[test]
fn a_rename_with_flags_is_refused() {
    let (_redis, mount) = node("");
    let temp = mount.stage(&anonymous("a")).unwrap();
    for flags in
        [nix::fcntl::RenameFlags::RENAME_NOREPLACE, nix::fcntl::RenameFlags::RENAME_EXCHANGE]
    {
        mount.save(HEX, &anonymous("b")).unwrap();
        let cwd = nix::fcntl::AT_FDCWD;
        let target = if flags.contains(nix::fcntl::RenameFlags::RENAME_EXCHANGE) {
            mount.sharded(HEX)
        } else {
            mount.sharded(&sid("ab", 9))
        };
        let refused = nix::fcntl::renameat2(cwd, &temp, cwd, &target, flags);
        assert_eq!(refused, Err(nix::errno::Errno::EINVAL));
    }
    assert_eq!(mount.read(HEX).unwrap(), anonymous("b"));
}

#[test]
fn unlink_ends_a_session_and_a_second_one_is_enoent() {
    let (_redis, mount) = node("");
    mount.save(HEX, &authenticated("a")).unwrap();
    fs::remove_file(mount.sharded(HEX)).unwrap();
    assert_eq!(errno(mount.read(HEX)), libc::ENOENT);
    assert_eq!(errno(fs::remove_file(mount.sharded(HEX))), libc::ENOENT);
    assert!(mount.list(&mount.path().join("ab")).is_empty());
}

#[test]
fn mkdir_of_a_shard_says_it_is_there() {
    let (_redis, mount) = node("");
    assert_eq!(errno(fs::create_dir(mount.path().join("ab"))), libc::EEXIST);
    assert_eq!(errno(fs::create_dir(mount.path())), libc::EEXIST);
    for name in ["x", "abc", "ab/cd"] {
        assert_eq!(errno(fs::create_dir(mount.path().join(name))), libc::EACCES, "{name}");
    }
}

#[test]
fn stat_tells_the_truth() {
    let (_redis, mount) = node("");
    let before = SystemTime::now() - Duration::from_secs(1);
    mount.save(HEX, &authenticated("a")).unwrap();
    let file = fs::metadata(mount.sharded(HEX)).unwrap();
    assert!(file.is_file());
    assert_eq!(file.len(), authenticated("a").len() as u64);
    assert_eq!(file.blocks(), file.len().div_ceil(512));
    assert_eq!(file.permissions().mode() & 0o7777, 0o644);
    assert_eq!((file.uid(), file.gid(), file.nlink()), (0, 0, 1));
    let mtime = file.modified().unwrap();
    assert!(before < mtime && mtime <= SystemTime::now() + Duration::from_secs(1));
    let root = fs::metadata(mount.path()).unwrap();
    assert!(root.is_dir());
    assert_eq!(root.permissions().mode() & 0o7777, 0o700);
}

#[test]
fn a_read_does_not_move_the_mtime() {
    let (_redis, mount) = node("");
    mount.save(HEX, &authenticated("a")).unwrap();
    let mtime = |()| fs::metadata(mount.sharded(HEX)).unwrap().modified().unwrap();
    let before = mtime(());
    mount.read(HEX).unwrap();
    assert_eq!(mtime(()), before);
}

#[test]
fn the_atime_is_that_of_the_last_use() {
    let (_redis, first, second) = two_nodes();
    let id = sid("ab", 1);
    first.save(&id, &authenticated("")).unwrap();
    let saved = fs::metadata(first.sharded(&id)).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let used = SystemTime::now();
    second.read(&id).unwrap();
    // It is written with the next batch.
    let end = std::time::Instant::now() + Duration::from_secs(30);
    let found = loop {
        let found = fs::metadata(first.sharded(&id)).unwrap();
        if found.accessed().unwrap() > saved.accessed().unwrap() {
            break found;
        }
        assert!(std::time::Instant::now() < end, "{found:?}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(found.accessed().unwrap() + Duration::from_secs(2) > used);
    assert_eq!(found.mtime(), saved.mtime());
}

#[test]
fn chmod_is_kept_and_seen_by_the_other_node() {
    let (_redis, first, second) = two_nodes();
    first.save(HEX, &authenticated("a")).unwrap();
    let mode = |mount: &crate::Mount| {
        fs::metadata(mount.sharded(HEX)).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!(mode(&second), 0o644);
    fs::set_permissions(first.sharded(HEX), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!((mode(&first), mode(&second)), (0o640, 0o640));
    assert_eq!(second.read(HEX).unwrap(), authenticated("a"));
    let gone = fs::set_permissions(first.sharded(&sid("ab", 1)), fs::Permissions::from_mode(0o600));
    assert_eq!(errno(gone), libc::ENOENT);
}

#[test]
fn utimens_is_kept_and_seen_by_the_other_node() {
    let (_redis, first, second) = two_nodes();
    first.save(HEX, &authenticated("a")).unwrap();
    let mtime =
        |mount: &crate::Mount| fs::metadata(mount.sharded(HEX)).unwrap().modified().unwrap();
    let old = mtime(&second);
    // OCA's timeout module: os.utime(path, None), and a test's os.utime(path, (then, then)).
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    File::open(first.sharded(HEX)).unwrap().set_modified(then).unwrap();
    assert_eq!((mtime(&first), mtime(&second)), (then, then));
    assert_eq!(second.read(HEX).unwrap(), authenticated("a"));
    let now = std::process::Command::new("python3")
        .args(["-c", "import os, sys; os.utime(sys.argv[1], None)"])
        .arg(second.sharded(HEX))
        .status();
    assert!(now.unwrap().success());
    assert!(mtime(&first) >= old);
    assert_eq!(mtime(&first), mtime(&second));
    assert_eq!(first.read(HEX).unwrap(), authenticated("a"));
}

#[test]
fn truncate_of_a_session_is_eacces() {
    let (_redis, mount) = node("");
    mount.save(HEX, &authenticated("a")).unwrap();
    let cut = nix::unistd::truncate(&mount.sharded(HEX), 0);
    assert_eq!(cut, Err(nix::errno::Errno::EACCES));
    assert_eq!(mount.read(HEX).unwrap(), authenticated("a"));
}

#[test]
fn the_owner_cannot_be_changed() {
    let (_redis, mount) = node("");
    mount.save(HEX, &authenticated("a")).unwrap();
    let path = mount.sharded(HEX);
    assert_eq!(errno(std::os::unix::fs::chown(&path, Some(1), None)), libc::EPERM);
    std::os::unix::fs::chown(&path, Some(0), Some(0)).unwrap();
}

#[test]
fn access_answers_by_the_same_rule() {
    use nix::unistd::{AccessFlags, access};
    let (_redis, mount) = node("");
    mount.save(HEX, &authenticated("a")).unwrap();
    access(&mount.path(), AccessFlags::W_OK).unwrap();
    access(&mount.path().join("ab"), AccessFlags::W_OK | AccessFlags::X_OK).unwrap();
    access(&mount.sharded(HEX), AccessFlags::R_OK | AccessFlags::W_OK).unwrap();
    let run = access(&mount.sharded(HEX), AccessFlags::X_OK);
    assert_eq!(run, Err(nix::errno::Errno::EACCES));
}

#[test]
fn statfs_says_that_there_is_room() {
    let (_redis, mount) = node("");
    let script = "import os, sys; s = os.statvfs(sys.argv[1]); print(s.f_bavail > 0, s.f_favail > 0, s.f_namemax)";
    assert_eq!(mount.python(script, &[]), "True True 255");
}

#[test]
fn an_open_file_is_no_terminal() {
    let (_redis, mount) = node("");
    mount.save(HEX, &authenticated("a")).unwrap();
    let script = "
import sys, fcntl, termios
with open(f'{sys.argv[1]}/ab/{sys.argv[2]}', 'rb') as f:
    print(f.isatty())
    try: fcntl.ioctl(f, termios.TCGETS, b' ' * 64)
    except OSError as error: print(error.errno)";
    assert_eq!(mount.python(script, &[HEX]), format!("False\n{}", libc::ENOTTY));
}

#[test]
fn links_and_devices_cannot_be_made() {
    use nix::sys::stat::{Mode, SFlag, mknod};
    let (_redis, mount) = node("");
    mount.save(HEX, &authenticated("a")).unwrap();
    let link = mount.path().join("cd").join("x");
    assert_eq!(errno(std::os::unix::fs::symlink("/etc/passwd", &link)), libc::EPERM);
    assert_eq!(errno(fs::hard_link(mount.sharded(HEX), &link)), libc::EPERM);
    let pipe = mknod(&link, SFlag::S_IFIFO, Mode::S_IRWXU, 0);
    assert_eq!(pipe, Err(nix::errno::Errno::EPERM));
}

#[test]
fn there_are_no_extended_attributes() {
    let (_redis, mount) = node("");
    mount.save(HEX, &authenticated("a")).unwrap();
    let script = "
import os, sys
path = f'{sys.argv[1]}/ab/{sys.argv[2]}'
for ask in (lambda: os.getxattr(path, 'user.x'), lambda: os.setxattr(path, 'user.x', b''), lambda: os.listxattr(path)):
    try: print(ask())
    except OSError as error: print(error.errno)";
    let unsupported = libc::EOPNOTSUPP;
    let answers = mount.python(script, &[HEX]);
    assert!(answers.starts_with(&format!("{unsupported}\n{unsupported}\n")), "{answers}");
}

#[test]
fn flush_and_fsync_succeed_and_promise_nothing() {
    let (redis, mount) = node("");
    let temp = mount.stage(&anonymous("a")).unwrap();
    let file = File::open(&temp).unwrap();
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    File::open(mount.path()).unwrap().sync_all().unwrap();
    assert!(redis.session_keys().is_empty());
}

#[test]
fn all_works_without_what_newer_kernels_offer() {
    let redis = Redis::start();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sessionfs"));
    command.env(
        "SESSIONFS_KERNEL_WITHOUT",
        "parallel_dirops,atomic_o_trunc,readdirplus,noflush,notify_store",
    );
    let mount = Mount::start_in(&redis, "", command);
    assert!(mount.log().contains("switched off"));
    let id = sid("ab", 1);
    for note in ["first", "second, longer", "3rd"] {
        mount.save(&id, &authenticated(note)).unwrap();
        in_thread(|| assert_eq!(mount.read(&id).unwrap(), authenticated(note)));
    }
    let spool = mount.path().join(format!("werkzeug_{HEX}_{}.file", "0".repeat(32)));
    std::fs::write(&spool, b"a long upload").unwrap();
    std::fs::write(&spool, b"short").unwrap();
    assert_eq!(std::fs::read(&spool).unwrap(), b"short");
    // As vacuum does it: list, stat, unlink.
    assert_eq!(mount.list(&mount.path().join("ab")), [alias(&id)]);
    let listed = mount.sharded(&alias(&id));
    assert_eq!(std::fs::metadata(&listed).unwrap().len(), authenticated("3rd").len() as u64);
    std::fs::remove_file(&listed).unwrap();
    assert_eq!(errno(mount.read(&id)), libc::ENOENT);
}
