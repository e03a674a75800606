//! The core of the filesystem: look-ups, reads, saves and listings. It runs without a kernel.
//!
//! Its one rule: **an inode is a version**. A save makes a new inode. Content, size and mtime of an
//! inode never change, so a read cannot be torn and the kernel may keep attributes. The files:
//! - [`inode`]: inode numbers and what they stand for
//! - [`thread`]: what is remembered of a calling thread (births it opened, failures); [`flat`]: what it
//!   does with flat names
//! - [`caller`]: which thread that is, of which process, and whether that is a background process
//! - [`grants`], [`serving`]: who may remove a session by its alias
//! - [`held`]: removals that wait here for the save that takes them back
//! - [`current`]: what a session is now
//! - [`stale`]: who was told to look a name up anew
//! - [`kept`]: what the kernel may still name when this worker has died
//! - [`poison`]: sessions that workers have died of
//! - [`staging`]: the files of saves under way, on this host's tmpfs
//! - [`large`], [`patience`]: contents that take long, and how long an `open` waits
//! - [`lookup`], [`open`], [`save`], [`unlink`], [`list`], [`attributes`]: the operations
//!
//! Where the sessions are kept is behind the port, [`crate::store`].

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::error::Result;
use crate::handoff::Kept;
use crate::request::word::Words;
use crate::session::name::Alias;
use crate::session::secret::Keyring;
use crate::sync::lock;

pub mod attributes;
pub mod caller;
mod current;
mod flat;
mod grants;
pub mod handle;
mod held;
pub mod inode;
mod kept;
mod large;
pub mod list;
pub mod lookup;
pub mod open;
mod patience;
pub mod poison;
pub(crate) mod save;
mod serving;
pub(crate) mod staging;
mod stale;
pub(crate) mod thread;
pub(crate) mod unlink;

use crate::store::{Changes, Link, Observer, Sessions, Usage, Wait};
use caller::{Callers, Proc, Processes};
use grants::Grants;
use handle::Handles;
use held::HeldRemovals;
use inode::{Eviction, Inodes};
use kept::KeptState;
use list::ListedAliases;
use patience::Patience;
use poison::Poisoned;
use serving::Serving;
use staging::Staging;
use stale::Stale;
use thread::Threads;

/// Bounds of the core, and what it works with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A directory of this mount alone, on a tmpfs.
    pub staging_dir: PathBuf,
    /// The largest content of one session; a write beyond it fails with `EFBIG`.
    pub max_session_bytes: u64,
    /// The largest content of a visitor's session; its save fails with `EFBIG`.
    pub max_anonymous_bytes: u64,
    /// All staging files together, each in whole pages; beyond it those that nobody has open go,
    /// and then a write fails with `ENOSPC`.
    pub max_staging_bytes: u64,
    /// The same for their number.
    pub max_staging_files: u64,
    /// How many staging files may be open at once: each takes a descriptor of the worker. Beyond it
    /// `EMFILE`.
    pub max_open_staging_files: usize,
    /// A staging file that nobody has had open for so long is removed.
    pub staging_orphan_ms: u64,
    /// Beyond this number the kernel is asked to forget inodes.
    pub max_inodes: usize,
    /// The same for what inodes take in memory: content is dropped then, too, and fetched again when it is opened.
    pub max_memory_bytes: usize,
    /// How long the kernel may keep the name of a session that is at hand. Whether it still stands for that version is
    /// asked at each `open`; `stat` may be so long behind a change that the kernel could not be told.
    pub name_valid_ms: u64,
    /// The longest single wait of an `open` for a large content.
    pub open_step_ms: u64,
    /// After so long an `open` fails, however often it was told to try again.
    pub open_budget_ms: u64,
    /// A process with one of these as its first argument is a background process.
    pub background_argv: Vec<String>,
    /// The same for the beginning of a process title.
    pub background_titles: Vec<String>,
    /// Receives the sessions that are opened, saved and found ended.
    pub observer: Option<Arc<dyn Observer>>,
    /// By which callers are identified.
    pub processes: Arc<dyn Processes>,
    /// What is known of the HTTP requests that callers serve; `None`: nothing.
    pub requests: Option<Arc<dyn Words>>,
    /// The number of this worker among those of its keeper: part of the inode numbers.
    pub worker: u64,
    /// What the worker before has left, and what this one leaves.
    pub kept: Kept,
}

