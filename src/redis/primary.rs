//! One Redis server that takes writes, and what is known of it alone: its connections, its clock,
//! and what it refuses. A replica that takes its place becomes the same primary.

use std::sync::Arc;

use tokio::task::AbortHandle;

use super::bulk::Bulk;
use super::clock::Time;
use super::endpoint::Endpoint;
use super::greeting::Greeter;
use super::link::{Link, Timing};
use super::live::Live;
use super::memory;

/// With the last reference its task ends.
pub(super) struct Primary {
    pub link: Link,
    pub bulk: Bulk,
    pub time: Arc<Time>,
    pub memory_refused: memory::Refused,
    supervisor: AbortHandle,
}

/// What every primary is made with.
pub(super) struct Common {
    pub timing: Timing,
    pub greeter: Greeter,
    pub live: Arc<Live>,
    /// Whether Redis's clock is asked for: see [`Time`].
    pub real_clock: bool,
}

impl Primary {
    /// Connects from now on, on the current runtime.
    pub(super) fn start(endpoint: Endpoint, common: &Arc<Common>) -> Arc<Self> {
        let time = Arc::new(Time::new(common.real_clock));
        let bulk = Bulk::new(endpoint.clone(), common.timing.connect);
        let (greeting, greeted) = (Arc::clone(common), Arc::clone(&time));
        let (live, heartbeat) = (Arc::clone(&common.live), Arc::clone(&time));
        let (link, supervisor) = Link::new(
            endpoint,
            common.timing,
            move || greeting.greeter.questions(&greeted),
            common.greeter.probe(),
            move |answer, sent| {
                heartbeat.observe_answer(answer, sent, live.lifetimes().idle_ms);
            },
        );
        Arc::new(Self {
            link,
            bulk,
            time,
            memory_refused: memory::Refused::default(),
            supervisor: tokio::spawn(supervisor).abort_handle(),
        })
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}
