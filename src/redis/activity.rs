//! Activity: collected here, and written in batches.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::Inner;
use super::link::Need;
use super::requests::Requests;
use super::scripts::{Answer, Way};
use super::several::Part;
use crate::handoff::{Kept, Kind};
use crate::session::name::{Alias, Shard};
use crate::store::StoreError;
use crate::sync::lock;
use crate::telemetry::metrics::metrics;

/// How many touches one call of the script carries.
const TOUCHES_AT_ONCE: usize = 100;

/// The most sessions that may wait. Beyond it (a store that took no writes for very long) new ones
/// are dropped, which shortens their lives rather than fills our memory.
const MOST: usize = 1_000_000;

/// Sessions and when they were last used, in milliseconds of Redis's clock.
#[derive(Debug, Default)]
pub(super) struct Touches {
    waiting: Mutex<HashMap<Alias, u64>>,
    /// The same for the next worker.
    kept: OnceLock<Kept>,
    /// Notified when the first one is put in.
    first: Notify,
}

impl Touches {
    /// Notes a use; only ever moves forward.
    pub(super) fn put(&self, alias: &Alias, at_ms: u64) {
        let mut waiting = lock(&self.waiting);
        if let Some(noted) = waiting.get_mut(alias) {
            if at_ms > *noted {
                *noted = at_ms;
                self.keep(alias, at_ms);
            }
            return;
        }
        if waiting.len() < MOST {
            waiting.insert(alias.clone(), at_ms);
            self.keep(alias, at_ms);
            if waiting.len() == 1 {
                self.first.notify_one();
            }
        }
    }

    fn keep(&self, alias: &Alias, at_ms: u64) {
        if let Some(kept) = self.kept.get() {
            let (at_ms, alias) = (at_ms.to_le_bytes(), alias.as_str().as_bytes());
            kept.put(Kind::Touch, number(alias), &[&at_ms, alias]);
        }
    }

    /// From now on what waits is kept for the next worker. What the worker before has not written is written by this
    /// one.
    pub(super) fn take_up(&self, kept: &Kept) {
        if self.kept.set(kept.clone()).is_err() {
            return;
        }
        for number in kept.numbers(Kind::Touch) {
            let touch = kept.get(Kind::Touch, number);
            let touch = touch.as_deref().and_then(|touch| touch.split_first_chunk());
            let alias = touch.and_then(|(_, alias)| Alias::parse(str::from_utf8(alias).ok()?));
            if let Some(((at_ms, _), alias)) = touch.zip(alias) {
                self.put(&alias, u64::from_le_bytes(*at_ms));
            }
        }
    }

    /// These are written.
    fn written(&self, touches: &[(Alias, Option<u64>)]) {
        let Some(kept) = self.kept.get() else { return };
        let waiting = lock(&self.waiting);
        // Another use may have come meanwhile.
        for (alias, _) in touches.iter().filter(|(alias, _)| !waiting.contains_key(alias)) {
            kept.remove(Kind::Touch, number(alias.as_str().as_bytes()));
        }
    }

    /// Takes all out.
    pub(super) fn take(&self) -> HashMap<Alias, u64> {
        std::mem::take(&mut *lock(&self.waiting))
    }
}

/// By which a use of a session is kept: the end of an alias is that of a hash.
fn number(alias: &[u8]) -> u64 {
    alias.last_chunk().map_or(0, |end| u64::from_le_bytes(*end))
}

impl Inner {
    /// Writes activity of sessions of one shard; no time is no activity. Gives the number of those
    /// that live.
    pub(super) async fn touch(
        &self,
        shard: Shard,
        touches: &[(Alias, Option<u64>)],
    ) -> Result<u64, StoreError> {
        self.touch_each(shard, touches).await.into_iter().map(|(_, living)| living).sum()
    }

