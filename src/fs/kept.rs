//! What the kernel may still name when this worker has died, as the next one finds it ([`crate::handoff`]).
//!
//! It is read when the kernel names it, and not before: a worker that takes over has callers waiting.

use std::sync::{Arc, Once};
use std::time::Instant;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::attributes::{Attributes, Kind as FileKind};
use super::caller::{Request, ThreadId};
use super::handle::HandleId;
use super::inode::{Inode, InodeId, Provisional, Superseded, Version};
use super::thread::OpenedSession;
use crate::handoff::{Kept, Kind, moment};
use crate::session::change::ChangeId;
use crate::session::content::Class;
use crate::session::name::{Alias, Form, Shard, Sid};
use crate::store::{Claim, Listed, Meta, Stamp, Unlink};

/// An inode as it is kept. The content of a version is not: the store has it, and who has it open has its own.
#[derive(Debug, Deserialize, Serialize)]
enum InodeRecord {
    Staging,
    Version { sid: String, alias: String, meta: Meta },
    AliasView { alias: String, meta: Meta },
    Superseded { sid: String, size_bytes: u64, mtime_ns: i64, mode: Option<u32> },
    Provisional { sid: String, form: Form, found_bytes: Option<u64> },
}

/// An open file or directory as it is kept. The content of a version follows it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) enum HandleRecord {
    Version,
    Staging {
        inode: u64,
    },
    Directory {
        inode: u64,
        /// See [`super::list::Snapshot`].
        #[serde(default, skip_serializing_if = "is_zero")]
        first: u64,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Who has taken a listing, and when. The entries follow it.
#[derive(Debug, Deserialize, Serialize)]
struct ListingRecord {
    thread: Option<ThreadId>,
    at_ticks: u64,
}

/// A removal that waits for a save.
#[derive(Debug, Deserialize, Serialize)]
struct RemovalRecord {
    thread: ThreadId,
    id: ChangeId,
    first_ms: u64,
    /// When it was made, if the store's time was not known then.
    #[serde(
        rename = "made_ns",
        default,
        skip_serializing_if = "Option::is_none",
        with = "moment::maybe"
    )]
    made: Option<Instant>,
    alias: String,
    listed: Option<String>,
    held: Option<ChangeId>,
    opened: Option<Class>,
    is_marked: bool,
    is_taken_back: bool,
}

impl HandleRecord {
    fn kind(&self) -> Kind {
        match self {
            Self::Version | Self::Directory { .. } => Kind::Handle,
            Self::Staging { .. } => Kind::OpenStaging,
        }
    }
}

/// A change that was perhaps sent.
#[derive(Debug, Deserialize, Serialize)]
struct ChangeRecord {
    id: ChangeId,
    first_ms: u64,
    /// When it was made, if the store's time was not known then.
    #[serde(
        rename = "made_ns",
        default,
        skip_serializing_if = "Option::is_none",
        with = "moment::maybe"
    )]
    made: Option<Instant>,
    /// What its thread knew then.
    known: KnownRecord,
}

/// What the thread of a change knew.
#[derive(Debug, Deserialize, Serialize)]
enum KnownRecord {
    /// Nothing of use.
    Nothing,
    Save(ClaimRecord),
    Removal {
        listed: Option<String>,
        held: Option<ChangeId>,
        opened: Option<Class>,
    },
}

#[derive(Debug, Deserialize, Serialize)]
struct ClaimRecord {
    opened: Option<ChangeId>,
    held_removal: Option<ChangeId>,
    sibling: Option<String>,
    after_failed_read: bool,
}

/// What a worker remembers of a thread, as it is kept.
#[derive(Debug, Deserialize, Serialize)]
struct ThreadRecord {
    opened: Option<(String, ChangeId, Class)>,
    must_fail_next_save: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed_save: Option<u64>,
    failed_read: Option<String>,
}

/// What is remembered of a thread, for the next worker.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct KeptThread {
    /// The session that it opened last.
    pub opened: Option<(Alias, OpenedSession)>,
    /// Its next save is owed an error.
    pub must_fail_next_save: bool,
    /// The request that was told so.
    pub failed_save: Option<u64>,
    /// The session whose last read failed.
    pub failed_read: Option<Alias>,
}

