//! The mountpoint: looked at, mounted on, unmounted.
//!
//! Everything that asks the mounted filesystem itself is done on a thread of its own with a bound:
//! a filesystem that does not answer would otherwise hold the keeper, who alone can end it.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::statfs::statfs;

use crate::disk::directory::Directory;
use crate::exit::{ExitCode, Failure};
use crate::fuse::kernel::Offers;
use crate::host::filesystem::Filesystem;
use crate::host::mount_table::{MountTable, Mounted};
use crate::host::signals::Signals;
use crate::keeper::underlying::make_unusable;

const DEVICE: &str = "/dev/fuse";

/// To unmount what Odoo keeps its sessions on would log everybody out.
const FOREIGN_REMEDY: &str = "if sessions are on it, docs/install.md says how they are kept \
                              (\"The session directory is itself a mountpoint\"); else unmount it, \
                              or name another directory";

/// How long a mounted filesystem is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Opens the device through which the kernel asks a filesystem.
pub fn open_device() -> Result<OwnedFd, Failure> {
    File::options().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(DEVICE).map_or_else(
        |e| {
            let remedy = match e.kind() {
                ErrorKind::NotFound => {
                    "load the kernel's module (modprobe fuse), or pass the device into the \
                     container (--device /dev/fuse)"
                }
                _ => "allow its use, in a container with --device /dev/fuse",
            };
            Err(Failure::new(ExitCode::NoFuse, format!("{DEVICE}: {e}; {remedy}")))
        },
        |file| Ok(file.into()),
    )
}

/// The mountpoint's one true name: absolute, without symbolic links. A dead mount has one, too.
pub fn resolve(dir: &Path) -> Result<PathBuf, Failure> {
    let error = match dir.canonicalize() {
        Ok(resolved) => return Ok(resolved),
        Err(error) => error,
    };
    if is_dead(&error)
        && let (Some(parent), Some(name)) = (dir.parent(), dir.file_name())
    {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        if let Ok(parent) = parent.canonicalize() {
            return Ok(parent.join(name));
        }
    }
    let (code, remedy) = match error.kind() {
        ErrorKind::NotFound => (ExitCode::MountpointMissing, "create it (mkdir -p)"),
        ErrorKind::NotADirectory => (ExitCode::NotADirectory, "name a directory"),
        _ => (ExitCode::MountpointMissing, "name a directory that can be reached"),
    };
    Err(Failure::new(code, format!("mountpoint {}: {error}; {remedy}", dir.display())))
}

/// Clears away a dead mount of ours and refuses a living one of anybody's. The caller holds the
/// mountpoint's lock, so a mount of ours that still lives can only be one whose keeper was killed
/// this moment, and whose worker is just ending.
pub fn clear_dead(mountpoint: &Path, signals: &mut Signals) -> Result<(), Failure> {
    const DYING_WITHIN: Duration = Duration::from_secs(3);
    let until = Instant::now() + DYING_WITHIN;
    while let Some(found) = mounted(mountpoint) {
        let answer = Probe::start(mountpoint).map(|probe| probe.wait(signals));
        let dead = matches!(&answer, Ok(Err(error)) if is_dead(error));
        let ours = found.is_ours();
        if dead && ours {
            tracing::warn!(
                mountpoint = %mountpoint.display(),
                "a mount left dead by an earlier sessionfs is replaced"
            );
            detach(mountpoint)?;
        } else if ours && Instant::now() < until {
            signals.wait(&[], Some(Instant::now() + Duration::from_millis(20)));
        } else {
            return Err(already_mounted(mountpoint, &found));
        }
    }
    Ok(())
}

/// Refuses a mount of anybody's, without asking it anything.
pub fn refuse_mounted(mountpoint: &Path) -> Result<(), Failure> {
    mounted(mountpoint).map_or(Ok(()), |found| Err(already_mounted(mountpoint, &found)))
}

fn already_mounted(mountpoint: &Path, found: &Mounted) -> Failure {
    let remedy = if found.is_ours() {
        "end that first (sessionfs unmount), or name another directory"
    } else {
        FOREIGN_REMEDY
    };
    Failure::new(
        ExitCode::AlreadyMounted,
        format!(
            "mountpoint {}: already mounted ({}); {remedy}",
            mountpoint.display(),
            found.fstype
        ),
    )
}

/// A directory, held so that nobody can put another in its place: the directory above may belong to
/// Odoo's user, and a symbolic link put there in time would have root mount elsewhere.
pub struct Mountpoint {
    path: PathBuf,
    directory: File,
    holds_sessions: bool,
}

