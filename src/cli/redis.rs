//! How a command reaches the sessions: the same Redis that a mount would use, within a bound.

use tokio::runtime::{Builder, Runtime};

use super::system_log;
use crate::config::{Config, flags::Place};
use crate::exit::{ExitCode, Failure};
use crate::redis::probe::{ProbeError, probe};
use crate::redis::{RedisStore, Settings};
use crate::store::{Link as _, StoreError, Wait, Waited};
use crate::trail::entry::Event;
use crate::worker::first_contact;

/// How often a Redis that answers is waited for.
const STEPS: usize = 4;

/// A store that is well, and what runs it.
pub(super) struct Reached {
    /// Where the store's tasks live.
    pub runtime: Runtime,
    /// The sessions.
    pub store: RedisStore,
}

/// Connects, or says why not and what to do.
pub(super) fn reach(place: &Place) -> Result<Reached, Failure> {
    let mut settings = Config::resolve_redis(place)?;
    settings.origin.by = Some(system_log::who());
    let runtime = runtime()?;
    let store = runtime.block_on(connect(&settings))?;
    Ok(Reached { runtime, store })
}

/// What runs a command that asks Redis.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::internal("start threads", e))
}

async fn connect(settings: &Settings) -> Result<RedisStore, Failure> {
    let store = RedisStore::start(settings.clone())
        .map_err(|e| Failure::new(ExitCode::BadUrl, e.to_string()))?;
    for _ in 0..STEPS {
        if store.wait_up(Wait::default()).await == Waited::Up {
            return Ok(store);
        }
        // The link says that it is down; the probe finds out why, with the remedy.
        probe(settings).await.map_err(|error| refused(&error))?;
    }
    Err(Failure::new(
        ExitCode::RedisUnreachable,
        format!("Redis at {}: {}; try again", settings.url, store.link_cause()),
    ))
}

/// Why Redis cannot be used by whoever typed the command.
fn refused(error: &ProbeError) -> Failure {
    match error {
        ProbeError::NoSocketRight(at) if !nix::unistd::geteuid().is_root() => Failure::new(
            ExitCode::NotRoot,
            format!("no permission for the socket of Redis at {at}; run it with sudo"),
        ),
        error => Failure::new(first_contact::code(error), error.to_string()),
    }
}

/// Says in the audit trail what was done. A trail that takes nothing does not keep the command from its work.
pub(super) async fn tell(store: &RedisStore, event: Event, what: &str, count: Option<u64>) {
    if let Err(error) = store.tell_trail(event, what, count).await {
        anstream::eprintln!("sessionfs: cannot write to the audit trail: {error}");
    }
}

/// A command that was under way when Redis went, or that Redis does not carry out.
pub(super) fn failed(error: &StoreError) -> Failure {
    match error {
        StoreError::Unavailable(_) => {
            Failure::new(ExitCode::RedisUnreachable, format!("{error}; try again when it is back"))
        }
        StoreError::Refused(_) => {
            Failure::new(ExitCode::RedisRefuses, format!("{error}; see docs/redis.md"))
        }
        StoreError::Unreadable(_) => Failure::new(
            ExitCode::RedisRefuses,
            format!(
                "{error}; find the other program that writes there, or give sessionfs its own \
                 redis.prefix"
            ),
        ),
    }
}
