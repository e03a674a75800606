//! What one thread does: rounds of one operation of each kind, in a new random order each time.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use nix::sys::signal::{SigSet, Signal};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{SeedableRng as _, rngs};

use super::made::Made;
use super::operation::{self, Fault};
use super::sample::Histogram;
use super::session::{Content, Format, Paths};
use super::{Cell, Directory, Error, Pattern, Settings};
use crate::host::signals::Interrupts;

/// How long a run goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    Time(Duration),
    /// Until each pattern was done so often in each directory, by all threads together.
    Operations(u64),
}

/// How many unread sessions wait for a cold read.
const COLD_AHEAD: usize = 8;
/// How often the progress is shown and a signal noticed.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// A session with the version that was saved last.
struct Session {
    paths: Paths,
    /// The same session by way of the peer.
    peer: Option<Paths>,
    stamp: u64,
    /// The version before, which a read may still get while news of another node's save travel.
    before: u64,
}

/// What all threads share.
pub(crate) struct Shared<'a> {
    directories: &'a [Directory],
    format: Format,
    content: &'a Content,
    sessions: usize,
    cells: &'a [Cell],
    limit: Limit,
    /// The sessions of warm reads, by directory. No one saves them.
    warm: Vec<Vec<Session>>,
    /// Rounds done, for the progress.
    rounds: AtomicU64,
    /// Set when one thread failed.
    failed: AtomicBool,
}

/// What a thread brings back.
pub(crate) struct Outcome {
    pub made: Made,
    /// The durations of each cell, and how many of its reads were behind.
    pub measured: Vec<(Cell, Histogram, u64)>,
    /// How long it ran.
    pub time: Duration,
    /// Why it ended early.
    pub failure: Option<Error>,
}

/// Sessions to which one thread alone writes.
#[derive(Default)]
struct Pool {
    /// Saved and not read since.
    fresh: Vec<Session>,
    /// Read since they were saved.
    settled: Vec<Session>,
}

/// What one thread has in one directory.
#[derive(Default)]
struct Area {
    own: Pool,
    foreign: Pool,
    cold: VecDeque<Session>,
    /// Read once: of no more use for a cold read.
    used: Vec<Session>,
}

/// One step of a round.
#[derive(Clone, Copy)]
enum Step {
    /// Measured; the number is that of its histogram.
    Measure(usize, Cell),
    /// A save of an own session, for the read that comes after it.
    FillOwn(usize),
    /// A save through the peer, likewise.
    FillForeign(usize),
    /// A new session made through the peer.
    FillCold(usize),
}

/// One thread, before it runs.
pub(crate) struct Worker {
    areas: Vec<Area>,
    steps: Vec<Step>,
    histograms: Vec<(Histogram, u64)>,
    rounds_max: u64,
    content: Content,
    /// Versions are never used twice.
    stamp: u64,
    random: rngs::StdRng,
    buffer: Vec<u8>,
    made: Made,
}

fn at(path: &Path) -> impl FnOnce(Fault) -> Error + use<'_> {
    move |fault| Error::from_errno(path, fault.step, fault.errno)
}

/// Saves one session through `directory`.
fn save(
    format: Format,
    directory: &Path,
    paths: &Paths,
    content: &[u8],
    random: &mut StdRng,
    made: &mut Made,
) -> Result<Duration, Error> {
    made.session(&paths.session);
    let temporary = format.random_temporary(random, directory);
    let start = Instant::now();
    let made_shard = operation::save(format, paths, &temporary, content).map_err(at(directory))?;
    let time = start.elapsed();
    if let (true, Some(shard)) = (made_shard, &paths.shard) {
        made.shard(shard);
    }
    Ok(time)
}

impl<'a> Shared<'a> {
    /// Makes the sessions of warm reads, and reads each once.
    pub(crate) fn prepare(
        settings: &'a Settings,
        content: &'a Content,
        cells: &'a [Cell],
        limit: Limit,
        made: &mut Made,
        bar: &ProgressBar,
    ) -> Result<Self, Error> {
        let format = settings.format;
        let mut random = StdRng::from_rng(&mut rand::rng());
        let mut own = content.clone();
        let mut buffer = Vec::new();
        let mut warm = Vec::new();
        for (number, directory) in settings.directories.iter().enumerate() {
            let wanted = cells.contains(&(number, Pattern::Warm));
            let count = if wanted { settings.sessions } else { 0 };
            bar.set_message("preparing");
            bar.set_length(count as u64);
            bar.set_position(0);
            let mut sessions = Vec::with_capacity(count);
            for _ in 0..count {
                if Interrupts::noted() {
                    return Err(Error::Interrupted);
                }
                let id = format.random_id(&mut random);
                let paths = Paths::new(format, &directory.path, &id);
                let stamp = random.random();
                let bytes = own.stamped(stamp);
                save(format, &directory.path, &paths, bytes, &mut random, made)?;
                operation::read(format, &paths, &mut buffer).map_err(at(&directory.path))?;
                sessions.push(Session { paths, peer: None, stamp, before: stamp });
                bar.inc(1);
            }
            warm.push(sessions);
        }
        Ok(Self {
            directories: &settings.directories,
            format,
            content,
            sessions: settings.sessions,
            cells,
            limit,
            warm,
            rounds: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        })
    }
}

