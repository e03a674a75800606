//! Durations as the BPF program counts them: four buckets in each doubling of the value.

/// `BUCKETS` of `bpf/observe.bpf.c`.
pub(crate) const BUCKETS: usize = 160;

/// How often which duration was seen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Histogram(pub [u64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Histogram {
    /// The duration that `per_mille` of a thousand do not exceed, in nanoseconds, to an eighth of its value; 0 if there is none.
    pub(crate) fn quantile_ns(&self, per_mille: u64) -> u64 {
        let count: u128 = self.0.iter().copied().map(u128::from).sum();
        let rank = (count * u128::from(per_mille)).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.0.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                return middle(bucket);
            }
        }
        0
    }
}

/// The middle of a bucket; the first four hold one nanosecond each.
fn middle(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64;
    }
    let width_bits = bucket / 4 - 1;
    let low = (4 + bucket as u64 % 4) << width_bits;
    low + (1_u64 << width_bits) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the program finds it.
    fn bucket(ns: u64) -> usize {
        let doubling = ns.max(1).ilog2();
        let bucket = if doubling < 2 {
            ns
        } else {
            4 * u64::from(doubling - 1) + (ns >> (doubling - 2) & 3)
        };
        usize::try_from(bucket).unwrap()
    }

    #[test]
    fn every_bucket_holds_its_own_middle() {
        for index in 0..BUCKETS {
            assert_eq!(bucket(middle(index)), index);
        }
    }

    #[test]
    fn a_quantile_is_within_an_eighth() {
        let mut histogram = Histogram::default();
        let values: Vec<u64> = (1..2000).map(|n: u64| n * n * n).collect();
        for value in &values {
            histogram.0[bucket(*value)] += 1;
        }
        for per_mille in [1, 500, 950, 990, 1000] {
            let rank = (values.len() as u64 * per_mille).div_ceil(1000).max(1);
            let exact = values[usize::try_from(rank).unwrap() - 1];
            let found = histogram.quantile_ns(per_mille);
            assert!(found.abs_diff(exact) <= exact / 8, "{per_mille}: {found} is not {exact}");
        }
        assert_eq!(Histogram::default().quantile_ns(500), 0);
    }
}
