//! Stand-in for the adapter, behind the signature that the worker calls: a root directory.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, INodeNo, KernelConfig, ReplyAttr, Request,
    Session, SessionACL,
};
use tokio::runtime::Handle;

use crate::config::Config;
use crate::store::RedisStore;

struct Root<F> {
    attr: FileAttr,
    on_init: Option<F>,
}

impl<F: FnOnce() + Send + Sync + 'static> Filesystem for Root<F> {
    fn init(&mut self, _: &Request, _: &mut KernelConfig) -> io::Result<()> {
        if let Some(on_init) = self.on_init.take() {
            on_init();
        }
        Ok(())
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if ino == INodeNo::ROOT {
            reply.attr(&Duration::from_secs(1), &self.attr);
        } else {
            reply.error(Errno::ENOENT);
        }
    }
}

/// Serves the kernel on this descriptor until the mount is gone; `on_init` is called once the
/// kernel's INIT is being answered.
pub fn serve(
    config: &Config,
    fuse_fd: OwnedFd,
    _store: RedisStore,
    _runtime: &Handle,
    on_init: impl FnOnce() + Send + Sync + 'static,
) -> io::Result<()> {
    let now = SystemTime::now();
    let attr = FileAttr {
        ino: INodeNo::ROOT,
        size: 0,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        kind: FileType::Directory,
        perm: u16::try_from(config.tree.mode).unwrap_or(0o700),
        nlink: 2,
        uid: config.tree.owner_uid,
        gid: config.tree.owner_gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    };
    let mut settings = fuser::Config::default();
    settings.acl = SessionACL::All;
    settings.n_threads = Some(2);
    let root = Root { attr, on_init: Some(on_init) };
    Session::from_fd(root, fuse_fd, SessionACL::All, settings)?.run()
}
