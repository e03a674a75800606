//! A directory of its own, a keeper in it, and a look at everything it leaves behind.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than anything here may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Marks every process of one lab in its environment.
const MARK: &str = "SESSIONFS_TEST_LAB";

pub struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests mount, and need root");
        let dir = tempfile::tempdir().unwrap();
        // The worker's user goes through it.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn mountpoint(&self) -> PathBuf {
        self.path("mnt")
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Writes a configuration file with a private Redis in this lab.
    pub fn configure(&self, text: &str) -> PathBuf {
        let file = self.path("sessionfs.toml");
        let private = if text.contains("[private_redis]") {
            String::new()
        } else {
            format!("\n[private_redis]\ndir = {:?}\n", self.state())
        };
        std::fs::write(&file, format!("{text}{private}")).unwrap();
        file
    }

    /// A command of sessionfs, with the processes it starts marked as this lab's.
    pub fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
        command
            .args(arguments)
            .env_remove("SESSIONFS_LOG")
            .env(MARK, self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// `sessionfs mount` on this lab's mountpoint with this configuration.
    pub fn mount_command(&self, config: &str) -> Command {
        let file = self.configure(config);
        self.command([
            OsString::from("mount"),
            self.mountpoint().into(),
            "--config".into(),
            file.into(),
        ])
    }

    /// Mounts, and waits until it is ready.
    pub fn mount(&self, config: &str) -> Keeper {
        let keeper = Keeper::start(self.mount_command(config));
        keeper.wait_ready();
        keeper
    }

    /// What is mounted at or below this lab.
    pub fn mounts(&self) -> Vec<String> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.path().to_str().unwrap().to_owned();
        table.lines().filter(|line| line.contains(&dir)).map(ToOwned::to_owned).collect()
    }

    /// The processes that were started in this lab: by their mark, or by where they work.
    pub fn processes(&self) -> Vec<i32> {
        let mark = format!("{MARK}={}", self.dir.path().display());
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| {
                let proc = PathBuf::from(format!("/proc/{pid}"));
                let marked = std::fs::read(proc.join("environ"))
                    .is_ok_and(|all| all.split(|b| *b == 0).any(|one| one == mark.as_bytes()));
                let inside = std::fs::read_link(proc.join("cwd"))
                    .is_ok_and(|cwd| cwd.starts_with(self.dir.path()));
                (marked || inside) && !is_zombie(*pid)
            })
            .collect()
    }

    /// Nothing is mounted, no process runs, and nothing of ours lies on the tmpfs.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert_eq!(self.mounts(), Vec::<String>::new());
        let processes: Vec<_> = self.processes().into_iter().map(|pid| (pid, words(pid))).collect();
        assert!(processes.is_empty(), "{processes:?}");
        let staging = self.staging();
        assert!(staging.is_empty(), "{staging:?}");
    }

    /// Staging directories of this lab's mounts.
    pub fn staging(&self) -> Vec<PathBuf> {
        let name = self.dir.path().file_name().unwrap().to_str().unwrap().to_owned();
        ["/run/sessionfs", "/dev/shm/sessionfs"]
            .iter()
            .flat_map(std::fs::read_dir)
            .flatten()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir() && path.to_str().unwrap().contains(&name))
            .collect()
    }

    /// The private Redis of this lab.
    pub fn redis_pids(&self) -> Vec<i32> {
        let state = self.state();
        self.processes()
            .into_iter()
            .filter(|pid| {
                std::fs::read_link(format!("/proc/{pid}/cwd")).ok() == Some(state.clone())
            })
            .collect()
    }

    /// Says something to the private Redis.
    pub fn redis(&self, command: &str) -> String {
        ask(&self.state().join("redis.sock"), command)
    }

    /// Waits until another private Redis than `died` has read its data and answers.
    pub fn wait_for_other_redis(&self, died: i32) {
        let socket = self.state().join("redis.sock");
        let deadline = Instant::now() + PATIENCE;
        // While it reads its data, the answer to a PING is that.
        let answers = || {
            let mut stream = UnixStream::connect(&socket).ok()?;
            stream.write_all(b"PING\r\n").ok()?;
            let mut said = String::new();
            BufReader::new(stream).read_line(&mut said).ok()?;
            Some(said == "+PONG\r\n")
        };
        let is_back = || {
            let pids = self.redis_pids();
            !pids.is_empty() && !pids.contains(&died) && answers() == Some(true)
        };
        while !is_back() {
            assert!(Instant::now() < deadline, "no other Redis came");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until what the private Redis has acknowledged is in its append-only file. It answers
    /// first, for up to two seconds, where an fsync of a slow disk is under way
    /// (`flushAppendOnlyFile` in Redis's `aof.c`).
    pub fn wait_appended(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.redis("INFO persistence").contains("aof_buffer_length:0\r\n") {
            assert!(Instant::now() < deadline, "never written");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Lab {
    /// A failed test leaves nothing behind, either.
    fn drop(&mut self) {
        for pid in self.processes() {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        while umount2(&self.mountpoint(), MntFlags::MNT_DETACH).is_ok() {}
        for path in self.staging() {
            let _ = std::fs::remove_dir_all(path);
        }
        // Lock files stay for good; those of a directory that will never be again need not.
        let name = self.dir.path().file_name().unwrap().to_str().unwrap();
        for entry in std::fs::read_dir("/run/sessionfs").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains(name) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// Lines of a pipe as they come.
struct Lines {
    coming: Receiver<String>,
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let (found, coming) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if found.send(line).is_err() {
                    break;
                }
            }
        });
        Self { coming }
    }

    #[track_caller]
    fn wait(&self, what: &str) -> String {
        let until = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            match self.coming.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(what) => return line,
                Ok(line) => seen.push(line),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no line with '{what}' came, but {seen:#?}")
                }
            }
        }
    }

    fn rest(self) -> Vec<String> {
        self.coming.iter().collect()
    }
}

/// A running `sessionfs mount`, or another program that tells when it is ready.
pub struct Keeper {
    child: Child,
    out: Lines,
    log: Lines,
}

impl Keeper {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = Lines::of(child.stdout.take().unwrap());
        let log = Lines::of(child.stderr.take().unwrap());
        Self { child, out, log }
    }

    pub fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    #[track_caller]
    pub fn wait_ready(&self) {
        self.wait_out("ready ");
    }

    #[track_caller]
    pub fn wait_out(&self, what: &str) -> String {
        self.out.wait(what)
    }

    #[track_caller]
    pub fn wait_log(&self, what: &str) -> String {
        self.log.wait(what)
    }

    /// Nobody reads its log from now on.
    pub fn close_log(&mut self) {
        self.log = Lines::of(std::io::empty());
    }

    /// The worker that serves now.
    pub fn worker(&self) -> i32 {
        children(self.pid())
            .into_iter()
            .find(|pid| words(*pid).iter().any(|word| word == "worker"))
            .expect("a worker runs")
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for its end; gives its status and its last words.
    #[track_caller]
    pub fn wait(mut self) -> (ExitStatus, Vec<String>) {
        let until = Instant::now() + PATIENCE;
        // Its standard error ends with it (and with its worker).
        let mut said = Vec::new();
        loop {
            match self.log.coming.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {said:#?}"),
            }
        }
        (self.child.wait().unwrap(), said)
    }

    /// Asks for the end by this signal, and expects a good one.
    #[track_caller]
    pub fn end(self, signal: Signal) -> Vec<String> {
        self.signal(signal);
        let (status, said) = self.wait();
        assert!(status.success(), "{status}: {said:#?}");
        said
    }

    /// Its end by force.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // Ends with the worker, which dies with its keeper.
        drop(self.log.rest());
    }
}

