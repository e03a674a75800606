//! `sessionfs check`.

use std::path::{Path, PathBuf};

use anstyle::Style;
use serde::Serialize;

use super::output::{self, Format, folded, visible};
use crate::check::{Asked, Finding, Report, Severity, check, outcome};
use crate::config::flags::Place;
use crate::exit::Failure;

/// Report what is wrong or missing, the most important problem first, each with its remedy
///
/// Checks each mount of this host, its Redis, its service, the host, and every Odoo on it. It
/// changes nothing, except that it saves, reads and ends one anonymous session. Run it as root.
/// Exit code 0: nothing to do; 60: there is a warning; 61: there is an error.
#[derive(clap::Args, Debug)]
pub(super) struct Check {
    /// Odoo's session directory (default: all directories that are configured or mounted, else the
    /// one that Odoo uses)
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    /// Odoo's configuration file, if it is not in a usual place
    #[arg(long, value_name = "FILE")]
    odoo_conf: Option<PathBuf>,
    /// Print only errors and warnings, and nothing if there are none: for cron and timers
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
    #[command(flatten)]
    format: Format,
}

/// What was found, for programs.
#[derive(Serialize)]
struct Output<'a> {
    /// The first directory that was looked at.
    directory: &'a Path,
    /// Of all directories, one after the other.
    findings: Vec<ListedFinding<'a>>,
}

#[derive(Serialize)]
struct ListedFinding<'a> {
    directory: &'a Path,
    #[serde(flatten)]
    finding: &'a Finding,
}

impl Check {
    /// Looks, and prints.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let reports = check(&Asked {
            directory: self.dir.clone(),
            place: self.place.clone(),
            odoo_conf: self.odoo_conf.clone(),
        })?;
        if self.format.json {
            output::json(&output_of(&reports))?;
        } else {
            self.say(&reports)?;
        }
        outcome(&reports)
    }

    fn say(&self, reports: &[Report]) -> Result<(), Failure> {
        let mut is_first = true;
        for report in reports {
            let is_shown = |finding: &&Finding| {
                !self.quiet || matches!(finding.severity, Severity::Error | Severity::Warning)
            };
            let shown: Vec<String> = report.findings.iter().filter(is_shown).map(lines).collect();
            if shown.is_empty() {
                continue;
            }
            if reports.len() > 1 {
                let blank = if is_first { "" } else { "\n" };
                let directory = visible(&report.directory.display().to_string(), TEXT_CHARS);
                output::say(format!("{blank}{}", output::styled(output::HEADING, directory)))?;
            }
            is_first = false;
            output::say(shown.join("\n"))?;
        }
        Ok(())
    }
}

fn output_of(reports: &[Report]) -> Output<'_> {
    let findings = reports.iter().flat_map(|report| {
        let listed = |finding| ListedFinding { directory: &report.directory, finding };
        report.findings.iter().map(listed)
    });
    Output {
        directory: reports.first().map_or(Path::new(""), |report| &report.directory),
        findings: findings.collect(),
    }
}

/// As a person reads it: what is so, and under it what to do.
fn lines(finding: &Finding) -> String {
    let (word, style) = match finding.severity {
        Severity::Error => ("error", output::BAD),
        Severity::Warning => ("warning", output::WARNING),
        Severity::Note => ("note", Style::new()),
        Severity::Ok => ("ok", output::GOOD),
    };
    let word = output::styled(style, format!("{word:<INDENT$}"));
    let what = folded(&visible(&finding.what, TEXT_CHARS), INDENT);
    if finding.remedy.is_empty() {
        return format!("{word}{what}");
    }
    let remedy = visible(&finding.remedy, TEXT_CHARS);
    let remedy = folded(&format!("-> {remedy} [{}]", finding.id.name()), INDENT);
    format!("{word}{what}\n{:INDENT$}{remedy}", "")
}

/// More than any finding has.
const TEXT_CHARS: usize = 4000;
/// Where the words begin.
const INDENT: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Id;

    #[test]
    fn long_lines_are_folded_under_their_beginning() {
        let finding = Finding::new(Id::Slow, "word ".repeat(30).trim(), "do this");
        let text = anstream::adapter::strip_str(&lines(&finding)).to_string();
        let text: Vec<&str> = text.lines().collect();
        assert!(text[0].starts_with("warning  word") && text[0].len() <= 100, "{text:?}");
        assert!(text[1].starts_with("         word"), "{text:?}");
        assert_eq!(text[2], "         -> do this [redis.slow]");
    }
}
