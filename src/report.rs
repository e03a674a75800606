//! What the entries of a period say: how many sessions there were, why they ended, which lifetimes held, what was
//! changed, and what is not known.
//!
//! Entries are read one after the other ([`merge`]), and what is kept of them has a bound. [`document`] puts it in words.

pub(crate) mod document;
pub(crate) mod merge;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::io::BufRead;

use serde::{Serialize, Serializer};

use self::merge::{Merged, Source, Unreadable};
use crate::session::policy::Lifetimes;
use crate::session::policy::rule::Rule;
use crate::session::policy::rules::Rules;
use crate::trail::entry::{self, Entry, Event};

/// How many of each kind are shown one by one.
const SHOWN: usize = 500;
/// How many lives are known at the same time, by numbers of eight bytes. Beyond it beginnings and ends are not matched.
const LIVES: usize = 2_000_000;
/// An entry that is written twice is met twice within as many others.
const REPEATED_WITHIN: usize = 100_000;
/// What holds is written each hour. A longer silence is a gap.
const SILENCE_MS: u64 = 2 * 60 * 60 * 1000;

/// A time, written as RFC 3339.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Time(pub u64);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        entry::write_time(&self.0, serializer)
    }
}

/// Which entries are meant: from the first moment up to, and without, the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Period {
    pub from_ms: u64,
    pub to_ms: u64,
}

/// Some time, and whose.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Longest {
    pub ms: u64,
    pub ended: Time,
    pub reason: String,
    pub alias: String,
    pub database: Option<String>,
    pub login: Option<String>,
}

/// From when to when something was so.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Held {
    pub from: Time,
    pub to: Time,
    /// Those of all sessions but for what a rule says.
    #[serde(flatten)]
    pub lifetimes: Lifetimes,
    pub rules: Vec<Rule>,
    /// The longest that a session might have.
    #[serde(skip)]
    pub longest: Lifetimes,
}

/// Nothing is known of that time.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Gap {
    pub from: Time,
    pub to: Time,
}

/// Least and most.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Range {
    pub least: u64,
    pub most: u64,
}

impl Range {
    fn take(range: &mut Option<Self>, value: Option<u64>) {
        let Some(value) = value else { return };
        let range = range.get_or_insert(Self { least: value, most: value });
        (range.least, range.most) = (range.least.min(value), range.most.max(value));
    }
}

/// Some entries, and how many there were.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Shown {
    pub count: u64,
    /// The first of them.
    pub entries: Vec<Entry>,
}

impl Shown {
    fn take(&mut self, entry: Entry) {
        self.count += 1;
        if self.entries.len() < SHOWN {
            self.entries.push(entry);
        }
    }
}

/// The sums. Its fields are a format that others read.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub from: Time,
    pub to: Time,
    /// Of the entries of the period.
    pub first: Option<Time>,
    pub last: Option<Time>,
    pub entries: u64,
    pub servers: BTreeSet<String>,
    /// Sessions of people that began, by how.
    pub began: BTreeMap<String, u64>,
    /// Sessions of people that ended, by why.
    pub ended: BTreeMap<String, u64>,
    /// Of those that ended, how many had begun before the first entry that is known.
    pub began_before: u64,
    /// Of those that began, how many had not ended by the end of the period.
    pub alive_at_end: u64,
    /// The number of living sessions, as it was counted or estimated now and then.
    pub authenticated: Option<Range>,
    pub anonymous: Option<Range>,
    /// Of a session that ended, since its last use.
    pub longest_idle: Option<Longest>,
    /// Of a session that ended, since its login.
    pub longest_life: Option<Longest>,
    pub lifetimes: Vec<Held>,
    /// How many more there were, one after the other.
    pub lifetimes_not_shown: u64,
    pub settings_changed: Shown,
    pub commands: Shown,
    /// Sessions that became another user's.
    pub identities_changed: Shown,
    /// Saves that would have revived or destroyed a session, by why.
    pub saves_refused: BTreeMap<String, u64>,
    pub redis_lost: Shown,
    /// When nothing was ended, and why.
    pub nothing_ended: Shown,
    pub gaps: Vec<Gap>,
    /// Entries that the trail says it could not keep.
    pub left_out: u64,
    /// Entries of a later version.
    pub unknown: u64,
    /// Entries that were met twice, and are counted once.
    pub repeated: u64,
    /// Lines that are no entries.
    pub unreadable: u64,
    /// Entries that came after later ones, by more than is put in order.
    pub unordered: u64,
}

