//! What was found, for people and for programs. Fields of the JSON are never removed.

use std::collections::HashMap;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::calls::Operation;
use super::files::Files;
use super::route::route;
use super::snapshot::{SLOWEST, Served, Slow, Snapshot, Sums};

/// How many routes a report has: those that waited longest. The rest is one line.
const ROUTES_MAX: usize = 200;
/// The name of what evented processes do.
const EVENTED: &str = "evented";
/// The name of what no request asks for.
const NOBODY: &str = "no request";
/// The name of what is not told apart.
const REST: &str = "others";

/// What was observed, and how.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Scene {
    pub directory: String,
    /// The kind of its filesystem.
    pub filesystem: String,
    /// How long.
    pub seconds: f64,
    /// Whether a signal ended it early.
    pub interrupted: bool,
    /// The processes at the start, with what they had started.
    pub pids: Vec<i32>,
    /// Those of them that serve many requests in one thread.
    pub evented_pids: Vec<i32>,
    /// The ports of which requests were read.
    pub ports: Vec<u16>,
}

/// The result.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub scene: Scene,
    /// Each operation that was seen.
    pub operations: Vec<Row>,
    /// All requests, and all calls on the session directory.
    pub total: Total,
    /// By the path of the request, those that waited longest first.
    pub paths: Vec<Route>,
    /// The longest first.
    pub slowest: Vec<SlowCall>,
    pub files: Files,
}

/// The calls of one operation; times in microseconds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Row {
    pub operation: Operation,
    pub calls: u64,
    /// Calls that returned an error; of `open` and `stat` mostly because there is no such file.
    pub failed: u64,
    pub sum_us: f64,
    pub p50_us: f64,
    pub p95_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

/// Sums over everything; times in microseconds.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Total {
    pub requests: u64,
    /// From the first byte of a request to the last of its answer.
    pub requests_us: f64,
    /// All calls, also those for no request.
    pub calls: u64,
    pub calls_us: f64,
    /// Of these, those for a request.
    pub calls_of_requests: u64,
    pub calls_of_requests_us: f64,
    /// Of `calls`, those that were known by a path, and not by a descriptor.
    pub calls_by_path: u64,
    /// The share of the time of requests that they waited for calls on the session directory, from 0 to 1; `None`
    /// without requests.
    pub share: Option<f64>,
}

/// The requests of one path; times in microseconds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Route {
    pub path: String,
    pub requests: u64,
    pub requests_us: f64,
    pub calls: u64,
    pub calls_us: f64,
    /// `None` where requests are not told apart.
    pub calls_per_request: Option<f64>,
    pub calls_us_per_request: Option<f64>,
    pub share: Option<f64>,
}

/// One slow call.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct SlowCall {
    pub operation: Operation,
    pub us: f64,
    /// Its error, if it failed.
    pub error: Option<String>,
    /// The path of the request.
    pub path: String,
    /// Seconds before the end of the measurement.
    pub before_end_seconds: f64,
}

/// Two reports, of one directory or of two.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    pub before: Report,
    pub after: Report,
}

impl Report {
    /// Sums up what was counted until `now_ns` on the monotonic clock.
    pub(crate) fn new(scene: Scene, snapshot: &Snapshot, files: Files, now_ns: u64) -> Self {
        let counted = Operation::ALL.into_iter().zip(&snapshot.operations);
        let operations = counted
            .filter(|(_, counted)| counted.calls > 0)
            .map(|(operation, counted)| {
                // The middle of a bucket may be above the longest of all.
                let quantile =
                    |per_mille| us(counted.histogram.quantile_ns(per_mille).min(counted.max_ns));
                Row {
                    operation,
                    calls: counted.calls,
                    failed: counted.failed,
                    sum_us: us(counted.sum_ns),
                    p50_us: quantile(500),
                    p95_us: quantile(950),
                    p99_us: quantile(990),
                    max_us: us(counted.max_ns),
                }
            })
            .collect();
        Self {
            scene,
            operations,
            total: total(snapshot),
            paths: paths(snapshot),
            slowest: slowest(&snapshot.slowest, now_ns),
            files,
        }
    }
}

