//! Ends sessions that somebody has named, on every server: several at once, and never more than a bound.

use tokio::task::JoinSet;

use super::RedisStore;
use crate::session::name::Alias;
use crate::store::{Link as _, Sessions as _, StoreError, Unlink, Unlinked};

/// How many removals are under way at once.
const AT_ONCE: usize = 32;

/// What became of one session.
#[derive(Debug)]
pub(crate) struct Ended {
    pub alias: Alias,
    /// It was there; otherwise it was gone before we came to it.
    pub was_there: bool,
}

/// Removals that are under way. Those that have not ended when it is dropped may be carried out or not.
pub(crate) struct Endings {
    store: RedisStore,
    under_way: JoinSet<Result<Ended, StoreError>>,
}

impl Endings {
    pub(crate) fn new(store: &RedisStore) -> Self {
        Self { store: store.clone(), under_way: JoinSet::new() }
    }

    /// Begins to end this session. Where as many are under way as may be, one of them is waited for and returned.
    pub(crate) async fn begin(&mut self, alias: Alias) -> Option<Result<Ended, StoreError>> {
        let before = if self.under_way.len() >= AT_ONCE { self.next().await } else { None };
        let store = self.store.clone();
        self.under_way.spawn(async move { store.end(alias).await });
        before
    }

    /// The next one that has ended; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Result<Ended, StoreError>> {
        let ended = self.under_way.join_next().await?;
        Some(ended.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string()))))
    }
}

impl RedisStore {
    async fn end(&self, alias: Alias) -> Result<Ended, StoreError> {
        let stamp = self.stamp(alias.shard());
        let unlink = Unlink { stamp, alias, listed: None, held: None, opened: None };
        let unlinked = self.unlink(&unlink).await?;
        let Unlink { alias, .. } = unlink;
        // The server does not tell us of what we have changed.
        self.inner.tracking.changed(&alias);
        let was_there = match unlinked {
            Unlinked::Gone { .. } | Unlinked::Held { .. } => true,
            Unlinked::Absent | Unlinked::Superseded => false,
        };
        Ok(Ended { alias, was_there })
    }
}
