//! `sessionfs observe` on a server that imitates Odoo's session store, whose system calls are known: on a disk, on tmpfs and
//! on a mount of sessionfs. What it finds is compared with these and with what strace sees.

#![cfg(feature = "bpf")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aya::maps::MapInfo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::http::until;
use support::mount::{Mount, sid};
use support::redis::Redis;

const INTERRUPTED: i32 = 52;
const NO_BPF_ALLOWED: i32 = 71;
const NOBODY: i32 = 72;
const DIRECTORY: i32 = 73;
const NOTHING_TO_COMPARE: i32 = 74;

/// One at a time: each slows the others down, and the programs in the kernel are counted.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory `sessions` in one of its own, on a kind of filesystem.
struct Store(tempfile::TempDir);

impl Store {
    fn on_disk() -> Self {
        Self::at(Path::new("/var/tmp"))
    }

    fn on_tmpfs() -> Self {
        Self::at(Path::new("/dev/shm"))
    }

    fn at(parent: &Path) -> Self {
        let store = Self(tempfile::tempdir_in(parent).unwrap());
        std::fs::create_dir_all(store.path().join("ab")).unwrap();
        store
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("sessions")
    }
}

fn python(program: &Path, arguments: &[&str], directory: &Path) -> Server {
    let mut command = Command::new("python3");
    command.arg(program).args(arguments).arg(directory);
    served_by(command)
}

fn served_by(mut command: Command) -> Server {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    Server { port: line.trim().parse().expect("a port"), child }
}

struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// The server in a mode: threaded or prefork.
    fn start(mode: &str, directory: &Path) -> Self {
        python(
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/observe/server.py")),
            &[mode],
            directory,
        )
    }

    /// The same in a mount namespace where the store has another name.
    fn in_mount_namespace(store: &Store) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec"]);
        command.arg("mount --bind \"$1\" /mnt; exec python3 \"$2\" threaded /mnt/sessions");
        command.args(["sh".as_ref(), store.0.path()]);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/observe/server.py"));
        served_by(command)
    }

    /// The same under the name and with the arguments of an Odoo. What it has for Odoo's options it passes over.
    fn odoo(directory: &Path, more: &[&str]) -> Self {
        let program = directory.parent().unwrap().join("odoo-bin");
        if !program.exists() {
            symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/observe/server.py"), &program)
                .unwrap();
        }
        let data_dir = directory.parent().unwrap().to_str().unwrap();
        python(&program, &[more, &["-D", data_dir]].concat(), directory)
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    fn get(&self, path: &str) {
        self.send(|stream| {
            stream.write_all(format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n").as_bytes())
        });
    }

    /// A request that is written in whatever way, and its answer.
    fn send(&self, write: impl FnOnce(&mut TcpStream) -> std::io::Result<()>) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write(&mut stream).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    /// Sessions are saved, read, sought and removed, some times each, as files are named in all ways.
    fn load(&self) {
        for (naming, from) in [("absolute", 0), ("relative", 100), ("at", 200)] {
            // A mount lets no session return that has ended.
            for number in from..from + LOAD {
                self.get(&format!("/{naming}/save/{number}"));
                self.get(&format!("/{naming}/load/{number}?debug=1"));
                self.get(&format!("/{naming}/absent/{number}"));
                self.get(&format!("/{naming}/logout/{number}"));
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// How often each is done with each naming.
const LOAD: u64 = 20;

/// What `Server::load` makes of the calls of `server.py`: by operation, how many and how many of them fail.
fn expected() -> BTreeMap<String, (u64, u64)> {
    let all = 3 * LOAD;
    [
        // save, load, absent
        ("open", 3 * all, all),
        // To the end of the file.
        ("read", 2 * all, 0),
        ("write", all, 0),
        ("rename", all, 0),
        ("unlink", all, 0),
        // save; the flat name and the open file of load
        ("stat", 3 * all, all),
        ("close", 2 * all, 0),
        // chmod
        ("other", all, 0),
    ]
    .map(|(operation, calls, failed)| (operation.to_owned(), (calls, failed)))
    .into()
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
    command.arg("observe").args(arguments).arg(directory);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// An observer that has begun.
struct Observer {
    child: Child,
    stderr: BufReader<ChildStderr>,
    said: String,
}

impl Observer {
    fn start(directory: &Path, arguments: &[&str]) -> Self {
        Self::start_as(command(directory, &[&["--json", "--for", "10min"], arguments].concat()))
    }

    #[track_caller]
    fn start_as(mut command: Command) -> Self {
        let mut child = command.spawn().expect("sessionfs runs");
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        // The last that it says before it waits.
        while !said.contains("until it ends") {
            assert_ne!(stderr.read_line(&mut said).unwrap(), 0, "it does not begin: {said}");
        }
        Self { child, stderr, said }
    }

    /// Ends it as a person does; what it has printed.
    #[track_caller]
    fn finish(self) -> String {
        self.finish_with_warnings().0
    }

    /// The same, and what it has said besides.
    #[track_caller]
    fn finish_with_warnings(mut self) -> (String, String) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.stderr.read_to_string(&mut self.said).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(INTERRUPTED), "{}", self.said);
        (text, self.said)
    }

    #[track_caller]
    fn report(self) -> Value {
        let text = self.finish();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// What a command that must fail says, with its exit code.
#[track_caller]
fn refused(mut command: Command) -> (i32, String) {
    let output = command.output().expect("it runs");
    assert!(output.stdout.is_empty());
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// By operation, how many calls and how many of them failed.
fn counts(report: &Value) -> BTreeMap<String, (u64, u64)> {
    let rows = report["operations"].as_array().unwrap().iter();
    let number = |row: &Value, key: &str| row[key].as_u64().unwrap();
    rows.map(|row| {
        let operation = row["operation"].as_str().unwrap().to_owned();
        (operation, (number(row, "calls"), number(row, "failed")))
    })
    .collect()
}

fn row<'a>(rows: &'a Value, key: &str, name: &str) -> &'a Value {
    let found = rows.as_array().unwrap().iter().find(|row| row[key] == name);
    found.unwrap_or_else(|| panic!("no {name} in {rows:#}"))
}

/// Each kind of request of `Server::load`, with its calls, and nothing else.
#[track_caller]
fn assert_paths(report: &Value) {
    let paths = report["paths"].as_array().unwrap();
    assert_eq!(paths.len(), 12, "{paths:#?}");
    for naming in ["absolute", "relative", "at"] {
        for (what, calls) in [("save", 6), ("load", 6), ("absent", 1), ("logout", 1)] {
            let row = row(&report["paths"], "path", &format!("/{naming}/{what}/0"));
            assert_eq!(row["requests"], LOAD, "{row}");
            assert_eq!(row["calls"], LOAD * calls, "{row}");
            let share = row["share"].as_f64().unwrap();
            assert!(share > 0.0 && share < 1.0, "{row}");
        }
    }
    assert_eq!(report["total"]["requests"], 12 * LOAD);
}

/// strace of a process, which has begun.
struct Strace {
    child: Child,
    output: tempfile::TempDir,
}

impl Strace {
    fn attach(server: &Server) -> Self {
        let output = tempfile::tempdir().unwrap();
        let child = Command::new("strace")
            // A file for each thread, the time that each call takes, and what a descriptor leads to.
            .args(["-ff", "-T", "-y", "-s", "4096", "-e", "trace=%file,%desc", "-p", &server.pid()])
            .arg("-o")
            .arg(output.path().join("calls"))
            .stderr(Stdio::null())
            .spawn()
            .expect("strace runs; apt-get install strace");
        let status = format!("/proc/{}/status", server.child.id());
        let tracer = format!("TracerPid:\t{}\n", child.id());
        until("strace is attached", || std::fs::read_to_string(&status).unwrap().contains(&tracer));
        Self { child, output }
    }

    /// By operation: how many calls on the directory, how many of them failed, and how long they took, in microseconds.
    fn finish(mut self, directory: &Path) -> BTreeMap<String, (u64, u64, f64)> {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        self.child.wait().unwrap();
        let directory = directory.to_str().unwrap();
        let signs = ["/", ">", "\""].map(|end| format!("{directory}{end}"));
        let mut found = BTreeMap::new();
        for file in std::fs::read_dir(self.output.path()).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for line in text.lines() {
                let is_there =
                    line.contains("\"sessions/") || signs.iter().any(|sign| line.contains(sign));
                let Some(operation) = is_there.then(|| operation(line)).flatten() else { continue };
                let seconds: f64 =
                    line.rsplit_once('<').unwrap().1.trim_end_matches('>').parse().unwrap();
                let sum: &mut (u64, u64, f64) = found.entry(operation.to_owned()).or_default();
                sum.0 += 1;
                sum.1 += u64::from(line.contains(" = -1 "));
                sum.2 += seconds * 1e6;
            }
        }
        found
    }
}

fn operation(line: &str) -> Option<&'static str> {
    Some(match line.split('(').next()? {
        "open" | "openat" => "open",
        "read" => "read",
        "write" => "write",
        "rename" | "renameat" | "renameat2" => "rename",
        "unlink" | "unlinkat" => "unlink",
        "stat" | "lstat" | "fstat" | "newfstatat" | "statx" => "stat",
        "close" => "close",
        "chmod" | "fchmodat" | "fchmodat2" => "other",
        _ => return None,
    })
}

/// Both look at the same calls of the same run. strace is told of a call before the observer and of its end after it, so its
/// times are the longer ones: by what it costs to stop a thread twice, which is little beside a call that takes milliseconds.
#[test]
fn on_a_disk_it_counts_what_strace_counts_and_times_long_calls_alike() {
    let _alone = alone();
    let store = Store::on_disk();
    let server = Server::start("threaded", &store.path());
    let observer = Observer::start(&store.path(), &["--pid", &server.pid()]);
    let strace = Strace::attach(&server);
    server.load();
    for number in 0..10 {
        server.get(&format!("/absolute/large/{number}"));
        server.get(&format!("/absolute/load/{number}"));
    }
    let report = observer.report();
    let traced = strace.finish(&store.path());
    let mut expected = expected();
    for (operation, calls, failed) in [
        ("open", 20, 0),
        ("read", 20, 0),
        ("write", 10, 0),
        ("rename", 10, 0),
        ("stat", 30, 10),
        ("close", 20, 0),
        ("other", 10, 0),
    ] {
        let sum = expected.get_mut(operation).unwrap();
        *sum = (sum.0 + calls, sum.1 + failed);
    }
    assert_eq!(counts(&report), expected);
    let of_strace: BTreeMap<String, (u64, u64)> =
        traced.iter().map(|(name, (calls, failed, _))| (name.clone(), (*calls, *failed))).collect();
    assert_eq!(of_strace, expected);
    for (name, (_, _, traced_us)) in &traced {
        let row = row(&report["operations"], "operation", name);
        let observed_us = row["sum_us"].as_f64().unwrap();
        // strace rounds to microseconds.
        let calls = f64::from(u32::try_from(row["calls"].as_u64().unwrap()).unwrap());
        assert!(
            observed_us <= traced_us + calls,
            "{name}: {observed_us} us, strace: {traced_us} us"
        );
        if name == "write" {
            assert!(
                observed_us >= 0.8 * traced_us,
                "{name}: {observed_us} us, strace: {traced_us} us"
            );
        }
    }
}

#[test]
fn on_tmpfs_it_counts_every_call_of_workers_and_knows_their_requests() {
    let _alone = alone();
    let store = Store::on_tmpfs();
    let server = Server::start("prefork", &store.path());
    let observer = Observer::start(&store.path(), &["--port", &server.port.to_string()]);
    server.load();
    server.get("/absolute/save/1");
    let report = observer.report();
    let mut expected = expected();
    for operation in ["open", "write", "rename", "stat", "close", "other"] {
        expected.get_mut(operation).unwrap().0 += 1;
    }
    assert_eq!(counts(&report), expected);
    assert_eq!(report["filesystem"], "tmpfs");
    assert_eq!(report["pids"].as_array().unwrap().len(), 3);
    assert_eq!(report["ports"], serde_json::json!([server.port]));
    assert_eq!((&report["files"]["count"], &report["files"]["bytes"]), (&1.into(), &700.into()));
    assert_eq!(report["files"]["ages"][0]["count"], 1);
    let slowest = report["slowest"].as_array().unwrap();
    assert_eq!(slowest.len(), 10);
    assert!(
        slowest.iter().all(|call| call["path"].as_str().unwrap().ends_with("/0")),
        "{slowest:#?}"
    );
    // The slowest call is the longest of its operation, and of all.
    let longest = report["operations"].as_array().unwrap().iter();
    let longest = longest.map(|row| row["max_us"].as_f64().unwrap()).fold(0.0, f64::max);
    assert!((slowest[0]["us"].as_f64().unwrap() - longest).abs() < 0.01, "{slowest:#?}");
}

#[test]
fn on_a_mount_of_sessionfs_it_counts_every_call() {
    let _alone = alone();
    let redis = Redis::start();
    let mount = Mount::start(&redis, "");
    mount.save(&sid("ab", 1), b"{}").unwrap();
    let server = Server::start("threaded", &mount.path());
    let observer = Observer::start(&mount.path(), &["--pid", &server.pid()]);
    server.load();
    let report = observer.report();
    assert_eq!(counts(&report), expected());
    assert_paths(&report);
    assert_eq!(report["filesystem"], "fuse.sessionfs");
}

#[test]
fn an_odoo_is_found_by_its_directory_and_its_evented_process_is_one_line() {
    let _alone = alone();
    let store = Store::on_tmpfs();
    let server = Server::odoo(&store.path(), &[]);
    let evented = Server::odoo(&store.path(), &["gevent"]);
    let observer = Observer::start(&store.path(), &[]);
    server.load();
    evented.load();
    let said = observer.said.clone();
    let report = observer.report();
    let twice: BTreeMap<String, (u64, u64)> = expected()
        .into_iter()
        .map(|(name, (calls, failed))| (name, (2 * calls, 2 * failed)))
        .collect();
    assert_eq!(counts(&report), twice);
    let calls: u64 = expected().values().map(|(calls, _)| calls).sum();
    let row = row(&report["paths"], "path", "evented");
    assert_eq!(
        (&row["calls"], &row["requests"], &row["share"]),
        (&calls.into(), &0.into(), &Value::Null)
    );
    assert_eq!(report["total"]["requests"], 12 * LOAD);
    assert_eq!(report["evented_pids"], serde_json::json!([evented.child.id()]));
    assert!(said.contains(&format!("{} (evented)", evented.pid())), "{said}");
}

/// Odoo writes paths as its configuration has them, and the kernel tells nobody where a link has led.
#[test]
fn a_data_dir_that_is_a_symbolic_link_is_known_by_both_names() {
    let _alone = alone();
    let store = Store::on_tmpfs();
    let elsewhere = tempfile::tempdir().unwrap();
    let data_dir = elsewhere.path().join("data");
    symlink(store.0.path(), &data_dir).unwrap();
    let server = Server::odoo(&data_dir.join("sessions"), &[]);
    for whom in [vec![], vec!["--pid".to_owned(), server.pid()]] {
        let whom: Vec<&str> = whom.iter().map(String::as_str).collect();
        let observer = Observer::start(&store.path(), &whom);
        server.load();
        let report = observer.report();
        assert_eq!(counts(&report), expected(), "{whom:?}");
        // Each but those of a descriptor, and the opens that succeed.
        assert_eq!(report["total"]["calls_by_path"], 3 * 6 * LOAD);
    }
}

#[test]
fn a_process_of_another_mount_namespace_is_known_by_its_own_name_of_the_directory() {
    let _alone = alone();
    let store = Store::on_tmpfs();
    let server = Server::in_mount_namespace(&store);
    let observer = Observer::start(&store.path(), &["--pid", &server.pid()]);
    server.get("/absolute/save/1");
    let expected = ["open", "write", "rename", "stat", "close", "other"];
    let expected = expected.map(|operation| (operation.to_owned(), (1, 0)));
    assert_eq!(counts(&observer.report()), expected.into());
}

#[test]
fn it_warns_where_no_path_leads_to_the_directory_or_nothing_was_seen() {
    let _alone = alone();
    let store = Store::on_tmpfs();
    let name = store.0.path().file_name().unwrap();
    let roundabout = store.0.path().join("..").join(name).join("sessions");
    let server = Server::start("threaded", &roundabout);
    let observer = Observer::start(&store.path(), &["--pid", &server.pid()]);
    server.get("/absolute/save/1");
    server.get("/absolute/load/1");
    let (_, said) = observer.finish_with_warnings();
    assert!(said.contains("no call with a path was seen"), "{said}");
    let observer = Observer::start(&store.path(), &["--pid", &server.pid()]);
    let (_, said) = observer.finish_with_warnings();
    assert!(said.contains("no call on the session directory was seen"), "{said}");
    let observer = Observer::start(&store.path(), &["--pid", &server.pid()]);
    server.get("/relative/save/1");
    let (_, said) = observer.finish_with_warnings();
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn a_stopped_observer_counts_nothing_after_its_time() {
    const TIME: Duration = Duration::from_secs(1);
    let _alone = alone();
    let store = Store::on_tmpfs();
    let server = Server::start("threaded", &store.path());
    let arguments = ["--json", "--for", "1s", "--pid", &server.pid()];
    let mut observer = Observer::start_as(command(&store.path(), &arguments));
    let begun = Instant::now();
    let pid = Pid::from_raw(observer.child.id().try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    until("its time is over", || begun.elapsed() > TIME);
    server.load();
    kill(pid, Signal::SIGCONT).unwrap();
    let mut text = String::new();
    observer.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(observer.child.wait().unwrap().success());
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["total"]["calls"], &report["seconds"]), (&0.into(), &1.0.into()));
}

#[test]
fn what_is_started_later_is_observed_too() {
    let _alone = alone();
    let store = Store::on_tmpfs();
    let mut shell = Command::new("sh").stdin(Stdio::piped()).spawn().unwrap();
    let observer = Observer::start(&store.path(), &["--pid", &shell.id().to_string()]);
    let script =
        format!("cd {}; for n in 1 2 3; do (: >ab/$n); rm ab/$n; done\n", store.path().display());
    shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    shell.wait().unwrap();
    let report = observer.ended();
    assert_eq!((counts(&report)["open"], counts(&report)["unlink"]), ((3, 0), (3, 0)));
}

impl Observer {
    /// It ends by itself when nobody is left.
    #[track_caller]
    fn ended(mut self) -> Value {
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.stderr.read_to_string(&mut self.said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{}", self.said);
        assert!(self.said.contains("no observed process runs any more"), "{}", self.said);
        serde_json::from_str(&text).unwrap()
    }
}

#[test]
fn a_request_line_in_pieces_is_known_and_a_body_is_none() {
    let _alone = alone();
    let store = Store::on_tmpfs();
    let server = Server::start("threaded", &store.path());
    let observer = Observer::start(&store.path(), &["--pid", &server.pid()]);
    server.send(|stream| {
        for byte in b"GET /absolute/absent/1?x=/a HTTP/1.1\r\nConnection: close\r\n\r\n" {
            stream.write_all(&[*byte])?;
        }
        Ok(())
    });
    // The head first, then a body that looks like a request.
    let body = "GET /at/load/1 HTTP/1.1\r\n\r\n";
    let length = body.len();
    server.send(|stream| {
        let head = "POST /relative/absent/1 HTTP/1.1\r\nConnection: close\r\nExpect: 100-continue";
        stream.write_all(format!("{head}\r\nContent-Length: {length}\r\n\r\n").as_bytes())?;
        // So that it is received by itself, after something was sent.
        stream.read_exact(&mut [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()])?;
        stream.write_all(body.as_bytes())
    });
    // Three requests on one connection, at once.
    server.send(|stream| {
        let one = "GET /at/absent/1 HTTP/1.1\r\n\r\n";
        let last = "GET /at/absent/1 HTTP/1.1\r\nConnection: close\r\n\r\n";
        for request in [one, one, last] {
            stream.write_all(request.as_bytes())?;
            std::thread::yield_now();
        }
        Ok(())
    });
    let report = observer.report();
    assert_eq!(row(&report["paths"], "path", "/absolute/absent/0")["requests"], 1);
    assert_eq!(row(&report["paths"], "path", "/at/absent/0")["calls"], 3);
    assert_eq!(row(&report["paths"], "path", "/relative/absent/0")["requests"], 1);
    assert_eq!(report["paths"].as_array().unwrap().len(), 3, "{:#}", report["paths"]);
}

#[test]
fn neither_tokens_nor_queries_nor_commands_of_a_path_are_printed() {
    let _alone = alone();
    let store = Store::on_tmpfs();
    let server = Server::start("threaded", &store.path());
    let observer = Observer::start(&store.path(), &["--pid", &server.pid()]);
    let token = sid("ab", 7);
    for path in [
        format!("/at/absent/{token}"),
        format!("/at/absent/1/{token}/x"),
        format!("/at/absent/1?access_token={token}"),
        "/at/absent/1/\u{1b}[2J\u{9b}x".to_owned(),
        format!("/at/absent/1/{}", "a".repeat(300)),
        "/at/absent/1/%1b%5b".to_owned(),
    ] {
        server.get(&path);
    }
    let text = observer.finish();
    let report: Value = serde_json::from_str(&text).unwrap();
    let paths: BTreeSet<&str> = report["paths"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["/at/absent/*", "/at/absent/0", "/at/absent/0/*"].into());
    for secret in [&token[..12], &token[token.len() - 12..], "access_token", "\u{1b}", "%1b"] {
        assert!(!text.contains(secret), "{secret:?} is in {text}");
    }
}

/// What the program keeps of the main threads of these processes: its `struct thread`, where words are seen as they are.
fn kept(map: &MapInfo, pids: &[&str]) -> String {
    let output = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/observe/kept.py"))
        .args([map.id().to_string(), map.value_size().to_string()])
        .args(pids)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// The storage of threads of such programs in the kernel.
fn storages() -> Vec<MapInfo> {
    aya::maps::loaded_maps().filter_map(Result::ok).filter(|map| map.name() == b"threads").collect()
}

#[test]
fn of_received_bytes_only_the_path_stays_in_the_kernel() {
    let _alone = alone();
    let store = Store::on_tmpfs();
    let server = Server::start("prefork", &store.path());
    let before: Vec<u32> = storages().iter().map(MapInfo::id).collect();
    let _observer = Observer::start(&store.path(), &["--pid", &server.pid()]);
    let [storage] = storages()
        .into_iter()
        .filter(|map| !before.contains(&map.id()))
        .collect::<Vec<_>>()
        .try_into()
        .expect("one map");
    let children = format!("/proc/{0}/task/{0}/children", server.pid());
    let workers = std::fs::read_to_string(children).unwrap();
    let workers: Vec<&str> = workers.split_whitespace().collect();
    server.send(|stream| {
        let head = "GET /at/absent/1?key=secret-1 HTTP/1.1\r\nCookie: secret-2\r\n";
        stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())
    });
    let found = kept(&storage, &workers);
    assert!(found.contains("/at/absent/1"), "{found}");
    assert!(!found.contains("GET ") && !found.contains("secret"), "{found}");
    // It is kept while the line is not whole, and then wiped as well.
    server.send(|stream| {
        stream.write_all(b"GET /at/none")?;
        until("a worker has the beginning", || kept(&storage, &workers).contains("GET /at/none"));
        stream.write_all(b"/1?key=secret-3 HTTP/1.1\r\nConnection: close\r\n\r\n")
    });
    let found = kept(&storage, &workers);
    assert!(found.contains("/at/none/1"), "{found}");
    assert!(!found.contains("GET ") && !found.contains("secret"), "{found}");
}

/// The programs of such names in the kernel, by their numbers.
fn programs() -> BTreeSet<u32> {
    aya::programs::loaded_programs()
        // One that goes away meanwhile.
        .filter_map(Result::ok)
        .filter(|program| {
            [&b"entered"[..], b"left", b"forked", b"exited"].contains(&program.name())
        })
        .map(|program| program.id())
        .collect()
}

#[test]
fn nothing_stays_in_the_kernel_when_it_is_killed() {
    let _alone = alone();
    let store = Store::on_tmpfs();
    let server = Server::start("threaded", &store.path());
    let before = programs();
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        let mut observer = Observer::start(&store.path(), &["--pid", &server.pid()]);
        let loaded: BTreeSet<u32> = programs().difference(&before).copied().collect();
        assert_eq!(loaded.len(), 4, "{loaded:?}");
        kill(Pid::from_raw(observer.child.id().try_into().unwrap()), signal).unwrap();
        observer.child.wait().unwrap();
        until("no program is left", || programs().is_disjoint(&loaded));
    }
}

#[test]
fn a_result_is_compared_with_an_earlier_one() {
    let _alone = alone();
    let (disk, tmpfs) = (Store::on_disk(), Store::on_tmpfs());
    let result = disk.0.path().join("before.json");
    let server = Server::start("threaded", &disk.path());
    let observer = Observer::start(&disk.path(), &["--pid", &server.pid()]);
    server.load();
    std::fs::write(&result, observer.finish()).unwrap();
    drop(server);
    let server = Server::start("threaded", &tmpfs.path());
    let pid = server.pid();
    let before = ["--compare", result.to_str().unwrap(), "--pid", &pid];
    let observer = Observer::start(&tmpfs.path(), &before);
    server.load();
    server.get("/at/save/1");
    let both = observer.report();
    assert_eq!(counts(&both["before"]), expected());
    assert_eq!(counts(&both["after"])["rename"], (3 * LOAD + 1, 0));
    // And for people.
    let shown = [&before[..], &["--for", "10min"]].concat();
    let observer = Observer::start_as(command(&tmpfs.path(), &shown));
    server.get("/at/save/1");
    let text = observer.finish();
    for words in
        [disk.path().to_str().unwrap(), tmpfs.path().to_str().unwrap(), "/at/save/0", "rename"]
    {
        assert!(text.contains(words), "no {words} in {text}");
    }
    let rename = text.lines().find(|line| line.starts_with("rename")).unwrap();
    let fields: Vec<&str> = rename.split_whitespace().collect();
    assert_eq!(fields[1..3], ["60", "1"], "{text}");
}

#[test]
fn without_rights_it_says_so_and_with_two_capabilities_it_runs() {
    let _alone = alone();
    let store = Store::on_tmpfs();
    let server = Server::start("threaded", &store.path());
    let run = |bounds: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--inh-caps=-all", &format!("--bounding-set={bounds}")]);
        command.arg(env!("CARGO_BIN_EXE_sessionfs"));
        command.args(["observe", "--json", "--for", "10min", "--pid", &server.pid()]);
        command.arg(store.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    for bounds in ["-all", "-all,+perfmon", "-all,+bpf"] {
        let (code, said) = refused(run(bounds));
        assert_eq!(code, NO_BPF_ALLOWED, "{said}");
        assert!(said.contains("capabilities BPF and PERFMON"), "{said}");
    }
    let observer = Observer::start_as(run("-all,+bpf,+perfmon"));
    server.get("/at/save/1");
    assert_eq!(counts(&observer.report())["rename"], (1, 0));
}

#[test]
fn what_cannot_be_observed_is_refused_with_a_remedy() {
    let _alone = alone();
    let store = Store::on_tmpfs();
    let own = std::process::id().to_string();
    let path = store.path();
    let file = store.0.path().join("file");
    std::fs::write(&file, "{}").unwrap();
    let text = file.to_str().unwrap();
    let port = support::redis::free_port().to_string();
    for (directory, arguments, code, words) in [
        (store.0.path().join("none"), vec!["--pid", &own], DIRECTORY, "sessionfs discover"),
        (file.clone(), vec!["--pid", &own], DIRECTORY, "not a directory"),
        (path.clone(), vec!["--pid", "2147483647"], NOBODY, "name a running one"),
        (path.clone(), vec!["--port", &port], NOBODY, "http_port"),
        (path.clone(), vec![], NOBODY, "--pid"),
        (
            path.clone(),
            vec!["--pid", &own, "--compare", "/none"],
            NOTHING_TO_COMPARE,
            "observe --json",
        ),
        (
            path.clone(),
            vec!["--pid", &own, "--compare", text],
            NOTHING_TO_COMPARE,
            "observe --json",
        ),
        (path.clone(), vec!["--pid", &own, "--for", "2h"], 2, "use 1s to 1h"),
    ] {
        let (found, said) = refused(command(&directory, &arguments));
        assert_eq!(found, code, "{said}");
        assert!(said.contains(words), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
