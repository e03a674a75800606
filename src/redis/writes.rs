//! Whether Redis takes writes: a state beside the link's, for a server that answers and refuses.
//!
//! It is known from the refusals that real operations meet, and from a probe that writes nothing: a
//! `SET` of a key that does not exist, on the condition that it exists, and a script, since a save
//! is one. A server that is full (`OOM`), cannot write to its disk (`MISCONF`), is a replica
//! (`READONLY`), lacks replicas (`NOREPLICAS`) or has taken the rights of our user away (`NOPERM`)
//! refuses one of them as it refuses any; any other does nothing, and adds nothing to its
//! append-only file.

use std::mem::discriminant;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::errors::{ErrorCode, ServerError};
use super::link::{Fault, Need};
use super::primary::Primary;
use super::scripts::{CallFault, Way};
use super::{Inner, RedisStore};
use crate::store::Health;
use crate::telemetry::Event;

/// The probe is sent at most this often, however many ask.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Whether Redis takes writes, as far as it is known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Writes {
    /// Nothing is known yet.
    Unknown,
    Taken,
    /// It refuses them, or its user may not make them.
    Refused(ServerError),
}

impl Writes {
    /// The server's words, if it refuses, without a full stop.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            // They become a part of other sentences.
            Self::Refused(error) => Some(error.words().trim_end_matches('.')),
            Self::Unknown | Self::Taken => None,
        }
    }

    /// Whether both call for the same reaction: the words of one cause differ a little.
    fn is_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Refused(one), Self::Refused(other)) => {
                discriminant(&one.code) == discriminant(&other.code)
            }
            _ => self == other,
        }
    }
}

/// What is known now.
pub(super) struct Observed {
    state: watch::Sender<Writes>,
    /// When the probe was sent last; held while one is under way.
    probed: Mutex<Option<Instant>>,
}

impl Default for Observed {
    fn default() -> Self {
        Self { state: watch::Sender::new(Writes::Unknown), probed: Mutex::default() }
    }
}

impl Observed {
    pub(super) fn now(&self) -> Writes {
        self.state.borrow().clone()
    }

    pub(super) fn taken(&self) {
        self.is(&Writes::Taken);
    }

    /// Whether it refuses them because its memory is full.
    pub(super) fn is_full(&self) -> bool {
        matches!(&*self.state.borrow(), Writes::Refused(error) if error.code == ErrorCode::Oom)
    }

    /// Notes the error of any operation. What its user lacks a right to need not be what a save
    /// needs: the probe finds that out.
    pub(super) fn error(&self, error: &ServerError) {
        if error.code.takes_no_writes() {
            self.is(&Writes::Refused(error.clone()));
        }
    }

    /// Notes the probe's error; any other than a refusal says nothing of writes.
    fn refused(&self, error: &ServerError) {
        if error.code.takes_no_writes() || matches!(error.code, ErrorCode::NoPerm { .. }) {
            self.is(&Writes::Refused(error.clone()));
        }
    }

    fn is(&self, writes: &Writes) {
        // Every save comes here: no lock is taken while nothing changes.
        if self.state.borrow().is_as(writes) {
            return;
        }
        let mut was = Writes::Unknown;
        let changed = self.state.send_if_modified(|state| {
            let changes = !state.is_as(writes);
            if changes {
                was = std::mem::replace(state, writes.clone());
            }
            changes
        });
        // A server that takes writes from the beginning is no event.
        if changed && (was != Writes::Unknown || *writes != Writes::Taken) {
            Event::Writes { refused: writes.refusal() }.emit();
        }
    }
}

impl Inner {
    /// Probes, unless that was done a moment ago.
    async fn probe_if_due(&self, primary: &Primary) {
        let mut probed = primary.writes.probed.lock().await;
        let due = probed.is_none_or(|at| at.elapsed() >= PROBE_EVERY);
        if due && primary.link.health() == Health::Up {
            *probed = Some(Instant::now());
            if let Some(outcome) = self.probe_writes(primary).await {
                match outcome {
                    Ok(()) => primary.writes.taken(),
                    Err(error) => primary.writes.refused(&error),
                }
            }
        }
    }

    /// Of all primaries: a refusal of one is one of Redis.
    fn writes(&self) -> Writes {
        let each = self.primaries.all().into_iter().map(|primary| primary.writes.now());
        let worst = each.max_by_key(|writes| match writes {
            Writes::Taken => 0,
            Writes::Unknown => 1,
            Writes::Refused(_) => 2,
        });
        worst.unwrap_or(Writes::Unknown)
    }

    /// The server's error, if it refuses; `None` where the link is at fault, which logs that itself.
    async fn probe_writes(&self, primary: &Primary) -> Option<Result<(), ServerError>> {
        let requests = self.requests(primary);
        match primary.link.request(&requests.write_nothing(), Need::Up, self.attempt()).await {
            Ok(_) => {}
            Err(Fault::Server(error, _)) => return Some(Err(error)),
            Err(_) => return None,
        }
        // A script of its own that writes nothing: Redis 6.0 notes each one that calls a command
        // of writing in its append-only file, whatever that did.
        let script = requests.run_nothing();
        match self.call_primary(primary, &script, Way::Link(Need::Up), self.attempt()).await {
            Ok(_) => Some(Ok(())),
            Err(CallFault::Server(error, _)) => Some(Err(error)),
            Err(_) => None,
        }
    }
}

impl RedisStore {
    /// Whether Redis takes writes, by what was seen last.
    pub fn writes(&self) -> Writes {
        self.inner.writes()
    }

    /// The same, probed anew unless that was done within the last second. Takes no longer than one
    /// attempt of a change; nothing is sent by a link that is not up.
    pub async fn ask_writes(&self) -> Writes {
        for primary in self.inner.primaries.all() {
            self.inner.probe_if_due(&primary).await;
        }
        self.inner.writes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_of_writes_tell_something() {
        let observed = Observed::default();
        let error = |words: &str| observed.error(&words.into());
        error("WRONGTYPE Operation against a key holding the wrong kind of value");
        assert_eq!(observed.now(), Writes::Unknown);
        error("OOM command not allowed when used memory > 'maxmemory'.");
        let first = observed.now();
        assert!(first.refusal().is_some_and(|why| why.starts_with("OOM ")), "{first:?}");
        assert!(first.refusal().is_some_and(|why| why.ends_with("'maxmemory'")), "{first:?}");
        // The same cause in other words is no change; another cause is.
        error("OOM command not allowed. script: 1, on @user_script:84.");
        assert_eq!(observed.now(), first);
        error("MISCONF no disk");
        assert_eq!(observed.now().refusal(), Some("MISCONF no disk"));
        observed.taken();
        assert_eq!(observed.now(), Writes::Taken);
        // A right that is lacking is one that saves need only if the probe says so.
        let words = "ERR The user executing the script can't run this command or subcommand";
        let error = ServerError::from(words);
        observed.error(&error);
        assert_eq!(observed.now(), Writes::Taken);
        observed.refused(&error);
        assert_eq!(observed.now(), Writes::Refused(error));
    }
}