/// Nanoseconds in microseconds, to the tenth.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of hours fit exactly")]
fn us(ns: u64) -> f64 {
    (ns as f64 / 100.0).round() / 10.0
}

/// To the thousandth; `None` where there is nothing to divide by.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of hours fit exactly")]
fn ratio(dividend: u64, divisor: u64) -> Option<f64> {
    (divisor > 0).then(|| (dividend as f64 / divisor as f64 * 1e3).round() / 1e3)
}

fn total(snapshot: &Snapshot) -> Total {
    let all = snapshot.total;
    // Evented processes have calls, and no requests that are told apart.
    let mut others = Sums::default();
    for (_, sums) in snapshot.routes.iter().filter(|(served, _)| !is_request(served)) {
        others.add(*sums);
    }
    let of_requests = all.without(others);
    Total {
        requests: of_requests.requests,
        requests_us: us(of_requests.requests_ns),
        calls: all.calls,
        calls_us: us(all.calls_ns),
        calls_of_requests: of_requests.calls,
        calls_of_requests_us: us(of_requests.calls_ns),
        calls_by_path: snapshot.operations.iter().map(|counted| counted.by_path).sum(),
        share: ratio(of_requests.calls_ns, of_requests.requests_ns),
    }
}

fn is_request(served: &Served) -> bool {
    matches!(served, Served::Request { .. })
}

fn name(served: &Served) -> String {
    match served {
        Served::Request { path, is_cut } => route(path, *is_cut),
        Served::Evented => EVENTED.to_owned(),
        Served::Nobody => NOBODY.to_owned(),
    }
}

fn paths(snapshot: &Snapshot) -> Vec<Route> {
    let mut sums: HashMap<String, Sums> = HashMap::new();
    let mut kept = Sums::default();
    for (served, counted) in &snapshot.routes {
        sums.entry(name(served)).or_default().add(*counted);
        kept.add(*counted);
    }
    let mut all: Vec<(String, Sums)> = sums.into_iter().collect();
    all.sort_unstable_by(|(one, a), (other, b)| {
        (b.calls_ns, b.requests, one).cmp(&(a.calls_ns, a.requests, other))
    });
    let mut rest = snapshot.total.without(kept);
    for (_, sums) in all.drain(all.len().min(ROUTES_MAX)..) {
        rest.add(sums);
    }
    if rest != Sums::default() {
        all.push((REST.to_owned(), rest));
    }
    all.into_iter().map(|(path, sums)| line(path, sums)).collect()
}

fn line(path: String, sums: Sums) -> Route {
    Route {
        path,
        requests: sums.requests,
        requests_us: us(sums.requests_ns),
        calls: sums.calls,
        calls_us: us(sums.calls_ns),
        calls_per_request: ratio(sums.calls, sums.requests),
        calls_us_per_request: ratio(sums.calls_ns, sums.requests * 1000),
        // What has no request that was read may have time of requests, and that is no measure of it.
        share: ratio(sums.calls_ns, sums.requests_ns).filter(|_| sums.requests > 0),
    }
}

