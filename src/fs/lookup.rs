//! LOOKUP: from a name to the current version of a session.
//!
//! The kernel holds the directory while a look-up in it is unanswered, so nothing waits here: the
//! store is asked once, on a link that is up. Otherwise the name gets a provisional inode, and its
//! `open` waits.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use super::attributes::{Attributes, Entry, session_entry};
use super::caller::{Caller, Identity};
use super::current::{Resolved, no_session};
use super::inode::{Inode, InodeId, Inodes, Version};
use super::staging::Staged;
use super::{Core, LONG, Step};
use crate::error::{Error, Result};
use crate::session::name::{Alias, CandidateAlias, Form, RootName, SessionName, Sid};
use crate::store::{Link, Listed, Sessions};

/// The `chmod` that ends a save follows its rename at once. Where the kernel has kept the name, it needs no look-up.
const CHMOD_WITHIN: Duration = Duration::from_secs(1);

/// The answer to a look-up that did not fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Found {
    /// The name exists.
    Entry(Entry),
    /// It does not, and cannot for that long.
    NeverFor(Duration),
}

impl<S: Sessions, L: Link> Core<S, L> {
    /// Looks `name` up in the directory `parent`.
    pub fn lookup(self: &Arc<Self>, caller: Caller, parent: InodeId, name: &OsStr) -> Step<Found> {
        let Some(name) = name.to_str() else { return absent() };
        if parent == InodeId::ROOT {
            return self.lookup_in_root(caller, name);
        }
        let Some(shard) = parent.shard() else {
            return Err(Error::expected(libc::ENOTDIR, "not a directory")).into();
        };
        match SessionName::in_shard(shard, name) {
            Some(name) => self.lookup_session(self.callers.identify(caller), name),
            None => absent(),
        }
    }

    fn lookup_in_root(self: &Arc<Self>, caller: Caller, name: &str) -> Step<Found> {
        match RootName::parse(name) {
            RootName::Shard(shard) => {
                let inode = self.inodes().shard(shard);
                let attributes = Attributes::of_directory(inode);
                Ok(Found::Entry(Entry { attributes, valid: LONG })).into()
            }
            RootName::Session(name) => self.lookup_session(self.callers.identify(caller), name),
            RootName::Staging | RootName::Spool(_) => self.lookup_staging(name),
            // `werkzeug_` and 84 characters, the probe of Odoo 18 and 19.0: no session is ever
            // kept under such a name, so the kernel need not ask again.
            RootName::Other if name.starts_with("werkzeug_") => Ok(Found::NeverFor(LONG)).into(),
            RootName::Other => absent(),
        }
    }

    fn lookup_staging(&self, name: &str) -> Step<Found> {
        let Some(staged) = self.find_staging(name) else { return absent() };
        self.inodes().staging(staged.inode);
        Attributes::of_staging(staged.inode, &staged)
            .map(|attributes| Found::Entry(session_entry(attributes)))
            .into()
    }

    /// A temp file or an upload spool by its name in the root. A listing shows a spool under the alias of
    /// its session.
    pub(super) fn find_staging(&self, name: &str) -> Option<Arc<Staged>> {
        let stored = match RootName::parse(name) {
            RootName::Staging => return self.staging.find(name),
            RootName::Spool(spool) => self.staging.find(&spool.aliased()),
            _ => return None,
        };
        stored.or_else(|| self.staging.find(name))
    }

    fn lookup_session(self: &Arc<Self>, by: Identity, name: SessionName) -> Step<Found> {
        let alias = name.sid.alias();
        self.threads().looks_up(by.thread);
        let listed = name.candidate.as_ref().and_then(|name| self.listed_alias(name));
        let known = match &listed {
            Some(listed) => self.lookup_in_listing(by, listed),
            None => self.lookup_of_own_save(by, &name, &alias),
        };
        if let Some(entry) = known {
            return Ok(Found::Entry(entry)).into();
        }
        if listed.is_none() && self.is_flat_probe(by, name.form, &alias) {
            return absent();
        }
        if listed.is_none()
            && let Some(version) = self.at_hand(&name.sid, &alias)
        {
            return Ok(Found::Entry(self.enter_at_hand(by, version, name.form))).into();
        }
        let is_readable = self.link.health(Some(alias.shard())).is_readable();
        if !is_readable && !self.sessions.knows_more(&alias) {
            return Ok(Found::Entry(self.provisional(&name.sid, name.form))).into();
        }
        let core = Arc::clone(self);
        Step::later(async move { core.fetch_entry(by, name, alias).await.map(Found::Entry) })
    }

    /// What the thread's own listing has just shown of this session: Odoo 14 and 15 ask for the mtime
    /// of each session that they have listed, within a person's request.
    fn lookup_in_listing(&self, by: Identity, listed: &Alias) -> Option<Entry> {
        let listed = self.grants().look_up(by.thread, listed, self.callers.now())?;
        let inode = self.inodes().alias_view(&listed);
        Some(session_entry(Attributes::of_version(inode, &listed.meta)))
    }

    fn is_flat_probe(&self, by: Identity, form: Form, alias: &Alias) -> bool {
        let mut threads = self.threads();
        let Some(thread) = threads.get(by.thread) else { return false };
        match form {
            Form::Flat => thread.flat.is_probe(alias),
            Form::Sharded => {
                thread.flat.in_shard(alias);
                false
            }
        }
    }

