//! Events: each is one log line (and, once metrics are served, one counter), so that the two
//! cannot drift apart. No event holds a session id; sessions are named by alias.

pub mod log;

use tracing::{error, info, warn};

use crate::session::name::Alias;

/// Something that an administrator or an auditor may want to know.
#[derive(Debug)]
pub enum Event<'a> {
    /// A session reached the end of its lifetime and was ended.
    Expired {
        /// Which session.
        alias: &'a Alias,
        /// Its database, as far as its content told.
        db: Option<&'a str>,
        /// Odoo's user id.
        uid: Option<i64>,
        /// Which limit it met: `idle`, `absolute`, `unopened`.
        limit: &'a str,
        /// Since its login (or first save).
        age_ms: u64,
        /// Since its last activity.
        idle_ms: u64,
    },
    /// A save was refused because it would have revived or destroyed a session.
    SaveRefused {
        /// Which session.
        alias: &'a Alias,
        /// Why.
        reason: &'a str,
    },
    /// Stored content that does not open with its own session's key.
    BrokenSeal {
        /// Which session.
        alias: &'a Alias,
    },
    /// The connection to Redis went from one state to another.
    Link {
        /// The state it is in now.
        state: &'a str,
        /// What was seen.
        cause: &'a str,
    },
    /// The worker lived, but the mount did not answer any more; it is ended.
    WorkerStuck {
        /// How long it had for an answer.
        answer_within_ms: u64,
    },
    /// The worker ended without being asked to.
    WorkerDied {
        /// How.
        status: &'a str,
    },
}

impl Event<'_> {
    /// Logs and counts it.
    pub fn emit(&self) {
        match self {
            Event::Expired { alias, db, uid, limit, age_ms, idle_ms } => {
                info!(event = "session_expired", %alias, db, uid, limit, age_ms, idle_ms);
            }
            Event::SaveRefused { alias, reason } => {
                info!(event = "save_refused", %alias, reason);
            }
            Event::BrokenSeal { alias } => warn!(event = "broken_seal", %alias),
            Event::Link { state, cause } => warn!(event = "link", state, cause),
            Event::WorkerStuck { answer_within_ms } => {
                error!(event = "worker_stuck", answer_within_ms);
            }
            Event::WorkerDied { status } => error!(event = "worker_died", status),
        }
    }
}