/// A removal that is held, for the next worker.
#[derive(Clone, Debug)]
pub(super) struct HeldRemoval {
    pub thread: ThreadId,
    pub unlink: Unlink,
    pub is_marked: bool,
    pub is_taken_back: bool,
}

/// What is kept of inodes, handles, changes and threads.
#[derive(Clone, Debug, Default)]
pub(super) struct KeptState(Kept);

impl KeptState {
    pub(super) fn new(kept: Kept) -> Self {
        Self(kept)
    }

    /// Whether the worker before has served another store.
    pub(super) fn is_of_other_store(&self) -> bool {
        self.0.is_of_other_store()
    }

    /// A number that no other worker of this mount has, if there was one.
    pub(super) fn generation(&self) -> Option<u64> {
        self.0.generation()
    }

    /// Keeps what an inode stands for. Its look-up count stays; if it was not kept, it is this.
    pub(super) fn put_inode(&self, id: InodeId, inode: &Inode, lookups: u64) {
        if !self.0.is_there() {
            return;
        }
        let is_new = self.0.count(Kind::Inode, id.0, 0).is_none();
        self.0.put(Kind::Inode, id.0, &[&encode(&InodeRecord::of(inode))]);
        if is_new {
            self.count_lookups(id, i64::try_from(lookups).unwrap_or(i64::MAX));
        }
    }

    /// What an inode stands for, and its look-up count.
    pub(super) fn inode(&self, id: InodeId) -> Option<(Inode, u64)> {
        let record: InodeRecord = decode(&self.0.get(Kind::Inode, id.0)?)?;
        let lookups = self.0.count(Kind::Inode, id.0, 0)?;
        Some((record.inode(id)?, lookups))
    }

    /// Counts look-ups. What has none left is not kept.
    pub(super) fn count_lookups(&self, id: InodeId, by: i64) {
        if self.0.count(Kind::Inode, id.0, by) == Some(0) && by < 0 {
            self.forget_inode(id);
        }
    }

    pub(super) fn forget_inode(&self, id: InodeId) {
        self.0.remove(Kind::Inode, id.0);
    }

    /// How often a shard's directory was removed.
    pub(super) fn removals(&self, shard: Shard) -> u64 {
        self.0.count(Kind::Shard, shard.index().into(), 0).unwrap_or(0)
    }

    /// It was removed once more.
    pub(super) fn count_removal(&self, shard: Shard) {
        let number = shard.index().into();
        if self.0.count(Kind::Shard, number, 0).is_none() {
            self.0.put(Kind::Shard, number, &[]);
        }
        self.0.count(Kind::Shard, number, 1);
    }

    /// Keeps an open file or directory. What has to be kept of it follows its record.
    pub(super) fn put_handle(&self, id: HandleId, record: &HandleRecord, body: &[u8]) {
        self.put_with_body(record.kind(), id.0, record, body);
    }

    pub(super) fn handle(&self, id: HandleId) -> Option<(HandleRecord, Bytes)> {
        self.with_body(Kind::Handle, id.0).or_else(|| self.with_body(Kind::OpenStaging, id.0))
    }

    /// The staging files that are open.
    pub(super) fn open_staging(&self) -> Vec<HandleId> {
        self.0.numbers(Kind::OpenStaging).into_iter().map(HandleId).collect()
    }

    pub(super) fn forget_handle(&self, id: HandleId) {
        let _ = self.0.remove(Kind::Handle, id.0) || self.0.remove(Kind::OpenStaging, id.0);
    }

    /// Keeps what a listing has shown.
    pub(super) fn put_listing(
        &self,
        number: u64,
        thread: Option<ThreadId>,
        at_ticks: u64,
        entries: &[u8],
    ) {
        let record = ListingRecord { thread, at_ticks };
        self.put_with_body(Kind::Listing, number, &record, entries);
    }

    /// The listings of the worker before: number, who has taken it and when, and its entries.
    pub(super) fn listings(&self) -> Vec<(u64, Option<ThreadId>, u64, Bytes)> {
        let listing = |number| {
            let (record, entries): (ListingRecord, _) = self.with_body(Kind::Listing, number)?;
            Some((number, record.thread, record.at_ticks, entries))
        };
        self.0.numbers(Kind::Listing).into_iter().filter_map(listing).collect()
    }

