//! The audit trail on a real Redis: each life of somebody's session has one beginning and one end, whatever happens.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sessionfs::redis::scripts::Scripts;
use sessionfs::redis::{Origin, RedisStore, Settings};
use sessionfs::session::content::Class;
use sessionfs::session::name::Alias;
use sessionfs::session::policy::Lifetimes;
use sessionfs::session::policy::rule::{Rule, Selector, Setting, Source};
use sessionfs::store::{ChangeId, Published, Sessions as _, Unlink, Unlinked};
use sessionfs::trail::Trail;
use sessionfs::trail::entry::{Entry, Event};
use support::mount::{self, Mount, authenticated, sid};
use support::redis::Redis;
use support::store::*;
use tempfile::TempDir;

/// Longer than a sweep and a lease of these tests.
const SOON: Duration = Duration::from_secs(15);
const LEASE_MS: u64 = 4000;

/// A server that writes the trail of its Redis to a file.
struct Server {
    store: RedisStore,
    file: std::path::PathBuf,
}

impl Server {
    async fn start(redis: &Redis, directory: &TempDir, name: &str) -> Self {
        Self::start_with(redis, directory, name, Lifetimes::default(), 1 << 30).await
    }

    async fn start_with(
        redis: &Redis,
        directory: &TempDir,
        name: &str,
        lifetimes: Lifetimes,
        max_bytes: u64,
    ) -> Self {
        let store = store(redis, name, None, lifetimes).await;
        let file = directory.path().join(format!("{name}.jsonl"));
        store.keep_trail(Trail::to(opened(&file), max_bytes).expect("a thread"));
        Self { store, file }
    }

    fn entries(&self) -> Vec<Entry> {
        entries(&self.file)
    }

    /// Waits until the file has what is looked for.
    async fn until(&self, what: &str, is_there: impl Fn(&[Entry]) -> bool) -> Vec<Entry> {
        let deadline = Instant::now() + SOON;
        loop {
            let entries = self.entries();
            if is_there(&entries) {
                return entries;
            }
            assert!(Instant::now() < deadline, "no {what} in {entries:#?}");
            // Another process's file: there is no event to wait for.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn store(redis: &Redis, name: &str, by: Option<&str>, lifetimes: Lifetimes) -> RedisStore {
    let settings = Settings {
        lifetimes,
        trail_round_ms: 1000,
        trail_lease_ms: LEASE_MS,
        origin: Origin { server: name.into(), by: by.map(Into::into) },
        ..settings(redis)
    };
    connected(RedisStore::start_with(settings, Scripts::with_clock(CLOCK)).expect("a good URL"))
        .await
}

fn opened(file: &Path) -> OwnedFd {
    std::fs::File::options().append(true).create(true).open(file).expect("a file").into()
}

fn entries(file: &Path) -> Vec<Entry> {
    let text = std::fs::read(file).unwrap_or_default();
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            Entry::parse(line).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(line)))
        })
        .collect()
}

fn of<'a>(entries: &'a [Entry], events: &'a [Event]) -> impl Iterator<Item = &'a Entry> {
    entries.iter().filter(move |entry| events.contains(&entry.event))
}

fn count(entries: &[Entry], event: Event) -> usize {
    of(entries, &[event]).count()
}

fn reasons(entries: &[Entry], event: Event) -> Vec<&str> {
    let of_event = entries.iter().filter(|entry| entry.event == event);
    of_event.map(|entry| entry.reason.as_deref().unwrap_or("-")).collect()
}

fn life(birth: ChangeId) -> String {
    format!("{:032x}", birth.0)
}

