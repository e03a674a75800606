//! Open files and directories.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::caller::Request;
use super::inode::InodeId;
use super::kept::{HandleRecord, KeptState};
use super::list::Snapshot;
use super::staging::{OpenStaging, Staged};
use super::{Core, Step};
use crate::error::Result;
use crate::store::{Link, Sessions};

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
    kept: KeptState,
    next: u64,
}

impl Handles {
    /// Set in the numbers that are given without a request.
    const UNASKED: u64 = 1 << 63;

    /// None yet. What was open at the worker before is found when it is named.
    pub(super) fn new(kept: KeptState) -> Self {
        Self { kept, ..Self::default() }
    }

    /// Opens it for a request, under its number: a request that is repeated opens nothing twice.
    pub(super) fn insert(&mut self, request: Option<Request>, handle: Handle) -> HandleId {
        self.next += 1;
        let id = HandleId(request.map_or(Self::UNASKED | self.next, |request| request.number));
        self.keep(id, &handle);
        self.open.insert(id, handle);
        id
    }

    fn keep(&self, id: HandleId, handle: &Handle) {
        match handle {
            Handle::Version(content) => self.kept.put_handle(id, &HandleRecord::Version, content),
            Handle::Staging(open) => {
                let inode = open.staged.inode.0;
                self.kept.put_handle(id, &HandleRecord::Staging { inode }, &[]);
            }
            Handle::Directory(snapshot) => {
                let (inode, first) = (snapshot.directory.0, snapshot.first);
                let record = HandleRecord::Directory { inode, first };
                self.kept.put_handle(id, &record, snapshot.record());
            }
        }
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
        if self.open.contains_key(&id) {
            self.keep(id, &handle);
            self.open.insert(id, handle);
        }
    }

    /// A directory that was opened by the worker before, which has not kept it.
    pub(super) fn reopen_directory(&mut self, id: HandleId, directory: InodeId) -> Arc<Snapshot> {
        let lost = Arc::new(Snapshot::recorded(directory, 0, &[]));
        self.open.insert(id, Handle::Directory(Arc::clone(&lost)));
        lost
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// It is closed.
    pub fn remove(&mut self, id: HandleId) {
        self.kept.forget_handle(id);
        self.open.remove(&id);
    }
}

impl<S: Sessions, L: Link> Core<S, L> {
    /// Opens the staging files that were open at the worker before: they are nobody's leftovers.
    pub(super) fn take_up_open_staging(&self) {
        for id in self.kept.open_staging() {
            self.handle(id);
        }
    }

    /// What becomes of a request that opens something. One that fails when it is repeated opens nothing, though the worker
    /// before may have opened something for it: nobody will close that.
    pub(super) fn opens<T: Send + 'static>(
        self: &Arc<Self>,
        request: Option<Request>,
        step: Step<T>,
    ) -> Step<T> {
        if !request.is_some_and(|request| request.is_repeated) {
            return step;
        }
        let core = Arc::clone(self);
        let see = move |opened: Result<T>| {
            if opened.is_err() {
                core.opens_nothing(request);
            }
            opened
        };
        match step {
            Step::Done(opened) => Step::Done(see(opened)),
            Step::Later(work) => Step::later(async move { see(work.await) }),
        }
    }

    /// The same for one that has failed.
    pub(super) fn opens_nothing(&self, request: Option<Request>) {
        if let Some(request) = request.filter(|request| request.is_repeated) {
            self.release(HandleId(request.number));
        }
    }

    /// What is open under that number, here or at the worker before.
    pub(super) fn handle(&self, id: HandleId) -> Option<Handle> {
        if let Some(open) = self.handles().get(id) {
            return Some(open);
        }
        let handle = match self.kept.handle(id)? {
            (HandleRecord::Version, content) => Handle::Version(content),
            (HandleRecord::Staging { inode }, _) => {
                let staged = self.staging.get(InodeId(inode))?;
                Handle::Staging(Arc::new(self.staging.hold(&staged).ok()?))
            }
            (HandleRecord::Directory { inode, first }, record) => {
                Handle::Directory(Arc::new(Snapshot::recorded(InodeId(inode), first, &record)))
            }
        };
        // Another thread may have been faster.
        Some(self.handles().open.entry(id).or_insert(handle).clone())
    }
}
