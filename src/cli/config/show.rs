//! `sessionfs config show`: what the configuration file says, and no other.

use std::path::PathBuf;

use serde::Serialize;

use crate::cli::output::{self, Format, json, say, visible};
use crate::config::file::{self, File, Written};
use crate::config::{self, lifetime};
use crate::exit::Failure;
use crate::shell::Assignments;

const FILE: &str = "file";
const DEFAULT: &str = "default";
/// Longer values are cut for people.
const VALUE_MAX_CHARS: usize = 200;

/// What is asked for.
#[derive(clap::Args, Debug)]
pub(super) struct Show {
    /// Configuration file (default: /etc/sessionfs/sessionfs.toml, if it exists)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
    /// Print assignments for a shell, safe for eval: `config_redis_url='...'` for a key of the file
    /// (a URL with its password), `default_lifetime_idle='...'` for one that it does not have
    #[arg(long, conflicts_with = "json")]
    shell: bool,
}

#[derive(Serialize)]
struct Line {
    key: String,
    value: String,
    source: String,
}

impl Show {
    /// Reads and prints; a value that no mount would take is an error.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let file = File::load(self.config.as_deref())?;
        let lifetimes = lifetime::own(&file.lifetime)?;
        let written = file::written(self.config.as_deref())?;
        let default = |key: &&&str| !written.iter().any(|known| known.key == **key);
        let defaults = lifetime::LIVE_KEYS.iter().filter(default).map(|key| Line {
            key: (*key).to_owned(),
            value: lifetime::text(lifetimes.general(), key).unwrap_or_default(),
            source: lifetime::origin(&file.lifetime, key),
        });
        let mut lines: Vec<Line> = written.iter().map(line).chain(defaults).collect();
        if self.shell {
            let mut facts = Assignments::default();
            for Line { key, value, source } in lines {
                let origin = if source == FILE { "config" } else { DEFAULT };
                facts.set(&format!("{origin}_{}", key.replace('.', "_")), &value);
            }
            return facts.print();
        }
        for line in lines.iter_mut().filter(|line| line.key == "redis.url") {
            line.value = config::split_url(&line.value)?.url;
        }
        if self.format.json {
            return json(&lines);
        }
        say(output::table(
            ["key", "value", "from"],
            &[],
            lines.iter().map(|Line { key, value, source }| {
                [key.clone(), visible(value, VALUE_MAX_CHARS), source.clone()]
            }),
        ))
    }
}

fn line(written: &Written) -> Line {
    Line { key: written.key.clone(), value: written.value.clone(), source: FILE.to_owned() }
}
