//! The port: what the filesystem and its layers need from the place where sessions are kept.
//!
//! - [`Sessions`]: operations on sessions. A layer (`crate::layers`) implements it over another.
//! - [`Link`]: the state of the connection, and the time. Layers do not touch it.
//! - [`Intake`]: makes session files sessions.
//! - [`Changes`]: hears which sessions have changed in the store.
//! - [`Observer`]: receives the sessions that the filesystem opens, saves and finds ended.
//!
//! [`current`] is what a session is now. `crate::redis` implements the first three on Redis. Contents cross the port sealed. All times
//! are milliseconds of the *store's* clock, never of a server's own.
//!
//! Two terms of the protocol: the *life* of a name begins with the save that creates the session
//! and lasts until the session ends. Its *birth* is the id of that save. A later life of the same
//! name has another birth, so a save that was read from an ended life can be refused.

pub mod current;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use crate::session::change::ChangeId;
use crate::session::content::{Class, Content};
use crate::session::name::{Alias, Form, Shard, Sid};
use crate::session::packing::Packed;
use crate::session::seal;
pub use crate::session::seal::Bound;
use crate::session::secret::Keyring;

/// Identifies a change, and says when and how often it was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// The id of the change.
    pub id: ChangeId,
    /// When it was first tried; 0 if the store's time was not known then.
    pub first_ms: u64,
    /// When it was made, by this host.
    pub made: Instant,
    /// Whether it may have reached the store before.
    pub attempt: Attempt,
}

/// Whether a change may have been sent before.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Attempt {
    /// It was never sent.
    #[default]
    First,
    /// It may have been sent, by this process or by one that has died. It does not undo what is
    /// newer than its `first_ms`.
    Again,
}

impl Stamp {
    /// One of a new change. 64 bits are enough for a number that names a change of one session, and make a header short.
    pub fn random(first_ms: u64) -> Self {
        Self::new(ChangeId(rand::random::<u64>().into()), first_ms)
    }

    /// Of a change that a worker before this one has perhaps sent.
    pub(crate) fn left(id: ChangeId, first_ms: u64, made: Option<Instant>) -> Self {
        let made = made.unwrap_or_else(Instant::now);
        Self { id, first_ms, made, attempt: Attempt::Again }
    }

    /// When it was made, if nothing else says how old it is: the store's time was not known then.
    pub(crate) fn made_untimed(&self) -> Option<Instant> {
        Some(self.made).filter(|_| self.first_ms == 0)
    }

    /// Of a change that is made now, at that time of the store.
    pub fn new(id: ChangeId, first_ms: u64) -> Self {
        Self { id, first_ms, made: Instant::now(), attempt: Attempt::First }
    }

    /// When it was first tried, by a store whose time is `now_ms` now.
    pub fn first_ms_at(&self, now_ms: u64) -> u64 {
        match self.first_ms {
            0 => {
                let age_ms = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
                // 0 would be the time of no change at all.
                now_ms.saturating_sub(age_ms).max(1)
            }
            first_ms => first_ms,
        }
    }

    /// The same change, to be sent once more.
    #[must_use]
    pub fn again(self) -> Self {
        Self { attempt: Attempt::Again, ..self }
    }
}

/// What is known of one version without opening its content.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Meta {
    pub version: ChangeId,
    /// The birth of its life.
    pub birth: ChangeId,
    /// The file's mtime, nanoseconds since the epoch.
    pub mtime_ns: i64,
    pub mode: u32,
    /// The content's length before sealing.
    pub size_bytes: u64,
    /// Authenticated or anonymous.
    pub class: Class,
    /// The form of the name of its last save.
    pub form: Form,
    /// When it was last used.
    pub activity_ms: u64,
    /// How long it has to live if nobody uses it, at the time of the answer.
    pub left_ms: u64,
}

/// The answer to a look-up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Lookup {
    /// The name is the id of a live session.
    Session {
        /// Its current version.
        meta: Meta,
        /// What is bound to its content.
        bound: Bound,
        /// The sealed content of that version.
        sealed: Bytes,
    },
    /// The same, with a content that is too large for this answer: [`Sessions::content`] has it.
    Large {
        /// Its current version.
        meta: Meta,
        /// What is bound to its content.
        bound: Bound,
    },
    /// The name is the alias of a live session.
    Alias {
        /// Its current version.
        meta: Meta,
    },
    /// No live session has this name.
    Absent,
}