fn slowest(calls: &[Slow], now_ns: u64) -> Vec<SlowCall> {
    let mut calls: Vec<&Slow> = calls.iter().collect();
    calls.sort_unstable_by_key(|call| std::cmp::Reverse(call.duration_ns));
    calls
        .into_iter()
        .take(SLOWEST)
        .filter_map(|call| {
            let errno = call.result.checked_neg().and_then(|result| i32::try_from(result).ok());
            Some(SlowCall {
                operation: *Operation::ALL.get(call.operation)?,
                us: us(call.duration_ns),
                error: errno
                    .filter(|errno| *errno > 0)
                    .map(|errno| Errno::from_raw(errno).to_string()),
                path: name(&call.served),
                before_end_seconds: ratio(now_ns.saturating_sub(call.ended_ns), 1_000_000_000)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::Operations;
    use super::*;

    fn request(path: &str) -> Served {
        Served::Request { path: path.to_owned(), is_cut: false }
    }

    fn sums(requests: u64, requests_ns: u64, calls: u64, calls_ns: u64) -> Sums {
        Sums { requests, requests_ns, calls, calls_ns }
    }

    fn snapshot() -> Snapshot {
        let mut open = Operations {
            calls: 4,
            failed: 1,
            sum_ns: 4000,
            max_ns: 2000,
            by_path: 3,
            ..Operations::default()
        };
        open.histogram.0[36] = 4;
        Snapshot {
            operations: [vec![open], vec![Operations::default(); 8]].concat(),
            routes: vec![
                (request("/web/content/1"), sums(1, 10_000, 2, 1000)),
                (request("/web/content/22"), sums(1, 30_000, 2, 3000)),
                (Served::Nobody, sums(0, 0, 1, 500)),
                (Served::Evented, sums(0, 0, 7, 700)),
            ],
            total: sums(3, 45_000, 13, 5700),
            slowest: vec![
                Slow {
                    duration_ns: 9,
                    ended_ns: 0,
                    operation: 99,
                    result: 0,
                    served: Served::Nobody,
                },
                Slow {
                    duration_ns: 900,
                    ended_ns: 0,
                    operation: 1,
                    result: 5,
                    served: Served::Nobody,
                },
                Slow {
                    duration_ns: 2000,
                    ended_ns: 10,
                    operation: 0,
                    result: -2,
                    served: request("/web"),
                },
            ],
        }
    }

    #[test]
    fn paths_of_one_route_are_one_line_and_nothing_is_lost() {
        let report = Report::new(Scene::default(), &snapshot(), Files::default(), 10);
        let names: Vec<&str> = report.paths.iter().map(|path| path.path.as_str()).collect();
        assert_eq!(names, ["/web/content/0", "evented", "no request", "others"]);
        let web = &report.paths[0];
        assert_eq!((web.requests, web.calls, web.calls_per_request), (2, 4, Some(2.0)));
        assert_eq!((web.calls_us_per_request, web.share), (Some(2.0), Some(0.1)));
        let others = &report.paths[3];
        assert_eq!((others.requests, others.calls, others.calls_us), (1, 1, 0.5));
        assert!((report.total.calls_of_requests_us - 4.5).abs() < f64::EPSILON);
        assert_eq!((report.total.calls, report.total.calls_of_requests), (13, 5));
        assert_eq!((report.total.share, report.total.calls_by_path), (Some(0.1), 3));
    }

    #[test]
    fn operations_that_were_seen_are_rows_and_slow_calls_are_sorted() {
        let report = Report::new(Scene::default(), &snapshot(), Files::default(), 1_500_000_010);
        assert_eq!(report.operations.len(), 1);
        let open = &report.operations[0];
        assert_eq!((open.operation, open.calls, open.failed), (Operation::Open, 4, 1));
        assert_eq!((open.p50_us, open.max_us), (1.2, 2.0));
        let slow: Vec<(Operation, &str)> =
            report.slowest.iter().map(|call| (call.operation, call.path.as_str())).collect();
        assert_eq!(slow, [(Operation::Open, "/web"), (Operation::Read, "no request")]);
        assert_eq!(report.slowest[0].error.as_deref(), Some("ENOENT: No such file or directory"));
        assert_eq!(
            (report.slowest[1].error.as_deref(), report.slowest[0].before_end_seconds),
            (None, 1.5)
        );
    }

    #[test]
    fn the_json_can_be_read_again() {
        let report = Report::new(Scene::default(), &snapshot(), Files::default(), 10);
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
