//! Who may do what: the tree's owner and root everything, by alias only what they have listed.

use std::fs;

use crate::NOBODY;
use crate::support::mount::{Mount, alias, anonymous, authenticated, errno, in_thread, sid};
use crate::support::redis::Redis;

/// A user who is neither root nor the tree's owner: `daemon` on every Debian.
const STRANGER: u32 = 1;

/// A node whose tree belongs to `nobody`.
fn owned_by_nobody() -> (Redis, Mount) {
    let redis = Redis::start();
    let mount = Mount::start_owned(&redis, "mode = \"0755\"", ("nobody", "nogroup"));
    (redis, mount)
}

#[test]
fn the_owner_and_root_may_do_everything() {
    let (_redis, mount) = owned_by_nobody();
    let id = sid("ab", 1);
    mount.save(&id, &authenticated("root")).unwrap();
    let script = "
import os, sys
root, id = sys.argv[1:]
path = f'{root}/ab/{id}'
with open(path) as f: print('root' in f.read())
temp = f'{root}/tmp00000000.__wz_sess'
with open(temp, 'x') as f: f.write('{\"uid\": 2, \"login\": \"x\"}')
os.rename(temp, path)
os.chmod(path, 0o644)
print(os.stat(path).st_uid, len(os.listdir(f'{root}/ab')), os.access(root, os.W_OK))
os.unlink(path)";
    assert_eq!(mount.python_as(NOBODY, script, &[&id]), "True\n65534 1 True");
    assert_eq!(errno(mount.read(&id)), libc::ENOENT);
}

#[test]
fn other_users_get_eacces_from_everything() {
    let (_redis, mount) = owned_by_nobody();
    let id = sid("ab", 1);
    mount.save(&id, &authenticated("")).unwrap();
    let temp = mount.stage(&anonymous("")).unwrap();
    let script = "
import errno, os, sys
root, id, temp = sys.argv[1:]
path = f'{root}/ab/{id}'
# Known to the kernel since root has just used it: no request for the names may be needed.
for what in (lambda: open(path), lambda: open(path, 'w'), lambda: os.stat(path),
             lambda: os.listdir(root), lambda: os.listdir(f'{root}/ab'),
             lambda: open(f'{root}/tmp00000000.__wz_sess', 'x'), lambda: open(temp),
             lambda: os.unlink(path), lambda: os.unlink(temp), lambda: os.rename(temp, path),
             lambda: os.chmod(path, 0o666), lambda: os.utime(path), lambda: os.truncate(temp, 0),
             lambda: os.mkdir(f'{root}/ab'), lambda: os.rmdir(f'{root}/ab')):
    try: what(); print('done')
    except OSError as error: print(errno.errorcode[error.errno])
print(os.access(path, os.R_OK), os.access(root, os.W_OK))";
    let temp_name = temp.to_str().unwrap();
    let said = mount.python_as(STRANGER, script, &[&id, temp_name]);
    let mut lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.pop(), Some("False False"));
    assert!(lines.iter().all(|line| *line == "EACCES"), "{said}");
    assert_eq!(mount.read(&id).unwrap(), authenticated(""));
    assert!(temp.exists());
}

/// Removals by a process that serves cookies.
const REMOVE: &str = "
import glob, os, sys, threading
root, names, listed = sys.argv[1], sys.argv[2].split(','), sys.argv[3]
try: open(f'{root}/ab/' + 'ab'.ljust(84, '0'))
except FileNotFoundError: pass
if listed == 'by another thread':
    other = threading.Thread(target=os.listdir, args=(root + '/ab',))
    other.start(); other.join()
elif listed:
    os.listdir(f'{root}/{listed}')
for name in names:
    try: os.unlink(f'{root}/{name}'); print('gone')
    except FileNotFoundError: print('absent')
    except PermissionError as error: print(error.errno)";

/// The names that a listing shows of the two.
fn saved_in_both_forms(mount: &Mount, id: &str, hex: &str) -> [String; 2] {
    mount.save(id, &authenticated("")).unwrap();
    in_thread(|| mount.save_as(&mount.flat(hex), &authenticated("")).unwrap());
    [format!("ab/{}", alias(id)), format!("werkzeug_{}.sess", alias(hex))]
}

#[test]
fn an_alias_cannot_be_unlinked_by_a_thread_that_has_not_listed() {
    let (_redis, mount) = owned_by_nobody();
    let (id, hex) = (sid("ab", 1), crate::HEX);
    let [sharded, flat] = saved_in_both_forms(&mount, &id, hex);
    // Nobody has listed it.
    for listed in ["", "cd", "."] {
        assert_eq!(mount.python_as(NOBODY, REMOVE, &[&sharded, listed]), "absent", "{listed}");
    }
    let refused = libc::EPERM.to_string();
    let by_another = mount.python_as(NOBODY, REMOVE, &[&sharded, "by another thread"]);
    assert_eq!(by_another, refused);
    // A listing of another directory, or by another process.
    assert_eq!(mount.python_as(NOBODY, REMOVE, &[&flat, "ab"]), refused);
    assert_eq!(mount.python_as(NOBODY, REMOVE, &[&sharded, ""]), refused);
    assert!(mount.read(&id).is_ok());
    in_thread(|| assert!(fs::read(mount.flat(hex)).is_ok()));
}

#[test]
fn an_alias_is_unlinked_by_a_thread_that_has_listed_its_directory() {
    let (_redis, mount) = owned_by_nobody();
    let (id, hex) = (sid("ab", 1), crate::HEX);
    let [sharded, flat] = saved_in_both_forms(&mount, &id, hex);
    assert_eq!(mount.python_as(NOBODY, REMOVE, &[&flat, "."]), "gone");
    assert_eq!(mount.python_as(NOBODY, REMOVE, &[&sharded, "ab"]), "gone");
    assert_eq!(errno(mount.read(&id)), libc::ENOENT);
    in_thread(|| assert_eq!(errno(fs::read(mount.flat(hex))), libc::ENOENT));
}

#[test]
fn what_a_listing_allows_ends_when_the_thread_opens_a_session() {
    let (_redis, mount) = owned_by_nobody();
    let (victim, own) = (sid("ab", 1), sid("cd", 2));
    for id in [&victim, &own] {
        mount.save(id, &authenticated("")).unwrap();
    }
    let script = "
import os, sys
root, victim, own = sys.argv[1:]
os.listdir(f'{root}/ab')
for cookie in (own, victim):
    try: open(f'{root}/{cookie}').close()
    except FileNotFoundError: pass
    try: os.unlink(f'{root}/{victim}')
    except PermissionError as error: print(error.errno)
    os.listdir(f'{root}/ab')";
    let names = [format!("ab/{}", alias(&victim)), format!("cd/{own}")];
    let said = mount.python_as(NOBODY, script, &[&names[0], &names[1]]);
    assert_eq!(said, format!("{0}\n{0}", libc::EPERM));
    assert!(mount.read(&victim).is_ok());
}

#[test]
fn root_may_unlink_an_alias_that_another_has_listed() {
    let (_redis, mount) = owned_by_nobody();
    let id = sid("ab", 1);
    mount.save(&id, &authenticated("")).unwrap();
    in_thread(|| mount.list(&mount.path().join("ab")));
    in_thread(|| mount.unlink(&alias(&id)).unwrap());
    assert_eq!(errno(mount.read(&id)), libc::ENOENT);
}
