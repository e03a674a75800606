//! The worker's part: judges what was read, writes it to the live settings, and remembers what was wrong with it.
//!
//! Only what was read just now is written: another server may have read something newer than what this one has read
//! before.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::{ABSOLUTE, IDLE, Round, Values};
use crate::config::lifetime::{value_ms, value_text};
use crate::redis::RedisStore;
use crate::redis::live::Found;
use crate::session::policy::Bounds;
use crate::session::policy::rule::{Rule, Selector, Setting, Source};
use crate::session::policy::rules::{RULES_MAX, Rules};
use crate::store::StoreError;
use crate::supervision::{Channel, Received};
use crate::sync::lock;
use crate::telemetry::now_ms;
use crate::trail::entry::Event;

/// The lifetimes of a database that Odoo does not serve any more are removed after that time. It may be one that is
/// restored from a backup just now.
const REMOVED_AFTER: Duration = Duration::from_secs(3600);
/// No shorter absolute lifetime is taken from Odoo: use does not make it longer, and whoever has mistyped it has to log in,
/// find the page and correct it.
const ABSOLUTE_MIN_MS: u64 = 15 * 60 * 1000;
/// Longer than from one round to the next, whatever happens to PostgreSQL or to who asks it.
const SILENT_AFTER_MS: u64 = 150_000;
/// From one reading of all sessions to the next, which a lifetime that gets longer needs: whoever may set a parameter can
/// set it again and again. Shorter than the grace that every key has beyond the life of its session.
const KEEP_EVERY: Duration = Duration::from_secs(30);

/// What is known of the parameters, for the status.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct State {
    /// When the last round came: milliseconds since the epoch, by this host's clock.
    pub asked_ms: u64,
    /// Why it is not known which databases there are, or what else is wrong with all of them.
    pub problem: Option<String>,
    pub databases: BTreeMap<String, Followed>,
}

/// One database.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Followed {
    /// What holds by its parameters.
    pub idle: Option<String>,
    pub absolute: Option<String>,
    /// What is wrong with them.
    pub problems: Vec<String>,
}

/// What is told to [`State`].
pub(crate) type Shared = Arc<Mutex<State>>;

/// Follows what comes by this socket, until its other end is closed.
pub(crate) fn start(
    socket: OwnedFd,
    bounds: Bounds,
    store: RedisStore,
    runtime: Handle,
) -> std::io::Result<Shared> {
    let state = Arc::new(Mutex::new(State { asked_ms: now_ms(), ..State::default() }));
    let mut follower = Follower {
        bounds,
        store,
        state: Arc::clone(&state),
        gone: BTreeMap::new(),
        unkept: None,
        kept: None,
    };
    let channel = Channel::new(socket);
    std::thread::Builder::new().name("parameters".into()).spawn(move || {
        loop {
            match channel.receive::<Round>() {
                Received::Message(round) => runtime.block_on(follower.take_in(round)),
                Received::Empty => {}
                Received::Closed => return,
            }
        }
    })?;
    Ok(state)
}

struct Follower {
    bounds: Bounds,
    store: RedisStore,
    state: Shared,
    /// The databases that Odoo does not serve any more, and since when.
    gone: BTreeMap<String, Instant>,
    /// What held before a lifetime got longer, if the keys do not have the longer time yet.
    unkept: Option<Arc<Rules>>,
    /// When they were given it last.
    kept: Option<Instant>,
}

/// What the live settings are to be: the place of each rule, with its text or none.
type Wishes = Vec<(String, Option<String>)>;

impl Follower {
    async fn take_in(&mut self, round: Round) {
        lock(&self.state).asked_ms = now_ms();
        self.keep().await;
        // While Redis is away nothing is followed; its own faults are logged elsewhere.
        let Ok(found) = self.store.live_settings().await else { return };
        let before = self.store.rules();
        let former = lock(&self.state).clone();
        let own = before.all().iter().filter(|rule| rule.source == Source::File).count();
        let mut rules = Written { rules: own + found.rules.len(), longer: false };
        let is_whole = round.failure.is_none();
        let mut next = State {
            asked_ms: now_ms(),
            problem: round.failure.or(round.problem),
            databases: BTreeMap::new(),
        };
        for database in round.databases {
            let mut followed = Followed::default();
            match database.values {
                Ok(values) => {
                    let wishes =
                        wishes(&database.name, &values, &self.bounds, &mut followed.problems);
                    self.write(&wishes, &found, &mut rules, &mut followed.problems).await;
                }
                Err(why) => followed.problems.push(format!("cannot be read: {why}")),
            }
            self.gone.remove(&database.name);
            next.databases.insert(database.name, followed);
        }
        for (name, followed) in former.databases {
            let Entry::Vacant(place) = next.databases.entry(name) else { continue };
            let followed = if is_whole {
                self.without(place.key(), &found, &mut rules).await
            } else {
                Some(followed)
            };
            followed.map(|followed| place.insert(followed));
        }
        if let Ok(found) = self.store.live_settings().await {
            next.show_what_holds(&found);
        }
        if rules.longer {
            self.unkept.get_or_insert(before);
        }
        let mut state = lock(&self.state);
        next.tell_news(&state);
        *state = next;
    }

