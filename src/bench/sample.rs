//! Durations in bounded memory: a histogram whose buckets are at most 1/128 of their value wide.

use std::time::Duration;

/// Buckets in each doubling of the value.
const STEPS: usize = 128;
/// Doublings above the first, in which every nanosecond has its own bucket.
const DOUBLINGS: usize = 33;
/// The longest duration that is told apart from longer ones: about 18 minutes.
const LONGEST_NS: u64 = (1 << (DOUBLINGS + 8)) - 1;

/// How often which duration was seen.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum_ns: u128,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; (DOUBLINGS + 2) * STEPS], count: 0, sum_ns: 0 }
    }
}

/// The doubling that a value is in, counted from 0 for all below 256.
fn doubling(value: u64) -> u32 {
    value.max(1).ilog2().saturating_sub(7)
}

fn bucket(value_ns: u64) -> usize {
    let value = value_ns.min(LONGEST_NS);
    let doubling = doubling(value);
    doubling as usize * STEPS + (value >> doubling) as usize
}

/// The middle of a bucket.
fn middle(bucket: usize) -> u64 {
    if bucket < 2 * STEPS {
        return bucket as u64;
    }
    let doubling = bucket / STEPS - 1;
    let low = ((bucket - doubling * STEPS) as u64) << doubling;
    low + (1 << doubling) / 2
}

impl Histogram {
    /// Adds one duration.
    pub(crate) fn record(&mut self, duration: Duration) {
        let nanos = duration.as_nanos();
        self.counts[bucket(u64::try_from(nanos).unwrap_or(u64::MAX))] += 1;
        self.count += 1;
        self.sum_ns += nanos;
    }

    /// Adds all that `other` has seen.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.count += other.count;
        self.sum_ns += other.sum_ns;
    }

    /// How many durations it has seen.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The duration that `per_mille` of a thousand do not exceed, in nanoseconds; 0 if it has
    /// seen none.
    pub(crate) fn quantile_ns(&self, per_mille: u64) -> u64 {
        let rank = u128::from(self.count) * u128::from(per_mille);
        let rank = rank.div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                return middle(bucket);
            }
        }
        0
    }

    /// The mean in nanoseconds; 0 if it has seen none.
    #[expect(clippy::cast_precision_loss, reason = "a mean of microseconds needs no 16 digits")]
    pub(crate) fn mean_ns(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum_ns as f64 / self.count as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for &value in values {
            histogram.record(Duration::from_nanos(value));
        }
        histogram
    }

    #[test]
    fn nothing_seen_is_zero() {
        let none = Histogram::default();
        assert_eq!((none.count(), none.quantile_ns(500)), (0, 0));
        assert!(none.mean_ns().abs() < f64::EPSILON);
    }

    #[test]
    fn small_values_are_exact() {
        let histogram = of(&(1..=100).collect::<Vec<_>>());
        assert_eq!(histogram.quantile_ns(500), 50);
        assert_eq!(histogram.quantile_ns(990), 99);
        assert_eq!(histogram.quantile_ns(1000), 100);
        assert!((histogram.mean_ns() - 50.5).abs() < 1e-9);
    }

    #[test]
    fn what_is_too_long_counts_as_the_longest() {
        let histogram = of(&[u64::MAX]);
        assert!(histogram.quantile_ns(500) > LONGEST_NS - LONGEST_NS / 128);
    }

    #[test]
    fn every_bucket_holds_its_own_middle() {
        for index in 0..(DOUBLINGS + 2) * STEPS {
            assert_eq!(bucket(middle(index)), index);
        }
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_a_hundredth(
            mut values in prop::collection::vec(0_u64..1 << 40, 1..300), per_mille in 1_u64..=1000,
        ) {
            let histogram = of(&values);
            values.sort_unstable();
            let rank = (values.len() as u64 * per_mille).div_ceil(1000).max(1);
            let exact = values[usize::try_from(rank).unwrap() - 1];
            prop_assert!(histogram.quantile_ns(per_mille).abs_diff(exact) <= exact / 100);
        }

        #[test]
        fn merged_is_as_if_seen_by_one(
            a in prop::collection::vec(0_u64..1 << 40, 0..50),
            b in prop::collection::vec(0_u64..1 << 40, 1..50),
        ) {
            let mut merged = of(&a);
            merged.merge(&of(&b));
            let whole = of(&[a, b].concat());
            prop_assert_eq!(merged.count(), whole.count());
            prop_assert_eq!(merged.quantile_ns(990), whole.quantile_ns(990));
            prop_assert!((merged.mean_ns() - whole.mean_ns()).abs() < 1e-3);
        }
    }
}
