//! Whether requests that a browser sends by itself are told from those of a person: by a server that works as Odoo's does,
//! each way of receiving, each way of sending, and what is seen of it at the mount.

#![cfg(feature = "bpf")]
#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData, MapInfo, PerCpuArray, SkStorage};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;
use support::http::{get, until};
use support::mount::{Mount, authenticated, in_a_pid_namespace_below, install, sid};
use support::redis::Redis;

/// From a request until its answer.
const WITHIN: Duration = Duration::from_secs(30);
/// Leaves out the tracepoints of Linux 6.3.
const OLDER: (&str, &str) = ("SESSIONFS_KERNEL_WITHOUT", "sock_recv_length");
const RULES: &str = "passive = [\"/shop/passive/*\"]\nactive = [\"/shop/passive/keep\"]\n";

const PASSIVE: &str = "/longpolling/poll";
const ACTIVE: &str = "/web";
/// Of a request of which nothing is known.
const UNKNOWN: Opens = Opens { unknown: 2, active: 0, passive: 0 };

/// A request without a body.
fn bare(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()
}

/// The request lines of a browser, and whether they are passive.
fn paths() -> Vec<(String, bool)> {
    let long = "x".repeat(300);
    [
        ("/longpolling/poll", true),
        ("/calendar/notify?debug=1", true),
        ("/web/dataset/call_kw/discuss.channel/channel_fetched", true),
        ("/websocket", true),
        ("/shop/passive/12", true),
        ("/shop/passive/keep", false),
        ("/shop/passive/keep/1", true),
        ("/web", false),
        ("/longpolling/pollx", false),
        ("//longpolling/poll", false),
        ("/web/dataset/call_kw/res.partner/write", false),
    ]
    .into_iter()
    .map(|(path, is_passive)| (path.to_owned(), is_passive))
    .chain([(format!("/web/{long}"), false), (format!("/shop/passive/{long}"), true)])
    .collect()
}

/// The ways to send one request: its pieces. Each is sent when the one before has been received.
fn pieces(path: &str, is_passive: bool) -> Vec<Vec<Vec<u8>>> {
    let head = |length: usize| {
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n").into_bytes()
    };
    let bare = bare(path);
    // What the body of an upload may begin with.
    let other = if is_passive { "/web" } else { "/longpolling/poll" };
    let body = self::bare(other);
    let long = [body.clone(), vec![b'y'; 50_000], body.clone()].concat();
    let mut all = vec![
        vec![bare.clone()],
        bare.chunks(1).map(<[u8]>::to_vec).collect(),
        vec![[head(body.len()), body.clone()].concat()],
        vec![head(body.len()), body.clone()],
        vec![head(2 * body.len()), body.clone(), body.clone()],
        vec![[head(long.len()), long.clone()].concat()],
        vec![head(long.len()), long],
    ];
    for cut in [1, 4, 5, 9, 20, 33, 60] {
        let (first, rest) = bare.split_at(cut.min(bare.len() - 1));
        all.push(vec![first.to_vec(), rest.to_vec()]);
    }
    all
}

/// A server that is killed with the test.
struct Server {
    child: Child,
    received: ChildStdout,
    port: u16,
}

