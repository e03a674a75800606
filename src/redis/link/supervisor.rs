//! The task that keeps the link connected.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rand::Rng as _;
use redis::aio::MultiplexedConnection;
use redis::{PushKind, RedisError, RedisResult, Value};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::state::Reach;
use super::{Shared, error_text};
use crate::redis::errors::{Effect, ServerError};
use crate::redis::greeting::Question;
use crate::redis::target::News;
use crate::redis::writes::Writes;
use crate::store::Health;
use crate::sync::lock;

/// How many attempts to connect may be under way. A host that does not answer holds each until
/// `connect` is over, and the next one may find it back.
const ATTEMPTS: usize = 8;
/// How often a server that refuses changes is asked whether it takes them again.
const PROBE_EVERY: Duration = Duration::from_millis(400);
/// How often one that is silent is asked whether it takes them still: who only waits must know that
/// the use of sessions could not be written down, before it judges one.
const PROBE_SILENT_EVERY: Duration = Duration::from_secs(5);

/// A connection that is greeted.
struct Greeted {
    generation: u64,
    connection: MultiplexedConnection,
    writes: Writes,
    /// Whether its server tells of changes.
    is_tracked: bool,
}

/// Keeps the link connected; never returns.
pub(super) async fn supervise(shared: Arc<Shared>) {
    let mut pauses = Backoff::default();
    let mut news = shared.target.news();
    loop {
        let greeted = reconnect(&shared, &mut pauses, &mut news).await;
        let Greeted { generation, connection, writes, is_tracked } = greeted;
        shared.connected(generation, connection, writes, is_tracked);
        attend(&shared, generation, &mut news).await;
    }
}

/// Connects again and again. An attempt that is not answered holds up no other.
async fn reconnect(shared: &Arc<Shared>, pauses: &mut Backoff, news: &mut News) -> Greeted {
    let mut attempts = JoinSet::new();
    let mut next_at = Instant::now() + pauses.next();
    loop {
        tokio::select! {
            () = sleep_until(next_at), if attempts.len() < ATTEMPTS => {
                attempts.spawn(Arc::clone(shared).connect());
                next_at = Instant::now() + pauses.next();
            }
            () = news.next() => next_at = Instant::now(),
            Some(attempt) = attempts.join_next() => match attempt {
                Ok(Ok(greeted)) => {
                    news.seen();
                    return greeted;
                }
                Ok(Err(cause)) => shared.still_lost(cause),
                // It has panicked; the next one is on its way.
                Err(_) => {}
            }
        }
    }
}

/// Watches connections until the last one is lost.
async fn attend(shared: &Arc<Shared>, mut generation: u64, news: &mut News) {
    let mut changes = shared.state.subscribe();
    let mut renewals = Backoff::default();
    let mut renew_at = Instant::now() + renewals.next();
    let mut renewal = JoinSet::new();
    let mut probe_at = Instant::now() + PROBE_EVERY;
    loop {
        let state = changes.borrow_and_update().clone();
        match state.reach {
            Reach::Lost => return,
            Reach::Overdue(since) => tokio::select! {
                _ = changes.changed() => {}
                () = shared.is_alive(generation, since) => {}
            },
            Reach::Connected => {
                let is_read_only = state.health() == Health::ReadOnly;
                let beat_at = *lock(&shared.last_answer) + shared.timing.heartbeat;
                tokio::select! {
                    _ = changes.changed() => {}
                    () = news.next() => {
                        renewal = JoinSet::new();
                        renew_at = Instant::now();
                        shared.renew(generation, "another server has its place");
                    }
                    () = sleep_until(renew_at), if state.renew.is_some() && renewal.is_empty() => {
                        renewal.spawn(Arc::clone(shared).connect());
                        renew_at = Instant::now() + renewals.next();
                    }
                    Some(renewed) = renewal.join_next() => {
                        if let Ok(Ok(greeted)) = renewed {
                            news.seen();
                            let Greeted { connection, writes, is_tracked, .. } = greeted;
                            generation = greeted.generation;
                            shared.connected(generation, connection, writes, is_tracked);
                        }
                    }
                    () = sleep_until(probe_at), if is_read_only => {
                        shared.probe_writes().await;
                        probe_at = Instant::now() + PROBE_EVERY;
                    }
                    () = sleep_until(beat_at) => {
                        if shared.silent_for() < shared.timing.heartbeat {
                            continue;
                        }
                        // Either is an answer.
                        if probe_at.elapsed() >= PROBE_SILENT_EVERY {
                            shared.probe_writes().await;
                            probe_at = Instant::now();
                        } else {
                            let _ = shared.beat(shared.overdue()).await;
                        }
                    }
                }
            }
        }
    }
}

impl Shared {
    /// Asks a connection on which a request is overdue, since then, whether it is alive. It is lost
    /// if nothing at all arrives for too long.
    async fn is_alive(&self, generation: u64, since: Instant) {
        let left = self.timing.down_after.saturating_sub(since.elapsed());
        let Err(fault) = self.beat(left.max(Duration::from_millis(1))).await else { return };
        if self.silent_for() >= self.timing.down_after {
            self.lost(generation, &fault.to_string());
        } else {
            // Other answers arrive: this one is queued behind them.
            self.answered_by(generation);
        }
    }

