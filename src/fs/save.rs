//! A save as Odoo makes it: CREATE a temp file in the root, WRITE, RENAME it onto the session's
//! name. The rename publishes: one atomic step of the store.
//!
//! The kernel holds the root directory during CREATE and RENAME, so they never wait. The first WRITE
//! makes sure that the link is up, and waits if it is not.

use std::ffi::OsStr;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::attributes::{Attributes, Entry, name_of};
use super::caller::{Caller, Identity};
use super::handle::{Handle, HandleId};
use super::inode::{InodeId, Version};
use super::open::{Opened, bad_handle};
use super::poison::DIED_OF_IT;
use super::staging::{OpenStaging, Staged};
use super::thread::{OpenedSession, Saving};
use super::{Core, Step};
use crate::error::{Error, Result};
use crate::session::content::{self, Class, Content};
use crate::session::name::{Form, RootName, SessionName};
use crate::session::packing::Packed;
use crate::store::{Link, Publish, Published, Sealer, Sessions, StoreError, Wait, Waited};
use crate::telemetry::Event;

/// The permission bits with which Odoo ends every save (`chmod`, 0644).
const SAVED_MODE: u32 = 0o644;
/// How often a content is sealed anew because the life of its session is another than expected.
const MAX_REBINDS: u32 = 3;

/// A save that is the current version, and that nobody has open for writing: the kernel may be given its content.
#[derive(Debug)]
pub struct Saved {
    pub inode: InodeId,
    pub content: Bytes,
}

impl<S: Sessions, L: Link> Core<S, L> {
    /// Creates and opens a staging file, or an upload spool of Odoo 14 and 15. No other name can
    /// be created (`EACCES`).
    pub fn create(
        &self,
        caller: Caller,
        parent: InodeId,
        name: &OsStr,
        mode: u32,
        exclusive: bool,
    ) -> Result<(Entry, Opened)> {
        let created = self.create_and_open(caller, parent, name, mode, exclusive);
        if created.is_err() {
            self.opens_nothing(caller.request);
        }
        created
    }

    fn create_and_open(
        &self,
        caller: Caller,
        parent: InodeId,
        name: &OsStr,
        mode: u32,
        exclusive: bool,
    ) -> Result<(Entry, Opened)> {
        let root_name = match name.to_str() {
            Some(name) if parent == InodeId::ROOT => RootName::parse(name),
            _ => RootName::Other,
        };
        let (stored_name, is_save) = match (&root_name, name.to_str()) {
            (RootName::Staging, Some(name)) => (name.to_owned(), true),
            (RootName::Spool(spool), _) => (spool.aliased(), false),
            _ => {
                return Err(Error::expected(
                    libc::EACCES,
                    "only the temp file of a save can be created here",
                ));
            }
        };
        let by = self.callers.identify(caller);
        self.serving().insert(by.process);
        if let Some(thread) = self.threads().get(by.thread) {
            thread.end_save();
        }
        self.fail_if_pending(by)?;
        if is_save {
            self.save_goes_on(by);
        }
        let open = match self.staging.find(&stored_name) {
            // A request that is repeated finds what it has made.
            Some(_) if exclusive && !by.is_repeated() => {
                return Err(Error::expected(libc::EEXIST, "the temp file exists"));
            }
            Some(staged) => {
                self.staging.set_len(&staged, 0)?;
                self.staging.open_again(&staged)?
            }
            None => self.staging.create(&stored_name, mode)?,
        };
        if is_save && let Some(thread) = self.threads().get(by.thread) {
            thread.saving = Some(Saving::default());
            thread.published = None;
        }
        let inode = open.staged.inode;
        // By its rename it becomes the name of the session.
        let valid = if is_save { self.name_valid_of_save(by) } else { Duration::ZERO };
        let entry = Entry { attributes: Attributes::of_staging(inode, &open.staged)?, valid };
        self.inodes().staging(inode);
        let handle = self.handles().insert(by.request, Handle::Staging(Arc::new(open)));
        Ok((entry, Opened { handle, immutable: false }))
    }

