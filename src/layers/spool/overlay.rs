//! What is kept, in memory: which change comes next, and what a session is by what is kept of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

use super::record::{Change, Record, Save};
use crate::session::content::Class;
use crate::session::name::{Alias, Shard};
use crate::session::policy::rules::Rules;
use crate::store::{Bound, ChangeId, Kept, Lookup, Meta, Mtime, Publish, Refusal, Unlink};

/// The permission bits with which Odoo ends every save.
const SAVED_MODE: u32 = 0o644;

/// The most that is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub changes: u64,
    pub bytes: u64,
}

/// On whose account a change is kept: who is logged in never lacks room because of others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Account {
    /// A removal of the session of who is logged in, by the request that has opened it: a logout.
    Removal,
    /// A save of who is logged in.
    Person,
    /// A visitor's save. Anybody can make one.
    Visitor,
    /// Anything else that anybody can ask for.
    Other,
}

impl Account {
    const ALL: [Self; 4] = [Self::Removal, Self::Person, Self::Visitor, Self::Other];

    pub(super) fn of(change: &Change) -> Self {
        match change {
            Change::Removal(unlink) if unlink.opened == Some(Class::Authenticated) => Self::Removal,
            Change::Save(save) if save.publish.content.class == Class::Authenticated => {
                Self::Person
            }
            Change::Save(_) => Self::Visitor,
            Change::Removal(_) | Change::Amend(_) => Self::Other,
        }
    }

