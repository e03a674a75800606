//! How many sessions live, by class: counted where they are few, else estimated from a sample.
//!
//! Class stands in the header of each session, and an index also holds sessions that have ended and
//! have not been read since. So the live ones of a class are known only from their headers, and to
//! read all of a million each minute would be a load of its own. The shards' sizes are exact and
//! cheap; what share of a shard lives in which class is read from at most [`SAMPLE`] sessions, in
//! shards chosen at random. Ids are random, so the shards are alike.

use std::sync::Arc;

use rand::Rng as _;
use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::listing::PAGE;
use super::requests::page;
use super::scan::Stale;
use super::{Inner, RedisStore};
use crate::session::content::Class;
use crate::session::name::Shard;
use crate::store::StoreError;

/// How many sessions are looked at, at most (and what is left of a page).
pub const SAMPLE: u64 = 2000;
/// How many shards are read at the same time.
const SHARDS_AT_ONCE: usize = 8;

/// How many sessions live, of all servers.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Population {
    pub authenticated: u64,
    pub anonymous: u64,
    /// Every session was looked at; otherwise it is an estimate.
    pub exact: bool,
}

/// What was seen of one shard.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// What its index holds.
    size: u64,
    /// Of those, how many were looked at.
    looked_at: u64,
    authenticated: u64,
    anonymous: u64,
}

