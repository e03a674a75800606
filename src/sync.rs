//! How locks are taken, and which tasks a worker can do without.

use std::cell::Cell;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lock whose holder panicked is still taken: what locks guard here is valid between any two
/// statements, and one failed request must not fail all later ones.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    static IS_OPTIONAL: Cell<bool> = const { Cell::new(false) };
}

/// Carries out what a worker can do without. A panic in it ends the task that it is in, and not the process.
pub(crate) async fn optional<F: Future>(work: F) -> F::Output {
    struct Marked(bool);
    impl Drop for Marked {
        fn drop(&mut self) {
            IS_OPTIONAL.set(self.0);
        }
    }
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        let _marked = Marked(IS_OPTIONAL.replace(true));
        work.as_mut().poll(context)
    })
    .await
}

/// Whether this thread carries out such work just now.
pub(crate) fn is_optional() -> bool {
    IS_OPTIONAL.get()
}
