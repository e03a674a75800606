//! Importing a session that was a file on a disk.

use redis::FromRedisValue as _;

use super::RedisStore;
use super::keys::Keys;
use super::requests::{Requests, length};
use crate::session::name::Alias;
use crate::store::{Import, Imported, Intake, StoreError};

impl Intake for RedisStore {
    async fn import(&self, import: &Import) -> Result<Imported, StoreError> {
        let build = |requests, attempt| Requests::import(&requests, import, attempt);
        let shard = import.alias.shard();
        let answer = self.inner.change(shard, import.stamp.attempt, build).await?;
        match answer.status.as_str() {
            "taken" => Ok(Imported::Taken),
            "kept" => Ok(Imported::Kept),
            "over" => Ok(Imported::Over),
            _ => Err(answer.strange()),
        }
    }

    async fn knows(&self, alias: &Alias) -> Result<bool, StoreError> {
        let reply =
            self.inner.ask(Keys::slot(alias.shard()), &length(&self.inner.keys, alias)).await?;
        let length = u64::from_redis_value(reply)
            .map_err(|_| StoreError::Unreadable("a length with an unexpected format".into()))?;
        Ok(length > 0)
    }
}
