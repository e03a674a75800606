//! The files of kept changes: one on a tmpfs at once, and a copy on a disk by a thread of its own.
//!
//! A rename and an unlink hold a directory, so they never wait for a disk. The first file outlives
//! this process, the copy a crash of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;

use super::record::Record;
use crate::sync::lock;

/// Ends the name of a file that is being written.
const UNFINISHED: &str = ".tmp";
/// Ends the name of a file that could not be read.
const DAMAGED: &str = ".damaged";
/// So many files are copied before their directory is made safe, too.
const COPIED_AT_ONCE: usize = 256;
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
    jobs: Arc<Jobs>,
}

/// What is to be done on the disk. It holds no more contents than are kept, however long the disk
/// hangs, and no more names than it has files.
#[derive(Default)]
struct Jobs {
    waiting: Mutex<Waiting>,
    /// Told of each new one, and of the end.
    news: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// By the name of the file, whose order is that of the changes.
    jobs: BTreeMap<String, Job>,
    /// Nobody will ask for more.
    is_over: bool,
}

enum Job {
    /// To be copied; `true` is sent when the copy is safe, or cannot be made.
    Copy(Bytes, watch::Sender<bool>),
    Remove,
    /// A look at what is there.
    Look(Box<dyn FnOnce() + Send>),
}

/// A look is at no file. It comes before all that is asked.
const LOOK: &str = "";

impl Jobs {
    fn ask(&self, name: &str, job: Job) {
        lock(&self.waiting).jobs.insert(name.to_owned(), job);
        self.news.notify_one();
    }

    /// The file is not to be on the disk: whatever was asked of it is not done any more.
    fn remove(&self, name: &str) {
        let mut waiting = lock(&self.waiting);
        if let Some(Job::Copy(..)) = waiting.jobs.remove(name) {
            return;
        }
        drop(waiting);
        self.ask(name, Job::Remove);
    }

    /// The first job, if there is one.
    fn take(&self) -> Option<(String, Job)> {
        lock(&self.waiting).jobs.pop_first()
    }

    /// Waits for a job; `None` at the end of all.
    fn next(&self) -> Option<(String, Job)> {
        let mut waiting = lock(&self.waiting);
        loop {
            match waiting.jobs.pop_first() {
                None if waiting.is_over => return None,
                None => {
                    waiting = self.news.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                }
                job => return job,
            }
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        lock(&self.jobs.waiting).is_over = true;
        self.jobs.news.notify_one();
    }
}

/// What is found in the directories.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// In order, each with whether it is on the disk.
    pub records: Vec<(Record, bool)>,
    pub memory: Unread,
    /// If it was looked at.
    pub disk: Option<Unread>,
}

/// What of a directory cannot be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Unread {
    /// The number of files that were moved aside.
    pub damaged: u64,
    /// The names of those that cannot be read by this process, and those that cannot be moved aside.
    pub unreadable: BTreeSet<String>,
}

impl Files {
    pub(super) fn open(directories: Directories) -> io::Result<Self> {
        let jobs = Arc::new(Jobs::default());
        if let Some(disk) = directories.disk.clone() {
            let jobs = Arc::clone(&jobs);
            std::thread::Builder::new()
                .name("spool".into())
                .spawn(move || copy_all(&disk, &jobs))?;
        }
        Ok(Self { directories, jobs })
    }

    /// Writes the file of a change, and has it copied. What is returned turns `true` when that is done.
    /// The copy has to do where the tmpfs has no room: whoever saves or removes does not look at errors.
    pub(super) fn keep(&self, name: &str, file: Bytes) -> io::Result<watch::Receiver<bool>> {
        let Directories { memory, disk } = &self.directories;
        match write(memory, name, &file, false) {
            Err(error) if disk.is_none() => return Err(error),
            Err(error) => tracing::error!(
                event = "kept_change_not_on_tmpfs", dir = %memory.display(), %error,
                "a kept change would not survive a crash of sessionfs until it is on the disk"
            ),
            Ok(()) => {}
        }
        Ok(self.copy(name, file))
    }

    /// Has a file copied.
    pub(super) fn copy(&self, name: &str, file: Bytes) -> watch::Receiver<bool> {
        let (safe, waits) = watch::channel(self.directories.disk.is_none());
        if self.directories.disk.is_some() {
            // Without its thread it is never safe, and nobody waits for ever.
            self.jobs.ask(name, Job::Copy(file, safe));
        }
        waits
    }

    /// Has the thread that copies look at the disk. It does nothing else meanwhile.
    pub(super) fn look_later(&self, look: impl FnOnce() + Send + 'static) {
        if self.directories.disk.is_some() {
            self.jobs.ask(LOOK, Job::Look(Box::new(look)));
        }
    }

    /// Whether the copy of that file is to be removed.
    pub(super) fn is_removed(&self, name: &str) -> bool {
        matches!(lock(&self.jobs.waiting).jobs.get(name), Some(Job::Remove))
    }

