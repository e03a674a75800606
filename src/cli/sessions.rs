//! Which sessions a command is about, and how one is shown: as a line, or as JSON.

use std::io::Read as _;
use std::time::{Duration, UNIX_EPOCH};

use clap::ValueEnum;
use indicatif::HumanBytes;
use serde::Serialize;

use super::output::{self, visible};
use super::redis::failed;
use crate::config::units::duration_ms;
use crate::exit::{ExitCode, Failure};
use crate::host::terminal;
use crate::redis::RedisStore;
use crate::redis::scan::{Filter, LiveSession, Name, Page, short};
use crate::session::content::Class;
use crate::session::name::{Alias, Form, Sid};
use crate::session::policy::rule::{Rule, Setting};
use crate::session::policy::rules::Rules;

/// The sessions for which all that is said holds.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which sessions (all conditions must hold)")]
pub(super) struct Which {
    /// Alias as `list` shows it, or the beginning of one
    #[arg(value_name = "ALIAS", allow_hyphen_values = true, value_parser = alias)]
    alias: Option<String>,
    /// Odoo's user id
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    user_id: Option<i64>,
    /// Complete login
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    login: Option<String>,
    /// Database
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    database: Option<String>,
    /// Device: the first 42 characters of its session ids (Odoo 18 and later keep them in
    /// `res_device.session_identifier`)
    #[arg(long, value_name = "FAMILY", allow_hyphen_values = true)]
    family: Option<String>,
    /// With a logged-in user, or anonymous
    #[arg(long, value_enum, value_name = "CLASS")]
    class: Option<ClassName>,
    /// Not used for at least this time, such as `8h`
    #[arg(long, value_name = "DURATION")]
    idle: Option<String>,
    /// Logged in for at least this time
    #[arg(long, value_name = "DURATION")]
    age: Option<String>,
}

/// Takes an alias from the command line. It may begin with hyphens, and so may an option that does not
/// exist; a word of an option's form is taken for one.
pub(super) fn alias(text: &str) -> Result<String, String> {
    const OPTION_MAX_CHARS: usize = 32;
    let is_option = |name: &str| {
        text.len() <= OPTION_MAX_CHARS && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
    };
    match text.strip_prefix("--") {
        Some(name) if is_option(name) => {
            Err("there is no such option; if it is an alias, write more of it".to_owned())
        }
        _ => Ok(text.to_owned()),
    }
}

/// [`Class`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ClassName {
    Authenticated,
    Anonymous,
}

impl Which {
    /// The alias, or the part of one, that was typed.
    pub(super) fn alias(&self) -> Option<&str> {
        self.alias.as_deref()
    }

    /// What was typed, for a record of it. Of an alias only the beginning is recorded: it may be a cookie by
    /// mistake.
    pub(super) fn words(&self) -> String {
        const TEXT_CHARS: usize = 64;
        const ALIAS_CHARS: usize = 16;
        let Self { alias, user_id, login, database, family, class, idle, age } = self;
        let class = class.map(|class| match class {
            ClassName::Authenticated => "authenticated".to_owned(),
            ClassName::Anonymous => "anonymous".to_owned(),
        });
        let said = [
            ("--user-id", &user_id.map(|id| id.to_string())),
            ("--login", login),
            ("--database", database),
            ("--family", family),
            ("--class", &class),
            ("--idle", idle),
            ("--age", age),
        ];
        let mut words: Vec<String> =
            alias.iter().map(|alias| format!("alias {}", visible(alias, ALIAS_CHARS))).collect();
        words.extend(said.into_iter().filter_map(|(flag, text)| {
            Some(format!("{flag} '{}'", visible(text.as_deref()?, TEXT_CHARS)))
        }));
        words.join(" ")
    }

    /// Takes the text as it is meant.
    pub(super) fn filter(&self) -> Result<Filter, Failure> {
        const FAMILY_CHARS: usize = 42;
        let duration = |flag: &str, text: &Option<String>| {
            let said = text.as_deref().map(duration_ms).transpose();
            said.map_err(|e| {
                usage(format!("{flag}: '{}' {e}", text.as_deref().unwrap_or_default()))
            })
        };
        if self.family.as_ref().is_some_and(|family| family.len() != FAMILY_CHARS) {
            return Err(usage("--family: a family has 42 characters"));
        }
        Ok(Filter {
            name: self.alias.as_deref().map(name).transpose()?,
            user_id: self.user_id,
            login: self.login.clone(),
            database: self.database.clone(),
            family: self.family.clone(),
            class: self.class.map(|class| match class {
                ClassName::Authenticated => Class::Authenticated,
                ClassName::Anonymous => Class::Anonymous,
            }),
            idle_ms: duration("--idle", &self.idle)?,
            age_ms: duration("--age", &self.age)?,
        })
    }
}

