//! What `stat` shows, and what `chmod`, `truncate` and `utimens` change.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::handle::{Handle, HandleId};
use super::node::{Node, NodeId};
use super::{Caller, Core, LONG, Step};
use crate::error::{Error, Result};
use crate::session::name::{Alias, Form, Sid};
use crate::store::{Amend, Link, Meta, Mtime, Sessions, StoreError, Waited};

/// A file or a directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The root or a shard.
    Directory,
    /// Everything else.
    File,
}

/// The attributes of one node; owner and group are the tree's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attributes {
    /// Its inode number.
    pub node: NodeId,
    /// File or directory.
    pub kind: Kind,
    /// Length of the content.
    pub size_bytes: u64,
    /// Last save, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Permission bits; `None` for a directory, which has those of the tree.
    pub mode: Option<u32>,
    /// How long the kernel may keep them.
    pub valid: Duration,
}

/// A name that exists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// What it names.
    pub attributes: Attributes,
    /// How long the kernel may keep the name without asking.
    pub valid: Duration,
}

/// What `SETATTR` asks for.
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
    /// Of a directory. Its mtime does not move: nothing of Odoo's looks at it.
    pub fn of_directory(node: NodeId) -> Self {
        Self { node, kind: Kind::Directory, size_bytes: 0, mtime_ns: 0, mode: None, valid: LONG }
    }

    /// Of a version; they never change.
    pub fn of_version(node: NodeId, meta: &Meta) -> Self {
        Self {
            node,
            kind: Kind::File,
            size_bytes: meta.size_bytes,
            mtime_ns: meta.mtime_ns,
            mode: Some(meta.mode),
            valid: LONG,
        }
    }

    /// Of a name about which the store could not be asked.
    pub fn of_provisional(node: NodeId, size_bytes: u64) -> Self {
        Self {
            node,
            kind: Kind::File,
            size_bytes,
            mtime_ns: now_ns(),
            mode: Some(0o644),
            valid: Duration::ZERO,
        }
    }

    fn of_staging(node: NodeId, staged: &super::staging::Staged) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = staged.metadata()?;
        Ok(Self {
            node,
            kind: Kind::File,
            size_bytes: metadata.len(),
            mtime_ns: metadata
                .mtime()
                .saturating_mul(1_000_000_000)
                .saturating_add(metadata.mtime_nsec()),
            mode: Some(metadata.mode() & 0o7777),
            valid: Duration::ZERO,
        })
    }
}

impl<S: Sessions, L: Link> Core<S, L> {
    /// `stat` of a node, from local state.
    pub fn attributes(&self, node: NodeId) -> Result<Attributes> {
        if node == NodeId::ROOT || node.shard().is_some() {
            return Ok(Attributes::of_directory(node));
        }
        match self.nodes().get(node).cloned() {
            Some(Node::Version(version)) => Ok(Attributes::of_version(node, &version.meta)),
            Some(Node::AliasView { meta, .. }) => Ok(Attributes::of_version(node, &meta)),
            Some(Node::Provisional { size_bytes, .. }) => {
                Ok(Attributes::of_provisional(node, size_bytes))
            }
            Some(Node::Superseded { attributes, .. }) => Ok(attributes),
            Some(Node::Staging) => self.staging_attributes(node),
            None => Err(stale(node)),
        }
    }

    pub(super) fn staging_attributes(&self, node: NodeId) -> Result<Attributes> {
        let staged = self.staging.get(node).ok_or_else(|| stale(node))?;
        Attributes::of_staging(node, &staged)
    }

