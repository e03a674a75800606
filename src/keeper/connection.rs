//! The connection to the kernel: the device, and what the kernel has said first. The keeper holds it, so that it
//! outlives each worker. It ends when it is released ([`Held::release`]), or with the last process that holds it.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::held::Held;
use super::mount::{self, Mountpoint};
use super::note::{Note, NoteFile};
use super::running::WAITING_THREAD;
use crate::config::Config;
use crate::disk::launch;
use crate::exit::Failure;
use crate::fuse::wire::Init;
use crate::handoff::{self, Ended};
use crate::host::mount_api::Filesystem;
use crate::host::prober::Root;
use crate::host::process::{self, Process};
use crate::host::{descriptor, device};
use crate::supervision::Order;

/// The kernel sends its first request as soon as the filesystem is made.
const INIT_WITHIN: Duration = Duration::from_secs(5);
/// Longer than INIT, and as long as the kernel wants it.
const READ_BYTES: usize = 64 * 1024;

/// A connection, from before its filesystem is made.
pub(super) struct Connection {
    held: Held,
    /// How the worker that served it last has ended.
    pub after: Ended,
    /// What they have died of is found.
    pub found_cause: bool,
    mountpoint: PathBuf,
    /// The directory that lies below; `None` if another keeper has mounted on it. Its disk server opens it then: the
    /// disk may not answer.
    underlying: Option<Mountpoint>,
    made: Option<Made>,
}

struct Made {
    init: Init,
    /// Until it has its place.
    filesystem: Option<Filesystem>,
}

impl Connection {
    /// One to a filesystem that is to be mounted there.
    pub(super) fn open(mountpoint: &Path) -> Result<Self, Failure> {
        let device = mount::open_device()?;
        // Held from before the mount: afterwards its path leads to the mount.
        let underlying = Some(Mountpoint::take(mountpoint)?);
        let held = handoff::create()
            .and_then(|memory| Held::new(device, memory))
            .map_err(|e| Failure::internal("make memory that outlives a worker", e))?;
        let mountpoint = mountpoint.to_owned();
        let after = Ended::default();
        Ok(Self { held, after, found_cause: false, mountpoint, underlying, made: None })
    }

    /// Why nobody can go on with what a keeper before this one has left; `None` if a program like this one can.
    pub(super) fn is_lost(held: &Held, mountpoint: &Path) -> Option<String> {
        let Some(note) = held.note() else { return Some("its note cannot be read".into()) };
        if let Err(error) = Init::parse(&note.init) {
            return Some(format!("its first request: {error}"));
        }
        // A table that cannot be read says nothing: it is looked at again.
        if held.is_at(mountpoint).is_ok_and(|is_there| !is_there) {
            return Some("it is not mounted there any more".into());
        }
        if device::is_dead(held.device.as_fd()) {
            return Some("the kernel has ended it".into());
        }
        let readable = handoff::check_format(&held.memory);
        readable.err().map(|error| format!("what its worker has left: {error}"))
    }

    /// The one that a keeper before this one has left. It stays where it is if that fails.
    pub(super) fn resume(
        held: &mut Option<Held>,
        mountpoint: &Path,
    ) -> Result<Option<Self>, Failure> {
        let Some(note) = held.as_ref().and_then(Held::note) else { return Ok(None) };
        end_worker(note)?;
        let init = Init::parse(&note.init)
            .map_err(|e| Failure::internal("read the kernel's first request", e))?;
        // A keeper that did not leave it on purpose has died, and the worker with it.
        let after = note.left.unwrap_or(Ended::Killed);
        let Some(mut held) = held.take() else { return Ok(None) };
        held.amend(|note| note.left = None);
        // Again: the keeper that made it may not have been allowed to.
        held.store();
        let made = Some(Made { init, filesystem: None });
        let mountpoint = mountpoint.to_owned();
        Ok(Some(Self { held, after, found_cause: false, mountpoint, underlying: None, made }))
    }

