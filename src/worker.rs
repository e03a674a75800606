//! The worker: the unprivileged process that serves. This file puts its parts together.
//!
//! - [`first_contact`]: is it Redis, and may we do all that we shall have to do
//! - [`secrets`]: what contents are sealed with, asked of the keeper
//! - [`orders`]: what the keeper asks of it while it serves
//! - [`files`]: the files that it may open
//! - [`disks`]: the processes that touch session files on disks for it
//! - [`watch`]: ends it when a thread is stuck
//! - [`panic`]: ends it when a thread panics

mod disks;
pub(crate) mod files;
pub(crate) mod first_contact;
mod memory;
mod orders;
mod panic;
mod secrets;
mod settings;
mod watch;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::config::Config;
use crate::control::{Sockets, StatusService};
use crate::disk::client::Disk;
use crate::exit::{ExitCode, Failure};
use crate::fs::{self, Core};
use crate::fuse::Connection;
use crate::handoff::Kept;
use crate::host::confine;
use crate::host::open_files::OpenFiles;
use crate::host::signals;
use crate::layers::import_on_access::ImportOnAccess;
use crate::layers::near_cache::NearCache;
use crate::layers::single_flight::SingleFlight;
use crate::layers::spool::Spool;
use crate::parameters::follow::{self, Shared};
use crate::redis::{self, RedisStore};
use crate::session::secret::Keyring;
use crate::store::{Changes, Observer, Usage};
use crate::supervision::{Channel, Handover, RedisState, Report};
use disks::Disks;
use first_contact::Contact;
use orders::Ending;

/// Sessions in Redis, and what is known of them here.
type Cached = NearCache<RedisStore>;

/// What the keeper hands to a worker.
pub(crate) struct Descriptors {
    /// The conversation with the keeper.
    pub status: OwnedFd,
    /// The configuration is read from here.
    pub config: OwnedFd,
    /// The kernel's requests.
    pub fuse: OwnedFd,
    /// What a worker leaves to the next one. An older keeper does not give it.
    pub memory: Option<OwnedFd>,
    /// Credentials are asked for here. An older keeper has none to give.
    pub credentials: Option<OwnedFd>,
    /// The directory of this host's processes, as root sees it. An older keeper does not give it.
    pub processes: Option<OwnedFd>,
    /// What is known of the requests that threads serve. An older keeper does not give it, nor one that knows nothing.
    pub requests: Option<OwnedFd>,
    /// Root asks here for the status.
    pub control: Option<OwnedFd>,
    /// Prometheus asks here.
    pub metrics: Option<OwnedFd>,
    /// Odoo's system parameters are reported here.
    pub parameters: Option<OwnedFd>,
    /// The audit trail is written here.
    pub trail: Option<OwnedFd>,
    /// Odoo's user lists and ends sessions here.
    pub odoo: Option<OwnedFd>,
    /// The disk server of the underlying directory.
    pub underlying: Option<OwnedFd>,
    /// The disk server of the mirror.
    pub mirror: Option<OwnedFd>,
}

/// Serves until the mount is taken away.
pub(crate) fn run(descriptors: Descriptors) -> Result<(), Failure> {
    let channel = Arc::new(Channel::new(descriptors.status));
    let sockets = Sockets {
        control: descriptors.control,
        metrics: descriptors.metrics,
        odoo: descriptors.odoo,
    };
    let disks = Disks { underlying: descriptors.underlying, mirror: descriptors.mirror };
    let handed = Handed {
        config: descriptors.config,
        fuse: descriptors.fuse,
        memory: descriptors.memory,
        credentials: descriptors.credentials,
        processes: descriptors.processes,
        requests: descriptors.requests,
        parameters: descriptors.parameters,
        trail: descriptors.trail,
        sockets,
        disks,
    };
    let Err(failure) = serve(&channel, handed) else {
        return Ok(());
    };
    match channel.send(&Report::Failed(failure.clone())) {
        // The keeper reports it, once.
        Ok(()) => std::process::exit(u8::from(failure.code).into()),
        Err(_) => Err(failure),
    }
}

