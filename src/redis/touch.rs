//! Activity that is still in our pocket, until the next batch is written.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::session::name::Alias;
use crate::sync::lock;

/// The most sessions that may wait. Beyond it (a store that took no writes for very long) new ones
/// are dropped, which shortens their lives rather than ours.
const MOST: usize = 1_000_000;

/// Sessions and when they were last used, in milliseconds of Redis's clock.
#[derive(Debug, Default)]
pub(super) struct Touches {
    waiting: Mutex<HashMap<Alias, u64>>,
    /// Rung when the first one is put in.
    pub bell: Notify,
}

impl Touches {
    /// Notes a use; only ever moves forward.
    pub fn put(&self, alias: &Alias, at_ms: u64) {
        let mut waiting = lock(&self.waiting);
        if let Some(noted) = waiting.get_mut(alias) {
            *noted = at_ms.max(*noted);
            return;
        }
        if waiting.len() < MOST {
            waiting.insert(alias.clone(), at_ms);
            if waiting.len() == 1 {
                self.bell.notify_one();
            }
        }
    }

    /// Takes all out.
    pub fn take(&self) -> HashMap<Alias, u64> {
        std::mem::take(&mut *lock(&self.waiting))
    }
}
