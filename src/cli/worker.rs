//! `sessionfs worker`: not for people. Started by the keeper with its descriptors; does all the
//! work, with no right that an ordinary user lacks.

pub(super) mod first_contact;

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use tokio::runtime::{Builder, Runtime};

use crate::adopt::below::Adopting;
use crate::config::Config;
use crate::control::{Node, Sockets};
use crate::disk::client::{Disk, DiskError, SERVING_WITHIN};
use crate::exit::{ExitCode, Failure};
use crate::fs::store::{Store as _, Waited};
use crate::fs::{self, Core};
use crate::keeper::confine;
use crate::keeper::report::{Handover, Heard, Line, Order, Report};
use crate::keeper::signals;
use crate::mirror;
use crate::store::RedisStore;

/// How long what is collected may take to be written at the end.
const DRAIN_WITHIN: Duration = Duration::from_millis(1500);

/// The process that serves; started by `mount`
#[derive(clap::Args, Debug)]
#[expect(clippy::struct_field_names, reason = "they name the flags")]
pub struct Worker {
    /// The conversation with the keeper
    #[arg(long)]
    status_fd: RawFd,
    /// The configuration is read from here
    #[arg(long)]
    config_fd: RawFd,
    /// The kernel asks here
    #[arg(long)]
    fuse_fd: RawFd,
    /// Root asks here how things are
    #[arg(long)]
    control_fd: Option<RawFd>,
    /// Prometheus asks here
    #[arg(long)]
    metrics_fd: Option<RawFd>,
    /// Who touches the session files below the mount
    #[arg(long)]
    below_fd: Option<RawFd>,
    /// Who touches those of the mirror
    #[arg(long)]
    mirror_fd: Option<RawFd>,
}

impl Worker {
    /// Serves until the mount is taken away.
    pub fn run(&self) -> Result<(), Failure> {
        let [status, config, fuse] =
            [self.status_fd, self.config_fd, self.fuse_fd].map(take_descriptor);
        let [below, mirror] =
            [self.below_fd, self.mirror_fd].map(|fd| fd.map(take_descriptor).transpose());
        let line = Arc::new(Line::new(status?));
        let sockets = Sockets {
            control: self.control_fd.map(take_descriptor).transpose()?,
            metrics: self.metrics_fd.map(take_descriptor).transpose()?,
        };
        let disks = Disks { below: below?, mirror: mirror? };
        let Err(failure) = serve(&line, config?, fuse?, sockets, disks) else { return Ok(()) };
        match line.say(&Report::Failed(failure.clone())) {
            // The keeper tells it, once.
            Ok(()) => std::process::exit(u8::from(failure.code).into()),
            Err(_) => Err(failure),
        }
    }
}

