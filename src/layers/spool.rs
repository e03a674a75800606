//! Spool: what Redis does not take is kept on this host, and sent when it does.
//!
//! A change of a session is tried once. If that fails by a passing fault, it is kept and its caller
//! goes on. It counts here at once and in Redis when it is sent: in order for each session, as a later
//! attempt of the same change, so that it undoes nothing that is newer.
//! - [`record`]: a kept change and its file
//! - [`files`]: where the files are, and how they get to the disk
//! - [`overlay`]: what a session is by what is kept, and how much may be kept
//! - [`replay`]: sending it
//!
//! A listing that Redis cannot answer stays an error: what is kept here is only a part of it.

mod files;
mod overlay;
mod record;
mod replay;

use std::collections::HashSet;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use tokio::sync::Notify;
use tokio::time::timeout;

pub(crate) use self::files::Directories;
use self::files::{Files, Found, Unread};
pub(crate) use self::overlay::Limits;
use self::overlay::{Account, Overlay, Saved, View};
pub(crate) use self::record::Place;
use self::record::{Change, FACTS_MAX_BYTES, Record, Save, change_of};
use crate::handoff::{Kept as KeptByWorkers, Kind};
use crate::session::content::Class;
use crate::session::name::{Alias, Form, Shard, Sid};
use crate::session::packing::Packed;
use crate::session::policy::rules::Rules;
use crate::session::secret::Keyring;
use crate::store::{
    Amend, Attempt, ChangeId, Health, Kept, Link, Listed, Lookup, Meta, Publish, Published,
    RootListing, Sealer, Sessions, Settling, StoreError, Unlink, Unlinked,
};
use crate::sync::lock;
use crate::telemetry::{Event, now_ms};

/// What is longer is not part of the answer to a look-up.
const LARGE_BYTES: usize = 64 * 1024;
/// How long the end of a save waits for the disk.
const SETTLES_WITHIN: Duration = Duration::from_secs(2);
/// How many lives are remembered that turned out to be others. Of one that is forgotten a save may be
/// refused.
const MAX_LIVES: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// An id as it is kept for the next worker.
const ID_BYTES: usize = size_of::<u128>();

/// How changes are kept.
#[derive(Clone)]
pub(crate) struct Settings {
    /// Where; without directories nothing is kept.
    pub directories: Option<Directories>,
    /// How much.
    pub limits: Limits,
    /// The longest content of a session.
    pub session_max_bytes: u64,
    /// For which Redis.
    pub place: Place,
    /// What contents are sealed with.
    pub keyring: Keyring,
}

/// Sessions over those of a store. Clones share what is kept.
#[derive(Clone)]
pub(crate) struct Spool<S> {
    sessions: S,
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    files: Option<Files>,
    overlay: Mutex<Overlay>,
    /// The names of all files that are known here, until they are removed. Each is taken over once.
    names: Mutex<HashSet<String>>,
    /// What is there and cannot be sent.
    unsendable: Mutex<Unsendable>,
    rules: Box<dyn Fn() -> Arc<Rules> + Send + Sync>,
    /// Told when something is kept.
    filled: Notify,
    /// The lives that kept saves seemed to begin, and those that they turned out to belong to.
    lives: Mutex<LruCache<ChangeId, ChangeId>>,
    /// The same for the next worker.
    kept: OnceLock<KeptByWorkers>,
}

#[derive(Clone, Debug, Default)]
struct Unsendable {
    /// The names of files whose change is for another Redis, or cannot be opened there.
    foreign: HashSet<String>,
    /// What cannot be read on the tmpfs, and on the disk.
    memory: Unread,
    disk: Unread,
    why: Option<String>,
}

impl Unsendable {
    fn changes(&self) -> u64 {
        let Self { foreign, memory, disk, .. } = self;
        let unreadable = memory.unreadable.union(&disk.unreadable).count();
        (foreign.len() + unreadable) as u64 + memory.damaged + disk.damaged
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        let Self { foreign, memory, disk, .. } = self;
        foreign.iter().chain(&memory.unreadable).chain(&disk.unreadable)
    }

    fn is_unreadable(&self, name: &str) -> bool {
        self.memory.unreadable.contains(name) || self.disk.unreadable.contains(name)
    }
}

