//! How long Odoo waits for its session files: system calls on any session directory, counted and timed by BPF without
//! touching Odoo.
//!
//! Each begin and end of a system call of the machine is looked at while this runs, which costs all of them a little. So it
//! runs for minutes, and nothing of it stays: the programs end with this process.
//!
//! - [`calls`]: which system calls, as which operation
//! - [`watched`]: whose calls: Odoo's processes, its ports, and its names for the directory
//! - [`program`]: the BPF program, from its start to what it has counted
//! - [`snapshot`]: what it has counted, in its own words
//! - [`histogram`]: durations into quantiles
//! - [`route`]: paths of requests, without tokens and numbers
//! - [`files`]: number, size and age of the session files
//! - [`report`]: the result

mod calls;
mod files;
mod histogram;
mod program;
pub(crate) mod report;
mod route;
mod snapshot;
pub(crate) mod watched;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bpf;
use crate::host::mount_table::MountTable;
use crate::host::{bounded, clock};
use files::Files;
use program::{PATH_BYTES_MAX, Program};
use report::{Report, Scene};
use watched::{Kind, Watched, Whom};

/// How long a directory may take to answer. Its filesystem may be dead.
const DIRECTORY_BOUND: Duration = Duration::from_secs(20);

/// Why nothing is observed.
#[derive(Debug)]
pub(crate) enum Error {
    /// The directory cannot be used, and why.
    Directory(PathBuf, String),
    /// There is no process to observe; who was looked for, and what helps.
    Nobody(String),
    /// BPF does not run.
    Bpf(bpf::Error),
}

impl From<bpf::Error> for Error {
    fn from(error: bpf::Error) -> Self {
        Self::Bpf(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path, why) => write!(f, "{}: {why}", path.display()),
            Self::Nobody(why) => f.write_str(why),
            Self::Bpf(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// An observation under way.
pub(crate) struct Observation {
    program: Program,
    directory: PathBuf,
    watched: Watched,
    /// Who was shown to the program, and as what.
    known: BTreeMap<i32, Kind>,
    scene: Scene,
    begun: Duration,
    time: Duration,
}

impl Observation {
    /// Finds whom to observe, and begins. After `time` nothing more is counted, even if this process is stopped by then.
    pub(crate) fn start(asked: &Path, whom: &Whom, time: Duration) -> Result<Self, Error> {
        let asked = std::path::absolute(asked)
            .map_err(|error| Error::Directory(asked.to_owned(), error.to_string()))?;
        let (directory, opened) = open(&asked)?;
        // Whoever lacks the rights for this sees not all processes either.
        let mut program = Program::load()?;
        // It may take some time, and costs nobody anything before the program is attached.
        let watched = Watched::find(whom, &directory, &asked)?;
        let begun = clock::monotonic();
        program.attach(&opened, begun + time)?;
        program.tell(&watched.names, &watched.ports)?;
        let scene = Scene {
            filesystem: filesystem(&directory),
            directory: directory.display().to_string(),
            ports: watched.ports.iter().copied().collect(),
            ..Scene::default()
        };
        let known = BTreeMap::new();
        let mut observation = Self { program, directory, watched, known, scene, begun, time };
        // What is started between the look and the showing is seen by the second look.
        observation.look_again();
        observation.look_again();
        let evented = observation.known.iter().filter(|(_, kind)| **kind == Kind::Evented);
        observation.scene.evented_pids = evented.map(|(pid, _)| *pid).collect();
        observation.scene.pids = observation.known.keys().copied().collect();
        Ok(observation)
    }

    /// Whom and what it observes.
    pub(crate) fn scene(&self) -> &Scene {
        &self.scene
    }

    /// How long it has run, at most the time it was to run.
    pub(crate) fn elapsed(&self) -> Duration {
        clock::monotonic().saturating_sub(self.begun).min(self.time)
    }

    /// Shows the program who runs: an evented process that was started anew, for one. Says whether anybody is left.
    pub(crate) fn look_again(&mut self) -> bool {
        let running = self.watched.running();
        // Those it knows as well: its table is bounded, and may have lost one.
        for (pid, kind) in &running {
            self.program.watch(*pid, *kind);
        }
        let left = !running.is_empty();
        self.known = running;
        left
    }

    /// What was found so far. The files are not looked at.
    pub(crate) fn so_far(&self) -> Result<Report, Error> {
        self.report(self.scene.clone(), Files::default())
    }

    /// Ends it, and looks at the files.
    pub(crate) fn finish(mut self, interrupted: bool) -> Result<Report, Error> {
        self.program.stop();
        let seconds = (self.elapsed().as_secs_f64() * 1e3).round() / 1e3;
        let scene = Scene { seconds, interrupted, ..self.scene.clone() };
        let counted = self.report(scene, Files::default())?;
        let directory = self.directory.clone();
        let files =
            bounded::within("session files", DIRECTORY_BOUND, move || files::look(&directory));
        let unknown = || Files { partly: true, ..Files::default() };
        Ok(Report { files: files.ok().flatten().unwrap_or_else(unknown), ..counted })
    }

    fn report(&self, scene: Scene, files: Files) -> Result<Report, Error> {
        let now = self.begun + self.elapsed();
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        Ok(Report::new(scene, &self.program.snapshot()?, files, now_ns))
    }
}

/// The directory without symbolic links, opened.
fn open(named: &Path) -> Result<(PathBuf, File), Error> {
    let failed = |why: String| Error::Directory(named.to_owned(), why);
    let path = named.to_owned();
    let opened = bounded::within("directory", DIRECTORY_BOUND, move || -> io::Result<_> {
        let path = path.canonicalize()?;
        let opened = File::open(&path)?;
        if !opened.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok((path, opened))
    });
    let remedy = |error: &io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => "run it as root",
        _ => "name Odoo's session directory; `sessionfs discover` shows it",
    };
    let dead =
        "it does not answer: is its mount dead? `sessionfs check` tells, if it is one of sessionfs";
    let (path, opened) = opened
        .map_err(|error| failed(error.to_string()))?
        .ok_or_else(|| failed(dead.to_owned()))?
        .map_err(|error| failed(format!("{error}; {}", remedy(&error))))?;
    if [named, &path].iter().any(|path| path.as_os_str().as_bytes().len() > PATH_BYTES_MAX) {
        let why =
            format!("its path has more than {PATH_BYTES_MAX} bytes; mount it at a shorter one");
        return Err(failed(why));
    }
    Ok((path, opened))
}

/// The kind of the filesystem of a directory.
fn filesystem(directory: &Path) -> String {
    let mounts = MountTable::own().unwrap_or_default();
    mounts.covering(directory).map_or_else(|| "unknown".to_owned(), |found| found.fstype.clone())
}
