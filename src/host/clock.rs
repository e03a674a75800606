//! The clocks of the system.

use std::time::Duration;

/// Whether a time daemon keeps the clock synchronised, as the kernel sees it; `None` if it does not
/// say.
pub(crate) fn is_synchronised() -> Option<bool> {
    // SAFETY: every field may be zero; with no mode set adjtimex changes nothing.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: adjtimex writes into the structure, which outlives the call.
    let state = unsafe { libc::adjtimex(&raw mut clock) };
    (state >= 0).then_some(clock.status & libc::STA_UNSYNC == 0)
}

/// The time of the monotonic clock, which all processes share and which nobody sets.
pub(crate) fn monotonic() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(Duration::ZERO, Duration::from)
}

/// The same in milliseconds.
pub(crate) fn monotonic_ms() -> u64 {
    monotonic().as_millis().try_into().unwrap_or(u64::MAX)
}
