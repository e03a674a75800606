//! The supervisor of the worker: starts it, has it serve the connection, and starts a successor on the same
//! connection when it dies, does not respond, or is to be replaced by a reload.

use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::connection::Connection;
use super::guard::Guard;
use super::note::Note;
use super::program::Program;
use super::pulse::{Beat, Pulse};
use super::running::{Contact, Running, StatusContext, status_words, unasked_end};
use super::secrets::Secrets;
use super::stability::{Stability, not_served};
use super::start::{Progress, Start};
use crate::config::Config;
use crate::exit::{ExitCode, Failure};
use crate::handoff::Ended;
use crate::host::clock;
use crate::host::mount::is_taken_away;
use crate::host::prober::Prober;
use crate::supervision::Order;
use crate::telemetry::Event;

/// How long a worker may write what it has collected, when the end is near.
pub(super) const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// A worker that has served for so long and is killed is not one of a row of kills.
const AT_WORK_AFTER: Duration = Duration::from_millis(250);

/// The mount, the worker that serves it now, and the one that a reload has started.
pub(super) struct WorkerSupervisor {
    config: Config,
    program: Program,
    status: StatusContext,
    secrets: Secrets,
    /// How the first worker meets Redis.
    first_contact: Contact,
    /// Outlives the workers.
    connection: Option<Connection>,
    /// Of the mount, once it is there.
    guard: Option<Guard>,
    /// Asks whether the mount answers.
    prober: Prober,
    phase: Phase,
    successor: Option<Successor>,
    backoff: Backoff,
    /// A mount has been served once. From then on failures are retried.
    served: bool,
    stability: Stability,
    /// What of it is noted for another keeper: since when nobody has served it for long, and how many keepers have not.
    noted: (Option<Instant>, u32),
}

enum Phase {
    /// Nobody serves; when to start the next.
    Down {
        retry_at: Instant,
    },
    /// The next one is starting.
    Starting(Box<Start>),
    Serving(Box<Serving>),
    /// Somebody unmounted it, and thereby asked for the end.
    Ended,
}

struct Serving {
    running: Running,
    since: Instant,
    pulse: Pulse,
}

/// The worker that a reload has started.
struct Successor {
    stage: Stage,
    config: Config,
    program: Program,
    status: StatusContext,
}

/// How far a reload is.
enum Stage {
    /// The successor starts, while the other one serves.
    Preparing(Start),
    /// It is ready, and the other one writes what it has collected.
    Draining { start: Start, until: Instant },
    /// It is in the place of the other one, which has ended.
    TakingOver,
}

/// The outcome of a step.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nothing that concerns the keeper.
    Nothing,
    /// A mount is ready from now on.
    Ready,
    Reloaded(Result<(), Failure>),
    Unmounted,
}

impl WorkerSupervisor {
    /// Nobody serves yet.
    pub(super) fn new(
        config: Config,
        program: Program,
        status: StatusContext,
        first_contact: Contact,
    ) -> Self {
        Self {
            config,
            program,
            status,
            secrets: Secrets::default(),
            first_contact,
            connection: None,
            guard: None,
            prober: Prober::default(),
            phase: Phase::Down { retry_at: Instant::now() },
            successor: None,
            backoff: Backoff::of_mount(),
            served: false,
            stability: Stability::default(),
            noted: (None, 0),
        }
    }

    /// Goes on with a connection that was served before.
    pub(super) fn resume(&mut self, connection: Connection) {
        let since_ms = connection.note().and_then(|note| note.unserved_since_ms);
        let unserved_ms = since_ms.map_or(0, |since| clock::monotonic_ms().saturating_sub(since));
        let now = Instant::now();
        let since = now.checked_sub(Duration::from_millis(unserved_ms)).unwrap_or(now);
        let short_lived = connection.note().map_or(0, |note| note.short_lived);
        self.stability = Stability::resumed(since, short_lived);
        self.noted = (Some(since), short_lived);
        self.connection = Some(connection);
        self.served = true;
    }

    /// The connection, if there is one.
    pub(super) fn connection(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }

