//! `sessionfs discover`.

use super::output::{self, Format};
use crate::exit::{ExitCode, Failure};
use crate::odoo::root::Root;
use crate::odoo::{Candidate, Odoo};
use crate::shell::Assignments;

/// Show where the Odoo of this host keeps its sessions, the most certain first, and how that was
/// found
///
/// Looks at Odoo's processes (also in containers), at systemd units and at configuration files. Run
/// it as root to see all of them. Leftovers of an earlier installation are shown only if no Odoo
/// runs and none is set up to run.
#[derive(clap::Args, Debug)]
pub(super) struct Discover {
    #[command(flatten)]
    format: Format,
    /// Print assignments for a shell, safe for eval: `discovered=2`, `discovered_0_path='...'`, ...
    #[arg(long, conflicts_with = "json")]
    shell: bool,
}

impl Discover {
    /// Looks, and prints.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let host = Root::host();
        let odoo = Odoo::look(&host, None);
        let candidates = odoo.candidates(&host);
        if self.shell {
            facts(&candidates, &odoo.all_units()).print()?;
        } else if self.format.json {
            output::json(&candidates)?;
        } else if !candidates.is_empty() {
            let lines = candidates.iter().map(|candidate| {
                let state = match (candidate.mounted, candidate.exists) {
                    (true, _) => "mounted",
                    (false, true) => "plain files",
                    (false, false) => "does not exist yet",
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
                "no Odoo and no session directory was found on this host; start Odoo and try again \
                 as root, or name the directory: it is 'sessions' in Odoo's data_dir",
            ));
        }
        Ok(())
    }
}

/// The candidates, numbered from 0, and the units of any Odoo.
fn facts(candidates: &[Candidate], units: &[String]) -> Assignments {
    let mut facts = Assignments::default();
    facts.set("discovered", &candidates.len().to_string());
    facts.set("discovered_units", &units.join(" "));
    for (number, candidate) in candidates.iter().enumerate() {
        let mut set = |name: &str, value: &str| {
            facts.set(&format!("discovered_{number}_{name}"), value);
        };
        set("path", &candidate.path.to_string_lossy());
        set("owner", &candidate.owner);
        set("group", &candidate.group);
        set("source", &candidate.source);
        set("exists", if candidate.exists { "yes" } else { "" });
        set("mounted", if candidate.mounted { "yes" } else { "" });
        set("sees_mount", candidate.sees_mount.text());
        set("units", &candidate.units.join(" "));
    }
    facts
}