/// What the saving thread knows of the session, so that the store can refuse a save that would
/// revive or replace another life.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Claim {
    /// The birth that it opened. `None` for a login, for a temporary session of a report, and if
    /// it was forgotten.
    pub opened: Option<ChangeId>,
    /// The removal of this session that it has just asked for, if it may be held ([`Unlink::held`]).
    /// This save takes it back.
    pub held_removal: Option<ChangeId>,
    /// Another session of the same family that it opened. A soft rotation inherits the login time
    /// from it (and the activity, if the caller is a background process).
    pub sibling: Option<Alias>,
    /// Its last open of this session failed with an error of ours. Anonymous content then does not
    /// replace an authenticated session.
    pub after_failed_read: bool,
}

#[derive(Clone, Debug)]
pub struct Publish {
    /// Id and first attempt.
    pub stamp: Stamp,
    pub alias: Alias,
    /// The form of the name it is saved under.
    pub form: Form,
    /// Class and identity, read from the plain content.
    pub content: Content,
    /// The content's length before sealing.
    pub size_bytes: u64,
    /// The birth that the content is sealed for: the one that was opened, if the save is expected
    /// to go on with that life, else the save's own id.
    pub birth: ChangeId,
    /// How the content is packed.
    pub packing: u16,
    /// The content, packed, and sealed with this save's id and the birth above.
    pub sealed: Bytes,
    /// Seals it for another life, as long as its session id is at hand.
    pub sealer: Option<Sealer>,
    /// What the saving thread knows of the session.
    pub claim: Claim,
    /// The caller is a background process (Odoo's evented one, cron): many requests share one
    /// thread there, so what the thread opened says less of what this request did.
    pub background: bool,
    /// Whether this save is somebody's use of the session.
    pub is_activity: bool,
}

impl Publish {
    /// What is bound to its content.
    pub fn bound(&self) -> Bound {
        Bound {
            alias: self.alias.clone(),
            content: self.content.clone(),
            birth: self.birth,
            save: self.stamp.id,
            packing: self.packing,
        }
    }

    /// The same save, sealed for the life of that birth; `None` if it cannot be sealed any more.
    #[must_use]
    pub fn rebound(&self, birth: ChangeId) -> Option<Self> {
        let rebound = Self { birth, ..self.clone() };
        let sealed = self.sealer.as_ref()?.seal(&rebound.bound());
        Some(Self { sealed, ..rebound })
    }
}

/// Seals the content of one save. It holds the content and the session id, so it goes nowhere but to the next worker.
#[derive(Clone)]
pub struct Sealer {
    keyring: Keyring,
    sid: Sid,
    packed: Packed,
}

impl Sealer {
    pub fn new(keyring: Keyring, sid: Sid, packed: Packed) -> Self {
        Self { keyring, sid, packed }
    }

    /// The content with what is bound to it.
    pub fn seal(&self, bound: &Bound) -> Bytes {
        seal::seal(&self.keyring, &self.sid, bound, &self.packed.bytes).into()
    }

    /// Whose content it seals, and the content as it is packed.
    pub(crate) fn parts(&self) -> (&Sid, &Packed) {
        (&self.sid, &self.packed)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

/// What became of a save.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Published {
    /// It is the current version (or was, after an earlier attempt).
    Taken(Meta),
    /// A retry that found something newer than its first attempt. Nothing changed.
    Superseded {
        /// The birth of what is newer, if the save would have gone on with it, had it come first.
        birth: Option<ChangeId>,
    },
    /// It would have revived a session that has ended, or destroyed one.
    Refused(Refusal),
    /// The save belongs to another life than the one that its content is sealed for. Nothing
    /// changed; the same change, sealed for this one, is taken.
    Rebind {
        /// The birth that the content has to be sealed for.
        birth: ChangeId,
    },
}

/// Why a save was refused, for the log and the metrics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// The session has ended.
    Ended,
    /// The session it was read from has ended, and a new one has its name.
    Replaced,
    /// Anonymous content after a read that failed.
    Unread,
    Lifetime,
    /// A background process would have logged somebody in or out.
    Background,
    /// A login under an id that somebody was logged out of. Odoo gives a new id at each login, so
    /// this content was loaded before.
    LoggedOut,
    /// A reason that this version of sessionfs does not know.
    Other,
}

