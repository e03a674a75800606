//! Removals that wait for the import of their session.
//!
//! Whoever asked for one goes on, and a disk may hang for longer than this process lives. So each is kept for the next
//! worker until it is carried out.

use std::collections::HashSet;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::handoff::{Kept, Kind, moment};
use crate::session::content::Class;
use crate::session::name::Alias;
use crate::store::{ChangeId, Stamp, Unlink};
use crate::sync::lock;

/// How many wait at once.
const MAX_REMOVALS: usize = 1024;

/// The removals, one of a session.
#[derive(Default)]
pub(super) struct Removals {
    waiting: Mutex<HashSet<Alias>>,
    /// The same for the next worker.
    kept: OnceLock<Kept>,
}

/// One as it is kept.
#[derive(Debug, Deserialize, Serialize)]
struct Record {
    id: ChangeId,
    first_ms: u64,
    /// When it was made, if the store's time was not known then.
    #[serde(
        rename = "made_ns",
        default,
        skip_serializing_if = "Option::is_none",
        with = "moment::maybe"
    )]
    made: Option<Instant>,
    alias: String,
    opened: Option<Class>,
}

impl Removals {
    /// Whether one of this session waits.
    pub(super) fn has(&self, alias: &Alias) -> bool {
        lock(&self.waiting).contains(alias)
    }

    /// Has one wait. Whether it is the first of its session; `None` if there are too many.
    pub(super) fn insert(&self, unlink: &Unlink) -> Option<bool> {
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= MAX_REMOVALS {
            return None;
        }
        let is_first = waiting.insert(unlink.alias.clone());
        if is_first && let Some(kept) = self.kept.get() {
            let Unlink { stamp, alias, opened, .. } = unlink;
            let Stamp { id, first_ms, .. } = *stamp;
            let (made, alias) = (stamp.made_untimed(), alias.to_string());
            let record = Record { id, first_ms, made, alias, opened: *opened };
            kept.put_record(Kind::ImportRemoval, number(id), &record);
        }
        Some(is_first)
    }

    /// It was carried out, or is given up.
    pub(super) fn remove(&self, unlink: &Unlink) {
        lock(&self.waiting).remove(&unlink.alias);
        if let Some(kept) = self.kept.get() {
            kept.remove(Kind::ImportRemoval, number(unlink.stamp.id));
        }
    }

    /// It could not be carried out here. The next worker tries it again.
    pub(super) fn give_up(&self, unlink: &Unlink) {
        lock(&self.waiting).remove(&unlink.alias);
    }

    /// Those that the worker before has left. They wait again, and as many are left to the next one.
    pub(super) fn take_up(&self, kept: &Kept) -> Vec<Unlink> {
        let numbers = kept.numbers(Kind::ImportRemoval).into_iter();
        let left: Vec<_> = numbers
            .filter_map(|number| unlink(kept.get_record(Kind::ImportRemoval, number)?))
            .collect();
        lock(&self.waiting).extend(left.iter().map(|unlink| unlink.alias.clone()));
        // There is one already if this worker has served before.
        let _ = self.kept.set(kept.clone());
        left
    }
}

/// A part of an id is as random as the whole.
fn number(id: ChangeId) -> u64 {
    u64::try_from(id.0 & u128::from(u64::MAX)).unwrap_or_default()
}

fn unlink(record: Record) -> Option<Unlink> {
    let Record { id, first_ms, made, alias, opened } = record;
    let stamp = Stamp::left(id, first_ms, made);
    Some(Unlink { stamp, alias: Alias::parse(&alias)?, listed: None, held: None, opened })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff;
    use crate::store::Attempt;

    fn removal(number: usize) -> Unlink {
        let stamp = Stamp::new(ChangeId(number as u128), 7).again();
        let alias = Alias::parse(&format!("ab{number:082}")).expect("an alias");
        let opened = Some(Class::Authenticated);
        Unlink { stamp, alias, listed: None, held: None, opened }
    }

    #[test]
    fn what_waits_is_known_to_the_next_worker_until_it_is_carried_out() {
        let memory = handoff::create().unwrap();
        let next = || {
            let removals = Removals::default();
            let left = removals.take_up(&Kept::open(&memory).unwrap());
            (removals, left)
        };
        let (removals, left) = next();
        assert!(left.is_empty() && !removals.has(&removal(1).alias));
        for number in [1, 2] {
            assert_eq!(removals.insert(&removal(number)), Some(true));
        }
        assert_eq!(removals.insert(&removal(1)), Some(false));
        removals.remove(&removal(2));
        let (removals, left) = next();
        let [left] = &left[..] else { panic!("{left:?}") };
        let Unlink { stamp: Stamp { id, first_ms, attempt, .. }, alias, opened, .. } = left;
        assert_eq!((*id, *first_ms, *attempt), (ChangeId(1), 7, Attempt::Again));
        assert_eq!((alias, *opened), (&removal(1).alias, Some(Class::Authenticated)));
        assert!(removals.has(&removal(1).alias));
        removals.remove(&removal(1));
        assert!(next().1.is_empty());
    }

    #[test]
    fn a_record_is_written_as_the_released_version_has_written_it() {
        let golden = concat!(
            r#"{"id":1,"first_ms":7,"alias":"ab"#,
            "0000000000000000000000000000000000000000000000000000000000000000000000000000000001",
            r#"","opened":"Authenticated"}"#
        );
        let memory = handoff::create().unwrap();
        let kept = Kept::open(&memory).unwrap();
        let removals = Removals::default();
        removals.take_up(&kept);
        removals.insert(&removal(1));
        let bytes = kept.get(Kind::ImportRemoval, 1).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), golden);
    }

    #[test]
    fn few_wait_at_once() {
        let removals = Removals::default();
        for number in 0..MAX_REMOVALS {
            assert!(removals.insert(&removal(number)).is_some());
        }
        assert_eq!(removals.insert(&removal(MAX_REMOVALS)), None);
    }
}