/// A report under way.
pub(crate) struct Reader {
    period: Period,
    report: Report,
    /// Lives that have begun and not ended.
    lives: HashSet<u64>,
    are_all_lives_known: bool,
    /// The last entries, in two parts, so that the older ones can be forgotten.
    met: [HashSet<u64>; 2],
    last_ms: u64,
    held: Option<(u64, Rules)>,
}

impl Reader {
    pub(crate) fn new(period: Period) -> Self {
        Self {
            period,
            report: Report {
                from: Time(period.from_ms),
                to: Time(period.to_ms),
                ..Report::default()
            },
            lives: HashSet::new(),
            are_all_lives_known: true,
            met: Default::default(),
            last_ms: 0,
            held: None,
        }
    }

    /// Takes all lines of these files, by time.
    pub(crate) fn read<R: BufRead>(&mut self, files: Vec<Source<R>>) -> Result<(), Unreadable> {
        let mut entries = Merged::of(files);
        while let Some(entry) = entries.next()? {
            self.take(entry);
        }
        self.report.unreadable += entries.unreadable;
        Ok(())
    }

    fn take(&mut self, entry: Entry) {
        if self.is_repeated(&entry) {
            self.report.repeated += 1;
            return;
        }
        if entry.at_ms >= self.period.to_ms {
            return;
        }
        let is_within = entry.at_ms >= self.period.from_ms;
        self.report.unordered += u64::from(entry.at_ms < self.last_ms);
        self.match_lives(&entry, is_within);
        if entry.event == Event::State {
            self.holds(&entry);
        }
        self.note_gap(entry.at_ms);
        if is_within {
            self.count(entry);
        }
    }

    /// Whether this very entry was met before.
    fn is_repeated(&mut self, entry: &Entry) -> bool {
        let mut hasher = DefaultHasher::new();
        entry.identity().hash(&mut hasher);
        let identity = hasher.finish();
        if self.met.iter().any(|met| met.contains(&identity)) {
            return true;
        }
        if self.met[0].len() >= REPEATED_WITHIN {
            self.met.swap(0, 1);
            self.met[0].clear();
        }
        self.met[0].insert(identity);
        false
    }

    fn match_lives(&mut self, entry: &Entry, is_within: bool) {
        let Some(life) = entry.life.as_ref().filter(|_| entry.event != Event::SaveRefused) else {
            return;
        };
        let mut hasher = DefaultHasher::new();
        (life, &entry.alias).hash(&mut hasher);
        let life = hasher.finish();
        match entry.event {
            Event::SessionBegan | Event::SessionRotated if self.lives.len() < LIVES => {
                self.lives.insert(life);
            }
            Event::SessionBegan | Event::SessionRotated => self.are_all_lives_known = false,
            Event::SessionEnded if !self.lives.remove(&life) && is_within => {
                self.report.began_before += 1;
            }
            _ => {}
        }
    }

    /// The lifetimes that this entry says hold.
    fn holds(&mut self, entry: &Entry) {
        let Some(lifetimes) = entry.lifetimes else { return };
        // No server follows more of them.
        let Ok(rules) = Rules::new(lifetimes, entry.rules.clone()) else { return };
        if self.held.as_ref().is_none_or(|(_, held)| *held != rules) {
            self.close_held(entry.at_ms);
            self.held = Some((entry.at_ms, rules));
        }
    }

