//! Session files on a disk: those that are left of before, and those that should not be written
//! any more.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Finding, Id, ago, counted};
use crate::host::mount::beneath;
use crate::odoo::{Odoo, Sign};
use crate::session::name::Sid;

/// Entries of one tree that are looked at.
const ENTRIES_MAX: usize = 200_000;
/// A save of before the mount may have come so long after the service's start.
const STARTING: Duration = Duration::from_secs(60);

/// Session files in a directory.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Plain {
    pub directory: PathBuf,
    pub count: u64,
    /// How many of them were written since the mount started.
    pub fresh: u64,
    /// When the newest was written.
    pub newest: Option<SystemTime>,
    /// Whether an Odoo of this host, running or not, keeps its sessions there: then they are its
    /// own, and nobody else's to take away.
    pub in_use: bool,
}

/// The underlying directory.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Below {
    pub uid: u32,
    /// Its permission bits.
    pub mode: u32,
    pub plain: Plain,
}

#[derive(Debug)]
pub(crate) struct Facts {
    /// Where the mount is, or should be.
    pub directory: PathBuf,
    /// What is below it; not asked if nothing is mounted.
    pub below: Option<io::Result<Below>>,
    /// Other directories in which Odoo keeps, or kept, sessions.
    pub others: Vec<Plain>,
    /// The unit of the mount.
    pub unit: String,
}

impl Facts {
    /// Looks at the underlying directory and into the other directories that Odoo may use.
    pub(crate) fn gather(
        directory: &Path,
        odoo: &Odoo,
        since: Option<SystemTime>,
        unit: &str,
    ) -> Self {
        let mounted = odoo.mounts.at(directory).is_some();
        let mut others: Vec<Plain> = Vec::new();
        for path in odoo.instances.iter().filter_map(|found| found.sessions_here.as_ref()) {
            let known = path == directory || others.iter().any(|other| other.directory == *path);
            // What is mounted there is not a disk's, and may not answer.
            if !known && odoo.mounts.at(path).is_none() {
                let in_use = odoo.instances.iter().any(|found| {
                    matches!(found.sign, Sign::Process(_) | Sign::Service(_))
                        && found.sessions_here.as_ref() == Some(path)
                });
                others.push(Plain { in_use, ..scan(path, path, since) });
            }
        }
        Self {
            directory: directory.to_owned(),
            below: mounted.then(|| below(directory, since)),
            others,
            unit: unit.to_owned(),
        }
    }

    /// Judges. If an Odoo uses the mount, who writes elsewhere is another, and may have its reasons.
    pub(crate) fn findings(&self, is_used: bool) -> Vec<Finding> {
        let dir = self.directory.display();
        let mut found = Vec::new();
        match &self.below {
            None => {}
            Some(Err(error)) => found.push(Finding::new(
                Id::BelowUnseen,
                format!("the underlying directory of {dir} cannot be read: {error}"),
                "run as root",
            )),
            Some(Ok(below)) => {
                if below.plain.fresh > 0 {
                    found.push(Finding::new(
                        Id::BelowFresh,
                        format!(
                            "{} written to the underlying directory of {dir} since it was mounted, \
                             the newest {}: an Odoo does not see the mount",
                            written(below.plain.fresh),
                            newest(&below.plain)
                        ),
                        "restart every Odoo on this host, including containers, and run the check \
                         again",
                    ));
                } else if below.plain.count > 0 {
                    found.push(Finding::new(
                        Id::Below,
                        format!(
                            "{} in plain text in the underlying directory of {dir}",
                            lie(below.plain.count)
                        ),
                        "import them (sessionfs import), or delete them while nothing is mounted",
                    ));
                }
                if below.uid != 0 || below.mode & 0o022 != 0 {
                    found.push(Finding::new(
                        Id::BelowUsable,
                        format!(
                            "the underlying directory of {dir} belongs to user {} with mode \
                             {:04o}: without the mount, Odoo would write sessions there unnoticed",
                            below.uid,
                            below.mode & 0o7777
                        ),
                        format!(
                            "systemctl restart {}: it gives the directory to root with mode 0000",
                            self.unit
                        ),
                    ));
                }
            }
        }
        for other in &self.others {
            let at = other.directory.display();
            if other.fresh > 0 && !is_used {
                found.push(Finding::new(
                    Id::Fresh,
                    format!(
                        "{} written in {at} since the mount on {dir} started, the newest {}: an \
                         Odoo still writes files",
                        written(other.fresh),
                        newest(other)
                    ),
                    format!(
                        "find the Odoo that uses {at} (sessionfs discover); mount there, or set its \
                         data_dir, and restart it"
                    ),
                ));
            } else if other.count > 0 && !other.in_use {
                found.push(Finding::new(
                    Id::Left,
                    format!("{} in plain text in {at}, where nothing is mounted", lie(other.count)),
                    "if they are from before the mount, import them (sessionfs import) or delete \
                     them",
                ));
            }
        }
        found
    }
}

fn written(count: u64) -> String {
    format!("{} {}", counted(count, "session file"), if count == 1 { "was" } else { "were" })
}

fn lie(count: u64) -> String {
    format!("{} {}", counted(count, "session file"), if count == 1 { "lies" } else { "lie" })
}

fn newest(plain: &Plain) -> String {
    plain.newest.map_or_else(|| "just now".into(), ago)
}

/// The directory that a mount hides, without touching the mount.
fn below(directory: &Path, since: Option<SystemTime>) -> io::Result<Below> {
    let (_tree, hidden) = beneath(directory)?;
    let found = hidden.symlink_metadata()?;
    let plain = scan(&hidden, directory, since);
    Ok(Below { uid: found.uid(), mode: found.mode(), plain })
}

/// Counts the session files of a tree, of every version of Odoo.
fn scan(directory: &Path, shown: &Path, since: Option<SystemTime>) -> Plain {
    let mut plain = Plain { directory: shown.to_owned(), ..Plain::default() };
    let fresh_from = since.map(|since| since + STARTING);
    let mut left = ENTRIES_MAX;
    let mut count = |directory: &Path, shards: &mut Vec<PathBuf>| {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if left == 0 {
                return;
            }
            left -= 1;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let flat = name.strip_prefix("werkzeug_").and_then(|rest| rest.strip_suffix(".sess"));
            if name.len() == 2 {
                shards.push(entry.path());
            }
            if Sid::parse(flat.unwrap_or(&name)).is_none() {
                continue;
            }
            plain.count += 1;
            if let Ok(written) = entry.metadata().and_then(|found| found.modified()) {
                plain.newest = plain.newest.max(Some(written));
                plain.fresh += u64::from(fresh_from.is_some_and(|from| written > from));
            }
        }
    };
    let mut shards = Vec::new();
    count(directory, &mut shards);
    for shard in std::mem::take(&mut shards) {
        // A link could lead anywhere.
        if shard.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            count(&shard, &mut shards);
        }
    }
    plain
}
