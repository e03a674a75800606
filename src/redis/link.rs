//! The connection to Redis and its health. Nothing else knows either.
//!
//! There is one state ([`state`]), in a watch channel: the request that meets a fault changes it at
//! once, and one task ([`supervisor`]) reacts by a ping, by a probe of writes, or by a new
//! connection. Faults are reported with the generation of the connection they were seen on, so that
//! a late report cannot harm its successor. How long callers wait for it is in [`budget`].

mod budget;
mod pace;
mod state;
mod supervisor;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, Value};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

pub(super) use self::budget::Budgets;
use self::pace::Pace;
use self::state::State;
pub(super) use self::supervisor::Backoff;
use super::errors::{Effect, ErrorCode, ServerError};
use super::greeting::{Probe, Question};
use super::kept::Place;
use super::target::Target;
use super::tracking::Tracking;
use super::writes::Writes;
use crate::foreign::one_line;
use crate::store::{Health, StoreError, Wait, Waited};
use crate::sync::lock;
use crate::telemetry::links::Observed;
use crate::telemetry::metrics::metrics;

/// By how many times longer than a dead link is waited for a request waits that is queued behind
/// others while their answers arrive.
const QUEUED_FACTOR: u32 = 2;

/// The times by which the link judges and waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Connecting, authenticating and greeting take at most this long.
    pub connect: Duration,
    /// A request that is not answered within this makes the link degraded. On a line on which all
    /// answers take long it is more.
    pub overdue: Duration,
    /// No answer for this long in all, and the link is down.
    pub down_after: Duration,
    /// A link that has been silent for this long is pinged before a wait takes it for up.
    pub silent_ping: Duration,
    /// A link that has been silent for this long is pinged.
    pub heartbeat: Duration,
    /// The longest single wait.
    pub wait_step: Duration,
    /// All waits of an outage together.
    pub outage_budget: Duration,
    /// The same for background processes.
    pub background_budget: Duration,
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

/// The link; clones share it.
#[derive(Clone)]
pub(crate) struct Link(Arc<Shared>);

/// Gets an answer to `TIME`, and when that was sent.
type OnTime = dyn Fn(&Value, Instant) + Send + Sync;

struct Shared {
    target: Target,
    timing: Timing,
    /// Asked on each new connection, which is used once all is answered.
    greeting: Box<dyn Fn() -> Vec<Question> + Send + Sync>,
    probe: Box<dyn Fn() -> Probe + Send + Sync>,
    tracking: Arc<Tracking>,
    state: watch::Sender<State>,
    generations: AtomicU64,
    last_answer: Mutex<Instant>,
    pace: Mutex<Pace>,
    /// When it was probed last; held while a probe is under way.
    probed: tokio::sync::Mutex<Option<Instant>>,
    sent: AtomicU64,
    observed: Observed,
    on_time: Box<OnTime>,
    /// When it was made.
    began: Instant,
    /// Where its outages are kept for the next worker.
    kept: OnceLock<Place>,
}

impl Link {
    /// A link that is down, and the task that must run for it to come up. What `greeting` makes is
    /// asked on each new connection before it is used, and then the probe. `on_time` gets each answer
    /// to `TIME`, which is the heartbeat, and when it was sent.
    pub(crate) fn new(
        target: Target,
        timing: Timing,
        greeting: impl Fn() -> Vec<Question> + Send + Sync + 'static,
        probe: impl Fn() -> Probe + Send + Sync + 'static,
        tracking: Arc<Tracking>,
        on_time: impl Fn(&Value, Instant) + Send + Sync + 'static,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let now = Instant::now();
        let (state, _) = watch::channel(State::new(&timing, now));
        let link = Self(Arc::new(Shared {
            target,
            timing,
            greeting: Box::new(greeting),
            probe: Box::new(probe),
            tracking,
            state,
            generations: AtomicU64::new(0),
            last_answer: Mutex::new(now),
            pace: Mutex::default(),
            probed: tokio::sync::Mutex::default(),
            sent: AtomicU64::new(0),
            observed: Observed::new(),
            on_time: Box::new(on_time),
            began: now,
            kept: OnceLock::new(),
        }));
        let supervisor = supervisor::supervise(Arc::clone(&link.0));
        (link, supervisor)
    }

    /// How the link is, without asking it.
    pub(crate) fn health(&self) -> Health {
        self.0.state.borrow().health()
    }

    /// After how long a request is overdue here.
    pub(crate) fn overdue(&self) -> Duration {
        self.0.overdue()
    }

    /// Whether it is up and has answered a moment ago.
    pub(crate) fn is_fresh(&self) -> bool {
        self.health() == Health::Up && self.0.silent_for() < self.0.timing.silent_ping
    }