/// Takes over a descriptor that was named on the command line.
pub(super) fn take_descriptor(raw: RawFd) -> Result<OwnedFd, Failure> {
    let by_hand =
        || Failure::new(ExitCode::Usage, "this command is started by 'sessionfs mount' only");
    if raw <= libc::STDERR_FILENO {
        return Err(by_hand());
    }
    // SAFETY: the number is only looked up; a closed one gives EBADF.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(raw) };
    // No further child is to inherit it.
    fcntl(borrowed, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).map_err(|_| by_hand())?;
    // SAFETY: it is open, was handed to this process for this purpose, and nothing else in it
    // knows the number: this is the first thing the process does.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// By which to ask the disk servers.
struct Disks {
    below: Option<OwnedFd>,
    mirror: Option<OwnedFd>,
}

fn serve(
    line: &Arc<Line>,
    config: OwnedFd,
    fuse: OwnedFd,
    sockets: Sockets,
    disks: Disks,
) -> Result<(), Failure> {
    let Handover { keeper, config, first, node } = read_handover(config)?;
    confine::become_worker(&config.worker)?;
    // Who ends a whole service sends its signal to all at once; the keeper ends us in order.
    signals::block()?;
    crate::telemetry::log::init(&config.log)?;
    tell_version(&keeper);
    confine::check_directory(&config.staging_dir, &config.worker)?;

    let runtime = runtime()?;
    runtime.spawn(tell_repeated());
    if first {
        runtime.block_on(first_contact::wait(&config))?;
    }
    let store = {
        // The store's tasks live on this runtime.
        let _entered = runtime.enter();
        RedisStore::start(config.store_settings())
            .map_err(|e| Failure::new(ExitCode::BadUrl, e.to_string()))?
    };
    // A later worker serves without Redis: whoever opens a session then waits, as in any outage.
    if first {
        connected(&store, &config, &runtime)?;
    }
    let [below, mirror] = [disks.below, disks.mirror]
        .map(|socket| socket.map(|socket| connect(line, socket, &runtime)).transpose());
    let (below, mirror) = (below?, mirror?);
    let mirror = match mirror.map(|disk| keep_mirror(disk, &store, &runtime)).transpose() {
        // A later worker serves without it, as without Redis.
        Err(failure) if !first => {
            tracing::error!(%failure, "the mirror is not written; once that is corrected, 'sessionfs reload'");
            None
        }
        kept => kept?,
    };
    let (mirror, writer) = mirror.unzip();
    let adopting = Adopting::over(store.clone());
    let settings = fs::Settings { mirror, ..config.core_settings() };
    let core = Core::new(adopting.clone(), &settings).map_err(|e| {
        let path = config.staging_dir.display();
        Failure::new(
            ExitCode::WorkerRights,
            format!("staging directory {path}: {e}; let the worker's user own it"),
        )
    })?;
    if let Some(disk) = below {
        runtime.block_on(adopting.begin(disk)).map_err(cannot_list)?;
    }
    say(line, &Report::RedisOk)?;
    await_go(line)?;
    let held = Arc::clone(&core);
    let tell_keeper = {
        let line = Arc::clone(line);
        // A keeper that does not listen now hears of the next change.
        move |standing| drop(line.say(&Report::Standing(standing)))
    };
    let in_use = move || held.in_use();
    let node = Node::start(config.clone(), store.clone(), node, sockets, in_use, tell_keeper)
        .map_err(|e| Failure::internal("tell of this node", e))?;
    let ending = Ending { store, node, mirror: writer };
    listen(Arc::clone(line), ending.clone(), adopting, &runtime)?;

    let on_init = {
        let line = Arc::clone(line);
        move || {
            // Without it the keeper gives this worker up, which is what should happen then.
            let _ = line.say(&Report::Serving);
        }
    };
    let served = crate::fuse::serve(&core, config.fuse_tree(), fuse, runtime.handle(), on_init);
    runtime.block_on(ending.drain());
    crate::telemetry::log::tell_all_repeated();
    served.map_err(|e| {
        Failure::new(
            ExitCode::WorkerFailed,
            format!("serving {}: {e}", config.mountpoint.display()),
        )
    })
}

/// Waits until the link is well; bounded by the outage's budget.
fn connected(store: &RedisStore, config: &Config, runtime: &Runtime) -> Result<(), Failure> {
    loop {
        match runtime.block_on(store.wait_well()) {
            Waited::Well => return Ok(()),
            Waited::StepOver => {}
            Waited::BudgetSpent => {
                let (place, cause) = (place(config), store.link_cause());
                return Err(Failure::new(
                    ExitCode::RedisUnreachable,
                    format!("Redis at {place} cannot be used: {cause}"),
                ));
            }
        }
    }
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
        .map_err(|_| Failure::internal("read the configuration", "it is not what was expected"))
}

/// After a reload the keeper may be of an older version than its worker.
fn tell_version(keeper: &str) {
    let version = env!("CARGO_PKG_VERSION");
    if keeper == version {
        tracing::debug!(version, "worker of the keeper's own version");
    } else {
        tracing::warn!(version, keeper, "the keeper is of another version, until it is restarted");
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

/// For ever: lines that were repeated are told of, also once nothing is logged any more.
async fn tell_repeated() {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        crate::telemetry::log::tell_repeated();
    }
}

/// Waits for the order to serve.
fn await_go(line: &Line) -> Result<(), Failure> {
    loop {
        match line.wait() {
            Heard::Message(Order::Go) => return Ok(()),
            Heard::Message(Order::Drain | Order::Succeeded | Order::InPlace) | Heard::Nothing => {}
            Heard::Gone => return Err(Failure::internal("serve", "the keeper is gone")),
        }
    }
}

/// Carries out the keeper's orders from now on, and ends with the keeper.
fn listen(
    line: Arc<Line>,
    ending: Ending,
    adopting: Adopting,
    runtime: &Runtime,
) -> Result<(), Failure> {
    let handle = runtime.handle().clone();
    let orders = move || {
        loop {
            match line.wait() {
                Heard::Message(Order::Drain) => {
                    handle.block_on(ending.drain());
                    if line.say(&Report::Drained).is_err() {
                        break;
                    }
                }
                Heard::Message(Order::Succeeded) => ending.node.succeeded(),
                Heard::Message(Order::InPlace) => {
                    ending.node.in_place();
                    let adopting = adopting.clone();
                    handle.spawn(async move { adopting.in_place().await });
                }
                Heard::Message(Order::Go) | Heard::Nothing => {}
                Heard::Gone => break,
            }
        }
        // The kernel has sent SIGKILL already, unless the keeper died before that was arranged.
        std::process::abort();
    };
    std::thread::Builder::new()
        .name("orders".into())
        .spawn(orders)
        .map(|_| ())
        .map_err(|e| Failure::internal("start threads", e))
}

/// What is written when an end is near.
#[derive(Clone)]
struct Ending {
    store: RedisStore,
    node: Arc<Node>,
    mirror: Option<mirror::Writer>,
}

impl Ending {
    async fn drain(&self) {
        let mirror = async {
            if let Some(mirror) = &self.mirror {
                mirror.settle(DRAIN_WITHIN).await;
            }
        };
        tokio::join!(self.store.drain(DRAIN_WITHIN), self.node.leave(), mirror);
    }
}

/// Speaks with a disk server. Its end is ours, too, since sessions would be missed without it; the
/// keeper starts both anew.
fn connect(line: &Arc<Line>, socket: OwnedFd, runtime: &Runtime) -> Result<Disk, Failure> {
    let _entered = runtime.enter();
    let line = Arc::clone(line);
    let on_gone = move || {
        let failure = Failure::internal("serve", DiskError::Gone);
        // The keeper sees the end, if it does not hear of it.
        let _ = line.say(&Report::Failed(failure));
        std::process::exit(u8::from(ExitCode::Internal).into());
    };
    Disk::connect(socket, SERVING_WITHIN, on_gone)
        .map_err(|e| Failure::internal("ask for session files", e))
}

fn cannot_list(error: DiskError) -> Failure {
    Failure::internal("list the session files of the underlying directory", error)
}

fn keep_mirror(
    disk: Disk,
    store: &RedisStore,
    runtime: &Runtime,
) -> Result<(fs::mirror::Mirror, mirror::Writer), Failure> {
    runtime
        .block_on(mirror::Writer::start(disk, store.clone()))
        .map_err(|e| Failure::new(ExitCode::MirrorRefused, format!("mirror: {e}")))
}

fn say(line: &Line, report: &Report) -> Result<(), Failure> {
    line.say(report).map_err(|e| Failure::internal("report to the keeper", e))
}

/// Says something at most every few seconds.
struct Reminder {
    next: Instant,
}

impl Reminder {
    const EVERY: Duration = Duration::from_secs(3);

    /// Says it for the first time now.
    fn new() -> Self {
        Self { next: Instant::now() }
    }

    /// Whether it is time to say it (again).
    fn is_due(&mut self) -> bool {
        let due = Instant::now() >= self.next;
        if due {
            self.next = Instant::now() + Self::EVERY;
        }
        due
    }
}

/// Reads nothing, but names what is configured, for messages.
fn place(config: &Config) -> &str {
    &config.redis.url
}
