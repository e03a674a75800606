//! The sockets on which a node tells of itself. The keeper makes them and hands them to each
//! worker, so that they outlive all of those; it never reads from them itself.

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt as _, PermissionsExt, lchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Config;
use crate::config::listen::Listen;
use crate::config::paths::control_socket;
use crate::exit::{ExitCode, Failure};

/// For root alone: who uses a session, and from where, is nobody else's business.
const CONTROL_MODE: u32 = 0o600;
/// For Odoo's user, who owns it.
const ODOO_MODE: u32 = 0o600;
/// Whoever reaches its directory may read it, as with a port.
const METRICS_MODE: u32 = 0o666;

/// The listening sockets of one mount; each is removed with the last that holds it.
#[derive(Clone)]
pub(super) struct Listeners {
    control: Arc<Socket>,
    metrics: Option<Arc<Socket>>,
    /// Where the metrics were to be had.
    metrics_at: Option<Listen>,
    odoo: Option<Arc<Socket>>,
    /// Where Odoo was to be answered, and whose that is.
    odoo_at: Option<(PathBuf, u32)>,
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
        let odoo_at = odoo_at(config);
        let odoo = odoo_at.as_ref().and_then(|(path, owner)| {
            Socket::odoo(path, *owner)
                .inspect_err(|why| tracing::warn!("Odoo cannot end sessions: {why}, and reload"))
                .ok()
        });
        Ok(Self {
            control: Arc::new(control),
            metrics: metrics.map(Arc::new),
            metrics_at: config.metrics.clone(),
            odoo: odoo.map(Arc::new),
            odoo_at,
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

    /// Those for a changed configuration: the same, but for what is to be had elsewhere now (or could not be had
    /// before).
    pub(super) fn renewed(&self, config: &Config) -> Result<Self, Failure> {
        let mut renewed = self.clone();
        let failed = |why| Failure::new(ExitCode::ReloadFailed, why);
        if config.metrics != self.metrics_at || config.metrics.is_some() != self.metrics.is_some() {
            let made = config.metrics.as_ref().map(Socket::metrics).transpose();
            renewed.metrics = made.map_err(failed)?.map(Arc::new);
            renewed.metrics_at.clone_from(&config.metrics);
        }
        let odoo_at = odoo_at(config);
        if odoo_at != self.odoo_at || odoo_at.is_some() != self.odoo.is_some() {
            let made = odoo_at.as_ref().map(|(path, owner)| Socket::odoo(path, *owner)).transpose();
            renewed.odoo = made.map_err(failed)?.map(Arc::new);
            renewed.odoo_at = odoo_at;
        }
        Ok(renewed)
    }

    /// With the flags that name them to a worker.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        let metrics = self.metrics.as_ref().map(|socket| ("--metrics-fd", socket.listener.as_fd()));
        let odoo = self.odoo.as_ref().map(|socket| ("odoo", socket.listener.as_fd()));
        [("--control-fd", self.control.listener.as_fd())].into_iter().chain(metrics).chain(odoo)
    }
}

fn odoo_at(config: &Config) -> Option<(PathBuf, u32)> {
    config.odoo.socket.clone().map(|path| (path, config.tree.owner_uid))
}

impl Socket {
    fn unix(path: PathBuf, mode: u32) -> io::Result<Self> {
        let listener = UnixListener::bind(&path)?;
        // Until here the umask has kept others away.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        Ok(Self { listener: listener.into(), path: Some(path) })
    }

    /// The owner of the tree gets it. An error names the remedy.
    fn odoo(path: &Path, owner_uid: u32) -> Result<Self, String> {
        let made = roots_own(path).and_then(|path| {
            free(&path)?;
            let socket = Self::unix(path.clone(), ODOO_MODE)?;
            lchown(&path, Some(owner_uid), None)?;
            Ok(socket)
        });
        made.map_err(|e| {
            let remedy = remedy(e.kind(), "name another path");
            format!("odoo.socket: cannot listen on '{}': {e}; {remedy}", path.display())
        })
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
            let remedy = remedy(e.kind(), "name another address");
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

/// The path without symbolic links, which is the one to use: whoever can change a directory of it, or a link in it, could
/// have root give away another file than the socket.
fn roots_own(path: &Path) -> io::Result<PathBuf> {
    const OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let directory = path.parent().unwrap_or(path).canonicalize()?;
    for (depth, ancestor) in directory.ancestors().enumerate() {
        let found = ancestor.metadata()?;
        // Nobody else can replace a directory of root's within a sticky one.
        let is_sticky = depth > 0 && found.mode() & STICKY != 0;
        if found.uid() != 0 || (found.mode() & OTHERS_WRITE != 0 && !is_sticky) {
            let why = format!("others than root can change {}", ancestor.display());
            return Err(io::Error::new(ErrorKind::PermissionDenied, why));
        }
    }
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    Ok(directory.join(name))
}

fn remedy(kind: ErrorKind, another: &str) -> String {
    match kind {
        ErrorKind::AddrInUse => another.to_owned(),
        ErrorKind::NotFound => "create its directory, or name another".to_owned(),
        ErrorKind::AlreadyExists => "remove it, or name another path".to_owned(),
        _ => format!("{another}, or \"off\""),
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
    use std::time::{Duration, Instant};

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// Leaves a socket that nobody listens on. A process that another test starts at this moment has the descriptor
    /// until it executes its program.
    fn leave_socket(path: &Path) {
        drop(UnixListener::bind(path).unwrap());
        let deadline = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(path).is_ok() {
            assert!(Instant::now() < deadline, "somebody listens on {}", path.display());
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_socket_left_by_the_dead_is_replaced_and_one_of_the_living_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.sock");
        let at = Listen::Unix(path.clone());
        leave_socket(&path);
        let socket = Socket::metrics(&at).unwrap();
        assert_eq!(mode(&path), METRICS_MODE);
        let failure = Socket::metrics(&at).err().unwrap();
        assert!(failure.contains("name another address"), "{failure}");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn the_socket_of_odoo_is_where_its_directory_is_and_not_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        std::fs::create_dir(&real).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let socket = Socket::odoo(&link.join("odoo.sock"), 1234).unwrap();
        assert_eq!(socket.path.as_deref(), Some(real.join("odoo.sock").as_path()));
    }

    #[test]
    fn the_socket_of_odoo_is_for_its_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("odoo.sock");
        leave_socket(&path);
        let socket = Socket::odoo(&path, 1234).unwrap();
        assert_eq!((mode(&path), path.metadata().unwrap().uid()), (ODOO_MODE, 1234));
        let failure = Socket::odoo(&path, 1234).err().unwrap();
        assert!(failure.contains("; name another path"), "{failure}");
        drop(socket);
        assert!(!path.exists());
        lchown(dir.path(), Some(1234), None).unwrap();
        let failure = Socket::odoo(&path, 1234).err().unwrap();
        assert!(failure.contains("others than root can change"), "{failure}");
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
