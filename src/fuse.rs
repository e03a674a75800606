//! The adapter between the kernel and the core: decode, check permission, call, reply, count.
//!
//! - [`adapter`]: fuser's trait, one method a request
//! - [`answer`]: the one place that replies, logs and counts
//! - [`kernel`]: optional features of newer kernels

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use fuser::{INodeNo, Notifier, Session, SessionACL};
use tokio::runtime::Handle;

use crate::fs::Core;
use crate::fs::inode::Eviction;
use crate::host::directory::Ownership;
use crate::store::{Link, Sessions};

mod adapter;
mod answer;
pub(crate) mod kernel;

/// Two threads read requests, so that a computation in one does not delay the other. More have no
/// effect (see `docs/performance.md`).
const SESSION_THREADS: usize = 2;
/// How often orphans among the staging files are removed.
const ORPHANS_EVERY: Duration = Duration::from_secs(10);

/// Serves the kernel on `fuse_fd` until the mount is gone. `runtime` runs what needs the store;
/// `on_init` is called when the kernel's first request is answered.
pub fn serve<S: Sessions, L: Link>(
    core: &Arc<Core<S, L>>,
    tree: Ownership,
    fuse_fd: OwnedFd,
    runtime: &Handle,
    on_init: impl FnOnce() + Send + Sync + 'static,
) -> io::Result<()> {
    let adapter = adapter::Adapter::new(Arc::clone(core), tree, runtime.clone(), Box::new(on_init));
    let mut config = fuser::Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(SESSION_THREADS);
    // Cloned descriptors make the kernel fail requests when one of them is closed.
    config.clone_fd = false;
    let session = Session::from_fd(adapter, fuse_fd, SessionACL::All, config)?;
    if let Some(evictions) = core.take_evictions() {
        let notifier = session.notifier();
        std::thread::Builder::new()
            .name("evict".into())
            .spawn(move || evict(&notifier, &evictions))?;
    }
    let janitor = runtime.spawn(expire_orphans(Arc::clone(core)));
    let ended = session.run();
    janitor.abort();
    ended
}

/// Asks the kernel to forget entries. On a thread of its own: the kernel takes the directory's
/// lock for it, which the caller of a request under way may hold.
fn evict(notifier: &Notifier, evictions: &Receiver<Eviction>) {
    for Eviction { parent, name } in evictions {
        // ENOENT: it has been forgotten already. ENODEV: the mount is gone.
        let _ = notifier.inval_entry(INodeNo(parent.0), OsStr::new(&name));
    }
}

async fn expire_orphans<S: Sessions, L: Link>(core: Arc<Core<S, L>>) {
    let mut every = tokio::time::interval(ORPHANS_EVERY);
    loop {
        every.tick().await;
        core.expire_staging();
    }
}
