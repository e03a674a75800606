//! `flock`: a lock that its holder's death always releases.
//!
//! Such a lock belongs to the open file, not to a process: whoever inherits the descriptor holds
//! it too, and it ends with the last copy. So nothing here ever unlocks; closing does. (nix's own
//! `Flock` unlocks when dropped, which would take the private Redis's lock from it.)

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Opens a lock file, making it if there is none. Where it is ever removed, only a [`Claim`] may hold
/// it: a name that is removed and made again gives two files, and two holders.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // The directory may belong to an unprivileged user, who must not be able to lead root to
    // another file, nor to a pipe that blocks.
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if found.nlink() > 1 {
        return Err(io::Error::other("the file has another name, too"));
    }
    Ok(file)
}

/// Locks without waiting; `false` if somebody else holds it.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A lock file that is held, and is removed by an orderly end of its holder.
#[derive(Debug)]
pub(crate) struct Claim {
    file: File,
    path: PathBuf,
}

impl Claim {
    /// Locks without waiting; none if somebody else holds it.
    pub(crate) fn take(path: &Path) -> io::Result<Option<Self>> {
        /// Each try is lost to a holder that comes and goes meanwhile.
        const TRIES_MAX: u32 = 100;
        for _ in 0..TRIES_MAX {
            let file = open(path)?;
            if !try_lock(&file)? {
                break;
            }
            // Whoever held it before may have removed it between the two.
            if is_named(&file, path)? {
                return Ok(Some(Self { file, path: path.to_owned() }));
            }
        }
        Ok(None)
    }

    /// The one that the program before had, which was executed in our place; none if it is not it.
    pub(crate) fn resume(file: File, path: &Path) -> io::Result<Option<Self>> {
        let is_held = is_named(&file, path)? && try_lock(&file)?;
        Ok(is_held.then(|| Self { file, path: path.to_owned() }))
    }

    /// What the file says from now on. That is a message, and the lock holds without it: on a full filesystem it is lost,
    /// unless the file has its room already.
    pub(crate) fn write(&mut self, words: &str) {
        let written = self
            .file
            .write_all_at(words.as_bytes(), 0)
            .and_then(|()| self.file.set_len(words.len() as u64));
        if let Err(error) = written {
            let path = self.path.display();
            tracing::warn!(%path, %error, "commands cannot find this process: cannot write to the lock file");
        }
    }
}

impl AsFd for Claim {
    /// Whoever has it, too, holds the lock.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Claim {
    /// The name goes while the lock is held, so the next holder makes a new file.
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the lock file");
        }
    }
}

/// Whether the name still leads to this file.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

    use super::*;

    #[test]
    fn a_copy_of_the_descriptor_holds_it_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let one = open(&path).unwrap();
        assert!(try_lock(&one).unwrap());
        let copy = one.try_clone().unwrap();
        drop(one);
        let two = open(&path).unwrap();
        assert!(!try_lock(&two).unwrap());
        drop(copy);
        assert!(try_lock(&two).unwrap());
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(open(&path).is_err());
    }

    #[test]
    fn what_may_be_another_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("lock"), dir.path().join("other"));
        drop(open(&path).unwrap());
        std::fs::hard_link(&path, &other).unwrap();
        assert!(open(&path).is_err());
        std::fs::remove_file(&other).unwrap();
        assert!(open(&path).is_ok());
        nix::unistd::mkfifo(&other, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open(&other).is_err());
    }

    #[test]
    fn a_claim_is_one_holders_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let mut claim = Claim::take(&path).unwrap().unwrap();
        claim.write("longer words");
        claim.write("words");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "words");
        assert!(Claim::take(&path).unwrap().is_none());
        // As over an `exec`, which forgets the claim and keeps the descriptor.
        let copy = claim.file.try_clone().unwrap();
        std::mem::forget(claim);
        let claim = Claim::resume(copy, &path).unwrap().unwrap();
        assert!(Claim::take(&path).unwrap().is_none());
        assert!(Claim::resume(File::open("/dev/null").unwrap(), &path).unwrap().is_none());
        drop(claim);
        assert!(!path.exists());
        assert!(Claim::take(&path).unwrap().is_some());
    }

    #[test]
    fn words_are_written_into_the_room_that_is_there_and_else_those_of_before_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut claim = Claim::take(&dir.path().join("lock")).unwrap().unwrap();
        // It cannot grow, as on a full filesystem.
        claim.file = memfd_create("lock", MemfdFlags::ALLOW_SEALING).unwrap().into();
        claim.write("words");
        fcntl_add_seals(&claim.file, SealFlags::GROW).unwrap();
        let said = |claim: &Claim| {
            let mut text = [0; 16];
            let length = claim.file.read_at(&mut text, 0).unwrap();
            String::from_utf8_lossy(&text[..length]).into_owned()
        };
        claim.write("other");
        assert_eq!(said(&claim), "other");
        claim.write("longer words");
        assert_eq!(said(&claim), "other");
    }

    #[test]
    fn of_many_that_come_and_go_never_two_hold_it() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let (holders, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let Some(claim) = Claim::take(&path).unwrap() else { continue };
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                        taken.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        holders.fetch_sub(1, Ordering::SeqCst);
                        drop(claim);
                    }
                });
            }
        });
        assert!(taken.into_inner() > 0);
        assert!(!path.exists());
    }
}
