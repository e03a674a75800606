//! `sessionfs worker`: not for people. Started by the keeper with its descriptors.

use std::os::fd::RawFd;

use crate::exit::Failure;
use crate::host::descriptor;
use crate::worker::{self, Descriptors};

/// The process that serves; started by `mount`
#[derive(clap::Args, Debug)]
#[expect(clippy::struct_field_names, reason = "they name the flags")]
pub(super) struct Worker {
    /// The conversation with the keeper
    #[arg(long)]
    status_fd: RawFd,
    /// The configuration is read from here
    #[arg(long)]
    config_fd: RawFd,
    /// The kernel asks here
    #[arg(long)]
    fuse_fd: RawFd,
    /// What a worker leaves to the next one
    #[arg(long)]
    memory_fd: Option<RawFd>,
    /// Credentials are asked for here
    #[arg(long)]
    credentials_fd: Option<RawFd>,
    /// The processes of this host
    #[arg(long)]
    processes_fd: Option<RawFd>,
    /// Root asks here how things are
    #[arg(long)]
    control_fd: Option<RawFd>,
    /// Prometheus asks here
    #[arg(long)]
    metrics_fd: Option<RawFd>,
    /// The disk server of the underlying directory
    #[arg(long)]
    underlying_fd: Option<RawFd>,
    /// The disk server of the mirror
    #[arg(long)]
    mirror_fd: Option<RawFd>,
}

impl Worker {
    /// Serves until the mount is taken away.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let optional = |fd: Option<RawFd>| fd.map(descriptor::take).transpose();
        let mut offered = descriptor::offered();
        worker::run(Descriptors {
            status: descriptor::take(self.status_fd)?,
            config: descriptor::take(self.config_fd)?,
            fuse: descriptor::take(self.fuse_fd)?,
            memory: optional(self.memory_fd)?,
            credentials: optional(self.credentials_fd)?,
            processes: optional(self.processes_fd)?,
            requests: offered.remove("requests"),
            control: optional(self.control_fd)?,
            metrics: optional(self.metrics_fd)?,
            parameters: offered.remove("parameters"),
            trail: offered.remove("trail"),
            odoo: offered.remove("odoo"),
            underlying: optional(self.underlying_fd)?,
            mirror: optional(self.mirror_fd)?,
        })
    }
}
