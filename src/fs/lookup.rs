//! LOOKUP: from a name to the current version of a session.
//!
//! The kernel holds the directory while a look-up in it is unanswered, so nothing waits here: the
//! store is asked once, on a link that is well, and otherwise the name is said to be there
//! (a provisional inode) and its `open` waits.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::attributes::{Attributes, Entry, session_entry};
use super::inode::{Inode, InodeId, Version};
use super::{Caller, Core, LONG, Step};
use crate::error::{Error, Result};
use crate::session::name::{Form, RootName, SessionName, Shard, Sid};
use crate::session::seal::{self, SealError};
use crate::store::{Health, Link, Lookup, Meta, Sessions, StoreError};
use crate::telemetry::Event;

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
        if let Some(thread) = self.threads(caller).get(caller.tid) {
            thread.names_shards = true;
        }
        match SessionName::in_shard(shard, name) {
            Some(name) => self.lookup_session(caller, name),
            None => absent(),
        }
    }

    fn lookup_in_root(self: &Arc<Self>, caller: Caller, name: &str) -> Step<Found> {
        match RootName::parse(name) {
            RootName::Shard(shard) => Ok(Found::Entry(shard_entry(shard))).into(),
            RootName::Session(name) => {
                // Odoo 16 to 19.0 probe the flat name before each read. Either answer is right
                // (both names are one session), and this one needs no round trip.
                let probes_in_vain =
                    self.threads(caller).get(caller.tid).is_some_and(|thread| thread.names_shards);
                if probes_in_vain { absent() } else { self.lookup_session(caller, name) }
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

    fn lookup_session(self: &Arc<Self>, caller: Caller, name: SessionName) -> Step<Found> {
        if let Some(entry) = self.lookup_of_own_save(caller, &name) {
            return Ok(Found::Entry(entry)).into();
        }
        if self.link.health() != Health::Up {
            return Ok(Found::Entry(self.provisional(&name.sid, name.form))).into();
        }
        let core = Arc::clone(self);
        Step::later(async move { core.fetch_entry(caller, name).await.map(Found::Entry) })
    }

    /// The two look-ups that belong to a save are answered without asking: the rename's look at
    /// its target (after CREATE) and the chmod's (after RENAME). Both may be wrong without harm:
    /// the rename replaces whatever is there, and an `open` of an inode that was not fetched asks.
    fn lookup_of_own_save(&self, caller: Caller, name: &SessionName) -> Option<Entry> {
        let mut threads = self.threads(caller);
        let thread = threads.get(caller.tid)?;
        let alias = name.sid.alias();
        if let Some((published, inode)) = thread.published.take()
            && published == alias
        {
            // One guard for both steps: a second one while the first lives would wait for itself.
            let mut inodes = self.inodes();
            if let Some((latest, version)) = inodes.latest(&alias) {
                if latest == inode {
                    return Some(session_entry(Attributes::of_version(inode, &version.meta)));
                }
                inodes.forget(latest, 1);
            }
        }
        let looked_at = thread.target.take();
        if std::mem::take(&mut thread.unpublished) {
            thread.target = Some(alias.clone());
        } else if looked_at.as_ref() != Some(&alias) {
            return None;
        }
        drop(threads);
        let latest = self.inodes().latest(&alias);
        Some(match latest {
            Some((inode, version)) => session_entry(Attributes::of_version(inode, &version.meta)),
            None => self.provisional(&name.sid, name.form),
        })
    }

    async fn fetch_entry(&self, caller: Caller, name: SessionName) -> Result<Entry> {
        let alias = name.sid.alias();
        let shown = name.candidate.and_then(|candidate| self.shown().proven(&candidate));
        match self.sessions.fetch(&alias, shown.as_ref()).await {
            Ok(Lookup::Session { meta, sealed }) => match unseal(&name.sid, &sealed) {
                Ok(Some(bytes)) => Ok(self.enter(caller, name.sid, meta, bytes)),
                Ok(None) => Err(no_session()),
                Err(error) => {
                    self.threads(caller).failed_to_open(caller.tid, &alias);
                    Err(error)
                }
            },
            Ok(Lookup::Alias { meta }) => {
                let inode = self.inodes().alias_view(shown.as_ref().unwrap_or(&alias), &meta);
                Ok(session_entry(Attributes::of_version(inode, &meta)))
            }
            Ok(Lookup::Absent) => {
                self.ended(&alias);
                self.threads(caller).found_absent(caller.tid, &alias);
                Err(no_session())
            }
            Err(StoreError::Unavailable(_) | StoreError::Refused(_)) => {
                Ok(self.provisional(&name.sid, name.form))
            }
            Err(StoreError::Unreadable(why)) => {
                // This look-up is most likely the first half of an `open`.
                self.threads(caller).failed_to_open(caller.tid, &alias);
                Err(unreadable(&name.sid, &why))
            }
        }
    }

    fn enter(&self, caller: Caller, sid: Sid, meta: Meta, bytes: Bytes) -> Entry {
        let version = Version { alias: sid.alias(), sid, meta, bytes: Some(bytes) };
        let mut attributes = Attributes::of_version(InodeId::ROOT, &version.meta);
        attributes.inode = self.inodes().version(version);
        if let Some(thread) = self.threads(caller).get(caller.tid) {
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

/// The plain content, or `None` if the stored one was not sealed by this session's holder:
/// whoever wrote it, nobody can read it any more, and a login page lets the person go on.
pub(super) fn unseal(sid: &Sid, sealed: &Bytes) -> Result<Option<Bytes>> {
    match seal::open(sid, sealed) {
        Ok(plain) => Ok(Some(plain.into())),
        Err(SealError::Broken) => {
            Event::BrokenSeal { alias: &sid.alias() }.emit();
            Ok(None)
        }
        Err(SealError::UnknownFormat(format)) => {
            Err(unreadable(sid, &format!("its seal has the unknown format {format}")))
        }
    }
}

/// No living session has that name.
pub(super) fn no_session() -> Error {
    Error::expected(libc::ENOENT, "no such session")
}

/// A newer sessionfs, or another program, wrote what is stored.
pub(super) fn unreadable(sid: &Sid, why: &str) -> Error {
    Error::fault(libc::EIO, format!("session {} cannot be read: {why}", sid.alias()))
}

fn absent() -> Step<Found> {
    Err(no_session()).into()
}

fn shard_entry(shard: Shard) -> Entry {
    Entry { attributes: Attributes::of_directory(InodeId::of_shard(shard)), valid: LONG }
}
