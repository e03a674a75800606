//! The directory on a tmpfs where saves under way lie: real bytes that outlive the worker, and
//! never reach a disk.

use std::path::Path;

use crate::config::{self, paths};
use crate::exit::Failure;
use crate::host::directory::{is_on_tmpfs, make_own, unusable};

/// Makes the staging directory of a mount that nobody serves now, empty and the worker's own.
pub(crate) fn prepare(dir: &Path, worker: &config::Worker) -> Result<(), Failure> {
    let base = dir.parent().ok_or_else(|| unusable(dir, "has no parent"))?;
    make_own(base, 0o755)?;
    if !is_on_tmpfs(base) {
        return Err(paths::not_on_tmpfs(&base.display().to_string()));
    }
    remove(dir);
    make_own(dir, 0o700)?;
    std::os::unix::fs::chown(dir, Some(worker.uid), Some(worker.gid))
        .map_err(|e| unusable(dir, &format!("cannot be given to {}: {e}", worker.user)))
}

/// Removes a mount's staging directory. What is left in it belongs to saves that were never
/// published, and nobody can reach it any more.
pub(crate) fn clear(dir: &Path) {
    remove(dir);
    if let Some(base) = dir.parent().filter(|base| paths::is_of_one_keeper(base)) {
        // It is not there before the first start.
        let _ = std::fs::remove_dir(base);
    }
}

fn remove(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), %error, "cannot clear the staging directory");
        }
        _ => {}
    }
}
