//! The supervisor of the worker: starts it, mounts its filesystem, replaces it when it dies or does not
//! respond, and at a reload puts another one in its place.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::mount::{Exchange, Mountpoint};
use super::program::Program;
use super::pulse::{Beat, Pulse};
use super::running::{Contact, Running, StatusContext, status_words};
use super::secrets::Secrets;
use super::start::{Progress, Start};
use crate::config::Config;
use crate::exit::{ExitCode, Failure};
use crate::host::mount::{detach, is_ours, is_taken_away};
use crate::host::mount_api::Filesystem;
use crate::supervision::{Order, Report};
use crate::telemetry::Event;

/// How long a worker may write what it has collected, when the end is near.
pub(super) const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// How long a worker that was superseded keeps serving those who use its mount.
const RETIRES_WITHIN: Duration = Duration::from_secs(60);

/// The mount, the worker that serves it now, and those before and after it.
pub(super) struct WorkerSupervisor {
    config: Config,
    program: Program,
    status: StatusContext,
    secrets: Secrets,
    /// How the first worker meets Redis.
    first_contact: Contact,
    phase: Phase,
    successor: Option<Successor>,
    retiring: Vec<Retiring>,
    backoff: Backoff,
    /// A mount has been served once. From then on failures are retried.
    served: bool,
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
    /// The underlying directory.
    place: Mountpoint,
}

/// The worker that a reload has started.
struct Successor {
    start: Start,
    config: Config,
    program: Program,
    status: StatusContext,
}

