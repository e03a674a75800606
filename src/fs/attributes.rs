//! What `stat` shows, and what `chmod`, `truncate` and `utimens` change.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::caller::Caller;
use super::current::no_session;
use super::handle::{Handle, HandleId};
use super::inode::{Inode, InodeId};
use super::staging::Staged;
use super::stale::replaced;
use super::{Core, LONG, Step};
use crate::error::{Error, Result};
use crate::session::name::{Alias, Form, Sid};
use crate::store::{Amend, Link, Lookup, Meta, Mtime, Sessions, StoreError, Wait, Waited};

/// For the `fstat` after the CREATE. By its rename the file becomes a session, with other attributes.
const STAGING_VALID: Duration = Duration::from_secs(1);
const HOUR_NS: i64 = 3_600_000_000_000;

/// A file or a directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The root or a shard.
    Directory,
    File,
}

/// The attributes of one inode; owner and group are the tree's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attributes {
    pub inode: InodeId,
    /// File or directory.
    pub kind: Kind,
    /// Length of the content.
    pub size_bytes: u64,
    /// Last save, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Last use by a person (of a session), nanoseconds since the epoch.
    pub atime_ns: i64,
    /// Permission bits; `None` for a directory, which has those of the tree.
    pub mode: Option<u32>,
    /// How long the kernel may keep them.
    pub valid: Duration,
}

/// A name that exists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    pub attributes: Attributes,
    /// How long the kernel may keep the name without asking.
    pub valid: Duration,
}

/// The changes that one `SETATTR` makes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// `chmod`.
    pub mode: Option<u32>,
    /// `truncate`.
    pub size_bytes: Option<u64>,
    /// `utimens`; the atime beside it is not kept.
    pub mtime: Option<Mtime>,
}

impl Attributes {
    /// Of a directory. Its times are now: another server may have saved a session in it just now, and
    /// whoever removes old directories must not find one that is in use. Its mtime stands still for an
    /// hour, for tools that compare it before and after they read a directory (tar).
    pub fn of_directory(inode: InodeId) -> Self {
        let now_ns = now_ns();
        Self {
            inode,
            kind: Kind::Directory,
            size_bytes: 0,
            mtime_ns: now_ns - now_ns.rem_euclid(HOUR_NS),
            atime_ns: now_ns,
            mode: None,
            valid: Duration::ZERO,
        }
    }

    /// Of a version. All but the atime never change, and that is told anew by each look-up.
    pub fn of_version(inode: InodeId, meta: &Meta) -> Self {
        Self {
            inode,
            kind: Kind::File,
            size_bytes: meta.size_bytes,
            mtime_ns: meta.mtime_ns,
            atime_ns: i64::try_from(meta.activity_ms).unwrap_or(i64::MAX).saturating_mul(1_000_000),
            mode: Some(meta.mode),
            valid: LONG,
        }
    }

    pub fn of_provisional(inode: InodeId, size_bytes: u64) -> Self {
        let now_ns = now_ns();
        Self {
            inode,
            kind: Kind::File,
            size_bytes,
            mtime_ns: now_ns,
            atime_ns: now_ns,
            mode: Some(0o644),
            valid: Duration::ZERO,
        }
    }

    pub(super) fn of_staging(inode: InodeId, staged: &Staged) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = staged.metadata()?;
        let mtime_ns =
            metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        Ok(Self {
            inode,
            kind: Kind::File,
            size_bytes: metadata.len(),
            mtime_ns,
            atime_ns: mtime_ns,
            mode: Some(staged.mode()),
            // Nobody but this kernel changes them, and it forgets what its writes change.
            valid: STAGING_VALID,
        })
    }
}

impl<S: Sessions, L: Link> Core<S, L> {
    /// `stat` of an inode.
    pub fn attributes(self: &Arc<Self>, caller: Caller, inode: InodeId) -> Step<Attributes> {
        let by = self.callers.identify(caller);
        let is_guess = self.threads().get(by.thread).is_some_and(|thread| thread.end_guess(inode));
        let unasked = match self.inodes().get(inode) {
            Some(Inode::Provisional(one)) if one.found_bytes.is_none() => Some(one.sid.alias()),
            Some(Inode::Version(version)) if is_guess => Some(version.alias.clone()),
            _ => None,
        };
        let alias = match unasked {
            Some(alias) if self.link.health(Some(alias.shard())).is_readable() => alias,
            _ => return self.known_attributes(inode).into(),
        };
        let core = Arc::clone(self);
        Step::later(async move { core.ask_for_attributes(inode, &alias).await })
    }

