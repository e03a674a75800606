//! What the filesystem asks of its store, in the filesystem's own words.
//!
//! The core is generic over [`Store`]; `crate::redis` implements it on Redis. Contents cross this
//! seam sealed. All times are milliseconds of the *store's* clock, never of a node's.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use crate::session::content::Class;
use crate::session::content::Content;
use crate::session::name::{Alias, Form, Shard};

/// Names one change for ever, so that it can be sent twice: random, never reused.
///
/// A session's *version* is the id of the publish that made it; its *birth* is the id of the
/// publish that began this life of the name.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ChangeId(pub u128);

/// A change about to be made: its id and when it was first tried (store's clock, as estimated
/// from the last time the store told and the monotonic time since).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// The change's id.
    pub id: ChangeId,
    /// When it was first tried.
    pub first_ms: u64,
}

/// What is known of one version without opening its content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Meta {
    /// Which version this is.
    pub version: ChangeId,
    /// Which life of the name.
    pub birth: ChangeId,
    /// The file's mtime, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Permission bits.
    pub mode: u32,
    /// The content's length before sealing.
    pub size_bytes: u64,
    /// Authenticated or anonymous.
    pub class: Class,
    /// Under which name it was saved last.
    pub form: Form,
    /// How long it would still live if nobody touched it, at the time of the answer.
    pub left_ms: u64,
}

/// The answer to a look-up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Lookup {
    /// The name is the id of a living session.
    Session {
        /// Its current version.
        meta: Meta,
        /// That version's sealed content.
        sealed: Bytes,
    },
    /// The name is the alias of a living session.
    Alias {
        /// Its current version.
        meta: Meta,
    },
    /// No living session has this name.
    Absent,
}

/// What the thread that saves knows of the name it saves to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Opened {
    /// It never opened it: a login, a report's temporary session, or we do not remember.
    Never,
    /// It opened this birth.
    Birth(ChangeId),
}

/// One save.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Id and first attempt.
    pub stamp: Stamp,
    /// Whose session.
    pub alias: Alias,
    /// Under which name.
    pub form: Form,
    /// Class and identity, read from the plain content.
    pub content: Content,
    /// The content's length before sealing.
    pub size_bytes: u64,
    /// The sealed content.
    pub sealed: Bytes,
    /// What the saving thread knows of this name.
    pub opened: Opened,
    /// The birth that this very thread unlinked just before (Odoo 19 removes and re-creates its
    /// own session): that life may go on.
    pub own_unlink: Option<ChangeId>,
    /// A session of the same family that this thread opened: a soft rotation inherits its login
    /// time (and, when background, its activity).
    pub sibling: Option<Alias>,
    /// The caller acts for no person (Odoo's evented process): activity is not advanced.
    pub background: bool,
    /// The thread's last open of this name failed for our own fault: anonymous content must not
    /// replace an authenticated session.
    pub doubtful: bool,
}

/// What became of a save.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Published {
    /// It is the current version (or was taken on an earlier try).
    Taken(Meta),
    /// A retry that found something newer than its first attempt: done, and nothing changed.
    Superseded,
    /// It would have revived a session that has ended, or destroyed one.
    Refused(Refusal),
}

/// Why a save was refused, for the log and the metrics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// The session has ended.
    Ended,
    /// The session it was read from has ended, and another has its name.
    Replaced,
    /// Anonymous content after a read that failed.
    Unread,
    /// Its lifetime is over.
    Lifetime,
    /// A reason that this version does not know.
    Other,
}

impl Refusal {
    /// All of them, in the order of their numbers.
    pub const ALL: &[Self] =
        &[Self::Ended, Self::Replaced, Self::Unread, Self::Lifetime, Self::Other];

    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ended => "the session has ended",
            Self::Replaced => "the session it was read from has ended, and another has its name",
            Self::Unread => "anonymous content after a read that failed",
            Self::Lifetime => "its lifetime is over",
            Self::Other => "refused",
        }
    }

    /// In one word: the label of its counter, and the code by which a script names it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Replaced => "replaced",
            Self::Unread => "unread",
            Self::Lifetime => "lifetime",
            Self::Other => "other",
        }
    }
}

/// One removal.
#[derive(Clone, Debug)]
pub struct Unlink {
    /// Id and first attempt.
    pub stamp: Stamp,
    /// The name taken as a session id, as its alias.
    pub alias: Alias,
    /// The name itself taken as an alias, if the caller may remove by alias.
    pub listed: Option<Alias>,
}

