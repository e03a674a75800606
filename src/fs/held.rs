//! Removals that are held.
//!
//! Odoo 19 removes the session of its own request by its listed name, and saves it again a moment later.
//! The store marks such a session, so that it ends although this server may not live to remove it.
//! While the store is not up nothing of such a removal is sent. The save of the same thread takes it
//! back, also by its failure: then the request has failed, and its user stays logged in. Without a
//! save it is carried out. A save waits for the store in its first write, and the removal as long.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Core;
use super::caller::{Identity, ThreadId};
use super::kept::{HeldRemoval, KeptState};
use crate::session::name::Alias;
use crate::store::{
    ChangeId, HELD_REMOVAL_MS, Link, Sessions, StoreError, Unlink, Unlinked, held_in_store_ms,
};

const HELD: Duration = Duration::from_millis(HELD_REMOVAL_MS);
/// How often it is tried to take a mark back.
const TRIED_EVERY: Duration = Duration::from_millis(200);
/// How many are held at once. One more is carried out at once.
const MAX_HELD: usize = 1024;

/// The removals, by the session that each is of.
#[derive(Default)]
pub(super) struct HeldRemovals {
    held: HashMap<Alias, Held>,
    kept: KeptState,
    /// What the worker before has not answered is not all under way yet: a save that takes one of them back may be
    /// among it.
    is_recovering: bool,
}

struct Held {
    /// Of its request, for the next worker.
    number: Option<u64>,
    thread: ThreadId,
    unlink: Unlink,
    until: Instant,
    /// The store may have marked the session.
    is_marked: bool,
    /// The session stays, and has to lose its mark.
    is_taken_back: bool,
}

impl Held {
    fn keep(&self, kept: &KeptState) {
        let Self { thread, unlink, is_marked, is_taken_back, .. } = self;
        if let Some(number) = self.number {
            let unlink = unlink.clone();
            let (is_marked, is_taken_back) = (*is_marked, *is_taken_back);
            let removal = HeldRemoval { thread: *thread, unlink, is_marked, is_taken_back };
            kept.put_removal(number, &removal);
        }
    }

    fn forget(&self, kept: &KeptState) {
        if let Some(number) = self.number {
            kept.forget_removal(number);
        }
    }
}

/// A removal that a save takes back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct TakenBack {
    pub removal: ChangeId,
    /// By which it is kept.
    number: Option<u64>,
}

/// What is to be done of a removal.
#[derive(Debug)]
enum Due {
    Nothing,
    Later(Instant),
    Now(Box<Unlink>, Option<u64>),
    /// The session is to lose the mark of this removal.
    TakeBack(ChangeId, Option<u64>),
}

impl HeldRemovals {
    /// None yet.
    pub(super) fn new(kept: KeptState) -> Self {
        Self { kept, ..Self::default() }
    }

    /// Holds it; false if it cannot be held.
    fn hold(
        &mut self,
        thread: Option<ThreadId>,
        number: Option<u64>,
        alias: &Alias,
        unlink: Unlink,
        now: Instant,
        is_marked: bool,
    ) -> bool {
        let Some(thread) = thread else { return false };
        let has_room = self.held.len() < MAX_HELD || self.held.contains_key(alias);
        if has_room {
            let until = now + HELD;
            let held = Held { number, thread, unlink, until, is_marked, is_taken_back: false };
            held.keep(&self.kept);
            if let Some(former) = self.held.insert(alias.clone(), held)
                && former.number != number
            {
                former.forget(&self.kept);
            }
        }
        has_room
    }

    /// The thread has a save under way, which may take so long before it is heard of again.
    fn extend(&mut self, thread: Option<ThreadId>, now: Instant, silence: Duration) {
        let is_recovering = self.is_recovering;
        let waits =
            |held: &&mut Held| Some(held.thread) == thread && (is_recovering || held.until > now);
        for held in self.held.values_mut().filter(waits) {
            held.until = held.until.max(now + silence + HELD);
        }
    }

    /// The thread saves this session, and has asked for that removal in the same request; `None` if it
    /// is not held. It is kept until the save is.
    fn take_back(
        &mut self,
        thread: Option<ThreadId>,
        alias: &Alias,
        removal: ChangeId,
        now: Instant,
    ) -> Option<TakenBack> {
        let held = self.held.get(alias)?;
        if Some(held.thread) != thread || held.unlink.stamp.id != removal {
            return None;
        }
        let held = self.held.remove(alias)?;
        let taken_back = TakenBack { removal, number: held.number };
        if held.until <= now && !self.is_recovering {
            held.forget(&self.kept);
            return None;
        }
        Some(taken_back)
    }

