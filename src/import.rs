//! Session files that were there before sessionfs. Each becomes a session in Redis, once: it is
//! moved to the import directory first, imported from there, and then archived or deleted. So a
//! session that has ended cannot come back from a file that could not be taken away.
//!
//! - [`Importer`] imports one session. It is used by
//! - [`crate::layers::import_on_access`]: a mount, when a session is first accessed
//! - [`directory`]: the command, for a whole directory
//! - [`retirement`]: when the command takes the file away

pub(crate) mod directory;
mod retirement;

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::disk::client::{Disk, DiskError};
use crate::disk::directory::{Found, Look, Take};
use crate::disk::{Place, Stage};
use crate::session::content::{self, Class};
use crate::session::packing::Packed;
use crate::session::seal::{self, Bound};
use crate::session::secret::Keyring;
use crate::store::{Import, Imported, Intake, StoreError};

/// How often a file may change while it is taken.
const MAX_CHANGES: u32 = 5;

/// Imports sessions from a directory.
#[derive(Clone)]
pub(crate) struct Importer<T> {
    pub(crate) disk: Disk,
    intake: T,
    keyring: Keyring,
    max_age: Duration,
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
    /// Its last save is too long ago.
    TooOld,
    /// The disk failed to read it.
    Unread(DiskError),
    /// The disk failed to move it, so it was not imported.
    NotTaken(DiskError),
    /// The session is imported, and the disk failed to archive its file.
    NotArchived(DiskError),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSession => f.write_str("its content is not a session"),
            Self::TooLong => f.write_str("it is larger than limits.session"),
            Self::TooOld => f.write_str("it is older than import.max_age"),
            Self::NotTaken(error) => {
                write!(f, "it cannot be moved, and so it is not imported: {error}")
            }
            Self::Unread(error) => write!(f, "it cannot be read: {error}"),
            Self::NotArchived(error) => {
                write!(f, "it was imported, but its file cannot be archived: {error}")
            }
        }
    }
}

/// A session's newest file.
struct Newest {
    place: Place,
    found: Found,
    /// Its other files.
    older: Vec<Place>,
}

impl<T: Intake> Importer<T> {
    /// Imports what `disk` has into `intake`, sealed with `keyring`, if its last save is no longer ago
    /// than `max_age`.
    pub(crate) fn new(disk: Disk, intake: T, keyring: Keyring, max_age: Duration) -> Self {
        Self { disk, intake, keyring, max_age }
    }

    /// What an import would do. Changes nothing.
    pub(crate) async fn dry_run(&self, places: &[Place]) -> Result<Outcome, StoreError> {
        let newest = match self.newest(places).await {
            Ok(Some(newest)) => newest,
            Ok(None) => return Ok(Outcome::Vanished),
            Err(reason) => return Ok(Outcome::Left(reason)),
        };
        if self.intake.knows(&newest.place.sid.alias()).await? {
            return Ok(Outcome::Kept);
        }
        Ok(Outcome::Imported(content::read(&newest.found.bytes).class))
    }

    /// Removes the session's files without an import.
    pub(crate) async fn retire(&self, places: &[Place]) -> Result<(), DiskError> {
        for place in everywhere(places) {
            self.disk.retire(&place).await?;
        }
        Ok(())
    }

    /// The second step: makes the file that was taken a session.
    pub(crate) async fn publish(
        &self,
        (place, found): &(Place, Found),
    ) -> Result<Outcome, StoreError> {
        let import = self.import_of(place, found);
        Ok(match self.intake.import(&import).await? {
            Imported::Taken => Outcome::Imported(import.content.class),
            Imported::Kept => Outcome::Kept,
            Imported::Over => Outcome::Over,
        })
    }

    /// The first step: moves the session's newest file to the import directory, and archives the
    /// others.
    pub(crate) async fn take(&self, places: &[Place]) -> Result<Option<(Place, Found)>, Reason> {
        for _ in 0..MAX_CHANGES {
            let Some(Newest { place, found, older }) = self.newest(places).await? else {
                return Ok(None);
            };
            for place in older {
                self.disk.retire(&place).await.map_err(Reason::NotTaken)?;
            }
            if place.stage == Stage::Taken {
                return Ok(Some((place, found)));
            }
            match self.disk.take(&place, found.inode).await.map_err(Reason::NotTaken)? {
                Take::Done => return Ok(Some((place.at(Stage::Taken), found))),
                Take::Changed => {}
            }
        }
        Err(Reason::NotTaken(DiskError::Failed("it is being written again and again".into())))
    }

    /// The session's newest file, wherever its import has got to.
    async fn newest(&self, places: &[Place]) -> Result<Option<Newest>, Reason> {
        let mut newest: Option<Newest> = None;
        let mut unusable = None;
        for place in everywhere(places) {
            let found = match self.disk.read(&place).await.map_err(Reason::Unread)? {
                Look::Found(found) if !content::may_be_session(&found.bytes) => {
                    unusable = Some(Reason::NoSession);
                    continue;
                }
                Look::Found(found) if self.is_too_old(&found) => {
                    unusable = Some(Reason::TooOld);
                    continue;
                }
                Look::Found(found) => found,
                Look::TooLong => {
                    unusable = Some(Reason::TooLong);
                    continue;
                }
                Look::Absent => continue,
            };
            match &mut newest {
                Some(newest) if found.mtime_ns <= newest.found.mtime_ns => newest.older.push(place),
                Some(newest) => {
                    newest.older.push(std::mem::replace(&mut newest.place, place));
                    newest.found = found;
                }
                None => newest = Some(Newest { place, found, older: Vec::new() }),
            }
        }
        match (newest, unusable) {
            (None, Some(reason)) => Err(reason),
            (newest, _) => Ok(newest),
        }
    }

    /// By this host's clock, which has written it.
    fn is_too_old(&self, found: &Found) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mtime = Duration::from_nanos(u64::try_from(found.mtime_ns).unwrap_or(0));
        now.saturating_sub(mtime) > self.max_age
    }

    fn import_of(&self, place: &Place, found: &Found) -> Import {
        let alias = place.sid.alias();
        let stamp = self.intake.stamp(alias.shard());
        let plain = Bytes::copy_from_slice(&found.bytes);
        let packed = Packed::of(plain, self.intake.takes_packed());
        let bound = Bound {
            alias,
            content: content::read(&found.bytes),
            birth: stamp.id,
            save: stamp.id,
            packing: packed.packing,
        };
        let sealed = seal::seal(&self.keyring, &place.sid, &bound, &packed.bytes);
        Import {
            stamp,
            alias: bound.alias,
            form: place.form,
            content: bound.content,
            size_bytes: found.bytes.len() as u64,
            packing: packed.packing,
            sealed: Bytes::from(sealed),
            mtime_ns: found.mtime_ns,
            mode: found.mode,
        }
    }
}

/// Where these files can be: another import may move them at any moment. The import directory comes
/// last, so that a file that is moved there meanwhile is seen.
fn everywhere(places: &[Place]) -> Vec<Place> {
    let mut everywhere = Vec::with_capacity(2 * places.len());
    for stage in [Stage::Waiting, Stage::Taken] {
        for place in places {
            let place = place.at(stage);
            if !everywhere.contains(&place) {
                everywhere.push(place);
            }
        }
    }
    everywhere
}
