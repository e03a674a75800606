//! The connection to Redis and its health. Nothing else knows either.
//!
//! There is one state, in a watch channel: the request that meets a fault changes it at once, and
//! one supervisor task reacts by a ping, or by a new connection. Faults are reported with the
//! generation of the connection they were seen on, so that a late report cannot harm its
//! successor.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rand::Rng as _;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, PushKind, RedisError, Value};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::endpoint::Endpoint;
use super::errors::ServerError;
use super::greeting::Question;
use crate::foreign::one_line;
use crate::store::{Health, StoreError, Waited};
use crate::sync::lock;
use crate::telemetry::Event;
use crate::telemetry::metrics::metrics;

/// By how many times longer than a dead link is waited for a request waits that is queued behind
/// others while their answers arrive.
const QUEUED_FACTOR: u32 = 2;

/// The times by which the link judges and waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Connecting, authenticating and greeting take at most this long.
    pub connect: Duration,
    /// A request that is not answered within this makes the link degraded.
    pub overdue: Duration,
    /// No answer for this long in all, and the link is down.
    pub down_after: Duration,
    /// A link that has been silent for this long is pinged before a wait takes it for up.
    pub silent_ping: Duration,
    /// A link that has been silent for this long is pinged.
    pub heartbeat: Duration,
    /// The longest single wait.
    pub wait_step: Duration,
    /// All waits together. What an outage spends comes back while the link is up, second for
    /// second.
    pub outage_budget: Duration,
}

/// The state that the link must have for a request to be sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Need {
    /// Nothing may be overdue: for what must be answered soon or not be sent at all.
    Up,
    /// There must be a connection.
    Connected,
}

/// Why there is no answer to a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    NotSent(String),
    /// It was sent, and perhaps carried out.
    NoAnswer(String),
    /// The server answered with this error, by the connection of this generation.
    Server(ServerError, u64),
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NotSent(text) | Fault::NoAnswer(text) => Self::Unavailable(text),
            Fault::Server(error, _) => error.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(text) | Self::NoAnswer(text) => f.write_str(text),
            Self::Server(error, _) => error.fmt(f),
        }
    }
}

/// An answer, and the connection it came by.
#[derive(Debug)]
pub(crate) struct Reply {
    /// What the server said; no error.
    pub value: Value,
    /// Names the connection for [`Link::refused`].
    pub generation: u64,
    /// When the request was sent.
    pub sent_at: Instant,
}

#[derive(Clone)]
struct State {
    health: Health,
    connection: Option<MultiplexedConnection>,
    /// Counts connections; 0 before the first.
    generation: u64,
    /// Since when the link has not been up.
    outage: Option<Instant>,
    /// What was spent of the budget before that; while the link is up, by its last outage.
    spent: Duration,
    /// When that ended.
    up_since: Option<Instant>,
    /// Since when it is degraded.
    degraded: Option<Instant>,
    /// Why another connection is wanted although this one answers: its server takes no writes,
    /// and the name may lead to another one by now.
    renew: Option<String>,
    cause: String,
}

impl State {
    /// The link is not up, since then. A link that was up for a moment only has no new budget.
    fn begin_outage(&mut self, since: Instant) {
        if self.outage.is_none() {
            let up = self.up_since.map_or(Duration::ZERO, |at| since.saturating_duration_since(at));
            self.spent = self.spent.saturating_sub(up);
            self.outage = Some(since);
        }
    }

    fn end_outage(&mut self, budget: Duration) {
        if let Some(since) = self.outage.take() {
            self.spent = (self.spent + since.elapsed()).min(budget);
            self.up_since = Some(Instant::now());
        }
    }

    /// When the budget of the outage is spent.
    fn budget_over(&self, budget: Duration) -> Option<Instant> {
        self.outage.map(|since| since + budget.saturating_sub(self.spent))
    }
}

/// The link; clones share it.
#[derive(Clone)]
pub(crate) struct Link(Arc<Shared>);

/// Gets an answer to `TIME`, and when that was sent.
type OnTime = dyn Fn(&Value, Instant) + Send + Sync;

struct Shared {
    endpoint: Endpoint,
    timing: Timing,
    /// Asked on each new connection, which is used once all is answered.
    greeting: Box<dyn Fn() -> Vec<Question> + Send + Sync>,
    state: watch::Sender<State>,
    generations: AtomicU64,
    last_answer: Mutex<Instant>,
    sent: AtomicU64,
    on_time: Box<OnTime>,
}

