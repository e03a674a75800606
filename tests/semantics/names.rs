//! Which names there are, what each stands for, and who may use an alias.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::mount::{
    Mount, alias, anonymous, authenticated, errno, in_thread, sid, temp_name,
};
use crate::support::redis::Redis;
use crate::{HEX, node, two_nodes};

fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

#[test]
fn both_names_of_a_session_read_the_same() {
    let (_redis, mount) = node("");
    mount.save_as(&mount.flat(HEX), &anonymous("flat")).unwrap();
    assert_eq!(fs::read(mount.flat(HEX)).unwrap(), anonymous("flat"));
    in_thread(|| assert_eq!(mount.read(HEX).unwrap(), anonymous("flat")));
}

#[test]
fn a_session_is_listed_under_the_form_it_was_saved_in() {
    let (_redis, mount) = node("");
    mount.save_as(&mount.flat(HEX), &anonymous("flat")).unwrap();
    assert_eq!(mount.list(&mount.path()), [format!("werkzeug_{}.sess", alias(HEX))]);
    assert!(mount.list(&mount.path().join("ab")).is_empty());
    mount.save(HEX, &anonymous("sharded")).unwrap();
    assert_eq!(mount.list(&mount.path()), ["ab"]);
    assert_eq!(mount.list(&mount.path().join("ab")), [alias(HEX)]);
}

#[test]
fn a_flat_probe_is_in_vain_for_a_thread_that_has_made_one() {
    let (_redis, mount) = node("");
    mount.save(HEX, &anonymous("")).unwrap();
    // Whoever names a shard now and then still finds both names.
    mount.list(&mount.path().join("ab"));
    for found in [true, false, false] {
        assert_eq!(fs::metadata(mount.flat(HEX)).is_ok(), found);
        assert_eq!(mount.read(HEX).unwrap(), anonymous(""));
    }
    in_thread(|| assert!(fs::metadata(mount.flat(HEX)).is_ok()));
}

#[test]
fn ids_of_all_lengths_are_sessions() {
    let (_redis, mount) = node("");
    for id in [HEX.to_owned(), sid("-_", 1), sid("Zz", 2) + "x", sid("09", 3) + "yz"] {
        mount.save(&id, &authenticated(&id[..2])).unwrap();
        assert_eq!(mount.read(&id).unwrap(), authenticated(&id[..2]));
    }
}

#[test]
fn ids_that_differ_in_case_are_two_sessions() {
    let (_redis, mount) = node("");
    let lower = sid("ab", 4);
    let upper = format!("{}{}", &lower[..83], if lower.ends_with('x') { 'y' } else { 'x' });
    let upper = upper.replacen("ab", "aB", 1);
    mount.save(&lower, &anonymous("lower")).unwrap();
    assert_eq!(errno(mount.read(&upper)), libc::ENOENT);
    mount.save(&upper, &anonymous("upper")).unwrap();
    assert_eq!(mount.read(&lower).unwrap(), anonymous("lower"));
}

#[test]
fn a_name_that_is_no_session_is_absent() {
    let (_redis, mount) = node("");
    let root = mount.path();
    for name in [
        "index.html",
        "ab/x",
        &format!("werkzeug_{}.sess", sid("ab", 1)),
        &format!("ab/{}", &HEX[1..]),
        &format!("cd/{HEX}"),
        &format!("ab/{}", HEX.to_uppercase()),
        "tmp12345678.txt",
    ] {
        assert_eq!(errno(fs::metadata(root.join(name))), libc::ENOENT, "{name}");
    }
}

#[test]
fn a_shard_is_there_whether_empty_or_not() {
    let (_redis, mount) = node("");
    let shard = fs::metadata(mount.path().join("-_")).unwrap();
    assert!(shard.is_dir());
    assert!(mount.list(&mount.path().join("-_")).is_empty());
    for name in ["a", "abc", "a.", "%%"] {
        assert_eq!(errno(fs::metadata(mount.path().join(name))), libc::ENOENT, "{name}");
    }
}

