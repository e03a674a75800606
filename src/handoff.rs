//! What a worker leaves to the next one, in memory that the keeper holds: requests that are not answered, and what the
//! kernel may still name.
//!
//! A worker may die at any moment. So nothing is written at an end: each thing is put here before the kernel hears of
//! it, and taken away after the kernel has let go of it. What is left behind by a death in between is too much, never
//! too little.
//!
//! - [`map`]: the memory as a bounded table, from a kind and a number to bytes
//! - [`moment`]: a time that another process understands
//!
//! Every kind has its own bound, so that none takes the room of another. What does not fit is not kept; what that
//! means is said at each kind.

mod map;
pub(crate) mod moment;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::sys::uio::pread;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::host::read_buffer;
use crate::host::shared_memory::{self, SharedMemory};
use map::Map;

/// How the worker that served a connection before has ended.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Ended {
    /// There was none, or it was to end.
    #[default]
    Planned,
    /// Somebody has killed it.
    Killed,
    /// It has crashed, or has given up.
    Crashed,
    /// It did not answer.
    Stuck,
}

/// A kind of thing that is kept. The numbers are part of the format of the memory.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// A request that was handed to a task, as the kernel has sent it, by its unique. One that is not kept would not
    /// be answered after a death.
    Request = 1,
    /// What the deaths of workers that have left a request unanswered say against it, by its unique. One that is not kept
    /// has left none.
    Suspect = 2,
    /// An inode that the kernel knows, with its look-up count. The kernel is told to look up again what is not kept.
    Inode = 3,
    /// An open session or directory. One that is not kept fails after a death.
    Handle = 4,
    /// A change that was perhaps sent to the store, by the unique of its request. One that is not kept is a new change
    /// when its request is repeated.
    Change = 5,
    /// How often the directory of a shard was removed, by the number of the shard.
    Shard = 6,
    /// What a listing has shown, by the number of its request. After a death its names stand for nothing if it is not
    /// kept.
    Listing = 7,
    /// A removal that waits for a save, by the number of its request. One that is not kept is carried out by the store.
    Removal = 8,
    /// An open staging file. One that is not kept fails after a death.
    OpenStaging = 9,
    /// What a thread has opened last, and the error that its next save is owed. One that is not kept has opened nothing
    /// and is owed none.
    Thread = 10,
    /// A thread whose last open was answered with ESTALE, by its id. One that is not kept may be told so a second time,
    /// which its caller sees.
    ToldStale = 11,
    /// A use of a session that is not written yet. One that is not kept shortens the life of the session.
    Touch = 12,
    /// The life that a save kept on this host turned out to belong to, by the one that it seemed to begin. Of one that
    /// is not kept a save may be refused.
    Life = 13,
    /// What is known of the clock of a server of the store, and of its jumps. If it is not kept sessions may be judged
    /// stale after a jump.
    Clock = 14,
    /// Since when a server of the store cannot be used, and for how long its callers have waited. If it is not kept they
    /// wait the whole time again, and their sessions may be judged stale.
    Outage = 15,
    /// Which store all this is of. If it is not kept what there is counts as that of another one.
    Store = 16,
    /// A removal that waits for the import of its session, by a part of its id. One that is not kept is lost if it was
    /// not carried out.
    ImportRemoval = 17,
    /// A session that workers have died of, by the number of a request. One that is not kept may cost as many workers
    /// again.
    Poisoned = 18,
    /// The session id and the content of a save that is kept on this host, by a part of the save's id. Of one that is not
    /// kept the save is lost if its session turns out to have another life than expected.
    Unsealed = 19,
}

/// A request without a content is no longer: it has up to two names.
pub(crate) const SMALL_BYTES: usize = 3 * map::CELL_BYTES;

/// How much of a kind is kept.
#[derive(Clone, Copy, Debug)]
struct Quota {
    number: usize,
    cells: usize,
    /// Those cells that are left to what is [small](SMALL_BYTES).
    reserved: usize,
    /// Beyond it the oldest go; otherwise the new one is not kept.
    evicts: bool,
}

impl Kind {
    const ALL: [Self; 19] = [
        Self::Request,
        Self::Suspect,
        Self::Inode,
        Self::Handle,
        Self::Change,
        Self::Shard,
        Self::Listing,
        Self::Removal,
        Self::OpenStaging,
        Self::Thread,
        Self::ToldStale,
        Self::Touch,
        Self::Life,
        Self::Clock,
        Self::Outage,
        Self::Store,
        Self::ImportRemoval,
        Self::Poisoned,
        Self::Unsealed,
    ];

