//! What a session is now: the one place that fetches a session and opens its content.
//!
//! LOOKUP and OPEN, the mirror and `sessionfs show` all ask here.

use bytes::Bytes;

use super::{Lookup, Meta, Sessions, StoreError};
use crate::session::name::{Alias, Sid};
use crate::session::seal::{self, SealError};
use crate::session::secret::Keyring;

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
/// that of `sid`.
pub async fn current<S: Sessions>(
    sessions: &S,
    keyring: &Keyring,
    sid: &Sid,
    alias: &Alias,
    listed: Option<&Alias>,
) -> Result<Current, StoreError> {
    Ok(match sessions.fetch(alias, listed).await? {
        Lookup::Session { meta, bound, sealed } => {
            match seal::open(keyring, sid, &bound, &sealed) {
                Ok(plain) if plain.len() as u64 == meta.size_bytes => {
                    Current::Version { meta, plain: plain.into() }
                }
                // The length is stored in the open.
                Ok(_) => Current::Unopened(SealError::Broken),
                Err(error) => Current::Unopened(error),
            }
        }
        Lookup::Alias { meta } => Current::AliasOnly { meta },
        Lookup::Absent => Current::Gone,
    })
}
