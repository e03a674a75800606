//! `sessionfs config`: the settings that can be changed while the servers serve, and what
//! the file says.

mod explain;
mod selector;
mod show;

use std::time::Duration;

use serde::Serialize;

use super::output::{self, Format, json, say, visible};
use super::redis::{Reached, failed, reach, tell};
use super::sessions::sessions;
use super::system_log;
use crate::config::file::File;
use crate::config::flags::Place;
use crate::config::lifetime;
use crate::exit::{ExitCode, Failure};
use crate::redis::RedisStore;
use crate::redis::live::Found;
use crate::redis::scan::Filter;
use crate::session::content::Class;
use crate::session::policy::rule::{OF_ODOO, Rule, Selector, Setting as SettingKind, Source};
use crate::session::policy::rules::Rules;
use crate::trail::entry::Event;

use self::selector::{Of, Shown};

/// Every node has followed a change by then.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(1);

/// Show and change the live settings of all servers
#[derive(clap::Args, Debug)]
pub(super) struct Config {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show the settings that can be changed live, and where each value comes from
    Get {
        /// One key, such as `lifetime.idle` (default: all)
        #[arg(value_name = "KEY")]
        key: Option<String>,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        format: Format,
    },
    /// Show the keys of the configuration file, and the default of each lifetime that it does not
    /// set
    Show(show::Show),
    /// Show which lifetimes the sessions of a user have, and which rule gives each
    Explain(explain::Explain),
    /// Change a setting on all servers, for all sessions or for some; without --yes, only show which
    /// sessions a shorter lifetime would end
    Set {
        /// Key, such as `lifetime.idle`
        #[arg(value_name = "KEY")]
        key: String,
        /// Value, as in the configuration file, such as `30min`
        #[arg(value_name = "VALUE")]
        value: String,
        /// Make a lifetime shorter even if that ends sessions
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        format: Format,
    },
    /// Remove a live setting, or a live rule: the value of each server's file, or the default, applies
    /// again
    Unset {
        /// Key, such as `lifetime.idle`
        #[arg(value_name = "KEY")]
        key: String,
        /// Make a lifetime shorter even if that ends sessions
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        format: Format,
    },
}

impl Config {
    /// Reads or changes.
    pub(super) fn run(&self) -> Result<(), Failure> {
        match &self.what {
            What::Get { key, place, format } => get(key.as_deref(), place, *format),
            What::Show(show) => show.run(),
            What::Explain(explain) => explain.run(),
            What::Set { key, value, yes, of, place, format } => {
                let key = lifetime::known(key)?;
                let value = Some(lifetime::canonical(key, value.trim())?);
                Wish { key, of: of.selector_for(key)?, value, yes: *yes }.carry_out(place, *format)
            }
            What::Unset { key, yes, of, place, format } => {
                let key = lifetime::known(key)?;
                let of = of.selector_for(key)?;
                Wish { key, of, value: None, yes: *yes }.carry_out(place, *format)
            }
        }
    }
}

/// A setting, or a rule, with its value and where that comes from.
#[derive(Serialize)]
struct Setting {
    key: &'static str,
    /// For which sessions; all, if it is no rule.
    #[serde(flatten)]
    of: Option<Shown>,
    value: String,
    source: String,
    /// Text in Redis that is no value, and so is not followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    ignored: Option<String>,
}

fn setting(key: &'static str, file: &File, found: &Found) -> Result<Setting, Failure> {
    let own = lifetime::own(&file.lifetime)?;
    let live = found.values.get(key);
    let usable = live.and_then(|text| lifetime::canonical(key, text).ok());
    let ignored = if usable.is_none() { live.cloned() } else { None };
    let (value, source) = if let Some(text) = usable {
        (text, Source::Live.as_str().to_owned())
    } else {
        let text = lifetime::text(own.general(), key).unwrap_or_default();
        (text, lifetime::origin(&file.lifetime, key))
    };
    Ok(Setting { key, of: None, value, source, ignored })
}

/// A rule that is followed.
fn of_rule(rule: &Rule) -> Setting {
    Setting {
        key: rule.setting.key(),
        of: Some(Shown::of(&rule.selector)),
        value: lifetime::value_text(rule.ms),
        source: rule.source.as_str().to_owned(),
        ignored: None,
    }
}

