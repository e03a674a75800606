//! The data directory of a private Redis: the worker's own, and used by one mount.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use crate::config::{self, Config};
use crate::exit::{ExitCode, Failure};
use crate::host::{directory, lock};

/// Refuses a path that the kernel does not take as the name of a socket.
pub(super) fn check_socket_length(socket: &Path) -> Result<(), Failure> {
    const LENGTH_MAX_BYTES: usize = 107;
    let length = socket.as_os_str().len();
    if length <= LENGTH_MAX_BYTES {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::BadValue,
        format!(
            "private_redis.dir: the socket's path {} has {length} bytes, and {LENGTH_MAX_BYTES} \
             are allowed; name a directory with a shorter path",
            socket.display()
        ),
    ))
}

/// Makes the directory, or takes one that belongs to root or to the worker's user. From then on it
/// belongs to the worker's user, and nobody else can enter it.
pub(super) fn prepare(dir: &Path, worker: &config::Worker) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => {
            return Err(unusable(dir, &format!("cannot be made: {e}")));
        }
        _ => {}
    }
    match take(dir, worker) {
        Ok(None) => Ok(()),
        Ok(Some(owner)) => Err(Failure::new(
            ExitCode::WorkerRights,
            format!(
                "private_redis.dir: {0} belongs to uid {owner}, and the private Redis runs as {1}; \
                 chown -R {1} {0}, or name another directory",
                dir.display(),
                worker.user
            ),
        )),
        Err(e) => Err(unusable(dir, &e.to_string())),
    }
}

/// Gives the uid of somebody else to whom the directory belongs; then it is left as it is.
fn take(dir: &Path, worker: &config::Worker) -> io::Result<Option<u32>> {
    let held = directory::open(dir)?;
    let owner = held.metadata()?.uid();
    if owner != 0 && owner != worker.uid {
        return Ok(Some(owner));
    }
    if owner == 0 {
        fchown(&held, Some(worker.uid), Some(worker.gid))?;
    }
    held.set_permissions(Permissions::from_mode(0o700))?;
    Ok(None)
}

/// Takes the directory for one mount, for as long as the file is open. Fails if another mount has it.
pub(super) fn lock(dir: &Path, config: &Config) -> Result<File, Failure> {
    let failed = |e: io::Error| unusable(dir, &format!("mount.lock: {e}"));
    let file = lock::open(&dir.join("mount.lock")).map_err(failed)?;
    if !lock::try_lock(&file).map_err(failed)? {
        return Err(Failure::new(
            ExitCode::PrivateRedis,
            format!(
                "private_redis.dir: {} is used by the mount on {}; name another directory, or use \
                 the Redis of that mount: --redis {}",
                dir.display(),
                holder(&file),
                config.redis.url
            ),
        ));
    }
    file.set_len(0)
        .and_then(|()| file.write_all_at(config.mountpoint.as_os_str().as_encoded_bytes(), 0))
        .map_err(failed)?;
    Ok(file)
}

/// The mountpoint that the holder of the lock has written into it, for a message. The worker's user
/// could have written something else.
fn holder(file: &File) -> String {
    const LENGTH_MAX_BYTES: usize = 4096;
    let mut text = [0; LENGTH_MAX_BYTES];
    let length = file.read_at(&mut text, 0).unwrap_or(0);
    String::from_utf8_lossy(&text[..length]).escape_debug().to_string()
}

fn unusable(dir: &Path, reason: &str) -> Failure {
    Failure::new(
        ExitCode::PrivateRedis,
        format!("private_redis.dir: {} {reason}; make it usable or name another", dir.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_too_long_for_a_socket_is_refused() {
        check_socket_length(Path::new("/var/lib/sessionfs/redis.sock")).unwrap();
        let long = format!("/{}/redis.sock", "x".repeat(100));
        let failure = check_socket_length(Path::new(&long)).unwrap_err();
        assert_eq!(failure.code, ExitCode::BadValue);
        assert!(failure.to_string().contains("shorter path"));
    }
}
