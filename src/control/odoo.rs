//! The sessions of a user of one database, which Odoo's user may list and end:
//! `GET /sessions` and `DELETE /sessions` (docs/odoo-socket.md).
//!
//! A session id comes in a header and never in a URL, and nothing that comes is logged or repeated.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use form_urlencoded::parse;
use hyper::header::HeaderMap;
use hyper::{Method, StatusCode};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::foreign::escaped;
use crate::redis::RedisStore;
use crate::redis::ending::{Ended, Endings};
use crate::redis::scan::{Filter, LiveSession};
use crate::session::content::Class;
use crate::session::name::{Alias, Sid};
use crate::store::StoreError;
use crate::sync::{lock, optional};
use crate::telemetry::Event;
use crate::trail::entry;

/// Requests that are worked on at once.
const AT_ONCE: usize = 2;
/// Another one waits for one of them, and is refused then: it would wait while Odoo's worker waits, and most of its time.
const PLACE_WITHIN: Duration = Duration::from_millis(500);
/// Requests that may come at once after a pause, and how many a second after that. Each one asks every shard.
const BURST: f64 = 40.0;
const PER_SECOND: f64 = 20.0;
/// An answer.
const WITHIN: Duration = Duration::from_secs(8);
/// The work behind it, which goes on where nobody waits for its answer any more.
const WORK_WITHIN: Duration = Duration::from_secs(60);
/// Who has ended a session, in the audit trail.
const BY: &str = "Odoo, by its socket";
/// Sessions of one answer, if nothing is said, and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;
/// How many sessions can be kept by `keep_newest`.
const KEPT_MAX: usize = 1000;
/// A name in Odoo is shorter.
const NAME_MAX_BYTES: usize = 1024;
/// Carries the id of the session that asks.
const OWN_HEADER: &str = "session-id";

/// Why there is no answer.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Refused {
    pub code: StatusCode,
    pub why: String,
}

impl Refused {
    fn bad(why: impl Into<String>) -> Self {
        Self { code: StatusCode::BAD_REQUEST, why: why.into() }
    }

    fn later(code: StatusCode, why: impl Into<String>) -> Self {
        Self { code, why: why.into() }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::later(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

/// What is asked for.
#[derive(Debug)]
enum Question {
    List { whose: Filter, limit: usize, after: Option<Alias>, own: Option<Alias> },
    End { whose: Filter, spared: Spared },
}

/// Which sessions are not ended.
#[derive(Debug, Default)]
struct Spared {
    /// These; they count among the newest.
    named: Vec<Alias>,
    /// So many that logged in last.
    newest: usize,
}

/// A session, without anything by which it could be used.
#[derive(Debug, Serialize)]
struct Session {
    alias: String,
    database: Option<String>,
    login: Option<String>,
    user_id: Option<i64>,
    class: &'static str,
    logged_in_ms: u64,
    last_activity_ms: u64,
    ends_ms: u64,
    age_seconds: u64,
    idle_seconds: u64,
    left_seconds: u64,
    size_bytes: u64,
    /// It is the one that asks.
    current: bool,
}

/// Some sessions, in the order of their aliases.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    sessions: Vec<Session>,
    /// The alias to go on after, if there are more.
    next: Option<String>,
}

/// What was ended.
#[derive(Debug, Default, Serialize)]
pub(super) struct Outcome {
    ended: u64,
    /// Gone before we came to them.
    gone_before: u64,
    /// Living sessions of the user that were left alone.
    kept: u64,
    /// The first of those that were ended.
    sessions: Vec<String>,
}

/// An answer.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Answer {
    Listed(Listed),
    Ended(Outcome),
}

/// Answers, in bounded number and time.
pub(super) struct Desk {
    places: Arc<Semaphore>,
    rate: Mutex<Rate>,
}

impl Desk {
    pub(super) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(AT_ONCE)),
            rate: Mutex::new(Rate::full(Instant::now())),
        }
    }

    pub(super) async fn answer(
        &self,
        store: &RedisStore,
        method: &Method,
        query: &str,
        headers: &HeaderMap,
    ) -> Result<Answer, Refused> {
        if !lock(&self.rate).admits(Instant::now()) {
            return Err(Refused::later(StatusCode::TOO_MANY_REQUESTS, "too many requests"));
        }
        let question = Question::read(method, query, headers)?;
        let unavailable = |why| Err(Refused::later(StatusCode::SERVICE_UNAVAILABLE, why));
        let Some(place) = self.place().await else {
            return unavailable("others are answered; nothing was done: ask again");
        };
        match question {
            Question::List { whose, limit, after, own } => {
                let listed = list(store, whose, limit, after.as_ref(), own.as_ref());
                let listed = timeout(WITHIN, listed).await;
                drop(place);
                match listed {
                    Ok(listed) => listed.map(Answer::Listed),
                    Err(_) => unavailable("not done in time: ask again"),
                }
            }
            Question::End { whose, spared } => {
                let ended = tokio::spawn(optional(end(store.clone(), whose, spared, place)));
                match timeout(WITHIN, ended).await {
                    Ok(Ok(ended)) => ended.map(Answer::Ended),
                    Ok(Err(_)) | Err(_) => {
                        unavailable("not done in time; sessions may be ended meanwhile: ask again")
                    }
                }
            }
        }
    }

    /// Where one is free, or soon is.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        timeout(PLACE_WITHIN, Arc::clone(&self.places).acquire_owned()).await.ok()?.ok()
    }
}

