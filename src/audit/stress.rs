//! A bounded load on the login page, a call and a cart: how long answers take, and whether anybody is
//! logged out because others are busy.
//!
//! Requests are sent at a fixed rate, whether answers come or not: a site that slows down does not slow
//! down its visitors. What would be too many at once is left out and counted.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::account::{self, Account, Trouble, log_out};
use super::browser::{Browser, Door};
use super::finding::{Finding, Grade, Question};
use crate::host::signals::Interrupts;
use serde_json::json;

/// The longest run.
pub(crate) const LONGEST: Duration = Duration::from_secs(600);
/// Requests a second.
pub(crate) const RATE_MAX: u32 = 200;
/// Requests under way at once.
const AT_ONCE: usize = 200;
/// Sessions that calls are made with.
const SESSIONS: usize = 4;
/// A call that reads the user's settings, and saves nothing in the session.
const CALL: &str = "/web/dataset/call_kw/res.users/context_get";
/// What a visitor asks instead, without an account.
const OPEN_CALL: &str = "/web/webclient/version_info";
const LOGIN_PAGE: &str = "/web/login";
const CART: &str = "/shop/cart";

/// How much is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub time: Duration,
    /// Requests a second.
    pub rate: u32,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Measured {
    /// How long requests were sent.
    pub seconds: f64,
    /// Requests a second, as asked for.
    pub rate: u32,
    /// Each kind of request.
    pub operations: Vec<Operation>,
    /// Each second in which a request began, from 0 on.
    pub by_second: Vec<Second>,
    /// Requests that would have been too many at once.
    pub left_out: u64,
    /// Why a kind of request was not sent.
    pub skipped: Vec<String>,
    pub interrupted: bool,
}

/// One kind of request. Times in milliseconds, from the connection to the last byte.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Operation {
    pub name: &'static str,
    pub requests: u64,
    pub errors: u64,
    /// Calls that were answered as if nobody were logged in.
    pub logouts: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// One second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Second {
    /// How many are before it.
    #[serde(rename = "second")]
    pub number: u64,
    pub requests: u64,
    pub errors: u64,
    pub logouts: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    Well,
    Error,
    LoggedOut,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    kind: usize,
    second: u64,
    took: Duration,
    outcome: Outcome,
}