/// The descriptors by what they are for, without the conversation with the keeper.
struct Handed {
    config: OwnedFd,
    fuse: OwnedFd,
    memory: Option<OwnedFd>,
    credentials: Option<OwnedFd>,
    processes: Option<OwnedFd>,
    requests: Option<OwnedFd>,
    parameters: Option<OwnedFd>,
    trail: Option<OwnedFd>,
    sockets: Sockets,
    disks: Disks,
}

fn serve(channel: &Arc<Channel>, handed: Handed) -> Result<(), Failure> {
    let Handed { config, fuse, memory, credentials, processes, requests, disks, .. } = handed;
    let Handover { keeper, mut config, secrets, first, may_lack_redis, worker, keeper_info } =
        read_handover(config)?;
    let missing = confine::become_worker(&config.worker.account(), || {
        files::of_worker(&config, processes.as_ref().map(AsFd::as_fd))
    })?;
    // Who ends a whole service sends its signal to all at once; the keeper ends us in order.
    signals::block()?;
    crate::telemetry::log::init(&config.log)?;
    panic::end_process();
    let open_files = OpenFiles::raise();
    tell_version(&keeper);
    missing.tell();
    confine::check_directory(&config.staging_dir, &config.worker.account())?;
    leave_room(&mut config);

    let runtime = runtime()?;
    runtime.spawn(tell_repeated());
    let (below, mirror) = disks.open(channel, &config, first, &runtime)?;
    let mut store_settings = settings::store(&config, credentials)?;
    let keyring = secrets::keyring(channel, &config, &store_settings, secrets, &runtime)?;
    store_settings.keyring = Some(keyring.clone());
    let contact = first
        .then(|| runtime.block_on(first_contact::wait(&config, &store_settings, may_lack_redis)))
        .transpose()?;
    let store = open_store(store_settings, &config, contact, handed.trail, &runtime)?;
    let (mirror, writer) = mirror
        .map(|disk| disks::keep_mirror(disk, &store, &keyring, &runtime, first))
        .transpose()?
        .unzip();
    let cached = near_cache(&store, &config);
    let spool = spool(&store, cached.clone(), &config, &keyring)?;
    let sessions =
        ImportOnAccess::over(spool.clone(), Duration::from_millis(config.import.max_age_ms));
    import(below, &sessions, &store, &keyring, &runtime, first)?;
    if contact == Some(Contact::Late) {
        send(channel, &Report::Redis(RedisState::Down))?;
    }
    send(channel, &Report::RedisReady)?;
    let served = orders::await_connection(channel, memory)?;
    let has_recovered = watch::start(&runtime, &config.worker)?;
    // Not before: until then another worker may be serving.
    let former = served.as_ref().map(|served| served.kept.clone());
    let kept = former.unwrap_or_default().of_store(&store.name());
    take_up(&kept, &spool, &sessions, &store, &runtime);
    let settings = fs::Settings {
        observer: mirror.map(|notes| Arc::new(notes) as Arc<dyn Observer>),
        worker,
        kept,
        max_open_staging_files: open_files.for_callers(),
        requests: settings::requests(requests),
        ..settings::core(&config, processes)
    };
    let shared = SingleFlight::over(sessions.clone());
    let core = Core::new(shared, store.clone(), keyring.clone(), &settings)
        .map_err(|e| unusable_staging(&config, &e))?;
    store.tell_changes(Arc::clone(&core) as Arc<dyn Changes>);
    // They are carried out by tasks.
    runtime.block_on(async { core.take_up_removals() });
    let held = Arc::clone(&core);
    let tell_keeper = {
        let channel = Arc::clone(channel);
        // A keeper that does not listen now hears of the next change.
        move |state| drop(channel.send(&Report::Redis(state)))
    };
    let usage = usage(move || held.in_use(), cached, &runtime);
    let parameters = follow_parameters(handed.parameters, &config, &store, &runtime)?;
    let service = StatusService::start(
        config.clone(),
        store.clone(),
        keeper_info,
        handed.sockets,
        parameters,
        move || (usage(), spool.kept()),
        tell_keeper,
    )
    .map_err(|e| Failure::internal("serve the status", e))?;
    let ending = Ending { store, service, mirror: writer };
    ask_for_secrets(channel, &ending.store, &runtime);
    let on_mounted = {
        let core = Arc::clone(&core);
        move || core.mounted()
    };
    orders::listen(Arc::clone(channel), ending.clone(), sessions, keyring, on_mounted, &runtime)?;

    let recovered = Arc::clone(&core);
    let on_poison = || drop(channel.send(&Report::CauseFound));
    let on_serving = || {
        has_recovered.store(true, Ordering::Relaxed);
        recovered.recovered();
        // Without it the keeper gives this worker up, which is what should happen then.
        let _ = channel.send(&Report::Serving);
    };
    let connection = Connection { device: fuse, served };
    let served =
        crate::fuse::serve(&core, config.tree, connection, runtime.handle(), on_poison, on_serving);
    runtime.block_on(ending.drain());
    crate::telemetry::log::tell_all_repeated();
    served.map_err(|e| {
        Failure::new(
            ExitCode::WorkerFailed,
            format!("serving {}: {e}", config.mountpoint.display()),
        )
    })
}