    /// Changes what is noted for another keeper.
    pub(super) fn amend(&mut self, change: impl FnOnce(&mut Note)) {
        if let Some(connection) = &mut self.connection {
            connection.amend(change);
        }
    }

    /// Whether another keeper finds the secrets that this one has.
    pub(super) fn check_secrets(&self, config: &Config) -> Result<(), Failure> {
        self.secrets.check(&config.secret_file)
    }

    /// Another keeper goes on counting how long nobody is served.
    fn note_stability(&mut self) {
        let (since, short_lived) = (self.stability.unstable_since(), self.stability.short_lived());
        if std::mem::replace(&mut self.noted, (since, short_lived)) != (since, short_lived) {
            let ago_ms = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(0);
            let since_ms = since.map(|since| clock::monotonic_ms().saturating_sub(ago_ms(since)));
            self.amend(|note| {
                (note.unserved_since_ms, note.short_lived) = (since_ms, short_lived);
            });
        }
    }

    /// Kills the worker, whatever it is doing, and executes a program in the place of this one, which goes on with the
    /// connection and with these descriptors. Returns only if that fails; then another worker is started.
    pub(super) fn execute(
        &mut self,
        program: &Program,
        arguments: &[OsString],
        others: &[(&str, BorrowedFd<'_>)],
    ) -> io::Error {
        match std::mem::replace(&mut self.phase, Phase::Down { retry_at: Instant::now() }) {
            Phase::Serving(mut serving) => {
                serving.running.kill();
                self.ended(Ended::Planned);
            }
            Phase::Starting(start) => start.end(self.connection.as_mut()),
            Phase::Down { .. } | Phase::Ended => {}
        }
        self.prober.give_up();
        self.guard = None;
        match self.connection.as_mut().filter(|connection| connection.is_in_place()) {
            Some(connection) => connection.execute(&program.path(), arguments, others),
            None => io::Error::other("nothing is mounted"),
        }
    }

    /// Whether a mount has ever been ready.
    pub(super) fn has_served(&self) -> bool {
        self.served
    }

    /// The program that is started as the worker.
    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    /// The state in words.
    pub(super) fn words(&self) -> String {
        let mountpoint = self.config.mountpoint.display();
        match &self.phase {
            Phase::Serving(serving) => serving.running.words(&self.config.mountpoint),
            Phase::Starting(start) if start.is_connecting() && !self.served => {
                format!("waiting for Redis at {}", self.config.redis.url)
            }
            Phase::Starting(_) if !self.served => format!("mounting {mountpoint}"),
            Phase::Starting(_) => "the worker died; starting a new one".into(),
            Phase::Down { .. } if self.served => "the worker died; retrying".into(),
            Phase::Down { .. } => "starting".into(),
            Phase::Ended => "ended".into(),
        }
    }

    /// What to wait for before the next look.
    pub(super) fn waits_for(&self) -> (Vec<BorrowedFd<'_>>, Option<Instant>) {
        let (mut descriptors, mut until) = match &self.phase {
            Phase::Down { retry_at } => (Vec::new(), Some(*retry_at)),
            Phase::Starting(start) => {
                let (descriptors, until) = start.waits_for();
                (descriptors, self.stability.give_up_at().into_iter().chain([until]).min())
            }
            Phase::Serving(serving) => {
                let next = serving.pulse.next();
                let until = serving.running.words_change().into_iter().chain([next]).min();
                (serving.running.descriptors(), until)
            }
            Phase::Ended => (Vec::new(), None),
        };
        if let Some(start) = self.successor.as_ref().and_then(Successor::start) {
            let (more, also) = start.waits_for();
            descriptors.extend(more);
            until = until.into_iter().chain([also]).min();
        }
        if let Some(Successor { stage: Stage::Draining { until: also, .. }, .. }) = &self.successor
        {
            until = until.into_iter().chain([*also]).min();
        }
        descriptors.extend(self.prober.waits_for());
        (descriptors, until)
    }

    /// Looks at what has happened, and does what follows. A failure is returned if it is one of the
    /// first start, or if the mount is given up; others are logged and retried.
    pub(super) fn advance(&mut self) -> Result<Outcome, Failure> {
        let outcome = self.look();
        self.note_stability();
        self.guard_mount();
        outcome
    }

    /// Has what is mounted guarded, and nothing else.
    fn guard_mount(&mut self) {
        let in_place = self.connection.as_ref().filter(|connection| connection.is_in_place());
        let filesystem = in_place.and_then(|connection| Some(&*connection.note()?.filesystem));
        if filesystem != self.guard.as_ref().map(Guard::filesystem) {
            self.guard = filesystem.map(|it| Guard::start(&self.config.mountpoint, it));
        }
    }

    fn look(&mut self) -> Result<Outcome, Failure> {
        // Before anything that may end it.
        if let Phase::Serving(serving) = &self.phase {
            self.stability.serves(serving.since, Instant::now());
        }
        if let Some(successor) = self.successor.take()
            && let Err(failure) = self.succeed(successor)
        {
            return Ok(Outcome::Reloaded(Err(failure)));
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Ended);
        match self.step(phase) {
            Ok((phase, seen)) => {
                self.phase = phase;
                Ok(seen)
            }
            Err(failure) if self.served && !self.stability.is_given_up(Instant::now()) => {
                Ok(self.failed(failure))
            }
            Err(failure) => Err(failure),
        }
    }

    /// A start has failed, and nobody serves.
    fn failed(&mut self, failure: Failure) -> Outcome {
        self.phase = Phase::Down { retry_at: self.backoff.failed(None) };
        self.stability.failed(Instant::now());
        if self.successor.take_if(|successor| successor.has_taken_over()).is_some() {
            // What served before is started again.
            self.phase = Phase::Down { retry_at: Instant::now() };
            return Outcome::Reloaded(Err(failure));
        }
        tracing::error!(%failure, "the mount is not served; retrying");
        Outcome::Nothing
    }

    fn step(&mut self, phase: Phase) -> Result<(Phase, Outcome), Failure> {
        Ok(match phase {
            Phase::Down { retry_at } if Instant::now() < retry_at => {
                (Phase::Down { retry_at }, Outcome::Nothing)
            }
            Phase::Down { .. } if self.is_unmounted() => {
                log_unmounted();
                (Phase::Ended, Outcome::Unmounted)
            }
            Phase::Down { .. } => {
                self.give_up_if_aborted();
                (Phase::Starting(Box::new(self.start()?)), Outcome::Nothing)
            }
            Phase::Starting(start) => {
                if let Some(failure) = self.given_up() {
                    start.end(None);
                    return Err(failure);
                }
                self.go_on(*start)?
            }
            Phase::Serving(mut serving) => {
                serving.running.drain_reports();
                if serving.running.has_ended() {
                    let phase = self.lost(*serving);
                    let is_over = matches!(phase, Phase::Ended);
                    let outcome = if is_over { Outcome::Unmounted } else { Outcome::Nothing };
                    return Ok((phase, outcome));
                }
                match serving.pulse.look(&mut self.prober) {
                    Beat::Alive => (Phase::Serving(serving), Outcome::Nothing),
                    Beat::Unresponsive => (self.unresponsive(*serving), Outcome::Nothing),
                    // The worker lives as long as somebody uses what was mounted; until then it
                    // can write what it has collected.
                    Beat::Unmounted => {
                        log_unmounted();
                        (Phase::Serving(serving), Outcome::Unmounted)
                    }
                }
            }
            Phase::Ended => (Phase::Ended, Outcome::Unmounted),
        })
    }

    /// Whether somebody has unmounted what was mounted.
    fn is_unmounted(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::is_in_place)
            && is_taken_away(&self.config.mountpoint)
    }

    /// A connection that the kernel has ended serves nobody: the mount is taken away, and the next start makes another.
    fn give_up_if_aborted(&mut self) {
        if self.connection.as_ref().is_some_and(Connection::is_aborted) {
            tracing::error!(
                mountpoint = %self.config.mountpoint.display(),
                "the kernel has ended the connection (umount -f, abort, or a limit of its own); mounting anew"
            );
            self.remove_mount();
        }
    }

    /// Starts a worker, on the connection that is there, or for the first.
    fn start(&mut self) -> Result<Start, Failure> {
        if let Some(failure) = self.given_up() {
            return Err(failure);
        }
        let connection = if let Some(connection) = self.connection.take() {
            connection
        } else {
            super::staging::prepare(&self.config.staging_dir, &self.config.worker)?;
            super::spool::prepare(&self.config)?;
            Connection::open(&self.config.mountpoint)?
        };
        let contact = if self.served { Contact::Later } else { self.first_contact };
        let start = Start::begin(
            &self.program,
            &self.config,
            contact,
            &self.status,
            &self.secrets,
            &connection,
        );
        self.connection = Some(connection);
        start
    }

    /// The failure of a mount that has been served badly for too long.
    fn given_up(&self) -> Option<Failure> {
        self.stability.is_given_up(Instant::now()).then(|| not_served(&self.config.mountpoint))
    }

    /// Goes on with the start of the worker that is to serve.
    fn go_on(&mut self, start: Start) -> Result<(Phase, Outcome), Failure> {
        let Some(connection) = &mut self.connection else {
            start.end(None);
            return Ok((Phase::Down { retry_at: Instant::now() }, Outcome::Nothing));
        };
        let is_told = start.is_told();
        let progress = start.advance(connection, &mut self.prober);
        if std::mem::take(&mut connection.found_cause) {
            self.stability.cause_found(Instant::now());
        }
        if progress.is_err() && is_told && connection.after == Ended::Killed {
            // As one that has served.
            self.stability.killed(Instant::now());
        }
        Ok(match progress? {
            Progress::Waiting(start) => (Phase::Starting(Box::new(start)), Outcome::Nothing),
            Progress::Ready(start) => {
                if let Err(failure) = connection.make(&self.config) {
                    start.end(None);
                    return Err(failure);
                }
                (Phase::Starting(Box::new(start.serve(connection)?)), Outcome::Nothing)
            }
            Progress::Answers(running) => self.answers(running)?,
        })
    }

    /// A worker answers. The first one's filesystem is put on the bare mountpoint.
    fn answers(&mut self, running: Running) -> Result<(Phase, Outcome), Failure> {
        let put = match &mut self.connection {
            Some(connection) if !connection.is_in_place() => connection.put(),
            _ => Ok(()),
        };
        if let Err(failure) = put {
            running.end("");
            self.remove_mount();
            return Err(failure);
        }
        if self.is_unmounted() {
            let (failure, _) = running.end("serves a mount that is not in the mount table");
            if !self.served {
                self.remove_mount();
                return Err(failure);
            }
            log_unmounted();
            return Ok((Phase::Ended, Outcome::Unmounted));
        }
        self.served = true;
        self.stability.answers();
        let taken_over = self.successor.take_if(|successor| successor.has_taken_over());
        if let Some(Successor { config, program, status, .. }) = taken_over {
            (self.config, self.program, self.status) = (config, program, status);
            tracing::info!("switched to a new worker");
            return Ok((self.serving(running), Outcome::Reloaded(Ok(()))));
        }
        Ok((self.serving(running), Outcome::Ready))
    }

    /// Ends the connection: whoever waits gets an error, and nothing stays mounted.
    fn remove_mount(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.release();
        }
    }