    /// `chmod`, `truncate`, `utimens`.
    ///
    /// A session's bytes cannot be changed in place (`EACCES`): only a save makes a new version.
    /// Its mode or mtime make a new version of the same bytes, because other nodes may hold the
    /// attributes of this one; the mode it has already costs nothing, which is the `chmod` that
    /// ends every save of Odoo.
    pub fn set_attributes(
        self: &Arc<Self>,
        _caller: Caller,
        node: NodeId,
        handle: Option<HandleId>,
        change: Change,
    ) -> Step<Attributes> {
        if let Some(Handle::Staging(open)) = handle.and_then(|id| self.handles().get(id)) {
            return self.set_staging(open.staged.node, change).into();
        }
        let known = self.nodes().get(node).cloned();
        let (alias, meta) = match known {
            Some(Node::Staging) => return self.set_staging(node, change).into(),
            Some(Node::Version(version)) => (version.alias, Some(version.meta)),
            Some(Node::AliasView { alias, meta }) => (alias, Some(meta)),
            Some(Node::Provisional { sid, .. }) => (sid.alias(), None),
            // What is current now is another's: this save's own chmod is none of it.
            Some(Node::Superseded { attributes, .. }) => return Ok(attributes).into(),
            None if node == NodeId::ROOT || node.shard().is_some() => {
                return Err(Error::expected(libc::EACCES, "directories cannot be changed")).into();
            }
            None => return Err(stale(node)).into(),
        };
        if change.size_bytes.is_some() {
            return Err(Error::expected(
                libc::EACCES,
                "a session is replaced by a save, never cut in place",
            ))
            .into();
        }
        let mode = change.mode.map(|mode| mode & 0o7777);
        let same_mode = mode.is_none_or(|mode| meta.as_ref().is_some_and(|meta| meta.mode == mode));
        if same_mode && change.mtime.is_none() {
            return self.attributes(node).into();
        }
        let core = Arc::clone(self);
        Step::later(async move { core.amend(node, alias, mode, change.mtime).await })
    }

    async fn amend(
        &self,
        node: NodeId,
        alias: Alias,
        mode: Option<u32>,
        mtime: Option<Mtime>,
    ) -> Result<Attributes> {
        let amend = Amend { stamp: self.link.stamp(), alias, mode, mtime };
        let answer = match self.sessions.amend(&amend).await {
            // SETATTR holds no directory, so one bounded step may be waited; chmod and utimens
            // cannot be interrupted (Python raises), so no more than one.
            Err(StoreError::Unavailable(_)) if self.link.wait_up().await == Waited::Up => {
                self.sessions.amend(&amend).await
            }
            answer => answer,
        };
        match answer {
            Ok(Some(meta)) => {
                // The kernel holds the old version's inode; what it is shown of it now is the new
                // attributes, and its next look-up finds the new inode.
                Ok(Attributes { valid: Duration::ZERO, ..Attributes::of_version(node, &meta) })
            }
            Ok(None) => Err(Error::expected(libc::ENOENT, "the session is gone")),
            Err(error) => Err(Error::fault(
                libc::EIO,
                format!("cannot change attributes of {}: {error}", amend.alias),
            )),
        }
    }

    fn set_staging(&self, node: NodeId, change: Change) -> Result<Attributes> {
        let staged = self.staging.get(node).ok_or_else(|| stale(node))?;
        if let Some(size_bytes) = change.size_bytes {
            self.staging.set_len(&staged, size_bytes)?;
        }
        if let Some(mode) = change.mode {
            staged.set_mode(mode)?;
        }
        match change.mtime {
            Some(Mtime::Now) => staged.set_mtime(SystemTime::now())?,
            Some(Mtime::Ns(ns)) => staged.set_mtime(from_ns(ns))?,
            None => {}
        }
        Attributes::of_staging(node, &staged)
    }
}

/// The kernel named a node that is not (any more) in the table. It retries the whole path once.
pub(super) fn stale(node: NodeId) -> Error {
    Error::expected(libc::ESTALE, format!("node {} is not known", node.0))
}

/// What the kernel may keep of a session's name: nothing, since another node may replace or end
/// the session at any moment and nobody tells us.
pub(super) fn session_entry(attributes: Attributes) -> Entry {
    Entry { attributes, valid: Duration::ZERO }
}

/// For messages: a session is named by its alias.
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
