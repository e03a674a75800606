//! `sessionfs bench`: Odoo's reads and saves on any directories, side by side.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statfs;

use crate::bench::report::Report;
use crate::bench::session::Format;
use crate::bench::worker::Limit;
use crate::bench::{
    self, DIRECTORIES_MAX, Directory, Error, OPERATIONS_MAX, Pattern, SECONDS_MAX, SESSIONS_MAX,
    Settings, THREADS_MAX,
};
use crate::exit::{ExitCode, Failure};

/// Measure Odoo's reads and saves of sessions in any directories, and compare them.
///
/// The directories may be on any filesystem and may be in use: the sessions of the benchmark have
/// random names and are removed at the end, also on Ctrl-C. The operations of all directories and
/// patterns are interleaved at random. The ratio compares the median with that of the first
/// directory.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// Directories to measure; they are compared with the first
    #[arg(value_name = "DIR", required = true)]
    pub directories: Vec<PathBuf>,

    /// Numbers of threads; there is one run for each
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1")]
    pub threads: Vec<usize>,

    /// Duration of each run; with several threads, half of it measures the rates, separately for
    /// each directory and pattern
    #[arg(long, value_name = "S", default_value_t = 10, conflicts_with = "operations")]
    pub seconds: u64,

    /// Number of operations for each pattern and directory, instead of a duration
    #[arg(long, value_name = "N")]
    pub operations: Option<u64>,

    /// Size of a session in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 740)]
    pub size: usize,

    /// Number of sessions to read, and as many to save, in each directory
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub sessions: usize,

    /// Version of Odoo whose names, contents and calls are used (19 is like 18, 17 like 16, 15 like
    /// 14)
    #[arg(long, value_name = "VERSION", value_enum, default_value = "18")]
    pub format: Format,

    /// Patterns to measure (default: all that are possible in the directories)
    #[arg(long, value_name = "PATTERN", value_enum, value_delimiter = ',')]
    pub patterns: Vec<Pattern>,

    /// OTHER is another mount of the sessions in DIR, as on a second server; needed for `cold` and
    /// `foreign` in DIR
    #[arg(long, value_name = "DIR=OTHER")]
    pub peer: Vec<String>,

    /// Measure each directory and pattern separately, one after another: how long operations take
    /// when all threads do the same
    #[arg(long)]
    pub apart: bool,

    /// Write the result as JSON to a file; with `-` to standard output instead of the table
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Args {
    /// Measures, and prints what was found.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let report = bench::run(&settings(self)?)?;
        print(self, &report)?;
        if report.interrupted { Err(Error::Interrupted.into()) } else { Ok(()) }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Usage(_) => ExitCode::Usage,
            Error::Directory { .. } => ExitCode::BenchDirectory,
            Error::Output(_) => ExitCode::BenchOutput,
            Error::Interrupted => ExitCode::Interrupted,
        };
        Failure::new(code, error.to_string())
    }
}

fn print(args: &Args, report: &Report) -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Output(format!("standard output: {error}"));
    let mut json = serde_json::to_string_pretty(report).map_err(|error| failed(&error))?;
    json.push('\n');
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    let text = if to_stdout { json.clone() } else { report.table() };
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(|error| failed(&error))?;
    match &args.json {
        Some(path) if !to_stdout => std::fs::write(path, json).map_err(|error| {
            Error::Output(format!("--json {}: {error}; name a writable file", path.display()))
        }),
        _ => Ok(()),
    }
}

/// A number within its bounds, or what is wrong with it.
fn within<T: Copy + Ord + std::fmt::Display>(
    option: &str,
    value: T,
    least: T,
    most: T,
) -> Result<T, Error> {
    if value < least || value > most {
        return Err(Error::Usage(format!("{option} {value}: use {least} to {most}")));
    }
    Ok(value)
}

