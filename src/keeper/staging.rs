//! The directory on a tmpfs where saves under way lie: real bytes that outlive the worker, and
//! never reach a disk.

use std::fmt::Write;
use std::fs::{DirBuilder, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use sha2::{Digest, Sha256};

use crate::config;
use crate::exit::{ExitCode, Failure};

/// Where to look for a tmpfs when none is named.
const CANDIDATES: [&str; 2] = ["/run/sessionfs", "/dev/shm/sessionfs"];

/// The staging directory of one mount: below the directory named, or the first candidate that
/// lies on a tmpfs. Nothing is made yet.
pub fn place(named: Option<&Path>, mountpoint: &Path) -> Result<PathBuf, Failure> {
    let base = match named {
        Some(dir) if !dir.is_absolute() => {
            return Err(Failure::new(
                ExitCode::BadValue,
                format!("staging_dir: '{}' is not an absolute path", dir.display()),
            ));
        }
        Some(dir) if lies_on_tmpfs(dir) => dir,
        Some(dir) => return Err(not_tmpfs(&dir.display().to_string())),
        None => CANDIDATES
            .iter()
            .map(Path::new)
            .find(|dir| lies_on_tmpfs(dir))
            .ok_or_else(|| not_tmpfs(&CANDIDATES.join(" nor ")))?,
    };
    Ok(base.join(name_of(mountpoint)))
}

/// Makes the staging directory of a mount that nobody serves now, empty and the worker's own.
pub fn prepare(dir: &Path, worker: &config::Worker) -> Result<(), Failure> {
    let base = dir.parent().ok_or_else(|| unsafe_directory(dir, "has no parent"))?;
    make_own(base, 0o755)?;
    if !lies_on_tmpfs(base) {
        return Err(not_tmpfs(&base.display().to_string()));
    }
    clear(dir);
    make_own(dir, 0o700)?;
    std::os::unix::fs::chown(dir, Some(worker.uid), Some(worker.gid))
        .map_err(|e| unsafe_directory(dir, &format!("cannot be given to {}: {e}", worker.user)))
}

/// Removes a mount's staging directory. What is left in it belongs to saves that were never
/// published, and nobody can reach it any more.
pub fn clear(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), %error, "cannot clear the staging directory");
        }
        _ => {}
    }
}

/// A name for a mountpoint's things: readable, and unique by its hash.
pub fn name_of(mountpoint: &Path) -> String {
    const READABLE_MAX_CHARS: usize = 40;
    let hash = Sha256::digest(mountpoint.as_os_str().as_bytes());
    let readable: String = mountpoint
        .to_string_lossy()
        .chars()
        .filter_map(|c| match c {
            '/' => Some('-'),
            c if c.is_ascii_alphanumeric() || "-_.".contains(c) => Some(c),
            _ => None,
        })
        .collect();
    let tail = &readable[readable.len().saturating_sub(READABLE_MAX_CHARS)..];
    let mut name = tail.trim_start_matches(['-', '.']).to_owned();
    name.push('-');
    for byte in &hash[..8] {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// Makes a directory of root's own, or takes one that is already there. In a place where
/// everybody may write (`/dev/shm`) somebody else may have been faster.
pub fn make_own(dir: &Path, mode: u32) -> Result<(), Failure> {
    let new = match DirBuilder::new().mode(mode).create(dir) {
        Ok(()) => true,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => false,
        Err(e) => return Err(unsafe_directory(dir, &format!("cannot be made: {e}"))),
    };
    // From here on it is held: whoever owns the directory above may put another in its place.
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotADirectory => unsafe_directory(dir, "is not a directory"),
        _ => unsafe_directory(dir, &e.to_string()),
    };
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(dir)
        .map_err(failed)?;
    let found = opened.metadata().map_err(failed)?;
    if found.uid() != 0 || found.mode() & 0o022 != 0 {
        return Err(unsafe_directory(dir, "can be written to by others than root"));
    }
    if new {
        // The mode given at creation is subject to the umask.
        opened.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    }
    Ok(())
}

/// Whether this directory, or the one it would be made in, lies on a tmpfs.
fn lies_on_tmpfs(dir: &Path) -> bool {
    let found = match statfs(dir) {
        Err(Errno::ENOENT) => dir.parent().map_or(Err(Errno::ENOENT), statfs),
        found => found,
    };
    found.is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
}

fn not_tmpfs(what: &str) -> Failure {
    Failure::new(
        ExitCode::Staging,
        format!(
            "staging_dir: {what} is not on a tmpfs, and saves under way must not reach a disk; \
             mount a tmpfs there, or name a directory on one"
        ),
    )
}

fn unsafe_directory(dir: &Path, reason: &str) -> Failure {
    Failure::new(
        ExitCode::Staging,
        format!("directory {} {reason}; remove it or name another", dir.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mountpoints_never_share_a_name() {
        let (a, b) = (name_of(Path::new("/a-b")), name_of(Path::new("/a/b")));
        assert_ne!(a, b);
        assert!(a.starts_with("a-b-"), "{a}");
        let long = name_of(Path::new(&format!("/{}", "x".repeat(300))));
        assert!(long.len() < 64);
        assert!(name_of(Path::new("/")).len() > 8);
    }

    #[test]
    fn a_disk_is_refused_by_name() {
        let failure = place(Some(Path::new("/proc/sessionfs")), Path::new("/mnt")).unwrap_err();
        assert_eq!(failure.code, ExitCode::Staging);
        assert!(failure.to_string().contains("/proc/sessionfs is not on a tmpfs"));
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let open = dir.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        assert_eq!(make_own(&open, 0o755).unwrap_err().code, ExitCode::Staging);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        assert_eq!(make_own(&link, 0o755).unwrap_err().code, ExitCode::Staging);
    }
}
