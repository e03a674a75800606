//! OPEN, READ and RELEASE of files.
//!
//! OPEN holds no directory, so all waiting for the store is done here: in bounded steps, each
//! ended by `EINTR`, which Python retries by itself, until the outage has used up its budget.

use std::sync::Arc;

use bytes::Bytes;

use super::attributes::stale;
use super::handle::{Handle, HandleId};
use super::inode::{Inode, InodeId, Version};
use super::lookup::{no_session, unreadable, unseal};
use super::{Caller, Core, Step};
use crate::error::{Error, Result};
use crate::session::name::{Alias, Sid};
use crate::store::{Link, Lookup, Sessions, StoreError, Waited};

/// A session with less than this to live is touched before its `open` is answered, so that no
/// other server judges it by an activity that it has not heard of.
const TOUCH_NOW_BELOW_MS: u64 = 5_000;
/// How often one `open` asks again on a link that says it is well.
const MAX_ASKS: u32 = 3;

/// An opened file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opened {
    /// Its handle.
    pub handle: HandleId,
    /// The inode stands for one version for ever, so pages that the kernel has of it are good;
    /// otherwise nothing of it may be kept.
    pub immutable: bool,
}

/// How a file is to be opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mode {
    /// For writing.
    pub write: bool,
    /// Cut to nothing.
    pub truncate: bool,
}

impl<S: Sessions, L: Link> Core<S, L> {
    /// Opens a file. A session can be opened for reading only (`EACCES`), and never by its alias
    /// (`ENOENT`).
    pub fn open(self: &Arc<Self>, caller: Caller, inode: InodeId, mode: Mode) -> Step<Opened> {
        let known = self.inodes().get(inode).cloned();
        match known {
            None => Err(stale(inode)).into(),
            Some(Inode::Staging) => self.open_staging(inode, mode).into(),
            Some(Inode::AliasView { .. }) => Err(no_session()).into(),
            Some(_) if mode.write || mode.truncate => Err(Error::expected(
                libc::EACCES,
                "a session is replaced by a save, never written in place",
            ))
            .into(),
            Some(Inode::Version(version)) => self.open_version(caller, inode, version),
            Some(Inode::Provisional { sid, .. } | Inode::Superseded { sid, .. }) => {
                let core = Arc::clone(self);
                Step::later(async move { core.ask_and_open(caller, inode, sid, None).await })
            }
        }
    }

    fn open_version(
        self: &Arc<Self>,
        caller: Caller,
        inode: InodeId,
        version: Version,
    ) -> Step<Opened> {
        // The look-up that was part of this very `open` fetched this version: it was current
        // inside the `open`. A foreign thread cannot be followed, and for it every name is looked
        // up anew.
        let fetched_by_this_open = caller.tid == 0
            || self
                .threads(caller)
                .get(caller.tid)
                .is_some_and(|thread| thread.fetched.take() == Some(inode));
        let left_ms = version.meta.left_ms;
        if fetched_by_this_open
            && left_ms >= TOUCH_NOW_BELOW_MS
            && let Some(bytes) = version.bytes.clone()
        {
            return Ok(self.serve(caller, &version, bytes, true)).into();
        }
        let core = Arc::clone(self);
        if fetched_by_this_open && let Some(bytes) = version.bytes.clone() {
            return Step::later(async move {
                core.touch_before_answer(caller, &version.alias).await;
                Ok(core.serve(caller, &version, bytes, true))
            });
        }
        let sid = version.sid.clone();
        Step::later(async move { core.ask_and_open(caller, inode, sid, Some(version)).await })
    }

