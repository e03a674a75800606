//! The mirror: sessions written back to a directory as files, so that Odoo can do without sessionfs.
//!
//! One task takes notes from the filesystem ([`notes`]) and has the disk server write
//! them. A sweep, once a minute and at the end, compares the files with the store: it removes what has
//! ended unseen, and writes what another server has saved.

pub(crate) mod notes;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::disk::Place;
use crate::disk::client::{Disk, DiskError};
use crate::session::name::{Alias, Shard, Sid};
use crate::session::secret::Keyring;
use crate::store::current::{Current, current};
use crate::store::{ChangeId, Meta, Sessions, StoreError};
use crate::sync::optional;
use notes::Note;

/// The pause between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Waits for the mirror.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    settle: mpsc::Sender<oneshot::Sender<()>>,
}

impl Writer {
    /// Starts to write to the directory that `disk` serves, in a task on the current runtime. Returns
    /// when the files that exist are known.
    pub(crate) async fn start<S: Sessions>(
        disk: Disk,
        sessions: S,
        keyring: Keyring,
    ) -> Result<(notes::Sender, Self), DiskError> {
        let written = written(&disk).await?;
        let (sender, received) = notes::queue();
        let (settle, requests) = mpsc::channel(1);
        let task = Task { disk, sessions, keyring, written, received, failing: false };
        tokio::spawn(optional(task.run(requests)));
        Ok((sender, Self { settle }))
    }

    /// The same for what is served already: nobody waits for the disk. `failed` is called if the mirror cannot be listed;
    /// then it is not written.
    pub(crate) fn start_later<S: Sessions>(
        disk: Disk,
        sessions: S,
        keyring: Keyring,
        failed: impl FnOnce(DiskError) + Send + 'static,
    ) -> (notes::Sender, Self) {
        let (sender, received) = notes::queue();
        let (settle, requests) = mpsc::channel(1);
        tokio::spawn(optional(async move {
            match written(&disk).await {
                Ok(written) => {
                    let task = Task { disk, sessions, keyring, written, received, failing: false };
                    task.run(requests).await;
                }
                Err(error) => failed(error),
            }
        }));
        (sender, Self { settle })
    }

    /// Waits until every note is written and a sweep is done, at most for `bound`.
    pub(crate) async fn settle(&self, bound: Duration) {
        let (done, settled) = oneshot::channel();
        let settling = async {
            if self.settle.send(done).await.is_ok() {
                // If the task has ended, there is nothing to wait for.
                let _ = settled.await;
            }
        };
        if tokio::time::timeout(bound, settling).await.is_err() {
            tracing::warn!("the mirror may lack the last saves");
        }
    }
}

struct Written {
    place: Place,
    /// The version in the file; `None` for a file of an earlier run.
    version: Option<ChangeId>,
}

/// The files that exist.
async fn written(disk: &Disk) -> Result<HashMap<Alias, Written>, DiskError> {
    let places = disk.list().await?.places;
    tracing::warn!(
        sessions = places.len(),
        "a mirror is configured: sessions are written to disk in plain text; anybody who can read these files can take \
         over the sessions"
    );
    Ok(places
        .into_iter()
        .map(|place| (place.sid.alias(), Written { place, version: None }))
        .collect())
}

struct Task<S> {
    disk: Disk,
    sessions: S,
    keyring: Keyring,
    written: HashMap<Alias, Written>,
    received: notes::Receiver,
    /// The last write failed. Each change of this is logged once.
    failing: bool,
}

impl<S: Sessions> Task<S> {
    async fn run(mut self, mut settle: mpsc::Receiver<oneshot::Sender<()>>) {
        let mut sweeps = interval_at(Instant::now() + SWEEP_EVERY, SWEEP_EVERY);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut settling: Option<oneshot::Sender<()>> = None;
        loop {
            if settling.is_some() && self.received.is_empty() {
                self.sweep().await;
                if let Some(done) = settling.take() {
                    // The receiver may have stopped waiting.
                    let _ = done.send(());
                }
            }
            tokio::select! {
                biased;
                note = self.received.next() => match note {
                    Some(note) => self.note(note).await,
                    None => return,
                },
                Some(done) = settle.recv(), if settling.is_none() => {
                    settling = Some(done);
                }
                _ = sweeps.tick() => self.sweep().await,
            }
        }
    }

    async fn note(&mut self, note: Note) {
        match note {
            Note::Current { sid, meta, plain } => self.write(sid, &meta, &plain).await,
            Note::Ended(alias) => self.remove(&alias).await,
        }
    }

    async fn write(&mut self, sid: Sid, meta: &Meta, plain: &[u8]) {
        let alias = sid.alias();
        let before = self.written.get(&alias);
        if before.is_some_and(|written| written.version == Some(meta.version)) {
            return;
        }
        let place = Place::of(sid, meta.form);
        let elsewhere =
            before.map(|written| written.place.clone()).filter(|before| *before != place);
        let written = self.disk.write(&place, meta.mtime_ns, meta.mode, plain).await;
        if self.succeeded(written) {
            self.written.insert(alias, Written { place, version: Some(meta.version) });
            if let Some(other) = elsewhere {
                let removed = self.disk.retire(&other).await;
                self.succeeded(removed);
            }
        }
    }

    async fn remove(&mut self, alias: &Alias) {
        let Some(written) = self.written.get(alias) else { return };
        let removed = self.disk.retire(&written.place).await;
        if self.succeeded(removed) {
            self.written.remove(alias);
        }
    }

    /// Whether a write succeeded. Logs when that changes.
    fn succeeded(&mut self, result: Result<(), DiskError>) -> bool {
        match result {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("writing to the mirror works again");
                }
                true
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "cannot write to the mirror; it is out of date");
                }
                false
            }
        }
    }

    async fn sweep(&mut self) {
        let dropped = self.received.take_dropped();
        if dropped > 0 {
            tracing::warn!(dropped, "the mirror is too slow; it catches up at the next open");
        }
        let mut shards: BTreeMap<Shard, Vec<Alias>> = BTreeMap::new();
        for alias in self.written.keys() {
            shards.entry(alias.shard()).or_default().push(alias.clone());
        }
        for (shard, aliases) in shards {
            if let Err(error) = self.sweep_shard(shard, aliases).await {
                // Nothing is removed while the store does not answer.
                tracing::warn!(%error, "the mirror cannot be compared with Redis now");
                return;
            }
        }
    }

    async fn sweep_shard(&mut self, shard: Shard, aliases: Vec<Alias>) -> Result<(), StoreError> {
        let live: HashMap<Alias, Meta> =
            self.sessions.list(shard).await?.into_iter().map(|one| (one.alias, one.meta)).collect();
        for alias in aliases {
            let Some(written) = self.written.get(&alias) else { continue };
            match live.get(&alias) {
                Some(meta) if written.version == Some(meta.version) => {}
                // Saved since the listing, or evicted from the index: the session itself decides.
                _ => {
                    let sid = written.place.sid.clone();
                    match current(&self.sessions, &self.keyring, &sid, &alias).await? {
                        Current::Version { meta, plain } => self.write(sid, &meta, &plain).await,
                        Current::Gone | Current::AliasOnly { .. } => self.remove(&alias).await,
                        // What the file holds is better than nothing.
                        Current::Unopened(_) | Current::Large { .. } => {}
                    }
                }
            }
        }
        Ok(())
    }
}