impl Refusal {
    /// Every reason, in the order of declaration.
    pub const ALL: &[Self] = &[
        Self::Ended,
        Self::Replaced,
        Self::Unread,
        Self::Lifetime,
        Self::Background,
        Self::LoggedOut,
        Self::Other,
    ];

    /// The reason for the log.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ended => "the session has ended",
            Self::Replaced => "the session was recreated after it was read",
            Self::Unread => "anonymous content after a failed read",
            Self::Lifetime => "its lifetime has ended",
            Self::Background => "a background process does not log anybody in or out",
            Self::LoggedOut => "a login under an id that was logged out",
            Self::Other => "refused",
        }
    }

    /// The label of its counter, and the code by which a script names it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Replaced => "replaced",
            Self::Unread => "unread",
            Self::Lifetime => "lifetime",
            Self::Background => "background",
            Self::LoggedOut => "logged_out",
            Self::Other => "other",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Unlink {
    /// Id and first attempt.
    pub stamp: Stamp,
    /// The name taken as a session id, as its alias.
    pub alias: Alias,
    /// The name taken as an alias, if the caller may remove by alias.
    pub listed: Option<Alias>,
    /// The birth that the caller opened, if the listed name is the very session that it opened last.
    /// Odoo 19 removes the session of its own request and saves it again a moment later: such a
    /// removal is held for [`HELD_REMOVAL_MS`].
    pub held: Option<ChangeId>,
    /// Whose session it was when the caller's request opened it; `None` if it did not. Anybody can ask
    /// for the removal of a name that nobody has.
    pub opened: Option<Class>,
}

/// How long a removal is held if no save of the same thread follows. Until then the session is served
/// as before.
pub const HELD_REMOVAL_MS: u64 = 1000;

/// For how long at least the store holds a removal of which it hears nothing more.
pub const HELD_IN_STORE_MS: u64 = 60_000;

/// For how long the store holds a removal where callers wait that long in an outage: longer, because
/// the save that takes it back may have waited.
pub fn held_in_store_ms(outage_budget_ms: u64) -> u64 {
    const AFTER_WAIT_MS: u64 = 10_000;
    outage_budget_ms.saturating_add(AFTER_WAIT_MS).max(HELD_IN_STORE_MS)
}

/// What became of a removal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unlinked {
    /// This session was alive and is gone (by this attempt or an earlier one).
    Gone {
        /// Which session it was: that of the id, or the listed one.
        alias: Alias,
        /// The birth of the life that ended.
        birth: ChangeId,
    },
    /// This session ends in a moment, unless the same thread saves it before.
    Held { alias: Alias, birth: ChangeId },
    /// No live session had that name.
    Absent,
    /// A retry that found a session which began later. Nothing changed.
    Superseded,
}

/// A change of mode or mtime: it makes a new version of the same bytes.
#[derive(Clone, Debug)]
pub struct Amend {
    /// Id and first attempt.
    pub stamp: Stamp,
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

/// One session of a listing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed {
    pub alias: Alias,
    /// Its current version.
    pub meta: Meta,
}

/// Why the store could not answer. No variant says that a session is gone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreError {
    /// The connection is down, or the answer was overdue. The request may have been carried out.
    Unavailable(String),
    /// The server answered that it cannot take changes now (`READONLY`, `OOM`, `MISCONF`, ...).
    Refused(String),
    /// What is stored there cannot be read (another program's key, a newer format).
    Unreadable(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "Redis is not available: {why}"),
            Self::Refused(why) => write!(f, "Redis accepts no writes: {why}"),
            Self::Unreadable(why) => write!(f, "the data in Redis is invalid: {why}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// The state of the connection, from good to bad. Everything that depends on the store goes by it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Health {
    /// Connected, no request is overdue, and changes are taken as far as is known.
    Up,
    /// Connected, no request is overdue, and changes are refused: reads go on, saves wait.
    ReadOnly,
    /// A request is overdue.
    Degraded,
    /// The connection is lost, or a request has been overdue for too long.
    Down,
}

impl Health {
    /// Every state, in the order of declaration.
    pub const ALL: [Self; 4] = [Self::Up, Self::ReadOnly, Self::Degraded, Self::Down];

