//! A store on a Redis Cluster of three primaries and three replicas.
//!
//! The servers are started once, so the parts of this test follow one another.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use sessionfs::redis::probe::{ProbeError, probe};
use sessionfs::redis::scan::Filter;
use sessionfs::redis::{RedisStore, Settings};
use sessionfs::session::name::{Alias, Shard, Sid};
use sessionfs::session::secret::{Keyring, Secret};
use sessionfs::store::{Health, Link as _, Sessions as _, Wait, Waited};
use sessionfs::trail::Trail;
use sessionfs::trail::entry::{Entry, Event};
use support::deployment::{Cluster, Server};
use support::http::{self, get, metric};
use support::index;
use support::mount::{Mount, authenticated, sid};
use support::store::*;
use tokio::time::sleep;

fn on(cluster: &Cluster) -> Settings {
    Settings { url: cluster.url(), ..settings(&cluster.servers[0].redis) }
}

async fn store(cluster: &Cluster) -> RedisStore {
    connected(RedisStore::start(on(cluster)).expect("a good URL")).await
}

fn index_key(shard: &str) -> String {
    format!("sessionfs:a:{{{shard}}}")
}

fn wait(shard: &str) -> Wait {
    Wait { shard: Shard::parse(shard), writes: true, background: false }
}

