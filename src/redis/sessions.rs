//! The operations on one session: what is sent, and what its answer means.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::RedisStore;
use super::envelope::Header;
use super::link::Need;
use super::scripts::Answer;
use crate::session::content::Class;
use crate::session::name::{Alias, Shard};
use crate::store::{
    Amend, Attempt, ChangeId, Health, Link, Listed, Lookup, Meta, Publish, Published, Refusal,
    RootListing, Sessions, Stamp, StoreError, Unlink, Unlinked, Wait, Waited,
};

impl Sessions for RedisStore {
    async fn is_ready(&self, _: &Alias) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn fetch(&self, alias: &Alias, listed: Option<&Alias>) -> Result<Lookup, StoreError> {
        let inner = &self.inner;
        let bound = Duration::from_millis(inner.settings.overdue_ms);
        let mut answer =
            inner.call(&inner.requests().fetch(alias, listed), Need::Up, bound).await?;
        match answer.status.as_str() {
            "session" => {
                let (activity_ms, left_ms) = (answer.number()?, answer.number()?);
                let value = Bytes::from(answer.bytes()?);
                let (header, content) = Header::parse_read(&value)?;
                Ok(Lookup::Session {
                    meta: header.meta(activity_ms, left_ms),
                    bound: header.bound(alias),
                    sealed: value.slice(content..),
                })
            }
            "large" => {
                let (activity_ms, left_ms) = (answer.number()?, answer.number()?);
                let header = answer.header()?;
                let bound = header.bound(alias);
                Ok(Lookup::Large { meta: header.meta(activity_ms, left_ms), bound })
            }
            "alias" => Ok(Lookup::Alias { meta: meta(&mut answer)? }),
            "absent" => Ok(Lookup::Absent),
            _ => Err(answer.strange()),
        }
    }

    async fn content(&self, alias: &Alias, save: ChangeId) -> Result<Option<Bytes>, StoreError> {
        self.inner.content(alias, save).await
    }

    async fn publish(&self, publish: &Publish) -> Result<Published, StoreError> {
        let inner = &self.inner;
        let build = |attempt| inner.requests().publish(publish, attempt);
        let is_visitor = publish.content.class == Class::Anonymous;
        let mut sent = inner.change(publish.stamp.attempt, build).await;
        if sent.is_err() && inner.writes.is_full() {
            inner.room.want();
            if !is_visitor && inner.settings.ends_stale {
                // One try, and short: the kernel holds a directory meanwhile.
                let wanted = 2 * publish.sealed.len() as u64;
                let _ = timeout(inner.attempt(), inner.make_room(wanted)).await;
                sent = inner.change(Attempt::Again, build).await;
            }
        }
        let mut answer = sent?;
        match answer.status.as_str() {
            "taken" => {
                inner.writes.taken();
                if is_visitor {
                    inner.room.note_visitor(&publish.alias);
                }
                Ok(Published::Taken(meta(&mut answer)?))
            }
            "superseded" => Ok(Published::Superseded),
            "refused" => Ok(Published::Refused(refusal(&answer.text()?))),
            "rebind" => Ok(Published::Rebind { birth: answer.id()? }),
            _ => Err(answer.strange()),
        }
    }

    async fn unlink(&self, unlink: &Unlink) -> Result<Unlinked, StoreError> {
        let inner = &self.inner;
        let build = |attempt| inner.requests().unlink(unlink, attempt);
        let mut answer = inner.change(unlink.stamp.attempt, build).await?;
        match answer.status.as_str() {
            "gone" => Ok(Unlinked::Gone { alias: answer.alias()?, birth: answer.id()? }),
            "held" => Ok(Unlinked::Held { alias: answer.alias()?, birth: answer.id()? }),
            "absent" => Ok(Unlinked::Absent),
            "superseded" => Ok(Unlinked::Superseded),
            _ => Err(answer.strange()),
        }
    }

    async fn amend(&self, amend: &Amend) -> Result<Option<Meta>, StoreError> {
        let inner = &self.inner;
        let build = |attempt| inner.requests().amend(amend, attempt);
        let mut answer = inner.change(amend.stamp.attempt, build).await?;
        match answer.status.as_str() {
            "taken" => Ok(Some(meta(&mut answer)?)),
            "absent" => Ok(None),
            _ => Err(answer.strange()),
        }
    }

    async fn list(&self, shard: Shard) -> Result<Vec<Listed>, StoreError> {
        self.inner.list(shard).await
    }

    async fn list_root(&self) -> Result<RootListing, StoreError> {
        self.inner.list_root().await
    }

    fn touch(&self, alias: &Alias) {
        self.inner.touches.put(alias, self.inner.time.now_ms());
    }

    async fn touch_now(&self, alias: &Alias) -> Result<(), StoreError> {
        self.inner.touch_now(alias).await
    }
}

impl Link for RedisStore {
    fn stamp(&self, _shard: Shard) -> Stamp {
        Stamp {
            id: ChangeId(rand::random()),
            first_ms: self.inner.time.now_ms(),
            attempt: Attempt::First,
        }
    }

    fn health(&self, _shard: Option<Shard>) -> Health {
        self.inner.link.health()
    }

    fn is_fresh(&self, _shard: Option<Shard>) -> bool {
        self.inner.link.is_fresh()
    }

    async fn wait_up(&self, _wait: Wait) -> Waited {
        self.inner.link.wait_up().await
    }

    async fn drain(&self, bound: Duration) {
        // What is not written within the bound goes back to the collected ones.
        let _ = tokio::time::timeout(bound, self.inner.write_collected()).await;
    }
}

fn meta(answer: &mut Answer) -> Result<Meta, StoreError> {
    let (activity_ms, left_ms) = (answer.number()?, answer.number()?);
    Ok(answer.header()?.meta(activity_ms, left_ms))
}

/// The codes that `publish.lua` gives; one of a later version is `Other`.
fn refusal(code: &str) -> Refusal {
    Refusal::ALL.iter().copied().find(|known| known.label() == code).unwrap_or(Refusal::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_script_is_a_refusal_and_every_refusal_has_its_code() {
        let script = include_str!("scripts/publish.lua");
        let mut codes: Vec<_> = script
            .split("answer('refused', '")
            .skip(1)
            .filter_map(|rest| rest.split('\'').next())
            .collect();
        codes.sort_unstable();
        codes.dedup();
        let known = Refusal::ALL.iter().filter(|refusal| **refusal != Refusal::Other);
        let mut labels: Vec<_> = known.map(|refusal| refusal.label()).collect();
        labels.sort_unstable();
        assert_eq!(codes, labels);
        assert_eq!(refusal("of a later version"), Refusal::Other);
    }
}