impl<S: Sessions + Link + Clone> Spool<S> {
    /// Over `sessions`. What is kept already is another worker's before [`Spool::take_up`]. `rules` are
    /// those of now.
    pub(crate) fn over(
        sessions: S,
        settings: Settings,
        rules: impl Fn() -> Arc<Rules> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let shared = Shared::new(settings, rules)?;
        Ok(Self { sessions, shared: Arc::new(shared) })
    }

    /// How much is kept, and since when.
    pub(crate) fn kept(&self) -> Kept {
        let (unsendable, why_unsendable) = {
            let unsendable = lock(&self.shared.unsendable);
            (unsendable.changes(), unsendable.why.clone())
        };
        Kept { unsendable, why_unsendable, ..self.shared.overlay().kept() }
    }

    /// Whether there is a connection for a change of this session.
    fn may_try(&self, alias: &Alias) -> bool {
        self.sessions.health(Some(alias.shard())) != Health::Down
    }

    /// Removes a session at once, unless the removal has to wait for what is kept of it.
    async fn try_unlink(&self, unlink: &Unlink) -> Result<Unlinked, StoreError> {
        if !self.may_try(&unlink.alias) {
            return Err(behind());
        }
        let overtaking = Overtaking::begin(&self.shared, unlink).ok_or_else(behind)?;
        let unlinked = self.sessions.unlink(unlink).await?;
        self.shared.overtaken(&overtaking.0, &unlinked);
        Ok(unlinked)
    }

    /// Keeps a save that was not taken, or must not overtake others.
    fn keep_save(&self, publish: &Publish, why: &StoreError) -> Result<Published, StoreError> {
        let shared = &self.shared;
        let rules = (shared.rules)();
        let refusal = shared.overlay().refusal(publish, &rules);
        if let Some(reason) = refusal {
            return Ok(Published::Refused(reason));
        }
        let (replaced, taken_back) = {
            let overlay = shared.overlay();
            (overlay.replaced_by(publish), overlay.taken_back_by(publish))
        };
        let publish = Publish { stamp: publish.stamp.again(), ..publish.clone() };
        let save = Save::new(publish.clone());
        shared.keep(Change::Save(Box::new(save.clone())), why)?;
        for number in replaced.into_iter().chain(taken_back) {
            shared.drop_change(number, "replaced");
        }
        let view = shared.overlay().view(&publish.alias, &rules);
        let meta = match view {
            Some(View::Saved(saved)) if saved.bound.save == publish.stamp.id => saved.meta,
            // It is not shown before Redis has decided.
            _ => overlay::meta_of(&save, now_ms()),
        };
        Ok(Published::Taken(meta))
    }
}

impl Shared {
    fn new(
        settings: Settings,
        rules: impl Fn() -> Arc<Rules> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let files = settings.directories.clone().map(Files::open).transpose()?;
        Ok(Self {
            overlay: Mutex::new(Overlay::new(settings.limits)),
            names: Mutex::default(),
            unsendable: Mutex::default(),
            rules: Box::new(rules),
            filled: Notify::new(),
            lives: Mutex::new(LruCache::new(MAX_LIVES)),
            kept: OnceLock::new(),
            settings,
            files,
        })
    }