/// A worker whose mount has gone from the tree of names, and lives as long as it is used.
struct Retiring {
    running: Running,
    until: Instant,
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
            phase: Phase::Down { retry_at: Instant::now() },
            successor: None,
            retiring: Vec::new(),
            backoff: Backoff::default(),
            served: false,
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
                (descriptors, Some(until))
            }
            Phase::Serving(serving) => {
                let (asked, until) = serving.pulse.waits_for();
                let until = serving.running.words_change().into_iter().chain([until]).min();
                (serving.running.descriptors().into_iter().chain(asked).collect(), until)
            }
            Phase::Ended => (Vec::new(), None),
        };
        if let Some(successor) = &self.successor {
            let (more, also) = successor.start.waits_for();
            descriptors.extend(more);
            until = until.into_iter().chain([also]).min();
        }
        for retiring in &self.retiring {
            descriptors.extend(retiring.running.descriptors());
            until = until.into_iter().chain([retiring.until]).min();
        }
        (descriptors, until)
    }

    /// Looks at what has happened, and does what follows. A failure is returned if it is one of the
    /// first start; later ones are logged and retried.
    pub(super) fn advance(&mut self) -> Result<Outcome, Failure> {
        self.retiring.retain_mut(|retiring| !retiring.has_retired());
        if let Some(successor) = self.successor.take()
            && let Some(outcome) = self.succeed(successor)
        {
            return Ok(Outcome::Reloaded(outcome));
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Ended);
        match self.step(phase) {
            Ok((phase, seen)) => {
                self.phase = phase;
                Ok(seen)
            }
            Err(failure) if self.served => {
                tracing::error!(%failure, "the mount is not served; retrying");
                self.phase = Phase::Down { retry_at: self.backoff.failed(None) };
                Ok(Outcome::Nothing)
            }
            Err(failure) => Err(failure),
        }
    }

    fn step(&mut self, phase: Phase) -> Result<(Phase, Outcome), Failure> {
        Ok(match phase {
            Phase::Down { retry_at } if Instant::now() < retry_at => {
                (Phase::Down { retry_at }, Outcome::Nothing)
            }
            Phase::Down { .. } => {
                // A worker that ends or starts has its files there.
                if self.retiring.is_empty() && self.successor.is_none() {
                    super::staging::prepare(&self.config.staging_dir, &self.config.worker)?;
                    super::spool::prepare(&self.config)?;
                }
                // Held from before the mount: afterwards its path leads to the mount.
                let underlying = Mountpoint::take(&self.config.mountpoint)?;
                let start = Start::begin(
                    &self.program,
                    &self.config,
                    if self.served { Contact::Later } else { self.first_contact },
                    &self.status,
                    &self.secrets,
                    &underlying,
                )?;
                (Phase::Starting(Box::new(start)), Outcome::Nothing)
            }
            Phase::Starting(start) => match start.advance(&self.config.mountpoint)? {
                Progress::Waiting(start) => (Phase::Starting(Box::new(start)), Outcome::Nothing),
                Progress::Answers(running, filesystem) => {
                    (self.put(running, filesystem)?, Outcome::Ready)
                }
            },
            Phase::Serving(mut serving) => {
                serving.running.drain_reports();
                if serving.running.process.has_ended() {
                    return self.lost(serving.running, serving.since);
                }
                match serving.pulse.look() {
                    Beat::Alive => (Phase::Serving(serving), Outcome::Nothing),
                    Beat::Unresponsive => {
                        (self.unresponsive(serving.running, serving.since)?, Outcome::Nothing)
                    }
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

    /// Puts a filesystem that answers on the bare mountpoint.
    fn put(&mut self, running: Running, filesystem: Filesystem) -> Result<Phase, Failure> {
        let put = Mountpoint::take(&self.config.mountpoint)
            .and_then(|place| place.put(&filesystem).map(|()| place));
        // Held, it would be in use: 'umount' would say so.
        drop(filesystem);
        match put {
            Ok(place) if is_ours(&self.config.mountpoint) => {
                self.served = true;
                Ok(self.serving(running, place))
            }
            Ok(_) => {
                let failure = running.end("serves a mount that is not in the mount table");
                detach(&self.config.mountpoint)?;
                Err(failure)
            }
            Err(failure) => {
                running.end("");
                Err(failure)
            }
        }
    }

    fn serving(&self, running: Running, place: Mountpoint) -> Phase {
        if running.channel.send(&Order::Mounted).is_err() {
            tracing::warn!("the worker does not read its orders");
        }
        let answer_within = Duration::from_millis(self.config.worker.answer_within_ms);
        let pulse = Pulse::new(self.config.mountpoint.clone(), answer_within);
        Phase::Serving(Box::new(Serving { running, since: Instant::now(), pulse, place }))
    }

    /// A worker that served has ended without an order.
    fn lost(&mut self, mut running: Running, since: Instant) -> Result<(Phase, Outcome), Failure> {
        let status = running.kill();
        if status.is_some_and(|status| status.success()) && !is_ours(&self.config.mountpoint) {
            log_unmounted();
            return Ok((Phase::Ended, Outcome::Unmounted));
        }
        let mut words = status_words(status);
        if let Some(failure) = running.failure {
            words = format!("{words}: {failure}");
        }
        Event::WorkerDied { status: &words }.emit();
        detach(&self.config.mountpoint)?;
        Ok((Phase::Down { retry_at: self.backoff.failed(Some(since)) }, Outcome::Nothing))
    }

    /// A worker lives, and the mount does not answer. When it ends, the kernel answers those who wait
    /// with an error.
    fn unresponsive(&mut self, mut running: Running, since: Instant) -> Result<Phase, Failure> {
        Event::WorkerStuck { answer_within_ms: self.config.worker.answer_within_ms }.emit();
        running.kill();
        detach(&self.config.mountpoint)?;
        Ok(Phase::Down { retry_at: self.backoff.failed(Some(since)) })
    }

    /// Starts a worker with this configuration and program, to take the place of the one that serves.
    /// [`Outcome::Reloaded`] says how that ended. If nobody serves, the next worker is started with
    /// them at once, and `false` is returned: there is nothing to wait for.
    pub(super) fn reload(&mut self, config: Config, program: Program) -> Result<bool, Failure> {
        let status = self.status.renewed(&config)?;
        if let Phase::Serving(serving) = &self.phase {
            let start = Start::begin(
                &program,
                &config,
                Contact::Required,
                &status,
                &self.secrets,
                &serving.place,
            )?;
            self.successor = Some(Successor { start, config, program, status });
            return Ok(true);
        }
        self.finish();
        self.phase = Phase::Down { retry_at: Instant::now() };
        (self.config, self.program, self.status) = (config, program, status);
        Ok(false)
    }

    /// Whether a reload is under way.
    pub(super) fn is_reloading(&self) -> bool {
        self.successor.is_some()
    }

    fn succeed(&mut self, successor: Successor) -> Option<Result<(), Failure>> {
        let Successor { start, config, program, status } = successor;
        match start.advance(&config.mountpoint) {
            Ok(Progress::Waiting(start)) => {
                self.successor = Some(Successor { start, config, program, status });
                None
            }
            Ok(Progress::Answers(running, filesystem)) => {
                let before = std::mem::replace(&mut self.config, config);
                let taken = self.take_over(running, filesystem);
                match taken {
                    Ok(()) => (self.program, self.status) = (program, status),
                    Err(_) => self.config = before,
                }
                Some(taken)
            }
            Err(failure) => Some(Err(failure)),
        }
    }

    /// The successor answers: it is mounted in the place of the one that serves.
    fn take_over(&mut self, running: Running, filesystem: Filesystem) -> Result<(), Failure> {
        match std::mem::replace(&mut self.phase, Phase::Down { retry_at: Instant::now() }) {
            Phase::Serving(serving) if is_ours(&self.config.mountpoint) => {
                match serving.place.exchange(&filesystem) {
                    Ok(Exchange::Seamless) => {
                        tracing::info!("switched to a new worker without a gap");
                    }
                    Ok(Exchange::Gap(gap)) => {
                        tracing::info!(?gap, "switched to a new worker after a gap");
                    }
                    Err(failure) => {
                        running.end("");
                        // It may be mounted or not: the next step sees it.
                        self.phase = Phase::Serving(serving);
                        return Err(failure);
                    }
                }
                drop(filesystem);
                self.phase = self.serving(running, serving.place);
                let until = Instant::now() + RETIRES_WITHIN;
                // If it cannot be status, it is about to end.
                let _ = serving.running.channel.send(&Order::Superseded);
                self.retiring.push(Retiring { running: serving.running, until });
                Ok(())
            }
            // The worker died meanwhile, or the mount was taken away.
            Phase::Serving(serving) => {
                running.end("");
                self.phase = Phase::Serving(serving);
                Err(Failure::new(ExitCode::NotMounted, "the mount was unmounted during the reload"))
            }
            former => {
                if let Phase::Starting(start) = former {
                    start.end();
                }
                self.phase = self.put(running, filesystem)?;
                Ok(())
            }
        }
    }

    /// Orders the worker to write what it has collected, before the mount is taken away. Returns until
    /// when to wait for that; `None` if nobody serves.
    pub(super) fn drain(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Serving(serving) => serving
                .running
                .channel
                .send(&Order::Drain)
                .ok()
                .map(|()| Instant::now() + DRAIN_WITHIN),
            _ => None,
        }
    }

    /// Whether that is done, or nobody is left to do it.
    pub(super) fn has_drained(&mut self) -> bool {
        match &mut self.phase {
            Phase::Serving(serving) => {
                serving.running.next_report() == Some(Report::Drained)
                    || serving.running.process.has_ended()
            }
            _ => true,
        }
    }

    /// Whether the process has ended. Its reports are of no use any more.
    pub(super) fn has_ended(&mut self) -> bool {
        match &mut self.phase {
            Phase::Serving(serving) => {
                serving.running.drain_reports();
                serving.running.process.has_ended()
            }
            Phase::Down { .. } | Phase::Starting(_) | Phase::Ended => true,
        }
    }

    /// Whether a mount is there to be taken away.
    pub(super) fn is_mounted(&self) -> bool {
        matches!(self.phase, Phase::Serving(_)) && !is_taken_away(&self.config.mountpoint)
    }

    /// Kills all processes that have not ended, and waits for them.
    pub(super) fn finish(&mut self) {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Starting(start) => start.end(),
            Phase::Serving(mut serving) => {
                serving.running.kill();
            }
            Phase::Down { .. } | Phase::Ended => {}
        }
        if let Some(successor) = self.successor.take() {
            successor.start.end();
        }
        for mut retiring in self.retiring.drain(..) {
            retiring.running.kill();
        }
    }
}

fn log_unmounted() {
    tracing::warn!("the mount was unmounted with umount(8); ending");
}

impl Retiring {
    /// Whether it has ended: with the last user of its mount, or because its time is over.
    fn has_retired(&mut self) -> bool {
        self.running.drain_reports();
        let pid = self.running.process.pid();
        if self.running.process.has_ended() {
            let words = status_words(self.running.kill());
            tracing::info!(pid, "the former worker {words}: its mount is not in use any more");
            return true;
        }
        if Instant::now() < self.until {
            return false;
        }
        tracing::warn!(
            pid,
            "the former worker's mount is still in use: killing the worker; its users get errors"
        );
        self.running.kill();
        true
    }
}
