//! A report as text, as JSON, and as a page: what an auditor asks for, with the numbers in it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Longest, Range, Report, Shown, Time};
use crate::config::lifetime::value_text;
use crate::config::units::duration_text;
use crate::foreign::escaped;
use crate::html::{Cell, Mark, Page};
use crate::session::policy::Lifetimes;
use crate::session::policy::rule::Rule;
use crate::trail::entry::Entry;

/// The heading of what [`Report::identities_changed`] has.
const CHANGED_HANDS: &str = "Sessions that became another user's";
/// PCI DSS asks for a new login after more than that.
const PCI_IDLE_MS: u64 = 15 * 60 * 1000;

/// What was found of a requirement.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Met,
    /// As far as the trail goes; there are times of which it says nothing.
    MetAsFarAsKnown,
    NotMet,
    NotKnown,
}

impl Verdict {
    fn words(self) -> (&'static str, Mark) {
        match self {
            Self::Met => ("met", Mark::Good),
            Self::MetAsFarAsKnown => ("met as far as known", Mark::Warning),
            Self::NotMet => ("not met", Mark::Bad),
            Self::NotKnown => ("not known", Mark::Warning),
        }
    }
}

/// A requirement of a standard, and what the trail says to it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Requirement {
    pub standard: &'static str,
    pub asks: &'static str,
    pub verdict: Verdict,
    pub found: String,
}

/// The whole of it, for programs.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    report: &'a Report,
    requirements: Vec<Requirement>,
}

/// What the standards ask about sessions, and what the trail says to it.
pub(crate) fn requirements(report: &Report) -> Vec<Requirement> {
    vec![
        Requirement {
            standard: "PCI DSS 4.0.1, 8.2.8",
            asks: "A session that was idle for more than 15 minutes has to authenticate again.",
            verdict: judged(report, |lifetimes| lifetimes.idle_ms <= PCI_IDLE_MS),
            found: idle_found(report),
        },
        Requirement {
            standard: "OWASP ASVS 5.0, 7.3.1",
            asks: "There is an inactivity timeout: re-authentication is enforced by it.",
            verdict: judged(report, |_| true),
            found: idle_found(report),
        },
        Requirement {
            standard: "OWASP ASVS 5.0, 7.3.2",
            asks: "There is an absolute maximum session lifetime: re-authentication is enforced by it.",
            verdict: judged(report, |lifetimes| lifetimes.absolute_ms.is_some()),
            found: absolute_found(report),
        },
        Requirement {
            standard: "OWASP ASVS 5.0, 7.4.1",
            asks: "When a session is terminated (logout, expiry), it cannot be used any more.",
            verdict: judged(report, |_| true),
            found: format!(
                "{} ended by a logout, {} by a command or by Odoo on its socket. {} that would have \
                 restored or destroyed a session after its end {} refused.",
                sessions(count(&report.ended, "logout")),
                count(&report.ended, "killed"),
                many(report.saves_refused.values().sum(), "save", "saves"),
                if report.saves_refused.values().sum::<u64>() == 1 { "was" } else { "were" },
            ),
        },
    ]
}

/// Whether all lifetimes of the period are as they should be.
fn judged(report: &Report, is_met: impl Fn(&Lifetimes) -> bool) -> Verdict {
    let Some(first) = report.lifetimes.first() else { return Verdict::NotKnown };
    if !report.lifetimes.iter().all(|held| is_met(&held.longest)) {
        return Verdict::NotMet;
    }
    let since_begin = first.from <= report.from.max(report.first.unwrap_or(report.from));
    let is_whole = report.gaps.is_empty()
        && report.nothing_ended.count == 0
        && report.redis_lost.count == 0
        && report.left_out == 0
        && report.unreadable == 0
        && report.unknown == 0
        && report.unordered == 0
        && report.lifetimes_not_shown == 0
        && count(&report.ended, "lost") == 0;
    if is_whole && since_begin { Verdict::Met } else { Verdict::MetAsFarAsKnown }
}

/// The values that held, one after the other.
fn values(report: &Report, value: impl Fn(&Lifetimes) -> Option<u64>) -> String {
    let mut all: Vec<Option<u64>> =
        report.lifetimes.iter().map(|held| value(&held.lifetimes)).collect();
    all.dedup();
    let words = all.iter().map(|ms| ms.map_or("none".to_owned(), duration_text));
    words.collect::<Vec<_>>().join(", then ")
}