    pub(super) fn forget_listing(&self, number: u64) {
        self.0.remove(Kind::Listing, number);
    }

    /// Keeps a removal that is held.
    pub(super) fn put_removal(&self, number: u64, held: &HeldRemoval) {
        let HeldRemoval { thread, unlink, is_marked, is_taken_back } = held;
        let record = RemovalRecord {
            thread: *thread,
            id: unlink.stamp.id,
            first_ms: unlink.stamp.first_ms,
            made: unlink.stamp.made_untimed(),
            alias: unlink.alias.to_string(),
            listed: unlink.listed.as_ref().map(Alias::to_string),
            held: unlink.held,
            opened: unlink.opened,
            is_marked: *is_marked,
            is_taken_back: *is_taken_back,
        };
        if self.0.is_there() {
            self.0.put(Kind::Removal, number, &[&encode(&record)]);
        }
    }

    /// The removals that the worker before has held. They may have been sent.
    pub(super) fn removals_held(&self) -> Vec<(u64, HeldRemoval)> {
        let removal = |number| {
            let record: RemovalRecord = decode(&self.0.get(Kind::Removal, number)?)?;
            let unlink = Unlink {
                stamp: Stamp::left(record.id, record.first_ms, record.made),
                alias: Alias::parse(&record.alias)?,
                listed: record.listed.and_then(|alias| Alias::parse(&alias)),
                held: record.held,
                opened: record.opened,
            };
            let RemovalRecord { thread, is_marked, is_taken_back, .. } = record;
            Some((number, HeldRemoval { thread, unlink, is_marked, is_taken_back }))
        };
        self.0.numbers(Kind::Removal).into_iter().filter_map(removal).collect()
    }

    pub(super) fn forget_removal(&self, number: u64) {
        self.0.remove(Kind::Removal, number);
    }

    /// Keeps that the `open` of a thread is answered with ESTALE, and which request repeats it.
    pub(super) fn put_told_stale(&self, tid: u32, request: u64, repeated_by: Option<u64>) {
        let repeated_by = repeated_by.map(u64::to_le_bytes);
        let repeated_by = repeated_by.as_ref().map_or(&[][..], |number| number);
        self.0.put(Kind::ToldStale, tid.into(), &[&request.to_le_bytes(), repeated_by]);
    }

    /// The threads that were told so, with the requests that were answered so, and those that repeat them.
    pub(super) fn told_stale(&self) -> Vec<(u32, u64, Option<u64>)> {
        let told = |number| {
            let bytes = self.0.get(Kind::ToldStale, number)?;
            let (request, rest) = bytes.split_first_chunk()?;
            let repeated_by = rest.first_chunk().map(|number| u64::from_le_bytes(*number));
            Some((u32::try_from(number).ok()?, u64::from_le_bytes(*request), repeated_by))
        };
        self.0.numbers(Kind::ToldStale).into_iter().filter_map(told).collect()
    }

    pub(super) fn forget_told_stale(&self, tid: u32) {
        self.0.remove(Kind::ToldStale, tid.into());
    }

    /// Keeps that workers have died of a session, and when.
    pub(super) fn put_poisoned(&self, number: u64, alias: &Alias, at_ticks: u64) {
        let parts = [&at_ticks.to_le_bytes()[..], alias.as_str().as_bytes()];
        self.0.put(Kind::Poisoned, number, &parts);
    }

    /// The sessions that workers have died of: number, alias, and when.
    pub(super) fn poisoned(&self) -> Vec<(u64, Alias, u64)> {
        let poisoned = |number| {
            let bytes = self.0.get(Kind::Poisoned, number)?;
            let (at_ticks, alias) = bytes.split_first_chunk()?;
            let alias = Alias::parse(std::str::from_utf8(alias).ok()?)?;
            Some((number, alias, u64::from_le_bytes(*at_ticks)))
        };
        self.0.numbers(Kind::Poisoned).into_iter().filter_map(poisoned).collect()
    }

    pub(super) fn forget_poisoned(&self, number: u64) {
        self.0.remove(Kind::Poisoned, number);
    }

