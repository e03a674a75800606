//! `sessionfs parameters`: not for people. Started by the keeper; asks PostgreSQL for Odoo's system parameters.

use std::os::fd::RawFd;
use std::path::PathBuf;

use crate::exit::Failure;
use crate::host::confine::{self, Files, User};
use crate::host::{descriptor, signals};
use crate::parameters;

/// The process that reads Odoo's system parameters; started by `mount`
#[derive(clap::Args, Debug)]
pub(super) struct Parameters {
    /// What was read is told here
    #[arg(long)]
    socket_fd: RawFd,
    /// As whom
    #[arg(long)]
    uid: u32,
    /// Its group
    #[arg(long)]
    gid: u32,
    /// Odoo's configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Parameters {
    /// Asks until it is ended.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let socket = descriptor::take(self.socket_fd)?;
        signals::block()?;
        let user = User { name: self.uid.to_string(), uid: self.uid, gid: self.gid };
        // Odoo's environment is part of what is read.
        confine::become_worker(&user, || Ok(Files::everything()))?;
        parameters::run(socket, self.uid, self.config.as_deref())
    }
}