    /// Removes the file of a change that is settled, and its copy.
    pub(super) fn remove(&self, name: &str) {
        remove(&self.directories.memory, name);
        if self.directories.disk.is_some() {
            self.jobs.remove(name);
        }
    }

    /// Reads the changes that are there, on the disk too or on the tmpfs alone, but for those whose name
    /// `is_known`. A file that cannot be read, or is not called what it was called when it was kept, is
    /// named in the log and moved aside. One that cannot be opened is named unless it `was_unreadable`
    /// before.
    pub(super) fn load(
        &self,
        with_disk: bool,
        max_bytes: u64,
        is_known: impl Fn(&str) -> bool,
        was_unreadable: impl Fn(&str) -> bool,
    ) -> Found {
        let disk = self.directories.disk.as_ref().filter(|_| with_disk);
        let [memory, disk] = [Some(&self.directories.memory), disk]
            .map(|dir| dir.map(|dir| (dir, Listing::of(dir))));
        let unread = |place: &Option<(_, Listing)>| {
            let damaged = place.as_ref()?.1.damaged;
            Some(Unread { damaged, ..Unread::default() })
        };
        let mut records = Vec::new();
        let mut unread = [&memory, &disk].map(unread);
        let mut names = BTreeSet::new();
        for (_, listing) in memory.iter().chain(&disk) {
            names.extend(listing.names.iter().filter(|name| !is_known(name)).cloned());
        }
        for name in names {
            let mut record = None;
            let places = [(false, &memory), (true, &disk)];
            for ((is_disk, place), unread) in places.into_iter().zip(&mut unread) {
                let (Some((dir, listing)), Some(unread)) = (place, unread) else { continue };
                if record.is_some() || !listing.names.contains(&name) {
                    continue;
                }
                let why = match read(dir, &name, max_bytes) {
                    Ok(read) => {
                        record = Some((read, is_disk));
                        continue;
                    }
                    Err(why) => why,
                };
                match set_aside(dir, &name, &why, was_unreadable(&name)) {
                    Aside::Gone => {}
                    Aside::Moved => unread.damaged += 1,
                    Aside::Stays => drop(unread.unreadable.insert(name.clone())),
                }
            }
            let has_copy = disk.as_ref().is_some_and(|(_, copies)| copies.names.contains(&name));
            records.extend(record.map(|(record, is_disk)| (record, is_disk || has_copy)));
        }
        let [memory, disk] = unread;
        Found { records, memory: memory.unwrap_or_default(), disk }
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

fn read(dir: &Path, name: &str, max_bytes: u64) -> io::Result<Record> {
    let invalid = |why: String| io::Error::new(ErrorKind::InvalidData, why);
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(dir.join(name))?;
    let mut text = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut text)?;
    if text.len() as u64 > max_bytes {
        return Err(invalid("it is too long".into()));
    }
    let record = Record::decode(&text.into()).map_err(invalid)?;
    // It would be sent again and again, since the file of a change that is settled has another name.
    if record.file_name() != name {
        return Err(invalid("it is a copy under another name".into()));
    }
    Ok(record)
}

/// What became of a file that cannot be read.
enum Aside {
    /// It was settled meanwhile, by the worker that was replaced.
    Gone,
    Moved,
    Stays,
}

/// Moves a file aside that is damaged. What `is_told` already is not logged again.
fn set_aside(dir: &Path, name: &str, error: &io::Error, is_told: bool) -> Aside {
    if error.kind() == ErrorKind::NotFound {
        return Aside::Gone;
    }
    let is_damaged = error.kind() == ErrorKind::InvalidData;
    let (path, aside) = (dir.join(name), dir.join(format!("{name}{DAMAGED}")));
    if is_damaged && fs::rename(&path, &aside).is_ok() {
        tracing::error!(
            event = "kept_change_damaged", file = %aside.display(), %error,
            "a kept change cannot be read and is not sent; remove the file"
        );
        return Aside::Moved;
    }
    if !is_told {
        let remedy = if is_damaged { "" } else { "give the file to the worker's user, or " };
        tracing::error!(
            event = "kept_change_damaged", file = %path.display(), %error,
            "a kept change cannot be read and is not sent; {remedy}remove the file"
        );
    }
    Aside::Stays
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
fn copy_all(disk: &Path, jobs: &Jobs) {
    while let Some(first) = jobs.next() {
        let mut copied = Vec::new();
        let others = std::iter::from_fn(|| jobs.take());
        for (name, job) in std::iter::once(first).chain(others).take(COPIED_AT_ONCE) {
            match job {
                Job::Look(look) => look(),
                Job::Copy(file, safe) => {
                    // A worker before may have copied it.
                    let is_there = disk.join(&name).exists();
                    if !is_there && let Err(error) = write(disk, &name, &file, true) {
                        tracing::error!(
                            event = "kept_change_not_on_disk", dir = %disk.display(), %error,
                            "a kept change would not survive a crash of this host"
                        );
                    }
                    copied.push(safe);
                }
                Job::Remove => remove(disk, &name),
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

    fn load(files: &Files) -> Found {
        files.load(true, MAX_BYTES, |_| false, |_| false)
    }

    fn damaged(found: &Found) -> u64 {
        found.memory.damaged + found.disk.as_ref().map_or(0, |disk| disk.damaged)
    }

    fn numbers(found: &Found) -> Vec<(u64, bool)> {
        found.records.iter().map(|(record, copied)| (record.number, *copied)).collect()
    }

    #[test]
    fn what_is_kept_is_found_again_in_order_and_once() {
        let dirs = Dirs::new();
        let files = dirs.files();
        let names: Vec<_> = [3, 1, 2].map(|number| keep(&files, number)).into();
        assert_eq!(numbers(&load(&dirs.files())), [(1, true), (2, true), (3, true)]);
        // The host was started anew; then one is on the tmpfs only.
        fs::remove_file(dirs.0.path().join(&names[0])).unwrap();
        fs::remove_file(dirs.1.path().join(&names[1])).unwrap();
        assert_eq!(numbers(&load(&dirs.files())), [(1, false), (2, true), (3, true)]);
        let found = dirs.files().load(true, MAX_BYTES, |name| name == names[2], |_| false);
        assert_eq!(numbers(&found), [(1, false), (3, true)]);
        // Who does not look at the disk does not know what is there.
        let found = dirs.files().load(false, MAX_BYTES, |_| false, |_| false);
        assert_eq!(numbers(&found), [(1, false), (2, false)]);
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
        for _ in 0..2 {
            let found = load(&files);
            assert_eq!((numbers(&found), damaged(&found)), (vec![(1, true)], 3));
        }
        assert!(dirs.1.path().join(format!("{two}.damaged")).exists());
    }

    #[test]
    fn a_file_under_another_name_is_moved_aside_once_and_what_cannot_be_read_stays() {
        let dirs = Dirs::new();
        let files = dirs.files();
        let name = keep(&files, 1);
        let copy = "00000000000000000007-copy";
        fs::copy(dirs.0.path().join(&name), dirs.0.path().join(copy)).unwrap();
        // A directory is nothing that could be read, and one that has a file in it is in the way.
        fs::create_dir(dirs.0.path().join("directory")).unwrap();
        fs::write(dirs.0.path().join("torn"), "x").unwrap();
        fs::create_dir_all(dirs.0.path().join("torn.damaged/full")).unwrap();
        for _ in 0..2 {
            let found = load(&files);
            assert_eq!(numbers(&found), [(1, true)]);
            assert!(found.memory.unreadable.iter().eq(["directory", "torn"]), "{found:?}");
            assert_eq!(damaged(&found), 2);
        }
        assert!(dirs.0.path().join(format!("{copy}.damaged")).exists());
    }

    #[test]
    fn a_disk_that_hangs_holds_no_content_of_what_is_settled() {
        let dirs = Dirs::new();
        // Opening it for writing hangs until somebody reads.
        let record = record(1);
        let pipe = dirs.1.path().join(format!("{}{UNFINISHED}", record.file_name()));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let files = dirs.files();
        files.keep(&record.file_name(), record.encode()).unwrap();
        let waiting = || lock(&files.jobs.waiting).jobs.len();
        while waiting() > 0 {
            std::thread::yield_now();
        }
        for number in 2..100 {
            let record = self::record(number);
            files.keep(&record.file_name(), record.encode()).unwrap();
            files.remove(&record.file_name());
            assert_eq!(waiting(), 0);
        }
        files.remove(&record.file_name());
        assert_eq!(waiting(), 1);
        let mut read = String::new();
        let _ = File::open(&pipe).unwrap().read_to_string(&mut read);
        keep(&files, 100);
        assert_eq!(numbers(&load(&files)), [(100, true)]);
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
        assert_eq!(numbers(&load(&files)), [(2, true)]);
        assert!(!dirs.1.path().join(&name).exists());
        assert!(dirs.0.path().join("new.tmp").exists());
    }

    #[test]
    fn a_change_is_refused_only_if_it_can_be_written_nowhere() {
        let dirs = Dirs::new();
        let files = Files::open(Directories {
            memory: dirs.0.path().to_owned(),
            disk: Some(dirs.1.path().join("missing")),
        })
        .unwrap();
        keep(&files, 1);
        let nowhere = || dirs.0.path().join("missing");
        let disk = Some(dirs.1.path().to_owned());
        let files = Files::open(Directories { memory: nowhere(), disk }).unwrap();
        keep(&files, 1);
        assert_eq!(numbers(&load(&files)), [(1, true)]);
        let files = Files::open(Directories { memory: nowhere(), disk: None }).unwrap();
        let record = record(1);
        assert!(files.keep(&record.file_name(), record.encode()).is_err());
    }
}
