//! The lifetimes that Odoo's system parameters ask for, database by database (docs/odoo-parameters.md).
//!
//! A process of its own asks PostgreSQL, as Odoo's user, and tells the worker what it has read; it knows nothing of
//! sessions. The worker judges the values, and writes them to the live settings, which all servers follow.
//!
//! - [`access`]: how Odoo reaches PostgreSQL
//! - [`postgres`]: what it is asked
//! - [`follow`]: the worker's part

mod access;
pub(crate) mod follow;
mod postgres;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::exit::Failure;
use crate::odoo::root::Root;
use crate::supervision::Channel;

/// The system parameters, in seconds.
pub(crate) const IDLE: &str = "session.timeout";
pub(crate) const ABSOLUTE: &str = "session.absolute_timeout";

/// Half of the time within which a change is followed.
const POLL_EVERY: Duration = Duration::from_secs(5);
/// After a round that found nothing to ask. Twice as long each time.
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// How often it is looked anew how Odoo was started.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What one round of questions has found.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Round {
    /// Why it is not known which databases there are, if so.
    pub failure: Option<String>,
    pub databases: Vec<Database>,
}

/// A database of Odoo.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Database {
    pub name: String,
    /// Its values, or why they could not be read.
    pub values: Result<Values, String>,
}

/// The texts of the parameters; none where there is none.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Values {
    pub idle: Option<String>,
    pub absolute: Option<String>,
}

/// Asks again and again, until whoever has started it ends it.
pub(crate) fn run(socket: OwnedFd, uid: u32, config: Option<&Path>) -> Result<(), Failure> {
    let channel = Channel::new(socket);
    let failed = |e: std::io::Error| Failure::internal("ask PostgreSQL", e);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(failed)?.block_on(async {
        let mut pause = POLL_EVERY;
        let mut looked: Option<(Instant, access::Access)> = None;
        loop {
            let known = looked.take().filter(|(at, _)| at.elapsed() < LOOK_EVERY);
            let (at, access) = known.unwrap_or_else(|| {
                (Instant::now(), access::Access::find(&Root::host(), uid, config))
            });
            let round = postgres::ask(&access).await;
            if round.failure.is_some() {
                pause = (pause * 2).min(AGAIN_MAX);
            } else {
                pause = POLL_EVERY;
                looked = Some((at, access));
            }
            // A worker that has not read the rounds before is given the next one.
            let _ = channel.send(&round);
            sleep(pause).await;
        }
    })
}