    /// The thread's save has failed, of whichever session it was.
    fn take_back_all(&mut self, thread: Option<ThreadId>) {
        let kept = &self.kept;
        self.held.retain(|_, held| {
            let stays = Some(held.thread) != thread || held.is_marked;
            if !stays {
                held.forget(kept);
            }
            stays
        });
        for held in self.held.values_mut().filter(|held| Some(held.thread) == thread) {
            held.is_taken_back = true;
            held.keep(&self.kept);
        }
    }

    /// One that the worker before has held. None is due before this one has recovered.
    fn take_up(&mut self, number: u64, alias: Alias, removal: HeldRemoval, now: Instant) {
        let HeldRemoval { thread, unlink, is_marked, is_taken_back } = removal;
        let number = Some(number);
        let held = Held { number, thread, unlink, until: now, is_marked, is_taken_back };
        // A worker that dies while it holds another one of the same session leaves both.
        if let Some(former) = self.held.insert(alias, held) {
            former.forget(&self.kept);
        }
        self.is_recovering = true;
    }

    /// All that the worker before has not answered is under way.
    fn recovered(&mut self, now: Instant) {
        self.is_recovering = false;
        for held in self.held.values_mut().filter(|held| !held.is_taken_back) {
            held.until = held.until.max(now + HELD);
        }
    }

    fn due(&mut self, alias: &Alias, now: Instant) -> Due {
        match self.held.get(alias) {
            None => Due::Nothing,
            Some(held) if self.is_recovering && !held.is_taken_back => {
                Due::Later(held.until.max(now + TRIED_EVERY))
            }
            Some(held) if held.until > now => Due::Later(held.until),
            Some(_) => match self.held.remove(alias) {
                Some(held) if held.is_taken_back => {
                    Due::TakeBack(held.unlink.stamp.id, held.number)
                }
                Some(held) => Due::Now(Box::new(held.unlink), held.number),
                None => Due::Nothing,
            },
        }
    }
}

impl<S: Sessions, L: Link> Core<S, L> {
    /// Holds a removal of the session that this thread has opened, which the store may have marked;
    /// false if it cannot be held.
    pub(super) fn hold_removal(
        self: &Arc<Self>,
        by: Identity,
        alias: &Alias,
        unlink: Unlink,
        is_marked: bool,
    ) -> bool {
        let number = by.request.map(|request| request.number);
        let (id, now) = (unlink.stamp.id, self.callers.now());
        if !self.held_removals().hold(by.thread, number, alias, unlink, now, is_marked) {
            return false;
        }
        // For a save that comes when it has been carried out.
        self.threads().removal_held(by.thread, alias, id, now);
        let (core, alias) = (Arc::clone(self), alias.clone());
        tokio::spawn(async move { core.carry_out(&alias).await });
        true
    }

    /// Holds on what the worker before has held: the save that takes it back is perhaps under way.
    pub fn take_up_removals(self: &Arc<Self>) {
        let now = self.callers.now();
        for (number, removal) in self.kept.removals_held() {
            let HeldRemoval { thread, unlink, .. } = &removal;
            let alias = unlink.listed.as_ref().unwrap_or(&unlink.alias).clone();
            self.threads().removal_held(Some(*thread), &alias, unlink.stamp.id, now);
            self.held_removals().take_up(number, alias.clone(), removal, now);
            let core = Arc::clone(self);
            tokio::spawn(async move { core.carry_out(&alias).await });
        }
    }

    /// All that the worker before has not answered is under way.
    pub fn recovered(&self) {
        self.held_removals().recovered(self.callers.now());
    }

    /// A save of this thread is under way.
    pub(super) fn save_goes_on(&self, by: Identity) {
        // From one sign of it to the next there is one step of waiting, if it waits.
        self.held_removals().extend(by.thread, self.callers.now(), self.open_step);
    }

    /// This thread saves this session, whatever comes of it. Returns the removal that it takes back.
    pub(super) fn save_follows(&self, by: Identity, alias: &Alias) -> Option<TakenBack> {
        let removal = self.threads().asked_for(by.thread, alias)?;
        let now = self.callers.now();
        self.held_removals().take_back(by.thread, alias, removal, now)
    }