    /// Connects, and greets.
    async fn connect(self: Arc<Self>) -> Result<Greeted, String> {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        let shared: Weak<Self> = Arc::downgrade(&self);
        let bound = self.timing.connect;
        let greet = async {
            let mut connection = self
                .target
                .connect(bound, move |push| {
                    let Some(shared) = shared.upgrade() else { return };
                    match push.kind {
                        PushKind::Disconnection => {
                            shared.lost(generation, "the server closed the connection");
                        }
                        PushKind::Invalidate => shared.tracking.hear(&push),
                        _ => {}
                    }
                })
                .await?;
            self.greet(&mut connection)
                .await
                .map(|greeted| greeted.map(|(writes, is_tracked)| (connection, writes, is_tracked)))
        };
        match timeout(bound, greet).await {
            Ok(Ok(greeted)) => {
                let (connection, writes, is_tracked) = greeted?;
                Ok(Greeted { generation, connection, writes, is_tracked })
            }
            Ok(Err(error)) => Err(error_text(&error)),
            Err(_) => {
                Err(format!("{} did not answer within {} ms", self.target, bound.as_millis()))
            }
        }
    }

    /// Greets a connection: says whether it takes changes and whether its server tells of them, or why it must not be
    /// used. All is sent at once, so a slow line costs one round trip.
    async fn greet(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<Result<(Writes, bool), String>> {
        let mut commands = redis::pipe();
        let questions: Vec<_> = (self.greeting)()
            .into_iter()
            .map(|Question { command, hear }| {
                commands.add_command(command);
                hear
            })
            .collect();
        let probe = (self.probe)();
        for command in probe.commands() {
            commands.add_command(command.clone());
        }
        let tracking = self.tracking.command();
        if let Some(command) = &tracking {
            commands.add_command(command.clone());
        }
        self.count_sent();
        let sent_at = Instant::now();
        let mut answers = connection.send_packed_commands(&commands, 0, commands.len()).await?;
        let tracked = tracking.and_then(|_| answers.pop()).map(Value::extract_error);
        let mut answers = answers.into_iter().map(Value::extract_error);
        for (hear, answer) in questions.into_iter().zip(&mut answers) {
            if let Err(reason) = hear(answer?, sent_at) {
                return Ok(Err(reason));
            }
        }
        for answer in answers.by_ref().take(probe.reads.len()) {
            answer?;
        }
        let writes = answers
            .filter_map(Result::err)
            .find_map(|error| refusal(&error))
            .unwrap_or(Ok(Writes::Taken));
        if let Some(Err(error)) = &tracked {
            self.tracking.refused(&error_text(error));
        }
        Ok(writes.map(|writes| (writes, matches!(tracked, Some(Ok(_))))))
    }
}

/// What a server says by refusing a change on nothing, if it says anything.
fn refusal(error: &RedisError) -> Option<Result<Writes, String>> {
    let Some(error) = ServerError::of(error) else { return Some(Err(error_text(error))) };
    match error.code.effect() {
        Effect::Nothing => None,
        // It may be read, as was just seen: what it lacks is a right to change.
        Effect::Lost if !error.code.is_no_perm() => Some(Err(error.to_string())),
        Effect::Lost | Effect::ReadOnly => Some(Ok(Writes::Refused(error))),
    }
}

/// Growing pauses with jitter; forgets after a quiet time.
#[derive(Debug, Default)]
pub(in crate::redis) struct Backoff {
    tries: u32,
    last: Option<Instant>,
}

impl Backoff {
    const SHORTEST: Duration = Duration::from_millis(20);
    /// Whatever the cause was, its end is noticed within a second: this, and an attempt.
    const LONGEST: Duration = Duration::from_millis(500);
    const FORGET: Duration = Duration::from_secs(5);

    /// The next pause: none at first, then doubling from 20 ms to 500 ms, less up to half of it by
    /// chance, so that the servers do not reconnect in step.
    pub(in crate::redis) fn next(&mut self) -> Duration {
        let now = Instant::now();
        if self.last.is_some_and(|last| now - last > Self::FORGET) {
            self.tries = 0;
        }
        self.last = Some(now);
        let tries = self.tries;
        self.tries = self.tries.saturating_add(1);
        if tries == 0 {
            return Duration::ZERO;
        }
        let longest = Self::SHORTEST.saturating_mul(1 << (tries - 1).min(10)).min(Self::LONGEST);
        longest.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(), Duration::ZERO);
        let pauses: Vec<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(pauses[0] <= Backoff::SHORTEST && pauses[0] >= Backoff::SHORTEST / 2);
        assert!(pauses.iter().all(|pause| *pause <= Backoff::LONGEST));
        assert!(pauses[19] >= Backoff::LONGEST / 2);
    }
}
