//! `sessionfs release`.

use std::path::PathBuf;

use super::output;
use crate::config::file::File;
use crate::config::flags::{Flags, Place};
use crate::config::{mountpoint, tree};
use crate::exit::{ExitCode, Failure};
use crate::keeper::{mount, underlying};
use crate::odoo::root::Root;

/// Give the underlying directory back to Odoo, with owner and mode of before the first mount
///
/// For the way back to plain files: a mount makes its underlying directory unusable to Odoo, so that
/// no session is written there by mistake while the mount is missing. It may still be mounted, and
/// stays so; the next mount makes it unusable again.
#[derive(clap::Args, Debug)]
pub struct Release {
    /// The directory (default: the configuration file's `mountpoint`)
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Configuration file (default: /etc/sessionfs/sessionfs.toml, if it exists)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// To whom, if the directory does not tell whose it was (default: the configured `owner`)
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// With which group then
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// With which permission bits then, in octal (default: 0700)
    #[arg(long, value_name = "OCTAL")]
    mode: Option<String>,
}

impl Release {
    /// Gives it back, and tells to whom.
    pub fn run(&self) -> Result<(), Failure> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Failure::new(
                ExitCode::NotRoot,
                "only root can give a directory away; start it with sudo",
            ));
        }
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
        let host = Root::host();
        let uid = owner.owner_uid.to_string();
        output::say(format!(
            "{} belongs to {}:{}, with mode {:04o}",
            dir.display(),
            host.account(&uid).map_or(uid, |account| account.name),
            host.group(owner.owner_gid),
            owner.mode
        ))
    }
}
