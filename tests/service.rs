//! What a service manager is told, and what is done with a worker that lives and serves nobody.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

use std::io::{IoSliceMut, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use sessionfs::exit::ExitCode;
use support::http;
use support::mount::{Mount, authenticated, errno, sid};
use support::redis::Redis;

/// Longer than anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Stands for systemd.
struct Manager {
    socket: UnixDatagram,
    directory: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, directory }
    }

    fn command(&self, watchdog: Duration) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
        command
            .env("NOTIFY_SOCKET", self.directory.path().join("notify"))
            .env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        command
    }

    /// From now on it does not read, and nothing more fits into its socket.
    fn fill(&self) {
        loop {
            let other = UnixDatagram::unbound().unwrap();
            other.set_nonblocking(true).unwrap();
            other.connect(self.directory.path().join("notify")).unwrap();
            let mut sent = 0;
            while other.send(b"X=1\n").is_ok() {
                sent += 1;
            }
            // Otherwise it is its own buffer that is full: systemd allows for a longer queue.
            if sent == 0 {
                break;
            }
        }
    }

    /// All that was said until this line came, with it.
    #[track_caller]
    fn hear(&self, expected: &str) -> Vec<String> {
        let mut heard = Vec::new();
        let mut packet = [0; 4096];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let received = self.socket.recv(&mut packet);
            let Some(length) = received.ok().filter(|_| Instant::now() < deadline) else {
                panic!("'{expected}' was not said, but {heard:#?}");
            };
            let text = String::from_utf8_lossy(&packet[..length]).into_owned();
            heard.extend(text.lines().map(ToOwned::to_owned));
            if heard.iter().any(|line| line.starts_with(expected)) {
                return heard;
            }
        }
    }
}

fn environment(pid: u32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/environ")).unwrap()).into_owned()
}

#[test]
fn a_service_manager_is_told_of_each_state() {
    let redis = Redis::start();
    let manager = Manager::new();
    let mount = Mount::start_in(&redis, "", manager.command(Duration::from_millis(300)));
    let path = mount.path();
    let serving = format!("STATUS=serving {}", path.display());

    let start = manager.hear("READY=1");
    assert!(start.iter().any(|line| line.starts_with("STATUS=waiting for Redis at ")), "{start:?}");
    assert!(start.iter().any(|line| line == "EXTEND_TIMEOUT_USEC=30000000"), "{start:?}");
    manager.hear(&serving);
    // Again and again, while nothing happens.
    for _ in 0..3 {
        manager.hear("WATCHDOG=1");
    }
    assert!(!environment(mount.worker()).contains("NOTIFY_SOCKET"));
    assert!(!environment(mount.worker()).contains("WATCHDOG"));

    assert_eq!(mount.command("reload").0, Some(0));
    let reload = manager.hear("RELOADING=1");
    assert!(reload.iter().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reload:?}");
    let reload = manager.hear("READY=1");
    assert!(reload.iter().any(|line| line == "EXTEND_TIMEOUT_USEC=30000000"), "{reload:?}");
    std::fs::write(mount.configuration(), "idel = 1").unwrap();
    assert_ne!(mount.command("reload").0, Some(0));
    manager.hear("RELOADING=1");
    manager.hear("READY=1");
    manager.hear(&format!("{serving}; the last reload failed: "));

    let pid = nix::unistd::Pid::from_raw(mount.worker().try_into().unwrap());
    kill(pid, Signal::SIGKILL).unwrap();
    manager.hear("STATUS=the worker died");
    manager.hear(&serving);
    mount.stop();
    manager.hear("STOPPING=1");
}

#[test]
fn a_service_manager_that_does_not_read_holds_nobody() {
    let redis = Redis::start();
    let manager = Manager::new();
    let mount = Mount::start_in(&redis, "", manager.command(Duration::from_millis(300)));
    manager.hear("READY=1");
    manager.fill();
    let pid = nix::unistd::Pid::from_raw(mount.worker().try_into().unwrap());
    kill(pid, Signal::SIGKILL).unwrap();
    http::until("another worker serves", || mount.log().matches("keeper: ready").count() == 2);
    assert_eq!(mount.command("reload").0, Some(0));
    // It hears of that later, in this order.
    for line in ["READY=1", "RELOADING=1", "READY=1", "WATCHDOG=1"] {
        manager.hear(line);
    }
    manager.fill();
    mount.stop();
}

