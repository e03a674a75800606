//! Whether Redis takes writes: a state beside the link's, for a server that answers and refuses.
//!
//! It is known from the refusals that real operations meet, and from a probe that writes nothing: a
//! `SET` of a key that does not exist, on the condition that it exists, and a script, since a save
//! is one. A server that is full (`OOM`), cannot write to its disk (`MISCONF`), is a replica
//! (`READONLY`), lacks replicas (`NOREPLICAS`) or has taken the rights of our user away (`NOPERM`)
//! refuses one of them as it refuses any; any other does nothing, and adds nothing to its
//! append-only file.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::link::{Fault, Need};
use super::scripts::CallFault;
use super::{Inner, RedisStore};
use crate::store::{Health, StoreError};
use crate::telemetry::Event;

/// The probe is sent at most this often, whoever asks.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// As much of a server's words is kept.
const REASON_MAX_CHARS: usize = 200;

/// Why a server takes no writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// `OOM`: its memory has reached `maxmemory`.
    Full,
    /// `MISCONF`: it cannot write to its disk.
    Failing,
    /// `READONLY`: it is a replica.
    Replica,
    /// `NOREPLICAS`: fewer replicas follow it than it must have.
    NoReplicas,
    /// `NOPERM`: its user may not, since somebody changed its rights.
    NoRights,
}

/// What Redis 7.0 says, with no code of its own, of a command in a script.
const NO_RIGHTS_IN_SCRIPT: &str = "The user executing the script can't";
/// What Redis 7 adds to an error in a script: which one, and where in it.
const IN_SCRIPT: &str = " script: ";

impl Refusal {
    /// From a server's error; `None` for any other.
    pub fn of(error: &str) -> Option<Self> {
        let codes = [
            ("OOM ", Self::Full),
            ("MISCONF", Self::Failing),
            ("READONLY", Self::Replica),
            ("NOREPLICAS", Self::NoReplicas),
            ("NOPERM", Self::NoRights),
            (NO_RIGHTS_IN_SCRIPT, Self::NoRights),
        ];
        codes.into_iter().find_map(|(code, refusal)| error.contains(code).then_some(refusal))
    }
}

/// Whether Redis takes writes, as far as it is known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Writes {
    /// Nothing was asked yet.
    Unknown,
    /// It takes them.
    Taken,
    /// It refuses them, with these words: one line, the code first.
    Refused(Arc<str>),
}

impl Writes {
    /// The server's words, if it refuses.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused(why) => Some(why),
            Self::Unknown | Self::Taken => None,
        }
    }

    /// Whether both are the same for who acts on it: the words of one cause differ a little.
    fn is_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Refused(one), Self::Refused(other)) => Refusal::of(one) == Refusal::of(other),
            _ => self == other,
        }
    }
}

/// What is known, for whoever asks or waits for a change.
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
    pub fn now(&self) -> Writes {
        self.state.borrow().clone()
    }

    pub fn taken(&self) {
        self.is(&Writes::Taken);
    }

    /// Takes in the error of any operation. What its user lacks a right to need not be what a save
    /// needs: the probe tells of that.
    pub fn error(&self, error: &str) {
        if Refusal::of(error) != Some(Refusal::NoRights) {
            self.refused(error);
        }
    }

    /// Takes in the probe's error; any other than a refusal tells nothing.
    fn refused(&self, error: &str) {
        if Refusal::of(error).is_some() {
            // They are a part of other sentences.
            let words = error.split(IN_SCRIPT).next().unwrap_or(error).trim_end_matches('.');
            let words: String = words.chars().take(REASON_MAX_CHARS).collect();
            self.is(&Writes::Refused(words.into()));
        }
    }

    fn is(&self, writes: &Writes) {
        // Asked by every save: nobody waits for the lock of a change that there is not.
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
        // That a server is as it should be from the beginning is no news.
        if changed && (was != Writes::Unknown || *writes != Writes::Taken) {
            Event::Writes { refused: writes.refusal() }.emit();
        }
    }
}

impl Inner {
    /// Asks, unless that was done a moment ago, and says what is known then.
    async fn ask_whether_it_takes_writes(&self) -> Writes {
        let mut probed = self.writes.probed.lock().await;
        let due = probed.is_none_or(|at| at.elapsed() >= PROBE_EVERY);
        if due && self.link.health() == Health::Up {
            *probed = Some(Instant::now());
            if let Some(outcome) = self.probe_writes().await {
                match outcome {
                    Ok(()) => self.writes.taken(),
                    Err(why) => self.writes.refused(&why),
                }
            }
        }
        self.writes.now()
    }
}

impl Inner {
    /// The server's error, if it refuses; nothing where the link is at fault, which tells of itself.
    async fn probe_writes(&self) -> Option<Result<(), String>> {
        // Should somebody have made that key, it ends at once.
        let mut set = redis::cmd("SET");
        set.arg(self.keys.write_probe()).arg("").arg("XX").arg("PX").arg(1);
        match self.link.request(&set, Need::Well, self.attempt()).await {
            Ok(_) => {}
            Err(Fault::Server(why)) => return Some(Err(why)),
            Err(_) => return None,
        }
        // A script of its own that writes nothing: Redis 6.0 notes each one that calls a command
        // of writing in its append-only file, whatever that did.
        let mut call = self.scripts.probe.call(&self.policy());
        call.key(self.keys.write_probe());
        match self.call(&call, Need::Well, self.attempt()).await {
            Ok(_) => Some(Ok(())),
            Err(CallFault::Answered(StoreError::Refused(why), _)) => Some(Err(why)),
            Err(_) => None,
        }
    }
}

impl RedisStore {
    /// Whether Redis takes writes, by what was seen last.
    pub fn writes(&self) -> Writes {
        self.inner.writes.now()
    }

    /// The same, asked anew where that was not done within the last second. Takes no longer than
    /// one attempt of a change; a link that is not up is not asked.
    pub async fn ask_writes(&self) -> Writes {
        self.inner.ask_whether_it_takes_writes().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_of_writes_tell_something() {
        let observed = Observed::default();
        observed.error("WRONGTYPE Operation against a key holding the wrong kind of value");
        assert_eq!(observed.now(), Writes::Unknown);
        observed.error("OOM command not allowed when used memory > 'maxmemory'.");
        let first = observed.now();
        assert!(first.refusal().is_some_and(|why| why.starts_with("OOM ")), "{first:?}");
        assert!(first.refusal().is_some_and(|why| why.ends_with("'maxmemory'")), "{first:?}");
        // The same cause in other words is no change; another cause is.
        observed.error("OOM command not allowed. script: 1, on @user_script:84.");
        assert_eq!(observed.now(), first);
        observed.error(&format!("MISCONF {}", "x".repeat(10_000)));
        let second = observed.now();
        assert_eq!(second.refusal().map(str::len), Some(REASON_MAX_CHARS));
        observed.taken();
        assert_eq!(observed.now(), Writes::Taken);
        // A right that is lacking is one that saves need only if the probe says so.
        let words = "ERR The user executing the script can't run this command or subcommand";
        let error = format!("{words} script: 0123, on @user_script:84.");
        observed.error(&error);
        assert_eq!(observed.now(), Writes::Taken);
        observed.refused(&error);
        assert_eq!(observed.now(), Writes::Refused(words.into()));
    }
}
