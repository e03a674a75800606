//! Messages to the service manager, which wait until its socket has room.
//!
//! A service manager that has much to do, or hangs, does not read. Who waited for it would not look after the worker.
//!
//! What is superseded before it could be sent is not sent: the former status, a descriptor that is of no use any more,
//! a reload that had ended when the next one began. So only a few can wait. What is left is sent in the order in which
//! it was said.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::net::SendFlags;

use crate::host::packet;

/// What a message is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum About {
    Ready,
    Reloading,
    Stopping,
    /// The descriptor of that name is to be kept.
    Store(&'static str),
    /// That one is of no use any more.
    Forget(&'static str),
    Status,
    Alive,
    MoreTime,
}

impl About {
    fn is_state(self) -> bool {
        matches!(self, Self::Ready | Self::Reloading | Self::Stopping)
    }

    /// Whether nobody has to hear this any more once the other one is said.
    fn is_superseded_by(self, newer: Self) -> bool {
        match newer {
            Self::Ready | Self::Reloading | Self::Stopping => false,
            Self::Forget(name) => self == newer || self == Self::Store(name),
            Self::Store(_) | Self::Status | Self::Alive | Self::MoreTime => self == newer,
        }
    }
}

#[derive(Debug)]
pub(super) struct Message {
    pub about: About,
    /// Lines `NAME=VALUE`.
    pub text: String,
    pub descriptor: Option<OwnedFd>,
}

impl Message {
    fn send(&self, socket: &UnixDatagram) -> io::Result<()> {
        let descriptor: Vec<_> =
            self.descriptor.iter().map(|descriptor| descriptor.as_fd()).collect();
        let parts = [IoSlice::new(self.text.as_bytes())];
        packet::send(socket, &parts, &descriptor, SendFlags::DONTWAIT)
    }
}

/// What waits, and the socket that it waits for.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Where the service manager reads.
    path: PathBuf,
    waiting: VecDeque<Message>,
    /// While anything waits.
    socket: Option<Arc<UnixDatagram>>,
}

impl Outbox {
    pub(super) fn to(path: PathBuf) -> Self {
        Self { path, waiting: VecDeque::new(), socket: None }
    }

    /// Sends a message, or has it wait.
    pub(super) fn put(&mut self, message: Message) {
        self.waiting.retain(|waiting| !waiting.about.is_superseded_by(message.about));
        if message.about == About::Reloading {
            self.drop_reload();
        }
        let last = self.waiting.iter().rfind(|waiting| waiting.about.is_state());
        if message.about != About::Ready || last.is_none_or(|last| last.about != About::Ready) {
            self.waiting.push_back(message);
        }
        self.send();
    }