fn get(key: Option<&str>, place: &Place, format: Format) -> Result<(), Failure> {
    let keys = match key {
        Some(key) => vec![lifetime::known(key)?],
        None => lifetime::LIVE_KEYS.to_vec(),
    };
    let file = File::load(place.config.as_deref())?;
    let Reached { runtime, store } = reach(place)?;
    let found = runtime.block_on(store.live_settings()).map_err(|error| failed(&error))?;
    let mut all = Vec::new();
    for key in &keys {
        all.push(setting(key, &file, &found)?);
    }
    let rules = store.rules();
    let is_asked = |rule: &&Rule| keys.contains(&rule.setting.key());
    all.extend(rules.all().iter().filter(is_asked).map(of_rule));
    if format.json {
        return json(&all);
    }
    say(output::table(
        ["key", "value", "from"],
        &[],
        all.iter().map(|setting| {
            let from = match &setting.ignored {
                Some(text) => format!(
                    "{} (Redis has the invalid value '{}')",
                    setting.source,
                    visible(text, 20)
                ),
                None => setting.source.clone(),
            };
            [setting.name(), setting.value.clone(), from]
        }),
    ))?;
    say_what_is_not_followed(key, &found)
}

/// Rules in Redis that are none.
fn say_what_is_not_followed(key: Option<&str>, found: &Found) -> Result<(), Failure> {
    const SHOWN: usize = 20;
    const TEXT_CHARS: usize = 200;
    let is_asked = |place: &str| key.is_none_or(|key| place.split(' ').next() == Some(key));
    let wrong = found.rules.iter().filter(|(place, _)| is_asked(place));
    let wrong = wrong.filter_map(|(place, text)| (lifetime::LIVE.rule)(place, text).err());
    for why in wrong.take(SHOWN) {
        say(format!("not followed: {}", visible(&why, TEXT_CHARS)))?;
    }
    match &found.unread {
        Some(why) => {
            say(format!("the rules in Redis cannot be read: {}", visible(why, TEXT_CHARS)))
        }
        None => Ok(()),
    }
}

impl Setting {
    /// Its key, and for which sessions.
    fn name(&self) -> String {
        match &self.of {
            Some(of) => format!("{} {}", self.key, of.text()),
            None => self.key.to_owned(),
        }
    }
}

/// What is asked for.
struct Wish {
    key: &'static str,
    /// For which sessions; `None`: for all that no rule is for.
    of: Option<(SettingKind, Selector)>,
    /// `None`: what each server's own file says.
    value: Option<String>,
    /// Also if it ends sessions.
    yes: bool,
}

#[derive(Serialize)]
struct Change {
    key: &'static str,
    #[serde(flatten)]
    of: Option<Shown>,
    /// `None`: there was no such rule.
    old: Option<String>,
    /// `None`: there is no such rule any more.
    new: Option<String>,
    source: Option<String>,
    /// How often live settings were changed so far.
    generation: u64,
    /// How many sessions may stay longer in Redis now.
    kept: u64,
    /// Nothing was changed.
    dry_run: bool,
    /// What a shorter lifetime ends at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    ends: Option<Ends>,
}

/// Sessions that live, and are over by other lifetimes.
#[derive(Clone, Copy, Default, Serialize)]
struct Ends {
    authenticated: u64,
    anonymous: u64,
}

impl Ends {
    async fn count(store: &RedisStore, rules: &Rules) -> Result<Self, Failure> {
        let mut ends = Self::default();
        let mut scan = store.scan(Filter::default());
        while let Some(page) = scan.next().await {
            for living in page.map_err(|error| failed(&error))?.living {
                let owner = &living.header.content;
                let end_ms = rules.of(owner).end_ms(owner.class, living.times());
                if living.left_ms == 0 || end_ms > living.now_ms {
                    continue;
                }
                match owner.class {
                    Class::Authenticated => ends.authenticated += 1,
                    Class::Anonymous => ends.anonymous += 1,
                }
            }
        }
        Ok(ends)
    }

