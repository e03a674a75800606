//! `sessionfs reload`.

use super::mountpoint::Mountpoint;
use crate::exit::Failure;

/// Apply a changed configuration file and an upgraded program without removing the mount, and wait
/// for the result
#[derive(clap::Args, Debug)]
pub(super) struct Reload {
    #[command(flatten)]
    mountpoint: Mountpoint,
}

impl Reload {
    /// Asks for it.
    pub(super) fn run(&self) -> Result<(), Failure> {
        crate::keeper::reload::ask(&self.mountpoint.named()?)
    }
}