/// How many requests may come now.
struct Rate {
    left: f64,
    at: Instant,
}

impl Rate {
    fn full(now: Instant) -> Self {
        Self { left: BURST, at: now }
    }

    fn admits(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + since * PER_SECOND).min(BURST);
        self.at = now;
        let admits = self.left >= 1.0;
        if admits {
            self.left -= 1.0;
        }
        admits
    }
}

/// The words of a query, each at most once.
#[derive(Default)]
struct Words(BTreeMap<String, String>);

impl Words {
    fn read(query: &str, known: &[&'static str]) -> Result<Self, Refused> {
        let mut words = BTreeMap::new();
        for (key, value) in parse(query.as_bytes()) {
            if !known.contains(&&*key) {
                let known = known.join(", ");
                return Err(Refused::bad(format!("a parameter is not known; there are: {known}")));
            }
            if value.is_empty() || value.len() > NAME_MAX_BYTES {
                return Err(Refused::bad(format!("{key} is empty or too long")));
            }
            if words.insert(key.to_string(), value.into_owned()).is_some() {
                return Err(Refused::bad(format!("{key} is there twice")));
            }
        }
        Ok(Self(words))
    }

    fn text(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    fn number(&mut self, key: &str, max: usize) -> Result<Option<usize>, Refused> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match text.parse() {
            Ok(number) if number <= max => Ok(Some(number)),
            _ => Err(Refused::bad(format!("{key} is not a number from 0 to {max}"))),
        }
    }

    fn alias(&mut self, key: &str) -> Result<Option<Alias>, Refused> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let alias = Alias::parse(&text);
        alias.map(Some).ok_or_else(|| Refused::bad(format!("{key} is not a whole alias")))
    }

    /// One database, and one user of it.
    fn whose(&mut self) -> Result<Filter, Refused> {
        let database = self.text("database").ok_or_else(|| Refused::bad("database is missing"))?;
        let user_id = self
            .text("user_id")
            .map(|text| text.parse::<i64>().map_err(|_| Refused::bad("user_id is not a number")));
        let (user_id, login) = (user_id.transpose()?, self.text("login"));
        if user_id.is_none() && login.is_none() {
            return Err(Refused::bad("login or user_id is missing"));
        }
        Ok(Filter { database: Some(database), user_id, login, ..Filter::default() })
    }
}

impl Question {
    fn read(method: &Method, query: &str, headers: &HeaderMap) -> Result<Self, Refused> {
        let own = own(headers)?;
        if *method == Method::DELETE {
            let known = ["database", "login", "user_id", "except", "keep_newest"];
            let mut words = Words::read(query, &known)?;
            let named = own.into_iter().chain(words.alias("except")?).collect();
            let newest = words.number("keep_newest", KEPT_MAX)?.unwrap_or(0);
            let whose = words.whose()?;
            return Ok(Self::End { whose, spared: Spared { named, newest } });
        }
        let mut words = Words::read(query, &["database", "login", "user_id", "limit", "after"])?;
        let limit = words.number("limit", PAGE_MAX)?.unwrap_or(PAGE).max(1);
        let after = words.alias("after")?;
        Ok(Self::List { whose: words.whose()?, limit, after, own })
    }
}

/// The alias of the session that asks.
fn own(headers: &HeaderMap) -> Result<Option<Alias>, Refused> {
    let mut all = headers.get_all(OWN_HEADER).iter();
    let Some(header) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(Refused::bad("the header Session-Id is there twice"));
    }
    let sid = header.to_str().ok().and_then(Sid::parse);
    // It is not repeated: it may be one all the same.
    let sid = sid.ok_or_else(|| Refused::bad("the header Session-Id is no session id of Odoo"))?;
    Ok(Some(sid.alias()))
}

