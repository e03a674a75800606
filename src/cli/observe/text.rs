//! The result as tables.

use std::fmt::Write as _;

use crate::cli::output::{HEADING, styled, table, visible};
use crate::observe::report::{Comparison, Report, Route, Row, SlowCall};

/// How many paths are shown. The JSON has more.
const PATHS_MAX: usize = 20;
/// The same while it is measured.
const LIVE_PATHS_MAX: usize = 5;
/// A path has at most so many characters in a table.
const PATH_CHARS: usize = 60;

/// What was found so far, in few lines.
pub(super) fn live(report: &Report) -> String {
    format!("{}\n\n{}\n\n{}", operations(report), paths(report, LIVE_PATHS_MAX), sums(report))
}

/// The whole result.
pub(super) fn report(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}", title(report));
    for (heading, part) in [
        ("System calls on the session directory", operations(report)),
        ("Requests by path", paths(report, PATHS_MAX)),
        ("The slowest calls", slowest(&report.slowest)),
        ("Session files", files(report)),
    ] {
        let _ = writeln!(text, "\n{}\n{part}", styled(HEADING, heading));
    }
    let _ = write!(text, "\n{}", sums(report));
    text
}

/// Two results, side by side.
pub(super) fn comparison(both: &Comparison) -> String {
    let Comparison { before, after } = both;
    let mut text = String::new();
    let _ = writeln!(text, "before: {}\nafter:  {}", title(before), title(after));
    for (heading, part) in [
        ("System calls on the session directory", operations_compared(before, after)),
        ("Requests by path", paths_compared(before, after)),
    ] {
        let _ = writeln!(text, "\n{}\n{part}", styled(HEADING, heading));
    }
    let _ = write!(text, "\nbefore: {}\nafter:  {}", sums(before), sums(after));
    text
}

fn title(report: &Report) -> String {
    let scene = &report.scene;
    let processes = scene.pids.len();
    let plural = if processes == 1 { "process" } else { "processes" };
    let state = if scene.interrupted { ", interrupted" } else { "" };
    let (directory, filesystem) = (visible(&scene.directory, 4096), visible(&scene.filesystem, 40));
    format!("{directory} ({filesystem}), {processes} {plural}, {:.1} s{state}", scene.seconds)
}

/// Microseconds with a digit after the point as long as that says something.
fn us(us: f64) -> String {
    if us < 100.0 { format!("{us:.1}") } else { format!("{us:.0}") }
}

fn or_hyphen(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn mean(row: &Row) -> f64 {
    // As many calls as have an exact float are more than there ever are.
    #[expect(clippy::cast_precision_loss, reason = "a mean needs no 16 digits")]
    let calls = row.calls.max(1) as f64;
    row.sum_us / calls
}

fn operations(report: &Report) -> String {
    let lines = report.operations.iter().map(|row| {
        [
            row.operation.name().to_owned(),
            row.calls.to_string(),
            row.failed.to_string(),
            format!("{:.1}", row.sum_us / 1e3),
            us(mean(row)),
            us(row.p50_us),
            us(row.p95_us),
            us(row.p99_us),
            us(row.max_us),
        ]
    });
    let heading = [
        "operation",
        "calls",
        "failed",
        "sum ms",
        "mean us",
        "p50 us",
        "p95 us",
        "p99 us",
        "max us",
    ];
    table(heading, &[1, 2, 3, 4, 5, 6, 7, 8], lines)
}

fn paths(report: &Report, most: usize) -> String {
    let lines = report.paths.iter().take(most).map(|path| {
        [
            visible(&path.path, PATH_CHARS),
            path.requests.to_string(),
            path.calls.to_string(),
            or_hyphen(path.calls_per_request, |calls| format!("{calls:.1}")),
            or_hyphen(path.calls_us_per_request, us),
            or_hyphen(path.share, percent),
        ]
    });
    let heading = ["path", "requests", "calls", "calls/request", "us/request", "share of its time"];
    let shown = table(heading, &[1, 2, 3, 4, 5], lines);
    match report.paths.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown}\nand {more} more, which --json has"),
    }
}

fn slowest(calls: &[SlowCall]) -> String {
    let lines = calls.iter().map(|call| {
        [
            us(call.us),
            call.operation.name().to_owned(),
            visible(&call.path, PATH_CHARS),
            format!("{:.1}", call.before_end_seconds),
            call.error.as_deref().map_or_else(String::new, |error| visible(error, PATH_CHARS)),
        ]
    });
    table(["us", "operation", "path", "s before the end", "error"], &[0, 3], lines)
}

fn files(report: &Report) -> String {
    let files = &report.files;
    if files.partly && files.count == 0 {
        return "not counted: the directory did not answer in time".to_owned();
    }
    let partly = if files.partly { " (not all were looked at)" } else { "" };
    let ages: Vec<String> = files
        .ages
        .iter()
        .map(|age| format!("{}: {}", visible(&age.up_to, PATH_CHARS), age.count))
        .collect();
    format!(
        "files: {}, together {} bytes, median {} bytes, largest {} bytes{partly}\nlast saved within {}",
        files.count,
        files.bytes,
        files.median_bytes,
        files.largest_bytes,
        ages.join(", ")
    )
}