    /// How long the kernel may keep the name that this thread's save will have: which it is, is not known yet.
    fn name_valid_of_save(&self, by: Identity) -> Duration {
        let is_told = || {
            let shard = self.wait_of_save(by).shard;
            shard.is_some_and(|shard| self.link.tells_changes(shard))
        };
        if !self.name_valid.is_zero() && is_told() { self.name_valid } else { Duration::ZERO }
    }

    /// Writes into a staging file; the first write of a save waits for the link.
    pub fn write(
        self: &Arc<Self>,
        caller: Caller,
        handle: HandleId,
        offset: u64,
        data: &[u8],
    ) -> Step<u32> {
        let Some(Handle::Staging(open)) = self.handle(handle) else {
            return Err(bad_handle()).into();
        };
        if open.link_checked.load(Ordering::Relaxed) {
            return self.write_now(&open.staged, offset, data).into();
        }
        let by = self.callers.identify(caller);
        if let Err(error) = self.fail_if_pending(by).and_then(|()| self.fail_if_full()) {
            open.staged.note_failure();
            self.save_failed(by);
            return Err(error).into();
        }
        let wait = self.wait_of_save(by);
        if self.link.is_fresh(wait.shard) {
            open.link_checked.store(true, Ordering::Relaxed);
            return self.write_now(&open.staged, offset, data).into();
        }
        let core = Arc::clone(self);
        // The buffer belongs to the thread that read the request. Its size is that of one WRITE.
        let data = Bytes::copy_from_slice(data);
        Step::later(async move {
            core.save_goes_on(by);
            let written = core.write_when_up(&open, offset, &data, wait).await;
            match &written {
                Err(error) if error.errno() != libc::EINTR => core.save_failed(by),
                _ => core.save_goes_on(by),
            }
            written
        })
    }

    /// What the save of this thread needs. Its session is not known before the rename; most likely it
    /// is of the shard that the thread opened last. One that has opened none waits only if no server
    /// takes changes: the rename keeps what the others do not take.
    fn wait_of_save(&self, by: Identity) -> Wait {
        let shard = self.threads().get(by.thread).and_then(|thread| thread.last_shard());
        let shard = shard.or_else(|| self.link.any_up());
        Wait { shard, writes: true, background: by.background }
    }

    async fn write_when_up(
        &self,
        open: &OpenStaging,
        offset: u64,
        data: &[u8],
        wait: Wait,
    ) -> Result<u32> {
        match self.link.wait_up(wait).await {
            Waited::Up => {
                open.link_checked.store(true, Ordering::Relaxed);
                self.write_now(&open.staged, offset, data)
            }
            Waited::StepOver => Err(Error::expected(libc::EINTR, "still waiting for Redis")),
            Waited::BudgetSpent => {
                open.staged.note_failure();
                Err(Error::fault(
                    libc::EIO,
                    "a session cannot be saved: Redis has been down or read-only for too long",
                ))
            }
        }
    }

    fn write_now(&self, staged: &Staged, offset: u64, data: &[u8]) -> Result<u32> {
        self.staging.write(staged, data, offset)?;
        u32::try_from(data.len()).map_err(|_| Error::expected(libc::EINVAL, "write too large"))
    }

    /// A thread whose `open` failed with an error of ours fails its next save loudly (Odoo answers
    /// HTTP 500 and keeps the cookie) instead of storing an empty session under a new one.
    fn fail_if_pending(&self, by: Identity) -> Result<()> {
        if self.threads().must_fail_save(by) {
            self.save_failed(by);
            return Err(Error::fault(
                libc::EIO,
                "the last read of this thread failed, so its next save is refused",
            ));
        }
        Ok(())
    }

    /// Odoo looks at the outcome of a write, and not at that of a rename.
    fn fail_if_full(&self) -> Result<()> {
        if self.sessions.takes_saves() {
            return Ok(());
        }
        Err(Error::fault(
            libc::EIO,
            "a session cannot be saved: Redis takes no changes, and no more can be kept on this \
             host (outage.spool_max)",
        ))
    }