async fn list(
    store: &RedisStore,
    whose: Filter,
    limit: usize,
    after: Option<&Alias>,
    own: Option<&Alias>,
) -> Result<Listed, Refused> {
    let mut found: BTreeMap<Alias, LiveSession> = BTreeMap::new();
    let mut has_more = false;
    let mut scan = store.scan(whose);
    while let Some(page) = scan.next().await {
        for living in page?.living {
            if living.left_ms == 0 || after.is_some_and(|after| living.alias <= *after) {
                continue;
            }
            found.insert(living.alias.clone(), living);
            if found.len() > limit {
                found.pop_last();
                has_more = true;
            }
        }
    }
    let next = found.last_key_value().filter(|_| has_more).map(|(alias, _)| alias.to_string());
    let sessions = found.into_values().map(|living| Session::of(living, own)).collect();
    Ok(Listed { sessions, next })
}

impl Session {
    fn of(living: LiveSession, own: Option<&Alias>) -> Self {
        let (age_ms, idle_ms) = (living.age_ms(), living.idle_ms());
        let LiveSession { alias, header, activity_ms, left_ms, now_ms } = living;
        Self {
            current: own == Some(&alias),
            alias: alias.to_string(),
            class: match header.content.class {
                Class::Authenticated => "authenticated",
                Class::Anonymous => "anonymous",
            },
            database: header.content.db,
            login: header.content.login,
            user_id: header.content.uid,
            logged_in_ms: header.login_ms,
            last_activity_ms: activity_ms,
            ends_ms: now_ms.saturating_add(left_ms),
            age_seconds: age_ms / 1000,
            idle_seconds: idle_ms / 1000,
            left_seconds: left_ms / 1000,
            size_bytes: header.size_bytes,
        }
    }
}

/// To be carried out by a task of its own: what was ended is told of, also where the client is gone.
async fn end(
    store: RedisStore,
    whose: Filter,
    spared: Spared,
    _place: OwnedSemaphorePermit,
) -> Result<Outcome, Refused> {
    let mut work = Ending { endings: Endings::by(&store, BY), outcome: Outcome::default() };
    let done = timeout(WORK_WITHIN, work.go_through(&store, whose.clone(), spared)).await;
    // Also if a part of them could not be ended.
    if work.outcome.ended > 0 {
        tell_trail(&store, &whose, work.outcome.ended).await;
        Event::EndedByOdoo {
            db: whose.database.as_deref().unwrap_or_default(),
            login: whose.login.as_deref(),
            uid: whose.user_id,
            sessions: work.outcome.ended,
        }
        .emit();
    }
    let why = "not done in time; a part of the sessions has ended: ask again";
    done.map_err(|_| Refused::later(StatusCode::SERVICE_UNAVAILABLE, why))??;
    Ok(work.outcome)
}

/// Each session has its own end in the audit trail; who asked for them is here.
async fn tell_trail(store: &RedisStore, whose: &Filter, ended: u64) {
    let Filter { database, login, user_id, .. } = whose;
    let named = [("database", database.clone()), ("login", login.clone())]
        .into_iter()
        .chain([("user id", user_id.map(|id| id.to_string()))])
        .filter_map(|(name, value)| Some(format!("{name} {}", escaped(&value?))));
    let what = format!("ended {ended} sessions: {}", named.collect::<Vec<_>>().join(", "));
    let (event, by) = (entry::Event::Command, Some(BY.to_owned()));
    if let Err(error) = store.tell_trail_by(event, &what, Some(ended), by).await {
        tracing::warn!(%error, "cannot write to the audit trail");
    }
}

struct Ending {
    endings: Endings,
    outcome: Outcome,
}

impl Ending {
    async fn go_through(
        &mut self,
        store: &RedisStore,
        whose: Filter,
        Spared { named, mut newest }: Spared,
    ) -> Result<(), Refused> {
        // The one that logged in first is on top.
        let mut kept: BinaryHeap<Reverse<(u64, Alias)>> = BinaryHeap::new();
        let mut scan = store.scan(whose);
        while let Some(page) = scan.next().await {
            for living in page?.living {
                if named.contains(&living.alias) {
                    self.outcome.kept += 1;
                    // It is one of the user's, so it takes a place.
                    newest = newest.saturating_sub(1);
                } else {
                    // One that is over by its lifetimes takes nobody's place.
                    let login_ms = if living.left_ms == 0 { 0 } else { living.header.login_ms };
                    kept.push(Reverse((login_ms, living.alias)));
                }
                if kept.len() > newest
                    && let Some(Reverse((_, alias))) = kept.pop()
                    && let Some(ended) = self.endings.begin(alias).await
                {
                    self.note(ended)?;
                }
            }
        }
        self.outcome.kept += kept.len() as u64;
        while let Some(ended) = self.endings.next().await {
            self.note(ended)?;
        }
        Ok(())
    }

