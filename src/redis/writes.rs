//! Whether Redis takes writes: a part of the link's state, for a server that answers and refuses.
//!
//! It is known from the refusals that real operations meet, and from a probe that writes nothing:
//! every command that a session takes, on keys that do not exist, and a script, since a save is one.
//! A server that is full (`OOM`), cannot write to its disk (`MISCONF`), is a replica (`READONLY`),
//! lacks replicas (`NOREPLICAS`) or has taken the rights of our user away (`NOPERM`) refuses one of
//! them as it refuses any; any other does nothing, and adds nothing to its append-only file. It is
//! sent on each new connection ([`super::greeting::Probe`]), and again and again while it is refused.

use std::mem::discriminant;
use std::time::Duration;

use super::RedisStore;
use super::errors::ServerError;

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

    /// Whether they are refused for this reason already: the words of one cause differ a little.
    pub(super) fn is_refused_as(&self, error: &ServerError) -> bool {
        matches!(self, Self::Refused(known) if discriminant(&known.code) == discriminant(&error.code))
    }
}

impl RedisStore {
    /// Whether Redis takes writes, by what was seen last: a refusal of one primary is one of Redis.
    pub fn writes(&self) -> Writes {
        let each = self.inner.primaries.all().into_iter().map(|primary| primary.link.writes());
        let worst = each.max_by_key(|writes| match writes {
            Writes::Taken => 0,
            Writes::Unknown => 1,
            Writes::Refused(_) => 2,
        });
        worst.unwrap_or(Writes::Unknown)
    }

    /// The same, probed anew unless that was done within the last second. Takes no longer than one
    /// attempt of a change; nothing is sent by a link that cannot be read.
    pub async fn ask_writes(&self) -> Writes {
        for primary in self.inner.primaries.all() {
            primary.link.ask_writes(PROBE_EVERY).await;
        }
        self.writes()
    }
}
