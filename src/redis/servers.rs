//! The servers that share this Redis: each writes its status, with a short time to live, and an
//! index of all. Only `sessionfs status` reads them.

use std::time::Duration;

use redis::cluster_routing::Slot;
use redis::{Cmd, FromRedisValue as _, Value};

use super::envelope::OLDEST_FORMAT;
use super::keys::Keys;
use super::link::Need;
use super::{Inner, RedisStore};
use crate::store::StoreError;

/// A server that has not registered for this long is gone. Three times the interval at which an idle
/// one registers.
const SERVER_LIFE: Duration = Duration::from_secs(90);
/// A server that has not registered for this long is removed from the index.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60 * 60);
/// The index itself ends when no server has registered for this long.
const INDEX_LIFE: Duration = Duration::from_secs(2 * 60 * 60);
/// The most servers that are read: those that have registered last.
const MOST: usize = 1000;
/// The longest status that is read. Ours have a few KiB.
const REPORT_MAX_BYTES: usize = 64 * 1024;

/// The last status of a server.
#[derive(Clone, Debug)]
pub struct Registered {
    pub report: String,
    /// How long ago, by Redis's clock.
    pub age_ms: u64,
}

/// A line of the index: a server, and the newest format of headers that it reads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Member {
    pub id: String,
    pub format: u32,
    /// When it registered last.
    pub at_ms: u64,
}

impl Member {
    /// As it stands in the index.
    fn text(id: &str, format: u32) -> String {
        format!("{id}/{format}")
    }

    /// Whatever somebody wrote there: what names no format reads the oldest.
    fn parse(text: &str, at_ms: u64) -> Self {
        let (id, format) = text.rsplit_once('/').unwrap_or((text, ""));
        Self { id: id.to_owned(), format: format.parse().unwrap_or(OLDEST_FORMAT), at_ms }
    }
}

/// Asks for the index: the last who have registered.
pub(super) fn members(keys: &Keys) -> Cmd {
    range("ZREVRANGEBYSCORE", keys, "+inf", "-inf")
}

fn range(command: &str, keys: &Keys, from: &str, to: &str) -> Cmd {
    let mut command = redis::cmd(command);
    command.arg(keys.servers()).arg(from).arg(to).arg("WITHSCORES").arg("LIMIT").arg(0).arg(MOST);
    command
}

/// The servers that have registered within [`SERVER_LIFE`].
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Living {
    pub members: Vec<Member>,
    /// Whether there may be more than could be asked for.
    pub more: bool,
}

impl Living {
    /// Those in the answer to [`members`], at this time of Redis.
    pub(super) fn read(answer: Value, now_ms: u64) -> Result<Self, StoreError> {
        let from_ms = now_ms.saturating_sub(ms(SERVER_LIFE));
        let found =
            Vec::<(String, f64)>::from_redis_value(answer).map_err(|_| of_another_shape())?;
        let members: Vec<Member> = found
            .into_iter()
            .map(|(text, at_ms)| Member::parse(&text, whole_ms(at_ms)))
            .filter(|member| member.at_ms >= from_ms)
            .collect();
        let more = members.len() >= MOST;
        Ok(Self { members, more })
    }

    /// The newest format of headers that all of them read. `None` if there are none.
    pub(super) fn format(&self) -> Option<u32> {
        if self.more {
            return Some(OLDEST_FORMAT);
        }
        self.members.iter().map(|member| member.format).min()
    }
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
    /// Writes the status of server `id`, and the newest format that it reads. Nothing is read, and nothing is sent by a link that is not
    /// up.
    pub async fn register_server(&self, id: &str, report: &str) -> Result<(), StoreError> {
        let keys = &self.inner.keys;
        let mut status = of_key("SET", &keys.server(id));
        status.1.arg(report).arg("PX").arg(ms(SERVER_LIFE));
        let mut member = of_key("ZADD", &keys.servers());
        member.1.arg(self.inner.now_of_servers_ms()).arg(Member::text(id, self.newest_format()));
        let mut life = of_key("PEXPIRE", &keys.servers());
        life.1.arg(ms(INDEX_LIFE));
        self.inner.ask_all(vec![status, member, life], Need::Up).await.map(|_| ())
    }

    /// Server `id` stops in order.
    pub async fn remove_server(&self, id: &str) -> Result<(), StoreError> {
        let keys = &self.inner.keys;
        let status = of_key("DEL", &keys.server(id));
        let mut member = of_key("ZREM", &keys.servers());
        member.1.arg(Member::text(id, self.newest_format()));
        self.inner.ask_all(vec![status, member], Need::Connected).await.map(|_| ())
    }