    fn close_held(&mut self, to_ms: u64) {
        let Some((from_ms, rules)) = self.held.take() else { return };
        let from_ms = from_ms.max(self.period.from_ms);
        if to_ms <= from_ms {
            return;
        }
        if self.report.lifetimes.len() >= SHOWN {
            self.report.lifetimes_not_shown += 1;
        } else {
            self.report.lifetimes.push(Held {
                from: Time(from_ms),
                to: Time(to_ms),
                lifetimes: *rules.general(),
                rules: rules.all().to_vec(),
                longest: rules.longest(),
            });
        }
    }

    /// Whether the trail was silent for longer than it ever is.
    fn note_gap(&mut self, at_ms: u64) {
        let since_ms = self.last_ms.max(self.period.from_ms);
        if at_ms.saturating_sub(since_ms) > SILENCE_MS && self.report.gaps.len() < SHOWN {
            self.report.gaps.push(Gap { from: Time(since_ms), to: Time(at_ms) });
        }
        self.last_ms = self.last_ms.max(at_ms);
    }

    fn count(&mut self, entry: Entry) {
        let report = &mut self.report;
        report.entries += 1;
        let at = Time(entry.at_ms);
        report.first = report.first.into_iter().chain([at]).min();
        report.last = report.last.into_iter().chain([at]).max();
        if let Some(server) = entry.server.as_ref().filter(|_| report.servers.len() < SHOWN) {
            report.servers.insert(server.clone());
        }
        let add = |counts: &mut BTreeMap<String, u64>, reason: &str| {
            // A trail has few of them; another program's may have as many as lines.
            if counts.len() < SHOWN || counts.contains_key(reason) {
                *counts.entry(reason.to_owned()).or_default() += 1;
            }
        };
        let reason = entry.reason.as_deref().unwrap_or("-");
        match entry.event {
            Event::SessionBegan => add(&mut report.began, reason),
            Event::SessionRotated => add(&mut report.began, "rotation"),
            Event::SessionEnded => {
                add(&mut report.ended, reason);
                longest(&mut report.longest_idle, &entry, entry.idle_ms);
                longest(&mut report.longest_life, &entry, entry.age_ms);
            }
            Event::SaveRefused => add(&mut report.saves_refused, reason),
            Event::IdentityChanged => report.identities_changed.take(entry),
            Event::SettingChanged => report.settings_changed.take(entry),
            Event::Command => report.commands.take(entry),
            Event::State => {
                Range::take(&mut report.authenticated, entry.authenticated);
                Range::take(&mut report.anonymous, entry.anonymous);
            }
            Event::RedisLost => report.redis_lost.take(entry),
            Event::NothingEnded => report.nothing_ended.take(entry),
            Event::LeftOut => report.left_out += entry.count.unwrap_or(1),
            Event::Other => report.unknown += 1,
        }
    }

    /// The sums. `now_ms`: what lies after it is no gap.
    pub(crate) fn finish(mut self, now_ms: u64) -> Report {
        let to_ms = self.period.to_ms.min(now_ms);
        self.close_held(to_ms);
        self.note_gap(to_ms);
        self.report.to = Time(to_ms);
        if self.are_all_lives_known {
            self.report.alive_at_end = self.lives.len() as u64;
        }
        self.report
    }
}

