//! `sessionfs reload`.

use super::mountpoint::Mountpoint;
use crate::exit::Failure;

/// Have a mount take up a changed configuration file and an upgraded program, without taking it
/// away; waits for the outcome
#[derive(clap::Args, Debug)]
pub struct Reload {
    #[command(flatten)]
    mountpoint: Mountpoint,
}

impl Reload {
    /// Asks for it.
    pub fn run(&self) -> Result<(), Failure> {
        crate::keeper::reload::ask(&self.mountpoint.named()?)
    }
}
