//! What the keeper and its worker send each other, over a socket pair that keeps messages apart.
//!
//! Each side sees the end of the other as the end of the channel. The keeper trusts what a worker
//! sends no further than its meaning here: the worker parses what comes from Odoo and from Redis, and
//! the keeper is root.
//!
//! - [`credentials`]: what the worker may ask for at any time

pub(crate) mod credentials;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt,
};
use nix::sys::time::TimeVal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::exit::Failure;
use crate::handoff::Ended;
use crate::request::State;
use crate::session::secret::Secret;
use crate::telemetry::recent::Recent;

/// No message is longer.
const LENGTH_MAX_BYTES: usize = 64 * 1024;

/// What the worker reads from its pipe before anything else.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Handover {
    /// The version of the keeper. After a reload the worker may be of another.
    pub keeper: String,
    pub config: Config,
    /// What contents are sealed with, as far as there is a file; its first worker has one made.
    #[serde(default)]
    pub secrets: Vec<Secret>,
    /// The first worker of this keeper fails if there is no Redis. A later one serves without it:
    /// whoever opens a session then waits, which is better than no filesystem at all.
    pub first: bool,
    /// The first worker, too, may serve without Redis, if it does not come in time. An older keeper
    /// does not allow it.
    #[serde(default)]
    pub may_lack_redis: bool,
    /// How many workers this keeper has started before. An older keeper does not say.
    #[serde(default)]
    pub worker: u64,
    /// The keeper, for the status.
    pub keeper_info: KeeperInfo,
}

/// The keeper that started a worker, and what is known of the workers before.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct KeeperInfo {
    /// Names this keeper among all of a cluster.
    pub id: String,
    pub pid: u32,
    /// When it was started: milliseconds since the epoch.
    pub since_ms: u64,
    /// Workers that ended without being asked to.
    pub worker_restarts: u64,
    /// Whether requests are told apart. An older keeper does not say.
    #[serde(default)]
    pub requests: State,
    /// Its last warnings.
    pub recent: Vec<Recent>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Report {
    /// Redis is usable (or need not be waited for): the filesystem may be made.
    RedisReady,
    /// The kernel's first request is answered: requests are served.
    Serving,
    /// The state of Redis from now on.
    Redis(RedisState),
    /// Asks for the secrets in their file: [`Order::Secrets`] answers.
    Secrets {
        /// To make one if there is none, because Redis is not written with one.
        make: bool,
    },
    /// All that was collected is written.
    Drained,
    /// It is found what the workers before have died of, and that is failed from now on. An older keeper does not know
    /// this.
    CauseFound,
    /// It cannot continue, and why.
    Failed(Failure),
}

/// Redis, as a worker that serves sees it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum RedisState {
    /// It can be read and written, as far as is known.
    #[default]
    Up,
    /// There is no connection: requests wait, or fail.
    Down,
    /// It takes no writes, with these words.
    NoWrites(String),
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Order {
    /// The filesystem is made: serve it. Of an older keeper, which leaves the kernel's first request to the worker.
    Serve,
    /// Serve the connection whose first request was this one.
    Connection {
        /// INIT, as the kernel has sent it.
        init: Vec<u8>,
        /// How the worker before has ended.
        after: Ended,
    },
    /// It is mounted: no name leads to the underlying directory any more. Sent once more when the end that was near does
    /// not come.
    Mounted,
    /// Write what is collected: the end is near.
    Drain,
    /// What contents are sealed with from now on.
    Secrets(Vec<Secret>),
}

/// The outcome of a read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Received<M> {
    Message(M),
    /// None now, or one that could not be understood.
    Empty,
    /// The other side is gone.
    Closed,
}

/// One end of the channel.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
}

/// Makes both ends.
pub(crate) fn pair() -> io::Result<(Channel, OwnedFd)> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((Channel { socket: ours }, theirs))
}

impl Channel {
    /// The end that was handed to us.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// The socket of this end.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Sends a message. Never waits: it fails if the other side has not read those before.
    pub(crate) fn send(&self, message: &impl Serialize) -> io::Result<()> {
        let packet = serde_json::to_vec(message)?;
        if packet.len() > LENGTH_MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too large"));
        }
        send(self.socket.as_raw_fd(), &packet, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// Reads without waiting.
    pub(crate) fn try_receive<M: DeserializeOwned>(&self) -> Received<M> {
        self.read(MsgFlags::MSG_DONTWAIT)
    }

    /// From now on [`Channel::receive`] waits no longer than this, in whole seconds.
    pub(crate) fn receive_within(&self, bound: Duration) -> io::Result<()> {
        let seconds = bound.as_secs().try_into().map_err(io::Error::other)?;
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &TimeVal::new(seconds, 0))?;
        Ok(())
    }

    /// Waits for a message.
    pub(crate) fn receive<M: DeserializeOwned>(&self) -> Received<M> {
        self.read(MsgFlags::empty())
    }

    fn read<M: DeserializeOwned>(&self, flags: MsgFlags) -> Received<M> {
        let mut packet = vec![0; LENGTH_MAX_BYTES];
        loop {
            return match recv(self.socket.as_raw_fd(), &mut packet, flags) {
                Ok(0) => Received::Closed,
                Ok(length) => serde_json::from_slice(&packet[..length])
                    .map_or(Received::Empty, Received::Message),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Received::Empty,
                Err(_) => Received::Closed,
            };
        }
    }
}

impl AsFd for Channel {
    /// Readable when there is a message, or the other side is gone.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::ExitCode;

    #[test]
    fn messages_arrive_in_order_before_the_end() {
        let (keeper, theirs) = pair().unwrap();
        let worker = Channel::new(theirs);
        assert_eq!(keeper.try_receive::<Report>(), Received::Empty);
        let failed = Report::Failed(Failure::new(ExitCode::NotRedis, "no"));
        worker.send(&Report::RedisReady).unwrap();
        worker.send(&failed).unwrap();
        drop(worker);
        assert_eq!(keeper.try_receive(), Received::Message(Report::RedisReady));
        assert_eq!(keeper.try_receive(), Received::Message(failed));
        assert_eq!(keeper.try_receive::<Report>(), Received::Closed);
        assert!(keeper.send(&Order::Serve).is_err());
    }

    #[test]
    fn what_cannot_be_parsed_is_no_message() {
        let (keeper, theirs) = pair().unwrap();
        let worker = Channel::new(theirs);
        worker.send(&"nonsense").unwrap();
        assert_eq!(keeper.try_receive::<Report>(), Received::Empty);
        assert!(worker.send(&"x".repeat(LENGTH_MAX_BYTES)).is_err());
    }
}