/// What rules may have given to some, where that is longer.
fn longest_by_rule(report: &Report, value: impl Fn(&Lifetimes) -> Option<u64>) -> String {
    let longer =
        report.lifetimes.iter().filter(|held| value(&held.longest) != value(&held.lifetimes));
    let longest = longer.map(|held| value(&held.longest)).max_by_key(|ms| ms.unwrap_or(u64::MAX));
    longest.map_or_else(String::new, |ms| {
        let ms = ms.map_or("none".to_owned(), duration_text);
        format!(" Rules gave some sessions others: {ms} at most.")
    })
}

fn idle_found(report: &Report) -> String {
    if report.lifetimes.is_empty() {
        return "No entry of the period says which idle time held.".to_owned();
    }
    let held = values(report, |lifetimes| Some(lifetimes.idle_ms));
    let longest = report.longest_idle.as_ref().map_or_else(String::new, |longest| {
        format!(
            " The longest time between the last use of a session and its end was {}.",
            whole_seconds(longest.ms)
        )
    });
    format!(
        "The idle time was {held}.{} {} ended because of it.{longest} A session whose idle time is over is \
         not served, whenever its end is written; the exceptions name the times when none was ended.",
        longest_by_rule(report, |lifetimes| Some(lifetimes.idle_ms)),
        sessions(count(&report.ended, "idle")),
    )
}

fn absolute_found(report: &Report) -> String {
    if report.lifetimes.is_empty() {
        return "No entry of the period says which absolute lifetime held.".to_owned();
    }
    let held = values(report, |lifetimes| lifetimes.absolute_ms);
    let longest = report.longest_life.as_ref().map_or_else(String::new, |longest| {
        format!(" The longest life of a session that ended was {}.", whole_seconds(longest.ms))
    });
    let held = match &*held {
        "none" => "No absolute lifetime held (lifetime.absolute)".to_owned(),
        held => format!("The absolute lifetime was {held}"),
    };
    format!(
        "{held}.{} {} ended because of it.{longest}",
        longest_by_rule(report, |lifetimes| lifetimes.absolute_ms),
        sessions(count(&report.ended, "absolute"))
    )
}

fn rule_text(rule: &Rule) -> String {
    format!("{}: {}", rule.place(), value_text(rule.ms))
}

fn count(counts: &BTreeMap<String, u64>, reason: &str) -> u64 {
    counts.get(reason).copied().unwrap_or(0)
}

