//! UNLINK: logout, rotation, revocation and vacuum.

use std::ffi::OsStr;
use std::sync::Arc;

use super::caller::{Caller, Identity};
use super::current::no_session;
use super::inode::InodeId;
use super::save::session_name;
use super::thread::Listing;
use super::{Core, Step};
use crate::error::{Error, Result};
use crate::session::name::{Alias, CandidateAlias, RootName, SessionName};
use crate::store::{ChangeId, Link, Sessions, Unlink, Unlinked};
use crate::telemetry::Event;

impl<S: Sessions, L: Link> Core<S, L> {
    /// Removes a session or a staging file.
    ///
    /// By alias only for a thread that has listed the directory (glob and vacuum always have) or
    /// for root: a cookie that holds somebody's alias must not log him out.
    pub fn unlink(self: &Arc<Self>, caller: Caller, parent: InodeId, name: &OsStr) -> Step<()> {
        if let Some(session) = session_name(parent, name) {
            let by = self.callers.identify(caller);
            let core = Arc::clone(self);
            let listed = session
                .candidate
                .as_ref()
                .and_then(|candidate| self.removable_by_alias(by, parent, candidate));
            return Step::later(async move { core.unlink_session(by, &session, listed).await });
        }
        self.unlink_staging(parent, name).into()
    }

    fn removable_by_alias(
        &self,
        by: Identity,
        parent: InodeId,
        candidate: &CandidateAlias,
    ) -> Option<Alias> {
        let alias = self.listed_aliases().proven(candidate)?;
        let listing = match parent.shard() {
            Some(shard) => Listing::Shard(shard),
            None => Listing::Root,
        };
        let may = by.uid == 0 || self.threads().has_listed(by.thread, listing);
        may.then_some(alias)
    }

    async fn unlink_session(
        &self,
        by: Identity,
        name: &SessionName,
        listed: Option<Alias>,
    ) -> Result<()> {
        let held = listed.as_ref().and_then(|alias| self.own_session(by, alias));
        let unlink = Unlink { stamp: self.link.stamp(), alias: name.sid.alias(), listed, held };
        match self.sessions.unlink(&unlink).await {
            Ok(Unlinked::Gone { alias, .. }) => {
                self.ended(&alias);
                Ok(())
            }
            // It is served as before until it has ended, and nobody is told before that.
            Ok(Unlinked::Held { alias, .. }) => {
                self.removal_is_held(by, &alias, &unlink);
                Ok(())
            }
            Ok(Unlinked::Superseded) => {
                Event::RemovalSuperseded { alias: listed_or_own(&unlink) }.emit();
                Ok(())
            }
            Ok(Unlinked::Absent) => Err(no_session()),
            Err(error) => {
                // It may arrive later than the save that follows it, which takes it back.
                if unlink.held.is_some() {
                    self.removal_is_held(by, listed_or_own(&unlink), &unlink);
                }
                Err(Error::fault(
                    libc::EIO,
                    format!("the removal of {} failed: {error}", unlink.alias.entry(name.form)),
                ))
            }
        }
    }

    /// The birth of a session that is about to be removed, if it is the one of this very request.
    fn own_session(&self, by: Identity, alias: &Alias) -> Option<ChangeId> {
        let now = self.callers.now();
        self.threads().last_opened(by, alias, now)
    }

    fn removal_is_held(&self, by: Identity, alias: &Alias, unlink: &Unlink) {
        self.threads().removal_held(by.thread, alias, unlink.stamp.id, self.callers.now());
    }

    fn unlink_staging(&self, parent: InodeId, name: &OsStr) -> Result<()> {
        let stored_name = match name.to_str() {
            Some(name) if parent == InodeId::ROOT => match RootName::parse(name) {
                RootName::Staging => name.to_owned(),
                RootName::Spool(spool) => spool.aliased(),
                _ => return Err(no_session()),
            },
            _ => return Err(no_session()),
        };
        let staged = self.staging.find(&stored_name).ok_or_else(no_session)?;
        self.staging.remove(staged.inode);
        Ok(())
    }
}

/// Which of the two names a removal most likely meant.
fn listed_or_own(unlink: &Unlink) -> &Alias {
    unlink.listed.as_ref().unwrap_or(&unlink.alias)
}
