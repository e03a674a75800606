//! The servers that share this Redis: each writes its status, with a short time to live, and an
//! index of all. Only `sessionfs status` reads them.

use std::time::Duration;

use redis::FromRedisValue as _;

use super::RedisStore;
use super::link::Need;
use crate::store::StoreError;

/// A server that has not registered for this long is gone. Three times the interval at which an idle
/// one registers.
const SERVER_LIFE: Duration = Duration::from_secs(90);
/// A server that has not registered for this long is removed from the index.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60 * 60);
/// The index itself ends when no server has registered for this long.
const INDEX_LIFE: Duration = Duration::from_secs(2 * 60 * 60);
/// The most servers that are read.
const MOST: usize = 1000;

/// The last status of a server.
#[derive(Clone, Debug)]
pub struct Registered {
    pub report: String,
    /// How long ago, by Redis's clock.
    pub age_ms: u64,
}

/// A score, which was a whole number when it was written.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
fn whole_ms(score: f64) -> u64 {
    score as u64
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl RedisStore {
    /// Writes the status of server `id`. Nothing is read, and nothing is sent by a link that is not
    /// up.
    pub async fn register_server(&self, id: &str, report: &str) -> Result<(), StoreError> {
        let keys = &self.inner.keys;
        let mut commands = redis::pipe();
        commands.cmd("SET").arg(keys.server(id)).arg(report).arg("PX").arg(ms(SERVER_LIFE));
        commands.cmd("ZADD").arg(keys.servers()).arg(self.inner.time.now_ms()).arg(id);
        commands.cmd("PEXPIRE").arg(keys.servers()).arg(ms(INDEX_LIFE));
        self.all(&commands, Need::Up).await.map(|_| ())
    }

    /// Server `id` stops in order.
    pub async fn remove_server(&self, id: &str) -> Result<(), StoreError> {
        let keys = &self.inner.keys;
        let mut commands = redis::pipe();
        commands.cmd("DEL").arg(keys.server(id));
        commands.cmd("ZREM").arg(keys.servers()).arg(id);
        self.all(&commands, Need::Connected).await.map(|_| ())
    }

    /// The status of each server that has registered within [`SERVER_LIFE`].
    pub async fn servers(&self) -> Result<Vec<Registered>, StoreError> {
        let now_ms = self.inner.time.now_ms();
        let seen = self.ids((now_ms.saturating_sub(ms(SERVER_LIFE)).to_string(), "+inf")).await?;
        if seen.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = redis::pipe();
        for (id, _) in &seen {
            commands.cmd("GET").arg(self.inner.keys.server(id));
        }
        let value = self.all(&commands, Need::Connected).await?;
        let found =
            Vec::<Option<String>>::from_redis_value(value).map_err(|_| of_another_shape())?;
        let registered = found.into_iter().zip(seen).filter_map(|(report, (_, at_ms))| {
            Some(Registered { report: report?, age_ms: now_ms.saturating_sub(at_ms) })
        });
        Ok(registered.collect())
    }

    /// Removes servers from the index that have been gone for long, and did not stop in order.
    pub async fn forget_old_servers(&self) -> Result<(), StoreError> {
        let Some(before_ms) = self.inner.time.now_ms().checked_sub(ms(FORGOTTEN_AFTER)) else {
            return Ok(());
        };
        let gone = self.ids(("-inf".to_owned(), &before_ms.to_string())).await?;
        let gone: Vec<String> = gone.into_iter().map(|(id, _)| id).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("ZREM");
        command.arg(self.inner.keys.servers()).arg(gone);
        self.inner.ask(&command).await.map(|_| ())
    }

    /// The ids last registered in a span of time, and when that was.
    async fn ids(&self, (from, to): (String, &str)) -> Result<Vec<(String, u64)>, StoreError> {
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(self.inner.keys.servers()).arg(from).arg(to).arg("WITHSCORES");
        command.arg("LIMIT").arg(0).arg(MOST);
        let value = self.inner.ask(&command).await?;
        let seen = Vec::<(String, f64)>::from_redis_value(value).map_err(|_| of_another_shape())?;
        Ok(seen.into_iter().map(|(id, at_ms)| (id, whole_ms(at_ms))).collect())
    }

    async fn all(
        &self,
        commands: &redis::Pipeline,
        need: Need,
    ) -> Result<redis::Value, StoreError> {
        let bound = Duration::from_millis(self.inner.settings.down_after_ms);
        Ok(self.inner.link.request_all(commands, need, bound).await?.value)
    }
}

fn of_another_shape() -> StoreError {
    StoreError::Unreadable("server list with an unexpected format".into())
}
