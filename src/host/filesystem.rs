//! A filesystem that is there before it is anywhere: made, answered for and looked at while no name
//! leads to it, then put in its place at once.
//!
//! The kernel's interface for that (`fsopen(2)` and its family, since 5.2) is in no crate that we
//! use; each call here is one system call.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

/// The kind of filesystem, and ours among its kind: together what the mount table calls us.
const KIND: &CStr = c"fuse";
const SUBTYPE: &CStr = c"sessionfs";

/// A filesystem with its mount, in place or not yet.
pub struct Filesystem {
    mount: OwnedFd,
}

impl Filesystem {
    /// Makes the filesystem behind this device, mounted nowhere. The kernel asks its first question
    /// now; whoever reads the device may answer it.
    pub fn make(device: BorrowedFd<'_>) -> nix::Result<Self> {
        let context = open()?;
        let device = number(&device.as_raw_fd().to_string());
        for (key, value) in [
            (c"source", SUBTYPE),
            (c"subtype", SUBTYPE),
            (c"fd", device.as_c_str()),
            (c"rootmode", c"40000"),
            (c"user_id", c"0"),
            (c"group_id", c"0"),
        ] {
            configure(&context, libc::FSCONFIG_SET_STRING, Some(key), Some(value))?;
        }
        // The tree is for Odoo's user, not for root who mounts it. Not default_permissions: the
        // adapter decides by one rule, and the kernel's would cost two requests a save.
        configure(&context, libc::FSCONFIG_SET_FLAG, Some(c"allow_other"), None)?;
        configure(&context, libc::FSCONFIG_CMD_CREATE, None, None)?;
        Ok(Self { mount: mount(&context)? })
    }

    /// Puts it on what is uppermost at this directory.
    pub fn put_on(&self, directory: BorrowedFd<'_>) -> nix::Result<()> {
        self.move_to(directory.as_raw_fd(), c"", libc::MOVE_MOUNT_T_EMPTY_PATH)
    }

    /// Puts it beneath what is mounted on this directory, so that it comes to light when that is
    /// taken away (since 6.5; older kernels say `EINVAL`).
    pub fn put_beneath(&self, mountpoint: &Path) -> nix::Result<()> {
        let path = CString::new(mountpoint.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        self.move_to(libc::AT_FDCWD, &path, libc::MOVE_MOUNT_BENEATH)
    }

    fn move_to(&self, directory: libc::c_int, path: &CStr, flags: libc::c_uint) -> nix::Result<()> {
        // SAFETY: move_mount takes two descriptors (ours is open), two strings that end with NUL
        // and live through the call, and flags.
        let moved = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.mount.as_raw_fd(),
                c"".as_ptr(),
                directory,
                path.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH | flags,
            )
        };
        Errno::result(moved).map(|_| ())
    }
}

impl AsFd for Filesystem {
    /// Its root. While it is held, the mount is in use.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

fn number(digits: &str) -> CString {
    // Digits hold no NUL.
    CString::new(digits).unwrap_or_default()
}

fn open() -> nix::Result<OwnedFd> {
    // SAFETY: fsopen takes a string that ends with NUL, and flags.
    owned(unsafe { libc::syscall(libc::SYS_fsopen, KIND.as_ptr(), libc::FSOPEN_CLOEXEC) })
}

fn configure(
    context: &OwnedFd,
    command: libc::c_uint,
    key: Option<&CStr>,
    value: Option<&CStr>,
) -> nix::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: fsconfig takes a descriptor that is open, a command, and strings that end with NUL
    // and live through the call, or null where the command takes none.
    let done = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            pointer(key),
            pointer(value),
            0,
        )
    };
    Errno::result(done).map(|_| ())
}

fn mount(context: &OwnedFd) -> nix::Result<OwnedFd> {
    let attributes = libc::MOUNT_ATTR_NOSUID
        | libc::MOUNT_ATTR_NODEV
        | libc::MOUNT_ATTR_NOEXEC
        | libc::MOUNT_ATTR_NOATIME;
    // SAFETY: fsmount takes a descriptor that is open, and flags.
    owned(unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), libc::FSMOUNT_CLOEXEC, attributes)
    })
}

/// The descriptor that a system call made, or its error.
fn owned(result: libc::c_long) -> nix::Result<OwnedFd> {
    let raw = Errno::result(result)?;
    let raw = i32::try_from(raw).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
