//! The operations on one session: what is sent, and what its answer means.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::envelope::Header;
use super::keys::Keys;
use super::link::Need;
use super::requests::Requests;
use super::scripts::Answer;
use super::{Inner, RedisStore};
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
        let slot = Keys::slot(alias.shard());
        let bound = inner.primaries.of(slot).link.overdue();
        let owner = inner.owners.line(alias, &inner.live.judged());
        let build = |requests| {
            Requests::fetch(&Requests::for_owner(requests, Arc::clone(&owner)), alias, listed)
        };
        let mut answer = inner.call(slot, Need::Up, bound, build).await?;
        if answer.status == "another" {
            inner.owners.forget(alias);
            let build = |requests| Requests::fetch(&requests, alias, listed);
            answer = inner.call(slot, Need::Up, bound, build).await?;
        }
        match answer.status.as_str() {
            "session" => {
                let (activity_ms, left_ms) = (answer.number()?, answer.number()?);
                let value = Bytes::from(answer.bytes()?);
                let (header, content) = Header::parse_read(&value)?;
                inner.owners.saw(alias, &header.content, &inner.live.judged());
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
        let shard = publish.alias.shard();
        let build = |requests, attempt| Requests::publish(&requests, publish, attempt);
        let is_visitor = publish.content.class == Class::Anonymous;
        let mut sent = inner.change(shard, publish.stamp.attempt, build).await;
        let primary = inner.primary_of(shard);
        if sent.is_err() && primary.link.is_full() {
            inner.room.want();
            if !is_visitor && inner.settings.ends_stale {
                // One try, and short: the kernel holds a directory meanwhile.
                let wanted = 2 * publish.sealed.len() as u64;
                let (making, of) = (Arc::clone(inner), Arc::clone(&primary));
                // What has been ended is told of, also where nobody waits any more.
                let made = tokio::spawn(async move { making.make_room(&of, wanted).await });
                let _ = timeout(inner.attempt(), made).await;
                sent = inner.change(shard, Attempt::Again, build).await;
            }
        }
        let mut answer = sent?;
        match answer.status.as_str() {
            "taken" => {
                primary.link.taken(answer.generation);
                if is_visitor {
                    inner.room.note_visitor(&publish.alias);
                }
                Ok(Published::Taken(meta(&mut answer)?))
            }
            "superseded" => Ok(Published::Superseded { birth: answer.optional_id()? }),
            "refused" => Ok(Published::Refused(refusal(&answer.text()?))),
            "rebind" => Ok(Published::Rebind { birth: answer.id()? }),
            _ => Err(answer.strange()),
        }
    }

    async fn unlink(&self, unlink: &Unlink) -> Result<Unlinked, StoreError> {
        self.inner.unlink(unlink, &self.inner.origin).await
    }

    async fn take_back(&self, alias: &Alias, removal: ChangeId) -> Result<(), StoreError> {
        let build = |requests, _| Requests::take_back(&requests, alias, removal);
        let answer = self.inner.change(alias.shard(), Attempt::Again, build).await?;
        match answer.status.as_str() {
            "absent" => Ok(()),
            _ => Err(answer.strange()),
        }
    }

    async fn amend(&self, amend: &Amend) -> Result<Option<Meta>, StoreError> {
        let inner = &self.inner;
        let build = |requests, attempt| Requests::amend(&requests, amend, attempt);
        let shard = amend.alias.shard();
        let mut answer = inner.change(shard, amend.stamp.attempt, build).await?;
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
        let primary = self.inner.primary_of(alias.shard());
        self.inner.touches.put(alias, primary.time.now_ms());
    }

    async fn touch_now(&self, alias: &Alias) -> Result<(), StoreError> {
        self.inner.touch_now(alias).await
    }
}

impl Inner {
    /// Removes a session for whom `origin` names ([`super::outbox::Origin::words`]).
    pub(super) async fn unlink(
        &self,
        unlink: &Unlink,
        origin: &str,
    ) -> Result<Unlinked, StoreError> {
        let build =
            |requests, attempt| Requests::asked_by(requests, origin).unlink(unlink, attempt);
        let shard = unlink.alias.shard();
        let mut answer = self.change(shard, unlink.stamp.attempt, build).await?;
        match answer.status.as_str() {
            "gone" => Ok(Unlinked::Gone { alias: answer.alias()?, birth: answer.id()? }),
            "held" => Ok(Unlinked::Held { alias: answer.alias()?, birth: answer.id()? }),
            "absent" => Ok(Unlinked::Absent),
            "superseded" => Ok(Unlinked::Superseded),
            _ => Err(answer.strange()),
        }
    }
}

impl Link for RedisStore {
    fn stamp(&self, shard: Shard) -> Stamp {
        Stamp::random(self.inner.primary_of(shard).time.now_ms())
    }

    fn health(&self, shard: Option<Shard>) -> Health {
        self.inner.primaries.health(shard)
    }

    fn is_fresh(&self, shard: Option<Shard>) -> bool {
        self.inner.primaries.is_fresh(shard)
    }

    fn any_up(&self) -> Option<Shard> {
        self.inner.primaries.any_up()
    }

    fn unreadable_for(&self, shard: Shard) -> Option<Duration> {
        self.inner.primary_of(shard).link.outage(false)
    }

    fn tells_changes(&self, shard: Shard) -> bool {
        self.inner.primary_of(shard).link.is_tracked()
    }

    fn takes_packed(&self) -> bool {
        self.inner.agreement.takes_packed()
    }

    async fn wait_up(&self, wait: Wait) -> Waited {
        if wait.writes && self.inner.primaries.is_full(wait.shard) {
            self.inner.room.want();
        }
        self.inner.primaries.wait_up(wait).await
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
        let mut codes: Vec<_> =
            script.split("refuse('").skip(1).filter_map(|rest| rest.split('\'').next()).collect();
        codes.sort_unstable();
        codes.dedup();
        let known = Refusal::ALL.iter().filter(|refusal| **refusal != Refusal::Other);
        let mut labels: Vec<_> = known.map(|refusal| refusal.label()).collect();
        labels.sort_unstable();
        assert_eq!(codes, labels);
        assert_eq!(refusal("of a later version"), Refusal::Other);
    }
}
