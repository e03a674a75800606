//! The mountpoint: looked at, mounted on, unmounted.
//!
//! Nothing here asks the mounted filesystem itself: one that does not answer would hold the keeper, who alone can end it.
//! A process of its own does ([`crate::host::prober`]).

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::config::people;
use crate::disk::directory::Directory;
use crate::exit::{ExitCode, Failure};
use crate::host::directory::{self, ResolveError};
use crate::host::mount::{force_off, is_dead, mounted};
use crate::host::mount_api::Filesystem;
use crate::host::mount_table::Mounted;
use crate::host::prober::{Prober, Root};
use crate::host::signals::Signals;
use crate::keeper::underlying::make_unusable;

const DEVICE: &str = "/dev/fuse";

/// To unmount what Odoo keeps its sessions on would log everybody out.
pub(crate) const FOREIGN_REMEDY: &str = "if it holds sessions, see docs/install.md (\"The session directory \
                              is itself a mountpoint\"); else unmount it, or name another \
                              directory";

/// How long a mounted filesystem is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Opens the device through which the kernel asks a filesystem.
pub(crate) fn open_device() -> Result<OwnedFd, Failure> {
    File::options().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(DEVICE).map_or_else(
        |e| {
            let remedy = match e.kind() {
                ErrorKind::NotFound => {
                    "load the kernel module (modprobe fuse); in a container, add --device /dev/fuse"
                }
                _ => "allow its use, in a container with --device /dev/fuse",
            };
            Err(Failure::new(ExitCode::NoFuse, format!("{DEVICE}: {e}; {remedy}")))
        },
        |file| Ok(file.into()),
    )
}

/// The mountpoint's one true name, whoever made the symbolic links in the one that was given. A dead
/// mount has one, too.
pub(crate) fn resolve(dir: &Path) -> Result<PathBuf, Failure> {
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
    Err(unresolved(dir, &error))
}

/// The same for a directory that root is to change. Symbolic links that are not root's are refused
/// where others can put them: Odoo's user would decide what root mounts on.
pub(crate) fn resolve_trusted(dir: &Path) -> Result<PathBuf, Failure> {
    directory::resolve(dir).map_err(|error| match error {
        ResolveError::Io(error) => unresolved(dir, &error),
        ResolveError::ForeignLink { link, target, owner_uid } => Failure::new(
            ExitCode::NotADirectory,
            format!(
                "mountpoint {}: {} is a symbolic link that belongs to user {}, who could make it \
                 lead anywhere; name the directory itself ({}), or give the link to root (chown -h \
                 root)",
                dir.display(),
                escaped(&link),
                people::name_of(owner_uid),
                escaped(&target)
            ),
        ),
    })
}

/// A path that somebody else than root has chosen, in one line.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

fn unresolved(dir: &Path, error: &io::Error) -> Failure {
    let (code, remedy) = match error.kind() {
        ErrorKind::NotFound => (ExitCode::MountpointMissing, "create it (mkdir -p)"),
        ErrorKind::NotADirectory => (ExitCode::NotADirectory, "name a directory"),
        _ => (ExitCode::MountpointMissing, "name an accessible directory"),
    };
    Failure::new(code, format!("mountpoint {}: {error}; {remedy}", dir.display()))
}

/// Clears away a mount of ours that is dead or does not answer, and refuses any other. The caller holds the mountpoint's
/// lock, so nobody is left who could have it served. A mount of ours that answers can only be one whose keeper was killed
/// this moment, and whose worker is just ending.
pub(crate) fn clear_dead(
    mountpoint: &Path,
    prober: &mut Prober,
    signals: &mut Signals,
) -> Result<(), Failure> {
    const DYING_WITHIN: Duration = Duration::from_secs(3);
    let until = Instant::now() + DYING_WITHIN;
    while let Some(found) = mounted(mountpoint) {
        if !found.is_ours() {
            return Err(already_mounted(mountpoint, &found));
        }
        let answer = prober
            .ask(&Root::At(mountpoint))
            .and_then(|question| prober.wait(question, ANSWER_WITHIN, signals));
        match answer {
            Err(error) if is_dead(&error) || error.kind() == ErrorKind::TimedOut => {
                tracing::warn!(
                    mountpoint = %mountpoint.display(), %error,
                    "replacing the mount of an earlier sessionfs"
                );
                force_off(mountpoint)?;
                prober.give_up();
            }
            _ if Instant::now() < until => {
                signals.wait(&[], Some(Instant::now() + Duration::from_millis(20)));
            }
            _ => return Err(already_mounted(mountpoint, &found)),
        }
    }
    Ok(())
}

