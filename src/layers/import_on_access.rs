//! Import on access: a session file in the underlying directory of a mount becomes a session when
//! its session is first accessed.
//!
//! The directory is listed twice: before the first request is served, and once more when it is
//! mounted over, since nobody can add a file after that. Requests between the two wait. From then on
//! the index only shrinks. When it is empty, this layer only forwards, and the disk server ends.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::disk::Place;
use crate::disk::client::{Disk, DiskError};
use crate::import::{Importer, Outcome, Reason};
use crate::session::name::{Alias, Form, Shard};
use crate::store::{
    Amend, Intake, Listed, Lookup, Meta, Publish, Published, RetryPolicy, RootListing, Sessions,
    StoreError, Unlink, Unlinked,
};
use crate::sync::lock;

/// How many sessions are imported at once for a listing.
const AT_ONCE: usize = 32;
/// How often a file may fail to be read. Until then each access to the session gets that error, and
/// its owner keeps the cookie. After that the session counts as absent: an error that never ends
/// would lock its owner out.
const MAX_FAILURES: u8 = 3;
/// How long requests wait for the second listing.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
/// The pause between two later listings, at least; and how many times longer than a listing it is.
const MIN_LIST_PAUSE: Duration = Duration::from_secs(5);
const LIST_PAUSE_FACTOR: u32 = 20;

/// Sessions over those of another layer. Clones share the files.
pub(crate) struct ImportOnAccess<S, T> {
    sessions: S,
    underlying: Arc<Underlying<T>>,
}

impl<S: Clone, T> Clone for ImportOnAccess<S, T> {
    fn clone(&self) -> Self {
        Self { sessions: self.sessions.clone(), underlying: Arc::clone(&self.underlying) }
    }
}

/// The files that are not imported yet.
struct Underlying<T> {
    index: Mutex<Index>,
    importer: Mutex<Option<Importer<T>>>,
    /// Whether all files are known.
    listed: watch::Sender<bool>,
}

#[derive(Default)]
struct Index {
    shards: HashMap<Shard, HashMap<Alias, Entry>>,
    /// Sessions whose files stay on the disk, not imported.
    left: HashSet<Alias>,
    /// Whether there ever was a file.
    had_any: bool,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    /// Its file, or its two files: see [`Place`].
    places: Vec<Place>,
    failures: u8,
}

impl<S: Sessions + Clone, T: Intake + Clone> ImportOnAccess<S, T> {
    /// Over `sessions`, without files.
    pub(crate) fn over(sessions: S) -> Self {
        let underlying = Underlying {
            index: Mutex::default(),
            importer: Mutex::default(),
            listed: watch::Sender::new(true),
        };
        Self { sessions, underlying: Arc::new(underlying) }
    }

    /// From now on, imports the files that `disk` has into `intake` on access.
    pub(crate) async fn begin(&self, disk: Disk, intake: T) -> Result<(), DiskError> {
        // This may take long on a slow disk; the second listing, for which requests wait, is quick
        // then.
        let listing = disk.list().await?;
        self.underlying.index().set(listing.places);
        *lock(&self.underlying.importer) = Some(Importer::new(disk, intake));
        self.underlying.listed.send_replace(false);
        Ok(())
    }

    /// The directory is mounted over: nobody can add a file any more.
    pub(crate) async fn in_place(&self) {
        let Some(disk) =
            lock(&self.underlying.importer).as_ref().map(|importer| importer.disk.clone())
        else {
            return;
        };
        let began = Instant::now();
        // A listing that takes longer is made again later: requests wait no longer.
        let listed = tokio::time::timeout(SETTLED_WITHIN, self.underlying.list(&disk)).await;
        self.underlying.listed.send_replace(true);
        if listed.is_ok() && self.underlying.is_done() {
            return;
        }
        tracing::info!(
            sessions = self.underlying.index().len(),
            "there are session files in the underlying directory; each is imported on access, or \
             all at once by 'sessionfs import'"
        );
        let pause = MIN_LIST_PAUSE.max(began.elapsed() * LIST_PAUSE_FACTOR);
        tokio::spawn(list_again(Arc::clone(&self.underlying), disk, pause));
    }

