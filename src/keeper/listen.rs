//! The sockets on which a node tells of itself. The keeper makes them and hands them to each
//! worker, so that they outlive all of those; it never reads from them itself.

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Config;
use crate::config::listen::Listen;
use crate::config::paths::control_socket;
use crate::exit::{ExitCode, Failure};

/// For root alone: who uses a session, and from where, is nobody else's business.
const CONTROL_MODE: u32 = 0o600;
/// Whoever reaches its directory may read it, as with a port.
const METRICS_MODE: u32 = 0o666;

/// The listening sockets of one mount; each is removed with the last that holds it.
#[derive(Clone)]
pub(super) struct Listeners {
    control: Arc<Socket>,
    metrics: Option<Arc<Socket>>,
    /// Where the metrics were to be had.
    metrics_at: Option<Listen>,
}

struct Socket {
    listener: OwnedFd,
    /// To be removed at the end.
    path: Option<PathBuf>,
}

impl Listeners {
    /// Makes them. The caller holds the mountpoint's lock.
    pub(super) fn open(config: &Config) -> Result<Self, Failure> {
        let path = control_socket(&config.mountpoint);
        // Nobody else listens there while we hold the lock: what is there was left by the dead.
        let control = remove(&path)
            .and_then(|()| Socket::unix(path.clone(), CONTROL_MODE))
            .map_err(|e| Failure::internal(format!("listen on {}", path.display()), e))?;
        // Sessions do not depend on who counts them.
        let metrics = config.metrics.as_ref().and_then(|at| {
            Socket::metrics(at)
                .inspect_err(|why| tracing::warn!("metrics are not served: {why}, and reload"))
                .ok()
        });
        Ok(Self {
            control: Arc::new(control),
            metrics: metrics.map(Arc::new),
            metrics_at: config.metrics.clone(),
        })
    }

    /// Whether they could be made, while another process has them.
    pub(super) fn try_out(config: &Config) -> Result<(), Failure> {
        let path = control_socket(&config.mountpoint).with_extension("trial");
        remove(&path)
            .and_then(|()| Socket::unix(path.clone(), CONTROL_MODE))
            .map(drop)
            .map_err(|e| Failure::internal(format!("listen on {}", path.display()), e))
    }

    /// Those for a changed configuration: the same, but for metrics that are to be had elsewhere
    /// now (or could not be had before).
    pub(super) fn renewed(&self, config: &Config) -> Result<Self, Failure> {
        let mut renewed = self.clone();
        if config.metrics == self.metrics_at && config.metrics.is_some() == self.metrics.is_some() {
            return Ok(renewed);
        }
        let made = config.metrics.as_ref().map(Socket::metrics).transpose();
        renewed.metrics =
            made.map_err(|why| Failure::new(ExitCode::ReloadFailed, why))?.map(Arc::new);
        renewed.metrics_at.clone_from(&config.metrics);
        Ok(renewed)
    }

    /// With the flags that name them to a worker.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        let metrics = self.metrics.as_ref().map(|socket| ("--metrics-fd", socket.listener.as_fd()));
        [("--control-fd", self.control.listener.as_fd())].into_iter().chain(metrics)
    }
}

impl Socket {
    fn unix(path: PathBuf, mode: u32) -> io::Result<Self> {
        let listener = UnixListener::bind(&path)?;
        // Until here the umask has kept others away.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        Ok(Self { listener: listener.into(), path: Some(path) })
    }

    /// An error names the remedy.
    fn metrics(at: &Listen) -> Result<Self, String> {
        let made = match at {
            Listen::Loopback(address) => TcpListener::bind(address).map(|listener| {
                let found =
                    listener.local_addr().map_or_else(|_| at.to_string(), |a| a.to_string());
                tracing::info!(address = found, "serving metrics");
                Self { listener: listener.into(), path: None }
            }),
            Listen::Unix(path) => free(path).and_then(|()| {
                tracing::info!(address = %at, "serving metrics");
                Self::unix(path.clone(), METRICS_MODE)
            }),
        };
        made.map_err(|e| {
            let remedy = match e.kind() {
                ErrorKind::AddrInUse => "name another address",
                ErrorKind::NotFound => "create its directory, or name another",
                ErrorKind::AlreadyExists => "remove it, or name another path",
                _ => "name another address, or \"off\"",
            };
            format!("metrics.listen: cannot listen on '{at}': {e}; {remedy}")
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = remove(path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove a socket");
        }
    }
}

/// Removes a socket that nobody listens on any more, and nothing else.
fn free(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            Err(io::Error::new(ErrorKind::AlreadyExists, "the path exists and is not a socket"))
        }
        Ok(_) if UnixStream::connect(path).is_ok() => Err(ErrorKind::AddrInUse.into()),
        Ok(_) => remove(path),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_socket_left_by_the_dead_is_replaced_and_one_of_the_living_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.sock");
        let at = Listen::Unix(path.clone());
        drop(UnixListener::bind(&path).unwrap());
        let socket = Socket::metrics(&at).unwrap();
        assert_eq!(mode(&path), METRICS_MODE);
        let failure = Socket::metrics(&at).err().unwrap();
        assert!(failure.contains("name another address"), "{failure}");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        let failure = Socket::metrics(&Listen::Unix(path.clone())).err().unwrap();
        assert!(failure.contains("is not a socket; remove it"), "{failure}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let missing = Listen::Unix(dir.path().join("missing/metrics.sock"));
        let failure = Socket::metrics(&missing).err().unwrap();
        assert!(failure.contains("create its directory"), "{failure}");
    }
}
