//! The directories of the changes that Redis has not taken: the worker's own, in directories of root's,
//! so that nobody can lead root elsewhere. What is in them is left to the next worker.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use crate::config::paths::SPOOL_DIR;
use crate::config::{self, Config};
use crate::exit::Failure;
use crate::host::directory::{self, make_own, unusable};

/// Makes the directories of a mount, or takes those that are there. Without one on a disk the mount
/// serves all the same.
pub(crate) fn prepare(config: &Config) -> Result<(), Failure> {
    let Some(spool) = &config.spool else { return Ok(()) };
    prepare_one(&spool.memory_dir, &config.worker)?;
    if let Err(failure) = prepare_one(&spool.disk_dir, &config.worker) {
        tracing::warn!(
            %failure, "changes that Redis does not take would not survive a restart of this host"
        );
    }
    Ok(())
}

fn prepare_one(dir: &Path, worker: &config::Worker) -> Result<(), Failure> {
    let base = dir.parent().ok_or_else(|| unusable(dir, "has no parent"))?;
    let attempt = || make_own(base, 0o755).map(|()| std::fs::create_dir(dir));
    let outcome = match attempt()? {
        // Another mount has ended just now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => attempt()?,
        outcome => outcome,
    };
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(unusable(dir, &format!("cannot be made: {error}")));
        }
        _ => {}
    }
    give(dir, worker)
        .map_err(|error| unusable(dir, &format!("cannot be given to {}: {error}", worker.user)))
}

/// Nobody but root can put another directory there meanwhile.
fn give(dir: &Path, worker: &config::Worker) -> io::Result<()> {
    let held = directory::open(dir)?;
    if held.metadata()?.uid() != worker.uid {
        fchown(&held, Some(worker.uid), Some(worker.gid))?;
    }
    held.set_permissions(Permissions::from_mode(0o700))
}

/// Removes the directories of a mount that has ended, if nothing is kept in them.
pub(crate) fn clear(config: &Config) {
    let Some(spool) = &config.spool else { return };
    for dir in [&spool.memory_dir, &spool.disk_dir] {
        // What is kept waits for the next start.
        let _ = std::fs::remove_dir(dir);
    }
    // That of all mounts, with the last one.
    let _ = std::fs::remove_dir(SPOOL_DIR);
}
