//! The Redis of a server that has no other: started here, on a unix socket, for this user alone.
//!
//! - *Never doubled.* The server inherits a locked descriptor on `redis.lock`, so the lock is held
//!   for just as long as the server lives, whatever becomes of the keeper that started it.
//! - *Found again.* It outlives a keeper that was killed; the next one finds it by its socket.
//! - *Shared.* Keepers with one state directory use one server. Each holds a shared lock on
//!   `users.lock`; who can make it an exclusive one when leaving is the last, and stops the server.
//! - *Replaced.* Every user watches it; when it dies, one of them starts the next.
//!
//! The directory belongs to the worker's user, so root follows no link in it, and takes nothing
//! for its server that does not run as that user.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt,
};

use super::backoff::Backoff;
use crate::config::{self, private_redis::socket_path};
use crate::exit::{ExitCode, Failure};
use crate::host::lock::{self, Kind};
use crate::host::process::{Process, Setup};
use crate::host::signals::Signals;

/// How long a start may take: a large append-only file is read before the first answer.
const START_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to stop: the append-only file is written to the end.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How often to look while it starts.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long one question may take.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// The private Redis, as one of its users sees it.
pub struct PrivateRedis {
    settings: config::PrivateRedis,
    worker: config::Worker,
    /// Open (and then locked) for as long as we use the server.
    users: File,
    phase: Phase,
    backoff: Backoff,
    /// It has answered once: from then on nothing is given up.
    answered: bool,
}

enum Phase {
    /// The last of its former users is just stopping it.
    Joining { until: Instant },
    /// Not there; when to look again.
    Down { retry_at: Instant },
    /// Somebody else starts it, or it does not answer yet.
    Waiting { until: Instant },
    /// Started by us, and does not answer yet.
    Starting { server: Process, messages: File, until: Instant },
    /// It answers.
    Up { server: Process, since: Instant },
}

/// What the socket says.
enum Answer {
    /// It answers; who it is.
    Up(Process),
    /// It is there, and reads its file or does not answer yet.
    NotYet,
    /// Nobody is there.
    Nobody,
}

impl PrivateRedis {
    /// Prepares the state directory. Nothing is started yet.
    pub fn new(settings: &config::PrivateRedis, worker: &config::Worker) -> Result<Self, Failure> {
        check_socket_length(&socket_path(&settings.dir))?;
        prepare(&settings.dir, worker)?;
        let users = lock::open(&settings.dir.join("users.lock"))
            .map_err(|e| unusable(&settings.dir, &format!("users.lock: {e}")))?;
        Ok(Self {
            settings: settings.clone(),
            worker: worker.clone(),
            users,
            phase: Phase::Joining { until: Instant::now() + STOP_WITHIN + ANSWER_WITHIN },
            backoff: Backoff::default(),
            answered: false,
        })
    }

