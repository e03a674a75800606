//! Import on access: a session file in the underlying directory of a mount becomes a session when
//! its session is first accessed.
//!
//! The directory is listed twice: before the first request is served, and once more when it is
//! mounted over, since nobody can add a file after that. A worker that takes over from another one
//! does without the first listing. From then on the index only shrinks. When it
//! is empty, this layer only forwards, and the disk server ends.
//!
//! A disk may hang. So each import is a task of its own, one for a session, and every operation waits
//! for it as long as it may: an open in steps, a listing to the end, and whatever holds a directory
//! for a moment only.
//!
//! - [`removals`]: removals that wait for the import of their session

mod removals;

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::removals::Removals;
use crate::disk::Place;
use crate::disk::client::{Disk, DiskError};
use crate::handoff::Kept;
use crate::import::{Importer, Reason};
use crate::session::name::{Alias, Form, Shard};
use crate::session::secret::Keyring;
use crate::store::{
    Amend, ChangeId, Intake, Listed, Lookup, Meta, Publish, Published, RootListing, Sessions,
    Settling, StoreError, Unlink, Unlinked,
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
/// The same if there was no first one. A file that is not known is a session that has ended, so this is as long as
/// requests wait in an outage.
const UNKNOWN_FOR: Duration = Duration::from_secs(20);
/// The pause between two later listings, at least; and how many times longer than a listing it is.
const MIN_LIST_PAUSE: Duration = Duration::from_secs(5);
const LIST_PAUSE_FACTOR: u32 = 20;
/// How long a disk that is well is waited for by an operation that holds a directory.
const HOLDING_WITHIN: Duration = Duration::from_millis(100);
/// One step of an open's waiting; the core ends it with EINTR.
const OPEN_STEP: Duration = Duration::from_secs(1);
/// How often a removal is tried that waits for its session's import.
const REMOVAL_ATTEMPTS: u32 = 10;
const REMOVAL_PAUSE: Duration = Duration::from_secs(2);

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
    /// A file whose last save is longer ago is not imported.
    max_age: Duration,
    /// Whether all files are known.
    listed: watch::Sender<bool>,
    /// Whether they have ever been listed.
    is_known: AtomicBool,
    /// They cannot be, and whatever there is is left alone.
    is_unread: AtomicBool,
    /// Since when requests wait for that.
    waiting_since: OnceLock<Instant>,
    /// The imports under way, until their file is archived.
    imports: Mutex<HashMap<Alias, watch::Receiver<Progress>>>,
    /// Sessions that are removed as soon as their import is over.
    removals: Removals,
    /// The disk has not answered in time, and not since.
    is_slow: AtomicBool,
}

/// How far an import has got.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Progress {
    /// The disk has it.
    Taking,
    /// The store has it.
    Publishing,
    /// The store knows the session; its file is being archived.
    Known,
    Over(Result<(), ImportError>),
}

/// Why an import came to nothing this time.
#[derive(Clone, Debug, Eq, PartialEq)]
enum ImportError {
    /// It is still under way.
    Pending,
    Disk(DiskError),
    Store(StoreError),
    /// Its file is still where it was, though the session is to be removed.
    Left,
}

impl From<ImportError> for StoreError {
    fn from(error: ImportError) -> Self {
        match error {
            // Whoever opens the session asks again, as in an outage.
            ImportError::Pending => Self::Unavailable("its file is being imported".into()),
            ImportError::Disk(error) => Self::Unreadable(format!("its file on the disk: {error}")),
            ImportError::Store(error) => error,
            ImportError::Left => Self::Unreadable("its file could not be archived".into()),
        }
    }
}

/// How long an operation waits for an import.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Patience {
    /// A look-up holds its directory.
    Lookup,
    /// A change holds it, too; but the store may take its time, as for the change itself.
    Change,
    /// An open holds nothing.
    Open,
    /// A listing holds nothing and cannot be taken in steps.
    Listing,
}

