//! `sessionfs list`.

use std::cmp::Ordering;

use clap::ValueEnum;
use serde::Serialize;

use super::output::{Format, json_line, say};
use super::redis::{Reached, failed, reach};
use super::sessions::{Shown, Which, none, sessions, table};
use crate::config::flags::Place;
use crate::exit::{ExitCode, Failure};
use crate::redis::latest::LATEST_MAX;
use crate::redis::scan::{LiveSession, Page};
use crate::session::name::Alias;

/// List the live sessions of all servers, the last used first
#[derive(clap::Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    which: Which,
    /// Order (default: `idle`; with --json as they are found)
    #[arg(long, value_enum, value_name = "BY")]
    sort: Option<Sort>,
    /// Reverse the order
    #[arg(long)]
    reverse: bool,
    /// Maximum number of sessions to show, 0 for all (default: 100; with --json all)
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

/// Of more than so many sessions only those that are shown are read, where that can be.
const COUNTED_MAX: u64 = 10_000;
/// How many of the sessions that cannot be read are named.
const UNREADABLE_SHOWN: usize = 100;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    /// Since the last use
    Idle,
    /// Since the login
    Age,
    /// Until the end
    Left,
    /// Largest first
    Size,
    /// By login
    Login,
    /// By database, then login
    Database,
}

impl Sort {
    fn compare(self, a: &LiveSession, b: &LiveSession) -> Ordering {
        let (left, right) = (&a.header, &b.header);
        let by_login = || left.content.login.cmp(&right.content.login);
        let order = match self {
            Self::Idle => b.activity_ms.cmp(&a.activity_ms),
            Self::Age => right.login_ms.cmp(&left.login_ms),
            Self::Left => a.left_ms.cmp(&b.left_ms),
            Self::Size => right.size_bytes.cmp(&left.size_bytes),
            Self::Login => by_login(),
            Self::Database => left.content.db.cmp(&right.content.db).then_with(by_login),
        };
        order.then_with(|| a.alias.cmp(&b.alias))
    }
}

impl List {
    /// Lists.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let filter = self.which.filter()?;
        let is_named = filter.name.is_some();
        let Reached { runtime, store } = reach(&self.place)?;
        let rules = store.rules();
        // Unsorted, each is printed as it comes: nothing is held, however many there are.
        let sort = self.sort.or((!self.format.json).then_some(Sort::Idle));
        let limit = match self.limit {
            Some(0) => usize::MAX,
            Some(limit) => limit,
            None if self.format.json => usize::MAX,
            None => 100,
        };
        let mut kept: Vec<LiveSession> = Vec::new();
        let mut count = 0_u64;
        let mut printed = 0_usize;
        let order = |sort: Sort, kept: &mut Vec<LiveSession>| {
            kept.sort_unstable_by(|a, b| {
                let order = sort.compare(a, b);
                if self.reverse { order.reverse() } else { order }
            });
            kept.truncate(limit);
        };
        let mut array = Array::default();
        let mut unreadable: Vec<Alias> = Vec::new();
        let mut about = None;
        runtime.block_on(async {
            let in_order = !self.reverse && matches!(sort, Some(Sort::Idle));
            let mut scan = None;
            if in_order && limit <= LATEST_MAX && filter.is_empty() {
                let many = store.rough_count().await.map_err(|error| failed(&error))?;
                if many > COUNTED_MAX {
                    scan = store.last_used(limit).await.map_err(|error| failed(&error))?;
                    about = scan.is_some().then_some(many);
                }
            }
            let mut scan = scan.unwrap_or_else(|| store.scan(filter));
            while let Some(page) = scan.next().await {
                let Page { living, unreadable: more, .. } = page.map_err(|error| failed(&error))?;
                count += more.len() as u64;
                unreadable.extend(more.into_iter().take(UNREADABLE_SHOWN - unreadable.len()));
                for living in living {
                    if living.left_ms == 0 {
                        continue; // over, and only not asked for since
                    }
                    count += 1;
                    match sort {
                        Some(sort) => {
                            kept.push(living);
                            if kept.len() > limit.saturating_mul(2).saturating_add(1000) {
                                order(sort, &mut kept);
                            }
                        }
                        None if printed < limit => {
                            printed += 1;
                            array.element(&Shown::new(&living, &rules))?;
                        }
                        None => {}
                    }
                }
            }
            Ok::<_, Failure>(())
        })?;
        if let Some(sort) = sort {
            order(sort, &mut kept);
        }
        if self.format.json {
            for living in &kept {
                array.element(&Shown::new(living, &rules))?;
            }
            for alias in &unreadable {
                array.element(&Unreadable { alias: alias.as_str(), unreadable: true })?;
            }
            array.end()?;
        }
        if is_named && count == 0 {
            return Err(self.nobody());
        }
        if self.format.json {
            return Ok(());
        }
        if !kept.is_empty() {
            say(table(&kept, &rules))?;
        }
        for alias in &unreadable {
            say(format!(
                "{alias}: its header in Redis cannot be read; 'sessionfs kill {alias} --yes' ends it"
            ))?;
        }
        let shown = kept.len() + unreadable.len();
        if let Some(many) = about {
            say(format!("about {}, {shown} shown (--limit 0 shows all)", sessions(many)))
        } else if u64::try_from(shown).unwrap_or(u64::MAX) < count {
            say(format!("{}, {shown} shown (--limit 0 shows all)", sessions(count)))
        } else {
            say(sessions(count))
        }
    }
}

impl List {
    /// A login is easily typed where an alias belongs. What is longer than one may be a cookie, and
    /// is not repeated.
    fn nobody(&self) -> Failure {
        const LOGIN_CHARS: usize = 40;
        match self.which.alias() {
            Some(typed) if typed.chars().count() < LOGIN_CHARS => Failure::new(
                ExitCode::NoSuchSession,
                format!(
                    "no session has an alias that begins with '{typed}'; did you mean --login \
                     {typed}?"
                ),
            ),
            _ => none("no session has this alias"),
        }
    }
}

/// A session of which nothing but its name can be said.
#[derive(Serialize)]
struct Unreadable<'a> {
    alias: &'a str,
    unreadable: bool,
}

/// A JSON array, one element a line, printed as its elements come.
#[derive(Default)]
struct Array {
    last: Option<String>,
}

impl Array {
    fn element(&mut self, shown: &impl Serialize) -> Result<(), Failure> {
        let text = json_line(shown)?;
        match self.last.replace(text) {
            Some(before) => say(format!("{before},")),
            None => say("["),
        }
    }

    fn end(self) -> Result<(), Failure> {
        match self.last {
            Some(last) => say(format!("{last}\n]")),
            None => say("[]"),
        }
    }
}
