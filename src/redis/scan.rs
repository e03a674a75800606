//! A scan: every live session of all servers, shard by shard.
//!
//! It reads only: it ends nothing (its configuration need not be that of the mounts), is no
//! activity, and holds a few pages at a time, however many sessions there are. A session that is
//! saved for the first time during the scan may be missed; one that lives all the while is met
//! exactly once.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::envelope::{Header, text, uid_text};
use super::index::{Entry, mark, user_mark};
use super::listing::PAGE;
use super::requests::{Dead, Requests, Sought};
use super::scripts::{Answer, Way};
use super::{Inner, RedisStore};
use crate::session::content::{self, Class};
use crate::session::name::{Alias, Shard};
use crate::session::policy::rules::Rules;
use crate::session::policy::{Limit, Times};
use crate::store::StoreError;

/// How many shards are read at the same time.
const SHARDS_AT_ONCE: usize = 8;
/// How many pages may wait until they are read.
const PAGES_WAITING: usize = 4;
/// How many characters of an alias a short one shows at its beginning and at its end.
const SHORT_CHARS: (usize, usize) = (8, 6);
const SHORT_GAP: &str = "..";

/// A session as it was in Redis at `now_ms`. All times are of Redis's clock.
#[derive(Clone, Debug)]
pub struct LiveSession {
    /// By this it is shown; nobody can log in with it.
    pub alias: Alias,
    /// As its last save wrote it.
    pub header: Header,
    /// Its last activity, which may be later than the save.
    pub activity_ms: u64,
    /// What it would still live if nobody used it; 0: by the lifetimes of this scan it has ended.
    pub left_ms: u64,
    pub now_ms: u64,
}

impl LiveSession {
    /// Since its last activity.
    pub fn idle_ms(&self) -> u64 {
        self.now_ms.saturating_sub(self.activity_ms)
    }

    /// Since its owner logged in (or its first save).
    pub fn age_ms(&self) -> u64 {
        self.now_ms.saturating_sub(self.header.login_ms)
    }

    /// Its times, for a judgement.
    pub fn times(&self) -> Times {
        Times {
            login_ms: self.header.login_ms,
            activity_ms: self.activity_ms,
            opened: self.header.opened || self.activity_ms > self.header.activity_ms,
        }
    }
}

/// Which sessions: those that match every field that is set.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// A whole alias or a part of one.
    pub name: Option<Name>,
    pub user_id: Option<i64>,
    /// However its user typed it.
    pub login: Option<String>,
    pub database: Option<String>,
    /// The device, as Odoo 18 and later name it: the first 42 characters of its session ids.
    pub family: Option<String>,
    /// Whether somebody is logged in.
    pub class: Option<Class>,
    /// Without activity for at least so long.
    pub idle_ms: Option<u64>,
    /// Logged in for at least so long.
    pub age_ms: Option<u64>,
}

/// An alias, whole or as much of it as a person types.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Name {
    head: String,
    tail: String,
}

impl Name {
    /// Reads the beginning of an alias, or its short form: beginning, two dots, end. `None` if it
    /// is neither; a beginning has at least two characters.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.split_once(SHORT_GAP).unwrap_or((text, ""));
        let plain = |text: &str| {
            text.len() <= 84
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        (head.len() >= 2 && plain(head) && plain(tail))
            .then(|| Self { head: head.to_owned(), tail: tail.to_owned() })
    }

    pub fn whole(alias: &Alias) -> Self {
        Self { head: alias.as_str().to_owned(), tail: String::new() }
    }

    fn matches(&self, alias: &Alias) -> bool {
        let text = alias.as_str();
        text.starts_with(&self.head) && text.ends_with(&self.tail)
    }
}

/// The short form of an alias that listings show, and that names it as well as the whole.
pub fn short(alias: &Alias) -> String {
    let text = alias.as_str();
    let (head, tail) = SHORT_CHARS;
    format!("{}{SHORT_GAP}{}", &text[..head], &text[text.len() - tail..])
}