    /// Keeps what is remembered of a thread.
    pub(super) fn put_thread(&self, thread: ThreadId, kept: &KeptThread) {
        let text = |alias: &Alias| alias.to_string();
        let record = ThreadRecord {
            opened: kept
                .opened
                .as_ref()
                .map(|(alias, known)| (text(alias), known.birth, known.class)),
            must_fail_next_save: kept.must_fail_next_save,
            failed_save: kept.failed_save,
            failed_read: kept.failed_read.as_ref().map(text),
        };
        if self.0.is_there() {
            self.0.put(Kind::Thread, thread.number(), &[&encode(&record)]);
        }
    }

    /// What the worker before has remembered of a thread.
    pub(super) fn thread(&self, thread: ThreadId) -> Option<KeptThread> {
        let record: ThreadRecord = decode(&self.0.get(Kind::Thread, thread.number())?)?;
        let opened = |(alias, birth, class): (String, _, _)| {
            Some((Alias::parse(&alias)?, OpenedSession { birth, class }))
        };
        Some(KeptThread {
            opened: record.opened.and_then(opened),
            must_fail_next_save: record.must_fail_next_save,
            failed_save: record.failed_save,
            failed_read: record.failed_read.and_then(|alias| Alias::parse(&alias)),
        })
    }

    fn put_with_body(&self, kind: Kind, number: u64, record: &impl Serialize, body: &[u8]) {
        if self.0.is_there() {
            let head = encode(record);
            let length = u32::try_from(head.len()).unwrap_or_default().to_le_bytes();
            self.0.put(kind, number, &[&length, &head, body]);
        }
    }

    fn with_body<T: DeserializeOwned>(&self, kind: Kind, number: u64) -> Option<(T, Bytes)> {
        let bytes = Bytes::from(self.0.get(kind, number)?);
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let head = rest.get(..length)?;
        Some((decode(head)?, bytes.slice(4 + length..)))
    }

    /// The stamp of the change that a request makes: `fresh`, or if the request is repeated and has perhaps been
    /// carried out, the one of then. Kept until the request is answered.
    pub(super) fn stamp(&self, request: Option<Request>, fresh: Stamp) -> Stamp {
        self.change(request, fresh, KnownRecord::Nothing).0
    }

    /// The same for a removal, with what its thread knows, or knew.
    pub(super) fn removal(&self, request: Option<Request>, fresh: Unlink) -> Unlink {
        let known = KnownRecord::Removal {
            listed: fresh.listed.as_ref().map(Alias::to_string),
            held: fresh.held,
            opened: fresh.opened,
        };
        let (stamp, former) = self.change(request, fresh.stamp, known);
        match former {
            Some(KnownRecord::Removal { listed, held, opened }) => {
                let listed = listed.and_then(|alias| Alias::parse(&alias));
                Unlink { stamp, listed, held, opened, ..fresh }
            }
            _ => Unlink { stamp, ..fresh },
        }
    }

    /// The same for a save, with what its thread knows, or knew.
    pub(super) fn save(
        &self,
        request: Option<Request>,
        fresh: Stamp,
        claim: Claim,
    ) -> (Stamp, Claim) {
        let known = KnownRecord::Save(ClaimRecord::of(&claim));
        match self.change(request, fresh, known) {
            (stamp, Some(KnownRecord::Save(former))) => (stamp, former.claim()),
            (stamp, _) => (stamp, claim),
        }
    }

    /// The stamp of a change, and what was known of it if it was tried before.
    fn change(
        &self,
        request: Option<Request>,
        fresh: Stamp,
        known: KnownRecord,
    ) -> (Stamp, Option<KnownRecord>) {
        let Some(request) = request else { return (fresh, None) };
        if let Some(former) = self.former(request) {
            let stamp = Stamp::left(former.id, former.first_ms, former.made);
            return (stamp, Some(former.known));
        }
        if self.0.is_there() {
            let Stamp { id, first_ms, .. } = fresh;
            let record = ChangeRecord { id, first_ms, made: fresh.made_untimed(), known };
            self.0.put(Kind::Change, request.number, &[&encode(&record)]);
        }
        (fresh, None)
    }

    /// The removal that a save which is repeated takes back.
    pub(super) fn taken_back_by(&self, request: Option<Request>) -> Option<ChangeId> {
        match self.former(request?)?.known {
            KnownRecord::Save(claim) => claim.held_removal,
            KnownRecord::Removal { .. } | KnownRecord::Nothing => None,
        }
    }

