//! When the file of an imported session is taken out of the import directory. Redis answers before what it has taken is on
//! its disk (`appendfsync everysec`) or at its replicas: if it dies then, the next one does not know the session. So the
//! file waits for [`KEPT_FOR`], and then Redis is asked whether it still knows the session; one that it has lost is imported
//! again.

use std::collections::VecDeque;
use std::slice;
use std::time::{Duration, Instant};

use super::{Importer, Outcome, Reason};
use crate::disk::Place;
use crate::redis::RedisStore;
use crate::session::name::Alias;
use crate::store::{Intake as _, StoreError};

/// For how long a file waits. With `appendfsync everysec` Redis writes once a second, and two seconds may be lost.
const KEPT_FOR: Duration = Duration::from_secs(2);
/// How many files wait; the next ones wait for the first of these.
const WAITING_MAX: usize = 100_000;
/// How often a session is imported again.
const LOST_MAX: u32 = 5;

/// A session that is imported, and whose file is in the import directory.
pub(super) struct Unsettled {
    pub alias: Alias,
    pub outcome: Outcome,
    place: Place,
    until: Instant,
}

/// Imported sessions whose files wait, the first one first.
#[derive(Default)]
pub(super) struct Waiting(VecDeque<Unsettled>);

impl Waiting {
    pub(super) fn put(&mut self, unsettled: Unsettled) {
        self.0.push_back(unsettled);
    }

    /// The first one, if its time has come.
    pub(super) fn due(&mut self) -> Option<Unsettled> {
        let is_due = self.0.len() > WAITING_MAX || Instant::now() >= self.0.front()?.until;
        is_due.then(|| self.0.pop_front()).flatten()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first one, whenever its time comes.
    pub(super) fn next(&mut self) -> Option<Unsettled> {
        self.0.pop_front()
    }
}

impl Importer<RedisStore> {
    /// Imports one session from its file, or from the newer one of two, and leaves the file in the import directory.
    /// Without a file that was imported it is an outcome alone.
    pub(super) async fn import(
        &self,
        alias: &Alias,
        places: &[Place],
    ) -> Result<Result<Unsettled, Outcome>, StoreError> {
        let taken = match self.take(places).await {
            Ok(Some(taken)) => taken,
            Ok(None) => return Ok(Err(Outcome::Vanished)),
            Err(reason) => return Ok(Err(Outcome::Left(reason))),
        };
        let outcome = self.publish(&taken).await?;
        let until = Instant::now() + KEPT_FOR;
        Ok(Ok(Unsettled { alias: alias.clone(), outcome, place: taken.0, until }))
    }

    /// Archives or deletes the file of an imported session once Redis has had the time to keep it; `at_once` without it.
    pub(super) async fn settle(
        &self,
        unsettled: &mut Unsettled,
        at_once: bool,
    ) -> Result<Outcome, StoreError> {
        for _ in 0..LOST_MAX {
            if !at_once {
                tokio::time::sleep_until(unsettled.until.into()).await;
            }
            if self.intake.knows(&unsettled.alias).await? {
                return Ok(match self.disk.retire(&unsettled.place).await {
                    Ok(()) => unsettled.outcome.clone(),
                    Err(error) => Outcome::Left(Reason::NotArchived(error)),
                });
            }
            match self.import(&unsettled.alias, slice::from_ref(&unsettled.place)).await? {
                Ok(again) => *unsettled = again,
                Err(outcome) => return Ok(outcome),
            }
        }
        Err(StoreError::Unreadable(
            "Redis has lost it again and again; its file waits for the next import".into(),
        ))
    }
}
