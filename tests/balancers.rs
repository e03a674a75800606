//! The recipes of `docs/several-servers.md` for load balancers, word for word but for addresses:
//! a server whose sessions are not served is left out, and comes back.
//!
//! Needs the Debian packages `nginx-light` and `haproxy`.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use support::http::{ask_port, until};
use support::mount::Mount;
use support::redis::{Redis, free_port};

const DOCUMENT: &str = include_str!("../docs/several-servers.md");
/// The addresses of the document, and the ones on this host that stand for them.
const HOSTS: [(&str, &str); 3] =
    [("10.0.0.11", "127.0.0.2"), ("10.0.0.12", "127.0.0.3"), ("10.0.0.1;", "127.0.0.1;")];

/// The first block in `language` after a heading.
fn recipe(heading: &str, language: &str) -> String {
    let section = DOCUMENT.split(&format!("\n{heading}\n")).nth(1).expect(heading);
    let block = section.split(&format!("```{language}\n")).nth(1).expect("a block");
    block.split("```").next().expect("its end").to_owned()
}

struct Ports {
    front: u16,
    odoo: u16,
    evented: u16,
    host: u16,
}

impl Ports {
    fn free() -> Self {
        Self { front: free_port(), odoo: free_port(), evented: free_port(), host: free_port() }
    }

    /// The text with the addresses of this host.
    fn put(&self, text: &str) -> String {
        let mut text =
            HOSTS.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        for (from, to) in [("8069", self.odoo), ("8072", self.evented), ("8080", self.host)] {
            text = text.replace(from, &to.to_string());
        }
        text.replace("bind :80\n", &format!("bind 127.0.0.1:{}\n", self.front))
            .replace("listen 80;", &format!("listen 127.0.0.1:{};", self.front))
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Stands for an Odoo: answers everything with its name.
fn odoo(address: &str, name: &'static str) {
    let listener = TcpListener::bind(address).expect("its address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut asked = [0; 4096];
            let _ = stream.read(&mut asked);
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\n";
            let _ = stream.write_all(format!("{head}{name}").as_bytes());
        }
    });
}

/// One process, so that it ends when it is ended.
fn nginx(directory: &Path, name: &str, http: &str) -> Running {
    let file = directory.join(format!("{name}.conf"));
    let place = directory.display();
    let text = format!(
        "daemon off;\nmaster_process off;\npid {place}/{name}.pid;\nerror_log {place}/{name}.log;\n\
         events {{}}\nhttp {{\naccess_log off;\n{http}\n}}\n"
    );
    std::fs::write(&file, text).unwrap();
    let nginx = || {
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr"]).arg("-p").arg(directory).arg("-c").arg(&file);
        command
    };
    let tested = nginx().arg("-t").output().expect("nginx, of the package nginx-light");
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
    Running(nginx().spawn().unwrap())
}

fn haproxy(directory: &Path, text: &str) -> Running {
    let file = directory.join("haproxy.cfg");
    std::fs::write(&file, text).unwrap();
    let haproxy = || {
        let mut command = Command::new("haproxy");
        command.arg("-q").arg("-f").arg(&file);
        command
    };
    let tested = haproxy().arg("-c").output().expect("haproxy, of the package of that name");
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
    Running(haproxy().arg("-db").spawn().unwrap())
}

/// Two servers as the document has them.
struct Servers {
    _redis: Redis,
    mounts: [Mount; 2],
    ports: Ports,
    directory: tempfile::TempDir,
    _nginx: Vec<Running>,
}

impl Servers {
    fn start() -> Self {
        let (redis, ports) = (Redis::start(), Ports::free());
        let directory = tempfile::tempdir().unwrap();
        let mut own = Vec::new();
        let mounts = [(0, "one"), (1, "two")].map(|(number, name)| {
            let metrics = free_port();
            let mount = Mount::start(
                &redis,
                &format!("[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n[worker]\nanswer_within = \"4s\"\n"),
            );
            let host = HOSTS[number].1;
            odoo(&format!("{host}:{}", ports.odoo), name);
            // Its own address in the place of the first one's; Odoo is on that address alone here.
            let text = recipe("## Health checks", "nginx")
                .replace("10.0.0.11", host)
                .replace("http://127.0.0.1:8069", &format!("http://{host}:8069"))
                .replace("9401", &metrics.to_string())
                .replace("/var/lib/nginx/sessionfs", &format!("{}/{name}", directory.path().display()));
            own.push(nginx(directory.path(), name, &ports.put(&text)));
            mount
        });
        let servers = Self { _redis: redis, mounts, ports, directory, _nginx: own };
        for (_, host) in &HOSTS[..2] {
            let at = (*host, servers.ports.host);
            until("its nginx listens", || TcpStream::connect(at).is_ok());
        }
        servers
    }

    /// The sessions of one are not served any more; or again.
    fn signal(&self, number: usize, signal: Signal) {
        let keeper = i32::try_from(self.mounts[number].keeper()).unwrap();
        kill(nix::unistd::Pid::from_raw(keeper), signal).unwrap();
    }

    /// Who answers.
    fn asked(&self) -> (u16, String) {
        ask_port(self.ports.front, "/")
    }

    /// Who answers twenty requests in a row, once each.
    fn all_asked(&self) -> Vec<String> {
        let mut names: Vec<_> = (0..20).map(|_| self.asked().1).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn listens(&self) {
        let at = ("127.0.0.1", self.ports.front);
        until("the balancer listens", || TcpStream::connect(at).is_ok());
    }
}

#[test]
fn haproxy_leaves_out_a_server_whose_sessions_are_not_served() {
    let servers = Servers::start();
    let text = servers.ports.put(&recipe("### HAProxy", "haproxy"));
    let _haproxy = haproxy(servers.directory.path(), &text);
    servers.listens();
    until("both answer", || servers.all_asked() == ["one", "two"]);
    servers.signal(0, Signal::SIGSTOP);
    until("one is left out", || servers.all_asked() == ["two"]);
    // All fail: who is unchecked serves what it can.
    servers.signal(1, Signal::SIGSTOP);
    until("both are asked all the same", || servers.all_asked() == ["one", "two"]);
    assert_eq!(servers.asked().0, 200);
    servers.signal(0, Signal::SIGCONT);
    until("one is back", || servers.all_asked() == ["one"]);
    servers.signal(1, Signal::SIGCONT);
    until("both are back", || servers.all_asked() == ["one", "two"]);
}

#[test]
fn nginx_leaves_out_a_server_whose_sessions_are_not_served() {
    let servers = Servers::start();
    let text = servers.ports.put(&recipe("### nginx", "nginx"));
    let _front = nginx(servers.directory.path(), "front", &text);
    servers.listens();
    until("both answer", || servers.all_asked() == ["one", "two"]);
    servers.signal(0, Signal::SIGSTOP);
    until("one is left out", || servers.all_asked() == ["two"]);
    // Nobody has noticed: each request that met the 503 went on to the other.
    assert_eq!(servers.asked(), (200, "two".to_owned()));
    servers.signal(1, Signal::SIGSTOP);
    // 503 of a server that was asked, 502 where none is left to be asked.
    until("all fail", || [502, 503].contains(&servers.asked().0));
    servers.signal(0, Signal::SIGCONT);
    servers.signal(1, Signal::SIGCONT);
    until("both are back", || servers.all_asked() == ["one", "two"]);
}
