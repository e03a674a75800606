//! The directory that sessions are written back to: made, looked at, and held.

use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::config::Config;
use crate::disk::aside;
use crate::exit::{ExitCode, Failure};

/// Opens it; one that is not there is made, as Odoo would make its own.
pub fn open(dir: &Path, config: &Config) -> Result<OwnedFd, Failure> {
    let refuse = |why: &str| {
        Failure::new(ExitCode::MirrorRefused, format!("mirror {}: {why}", dir.display()))
    };
    // What is written into the mount would come back to us.
    if dir.starts_with(&config.mountpoint) || config.mountpoint.starts_with(dir) {
        return Err(refuse("stands in the mountpoint or around it; name another directory"));
    }
    if dir == aside::path_beside(&config.mountpoint) {
        return Err(refuse("is where imported files go; name another directory"));
    }
    let new = match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        Err(error) => return Err(refuse(&format!("cannot be made: {error}"))),
    };
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(dir)
        .map_err(|e| refuse(&format!("{e}; name a directory that can be used")))?;
    let (uid, gid) = (config.tree.owner_uid, config.tree.owner_gid);
    if new {
        std::os::unix::fs::fchown(&opened, Some(uid), Some(gid))
            .map_err(|e| refuse(&format!("cannot be given to Odoo's user: {e}")))?;
    }
    let found = opened.metadata().map_err(|e| refuse(&e.to_string()))?;
    if found.mode() & 0o007 != 0 {
        return Err(refuse(
            "can be read by everybody, and sessions in it could be stolen; chmod 700",
        ));
    }
    if ![0, uid].contains(&found.uid()) {
        return Err(refuse("is neither Odoo's nor root's; chown it"));
    }
    Ok(opened.into())
}
