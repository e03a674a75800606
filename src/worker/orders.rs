//! What the keeper asks of its worker while it serves, and what is written when the end is near.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::control::Node;
use crate::exit::Failure;
use crate::keeper::report::{Heard, Line, Order, Report};
use crate::layers::import_on_access::ImportOnAccess;
use crate::mirror;
use crate::redis::RedisStore;
use crate::store::Link as _;

/// How long what is collected may take to be written at the end.
const DRAIN_WITHIN: Duration = Duration::from_millis(1500);

/// Waits for the order to serve.
pub fn await_go(line: &Line) -> Result<(), Failure> {
    loop {
        match line.wait() {
            Heard::Message(Order::Go) => return Ok(()),
            Heard::Message(Order::Drain | Order::Succeeded | Order::InPlace) | Heard::Nothing => {}
            Heard::Gone => return Err(Failure::internal("serve", "the keeper is gone")),
        }
    }
}

/// Carries out the keeper's orders from now on, and ends with the keeper.
pub fn listen(
    line: Arc<Line>,
    ending: Ending,
    sessions: ImportOnAccess<RedisStore, RedisStore>,
    runtime: &Runtime,
) -> Result<(), Failure> {
    let handle = runtime.handle().clone();
    let orders = move || {
        loop {
            match line.wait() {
                Heard::Message(Order::Drain) => {
                    handle.block_on(ending.drain());
                    if line.say(&Report::Drained).is_err() {
                        break;
                    }
                }
                Heard::Message(Order::Succeeded) => ending.node.succeeded(),
                Heard::Message(Order::InPlace) => {
                    ending.node.in_place();
                    let sessions = sessions.clone();
                    handle.spawn(async move { sessions.in_place().await });
                }
                Heard::Message(Order::Go) | Heard::Nothing => {}
                Heard::Gone => break,
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

/// What is written when an end is near.
#[derive(Clone)]
pub struct Ending {
    pub store: RedisStore,
    pub node: Arc<Node>,
    pub mirror: Option<mirror::Writer>,
}

impl Ending {
    pub async fn drain(&self) {
        let mirror = async {
            if let Some(mirror) = &self.mirror {
                mirror.settle(DRAIN_WITHIN).await;
            }
        };
        tokio::join!(self.store.drain(DRAIN_WITHIN), self.node.leave(), mirror);
    }
}