impl Filter {
    /// Whether no field is set.
    pub fn is_empty(&self) -> bool {
        let Self { name, user_id, login, database, family, class, idle_ms, age_ms } = self;
        name.is_none()
            && user_id.is_none()
            && login.is_none()
            && database.is_none()
            && family.is_none()
            && class.is_none()
            && idle_ms.is_none()
            && age_ms.is_none()
    }

    /// Whether a session matches.
    pub fn matches(&self, living: &LiveSession) -> bool {
        let owner = &living.header.content;
        let is = |wanted: &Option<String>, text: &Option<String>| {
            wanted.is_none() || wanted.as_deref() == text.as_deref()
        };
        self.name.as_ref().is_none_or(|name| name.matches(&living.alias))
            && self.user_id.is_none_or(|uid| owner.uid == Some(uid))
            && is(&self.login.as_deref().map(content::login), &owner.login)
            && is(&self.database, &owner.db)
            && self.family.as_deref().is_none_or(|family| living.alias.family() == Some(family))
            && self.class.is_none_or(|class| owner.class == class)
            && self.idle_ms.is_none_or(|ms| living.idle_ms() >= ms)
            && self.age_ms.is_none_or(|ms| living.age_ms() >= ms)
    }

    /// Whether a session matches of which nothing but the name is known: no field asks for more.
    fn may_match(&self, alias: &Alias) -> bool {
        let Self { name, user_id, login, database, family, class, idle_ms, age_ms } = self;
        user_id.is_none()
            && login.is_none()
            && database.is_none()
            && class.is_none()
            && idle_ms.is_none()
            && age_ms.is_none()
            && name.as_ref().is_none_or(|name| name.matches(alias))
            && family.as_deref().is_none_or(|family| alias.family() == Some(family))
    }

    /// By which marks it can be found, if it names somebody.
    fn sought(&self) -> Option<Sought> {
        let user = self.user_id.map(|uid| user_mark(&uid_text(Some(uid))));
        let login = self.login.as_deref().map(content::login);
        let login = login.map(|login| mark(&text(Some(&login))));
        (user.is_some() || login.is_some()).then_some(Sought { user, login, flat: false })
    }

    /// The only shard where it can be, if its name says so.
    fn shard(&self) -> Option<Shard> {
        let begins = self.name.as_ref().map(|name| &name.head).or(self.family.as_ref())?;
        Shard::parse(begins.get(..2)?)
    }
}

/// What becomes of a session that is found stale.
#[derive(Clone, Copy)]
pub(super) enum Stale {
    Ends,
    /// Nothing is written.
    Stays,
    /// And the entry of one that is not there any more leaves its index.
    StaysIfKept,
}

/// What was found of some members of a shard's index.
#[derive(Default)]
pub(super) struct Members {
    pub living: Vec<LiveSession>,
    /// Another program's key, or a format of a later version.
    pub unreadable: Vec<Alias>,
    /// Why others are not here: a slot of a Cluster is being moved, and keys of theirs are on two servers.
    failed: Option<StoreError>,
}

pub struct Scan {
    pages: mpsc::Receiver<Result<Page, StoreError>>,
    _taker: JoinSet<()>,
}

/// Some sessions of one shard, after the filter.
pub struct Page {
    /// Those that match.
    pub living: Vec<LiveSession>,
    /// Those that cannot be read and may match.
    pub unreadable: Vec<Alias>,
    /// How many were read for it.
    pub looked_at: u64,
}

impl Scan {
    /// One that has found this and ends.
    pub(super) fn of(page: Page) -> Self {
        let (sender, pages) = mpsc::channel(1);
        // It has room for one.
        let _ = sender.try_send(Ok(page));
        Self { pages, _taker: JoinSet::new() }
    }

    /// The next page; `None` after the last. After an error there is no further page: where a shard of a Cluster cannot be
    /// read, the pages of all others have come before.
    pub async fn next(&mut self) -> Option<Result<Page, StoreError>> {
        self.pages.recv().await
    }
}

