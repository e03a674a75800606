//! Session files that were there before sessionfs. Each becomes a session in Redis, once, and its
//! file is archived or deleted in the same step: otherwise a session that has ended could come back
//! from the disk.
//!
//! - [`Importer`] imports one session. It is used by
//! - [`crate::layers::import_on_access`]: a mount, when a session is first accessed
//! - [`directory`]: the command, for a whole directory

pub(crate) mod directory;

use bytes::Bytes;

use crate::disk::Place;
use crate::disk::client::{Disk, DiskError};
use crate::disk::directory::{Found, Look};
use crate::session::content::{self, Class};
use crate::session::seal;
use crate::store::{Import, Imported, Intake, RetryPolicy, StoreError};

/// Imports sessions from a directory.
#[derive(Clone)]
pub(crate) struct Importer<T> {
    pub(crate) disk: Disk,
    intake: T,
}

/// What became of the file of a session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// It is a session now.
    Imported(Class),
    /// The name was known, as a live session or an ended one.
    Kept,
    /// Its absolute lifetime was over.
    Over,
    /// The file was gone.
    Vanished,
    /// The file stays where it is.
    Left(Reason),
}

/// Why a file stays where it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reason {
    /// The content is not that of a session.
    NoSession,
    /// The content is longer than a session may be.
    TooLong,
    /// The disk failed to read it.
    Unread(DiskError),
    /// The session is imported, and the disk failed to archive its file.
    NotArchived(DiskError),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSession => f.write_str("its content is not a session"),
            Self::TooLong => f.write_str("it is larger than limits.session"),
            Self::Unread(error) => write!(f, "it cannot be read: {error}"),
            Self::NotArchived(error) => {
                write!(f, "it was imported, but its file cannot be archived: {error}")
            }
        }
    }
}

impl<T: Intake> Importer<T> {
    /// Imports what `disk` has into `intake`.
    pub(crate) fn new(disk: Disk, intake: T) -> Self {
        Self { disk, intake }
    }

    /// Imports one session from its file, or from the newer one of two.
    pub(crate) async fn import(
        &self,
        places: &[Place],
        policy: RetryPolicy,
    ) -> Result<Outcome, StoreError> {
        let (latest, present) = match self.latest(places).await {
            Ok(Some(latest)) => latest,
            Ok(None) => return Ok(Outcome::Vanished),
            Err(reason) => return Ok(Outcome::Left(reason)),
        };
        let import = self.import_of(&latest);
        let outcome = match self.intake.import(&import, policy).await? {
            Imported::Taken => Outcome::Imported(import.content.class),
            Imported::Kept => Outcome::Kept,
            Imported::Over => Outcome::Over,
        };
        for place in present {
            if let Err(error) = self.disk.retire(place).await {
                return Ok(Outcome::Left(Reason::NotArchived(error)));
            }
        }
        Ok(outcome)
    }

    /// What [`Importer::import`] would do. Changes nothing.
    pub(crate) async fn dry_run(&self, places: &[Place]) -> Result<Outcome, StoreError> {
        let latest = match self.latest(places).await {
            Ok(Some((latest, _))) => latest,
            Ok(None) => return Ok(Outcome::Vanished),
            Err(reason) => return Ok(Outcome::Left(reason)),
        };
        if self.intake.knows(&latest.0.sid.alias()).await? {
            return Ok(Outcome::Kept);
        }
        Ok(Outcome::Imported(content::read(&latest.1.bytes).class))
    }

    /// The newest content of the session, and which of its files exist.
    async fn latest<'a>(
        &self,
        places: &'a [Place],
    ) -> Result<Option<((&'a Place, Found), Vec<&'a Place>)>, Reason> {
        let mut latest: Option<(&Place, Found)> = None;
        let mut present = Vec::new();
        let mut unusable = None;
        for place in places {
            let found = match self.disk.read(place).await.map_err(Reason::Unread)? {
                Look::Found(found) if content::may_be_session(&found.bytes) => found,
                Look::Found(_) => {
                    unusable = Some(Reason::NoSession);
                    continue;
                }
                Look::TooLong => {
                    unusable = Some(Reason::TooLong);
                    continue;
                }
                Look::Absent => continue,
            };
            present.push(place);
            if latest.as_ref().is_none_or(|(_, other)| found.mtime_ns > other.mtime_ns) {
                latest = Some((place, found));
            }
        }
        match (latest, unusable) {
            (Some(latest), _) => Ok(Some((latest, present))),
            (None, Some(reason)) => Err(reason),
            (None, None) => Ok(None),
        }
    }

    fn import_of(&self, (place, found): &(&Place, Found)) -> Import {
        Import {
            stamp: self.intake.stamp(),
            alias: place.sid.alias(),
            form: place.form,
            content: content::read(&found.bytes),
            size_bytes: found.bytes.len() as u64,
            sealed: Bytes::from(seal::seal(&place.sid, &found.bytes)),
            mtime_ns: found.mtime_ns,
            mode: found.mode,
        }
    }
}