    fn quota(self) -> Quota {
        const MEBIBYTE: usize = 1024 * 1024 / map::CELL_BYTES;
        let (number, cells, evicts) = match self {
            Self::Request => (8192, 24 * MEBIBYTE, false),
            // As many as there can be requests.
            Self::Suspect => (8192, 0, true),
            Self::Inode => (32_000, 16 * MEBIBYTE, true),
            Self::Handle => (8192, 20 * MEBIBYTE, false),
            Self::Change => (8192, 2 * MEBIBYTE, true),
            // All that there can be.
            Self::Shard => (4096, 0, false),
            Self::Listing => (256, 12 * MEBIBYTE, true),
            Self::Poisoned => (256, 256, true),
            Self::Removal | Self::ImportRemoval => (1024, MEBIBYTE, true),
            Self::OpenStaging => (4096, 4096, false),
            Self::Thread => (16_384, 8 * MEBIBYTE, true),
            Self::ToldStale => (8192, 4 * MEBIBYTE, true),
            Self::Touch => (16_384, 4 * MEBIBYTE, true),
            Self::Unsealed => (8192, 6 * MEBIBYTE, true),
            Self::Life => (4096, MEBIBYTE, true),
            // No Cluster has more servers.
            Self::Clock | Self::Outage => (1024, 4096, true),
            Self::Store => (1, 1, true),
        };
        // Contents that are written take no room from all other requests.
        let reserved = if self == Self::Request { 8192 * SMALL_BYTES / map::CELL_BYTES } else { 0 };
        Quota { number, cells, reserved, evicts }
    }

    /// Whether it says something of the store. What does not is of the kernel, which knows of no store.
    fn is_of_store(self) -> bool {
        match self {
            Self::Request
            | Self::Suspect
            | Self::Inode
            | Self::Handle
            | Self::Shard
            | Self::OpenStaging
            | Self::ToldStale
            // The file that it is to be imported from is the same.
            | Self::ImportRemoval
            // So is the file of the save, which waits until that store is served again.
            | Self::Unsealed
            | Self::Poisoned => false,
            Self::Change
            | Self::Listing
            | Self::Removal
            | Self::Thread
            | Self::Touch
            | Self::Life
            | Self::Clock
            | Self::Outage
            | Self::Store => true,
        }
    }
}

/// Makes the memory of a new connection.
pub fn create() -> io::Result<OwnedFd> {
    shared_memory::create(
        "sessionfs",
        map::LENGTH_BYTES + read_buffer::MAX_BUFFERS * read_buffer::BUFFER_BYTES,
    )
}

/// Whether this program can read what is in the memory of a connection. Nobody maps it for that: it comes from Odoo.
pub(crate) fn check_format(file: impl AsFd) -> io::Result<()> {
    // It lies first.
    let mut magic = [0; 8];
    pread(file, &mut magic, 0)?;
    map::check_magic(u64::from_ne_bytes(magic))
}

/// What is kept. Without memory nothing is.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    map: Option<Arc<Map>>,
    is_of_other_store: bool,
}

impl Kept {
    /// What is in the memory of a connection. Fails if another version has written it in another format.
    pub fn open(file: impl AsFd) -> io::Result<Self> {
        let length = map::LENGTH_BYTES + read_buffer::MAX_BUFFERS * read_buffer::BUFFER_BYTES;
        // Mapped until the process ends, which is when it is of no more use.
        let memory = Box::leak(Box::new(SharedMemory::map(file.as_fd(), length)?));
        let map = Some(Arc::new(Map::open(memory)?));
        Ok(Self { map, is_of_other_store: false })
    }

    /// The same for a worker that serves this store. What a worker has left that served another one says nothing of
    /// this one, and is dropped.
    #[must_use]
    pub fn of_store(self, named: &str) -> Self {
        let name = Sha256::digest(named);
        let is_same = self.get(Kind::Store, 0).is_some_and(|kept| *kept == *name);
        if !is_same {
            for kind in Kind::ALL.into_iter().filter(|kind| kind.is_of_store()) {
                for number in self.numbers(kind) {
                    self.remove(kind, number);
                }
            }
            self.put(Kind::Store, 0, &[&name]);
        }
        let is_of_other_store = self.has_predecessor() && !is_same;
        Self { is_of_other_store, ..self }
    }

    /// Whether the worker before has served another store. What it was asked for and has not answered is not for this
    /// one.
    pub(crate) fn is_of_other_store(&self) -> bool {
        self.is_of_other_store
    }

