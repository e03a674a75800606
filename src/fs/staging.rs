//! The files of saves under way: real files on a tmpfs of this host, so that they outlive the worker
//! and never reach a disk. Upload spools of Odoo 14 and 15 are kept here, too, under
//! their alias.
//!
//! A browser without a login can make Odoo leave such a file behind with each request. So a file
//! that nobody has open holds no descriptor, and goes when others need its room.

mod account;

use std::collections::HashMap;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lru::LruCache;

use self::account::{Account, Charge, Used};
use super::inode::InodeId;
use super::{Settings, lock};
use crate::error::{Error, Result};
use crate::session::name::RootName;

/// The mode of the tmpfs file. What a caller sets is only shown to callers: the worker must always
/// be able to open the file again.
const OWN_MODE: u32 = 0o600;
/// How long an upload spool is kept: Odoo opens it again after the login.
const SPOOL_KEPT: Duration = Duration::from_secs(60 * 60);

/// All staging files of this mount.
#[derive(Debug)]
pub(crate) struct Staging {
    dir: PathBuf,
    files: Mutex<Files>,
    account: Arc<Account>,
    max_file_bytes: u64,
    max_open: usize,
    orphan_after: Duration,
}

/// The files, found by inode and by name.
#[derive(Debug)]
struct Files {
    by_inode: HashMap<InodeId, Arc<Staged>>,
    by_name: HashMap<String, Arc<Staged>>,
    /// Since when nobody has had a file open; the longest first.
    closed: LruCache<InodeId, Instant>,
    /// How many are open, among them some that have no name any more.
    open: usize,
}

#[derive(Debug)]
pub struct Staged {
    pub inode: InodeId,
    /// Its name in the staging directory (a spool's holds an alias in the place of the id).
    pub name: String,
    path: PathBuf,
    charge: Charge,
    /// The permission bits that callers see.
    mode: AtomicU32,
    /// Its last write failed.
    failed: AtomicBool,
    /// Its rename was refused, or failed.
    discarded: AtomicBool,
    // Locked after `Staging::files`, where both are.
    open: Mutex<Open>,
}

/// A descriptor while somebody has the file open.
#[derive(Debug, Default)]
struct Open {
    count: usize,
    file: Option<Arc<File>>,
}

/// A staging file that somebody has open.
#[derive(Debug)]
pub struct OpenStaging {
    pub staged: Arc<Staged>,
    /// Its first write has made sure that the save can be published.
    pub link_checked: AtomicBool,
    staging: Arc<Staging>,
}

