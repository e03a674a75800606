//! The watch: a thread that ends this process when another one of it is stuck. Then a successor takes over, and does
//! again what was not answered.
//!
//! The keeper asks the mount whether it answers, and any of the threads that read requests answers that. So it does not
//! see that one of them is in a loop or waits for a lock, or that the thread is which carries all conversations with
//! Redis. What only waits for Redis is not stuck.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};

use crate::config;
use crate::exit::Failure;
use crate::fuse::handling::handled;

/// As for the keeper's own question, the bound is counted in looks, and not by the clock: when the whole host was
/// suspended, or this process was stopped, no thread has had the time that the clock says.
const LOOKS: u32 = 10;

/// How long a thread may stand still during a recovery: all callers wait for its end.
const RECOVERING_WITHIN: Duration = Duration::from_secs(3);

/// How long the end may take to be logged.
const LOGGED_WITHIN_SECONDS: u32 = 3;

/// Watches over the threads of `runtime` and those that handle requests, from now on. What is returned is set when the
/// recovery has ended: from then on each has as much time as the mount has for an answer.
pub(super) fn start(
    runtime: &Runtime,
    worker: &config::Worker,
) -> Result<Arc<AtomicBool>, Failure> {
    let runtime = runtime.handle().clone();
    let answer_within = Duration::from_millis(worker.answer_within_ms);
    let has_recovered = Arc::new(AtomicBool::new(false));
    let is_serving = Arc::clone(&has_recovered);
    let watch = move || {
        let mut tasks = Tasks::new(runtime);
        let mut tasks_seen = Seen::default();
        let mut threads_seen = handled().map(|_| Seen::default());
        loop {
            let is_serving = is_serving.load(Ordering::Relaxed);
            let within =
                if is_serving { answer_within } else { answer_within.min(RECOVERING_WITHIN) };
            std::thread::sleep(within / LOOKS);
            if tasks_seen.is_stuck(tasks.unanswered()) {
                end("the thread of the store", within);
            }
            for (seen, handled) in threads_seen.iter_mut().zip(handled()) {
                if seen.is_stuck(handled) {
                    end("a thread that handles requests", within);
                }
            }
        }
    };
    std::thread::Builder::new()
        .name("watch".into())
        .spawn(watch)
        .map(|_| has_recovered)
        .map_err(|e| Failure::internal("start threads", e))
}

/// As after a crash, the requests under way are suspects.
fn end(what: &str, within: Duration) -> ! {
    // The stuck thread may have what a line of the log needs. Then this signal ends the process.
    nix::unistd::alarm::set(LOGGED_WITHIN_SECONDS);
    let within_ms = within.as_millis();
    tracing::error!(within_ms, "{what} is stuck: this worker ends, and another takes its place");
    std::process::abort();
}

/// Asks the runtime whether it carries out tasks.
struct Tasks {
    runtime: Handle,
    asked: u64,
    answered: Arc<AtomicU64>,
}

impl Tasks {
    fn new(runtime: Handle) -> Self {
        Self { runtime, asked: 0, answered: Arc::default() }
    }

    /// The question that is not answered; else another one is asked.
    fn unanswered(&mut self) -> Option<u64> {
        if self.answered.load(Ordering::Relaxed) != self.asked {
            return Some(self.asked);
        }
        self.asked += 1;
        let (asked, answered) = (self.asked, Arc::clone(&self.answered));
        self.runtime.spawn(async move { answered.store(asked, Ordering::Relaxed) });
        None
    }
}

/// What was seen of one thread.
#[derive(Debug, Default)]
struct Seen {
    last: Option<u64>,
    /// How often in a row it was the same.
    looks: u32,
}

impl Seen {
    /// Whether the same thing was seen so often that it does not go on; `None` is nothing to do.
    fn is_stuck(&mut self, now: Option<u64>) -> bool {
        self.looks = if now.is_some() && now == self.last { self.looks + 1 } else { 0 };
        self.last = now;
        self.looks >= LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_not_go_on_is_stuck() {
        let mut seen = Seen::default();
        for number in 0..100 {
            assert!(!seen.is_stuck(Some(number)));
            assert!(!seen.is_stuck(Some(number)));
        }
        for _ in 0..100 {
            assert!(!seen.is_stuck(None));
        }
        assert!(!seen.is_stuck(Some(1)));
        for _ in 1..LOOKS {
            assert!(!seen.is_stuck(Some(1)));
        }
        assert!(seen.is_stuck(Some(1)));
    }

    #[test]
    fn a_runtime_that_is_blocked_does_not_answer() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let mut tasks = Tasks::new(runtime.handle().clone());
        assert_eq!(tasks.unanswered(), None);
        while tasks.unanswered().is_some() {}
        let (unblock, blocked) = std::sync::mpsc::channel::<()>();
        let (began, has_begun) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            began.send(()).unwrap();
            let _ = blocked.recv();
        });
        has_begun.recv().unwrap();
        while tasks.unanswered().is_none() {}
        let unanswered = tasks.unanswered();
        assert!(unanswered.is_some());
        assert_eq!(tasks.unanswered(), unanswered);
        drop(unblock);
        while tasks.unanswered().is_some() {}
    }
}