    /// Whether the store can be read.
    pub const fn is_readable(self) -> bool {
        matches!(self, Self::Up | Self::ReadOnly)
    }

    /// The label of the state in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::ReadOnly => "read_only",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// Who waits for the link, and for what.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Wait {
    /// The shard that is needed; `None`: all of the store.
    pub shard: Option<Shard>,
    /// Changes must be taken, too.
    pub writes: bool,
    /// The caller is a background process: many requests wait for it, so it waits for less.
    pub background: bool,
}

/// How a bounded wait for the link ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Waited {
    /// What is waited for is there: the store can be read, and changed if that was asked for.
    Up,
    /// One step has passed, and the budget of the outage is not spent.
    StepOver,
    /// The outage has spent its budget.
    BudgetSpent,
}

pub trait Sessions: Send + Sync + 'static {
    /// Whether a `fetch` of that name asks the store alone, and nothing that may take longer. Waits
    /// for that a moment at most: a look-up asks here first, since the kernel holds its directory.
    /// If not, the name counts as existing, and its `open` finds out.
    fn is_ready(&self, alias: &Alias) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// What [`Sessions::fetch`] would find now, if that is known here. Sends nothing, and never waits.
    fn at_hand(&self, _alias: &Alias) -> Option<Lookup> {
        None
    }

    /// The current version under a name: taken for a session id first, then for an alias. A
    /// session that is found expired is ended by the same step.
    fn fetch(
        &self,
        alias: &Alias,
        listed: Option<&Alias>,
    ) -> impl Future<Output = Result<Lookup, StoreError>> + Send;

    /// The sealed content of a save that was found [`Lookup::Large`]; `None` if another one is
    /// current by now, or none. Takes as long as its bytes do, within the budget of an outage.
    fn content(
        &self,
        alias: &Alias,
        save: ChangeId,
    ) -> impl Future<Output = Result<Option<Bytes>, StoreError>> + Send;

    /// Makes a save the current version. Retried within a short bound, which is longer for a large
    /// content.
    fn publish(
        &self,
        publish: &Publish,
    ) -> impl Future<Output = Result<Published, StoreError>> + Send;

    /// Removes a session. Retried within a short bound.
    fn unlink(&self, unlink: &Unlink) -> impl Future<Output = Result<Unlinked, StoreError>> + Send;

    /// Takes back a removal that is held ([`Unlinked::Held`]), without a save.
    fn take_back(
        &self,
        alias: &Alias,
        removal: ChangeId,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Changes mode or mtime; `None` if the session is gone. Retried within a short bound.
    fn amend(&self, amend: &Amend)
    -> impl Future<Output = Result<Option<Meta>, StoreError>> + Send;

    /// The live sessions of one shard, exact, in no order.
    fn list(&self, shard: Shard) -> impl Future<Output = Result<Vec<Listed>, StoreError>> + Send;

    /// The shards that have a live session, and the sessions saved under a flat name.
    fn list_root(&self) -> impl Future<Output = Result<RootListing, StoreError>> + Send;

    /// Records that a person used this session now; written with the next batch.
    fn touch(&self, alias: &Alias);

    /// The same, written before this returns: for a session with only seconds to live, which
    /// another server could otherwise end.
    fn touch_now(&self, alias: &Alias) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Whether a save would be taken now, by the store or in its place. If not, it has to fail at its
    /// first write: Odoo does not look at the outcome of a rename.
    fn takes_saves(&self) -> bool {
        true
    }

    /// Whether something is known of this session that the store does not know yet, so that a look-up
    /// has an answer while the store has none.
    fn knows_more(&self, _alias: &Alias) -> bool {
        false
    }

    /// What ends when all changes of this session that were taken outlive a crash of this host, or
    /// after a bound; `None` if they do already.
    fn settling(&self, _alias: &Alias) -> Option<Settling> {
        None
    }
}