    fn overlay(&self) -> MutexGuard<'_, Overlay> {
        lock(&self.overlay)
    }

    fn view(&self, alias: &Alias) -> Option<View> {
        let overlay = self.overlay();
        // Nearly always nothing is kept.
        if overlay.is_empty() { None } else { overlay.view(alias, &(self.rules)()) }
    }

    /// What the sessions of a shard are by what is kept; without a shard: those of all.
    fn views(&self, shard: Option<Shard>) -> Vec<(Alias, View)> {
        let overlay = self.overlay();
        if overlay.is_empty() {
            return Vec::new();
        }
        let rules = (self.rules)();
        let views = overlay.aliases(shard).into_iter();
        views.filter_map(|alias| overlay.view(&alias, &rules).map(|view| (alias, view))).collect()
    }

    /// Keeps a change, which outlives this process when this returns.
    fn keep(&self, change: Change, why: &StoreError) -> Result<(), StoreError> {
        let Some(files) = &self.files else { return Err(why.clone()) };
        let and = |cause: &str| match why {
            StoreError::Refused(why) => StoreError::Refused(format!("{why}; and {cause}")),
            StoreError::Unavailable(why) | StoreError::Unreadable(why) => {
                StoreError::Unavailable(format!("{why}; and {cause}"))
            }
        };
        let kept_ms = now_ms();
        let number = self.overlay().number(kept_ms);
        let record = Record { number, kept_ms, place: self.settings.place.clone(), change };
        let (name, file) = (record.file_name(), record.encode());
        let bytes = file.len() as u64;
        let account = Account::of(&record.change);
        if !self.overlay().has_room(account, bytes) {
            Event::SpoolFull { alias: record.change.alias(), change: record.change.kind() }.emit();
            return Err(and("the spool is full"));
        }
        lock(&self.names).insert(name.clone());
        self.keep_unsealed(&record.change);
        let safe = files.keep(&name, file).map_err(|error| {
            lock(&self.names).remove(&name);
            self.drop_unsealed(&record.change);
            and(&format!("it cannot be kept: {error}"))
        })?;
        Event::ChangeKept {
            alias: record.change.alias(),
            change: record.change.kind(),
            why: &why.to_string(),
        }
        .emit();
        self.overlay().insert(Arc::new(record), bytes, safe);
        self.filled.notify_one();
        Ok(())
    }

    /// Keeps a removal that was not taken, or must not overtake others.
    fn keep_removal(&self, unlink: &Unlink, why: &StoreError) -> Result<Unlinked, StoreError> {
        let alias = unlink.listed.as_ref().unwrap_or(&unlink.alias);
        let unlink = Unlink { stamp: unlink.stamp.again(), ..unlink.clone() };
        let gone = Unlinked::Gone { alias: alias.clone(), birth: unlink.stamp.id };
        match self.view(alias) {
            // The worker before has kept it, and died before it said so.
            Some(View::Removed { id, .. }) if id == Some(unlink.stamp.id) => return Ok(gone),
            Some(View::Removed { .. }) => return Ok(Unlinked::Absent),
            _ => {}
        }
        self.keep(Change::Removal(unlink), why)?;
        Ok(gone)
    }

    /// Takes over what is in the directories, on the disk too or on the tmpfs alone, and not known yet.
    fn load(&self, with_disk: bool) {
        let Some(files) = &self.files else { return };
        // A save may be sealed twice.
        let max_bytes = 2 * self.settings.session_max_bytes + FACTS_MAX_BYTES;
        let is_known = |name: &str| lock(&self.names).contains(name);
        let was_unreadable = |name: &str| lock(&self.unsendable).is_unreadable(name);
        let Found { records, memory, disk } =
            files.load(with_disk, max_bytes, is_known, was_unreadable);
        let mut unsendable = lock(&self.unsendable);
        let before = unsendable.changes();
        unsendable.memory = memory;
        if let Some(disk) = disk {
            unsendable.disk = disk;
        }
        if unsendable.changes() > before {
            unsendable.why = Some("their files are damaged".to_owned());
        }
        let was_served = self.kept.get().is_some_and(KeptByWorkers::has_predecessor);
        let mut taken = 0_u64;
        for (mut record, is_on_disk) in records {
            let name = record.file_name();
            // In this order: what is settled is removed first, and then not known any more.
            if !lock(&self.names).insert(name.clone()) {
                continue;
            }
            if files.is_removed(&name) {
                lock(&self.names).remove(&name);
                continue;
            }
            if let Some(why) = self.cannot_send(&record) {
                unsendable.why = Some(why);
                unsendable.foreign.insert(name);
                continue;
            }
            if let Change::Save(save) = &mut record.change {
                save.publish.sealer = self.sealer_of(&save.publish);
            }
            let file = record.encode();
            let bytes = file.len() as u64;
            let safe = if is_on_disk {
                tokio::sync::watch::channel(true).1
            } else {
                files.copy(&name, file)
            };
            let age = Duration::from_millis(now_ms().saturating_sub(record.kept_ms));
            self.overlay().take_over(Arc::new(record), bytes, safe, age, was_served);
            taken += 1;
        }
        if taken > 0 {
            tracing::info!(changes = taken, "changes that are kept on this host will be sent");
            self.filled.notify_one();
        }
        let changes = unsendable.changes();
        if changes > before {
            let why = unsendable.why.as_deref().unwrap_or_default();
            tracing::error!(event = "kept_changes_unsendable", changes, why);
        }
        if changes == 0 {
            unsendable.why = None;
        }
        drop(unsendable);
        if with_disk {
            self.drop_unsealed_without_file();
        }
    }

    /// The same on a thread that may wait for the disk.
    fn load_later(self: &Arc<Self>) {
        let Some(files) = &self.files else { return };
        let shared = Arc::downgrade(self);
        files.look_later(move || {
            if let Some(shared) = shared.upgrade() {
                shared.load(true);
            }
        });
    }

    /// Why a change is for another Redis, or cannot be opened there.
    fn cannot_send(&self, record: &Record) -> Option<String> {
        let Place { url, prefix } = &record.place;
        if record.place != self.settings.place {
            return Some(format!("they are for the Redis at {url} with the prefix {prefix}"));
        }
        let hint = record.change.secret_hint()?;
        self.settings
            .keyring
            .find(hint)
            .is_none()
            .then(|| "they are sealed with a secret that this server does not hold".to_owned())
    }

    /// A save that was to begin a life has gone on with another one. Whoever read it here, or saved it,
    /// knows it by the former.
    fn is_life(&self, supposed: ChangeId, actual: ChangeId) {
        if supposed != actual {
            lock(&self.lives).put(supposed, actual);
            if let Some(kept) = self.kept.get() {
                keep_life(kept, supposed, actual);
            }
        }
    }

    /// Knows the lives that the worker before has known, and leaves as much to the next one.
    fn take_up_lives(&self, kept: &KeptByWorkers) {
        if self.kept.set(kept.clone()).is_err() {
            return;
        }
        let mut lives = lock(&self.lives);
        for number in kept.numbers(Kind::Life) {
            if let Some((supposed, actual)) = kept_life(kept, number) {
                lives.put(supposed, actual);
            }
        }
    }

    /// The life that this birth stands for, if that is another one.
    fn life_of(&self, birth: Option<ChangeId>) -> Option<ChangeId> {
        let mut lives = lock(&self.lives);
        // Nearly always there is none.
        if lives.is_empty() { None } else { lives.get(&birth?).copied() }
    }

    /// The same save, of the life that its thread has really opened.
    fn of_life(&self, publish: &Publish) -> Option<Publish> {
        let life = self.life_of(publish.claim.opened)?;
        let mut publish = publish.rebound(life)?;
        publish.claim.opened = Some(life);
        Some(publish)
    }

    /// Forgets a change that is settled.
    fn settled(&self, number: u64) {
        let Some(record) = self.overlay().remove(number) else { return };
        let name = record.file_name();
        if let Some(files) = &self.files {
            files.remove(&name);
        }
        self.drop_unsealed(&record.change);
        lock(&self.names).remove(&name);
    }

    /// Leaves to the next worker what a person's save can be sealed from for another life, if its life is only supposed.
    /// It is in memory alone.
    fn keep_unsealed(&self, change: &Change) {
        if let (Change::Save(save), Some(kept)) = (change, self.kept.get())
            && save.publish.content.class == Class::Authenticated
            && save
                .publish
                .claim
                .opened
                .is_none_or(|opened| self.overlay().has_change(change.alias(), opened))
            && let Some(sealer) = &save.publish.sealer
        {
            let (sid, packed) = sealer.parts();
            let head = format!("{} {}\n", sid.expose(), packed.packing);
            kept.put(
                Kind::Unsealed,
                number_of(save.publish.stamp.id),
                &[head.as_bytes(), &packed.bytes],
            );
        }
    }

    /// Not while the same save is kept a second time, as its request was repeated.
    fn drop_unsealed(&self, change: &Change) {
        if let (Change::Save(save), Some(kept)) = (change, self.kept.get())
            && !self.overlay().has_change(change.alias(), save.publish.stamp.id)
        {
            kept.remove(Kind::Unsealed, number_of(save.publish.stamp.id));
        }
    }

    /// Drops what was left of saves that have no file. All files are known.
    fn drop_unsealed_without_file(&self) {
        let Some(kept) = self.kept.get() else { return };
        // In this order: each has a name before it is put.
        let numbers = kept.numbers(Kind::Unsealed);
        let mut used: HashSet<u64> =
            lock(&self.names).iter().filter_map(change_of).map(number_of).collect();
        used.extend(lock(&self.unsendable).names().filter_map(change_of).map(number_of));
        for number in numbers.into_iter().filter(|number| !used.contains(number)) {
            kept.remove(Kind::Unsealed, number);
        }
    }

    /// What the worker before has left of a save.
    fn sealer_of(&self, publish: &Publish) -> Option<Sealer> {
        let bytes = self.kept.get()?.get(Kind::Unsealed, number_of(publish.stamp.id))?;
        let end = bytes.iter().position(|&byte| byte == b'\n')?;
        let (sid, packing) = std::str::from_utf8(&bytes[..end]).ok()?.split_once(' ')?;
        let (sid, packing) = (Sid::parse(sid)?, packing.parse().ok()?);
        let packed = Packed { packing, bytes: Bytes::from(bytes).slice(end + 1..) };
        (sid.alias() == publish.alias && packing == publish.packing)
            .then(|| Sealer::new(self.settings.keyring.clone(), sid, packed))
    }

    /// A removal was carried out before these changes, which came before it: what they were of is
    /// gone.
    fn overtaken(&self, numbers: &[u64], unlinked: &Unlinked) {
        let is_over = |record: &Record| match unlinked {
            Unlinked::Gone { alias, .. } => record.change.aliases().any(|one| one == alias),
            Unlinked::Absent => true,
            Unlinked::Held { .. } | Unlinked::Superseded => false,
        };
        for &number in numbers {
            let record = self.overlay().record(number);
            if record.is_some_and(|record| is_over(&record)) {
                self.drop_change(number, "ended");
            }
        }
    }

    /// Forgets a change that will never be sent.
    fn drop_change(&self, number: u64, reason: &'static str) {
        let record = self.overlay().record(number);
        if let Some(record) = record {
            let (alias, change) = (record.change.alias(), record.change.kind());
            Event::ChangeDropped { alias, change, reason }.emit();
        }
        self.settled(number);
    }
}

