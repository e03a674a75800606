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
pub(crate) mod guard;
mod held;
mod listen;
mod mirror;
pub(crate) mod mount;
mod note;
mod parameters;
pub(crate) mod private_redis;
mod program;
mod pulse;
pub(crate) mod reload;
mod requests;
pub(crate) mod restart;
mod running;
mod secrets;
pub(crate) mod spool;
mod stability;
pub(crate) mod staging;
mod start;
mod trail;
mod trial;
pub(crate) mod underlying;
mod worker;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, raise};

use crate::config::flags::Flags;
use crate::config::paths::{RUNTIME_DIR, lock_file};
use crate::config::{self, Config};
use crate::exit::{ExitCode, Failure};
use crate::host::bounded;
use crate::host::directory::make_own;
use crate::host::lock::{self, Claim};
use crate::host::mount as host_mount;
use crate::host::prober::Prober;
use crate::host::process::{self, PATIENCE, Process};
use crate::host::service_manager::{self, Manager};
use crate::host::signals::Signals;
use crate::loader::{LOADED_WITHIN, LOADED_WITHIN_WHILE_MOUNTED};
use by_hand::ByHand;
pub use by_hand::Caller;
use held::Handed;
use listen::Listeners;
use note::Note;
use private_redis::PrivateRedis;
use program::Program;
use reload::Outcomes;
use requests::Requests;
use running::{Contact, StatusContext};
use trail::Trail;
use trial::Trial;
use worker::{Outcome, WorkerSupervisor};

/// How long a service manager is waited for where this program ends.
const DELIVERED_WITHIN: Duration = Duration::from_secs(1);
/// How often the service manager is given what it should have already.
const STORED_EVERY: Duration = Duration::from_secs(10);

/// Mounts and serves until a signal asks for the end. Without a directory the configuration names
/// one.
pub fn mount(dir: Option<&Path>, flags: &Flags, caller: Caller) -> Result<(), Failure> {
    let outcome = keep(dir, flags, caller);
    service_manager::deliver(DELIVERED_WITHIN);
    outcome
}

fn keep(dir: Option<&Path>, flags: &Flags, caller: Caller) -> Result<(), Failure> {
    // First of all: until it is served or let go of, whoever uses the mount of the keeper before waits.
    let mut handed = Handed::take();
    Failure::unless_root("mounting needs root; run it with sudo or as a system service")?;
    let command_line = CommandLine::new(dir, flags);
    if let Some(note) = handed.note() {
        config::paths::go_on_with(&note.config.staging_dir);
    }
    if let Some(failure) = handed.give_up_late() {
        return Err(failure);
    }
    let (config, refused, mut signals) = match handed.note() {
        // Nobody waits for a first start: a signal ends it.
        None => (command_line.resolve()?, None, Signals::receive()?),
        Some(note) => {
            // Before the first thread.
            let signals = Signals::receive()?;
            let (config, refused) = command_line.resolve_after(note);
            (config, refused, signals)
        }
    };
    crate::telemetry::log::init(&config.log)?;
    if let Some(failure) = &refused {
        tracing::error!(%failure, "going on with the configuration of the keeper before");
    }
    let lock = handed
        .insist(&mut signals, |handed, signals| claim(&config.mountpoint, handed, signals))?;
    let note = handed.note().cloned();
    let is_resumed = handed.can_go_on(&config.mountpoint);
    if !is_resumed {
        mount::clear_dead(&config.mountpoint, &mut Prober::default(), &mut signals)?;
        // Looked at before anything is started, and again at each mount.
        drop(mount::Mountpoint::take(&config.mountpoint)?);
        drop(mount::open_device()?);
    }
    let outcomes = if handed.is_any {
        Outcomes::resumed(&config.mountpoint)
    } else {
        Outcomes::new(&config.mountpoint)
    };
    let redis = handed.insist(&mut signals, |handed, _| {
        PrivateRedis::new(&config, is_resumed, handed.private_redis.take())
    })?;
    let listeners = handed.insist(&mut signals, |_, _| Listeners::open(&config))?;
    let program = handed.insist(&mut signals, |_, _| {
        Program::own(note.as_ref().and_then(|note| note.program.clone()))
    })?;
    let loaded_within = if is_resumed { LOADED_WITHIN_WHILE_MOUNTED } else { LOADED_WITHIN };
    let requests = Requests::begin(&config, &program, loaded_within);
    let connection = handed.insist(&mut signals, |handed, _| handed.resume(&config.mountpoint))?;
    let status = StatusContext::new(listeners, requests, Trail::open(&config));
    // Who started it has been told already.
    let by_hand = ByHand::look(caller, &config, flags).filter(|_| !handed.is_any);
    // Whoever starts it by hand waits for the outcome.
    let contact = if Manager::is_there() { Contact::Awaited } else { Contact::Required };
    let redis_within = redis.as_ref().map_or(Duration::ZERO, |_| PrivateRedis::START_WITHIN);
    let manager = Manager::from_environment(redis_within + start::longest(&config));
    let mut worker = WorkerSupervisor::new(config.clone(), program, status, contact);
    if let Some(connection) = connection {
        tracing::info!("going on with the mount of the keeper before");
        worker.resume(connection);
    }
    let mut keeper = Keeper {
        command_line,
        config,
        redis,
        worker,
        manager,
        by_hand,
        outcomes,
        is_renewal: handed.is_any,
        asked: None,
        next: None,
        // What the keeper before could not take up was taken up now, unless it is refused again.
        last_reload_error: refused.map(|failure| failure.to_string()),
        store_again_at: Instant::now() + STORED_EVERY,
        lock,
    };
    let outcome = keeper.serve(&mut signals);
    if outcome.is_ok() && keeper.is_restarted(&mut signals) {
        keeper.pause(&mut signals);
        return Ok(());
    }
    let ended = keeper.end(&mut signals);
    outcome.and(ended)
}