    /// How much of the whole it may take, in eighths; for all but logouts also together with the
    /// others.
    const fn share(self) -> u64 {
        match self {
            Self::Removal => 8,
            Self::Person => 7,
            Self::Visitor | Self::Other => 2,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    changes: u64,
    bytes: u64,
}

/// One kept change.
struct Entry {
    record: Arc<Record>,
    bytes: u64,
    /// Turns `true` when it is on the disk.
    safe: watch::Receiver<bool>,
    since: Instant,
    /// When a person used the session last.
    used: Instant,
    /// When it was taken over, if another process has kept it, and nobody knows until when it has served it.
    taken_over: Option<Instant>,
    /// It is being sent, so another one cannot take its place any more.
    is_sending: bool,
}

/// What is sent next.
pub(super) struct Sending {
    pub record: Arc<Record>,
    /// Since when it is kept.
    pub age: Duration,
    /// Since when nobody has used its session; `None` if nobody has since it was taken over from another
    /// process.
    pub unused: Option<Duration>,
    /// Earlier changes that it makes unnecessary.
    pub overtaken: Vec<u64>,
}

/// All kept changes.
pub(super) struct Overlay {
    limits: Limits,
    entries: BTreeMap<u64, Entry>,
    by_alias: HashMap<Alias, BTreeSet<u64>>,
    by_shard: BTreeMap<Shard, BTreeSet<u64>>,
    /// The removals among them.
    removals: BTreeMap<Shard, BTreeSet<u64>>,
    /// Saves that rotate another session, by that one.
    rotations: HashMap<Alias, BTreeSet<u64>>,
    sums: [Sum; Account::ALL.len()],
    last_number: u64,
}

/// What a session is by what is kept of it, to whoever asks here.
#[derive(Clone, Debug)]
pub(super) enum View {
    Saved(Box<Saved>),
    /// It was removed, by this change, or its time is over.
    Removed {
        id: Option<ChangeId>,
        opened: bool,
    },
}

/// A kept content that is the newest one, as far as is known here.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    pub meta: Meta,
    pub bound: Bound,
    pub sealed: Bytes,
    /// When it was saved, by the store's clock; 0 if that was not known.
    first_ms: u64,
    /// It is only taken while the life that was opened lives in the store.
    continues: bool,
}

impl Overlay {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: BTreeMap::new(),
            by_alias: HashMap::new(),
            by_shard: BTreeMap::new(),
            removals: BTreeMap::new(),
            rotations: HashMap::new(),
            sums: Default::default(),
            last_number: 0,
        }
    }

    /// A number for a change that is kept at `now_ms`, greater than all before.
    pub(super) fn number(&mut self, now_ms: u64) -> u64 {
        // The numbers of a later process are greater, too.
        self.last_number = self.last_number.saturating_add(1).max(now_ms.saturating_mul(1000));
        self.last_number
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a change of this session is kept.
    pub(super) fn has(&self, alias: &Alias) -> bool {
        self.by_alias.contains_key(alias)
    }

    /// Whether a change of that id is kept of this session.
    pub(super) fn has_change(&self, alias: &Alias, id: ChangeId) -> bool {
        let mut numbers = self.by_alias.get(alias).into_iter().flatten();
        numbers
            .any(|&number| self.record(number).is_some_and(|record| record.change.stamp().id == id))
    }

    /// Whether there is room for a change of that size.
    pub(super) fn has_room(&self, account: Account, bytes: u64) -> bool {
        let own = self.sums[account as usize];
        let all = self.sums.iter().fold(Sum::default(), |all, sum| Sum {
            changes: all.changes + sum.changes,
            bytes: all.bytes + sum.bytes,
        });
        let fits = |sum: Sum, eighths: u64| {
            sum.changes < self.limits.changes * eighths / 8
                && sum.bytes + bytes <= self.limits.bytes * eighths / 8
        };
        let together = if account == Account::Removal { 8 } else { Account::Person.share() };
        fits(own, account.share()) && fits(all, together)
    }

    /// Keeps a change.
    pub(super) fn insert(&mut self, record: Arc<Record>, bytes: u64, safe: watch::Receiver<bool>) {
        let now = Instant::now();
        self.put(record, bytes, safe, now, now, None);
    }

    /// Takes over a change that another process has kept, `age` ago by this host's clock. That may have
    /// been set meanwhile, so it ends no session: see [`Sending::unused`]. If the session
    /// `was_served` until now, somebody may have used it until now.
    pub(super) fn take_over(
        &mut self,
        record: Arc<Record>,
        bytes: u64,
        safe: watch::Receiver<bool>,
        age: Duration,
        was_served: bool,
    ) {
        let now = Instant::now();
        let since = now.checked_sub(age).unwrap_or(now);
        self.put(record, bytes, safe, since, now, (!was_served).then_some(now));
    }

    fn put(
        &mut self,
        record: Arc<Record>,
        bytes: u64,
        safe: watch::Receiver<bool>,
        since: Instant,
        used: Instant,
        taken_over: Option<Instant>,
    ) {
        let number = record.number;
        self.last_number = self.last_number.max(number);
        for alias in record.change.aliases() {
            self.by_alias.entry(alias.clone()).or_default().insert(number);
        }
        let shard = record.change.shard();
        self.by_shard.entry(shard).or_default().insert(number);
        if let Change::Removal(_) = record.change {
            self.removals.entry(shard).or_default().insert(number);
        }
        if let Some(sibling) = record.change.rotates() {
            self.rotations.entry(sibling.clone()).or_default().insert(number);
        }
        let sum = &mut self.sums[Account::of(&record.change) as usize];
        sum.changes += 1;
        sum.bytes += bytes;
        let entry = Entry { record, bytes, safe, since, used, taken_over, is_sending: false };
        self.entries.insert(number, entry);
    }

    /// Forgets a change that is settled.
    pub(super) fn remove(&mut self, number: u64) -> Option<Arc<Record>> {
        let Entry { record, bytes, .. } = self.entries.remove(&number)?;
        for alias in record.change.aliases() {
            take_out(self.by_alias.entry(alias.clone()), number);
        }
        let shard = record.change.shard();
        take_out_of_shard(&mut self.by_shard, shard, number);
        take_out_of_shard(&mut self.removals, shard, number);
        if let Some(sibling) = record.change.rotates() {
            take_out(self.rotations.entry(sibling.clone()), number);
        }
        let sum = &mut self.sums[Account::of(&record.change) as usize];
        sum.changes -= 1;
        sum.bytes -= bytes;
        Some(record)
    }

    /// The change of that number.
    pub(super) fn record(&self, number: u64) -> Option<Arc<Record>> {
        self.entries.get(&number).map(|entry| Arc::clone(&entry.record))
    }

    /// The shards of which something is kept.
    pub(super) fn shards(&self) -> Vec<Shard> {
        self.by_shard.keys().copied().collect()
    }

    /// The sessions of a shard of which something is kept; without a shard: of all.
    pub(super) fn aliases(&self, shard: Option<Shard>) -> Vec<Alias> {
        let is_asked = |alias: &&Alias| shard.is_none_or(|shard| alias.shard() == shard);
        self.by_alias.keys().filter(is_asked).cloned().collect()
    }

    /// What is to be sent of this shard: a removal that need not wait for what was kept before it, else
    /// the first change. A server that has no room for a save takes a removal. It is being sent from
    /// now on; `None` as well while the first change is being overtaken.
    pub(super) fn send_next(&mut self, shard: Shard) -> Option<Sending> {
        let first = *self.by_shard.get(&shard)?.first()?;
        let removals = self.removals.get(&shard).into_iter().flatten();
        let mut free = removals.filter_map(|number| {
            let entry = self.entries.get(number).filter(|entry| !entry.is_sending)?;
            let Change::Removal(unlink) = &entry.record.change else { return None };
            Some((*number, self.overtaken(unlink, *number)?))
        });
        let (number, overtaken) = free.next().unwrap_or((first, Vec::new()));
        drop(free);
        self.entries.get(&number).filter(|entry| !entry.is_sending)?;
        self.are_sent(&overtaken, true);
        let entry = self.entries.get_mut(&number)?;
        entry.is_sending = true;
        Some(Sending {
            record: Arc::clone(&entry.record),
            age: entry.since.elapsed(),
            unused: (entry.taken_over != Some(entry.used)).then(|| entry.used.elapsed()),
            overtaken,
        })
    }

    /// It is not being sent any more.
    pub(super) fn not_sent(&mut self, sending: &Sending) {
        self.are_sent(&[sending.record.number], false);
        self.are_sent(&sending.overtaken, false);
    }

    /// Notes whether these changes are being sent, or overtaken.
    pub(super) fn are_sent(&mut self, numbers: &[u64], is_sending: bool) {
        for number in numbers {
            if let Some(entry) = self.entries.get_mut(number) {
                entry.is_sending = is_sending;
            }
        }
    }

    /// The changes kept before that number which this removal makes unnecessary; `None` if it has to
    /// wait for them. It must end what it would end after them, and others must find what they would
    /// find: so it waits for a save that begins a life, for one that rotates the session, and for what
    /// is being sent.
    pub(super) fn overtaken(&self, unlink: &Unlink, before: u64) -> Option<Vec<u64>> {
        let aliases = || std::iter::once(&unlink.alias).chain(&unlink.listed);
        let is_rotated = |alias| {
            self.rotations
                .get(alias)
                .is_some_and(|numbers| numbers.range(..before).next().is_some())
        };
        if aliases().any(is_rotated) {
            return None;
        }
        let mut overtaken = Vec::new();
        for number in aliases().filter_map(|alias| self.by_alias.get(alias)).flatten() {
            let Some(entry) = self.entries.get(number) else { continue };
            if *number < before {
                if entry.is_sending || !entry.ends_with_its_session() {
                    return None;
                }
                overtaken.push(*number);
            } else if entry.takes_back(unlink.stamp.id) {
                return None;
            }
        }
        // A removal that is held may be taken back.
        (overtaken.is_empty() || unlink.held.is_none()).then_some(overtaken)
    }

    /// The kept removal that this save takes back, so that it must not be sent any more.
    pub(super) fn taken_back_by(&self, publish: &Publish) -> Option<u64> {
        let removal = publish.claim.held_removal?;
        let is_it = |number: &&u64| {
            self.entries.get(number).is_some_and(|entry| {
                let change = &entry.record.change;
                !entry.is_sending
                    && matches!(change, Change::Removal(unlink) if unlink.stamp.id == removal)
            })
        };
        self.by_alias.get(&publish.alias)?.iter().find(is_it).copied()
    }

    /// A kept save that `newer` makes unnecessary: it is the last change of the same session, it
    /// goes on with the same life, and it does nothing else.
    pub(super) fn replaced_by(&self, newer: &Publish) -> Option<u64> {
        let number = self.by_alias.get(&newer.alias)?.last()?;
        let entry = self.entries.get(number).filter(|entry| !entry.is_sending)?;
        let Change::Save(save) = &entry.record.change else { return None };
        let publish = &save.publish;
        let is_alike = publish.claim == newer.claim
            && publish.claim.opened.is_some()
            && publish.claim.held_removal.is_none()
            && publish.content.class == newer.content.class
            && publish.background == newer.background
            && publish.is_activity == newer.is_activity;
        is_alike.then_some(*number)
    }

    /// A person uses this session now.
    pub(super) fn touch(&mut self, alias: &Alias) {
        let now = Instant::now();
        for number in self.by_alias.get(alias).into_iter().flatten() {
            if let Some(entry) = self.entries.get_mut(number) {
                entry.used = now;
            }
        }
    }

    /// What is not on the disk yet, of this session.
    pub(super) fn unsafe_ones(&self, alias: &Alias) -> Vec<watch::Receiver<bool>> {
        let numbers = self.by_alias.get(alias).into_iter().flatten();
        let entries = numbers.filter_map(|number| self.entries.get(number));
        entries.map(|entry| entry.safe.clone()).filter(|safe| !*safe.borrow()).collect()
    }

    /// How much is kept, and since when.
    pub(super) fn kept(&self) -> Kept {
        let oldest = self.entries.values().map(|entry| entry.since.elapsed()).max();
        Kept {
            changes: self.entries.len() as u64,
            bytes: self.sums.iter().map(|sum| sum.bytes).sum(),
            oldest_seconds: oldest.unwrap_or_default().as_secs(),
            is_full: !self.has_room(Account::Person, 0),
            ..Kept::default()
        }
    }

    /// What this session is by what is kept; `None` if the store alone knows.
    pub(super) fn view(&self, alias: &Alias, rules: &Rules) -> Option<View> {
        let mut view = None;
        for number in self.by_alias.get(alias)? {
            let Some(entry) = self.entries.get(number) else { continue };
            match (&entry.record.change, &mut view) {
                (Change::Removal(unlink), view) => {
                    let (id, opened) = (Some(unlink.stamp.id), unlink.opened.is_some());
                    *view = Some(View::Removed { id, opened });
                }
                (Change::Save(save), view) => {
                    if is_shown(&save.publish, view.as_ref()) {
                        *view = Some(entry.saved(save, view.as_ref(), rules));
                    }
                }
                (Change::Amend(amend), Some(View::Saved(saved))) => {
                    saved.meta.version = amend.stamp.id;
                    saved.meta.mode = amend.mode.unwrap_or(saved.meta.mode);
                    match amend.mtime {
                        Some(Mtime::Ns(ns)) => saved.meta.mtime_ns = ns,
                        Some(Mtime::Now) => saved.meta.mtime_ns = ns_of(entry.record.kept_ms),
                        None => {}
                    }
                }
                (Change::Amend(_), _) => {}
            }
        }
        view
    }

    /// Why a save will be refused when it is sent, as far as that is certain.
    pub(super) fn refusal(&self, publish: &Publish, rules: &Rules) -> Option<Refusal> {
        let is_visitor = publish.content.class == Class::Anonymous;
        match self.view(&publish.alias, rules)? {
            View::Removed { id, opened } => {
                let takes_back = id.is_some() && publish.claim.held_removal == id;
                let has_loaded = opened || publish.claim.opened.is_some();
                (!is_visitor && !takes_back && has_loaded).then_some(Refusal::Ended)
            }
            View::Saved(saved) if is_visitor && saved.meta.class == Class::Authenticated => {
                if publish.claim.after_failed_read {
                    Some(Refusal::Unread)
                } else {
                    publish.background.then_some(Refusal::Background)
                }
            }
            View::Saved(_) => None,
        }
    }
}

