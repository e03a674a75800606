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

use crate::config::Config;
use crate::control::{Node, Sockets};
use crate::exit::{ExitCode, Failure};
use crate::fs::Core;
use crate::fs::store::{Store as _, Waited};
use crate::keeper::confine;
use crate::keeper::report::{Handover, Heard, Line, Order, Report};
use crate::keeper::signals;
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
}

impl Worker {
    /// Serves until the mount is taken away.
    pub fn run(&self) -> Result<(), Failure> {
        let [status, config, fuse] =
            [self.status_fd, self.config_fd, self.fuse_fd].map(take_descriptor);
        let line = Arc::new(Line::new(status?));
        let sockets = Sockets {
            control: self.control_fd.map(take_descriptor).transpose()?,
            metrics: self.metrics_fd.map(take_descriptor).transpose()?,
        };
        let Err(failure) = serve(&line, config?, fuse?, sockets) else { return Ok(()) };
        match line.say(&Report::Failed(failure.clone())) {
            // The keeper tells it, once.
            Ok(()) => std::process::exit(u8::from(failure.code).into()),
            Err(_) => Err(failure),
        }
    }
}

/// Takes over a descriptor that was named on the command line.
fn take_descriptor(raw: RawFd) -> Result<OwnedFd, Failure> {
    let by_hand = || Failure::new(ExitCode::Usage, "'worker' is started by 'sessionfs mount' only");
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

fn serve(
    line: &Arc<Line>,
    config: OwnedFd,
    fuse: OwnedFd,
    sockets: Sockets,
) -> Result<(), Failure> {
    let Handover { keeper, config, first, node } = read_handover(config)?;
    confine::become_worker(&config.worker)?;
    // Who ends a whole service sends its signal to all at once; the keeper ends us in order.
    signals::block()?;
    crate::telemetry::log::init(&config.log)?;
    tell_version(&keeper);
    confine::check_directory(&config.staging_dir, &config.worker)?;

    let runtime = runtime()?;
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
    let core = Core::new(store.clone(), &config.core_settings()).map_err(|e| {
        let path = config.staging_dir.display();
        Failure::new(
            ExitCode::WorkerRights,
            format!("staging directory {path}: {e}; let the worker's user own it"),
        )
    })?;
    say(line, &Report::RedisOk)?;
    await_go(line)?;
    let held = Arc::clone(&core);
    let node = Node::start(config.clone(), store.clone(), node, sockets, move || held.in_use())
        .map_err(|e| Failure::internal("tell of this node", e))?;
    listen(Arc::clone(line), store.clone(), Arc::clone(&node), &runtime)?;

    let on_init = {
        let line = Arc::clone(line);
        move || {
            // Without it the keeper gives this worker up, which is what should happen then.
            let _ = line.say(&Report::Serving);
        }
    };
    let served = crate::fuse::serve(&core, config.fuse_tree(), fuse, runtime.handle(), on_init);
    runtime.block_on(drain(&store, &node));
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
        tracing::info!(version, "worker of the keeper's own version");
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

/// Waits for the order to serve.
fn await_go(line: &Line) -> Result<(), Failure> {
    loop {
        match line.wait() {
            Heard::Message(Order::Go) => return Ok(()),
            Heard::Message(Order::Drain | Order::Succeeded) | Heard::Nothing => {}
            Heard::Gone => return Err(Failure::internal("serve", "the keeper is gone")),
        }
    }
}

/// Carries out the keeper's orders from now on, and ends with the keeper.
fn listen(
    line: Arc<Line>,
    store: RedisStore,
    node: Arc<Node>,
    runtime: &Runtime,
) -> Result<(), Failure> {
    let handle = runtime.handle().clone();
    let orders = move || {
        loop {
            match line.wait() {
                Heard::Message(Order::Drain) => {
                    handle.block_on(drain(&store, &node));
                    if line.say(&Report::Drained).is_err() {
                        break;
                    }
                }
                Heard::Message(Order::Succeeded) => node.succeeded(),
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

async fn drain(store: &RedisStore, node: &Node) {
    tokio::join!(store.drain(DRAIN_WITHIN), node.leave());
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