/// An alias, or a part of one, as it was typed.
pub(super) fn name(text: &str) -> Result<Name, Failure> {
    // What was typed may be a cookie by mistake, so it is not repeated.
    Name::parse(text).ok_or_else(|| {
        usage(
            "ALIAS: write it as 'sessionfs list' shows it, or at least its first two characters; \
             for a login use --login",
        )
    })
}

/// The one session of that name.
pub(super) async fn find_one(store: &RedisStore, name: Name) -> Result<LiveSession, Failure> {
    let (alias, living) = find(store, name).await?;
    living.ok_or_else(|| {
        Failure::new(
            ExitCode::UnreadableSession,
            format!("session {alias}: its header in Redis cannot be read by this version"),
        )
    })
}

/// The same, also for one that cannot be read.
pub(super) async fn find_alias(store: &RedisStore, name: Name) -> Result<Alias, Failure> {
    Ok(find(store, name).await?.0)
}

async fn find(store: &RedisStore, name: Name) -> Result<(Alias, Option<LiveSession>), Failure> {
    const NAMED: usize = 4;
    let mut scan = store.scan(Filter { name: Some(name), ..Filter::default() });
    let mut found: Vec<(Alias, Option<LiveSession>)> = Vec::new();
    let mut count = 0;
    while let Some(page) = scan.next().await {
        let Page { living, unreadable, .. } = page.map_err(|error| failed(&error))?;
        let living = living.into_iter().map(|living| (living.alias.clone(), Some(living)));
        for one in living.chain(unreadable.into_iter().map(|alias| (alias, None))) {
            count += 1;
            if found.len() < NAMED {
                found.push(one);
            }
        }
    }
    if count > 1 {
        let names: Vec<String> = found.iter().map(|(alias, _)| short(alias)).collect();
        return Err(Failure::new(
            ExitCode::AmbiguousSession,
            format!(
                "{count} sessions match this alias: {}; write more characters",
                names.join(", ")
            ),
        ));
    }
    found.pop().ok_or_else(|| none("there is no session with that alias"))
}

/// Nothing lives where one was named.
pub(super) fn none(what: &str) -> Failure {
    Failure::new(ExitCode::NoSuchSession, format!("{what}; 'sessionfs list' shows all sessions"))
}

/// The session id on standard input: a cookie's value, with or without its name.
pub(super) fn read_sid(flag: &str) -> Result<Sid, Failure> {
    const LENGTH_MAX_BYTES: u64 = 4096;
    if flag != "-" {
        return Err(usage(
            "--sid: write '--sid -' and pass the cookie on standard input; every user of the host \
             can read a command line",
        ));
    }
    let mut text = String::new();
    std::io::stdin()
        .take(LENGTH_MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|e| Failure::internal("read standard input", e))?;
    let text = text.trim();
    Sid::parse(text.strip_prefix("session_id=").unwrap_or(text))
        .ok_or_else(|| usage("--sid: standard input does not contain a session id of Odoo"))
}

/// The command line can be understood, and is not meant.
pub(super) fn usage(message: impl Into<String>) -> Failure {
    Failure::new(ExitCode::Usage, message)
}

/// A session for programs.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    alias: String,
    family: Option<String>,
    database: Option<String>,
    login: Option<String>,
    user_id: Option<i64>,
    class: &'static str,
    logged_in: String,
    last_saved: String,
    last_activity: String,
    ends: String,
    ends_by: &'static str,
    /// The rule that gives this limit.
    rule: Option<String>,
    age_seconds: u64,
    idle_seconds: u64,
    left_seconds: u64,
    size_bytes: u64,
    form: &'static str,
}

impl Shown {
    /// As these lifetimes judge it.
    pub(super) fn new(living: &LiveSession, rules: &Rules) -> Self {
        let LiveSession { alias, header, .. } = living;
        let content = &header.content;
        let (ends_ms, limit) = rules.of(content).end(content.class, living.times());
        Self {
            alias: alias.to_string(),
            family: alias.family().map(ToOwned::to_owned),
            database: content.db.clone(),
            login: content.login.clone(),
            user_id: content.uid,
            class: class_word(content.class),
            logged_in: time(header.login_ms),
            last_saved: time(header.saved_ms),
            last_activity: time(living.activity_ms),
            ends: time(ends_ms),
            ends_by: limit.as_str(),
            rule: rule_of(living, rules).map(|rule| rule.selector.to_string()),
            age_seconds: living.age_ms() / 1000,
            idle_seconds: living.idle_ms() / 1000,
            left_seconds: living.left_ms / 1000,
            size_bytes: header.size_bytes,
            form: match header.form {
                Form::Sharded => "sharded",
                Form::Flat => "flat",
            },
        }
    }
}