    /// Whether it answers, as far as is known.
    pub fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up { .. })
    }

    /// What to wait for before the next look.
    pub fn waits_for(&self) -> (Vec<BorrowedFd<'_>>, Option<Instant>) {
        let soon = Instant::now() + LOOK_EVERY;
        match &self.phase {
            Phase::Down { retry_at } => (Vec::new(), Some(*retry_at)),
            Phase::Joining { .. } | Phase::Waiting { .. } => (Vec::new(), Some(soon)),
            Phase::Starting { server, .. } => (vec![server.as_fd()], Some(soon)),
            Phase::Up { server, .. } => (vec![server.as_fd()], None),
        }
    }

    /// Looks at what has happened, and does what follows. A failure is one of the first start:
    /// later ones are logged, and tried again.
    pub fn advance(&mut self) -> Result<(), Failure> {
        let phase = std::mem::replace(&mut self.phase, Phase::Down { retry_at: Instant::now() });
        match self.step(phase) {
            Ok(phase) => self.phase = phase,
            Err(failure) if self.answered => {
                tracing::error!(%failure, "the private Redis is down; trying again");
                self.phase = Phase::Down { retry_at: self.backoff.failed(None) };
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    fn step(&mut self, phase: Phase) -> Result<Phase, Failure> {
        let now = Instant::now();
        match phase {
            Phase::Joining { until } => self.join(until),
            Phase::Down { retry_at } if now < retry_at => Ok(Phase::Down { retry_at }),
            Phase::Down { .. } => self.find_or_start(now + START_WITHIN),
            Phase::Waiting { until } if now < until => self.find_or_start(until),
            Phase::Waiting { .. } => Err(self.failed(
                "its lock is held, but no server answers; end the process that holds redis.lock",
            )),
            Phase::Starting { server, messages, until } => self.look(server, messages, until),
            Phase::Up { mut server, since } if server.has_ended() => {
                let status = server.status().map_or_else(String::new, |s| format!(" ({s})"));
                tracing::error!(pid = server.pid(), "the private Redis died{status}");
                Ok(Phase::Down { retry_at: self.backoff.failed(Some(since)) })
            }
            Phase::Up { .. } => Ok(phase),
        }
    }

    /// Becomes a user. Only who stops the server keeps others from it.
    fn join(&mut self, until: Instant) -> Result<Phase, Failure> {
        match lock::try_lock(&self.users, Kind::Shared) {
            Ok(true) => self.find_or_start(Instant::now() + START_WITHIN),
            Ok(false) if Instant::now() < until => Ok(Phase::Joining { until }),
            Ok(false) => Err(self.failed("another sessionfs holds users.lock and does not end")),
            Err(e) => Err(self.failed(&format!("users.lock: {e}"))),
        }
    }

    fn find_or_start(&mut self, until: Instant) -> Result<Phase, Failure> {
        match self.ask()? {
            Answer::Up(server) => {
                tracing::info!(
                    pid = server.pid(), socket = %self.socket().display(),
                    "using the private Redis that is running already"
                );
                Ok(self.up(server))
            }
            Answer::NotYet => Ok(Phase::Waiting { until }),
            Answer::Nobody => {
                let failed = |e: io::Error| self.failed(&format!("redis.lock: {e}"));
                let lock = lock::open(&self.settings.dir.join("redis.lock")).map_err(failed)?;
                if lock::try_lock(&lock, Kind::Exclusive).map_err(failed)? {
                    self.start(&lock)
                } else {
                    Ok(Phase::Waiting { until })
                }
            }
        }
    }

    fn start(&self, lock: &File) -> Result<Phase, Failure> {
        let socket = self.socket();
        match std::fs::remove_file(&socket) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(self.failed(&format!("cannot remove {}: {e}", socket.display())));
            }
            _ => {}
        }
        // Until its log file is open it complains to standard error, which is kept in memory: a
        // pipe would end with us, and the server must not.
        let messages: File = memfd_create("redis-server", MFdFlags::MFD_CLOEXEC)
            .map_err(|e| Failure::internal("start the private Redis", e))?
            .into();
        let server = self.spawn(lock, &messages)?;
        tracing::info!(
            pid = server.pid(), socket = %socket.display(), user = self.worker.user,
            program = %self.settings.server.display(),
            "no Redis is named: started a private one; sessions are kept in {}",
            self.settings.dir.display()
        );
        Ok(Phase::Starting { server, messages, until: Instant::now() + START_WITHIN })
    }

    fn spawn(&self, lock: &File, messages: &File) -> Result<Process, Failure> {
        let dir = &self.settings.dir;
        let failed = |e: io::Error| {
            let program = self.settings.server.display();
            match e.kind() {
                ErrorKind::PermissionDenied => Failure::new(
                    ExitCode::WorkerRights,
                    format!(
                        "user {} cannot enter {} or execute {program}; give that right (chmod \
                         o+x on the directories above) or name others",
                        self.worker.user,
                        dir.display()
                    ),
                ),
                _ => self.failed(&format!("cannot start {program}: {e}")),
            }
        };
        let mut command = Command::new(&self.settings.server);
        command
            .env_clear()
            .env("LC_ALL", "C")
            // As that user, before the directory is entered and the program is executed.
            .uid(self.worker.uid)
            .gid(self.worker.gid)
            .current_dir(dir)
            // A Ctrl-C for the keeper must not reach it: others may be using it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(messages.try_clone().map_err(failed)?)
            .stderr(messages.try_clone().map_err(failed)?)
            .args(self.arguments());
        Setup {
            inherited: &[lock.as_fd()],
            umask: Some(0o077),
            unblock_signals: true,
            no_new_privs: true,
            parent_death_signal: None,
        }
        .apply(&mut command);
        command.spawn().and_then(Process::of_lasting_child).map_err(failed)
    }

    /// Everything is said, so that neither a default nor a file of this host decides.
    fn arguments(&self) -> Vec<std::ffi::OsString> {
        let memory = self.settings.memory_bytes.to_string();
        [
            ("--port", "0"),
            ("--unixsocket", "redis.sock"),
            ("--unixsocketperm", "700"),
            ("--dir", "."),
            ("--logfile", "redis.log"),
            ("--loglevel", "notice"),
            ("--daemonize", "no"),
            ("--supervised", "no"),
            ("--databases", "1"),
            ("--appendonly", "yes"),
            ("--appendfsync", "everysec"),
            ("--save", ""),
            ("--maxmemory", &memory),
            ("--maxmemory-policy", "noeviction"),
            ("--timeout", "0"),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.into(), value.into()])
        .collect()
    }

    /// Waits for the server that we started.
    fn look(
        &mut self,
        mut server: Process,
        mut messages: File,
        until: Instant,
    ) -> Result<Phase, Failure> {
        if server.has_ended() {
            let status = server.status().map_or_else(String::new, |status| status.to_string());
            return Err(
                self.failed(&format!("it ended at once ({status}) {}", tail(&mut messages)))
            );
        }
        match self.ask()? {
            Answer::Up(found) if found.pid() == server.pid() => Ok(self.up(server)),
            // Also a socket that another server has put there, which cannot be: the lock is ours.
            _ if Instant::now() < until => Ok(Phase::Starting { server, messages, until }),
            _ => {
                server.kill();
                Err(self.failed("it does not answer"))
            }
        }
    }

    fn up(&mut self, server: Process) -> Phase {
        if self.answered {
            tracing::warn!(pid = server.pid(), "the private Redis is back");
        }
        self.answered = true;
        Phase::Up { server, since: Instant::now() }
    }

    /// Asks whoever listens on the socket.
    fn ask(&self) -> Result<Answer, Failure> {
        let mut stream = match open_socket(&self.socket()) {
            Ok(stream) => stream,
            Err(Errno::ENOENT | Errno::ECONNREFUSED) => return Ok(Answer::Nobody),
            // Its queue is full: there is somebody.
            Err(Errno::EAGAIN) => return Ok(Answer::NotYet),
            Err(e) => return Err(self.failed(&format!("{}: {e}", self.socket().display()))),
        };
        let peer = getsockopt(&stream, sockopt::PeerCredentials)
            .map_err(|e| Failure::internal("see who listens on the private Redis's socket", e))?;
        if peer.uid() != self.worker.uid {
            return Err(self.failed(&format!(
                "what listens on {} runs as uid {}, not as {}; stop it",
                self.socket().display(),
                peer.uid(),
                self.worker.user
            )));
        }
        // Held first and asked then: who still answers is the one that is held.
        let Ok(server) = Process::found(peer.pid()) else { return Ok(Answer::NotYet) };
        match ping(&mut stream) {
            Ok(true) => Ok(Answer::Up(server)),
            Err(e) if e.kind() == ErrorKind::InvalidData => Err(self.failed(&e.to_string())),
            Ok(false) | Err(_) => Ok(Answer::NotYet),
        }
    }

    /// Stops using it; the last user stops the server, and waits for its file to be complete.
    pub fn leave(mut self, signals: &mut Signals) {
        let phase = std::mem::replace(&mut self.phase, Phase::Down { retry_at: Instant::now() });
        if matches!(phase, Phase::Joining { .. }) {
            return;
        }
        match lock::try_lock(&self.users, Kind::Exclusive) {
            Ok(true) => {}
            Ok(false) => {
                tracing::info!("others use the private Redis: it goes on");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "users.lock; the private Redis goes on");
                return;
            }
        }
        let server = match phase {
            Phase::Up { server, .. } | Phase::Starting { server, .. } => server,
            Phase::Joining { .. } | Phase::Down { .. } | Phase::Waiting { .. } => {
                match self.ask() {
                    Ok(Answer::Up(server)) => server,
                    _ => return,
                }
            }
        };
        stop(server, signals);
    }

    fn socket(&self) -> PathBuf {
        socket_path(&self.settings.dir)
    }

    fn failed(&self, reason: &str) -> Failure {
        let dir = self.settings.dir.display();
        Failure::new(
            ExitCode::PrivateRedis,
            format!("private Redis in {dir}: {reason}; see {dir}/redis.log"),
        )
    }
}