    /// Imports the session of that name, if it has a file.
    async fn import(&self, alias: &Alias, policy: RetryPolicy) -> Result<(), StoreError> {
        self.underlying.until_listed().await;
        let Some(importer) = lock(&self.underlying.importer).clone() else { return Ok(()) };
        let Some(entry) = self.underlying.index().get(alias) else { return Ok(()) };
        match importer.import(&entry.places, policy).await? {
            // The disk server did not answer: the file may be readable in a moment.
            Outcome::Left(Reason::Unread(error @ (DiskError::Overdue | DiskError::Gone))) => {
                return Err(StoreError::Unreadable(format!("its file on the disk: {error}")));
            }
            Outcome::Left(Reason::Unread(error)) => {
                if entry.failures == 0 {
                    tracing::warn!(%alias, %error, "a session file cannot be read");
                }
                if self.underlying.index().note_failure(alias) < MAX_FAILURES {
                    return Err(StoreError::Unreadable(format!("its file on the disk: {error}")));
                }
                self.underlying.index().leave(alias);
            }
            Outcome::Left(reason) => {
                tracing::warn!(%alias, %reason, "a session file was left in place");
                self.underlying.index().leave(alias);
            }
            Outcome::Imported(_) | Outcome::Kept | Outcome::Over | Outcome::Vanished => {
                self.underlying.index().remove(alias);
            }
        }
        self.underlying.is_done();
        Ok(())
    }

    /// Imports the session of that name before its removal, so that the removal leaves a tombstone.
    /// A file that cannot be imported is archived all the same: a removal must never fail for that.
    /// Whether only a file was removed.
    async fn import_for_removal(&self, alias: &Alias) -> bool {
        self.underlying.until_listed().await;
        let Some(importer) = lock(&self.underlying.importer).clone() else { return false };
        let Some(entry) = self.underlying.index().get(alias) else { return false };
        let outcome = self.import(alias, RetryPolicy::UntilAnswered).await;
        if outcome.is_ok() && !self.underlying.index().left.contains(alias) {
            return false;
        }
        for place in &entry.places {
            if let Err(error) = importer.disk.retire(place).await {
                tracing::error!(%alias, %error, "cannot archive the file of a removed session");
                return false;
            }
        }
        self.underlying.index().remove(alias);
        self.underlying.is_done();
        true
    }

    /// Imports many. What cannot be read is not listed, as on a broken disk.
    async fn import_all(&self, aliases: Vec<Alias>) -> Result<(), StoreError> {
        let mut importing = JoinSet::new();
        let check = |joined: Option<Result<Result<(), StoreError>, _>>| match joined {
            Some(Ok(Err(error @ (StoreError::Unavailable(_) | StoreError::Refused(_))))) => {
                Err(error)
            }
            _ => Ok(()),
        };
        for alias in aliases {
            if importing.len() >= AT_ONCE {
                check(importing.join_next().await)?;
            }
            let layer = self.clone();
            importing.spawn(async move { layer.import(&alias, RetryPolicy::UntilAnswered).await });
        }
        while let Some(joined) = importing.join_next().await {
            check(Some(joined))?;
        }
        Ok(())
    }
}

impl<T: Intake + Clone> Underlying<T> {
    fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    /// Waits until all files are known, within a bound.
    async fn until_listed(&self) {
        if *self.listed.borrow() {
            return;
        }
        let mut listed = self.listed.subscribe();
        // The sender is in `self`, so it cannot be dropped meanwhile.
        let _ = tokio::time::timeout(SETTLED_WITHIN, listed.wait_for(|listed| *listed)).await;
    }

    async fn list(&self, disk: &Disk) {
        match disk.list().await {
            // A file that was imported meanwhile is found missing at its next access.
            Ok(listing) => self.index().set(listing.places),
            Err(error) => tracing::warn!(%error, "cannot read the underlying directory"),
        }
    }

    /// Whether no file is left to be imported. If so, the disk server ends.
    fn is_done(&self) -> bool {
        let (had_any, left) = {
            let index = self.index();
            if !index.shards.is_empty() || !*self.listed.borrow() {
                return false;
            }
            (index.had_any, index.left.len())
        };
        // Most directories are empty from the start, which is not worth a line.
        if lock(&self.importer).take().is_some() && had_any {
            tracing::info!(
                left,
                "all session files of the underlying directory have been imported"
            );
        }
        true
    }
}

impl Index {
    fn set(&mut self, places: Vec<Place>) {
        self.had_any |= !places.is_empty();
        let mut known = std::mem::take(&mut self.shards);
        for place in places {
            let alias = place.sid.alias();
            if self.left.contains(&alias) {
                continue;
            }
            let shard = alias.shard();
            let failures = known
                .get_mut(&shard)
                .and_then(|known| known.remove(&alias))
                .map_or(0, |entry| entry.failures);
            let entry = self.shards.entry(shard).or_default().entry(alias).or_default();
            entry.failures = entry.failures.max(failures);
            entry.places.push(place);
        }
    }

    fn get(&self, alias: &Alias) -> Option<Entry> {
        self.shards.get(&alias.shard())?.get(alias).cloned()
    }

    fn remove(&mut self, alias: &Alias) {
        let shard = alias.shard();
        let Some(entries) = self.shards.get_mut(&shard) else { return };
        entries.remove(alias);
        if entries.is_empty() {
            self.shards.remove(&shard);
        }
    }

