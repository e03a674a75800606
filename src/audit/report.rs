//! What an audit says, for programs and on paper. Fields of the JSON are never removed.

use std::time::SystemTime;

use serde::Serialize;

use super::finding::{Finding, Grade, Part};
use super::stress::Measured;
use crate::exit::{ExitCode, Failure};
use crate::html::{Cell, Mark, Page};

/// The result.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// The version of sessionfs.
    pub version: &'static str,
    /// When it began (RFC 3339, UTC).
    pub began: String,
    /// The host that it ran on.
    pub host: String,
    /// The site, if one was looked at, and the address at which it was.
    pub site: Option<String>,
    pub address: Option<String>,
    /// The lifetimes that were compared with, by their name.
    pub preset: Option<&'static str>,
    /// Part by part; within one the worst first.
    pub findings: Vec<Finding>,
    /// The load, if there was one.
    pub stress: Option<Measured>,
    /// Whether a signal ended it early.
    pub interrupted: bool,
}

impl Report {
    /// One that has found nothing yet.
    pub(crate) fn new(began: SystemTime) -> Self {
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        Self {
            version: env!("CARGO_PKG_VERSION"),
            began: humantime::format_rfc3339_seconds(began).to_string(),
            host: host.unwrap_or_default(),
            site: None,
            address: None,
            preset: None,
            findings: Vec::new(),
            stress: None,
            interrupted: false,
        }
    }

    /// Adds findings where they belong.
    pub(crate) fn add(&mut self, findings: Vec<Finding>) {
        self.findings.extend(findings);
        self.findings.sort_by_key(|finding| (finding.part, finding.grade));
    }

    /// How many have this grade.
    pub(crate) fn count(&self, grade: Grade) -> usize {
        self.findings.iter().filter(|finding| finding.grade == grade).count()
    }

    /// The findings of a part.
    pub(crate) fn of(&self, part: Part) -> Vec<&Finding> {
        self.findings.iter().filter(|finding| finding.part == part).collect()
    }

    /// How many there are of each grade, in words.
    pub(crate) fn summary(&self) -> String {
        let counted = |grade: &Grade| format!("{} {}", self.count(*grade), grade.word());
        Grade::ALL.iter().map(counted).collect::<Vec<_>>().join(", ")
    }

    /// How the command ends.
    pub(crate) fn outcome(&self) -> Result<(), Failure> {
        let code = if self.interrupted {
            ExitCode::Interrupted
        } else if self.count(Grade::Fail) > 0 {
            ExitCode::AuditFailed
        } else if self.count(Grade::Warn) + self.count(Grade::Unknown) > 0 {
            ExitCode::AuditWarning
        } else {
            return Ok(());
        };
        let interrupted = if self.interrupted { "interrupted; " } else { "" };
        Err(Failure::new(code, format!("{interrupted}{}", self.summary())))
    }

    /// As one page.
    pub(crate) fn page(&self) -> String {
        let subject = self.site.as_deref().unwrap_or(&self.host);
        let mut page = Page::new(&format!("Audit of {subject}"));
        page.facts(self.facts());
        for part in Part::ALL {
            let findings = self.of(part);
            if findings.is_empty() {
                continue;
            }
            page.heading(part.heading());
            page.table(["", "looked at", "seen and what it means"], findings.into_iter().map(row));
            if part == Part::Stress
                && let Some(measured) = &self.stress
            {
                load(&mut page, measured);
            }
        }
        page.finish()
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![
            ("result", self.summary()),
            ("began", self.began.clone()),
            ("host", self.host.clone()),
        ];
        facts.extend(self.site.clone().map(|site| ("site", site)));
        facts.extend(self.address.clone().map(|address| ("address", address)));
        facts.extend(self.preset.map(|preset| ("lifetimes compared with", preset.to_owned())));
        facts.push(("made by", format!("sessionfs {}", self.version)));
        facts
    }
}

fn row(finding: &Finding) -> [Cell; 3] {
    let mark = match finding.grade {
        Grade::Fail => Mark::Bad,
        Grade::Warn | Grade::Unknown => Mark::Warning,
        Grade::Note => Mark::Faint,
        Grade::Pass => Mark::Good,
    };
    let mut paragraphs = vec![finding.seen.clone(), finding.meaning.to_owned()];
    if !finding.remedy.is_empty() {
        paragraphs.push(format!("\u{2192} {} [{}]", finding.remedy, finding.id));
    }
    let subject = Cell::new(finding.subject, Mark::Name);
    [Cell::new(finding.grade.word(), mark), subject, Cell { paragraphs, mark: Mark::Plain }]
}

