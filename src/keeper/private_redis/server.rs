//! One server process: its start, and whether it answers.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt,
};

use crate::config;
use crate::config::private_redis::socket_path;
use crate::exit::{ExitCode, Failure};
use crate::host::confine::{Files, Prepared, Right};
use crate::host::lock;
use crate::host::process::{Process, Setup};

/// A server that was started and does not answer yet.
pub(super) struct Server {
    pub process: Process,
    /// What it writes to standard error until its log file is open. In memory: a pipe that nobody
    /// reads would block it.
    messages: File,
}

impl Server {
    /// Starts it as the worker's user. It holds `lock` from then on.
    pub(super) fn start(
        settings: &config::PrivateRedis,
        worker: &config::Worker,
        lock: &File,
    ) -> Result<Self, Failure> {
        let dir = &settings.dir;
        let socket = socket_path(dir);
        match std::fs::remove_file(&socket) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(failure(dir, &format!("cannot remove {}: {e}", socket.display())));
            }
            _ => {}
        }
        let messages: File = memfd_create("redis-server", MFdFlags::MFD_CLOEXEC)
            .map_err(|e| Failure::internal("start the private Redis", e))?
            .into();
        let process = spawn(settings, worker, lock, &messages).map_err(|e| match e.kind() {
            ErrorKind::PermissionDenied => Failure::new(
                ExitCode::WorkerRights,
                format!(
                    "user {} cannot enter {} or execute {}; give that right (chmod o+x on the \
                     directories above) or name others",
                    worker.user,
                    dir.display(),
                    settings.server.display()
                ),
            ),
            _ => failure(dir, &format!("cannot start {}: {e}", settings.server.display())),
        })?;
        Ok(Self { process, messages })
    }

    /// How it ended, and the end of what it wrote to standard error. To be called once it has ended.
    pub(super) fn last_words(&mut self) -> String {
        const LENGTH_MAX_BYTES: usize = 300;
        let mut text = Vec::new();
        if self.messages.rewind().is_ok() {
            // What cannot be read cannot be shown.
            let _ = (&self.messages).take(64 * 1024).read_to_end(&mut text);
        }
        let start = text.len().saturating_sub(LENGTH_MAX_BYTES);
        let status = self.process.status().map_or_else(String::new, |status| status.to_string());
        format!("({status}) {}", String::from_utf8_lossy(&text[start..]).trim())
    }
}

/// Locks `redis.lock` without waiting; `None` if a server holds it.
pub(super) fn lock(dir: &Path) -> io::Result<Option<File>> {
    let file = lock::open(&dir.join("redis.lock"))?;
    Ok(lock::try_lock(&file)?.then_some(file))
}

fn spawn(
    settings: &config::PrivateRedis,
    worker: &config::Worker,
    lock: &File,
    messages: &File,
) -> io::Result<Process> {
    let mut command = Command::new(&settings.server);
    command
        .env_clear()
        .env("LC_ALL", "C")
        // As that user, before the directory is entered and the program is executed.
        .uid(worker.uid)
        .gid(worker.gid)
        .current_dir(&settings.dir)
        .stdin(Stdio::null())
        .stdout(messages.try_clone()?)
        .stderr(messages.try_clone()?)
        .args(arguments(settings.memory_bytes));
    Setup {
        inherited: &[lock.as_fd()],
        umask: Some(0o077),
        unblock_signals: true,
        no_new_privs: true,
        confinement: Some(Arc::new(Prepared::new(&files(settings))?)),
        // It writes its append-only file to the end.
        parent_death_signal: Some(Signal::SIGTERM),
    }
    .apply(&mut command);
    command.spawn().and_then(Process::of_child)
}

/// What it may open: its directory; what a program needs; and where it looks how the kernel is set.
fn files(settings: &config::PrivateRedis) -> Files {
    const LIBRARIES: [&str; 7] =
        ["/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store"];
    const READ: [&str; 8] =
        ["/usr", "/etc", "/proc", "/sys", "/opt", "/dev/null", "/dev/random", "/dev/urandom"];
    Files::default()
        .path(&settings.dir, Right::Own)
        .path(&settings.server, Right::Execute)
        .paths(LIBRARIES, Right::Execute)
        .paths(READ, Right::Read)
        .path("/dev/null", Right::Own)
}

/// Each setting that matters is named, so that no default and no file of this host decides.
fn arguments(memory_bytes: u64) -> Vec<OsString> {
    let memory = memory_bytes.to_string();
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

/// The process of the worker's user that listens on the socket and answers, and whether it is ready;
/// it is not while it reads its append-only file.
pub(super) fn ask(dir: &Path, worker: &config::Worker) -> Option<(Process, bool)> {
    let mut stream = connect_without_waiting(&socket_path(dir)).ok()?;
    let peer = getsockopt(&stream, sockopt::PeerCredentials).ok()?;
    // These say who has called listen(2). A child of it may answer while the number is another's.
    let process = Process::found(peer.pid()).ok()?;
    if !process.runs_as(worker.uid) {
        return None;
    }
    let answer = ping(&mut stream).ok()?;
    (!answer.is_empty()).then(|| (process, answer.starts_with(b"+PONG")))
}

fn connect_without_waiting(path: &Path) -> Result<UnixStream, Errno> {
    let descriptor = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    connect(descriptor.as_raw_fd(), &UnixAddr::new(path.as_os_str().as_bytes())?)?;
    Ok(descriptor.into())
}

fn ping(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    const TIMEOUT: Option<Duration> = Some(Duration::from_millis(500));
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(TIMEOUT)?;
    stream.set_write_timeout(TIMEOUT)?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer)?;
    Ok(answer[..length].to_vec())
}

/// The private Redis in this directory does not run.
pub(super) fn failure(dir: &Path, reason: &str) -> Failure {
    let dir = dir.display();
    Failure::new(
        ExitCode::PrivateRedis,
        format!("private Redis in {dir}: {reason}; see {dir}/redis.log"),
    )
}
