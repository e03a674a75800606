//! Which threads are handling a request, for the watch over this process: a thread that handles the same one for long
//! is stuck. A request that was handed to a task is not handled by a thread any more, and may take its time.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// More than there are of threads that handle requests.
const THREADS_MAX: usize = 8;

/// How often each thread has begun and ended: odd while it handles a request.
static TURNS: [AtomicU64; THREADS_MAX] = [const { AtomicU64::new(0) }; THREADS_MAX];
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MINE: usize = THREADS.fetch_add(1, Ordering::Relaxed);
}

/// While it lives, this thread handles a request.
#[derive(Debug)]
pub(super) struct Handling {
    /// It belongs to its thread.
    not_send: PhantomData<*const ()>,
}

impl Handling {
    pub(super) fn begin() -> Self {
        turn();
        Self { not_send: PhantomData }
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        turn();
    }
}

fn turn() {
    if let Some(turns) = TURNS.get(MINE.with(|mine| *mine)) {
        turns.fetch_add(1, Ordering::Relaxed);
    }
}

/// What each thread handles, as a number that no other request of that thread has; `None` if it handles none.
pub(crate) fn handled() -> [Option<u64>; THREADS_MAX] {
    TURNS.each_ref().map(|turns| Some(turns.load(Ordering::Relaxed)).filter(|turns| turns % 2 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_seen_while_it_handles_a_request() {
        std::thread::spawn(|| {
            let mine = MINE.with(|mine| *mine);
            // Other tests use the same process: this thread may be one too many.
            let seen = || handled().get(mine).copied().flatten();
            assert_eq!(seen(), None);
            let first = Handling::begin();
            let number = seen();
            assert_eq!(number.is_some(), mine < THREADS_MAX);
            drop(first);
            assert_eq!(seen(), None);
            let _second = Handling::begin();
            assert!(number.is_none() || seen() != number);
        })
        .join()
        .unwrap();
    }
}