fn load(page: &mut Page, measured: &Measured) {
    let number = |value: u64| Cell::new(value.to_string(), Mark::Number);
    let ms = |value: f64| Cell::new(format!("{value:.1}"), Mark::Number);
    page.paragraph(&format!("{} requests a second for {} s.", measured.rate, measured.seconds));
    let operations = measured.operations.iter().map(|one| {
        [
            one.name.into(),
            number(one.requests),
            number(one.errors),
            number(one.logouts),
            ms(one.p50_ms),
            ms(one.p99_ms),
            ms(one.max_ms),
        ]
    });
    let heading = ["request", "requests", "errors", "logouts", "p50 ms", "p99 ms", "longest ms"];
    page.table(heading, operations);
    for why in &measured.skipped {
        page.paragraph(&format!("Not sent: {why}."));
    }
    let p99: Vec<f64> = measured.by_second.iter().map(|one| one.p99_ms).collect();
    page.bars("p99 of the answers, by the second in which they were asked for", "ms", &p99);
    let seconds = measured.by_second.iter().map(|one| {
        [
            number(one.number),
            number(one.requests),
            number(one.errors),
            number(one.logouts),
            ms(one.p50_ms),
            ms(one.p99_ms),
        ]
    });
    page.table(["second", "requests", "errors", "logouts", "p50 ms", "p99 ms"], seconds);
}

#[cfg(test)]
mod tests {
    use super::super::finding::Question;
    use super::*;

    fn report(grades: &[Grade]) -> Report {
        let mut report = Report::new(SystemTime::UNIX_EPOCH);
        let findings = grades.iter().map(|grade| Question::Hsts.finding(*grade, "<seen>", "do it"));
        report.add(findings.collect());
        report
    }

    #[test]
    fn the_exit_code_is_that_of_the_worst() {
        let code = |grades: &[Grade]| report(grades).outcome().err().map(|failure| failure.code);
        assert_eq!(code(&[Grade::Pass, Grade::Note]), None);
        assert_eq!(code(&[Grade::Pass, Grade::Unknown]), Some(ExitCode::AuditWarning));
        assert_eq!(code(&[Grade::Warn]), Some(ExitCode::AuditWarning));
        assert_eq!(code(&[Grade::Unknown, Grade::Fail]), Some(ExitCode::AuditFailed));
        let mut interrupted = report(&[]);
        interrupted.interrupted = true;
        assert_eq!(
            interrupted.outcome().err().map(|failure| failure.code),
            Some(ExitCode::Interrupted)
        );
        let failure = report(&[Grade::Fail, Grade::Pass, Grade::Pass]).outcome().unwrap_err();
        assert_eq!(failure.message, "1 fail, 0 warn, 0 not known, 0 note, 2 pass");
    }

    #[test]
    fn the_worst_of_a_part_comes_first() {
        let mut report = report(&[Grade::Pass, Grade::Fail]);
        report.add(vec![Question::Reach.pass("x"), Question::Idle.pass("y")]);
        let order: Vec<(Part, Grade)> =
            report.findings.iter().map(|finding| (finding.part, finding.grade)).collect();
        let (site, hijack) = (Part::Site, Part::Hijack);
        let wanted =
            [(site, Grade::Fail), (site, Grade::Pass), (site, Grade::Pass), (hijack, Grade::Pass)];
        assert_eq!(order, wanted);
    }

    #[test]
    fn the_page_has_everything_and_escapes_it() {
        let mut report = report(&[Grade::Fail, Grade::Unknown]);
        report.site = Some("https://shop.example.com".to_owned());
        report.add(vec![Question::Errors.pass("none")]);
        report.stress = Some(Measured { skipped: vec!["cart".to_owned()], ..Measured::default() });
        let html = report.page();
        for text in [
            "<title>Audit of https://shop.example.com</title>",
            "1970-01-01T00:00:00Z",
            "&lt;seen&gt;",
            "not known",
            "\u{2192} do it [site.hsts]",
            "Not sent: cart.",
        ] {
            assert!(html.contains(text), "{text} in {html}");
        }
        assert!(!html.contains("<seen>"));
    }
}
