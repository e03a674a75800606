//! The adapter between the kernel and the core: decode, check permission, call, reply, count.
//!
//! - [`adapter`]: fuser's trait, one method a request
//! - [`answer`]: the one place that replies, logs and counts
//! - [`kernel`]: optional features of newer kernels
//! - [`handling`]: which threads are handling a request
//! - [`handshake`]: a session on a connection that may have been served before
//! - [`in_flight`]: requests that are not answered, as the next worker finds them
//! - [`pages`]: gives the kernel what was just saved
//! - [`recovery`]: answers what the worker before has not answered
//! - [`wire`]: the framing of requests and answers

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use fuser::{INodeNo, Notifier, Session, SessionACL};
use tokio::runtime::Handle;

use crate::fs::Core;
use crate::fs::inode::Eviction;
use crate::fs::poison::Subject;
use crate::handoff::{Ended, Kept};
use crate::host::directory::Ownership;
use crate::host::read_buffer::MAX_BUFFERS;
use crate::session::name::Alias;
use crate::store::{Link, Sessions};
use adapter::{Adapter, Origin};
use in_flight::InFlight;
use kernel::Offers;
use pages::Pages;
use recovery::{Device, Recovery};
use wire::Init;

mod adapter;
mod answer;
pub(crate) mod handling;
mod handshake;
mod in_flight;
pub(crate) mod kernel;
mod pages;
mod recovery;
pub(crate) mod wire;

/// Two threads read requests, so that a computation in one does not delay the other. More have no
/// effect (see `docs/performance.md`).
const SESSION_THREADS: usize = 2;
const _: () =
    assert!(SESSION_THREADS <= MAX_BUFFERS, "each thread needs a buffer that outlives it");
/// The most that one WRITE carries, in whole pages: what a request needs of its buffer is taken beforehand, and the
/// answer to a READ of that length fits into a socket.
const MAX_WRITE_BYTES: u32 = 128 * 1024;
/// No request that is waited for is longer: a WRITE of that length, or one with a few names.
const REQUEST_MAX_BYTES: usize = MAX_WRITE_BYTES as usize + 4096;
/// No answer is longer.
const ANSWER_MAX_BYTES: usize = MAX_WRITE_BYTES as usize + 4096;
/// A store that a new worker has not reached for so long is not there.
const STORE_WITHIN: Duration = Duration::from_millis(1500);
/// How often what nobody needs any more is looked for.
const EXPIRES_EVERY: Duration = Duration::from_secs(10);

/// Where the kernel asks.
pub(crate) struct Connection {
    pub device: OwnedFd,
    /// `None` of an older keeper: the first request is still to come, and nobody served before.
    pub served: Option<Served>,
}

/// What is known of a connection.
pub(crate) struct Served {
    /// The first request, as it was read.
    pub init: Init,
    /// How the worker before has ended.
    pub after: Ended,
    /// What it has left, and where this one's requests are recorded.
    pub kept: Kept,
}

/// Serves the kernel until the mount is gone. `runtime` runs what needs the store; `on_poison` is called when a request
/// is failed because workers died of it, `on_serving` when all that was not answered before is under way.
pub(crate) fn serve<S: Sessions, L: Link>(
    core: &Arc<Core<S, L>>,
    tree: Ownership,
    connection: Connection,
    runtime: &Handle,
    on_poison: impl Fn(),
    on_serving: impl FnOnce(),
) -> io::Result<()> {
    let Connection { device, served } = connection;
    let kept = served.as_ref().map_or_else(Kept::default, |served| served.kept.clone());
    let sends_again = served.as_ref().is_some_and(|served| served.init.has_resend())
        && Offers::from_environment().resend();
    // One for all threads.
    let in_flight = InFlight::new(kept.clone(), sends_again);
    let pages = Pages::default();
    let adapter = |origin| {
        let (in_flight, pages) = (in_flight.clone(), pages.clone());
        Adapter::new(Arc::clone(core), tree, runtime.clone(), in_flight, pages, origin)
    };
    let session = if let Some(served) = &served {
        let known = Known {
            alias: &|subject| core.session_of(subject),
            died_of: &|subject| {
                let _entered = runtime.enter();
                core.died_of(subject);
                on_poison();
            },
            await_store: &|| runtime.block_on(core.await_store(STORE_WITHIN)),
        };
        take_over(device.as_fd(), served, adapter, &known)?
    } else {
        let config = config(SESSION_THREADS);
        Session::from_fd(adapter(Origin::Kernel), device, SessionACL::All, config)?
    };
    if Offers::from_environment().notify_store() {
        pages.begin(session.notifier());
    }
    on_serving();
    if let Some(evictions) = core.take_evictions() {
        let notifier = session.notifier();
        std::thread::Builder::new()
            .name("evict".into())
            .spawn(move || evict(&notifier, &evictions))?;
    }
    let janitor = runtime.spawn(expire(Arc::clone(core)));
    let ended = session.run();
    janitor.abort();
    ended
}

/// What a recovery asks the core.
struct Known<'a> {
    /// The alias of the session that a request is about.
    alias: &'a dyn Fn(&Subject<'_>) -> Option<Alias>,
    /// A request fails, because workers died of it.
    died_of: &'a dyn Fn(&Subject<'_>),
    /// Waits until the store is there, or has not come in time.
    await_store: &'a dyn Fn(),
}

/// A session on a connection, on which all that was not answered before is under way, and what it reads is recorded.
fn take_over<F: fuser::Filesystem>(
    device: BorrowedFd<'_>,
    served: &Served,
    filesystem: impl Fn(Origin) -> F,
    known: &Known,
) -> io::Result<Session<F>> {
    let Served { init, after, kept } = served;
    let session =
        handshake::begin(filesystem(Origin::Kernel), device, init, config(SESSION_THREADS))?;
    let may_resend = Offers::from_environment().resend();
    let kernel = Device(Arc::new(device.try_clone_to_owned()?));
    let Known { alias, died_of, await_store } = known;
    let after = *after;
    let recovery = Recovery { kernel, init, kept, after, may_resend, alias, died_of, await_store };
    recovery.run(filesystem(Origin::Replay), config(1))?;
    if let Err(error) = kept.record(REQUEST_MAX_BYTES) {
        tracing::warn!(
            %error,
            "requests are not recorded: those under way when this worker dies are not answered"
        );
    }
    Ok(session)
}

fn config(threads: usize) -> fuser::Config {
    let mut config = fuser::Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(threads);
    // Cloned descriptors make the kernel fail requests when one of them is closed.
    config.clone_fd = false;
    config
}

/// Asks the kernel to forget entries. On a thread of its own: the kernel takes the directory's
/// lock for it, which the caller of a request under way may hold.
fn evict(notifier: &Notifier, evictions: &Receiver<Eviction>) {
    for Eviction { parent, name } in evictions {
        // ENOENT: it has been forgotten already. ENODEV: the mount is gone.
        let _ = notifier.inval_entry(INodeNo(parent.0), OsStr::new(&name));
    }
}

async fn expire<S: Sessions, L: Link>(core: Arc<Core<S, L>>) {
    let mut every = tokio::time::interval(EXPIRES_EVERY);
    loop {
        every.tick().await;
        core.expire();
    }
}
