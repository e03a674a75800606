//! For which sessions a setting is: on the command line, and in JSON.

use serde::Serialize;

use crate::config::lifetime;
use crate::exit::{ExitCode, Failure};
use crate::session::policy::rule::{Rule, Selector, Setting, Source};

/// The sessions that a rule is for
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "For some sessions only")]
pub(super) struct Of {
    /// Those of this database
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub database: Option<String>,
    /// Those of this login; `*` stands for any characters, as in 'till*'
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    pub login: Option<String>,
    /// Those of this user id; it needs --database
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    pub user_id: Option<i64>,
}

impl Of {
    /// The rule that is meant, if any is.
    pub(super) fn selector_for(
        &self,
        key: &'static str,
    ) -> Result<Option<(Setting, Selector)>, Failure> {
        let Self { database, login, user_id } = self;
        if database.is_none() && login.is_none() && user_id.is_none() {
            return Ok(None);
        }
        let setting = lifetime::by_rule(key)?;
        let bad = |why: String| Failure::new(ExitCode::BadValue, format!("{key}: {why}"));
        let selector = Selector::new(database.as_deref(), login.as_deref(), *user_id)
            .map_err(|why| bad(why.to_string()))?;
        // Whether there can be such a rule, whatever its value.
        let rule = Rule::new(setting, selector, None, Source::Live);
        let rule = rule.map_err(|why| bad(why.to_string()))?;
        Ok(Some((setting, rule.selector)))
    }
}

/// A selector for programs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Shown {
    /// As the rules of `config get` are named.
    rule: String,
    database: Option<String>,
    login: Option<String>,
    user_id: Option<i64>,
}

impl Shown {
    pub(super) fn of(selector: &Selector) -> Self {
        Self {
            rule: selector.to_string(),
            database: selector.database().map(ToOwned::to_owned),
            login: selector.login().map(|login| login.as_str().to_owned()),
            user_id: selector.user_id(),
        }
    }

    /// For people.
    pub(super) fn text(&self) -> &str {
        &self.rule
    }
}