    fn serving(&self, running: Running) -> Phase {
        tell_mounted(&running);
        let answer_within = Duration::from_millis(self.config.worker.answer_within_ms);
        let pulse = Pulse::new(self.config.mountpoint.clone(), answer_within);
        Phase::Serving(Box::new(Serving { running, since: Instant::now(), pulse }))
    }

    /// A worker that served has ended without an order.
    fn lost(&mut self, Serving { mut running, since, .. }: Serving) -> Phase {
        let status = running.kill();
        if status.is_some_and(|status| status.success()) && self.is_unmounted() {
            log_unmounted();
            return Phase::Ended;
        }
        let mut words = status_words(status);
        if let Some(failure) = running.failure {
            words = format!("{words}: {failure}");
        }
        Event::WorkerDied { status: &words }.emit();
        let how = unasked_end(status);
        self.ended(how);
        let retry_at = if how == Ended::Killed {
            self.retry_after_kill(since)
        } else {
            self.retry_after_failure(since)
        };
        Phase::Down { retry_at }
    }

    /// A worker lives, and the mount does not answer.
    fn unresponsive(&mut self, Serving { mut running, since, .. }: Serving) -> Phase {
        Event::WorkerStuck { answer_within_ms: self.config.worker.answer_within_ms }.emit();
        // It may itself be what does not answer.
        self.prober.give_up();
        running.kill();
        self.ended(Ended::Stuck);
        Phase::Down { retry_at: self.retry_after_failure(since) }
    }

