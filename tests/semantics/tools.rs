//! What administrators' tools do in the directory. They serve no cookies.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use crate::support::mount::{Mount, alias, authenticated, errno, in_thread, sid};
use crate::support::redis::Redis;
use crate::{HEX, NOBODY, node};

/// A node of Odoo's user, with sessions of both forms.
fn both_forms() -> (Redis, Mount) {
    let redis = Redis::start();
    let mount = Mount::start_owned(&redis, "", ("nobody", "nogroup"));
    for shard in ["ab", "cd", "-_"] {
        mount.save(&sid(shard, 1), &authenticated(shard)).unwrap();
    }
    in_thread(|| mount.save_as(&mount.flat(HEX), &authenticated("flat")).unwrap());
    (redis, mount)
}

/// `sh -c COMMAND sh DIRECTORY`, as a user.
fn shell(mount: &Mount, uid: u32, command: &str) -> Output {
    Command::new("sh")
        .args(["-c", command, "sh"])
        .arg(mount.path())
        .uid(uid)
        .gid(uid)
        .current_dir("/")
        .output()
        .unwrap()
}

#[track_caller]
fn succeeds(mount: &Mount, uid: u32, command: &str) -> String {
    let output = shell(mount, uid, command);
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn rm_ends_everybody_and_exits_with_0() {
    for uid in [0, NOBODY] {
        for command in [
            "rm -rf \"$1\"/*",
            "rm -rf -- \"$1\"/* && rm -rf \"$1\"/*",
            "rm -f \"$1\"/*/* \"$1\"/werkzeug_*",
            "find \"$1\" -mindepth 1 -delete",
            "find \"$1\" -type f -print0 | xargs -0 rm",
        ] {
            let (_redis, mount) = both_forms();
            succeeds(&mount, uid, command);
            assert_eq!(mount.list(&mount.path()), [""; 0], "{command}");
            for shard in ["ab", "cd", "-_"] {
                assert_eq!(errno(mount.read(&sid(shard, 1))), libc::ENOENT, "{command}");
                // The shard is there again, and whoever stood in it goes on.
                mount.save(&sid(shard, 2), &authenticated("after")).unwrap();
                assert_eq!(mount.read(&sid(shard, 2)).unwrap(), authenticated("after"));
            }
        }
    }
}

#[test]
fn owner_and_mode_of_the_whole_tree_can_be_set_to_what_they_are() {
    let (_redis, mount) = both_forms();
    succeeds(&mount, 0, "chown -R nobody:nogroup \"$1\"");
    for uid in [0, NOBODY] {
        succeeds(&mount, uid, "chmod -R u+rwX \"$1\" && chmod 0755 \"$1\" \"$1/ab\"");
        succeeds(&mount, uid, "touch \"$1\" \"$1/ab\" && du -s \"$1\" && find \"$1\" -ls");
    }
    assert!(!shell(&mount, 0, "chown root \"$1\"").status.success());
    assert!(!shell(&mount, 0, "chown root \"$1/ab\"").status.success());
    // The mode is that of the configuration.
    assert_eq!(std::fs::metadata(mount.path()).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn a_directory_is_never_old() {
    let (_redis, mount) = node("");
    mount.save(&sid("ab", 1), &authenticated("")).unwrap();
    for path in [mount.path(), mount.path().join("ab")] {
        let asked = SystemTime::now() - Duration::from_secs(1);
        // `find -mtime` counts days.
        let an_hour_ago = asked - Duration::from_secs(3600);
        let found = std::fs::metadata(&path).unwrap();
        assert!(found.modified().unwrap() >= an_hour_ago);
        assert!(found.accessed().unwrap() >= asked);
        assert_eq!(found.ctime(), found.mtime());
        let old = std::fs::File::open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH);
        old.unwrap();
        assert!(std::fs::metadata(&path).unwrap().modified().unwrap() >= an_hour_ago);
    }
}

#[test]
fn a_backup_that_stays_on_one_filesystem_finds_an_empty_directory_and_exits_with_0() {
    let (_redis, mount) = node("");
    let (one, other) = (sid("ab", 1), sid("cd", 1));
    std::thread::scope(|scope| {
        let backup = scope.spawn(|| {
            for _ in 0..20 {
                let command =
                    "cd \"$1/..\" && tar -cv --one-file-system --exclude=log -f /dev/null .";
                let said = succeeds(&mount, 0, command);
                let found: Vec<_> =
                    said.lines().filter(|line| line.contains("sessions/")).collect();
                assert_eq!(found, ["./sessions/"]);
            }
        });
        while !backup.is_finished() {
            mount.save(&one, &authenticated("")).unwrap();
            mount.save(&other, &authenticated("")).unwrap();
        }
    });
}

#[test]
fn a_shard_can_be_removed_when_it_is_empty() {
    let (_redis, mount) = node("");
    let shard = mount.path().join("ab");
    mount.save(&sid("ab", 1), &authenticated("")).unwrap();
    assert_eq!(errno(std::fs::remove_dir(&shard)), libc::ENOTEMPTY);
    mount.unlink(&sid("ab", 1)).unwrap();
    let before = std::fs::metadata(&shard).unwrap().ino();
    let stands_in_it = std::fs::File::open(&shard).unwrap();
    std::fs::remove_dir(&shard).unwrap();
    assert_ne!(std::fs::metadata(&shard).unwrap().ino(), before);
    drop(stands_in_it);
    mount.save(&sid("ab", 2), &authenticated("")).unwrap();
    assert_eq!(mount.list(&shard), [alias(&sid("ab", 2))]);
}

#[test]
fn a_tree_with_both_forms_can_be_walked() {
    let (_redis, mount) = both_forms();
    let script = "
import os, sys
root, flat = sys.argv[1], sys.argv[2]
for _ in range(2):
    seen = [os.stat(os.path.join(at, name)).st_size for at, _, names in os.walk(root) for name in names]
    print(len(seen), min(seen) > 0)
    print(len(open(f'{root}/werkzeug_{flat}.sess').read()) > 0)";
    let said = mount.python_as(NOBODY, script, &[HEX]);
    assert_eq!(said, "4 True\nTrue\n4 True\nTrue");
}

#[test]
fn an_upload_spool_is_removed_by_the_name_that_is_listed() {
    let (_redis, mount) = node("");
    let spool = mount.path().join(format!("werkzeug_{HEX}_{}.file", "0".repeat(32)));
    std::fs::write(&spool, b"an upload").unwrap();
    let listed = mount.path().join(&mount.list(&mount.path())[0]);
    assert_eq!(std::fs::metadata(&listed).unwrap().len(), 9);
    std::fs::remove_file(&listed).unwrap();
    assert_eq!(errno(std::fs::metadata(&spool)), libc::ENOENT);
}