/// A part of an id is as random as the whole.
fn number_of(id: ChangeId) -> u64 {
    (id.0 >> 64) as u64
}

fn keep_life(kept: &KeptByWorkers, supposed: ChangeId, actual: ChangeId) {
    let ids = [supposed, actual].map(|id| id.0.to_le_bytes());
    kept.put(Kind::Life, number_of(supposed), &[&ids[0], &ids[1]]);
}

fn kept_life(kept: &KeptByWorkers, number: u64) -> Option<(ChangeId, ChangeId)> {
    let bytes = kept.get(Kind::Life, number)?;
    let (supposed, rest) = bytes.split_first_chunk::<ID_BYTES>()?;
    let id = |bytes: [u8; ID_BYTES]| ChangeId(u128::from_le_bytes(bytes));
    Some((id(*supposed), id(rest.try_into().ok()?)))
}

/// The kept changes that a removal overtakes while it is sent: none of them is sent meanwhile.
struct Overtaking<'a>(Vec<u64>, &'a Shared);

impl<'a> Overtaking<'a> {
    /// `None` if the removal has to wait for them.
    fn begin(shared: &'a Shared, unlink: &Unlink) -> Option<Self> {
        let mut overlay = shared.overlay();
        let numbers = overlay.overtaken(unlink, u64::MAX)?;
        overlay.are_sent(&numbers, true);
        Some(Self(numbers, shared))
    }
}