impl Link {
    /// A link that is down, and the task that must run for it to come up. What `greeting` makes is
    /// asked on each new connection before it is used. `on_time` gets each answer to `TIME`, which
    /// is the heartbeat, and when it was sent.
    pub(crate) fn new(
        endpoint: Endpoint,
        timing: Timing,
        greeting: impl Fn() -> Vec<Question> + Send + Sync + 'static,
        on_time: impl Fn(&Value, Instant) + Send + Sync + 'static,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let now = Instant::now();
        let (state, _) = watch::channel(State {
            health: Health::Down,
            connection: None,
            generation: 0,
            outage: Some(now),
            spent: Duration::ZERO,
            up_since: None,
            degraded: None,
            renew: None,
            cause: "not connected yet".into(),
        });
        let link = Self(Arc::new(Shared {
            endpoint,
            timing,
            greeting: Box::new(greeting),
            state,
            generations: AtomicU64::new(0),
            last_answer: Mutex::new(now),
            sent: AtomicU64::new(0),
            on_time: Box::new(on_time),
        }));
        let supervisor = supervise(Arc::clone(&link.0));
        (link, supervisor)
    }

    /// How the link is, without asking it.
    pub(crate) fn health(&self) -> Health {
        self.0.state.borrow().health
    }

    /// Whether it is up and has answered a moment ago.
    pub(crate) fn is_fresh(&self) -> bool {
        self.health() == Health::Up && self.0.silent_for() < self.0.timing.silent_ping
    }

    /// Counts connections; 0 before the first.
    pub(crate) fn generation(&self) -> u64 {
        self.0.state.borrow().generation
    }

    /// What was seen last.
    pub(crate) fn cause(&self) -> String {
        self.0.state.borrow().cause.clone()
    }

    /// How many requests were sent, heartbeats included.
    pub(crate) fn sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// Sends one command and waits for its answer, at most for `bound`.
    pub(crate) async fn request(
        &self,
        command: &Cmd,
        need: Need,
        bound: Duration,
    ) -> Result<Reply, Fault> {
        self.0
            .ask(need, bound, async |connection| {
                connection.send_packed_command(command).await.and_then(Value::extract_error)
            })
            .await
    }

    /// Sends several commands at once; the answer is an array with theirs.
    pub(crate) async fn request_all(
        &self,
        commands: &redis::Pipeline,
        need: Need,
        bound: Duration,
    ) -> Result<Reply, Fault> {
        self.0
            .ask(need, bound, async |connection| {
                let answers = connection.send_packed_commands(commands, 0, commands.len()).await?;
                Value::Array(answers).extract_error()
            })
            .await
    }

    /// Notes an error that a script met: if another server may be the master by now, a new
    /// connection is made while this one stays in use.
    pub(crate) fn refused(&self, generation: u64, error: &ServerError) {
        if error.code.may_move() {
            self.0.renew(generation, error.words());
        }
    }

    /// What this connection leads to must not be used any more.
    pub(crate) fn lost(&self, generation: u64, cause: &str) {
        self.0.lost(generation, cause);
    }

    /// Waits until the link is not down, at most until `deadline`; false if it still is.
    pub(crate) async fn up(&self, deadline: Instant) -> bool {
        let mut state = self.0.state.subscribe();
        matches!(
            timeout_at(deadline, state.wait_for(|state| state.health != Health::Down)).await,
            Ok(Ok(_))
        )
    }

    /// Waits until a connection is up that is newer than `generation`; false if there is none by `deadline`.
    pub(crate) async fn newer(&self, generation: u64, deadline: Instant) -> bool {
        let mut state = self.0.state.subscribe();
        matches!(
            timeout_at(
                deadline,
                state.wait_for(|s| s.health == Health::Up && s.generation > generation)
            )
            .await,
            Ok(Ok(_))
        )
    }

    /// How long the current outage lasts, if there is one.
    pub(crate) fn outage(&self) -> Option<Duration> {
        let since = self.0.state.borrow().outage;
        since.map(|since| since.elapsed())
    }

