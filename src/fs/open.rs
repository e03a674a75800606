//! OPEN, READ and RELEASE of files.
//!
//! The kernel holds no directory during OPEN, so all waiting for the store is done here: in bounded
//! steps, each ended by `EINTR`, which Python retries by itself, until the budget of the outage is
//! spent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::attributes::unknown;
use super::caller::{Caller, Identity};
use super::current::{Resolved, no_session};
use super::handle::{Handle, HandleId};
use super::inode::{Inode, InodeId, Version};
use super::large::Large;
use super::stale::replaced;
use super::thread::OpenedSession;
use super::{Core, Step};
use crate::error::{Error, Result};
use crate::session::name::{Alias, Sid};
use crate::store::{ChangeId, Link, Sessions, Wait, Waited};
use crate::telemetry::metrics::metrics;

/// A session with less than this to live is touched before its `open` is answered. Otherwise
/// another server, which has not received this activity yet, could end it.
const TOUCH_NOW_BELOW_MS: u64 = 5_000;
/// How long after a look-up an `open` may be the one that it belongs to. Later it asks the store: it
/// may be one of a descriptor without access to the bytes (`O_PATH`), which needs no look-up.
const LOOKED_UP_WITHIN: Duration = Duration::from_millis(20);
/// The same for an `open` that the kernel has repeated, which always looks up.
const REPEATED_WITHIN: Duration = Duration::from_secs(1);
/// How often one `open` asks while the link is up.
const MAX_ASKS: u32 = 3;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opened {
    pub handle: HandleId,
    /// The inode stands for one version, so the kernel may keep its pages. Otherwise it may keep
    /// nothing.
    pub immutable: bool,
}

/// How a file is to be opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mode {
    pub write: bool,
    /// Cut to nothing.
    pub truncate: bool,
}

/// An `open` under way.
#[derive(Clone, Copy)]
struct Opening {
    by: Identity,
    inode: InodeId,
    /// The kernel has repeated it, because the first one was answered with ESTALE.
    is_repeated: bool,
}

impl<S: Sessions, L: Link> Core<S, L> {
    /// Opens a file. A session can be opened for reading only (`EACCES`), and never by its alias
    /// (`ENOENT`).
    pub fn open(self: &Arc<Self>, caller: Caller, inode: InodeId, mode: Mode) -> Step<Opened> {
        let step = self.open_inode(caller, inode, mode);
        self.opens(caller.request, step)
    }

    fn open_inode(self: &Arc<Self>, caller: Caller, inode: InodeId, mode: Mode) -> Step<Opened> {
        let known = self.inodes().get(inode).cloned();
        let by = self.callers.identify(caller);
        let is_repeated = self.stale().take(by);
        let opening = Opening { by, inode, is_repeated };
        if let Some(thread) = self.threads().get(by.thread) {
            thread.end_save();
            thread.published = None;
            thread.flat.opens();
        }
        if known.as_ref().is_some_and(Inode::is_session) {
            self.tries_to_open(by);
        }
        match known {
            None => Err(self.cannot_open_unknown(opening)).into(),
            Some(Inode::Staging) => self.open_staging(by, inode, mode).into(),
            Some(Inode::AliasView(_)) => Err(no_session()).into(),
            Some(_) if mode.write || mode.truncate => Err(Error::expected(
                libc::EACCES,
                "a session is replaced by a save and cannot be written in place",
            ))
            .into(),
            Some(Inode::Version(version)) => self.open_version(opening, *version),
            // The kernel has kept the name, or the caller a descriptor.
            Some(Inode::Superseded(_)) if self.may_be_stale(opening) => Err(replaced()).into(),
            Some(Inode::Provisional(provisional)) => self.open_named(opening, provisional.sid),
            Some(Inode::Superseded(superseded)) => self.open_named(opening, superseded.sid),
        }
    }

    /// Of a name of which nothing is known.
    fn open_named(self: &Arc<Self>, opening: Opening, sid: Sid) -> Step<Opened> {
        let core = Arc::clone(self);
        let alias = sid.alias();
        Step::later(async move { core.ask_and_open(opening, sid, alias, None).await })
    }

