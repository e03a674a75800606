//! Directories that root uses and others may have a hand in.
//!
//! Root must not be led elsewhere: whoever may write to a directory can put another directory, or a
//! symbolic link, in the place of one that is in it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{Statfs, TMPFS_MAGIC, statfs};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};
use serde::{Deserialize, Serialize};

use super::mount::is_dead;
use crate::exit::{ExitCode, Failure};

/// Owner and permission bits of a directory.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ownership {
    pub owner_uid: u32,
    pub owner_gid: u32,
    /// Its permission bits.
    pub mode: u32,
}

impl Ownership {
    const PERMISSIONS: u32 = 0o7777;

    pub fn of(found: &Metadata) -> Self {
        let mode = found.mode() & Self::PERMISSIONS;
        Self { owner_uid: found.uid(), owner_gid: found.gid(), mode }
    }
}

/// Opens a directory. The last name of the path must not be a symbolic link.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
}

/// Opens a directory by a path that had no symbolic link in it when it was resolved. A link that
/// was put there since is refused (`ELOOP`).
pub(crate) fn open_resolved(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(opened) => Ok(opened.into()),
        // A container whose filter of system calls is older than this call.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => open(path),
        Err(error) => Err(error.into()),
    }
}

/// Why a path does not lead to a directory that root may use.
#[derive(Debug)]
pub(crate) enum ResolveError {
    /// The system's word.
    Io(io::Error),
    /// A symbolic link on the way that somebody else than root could have put there.
    ForeignLink { link: PathBuf, target: PathBuf, owner_uid: u32 },
}

impl From<io::Error> for ResolveError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The absolute path without symbolic links. A link is followed only if root owns it, or if nobody
/// but root can write to the directory in which it is. The last name may be that of a dead mount.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, ResolveError> {
    const LINKS_MAX: u32 = 40;
    let absolute = std::path::absolute(path)?;
    let mut resolved = PathBuf::from("/");
    let mut names = names(&absolute);
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        if name == OsStr::new("..") {
            resolved.pop();
            continue;
        }
        let next = resolved.join(name);
        let found = match Found::at(&next) {
            // The root of a mount, and so no link.
            Err(error) if is_dead(&error) && names.is_empty() => return Ok(next),
            found => found?,
        };
        if !found.is_symlink {
            resolved = next;
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(io::Error::from(Errno::ELOOP).into());
        }
        let target = next.read_link()?;
        if found.owner_uid != 0 && is_writable_by_others(&resolved.metadata()?) {
            let owner_uid = found.owner_uid;
            return Err(ResolveError::ForeignLink { link: next, target, owner_uid });
        }
        if target.is_absolute() {
            resolved = PathBuf::from("/");
        }
        let mut way = self::names(&target);
        way.append(&mut names);
        names = way;
    }
    Ok(resolved)
}

/// What is found under a name on the way.
struct Found {
    is_symlink: bool,
    owner_uid: u32,
}

