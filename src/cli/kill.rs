//! `sessionfs kill`.

use std::collections::BTreeMap;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::output::{self, Format, json, say, visible};
use super::redis::{Reached, failed, reach, tell};
use super::sessions::{Which, find_alias, none, read_sid, sessions, table, usage};
use super::system_log;
use crate::config::flags::Place;
use crate::exit::Failure;
use crate::redis::RedisStore;
use crate::redis::ending::{Ended, Endings};
use crate::redis::scan::{Filter, LiveSession, Name, Page};
use crate::session::name::Alias;
use crate::session::policy::rules::Rules;
use crate::store::StoreError;
use crate::trail::entry::Event;

/// How many sessions are shown whole, and how many lines of counts.
const SHOWN: usize = 10;
/// For how many people sessions are counted each; the rest together.
const PEOPLE: usize = 10_000;

/// End sessions on every server at once; without --yes, only show which
#[derive(clap::Args, Debug)]
pub(super) struct Kill {
    #[command(flatten)]
    which: Which,
    /// Read the session's cookie from standard input
    #[arg(long, value_name = "-", allow_hyphen_values = true, conflicts_with = "alias")]
    sid: Option<String>,
    /// All sessions
    #[arg(long)]
    all: bool,
    /// End the sessions
    #[arg(long)]
    yes: bool,
    /// List each session that was ended
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Default, Serialize)]
struct Outcome {
    /// Nothing was changed.
    dry_run: bool,
    matched: u64,
    ended: u64,
    /// Gone before we came to them.
    gone_before: u64,
    by_login: Vec<Count>,
    sessions: Vec<String>,
    #[serde(skip)]
    people: BTreeMap<(Option<String>, Option<String>), u64>,
    #[serde(skip)]
    first: Vec<LiveSession>,
}

#[derive(Debug, Serialize)]
struct Count {
    database: Option<String>,
    login: Option<String>,
    sessions: u64,
}

