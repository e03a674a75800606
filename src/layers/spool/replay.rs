//! Sending what is kept, as soon as Redis takes it.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::overlay::Sending;
use super::record::{Change, Record, Save};
use super::{Spool, passes};
use crate::handoff::Kept;
use crate::session::name::{Alias, Shard};
use crate::store::{
    Attempt, ChangeId, Health, Link, Published, Sessions, Stamp, StoreError, Unlink, Unlinked,
};
use crate::telemetry::Event;

/// How often it is looked whether the link is there.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// A shard that does not take its first change is tried again after this, and later each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often the directory is looked at for files that could not be read before.
const LOAD_EVERY: Duration = Duration::from_secs(10);
/// How often one save is sealed anew because the life of its session is another than expected.
const MAX_REBINDS: u32 = 3;

/// How many shards may fail before a pause: a Redis that is full must not be asked for each of thousands.
const MAX_FAILED: u32 = 32;

/// What became of a change that was sent.
enum Outcome {
    Sent,
    /// It must not be sent any more.
    Dropped(&'static str),
    /// It was not taken this time.
    Waits(StoreError),
}

/// Sends for ever.
async fn run<S: Sessions + Link + Clone>(spool: Spool<S>) {
    let mut pauses: HashMap<Shard, (Instant, Duration)> = HashMap::new();
    let mut loaded = Instant::now();
    loop {
        let shards = spool.shared.overlay().shards();
        if shards.is_empty() {
            pauses.clear();
            let _ = timeout(LOAD_EVERY, spool.shared.filled.notified()).await;
        }
        if loaded.elapsed() >= LOAD_EVERY {
            loaded = Instant::now();
            spool.load_left();
        }
        let mut failed = 0;
        for shard in from_anywhere(shards) {
            if failed >= MAX_FAILED {
                break;
            }
            if pauses.get(&shard).is_some_and(|(until, _)| Instant::now() < *until) {
                continue;
            }
            let pause = match spool.send_shard(shard).await {
                Ok(()) => None,
                Err(error) => {
                    failed += 1;
                    tracing::debug!(%shard, %error, "kept changes are not taken yet");
                    let pause = pauses.get(&shard).map_or(FIRST_PAUSE, |(_, last)| *last * 2);
                    Some(pause.min(LONGEST_PAUSE))
                }
            };
            match pause {
                Some(pause) => pauses.insert(shard, (Instant::now() + pause, pause)),
                None => pauses.remove(&shard),
            };
        }
        if !spool.shared.overlay().is_empty() {
            tokio::time::sleep(if failed > 0 { FIRST_PAUSE } else { LOOK_EVERY }).await;
        }
    }
}

/// Each shard once, in turn from any of them on: those of a server that takes nothing do not always come
/// before the others.
fn from_anywhere(mut shards: Vec<Shard>) -> Vec<Shard> {
    if !shards.is_empty() {
        let middle = rand::random_range(0..shards.len());
        shards.rotate_left(middle);
    }
    shards
}

impl<S: Sessions + Link + Clone> Spool<S> {
    /// The worker before has ended: goes on with all that it has left, and leaves as much to the next one. Sends what is
    /// kept from now on, on the current runtime. Not before: it was served by the other one, which sends it, too.
    pub(crate) fn take_up(&self, kept: &Kept) {
        self.shared.take_up_lives(kept);
        // Callers wait, and the tmpfs has nearly always all that the other one has kept.
        let was_served = kept.has_predecessor();
        self.shared.load(!was_served);
        if was_served {
            self.shared.load_later();
        }
        tokio::spawn(run(self.clone()));
    }

    /// Takes over what can be read since.
    fn load_left(&self) {
        let Some(files) = &self.shared.files else { return };
        let names = files.names();
        let is_new = {
            let known = crate::sync::lock(&self.shared.names);
            names.iter().any(|name| !known.contains(name))
        };
        if is_new {
            self.shared.load(false);
        }
    }

    /// Sends what is kept of a shard, removals first, else in order, until something is not taken.
    async fn send_shard(&self, shard: Shard) -> Result<(), StoreError> {
        while self.sessions.health(Some(shard)) != Health::Down {
            let Some(sending) = self.shared.overlay().send_next(shard) else {
                return Ok(());
            };
            let Sending { record, age, .. } = &sending;
            let mut waits = None;
            match self.send(&sending).await {
                Outcome::Sent => {
                    Event::ChangeSent {
                        alias: record.change.alias(),
                        change: record.change.kind(),
                        age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
                    }
                    .emit();
                    self.shared.settled(record.number);
                }
                Outcome::Dropped(reason) => self.shared.drop_change(record.number, reason),
                Outcome::Waits(error) => waits = Some(error),
            }
            self.shared.overlay().not_sent(&sending);
            if let Some(error) = waits {
                return Err(error);
            }
        }
        Ok(())
    }

