//! How locks are taken.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lock whose holder panicked is still taken: what locks guard here is valid between any two
/// statements, and one failed request must not fail all later ones.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
