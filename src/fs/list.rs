//! OPENDIR and READDIR. A listing is taken whole when the directory is opened, which holds no
//! lock, and READDIR answers from it.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lru::LruCache;
use serde::{Deserialize, Serialize};

use super::attributes::{Attributes, Entry};
use super::caller::{Caller, Identity, MS_PER_TICK, ThreadId};
use super::grants;
use super::handle::{Handle, HandleId};
use super::inode::InodeId;
use super::open::bad_handle;
use super::{Core, LONG, Step};
use crate::error::{Error, Result};
use crate::session::name::{Alias, CandidateAlias, Form, Shard};
use crate::store::{Link, Listed, Meta, Sessions, StoreError, Wait, Waited};

/// What the store answered.
type Answer<T> = std::result::Result<T, StoreError>;

/// A directory as it was when it was opened, or read from its start again.
#[derive(Debug)]
pub struct Snapshot {
    pub directory: InodeId,
    /// The offset at which it begins: so much was read of another listing, which the worker that died has not kept. Of
    /// that one it is not known what it has shown, so all entries follow, some of them once more.
    pub first: u64,
    /// It was read from its start.
    begun: AtomicBool,
    /// It was taken by a worker that has died, and was not kept: it has to be taken anew.
    is_lost: bool,
    /// Its entries, in the order in which they are read.
    pub entries: Vec<Item>,
    /// The same for the next worker; empty for a long listing, which is taken anew.
    record: Vec<u8>,
}

/// One entry of a listing.
#[derive(Debug)]
pub struct Item {
    /// Its name: an alias, a shard or a temp file.
    pub name: String,
    what: What,
}

#[derive(Debug)]
enum What {
    Directory(InodeId),
    /// What the listing grants, and the inode that the kernel is given, share it.
    Session(Arc<Listed>),
    Staging(InodeId),
}

/// The aliases that listings have shown lately.
///
/// Only such a name is sent to the store as an alias. Any other may be a session id, which would
/// appear in clear on the wire, in `MONITOR` and in the slow log. Odoo's glob, scandir and vacuum
/// list before they use an alias.
pub struct ListedAliases {
    aliases: LruCache<Alias, ()>,
    most: usize,
}

/// Beyond this number the oldest are forgotten, and before where `limits.memory` is small. They can be neither stat'ed nor
/// unlinked by alias until the next listing; they expire all the same.
const MAX_LISTED_ALIASES: usize = 262_144;
/// What one takes in memory.
const LISTED_ALIAS_BYTES: usize = 200;

/// Before a listing that was broken off is taken anew. It takes many requests, so each loss of the
/// connection breaks it off.
const TAKEN_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// The budget of no outage has more steps.
const MAX_STEPS: u32 = 10_000;

/// How long the kernel answers for a session that it was shown by its alias: who walks over all sessions looks at each
/// right after the listing (`stat` of what `glob` has found). Its thread is answered from the listing for longer.
const LISTED_VALID: Duration = Duration::from_secs(1);

/// How long a listing may take while the kernel holds the directory.
const HELD_FOR: Duration = Duration::from_secs(1);

impl ListedAliases {
    /// None yet. They may take so much memory.
    pub(super) fn new(max_bytes: usize) -> Self {
        let most = (max_bytes / LISTED_ALIAS_BYTES).min(MAX_LISTED_ALIASES);
        // Grows as it is filled: most servers never list so much.
        Self { aliases: LruCache::unbounded(), most }
    }

    /// Adds what a listing shows.
    fn extend<'a>(&mut self, aliases: impl Iterator<Item = &'a Alias>) {
        for alias in aliases {
            self.aliases.put(alias.clone(), ());
            if self.aliases.len() > self.most {
                self.aliases.pop_lru();
            }
        }
    }

    /// What they take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.aliases.len() * LISTED_ALIAS_BYTES
    }

    /// The alias that a name is, if a listing has shown it.
    pub fn proven(&mut self, candidate: &CandidateAlias) -> Option<Alias> {
        candidate.among(|alias| self.aliases.get(alias).is_some())
    }
}