impl Staging {
    /// Uses `settings.staging_dir`, made if missing. Takes over what an earlier worker left there.
    pub(crate) fn open(settings: &Settings) -> io::Result<Arc<Self>> {
        let dir = settings.staging_dir.clone();
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let max = Used { files: settings.max_staging_files, bytes: settings.max_staging_bytes };
        let staging = Self {
            files: Mutex::new(Files {
                by_inode: HashMap::new(),
                by_name: HashMap::new(),
                closed: LruCache::unbounded(),
                open: 0,
            }),
            account: Account::new(max),
            max_file_bytes: settings.max_session_bytes,
            max_open: settings.max_open_staging_files,
            orphan_after: Duration::from_millis(settings.staging_orphan_ms),
            dir,
        };
        for entry in std::fs::read_dir(&staging.dir)? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            staging.take_over(&name)?;
        }
        Ok(Arc::new(staging))
    }

    /// Takes over a file that the worker before has left.
    fn take_over(&self, name: &str) -> io::Result<()> {
        let path = self.dir.join(name);
        let metadata = std::fs::symlink_metadata(&path)?;
        if metadata.is_file() {
            let charge = self.account.charge(metadata.len());
            let staged = Arc::new(Staged::new(name, path, &metadata, OWN_MODE, charge));
            let mut files = lock(&self.files);
            files.insert(&staged);
            files.closed.put(staged.inode, Instant::now());
        }
        Ok(())
    }

    /// Creates a file and opens it; `EEXIST` if there is one of that name.
    pub(crate) fn create(self: &Arc<Self>, name: &str, mode: u32) -> Result<OpenStaging> {
        let charge = self.with_room(
            || self.account.admit(),
            || {
                format!(
                    "staging files are more than {} ([limits] staging_files, staging)",
                    self.account.used().files
                )
            },
        )?;
        let mut files = lock(&self.files);
        self.may_open(&files)?;
        let path = self.dir.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(OWN_MODE)
            .open(&path)
            .map_err(|error| fault(&error, "cannot create a staging file"))?;
        let metadata =
            file.metadata().map_err(|error| fault(&error, "cannot stat a staging file"))?;
        let staged = Arc::new(Staged::new(name, path, &metadata, mode & 0o7777, charge));
        files.insert(&staged);
        files.opened(&staged, file);
        Ok(self.opened(staged))
    }

    /// Opens a file once more.
    pub(crate) fn open_again(self: &Arc<Self>, staged: &Arc<Staged>) -> Result<OpenStaging> {
        let mut files = lock(&self.files);
        let is_open = lock(&staged.open).file.is_some();
        if !is_open {
            self.may_open(&files)?;
        }
        files.open(staged)?;
        Ok(self.opened(Arc::clone(staged)))
    }

    /// Opens a file for a step of our own. Beyond the bound: the kernel asks for one at a time.
    pub(crate) fn hold(self: &Arc<Self>, staged: &Arc<Staged>) -> Result<OpenStaging> {
        lock(&self.files).open(staged)?;
        Ok(self.opened(Arc::clone(staged)))
    }

    fn opened(self: &Arc<Self>, staged: Arc<Staged>) -> OpenStaging {
        OpenStaging { staged, link_checked: AtomicBool::new(false), staging: Arc::clone(self) }
    }

    fn may_open(&self, files: &Files) -> Result<()> {
        if files.open < self.max_open {
            return Ok(());
        }
        Err(Error::fault(
            libc::EMFILE,
            format!(
                "{} staging files are open, and the limit of open files of the worker allows no \
                 more (LimitNOFILE= of the unit, or `ulimit -Hn`)",
                files.open
            ),
        ))
    }

    /// The last who had it open has closed it.
    fn closed(&self, staged: &Staged) {
        let mut files = lock(&self.files);
        let mut open = lock(&staged.open);
        open.count -= 1;
        if open.count > 0 {
            return;
        }
        open.file = None;
        drop(open);
        files.open -= 1;
        if !files.by_inode.contains_key(&staged.inode) {
            return;
        }
        files.closed.put(staged.inode, Instant::now());
        if staged.is_given_up() {
            files.remove(staged.inode);
        }
    }

    /// The file of that name.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Staged>> {
        lock(&self.files).by_name.get(name).cloned()
    }

    /// The file of that inode.
    pub(crate) fn get(&self, inode: InodeId) -> Option<Arc<Staged>> {
        lock(&self.files).by_inode.get(&inode).cloned()
    }

    /// All files, for the listing of the root.
    pub(crate) fn all(&self) -> Vec<Arc<Staged>> {
        lock(&self.files).by_inode.values().cloned().collect()
    }

    /// How many files there are, with those that are open and have no name any more.
    pub(crate) fn count(&self) -> u64 {
        self.account.used().files
    }

    /// The size of all files, in whole pages.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.account.used().bytes
    }

    /// Writes within both bounds: `EFBIG` beyond a session's, `ENOSPC` beyond that of all.
    pub(crate) fn write(&self, staged: &Staged, data: &[u8], offset: u64) -> Result<()> {
        let written =
            self.make_room(staged, offset.saturating_add(data.len() as u64)).and_then(|()| {
                staged
                    .file()?
                    .write_all_at(data, offset)
                    .map_err(|error| fault(&error, "cannot write to a staging file"))
            });
        staged.failed.store(written.is_err(), Ordering::Relaxed);
        written
    }

    /// Cuts or lengthens it, within the same bounds.
    pub(crate) fn set_len(self: &Arc<Self>, staged: &Arc<Staged>, size_bytes: u64) -> Result<()> {
        // Held: it must not go itself when room is made for it.
        let held = self.hold(staged)?;
        self.make_room(staged, size_bytes)?;
        held.staged
            .file()?
            .set_len(size_bytes)
            .map_err(|error| fault(&error, "cannot truncate a staging file"))?;
        staged.charge.shrink(size_bytes);
        Ok(())
    }

    fn make_room(&self, staged: &Staged, size_bytes: u64) -> Result<()> {
        if size_bytes > self.max_file_bytes {
            return Err(Error::fault(
                libc::EFBIG,
                format!(
                    "a session of {size_bytes} bytes is larger than the limit of {} ([limits] \
                     session)",
                    self.max_file_bytes
                ),
            ));
        }
        self.with_room(
            || staged.charge.grow(size_bytes).then_some(()),
            || {
                "staging files that are open take all their room ([limits] staging, at most a \
                 quarter of the tmpfs)"
                    .to_owned()
            },
        )
    }

    /// Tries until there is room, and removes the file that was closed first in between.
    fn with_room<T>(&self, admit: impl Fn() -> Option<T>, full: impl Fn() -> String) -> Result<T> {
        loop {
            if let Some(admitted) = admit() {
                return Ok(admitted);
            }
            if !lock(&self.files).remove_oldest() {
                return Err(Error::fault(libc::ENOSPC, full()));
            }
        }
    }

    /// Removes a file: it was published, or Odoo unlinked it. Whoever has it open keeps it.
    pub(crate) fn remove(&self, inode: InodeId) {
        lock(&self.files).remove(inode);
    }

    /// Removes a file whose rename was refused or failed, as soon as nobody has it open: Odoo does
    /// not try again.
    pub(crate) fn discard(&self, staged: &Staged) {
        staged.discarded.store(true, Ordering::Relaxed);
        let mut files = lock(&self.files);
        if files.closed.contains(&staged.inode) {
            files.remove(staged.inode);
        }
    }

    /// Removes the files that nobody has had open for long: `rename` follows `close` at once, so
    /// they will not be renamed any more.
    pub(crate) fn expire_orphans(&self) {
        let overdue: Vec<InodeId> = {
            let files = lock(&self.files);
            let is_overdue = |inode: &InodeId, since: &Instant| {
                files.by_inode.get(inode).is_none_or(|staged| since.elapsed() >= self.kept(staged))
            };
            let overdue = files.closed.iter().filter(|(inode, since)| is_overdue(inode, since));
            overdue.map(|(&inode, _)| inode).collect()
        };
        // One at a time: requests wait for that lock.
        for inode in overdue {
            lock(&self.files).remove_closed(inode);
        }
    }

    fn kept(&self, staged: &Staged) -> Duration {
        match RootName::parse(&staged.name) {
            RootName::Staging => self.orphan_after,
            _ => SPOOL_KEPT.max(self.orphan_after),
        }
    }
}

