use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Semaphore;

use super::*;
use crate::session::content::{Class, Content};
use crate::session::name::Form;
use crate::session::policy::Lifetimes;
use crate::store::{Attempt, Bound, Claim};

/// A store of versions by number, each of which may be read once for each permit.
#[derive(Clone)]
struct Store(Arc<State>);

struct State {
    versions: Mutex<HashMap<Alias, u128>>,
    left_ms: AtomicU64,
    asked: AtomicU64,
    answers: Semaphore,
    is_down: AtomicBool,
    tells: AtomicBool,
    outage: Mutex<Duration>,
}

fn somebody() -> Content {
    Content { class: Class::Authenticated, uid: Some(2), db: None, login: None }
}

fn lookup(alias: &Alias, version: u128, left_ms: u64, bytes: usize) -> Lookup {
    let save = ChangeId(version);
    let content = somebody();
    Lookup::Session {
        meta: Meta {
            version: save,
            birth: ChangeId(1),
            mtime_ns: 0,
            mode: 0o600,
            size_bytes: bytes as u64,
            class: Class::Authenticated,
            form: Form::Sharded,
            activity_ms: 0,
            left_ms,
        },
        bound: Bound {
            alias: alias.clone(),
            content,
            birth: ChangeId(1),
            save,
            packing: crate::session::packing::PLAIN,
        },
        sealed: vec![0; bytes].into(),
    }
}

impl Store {
    fn set(&self, alias: &Alias, version: u128) {
        lock(&self.0.versions).insert(alias.clone(), version);
    }

    fn asked(&self) -> u64 {
        self.0.asked.load(Ordering::SeqCst)
    }
}

impl Sessions for Store {
    async fn is_ready(&self, _: &Alias) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn fetch(&self, alias: &Alias, _: Option<&Alias>) -> Result<Lookup, StoreError> {
        // What is current when it is asked; the answer may come later.
        let version = lock(&self.0.versions).get(alias).copied();
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        self.0.answers.acquire().await.expect("open").forget();
        let left_ms = self.0.left_ms.load(Ordering::SeqCst);
        Ok(version.map_or(Lookup::Absent, |version| lookup(alias, version, left_ms, 100)))
    }

    async fn content(&self, _: &Alias, _: ChangeId) -> Result<Option<Bytes>, StoreError> {
        unreachable!("it is not kept here")
    }

    async fn publish(&self, publish: &Publish) -> Result<Published, StoreError> {
        self.set(&publish.alias, publish.stamp.id.0);
        self.0.answers.acquire().await.expect("open").forget();
        let Lookup::Session { meta, .. } =
            lookup(&publish.alias, publish.stamp.id.0, self.0.left_ms.load(Ordering::SeqCst), 100)
        else {
            unreachable!()
        };
        Ok(Published::Taken(meta))
    }

    async fn unlink(&self, unlink: &Unlink) -> Result<Unlinked, StoreError> {
        lock(&self.0.versions).remove(&unlink.alias);
        Ok(Unlinked::Gone { alias: unlink.alias.clone(), birth: ChangeId(1) })
    }

    async fn take_back(&self, _: &Alias, _: ChangeId) -> Result<(), StoreError> {
        Ok(())
    }

    async fn amend(&self, _: &Amend) -> Result<Option<Meta>, StoreError> {
        Ok(None)
    }

    async fn list(&self, _: Shard) -> Result<Vec<Listed>, StoreError> {
        Ok(Vec::new())
    }

    async fn list_root(&self) -> Result<RootListing, StoreError> {
        Ok(RootListing::default())
    }

    fn touch(&self, _: &Alias) {}