    fn is_none(self) -> bool {
        self.authenticated + self.anonymous == 0
    }

    fn words(self) -> String {
        match (self.authenticated, self.anonymous) {
            (0, 0) => "no session".to_owned(),
            (people, 0) => format!("{} of logged-in users", sessions(people)),
            (0, visitors) => format!("{} of visitors", sessions(visitors)),
            (people, visitors) => {
                format!("{} of logged-in users, and {visitors} of visitors", sessions(people))
            }
        }
    }
}

impl Wish {
    fn carry_out(&self, place: &Place, format: Format) -> Result<(), Failure> {
        let file = File::load(place.config.as_deref())?;
        let Reached { runtime, store } = reach(place)?;
        let change = runtime.block_on(self.change(&store, &file))?;
        if !change.dry_run {
            let deed = format!("config: {}", change.words());
            system_log::note(&deed);
            runtime.block_on(tell(&store, Event::SettingChanged, &deed, None));
        }
        if format.json {
            json(&change)?;
        } else {
            change.tell()?;
        }
        if change.dry_run {
            return Err(Failure::new(
                ExitCode::Unconfirmed,
                "nothing was changed; use --yes to make a lifetime shorter",
            ));
        }
        Ok(())
    }

    /// Where the setting, or the rule, is kept.
    fn place(&self) -> String {
        match &self.of {
            Some((_, selector)) => format!("{} {selector}", self.key),
            None => self.key.to_owned(),
        }
    }

    /// What is changed: a rule that Odoo's parameters gave, if it is to be removed and there is no live one.
    fn field(&self, before: &Found) -> String {
        let live = self.place();
        let of_odoo = format!("{live}{OF_ODOO}");
        let removes_odoos = self.value.is_none()
            && !before.rules.contains_key(&live)
            && before.rules.contains_key(&of_odoo);
        if removes_odoos { of_odoo } else { live }
    }

    /// What Odoo's parameters give once a live rule is removed.
    fn of_odoo(&self, before: &Found) -> Option<Rule> {
        let live = self.place();
        let of_odoo = format!("{live}{OF_ODOO}");
        let text = before.rules.get(&of_odoo).filter(|_| before.rules.contains_key(&live))?;
        (lifetime::LIVE.rule)(&of_odoo, text).ok()
    }

    /// What holds after the change, by this server's own file.
    fn outcome(&self, before: &Found, was: &Rules, own: &Rules) -> Result<Rules, Failure> {
        let Some((setting, selector)) = &self.of else {
            let mut general = *was.general();
            let text = match &self.value {
                Some(text) => text.clone(),
                None => lifetime::text(own.general(), self.key).unwrap_or_default(),
            };
            lifetime::set(&mut general, self.key, &text)?;
            return Ok(was.with_general(general));
        };
        let bad = |why: String| Failure::new(ExitCode::BadValue, format!("{}: {why}", self.key));
        let of_file = own.rule(*setting, selector).cloned();
        let rule = match &self.value {
            Some(text) => {
                let ms = lifetime::value_ms(*setting, text)?;
                let rule = Rule::new(*setting, selector.clone(), ms, Source::Live);
                Some(rule.map_err(|why| bad(why.to_string()))?)
            }
            None => self.of_odoo(before).or(of_file),
        };
        match rule {
            Some(rule) => was.with(rule).map_err(|why| bad(why.to_string())),
            None => Ok(was.without(*setting, selector)),
        }
    }

    /// The value and its source as they are in Redis and in the file; none, if there is no such rule.
    fn value_in(
        &self,
        file: &File,
        found: &Found,
        rules: &Rules,
    ) -> Result<Option<(String, String)>, Failure> {
        let setting = match &self.of {
            None => Some(setting(self.key, file, found)?),
            Some((setting, selector)) => rules.rule(*setting, selector).map(of_rule),
        };
        Ok(setting.map(|setting| (setting.value, setting.source)))
    }