/// The tmpfs of the staging directory is needed by the whole host.
fn leave_room(config: &mut Config) {
    for (key, bytes) in config.leave_room_on_tmpfs() {
        tracing::info!(key, bytes, "limited to a quarter of the tmpfs of the staging directory");
    }
}

/// Follows the lifetimes that Odoo's system parameters ask for.
fn follow_parameters(
    reported: Option<OwnedFd>,
    config: &Config,
    store: &RedisStore,
    runtime: &Runtime,
) -> Result<Option<Shared>, Failure> {
    let followed = reported.zip(config.odoo.parameters).map(|(socket, bounds)| {
        follow::start(socket, bounds, store.clone(), runtime.handle().clone())
    });
    followed.transpose().map_err(|e| Failure::internal("start threads", e))
}

/// Asks the keeper for secrets, as long as one is missing.
fn ask_for_secrets(channel: &Arc<Channel>, store: &RedisStore, runtime: &Runtime) {
    let asking = (Arc::clone(channel), store.clone());
    runtime.spawn(async move { secrets::ask(&asking.0, &asking.1).await });
}

/// Starts the store. A later worker serves without Redis, and so does one to which it is late: whoever
/// opens a session then waits, as in any outage.
fn open_store(
    settings: redis::Settings,
    config: &Config,
    contact: Option<Contact>,
    trail: Option<OwnedFd>,
    runtime: &Runtime,
) -> Result<RedisStore, Failure> {
    if contact == Some(Contact::Late) {
        runtime.spawn(first_contact::admit(settings.clone()));
    }
    let store = {
        // The store's tasks live on this runtime.
        let _entered = runtime.enter();
        let store = RedisStore::start(settings)
            .map_err(|e| Failure::new(ExitCode::BadUrl, e.to_string()))?;
        store.keep_room();
        store.keep_trail(settings::trail(config, trail));
        store
    };
    if contact == Some(Contact::Made) {
        runtime.block_on(connected(&store, config))?;
        runtime.block_on(agree(&store))?;
        store.forget_outages();
    }
    Ok(store)
}

/// Goes on with what the worker before has left to be done, by tasks.
fn take_up(
    kept: &Kept,
    spool: &Spool<Cached>,
    sessions: &ImportOnAccess<Spool<Cached>, RedisStore>,
    store: &RedisStore,
    runtime: &Runtime,
) {
    let _entered = runtime.enter();
    store.take_up(kept);
    spool.take_up(kept);
    sessions.take_up(kept);
}

/// What is held of sessions, in the near cache too. Memory that is free again goes back to the system.
fn usage(
    held: impl Fn() -> Usage + Clone + Send + Sync + 'static,
    cached: Cached,
    runtime: &Runtime,
) -> impl Fn() -> Usage + Send + Sync + 'static {
    let usage = move || {
        let held = held();
        Usage { memory_bytes: held.memory_bytes + cached.memory_bytes(), ..held }
    };
    let used = usage.clone();
    runtime.spawn(memory::give_back(move || used().memory_bytes));
    usage
}

