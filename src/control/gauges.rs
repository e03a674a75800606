//! Values of the status that have to be asked of Redis: seldom, however many clients there are, and
//! within a bound.

use std::future::Future;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::redis::RedisStore;
use crate::redis::memory::Memory;
use crate::redis::population::Population;
use crate::store::{Health, Link as _, StoreError};

/// How old the reading of the memory may be.
const MEMORY_EVERY: Duration = Duration::from_secs(5);
/// How old the number of sessions may be: counting them is expensive.
const POPULATION_EVERY: Duration = Duration::from_secs(60);
/// A command without permission is tried again after this: each refusal is a line in the log of Redis.
const FORBIDDEN_FOR: Duration = Duration::from_secs(60 * 60);
/// The bound of one question.
const WITHIN: Duration = Duration::from_secs(2);

/// What was asked last.
#[derive(Default)]
pub(super) struct Gauges {
    memory: Kept<Memory>,
    population: Kept<Population>,
}

impl Gauges {
    /// The memory of Redis; `None` if it does not say, or there is no connection.
    pub(super) async fn memory(&self, store: &RedisStore) -> Option<Memory> {
        self.memory.get(store, MEMORY_EVERY, store.memory()).await
    }

    /// How many sessions live; `None` while there is no connection.
    pub(super) async fn population(&self, store: &RedisStore) -> Option<Population> {
        self.population.get(store, POPULATION_EVERY, store.population()).await
    }
}

/// One answer, and until when it is valid.
struct Kept<T>(Mutex<(Option<T>, Option<Instant>)>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::new((None, None)))
    }
}

impl<T: Copy> Kept<T> {
    /// The answer, asked again when the last one is too old. One client asks, and others wait for it.
    async fn get(
        &self,
        store: &RedisStore,
        every: Duration,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Option<T> {
        if store.health(None) == Health::Down {
            return None;
        }
        let mut kept = self.0.lock().await;
        let (answer, good_until) = &mut *kept;
        if good_until.is_none_or(|until| Instant::now() >= until) {
            let asked = timeout(WITHIN, question).await;
            let pause = match &asked {
                Ok(Err(StoreError::Refused(why))) if why.starts_with("NOPERM") => FORBIDDEN_FOR,
                _ => every,
            };
            *answer = asked.ok().and_then(Result::ok);
            *good_until = Some(Instant::now() + pause);
        }
        *answer
    }
}