    /// A reload that has begun while this was full has ended by now.
    fn drop_reload(&mut self) {
        let begun = self.waiting.iter().position(|waiting| waiting.about == About::Reloading);
        let Some(begun) = begun else { return };
        let after = self.waiting.split_off(begun);
        self.waiting.extend(after.into_iter().filter(|waiting| !waiting.about.is_state()));
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn send(&mut self) {
        while let Some(message) = self.waiting.front() {
            let is_new = self.socket.is_none();
            let sent =
                connected(&mut self.socket, &self.path).and_then(|socket| message.send(&socket));
            match sent {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // It may listen at another socket by now.
                Err(_) if !is_new => self.socket = None,
                Err(error) => {
                    tracing::warn!(%error, "cannot notify the service manager");
                    self.socket = None;
                    self.waiting.pop_front();
                }
            }
        }
        self.socket = None;
    }

    /// What becomes writable when there is room; `None` if nothing waits.
    pub(super) fn waits_for(&self) -> Option<Arc<UnixDatagram>> {
        self.socket.clone()
    }
}

fn connected(socket: &mut Option<Arc<UnixDatagram>>, path: &Path) -> io::Result<Arc<UnixDatagram>> {
    if let Some(socket) = socket {
        return Ok(Arc::clone(socket));
    }
    let new = UnixDatagram::unbound()?;
    new.connect(path)?;
    Ok(Arc::clone(socket.insert(Arc::new(new))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    struct Manager {
        socket: UnixDatagram,
        directory: tempfile::TempDir,
    }

    impl Manager {
        fn new() -> (Self, Outbox) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("notify");
            let socket = UnixDatagram::bind(&path).unwrap();
            (Self { socket, directory }, Outbox::to(path))
        }

        /// As if others had said so much that nothing more fits in.
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

        /// What was said, without what the others have said.
        fn hear(&self) -> Vec<String> {
            self.socket.set_nonblocking(true).unwrap();
            let mut packet = [0; 4096];
            let heard = std::iter::from_fn(|| {
                let length = self.socket.recv(&mut packet).ok()?;
                Some(String::from_utf8_lossy(&packet[..length]).trim_end().to_owned())
            });
            heard.filter(|text| text != "X=1").collect()
        }
    }

    fn say(outbox: &mut Outbox, about: About, text: &str) {
        outbox.put(Message { about, text: format!("{text}\n"), descriptor: None });
    }

    /// Sends all that waits, as the keeper does: whenever there is room.
    fn heard(manager: &Manager, outbox: &mut Outbox) -> Vec<String> {
        let mut all = manager.hear();
        while let Some(socket) = outbox.waits_for() {
            let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            assert_eq!(poll(&mut polled, PollTimeout::from(10_000_u16)), Ok(1));
            outbox.send();
            all.extend(manager.hear());
        }
        all
    }

    #[test]
    fn who_does_not_read_holds_nobody_and_hears_all_states_in_order_later() {
        let (manager, mut outbox) = Manager::new();
        manager.fill();
        let file = std::fs::File::open("/dev/null").unwrap();
        say(&mut outbox, About::Status, "STATUS=one");
        for name in ["device", "memory"] {
            let descriptor = Some(file.try_clone().unwrap().into());
            outbox.put(Message { about: About::Store(name), text: name.into(), descriptor });
        }
        say(&mut outbox, About::Ready, "READY=1");
        for _ in 0..1000 {
            say(&mut outbox, About::Alive, "WATCHDOG=1");
            say(&mut outbox, About::Status, "STATUS=two");
        }
        say(&mut outbox, About::Reloading, "RELOADING=1");
        say(&mut outbox, About::Ready, "READY=1");
        say(&mut outbox, About::Status, "STATUS=three");
        say(&mut outbox, About::Stopping, "STOPPING=1");
        let polled = outbox.waits_for().unwrap();
        let mut polled = [PollFd::new(polled.as_fd(), PollFlags::POLLOUT)];
        assert_eq!(poll(&mut polled, PollTimeout::ZERO), Ok(0), "there is room");
        let all = [
            "device",
            "memory",
            "READY=1",
            "WATCHDOG=1",
            "RELOADING=1",
            "READY=1",
            "STATUS=three",
            "STOPPING=1",
        ];
        assert_eq!(heard(&manager, &mut outbox), all);
    }

    #[test]
    fn a_released_descriptor_does_not_wait() {
        let (manager, mut outbox) = Manager::new();
        manager.fill();
        for _ in 0..100 {
            for name in ["device", "memory"] {
                say(&mut outbox, About::Forget(name), &format!("forget {name}"));
            }
            let (ours, theirs) = io::pipe().unwrap();
            let descriptor = Some(theirs.into());
            outbox.put(Message { about: About::Store("device"), text: "x".into(), descriptor });
            say(&mut outbox, About::Forget("device"), "forget device");
            // Nobody holds the other end.
            assert_eq!(io::Read::read(&mut &ours, &mut [0]).unwrap(), 0);
        }
        assert_eq!(heard(&manager, &mut outbox), ["forget memory", "forget device"]);
    }

    #[test]
    fn of_many_reloads_the_last_one_is_told() {
        let (manager, mut outbox) = Manager::new();
        manager.fill();
        say(&mut outbox, About::Ready, "READY=1");
        for number in 0..100 {
            say(&mut outbox, About::Reloading, &format!("RELOADING={number}"));
            say(&mut outbox, About::Ready, "READY=1");
            say(&mut outbox, About::Ready, "READY=1");
        }
        assert_eq!(heard(&manager, &mut outbox), ["READY=1", "RELOADING=99", "READY=1"]);
    }

    #[test]
    fn a_service_manager_that_is_not_there_any_more_keeps_nothing_waiting() {
        let (manager, mut outbox) = Manager::new();
        manager.fill();
        say(&mut outbox, About::Ready, "READY=1");
        drop(manager);
        outbox.send();
        assert!(outbox.waits_for().is_none());
    }
}
