//! What is known of each server, as the next worker finds it: its clock ([`super::clock`]) and its outages
//! ([`super::link`]).
//!
//! A server of a Cluster is found by its id, or by that of a replica which has taken its place since.

use sha2::{Digest as _, Sha256};

use super::clock::Seen;
use super::link::Budgets;
use crate::handoff::{Kept, Kind};

/// By which a server is found. The first one is its own.
#[derive(Clone, Debug)]
pub(super) enum Names {
    /// It is the only one.
    Only,
    /// The ids of its group in a Cluster, its own first.
    Ids(Vec<String>),
    /// It stands for those that are not known yet, or that there are none of.
    Nobody,
}

/// Where what is known of one server is kept.
#[derive(Debug)]
pub(super) struct Place {
    kept: Kept,
    number: u64,
}

const ONLY: u64 = 0;
const NOBODY: u64 = 1;

impl Names {
    fn numbers(&self) -> Vec<u64> {
        match self {
            Self::Only => vec![ONLY],
            Self::Ids(ids) => ids.iter().map(|id| number(id)).collect(),
            Self::Nobody => vec![NOBODY],
        }
    }

    /// Its place, and what was kept of its clock.
    pub(super) fn clock(&self, kept: &Kept) -> (Place, Option<Seen>) {
        (self.place(kept), self.taken(kept, Kind::Clock))
    }

    /// Its place, and what was kept of its outages.
    pub(super) fn outages(&self, kept: &Kept) -> (Place, Option<Budgets>) {
        let known = self.taken(kept, Kind::Outage);
        let known = match self {
            Self::Nobody => known.or_else(|| of_all(kept)),
            Self::Only | Self::Ids(_) => known,
        };
        (self.place(kept), known)
    }

    fn place(&self, kept: &Kept) -> Place {
        Place { kept: kept.clone(), number: self.numbers().first().copied().unwrap_or(NOBODY) }
    }

    /// What is kept under the first name that is known. The others stand for the same server, and nothing stays there.
    fn taken<T: serde::de::DeserializeOwned>(&self, kept: &Kept, kind: Kind) -> Option<T> {
        let numbers = self.numbers();
        let found = numbers.iter().find_map(|number| kept.get_record(kind, *number));
        for former in numbers.iter().skip(1) {
            kept.remove(kind, *former);
        }
        found
    }
}

impl Place {
    pub(super) fn put_clock(&self, seen: &Seen) {
        self.kept.put_record(Kind::Clock, self.number, seen);
    }

    pub(super) fn put_outages(&self, budgets: &Budgets) {
        self.kept.put_record(Kind::Outage, self.number, budgets);
    }
}

/// The servers are known: nobody stands for all of them.
pub(super) fn are_known(kept: &Kept) {
    kept.remove(Kind::Outage, NOBODY);
}

/// The outage of a whole Cluster: that of the server which was lost last, if none could be read.
fn of_all(kept: &Kept) -> Option<Budgets> {
    let each = kept.numbers(Kind::Outage).into_iter();
    let each: Vec<Budgets> =
        each.filter_map(|number| kept.get_record(Kind::Outage, number)).collect();
    let first_read = each.iter().any(|budgets| budgets.unreadable_since().is_none());
    each.into_iter().filter(|_| !first_read).max_by_key(Budgets::unreadable_since)
}

fn number(id: &str) -> u64 {
    let hash = Sha256::digest(id);
    hash.first_chunk().map_or(NOBODY, |start| u64::from_le_bytes(*start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff;

    fn kept() -> Kept {
        Kept::open(handoff::create().unwrap()).unwrap()
    }

    fn ids(ids: &[&str]) -> Names {
        Names::Ids(ids.iter().map(|id| (*id).to_owned()).collect())
    }

    /// Of a server that could not be read since then, or was just read.
    fn budgets(since_ns: Option<u64>) -> Budgets {
        let spent = serde_json::json!({"secs": 0, "nanos": 0});
        let budget = serde_json::json!({
            "since_ns": since_ns, "spent": spent, "ended_ns": null, "lasted": spent
        });
        let both = serde_json::json!({"unreadable": budget, "unwritable": budget});
        serde_json::from_value(both).unwrap()
    }

    #[test]
    fn a_server_is_found_by_its_id_and_a_promoted_replica_by_that_of_its_primary() {
        let kept = kept();
        let (place, known) = ids(&["a", "b"]).outages(&kept);
        assert_eq!(known, None);
        place.put_outages(&budgets(Some(5)));
        assert_eq!(ids(&["c", "d"]).outages(&kept).1, None);
        let (place, known) = ids(&["b", "a"]).outages(&kept);
        assert_eq!(known, Some(budgets(Some(5))));
        // From now on it is the primary's own; the other one may come back as another's replica.
        place.put_outages(&budgets(Some(6)));
        assert_eq!(ids(&["a"]).outages(&kept).1, None);
        assert_eq!(ids(&["b", "a"]).outages(&kept).1, Some(budgets(Some(6))));
        assert_eq!(Names::Only.outages(&kept).1, None);
    }

    #[test]
    fn before_a_cluster_is_known_its_outage_is_that_of_all_its_servers() {
        let kept = kept();
        assert_eq!(Names::Nobody.outages(&kept).1, None);
        ids(&["a"]).outages(&kept).0.put_outages(&budgets(Some(5)));
        ids(&["b"]).outages(&kept).0.put_outages(&budgets(Some(7)));
        let (place, known) = Names::Nobody.outages(&kept);
        assert_eq!(known, Some(budgets(Some(7))));
        ids(&["b"]).outages(&kept).0.put_outages(&budgets(None));
        assert_eq!(Names::Nobody.outages(&kept).1, None);
        // A worker that has found none of them knows better.
        place.put_outages(&budgets(Some(9)));
        assert_eq!(Names::Nobody.outages(&kept).1, Some(budgets(Some(9))));
        are_known(&kept);
        assert_eq!(Names::Nobody.outages(&kept).1, None);
    }
}
