//! `sessionfs probe`: a session's life on a mount, in a process that can be given up.

use std::path::PathBuf;

use super::output;
use crate::exit::Failure;

/// Save, read and end a session in a directory, and tell as JSON how it went
#[derive(clap::Args, Debug)]
pub(super) struct Probe {
    /// The mount
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl Probe {
    /// Tries.
    pub(super) fn run(&self) -> Result<(), Failure> {
        output::json(&crate::check::mount::probe(&self.dir))
    }
}
