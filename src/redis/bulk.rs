//! The second connection: for contents that are too large to share the first one, and for listings.
//!
//! On one connection answers come in the order of their requests, so a look-up would wait for all
//! bytes of a large content before it. Here nobody waits but who wants the content. A large content
//! is read in pieces, and each piece that arrives is progress. What fails here says nothing of the
//! link.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisResult, Value};
use tokio::sync::{Mutex, RwLock, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use super::errors::{Effect, ServerError};
use super::link::{Backoff, Fault, Link, Reply, error_text};
use super::target::Target;
use crate::store::Health;
use crate::telemetry::metrics::metrics;

/// What is longer, sealed and with its header, travels here.
pub(super) const LARGE_BYTES: usize = 64 * 1024;
/// The slowest line on which a large save is taken.
const SLOWEST_BYTES_PER_MS: usize = 1024;
/// How many contents are read at once.
const TRANSFERS: usize = 4;
/// All contents that are being read together, at most. One that is larger is read alone.
pub(super) const MEMORY_KIB: u32 = 64 * 1024;

/// How long a change may take longer for the bytes that it carries.
pub(super) fn extra_time(bytes: usize) -> Duration {
    let ms = if bytes > LARGE_BYTES { bytes / SLOWEST_BYTES_PER_MS } else { 0 };
    Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
}

/// The connection, made when it is first needed.
pub(super) struct Bulk {
    target: Target,
    connect_within: Duration,
    held: Mutex<Held>,
    /// How many requests were sent.
    sent: AtomicU64,
    /// A change that carries much has the line for itself, so that its time is its own.
    line: RwLock<()>,
    /// How many contents may be read at once.
    pub transfers: Semaphore,
    /// Their size, KiB.
    pub memory: Semaphore,
}

#[derive(Default)]
struct Held {
    connection: Option<Made>,
    pauses: Backoff,
}

#[derive(Clone)]
struct Made {
    connection: MultiplexedConnection,
    at: Instant,
    /// The link's connection of that time: a newer one may lead to another server.
    generation: u64,
}

impl Bulk {
    pub(super) fn new(target: Target, connect_within: Duration) -> Self {
        Self {
            target,
            connect_within,
            held: Mutex::default(),
            sent: AtomicU64::new(0),
            line: RwLock::default(),
            transfers: Semaphore::new(TRANSFERS),
            memory: Semaphore::new(MEMORY_KIB as usize),
        }
    }

    /// Sends a command whose answer is a piece of a content.
    pub(super) async fn read(
        &self,
        link: &Link,
        command: &Cmd,
        bound: Duration,
    ) -> Result<Reply, Fault> {
        self.share(link, bound, async |connection| connection.send_packed_command(command).await)
            .await
    }

    /// Sends commands that read indexes. Redis would remember each key for the first connection, to tell of its changes
    /// ([`super::tracking`]), and for as long as it runs.
    pub(super) async fn read_all(
        &self,
        link: &Link,
        commands: &Pipeline,
        bound: Duration,
    ) -> Result<Reply, Fault> {
        self.share(link, bound, async |connection| {
            let answers = connection.send_packed_commands(commands, 0, commands.len()).await?;
            Ok(Value::Array(answers))
        })
        .await
    }

    /// Sends what others may send beside it.
    async fn share(
        &self,
        link: &Link,
        bound: Duration,
        send: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<Value>,
    ) -> Result<Reply, Fault> {
        let shared = timeout(bound, self.line.read()).await;
        let _shared = shared.map_err(|_| Fault::NotSent("a large save is under way".into()))?;
        self.request(link, bound, send).await
    }

    /// Sends a command that carries a content.
    pub(super) async fn write(
        &self,
        link: &Link,
        command: &Cmd,
        bound: Duration,
    ) -> Result<Reply, Fault> {
        let alone = timeout(bound, self.line.write()).await;
        let _alone = alone.map_err(|_| Fault::NotSent("another large save is under way".into()))?;
        self.request(link, bound, async |connection| connection.send_packed_command(command).await)
            .await
    }

    async fn request(
        &self,
        link: &Link,
        bound: Duration,
        send: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<Value>,
    ) -> Result<Reply, Fault> {
        let made = timeout(bound, self.connected(link)).await.unwrap_or_else(|_| {
            let (to, ms) = (&self.target, bound.as_millis());
            Err(Fault::NotSent(format!("a second connection to {to}: none within {ms} ms")))
        })?;
        metrics().redis_round_trips.inc();
        self.sent.fetch_add(1, Ordering::Relaxed);
        let sent_at = Instant::now();
        let mut connection = made.connection.clone();
        let answered = timeout(bound, send(&mut connection)).await;
        let Ok(answer) = answered else {
            metrics().redis_unanswered.inc();
            self.give_up(&made).await;
            return Err(Fault::NoAnswer(format!("no answer within {} ms", bound.as_millis())));
        };
        match answer.and_then(Value::extract_error) {
            Ok(value) => Ok(Reply { value, generation: made.generation, sent_at }),
            Err(error) => {
                let text = error_text(&error);
                if let Some(error) = ServerError::of(&error)
                    && link.met(made.generation, &error) != Effect::Lost
                {
                    return Err(Fault::Server(error, made.generation));
                }
                self.give_up(&made).await;
                Err(Fault::NoAnswer(text))
            }
        }
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// A connection to the server that the link leads to.
    async fn connected(&self, link: &Link) -> Result<Made, Fault> {
        if link.health() == Health::Down {
            return Err(Fault::NotSent(link.cause()));
        }
        let generation = link.generation();
        let mut held = self.held.lock().await;
        if let Some(made) = &held.connection
            && made.generation == generation
        {
            return Ok(made.clone());
        }
        let pause = held.pauses.next();
        sleep(pause).await;
        let connection = self.connect().await.map_err(|error| {
            let (to, why) = (&self.target, error_text(&error));
            Fault::NotSent(format!("a second connection to {to}: {why}"))
        })?;
        let made = Made { connection, at: Instant::now(), generation };
        held.connection = Some(made.clone());
        Ok(made)
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        self.target.connect(self.connect_within, |_| {}).await
    }

    /// What is still on its way by that connection would come before any later answer.
    async fn give_up(&self, made: &Made) {
        let mut held = self.held.lock().await;
        if held.connection.as_ref().is_some_and(|current| current.at == made.at) {
            held.connection = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_change_has_time_for_its_bytes() {
        assert_eq!(extra_time(LARGE_BYTES), Duration::ZERO);
        assert_eq!(extra_time(4 << 20), Duration::from_secs(4) + Duration::from_millis(96));
    }
}
