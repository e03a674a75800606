//! `sessionfs config`: the settings that can be changed while the servers serve, and what
//! the file says.

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
use crate::session::policy::Lifetimes;
use crate::trail::entry::Event;

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
    /// Change a setting on all servers; without --yes, only show which sessions a shorter lifetime
    /// would end
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
        place: Place,
        #[command(flatten)]
        format: Format,
    },
    /// Remove a live setting: the value of each server's file, or the default, applies again
    Unset {
        /// Key, such as `lifetime.idle`
        #[arg(value_name = "KEY")]
        key: String,
        /// Make a lifetime shorter even if that ends sessions
        #[arg(long)]
        yes: bool,
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
            What::Set { key, value, yes, place, format } => {
                let key = lifetime::known(key)?;
                let value = Some(lifetime::canonical(key, value.trim())?);
                Wish { key, value, yes: *yes }.carry_out(place, *format)
            }
            What::Unset { key, yes, place, format } => {
                let key = lifetime::known(key)?;
                Wish { key, value: None, yes: *yes }.carry_out(place, *format)
            }
        }
    }
}

/// A setting with its value and where that comes from.
#[derive(Serialize)]
struct Setting {
    key: &'static str,
    value: String,
    source: &'static str,
    /// Text in Redis that is no value, and so is not followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    ignored: Option<String>,
}

fn setting(key: &'static str, file: &File, found: &Found) -> Setting {
    let written = lifetime::written(&file.lifetime).find(|(name, _)| *name == key);
    let written = written.and_then(|(_, text)| lifetime::canonical(key, text?).ok());
    let own = match written {
        Some(text) => (text, "file"),
        None => (lifetime::text(&Lifetimes::default(), key).unwrap_or_default(), "default"),
    };
    let live = found.values.get(key);
    let usable = live.and_then(|text| lifetime::canonical(key, text).ok());
    let ignored = if usable.is_none() { live.cloned() } else { None };
    let (value, source) = usable.map_or(own, |text| (text, "live"));
    Setting { key, value, source, ignored }
}

fn get(key: Option<&str>, place: &Place, format: Format) -> Result<(), Failure> {
    let keys = match key {
        Some(key) => vec![lifetime::known(key)?],
        None => lifetime::LIVE.keys.to_vec(),
    };
    let file = File::load(place.config.as_deref())?;
    let Reached { runtime, store, .. } = reach(place)?;
    let found = runtime.block_on(store.live_settings()).map_err(|error| failed(&error))?;
    let all: Vec<Setting> = keys.into_iter().map(|key| setting(key, &file, &found)).collect();
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
                None => setting.source.to_owned(),
            };
            [setting.key.to_owned(), setting.value.clone(), from]
        }),
    ))
}

/// What is asked for.
struct Wish {
    key: &'static str,
    /// `None`: what each server's own file says.
    value: Option<String>,
    /// Also if it ends sessions.
    yes: bool,
}

#[derive(Serialize)]
struct Change {
    key: &'static str,
    old: String,
    new: String,
    source: &'static str,
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
    async fn count(store: &RedisStore, lifetimes: &Lifetimes) -> Result<Self, Failure> {
        let mut ends = Self::default();
        let mut scan = store.scan(Filter::default());
        while let Some(page) = scan.next().await {
            for living in page.map_err(|error| failed(&error))?.living {
                let class = living.header.content.class;
                if living.left_ms == 0 || lifetimes.end_ms(class, living.times()) > living.now_ms {
                    continue;
                }
                match class {
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
        let Reached { runtime, store, settings } = reach(place)?;
        let own = lifetime::text(&settings.lifetimes, self.key).unwrap_or_default();
        let change = runtime.block_on(self.change(&store, &file, &own))?;
        if !change.dry_run {
            let Change { key, old, new, .. } = &change;
            let deed = format!("config: {key}: {old} -> {new}");
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

    async fn change(&self, store: &RedisStore, file: &File, own: &str) -> Result<Change, Failure> {
        let key = self.key;
        let before = store.live_settings().await.map_err(|error| failed(&error))?;
        let was = store.lifetimes();
        let mut will_be = was;
        let new = self.value.as_deref().unwrap_or(own);
        lifetime::set(&mut will_be, key, new)?;
        let ends = if is_shorter(&will_be, &was) {
            Some(Ends::count(store, &will_be).await?)
        } else {
            None
        };
        let old = setting(key, file, &before);
        let mut change = Change {
            key,
            old: old.value,
            new: new.to_owned(),
            source: old.source,
            generation: before.generation,
            kept: 0,
            dry_run: ends.is_some() && !self.yes,
            ends,
        };
        if change.dry_run {
            return Ok(change);
        }
        let value = self.value.as_deref();
        change.generation = store.change_live(key, value).await.map_err(|error| failed(&error))?;
        let after = store.live_settings().await.map_err(|error| failed(&error))?;
        let after = setting(key, file, &after);
        (change.new, change.source) = (after.value, after.source);
        if is_longer(&will_be, &was) {
            change.kept = keep(store, will_be).await?;
        }
        Ok(change)
    }
}

impl Change {
    fn tell(&self) -> Result<(), Failure> {
        let Self { key, old, new, source, kept, dry_run, ends, .. } = self;
        if *dry_run {
            let ends = ends.unwrap_or_default().words();
            return say(format!("{key}: {old} -> {new} would end {ends} now"));
        }
        let whose = match *source {
            "live" => "",
            _ => ", or the value of each server's file",
        };
        say(format!("{key}: {old} -> {new}{whose}; every server follows within a second"))?;
        if let Some(ends) = ends.filter(|ends| !ends.is_none()) {
            say(format!("ended: {}", ends.words()))?;
        }
        match kept {
            0 => Ok(()),
            kept => say(format!("{} live longer now", sessions(*kept))),
        }
    }
}

/// What may end a session.
fn ends_after_ms(lifetimes: &Lifetimes) -> [u64; 4] {
    let Lifetimes { idle_ms, anonymous_idle_ms, anonymous_unopened_ms, absolute_ms, .. } =
        *lifetimes;
    [idle_ms, anonymous_idle_ms, anonymous_unopened_ms, absolute_ms.unwrap_or(u64::MAX)]
}

/// Whether something ends sooner by `a` than by `b`.
fn is_shorter(a: &Lifetimes, b: &Lifetimes) -> bool {
    ends_after_ms(a).iter().zip(ends_after_ms(b)).any(|(a, b)| *a < b)
}

/// Whether something is kept longer by `a` than by `b`.
fn is_longer(a: &Lifetimes, b: &Lifetimes) -> bool {
    a.grace_ms > b.grace_ms || ends_after_ms(a).iter().zip(ends_after_ms(b)).any(|(a, b)| *a > b)
}

/// A session's key has the time to live that its last use gave it by the lifetimes of then. Those
/// that may live longer now get a longer TTL, once no server uses the old ones.
async fn keep(store: &RedisStore, lifetimes: Lifetimes) -> Result<u64, Failure> {
    tokio::time::sleep(FOLLOWED_WITHIN).await;
    store.set_lifetimes(lifetimes);
    let mut kept = 0;
    let mut scan = store.scan(Filter::default());
    while let Some(page) = scan.next().await {
        let living = page.map_err(|error| failed(&error))?.living;
        let Some(shard) = living.first().map(|living| living.alias.shard()) else { continue };
        let aliases: Vec<_> = living.into_iter().map(|living| living.alias).collect();
        kept += store.keep(shard, &aliases).await.map_err(|error| failed(&error))?;
    }
    Ok(kept)
}