    /// Whether its server tells of each change of what was read by it.
    pub(crate) fn is_tracked(&self) -> bool {
        self.0.state.borrow().is_tracked
    }

    /// Counts connections; 0 before the first.
    pub(crate) fn generation(&self) -> u64 {
        self.0.state.borrow().generation
    }

    /// The server that it leads to, without credentials.
    pub(crate) fn server(&self) -> String {
        self.0.target.to_string()
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

    /// The same, for a key that this server is just being given by another one of its Cluster.
    pub(crate) async fn request_asking(
        &self,
        command: &Cmd,
        need: Need,
        bound: Duration,
    ) -> Result<Reply, Fault> {
        let mut commands = redis::pipe();
        commands.cmd("ASKING").add_command(command.clone());
        let reply = self.request_all(&commands, need, bound).await?;
        let Value::Array(answers) = reply.value else { return Ok(reply) };
        Ok(Reply { value: answers.into_iter().nth(1).unwrap_or(Value::Nil), ..reply })
    }

    /// Sends several commands at once; the answer is an array with theirs.
    pub(crate) async fn request_all(
        &self,
        commands: &Pipeline,
        need: Need,
        bound: Duration,
    ) -> Result<Reply, Fault> {
        self.0.ask_all(commands, need, bound).await
    }

    /// Notes an error of the server that came by this connection, directly or in a script.
    pub(super) fn met(&self, generation: u64, error: &ServerError) -> Effect {
        self.0.met(generation, error)
    }

    /// Whether changes are taken, as was seen last.
    pub(crate) fn writes(&self) -> Writes {
        self.0.state.borrow().writes.clone()
    }

    /// Whether changes are refused because the server's memory is full.
    pub(crate) fn is_full(&self) -> bool {
        let state = self.0.state.borrow();
        matches!(&state.writes, Writes::Refused(error) if error.code == ErrorCode::Oom)
    }

    /// A save was taken by this connection. It may do without a right that another change needs.
    pub(crate) fn taken(&self, generation: u64) {
        if !self.0.lacks_a_right() {
            self.0.writable(generation);
        }
    }

    /// Asks whether changes are taken, unless that was done within `unless`.
    pub(crate) async fn ask_writes(&self, unless: Duration) {
        let mut probed = self.0.probed.lock().await;
        if probed.is_none_or(|at| at.elapsed() >= unless) && self.health().is_readable() {
            *probed = Some(Instant::now());
            self.0.probe_writes().await;
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
            timeout_at(deadline, state.wait_for(|state| state.health() != Health::Down)).await,
            Ok(Ok(_))
        )
    }

    /// Waits until a connection takes changes that is newer than `generation`; false if there is none
    /// by `deadline`.
    pub(crate) async fn newer(&self, generation: u64, deadline: Instant) -> bool {
        let mut state = self.0.state.subscribe();
        matches!(
            timeout_at(
                deadline,
                state.wait_for(|s| s.health() == Health::Up && s.generation > generation)
            )
            .await,
            Ok(Ok(_))
        )
    }

    /// Nobody uses it from now on, for this reason.
    pub(crate) fn retire(&self, cause: &str) {
        self.0.retire(cause);
    }

    /// For how long it could not be read (and changed, if `writes`), if it cannot.
    pub(crate) fn outage(&self, writes: bool) -> Option<Duration> {
        let since = self.0.state.borrow().budget(writes).since();
        since.map(|since| since.elapsed())
    }

    /// Nobody has waited for it until now: it was not served yet.
    pub(crate) fn forget_outages(&self) {
        self.0.state.send_modify(State::forget_outages);
    }

    /// For how long somebody may have waited for it who asks now.
    pub(crate) fn waited(&self) -> Duration {
        self.0.state.borrow().budget(true).waited()
    }

    /// For how long the use of a session may not have been written down.
    pub(crate) fn unwritten(&self) -> Duration {
        self.0.state.borrow().budgets.unwritten()
    }

    /// Goes on with the outages of the worker before, and leaves them to the next one.
    pub(super) fn take_up(&self, place: Place, former: Option<Budgets>) {
        self.0.take_up(place, former);
    }

    /// Whether the current outage, if there is one, has used up its budget.
    pub(crate) fn budget_spent(&self) -> bool {
        let over = self.0.state.borrow().budget(false).over(self.0.timing.outage_budget);
        over.is_some_and(|over| over <= Instant::now())
    }

    /// Waits until the link is as `wait` needs it, at most one step, within the one budget of the
    /// outage. Asks a link that has been silent.
    pub(crate) async fn wait_up(&self, wait: Wait) -> Waited {
        let timing = &self.0.timing;
        let most = if wait.background { timing.background_budget } else { timing.outage_budget };
        let step_over = Instant::now() + timing.wait_step;
        if self.health().is_readable() && self.0.silent_for() >= timing.silent_ping {
            // What becomes of it is seen in the health.
            let _ = self.0.beat(timing.down_after).await;
        }
        let mut state = self.0.state.subscribe();
        loop {
            let budget_over = {
                let state = state.borrow_and_update();
                let health = state.health();
                if health == Health::Up || (health.is_readable() && !wait.writes) {
                    return Waited::Up;
                }
                let over = state.budget(wait.writes).over(most);
                over.unwrap_or_else(|| Instant::now() + most)
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
            match (&state.connection, state.health(), need) {
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
                let took = sent_at.elapsed();
                metrics().redis_latency.observe(took);
                lock(&self.pace).answered(took);
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
        let mut step = bound.min(self.overdue());
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
            if now >= alive_at + self.overdue() {
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
                self.answered_by(generation);
                return Ok(Reply { value, generation, sent_at });
            }
            Err(error) => error,
        };
        let text = error_text(&error);
        let Some(error) = ServerError::of(&error) else {
            self.lost(generation, &text);
            return Err(Fault::NoAnswer(text));
        };
        self.answered_by(generation);
        match self.met(generation, &error) {
            Effect::Lost => Err(Fault::NoAnswer(text)),
            Effect::ReadOnly | Effect::Nothing => Err(Fault::Server(error, generation)),
        }
    }

    /// Draws from an error of the server what it says of the connection.
    fn met(&self, generation: u64, error: &ServerError) -> Effect {
        let effect = match error.code.effect() {
            // It is known to be one that reads do without, and the probe goes on asking.
            Effect::Lost if error.code.is_no_perm() && self.lacks_a_right() => Effect::ReadOnly,
            effect => effect,
        };
        match effect {
            Effect::Nothing => {}
            Effect::Lost => self.lost(generation, error.words()),
            Effect::ReadOnly => self.read_only(generation, error),
        }
        effect
    }

    async fn ask_all(
        &self,
        commands: &Pipeline,
        need: Need,
        bound: Duration,
    ) -> Result<Reply, Fault> {
        self.ask(need, bound, async |connection| {
            let answers = connection.send_packed_commands(commands, 0, commands.len()).await?;
            Value::Array(answers).extract_error()
        })
        .await
    }

    /// Does all that sessions need, on nothing. What becomes of it is seen in the state.
    async fn probe_writes(&self) {
        let mut commands = redis::pipe();
        for command in (self.probe)().commands() {
            commands.add_command(command.clone());
        }
        let bound = self.overdue().max(self.timing.down_after / 2);
        if let Ok(reply) = self.ask_all(&commands, Need::Connected, bound).await {
            self.writable(reply.generation);
        }
    }

    fn overdue(&self) -> Duration {
        lock(&self.pace).overdue(self.timing.overdue, self.timing.down_after)
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

#[cfg(test)]
mod tests {
    use super::super::access::Access;
    use super::super::credentials::Credentials;
    use super::super::endpoint::{Address, Endpoint};
    use super::super::keys::Keys;
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
            background_budget: second,
        };
        let endpoint = Endpoint::parse("redis://nowhere.invalid").expect("a good URL");
        let access = Access::to_servers(&endpoint, &Credentials::default());
        let at = Address::Tcp("nowhere.invalid".into(), 6379);
        let target = Target::fixed(access, at, endpoint.to_string());
        let tracking = Arc::new(Tracking::new(Keys::new("p"), false));
        let (link, _) = Link::new(target, timing, Vec::new, Probe::default, tracking, |_, _| {});
        link.0.state.send_modify(|state| {
            state.reach = state::Reach::Connected;
            state.generation = 2;
        });
        link.0.lost(1, "late");
        link.0.degrade(1, Instant::now());
        link.met(1, &"READONLY".into());
        assert_eq!(link.health(), Health::Up);
        assert!(link.0.state.borrow().renew.is_none());
        link.0.degrade(2, Instant::now());
        assert_eq!(link.health(), Health::Degraded);
        link.0.answered_by(1);
        assert_eq!(link.health(), Health::Degraded);
        link.0.answered_by(2);
        assert_eq!(link.health(), Health::Up);
        link.met(2, &"READONLY".into());
        assert!(link.0.state.borrow().renew.is_some());
        assert_eq!(link.health(), Health::ReadOnly);
        link.taken(1);
        assert_eq!(link.health(), Health::ReadOnly);
        link.taken(2);
        assert_eq!(link.health(), Health::Up);
        link.0.lost(2, "gone");
        assert_eq!(link.health(), Health::Down);
    }
}
