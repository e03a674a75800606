//! Where the things of a mount are, as far as no key of the configuration says it.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::exit::{ExitCode, Failure};
use crate::host::directory::is_on_tmpfs;

/// Where the lock, the control socket and the record of reloads of each mount are.
pub const RUNTIME_DIR: &str = "/run/sessionfs";

/// What must outlive a restart of the host, unless the configuration names other directories.
pub const STATE_DIR: &str = "/var/lib/sessionfs";

/// What waits to be sent to Redis, and must outlive a restart of the host. Root's own: the worker's
/// user owns the state directory of a private Redis, and could put something else there.
pub const SPOOL_DIR: &str = "/var/spool/sessionfs";

/// Where to look for a tmpfs when none is named.
const CANDIDATES: [&str; 2] = [RUNTIME_DIR, SHARED_MEMORY_DIR];
const SHARED_MEMORY_DIR: &str = "/dev/shm/sessionfs";

/// The lock of a mountpoint, which its keeper holds.
pub fn lock_file(mountpoint: &Path) -> PathBuf {
    of_mount(mountpoint, "lock")
}

/// The control socket of a mount.
pub fn control_socket(mountpoint: &Path) -> PathBuf {
    of_mount(mountpoint, "sock")
}

/// The socket that Odoo's user may use, unless the configuration names another. Odoo finds it by its session directory
/// (docs/odoo-socket.md), so what a mount's things are called is a part of what is promised.
pub fn odoo_socket(mountpoint: &Path) -> PathBuf {
    of_mount(mountpoint, "odoo.sock")
}

/// The record of a mount's reloads.
pub fn reload_record(mountpoint: &Path) -> PathBuf {
    of_mount(mountpoint, "reload")
}

fn of_mount(mountpoint: &Path, kind: &str) -> PathBuf {
    Path::new(RUNTIME_DIR).join(format!("{}.{kind}", name_of(mountpoint)))
}

/// The staging directory of one mount: below the directory named, or the first candidate that
/// lies on a tmpfs. Nothing is made yet.
pub fn staging_dir(named: Option<&Path>, mountpoint: &Path) -> Result<PathBuf, Failure> {
    let base = match named {
        Some(dir) if !dir.is_absolute() => {
            return Err(Failure::new(
                ExitCode::BadValue,
                format!("staging_dir: '{}' is not an absolute path", dir.display()),
            ));
        }
        Some(dir) if is_on_tmpfs(dir) => dir,
        Some(dir) => return Err(not_on_tmpfs(&dir.display().to_string())),
        None => CANDIDATES
            .iter()
            .map(Path::new)
            .find(|dir| is_on_tmpfs(dir))
            .ok_or_else(|| not_on_tmpfs(&CANDIDATES.join(" nor ")))?,
    };
    let base = if base == Path::new(SHARED_MEMORY_DIR) { shared_memory_dir() } else { base };
    Ok(base.join(name_of(mountpoint)))
}

/// Where the changes of one mount are kept that Redis has not taken: on the tmpfs of its staging
/// directory, and on a disk. Nothing is made yet.
pub fn spool_dirs(staging_dir: &Path, mountpoint: &Path) -> [PathBuf; 2] {
    let mut memory = staging_dir.as_os_str().to_owned();
    memory.push(".spool");
    [memory.into(), Path::new(SPOOL_DIR).join(name_of(mountpoint))]
}

/// The directory in /dev/shm, where every user may make one first. It is chosen once, so that a reload
/// finds what the start has found.
fn shared_memory_dir() -> &'static Path {
    CHOSEN.get_or_init(|| own_or_other(Path::new(SHARED_MEMORY_DIR)))
}

static CHOSEN: OnceLock<PathBuf> = OnceLock::new();

/// Goes on with the staging directory that the keeper before has used, if it is one that cannot be found again.
pub(crate) fn go_on_with(staging_dir: &Path) {
    let shared = Path::new(SHARED_MEMORY_DIR);
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    if let Some(base) = staging_dir.parent()
        && base.parent() == shared.parent()
        && let (Some(found), Some(begins)) = (name(base), name(shared))
        && found.strip_prefix(&begins).is_some_and(|rest| rest.starts_with('-'))
    {
        // Nobody has chosen one yet.
        let _ = CHOSEN.set(base.to_owned());
    }
}

/// This directory, if it is root's own or there is none; else one beside it that nobody can guess.
fn own_or_other(dir: &Path) -> PathBuf {
    match dir.symlink_metadata() {
        Ok(found) if found.is_dir() && found.uid() == 0 && found.mode() & 0o022 == 0 => dir.into(),
        Ok(_) => {
            let mut other = dir.as_os_str().to_owned();
            other.push(format!("-{:016x}", rand::random::<u64>()));
            other.into()
        }
        Err(_) => dir.into(),
    }
}

/// Whether it is a directory of [`staging_dir`] that the next keeper will not find again.
pub(crate) fn is_of_one_keeper(base: &Path) -> bool {
    let chosen = Path::new(SHARED_MEMORY_DIR);
    base != chosen && base.parent() == chosen.parent() && base == shared_memory_dir()
}

/// A name for a mountpoint's things: readable, and unique by its hash.
fn name_of(mountpoint: &Path) -> String {
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

/// The failure of a staging directory that is not on a tmpfs.
pub fn not_on_tmpfs(what: &str) -> Failure {
    Failure::new(
        ExitCode::Staging,
        format!(
            "staging_dir: {what} is not on a tmpfs, but saves in progress must not reach a disk; \
             mount a tmpfs there, or name a directory on one"
        ),
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

    // As root, like every test that mounts.
    #[test]
    fn whoever_makes_the_directory_first_does_not_keep_root_from_having_one() {
        use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
        let dir = tempfile::tempdir().unwrap();
        let wanted = dir.path().join("sessionfs");
        assert_eq!(own_or_other(&wanted), wanted);
        let is_other = || {
            let other = own_or_other(&wanted);
            let name = other.file_name().unwrap().to_str().unwrap();
            assert_ne!(own_or_other(&wanted), other, "it is guessed");
            other.parent() == wanted.parent() && name.starts_with("sessionfs-")
        };
        std::fs::create_dir(&wanted).unwrap();
        assert_eq!(own_or_other(&wanted), wanted);
        std::fs::set_permissions(&wanted, std::fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(is_other());
        std::fs::set_permissions(&wanted, std::fs::Permissions::from_mode(0o755)).unwrap();
        lchown(&wanted, Some(1234), Some(1234)).unwrap();
        assert!(is_other());
        std::fs::remove_dir(&wanted).unwrap();
        symlink("/run", &wanted).unwrap();
        assert!(is_other());
        std::fs::remove_file(&wanted).unwrap();
        std::fs::write(&wanted, "").unwrap();
        assert!(is_other());
    }

    #[test]
    fn a_disk_is_refused_by_name() {
        let failure =
            staging_dir(Some(Path::new("/proc/sessionfs")), Path::new("/mnt")).unwrap_err();
        assert_eq!(failure.code, ExitCode::Staging);
        assert!(failure.to_string().contains("/proc/sessionfs is not on a tmpfs"));
    }
}
