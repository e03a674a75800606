//! The private Redis, as it is configured: its program, its directory and its socket.

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::exit::{ExitCode, Failure};

/// The programs that serve, in order of preference.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];
/// Looked at after `PATH`, which in a unit file or a root shell may lack them.
const DIRECTORIES: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin"];

/// The program to start: the one named, or the first found.
pub(crate) fn program(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let executable = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    let refuse = |what: String| {
        Failure::new(
            ExitCode::NoRedisServer,
            format!(
                "{what}; install redis-server or valkey-server, name it with \
                 private_redis.server, or name a Redis with --redis"
            ),
        )
    };
    if let Some(named) = named {
        return if named.is_absolute() && executable(named) {
            Ok(named.to_owned())
        } else {
            Err(refuse(format!(
                "private_redis.server: '{}' is not the absolute path of an executable program",
                named.display()
            )))
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .chain(DIRECTORIES.map(PathBuf::from))
        .collect();
    PROGRAMS
        .iter()
        .flat_map(|program| directories.iter().map(move |directory| directory.join(program)))
        .find(|path| executable(path))
        .ok_or_else(|| refuse("no Redis is configured, and there is no redis-server".into()))
}

/// Where the private Redis of that directory listens.
pub(crate) fn socket_path(dir: &Path) -> PathBuf {
    dir.join("redis.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_program_is_refused() {
        for named in ["/etc/passwd", "/nonexistent", "redis-server"] {
            let failure = program(Some(Path::new(named))).unwrap_err();
            assert_eq!(failure.code, ExitCode::NoRedisServer, "{named}");
        }
    }
}