    fn note(&mut self, ended: Result<Ended, StoreError>) -> Result<(), Refused> {
        let Ended { alias, was_there } = ended?;
        if !was_there {
            self.outcome.gone_before += 1;
            return Ok(());
        }
        self.outcome.ended += 1;
        if self.outcome.sessions.len() < PAGE_MAX {
            self.outcome.sessions.push(alias.to_string());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SID: &str =
        "-_Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ac2XAPTGVdBgZ9WgQ0gAE3pszxwmGJwvnbSdpl0gA8j";

    fn read(method: &Method, query: &str) -> Result<Question, Refused> {
        Question::read(method, query, &HeaderMap::new())
    }

    fn why(method: &Method, query: &str) -> String {
        let refused = read(method, query).unwrap_err();
        assert_eq!(refused.code, StatusCode::BAD_REQUEST, "{query}");
        refused.why
    }

    #[test]
    fn one_database_and_one_user_of_it_are_named() {
        for method in [Method::GET, Method::DELETE] {
            for query in ["", "login=admin", "user_id=2"] {
                assert_eq!(why(&method, query), "database is missing", "{query}");
            }
            assert_eq!(why(&method, "database=shop"), "login or user_id is missing");
            assert_eq!(why(&method, "database=&login=admin"), "database is empty or too long");
            assert_eq!(why(&method, "database=a&database=b&login=x"), "database is there twice");
            assert_eq!(why(&method, "database=a&user_id=x"), "user_id is not a number");
            assert!(why(&method, "database=a&login=x&all=1").contains("is not known"));
        }
        let question = read(&Method::GET, "database=my+shop&login=till%2A&user_id=7").unwrap();
        let Question::List { whose, limit, after, own } = question else { panic!("a list") };
        assert_eq!(whose.database.as_deref(), Some("my shop"));
        assert_eq!((whose.login.as_deref(), whose.user_id), (Some("till*"), Some(7)));
        assert_eq!((limit, after, own), (PAGE, None, None));
    }

    #[test]
    fn what_is_spared_is_whole_and_bounded() {
        let query = |more: &str| format!("database=a&login=x&{more}");
        assert_eq!(why(&Method::DELETE, &query("except=ab")), "except is not a whole alias");
        for wrong in ["keep_newest=1001", "keep_newest=-1", "keep_newest=x"] {
            assert!(why(&Method::DELETE, &query(wrong)).contains("from 0 to 1000"), "{wrong}");
        }
        assert!(why(&Method::GET, &query("keep_newest=1")).contains("is not known"));
        let mut headers = HeaderMap::new();
        headers.insert(OWN_HEADER, SID.parse().unwrap());
        let alias = Sid::parse(SID).unwrap().alias();
        let other = "b".repeat(40);
        let query = query(&format!("except={other}&keep_newest=3"));
        let question = Question::read(&Method::DELETE, &query, &headers).unwrap();
        let Question::End { spared, .. } = question else { panic!("an end") };
        assert_eq!(spared.named, [alias, Alias::parse(&other).unwrap()]);
        assert_eq!(spared.newest, 3);
    }

    #[test]
    fn a_session_id_is_not_repeated() {
        let mut headers = HeaderMap::new();
        headers.insert(OWN_HEADER, "s3cret".parse().unwrap());
        let refused = Question::read(&Method::GET, "database=a&login=x", &headers).unwrap_err();
        assert!(!refused.why.contains("s3cret"), "{refused:?}");
        let refused = why(&Method::DELETE, "database=a&login=x&except=s3cret");
        assert!(!refused.contains("s3cret"), "{refused}");
        let refused = why(&Method::DELETE, "database=a&login=x&s3cret=1");
        assert!(!refused.contains("s3cret"), "{refused}");
    }

    #[tokio::test]
    async fn who_finds_no_free_place_is_refused_soon() {
        let desk = Desk::new();
        let held = [desk.place().await, desk.place().await];
        assert!(held.iter().all(Option::is_some));
        let began = Instant::now();
        assert!(desk.place().await.is_none());
        assert!(began.elapsed() < WITHIN / 2);
        drop(held);
        assert!(desk.place().await.is_some());
    }

    #[test]
    fn a_flood_is_bounded_and_passes() {
        let start = Instant::now();
        let mut rate = Rate::full(start);
        let admitted = (0..1000).filter(|_| rate.admits(start)).count();
        assert_eq!(admitted, 40);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| rate.admits(later)).count(), 20);
    }
}
