//! Importing a session that was a file on a disk.

use redis::FromRedisValue as _;

use super::RedisStore;
use crate::session::name::Alias;
use crate::store::{Import, Imported, Intake, StoreError};

impl Intake for RedisStore {
    async fn import(&self, import: &Import) -> Result<Imported, StoreError> {
        let build = |attempt| self.inner.requests().import(import, attempt);
        let answer = self.inner.change(import.stamp.attempt, build).await?;
        match answer.status.as_str() {
            "taken" => Ok(Imported::Taken),
            "kept" => Ok(Imported::Kept),
            "over" => Ok(Imported::Over),
            _ => Err(answer.strange()),
        }
    }

    async fn knows(&self, alias: &Alias) -> Result<bool, StoreError> {
        let reply = self.inner.ask(&self.inner.requests().length(alias)).await?;
        let length = u64::from_redis_value(reply)
            .map_err(|_| StoreError::Unreadable("a length with an unexpected format".into()))?;
        Ok(length > 0)
    }
}
