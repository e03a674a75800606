//! What Odoo does, done by Python as Odoo does it.

use crate::support::mount::{Mount, alias, anonymous, authenticated, errno, in_thread, sid};
use crate::support::redis::Redis;
use crate::{HEX, NOBODY, node};

/// Odoo's `FilesystemSessionStore`, of 18 and 19 where versions differ.
pub(crate) const STORE: &str = "
import contextlib, glob, json, os, sys, tempfile, time
path = sys.argv[1]
def filename(sid): return os.path.join(path, sid[:2], sid)
def save(sid, session, suffix='.__wz_sess', rename=os.rename):
    dirname = os.path.join(path, sid[:2])
    if not os.path.isdir(dirname):
        with contextlib.suppress(OSError): os.mkdir(dirname, 0o755)
    fd, tmp = tempfile.mkstemp(suffix=suffix, dir=path)
    with os.fdopen(fd, 'w', encoding='utf-8') as f: json.dump(session, f)
    rename(tmp, filename(sid))
    os.chmod(filename(sid), 0o644)
def get(sid):
    old = os.path.join(path, f'werkzeug_{sid}.sess')
    if os.path.isfile(old) and not os.path.isfile(filename(sid)):
        with contextlib.suppress(OSError): os.rename(old, filename(sid))
    with open(filename(sid), encoding='utf-8') as f: return json.load(f)
def delete(sid):
    with contextlib.suppress(OSError): os.unlink(filename(sid))
def vacuum(max_lifetime):
    threshold = time.time() - max_lifetime
    for fname in glob.iglob(os.path.join(path, '*', '*')):
        with contextlib.suppress(OSError):
            if os.path.getmtime(fname) < threshold: os.unlink(fname)
def delete_from_identifiers(identifiers):
    files = []
    for identifier in identifiers:
        files.extend(glob.glob(os.path.join(path, identifier[:2], identifier + '*')))
    for fname in files:
        with contextlib.suppress(OSError): os.unlink(fname)
    return len(files)
def get_missing(identifiers):
    present = set()
    for shard in {identifier[:2] for identifier in identifiers}:
        with os.scandir(os.path.join(path, shard)) as entries:
            present |= {entry.name[:42] for entry in entries}
    return set(identifiers) - present
";

fn run(mount: &Mount, script: &str, arguments: &[&str]) -> String {
    mount.python_as(NOBODY, &format!("{STORE}{script}"), arguments)
}

/// A node whose tree belongs to Odoo's user.
fn odoo_node() -> (Redis, Mount) {
    let redis = Redis::start();
    let mount = Mount::start_owned(&redis, "", ("nobody", "nogroup"));
    (redis, mount)
}

#[test]
fn vacuum_removes_what_is_old() {
    let (_redis, mount) = odoo_node();
    let ids: Vec<String> = (0..6).map(|seed| sid(["ab", "cd", "-_"][seed % 3], 1)).collect();
    let ids: Vec<String> =
        ids.iter().zip(0..6).map(|(id, n)| format!("{}{n}", &id[..83])).collect();
    let script = "
ids = sys.argv[2].split(',')
for sid in ids: save(sid, {'uid': 2, 'login': 'x', 'sid': sid})
then = time.time() - 1000
for sid in ids[:3]: os.utime(filename(sid), (then, then))
vacuum(500)
for sid in ids: print(os.path.isfile(filename(sid)))";
    let left = run(&mount, script, &[&ids.join(",")]);
    assert_eq!(left, "False\nFalse\nFalse\nTrue\nTrue\nTrue");
}

#[test]
fn the_gc_of_odoo_14_removes_what_is_old() {
    let (_redis, mount) = odoo_node();
    let other = HEX.replace('f', "e");
    let script = "
fd, left_over = tempfile.mkstemp(suffix='.__wz_sess', dir=path)
os.close(fd)
flat = [os.path.join(path, f'werkzeug_{sid}.sess') for sid in sys.argv[2:]]
for name in flat:
    fd, tmp = tempfile.mkstemp(suffix='.__wz_sess', dir=path)
    with os.fdopen(fd, 'wb') as f: f.write(b'{}')
    os.rename(tmp, name)
then = time.time() - 8 * 86400
for name in (flat[0], left_over): os.utime(name, (then, then))
for fname in os.listdir(path):
    fname = os.path.join(path, fname)
    if os.path.getmtime(fname) < time.time() - 7 * 86400: os.unlink(fname)
print(*map(os.path.exists, [*flat, left_over]), len(os.listdir(path)))";
    assert_eq!(run(&mount, script, &[HEX, &other]), "False True False 1");
}

