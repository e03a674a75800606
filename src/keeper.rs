//! The keeper: the small privileged process that owns the mount.
//!
//! It opens the device, starts the private Redis where no other is named, starts the worker,
//! mounts, and replaces whichever of the two dies. It parses nothing that comes from Odoo or from
//! Redis. One loop looks at both after every event; one thread, because the worker's
//! `PR_SET_PDEATHSIG` follows the thread that started it.

mod backoff;
mod by_hand;
mod connection;
mod disks;
mod listen;
mod mirror;
pub(crate) mod mount;
pub(crate) mod private_redis;
mod program;
mod pulse;
pub(crate) mod reload;
pub(crate) mod restart;
mod running;
mod secrets;
pub(crate) mod spool;
mod stability;
pub(crate) mod staging;
mod start;
pub(crate) mod underlying;
mod worker;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;

use crate::config::flags::Flags;
use crate::config::paths::{RUNTIME_DIR, lock_file};
use crate::config::{self, Config};
use crate::exit::{ExitCode, Failure};
use crate::host::directory::make_own;
use crate::host::lock::{self, Claim};
use crate::host::mount as host_mount;
use crate::host::prober::Prober;
use crate::host::process::{self, PATIENCE, Process};
use crate::host::service_manager::{self, Manager};
use crate::host::signals::Signals;
use by_hand::ByHand;
pub use by_hand::Caller;
use connection::Connection;
use listen::Listeners;
use private_redis::PrivateRedis;
use program::Program;
use reload::Outcomes;
use running::{Contact, StatusContext};
use worker::{Outcome, WorkerSupervisor};

/// Mounts and serves until a signal asks for the end. Without a directory the configuration names
/// one.
pub fn mount(dir: Option<&Path>, flags: &Flags, caller: Caller) -> Result<(), Failure> {
    Failure::unless_root("mounting needs root; run it with sudo or as a system service")?;
    let command_line = CommandLine { dir: dir.map(Path::to_owned), flags: flags.clone() };
    let config = command_line.resolve()?;
    crate::telemetry::log::init(&config.log)?;
    let mut signals = Signals::receive()?;
    let _lock = claim(&config.mountpoint)?;
    let handed = Connection::handed(&config.mountpoint);
    let is_resumed = handed.is_some();
    let outcomes = if is_resumed {
        Outcomes::resumed(&config.mountpoint)
    } else {
        mount::clear_dead(&config.mountpoint, &mut Prober::default(), &mut signals)?;
        // Looked at before anything is started, and again at each mount.
        drop(mount::Mountpoint::take(&config.mountpoint)?);
        drop(mount::open_device()?);
        Outcomes::new(&config.mountpoint)
    };

    let redis = PrivateRedis::new(&config)?;
    let status = StatusContext::new(Listeners::open(&config)?);
    // Who started it has been told already.
    let by_hand = ByHand::look(caller, &config, flags).filter(|_| !is_resumed);
    // Whoever starts it by hand waits for the outcome.
    let contact = if Manager::is_there() { Contact::Awaited } else { Contact::Required };
    let mut worker = WorkerSupervisor::new(config.clone(), Program::own()?, status, contact);
    if let Some(connection) = handed {
        tracing::info!("going on with the mount of the program before");
        worker.resume(connection);
    }
    let manager = Manager::from_environment();
    let mut keeper = Keeper {
        command_line,
        config,
        redis,
        worker,
        manager,
        by_hand,
        outcomes,
        is_renewal: is_resumed,
        next: None,
        last_reload_error: None,
    };
    let outcome = keeper.serve(&mut signals);
    if outcome.is_ok() && keeper.is_restarted() {
        keeper.pause(&mut signals);
        return Ok(());
    }
    let ended = keeper.end(&mut signals);
    outcome.and(ended)
}

/// What a mount would meet in its directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outlook {
    /// The directory's one true name.
    pub mountpoint: PathBuf,
    /// How many session files are in it.
    pub sessions: u64,
    /// Why they cannot be moved, and so are not imported.
    pub unmovable: Option<String>,
}