    /// How the worker has ended that has served the connection until now.
    fn ended(&mut self, how: Ended) {
        if let Some(connection) = &mut self.connection {
            connection.after = how;
        }
    }

    /// When to start the successor of a worker that has served since then, and has failed.
    fn retry_after_failure(&mut self, since: Instant) -> Instant {
        self.stability.failed(Instant::now());
        self.backoff.failed(Some(since))
    }

    /// The same of a worker that somebody has killed, perhaps the kernel for want of memory. It has served, so the mount
    /// is not given up for that, however often.
    fn retry_after_kill(&mut self, since: Instant) -> Instant {
        self.stability.killed(Instant::now());
        if since.elapsed() >= AT_WORK_AFTER {
            self.backoff = Backoff::of_mount();
        }
        self.backoff.failed(Some(since))
    }

    /// Starts a worker with this configuration and program, to take the place of the one that serves.
    /// [`Outcome::Reloaded`] says how that ended. If nobody has ever served, the first worker is started with them, and
    /// `false` is returned: its own outcome says it.
    pub(super) fn reload(&mut self, config: Config, program: Program) -> Result<bool, Failure> {
        let status = self.status.renewed(&config, &program)?;
        if let (Phase::Serving(_), Some(connection)) = (&self.phase, &self.connection) {
            let start = Start::begin(
                &program,
                &config,
                Contact::Required,
                &status,
                &self.secrets,
                connection,
            )?;
            let stage = Stage::Preparing(start);
            self.successor = Some(Successor { stage, config, program, status });
            return Ok(true);
        }
        if let Phase::Starting(start) =
            std::mem::replace(&mut self.phase, Phase::Down { retry_at: Instant::now() })
        {
            start.end(self.connection.as_mut());
        }
        if let (true, Some(connection)) = (self.served, &self.connection) {
            let start = Start::begin(
                &program,
                &config,
                Contact::Later,
                &status,
                &self.secrets,
                connection,
            )?;
            self.phase = Phase::Starting(Box::new(start));
            self.successor = Some(Successor { stage: Stage::TakingOver, config, program, status });
            return Ok(true);
        }
        (self.config, self.program, self.status) = (config, program, status);
        Ok(false)
    }