impl Files {
    fn insert(&mut self, staged: &Arc<Staged>) {
        self.by_name.insert(staged.name.clone(), Arc::clone(staged));
        self.by_inode.insert(staged.inode, Arc::clone(staged));
    }

    fn open(&mut self, staged: &Arc<Staged>) -> Result<()> {
        if let Open { count, file: Some(_) } = &mut *lock(&staged.open) {
            *count += 1;
            return Ok(());
        }
        let file =
            staged.open_by_name().map_err(|error| fault(&error, "cannot open a staging file"))?;
        self.opened(staged, file);
        Ok(())
    }

    fn opened(&mut self, staged: &Arc<Staged>, file: File) {
        *lock(&staged.open) = Open { count: 1, file: Some(Arc::new(file)) };
        self.open += 1;
        self.closed.pop(&staged.inode);
    }

    /// It is not known any more.
    fn forget(&mut self, inode: InodeId) -> Option<Arc<Staged>> {
        let staged = self.by_inode.remove(&inode)?;
        self.by_name.remove(&staged.name);
        self.closed.pop(&inode);
        Some(staged)
    }

    fn remove(&mut self, inode: InodeId) {
        let Some(staged) = self.forget(inode) else { return };
        if let Err(error) = std::fs::remove_file(&staged.path) {
            tracing::warn!(%error, "cannot remove a staging file");
        }
    }