impl Server {
    /// Starts it by this command line, such as one that enters a namespace.
    fn start(scene: &Scene, before: &[&str], shape: &str, how: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/requests/server.py");
        let (mount, session, port) = (&scene.mount, &scene.session, scene.port);
        let words = before.iter().copied().chain(["python3", script]);
        let mut child = Command::new("env")
            .args(words)
            .args([&port.to_string(), shape, how])
            .arg(mount.sharded(session))
            .current_dir("/")
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut received = child.stdout.take().expect("a pipe");
        let mut line = [0; 6];
        received.read_exact(&mut line).expect("the server is ready");
        assert_eq!(&line, b"ready\n");
        fcntl(received.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        Self { child, received, port }
    }

    fn connect(&self) -> TcpStream {
        connect(self.port)
    }

    /// Waits until it has received something.
    fn await_receiving(&mut self) {
        let mut polled = [PollFd::new(self.received.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut polled, PollTimeout::try_from(WITHIN).unwrap()).unwrap();
        assert_eq!(ready, 1, "it receives nothing");
        self.forget_received();
    }

    fn forget_received(&mut self) {
        let mut bytes = [0; 4096];
        while self.received.read(&mut bytes).is_ok_and(|count| count == bytes.len()) {}
    }

    /// Sends a request, each piece when the one before has arrived, and waits for the answer.
    fn ask(&mut self, connection: &mut TcpStream, pieces: &[Vec<u8>]) -> String {
        for (number, piece) in pieces.iter().enumerate() {
            if number > 0 {
                self.await_receiving();
            }
            connection.write_all(piece).unwrap();
        }
        let answer = answer(connection);
        self.forget_received();
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

fn connect(port: u16) -> TcpStream {
    let connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
    connection.set_nodelay(true).unwrap();
    connection.set_read_timeout(Some(WITHIN)).unwrap();
    connection
}

/// The body of one answer. Nothing comes behind it.
fn answer(connection: &mut TcpStream) -> String {
    let head = head(connection);
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or_else(|| panic!("no length: {head}"));
    let mut body = vec![0; length];
    connection.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

fn head(connection: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// How many sessions were opened, by what was known of the request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Opens {
    unknown: u64,
    active: u64,
    passive: u64,
}

impl Opens {
    fn of(mount: &Mount) -> Self {
        let text = get(mount, "/metrics");
        let value = |class: &str| {
            let line = format!("sessionfs_opens_by_request_total{{class=\"{class}\"}} ");
            let found = text.lines().find_map(|found| found.strip_prefix(&line));
            found.unwrap_or_else(|| panic!("no {line}")).parse().unwrap()
        };
        Self { unknown: value("unknown"), active: value("active"), passive: value("passive") }
    }

    /// Of a request that opens its session twice.
    fn twice(is_passive: bool) -> Self {
        let (active, passive) = if is_passive { (0, 2) } else { (2, 0) };
        Self { unknown: 0, active, passive }
    }

    /// What was opened since then.
    fn since(self, before: Self) -> Self {
        Self {
            unknown: self.unknown - before.unknown,
            active: self.active - before.active,
            passive: self.passive - before.passive,
        }
    }
}

/// What is opened while something is done.
fn opens(mount: &Mount, act: impl FnOnce()) -> Opens {
    let before = Opens::of(mount);
    act();
    Opens::of(mount).since(before)
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// A mount with a session that a server opens.
struct Scene {
    mount: Mount,
    session: String,
    port: u16,
    _redis: Redis,
}

impl Scene {
    /// With these lines in the table of activity, and this in the environment.
    fn start(activity: &str, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
        command.envs(environment.iter().copied());
        Self::start_in(activity, command)
    }

    fn start_in(activity: &str, command: Command) -> Self {
        let (redis, port, session) = (Redis::start(), free_port(), sid("ab", 1));
        let configuration = format!("[activity]\nports = [{port}]\n{activity}");
        let mount = Mount::start_in(&redis, &configuration, command);
        mount.save(&session, &authenticated("x")).unwrap();
        Self { mount, session, port, _redis: redis }
    }

    fn server(&self, shape: &str, how: &str) -> Server {
        Server::start(self, &[], shape, how)
    }

    /// What the mount says of it.
    fn state(&self) -> Value {
        let status: Value = serde_json::from_str(&get(&self.mount, "/status")).unwrap();
        status["requests"].clone()
    }

    /// Whether a request line that arrives in pieces is known, as by the newer tracepoint.
    fn sees_pieces(&self) -> bool {
        self.state()["hook"] == "calls"
    }

    /// What `sessionfs check` finds of it.
    fn finding(&self) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
        let output = command.args(["check", "--json"]).arg(self.mount.path()).output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let is_it = |finding: &&Value| finding["id"].as_str().unwrap().starts_with("activity.");
        found["findings"].as_array().unwrap().iter().find(is_it).unwrap().clone()
    }

    /// What is opened for one request on a connection of its own.
    fn request(&self, server: &mut Server, path: &str) -> Opens {
        opens(&self.mount, || {
            server.ask(&mut server.connect(), &[bare(path)]);
        })
    }

    /// Whether a passive request and another one are told apart now.
    fn tells(&self, server: &mut Server) -> bool {
        let found = [self.request(server, PASSIVE), self.request(server, ACTIVE)];
        let nothing = [UNKNOWN; 2];
        assert!(
            found == nothing || found == [Opens::twice(true), Opens::twice(false)],
            "{found:?}"
        );
        found != nothing
    }

    fn reload(&self, activity: &str) {
        let configuration = format!("[activity]\nports = [{}]\n{activity}", self.port);
        std::fs::write(self.mount.configuration(), configuration).unwrap();
        assert_eq!(self.mount.command("reload"), (Some(0), String::new()), "{}", self.mount.log());
    }
}

/// Sends every request in every way, on one connection and on one for each.
fn every_request_has_its_class(scene: &Scene, shape: &str, how: &str) {
    let sees_pieces = scene.sees_pieces();
    let mut server = scene.server(shape, how);
    let mut kept = server.connect();
    let mut asked = 0;
    for (path, is_passive) in paths() {
        for (way, pieces) in pieces(&path, is_passive).iter().enumerate() {
            let found = opens(&scene.mount, || {
                // Some requests meet the thread as another one has left it.
                if asked % 3 == 0 {
                    drop(std::mem::replace(&mut kept, server.connect()));
                }
                let answer = server.ask(&mut kept, pieces);
                assert!(answer.ends_with(&path), "{answer}");
            });
            asked += 1;
            // Only a line that arrives in pieces may not be known.
            let is_torn = !sees_pieces && (way == 1 || way >= 7);
            assert!(
                found == Opens::twice(is_passive) || is_torn && found == UNKNOWN,
                "{shape}, {how}, {path}, way {way}: {found:?}\n{}",
                scene.mount.log()
            );
        }
    }
    assert_eq!(asked, 13 * 14);
}

fn has_newer_tracepoint() -> bool {
    const NAME: &[u8] = b"btf_trace_sock_recv_length\0";
    let types = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
    types.windows(NAME.len()).any(|found| found == NAME)
}

const WAYS: [&str; 4] = ["recvfrom", "read", "recvmsg", "readv"];

#[test]
fn every_request_of_a_prefork_server_has_its_class() {
    let scene = Scene::start(RULES, &[]);
    assert_eq!(scene.state()["state"], "running", "{}", scene.mount.log());
    assert_eq!(scene.sees_pieces(), has_newer_tracepoint());
    for how in WAYS {
        every_request_has_its_class(&scene, "prefork", how);
    }
}

#[test]
fn every_request_of_a_threaded_server_has_its_class() {
    let scene = Scene::start(RULES, &[]);
    for how in WAYS {
        every_request_has_its_class(&scene, "threads", how);
    }
}

#[test]
fn with_the_older_tracepoint_every_request_line_in_one_piece_has_its_class() {
    let scene = Scene::start(RULES, &[OLDER]);
    assert!(!scene.sees_pieces(), "{}", scene.mount.log());
    for shape in ["prefork", "threads"] {
        for how in WAYS {
            every_request_has_its_class(&scene, shape, how);
        }
    }
}

#[test]
fn a_session_that_is_only_polled_ends_and_one_that_is_used_lives() {
    const IDLE: Duration = Duration::from_secs(3);
    let scene = Scene::start("[lifetime]\nidle = \"3s\"\n", &[]);
    let mut server = scene.server("prefork", "recvfrom");
    let used = sid("cd", 2);
    scene.mount.save(&used, &authenticated("y")).unwrap();
    let request = |path: &str, sid: &str| {
        let session = scene.mount.sharded(sid);
        format!("GET {path} HTTP/1.1\r\nX-Session: {}\r\n\r\n", session.display()).into_bytes()
    };
    // The last that somebody does with it.
    server.ask(&mut server.connect(), &[request(ACTIVE, &scene.session)]);
    let began = Instant::now();
    loop {
        server.ask(&mut server.connect(), &[request(ACTIVE, &used)]);
        let mut polling = server.connect();
        polling.write_all(&request(PASSIVE, &scene.session)).unwrap();
        // A server that finds no session closes the connection.
        if polling.read(&mut [0; 512]).unwrap() == 0 {
            break;
        }
        server.forget_received();
        assert!(began.elapsed() < 2 * IDLE, "it lives on\n{}", scene.mount.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(began.elapsed() + Duration::from_millis(200) > IDLE, "{:?}", began.elapsed());
    server.ask(&mut server.connect(), &[request(ACTIVE, &used)]);
}

/// A client may send the body when it is told to go on, and that is no answer.
#[test]
fn a_body_that_is_asked_for_passes_for_no_request() {
    for environment in [&[][..], &[OLDER]] {
        let scene = Scene::start("", environment);
        let mut server = scene.server("threads", "recvfrom");
        let mut connection = server.connect();
        for (path, other) in [(ACTIVE, PASSIVE), (PASSIVE, ACTIVE)] {
            let body = bare(other);
            let found = opens(&scene.mount, || {
                let head = format!(
                    "POST {path} HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                connection.write_all(head.as_bytes()).unwrap();
                assert!(self::head(&mut connection).starts_with("HTTP/1.1 100 "));
                connection.write_all(&body).unwrap();
                answer(&mut connection);
            });
            let first = Opens::twice(path == PASSIVE);
            let expected =
                Opens { unknown: 1, active: first.active / 2, passive: first.passive / 2 };
            assert_eq!(found, expected, "{path}");
            server.forget_received();
            // The next one is known again.
            let found = opens(&scene.mount, || {
                server.ask(&mut connection, &[bare(path)]);
            });
            assert_eq!(found, Opens::twice(path == PASSIVE), "{path}");
        }
    }
}

/// Werkzeug's server, with HTTP/1.1, asks for it twice.
#[test]
fn a_body_that_is_asked_for_twice_passes_for_no_request() {
    for environment in [&[][..], &[OLDER]] {
        let scene = Scene::start("", environment);
        let mut server = scene.server("threads", "recvfrom");
        let mut connection = server.connect();
        let body = bare(PASSIVE);
        let found = opens(&scene.mount, || {
            let head = format!(
                "POST {ACTIVE} HTTP/1.1\r\nX-Expect: twice\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            connection.write_all(head.as_bytes()).unwrap();
            for _ in 0..2 {
                assert!(self::head(&mut connection).starts_with("HTTP/1.1 100 "));
            }
            connection.write_all(&body).unwrap();
            answer(&mut connection);
        });
        assert_eq!(found, Opens { unknown: 1, active: 1, passive: 0 }, "{environment:?}");
        server.forget_received();
        let found = opens(&scene.mount, || {
            server.ask(&mut connection, &[bare(PASSIVE)]);
        });
        assert_eq!(found, Opens::twice(true), "{environment:?}");
    }
}

/// No browser does so, and a server has the second one in its memory already: it receives nothing for it. The older
/// tracepoint does not see either that the first is answered, so the second passes for it.
#[test]
fn a_request_that_is_sent_before_the_answer_is_not_known() {
    for environment in [&[][..], &[OLDER]] {
        let scene = Scene::start("", environment);
        let server = scene.server("threads", "recvfrom");
        for first in [PASSIVE, ACTIVE] {
            for second in [PASSIVE, ACTIVE] {
                let found = opens(&scene.mount, || {
                    let mut connection = server.connect();
                    connection.write_all(&[bare(first), bare(second)].concat()).unwrap();
                    answer(&mut connection);
                    answer(&mut connection);
                });
                let Opens { active, passive, .. } = Opens::twice(first == PASSIVE);
                let expected = if scene.sees_pieces() {
                    Opens { unknown: 2, active, passive }
                } else {
                    Opens { unknown: 0, active: 2 * active, passive: 2 * passive }
                };
                assert_eq!(found, expected, "{first}, {second}");
            }
        }
    }
}

#[test]
fn a_websocket_is_passive_for_as_long_as_it_is_held() {
    for environment in [&[][..], &[OLDER]] {
        for how in WAYS {
            let scene = Scene::start("", environment);
            let mut server = scene.server("threads", how);
            let mut held = server.connect();
            let found = opens(&scene.mount, || {
                held.write_all(b"GET /websocket?version=1 HTTP/1.1\r\nUpgrade: websocket\r\n\r\n")
                    .unwrap();
                assert!(head(&mut held).starts_with("HTTP/1.1 101 "));
                for text in [&b"x"[..], b"25", b"", b"GET /web HTTP/1.1\r\n\r\n", b"25", b"y"] {
                    let length = u8::try_from(text.len()).unwrap();
                    held.write_all(&[&[0x81, length], text].concat()).unwrap();
                    let mut frame = [0; 2];
                    held.read_exact(&mut frame).unwrap();
                    held.read_exact(&mut vec![0; frame[1].into()]).unwrap();
                }
            });
            let expected = Opens { passive: 8, ..Opens::default() };
            assert_eq!(found, expected, "{how}\n{}", scene.mount.log());
            // Others go on beside it.
            server.forget_received();
            assert!(scene.tells(&mut server));
        }
    }
}

/// A proxy that keeps its connections sends requests of all users by one.
#[test]
fn behind_nginx_every_request_has_its_class() {
    for (version, keep) in [("1.0", ""), ("1.1", "keepalive 4;")] {
        for shape in ["prefork", "threads"] {
            let scene = Scene::start(RULES, &[]);
            let server = scene.server(shape, "recvfrom");
            let nginx = Nginx::start(server.port, version, keep);
            let mut browsers = [connect(nginx.port), connect(nginx.port)];
            for (turn, (path, is_passive)) in paths().into_iter().cycle().take(39).enumerate() {
                let found = opens(&scene.mount, || {
                    let body = bare(if is_passive { ACTIVE } else { PASSIVE });
                    let request = format!(
                        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    );
                    let browser = &mut browsers[turn % 2];
                    browser.write_all(&[request.as_bytes(), &body].concat()).unwrap();
                    assert!(answer(browser).ends_with(&path));
                });
                assert_eq!(found, Opens::twice(is_passive), "{version}, {shape}, {path}");
            }
        }
    }
}

/// nginx before a server, on a port of its own.
struct Nginx {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Nginx {
    fn start(upstream: u16, version: &str, keep: &str) -> Self {
        let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
        let configuration = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr; events {{}}
             http {{
               access_log off; client_body_temp_path body; proxy_temp_path proxy;
               fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
               upstream odoo {{ server 127.0.0.1:{upstream}; {keep} }}
               server {{
                 listen 127.0.0.1:{port}; merge_slashes off;
                 location / {{
                   proxy_pass http://odoo; proxy_http_version {version};
                   proxy_set_header Connection \"\";
                 }}
               }}
             }}"
        );
        std::fs::write(directory.path().join("nginx.conf"), configuration).unwrap();
        let child = Command::new("nginx")
            .arg("-p")
            .arg(directory.path())
            .args(["-c", "nginx.conf", "-e", "stderr"])
            .spawn()
            .expect("nginx runs");
        until("nginx listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, port, _directory: directory }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_connection_that_is_older_than_the_program_is_not_known_until_its_next_answer() {
    for environment in [&[][..], &[OLDER]] {
        let scene = Scene::start("requests = \"off\"\n", environment);
        let mut server = scene.server("threads", "recvfrom");
        let mut idle = server.connect();
        server.ask(&mut idle, &[bare(PASSIVE)]);
        // In the middle of a body.
        let mut busy = server.connect();
        let body = bare(PASSIVE);
        let head = format!("POST /web HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
        busy.write_all(head.as_bytes()).unwrap();
        server.await_receiving();
        scene.reload("");
        for (connection, bytes) in [(&mut idle, bare(PASSIVE)), (&mut busy, body)] {
            let found = opens(&scene.mount, || {
                server.ask(connection, &[bytes]);
            });
            assert_eq!((found.active, found.passive), (0, 0), "{environment:?}");
            let found = opens(&scene.mount, || {
                server.ask(connection, &[bare(PASSIVE)]);
            });
            assert_eq!(found, Opens::twice(true), "{environment:?}");
        }
    }
}

#[test]
fn ports_and_rules_change_by_a_reload() {
    let scene = Scene::start("", &[]);
    let mut server = scene.server("prefork", "recvfrom");
    assert!(scene.tells(&mut server));
    assert_eq!(scene.request(&mut server, "/own"), Opens::twice(false));
    scene.reload("passive = [\"/own\"]\nactive = [\"/longpolling/*\"]\n");
    assert_eq!(scene.request(&mut server, "/own"), Opens::twice(true));
    assert_eq!(scene.request(&mut server, "/longpolling/x"), Opens::twice(false));
    scene.reload("active = [\"/longpolling/poll\"]\n");
    assert_eq!(scene.request(&mut server, PASSIVE), Opens::twice(false));
    scene.reload("requests = \"off\"\n");
    assert_eq!(scene.state()["state"], "off");
    assert!(!scene.tells(&mut server));
    std::fs::write(scene.mount.configuration(), "[activity]\nports = [1]\n").unwrap();
    assert_eq!(scene.mount.command("reload").0, Some(0));
    assert!(!scene.tells(&mut server));
    scene.reload("");
    assert!(scene.tells(&mut server));
    // A reload that fails changes nothing.
    let broken = "[activity]\nports = [1]\n[worker]\nuser = \"daemon\"\n";
    std::fs::write(scene.mount.configuration(), broken).unwrap();
    assert_ne!(scene.mount.command("reload").0, Some(0));
    assert!(scene.tells(&mut server));
}

#[test]
fn the_next_worker_knows_the_same() {
    let scene = Scene::start("", &[]);
    let mut server = scene.server("threads", "recvfrom");
    let mut held = server.connect();
    held.write_all(b"GET /websocket HTTP/1.1\r\nUpgrade: websocket\r\n\r\n").unwrap();
    head(&mut held);
    let worker = scene.mount.worker();
    kill(worker);
    until("another worker serves", || {
        scene.mount.any_worker().is_some_and(|next| next != worker)
            && std::fs::read_dir(scene.mount.path()).is_ok()
    });
    assert!(scene.tells(&mut server));
    let found = opens(&scene.mount, || {
        held.write_all(&[0x81, 1, b'x']).unwrap();
        held.read_exact(&mut [0; 42]).unwrap();
    });
    assert_eq!(found, Opens { passive: 1, ..Opens::default() });
}

#[test]
fn an_upgraded_keeper_loads_it_anew() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = directory.path().join("sessionfs");
    let install = || install(&program);
    install();
    let scene = Scene::start_in("", Command::new(&program));
    let mut server = scene.server("prefork", "recvfrom");
    assert!(scene.tells(&mut server));
    let former = programs_of(scene.mount.keeper());
    install();
    // Where the kernel needs longer to verify it than a reload waits, the next reload tries again.
    until("the program is loaded anew", || {
        assert_eq!(scene.mount.command("reload").0, Some(0), "{}", scene.mount.log());
        scene.tells(&mut server)
    });
    let programs = programs_of(scene.mount.keeper());
    assert!(programs.len() == 2 && programs.iter().all(|program| !former.contains(program)));
}

#[test]
fn thousands_of_threads_are_told_apart() {
    const THREADS: usize = 3000;
    const AT_ONCE: usize = 50;
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 8192, 8192);
    let scene = Scene::start("", &[]);
    let mut server = scene.server("threads", "recvfrom");
    let mut connections: Vec<TcpStream> = (0..THREADS).map(|_| server.connect()).collect();
    for turn in 0..2 {
        let found = opens(&scene.mount, || {
            // All threads live, and some at a time have a request: the mount is not what is tried here.
            for (group, some) in connections.chunks_mut(AT_ONCE).enumerate() {
                for (place, connection) in some.iter_mut().enumerate() {
                    let is_passive = (group * AT_ONCE + place + turn).is_multiple_of(3);
                    connection.write_all(&bare(if is_passive { PASSIVE } else { ACTIVE })).unwrap();
                }
                for connection in some.iter_mut() {
                    answer(connection);
                }
                server.forget_received();
            }
        });
        let passive = 2 * (THREADS as u64) / 3;
        let expected = Opens { unknown: 0, active: 2 * THREADS as u64 - passive, passive };
        assert_eq!(found, expected, "{turn}\n{}", scene.mount.log());
    }
}

#[test]
fn processes_that_come_and_go_change_nothing() {
    let scene = Scene::start("", &[]);
    let mut server = scene.server("prefork", "recvfrom");
    let mut storm = Command::new("sh")
        .args(["-c", "while :; do /bin/true & /bin/true; done"])
        .process_group(0)
        .spawn()
        .unwrap();
    for _ in 0..100 {
        assert!(scene.tells(&mut server));
    }
    let group = nix::unistd::Pid::from_raw(i32::try_from(storm.id()).unwrap());
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).unwrap();
    storm.wait().unwrap();
}

#[test]
fn without_the_rights_every_request_counts_and_that_is_told_once() {
    let mut without = Command::new("setpriv");
    without.args(["--bounding-set=-bpf,-perfmon", env!("CARGO_BIN_EXE_sessionfs")]);
    let scene = Scene::start_in("", without);
    let mut server = scene.server("prefork", "recvfrom");
    assert!(!scene.tells(&mut server));
    let state = scene.state();
    assert_eq!(state["state"], "failed");
    let why = state["why"].as_str().unwrap();
    assert!(why.contains("EPERM") && why.contains("BPF and PERFMON"), "{why}");
    let log = scene.mount.log();
    assert_eq!(log.matches("counts as activity: cannot ").count(), 1, "{log}");
    assert!(log.contains(why), "{log}");
    let finding = scene.finding();
    assert_eq!(finding["id"], "activity.requests");
    assert!(finding["what"].as_str().unwrap().contains(why), "{finding}");
}

#[test]
fn what_is_switched_off_is_not_loaded() {
    let scene = Scene::start("requests = \"off\"\n", &[]);
    let mut server = scene.server("prefork", "recvfrom");
    assert!(!scene.tells(&mut server));
    assert_eq!(scene.state(), serde_json::json!({"state": "off"}));
    assert_eq!(programs_of(scene.mount.keeper()), Vec::<u32>::new());
}

#[test]
fn nothing_is_left_of_a_keeper_that_is_killed() {
    let loaded = || -> Vec<u32> {
        aya::programs::loaded_programs().filter_map(|program| Some(program.ok()?.id())).collect()
    };
    let mut scene = Scene::start("", &[]);
    let programs = programs_of(scene.mount.keeper());
    assert_eq!(programs.len(), 2);
    assert!(programs.iter().all(|program| loaded().contains(program)));
    // Nobody else holds them.
    assert_eq!(programs_of(scene.mount.worker()), Vec::<u32>::new());
    scene.mount.kill();
    until("they are gone", || !programs.iter().any(|program| loaded().contains(program)));
}

/// The programs whose links a process holds.
fn programs_of(pid: u32) -> Vec<u32> {
    let infos = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    infos
        .filter_map(|info| std::fs::read_to_string(info.ok()?.path()).ok())
        .filter(|info| info.contains("link_id:"))
        .filter_map(|info| {
            info.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
        })
        .collect()
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// What a program has copied of requests: the map of connections, and that of the path.
struct Copied {
    connections: SkStorage<MapData, [u8; CONNECTION_BYTES]>,
    sought: PerCpuArray<MapData, [u8; RULE_BYTES]>,
}

/// As in `bpf/requests.bpf.c`, and where the copied bytes begin.
const CONNECTION_BYTES: usize = 280;
const LINE_AT: usize = 24;
const RULE_BYTES: usize = 100;
const PATH_AT: usize = 4;

impl Copied {
    fn of(keeper: u32) -> Self {
        let programs = programs_of(keeper);
        let ids: Vec<u32> = aya::programs::loaded_programs()
            .filter_map(Result::ok)
            .filter(|program| programs.contains(&program.id()))
            .flat_map(|program| program.map_ids().unwrap().unwrap())
            .collect();
        let map = |name: &str| {
            let is_it = |id: &&u32| MapInfo::from_id(**id).unwrap().name_as_str() == Some(name);
            let id = ids.iter().find(is_it).unwrap_or_else(|| panic!("no map {name}"));
            Map::from_map_data(MapData::from_id(*id).unwrap()).unwrap()
        };
        Self {
            connections: map("connections").try_into().unwrap(),
            sought: map("sought").try_into().unwrap(),
        }
    }

    /// Asserts that this is all that there is of the requests of a connection.
    fn are(&self, connection: &TcpStream, kept: &[u8]) {
        let found = self.connections.get(connection, 0).unwrap();
        let mut expected = [0; CONNECTION_BYTES - LINE_AT];
        expected[..kept.len()].copy_from_slice(kept);
        assert_eq!(
            found[LINE_AT..].escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
        for path in self.sought.get(&0, 0).unwrap().iter() {
            assert_eq!(path[PATH_AT..], [0; RULE_BYTES - PATH_AT]);
        }
    }
}

#[test]
fn of_a_request_nothing_stays_in_the_kernel_but_a_path_that_is_not_whole() {
    let requests: [&[&[u8]]; 7] = [
        &[b"GET /web?token=secret HTTP/1.1\r\nCookie: session_id=secret\r\n\r\n"],
        // Nothing that begins like a request.
        &[b"\x81\x06secret"],
        &[b"GET /web/a", b"bc HTTP/1.1\r\nCookie: session_id=secret\r\n\r\n"],
        // It is answered before it is whole.
        &[b"POST /longpolling"],
        &[b"GET /web?db=secret"],
        &[b"GET /websocket HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"],
        &[b"\x81\x06secret"],
    ];
    for environment in [&[][..], &[OLDER]] {
        let scene = Scene::start("", environment);
        let copied = Copied::of(scene.mount.keeper());
        // This process receives itself: the map is asked by the socket.
        let listener = TcpListener::bind(("127.0.0.1", scene.port)).unwrap();
        let mut client = connect(scene.port);
        let (mut server, _) = listener.accept().unwrap();
        for pieces in requests {
            let mut request = Vec::new();
            for piece in pieces {
                client.write_all(piece).unwrap();
                server.read_exact(&mut vec![0; piece.len()]).unwrap();
                request.extend_from_slice(piece);
                let path = request.iter().position(|byte| *byte == b'/').map(|at| &request[at..]);
                let is_whole = path.is_none_or(|path| path.iter().any(|byte| b" ?".contains(byte)));
                let is_kept = !is_whole && scene.sees_pieces();
                copied.are(&server, if is_kept { &request } else { b"" });
            }
            server.write_all(b"x").unwrap();
        }
    }
}

/// The container of an Odoo, while the mount is of the host.
#[test]
fn a_server_in_a_pid_namespace_below_is_seen() {
    let scene = Scene::start("", &[]);
    let before = ["unshare", "--pid", "--fork", "--kill-child=KILL"];
    let mut server = Server::start(&scene, &before, "prefork", "recvfrom");
    // The kernel tells a program the number that a thread has in the first namespace, and in its own.
    let is_first = std::fs::metadata("/proc/self/ns/pid").unwrap().ino() == 0xEFFF_FFFC;
    assert_eq!(scene.tells(&mut server), is_first);
}

/// Both are in one container. This test runs itself once more, there.
#[test]
fn a_mount_in_a_pid_namespace_sees_a_server_in_the_same() {
    const VARIABLE: &str = "SESSIONFS_TEST_IN_NAMESPACE";
    if std::env::var_os(VARIABLE).is_some() {
        let scene = Scene::start(RULES, &[]);
        assert_eq!(scene.state()["state"], "running", "{}", scene.mount.log());
        return every_request_has_its_class(&scene, "prefork", "recvfrom");
    }
    let status = Command::new("unshare")
        .args(["--pid", "--mount", "--propagation", "private", "--mount-proc", "--fork"])
        .arg("--kill-child=KILL")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_mount_in_a_pid_namespace_sees_a_server_in_the_same"])
        .env(VARIABLE, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_server_in_another_pid_namespace_is_not_known() {
    let scene = Scene::start_in("", in_a_pid_namespace_below());
    let mut server = scene.server("prefork", "recvfrom");
    assert!(!scene.tells(&mut server));
}
