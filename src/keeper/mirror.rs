//! The directory that sessions are exported to (the mirror): made, checked, and opened.

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use crate::config::Config;
use crate::disk::archive;
use crate::disk::directory::Directory;
use crate::exit::{ExitCode, Failure};
use crate::host::directory;

/// How long its filesystem is waited for. It may be a network filesystem.
const OPENED_WITHIN: Duration = Duration::from_secs(5);

/// Opens it. One that does not exist is made, as Odoo would make its own.
pub(super) fn open(dir: &Path, config: &Config) -> Result<OwnedFd, Failure> {
    within_bound(dir, config, make_or_open)
}

/// Looks at it as a mount does, and makes nothing.
pub(super) fn look(dir: &Path, config: &Config) -> Result<(), Failure> {
    within_bound(dir, config, |dir, config| {
        refuse_place(dir, config)?;
        match directory::open(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            opened => check(dir, &opened.map_err(|e| unusable(dir, &e))?, config),
        }
    })
}

/// Works on a thread of its own: a filesystem that does not answer would hold the keeper.
fn within_bound<T: Send + 'static>(
    dir: &Path,
    config: &Config,
    work: impl FnOnce(&Path, &Config) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let (path, config) = (dir.to_owned(), config.clone());
    std::thread::Builder::new()
        .name("mirror".into())
        // Nobody may be waiting any more.
        .spawn(move || sender.send(work(&path, &config)))
        .map_err(|e| Failure::internal("check the mirror", e))?;
    receiver.recv_timeout(OPENED_WITHIN).unwrap_or_else(|_| {
        let within = OPENED_WITHIN.as_secs();
        Err(refused(dir, &format!("no answer within {within} s; name another directory")))
    })
}

fn make_or_open(dir: &Path, config: &Config) -> Result<OwnedFd, Failure> {
    refuse_place(dir, config)?;
    let new = match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        Err(error) => return Err(refused(dir, &format!("cannot be made: {error}"))),
    };
    let opened = directory::open(dir).map_err(|e| unusable(dir, &e))?;
    if new {
        give_away(&opened, config).map_err(|why| refused(dir, &why))?;
    }
    check(dir, &opened, config)?;
    Ok(opened.into())
}

/// Gives the directory that was just made to Odoo's user.
fn give_away(opened: &File, config: &Config) -> Result<(), String> {
    let (uid, gid) = (config.tree.owner_uid, config.tree.owner_gid);
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

/// Refuses a directory that cannot be a mirror because of where it is.
fn refuse_place(dir: &Path, config: &Config) -> Result<(), Failure> {
    // What is written into the mount would come back to us.
    if dir.starts_with(&config.mountpoint) || config.mountpoint.starts_with(dir) {
        let why = "is inside the mountpoint or contains it; name another directory";
        return Err(refused(dir, why));
    }
    if dir == archive::path_beside(&config.mountpoint) {
        return Err(refused(dir, "is the archive of imported files; name another directory"));
    }
    Ok(())
}

/// Refuses a directory in which sessions could be stolen.
fn check(dir: &Path, opened: &File, config: &Config) -> Result<(), Failure> {
    let found = opened.metadata().map_err(|e| refused(dir, &e.to_string()))?;
    if found.mode() & 0o007 != 0 {
        return Err(refused(
            dir,
            "can be read by other users, who could take over the sessions; chmod 700",
        ));
    }
    if ![0, config.tree.owner_uid].contains(&found.uid()) {
        return Err(refused(dir, "belongs neither to Odoo's user nor to root; chown it"));
    }
    Ok(())
}

fn unusable(dir: &Path, error: &io::Error) -> Failure {
    refused(dir, &format!("{error}; name a directory that can be used"))
}

fn refused(dir: &Path, why: &str) -> Failure {
    Failure::new(ExitCode::MirrorRefused, format!("mirror {}: {why}", dir.display()))
}