impl Drop for Overtaking<'_> {
    fn drop(&mut self) {
        // Nearly always nothing is kept.
        if !self.0.is_empty() {
            self.1.overlay().are_sent(&self.0, false);
        }
    }
}

/// Whether it is a fault that passes.
fn passes(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(_) | StoreError::Refused(_))
}

fn behind() -> StoreError {
    StoreError::Unavailable("earlier changes are not sent yet".into())
}

/// What is kept of a session, against what the store says of it.
fn by_id(kept: Box<Saved>, found: Result<Lookup, StoreError>) -> Result<Lookup, StoreError> {
    let holds = match &found {
        Ok(Lookup::Session { meta, .. } | Lookup::Large { meta, .. }) => {
            kept.holds_against(Some(meta))
        }
        Ok(Lookup::Alias { .. } | Lookup::Absent) => kept.holds_against(None),
        Err(error) => passes(error),
    };
    if holds { Ok(kept.lookup(LARGE_BYTES)) } else { found }
}

/// The same for a session that is asked for by its alias.
fn by_alias(kept: Box<Saved>, found: Result<Lookup, StoreError>) -> Result<Lookup, StoreError> {
    let holds = match &found {
        Ok(Lookup::Session { .. } | Lookup::Large { .. }) => false,
        Ok(Lookup::Alias { meta }) => kept.holds_against(Some(meta)),
        Ok(Lookup::Absent) => kept.holds_against(None),
        Err(error) => passes(error),
    };
    if holds { Ok(Lookup::Alias { meta: kept.meta }) } else { found }
}

