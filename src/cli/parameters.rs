//! `sessionfs parameters`: not for people. Started by the keeper; asks PostgreSQL for Odoo's system parameters.

use std::os::fd::RawFd;
use std::path::PathBuf;

use nix::sys::resource::{Resource, setrlimit};

use crate::exit::Failure;
use crate::host::confine::{self, User};
use crate::host::{descriptor, signals};
use crate::parameters::{self, Found};

/// What a PostgreSQL answers is held in memory until it is whole.
const MEMORY_MAX_BYTES: u64 = 256 << 20;

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
    /// Where Odoo keeps its sessions
    #[arg(long, value_name = "DIR")]
    sessions: PathBuf,
    /// Odoo's configuration file, if it is named
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Parameters {
    /// Asks until it is ended.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let socket = descriptor::take(self.socket_fd)?;
        signals::block()?;
        let user = User { name: self.uid.to_string(), uid: self.uid, gid: self.gid };
        setrlimit(Resource::RLIMIT_DATA, MEMORY_MAX_BYTES, MEMORY_MAX_BYTES)
            .map_err(|e| Failure::internal("bound the memory", e))?;
        let mut found = None;
        confine::become_worker(&user, || {
            // As that user, and before the confinement: Odoo's files and its environment are part of what is looked at.
            let found = found.insert(Found::look(self.uid, &self.sessions, self.config.as_deref()));
            Ok(found.files())
        })?;
        found.map_or(Ok(()), |found| parameters::run(socket, found))
    }
}
