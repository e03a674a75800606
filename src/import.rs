//! Session files that were there before sessionfs: each becomes a session in Redis, once, and its
//! file is taken away at once, so that nothing that ends can ever come back from the disk.
//!
//! - [`Adopter`] takes in one session; who asks for it is
//! - [`crate::layers::import_on_access`]: a mount, for what is found nowhere else, as its owner comes by
//! - [`directory`]: the command, for a whole directory

pub mod directory;

use bytes::Bytes;

use crate::disk::Place;
use crate::disk::client::{Disk, DiskError};
use crate::disk::directory::{Found, Look};
use crate::session::content::{self, Class};
use crate::session::seal;
use crate::store::{Import, Imported, Intake, RetryPolicy, StoreError};

/// Takes in sessions from a directory.
#[derive(Clone)]
pub struct Adopter<T> {
    pub(crate) disk: Disk,
    intake: T,
}

/// What became of a session's file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Adopted {
    /// It is a session from now on.
    Imported(Class),
    /// Redis knew the name already, alive or ended.
    Kept,
    /// Its absolute lifetime was over.
    Over,
    /// Somebody else was faster.
    Vanished,
    /// The file stays where it is.
    Left(Reason),
}

/// Why a file stays where it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reason {
    /// Its content is not that of a session.
    NoSession,
    /// It is longer than a session may be.
    TooLong,
    /// The disk did not give it.
    Unread(DiskError),
    /// The session is in Redis, and the disk did not let its file be taken away.
    Stuck(DiskError),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSession => f.write_str("its content is not that of a session"),
            Self::TooLong => f.write_str("it is longer than limits.session"),
            Self::Unread(error) => write!(f, "it cannot be read: {error}"),
            Self::Stuck(error) => {
                write!(f, "it is imported, but its file cannot be archived: {error}")
            }
        }
    }
}

impl<T: Intake> Adopter<T> {
    /// Imports what `disk` has into `intake`.
    pub fn new(disk: Disk, intake: T) -> Self {
        Self { disk, intake }
    }

    /// Takes in one session by its file, or by its two: the one saved last counts.
    pub async fn adopt(
        &self,
        places: &[Place],
        policy: RetryPolicy,
    ) -> Result<Adopted, StoreError> {
        let (latest, present) = match self.latest(places).await {
            Ok(Some(latest)) => latest,
            Ok(None) => return Ok(Adopted::Vanished),
            Err(reason) => return Ok(Adopted::Left(reason)),
        };
        let import = self.import_of(&latest);
        let adopted = match self.intake.import(&import, policy).await? {
            Imported::Taken => Adopted::Imported(import.content.class),
            Imported::Kept => Adopted::Kept,
            Imported::Over => Adopted::Over,
        };
        for place in present {
            if let Err(error) = self.disk.retire(place).await {
                return Ok(Adopted::Left(Reason::Stuck(error)));
            }
        }
        Ok(adopted)
    }

    /// What would become of it, with nothing changed.
    pub async fn foresee(&self, places: &[Place]) -> Result<Adopted, StoreError> {
        let latest = match self.latest(places).await {
            Ok(Some((latest, _))) => latest,
            Ok(None) => return Ok(Adopted::Vanished),
            Err(reason) => return Ok(Adopted::Left(reason)),
        };
        if self.intake.knows(&latest.0.sid.alias()).await? {
            return Ok(Adopted::Kept);
        }
        Ok(Adopted::Imported(content::read(&latest.1.bytes).class))
    }

    /// The session's latest content, and which of its files are there.
    async fn latest<'a>(
        &self,
        places: &'a [Place],
    ) -> Result<Option<((&'a Place, Found), Vec<&'a Place>)>, Reason> {
        let mut latest: Option<(&Place, Found)> = None;
        let mut present = Vec::new();
        let mut spoilt = None;
        for place in places {
            let found = match self.disk.read(place).await.map_err(Reason::Unread)? {
                Look::Found(found) if content::may_be_session(&found.bytes) => found,
                Look::Found(_) => {
                    spoilt = Some(Reason::NoSession);
                    continue;
                }
                Look::TooLong => {
                    spoilt = Some(Reason::TooLong);
                    continue;
                }
                Look::Absent => continue,
            };
            present.push(place);
            if latest.as_ref().is_none_or(|(_, other)| found.mtime_ns > other.mtime_ns) {
                latest = Some((place, found));
            }
        }
        match (latest, spoilt) {
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