impl Snapshot {
    fn new(directory: InodeId, entries: Vec<Item>) -> Self {
        let record = Self::encode(&entries);
        let begun = AtomicBool::new(false);
        Self { directory, first: 0, begun, is_lost: false, entries, record }
    }

    /// The entries to be read from `offset` on: the offset after each entry, its name, and the entry (`None` for `.` and
    /// `..`).
    pub fn rest(&self, offset: u64) -> impl Iterator<Item = (u64, &str, Option<&Item>)> {
        let dots = [".", ".."].into_iter().map(|name| (name, None));
        let entries = self.entries.iter().map(|item| (item.name.as_str(), Some(item)));
        let skipped = usize::try_from(offset.saturating_sub(self.first)).unwrap_or(usize::MAX);
        dots.chain(entries)
            .enumerate()
            .skip(skipped)
            .map(|(index, (name, item))| (self.first + index as u64 + 1, name, item))
    }

    pub(super) fn record(&self) -> &[u8] {
        &self.record
    }

    fn encode(entries: &[Item]) -> Vec<u8> {
        const KEPT_MAX: usize = 5000;
        if entries.len() > KEPT_MAX {
            return Vec::new();
        }
        let record = |item: &Item| {
            let what = match &item.what {
                What::Directory(inode) => WhatRecord::Directory(inode.0),
                What::Staging(inode) => WhatRecord::Staging(inode.0),
                What::Session(listed) => {
                    WhatRecord::Session(listed.alias.to_string(), listed.meta.clone())
                }
            };
            (item.name.clone(), what)
        };
        let records: Vec<_> = entries.iter().map(record).collect();
        // Names and numbers: it cannot fail.
        serde_json::to_vec(&records).unwrap_or_default()
    }

    /// What the worker before had taken.
    pub(super) fn recorded(directory: InodeId, first: u64, record: &[u8]) -> Self {
        let records: Option<Vec<(String, WhatRecord)>> = serde_json::from_slice(record).ok();
        let item = |(name, what)| {
            let what = match what {
                WhatRecord::Directory(inode) => What::Directory(InodeId(inode)),
                WhatRecord::Staging(inode) => What::Staging(InodeId(inode)),
                WhatRecord::Session(alias, meta) => {
                    What::Session(Arc::new(Listed { alias: Alias::parse(&alias)?, meta }))
                }
            };
            Some(Item { name, what })
        };
        let entries: Option<Vec<Item>> =
            records.and_then(|records| records.into_iter().map(item).collect());
        Self {
            directory,
            first,
            begun: AtomicBool::new(false),
            is_lost: entries.is_none(),
            entries: entries.unwrap_or_default(),
            record: record.to_vec(),
        }
    }

    fn listed(&self) -> impl Iterator<Item = &Arc<Listed>> {
        self.entries.iter().filter_map(Item::listed)
    }
}

/// An entry of a listing as it is kept.
#[derive(Deserialize, Serialize)]
enum WhatRecord {
    Directory(u64),
    Session(String, Meta),
    Staging(u64),
}

impl Item {
    fn listed(&self) -> Option<&Arc<Listed>> {
        match &self.what {
            What::Session(listed) => Some(listed),
            What::Directory(_) | What::Staging(_) => None,
        }
    }

    /// The inode number to show in a plain listing. A session gets its own when it is looked up;
    /// until then any number but 0 will do, and this one belongs to nothing else.
    pub fn inode(&self) -> u64 {
        const UNKNOWN: u64 = 0xffff_ffff;
        match &self.what {
            What::Directory(inode) | What::Staging(inode) => inode.0,
            What::Session(_) => UNKNOWN,
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.what, What::Directory(_))
    }
}

impl<S: Sessions, L: Link> Core<S, L> {
    /// Takes the listing of a directory.
    pub fn open_directory(self: &Arc<Self>, caller: Caller, inode: InodeId) -> Step<HandleId> {
        if inode != InodeId::ROOT && inode.shard().is_none() {
            return Err(Error::expected(libc::ENOTDIR, "not a directory")).into();
        }
        let by = self.callers.identify(caller);
        let core = Arc::clone(self);
        let step = Step::later(async move {
            let wait = Wait { shard: inode.shard(), writes: false, background: by.background };
            // OPENDIR holds no directory. It waits without steps: Python's `listdir` does not retry
            // EINTR.
            let until = core.callers.now() + core.open_budget;
            let mut snapshot = core.list(by, inode).await;
            while matches!(snapshot, Err(StoreError::Unavailable(_)))
                && core.callers.now() < until
                && core.outlives(wait).await
            {
                tokio::time::sleep(TAKEN_AGAIN_AFTER).await;
                snapshot = core.list(by, inode).await;
            }
            let snapshot = snapshot.map_err(|error| cannot_list(&error))?;
            Ok(core.handles().insert(by.request, Handle::Directory(Arc::new(snapshot))))
        });
        self.opens(by.request, step)
    }