impl<S: Sessions + Link + Clone> Sessions for Spool<S> {
    async fn is_ready(&self, alias: &Alias) -> Result<bool, StoreError> {
        self.sessions.is_ready(alias).await
    }

    fn at_hand(&self, alias: &Alias) -> Option<Lookup> {
        let has_changes = self.shared.view(alias).is_some();
        if has_changes { None } else { self.sessions.at_hand(alias) }
    }

    async fn fetch(&self, alias: &Alias, listed: Option<&Alias>) -> Result<Lookup, StoreError> {
        let of_listed = listed.and_then(|listed| self.shared.view(listed));
        match (self.shared.view(alias), of_listed) {
            (None, None) => self.sessions.fetch(alias, listed).await,
            (Some(View::Saved(kept)), _) => by_id(kept, self.sessions.fetch(alias, None).await),
            (Some(View::Removed { .. }), Some(View::Saved(kept))) => {
                Ok(Lookup::Alias { meta: kept.meta })
            }
            (Some(View::Removed { .. }), _) => Ok(Lookup::Absent),
            (None, Some(View::Saved(kept))) => {
                by_alias(kept, self.sessions.fetch(alias, listed).await)
            }
            (None, Some(View::Removed { .. })) => self.sessions.fetch(alias, None).await,
        }
    }

    async fn content(&self, alias: &Alias, save: ChangeId) -> Result<Option<Bytes>, StoreError> {
        match self.shared.view(alias) {
            Some(View::Saved(kept)) if kept.bound.save == save => Ok(Some(kept.sealed)),
            _ => self.sessions.content(alias, save).await,
        }
    }

    async fn publish(&self, publish: &Publish) -> Result<Published, StoreError> {
        let of_life = self.shared.of_life(publish);
        let publish = of_life.as_ref().unwrap_or(publish);
        let mut why = behind();
        let is_behind = self.shared.overlay().has(&publish.alias);
        if !is_behind && self.may_try(&publish.alias) {
            match self.sessions.publish(publish).await {
                Err(error) if passes(&error) => why = error,
                outcome => return outcome,
            }
        }
        self.keep_save(publish, &why)
    }

    /// A removal that may be held is not kept when it is tried first: whoever asks for it holds it, and
    /// asks again.
    async fn unlink(&self, unlink: &Unlink) -> Result<Unlinked, StoreError> {
        let why = match self.try_unlink(unlink).await {
            Err(error) if passes(&error) => error,
            outcome => return outcome,
        };
        if unlink.held.is_some() && unlink.stamp.attempt == Attempt::First {
            return Err(why);
        }
        self.shared.keep_removal(unlink, &why)
    }

    async fn take_back(&self, alias: &Alias, removal: ChangeId) -> Result<(), StoreError> {
        self.sessions.take_back(alias, removal).await
    }