#[test]
fn a_device_is_found_and_revoked_by_its_family() {
    let (_redis, mount) = odoo_node();
    let family = &sid("ab", 1)[..42];
    let one = format!("{family}{}", &sid("xx", 2)[42..]);
    let two = format!("{family}{}", &sid("xx", 3)[42..]);
    let bystander = sid("ab", 4);
    for id in [&one, &two, &bystander] {
        in_thread(|| mount.save(id, &authenticated("")).unwrap());
    }
    let script = "
print(*map(os.path.basename, sorted(glob.glob(os.path.join(path, 'ab', sys.argv[2] + '*')))))
print(delete_from_identifiers([sys.argv[2]]))";
    let mut aliases = [alias(&one), alias(&two)];
    aliases.sort();
    assert_eq!(run(&mount, script, &[family]), format!("{} {}\n2", aliases[0], aliases[1]));
    assert_eq!(errno(mount.read(&one)), libc::ENOENT);
    assert_eq!(errno(mount.read(&two)), libc::ENOENT);
    assert_eq!(mount.read(&bystander).unwrap(), authenticated(""));
}

#[test]
fn missing_devices_are_found_by_scandir() {
    let (_redis, mount) = odoo_node();
    let (here, gone) = (sid("ab", 1), sid("ab", 2));
    mount.save(&here, &authenticated("")).unwrap();
    let script = "print(*get_missing(sys.argv[2:]))";
    assert_eq!(run(&mount, script, &[&here[..42], &gone[..42]]), gone[..42]);
}

#[test]
fn soft_rotation_leaves_both_sessions_readable() {
    let (redis, mount) = odoo_node();
    let old = sid("ab", 1);
    let new = format!("{}{}", &old[..42], &sid("xx", 2)[42..]);
    mount.save(&old, &authenticated("")).unwrap();
    let script = "
old, new = sys.argv[2:]
session = get(old)
get(old)
save(old, {**session, 'next_sid': new, 'deletion_time': time.time() + 120})
save(new, {**session, 'gc_previous_sessions': True})
print(get(old)['next_sid'] == new, get(new)['gc_previous_sessions'], len(os.listdir(path + '/ab')))";
    assert_eq!(run(&mount, script, &[&old, &new]), "True True 2");
    assert!(!String::from_utf8_lossy(&redis.dump()).contains(&new[42..]));
}

#[test]
fn odoo_19_removes_all_siblings_and_saves_its_own_again() {
    let (redis, mount) = odoo_node();
    let other_node = Mount::start_owned(&redis, "", ("nobody", "nogroup"));
    let old = sid("ab", 1);
    let new = format!("{}{}", &old[..42], &sid("xx", 2)[42..]);
    for id in [&old, &new] {
        in_thread(|| mount.save(id, &authenticated("")).unwrap());
    }
    let script = "
old, new = sys.argv[2:]
session = get(new)
print(delete_from_identifiers([new[:42]]))
save(new, session)
print(get(new) == session)
# The next request of the same worker.
save(new, {**get(new), 'again': 1})
print(get(new)['again'])";
    assert_eq!(run(&mount, script, &[&old, &new]), "2\nTrue\n1");
    assert_eq!(errno(other_node.read(&old)), libc::ENOENT);
    assert!(other_node.read(&new).is_ok());
}

#[test]
fn odoo_19_1_saves_ids_of_86_characters_with_replace() {
    let (_redis, mount) = odoo_node();
    let id = sid("_-", 1) + "Zz";
    let script = "
sid = sys.argv[2]
for round in range(3):
    save(sid, {'uid': 2, 'login': 'x', 'round': round}, suffix='.__tx_sess__', rename=os.replace)
    assert get(sid)['round'] == round
print(os.listdir(path), os.stat(filename(sid)).st_mode & 0o777 == 0o644)
print(delete_from_identifiers([sid[:42]]))
# It is the one that this thread has opened last, so its removal is held for a second.
for _ in range(1000):
    if not os.path.exists(filename(sid)):
        break
    time.sleep(0.01)
print(os.path.exists(filename(sid)))";
    assert_eq!(run(&mount, script, &[&id]), "['_-'] True\n1\nFalse");
}

#[test]
fn odoo_16_finds_the_sessions_of_15() {
    let (_redis, mount) = odoo_node();
    mount.save_as(&mount.flat(HEX), &anonymous("of 15")).unwrap();
    assert_eq!(run(&mount, "print(get(sys.argv[2])['note'])", &[HEX]), "of 15");
}

#[test]
fn odoo_finds_its_directory_as_it_expects() {
    let (_redis, mount) = odoo_node();
    let script = "
try: os.makedirs(path, 0o700)
except FileExistsError: print(os.access(path, os.W_OK))";
    assert_eq!(run(&mount, script, &[]), "True");
}

#[test]
fn rotation_at_login_removes_the_old_and_makes_the_new() {
    let (_redis, mount) = node("");
    let (visitor, person) = (sid("ab", 1), sid("cd", 2));
    in_thread(|| {
        mount.save(&visitor, &anonymous("")).unwrap();
        mount.read(&visitor).unwrap();
        mount.unlink(&visitor).unwrap();
        mount.save(&person, &authenticated("")).unwrap();
    });
    // And back at logout.
    let after = sid("ef", 3);
    in_thread(|| {
        mount.read(&person).unwrap();
        mount.unlink(&person).unwrap();
        mount.save(&after, &anonymous("")).unwrap();
    });
    assert_eq!(errno(mount.read(&visitor)), libc::ENOENT);
    assert_eq!(errno(mount.read(&person)), libc::ENOENT);
    assert_eq!(mount.read(&after).unwrap(), anonymous(""));
}
