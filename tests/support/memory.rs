//! A store in memory, so that the core runs without a kernel and without Redis: the model of
//! [`super::model`] behind the core's port, with a link that a test can cut.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use sessionfs::session::name::{Alias, Form, Shard};
use sessionfs::session::policy::Lifetimes;
use sessionfs::store::{
    Amend, Attempt, ChangeId, Health, Link, Listed, Lookup, Meta, Publish, Published, Refusal,
    RootListing, Sessions, Stamp, StoreError, Unlink, Unlinked, Wait, Waited,
};

use super::model::{Model, Outcome, UNIT};

/// What happens to the next request in place of its answer.
pub enum Fault {
    /// It is not carried out.
    Unavailable,
    /// The store answers that it will not, by a link that stays up.
    Refused,
    /// What is stored cannot be read.
    Unreadable,
    /// A change's first sending was lost: this is the second.
    Again,
    /// A change is carried out, and the answer does not come.
    Unanswered,
}

/// One server's view of the store. [`Memory::other_server`] gives another's.
#[derive(Clone)]
pub struct Memory {
    model: Arc<Mutex<Model>>,
    link: Arc<Mutex<Connection>>,
}

struct Connection {
    health: Health,
    /// How the next waits end; after them, as the health says.
    waits: VecDeque<Waited>,
    faults: VecDeque<Fault>,
    requests: u64,
    touched: Vec<Alias>,
    /// The change that is carried out now is not answered.
    is_unanswered: bool,
    /// Every content is too large for the answer to a look-up.
    large: bool,
    /// What is current is at hand, as with a near cache that hears of changes at once.
    is_near: bool,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            health: Health::Up,
            waits: VecDeque::new(),
            faults: VecDeque::new(),
            requests: 0,
            touched: vec![],
            is_unanswered: false,
            large: false,
            is_near: false,
        }
    }
}

impl Memory {
    pub fn new() -> Self {
        let limits = Lifetimes {
            idle_ms: 15 * UNIT,
            anonymous_idle_ms: 60 * UNIT,
            anonymous_unopened_ms: 60 * UNIT,
            absolute_ms: None,
            grace_ms: 10 * UNIT,
            tombstone_ms: 60 * UNIT,
        };
        let model = Model::new(limits, 1_800_000_000_000);
        Self { model: Arc::new(Mutex::new(model)), link: Arc::default() }
    }

    /// The same store, by a link of its own.
    pub fn other_server(&self) -> Self {
        Self { model: Arc::clone(&self.model), link: Arc::default() }
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().expect("no test panics with it")
    }

    fn link(&self) -> MutexGuard<'_, Connection> {
        self.link.lock().expect("no test panics with it")
    }

    pub fn set_health(&self, health: Health) {
        self.link().health = health;
    }

    pub fn make_contents_large(&self) {
        self.link().large = true;
    }

    pub fn keep_at_hand(&self) {
        self.link().is_near = true;
    }

    pub fn next_waits(&self, waits: impl IntoIterator<Item = Waited>) {
        self.link().waits.extend(waits);
    }

    pub fn next_fault(&self, fault: Fault) {
        self.link().faults.push_back(fault);
    }

    /// How many faults are yet to happen.
    pub fn pending_faults(&self) -> usize {
        self.link().faults.len()
    }

    /// How many requests reached the store, over this link.
    pub fn requests(&self) -> u64 {
        self.link().requests
    }

    /// The sessions whose use was noted over this link, the first one first.
    pub fn touched(&self) -> Vec<Alias> {
        self.link().touched.clone()
    }

    /// How a change is sent, or why it does not arrive.
    fn send(&self) -> Result<Attempt, StoreError> {
        let mut link = self.link();
        link.requests += 1;
        if link.health == Health::Down {
            return Err(StoreError::Unavailable("the link is down".into()));
        }
        let fault = link.faults.pop_front();
        link.is_unanswered = matches!(fault, Some(Fault::Unanswered));
        drop(link);
        match fault {
            None | Some(Fault::Unanswered) => Ok(Attempt::First),
            Some(Fault::Unavailable) => Err(StoreError::Unavailable("not answered".into())),
            Some(Fault::Refused) => Err(StoreError::Refused("not by this user".into())),
            Some(Fault::Unreadable) => Err(StoreError::Unreadable("of another program".into())),
            Some(Fault::Again) => Ok(Attempt::Again),
        }
    }

    /// Waits until a change that was carried out is answered.
    async fn answered(&self) {
        let is_unanswered = std::mem::take(&mut self.link().is_unanswered);
        if is_unanswered {
            std::future::pending::<()>().await;
        }
    }

    /// The stamp of a change as it arrives.
    fn sent(&self, stamp: Stamp) -> Result<Stamp, StoreError> {
        Ok(match self.send()? {
            Attempt::First => stamp,
            Attempt::Again => stamp.again(),
        })
    }

    fn listed(&self) -> Result<Vec<Listed>, StoreError> {
        self.send()?;
        Ok(self.model().list())
    }
}