/// What became of a removal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unlinked {
    /// That session (its alias) was alive in that birth and is gone (or was on an earlier try).
    Gone {
        /// Which session it was: the name's own, or the listed one.
        alias: Alias,
        /// Which life ended.
        birth: ChangeId,
    },
    /// There was nothing of that name.
    Absent,
    /// A retry that found something newer.
    Superseded,
}

/// A change of mode or mtime: it makes a new version of the same bytes.
#[derive(Clone, Debug)]
pub struct Amend {
    /// Id and first attempt.
    pub stamp: Stamp,
    /// Whose session.
    pub alias: Alias,
    /// New permission bits.
    pub mode: Option<u32>,
    /// New mtime: nanoseconds, or the store's now.
    pub mtime: Option<Mtime>,
}

/// The mtime asked for by `utimens`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mtime {
    /// The store's own now.
    Now,
    /// Nanoseconds since the epoch.
    Ns(i64),
}

/// One line of a directory listing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed {
    /// Its alias.
    pub alias: Alias,
    /// Its current version.
    pub meta: Meta,
}

/// Why the store could not answer. None of these says anything about the session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreError {
    /// The connection is down, or the request was overdue: the request may or may not have been
    /// carried out.
    Unavailable(String),
    /// The server answered that it cannot take changes now (`READONLY`, `OOM`, `MISCONF`, ...).
    Refused(String),
    /// What is stored there cannot be read (another program's key, a newer format).
    Unreadable(String),
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "Redis is not available: {why}"),
            Self::Refused(why) => write!(f, "Redis takes no changes now: {why}"),
            Self::Unreadable(why) => write!(f, "what Redis holds cannot be read: {why}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// How the connection is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Health {
    /// Connected, and no request is overdue.
    Up,
    /// A request is overdue.
    Degraded,
    /// The connection is lost, or the doubt has lasted.
    Down,
}

impl Health {
    /// In words.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// How a bounded wait for a well connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Waited {
    /// The connection is well (again).
    Well,
    /// One step is over and the outage's budget is not: the caller says EINTR and is asked again.
    StepOver,
    /// The outage has used up its whole budget: the caller says EIO.
    BudgetSpent,
}

/// Where sessions are kept.
pub trait Store: Send + Sync + 'static {
    /// The current version under a name: taken for a session id first, then for an alias. A
    /// session found dead is ended by the same step.
    fn fetch(
        &self,
        alias: &Alias,
        listed: Option<&Alias>,
    ) -> impl Future<Output = Result<Lookup, StoreError>> + Send;

    /// Makes a save the current version. Tried again within a short bound; never waits long.
    fn publish(
        &self,
        publish: &Publish,
    ) -> impl Future<Output = Result<Published, StoreError>> + Send;

    /// Removes a session. Tried again within a short bound; never waits long.
    fn unlink(&self, unlink: &Unlink) -> impl Future<Output = Result<Unlinked, StoreError>> + Send;

    /// Changes mode or mtime; `None` if the session is gone.
    fn amend(&self, amend: &Amend)
    -> impl Future<Output = Result<Option<Meta>, StoreError>> + Send;

    /// The living sessions of one shard, exact, in no order.
    fn list(&self, shard: Shard) -> impl Future<Output = Result<Vec<Listed>, StoreError>> + Send;

    /// The shards that have a living session, and the sessions saved under a flat name.
    fn list_root(&self) -> impl Future<Output = Result<RootListing, StoreError>> + Send;

    /// Notes that a person used this session now; written with the next batch.
    fn touch(&self, alias: &Alias);

    /// The same, written before this returns: for a session with only seconds to live, which no
    /// other node may judge by what it has not heard yet.
    fn touch_now(&self, alias: &Alias) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// A fresh id, and the store's time now as well as it is known.
    fn stamp(&self) -> Stamp;

    /// How the connection is, without asking it.
    fn health(&self) -> Health;

    /// Whether the connection is well *and* was heard of a moment ago, so that a change sent now
    /// will nearly always be answered.
    fn is_fresh(&self) -> bool;

    /// Waits for a well connection, at most one step. Pings one that has been silent for a while.
    fn wait_well(&self) -> impl Future<Output = Waited> + Send;

    /// Writes what is still collected (touches), at most for `bound`.
    fn drain(&self, bound: Duration) -> impl Future<Output = ()> + Send;
}

/// The root directory as the store knows it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RootListing {
    /// Shards with at least one living session saved under its sharded name.
    pub shards: Vec<Shard>,
    /// Living sessions saved under their flat name.
    pub flat: Vec<Listed>,
}