    /// The same, by those that were written together: mostly all.
    async fn touch_each<'a>(
        &'a self,
        shard: Shard,
        touches: &'a [(Alias, Option<u64>)],
    ) -> Vec<(&'a [(Alias, Option<u64>)], Result<u64, StoreError>)> {
        let build = |requests: Requests<'a>, touches| requests.touch(shard, touches);
        let living = |answer: Option<Answer>| {
            let Some(mut answer) = answer else { return Ok(0) };
            if answer.status != "done" {
                return Err(answer.strange());
            }
            answer.number()
        };
        let parts =
            self.call_for(shard, touches, self.attempt(), Way::Link(Need::Connected), build).await;
        parts
            .into_iter()
            .map(|Part { items, answer }| {
                if answer.is_ok() {
                    metrics().activity_writes.inc_by(items.len() as u64);
                }
                (items, answer.and_then(living))
            })
            .collect()
    }

    /// Notes a use, written before this returns; what cannot be written joins the next batch.
    pub(super) async fn touch_now(&self, alias: &Alias) -> Result<(), StoreError> {
        let at_ms = self.primary_of(alias.shard()).time.now_ms();
        let written = self.touch(alias.shard(), &[(alias.clone(), Some(at_ms))]).await;
        if matches!(written, Err(StoreError::Unavailable(_) | StoreError::Refused(_))) {
            self.touches.put(alias, at_ms);
        }
        written.map(|_| ())
    }

    /// Writes all that is collected; what could not be written stays. False if something did.
    pub(super) async fn write_collected(self: &Arc<Self>) -> bool {
        let mut shards: BTreeMap<Shard, Vec<(Alias, Option<u64>)>> = BTreeMap::new();
        for (alias, at_ms) in self.touches.take() {
            shards.entry(alias.shard()).or_default().push((alias, Some(at_ms)));
        }
        let mut writing = JoinSet::new();
        for (shard, touches) in shards {
            for touches in touches.chunks(TOUCHES_AT_ONCE) {
                let guard = Unwritten { store: Arc::clone(self), touches: touches.to_vec() };
                writing.spawn(async move {
                    let mut guard = guard;
                    let mut left = Vec::new();
                    for (touches, written) in guard.store.touch_each(shard, &guard.touches).await {
                        match written {
                            Ok(_) | Err(StoreError::Unreadable(_)) => {
                                guard.store.touches.written(touches);
                            }
                            Err(_) => left.extend_from_slice(touches),
                        }
                    }
                    guard.touches = left;
                    guard.touches.is_empty()
                });
            }
        }
        let mut all = true;
        while let Some(written) = writing.join_next().await {
            all &= written.unwrap_or(false);
        }
        all
    }
}

/// Touches that are being written. What was not written goes back, also when the writing task is dropped.
struct Unwritten {
    store: Arc<Inner>,
    touches: Vec<(Alias, Option<u64>)>,
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        for (alias, at_ms) in self.touches.drain(..) {
            if let Some(at_ms) = at_ms {
                self.store.touches.put(&alias, at_ms);
            }
        }
    }
}

/// Writes the collected touches, batch after batch, and never returns.
pub(super) async fn write_touches(store: Arc<Inner>) {
    let pause = Duration::from_millis(store.settings.touch_batch_ms);
    loop {
        store.touches.first.notified().await;
        tokio::time::sleep(pause).await;
        // What could not be written has woken this task again when it was put back.
        store.write_collected().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff;

    #[test]
    fn what_is_not_written_is_written_by_the_next_worker() {
        let memory = handoff::create().unwrap();
        let next = || {
            let touches = Touches::default();
            touches.take_up(&Kept::open(&memory).unwrap());
            touches
        };
        let [one, other] =
            ["a", "b"].map(|end| Alias::parse(&format!("ab{}", end.repeat(82))).unwrap());
        let touches = next();
        touches.put(&one, 5);
        touches.put(&one, 7);
        touches.put(&one, 6);
        touches.put(&other, 8);
        // It dies while it writes.
        let waited = touches.take();
        let touches = next();
        assert_eq!(touches.take(), waited);
        assert_eq!(waited[&one], 7);
        // Of the second one another use comes while it writes.
        touches.put(&other, 9);
        touches.written(&[(one, Some(7)), (other.clone(), Some(8))]);
        assert_eq!(next().take(), HashMap::from([(other, 9)]));
    }
}