impl Population {
    /// From some shards, of indexes that hold `total` in all.
    fn estimate(seen: &[Seen], total: u64) -> Self {
        let exact = seen.iter().map(|shard| shard.looked_at).sum::<u64>() >= total;
        let size: u64 = seen.iter().map(|shard| shard.size).sum();
        let count = |of: fn(&Seen) -> u64| {
            if exact {
                return seen.iter().map(of).sum();
            }
            // Each shard stands for as many as its index holds, the sample for all.
            let among = |shard: &Seen| ratio(shard.size, shard.looked_at) * float(of(shard));
            whole(ratio(total, size) * seen.iter().map(among).sum::<f64>())
        };
        Self {
            authenticated: count(|shard| shard.authenticated),
            anonymous: count(|shard| shard.anonymous),
            exact,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "no count comes near 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

fn ratio(of: u64, to: u64) -> f64 {
    if to == 0 { 0.0 } else { float(of) / float(to) }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a product of counts: never negative, never near 2^64"
)]
fn whole(estimate: f64) -> u64 {
    estimate.round() as u64
}

impl RedisStore {
    /// How many sessions live. Costs up to sixteen round trips for the sizes of the shards and two for each
    /// shard that is looked at; nothing is ended by it.
    pub async fn population(&self) -> Result<Population, StoreError> {
        self.inner.population().await
    }
}

impl Inner {
    pub(super) async fn population(self: &Arc<Self>) -> Result<Population, StoreError> {
        let mut shards = self.sizes_in_use().await?;
        let total = shards.iter().map(|(_, size)| size).sum();
        shards.shuffle(&mut rand::rng());
        let mut seen = Vec::new();
        let mut chosen = shards.into_iter();
        let mut planned = 0;
        let mut looking: JoinSet<Result<Seen, StoreError>> = JoinSet::new();
        loop {
            while looking.len() < SHARDS_AT_ONCE && planned < SAMPLE {
                let Some((shard, size)) = chosen.next() else { break };
                planned += size.min(PAGE as u64);
                let store = Arc::clone(self);
                looking.spawn(async move { store.look_at(shard, size).await });
            }
            match looking.join_next().await {
                Some(Ok(shard)) => seen.push(shard?),
                Some(Err(error)) => return Err(StoreError::Unavailable(error.to_string())),
                None => return Ok(Population::estimate(&seen, total)),
            }
        }
    }
}

impl Inner {
    /// One page of a shard: all of it, or the entries of one of its indexes from a random one on.
    async fn look_at(&self, shard: Shard, size: u64) -> Result<Seen, StoreError> {
        let page = if size <= PAGE as u64 {
            self.page(shard, "-inf", PAGE).await?
        } else {
            let chosen = self.random_place(shard).await?;
            let ask = |index: &String| match &chosen {
                (name, from) if name == index => page(index, "-inf", *from, PAGE),
                _ => page(index, "-inf", 0, 0),
            };
            self.ranked(&[shard], ask).await?.pop().unwrap_or_default()
        };
        let entries: Vec<_> = page.into_iter().filter_map(|(entry, _)| entry).collect();
        let living = if entries.is_empty() {
            Vec::new()
        } else {
            self.living_by(Stale::Stays, shard, &entries).await?.whole()?.living
        };
        let of = |class| {
            let lives = |one: &&super::scan::LiveSession| {
                one.left_ms > 0 && one.header.content.class == class
            };
            living.iter().filter(lives).count() as u64
        };
        Ok(Seen {
            size,
            looked_at: entries.len() as u64,
            authenticated: of(Class::Authenticated),
            anonymous: of(Class::Anonymous),
        })
    }

    /// An index of a shard, and from which entry on a page of it is read. Each entry is as likely.
    async fn random_place(&self, shard: Shard) -> Result<(String, u64), StoreError> {
        let sizes = self.sizes(&[shard]).await?;
        let mut chosen = rand::rng().random_range(0..sizes.iter().sum::<u64>().max(1));
        for (index, size) in self.keys.indexes(shard).into_iter().zip(sizes) {
            if chosen < size {
                return Ok((index, chosen.min(size.saturating_sub(PAGE as u64))));
            }
            chosen -= size;
        }
        Ok((self.keys.index(shard), 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(size: u64, looked_at: u64, authenticated: u64, anonymous: u64) -> Seen {
        Seen { size, looked_at, authenticated, anonymous }
    }

    #[test]
    fn all_that_were_looked_at_are_counted() {
        let all = Population::estimate(&[shard(3, 3, 1, 1), shard(2, 2, 2, 0)], 5);
        assert_eq!(all, Population { authenticated: 3, anonymous: 1, exact: true });
        let none = Population::estimate(&[], 0);
        assert_eq!(none, Population { exact: true, ..Population::default() });
    }

    #[test]
    fn a_sample_stands_for_the_rest() {
        // A fifth of all, one of the shards only in part; a quarter has ended.
        let some = [shard(1000, 250, 125, 62), shard(1000, 1000, 500, 252)];
        let estimate = Population::estimate(&some, 10_000);
        assert_eq!(estimate, Population { authenticated: 5000, anonymous: 2500, exact: false });
    }

    /// `cargo test --lib a_sample_is_near -- --nocapture` prints how near.
    #[test]
    fn a_sample_is_near() {
        // 100,000 sessions in 4096 shards, 30 of 100 of people and 10 of 100 ended.
        let mut rng = rand::rng();
        let mut all = vec![shard(0, 0, 0, 0); 4096];
        for number in 0..100_000_u32 {
            let one = &mut all[rng.random_range(0..4096)];
            one.size += 1;
            one.authenticated += u64::from(number % 10 < 3);
            one.anonymous += u64::from((3..9).contains(&(number % 10)));
        }
        let mut worst: f64 = 0.0;
        for _ in 0..200 {
            all.shuffle(&mut rng);
            let mut looked_at = 0;
            let sample: Vec<Seen> = all
                .iter()
                .take_while(|one| {
                    let more = looked_at < SAMPLE;
                    looked_at += one.size;
                    more
                })
                .map(|one| Seen { looked_at: one.size, ..*one })
                .collect();
            let estimate = Population::estimate(&sample, 100_000);
            for (number, truth) in [(estimate.authenticated, 30_000), (estimate.anonymous, 60_000)]
            {
                worst = worst.max(ratio(number.abs_diff(truth), 100_000));
            }
        }
        println!("200 samples of {SAMPLE}: at most {:.1} % of all sessions off", worst * 100.0);
        // Six standard errors.
        assert!(worst < 0.066, "{worst}");
    }
}
