//! `sessionfs unmount`.

use super::mountpoint::Mountpoint;
use crate::exit::Failure;

/// End the sessionfs that serves a directory, and wait for its end; clear a dead mount
#[derive(clap::Args, Debug)]
pub struct Unmount {
    #[command(flatten)]
    mountpoint: Mountpoint,
}

impl Unmount {
    /// Ends it.
    pub fn run(&self) -> Result<(), Failure> {
        crate::keeper::unmount(&self.mountpoint.named()?)
    }
}