    /// The attributes of an inode that was given out without asking the store.
    async fn ask_for_attributes(&self, inode: InodeId, alias: &Alias) -> Result<Attributes> {
        // The file it is to be imported from may be on a disk that hangs; its `open` waits for that.
        if self.is_poisoned(alias) || self.sessions.is_ready(alias).await != Ok(true) {
            return self.known_attributes(inode);
        }
        let meta = match self.sessions.fetch(alias, None).await {
            Ok(Lookup::Session { meta, .. } | Lookup::Large { meta, .. }) => meta,
            Ok(Lookup::Alias { .. } | Lookup::Absent) => return Err(no_session()),
            Err(_) => return self.known_attributes(inode),
        };
        match self.inodes().get(inode) {
            Some(Inode::Version(version)) if version.meta.version == meta.version => {
                Ok(Attributes::of_version(inode, &meta))
            }
            // The look-up was answered as that of a rename. The kernel makes another one.
            Some(Inode::Version(_)) => Err(replaced()),
            _ => Ok(Attributes { valid: Duration::ZERO, ..Attributes::of_version(inode, &meta) }),
        }
    }

    /// The attributes of an inode as far as they are known here.
    fn known_attributes(&self, inode: InodeId) -> Result<Attributes> {
        if inode == InodeId::ROOT || inode.shard().is_some() {
            return Ok(Attributes::of_directory(inode));
        }
        match self.inodes().get(inode).cloned() {
            Some(Inode::Version(version)) => Ok(Attributes::of_version(inode, &version.meta)),
            Some(Inode::AliasView(listed)) => Ok(Attributes::of_version(inode, &listed.meta)),
            Some(Inode::Provisional(provisional)) => {
                Ok(Attributes::of_provisional(inode, provisional.found_bytes.unwrap_or(0)))
            }
            Some(Inode::Superseded(superseded)) => Ok(superseded.attributes),
            Some(Inode::Staging) => self.staging_attributes(inode),
            None => Err(unknown(inode)),
        }
    }

    pub(super) fn staging_attributes(&self, inode: InodeId) -> Result<Attributes> {
        Attributes::of_staging(inode, &*self.staged_by(inode)?)
    }

    /// The staging file of that inode. One that is removed is there as long as somebody has it open.
    pub(super) fn staged_by(&self, inode: InodeId) -> Result<Arc<Staged>> {
        let staged = self.staging.get(inode).or_else(|| self.handles().staged(inode));
        staged.ok_or_else(|| Error::expected(libc::ENOENT, "the temp file does not exist any more"))
    }