    /// Whether the current outage, if there is one, has used up its budget.
    pub(crate) fn budget_spent(&self) -> bool {
        let over = self.0.state.borrow().budget_over(self.0.timing.outage_budget);
        over.is_some_and(|over| over <= Instant::now())
    }

    /// Waits until the link is up, at most one step, within the one budget of the outage. Asks a link
    /// that has been silent.
    pub(crate) async fn wait_up(&self) -> Waited {
        let timing = &self.0.timing;
        let step_over = Instant::now() + timing.wait_step;
        if self.health() == Health::Up && self.0.silent_for() >= timing.silent_ping {
            // What becomes of it is seen in the health.
            let _ = self.0.beat(timing.down_after).await;
        }
        let mut state = self.0.state.subscribe();
        loop {
            let budget_over = {
                let state = state.borrow_and_update();
                if state.health == Health::Up {
                    return Waited::Up;
                }
                let over = state.budget_over(timing.outage_budget);
                over.unwrap_or_else(|| Instant::now() + timing.outage_budget)
            };
            if Instant::now() >= budget_over {
                return Waited::BudgetSpent;
            }
            match timeout_at(step_over.min(budget_over), state.changed()).await {
                Ok(Ok(())) => {}
                Err(_) if step_over <= budget_over => return Waited::StepOver,
                // The budget is spent, or (which cannot be) nobody will ever connect again.
                Ok(Err(_)) | Err(_) => return Waited::BudgetSpent,
            }
        }
    }
}

impl Shared {
    async fn ask<F>(&self, need: Need, bound: Duration, send: F) -> Result<Reply, Fault>
    where
        F: AsyncFnOnce(&mut MultiplexedConnection) -> Result<Value, RedisError>,
    {
        let (mut connection, generation) = {
            let state = self.state.borrow();
            match (&state.connection, state.health, need) {
                (None, ..) | (_, Health::Down, _) | (_, Health::Degraded, Need::Up) => {
                    return Err(Fault::NotSent(state.cause.clone()));
                }
                (Some(connection), ..) => (connection.clone(), state.generation),
            }
        };
        self.count_sent();
        let sent_at = Instant::now();
        let answer = send(&mut connection);
        tokio::pin!(answer);
        match self.answered(generation, sent_at, bound, answer).await {
            None => {
                metrics().redis_unanswered.inc();
                Err(Fault::NoAnswer(format!("no answer within {} ms", bound.as_millis())))
            }
            Some(answered) => {
                metrics().redis_latency.observe(sent_at.elapsed());
                self.judge(generation, sent_at, answered)
            }
        }
    }

    /// Waits for an answer: for `bound` after the last sign of life. Answers come in the order of
    /// their requests, so while others arrive this one is in the queue behind them, and the link is
    /// not at fault.
    async fn answered<T>(
        &self,
        generation: u64,
        sent_at: Instant,
        bound: Duration,
        mut answer: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        let last = sent_at + bound.max(self.timing.down_after * QUEUED_FACTOR);
        let mut step = bound.min(self.timing.overdue);
        loop {
            let alive_at = sent_at.max(*lock(&self.last_answer));
            if let Ok(answered) = timeout_at(last.min(alive_at + step), &mut answer).await {
                return Some(answered);
            }
            // When this process itself was held up, the answer lies in the socket already: it is
            // read before the link is called degraded.
            if let Ok(answered) = timeout(Duration::from_millis(1), &mut answer).await {
                return Some(answered);
            }
            let now = Instant::now();
            if now >= last {
                return None;
            }
            if *lock(&self.last_answer) > alive_at {
                continue;
            }
            if now >= alive_at + self.timing.overdue {
                self.degrade(generation, alive_at);
            }
            if now >= alive_at + bound {
                return None;
            }
            step = bound;
        }
    }

