//! Which mount a command is about.

use std::path::PathBuf;

use crate::config;
use crate::exit::Failure;

/// A directory, or the configuration file that names it.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Mountpoint {
    /// The directory it is mounted on (default: the configuration file's `mountpoint`)
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Configuration file (default: /etc/sessionfs/sessionfs.toml)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Mountpoint {
    /// The directory, as it was named.
    pub(super) fn named(&self) -> Result<PathBuf, Failure> {
        config::mountpoint(self.dir.as_deref(), self.config.as_deref())
    }
}
