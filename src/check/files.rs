//! Session files on a disk: those that are left of before, and those that should not be written
//! any more.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Finding, Id, ago, counted};
use crate::disk::IMPORT_DIRECTORY;
use crate::disk::directory::Directory;
use crate::host::directory;
use crate::host::mount::beneath;
use crate::odoo::{Odoo, Sign};
use crate::session::content;
use crate::session::name::Sid;
use crate::shell;

/// Entries of one tree that are looked at.
const ENTRIES_MAX: usize = 200_000;
/// Session files whose content is looked at; of more, each counts as a session.
const LOOKED_INTO_MAX: u64 = 10_000;
/// A save of before the mount may have come so long after the service's start.
const STARTING: Duration = Duration::from_secs(60);

/// Session files in a directory.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Plain {
    pub directory: PathBuf,
    pub count: u64,
    /// How many of them are too old to be imported.
    pub too_old: u64,
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
    /// Why its files cannot be moved, and so are not imported.
    pub unmovable: Option<String>,
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

impl Below {
    /// The session files that lie in it, and what is to become of them.
    fn lying(&self, directory: &Path) -> Finding {
        let dir = shell::path(directory);
        let files = lie(self.plain.count);
        let what = format!("{files} in plain text in the underlying directory of {dir}");
        if self.plain.too_old == self.plain.count {
            let what = format!("{what}, all older than import.max_age");
            return Finding::new(Id::Below, what, "delete them while nothing is mounted");
        }
        if let Some(why) = &self.unmovable {
            let what = format!("{what} and cannot be moved ({why}), so none is imported");
            return Finding::new(
                Id::Below,
                what,
                "make the directory writable for root, and run sessionfs reload",
            );
        }
        let remedy = "import them (sessionfs import), or delete them while nothing is mounted";
        Finding::new(Id::Below, what, remedy)
    }
}

impl Facts {
    /// Looks at the underlying directory and into the other directories that Odoo may use.
    pub(crate) fn gather(
        directory: &Path,
        odoo: &Odoo,
        since: Option<SystemTime>,
        max_age: Duration,
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
                others.push(Plain { in_use, ..scan(path, path, since, max_age) });
            }
        }
        Self {
            directory: directory.to_owned(),
            below: mounted.then(|| below(directory, since, max_age)),
            others,
            unit: unit.to_owned(),
        }
    }

    /// Judges. If an Odoo uses the mount, who writes elsewhere is another, and may have its reasons.
    pub(crate) fn findings(&self, is_used: bool) -> Vec<Finding> {
        let dir = shell::path(&self.directory);
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
                    found.push(below.lying(&self.directory));
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
            let at = shell::path(&other.directory);
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
fn below(directory: &Path, since: Option<SystemTime>, max_age: Duration) -> io::Result<Below> {
    let (_tree, hidden) = beneath(directory)?;
    let found = hidden.symlink_metadata()?;
    let plain = scan(&hidden, directory, since, max_age);
    let opened = directory::open(&hidden)?;
    let unmovable = Directory::check_movable(opened.as_fd()).err().map(|error| error.to_string());
    Ok(Below { uid: found.uid(), mode: found.mode(), unmovable, plain })
}

/// Counts the session files of a tree, of every version of Odoo, and of the imports in it that were
/// not completed.
fn scan(directory: &Path, shown: &Path, since: Option<SystemTime>, max_age: Duration) -> Plain {
    let mut scan = Scan {
        plain: Plain { directory: shown.to_owned(), ..Plain::default() },
        fresh_from: since.map(|since| since + STARTING),
        old_before: SystemTime::now().checked_sub(max_age),
        left: ENTRIES_MAX,
    };
    for root in [directory.to_owned(), directory.join(IMPORT_DIRECTORY)] {
        // A link could lead anywhere.
        let is_directory = |path: &Path| path.symlink_metadata().is_ok_and(|found| found.is_dir());
        if root != directory && !is_directory(&root) {
            continue;
        }
        for shard in scan.directory(&root).iter().filter(|shard| is_directory(shard)) {
            scan.directory(shard);
        }
    }
    scan.plain
}

struct Scan {
    plain: Plain,
    /// What was written later was written since the mount.
    fresh_from: Option<SystemTime>,
    /// What was written earlier is not imported.
    old_before: Option<SystemTime>,
    /// How many entries may still be looked at.
    left: usize,
}

impl Scan {
    /// Counts the session files of one directory; what may be a shard in it.
    fn directory(&mut self, directory: &Path) -> Vec<PathBuf> {
        let mut shards = Vec::new();
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let flat = name.strip_prefix("werkzeug_").and_then(|rest| rest.strip_suffix(".sess"));
            if name.len() == 2 {
                shards.push(entry.path());
            }
            if Sid::parse(flat.unwrap_or(&name)).is_some() {
                self.file(&entry.path());
            }
        }
        shards
    }

    fn file(&mut self, path: &Path) {
        let found = path.symlink_metadata().ok();
        let is_looked_into = self.plain.count < LOOKED_INTO_MAX;
        if is_looked_into
            && !found.as_ref().is_some_and(|found| found.is_file() && is_session(path))
        {
            return;
        }
        self.plain.count += 1;
        if let Some(written) = found.and_then(|found| found.modified().ok()) {
            self.plain.newest = self.plain.newest.max(Some(written));
            self.plain.fresh += u64::from(self.fresh_from.is_some_and(|from| written > from));
            self.plain.too_old += u64::from(self.old_before.is_some_and(|from| written < from));
        }
    }
}

/// Whether a file with a session's name has the content of one. What cannot be read may have.
fn is_session(path: &Path) -> bool {
    let mut first = Vec::new();
    File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .and_then(|file| file.take(1).read_to_end(&mut first))
        .map_or(true, |_| content::may_be_session(&first))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "ab0123456789012345678901234567890123456f";

    #[test]
    fn only_what_an_import_would_take_counts_as_a_session_file() {
        const WEEK: Duration = Duration::from_secs(7 * 86_400);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        for made in ["ab", "lost+found", &format!("{IMPORT_DIRECTORY}/ab")] {
            std::fs::create_dir_all(path.join(made)).unwrap();
        }
        for (name, content) in [
            (".gitkeep".to_owned(), ""),
            ("ab/.nfs000000000123abcd00000002".to_owned(), "{}"),
            (format!("ab/{HEX}"), ""),
            (format!("werkzeug_{HEX}.sess"), "notes"),
        ] {
            std::fs::write(path.join(name), content).unwrap();
        }
        std::fs::create_dir(path.join(format!("ab/{}", HEX.replace('f', "0")))).unwrap();
        assert_eq!(scan(path, path, None, WEEK).count, 0);
        let taken = path.join(format!("{IMPORT_DIRECTORY}/ab/{HEX}"));
        for file in [path.join(format!("ab/{HEX}")), taken.clone()] {
            std::fs::write(file, "{}").unwrap();
        }
        let old = SystemTime::now() - 2 * WEEK;
        File::options().write(true).open(taken).unwrap().set_modified(old).unwrap();
        let found = scan(path, path, Some(old), WEEK);
        assert_eq!((found.count, found.too_old, found.fresh), (2, 1, 1));
    }
}