/// The rule that gives the limit by which a session ends; none: what holds for all.
fn rule_of<'a>(living: &LiveSession, rules: &'a Rules) -> Option<&'a Rule> {
    let owner = &living.header.content;
    let (_, limit) = rules.of(owner).end(owner.class, living.times());
    rules.giver(Setting::of_limit(owner.class, limit), owner)
}

/// The word for a class.
pub(super) fn class_word(class: Class) -> &'static str {
    match class {
        Class::Authenticated => "authenticated",
        Class::Anonymous => "anonymous",
    }
}

/// Sessions as lines, in this order; with the rule by which each ends, if there are any. Where the
/// terminal is too narrow, without it, and then without their size.
pub(super) fn table(sessions: &[LiveSession], rules: &Rules) -> String {
    const RULE_CHARS: usize = 40;
    let rows: Vec<_> = sessions.iter().map(row).collect();
    let heading =
        ["alias", "database", "login", "uid", "class", "since (UTC)", "idle", "left", "size"];
    let fits = |table: &str| {
        let widest = table.lines().map(|line| line.chars().count()).max().unwrap_or_default();
        terminal::width().is_none_or(|width| widest <= width)
    };
    if !rules.all().is_empty() {
        let rule = |living: &LiveSession| {
            let rule = rule_of(living, rules).map(|rule| rule.selector.to_string());
            rule.map_or_else(|| "-".to_owned(), |rule| visible(&rule, RULE_CHARS))
        };
        let with_rule = rows.iter().zip(sessions).map(|(row, living)| {
            let mut cells: [String; 10] = Default::default();
            cells[..row.len()].clone_from_slice(row);
            cells[row.len()] = rule(living);
            cells
        });
        let mut all = [""; 10];
        all[..heading.len()].copy_from_slice(&heading);
        all[heading.len()] = "rule";
        let whole = output::table(all, &[3, 6, 7, 8], with_rule);
        if fits(&whole) {
            return whole;
        }
    }
    let whole = output::table(heading, &[3, 6, 7, 8], rows.clone());
    if fits(&whole) {
        return whole;
    }
    let [heading @ .., _] = heading;
    output::table(heading, &[3, 6, 7], rows.into_iter().map(|[row @ .., _]| row))
}

fn row(living: &LiveSession) -> [String; 9] {
    const DATABASE_CHARS: usize = 14;
    const LOGIN_CHARS: usize = 22;
    let content = &living.header.content;
    let text = |text: &Option<String>, chars| {
        text.as_deref().map_or_else(|| "-".to_owned(), |text| visible(text, chars))
    };
    [
        short(&living.alias),
        text(&content.db, DATABASE_CHARS),
        text(&content.login, LOGIN_CHARS),
        content.uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string()),
        match content.class {
            Class::Authenticated => "auth".to_owned(),
            Class::Anonymous => "anon".to_owned(),
        },
        minute(living.header.login_ms),
        span(living.idle_ms()),
        if living.left_ms == 0 { "over".to_owned() } else { span(living.left_ms) },
        HumanBytes(living.header.size_bytes).to_string(),
    ]
}

/// "1 session", "2 sessions".
pub(super) fn sessions(count: u64) -> String {
    if count == 1 { "1 session".to_owned() } else { format!("{count} sessions") }
}

/// A time of Redis's clock, to the second.
pub(super) fn time(ms: u64) -> String {
    // What Redis holds may be anything, and a later year has no such form.
    const LATEST_MS: u64 = 253_402_300_799_000;
    let time = UNIX_EPOCH + Duration::from_millis(ms.min(LATEST_MS));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The same for people, to the minute.
fn minute(ms: u64) -> String {
    time(ms).chars().take("2026-01-01T00:00".len()).collect::<String>().replace('T', " ")
}

/// A time span by its two largest units.
pub(super) fn span(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let seconds = ms / 1000;
    let Some(first) = UNITS.iter().position(|(size, _)| seconds >= *size) else {
        return "0s".to_owned();
    };
    let (size, unit) = UNITS[first];
    let rest = seconds % size;
    match UNITS.get(first + 1) {
        Some((smaller, name)) if rest >= *smaller => {
            format!("{}{unit} {}{name}", seconds / size, rest / smaller)
        }
        _ => format!("{}{unit}", seconds / size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (200, "3m 20s"),
            (3_600, "1h"),
            (3_659, "1h"),
            (93_600, "1d 2h"),
        ] {
            assert_eq!(span(seconds * 1000 + 999), text);
        }
    }

    #[test]
    fn any_number_has_a_time() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(u64::MAX), "9999-12-31T23:59:59Z");
        assert_eq!(minute(1_700_000_000_000), "2023-11-14 22:13");
    }

    #[test]
    fn what_was_typed_is_not_repeated() {
        let cookie = "s3cret s3cret";
        assert!(!name(cookie).unwrap_err().to_string().contains("s3cret"));
        assert!(!read_sid(cookie).unwrap_err().to_string().contains("s3cret"));
    }
}
