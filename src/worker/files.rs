//! The files that a worker may open, whatever its user may.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use crate::config::Config;
use crate::host::confine::{Files, Right};
use crate::redis::endpoint::{Endpoint, Needs};

/// Certificates that the system trusts, on each distribution.
const CERTIFICATES: [&str; 8] = [
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/lib/ssl",
    "/usr/share/ca-certificates",
    "/usr/share/pki",
    "/usr/local/share/ca-certificates",
    "/var/lib/ca-certificates",
];
/// What names another file of certificates (rustls-native-certs).
const CERTIFICATE_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Of whoever serves a mount: saves under way, changes that Redis has not taken, and the processes of the host, also in
/// `processes`, the directory that the keeper has opened.
pub(super) fn of_worker(config: &Config, processes: Option<BorrowedFd<'_>>) -> io::Result<Files> {
    let mut files =
        of_redis(config).path(&config.staging_dir, Right::Own).path("/proc", Right::Read);
    if let Some(spool) = &config.spool {
        files = files.paths([&spool.memory_dir, &spool.disk_dir], Right::Own);
    }
    match processes {
        Some(processes) => files.descriptor(processes, Right::Read),
        None => Ok(files),
    }
}

/// Of whoever connects to Redis. With a socket or a number as its address that is none.
pub(crate) fn of_redis(config: &Config) -> Files {
    let needs = Endpoint::parse(&config.redis.url).map_or(Needs::default(), |at| at.needs());
    let mut files = Files::default();
    if needs.names {
        files = files.with_names();
    }
    if needs.certificates {
        let named = CERTIFICATE_VARIABLES.into_iter().filter_map(std::env::var_os);
        files = files.paths(CERTIFICATES, Right::Read).paths(named.map(PathBuf::from), Right::Read);
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File, OpenOptions};
    use std::os::fd::AsFd;
    use std::path::Path;

    use crate::config::flags::{Flags, Place};
    use crate::host::confine::Prepared;
    use crate::host::procfs;

    fn config(redis: &str, staging: &Path) -> Config {
        let file = tempfile::NamedTempFile::new().unwrap();
        let place = Place { config: Some(file.path().to_owned()), redis: Some(redis.to_owned()) };
        let flags = Flags { place, ..Flags::default() };
        let mut config = Config::resolve(Path::new("/mnt"), &flags).unwrap();
        staging.clone_into(&mut config.staging_dir);
        config
    }

    /// Runs it as the worker is confined, with its rights of before.
    fn confined<T: Send>(files: &Files, act: impl FnOnce() -> T + Send) -> T {
        let prepared = Prepared::new(files).unwrap();
        std::thread::scope(|scope| {
            let confined = scope.spawn(|| {
                nix::sys::prctl::set_no_new_privs().unwrap();
                prepared.enter().unwrap();
                act()
            });
            confined.join().unwrap()
        })
    }

    fn can_read(path: &str) -> bool {
        File::open(path).is_ok()
    }

    #[test]
    fn a_worker_reaches_its_staging_directory_and_processes_and_nothing_else() {
        let staging = tempfile::tempdir().unwrap();
        let config = config("unix:/run/redis.sock", staging.path());
        let processes = procfs::open(true).unwrap();
        let mut redis = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let memory = format!("/proc/{}/mem", redis.id());
        let files = of_worker(&config, Some(processes.as_fd())).unwrap();
        confined(&files, || {
            fs::write(staging.path().join("tmp"), "x").unwrap();
            fs::rename(staging.path().join("tmp"), staging.path().join("other")).unwrap();
            assert!(can_read("/proc/1/stat"));
            let flags = nix::fcntl::OFlag::O_RDONLY;
            for path in ["1/stat", "1/cmdline", "1/status"] {
                nix::fcntl::openat(&processes, path, flags, nix::sys::stat::Mode::empty()).unwrap();
            }
            assert!(!can_read(&memory));
            assert!(OpenOptions::new().write(true).open(&memory).is_err());
            for path in ["/etc/passwd", "/etc/shadow", "/root", "/tmp", "/dev/fuse", "/usr/bin/env"]
            {
                assert!(!can_read(path), "{path}");
            }
            assert!(fs::write("/tmp/sessionfs-outside", "x").is_err());
        });
        redis.kill().unwrap();
        redis.wait().unwrap();
    }

    #[test]
    fn a_name_is_found_and_certificates_are_read_only_where_redis_has_them() {
        use std::net::ToSocketAddrs as _;
        let staging = tempfile::tempdir().unwrap();
        let reads = |redis: &str| {
            confined(&of_redis(&config(redis, staging.path())), || {
                let certificates = fs::read_dir("/etc/ssl/certs").is_ok();
                (certificates, can_read("/etc/hosts"), can_read("/usr/bin/env"))
            })
        };
        assert_eq!(reads("unix:/run/redis.sock"), (false, false, false));
        assert_eq!(reads("redis://127.0.0.1"), (false, false, false));
        assert_eq!(reads("rediss://127.0.0.1"), (true, false, false));
        assert_eq!(reads("redis://localhost"), (true, true, false));
        confined(&of_redis(&config("redis://localhost", staging.path())), || {
            ("localhost", 6379).to_socket_addrs().unwrap();
        });
    }
}
