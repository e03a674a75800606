//! A private Redis server on a unix socket in its own temporary directory, killed on drop.
//!
//! The server's command is taken from `SESSIONFS_TEST_REDIS` (words separated by spaces), else
//! `redis-server`. A test without a server fails.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use redis::{Connection, FromRedisValue, RedisResult};

pub struct Redis {
    directory: tempfile::TempDir,
    arguments: Vec<String>,
    child: Child,
    stopped: bool,
}

impl Redis {
    /// An empty server.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// An empty server with more arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let child = spawn(&directory, &arguments);
        let server = Self { directory, arguments, child, stopped: false };
        server.wait_until_there();
        server
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// A directory that lives as long as the server.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub fn url(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    pub fn url_as(&self, user: &str, password: &str) -> String {
        format!("unix://{}?user={user}&pass={password}", self.socket().display())
    }

    /// A connection of the test's own.
    pub fn connection(&self) -> Connection {
        redis::Client::open(self.url())
            .and_then(|client| client.get_connection())
            .expect("a connection to the test's server")
    }

    /// Runs one command, words separated by spaces.
    pub fn run<T: FromRedisValue>(&self, words: &str) -> T {
        self.try_run(words).unwrap_or_else(|error| panic!("{words}: {error}"))
    }

    pub fn try_run<T: FromRedisValue>(&self, words: &str) -> RedisResult<T> {
        let mut words = words.split_whitespace();
        let mut command = redis::cmd(words.next().expect("a command"));
        command.arg(words.collect::<Vec<_>>());
        command.query(&mut redis::Client::open(self.url())?.get_connection()?)
    }

    /// The keys of sessions and their indexes: all but the status of servers.
    pub fn session_keys(&self) -> Vec<String> {
        self.run("KEYS sessionfs:[sa]:*")
    }

    /// Everything that is stored, keys and values, in one heap of bytes.
    pub fn dump(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for key in self.run::<Vec<String>>("KEYS *") {
            all.extend_from_slice(key.as_bytes());
            let kind: String = self.run(&format!("TYPE {key}"));
            match kind.as_str() {
                "string" => all.extend(self.run::<Vec<u8>>(&format!("GET {key}"))),
                "zset" => {
                    for member in self.run::<Vec<Vec<u8>>>(&format!("ZRANGE {key} 0 -1")) {
                        all.extend(member);
                    }
                }
                other => panic!("{key} is a {other}"),
            }
        }
        all
    }

    /// Kills it; nothing of what it held survives.
    pub fn kill(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
    }

    /// Starts it again on the same socket.
    pub fn restart(&mut self) {
        let arguments = self.arguments.clone();
        self.restart_with(&arguments);
    }

    /// Starts it again with other arguments.
    pub fn restart_with<S: AsRef<str>>(&mut self, arguments: &[S]) {
        self.arguments = arguments.iter().map(|a| a.as_ref().to_owned()).collect();
        self.child = spawn(&self.directory, &self.arguments);
        self.stopped = false;
        self.wait_until_there();
    }

    /// Lets it stand still: connections stay, answers do not come.
    pub fn pause(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGSTOP);
        self.stopped = true;
    }

    pub fn resume(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGCONT);
        self.stopped = false;
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }

    fn wait_until_there(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = redis::Client::open(self.url())
                .and_then(|client| client.get_connection())
                .and_then(|mut connection| redis::cmd("PING").query::<String>(&mut connection));
            match answer {
                Ok(_) => return,
                // It is there, and wants a password.
                Err(error) if error.code() == Some("NOAUTH") => return,
                Err(error) if Instant::now() > deadline => panic!("no Redis server: {error}"),
                Err(_) => sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A TCP port of this host that nobody has just now, nor the one by 10,000 above it, which a Cluster's bus has. Both are
/// below those that the system gives away.
pub fn free_port() -> u16 {
    let is_free = |port: &u16| {
        [*port, port + 10_000].iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
    };
    (0..100).map(|_| 11_000 + rand::random::<u16>() % 9000).find(is_free).expect("a free port")
}

fn spawn(directory: &tempfile::TempDir, arguments: &[String]) -> Child {
    let command = std::env::var("SESSIONFS_TEST_REDIS").unwrap_or_else(|_| "redis-server".into());
    let mut words = command.split_whitespace();
    let program = words.next().expect("SESSIONFS_TEST_REDIS names a command");
    Command::new(program)
        .args(words)
        .args(["--port", "0", "--save", "", "--daemonize", "no", "--unixsocketperm", "700"])
        .arg("--unixsocket")
        .arg(directory.path().join("redis.sock"))
        .arg("--dir")
        .arg(directory.path())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command}: {error}; install redis-server"))
}
