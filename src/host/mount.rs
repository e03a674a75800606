//! What is mounted on a directory, and its end.
//!
//! A filesystem that does not answer holds whoever asks it. So the mount table is read instead where that is enough; else
//! see [`super::prober`].

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::mount_table::{MountTable, Mounted};
use crate::exit::Failure;

/// Takes a mount of ours away, whoever uses it. `true` if it was in use. The kernel ends its connection, whoever holds the
/// device (`fuse_umount_begin` in fs/fuse/inode.c): all that wait for an answer get an error. Those in other mount
/// namespaces, too: a container with a copy of the mount does not make it one that is in use here.
pub(crate) fn force_off(mountpoint: &Path) -> Result<bool, Failure> {
    match umount2(mountpoint, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_FORCE) {
        // EINVAL: nothing is mounted there (any more).
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(false),
        // It stays in the tree of names.
        Err(_) => detach(mountpoint).map(|()| true),
    }
}

/// Ends the connection of a filesystem of ours that is not mounted anywhere in this mount namespace, and whose device the
/// caller holds, so that the number still means that filesystem. It may be mounted in a container.
pub(crate) fn abort(filesystem: &str) -> io::Result<()> {
    // They have no major number, and the directory is named after the whole (`fuse_ctl_add_conn` in fs/fuse/control.c).
    let minor = filesystem.strip_prefix("0:").ok_or(io::ErrorKind::InvalidInput)?;
    std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1")
}

/// Ends the connection of a mount of ours, whoever holds the device, and leaves the mount as it is: dead.
pub(crate) fn end_connection(mountpoint: &Path) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::internal(format!("end {}", mountpoint.display()), e);
    // In use, it stays. To open it like this asks the filesystem for nothing.
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let _used = File::options().read(true).custom_flags(flags).open(mountpoint).map_err(failed)?;
    match umount2(mountpoint, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_FORCE) {
        Ok(()) | Err(Errno::EBUSY | Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(error) => Err(failed(error.into())),
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

/// What is mounted on this very directory; the uppermost, if several are. `None` also if the table cannot be read.
pub(crate) fn mounted(mountpoint: &Path) -> Option<Mounted> {
    try_mounted(mountpoint).ok().flatten()
}

/// The same, for a decision that cannot be taken back.
pub(crate) fn try_mounted(mountpoint: &Path) -> io::Result<Option<Mounted>> {
    Ok(MountTable::own()?.at(mountpoint).cloned())
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