impl Found {
    /// As far as the kernel knows: it asks no filesystem, which may be one that does not answer.
    fn at(path: &Path) -> io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let found = statx(CWD, path, flags, StatxFlags::TYPE | StatxFlags::UID)?;
        let is_symlink = FileType::from_raw_mode(found.stx_mode.into()) == FileType::Symlink;
        Ok(Self { is_symlink, owner_uid: found.stx_uid })
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

/// Whether somebody else than root may make and remove names in it.
fn is_writable_by_others(found: &Metadata) -> bool {
    let by_group = found.mode() & 0o020 != 0 && found.gid() != 0;
    found.uid() != 0 || by_group || found.mode() & 0o002 != 0
}

/// Makes a directory of root's own, or takes one that is already there. In a place where
/// everybody may write (`/dev/shm`) somebody else may have been faster.
pub(crate) fn make_own(dir: &Path, mode: u32) -> Result<(), Failure> {
    let new = match DirBuilder::new().mode(mode).create(dir) {
        Ok(()) => true,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => false,
        Err(e) => return Err(unusable(dir, &format!("cannot be made: {e}"))),
    };
    // From here on it is held: whoever owns the directory above may put another in its place.
    let failed = |e: io::Error| match e.kind() {
        ErrorKind::NotADirectory => unusable(dir, "is not a directory"),
        _ => unusable(dir, &e.to_string()),
    };
    let opened = open(dir).map_err(failed)?;
    let found = opened.metadata().map_err(failed)?;
    if found.uid() != 0 || found.mode() & 0o022 != 0 {
        return Err(unusable(dir, "is writable for users other than root"));
    }
    if new {
        // The mode given at creation is subject to the umask.
        opened.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    }
    Ok(())
}

/// A directory that root cannot use for its own.
pub(crate) fn unusable(dir: &Path, reason: &str) -> Failure {
    Failure::new(
        ExitCode::Staging,
        format!("directory {} {reason}; remove it or name another", dir.display()),
    )
}

/// Whether this directory, or the one it would be made in, lies on a tmpfs.
pub(crate) fn is_on_tmpfs(dir: &Path) -> bool {
    filesystem_of(dir).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
}

/// The size of the filesystem that this directory, or the one it would be made in, lies on. None if it has no limit, or
/// cannot be looked at.
pub(crate) fn filesystem_bytes(dir: &Path) -> Option<u64> {
    let found = filesystem_of(dir).ok()?;
    let block_bytes = u64::try_from(found.block_size()).ok()?;
    Some(found.blocks().saturating_mul(block_bytes)).filter(|bytes| *bytes > 0)
}

fn filesystem_of(dir: &Path) -> nix::Result<Statfs> {
    match statfs(dir) {
        Err(Errno::ENOENT) => dir.parent().map_or(Err(Errno::ENOENT), statfs),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{lchown, symlink};

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let open = dir.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        assert_eq!(make_own(&open, 0o755).unwrap_err().code, ExitCode::Staging);
        let link = dir.path().join("link");
        symlink("/etc", &link).unwrap();
        assert_eq!(make_own(&link, 0o755).unwrap_err().code, ExitCode::Staging);
    }

    /// A directory of user 1234's, in one of root's, as root (like every test that mounts).
    fn odoos() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir_all(path.join("odoo/sessions")).unwrap();
        std::fs::create_dir_all(path.join("real/sessions")).unwrap();
        std::os::unix::fs::chown(path.join("odoo"), Some(1234), Some(1234)).unwrap();
        (dir, path)
    }

    #[test]
    fn links_of_root_are_followed_wherever_they_are() {
        let (_dir, path) = odoos();
        symlink("odoo/../real", path.join("way")).unwrap();
        symlink(path.join("way"), path.join("odoo/data")).unwrap();
        let found = resolve(&path.join("odoo/data/sessions/.")).unwrap();
        assert_eq!(found, path.join("real/sessions"));
        assert!(open_resolved(&found).is_ok());
        // What a link to nowhere, or a circle, is called by the system.
        symlink("nowhere", path.join("lost")).unwrap();
        symlink("circle", path.join("circle")).unwrap();
        for (name, errno) in [("lost", libc::ENOENT), ("circle", libc::ELOOP)] {
            let Err(ResolveError::Io(error)) = resolve(&path.join(name)) else { panic!("{name}") };
            assert_eq!(error.raw_os_error(), Some(errno), "{name}");
        }
    }

    #[test]
    fn a_link_that_another_user_put_there_is_not_followed() {
        let (_dir, path) = odoos();
        let link = path.join("odoo/data");
        symlink(path.join("real"), &link).unwrap();
        lchown(&link, Some(1234), Some(1234)).unwrap();
        match resolve(&link.join("sessions")) {
            Err(ResolveError::ForeignLink { link: found, target, owner_uid: 1234 }) => {
                assert_eq!((found, target), (link.clone(), path.join("real")));
            }
            other => panic!("{other:?}"),
        }
        // The same link where only root can write.
        let moved = path.join("moved");
        std::fs::rename(&link, &moved).unwrap();
        assert_eq!(resolve(&moved).unwrap(), path.join("real"));
        // Anywhere on the way, and in a directory of everybody's.
        std::fs::set_permissions(&path, Permissions::from_mode(0o1777)).unwrap();
        assert!(matches!(resolve(&moved.join("sessions")), Err(ResolveError::ForeignLink { .. })));
    }

    #[test]
    fn a_link_that_came_after_the_look_is_refused() {
        let (_dir, path) = odoos();
        let sessions = resolve(&path.join("odoo/sessions")).unwrap();
        std::fs::rename(path.join("odoo"), path.join("was-odoo")).unwrap();
        symlink("real", path.join("odoo")).unwrap();
        let error = open_resolved(&sessions).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }
}
