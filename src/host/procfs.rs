//! The processes of this host as root sees them, for a process that is not root: `/proc` once more,
//! mounted nowhere, without `hidepid`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::directory;

/// Opens it, if it `may_mount`. Else, and where the kernel or a container refuses that, it is the `/proc`
/// that everybody has.
pub(crate) fn open(may_mount: bool) -> io::Result<OwnedFd> {
    if may_mount {
        match open_unhidden() {
            Ok(directory) => return Ok(directory),
            Err(error) => tracing::debug!(%error, "cannot mount /proc once more"),
        }
    }
    directory::open(Path::new("/proc")).map(Into::into)
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

#[cfg(test)]
mod tests {
    use super::*;

    // As root, like every test that mounts.
    #[test]
    fn processes_are_seen_and_nothing_is_written() {
        let directory = open_unhidden().unwrap();
        let open = |path: &str, flags| openat(&directory, path, flags, Mode::empty());
        for path in ["self/stat", "1/stat", "1/cmdline"] {
            assert!(open(path, OFlags::RDONLY).is_ok(), "{path}");
        }
        assert!(open("sys/kernel", OFlags::RDONLY).is_err());
        assert!(open("self/mem", OFlags::RDWR).is_err());
    }
}
