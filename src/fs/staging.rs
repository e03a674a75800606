//! The files of saves under way: real files on a tmpfs of this host, so that they outlive the worker
//! and never reach a disk. Upload spools of Odoo 14 and 15 are kept here, too, under
//! their alias.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::inode::InodeId;
use super::{Settings, lock};
use crate::error::{Error, Result};

/// The age at which a file is removed whose write failed and that nobody has open: it will not be
/// renamed any more.
const FAILED_FOR: Duration = Duration::from_secs(10);

/// All staging files of this mount.
#[derive(Debug)]
pub(crate) struct Staging {
    dir: PathBuf,
    files: Mutex<Files>,
    total_bytes: AtomicU64,
    max_file_bytes: u64,
    max_total_bytes: u64,
    orphan_after: Duration,
}

/// The files, found by inode and by name.
#[derive(Debug, Default)]
struct Files {
    by_inode: HashMap<InodeId, Arc<Staged>>,
    by_name: HashMap<String, Arc<Staged>>,
}

impl Files {
    fn insert(&mut self, staged: &Arc<Staged>) {
        self.by_name.insert(staged.name.clone(), Arc::clone(staged));
        self.by_inode.insert(staged.inode, Arc::clone(staged));
    }

    fn remove(&mut self, inode: InodeId) -> Option<Arc<Staged>> {
        let staged = self.by_inode.remove(&inode)?;
        self.by_name.remove(&staged.name);
        Some(staged)
    }
}

#[derive(Debug)]
pub struct Staged {
    pub inode: InodeId,
    /// Its name in the staging directory (a spool's holds an alias in the place of the id).
    pub name: String,
    file: File,
    size_bytes: AtomicU64,
    open_count: AtomicU64,
    touched: Mutex<Instant>,
    /// Its last write failed.
    failed: AtomicBool,
}

#[derive(Debug)]
pub struct OpenStaging {
    pub staged: Arc<Staged>,
    /// Its first write has made sure that the save can be published.
    pub link_checked: AtomicBool,
}

impl Staging {
    /// Uses `settings.staging_dir`, made if missing. Takes over what an earlier worker left there.
    pub(crate) fn open(settings: &Settings) -> io::Result<Self> {
        let dir = settings.staging_dir.clone();
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let staging = Self {
            files: Mutex::default(),
            total_bytes: AtomicU64::new(0),
            max_file_bytes: settings.max_session_bytes,
            max_total_bytes: settings.max_staging_bytes,
            orphan_after: Duration::from_millis(settings.staging_orphan_ms),
            dir,
        };
        for entry in std::fs::read_dir(&staging.dir)? {
            let entry = entry?;
            if let (true, Ok(name)) =
                (entry.file_type()?.is_file(), entry.file_name().into_string())
            {
                match staging.take_over(&name) {
                    // The former worker still serves: the save has just been published.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    taken => drop(taken?),
                }
            }
        }
        Ok(staging)
    }

