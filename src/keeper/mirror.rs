//! The directory that sessions are exported to (the mirror), as far as its path tells. Its disk server opens it.

use std::path::Path;

use crate::config::Config;
use crate::disk::client::OPENED_WITHIN;
use crate::disk::{archive, mirror};
use crate::exit::Failure;
use crate::host::bounded;

/// Refuses a directory that cannot be a mirror because of where it is. Looks at no disk.
pub(super) fn refuse_place(dir: &Path, config: &Config) -> Result<(), Failure> {
    // What is written into the mount would come back to us.
    if dir.starts_with(&config.mountpoint) || config.mountpoint.starts_with(dir) {
        let why = "is inside the mountpoint or contains it; name another directory";
        return Err(mirror::refused(dir, why));
    }
    if dir == archive::path_beside(&config.mountpoint) {
        let why = "is the archive of imported files; name another directory";
        return Err(mirror::refused(dir, why));
    }
    Ok(())
}

/// Looks at it as a mount does, and makes nothing. On a thread of its own: its filesystem may not answer.
pub(super) fn look(dir: &Path, config: &Config) -> Result<(), Failure> {
    refuse_place(dir, config)?;
    let (path, owner) = (dir.to_owned(), (config.tree.owner_uid, config.tree.owner_gid));
    bounded::within("mirror", OPENED_WITHIN, move || mirror::look(&path, owner))
        .map_err(|e| Failure::internal("check the mirror", e))?
        .unwrap_or_else(|| Err(mirror::late(dir, OPENED_WITHIN)))
}
