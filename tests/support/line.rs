//! A slow line to a Redis server: a unix socket whose answers pass with so many bytes a second, over
//! all connections together, in the order in which they come.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::redis::Redis;

/// What one step passes on: as much as a switch would let one sender go first.
const STEP_BYTES: usize = 16 * 1024;

pub struct Line {
    directory: tempfile::TempDir,
}

impl Line {
    /// A line to this server, which lives as long as its clients do.
    pub fn to(redis: &Redis, bytes_per_second: u32) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let listener = UnixListener::bind(socket(&directory)).expect("a socket");
        let server = redis.socket();
        let free_at = Arc::new(Mutex::new(Instant::now()));
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let Ok(server) = UnixStream::connect(&server) else { return };
                let (to, from) = (twin(&server), twin(&client));
                thread::spawn(move || pass(from, to, |_| {}));
                let free_at = Arc::clone(&free_at);
                thread::spawn(move || {
                    pass(server, client, |bytes| {
                        let took = Duration::from_secs(1) * bytes / bytes_per_second;
                        let at = {
                            let mut free_at = free_at.lock().expect("no test panics with it");
                            *free_at = (*free_at).max(Instant::now()) + took;
                            *free_at
                        };
                        thread::sleep(at.saturating_duration_since(Instant::now()));
                    });
                });
            }
        });
        Self { directory }
    }

    pub fn url(&self) -> String {
        format!("unix:{}", socket(&self.directory).display())
    }
}

fn socket(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("line.sock")
}

fn twin(stream: &UnixStream) -> UnixStream {
    stream.try_clone().expect("a descriptor")
}

fn pass(mut from: UnixStream, mut to: UnixStream, mut delay: impl FnMut(u32)) {
    let mut step = vec![0; STEP_BYTES];
    while let Ok(length @ 1..) = from.read(&mut step) {
        delay(u32::try_from(length).expect("a step"));
        if to.write_all(&step[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
