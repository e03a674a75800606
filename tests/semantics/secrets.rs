//! What nobody can read who does not hold the cookie.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::mount::{Mount, alias, anonymous, errno, in_thread, sid};
use crate::support::redis::Redis;
use crate::{HEX, STRICT, node};

const MARK: &str = "a-thing-that-nobody-else-may-read";

fn with_next_sid(next: &str) -> Vec<u8> {
    format!(
        r#"{{"uid": 2, "db": "shop", "login": "admin", "session_token": "{MARK}", "next_sid": "{next}"}}"#
    )
    .into_bytes()
}

/// The part of an id that its alias does not show.
fn secret(id: &str) -> &str {
    if id.len() == 40 { &id[2..] } else { &id[42..] }
}

#[track_caller]
fn assert_absent(place: &str, heap: &[u8], secrets: &[&str]) {
    for secret in secrets {
        let found = heap.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "{place} holds {secret}:\n{}", String::from_utf8_lossy(heap));
    }
}

#[test]
fn redis_holds_no_id_and_no_content() {
    let (redis, mount) = node("");
    let (old, next) = (sid("ab", 1), sid("cd", 2) + "86");
    mount.save(&old, &with_next_sid(&next)).unwrap();
    in_thread(|| mount.save(&next, &with_next_sid("")).unwrap());
    in_thread(|| mount.save_as(&mount.flat(HEX), &anonymous(MARK)).unwrap());
    mount.read(&old).unwrap();
    let secrets = [secret(&old), secret(&next), secret(HEX), MARK, "next_sid", "session_token"];
    let alive = redis.dump();
    assert!(String::from_utf8_lossy(&alive).contains(&alias(&old)));
    assert_absent("Redis", &alive, &secrets);
    for id in [&old, &next] {
        mount.unlink(id).unwrap();
    }
    assert_absent("Redis", &redis.dump(), &secrets);
}

#[test]
fn listings_show_no_id() {
    let (_redis, mount) = node("");
    let id = sid("ab", 1);
    mount.save(&id, &anonymous("")).unwrap();
    in_thread(|| mount.save_as(&mount.flat(HEX), &anonymous("")).unwrap());
    fs::write(mount.path().join(format!("werkzeug_{HEX}_{}.file", "0".repeat(32))), b"").unwrap();
    for directory in [mount.path(), mount.path().join("ab")] {
        let names = mount.list(&directory).join("\n");
        assert!(!names.is_empty());
        assert_absent("the listing", names.as_bytes(), &[secret(&id), secret(HEX)]);
    }
}

#[test]
fn the_log_shows_no_id_and_no_content_at_any_level() {
    let mut redis = Redis::start();
    let mount = Mount::start(&redis, "[lifetime]\nidle = \"1s\"");
    let (old, next, never) = (sid("ab", 1), sid("cd", 2), sid("ef", 3));
    let spool = mount.path().join(format!("werkzeug_{HEX}_{}.file", "0".repeat(32)));
    in_thread(|| {
        // Flat names first: this thread has named no shard yet.
        mount.save_as(&mount.flat(HEX), &anonymous(MARK)).unwrap();
        fs::write(&spool, MARK).unwrap();
        let _ = fs::metadata(mount.path().join(format!("werkzeug_{old}.sess")));
        mount.save(&old, &with_next_sid(&next)).unwrap();
        mount.read(&old).unwrap();
        mount.list(&mount.path().join("ab"));
        assert_eq!(errno(mount.read(&never)), libc::ENOENT);
        // Refused, for each kind of reason.
        let _ = fs::write(mount.sharded(&old), b"x");
        let _ = fs::write(mount.path().join(&old), b"x");
        let _ = fs::rename(mount.sharded(&old), mount.sharded(&next));
        let _ = fs::rename(&spool, mount.flat(HEX));
        let _ = fs::create_dir(mount.path().join(&old));
        mount.unlink(&old).unwrap();
        assert_eq!(errno(mount.unlink(&old)), libc::ENOENT);
    });
    in_thread(|| assert_eq!(errno(mount.save(&old, &with_next_sid(&next))), libc::EACCES));
    // It ends of itself, and that is logged.
    mount.save(&next, &with_next_sid("")).unwrap();
    while mount.list(&mount.path().join("cd")) == [alias(&next)] {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(errno(mount.read(&next)), libc::ENOENT);
    let temp = in_thread(|| mount.stage(&with_next_sid(&next)).unwrap());
    redis.kill();
    // What is kept is logged, too.
    fs::rename(temp, mount.sharded(&never)).unwrap();
    mount.unlink(&never).unwrap();
    mount.wait_for_log(&alias(&never));
    let log = mount.stop();
    assert!(log.contains(&alias(&old)), "{log}");
    let secrets = [secret(&old), secret(&next), secret(&never), secret(HEX), MARK, "next_sid"];
    assert_absent("the log", log.as_bytes(), &secrets);
}

#[test]
fn staging_files_are_named_without_an_id_and_are_the_workers_own() {
    let staging = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::set_permissions(staging.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (_redis, mount) = node(&format!("staging_dir = {:?}", staging.path()));
    fs::write(mount.path().join(format!("werkzeug_{HEX}_{}.file", "0".repeat(32))), b"").unwrap();
    let temp = mount.stage(&anonymous("")).unwrap();
    let own = fs::read_dir(staging.path())
        .unwrap()
        .map(Result::unwrap)
        .find(|found| found.path().extension().is_none_or(|kind| kind != "spool"))
        .unwrap();
    assert_eq!(own.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let names = mount.list(&own.path());
    let temp_name = temp.file_name().unwrap().to_str().unwrap();
    assert_eq!(names, [temp_name, &format!("werkzeug_{}_{}.file", alias(HEX), "0".repeat(32))]);
    // What is published or removed leaves nothing behind.
    fs::rename(&temp, mount.flat(HEX)).unwrap();
    assert_eq!(mount.list(&own.path()).len(), 1);
}

#[test]
fn content_under_another_name_in_redis_is_not_served() {
    let (redis, mount) = node(STRICT);
    let (mine, other) = (sid("ab", 1), sid("ab", 2));
    mount.save(&mine, &anonymous("mine")).unwrap();
    in_thread(|| mount.save(&other, &anonymous("other")).unwrap());
    let key = |id: &str| format!("sessionfs:s:{{ab}}:{}", alias(id));
    // Whoever can write to Redis moves one session's bytes onto another's key.
    redis.run::<i64>(&format!("COPY {} {} REPLACE", key(&mine), key(&other)));
    assert_eq!(errno(mount.read(&other)), libc::ENOENT);
    assert_eq!(mount.read(&mine).unwrap(), anonymous("mine"));
}
