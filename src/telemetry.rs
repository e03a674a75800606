//! Events: each is one log line and one counter, so that the two cannot drift apart. No event holds
//! a session id; sessions are named by alias.
//!
//! - [`metrics`]: what is counted, in one registry for the process; [`links`]: of the connections
//!   to Redis
//! - [`request`] and [`latency`]: the kernel's requests as labels, times as histograms
//! - [`log`]: where log lines go; [`recent`]: the last warnings and errors, for `status`; [`line`]:
//!   what both take for one of a kind
//! - [`unidentified`]: why a caller cannot be identified

#[cfg(test)]
mod documented;
pub(crate) mod latency;
pub(crate) mod line;
pub(crate) mod links;
pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod recent;
pub(crate) mod request;
pub(crate) mod unidentified;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::{error, info, warn};

use self::links::Observed;
use self::metrics::metrics;
use self::unidentified::Unidentified;
use crate::session::name::Alias;
use crate::store::{Health, Refusal};

/// This host's clock, milliseconds since the epoch: for people's eyes, never to judge a session.
pub fn now_ms() -> u64 {
    milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Something that an administrator or an auditor may want to know.
#[derive(Debug)]
pub enum Event<'a> {
    /// Redis is full: a visitor's session was ended to make room for those who are logged in.
    EndedForRoom {
        alias: &'a Alias,
        size_bytes: u64,
        /// Since its last activity.
        idle_ms: u64,
    },
    /// Odoo asked for the end of a user's sessions.
    EndedByOdoo {
        db: &'a str,
        /// As far as it named them.
        login: Option<&'a str>,
        uid: Option<i64>,
        /// How many were ended.
        sessions: u64,
    },
    /// A save of a visitor's session was refused because of its size.
    AnonymousTooLarge { alias: &'a Alias, size_bytes: u64 },
    /// A save was refused because it would have revived or destroyed a session.
    SaveRefused { alias: &'a Alias, reason: Refusal },
    /// A save under a name that no session can have. The name may be a cookie, so it is not told.
    NameRefused,
    /// Stored content that does not open with its own session's key.
    BrokenSeal { alias: &'a Alias },
    /// A session whose header cannot be read: another program's key, or a format of a later version.
    Unreadable { alias: &'a Alias },
    /// A change that Redis has not taken is kept on this host.
    ChangeKept {
        alias: &'a Alias,
        /// `save`, `removal`, `change of attributes`.
        change: &'static str,
        why: &'a str,
    },
    /// A kept change was sent to Redis.
    ChangeSent { alias: &'a Alias, change: &'static str, age_ms: u64 },
    /// A kept change is not sent any more.
    ChangeDropped { alias: &'a Alias, change: &'static str, reason: &'static str },
    /// A change could not be kept: too many are.
    SpoolFull { alias: &'a Alias, change: &'static str },
    /// A late removal found a session that began after it was asked for, and ended nothing.
    RemovalSuperseded { alias: &'a Alias },
    /// An open or a save by a process that cannot be identified. Logged once, counted always.
    UnidentifiedCaller { why: Unidentified },
    /// The connection to a server of Redis went from one state to another.
    Link {
        link: &'a Observed,
        /// Where it leads, without credentials, if that is known.
        server: Option<&'a str>,
        /// The state it is in now.
        state: Health,
        cause: &'a str,
        /// Of a state that is over: for how long, and what was seen in it last.
        after: Option<(Duration, &'a str)>,
    },
    /// A live setting has changed, and is followed from now on.
    Setting {
        key: &'a str,
        /// What held until now; `None`: the node's own file.
        old: Option<&'a str>,
        /// What holds now.
        new: Option<&'a str>,
    },
    /// A live setting cannot be used; the previous value stays in effect.
    BadSetting { reason: &'a str },
    /// The worker lived, but the mount did not answer any more; it is ended.
    WorkerStuck {
        /// How long it had for an answer.
        answer_within_ms: u64,
    },
    /// The worker ended without being asked to.
    WorkerDied { status: &'a str },
}

impl Event<'_> {
    /// Logs and counts it.
    pub fn emit(&self) {
        let metrics = metrics();
        match *self {
            Event::EndedForRoom { alias, size_bytes, idle_ms } => {
                warn!(event = "ended_for_room", %alias, size_bytes, idle_ms);
                metrics.ended_for_room.inc();
            }
            Event::EndedByOdoo { db, login, uid, sessions } => {
                info!(event = "ended_by_odoo", db, login, uid, sessions);
            }
            Event::AnonymousTooLarge { alias, size_bytes } => {
                warn!(event = "anonymous_too_large", %alias, size_bytes);
            }
            Event::SaveRefused { alias, reason } => {
                info!(event = "save_refused", %alias, reason = reason.text());
                metrics.save_refused(reason);
            }
            Event::NameRefused => {
                info!(event = "name_refused", "a save under a name that no session has is refused");
            }
            Event::BrokenSeal { alias } => {
                warn!(event = "broken_seal", %alias);
                metrics.broken_seals.inc();
            }
            Event::Unreadable { alias } => {
                warn!(event = "unreadable_session", %alias, "it is left out of listings");
            }
            Event::ChangeKept { alias, change, why } => {
                info!(event = "change_kept", %alias, change, why);
                metrics.spool.kept.inc();
            }
            Event::ChangeSent { alias, change, age_ms } => {
                info!(event = "change_sent", %alias, change, age_ms);
                metrics.spool.sent.inc();
            }
            Event::ChangeDropped { alias, change, reason } => {
                info!(event = "change_dropped", %alias, change, reason);
                metrics.spool.dropped(reason);
            }
            Event::SpoolFull { alias, change } => {
                error!(event = "spool_full", %alias, change, "it fails");
            }
            Event::RemovalSuperseded { alias } => {
                warn!(event = "removal_superseded", %alias, "the session began after the removal");
            }
            Event::UnidentifiedCaller { why } => {
                if metrics.caller_unidentified(why) == 1 {
                    let remedy = why.remedy();
                    error!(
                        event = "unidentified_caller",
                        why = why.label(),
                        remedy,
                        "{}",
                        why.text()
                    );
                }
            }
            Event::Link { link, server, state, cause, after } => {
                // Recovery is logged at info level.
                if state == Health::Up {
                    let (lasted_ms, seen) =
                        after.map(|(lasted, seen)| (milliseconds(lasted), seen)).unzip();
                    info!(event = "link", server, state = state.label(), cause, lasted_ms, seen);
                } else {
                    warn!(event = "link", server, state = state.label(), cause);
                }
                link.is(state, server);
            }
            Event::WorkerDied { status } => {
                error!(event = "worker_died", status);
                metrics.worker_restarts.inc();
            }
            Event::Setting { key, old, new } => {
                info!(event = "setting", key, old, new, "a live setting has changed");
            }
            Event::BadSetting { reason } => {
                warn!(event = "bad_setting", reason, "the previous value stays in effect");
            }
            Event::WorkerStuck { answer_within_ms } => {
                error!(event = "worker_stuck", answer_within_ms);
                metrics.worker_restarts.inc();
            }
        }
    }
}
