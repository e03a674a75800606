//! What a session is now: the one place that fetches a session and opens its content.
//!
//! LOOKUP and OPEN, the mirror and `sessionfs show` all ask here.

use bytes::Bytes;

use super::{Bound, Lookup, Meta, Sessions, StoreError};
use crate::session::name::{Alias, Sid};
use crate::session::seal::{self, SealError};
use crate::session::secret::Keyring;

/// How often a large content is begun anew because it was replaced meanwhile.
const MAX_RESTARTS: usize = 3;

/// What a name stands for now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Current {
    /// A live session.
    Version {
        /// Its current version.
        meta: Meta,
        /// The plain content of that version.
        plain: Bytes,
    },
    /// A live session with a large content, which is not read yet.
    Large {
        /// Its current version.
        meta: Meta,
        /// What is bound to its content.
        bound: Bound,
    },
    /// A live session, named by its alias.
    AliasOnly {
        /// Its current version.
        meta: Meta,
    },
    /// No live session.
    Gone,
    /// A live session whose content does not open with this session id.
    Unopened(SealError),
}

/// What `sid` stands for now, or `listed`, if it is given and `sid` is no live session. `alias` is
/// that of `sid`. A large content is not read: this takes one short answer.
pub async fn look<S: Sessions>(
    sessions: &S,
    keyring: &Keyring,
    sid: &Sid,
    alias: &Alias,
    listed: Option<&Alias>,
) -> Result<Current, StoreError> {
    Ok(found(keyring, sid, sessions.fetch(alias, listed).await?))
}

/// What `sid` stands for by this answer.
pub fn found(keyring: &Keyring, sid: &Sid, answer: Lookup) -> Current {
    match answer {
        Lookup::Session { meta, bound, sealed } => {
            let plain = seal::open(keyring, sid, &bound, &sealed);
            opened(meta, plain)
        }
        Lookup::Large { meta, bound } => Current::Large { meta, bound },
        Lookup::Alias { meta } => Current::AliasOnly { meta },
        Lookup::Absent => Current::Gone,
    }
}

/// The version that was found large, with its content; `None` if it is not the current one any
/// more.
async fn content<S: Sessions>(
    sessions: &S,
    keyring: &Keyring,
    sid: &Sid,
    meta: Meta,
    bound: Bound,
) -> Result<Option<Current>, StoreError> {
    let Some(sealed) = sessions.content(&bound.alias, bound.save).await? else { return Ok(None) };
    open_aside(keyring.clone(), sid.clone(), meta, bound, sealed).await.map(Some)
}

/// What `sid` stands for now, its content included, however large. Never [`Current::Large`].
pub async fn current<S: Sessions>(
    sessions: &S,
    keyring: &Keyring,
    sid: &Sid,
    alias: &Alias,
) -> Result<Current, StoreError> {
    for _ in 0..MAX_RESTARTS {
        match look(sessions, keyring, sid, alias, None).await? {
            Current::Large { meta, bound } => {
                if let Some(current) = content(sessions, keyring, sid, meta, bound).await? {
                    return Ok(current);
                }
            }
            current => return Ok(current),
        }
    }
    Err(StoreError::Unavailable("the session is replaced faster than it can be read".into()))
}

/// Opens a large content on a thread of its own: that of the store has all others waiting.
pub async fn open_aside(
    keyring: Keyring,
    sid: Sid,
    meta: Meta,
    bound: Bound,
    sealed: Bytes,
) -> Result<Current, StoreError> {
    tokio::task::spawn_blocking(move || opened(meta, seal::open(&keyring, &sid, &bound, &sealed)))
        .await
        .map_err(|error| StoreError::Unavailable(error.to_string()))
}

fn opened(meta: Meta, plain: Result<Vec<u8>, SealError>) -> Current {
    match plain {
        Ok(plain) if plain.len() as u64 == meta.size_bytes => {
            Current::Version { meta, plain: plain.into() }
        }
        // The length is stored in the open.
        Ok(_) => Current::Unopened(SealError::Broken),
        Err(error) => Current::Unopened(error),
    }
}
