//! Processes that use a mount as Odoo does (`tests/handoff/load.py`), as a user whom the bare directory is closed to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde::Deserialize;

use super::mount::Mount;

/// The owner of the tree: a user other than root that every Debian has, and its group.
pub const OWNER: (&str, &str) = ("nobody", "nogroup");
const OWNER_ID: u32 = 65534;
/// Longer than the script takes to find out who hangs.
const HUNG_AFTER: Duration = Duration::from_secs(90);

pub struct Load {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

/// What all of them have seen.
#[derive(Debug, Deserialize)]
pub struct Seen {
    pub operations: u64,
    /// The longest operation.
    pub worst_ms: u64,
    /// Which one that was.
    pub worst: String,
    /// By kind.
    pub errors: BTreeMap<String, u64>,
}

impl Load {
    /// Starts so many processes of each kind.
    pub fn start(mount: &Mount, of_each_kind: u32) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/handoff/load.py");
        let mut child = Command::new("python3")
            .arg("-c")
            .arg(std::fs::read_to_string(script).unwrap())
            .arg(mount.path())
            .arg(of_each_kind.to_string())
            .uid(OWNER_ID)
            .gid(OWNER_ID)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(said.next().unwrap().unwrap(), "running", "{}", mount.log());
        Self { child, said }
    }

    /// Ends them, and says what they have seen. Fails if one of them hangs.
    #[track_caller]
    pub fn end(mut self, mount: &Mount) -> Seen {
        drop(self.child.stdin.take());
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(self.said.next()));
        let said = receiver.recv_timeout(HUNG_AFTER);
        let Ok(Some(Ok(said))) = said else {
            panic!("a caller hangs, or has failed: {said:?}\n{}", mount.log());
        };
        assert!(self.child.wait().unwrap().success());
        serde_json::from_str(&said).unwrap()
    }
}