fn many(count: u64, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

fn sessions(count: u64) -> String {
    many(count, "session", "sessions")
}

fn whole_seconds(ms: u64) -> String {
    duration_text(ms / 1000 * 1000)
}

fn time(Time(ms): Time) -> String {
    let text = crate::trail::entry::time_text(ms);
    // Seconds are enough for people.
    let (whole, _) = text.split_once('.').unwrap_or((&text, ""));
    format!("{}Z", whole.trim_end_matches('Z').replace('T', " "))
}

fn range(range: Option<Range>) -> String {
    match range {
        None => "not known".to_owned(),
        Some(Range { least, most }) if least == most => most.to_string(),
        Some(Range { least, most }) => format!("{least} to {most}"),
    }
}

/// What a reader has to know before he relies on the rest.
fn exceptions(report: &Report) -> Vec<String> {
    let mut all = Vec::new();
    for lost in &report.redis_lost.entries {
        let how_many = lost
            .count
            .map_or("it is not known how many".to_owned(), |count| format!("about {count}"));
        all.push(format!(
            "{}: Redis lost what it held, the sessions of people among it ({how_many}). They ended.",
            time(Time(lost.at_ms))
        ));
    }
    for entry in &report.nothing_ended.entries {
        all.push(format!(
            "{}: for {} until then, {} ended no session: {}.",
            time(Time(entry.at_ms)),
            whole_seconds(entry.lasted_ms.unwrap_or(0)),
            entry.server.as_deref().unwrap_or("a server"),
            entry.reason.as_deref().unwrap_or("it is not known why"),
        ));
    }
    let unshown = report.nothing_ended.count - report.nothing_ended.entries.len() as u64;
    if unshown > 0 {
        all.push(format!("The same {unshown} times more."));
    }
    let known = report.lifetimes.first().map(|held| held.from);
    if let Some(known) = known.filter(|known| *known > report.from) {
        let from = time(report.from);
        all.push(format!("{from} to {}: which lifetimes held is not known.", time(known)));
    }
    if report.lifetimes_not_shown > 0 {
        all.push(format!(
            "The lifetimes changed {} times more than is shown; those are not judged.",
            report.lifetimes_not_shown
        ));
    }
    for gap in &report.gaps {
        all.push(format!(
            "{} to {}: no entry; nothing is known of that time.",
            time(gap.from),
            time(gap.to)
        ));
    }
    if report.entries == 0 {
        all.push("There is no entry of the period: nothing is known of it.".to_owned());
    }
    let lost = count(&report.ended, "lost");
    if lost > 0 {
        all.push(format!(
            "{} ended without a trace: whose they were is not known.",
            sessions(lost)
        ));
    }
    if report.left_out > 0 {
        all.push(format!("{} could not be kept.", many(report.left_out, "entry", "entries")));
    }
    if report.unreadable > 0 {
        all.push(format!(
            "{} of the files are no entries.",
            many(report.unreadable, "line", "lines")
        ));
    }
    if report.unknown > 0 {
        all.push(format!(
            "{} of a later version are not counted.",
            many(report.unknown, "entry", "entries")
        ));
    }
    if report.unordered > 0 {
        all.push(format!(
            "{} after later ones: which lifetimes held, and which sessions lived, may be wrong.",
            many(report.unordered, "entry came", "entries came")
        ));
    }
    if report.repeated > 0 {
        all.push(format!(
            "{} twice, and counted once.",
            many(report.repeated, "entry was met", "entries were met")
        ));
    }
    if all.is_empty() {
        all.push("none".to_owned());
    }
    all
}

/// Names and values of the first section.
fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let servers: Vec<&str> = report.servers.iter().map(String::as_str).collect();
    let first = report.first.map_or("none".to_owned(), time);
    let last = report.last.map_or("none".to_owned(), time);
    vec![
        ("period", format!("{} to {} (UTC)", time(report.from), time(report.to))),
        ("entries", format!("{}, from {first} to {last}", report.entries)),
        ("servers", if servers.is_empty() { "none".to_owned() } else { servers.join(", ") }),
        ("began", total(&report.began)),
        (
            "ended",
            format!("{}, of which {} had begun before", total(&report.ended), report.began_before),
        ),
        ("alive at the end", format!("{}, of those that are seen to begin", report.alive_at_end)),
        ("sessions of people", range(report.authenticated)),
        ("sessions of visitors", range(report.anonymous)),
    ]
}

fn total(counts: &BTreeMap<String, u64>) -> String {
    counts.values().sum::<u64>().to_string()
}

/// Why sessions end or begin, and saves are refused.
fn reasons(report: &Report) -> Vec<(&'static str, String, u64)> {
    let kinds = [
        ("began", &report.began),
        ("ended", &report.ended),
        ("save refused", &report.saves_refused),
    ];
    kinds
        .into_iter()
        .flat_map(|(kind, counts)| {
            counts.iter().map(move |(reason, count)| (kind, reason.clone(), *count))
        })
        .collect()
}

fn whose(longest: &Longest) -> String {
    let [database, login] =
        [&longest.database, &longest.login].map(|text| text.as_deref().unwrap_or("-"));
    format!(
        "{} ({login} of {database}, {}, ended {}: {})",
        whole_seconds(longest.ms),
        longest.alias,
        time(longest.ended),
        longest.reason
    )
}

fn done(entry: &Entry) -> [String; 4] {
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    [time(Time(entry.at_ms)), text(&entry.what), text(&entry.by), text(&entry.server)]
}