#[tokio::test]
async fn a_login_and_its_end_are_told_with_whose_they_were() {
    let (redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
    let server = Server::start(&redis, &directory, "web1").await;
    let (idle, out, visitor) = (alias("ab", 1), alias("cd", 2), alias("ef", 3));
    let born = taken(&server.store, &login(&server.store, &idle)).await;
    let logged_out = taken(&server.store, &login(&server.store, &out)).await;
    taken(&server.store, &visit(&server.store, &visitor)).await;
    gone(&server.store, &removal(&server.store, &out)).await;
    pass(&redis, 15 * MINUTE);
    // Nobody looks at it.
    let found = server.until("two ends", |found| count(found, Event::SessionEnded) == 2).await;
    let state = of(&found, &[Event::State]).next().expect("what holds");
    assert_eq!(state.lifetimes, Some(Lifetimes::default()));
    assert_eq!(reasons(&found, Event::SessionBegan), ["login", "login"]);
    assert_eq!(reasons(&found, Event::SessionEnded), ["logout", "idle"]);
    let ended: Vec<_> = of(&found, &[Event::SessionEnded]).collect();
    let expected = [(&out, logged_out.birth), (&idle, born.birth)];
    for (entry, (alias, birth)) in ended.iter().zip(expected) {
        assert_eq!(entry.alias.as_deref(), Some(alias.as_str()));
        assert_eq!(entry.life.as_deref(), Some(&*life(birth)));
        assert_eq!(
            (entry.database.as_deref(), entry.login.as_deref()),
            (Some("shop"), Some("admin"))
        );
        assert_eq!(
            (entry.user_id, entry.server.as_deref(), &entry.by),
            (Some(7), Some("web1"), &None)
        );
    }
    let (age, idle) = (ended[1].age_ms.expect("an age"), ended[1].idle_ms.expect("an idle time"));
    assert!((15 * MINUTE..16 * MINUTE).contains(&age) && age == idle, "{age} {idle}");
    until("an empty outbox", || redis.run::<u64>("ZCARD sessionfs:trail") == 0).await;
}

#[tokio::test]
async fn the_absolute_lifetime_of_somebody_who_is_active_ends_without_a_look() {
    let (redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
    let limits = Lifetimes { absolute_ms: Some(20 * MINUTE), ..Lifetimes::default() };
    let server = Server::start_with(&redis, &directory, "web1", limits, 1 << 30).await;
    let sid = alias("ab", 1);
    taken(&server.store, &login(&server.store, &sid)).await;
    pass(&redis, 10 * MINUTE);
    use_it(&server.store, &sid).await;
    server.until("a beginning", |found| count(found, Event::SessionBegan) == 1).await;
    pass(&redis, 10 * MINUTE);
    let found = server.until("an end", |found| count(found, Event::SessionEnded) == 1).await;
    assert_eq!(reasons(&found, Event::SessionEnded), ["absolute"]);
}

#[tokio::test]
async fn a_rotation_a_refusal_and_a_kill_are_told() {
    let (redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
    let server = Server::start(&redis, &directory, "web1").await;
    let store1 = &server.store;
    let (old, new) = (alias("ab", 1), alias("ab", 2));
    let born = taken(store1, &login(store1, &old)).await;
    taken(store1, &rotated(store1, &new, &old)).await;
    // Odoo removes the old one by the name that it has listed.
    let listed = Unlink { listed: Some(old.clone()), ..removal(store1, &alias("ab", 9)) };
    assert!(matches!(store1.unlink(&listed).await, Ok(Unlinked::Gone { .. })));
    refused(store1, &page(store1, &old, born.birth)).await;
    let typed =
        store(&redis, "web2", Some("root (sudo: anna) on /dev/pts/0"), Lifetimes::default());
    let typed = typed.await;
    gone(&typed, &removal(&typed, &new)).await;
    typed
        .tell_trail(Event::Command, "kill: ended 1 session (--login 'admin')", Some(1))
        .await
        .expect("told");
    let found = server.until("a command", |found| count(found, Event::Command) == 1).await;
    let rotation = of(&found, &[Event::SessionRotated]).next().expect("a rotation");
    assert_eq!(rotation.from.as_deref(), Some(old.as_str()));
    assert_eq!(rotation.alias.as_deref(), Some(new.as_str()));
    assert_eq!(reasons(&found, Event::SessionEnded), ["removed", "killed"]);
    assert_eq!(reasons(&found, Event::SaveRefused), ["ended"]);
    let refusal = of(&found, &[Event::SaveRefused]).next().expect("a refusal");
    assert_eq!((refusal.login.as_deref(), refusal.user_id), (Some("admin"), Some(7)));
    let killed = of(&found, &[Event::SessionEnded]).last().expect("an end");
    assert_eq!(killed.by.as_deref(), Some("root (sudo: anna) on /dev/pts/0"));
    let command = of(&found, &[Event::Command]).next().expect("a command");
    assert_eq!((command.by.as_deref(), command.count), (killed.by.as_deref(), Some(1)));
    assert_eq!(command.server.as_deref(), Some("web2"));
}

/// Odoo's `/web/become`: another user in the same life.
#[tokio::test]
async fn a_session_that_becomes_another_users_is_told_with_both() {
    let (redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
    let server = Server::start(&redis, &directory, "web1").await;
    let sid = alias("ab", 1);
    let born = taken(&server.store, &login(&server.store, &sid)).await;
    taken(&server.store, &page(&server.store, &sid, born.birth)).await;
    let mut become_root = page(&server.store, &sid, born.birth);
    (become_root.content.uid, become_root.content.login) = (Some(1), Some("__system__".into()));
    taken(&server.store, &become_root).await;
    published(&server.store, &again(&become_root)).await.expect("answered");
    gone(&server.store, &removal(&server.store, &sid)).await;
    let found = server.until("an end", |found| count(found, Event::SessionEnded) == 1).await;
    let changed: Vec<_> = of(&found, &[Event::IdentityChanged]).collect();
    assert_eq!(changed.len(), 1, "{found:#?}");
    assert_eq!((changed[0].login.as_deref(), changed[0].user_id), (Some("__system__"), Some(1)));
    let former = changed[0].former.as_ref().expect("whose it was");
    assert_eq!((former.login.as_deref(), former.user_id), (Some("admin"), Some(7)));
    assert_eq!(changed[0].life.as_deref(), Some(&*life(born.birth)));
    assert_eq!(count(&found, Event::SessionBegan), 1);
}

/// What the random run has seen of the lives of people.
#[derive(Default)]
struct Seen {
    /// The life that a name has, as far as the run knows.
    lives: BTreeMap<Alias, ChangeId>,
    /// Every life that a save has begun.
    births: BTreeMap<String, Alias>,
}

impl Seen {
    fn saved(&mut self, alias: &Alias, birth: ChangeId, class: Class) {
        self.lives.remove(alias);
        if class == Class::Authenticated {
            self.lives.insert(alias.clone(), birth);
            self.births.insert(life(birth), alias.clone());
        }
    }
}

/// One change by one of two servers. Each is perhaps sent twice, as after a lost answer.
async fn change(
    redis: &Redis,
    store: &RedisStore,
    random: &mut StdRng,
    seen: &mut Seen,
    step: u32,
) {
    // A name that has ended is not taken again for a while, so there are always new ones.
    let shard = ["ab", "cd"][random.random_range(0..2)];
    let name = |random: &mut StdRng| {
        let oldest = (step / 4).saturating_sub(8);
        alias(shard, random.random_range(oldest..oldest + 16))
    };
    let (sid, other) = (name(random), name(random));
    let is_twice = random.random_bool(0.3);
    let publish = match random.random_range(0..8) {
        0 | 1 => login(store, &sid),
        2 if other != sid => rotated(store, &sid, &other),
        3 => visit(store, &sid),
        4 | 5 => match seen.lives.get(&sid) {
            Some(birth) => page(store, &sid, *birth),
            None => return,
        },
        6 => {
            let removal = match random.random_range(0..2) {
                0 => removal(store, &sid),
                _ => Unlink { listed: Some(sid.clone()), ..removal(store, &alias("ab", 99)) },
            };
            let removal =
                if sid.as_str().starts_with("ab") { removal } else { self::removal(store, &sid) };
            store.unlink(&removal).await.expect("answered");
            if is_twice {
                let again = Unlink { stamp: removal.stamp.again(), ..removal };
                store.unlink(&again).await.expect("answered");
            }
            seen.lives.remove(&sid);
            return;
        }
        _ => {
            pass(redis, random.random_range(1..8) * MINUTE);
            hear(store).await;
            return;
        }
    };
    let class = publish.content.class;
    match published(store, &publish).await.expect("answered") {
        Published::Taken(meta) => seen.saved(&sid, meta.birth, class),
        _ => return,
    }
    if is_twice {
        published(store, &again(&publish)).await.expect("answered");
    }
}

#[tokio::test]
async fn each_life_has_one_beginning_and_one_end_in_any_run() {
    let number = std::env::var("SESSIONFS_TEST_SEED")
        .map_or_else(|_| rand::random(), |text| text.parse().expect("a number"));
    println!("SESSIONFS_TEST_SEED={number}");
    let mut random = StdRng::seed_from_u64(number);
    let (redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
    let one = Server::start(&redis, &directory, "web1").await;
    let two = store(&redis, "web2", None, Lifetimes::default()).await;
    let mut seen = Seen::default();
    for step in 0..600 {
        let server = if random.random_bool(0.5) { &one.store } else { &two };
        change(&redis, server, &mut random, &mut seen, step).await;
    }
    pass(&redis, DAY);
    let expected = seen.births.len();
    let found =
        one.until("end of each", |found| count(found, Event::SessionEnded) >= expected).await;
    let lives = |events: &[Event]| -> Vec<(String, String)> {
        let mut lives: Vec<_> = of(&found, events)
            .map(|entry| {
                (entry.life.clone().expect("a life"), entry.alias.clone().expect("an alias"))
            })
            .collect();
        lives.sort_unstable();
        lives
    };
    let expected: Vec<_> =
        seen.births.into_iter().map(|(life, alias)| (life, alias.to_string())).collect();
    assert_eq!(lives(&[Event::SessionBegan, Event::SessionRotated]), expected);
    assert_eq!(lives(&[Event::SessionEnded]), expected);
    assert!(expected.len() > 50, "only {} lives", expected.len());
}

#[tokio::test]
async fn a_removal_that_is_held_ends_once_and_one_that_is_taken_back_does_not() {
    let (redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
    let server = Server::start(&redis, &directory, "web1").await;
    let store1 = &server.store;
    let (kept, ended) = (alias("ab", 1), alias("ab", 2));
    for (sid, is_kept) in [(&kept, true), (&ended, false)] {
        let born = taken(store1, &login(store1, sid)).await;
        let held = Unlink {
            listed: Some(sid.clone()),
            held: Some(born.birth),
            ..removal(store1, &alias("ab", 9))
        };
        assert!(matches!(store1.unlink(&held).await, Ok(Unlinked::Held { .. })));
        if is_kept {
            let save = claiming(page(store1, sid, born.birth), |claim| {
                claim.held_removal = Some(held.stamp.id);
            });
            taken(store1, &save).await;
        }
    }
    pass(&redis, 2 * MINUTE);
    assert_eq!(look(store1, &ended).await, None);
    look(store1, &kept).await.expect("alive");
    let found = server.until("an end", |found| count(found, Event::SessionEnded) == 1).await;
    assert_eq!(reasons(&found, Event::SessionEnded), ["removed"]);
    assert_eq!(count(&found, Event::SessionBegan), 2);
}

/// It was made before an outage, and is sent after it.
#[tokio::test]
async fn a_logout_that_is_late_is_told_with_the_ages_of_when_it_was_made() {
    let (redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
    let server = Server::start(&redis, &directory, "web1").await;
    let sid = alias("ab", 1);
    taken(&server.store, &login(&server.store, &sid)).await;
    let made = removal(&server.store, &sid);
    pass(&redis, 10 * MINUTE);
    gone(&server.store, &Unlink { stamp: made.stamp.again(), ..made }).await;
    let found = server.until("an end", |found| count(found, Event::SessionEnded) == 1).await;
    let ended = of(&found, &[Event::SessionEnded]).next().expect("an end");
    assert!(ended.idle_ms.is_some_and(|ms| ms < MINUTE), "{ended:?}");
    assert!(ended.age_ms.is_some_and(|ms| ms < MINUTE), "{ended:?}");
}

/// How often members of sorted sets were asked for.
fn reads(redis: &Redis) -> u32 {
    let stats: String = redis.run("INFO commandstats");
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_zrangebyscore:"));
    let calls = line.and_then(|line| line.strip_prefix("calls=")?.split(',').next());
    calls.map_or(0, |calls| calls.parse().expect("a number"))
}

/// The outbox is full while a page of it is being written.
#[tokio::test]
async fn what_is_left_out_meanwhile_is_counted_too() {
    let redis = Redis::start();
    let (mut ours, theirs) = UnixStream::pair().expect("a socket");
    ours.set_nonblocking(true).expect("set");
    while ours.write(&[b'\n'; 4096]).is_ok() {}
    ours.set_nonblocking(false).expect("set");
    let _: u64 = redis.run("ZADD sessionfs:trail -3 -");
    let store = store(&redis, "web1", None, Lifetimes::default()).await;
    store.keep_trail(Trail::to(ours.into(), 0).expect("a thread"));
    // It comes to the sweep, which reads more, when that is written.
    until("the page is read", || reads(&redis) > 0).await;
    let counted: f64 = redis.run("ZINCRBY sessionfs:trail -2 -");
    let left_out = tokio::task::spawn_blocking(move || {
        let lines = std::io::BufReader::new(theirs).lines().map(|line| line.expect("a line"));
        let entries = lines.filter_map(|line| Entry::parse(line.as_bytes()));
        let left_out = entries.filter(|entry| entry.event == Event::LeftOut);
        left_out.filter_map(|entry| entry.count).take(2).collect::<Vec<_>>()
    });
    let left_out = tokio::time::timeout(SOON, left_out).await.expect("both").expect("read");
    assert_eq!((counted, left_out), (-5.0, vec![3, 2]));
    until("nothing is left", || redis.run::<u64>("ZCARD sessionfs:trail") == 0).await;
}

#[tokio::test]
async fn what_redis_forgets_by_itself_is_an_end_without_a_name() {
    let (redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
    let server = Server::start(&redis, &directory, "web1").await;
    let sid = alias("ab", 1);
    taken(&server.store, &login(&server.store, &sid)).await;
    let deleted: u64 = redis.run(&format!("DEL sessionfs:s:{{ab}}:{sid}"));
    assert_eq!(deleted, 1);
    pass(&redis, HOUR);
    let found = server.until("an end", |found| count(found, Event::SessionEnded) == 1).await;
    let ended = of(&found, &[Event::SessionEnded]).next().expect("an end");
    assert_eq!(
        (ended.reason.as_deref(), ended.alias.as_deref()),
        (Some("lost"), Some(sid.as_str()))
    );
    assert_eq!((&ended.login, &ended.life, ended.age_ms), (&None, &None, None));
}

#[tokio::test]
async fn one_server_writes_and_another_goes_on_when_it_dies_or_leaves() {
    let (redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
    let [one, two, three] =
        ["web1", "web2", "web3"].map(|name| Server::start(&redis, &directory, name));
    let one = one.await;
    let is_there = |found: &[Entry]| count(found, Event::State) == 1;
    one.until("state", is_there).await;
    let two = two.await;
    taken(&two.store, &login(&two.store, &alias("ab", 1))).await;
    one.until("a beginning", |found| count(found, Event::SessionBegan) == 1).await;
    assert_eq!(two.entries(), []);
    // It dies.
    let file = one.file.clone();
    drop(one);
    taken(&two.store, &login(&two.store, &alias("ab", 2))).await;
    two.until("a beginning", |found| count(found, Event::SessionBegan) == 1).await;
    let three = three.await;
    // It stops in order.
    let since = Instant::now();
    taken(&two.store, &login(&two.store, &alias("ab", 3))).await;
    two.store.leave_trail().await;
    assert_eq!(count(&two.entries(), Event::SessionBegan), 2);
    taken(&two.store, &login(&two.store, &alias("ab", 4))).await;
    three.until("a beginning", |found| count(found, Event::SessionBegan) == 1).await;
    assert!(since.elapsed() < SOON);
    // None was written twice.
    assert_eq!(count(&entries(&file), Event::SessionBegan), 1);
    assert_eq!(count(&two.entries(), Event::SessionBegan), 2);
    let lost = [&file, &two.file, &three.file].map(|file| count(&entries(file), Event::RedisLost));
    assert_eq!(lost, [0, 0, 0]);
}

#[tokio::test]
async fn a_server_with_a_file_goes_before_one_without() {
    let (redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
    let without = store(&redis, "web1", None, Lifetimes::default()).await;
    without.keep_trail(Trail::default());
    let deadline = Instant::now() + SOON;
    while redis.run::<Option<String>>("GET sessionfs:trail-lease").is_none() {
        assert!(Instant::now() < deadline, "nobody has the lease");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let keeping = without.trail_keeping().await.expect("an answer");
    assert_eq!((keeping.writer.as_deref(), keeping.has_file), (Some("web1"), false));
    let server = Server::start(&redis, &directory, "web2").await;
    server.until("state", |found| count(found, Event::State) == 1).await;
    let keeping = without.trail_keeping().await.expect("an answer");
    assert_eq!((keeping.writer.as_deref(), keeping.has_file), (Some("web2"), true));
    taken(&without, &login(&without, &alias("ab", 1))).await;
    server.until("a beginning", |found| count(found, Event::SessionBegan) == 1).await;
}

#[tokio::test]
async fn what_redis_loses_as_a_whole_is_told_with_a_count() {
    let (redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
    let server = Server::start(&redis, &directory, "web1").await;
    server.until("state", |found| count(found, Event::State) == 1).await;
    for number in 0..5 {
        taken(&server.store, &login(&server.store, &alias("ab", number))).await;
    }
    gone(&server.store, &removal(&server.store, &alias("ab", 0))).await;
    server.until("an end", |found| count(found, Event::SessionEnded) == 1).await;
    let _: String = redis.run("FLUSHALL");
    let found = server.until("a loss", |found| count(found, Event::RedisLost) == 1).await;
    let lost = of(&found, &[Event::RedisLost]).next().expect("a loss");
    assert_eq!(lost.count, Some(4), "{found:#?}");
    // It goes on.
    taken(&server.store, &login(&server.store, &alias("ab", 7))).await;
    server.until("a beginning", |found| count(found, Event::SessionBegan) == 6).await;
}

/// Neither a clock that moves nor somebody who deletes the lease is a loss: the sessions are there.
#[tokio::test]
async fn a_lease_that_is_gone_alone_is_no_loss() {
    let (redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
    let server = Server::start(&redis, &directory, "web1").await;
    server.until("state", |found| count(found, Event::State) == 1).await;
    for number in 0..5 {
        taken(&server.store, &login(&server.store, &alias("ab", number))).await;
    }
    server.until("beginnings", |found| count(found, Event::SessionBegan) == 5).await;
    // Longer than a lease, forward and back.
    for (step, by_ms) in [(6, 60_000_i64), (7, -50_000)] {
        let _: i64 = redis.run(&format!("INCRBY test:clock {by_ms}"));
        taken(&server.store, &login(&server.store, &alias("ab", step))).await;
        let began = usize::try_from(step).expect("small");
        server.until("a beginning", |found| count(found, Event::SessionBegan) == began).await;
    }
    let deleted: u64 = redis.run("DEL sessionfs:trail-lease");
    assert_eq!(deleted, 1);
    taken(&server.store, &login(&server.store, &alias("ab", 8))).await;
    let found = server.until("a beginning", |found| count(found, Event::SessionBegan) == 8).await;
    assert_eq!(count(&found, Event::RedisLost), 0, "{found:#?}");
}

#[tokio::test]
async fn a_file_that_takes_nothing_loses_nothing() {
    let (redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
    let server = Server::start_with(&redis, &directory, "web1", Lifetimes::default(), 4000).await;
    server.until("state", |found| count(found, Event::State) == 1).await;
    // There is room for ten entries if there is nothing else.
    let filled = std::fs::metadata(&server.file).expect("a file").len();
    std::fs::write(
        &server.file,
        format!("{}\n", " ".repeat(3900 - usize::try_from(filled).expect("small"))),
    )
    .expect("filled");
    for number in 0..10 {
        taken(&server.store, &login(&server.store, &alias("ab", number))).await;
    }
    let deadline = Instant::now() + SOON;
    while redis.run::<u64>("ZCARD sessionfs:trail") < 5 {
        assert!(Instant::now() < deadline, "nothing waits");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Whoever rotates it by copying makes room.
    std::fs::File::options().write(true).open(&server.file).expect("it").set_len(0).expect("empty");
    let found = server.until("all of them", |found| count(found, Event::SessionBegan) == 10).await;
    assert_eq!(count(&found, Event::SessionBegan), 10);
}

#[tokio::test]
async fn a_flood_of_visitors_is_not_in_it_and_a_full_outbox_says_what_it_left_out() {
    let redis = Redis::start();
    let directory = TempDir::new().expect("a directory");
    let plain = store(&redis, "web1", None, Lifetimes::default()).await;
    for number in 0..200 {
        taken(&plain, &visit(&plain, &alias("ab", number))).await;
    }
    assert_eq!(redis.run::<u64>("EXISTS sessionfs:trail"), 0);
    // A comment is a blank that does not divide words.
    let fill = "for i=1,50000 do redis.call('ZADD','sessionfs:trail',i,'x'..i) end";
    let _: Option<u64> = redis.run(&format!("EVAL {} 0", fill.replace(' ', "--[[]]")));
    for number in 300..303 {
        taken(&plain, &login(&plain, &alias("ab", number))).await;
    }
    assert_eq!(redis.run::<u64>("ZCARD sessionfs:trail"), 50_001);
    // What has a time to live is evicted before all else.
    assert_eq!(redis.run::<i64>("PTTL sessionfs:trail"), -1);
    let server = Server::start(&redis, &directory, "web2").await;
    let found = server.until("what is left out", |found| count(found, Event::LeftOut) >= 2).await;
    let is_full = of(&found, &[Event::LeftOut])
        .find(|entry| entry.reason.as_deref() == Some("the outbox in Redis was full"))
        .expect("what the outbox left out");
    assert_eq!(is_full.count, Some(3));
    taken(&plain, &login(&plain, &alias("ab", 400))).await;
    server.until("a beginning", |found| count(found, Event::SessionBegan) == 1).await;
    let found = server.entries();
    let strange: u64 = of(&found, &[Event::LeftOut]).filter_map(|entry| entry.count).sum();
    assert_eq!(strange, 50_003);
}

#[tokio::test]
async fn after_a_jump_of_the_clock_nothing_is_swept() {
    let (redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
    let heeding = Settings { trail_round_ms: 1000, trail_lease_ms: LEASE_MS, ..settings(&redis) };
    let scripts = Scripts::with_clock(CLOCK).heeding_jumps();
    let heeding = connected(RedisStore::start_with(heeding, scripts).expect("a good URL")).await;
    let file = directory.path().join("trail.jsonl");
    heeding.keep_trail(Trail::to(opened(&file), 1 << 30).expect("a thread"));
    let server = Server { store: heeding, file };
    let sid = alias("ab", 1);
    taken(&server.store, &login(&server.store, &sid)).await;
    server.until("a beginning", |found| count(found, Event::SessionBegan) == 1).await;
    pass(&redis, 2 * HOUR);
    // Some rounds of the sweep: it would be told within one.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(count(&server.entries(), Event::SessionEnded), 0);
    look(&server.store, &sid).await.expect("alive");
}

/// Rules with as many idle times, each for a login, of whole minutes from the second one on.
fn ladder(times: u64) -> Vec<Rule> {
    let rule = |number: u64| {
        let login = format!("u{number}");
        let selector = Selector::new(None, Some(&login), None).expect("a selector");
        let ms = Some((number + 2) * MINUTE);
        Rule::new(Setting::Idle, selector, ms, Source::File).expect("a rule")
    };
    (0..times).map(rule).collect()
}

async fn with_rules(redis: &Redis, directory: &TempDir, rules: Vec<Rule>, round_ms: u64) -> Server {
    let settings = Settings {
        rules,
        trail_round_ms: round_ms,
        trail_lease_ms: LEASE_MS,
        origin: Origin { server: "web1".into(), by: None },
        ..settings(redis)
    };
    let scripts = Scripts::with_clock(CLOCK);
    let store = connected(RedisStore::start_with(settings, scripts).expect("a good URL")).await;
    let file = directory.path().join(format!("{}.jsonl", rand::random::<u64>()));
    store.keep_trail(Trail::to(opened(&file), 1 << 30).expect("a thread"));
    Server { store, file }
}

#[tokio::test]
async fn each_of_many_idle_times_ends_without_a_look() {
    let (redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
    let server = with_rules(&redis, &directory, ladder(12), 1000).await;
    for number in 0..12 {
        let shard = if number % 2 == 0 { "ab" } else { "cd" };
        let mut login = login(&server.store, &alias(shard, number));
        login.content.login = Some(format!("u{number}"));
        taken(&server.store, &login).await;
    }
    pass(&redis, MINUTE);
    for ended in 0..12 {
        pass(&redis, MINUTE);
        let found = server.until("an end", |found| count(found, Event::SessionEnded) > ended).await;
        let last = of(&found, &[Event::SessionEnded]).last().expect("an end");
        assert_eq!(last.login.as_deref(), Some(&*format!("u{ended}")), "{found:#?}");
        assert_eq!(count(&found, Event::SessionEnded), ended + 1);
    }
}

/// Prints what the documentation says of the reads that the sweep takes.
#[tokio::test]
async fn the_sweep_reads_no_more_for_many_idle_times_than_for_a_few() {
    for (times, reads_max) in [(1, 700), (3, 2000), (20, 2700), (200, 2700)] {
        let (redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
        // The general idle time is one more.
        let rules = ladder(times - 1);
        let server = with_rules(&redis, &directory, rules, Settings::default().trail_round_ms);
        let server = server.await;
        server.until("state", |found| count(found, Event::State) == 1).await;
        let (before, began) = (reads(&redis), Instant::now());
        tokio::time::sleep(Duration::from_secs(6)).await; // what is measured is a rate
        let a_second = f64::from(reads(&redis) - before) / began.elapsed().as_secs_f64();
        println!("{times} idle times: {a_second:.0} reads a second");
        assert!(a_second > 300.0 && a_second < f64::from(reads_max), "{times}: {a_second}");
    }
}

/// A real mount whose trail is a file.
fn mounted(redis: &Redis, file: &Path) -> Mount {
    Mount::start(redis, &format!("[audit]\ntrail = \"{}\"\n", file.display()))
}

fn written(file: &Path, what: &str, is_there: impl Fn(&[Entry]) -> bool) -> Vec<Entry> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let entries = entries(file);
        if is_there(&entries) {
            return entries;
        }
        assert!(Instant::now() < deadline, "no {what} in {entries:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn typed(redis: &Redis, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sessionfs"))
        .args(arguments)
        .args(["--redis", &redis.url()])
        .env("SUDO_USER", "anna\u{1b}[2J")
        .output()
        .expect("sessionfs starts");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn a_mount_tells_what_happens_to_it_and_a_worker_that_dies_repeats_nothing() {
    let (redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
    let file = directory.path().join("trail.jsonl");
    let mount = mounted(&redis, &file);
    written(&file, "state", |found| count(found, Event::State) == 1);
    let sids: Vec<String> = (0..6).map(|number| sid("ab", number)).collect();
    for (number, sid) in sids.iter().enumerate() {
        mount.save(sid, &authenticated("login")).expect("saved");
        if number % 2 == 0 {
            let worker = Pid::from_raw(i32::try_from(mount.worker()).expect("a pid"));
            kill(worker, Signal::SIGKILL).expect("killed");
            mount.save(sid, &authenticated("a page")).expect("saved by the next worker");
        }
    }
    let status = Command::new(env!("CARGO_BIN_EXE_sessionfs"))
        .args(["status".into(), mount.path()])
        .output()
        .expect("sessionfs starts");
    let status = String::from_utf8_lossy(&status.stdout);
    let says = format!("  trail     in {}, written by ", file.display());
    assert!(status.contains(&says) && !status.contains("audit.trail on each"), "{status}");
    mount.unlink(&sids[0]).expect("a logout");
    typed(&redis, &["kill", "--yes", &mount::alias(&sids[1])]);
    typed(&redis, &["config", "set", "lifetime.idle", "20min"]);
    let ended = |found: &[Entry]| count(found, Event::SessionEnded) == 2;
    written(&file, "two ends", ended);
    let found =
        written(&file, "a changed setting", |found| count(found, Event::SettingChanged) == 1);
    let mut lives: Vec<_> = of(&found, &[Event::SessionBegan]).map(|entry| &entry.alias).collect();
    lives.sort_unstable();
    lives.dedup();
    assert_eq!((lives.len(), count(&found, Event::SessionBegan)), (6, 6), "{found:#?}");
    assert_eq!(reasons(&found, Event::SessionEnded), ["logout", "killed"]);
    let setting = of(&found, &[Event::SettingChanged]).next().expect("a setting");
    assert_eq!(setting.what.as_deref(), Some("config: lifetime.idle: 15min -> 20min"));
    let by = setting.by.as_deref().expect("somebody");
    assert!(by.starts_with("root (sudo: anna\\u{1b}[2J)"), "{by}");
    assert_eq!(count(&found, Event::Command), 1);
    // In the log, too, and no session id in either.
    mount.wait_for_log("sessionfs::trail: event=\"session_ended\" reason=\"killed\"");
    let (log, trail) = (mount.log(), std::fs::read_to_string(&file).expect("a trail"));
    for sid in &sids {
        assert!(!log.contains(sid) && !trail.contains(sid));
    }
    // What holds is told when it changes.
    written(&file, "another state", |found| count(found, Event::State) >= 2);
    let report = Command::new(env!("CARGO_BIN_EXE_sessionfs"))
        .args(["report", "--from", "1h", "--format", "json"])
        .arg(&file)
        .output()
        .expect("sessionfs starts");
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).expect("JSON");
    assert_eq!((&report["began"]["login"], &report["ended"]["killed"]), (&6.into(), &1.into()));
    assert_eq!((&report["unreadable"], &report["left_out"]), (&0.into(), &0.into()), "{report:#}");
    mount.stop();
}

#[test]
fn what_redis_did_not_take_is_told_when_it_does() {
    let (mut redis, directory) = (Redis::start(), TempDir::new().expect("a directory"));
    let file = directory.path().join("trail.jsonl");
    let mount = mounted(&redis, &file);
    let [login, logout] = [1, 2].map(|number| sid("ab", number));
    mount.save(&logout, &authenticated("login")).expect("saved");
    written(&file, "a beginning", |found| count(found, Event::SessionBegan) == 1);
    std::fs::create_dir_all(mount.sharded(&login).parent().expect("a shard")).expect("a shard");
    let staged = mount.stage(&authenticated("login")).expect("staged");
    // What is sent meanwhile is carried out later, and sent once more.
    redis.pause();
    std::fs::rename(staged, mount.sharded(&login)).expect("kept on this host");
    mount.unlink(&logout).expect("kept on this host");
    std::thread::sleep(Duration::from_secs(4)); // an outage that is told
    redis.resume();
    let found = written(&file, "both", |found| {
        count(found, Event::SessionBegan) == 2 && count(found, Event::SessionEnded) == 1
    });
    assert_eq!(reasons(&found, Event::SessionEnded), ["logout"]);
    let found = written(&file, "the outage", |found| count(found, Event::NothingEnded) == 1);
    assert_eq!(reasons(&found, Event::NothingEnded), ["Redis does not answer"]);
    mount.stop();
}