#[test]
fn temp_files_of_both_suffixes_can_be_created() {
    let (_redis, mount) = node("");
    for (suffix, id) in [("__wz_sess", sid("ab", 1)), ("__tx_sess__", sid("ab", 2))] {
        let temp = mount.path().join(format!("tmp0a_z9xyw.{suffix}"));
        fs::write(&temp, anonymous(suffix)).unwrap();
        assert_eq!(fs::read(&temp).unwrap(), anonymous(suffix));
        fs::rename(&temp, mount.sharded(&id)).unwrap();
        assert_eq!(mount.read(&id).unwrap(), anonymous(suffix));
        assert_eq!(errno(fs::metadata(&temp)), libc::ENOENT);
    }
}

#[test]
fn names_that_are_no_temp_file_cannot_be_created() {
    let (_redis, mount) = node("");
    let shard = mount.path().join("ab");
    for path in [
        mount.path().join("x"),
        mount.path().join("tmp1234567.__wz_sess"),
        mount.path().join("tmp12345678.__wz_sess~"),
        shard.join(temp_name()),
        shard.join("x"),
        mount.sharded(HEX),
        mount.flat(HEX),
    ] {
        assert_eq!(errno(create(&path)), libc::EACCES, "{}", path.display());
    }
}

#[test]
fn names_that_are_no_session_cannot_be_saved_to() {
    let (_redis, mount) = node("");
    let told = "a save under a name that no session has is refused";
    // The cookies of an early Odoo 16, which does not validate them.
    for name in ["ab/abc", "ab/..x", &format!("cd/{HEX}"), "x", "werkzeug_abc.sess"] {
        let temp = mount.stage(&anonymous("")).unwrap();
        assert_eq!(errno(fs::rename(&temp, mount.path().join(name))), libc::EACCES, "{name}");
        assert_eq!(errno(fs::metadata(&temp)), libc::ENOENT);
    }
    // Told without the name, which may be a cookie.
    assert!(mount.log().contains(told), "{}", mount.log());
    assert!(!mount.log().contains("..x"), "{}", mount.log());
    // The kernel's own answer: a file does not replace a directory.
    let temp = mount.stage(&anonymous("")).unwrap();
    assert_eq!(errno(fs::rename(&temp, mount.path().join("zz"))), libc::EISDIR);
    fs::remove_file(temp).unwrap();
    assert!(mount.list(&mount.path()).is_empty());
}

#[test]
fn an_upload_spool_is_kept_and_listed_under_its_alias() {
    let (redis, mount) = node("");
    let uuid = "0123456789abcdef0123456789abcdef";
    let spool = mount.path().join(format!("werkzeug_{HEX}_{uuid}.file"));
    fs::write(&spool, b"an upload").unwrap();
    assert_eq!(fs::read(&spool).unwrap(), b"an upload");
    let listed = format!("werkzeug_{}_{uuid}.file", alias(HEX));
    assert_eq!(mount.list(&mount.path()), [listed]);
    assert!(redis.session_keys().is_empty());
    fs::remove_file(&spool).unwrap();
    assert_eq!(errno(fs::metadata(&spool)), libc::ENOENT);
}

#[test]
fn an_upload_spool_cannot_become_a_session() {
    let (_redis, mount) = node("");
    let spool = mount.path().join(format!("werkzeug_{HEX}_{}.file", "0".repeat(32)));
    fs::write(&spool, authenticated("")).unwrap();
    assert_eq!(errno(fs::rename(&spool, mount.flat(HEX))), libc::EACCES);
}

#[test]
fn an_alias_can_be_statted() {
    let (_redis, mount) = node("");
    for id in [HEX.to_owned(), sid("ab", 1), sid("ab", 2) + "86"] {
        mount.save(&id, &authenticated(&id[..1])).unwrap();
        mount.list(&mount.path().join(&id[..2]));
        let by_id = fs::metadata(mount.sharded(&id)).unwrap();
        let by_alias = fs::metadata(mount.sharded(&alias(&id))).unwrap();
        assert_eq!(by_alias.len(), by_id.len());
        assert_eq!(by_alias.mtime(), by_id.mtime());
        assert_ne!(by_alias.ino(), by_id.ino());
    }
}