    /// A session's key has the time to live that it got by the lifetimes of then. Those that may live longer since a round
    /// before, which every server follows now, get a longer one.
    async fn keep(&mut self) {
        if self.kept.is_some_and(|kept| kept.elapsed() < KEEP_EVERY) {
            return;
        }
        let Some(before) = self.unkept.take() else { return };
        self.kept = Some(Instant::now());
        if let Err(error) = self.store.keep_changed(&before, &self.store.rules()).await {
            tracing::debug!(%error, "not all keys have the longer time yet");
            self.unkept = Some(before);
        }
    }

    /// Writes what is not so yet.
    async fn write(
        &self,
        wishes: &Wishes,
        found: &Found,
        rules: &mut Written,
        problems: &mut Vec<String>,
    ) {
        for (place, text) in wishes {
            let had = found.rules.get(place);
            if had == text.as_ref() {
                continue;
            }
            if had.is_none() && rules.rules >= RULES_MAX {
                problems
                    .push(format!("there are {RULES_MAX} rules already, and there can be no more"));
                continue;
            }
            match self.store.change_live(place, text.as_deref()).await {
                Ok(_) => {}
                Err(StoreError::Refused(why)) => {
                    problems.push(format!("Redis takes no changes: {why}"));
                    continue;
                }
                // It is tried again with the next round.
                Err(_) => continue,
            }
            rules.rules += usize::from(had.is_none());
            // What holds without it may be shorter or longer.
            rules.longer |= ms(had).zip(ms(text.as_ref())).is_none_or(|(old, new)| new > old);
            let word = |text: Option<&String>| text.map_or("none", String::as_str).to_owned();
            let what = format!("Odoo: {place}: {} -> {}", word(had), word(text.as_ref()));
            // Entries that cannot be kept are counted elsewhere.
            let _ = self.store.tell_trail(Event::SettingChanged, &what, None).await;
        }
    }

    /// A database that Odoo does not serve any more: nothing, once its lifetimes are removed.
    async fn without(
        &mut self,
        name: &str,
        found: &Found,
        rules: &mut Written,
    ) -> Option<Followed> {
        let mut followed = Followed::default();
        let since = *self.gone.entry(name.to_owned()).or_insert_with(Instant::now);
        let places = [Setting::Idle, Setting::Absolute].map(|setting| place(setting, name));
        let wishes: Wishes = places.into_iter().flatten().map(|place| (place, None)).collect();
        if wishes.iter().all(|(place, _)| !found.rules.contains_key(place)) {
            self.gone.remove(name);
            return None;
        }
        followed.problems.push(
            "Odoo does not serve this database any more; its lifetimes stay for an hour".into(),
        );
        if since.elapsed() >= REMOVED_AFTER {
            self.write(&wishes, found, rules, &mut followed.problems).await;
        }
        Some(followed)
    }
}

/// What a round has written.
struct Written {
    /// How many rules there are.
    rules: usize,
    /// A lifetime may be longer than before.
    longer: bool,
}

/// A lifetime that a rule has; no limit is the longest.
fn ms(text: Option<&String>) -> Option<u64> {
    let ms = value_ms(Setting::Idle, text?).ok()?;
    Some(ms.unwrap_or(u64::MAX))
}

/// What a database asks for. Of a value that cannot be used there is nothing, and the last one stays.
fn wishes(database: &str, values: &Values, bounds: &Bounds, problems: &mut Vec<String>) -> Wishes {
    let asked = [
        (Setting::Idle, IDLE, &values.idle, bounds.idle_max_ms),
        (Setting::Absolute, ABSOLUTE, &values.absolute, bounds.absolute_max_ms),
    ];
    let mut wishes = Vec::new();
    for (setting, key, text, max_ms) in asked {
        let Some(place) = place(setting, database) else {
            problems.push("its name is too long for a rule".to_owned());
            return Vec::new();
        };
        let Some(text) = text.as_deref().map(str::trim).filter(|text| !text.is_empty()) else {
            wishes.push((place, None));
            continue;
        };
        let seconds = text.parse::<u64>().ok().filter(|seconds| *seconds > 0);
        let Some(ms) = seconds.and_then(|seconds| seconds.checked_mul(1000)) else {
            let shown: String = text.chars().take(32).flat_map(char::escape_debug).collect();
            problems
                .push(format!("{key}: '{shown}' is not a number of seconds; the last value stays"));
            continue;
        };
        // Ten years are the longest lifetime that there is.
        let max_ms = max_ms.unwrap_or(u64::MAX).min(10 * 31_557_600_000);
        let min_ms = match setting {
            Setting::Absolute => bounds.min_ms.max(ABSOLUTE_MIN_MS.min(max_ms)),
            _ => bounds.min_ms,
        };
        let used_ms = ms.min(max_ms).max(min_ms);
        if used_ms != ms {
            let limit = if used_ms > ms { "smallest" } else { "largest" };
            let used = value_text(Some(used_ms));
            problems.push(format!("{key}: {text} s is not allowed; {used}, the {limit}, is used"));
        }
        wishes.push((place, Some(value_text(Some(used_ms)))));
    }
    wishes
}