    async fn change(&self, store: &RedisStore, file: &File) -> Result<Change, Failure> {
        let before = store.live_settings().await.map_err(|error| failed(&error))?;
        let was = store.rules();
        let own = lifetime::own(&file.lifetime)?;
        let will_be = self.outcome(&before, &was, &own)?;
        let ends = if self.may_be(&will_be, &was, |new, old| new < old) {
            Some(Ends::count(store, &will_be).await?)
        } else {
            None
        };
        let old = self.value_in(file, &before, &was)?;
        let (new, source) = match (&self.of, &self.value) {
            (None, None) => (lifetime::text(will_be.general(), self.key), old.clone()),
            (_, Some(value)) => (Some(value.clone()), old.clone()),
            (Some((setting, selector)), None) => {
                let rule = will_be.rule(*setting, selector);
                (rule.map(|rule| lifetime::value_text(rule.ms)), old.clone())
            }
        };
        let mut change = Change {
            key: self.key,
            of: self.of.as_ref().map(|(_, selector)| Shown::of(selector)),
            old: old.map(|(value, _)| value),
            new,
            source: source.map(|(_, source)| source),
            generation: before.generation,
            kept: 0,
            dry_run: ends.is_some() && !self.yes,
            ends,
        };
        if change.dry_run {
            return Ok(change);
        }
        let sent = store.change_live(&self.field(&before), self.value.as_deref()).await;
        change.generation = sent.map_err(|error| failed(&error))?;
        let after = store.live_settings().await.map_err(|error| failed(&error))?;
        let after = self.value_in(file, &after, &will_be)?;
        (change.new, change.source) = after.unzip();
        if self.may_be(&will_be, &was, |new, old| new > old) {
            change.kept = keep(store, &was, will_be).await?;
        }
        Ok(change)
    }

    /// Whether a value of some session after the change may be to one before as it is said; no limit is
    /// the longest.
    fn may_be(&self, after: &Rules, before: &Rules, is: impl Fn(u64, u64) -> bool) -> bool {
        let values = |rules: &Rules| match &self.of {
            Some((setting, selector)) => rules.possible_ms(*setting, selector),
            // The grace keeps what is over, and the tombstone what is gone.
            None if self.key == "lifetime.grace" => vec![Some(rules.general().grace_ms)],
            None if self.key == "lifetime.tombstone" => Vec::new(),
            None => {
                let setting = SettingKind::of_key(self.key);
                setting.into_iter().map(|setting| setting.get(rules.general())).collect()
            }
        };
        let (after, before) = (values(after), values(before));
        let long = |ms: &Option<u64>| ms.unwrap_or(u64::MAX);
        after.iter().any(|new| before.iter().any(|old| is(long(new), long(old))))
    }
}

impl Change {
    /// What has become of what.
    fn words(&self) -> String {
        const NONE: &str = "no rule";
        let Self { key, of, old, new, .. } = self;
        let of = of.as_ref().map(|of| format!(" {}", of.text())).unwrap_or_default();
        let word = |value: &Option<String>| value.clone().unwrap_or_else(|| NONE.to_owned());
        format!("{key}{of}: {} -> {}", word(old), word(new))
    }

    fn tell(&self) -> Result<(), Failure> {
        let Self { of, source, kept, dry_run, ends, .. } = self;
        if *dry_run {
            let ends = ends.unwrap_or_default().words();
            return say(format!("{} would end {ends} now", self.words()));
        }
        let whose = match source.as_deref() {
            Some("live" | "odoo") | None => "",
            Some(_) if of.is_some() => ", or the rule of each server's file",
            Some(_) => ", or the value of each server's file",
        };
        say(format!("{}{whose}; every server follows within a second", self.words()))?;
        if let Some(ends) = ends.filter(|ends| !ends.is_none()) {
            say(format!("ended: {}", ends.words()))?;
        }
        match kept {
            0 => Ok(()),
            kept => say(format!("{} live longer now", sessions(*kept))),
        }
    }
}

/// A session's key has the time to live that its last use gave it by the lifetimes of then. Those
/// that may live longer now get a longer TTL, once no server uses the old ones.
async fn keep(store: &RedisStore, was: &Rules, will_be: Rules) -> Result<u64, Failure> {
    tokio::time::sleep(FOLLOWED_WITHIN).await;
    store.set_lifetimes(will_be.clone());
    store.keep_changed(was, &will_be).await.map_err(|error| failed(&error))
}
