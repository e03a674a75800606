//! `sessionfs guard`: not for people. Releases who waits for a mount whose keeper was killed.

use std::os::fd::{AsFd as _, RawFd};
use std::path::PathBuf;

use crate::exit::Failure;
use crate::host::{descriptor, signals};
use crate::keeper::guard;

/// The process that releases callers of a mount whose keeper was killed; started by `mount`
#[derive(clap::Args, Debug)]
pub(super) struct Guard {
    /// The keeper, as a descriptor of a process
    #[arg(long)]
    keeper_fd: RawFd,
    /// The device number of the filesystem
    #[arg(long)]
    filesystem: String,
    /// Where it is mounted
    mountpoint: PathBuf,
}

impl Guard {
    /// Waits until the keeper is gone.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let keeper = descriptor::take(self.keeper_fd)?;
        // Who ends a whole group of processes ends this one last.
        signals::block()?;
        guard::serve(keeper.as_fd(), &self.mountpoint, &self.filesystem)
    }
}