impl Kill {
    /// Shows, or ends.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let sid = self.sid.as_deref().map(read_sid).transpose()?;
        let mut filter = self.which.filter()?;
        if let Some(sid) = &sid {
            filter.name = Some(Name::whole(&sid.alias()));
        }
        match (filter.is_empty(), self.all) {
            (true, false) => {
                return Err(usage(
                    "name the sessions to end, or --all; see 'sessionfs kill --help'",
                ));
            }
            (false, true) => {
                return Err(usage("--all cannot be combined with other conditions"));
            }
            _ => {}
        }
        let Reached { runtime, store } = reach(&self.place)?;
        let named = filter.name.is_some();
        let mut outcome = Outcome { dry_run: !self.yes, ..Outcome::default() };
        let failure = runtime.block_on(async {
            if let Some(name) = filter.name.take() {
                filter.name = Some(Name::whole(&find_alias(&store, name).await?));
            }
            self.go_through(&store, filter, &mut outcome).await
        });
        if let Err(failure) = failure {
            let Failure { code, message } = failure;
            if outcome.ended > 0 {
                runtime.block_on(self.note_deed(&store, &outcome));
            }
            return Err(match outcome.ended {
                0 => Failure::new(code, message),
                ended => Failure::new(code, format!("{} ended, then: {message}", sessions(ended))),
            });
        }
        if named && outcome.matched == 0 {
            return Err(none("the session with that alias does not match the other conditions"));
        }
        let nobody = outcome.matched == 0 && !self.all;
        if self.yes {
            runtime.block_on(self.note_deed(&store, &outcome));
        }
        self.tell(outcome)?;
        // A mistyped name must not look as if it was done.
        if nobody { Err(none("no session matches")) } else { Ok(()) }
    }

    /// Who ended how many of which: an auditor asks for it.
    async fn note_deed(&self, store: &RedisStore, outcome: &Outcome) {
        let Outcome { ended, .. } = outcome;
        let deed = format!("kill: ended {} ({})", sessions(*ended), self.meant());
        system_log::note(&deed);
        tell(store, Event::Command, &deed, Some(*ended)).await;
    }

    /// Which sessions were meant, in the words of the command line.
    fn meant(&self) -> String {
        let which = self.which.words();
        match (self.all, self.sid.is_some()) {
            (true, _) => "--all".to_owned(),
            (_, true) => format!("--sid - {which}").trim().to_owned(),
            _ => which,
        }
    }

    async fn go_through(
        &self,
        store: &RedisStore,
        filter: Filter,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let bar = ProgressBar::new(store.rough_count().await.map_err(|error| failed(&error))?);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len} checked, {msg}") {
            bar.set_style(style);
        }
        let mut scan = store.scan(filter);
        let mut endings = Endings::new(store);
        let mut scanned = Ok(());
        while let Some(page) = scan.next().await {
            let Page { living, unreadable, looked_at } = match page {
                Ok(page) => page,
                // Those that were found end all the same.
                Err(error) => {
                    scanned = Err(failed(&error));
                    break;
                }
            };
            let aliases: Vec<Alias> =
                living.iter().map(|living| &living.alias).chain(&unreadable).cloned().collect();
            outcome.matched += unreadable.len() as u64;
            for living in living {
                outcome.count(living);
            }
            for alias in aliases {
                if self.yes {
                    if let Some(ended) = endings.begin(alias).await {
                        self.note(outcome, ended)?;
                    }
                } else if self.names() {
                    outcome.sessions.push(alias.to_string());
                }
            }
            bar.inc(looked_at);
            bar.set_message(format!("{} ended", outcome.ended));
        }
        while let Some(ended) = endings.next().await {
            self.note(outcome, ended)?;
        }
        bar.finish_and_clear();
        scanned
    }

    fn names(&self) -> bool {
        self.verbose || self.format.json
    }

    fn note(&self, outcome: &mut Outcome, ended: Result<Ended, StoreError>) -> Result<(), Failure> {
        let Ended { alias, was_there } = ended.map_err(|error| failed(&error))?;
        if !was_there {
            outcome.gone_before += 1;
            return Ok(());
        }
        outcome.ended += 1;
        if self.names() {
            outcome.sessions.push(alias.to_string());
        }
        Ok(())
    }

    fn tell(&self, mut outcome: Outcome) -> Result<(), Failure> {
        outcome.sum_up();
        if self.format.json {
            return json(&outcome);
        }
        if self.verbose {
            for alias in &outcome.sessions {
                say(alias)?;
            }
        }
        if outcome.dry_run && !outcome.first.is_empty() {
            say(table(&outcome.first, &Rules::default()))?;
            let shown = u64::try_from(outcome.first.len()).unwrap_or(u64::MAX);
            if shown < outcome.matched {
                say(format!("and {} more", outcome.matched - shown))?;
            }
            say("")?;
        }
        if outcome.by_login.len() > 1 {
            say(outcome.counts())?;
            say("")?;
        }
        if outcome.dry_run {
            let many = sessions(outcome.matched);
            return match outcome.matched {
                0 => Ok(()),
                _ => say(format!("would end {many}; nothing was changed, use --yes to do it")),
            };
        }
        if outcome.matched == 0 && !self.all {
            return Ok(());
        }
        match outcome.gone_before {
            0 => say(format!("ended {}", sessions(outcome.ended))),
            gone => say(format!("ended {}; {gone} had already ended", sessions(outcome.ended))),
        }
    }
}

impl Outcome {
    fn count(&mut self, living: LiveSession) {
        self.matched += 1;
        let content = &living.header.content;
        let person = (content.db.clone(), content.login.clone());
        if let Some(count) = self.people.get_mut(&person) {
            *count += 1;
        } else if self.people.len() < PEOPLE {
            self.people.insert(person, 1);
        }
        if self.first.len() < SHOWN {
            self.first.push(living);
        }
    }

    /// Those with most sessions come first.
    fn sum_up(&mut self) {
        let people = std::mem::take(&mut self.people).into_iter();
        self.by_login = people
            .map(|((database, login), sessions)| Count { database, login, sessions })
            .collect();
        self.by_login.sort_by_key(|count| std::cmp::Reverse(count.sessions));
    }

    fn counts(&self) -> String {
        const TEXT_CHARS: usize = 40;
        let text = |text: &Option<String>| {
            text.as_deref().map_or_else(|| "-".to_owned(), |text| visible(text, TEXT_CHARS))
        };
        let shown = &self.by_login[..self.by_login.len().min(SHOWN)];
        let counted: u64 = shown.iter().map(|count| count.sessions).sum();
        let rest = self.matched - counted;
        let rest = (rest > 0).then(|| [String::new(), "all others".to_owned(), rest.to_string()]);
        output::table(
            ["database", "login", "sessions"],
            &[2],
            shown
                .iter()
                .map(|count| {
                    [text(&count.database), text(&count.login), count.sessions.to_string()]
                })
                .chain(rest),
        )
    }
}
