//! The one place that replies, logs and counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fuser::Errno;
use tokio::runtime::Handle;

use crate::error::{Error, Level, Result};
use crate::fs::Step;

/// Answers requests.
#[derive(Clone)]
pub struct Answerer {
    runtime: Handle,
    counts: Arc<Counts>,
}

/// How many requests were answered.
#[derive(Debug, Default)]
pub struct Counts {
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Answerer {
    /// What needs the store is run on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Self { runtime, counts: Arc::default() }
    }

    /// Answers `operation` by `send`, now or when its work is done. The work is never dropped
    /// half-way: a reply that is dropped answers EIO, which is a logout.
    pub fn answer<T: Send + 'static>(
        &self,
        operation: &'static str,
        step: Step<T>,
        send: impl FnOnce(std::result::Result<T, Errno>) + Send + 'static,
    ) {
        match step {
            Step::Done(result) => send(self.settle(operation, result)),
            Step::Later(work) => {
                let this = self.clone();
                self.runtime.spawn(async move { send(this.settle(operation, work.await)) });
            }
        }
    }

    /// Logs and counts a result that is sent by the caller at once.
    pub fn settle<T>(
        &self,
        operation: &'static str,
        result: Result<T>,
    ) -> std::result::Result<T, Errno> {
        self.counts.answered.fetch_add(1, Ordering::Relaxed);
        result.map_err(|error| {
            self.counts.failed.fetch_add(1, Ordering::Relaxed);
            log(operation, &error);
            Errno::from_i32(error.errno())
        })
    }

    /// One line of what was done, at the end.
    pub fn log_totals(&self) {
        let answered = self.counts.answered.load(Ordering::Relaxed);
        let failed = self.counts.failed.load(Ordering::Relaxed);
        tracing::info!(answered, failed, "the mount is no longer served");
    }
}

fn log(operation: &'static str, error: &Error) {
    let errno = nix::errno::Errno::from_raw(error.errno());
    match error.level() {
        Level::Expected => tracing::debug!(operation, %errno, %error),
        Level::Warning => tracing::warn!(operation, %errno, %error),
    }
}
