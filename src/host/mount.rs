//! What is mounted on a directory, and whether it answers.
//!
//! A filesystem that does not answer holds whoever asks it. So the mount table is read instead where
//! that is enough, and else a thread of its own asks ([`Probe`]).

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::statfs::statfs;
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::mount_table::{MountTable, Mounted};
use super::signals::Signals;
use crate::exit::Failure;

/// Takes the mount away: at once if nobody uses it, else from the tree of names, so that it ends
/// with its last user. `true` if it was in use.
pub(crate) fn unmount(mountpoint: &Path) -> Result<bool, Failure> {
    match umount2(mountpoint, MntFlags::UMOUNT_NOFOLLOW) {
        // EINVAL: nothing is mounted there (any more).
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(false),
        Err(_) => detach(mountpoint).map(|()| true),
    }
}

/// Takes the mount out of the tree of names, whoever uses it.
pub(crate) fn detach(mountpoint: &Path) -> Result<(), Failure> {
    match umount2(mountpoint, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(e) => Err(Failure::internal(format!("unmount {}", mountpoint.display()), e)),
    }
}

/// Whether this is how a filesystem answers whose server has ended.
pub(crate) fn is_dead(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}

/// What is mounted on this very directory; the uppermost, if several are.
pub(crate) fn mounted(mountpoint: &Path) -> Option<Mounted> {
    MountTable::own().ok()?.at(mountpoint).cloned()
}

/// Whether a sessionfs is mounted there.
pub(crate) fn is_ours(mountpoint: &Path) -> bool {
    mounted(mountpoint).is_some_and(|mounted| mounted.is_ours())
}

/// Whether no sessionfs is mounted there any more, not even beneath another mount. `false` if the
/// table cannot be read.
pub(crate) fn is_taken_away(mountpoint: &Path) -> bool {
    MountTable::own().is_ok_and(|table| !table.layers(mountpoint).any(Mounted::is_ours))
}

/// A path that leads beneath what is mounted on a directory, while the file beside it is held: a copy
/// of the tree above, in which nothing else is mounted.
pub(crate) fn beneath(directory: &Path) -> io::Result<(File, PathBuf)> {
    let (Some(above), Some(name)) = (directory.parent(), directory.file_name()) else {
        return Err(io::Error::other("it is the root directory"));
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = File::from(open_tree(CWD, above, flags)?);
    let path = PathBuf::from(format!("/proc/self/fd/{}", tree.as_raw_fd())).join(name);
    Ok((tree, path))
}

/// A question to a filesystem's root, asked by a thread of its own.
pub(crate) struct Probe {
    answered: OwnedFd,
    thread: std::thread::JoinHandle<io::Result<()>>,
}

impl Probe {
    pub(crate) fn start(mountpoint: &Path) -> Result<Self, Failure> {
        let failed = |e: io::Error| Failure::internal("look at the mount", e);
        let (answered, waker) = io::pipe().map_err(failed)?;
        let path = mountpoint.to_owned();
        let thread = std::thread::Builder::new()
            .name("probe".into())
            .spawn(move || {
                // The kernel may answer `stat` from what it remembers, of a dead mount as well;
                // `statfs` always asks.
                let answer = std::fs::metadata(&path)
                    .and_then(|_| statfs(&path).map_err(io::Error::from))
                    .map(|_| ());
                // Only the waker; nobody may be waiting any more.
                let _ = (&waker).write_all(b".");
                answer
            })
            .map_err(failed)?;
        Ok(Self { answered: answered.into(), thread })
    }

    /// The answer, if it has come.
    pub(crate) fn answer(self) -> Result<io::Result<()>, Self> {
        if self.thread.is_finished() {
            Ok(self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the probe failed"))))
        } else {
            Err(self)
        }
    }

    /// Whether there is an answer within a bound.
    pub(crate) fn answers(self, bound: Duration) -> bool {
        let bound_ms = u16::try_from(bound.as_millis()).unwrap_or(u16::MAX);
        let mut polled = [PollFd::new(self.answered.as_fd(), PollFlags::POLLIN)];
        // What can be read is there just before the thread's end.
        poll(&mut polled, bound_ms).is_ok_and(|ready| ready > 0)
            && self.thread.join().is_ok_and(|answer| answer.is_ok())
    }

    /// Waits for the answer, within a bound and without regard to signals.
    pub(crate) fn wait(mut self, bound: Duration, signals: &mut Signals) -> io::Result<()> {
        let until = Instant::now() + bound;
        while Instant::now() < until {
            match self.answer() {
                Ok(answer) => return answer,
                Err(waiting) => self = waiting,
            }
            signals.wait(&[], Some(Instant::now() + Duration::from_millis(5)));
        }
        Err(ErrorKind::TimedOut.into())
    }
}

impl AsFd for Probe {
    /// Readable when the answer has come (or is just coming).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.answered.as_fd()
    }
}
