//! `sessionfs unmount`.

use super::mountpoint::Mountpoint;
use super::output;
use crate::check::service::own_unit_of;
use crate::exit::Failure;
use crate::keeper::{self, restart};
use crate::odoo::root::Root;

/// Stop the sessionfs that serves a directory, and wait until it has stopped; remove a dead mount
#[derive(clap::Args, Debug)]
pub(super) struct Unmount {
    #[command(flatten)]
    mountpoint: Mountpoint,
    /// For `ExecStopPost=` of a unit: only remove what a service has left that is not started again
    #[arg(long, hide = true)]
    after_service: bool,
}

impl Unmount {
    /// Ends it.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let dir = self.mountpoint.named()?;
        if !self.after_service {
            let unit = keeper::serving(&dir).and_then(|(pid, _)| own_unit_of(pid, &Root::host()));
            keeper::unmount(&dir)?;
            if let Some(unit) = unit {
                output::say(format!(
                    "{unit} mounts it again; to keep it unmounted: systemctl stop {unit}"
                ))?;
            }
            return Ok(());
        }
        if restart::clear_after(&dir)? {
            output::say(format!(
                "removed the mount of a sessionfs that has ended: {}",
                dir.display()
            ))?;
        }
        Ok(())
    }
}