    async fn touch_now(&self, _: &Alias) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Link for Store {
    fn health(&self, _: Option<Shard>) -> Health {
        if self.0.is_down.load(Ordering::SeqCst) { Health::Down } else { Health::Up }
    }

    fn is_fresh(&self, _: Option<Shard>) -> bool {
        true
    }

    fn unreadable_for(&self, _: Shard) -> Option<Duration> {
        self.0.is_down.load(Ordering::SeqCst).then(|| *lock(&self.0.outage))
    }

    fn tells_changes(&self, _: Shard) -> bool {
        self.0.tells.load(Ordering::SeqCst)
    }

    async fn wait_up(&self, _: Wait) -> Waited {
        Waited::Up
    }

    fn stamp(&self, _: Shard) -> Stamp {
        Stamp::new(ChangeId(7), 0)
    }

    async fn drain(&self, _: Duration) {}
}

const GRACE: Duration = Duration::from_secs(20);

/// A store that answers at once, and the cache over it.
fn cached(max_bytes: usize) -> (Store, NearCache<Store>, Arc<dyn Changes>) {
    let store = Store(Arc::new(State {
        versions: Mutex::default(),
        left_ms: AtomicU64::new(600_000),
        asked: AtomicU64::new(0),
        answers: Semaphore::new(10_000),
        is_down: AtomicBool::new(false),
        tells: AtomicBool::new(true),
        outage: Mutex::default(),
    }));
    let settings = Settings { max_bytes, grace: GRACE };
    let cache = NearCache::over(store.clone(), Some(settings), Arc::default);
    let changes = cache.changes().expect("it keeps something");
    (store, cache, changes)
}

fn alias(number: usize) -> Alias {
    Alias::parse(&format!("ab{number:082}")).expect("an alias")
}

fn version(found: Option<Lookup>) -> Option<u128> {
    match found? {
        Lookup::Session { meta, .. } => Some(meta.version.0),
        Lookup::Absent => None,
        other => panic!("{other:?}"),
    }
}

async fn fetched(cache: &NearCache<Store>, alias: &Alias) -> Option<u128> {
    version(Some(cache.fetch(alias, None).await.expect("an answer")))
}

fn save(number: u128) -> Publish {
    let stamp = Stamp { attempt: Attempt::First, ..Stamp::new(ChangeId(number), 0) };
    Publish {
        stamp,
        alias: alias(1),
        form: Form::Sharded,
        content: somebody(),
        size_bytes: 100,
        birth: ChangeId(1),
        packing: crate::session::packing::PLAIN,
        sealed: vec![0; 100].into(),
        sealer: None,
        claim: Claim::default(),
        background: false,
        is_activity: true,
    }
}

#[tokio::test]
async fn what_was_read_is_answered_until_it_changes() {
    let (store, cache, changes) = cached(1 << 20);
    store.set(&alias(1), 1);
    assert_eq!(cache.at_hand(&alias(1)), None);
    for _ in 0..3 {
        assert_eq!(fetched(&cache, &alias(1)).await, Some(1));
    }
    assert_eq!(store.asked(), 1);
    assert_eq!(version(cache.at_hand(&alias(1))), Some(1));
    store.set(&alias(1), 2);
    changes.changed(&alias(1));
    assert_eq!(fetched(&cache, &alias(1)).await, Some(2));
    changes.all_changed();
    assert_eq!(cache.at_hand(&alias(1)), None);
}

#[tokio::test]
async fn what_does_not_exist_is_asked_for_again() {
    let (store, cache, _) = cached(1 << 20);
    assert_eq!(fetched(&cache, &alias(1)).await, None);
    store.set(&alias(1), 1);
    assert_eq!(fetched(&cache, &alias(1)).await, Some(1));
}

#[tokio::test]
async fn nothing_is_kept_of_a_store_that_does_not_tell_changes() {
    let (store, cache, _) = cached(1 << 20);
    store.set(&alias(1), 1);
    store.0.tells.store(false, Ordering::SeqCst);
    assert_eq!(fetched(&cache, &alias(1)).await, Some(1));
    cache.publish(&save(2)).await.expect("taken");
    assert_eq!(cache.at_hand(&alias(1)), None);
}

/// Has the store answer nothing for now, and returns a fetch that is under way.
async fn begin_fetch(
    store: &Store,
    cache: &NearCache<Store>,
) -> tokio::task::JoinHandle<Option<u128>> {
    let all = u32::try_from(store.0.answers.available_permits()).expect("few");
    store.0.answers.acquire_many(all).await.expect("open").forget();
    let before = store.asked();
    let under_way = cache.clone();
    let task = tokio::spawn(async move { fetched(&under_way, &alias(1)).await });
    while store.asked() == before {
        tokio::task::yield_now().await;
    }
    task
}

#[tokio::test]
async fn an_answer_that_is_late_is_not_kept() {
    let changes_of =
        [(|changes: &dyn Changes| changes.changed(&alias(1))) as fn(&dyn Changes), |changes| {
            changes.all_changed();
        }];
    for change in changes_of {
        let (store, cache, changes) = cached(1 << 20);
        store.set(&alias(1), 1);
        let fetch = begin_fetch(&store, &cache).await;
        // Another server saves, and that is told before the answer is looked at.
        store.set(&alias(1), 2);
        change(&*changes);
        store.0.answers.add_permits(100);
        assert_eq!(fetch.await.expect("no panic"), Some(1));
        assert_eq!(fetched(&cache, &alias(1)).await, Some(2));
    }
}

#[tokio::test]
async fn an_own_save_is_known_and_not_replaced_by_what_was_asked_for_before() {
    let (store, cache, _) = cached(1 << 20);
    store.set(&alias(1), 1);
    let fetch = begin_fetch(&store, &cache).await;
    let saving = cache.clone();
    let saved = tokio::spawn(async move { saving.publish(&save(2)).await });
    while lock(&store.0.versions)[&alias(1)] != 2 {
        tokio::task::yield_now().await;
    }
    // The fetch has its permit first, and the task that hears it may come last.
    store.0.answers.add_permits(1);
    assert_eq!(fetch.await.expect("no panic"), Some(1));
    assert_eq!(cache.at_hand(&alias(1)), None);
    store.0.answers.add_permits(1);
    saved.await.expect("no panic").expect("taken");
    assert_eq!(version(cache.at_hand(&alias(1))), Some(2));
}

#[tokio::test]
async fn what_was_read_before_a_large_save_is_not_answered_after_it() {
    let (store, cache, _) = cached(1 << 20);
    let all = u32::try_from(store.0.answers.available_permits()).expect("few");
    store.0.answers.acquire_many(all).await.expect("open").forget();
    let large = Publish { sealed: vec![0; MAX_CONTENT_BYTES + 1].into(), ..save(2) };
    let saving = cache.clone();
    let saved = tokio::spawn(async move { saving.publish(&large).await });
    while !lock(&store.0.versions).contains_key(&alias(1)) {
        tokio::task::yield_now().await;
    }
    // A read overtakes it.
    let kept = cache.cache.as_ref().expect("it keeps");
    kept.keep(&alias(1), kept.asks(&alias(1)), &lookup(&alias(1), 1, 60_000, 100));
    assert_eq!(version(cache.at_hand(&alias(1))), Some(1));
    store.0.answers.add_permits(1);
    saved.await.expect("no panic").expect("taken");
    assert_eq!(cache.at_hand(&alias(1)), None);
}

#[tokio::test]
async fn of_two_saves_at_once_neither_is_taken_for_the_last() {
    let (store, cache, _) = cached(1 << 20);
    let all = u32::try_from(store.0.answers.available_permits()).expect("few");
    store.0.answers.acquire_many(all).await.expect("open").forget();
    let begin = |number| {
        let cache = cache.clone();
        tokio::spawn(async move { cache.publish(&save(number)).await })
    };
    let first = begin(2);
    while lock(&store.0.versions).get(&alias(1)) != Some(&2) {
        tokio::task::yield_now().await;
    }
    let second = begin(3);
    while lock(&store.0.versions)[&alias(1)] != 3 {
        tokio::task::yield_now().await;
    }
    store.0.answers.add_permits(2);
    for saved in [first, second] {
        saved.await.expect("no panic").expect("taken");
    }
    // Version 3 is current; 2 must not be served.
    assert_ne!(version(cache.at_hand(&alias(1))), Some(2));
    store.0.answers.add_permits(1);
    assert_eq!(fetched(&cache, &alias(1)).await, Some(3));
}

#[tokio::test]
async fn a_save_that_is_given_up_leaves_nothing_behind() {
    let (store, cache, _) = cached(1 << 20);
    store.set(&alias(1), 1);
    let fetch = begin_fetch(&store, &cache).await;
    let saving = cache.clone();
    let saved = tokio::spawn(async move { saving.publish(&save(2)).await });
    while lock(&store.0.versions)[&alias(1)] != 2 {
        tokio::task::yield_now().await;
    }
    saved.abort();
    let _ = saved.await;
    store.0.answers.add_permits(100);
    fetch.await.expect("no panic");
    assert_eq!(fetched(&cache, &alias(1)).await, Some(2));
}

#[tokio::test]
async fn a_removal_is_known_at_once() {
    let (store, cache, _) = cached(1 << 20);
    store.set(&alias(1), 1);
    fetched(&cache, &alias(1)).await;
    let unlink = Unlink {
        stamp: Stamp::new(ChangeId(9), 0),
        alias: alias(1),
        listed: Some(alias(2)),
        held: None,
        opened: None,
    };
    store.set(&alias(2), 2);
    fetched(&cache, &alias(2)).await;
    cache.unlink(&unlink).await.expect("gone");
    for number in [1, 2] {
        assert_eq!(cache.at_hand(&alias(number)), None);
    }
}

/// What is kept of the first session, so much later.
fn kept_after(cache: &NearCache<Store>, is_well: bool, after_ms: u64) -> Option<Lookup> {
    let cache = cache.cache.as_ref().expect("one");
    cache.find(&alias(1), is_well, Instant::now() + Duration::from_millis(after_ms))
}

#[tokio::test]
async fn it_is_asked_for_again_after_half_of_its_life_and_in_any_case() {
    let (store, cache, changes) = cached(1 << 20);
    store.set(&alias(1), 1);
    // A second for what the test itself takes.
    for (left_ms, good_ms) in [(10_000, 5_000), (600_000, 60_000)] {
        store.0.left_ms.store(left_ms, Ordering::SeqCst);
        changes.all_changed();
        fetched(&cache, &alias(1)).await;
        let found = kept_after(&cache, true, good_ms - 1_000);
        let Some(Lookup::Session { meta, .. }) = found else { panic!("{found:?}") };
        let left = left_ms - good_ms;
        assert!((left..=left + 1_000).contains(&meta.left_ms), "{}", meta.left_ms);
        assert_eq!(kept_after(&cache, true, good_ms), None);
    }
}

#[tokio::test]
async fn other_lifetimes_are_judged_anew() {
    let idle_ms = Arc::new(AtomicU64::new(600_000));
    let (store, ..) = cached(0);
    let now = Arc::clone(&idle_ms);
    let settings = Settings { max_bytes: 1 << 20, grace: GRACE };
    let lifetimes = move || {
        let idle_ms = now.load(Ordering::SeqCst);
        Arc::new(Rules::from(Lifetimes { idle_ms, ..Lifetimes::default() }))
    };
    let cache = NearCache::over(store.clone(), Some(settings), lifetimes);
    store.set(&alias(1), 1);
    fetched(&cache, &alias(1)).await;
    assert_eq!(version(cache.at_hand(&alias(1))), Some(1));
    idle_ms.store(60_000, Ordering::SeqCst);
    assert_eq!(cache.at_hand(&alias(1)), None);
}

#[tokio::test]
async fn in_an_outage_it_is_served_for_the_grace_and_while_it_may_live() {
    let (store, cache, changes) = cached(1 << 20);
    store.set(&alias(1), 1);
    store.0.left_ms.store(15_000, Ordering::SeqCst);
    fetched(&cache, &alias(1)).await;
    assert_eq!(version(kept_after(&cache, false, 13_000)), Some(1));
    assert_eq!(kept_after(&cache, false, 15_000), None);
    store.0.is_down.store(true, Ordering::SeqCst);
    assert_eq!(version(cache.at_hand(&alias(1))), Some(1));
    *lock(&store.0.outage) = GRACE;
    assert_eq!(cache.at_hand(&alias(1)), None);
    // Redis is back, by another connection.
    store.0.is_down.store(false, Ordering::SeqCst);
    assert_eq!(version(cache.at_hand(&alias(1))), Some(1));
    changes.all_changed();
    assert_eq!(cache.at_hand(&alias(1)), None);
}

#[tokio::test]
async fn the_oldest_go_where_there_is_no_room() {
    let max_bytes = 3 * (100 + OVERHEAD_BYTES);
    let (store, cache, changes) = cached(max_bytes);
    for number in 1..=4 {
        store.set(&alias(number), 1);
        fetched(&cache, &alias(number)).await;
        // It was used since.
        fetched(&cache, &alias(1)).await;
    }
    let kept = [1, 2, 3, 4].map(|number| cache.at_hand(&alias(number)).is_some());
    assert_eq!(kept, [true, false, true, true]);
    let bytes = || cache.cache.as_ref().expect("one").kept().bytes;
    assert_eq!(bytes(), max_bytes);
    for number in 1..=4 {
        changes.changed(&alias(number));
    }
    assert_eq!(bytes(), 0);
}