    fn leave(&mut self, alias: &Alias) {
        self.remove(alias);
        self.left.insert(alias.clone());
    }

    /// How often the file has failed to be read, this time included.
    fn note_failure(&mut self, alias: &Alias) -> u8 {
        let entry = self.shards.get_mut(&alias.shard()).and_then(|entries| entries.get_mut(alias));
        entry.map_or(MAX_FAILURES, |entry| {
            entry.failures = entry.failures.saturating_add(1);
            entry.failures
        })
    }

    fn len(&self) -> usize {
        self.shards.values().map(HashMap::len).sum()
    }

    fn in_shard(&self, shard: Shard) -> Vec<Alias> {
        self.shards.get(&shard).map_or_else(Vec::new, |entries| entries.keys().cloned().collect())
    }

    fn with_form(&self, form: Form) -> impl Iterator<Item = &Alias> {
        self.shards
            .values()
            .flatten()
            .filter(move |(_, entry)| entry.places.iter().any(|place| place.form == form))
            .map(|(alias, _)| alias)
    }
}

/// Lists the files again as long as some are left: `sessionfs import` may import them meanwhile.
async fn list_again<T: Intake + Clone>(
    underlying: Arc<Underlying<T>>,
    disk: Disk,
    pause: Duration,
) {
    loop {
        tokio::time::sleep(pause).await;
        if underlying.is_done() {
            return;
        }
        underlying.list(&disk).await;
    }
}

impl<S: Sessions + Clone, T: Intake + Clone> Sessions for ImportOnAccess<S, T> {
    async fn fetch(&self, alias: &Alias, listed: Option<&Alias>) -> Result<Lookup, StoreError> {
        self.import(alias, RetryPolicy::Once).await?;
        if let Some(listed) = listed {
            self.import(listed, RetryPolicy::Once).await?;
        }
        self.sessions.fetch(alias, listed).await
    }

    async fn publish(&self, publish: &Publish) -> Result<Published, StoreError> {
        self.import(&publish.alias, RetryPolicy::UntilAnswered).await?;
        self.sessions.publish(publish).await
    }

    async fn unlink(&self, unlink: &Unlink) -> Result<Unlinked, StoreError> {
        let mut removed = None;
        for alias in std::iter::once(&unlink.alias).chain(&unlink.listed) {
            if self.import_for_removal(alias).await {
                removed = Some(alias.clone());
            }
        }
        let unlinked = self.sessions.unlink(unlink).await?;
        // It never was in Redis, so nothing can know a birth of it.
        Ok(match (unlinked, removed) {
            (Unlinked::Absent, Some(alias)) => Unlinked::Gone { alias, birth: unlink.stamp.id },
            (unlinked, _) => unlinked,
        })
    }

    async fn amend(&self, amend: &Amend) -> Result<Option<Meta>, StoreError> {
        self.import(&amend.alias, RetryPolicy::UntilAnswered).await?;
        self.sessions.amend(amend).await
    }

    async fn list(&self, shard: Shard) -> Result<Vec<Listed>, StoreError> {
        self.underlying.until_listed().await;
        let waiting = self.underlying.index().in_shard(shard);
        self.import_all(waiting).await?;
        self.sessions.list(shard).await
    }

    async fn list_root(&self) -> Result<RootListing, StoreError> {
        self.underlying.until_listed().await;
        let flat = self.underlying.index().with_form(Form::Flat).cloned().collect();
        self.import_all(flat).await?;
        let mut root = self.sessions.list_root().await?;
        // Sessions of a shard are imported when the shard is listed.
        root.shards.extend(self.underlying.index().with_form(Form::Sharded).map(Alias::shard));
        root.shards.sort_unstable();
        root.shards.dedup();
        Ok(root)
    }

    fn touch(&self, alias: &Alias) {
        self.sessions.touch(alias);
    }

    async fn touch_now(&self, alias: &Alias) -> Result<(), StoreError> {
        self.sessions.touch_now(alias).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "ab0123456789012345678901234567890123456f";

    #[test]
    fn two_files_of_one_session_are_one_entry() {
        let mut index = Index::default();
        let places: Vec<_> = [format!("ab/{HEX}"), format!("werkzeug_{HEX}.sess")]
            .iter()
            .filter_map(|path| Place::parse(path))
            .collect();
        let alias = places[0].sid.alias();
        index.set(places.clone());
        assert_eq!(index.len(), 1);
        assert_eq!(index.get(&alias).map(|entry| entry.places.len()), Some(2));
        assert_eq!(index.note_failure(&alias), 1);
        // A later listing keeps the failures of a file.
        index.set(places.clone());
        assert_eq!(index.note_failure(&alias), 2);
        index.leave(&alias);
        index.set(places);
        assert!(index.shards.is_empty());
    }
}