    /// `chmod`, `truncate`, `utimens`.
    ///
    /// The content of a session cannot be changed in place (`EACCES`): only a save makes a new version.
    /// Its mode or mtime make a new version of the same bytes, because other servers may hold the
    /// attributes of this one; the mode it has already costs nothing, which is the `chmod` that
    /// ends every save of Odoo.
    pub fn set_attributes(
        self: &Arc<Self>,
        caller: Caller,
        inode: InodeId,
        handle: Option<HandleId>,
        change: Change,
    ) -> Step<Attributes> {
        if let Some(Handle::Staging(open)) = handle.and_then(|id| self.handle(id)) {
            return self.set_staging(open.staged.inode, change).into();
        }
        let known = self.inodes().get(inode).cloned();
        let (alias, meta) = match known {
            Some(Inode::Staging) => return self.set_staging(inode, change).into(),
            Some(Inode::Version(version)) => (version.alias, Some(version.meta)),
            Some(Inode::AliasView(listed)) => (listed.alias.clone(), Some(listed.meta.clone())),
            Some(Inode::Provisional(provisional)) => (provisional.sid.alias(), None),
            // The current version is that of another save, and the chmod of this one must not change it.
            Some(Inode::Superseded(superseded)) => return Ok(superseded.attributes).into(),
            None if inode == InodeId::ROOT || inode.shard().is_some() => {
                // Nothing of it is kept: `chmod -R` and `rsync` go on to the files.
                return Ok(Attributes::of_directory(inode)).into();
            }
            None => return Err(unknown(inode)).into(),
        };
        if change.size_bytes.is_some() {
            return Err(Error::expected(
                libc::EACCES,
                "a session is replaced by a save and cannot be truncated",
            ))
            .into();
        }
        let mode = change.mode.map(|mode| mode & 0o7777);
        let same_mode = mode.is_none_or(|mode| meta.as_ref().is_some_and(|meta| meta.mode == mode));
        if same_mode && change.mtime.is_none() {
            // The end of a save: what is kept of it has to be safe now.
            let Some(settling) = self.sessions.settling(&alias) else {
                return self.known_attributes(inode).into();
            };
            let core = Arc::clone(self);
            return Step::later(async move {
                settling.await;
                core.known_attributes(inode)
            });
        }
        let core = Arc::clone(self);
        let stamp = self.kept.stamp(caller.request, self.link.stamp(alias.shard()));
        let amend = Amend { stamp, alias, mode, mtime: change.mtime };
        Step::later(async move { core.amend(inode, amend).await })
    }

    async fn amend(&self, inode: InodeId, amend: Amend) -> Result<Attributes> {
        let shard = amend.alias.shard();
        let wait = Wait { shard: Some(shard), writes: true, background: false };
        let answer = match self.sessions.amend(&amend).await {
            // SETATTR holds no directory, so one bounded step may be waited; chmod and utimens
            // cannot be interrupted (Python raises), so no more than one.
            Err(StoreError::Unavailable(_) | StoreError::Refused(_))
                if self.link.wait_up(wait).await == Waited::Up =>
            {
                self.sessions.amend(&amend).await
            }
            answer => answer,
        };
        match answer {
            Ok(Some(meta)) => {
                self.inodes().amend(inode, &meta);
                // These are the attributes of the new version on the inode of the old one, so the
                // kernel may not keep them. Its next look-up finds the new inode.
                Ok(Attributes { valid: Duration::ZERO, ..Attributes::of_version(inode, &meta) })
            }
            Ok(None) => Err(Error::expected(libc::ENOENT, "the session does not exist any more")),
            Err(error) => Err(Error::fault(
                libc::EIO,
                format!("cannot change attributes of {}: {error}", amend.alias),
            )),
        }
    }

    fn set_staging(&self, inode: InodeId, change: Change) -> Result<Attributes> {
        let staged = self.staged_by(inode)?;
        if let Some(size_bytes) = change.size_bytes {
            self.staging.set_len(&staged, size_bytes)?;
        }
        if let Some(mode) = change.mode {
            staged.set_mode(mode);
        }
        let mtime = change.mtime.map(|mtime| match mtime {
            Mtime::Now => SystemTime::now(),
            Mtime::Ns(ns) => from_ns(ns),
        });
        if let Some(mtime) = mtime {
            self.staging.hold(&staged)?.set_mtime(mtime)?;
        }
        Attributes::of_staging(inode, &staged)
    }
}

/// The kernel named an inode that is not in the table. It looks up the whole path once more, unless
/// the caller has named it by a descriptor.
pub(super) fn unknown(inode: InodeId) -> Error {
    Error::expected(libc::ESTALE, format!("inode {} is not known", inode.0))
}

/// The entry of a session. The kernel may not keep the name: another server may replace or end the
/// session at any moment, without notice.
pub(super) fn session_entry(attributes: Attributes) -> Entry {
    Entry { attributes, valid: Duration::ZERO }
}

/// The name of a session for messages, with its alias.
pub(super) fn name_of(sid: &Sid, form: Form) -> String {
    sid.alias().entry(form)
}

fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}

/// A time of a file, from nanoseconds since the epoch.
pub fn from_ns(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 { SystemTime::UNIX_EPOCH - distance } else { SystemTime::UNIX_EPOCH + distance }
}