/// Whether a save is shown before the store has decided on it. One that must not replace a session
/// of somebody who is logged in is not: nobody knows here what it would replace.
fn is_shown(publish: &Publish, view: Option<&View>) -> bool {
    let is_doubtful = publish.content.class == Class::Anonymous
        && (publish.claim.after_failed_read || publish.background);
    let replaces_visitor =
        || matches!(view, Some(View::Saved(saved)) if saved.meta.class == Class::Anonymous);
    !is_doubtful || replaces_visitor()
}

fn take_out(numbers: std::collections::hash_map::Entry<'_, Alias, BTreeSet<u64>>, number: u64) {
    if let std::collections::hash_map::Entry::Occupied(mut numbers) = numbers {
        numbers.get_mut().remove(&number);
        if numbers.get().is_empty() {
            numbers.remove();
        }
    }
}

fn take_out_of_shard(shards: &mut BTreeMap<Shard, BTreeSet<u64>>, shard: Shard, number: u64) {
    if let Some(numbers) = shards.get_mut(&shard) {
        numbers.remove(&number);
        if numbers.is_empty() {
            shards.remove(&shard);
        }
    }
}

impl Entry {
    /// Whether nothing is left of it once its session is removed.
    fn ends_with_its_session(&self) -> bool {
        match &self.record.change {
            Change::Save(save) => save.publish.claim.opened.is_some(),
            Change::Removal(unlink) => unlink.held.is_none(),
            Change::Amend(_) => true,
        }
    }