impl Mountpoint {
    /// Looks at a directory on which nothing is mounted: empty, or with what Odoo puts there and
    /// nothing else.
    pub fn take(path: &Path) -> Result<Self, Failure> {
        let failed =
            |code, what: &str| Failure::new(code, format!("mountpoint {}: {what}", path.display()));
        let directory = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)
            .map_err(|e| match e.kind() {
                ErrorKind::NotFound => {
                    failed(ExitCode::MountpointMissing, "does not exist; create it (mkdir -p)")
                }
                ErrorKind::NotADirectory => {
                    failed(ExitCode::NotADirectory, "is not a directory; name one")
                }
                _ => failed(ExitCode::MountpointMissing, &format!("{e}; make it accessible")),
            })?;
        let (holds_sessions, others) = Directory::look_at_top(directory.as_fd())
            .map_err(|e| failed(ExitCode::MountpointMissing, &format!("cannot be listed: {e}")))?;
        if others.foreign > 0 {
            return Err(failed(
                ExitCode::NotEmpty,
                &format!(
                    "holds what is not Odoo's ({}); move that away or name another directory",
                    others.names()
                ),
            ));
        }
        Ok(Self { path: path.to_owned(), directory, holds_sessions })
    }

    /// How many session files are in it.
    pub fn count_sessions(&self) -> io::Result<u64> {
        let root = self.directory.try_clone()?.into();
        let directory = Directory { root, aside: None, owner: None, session_max_bytes: 0 };
        let mut count = 0;
        directory.list(|_| {
            count += 1;
            Ok(())
        })?;
        Ok(count)
    }

    /// Whether anything lies below, which a miss falls through to.
    pub fn holds_sessions(&self) -> bool {
        self.holds_sessions
    }

    /// Puts a filesystem on it, and then makes the underlying directory unusable to Odoo: in this
    /// order there is no moment in which Odoo meets a directory that it cannot use, and a mount that
    /// is refused changes nothing.
    pub fn put(&self, filesystem: &Filesystem) -> Result<(), Failure> {
        filesystem.put_on(self.directory.as_fd()).map_err(|errno| refused(&self.path, errno))?;
        if let Err(error) = make_unusable(&self.directory) {
            tracing::warn!(
                mountpoint = %self.path.display(), %error,
                "while nothing is mounted, Odoo may be able to write to the underlying directory"
            );
        }
        Ok(())
    }

    /// Puts a filesystem in the place of the one that is mounted, which lives on for who uses it.
    /// Nothing is unserved meanwhile, where the kernel can put one mount beneath another (6.5 and
    /// later); otherwise the place is empty for some microseconds.
    pub fn exchange(&self, filesystem: &Filesystem) -> Result<Exchange, Failure> {
        if Offers::from_environment().mount_beneath() {
            match filesystem.put_beneath(&self.path) {
                Ok(()) => {
                    detach(&self.path)?;
                    return Ok(Exchange::Seamless);
                }
                // Also where the mount is propagated in a way that does not allow it.
                Err(Errno::EINVAL) => {}
                Err(errno) => return Err(refused(&self.path, errno)),
            }
        }
        self.exchange_with_gap(filesystem)
    }

    /// The kernel takes a mount away at once, and then lets the call wait for a grace period of
    /// some milliseconds. So another thread waits, and the place is filled as soon as it is empty.
    fn exchange_with_gap(&self, filesystem: &Filesystem) -> Result<Exchange, Failure> {
        let former = mount_id(&self.path);
        std::thread::scope(|scope| {
            let detaching = scope.spawn(|| detach(&self.path));
            let mut since = Instant::now();
            let gone = loop {
                // Before the look: in the midst of it this thread may have to wait for a processor.
                let now = Instant::now();
                if mount_id(&self.path) != former {
                    break true;
                }
                if detaching.is_finished() {
                    break mount_id(&self.path) != former;
                }
                since = now;
            };
            let put = if gone {
                filesystem
                    .put_on(self.directory.as_fd())
                    .map_err(|errno| refused(&self.path, errno))
            } else {
                // It could not be taken away, which the other thread tells.
                Ok(())
            };
            let gap = since.elapsed();
            detaching.join().unwrap_or_else(|_| Err(Failure::internal("unmount", "a panic")))?;
            put.map(|()| Exchange::Gap(gap))
        })
    }
}

/// The mount that a path leads to, without asking its filesystem anything.
fn mount_id(path: &Path) -> nix::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: statx reads a string that ends with NUL, and writes to a buffer of its own type; both
    // live through the call.
    let result = unsafe {
        libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_STATX_DONT_SYNC,
            libc::STATX_MNT_ID,
            found.as_mut_ptr(),
        )
    };
    Errno::result(result)?;
    // SAFETY: the kernel has filled it, and every pattern of bits (zeroes before) is valid for it.
    Ok(unsafe { found.assume_init() }.stx_mnt_id)
}