    /// Asks the store what is current, waiting for it if need be.
    async fn ask_and_open(
        self: Arc<Self>,
        caller: Caller,
        inode: InodeId,
        sid: Sid,
        opening: Option<Version>,
    ) -> Result<Opened> {
        let alias = sid.alias();
        for _ in 0..MAX_ASKS {
            match self.sessions.fetch(&alias, None).await {
                Ok(Lookup::Session { meta, sealed }) => {
                    let unsealed = unseal(&sid, &sealed).inspect_err(|_| {
                        self.threads(caller).failed_to_open(caller.tid, &alias);
                    })?;
                    let Some(bytes) = unsealed else { return Err(no_session()) };
                    let immutable =
                        opening.as_ref().is_some_and(|v| v.meta.version == meta.version);
                    if !immutable && opening.is_some() && self.say_stale(caller, inode) {
                        return Err(stale(inode));
                    }
                    if meta.left_ms < TOUCH_NOW_BELOW_MS {
                        self.touch_before_answer(caller, &alias).await;
                    }
                    self.inodes().set_provisional_size(inode, meta.size_bytes);
                    let version = Version { sid, alias, meta, bytes: None };
                    return Ok(self.serve(caller, &version, bytes, immutable));
                }
                Ok(Lookup::Alias { .. } | Lookup::Absent) => {
                    self.ended(&alias);
                    self.threads(caller).found_absent(caller.tid, &alias);
                    return Err(no_session());
                }
                Err(StoreError::Unreadable(why)) => {
                    self.threads(caller).failed_to_open(caller.tid, &alias);
                    return Err(unreadable(&sid, &why));
                }
                Err(StoreError::Unavailable(_) | StoreError::Refused(_)) => {}
            }
            match self.link.wait_up().await {
                Waited::Up => {}
                Waited::StepOver => break,
                Waited::BudgetSpent => {
                    self.threads(caller).failed_to_open(caller.tid, &alias);
                    return Err(Error::fault(
                        libc::EIO,
                        format!("session {alias} cannot be read: Redis has been away too long"),
                    ));
                }
            }
        }
        Err(Error::expected(libc::EINTR, "still waiting for Redis"))
    }

    /// The version to be opened has been replaced: the kernel is told once, looks the name up
    /// anew and opens what that gave. Never told twice for one `open` (the second would reach
    /// Odoo as a lost session), nor to a thread that cannot be followed.
    fn say_stale(&self, caller: Caller, inode: InodeId) -> bool {
        let mut threads = self.threads(caller);
        let Some(thread) = threads.get(caller.tid) else { return false };
        if thread.told_stale == Some(inode) {
            return false;
        }
        thread.told_stale = Some(inode);
        true
    }

    fn serve(&self, caller: Caller, version: &Version, bytes: Bytes, immutable: bool) -> Opened {
        let Version { sid, alias, meta, .. } = version;
        self.threads(caller).opened(caller.tid, alias, meta.birth);
        if let Some(observer) = &self.observer {
            observer.current(sid, meta, &bytes);
        }
        if !self.callers.is_background(caller.tid) {
            self.sessions.touch(alias);
        }
        let handle = self.handles().insert(Handle::Version(bytes));
        Opened { handle, immutable }
    }

    async fn touch_before_answer(&self, caller: Caller, alias: &Alias) {
        if !self.callers.is_background(caller.tid)
            && let Err(error) = self.sessions.touch_now(alias).await
        {
            tracing::warn!(%alias, %error, "an activity could not be written at once");
        }
    }

    fn open_staging(&self, inode: InodeId, mode: Mode) -> Result<Opened> {
        let staged = self.staging.get(inode).ok_or_else(|| stale(inode))?;
        if mode.truncate {
            self.staging.set_len(&staged, 0)?;
        }
        let handle = self.handles().insert(Handle::Staging(Arc::new(staged.opened())));
        Ok(Opened { handle, immutable: false })
    }

    /// Reads at most `size` bytes from `offset`.
    pub fn read(&self, handle: HandleId, offset: u64, size: u32) -> Result<Bytes> {
        let open = self.handles().get(handle);
        match open {
            Some(Handle::Version(bytes)) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let end = start.saturating_add(size as usize).min(bytes.len());
                Ok(bytes.slice(start..end))
            }
            Some(Handle::Staging(open)) => open.staged.read(offset, size).map(Bytes::from),
            Some(Handle::Directory(_)) | None => Err(bad_handle()),
        }
    }

    /// The last descriptor on this handle was closed. Comes before RENAME as often as after it.
    pub fn release(&self, handle: HandleId) {
        self.handles().remove(handle);
    }
}

pub(super) fn bad_handle() -> Error {
    Error::expected(libc::EBADF, "not an open file")
}