fn place(setting: Setting, database: &str) -> Option<String> {
    let selector = Selector::new(Some(database), None, None).ok()?;
    Some(Rule::new(setting, selector, None, Source::Odoo).ok()?.place())
}

impl State {
    fn show_what_holds(&mut self, found: &Found) {
        for (database, followed) in &mut self.databases {
            let text = |setting| found.rules.get(&place(setting, database)?).cloned();
            (followed.idle, followed.absolute) = (text(Setting::Idle), text(Setting::Absolute));
        }
    }

    /// Whether nothing is heard any more of who asks PostgreSQL.
    pub(crate) fn is_silent(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.asked_ms) > SILENT_AFTER_MS
    }

    /// Every problem, each with its database.
    pub(crate) fn problems(&self) -> impl Iterator<Item = (Option<&str>, &str)> {
        let of_all = self.problem.iter().map(|why| (None, why.as_str()));
        let of_each = self.databases.iter().flat_map(|(name, followed)| {
            followed.problems.iter().map(move |why| (Some(name.as_str()), why.as_str()))
        });
        of_all.chain(of_each)
    }

    /// Logs what was not there before.
    fn tell_news(&self, before: &Self) {
        for (db, why) in self.problems() {
            if !before.problems().any(|known| known == (db, why)) {
                tracing::warn!(event = "odoo_parameters", db, why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds =
        Bounds { min_ms: 60_000, idle_max_ms: Some(3_600_000), absolute_max_ms: None };
    const IDLE_PLACE: &str = "lifetime.idle database=my%20shop source=odoo";
    const ABSOLUTE_PLACE: &str = "lifetime.absolute database=my%20shop source=odoo";

    fn wished(
        idle: Option<&str>,
        absolute: Option<&str>,
    ) -> (Vec<(String, Option<String>)>, Vec<String>) {
        let owned = |text: Option<&str>| text.map(ToOwned::to_owned);
        let values = Values { idle: owned(idle), absolute: owned(absolute) };
        let mut problems = Vec::new();
        (wishes("my shop", &values, &BOUNDS, &mut problems), problems)
    }

    #[test]
    fn seconds_become_the_lifetimes_of_the_database() {
        let (wishes, problems) = wished(Some("900"), Some(" 43200 "));
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            wishes,
            [(IDLE_PLACE.to_owned(), text("15min")), (ABSOLUTE_PLACE.to_owned(), text("12h"))]
        );
        assert_eq!(problems, [""; 0]);
        for none in [None, Some(""), Some(" ")] {
            let (wishes, problems) = wished(none, none);
            assert_eq!(wishes, [(IDLE_PLACE.to_owned(), None), (ABSOLUTE_PLACE.to_owned(), None)]);
            assert_eq!(problems, [""; 0]);
        }
    }

    #[test]
    fn what_cannot_be_used_changes_nothing() {
        for text in ["0", "-5", "15min", "1e3", "99999999999999999999"] {
            let (wishes, problems) = wished(Some(text), None);
            assert_eq!(wishes, [(ABSOLUTE_PLACE.to_owned(), None)], "{text}");
            assert_eq!(
                problems,
                [format!(
                    "session.timeout: '{text}' is not a number of seconds; the last value stays"
                )]
            );
        }
    }

    #[test]
    fn a_value_outside_the_bounds_is_clamped_and_told() {
        let (wishes, problems) = wished(Some("5"), Some("1"));
        assert_eq!(wishes[0].1.as_deref(), Some("1min"));
        // Long enough to log in and correct it.
        assert_eq!(wishes[1].1.as_deref(), Some("15min"));
        assert_eq!(problems[0], "session.timeout: 5 s is not allowed; 1min, the smallest, is used");
        let (wishes, problems) = wished(Some("7200"), Some("999999999999"));
        assert_eq!(wishes[0].1.as_deref(), Some("1h"));
        assert_eq!(wishes[1].1.as_deref(), Some("10years"));
        assert_eq!(problems[0], "session.timeout: 7200 s is not allowed; 1h, the largest, is used");
    }
}
