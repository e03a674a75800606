//! The state of the link, and how it changes.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use super::budget::{Budget, Budgets};
use super::{Shared, Timing};
use crate::redis::errors::{ErrorCode, ServerError};
use crate::redis::kept::Place;
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
    /// Whether its server tells of changes.
    pub is_tracked: bool,
    /// Why another connection is wanted although this one answers: its server takes no writes,
    /// and the name may lead to another one by now.
    pub renew: Option<String>,
    /// What was seen last, in words.
    pub cause: String,
    /// There has been no connection yet, and the time for one is not over: that is no loss.
    is_start: bool,
    /// Since when it is as the last line of the log says.
    said_at: Instant,
    pub budgets: Budgets,
}

/// What a line of the log says: another line follows when it is another one.
#[derive(Debug, Eq, PartialEq)]
enum Said {
    Nothing,
    Up,
    ReadOnly(ErrorCode),
    Degraded,
    Down,
}

impl State {
    /// There has been no connection yet.
    pub(super) fn new(timing: &Timing, now: Instant) -> Self {
        Self {
            reach: Reach::Lost,
            writes: Writes::Unknown,
            connection: None,
            generation: 0,
            is_tracked: false,
            renew: None,
            cause: "not connected yet".into(),
            is_start: true,
            said_at: now,
            budgets: Budgets::new(timing.outage_budget, now),
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
        self.budgets.unreadable.forget();
        self.budgets.unwritable.forget();
    }

    /// The budget of outages in which sessions cannot be read, or not be changed.
    pub(super) fn budget(&self, writes: bool) -> &Budget {
        if writes { &self.budgets.unwritable } else { &self.budgets.unreadable }
    }

    fn said(&self) -> Said {
        match (self.reach, &self.writes) {
            (Reach::Lost, _) if self.is_start => Said::Nothing,
            (Reach::Lost, _) => Said::Down,
            (Reach::Overdue(_), _) => Said::Degraded,
            (Reach::Connected, Writes::Refused(error)) => Said::ReadOnly(error.code.kind()),
            (Reach::Connected, Writes::Unknown | Writes::Taken) => Said::Up,
        }
    }
}

impl Shared {
    /// Changes the state by what was seen at `at`, if `change` says that it has. What is new for an
    /// administrator is logged: one line. What is learnt later of the same state is shown by
    /// `status`, and by the line of its end.
    fn change(&self, at: Instant, change: impl FnOnce(&mut State) -> bool) {
        let mut news = None;
        self.state.send_if_modified(|state| {
            let (before, seen) = (state.said(), state.cause.clone());
            if !change(state) {
                return false;
            }
            let health = state.health();
            state.is_start &= health == Health::Down && !self.is_overdue(state);
            let budgets = state.budgets;
            state.budgets.unreadable.follow(!health.is_readable(), at);
            state.budgets.unwritable.follow(health != Health::Up, at);
            if state.budgets != budgets {
                self.keep(state);
            }
            if state.said() != before {
                let lasted = at.saturating_duration_since(state.said_at);
                let ends = health == Health::Up && before != Said::Nothing;
                state.said_at = at;
                news = Some((health, state.cause.clone(), ends.then_some((lasted, seen))));
            } else if state.cause != seen {
                tracing::debug!(server = self.target.server(), cause = state.cause, "link");
            }
            true
        });
        if let Some((state, cause, after)) = news {
            let after = after.as_ref().map(|(lasted, seen)| (*lasted, seen.as_str()));
            self.say(state, &cause, after);
        }
    }

    /// Goes on with the outages of the worker before, and leaves them to the next one.
    pub(super) fn take_up(&self, place: Place, former: Option<Budgets>) {
        if self.kept.set(place).is_err() {
            return;
        }
        self.state.send_modify(|state| {
            if let Some(former) = former {
                state.budgets.take_up(former, self.began + self.timing.connect);
            }
            self.keep(state);
        });
    }

    fn keep(&self, state: &State) {
        if let Some(place) = self.kept.get() {
            place.put_outages(&state.budgets);
        }
    }

    /// Whether a first connection should be there by now.
    fn is_overdue(&self, state: &State) -> bool {
        state.said_at.elapsed() >= self.timing.connect
    }

    fn say(&self, state: Health, cause: &str, after: Option<(Duration, &str)>) {
        let (link, server) = (&self.observed, self.target.server());
        Event::Link { link, server: server.as_deref(), state, cause, after }.emit();
    }

    /// It is not needed any more, for this reason. What was said to be down is so no longer.
    pub(super) fn retire(&self, cause: &str) {
        let (said, lasted, seen) = {
            let state = self.state.borrow();
            (state.said(), state.said_at.elapsed(), state.cause.clone())
        };
        if !matches!(said, Said::Nothing | Said::Up) {
            self.say(Health::Up, cause, Some((lasted, &seen)));
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
            let is_news = state.cause != cause || (state.is_start && self.is_overdue(state));
            let changes = state.reach == Reach::Lost && is_news;
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
        is_tracked: bool,
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
            state.is_tracked = is_tracked;
            state.renew = None;
            true
        });
        // Now, and not before: what is asked for from here on is asked by this connection, which tells of changes.
        self.tracking.all_changed();
    }
}
