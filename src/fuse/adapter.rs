//! fuser's trait, one method a request: decode, check permission, call the core, encode.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use super::Ownership;
use super::answer::{self, log_totals};
use super::handling::Handling;
use super::in_flight::InFlight;
use super::kernel::Offers;
use super::pages::Pages;
use super::wire::Unique;
use crate::error::{Error, Result};
use crate::fs::attributes::{Attributes, Change, Entry, Kind, from_ns};
use crate::fs::caller::Caller;
use crate::fs::handle::HandleId;
use crate::fs::inode::InodeId;
use crate::fs::list::Snapshot;
use crate::fs::lookup::Found;
use crate::fs::open::{Mode, Opened};
use crate::fs::{self};
use crate::fs::{Core, Step};
use crate::store::{Link, Mtime, Sessions};
use crate::telemetry::request::Operation;

const GENERATION: Generation = Generation(0);
const BLOCK_BYTES: u32 = 4096;

/// The filesystem as fuser calls it.
pub(super) struct Adapter<S, L> {
    core: Arc<Core<S, L>>,
    tree: Ownership,
    /// Runs what needs the store.
    runtime: Handle,
    offers: Offers,
    in_flight: InFlight,
    pages: Pages,
    origin: Origin,
}

/// Where requests come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Origin {
    Kernel,
    /// From a worker that has died.
    Replay,
}

impl<S: Sessions, L: Link> Adapter<S, L> {
    /// Over `core`, for the owner of `tree`.
    pub(super) fn new(
        core: Arc<Core<S, L>>,
        tree: Ownership,
        runtime: Handle,
        in_flight: InFlight,
        pages: Pages,
        origin: Origin,
    ) -> Self {
        Self { core, tree, runtime, offers: Offers::from_environment(), in_flight, pages, origin }
    }

    /// A request that was read now.
    fn pending(&self, operation: Operation, request: &Request) -> answer::Request<'_> {
        answer::Request::now(operation, Unique(request.unique().0), &self.in_flight)
    }

    /// The one rule of permission: the tree's owner and root, nobody else.
    fn caller(&self, request: &Request) -> Result<Caller> {
        let unique = Unique(request.unique().0);
        let is_repeated = self.origin == Origin::Replay || unique.is_sent_again();
        let number = unique.of_request();
        let request_number = fs::caller::Request { number, is_repeated };
        let caller =
            Caller { tid: request.pid(), uid: request.uid(), request: Some(request_number) };
        if caller.uid == self.tree.owner_uid || caller.uid == 0 {
            return Ok(caller);
        }
        Err(Error::expected(
            libc::EACCES,
            format!("user {} is not the owner of the tree", caller.uid),
        ))
    }

    fn encoder(&self) -> Encoder {
        Encoder { tree: self.tree }
    }

    fn listing(
        &self,
        request: &Request,
        directory: INodeNo,
        handle: FileHandle,
        offset: u64,
    ) -> Step<Arc<Snapshot>> {
        let (directory, handle) = (InodeId(directory.0), HandleId(handle.0));
        match self.caller(request) {
            Ok(caller) => self.core.read_directory(caller, directory, handle, offset),
            Err(error) => Err(error).into(),
        }
    }

    fn inode_attributes(&self, request: &Request, inode: INodeNo) -> Step<Attributes> {
        match self.caller(request) {
            Ok(caller) => self.core.attributes(caller, InodeId(inode.0)),
            Err(error) => Err(error).into(),
        }
    }
}

/// Converts the types of the core to those of fuser.
#[derive(Clone, Copy)]
struct Encoder {
    tree: Ownership,
}

impl Encoder {
    fn attributes(self, attributes: &Attributes) -> FileAttr {
        let directory = attributes.kind == Kind::Directory;
        let mtime = from_ns(attributes.mtime_ns);
        let mode = attributes.mode.unwrap_or(self.tree.mode);
        FileAttr {
            ino: INodeNo(attributes.inode.0),
            size: attributes.size_bytes,
            // stat(2): in units of 512 bytes.
            blocks: attributes.size_bytes.div_ceil(512),
            atime: from_ns(attributes.atime_ns),
            mtime,
            ctime: mtime,
            crtime: mtime,
            kind: if directory { FileType::Directory } else { FileType::RegularFile },
            perm: u16::try_from(mode & 0o7777).unwrap_or(0),
            nlink: if directory { 2 } else { 1 },
            uid: self.tree.owner_uid,
            gid: self.tree.owner_gid,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        }
    }

    fn entry(self, reply: ReplyEntry, found: std::result::Result<Found, Errno>) {
        match found {
            Ok(Found::Entry(Entry { attributes, valid })) => reply.entry_with_ttls(
                &attributes.valid,
                &valid,
                &self.attributes(&attributes),
                GENERATION,
            ),
            Ok(Found::NeverFor(valid)) => {
                // Inode 0 is a name that does not exist, for that long (FUSE_LOOKUP).
                let mut attr = self.attributes(&Attributes::of_directory(InodeId(0)));
                attr.ino = INodeNo(0);
                reply.entry(&valid, &attr, GENERATION);
            }
            Err(errno) => reply.error(errno),
        }
    }
}