    /// Publishes a staging file under a session's name. Renaming a session to its own other name
    /// succeeds and changes nothing; every other rename is refused (`EACCES`). Gives what is current then, if that is
    /// this save.
    pub fn rename(
        self: &Arc<Self>,
        caller: Caller,
        from: (InodeId, &OsStr),
        to: (InodeId, &OsStr),
    ) -> Step<Option<Saved>> {
        let Some(target) = session_name(to.0, to.1) else {
            if is_staging(from) {
                // Early Odoo 16 names a file after any cookie.
                Event::NameRefused.emit();
            }
            if let Some(staged) = self.staged(from) {
                self.staging.discard(&staged);
            }
            return Err(refused("the target is not the name of a session")).into();
        };
        if let Some(source) = session_name(from.0, from.1) {
            // `werkzeug_<sid>.sess` and `ab/<sid>` are two names of one session.
            let same = source.sid == target.sid;
            return if same {
                Ok(None)
            } else {
                Err(refused("the id of a session cannot be changed"))
            }
            .into();
        }
        if !is_staging(from) {
            return Err(refused("only the temp file of a save can be published")).into();
        }
        let by = self.callers.identify(caller);
        let Some(staged) = self.staged(from) else {
            if self.kept.was_carried_out(by.request) {
                // It was published, and only the answer is missing.
                return Ok(None).into();
            }
            return Err(Error::expected(libc::ENOENT, "no such temp file")).into();
        };
        if target.form == Form::Flat
            && let Some(thread) = self.threads().get(by.thread)
        {
            thread.flat.saves();
        }
        let read = self.staging.hold(&staged).and_then(|open| {
            let content = self.read_saved(by, &open, &target)?;
            Ok((open, content))
        });
        match read {
            Ok((open, (content, plain))) => {
                let publish = self.prepare(by, &target, content, &plain);
                let core = Arc::clone(self);
                Step::later(async move {
                    let published = core.publish(by, staged.inode, target, publish, plain).await;
                    // A write under way has locked the page, and may wait for what carries this out.
                    let published = published.map(|saved| saved.filter(|_| open.is_alone()));
                    match &published {
                        Ok(_) => {
                            // Before its file goes: when there is no file, that says whether it was published.
                            core.kept.carried_out(by.request);
                            core.staging.remove(staged.inode);
                        }
                        Err(_) => core.staging.discard(&staged),
                    }
                    // Held until now: a save under way is nobody's leftover.
                    drop(open);
                    published
                })
            }
            Err(error) => {
                // It was to take back what its request has removed.
                self.save_failed(by);
                self.staging.discard(&staged);
                Err(error).into()
            }
        }
    }

    /// The temp file of that name.
    fn staged(&self, (parent, name): (InodeId, &OsStr)) -> Option<Arc<Staged>> {
        if !is_staging((parent, name)) {
            return None;
        }
        self.staging.find(name.to_str()?)
    }

    /// What is saved, parsed and plain.
    fn read_saved(
        &self,
        by: Identity,
        open: &OpenStaging,
        target: &SessionName,
    ) -> Result<(Content, Bytes)> {
        if self.is_poisoned(&target.sid.alias()) {
            return Err(failed(target, DIED_OF_IT));
        }
        let plain = Bytes::from(open.content()?);
        let content = content::read(&plain);
        let size_bytes = plain.len() as u64;
        // The class is not known before the content is whole, so no write could refuse it.
        if content.class == Class::Anonymous && size_bytes > self.max_anonymous_bytes {
            Event::AnonymousTooLarge { alias: &target.sid.alias(), size_bytes }.emit();
            if let Some(thread) = self.threads().get(by.thread) {
                thread.end_save();
            }
            let limit = self.max_anonymous_bytes;
            return Err(Error::expected(
                libc::EFBIG,
                format!(
                    "a visitor's session of {size_bytes} bytes is larger than the limit of {limit} \
                     ([limits] anonymous)"
                ),
            ));
        }
        Ok((content, plain))
    }

