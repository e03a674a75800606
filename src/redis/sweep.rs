//! The sweep: the sessions of people that nobody uses any more are ended soon after their time, and not only when somebody
//! asks for them. So each end is written while it is still known whose session it was.
//!
//! A shard's indexes are sorted by last use. What can be over by its idle time has a score that is that long ago, so only
//! what has passed that line since the last look is looked at: the cost follows the ends, not the number of sessions. Where
//! rules give other idle times, some neighbouring ones are read together, and what has passed none of their lines is left
//! out here: so the number of reads does not follow that of the rules.
//! An absolute lifetime is no line in the index: all people's sessions of a shard are looked at when the first of them
//! can meet it, and not before. The visitors' ones are passed over by their marks: nobody asks for their ends.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use super::index::{Entry, mark, user_mark};
use super::listing::PAGE;
use super::outbox::whole;
use super::primary::Primary;
use super::requests::between;
use super::scan::{Members, Stale};
use super::scripts::ClockView;
use crate::session::name::Shard;
use crate::session::policy::rule::Setting;
use crate::session::policy::rules::Rules;
use crate::store::{Health, StoreError};

/// How often some of them are.
pub(super) const STEP: Duration = Duration::from_secs(1);
/// How many entries one step judges, at most: some 5 us of Redis's time each.
const JUDGED_AT_ONCE: usize = 1000;
/// How many entries one step reads, at most, to find them.
const READ_AT_ONCE: usize = 4000;
/// How many of one index the first look takes. Where there are more, all of the shard is looked at.
const FEW: usize = 50;
/// The same, of a band of several idle times: most of them have passed none of their lines.
const FEW_OF_BAND: usize = 1000;
/// How many reads of an index a look takes, at most.
const BANDS_MAX: usize = 4;

/// Which lifetimes may apply to somebody's session.
struct Spans {
    /// Idle times, from the shortest to the longest.
    bands: Vec<Band>,
    /// The shortest absolute one.
    absolute_ms: Option<u64>,
}

impl Spans {
    fn of(rules: &Rules) -> Self {
        let general = rules.general();
        let of_rules = |setting| {
            rules
                .all()
                .iter()
                .filter(move |rule| rule.setting == setting)
                .filter_map(|rule| rule.ms)
        };
        let mut idle_ms: Vec<u64> = of_rules(Setting::Idle).chain([general.idle_ms]).collect();
        idle_ms.sort_unstable();
        idle_ms.dedup();
        let absolute_ms = of_rules(Setting::Absolute).chain(general.absolute_ms).min();
        Self { bands: Band::of(&idle_ms), absolute_ms }
    }
}

/// Idle times that are looked for with one read: at least one, from the shortest to the longest.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Band(Vec<u64>);

impl Band {
    /// Idle times, each once, from the shortest to the longest. They are divided where most lies between two of them.
    fn of(idle_ms: &[u64]) -> Vec<Self> {
        let mut cuts: Vec<usize> = (1..idle_ms.len()).collect();
        cuts.sort_by_key(|at| Reverse(idle_ms[*at] - idle_ms[*at - 1]));
        cuts.truncate(BANDS_MAX - 1);
        cuts.sort_unstable();
        let begins = [0].into_iter().chain(cuts.iter().copied());
        let ends = cuts.iter().copied().chain([idle_ms.len()]);
        begins.zip(ends).map(|(from, to)| Self(idle_ms[from..to].to_vec())).collect()
    }

    /// The scores of all that can have passed a line of it between these times.
    fn scores(&self, since_ms: u64, now_ms: u64) -> (u64, u64) {
        let of = |idle_ms: Option<&u64>, at_ms: u64| at_ms.saturating_sub(*idle_ms.unwrap_or(&0));
        (of(self.0.last(), since_ms), of(self.0.first(), now_ms))
    }

    /// How many entries of these scores are few.
    fn few(&self) -> usize {
        if self.0.len() == 1 { FEW } else { FEW_OF_BAND }
    }

    /// Whether what was used last at that time has passed a line of it between these times.
    fn is_passed(&self, used_ms: u64, since_ms: u64, now_ms: u64) -> bool {
        let line_ms = |idle_ms: &u64| used_ms.saturating_add(*idle_ms);
        let next = self.0.partition_point(|idle_ms| line_ms(idle_ms) < since_ms);
        self.0.get(next).is_some_and(|idle_ms| line_ms(idle_ms) <= now_ms)
    }
}

/// What was looked at, and when.
#[derive(Default)]
pub(super) struct Sweep {
    /// By these all is judged; others begin anew.
    rules: Option<Arc<Rules>>,
    shards: Vec<Looked>,
    next: usize,
}

#[derive(Clone)]
struct Looked {
    shard: Shard,
    /// When the last look was; 0: there was none.
    at_ms: u64,
    /// When all of it is to be looked at, whatever the scores.
    whole_at_ms: u64,
    /// Something was over and did not end.
    is_late: bool,
}

/// What a look at a shard has found.
struct Whole {
    read: usize,
    judged: usize,
    next_ms: u64,
}

