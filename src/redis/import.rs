//! Taking in a session that was a file on a disk.

use std::time::Duration;

use redis::FromRedisValue as _;

use super::envelope::{class_text, form_text, mode_text, text, uid_text};
use super::link::Need;
use super::{Inner, RedisStore};
use crate::session::name::Alias;
use crate::store::{Import, Imported, Intake, Patience, StoreError};

impl Intake for RedisStore {
    async fn import(&self, import: &Import, patience: Patience) -> Result<Imported, StoreError> {
        self.inner.import(import, patience).await
    }

    async fn knows(&self, alias: &Alias) -> Result<bool, StoreError> {
        let reply =
            self.inner.ask(redis::cmd("STRLEN").arg(self.inner.keys.session(alias))).await?;
        let length = u64::from_redis_value(reply)
            .map_err(|_| StoreError::Unreadable("a length of another shape".into()))?;
        Ok(length > 0)
    }
}

impl Inner {
    async fn import(&self, import: &Import, patience: Patience) -> Result<Imported, StoreError> {
        const NS_PER_MS: i64 = 1_000_000;
        let content = &import.content;
        let build = |retry| {
            let mut call = self.changing(&self.scripts.import, &import.alias, &import.stamp, retry);
            call.argument(class_text(content.class))
                .argument(uid_text(content.uid))
                .argument(text(content.db.as_deref()))
                .argument(text(content.login.as_deref()))
                .argument(import.size_bytes.to_string())
                .argument(form_text(import.form))
                .argument(import.mtime_ns.to_string())
                .argument((import.mtime_ns / NS_PER_MS).to_string())
                .argument(mode_text(import.mode))
                .bytes(&import.sealed);
            call
        };
        let answer = match patience {
            Patience::Insisting => self.insist(import.stamp.attempt, build).await?,
            Patience::OneTry => {
                let bound = Duration::from_millis(self.settings.overdue_ms);
                self.call(&build(false), Need::Well, bound).await?
            }
        };
        match answer.status.as_str() {
            "taken" => Ok(Imported::Taken),
            "kept" => Ok(Imported::Kept),
            "over" => Ok(Imported::Over),
            _ => Err(answer.strange()),
        }
    }
}