    /// The save that takes a removal back is kept, so the removal need not be.
    pub(super) fn save_is_kept(&self, taken_back: Option<TakenBack>) {
        self.forget_removal(taken_back.and_then(|taken_back| taken_back.number));
    }

    fn forget_removal(&self, number: Option<u64>) {
        if let Some(number) = number {
            self.kept.forget_removal(number);
        }
    }

    /// A save of this thread has failed before its session was known.
    pub(super) fn save_failed(&self, by: Identity) {
        self.held_removals().take_back_all(by.thread);
    }

    /// A save that was perhaps sent is failed after all: the removal that it has taken back is not carried out either.
    pub(super) fn gives_back(self: &Arc<Self>, by: Identity, alias: &Alias) {
        let Some(removal) = self.kept.taken_back_by(by.request) else { return };
        let (core, alias) = (Arc::clone(self), alias.clone());
        tokio::spawn(async move { core.lose_mark(&alias, removal).await });
    }

    /// Carries a removal out when its time is over, unless it is taken back.
    async fn carry_out(&self, alias: &Alias) {
        let (unlink, number) = loop {
            let now = self.callers.now();
            let due = self.held_removals().due(alias, now);
            match due {
                Due::Nothing => return,
                Due::Later(until) => tokio::time::sleep(until - now).await,
                Due::Now(unlink, number) => break (unlink, number),
                Due::TakeBack(removal, number) => {
                    self.lose_mark(alias, removal).await;
                    return self.forget_removal(number);
                }
            }
        };
        if let Err(error) = self.remove_held(*unlink).await {
            tracing::error!(
                %alias, %error, "a session could not be removed; its user may still be logged in"
            );
        }
        self.forget_removal(number);
    }

    /// Removes at once what the store has perhaps marked.
    pub(super) async fn remove_held(&self, unlink: Unlink) -> Result<(), StoreError> {
        let again = Unlink { stamp: unlink.stamp.again(), held: None, ..unlink };
        if let Unlinked::Gone { alias, .. } = self.sessions.unlink(&again).await? {
            self.ended(&alias);
        }
        Ok(())
    }

