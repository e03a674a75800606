//! `sessionfs check`.

use std::path::PathBuf;

use anstyle::Style;

use super::output::{self, Format};
use crate::check::{Asked, Finding, Severity, check};
use crate::config::flags::Place;
use crate::exit::Failure;

/// Tell what is wrong or missing, the most important first, each with its remedy
///
/// Looks at the mount, Redis, the service, this host and every Odoo on it. It changes nothing, but
/// for one visitor's session that it saves, reads and ends. Best as root. Exit code 0: nothing to
/// do; 60: something needs a look; 61: something is wrong.
#[derive(clap::Args, Debug)]
pub struct Check {
    /// Odoo's session directory (default: the configured, the mounted or the one that Odoo uses)
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    /// Odoo's configuration file, if it is in no usual place
    #[arg(long, value_name = "FILE")]
    odoo_conf: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
}

impl Check {
    /// Looks, and prints.
    pub fn run(&self) -> Result<(), Failure> {
        let report = check(&Asked {
            directory: self.dir.clone(),
            place: self.place.clone(),
            odoo_conf: self.odoo_conf.clone(),
        })?;
        if self.format.json {
            output::json(&report)?;
        } else {
            for finding in &report.findings {
                output::say(lines(finding))?;
            }
        }
        report.outcome()
    }
}

/// As a person reads it: what is so, and under it what to do.
fn lines(finding: &Finding) -> String {
    let (word, style) = match finding.severity {
        Severity::Wrong => ("wrong", output::BAD),
        Severity::Warning => ("warning", output::WARNING),
        Severity::Note => ("note", Style::new()),
        Severity::Ok => ("ok", output::GOOD),
    };
    let first = format!("{} {}", output::styled(style, format!("{word:<8}")), finding.what);
    if finding.remedy.is_empty() {
        return first;
    }
    format!("{first}\n{:9}-> {} [{}]", "", finding.remedy, finding.id.name())
}
