//! What lies below a mount: a store that first takes in the session file that a name asks for.
//!
//! The index is read twice: before the first request is served, and once the mount is in its place,
//! when nobody can put a file there any more; what is asked between the two waits. From then on it
//! only shrinks; once it is empty, this is the store itself, and the disk server is let go.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::disk::Place;
use crate::disk::client::{Disk, DiskError};
use crate::import::{Adopted, Adopter, Reason};
use crate::session::name::{Alias, Form, Shard};
use crate::store::{
    Amend, Intake, Listed, Lookup, Meta, Publish, Published, RetryPolicy, RootListing, Sessions,
    StoreError, Unlink, Unlinked,
};
use crate::sync::lock;

/// How many are taken in at once for a listing.
const AT_ONCE: usize = 32;
/// A disk that gives an error is asked again, and whoever asks for the session gets that error
/// meanwhile and keeps the cookie. The third time the session counts as absent: an error for ever would lock
/// its owner out.
const MAX_FAILURES: u8 = 3;
/// How long requests wait for the listing made when the mount is in its place.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
/// The pause between two looks at what is left, and how many times longer than a look it is.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(5);
const LOOK_SHARE: u32 = 20;

/// Sessions over those of another layer. Clones share the files.
pub struct ImportOnAccess<S, T> {
    sessions: S,
    below: Arc<Below<T>>,
}

impl<S: Clone, T> Clone for ImportOnAccess<S, T> {
    fn clone(&self) -> Self {
        Self { sessions: self.sessions.clone(), below: Arc::clone(&self.below) }
    }
}

/// The files that nobody has asked for yet.
struct Below<T> {
    index: Mutex<Index>,
    adopter: Mutex<Option<Adopter<T>>>,
    /// Whether all files are known.
    settled: watch::Sender<bool>,
}

#[derive(Default)]
struct Index {
    shards: HashMap<Shard, HashMap<Alias, Entry>>,
    /// What stays on the disk: it is not taken in, and not counted any more.
    left: HashSet<Alias>,
    /// Whether there ever was a file.
    had_any: bool,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    /// Its one file, or two: see [`Place`].
    places: Vec<Place>,
    failures: u8,
}

impl<S: Sessions + Clone, T: Intake + Clone> ImportOnAccess<S, T> {
    /// Over `sessions`, without files.
    pub fn over(sessions: S) -> Self {
        let below = Below {
            index: Mutex::default(),
            adopter: Mutex::default(),
            settled: watch::Sender::new(true),
        };
        Self { sessions, below: Arc::new(below) }
    }

    /// From now on, imports the files that `disk` has into `intake` on access.
    pub async fn begin(&self, disk: Disk, intake: T) -> Result<(), DiskError> {
        // This first listing may take the time of a slow disk; the one that counts is quick then.
        let listing = disk.list().await?;
        self.below.index().set(listing.places);
        *lock(&self.below.adopter) = Some(Adopter::new(disk, intake));
        self.below.settled.send_replace(false);
        Ok(())
    }

    /// The mount is in its place: nobody can put a file below any more.
    pub async fn in_place(&self) {
        let Some(disk) = lock(&self.below.adopter).as_ref().map(|adopter| adopter.disk.clone())
        else {
            return;
        };
        let began = Instant::now();
        // A disk that is slower is looked at again; whoever asks is not to wait for it for ever.
        let looked = tokio::time::timeout(SETTLED_WITHIN, self.below.look(&disk)).await;
        self.below.settled.send_replace(true);
        if looked.is_ok() && self.below.is_done() {
            return;
        }
        tracing::info!(
            sessions = self.below.index().len(),
            "session files lie in the underlying directory; each is imported on first access, all of them \
             by 'sessionfs import'"
        );
        let pause = LOOK_AGAIN_AFTER.max(began.elapsed() * LOOK_SHARE);
        tokio::spawn(look_again(Arc::clone(&self.below), disk, pause));
    }

    /// Takes in the session of that name, if its file is below.
    async fn settle(&self, alias: &Alias, policy: RetryPolicy) -> Result<(), StoreError> {
        self.below.until_settled().await;
        let Some(adopter) = lock(&self.below.adopter).clone() else { return Ok(()) };
        let Some(entry) = self.below.index().get(alias) else { return Ok(()) };
        match adopter.adopt(&entry.places, policy).await? {
            // Nothing is known of the file: it may be read in a moment.
            Adopted::Left(Reason::Unread(error @ (DiskError::Overdue | DiskError::Gone))) => {
                return Err(StoreError::Unreadable(format!("its file on the disk: {error}")));
            }
            Adopted::Left(Reason::Unread(error)) => {
                if entry.failures == 0 {
                    tracing::warn!(%alias, %error, "a session file cannot be read");
                }
                if self.below.index().note_failure(alias) < MAX_FAILURES {
                    return Err(StoreError::Unreadable(format!("its file on the disk: {error}")));
                }
                self.below.index().leave(alias);
            }
            Adopted::Left(reason) => {
                tracing::warn!(%alias, %reason, "a session file is left where it is");
                self.below.index().leave(alias);
            }
            Adopted::Imported(_) | Adopted::Kept | Adopted::Over | Adopted::Vanished => {
                self.below.index().remove(alias);
            }
        }
        self.below.is_done();
        Ok(())
    }

