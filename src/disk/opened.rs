//! What a disk server opens before it serves.
//!
//! It does so itself, not whoever starts it: a disk that does not answer holds this process alone.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::archive;
use super::directory::Directory;
use crate::exit::Failure;
use crate::host::{directory, mount};

/// Why a disk server touches nothing.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum NotServed {
    /// A directory cannot be used.
    Unusable(Failure),
    /// The session files in this directory cannot be moved, for this reason of the system's, so none is imported.
    Unmovable { dir: PathBuf, error: String },
}

impl From<Failure> for NotServed {
    fn from(failure: Failure) -> Self {
        Self::Unusable(failure)
    }
}

impl NotServed {
    /// Logs that session files of the underlying directory stay where they are.
    pub(crate) fn tell(&self) {
        match self {
            Self::Unusable(failure) => tracing::error!(
                %failure,
                "session files of the underlying directory are not imported; correct the cause and run \
                 'sessionfs reload'"
            ),
            Self::Unmovable { dir, error } => tracing::error!(
                dir = %dir.display(), %error,
                "session files of the underlying directory cannot be moved, so none is imported and their users have \
                 to log in again; make the directory writable and run 'sessionfs reload'"
            ),
        }
    }
}

/// The directory beneath a filesystem of ours.
pub(crate) fn beneath(mountpoint: &Path) -> Result<OwnedFd, NotServed> {
    let opened = mount::beneath(mountpoint).and_then(|(_tree, below)| directory::open(&below));
    Ok(opened.map(OwnedFd::from).map_err(|e| cannot_look(mountpoint, e))?)
}

/// The place beside `dir` for the session files of its underlying directory, `root`, if there are any. Without it they
/// would be deleted.
pub(crate) fn archive_beside(
    dir: &Path,
    root: BorrowedFd<'_>,
) -> Result<Option<OwnedFd>, NotServed> {
    let (holds_sessions, _) = Directory::look_at_top(root).map_err(|e| cannot_look(dir, e))?;
    if !holds_sessions {
        return Ok(None);
    }
    let archive = archive::make_beside(dir)?;
    match Directory::check_movable(root) {
        Ok(()) => Ok(Some(archive)),
        Err(error) => Err(NotServed::Unmovable { dir: dir.to_owned(), error: error.to_string() }),
    }
}

fn cannot_look(dir: &Path, error: std::io::Error) -> Failure {
    Failure::internal(format!("look beneath {}", dir.display()), error)
}