#[test]
fn an_alias_that_was_not_listed_is_absent() {
    let (_redis, mount) = node("");
    let id = sid("ab", 1);
    mount.save(&id, &authenticated("")).unwrap();
    assert_eq!(errno(fs::metadata(mount.sharded(&alias(&id)))), libc::ENOENT);
    assert_eq!(errno(fs::remove_file(mount.sharded(&alias(&id)))), libc::ENOENT);
    mount.list(&mount.path().join("ab"));
    fs::metadata(mount.sharded(&alias(&id))).unwrap();
}

#[test]
fn no_session_id_is_told_to_redis() {
    let redis = Redis::start_with(&["--slowlog-log-slower-than", "0", "--slowlog-max-len", "1000"]);
    let mount = Mount::start(&redis, "");
    for id in [HEX.to_owned(), sid("ab", 1), sid("ab", 2) + "86"] {
        mount.save(&id, &authenticated("")).unwrap();
        mount.read(&id).unwrap();
        fs::metadata(mount.sharded(&id)).unwrap();
        mount.list(&mount.path().join(&id[..2]));
        fs::metadata(mount.sharded(&id)).unwrap();
        fs::remove_file(mount.sharded(&id)).unwrap();
        assert_eq!(errno(mount.read(&id)), libc::ENOENT);
    }
    let told = format!("{:?}", redis.run::<redis::Value>("SLOWLOG GET 1000"));
    assert!(told.contains(&alias(HEX)), "the slow log shows what was sent");
    for id in [HEX.to_owned(), sid("ab", 1), sid("ab", 2) + "86"] {
        assert!(!told.contains(&id), "{} was sent as it is", alias(&id));
    }
}

#[test]
fn an_alias_cannot_be_opened() {
    let (_redis, mount) = node("");
    for id in [HEX.to_owned(), sid("ab", 1)] {
        mount.save(&id, &authenticated("")).unwrap();
        assert!(mount.list(&mount.path().join(&id[..2])).contains(&alias(&id)));
        assert_eq!(errno(mount.read(&alias(&id))), libc::ENOENT);
        let write = OpenOptions::new().write(true).open(mount.sharded(&alias(&id)));
        assert_eq!(errno(write), libc::ENOENT);
    }
}

#[test]
fn an_alias_cannot_be_opened_through_a_node_that_another_has_looked_up() {
    let (_redis, mount) = node("");
    let id = sid("ab", 1);
    mount.save(&id, &authenticated("")).unwrap();
    // The kernel knows the session's own node, and holds it open; and it knows the alias's from
    // a listing (readdirplus) and from a stat, each by another process.
    let _open = File::open(mount.sharded(&id)).unwrap();
    let list = "import os, sys; [e.stat() for e in os.scandir(sys.argv[1])]";
    let shard = mount.path().join("ab");
    let listed = std::process::Command::new("python3").args(["-c", list]).arg(&shard).status();
    assert!(listed.unwrap().success());
    in_thread(|| {
        fs::metadata(mount.sharded(&alias(&id))).unwrap();
        assert_eq!(errno(mount.read(&alias(&id))), libc::ENOENT);
    });
    assert_eq!(errno(mount.read(&alias(&id))), libc::ENOENT);
    // A descriptor of the alias without access to its bytes leads to no other.
    let path = nix::fcntl::open(
        &mount.sharded(&alias(&id)),
        nix::fcntl::OFlag::O_PATH,
        nix::sys::stat::Mode::empty(),
    );
    let path = path.unwrap();
    let through = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&path));
    assert_eq!(errno(File::open(through)), libc::ENOENT);
    assert!(mount.read(&id).is_ok());
}

