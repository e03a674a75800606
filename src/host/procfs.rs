//! The processes of this host as root sees them, for a process that is not root: `/proc` once more,
//! mounted nowhere, without `hidepid`.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::directory;

/// Opens it. Where the kernel or a container refuses that, the `/proc` that everybody has.
pub(crate) fn open() -> io::Result<OwnedFd> {
    match open_unhidden() {
        Ok(directory) => Ok(directory),
        Err(error) => {
            tracing::debug!(%error, "cannot mount /proc anew");
            directory::open(Path::new("/proc")).map(Into::into)
        }
    }
}

fn open_unhidden() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "hidepid", "off")?;
    // Without the settings of the kernel, which are of no use here.
    fsconfig_set_string(&context, "subset", "pid")?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    // What fsmount gives can be looked up in, but not read.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(&mount, ".", flags, Mode::empty())
}

/// Whether processes of other users can be seen in it. Process 1 always lives, and is hardly ever this
/// user's own.
pub(crate) fn sees_others(directory: BorrowedFd<'_>) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = openat(directory, "1/stat", flags, Mode::empty());
    opened.is_ok_and(|opened| io::read_to_string(File::from(opened)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    // As root, like every test that mounts.
    #[test]
    fn processes_are_seen_and_nothing_is_written() {
        let directory = open_unhidden().unwrap();
        assert!(sees_others(directory.as_fd()));
        let open = |path: &str, flags| openat(&directory, path, flags, Mode::empty());
        assert!(open("self/stat", OFlags::RDONLY).is_ok());
        assert!(open("sys/kernel", OFlags::RDONLY).is_err());
        assert!(open("self/mem", OFlags::RDWR).is_err());
        assert!(!sees_others(tempfile::tempfile().unwrap().as_fd()));
    }
}
