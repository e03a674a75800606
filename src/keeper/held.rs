//! What one keeper leaves to the next: the device, the memory of the workers, and a note.
//!
//! When it is dropped, all is over: the service manager lets go of it, the mount is taken away, and the device is
//! closed, so that whoever waits for an answer gets an error. So a keeper that cannot go on, for whatever reason,
//! leaves nobody waiting.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use super::connection::Connection;
use super::note::{Note, NoteFile};
use super::private_redis;
use crate::host::mount::{force_off, mounted};
use crate::host::{descriptor, service_manager};

/// By which names it is handed over.
const NAMES: [&str; 3] = ["device", "memory", "note"];
/// By which names the locks are that a program hands over to the one that it executes in its place.
pub(super) const LOCK: &str = "lock";
pub(super) const PRIVATE_REDIS_LOCK: &str = "private-redis-lock";

/// All that was handed to this process: by the program that has executed this one in its place, or by a keeper that has
/// died and had stored it with the service manager.
#[derive(Default)]
pub(super) struct Handed {
    /// Whether there is anything.
    pub is_any: bool,
    pub held: Option<Held>,
    /// The lock of the mountpoint.
    pub lock: Option<OwnedFd>,
    pub private_redis: Option<private_redis::Handed>,
}

impl Handed {
    /// To be called first, while there is one thread.
    pub(super) fn take() -> Self {
        let mut handed = descriptor::handed();
        if handed.is_empty() {
            handed = service_manager::stored();
        }
        let is_any = !handed.is_empty();
        let lock = handed.remove(LOCK);
        let private_redis_lock = handed.remove(PRIVATE_REDIS_LOCK);
        let held = Held::take(&mut handed);
        let pid = held.as_ref().and_then(|held| held.note()?.private_redis_pid);
        let private_redis = private_redis_lock
            .zip(pid)
            .and_then(|(lock, pid)| private_redis::Handed::found(lock, pid));
        Self { is_any, held, lock, private_redis }
    }

    /// What the keeper before has noted.
    pub(super) fn note(&self) -> Option<&Note> {
        self.held.as_ref()?.note()
    }

    /// The connection to the filesystem that is mounted there, if it was handed over and can be gone on with. Otherwise
    /// whoever waits for it gets an error.
    pub(super) fn resume(&mut self, mountpoint: &Path) -> Option<Connection> {
        Connection::resume(self.held.take()?, mountpoint)
            .inspect_err(|failure| tracing::error!(%failure, "the mount of the keeper before ends"))
            .ok()
    }
}

#[derive(Debug)]
pub(super) struct Held {
    pub device: OwnedFd,
    pub memory: OwnedFd,
    file: NoteFile,
    /// What is in the file. None before the filesystem is made.
    note: Option<Note>,
}

impl Held {
    pub(super) fn new(device: OwnedFd, memory: OwnedFd) -> io::Result<Self> {
        Ok(Self { device, memory, file: NoteFile::create()?, note: None })
    }

    /// What was handed over. Without all of it nothing can be done with it, and the service manager lets go of it.
    fn take(handed: &mut BTreeMap<String, OwnedFd>) -> Option<Self> {
        let [device, memory, note] = NAMES.map(|name| handed.remove(name));
        let is_any = device.is_some() || memory.is_some() || note.is_some();
        let (Some(device), Some(memory), Some(note)) = (device, memory, note) else {
            if is_any {
                service_manager::forget(&NAMES);
            }
            return None;
        };
        let file = NoteFile::found(note);
        let note = file.read().ok();
        Some(Self { device, memory, file, note })
    }

    /// What an earlier keeper has noted, or this one.
    pub(super) fn note(&self) -> Option<&Note> {
        self.note.as_ref()
    }

    /// Notes this in the place of what was noted.
    pub(super) fn set_note(&mut self, note: Note) -> io::Result<()> {
        self.file.write(&note)?;
        self.note = Some(note);
        Ok(())
    }

    /// Changes what is noted, if anything is.
    pub(super) fn amend(&mut self, change: impl FnOnce(&mut Note)) {
        let Some(note) = &mut self.note else { return };
        change(note);
        if let Err(error) = self.file.write(note) {
            tracing::warn!(%error, "cannot note the state of the mount for another keeper");
        }
    }

    /// Whether its filesystem is what is mounted there.
    pub(super) fn is_at(&self, mountpoint: &Path) -> bool {
        self.note.as_ref().is_some_and(|note| {
            mounted(mountpoint)
                .is_some_and(|found| found.is_ours() && found.device == note.filesystem)
        })
    }

    /// Gives it to the service manager, so that it outlives this process. The service manager knows what it has already.
    pub(super) fn store(&self) {
        service_manager::store(&self.descriptors());
    }

    /// What it is handed over by.
    pub(super) fn descriptors(&self) -> [(&'static str, BorrowedFd<'_>); 3] {
        let [device, memory, note] = NAMES;
        [(device, self.device.as_fd()), (memory, self.memory.as_fd()), (note, self.file.as_fd())]
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        service_manager::forget(&NAMES);
        let Some(note) = &self.note else { return };
        let mountpoint = &note.config.mountpoint;
        if self.is_at(mountpoint)
            && let Err(failure) = force_off(mountpoint)
        {
            tracing::error!(%failure, "the mount is not served any more, and stays");
        }
    }
}
