//! Live settings: what an administrator sets in Redis overrides each server's own file.
//!
//! They are read before a new connection is used, and once in [`POLL_EVERY`] after that. So a
//! server follows a change within a second, and ends no session by a setting that has changed while
//! it had no connection. A text that is no value is logged once, and the last value stays. Rules lie
//! beside them, each under its key and its selector; one that cannot be used is logged once, and the
//! others hold.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use redis::cluster_routing::Slot;
use redis::{Cmd, Value};

use super::keys::Keys;
use super::link::Need;
use super::requests::Requests;
use super::rules::Judged;
use super::scripts::{Answer, Scripts};
use super::{Inner, RedisStore};
use crate::session::policy::Lifetimes;
use crate::session::policy::rule::Rule;
use crate::session::policy::rules::Rules;
use crate::store::StoreError;
use crate::sync::lock;
use crate::telemetry::Event;

/// Twice in the second within which every server follows.
const POLL_EVERY: Duration = Duration::from_millis(500);

/// Which live settings there are, and how their text is taken.
#[derive(Clone, Copy)]
pub struct Schema {
    pub keys: &'static [&'static str],
    /// Takes the text of one of them, or says in one line what is wrong with it.
    pub set: fn(&mut Lifetimes, key: &str, text: &str) -> Result<(), String>,
    /// The rule of that place, key and selector, with that text; or what is wrong with it.
    pub rule: fn(place: &str, text: &str) -> Result<Rule, String>,
}

/// What Redis holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Found {
    /// How often they were changed.
    pub generation: u64,
    /// The text of those that are set; not judged.
    pub values: BTreeMap<&'static str, String>,
    /// The text of each rule by its place; not judged.
    pub rules: BTreeMap<String, String>,
    /// Why the rules could not be read, if so.
    pub unread: Option<String>,
}

/// The lifetimes that are followed: the server's own, and over them the live ones.
pub(super) struct Live {
    own: Rules,
    schema: Option<Schema>,
    followed: RwLock<Judged>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    found: Found,
    /// The text that is followed: of each setting the last that could be used.
    used: BTreeMap<&'static str, String>,
    /// The live rules that are followed, by their places.
    rules: BTreeMap<String, Rule>,
    /// They were read once, or it was seen that they cannot be.
    once: bool,
    /// Why the settings as a whole could not be read, if that was logged.
    complaint: Option<String>,
}

impl Live {
    pub(super) fn new(own: Rules, schema: Option<Schema>) -> Self {
        let followed = RwLock::new(own.clone().into());
        Self { own, schema, followed, seen: Mutex::default() }
    }

    pub(super) fn judged(&self) -> Judged {
        self.followed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn longest_idle_ms(&self) -> u64 {
        self.followed.read().unwrap_or_else(PoisonError::into_inner).longest_idle_ms
    }

    pub(super) fn follow(&self, rules: Rules) {
        *self.followed.write().unwrap_or_else(PoisonError::into_inner) = rules.into();
    }

    /// What is sent on a new connection, once the scripts are loaded; `None` where nothing is
    /// followed.
    pub(super) fn request(&self, scripts: &Scripts, keys: &Keys) -> Option<Cmd> {
        let requests = Requests::unserved(scripts, keys);
        Some(requests.settings(self.schema?.keys).command())
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
        let mut values = answer.nested()?;
        let mut found =
            Found { generation: any_text(&mut values)?.parse().unwrap_or(0), ..Found::default() };
        for key in self.schema.map(|schema| schema.keys).unwrap_or_default() {
            let text = any_text(&mut values)?;
            if !text.is_empty() {
                found.values.insert(key, text);
            }
        }
        let mut rules = answer.nested()?;
        while rules.more() {
            found.rules.insert(any_text(&mut rules)?, any_text(&mut rules)?);
        }
        let unread = any_text(&mut answer)?;
        found.unread = (!unread.is_empty()).then_some(unread);
        Ok(found)
    }

    /// Whether they are known, where any are followed.
    pub(super) fn is_known(&self) -> bool {
        self.schema.is_none() || lock(&self.seen).once
    }

    fn follow_found(&self, found: Result<Found, StoreError>) {
        let Some(schema) = self.schema else { return };
        let mut seen = lock(&self.seen);
        let found = match found {
            Ok(found) => found,
            // The link logs its own faults.
            Err(StoreError::Unavailable(_)) => return,
            Err(error) => {
                seen.complain(Some(format!("cannot read the live settings: {error}")));
                seen.once = true;
                return;
            }
        };
        seen.once = true;
        let unread = found.unread.as_ref();
        seen.complain(unread.map(|why| {
            format!("cannot read the live rules of lifetimes: {why}; the last ones stay")
        }));
        let has_other_values = seen.found.values != found.values;
        let has_other_rules = found.unread.is_none() && seen.found.rules != found.rules;
        if !has_other_values && !has_other_rules {
            return;
        }
        let general = if has_other_values {
            seen.follow_values(schema, &found, *self.own.general())
        } else {
            *self.judged().rules.general()
        };
        if has_other_rules {
            seen.follow_rules(schema, &found, &self.own);
        }
        let rules = self.own.all().iter().chain(seen.rules.values()).cloned().collect();
        seen.found = Found {
            rules: if found.unread.is_none() {
                found.rules
            } else {
                std::mem::take(&mut seen.found.rules)
            },
            ..found
        };
        // There are not too many of them: that was seen when they were taken over.
        if let Ok(rules) = Rules::new(general, rules) {
            self.follow(rules);
        }
    }
}

/// What was written by hand may be anything.
fn any_text(answer: &mut Answer) -> Result<String, StoreError> {
    Ok(String::from_utf8_lossy(&answer.bytes()?).into_owned())
}

impl Seen {
    /// Logs once why something could not be read; `None`: it could.
    fn complain(&mut self, reason: Option<String>) {
        if self.complaint == reason {
            return;
        }
        if let Some(reason) = &reason {
            Event::BadSetting { reason }.emit();
        }
        self.complaint = reason;
    }

