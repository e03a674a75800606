//! What one keeper leaves to the next: the device, the memory of the workers, and a note.
//!
//! It is released by a decision alone ([`Held::release`]): then the service manager lets go of it, the mount is taken
//! away, and whoever waits for an answer gets an error. A keeper that ends in any other way, by a panic, too, leaves it
//! with the service manager, and the next one tries again ([`Handed::insist`]). Without a service manager the kernel
//! ends the connection then, since nobody holds the device any more.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::note::{Note, NoteFile};
use super::private_redis;
use super::stability::{GIVEN_UP_AFTER, not_served};
use crate::exit::Failure;
use crate::host::mount::{abort, force_off, try_mounted};
use crate::host::signals::Signals;
use crate::host::{clock, descriptor, device, process, service_manager};

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
    /// The service manager has it, too, and starts another keeper if this one ends.
    is_stored: bool,
}

impl Handed {
    /// To be called first, while there is one thread.
    pub(super) fn take() -> Self {
        let mut handed = descriptor::handed();
        let is_stored = handed.is_empty();
        if is_stored {
            handed = service_manager::stored();
        }
        let is_any = !handed.is_empty();
        let lock = handed.remove(LOCK);
        let private_redis_lock = handed.remove(PRIVATE_REDIS_LOCK);
        let held = Held::take(&mut handed);
        let pid = held.as_ref().and_then(|held| held.note()?.private_redis_pid);
        process::adopt(pid);
        let private_redis = private_redis_lock
            .zip(pid)
            .and_then(|(lock, pid)| private_redis::Handed::found(lock, pid));
        Self { is_any, held, lock, private_redis, is_stored }
    }

    /// What the keeper before has noted.
    pub(super) fn note(&self) -> Option<&Note> {
        self.held.as_ref()?.note()
    }

    /// Lets go of what nobody has served for long, whatever its keepers have failed of. The failure that says so.
    pub(super) fn give_up_late(&mut self) -> Option<Failure> {
        let held = self.held.take_if(|held| held.unserved_for() >= GIVEN_UP_AFTER)?;
        let mountpoint = held.note().map(|note| note.config.mountpoint.clone()).unwrap_or_default();
        held.release();
        Some(not_served(&mountpoint))
    }

    /// Whether there is a connection to the filesystem that is mounted there, and it can be gone on with. One that cannot
    /// is released.
    pub(super) fn can_go_on(&mut self, mountpoint: &Path) -> bool {
        let lost = self.held.as_ref().and_then(|held| Connection::is_lost(held, mountpoint));
        if let Some(why) = lost
            && let Some(held) = self.held.take()
        {
            tracing::error!("the mount of the keeper before ends: {why}");
            held.release();
        }
        self.held.is_some()
    }

    /// The connection, if there is one.
    pub(super) fn resume(&mut self, mountpoint: &Path) -> Result<Option<Connection>, Failure> {
        Connection::resume(&mut self.held, mountpoint)
    }

    /// Does what is needed to go on with the mount. To fail would log everybody out. So it is tried again for as long as
    /// callers may wait: by the next keeper if the service manager starts one, else here. Then they are released.
    pub(super) fn insist<T>(
        &mut self,
        signals: &mut Signals,
        mut attempt: impl FnMut(&mut Self, &mut Signals) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        const TRY_EVERY: Duration = Duration::from_millis(200);
        let mut is_said = false;
        loop {
            let failure = match attempt(self, signals) {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            let Some(held) = &self.held else { return Err(failure) };
            let is_over = held.unserved_for() >= GIVEN_UP_AFTER;
            if self.is_stored && !is_over {
                tracing::error!("the mount of the keeper before is left to the next one");
                return Err(failure);
            }
            if is_over || signals.received() > 0 {
                if let Some(held) = self.held.take() {
                    held.release();
                }
                return Err(failure);
            }
            if !std::mem::replace(&mut is_said, true) {
                tracing::error!(%failure, "cannot go on with the mount yet; retrying");
            }
            service_manager::alive();
            signals.wait(&[], Some(Instant::now() + TRY_EVERY));
        }
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

    /// What was handed over. Without all of it nothing can be done with it, and the service manager lets go of it. From
    /// now on it is known for how long nobody has been served, to the next keeper, too.
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
        let mut held = Self { device, memory, file, note };
        held.amend(|note| {
            note.unserved_since_ms.get_or_insert_with(clock::monotonic_ms);
        });
        Some(held)
    }

    /// For how long nobody has been served.
    fn unserved_for(&self) -> Duration {
        let since_ms = self.note().and_then(|note| note.unserved_since_ms);
        let now_ms = clock::monotonic_ms();
        Duration::from_millis(since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms)))
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

    /// Whether its filesystem is what is mounted there. Fails if the mount table cannot be read.
    pub(super) fn is_at(&self, mountpoint: &Path) -> io::Result<bool> {
        let found = try_mounted(mountpoint)?;
        Ok(found
            .zip(self.note.as_ref())
            .is_some_and(|(found, note)| found.is_ours() && found.device == note.filesystem))
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

    /// Ends it: the service manager lets go of it, nothing stays mounted, and whoever waits for an answer gets an error.
    pub(super) fn release(self) {
        service_manager::forget(&NAMES);
        let Some(note) = &self.note else { return };
        let mountpoint = &note.config.mountpoint;
        if self.is_at(mountpoint).unwrap_or(false)
            && let Err(failure) = force_off(mountpoint)
        {
            tracing::error!(%failure, "the mount is not served any more, and stays");
        }
        // Its name is gone, and a container may still have it.
        if !device::is_dead(self.device.as_fd())
            && let Err(error) = abort(&note.filesystem)
        {
            tracing::error!(
                %error,
                "the mount is not served any more, and could not be ended for whoever still has it: restart Odoo's container if \
                 its processes wait"
            );
        }
    }
}