#[test]
fn a_service_manager_is_told_how_it_stands_with_redis() {
    const WAITING: &str = "STATUS=waiting for Redis, ";
    let mut redis = Redis::start_with(&["--unixsocketperm", "777"]);
    let manager = Manager::new();
    let mount = Mount::start_in(&redis, "", manager.command(Duration::from_secs(60)));
    let serving = format!("STATUS=serving {}", mount.path().display());
    manager.hear(&serving);
    let _: String = redis.run("CONFIG SET maxmemory 1");
    manager.hear(&format!("{serving}; Redis accepts no writes: OOM command not allowed"));
    let _: String = redis.run("CONFIG SET maxmemory 0");
    manager.hear(&serving);
    redis.kill();
    // Second by second, while nothing else happens; a busy machine may leave one out.
    let mut last = None;
    for _ in 0..3 {
        let heard = manager.hear(WAITING);
        let line = heard.iter().rfind(|line| line.starts_with(WAITING)).unwrap();
        let seconds: u64 = line.rsplit(' ').nth(1).unwrap().parse().unwrap();
        assert!(last < Some(seconds), "{line} after {last:?}");
        last = Some(seconds);
    }
    redis.restart();
    manager.hear(&serving);
    mount.stop();
}

/// Redis that keeps what it has acknowledged, and whose socket is everybody's.
const DURABLE: [&str; 6] =
    ["--appendonly", "yes", "--appendfsync", "always", "--unixsocketperm", "777"];
const SOON: &str = "[redis]\nstart_wait = \"300ms\"\n[outage]\nwait_total = \"5min\"\n";

/// A Redis with a session, that is down; and a start of a service on it.
fn late(manager: &Manager, id: &str) -> (Redis, Mount) {
    let mut redis = Redis::start_with(&DURABLE);
    let before = Mount::start(&redis, "");
    before.save(id, &authenticated("kept")).unwrap();
    before.stop();
    redis.kill();
    let mount = Mount::start_in(&redis, SOON, manager.command(Duration::from_secs(60)));
    let start = manager.hear("READY=1");
    assert!(start.iter().any(|line| line.starts_with("STATUS=waiting for Redis at ")), "{start:?}");
    manager.hear("STATUS=waiting for Redis, ");
    (redis, mount)
}

#[test]
fn a_service_is_mounted_without_redis_and_serves_when_it_comes() {
    let (manager, id) = (Manager::new(), sid("aa", 1));
    let (mut redis, mount) = late(&manager, &id);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| mount.read(&id));
        mount.wait_for_log("still waiting for Redis");
        redis.restart();
        assert_eq!(waiting.join().unwrap().unwrap(), authenticated("kept"));
    });
    manager.hear(&format!("STATUS=serving {}", mount.path().display()));
    mount.wait_for_log("connected to Redis server=");
    mount.stop();
}

#[test]
fn a_late_redis_that_cannot_serve_is_an_error_and_counts_as_down() {
    let (manager, id) = (Manager::new(), sid("aa", 1));
    let (mut redis, mount) = late(&manager, &id);
    let locked = [&DURABLE[..], &["--requirepass", "secret"]].concat();
    redis.restart_with(&locked);
    mount.wait_for_log("refuses the user or the password; correct redis.username");
    assert!(mount.log().contains("ERROR"), "{}", mount.log());
    let client = redis::Client::open(redis.url_as("default", "secret")).unwrap();
    let mut connection = client.get_connection().unwrap();
    redis::cmd("CONFIG").arg(&["SET", "requirepass", ""]).query::<()>(&mut connection).unwrap();
    assert_eq!(mount.read(&id).unwrap(), authenticated("kept"));
    mount.stop();
}

#[test]
fn what_waiting_does_not_mend_ends_the_start_of_a_service() {
    let redis = Redis::start_with(&["--unixsocketperm", "777", "--requirepass", "secret"]);
    let directory = tempfile::tempdir().unwrap();
    let manager = Manager::new();
    let start = |url: &str| {
        let mut command = manager.command(Duration::from_secs(60));
        command.args(["mount", "--redis", url]).arg(directory.path());
        command.output().unwrap().status.code()
    };
    assert_eq!(start(&redis.url()), Some(u8::from(ExitCode::RedisPassword).into()));
}

