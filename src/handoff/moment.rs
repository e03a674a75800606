//! A time as one worker keeps it for the next: nanoseconds of the monotonic clock, which all processes of a host share.
//! For fields: `#[serde(with = "moment")]`.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::host::clock::monotonic;

/// The same time by both, so that a time that is read is the one that was written.
static BOTH: LazyLock<(Instant, Duration)> = LazyLock::new(|| (Instant::now(), monotonic()));

pub(crate) fn serialize<S: Serializer>(
    at: &(impl Copy + Into<Instant>),
    to: S,
) -> Result<S::Ok, S::Error> {
    ns_of((*at).into()).serialize(to)
}

/// Fails for a time that this process cannot name.
pub(crate) fn deserialize<'de, T: From<Instant>, D: Deserializer<'de>>(
    from: D,
) -> Result<T, D::Error> {
    let at = instant_of(u64::deserialize(from)?);
    at.map(T::from).ok_or_else(|| serde::de::Error::custom("a time that is none"))
}

fn ns_of(at: Instant) -> u64 {
    let (instant, since_boot) = *BOTH;
    let at = match at.checked_duration_since(instant) {
        Some(later) => since_boot + later,
        None => since_boot.saturating_sub(instant.duration_since(at)),
    };
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

fn instant_of(ns: u64) -> Option<Instant> {
    let (instant, since_boot) = *BOTH;
    let at = Duration::from_nanos(ns);
    match at.checked_sub(since_boot) {
        // Nothing was kept later than now.
        Some(later) => instant.checked_add(later).map(|at| at.min(Instant::now())),
        None => instant.checked_sub(since_boot.saturating_sub(at)),
    }
}

/// The same for a time that there may be.
pub(crate) mod maybe {
    use super::{Deserialize, Deserializer, Instant, Serialize, Serializer, instant_of, ns_of};

    #[expect(clippy::ref_option, reason = "serde asks so")]
    pub(crate) fn serialize<S: Serializer>(
        at: &Option<impl Copy + Into<Instant>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        at.map(|at| ns_of(at.into())).serialize(to)
    }

    pub(crate) fn deserialize<'de, T: From<Instant>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<T>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.and_then(instant_of).map(T::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_it_was_written() {
        let now = Instant::now();
        for age_ns in [0, 1, 999, 1_000_000_007] {
            let Some(at) = now.checked_sub(Duration::from_nanos(age_ns)) else { continue };
            assert_eq!(instant_of(ns_of(at)), Some(at));
        }
        let by_the_clock = u64::try_from(monotonic().as_nanos()).unwrap();
        assert!(ns_of(Instant::now()) >= by_the_clock);
    }

    #[test]
    fn no_time_is_later_than_now() {
        assert!(instant_of(u64::MAX).is_none_or(|at| at <= Instant::now()));
        let soon = ns_of(Instant::now()) + 1_000_000_000_000;
        assert!(instant_of(soon).unwrap() <= Instant::now());
    }
}