impl RedisStore {
    /// Reads all sessions that match `filter`. Ends when the scan is dropped.
    pub fn scan(&self, filter: Filter) -> Scan {
        let (sender, pages) = mpsc::channel(PAGES_WAITING);
        let store = Arc::clone(&self.inner);
        let mut taker = JoinSet::new();
        taker.spawn(async move {
            if let Err(error) = store.scan_all(Arc::new(filter), &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        Scan { pages, _taker: taker }
    }

    /// How many sessions there are about: the indexes' own count, which may hold dead ones.
    pub async fn rough_count(&self) -> Result<u64, StoreError> {
        Ok(self.inner.sizes_in_use().await?.into_iter().map(|(_, size)| size).sum())
    }

    /// Keeps the keys of these sessions (of one shard) for as long as the present lifetimes need:
    /// they may have become longer since the last use. Returns the number of live ones.
    pub async fn keep(&self, shard: Shard, aliases: &[Alias]) -> Result<u64, StoreError> {
        let mut kept = 0;
        for aliases in aliases.chunks(PAGE) {
            let touches: Vec<_> = aliases.iter().map(|alias| (alias.clone(), None)).collect();
            kept += self.inner.touch(shard, &touches).await?;
        }
        Ok(kept)
    }

    /// The same for all sessions whose lifetimes were others before. To be called once no server uses those any more:
    /// a second after the change.
    pub async fn keep_changed(&self, before: &Rules, after: &Rules) -> Result<u64, StoreError> {
        let mut kept = 0;
        let mut scan = self.scan(Filter::default());
        while let Some(page) = scan.next().await {
            let mut living = page?.living;
            living.retain(|living| {
                let owner = &living.header.content;
                after.of(owner) != before.of(owner)
            });
            let Some(shard) = living.first().map(|living| living.alias.shard()) else { continue };
            let aliases: Vec<_> = living.into_iter().map(|living| living.alias).collect();
            kept += self.keep(shard, &aliases).await?;
        }
        Ok(kept)
    }
}

type Pages = mpsc::Sender<Result<Page, StoreError>>;

impl Inner {
    async fn scan_all(
        self: &Arc<Self>,
        filter: Arc<Filter>,
        pages: &Pages,
    ) -> Result<(), StoreError> {
        let shards = match filter.shard() {
            Some(shard) => vec![shard],
            None => self.shards_in_use().await?,
        };
        let mut counting: JoinSet<Result<(), StoreError>> = JoinSet::new();
        let mut all = Ok(());
        for shard in shards {
            if counting.len() >= SHARDS_AT_ONCE {
                all = all.and(joined(counting.join_next().await));
            }
            // Who is not there for one shard is not for any; what else fails concerns one.
            if matches!(all, Err(StoreError::Unavailable(_))) && !self.primaries.is_cluster() {
                return all;
            }
            let (store, filter, pages) = (Arc::clone(self), Arc::clone(&filter), pages.clone());
            counting.spawn(async move { store.scan_shard(shard, &filter, &pages).await });
        }
        while let Some(counted) = counting.join_next().await {
            all = all.and(joined(Some(counted)));
        }
        all
    }

    async fn scan_shard(
        &self,
        shard: Shard,
        filter: &Filter,
        pages: &Pages,
    ) -> Result<(), StoreError> {
        let entries = match filter.sought() {
            Some(sought) => self.sought(shard, sought).await?,
            None => self.members(shard).await?,
        };
        // A session that is saved meanwhile may be met by two entries.
        let mut met = HashSet::new();
        let mut all = Ok(());
        for entries in entries.chunks(PAGE) {
            let Members { mut living, mut unreadable, failed } =
                self.living_by(Stale::Stays, shard, entries).await?;
            all = all.and(failed.map_or(Ok(()), Err));
            living.retain(|living| filter.matches(living) && met.insert(living.alias.clone()));
            unreadable.retain(|alias| filter.may_match(alias));
            let looked_at = u64::try_from(entries.len()).unwrap_or(u64::MAX);
            if pages.send(Ok(Page { living, unreadable, looked_at })).await.is_err() {
                break; // the scan was dropped
            }
        }
        all
    }

    /// What lives among `entries`, all of one shard.
    pub(super) async fn living_by<'a>(
        &'a self,
        stale: Stale,
        shard: Shard,
        entries: &'a [Entry],
    ) -> Result<Members, StoreError> {
        let build = |requests: Requests<'a>, entries| match stale {
            Stale::Ends => requests.list(shard, entries, Dead::Leave),
            Stale::Stays => requests.judging_nothing().list(shard, entries, Dead::Stay),
            Stale::StaysIfKept => {
                requests.judging_nothing().telling_in_answers().list(shard, entries, Dead::Leave)
            }
        };
        let mut members =
            Members { living: Vec::with_capacity(entries.len()), ..Members::default() };
        // By the second connection, of which Redis does not remember what it reads: it would remember each session of a
        // listing, and up to version 7.0 all of them again for each.
        let way = Way::BulkRead;
        for part in self.call_for(shard, entries, self.patience(), way, build).await {
            match part.answer {
                Ok(Some(answer)) => members.read(answer)?,
                Ok(None) => {}
                Err(error) => members.failed = members.failed.or(Some(error)),
            }
        }
        members.living.sort_unstable_by(|a, b| a.alias.cmp(&b.alias));
        members.living.dedup_by(|a, b| a.alias == b.alias);
        Ok(members)
    }
}

impl Members {
    /// All of them, or why some cannot be had.
    pub(super) fn whole(self) -> Result<Self, StoreError> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }

