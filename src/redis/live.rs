//! Live settings: what an administrator sets in Redis overrides each server's own file.
//!
//! They are read before a new connection is used, and once in [`POLL_EVERY`] after that. So a
//! server follows a change within a second, and ends no session by a setting that has changed while
//! it had no connection. A text that is no value is logged once, and the last value stays.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use redis::cluster_routing::Slot;
use redis::{Cmd, Value};

use super::keys::Keys;
use super::link::Need;
use super::requests::Requests;
use super::scripts::{Answer, Scripts};
use super::{Inner, RedisStore};
use crate::session::policy::Lifetimes;
use crate::store::StoreError;
use crate::sync::lock;
use crate::telemetry::Event;

/// Twice in the second within which every server follows.
const POLL_EVERY: Duration = Duration::from_millis(500);

/// Which live settings there are, and how their text is taken.
#[derive(Clone, Copy)]
pub struct Rules {
    pub keys: &'static [&'static str],
    /// Takes the text of one of them, or says in one line what is wrong with it.
    pub set: fn(&mut Lifetimes, key: &str, text: &str) -> Result<(), String>,
}

/// What Redis holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Found {
    /// How often they were changed.
    pub generation: u64,
    /// The text of those that are set; not judged.
    pub values: BTreeMap<&'static str, String>,
}

/// The lifetimes that are followed: the server's own, and over them the live ones.
pub(super) struct Live {
    own: Lifetimes,
    rules: Option<Rules>,
    followed: RwLock<Lifetimes>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    found: Found,
    /// The text that is followed: of each setting the last that could be used.
    used: BTreeMap<&'static str, String>,
    /// They were read once, or it was seen that they cannot be.
    once: bool,
    /// Why the settings as a whole could not be read, if that was logged.
    complaint: Option<String>,
}

impl Live {
    pub(super) fn new(own: Lifetimes, rules: Option<Rules>) -> Self {
        Self { own, rules, followed: RwLock::new(own), seen: Mutex::default() }
    }

    pub(super) fn lifetimes(&self) -> Lifetimes {
        *self.followed.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn follow(&self, lifetimes: Lifetimes) {
        *self.followed.write().unwrap_or_else(PoisonError::into_inner) = lifetimes;
    }

    /// What is sent on a new connection, once the scripts are loaded; `None` where nothing is
    /// followed.
    pub(super) fn request(&self, scripts: &Scripts, keys: &Keys) -> Option<Cmd> {
        let requests = Requests::unserved(scripts, keys);
        Some(requests.settings(self.rules?.keys).command())
    }

    /// Uses what a new connection's server answered.
    pub(super) fn take_in(&self, answer: Value) {
        self.follow_found(Answer::parts("settings", answer).and_then(|answer| self.read(answer)));
    }

    fn read(&self, mut answer: Answer) -> Result<Found, StoreError> {
        if let Some(error) = answer.failure()? {
            return Err(error.into());
        }
        if answer.status != "settings" {
            return Err(answer.strange());
        }
        let mut answer = answer.nested()?;
        // It may have been written by hand, as anything.
        let mut next = || -> Result<String, StoreError> {
            Ok(String::from_utf8_lossy(&answer.bytes()?).into_owned())
        };
        let mut found = Found { generation: next()?.parse().unwrap_or(0), ..Found::default() };
        for key in self.rules.map(|rules| rules.keys).unwrap_or_default() {
            let text = next()?;
            if !text.is_empty() {
                found.values.insert(key, text);
            }
        }
        Ok(found)
    }

    /// Whether they are known, where any are followed.
    pub(super) fn is_known(&self) -> bool {
        self.rules.is_none() || lock(&self.seen).once
    }

    fn follow_found(&self, found: Result<Found, StoreError>) {
        let Some(rules) = self.rules else { return };
        let mut seen = lock(&self.seen);
        let found = match found {
            Ok(found) => found,
            // The link logs its own faults.
            Err(StoreError::Unavailable(_)) => return,
            Err(error) => {
                let reason = format!("cannot read the live settings: {error}");
                if seen.complaint.as_ref() != Some(&reason) {
                    Event::BadSetting { reason: &reason }.emit();
                    seen.complaint = Some(reason);
                }
                seen.once = true;
                return;
            }
        };
        seen.once = true;
        seen.complaint = None;
        if seen.found.values == found.values {
            return;
        }
        let mut lifetimes = self.own;
        for key in rules.keys {
            let text = found.values.get(key);
            let old = seen.used.get(key).cloned();
            if seen.found.values.get(key) != text {
                if let Some(Err(reason)) = text.map(|text| (rules.set)(&mut lifetimes, key, text)) {
                    Event::BadSetting { reason: &reason }.emit();
                } else {
                    let new = text.map(String::as_str);
                    Event::Setting { key, old: old.as_deref(), new }.emit();
                    match text {
                        Some(text) => seen.used.insert(key, text.clone()),
                        None => seen.used.remove(key),
                    };
                }
            }
            if let Some(text) = seen.used.get(key) {
                // It could be used before.
                let _ = (rules.set)(&mut lifetimes, key, text);
            }
        }
        seen.found = found;
        self.follow(lifetimes);
    }
}

/// Reads the settings again and again, while the link is up. Ends with the store.
pub(super) async fn poll(store: Weak<Inner>) {
    loop {
        tokio::time::sleep(POLL_EVERY).await;
        let Some(store) = store.upgrade() else { return };
        if store.primaries.of(store.slot_of_settings()).link.health().is_readable() {
            store.live.follow_found(store.live_settings().await);
        }
    }
}

impl Inner {
    async fn live_settings(&self) -> Result<Found, StoreError> {
        let Some(rules) = self.live.rules else { return Ok(Found::default()) };
        let build = |requests| Requests::settings(&requests, rules.keys);
        let sent = self.call(self.slot_of_settings(), Need::Up, self.patience(), build);
        self.live.read(sent.await?)
    }

