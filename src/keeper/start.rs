//! The start of a worker: it is started, it reaches Redis, it serves the connection, it answers. Until the first
//! one answers no name leads to the filesystem, so a first start that fails leaves nothing behind.

use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::program::Program;
use super::running::{Contact, Running, StatusContext};
use super::secrets::Secrets;
use crate::config::Config;
use crate::exit::Failure;
use crate::handoff::Ended;
use crate::host::prober::{Prober, Question};
use crate::host::process;
use crate::supervision::Report;

/// The bounds are counted in looks, not by the clock, as [`super::pulse`] does it.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// From the order to serve until the filesystem must answer.
const SERVING_WITHIN: Duration = Duration::from_secs(10);
/// Given for everything else a start does. A later worker has no more: it does not wait for Redis.
const START_WITHIN: Duration = Duration::from_secs(10);

/// The longest that a start may take.
pub(super) fn longest(config: &Config) -> Duration {
    connecting_within(config, Contact::Required) + SERVING_WITHIN
}

fn connecting_within(config: &Config, contact: Contact) -> Duration {
    match contact {
        Contact::Later => START_WITHIN,
        Contact::Required | Contact::Awaited => {
            Duration::from_millis(config.redis.start_wait_ms) + START_WITHIN
        }
    }
}

/// A worker that does not serve yet.
pub(super) struct Start {
    running: Running,
    step: Step,
    left: Looks,
}

/// How often it is still looked for, and when next. While the whole host stood still, nothing was looked for.
struct Looks {
    left: u128,
    next: Instant,
}

impl Looks {
    fn within(bound: Duration, now: Instant) -> Self {
        Self { left: bound.as_millis().div_ceil(LOOK_EVERY.as_millis()), next: now + LOOK_EVERY }
    }

    /// Looks, and says whether that was the last time.
    fn are_over(&mut self, now: Instant) -> bool {
        if now >= self.next {
            self.left = self.left.saturating_sub(1);
            self.next = now + LOOK_EVERY;
        }
        self.left == 0
    }
}

enum Step {
    /// It has not reached Redis yet.
    Connecting,
    /// It can serve, and has not been told to.
    Ready,
    /// It was told to serve, and is not yet seen to answer.
    Told { asked: Option<Question> },
}

/// The outcome of a step.
pub(super) enum Progress {
    /// It is still starting.
    Waiting(Start),
    /// It can serve, and waits to be told ([`Start::serve`]).
    Ready(Start),
    /// It answers.
    Answers(Running),
}

impl Start {
    /// Starts one, to serve this connection.
    pub(super) fn begin(
        program: &Program,
        config: &Config,
        contact: Contact,
        status: &StatusContext,
        secrets: &Secrets,
        connection: &Connection,
    ) -> Result<Self, Failure> {
        let running = Running::start(program, config, contact, status, secrets, connection)?;
        tracing::info!(pid = running.pid(), user = config.worker.user, "worker started");
        let left = Looks::within(connecting_within(config, contact), Instant::now());
        Ok(Self { running, step: Step::Connecting, left })
    }

    /// What to wait for before the next look.
    pub(super) fn waits_for(&self) -> (Vec<BorrowedFd<'_>>, Instant) {
        (self.running.descriptors(), self.left.next)
    }

    /// Whether the worker has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.running.has_ended()
    }

    /// Whether it was told to serve, and does what the worker before has left.
    pub(super) fn is_told(&self) -> bool {
        matches!(self.step, Step::Told { .. })
    }

    /// Whether it waits for Redis, as far as the keeper knows.
    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.step, Step::Connecting)
    }

    /// Looks at what has happened, and does what follows. On a failure the worker has ended.
    pub(super) fn advance(
        mut self,
        connection: &mut Connection,
        prober: &mut Prober,
    ) -> Result<Progress, Failure> {
        let report = self.running.next_report();
        connection.found_cause |= self.running.take_found_cause();
        self.step = match (self.step, report) {
            (Step::Connecting, Some(Report::RedisReady)) => Step::Ready,
            (Step::Told { .. }, Some(Report::Serving)) => {
                Step::Told { asked: ask(connection, prober)? }
            }
            (step, _) => step,
        };
        if let Step::Told { asked: Some(question) } = self.step {
            match prober.answer(question) {
                Some(Ok(())) => return Ok(Progress::Answers(self.running)),
                // Somebody has ended the process that asked.
                Some(Err(error)) if error.kind() == ErrorKind::BrokenPipe => {
                    self.step = Step::Told { asked: ask(connection, prober)? };
                }
                Some(Err(_)) => {
                    let what = "serves a mount that answers an error";
                    return Err(self.fail(connection, what, Ended::Crashed));
                }
                None => {}
            }
        }
        if self.running.has_ended() || self.left.are_over(Instant::now()) {
            return Err(self.fail(connection, "was not ready in time", Ended::Stuck));
        }
        Ok(match self.step {
            Step::Ready => Progress::Ready(self),
            _ => Progress::Waiting(self),
        })
    }

    /// Tells it to serve. On a failure the worker has ended.
    pub(super) fn serve(mut self, connection: &mut Connection) -> Result<Self, Failure> {
        let pid = self.running.pid();
        let worker = process::started_ticks(pid).map(|ticks| (pid, ticks));
        connection.amend(|note| note.worker = worker);
        let told =
            connection.order().is_some_and(|order| self.running.channel.send(&order).is_ok());
        if !told {
            return Err(self.running.end("does not read its orders").0);
        }
        let after = connection.after;
        tracing::debug!(pid, ?after, "the worker is told to serve");
        self.step = Step::Told { asked: None };
        self.left = Looks::within(SERVING_WITHIN, Instant::now());
        Ok(self)
    }

    /// Ends it.
    pub(super) fn end(mut self, connection: Option<&mut Connection>) {
        self.running.kill();
        if let (Step::Told { .. }, Some(connection)) = (self.step, connection) {
            connection.after = Ended::Planned;
        }
    }

    /// Ends it, and returns why. If it was told to serve, it may have begun to answer what others have left, and its
    /// successor is told how it has ended: by itself, or else like this.
    pub(super) fn fail(self, connection: &mut Connection, otherwise: &str, how: Ended) -> Failure {
        let is_told = matches!(self.step, Step::Told { .. });
        let (failure, by_itself) = self.running.end(otherwise);
        if is_told {
            connection.after = by_itself.unwrap_or(how);
        }
        failure
    }
}

/// Asks the filesystem whether it answers.
fn ask(connection: &Connection, prober: &mut Prober) -> Result<Option<Question>, Failure> {
    let asked = connection.root().map(|root| prober.ask(&root)).transpose();
    asked.map_err(|e| Failure::internal("ask the mount", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_nobody_looked_does_not_count() {
        let mut now = Instant::now();
        let mut looks = Looks::within(SERVING_WITHIN, now);
        now += 100 * SERVING_WITHIN;
        assert!(!looks.are_over(now));
        assert!(!looks.are_over(now), "not yet time for another look");
        for _ in 2..SERVING_WITHIN.as_millis() / LOOK_EVERY.as_millis() {
            now = looks.next;
            assert!(!looks.are_over(now));
        }
        assert!(looks.are_over(looks.next));
    }
}
