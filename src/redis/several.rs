//! Calls of one script for several sessions of a shard.
//!
//! While a slot of a Cluster is moved its keys are on two servers, and neither runs a script if some keys of it are not
//! there. Each session by itself is mostly to be had all the same, and so it is asked for by itself then: else one session
//! would keep the use of all others from being written, or all others out of a listing.

use std::time::Duration;

use redis::FromRedisValue as _;
use tokio::time::Instant;

use super::Inner;
use super::errors::ErrorCode;
use super::headers::Scored;
use super::index::Entry;
use super::keys::Keys;
use super::link::Need;
use super::requests::{Requests, length};
use super::scripts::{Answer, Call, CallFault, Way};
use crate::session::name::{Alias, Shard};
use crate::store::StoreError;

/// How long a call for several is repeated while its keys are on two servers, and then a call for each.
const PARTED_FOR: Duration = Duration::from_millis(30);
/// All of these together may take so many times as long as one call.
const ALONE_CALLS: u32 = 4;

/// One of several: something about a session.
pub(super) trait OfSession: Sync {
    fn alias(&self) -> &Alias;
}

impl<T: Sync> OfSession for (Alias, T) {
    fn alias(&self) -> &Alias {
        &self.0
    }
}

impl OfSession for Scored {
    fn alias(&self) -> &Alias {
        &self.0.alias
    }
}

impl OfSession for Entry {
    fn alias(&self) -> &Alias {
        &self.alias
    }
}

/// What became of some of the sessions.
pub(super) struct Part<'a, T> {
    pub items: &'a [T],
    /// `None`: it is one session, of which nothing is kept.
    pub answer: Result<Option<Answer>, StoreError>,
}

impl Inner {
    /// Calls a script for all of them, or for each by itself where that is all that can be had. `build` makes a call for
    /// some.
    pub(super) async fn call_for<'a, T: OfSession>(
        &'a self,
        shard: Shard,
        items: &'a [T],
        bound: Duration,
        way: Way,
        build: impl Fn(Requests<'a>, &'a [T]) -> Call<'a>,
    ) -> Vec<Part<'a, T>> {
        let slot = Keys::slot(shard);
        let call = |items: &'a [T]| {
            let build = &build;
            let build = move |requests| build(requests, items);
            Box::pin(async move {
                match self.call_parted(slot, bound, PARTED_FOR, way, build).await {
                    // Redis takes no further connection: the first one has to do.
                    Err(CallFault::NotSent(_)) if matches!(way, Way::BulkRead) => {
                        let way = Way::Link(Need::Connected);
                        self.call_parted(slot, bound, PARTED_FOR, way, build).await
                    }
                    answer => answer,
                }
            })
        };
        match call(items).await {
            Err(CallFault::Server(error, _)) if error.code == ErrorCode::TryAgain => {}
            answer => {
                return vec![Part { items, answer: answer.map(Some).map_err(Into::into) }];
            }
        }
        let mut parts = Vec::with_capacity(items.len());
        let deadline = Instant::now() + ALONE_CALLS * bound;
        for (number, item) in items.iter().enumerate() {
            if Instant::now() >= deadline {
                let overdue = StoreError::Unavailable("a slot is being moved".into());
                parts.push(Part { items: &items[number..], answer: Err(overdue) });
                break;
            }
            let alone = std::slice::from_ref(item);
            let answer = match call(alone).await {
                // The server is away: none of the others would be answered, and each would be waited for.
                Err(fault @ (CallFault::NotSent(_) | CallFault::Lost(_))) => {
                    parts.push(Part { items: &items[number..], answer: Err(fault.into()) });
                    break;
                }
                // It may have ended long ago: what has no key is on neither server.
                Err(CallFault::Server(error, generation)) if error.code.redirects() => {
                    match self.is_kept(item.alias()).await {
                        Ok(false) => Ok(None),
                        Ok(true) => Err(CallFault::Server(error, generation).into()),
                        Err(error) => Err(error),
                    }
                }
                answer => answer.map(Some).map_err(Into::into),
            };
            parts.push(Part { items: alone, answer });
        }
        parts
    }

    /// Whether anything is kept of a session: the session, or that it has ended.
    pub(super) async fn is_kept(&self, alias: &Alias) -> Result<bool, StoreError> {
        let reply = self.ask(Keys::slot(alias.shard()), &length(&self.keys, alias)).await?;
        let length = u64::from_redis_value(reply)
            .map_err(|_| StoreError::Unreadable("a length with an unexpected format".into()))?;
        Ok(length > 0)
    }
}
