//! A filesystem that is made, answered for and looked at while no name leads to it, and is then put
//! in its place at once: `fsopen(2)` and its family.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Result;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

/// The kind of filesystem, and ours among its kind: together what the mount table calls us.
const KIND: &str = "fuse";
const SUBTYPE: &str = "sessionfs";

/// A filesystem with its mount, in place or not yet.
pub(crate) struct Filesystem {
    mount: OwnedFd,
}

impl Filesystem {
    /// Makes the filesystem behind this device, mounted nowhere. The kernel asks its first question
    /// now; whoever reads the device may answer it.
    pub(crate) fn make(device: BorrowedFd<'_>) -> Result<Self> {
        let context = fsopen(KIND, FsOpenFlags::FSOPEN_CLOEXEC)?;
        let device = device.as_raw_fd().to_string();
        for (key, value) in [
            ("source", SUBTYPE),
            ("subtype", SUBTYPE),
            ("fd", &device),
            ("rootmode", "40000"),
            ("user_id", "0"),
            ("group_id", "0"),
        ] {
            fsconfig_set_string(&context, key, value)?;
        }
        // The tree is for Odoo's user, not for root who mounts it. Not default_permissions: the
        // adapter decides by one rule, and the kernel's would cost two requests a save.
        fsconfig_set_flag(&context, "allow_other")?;
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_NOATIME;
        Ok(Self { mount: fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)? })
    }

    /// The number of its device, as the mount table shows it. The filesystem is not asked (`fuse_update_get_attr` in the
    /// kernel's fs/fuse/dir.c).
    pub(crate) fn device_number(&self) -> io::Result<String> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found = statx(&self.mount, "", flags, StatxFlags::TYPE)?;
        Ok(format!("{}:{}", found.stx_dev_major, found.stx_dev_minor))
    }

    /// Puts it on what is uppermost at this directory.
    pub(crate) fn put_on(&self, directory: BorrowedFd<'_>) -> Result<()> {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.mount, "", directory, "", flags)
    }
}

impl AsFd for Filesystem {
    /// Its root. While it is held, the mount is in use.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}