    /// Executes a program in the place of this one, and hands the connection to it, with these descriptors. No worker
    /// may be left. Returns only if that fails.
    pub(super) fn execute(
        &mut self,
        program: &Path,
        arguments: &[std::ffi::OsString],
        others: &[(&str, BorrowedFd<'_>)],
    ) -> std::io::Error {
        let before = self.held.note().cloned();
        self.note_left();
        let mut descriptors = self.held.descriptors().to_vec();
        descriptors.extend(others);
        let error = descriptor::execute_with(program, arguments, &descriptors);
        if let Some(before) = before {
            self.amend(|note| *note = before);
        }
        error
    }

    /// It is left to the next keeper, which does not count this as a failure.
    fn note_left(&mut self) {
        let after = self.after;
        self.amend(|note| {
            (note.left, note.unserved_since_ms, note.short_lived) = (Some(after), None, 0);
        });
    }

    /// Makes the filesystem, if it is not made yet, and has the kernel's first request.
    pub(super) fn make(&mut self, config: &Config) -> Result<(), Failure> {
        if self.made.is_some() {
            return Ok(());
        }
        let device = self.held.device.as_fd();
        let filesystem =
            Filesystem::make(device).map_err(|errno| mount::refused(&config.mountpoint, errno))?;
        let init = device::read_within(device, READ_BYTES, INIT_WITHIN)
            .and_then(|bytes| Init::parse(&bytes))
            .map_err(|e| Failure::internal("read the kernel's first request", e))?;
        let noted = filesystem.device_number().and_then(|number| {
            self.held.set_note(Note {
                init: init.bytes().to_vec(),
                filesystem: number,
                config: config.clone(),
                unserved_since_ms: None,
                program: None,
                last_reload_error: None,
                private_redis_pid: None,
                left: None,
                worker: None,
                short_lived: 0,
            })
        });
        noted.map_err(|e| Failure::internal("note the mount for another keeper", e))?;
        self.made = Some(Made { init, filesystem: Some(filesystem) });
        Ok(())
    }

    /// It is left as it is, for the next keeper, to which the service manager hands it.
    pub(super) fn leave(mut self) {
        self.note_left();
    }

    /// Ends it: nothing stays mounted, and whoever waits for an answer gets an error.
    pub(super) fn release(self) {
        self.held.release();
    }

    /// What another program needs to say whether it could go on with it ([`is_understood`]), with the flags of `mount`
    /// that name it.
    pub(super) fn for_trial(&self) -> [(&'static str, BorrowedFd<'_>); 2] {
        let [_, (_, memory), (_, note)] = self.held.descriptors();
        [("--memory-fd", memory), ("--note-fd", note)]
    }

    /// What is noted for another keeper.
    pub(super) fn note(&self) -> Option<&Note> {
        self.held.note()
    }

    /// Changes it.
    pub(super) fn amend(&mut self, change: impl FnOnce(&mut Note)) {
        self.held.amend(change);
    }

    /// What a worker is told to serve it; `None` before it is made.
    pub(super) fn order(&self) -> Option<Order> {
        let init = self.made.as_ref()?.init.bytes().to_vec();
        Some(Order::Connection { init, after: self.after })
    }

    /// The root of its filesystem, wherever that is; `None` before it is made.
    pub(super) fn root(&self) -> Option<Root<'_>> {
        Some(match &self.made.as_ref()?.filesystem {
            Some(filesystem) => Root::Of(filesystem.as_fd()),
            None => Root::At(&self.mountpoint),
        })
    }

    /// Whether its filesystem has been put in its place.
    pub(super) fn is_in_place(&self) -> bool {
        self.made.as_ref().is_some_and(|made| made.filesystem.is_none())
    }

    /// Whether the kernel has ended it, and every call to its filesystem fails: `umount -f`, the file `abort` in
    /// `/sys/fs/fuse/connections`, or a limit of the kernel (`fs.fuse.max_request_timeout`).
    pub(super) fn is_aborted(&self) -> bool {
        self.is_in_place() && device::is_dead(self.held.device.as_fd())
    }

    /// Whether that is what its path leads to.
    pub(super) fn is_uppermost(&self) -> bool {
        self.is_in_place() && self.held.is_at(&self.mountpoint).unwrap_or(false)
    }

    /// Puts its filesystem on the bare mountpoint.
    pub(super) fn put(&mut self) -> Result<(), Failure> {
        let Some(filesystem) = self.made.as_mut().and_then(|made| made.filesystem.take()) else {
            return Ok(());
        };
        // Looked at once more. `filesystem` ends here: held, it would be in use, and 'umount' would say so.
        let place = Mountpoint::take(&self.mountpoint)?;
        place.put(&filesystem)?;
        self.underlying = Some(place);
        self.held.store();
        Ok(())
    }

    /// Gives it to the service manager once more, which may have let go of it.
    pub(super) fn store_again(&self) {
        if self.is_in_place() {
            self.held.store();
        }
    }

    /// The directory that lies below, for its disk server.
    pub(super) fn underlying(&self) -> launch::Root<'_> {
        match &self.underlying {
            Some(held) => launch::Root::Opened(held.as_fd()),
            None => launch::Root::Beneath(&self.mountpoint),
        }
    }

    /// What a worker is handed, with the flags that name it.
    pub(super) fn descriptors(&self) -> [(&'static str, BorrowedFd<'_>); 2] {
        [("--fuse-fd", self.held.device.as_fd()), ("--memory-fd", self.held.memory.as_fd())]
    }
}

/// Ends the worker of a keeper that has died. The kernel does that, too, but a host that is short of time or memory may
/// take a while: and two workers must not read the same requests.
fn end_worker(note: &Note) -> Result<(), Failure> {
    let Some((pid, started_ticks)) = note.worker else { return Ok(()) };
    // Its number may be another's by now, but not once it is held.
    let Ok(mut worker) = Process::found(pid) else { return Ok(()) };
    if process::started_ticks(pid) != Some(started_ticks) {
        return Ok(());
    }
    worker.kill_but_for(WAITING_THREAD);
    if worker.has_ended() || worker.has_ended_but_for(WAITING_THREAD) {
        return Ok(());
    }
    Err(Failure::internal(
        "go on with the mount",
        format!("the worker (pid {pid}) of the keeper before has not ended"),
    ))
}

/// Whether this program could go on with a connection that another one holds.
pub(super) fn is_understood(note: OwnedFd, memory: &OwnedFd) -> bool {
    let note = NoteFile::found(note).read();
    note.is_ok_and(|note| Init::parse(&note.init).is_ok()) && handoff::check_format(memory).is_ok()
}