/// Says whether this program could go on with a mount that another one serves with this command line, of which it has a
/// note and what its worker leaves to the next one.
pub fn try_out(
    dir: Option<&Path>,
    flags: &Flags,
    note: OwnedFd,
    memory: &OwnedFd,
) -> Result<&'static str, Failure> {
    trial::answer(&CommandLine::new(dir, flags), note, memory)
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
#[derive(Clone)]
struct CommandLine {
    dir: Option<PathBuf>,
    flags: Flags,
}

impl CommandLine {
    /// With paths that mean the same from every directory: a program that is asked is started in another one.
    fn new(dir: Option<&Path>, flags: &Flags) -> Self {
        // What cannot be made absolute is refused by whoever opens it.
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut flags = flags.clone();
        for path in [&mut flags.place.config, &mut flags.mirror].into_iter().flatten() {
            *path = absolute(path);
        }
        Self { dir: dir.map(absolute), flags }
    }

    fn resolve(&self) -> Result<Config, Failure> {
        let dir = config::mountpoint(self.dir.as_deref(), self.flags.place.config.as_deref())?;
        Config::resolve(&mount::resolve_trusted(&dir)?, &self.flags)
    }

    /// The same while a mount is served or waited for. It resolves paths and names of users, so it is left to a thread: a
    /// network filesystem or a directory service that does not answer does not hold this one.
    fn resolve_soon(&self) -> Result<Config, Failure> {
        const WITHIN: Duration = Duration::from_secs(5);
        let failed = |e: io::Error| Failure::internal("read the configuration", e);
        let command_line = self.clone();
        let resolved = bounded::within("configuration", WITHIN, move || command_line.resolve());
        resolved.map_err(failed)?.unwrap_or_else(|| {
            Err(failed(io::Error::other(
                "a filesystem that it names, or the directory service of users, does not answer",
            )))
        })
    }

    /// The same for a keeper that goes on with a mount. What cannot change while it is mounted stays as it was; so does
    /// everything if there is a mistake, which is returned: to end would log everybody out.
    fn resolve_after(&self, note: &Note) -> (Config, Option<Failure>) {
        let former = &note.config;
        let refused = match self.resolve_soon() {
            Ok(config) => match reload::needs_restart(former, &config) {
                None => return (config, None),
                Some(key) => changed(key),
            },
            Err(failure) => failure,
        };
        (former.clone(), Some(refused))
    }

    /// The words of a command line that says the same, whoever has called this program and how.
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments = self.flags.arguments();
        if let Some(dir) = &self.dir {
            arguments.extend(["--".into(), dir.into()]);
        }
        arguments
    }
}

/// This key needs a restart.
fn changed(key: &str) -> Failure {
    Failure::new(
        ExitCode::ReloadFailed,
        format!("{key} was changed, and a restart is needed for that; nothing was applied"),
    )
}

/// A reload that waits for the answer of an upgraded program.
struct Asked {
    trial: Trial,
    program: Program,
    config: Config,
}

struct Keeper {
    command_line: CommandLine,
    config: Config,
    redis: Option<PrivateRedis>,
    worker: WorkerSupervisor,
    manager: Manager,
    by_hand: Option<ByHand>,
    outcomes: Outcomes,
    /// A reload of the keeper before, or one before the first worker serves, may not have ended yet.
    is_renewal: bool,
    /// The upgraded program that is asked whether it could go on with the mount.
    asked: Option<Asked>,
    /// The configuration that a reload under way will bring.
    next: Option<Config>,
    /// What the last reload failed of.
    last_reload_error: Option<String>,
    /// When the service manager is given the connection again.
    store_again_at: Instant,
    /// Of the mountpoint, until everything has ended.
    lock: Claim,
}