    /// Whether it is the save that takes this removal back.
    fn takes_back(&self, removal: ChangeId) -> bool {
        let change = &self.record.change;
        matches!(change, Change::Save(save) if save.publish.claim.held_removal == Some(removal))
    }

    /// What the session is by this save; `before`: by what was kept before.
    fn saved(&self, save: &Save, before: Option<&View>, rules: &Rules) -> View {
        let publish = &save.publish;
        let is_removed = matches!(before, Some(View::Removed { .. }));
        // After its end a visitor begins another life.
        let own = (is_removed && publish.content.class == Class::Anonymous)
            .then(|| save.for_birth(publish.stamp.id))
            .flatten();
        let publish = own.as_ref().unwrap_or(publish);
        let idle_ms = rules.idle_ms(&publish.content);
        let unused_ms = u64::try_from(self.used.elapsed().as_millis()).unwrap_or(u64::MAX);
        if unused_ms >= idle_ms {
            return View::Removed { id: None, opened: true };
        }
        let before = match before {
            Some(View::Saved(saved)) => Some(saved),
            _ => None,
        };
        let continues = publish.content.class == Class::Authenticated
            && publish.claim.opened.is_some()
            && publish.claim.held_removal.is_none();
        let saved_ms = match publish.stamp.first_ms {
            0 => self.record.kept_ms,
            first_ms => first_ms,
        };
        let used_after = self.used.saturating_duration_since(self.since);
        let used_after_ms = u64::try_from(used_after.as_millis()).unwrap_or(0);
        View::Saved(Box::new(Saved {
            meta: Meta {
                version: publish.stamp.id,
                birth: publish.birth,
                mtime_ns: ns_of(saved_ms),
                mode: before.map_or(SAVED_MODE, |saved| saved.meta.mode),
                size_bytes: publish.size_bytes,
                class: publish.content.class,
                form: publish.form,
                activity_ms: saved_ms.saturating_add(used_after_ms),
                left_ms: idle_ms - unused_ms,
            },
            bound: publish.bound(),
            sealed: publish.sealed.clone(),
            first_ms: publish.stamp.first_ms,
            // Behind the save that began it here, it goes on with that one.
            continues: before.map_or(continues, |saved| saved.continues),
        }))
    }
}

