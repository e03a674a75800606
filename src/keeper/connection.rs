//! The connection to the kernel: the device, and what the kernel has said first. The keeper holds it, so that it
//! outlives each worker. When it is dropped, and no worker holds it, the kernel ends it: whoever waits for an answer
//! gets an error.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use super::mount::{self, Mountpoint};
use crate::exit::Failure;
use crate::fuse::wire::Init;
use crate::handoff::{self, Ended};
use crate::host::mount::is_ours;
use crate::host::mount_api::Filesystem;
use crate::host::prober::Root;
use crate::host::{descriptor, device, service_manager};
use crate::supervision::Order;

/// The kernel sends its first request as soon as the filesystem is made.
const INIT_WITHIN: Duration = Duration::from_secs(5);
/// Longer than INIT, and as long as the kernel wants it.
const READ_BYTES: usize = 64 * 1024;

/// By which names it is handed over.
const HANDED: [&str; 2] = ["device", "memory"];

/// A connection, from before its filesystem is made.
pub(super) struct Connection {
    device: OwnedFd,
    /// What a worker leaves to the next one. The keeper never looks at it: it comes from Odoo.
    memory: OwnedFd,
    /// How the worker that served it last has ended.
    pub after: Ended,
    /// The directory that lies below.
    underlying: Mountpoint,
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
        let underlying = Mountpoint::take(mountpoint)?;
        let memory = handoff::create()
            .map_err(|e| Failure::internal("make memory that outlives a worker", e))?;
        Ok(Self { device, memory, after: Ended::default(), underlying, made: None })
    }

    /// The one that was served before: by the program that has executed this one in its place, or by a keeper that has
    /// died and had stored it with the service manager. `None` if there is none, or if its filesystem is not mounted
    /// there any more.
    pub(super) fn handed(mountpoint: &Path) -> Option<Self> {
        let [device, memory] =
            descriptor::handed(HANDED).or_else(|| service_manager::stored(HANDED))?;
        if !is_ours(mountpoint) || device::is_dead(device.as_fd()) {
            tracing::warn!("the mount that was handed over is not there any more");
            return None;
        }
        Self::resume(device, memory, mountpoint)
            .inspect_err(|error| tracing::error!(%error, "the mount that was handed over is lost"))
            .ok()
    }

    fn resume(device: OwnedFd, memory: OwnedFd, mountpoint: &Path) -> io::Result<Self> {
        let init = Init::parse(&handoff::noted_init(&memory)?)?;
        let underlying = Mountpoint::beneath(mountpoint)?;
        let made = Some(Made { init, filesystem: None });
        Ok(Self { device, memory, after: Ended::Planned, underlying, made })
    }

    /// Executes a program in the place of this one, and hands the connection to it. No worker may be left. Returns only
    /// if that fails.
    pub(super) fn execute(&self, program: &Path) -> io::Error {
        let [device, memory] = HANDED;
        descriptor::execute_with(
            program,
            &[(device, self.device.as_fd()), (memory, self.memory.as_fd())],
        )
    }

    /// Makes the filesystem, if it is not made yet, and has the kernel's first request.
    pub(super) fn make(&mut self, mountpoint: &Path) -> Result<(), Failure> {
        if self.made.is_some() {
            return Ok(());
        }
        let filesystem = Filesystem::make(self.device.as_fd())
            .map_err(|errno| mount::refused(mountpoint, errno))?;
        let init = device::read_within(self.device.as_fd(), READ_BYTES, INIT_WITHIN)
            .and_then(|bytes| Init::parse(&bytes))
            .map_err(|e| Failure::internal("read the kernel's first request", e))?;
        handoff::note_init(&self.memory, init.bytes())
            .map_err(|e| Failure::internal("note the kernel's first request", e))?;
        self.made = Some(Made { init, filesystem: Some(filesystem) });
        Ok(())
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
            None => Root::At(self.underlying.path()),
        })
    }

    /// Whether its filesystem has been put in its place.
    pub(super) fn is_in_place(&self) -> bool {
        self.made.as_ref().is_some_and(|made| made.filesystem.is_none())
    }

    /// Whether the kernel has ended it, and every call to its filesystem fails: `umount -f`, the file `abort` in
    /// `/sys/fs/fuse/connections`, or a limit of the kernel (`fs.fuse.max_request_timeout`).
    pub(super) fn is_aborted(&self) -> bool {
        self.is_in_place() && device::is_dead(self.device.as_fd())
    }

    /// Puts its filesystem on the bare mountpoint.
    pub(super) fn put(&mut self) -> Result<(), Failure> {
        let Some(filesystem) = self.made.as_mut().and_then(|made| made.filesystem.take()) else {
            return Ok(());
        };
        // Looked at once more. `filesystem` ends here: held, it would be in use, and 'umount' would say so.
        let place = Mountpoint::take(self.underlying.path())?;
        place.put(&filesystem)?;
        self.underlying = place;
        self.store();
        Ok(())
    }

    /// Stores it with the service manager, so that it outlives this process.
    fn store(&self) {
        let [device, memory] = HANDED;
        service_manager::store(&[(device, self.device.as_fd()), (memory, self.memory.as_fd())]);
    }

    /// It is about to end for good: the service manager lets go of it.
    pub(super) fn end(self) {
        service_manager::forget(&HANDED);
        drop(self);
    }

    /// The directory that lies below.
    pub(super) fn underlying(&self) -> &Mountpoint {
        &self.underlying
    }

    /// What a worker is handed, with the flags that name it.
    pub(super) fn descriptors(&self) -> [(&'static str, BorrowedFd<'_>); 2] {
        [("--fuse-fd", self.device.as_fd()), ("--memory-fd", self.memory.as_fd())]
    }
}