/// Refuses a mount of anybody's, without asking it anything.
pub(crate) fn refuse_mounted(mountpoint: &Path) -> Result<(), Failure> {
    mounted(mountpoint).map_or(Ok(()), |found| Err(already_mounted(mountpoint, &found)))
}

fn already_mounted(mountpoint: &Path, found: &Mounted) -> Failure {
    let remedy = if found.is_ours() {
        "stop it first (sessionfs unmount), or name another directory"
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
pub(crate) struct Mountpoint {
    path: PathBuf,
    directory: File,
    holds_sessions: bool,
}

impl Mountpoint {
    /// Looks at a directory on which nothing is mounted: empty, or with what Odoo puts there and
    /// nothing else.
    pub(crate) fn take(path: &Path) -> Result<Self, Failure> {
        let failed =
            |code, what: &str| Failure::new(code, format!("mountpoint {}: {what}", path.display()));
        let directory = directory::open_resolved(path).map_err(|e| match e.raw_os_error() {
            Some(libc::ENOENT) => {
                failed(ExitCode::MountpointMissing, "does not exist; create it (mkdir -p)")
            }
            // A symbolic link that has come since the path was resolved.
            Some(libc::ENOTDIR | libc::ELOOP) => {
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
                    "contains files that are not Odoo's ({}); move them away or name another \
                     directory",
                    others.names()
                ),
            ));
        }
        Ok(Self { path: path.to_owned(), directory, holds_sessions })
    }

    /// How many session files are in it.
    pub(crate) fn count_sessions(&self) -> io::Result<u64> {
        let root = self.directory.try_clone()?.into();
        let directory = Directory { root, archive: None, owner: None, session_max_bytes: 0 };
        let mut count = 0;
        directory.list(|_| {
            count += 1;
            Ok(())
        })?;
        Ok(count)
    }

    /// Why the session files in it cannot be moved, if they cannot. Then none is imported: a file that
    /// stays would bring its session back once Redis has forgotten that it ended.
    pub(crate) fn unmovable(&self) -> Option<io::Error> {
        self.holds_sessions.then(|| Directory::check_movable(self.as_fd()).err()).flatten()
    }

    /// Puts a filesystem on it, and then makes the underlying directory unusable to Odoo: in this
    /// order there is no moment in which Odoo meets a directory that it cannot use, and a mount that
    /// is refused changes nothing.
    pub(crate) fn put(&self, filesystem: &Filesystem) -> Result<(), Failure> {
        filesystem.put_on(self.directory.as_fd()).map_err(|errno| refused(&self.path, errno))?;
        if let Err(error) = make_unusable(&self.directory) {
            tracing::warn!(
                mountpoint = %self.path.display(), %error,
                "cannot restrict the underlying directory: while nothing is mounted, Odoo may \
                 write to it"
            );
        }
        Ok(())
    }
}

/// The kernel did not let us mount.
pub(crate) fn refused(mountpoint: &Path, errno: Errno) -> Failure {
    let remedy = match errno {
        Errno::PERM | Errno::ACCESS => "; run it as root, in a container with --cap-add SYS_ADMIN",
        _ => "",
    };
    Failure::new(
        ExitCode::MountRefused,
        format!("mountpoint {}: mount: {errno}{remedy}", mountpoint.display()),
    )
}

impl AsFd for Mountpoint {
    /// The underlying directory.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
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
