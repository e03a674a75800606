//! `sessionfs release`.

use std::path::PathBuf;

use super::output;
use crate::config::file::File;
use crate::config::flags::{Flags, Place};
use crate::config::{mountpoint, tree};
use crate::exit::Failure;
use crate::keeper::{mount, underlying};
use crate::odoo::root::Root;

/// Give the underlying directory back to Odoo, with the owner and mode it had before the first
/// mount
///
/// For a rollback to plain files. A mount makes its underlying directory inaccessible to Odoo, so
/// that no session is written there while nothing is mounted. The directory may be mounted, and
/// stays mounted; the next mount makes it inaccessible again.
#[derive(clap::Args, Debug)]
pub(super) struct Release {
    /// The directory (default: the configuration file's `mountpoint`)
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Configuration file (default: /etc/sessionfs/sessionfs.toml, if it exists)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// New owner, if the former owner is not recorded (default: the configured `owner`)
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// New group in that case
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// New permission bits in that case, in octal (default: 0700)
    #[arg(long, value_name = "OCTAL")]
    mode: Option<String>,
}

impl Release {
    /// Gives it back, and tells to whom.
    pub(super) fn run(&self) -> Result<(), Failure> {
        Failure::unless_root("only root can change the owner of a directory; run it with sudo")?;
        let named = mountpoint(self.dir.as_deref(), self.config.as_deref())?;
        let dir = mount::resolve_trusted(&named)?;
        let flags = Flags {
            place: Place { config: self.config.clone(), ..Place::default() },
            owner: self.owner.clone(),
            group: self.group.clone(),
            mode: self.mode.clone(),
            ..Flags::default()
        };
        let otherwise = tree(&flags, &File::load(self.config.as_deref())?)?;
        let owner = underlying::release(&dir, &otherwise)?;
        let restored = underlying::restore(&dir, &owner)?;
        if restored > 0 {
            output::say(format!(
                "{}: moved {restored} session file{} back whose import was not completed",
                dir.display(),
                if restored == 1 { "" } else { "s" }
            ))?;
        }
        let host = Root::host();
        let uid = owner.owner_uid.to_string();
        output::say(format!(
            "{} now belongs to {}:{}, with mode {:04o}",
            dir.display(),
            host.account(&uid).map_or(uid, |account| account.name),
            host.group(owner.owner_gid),
            owner.mode
        ))
    }
}
