//! The process that loads the program which sees requests: it has the capabilities BPF and PERFMON, and no other right, and ends when it has
//! handed over what it has made. The keeper starts it, and holds that.
//!
//! Before it gives up the rights of root it looks which ports Odoo listens on, unless they are configured: Odoo's
//! configuration file is not for everybody to read.
//!
//! - [`program`]: the program and its maps

#[cfg(feature = "bpf")]
mod program;

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::SendFlags;
use serde::{Deserialize, Serialize};

use crate::bpf::{Error, Step};
use crate::config::Requests;
use crate::exit::Failure;
#[cfg(feature = "bpf")]
use crate::fuse::kernel::Offers;
use crate::host::confine;
use crate::host::packet;
use crate::host::process::{self, Process};
use crate::odoo::ports::http_ports;
use crate::odoo::root::Root;
#[cfg(feature = "bpf")]
use crate::request::Hook;
use crate::request::Running;
use crate::request::rules::rules;
use crate::supervision::{Channel, Received};

/// How long it may take. It needs a tenth of a second on a machine that has nothing else to do, and seconds on an emulated
/// one. As long as a worker may take to start.
pub(crate) const LOADED_WITHIN: Duration = Duration::from_secs(10);
/// The same where a mount is there: callers wait if no worker serves them meanwhile.
pub(crate) const LOADED_WITHIN_WHILE_MOUNTED: Duration = Duration::from_secs(3);
/// For its end, if it is killed: it may be held by a disk.
const KILLED_WITHIN: Duration = Duration::from_millis(100);
/// No answer is longer.
const ANSWER_MAX_BYTES: usize = 4096;

/// What was loaded: as long as this lives, requests are seen.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub running: Running,
    /// The array of threads.
    pub marks: OwnedFd,
    /// The programs end with them.
    _links: Vec<OwnedFd>,
}

/// What the loader says.
#[derive(Deserialize, Serialize)]
struct Answer(Result<Running, Error>);

/// A loader that was started. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Loading {
    socket: OwnedFd,
    process: Process,
    until: Instant,
}

impl Loading {
    /// Starts it, by this program or its successor. It has to answer within this.
    pub(crate) fn start(program: &Path, requests: &Requests, within: Duration) -> io::Result<Self> {
        let (ours, theirs) = crate::supervision::pair()?;
        ours.send(requests)?;
        let mut command = process::prepare(program, "loader", &[("--socket-fd", theirs.as_fd())]);
        let process = command.spawn().and_then(Process::of_child)?;
        let socket = ours.into_socket();
        Ok(Self { socket, process, until: Instant::now() + within })
    }

    /// Waits for what it has made, or why it could not.
    pub(crate) fn finish(mut self) -> Result<Loaded, Error> {
        let failed = |error: io::Error| Error::of_io(Step::Loader, "", &error);
        let left = self.until.saturating_duration_since(Instant::now());
        let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        if !poll(&mut polled, left).is_ok_and(|ready| ready > 0) {
            self.process.kill_within(KILLED_WITHIN);
            return Err(failed(io::Error::other("it does not answer")));
        }
        let (text, descriptors) = receive(self.socket.as_fd()).map_err(failed)?;
        let Answer(outcome) =
            serde_json::from_slice(&text).map_err(|_| failed(io::Error::other("it has ended")))?;
        let running = outcome?;
        let mut descriptors = descriptors.into_iter();
        let marks =
            descriptors.next().ok_or_else(|| failed(io::Error::other("it hands over nothing")))?;
        Ok(Loaded { running, marks, _links: descriptors.collect() })
    }
}

/// Loads, hands over what was made, and ends: the whole of that process.
pub(crate) fn run(socket: OwnedFd) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::internal("hand over the BPF program", e);
    let channel = Channel::new(socket);
    let Received::Message(requests) = channel.receive::<Requests>() else {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
    };
    let socket = channel.into_socket();
    let ports: Vec<u16> = if requests.ports.is_empty() {
        http_ports(&Root::host())
    } else {
        requests.ports.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()
    };
    confine::become_loader()?;
    let (answer, descriptors) = match load(&requests, ports) {
        Ok((running, descriptors)) => (Answer(Ok(running)), descriptors),
        Err(error) => (Answer(Err(error)), Vec::new()),
    };
    let text = serde_json::to_vec(&answer).map_err(|e| failed(e.into()))?;
    send(socket.as_fd(), &text, &descriptors).map_err(failed)
}

#[cfg(feature = "bpf")]
fn load(requests: &Requests, ports: Vec<u16>) -> Result<(Running, Vec<OwnedFd>), Error> {
    let rules = rules(&requests.passive, &requests.active)
        .map_err(|(path, why)| Error::new(Step::Map, "rules", format!("{path}: {why}")))?;
    let program = program::Program::run(&hooks(), &rules, &ports)?;
    let running = Running { hook: program.hook, ports, rules: rules.len() };
    Ok((running, [program.marks].into_iter().chain(program.links).collect()))
}

#[cfg(not(feature = "bpf"))]
fn load(requests: &Requests, _: Vec<u16>) -> Result<(Running, Vec<OwnedFd>), Error> {
    let _ = rules(&requests.passive, &requests.active);
    Err(Error::new(Step::Build, "", "this program was built without it"))
}

/// The hooks to try, the newest first.
#[cfg(feature = "bpf")]
fn hooks() -> Vec<Hook> {
    let mut hooks = vec![Hook::Calls, Hook::Segments];
    let offers = Offers::from_environment();
    hooks.retain(|hook| offers.tracepoint(hook.name()));
    hooks
}

fn send(socket: BorrowedFd<'_>, text: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(OwnedFd::as_fd).collect();
    packet::send(socket, &[IoSlice::new(text)], &borrowed, SendFlags::empty())
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut text = vec![0; ANSWER_MAX_BYTES];
    let (length, descriptors) = packet::receive(socket, &mut text)?;
    text.truncate(length);
    Ok((text, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Hook;
    use std::fs::File;
    use std::io::Read as _;

    #[test]
    fn descriptors_are_handed_over_with_the_answer() {
        let (ours, theirs) = crate::supervision::pair().unwrap();
        let (mut reading, writing) = io::pipe().unwrap();
        let running = Running { hook: Hook::Calls, ports: vec![8069], rules: 1 };
        let text = serde_json::to_vec(&Answer(Ok(running.clone()))).unwrap();
        send(theirs.as_fd(), &text, &[writing.into()]).unwrap();
        let (text, mut descriptors) = receive(ours.as_fd()).unwrap();
        assert_eq!(serde_json::from_slice::<Answer>(&text).unwrap().0, Ok(running));
        io::Write::write_all(&mut File::from(descriptors.pop().unwrap()), b"x").unwrap();
        let mut read = String::new();
        reading.read_to_string(&mut read).unwrap();
        assert_eq!(read, "x");
    }
}
