//! Inode numbers and what they stand for.
//!
//! A number is never given to a second thing: shards have theirs from their two characters,
//! staging files from the inode number of their tmpfs file, versions from the number of the worker
//! and a counter. A staging file that is published keeps its number: the kernel has moved its dentry
//! onto the name of the session, so the inode of the staging file *is* the new version.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};

use bytes::Bytes;
use lru::LruCache;

use super::Settings;
use super::attributes::Attributes;
use super::kept::KeptState;
use crate::session::name::{Alias, Form, Shard, Sid};
use crate::store::{ChangeId, Listed, Meta};

/// An inode number as the kernel knows it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct InodeId(pub u64);

impl InodeId {
    /// The root directory (`FUSE_ROOT_ID`).
    pub const ROOT: Self = Self(1);
    /// Shards follow the root, one generation of them after another.
    const FIRST_SHARD: u64 = 2;
    /// Set in the ids of staging files, whose other bits are a tmpfs inode number.
    const STAGING: u64 = 1 << 62;
    /// Set in the ids of versions.
    const VERSION: u64 = 1 << 63;

    /// How many of the lower bits of a version's id count; the worker's number is above them. A
    /// thousand new inodes a second fill them in 34 years.
    const COUNTER_BITS: u32 = 40;

    /// Where the ids of a worker's versions begin.
    fn first_of(worker: u64) -> u64 {
        let mask = (Self::STAGING >> Self::COUNTER_BITS) - 1;
        Self::VERSION | ((worker & mask) << Self::COUNTER_BITS)
    }

    /// The directory of a shard, until its first removal.
    pub fn of_shard(shard: Shard) -> Self {
        Self::of_generation(shard, 0)
    }

    /// The same after so many removals: the kernel does not use the inode of a removed directory again.
    fn of_generation(shard: Shard, generation: u64) -> Self {
        Self(Self::FIRST_SHARD + u64::from(shard.index()) + u64::from(Shard::COUNT) * generation)
    }

    /// A staging file, from the inode number of its tmpfs file.
    pub fn of_staging(inode: u64) -> Self {
        Self(Self::STAGING | (inode & (Self::STAGING - 1)))
    }

    /// The shard that this id stands for.
    pub fn shard(self) -> Option<Shard> {
        let number = self.0.checked_sub(Self::FIRST_SHARD).filter(|_| self.0 < Self::STAGING)?;
        Shard::from_index(u16::try_from(number % u64::from(Shard::COUNT)).ok()?)
    }
}

/// What an inode stands for. Directories need no entry in the table.
#[derive(Clone, Debug)]
pub enum Inode {
    /// The temp file of a save under way; its attributes are those of the tmpfs file.
    Staging,
    /// One version of a session.
    Version(Box<Version>),
    /// A session, looked up by its alias, with the version that was current then. It can be stat'ed and unlinked, not
    /// opened. What has listed it shares it: a walk over all sessions is a million of these.
    AliasView(Arc<Listed>),
    /// The staging file of a superseded save, which the kernel has moved onto the name of the
    /// session, although something newer is current. It keeps its own attributes, changes to them
    /// are ignored, and its `open` fetches what is current.
    Superseded(Box<Superseded>),
    /// A name that may be a session: the store was unavailable. Its `open` asks the store.
    Provisional(Box<Provisional>),
}

/// See [`Inode::Superseded`].
#[derive(Clone, Debug)]
pub struct Superseded {
    pub sid: Sid,
    /// The last attributes that the kernel was given.
    pub attributes: Attributes,
}

/// See [`Inode::Provisional`].
#[derive(Clone, Debug)]
pub struct Provisional {
    /// Whose name it would be.
    pub sid: Sid,
    /// In which form it was looked up.
    pub form: Form,
    /// The size that its last `open` found; `None` before the first.
    pub found_bytes: Option<u64>,
}

impl Inode {
    fn provisional(sid: &Sid, form: Form) -> Self {
        Self::Provisional(Box::new(Provisional { sid: sid.clone(), form, found_bytes: None }))
    }

    /// Whether it is that of a session, or of a name that may be one.
    pub fn is_session(&self) -> bool {
        !matches!(self, Self::Staging)
    }
}