    /// Reads an answer of `list.lua`.
    fn read(&mut self, mut answer: Answer) -> Result<(), StoreError> {
        if answer.status != "listed" {
            return Err(answer.strange());
        }
        let (mut listed, mut unreadable) = (answer.nested()?, answer.nested()?);
        while listed.more() {
            let (alias, activity_ms, left_ms) =
                (listed.alias()?, listed.number()?, listed.number()?);
            match listed.header() {
                Ok(header) => self.living.push(LiveSession {
                    alias,
                    header,
                    activity_ms,
                    left_ms,
                    now_ms: answer.now_ms,
                }),
                // One that only the script can read must not hide the others.
                Err(_) => self.unreadable.push(alias),
            }
        }
        while unreadable.more() {
            self.unreadable.push(unreadable.alias()?);
        }
        Ok(())
    }
}

fn joined(
    counted: Option<Result<Result<(), StoreError>, tokio::task::JoinError>>,
) -> Result<(), StoreError> {
    match counted {
        Some(Err(error)) => Err(StoreError::Unavailable(error.to_string())),
        Some(Ok(counted)) => counted,
        None => Ok(()),
    }
}

/// What will end a session by these lifetimes, in words.
pub fn limit_words(limit: Limit) -> &'static str {
    match limit {
        Limit::Idle => "unless it is used before",
        Limit::Absolute => "however much it is used (lifetime.absolute)",
        Limit::Unopened => "unless its visitor comes back before",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str =
        "-_Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ac2XAPTGVdBgZ9WgQ0gAE3pszxwmGJwvnbSdpl0gA8j";

    #[test]
    fn a_name_is_a_beginning_or_the_short_form() {
        let alias = Alias::parse(LONG).unwrap();
        assert_eq!(short(&alias), "-_Ab0Ab0..l0gA8j");
        for text in ["-_", "-_Ab0", LONG, "-_..8j", &short(&alias)] {
            assert!(Name::parse(text).unwrap().matches(&alias), "{text}");
        }
        assert!(!Name::parse("-_..xx").unwrap().matches(&alias));
        assert!(!Name::parse("ab").unwrap().matches(&alias));
        for text in ["", "-", "..8j", "a b", "ab..c..d", "ab/", &"a".repeat(85)] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_name_or_a_family_tells_the_shard() {
        let shard = |filter: Filter| filter.shard().map(|shard| shard.to_string());
        assert_eq!(shard(Filter::default()), None);
        let name = Name::parse("xyz");
        assert_eq!(shard(Filter { name, ..Filter::default() }).as_deref(), Some("xy"));
        let family = Some("ab".repeat(21));
        assert_eq!(shard(Filter { family, ..Filter::default() }).as_deref(), Some("ab"));
    }
}