impl Default for Settings {
    fn default() -> Self {
        const MEBIBYTE: u64 = 1024 * 1024;
        Self {
            staging_dir: PathBuf::from("/run/sessionfs"),
            max_session_bytes: 4 * MEBIBYTE,
            max_anonymous_bytes: MEBIBYTE,
            max_staging_bytes: 256 * MEBIBYTE,
            max_staging_files: 10_000,
            max_open_staging_files: 512,
            staging_orphan_ms: 60 * 1000,
            max_inodes: 1_000_000,
            max_memory_bytes: 256 * 1024 * 1024,
            name_valid_ms: 0,
            open_step_ms: 2000,
            open_budget_ms: 20_000,
            background_argv: vec!["gevent".into()],
            background_titles: vec!["odoo: WorkerCron".into()],
            observer: None,
            processes: Arc::new(Proc::default()),
            requests: None,
            worker: 0,
            kept: Kept::default(),
        }
    }
}

/// A future that the runtime of the store runs to its end. It is never dropped half-way.
pub type Work<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// The answer to an operation, or the work that leads to it. What local state can answer stays on
/// the thread that read the request: a change of threads costs more than the answer.
pub enum Step<T> {
    /// Answered from local state.
    Done(Result<T>),
    /// Needs the store.
    Later(Work<T>),
}

impl<T> Step<T> {
    fn later(work: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Self::Later(Box::pin(work))
    }
}

impl<T> From<Result<T>> for Step<T> {
    fn from(result: Result<T>) -> Self {
        Step::Done(result)
    }
}

pub struct Core<S, L> {
    sessions: S,
    link: L,
    keyring: Keyring,
    // std's Mutex, and not tokio's: nothing is awaited while one is held.
    inodes: Mutex<Inodes>,
    threads: Mutex<Threads>,
    grants: Mutex<Grants>,
    held_removals: Mutex<HeldRemovals>,
    serving: Mutex<Serving>,
    stale: Mutex<Stale>,
    handles: Mutex<Handles>,
    kept: KeptState,
    listed_aliases: Mutex<ListedAliases>,
    callers: Callers,
    patience: Mutex<Patience>,
    poisoned: Mutex<Poisoned>,
    name_valid: Duration,
    open_step: Duration,
    open_budget: Duration,
    max_anonymous_bytes: u64,
    /// Held while a large content is decrypted.
    opening: tokio::sync::Mutex<()>,
    staging: Arc<Staging>,
    observer: Option<Arc<dyn Observer>>,
    evictions: Mutex<Option<Receiver<Eviction>>>,
}

impl<S: Sessions, L: Link> Core<S, L> {
    /// A core over `sessions`, which are reached by `link` and sealed with `keyring`. Fails if the
    /// staging directory cannot be used.
    pub fn new(
        sessions: S,
        link: L,
        keyring: Keyring,
        settings: &Settings,
    ) -> std::io::Result<Arc<Self>> {
        let (sender, receiver) = sync_channel(MAX_PENDING_EVICTIONS);
        let kept = KeptState::new(settings.kept.clone());
        let processes = &settings.processes;
        let of_listings = settings.max_memory_bytes / LISTINGS_SHARE;
        let poisoned = Poisoned::new(kept.clone(), processes.now(), processes.now_ticks());
        let core = Arc::new(Self {
            evictions: Mutex::new(Some(receiver)),
            staging: Staging::open(settings)?,
            observer: settings.observer.clone(),
            callers: Callers::new(settings),
            patience: Mutex::new(Patience::new(Duration::from_millis(settings.open_budget_ms))),
            name_valid: Duration::from_millis(settings.name_valid_ms),
            open_step: Duration::from_millis(settings.open_step_ms),
            open_budget: Duration::from_millis(settings.open_budget_ms),
            max_anonymous_bytes: settings.max_anonymous_bytes,
            opening: tokio::sync::Mutex::default(),
            inodes: Mutex::new(Inodes::new(settings, kept.clone(), sender)),
            threads: Mutex::new(Threads::new(kept.clone())),
            grants: Mutex::new(Grants::new(of_listings, kept.clone())),
            held_removals: Mutex::new(HeldRemovals::new(kept.clone())),
            serving: Mutex::default(),
            stale: Mutex::new(Stale::new(kept.clone(), processes.now())),
            poisoned: Mutex::new(poisoned),
            handles: Mutex::new(Handles::new(kept.clone())),
            kept,
            listed_aliases: Mutex::new(ListedAliases::new(of_listings)),
            sessions,
            link,
            keyring,
        });
        core.take_up_open_staging();
        core.take_up_listings();
        Ok(core)
    }

