//! How long something takes, as a histogram: counted without a lock, and read without disturbing
//! those who count.
//!
//! Our own and not the metrics crate's, because its histogram takes a lock for each observation
//! and cannot be read, and the nodes' registrations want quantiles of the last seconds.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// The upper bounds of all buckets but the last, in microseconds: 20 us to 10 s.
const BOUNDS_US: [u64; 18] = [
    20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 5_000_000, 10_000_000,
];
const BUCKETS: usize = BOUNDS_US.len() + 1;
const NS_PER_SECOND: f64 = 1e9;
const US_PER_SECOND: f64 = 1e6;

/// A histogram of times; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latency(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Latency {
    /// Counts one that took `time`.
    pub(crate) fn observe(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // A bound belongs to its bucket ("less or equal").
        let bucket = BOUNDS_US.partition_point(|bound| *bound < micros);
        self.0.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.sum_ns.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub(crate) fn read(&self) -> Counted {
        Counted(self.0.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed)))
    }
}

/// What a histogram held at one moment, or between two.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counted([u64; BUCKETS]);

impl Counted {
    /// What has come since an earlier reading of the same histogram.
    #[must_use]
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].saturating_sub(earlier.0[i])))
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The time in seconds that a share of `q` (0 to 1) stayed below, as exact as a bucket; `None`
    /// if there was none. What is beyond the last bound counts as that bound.
    #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds, for people")]
    pub(crate) fn quantile_seconds(&self, q: f64) -> Option<f64> {
        let rank = q * self.count() as f64;
        let mut below = 0;
        let mut lower_us = 0;
        for (count, upper_us) in self.0.iter().zip(BOUNDS_US) {
            if *count > 0 && (below + count) as f64 >= rank {
                let part = ((rank - below as f64) / *count as f64).clamp(0.0, 1.0);
                let width_us = (upper_us - lower_us) as f64;
                return Some((lower_us as f64 + part * width_us) / US_PER_SECOND);
            }
            below += count;
            lower_us = upper_us;
        }
        (self.count() > 0).then_some(lower_us as f64 / US_PER_SECOND)
    }
}

impl EncodeMetric for Latency {
    #[expect(clippy::cast_precision_loss, reason = "the format has only floating point")]
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        let counted = self.read();
        let bounds = BOUNDS_US.map(|bound| bound as f64 / US_PER_SECOND);
        let bounds = bounds.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counted.0).collect();
        let sum_seconds = self.0.sum_ns.load(Ordering::Relaxed) as f64 / NS_PER_SECOND;
        encoder.encode_histogram::<NoLabelSet>(sum_seconds, counted.count(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_in_its_bucket() {
        let latency = Latency::default();
        assert_eq!(latency.read().quantile_seconds(0.5), None);
        for _ in 0..99 {
            latency.observe(Duration::from_micros(150));
        }
        latency.observe(Duration::from_millis(7));
        let counted = latency.read();
        assert_eq!(counted.count(), 100);
        let median = counted.quantile_seconds(0.5).unwrap();
        assert!((100e-6..=200e-6).contains(&median), "{median}");
        let most = counted.quantile_seconds(1.0).unwrap();
        assert!((5e-3..=10e-3).contains(&most), "{most}");
    }

    #[test]
    fn the_bounds_are_inclusive_and_the_last_bucket_is_open() {
        let latency = Latency::default();
        latency.observe(Duration::from_micros(20));
        latency.observe(Duration::from_secs(3600));
        let counted = latency.read();
        assert_eq!((counted.0[0], counted.0[BUCKETS - 1]), (1, 1));
        assert_eq!(counted.quantile_seconds(1.0), Some(10.0));
    }

    #[test]
    fn only_what_came_since_is_judged() {
        let latency = Latency::default();
        latency.observe(Duration::from_secs(5));
        let earlier = latency.read();
        latency.observe(Duration::from_micros(30));
        let since = latency.read().since(&earlier);
        assert_eq!(since.count(), 1);
        assert!(since.quantile_seconds(0.99).unwrap() < 1e-3);
    }
}