#[test]
fn a_worker_that_serves_nobody_is_replaced() {
    let redis = Redis::start();
    let mut mount = Mount::start(&redis, "[worker]\nanswer_within = \"1s\"\n");
    let sid = sid("aa", 1);
    mount.save(&sid, &authenticated("kept")).unwrap();
    let worker = mount.worker();
    let pid = nix::unistd::Pid::from_raw(worker.try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    mount.wait_for_log("event=\"worker_stuck\" answer_within_ms=1000");
    mount.wait_until_served();
    assert_ne!(mount.worker(), worker);
    assert_eq!(mount.read(&sid).unwrap(), authenticated("kept"));
}

#[test]
fn an_outage_of_redis_is_no_fault_of_the_worker() {
    let mut redis = Redis::start();
    let configuration = "[worker]\nanswer_within = \"1s\"\n\
        [outage]\nwait_step = \"500ms\"\nwait_total = \"4s\"\n";
    let mount = Mount::start(&redis, configuration);
    let sid = sid("aa", 1);
    mount.save(&sid, &authenticated("kept")).unwrap();
    let worker = mount.worker();
    redis.pause();
    // Ends when the outage has used up its budget: four times what the worker has for an answer.
    assert_eq!(errno(mount.read(&sid)), libc::EIO);
    redis.resume();
    assert_eq!(mount.worker(), worker);
    assert!(!mount.log().contains("worker_stuck"));
}

/// The file is root's alone, so the worker has it from the keeper.
#[test]
fn a_changed_password_is_used_at_the_next_connection() {
    let redis = Redis::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "first\n").unwrap();
    let _: String = redis.run("ACL SETUSER shop on >first ~* &* +@all");
    let configuration =
        format!("[redis]\nusername = \"shop\"\npassword_file = {:?}\n", file.path());
    let mount = Mount::start(&redis, &configuration);
    let (sid, worker) = (sid("aa", 1), mount.worker());
    mount.save(&sid, &authenticated("kept")).unwrap();
    std::fs::write(file.path(), "second\n").unwrap();
    let _: String = redis.run("ACL SETUSER shop resetpass >second");
    let _: i64 = redis.run("CLIENT KILL USER shop");
    assert_eq!(mount.read(&sid).unwrap(), authenticated("kept"));
    assert_eq!(mount.worker(), worker);
    mount.stop();
}

#[test]
fn an_orderly_end_leaves_nothing_in_the_runtime_directory() {
    let redis = Redis::start();
    let mount = Mount::start(&redis, "");
    let path = mount.path();
    // A part of its path that no other mount has.
    let own = path.components().rev().nth(1).unwrap().as_os_str().to_string_lossy().into_owned();
    let left = || {
        let found = std::fs::read_dir("/run/sessionfs").unwrap();
        let names = found.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.contains(&own)).collect::<Vec<_>>()
    };
    assert!(!left().is_empty());
    mount.stop();
    assert_eq!(left(), Vec::<String>::new());
}

#[test]
fn an_orderly_end_leaves_no_process() {
    let redis = Redis::start();
    let mount = Mount::start(&redis, "");
    let processes = ["worker", "disk", "prober", "guard"].map(|kind| mount.child_of_kind(kind));
    assert!(processes[2].is_some());
    mount.stop();
    for pid in processes.into_iter().flatten() {
        // Init may take a moment to reap it.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        assert!(matches!(state, None | Some('Z' | 'X')), "{processes:?}: {pid}: {stat}");
    }
}

/// `sessionfs` with the arguments of a test's mount, by a shell that has made something of them.
fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    let script = format!("set -e; {script}");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_sessionfs")]);
    command
}

#[test]
fn the_journal_is_told_the_priority_of_each_line() {
    let redis = Redis::start();
    // What systemd says of the journal's socket is true of the test's log.
    let command = shell(
        "JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2); export JOURNAL_STREAM; exec \"$0\" \"$@\"",
    );
    let mut mount = Mount::start_in(&redis, "", command);
    let worker = nix::unistd::Pid::from_raw(mount.worker().try_into().unwrap());
    kill(worker, Signal::SIGKILL).unwrap();
    mount.wait_until_served();
    let log = mount.stop();
    for line in log.lines() {
        let priority = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
        let (number, rest) = priority.unwrap_or_else(|| panic!("no priority: {line}"));
        let level = match number {
            "3" => &["ERROR"][..],
            "4" => &["WARN"],
            "6" => &["INFO"],
            _ => &["DEBUG", "TRACE"],
        };
        assert!(level.iter().any(|word| rest.starts_with(word)), "{line}");
    }
    for line in
        ["<3>ERROR sessionfs::telemetry: event=\"worker_died\"", "<6>INFO sessionfs::keeper: ready"]
    {
        assert!(log.contains(line), "{log}");
    }
}

