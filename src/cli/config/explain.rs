//! `sessionfs config explain`: which lifetimes somebody's sessions have, and why.

use serde::Serialize;

use crate::cli::output::{self, Format, json, say};
use crate::cli::redis::{Reached, failed, reach};
use crate::config::file::File;
use crate::config::flags::Place;
use crate::config::lifetime;
use crate::exit::Failure;
use crate::session::content::{self, Class, Content};
use crate::session::policy::rule::Setting;
use crate::session::policy::rules::Rules;

/// Whose sessions.
#[derive(clap::Args, Debug)]
pub(super) struct Explain {
    /// Database
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    database: Option<String>,
    /// Complete login
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    login: Option<String>,
    /// Odoo's user id
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    user_id: Option<i64>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Line {
    key: &'static str,
    value: String,
    /// The rule that gives it.
    rule: Option<String>,
    source: String,
}

impl Explain {
    /// Says it by the rules of this server's file and of Redis.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let file = File::load(self.place.config.as_deref())?;
        let Reached { runtime, store } = reach(&self.place)?;
        let found = runtime.block_on(store.live_settings()).map_err(|error| failed(&error))?;
        let rules = store.rules();
        let mut lines = Vec::new();
        for setting in Setting::ALL {
            lines.push(if let Some(rule) = rules.giver(setting, &self.owner()) {
                Line {
                    key: setting.key(),
                    value: lifetime::value_text(rule.ms),
                    rule: Some(rule.selector.to_string()),
                    source: rule.source.as_str().to_owned(),
                }
            } else {
                let super::Setting { key, value, source, .. } =
                    super::setting(setting.key(), &file, &found)?;
                Line { key, value, rule: None, source }
            });
        }
        if self.format.json {
            return json(&lines);
        }
        say(output::table(
            ["key", "value", "from"],
            &[],
            lines.into_iter().map(|Line { key, value, rule, source }| {
                let from = rule.map_or_else(|| source.clone(), |rule| format!("{source}: {rule}"));
                [key.to_owned(), value, from]
            }),
        ))?;
        match self.by_user_id(&rules) {
            0 => Ok(()),
            1 => say("1 rule of this database is for a user id: name the user with --user-id"),
            count => say(format!(
                "{count} rules of this database are for user ids: name the user with --user-id"
            )),
        }
    }

    fn owner(&self) -> Content {
        Content {
            class: Class::Authenticated,
            uid: self.user_id,
            db: self.database.clone(),
            login: self.login.as_deref().map(content::login),
        }
    }

    /// How many rules may hold that are for user ids, where none is named.
    fn by_user_id(&self, rules: &Rules) -> usize {
        let is_of = |database: Option<&str>| database == self.database.as_deref();
        let rules = rules.all().iter().map(|rule| &rule.selector);
        let by_user_id = rules.filter(|of| of.user_id().is_some() && is_of(of.database()));
        if self.user_id.is_some() { 0 } else { by_user_id.count() }
    }
}