    /// The listing of an open directory, to be read from `offset`. When it is read from its start once
    /// more (`rewinddir`), it is taken anew; so it is when the worker that took it has died and it was not kept.
    pub fn read_directory(
        self: &Arc<Self>,
        caller: Caller,
        directory: InodeId,
        handle: HandleId,
        offset: u64,
    ) -> Step<Arc<Snapshot>> {
        let snapshot = match self.handle(handle) {
            Some(Handle::Directory(snapshot)) => snapshot,
            Some(_) => return Err(bad_handle()).into(),
            None => self.handles().reopen_directory(handle, directory),
        };
        let has_begun = snapshot.begun.swap(true, Ordering::Relaxed);
        if !snapshot.is_lost && (offset > 0 || !has_begun) {
            return Ok(snapshot).into();
        }
        let by = self.callers.identify(caller);
        let core = Arc::clone(self);
        Step::later(async move {
            let (listing, directory) = (Arc::clone(&core), snapshot.directory);
            let fresh = soon(async move { listing.list(by, directory).await }).await;
            let fresh = fresh.map_err(|error| cannot_list(&error))?;
            let fresh = Arc::new(Snapshot { first: offset, ..fresh });
            fresh.begun.store(true, Ordering::Relaxed);
            core.handles().replace(handle, Handle::Directory(Arc::clone(&fresh)));
            Ok(fresh)
        })
    }

    /// Waits until the link is as it is needed; false if the budget of the outage is spent.
    async fn outlives(&self, wait: Wait) -> bool {
        for _ in 0..MAX_STEPS {
            match self.link.wait_up(wait).await {
                Waited::Up => return true,
                Waited::StepOver => {}
                Waited::BudgetSpent => return false,
            }
        }
        false
    }

    async fn list(&self, by: Identity, inode: InodeId) -> Answer<Snapshot> {
        let entries = match inode.shard() {
            Some(shard) => self.list_shard(shard).await?,
            None => self.list_root().await?,
        };
        let snapshot = Snapshot::new(inode, entries);
        let now = self.callers.now();
        if let Some(request) = by.request.filter(|_| snapshot.listed().next().is_some()) {
            let (thread, ticks) = (by.thread, self.callers.now_ticks());
            self.kept.put_listing(request.number, thread, ticks, snapshot.record());
        }
        self.shown(by.thread, by.request.map(|request| request.number), &snapshot, now);
        Ok(snapshot)
    }

    /// A listing, taken then, has shown this to a thread.
    fn shown(
        &self,
        thread: Option<ThreadId>,
        number: Option<u64>,
        snapshot: &Snapshot,
        taken: Instant,
    ) {
        self.listed_aliases().extend(snapshot.listed().map(|one| &one.alias));
        let now = self.callers.now();
        self.grants().listed(thread, number, snapshot.listed(), taken, now);
        self.leave_to_listings();
    }

    /// Inodes have to leave the room that listings take.
    pub(super) fn leave_to_listings(&self) {
        let bytes = self.listings_bytes();
        self.inodes().leave_to_listings(bytes);
    }

    /// What is kept of listings in memory, bytes: which aliases they have shown, and what they allow.
    pub fn listings_bytes(&self) -> usize {
        let aliases = self.listed_aliases().memory_bytes();
        aliases + self.grants().memory_bytes()
    }