    async fn amend(&self, amend: &Amend) -> Result<Option<Meta>, StoreError> {
        let Some(view) = self.shared.view(&amend.alias) else {
            // Only who knows the session can say what its attributes are.
            return self.sessions.amend(amend).await;
        };
        if let View::Removed { .. } = view {
            return Ok(None);
        }
        let again = Amend { stamp: amend.stamp.again(), ..amend.clone() };
        self.shared.keep(Change::Amend(again), &behind())?;
        match self.shared.view(&amend.alias) {
            Some(View::Saved(kept)) => Ok(Some(kept.meta)),
            // It was sent meanwhile.
            _ => self.sessions.amend(amend).await,
        }
    }

    async fn list(&self, shard: Shard) -> Result<Vec<Listed>, StoreError> {
        let kept = self.shared.views(Some(shard));
        let mut listed = self.sessions.list(shard).await?;
        for (alias, view) in kept {
            correct(&mut listed, alias, view, |_| true);
        }
        Ok(listed)
    }

    async fn list_root(&self) -> Result<RootListing, StoreError> {
        let kept = self.shared.views(None);
        let mut root = self.sessions.list_root().await?;
        for (alias, view) in kept {
            let shard = alias.shard();
            let form = correct(&mut root.flat, alias, view, |form| form == Form::Flat);
            if form == Some(Form::Sharded) && !root.shards.contains(&shard) {
                root.shards.push(shard);
            }
        }
        root.shards.sort_unstable();
        Ok(root)
    }

    fn touch(&self, alias: &Alias) {
        self.shared.overlay().touch(alias);
        self.sessions.touch(alias);
    }

    async fn touch_now(&self, alias: &Alias) -> Result<(), StoreError> {
        self.shared.overlay().touch(alias);
        self.sessions.touch_now(alias).await
    }

    fn takes_saves(&self) -> bool {
        // Without files a save is tried, and may fail, as ever.
        self.shared.files.is_none()
            || self.shared.overlay().has_room(Account::Person, LARGE_BYTES as u64)
    }

    fn knows_more(&self, alias: &Alias) -> bool {
        self.shared.view(alias).is_some()
    }

    fn settling(&self, alias: &Alias) -> Option<Settling> {
        let waits = self.shared.overlay().unsafe_ones(alias);
        if waits.is_empty() {
            return None;
        }
        Some(Box::pin(async move {
            let all = async {
                for mut safe in waits {
                    // Without its thread it is never safe.
                    let _ = safe.wait_for(|safe| *safe).await;
                }
            };
            if timeout(SETTLES_WITHIN, all).await.is_err() {
                tracing::warn!(
                    "the disk is slow: a kept save would not survive a crash of this host"
                );
            }
        }))
    }
}

