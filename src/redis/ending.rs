//! Ends sessions that somebody has named, on every server: several at once, and never more than a bound.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::{Origin, RedisStore};
use crate::session::name::Alias;
use crate::store::{Link as _, StoreError, Unlink, Unlinked};

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
    /// Who asks for them, for the audit trail.
    origin: Arc<str>,
    under_way: JoinSet<Result<Ended, StoreError>>,
}

impl Endings {
    /// Those that whoever uses the store asks for.
    pub(crate) fn new(store: &RedisStore) -> Self {
        Self::asked_for(store, store.inner.origin.as_str().into())
    }

    /// Those that this one asks for: the audit trail has `killed`, and his name.
    pub(crate) fn by(store: &RedisStore, by: &str) -> Self {
        let server = store.inner.settings.origin.server.clone();
        let origin = Origin { server, by: Some(by.to_owned()) };
        Self::asked_for(store, origin.words().into())
    }

    fn asked_for(store: &RedisStore, origin: Arc<str>) -> Self {
        Self { store: store.clone(), origin, under_way: JoinSet::new() }
    }

    /// Begins to end this session. Where as many are under way as may be, one of them is waited for and returned.
    pub(crate) async fn begin(&mut self, alias: Alias) -> Option<Result<Ended, StoreError>> {
        let before = if self.under_way.len() >= AT_ONCE { self.next().await } else { None };
        let (store, origin) = (self.store.clone(), Arc::clone(&self.origin));
        self.under_way.spawn(async move { store.end(alias, &origin).await });
        before
    }

    /// The next one that has ended; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Result<Ended, StoreError>> {
        let ended = self.under_way.join_next().await?;
        Some(ended.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string()))))
    }
}

impl RedisStore {
    async fn end(&self, alias: Alias, origin: &str) -> Result<Ended, StoreError> {
        let stamp = self.stamp(alias.shard());
        let unlink = Unlink { stamp, alias, listed: None, held: None, opened: None };
        let unlinked = self.inner.unlink(&unlink, origin).await?;
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
