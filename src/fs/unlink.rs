//! UNLINK and RMDIR: logout, rotation, revocation and vacuum.

use std::ffi::OsStr;
use std::sync::Arc;

use super::caller::{Caller, Identity};
use super::current::no_session;
use super::inode::InodeId;
use super::list::{cannot_list, soon};
use super::save::session_name;
use super::thread::OpenedSession;
use super::{Core, Step};
use crate::error::{Error, Result};
use crate::session::name::{Alias, Form, RootName, SessionName, Shard};
use crate::store::{Attempt, Health, Link, Lookup, Sessions, StoreError, Unlink, Unlinked};
use crate::telemetry::Event;

impl<S: Sessions, L: Link> Core<S, L> {
    /// Removes a session or a staging file.
    ///
    /// By alias only for whom a listing allows it: a cookie that holds somebody's alias must not end
    /// that session.
    pub fn unlink(self: &Arc<Self>, caller: Caller, parent: InodeId, name: &OsStr) -> Step<()> {
        let by = self.callers.identify(caller);
        if let Some(session) = session_name(parent, name) {
            if by.is_repeated() && self.kept.is_of_other_store() {
                return Err(Error::fault(
                    libc::EIO,
                    "the removal of a session was asked for while another Redis was configured",
                ))
                .into();
            }
            let core = Arc::clone(self);
            let shown = session.candidate.as_ref().and_then(|name| self.listed_alias(name));
            let listed = shown.map(|alias| {
                if self.may_remove(by, &alias) {
                    Listed::Removable(alias)
                } else {
                    Listed::Protected(alias)
                }
            });
            return Step::later(async move { core.unlink_session(by, &session, listed).await });
        }
        if let Some(thread) = self.threads().get(by.thread) {
            thread.end_save();
        }
        self.unlink_staging(by, parent, name).into()
    }

    /// Whether this caller may remove a session by its alias, which a listing has shown.
    fn may_remove(&self, by: Identity, alias: &Alias) -> bool {
        by.uid == 0
            || !self.serving().may_contain(by.process)
            || self.grants().allows(by.thread, alias, self.callers.now())
    }

    async fn unlink_session(
        self: &Arc<Self>,
        by: Identity,
        name: &SessionName,
        listed: Option<Listed>,
    ) -> Result<()> {
        let (listed, protected) = match listed {
            Some(Listed::Removable(alias)) => (Some(alias), None),
            Some(Listed::Protected(alias)) => (None, Some(alias)),
            None => (None, None),
        };
        let own = listed.as_ref().and_then(|alias| self.own_session(by, alias));
        let held = own.map(|opened| opened.birth);
        let alias = name.sid.alias();
        let opened = own.or_else(|| self.own_session(by, &alias)).map(|opened| opened.class);
        let stamp = self.link.stamp(alias.shard());
        let unlink = Unlink { stamp, alias, listed, held, opened };
        let unlink = self.kept.removal(by.request, unlink);
        let was_tried = unlink.stamp.attempt == Attempt::Again;
        let is_up = self.link.health(Some(unlink.alias.shard())) == Health::Up;
        if !is_up && self.hold_own_removal(by, &unlink, was_tried) {
            return Ok(());
        }
        match self.sessions.unlink(&unlink).await {
            Ok(Unlinked::Gone { alias, .. }) => {
                self.ended(&alias);
                self.grants().removed(by.thread, &alias);
                Ok(())
            }
            // It is served as before until it has ended, and nobody is told before that.
            Ok(Unlinked::Held { .. }) if self.hold_own_removal(by, &unlink, true) => Ok(()),
            Ok(Unlinked::Held { .. }) => self
                .remove_held(unlink.clone())
                .await
                .map_err(|error| not_removed(&unlink, name, &error)),
            Ok(Unlinked::Superseded) => {
                Event::RemovalSuperseded { alias: listed_or_own(&unlink) }.emit();
                Ok(())
            }
            Ok(Unlinked::Absent) => Err(self.not_removed(protected.as_ref()).await),
            // It may have arrived, and be held there.
            Err(StoreError::Unavailable(_) | StoreError::Refused(_))
                if self.hold_own_removal(by, &unlink, true) =>
            {
                Ok(())
            }
            Err(error) => Err(not_removed(&unlink, name, &error)),
        }
    }

    /// Holds a removal here, if it may be held. The store may have marked it.
    fn hold_own_removal(self: &Arc<Self>, by: Identity, unlink: &Unlink, is_marked: bool) -> bool {
        let alias = listed_or_own(unlink);
        unlink.held.is_some() && self.hold_removal(by, alias, unlink.clone(), is_marked)
    }

    /// What is known of a session that is about to be removed, if it is the one of this very request.
    fn own_session(&self, by: Identity, alias: &Alias) -> Option<OpenedSession> {
        let now = self.callers.now();
        self.threads().last_opened(by, alias, now)
    }

    /// The error of a removal that found nothing it may remove. `EPERM` for a name that a listing has
    /// shown: tools take `ENOENT` for "gone already", and Odoo ignores either.
    async fn not_removed(&self, protected: Option<&Alias>) -> Error {
        match protected {
            Some(alias) if self.is_there(alias).await => Error::expected(
                libc::EPERM,
                format!("session {alias} was not listed to this request, which serves cookies"),
            ),
            _ => no_session(),
        }
    }

    /// Whether this session is alive, as far as that can be asked.
    async fn is_there(&self, alias: &Alias) -> bool {
        self.sessions.is_ready(alias).await != Ok(true)
            || !matches!(self.sessions.fetch(alias, None).await, Ok(Lookup::Absent))
    }

    fn unlink_staging(&self, by: Identity, parent: InodeId, name: &OsStr) -> Result<()> {
        let name = name.to_str().filter(|_| parent == InodeId::ROOT).ok_or_else(no_session)?;
        match self.find_staging(name) {
            Some(staged) => self.staging.remove(staged.inode),
            // It was removed, and only the answer is missing.
            None if by.is_repeated() && RootName::parse(name) == RootName::Staging => {}
            None => return Err(no_session()),
        }
        Ok(())
    }

    /// Removes the directory of a shard, if no session is in it. The shard is there again when it is
    /// looked up.
    pub fn rmdir(self: &Arc<Self>, parent: InodeId, name: &OsStr) -> Step<()> {
        let shard = name.to_str().filter(|_| parent == InodeId::ROOT).and_then(Shard::parse);
        let Some(shard) = shard else { return Err(no_session()).into() };
        let core = Arc::clone(self);
        Step::later(async move {
            let listing = Arc::clone(&core);
            let listed = soon(async move { listing.sessions.list(shard).await }).await;
            let listed = listed.map_err(|error| cannot_list(&error))?;
            if listed.iter().any(|one| one.meta.form == Form::Sharded) {
                return Err(Error::expected(libc::ENOTEMPTY, "the shard has sessions"));
            }
            core.inodes().remove_shard(shard);
            Ok(())
        })
    }
}

/// A name that is an alias, by a listing.
enum Listed {
    /// This caller may remove it.
    Removable(Alias),
    /// It may not.
    Protected(Alias),
}

/// Which of the two names a removal most likely meant.
fn listed_or_own(unlink: &Unlink) -> &Alias {
    unlink.listed.as_ref().unwrap_or(&unlink.alias)
}

fn not_removed(unlink: &Unlink, name: &SessionName, error: &StoreError) -> Error {
    let name = unlink.alias.entry(name.form);
    Error::fault(libc::EIO, format!("the removal of {name} failed: {error}"))
}