/// How one filesystem took the place of another.
#[derive(Clone, Copy, Debug)]
pub enum Exchange {
    /// Somebody always served.
    Seamless,
    /// Nobody did for so long.
    Gap(Duration),
}

/// The kernel did not let us mount.
pub fn refused(mountpoint: &Path, errno: Errno) -> Failure {
    let remedy = match errno {
        Errno::EPERM | Errno::EACCES => {
            "; start it as root, in a container with --cap-add SYS_ADMIN"
        }
        _ => "",
    };
    Failure::new(
        ExitCode::MountRefused,
        format!("mountpoint {}: mount: {errno}{remedy}", mountpoint.display()),
    )
}

impl AsFd for Mountpoint {
    /// The directory below the mount.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Takes the mount away: at once if nobody uses it, else from the tree of names, so that it ends
/// with its last user. `true` if it was in use.
pub fn unmount(mountpoint: &Path) -> Result<bool, Failure> {
    match umount2(mountpoint, MntFlags::UMOUNT_NOFOLLOW) {
        // EINVAL: nothing is mounted there (any more).
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(false),
        Err(_) => detach(mountpoint).map(|()| true),
    }
}

/// Takes the mount out of the tree of names, whoever uses it.
pub fn detach(mountpoint: &Path) -> Result<(), Failure> {
    match umount2(mountpoint, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(e) => Err(Failure::internal(format!("unmount {}", mountpoint.display()), e)),
    }
}

/// Whether this is how a filesystem answers whose worker has gone.
pub fn is_dead(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}

/// What is mounted on this very directory; the uppermost, if several are.
pub fn mounted(mountpoint: &Path) -> Option<Mounted> {
    MountTable::own().ok()?.at(mountpoint).cloned()
}

/// Whether a sessionfs is mounted there.
pub fn is_ours(mountpoint: &Path) -> bool {
    mounted(mountpoint).is_some_and(|mounted| mounted.is_ours())
}

/// Whether no sessionfs is mounted there any more, not even beneath another mount. A table that
/// cannot be read says nothing.
pub fn is_taken_away(mountpoint: &Path) -> bool {
    MountTable::own().is_ok_and(|table| !table.layers(mountpoint).any(Mounted::is_ours))
}

/// A question to the filesystem's root, asked by a thread of its own.
pub struct Probe {
    answered: OwnedFd,
    thread: std::thread::JoinHandle<io::Result<()>>,
}

impl Probe {
    /// Asks.
    pub fn start(mountpoint: &Path) -> Result<Self, Failure> {
        let failed = |e: io::Error| Failure::internal("look at the mount", e);
        let (answered, told) = io::pipe().map_err(failed)?;
        let path = mountpoint.to_owned();
        let thread = std::thread::Builder::new()
            .name("probe".into())
            .spawn(move || {
                // The kernel may answer `stat` from what it remembers, of a dead mount as well;
                // `statfs` always asks.
                let answer = std::fs::metadata(&path)
                    .and_then(|_| statfs(&path).map_err(io::Error::from))
                    .map(|_| ());
                // Only the waker; nobody may be listening any more.
                let _ = (&told).write_all(b".");
                answer
            })
            .map_err(failed)?;
        Ok(Self { answered: answered.into(), thread })
    }

    /// The answer, if it has come.
    pub fn answer(self) -> Result<io::Result<()>, Self> {
        if self.thread.is_finished() {
            Ok(self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the probe failed"))))
        } else {
            Err(self)
        }
    }

    /// Whether there is an answer within a bound.
    pub fn answers(self, bound: Duration) -> bool {
        let bound_ms = u16::try_from(bound.as_millis()).unwrap_or(u16::MAX);
        let mut polled = [PollFd::new(self.answered.as_fd(), PollFlags::POLLIN)];
        // What can be read is there just before the thread's end.
        poll(&mut polled, bound_ms).is_ok_and(|ready| ready > 0)
            && self.thread.join().is_ok_and(|answer| answer.is_ok())
    }

    /// Waits for the answer, within a bound and without regard to signals.
    fn wait(mut self, signals: &mut Signals) -> io::Result<()> {
        let until = Instant::now() + ANSWER_WITHIN;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountpoint_that_is_none_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert_eq!(resolve(&missing).unwrap_err().code, ExitCode::MountpointMissing);
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(Mountpoint::take(&file).err().unwrap().code, ExitCode::NotADirectory);
        assert_eq!(Mountpoint::take(dir.path()).err().unwrap().code, ExitCode::NotEmpty);
    }
}