impl Sessions for Memory {
    async fn is_ready(&self, _: &Alias) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn fetch(&self, alias: &Alias, listed: Option<&Alias>) -> Result<Lookup, StoreError> {
        self.send()?;
        let mut model = self.model();
        if let Some((meta, bound, sealed)) = model.fetch(alias) {
            if self.link().large {
                return Ok(Lookup::Large { meta, bound });
            }
            return Ok(Lookup::Session { meta, bound, sealed });
        }
        let by_alias = listed.and_then(|alias| model.fetch(alias));
        Ok(by_alias.map_or(Lookup::Absent, |(meta, ..)| Lookup::Alias { meta }))
    }

    fn at_hand(&self, alias: &Alias) -> Option<Lookup> {
        let link = self.link();
        let is_well = link.health == Health::Up && link.faults.is_empty();
        if !(link.is_near && is_well) || link.large {
            return None;
        }
        drop(link);
        let (meta, bound, sealed) = self.model().fetch(alias)?;
        Some(Lookup::Session { meta, bound, sealed })
    }

    async fn content(&self, alias: &Alias, save: ChangeId) -> Result<Option<Bytes>, StoreError> {
        self.send()?;
        let current = self.model().fetch(alias);
        Ok(current.filter(|(_, bound, _)| bound.save == save).map(|(.., sealed)| sealed))
    }

    async fn publish(&self, publish: &Publish) -> Result<Published, StoreError> {
        let publish = Publish { stamp: self.sent(publish.stamp)?, ..publish.clone() };
        let outcome = self.model().publish(&publish);
        self.answered().await;
        Ok(match outcome {
            Outcome::Taken(meta) => Published::Taken(meta),
            Outcome::Superseded(birth) => Published::Superseded { birth },
            Outcome::Refused => Published::Refused(Refusal::Ended),
            Outcome::Rebind(birth) => Published::Rebind { birth },
        })
    }

    async fn unlink(&self, unlink: &Unlink) -> Result<Unlinked, StoreError> {
        let unlink = Unlink { stamp: self.sent(unlink.stamp)?, ..unlink.clone() };
        let outcome = self.model().unlink(&unlink);
        self.answered().await;
        Ok(outcome)
    }

    async fn take_back(&self, alias: &Alias, removal: ChangeId) -> Result<(), StoreError> {
        self.send()?;
        self.model().take_back(alias, removal);
        Ok(())
    }

    async fn amend(&self, amend: &Amend) -> Result<Option<Meta>, StoreError> {
        self.send()?;
        Ok(self.model().amend(amend))
    }

    async fn list(&self, shard: Shard) -> Result<Vec<Listed>, StoreError> {
        let mut listed = self.listed()?;
        listed.retain(|one| one.alias.shard() == shard);
        Ok(listed)
    }

    async fn list_root(&self) -> Result<RootListing, StoreError> {
        let listed = self.listed()?;
        let (flat, sharded): (Vec<_>, Vec<_>) =
            listed.into_iter().partition(|one| one.meta.form == Form::Flat);
        let mut shards: Vec<_> = sharded.iter().map(|one| one.alias.shard()).collect();
        shards.sort_unstable();
        shards.dedup();
        Ok(RootListing { shards, flat })
    }

    fn touch(&self, alias: &Alias) {
        self.link().touched.push(alias.clone());
        self.model().touch(alias);
    }

    async fn touch_now(&self, alias: &Alias) -> Result<(), StoreError> {
        self.send()?;
        self.model().touch(alias);
        Ok(())
    }
}

impl Link for Memory {
    fn stamp(&self, _shard: Shard) -> Stamp {
        Stamp::new(ChangeId(rand::random()), self.model().now)
    }

    fn health(&self, _shard: Option<Shard>) -> Health {
        self.link().health
    }

    fn is_fresh(&self, _shard: Option<Shard>) -> bool {
        self.link().health == Health::Up
    }

    async fn wait_up(&self, _wait: Wait) -> Waited {
        let mut link = self.link();
        let by_health = if link.health == Health::Up { Waited::Up } else { Waited::StepOver };
        link.waits.pop_front().unwrap_or(by_health)
    }

    async fn drain(&self, _bound: Duration) {}
}
