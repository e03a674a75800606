//! The benchmark: Odoo's own system calls, on several directories side by side.
//!
//! What makes its numbers comparable: every operation is drawn at random between all directories
//! and all patterns, so that each finds the caches, the clock speed and the disturbances that the
//! others find. Measured one after another, each would run with caches of its own and look up to
//! twice as fast as a worker of Odoo ever sees it.
//!
//! - [`session`]: names and contents as the versions of Odoo write them.
//! - [`operation`]: one read, one save, call for call.
//! - [`worker`]: what one thread does, in which order.
//! - [`sample`]: durations into quantiles, in bounded memory.
//! - [`report`]: the result as a table and as JSON.
//! - [`made`]: everything that was created, so that nothing is left behind.

pub(crate) mod made;
pub(crate) mod operation;
pub(crate) mod report;
pub(crate) mod sample;
pub(crate) mod session;
pub(crate) mod worker;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use made::Made;
use report::{Report, Row, Run};
use sample::Histogram;
use session::{Content, Format};
use worker::{Limit, Shared, Worker};

use crate::host::signals::Interrupts;

/// The most threads of one run: each has its own histograms and its own sessions.
pub(crate) const THREADS_MAX: usize = 128;
/// The most sessions that one directory is given: each is a file that has to be removed again.
pub(crate) const SESSIONS_MAX: usize = 1_000_000;
/// The longest measurement of one run, in seconds.
pub(crate) const SECONDS_MAX: u64 = 3600;
/// The most operations of one pattern in one directory.
pub(crate) const OPERATIONS_MAX: u64 = 100_000_000;
/// The most directories in one run.
pub(crate) const DIRECTORIES_MAX: usize = 16;

/// What Odoo does with a session, as far as it makes a difference for a filesystem.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pattern {
    /// Read a session that was read before and has not changed since.
    Warm,
    /// Read a session for the first time after it was saved here.
    Own,
    /// Read a known session for the first time after it was saved through the directory's peer.
    Foreign,
    /// Read a session that was created through the peer and never used here.
    Cold,
    /// Replace a session.
    Save,
    /// Read a session that does not exist.
    Absent,
}

impl Pattern {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 6] =
        [Self::Warm, Self::Own, Self::Foreign, Self::Cold, Self::Save, Self::Absent];

    /// Whether it takes a second directory that leads to the same sessions.
    pub(crate) fn needs_peer(self) -> bool {
        matches!(self, Self::Foreign | Self::Cold)
    }

    /// Its word in the table and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Own => "own",
            Self::Foreign => "foreign",
            Self::Cold => "cold",
            Self::Save => "save",
            Self::Absent => "absent",
        }
    }
}

/// A directory to measure.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    pub path: PathBuf,
    /// Another mount of the same sessions: what is saved there is another node's save here.
    pub peer: Option<PathBuf>,
    /// The name of its filesystem.
    pub filesystem: String,
}

/// Everything that a benchmark needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The directories, the first of which is the one the others are compared with.
    pub directories: Vec<Directory>,
    /// One run for each of these numbers of threads.
    pub threads: Vec<usize>,
    /// The length of each run.
    pub limit: Limit,
    /// Bytes of one session.
    pub size: usize,
    /// Sessions read, and as many again saved, in each directory.
    pub sessions: usize,
    /// Whose names, contents and calls.
    pub format: Format,
    pub patterns: Vec<Pattern>,
    /// Whether each directory and pattern has a time of its own instead of being interleaved.
    pub apart: bool,
}

