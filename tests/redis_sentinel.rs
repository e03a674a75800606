//! A store on a master that sentinels name.

mod support;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use sessionfs::redis::probe::{ProbeError, probe};
use sessionfs::redis::{Credential, Credentials, RedisStore, Settings};
use sessionfs::store::{Health, Link as _, Wait, Waited};
use support::deployment::{Sentinel, Watched};
use support::http::get;
use support::mount::{Mount, authenticated};
use support::store::*;

fn on(watched: &Watched) -> Settings {
    Settings { url: watched.url(), ..settings(&watched.servers[0].redis) }
}

fn writable() -> Wait {
    Wait { writes: true, ..Wait::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_follows_the_master() {
    let mut watched = Watched::start("");
    it_is_probed(&watched).await;
    let node = connected(RedisStore::start(on(&watched)).expect("a good URL")).await;
    let sid = alias("ab", 1);
    taken(&node, &login(&node, &sid)).await;

    let own = support::mount::sid("ab", 1);
    let mount = tokio::task::block_in_place(|| {
        let mount = Mount::start_on(&watched.url(), "");
        mount.save(&own, &authenticated("note")).expect("saved");
        mount
    });

    // A failover in order: a sentinel tells of it.
    watched.sentinels[0].run(&["SENTINEL", "FAILOVER", "shop"]).expect("begun");
    until("the replica is the master", || watched.servers[1].is_master()).await;
    let promoted = Instant::now();
    while node.wait_up(writable()).await != Waited::Up {}
    taken(&node, &login(&node, &alias("ab", 2))).await;
    assert!(promoted.elapsed() < Duration::from_secs(2), "{:?}", promoted.elapsed());
    // The sentinels do the same, some seconds later.
    let port = watched.servers[1].port;
    let _: String = watched.servers[0].redis.run(&format!("REPLICAOF 127.0.0.1 {port}"));
    until("the old master follows", || watched.servers[0].follows()).await;
    assert!(look(&node, &sid).await.is_some());

    // The first sentinel dies, which the store asks, and then the master.
    until("the sentinels agree again", || {
        watched.sentinels.iter().all(|sentinel| {
            let known = sentinel.run(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "shop"]);
            format!("{known:?}").contains(&watched.servers[1].port.to_string())
        })
    })
    .await;
    watched.sentinels[0].kill();
    watched.servers[1].redis.kill();
    until_health(&node, Health::Down).await;
    until("the first server is the master again", || watched.servers[0].is_master()).await;
    let promoted = Instant::now();
    while node.wait_up(writable()).await != Waited::Up {}
    assert!(promoted.elapsed() < Duration::from_secs(2), "{:?}", promoted.elapsed());
    taken(&node, &login(&node, &alias("ab", 3))).await;

    tokio::task::block_in_place(|| {
        assert_eq!(mount.read(&own).expect("read"), authenticated("note"));
        mount.save(&own, &authenticated("more")).expect("saved");
        mount.stop();
    });

    // The old master comes back as what it was, and is left as soon as it is not that any more.
    watched.servers[1].redis.restart();
    until("it is a replica", || watched.servers[1].follows()).await;
    taken(&node, &login(&node, &alias("ab", 4))).await;
}

async fn it_is_probed(watched: &Watched) {
    let found = probe(&on(watched)).await.expect("it can serve");
    assert_eq!(found.address, watched.url());
    let sentinel = watched.sentinels[0].port;
    let at = |url: String| Settings { url, ..on(watched) };
    // A sentinel is no Redis server.
    let error = probe(&at(format!("redis://127.0.0.1:{sentinel}"))).await.expect_err("a sentinel");
    let advice = format!("write redis.url as redis-sentinel://127.0.0.1:{sentinel}/MASTER/DB");
    assert!(error.to_string().ends_with(&advice), "{error}");
    let server = watched.servers[0].at();
    let error =
        probe(&at(format!("redis-sentinel://{server}/shop"))).await.expect_err("no sentinel");
    assert!(error.to_string().ends_with(&format!("as redis://{server}/DB")), "{error}");
    let other = probe(&at(watched.url().replace("/shop/", "/other/"))).await;
    assert!(matches!(other, Err(ProbeError::NoMaster(..))), "{other:?}");
    // A sentinel that is wrong is passed over.
    let wrong = Sentinel::start(1, "");
    until("it answers", || wrong.run(&["PING"]).is_ok()).await;
    let names = format!("redis-sentinel://127.0.0.1:{},", wrong.port);
    let url = watched.url().replace("redis-sentinel://", &names);
    probe(&at(url)).await.expect("the others name the master");
    let none = probe(&at("redis-sentinel://127.0.0.1:1/shop".to_owned())).await;
    assert!(matches!(none, Err(ProbeError::Unreachable(..))), "{none:?}");
}

#[tokio::test]
async fn sentinels_have_a_password_of_their_own_which_is_read_again() {
    let watched = Watched::start("");
    for sentinel in &watched.sentinels {
        sentinel.run(&["ACL", "SETUSER", "default", "resetpass", ">geheim"]).expect("set");
    }
    let refused = probe(&on(&watched)).await;
    assert!(matches!(refused, Err(ProbeError::SentinelAuth(_))), "{refused:?}");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let files = BTreeMap::from([(Credential::SentinelPassword, file.path().to_owned())]);
    let settings = Settings {
        credentials: Credentials::of(files),
        sentinel_password: Some("falsch".into()),
        ..on(&watched)
    };
    std::fs::write(file.path(), "falsch\n").expect("written");
    let refused = probe(&settings).await.expect_err("a wrong password");
    assert!(!refused.to_string().contains("falsch"), "{refused}");
    let node = RedisStore::start(settings.clone()).expect("a good URL");
    until("the cause is known", || node.link_cause().contains("WRONGPASS")).await;
    std::fs::write(file.path(), "geheim\n").expect("written");
    let node = connected(node).await;
    probe(&settings).await.expect("the right password");
    taken(&node, &login(&node, &alias("ab", 1))).await;

    // A user with the rights of the documentation.
    let text = include_str!("../docs/redis.md");
    let rights =
        text.lines().find_map(|line| line.trim().strip_prefix("user sessionfs on >PASSWORD "));
    let rights: Vec<_> = rights.expect("a line").split(' ').collect();
    for sentinel in &watched.sentinels {
        let line = [&["ACL", "SETUSER", "sessionfs", "on", ">geheim"], &rights[..]].concat();
        sentinel.run_as("default:geheim", &line).expect("set");
    }
    let settings = Settings { sentinel_username: Some("sessionfs".into()), ..settings };
    probe(&settings).await.expect("it has the rights");
}

/// Those that the program prints, of the servers and of the sentinels.
#[tokio::test]
async fn a_mount_needs_no_other_rights() {
    let watched = Watched::start("");
    let printed = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sessionfs"))
            .arg("redis-acl")
            .args(arguments)
            .output()
            .expect("it runs");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    let rights = printed(&["--prefix", "sessionfs", "--redis", &watched.url()]);
    for server in &watched.servers {
        let _: String = server.redis.run(&format!("ACL SETUSER mount reset on >geheim {rights}"));
    }
    let rights = printed(&["--sentinel"]);
    for sentinel in &watched.sentinels {
        let mut line = vec!["ACL", "SETUSER", "watcher", "reset", "on", ">heimlich"];
        line.extend(rights.split(' '));
        sentinel.run(&line).expect("set");
    }
    let url = watched.url().replace("://", "://mount:geheim@");
    let url = format!("{url}?sentinel_username=watcher&sentinel_password=heimlich");
    let mount = Mount::start_on(&url, "");
    let sid = support::mount::sid("ab", 1);
    mount.save_in_request(&sid, &authenticated("note")).expect("saved");
    let status = get(&mount, "/status");
    assert!(status.matches(r#""answers":true"#).count() == 3, "{status}");
    // A failover is followed.
    watched.sentinels[0].run(&["SENTINEL", "FAILOVER", "shop"]).expect("begun");
    until("the replica is the master", || watched.servers[1].is_master()).await;
    assert_eq!(mount.read(&sid).expect("read"), authenticated("note"));
    mount.unlink(&sid).expect("removed");
    mount.stop();
    for server in &watched.servers {
        let refused = server.refused_commands();
        assert!(refused.iter().all(|command| command == "info"), "{refused:?}");
    }
}