#[test]
fn saving_to_an_alias_makes_another_session() {
    let (_redis, mount) = node("");
    let id = sid("ab", 1);
    mount.save(&id, &authenticated("mine")).unwrap();
    // To the filesystem it is an id like any other; its own alias is a third name.
    let _ = in_thread(|| mount.save(&alias(&id), &anonymous("forged")));
    assert_eq!(mount.read(&id).unwrap(), authenticated("mine"));
}

#[test]
fn the_root_lists_the_shards_that_are_not_empty() {
    let (_redis, mount) = node("");
    assert!(mount.list(&mount.path()).is_empty());
    for shard in ["ab", "Zz", "-_"] {
        mount.save(&sid(shard, 1), &anonymous("")).unwrap();
    }
    let temp = mount.stage(b"half a save").unwrap();
    let temp_name = temp.file_name().unwrap().to_str().unwrap();
    assert_eq!(mount.list(&mount.path()), ["-_", "Zz", "ab", temp_name]);
    fs::remove_file(mount.sharded(&sid("Zz", 1))).unwrap();
    fs::remove_file(&temp).unwrap();
    assert_eq!(mount.list(&mount.path()), ["-_", "ab"]);
}

#[test]
fn a_shard_lists_its_sessions_exactly() {
    let (_redis, first, second) = two_nodes();
    let ids: Vec<String> = (0..300).map(|seed| sid("ab", seed)).collect();
    for id in &ids {
        first.save(id, &anonymous("")).unwrap();
    }
    first.save(&sid("aB", 1), &anonymous("")).unwrap();
    for id in &ids[..100] {
        second.unlink(id).unwrap();
    }
    let mut expected: Vec<String> = ids[100..].iter().map(|id| alias(id)).collect();
    expected.sort();
    for mount in [&first, &second] {
        assert_eq!(mount.list(&mount.path().join("ab")), expected);
    }
}

#[test]
fn a_listing_is_that_of_its_opendir() {
    let (_redis, mount) = node("");
    let (before, after) = (sid("ab", 1), sid("ab", 2));
    mount.save(&before, &anonymous("")).unwrap();
    let open = fs::read_dir(mount.path().join("ab")).unwrap();
    mount.save(&after, &anonymous("")).unwrap();
    fs::remove_file(mount.sharded(&before)).unwrap();
    let names: Vec<_> = open.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [alias(&before).as_str()]);
}

#[test]
fn a_rewound_listing_is_taken_anew() {
    let (_redis, mount) = node("");
    for seed in 1..=2 {
        mount.save(&sid("ab", seed), &anonymous("")).unwrap();
    }
    let mut open = nix::dir::Dir::open(
        &mount.path().join("ab"),
        nix::fcntl::OFlag::O_RDONLY,
        nix::sys::stat::Mode::empty(),
    )
    .unwrap();
    // The iterator rewinds when it is dropped.
    let mut read = || open.iter().filter_map(Result::ok).count();
    let dots = 2;
    assert_eq!(read(), 2 + dots);
    mount.unlink(&sid("ab", 1)).unwrap();
    assert_eq!(read(), 1 + dots);
}

#[test]
fn a_listing_with_stat_tells_kinds_sizes_and_times() {
    let (_redis, mount) = node("");
    for seed in 0..200 {
        mount.save(&sid("ab", seed), &anonymous(&"x".repeat(seed.try_into().unwrap()))).unwrap();
    }
    // As `ls -l` asks, which the kernel answers from one readdirplus.
    let script = "
import os, sys
for place in ('', '/ab'):
    entries = list(os.scandir(sys.argv[1] + place))
    stats = [entry.stat() for entry in entries]
    print(len(entries), all(entry.is_dir() for entry in entries),
          len({stat.st_size for stat in stats}), len({stat.st_ino for stat in stats}),
          all(stat.st_mtime > 1e9 for stat in stats))";
    assert_eq!(mount.python(script, &[]), "1 True 1 1 True\n200 False 200 200 True");
}