/// The kernel may keep the pages of an inode that stands for one version, and of no other.
fn caching(opened: Opened) -> FopenFlags {
    if opened.immutable { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::FOPEN_DIRECT_IO }
}

fn empty(reply: ReplyEmpty, result: std::result::Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn mtime(wanted: TimeOrNow) -> Mtime {
    match wanted {
        TimeOrNow::Now => Mtime::Now,
        TimeOrNow::SpecificTime(time) => {
            let ns = |distance: Duration| i64::try_from(distance.as_nanos()).unwrap_or(i64::MAX);
            Mtime::Ns(match time.duration_since(SystemTime::UNIX_EPOCH) {
                Ok(after) => ns(after),
                Err(before) => -ns(before.duration()),
            })
        }
    }
}

impl<S: Sessions, L: Link> Filesystem for Adapter<S, L> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.offers.ask(config);
        Ok(())
    }

    fn destroy(&mut self) {
        if self.origin == Origin::Kernel {
            log_totals();
        }
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let pending = self.pending(Operation::Lookup, request);
        let step = match self.caller(request) {
            Ok(caller) => self.core.lookup(caller, InodeId(parent.0), name),
            Err(error) => Err(error).into(),
        };
        let encoder = self.encoder();
        pending.answer(&self.runtime, step, move |found| encoder.entry(reply, found));
    }

    fn forget(&self, _: &Request, inode: INodeNo, count: u64) {
        let _handling = Handling::begin();
        self.core.forget(InodeId(inode.0), count);
    }

    fn getattr(&self, request: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let pending = self.pending(Operation::Getattr, request);
        let step = self.inode_attributes(request, inode);
        let encoder = self.encoder();
        pending.answer(&self.runtime, step, move |found| match found {
            Ok(found) => reply.attr(&found.valid, &encoder.attributes(&found)),
            Err(errno) => reply.error(errno),
        });
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        new_mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let pending = self.pending(Operation::Setattr, request);
        let change = Change { mode, size_bytes: size, mtime: new_mtime.map(mtime) };
        let same_owner = uid.is_none_or(|uid| uid == self.tree.owner_uid)
            && gid.is_none_or(|gid| gid == self.tree.owner_gid);
        let step = match self.caller(request) {
            Err(error) => Err(error).into(),
            Ok(_) if !same_owner => {
                Err(Error::expected(libc::EPERM, "all files have the same owner")).into()
            }
            Ok(caller) => {
                let handle = handle.map(|handle| HandleId(handle.0));
                self.core.set_attributes(caller, InodeId(inode.0), handle, change)
            }
        };
        let encoder = self.encoder();
        pending.answer(&self.runtime, step, move |result| match result {
            Ok(now) => reply.attr(&now.valid, &encoder.attributes(&now)),
            Err(errno) => reply.error(errno),
        });
    }

    fn mknod(
        &self,
        request: &Request,
        _: INodeNo,
        _: &OsStr,
        _: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let pending = self.pending(Operation::Mknod, request);
        let refused = self.caller(request).and_then(|_| {
            Err(Error::expected(libc::EPERM, "only the temp file of a save can be created"))
        });
        if let Err(errno) = pending.finish::<()>(refused) {
            reply.error(errno);
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let pending = self.pending(Operation::Mkdir, request);
        let made = self.caller(request).and_then(|_| self.core.mkdir(InodeId(parent.0), name));
        let encoder = self.encoder();
        encoder.entry(reply, pending.finish(made.map(Found::Entry)));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let pending = self.pending(Operation::Unlink, request);
        let step = match self.caller(request) {
            Ok(caller) => self.core.unlink(caller, InodeId(parent.0), name),
            Err(error) => Err(error).into(),
        };
        pending.answer(&self.runtime, step, move |result| empty(reply, result));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let pending = self.pending(Operation::Rmdir, request);
        let step = match self.caller(request) {
            Ok(_) => self.core.rmdir(InodeId(parent.0), name),
            Err(error) => Err(error).into(),
        };
        pending.answer(&self.runtime, step, move |result| empty(reply, result));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let pending = self.pending(Operation::Rename, request);
        let step = match self.caller(request) {
            Err(error) => Err(error).into(),
            Ok(_) if !flags.is_empty() => {
                Err(Error::expected(libc::EINVAL, "only a plain rename is supported")).into()
            }
            Ok(caller) => self.core.rename(
                caller,
                (InodeId(parent.0), name),
                (InodeId(new_parent.0), new_name),
            ),
        };
        let pages = self.pages.clone();
        pending.answer(&self.runtime, step, move |result| {
            if let Ok(Some(saved)) = &result {
                pages.give(saved);
            }
            empty(reply, result.map(drop));
        });
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let pending = self.pending(Operation::Open, request);
        let mode = Mode {
            write: flags.acc_mode() != OpenAccMode::O_RDONLY,
            truncate: flags.0 & libc::O_TRUNC != 0,
        };
        let step: Step<Opened> = match self.caller(request) {
            Ok(caller) => self.core.open(caller, InodeId(inode.0), mode),
            Err(error) => Err(error).into(),
        };
        let always = self.offers.open_flags();
        pending.answer(&self.runtime, step, move |result| match result {
            Ok(opened) => reply.opened(FileHandle(opened.handle.0), always | caching(opened)),
            Err(errno) => reply.error(errno),
        });
    }

    fn read(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let pending = self.pending(Operation::Read, request);
        let data =
            self.caller(request).and_then(|_| self.core.read(HandleId(handle.0), offset, size));
        match pending.finish(data) {
            Ok(data) => reply.data(&data),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let pending = self.pending(Operation::Write, request);
        let step = match self.caller(request) {
            Ok(caller) => self.core.write(caller, HandleId(handle.0), offset, data),
            Err(error) => Err(error).into(),
        };
        pending.answer(&self.runtime, step, move |result| match result {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(errno),
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        let _handling = Handling::begin();
        // Sent by kernels before 5.16 only. There is nothing to do: the rename publishes.
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let _handling = Handling::begin();
        // Comes with pid 0 and any user, so there is no permission to check.
        self.core.release(HandleId(handle.0));
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let _handling = Handling::begin();
        // A staging file lives on a tmpfs; what a save promises is promised by its rename.
        reply.ok();
    }

    fn opendir(&self, request: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let pending = self.pending(Operation::Opendir, request);
        let step = match self.caller(request) {
            Ok(caller) => self.core.open_directory(caller, InodeId(inode.0)),
            Err(error) => Err(error).into(),
        };
        pending.answer(&self.runtime, step, move |result| match result {
            Ok(handle) => reply.opened(FileHandle(handle.0), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        });
    }

    fn readdir(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let pending = self.pending(Operation::Readdir, request);
        let step = self.listing(request, inode, handle, offset);
        pending.answer(&self.runtime, step, move |snapshot| match snapshot {
            Ok(snapshot) => {
                for (next, name, item) in snapshot.rest(offset) {
                    let (ino, kind) = match item {
                        None => (inode.0, FileType::Directory),
                        Some(item) if item.is_directory() => (item.inode(), FileType::Directory),
                        Some(item) => (item.inode(), FileType::RegularFile),
                    };
                    if reply.add(INodeNo(ino), next, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let pending = self.pending(Operation::Readdirplus, request);
        let step = self.listing(request, inode, handle, offset);
        let (core, encoder) = (Arc::clone(&self.core), self.encoder());
        pending.answer(&self.runtime, step, move |snapshot| {
            let snapshot = match snapshot {
                Ok(snapshot) => snapshot,
                Err(errno) => return reply.error(errno),
            };
            for (next, name, item) in snapshot.rest(offset) {
                let entry = match item {
                    // The kernel takes no reference on the dots.
                    None => Some(dot(InodeId(inode.0))),
                    Some(item) => core.enter_listed(item),
                };
                let Some(entry) = entry else { continue };
                let attr = encoder.attributes(&entry.attributes);
                if reply.add(attr.ino, next, name, &entry.valid, &attr, GENERATION) {
                    if item.is_some() {
                        core.forget(entry.attributes.inode, 1);
                    }
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _handling = Handling::begin();
        self.core.release(HandleId(handle.0));
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let _handling = Handling::begin();
        reply.ok();
    }

    fn statfs(&self, request: &Request, _: INodeNo, reply: ReplyStatfs) {
        // Redis alone knows what is free. A program that calls statfs wants to know that there is
        // room, so the numbers are large and constant.
        const BLOCKS: u64 = 1 << 28;
        const FILES: u64 = 1 << 32;
        const NAME_BYTES: u32 = 255;
        let pending = self.pending(Operation::Statfs, request);
        pending.answered();
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, FILES, FILES, BLOCK_BYTES, NAME_BYTES, BLOCK_BYTES);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        let _handling = Handling::begin();
        // The kernel does not ask again after ENOSYS.
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        let _handling = Handling::begin();
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, request: &Request, inode: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let pending = self.pending(Operation::Access, request);
        let step = self.inode_attributes(request, inode);
        pending.answer(&self.runtime, step, move |found| match found {
            // A session cannot be executed.
            Ok(found) if mask.contains(AccessFlags::X_OK) && found.kind == Kind::File => {
                reply.error(Errno::EACCES);
            }
            Ok(_) => reply.ok(),
            Err(errno) => reply.error(errno),
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let pending = self.pending(Operation::Create, request);
        let created = self.caller(request).and_then(|caller| {
            let exclusive = flags & libc::O_EXCL != 0;
            self.core.create(caller, InodeId(parent.0), name, mode & !umask, exclusive)
        });
        match pending.finish(created) {
            Ok((entry, opened)) => reply.created(
                &entry.valid,
                &self.encoder().attributes(&entry.attributes),
                GENERATION,
                FileHandle(opened.handle.0),
                self.offers.open_flags(),
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        let _handling = Handling::begin();
        // Python checks of each file that it opens whether it is a terminal.
        reply.error(Errno::ENOTTY);
    }
}

fn dot(inode: InodeId) -> Entry {
    Entry { attributes: Attributes::of_directory(inode), valid: Duration::ZERO }
}