/// One version of a session, as an inode.
#[derive(Clone, Debug)]
pub struct Version {
    pub sid: Sid,
    /// Under which alias it is kept.
    pub alias: Alias,
    pub meta: Meta,
    /// Its plain content, unless it was evicted.
    pub bytes: Option<Bytes>,
}

/// An entry that the kernel is asked to forget.
#[derive(Debug)]
pub struct Eviction {
    pub parent: InodeId,
    pub name: String,
}

struct Known {
    inode: Inode,
    /// The look-up count: how often the kernel was given it and has not forgotten it.
    lookups: u64,
}

/// The inodes that the kernel may name.
pub struct Inodes {
    known: LruCache<InodeId, Known>,
    versions: HashMap<(Alias, ChangeId), InodeId>,
    /// The last view of a session.
    views: HashMap<Alias, InodeId>,
    provisional: HashMap<Sid, InodeId>,
    /// How often each shard's directory was removed.
    removed_shards: HashMap<Shard, u64>,
    /// The version of a session that this server saw last.
    latest: HashMap<Alias, InodeId>,
    /// Bounded. An eviction that does not fit is tried again later.
    evictions: SyncSender<Eviction>,
    /// Names that have another meaning now, and did not fit. They go before any eviction.
    to_forget: VecDeque<Eviction>,
    kept: KeptState,
    held_bytes: usize,
    /// For how long the kernel may keep names of sessions.
    name_valid_ms: u64,
    next: u64,
    max_known: usize,
    max_bytes: usize,
    /// What listings take of `max_bytes`.
    listings_bytes: usize,
}

/// What an inode takes besides a content: its place in the tables, its names, what a listing has shown of it
/// (`benches/scale` measures it).
pub(super) const INODE_BYTES: usize = 512;

/// How many names wait to be forgotten at most. The kernel forgets others by itself, after `name_valid_ms`.
const MAX_TO_FORGET: usize = 65_536;

/// How many entries one insertion evicts at most, so that no request pays for many.
const MAX_EVICTIONS_AT_ONCE: usize = 8;