impl Keeper {
    /// Looks after both until an end is asked for, or a first start fails.
    fn serve(&mut self, signals: &mut Signals) -> Result<(), Failure> {
        while signals.received() == 0 {
            process::reap();
            self.hear_answer();
            if !self.worker.is_reloading() && self.asked.is_none() && signals.take_reload() {
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
                        let program = self.worker.program().clone();
                        if let Err(error) = self.execute(&program, signals) {
                            self.reloaded_in_part(&program, &error);
                        }
                    }
                    Outcome::Reloaded(outcome) => self.reloaded(outcome.err()),
                    Outcome::Unmounted => return Ok(()),
                }
            }
            self.store_again();
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
            if let Some(asked) = &self.asked {
                let (answer, also) = asked.trial.waits_for();
                descriptors.push(answer);
                until = until.into_iter().chain([also]).min();
            }
            let unsent = service_manager::waits_for();
            let unsent = unsent.as_deref().map(AsFd::as_fd);
            signals.wait_or_write(&descriptors, unsent, until.into_iter().chain(turn).min());
            crate::telemetry::log::tell_repeated();
        }
        tracing::info!("stopping");
        Ok(())
    }

    /// The service manager has the connection nearly always. It lets go of it when the unit is masked, and does not take
    /// it back by itself when that is over.
    fn store_again(&mut self) {
        let now = Instant::now();
        if now >= self.store_again_at {
            self.store_again_at = now + STORED_EVERY;
            if let Some(connection) = self.worker.connection() {
                connection.store_again();
            }
        }
    }

    /// Begins to take up what has changed: the configuration file, and the program.
    fn reload(&mut self) {
        tracing::info!("reloading");
        self.store_again_at = Instant::now();
        if self.worker.has_served() {
            service_manager::reloading();
        }
        if let Err(failure) = self.begin_reload() {
            self.reloaded(Some(failure));
        }
    }

    /// A program that is upgraded is asked first, while everything goes on.
    fn begin_reload(&mut self) -> Result<(), Failure> {
        let config = self.command_line.resolve_soon();
        let within = start::longest(config.as_ref().unwrap_or(&self.config));
        // A worker of an upgraded program, and then one of the upgraded keeper.
        self.outcomes.begin(2 * within);
        self.manager.ask_for(2 * within);
        let config = config?;
        if let Some(key) = reload::needs_restart(&self.config, &config) {
            return Err(changed(key));
        }
        let program = self.worker.program().installed()?;
        if program.is_another()
            && let Some(connection) = self.worker.connection()
        {
            self.worker.check_secrets(&config)?;
            let trial = Trial::begin(&program, &self.command_line.arguments(), connection)?;
            self.asked = Some(Asked { trial, program, config });
            return Ok(());
        }
        self.start_another(config, program)
    }

    /// Goes on with the reload if the upgraded program has answered.
    fn hear_answer(&mut self) {
        let Some(mut asked) = self.asked.take() else { return };
        let outcome = match asked.trial.answer() {
            None => {
                self.asked = Some(asked);
                return;
            }
            Some(Ok(())) => self.start_another(asked.config, asked.program),
            Some(Err(failure)) => Err(failure),
        };
        if let Err(failure) = outcome {
            self.reloaded(Some(failure));
        }
    }

    /// Starts a worker with this configuration, to take the place of the one that serves.
    fn start_another(&mut self, config: Config, program: Program) -> Result<(), Failure> {
        let waits = self.worker.reload(config.clone(), program)?;
        self.next = Some(config);
        // Otherwise it ends when the first worker serves, or with this keeper.
        self.is_renewal |= !waits;
        Ok(())
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
        self.end_reload(failure);
    }

    /// A worker of the upgraded program serves, with the new configuration, and the program of the keeper is still the
    /// former one.
    fn reloaded_in_part(&mut self, program: &Program, error: &io::Error) {
        self.config = self.next.take().unwrap_or_else(|| self.config.clone());
        let failure = Failure::new(
            ExitCode::ReloadFailed,
            format!(
                "the new worker serves, but the keeper cannot execute {}: {error}; the keeper goes on with the former \
                 program until the next reload or restart",
                program.installed_as().display()
            ),
        );
        tracing::error!(%failure, "the reload is not complete");
        self.end_reload(Some(failure));
    }

    fn end_reload(&mut self, failure: Option<Failure>) {
        self.last_reload_error = failure.as_ref().map(ToString::to_string);
        let (config, error) = (self.config.clone(), self.last_reload_error.clone());
        self.worker.amend(|note| (note.config, note.last_reload_error) = (config, error));
        // Whoever asked for it may look at the service manager's word next, so that goes first.
        if self.worker.has_served() {
            self.manager.ready();
        }
        self.outcomes.end(failure);
    }

    /// Executes a program in the place of this one, with the mount and the private Redis. The reload ends when that one
    /// serves. Returns without an error if an end was asked for meanwhile.
    fn execute(&mut self, program: &Program, signals: &mut Signals) -> io::Result<()> {
        // The kernel would wait for the others.
        if !process::has_one_thread()? {
            return Err(io::Error::other("another thread is still at work"));
        }
        // What was said is known to this program only.
        if !service_manager::deliver(DELIVERED_WITHIN) {
            return Err(io::Error::other("the service manager does not read what it is told"));
        }
        tracing::info!("executing the upgraded program");
        self.drain(signals, |signals| signals.received() == 0);
        // One that is just starting is not handed over.
        if let Some(redis) = self.redis.as_mut().filter(|redis| redis.handed().is_none()) {
            redis.stop(signals);
        }
        // What was received is known to this program only.
        let reload = signals.take_reload();
        if signals.received() > 0 {
            return Ok(());
        }
        if reload {
            raise(Signal::SIGHUP)?;
        }
        let config = self.next.take().unwrap_or_else(|| self.config.clone());
        let installed_as = program.installed_as().to_owned();
        let redis = self.redis.as_ref().and_then(PrivateRedis::handed);
        let redis_pid = redis.map(|(_, pid)| pid);
        self.worker.amend(|note| {
            note.config = config.clone();
            note.program = Some(installed_as);
            note.private_redis_pid = redis_pid;
        });
        self.config = config;
        let mut others = vec![(held::LOCK, self.lock.as_fd())];
        others.extend(redis.map(|(lock, _)| (held::PRIVATE_REDIS_LOCK, lock)));
        let mut arguments: Vec<OsString> = vec!["sessionfs".into(), "mount".into()];
        arguments.extend(self.command_line.arguments());
        Err(self.worker.execute(program, &arguments, &others))
    }

    /// Has the worker write what it has collected, and waits for that as long as it may take.
    fn drain(&mut self, signals: &mut Signals, is_patient: impl Fn(&mut Signals) -> bool) {
        let Some(until) = self.worker.drain() else { return };
        while !self.worker.has_drained() && Instant::now() < until && is_patient(signals) {
            signals.wait(&self.worker.waits_for().0, Some(until));
        }
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
        let is_patient = |signals: &mut Signals| signals.received() < 2;
        self.drain(signals, is_patient);
        let mut unmounted = Ok(false);
        if self.worker.is_mounted() {
            unmounted = host_mount::force_off(&self.config.mountpoint);
            if let Ok(true) = unmounted {
                tracing::warn!("the mount is in use: its users get errors");
            }
            let until = Instant::now() + PATIENCE;
            // Who still uses it keeps the kernel's side alive: then there is no end to wait for.
            while !self.worker.has_ended()
                && !matches!(unmounted, Ok(true))
                && Instant::now() < until
                && is_patient(signals)
            {
                signals.wait(&self.worker.waits_for().0, Some(until));
            }
        }
        self.worker.finish();
        spool::clear(&self.config);
        staging::clear(&self.config.staging_dir);
        if let Some(mut redis) = self.redis.take() {
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

/// Takes the mountpoint's lock, which says who serves it. Where a mount was left, another keeper that is about to end is
/// waited for.
fn claim(mountpoint: &Path, handed: &mut Handed, signals: &mut Signals) -> Result<Claim, Failure> {
    const ENDS_WITHIN: Duration = Duration::from_secs(3);
    const LOOK_EVERY: Duration = Duration::from_millis(20);
    make_own(Path::new(RUNTIME_DIR), 0o755)?;
    let path = lock_file(mountpoint);
    let failed = |e| Failure::internal(format!("lock {}", path.display()), e);
    let until = Instant::now() + if handed.held.is_some() { ENDS_WITHIN } else { Duration::ZERO };
    let mut found = match handed.lock.take() {
        Some(lock) => Claim::resume(lock.into(), &path).map_err(failed)?,
        None => None,
    };
    loop {
        if found.is_none() {
            found = Claim::take(&path).map_err(failed)?;
        }
        if found.is_some() || Instant::now() >= until || signals.received() > 0 {
            break;
        }
        signals.wait(&[], Some(Instant::now() + LOOK_EVERY));
    }
    let Some(mut claim) = found else {
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
    claim.write(&words);
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
            host_mount::force_off(&mountpoint).map(drop)
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
