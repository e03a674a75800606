//! How often a request is sent until it is answered.

use std::time::Duration;

use tokio::time::Instant;

use super::Inner;
use super::bulk::extra_time;
use super::errors::ErrorCode;
use super::keys::Keys;
use super::link::Need;
use super::requests::Requests;
use super::scripts::{Answer, Call, CallFault};
use crate::session::name::Shard;
use crate::store::{Attempt, StoreError};

impl Inner {
    /// Sends a change of a session of that shard, first as this attempt, and from the second sending on as another one, until
    /// it is answered or its time is over. `build` makes the call for one attempt.
    pub(super) async fn change<'a>(
        &'a self,
        shard: Shard,
        mut attempt: Attempt,
        build: impl Fn(Requests<'a>, Attempt) -> Call<'a>,
    ) -> Result<Answer, StoreError> {
        let slot = Keys::slot(shard);
        let of_now = build(self.requests(&self.primaries.of(slot)), attempt);
        let extra = extra_time(of_now.length_bytes());
        drop(of_now);
        let total = Duration::from_millis(self.settings.retry_total_ms);
        let deadline = Instant::now() + total + extra;
        loop {
            let primary = self.primaries.of(slot);
            // Once an outage has used up its budget, no further change waits for its end.
            if !primary.link.budget_spent() {
                primary.link.up(deadline).await;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let bound = (self.attempt() + extra).min(left).max(Duration::from_millis(1));
            let of_now = |requests: Requests<'a>| build(requests, attempt);
            let fault = match self.call(slot, Need::Connected, bound, of_now).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            match fault {
                CallFault::NotSent(text) => {
                    if primary.link.budget_spent() || Instant::now() >= deadline {
                        return Err(StoreError::Unavailable(text));
                    }
                }
                CallFault::Lost(text) => {
                    attempt = Attempt::Again;
                    if Instant::now() >= deadline {
                        return Err(StoreError::Unavailable(text));
                    }
                }
                CallFault::Server(error, generation) => {
                    // A replica changed nothing; its master may be found by a newer connection.
                    let is_replica = error.code == ErrorCode::ReadOnly;
                    if !is_replica || !primary.link.newer(generation, deadline).await {
                        return Err(error.into());
                    }
                }
                fault @ (CallFault::Unreadable(_) | CallFault::OtherIndex) => {
                    return Err(fault.into());
                }
            }
        }
    }
}
