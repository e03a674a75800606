//! Where the demonstration takes place: a mount with a private Redis, all of it for this alone.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, mkdtemp};
use redis::{Cmd, Connection, FromRedisValue};

use super::interrupted;
use crate::config::private_redis::socket_path;
use crate::exit::{ExitCode, Failure};
use crate::host::process::Setup;
use crate::host::signals::Signals;

/// The beginning of every key: the default.
pub(super) const PREFIX: &str = "sessionfs";
/// The mount starts a Redis and a worker.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// The mount drains, unmounts and stops its Redis, each within a bound of its own.
const END_WITHIN: Duration = Duration::from_secs(30);
/// Redis is on this host.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A mount that serves.
pub(super) struct Stage {
    directory: Directory,
    keeper: Child,
    redis: Option<Connection>,
    /// Configuration, log, the state of Redis; the last to go.
    folder: Folder,
}

impl Stage {
    /// Mounts on `dir`, or on a directory of its own.
    pub(super) fn set(
        dir: Option<&Path>,
        idle: Duration,
        signals: &mut Signals,
    ) -> Result<Self, Failure> {
        Failure::unless_root("mounting needs root; run it with sudo")?;
        let folder = Folder::make()?;
        let own = folder.path.join("sessions");
        let directory = Directory::take(dir.unwrap_or(&own))?;
        let mut keeper = match start(&folder, &directory.path, idle) {
            Ok(keeper) => keeper,
            Err(failure) => {
                let _ = directory.give_back();
                return Err(failure);
            }
        };
        let ready = await_ready(&mut keeper, &folder, signals);
        let mut stage = Self { directory, keeper, redis: None, folder };
        let connected = ready.and_then(|()| connect(&stage.folder));
        match connected {
            Ok(connection) => stage.redis = Some(connection),
            Err(failure) => {
                // Why it does not serve is the better message.
                let _ = stage.clear();
                return Err(failure);
            }
        }
        Ok(stage)
    }

    /// The mounted directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// Asks Redis.
    pub(super) fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Failure> {
        let failed = |e: &dyn std::fmt::Display| Failure::internal("ask Redis", e);
        let connection = self.redis.as_mut().ok_or_else(|| failed(&"not connected"))?;
        command.query(connection).map_err(|e| failed(&e))
    }

    /// Ends the mount, and makes everything as it was.
    pub(super) fn clear(mut self) -> Result<(), Failure> {
        self.redis = None;
        if let Err(failure) = end(&mut self.keeper) {
            // What is still mounted is not to be removed file by file.
            self.folder.is_used = true;
            return Err(failure);
        }
        self.directory.give_back()
    }
}

/// Starts `sessionfs mount`. If we are killed, it gets SIGTERM.
fn start(folder: &Folder, dir: &Path, idle: Duration) -> Result<Child, Failure> {
    let failed = |e: io::Error| Failure::internal("start the mount", e);
    let toml = folder.path.join("sessionfs.toml");
    std::fs::write(
        &toml,
        format!(
            "[redis]\nprefix = \"{PREFIX}\"\n[private_redis]\ndir = \"{}\"\n[lifetime]\nidle = \
             \"{}s\"\ngrace = \"1s\"\n",
            folder.redis().display(),
            idle.as_secs()
        ),
    )
    .map_err(failed)?;
    let log = File::create(folder.log()).map_err(failed)?;
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command
        .arg("mount")
        .arg("--config")
        .arg(toml)
        .args(["--owner", "root", "--log", "info"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    // A Ctrl-C does not reach its session: it is for us, who end it.
    let setup = Setup {
        unblock_signals: true,
        parent_death_signal: Some(Signal::SIGTERM),
        ..Setup::default()
    };
    setup.apply(&mut command);
    command.spawn().map_err(failed)
}

/// Waits for its line `ready DIR`, or says why it does not come.
fn await_ready(keeper: &mut Child, folder: &Folder, signals: &mut Signals) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::internal("start the mount", e);
    let stdout = keeper.stdout.as_mut().ok_or_else(|| failed(&"it has no output"))?;
    let until = Instant::now() + READY_WITHIN;
    // It writes the line at once, or ends.
    signals.wait(&[stdout.as_fd()], Some(until));
    interrupted(signals)?;
    if Instant::now() >= until {
        return Err(failed(&"it was not ready in time"));
    }
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).map_err(|e| failed(&e))?;
    if line.starts_with("ready ") {
        return Ok(());
    }
    let status = keeper.wait().map_err(|e| failed(&e))?;
    let log = std::fs::read_to_string(folder.log()).unwrap_or_default();
    let said = log.lines().rev().find_map(|line| line.strip_prefix("sessionfs: "));
    let code = ExitCode::ALL.iter().map(|(code, _)| *code);
    let code = code.into_iter().find(|code| status.code() == Some(u8::from(*code).into()));
    Err(Failure::new(
        code.unwrap_or(ExitCode::Internal),
        said.map_or_else(|| format!("the mount ended ({status})"), ToOwned::to_owned),
    ))
}

