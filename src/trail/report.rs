//! What the entries of a period say: how many sessions there were, why they ended, which lifetimes held, what was
//! changed, and what is not known.
//!
//! Entries are read one after the other, and what is kept of them has a bound. [`document`] puts it in words.

pub(crate) mod document;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::io::{self, BufRead};

use serde::{Serialize, Serializer};

use super::entry::{Entry, Event};
use crate::session::policy::Lifetimes;

/// A longer line is not one of the trail.
const LINE_MAX_BYTES: usize = 64 * 1024;
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
        super::entry::write_time(&self.0, serializer)
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
    #[serde(flatten)]
    pub lifetimes: Lifetimes,
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
    pub settings_changed: Shown,
    pub commands: Shown,
    /// Saves that would have revived or destroyed a session, by why.
    pub saves_refused: BTreeMap<String, u64>,
    pub redis_lost: Shown,
    pub gaps: Vec<Gap>,
    /// Entries that the trail says it could not keep.
    pub left_out: u64,
    /// Entries of a later version.
    pub unknown: u64,
    /// Entries that were met twice, and are counted once.
    pub repeated: u64,
    /// Lines that are no entries.
    pub unreadable: u64,
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
    held: Option<(u64, Lifetimes)>,
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

    /// Takes all lines of a file.
    pub(crate) fn read(&mut self, file: &mut impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        while let Some(is_whole) = next_line(file, &mut line)? {
            match Entry::parse(&line).filter(|_| is_whole) {
                Some(entry) => self.take(entry),
                None if line.iter().all(u8::is_ascii_whitespace) && is_whole => {}
                None => self.report.unreadable += 1,
            }
        }
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
        match self.held {
            Some((_, held)) if held == lifetimes => {}
            Some(_) => {
                self.close_held(entry.at_ms);
                self.held = Some((entry.at_ms, lifetimes));
            }
            None => self.held = Some((entry.at_ms, lifetimes)),
        }
    }

    fn close_held(&mut self, to_ms: u64) {
        let Some((from_ms, lifetimes)) = self.held.take() else { return };
        let from_ms = from_ms.max(self.period.from_ms);
        if to_ms > from_ms && self.report.lifetimes.len() < SHOWN {
            let held = Held { from: Time(from_ms), to: Time(to_ms), lifetimes };
            self.report.lifetimes.push(held);
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
            Event::SettingChanged => report.settings_changed.take(entry),
            Event::Command => report.commands.take(entry),
            Event::State => {
                Range::take(&mut report.authenticated, entry.authenticated);
                Range::take(&mut report.anonymous, entry.anonymous);
            }
            Event::RedisLost => report.redis_lost.take(entry),
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

/// Reads one line, without its line feed. Of a line that is too long its beginning, and `false`; `None` at the end.
fn next_line(file: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
    line.clear();
    let (mut is_whole, mut any) = (true, false);
    loop {
        let bytes = file.fill_buf()?;
        if bytes.is_empty() {
            return Ok(any.then_some(is_whole));
        }
        any = true;
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        if line.len() + part.len() > LINE_MAX_BYTES {
            is_whole = false;
        } else {
            line.extend_from_slice(part);
        }
        let read = end.map_or(bytes.len(), |end| end + 1);
        file.consume(read);
        if end.is_some() {
            return Ok(Some(is_whole));
        }
    }
}