#[test]
fn an_outage_is_a_few_lines_and_none_is_lost() {
    const FAILED: usize = 500;
    let mut redis = Redis::start();
    // The test's mounts log everything; this one logs what a service does.
    let command = shell("shift 3; exec \"$0\" mount --log info \"$@\"");
    let configuration = "[outage]\nwait_step = \"100ms\"\nwait_total = \"100ms\"\n";
    let mount = Mount::start_in(&redis, configuration, command);
    redis.pause();
    for number in 0..FAILED {
        assert_eq!(errno(mount.read(&sid("aa", number as u64))), libc::EIO);
    }
    redis.resume();
    // Told once it is over, too, when nobody asks for anything any more.
    mount.wait_for_log(" more of this kind in ");
    let log = mount.stop();
    let failed: Vec<&str> = log.lines().filter(|line| line.contains("EIO")).collect();
    assert!(failed.len() < 20, "{failed:#?}");
    let told: usize = failed
        .iter()
        .map(|line| match line.split_once(" more of this kind in ") {
            Some((before, _)) => before.rsplit(' ').next().unwrap().parse().unwrap(),
            None => 1,
        })
        .sum();
    assert!(told >= FAILED, "{told}: {failed:#?}");
}

/// The unit for several mounts is the unit for one, with another name.
#[test]
fn both_units_say_the_same() {
    let read = |name: &str| {
        let path = format!("{}/systemd/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let one = read("sessionfs.service");
    let several = read("sessionfs@.service");
    assert!(one.len() > 30);
    let named: Vec<String> = several
        .iter()
        .map(|line| line.replace("%i.toml", "sessionfs.toml").replace(": %i", ""))
        .collect();
    assert_eq!(one, named);
}

/// The first line of a unit that begins like this, without that.
fn setting(unit: &str, key: &str) -> String {
    let path = format!("{}/systemd/{unit}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.unwrap_or_else(|| panic!("{unit} lacks {key}")).to_owned()
}

/// A failed start is tried again: after a second, after a pause, or never; a keeper that was killed at once. The unit
/// knows the codes as numbers.
#[test]
fn the_unit_waits_longer_for_what_does_not_mend_itself_in_a_second() {
    let never: Vec<u8> = setting("sessionfs.service", "RestartPreventExitStatus=")
        .split(' ')
        .map(|code| code.parse().unwrap())
        .collect();
    let command = setting("sessionfs.service", "ExecStopPost=-/bin/sh -c '");
    let script = command.strip_suffix('\'').unwrap();
    // As systemd reads it.
    let script = script.replace("$$", "$").replace("exec sleep", "echo");
    let pause_seconds = |code: &str, status: &str| {
        let output = Command::new("/bin/sh")
            .args(["-c", &script])
            .env("EXIT_CODE", code)
            .env("EXIT_STATUS", status)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap_or(0)
    };
    assert_eq!(pause_seconds("killed", "KILL"), 0);
    assert_eq!(pause_seconds("dumped", "ABRT"), 0);
    assert_eq!(pause_seconds("exited", "0"), 0);
    let pauses = |code: u8| pause_seconds("exited", &code.to_string());
    let known: Vec<u8> = ExitCode::ALL.iter().map(|(code, _)| u8::from(*code)).collect();
    let later: Vec<u8> = (0..=125).filter(|code| pauses(*code) == 10).collect();
    for code in &later {
        assert!(known.contains(code) && !never.contains(code), "{code}");
    }
    for code in [ExitCode::NotEmpty, ExitCode::RedisRefuses, ExitCode::RedisPassword] {
        assert!(later.contains(&u8::from(code)), "{code:?}");
    }
    // Nobody waits for a keeper that does not come.
    for code in never {
        assert_eq!(pauses(code), 0, "{code}");
    }
    // A fault, the end of another keeper, a Redis that was waited for already.
    for code in [ExitCode::Internal, ExitCode::SecondDaemon, ExitCode::RedisUnreachable] {
        assert_eq!(pauses(code.into()), 1, "{code:?}");
    }
}

/// A stop may come until then: what is removed before the pause knows nothing of one that comes during it.
#[test]
fn what_a_keeper_has_left_is_looked_at_after_the_pause() {
    let path = format!("{}/systemd/sessionfs.service", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let commands: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("ExecStopPost=-")).collect();
    let [pause, unmount] = commands[..] else { panic!("{commands:?}") };
    assert!(pause.contains("sleep") && unmount.contains("unmount --after-service"));
}

impl Manager {
    /// The descriptor that is stored under this name.
    fn stored(&self, name: &str) -> OwnedFd {
        let mut packet = [0; 4096];
        let mut control = nix::cmsg_space!([RawFd; 2]);
        loop {
            let mut parts = [IoSliceMut::new(&mut packet)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let socket = self.socket.as_raw_fd();
            let received = recvmsg::<()>(socket, &mut parts, Some(&mut control), flags).unwrap();
            let descriptors = received.cmsgs().unwrap().find_map(|message| match message {
                ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
                _ => None,
            });
            let length = received.bytes;
            let text = String::from_utf8_lossy(&packet[..length]).into_owned();
            if let Some(descriptor) = descriptors {
                // SAFETY: it was received just now.
                let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
                if text.lines().any(|line| line == format!("FDNAME={name}")) {
                    return descriptor;
                }
            }
        }
    }
}

/// What systemd does at the next start with descriptors that it keeps.
const START_WITH: &str = "import os, sys; \
    [os.dup2(int(sys.argv[1 + at]), 3 + at) for at in range(3)]; \
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='3', LISTEN_FDNAMES='device:memory:note'); \
    os.execv(sys.argv[4], sys.argv[4:])";

/// A mount whose keeper was killed, and what the service manager keeps of it.
struct Left {
    redis: Redis,
    manager: Manager,
    mount: Mount,
    stored: [OwnedFd; 3],
}

impl Left {
    /// What `with` is to happen before the keeper is killed.
    fn new(configuration: &str, with: impl FnOnce(&Mount)) -> Self {
        let redis = Redis::start();
        let manager = Manager::new();
        let command = manager.command(Duration::from_secs(60));
        let mut mount = Mount::start_in(&redis, configuration, command);
        let stored = ["device", "memory", "note"].map(|name| manager.stored(name));
        manager.hear("READY=1");
        with(&mount);
        mount.kill();
        for descriptor in &stored {
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        }
        Self { redis, manager, mount, stored }
    }

    /// What is noted for the next keeper.
    fn noted(&self) -> serde_json::Value {
        let note = std::fs::File::from(self.stored[2].try_clone().unwrap());
        let mut length = [0; 4];
        note.read_exact_at(&mut length, 0).unwrap();
        let mut text = vec![0; u32::from_le_bytes(length) as usize];
        note.read_exact_at(&mut text, 4).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// As if the keeper before had noted this.
    fn note_that(&self, key: &str, value: serde_json::Value) {
        let mut told = self.noted();
        told[key] = value;
        let told = told.to_string();
        let note = std::fs::File::from(self.stored[2].try_clone().unwrap());
        note.write_all_at(&u32::try_from(told.len()).unwrap().to_le_bytes(), 0).unwrap();
        note.write_all_at(told.as_bytes(), 4).unwrap();
    }

    /// What the service manager starts.
    fn command(&self) -> Command {
        let mut command = Command::new("python3");
        command.args(["-c", START_WITH]);
        command.args(self.stored.each_ref().map(|one| one.as_raw_fd().to_string()));
        command.arg(env!("CARGO_BIN_EXE_sessionfs"));
        command.env("NOTIFY_SOCKET", self.manager.directory.path().join("notify"));
        command
    }

    /// Starts the next keeper, and waits until it serves. It is listened to, or it would wait for that.
    fn start_again(&mut self) -> Vec<String> {
        let mut command = self.command();
        self.mount.spawn_again_in(&mut command);
        let heard = self.manager.hear("READY=1");
        self.mount.wait_until_served();
        heard
    }

    /// The next keeper ends with this code, and whoever waits is released.
    #[track_caller]
    fn ends(mut self, code: ExitCode) -> String {
        let path = self.mount.sharded(&sid("aa", 1));
        let reader = std::thread::spawn(move || std::fs::read(path));
        let mut command = self.command();
        self.mount.spawn_again_in(&mut command);
        self.manager.hear("FDSTOREREMOVE=1");
        assert_eq!(self.mount.wait(), Some(u8::from(code).into()), "{}", self.mount.log());
        // The service manager was told to let go of it: as long as it does not, the kernel was told, too.
        http::until("it is released", || reader.is_finished());
        assert!(reader.join().unwrap().is_err());
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(self.mount.path().to_str().unwrap()));
        drop(self.redis);
        self.mount.log()
    }
}

#[test]
fn a_killed_keeper_is_a_pause_where_the_service_manager_keeps_the_connection() {
    let session = sid("aa", 1);
    let (mut open, mut temp) = (None, None);
    let mut left = Left::new("", |mount| {
        mount.save(&session, &authenticated("x")).unwrap();
        open = std::fs::File::open(mount.sharded(&session)).ok();
        temp = mount.stage(&authenticated("y")).ok();
    });
    let path = left.mount.sharded(&session);
    let reader = std::thread::spawn(move || std::fs::read(path));
    let heard = left.start_again();
    // The keeper before may not have been allowed to.
    assert!(heard.iter().any(|line| line == "FDSTORE=1"), "{heard:#?}");
    assert!(heard.iter().any(|line| line == "FDPOLL=0"), "{heard:#?}");
    assert_eq!(reader.join().unwrap().unwrap(), authenticated("x"));
    let mut content = Vec::new();
    open.unwrap().read_to_end(&mut content).unwrap();
    assert_eq!(content, authenticated("x"));
    std::fs::rename(temp.unwrap(), left.mount.sharded(&session)).unwrap();
    assert_eq!(left.mount.read(&session).unwrap(), authenticated("y"));

    // An end is one: the service manager is to let go of it.
    drop(left.stored);
    left.mount.stop();
    left.manager.hear("FDSTOREREMOVE=1");
}

#[test]
fn a_keeper_goes_on_with_the_configuration_from_before_where_the_new_one_needs_an_end() {
    for (text, words) in [
        ("staging_dir = \"/dev/shm/elsewhere\"", "staging_dir was changed"),
        ("idel = 1", "unknown key 'idel'"),
    ] {
        let session = sid("aa", 1);
        let mut left = Left::new("", |mount| mount.save(&session, &authenticated("x")).unwrap());
        std::fs::write(left.mount.configuration(), text).unwrap();
        left.start_again();
        assert_eq!(left.mount.read(&session).unwrap(), authenticated("x"));
        let log = left.mount.log();
        assert!(log.contains(words) && log.contains("configuration of the keeper before"), "{log}");
    }
}

/// Takes the lock of its mountpoint, so that no keeper can.
fn lock(mount: &Mount) -> std::fs::File {
    let path = sessionfs::config::paths::lock_file(&mount.path());
    let lock = std::fs::File::create(&path).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    lock
}

#[test]
fn a_keeper_that_cannot_go_on_leaves_the_mount_to_the_next_one() {
    let session = sid("aa", 1);
    let mut left = Left::new("", |mount| mount.save(&session, &authenticated("x")).unwrap());
    let path = left.mount.sharded(&session);
    let reader = std::thread::spawn(move || std::fs::read(path));
    let lock = lock(&left.mount);
    let mut command = left.command();
    left.mount.spawn_again_in(&mut command);
    assert_eq!(left.mount.wait(), Some(u8::from(ExitCode::SecondDaemon).into()));
    drop(lock);
    let heard = left.start_again();
    assert!(!heard.iter().any(|line| line == "FDSTOREREMOVE=1"), "{heard:#?}");
    assert_eq!(reader.join().unwrap().unwrap(), authenticated("x"));
}

#[test]
fn keepers_that_cannot_go_on_for_long_release_who_waits() {
    let left = Left::new("", |_| ());
    left.note_that("unserved_since_ms", 1.into());
    let path = sessionfs::config::paths::lock_file(&left.mount.path());
    let _lock = lock(&left.mount);
    let log = left.ends(ExitCode::WorkerFailed);
    // The one of the first keeper.
    assert_eq!(log.matches("worker started").count(), 1, "{log}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn the_worker_of_a_dead_keeper_serves_nobody_when_the_next_keeper_goes_on() {
    let mut left = Left::new("", |_| ());
    // As if it were late to die.
    let mut late = Command::new("sleep").arg("600").spawn().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", late.id())).unwrap();
    let started_ticks: u64 =
        stat.rsplit(") ").next().unwrap().split(' ').nth(19).unwrap().parse().unwrap();
    // Another process has its number by now.
    left.note_that("worker", serde_json::json!([late.id(), started_ticks + 1]));
    left.start_again();
    assert!(late.try_wait().unwrap().is_none());
    left.mount.kill();
    left.note_that("worker", serde_json::json!([late.id(), started_ticks]));
    left.start_again();
    assert!(late.try_wait().unwrap().is_some());
    assert_eq!(left.noted()["worker"][0], left.mount.worker());
}

#[test]
fn the_end_of_a_mount_is_its_end_in_a_container_too() {
    let redis = Redis::start();
    let manager = Manager::new();
    let command = manager.command(Duration::from_secs(60));
    let mount = Mount::start_in(&redis, "", command);
    // A process that ends late holds it like this.
    let _device = manager.stored("device");
    manager.hear("READY=1");
    let session = sid("aa", 1);
    mount.save(&session, &authenticated("x")).unwrap();
    // It has a mount of its own, which the end of the other one does not reach.
    let mut container = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "tail", "--follow", "--retry"])
        .arg(mount.sharded(&session))
        .current_dir("/")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut shown = [0; 1];
    container.stdout.as_mut().unwrap().read_exact(&mut shown).unwrap();
    let root = PathBuf::from(format!("/proc/{}/root", container.id()));
    let path = root.join(mount.sharded(&session).strip_prefix("/").unwrap());
    // Before its directory is removed.
    let answer = mount.stop_and(|| {
        let asked = std::thread::spawn(move || std::fs::read(path));
        http::until("who asks there is released", || asked.is_finished());
        asked.join().unwrap()
    });
    assert_eq!(errno(answer), libc::ENOTCONN);
    container.kill().unwrap();
    container.wait().unwrap();
}

#[test]
fn keepers_that_die_after_they_have_served_add_up_in_number_alone() {
    let mut left = Left::new("log = \"debug\"", |_| ());
    left.start_again();
    assert!(left.noted()["unserved_since_ms"].is_null(), "{}", left.noted());
    assert_eq!(left.noted()["short_lived"], 1);
    // The worker has died with the keeper, perhaps of the same request.
    assert!(left.mount.log().contains("after=Killed"), "{}", left.mount.log());
    left.mount.kill();
    left.note_that("short_lived", 20.into());
    left.ends(ExitCode::WorkerFailed);
}

#[test]
fn a_note_of_another_version_is_gone_on_with() {
    let session = sid("aa", 1);
    let mut left = Left::new("", |mount| mount.save(&session, &authenticated("x")).unwrap());
    let mut noted = left.noted();
    noted["config"].as_object_mut().unwrap().remove("limits");
    noted["config"]["another"] = 1.into();
    left.note_that("config", noted["config"].clone());
    left.note_that("another", 1.into());
    left.start_again();
    assert_eq!(left.mount.read(&session).unwrap(), authenticated("x"));
    assert!(left.mount.log().contains("going on with the mount"), "{}", left.mount.log());
}

#[test]
fn what_another_version_has_left_is_replaced_at_once() {
    let session = sid("aa", 1);
    // Too long for the kernel to be given it: it has to be asked for.
    let content = authenticated(&"x".repeat(100 * 1024));
    let mut open = None;
    let mut left = Left::new("", |mount| {
        mount.save(&session, &content).unwrap();
        open = std::fs::File::open(mount.sharded(&session)).ok();
    });
    std::fs::File::from(left.stored[1].try_clone().unwrap()).write_all_at(b"another", 0).unwrap();
    left.start_again();
    assert!(open.unwrap().read_to_end(&mut Vec::new()).is_err());
    assert_eq!(left.mount.read(&session).unwrap(), content);
    assert!(left.mount.log().contains("another version of sessionfs has written it"));
}
