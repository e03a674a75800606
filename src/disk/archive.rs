//! The place beside a directory of session files where retired ones go.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::exit::{ExitCode, Failure};
use crate::host::directory::{self, make_own};

/// Where it is: `<dir>.imported`.
pub(crate) fn path_beside(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(".imported");
    name.into()
}

/// Makes it (root's own, 0700: what goes there are sessions in plain text), or takes it as it is.
pub(crate) fn make_beside(dir: &Path) -> Result<OwnedFd, Failure> {
    let path = path_beside(dir);
    make_own(&path, 0o700)?;
    open_beside(dir)?.ok_or_else(|| Failure::internal("create a directory", "it was removed again"))
}

/// Whether anything is in it, as far as can be seen.
pub(crate) fn holds_any(dir: &Path) -> bool {
    std::fs::read_dir(path_beside(dir)).is_ok_and(|mut entries| entries.next().is_some())
}

/// Opens it, if it is there.
pub(crate) fn open_beside(dir: &Path) -> Result<Option<OwnedFd>, Failure> {
    let path = path_beside(dir);
    let unusable = |what: &str| {
        Failure::new(
            ExitCode::Staging,
            format!("directory {}: {what}; move it away", path.display()),
        )
    };
    let opened = match directory::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|e| unusable(&e.to_string()))?,
    };
    // The directory above may be Odoo's, who could have put another there since it was made.
    let found = opened.metadata().map_err(|e| unusable(&e.to_string()))?;
    if found.uid() != 0 || found.mode() & 0o077 != 0 {
        return Err(unusable("is not accessible only by root (0700)"));
    }
    Ok(Some(opened.into()))
}