/// What a save is that is not shown.
pub(super) fn meta_of(save: &Save, kept_ms: u64) -> Meta {
    let publish = &save.publish;
    Meta {
        version: publish.stamp.id,
        birth: publish.birth,
        mtime_ns: ns_of(kept_ms),
        mode: SAVED_MODE,
        size_bytes: publish.size_bytes,
        class: publish.content.class,
        form: publish.form,
        activity_ms: kept_ms,
        left_ms: u64::MAX,
    }
}

fn ns_of(ms: u64) -> i64 {
    i64::try_from(ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX)
}

impl Saved {
    /// Whether it still is what the session is, although the store has this version: `None` is none.
    pub(super) fn holds_against(&self, found: Option<&Meta>) -> bool {
        match found {
            // It ended elsewhere.
            None => !self.continues,
            // The store has it already, or something newer.
            Some(found) => {
                found.version != self.meta.version
                    && (self.first_ms == 0 || found.mtime_ns <= ns_of(self.first_ms))
            }
        }
    }

    /// The answer to a look-up by the session id.
    pub(super) fn lookup(self, most_bytes: usize) -> Lookup {
        let Self { meta, bound, sealed, .. } = self;
        if sealed.len() > most_bytes {
            return Lookup::Large { meta, bound };
        }
        Lookup::Session { meta, bound, sealed }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{alias, is_sealed_for, place, removal, save, sealer};
    use super::*;
    use crate::store::{Amend, Claim};

    const LIMITS: Limits = Limits { changes: 16, bytes: 1600 };

    fn overlay(changes: Vec<Change>) -> Overlay {
        let mut overlay = Overlay::new(LIMITS);
        for change in changes {
            add(&mut overlay, change, Duration::ZERO);
        }
        overlay
    }

    fn add(overlay: &mut Overlay, change: Change, age: Duration) -> u64 {
        let number = overlay.number(5);
        let record = Record { number, kept_ms: 5, place: place(), change };
        let since = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        overlay.put(Arc::new(record), 10, watch::channel(true).1, since, since, None);
        number
    }

    fn kept(publish: Publish) -> Change {
        Change::Save(Box::new(Save::new(publish)))
    }

    fn view(overlay: &Overlay) -> Option<View> {
        overlay.view(&alias(1), &Rules::default())
    }

    /// The version that is shown; `None` if it was removed.
    fn shown(overlay: &Overlay) -> Option<u128> {
        match view(overlay).expect("something is kept") {
            View::Saved(saved) => Some(saved.meta.version.0),
            View::Removed { .. } => None,
        }
    }

    fn refusal(overlay: &Overlay, publish: &Publish) -> Option<Refusal> {
        overlay.refusal(publish, &Rules::default())
    }

    fn sent(overlay: &mut Overlay) -> Sending {
        overlay.send_next(alias(1).shard()).expect("something is kept")
    }

    fn person(id: u128, opened: Option<u128>) -> Publish {
        save(id, Class::Authenticated, opened)
    }

    fn visitor(id: u128, opened: Option<u128>) -> Publish {
        save(id, Class::Anonymous, opened)
    }

    #[test]
    fn the_newest_change_is_shown_until_it_is_settled() {
        let mut overlay = overlay(vec![kept(person(1, Some(9))), kept(person(2, Some(9)))]);
        assert_eq!(shown(&overlay), Some(2));
        let last = add(&mut overlay, Change::Removal(removal(3)), Duration::ZERO);
        assert_eq!(shown(&overlay), None);
        overlay.remove(last);
        assert_eq!(shown(&overlay), Some(2));
        let first = sent(&mut overlay).record;
        assert_eq!(first.change.stamp().id, ChangeId(1));
        overlay.remove(first.number);
        let second = sent(&mut overlay).record;
        overlay.remove(second.number);
        assert!(view(&overlay).is_none() && overlay.is_empty());
        assert_eq!((overlay.kept().bytes, overlay.shards().len()), (0, 0));
    }

    /// The id of what is sent first of these, and how many others need not be sent after that.
    fn first_of(changes: Vec<Change>) -> (u128, usize) {
        let sending = sent(&mut overlay(changes));
        (sending.record.change.stamp().id.0, sending.overtaken.len())
    }

    #[test]
    fn a_removal_does_not_wait_for_what_it_makes_unnecessary() {
        let removed = || Change::Removal(removal(3));
        let page = || kept(person(1, Some(9)));
        assert_eq!(first_of(vec![page(), kept(visitor(2, Some(9))), removed()]), (3, 2));
        let other = crate::store::Unlink { alias: alias(2), ..removal(4) };
        assert_eq!(first_of(vec![page(), Change::Removal(other)]), (4, 0));
        // What is saved after it is another life, or refused.
        assert_eq!(first_of(vec![page(), removed(), kept(visitor(4, None))]), (3, 1));
    }

    #[test]
    fn a_removal_waits_for_what_it_does_not_make_unnecessary() {
        let removed = || Change::Removal(removal(3));
        // A login, of which the store has to know that it has ended.
        assert_eq!(first_of(vec![kept(person(1, None)), removed()]), (1, 0));
        let mut rotation = Publish { alias: alias(2), ..person(1, None) };
        rotation.claim.sibling = Some(alias(1));
        assert_eq!(first_of(vec![kept(rotation), removed()]), (1, 0));
        // One that is taken back.
        let mut back = person(4, Some(9));
        back.claim.held_removal = Some(ChangeId(3));
        assert_eq!(first_of(vec![kept(person(1, Some(9))), removed(), kept(back)]), (1, 0));
        let held = crate::store::Unlink { held: Some(ChangeId(9)), ..removal(3) };
        assert_eq!(first_of(vec![kept(person(1, Some(9))), Change::Removal(held)]), (1, 0));
        // What is on its way.
        let mut overlay = overlay(vec![kept(person(1, Some(9)))]);
        let sending = sent(&mut overlay);
        assert_eq!(overlay.overtaken(&removal(3), u64::MAX), None);
        overlay.not_sent(&sending);
        let overtaken = overlay.overtaken(&removal(3), u64::MAX).unwrap();
        overlay.are_sent(&overtaken, true);
        assert!(overlay.send_next(alias(1).shard()).is_none());
    }

    #[test]
    fn a_save_takes_back_a_removal_that_is_kept() {
        let mut back = person(4, Some(9));
        back.claim.held_removal = Some(ChangeId(3));
        let mut overlay = overlay(vec![Change::Removal(removal(3))]);
        assert!(overlay.taken_back_by(&back).is_some());
        back.claim.held_removal = Some(ChangeId(2));
        assert_eq!(overlay.taken_back_by(&back), None);
        sent(&mut overlay);
        back.claim.held_removal = Some(ChangeId(3));
        assert_eq!(overlay.taken_back_by(&back), None);
    }

    #[test]
    fn a_removal_of_a_listed_name_hides_both_names() {
        let listed = Change::Removal(crate::store::Unlink {
            alias: alias(2),
            listed: Some(alias(1)),
            ..removal(3)
        });
        let overlay = overlay(vec![listed]);
        assert_eq!(shown(&overlay), None);
        assert!(overlay.view(&alias(2), &Rules::default()).is_some());
        assert!(overlay.view(&alias(3), &Rules::default()).is_none());
    }

    #[test]
    fn nothing_that_was_removed_is_revived_but_by_who_takes_it_back() {
        let overlay = overlay(vec![Change::Removal(removal(3))]);
        assert_eq!(refusal(&overlay, &person(4, Some(9))), Some(Refusal::Ended));
        assert_eq!(refusal(&overlay, &person(4, None)), Some(Refusal::Ended));
        let mut taking_back = person(4, Some(9));
        taking_back.claim.held_removal = Some(ChangeId(3));
        assert_eq!(refusal(&overlay, &taking_back), None);
        assert_eq!(refusal(&overlay, &visitor(4, None)), None);
    }

    #[test]
    fn a_visitor_begins_another_life_after_a_removal() {
        let loaded = Publish { sealer: Some(sealer()), ..visitor(4, Some(9)) };
        let overlay = overlay(vec![Change::Removal(removal(3)), kept(loaded)]);
        let Some(View::Saved(saved)) = view(&overlay) else { panic!("not shown") };
        assert_eq!((saved.meta.birth, saved.bound.birth), (ChangeId(4), ChangeId(4)));
        let own = Publish { birth: ChangeId(4), sealed: saved.sealed, ..visitor(4, Some(9)) };
        assert!(is_sealed_for(4, &own));
    }

    #[test]
    fn what_must_not_replace_a_login_is_not_shown_before_redis_has_decided() {
        let mut unread = visitor(4, None);
        unread.claim.after_failed_read = true;
        let websocket = Publish { background: true, ..visitor(5, None) };
        for doubtful in [unread, websocket] {
            assert!(view(&overlay(vec![kept(doubtful.clone())])).is_none());
            let of_person = overlay(vec![kept(person(1, Some(9)))]);
            assert!(refusal(&of_person, &doubtful).is_some());
            let of_visitor = overlay(vec![kept(visitor(1, None)), kept(doubtful.clone())]);
            assert_eq!(shown(&of_visitor), Some(doubtful.stamp.id.0));
        }
    }

    #[test]
    fn what_is_kept_gives_way_to_what_is_newer_in_redis_and_to_an_end_there() {
        let saved = |publish: Publish| match view(&overlay(vec![kept(publish)])) {
            Some(View::Saved(saved)) => saved,
            other => panic!("{other:?}"),
        };
        let page = saved(person(2, Some(9)));
        let found = |mtime_ms, version| {
            Some(Meta {
                version: ChangeId(version),
                mtime_ns: ns_of(mtime_ms),
                ..page.meta.clone()
            })
        };
        assert!(page.holds_against(found(1000, 1).as_ref()));
        assert!(!page.holds_against(found(1001, 1).as_ref()), "newer");
        assert!(!page.holds_against(found(900, 2).as_ref()), "the same");
        assert!(!page.holds_against(None), "ended elsewhere");
        assert!(saved(person(2, None)).holds_against(None), "a login");
        assert!(saved(visitor(2, Some(9))).holds_against(None), "a visitor begins anew");
    }

    #[test]
    fn a_session_that_nobody_uses_ends_although_it_is_kept() {
        let idle = Duration::from_millis(Rules::default().general().idle_ms);
        let mut overlay = Overlay::new(LIMITS);
        add(&mut overlay, kept(person(1, None)), idle);
        // Right after the host was started there may be no such time.
        if overlay.kept().oldest_seconds > 0 {
            assert_eq!(shown(&overlay), None);
        }
        overlay.touch(&alias(1));
        assert_eq!(shown(&overlay), Some(1));
    }

    #[test]
    fn what_another_process_has_kept_is_not_ended_by_the_clock_of_this_host() {
        let mut overlay = Overlay::new(LIMITS);
        let record = |number| Record {
            number,
            kept_ms: 5,
            place: place(),
            change: kept(person(number.into(), Some(9))),
        };
        let long = 2 * Duration::from_millis(Rules::default().general().idle_ms);
        overlay.take_over(Arc::new(record(1)), 10, watch::channel(true).1, long, false);
        assert_eq!(shown(&overlay), Some(1));
        let sending = sent(&mut overlay);
        assert_eq!(sending.unused, None);
        overlay.not_sent(&sending);
        overlay.touch(&alias(1));
        assert!(sent(&mut overlay).unused.is_some());
        let mut overlay = Overlay::new(LIMITS);
        overlay.insert(Arc::new(record(1)), 10, watch::channel(true).1);
        assert!(sent(&mut overlay).unused.is_some());
    }

    #[test]
    fn what_was_served_until_it_was_taken_over_may_have_been_used_until_then() {
        let long = 2 * Duration::from_millis(Rules::default().general().idle_ms);
        let mut overlay = Overlay::new(LIMITS);
        let change = kept(person(1, Some(9)));
        let record = Record { number: 1, kept_ms: 5, place: place(), change };
        overlay.take_over(Arc::new(record), 10, watch::channel(true).1, long, true);
        assert!(sent(&mut overlay).unused.is_some_and(|unused| unused < long));
    }

    #[test]
    fn attributes_are_those_of_the_last_change() {
        let stamp = super::super::record::tests::stamp(7);
        let amend = Amend { stamp, alias: alias(1), mode: Some(0o600), mtime: Some(Mtime::Ns(3)) };
        let overlay = overlay(vec![kept(person(1, None)), Change::Amend(amend)]);
        let Some(View::Saved(saved)) = view(&overlay) else { panic!("not shown") };
        assert_eq!((saved.meta.mode, saved.meta.mtime_ns), (0o600, 3));
        assert_eq!((saved.meta.version, saved.bound.save), (ChangeId(7), ChangeId(1)));
    }

    #[test]
    fn one_content_is_kept_of_many_saves_of_one_life() {
        let mut overlay = overlay(vec![kept(person(1, Some(9)))]);
        assert!(overlay.replaced_by(&person(2, Some(9))).is_some());
        // Another life, another class, the save that begins a life, one that takes a removal back.
        assert_eq!(overlay.replaced_by(&person(2, Some(8))), None);
        assert_eq!(overlay.replaced_by(&visitor(2, Some(9))), None);
        let of_login = self::overlay(vec![kept(person(1, None))]);
        assert_eq!(of_login.replaced_by(&person(2, Some(1))), None);
        let mut back = person(1, Some(9));
        back.claim = Claim { held_removal: Some(ChangeId(3)), ..back.claim };
        assert_eq!(self::overlay(vec![kept(back.clone())]).replaced_by(&back), None);
        // One that is on its way.
        sent(&mut overlay);
        assert_eq!(overlay.replaced_by(&person(2, Some(9))), None);
    }

    #[test]
    fn others_leave_room_for_who_is_logged_in_and_all_for_logouts() {
        let mut overlay = Overlay::new(LIMITS);
        let mut fill = |change: &Change| {
            let mut count = 0;
            while overlay.has_room(Account::of(change), 10) {
                add(&mut overlay, change.clone(), Duration::ZERO);
                count += 1;
            }
            count
        };
        assert_eq!(fill(&kept(visitor(1, None))), 4);
        // A visitor can have opened any number of sessions.
        let of_visitor = crate::store::Unlink { opened: Some(Class::Anonymous), ..removal(1) };
        let unknown = crate::store::Unlink { opened: None, ..removal(1) };
        assert_eq!(fill(&Change::Removal(of_visitor)), 4);
        assert_eq!(fill(&Change::Removal(unknown)), 0);
        assert_eq!(fill(&kept(person(1, None))), 6);
        assert_eq!(fill(&Change::Removal(removal(1))), 2);
        assert!(overlay.kept().is_full);
    }

    #[test]
    fn the_bound_on_bytes_holds_too() {
        let overlay = Overlay::new(LIMITS);
        for (account, most) in [
            (Account::Removal, 1600),
            (Account::Person, 1400),
            (Account::Visitor, 400),
            (Account::Other, 400),
        ] {
            assert!(overlay.has_room(account, most) && !overlay.has_room(account, most + 1));
        }
    }
}