fn settings(args: &Args) -> Result<Settings, Error> {
    within("number of directories", args.directories.len(), 1, DIRECTORIES_MAX)?;
    for &threads in &args.threads {
        within("--threads", threads, 1, THREADS_MAX)?;
    }
    let limit = match args.operations {
        Some(count) => Limit::Operations(within("--operations", count, 1, OPERATIONS_MAX)?),
        None => {
            Limit::Time(Duration::from_secs(within("--seconds", args.seconds, 1, SECONDS_MAX)?))
        }
    };
    let directories = directories(args)?;
    let peers = directories.iter().any(|directory| directory.peer.is_some());
    let patterns: Vec<Pattern> = if args.patterns.is_empty() {
        Pattern::ALL.into_iter().filter(|pattern| peers || !pattern.needs_peer()).collect()
    } else {
        args.patterns.clone()
    };
    if let Some(pattern) = patterns.iter().find(|pattern| pattern.needs_peer() && !peers) {
        return Err(Error::Usage(format!(
            "--patterns {}: needs a second mount of the same sessions; name it with --peer DIR=OTHER",
            pattern.name()
        )));
    }
    Ok(Settings {
        directories,
        threads: args.threads.clone(),
        limit,
        size: args.size,
        sessions: within("--sessions", args.sessions, 1, SESSIONS_MAX)?,
        format: args.format,
        patterns,
        apart: args.apart,
    })
}

fn directories(args: &Args) -> Result<Vec<Directory>, Error> {
    let mut found = Vec::new();
    for path in &args.directories {
        let path = absolute(path)?;
        let filesystem = filesystem(&path)?;
        found.push(Directory { path, peer: None, filesystem });
    }
    let distinct: HashSet<&Path> = found.iter().map(|directory| directory.path.as_path()).collect();
    if distinct.len() < found.len() {
        return Err(Error::Usage("a directory is named twice; name each directory once".into()));
    }
    for pair in &args.peer {
        let (of, other) = pair.split_once('=').ok_or_else(|| {
            Error::Usage(format!("--peer {pair}: write --peer DIR=OTHER, without a = in the names"))
        })?;
        let of = absolute(Path::new(of))?;
        let other = absolute(Path::new(other))?;
        let directory =
            found.iter_mut().find(|directory| directory.path == of).ok_or_else(|| {
                Error::Usage(format!(
                    "--peer {pair}: name one of the measured directories before the ="
                ))
            })?;
        directory.peer = Some(other);
    }
    Ok(found)
}

/// The directory by its absolute path, as Odoo names it.
fn absolute(path: &Path) -> Result<PathBuf, Error> {
    let failed = |error: &std::io::Error| {
        let errno = nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        Error::from_errno(path, "look at the directory", errno)
    };
    let path = path.canonicalize().map_err(|error| failed(&error))?;
    if !path.metadata().map_err(|error| failed(&error))?.is_dir() {
        return Err(Error::from_errno(&path, "look at the directory", nix::Error::ENOTDIR));
    }
    Ok(path)
}

/// The name of the filesystem of `path`, or its number.
fn filesystem(path: &Path) -> Result<String, Error> {
    const XFS: statfs::FsType = statfs::FsType(0x5846_5342);
    let kind = statfs::statfs(path)
        .map_err(|errno| Error::from_errno(path, "look at the directory", errno))?
        .filesystem_type();
    let known = [
        (statfs::EXT4_SUPER_MAGIC, "ext4"),
        (statfs::TMPFS_MAGIC, "tmpfs"),
        (statfs::FUSE_SUPER_MAGIC, "fuse"),
        (statfs::BTRFS_SUPER_MAGIC, "btrfs"),
        (statfs::OVERLAYFS_SUPER_MAGIC, "overlay"),
        (statfs::NFS_SUPER_MAGIC, "nfs"),
        (XFS, "xfs"),
    ];
    Ok(known
        .iter()
        .find(|(number, _)| *number == kind)
        .map_or_else(|| format!("{:#x}", kind.0), |(_, name)| (*name).into()))
}
