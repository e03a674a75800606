//! The state of the link, and how it changes.

use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use super::budget::Budget;
use super::{Shared, Timing};
use crate::redis::errors::{ErrorCode, ServerError};
use crate::redis::writes::Writes;
use crate::store::Health;
use crate::sync::lock;
use crate::telemetry::Event;

/// How the server is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reach {
    Connected,
    /// Since then a request is overdue.
    Overdue(Instant),
    Lost,
}

#[derive(Clone)]
pub(super) struct State {
    pub reach: Reach,
    /// Whether the connection takes changes.
    pub writes: Writes,
    pub connection: Option<MultiplexedConnection>,
    /// Counts connections; 0 before the first.
    pub generation: u64,
    /// Why another connection is wanted although this one answers: its server takes no writes,
    /// and the name may lead to another one by now.
    pub renew: Option<String>,
    /// What was seen last, in words.
    pub cause: String,
    /// The causes of this loss that were logged: each once, and not more than a few.
    told: Vec<String>,
    /// For the time in which it cannot be read.
    pub unreadable: Budget,
    /// For the time in which it takes no changes.
    pub unwritable: Budget,
}

/// What a line of the log says: another line follows when it is another one.
#[derive(Debug, Eq, PartialEq)]
enum Said {
    Up,
    ReadOnly(ErrorCode),
    Degraded,
    /// How many causes are known.
    Down(usize),
}

/// As many causes of one loss are logged.
const MOST_TOLD: usize = 3;

impl State {
    /// There has been no connection yet.
    pub(super) fn new(timing: &Timing, now: Instant) -> Self {
        Self {
            reach: Reach::Lost,
            writes: Writes::Unknown,
            connection: None,
            generation: 0,
            renew: None,
            cause: "not connected yet".into(),
            told: Vec::new(),
            unreadable: Budget::new(timing.outage_budget, now),
            unwritable: Budget::new(timing.outage_budget, now),
        }
    }

    pub(super) fn health(&self) -> Health {
        match (self.reach, &self.writes) {
            (Reach::Lost, _) => Health::Down,
            (Reach::Overdue(_), _) => Health::Degraded,
            (Reach::Connected, Writes::Refused(_)) => Health::ReadOnly,
            (Reach::Connected, Writes::Unknown | Writes::Taken) => Health::Up,
        }
    }

    /// Nobody has waited until now.
    pub(super) fn forget_outages(&mut self) {
        self.unreadable.forget();
        self.unwritable.forget();
    }

    /// The budget of outages in which sessions cannot be read, or not be changed.
    pub(super) fn budget(&self, writes: bool) -> &Budget {
        if writes { &self.unwritable } else { &self.unreadable }
    }

    /// Notes the cause of a loss, if it is a new one.
    fn tell_cause(&mut self) {
        if self.reach != Reach::Lost {
            self.told.clear();
        } else if self.told.len() < MOST_TOLD && !self.told.contains(&self.cause) {
            self.told.push(self.cause.clone());
        }
    }

    fn said(&self) -> Said {
        match (self.reach, &self.writes) {
            (Reach::Lost, _) => Said::Down(self.told.len()),
            (Reach::Overdue(_), _) => Said::Degraded,
            (Reach::Connected, Writes::Refused(error)) => Said::ReadOnly(error.code.kind()),
            (Reach::Connected, Writes::Unknown | Writes::Taken) => Said::Up,
        }
    }
}

impl Shared {
    /// Changes the state by what was seen at `at`, if `change` says that it has. What is new for an
    /// administrator is logged: one line.
    fn change(&self, at: Instant, change: impl FnOnce(&mut State) -> bool) {
        let mut news = None;
        self.state.send_if_modified(|state| {
            let before = state.said();
            if !change(state) {
                return false;
            }
            let health = state.health();
            state.unreadable.follow(!health.is_readable(), at);
            state.unwritable.follow(health != Health::Up, at);
            state.tell_cause();
            if state.said() != before {
                news = Some((health, state.cause.clone()));
            }
            true
        });
        if let Some((state, cause)) = news {
            Event::Link { state, cause: &cause }.emit();
        }
    }

