//! `sessionfs mount`.

use std::os::fd::RawFd;
use std::path::PathBuf;

use super::output::say;
use crate::config::Config;
use crate::config::flags::Flags;
use crate::exit::Failure;
use crate::host::descriptor;
use crate::keeper::{self, Caller};

/// Serve a directory until SIGTERM or SIGINT; prints `ready DIR` once a session can be served
#[derive(clap::Args, Debug)]
pub(super) struct Mount {
    /// Odoo's session directory, to mount on (default: the configuration file's `mountpoint`)
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Check the directory, the configuration, the device and the mirror as a mount does, and change
    /// nothing: print the resolved path and the number of session files, or the reason why it cannot
    /// be mounted
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    flags: Flags,
    /// Say whether this program could go on with a mount; asked by the one that serves it
    #[arg(long, hide = true, requires = "memory_fd")]
    note_fd: Option<RawFd>,
    /// The memory of its workers
    #[arg(long, hide = true, requires = "note_fd")]
    memory_fd: Option<RawFd>,
}

impl Mount {
    /// Serves.
    pub(super) fn run(&self) -> Result<(), Failure> {
        if let (Some(note), Some(memory)) = (self.note_fd, self.memory_fd) {
            let (note, memory) = (descriptor::take(note)?, descriptor::take(memory)?);
            say(keeper::try_out(self.dir.as_deref(), &self.flags, note, &memory)?)
        } else if self.dry_run {
            self.look()
        } else {
            keeper::mount(self.dir.as_deref(), &self.flags, Caller::Command)
        }
    }

    /// Prints what is known of the directory before the rest is looked at: an installer that has not
    /// made the user, the Redis or the device yet needs it.
    fn look(&self) -> Result<(), Failure> {
        let outlook = keeper::look(self.dir.as_deref(), &self.flags)?;
        say(format!("mountpoint {}", outlook.mountpoint.display()))?;
        say(format!("sessions {}", outlook.sessions))?;
        if let Some(why) = &outlook.unmovable {
            say(format!("unmovable {why}: none of these sessions would be imported"))?;
        }
        keeper::look_beside(&Config::resolve(&outlook.mountpoint, &self.flags)?)
    }
}
