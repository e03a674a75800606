//! The worker as the keeper sees it: started, put in its place, watched, replaced when it dies or is
//! stuck, and succeeded by another when a reload asks for that.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::mount::{Exchange, Mountpoint};
use super::program::Program;
use super::pulse::{Beat, Pulse};
use super::report::{Order, Report};
use super::running::{Running, Told, status_words};
use super::start::{Progress, Start};
use crate::config::Config;
use crate::exit::{ExitCode, Failure};
use crate::host::mount::{detach, is_ours, is_taken_away};
use crate::host::mount_api::Filesystem;
use crate::telemetry::Event;

/// How long a worker may write what it has collected, when the end is near.
pub const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// How long a worker that was succeeded goes on serving those who use its mount.
const LEAVES_WITHIN: Duration = Duration::from_secs(60);

/// The mount, whoever serves it now, and who did or will.
pub struct Watched {
    config: Config,
    program: Program,
    told: Told,
    phase: Phase,
    successor: Option<Successor>,
    leaving: Vec<Leaving>,
    backoff: Backoff,
    /// A mount has been served once: from then on nothing is given up.
    served: bool,
}

enum Phase {
    /// Nobody serves; when to start the next.
    Down { retry_at: Instant },
    /// The next is on its way.
    Starting(Start),
    /// It serves.
    Serving(Box<Serving>),
    /// It was unmounted by somebody, who thereby asked for the end.
    Ended,
}

struct Serving {
    running: Running,
    since: Instant,
    pulse: Pulse,
    /// The directory below.
    place: Mountpoint,
}

/// What a reload has started.
struct Successor {
    start: Start,
    config: Config,
    program: Program,
    told: Told,
}

/// A worker whose mount has gone from the tree of names, and lives as long as it is used.
struct Leaving {
    running: Running,
    until: Instant,
}

/// What a look at the worker came to.
#[derive(Debug)]
pub enum Seen {
    /// Nothing that concerns others.
    Nothing,
    /// A mount is ready from now on.
    Ready,
    /// What a reload came to.
    Reloaded(Result<(), Failure>),
    /// Somebody unmounted it.
    Unmounted,
}

impl Watched {
    /// Nobody serves yet.
    pub fn new(config: Config, program: Program, told: Told) -> Self {
        Self {
            config,
            program,
            told,
            phase: Phase::Down { retry_at: Instant::now() },
            successor: None,
            leaving: Vec::new(),
            backoff: Backoff::default(),
            served: false,
        }
    }

    /// Whether a mount has ever been ready.
    pub fn has_served(&self) -> bool {
        self.served
    }

    /// The program that is started as the worker.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// How things stand, in words.
    pub fn words(&self) -> String {
        let mountpoint = self.config.mountpoint.display();
        match &self.phase {
            Phase::Serving(serving) => serving.running.words(&self.config.mountpoint),
            Phase::Starting(start) if start.is_connecting() && !self.served => {
                format!("waiting for Redis at {}", self.config.redis.url)
            }
            Phase::Starting(_) if !self.served => format!("mounting {mountpoint}"),
            Phase::Starting(_) => "the worker died, and the next one is starting".into(),
            Phase::Down { .. } if self.served => "the worker died; trying again".into(),
            Phase::Down { .. } => "starting".into(),
            Phase::Ended => "ended".into(),
        }
    }

    /// What to wait for before the next look.
    pub fn waits_for(&self) -> (Vec<BorrowedFd<'_>>, Option<Instant>) {
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
        for leaving in &self.leaving {
            descriptors.extend(leaving.running.descriptors());
            until = until.into_iter().chain([leaving.until]).min();
        }
        (descriptors, until)
    }

    /// Looks at what has happened, and does what follows. A failure is one of the first start:
    /// later ones are logged, and tried again.
    pub fn advance(&mut self) -> Result<Seen, Failure> {
        self.leaving.retain_mut(|leaving| !leaving.has_left());
        if let Some(successor) = self.successor.take()
            && let Some(outcome) = self.succeed(successor)
        {
            return Ok(Seen::Reloaded(outcome));
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Ended);
        match self.step(phase) {
            Ok((phase, seen)) => {
                self.phase = phase;
                Ok(seen)
            }
            Err(failure) if self.served => {
                tracing::error!(%failure, "the mount is not served; trying again");
                self.phase = Phase::Down { retry_at: self.backoff.failed(None) };
                Ok(Seen::Nothing)
            }
            Err(failure) => Err(failure),
        }
    }

