//! Removals that are held on this server, because the store cannot hold them now.
//!
//! Odoo 19 removes the session of its own request by its listed name, and saves it again a moment later.
//! While the store is not up nothing of such a removal is sent. The save of the same thread takes it
//! back, also by its failure: then the request has failed, and its user stays logged in. Without a
//! save it is carried out. A save waits for the store in its first write, and the removal as long.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Core;
use super::caller::{Identity, ThreadId};
use crate::session::name::Alias;
use crate::store::{HELD_REMOVAL_MS, Link, Sessions, Unlink, Unlinked};

const HELD: Duration = Duration::from_millis(HELD_REMOVAL_MS);
/// How many are held at once. One more is asked of the store at once.
const MAX_HELD: usize = 1024;

/// The removals, by the session that each is of.
#[derive(Default)]
pub(super) struct HeldRemovals(HashMap<Alias, Held>);

struct Held {
    thread: ThreadId,
    unlink: Unlink,
    until: Instant,
}

/// What is to be done of a removal.
#[derive(Debug)]
enum Due {
    Nothing,
    Later(Instant),
    Now(Box<Unlink>),
}

impl HeldRemovals {
    /// Holds it; false if it cannot be held.
    fn hold(
        &mut self,
        thread: Option<ThreadId>,
        alias: &Alias,
        unlink: Unlink,
        now: Instant,
    ) -> bool {
        let Some(thread) = thread else { return false };
        let has_room = self.0.len() < MAX_HELD || self.0.contains_key(alias);
        if has_room {
            self.0.insert(alias.clone(), Held { thread, unlink, until: now + HELD });
        }
        has_room
    }

    /// The thread has a save under way, which may take so long before it is heard of again.
    fn extend(&mut self, thread: Option<ThreadId>, now: Instant, silence: Duration) {
        for held in self.0.values_mut().filter(|held| Some(held.thread) == thread) {
            held.until = held.until.max(now + silence + HELD);
        }
    }

    /// The thread saves this session.
    fn take_back(&mut self, thread: Option<ThreadId>, alias: &Alias) {
        if self.0.get(alias).is_some_and(|held| Some(held.thread) == thread) {
            self.0.remove(alias);
        }
    }

    /// The thread's save has failed, of whichever session it was.
    fn take_back_all(&mut self, thread: Option<ThreadId>) {
        self.0.retain(|_, held| Some(held.thread) != thread);
    }

    fn due(&mut self, alias: &Alias, now: Instant) -> Due {
        match self.0.get(alias) {
            None => Due::Nothing,
            Some(held) if held.until > now => Due::Later(held.until),
            Some(_) => match self.0.remove(alias) {
                Some(held) => Due::Now(Box::new(held.unlink)),
                None => Due::Nothing,
            },
        }
    }
}

impl<S: Sessions, L: Link> Core<S, L> {
    /// Holds a removal of the session that this thread has opened; false if it cannot be held.
    pub(super) fn hold_removal(
        self: &Arc<Self>,
        by: Identity,
        alias: &Alias,
        unlink: Unlink,
    ) -> bool {
        let id = unlink.stamp.id;
        if !self.held_removals().hold(by.thread, alias, unlink, Instant::now()) {
            return false;
        }
        // For a save that comes when it has been carried out.
        self.threads().removal_held(by.thread, alias, id, self.callers.now());
        let (core, alias) = (Arc::clone(self), alias.clone());
        tokio::spawn(async move { core.carry_out(alias).await });
        true
    }

    /// A save of this thread is under way.
    pub(super) fn save_goes_on(&self, by: Identity) {
        // From one sign of it to the next there is one step of waiting, if it waits.
        self.held_removals().extend(by.thread, Instant::now(), self.open_step);
    }

    /// This thread saves this session, whatever comes of it.
    pub(super) fn save_follows(&self, by: Identity, alias: &Alias) {
        self.held_removals().take_back(by.thread, alias);
    }

    /// A save of this thread has failed before its session was known.
    pub(super) fn save_failed(&self, by: Identity) {
        self.held_removals().take_back_all(by.thread);
    }

    /// Carries a removal out when its time is over, unless it is taken back.
    async fn carry_out(self: Arc<Self>, alias: Alias) {
        let unlink = loop {
            let due = self.held_removals().due(&alias, Instant::now());
            match due {
                Due::Nothing => return,
                Due::Later(until) => tokio::time::sleep_until(until.into()).await,
                Due::Now(unlink) => break unlink,
            }
        };
        let again = Unlink { stamp: unlink.stamp.again(), ..*unlink };
        match self.sessions.unlink(&again).await {
            Ok(Unlinked::Gone { alias, .. }) => self.ended(&alias),
            Ok(_) => {}
            Err(error) => tracing::error!(
                %alias, %error, "a session could not be removed; its user may still be logged in"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Attempt, ChangeId, Stamp};

    const ONE: Option<ThreadId> = Some(ThreadId::of_test(1));
    const OTHER: Option<ThreadId> = Some(ThreadId::of_test(2));

    fn alias(number: usize) -> Alias {
        Alias::parse(&format!("ab{number:082}")).expect("an alias")
    }

    fn unlink() -> Unlink {
        let stamp = Stamp { id: ChangeId(1), first_ms: 1, attempt: Attempt::First };
        Unlink { stamp, alias: alias(9), listed: Some(alias(1)), held: None, opened: true }
    }

    /// Held by a thread since then.
    fn held() -> (HeldRemovals, Instant) {
        let (mut held, now) = (HeldRemovals::default(), Instant::now());
        assert!(held.hold(ONE, &alias(1), unlink(), now));
        (held, now)
    }

    fn is_due(held: &mut HeldRemovals, at: Instant) -> bool {
        matches!(held.due(&alias(1), at), Due::Now(_))
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
        held.take_back(OTHER, &alias(1));
        held.take_back(ONE, &alias(2));
        held.take_back_all(OTHER);
        assert!(is_due(&mut held, now + HELD));
        for take_back in [
            |held: &mut HeldRemovals| held.take_back(ONE, &alias(1)),
            |held: &mut HeldRemovals| held.take_back_all(ONE),
        ] {
            let (mut held, now) = self::held();
            take_back(&mut held);
            assert!(!is_due(&mut held, now + HELD));
        }
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
            assert!(held.hold(ONE, &alias(number), unlink(), now));
        }
        assert!(!held.hold(ONE, &alias(0), unlink(), now));
        assert!(held.hold(OTHER, &alias(1), unlink(), now));
        assert!(!HeldRemovals::default().hold(None, &alias(1), unlink(), now));
    }
}