    pub(super) fn slot_of_settings(&self) -> Slot {
        Slot::for_key(self.keys.config())
    }

    async fn change_live(&self, key: &str, text: &str) -> Result<u64, StoreError> {
        let build = |requests| Requests::set(&requests, key, text);
        let sent = self.call(self.slot_of_settings(), Need::Connected, self.patience(), build);
        let mut answer = sent.await?;
        if answer.status == "done" { answer.number() } else { Err(answer.strange()) }
    }
}

impl RedisStore {
    /// What the live settings are now. Text that is no value is among them.
    pub async fn live_settings(&self) -> Result<Found, StoreError> {
        self.inner.live_settings().await
    }

    /// Changes a live setting, or with no text takes it away: each server's own holds again. Gives
    /// the number of the change. Does not judge the text; sent once.
    pub async fn change_live(&self, key: &str, text: Option<&str>) -> Result<u64, StoreError> {
        self.inner.change_live(key, text.unwrap_or_default()).await
    }

    /// The lifetimes that are followed now.
    pub fn lifetimes(&self) -> Lifetimes {
        self.inner.live.lifetimes()
    }

    /// Other lifetimes from now on, until a live setting changes.
    pub fn set_lifetimes(&self, lifetimes: Lifetimes) {
        self.inner.live.follow(lifetimes);
    }
}

/// The task that polls, where there is something to follow.
pub(super) fn task(store: &Arc<Inner>) -> Option<tokio::task::AbortHandle> {
    store.live.rules?;
    Some(tokio::spawn(poll(Arc::downgrade(store))).abort_handle())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        keys: &["idle", "grace"],
        set: |lifetimes, key, text| {
            let number = text.parse().map_err(|_| format!("{key}: '{text}' is no number"))?;
            match key {
                "idle" => lifetimes.idle_ms = number,
                _ => lifetimes.grace_ms = number,
            }
            Ok(())
        },
    };

    fn followed(live: &Live, values: &[(&'static str, &str)]) -> (u64, u64) {
        let values = values.iter().map(|(key, text)| (*key, (*text).to_owned())).collect();
        live.follow_found(Ok(Found { generation: 1, values }));
        let lifetimes = live.lifetimes();
        (lifetimes.idle_ms, lifetimes.grace_ms)
    }

    #[test]
    fn what_cannot_be_used_leaves_what_held() {
        let own = Lifetimes { idle_ms: 1, grace_ms: 2, ..Lifetimes::default() };
        let live = Live::new(own, Some(RULES));
        assert_eq!(followed(&live, &[("idle", "x")]), (1, 2));
        assert_eq!(followed(&live, &[("idle", "10"), ("grace", "20")]), (10, 20));
        assert_eq!(followed(&live, &[("idle", "y"), ("grace", "30")]), (10, 30));
        live.follow_found(Err(StoreError::Unreadable("WRONGTYPE".into())));
        assert_eq!(live.lifetimes().idle_ms, 10);
        assert_eq!(followed(&live, &[("grace", "30")]), (1, 30));
        assert_eq!(followed(&live, &[]), (1, 2));
    }

    #[test]
    fn answers_of_any_other_shape_change_nothing() {
        let live = Live::new(Lifetimes::default(), Some(RULES));
        for value in [Value::Nil, Value::Int(1), Value::Array(vec![Value::Int(1)])] {
            live.take_in(value);
        }
        assert_eq!(live.lifetimes(), Lifetimes::default());
    }
}