    fn step(&mut self, phase: Phase) -> Result<(Phase, Seen), Failure> {
        Ok(match phase {
            Phase::Down { retry_at } if Instant::now() < retry_at => {
                (Phase::Down { retry_at }, Seen::Nothing)
            }
            Phase::Down { .. } => {
                // A worker that leaves or comes has its files there.
                if self.leaving.is_empty() && self.successor.is_none() {
                    super::staging::prepare(&self.config.staging_dir, &self.config.worker)?;
                }
                // Held from before the mount: afterwards its path leads to the mount.
                let below = Mountpoint::take(&self.config.mountpoint)?;
                let start =
                    Start::begin(&self.program, &self.config, !self.served, &self.told, &below)?;
                (Phase::Starting(start), Seen::Nothing)
            }
            Phase::Starting(start) => match start.advance(&self.config.mountpoint)? {
                Progress::Waiting(start) => (Phase::Starting(start), Seen::Nothing),
                Progress::Answers(running, filesystem) => {
                    (self.put(running, filesystem)?, Seen::Ready)
                }
            },
            Phase::Serving(mut serving) => {
                serving.running.hear_out();
                if serving.running.process.has_ended() {
                    return self.lost(serving.running, serving.since);
                }
                match serving.pulse.look() {
                    Beat::Well => (Phase::Serving(serving), Seen::Nothing),
                    Beat::Silent => (self.stuck(serving.running, serving.since)?, Seen::Nothing),
                    // The worker lives as long as somebody uses what was mounted; until then it
                    // can write what it has collected.
                    Beat::TakenAway => {
                        tell_taken_away();
                        (Phase::Serving(serving), Seen::Unmounted)
                    }
                }
            }
            Phase::Ended => (Phase::Ended, Seen::Unmounted),
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
                let failure = running.end("serves a mount that cannot be seen");
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
        if running.line.say(&Order::InPlace).is_err() {
            tracing::warn!("the worker does not listen");
        }
        let answer_within = Duration::from_millis(self.config.worker.answer_within_ms);
        let pulse = Pulse::new(self.config.mountpoint.clone(), answer_within);
        Phase::Serving(Box::new(Serving { running, since: Instant::now(), pulse, place }))
    }

    /// A worker that served has ended without being asked to.
    fn lost(&mut self, mut running: Running, since: Instant) -> Result<(Phase, Seen), Failure> {
        let status = running.kill();
        if status.is_some_and(|status| status.success()) && !is_ours(&self.config.mountpoint) {
            tell_taken_away();
            return Ok((Phase::Ended, Seen::Unmounted));
        }
        let mut words = status_words(status);
        if let Some(failure) = running.failure {
            words = format!("{words}: {failure}");
        }
        Event::WorkerDied { status: &words }.emit();
        detach(&self.config.mountpoint)?;
        Ok((Phase::Down { retry_at: self.backoff.failed(Some(since)) }, Seen::Nothing))
    }

    /// A worker lives, and the mount does not answer. With its end the kernel answers whoever waits
    /// for it, with an error.
    fn stuck(&mut self, mut running: Running, since: Instant) -> Result<Phase, Failure> {
        Event::WorkerStuck { answer_within_ms: self.config.worker.answer_within_ms }.emit();
        running.kill();
        detach(&self.config.mountpoint)?;
        Ok(Phase::Down { retry_at: self.backoff.failed(Some(since)) })
    }

    /// Starts a worker with this configuration and program, to take the place of the one that
    /// serves; [`Seen::Reloaded`] tells what came of it. Where nobody serves, the next start is
    /// made with them, at once, and there is nothing to wait for.
    pub fn reload(&mut self, config: Config, program: Program) -> Result<bool, Failure> {
        let told = self.told.renewed(&config)?;
        if let Phase::Serving(serving) = &self.phase {
            let start = Start::begin(&program, &config, true, &told, &serving.place)?;
            self.successor = Some(Successor { start, config, program, told });
            return Ok(true);
        }
        self.finish();
        self.phase = Phase::Down { retry_at: Instant::now() };
        (self.config, self.program, self.told) = (config, program, told);
        Ok(false)
    }

    /// Whether a reload is under way.
    pub fn is_reloading(&self) -> bool {
        self.successor.is_some()
    }

    fn succeed(&mut self, successor: Successor) -> Option<Result<(), Failure>> {
        let Successor { start, config, program, told } = successor;
        match start.advance(&config.mountpoint) {
            Ok(Progress::Waiting(start)) => {
                self.successor = Some(Successor { start, config, program, told });
                None
            }
            Ok(Progress::Answers(running, filesystem)) => {
                let before = std::mem::replace(&mut self.config, config);
                let taken = self.take_over(running, filesystem);
                match taken {
                    Ok(()) => (self.program, self.told) = (program, told),
                    Err(_) => self.config = before,
                }
                Some(taken)
            }
            Err(failure) => Some(Err(failure)),
        }
    }

    /// The successor answers: it takes the place.
    fn take_over(&mut self, running: Running, filesystem: Filesystem) -> Result<(), Failure> {
        match std::mem::replace(&mut self.phase, Phase::Down { retry_at: Instant::now() }) {
            Phase::Serving(serving) if is_ours(&self.config.mountpoint) => {
                match serving.place.exchange(&filesystem) {
                    Ok(Exchange::Seamless) => tracing::info!("a new worker serves, without a gap"),
                    Ok(Exchange::Gap(gap)) => {
                        tracing::info!(?gap, "a new worker serves, after a gap");
                    }
                    Err(failure) => {
                        running.end("");
                        // It may or may not be there still: whoever looks at it next will see.
                        self.phase = Phase::Serving(serving);
                        return Err(failure);
                    }
                }
                drop(filesystem);
                self.phase = self.serving(running, serving.place);
                let until = Instant::now() + LEAVES_WITHIN;
                // If it cannot be told, it is about to end.
                let _ = serving.running.line.say(&Order::Succeeded);
                self.leaving.push(Leaving { running: serving.running, until });
                Ok(())
            }
            // It died meanwhile, or was unmounted: as any other that serves next.
            Phase::Serving(serving) => {
                running.end("");
                self.phase = Phase::Serving(serving);
                Err(Failure::new(ExitCode::NotMounted, "the mount was taken away meanwhile"))
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

    /// Asks the worker to write what it has collected, before the mount is taken away. Says until
    /// when it is worth waiting; `None` if nobody serves.
    pub fn drain(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Serving(serving) => {
                serving.running.line.say(&Order::Drain).ok().map(|()| Instant::now() + DRAIN_WITHIN)
            }
            _ => None,
        }
    }

    /// Whether that has been done (or nobody is left to do it).
    pub fn has_drained(&mut self) -> bool {
        match &mut self.phase {
            Phase::Serving(serving) => {
                serving.running.hear() == Some(Report::Drained)
                    || serving.running.process.has_ended()
            }
            _ => true,
        }
    }

    /// Whether the process has ended. What it still says is of no use any more.
    pub fn has_ended(&mut self) -> bool {
        match &mut self.phase {
            Phase::Serving(serving) => {
                serving.running.hear_out();
                serving.running.process.has_ended()
            }
            Phase::Down { .. } | Phase::Starting(_) | Phase::Ended => true,
        }
    }

    /// Whether a mount is there to be taken away.
    pub fn is_mounted(&self) -> bool {
        matches!(self.phase, Phase::Serving(_)) && !is_taken_away(&self.config.mountpoint)
    }

    /// Ends all processes by force that have not ended, and waits for them.
    pub fn finish(&mut self) {
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
        for mut leaving in self.leaving.drain(..) {
            leaving.running.kill();
        }
    }
}

fn tell_taken_away() {
    tracing::warn!("the mount was taken away with umount; ending");
}

impl Leaving {
    /// Whether it has ended: by itself with the last user of its mount, or because it was time.
    fn has_left(&mut self) -> bool {
        self.running.hear_out();
        let pid = self.running.process.pid();
        if self.running.process.has_ended() {
            let words = status_words(self.running.kill());
            tracing::info!(pid, "the former worker {words}: nobody uses its mount any more");
            return true;
        }
        if Instant::now() < self.until {
            return false;
        }
        tracing::warn!(
            pid,
            "the former worker's mount is still in use: it is ended, and its users get errors"
        );
        self.running.kill();
        true
    }
}
