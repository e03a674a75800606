//! The directory that sessions are written back to: made, looked at, and held.

use std::fs::DirBuilder;
use std::io::ErrorKind;
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

/// How long its filesystem is waited for, which may be that of another host.
const OPENED_WITHIN: Duration = Duration::from_secs(5);

/// Opens it, by a thread of its own: a filesystem that does not answer would hold the keeper.
pub fn open(dir: &Path, config: &Config) -> Result<OwnedFd, Failure> {
    let (told, opened) = mpsc::sync_channel(1);
    let (asked, config) = (dir.to_owned(), config.clone());
    std::thread::Builder::new()
        .name("mirror".into())
        // Nobody may be waiting any more.
        .spawn(move || told.send(make_or_open(&asked, &config)))
        .map_err(|e| Failure::internal("look at the mirror", e))?;
    opened.recv_timeout(OPENED_WITHIN).unwrap_or_else(|_| {
        let (shown, within) = (dir.display(), OPENED_WITHIN.as_secs());
        Err(Failure::new(
            ExitCode::MirrorRefused,
            format!("mirror {shown}: no answer within {within} s; name a directory that answers"),
        ))
    })
}

/// Opens it; one that is not there is made, as Odoo would make its own.
fn make_or_open(dir: &Path, config: &Config) -> Result<OwnedFd, Failure> {
    let refuse = |why: &str| {
        Failure::new(ExitCode::MirrorRefused, format!("mirror {}: {why}", dir.display()))
    };
    // What is written into the mount would come back to us.
    if dir.starts_with(&config.mountpoint) || config.mountpoint.starts_with(dir) {
        return Err(refuse("stands in the mountpoint or around it; name another directory"));
    }
    if dir == archive::path_beside(&config.mountpoint) {
        return Err(refuse("is where imported files go; name another directory"));
    }
    let new = match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        Err(error) => return Err(refuse(&format!("cannot be made: {error}"))),
    };
    let opened = directory::open(dir)
        .map_err(|e| refuse(&format!("{e}; name a directory that can be used")))?;
    let (uid, gid) = (config.tree.owner_uid, config.tree.owner_gid);
    let owner = opened.metadata().map_err(|e| refuse(&e.to_string()))?.uid();
    if new && owner != uid {
        // Whoever owns the directory above may have put another in its place.
        let (any, _) =
            Directory::look_at_top(opened.as_fd()).map_err(|e| refuse(&e.to_string()))?;
        if any || owner != 0 {
            return Err(refuse("was replaced while it was made; name another directory"));
        }
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
