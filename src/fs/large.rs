//! The large content of a session, for an `open`: waited for in steps, as the link is.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::Core;
use super::caller::Identity;
use super::current::Resolved;
use crate::error::Result;
use crate::session::name::Sid;
use crate::store::current::{Current, open_aside};
use crate::store::{Bound, Link, Meta, Sessions};

/// Between two tries of a transfer that fails at once.
const PAUSE: Duration = Duration::from_millis(100);

/// What one step of waiting for a large content has given.
pub(super) enum Large {
    Content(Bytes),
    /// Another version is current by now, or none.
    Replaced,
    /// Not yet.
    StepOver,
}

impl<S: Sessions, L: Link> Core<S, L> {
    /// The content of this version: kept from before, or read, for at most one step. It does not
    /// change, so it is read once for all who wait for it, and goes on arriving between two steps.
    pub(super) async fn large(
        &self,
        by: Identity,
        sid: &Sid,
        meta: &Meta,
        bound: &Bound,
    ) -> Result<Large> {
        let alias = &bound.alias;
        if let Some(kept) = self.inodes().content(alias, meta.version) {
            return Ok(Large::Content(kept));
        }
        let arrived = timeout(self.open_step, self.sessions.content(alias, bound.save)).await;
        let opened = match arrived {
            Err(_) => return Ok(Large::StepOver),
            Ok(Ok(None)) => return Ok(Large::Replaced),
            Ok(Ok(Some(sealed))) => {
                // One at a time is opened, and who comes next finds it kept: many who wait for a
                // content hold it once.
                let _alone = self.opening.lock().await;
                if let Some(kept) = self.inodes().content(alias, meta.version) {
                    return Ok(Large::Content(kept));
                }
                let (keyring, sid) = (self.keyring.clone(), sid.clone());
                let opened = open_aside(keyring, sid, meta.clone(), bound.clone(), sealed).await;
                if let Ok(Current::Version { plain, .. }) = &opened {
                    self.inodes().keep_content(alias, meta.version, plain);
                }
                opened
            }
            Ok(Err(error)) => Err(error),
        };
        match self.resolved(by, alias, opened)? {
            Resolved::Version(_, plain) => Ok(Large::Content(plain)),
            Resolved::Refused(why) => Err(self.read_failed(by, alias, why)),
            Resolved::Unavailable | Resolved::Large(..) | Resolved::AliasOnly(_) => {
                sleep(PAUSE).await;
                Ok(Large::StepOver)
            }
        }
    }
}