    /// The status of each server that has registered within [`SERVER_LIFE`].
    pub async fn servers(&self) -> Result<Vec<Registered>, StoreError> {
        let now_ms = self.inner.now_of_servers_ms();
        let answer =
            self.inner.ask(self.inner.slot_of_servers(), &members(&self.inner.keys)).await?;
        let mut seen = Living::read(answer, now_ms)?.members;
        // After a reload, the worker before may have read another format.
        seen.sort_by(|a, b| (&a.id, b.at_ms).cmp(&(&b.id, a.at_ms)));
        seen.dedup_by(|later, earlier| later.id == earlier.id);
        if seen.is_empty() {
            return Ok(Vec::new());
        }
        let report = |member: &Member| {
            let mut command = of_key("GETRANGE", &self.inner.keys.server(&member.id));
            command.1.arg(0).arg(REPORT_MAX_BYTES - 1);
            command
        };
        let commands = seen.iter().map(report).collect();
        let answers = self.inner.ask_all(commands, Need::Connected).await?;
        let found = Vec::<String>::from_redis_value(Value::Array(answers))
            .map_err(|_| of_another_shape())?;
        let registered = (found.into_iter().zip(seen))
            .filter(|(report, _)| !report.is_empty())
            .map(|(report, member)| {
                let age_ms = now_ms.saturating_sub(member.at_ms);
                Registered { report, age_ms }
            });
        Ok(registered.collect())
    }

    /// Removes servers from the index that have been gone for long, and did not stop in order.
    pub async fn forget_old_servers(&self) -> Result<(), StoreError> {
        let inner = &self.inner;
        let Some(before_ms) = inner.now_of_servers_ms().checked_sub(ms(FORGOTTEN_AFTER)) else {
            return Ok(());
        };
        let old = range("ZRANGEBYSCORE", &inner.keys, "-inf", &before_ms.to_string());
        let gone = inner.ask(inner.slot_of_servers(), &old).await?;
        let gone = Vec::<(String, f64)>::from_redis_value(gone).map_err(|_| of_another_shape())?;
        if gone.is_empty() {
            return Ok(());
        }
        let (slot, mut command) = of_key("ZREM", &inner.keys.servers());
        for (member, _) in gone {
            command.arg(member);
        }
        inner.ask(slot, &command).await.map(|_| ())
    }
}

impl Inner {
    fn slot_of_servers(&self) -> Slot {
        Slot::for_key(self.keys.servers())
    }

    /// The time of the Redis server that has the index.
    pub(super) fn now_of_servers_ms(&self) -> u64 {
        self.primaries.of(self.slot_of_servers()).time.now_ms()
    }
}

/// The beginning of a command on a key, and the key's slot.
fn of_key(command: &str, key: &str) -> (Slot, Cmd) {
    let mut command = redis::cmd(command);
    command.arg(key);
    (Slot::for_key(key), command)
}

fn of_another_shape() -> StoreError {
    StoreError::Unreadable("server list with an unexpected format".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_names_no_format_reads_the_oldest() {
        let member = |text| Member::parse(text, 5);
        assert_eq!(
            Member::parse(&Member::text("a/b", 7), 5),
            Member { id: "a/b".into(), format: 7, at_ms: 5 }
        );
        assert_eq!(member("0123").format, OLDEST_FORMAT);
        assert_eq!(member("0123/x").format, OLDEST_FORMAT);
    }

    #[test]
    fn only_the_living_count() {
        let entry = |text: &str, at_ms| {
            Value::Array(vec![Value::BulkString(text.into()), Value::Double(at_ms)])
        };
        let found = Value::Array(vec![entry("gone/9", 9_999.0), entry("here/9", 10_000.0)]);
        let living = Living::read(found, 100_000).unwrap();
        assert_eq!(living.members.len(), 1);
        assert_eq!(living.members[0].id, "here");
        assert_eq!(living.format(), Some(9));
        assert!(Living::read(Value::Int(3), 0).is_err());
    }

    #[test]
    fn a_list_that_is_full_may_hide_a_server_that_reads_the_oldest_format_only() {
        let living = |members| {
            let member = Value::Array(vec![Value::BulkString("a/9".into()), Value::Double(1.0)]);
            Living::read(Value::Array(vec![member; members]), 0).unwrap()
        };
        assert_eq!(living(0).format(), None);
        assert_eq!(living(MOST - 1).format(), Some(9));
        assert_eq!(living(MOST).format(), Some(OLDEST_FORMAT));
    }
}
