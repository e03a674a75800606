//! Open files and directories.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::inode::InodeId;
use super::list::Snapshot;
use super::staging::{OpenStaging, Staged};

/// The number that the kernel gives back with each request on an open file.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct HandleId(pub u64);

#[derive(Clone, Debug)]
pub enum Handle {
    /// A version: it keeps what it opened.
    Version(Bytes),
    /// A staging or spool file.
    Staging(Arc<OpenStaging>),
    /// A directory, as it was when it was opened.
    Directory(Arc<Snapshot>),
}

/// All open files and directories.
#[derive(Debug, Default)]
pub struct Handles {
    open: HashMap<HandleId, Handle>,
    next: u64,
}

impl Handles {
    pub fn insert(&mut self, handle: Handle) -> HandleId {
        self.next += 1;
        let id = HandleId(self.next);
        self.open.insert(id, handle);
        id
    }

    /// What is open under that number.
    pub fn get(&self, id: HandleId) -> Option<Handle> {
        self.open.get(&id).cloned()
    }

    /// The staging file of that inode, if it is open.
    pub fn staged(&self, inode: InodeId) -> Option<Arc<Staged>> {
        self.open.values().find_map(|open| match open {
            Handle::Staging(open) if open.staged.inode == inode => Some(Arc::clone(&open.staged)),
            _ => None,
        })
    }

    /// What is open under that number is this from now on, unless it was closed.
    pub fn replace(&mut self, id: HandleId, handle: Handle) {
        if let Some(open) = self.open.get_mut(&id) {
            *open = handle;
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    pub fn remove(&mut self, id: HandleId) -> Option<Handle> {
        self.open.remove(&id)
    }
}
