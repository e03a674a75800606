//! Single flight: who asks for the same session at the same time shares one answer.
//!
//! An `open` must return what was current during that `open`. So a fetch serves only those who
//! asked before it was sent; who comes later shares the next one. The content of a save never
//! changes, so everybody shares its transfer, also who comes late: whoever stops waiting finds it
//! again.
//!
//! Answers come in the order of their requests. So only a few fetches are under way at once, and
//! nobody else's request waits for the contents of many on a slow line.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::timeout;

use crate::session::name::{Alias, Shard};
use crate::store::{
    Amend, ChangeId, Listed, Lookup, Meta, Publish, Published, RootListing, Sessions, Settling,
    StoreError, Unlink, Unlinked,
};
use crate::sync::lock;

/// How many fetches may be under way. With the longest content each, they take the line of 100
/// Mbit/s for a tenth of a second.
const MAX_FETCHES: usize = 16;
/// How long a fetch waits for the end of others. A look-up holds the directory, so it cannot wait
/// longer; an `open` comes again.
const WAITS_FOR_OTHERS: Duration = Duration::from_millis(100);
/// How many contents may be under way or kept.
const MAX_CONTENTS: usize = 256;
/// How long a content is kept for those who have stopped waiting for it.
const KEPT_FOR: Duration = Duration::from_secs(5);
/// All that are kept, at most.
const KEPT_BYTES: usize = 32 << 20;

type Name = (Alias, Option<Alias>);
type Asker = oneshot::Sender<Result<Lookup, StoreError>>;
type Content = Result<Option<Bytes>, StoreError>;

/// Sessions over those of another layer. Clones share what is under way.
#[derive(Clone)]
pub(crate) struct SingleFlight<S> {
    sessions: S,
    /// The names that are being fetched, with those who share the next fetch.
    fetches: Arc<Mutex<HashMap<Name, Vec<Asker>>>>,
    under_way: Arc<Semaphore>,
    contents: Arc<Mutex<Contents>>,
}

#[derive(Default)]
struct Contents {
    known: HashMap<(Alias, ChangeId), watch::Receiver<Option<Content>>>,
    kept_bytes: usize,
}

impl<S: Sessions + Clone> SingleFlight<S> {
    pub(crate) fn over(sessions: S) -> Self {
        let under_way = Arc::new(Semaphore::new(MAX_FETCHES));
        Self { sessions, fetches: Arc::default(), under_way, contents: Arc::default() }
    }

    /// Fetches, once few enough others do.
    async fn fetch_in_turn(
        &self,
        alias: &Alias,
        listed: Option<&Alias>,
    ) -> Result<Lookup, StoreError> {
        let Ok(_turn) = timeout(WAITS_FOR_OTHERS, self.under_way.acquire()).await else {
            return Err(StoreError::Unavailable("too many sessions are read at once".into()));
        };
        self.sessions.fetch(alias, listed).await
    }

    /// Fetches for those who have come while another fetch was under way, until nobody has.
    async fn fetch_next(self, name: Name, mut askers: Vec<Asker>) {
        while !askers.is_empty() {
            let found = self.fetch_in_turn(&name.0, name.1.as_ref()).await;
            for asker in askers {
                // Who does not wait any more needs no answer.
                let _ = asker.send(found.clone());
            }
            askers = self.waiting(&name);
        }
    }

    /// Those who wait for the next fetch. With none, the name is not fetched any more.
    fn waiting(&self, name: &Name) -> Vec<Asker> {
        let mut fetches = lock(&self.fetches);
        let waiting = fetches.get_mut(name).map(std::mem::take).unwrap_or_default();
        if waiting.is_empty() {
            fetches.remove(name);
        }
        waiting
    }

    /// The transfer of this save: the one that is known, or a new one.
    fn transfer(
        &self,
        alias: &Alias,
        save: ChangeId,
    ) -> Result<watch::Receiver<Option<Content>>, StoreError> {
        let key = (alias.clone(), save);
        let mut contents = lock(&self.contents);
        if let Some(known) = contents.known.get(&key) {
            return Ok(known.clone());
        }
        if contents.known.len() >= MAX_CONTENTS {
            return Err(StoreError::Unavailable("too many large sessions are read at once".into()));
        }
        let (done, transfer) = watch::channel(None);
        contents.known.insert(key.clone(), transfer.clone());
        drop(contents);
        let layer = self.clone();
        tokio::spawn(async move {
            let content = layer.sessions.content(&key.0, key.1).await;
            let bytes = content.as_ref().ok().and_then(Option::as_ref).map_or(0, Bytes::len);
            done.send_replace(Some(content));
            if layer.keep(bytes) {
                tokio::time::sleep(KEPT_FOR).await;
                lock(&layer.contents).kept_bytes -= bytes;
            }
            lock(&layer.contents).known.remove(&key);
        });
        Ok(transfer)
    }