    /// The lifetimes for all, by what was found.
    fn follow_values(&mut self, schema: Schema, found: &Found, own: Lifetimes) -> Lifetimes {
        let mut lifetimes = own;
        for key in schema.keys {
            let text = found.values.get(key);
            let old = self.used.get(key).cloned();
            if self.found.values.get(key) != text {
                if let Some(Err(reason)) = text.map(|text| (schema.set)(&mut lifetimes, key, text))
                {
                    Event::BadSetting { reason: &reason }.emit();
                } else {
                    let new = text.map(String::as_str);
                    Event::Setting { key, old: old.as_deref(), new }.emit();
                    match text {
                        Some(text) => self.used.insert(key, text.clone()),
                        None => self.used.remove(key),
                    };
                }
            }
            if let Some(text) = self.used.get(key) {
                // It could be used before.
                let _ = (schema.set)(&mut lifetimes, key, text);
            }
        }
        lifetimes
    }

    /// Takes over the rules that were found, if they are not too many beside the server's own. In the place of one that
    /// cannot be used the last one stays that could be.
    fn follow_rules(&mut self, schema: Schema, found: &Found, own: &Rules) {
        let read = |(place, text): (&String, &String)| {
            let rule = (schema.rule)(place, text).ok().or_else(|| self.rules.get(place).cloned());
            Some((place.clone(), rule?))
        };
        let rules: BTreeMap<String, Rule> = found.rules.iter().filter_map(read).collect();
        let all = own.all().iter().chain(rules.values()).cloned().collect();
        if let Err(too_many) = Rules::new(*own.general(), all) {
            let reason = format!("{too_many}; the last ones stay");
            Event::BadSetting { reason: &reason }.emit();
            return;
        }
        let former = &self.found.rules;
        let gone = former.keys().filter(|place| !found.rules.contains_key(*place));
        for place in found.rules.keys().chain(gone) {
            let (old, new) = (former.get(place), found.rules.get(place));
            if old == new {
                continue;
            }
            match new.map(|text| (schema.rule)(place, text)) {
                Some(Err(reason)) => Event::BadSetting { reason: &reason }.emit(),
                _ => Event::Setting {
                    key: place,
                    old: old.map(String::as_str),
                    new: new.map(String::as_str),
                }
                .emit(),
            }
        }
        self.rules = rules;
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
        let Some(schema) = self.live.schema else { return Ok(Found::default()) };
        let build = |requests| Requests::settings(&requests, schema.keys);
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

    /// Changes a live setting or a rule (by its place), or with no text takes it away: each server's own holds again. Gives
    /// the number of the change. Does not judge the text; sent once.
    pub async fn change_live(&self, key: &str, text: Option<&str>) -> Result<u64, StoreError> {
        self.inner.change_live(key, text.unwrap_or_default()).await
    }

    /// The lifetimes that are followed now.
    pub fn rules(&self) -> Arc<Rules> {
        self.inner.live.judged().rules
    }

    /// Other lifetimes from now on, until a live setting changes.
    pub fn set_lifetimes(&self, lifetimes: impl Into<Rules>) {
        self.inner.live.follow(lifetimes.into());
    }
}

/// The task that polls, where there is something to follow.
pub(super) fn task(store: &Arc<Inner>) -> Option<tokio::task::AbortHandle> {
    store.live.schema?;
    Some(tokio::spawn(poll(Arc::downgrade(store))).abort_handle())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::policy::rule::{Selector, Setting, Source};

    const SCHEMA: Schema = Schema {
        keys: &["idle", "grace"],
        set: |lifetimes, key, text| {
            let number = text.parse().map_err(|_| format!("{key}: '{text}' is no number"))?;
            match key {
                "idle" => lifetimes.idle_ms = number,
                _ => lifetimes.grace_ms = number,
            }
            Ok(())
        },
        rule: |place, text| {
            let selector = Selector::parse(place).map_err(|why| why.to_string())?;
            let ms = text.parse().map_err(|_| format!("{place}: '{text}' is no number"))?;
            Rule::new(Setting::Idle, selector, Some(ms), Source::Live).map_err(|e| e.to_string())
        },
    };

    fn found(values: &[(&'static str, &str)], rules: &[(&str, &str)]) -> Found {
        let values = values.iter().map(|(key, text)| (*key, (*text).to_owned())).collect();
        let text = |(place, text): &(&str, &str)| ((*place).to_owned(), (*text).to_owned());
        Found { generation: 1, values, rules: rules.iter().map(text).collect(), unread: None }
    }

    fn followed(live: &Live, values: &[(&'static str, &str)]) -> (u64, u64) {
        live.follow_found(Ok(found(values, &[])));
        let general = *live.judged().rules.general();
        (general.idle_ms, general.grace_ms)
    }

    /// The text of the rules that are followed, as (selector, ms).
    fn rules(live: &Live) -> Vec<(String, u64)> {
        let rules = live.judged().rules;
        let text = |rule: &Rule| (rule.selector.to_string(), rule.ms.unwrap_or(0));
        rules.all().iter().map(text).collect()
    }

    #[test]
    fn what_cannot_be_used_leaves_what_held() {
        let own = Lifetimes { idle_ms: 1, grace_ms: 2, ..Lifetimes::default() };
        let live = Live::new(own.into(), Some(SCHEMA));
        assert_eq!(followed(&live, &[("idle", "x")]), (1, 2));
        assert_eq!(followed(&live, &[("idle", "10"), ("grace", "20")]), (10, 20));
        assert_eq!(followed(&live, &[("idle", "y"), ("grace", "30")]), (10, 30));
        live.follow_found(Err(StoreError::Unreadable("WRONGTYPE".into())));
        assert_eq!(live.judged().rules.general().idle_ms, 10);
        assert_eq!(followed(&live, &[("grace", "30")]), (1, 30));
        assert_eq!(followed(&live, &[]), (1, 2));
    }

    #[test]
    fn a_rule_that_cannot_be_used_leaves_the_others() {
        let live = Live::new(Rules::default(), Some(SCHEMA));
        let both = [("database=a", "1"), ("database=b", "x"), ("login=a*b*c*d", "2")];
        live.follow_found(Ok(found(&[("idle", "7")], &both)));
        assert_eq!(rules(&live), [("database=a".to_owned(), 1)]);
        // Other rules leave what holds for all, and the other way round.
        live.follow_found(Ok(found(&[("idle", "7")], &[("database=b", "2")])));
        assert_eq!(rules(&live), [("database=b".to_owned(), 2)]);
        assert_eq!(live.judged().rules.general().idle_ms, 7);
        live.follow_found(Ok(found(&[("idle", "8")], &[("database=b", "2")])));
        assert_eq!(rules(&live), [("database=b".to_owned(), 2)]);
        assert_eq!(live.judged().rules.general().idle_ms, 8);
        live.follow_found(Ok(found(&[], &[])));
        assert_eq!(rules(&live), []);
    }

    #[test]
    fn in_the_place_of_a_rule_that_cannot_be_used_the_last_one_stays() {
        let live = Live::new(Rules::default(), Some(SCHEMA));
        live.follow_found(Ok(found(&[], &[("database=a", "1")])));
        live.follow_found(Ok(found(&[], &[("database=a", "x"), ("database=b", "2")])));
        let both = [("database=a".to_owned(), 1), ("database=b".to_owned(), 2)];
        assert_eq!(rules(&live), both);
        live.follow_found(Ok(found(&[], &[("database=a", "3"), ("database=b", "2")])));
        assert_eq!(rules(&live)[0], ("database=a".to_owned(), 3));
        live.follow_found(Ok(found(&[], &[("database=b", "2")])));
        assert_eq!(rules(&live).len(), 1);
    }

    #[test]
    fn rules_that_cannot_be_read_or_are_too_many_leave_the_last_ones() {
        let live = Live::new(Rules::default(), Some(SCHEMA));
        live.follow_found(Ok(found(&[], &[("database=a", "1")])));
        let unread = Some("too many fields".to_owned());
        live.follow_found(Ok(Found { unread, ..found(&[("idle", "9")], &[]) }));
        assert_eq!(rules(&live), [("database=a".to_owned(), 1)]);
        assert_eq!(live.judged().rules.general().idle_ms, 9);
        let places: Vec<_> = (0..300).map(|n| format!("database=d{n}")).collect();
        let many: Vec<_> = places.iter().map(|place| (place.as_str(), "2")).collect();
        live.follow_found(Ok(found(&[("idle", "9")], &many)));
        assert_eq!(rules(&live), [("database=a".to_owned(), 1)]);
        live.follow_found(Ok(found(&[("idle", "9")], &[("database=a", "3")])));
        assert_eq!(rules(&live), [("database=a".to_owned(), 3)]);
    }

    #[test]
    fn answers_of_any_other_shape_change_nothing() {
        let live = Live::new(Rules::default(), Some(SCHEMA));
        for value in [Value::Nil, Value::Int(1), Value::Array(vec![Value::Int(1)])] {
            live.take_in(value);
        }
        assert_eq!(*live.judged().rules, Rules::default());
    }
}