/// What is asked, in turn.
#[derive(Clone)]
struct Kind {
    name: &'static str,
    /// The browsers that ask, in turn.
    browsers: Vec<Browser>,
    ask: Ask,
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    Page(&'static str),
    Call(&'static str),
}

/// Sends the load. With an account, calls are made by sessions of its own, which end with the run.
pub(crate) async fn run(
    browser: &Browser,
    account: Option<&Account>,
    load: Load,
) -> (Measured, Vec<Finding>) {
    let mut measured = Measured { rate: load.rate, ..Measured::default() };
    let mut sessions = Vec::new();
    if let Some(account) = account {
        for _ in 0..SESSIONS {
            let mut one = browser.fresh();
            match account.log_in(&mut one).await {
                Ok(_) => sessions.push(one),
                Err(trouble) => {
                    measured.skipped.push(format!("calls of a user: {trouble}"));
                    break;
                }
            }
        }
    }
    let kinds = kinds(browser, &sessions, &mut measured).await;
    let samples = send(&kinds, load, &mut measured).await;
    for one in &mut sessions {
        log_out(one).await;
    }
    sum_up(&kinds, &samples, &mut measured);
    let findings = findings(&measured, !sessions.is_empty());
    (measured, findings)
}

async fn kinds(browser: &Browser, sessions: &[Browser], measured: &mut Measured) -> Vec<Kind> {
    // One that has been there: Odoo 14 begins a session for each request without a cookie.
    let mut visitor = browser.fresh();
    if let Err(why) = visitor.get(Door::Front, LOGIN_PAGE).await {
        measured.skipped.push(format!("a visitor's cookie: {why}"));
    }
    let of_visitor = |name, ask| Kind { name, browsers: vec![visitor.clone()], ask };
    let mut kinds = vec![of_visitor("login page", Ask::Page(LOGIN_PAGE))];
    kinds.push(if sessions.is_empty() {
        of_visitor("call of a visitor", Ask::Call(OPEN_CALL))
    } else {
        Kind { name: "call of a user", browsers: sessions.to_vec(), ask: Ask::Call(CALL) }
    });
    match visitor.get(Door::Front, CART).await {
        Ok(answer) if answer.status == 200 => {
            kinds.push(Kind { name: "cart", browsers: vec![visitor], ask: Ask::Page(CART) });
        }
        Ok(answer) => {
            let why =
                format!("cart: {CART} is not there (HTTP {}), so there is no shop", answer.status);
            measured.skipped.push(why);
        }
        Err(why) => measured.skipped.push(format!("cart: {why}")),
    }
    kinds
}

async fn send(kinds: &[Kind], load: Load, measured: &mut Measured) -> Vec<Sample> {
    let began = Instant::now();
    let mut ticks = interval(Duration::from_secs(1) / load.rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way: JoinSet<Sample> = JoinSet::new();
    let mut samples = Vec::new();
    let mut number = 0_usize;
    loop {
        ticks.tick().await;
        measured.interrupted = Interrupts::noted();
        if measured.interrupted || began.elapsed() >= load.time {
            break;
        }
        while let Some(done) = under_way.try_join_next() {
            samples.extend(done.ok());
        }
        if under_way.len() >= AT_ONCE {
            measured.left_out += 1;
            continue;
        }
        let kind = number % kinds.len();
        let browsers = &kinds[kind].browsers;
        let browser = browsers[number / kinds.len() % browsers.len()].one_of_many();
        let (ask, second) = (kinds[kind].ask, began.elapsed().as_secs());
        under_way.spawn(async move {
            let (outcome, took) = one(browser, ask).await;
            Sample { kind, second, took, outcome }
        });
        number += 1;
    }
    measured.seconds = (began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    while let Some(done) = under_way.join_next().await {
        samples.extend(done.ok());
    }
    samples
}

async fn one(mut browser: Browser, ask: Ask) -> (Outcome, Duration) {
    let began = Instant::now();
    let outcome = match ask {
        Ask::Page(path) => match browser.get(Door::Front, path).await {
            Ok(answer) if answer.status < 400 => Outcome::Well,
            Ok(_) | Err(_) => Outcome::Error,
        },
        Ask::Call(path) => {
            let params = if path == CALL {
                json!({ "model": "res.users", "method": "context_get", "args": [], "kwargs": {} })
            } else {
                json!({})
            };
            match account::call(&mut browser, Door::Front, path, params).await {
                Ok(_) => Outcome::Well,
                Err(Trouble::Expired) => Outcome::LoggedOut,
                Err(_) => Outcome::Error,
            }
        }
    };
    (outcome, began.elapsed())
}

fn sum_up(kinds: &[Kind], samples: &[Sample], measured: &mut Measured) {
    for (number, kind) in kinds.iter().enumerate() {
        let of: Vec<&Sample> = samples.iter().filter(|sample| sample.kind == number).collect();
        let times = sorted(&of);
        measured.operations.push(Operation {
            name: kind.name,
            requests: of.len() as u64,
            errors: count(&of, Outcome::Error),
            logouts: count(&of, Outcome::LoggedOut),
            p50_ms: quantile_ms(&times, 50),
            p99_ms: quantile_ms(&times, 99),
            max_ms: quantile_ms(&times, 100),
        });
    }
    let mut seconds: BTreeMap<u64, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        seconds.entry(sample.second).or_default().push(sample);
    }
    for (second, of) in seconds {
        let times = sorted(&of);
        measured.by_second.push(Second {
            number: second,
            requests: of.len() as u64,
            errors: count(&of, Outcome::Error),
            logouts: count(&of, Outcome::LoggedOut),
            p50_ms: quantile_ms(&times, 50),
            p99_ms: quantile_ms(&times, 99),
        });
    }
}

fn count(samples: &[&Sample], outcome: Outcome) -> u64 {
    samples.iter().filter(|sample| sample.outcome == outcome).count() as u64
}

fn sorted(samples: &[&Sample]) -> Vec<Duration> {
    let mut times: Vec<Duration> = samples.iter().map(|sample| sample.took).collect();
    times.sort_unstable();
    times
}

/// The smallest time that as many percent do not exceed, to the tenth of a millisecond.
fn quantile_ms(sorted: &[Duration], percent: usize) -> f64 {
    let position = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    let time = sorted.get(position).copied().unwrap_or_default();
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

fn findings(measured: &Measured, has_users: bool) -> Vec<Finding> {
    let sum = |of: fn(&Operation) -> u64| measured.operations.iter().map(of).sum::<u64>();
    let requests = sum(|operation| operation.requests);
    let times: Vec<String> = measured
        .operations
        .iter()
        .map(|one| format!("{} p50 {:.1} ms, p99 {:.1} ms", one.name, one.p50_ms, one.p99_ms))
        .collect();
    let times = times.join("; ");
    let wrong = sum(|operation| operation.errors);
    let errors = if requests == 0 {
        Question::Errors.unknown("no request was sent", "run it for longer")
    } else if wrong > 0 || measured.left_out > 0 {
        let seen = format!(
            "{wrong} of {requests} requests failed, {} were left out because {AT_ONCE} were waiting; {times}",
            measured.left_out
        );
        let remedy = "look into Odoo's log; more workers (and limit_time_real), or a lower --rate";
        Question::Errors.finding(Grade::Warn, seen, remedy)
    } else {
        Question::Errors.pass(format!("none in {requests} requests; {times}"))
    };
    let logged_out = sum(|operation| operation.logouts);
    let logouts = match (has_users, logged_out) {
        (false, _) => Question::Logouts.finding(
            Grade::Note,
            "not tried: without an account nobody is logged in",
            "",
        ),
        (true, 0) => Question::Logouts.pass("none"),
        (true, count) => Question::Logouts.finding(
            Grade::Fail,
            format!("{count} calls were answered as if nobody were logged in"),
            "sessionfs check, and the log of sessionfs at the seconds that the report names",
        ),
    };
    vec![errors, logouts]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_samples() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert!((quantile_ms(&times, 50) - 100.0).abs() < 0.01);
        assert!((quantile_ms(&times, 99) - 198.0).abs() < 0.01);
        assert!((quantile_ms(&times, 100) - 200.0).abs() < 0.01);
        assert!(quantile_ms(&[], 99).abs() < 0.01);
    }

    #[test]
    fn seconds_and_kinds_are_counted_apart() {
        let kind = |name| Kind { name, browsers: Vec::new(), ask: Ask::Page(CART) };
        let sample = |kind, second, ms, outcome| Sample {
            kind,
            second,
            took: Duration::from_millis(ms),
            outcome,
        };
        let samples = [
            sample(0, 0, 10, Outcome::Well),
            sample(0, 2, 30, Outcome::Error),
            sample(1, 2, 20, Outcome::LoggedOut),
        ];
        let mut measured = Measured::default();
        sum_up(&[kind("a"), kind("b")], &samples, &mut measured);
        let seconds: Vec<_> = measured
            .by_second
            .iter()
            .map(|one| (one.number, one.requests, one.errors, one.logouts))
            .collect();
        assert_eq!(seconds, [(0, 1, 0, 0), (2, 2, 1, 1)]);
        assert_eq!((measured.operations[0].requests, measured.operations[1].logouts), (2, 1));
        let grades: Vec<Grade> = findings(&measured, true).iter().map(|one| one.grade).collect();
        assert_eq!(grades, [Grade::Warn, Grade::Fail]);
        let nobody = findings(&Measured::default(), false);
        assert_eq!((nobody[0].grade, nobody[1].grade), (Grade::Unknown, Grade::Note));
    }
}
