//! How full Redis is, where its user may ask (`INFO`).

use std::sync::Mutex;
use std::time::Duration;

use redis::FromRedisValue as _;
use tokio::time::Instant;

use super::primary::Primary;
use super::{Inner, RedisStore};
use crate::store::StoreError;
use crate::sync::lock;

/// Who may not ask does not ask again for this long: each refusal is a line in the log of Redis.
const REFUSED_FOR: Duration = Duration::from_secs(60 * 60);

/// When it was refused last, and how.
pub(super) type Refused = Mutex<Option<(Instant, StoreError)>>;

/// What Redis says of its memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Memory {
    pub used_bytes: u64,
    /// `maxmemory`: what it may use; 0: there is no bound.
    pub max_bytes: u64,
}

impl Memory {
    /// From the answer to `INFO memory`; `None` if that is not in it.
    pub fn parse(info: &str) -> Option<Self> {
        let number = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
        };
        Some(Self { used_bytes: number("used_memory")?, max_bytes: number("maxmemory")? })
    }

    /// How full it is, if there is a bound.
    pub fn percent(&self) -> Option<u64> {
        self.used_bytes.saturating_mul(100).checked_div(self.max_bytes)
    }
}

impl RedisStore {
    /// How full Redis is: of several servers, the fullest. [`StoreError::Refused`]: this user may not
    /// ask.
    pub async fn memory(&self) -> Result<Memory, StoreError> {
        let mut fullest: Option<Memory> = None;
        for primary in self.inner.primaries.all() {
            let memory = self.inner.memory_of(&primary).await?;
            if fullest.is_none_or(|fullest| fullest.percent() < memory.percent()) {
                fullest = Some(memory);
            }
        }
        fullest.ok_or_else(|| StoreError::Unavailable("no server".into()))
    }
}

impl Inner {
    pub(super) async fn memory_of(&self, primary: &Primary) -> Result<Memory, StoreError> {
        let info = self.info(primary, "memory").await?;
        Memory::parse(&info).ok_or_else(|| {
            StoreError::Unreadable("an answer to INFO with an unexpected format".into())
        })
    }

    /// A section of what a server says of itself, where its user may ask.
    pub(super) async fn info(
        &self,
        primary: &Primary,
        section: &str,
    ) -> Result<String, StoreError> {
        if let Some((at, error)) = &*lock(&primary.info_refused)
            && at.elapsed() < REFUSED_FOR
        {
            return Err(error.clone());
        }
        let asked = self.ask_primary(primary, redis::cmd("INFO").arg(section)).await;
        if let Err(error @ StoreError::Refused(_)) = &asked {
            *lock(&primary.info_refused) = Some((Instant::now(), error.clone()));
        }
        String::from_redis_value(asked?).map_err(|_| {
            StoreError::Unreadable("an answer to INFO with an unexpected format".into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fill_is_read_from_info() {
        let info = "# Memory\r\nused_memory:750\r\nused_memory_human:750B\r\nmaxmemory:1000\r\nmaxmemory_policy:noeviction\r\n";
        let memory = Memory::parse(info).unwrap();
        assert_eq!(memory, Memory { used_bytes: 750, max_bytes: 1000 });
        assert_eq!(memory.percent(), Some(75));
        assert_eq!(Memory { max_bytes: 0, ..memory }.percent(), None);
        assert_eq!(Memory::parse("used_memory:x\r\nmaxmemory:0"), None);
    }
}
