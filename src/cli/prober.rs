//! `sessionfs prober`: not for people. Asks mounted filesystems for the process that started it.

use std::os::fd::RawFd;

use crate::exit::Failure;
use crate::host::{descriptor, prober, signals};

/// The process that asks whether a mount answers; started by `mount` and `status`
#[derive(clap::Args, Debug)]
pub(super) struct Prober {
    /// The conversation with whoever wants to know
    #[arg(long)]
    socket_fd: RawFd,
}

impl Prober {
    /// Serves until nobody wants to know any more.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let socket = descriptor::take(self.socket_fd)?;
        // Who ends a whole service sends its signal to all at once; this one ends with its asker.
        signals::block()?;
        prober::serve(&socket).map_err(|e| Failure::internal("ask mounts", e))
    }
}