    /// Removes a file that nobody has open. Whether it is gone.
    fn remove_closed(&mut self, inode: InodeId) -> bool {
        let is_closed = self.closed.pop(&inode).is_some();
        if is_closed {
            self.remove(inode);
        }
        is_closed
    }

    /// Removes the file that was closed first. Whether there was one.
    fn remove_oldest(&mut self) -> bool {
        let oldest = self.closed.peek_lru().map(|(&inode, _)| inode);
        oldest.is_some_and(|inode| self.remove_closed(inode))
    }
}

impl Staged {
    fn new(name: &str, path: PathBuf, metadata: &Metadata, mode: u32, charge: Charge) -> Self {
        Self {
            inode: InodeId::of_staging(metadata.ino()),
            name: name.to_owned(),
            path,
            charge,
            mode: AtomicU32::new(mode),
            failed: AtomicBool::new(false),
            discarded: AtomicBool::new(false),
            open: Mutex::default(),
        }
    }

    /// A write failed, so the save has failed.
    pub fn note_failure(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    fn is_given_up(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.discarded.load(Ordering::Relaxed)
    }

    fn file(&self) -> Result<Arc<File>> {
        let open = lock(&self.open);
        open.file.clone().ok_or_else(|| Error::fault(libc::EBADF, "a staging file is not open"))
    }

    /// The name is in a directory of the worker's own, so it stands for what was made there.
    fn open_by_name(&self) -> io::Result<File> {
        let flags = libc::O_NOFOLLOW;
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(&self.path)
    }

    /// The tmpfs file's own attributes.
    pub fn metadata(&self) -> Result<Metadata> {
        let open = lock(&self.open).file.clone();
        open.map_or_else(|| std::fs::symlink_metadata(&self.path), |file| file.metadata())
            .map_err(|error| fault(&error, "cannot stat a staging file"))
    }

    /// The permission bits that callers see.
    pub fn mode(&self) -> u32 {
        self.mode.load(Ordering::Relaxed)
    }

    /// Sets permission bits.
    pub fn set_mode(&self, mode: u32) {
        self.mode.store(mode & 0o7777, Ordering::Relaxed);
    }
}

impl OpenStaging {
    /// Whether nobody else has the file open.
    pub(crate) fn is_alone(&self) -> bool {
        lock(&self.staged.open).count == 1
    }

    /// Its whole content, never less.
    pub fn content(&self) -> Result<Vec<u8>> {
        self.read_at(0, u64::MAX)
    }

    /// At most `size` bytes from `offset`; less only at the end.
    pub fn read(&self, offset: u64, size: u32) -> Result<Vec<u8>> {
        self.read_at(offset, u64::from(size))
    }

    fn read_at(&self, offset: u64, at_most: u64) -> Result<Vec<u8>> {
        let file = self.staged.file()?;
        // It is bounded by the limit of one session.
        let length =
            file.metadata().map_err(|error| fault(&error, "cannot stat a staging file"))?.len();
        let left = length.saturating_sub(offset).min(at_most);
        let mut data = vec![0; usize::try_from(left).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut data, offset)
            .map_err(|error| fault(&error, "cannot read a staging file"))?;
        Ok(data)
    }

    pub fn set_mtime(&self, mtime: std::time::SystemTime) -> Result<()> {
        self.staged
            .file()?
            .set_modified(mtime)
            .map_err(|error| fault(&error, "cannot change a staging file's mtime"))
    }
}

impl Drop for OpenStaging {
    fn drop(&mut self) {
        self.staging.closed(&self.staged);
    }
}

fn fault(error: &io::Error, what: &str) -> Error {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    match errno {
        libc::EEXIST | libc::ENOENT => Error::expected(errno, what),
        _ => Error::fault(errno, format!("{what}: {error}")),
    }
}

#[cfg(test)]
mod tests;
