//! `sessionfs mount`.

use std::path::PathBuf;

use super::output::say;
use crate::config::Config;
use crate::config::flags::Flags;
use crate::exit::Failure;
use crate::keeper::{self, Caller};

/// Serve a directory until SIGTERM or SIGINT; prints `ready DIR` once a session can be served
#[derive(clap::Args, Debug)]
pub struct Mount {
    /// The directory that Odoo keeps its sessions in, to be mounted on (default: the
    /// configuration file's `mountpoint`)
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Look at the directory, the configuration and the device as a mount does, and change nothing:
    /// print the directory's true name and how many session files are in it, or why it cannot be
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    flags: Flags,
}

impl Mount {
    /// Serves.
    pub fn run(&self) -> Result<(), Failure> {
        if self.dry_run {
            self.look()
        } else {
            keeper::mount(self.dir.as_deref(), &self.flags, Caller::Command)
        }
    }

    /// What is known is told before what comes after it is looked at: an installer that is yet to
    /// make the user, the Redis or the device wants to know of the directory.
    fn look(&self) -> Result<(), Failure> {
        let outlook = keeper::look(self.dir.as_deref(), &self.flags)?;
        say(format!("mountpoint {}", outlook.mountpoint.display()))?;
        say(format!("sessions {}", outlook.sessions))?;
        Config::resolve(&outlook.mountpoint, &self.flags)?;
        keeper::mount::open_device().map(drop)
    }
}
