//! `sessionfs loader`: not for people. Started by the keeper; loads the BPF program that sees requests.

use std::os::fd::RawFd;

use crate::exit::Failure;
use crate::host::{confine, descriptor, signals};
use crate::loader;

/// The process that loads the BPF program; started by `mount`
#[derive(clap::Args, Debug)]
pub(super) struct Loader {
    /// The conversation with the keeper
    #[arg(long)]
    socket_fd: RawFd,
}

impl Loader {
    /// Loads, hands over what was made, and ends.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let socket = descriptor::take(self.socket_fd)?;
        signals::block()?;
        confine::end_with_parent()?;
        loader::run(socket)
    }
}
