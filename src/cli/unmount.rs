//! `sessionfs unmount`.

use std::path::PathBuf;

use crate::exit::Failure;

/// End the sessionfs that serves a directory, and wait for its end; clear a dead mount
#[derive(clap::Args, Debug)]
pub struct Unmount {
    /// The directory it is mounted on
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl Unmount {
    /// Ends it.
    pub fn run(&self) -> Result<(), Failure> {
        crate::keeper::unmount(&self.dir)
    }
}
