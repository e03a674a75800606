//! `sessionfs mount`.

use std::path::PathBuf;

use crate::config::flags::Flags;
use crate::exit::Failure;

/// Serve a directory until SIGTERM or SIGINT; prints `ready DIR` once a session can be served
#[derive(clap::Args, Debug)]
pub struct Mount {
    /// The directory that Odoo keeps its sessions in, to be mounted on (default: the
    /// configuration file's `mountpoint`)
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

impl Mount {
    /// Serves.
    pub fn run(&self) -> Result<(), Failure> {
        crate::keeper::mount(self.dir.as_deref(), &self.flags)
    }
}
