//! The one place that replies, logs and counts.

use std::time::{Duration, Instant};

use fuser::Errno;
use tokio::runtime::Handle;

use super::handling::Handling;
use super::in_flight::{InFlight, Keeping};
use super::wire::Unique;
use crate::error::{Error, Level, Result};
use crate::fs::Step;
use crate::telemetry::metrics::metrics;
use crate::telemetry::request::{Operation, Outcome};

/// A request that has been read and not answered.
#[derive(Debug)]
pub(super) struct Request<'a> {
    counted: Counted,
    _handling: Handling,
    unique: Unique,
    in_flight: &'a InFlight,
}

/// What is logged and counted of a request.
#[derive(Clone, Copy, Debug)]
struct Counted {
    operation: Operation,
    at: Instant,
}

impl<'a> Request<'a> {
    /// A request that was read now, on this thread.
    pub(super) fn now(operation: Operation, unique: Unique, in_flight: &'a InFlight) -> Self {
        // First: where the clock is a system call, a thread can be stopped in it.
        let handling = Handling::begin();
        let counted = Counted { operation, at: Instant::now() };
        Self { counted, _handling: handling, unique, in_flight }
    }

    /// Logs and counts a result that the caller sends at once.
    pub(super) fn finish<T>(&self, result: Result<T>) -> std::result::Result<T, Errno> {
        self.counted.finish(result)
    }

    /// Counts a success that the caller sends at once.
    pub(super) fn answered(&self) {
        metrics().answered(self.counted.operation, Outcome::Ok, self.counted.at.elapsed());
    }

    /// Answers by `send`, now or when `runtime` has done the work. The work is never dropped
    /// half-way: a reply that is dropped answers EIO, which is a logout.
    pub(super) fn answer<T: Send + 'static>(
        self,
        runtime: &Handle,
        step: Step<T>,
        send: impl FnOnce(std::result::Result<T, Errno>) + Send + 'static,
    ) {
        let counted = self.counted;
        match step {
            Step::Done(result) => send(counted.finish(result)),
            Step::Later(work) => {
                // Before this thread reads the next one.
                let recorded = match self.in_flight.keep(self.unique) {
                    Keeping::Kept(recorded) => Some(recorded),
                    Keeping::Needless => None,
                    Keeping::NoRoom { is_large } => {
                        return self.answer_here(runtime, work, is_large, send);
                    }
                };
                runtime.spawn(async move {
                    send(counted.finish(work.await));
                    if let Some(recorded) = recorded {
                        recorded.answered();
                    }
                });
            }
        }
    }

    /// Does the work while this thread waits, so that the buffer of the request stays its record. When another thread
    /// waits so, a write is to be repeated: Python does so at once, and Odoo sees nothing.
    fn answer_here<T>(
        self,
        runtime: &Handle,
        work: impl Future<Output = Result<T>>,
        is_large: bool,
        send: impl FnOnce(std::result::Result<T, Errno>),
    ) {
        const REPEATED_AFTER: Duration = Duration::from_millis(1);
        let Self { counted, _handling: handling, in_flight, .. } = self;
        // It waits, and is not stuck.
        drop(handling);
        let occupied = in_flight.occupy();
        if is_large && occupied.is_none() {
            std::thread::sleep(REPEATED_AFTER);
            let again = Error::expected(libc::EINTR, "too many writes are waiting");
            return send(counted.finish(Err(again)));
        }
        send(counted.finish(runtime.block_on(work)));
    }
}

impl Counted {
    fn finish<T>(self, result: Result<T>) -> std::result::Result<T, Errno> {
        let outcome = match &result {
            Ok(_) => Outcome::Ok,
            Err(error) => {
                log(self.operation.label(), error);
                Outcome::of_errno(error.errno())
            }
        };
        metrics().answered(self.operation, outcome, self.at.elapsed());
        result.map_err(|error| Errno::from_i32(error.errno()))
    }
}

/// Logs how many requests were answered.
pub(super) fn log_totals() {
    let [answered, failed] =
        [Outcome::Ok, Outcome::Failed].map(|o| metrics().requests_by_outcome(o));
    tracing::debug!(answered, failed, "this worker no longer serves its mount");
}

fn log(operation: &'static str, error: &Error) {
    let errno = nix::errno::Errno::from_raw(error.errno());
    match error.level() {
        Level::Expected => tracing::debug!(operation, %errno, %error),
        Level::Warning => tracing::warn!(operation, %errno, %error),
    }
}
