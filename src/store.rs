//! Sessions in Redis: the link, the keys, the envelope and the scripts.
//!
//! Stand-in until branch `store` lands: what the worker needs of it, doing nothing.

use std::time::Duration;

use crate::config::Config;
use crate::exit::Failure;

/// Stand-in for the store on Redis.
#[derive(Clone, Debug)]
pub struct RedisStore;

impl RedisStore {
    /// Starts the link; does not wait for Redis.
    #[expect(clippy::unused_async, reason = "stand-in")]
    pub async fn start(_config: &Config) -> Result<Self, Failure> {
        Ok(Self)
    }

    /// Writes what is collected.
    #[expect(clippy::unused_async, reason = "stand-in")]
    pub async fn drain(&self, _bound: Duration) {}
}