/// When, whose it was, whose it became, and which session that is.
fn changed_hands(entry: &Entry) -> [String; 4] {
    let user = |login: Option<&str>, id: Option<i64>, database: Option<&str>| {
        let id = id.map_or("-".to_owned(), |id| id.to_string());
        format!("{} (user id {id}) of {}", login.unwrap_or("-"), database.unwrap_or("-"))
    };
    let former = entry.former.clone().unwrap_or_default();
    [
        time(Time(entry.at_ms)),
        user(former.login.as_deref(), former.user_id, former.database.as_deref()),
        user(entry.login.as_deref(), entry.user_id, entry.database.as_deref()),
        entry.alias.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

/// What people did: changed settings and commands.
fn deeds(report: &Report) -> [(&'static str, &Shown); 2] {
    [("Settings that were changed", &report.settings_changed), ("Commands", &report.commands)]
}

/// For people, on a terminal or in a mail.
pub(crate) fn text(report: &Report) -> String {
    let mut text = String::new();
    // What is from outside is one line, whatever is in it.
    let mut line = |line: String| {
        text.push_str(&escaped(&line));
        text.push('\n');
    };
    line("Sessions: what was configured and enforced".to_owned());
    for (name, value) in facts(report) {
        line(format!("  {name:<22}{value}"));
    }
    for (name, longest) in
        [("longest idle", &report.longest_idle), ("longest life", &report.longest_life)]
    {
        let value = longest.as_ref().map_or("none".to_owned(), whose);
        line(format!("  {name:<22}{value}"));
    }
    line(String::new());
    line("Why".to_owned());
    for (kind, reason, count) in reasons(report) {
        line(format!("  {kind:<14}{reason:<14}{count:>8}"));
    }
    line(String::new());
    line("Lifetimes that held".to_owned());
    for held in &report.lifetimes {
        let absolute = held.lifetimes.absolute_ms.map_or("none".to_owned(), duration_text);
        let idle = duration_text(held.lifetimes.idle_ms);
        line(format!(
            "  {} to {}: idle {idle}, absolute {absolute}",
            time(held.from),
            time(held.to)
        ));
        for rule in &held.rules {
            line(format!("    {}", rule_text(rule)));
        }
    }
    for (heading, deeds) in deeds(report) {
        line(String::new());
        line(format!("{heading}: {}", deeds.count));
        for entry in &deeds.entries {
            let [at, what, by, server] = done(entry);
            line(format!("  {at}  {what}, by {by} ({server})"));
        }
    }
    line(String::new());
    line(format!("{CHANGED_HANDS}: {}", report.identities_changed.count));
    for entry in &report.identities_changed.entries {
        let [at, former, now, alias] = changed_hands(entry);
        line(format!("  {at}  {former} became {now}, {alias}"));
    }
    line(String::new());
    line("Exceptions".to_owned());
    for exception in exceptions(report) {
        line(format!("  {exception}"));
    }
    line(String::new());
    line("What standards ask for".to_owned());
    for Requirement { standard, asks, verdict, found } in requirements(report) {
        line(format!("  {standard}: {}", verdict.words().0));
        line(format!("    {asks}"));
        line(format!("    {found}"));
    }
    text
}

/// For programs.
pub(crate) fn json(report: &Report) -> impl Serialize + '_ {
    Json { report, requirements: requirements(report) }
}

/// A page that stands alone.
pub(crate) fn html(report: &Report) -> String {
    let mut page = Page::new("Sessions: what was configured and enforced");
    page.facts(facts(report));
    page.heading("What standards ask for");
    page.table(
        ["requirement", "found", "verdict"],
        requirements(report).into_iter().map(|requirement| {
            let (words, mark) = requirement.verdict.words();
            let asked = Cell {
                paragraphs: vec![requirement.standard.to_owned(), requirement.asks.to_owned()],
                mark: Mark::Plain,
            };
            [asked, requirement.found.into(), Cell::new(words, mark)]
        }),
    );
    page.heading("Sessions of people");
    page.table(
        ["", "reason", "number"],
        reasons(report).into_iter().map(|(kind, reason, count)| {
            [kind.into(), reason.into(), Cell::new(count.to_string(), Mark::Number)]
        }),
    );
    let longest = [("longest idle", &report.longest_idle), ("longest life", &report.longest_life)];
    page.facts(
        longest.map(|(name, longest)| (name, longest.as_ref().map_or("none".to_owned(), whose))),
    );
    page.heading("Lifetimes that held");
    page.table(
        ["from", "to", "idle", "absolute", "visitors, idle", "for some"],
        report.lifetimes.iter().map(|held| {
            let absolute = held.lifetimes.absolute_ms.map_or("none".to_owned(), duration_text);
            [
                time(held.from).into(),
                time(held.to).into(),
                duration_text(held.lifetimes.idle_ms).into(),
                absolute.into(),
                duration_text(held.lifetimes.anonymous_idle_ms).into(),
                held.rules.iter().map(rule_text).collect::<Vec<_>>().join("; ").into(),
            ]
        }),
    );
    for (heading, deeds) in deeds(report) {
        page.heading(&format!("{heading}: {}", deeds.count));
        page.table(
            ["when", "what", "by whom", "server"],
            deeds.entries.iter().map(|entry| done(entry).map(Cell::from)),
        );
    }
    page.heading(&format!("{CHANGED_HANDS}: {}", report.identities_changed.count));
    page.table(
        ["when", "was", "became", "session"],
        report.identities_changed.entries.iter().map(|entry| changed_hands(entry).map(Cell::from)),
    );
    page.heading("Exceptions");
    for exception in exceptions(report) {
        page.paragraph(&exception);
    }
    page.finish()
}