#[derive(Default)]
struct Index {
    shards: HashMap<Shard, HashMap<Alias, Entry>>,
    /// Sessions whose files stay on the disk, not imported.
    left: HashMap<Alias, Vec<Place>>,
    /// Whether there ever was a file.
    had_any: bool,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    /// Its file, or its files: see [`Place`].
    places: Vec<Place>,
    failures: u8,
}

impl<S: Sessions + Clone, T: Intake + Clone> ImportOnAccess<S, T> {
    /// Over `sessions`, without files.
    pub(crate) fn over(sessions: S, max_age: Duration) -> Self {
        let underlying = Underlying {
            index: Mutex::default(),
            importer: Mutex::default(),
            max_age,
            listed: watch::Sender::new(true),
            is_known: AtomicBool::new(true),
            is_unread: AtomicBool::new(false),
            waiting_since: OnceLock::new(),
            imports: Mutex::default(),
            removals: Removals::default(),
            is_slow: AtomicBool::new(false),
        };
        Self { sessions, underlying: Arc::new(underlying) }
    }

    /// From now on, imports the files that `disk` has into `intake` on access.
    pub(crate) async fn begin(
        &self,
        disk: Disk,
        intake: T,
        keyring: Keyring,
    ) -> Result<(), DiskError> {
        // This may take long on a slow disk; the second listing, for which requests wait, is quick
        // then.
        let listing = disk.list().await?;
        self.underlying.index().set(listing.places);
        self.import_from(disk, intake, keyring);
        Ok(())
    }

    /// The same for what is served already: callers wait, so nobody waits for the disk. Requests for what may have a file
    /// wait for the listing of [`ImportOnAccess::in_place`].
    pub(crate) fn go_on(&self, disk: Disk, intake: T, keyring: Keyring) {
        self.underlying.is_known.store(false, Ordering::Relaxed);
        self.import_from(disk, intake, keyring);
    }

    /// Instead, where there is no disk: removals that wait for their import are left to a worker that has one.
    pub(crate) fn do_without(&self) {
        self.underlying.do_without();
    }

    /// The worker before has ended: goes on with the removals that it has left, on the current runtime, and leaves as
    /// much to the next one.
    pub(crate) fn take_up(&self, kept: &Kept) {
        for unlink in self.underlying.removals.take_up(kept) {
            tokio::spawn(self.clone().remove_when_imported(unlink));
        }
    }

    fn import_from(&self, disk: Disk, intake: T, keyring: Keyring) {
        let importer = Importer::new(disk, intake, keyring, self.underlying.max_age);
        *lock(&self.underlying.importer) = Some(importer);
        self.underlying.listed.send_replace(false);
    }

