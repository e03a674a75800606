//! What a session is now, as LOOKUP and OPEN answer it, and what the calling thread is remembered
//! to have seen. Both operations differ only in what they do while the store is unavailable.

use std::fmt::Display;

use bytes::Bytes;

use super::Core;
use super::caller::Identity;
use super::inode::Version;
use super::poison::DIED_OF_IT;
use crate::error::{Error, Result};
use crate::session::name::{Alias, Sid};
use crate::store::current::{Current, found, look};
use crate::store::{Bound, ChangeId, Link, Lookup, Meta, Sessions, StoreError};
use crate::telemetry::Event;

/// What a name stands for now. A name that stands for nothing is an error.
pub(super) enum Resolved {
    /// A session, with its plain content.
    Version(Meta, Bytes),
    /// A session with a large content, which is not read yet.
    Large(Meta, Bound),
    /// A session, named by its alias.
    AliasOnly(Meta),
    /// The store cannot answer now.
    Unavailable,
    /// The store answers that it will not, and why.
    Refused(String),
}

impl<S: Sessions, L: Link> Core<S, L> {
    /// Asks the store. `alias` is that of `sid`; `listed` is the name taken as an alias, if it may
    /// be one.
    pub(super) async fn current(
        &self,
        by: Identity,
        sid: &Sid,
        alias: &Alias,
        listed: Option<&Alias>,
    ) -> Result<Resolved> {
        if std::iter::once(alias).chain(listed).any(|alias| self.is_poisoned(alias)) {
            return Err(self.read_failed(by, alias, DIED_OF_IT));
        }
        let found = look(&self.sessions, &self.keyring, sid, alias, listed).await;
        self.resolved(by, alias, found)
    }

    /// What the store's answer is for the caller.
    pub(super) fn resolved(
        &self,
        by: Identity,
        alias: &Alias,
        found: std::result::Result<Current, StoreError>,
    ) -> Result<Resolved> {
        match found {
            Ok(Current::Large { meta, bound }) => Ok(Resolved::Large(meta, bound)),
            Ok(Current::Version { meta, plain }) => Ok(Resolved::Version(meta, plain)),
            Ok(Current::AliasOnly { meta }) => Ok(Resolved::AliasOnly(meta)),
            Ok(Current::Gone) => {
                self.ended(alias);
                self.threads().found_absent(by.thread, alias);
                Err(no_session())
            }
            // Nobody can read it any more, whoever wrote it: a login page lets the person go on.
            Ok(Current::Unopened(error)) if error.is_final() => {
                Event::BrokenSeal { alias }.emit();
                Err(no_session())
            }
            Ok(Current::Unopened(error)) => Err(self.read_failed(by, alias, error)),
            Err(StoreError::Unreadable(why)) => Err(self.read_failed(by, alias, why)),
            Err(StoreError::Unavailable(_)) => Ok(Resolved::Unavailable),
            Err(StoreError::Refused(why)) => Ok(Resolved::Refused(why)),
        }
    }

    /// The version of a session that is current as far as is known here, if anything is.
    pub(super) fn at_hand(&self, sid: &Sid, alias: &Alias) -> Option<Version> {
        if self.is_poisoned(alias) {
            return None;
        }
        let Lookup::Session { meta, bound, sealed } = self.sessions.at_hand(alias)? else {
            return None;
        };
        // It is nearly always open already.
        let known = self.inodes().content(alias, meta.version);
        let (meta, bytes) = match known {
            Some(bytes) => (meta, bytes),
            None => match found(&self.keyring, sid, Lookup::Session { meta, bound, sealed }) {
                Current::Version { meta, plain } => {
                    self.inodes().keep_content(alias, meta.version, &plain);
                    (meta, plain)
                }
                _ => return None,
            },
        };
        let (sid, alias) = (sid.clone(), alias.clone());
        Some(Version { sid, alias, meta, bytes: Some(bytes) })
    }

    /// Whether this version is still the current one as far as is known here.
    pub(super) fn is_at_hand(&self, alias: &Alias, version: ChangeId) -> bool {
        matches!(
            self.sessions.at_hand(alias),
            Some(Lookup::Session { meta, .. }) if meta.version == version
        )
    }

    /// Whether the store can be asked for a session without waiting for anything else.
    pub(super) async fn is_ready(&self, by: Identity, alias: &Alias) -> Result<bool> {
        match self.sessions.is_ready(alias).await {
            Ok(is_ready) => Ok(is_ready),
            Err(StoreError::Unreadable(why)) => Err(self.read_failed(by, alias, why)),
            Err(StoreError::Unavailable(_) | StoreError::Refused(_)) => Ok(false),
        }
    }

    /// The error of a read that failed by no fault of the session. Also for a LOOKUP, which is most
    /// likely the first half of an `open`.
    pub(super) fn read_failed(&self, by: Identity, alias: &Alias, why: impl Display) -> Error {
        self.threads().read_failed(by.thread, alias);
        Error::fault(libc::EIO, format!("session {alias} cannot be read: {why}"))
    }

    /// A session was found to be gone: no later save may take its last version for a guess.
    pub(super) fn ended(&self, alias: &Alias) {
        self.inodes().ended(alias);
        self.poisoned().remove(alias);
        if let Some(observer) = &self.observer {
            observer.ended(alias);
        }
    }
}

/// No live session has that name.
pub(super) fn no_session() -> Error {
    Error::expected(libc::ENOENT, "no such session")
}