    fn open_version(self: &Arc<Self>, opening: Opening, version: Version) -> Step<Opened> {
        let Opening { by, inode, is_repeated } = opening;
        let looked_up = self.threads().take_fetched(by.thread, inode, self.callers.now());
        // The look-up that was part of this very `open` fetched this version: it was current
        // inside the `open`, unless its end or a newer one was seen here since. In a repeated one it
        // is served even then, since it cannot be repeated again.
        let fetched_by_this_open = looked_up.is_some_and(|age| {
            let is_latest = || self.inodes().is_latest(&version.alias, inode);
            let may_count = || self.looks_up_for_each_open(&version.alias) && is_latest();
            if is_repeated { age < REPEATED_WITHIN } else { age < LOOKED_UP_WITHIN && may_count() }
        });
        let core = Arc::clone(self);
        match &version.bytes {
            Some(bytes) if fetched_by_this_open => {
                let bytes = bytes.clone();
                if version.meta.left_ms >= TOUCH_NOW_BELOW_MS {
                    return Ok(self.serve(by, &version, bytes, true)).into();
                }
                Step::later(async move {
                    core.touch_before_answer(by, &version.alias).await;
                    Ok(core.serve(by, &version, bytes, true))
                })
            }
            _ => {
                if let Some(opened) = self.open_at_hand(opening, &version) {
                    return opened.into();
                }
                let (sid, alias) = (version.sid, version.alias);
                let wanted = Some(version.meta.version);
                Step::later(async move { core.ask_and_open(opening, sid, alias, wanted).await })
            }
        }
    }

    /// Whether the kernel keeps no name of this session, so that each `open` has a look-up of its own.
    fn looks_up_for_each_open(&self, alias: &Alias) -> bool {
        self.name_valid.is_zero() || !self.link.tells_changes(alias.shard())
    }

    /// Opens what is current as far as is known here, if anything is. `wanted` is what the inode stands for.
    fn open_at_hand(&self, opening: Opening, wanted: &Version) -> Option<Result<Opened>> {
        let current = self.at_hand(&wanted.sid, &wanted.alias)?;
        if current.meta.left_ms < TOUCH_NOW_BELOW_MS {
            return None;
        }
        let immutable = current.meta.version == wanted.meta.version;
        if !immutable && self.may_be_stale(opening) {
            return Some(Err(replaced()));
        }
        let bytes = current.bytes.clone()?;
        metrics().near_cache.hits.inc();
        Some(Ok(self.serve(opening.by, &current, bytes, immutable)))
    }

    /// Asks the store what is current, and waits for the link if need be. `wanted` is the version
    /// that the inode stands for, if it stands for one.
    async fn ask_and_open(
        self: Arc<Self>,
        opening: Opening,
        sid: Sid,
        alias: Alias,
        wanted: Option<ChangeId>,
    ) -> Result<Opened> {
        let Opening { by, inode, .. } = opening;
        let began = self.callers.now();
        let wait = Wait { shard: Some(alias.shard()), writes: false, background: by.background };
        let mut refusal = None;
        for _ in 0..MAX_ASKS {
            let found = match self.current(by, &sid, &alias, None).await? {
                Resolved::Version(meta, bytes) => Some((meta, Ok(bytes))),
                Resolved::Large(meta, bound) => Some((meta, Err(bound))),
                Resolved::AliasOnly(_) => return Err(no_session()),
                Resolved::Unavailable => {
                    refusal = None;
                    None
                }
                Resolved::Refused(why) => {
                    refusal = Some(why);
                    None
                }
            };
            if let Some((meta, content)) = found {
                let immutable = wanted == Some(meta.version);
                if !immutable && wanted.is_some() && self.may_be_stale(opening) {
                    return Err(replaced());
                }
                let bytes = match content {
                    Ok(bytes) => bytes,
                    Err(bound) => match self.large(by, &sid, &meta, &bound).await? {
                        Large::Content(bytes) => bytes,
                        Large::Replaced => continue,
                        Large::StepOver => break,
                    },
                };
                let version = Version { sid, alias, meta, bytes: None };
                return Ok(self.serve_found(by, inode, version, bytes, immutable).await);
            }
            match self.link.wait_up(wait).await {
                Waited::Up => {}
                Waited::StepOver => {
                    refusal = None;
                    break;
                }
                Waited::BudgetSpent => {
                    return Err(self.read_failed(by, &alias, "Redis has been down too long"));
                }
            }
        }
        // There is no outage that could end: after EINTR the caller would try again without end.
        if let Some(why) = refusal {
            return Err(self.read_failed(by, &alias, why));
        }
        if !self.patience().wait_on(by.thread, &alias, began, self.callers.now()) {
            return Err(self.read_failed(by, &alias, "its content did not arrive in time"));
        }
        Err(Error::expected(libc::EINTR, "still waiting for Redis"))
    }

