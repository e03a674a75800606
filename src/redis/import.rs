//! Importing a session that was a file on a disk.

use super::RedisStore;
use super::requests::Requests;
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
        self.inner.is_kept(alias).await
    }
}
