//! A real mount: the built `sessionfs`, a directory of its own, and Odoo's way to read and save.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::redis::Redis;

/// From the start of the daemon until its mount must be ready, and from its end until it is gone.
const WITHIN: Duration = Duration::from_secs(30);

const STRICT: &str = "[near_cache]\nfreshness = \"strict\"\n";
const NEAR: &str = "[near_cache]\nfreshness = \"near\"\n";

pub struct Mount {
    directory: tempfile::TempDir,
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// What it was started with.
    arguments: Vec<OsString>,
}

impl Mount {
    /// A node on `redis`, with further lines of configuration (top-level keys first).
    pub fn start(redis: &Redis, configuration: &str) -> Self {
        Self::start_in(redis, configuration, Command::new(env!("CARGO_BIN_EXE_sessionfs")))
    }

    /// The same, with the tree owned by another user than root.
    pub fn start_owned(redis: &Redis, configuration: &str, owner: (&str, &str)) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
        Self::start_as(redis, configuration, owner, command, |_| ())
    }

    /// The same, over a directory that `fill` has put something into.
    pub fn start_over(
        redis: &Redis,
        configuration: &str,
        owner: (&str, &str),
        fill: impl FnOnce(&Path),
    ) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
        Self::start_as(redis, configuration, owner, command, fill)
    }

    /// The same, with the command that the daemon's arguments are added to.
    pub fn start_in(redis: &Redis, configuration: &str, command: Command) -> Self {
        Self::start_as(redis, configuration, ("root", "root"), command, |_| ())
    }

    /// The same, with the tree owned by another user than root.
    pub fn start_owned_in(
        redis: &Redis,
        configuration: &str,
        owner: (&str, &str),
        command: Command,
    ) -> Self {
        Self::start_as(redis, configuration, owner, command, |_| ())
    }

    /// A node on the Redis of this URL, which is not a socket.
    pub fn start_on(url: &str, configuration: &str) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
        Self::begin(url, configuration, ("root", "root"), command, |_| ())
    }

    fn start_as(
        redis: &Redis,
        configuration: &str,
        owner: (&str, &str),
        command: Command,
        fill: impl FnOnce(&Path),
    ) -> Self {
        // The worker is another user: it must be let through to its Redis.
        std::fs::set_permissions(redis.directory(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(redis.socket(), PermissionsExt::from_mode(0o777)).unwrap();
        Self::begin(&redis.url(), configuration, owner, command, fill)
    }

    fn begin(
        url: &str,
        configuration: &str,
        (owner, group): (&str, &str),
        mut command: Command,
        fill: impl FnOnce(&Path),
    ) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::create_dir(directory.path().join("sessions")).unwrap();
        fill(&directory.path().join("sessions"));
        let toml = directory.path().join("sessionfs.toml");
        // What most tests ask about is what holds at once; they can be tried with the default, too.
        let more = std::env::var("SESSIONFS_TEST_NEAR").map_or(STRICT, |_| NEAR);
        let more = if configuration.contains("[near_cache]") { "" } else { more };
        std::fs::write(&toml, format!("{configuration}\n{more}")).unwrap();
        let mut arguments: Vec<OsString> =
            ["mount", "--log", "trace", "--owner", owner, "--group", group, "--redis", url]
                .map(OsString::from)
                .into();
        arguments.extend(["--config".into(), toml.into()]);
        arguments.push(directory.path().join("sessions").into());
        let (child, stdout) = spawn(&mut command, &arguments, directory.path());
        let mut mount = Self { directory, child, stdout, arguments };
        mount.wait_until_served();
        mount
    }

    /// Ends it, and starts it once more on the same directory, with another Redis if one is given.
    pub fn restart(&mut self, redis: Option<&Redis>) {
        self.end();
        if let Some(redis) = redis {
            let at = self.arguments.iter().position(|word| word == "--redis").unwrap() + 1;
            self.arguments[at] = redis.url().into();
            std::fs::set_permissions(redis.directory(), PermissionsExt::from_mode(0o755)).unwrap();
            std::fs::set_permissions(redis.socket(), PermissionsExt::from_mode(0o777)).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
        (self.child, self.stdout) = spawn(&mut command, &self.arguments, self.directory.path());
        self.wait_until_served();
    }

    /// Starts it once more on the same directory with this command, when it has been killed.
    pub fn spawn_again_in(&mut self, command: &mut Command) {
        (self.child, self.stdout) = spawn(command, &self.arguments, self.directory.path());
    }

    /// The mounted directory.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("sessions")
    }

    /// The id of the keeper.
    pub fn keeper(&self) -> u32 {
        self.child.id()
    }

    /// The configuration file.
    pub fn configuration(&self) -> PathBuf {
        self.directory.path().join("sessionfs.toml")
    }

    /// A command of sessionfs about this mount; its exit code and what it said.
    pub fn command(&self, name: &str) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_sessionfs"))
            .arg(name)
            .arg(self.path())
            .output()
            .expect("sessionfs runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The id of the process that serves: the keeper's child.
    pub fn worker(&self) -> u32 {
        self.child_of_kind("worker").expect("a worker")
    }

    /// The same, if there is one now.
    pub fn any_worker(&self) -> Option<u32> {
        self.child_of_kind("worker")
    }

    /// The id of a process that touches session files for the worker.
    pub fn disk(&self) -> Option<u32> {
        self.child_of_kind("disk")
    }

    /// The id of the process that asks whether the mount answers, if there is one now.
    pub fn prober(&self) -> Option<u32> {
        self.child_of_kind("prober")
    }

    /// The youngest child of that kind: after a reload the former worker may be about to end.
    pub fn child_of_kind(&self, command: &str) -> Option<u32> {
        let keeper = self.child.id().to_string();
        let started = |pid: u32| -> Option<u64> {
            let read = |file| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let stat = String::from_utf8_lossy(&read("stat")).into_owned();
            // After the command, which may hold anything: the state, then the parent, and at
            // its place the start time (proc(5)).
            let fields: Vec<_> = stat.rsplit(')').next()?.split_whitespace().collect();
            let is_wanted = *fields.get(1)? == keeper
                && read("cmdline").split(|&byte| byte == 0).nth(1) == Some(command.as_bytes());
            if is_wanted { fields.get(19)?.parse().ok() } else { None }
        };
        std::fs::read_dir("/proc")
            .expect("proc")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(|pid| Some((started(pid)?, pid)))
            .max()
            .map(|(_, pid)| pid)
    }

    /// Waits until a mount is ready (once more).
    pub fn wait_until_served(&mut self) {
        let mut line = String::new();
        // Ends when the daemon says that it is ready, or ends.
        self.stdout.read_line(&mut line).expect("a line");
        assert!(line.starts_with("ready "), "not ready: {line:?}\n{}", self.log());
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Waits until its log holds `text`.
    pub fn wait_for_log(&self, text: &str) {
        let deadline = Instant::now() + WITHIN;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "never logged {text:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills the keeper; its worker dies with it, and the mount stays dead.
    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        let deadline = Instant::now() + WITHIN;
        while self.child.try_wait().expect("a child").is_none() {
            assert!(Instant::now() < deadline, "the keeper does not die");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it ends by itself, and returns its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().expect("a child").code()
    }

    /// Asks it to end, waits, and returns its log.
    pub fn stop(mut self) -> String {
        self.end();
        self.log()
    }

    /// Asks it to end, and looks at what lies there then.
    pub fn stop_and<T>(mut self, look: impl FnOnce() -> T) -> T {
        self.end();
        look()
    }

    fn end(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let deadline = Instant::now() + WITHIN;
        while self.child.try_wait().expect("a child").is_none() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The file of a session of Odoo 16 and later.
    pub fn sharded(&self, sid: &str) -> PathBuf {
        self.path().join(&sid[..2]).join(sid)
    }

    /// The file of a session of Odoo 14 and 15.
    pub fn flat(&self, sid: &str) -> PathBuf {
        self.path().join(format!("werkzeug_{sid}.sess"))
    }

    /// A save as `FilesystemSessionStore.save` makes it.
    pub fn save(&self, sid: &str, content: &[u8]) -> io::Result<()> {
        self.save_as(&self.sharded(sid), content)
    }

    /// The same onto any name.
    pub fn save_as(&self, target: &Path, content: &[u8]) -> io::Result<()> {
        let temp = self.stage(content)?;
        let renamed = std::fs::rename(&temp, target);
        if renamed.is_err() {
            let _ = std::fs::remove_file(&temp);
        }
        renamed?;
        std::fs::set_permissions(target, std::fs::Permissions::from_mode(0o644))
    }

    /// The first half of a save: the written temp file.
    pub fn stage(&self, content: &[u8]) -> io::Result<PathBuf> {
        let temp = self.path().join(temp_name());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&temp)?;
        file.write_all(content)?;
        Ok(temp)
    }

    /// A read as `FilesystemSessionStore.get` makes it.
    pub fn read(&self, sid: &str) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        File::open(self.sharded(sid))?.read_to_end(&mut content)?;
        Ok(content)
    }

    /// What one request of Odoo does: read the session, then save it.
    pub fn save_in_request(&self, sid: &str, content: &[u8]) -> io::Result<()> {
        let _ = self.read(sid);
        self.save(sid, content)
    }

    /// Ends a session.
    pub fn unlink(&self, sid: &str) -> io::Result<()> {
        std::fs::remove_file(self.sharded(sid))
    }

    /// What a Python script prints, run in a process of its own with the mounted directory and
    /// `arguments` as its arguments.
    #[track_caller]
    pub fn python(&self, script: &str, arguments: &[&str]) -> String {
        self.python_as(0, script, arguments)
    }

    /// The same as another user.
    #[track_caller]
    pub fn python_as(&self, uid: u32, script: &str, arguments: &[&str]) -> String {
        let output = Command::new("python3")
            .args(["-c", script])
            .arg(self.path())
            .args(arguments)
            .uid(uid)
            .gid(uid)
            .current_dir("/")
            .output()
            .expect("python3 runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}\n{}", self.log());
        String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
    }

    /// The names in a directory, sorted.
    pub fn list(&self, directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .expect("a listing")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("ASCII"))
            .collect();
        names.sort();
        names
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.end();
        // Only if the daemon was killed: a test must leave no mount behind, nor anybody who waits for it.
        let _ = nix::mount::umount2(&self.path(), nix::mount::MntFlags::MNT_FORCE);
        let _ = nix::mount::umount2(&self.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Starts it, with a log that goes on.
fn spawn(
    command: &mut Command,
    arguments: &[OsString],
    directory: &Path,
) -> (Child, BufReader<ChildStdout>) {
    let log = File::options().append(true).create(true).open(directory.join("log")).unwrap();
    let mut child = command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("sessionfs starts");
    let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    (child, stdout)
}

/// The alias of a session, as listings show it.
pub fn alias(sid: &str) -> String {
    let sid = sessionfs::session::name::Sid::parse(sid).expect("a session id");
    sid.alias().as_str().to_owned()
}

/// Installs the program at a path, also in the place of one that runs.
pub fn install(program: &Path) {
    let new = program.with_extension("new");
    // Not by this process: a test beside this one may start another just now, which would hold the file open for writing,
    // and the kernel executes none that is.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_sessionfs")).arg(&new).status();
    assert!(copied.expect("cp runs").success());
    std::fs::rename(new, program).expect("replaced");
}

/// The program in a PID namespace below ours, from which ours cannot be seen.
pub fn in_a_pid_namespace_below() -> Command {
    let mut apart = Command::new("sh");
    apart.args([
        "-c",
        "trap 'kill -TERM $(pgrep -P $unshare)' TERM
         unshare --pid --fork --kill-child=KILL -- \"$@\" & unshare=$!
         wait; wait",
        "sh",
        env!("CARGO_BIN_EXE_sessionfs"),
    ]);
    apart
}

/// The errno of what must fail.
#[track_caller]
pub fn errno<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.raw_os_error().expect("an errno"),
    }
}

/// One thread, as one worker of Odoo is: what it opened is remembered of it alone.
#[track_caller]
pub fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// A name such as `tempfile.mkstemp(suffix=".__wz_sess")` makes.
pub fn temp_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let unique =
        NEXT.fetch_add(1, Ordering::Relaxed) + u64::from(std::process::id() % 1000) * 10_000;
    format!("tmp{unique:08}.__wz_sess")
}

/// An 84-character session id of Odoo 18 and 19.
pub fn sid(shard: &str, seed: u64) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut sid = shard.to_owned();
    while sid.len() < 84 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        sid.push(char::from(ALPHABET[usize::try_from(state % 64).unwrap()]));
    }
    sid
}

/// The content of somebody who is logged in, as Odoo 18 writes it.
pub fn authenticated(note: &str) -> Vec<u8> {
    format!(
        r#"{{"context": {{"lang": "en_US", "uid": 2}}, "db": "shop", "debug": "", "login": "admin", "uid": 2, "session_token": "{}", "note": "{note}"}}"#,
        "5f".repeat(32)
    )
    .into_bytes()
}

/// The content of a visitor.
pub fn anonymous(note: &str) -> Vec<u8> {
    format!(
        r#"{{"context": {{"lang": "en_US"}}, "db": "shop", "debug": "", "login": null, "uid": null, "session_token": null, "note": "{note}"}}"#
    )
    .into_bytes()
}