    /// The directory is mounted over: nobody can add a file any more.
    pub(crate) async fn in_place(&self) {
        let Some(disk) =
            lock(&self.underlying.importer).as_ref().map(|importer| importer.disk.clone())
        else {
            return;
        };
        let began = Instant::now();
        let is_first = !self.underlying.is_known();
        // A listing that takes longer is made again later: requests wait no longer. The first one of all takes as long as
        // it takes: without it who has a file is taken for somebody who has none.
        let is_in_time = if is_first {
            self.underlying.list_at_last(&disk).await;
            true
        } else {
            timeout(SETTLED_WITHIN, self.underlying.list(&disk)).await.is_ok()
        };
        self.underlying.listed.send_replace(true);
        self.underlying.is_slow.store(!is_in_time, Ordering::Relaxed);
        if is_in_time && self.underlying.is_done() {
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

    /// Imports many. What cannot be read is not listed, as on a broken disk; a disk that does not
    /// answer at all fails the listing.
    async fn import_all(&self, aliases: Vec<Alias>) -> Result<(), StoreError> {
        let mut importing = JoinSet::new();
        let check = |joined: Option<Result<Result<(), ImportError>, _>>| match joined {
            Some(Ok(Err(
                error @ (ImportError::Pending
                | ImportError::Disk(DiskError::Overdue | DiskError::Gone)
                | ImportError::Store(StoreError::Unavailable(_) | StoreError::Refused(_))),
            ))) => Err(StoreError::from(error)),
            _ => Ok(()),
        };
        for alias in aliases {
            if importing.len() >= AT_ONCE {
                check(importing.join_next().await)?;
            }
            let underlying = Arc::clone(&self.underlying);
            importing.spawn(async move { underlying.settle(&alias, Patience::Listing).await });
        }
        while let Some(joined) = importing.join_next().await {
            check(Some(joined))?;
        }
        Ok(())
    }

    /// Whether the session of that name is removed by what it is on the disk. It is imported first,
    /// so that its removal leaves a tombstone; if that takes longer than its caller can wait, a task
    /// removes it then. A file that cannot be imported is archived all the same: a removal must never
    /// fail for that.
    async fn remove_file(&self, unlink: &Unlink, alias: &Alias) -> Result<bool, StoreError> {
        let had_file = self.underlying.index().get(alias).is_some();
        let settled = self.underlying.settle(alias, Patience::Change).await;
        let is_stuck = matches!(
            settled,
            Err(ImportError::Pending | ImportError::Disk(DiskError::Overdue | DiskError::Gone))
        );
        let places = self.underlying.index().places(alias);
        let importer = lock(&self.underlying.importer).clone();
        match (places, importer) {
            (Some(places), Some(importer)) if !is_stuck => {
                let (underlying, alias) = (Arc::clone(&self.underlying), alias.clone());
                let retiring =
                    tokio::spawn(
                        async move { underlying.retire(&importer, &alias, &places).await },
                    );
                return Ok(!matches!(timeout(HOLDING_WITHIN, retiring).await, Ok(Ok(false))));
            }
            _ if !is_stuck && self.underlying.is_listed() && self.underlying.is_known() => {
                return Ok(false);
            }
            _ => {}
        }
        let unlink = Unlink {
            stamp: unlink.stamp.again(),
            alias: alias.clone(),
            listed: None,
            held: None,
            opened: unlink.opened,
        };
        match self.underlying.removals.insert(&unlink) {
            None if had_file => {
                let why = "too many removals wait for the disk";
                return Err(StoreError::Unavailable(why.into()));
            }
            Some(true) => drop(tokio::spawn(self.clone().remove_when_imported(unlink))),
            // A file that is found later is kept from coming back by what the removal leaves in the store.
            None | Some(false) => {}
        }
        Ok(had_file)
    }

    /// Carries out a removal that could not wait for its session's import. A disk that does not answer is waited for. What
    /// cannot be carried out is left to the next worker.
    async fn remove_when_imported(self, unlink: Unlink) {
        let mut attempts = 0;
        loop {
            self.underlying.until_listed().await;
            let error = match self.remove_with_files(&unlink).await {
                Ok(()) => return self.underlying.removals.remove(&unlink),
                Err(error) => error,
            };
            if error == ImportError::Left && self.underlying.is_unread() {
                tracing::warn!(
                    alias = %unlink.alias,
                    "a session was removed, but not its file, if it has one: the underlying directory cannot be read"
                );
                return self.underlying.removals.give_up(&unlink);
            }
            let is_answered = !matches!(
                error,
                ImportError::Pending | ImportError::Disk(DiskError::Overdue | DiskError::Gone)
            );
            attempts += u32::from(is_answered);
            if attempts >= REMOVAL_ATTEMPTS {
                let error = StoreError::from(error);
                tracing::error!(
                    alias = %unlink.alias, %error,
                    "a session could not be removed; its user may still be logged in"
                );
                return self.underlying.removals.give_up(&unlink);
            }
            sleep(REMOVAL_PAUSE).await;
        }
    }

    /// Removes a session from the store and from the disk.
    async fn remove_with_files(&self, unlink: &Unlink) -> Result<(), ImportError> {
        let alias = &unlink.alias;
        if !self.underlying.is_known() {
            return Err(ImportError::Pending);
        }
        // With the end of the last import it is given back, and a file that was left is to be archived.
        let importer = lock(&self.underlying.importer).clone();
        let settled = self.underlying.settle(alias, Patience::Listing).await;
        let left = self.underlying.index().left.get(alias).cloned();
        let is_retired = match (left, importer) {
            (Some(places), Some(importer)) => {
                self.underlying.retire(&importer, alias, &places).await
            }
            (Some(_), None) => false,
            (None, _) => !self.underlying.is_unread(),
        };
        settled?;
        self.sessions.unlink(unlink).await.map_err(ImportError::Store)?;
        is_retired.then_some(()).ok_or(ImportError::Left)
    }
}

impl<T: Intake + Clone> Underlying<T> {
    fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    /// Whether all files are known, or have been waited for long enough.
    fn is_listed(&self) -> bool {
        *self.listed.borrow()
            || self.waiting_since.get_or_init(Instant::now).elapsed() >= self.listed_within()
    }

    /// How long that is waited for.
    fn listed_within(&self) -> Duration {
        if self.is_known() { SETTLED_WITHIN } else { UNKNOWN_FOR }
    }

    /// Whether the files have ever been listed.
    fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    /// Whether they cannot be, here.
    fn is_unread(&self) -> bool {
        self.is_unread.load(Ordering::Relaxed)
    }

    /// Waits until all files are known, within a bound.
    async fn until_listed(&self) {
        if self.is_listed() {
            return;
        }
        let mut listed = self.listed.subscribe();
        // The sender is in `self`, so it cannot be dropped meanwhile.
        let _ = timeout(self.listed_within(), listed.wait_for(|listed| *listed)).await;
    }

    /// Lists until that has been done, or there is nothing to be listed.
    async fn list_at_last(&self, disk: &Disk) {
        loop {
            self.list(disk).await;
            if self.is_known() {
                return;
            }
            sleep(MIN_LIST_PAUSE).await;
        }
    }

    async fn list(&self, disk: &Disk) {
        match disk.list().await {
            // A file that was imported meanwhile is found missing at its next access.
            Ok(listing) => {
                self.index().set(listing.places);
                if !self.is_known.swap(true, Ordering::Relaxed) {
                    self.listed.send_replace(true);
                }
            }
            Err(DiskError::NotServed(why)) => {
                why.tell();
                self.do_without();
            }
            Err(error) => tracing::warn!(%error, "cannot read the underlying directory"),
        }
    }

    /// As if there were no files.
    fn do_without(&self) {
        self.is_unread.store(true, Ordering::Relaxed);
        *lock(&self.importer) = None;
        self.is_known.store(true, Ordering::Relaxed);
        self.listed.send_replace(true);
    }

    /// Whether a session has no file here that could become one, and no removal waits for it.
    fn is_the_stores(&self, alias: &Alias) -> bool {
        *self.listed.borrow()
            && self.index().get(alias).is_none()
            && !lock(&self.imports).contains_key(alias)
            && !self.removals.has(alias)
    }

    /// Imports the session of that name, if it has a file, and waits for that as long as it may.
    async fn settle(
        self: &Arc<Self>,
        alias: &Alias,
        patience: Patience,
    ) -> Result<(), ImportError> {
        // It is removed as soon as it is imported: for everybody else it has ended.
        if self.removals.has(alias) && patience != Patience::Listing {
            return Ok(());
        }
        let bound = match patience {
            Patience::Listing => Duration::MAX,
            Patience::Open => OPEN_STEP,
            Patience::Lookup | Patience::Change if self.is_slow.load(Ordering::Relaxed) => {
                Duration::ZERO
            }
            Patience::Lookup | Patience::Change => HOLDING_WITHIN,
        };
        let until = Instant::now().checked_add(bound);
        // A change of a session that nobody has opened here is a login, which has no file.
        let may_come = !self.is_listed() && self.index().get(alias).is_none();
        if may_come && patience != Patience::Change {
            let mut listed = self.listed.subscribe();
            let _ =
                timeout(bound.min(self.listed_within()), listed.wait_for(|listed| *listed)).await;
            if !self.is_listed() {
                self.is_slow.store(true, Ordering::Relaxed);
                return Err(ImportError::Pending);
            }
        }
        let Some(mut progress) = self.start(alias) else { return Ok(()) };
        let mut is_last_look = false;
        loop {
            let reached = progress.borrow_and_update().clone();
            match (reached, patience) {
                (Progress::Over(result), _) => return result,
                (Progress::Known, Patience::Change) => return Ok(()),
                (Progress::Known, _) if is_last_look => return Ok(()),
                (Progress::Publishing, Patience::Change) => {
                    // Its task says how it ended, unless it has panicked.
                    progress.changed().await.map_err(|_| ImportError::Pending)?;
                    continue;
                }
                (Progress::Taking, Patience::Lookup | Patience::Change) if is_last_look => {
                    self.is_slow.store(true, Ordering::Relaxed);
                    return Err(ImportError::Pending);
                }
                (_, _) if is_last_look => return Err(ImportError::Pending),
                _ => {}
            }
            let changed = progress.changed();
            is_last_look = match until {
                None => changed.await.is_err(),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    !matches!(timeout(left, changed).await, Ok(Ok(())))
                }
            };
        }
    }

    /// The import of that session, which is begun if it is not under way. None: it has no file.
    fn start(self: &Arc<Self>, alias: &Alias) -> Option<watch::Receiver<Progress>> {
        let mut imports = lock(&self.imports);
        let vacant = match imports.entry(alias.clone()) {
            MapEntry::Occupied(under_way) => return Some(under_way.get().clone()),
            MapEntry::Vacant(vacant) => vacant,
        };
        let importer = lock(&self.importer).clone()?;
        let entry = self.index().get(alias)?;
        let (progress, receiver) = watch::channel(Progress::Taking);
        vacant.insert(receiver.clone());
        let (underlying, alias) = (Arc::clone(self), alias.clone());
        tokio::spawn(async move {
            let result = underlying.import(&importer, &alias, &entry, &progress).await;
            lock(&underlying.imports).remove(&alias);
            underlying.is_done();
            progress.send_replace(Progress::Over(result));
        });
        Some(receiver)
    }

    async fn import(
        &self,
        importer: &Importer<T>,
        alias: &Alias,
        entry: &Entry,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), ImportError> {
        let taken = importer.take(&entry.places).await;
        if !matches!(
            taken,
            Err(Reason::Unread(DiskError::Overdue) | Reason::NotTaken(DiskError::Overdue))
        ) {
            self.is_slow.store(false, Ordering::Relaxed);
        }
        let taken = match taken {
            Ok(Some(taken)) => taken,
            Ok(None) => {
                self.index().remove(alias);
                return Ok(());
            }
            Err(Reason::Unread(error) | Reason::NotTaken(error)) => {
                return self.failed(alias, error);
            }
            Err(reason) => {
                self.leave(alias, &entry.places, &reason);
                return Ok(());
            }
        };
        progress.send_replace(Progress::Publishing);
        importer.publish(&taken).await.map_err(ImportError::Store)?;
        self.index().remove(alias);
        progress.send_replace(Progress::Known);
        if let Err(error) = importer.disk.retire(&taken.0).await {
            self.leave(alias, &entry.places, &Reason::NotArchived(error));
        }
        Ok(())
    }

    /// The disk could not read or move the file: an error at first, and then no session.
    fn failed(&self, alias: &Alias, error: DiskError) -> Result<(), ImportError> {
        let failures = self.index().note_failure(alias);
        if failures == 1 {
            tracing::warn!(%alias, %error, "a session file cannot be read or moved");
        }
        if failures < MAX_FAILURES {
            return Err(ImportError::Disk(error));
        }
        self.index().leave(alias);
        Ok(())
    }

    fn leave(&self, alias: &Alias, places: &[Place], reason: &Reason) {
        match reason {
            // There may be very many.
            Reason::TooOld => {
                tracing::debug!(%alias, %reason, "a session file was left in place");
            }
            reason => tracing::warn!(%alias, %reason, "a session file was left in place"),
        }
        let mut index = self.index();
        index.remove(alias);
        index.left.insert(alias.clone(), places.to_vec());
    }

    /// Archives the files of a session that is removed without an import; whether it could.
    async fn retire(&self, importer: &Importer<T>, alias: &Alias, places: &[Place]) -> bool {
        if let Err(error) = importer.retire(places).await {
            tracing::error!(%alias, %error, "cannot archive the file of a removed session");
            return false;
        }
        let mut index = self.index();
        index.remove(alias);
        index.left.remove(alias);
        drop(index);
        self.is_done();
        true
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
        if !lock(&self.imports).is_empty() {
            return false;
        }
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
            if self.left.contains_key(&alias) {
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

    /// Its files, imported or not.
    fn places(&self, alias: &Alias) -> Option<Vec<Place>> {
        self.get(alias).map(|entry| entry.places).or_else(|| self.left.get(alias).cloned())
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
        let places = self.get(alias).unwrap_or_default().places;
        self.remove(alias);
        self.left.insert(alias.clone(), places);
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
    async fn is_ready(&self, alias: &Alias) -> Result<bool, StoreError> {
        match self.underlying.settle(alias, Patience::Lookup).await {
            Ok(()) => self.sessions.is_ready(alias).await,
            Err(ImportError::Pending) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn at_hand(&self, alias: &Alias) -> Option<Lookup> {
        let is_the_stores = self.underlying.is_the_stores(alias);
        if is_the_stores { self.sessions.at_hand(alias) } else { None }
    }

    async fn fetch(&self, alias: &Alias, listed: Option<&Alias>) -> Result<Lookup, StoreError> {
        self.underlying.settle(alias, Patience::Open).await?;
        if let Some(listed) = listed {
            self.underlying.settle(listed, Patience::Open).await?;
        }
        if self.underlying.removals.has(alias) {
            return Ok(Lookup::Absent);
        }
        self.sessions.fetch(alias, listed).await
    }

    async fn content(&self, alias: &Alias, save: ChangeId) -> Result<Option<Bytes>, StoreError> {
        self.sessions.content(alias, save).await
    }

    async fn publish(&self, publish: &Publish) -> Result<Published, StoreError> {
        self.underlying.settle(&publish.alias, Patience::Change).await?;
        self.sessions.publish(publish).await
    }

    async fn unlink(&self, unlink: &Unlink) -> Result<Unlinked, StoreError> {
        let mut removed = None;
        // One that is held is of a session that its thread has opened, which has no file any more. It may be taken back;
        // otherwise it comes once more, and is not held.
        let names = std::iter::once(&unlink.alias).chain(&unlink.listed);
        for alias in names.filter(|_| unlink.held.is_none()) {
            if self.remove_file(unlink, alias).await? {
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

    async fn take_back(&self, alias: &Alias, removal: ChangeId) -> Result<(), StoreError> {
        self.sessions.take_back(alias, removal).await
    }

    async fn amend(&self, amend: &Amend) -> Result<Option<Meta>, StoreError> {
        self.underlying.settle(&amend.alias, Patience::Change).await?;
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

    fn takes_saves(&self) -> bool {
        self.sessions.takes_saves()
    }

    fn knows_more(&self, alias: &Alias) -> bool {
        self.sessions.knows_more(alias)
    }

    fn settling(&self, alias: &Alias) -> Option<Settling> {
        self.sessions.settling(alias)
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