    /// The change that a request makes is carried out, and what it was made of may go.
    pub(super) fn carried_out(&self, request: Option<Request>) {
        if let Some(request) = request {
            self.0.count(Kind::Change, request.number, 1);
        }
    }

    /// Whether a request is repeated whose change was carried out.
    pub(super) fn was_carried_out(&self, request: Option<Request>) -> bool {
        let carried_out =
            |request: Request| self.0.count(Kind::Change, request.number, 0) > Some(0);
        request.is_some_and(|request| request.is_repeated && carried_out(request))
    }

    fn former(&self, request: Request) -> Option<ChangeRecord> {
        let bytes = self.0.get(Kind::Change, request.number).filter(|_| request.is_repeated)?;
        decode(&bytes)
    }
}

impl ClaimRecord {
    fn of(claim: &Claim) -> Self {
        let Claim { opened, held_removal, sibling, after_failed_read } = claim;
        Self {
            opened: *opened,
            held_removal: *held_removal,
            sibling: sibling.as_ref().map(Alias::to_string),
            after_failed_read: *after_failed_read,
        }
    }

    fn claim(self) -> Claim {
        let Self { opened, held_removal, sibling, after_failed_read } = self;
        let sibling = sibling.and_then(|alias| Alias::parse(&alias));
        Claim { opened, held_removal, sibling, after_failed_read }
    }
}

impl InodeRecord {
    fn of(inode: &Inode) -> Self {
        let text = |sid: &Sid| sid.entry(Form::Sharded);
        match inode {
            Inode::Staging => Self::Staging,
            Inode::Version(version) => {
                let Version { sid, alias, meta, .. } = &**version;
                Self::Version { sid: text(sid), alias: alias.to_string(), meta: meta.clone() }
            }
            Inode::AliasView(listed) => {
                let Listed { alias, meta } = &**listed;
                Self::AliasView { alias: alias.to_string(), meta: meta.clone() }
            }
            Inode::Superseded(superseded) => {
                let Superseded { sid, attributes } = &**superseded;
                Self::Superseded {
                    sid: text(sid),
                    size_bytes: attributes.size_bytes,
                    mtime_ns: attributes.mtime_ns,
                    mode: attributes.mode,
                }
            }
            Inode::Provisional(provisional) => {
                let Provisional { sid, form, found_bytes } = &**provisional;
                Self::Provisional { sid: text(sid), form: *form, found_bytes: *found_bytes }
            }
        }
    }

    fn inode(self, id: InodeId) -> Option<Inode> {
        Some(match self {
            Self::Staging => Inode::Staging,
            Self::Version { sid, alias, meta } => Inode::Version(Box::new(Version {
                sid: Sid::parse(&sid)?,
                alias: Alias::parse(&alias)?,
                meta,
                bytes: None,
            })),
            Self::AliasView { alias, meta } => {
                Inode::AliasView(Arc::new(Listed { alias: Alias::parse(&alias)?, meta }))
            }
            Self::Superseded { sid, size_bytes, mtime_ns, mode } => {
                let attributes = Attributes {
                    kind: FileKind::File,
                    mtime_ns,
                    mode,
                    ..Attributes::of_provisional(id, size_bytes)
                };
                Inode::Superseded(Box::new(Superseded { sid: Sid::parse(&sid)?, attributes }))
            }
            Self::Provisional { sid, form, found_bytes } => {
                Inode::Provisional(Box::new(Provisional {
                    sid: Sid::parse(&sid)?,
                    form,
                    found_bytes,
                }))
            }
        })
    }
}

fn encode(record: &impl Serialize) -> Vec<u8> {
    // Of our own types, whose keys are words: it cannot fail.
    serde_json::to_vec(record).unwrap_or_default()
}

/// What another version has kept in another format counts as not kept.
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    static TELL: Once = Once::new();
    serde_json::from_slice(bytes)
        .inspect_err(|_| {
            TELL.call_once(|| {
                tracing::warn!("what another version has kept for this one cannot be read");
            });
        })
        .ok()
}