impl Worker {
    /// Makes the sessions of thread `number` of `threads`.
    pub(crate) fn prepare(
        shared: &Shared<'_>,
        number: usize,
        threads: usize,
        made: &mut Made,
        bar: &ProgressBar,
    ) -> Result<Self, Error> {
        let rounds_max = match shared.limit {
            Limit::Time(_) => u64::MAX,
            Limit::Operations(count) => {
                let (threads, number) = (threads as u64, number as u64);
                count / threads + u64::from(number < count % threads)
            }
        };
        let mut worker = Self {
            areas: Vec::new(),
            steps: steps(shared.cells),
            histograms: vec![(Histogram::default(), 0); shared.cells.len()],
            rounds_max,
            content: shared.content.clone(),
            stamp: 0,
            random: StdRng::from_rng(&mut rand::rng()),
            buffer: Vec::new(),
            made: Made::default(),
        };
        worker.stamp = worker.random.random::<u32>().into();
        // Two at least: one to save and one to read, in whichever order they come.
        let share = (shared.sessions / threads).max(2);
        let result = worker.fill(shared, share, bar);
        if let Err(error) = result {
            made.merge(std::mem::take(&mut worker.made));
            return Err(error);
        }
        Ok(worker)
    }

    fn fill(&mut self, shared: &Shared<'_>, share: usize, bar: &ProgressBar) -> Result<(), Error> {
        for number in 0..shared.directories.len() {
            let wants = |pattern| shared.cells.contains(&(number, pattern));
            let own = if wants(Pattern::Own) || wants(Pattern::Save) { share } else { 0 };
            let foreign = if wants(Pattern::Foreign) { share } else { 0 };
            let cold = if wants(Pattern::Cold) { COLD_AHEAD } else { 0 };
            bar.set_length((own + foreign + cold) as u64);
            bar.set_position(0);
            let mut area = Area::default();
            for turn in 0..own + foreign + cold {
                if Interrupts::noted() {
                    return Err(Error::Interrupted);
                }
                let mut session = self.new_session(shared, number);
                let cold_one = turn >= own + foreign;
                self.save(shared, number, &mut session, turn >= own)?;
                let pool = if turn < own { &mut area.own } else { &mut area.foreign };
                if cold_one {
                    area.cold.push_back(session);
                } else if turn % 2 == 0 {
                    pool.fresh.push(session);
                } else {
                    operation::read(shared.format, &session.paths, &mut self.buffer)
                        .map_err(at(&shared.directories[number].path))?;
                    pool.settled.push(session);
                }
                bar.inc(1);
            }
            self.areas.push(area);
        }
        Ok(())
    }

    fn new_session(&mut self, shared: &Shared<'_>, number: usize) -> Session {
        let directory = &shared.directories[number];
        let id = shared.format.random_id(&mut self.random);
        Session {
            paths: Paths::new(shared.format, &directory.path, &id),
            peer: directory.peer.as_ref().map(|peer| Paths::new(shared.format, peer, &id)),
            stamp: 0,
            before: 0,
        }
    }

    /// Saves a new version of `session`, by way of the directory itself or of its peer.
    fn save(
        &mut self,
        shared: &Shared<'_>,
        number: usize,
        session: &mut Session,
        through_peer: bool,
    ) -> Result<Duration, Error> {
        self.stamp += 1;
        session.before = std::mem::replace(&mut session.stamp, self.stamp);
        let bytes = self.content.stamped(self.stamp);
        let directory = &shared.directories[number];
        let (path, paths) = match (through_peer, &directory.peer, &session.peer) {
            (true, Some(path), Some(paths)) => (path, paths),
            _ => (&directory.path, &session.paths),
        };
        save(shared.format, path, paths, bytes, &mut self.random, &mut self.made)
    }