    async fn send(&self, sending: &Sending) -> Outcome {
        let Sending { record, age, unused, overtaken } = sending;
        let stamp = self.stamp_of(record, *age);
        let sent = match &record.change {
            Change::Save(save) => {
                let unused = unused.unwrap_or_else(|| (*age).min(self.age_there(record)));
                return self.send_save(save, stamp, unused).await;
            }
            Change::Removal(unlink) => {
                let unlinked = self.sessions.unlink(&Unlink { stamp, ..unlink.clone() }).await;
                if let Ok(unlinked) = &unlinked {
                    self.shared.overtaken(overtaken, unlinked);
                }
                unlinked.map(|unlinked| match unlinked {
                    Unlinked::Superseded => Outcome::Dropped("superseded"),
                    _ => Outcome::Sent,
                })
            }
            Change::Amend(amend) => {
                let amend = crate::store::Amend { stamp, ..amend.clone() };
                let amended = self.sessions.amend(&amend).await;
                amended.map(|meta| meta.map_or(Outcome::Dropped("ended"), |_| Outcome::Sent))
            }
        };
        sent.unwrap_or_else(|error| failed(record.change.alias(), error))
    }

    /// How old a change is by the store's clock. It and that of this host may both have been set since
    /// then: who goes by the smaller age ends nothing too early.
    fn age_there(&self, record: &Record) -> Duration {
        let first_ms = record.change.stamp().first_ms;
        let now_ms = self.sessions.stamp(record.change.shard()).first_ms;
        if first_ms == 0 || now_ms == 0 {
            return Duration::MAX;
        }
        Duration::from_millis(now_ms.saturating_sub(first_ms))
    }

    /// The stamp of the first attempt. If Redis's time was not known then, it was as long ago.
    fn stamp_of(&self, record: &Record, age: Duration) -> Stamp {
        let mut stamp = Stamp { attempt: Attempt::Again, ..record.change.stamp() };
        if stamp.first_ms == 0 {
            let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            let now_ms = self.sessions.stamp(record.change.shard()).first_ms;
            stamp.first_ms = now_ms.saturating_sub(age_ms).max(1);
        }
        stamp
    }

    async fn send_save(&self, save: &Save, stamp: Stamp, unused: Duration) -> Outcome {
        let idle_ms = (self.shared.rules)().idle_ms(&save.publish.content);
        if unused >= Duration::from_millis(idle_ms) {
            return Outcome::Dropped("expired");
        }
        let opened = self.shared.life_of(save.publish.claim.opened);
        // Its life was not known. A real one stands for itself, whatever becomes of the save.
        let is_supposed = save.publish.birth == save.publish.stamp.id;
        let mut birth: ChangeId = opened.unwrap_or(save.publish.birth);
        for _ in 0..MAX_REBINDS {
            let Some(mut publish) = save.for_birth(birth) else {
                // The mount that kept it has ended, and with it what could be sealed once more.
                let alias = &save.publish.alias;
                tracing::error!(event = "kept_save_lost", %alias, "its session began anew");
                return Outcome::Dropped("unbound");
            };
            publish.stamp = stamp;
            publish.claim.opened = opened.or(publish.claim.opened);
            match self.sessions.publish(&publish).await {
                Ok(Published::Taken(meta)) => {
                    // If the save had arrived at the first attempt, it was sealed for that life then.
                    if is_supposed {
                        self.shared.is_life(save.publish.birth, meta.birth);
                    }
                    return Outcome::Sent;
                }
                Ok(Published::Superseded { birth }) => {
                    if let Some(birth) = birth
                        && is_supposed
                    {
                        self.shared.is_life(save.publish.birth, birth);
                    }
                    return Outcome::Dropped("superseded");
                }
                Ok(Published::Refused(reason)) => {
                    Event::SaveRefused { alias: &publish.alias, reason }.emit();
                    return Outcome::Dropped("refused");
                }
                Ok(Published::Rebind { birth: other }) => birth = other,
                Err(error) => return failed(&publish.alias, error),
            }
        }
        Outcome::Waits(StoreError::Unavailable("its name passes from one life to another".into()))
    }
}

fn failed(alias: &Alias, error: StoreError) -> Outcome {
    if passes(&error) {
        return Outcome::Waits(error);
    }
    tracing::error!(event = "kept_change_lost", %alias, %error);
    Outcome::Dropped("unreadable")
}