    fn count_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        metrics().redis_round_trips.inc();
    }

    fn judge(
        &self,
        generation: u64,
        sent_at: Instant,
        answer: Result<Value, RedisError>,
    ) -> Result<Reply, Fault> {
        let error = match answer {
            Ok(value) => {
                *lock(&self.last_answer) = Instant::now();
                return Ok(Reply { value, generation, sent_at });
            }
            Err(error) => error,
        };
        if let Some(error) = ServerError::of(&error)
            && !error.code.ends_connection()
        {
            *lock(&self.last_answer) = Instant::now();
            if error.code.may_move() {
                self.renew(generation, error.words());
            }
            return Err(Fault::Server(error, generation));
        }
        let text = error_text(&error);
        self.lost(generation, &text);
        Err(Fault::NoAnswer(text))
    }

    fn silent_for(&self) -> Duration {
        lock(&self.last_answer).elapsed()
    }

    /// Sends `TIME`: any answer is a heartbeat, and this one also carries Redis's clock.
    async fn beat(&self, bound: Duration) -> Result<(), Fault> {
        let reply = self
            .ask(Need::Connected, bound, async |connection| {
                connection.send_packed_command(&time_command()).await.and_then(Value::extract_error)
            })
            .await?;
        (self.on_time)(&reply.value, reply.sent_at);
        Ok(())
    }

    fn degrade(&self, generation: u64, since: Instant) {
        let changed = self.state.send_if_modified(|state| {
            let was_up = state.generation == generation && state.health == Health::Up;
            if was_up {
                state.health = Health::Degraded;
                state.begin_outage(since);
                state.degraded = Some(since);
                state.cause = "a request is overdue".into();
            }
            was_up
        });
        if changed {
            Event::Link { state: Health::Degraded, cause: "a request is overdue" }.emit();
        }
    }

    fn recovered(&self, generation: u64) {
        let changed = self.state.send_if_modified(|state| {
            let was_degraded = state.generation == generation && state.health == Health::Degraded;
            if was_degraded {
                state.health = Health::Up;
                state.end_outage(self.timing.outage_budget);
                state.degraded = None;
            }
            was_degraded
        });
        if changed {
            Event::Link { state: Health::Up, cause: "it answers again" }.emit();
        }
    }

    fn lost(&self, generation: u64, cause: &str) {
        let changed = self.state.send_if_modified(|state| {
            let current = state.generation == generation && state.health != Health::Down;
            if current {
                state.health = Health::Down;
                state.connection = None;
                state.begin_outage(Instant::now());
                state.degraded = None;
                state.renew = None;
                cause.clone_into(&mut state.cause);
            }
            current
        });
        if changed {
            Event::Link { state: Health::Down, cause }.emit();
        }
    }

    fn renew(&self, generation: u64, cause: &str) {
        self.state.send_if_modified(|state| {
            let wanted = state.generation == generation && state.renew.is_none();
            if wanted {
                state.renew = Some(cause.to_owned());
            }
            wanted
        });
    }

    /// A new connection takes the place of whatever there was.
    fn connected(&self, generation: u64, connection: MultiplexedConnection) {
        let mut was = Health::Up;
        let cause = format!("connected to {}", self.endpoint);
        *lock(&self.last_answer) = Instant::now();
        self.state.send_modify(|state| {
            was = state.health;
            state.end_outage(self.timing.outage_budget);
            state.health = Health::Up;
            state.connection = Some(connection);
            state.generation = generation;
            state.degraded = None;
            state.renew = None;
            state.cause.clone_from(&cause);
        });
        if was != Health::Up {
            Event::Link { state: Health::Up, cause: &cause }.emit();
        }
    }

    async fn connect(self: &Arc<Self>) -> Result<(u64, MultiplexedConnection), String> {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        let shared: Weak<Self> = Arc::downgrade(self);
        let bound = self.timing.connect;
        let greet = async {
            let mut connection = self
                .endpoint
                .connect(bound, move |push| {
                    if push.kind == PushKind::Disconnection
                        && let Some(shared) = shared.upgrade()
                    {
                        shared.lost(generation, "the server closed the connection");
                    }
                })
                .await?;
            for Question { command, hear } in (self.greeting)() {
                self.count_sent();
                let sent_at = Instant::now();
                let answer = connection.send_packed_command(&command).await?.extract_error()?;
                if let Err(reason) = hear(answer, sent_at) {
                    return Ok(Err(reason));
                }
            }
            Ok::<_, RedisError>(Ok(connection))
        };
        match timeout(bound, greet).await {
            Ok(Ok(greeted)) => Ok((generation, greeted?)),
            Ok(Err(error)) => Err(error_text(&error)),
            Err(_) => {
                Err(format!("{} did not answer within {} ms", self.endpoint, bound.as_millis()))
            }
        }
    }
}