    /// Answers an `open` that has asked the store.
    async fn serve_found(
        &self,
        by: Identity,
        inode: InodeId,
        version: Version,
        bytes: Bytes,
        immutable: bool,
    ) -> Opened {
        if version.meta.left_ms < TOUCH_NOW_BELOW_MS {
            self.touch_before_answer(by, &version.alias).await;
        }
        self.inodes().set_provisional_size(inode, version.meta.size_bytes);
        self.serve(by, &version, bytes, immutable)
    }

    /// Whether this `open` may be answered with ESTALE: the kernel then looks the name up anew and
    /// opens what that gives, with its own size. Otherwise what is current is served on this inode.
    fn may_be_stale(&self, Opening { by, is_repeated, .. }: Opening) -> bool {
        !is_repeated && self.stale().tell(by, self.callers.now())
    }

    /// The error of an inode that is not in the table: it is one of the worker before this one.
    fn cannot_open_unknown(&self, Opening { by, inode, is_repeated }: Opening) -> Error {
        if !is_repeated {
            self.stale().tell(by, self.callers.now());
            return unknown(inode);
        }
        self.threads().fail_next_save(by.thread);
        Error::fault(libc::EIO, "what is opened is not known")
    }

    fn serve(&self, by: Identity, version: &Version, bytes: Bytes, immutable: bool) -> Opened {
        let Version { sid, alias, meta, .. } = version;
        let opened = OpenedSession { birth: meta.birth, class: meta.class };
        let mut threads = self.threads();
        if let Some(thread) = threads.get(by.thread) {
            thread.flat.opened(alias, meta.form);
        }
        threads.opened(by, alias, opened, self.callers.now());
        drop(threads);
        self.patience().answered(by.thread, alias);
        if let Some(observer) = &self.observer {
            observer.current(sid, meta, &bytes);
        }
        self.callers.report_unidentified(by);
        if !by.background {
            metrics().opens(by.serves).inc();
        }
        if by.is_activity() {
            self.sessions.touch(alias);
        }
        let handle = self.handles().insert(by.request, Handle::Version(bytes));
        Opened { handle, immutable }
    }

    async fn touch_before_answer(&self, by: Identity, alias: &Alias) {
        if by.is_activity()
            && let Err(error) = self.sessions.touch_now(alias).await
        {
            tracing::warn!(%alias, %error, "cannot record activity now; trying again");
        }
    }

    fn open_staging(&self, by: Identity, inode: InodeId, mode: Mode) -> Result<Opened> {
        let staged = self.staged_by(inode)?;
        if mode.truncate {
            self.staging.set_len(&staged, 0)?;
        }
        let open = self.staging.open_again(&staged)?;
        let handle = self.handles().insert(by.request, Handle::Staging(Arc::new(open)));
        Ok(Opened { handle, immutable: false })
    }

    /// Reads at most `size` bytes from `offset`.
    pub fn read(&self, handle: HandleId, offset: u64, size: u32) -> Result<Bytes> {
        let open = self.handle(handle);
        match open {
            Some(Handle::Version(bytes)) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let end = start.saturating_add(size as usize).min(bytes.len());
                Ok(bytes.slice(start..end))
            }
            Some(Handle::Staging(open)) => open.read(offset, size).map(Bytes::from),
            Some(Handle::Directory(_)) | None => Err(bad_handle()),
        }
    }

    /// The last descriptor on this handle was closed. Comes before RENAME or after it.
    pub fn release(&self, handle: HandleId) {
        self.handles().remove(handle);
    }
}

pub(super) fn bad_handle() -> Error {
    Error::expected(libc::EBADF, "not an open file")
}