/// Corrects a listing by what was kept of one session before it was made: what was sent meanwhile
/// may be in it or not. Returns the form of what is kept.
fn correct(
    listed: &mut Vec<Listed>,
    alias: Alias,
    view: View,
    is_listed: impl Fn(Form) -> bool,
) -> Option<Form> {
    let at = listed.iter().position(|one| one.alias == alias);
    match view {
        View::Removed { .. } => {
            at.map(|at| listed.swap_remove(at));
            None
        }
        View::Saved(kept) => {
            let form = kept.meta.form;
            // A listing of the other form does not tell whether the store knows the session.
            if is_listed(form) && !kept.holds_against(at.map(|at| &listed[at].meta)) {
                return None;
            }
            at.map(|at| listed.swap_remove(at));
            if is_listed(form) {
                listed.push(Listed { alias, meta: kept.meta });
            }
            Some(form)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::record::tests::{alias, is_sealed_for, place, removal, save, sealer, sid};
    use super::*;
    use crate::handoff;

    fn shared(directories: Option<Directories>) -> Shared {
        let settings = Settings {
            directories,
            limits: Limits { changes: 64, bytes: 64_000 },
            session_max_bytes: 100,
            place: place(),
            keyring: Keyring::for_tests(),
        };
        Shared::new(settings, Arc::default).unwrap()
    }

    #[test]
    fn the_life_that_a_save_turned_out_to_belong_to_is_known_to_the_next_worker() {
        let memory = handoff::create().unwrap();
        let next = || {
            let shared = shared(None);
            shared.take_up_lives(&KeptByWorkers::open(&memory).unwrap());
            shared
        };
        let [supposed, actual] = [1 << 100 | 1, 2].map(ChangeId);
        next().is_life(supposed, actual);
        let last = next();
        assert_eq!(last.life_of(Some(supposed)), Some(actual));
        assert_eq!(last.life_of(Some(actual)), None);
    }

    #[test]
    fn a_kept_save_can_be_sealed_for_another_life_by_the_next_worker() {
        let memory = handoff::create().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let next = || {
            let directories = Directories { memory: dir.path().to_owned(), disk: None };
            let shared = shared(Some(directories));
            shared.take_up_lives(&KeptByWorkers::open(&memory).unwrap());
            shared.load(false);
            shared
        };
        let publish = Publish {
            alias: sid().alias(),
            sealer: Some(sealer()),
            ..save(1 << 100, Class::Authenticated, None)
        };
        let publish = publish.rebound(publish.birth).unwrap();
        next().keep(Change::Save(Box::new(Save::new(publish))), &behind()).unwrap();
        let shared = next();
        let sending = shared.overlay().send_next(sid().shard()).unwrap();
        let Change::Save(kept) = &sending.record.change else { panic!("a save") };
        assert!(is_sealed_for(7, &kept.for_birth(ChangeId(7)).unwrap()));
        // Its request was repeated: it is kept twice.
        shared.keep(Change::Save(kept.clone()), &behind()).unwrap();
        let left = || KeptByWorkers::open(&memory).unwrap().numbers(Kind::Unsealed).len();
        shared.settled(sending.record.number);
        assert_eq!(left(), 1);
        // The administrator has removed its file.
        for file in std::fs::read_dir(dir.path()).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
        next().load(true);
        assert_eq!(left(), 0);
    }

    #[test]
    fn only_of_a_life_that_is_supposed_a_content_is_left() {
        let memory = handoff::create().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let shared = shared(Some(Directories { memory: dir.path().to_owned(), disk: None }));
        shared.take_up_lives(&KeptByWorkers::open(&memory).unwrap());
        let keep = |id: u128, class, opened| {
            let publish = Publish { sealer: Some(sealer()), ..save(id << 64, class, opened) };
            shared.keep(Change::Save(Box::new(Save::new(publish))), &behind()).unwrap();
        };
        keep(1, Class::Anonymous, None);
        keep(2, Class::Authenticated, Some(9));
        keep(3, Class::Authenticated, None);
        keep(4, Class::Authenticated, Some(3 << 64));
        assert_eq!(KeptByWorkers::open(&memory).unwrap().numbers(Kind::Unsealed), [3, 4]);
    }

    #[test]
    fn a_removal_that_was_kept_may_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let directories = || Some(Directories { memory: dir.path().to_owned(), disk: None });
        let gone = |id| Unlinked::Gone { alias: alias(1), birth: ChangeId(id) };
        let keep = |shared: &Shared, id| shared.keep_removal(&removal(id), &behind()).unwrap();
        assert_eq!(keep(&shared(directories()), 1), gone(1));
        let next = shared(directories());
        next.load(false);
        assert_eq!(keep(&next, 1), gone(1));
        assert_eq!(keep(&next, 2), Unlinked::Absent);
        assert_eq!(next.overlay().kept().changes, 1);
    }

    #[tokio::test]
    async fn the_next_worker_does_not_wait_for_the_disk_and_finds_what_is_there_alone() {
        let [memory, disk] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [in_memory, on_disk] = [&memory, &disk].map(|dir| dir.path().to_owned());
        let next = || {
            let directories =
                Directories { memory: in_memory.clone(), disk: Some(on_disk.clone()) };
            Arc::new(shared(Some(directories)))
        };
        // What could not be kept in memory.
        let full = shared(Some(Directories { memory: on_disk.clone(), disk: None }));
        full.keep_removal(&removal(1), &behind()).unwrap();
        let changes = |shared: &Shared| shared.overlay().kept().changes;
        let shared = next();
        shared.load(false);
        assert_eq!(changes(&shared), 0);
        shared.load_later();
        shared.filled.notified().await;
        assert_eq!(changes(&shared), 1);
        // A second look finds nothing new.
        shared.load(true);
        assert_eq!(changes(&shared), 1);
    }
}