/// A shard of each primary.
fn shards(cluster: &Cluster) -> [&'static str; 3] {
    let mut found: Vec<(usize, &'static str)> = Vec::new();
    for shard in ["aa", "ab", "ac", "ad", "ae", "af", "ag", "ah", "ai", "aj", "ak", "al", "am"] {
        let primary = cluster.primary_of(&index_key(shard));
        if found.iter().all(|(known, _)| *known != primary) {
            found.push((primary, shard));
        }
    }
    found.sort_unstable();
    let shards: Vec<_> = found.into_iter().map(|(_, shard)| shard).collect();
    shards.try_into().expect("each primary has one of them")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_on_a_cluster() {
    let cluster = Cluster::start(&[]);
    it_is_probed(&cluster).await;
    its_user_has_few_rights(&cluster).await;
    all_primaries_are_read_and_written(&cluster).await;
    what_all_agree_on_is_anywhere(&cluster).await;
    the_trail_of_all_shards_is_written(&cluster).await;
    tokio::task::block_in_place(|| a_mount_serves(&cluster));
    tokio::task::block_in_place(|| a_mount_needs_no_other_rights(&cluster));
    a_slot_is_moved_with_its_outbox(&cluster).await;
    a_slot_is_moved_under_a_store(&cluster).await;
    a_move_is_broken_off(&cluster).await;
    a_primary_hands_over(&cluster).await;
    a_server_is_removed(&cluster).await;
    the_loss_of_a_primary_concerns_its_shards(cluster).await;
}

async fn it_is_probed(cluster: &Cluster) {
    let found = probe(&on(cluster)).await.expect("it can serve");
    assert_eq!(found.address, cluster.url());
    // A server of it is no server of its own.
    let url = format!("redis://{}", cluster.servers[0].at());
    let error =
        probe(&Settings { url, ..on(cluster) }).await.expect_err("it is a part of a Cluster");
    let advice = format!("write redis.url as redis-cluster://{}", cluster.servers[0].at());
    assert!(error.to_string().ends_with(&advice), "{error}");
    // A dead server is passed over.
    let url = format!("redis-cluster://127.0.0.1:1,{}", cluster.servers[3].at());
    probe(&Settings { url, ..on(cluster) }).await.expect("the other one answers");
    let url = "redis-cluster://127.0.0.1:1".to_owned();
    let nobody = probe(&Settings { url, ..on(cluster) }).await;
    assert!(matches!(nobody, Err(ProbeError::Unreachable(..))), "{nobody:?}");
}

/// A script stays within one slot, so each shard has an outbox of its own.
async fn the_trail_of_all_shards_is_written(cluster: &Cluster) {
    let settings = Settings { trail_round_ms: 1000, ..on(cluster) };
    let store = connected(RedisStore::start(settings).expect("a good URL")).await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let opened = std::fs::File::options().append(true).open(file.path()).expect("opened");
    store.keep_trail(Trail::to(opened.into(), 1 << 30).expect("a thread"));
    let sids = shards(cluster).map(|shard| alias(shard, 700));
    for sid in &sids {
        taken(&store, &login(&store, sid)).await;
        gone(&store, &removal(&store, sid)).await;
    }
    store.tell_trail(Event::Command, "of no shard", None).await.expect("told");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let text = std::fs::read(file.path()).expect("a trail");
        let entries: Vec<_> = text.split(|byte| *byte == b'\n').filter_map(Entry::parse).collect();
        let of = |event| {
            let mut found: Vec<_> = entries
                .iter()
                .filter(|entry| entry.event == event)
                .filter_map(|entry| Alias::parse(entry.alias.as_deref()?))
                .filter(|alias| sids.contains(alias))
                .collect();
            found.sort_unstable();
            found
        };
        let mut expected = sids.to_vec();
        expected.sort_unstable();
        if of(Event::SessionBegan) == expected
            && of(Event::SessionEnded) == expected
            && entries.iter().any(|entry| entry.event == Event::Command)
        {
            return;
        }
        assert!(Instant::now() < deadline, "{entries:#?}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Those that the program prints.
fn a_mount_needs_no_other_rights(cluster: &Cluster) {
    let output = Command::new(env!("CARGO_BIN_EXE_sessionfs"))
        .args(["redis-acl", "--prefix", "sessionfs", "--redis", &cluster.url()])
        .output()
        .expect("it runs");
    let rights = String::from_utf8(output.stdout).expect("text");
    for server in &cluster.servers {
        let _: String =
            server.redis.run(&format!("ACL SETUSER mount reset on >geheim {}", rights.trim()));
        let _: String = server.redis.run("ACL LOG RESET");
    }
    let mount = Mount::start_on(&cluster.url().replace("://", "://mount:geheim@"), "");
    for (seed, shard) in (70..).zip(shards(cluster)) {
        let sid = sid(shard, seed);
        mount.save_in_request(&sid, &authenticated("note")).expect("saved");
        assert_eq!(mount.read(&sid).expect("read"), authenticated("note"));
        assert!(!mount.list(&mount.path().join(shard)).is_empty());
        mount.unlink(&sid).expect("removed");
    }
    get(&mount, "/metrics");
    get(&mount, "/status");
    mount.stop();
    let refused: Vec<_> = cluster.servers.iter().flat_map(Server::refused_commands).collect();
    // Which `status` and the metrics do without.
    assert!(refused.iter().all(|command| command == "info"), "{refused:?}");
}

/// Those of the documentation.
async fn its_user_has_few_rights(cluster: &Cluster) {
    let text = include_str!("../docs/redis.md");
    let lines: Vec<_> =
        text.lines().map(str::trim).filter(|line| line.starts_with("ACL SETUSER")).collect();
    let url = cluster.url().replace("://", "://sessionfs:geheim@");
    let settings = Settings { url, ..on(cluster) };
    for (number, line) in lines.iter().enumerate() {
        for server in &cluster.servers {
            let _: String = server.redis.run(&line.replace(">PASSWORD", ">geheim"));
        }
        let outcome = probe(&settings).await;
        assert_eq!(outcome.is_ok(), number == 1, "{outcome:?}");
    }
    let node = connected(RedisStore::start(settings).expect("a good URL")).await;
    let [shard, ..] = shards(cluster);
    taken(&node, &login(&node, &alias(shard, 90))).await;
    gone(&node, &removal(&node, &alias(shard, 90))).await;
}

async fn all_primaries_are_read_and_written(cluster: &Cluster) {
    let (one, other) = (store(cluster).await, store(cluster).await);
    for (number, shard) in (0..).zip(shards(cluster)) {
        let sid = alias(shard, number);
        taken(&one, &login(&one, &sid)).await;
        assert!(look(&other, &sid).await.is_some(), "{shard}");
        other.touch_now(&sid).await.expect("written");
        assert_eq!(one.list(sid.shard()).await.expect("a listing").len(), 1);
    }
    let mut listed: Vec<_> = other
        .list_root()
        .await
        .expect("a listing")
        .shards
        .iter()
        .map(ToString::to_string)
        .collect();
    listed.sort_unstable();
    let mut expected = shards(cluster).to_vec();
    expected.sort_unstable();
    assert_eq!(listed, expected);
    assert_eq!(other.rough_count().await, Ok(3));
    assert_eq!(other.population().await.expect("counted").authenticated, 3);
    one.register_server("one", "{}").await.expect("registered");
    assert_eq!(other.servers().await.expect("listed").len(), 1);
    one.remove_server("one").await.expect("removed");
    for (number, shard) in (0..).zip(shards(cluster)) {
        gone(&one, &removal(&one, &alias(shard, number))).await;
        assert_eq!(look(&other, &alias(shard, number)).await, None);
    }
    assert_eq!(one.ask_writes().await.refusal(), None);
}

async fn what_all_agree_on_is_anywhere(cluster: &Cluster) {
    let keyring = |secret: &Secret| Some(Keyring::new(vec![secret.clone()]).expect("a keyring"));
    let (secret, other) = (Secret::generate(), Secret::generate());
    let settings = Settings { keyring: keyring(&secret), ..on(cluster) };
    let node = connected(RedisStore::start(settings).expect("a good URL")).await;
    node.agree().await.expect("agreed");
    let settings = Settings { keyring: keyring(&other), wait_step_ms: 500, ..on(cluster) };
    let misfit = probe(&settings).await;
    assert!(matches!(misfit, Err(ProbeError::OtherSecret(..))), "{misfit:?}");
    // None of the servers is used.
    let stranger = RedisStore::start(settings).expect("a good URL");
    until("the secret is missed", || stranger.missing_secret() == Some(secret.fingerprint())).await;
    for shard in shards(cluster) {
        assert_ne!(stranger.wait_up(wait(shard)).await, Waited::Up, "{shard}");
    }
    let secret_key = "sessionfs:secret";
    let _: i64 = cluster.servers[cluster.primary_of(secret_key)].redis.run("DEL sessionfs:secret");
}

/// What is told while a slot is moved makes no second outbox, which the first could not be moved to. What has no auditor is a
/// command: its entries come to the outbox of no shard.
async fn a_slot_is_moved_with_its_outbox(cluster: &Cluster) {
    let settings = Settings { trail_round_ms: 1000, ..on(cluster) };
    let auditor = connected(RedisStore::start(settings).expect("a good URL")).await;
    let command = store(cluster).await;
    let [shard, ..] = shards(cluster);
    let from = cluster.primary_of(&index_key(shard));
    let to = (0..3).find(|server| *server != from).expect("another one");
    let slot: u64 =
        cluster.servers[from].redis.run(&format!("CLUSTER KEYSLOT {}", index_key(shard)));
    let sid = alias(shard, 800);
    taken(&command, &login(&command, &sid)).await;
    let outbox = format!("sessionfs:trail:{{{shard}}}");
    let waiting =
        |server: usize| -> u64 { cluster.servers[server].redis.run(&format!("ZCARD {outbox}")) };
    let before = waiting(from);
    assert!(before >= 1, "{before}");
    // The session is there already, and its outbox is not.
    let handle = tokio::runtime::Handle::current();
    cluster.move_slot_in_part(
        slot,
        from,
        to,
        |key| *key != outbox,
        || {
            tokio::task::block_in_place(|| {
                handle.block_on(async { gone(&command, &removal(&command, &sid)).await });
            });
        },
    );
    assert_eq!(waiting(to), before);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let opened = std::fs::File::options().append(true).open(file.path()).expect("opened");
    auditor.keep_trail(Trail::to(opened.into(), 1 << 30).expect("a thread"));
    let is_told = |event: Event| {
        let text = std::fs::read(file.path()).expect("a trail");
        let entries = text.split(|byte| *byte == b'\n').filter_map(Entry::parse);
        let mut told = entries.filter(|entry| entry.event == event);
        told.any(|entry| entry.alias.as_deref() == Some(sid.as_str()))
    };
    // Somebody before may have left without giving up the lease.
    let deadline = Instant::now() + Duration::from_secs(40);
    while !(is_told(Event::SessionBegan) && is_told(Event::SessionEnded)) {
        assert!(Instant::now() < deadline, "not all is written");
        sleep(Duration::from_millis(100)).await;
    }
    auditor.leave_trail().await;
    cluster.move_slot(slot, to, from, || {});
}

async fn a_slot_is_moved_under_a_store(cluster: &Cluster) {
    let node = store(cluster).await;
    let [shard, ..] = shards(cluster);
    let from = cluster.primary_of(&index_key(shard));
    let to = (0..3).find(|server| *server != from).expect("another one");
    let sid = alias(shard, 10);
    taken(&node, &login(&node, &sid)).await;
    let slot: u64 =
        cluster.servers[from].redis.run(&format!("CLUSTER KEYSLOT {}", index_key(shard)));
    let handle = tokio::runtime::Handle::current();
    cluster.move_slot(slot, from, to, || {
        tokio::task::block_in_place(|| {
            handle.block_on(async {
                // All its keys are there: ASK leads to them.
                assert!(look(&node, &sid).await.is_some());
                assert_eq!(node.list(sid.shard()).await.expect("a listing").len(), 1);
            });
        });
    });
    assert!(look(&node, &sid).await.is_some());
    taken(&node, &login(&node, &alias(shard, 11))).await;
    assert_eq!(node.list(sid.shard()).await.expect("a listing").len(), 2);
    assert_eq!(node.health(None), Health::Up);
    cluster.move_slot(slot, to, from, || {});
    assert!(look(&node, &sid).await.is_some());
}

/// Of two sessions of a shard each is on another server, with its index: no script spans both.
async fn a_move_is_broken_off(cluster: &Cluster) {
    let node = store(cluster).await;
    let [_, shard, _] = shards(cluster);
    let from = cluster.primary_of(&index_key(shard));
    let to = (0..3).find(|server| *server != from).expect("another one");
    let redis = &cluster.servers[from].redis;
    let slot: u64 = redis.run(&format!("CLUSTER KEYSLOT {}", index_key(shard)));
    // Their indexes are as random as session ids are.
    let of = |seed| Sid::parse(&sid(shard, seed)).expect("a session id").alias();
    let stays = of(20);
    taken(&node, &login(&node, &stays)).await;
    let (staying, member, _) = index::entry(redis, &stays).expect("it is in an index");
    let elsewhere = |sid: &Alias| index::like(sid, &member).0 != staying;
    let goes = (21..60).map(of).find(elsewhere).expect("an alias");
    taken(&node, &login(&node, &goes)).await;
    // Of this one nothing is left but the entry.
    let is_beside = |sid: &Alias| !elsewhere(sid);
    let dead = (60..99).map(of).find(is_beside).expect("an alias");
    let mut command = redis::cmd("ZADD");
    command.arg(&staying).arg(1).arg(index::like(&dead, &member).1);
    command.exec(&mut redis.connection()).expect("added");

    let going = [format!("sessionfs:s:{{{shard}}}:{goes}"), index::like(&goes, &member).0];
    let handle = tokio::runtime::Handle::current();
    let broken_off = || {
        handle.block_on(async {
            let mut before = Vec::new();
            for sid in [&stays, &goes] {
                before.push(look(&node, sid).await.expect("it lives").activity_ms);
                node.touch(sid);
            }
            node.touch(&dead);
            node.drain(Duration::from_secs(5)).await;
            for (sid, before) in [&stays, &goes].into_iter().zip(before) {
                let used = look(&node, sid).await.expect("it lives").activity_ms;
                assert!(used > before, "its use is written: {used}");
            }
            let mut listed: Vec<_> = node
                .list(stays.shard())
                .await
                .expect("a listing")
                .into_iter()
                .map(|one| one.alias)
                .collect();
            let mut scanned = Vec::new();
            let mut scan = node.scan(Filter::default());
            while let Some(page) = scan.next().await {
                scanned.extend(page.expect("a page").living.into_iter().map(|one| one.alias));
            }
            scanned.retain(|alias| alias.shard() == stays.shard());
            for found in [&mut listed, &mut scanned] {
                found.sort_unstable();
                let mut expected = vec![stays.clone(), goes.clone()];
                expected.sort_unstable();
                assert_eq!(*found, expected);
            }
        });
    };
    let moved = |key: &str| going.iter().any(|going| going == key);
    cluster.move_slot_in_part(slot, from, to, moved, || tokio::task::block_in_place(broken_off));
    cluster.move_slot(slot, to, from, || {});

    // Of a third one only the index goes. Nobody can have it, and it hides no other one. A listing needs its header alone.
    let elsewhere_still =
        |sid: &Alias| ![&staying, &going[1]].contains(&&index::like(sid, &member).0);
    let parted = (100..160).map(of).find(elsewhere_still).expect("an alias");
    taken(&node, &login(&node, &parted)).await;
    let its_index = index::like(&parted, &member).0;
    let parted_from_it = || {
        handle.block_on(async {
            let (mut found, mut failed) = (Vec::new(), None);
            let mut scan = node.scan(Filter::default());
            while let Some(page) = scan.next().await {
                match page {
                    Ok(page) => found.extend(page.living.into_iter().map(|one| one.alias)),
                    Err(error) => failed = Some(error),
                }
            }
            found.retain(|alias| alias.shard() == stays.shard());
            found.sort_unstable();
            let mut expected = vec![stays.clone(), goes.clone()];
            expected.sort_unstable();
            assert_eq!(found, expected);
            failed.expect("what could not be had is told");
            let listed = node.list(stays.shard()).await.expect("its header can be had");
            let mut listed: Vec<_> = listed.into_iter().map(|one| one.alias).collect();
            listed.sort_unstable();
            expected.push(parted.clone());
            expected.sort_unstable();
            assert_eq!(listed, expected);
        });
    };
    let moved = |key: &str| key == its_index || going.iter().any(|going| going == key);
    cluster
        .move_slot_in_part(slot, from, to, moved, || tokio::task::block_in_place(parted_from_it));
    cluster.move_slot(slot, to, from, || {});
    for sid in [&stays, &goes, &parted] {
        gone(&node, &removal(&node, sid)).await;
    }
}

/// The whole program: its worker may open hardly any file.
fn a_mount_serves(cluster: &Cluster) {
    let mount = Mount::start_on(&cluster.url(), "");
    let sids: Vec<_> = (0..).zip(shards(cluster)).map(|(seed, shard)| sid(shard, seed)).collect();
    for sid in &sids {
        mount.save(sid, &authenticated("note")).expect("saved");
        assert_eq!(mount.read(sid).expect("read"), authenticated("note"));
    }
    let mut expected = shards(cluster).map(ToOwned::to_owned);
    expected.sort_unstable();
    assert_eq!(mount.list(&mount.path()), expected);
    let said = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sessionfs"))
            .args(arguments)
            .output()
            .expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let status: String = said(&["status", "--json"]).split_whitespace().collect();
    for part in [r#""mode":"cluster""#, r#""uncovered_slots":0"#, r#""online":true"#] {
        assert!(status.contains(part), "{part}: {status}");
    }
    for sid in &sids {
        mount.unlink(sid).expect("removed");
    }
    mount.stop();
}

/// `CLUSTER FAILOVER`: no connection breaks.
async fn a_primary_hands_over(cluster: &Cluster) {
    let node = store(cluster).await;
    let [_, shard, _] = shards(cluster);
    let from = cluster.primary_of(&index_key(shard));
    let sid = alias(shard, 20);
    taken(&node, &login(&node, &sid)).await;
    let _: String = cluster.servers[from + 3].redis.run("CLUSTER FAILOVER");
    until("the replica has taken over", || cluster.servers[from + 3].is_master()).await;
    for number in 21..30 {
        taken(&node, &login(&node, &alias(shard, number))).await;
        assert!(look(&node, &sid).await.is_some());
    }
}

/// By `CLUSTER RESET`, as `redis-cli --cluster del-node` ends: it knows no other server any more.
async fn a_server_is_removed(cluster: &Cluster) {
    let removed = &cluster.servers[5];
    let only = Settings { url: format!("redis-cluster://{}", removed.at()), ..on(cluster) };
    let node = connected(RedisStore::start(only.clone()).expect("a good URL")).await;
    let _: String = removed.redis.run("CLUSTER RESET");
    let [_, shard, _] = shards(cluster);
    // The time in which it is asked who has what.
    for number in 40..60 {
        taken(&node, &login(&node, &alias(shard, number))).await;
        sleep(Duration::from_millis(100)).await;
        assert_ne!(node.health(None), Health::Down);
    }
    let url = format!("redis-cluster://{},{}", removed.at(), cluster.servers[0].at());
    let both = Settings { url, ..on(cluster) };
    probe(&both).await.expect("the other one knows");
    let node = connected(RedisStore::start(both).expect("a good URL")).await;
    assert!(look(&node, &alias(shard, 40)).await.is_some());
    let lost = probe(&only).await;
    assert!(matches!(lost, Err(ProbeError::Unreachable(..))), "{lost:?}");
}

async fn the_loss_of_a_primary_concerns_its_shards(mut cluster: Cluster) {
    let settings = Settings { outage_budget_ms: 20_000, ..on(&cluster) };
    let node = connected(RedisStore::start(settings).expect("a good URL")).await;
    let mount = tokio::task::block_in_place(|| Mount::start_on(&cluster.url(), ""));
    let [lost, _, well] = shards(&cluster);
    for (number, shard) in [(0, lost), (0, well)] {
        taken(&node, &login(&node, &alias(shard, 30 + number))).await;
    }
    let primary = cluster.primary_of(&index_key(lost));
    let replica = &cluster.servers[primary + 3].redis;
    let _: String = replica.run("CONFIG SET cluster-replica-no-failover yes");
    cluster.servers[primary].redis.kill();
    until("the loss is noticed", || node.health(Shard::parse(lost)) == Health::Down).await;
    assert_eq!(node.health(Shard::parse(well)), Health::Up);
    assert_eq!(node.health(None), Health::Down);
    assert!(node.outage().is_some());
    assert_eq!(node.whole_outage(), None);
    assert!(look(&node, &alias(well, 30)).await.is_some());
    let lost_at = cluster.servers[primary].at();
    tokio::task::block_in_place(|| {
        it_is_seen_which_server_is_lost(&mount, &lost_at);
        // This thread has opened nothing: it is not known of which shard its session is.
        mount.save(&sid(well, 80), &authenticated("note")).expect("saved");
        mount.save(&sid(lost, 80), &authenticated("kept")).expect("saved");
    });
    let replica = &cluster.servers[primary + 3].redis;
    let _: String = replica.run("CONFIG SET cluster-replica-no-failover no");
    until("the replica is promoted", || cluster.servers[primary + 3].is_master()).await;
    let promoted = Instant::now();
    while node.wait_up(wait(lost)).await != Waited::Up {}
    assert!(promoted.elapsed() < Duration::from_secs(1), "{:?}", promoted.elapsed());
    taken(&node, &login(&node, &alias(lost, 31))).await;
    assert!(look(&node, &alias(lost, 30)).await.is_some());
    tokio::task::block_in_place(|| {
        assert_eq!(mount.read(&sid(lost, 80)).expect("read"), authenticated("kept"));
        its_outage_is_one_line_of_the_log(mount, &lost_at);
    });
}

fn it_is_seen_which_server_is_lost(mount: &Mount, lost: &str) {
    let state = |server: &str, state: &str| {
        let line =
            format!("sessionfs_redis_server_link_state{{server=\"{server}\",state=\"{state}\"}}");
        metric(mount, &line)
    };
    http::until("its loss is counted", || state(lost, "down") == Some(1.0));
    let metrics = get(mount, "/metrics");
    let up = "state=\"up\"} 1";
    let others = metrics.lines().filter(|line| line.contains("server=") && line.ends_with(up));
    assert_eq!(others.count(), 2, "{metrics}");
    assert_eq!(metric(mount, "sessionfs_redis_link_down_total"), Some(1.0));
    let output = Command::new(env!("CARGO_BIN_EXE_sessionfs"))
        .args(["status".into(), mount.path()])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&format!("{lost} is down")), "{text}");
}

/// A start is none.
fn its_outage_is_one_line_of_the_log(mount: Mount, lost: &str) {
    mount.wait_for_log("lasted_ms");
    let log = mount.stop();
    let of_link: Vec<_> = log
        .lines()
        .filter(|line| line.contains("event=\"link\"") && !line.contains("DEBUG"))
        .collect();
    let down: Vec<_> = of_link.iter().filter(|line| !line.contains("state=\"up\"")).collect();
    assert!(down.len() == 1 && down[0].contains(lost), "{of_link:#?}");
    let up: Vec<_> = of_link.iter().filter(|line| line.contains("lasted_ms")).collect();
    assert!(up.len() == 1 && up[0].contains("seen=\""), "{of_link:#?}");
}