    /// Reads `session` and looks whether it is what was saved last; and if not, whether that is
    /// what was saved before.
    fn read(
        &mut self,
        shared: &Shared<'_>,
        number: usize,
        session: &Session,
    ) -> Result<(Duration, bool), Error> {
        let path = &shared.directories[number].path;
        let start = Instant::now();
        let there =
            operation::read(shared.format, &session.paths, &mut self.buffer).map_err(at(path))?;
        let time = start.elapsed();
        let wrong = |what: &str, remedy| Error::Directory {
            path: path.clone(),
            what: format!("read a session: {what}"),
            remedy,
        };
        if !there {
            return Err(wrong(
                "it does not exist any more",
                "check whether another program deletes sessions there",
            ));
        }
        let stamp = self.content.stamp_of(&self.buffer);
        if stamp == Some(session.stamp) {
            Ok((time, false))
        } else if stamp == Some(session.before) && session.peer.is_some() {
            Ok((time, true))
        } else {
            Err(wrong(
                "it differs from what was saved",
                "this is a bug in the filesystem; please report it",
            ))
        }
    }

    /// Rounds until the limit, a failure of any thread, or a signal.
    fn run(&mut self, shared: &Shared<'_>, start: Instant) -> Result<(), Error> {
        let deadline = match shared.limit {
            Limit::Time(time) => start.checked_add(time),
            Limit::Operations(_) => None,
        };
        let mut steps = std::mem::take(&mut self.steps);
        for _ in 0..self.rounds_max {
            steps.shuffle(&mut self.random);
            for &step in &steps {
                let over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                if over || Interrupts::noted() || shared.failed.load(Ordering::Relaxed) {
                    return Ok(());
                }
                self.step(shared, step)?;
            }
            shared.rounds.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn step(&mut self, shared: &Shared<'_>, step: Step) -> Result<(), Error> {
        match step {
            Step::FillOwn(number) => self.save_own(shared, number).map(drop),
            Step::FillForeign(number) => self.save_foreign(shared, number),
            Step::FillCold(number) => self.make_cold(shared, number),
            Step::Measure(histogram, (number, pattern)) => {
                let (time, behind) = match pattern {
                    Pattern::Warm => self.read_warm(shared, number),
                    Pattern::Own => self.read_fresh(shared, number, false),
                    Pattern::Foreign => self.read_fresh(shared, number, true),
                    Pattern::Cold => self.read_cold(shared, number),
                    Pattern::Save => self.save_own(shared, number).map(|time| (time, false)),
                    Pattern::Absent => self.read_absent(shared, number),
                }?;
                let histogram = &mut self.histograms[histogram];
                histogram.0.record(time);
                histogram.1 += u64::from(behind);
                Ok(())
            }
        }
    }

    fn read_warm(&mut self, shared: &Shared<'_>, number: usize) -> Result<(Duration, bool), Error> {
        let sessions = &shared.warm[number];
        let session = &sessions[self.random.random_range(0..sessions.len())];
        self.read(shared, number, session)
    }

    fn read_fresh(
        &mut self,
        shared: &Shared<'_>,
        number: usize,
        foreign: bool,
    ) -> Result<(Duration, bool), Error> {
        let area = &mut self.areas[number];
        let pool = if foreign { &mut area.foreign } else { &mut area.own };
        let session = take(&mut self.random, &mut pool.fresh, &mut pool.settled);
        let result = self.read(shared, number, &session);
        let area = &mut self.areas[number];
        let pool = if foreign { &mut area.foreign } else { &mut area.own };
        pool.settled.push(session);
        result
    }

    fn save_own(&mut self, shared: &Shared<'_>, number: usize) -> Result<Duration, Error> {
        let pool = &mut self.areas[number].own;
        let mut session = take(&mut self.random, &mut pool.settled, &mut pool.fresh);
        let result = self.save(shared, number, &mut session, false);
        self.areas[number].own.fresh.push(session);
        result
    }

    fn save_foreign(&mut self, shared: &Shared<'_>, number: usize) -> Result<(), Error> {
        let pool = &mut self.areas[number].foreign;
        let mut session = take(&mut self.random, &mut pool.settled, &mut pool.fresh);
        let result = self.save(shared, number, &mut session, true);
        self.areas[number].foreign.fresh.push(session);
        result.map(drop)
    }

    fn make_cold(&mut self, shared: &Shared<'_>, number: usize) -> Result<(), Error> {
        for session in std::mem::take(&mut self.areas[number].used) {
            let paths = session.peer.as_ref().unwrap_or(&session.paths);
            let path = &shared.directories[number].path;
            let step = "unlink a session";
            self.made.unlink(&paths.session).map_err(|errno| at(path)(Fault { step, errno }))?;
        }
        let mut session = self.new_session(shared, number);
        self.save(shared, number, &mut session, true)?;
        self.areas[number].cold.push_back(session);
        Ok(())
    }

    fn read_cold(&mut self, shared: &Shared<'_>, number: usize) -> Result<(Duration, bool), Error> {
        // Never empty: each round puts one in and takes one out, and it began with several.
        if self.areas[number].cold.is_empty() {
            self.make_cold(shared, number)?;
        }
        let Some(session) = self.areas[number].cold.pop_front() else {
            return Ok(Default::default());
        };
        let result = self.read(shared, number, &session);
        self.areas[number].used.push(session);
        result
    }

    fn read_absent(
        &mut self,
        shared: &Shared<'_>,
        number: usize,
    ) -> Result<(Duration, bool), Error> {
        let session = self.new_session(shared, number);
        let path = &shared.directories[number].path;
        let start = Instant::now();
        let there =
            operation::read(shared.format, &session.paths, &mut self.buffer).map_err(at(path))?;
        let time = start.elapsed();
        if there {
            return Err(Error::Directory {
                path: path.clone(),
                what: "read a session that must not exist: it exists".into(),
                remedy: "this is a bug in the filesystem; please report it",
            });
        }
        Ok((time, false))
    }
}

/// Takes a random one of `first`, or of `second` when there is none. One of them has some.
fn take(random: &mut StdRng, first: &mut Vec<Session>, second: &mut Vec<Session>) -> Session {
    let from = if first.is_empty() { second } else { first };
    from.swap_remove(random.random_range(0..from.len()))
}

/// What a round consists of: each cell once, and what those need that no other cell does.
fn steps(cells: &[Cell]) -> Vec<Step> {
    let mut steps = Vec::new();
    for (index, &cell) in cells.iter().enumerate() {
        steps.push(Step::Measure(index, cell));
        let (number, pattern) = cell;
        match pattern {
            Pattern::Own if !cells.contains(&(number, Pattern::Save)) => {
                steps.push(Step::FillOwn(number));
            }
            Pattern::Foreign => steps.push(Step::FillForeign(number)),
            Pattern::Cold => steps.push(Step::FillCold(number)),
            _ => {}
        }
    }
    steps
}

/// Whether a round of nothing but `cells` is nothing but measured operations.
pub(crate) fn is_pure(cells: &[Cell]) -> bool {
    steps(cells).len() == cells.len()
}

/// Runs all workers at once, and shows the progress meanwhile.
pub(crate) fn measure(
    shared: &Shared<'_>,
    workers: Vec<Worker>,
    bar: &ProgressBar,
) -> Vec<Outcome> {
    let count = workers.len() as u64;
    let barrier = Arc::new(Barrier::new(workers.len()));
    bar.set_message("measuring");
    bar.set_position(0);
    bar.reset();
    match shared.limit {
        Limit::Time(time) => bar.set_length(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        Limit::Operations(operations) => bar.set_length(operations),
    }
    // The signals go to the thread that waits; a measured call is not disturbed by one.
    let mask = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    let _ = mask.thread_block();
    std::thread::scope(|scope| {
        let threads: Vec<_> = workers
            .into_iter()
            .map(|worker| {
                let barrier = Arc::clone(&barrier);
                scope.spawn(move || thread(shared, worker, &barrier))
            })
            .collect();
        let _ = mask.thread_unblock();
        let start = Instant::now();
        while threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(PROGRESS_INTERVAL.min(Duration::from_millis(20 * count + 20)));
            match shared.limit {
                Limit::Time(_) => {
                    bar.set_position(
                        u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
                    );
                }
                Limit::Operations(_) => bar.set_position(shared.rounds.load(Ordering::Relaxed)),
            }
        }
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn thread(shared: &Shared<'_>, mut worker: Worker, barrier: &Barrier) -> Outcome {
    barrier.wait();
    let start = Instant::now();
    let failure = worker.run(shared, start).err();
    let time = start.elapsed();
    if failure.is_some() {
        shared.failed.store(true, Ordering::Relaxed);
    }
    let measured = shared
        .cells
        .iter()
        .zip(worker.histograms)
        .map(|(&cell, (histogram, behind))| (cell, histogram, behind))
        .collect();
    Outcome { made: worker.made, measured, time, failure }
}
