//! The files of kept changes: one on a tmpfs at once, and a copy on a disk by a thread of its own.
//!
//! A rename and an unlink hold a directory, so they never wait for a disk. The first file outlives
//! this process, the copy a crash of the host.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;

use super::record::Record;

/// Ends the name of a file that is being written.
const UNFINISHED: &str = ".tmp";
/// Ends the name of a file that could not be read.
const DAMAGED: &str = ".damaged";
/// What is unfinished for so long was left by a process that has died.
const ABANDONED_AFTER: Duration = Duration::from_secs(60);

/// Where the files are.
#[derive(Clone, Debug)]
pub(crate) struct Directories {
    /// On a tmpfs.
    pub memory: PathBuf,
    /// On a disk; `None` if it cannot be used.
    pub disk: Option<PathBuf>,
}

/// The files, and the thread that copies them.
pub(super) struct Files {
    directories: Directories,
    jobs: Sender<Job>,
}

enum Job {
    /// To be copied; `true` is sent when the copy is safe, or cannot be made.
    Copy(String, Bytes, watch::Sender<bool>),
    Remove(String),
}

/// What is found in the directories.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// In order, each with whether it is on the disk.
    pub records: Vec<(Record, bool)>,
    /// The files that cannot be read, by this process or at all.
    pub damaged: u64,
}

impl Files {
    pub(super) fn open(directories: Directories) -> io::Result<Self> {
        let (jobs, waiting) = channel();
        if let Some(disk) = directories.disk.clone() {
            std::thread::Builder::new()
                .name("spool".into())
                .spawn(move || copy_all(&disk, &waiting))?;
        }
        Ok(Self { directories, jobs })
    }

    /// Writes the file of a change, and has it copied. What is returned turns `true` when that is done.
    pub(super) fn keep(&self, name: &str, file: Bytes) -> io::Result<watch::Receiver<bool>> {
        write(&self.directories.memory, name, &file, false)?;
        Ok(self.copy(name, file))
    }

    /// Has a file copied.
    pub(super) fn copy(&self, name: &str, file: Bytes) -> watch::Receiver<bool> {
        let (safe, waits) = watch::channel(self.directories.disk.is_none());
        if self.directories.disk.is_some() {
            // Without its thread it is never safe, and nobody waits for ever.
            let _ = self.jobs.send(Job::Copy(name.to_owned(), file, safe));
        }
        waits
    }

    /// Removes the file of a change that is settled, and its copy.
    pub(super) fn remove(&self, name: &str) {
        remove(&self.directories.memory, name);
        if self.directories.disk.is_some() {
            let _ = self.jobs.send(Job::Remove(name.to_owned()));
        }
    }

    /// Reads the changes that are there, but for those whose name `is_known`. A file that cannot be
    /// read is named in the log and moved aside.
    pub(super) fn load(&self, max_bytes: u64, is_known: impl Fn(&str) -> bool) -> Found {
        let [memory, disk] = [Some(&self.directories.memory), self.directories.disk.as_ref()]
            .map(|dir| dir.map(|dir| (dir, Listing::of(dir))));
        let mut found = Found::default();
        let mut names = BTreeSet::new();
        for (_, listing) in memory.iter().chain(&disk) {
            found.damaged += listing.damaged;
            names.extend(listing.names.iter().filter(|name| !is_known(name)).cloned());
        }
        for name in names {
            let mut record = None;
            for (is_disk, place) in [(false, &memory), (true, &disk)] {
                let Some((dir, listing)) = place else { continue };
                if record.is_some() || !listing.names.contains(&name) {
                    continue;
                }
                match read(&dir.join(&name), max_bytes) {
                    Ok(read) => record = Some((read, is_disk)),
                    Err(error) => found.damaged += u64::from(set_aside(dir, &name, &error)),
                }
            }
            let has_copy = disk.as_ref().is_some_and(|(_, copies)| copies.names.contains(&name));
            found.records.extend(record.map(|(record, is_disk)| (record, is_disk || has_copy)));
        }
        found
    }

    /// The names of the files on the tmpfs.
    pub(super) fn names(&self) -> BTreeSet<String> {
        Listing::of(&self.directories.memory).names
    }
}

/// The files of one directory.
#[derive(Default)]
struct Listing {
    names: BTreeSet<String>,
    damaged: u64,
}

impl Listing {
    fn of(dir: &Path) -> Self {
        let mut listing = Self::default();
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!(dir = %dir.display(), %error, "kept changes cannot be read");
                return listing;
            }
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.ends_with(DAMAGED) {
                listing.damaged += 1;
            } else if name.ends_with(UNFINISHED) {
                let written = entry.metadata().and_then(|found| found.modified());
                let age = written.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
                if age.is_some_and(|age| age > ABANDONED_AFTER) {
                    remove(dir, &name);
                }
            } else {
                listing.names.insert(name);
            }
        }
        listing
    }
}

fn read(path: &Path, max_bytes: u64) -> io::Result<Record> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)?;
    let mut text = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut text)?;
    if text.len() as u64 > max_bytes {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is too long"));
    }
    Record::decode(&text.into()).map_err(|why| io::Error::new(ErrorKind::InvalidData, why))
}

/// Moves a file aside that is damaged; whether it still counts.
fn set_aside(dir: &Path, name: &str, error: &io::Error) -> bool {
    let path = dir.join(name);
    match error.kind() {
        // Settled meanwhile, by the worker that was replaced.
        ErrorKind::NotFound => return false,
        ErrorKind::InvalidData => {
            let aside = dir.join(format!("{name}{DAMAGED}"));
            let moved = fs::rename(&path, &aside);
            tracing::error!(
                event = "kept_change_damaged", file = %aside.display(), %error, ?moved,
                "a kept change cannot be read and is not sent; remove the file"
            );
        }
        _ => tracing::error!(
            event = "kept_change_damaged", file = %path.display(), %error,
            "a kept change cannot be read and is not sent; give the file to the worker's user, or \
             remove it"
        ),
    }
    true
}

