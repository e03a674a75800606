//! What a worker knows of Redis's time, and of its outages, the next one knows, too.

mod support;

use std::os::fd::OwnedFd;

use sessionfs::handoff::{self, Kept};
use sessionfs::redis::scripts::Scripts;
use sessionfs::redis::{RedisStore, Settings};
use sessionfs::session::policy::Lifetimes;
use sessionfs::store::{Health, Link as _, Published, Sessions as _, Wait, Waited};
use support::redis::Redis;
use support::store::*;

/// Workers, one after the other.
struct Workers {
    memory: OwnedFd,
    settings: Settings,
    scripts: fn() -> Scripts,
}

impl Workers {
    fn new(settings: Settings, scripts: fn() -> Scripts) -> Self {
        Self { memory: handoff::create().expect("memory"), settings, scripts }
    }

    /// One that is started and does not serve yet.
    fn start(&self) -> RedisStore {
        RedisStore::start_with(self.settings.clone(), (self.scripts)()).expect("a good URL")
    }

    /// It takes the place of the one before.
    fn succeed(&self, store: RedisStore) -> RedisStore {
        store.take_up(&Kept::open(&self.memory).expect("memory that can be read"));
        store
    }
}

#[tokio::test]
async fn after_a_jump_the_next_worker_judges_nothing_stale_either() {
    let redis = Redis::start();
    let lifetimes = Lifetimes { idle_ms: MINUTE, ..Lifetimes::default() };
    let settings = Settings { lifetimes, ..settings(&redis) };
    let mut workers = Workers::new(settings, || Scripts::with_clock(CLOCK).heeding_jumps());
    // An hour ahead of what its scripts say from now on: the worker hears a jump.
    let _: i64 = redis.run(&format!("DECRBY test:clock {HOUR}"));
    let first = workers.succeed(connected(workers.start()).await);
    let sid = alias("ab", 1);
    taken(&first, &login(&first, &sid)).await;
    drop(first);
    // The clock is set right.
    workers.scripts = Scripts::default;
    for _ in 0..2 {
        let next = workers.succeed(connected(workers.start()).await);
        look(&next, &sid).await.expect("not judged");
    }
    let unknowing = connected(workers.start()).await;
    assert_eq!(look(&unknowing, &sid).await, None, "whoever knows of no jump judges");
}

/// A kept save may be sent before a worker has taken the place of the one before.
#[tokio::test]
async fn nothing_is_judged_stale_before_it_is_known_what_the_worker_before_knew() {
    let redis = Redis::start();
    let lifetimes = Lifetimes { idle_ms: MINUTE, ..Lifetimes::default() };
    let settings = Settings { lifetimes, takes_up: true, ..settings(&redis) };
    let workers = Workers::new(settings, || Scripts::with_clock(CLOCK));
    let worker = connected(workers.start()).await;
    let sid = alias("ab", 1);
    taken(&worker, &login(&worker, &sid)).await;
    pass(&redis, MINUTE);
    look(&worker, &sid).await.expect("not judged");
    let worker = workers.succeed(worker);
    assert_eq!(look(&worker, &sid).await, None);
}

#[tokio::test]
async fn callers_do_not_wait_for_one_outage_at_each_worker() {
    let mut redis = Redis::start();
    let settings = Settings {
        url: redis.url(),
        wait_step_ms: 3000,
        outage_budget_ms: 1000,
        // A test machine may stand still while one connects to a Redis that is there.
        connect_timeout_ms: 2000,
        ..Settings::default()
    };
    let workers = Workers::new(settings, Scripts::default);
    let first = workers.succeed(connected(workers.start()).await);
    redis.pause();
    until_health(&first, Health::Down).await;
    while first.wait_up(Wait::default()).await != Waited::BudgetSpent {}
    drop(first);
    for _ in 0..2 {
        let next = workers.succeed(workers.start());
        // After the first attempt to connect, which takes less than a step.
        assert_eq!(next.wait_up(Wait::default()).await, Waited::BudgetSpent);
    }
    redis.resume();
    // One that finds Redis there does not say that it is not.
    let next = workers.succeed(workers.start());
    assert_eq!(next.wait_up(Wait::default()).await, Waited::Up);
}

#[tokio::test]
async fn who_has_waited_at_one_worker_is_not_logged_out_by_the_next() {
    let mut redis = Redis::start();
    let lifetimes = Lifetimes { idle_ms: SECOND, ..Lifetimes::default() };
    let settings = Settings { lifetimes, wait_step_ms: 1500, ..settings(&redis) };
    let workers = Workers::new(settings, Scripts::default);
    let first = workers.succeed(connected(workers.start()).await);
    let sid = alias("ab", 1);
    taken(&first, &login(&first, &sid)).await;
    redis.pause();
    until_health(&first, Health::Down).await;
    assert_eq!(first.wait_up(Wait::default()).await, Waited::StepOver);
    drop(first);
    let next = workers.succeed(workers.start());
    redis.resume();
    while next.wait_up(Wait::default()).await != Waited::Up {}
    look(&next, &sid).await.expect("it has waited");
}

#[tokio::test]
async fn a_change_is_as_old_as_it_is_also_if_the_time_was_not_known() {
    let mut redis = Redis::start();
    let workers = Workers::new(settings(&redis), Scripts::default);
    let other = connected(workers.start()).await;
    let sid = alias("ab", 1);
    let born = taken(&other, &login(&other, &sid)).await;
    redis.pause();
    let worker = workers.start();
    let [slow, late] = [(); 2].map(|()| page(&worker, &sid, born.birth));
    assert_eq!(slow.stamp.first_ms, 0);
    redis.resume();
    let worker = connected(worker).await;
    let newer = taken(&other, &page(&other, &sid, born.birth)).await;
    assert_eq!(worker.publish(&again(&slow)).await, Ok(Published::Superseded { birth: None }));
    assert_eq!(look(&worker, &sid).await.map(|meta| meta.version), Some(newer.version));
    // What was never sent is made now.
    assert_eq!(taken(&worker, &late).await.version, late.stamp.id);
}

#[tokio::test]
async fn the_next_worker_knows_the_time_before_it_has_reached_redis() {
    let mut redis = Redis::start();
    let workers = Workers::new(settings(&redis), Scripts::default);
    let first = workers.succeed(connected(workers.start()).await);
    redis.pause();
    let before = first.stamp(any_shard()).first_ms;
    drop(first);
    let next = workers.succeed(workers.start());
    let after = next.stamp(any_shard()).first_ms;
    assert!((before..before + HOUR).contains(&after), "{before} and then {after}");
}