    /// Takes in the session of that name before its removal, so that the removal is known for what
    /// it is. What cannot be taken in is taken away all the same: a removal must never be refused.
    /// Whether only a file was taken away.
    async fn settle_for_removal(&self, alias: &Alias) -> bool {
        self.below.until_settled().await;
        let Some(adopter) = lock(&self.below.adopter).clone() else { return false };
        let Some(entry) = self.below.index().get(alias) else { return false };
        let settled = self.settle(alias, RetryPolicy::UntilAnswered).await;
        if settled.is_ok() && !self.below.index().left.contains(alias) {
            return false;
        }
        for place in &entry.places {
            if let Err(error) = adopter.disk.retire(place).await {
                tracing::error!(%alias, %error, "the file of a removed session cannot be archived");
                return false;
            }
        }
        self.below.index().remove(alias);
        self.below.is_done();
        true
    }

    /// Takes in many. What cannot be read is not listed, as on a disk that is broken there.
    async fn settle_all(&self, aliases: Vec<Alias>) -> Result<(), StoreError> {
        let mut settling = JoinSet::new();
        let settled = |joined: Option<Result<Result<(), StoreError>, _>>| match joined {
            Some(Ok(Err(error @ (StoreError::Unavailable(_) | StoreError::Refused(_))))) => {
                Err(error)
            }
            _ => Ok(()),
        };
        for alias in aliases {
            if settling.len() >= AT_ONCE {
                settled(settling.join_next().await)?;
            }
            let store = self.clone();
            settling.spawn(async move { store.settle(&alias, RetryPolicy::UntilAnswered).await });
        }
        while let Some(joined) = settling.join_next().await {
            settled(Some(joined))?;
        }
        Ok(())
    }
}

impl<T: Intake + Clone> Below<T> {
    fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    /// Waits until all files are known, within a bound.
    async fn until_settled(&self) {
        if *self.settled.borrow() {
            return;
        }
        let mut settled = self.settled.subscribe();
        // Its sender is ours, so there is always an end.
        let _ = tokio::time::timeout(SETTLED_WITHIN, settled.wait_for(|settled| *settled)).await;
    }

    /// Looks at what is there.
    async fn look(&self, disk: &Disk) {
        match disk.list().await {
            // What was taken in while this was listed is found absent when it is asked for.
            Ok(listing) => self.index().set(listing.places),
            Err(error) => tracing::warn!(%error, "cannot read the underlying directory"),
        }
    }

    /// Whether nothing is left to be taken in; then the disk server is let go.
    fn is_done(&self) -> bool {
        let (had_any, left) = {
            let index = self.index();
            if !index.shards.is_empty() || !*self.settled.borrow() {
                return false;
            }
            (index.had_any, index.left.len())
        };
        // At most starts there is nothing to tell.
        if lock(&self.adopter).take().is_some() && had_any {
            tracing::info!(left, "all session files of the underlying directory are imported");
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

    /// How often its disk has failed, this time included.
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

/// Looks at what is left as long as something is: `sessionfs import` takes in files beside us.
async fn look_again<T: Intake + Clone>(below: Arc<Below<T>>, disk: Disk, pause: Duration) {
    loop {
        tokio::time::sleep(pause).await;
        if below.is_done() {
            return;
        }
        below.look(&disk).await;
    }
}

impl<S: Sessions + Clone, T: Intake + Clone> Sessions for ImportOnAccess<S, T> {
    async fn fetch(&self, alias: &Alias, listed: Option<&Alias>) -> Result<Lookup, StoreError> {
        self.settle(alias, RetryPolicy::Once).await?;
        if let Some(listed) = listed {
            self.settle(listed, RetryPolicy::Once).await?;
        }
        self.sessions.fetch(alias, listed).await
    }

    async fn publish(&self, publish: &Publish) -> Result<Published, StoreError> {
        self.settle(&publish.alias, RetryPolicy::UntilAnswered).await?;
        self.sessions.publish(publish).await
    }

    async fn unlink(&self, unlink: &Unlink) -> Result<Unlinked, StoreError> {
        let mut removed = None;
        for alias in std::iter::once(&unlink.alias).chain(&unlink.listed) {
            if self.settle_for_removal(alias).await {
                removed = Some(alias.clone());
            }
        }
        let unlinked = self.sessions.unlink(unlink).await?;
        // It never was in Redis, so it has no birth that anything could know.
        Ok(match (unlinked, removed) {
            (Unlinked::Absent, Some(alias)) => Unlinked::Gone { alias, birth: unlink.stamp.id },
            (unlinked, _) => unlinked,
        })
    }

    async fn amend(&self, amend: &Amend) -> Result<Option<Meta>, StoreError> {
        self.settle(&amend.alias, RetryPolicy::UntilAnswered).await?;
        self.sessions.amend(amend).await
    }

    async fn list(&self, shard: Shard) -> Result<Vec<Listed>, StoreError> {
        self.below.until_settled().await;
        let waiting = self.below.index().in_shard(shard);
        self.settle_all(waiting).await?;
        self.sessions.list(shard).await
    }

    async fn list_root(&self) -> Result<RootListing, StoreError> {
        self.below.until_settled().await;
        let flat = self.below.index().with_form(Form::Flat).cloned().collect();
        self.settle_all(flat).await?;
        let mut root = self.sessions.list_root().await?;
        // Those of shards are taken in when their shard is listed.
        root.shards.extend(self.below.index().with_form(Form::Sharded).map(Alias::shard));
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
        // A later look keeps what is known of it, and forgets what is gone.
        index.set(places.clone());
        assert_eq!(index.note_failure(&alias), 2);
        index.leave(&alias);
        index.set(places);
        assert!(index.shards.is_empty());
    }
}