    /// The save has failed, so the session stays. Tried for as long as the store knows of the removal.
    async fn lose_mark(&self, alias: &Alias, removal: ChangeId) {
        let wait_total_ms = u64::try_from(self.open_budget.as_millis()).unwrap_or(u64::MAX);
        let until = Instant::now() + Duration::from_millis(held_in_store_ms(wait_total_ms));
        while let Err(error) = self.sessions.take_back(alias, removal).await {
            if Instant::now() >= until {
                tracing::error!(%alias, %error, "a session ends although its save has failed");
                return;
            }
            tokio::time::sleep(TRIED_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::{self, Kept};
    use crate::store::{ChangeId, Stamp};

    const ONE: Option<ThreadId> = Some(ThreadId::of_test(1));
    const OTHER: Option<ThreadId> = Some(ThreadId::of_test(2));

    fn alias(number: usize) -> Alias {
        Alias::parse(&format!("ab{number:082}")).expect("an alias")
    }

    fn unlink() -> Unlink {
        let stamp = Stamp::new(ChangeId(1), 1);
        Unlink { stamp, alias: alias(9), listed: Some(alias(1)), held: None, opened: None }
    }

    /// Held by a thread since then.
    fn held() -> (HeldRemovals, Instant) {
        let (mut held, now) = (HeldRemovals::default(), Instant::now());
        assert!(held.hold(ONE, None, &alias(1), unlink(), now, false));
        (held, now)
    }

    fn is_due(held: &mut HeldRemovals, at: Instant) -> bool {
        matches!(held.due(&alias(1), at), Due::Now(..))
    }

    #[test]
    fn a_removal_is_due_once_when_no_save_follows() {
        let (mut held, now) = held();
        assert!(!is_due(&mut held, now + HELD / 2));
        assert!(is_due(&mut held, now + HELD));
        assert!(!is_due(&mut held, now + HELD));
    }

    #[test]
    fn the_save_of_the_same_thread_takes_it_back_and_no_other() {
        let (mut held, now) = held();
        let removal = unlink().stamp.id;
        for (thread, session, removal) in
            [(OTHER, 1, removal), (ONE, 2, removal), (ONE, 1, ChangeId(2))]
        {
            assert_eq!(held.take_back(thread, &alias(session), removal, now), None);
        }
        held.take_back_all(OTHER);
        assert!(is_due(&mut held, now + HELD));
        for take_back in [
            |held: &mut HeldRemovals| {
                let removal = unlink().stamp.id;
                assert!(held.take_back(ONE, &alias(1), removal, Instant::now()).is_some());
            },
            |held: &mut HeldRemovals| held.take_back_all(ONE),
        ] {
            let (mut held, now) = self::held();
            take_back(&mut held);
            assert!(!is_due(&mut held, now + HELD));
        }
    }

    #[test]
    fn a_removal_is_kept_until_the_save_that_takes_it_back_is() {
        let kept = KeptState::new(Kept::open(handoff::create().unwrap()).unwrap());
        let (mut held, now) = (HeldRemovals::new(kept.clone()), Instant::now());
        assert!(held.hold(ONE, Some(7), &alias(1), unlink(), now, true));
        let taken_back = held.take_back(ONE, &alias(1), unlink().stamp.id, now);
        assert_eq!(taken_back.and_then(|taken_back| taken_back.number), Some(7));
        assert_eq!(kept.removals_held().len(), 1);
    }

    fn left() -> HeldRemoval {
        let thread = ThreadId::of_test(1);
        HeldRemoval { thread, unlink: unlink(), is_marked: true, is_taken_back: false }
    }

    #[test]
    fn what_the_worker_before_has_held_is_not_due_before_its_save_can_be_repeated() {
        let (mut held, now) = (HeldRemovals::default(), Instant::now());
        held.take_up(7, alias(1), left(), now);
        let recovered = now + 10 * HELD;
        assert!(!is_due(&mut held, recovered));
        held.recovered(recovered);
        assert!(!is_due(&mut held, recovered));
        assert!(is_due(&mut held, recovered + HELD));
        held.take_up(7, alias(1), left(), now);
        let removal = unlink().stamp.id;
        assert!(held.take_back(ONE, &alias(1), removal, recovered).is_some());
        // Its session loses the mark at once.
        held.take_up(7, alias(1), HeldRemoval { is_taken_back: true, ..left() }, now);
        assert!(matches!(held.due(&alias(1), now), Due::TakeBack(..)));
    }

    #[test]
    fn of_two_that_were_left_of_one_session_the_former_is_forgotten() {
        let kept = KeptState::new(Kept::open(handoff::create().unwrap()).unwrap());
        for number in [7, 9] {
            kept.put_removal(number, &left());
        }
        let mut held = HeldRemovals::new(kept.clone());
        for (number, removal) in kept.removals_held() {
            held.take_up(number, alias(1), removal, Instant::now());
        }
        let numbers: Vec<_> = kept.removals_held().iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [9]);
    }

    #[test]
    fn a_save_that_fails_takes_the_mark_of_the_store_back() {
        let (mut held, now) = (HeldRemovals::default(), Instant::now());
        assert!(held.hold(ONE, None, &alias(1), unlink(), now, true));
        held.take_back_all(OTHER);
        held.take_back_all(ONE);
        let due = held.due(&alias(1), now + HELD);
        assert!(
            matches!(due, Due::TakeBack(removal, _) if removal == unlink().stamp.id),
            "{due:?}"
        );
        assert!(!is_due(&mut held, now + HELD));
    }

    #[test]
    fn it_waits_as_long_as_a_save_of_the_same_thread_does() {
        let (mut held, now) = held();
        let step = Duration::from_secs(2);
        held.extend(OTHER, now, step);
        held.extend(ONE, now, step);
        assert!(!is_due(&mut held, now + step));
        held.extend(ONE, now + step, step);
        assert!(!is_due(&mut held, now + 2 * step));
        // A process that was killed is not heard of again.
        assert!(is_due(&mut held, now + 2 * step + HELD));
    }

    #[test]
    fn few_are_held_and_none_of_a_thread_that_cannot_be_seen() {
        let (mut held, now) = held();
        for number in 2..=MAX_HELD {
            assert!(held.hold(ONE, None, &alias(number), unlink(), now, false));
        }
        assert!(!held.hold(ONE, None, &alias(0), unlink(), now, false));
        assert!(held.hold(OTHER, None, &alias(1), unlink(), now, false));
        assert!(!HeldRemovals::default().hold(None, None, &alias(1), unlink(), now, false));
    }
}