fn sums(report: &Report) -> String {
    let total = &report.total;
    let Some(share) = total.share else {
        return format!(
            "{} calls on the session directory, {:.1} ms",
            total.calls,
            total.calls_us / 1e3
        );
    };
    let of_requests = format!(
        "{} requests took {:.1} ms; of that {:.1} ms ({}) in {} calls on the session directory",
        total.requests,
        total.requests_us / 1e3,
        total.calls_of_requests_us / 1e3,
        percent(share),
        total.calls_of_requests,
    );
    match total.calls.saturating_sub(total.calls_of_requests) {
        0 => of_requests,
        others => format!(
            "{of_requests}\nbesides, {others} calls of {:.1} ms: of cron workers, the evented process and others without a \
             request that was read",
            (total.calls_us - total.calls_of_requests_us) / 1e3,
        ),
    }
}

/// How many times as long.
fn factor(before: f64, after: f64) -> String {
    if before > 0.0 { format!("{:.2}", after / before) } else { "-".to_owned() }
}

fn operations_compared(before: &Report, after: &Report) -> String {
    let mut order: Vec<_> = before.operations.iter().map(|row| row.operation).collect();
    order.extend(after.operations.iter().map(|row| row.operation));
    let mut seen = Vec::new();
    order.retain(|operation| {
        let is_new = !seen.contains(operation);
        seen.push(*operation);
        is_new
    });
    let lines = order.into_iter().map(|operation| {
        let of = |report: &Report| {
            report.operations.iter().find(|row| row.operation == operation).cloned()
        };
        let (one, other) = (of(before), of(after));
        let both = |show: &dyn Fn(&Row) -> String| {
            [&one, &other].map(|row| row.as_ref().map_or_else(|| "-".to_owned(), show))
        };
        let [calls_before, calls_after] = both(&|row| row.calls.to_string());
        let [mean_before, mean_after] = both(&|row| us(mean(row)));
        let [p95_before, p95_after] = both(&|row| us(row.p95_us));
        let times = one
            .as_ref()
            .zip(other.as_ref())
            .map_or_else(|| "-".to_owned(), |(one, other)| factor(mean(one), mean(other)));
        [
            operation.name().to_owned(),
            calls_before,
            calls_after,
            mean_before,
            mean_after,
            times,
            p95_before,
            p95_after,
        ]
    });
    let heading = [
        "operation",
        "calls before",
        "after",
        "mean us before",
        "after",
        "times",
        "p95 us before",
        "after",
    ];
    table(heading, &[1, 2, 3, 4, 5, 6, 7], lines)
}

fn paths_compared(before: &Report, after: &Report) -> String {
    let find =
        |report: &Report, name: &str| report.paths.iter().find(|path| path.path == name).cloned();
    let mut names: Vec<&str> = before.paths.iter().map(|path| path.path.as_str()).collect();
    let new = after.paths.iter().map(|path| path.path.as_str());
    names.extend(new.filter(|name| find(before, name).is_none()));
    let lines = names.into_iter().take(PATHS_MAX).map(|name| {
        let (one, other) = (find(before, name), find(after, name));
        let both = |show: &dyn Fn(&Route) -> String| {
            [&one, &other].map(|path| path.as_ref().map_or_else(|| "-".to_owned(), show))
        };
        let [requests_before, requests_after] = both(&|path| path.requests.to_string());
        let [us_before, us_after] = both(&|path| or_hyphen(path.calls_us_per_request, us));
        let [share_before, share_after] = both(&|path| or_hyphen(path.share, percent));
        [
            visible(name, PATH_CHARS),
            requests_before,
            requests_after,
            us_before,
            us_after,
            share_before,
            share_after,
        ]
    });
    let heading =
        ["path", "requests before", "after", "us/request before", "after", "share before", "after"];
    table(heading, &[1, 2, 3, 4, 5, 6], lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::report::Total;

    #[test]
    fn only_calls_of_requests_are_related_to_their_time() {
        let total = Total {
            requests: 3,
            requests_us: 45_000.0,
            calls: 13,
            calls_us: 5700.0,
            calls_of_requests: 5,
            calls_of_requests_us: 4500.0,
            calls_by_path: 0,
            share: Some(0.1),
        };
        let of = |total| sums(&Report { total, ..Report::default() });
        let first =
            "3 requests took 45.0 ms; of that 4.5 ms (10.0 %) in 5 calls on the session directory";
        let second = "besides, 8 calls of 1.2 ms: of cron workers, the evented process and others without a request that \
                      was read";
        assert_eq!(of(total.clone()), format!("{first}\n{second}"));
        assert_eq!(of(Total { calls: 5, calls_us: 4500.0, ..total.clone() }), first);
        let none = Total { share: None, ..total };
        assert_eq!(of(none), "13 calls on the session directory, 5.7 ms");
    }
}