    /// Takes up what listings of the worker before have shown. Callers wait meanwhile, so those that most likely allow
    /// nothing any more are not even read.
    pub(super) fn take_up_listings(&self) {
        // Nobody could use them while nobody served, so what they allow goes on from now. Somebody may have walked over
        // their names all the time.
        const READ_WITHIN: Duration = grants::ENDS_AFTER.saturating_mul(6);
        let (now, ticks) = (self.callers.now(), self.callers.now_ticks());
        for (number, thread, at_ticks, record) in self.kept.listings() {
            let age = Duration::from_millis(ticks.saturating_sub(at_ticks) * MS_PER_TICK);
            let at = now.checked_sub(age).filter(|_| age < READ_WITHIN);
            let Some(at) = at else {
                self.kept.forget_listing(number);
                continue;
            };
            let snapshot = Snapshot::recorded(InodeId::ROOT, 0, &record);
            self.shown(thread, Some(number), &snapshot, at);
        }
    }

    async fn list_shard(&self, shard: Shard) -> Answer<Vec<Item>> {
        let listed = self.sessions.list(shard).await?;
        Ok(listed.into_iter().filter(|one| one.meta.form == Form::Sharded).map(session).collect())
    }

    async fn list_root(&self) -> Answer<Vec<Item>> {
        let root = self.sessions.list_root().await?;
        let inodes: Vec<_> = {
            let inodes = self.inodes();
            root.shards.iter().map(|&shard| inodes.shard(shard)).collect()
        };
        let shards = root.shards.into_iter().zip(inodes).map(|(shard, inode)| Item {
            name: shard.as_str().to_owned(),
            what: What::Directory(inode),
        });
        let staging = self
            .staging
            .all()
            .into_iter()
            .map(|staged| Item { name: staged.name.clone(), what: What::Staging(staged.inode) });
        Ok(shards.chain(root.flat.into_iter().map(session)).chain(staging).collect())
    }

    /// Makes a directory: shards exist already (`EEXIST`), others are refused (`EACCES`).
    pub fn mkdir(&self, parent: InodeId, name: &OsStr) -> Result<Entry> {
        let is_shard = parent == InodeId::ROOT && name.to_str().and_then(Shard::parse).is_some();
        Err(if is_shard {
            Error::expected(libc::EEXIST, "shards always exist")
        } else {
            Error::expected(libc::EACCES, "only shards can be directories")
        })
    }

    /// The listing of an open directory.
    pub fn snapshot(&self, handle: HandleId) -> Result<Arc<Snapshot>> {
        match self.handle(handle) {
            Some(Handle::Directory(snapshot)) => Ok(snapshot),
            _ => Err(bad_handle()),
        }
    }

    /// The entry of one name of a listing, as a look-up gives it (READDIRPLUS). Counts a look-up.
    /// `None` for a temp file that is gone since.
    pub fn enter_listed(&self, item: &Item) -> Option<Entry> {
        match &item.what {
            What::Directory(inode) => {
                Some(Entry { attributes: Attributes::of_directory(*inode), valid: LONG })
            }
            What::Session(listed) => {
                let inode = self.inodes().alias_view(listed);
                let attributes = Attributes::of_version(inode, &listed.meta);
                Some(Entry { attributes, valid: LISTED_VALID })
            }
            What::Staging(inode) => {
                let attributes = self.staging_attributes(*inode).ok()?;
                self.inodes().staging(*inode);
                Some(Entry { attributes, valid: Duration::ZERO })
            }
        }
    }

    /// FORGET: the kernel drops `count` look-ups of an inode.
    pub fn forget(&self, inode: InodeId, count: u64) {
        self.inodes().forget(inode, count);
    }
}

fn session(listed: Listed) -> Item {
    Item { name: listed.alias.entry(listed.meta.form), what: What::Session(Arc::new(listed)) }
}

/// A listing while the kernel holds the directory: one attempt, in a short time. It may have to import
/// files first; that goes on, and a later listing finds it done.
pub(super) async fn soon<T: Send + 'static>(
    listing: impl Future<Output = Answer<T>> + Send + 'static,
) -> Answer<T> {
    match tokio::time::timeout(HELD_FOR, tokio::spawn(listing)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) | Err(_) => Err(StoreError::Unavailable("it takes too long".into())),
    }
}

pub(super) fn cannot_list(error: &StoreError) -> Error {
    Error::fault(libc::EIO, format!("cannot list a directory: {error}"))
}
