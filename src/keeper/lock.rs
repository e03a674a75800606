//! `flock`: a lock that its holder's death always releases.
//!
//! Such a lock belongs to the open file, not to a process: whoever inherits the descriptor holds
//! it too, and it ends with the last copy. So nothing here ever unlocks; closing does. (nix's own
//! `Flock` unlocks when dropped, which would take the private Redis's lock from it.)

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a lock file, making it if there is none. It is never removed: a name that is removed and
/// made again gives two files, and two holders.
pub fn open(path: &Path) -> io::Result<File> {
    // The directory may belong to an unprivileged user, who must not be able to lead root to
    // another file, nor to a pipe that blocks.
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
}

/// How a file is locked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// By any number of holders.
    Shared,
    /// By one.
    Exclusive,
}

/// Locks without waiting; `false` if somebody else holds it. A lock held already is exchanged for
/// the new kind, and is lost if that fails.
pub fn try_lock(file: &File, kind: Kind) -> io::Result<bool> {
    let operation = match kind {
        Kind::Shared => libc::LOCK_SH,
        Kind::Exclusive => libc::LOCK_EX,
    };
    // SAFETY: flock takes a descriptor, which `file` keeps open, and no pointer.
    let result = unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) };
    if result == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::EWOULDBLOCK) => Ok(false),
        e => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_sharers_that_leave_at_once_exactly_one_is_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let (one, two) = (open(&path).unwrap(), open(&path).unwrap());
        assert!(try_lock(&one, Kind::Shared).unwrap());
        assert!(try_lock(&two, Kind::Shared).unwrap());
        assert!(!try_lock(&one, Kind::Exclusive).unwrap());
        assert!(try_lock(&two, Kind::Exclusive).unwrap());
    }

    #[test]
    fn a_copy_of_the_descriptor_holds_it_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let one = open(&path).unwrap();
        assert!(try_lock(&one, Kind::Exclusive).unwrap());
        let copy = one.try_clone().unwrap();
        drop(one);
        let two = open(&path).unwrap();
        assert!(!try_lock(&two, Kind::Exclusive).unwrap());
        drop(copy);
        assert!(try_lock(&two, Kind::Exclusive).unwrap());
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(open(&path).is_err());
    }
}
