//! The directory that sessions are exported to (the mirror): made, checked, and opened.

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use super::directory::Directory;
use crate::exit::{ExitCode, Failure};
use crate::host::directory;

/// Opens it. One that does not exist is made, as Odoo's user, the `owner`, would make its own.
pub(crate) fn make_or_open(dir: &Path, owner: (u32, u32)) -> Result<OwnedFd, Failure> {
    let new = match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        Err(error) => return Err(refused(dir, &format!("cannot be made: {error}"))),
    };
    let opened = directory::open(dir).map_err(|e| unusable(dir, &e))?;
    if new {
        give_away(&opened, owner).map_err(|why| refused(dir, &why))?;
    }
    check(dir, &opened, owner)?;
    Ok(opened.into())
}

/// Looks at it as [`make_or_open`] does, and makes nothing.
pub(crate) fn look(dir: &Path, owner: (u32, u32)) -> Result<(), Failure> {
    match directory::open(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        opened => check(dir, &opened.map_err(|e| unusable(dir, &e))?, owner),
    }
}

/// Gives the directory that was just made to Odoo's user.
fn give_away(opened: &File, (uid, gid): (u32, u32)) -> Result<(), String> {
    let owner = opened.metadata().map_err(|e| e.to_string())?.uid();
    if owner == uid {
        return Ok(());
    }
    // Whoever owns the directory above may have put another in its place.
    let (any, _) = Directory::look_at_top(opened.as_fd()).map_err(|e| e.to_string())?;
    if any || owner != 0 {
        return Err("was replaced while it was created; name another directory".into());
    }
    std::os::unix::fs::fchown(opened, Some(uid), Some(gid))
        .map_err(|e| format!("cannot be given to Odoo's user: {e}"))
}

/// Refuses a directory in which sessions could be stolen.
fn check(dir: &Path, opened: &File, (uid, _): (u32, u32)) -> Result<(), Failure> {
    let found = opened.metadata().map_err(|e| refused(dir, &e.to_string()))?;
    if found.mode() & 0o007 != 0 {
        return Err(refused(
            dir,
            "can be read by other users, who could take over the sessions; chmod 700",
        ));
    }
    if ![0, uid].contains(&found.uid()) {
        return Err(refused(dir, "belongs neither to Odoo's user nor to root; chown it"));
    }
    Ok(())
}

fn unusable(dir: &Path, error: &io::Error) -> Failure {
    refused(dir, &format!("{error}; name a directory that can be used"))
}

/// A directory that cannot be a mirror.
pub(crate) fn refused(dir: &Path, why: &str) -> Failure {
    Failure::new(ExitCode::MirrorRefused, format!("mirror {}: {why}", dir.display()))
}

/// One whose filesystem does not answer.
pub(crate) fn late(dir: &Path, within: Duration) -> Failure {
    let within = within.as_secs();
    refused(dir, &format!("no answer within {within} s; name another directory"))
}
