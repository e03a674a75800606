//! An audit as a person reads it.

use anstyle::Style;

use super::super::output::{self, folded, styled, table, visible};
use crate::audit::finding::{Finding, Grade, Part};
use crate::audit::report::Report;
use crate::audit::stress::Measured;
use crate::exit::Failure;

/// More than any finding has.
const TEXT_CHARS: usize = 4000;
/// Where the words begin.
const INDENT: usize = 11;
/// More seconds than that are summed up: JSON and HTML have all.
const SECONDS_MAX: usize = 30;

/// Prints the findings part by part, and how many there are.
pub(super) fn say(report: &Report) -> Result<(), Failure> {
    for part in Part::ALL {
        let findings = report.of(part);
        if findings.is_empty() {
            continue;
        }
        output::say(styled(output::HEADING, part.heading()))?;
        for finding in findings {
            output::say(lines(finding))?;
        }
        if part == Part::Stress
            && let Some(measured) = &report.stress
        {
            output::say(format!("\n{}", load(measured)))?;
        }
        output::say("")?;
    }
    output::say(report.summary())
}

fn lines(finding: &Finding) -> String {
    let style = match finding.grade {
        Grade::Fail => output::BAD,
        Grade::Warn | Grade::Unknown => output::WARNING,
        Grade::Note => Style::new(),
        Grade::Pass => output::GOOD,
    };
    let word = styled(style, format!("{:<INDENT$}", finding.grade.word()));
    let seen = visible(&format!("{}: {}", finding.subject, finding.seen), TEXT_CHARS);
    let mut lines = vec![format!("{word}{}", folded(&seen, INDENT))];
    let more = |line: &str| format!("{:INDENT$}{}", "", folded(line, INDENT));
    if finding.grade != Grade::Pass {
        lines.push(more(finding.meaning));
    }
    if !finding.remedy.is_empty() {
        let remedy = visible(&finding.remedy, TEXT_CHARS);
        lines.push(more(&format!("-> {remedy} [{}]", finding.id)));
    }
    lines.join("\n")
}

fn load(measured: &Measured) -> String {
    let ms = |value: f64| format!("{value:.1}");
    let operations = measured.operations.iter().map(|one| {
        [
            one.name.to_owned(),
            one.requests.to_string(),
            one.errors.to_string(),
            one.logouts.to_string(),
            ms(one.p50_ms),
            ms(one.p99_ms),
            ms(one.max_ms),
        ]
    });
    let heading = ["request", "requests", "errors", "logouts", "p50 ms", "p99 ms", "longest ms"];
    let mut parts = vec![table(heading, &[1, 2, 3, 4, 5, 6], operations)];
    let skipped = measured.skipped.iter();
    parts.extend(skipped.map(|why| format!("not sent: {}", visible(why, TEXT_CHARS))));
    parts.push(String::new());
    let seconds = measured.by_second.iter().take(SECONDS_MAX).map(|one| {
        [
            one.number.to_string(),
            one.requests.to_string(),
            one.errors.to_string(),
            one.logouts.to_string(),
            ms(one.p50_ms),
            ms(one.p99_ms),
        ]
    });
    let heading = ["second", "requests", "errors", "logouts", "p50 ms", "p99 ms"];
    parts.push(table(heading, &[0, 1, 2, 3, 4, 5], seconds));
    let more = measured.by_second.len().saturating_sub(SECONDS_MAX);
    if more > 0 {
        parts.push(format!("and {more} more, which --json and --html have"));
    }
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::finding::Question;

    #[test]
    fn a_finding_says_what_was_seen_what_it_means_and_what_to_do() {
        let finding = Question::Hsts.finding(Grade::Warn, "not \x1b[2J sent", "add it");
        let text = anstream::adapter::strip_str(&lines(&finding)).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "warn       HSTS: not \\u{1b}[2J sent");
        assert!(lines[1].starts_with("           Without Strict-Transport-Security"), "{text}");
        assert_eq!(lines.last(), Some(&"           -> add it [site.hsts]"));
        assert!(lines.iter().all(|line| line.chars().count() <= 100), "{text}");
    }
}
