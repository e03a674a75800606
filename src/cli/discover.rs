//! `sessionfs discover`.

use super::output::{self, Format};
use crate::exit::{ExitCode, Failure};
use crate::odoo::Odoo;
use crate::odoo::root::Root;

/// Tell where the Odoo of this host keeps its sessions, the surest first, and how that is known
///
/// Looks at Odoo's processes (in containers, too), at systemd's units and at configuration files. As
/// root it sees them all. What an earlier installation left behind is told only where nothing
/// runs and nothing is set up to run.
#[derive(clap::Args, Debug)]
pub struct Discover {
    #[command(flatten)]
    format: Format,
}

impl Discover {
    /// Looks, and prints.
    pub fn run(&self) -> Result<(), Failure> {
        let host = Root::host();
        let candidates = Odoo::look(&host, None).candidates(&host);
        if self.format.json {
            output::json(&candidates)?;
        } else if !candidates.is_empty() {
            let lines = candidates.iter().map(|candidate| {
                let state = match (candidate.mounted, candidate.exists) {
                    (true, _) => "mounted",
                    (false, true) => "plain files",
                    (false, false) => "not there yet",
                };
                [
                    candidate.path.display().to_string(),
                    format!("{}:{}", candidate.owner, candidate.group),
                    state.to_owned(),
                    candidate.source.clone(),
                ]
            });
            output::say(output::table(["directory", "owner", "state", "known by"], &[], lines))?;
        }
        if candidates.is_empty() {
            return Err(Failure::new(
                ExitCode::SessionsNotFound,
                "no Odoo is found on this host, so neither are its sessions; start Odoo and try \
                 again, as root, or name the directory yourself: it is 'sessions' in Odoo's data_dir",
            ));
        }
        Ok(())
    }
}
