//! The file, or the socket, of the audit trail: opened by root, and handed to each worker, which may not open it. A reload
//! opens it again, so that a file that was renamed (by logrotate) is left to itself.

use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::Arc;

use crate::config::Config;
use crate::config::audit::{Audit, Place};
use crate::exit::{ExitCode, Failure};

/// Logins are in it: for root, and for whom its group is changed to.
const MODE: u32 = 0o640;
/// Bits of a mode: the group or all may write, all may, and only who owns a file may remove it.
const WRITE_OF_OTHERS: u32 = 0o022;
const WRITE_OF_ALL: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Clones share what is open.
#[derive(Clone, Default)]
pub(super) struct Trail(Option<Arc<OwnedFd>>);

impl Trail {
    /// Sessions do not depend on who reads about them: without it the entries wait in Redis.
    pub(super) fn open(config: &Config) -> Self {
        let opened = config.audit.as_ref().and_then(|audit| {
            open(audit)
                .inspect_err(|why| {
                    tracing::error!("the audit trail is not written: {why}, and reload");
                })
                .ok()
        });
        Self(opened.map(Arc::new))
    }

    /// That of a changed configuration.
    pub(super) fn renewed(config: &Config) -> Result<Self, Failure> {
        let opened = config.audit.as_ref().map(open).transpose();
        let opened = opened.map_err(|why| Failure::new(ExitCode::ReloadFailed, why))?;
        Ok(Self(opened.map(Arc::new)))
    }

    /// With the name by which a worker is offered it.
    pub(super) fn descriptor(&self) -> Option<(&'static str, BorrowedFd<'_>)> {
        self.0.as_ref().map(|opened| ("trail", opened.as_fd()))
    }
}

/// An error names the remedy.
fn open(audit: &Audit) -> Result<OwnedFd, String> {
    let opened = match &audit.place {
        Place::File(path) => open_file(path),
        Place::Unix(path) => connect(path),
    };
    opened.map_err(|e| {
        let remedy = match (e.kind(), &audit.place) {
            (io::ErrorKind::NotFound, Place::File(_)) => "create its directory",
            (io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused, Place::Unix(_)) => {
                "start what listens there"
            }
            (io::ErrorKind::InvalidData, _) => {
                "use a file of root with mode 0640 in a directory of root"
            }
            _ => "name another path",
        };
        format!("audit.trail: cannot open '{}': {e}; {remedy}", audit.place)
    })
}

fn open_file(path: &Path) -> io::Result<OwnedFd> {
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .mode(MODE)
        // Whoever owns a directory on the way must not lead root elsewhere; nobody waits for the reader of a pipe.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let own = nix::unistd::geteuid().as_raw();
    // Who can write to it can forge it, and so can who can put another one in its place.
    if found.uid() != own || found.mode() & WRITE_OF_OTHERS != 0 || found.nlink() != 1 {
        return Err(forgeable("others than root can write to it, or it has a second name"));
    }
    let directory = path.parent().map(std::fs::metadata).transpose()?;
    let is_open = |directory: &Metadata| directory.mode() & (STICKY | WRITE_OF_ALL) == WRITE_OF_ALL;
    if directory.is_some_and(|directory| directory.uid() != own || is_open(&directory)) {
        return Err(forgeable("others than root can replace it: its directory is theirs"));
    }
    Ok(file.into())
}

fn forgeable(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = UnixDatagram::unbound()?;
    match socket.connect(path) {
        Ok(()) => Ok(socket.into()),
        // It listens for streams.
        Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => {
            UnixStream::connect(path).map(Into::into)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn audit(place: Place) -> Audit {
        Audit { place, max_bytes: 1 << 20 }
    }

    #[test]
    fn a_file_is_made_for_root_and_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trail.jsonl");
        drop(open(&audit(Place::File(path.clone()))).unwrap());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777 & !MODE, 0);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(open(&audit(Place::File(link))).is_err());
        let why = open(&audit(Place::File(directory.path().join("none/trail")))).unwrap_err();
        assert!(why.ends_with("create its directory"), "{why}");
        let why = open(&audit(Place::File("/dev/null".into()))).unwrap_err();
        assert!(why.contains("not a regular file"), "{why}");
    }

    #[test]
    fn a_file_that_others_can_forge_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trail.jsonl");
        let place = audit(Place::File(path.clone()));
        drop(open(&place).unwrap());
        let chmod = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let refused = || open(&place).unwrap_err().ends_with("in a directory of root");
        for (mode, is_refused) in [(0o666, true), (0o660, true), (0o644, false)] {
            chmod(&path, mode);
            assert_eq!(open(&place).is_err() && refused(), is_refused, "{mode:o}");
        }
        let link = directory.path().join("second");
        std::fs::hard_link(&path, &link).unwrap();
        assert!(refused());
        std::fs::remove_file(link).unwrap();
        std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
        assert!(refused());
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        for (mode, is_refused) in [(0o777, true), (0o1777, false), (0o775, false)] {
            chmod(directory.path(), mode);
            assert_eq!(open(&place).is_err() && refused(), is_refused, "{mode:o}");
        }
        std::os::unix::fs::chown(directory.path(), Some(1000), None).unwrap();
        assert!(refused());
    }

    #[test]
    fn a_socket_of_either_kind_is_connected_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let _datagrams = UnixDatagram::bind(path("datagrams")).unwrap();
        let _stream = UnixListener::bind(path("stream")).unwrap();
        for name in ["datagrams", "stream"] {
            assert!(open(&audit(Place::Unix(path(name)))).is_ok(), "{name}");
        }
        let why = open(&audit(Place::Unix(path("none")))).unwrap_err();
        assert!(why.ends_with("start what listens there"), "{why}");
    }
}