/// Why a benchmark ended without its result.
#[derive(Debug)]
pub enum Error {
    /// The command line asks for something that cannot be done.
    Usage(String),
    /// A directory cannot be used: which, what was tried, and what helps.
    Directory {
        path: PathBuf,
        /// What was tried there and how it failed.
        what: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The result cannot be written.
    Output(String),
    /// Ended by a signal, after the result so far was printed and the directories were cleaned.
    Interrupted,
}

impl Error {
    /// A system call that failed on `path`.
    pub fn from_errno(path: &Path, step: &str, errno: nix::Error) -> Self {
        use nix::Error as E;
        let remedy = match errno {
            E::ENOENT | E::ENOTDIR => "name a directory that exists",
            E::EACCES | E::EPERM => "run as its owner or as root",
            E::ENOTCONN | E::ECONNABORTED => "its mount is dead: unmount it and mount it again",
            E::EROFS => "mount it for writing",
            E::ENOSPC | E::EDQUOT => "free some space, or use fewer or smaller sessions",
            E::EMFILE | E::ENFILE => "raise the limit of open files",
            E::EFBIG => "use a smaller --size: the mount has a limit",
            E::EIO => "see the log of the mount: its Redis may be unreachable",
            _ => "check that Odoo's user can create, rename and delete files there",
        };
        let what = format!("{step}: {}", errno.desc());
        Self::Directory { path: path.to_owned(), what, remedy }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Output(message) => f.write_str(message),
            Self::Directory { path, what, remedy } => {
                write!(f, "{}: {what}; {remedy}", path.display())
            }
            Self::Interrupted => f.write_str("interrupted; removing the created sessions"),
        }
    }
}

impl std::error::Error for Error {}

/// Keeps the processors from halting while it is open.
///
/// On a virtual machine a halted processor costs 20 to 40 microseconds to wake, more than what is
/// measured, and it halts or not by chance.
fn hold_cpu_latency() -> std::io::Result<File> {
    let mut file = File::options().write(true).open("/dev/cpu_dma_latency")?;
    file.write_all(&0_i32.to_ne_bytes())?;
    Ok(file)
}

/// Runs the benchmark. The report is complete unless it says that it was interrupted.
///
/// Everything that was created in the directories is removed before it returns, whatever happens.
pub(crate) fn run(settings: &Settings) -> Result<Report, Error> {
    let content = Content::new(settings.format, settings.size).map_err(Error::Usage)?;
    let _interrupts = Interrupts::note();
    let latency = hold_cpu_latency();
    match &latency {
        Ok(_) => eprintln!("holding /dev/cpu_dma_latency at 0: processors do not halt"),
        Err(error) => eprintln!(
            "cannot hold /dev/cpu_dma_latency at 0 ({error}): processors may halt, and waking one \
             costs up to 40 us on a virtual machine; run as root for steadier numbers"
        ),
    }
    let mut runs = Vec::new();
    for &threads in &settings.threads {
        if Interrupts::noted() {
            break;
        }
        runs.push(run_threads(settings, &content, threads)?);
    }
    Ok(Report {
        format: settings.format,
        size_bytes: settings.size,
        sessions: settings.sessions,
        interleaved: !settings.apart,
        cpu_dma_latency_held: latency.is_ok(),
        interrupted: Interrupts::noted(),
        runs,
    })
}

/// A pattern in a directory, by its number.
type Cell = (usize, Pattern);

/// The cells to measure, in the order of the table.
fn cells(settings: &Settings) -> Vec<Cell> {
    let wanted = Pattern::ALL.into_iter().filter(|pattern| settings.patterns.contains(pattern));
    wanted
        .flat_map(|pattern| (0..settings.directories.len()).map(move |number| (number, pattern)))
        .filter(|&(number, pattern)| {
            !pattern.needs_peer() || settings.directories[number].peer.is_some()
        })
        .collect()
}

/// What was found out about one cell.
#[derive(Default)]
struct Measured {
    histogram: Histogram,
    /// Reads that were one version behind.
    behind: u64,
    /// Operations per second of all threads, where that is known.
    rate: Option<f64>,
}

/// What is measured at once, and what of it counts.
struct Part {
    cells: Vec<Cell>,
    limit: Limit,
    /// Whether only the rate is taken from it.
    only_rate: bool,
}

