//! Where sessions are kept: what `sessionfs check` finds, and how the lifetimes compare with what an
//! authority asks for.

use std::path::PathBuf;

use super::finding::{Finding, Grade, Part, Question};
use crate::check::{self, Asked, Id, Severity};
use crate::config::flags::Place;
use crate::config::units::duration_text;
use crate::exit::Failure;
use crate::session::policy::preset::Preset;
use crate::session::policy::rules::Rules;

/// What was found, and of which directories.
pub(crate) struct Looked {
    pub findings: Vec<Finding>,
    /// Those that sessions are kept in on this host.
    pub directories: Vec<PathBuf>,
    /// Where the first of them has its sessions.
    pub place: Place,
}

/// Asks `check`. What the audit looks at itself is left out.
pub(crate) fn look(asked: &Asked) -> Looked {
    match check::check(asked) {
        Ok(reports) => {
            let several = reports.len() > 1;
            let mut findings = Vec::new();
            for report in &reports {
                let of = if several {
                    format!(" ({})", report.directory.display())
                } else {
                    String::new()
                };
                let own = |id: Id| matches!(id, Id::Proxy | Id::Workers);
                let theirs = report.findings.iter().filter(|finding| !own(finding.id));
                findings.extend(theirs.map(|finding| checked(finding, &of)));
            }
            let place = reports.first().map_or(&asked.place, |report| &report.place).clone();
            let directories = reports.into_iter().map(|report| report.directory).collect();
            Looked { findings, directories, place }
        }
        Err(Failure { message, .. }) => {
            let remedy =
                "run the audit where Odoo runs, as root, or name the directory with --sessions";
            let findings = vec![Question::Storage.unknown(message, remedy)];
            Looked { findings, directories: Vec::new(), place: asked.place.clone() }
        }
    }
}

fn checked(finding: &check::Finding, of: &str) -> Finding {
    let grade = match finding.severity {
        Severity::Error => Grade::Fail,
        Severity::Warning => Grade::Warn,
        Severity::Note => Grade::Note,
        Severity::Ok => Grade::Pass,
    };
    Finding {
        id: finding.id.name(),
        part: Part::Storage,
        subject: finding.id.subject(),
        grade,
        seen: format!("{}{of}", finding.what),
        meaning: finding.id.meaning(),
        remedy: finding.remedy.clone(),
    }
}

/// How the lifetimes in force compare with a preset; without one they are only told.
pub(crate) fn lifetimes(
    in_force: Result<&Rules, &str>,
    preset: Option<&Preset>,
) -> Option<Finding> {
    let question = Question::Lifetimes;
    let lifetimes = match (in_force, preset) {
        (Ok(rules), _) => rules.general(),
        (Err(why), Some(_)) => {
            let remedy = "name the Redis of the sessions with --redis or --config";
            return Some(question.unknown(why, remedy));
        }
        // That Redis cannot be reached is said of the storage.
        (Err(_), None) => return None,
    };
    let absolute = lifetimes.absolute_ms.map_or_else(|| "off".to_owned(), duration_text);
    let set = format!("idle {}, absolute {absolute}", duration_text(lifetimes.idle_ms));
    let Some(preset) = preset else {
        let seen = format!("{set}; --preset compares them with what an authority asks for");
        return Some(question.finding(Grade::Note, seen, ""));
    };
    let mut remedies = Vec::new();
    if lifetimes.idle_ms > preset.idle_ms {
        remedies
            .push(format!("sessionfs config set lifetime.idle {}", duration_text(preset.idle_ms)));
    }
    if let Some(wanted_ms) = preset.absolute_ms
        && lifetimes.absolute_ms.is_none_or(|set_ms| set_ms > wanted_ms)
    {
        remedies
            .push(format!("sessionfs config set lifetime.absolute {}", duration_text(wanted_ms)));
    }
    let wanted = format!("{}: {}", preset.name, preset.source);
    Some(if remedies.is_empty() {
        question.pass(format!("{set}; within {wanted}"))
    } else {
        question.finding(Grade::Fail, format!("{set}; longer than {wanted}"), remedies.join("; "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::policy::Lifetimes;

    const MINUTE_MS: u64 = 60_000;

    fn lifetimes(idle_ms: u64, absolute_ms: Option<u64>) -> Rules {
        Lifetimes { idle_ms, absolute_ms, ..Lifetimes::default() }.into()
    }

    #[test]
    fn lifetimes_are_held_against_a_preset() {
        let pci = Preset::named("pci-dss-8.2.8");
        let judged =
            |set: &Rules, preset: Option<&Preset>| super::lifetimes(Ok(set), preset).unwrap();
        assert_eq!(judged(&lifetimes(15 * MINUTE_MS, None), pci).grade, Grade::Pass);
        let long = judged(&lifetimes(16 * MINUTE_MS, None), pci);
        assert_eq!(long.grade, Grade::Fail);
        assert_eq!(long.remedy, "sessionfs config set lifetime.idle 15min");
        let aal2 = Preset::named("nist-aal2");
        let endless = judged(&lifetimes(15 * MINUTE_MS, None), aal2);
        assert_eq!(endless.remedy, "sessionfs config set lifetime.absolute 12h");
        assert_eq!(judged(&lifetimes(MINUTE_MS, None), None).grade, Grade::Note);
        assert_eq!(super::lifetimes(Err("gone"), aal2).unwrap().grade, Grade::Unknown);
        assert!(super::lifetimes(Err("gone"), None).is_none());
    }
}
