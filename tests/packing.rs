//! Packed contents on real mounts: what Redis holds, a server that packs beside one that does not, and a packed save
//! that is kept while Redis is away.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::http::until;
use support::mount::{Mount, alias, authenticated, in_thread, sid};
use support::redis::Redis;

const OFF: &str = "[redis]\npacking = \"off\"\n";

/// How much Redis keeps of a session.
fn kept_bytes(redis: &Redis, sid: &str) -> usize {
    let alias = alias(sid);
    redis.run(&format!("STRLEN sessionfs:s:{{{}}}:{alias}", &alias[..2]))
}

#[test]
fn a_packed_session_is_shorter_in_redis_and_the_same_for_odoo() {
    let redis = Redis::start();
    let (packs, other) = (Mount::start(&redis, ""), Mount::start(&redis, OFF));
    let session = sid("aa", 1);
    let content = authenticated(&"cart ".repeat(1000));
    let save = |node: &Mount| in_thread(|| node.save_in_request(&session, &content)).unwrap();
    // It packs when it knows that the other one can unpack.
    until("it is packed", || {
        save(&packs);
        kept_bytes(&redis, &session) < 1000
    });
    for node in [&packs, &other] {
        assert_eq!(in_thread(|| node.read(&session)).unwrap(), content);
        let length = node.sharded(&session).metadata().unwrap().len();
        assert_eq!(length, content.len() as u64);
    }
    save(&other);
    assert!(kept_bytes(&redis, &session) > content.len());
    assert_eq!(in_thread(|| packs.read(&session)).unwrap(), content);
    // A change of its attributes leaves the content as it is.
    save(&packs);
    let path = other.sharded(&session);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert!(kept_bytes(&redis, &session) < 1000);
    assert_eq!(in_thread(|| other.read(&session)).unwrap(), content);
}

#[test]
fn a_packed_save_that_is_kept_outlives_its_worker() {
    let mut redis = Redis::start();
    let mut node = Mount::start(&redis, "");
    let session = sid("aa", 1);
    until("it is packed", || {
        in_thread(|| node.save(&session, &authenticated(&"old ".repeat(1000)))).unwrap();
        kept_bytes(&redis, &session) < 1000
    });
    let newest = authenticated(&"new ".repeat(1000));
    let (staged, target) = (node.stage(&newest).unwrap(), node.sharded(&session));
    redis.pause();
    // Another thread, which has not read it.
    in_thread(|| std::fs::rename(staged, target)).unwrap();
    kill(Pid::from_raw(node.worker().try_into().unwrap()), Signal::SIGKILL).unwrap();
    node.wait_until_served();
    redis.resume();
    node.wait_for_log("change_sent");
    assert_eq!(in_thread(|| node.read(&session)).unwrap(), newest);
}