    /// Takes over a file that another worker of this mount has made.
    fn take_over(&self, name: &str) -> io::Result<Arc<Staged>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.path(name))?;
        let staged = Arc::new(Staged::new(name.to_owned(), file)?);
        let mut files = lock(&self.files);
        if let Some(known) = files.by_name.get(name) {
            return Ok(Arc::clone(known));
        }
        files.insert(&staged);
        self.total_bytes.fetch_add(staged.size_bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(staged)
    }

    /// Creates a file; `EEXIST` if there is one of that name.
    pub(crate) fn create(&self, name: &str, mode: u32) -> Result<Arc<Staged>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode & 0o7777)
            .open(self.path(name))
            .map_err(|error| fault(&error, "cannot create a staging file"))?;
        let staged = Staged::new(name.to_owned(), file)
            .map_err(|error| fault(&error, "cannot stat a staging file"))?;
        let staged = Arc::new(staged);
        lock(&self.files).insert(&staged);
        Ok(staged)
    }

    /// The file of that name. It may be one of the former worker, whose mount may still be in use
    /// after a reload: a save that began there ends here.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Staged>> {
        let known = lock(&self.files).by_name.get(name).cloned();
        known.or_else(|| self.take_over(name).ok())
    }

    /// The file of that inode.
    pub(crate) fn get(&self, inode: InodeId) -> Option<Arc<Staged>> {
        lock(&self.files).by_inode.get(&inode).cloned()
    }

    /// All files, for the listing of the root.
    pub(crate) fn all(&self) -> Vec<Arc<Staged>> {
        lock(&self.files).by_inode.values().cloned().collect()
    }

    /// How many files there are.
    pub(crate) fn count(&self) -> usize {
        lock(&self.files).by_inode.len()
    }

    /// The size of all files.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// Writes within both bounds: `EFBIG` beyond a session's, `ENOSPC` beyond that of all.
    pub(crate) fn write(&self, staged: &Staged, data: &[u8], offset: u64) -> Result<()> {
        let end = offset.saturating_add(data.len() as u64);
        self.reserve(staged, end)?;
        *lock(&staged.touched) = Instant::now();
        staged.failed.store(false, Ordering::Relaxed);
        staged
            .file
            .write_all_at(data, offset)
            .map_err(|error| fault(&error, "cannot write to a staging file"))
    }

    /// Cuts or lengthens it, within the same bounds.
    pub(crate) fn set_len(&self, staged: &Staged, size_bytes: u64) -> Result<()> {
        self.reserve(staged, size_bytes)?;
        let before = staged.size_bytes.swap(size_bytes, Ordering::Relaxed);
        self.total_bytes.fetch_sub(before.saturating_sub(size_bytes), Ordering::Relaxed);
        staged
            .file
            .set_len(size_bytes)
            .map_err(|error| fault(&error, "cannot truncate a staging file"))
    }

    fn reserve(&self, staged: &Staged, end: u64) -> Result<()> {
        if end > self.max_file_bytes {
            return Err(Error::fault(
                libc::EFBIG,
                format!(
                    "a session of {end} bytes is larger than the limit of {} ([limits] session)",
                    self.max_file_bytes
                ),
            ));
        }
        let before = staged.size_bytes.fetch_max(end, Ordering::Relaxed);
        let growth = end.saturating_sub(before);
        let total = self.total_bytes.fetch_add(growth, Ordering::Relaxed) + growth;
        if total > self.max_total_bytes {
            self.total_bytes.fetch_sub(growth, Ordering::Relaxed);
            staged.size_bytes.store(before, Ordering::Relaxed);
            return Err(Error::fault(
                libc::ENOSPC,
                format!(
                    "staging files take more than {} bytes ([limits] staging)",
                    self.max_total_bytes
                ),
            ));
        }
        Ok(())
    }

    /// Removes a file: it was published, or Odoo unlinked it.
    pub(crate) fn remove(&self, inode: InodeId) {
        let Some(staged) = lock(&self.files).remove(inode) else { return };
        self.total_bytes.fetch_sub(staged.size_bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        if let Err(error) = std::fs::remove_file(self.path(&staged.name)) {
            tracing::warn!(%error, "cannot remove a staging file");
        }
    }

    /// Removes the files that nobody has open and nobody has written to for long: a worker of Odoo
    /// died in a save, or its rename was refused. What an outage has left is removed sooner.
    pub(crate) fn expire_orphans(&self) {
        for staged in self.all() {
            let idle = lock(&staged.touched).elapsed();
            let failed = staged.failed.load(Ordering::Relaxed);
            let after = if failed { FAILED_FOR.min(self.orphan_after) } else { self.orphan_after };
            if staged.open_count.load(Ordering::Relaxed) == 0 && idle >= after {
                self.remove(staged.inode);
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(&self.dir).join(name)
    }
}

impl Staged {
    fn new(name: String, file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            inode: InodeId::of_staging(metadata.ino()),
            name,
            file,
            size_bytes: AtomicU64::new(metadata.len()),
            open_count: AtomicU64::new(0),
            touched: Mutex::new(Instant::now()),
            failed: AtomicBool::new(false),
        })
    }

    /// A write failed, so the save has failed.
    pub fn note_failure(&self) {
        *lock(&self.touched) = Instant::now();
        self.failed.store(true, Ordering::Relaxed);
    }

    /// The tmpfs file's own attributes.
    pub fn metadata(&self) -> Result<std::fs::Metadata> {
        self.file.metadata().map_err(|error| fault(&error, "cannot stat a staging file"))
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
        // The length is that of the file (bounded by the limit of one session): it may have grown
        // through the mount that a reload has replaced.
        let left = self.metadata()?.len().saturating_sub(offset).min(at_most);
        let mut data = vec![0; usize::try_from(left).unwrap_or(usize::MAX)];
        self.file
            .read_exact_at(&mut data, offset)
            .map_err(|error| fault(&error, "cannot read a staging file"))?;
        Ok(data)
    }

    /// Sets permission bits.
    pub fn set_mode(&self, mode: u32) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        self.file
            .set_permissions(std::fs::Permissions::from_mode(mode & 0o7777))
            .map_err(|error| fault(&error, "cannot change a staging file's mode"))
    }

    pub fn set_mtime(&self, mtime: std::time::SystemTime) -> Result<()> {
        self.file
            .set_modified(mtime)
            .map_err(|error| fault(&error, "cannot change a staging file's mtime"))
    }

    /// Opens it once more.
    pub fn opened(self: &Arc<Self>) -> OpenStaging {
        self.open_count.fetch_add(1, Ordering::Relaxed);
        OpenStaging { staged: Arc::clone(self), link_checked: AtomicBool::new(false) }
    }
}

impl Drop for OpenStaging {
    fn drop(&mut self) {
        self.staged.open_count.fetch_sub(1, Ordering::Relaxed);
    }
}

fn fault(error: &io::Error, what: &str) -> Error {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    match errno {
        libc::EEXIST => Error::expected(errno, what),
        _ => Error::fault(errno, format!("{what}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failed_save_has_left_goes_before_what_may_still_be_renamed() {
        let directory = tempfile::tempdir().unwrap();
        let settings =
            Settings { staging_dir: directory.path().join("staging"), ..Settings::default() };
        let staging = Staging::open(&settings).unwrap();
        let [failed, held, written, recent] = ["failed", "held", "written", "recent"]
            .map(|name| staging.create(name, 0o600).unwrap());
        for staged in [&failed, &held, &recent] {
            staged.note_failure();
        }
        staging.write(&written, b"{}", 0).unwrap();
        let _open = held.opened();
        for staged in [&failed, &held, &written] {
            *lock(&staged.touched) -= FAILED_FOR;
        }
        staging.expire_orphans();
        let mut left: Vec<String> = staging.all().iter().map(|one| one.name.clone()).collect();
        left.sort_unstable();
        assert_eq!(left, ["held", "recent", "written"]);
    }
}