/// What a run consists of: all cells at once, or one after another with a share of the time each.
///
/// Several threads that do different things at a time say nothing about how many of one thing
/// they can do. So then every cell also gets a time of its own, for its rate alone.
fn parts(settings: &Settings, all: &[Cell], threads: usize) -> Vec<Part> {
    let alone: Vec<Vec<Cell>> = all.iter().map(|&cell| vec![cell]).collect();
    let share = |limit: Limit, by: usize| match limit {
        Limit::Time(time) => Limit::Time(time / u32::try_from(by.max(1)).unwrap_or(u32::MAX)),
        operations @ Limit::Operations(_) => operations,
    };
    let part = |limit, only_rate| move |cells| Part { cells, limit, only_rate };
    if settings.apart {
        let limit = share(settings.limit, alone.len());
        return alone.into_iter().map(part(limit, false)).collect();
    }
    if threads == 1 {
        return vec![part(settings.limit, false)(all.to_vec())];
    }
    let pure: Vec<Vec<Cell>> = alone.into_iter().filter(|cells| worker::is_pure(cells)).collect();
    let half = share(settings.limit, 2);
    let each = share(half, pure.len());
    let mut parts = vec![part(half, false)(all.to_vec())];
    parts.extend(pure.into_iter().map(part(each, true)));
    parts
}

fn run_threads(settings: &Settings, content: &Content, threads: usize) -> Result<Run, Error> {
    let all = cells(settings);
    let mut measured: HashMap<Cell, Measured> = HashMap::new();
    let mut time = Duration::ZERO;
    for part in parts(settings, &all, threads) {
        if Interrupts::noted() {
            break;
        }
        match run_part(settings, content, threads, &part, &mut measured) {
            Ok(took) => time += took,
            // What was measured before still counts.
            Err(Error::Interrupted) => break,
            Err(error) => return Err(error),
        }
    }
    let rows = all
        .into_iter()
        .filter_map(|cell| measured.remove(&cell).map(|found| (cell, found)))
        .filter(|(_, found)| found.histogram.count() > 0)
        .map(|((number, pattern), found)| {
            let rate =
                found.rate.or_else(|| (threads == 1).then(|| 1e9 / found.histogram.mean_ns()));
            let directory = &settings.directories[number];
            Row::new(directory, pattern, &found.histogram, rate, found.behind)
        })
        .collect();
    Ok(Run::new(threads, time, rows))
}

/// Prepares the sessions of `part`, measures it, and cleans up.
fn run_part(
    settings: &Settings,
    content: &Content,
    threads: usize,
    part: &Part,
    measured: &mut HashMap<Cell, Measured>,
) -> Result<Duration, Error> {
    let mut made = Made::default();
    let result = prepare_and_measure(settings, content, threads, part, measured, &mut made);
    let removed = made.remove();
    // What went wrong first is the better message.
    let time = result?;
    removed?;
    Ok(time)
}

#[expect(clippy::cast_precision_loss, reason = "a rate, not a count")]
fn prepare_and_measure(
    settings: &Settings,
    content: &Content,
    threads: usize,
    part: &Part,
    measured: &mut HashMap<Cell, Measured>,
    made: &mut Made,
) -> Result<Duration, Error> {
    let bar = progress();
    let shared = Shared::prepare(settings, content, &part.cells, part.limit, made, &bar)?;
    let mut workers = Vec::new();
    for number in 0..threads {
        workers.push(Worker::prepare(&shared, number, threads, made, &bar)?);
    }
    let outcomes = worker::measure(&shared, workers, &bar);
    bar.finish_and_clear();
    let mut failure = None;
    let mut time = Duration::ZERO;
    let mut found: HashMap<Cell, Measured> = HashMap::new();
    for outcome in outcomes {
        made.merge(outcome.made);
        failure = failure.or(outcome.failure);
        time = time.max(outcome.time);
        for (cell, histogram, behind) in outcome.measured {
            let sum = found.entry(cell).or_default();
            sum.histogram.merge(&histogram);
            sum.behind += behind;
        }
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    let pure = part.cells.len() == 1 && worker::is_pure(&part.cells);
    for (cell, one) in found {
        let into = measured.entry(cell).or_default();
        if pure && !time.is_zero() {
            into.rate = Some(one.histogram.count() as f64 / time.as_secs_f64());
        }
        if !part.only_rate {
            into.histogram.merge(&one.histogram);
            into.behind += one.behind;
        }
    }
    Ok(time)
}

/// A bar on standard error; nothing when that is not a terminal.
fn progress() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let template = "{msg:11} [{bar:40}] {percent:>3}% {elapsed_precise} left {eta_precise}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
