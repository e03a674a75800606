//! What the keeper asks of its worker while it serves, and what is written when the end is near.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::control::StatusService;
use crate::exit::Failure;
use crate::fuse::Served;
use crate::fuse::wire::Init;
use crate::handoff::Kept;
use crate::layers::import_on_access::ImportOnAccess;
use crate::layers::spool::Spool;
use crate::mirror;
use crate::redis::RedisStore;
use crate::session::secret::{Keyring, Secret};
use crate::store::Link as _;
use crate::supervision::{Channel, Order, Received, Report};

/// How long what is collected may take to be written at the end.
const DRAIN_WITHIN: Duration = Duration::from_millis(1500);

/// Waits for the order to serve. Returns what is known of the connection, unless an older keeper does not say.
pub(super) fn await_connection(
    channel: &Channel,
    memory: Option<OwnedFd>,
) -> Result<Option<Served>, Failure> {
    loop {
        match channel.receive() {
            Received::Message(Order::Serve) => return Ok(None),
            Received::Message(Order::Connection { init, after }) => {
                let failed = |e| Failure::internal("take over from the worker before", e);
                let init = Init::parse(&init).map_err(failed)?;
                // Now, and not before: the other worker has written to it until now.
                let kept = memory.map(Kept::open).transpose().map_err(failed)?.unwrap_or_default();
                return Ok(Some(Served { init, after, kept }));
            }
            Received::Message(_) | Received::Empty => {}
            Received::Closed => return Err(Failure::internal("serve", "the keeper has exited")),
        }
    }
}

/// Carries out the keeper's orders from now on, and ends with the keeper.
pub(super) fn listen(
    channel: Arc<Channel>,
    ending: Ending,
    sessions: ImportOnAccess<Spool<super::Cached>, RedisStore>,
    keyring: Keyring,
    on_mounted: impl Fn() + Send + 'static,
    runtime: &Runtime,
) -> Result<(), Failure> {
    let handle = runtime.handle().clone();
    let mut held = Held { keyring, is_told: false };
    let mut is_mounted = false;
    let orders = move || {
        loop {
            match channel.receive() {
                Received::Message(Order::Drain) => {
                    handle.block_on(ending.drain());
                    if channel.send(&Report::Drained).is_err() {
                        break;
                    }
                }
                Received::Message(Order::Mounted) => {
                    ending.service.mounted();
                    if !std::mem::replace(&mut is_mounted, true) {
                        on_mounted();
                        let sessions = sessions.clone();
                        handle.spawn(async move { sessions.in_place().await });
                    }
                }
                Received::Message(Order::Secrets(secrets)) => held.follow(secrets),
                Received::Message(Order::Serve | Order::Connection { .. }) | Received::Empty => {}
                Received::Closed => break,
            }
        }
        // The kernel has sent SIGKILL already, unless the keeper died before that was arranged.
        std::process::abort();
    };
    std::thread::Builder::new()
        .name("orders".into())
        .spawn(orders)
        .map(|_| ())
        .map_err(|e| Failure::internal("start threads", e))
}

/// The secrets, which follow their file.
struct Held {
    keyring: Keyring,
    /// It was logged that the file lacks the one that is written with.
    is_told: bool,
}

impl Held {
    fn follow(&mut self, secrets: Vec<Secret>) {
        let written = self.keyring.writing();
        let is_lacking = !secrets.contains(&written);
        // None, or too many, come of no keeper of ours.
        let is_followed = self.keyring.replace(secrets);
        if is_followed && is_lacking && !self.is_told {
            tracing::error!(
                "the secret file does not hold {} any more, which sessions are written with; this \
                 server goes on with it, and cannot start again without: copy it from another \
                 server, or from the backup",
                written.fingerprint()
            );
        }
        self.is_told = is_lacking;
    }
}

/// What is written when an end is near.
#[derive(Clone)]
pub(super) struct Ending {
    pub store: RedisStore,
    pub service: Arc<StatusService>,
    pub mirror: Option<mirror::Writer>,
}

impl Ending {
    pub(super) async fn drain(&self) {
        let mirror = async {
            if let Some(mirror) = &self.mirror {
                mirror.settle(DRAIN_WITHIN).await;
            }
        };
        let trail = timeout(DRAIN_WITHIN, self.store.leave_trail());
        let (..) =
            tokio::join!(self.store.drain(DRAIN_WITHIN), self.service.leave(), mirror, trail);
    }
}
