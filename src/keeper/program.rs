//! The program that serves: the file itself, since another may be installed under its name.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::exit::{ExitCode, Failure};

/// An executable, held; and the name under which its successor will be installed.
#[derive(Clone)]
pub(super) struct Program {
    installed_as: PathBuf,
    file: Arc<File>,
}

impl Program {
    /// The one that is running. Where it was executed by the one before, that one knows under which name it was
    /// installed; the kernel does not if that name leads to another one by now.
    pub(super) fn own(installed_as: Option<PathBuf>) -> Result<Self, Failure> {
        let failed = |e| Failure::internal("find the running program", e);
        let installed_as = installed_as.map_or_else(std::env::current_exe, Ok).map_err(failed)?;
        let file = hold(Path::new("/proc/self/exe")).map_err(failed)?;
        Ok(Self { installed_as, file: Arc::new(file) })
    }

    /// Its name.
    pub(super) fn installed_as(&self) -> &Path {
        &self.installed_as
    }

    /// The one that is installed under the same name now.
    pub(super) fn installed(&self) -> Result<Self, Failure> {
        let installed_as = self.installed_as.clone();
        let file = hold(&installed_as).map_err(|e| {
            Failure::new(
                ExitCode::ReloadFailed,
                format!("program {}: {e}; install it there", installed_as.display()),
            )
        })?;
        Ok(Self { installed_as, file: Arc::new(file) })
    }

    /// Whether it is another one than the one that is running.
    pub(super) fn is_another(&self) -> bool {
        let file = |metadata: io::Result<Metadata>| metadata.map(|it| (it.dev(), it.ino())).ok();
        file(self.file.metadata()) != file(std::fs::metadata("/proc/self/exe"))
    }

    /// A path that leads to it, in this process and in a child that has not yet executed it.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

fn hold(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)
}