/// A Redis of this test's own, with these arguments, on `redis.sock` of the lab.
pub struct OwnRedis(Keeper);

impl OwnRedis {
    pub fn start(lab: &Lab, arguments: &[&str]) -> Self {
        let mut command = Command::new("redis-server");
        command
            .args(["--port", "0", "--save", "", "--unixsocketperm", "777", "--unixsocket"])
            .arg(lab.path("own.sock"))
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null());
        let server = Keeper::start(command);
        server.wait_out("ready to accept connections");
        Self(server)
    }

    pub fn url(lab: &Lab) -> String {
        format!("unix:{}", lab.path("own.sock").display())
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        self.0.child.kill().unwrap();
        self.0.child.wait().unwrap();
    }
}

/// Says one inline command to a Redis.
pub fn ask(socket: &Path, command: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{command}\r\nPING\r\n").as_bytes()).unwrap();
    let mut said = String::new();
    let mut reader = BufReader::new(stream);
    while !said.ends_with("+PONG\r\n") {
        assert_ne!(reader.read_line(&mut said).unwrap(), 0, "{said}");
    }
    said.trim_end_matches("+PONG\r\n").trim().to_owned()
}

/// Waits for a process to end that is not a child of this test.
#[track_caller]
pub fn wait_gone(pid: i32) {
    // Woken by the end itself.
    let Some(descriptor) = pidfd(pid) else { return };
    let mut polled = [nix::poll::PollFd::new(descriptor.as_fd(), nix::poll::PollFlags::POLLIN)];
    let wait_ms: u16 = PATIENCE.as_millis().try_into().unwrap();
    assert_eq!(nix::poll::poll(&mut polled, wait_ms), Ok(1), "process {pid} does not end");
}

/// Shares the descriptor by which a process holds this file open.
#[track_caller]
pub fn copy_descriptor(pid: i32, path: &Path) -> OwnedFd {
    let number = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|entry| std::fs::read_link(entry).is_ok_and(|target| target == path))
        .and_then(|entry| entry.file_name()?.to_str()?.parse::<i32>().ok())
        .expect("it has the file open");
    let process = pidfd(pid).unwrap();
    // SAFETY: pidfd_getfd takes a descriptor, which is open, and two numbers.
    owned(unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })
        .unwrap()
}

fn pidfd(pid: i32) -> Option<OwnedFd> {
    // SAFETY: pidfd_open takes two numbers.
    owned(unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) })
}

/// What a system call gave: a new descriptor, or an error.
fn owned(result: i64) -> Option<OwnedFd> {
    let raw = i32::try_from(result).ok().filter(|raw| *raw >= 0)?;
    // SAFETY: the kernel has just made it for us.
    Some(unsafe { OwnedFd::from_raw_fd(raw) })
}

pub fn kill_hard(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_gone(pid);
}

/// The children of a process's main thread.
pub fn children(pid: i32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap();
    text.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

pub fn words(pid: i32) -> Vec<String> {
    let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    text.split(|b| *b == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn is_zombie(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

/// One field of a process's status.
pub fn status(pid: i32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let prefix = format!("{field}:");
    text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().trim().to_owned()
}

/// Runs a command in a mount namespace of its own, in which `prepare` has mounted something.
pub fn in_namespace(
    command: &mut Command,
    prepare: impl Fn() -> nix::Result<()> + Send + Sync + 'static,
) -> &mut Command {
    let enter = move || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_PRIVATE | MsFlags::MS_REC,
            None::<&str>,
        )?;
        prepare()?;
        Ok(())
    };
    // SAFETY: the closures make system calls only; the paths they use were made before.
    unsafe { command.pre_exec(enter) }
}
