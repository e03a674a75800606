//! What keeper and worker say to each other, over a socket pair that keeps messages apart.
//!
//! The end of one side is seen by the other as the end of the conversation. The keeper trusts a
//! worker's words no further than their meaning here: the worker reads what comes from Odoo and
//! from Redis, the keeper is root.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::exit::Failure;
use crate::telemetry::recent::Recent;

/// No message is longer.
const LENGTH_MAX_BYTES: usize = 16 * 1024;

/// What the worker reads from its pipe before anything else.
#[derive(Debug, Deserialize, Serialize)]
pub struct Handover {
    /// The version of the keeper: after a reload, that of the worker may be another.
    pub keeper: String,
    /// The whole configuration.
    pub config: Config,
    /// The first worker of this keeper fails if there is no Redis. A later one serves without:
    /// whoever opens a session then waits, which is better than no filesystem at all.
    pub first: bool,
    /// What it is to say of the keeper.
    pub node: Node,
}

/// What a worker tells of the keeper that started it, and of the workers before.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Node {
    /// Names this keeper among all of a cluster.
    pub id: String,
    /// The keeper's process.
    pub keeper_pid: u32,
    /// When it was started: milliseconds since the epoch.
    pub keeper_since_ms: u64,
    /// Workers that ended without being asked to.
    pub worker_restarts: u64,
    /// The keeper's last warnings.
    pub recent: Vec<Recent>,
}

/// From the worker.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Report {
    /// Redis is well (or need not be waited for): mount, please.
    RedisOk,
    /// The kernel has been answered: requests are served.
    Serving,
    /// How it stands with Redis from now on.
    Standing(Standing),
    /// What was collected has been written.
    Drained,
    /// It cannot go on, and why.
    Failed(Failure),
}

/// How a worker that serves stands with Redis.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Standing {
    /// It reads and saves, as far as is known.
    #[default]
    Well,
    /// There is no connection: requests wait, or fail.
    Away,
    /// Redis takes no writes, with these words.
    NoWrites(String),
}

/// From the keeper.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Order {
    /// The filesystem is made: serve.
    Go,
    /// It stands in its place: no name leads to the directory below any more.
    InPlace,
    /// Write what is collected: an end is near.
    Drain,
    /// Another worker tells of this node from now on.
    Succeeded,
}

/// What was heard.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Heard<M> {
    /// A message.
    Message(M),
    /// Nothing now.
    Nothing,
    /// The other side is gone.
    Gone,
}

/// One end of the conversation.
#[derive(Debug)]
pub struct Line {
    socket: OwnedFd,
}

/// Makes both ends: ours does not wait when read, the other's does.
pub fn pair() -> io::Result<(Line, OwnedFd)> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((Line { socket: ours }, theirs))
}

impl Line {
    /// The end that was handed to us.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Says something. Never waits: who does not listen is not told.
    pub fn say(&self, message: &impl Serialize) -> io::Result<()> {
        let packet = serde_json::to_vec(message)?;
        if packet.len() > LENGTH_MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too long"));
        }
        send(self.socket.as_raw_fd(), &packet, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// Listens without waiting.
    pub fn hear<M: DeserializeOwned>(&self) -> Heard<M> {
        self.receive(MsgFlags::MSG_DONTWAIT)
    }

    /// Listens until something is said; [`Heard::Nothing`] is for what could not be understood.
    pub fn wait<M: DeserializeOwned>(&self) -> Heard<M> {
        self.receive(MsgFlags::empty())
    }

    fn receive<M: DeserializeOwned>(&self, flags: MsgFlags) -> Heard<M> {
        let mut packet = vec![0; LENGTH_MAX_BYTES];
        loop {
            return match recv(self.socket.as_raw_fd(), &mut packet, flags) {
                Ok(0) => Heard::Gone,
                Ok(length) => {
                    serde_json::from_slice(&packet[..length]).map_or(Heard::Nothing, Heard::Message)
                }
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Heard::Nothing,
                Err(_) => Heard::Gone,
            };
        }
    }
}

impl AsFd for Line {
    /// Readable when something has been said, or the other side is gone.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::ExitCode;

    #[test]
    fn what_is_said_is_heard_then_the_end() {
        let (keeper, theirs) = pair().unwrap();
        let worker = Line::new(theirs);
        assert_eq!(keeper.hear::<Report>(), Heard::Nothing);
        let failed = Report::Failed(Failure::new(ExitCode::NotRedis, "no"));
        worker.say(&Report::RedisOk).unwrap();
        worker.say(&failed).unwrap();
        drop(worker);
        assert_eq!(keeper.hear(), Heard::Message(Report::RedisOk));
        assert_eq!(keeper.hear(), Heard::Message(failed));
        assert_eq!(keeper.hear::<Report>(), Heard::Gone);
        assert!(keeper.say(&Order::Go).is_err());
    }

    #[test]
    fn nonsense_is_no_message() {
        let (keeper, theirs) = pair().unwrap();
        let worker = Line::new(theirs);
        worker.say(&"nonsense").unwrap();
        assert_eq!(keeper.hear::<Report>(), Heard::Nothing);
        assert!(worker.say(&"x".repeat(LENGTH_MAX_BYTES)).is_err());
    }
}