    /// Whether a reload is under way.
    pub(super) fn is_reloading(&self) -> bool {
        self.successor.is_some()
    }

    /// Goes on with a reload. On a failure the worker that serves goes on.
    fn succeed(&mut self, successor: Successor) -> Result<(), Failure> {
        let Successor { stage, config, program, status } = successor;
        let Some(connection) = &mut self.connection else {
            return Err(Failure::new(ExitCode::NotMounted, "the mount was lost during the reload"));
        };
        let stage = match stage {
            Stage::Preparing(start) => match start.advance(connection, &mut self.prober)? {
                Progress::Ready(start) => {
                    tracing::debug!(
                        "the new worker is ready; the other one writes what it has collected"
                    );
                    let until = self.drain().unwrap_or_else(Instant::now);
                    Stage::Draining { start, until }
                }
                Progress::Waiting(start) => Stage::Preparing(start),
                // It was not told to.
                Progress::Answers(running) => return Err(running.end("served unasked").0),
            },
            Stage::Draining { start, .. } if start.has_ended() => {
                let failure = start.fail(connection, "has ended", Ended::Crashed);
                self.resume_service();
                return Err(failure);
            }
            Stage::Draining { start, until } => {
                if self.has_drained() || Instant::now() >= until {
                    self.take_over(start)?;
                    Stage::TakingOver
                } else {
                    Stage::Draining { start, until }
                }
            }
            Stage::TakingOver => Stage::TakingOver,
        };
        self.successor = Some(Successor { stage, config, program, status });
        Ok(())
    }

