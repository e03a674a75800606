//! The files that a worker may open, whatever its user may.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use crate::config::Config;
use crate::config::paths::spool_dir;
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

/// What the C library opens to find the address of a name. The files in /etc are replaced by whoever
/// changes them, and a rule for a file would not outlive that; so it is the directory. The modules that
/// it loads are libraries.
const RESOLVER: [&str; 9] = [
    "/etc",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/nscd",
];

/// Of whoever serves a mount: saves under way, the spool, and the processes of the host, also in
/// `processes`, the directory that the keeper has opened.
pub(super) fn of_worker(config: &Config, processes: Option<BorrowedFd<'_>>) -> io::Result<Files> {
    let files = of_redis(config)
        .path(&config.staging_dir, Right::Own)
        .path(spool_dir(&config.mountpoint), Right::Own)
        .path("/proc", Right::Read);
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
        files = files.paths(RESOLVER, Right::Read);
    }
    if needs.certificates {
        let named = CERTIFICATE_VARIABLES.into_iter().filter_map(std::env::var_os);
        files = files.paths(CERTIFICATES, Right::Read).paths(named.map(PathBuf::from), Right::Read);
    }
    files
}