    fn prepare(
        &self,
        by: Identity,
        target: &SessionName,
        content: Content,
        plain: &Bytes,
    ) -> Publish {
        let alias = target.sid.alias();
        let taken_back = self.save_follows(by, &alias);
        let mut claim = self.threads().claim(by, &alias, self.callers.now());
        // However long the save has waited.
        let removal = taken_back.map(|taken_back| taken_back.removal);
        claim.held_removal = removal.or(claim.held_removal);
        self.callers.report_unidentified(by);
        let (stamp, claim) = self.kept.save(by.request, self.link.stamp(alias.shard()), claim);
        self.save_is_kept(taken_back);
        // The worker before may have sent this save. Another version may pack it in another way, and then two contents would
        // have one nonce: what is not packed has a random one.
        let may_pack = self.link.takes_packed() && !by.is_repeated();
        let packed = Packed::of(plain.clone(), may_pack);
        let publish = Publish {
            birth: claim.opened.unwrap_or(stamp.id),
            stamp,
            form: target.form,
            content,
            size_bytes: plain.len() as u64,
            packing: packed.packing,
            sealed: Bytes::new(),
            sealer: Some(Sealer::new(self.keyring.clone(), target.sid.clone(), packed)),
            claim,
            background: by.background,
            is_activity: by.is_activity(),
            alias,
        };
        publish.rebound(publish.birth).unwrap_or(publish)
    }

    /// Publishes, sealed for the life that the store says it belongs to.
    async fn publish_bound(
        &self,
        mut publish: Publish,
    ) -> std::result::Result<Published, StoreError> {
        for _ in 0..MAX_REBINDS {
            match self.sessions.publish(&publish).await? {
                Published::Rebind { birth } => {
                    publish = publish.rebound(birth).unwrap_or(publish);
                }
                published => return Ok(published),
            }
        }
        self.sessions.publish(&publish).await
    }

    async fn publish(
        &self,
        by: Identity,
        inode: InodeId,
        target: SessionName,
        publish: Publish,
        plain: Bytes,
    ) -> Result<Option<Saved>> {
        let alias = publish.alias.clone();
        match self.publish_bound(publish).await {
            Ok(Published::Taken(meta)) => {
                if let Some(observer) = &self.observer {
                    observer.current(&target.sid, &meta, &plain);
                }
                let opened = OpenedSession { birth: meta.birth, class: meta.class };
                self.threads().published(by, &alias, opened, inode, self.callers.now());
                let saved = Saved { inode, content: plain.clone() };
                let version = Version { sid: target.sid, alias, meta, bytes: Some(plain) };
                self.inodes().publish(inode, version);
                Ok(Some(saved))
            }
            // Something newer is current, of a birth that is not known here.
            Ok(Published::Superseded { .. }) => {
                // The rename is done, even if the temp file has no attributes any more.
                if let Ok(attributes) = self.staging_attributes(inode) {
                    let attributes = Attributes { mode: Some(SAVED_MODE), ..attributes };
                    self.inodes().supersede(inode, target.sid, target.form, attributes);
                }
                Ok(None)
            }
            Ok(Published::Refused(reason)) => {
                Event::SaveRefused { alias: &alias, reason }.emit();
                Err(refused(reason.text()))
            }
            Ok(Published::Rebind { .. }) => {
                Err(failed(&target, "its name passes from one life to another"))
            }
            Err(error) => Err(failed(&target, error)),
        }
    }
}

fn is_staging((parent, name): (InodeId, &OsStr)) -> bool {
    let name = name.to_str().filter(|_| parent == InodeId::ROOT);
    name.is_some_and(|name| RootName::parse(name) == RootName::Staging)
}

/// The session that a name in a directory stands for.
pub(super) fn session_name(parent: InodeId, name: &OsStr) -> Option<SessionName> {
    let name = name.to_str()?;
    if parent == InodeId::ROOT {
        return match RootName::parse(name) {
            RootName::Session(name) => Some(name),
            _ => None,
        };
    }
    SessionName::in_shard(parent.shard()?, name)
}

fn failed(target: &SessionName, why: impl Display) -> Error {
    let name = name_of(&target.sid, target.form);
    Error::fault(libc::EIO, format!("a save of {name} failed: {why}"))
}

fn refused(reason: &str) -> Error {
    Error::expected(libc::EACCES, reason)
}