/// Looks at the directory as a mount does before it changes anything, and refuses what that refuses.
pub fn look(dir: Option<&Path>, flags: &Flags) -> Result<Outlook, Failure> {
    let dir = config::mountpoint(dir, flags.place.config.as_deref())?;
    let mountpoint = mount::resolve_trusted(&dir)?;
    mount::refuse_mounted(&mountpoint)?;
    let directory = mount::Mountpoint::take(&mountpoint)?;
    let sessions = directory
        .count_sessions()
        .map_err(|e| Failure::internal(format!("list {}", mountpoint.display()), e))?;
    let unmovable = directory.unmovable().map(|error| error.to_string());
    Ok(Outlook { mountpoint, sessions, unmovable })
}

/// Looks at what a mount with this configuration uses beside its directory, and refuses what that
/// refuses.
pub fn look_beside(config: &Config) -> Result<(), Failure> {
    mount::open_device()?;
    config.mirror.as_ref().map_or(Ok(()), |dir| mirror::look(dir, config))
}

/// What the command line asked for: read again, with the file it names, at each reload.
struct CommandLine {
    dir: Option<PathBuf>,
    flags: Flags,
}

impl CommandLine {
    fn resolve(&self) -> Result<Config, Failure> {
        let dir = config::mountpoint(self.dir.as_deref(), self.flags.place.config.as_deref())?;
        Config::resolve(&mount::resolve_trusted(&dir)?, &self.flags)
    }
}

struct Keeper {
    command_line: CommandLine,
    config: Config,
    redis: Option<PrivateRedis>,
    worker: WorkerSupervisor,
    manager: Manager,
    by_hand: Option<ByHand>,
    outcomes: Outcomes,
    /// The program was executed by a reload, or after one, that may not have ended yet.
    is_renewal: bool,
    /// The configuration that a reload under way will bring.
    next: Option<Config>,
    /// What the last reload failed of.
    last_reload_error: Option<String>,
}

impl Keeper {
    /// Looks after both until an end is asked for, or a first start fails.
    fn serve(&mut self, signals: &mut Signals) -> Result<(), Failure> {
        while signals.received() == 0 {
            if !self.worker.is_reloading() && signals.take_reload() {
                self.reload();
            }
            if let Some(redis) = &mut self.redis {
                redis.advance()?;
            }
            // A first worker would find no Redis; a later one serves without, and waits.
            let may_start =
                self.worker.has_served() || self.redis.as_ref().is_none_or(PrivateRedis::is_up);
            if may_start {
                match self.worker.advance()? {
                    Outcome::Nothing => {}
                    Outcome::Ready => {
                        self.announce_ready();
                        if std::mem::take(&mut self.is_renewal) && self.outcomes.is_under_way() {
                            self.reloaded(None);
                        }
                    }
                    Outcome::Reloaded(Ok(())) if self.worker.program().is_another() => {
                        self.renew(signals)?;
                    }
                    Outcome::Reloaded(outcome) => self.reloaded(outcome.err()),
                    Outcome::Unmounted => return Ok(()),
                }
            }
            let turn = self.manager.turned(&words(
                &self.worker,
                may_start,
                self.last_reload_error.as_deref(),
            ));
            let (mut descriptors, mut until) = match &self.redis {
                Some(redis) => redis.waits_for(),
                None => (Vec::new(), None),
            };
            if may_start {
                let (more, also) = self.worker.waits_for();
                descriptors.extend(more);
                until = until.into_iter().chain(also).min();
            }
            signals.wait(&descriptors, until.into_iter().chain(turn).min());
            crate::telemetry::log::tell_repeated();
        }
        tracing::info!("stopping");
        Ok(())
    }

    /// Begins to take up what has changed: the configuration file, and the program.
    fn reload(&mut self) {
        tracing::info!("reloading");
        if self.worker.has_served() {
            service_manager::reloading();
        }
        match self.begin_reload() {
            Ok(true) => {}
            Ok(false) => self.reloaded(None),
            Err(failure) => self.reloaded(Some(failure)),
        }
    }