impl Sweep {
    /// Has all shards looked at anew, if other lifetimes hold than in the step before.
    fn begin(&mut self, rules: &Arc<Rules>) {
        if self.rules.as_ref() != Some(rules) {
            // Without an absolute lifetime the lines say all.
            let whole_at_ms = Spans::of(rules).absolute_ms.map_or(u64::MAX, |_| 0);
            let looked = |shard| Looked { shard, at_ms: 0, whole_at_ms, is_late: false };
            *self = Self {
                rules: Some(Arc::clone(rules)),
                shards: Shard::all().map(looked).collect(),
                // Or who changes them again and again would keep it from the last shards.
                next: self.next,
            };
        }
    }

    /// Which shards are looked at in this step.
    fn turn(&mut self, round: Duration) -> std::ops::Range<usize> {
        let steps = usize::try_from(round.as_millis() / STEP.as_millis()).unwrap_or(1).max(1);
        let count = self.shards.len().div_ceil(steps);
        let from = if self.next >= self.shards.len() { 0 } else { self.next };
        let to = (from + count).min(self.shards.len());
        self.next = to;
        from..to
    }
}

/// Whether an entry may be that of somebody who is logged in. The long index has no marks.
fn may_be_a_persons(entry: &Entry) -> bool {
    entry.marks.is_none_or(|[user, login]| user / 2 != user_mark("-") || login != mark("-"))
}