#[cfg(test)]
mod golden;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff;

    fn meta() -> Meta {
        Meta {
            version: ChangeId(u128::MAX),
            birth: ChangeId(1 << 100),
            mtime_ns: -5,
            mode: 0o644,
            size_bytes: 7,
            class: Class::Authenticated,
            form: Form::Flat,
            activity_ms: u64::MAX,
            left_ms: 3,
        }
    }

    fn sid() -> Sid {
        Sid::parse(&"ab0123456789".repeat(7)).unwrap()
    }

    #[test]
    fn inodes_are_found_as_they_were_kept() {
        let file = handoff::create().unwrap();
        let kept = KeptState::new(Kept::open(&file).unwrap());
        let id = InodeId(1 << 62 | 5);
        let alias = sid().alias();
        let attributes =
            Attributes { mode: Some(0o600), mtime_ns: 9, ..Attributes::of_provisional(id, 11) };
        for inode in [
            Inode::Staging,
            Inode::Version(Box::new(Version {
                sid: sid(),
                alias: alias.clone(),
                meta: meta(),
                bytes: None,
            })),
            Inode::AliasView(Arc::new(Listed { alias, meta: meta() })),
            Inode::Superseded(Box::new(Superseded { sid: sid(), attributes })),
            Inode::Provisional(Box::new(Provisional {
                sid: sid(),
                form: Form::Sharded,
                found_bytes: Some(2),
            })),
        ] {
            kept.put_inode(id, &inode, 1);
            kept.count_lookups(id, 1);
            let next = KeptState::new(Kept::open(&file).unwrap());
            let (found, lookups) = next.inode(id).unwrap();
            // Times that are told as now differ.
            let shown = |inode: &Inode| {
                let text = format!("{inode:?}");
                text.split("atime_ns").next().unwrap().to_owned()
            };
            assert_eq!((shown(&found), lookups), (shown(&inode), 2));
            kept.count_lookups(id, -1);
            assert!(kept.inode(id).is_some());
            kept.count_lookups(id, -1);
            assert!(kept.inode(id).is_none());
        }
    }

    #[test]
    fn handles_are_found_with_their_content() {
        let file = handoff::create().unwrap();
        let kept = KeptState::new(Kept::open(&file).unwrap());
        kept.put_handle(HandleId(2), &HandleRecord::Version, b"content");
        kept.put_handle(HandleId(4), &HandleRecord::Staging { inode: u64::MAX }, b"");
        let next = KeptState::new(Kept::open(&file).unwrap());
        assert_eq!(next.handle(HandleId(2)), Some((HandleRecord::Version, "content".into())));
        let staging = HandleRecord::Staging { inode: u64::MAX };
        assert_eq!(next.handle(HandleId(4)), Some((staging, Bytes::new())));
        assert_eq!(next.open_staging(), [HandleId(4)]);
        next.forget_handle(HandleId(2));
        assert_eq!(next.handle(HandleId(2)), None);
    }

    #[test]
    fn a_repeated_request_makes_the_same_change_again() {
        let file = handoff::create().unwrap();
        let kept = KeptState::new(Kept::open(&file).unwrap());
        let now = Instant::now();
        // Of a change that was made before Redis's time was known, the age is.
        let stamp = |id| Stamp { made: now, ..Stamp::new(ChangeId(id), 0) };
        let request = |is_repeated| Some(Request { number: 6, is_repeated });
        assert_eq!(kept.stamp(request(false), stamp(1)), stamp(1));
        assert!(!kept.was_carried_out(request(true)));
        kept.carried_out(request(false));
        assert!(kept.was_carried_out(request(true)) && !kept.was_carried_out(request(false)));
        assert_eq!(kept.stamp(request(true), stamp(2)), stamp(1).again());
        let claim =
            Claim { opened: Some(ChangeId(7)), sibling: Some(sid().alias()), ..Claim::default() };
        let save = Some(Request { number: 10, is_repeated: false });
        assert_eq!(kept.save(save, stamp(5), claim.clone()), (stamp(5), claim.clone()));
        let repeated = Some(Request { number: 10, is_repeated: true });
        assert_eq!(kept.save(repeated, stamp(6), Claim::default()), (stamp(5).again(), claim));
        // One that had not come so far makes its own.
        let other = Some(Request { number: 8, is_repeated: true });
        assert_eq!(kept.stamp(other, stamp(3)), stamp(3));
        assert_eq!(kept.stamp(None, stamp(4)), stamp(4));
    }
}
