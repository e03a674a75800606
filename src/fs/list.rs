//! OPENDIR and READDIR. A listing is taken whole when the directory is opened, which holds no
//! lock, and READDIR answers from it.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;

use super::attributes::{Attributes, Entry, session_entry};
use super::caller::Caller;
use super::handle::{Handle, HandleId};
use super::inode::InodeId;
use super::open::bad_handle;
use super::thread::Listing;
use super::{Core, LONG, Step};
use crate::error::{Error, Result};
use crate::session::name::{Alias, CandidateAlias, Form, Shard};
use crate::store::{Link, Listed, Sessions, StoreError, Waited};

/// A directory as it was when it was opened.
#[derive(Debug)]
pub struct Snapshot {
    pub directory: InodeId,
    /// Its entries, in the order in which they are read.
    pub entries: Vec<Item>,
}

/// One entry of a listing.
#[derive(Debug)]
pub struct Item {
    /// Its name: an alias, a shard or a temp file.
    pub name: String,
    what: What,
}

#[derive(Debug)]
enum What {
    Directory(InodeId),
    Session(Listed),
    Staging(InodeId),
}

/// The aliases that listings have shown lately.
///
/// Only such a name is sent to the store as an alias. Any other may be a session id, which would
/// appear in clear on the wire, in `MONITOR` and in the slow log. Odoo's glob, scandir and vacuum
/// list before they use an alias.
pub struct ListedAliases(LruCache<Alias, ()>);

/// Beyond this number the oldest are forgotten. They can be neither stat'ed nor unlinked by alias
/// until the next listing; they expire all the same.
const MAX_LISTED_ALIASES: usize = 262_144;

impl Default for ListedAliases {
    fn default() -> Self {
        // Grows as it is filled: most servers never list so much.
        Self(LruCache::unbounded())
    }
}

impl ListedAliases {
    /// Adds what a listing shows.
    fn extend<'a>(&mut self, aliases: impl Iterator<Item = &'a Alias>) {
        for alias in aliases {
            self.0.put(alias.clone(), ());
            if self.0.len() > MAX_LISTED_ALIASES {
                self.0.pop_lru();
            }
        }
    }

    /// The alias that a name is, if a listing has shown it.
    pub fn proven(&mut self, candidate: &CandidateAlias) -> Option<Alias> {
        candidate.among(|alias| self.0.get(alias).is_some())
    }
}

impl Item {
    fn alias(&self) -> Option<&Alias> {
        match &self.what {
            What::Session(listed) => Some(&listed.alias),
            What::Directory(_) | What::Staging(_) => None,
        }
    }

    /// The inode number to show in a plain listing. A session gets its own when it is looked up;
    /// until then any number but 0 will do, and this one belongs to nothing else.
    pub fn inode(&self) -> u64 {
        const UNKNOWN: u64 = 0xffff_ffff;
        match &self.what {
            What::Directory(inode) | What::Staging(inode) => inode.0,
            What::Session(_) => UNKNOWN,
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.what, What::Directory(_))
    }
}

impl<S: Sessions, L: Link> Core<S, L> {
    /// Takes the listing of a directory.
    pub fn open_directory(self: &Arc<Self>, caller: Caller, inode: InodeId) -> Step<HandleId> {
        let listing = match inode.shard() {
            Some(shard) => Listing::Shard(shard),
            None if inode == InodeId::ROOT => Listing::Root,
            None => return Err(Error::expected(libc::ENOTDIR, "not a directory")).into(),
        };
        let by = self.callers.identify(caller);
        let core = Arc::clone(self);
        Step::later(async move {
            let entries = match listing {
                Listing::Root => core.list_root().await?,
                Listing::Shard(shard) => core.list_shard(shard).await?,
            };
            core.listed_aliases().extend(entries.iter().filter_map(Item::alias));
            core.threads().listed(by.thread, listing);
            let snapshot = Arc::new(Snapshot { directory: inode, entries });
            Ok(core.handles().insert(Handle::Directory(snapshot)))
        })
    }

    async fn list_shard(&self, shard: Shard) -> Result<Vec<Item>> {
        let listed = match self.sessions.list(shard).await {
            Err(error) if self.may_ask_again(&error).await => self.sessions.list(shard).await,
            answer => answer,
        };
        let listed = listed.map_err(|error| cannot_list(&error))?;
        Ok(listed.into_iter().filter(|one| one.meta.form == Form::Sharded).map(session).collect())
    }

    async fn list_root(&self) -> Result<Vec<Item>> {
        let root = match self.sessions.list_root().await {
            Err(error) if self.may_ask_again(&error).await => self.sessions.list_root().await,
            answer => answer,
        };
        let root = root.map_err(|error| cannot_list(&error))?;
        let shards = root.shards.into_iter().map(|shard| Item {
            name: shard.as_str().to_owned(),
            what: What::Directory(InodeId::of_shard(shard)),
        });
        let staging = self
            .staging
            .all()
            .into_iter()
            .map(|staged| Item { name: staged.name.clone(), what: What::Staging(staged.inode) });
        Ok(shards.chain(root.flat.into_iter().map(session)).chain(staging).collect())
    }

    /// Whether a listing is tried once more. Waits for one step and no more: Python's `listdir` does not
    /// retry EINTR.
    async fn may_ask_again(&self, error: &StoreError) -> bool {
        matches!(error, StoreError::Unavailable(_)) && self.link.wait_up().await == Waited::Up
    }

    /// Makes a directory: shards exist already (`EEXIST`), others are refused (`EACCES`).
    pub fn mkdir(&self, parent: InodeId, name: &OsStr) -> Result<Entry> {
        let is_shard = parent == InodeId::ROOT && name.to_str().and_then(Shard::parse).is_some();
        Err(if is_shard {
            Error::expected(libc::EEXIST, "shards always exist")
        } else {
            Error::expected(libc::EACCES, "only shards can be directories")
        })
    }

    /// The listing of an open directory.
    pub fn snapshot(&self, handle: HandleId) -> Result<Arc<Snapshot>> {
        match self.handles().get(handle) {
            Some(Handle::Directory(snapshot)) => Ok(snapshot),
            _ => Err(bad_handle()),
        }
    }

    /// The entry of one name of a listing, as a look-up gives it (READDIRPLUS). Counts a look-up.
    /// `None` for a temp file that is gone since.
    pub fn enter_listed(&self, item: &Item) -> Option<Entry> {
        match &item.what {
            What::Directory(inode) => {
                Some(Entry { attributes: Attributes::of_directory(*inode), valid: LONG })
            }
            What::Session(listed) => {
                let inode = self.inodes().alias_view(&listed.alias, &listed.meta);
                Some(session_entry(Attributes::of_version(inode, &listed.meta)))
            }
            What::Staging(inode) => {
                let attributes = self.staging_attributes(*inode).ok()?;
                self.inodes().staging(*inode);
                Some(Entry { attributes, valid: Duration::ZERO })
            }
        }
    }

    /// FORGET: the kernel drops `count` look-ups of an inode.
    pub fn forget(&self, inode: InodeId, count: u64) {
        self.inodes().forget(inode, count);
    }
}

fn session(listed: Listed) -> Item {
    Item { name: listed.alias.entry(listed.meta.form), what: What::Session(listed) }
}

fn cannot_list(error: &StoreError) -> Error {
    Error::fault(libc::EIO, format!("cannot list a directory: {error}"))
}