/// Writes a file that is there whole or not at all.
fn write(dir: &Path, name: &str, content: &[u8], sync: bool) -> io::Result<()> {
    let unfinished = dir.join(format!("{name}{UNFINISHED}"));
    let write = || -> io::Result<()> {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&unfinished)?;
        file.write_all(content)?;
        if sync {
            file.sync_all()?;
        }
        fs::rename(&unfinished, dir.join(name))
    };
    write().inspect_err(|_| remove(dir, &format!("{name}{UNFINISHED}")))
}

fn remove(dir: &Path, name: &str) {
    match fs::remove_file(dir.join(name)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(file = %dir.join(name).display(), %error, "cannot remove a file");
        }
        _ => {}
    }
}

/// Copies to the disk and removes there, as long as there is somebody who asks. What was asked at once
/// is made safe at once.
fn copy_all(disk: &Path, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut copied = Vec::new();
        for job in std::iter::once(first).chain(jobs.try_iter()) {
            match job {
                Job::Copy(name, file, safe) => {
                    if let Err(error) = write(disk, &name, &file, true) {
                        tracing::error!(
                            event = "kept_change_not_on_disk", dir = %disk.display(), %error,
                            "a kept change would not survive a crash of this host"
                        );
                    }
                    copied.push(safe);
                }
                Job::Remove(name) => remove(disk, &name),
            }
        }
        if let Err(error) = File::open(disk).and_then(|dir| dir.sync_all()) {
            tracing::error!(dir = %disk.display(), %error, "cannot write a directory to the disk");
        }
        for safe in copied {
            safe.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Change, tests as records};
    use super::*;

    const MAX_BYTES: u64 = 1 << 20;

    struct Dirs(tempfile::TempDir, tempfile::TempDir);

    impl Dirs {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap())
        }

        fn files(&self) -> Files {
            let memory = self.0.path().to_owned();
            Files::open(Directories { memory, disk: Some(self.1.path().to_owned()) }).unwrap()
        }
    }

    fn record(number: u64) -> Record {
        let change = Change::Removal(records::removal(number.into()));
        Record { number, kept_ms: 1, place: records::place(), change }
    }

    fn keep(files: &Files, number: u64) -> String {
        let record = record(number);
        let mut safe = files.keep(&record.file_name(), record.encode()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(safe.wait_for(|safe| *safe)).unwrap();
        record.file_name()
    }

    fn numbers(found: &Found) -> Vec<(u64, bool)> {
        found.records.iter().map(|(record, copied)| (record.number, *copied)).collect()
    }

    #[test]
    fn what_is_kept_is_found_again_in_order_and_once() {
        let dirs = Dirs::new();
        let files = dirs.files();
        let names: Vec<_> = [3, 1, 2].map(|number| keep(&files, number)).into();
        let found = dirs.files().load(MAX_BYTES, |_| false);
        assert_eq!(numbers(&found), [(1, true), (2, true), (3, true)]);
        // The host was started anew; then one is on the tmpfs only.
        fs::remove_file(dirs.0.path().join(&names[0])).unwrap();
        fs::remove_file(dirs.1.path().join(&names[1])).unwrap();
        let found = dirs.files().load(MAX_BYTES, |_| false);
        assert_eq!(numbers(&found), [(1, false), (2, true), (3, true)]);
        let found = dirs.files().load(MAX_BYTES, |name| name == names[2]);
        assert_eq!(numbers(&found), [(1, false), (3, true)]);
    }

    #[test]
    fn a_torn_file_is_moved_aside_and_its_whole_copy_is_read() {
        let dirs = Dirs::new();
        let files = dirs.files();
        let (one, two) = (keep(&files, 1), keep(&files, 2));
        let tear = |path: PathBuf| File::options().write(true).open(path).unwrap().set_len(40);
        tear(dirs.0.path().join(&one)).unwrap();
        for dir in [&dirs.0, &dirs.1] {
            tear(dir.path().join(&two)).unwrap();
        }
        let found = files.load(MAX_BYTES, |_| false);
        assert_eq!((numbers(&found), found.damaged), (vec![(1, true)], 3));
        let again = files.load(MAX_BYTES, |_| false);
        assert_eq!((numbers(&again), again.damaged), (vec![(1, true)], 3));
        assert!(dirs.1.path().join(format!("{two}.damaged")).exists());
    }

    #[test]
    fn a_settled_change_leaves_no_file_and_others_files_are_left() {
        let dirs = Dirs::new();
        let files = dirs.files();
        let name = keep(&files, 1);
        fs::write(dirs.0.path().join("new.tmp"), "").unwrap();
        files.remove(&name);
        // The thread does things in their order.
        keep(&files, 2);
        assert_eq!(numbers(&files.load(MAX_BYTES, |_| false)), [(2, true)]);
        assert!(!dirs.1.path().join(&name).exists());
        assert!(dirs.0.path().join("new.tmp").exists());
    }

    #[test]
    fn a_directory_that_is_full_refuses_a_change_and_a_disk_that_is_does_not() {
        let dirs = Dirs::new();
        let files = Files::open(Directories {
            memory: dirs.0.path().to_owned(),
            disk: Some(dirs.1.path().join("missing")),
        })
        .unwrap();
        keep(&files, 1);
        let nowhere = dirs.0.path().join("missing");
        let files = Files::open(Directories { memory: nowhere, disk: None }).unwrap();
        let record = record(1);
        assert!(files.keep(&record.file_name(), record.encode()).is_err());
    }
}
