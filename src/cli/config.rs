//! `sessionfs config`: the settings that can be changed while the nodes serve, and what the file says.

mod show;

use std::time::Duration;

use serde::Serialize;

use super::output::{self, Format, json, say, visible};
use super::redis::{Reached, failed, reach};
use super::sessions::sessions;
use crate::config::file::File;
use crate::config::flags::Place;
use crate::config::lifetime;
use crate::exit::{ExitCode, Failure};
use crate::session::policy::Lifetimes;
use crate::store::RedisStore;
use crate::store::census::Filter;
use crate::store::live::{Found, VALUE_MAX_BYTES};

/// Every node has followed a change by then.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(1);

/// Read and change the settings that all servers follow within a second
#[derive(clap::Args, Debug)]
pub struct Config {
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
    /// Show what the configuration file says, and the lifetimes that hold without a word of it
    Show(show::Show),
    /// Change a setting on all servers
    Set {
        /// Such as `lifetime.idle`
        #[arg(value_name = "KEY")]
        key: String,
        /// As in the configuration file, such as `30min`
        #[arg(value_name = "VALUE")]
        value: String,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        format: Format,
    },
    /// Let each server's own file (or the default) hold again
    Unset {
        /// Such as `lifetime.idle`
        #[arg(value_name = "KEY")]
        key: String,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        format: Format,
    },
}

impl Config {
    /// Reads or changes.
    pub fn run(&self) -> Result<(), Failure> {
        match &self.what {
            What::Get { key, place, format } => get(key.as_deref(), place, *format),
            What::Show(show) => show.run(),
            What::Set { key, value, place, format } => {
                change(key, Some(value.trim()), place, *format)
            }
            What::Unset { key, place, format } => change(key, None, place, *format),
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
    let mut lifetimes = Lifetimes::default();
    let written = lifetime::written(&file.lifetime).find(|(name, _)| *name == key);
    let own = match written.and_then(|(_, text)| text) {
        Some(text) => (text.to_owned(), "file"),
        None => (lifetime::text(&lifetimes, key).unwrap_or_default(), "default"),
    };
    let live = found.values.get(key);
    let usable = live.filter(|text| lifetime::set(&mut lifetimes, key, text).is_ok());
    let ignored = if usable.is_none() { live.cloned() } else { None };
    let (value, source) = usable.map_or(own, |text| (text.clone(), "live"));
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
                    "{} (Redis holds '{}', which is no value)",
                    setting.source,
                    visible(text, 20)
                ),
                None => setting.source.to_owned(),
            };
            [setting.key.to_owned(), setting.value.clone(), from]
        }),
    ))
}

#[derive(Serialize)]
struct Change {
    key: &'static str,
    old: String,
    new: String,
    source: &'static str,
    /// How often live settings were changed so far.
    generation: u64,
    /// For how many sessions Redis was told that they may stay longer.
    kept: u64,
}

fn change(key: &str, value: Option<&str>, place: &Place, format: Format) -> Result<(), Failure> {
    let key = lifetime::known(key)?;
    if let Some(value) = value {
        lifetime::set(&mut Lifetimes::default(), key, value)?;
        if value.len() > VALUE_MAX_BYTES {
            return Err(Failure::new(ExitCode::BadValue, format!("{key}: the value is too long")));
        }
    }
    let file = File::load(place.config.as_deref())?;
    let Reached { runtime, store, settings } = reach(place)?;
    let changed = runtime.block_on(async {
        let before = store.live_settings().await.map_err(|error| failed(&error))?;
        let was = store.lifetimes();
        let generation = store.change_live(key, value).await.map_err(|error| failed(&error))?;
        let after = store.live_settings().await.map_err(|error| failed(&error))?;
        let mut will_be = was;
        let own = lifetime::text(&settings.lifetimes, key).unwrap_or_default();
        lifetime::set(&mut will_be, key, value.unwrap_or(&own))?;
        let kept = if is_longer(&will_be, &was) { keep(&store, will_be).await? } else { 0 };
        let (old, new) = (setting(key, &file, &before), setting(key, &file, &after));
        let (source, old, new) = (new.source, old.value, new.value);
        Ok::<_, Failure>(Change { key, old, new, source, generation, kept })
    })?;
    if format.json {
        return json(&changed);
    }
    let Change { key, old, new, source, kept, .. } = changed;
    let whose = match source {
        "live" => "",
        _ => ", or what each server's own file says",
    };
    say(format!("{key}: {old} -> {new}{whose}; every server follows within a second"))?;
    match kept {
        0 => Ok(()),
        kept => say(format!("{} may stay longer", sessions(kept))),
    }
}

/// Whether something lives longer by `a` than by `b`.
fn is_longer(a: &Lifetimes, b: &Lifetimes) -> bool {
    a.idle_ms > b.idle_ms
        || a.anonymous_idle_ms > b.anonymous_idle_ms
        || a.anonymous_unopened_ms > b.anonymous_unopened_ms
        || a.grace_ms > b.grace_ms
        || a.absolute_ms.unwrap_or(u64::MAX) > b.absolute_ms.unwrap_or(u64::MAX)
}

/// A session's key has the time to live that its last use gave it by the lifetimes of then. Those
/// that may live longer now are told so, once no node goes by the old ones any more.
async fn keep(store: &RedisStore, lifetimes: Lifetimes) -> Result<u64, Failure> {
    tokio::time::sleep(FOLLOWED_WITHIN).await;
    store.set_lifetimes(lifetimes);
    let mut kept = 0;
    let mut census = store.census(Filter::default());
    while let Some(page) = census.next().await {
        let living = page.map_err(|error| failed(&error))?.living;
        let Some(shard) = living.first().map(|living| living.alias.shard()) else { continue };
        let aliases: Vec<_> = living.into_iter().map(|living| living.alias).collect();
        kept += store.keep(shard, &aliases).await.map_err(|error| failed(&error))?;
    }
    Ok(kept)
}