    /// Has the kernel record the requests that are read from now on. What was recorded before is gone.
    pub(crate) fn record(&self, request_max_bytes: usize) -> io::Result<()> {
        let Some(map) = &self.map else { return Ok(()) };
        read_buffer::lay_out(map.memory(), map::LENGTH_BYTES, request_max_bytes)
    }

    /// The beginning of what each thread of the worker before has read last.
    pub(crate) fn last_read(&self, request_max_bytes: usize) -> Vec<Vec<u8>> {
        let Some(map) = &self.map else { return Vec::new() };
        let buffer = |index| {
            let mut bytes = vec![0; request_max_bytes];
            let at = map::LENGTH_BYTES + index * read_buffer::BUFFER_BYTES;
            map.memory().read(at, &mut bytes).then_some(bytes)
        };
        (0..read_buffer::MAX_BUFFERS).filter_map(buffer).collect()
    }

    /// The threads of the worker before have read nothing that matters.
    pub(crate) fn clear_last_read(&self) {
        let Some(map) = &self.map else { return };
        for index in 0..read_buffer::MAX_BUFFERS {
            // A request without a length is none.
            map.memory().write(map::LENGTH_BYTES + index * read_buffer::BUFFER_BYTES, &[0; 4]);
        }
    }

    /// Whether there is memory.
    pub(crate) fn is_there(&self) -> bool {
        self.map.is_some()
    }

    /// How many workers have had this memory before.
    pub(crate) fn generation(&self) -> Option<u64> {
        self.map.as_ref().map(|map| map.generation())
    }

    /// Whether another worker has served before, of which this may be what it has left.
    pub(crate) fn has_predecessor(&self) -> bool {
        self.generation() > Some(1)
    }

    /// Keeps these parts, one after the other, in the place of what was kept. False if they are not kept.
    pub(crate) fn put(&self, kind: Kind, number: u64, parts: &[&[u8]]) -> bool {
        self.map.as_ref().is_some_and(|map| map.put(kind, number, parts))
    }

    pub(crate) fn get(&self, kind: Kind, number: u64) -> Option<Vec<u8>> {
        self.map.as_ref()?.get(kind, number)
    }

    /// Keeps what can be written as JSON.
    pub(crate) fn put_record(&self, kind: Kind, number: u64, record: &impl Serialize) {
        if let Some(map) = &self.map
            && let Ok(text) = serde_json::to_vec(record)
        {
            map.put(kind, number, &[&text]);
        }
    }

    /// What was kept so. What another version has kept in another format counts as not kept.
    pub(crate) fn get_record<T: DeserializeOwned>(&self, kind: Kind, number: u64) -> Option<T> {
        serde_json::from_slice(&self.get(kind, number)?).ok()
    }

    /// Whether anything is kept of it.
    pub(crate) fn remove(&self, kind: Kind, number: u64) -> bool {
        self.map.as_ref().is_some_and(|map| map.remove(kind, number))
    }

    /// All numbers of a kind, the oldest first.
    pub fn numbers(&self, kind: Kind) -> Vec<u64> {
        self.map.as_ref().map_or(Vec::new(), |map| map.numbers(kind))
    }

    /// Adds to the count of what is kept, which begins with 0 and does not fall below. Returns it.
    pub(crate) fn count(&self, kind: Kind, number: u64, by: i64) -> Option<u64> {
        self.map.as_ref()?.count(kind, number, by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_another_store_is_dropped_and_what_the_kernel_knows_stays() {
        let file = create().unwrap();
        let serve = |store| Kept::open(&file).unwrap().of_store(store);
        let keep_all = |kept: &Kept| {
            for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Store) {
                assert!(kept.put(kind, 7, &[]));
            }
        };
        let left =
            |kept: &Kept| Kind::ALL.into_iter().filter(|kind| kept.get(*kind, 7).is_some()).count();
        let first = serve("one");
        assert!(!first.is_of_other_store());
        keep_all(&first);
        let same = serve("one");
        assert_eq!((same.is_of_other_store(), left(&same)), (false, Kind::ALL.len() - 1));
        let other = serve("other");
        assert!(other.is_of_other_store());
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Store) {
            assert_eq!(other.get(kind, 7).is_some(), !kind.is_of_store(), "{kind:?}");
        }
        // Nor does it come back.
        let back = serve("one");
        assert_eq!((back.is_of_other_store(), left(&back)), (true, left(&other)));
        assert!(!serve("one").is_of_other_store());
    }
}
