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
use super::inode::{Inode, InodeId, Version};
use super::{Core, LONG, Step};
use crate::error::{Error, Result};
use crate::session::name::{Alias, Form, RootName, SessionName, Shard, Sid};
use crate::store::{Health, Link, Sessions};

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
        let by = self.callers.identify(caller);
        if let Some(thread) = self.threads().get(by.thread) {
            thread.names_shards = true;
        }
        match SessionName::in_shard(shard, name) {
            Some(name) => self.lookup_session(by, name),
            None => absent(),
        }
    }

    fn lookup_in_root(self: &Arc<Self>, caller: Caller, name: &str) -> Step<Found> {
        match RootName::parse(name) {
            RootName::Shard(shard) => Ok(Found::Entry(shard_entry(shard))).into(),
            RootName::Session(name) => {
                // Odoo 16 to 19.0 probe the flat name before each read. Either answer is right
                // (both names are one session), and this one needs no round trip.
                let by = self.callers.identify(caller);
                let is_probe =
                    self.threads().get(by.thread).is_some_and(|thread| thread.names_shards);
                if is_probe { absent() } else { self.lookup_session(by, name) }
            }
            RootName::Staging => self.lookup_staging(name),
            RootName::Spool(spool) => self.lookup_staging(&spool.aliased()),
            // `werkzeug_` and 84 characters, the probe of Odoo 18 and 19.0: no session is ever
            // kept under such a name, so the kernel need not ask again.
            RootName::Other if name.starts_with("werkzeug_") => Ok(Found::NeverFor(LONG)).into(),
            RootName::Other => absent(),
        }
    }

    fn lookup_staging(&self, stored_name: &str) -> Step<Found> {
        let Some(staged) = self.staging.find(stored_name) else { return absent() };
        self.inodes().staging(staged.inode);
        self.staging_attributes(staged.inode)
            .map(|attributes| Found::Entry(session_entry(attributes)))
            .into()
    }

    fn lookup_session(self: &Arc<Self>, by: Identity, name: SessionName) -> Step<Found> {
        let alias = name.sid.alias();
        if let Some(entry) = self.lookup_of_own_save(by, &name, &alias) {
            return Ok(Found::Entry(entry)).into();
        }
        if self.link.health() != Health::Up {
            return Ok(Found::Entry(self.provisional(&name.sid, name.form))).into();
        }
        let core = Arc::clone(self);
        Step::later(async move { core.fetch_entry(by, name, alias).await.map(Found::Entry) })
    }

    /// The two look-ups that belong to a save are answered without a request: that of the rename's
    /// target (after CREATE) and that of the `chmod` (after RENAME). Both may be wrong without
    /// harm: the rename replaces whatever is there, and an `open` of an inode that was not fetched
    /// asks the store.
    fn lookup_of_own_save(&self, by: Identity, name: &SessionName, alias: &Alias) -> Option<Entry> {
        let mut threads = self.threads();
        let thread = threads.get(by.thread)?;
        // What an earlier look-up fetched is no part of the `open` that may follow this one.
        thread.fetched = None;
        if let Some((published, inode)) = thread.published.take()
            && published == *alias
        {
            // One guard for both steps: a second one while the first lives would wait for itself.
            let mut inodes = self.inodes();
            if let Some((latest, version)) = inodes.latest(alias) {
                if latest == inode {
                    return Some(session_entry(Attributes::of_version(inode, &version.meta)));
                }
                inodes.forget(latest, 1);
            }
        }
        let target = thread.target.take();
        if std::mem::take(&mut thread.unpublished) {
            thread.target = Some(alias.clone());
        } else if target.as_ref() != Some(alias) {
            return None;
        }
        drop(threads);
        let latest = self.inodes().latest(alias);
        Some(match latest {
            Some((inode, version)) => session_entry(Attributes::of_version(inode, &version.meta)),
            None => self.provisional(&name.sid, name.form),
        })
    }

    async fn fetch_entry(&self, by: Identity, name: SessionName, alias: Alias) -> Result<Entry> {
        let SessionName { sid, candidate, form } = name;
        let listed = candidate.and_then(|candidate| self.listed_aliases().proven(&candidate));
        for asked in std::iter::once(&alias).chain(&listed) {
            if !self.is_ready(by, asked).await? {
                return Ok(self.provisional(&sid, form));
            }
        }
        Ok(match self.current(by, &sid, &alias, listed.as_ref()).await? {
            Resolved::Version(meta, plain) => {
                self.enter(by, Version { sid, alias, meta, bytes: Some(plain) })
            }
            Resolved::AliasOnly(meta) => {
                let inode = self.inodes().alias_view(listed.as_ref().unwrap_or(&alias), &meta);
                session_entry(Attributes::of_version(inode, &meta))
            }
            Resolved::Unavailable | Resolved::Refused(_) => self.provisional(&sid, form),
        })
    }

    fn enter(&self, by: Identity, version: Version) -> Entry {
        let mut attributes = Attributes::of_version(InodeId::ROOT, &version.meta);
        attributes.inode = self.inodes().version(version);
        if let Some(thread) = self.threads().get(by.thread) {
            thread.fetched = Some(attributes.inode);
        }
        session_entry(attributes)
    }

    fn provisional(&self, sid: &Sid, form: Form) -> Entry {
        let mut inodes = self.inodes();
        let inode = inodes.provisional(sid, form);
        let size_bytes = match inodes.get(inode) {
            Some(Inode::Provisional { size_bytes, .. }) => *size_bytes,
            _ => 0,
        };
        session_entry(Attributes::of_provisional(inode, size_bytes))
    }
}

fn absent() -> Step<Found> {
    Err(no_session()).into()
}

fn shard_entry(shard: Shard) -> Entry {
    Entry { attributes: Attributes::of_directory(InodeId::of_shard(shard)), valid: LONG }
}
