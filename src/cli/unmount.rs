//! `sessionfs unmount`.

use super::mountpoint::Mountpoint;
use crate::exit::Failure;

/// Stop the sessionfs that serves a directory, and wait until it has stopped; remove a dead mount
#[derive(clap::Args, Debug)]
pub(super) struct Unmount {
    #[command(flatten)]
    mountpoint: Mountpoint,
}

impl Unmount {
    /// Ends it.
    pub(super) fn run(&self) -> Result<(), Failure> {
        crate::keeper::unmount(&self.mountpoint.named()?)
    }
}