/// Keeps the link connected; never returns.
async fn supervise(shared: Arc<Shared>) {
    let mut backoff = Backoff::default();
    loop {
        sleep_until(Instant::now() + backoff.next()).await;
        match shared.connect().await {
            Ok((generation, connection)) => {
                shared.connected(generation, connection);
                attend(&shared, generation).await;
            }
            Err(cause) => {
                let news = shared.state.send_if_modified(|state| {
                    let news = state.cause != cause;
                    state.cause.clone_from(&cause);
                    news
                });
                if news {
                    Event::Link { state: Health::Down, cause: &cause }.emit();
                }
            }
        }
    }
}

/// Watches connections until the last one is lost.
async fn attend(shared: &Arc<Shared>, mut generation: u64) {
    let mut changes = shared.state.subscribe();
    let mut renewals = Backoff::default();
    let mut renew_at = Instant::now() + renewals.next();
    loop {
        let state = changes.borrow_and_update().clone();
        match state.health {
            Health::Down => return,
            Health::Degraded => {
                let since = state.degraded.unwrap_or_else(Instant::now);
                let left = shared.timing.down_after.saturating_sub(since.elapsed());
                let mut watching = changes.clone();
                tokio::select! {
                    answered = shared.beat(left.max(Duration::from_millis(1))) => match answered {
                        Ok(()) | Err(Fault::Server(..)) => shared.recovered(generation),
                        Err(fault) => shared.lost(generation, &fault.to_string()),
                    },
                    () = gone(&mut watching) => {}
                }
            }
            Health::Up => {
                let beat_at = *lock(&shared.last_answer) + shared.timing.heartbeat;
                tokio::select! {
                    _ = changes.changed() => {}
                    () = sleep_until(renew_at), if state.renew.is_some() => {
                        if let Ok((newer, connection)) = shared.connect().await {
                            generation = newer;
                            shared.connected(generation, connection);
                        }
                        renew_at = Instant::now() + renewals.next();
                    }
                    () = sleep_until(beat_at) => {
                        if shared.silent_for() >= shared.timing.heartbeat {
                            let _ = shared.beat(shared.timing.overdue).await;
                        }
                    }
                }
            }
        }
    }
}

async fn gone(changes: &mut watch::Receiver<State>) {
    let _ = changes.wait_for(|state| state.health == Health::Down).await;
}

fn time_command() -> Cmd {
    redis::cmd("TIME")
}

/// An error in one line; no error of the crate holds a password.
pub(super) fn error_text(error: &RedisError) -> String {
    match ServerError::of(error) {
        Some(error) => error.to_string(),
        None => one_line(&error.to_string()),
    }
}

/// Growing pauses with jitter; forgets after a quiet time.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
    last: Option<Instant>,
}

impl Backoff {
    const SHORTEST: Duration = Duration::from_millis(20);
    const LONGEST: Duration = Duration::from_secs(1);
    const FORGET: Duration = Duration::from_secs(5);

    /// The next pause: none at first, then doubling from 20 ms to 1 s, less up to half of it by
    /// chance, so that the servers do not reconnect in step.
    pub(super) fn next(&mut self) -> Duration {
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
    fn a_late_report_about_an_old_connection_is_ignored() {
        let second = Duration::from_secs(1);
        let timing = Timing {
            connect: second,
            overdue: second,
            down_after: second,
            silent_ping: second,
            heartbeat: second,
            wait_step: second,
            outage_budget: second,
        };
        let endpoint = Endpoint::parse("redis://nowhere.invalid").expect("a good URL");
        let (link, _) = Link::new(endpoint, timing, Vec::new, |_, _| {});
        link.0.state.send_modify(|state| {
            state.health = Health::Up;
            state.generation = 2;
            state.outage = None;
        });
        link.0.lost(1, "late");
        link.0.degrade(1, Instant::now());
        link.refused(1, &"READONLY".into());
        assert_eq!(link.health(), Health::Up);
        assert!(link.0.state.borrow().renew.is_none());
        link.0.degrade(2, Instant::now());
        assert_eq!(link.health(), Health::Degraded);
        link.0.recovered(1);
        assert_eq!(link.health(), Health::Degraded);
        link.0.recovered(2);
        assert_eq!(link.health(), Health::Up);
        link.refused(2, &"READONLY".into());
        assert!(link.0.state.borrow().renew.is_some());
        link.0.lost(2, "gone");
        assert_eq!(link.health(), Health::Down);
    }

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