    /// The worker that serves was ordered to write what it has collected, and does not end after all.
    fn resume_service(&self) {
        if let Phase::Serving(serving) = &self.phase {
            tell_mounted(&serving.running);
        }
    }

    /// The successor is ready, and the other one has nothing left to write.
    fn take_over(&mut self, start: Start) -> Result<(), Failure> {
        if self.is_unmounted() {
            start.end(None);
            return Err(Failure::new(
                ExitCode::NotMounted,
                "the mount was unmounted during the reload",
            ));
        }
        match std::mem::replace(&mut self.phase, Phase::Down { retry_at: Instant::now() }) {
            // Whatever it is doing: its successor does it again.
            Phase::Serving(mut serving) => {
                serving.running.kill();
                self.ended(Ended::Planned);
                self.stability.killed(Instant::now());
            }
            Phase::Starting(former) => former.end(self.connection.as_mut()),
            Phase::Down { .. } | Phase::Ended => {}
        }
        if let Some(connection) = &mut self.connection {
            self.phase = Phase::Starting(Box::new(start.serve(connection)?));
        }
        Ok(())
    }

    /// Orders the worker to write what it has collected, before the mount is taken away. Returns until
    /// when to wait for that; `None` if nobody serves.
    pub(super) fn drain(&mut self) -> Option<Instant> {
        match &mut self.phase {
            Phase::Serving(serving) => {
                serving.running.drain().ok().map(|()| Instant::now() + DRAIN_WITHIN)
            }
            _ => None,
        }
    }

    /// Whether that is done, or nobody is left to do it.
    pub(super) fn has_drained(&mut self) -> bool {
        match &mut self.phase {
            Phase::Serving(serving) => serving.running.has_drained(),
            _ => true,
        }
    }

    /// Whether the process has ended. Its reports are of no use any more.
    pub(super) fn has_ended(&mut self) -> bool {
        match &mut self.phase {
            Phase::Serving(serving) => {
                serving.running.drain_reports();
                serving.running.has_ended()
            }
            Phase::Down { .. } | Phase::Starting(_) | Phase::Ended => true,
        }
    }

    /// Whether a mount is there to be taken away, and not beneath another one.
    pub(super) fn is_mounted(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::is_uppermost)
    }

    /// Kills all processes that have not ended, and waits for them. The connection ends: whoever still waits for an
    /// answer gets an error.
    pub(super) fn finish(&mut self) {
        self.end_processes();
        self.remove_mount();
    }

    /// Kills all processes that have not ended, and waits for them. The connection is left as it is, for the next
    /// keeper.
    pub(super) fn leave(&mut self) {
        self.end_processes();
        self.prober.leave();
        if let Some(connection) = self.connection.take() {
            connection.leave();
        }
    }

    fn end_processes(&mut self) {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Starting(start) => start.end(self.connection.as_mut()),
            Phase::Serving(mut serving) => {
                serving.running.kill();
                self.ended(Ended::Planned);
            }
            Phase::Down { .. } | Phase::Ended => {}
        }
        // A successor that has not taken over yet is killed when it is dropped.
        self.successor = None;
    }
}

impl Successor {
    fn has_taken_over(&self) -> bool {
        matches!(self.stage, Stage::TakingOver)
    }

    /// The worker, as long as it is not in the place of the other one.
    fn start(&self) -> Option<&Start> {
        match &self.stage {
            Stage::Preparing(start) | Stage::Draining { start, .. } => Some(start),
            Stage::TakingOver => None,
        }
    }
}

fn tell_mounted(running: &Running) {
    if running.channel.send(&Order::Mounted).is_err() {
        tracing::warn!("the worker does not read its orders");
    }
}

fn log_unmounted() {
    tracing::warn!("the mount was unmounted with umount(8); ending");
}