impl Inodes {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// What they take, contents included, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.known.len() * INODE_BYTES + self.held_bytes
    }

    /// An empty table that asks the kernel to forget entries beyond the bounds in `settings`.
    pub(super) fn new(
        settings: &Settings,
        kept: KeptState,
        evictions: SyncSender<Eviction>,
    ) -> Self {
        Self {
            known: LruCache::unbounded(),
            versions: HashMap::new(),
            views: HashMap::new(),
            provisional: HashMap::new(),
            removed_shards: HashMap::new(),
            latest: HashMap::new(),
            evictions,
            to_forget: VecDeque::new(),
            held_bytes: 0,
            listings_bytes: 0,
            name_valid_ms: settings.name_valid_ms,
            next: InodeId::first_of(kept.generation().unwrap_or(settings.worker)),
            kept,
            max_known: settings.max_inodes,
            max_bytes: settings.max_memory_bytes,
        }
    }

    /// The directory of a shard.
    pub fn shard(&self, shard: Shard) -> InodeId {
        let removals = self.removed_shards.get(&shard).copied();
        InodeId::of_generation(shard, removals.unwrap_or_else(|| self.kept.removals(shard)))
    }

    /// The directory of a shard was removed. The shard is there as ever, as another directory.
    pub fn remove_shard(&mut self, shard: Shard) {
        let kept = &self.kept;
        *self.removed_shards.entry(shard).or_insert_with(|| kept.removals(shard)) += 1;
        kept.count_removal(shard);
    }

    /// What an inode stands for.
    pub fn get(&mut self, id: InodeId) -> Option<&Inode> {
        self.find(id);
        self.known.get(&id).map(|known| &known.inode)
    }

    /// The session that an inode stands for.
    pub(super) fn alias(&mut self, id: InodeId) -> Option<Alias> {
        Some(match self.get(id)? {
            Inode::Staging => return None,
            Inode::Version(version) => version.alias.clone(),
            Inode::AliasView(listed) => listed.alias.clone(),
            Inode::Superseded(superseded) => superseded.sid.alias(),
            Inode::Provisional(provisional) => provisional.sid.alias(),
        })
    }

    /// Takes up an inode of the worker before, if it is one.
    fn find(&mut self, id: InodeId) {
        if self.known.contains(&id) {
            return;
        }
        let Some((inode, lookups)) = self.kept.inode(id) else { return };
        if let Inode::Version(version) = &inode {
            let key = (version.alias.clone(), version.meta.version);
            self.versions.entry(key).or_insert(id);
            // The kernel may have kept its name.
            self.latest.entry(version.alias.clone()).or_insert(id);
        }
        self.known.put(id, Known { inode, lookups });
        self.evict();
    }

    /// The inode of a version. Counts a look-up.
    pub fn version(&mut self, version: Version) -> InodeId {
        let key = (version.alias.clone(), version.meta.version);
        let id = match self.versions.get(&key) {
            Some(&id) => id,
            None => self.insert_version(key, version.clone()),
        };
        self.latest.insert(version.alias.clone(), id);
        if let Some(Known { inode: Inode::Version(known), .. }) = self.known.get_mut(&id) {
            known.meta.left_ms = version.meta.left_ms;
        }
        if let Some(bytes) = version.bytes {
            self.keep_bytes(id, bytes);
        }
        self.count_lookup(id);
        id
    }

    /// The content of a version, if it is kept.
    pub fn content(&mut self, alias: &Alias, version: ChangeId) -> Option<Bytes> {
        let id = *self.versions.get(&(alias.clone(), version))?;
        let Some(Inode::Version(version)) = self.get(id) else { return None };
        version.bytes.clone()
    }

    /// Keeps the content of a version that the kernel knows, within the bound.
    pub fn keep_content(&mut self, alias: &Alias, version: ChangeId, content: &Bytes) {
        if let Some(&id) = self.versions.get(&(alias.clone(), version)) {
            self.keep_bytes(id, content.clone());
        }
    }

    /// The inode of a session that was looked up by its alias. Counts a look-up.
    pub fn alias_view(&mut self, listed: &Arc<Listed>) -> InodeId {
        let shows = |known: &Known| matches!(&known.inode, Inode::AliasView(view) if view.meta.version == listed.meta.version);
        let last = self.views.get(&listed.alias).copied();
        let id = last.filter(|id| self.known.peek(id).is_some_and(shows)).unwrap_or_else(|| {
            let id = self.new_id();
            self.insert(id, Inode::AliasView(Arc::clone(listed)));
            self.views.insert(listed.alias.clone(), id);
            id
        });
        self.count_lookup(id);
        id
    }

    /// The inode of a name while the store is unavailable. Counts a look-up.
    pub fn provisional(&mut self, sid: &Sid, form: Form) -> InodeId {
        let id = self.provisional.get(sid).copied().unwrap_or_else(|| {
            let id = self.new_id();
            self.insert(id, Inode::provisional(sid, form));
            self.provisional.insert(sid.clone(), id);
            id
        });
        self.count_lookup(id);
        id
    }

    /// The same for one look-up alone: who opens it sees the size of what he is given, and of nothing
    /// that another `open` has found. Counts a look-up.
    pub fn unshared(&mut self, sid: &Sid, form: Form) -> InodeId {
        let id = self.new_id();
        self.insert(id, Inode::provisional(sid, form));
        self.count_lookup(id);
        id
    }

    /// The version of a session that this server saw last, which need not be the current one.
    /// Counts a look-up.
    pub fn latest(&mut self, alias: &Alias) -> Option<(InodeId, Version)> {
        let id = *self.latest.get(alias)?;
        let Some(Inode::Version(version)) = self.get(id) else { return None };
        let version = Version::clone(version);
        self.count_lookup(id);
        Some((id, version))
    }

    /// Whether this is the version of its session that this server saw last.
    pub fn is_latest(&self, alias: &Alias, id: InodeId) -> bool {
        self.latest.get(alias) == Some(&id)
    }

    /// A staging file. Counts a look-up.
    pub fn staging(&mut self, id: InodeId) {
        self.find(id);
        if !self.known.contains(&id) {
            self.insert(id, Inode::Staging);
        }
        self.count_lookup(id);
    }

    /// A staging file was published: its inode is the new version.
    pub fn publish(&mut self, id: InodeId, version: Version) {
        if version.meta.left_ms < self.name_valid_ms {
            // Its name was given out when its lifetime was not known yet.
            self.forget_name_of(&version.sid, version.meta.form);
        }
        let alias = version.alias.clone();
        self.versions.insert((alias.clone(), version.meta.version), id);
        self.latest.insert(alias, id);
        self.held_bytes += version.bytes.as_ref().map_or(0, Bytes::len);
        self.find(id);
        match self.known.get_mut(&id) {
            Some(known) => {
                known.inode = Inode::Version(Box::new(version));
                self.kept.put_inode(id, &known.inode, known.lookups);
            }
            None => self.insert(id, Inode::Version(Box::new(version))),
        }
        self.evict();
    }

    /// A save was superseded. The inode of its staging file stays, and no look-up finds it.
    pub fn supersede(&mut self, id: InodeId, sid: Sid, form: Form, attributes: Attributes) {
        self.forget_name_of(&sid, form);
        self.find(id);
        if let Some(known) = self.known.get_mut(&id) {
            let superseded = Inode::Superseded(Box::new(Superseded { sid, attributes }));
            let was = std::mem::replace(&mut known.inode, superseded);
            self.kept.put_inode(id, &known.inode, known.lookups);
            // The worker before may have made it a version before it died.
            self.leave_tables(id, &was);
        }
    }

    /// What an `open` of a provisional inode found.
    pub fn set_provisional_size(&mut self, id: InodeId, size_bytes: u64) {
        if let Some(Known { inode: Inode::Provisional(provisional), .. }) = self.known.get_mut(&id)
        {
            provisional.found_bytes = Some(size_bytes);
        }
    }

    /// Mode or mtime of the session were changed by this inode. The new version has an inode of its own, which the next
    /// look-up finds; until then whoever asks for the attributes of this one has just set them.
    pub fn amend(&mut self, id: InodeId, meta: &Meta) {
        if let Some(known) = self.known.get_mut(&id)
            && let Inode::Version(version) = &mut known.inode
        {
            (version.meta.mode, version.meta.mtime_ns) = (meta.mode, meta.mtime_ns);
            let (sid, form) = (version.sid.clone(), version.meta.form);
            self.kept.put_inode(id, &known.inode, known.lookups);
            self.forget_name_of(&sid, form);
        }
    }

    /// The version of a session that was seen last is perhaps not the current one: the kernel is asked to forget its name.
    pub fn forget_name(&mut self, alias: &Alias) {
        let known = self.latest.get(alias).and_then(|id| self.known.peek(id));
        if let Some(Known { inode: Inode::Version(version), .. }) = known {
            let (sid, form) = (version.sid.clone(), version.meta.form);
            self.forget_name_of(&sid, form);
        }
    }

    fn forget_name_of(&mut self, sid: &Sid, form: Form) {
        if self.name_valid_ms > 0 && self.to_forget.len() < MAX_TO_FORGET {
            let parent = self.parent(sid.shard(), form);
            self.to_forget.push_back(Eviction { parent, name: sid.entry(form) });
            self.send_names_to_forget();
        }
    }

    /// Sends what did not fit before; whether nothing is left.
    pub fn send_names_to_forget(&mut self) -> bool {
        while let Some(name) = self.to_forget.pop_front() {
            if let Err(TrySendError::Full(name)) = self.evictions.try_send(name) {
                self.to_forget.push_front(name);
                return false;
            }
        }
        true
    }

    /// From now on listings take so much of the memory that inodes may take.
    pub fn leave_to_listings(&mut self, bytes: usize) {
        self.listings_bytes = bytes;
    }

    /// The session is gone: a look-up by a save must not find its last version.
    pub fn ended(&mut self, alias: &Alias) {
        self.forget_name(alias);
        self.latest.remove(alias);
    }

    /// FORGET: the kernel drops `count` look-ups of `id`.
    pub fn forget(&mut self, id: InodeId, count: u64) {
        self.kept.count_lookups(id, -i64::try_from(count).unwrap_or(i64::MAX));
        let Some(known) = self.known.get_mut(&id) else { return };
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups == 0 {
            self.remove(id);
        }
    }

    fn insert_version(&mut self, key: (Alias, ChangeId), version: Version) -> InodeId {
        let id = self.new_id();
        self.versions.insert(key, id);
        self.insert(id, Inode::Version(Box::new(Version { bytes: None, ..version })));
        id
    }

    fn insert(&mut self, id: InodeId, inode: Inode) {
        self.kept.put_inode(id, &inode, 0);
        self.known.put(id, Known { inode, lookups: 0 });
        self.evict();
    }

    fn keep_bytes(&mut self, id: InodeId, bytes: Bytes) {
        if let Some(Known { inode: Inode::Version(version), .. }) = self.known.get_mut(&id)
            && version.bytes.is_none()
        {
            self.held_bytes += bytes.len();
            version.bytes = Some(bytes);
            self.evict();
        }
    }

    fn count_lookup(&mut self, id: InodeId) {
        if let Some(known) = self.known.get_mut(&id) {
            known.lookups += 1;
            self.kept.count_lookups(id, 1);
        }
    }

    fn new_id(&mut self) -> InodeId {
        self.next += 1;
        InodeId(self.next)
    }

    fn remove(&mut self, id: InodeId) {
        self.kept.forget_inode(id);
        if let Some(Known { inode, .. }) = self.known.pop(&id) {
            self.leave_tables(id, &inode);
        }
    }

    /// It is found no more by what it was.
    fn leave_tables(&mut self, id: InodeId, inode: &Inode) {
        match inode {
            Inode::Staging | Inode::Superseded(_) => {}
            Inode::Version(version) => {
                self.held_bytes -= version.bytes.as_ref().map_or(0, Bytes::len);
                self.versions.remove(&(version.alias.clone(), version.meta.version));
                if self.latest.get(&version.alias) == Some(&id) {
                    self.latest.remove(&version.alias);
                }
            }
            Inode::AliasView(listed) => {
                if self.views.get(&listed.alias) == Some(&id) {
                    self.views.remove(&listed.alias);
                }
            }
            Inode::Provisional(provisional) => {
                if self.provisional.get(&provisional.sid) == Some(&id) {
                    self.provisional.remove(&provisional.sid);
                }
            }
        }
    }

    /// The directory in which a session of that form stands.
    fn parent(&self, shard: Shard, form: Form) -> InodeId {
        match form {
            Form::Flat => InodeId::ROOT,
            Form::Sharded => self.shard(shard),
        }
    }

    /// Beyond a bound, drops the content of the least recently used inode and asks the kernel to
    /// forget the entry. The inode may still be open, so it stays until FORGET and counts as used
    /// now.
    fn evict(&mut self) {
        // A listing that is too large for its share must not take that of the sessions in use.
        let max_bytes = self.max_bytes - self.listings_bytes.min(self.max_bytes / 2);
        for _ in 0..MAX_EVICTIONS_AT_ONCE {
            if self.known.len() <= self.max_known && self.memory_bytes() <= max_bytes {
                return;
            }
            if !self.send_names_to_forget() {
                return;
            }
            let Some((&id, _)) = self.known.peek_lru() else { return };
            let Some(known) = self.known.get_mut(&id) else { return };
            let (name, shard, form) = match &mut known.inode {
                Inode::Version(version) => {
                    self.held_bytes -= version.bytes.take().map_or(0, |bytes| bytes.len());
                    let form = version.meta.form;
                    (version.sid.entry(form), version.sid.shard(), form)
                }
                Inode::Provisional(provisional) => {
                    let Provisional { sid, form, .. } = &**provisional;
                    (sid.entry(*form), sid.shard(), *form)
                }
                Inode::AliasView(listed) => {
                    let Listed { alias, meta } = &**listed;
                    (alias.entry(meta.form), alias.shard(), meta.form)
                }
                Inode::Staging | Inode::Superseded(_) => continue,
            };
            let parent = self.parent(shard, form);
            let _ = self.evictions.try_send(Eviction { parent, name });
        }
    }
}
