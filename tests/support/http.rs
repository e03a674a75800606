//! Asks what a node tells of itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::mount::Mount;

const PATIENCE: Duration = Duration::from_secs(60);

/// Sends a request, and gives back head and body.
pub fn exchange(mut stream: impl Read + Write, method: &str, path: &str) -> (String, String) {
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

pub fn control(mount: &Mount) -> PathBuf {
    sessionfs::config::paths::control_socket(&mount.path())
}

/// The code and the body of an answer on the control socket.
pub fn ask(mount: &Mount, path: &str) -> (u16, String) {
    coded(exchange(UnixStream::connect(control(mount)).unwrap(), "GET", path))
}

/// The same on a port of this host.
pub fn ask_port(port: u16, path: &str) -> (u16, String) {
    coded(exchange(TcpStream::connect(("127.0.0.1", port)).unwrap(), "GET", path))
}

fn coded((head, body): (String, String)) -> (u16, String) {
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (code.unwrap_or_else(|| panic!("no code: {head}")), body)
}

/// The body of an answer that is 200.
pub fn get(mount: &Mount, path: &str) -> String {
    let (code, body) = ask(mount, path);
    assert_eq!(code, 200, "{body}");
    body
}

/// The value of one line of the metrics, if it is there.
pub fn metric(mount: &Mount, line: &str) -> Option<f64> {
    let text = get(mount, "/metrics");
    let found = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    found.map(|value| value.parse().unwrap())
}

/// Waits until it is so.
#[track_caller]
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