fn connect(folder: &Folder) -> Result<Connection, Failure> {
    let url = format!("unix:{}", socket_path(&folder.redis()).display());
    redis::Client::open(url)
        .and_then(|client| client.get_connection_with_timeout(ANSWER_WITHIN))
        .and_then(|connection| {
            connection.set_read_timeout(Some(ANSWER_WITHIN))?;
            connection.set_write_timeout(Some(ANSWER_WITHIN))?;
            Ok(connection)
        })
        .map_err(|e| Failure::internal("reach the private Redis", e))
}

/// Asks the mount to end, and waits for that.
fn end(keeper: &mut Child) -> Result<(), Failure> {
    const LOOK_EVERY: Duration = Duration::from_millis(20);
    let failed = |e: &dyn std::fmt::Display| Failure::internal("end the mount", e);
    let until = Instant::now() + END_WITHIN;
    let mut asked = false;
    while keeper.try_wait().map_err(|e| failed(&e))?.is_none() {
        if !asked {
            let pid = i32::try_from(keeper.id()).map_err(|e| failed(&e))?;
            kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|e| failed(&e))?;
            asked = true;
        }
        if Instant::now() >= until {
            return Err(Failure::new(
                ExitCode::Busy,
                format!("the mount (pid {}) does not stop; see 'findmnt -t fuse'", keeper.id()),
            ));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// The directory to mount on, with what it was.
struct Directory {
    path: PathBuf,
    made: bool,
    owner: (u32, u32),
    mode: u32,
}

impl Directory {
    /// Takes an empty one, or makes it. One with sessions in it would lose them to a Redis that is
    /// thrown away.
    fn take(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let failed = |code, e: &dyn std::fmt::Display, remedy: &str| {
            Failure::new(code, format!("{shown}: {e}; {remedy}"))
        };
        let made = match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => false,
            Err(e) => {
                return Err(failed(ExitCode::MountpointMissing, &e, "name another directory"));
            }
        };
        let unusable = |e: io::Error| match e.kind() {
            ErrorKind::NotADirectory => failed(ExitCode::NotADirectory, &e, "name a directory"),
            _ => failed(ExitCode::MountpointMissing, &e, "name another directory"),
        };
        if std::fs::read_dir(path).map_err(unusable)?.next().is_some() {
            return Err(failed(
                ExitCode::NotEmpty,
                &"is not empty",
                "name an empty directory, or one that does not exist",
            ));
        }
        let found = path.metadata().map_err(unusable)?;
        let path = path.canonicalize().map_err(unusable)?;
        Ok(Self { path, made, owner: (found.uid(), found.gid()), mode: found.mode() & 0o7777 })
    }

    fn give_back(&self) -> Result<(), Failure> {
        let given = if self.made {
            std::fs::remove_dir(&self.path)
        } else {
            std::os::unix::fs::chown(&self.path, Some(self.owner.0), Some(self.owner.1)).and_then(
                |()| std::fs::set_permissions(&self.path, Permissions::from_mode(self.mode)),
            )
        };
        given.map_err(|e| Failure::internal(format!("give {} back", self.path.display()), e))
    }
}

/// A new folder that the worker's user may pass through; removed when it is dropped.
struct Folder {
    path: PathBuf,
    is_used: bool,
}

impl Folder {
    fn make() -> Result<Self, Failure> {
        let temporary = std::env::temp_dir();
        let failed = |e: io::Error| {
            Failure::internal(format!("create a directory in {}", temporary.display()), e)
        };
        let path =
            mkdtemp(&temporary.join("sessionfs-demo-XXXXXX")).map_err(|e| failed(e.into()))?;
        let folder = Self { path, is_used: false };
        std::fs::set_permissions(&folder.path, Permissions::from_mode(0o711)).map_err(failed)?;
        Ok(folder)
    }

    fn redis(&self) -> PathBuf {
        self.path.join("redis")
    }

    fn log(&self) -> PathBuf {
        self.path.join("log")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_used {
            // Nobody is left to be informed.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