    /// Whether there is room to keep that much. Nothing at all is not kept: it may be an error.
    fn keep(&self, bytes: usize) -> bool {
        let mut contents = lock(&self.contents);
        let fits = bytes > 0 && contents.kept_bytes + bytes <= KEPT_BYTES;
        if fits {
            contents.kept_bytes += bytes;
        }
        fits
    }
}

/// A fetch under way. With its end, however it ends, the next one begins.
struct Flight<'a, S: Sessions + Clone> {
    layer: &'a SingleFlight<S>,
    name: Name,
}

impl<S: Sessions + Clone> Drop for Flight<'_, S> {
    fn drop(&mut self) {
        let askers = self.layer.waiting(&self.name);
        if askers.is_empty() {
            return;
        }
        // Without a runtime they are told that there is no answer.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(self.layer.clone().fetch_next(self.name.clone(), askers));
        }
    }
}

impl<S: Sessions + Clone> Sessions for SingleFlight<S> {
    async fn is_ready(&self, alias: &Alias) -> Result<bool, StoreError> {
        self.sessions.is_ready(alias).await
    }

    fn at_hand(&self, alias: &Alias) -> Option<Lookup> {
        self.sessions.at_hand(alias)
    }

    async fn fetch(&self, alias: &Alias, listed: Option<&Alias>) -> Result<Lookup, StoreError> {
        let name = (alias.clone(), listed.cloned());
        let shared = {
            let mut fetches = lock(&self.fetches);
            if let Some(askers) = fetches.get_mut(&name) {
                let (asker, answer) = oneshot::channel();
                askers.push(asker);
                Some(answer)
            } else {
                fetches.insert(name.clone(), Vec::new());
                None
            }
        };
        let Some(answer) = shared else {
            let _flight = Flight { layer: self, name };
            return self.fetch_in_turn(alias, listed).await;
        };
        answer.await.unwrap_or_else(|_| {
            Err(StoreError::Unavailable("the fetch that was shared did not end".into()))
        })
    }

    async fn content(&self, alias: &Alias, save: ChangeId) -> Result<Option<Bytes>, StoreError> {
        let mut transfer = self.transfer(alias, save)?;
        let done = transfer.wait_for(Option::is_some).await;
        done.ok().and_then(|content| content.clone()).unwrap_or_else(|| {
            Err(StoreError::Unavailable("the transfer that was shared did not end".into()))
        })
    }

    async fn publish(&self, publish: &Publish) -> Result<Published, StoreError> {
        self.sessions.publish(publish).await
    }

    async fn unlink(&self, unlink: &Unlink) -> Result<Unlinked, StoreError> {
        self.sessions.unlink(unlink).await
    }

    async fn take_back(&self, alias: &Alias, removal: ChangeId) -> Result<(), StoreError> {
        self.sessions.take_back(alias, removal).await
    }

    async fn amend(&self, amend: &Amend) -> Result<Option<Meta>, StoreError> {
        self.sessions.amend(amend).await
    }

    async fn list(&self, shard: Shard) -> Result<Vec<Listed>, StoreError> {
        self.sessions.list(shard).await
    }

    async fn list_root(&self) -> Result<RootListing, StoreError> {
        self.sessions.list_root().await
    }

    fn touch(&self, alias: &Alias) {
        self.sessions.touch(alias);
    }

    async fn touch_now(&self, alias: &Alias) -> Result<(), StoreError> {
        self.sessions.touch_now(alias).await
    }

    fn takes_saves(&self) -> bool {
        self.sessions.takes_saves()
    }

    fn knows_more(&self, alias: &Alias) -> bool {
        self.sessions.knows_more(alias)
    }