/// The kernel takes no longer name for a socket.
fn check_socket_length(socket: &Path) -> Result<(), Failure> {
    const LENGTH_MAX_BYTES: usize = 107;
    let length = socket.as_os_str().len();
    if length <= LENGTH_MAX_BYTES {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::BadValue,
        format!(
            "private_redis.dir: the socket's path {} has {length} bytes, and {LENGTH_MAX_BYTES} \
             are allowed; name a directory with a shorter path",
            socket.display()
        ),
    ))
}

/// Makes the state directory, or takes one that is root's or the worker's: it becomes the
/// worker's, for nobody else.
fn prepare(dir: &Path, worker: &config::Worker) -> Result<(), Failure> {
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => {
            return Err(unusable(dir, &format!("cannot be made: {e}")));
        }
        _ => {}
    }
    let taken = || -> io::Result<Option<u32>> {
        let held = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(dir)?;
        let owner = held.metadata()?.uid();
        if owner != 0 && owner != worker.uid {
            return Ok(Some(owner));
        }
        if owner == 0 {
            std::os::unix::fs::fchown(&held, Some(worker.uid), Some(worker.gid))?;
        }
        held.set_permissions(std::fs::Permissions::from_mode(0o700))?;
        Ok(None)
    };
    match taken() {
        Ok(None) => Ok(()),
        Ok(Some(owner)) => Err(Failure::new(
            ExitCode::WorkerRights,
            format!(
                "private_redis.dir: {0} belongs to uid {owner}, and the private Redis runs as {1}; \
                 chown -R {1} {0}, or name another directory",
                dir.display(),
                worker.user
            ),
        )),
        Err(e) => Err(unusable(dir, &e.to_string())),
    }
}