    /// The entries that the kernel should forget, so that the bound on inodes holds; to be sent to
    /// it from a thread that serves no request. Given out once.
    pub fn take_evictions(&self) -> Option<Receiver<Eviction>> {
        lock(&self.evictions).take()
    }

    /// The directory is mounted now: what callers do from now on is seen here.
    pub fn mounted(&self) {
        self.serving().mounted(self.callers.now_ticks());
    }

    /// Waits until the store can be read, at most so long.
    pub async fn await_store(&self, bound: Duration) {
        let wait = Wait { shard: None, writes: false, background: false };
        // Whether it can matters to nobody.
        let _ = tokio::time::timeout(bound, self.link.wait_up(wait)).await;
    }

    /// Drops what nobody needs any more: staging files that nobody has open and nobody will publish, and what listings have
    /// granted.
    pub fn expire(&self) {
        self.staging.expire_orphans();
        self.grants().drop_ended(self.callers.now());
        self.leave_to_listings();
        self.inodes().send_names_to_forget();
    }

    /// What the core holds now.
    pub fn in_use(&self) -> Usage {
        let (inodes, memory_bytes) = {
            let inodes = self.inodes();
            (inodes.count() as u64, inodes.memory_bytes() as u64)
        };
        let memory_bytes = memory_bytes + self.listings_bytes() as u64;
        Usage {
            inodes,
            memory_bytes,
            handles: self.handles().count() as u64,
            staging_files: self.staging.count(),
            staging_bytes: self.staging.total_bytes(),
        }
    }

    fn inodes(&self) -> MutexGuard<'_, Inodes> {
        lock(&self.inodes)
    }

    fn handles(&self) -> MutexGuard<'_, Handles> {
        lock(&self.handles)
    }

    fn listed_aliases(&self) -> MutexGuard<'_, ListedAliases> {
        lock(&self.listed_aliases)
    }

    fn grants(&self) -> MutexGuard<'_, Grants> {
        lock(&self.grants)
    }

    fn held_removals(&self) -> MutexGuard<'_, HeldRemovals> {
        lock(&self.held_removals)
    }

    fn serving(&self) -> MutexGuard<'_, Serving> {
        lock(&self.serving)
    }

    fn stale(&self) -> MutexGuard<'_, Stale> {
        lock(&self.stale)
    }

    fn poisoned(&self) -> MutexGuard<'_, Poisoned> {
        lock(&self.poisoned)
    }

    fn patience(&self) -> MutexGuard<'_, Patience> {
        lock(&self.patience)
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        lock(&self.threads)
    }
}

impl<S: Sessions, L: Link> Changes for Core<S, L> {
    fn changed(&self, alias: &Alias) {
        self.inodes().forget_name(alias);
    }

    /// Each `open` asks, and the kernel asks for names again after a while.
    fn all_changed(&self) {}
}

/// How long the kernel may keep what never changes: attributes of versions, and names of shards.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// What listings have shown, and what they grant, takes at most this share of the memory each.
const LISTINGS_SHARE: usize = 4;

/// How many entries may wait to be sent to the kernel.
const MAX_PENDING_EVICTIONS: usize = 1024;