/// Answers what is known here.
fn near_cache(store: &RedisStore, config: &Config) -> Cached {
    let judged = store.clone();
    let cached =
        NearCache::over(store.clone(), settings::near_cache(config), move || judged.rules());
    if let Some(changes) = cached.changes() {
        store.tell_changes(changes);
    }
    cached
}

/// Keeps what Redis does not take.
fn spool(
    store: &RedisStore,
    cached: Cached,
    config: &Config,
    keyring: &Keyring,
) -> Result<Spool<Cached>, Failure> {
    let followed = store.clone();
    let settings = settings::spool(config, keyring.clone());
    Spool::over(cached, settings, move || followed.rules())
        .map_err(|e| Failure::internal("start threads", e))
}

/// Imports the files of the underlying directory on access. A later worker does not wait for the disk.
fn import(
    disk: Option<Disk>,
    sessions: &ImportOnAccess<Spool<Cached>, RedisStore>,
    store: &RedisStore,
    keyring: &Keyring,
    runtime: &Runtime,
    first: bool,
) -> Result<(), Failure> {
    let Some(disk) = disk else {
        if !first {
            sessions.do_without();
        }
        return Ok(());
    };
    let (store, keyring) = (store.clone(), keyring.clone());
    if !first {
        sessions.go_on(disk, store, keyring);
        return Ok(());
    }
    runtime.block_on(sessions.begin(disk, store, keyring)).map_err(disks::cannot_list)
}

/// Waits until the link is there. The probe has just found Redis, so that is soon, but a busy machine
/// has the time that a start may take.
async fn connected(store: &RedisStore, config: &Config) -> Result<(), Failure> {
    const LEAST: Duration = Duration::from_secs(2);
    let bound = Duration::from_millis(config.redis.start_wait_ms).max(LEAST);
    if store.is_there_within(bound).await {
        return Ok(());
    }
    Err(unusable(store, &store.link_cause()))
}

/// Says with which secret Redis is written, if nobody has. Another server may be faster with another
/// secret, and then this one does not start.
async fn agree(store: &RedisStore) -> Result<(), Failure> {
    for _ in 0..2 {
        store.agree().await.map_err(|error| match store.missing_secret() {
            Some(_) => Failure::new(ExitCode::Secret, error.to_string()),
            None => unusable(store, &error.to_string()),
        })?;
    }
    Ok(())
}

fn unusable(store: &RedisStore, cause: &str) -> Failure {
    let place = store.address();
    Failure::new(ExitCode::RedisUnreachable, format!("Redis at {place} cannot be used: {cause}"))
}

fn unusable_staging(config: &Config, error: &std::io::Error) -> Failure {
    let path = config.staging_dir.display();
    Failure::new(
        ExitCode::WorkerRights,
        format!("staging directory {path}: {error}; let the worker's user own it"),
    )
}

fn read_handover(config: OwnedFd) -> Result<Handover, Failure> {
    const LENGTH_MAX_BYTES: u64 = 1 << 20;
    let mut text = Vec::new();
    File::from(config)
        .take(LENGTH_MAX_BYTES)
        .read_to_end(&mut text)
        .map_err(|e| Failure::internal("read the configuration", e))?;
    // A parser's error might repeat a part of what it read, and that holds a password.
    serde_json::from_slice(&text)
        .map_err(|_| Failure::internal("read the configuration", "it has an unexpected format"))
}

/// After a reload the keeper may be of an older version than its worker.
fn tell_version(keeper: &str) {
    let version = env!("CARGO_PKG_VERSION");
    if keeper == version {
        tracing::debug!(version, "worker and keeper have the same version");
    } else {
        tracing::warn!(version, keeper, "the keeper has another version until it is restarted");
    }
}

fn runtime() -> Result<Runtime, Failure> {
    // One thread carries all conversations with Redis: a second would only add a hand-over to
    // each answer.
    const THREADS: usize = 1;
    Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("store")
        .enable_all()
        .build()
        .map_err(|e| Failure::internal("start threads", e))
}

/// Never ends: counts of repeated lines are written also when nothing else is logged.
async fn tell_repeated() {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        crate::telemetry::log::tell_repeated();
    }
}

fn send(channel: &Channel, report: &Report) -> Result<(), Failure> {
    channel.send(report).map_err(|e| Failure::internal("report to the keeper", e))
}