impl Inner {
    /// Why nothing is ended now, if so: Redis takes no changes, or its clock is not believed.
    pub(super) fn why_nothing_ends(&self) -> Option<&'static str> {
        let idle_ms = self.live.judged().rules.general().idle_ms;
        let is_jumped = |primary: &Arc<Primary>| match self.policy(primary).clock {
            ClockView::NotJudged => true,
            // Sessions with a longer idle time are judged later.
            ClockView::Jumped { ago_ms, .. } => ago_ms < idle_ms,
            ClockView::Unknown | ClockView::Expected(_) => false,
        };
        match self.primaries.health(None) {
            Health::Up if self.primaries.all().iter().any(is_jumped) => {
                Some("the clock of Redis has jumped")
            }
            Health::Up => None,
            Health::ReadOnly => Some("Redis accepts no writes"),
            Health::Degraded | Health::Down => Some("Redis does not answer"),
        }
    }

    /// Whether something may be ended now.
    fn may_sweep(&self) -> bool {
        let all = self.primaries.all();
        self.why_nothing_ends().is_none()
            && !all.is_empty()
            && all.iter().all(|primary| primary.time.now_ms() > 0)
    }

    /// One step of it. Returns the shards that it was about, and why some of them could not be looked at.
    pub(super) async fn sweep(&self, sweep: &mut Sweep) -> (Vec<Shard>, Result<(), StoreError>) {
        let rules = self.live.judged().rules;
        sweep.begin(&rules);
        let turn = sweep.turn(Duration::from_millis(self.settings.trail_round_ms));
        let shards: Vec<Shard> =
            sweep.shards[turn.clone()].iter().map(|looked| looked.shard).collect();
        // What has passed the line meanwhile is looked at in the next round.
        let swept = if self.may_sweep() {
            self.look_over(&mut sweep.shards[turn], &rules).await
        } else {
            Ok(())
        };
        (shards, swept)
    }

    /// Looks at these shards. One that cannot be had, since its slot is being moved, keeps no other from it.
    async fn look_over(&self, shards: &mut [Looked], rules: &Rules) -> Result<(), StoreError> {
        let now_ms = self.now_of_servers_ms();
        let mut failed = None;
        let mut judged = self.look_at_ends(shards, &Spans::of(rules), now_ms, &mut failed).await?;
        let mut read = 0;
        for looked in shards.iter_mut().filter(|looked| looked.whole_at_ms <= now_ms) {
            if read >= READ_AT_ONCE || judged >= JUDGED_AT_ONCE {
                break;
            }
            match self.look_at_all(looked.shard, rules, now_ms).await {
                Ok(whole) => {
                    read += whole.read;
                    judged += whole.judged;
                    looked.whole_at_ms = whole.next_ms;
                }
                Err(error) => self.pass_over(error, &mut failed)?,
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Keeps an error of one shard, if the others can be had all the same.
    fn pass_over(
        &self,
        error: StoreError,
        failed: &mut Option<StoreError>,
    ) -> Result<(), StoreError> {
        if self.primaries.health(None) > Health::ReadOnly {
            return Err(error);
        }
        *failed = Some(error);
        Ok(())
    }

    /// Judges what has passed the line of an idle time since the last look. Returns how many that were.
    async fn look_at_ends(
        &self,
        shards: &mut [Looked],
        spans: &Spans,
        now_ms: u64,
        failed: &mut Option<StoreError>,
    ) -> Result<usize, StoreError> {
        let since_ms = shards.iter().map(|looked| looked.at_ms).min().unwrap_or(0);
        let named: Vec<Shard> = shards.iter().map(|looked| looked.shard).collect();
        let mut judged = 0;
        for band in &spans.bands {
            let (from, to) = band.scores(since_ms, now_ms);
            let few = band.few();
            let found = self.ranked(&named, |index| between(index, from, to, few)).await?;
            for (looked, found) in shards.iter_mut().zip(found) {
                if found.len() >= few || judged >= JUDGED_AT_ONCE {
                    looked.whole_at_ms = now_ms;
                    continue;
                }
                let due: Vec<Entry> = found
                    .into_iter()
                    .filter(|(_, score)| band.is_passed(whole(*score), since_ms, now_ms))
                    .filter_map(|(entry, _)| entry.filter(may_be_a_persons))
                    .collect();
                if due.is_empty() {
                    continue;
                }
                judged += due.len();
                let found = self.living_by(Stale::Ends, looked.shard, &due).await;
                match found.and_then(Members::whole) {
                    Ok(found) => {
                        looked.is_late |= found.living.iter().any(|living| living.left_ms == 0);
                    }
                    Err(error) => {
                        looked.is_late = true;
                        self.pass_over(error, failed)?;
                    }
                }
            }
        }
        for looked in shards {
            // What is over and lives, since its use may not have been written down, is looked at once more, and so is what
            // could not be had.
            if !std::mem::take(&mut looked.is_late) {
                looked.at_ms = now_ms;
            }
        }
        Ok(judged)
    }

    /// Judges every session of people in a shard, and says when that is due again.
    async fn look_at_all(
        &self,
        shard: Shard,
        rules: &Rules,
        now_ms: u64,
    ) -> Result<Whole, StoreError> {
        let members = self.members(shard).await?;
        let read = members.len();
        let people: Vec<Entry> = members.into_iter().filter(may_be_a_persons).collect();
        // Whoever logs in from now on does not meet it before this.
        let mut next_ms =
            Spans::of(rules).absolute_ms.map_or(u64::MAX, |span_ms| now_ms.saturating_add(span_ms));
        for entries in people.chunks(PAGE) {
            let living = self.living_by(Stale::Ends, shard, entries).await?.whole()?.living;
            let ends = living.iter().filter_map(|living| {
                let absolute_ms = rules.of(&living.header.content).absolute_ms;
                absolute_ms.map(|span_ms| living.header.login_ms.saturating_add(span_ms))
            });
            let late = living.iter().filter(|living| living.left_ms == 0).map(|_| now_ms);
            next_ms = ends.chain(late).chain([next_ms]).min().unwrap_or(next_ms);
        }
        // One that is over and lives (its removal is held) is looked at in the next round.
        Ok(Whole { read, judged: people.len(), next_ms: next_ms.max(now_ms + 1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::index::Marks;
    use crate::session::name::Alias;

    #[test]
    fn each_shard_is_looked_at_in_a_round() {
        const ROUND: Duration = Duration::from_secs(45);
        let mut sweep = Sweep::default();
        sweep.begin(&Arc::default());
        let steps = ROUND.as_secs() / STEP.as_secs();
        let mut looked: Vec<usize> = (0..steps).flat_map(|_| sweep.turn(ROUND)).collect();
        looked.sort_unstable();
        looked.dedup();
        assert_eq!(looked.len(), sweep.shards.len());
        assert_eq!(sweep.turn(ROUND).start, 0);
    }

    #[test]
    fn neighbouring_idle_times_are_read_together_and_what_has_passed_none_is_left_out() {
        let bands = |idle_ms: &[u64]| -> Vec<Vec<u64>> {
            Band::of(idle_ms).into_iter().map(|band| band.0).collect()
        };
        assert_eq!(bands(&[5]), [[5]]);
        assert_eq!(bands(&[1, 2, 3, 4]), [[1], [2], [3], [4]]);
        let found = bands(&[10, 11, 12, 50, 51, 200, 900, 902]);
        assert_eq!(found, [vec![10, 11, 12], vec![50, 51], vec![200], vec![900, 902]]);
        assert!(bands(&(1..=200).collect::<Vec<_>>()).len() <= BANDS_MAX);
        // What each line lets pass is what it would alone.
        let idle_ms = [10, 13, 20];
        let (band, since_ms, now_ms) = (Band(idle_ms.to_vec()), 100, 102);
        let (from, to) = band.scores(since_ms, now_ms);
        for used_ms in 0..now_ms {
            let is_passed = idle_ms.iter().any(|ms| (since_ms..=now_ms).contains(&(used_ms + ms)));
            assert_eq!(band.is_passed(used_ms, since_ms, now_ms), is_passed, "{used_ms}");
            assert!(!is_passed || (from..=to).contains(&used_ms), "{used_ms}");
        }
    }

    #[test]
    fn visitors_are_passed_over() {
        let entry =
            |marks: Option<Marks>| Entry { alias: Alias::parse(&"ab".repeat(20)).unwrap(), marks };
        let nobody = user_mark("-") * 2;
        assert!(!may_be_a_persons(&entry(Some([nobody, mark("-")]))));
        assert!(!may_be_a_persons(&entry(Some([nobody + 1, mark("-")]))));
        assert!(may_be_a_persons(&entry(Some([user_mark("7") * 2, mark("anna")]))));
        assert!(may_be_a_persons(&entry(None)));
    }
}