fn unusable(dir: &Path, reason: &str) -> Failure {
    Failure::new(
        ExitCode::PrivateRedis,
        format!("private_redis.dir: {} {reason}; make it usable or name another", dir.display()),
    )
}

/// Connects without waiting.
fn open_socket(path: &Path) -> Result<UnixStream, Errno> {
    let descriptor = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    connect(descriptor.as_raw_fd(), &UnixAddr::new(path.as_os_str().as_bytes())?)?;
    Ok(descriptor.into())
}

/// Asks for a sign of life; `false` while the server still reads its file.
fn ping(stream: &mut UnixStream) -> io::Result<bool> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer)?;
    match &answer[..length] {
        answer if answer.starts_with(b"+PONG") => Ok(true),
        answer if answer.is_empty() || answer.starts_with(b"-LOADING") => Ok(false),
        answer => Err(io::Error::new(
            ErrorKind::InvalidData,
            format!("what listens there answers '{}'", String::from_utf8_lossy(answer).trim()),
        )),
    }
}

/// Asks the server to stop and waits until it has; who is asked twice for an end does not wait.
fn stop(mut server: Process, signals: &mut Signals) {
    let pid = server.pid();
    tracing::info!(pid, "stopping the private Redis");
    server.signal(Signal::SIGTERM);
    let until = Instant::now() + STOP_WITHIN;
    while !server.has_ended() {
        if Instant::now() >= until || signals.received() > 1 {
            tracing::warn!(pid, "the private Redis does not stop in time: ending it");
            server.kill();
            return;
        }
        signals.wait(&[server.as_fd()], Some(until));
    }
    // A child of ours is not left behind as a zombie.
    server.status();
}

/// The end of what a program said.
fn tail(messages: &mut File) -> String {
    const LENGTH_MAX_BYTES: usize = 300;
    let mut said = Vec::new();
    if messages.rewind().is_ok() {
        // What cannot be read cannot be told.
        let _ = messages.take(64 * 1024).read_to_end(&mut said);
    }
    let start = said.len().saturating_sub(LENGTH_MAX_BYTES);
    String::from_utf8_lossy(&said[start..]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_too_long_for_a_socket_is_told() {
        check_socket_length(Path::new("/var/lib/sessionfs/redis.sock")).unwrap();
        let long = PathBuf::from(format!("/{}/redis.sock", "x".repeat(100)));
        let failure = check_socket_length(&long).unwrap_err();
        assert_eq!(failure.code, ExitCode::BadValue);
        assert!(failure.to_string().contains("shorter path"));
    }
}
