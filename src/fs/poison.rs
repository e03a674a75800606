//! Sessions that workers have died of.
//!
//! A request that kills each worker is failed in the end. Its caller asks again, by another request, and that would cost
//! as many workers. So for a while the session cannot be read or saved: that fails at once. Its name exists meanwhile,
//! and it can be removed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Core;
use super::caller::{Caller, MS_PER_TICK};
use super::inode::InodeId;
use super::kept::KeptState;
use super::save::session_name;
use crate::session::name::Alias;
use crate::store::{Link, Sessions};

/// How long its requests fail after a worker has died of one.
const FAILS_FOR: Duration = Duration::from_secs(300);
/// Of how many sessions that is remembered. One that is forgotten may cost as many workers again.
const MAX_SESSIONS: usize = 256;

/// Why its requests fail.
pub(super) const DIED_OF_IT: &str = "workers have died of its requests";

/// What a request is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub caller: Caller,
    pub does: Does,
    pub inode: InodeId,
    /// The directory and the name of the file that it looks up, removes or replaces.
    pub target: Option<(InodeId, &'a OsStr)>,
}

/// What a request does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Does {
    /// A part of Odoo's read of a session.
    Read,
    /// A part of a save.
    Save,
    /// A look at the attributes, or a change of them.
    Attributes,
    /// Anything else.
    Other,
}

/// The sessions.
pub(super) struct Poisoned {
    sessions: HashMap<Alias, Failing>,
    kept: KeptState,
}

/// How long the requests of a session fail.
struct Failing {
    until: Instant,
    /// Of the request, for the next worker.
    number: u64,
}

impl Poisoned {
    /// Those that the workers before have died of.
    pub(super) fn new(kept: KeptState, now: Instant, now_ticks: u64) -> Self {
        let mut sessions = HashMap::new();
        for (number, alias, at_ticks) in kept.poisoned() {
            let age = Duration::from_millis(now_ticks.saturating_sub(at_ticks) * MS_PER_TICK);
            match FAILS_FOR.checked_sub(age) {
                Some(left) => drop(sessions.insert(alias, Failing { until: now + left, number })),
                None => kept.forget_poisoned(number),
            }
        }
        Self { sessions, kept }
    }

    /// Workers have died of this session, by the request of that number.
    fn insert(&mut self, alias: Alias, number: u64, now: Instant, now_ticks: u64) {
        self.remove(&alias);
        if self.sessions.len() >= MAX_SESSIONS {
            let first = self.sessions.iter().min_by_key(|(_, failing)| failing.until);
            if let Some(first) = first.map(|(alias, _)| alias.clone()) {
                self.remove(&first);
            }
        }
        self.kept.put_poisoned(number, &alias, now_ticks);
        self.sessions.insert(alias, Failing { until: now + FAILS_FOR, number });
    }

    /// This session has ended.
    pub(super) fn remove(&mut self, alias: &Alias) {
        if let Some(failing) = self.sessions.remove(alias) {
            self.kept.forget_poisoned(failing.number);
        }
    }
}

impl<S: Sessions, L: Link> Core<S, L> {
    /// Whether the requests of this session fail.
    pub(super) fn is_poisoned(&self, alias: &Alias) -> bool {
        let poisoned = self.poisoned();
        // Nearly always there is none.
        !poisoned.sessions.is_empty()
            && poisoned
                .sessions
                .get(alias)
                .is_some_and(|failing| self.callers.now() < failing.until)
    }

    /// The session that a request is about, for the log. That of a save is not known before the rename: most likely it is
    /// the one that its thread has opened last.
    pub fn session_of(&self, subject: &Subject<'_>) -> Option<Alias> {
        let known = self.known_session_of(subject);
        if known.is_some() || subject.does != Does::Save {
            return known;
        }
        let by = self.callers.identify(subject.caller);
        self.threads().get(by.thread)?.last_opened().cloned()
    }

    fn known_session_of(&self, subject: &Subject<'_>) -> Option<Alias> {
        let Some((parent, name)) = subject.target else {
            return self.inodes().alias(subject.inode);
        };
        let name = session_name(parent, name)?;
        let listed = name.candidate.as_ref().and_then(|name| self.listed_alias(name));
        Some(listed.unwrap_or_else(|| name.sid.alias()))
    }

    /// This request is failed, because workers died of it. What follows for its thread is the same as if it had failed
    /// here, and its session is not read or saved for a while.
    pub fn died_of(self: &Arc<Self>, subject: &Subject<'_>) {
        let by = self.callers.identify(subject.caller);
        let alias = self.known_session_of(subject);
        match subject.does {
            Does::Read => {
                self.opens_nothing(by.request);
                self.stale().end(by);
                match &alias {
                    Some(alias) => self.threads().read_failed(by.thread, alias),
                    None => self.threads().fail_next_save(by.thread),
                }
            }
            Does::Save => {
                if let Ok(staged) = self.staged_by(subject.inode) {
                    staged.note_failure();
                }
                self.save_failed(by);
                if let Some(alias) = &alias {
                    self.gives_back(by, alias);
                }
            }
            Does::Attributes => {}
            Does::Other => return,
        }
        if let Some(alias) = alias {
            let number = by.request.map_or(0, |request| request.number);
            let (now, now_ticks) = (self.callers.now(), self.callers.now_ticks());
            self.poisoned().insert(alias, number, now, now_ticks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::{self, Kept};

    fn alias(number: u64) -> Alias {
        Alias::parse(&format!("ab{number:082}")).expect("an alias")
    }

    fn kept(memory: &std::os::fd::OwnedFd) -> KeptState {
        KeptState::new(Kept::open(memory).unwrap())
    }

    #[test]
    fn the_next_workers_know_it_until_its_time_is_over() {
        let memory = handoff::create().unwrap();
        let (now, ticks) = (Instant::now(), 5000);
        Poisoned::new(kept(&memory), now, ticks).insert(alias(1), 2, now, ticks);
        let later = |age: Duration| {
            let ticks = ticks + u64::try_from(age.as_millis()).unwrap() / MS_PER_TICK;
            let poisoned = Poisoned::new(kept(&memory), now + age, ticks);
            poisoned.sessions.get(&alias(1)).map(|failing| failing.until)
        };
        assert_eq!(later(FAILS_FOR / 2), Some(now + FAILS_FOR));
        assert_eq!(later(FAILS_FOR + Duration::from_secs(1)), None);
        assert_eq!(later(Duration::ZERO), None, "it is forgotten");
    }

    #[test]
    fn few_are_known_at_once_and_none_that_has_ended() {
        let memory = handoff::create().unwrap();
        let (now, ticks) = (Instant::now(), 5000);
        let mut poisoned = Poisoned::new(kept(&memory), now, ticks);
        for number in 1..1000 {
            poisoned.insert(alias(number), 2 * number, now, ticks);
        }
        assert_eq!(poisoned.sessions.len(), MAX_SESSIONS);
        assert!(poisoned.sessions.contains_key(&alias(999)));
        poisoned.remove(&alias(999));
        let next = Poisoned::new(kept(&memory), now, ticks);
        assert_eq!(next.sessions.len(), MAX_SESSIONS - 1);
        assert!(!next.sessions.contains_key(&alias(999)));
    }
}