/// A wait that may be given up at any time.
pub type Settling = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The state of the connection to the store, and the store's time.
///
/// A store may have several servers, each with the sessions of some shards. Without a shard the
/// state is the worst of them all.
pub trait Link: Send + Sync + 'static {
    /// The state as last seen. Sends nothing.
    fn health(&self, shard: Option<Shard>) -> Health;

    /// Whether the link is up *and* has answered a moment ago, so that a change sent now will
    /// nearly always be answered.
    fn is_fresh(&self, shard: Option<Shard>) -> bool;

    /// A shard whose server takes changes now, for one whose shard is not known yet; `None` if it
    /// makes no difference.
    fn any_up(&self) -> Option<Shard> {
        None
    }

    /// For how long it could not be read, if it cannot.
    fn unreadable_for(&self, _shard: Shard) -> Option<Duration> {
        None
    }

    /// Whether it tells of each change of what was read from it ([`Changes`]).
    fn tells_changes(&self, _shard: Shard) -> bool {
        false
    }

    /// Whether contents may be packed: every server that uses the store can unpack them.
    fn takes_packed(&self) -> bool {
        false
    }

    /// Waits until the store can be read (and changed, if `wait` asks for that), at most for one step.
    /// Pings a link that has been silent.
    fn wait_up(&self, wait: Wait) -> impl Future<Output = Waited> + Send;

    /// A fresh id for a change of a session of that shard, and the store's time as well as it is
    /// known there.
    fn stamp(&self, shard: Shard) -> Stamp;

    /// Writes the collected touches, within `bound`.
    fn drain(&self, bound: Duration) -> impl Future<Output = ()> + Send;
}

/// Hears which sessions may have changed in the store, by whoever it was but its own caller. Never waits.
pub trait Changes: Send + Sync {
    /// This session may have changed.
    fn changed(&self, alias: &Alias);

    /// Any may have.
    fn all_changed(&self);
}

/// Makes session files sessions.
pub trait Intake: Link {
    /// Makes a file a session, unless its name is known. Its login is its mtime, its activity now.
    fn import(&self, import: &Import) -> impl Future<Output = Result<Imported, StoreError>> + Send;

    /// Whether the name is known, as a live session or an ended one. Changes nothing.
    fn knows(&self, alias: &Alias) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

/// A session file.
#[derive(Clone, Debug)]
pub struct Import {
    /// Id and first attempt.
    pub stamp: Stamp,
    pub alias: Alias,
    /// The form of the file's name.
    pub form: Form,
    /// Class and identity, read from the plain content.
    pub content: Content,
    /// The content's length before sealing.
    pub size_bytes: u64,
    /// How the content is packed.
    pub packing: u16,
    /// The content, packed, and sealed as the save of this id that began its life.
    pub sealed: Bytes,
    /// The file's mtime, nanoseconds since the epoch.
    pub mtime_ns: i64,
    pub mode: u32,
}

/// What became of a session file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Imported {
    /// It is a session now.
    Taken,
    /// The name was known, as a live session or an ended one. Nothing changed.
    Kept,
    /// Its absolute lifetime was over before.
    Over,
}

/// Receives what the filesystem opens, saves and finds ended. The only place where a session id
/// and its plain content leave the filesystem. Never waits.
pub trait Observer: std::fmt::Debug + Send + Sync {
    /// This version is current: it was opened or saved.
    fn current(&self, sid: &Sid, meta: &Meta, plain: &Bytes);

    /// This session is gone.
    fn ended(&self, alias: &Alias);
}

/// What is kept on this host because the store has not taken it yet.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Kept {
    /// Changes that are sent as soon as the store takes them.
    pub changes: u64,
    /// Their size.
    pub bytes: u64,
    /// How long ago the first of them was made.
    pub oldest_seconds: u64,
    /// No save is kept any more, so saves fail at their first write.
    pub is_full: bool,
    /// Changes that are there and cannot be sent.
    pub unsendable: u64,
    /// Why they cannot.
    pub why_unsendable: Option<String>,
}

/// What the filesystem holds at a moment.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Usage {
    /// Files that the kernel remembers.
    pub inodes: u64,
    /// Open files and directories.
    pub handles: u64,
    /// Temp files of saves under way.
    pub staging_files: u64,
    /// The size of those files.
    pub staging_bytes: u64,
    /// What it keeps in memory of sessions, bytes. An older worker does not say.
    #[serde(default)]
    pub memory_bytes: u64,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RootListing {
    /// Shards with at least one live session saved under its sharded name.
    pub shards: Vec<Shard>,
    /// Live sessions saved under their flat name.
    pub flat: Vec<Listed>,
}