    /// Whether there is something to wait for.
    fn begin_reload(&mut self) -> Result<bool, Failure> {
        let config = self.command_line.resolve();
        let within = start::longest(config.as_ref().unwrap_or(&self.config));
        // A worker of an upgraded program, and then one of the upgraded keeper.
        self.outcomes.begin(2 * within);
        let config = config?;
        if let Some(key) = reload::needs_restart(&self.config, &config) {
            return Err(Failure::new(
                ExitCode::ReloadFailed,
                format!("{key} was changed, and a restart is needed for that; nothing was applied"),
            ));
        }
        let program = self.worker.program().installed()?;
        let waits = self.worker.reload(config.clone(), program)?;
        self.next = Some(config);
        Ok(waits)
    }

    /// A reload has ended; without a failure what it brought is used from now on.
    fn reloaded(&mut self, failure: Option<Failure>) {
        let next = self.next.take();
        match &failure {
            None => {
                self.config = next.unwrap_or_else(|| self.config.clone());
                tracing::info!("reloaded");
            }
            Some(failure) => tracing::error!(%failure, "the reload failed; nothing was changed"),
        }
        self.last_reload_error = failure.as_ref().map(ToString::to_string);
        // Whoever asked for it may look at the service manager's word next, so that goes first.
        if self.worker.has_served() {
            self.manager.ready();
        }
        self.outcomes.end(failure);
    }

    /// Executes the program whose worker serves now in the place of this one. The reload ends when that one
    /// serves.
    fn renew(&mut self, signals: &mut Signals) -> Result<(), Failure> {
        tracing::info!("executing the upgraded program");
        if let Some(until) = self.worker.drain() {
            while !self.worker.has_drained() && Instant::now() < until {
                signals.wait(&self.worker.waits_for().0, Some(until));
            }
        }
        if let Some(redis) = self.redis.take() {
            redis.stop(signals);
        }
        let error = self.worker.execute_program();
        tracing::error!(%error, "cannot execute the upgraded program; this one goes on");
        self.reloaded(None);
        self.redis = PrivateRedis::new(&self.config)?;
        Ok(())
    }

    /// For whoever started us: from here on a session can be served.
    fn announce_ready(&mut self) {
        self.manager.ready();
        let mountpoint = self.config.mountpoint.display();
        tracing::info!(%mountpoint, "ready");
        let mut out = std::io::stdout().lock();
        match writeln!(out, "ready {mountpoint}").and_then(|()| out.flush()) {
            // Whoever waited for the first time is not there for a later one.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                tracing::warn!(%error, "cannot write to standard output that the mount is ready");
            }
            _ => {}
        }
        drop(out);
        if let Some(by_hand) = &self.by_hand {
            by_hand.ready();
        }
    }

    /// Ends everything, whatever state it is in: nothing stays mounted, no process stays.
    fn end(mut self, signals: &mut Signals) -> Result<(), Failure> {
        service_manager::stopping("ending");
        let has_served = self.worker.has_served();
        // The first signal asks for the end; one more hurries. A failed start has had none.
        let patient = |signals: &mut Signals, until: Instant| {
            Instant::now() < until && signals.received() < 2
        };
        if let Some(until) = self.worker.drain() {
            while !self.worker.has_drained() && patient(signals, until) {
                signals.wait(&self.worker.waits_for().0, Some(until));
            }
        }
        let mut unmounted = Ok(false);
        if self.worker.is_mounted() {
            unmounted = host_mount::unmount(&self.config.mountpoint);
            if let Ok(true) = unmounted {
                tracing::warn!("the mount is in use: its users get errors");
            }
            let until = Instant::now() + PATIENCE;
            // Who still uses it keeps the kernel's side alive: then there is no end to wait for.
            while !self.worker.has_ended()
                && !matches!(unmounted, Ok(true))
                && patient(signals, until)
            {
                signals.wait(&self.worker.waits_for().0, Some(until));
            }
        }
        self.worker.finish();
        spool::clear(&self.config);
        staging::clear(&self.config.staging_dir);
        if let Some(redis) = self.redis.take() {
            redis.stop(signals);
        }
        crate::telemetry::log::tell_all_repeated();
        tracing::info!("ended");
        if let Some(by_hand) = self.by_hand.filter(|_| has_served) {
            by_hand.ended();
        }
        unmounted.map(|_| ())
    }
}