    /// The two look-ups that belong to a save are answered without a request: that of the rename's
    /// target (after CREATE) and that of the `chmod` (after RENAME). The first may be wrong without
    /// harm: the rename replaces whatever is there, an `open` of an inode that was not fetched asks
    /// the store, and who asks for its attributes is sent to look again.
    fn lookup_of_own_save(&self, by: Identity, name: &SessionName, alias: &Alias) -> Option<Entry> {
        let now = self.callers.now();
        let mut threads = self.threads();
        let thread = threads.get(by.thread)?;
        // One guard for all steps: a second one while the first lives would wait for itself.
        let mut inodes = self.inodes();
        if let Some((published, inode, at)) = thread.published.take()
            && published == *alias
            && now.saturating_duration_since(at) < CHMOD_WITHIN
            && let Some((latest, version)) = inodes.latest(alias)
        {
            if latest == inode {
                return Some(session_entry(Attributes::of_version(inode, &version.meta)));
            }
            inodes.forget(latest, 1);
        }
        let saving = thread.saving.as_mut()?;
        if saving.target.as_ref().is_some_and(|(target, _)| target != alias) {
            thread.saving = None;
            return None;
        }
        let attributes = match inodes.latest(alias) {
            Some((inode, version)) => Attributes::of_version(inode, &version.meta),
            None => provisional(&mut inodes, &name.sid, name.form),
        };
        saving.target = Some((alias.clone(), attributes.inode));
        Some(session_entry(Attributes { valid: Duration::ZERO, ..attributes }))
    }

    async fn fetch_entry(&self, by: Identity, name: SessionName, alias: Alias) -> Result<Entry> {
        let SessionName { sid, candidate, form } = name;
        let listed = candidate.and_then(|candidate| self.listed_alias(&candidate));
        for asked in std::iter::once(&alias).chain(&listed) {
            // Its `open` fails; but it can be removed.
            if self.is_poisoned(asked) || !self.is_ready(by, asked).await? {
                return Ok(self.provisional(&sid, form));
            }
        }
        let current = self.current(by, &sid, &alias, listed.as_ref()).await;
        // Most likely an `open`, which no request follows. A listed name is only looked at.
        if current.is_err() {
            self.stale().end(by);
            if listed.is_none() {
                self.tries_to_open(by);
            }
        }
        Ok(match current? {
            Resolved::Version(meta, plain) => {
                self.enter(by, Version { sid, alias, meta, bytes: Some(plain) })
            }
            // It is read by the `open` that may follow, when no directory is locked. That of an `open`
            // which is repeated may be gone by then, and is not answered with ESTALE once more: it
            // gets an inode that has no size yet.
            Resolved::Large(..) if self.stale().is_told(by) => {
                let inode = self.inodes().unshared(&sid, form);
                session_entry(Attributes::of_provisional(inode, 0))
            }
            Resolved::Large(meta, _) => self.enter(by, Version { sid, alias, meta, bytes: None }),
            Resolved::AliasOnly(meta) => {
                let listed = Arc::new(Listed { alias: listed.unwrap_or(alias), meta });
                let inode = self.inodes().alias_view(&listed);
                session_entry(Attributes::of_version(inode, &listed.meta))
            }
            Resolved::Unavailable | Resolved::Refused(_) => self.provisional(&sid, form),
        })
    }

    /// What is at hand, under a name of that form. The kernel may keep its name, so the `open` that follows may be of
    /// another look-up: it is judged by itself. One that is repeated cannot be.
    fn enter_at_hand(&self, by: Identity, version: Version, form: Form) -> Entry {
        if self.stale().is_told(by) {
            return self.enter(by, version);
        }
        let (alias, meta) = (version.alias.clone(), version.meta.clone());
        let attributes = self.give_out(version);
        // Who is told of a change from now on finds the inode.
        let keeps = form == meta.form && self.is_at_hand(&alias, meta.version);
        let valid = self.name_valid.min(Duration::from_millis(meta.left_ms));
        Entry { attributes, valid: if keeps { valid } else { Duration::ZERO } }
    }

    fn enter(&self, by: Identity, version: Version) -> Entry {
        let attributes = self.give_out(version);
        self.threads().fetched(by.thread, attributes.inode, self.callers.now());
        session_entry(attributes)
    }

    /// The attributes of a version's inode, which the kernel is given once more.
    fn give_out(&self, version: Version) -> Attributes {
        let attributes = Attributes::of_version(InodeId::ROOT, &version.meta);
        Attributes { inode: self.inodes().version(version), ..attributes }
    }

    fn provisional(&self, sid: &Sid, form: Form) -> Entry {
        session_entry(provisional(&mut self.inodes(), sid, form))
    }

    /// The alias that a name is, if a listing has shown it.
    pub(super) fn listed_alias(&self, candidate: &CandidateAlias) -> Option<Alias> {
        self.listed_aliases().proven(candidate)
    }

    /// The caller asks for a session by its id, or opens one: it serves cookies, and what was listed to
    /// it belongs to an earlier request.
    pub(super) fn tries_to_open(&self, by: Identity) {
        self.serving().insert(by.process);
        self.grants().end(by.thread);
    }
}

fn provisional(inodes: &mut Inodes, sid: &Sid, form: Form) -> Attributes {
    let inode = inodes.provisional(sid, form);
    let size_bytes = match inodes.get(inode) {
        Some(Inode::Provisional(provisional)) => provisional.found_bytes.unwrap_or(0),
        _ => 0,
    };
    Attributes::of_provisional(inode, size_bytes)
}

fn absent() -> Step<Found> {
    Err(no_session()).into()
}
