//! What the BPF program has counted, as its maps hold it: words of 64 bits.

use super::histogram::{BUCKETS, Histogram};

/// `PATH_BYTES` of `bpf/observe.bpf.c`.
pub(crate) const PATH_BYTES: usize = 96;
/// `SLOWEST`: how many of the slowest calls are kept.
pub(crate) const SLOWEST: usize = 10;
/// Words of `struct operation`.
pub(crate) const OPERATION_WORDS: usize = 5 + BUCKETS;
/// Words of `struct route`.
pub(crate) const ROUTE_WORDS: usize = 4;
/// Words of `struct slow`.
pub(crate) const SLOW_WORDS: usize = 4 + PATH_BYTES / 8;
/// Words of `struct slowest`, which has room behind the slowest.
pub(crate) const SLOWEST_WORDS: usize = 16 * SLOW_WORDS;

/// The calls of one operation.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Operations {
    pub calls: u64,
    /// Those that returned an error.
    pub failed: u64,
    pub sum_ns: u64,
    pub max_ns: u64,
    /// Those that were known by a path, and not by a descriptor.
    pub by_path: u64,
    pub histogram: Histogram,
}

impl Operations {
    /// Adds what one CPU has counted.
    pub(crate) fn add(&mut self, words: &[u64; OPERATION_WORDS]) {
        self.calls += words[0];
        self.failed += words[1];
        self.sum_ns += words[2];
        self.max_ns = self.max_ns.max(words[3]);
        self.by_path += words[4];
        for (mine, theirs) in self.histogram.0.iter_mut().zip(&words[5..]) {
            *mine += theirs;
        }
    }
}

/// What threads have done while they served one path, or all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Sums {
    pub requests: u64,
    /// From the first byte of a request to the last of its answer.
    pub requests_ns: u64,
    /// Calls on the session directory.
    pub calls: u64,
    pub calls_ns: u64,
}

impl Sums {
    pub(crate) fn from_words(words: &[u64; ROUTE_WORDS]) -> Self {
        let [requests, requests_ns, calls, calls_ns] = *words;
        Self { requests, requests_ns, calls, calls_ns }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.requests_ns += other.requests_ns;
        self.calls += other.calls;
        self.calls_ns += other.calls_ns;
    }

    /// What is left of these when the others are taken away.
    pub(crate) fn without(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(other.requests),
            requests_ns: self.requests_ns.saturating_sub(other.requests_ns),
            calls: self.calls.saturating_sub(other.calls),
            calls_ns: self.calls_ns.saturating_sub(other.calls_ns),
        }
    }
}

/// Whom a call is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Served {
    /// The request with this path, of which the end may be missing (`is_cut`).
    Request { path: String, is_cut: bool },
    /// Some request of an evented process.
    Evented,
    /// None: a thread of its own, or before its first request.
    Nobody,
}

impl Served {
    /// From a path of the program. It ends at the first zero.
    pub(crate) fn from_bytes(bytes: &[u8; PATH_BYTES]) -> Self {
        let end = bytes.iter().position(|byte| *byte == 0);
        let text = &bytes[..end.unwrap_or(PATH_BYTES)];
        match text.first() {
            None => Self::Nobody,
            Some(b'/') => Self::Request {
                path: String::from_utf8_lossy(text).into_owned(),
                is_cut: end.is_none(),
            },
            Some(_) => Self::Evented,
        }
    }
}

/// One slow call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Slow {
    pub duration_ns: u64,
    /// On the monotonic clock.
    pub ended_ns: u64,
    /// Its number in the table.
    pub operation: usize,
    /// What it returned; an error is negative.
    pub result: i64,
    pub served: Served,
}

impl Slow {
    /// All that one CPU has kept.
    pub(crate) fn all(words: &[u64; SLOWEST_WORDS]) -> impl Iterator<Item = Self> {
        let (calls, _) = words.as_chunks::<SLOW_WORDS>();
        calls.iter().take(SLOWEST).filter(|call| call[0] > 0).map(|call| {
            let mut path = [0; PATH_BYTES];
            for (bytes, word) in path.chunks_exact_mut(8).zip(&call[4..]) {
                bytes.copy_from_slice(&word.to_ne_bytes());
            }
            Self {
                duration_ns: call[0],
                ended_ns: call[1],
                operation: usize::try_from(call[2]).unwrap_or(usize::MAX),
                result: call[3].cast_signed(),
                served: Served::from_bytes(&path),
            }
        })
    }
}

/// Everything that was counted so far.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Snapshot {
    /// In the order of the numbers of the table.
    pub operations: Vec<Operations>,
    pub routes: Vec<(Served, Sums)>,
    /// Everything, also the routes that had to make room for others.
    pub total: Sums,
    pub slowest: Vec<Slow>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &[u8]) -> [u8; PATH_BYTES] {
        let mut bytes = [0; PATH_BYTES];
        bytes[..text.len()].copy_from_slice(text);
        bytes
    }

    #[test]
    fn whom_a_call_is_for_is_told_by_its_path() {
        let request = |path: &str, is_cut| Served::Request { path: path.to_owned(), is_cut };
        assert_eq!(Served::from_bytes(&bytes(b"/web")), request("/web", false));
        assert_eq!(Served::from_bytes(&bytes(b"\x02")), Served::Evented);
        assert_eq!(Served::from_bytes(&bytes(b"")), Served::Nobody);
        assert_eq!(Served::from_bytes(&[b'/'; PATH_BYTES]), request(&"/".repeat(96), true));
    }

    #[test]
    fn slow_calls_are_read_and_empty_places_are_none() {
        let mut words = [0; SLOWEST_WORDS];
        words[..4].copy_from_slice(&[7, 9, 1, (-2_i64).cast_unsigned()]);
        words[4] = u64::from_ne_bytes(*b"/web\0\0\0\0");
        let slow: Vec<Slow> = Slow::all(&words).collect();
        let served = Served::Request { path: "/web".to_owned(), is_cut: false };
        assert_eq!(slow, [Slow { duration_ns: 7, ended_ns: 9, operation: 1, result: -2, served }]);
    }

    #[test]
    fn what_cpus_have_counted_is_added() {
        let mut words = [0; OPERATION_WORDS];
        words[..7].copy_from_slice(&[2, 1, 30, 20, 1, 0, 2]);
        let mut sum = Operations::default();
        sum.add(&words);
        words[3] = 10;
        sum.add(&words);
        assert_eq!((sum.calls, sum.failed, sum.sum_ns, sum.max_ns), (4, 2, 60, 20));
        assert_eq!(sum.by_path, 2);
        assert_eq!(sum.histogram.0[1], 4);
    }
}