/// How things stand, for the service manager.
fn words(worker: &WorkerSupervisor, may_start: bool, last_reload_error: Option<&str>) -> String {
    let words = if may_start { worker.words() } else { "waiting for the private Redis".to_owned() };
    match last_reload_error {
        None => words,
        Some(last_reload_error) => format!("{words}; the last reload failed: {last_reload_error}"),
    }
}

/// Takes the mountpoint's lock, which says who serves it.
fn claim(mountpoint: &Path) -> Result<Claim, Failure> {
    make_own(Path::new(RUNTIME_DIR), 0o755)?;
    let path = lock_file(mountpoint);
    let failed = |e| Failure::internal(format!("lock {}", path.display()), e);
    let Some(mut claim) = Claim::take(&path).map_err(failed)? else {
        let holder =
            holder(&path).map_or(String::new(), |process| format!(" (pid {})", process.pid()));
        return Err(Failure::new(
            ExitCode::SecondDaemon,
            format!(
                "mountpoint {}: another sessionfs{holder} serves it; stop it with 'sessionfs \
                 unmount {0}' or name another directory",
                mountpoint.display()
            ),
        ));
    };
    let pid = i32::try_from(std::process::id()).unwrap_or_default();
    let words = format!("{pid} {}\n", process::started_ticks(pid).unwrap_or_default());
    claim.write(&words).map_err(failed)?;
    Ok(claim)
}

/// The keeper that holds a lock: the process the file names, if it is still the same one.
fn holder(path: &Path) -> Option<Process> {
    const LENGTH_MAX_BYTES: u64 = 64;
    let text = crate::config::file::read_bounded(path, LENGTH_MAX_BYTES).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    let pid = pid.parse().ok()?;
    let process = Process::found(pid).ok()?;
    (process::started_ticks(pid) == started.parse().ok()).then_some(process)
}

/// Who serves a mountpoint on this host, and since when.
pub fn serving(mountpoint: &Path) -> Option<(i32, SystemTime)> {
    let path = lock_file(mountpoint);
    let keeper = holder(&path).filter(|keeper| !keeper.has_ended())?;
    Some((keeper.pid(), path.metadata().and_then(|found| found.modified()).ok()?))
}

/// Whether a keeper holds the lock.
fn is_held(path: &Path) -> bool {
    File::open(path).and_then(|file| lock::try_lock(&file)).is_ok_and(|free| !free)
}

fn not_mounted(mountpoint: &Path) -> Failure {
    Failure::new(
        ExitCode::NotMounted,
        format!(
            "{}: no sessionfs is mounted there; see 'findmnt -t {}'",
            mountpoint.display(),
            crate::host::mount_table::FSTYPE
        ),
    )
}

/// Ends the keeper of a mountpoint, or clears a mount that has none any more.
pub fn unmount(dir: &Path) -> Result<(), Failure> {
    /// The keeper drains, unmounts, and stops its Redis; each within its own bound.
    const END_WITHIN: Duration = Duration::from_secs(30);
    let mountpoint = mount::resolve_trusted(dir)?;
    let shown = mountpoint.display();
    let mut signals = Signals::receive()?;
    let path = lock_file(&mountpoint);
    if !is_held(&path) {
        return if host_mount::is_ours(&mountpoint) {
            host_mount::force_off(&mountpoint)
        } else {
            Err(not_mounted(&mountpoint))
        };
    }
    let busy = |what: &str| Failure::new(ExitCode::Busy, format!("{shown}: {what}"));
    let keeper = holder(&path).ok_or_else(|| {
        busy("its keeper holds the lock but cannot be found; stop it where it runs")
    })?;
    keeper.signal(Signal::SIGTERM);
    let until = Instant::now() + END_WITHIN;
    while !keeper.has_ended() {
        if Instant::now() >= until || signals.received() > 0 {
            return Err(busy(&format!("the keeper (pid {}) has not stopped yet", keeper.pid())));
        }
        signals.wait(&[keeper.as_fd()], Some(until));
    }
    Ok(())
}