    /// A request by this connection is overdue, since then.
    pub(super) fn degrade(&self, generation: u64, since: Instant) {
        self.change(since, |state| {
            let changes = state.generation == generation && state.reach == Reach::Connected;
            if changes {
                state.reach = Reach::Overdue(since);
                state.cause = "a request is overdue".into();
            }
            changes
        });
    }

    /// It has answered.
    pub(super) fn answered_by(&self, generation: u64) {
        *lock(&self.last_answer) = Instant::now();
        // Every answer comes here: nothing is locked for writing while nothing changes.
        if !matches!(self.state.borrow().reach, Reach::Overdue(_)) {
            return;
        }
        self.change(Instant::now(), |state| {
            let changes =
                state.generation == generation && matches!(state.reach, Reach::Overdue(_));
            if changes {
                state.reach = Reach::Connected;
                state.cause = match &state.writes {
                    Writes::Refused(error) => error.words().to_owned(),
                    Writes::Unknown | Writes::Taken => "it answers again".into(),
                };
            }
            changes
        });
    }

    /// It is of no use any more.
    pub(super) fn lost(&self, generation: u64, cause: &str) {
        self.change(Instant::now(), |state| {
            let changes = state.generation == generation && state.reach != Reach::Lost;
            if changes {
                state.reach = Reach::Lost;
                state.writes = Writes::Unknown;
                state.connection = None;
                state.renew = None;
                cause.clone_into(&mut state.cause);
            }
            changes
        });
    }

    /// There is still no connection.
    pub(super) fn still_lost(&self, cause: String) {
        self.change(Instant::now(), |state| {
            let changes = state.reach == Reach::Lost && state.cause != cause;
            if changes {
                state.cause = cause;
            }
            changes
        });
    }

    /// Whether it refuses changes because our user may not make them.
    pub(super) fn lacks_a_right(&self) -> bool {
        matches!(&self.state.borrow().writes, Writes::Refused(error) if error.code.is_no_perm())
    }

    /// It refuses changes.
    pub(super) fn read_only(&self, generation: u64, error: &ServerError) {
        self.change(Instant::now(), |state| {
            let changes = state.generation == generation
                && state.reach != Reach::Lost
                && !state.writes.is_refused_as(error);
            if changes {
                state.writes = Writes::Refused(error.clone());
                error.words().clone_into(&mut state.cause);
            }
            changes
        });
        if error.code.may_move() {
            self.renew(generation, error.words());
        }
    }

    /// It has taken a change.
    pub(super) fn writable(&self, generation: u64) {
        if self.state.borrow().writes == Writes::Taken {
            return;
        }
        self.change(Instant::now(), |state| {
            let changes = state.generation == generation && state.reach != Reach::Lost;
            if changes {
                state.writes = Writes::Taken;
                state.renew = None;
                state.cause = "it accepts writes".into();
            }
            changes
        });
    }

    pub(super) fn renew(&self, generation: u64, cause: &str) {
        self.state.send_if_modified(|state| {
            let wanted = state.generation == generation && state.renew.is_none();
            if wanted {
                state.renew = Some(cause.to_owned());
            }
            wanted
        });
    }

    /// A new connection takes the place of whatever there was.
    pub(super) fn connected(
        &self,
        generation: u64,
        connection: MultiplexedConnection,
        writes: Writes,
    ) {
        let now = Instant::now();
        *lock(&self.last_answer) = now;
        self.change(now, |state| {
            state.cause = match &writes {
                Writes::Refused(error) => error.words().to_owned(),
                Writes::Unknown | Writes::Taken => format!("connected to {}", self.target),
            };
            state.reach = Reach::Connected;
            state.writes = writes;
            state.connection = Some(connection);
            state.generation = generation;
            state.renew = None;
            true
        });
    }
}