    fn settling(&self, alias: &Alias) -> Option<Settling> {
        self.sessions.settling(alias)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// A store that answers once for each permit, and counts what it was asked.
    #[derive(Clone)]
    struct Slow {
        answers: Arc<Semaphore>,
        asked: Arc<AtomicUsize>,
    }

    impl Slow {
        async fn next(&self) -> usize {
            let number = self.asked.fetch_add(1, Ordering::SeqCst);
            self.answers.acquire().await.expect("open").forget();
            number
        }
    }

    impl Sessions for Slow {
        async fn is_ready(&self, _: &Alias) -> Result<bool, StoreError> {
            Ok(true)
        }

        async fn fetch(&self, _: &Alias, _: Option<&Alias>) -> Result<Lookup, StoreError> {
            Err(StoreError::Unavailable(self.next().await.to_string()))
        }

        async fn content(&self, _: &Alias, _: ChangeId) -> Content {
            Ok(Some(vec![u8::try_from(self.next().await).expect("few")].into()))
        }

        async fn publish(&self, _: &Publish) -> Result<Published, StoreError> {
            unreachable!("this layer shares reads alone")
        }

        async fn unlink(&self, _: &Unlink) -> Result<Unlinked, StoreError> {
            unreachable!("this layer shares reads alone")
        }

        async fn take_back(&self, _: &Alias, _: ChangeId) -> Result<(), StoreError> {
            unreachable!("this layer shares reads alone")
        }

        async fn amend(&self, _: &Amend) -> Result<Option<Meta>, StoreError> {
            unreachable!("this layer shares reads alone")
        }

        async fn list(&self, _: Shard) -> Result<Vec<Listed>, StoreError> {
            unreachable!("this layer shares reads alone")
        }

        async fn list_root(&self) -> Result<RootListing, StoreError> {
            unreachable!("this layer shares reads alone")
        }

        fn touch(&self, _: &Alias) {}

        async fn touch_now(&self, _: &Alias) -> Result<(), StoreError> {
            Ok(())
        }
    }

    fn slow() -> (Slow, SingleFlight<Slow>) {
        let slow = Slow { answers: Arc::new(Semaphore::new(0)), asked: Arc::default() };
        (slow.clone(), SingleFlight::over(slow))
    }

    fn alias() -> Alias {
        Alias::parse(&format!("ab{:082}", 1)).expect("an alias")
    }

    /// Which fetch has served this asker.
    fn served(found: &Result<Lookup, StoreError>) -> &str {
        let Err(StoreError::Unavailable(number)) = found else { panic!("{found:?}") };
        number
    }

    #[tokio::test]
    async fn a_fetch_serves_only_those_who_asked_before_it_was_sent() {
        let (slow, layer) = slow();
        let ask = || {
            let layer = layer.clone();
            tokio::spawn(async move { layer.fetch(&alias(), None).await })
        };
        let first = ask();
        while slow.asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let late: Vec<_> = (0..3).map(|_| ask()).collect();
        while lock(&layer.fetches).values().map(Vec::len).sum::<usize>() < 3 {
            tokio::task::yield_now().await;
        }
        slow.answers.add_permits(2);
        assert_eq!(served(&first.await.expect("no panic")), "0");
        for asker in late {
            assert_eq!(served(&asker.await.expect("no panic")), "1");
        }
        assert!(lock(&layer.fetches).is_empty());
        assert_eq!(slow.asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn those_who_wait_are_served_though_the_first_one_goes_away() {
        let (slow, layer) = slow();
        let (one, two) = (layer.clone(), layer.clone());
        let first = tokio::spawn(async move { one.fetch(&alias(), None).await });
        while slow.asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let second = tokio::spawn(async move { two.fetch(&alias(), None).await });
        while lock(&layer.fetches).values().map(Vec::len).sum::<usize>() < 1 {
            tokio::task::yield_now().await;
        }
        first.abort();
        slow.answers.add_permits(1);
        assert_eq!(served(&second.await.expect("no panic")), "1");
    }

    #[tokio::test]
    async fn few_fetches_are_under_way_at_once_and_nobody_waits_long_for_a_turn() {
        let (slow, layer) = slow();
        let ask = |number: usize| {
            let layer = layer.clone();
            let alias = Alias::parse(&format!("ab{number:082}")).expect("an alias");
            tokio::spawn(async move { layer.fetch(&alias, None).await })
        };
        let first: Vec<_> = (0..MAX_FETCHES).map(ask).collect();
        while slow.asked.load(Ordering::SeqCst) < MAX_FETCHES {
            tokio::task::yield_now().await;
        }
        let refused = ask(MAX_FETCHES).await.expect("no panic");
        assert_eq!(served(&refused), "too many sessions are read at once");
        let next = ask(MAX_FETCHES);
        slow.answers.add_permits(MAX_FETCHES + 1);
        for asker in first {
            assert!(asker.await.expect("no panic").is_err());
        }
        assert_eq!(served(&next.await.expect("no panic")), MAX_FETCHES.to_string());
        assert_eq!(slow.asked.load(Ordering::SeqCst), MAX_FETCHES + 1);
    }

    #[tokio::test]
    async fn a_content_is_read_once_also_for_who_comes_back() {
        let (slow, layer) = slow();
        let (alias, version) = (alias(), ChangeId(7));
        let impatient =
            tokio::time::timeout(Duration::from_millis(1), layer.content(&alias, version));
        assert!(impatient.await.is_err());
        slow.answers.add_permits(1);
        for _ in 0..3 {
            assert_eq!(layer.content(&alias, version).await, Ok(Some(vec![0].into())));
        }
        assert_eq!(slow.asked.load(Ordering::SeqCst), 1);
        let other = layer.content(&alias, ChangeId(8));
        slow.answers.add_permits(1);
        assert_eq!(other.await, Ok(Some(vec![1].into())));
    }
}
