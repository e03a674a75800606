//! Activity: collected here, and written in batches.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::Inner;
use super::keys::Keys;
use super::link::Need;
use super::requests::Requests;
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
    /// Notified when the first one is put in.
    first: Notify,
}

impl Touches {
    /// Notes a use; only ever moves forward.
    pub(super) fn put(&self, alias: &Alias, at_ms: u64) {
        let mut waiting = lock(&self.waiting);
        if let Some(noted) = waiting.get_mut(alias) {
            *noted = at_ms.max(*noted);
            return;
        }
        if waiting.len() < MOST {
            waiting.insert(alias.clone(), at_ms);
            if waiting.len() == 1 {
                self.first.notify_one();
            }
        }
    }

    /// Takes all out.
    pub(super) fn take(&self) -> HashMap<Alias, u64> {
        std::mem::take(&mut *lock(&self.waiting))
    }
}

impl Inner {
    /// Writes activity of sessions of one shard; no time is no activity. Gives the number of those
    /// that live.
    pub(super) async fn touch(
        &self,
        shard: Shard,
        touches: &[(Alias, Option<u64>)],
    ) -> Result<u64, StoreError> {
        let build = |requests| Requests::touch(&requests, shard, touches);
        let slot = Keys::slot(shard);
        let mut answer = self.call(slot, Need::Connected, self.attempt(), build).await?;
        if answer.status != "done" {
            return Err(answer.strange());
        }
        metrics().activity_writes.inc_by(touches.len() as u64);
        answer.number()
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
                    let written = guard.store.touch(shard, &guard.touches).await;
                    if matches!(written, Ok(_) | Err(StoreError::Unreadable(_))) {
                        guard.touches.clear();
                    }
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