fn longest(longest: &mut Option<Longest>, entry: &Entry, ms: Option<u64>) {
    let Some(ms) = ms.filter(|ms| longest.as_ref().is_none_or(|longest| *ms > longest.ms)) else {
        return;
    };
    *longest = Some(Longest {
        ms,
        ended: Time(entry.at_ms),
        reason: entry.reason.clone().unwrap_or_default(),
        alias: entry.alias.clone().unwrap_or_default(),
        database: entry.database.clone(),
        login: entry.login.clone(),
    });
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;
    use crate::trail::entry::Identity;

    const HOUR_MS: u64 = 60 * 60 * 1000;
    /// 2027-01-15 08:00:00.
    const BEGIN_MS: u64 = 1_800_000_000_000;

    fn period() -> Period {
        Period { from_ms: BEGIN_MS, to_ms: BEGIN_MS + 3 * HOUR_MS }
    }

    fn entry(at_ms: u64, event: Event, reason: &str, life: &str) -> Entry {
        Entry {
            reason: Some(reason.to_owned()),
            alias: Some("ab".repeat(20)),
            life: Some(life.to_owned()),
            database: Some("shop".to_owned()),
            login: Some("<b>anna</b>\u{202e}".to_owned()),
            user_id: Some(7),
            server: Some("web1".to_owned()),
            ..Entry::new(BEGIN_MS + at_ms, event)
        }
    }

    fn state(at_ms: u64, idle_ms: u64, absolute_ms: Option<u64>) -> Entry {
        let lifetimes = Lifetimes { idle_ms, absolute_ms, ..Lifetimes::default() };
        let (authenticated, anonymous) = (Some(at_ms / HOUR_MS + 3), Some(40));
        Entry {
            lifetimes: Some(lifetimes),
            authenticated,
            anonymous,
            ..Entry::new(BEGIN_MS + at_ms, Event::State)
        }
    }

    /// Three hours: in the second one the idle time is shorter.
    fn entries() -> Vec<Entry> {
        let ended = |at_ms, reason: &str, life: &str, age_ms, idle_ms| Entry {
            age_ms: Some(age_ms),
            idle_ms: Some(idle_ms),
            ..entry(at_ms, Event::SessionEnded, reason, life)
        };
        vec![
            state(0, 15 * 60_000, None),
            entry(1000, Event::SessionBegan, "login", "1"),
            entry(2000, Event::SessionBegan, "login", "2"),
            entry(3000, Event::SessionRotated, "", "3"),
            ended(4000, "logout", "1", 3000, 10),
            ended(5000, "killed", "0", HOUR_MS, 20),
            Entry {
                what: Some("config: lifetime.idle: 15min -> 5min".to_owned()),
                by: Some("root (sudo: anna) on /dev/pts/0".to_owned()),
                server: Some("web1".to_owned()),
                ..Entry::new(BEGIN_MS + HOUR_MS, Event::SettingChanged)
            },
            state(HOUR_MS + 1000, 5 * 60_000, None),
            ended(HOUR_MS + 6000, "idle", "2", HOUR_MS + 4000, 330_000),
            entry(HOUR_MS + 7000, Event::SaveRefused, "ended", "9"),
            Entry {
                login: Some("admin".to_owned()),
                user_id: Some(2),
                former: Some(Identity {
                    database: Some("shop".to_owned()),
                    login: Some("anna".to_owned()),
                    user_id: Some(7),
                }),
                ..entry(HOUR_MS + 8000, Event::IdentityChanged, "", "3")
            },
            state(2 * HOUR_MS, 5 * 60_000, None),
        ]
    }

    fn read(lines: &[u8], now_ms: u64) -> Report {
        let mut reader = Reader::new(period());
        // However little is read at once.
        reader.read(vec![source(BufReader::with_capacity(7, lines))]).unwrap();
        reader.finish(now_ms)
    }

    fn source<R: BufRead>(lines: R) -> Source<R> {
        Source::new("trail.jsonl".into(), lines).unwrap()
    }

    /// What these files say together.
    fn read_all(files: &[Vec<Entry>], hours: u64) -> Report {
        let lines = |file: &Vec<Entry>| -> Vec<u8> { file.iter().flat_map(Entry::line).collect() };
        let files: Vec<Vec<u8>> = files.iter().map(lines).collect();
        let period = Period { from_ms: BEGIN_MS, to_ms: BEGIN_MS + hours * HOUR_MS };
        let mut reader = Reader::new(period);
        reader.read(files.iter().map(|file| source(&file[..])).collect()).unwrap();
        reader.finish(u64::MAX)
    }

    /// The lease was with another server for an hour, and the lifetimes became longer after that.
    #[test]
    fn the_files_of_several_servers_are_one_trail() {
        let hour = |number: u64, idle_ms| state(number * HOUR_MS, idle_ms, None);
        let (short, long) = (15 * 60_000, 60 * 60_000);
        let ended = |at_ms| entry(at_ms, Event::SessionEnded, "logout", "7");
        let began = entry(HOUR_MS + 5000, Event::SessionBegan, "login", "7");
        let one = vec![
            hour(0, short),
            hour(1, short),
            began,
            hour(3, long),
            hour(4, long),
            hour(5, long),
        ];
        let other = vec![hour(2, short), ended(2 * HOUR_MS + 5000)];
        for files in [[one.clone(), other.clone()], [other, one]] {
            let report = read_all(&files, 6);
            let held: Vec<_> = report
                .lifetimes
                .iter()
                .map(|held| ((held.from.0 - BEGIN_MS) / HOUR_MS, held.lifetimes.idle_ms))
                .collect();
            assert_eq!(held, [(0, short), (3, long)]);
            assert_eq!(document::requirements(&report)[0].verdict, document::Verdict::NotMet);
            assert_eq!((report.began_before, report.alive_at_end), (0, 0));
            assert_eq!((report.unordered, report.gaps.len()), (0, 0));
        }
    }

    /// However many rules there are, and whatever they are called.
    #[test]
    fn a_state_is_never_longer_than_a_line() {
        use crate::session::policy::rule::{Selector, Setting, Source};
        for name in ["\u{1}".repeat(24), "\u{e0001}".repeat(6), "x".repeat(70)] {
            let rule = |number: usize| {
                let selector = Selector::new(Some(&name), Some(&format!("{number}*")), None);
                let selector = selector.expect("a selector");
                Rule::new(Setting::Absolute, selector, Some(u64::MAX), Source::Live)
                    .expect("a rule")
            };
            let rules = (1..=200).rev().find_map(|count| {
                Rules::new(Lifetimes::default(), (0..count).map(rule).collect()).ok()
            });
            let rules = rules.expect("some fit").all().to_vec();
            assert!(rules.len() > 100, "{}", rules.len());
            let line = Entry { rules, ..state(0, 1000, Some(1000)) }.line();
            assert!(line.len() < merge::LINE_MAX_BYTES, "{}", line.len());
        }
    }

    #[test]
    fn what_is_late_in_a_file_is_put_in_order_and_what_is_very_late_is_told() {
        let refused = |number: u64| entry(2000 + number, Event::SaveRefused, "ended", "9");
        for (count, unordered) in [(1000, 0), (5000, 1)] {
            let mut file = vec![state(0, 1000, None)];
            file.extend((0..count).map(refused));
            file.push(entry(1000, Event::SessionBegan, "login", "1"));
            let report = read_all(&[file], 1);
            assert_eq!((report.unordered, report.entries), (unordered, count + 2));
            let met = document::requirements(&report)[0].verdict == document::Verdict::Met;
            assert_eq!(met, unordered == 0);
        }
    }

    #[test]
    fn what_is_not_known_of_an_end_or_an_entry_is_never_met() {
        let later = br#"{"time":"2027-01-15T08:00:05Z","event":"of_a_later_version"}"#;
        let lost = entry(5000, Event::SessionEnded, "lost", "1").line();
        let rule =
            br#"{"time":"2027-01-15T08:00:05Z","event":"state","rules":[{"setting":"Later"}]}"#;
        for (more, unknown) in [(&later[..], 1), (&lost, 0), (&rule[..], 1)] {
            let lines = [&state(0, 1000, None).line(), more].concat();
            let report = read(&lines, BEGIN_MS + HOUR_MS);
            assert_eq!((report.unknown, report.unreadable), (unknown, 0));
            let verdict = document::requirements(&report)[0].verdict;
            assert_eq!(verdict, document::Verdict::MetAsFarAsKnown);
        }
    }

    fn report() -> Report {
        let lines: Vec<u8> = entries().iter().flat_map(Entry::line).collect();
        read(&lines, BEGIN_MS + 3 * HOUR_MS)
    }

    #[test]
    fn it_says_what_the_entries_do() {
        let golden = include_str!("report/golden.txt");
        assert_eq!(document::text(&report()), golden);
    }

    #[test]
    fn a_page_escapes_what_is_from_outside() {
        let page = document::html(&report());
        assert!(!page.contains("<b>anna") && page.contains("&lt;b&gt;anna"), "{page}");
        assert!(!page.contains('\u{202e}'));
    }

    #[test]
    fn programs_are_told_the_same() {
        let json = serde_json::to_value(document::json(&report())).unwrap();
        assert_eq!(json["ended"]["idle"], 1);
        assert_eq!(json["began"]["rotation"], 1);
        assert_eq!(json["longest_idle"]["ms"], 330_000);
        assert_eq!(json["lifetimes"][1]["idle_ms"], 300_000);
        assert_eq!(json["requirements"][0]["verdict"], "met");
        assert_eq!(json["requirements"][2]["verdict"], "not_met");
        assert_eq!((&json["began_before"], &json["alive_at_end"]), (&1.into(), &1.into()));
    }

    #[test]
    fn a_torn_line_and_a_foreign_one_are_counted_and_one_that_is_there_twice_counts_once() {
        let mut lines: Vec<u8> = entries().iter().flat_map(Entry::line).collect();
        let again = lines.clone();
        lines.extend_from_slice(b"{\"time\":\"2027-01-\n\nforeign\n\xff\xfe\n");
        lines.extend(vec![b'x'; 2 * merge::LINE_MAX_BYTES]);
        lines.push(b'\n');
        lines.extend(again);
        lines.extend_from_slice(b"{\"time\"");
        let report = read(&lines, BEGIN_MS + 3 * HOUR_MS);
        assert_eq!((report.unreadable, report.repeated), (5, entries().len() as u64));
        assert_eq!(report.ended.values().sum::<u64>(), 3);
    }

    #[test]
    fn a_silence_is_a_gap_and_nothing_is_claimed_of_it() {
        let last = BEGIN_MS + 6 * HOUR_MS;
        let lines: Vec<u8> = [state(0, 1000, None)].iter().flat_map(Entry::line).collect();
        let mut reader = Reader::new(Period { from_ms: BEGIN_MS, to_ms: last });
        reader.read(vec![source(&lines[..])]).unwrap();
        let report = reader.finish(last);
        assert_eq!(report.gaps.len(), 1);
        assert_eq!(document::requirements(&report)[0].verdict, document::Verdict::MetAsFarAsKnown);
        let nothing = Reader::new(period()).finish(BEGIN_MS + HOUR_MS);
        assert_eq!(document::requirements(&nothing)[0].verdict, document::Verdict::NotKnown);
    }

    #[test]
    fn what_lies_before_the_period_says_what_holds_in_it() {
        let lines: Vec<u8> = entries().iter().flat_map(Entry::line).collect();
        let period = Period { from_ms: BEGIN_MS + HOUR_MS / 2, to_ms: BEGIN_MS + 3 * HOUR_MS };
        let mut reader = Reader::new(period);
        reader.read(vec![source(&lines[..])]).unwrap();
        let report = reader.finish(u64::MAX);
        assert_eq!(report.lifetimes.len(), 2);
        assert_eq!(report.lifetimes[0].from, Time(period.from_ms));
        assert!(report.began.is_empty() && report.began_before == 0);
        assert_eq!(report.ended.values().sum::<u64>(), 1);
    }
}
