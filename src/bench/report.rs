//! The result, as a table for people and as JSON for programs.

use std::fmt::Write as _;

use serde::Serialize;

use super::sample::Histogram;
use super::session::Format;
use super::{Directory, Pattern};

/// The result of a benchmark.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whose names, contents and calls were used.
    pub format: Format,
    /// Bytes of one session.
    pub size_bytes: usize,
    /// Sessions read, and as many again saved, in each directory.
    pub sessions: usize,
    /// Whether operations were drawn at random between all patterns and directories.
    pub interleaved: bool,
    /// Whether the processors were kept from halting.
    pub cpu_dma_latency_held: bool,
    /// Whether a signal ended it early.
    pub interrupted: bool,
    /// One for each number of threads.
    pub runs: Vec<Run>,
}

/// The result with one number of threads.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub threads: usize,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// By pattern, then by directory.
    pub rows: Vec<Row>,
}

/// One pattern in one directory.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub pattern: Pattern,
    pub directory: String,
    /// The name of its filesystem.
    pub filesystem: String,
    /// How often it was done.
    pub operations: u64,
    /// Half took no longer, in microseconds.
    pub median_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
    pub mean_us: f64,
    /// What so many threads reach that do nothing else; for several threads not known of a
    /// pattern that needs saves between its reads.
    pub rate_per_second: Option<f64>,
    /// The median as a multiple of that of the first directory with this pattern.
    pub ratio: Option<f64>,
    /// Reads that got the version before the last one saved through the peer.
    pub behind: u64,
}

impl Row {
    /// Sums up one histogram.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of minutes fit exactly")]
    pub(crate) fn new(
        directory: &Directory,
        pattern: Pattern,
        histogram: &Histogram,
        rate_per_second: Option<f64>,
        behind: u64,
    ) -> Self {
        Self {
            pattern,
            directory: directory.path.display().to_string(),
            filesystem: directory.filesystem.clone(),
            operations: histogram.count(),
            median_us: histogram.quantile_ns(500) as f64 / 1e3,
            p99_us: histogram.quantile_ns(990) as f64 / 1e3,
            mean_us: histogram.mean_ns() / 1e3,
            rate_per_second,
            ratio: None,
            behind,
        }
    }
}

impl Run {
    /// Puts rows together and compares each with the first of its pattern.
    pub(crate) fn new(threads: usize, time: std::time::Duration, mut rows: Vec<Row>) -> Self {
        let mut base = None;
        for row in &mut rows {
            let first = match base {
                Some((pattern, median)) if pattern == row.pattern => median,
                _ => row.median_us,
            };
            base = Some((row.pattern, first));
            row.ratio = (first > 0.0).then(|| row.median_us / first);
        }
        Self { threads, seconds: time.as_secs_f64(), rows }
    }
}

const HEADINGS: [&str; 8] =
    ["pattern", "directory", "filesystem", "operations", "median us", "p99 us", "rate/s", "ratio"];
/// The columns of words; the others are numbers, aligned to the right.
const WORDS: usize = 3;

impl Report {
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "Odoo {} sessions of {} bytes, {} in each directory, {}{}",
            self.format.name(),
            self.size_bytes,
            self.sessions,
            if self.interleaved { "operations interleaved at random" } else { "one after another" },
            if self.cpu_dma_latency_held { "" } else { "; processors free to halt" },
        );
        for run in &self.runs {
            let threads = if run.threads == 1 { "thread" } else { "threads" };
            let _ = writeln!(text, "\n{} {threads}, {:.1} s", run.threads, run.seconds);
            let mut lines = vec![HEADINGS.map(String::from)];
            lines.extend(run.rows.iter().map(line));
            text.push_str(&aligned(&lines));
            for row in run.rows.iter().filter(|row| row.behind > 0) {
                let _ = writeln!(
                    text,
                    "{} of the {} {} reads in {} were one version behind",
                    row.behind,
                    grouped(row.operations),
                    row.pattern.name(),
                    row.directory
                );
            }
        }
        if self.interrupted {
            text.push_str("\ninterrupted: these are the operations so far\n");
        }
        text
    }
}

fn line(row: &Row) -> [String; 8] {
    [
        row.pattern.name().into(),
        row.directory.clone(),
        row.filesystem.clone(),
        grouped(row.operations),
        format!("{:.1}", row.median_us),
        format!("{:.1}", row.p99_us),
        row.rate_per_second.map_or_else(|| "-".into(), |rate| grouped(whole(rate))),
        row.ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}")),
    ]
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate, rounded")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// With a comma between thousands.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Every column as wide as its widest cell, words to the left and numbers to the right.
fn aligned<const COLUMNS: usize>(lines: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in lines {
        for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let _ = if column < WORDS {
                write!(text, "{gap}{cell:<width$}")
            } else {
                write!(text, "{gap}{cell:>width$}")
            };
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn row(pattern: Pattern, directory: &str, micros: u64) -> Row {
        let directory =
            Directory { path: directory.into(), peer: None, filesystem: "tmpfs".into() };
        let mut histogram = Histogram::default();
        for _ in 0..1234 {
            histogram.record(Duration::from_micros(micros));
        }
        let rate = (pattern != Pattern::Save).then_some(1e6 / 3.0);
        Row::new(&directory, pattern, &histogram, rate, 0)
    }

    fn report() -> Report {
        let rows = vec![
            row(Pattern::Warm, "/a", 10),
            row(Pattern::Warm, "/longer", 25),
            row(Pattern::Save, "/longer", 50),
        ];
        Report {
            format: Format::Odoo18,
            size_bytes: 740,
            sessions: 256,
            interleaved: true,
            cpu_dma_latency_held: true,
            interrupted: false,
            runs: vec![Run::new(2, Duration::from_secs(3), rows)],
        }
    }

    #[test]
    fn the_table_is_aligned() {
        let expected = "\
Odoo 18 sessions of 740 bytes, 256 in each directory, operations interleaved at random

2 threads, 3.0 s
pattern  directory  filesystem  operations  median us  p99 us   rate/s  ratio
warm     /a         tmpfs            1,234       10.0    10.0  333,333   1.00
warm     /longer    tmpfs            1,234       25.0    25.0  333,333   2.50
save     /longer    tmpfs            1,234       50.0    50.0        -   1.00
";
        assert_eq!(report().table(), expected);
    }

    #[test]
    fn a_ratio_compares_within_a_pattern() {
        let report = report();
        let ratios: Vec<f64> = report.runs[0].rows.iter().filter_map(|row| row.ratio).collect();
        assert!((ratios[1] - 2.5).abs() < 0.02);
        assert!((ratios[2] - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn reads_behind_and_an_interruption_are_told() {
        let mut report = report();
        report.interrupted = true;
        report.runs[0].rows[1].behind = 3;
        let table = report.table();
        assert!(table.contains("3 of the 1,234 warm reads in /longer were one version behind"));
        assert!(table.contains("interrupted"));
    }

    #[test]
    fn json_has_the_words_of_the_table() {
        let value = serde_json::to_value(report()).unwrap();
        assert_eq!(value["format"], "18");
        assert_eq!(value["runs"][0]["rows"][2]["pattern"], "save");
        assert_eq!(value["runs"][0]["rows"][2]["operations"], 1234);
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
