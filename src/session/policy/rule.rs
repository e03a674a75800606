//! A rule: one lifetime for the sessions of a database, of some logins, or of one user.
//!
//! A rule has one place wherever rules are kept: its key and its [`Selector`] as one text, such as
//! `lifetime.idle database=shop login=till*`. A name in it is percent-encoded, so that no name can
//! be taken for another part of the text.

use std::cmp::Reverse;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Lifetimes, Limit};
use crate::session::content::{self, Class, Content, MAX_TEXT_BYTES};
use crate::session::word;

/// Stands for any characters in a login.
const ANY: char = '*';
/// How often it may stand there: each more multiplies what a comparison may cost the server.
const ANY_MAX: usize = 2;
const DATABASE: &str = "database=";
const LOGIN: &str = "login=";
const USER_ID: &str = "user_id=";
/// What the place of a rule ends with that a system parameter of Odoo has given: it lies beside the live one for the same
/// sessions, which goes before it.
pub const OF_ODOO: &str = " source=odoo";

/// A lifetime that can differ from session to session.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Setting {
    /// [`Lifetimes::idle_ms`].
    Idle,
    /// [`Lifetimes::absolute_ms`].
    Absolute,
    /// [`Lifetimes::anonymous_idle_ms`].
    AnonymousIdle,
    /// [`Lifetimes::anonymous_unopened_ms`].
    AnonymousUnopened,
}

impl Setting {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 4] =
        [Self::Idle, Self::Absolute, Self::AnonymousIdle, Self::AnonymousUnopened];

    /// Its key in the configuration, in full.
    pub fn key(self) -> &'static str {
        match self {
            Self::Idle => "lifetime.idle",
            Self::Absolute => "lifetime.absolute",
            Self::AnonymousIdle => "lifetime.anonymous_idle",
            Self::AnonymousUnopened => "lifetime.anonymous_unopened",
        }
    }

    /// The setting of that key; none if no rule can set it.
    pub fn of_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|setting| setting.key() == key)
    }

    /// The setting that makes this limit for sessions of this class.
    pub fn of_limit(class: Class, limit: Limit) -> Self {
        match (class, limit) {
            (_, Limit::Absolute) => Self::Absolute,
            (_, Limit::Unopened) => Self::AnonymousUnopened,
            (Class::Authenticated, Limit::Idle) => Self::Idle,
            (Class::Anonymous, Limit::Idle) => Self::AnonymousIdle,
        }
    }

    /// Whose sessions it ends.
    pub fn class(self) -> Class {
        match self {
            Self::Idle | Self::Absolute => Class::Authenticated,
            Self::AnonymousIdle | Self::AnonymousUnopened => Class::Anonymous,
        }
    }

    /// Its value, milliseconds; `None`: no limit.
    pub fn get(self, lifetimes: &Lifetimes) -> Option<u64> {
        match self {
            Self::Idle => Some(lifetimes.idle_ms),
            Self::Absolute => lifetimes.absolute_ms,
            Self::AnonymousIdle => Some(lifetimes.anonymous_idle_ms),
            Self::AnonymousUnopened => Some(lifetimes.anonymous_unopened_ms),
        }
    }

    /// Takes over a value. Only [`Setting::Absolute`] can be without a limit; for others that is the
    /// longest time there is.
    pub fn put(self, lifetimes: &mut Lifetimes, ms: Option<u64>) {
        let limit_ms = ms.unwrap_or(u64::MAX);
        match self {
            Self::Idle => lifetimes.idle_ms = limit_ms,
            Self::Absolute => lifetimes.absolute_ms = ms,
            Self::AnonymousIdle => lifetimes.anonymous_idle_ms = limit_ms,
            Self::AnonymousUnopened => lifetimes.anonymous_unopened_ms = limit_ms,
        }
    }
}

/// Who has given a value.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A live setting, for all servers. It goes before the file's for the same sessions.
    Live,
    /// A system parameter of Odoo, for all servers.
    Odoo,
    /// The configuration file of this server.
    File,
}

impl Source {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Odoo => "odoo",
            Self::File => "file",
        }
    }
}

/// Which sessions a rule is for.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Selector {
    /// All of a database.
    Database(String),
    /// Those of a login, or of all that a pattern fits; of one database, or of any.
    Login { database: Option<String>, login: Login },
    /// Those of one user. User ids are of a database.
    User { database: String, id: i64 },
}

/// A login, or a pattern of logins, in which `*` stands for any characters; as [`content::login`] writes one.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Login(String);

/// Why there is no such rule, with the remedy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BadRule(String);

impl fmt::Display for BadRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn bad<T>(why: impl Into<String>) -> Result<T, BadRule> {
    Err(BadRule(why.into()))
}

impl Login {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a pattern.
    pub fn is_pattern(&self) -> bool {
        self.0.contains(ANY)
    }

    /// The parts between which any characters may stand; one part if it is no pattern.
    pub fn parts(&self) -> Vec<&str> {
        self.0.split(ANY).collect()
    }

    /// How many characters have to be as they are written.
    pub fn literals(&self) -> usize {
        self.0.chars().filter(|c| *c != ANY).count()
    }

    /// Whether it fits this login.
    pub fn matches(&self, login: &str) -> bool {
        let Some((first, rest)) = self.0.split_once(ANY) else { return self.0 == login };
        let Some(mut left) = login.strip_prefix(first) else { return false };
        let (middle, last) = rest.rsplit_once(ANY).unwrap_or(("", rest));
        // The earliest place of each part leaves the most for the next ones.
        for part in middle.split(ANY) {
            match left.find(part) {
                Some(at) => left = &left[at + part.len()..],
                None => return false,
            }
        }
        left.ends_with(last)
    }
}

impl Selector {
    /// What was asked for, as it was typed.
    pub fn new(
        database: Option<&str>,
        login: Option<&str>,
        user_id: Option<i64>,
    ) -> Result<Self, BadRule> {
        let plain = login.filter(|typed| typed.len() <= MAX_TEXT_BYTES).map(content::login);
        let login = plain.as_deref().or(login);
        for (what, text) in [("database", database), ("login", login)] {
            match text {
                Some("") => return bad(format!("the {what} is empty; write its name")),
                Some(text) if text.len() > MAX_TEXT_BYTES => {
                    return bad(format!(
                        "the {what} has {} bytes; a session has at most the first {MAX_TEXT_BYTES} \
                         of its {what}, so no longer one can be found",
                        text.len()
                    ));
                }
                _ => {}
            }
        }
        if database.is_some_and(|name| name.contains(ANY)) {
            return bad("a database is named in full; only a login can have a '*'");
        }
        if login.is_some_and(|login| login.matches(ANY).count() > ANY_MAX) {
            return bad(format!("a login can have at most {ANY_MAX} '*'"));
        }
        let database = database.map(ToOwned::to_owned);
        match (database, login, user_id) {
            (Some(database), None, None) => Ok(Self::Database(database)),
            (database, Some(login), None) => {
                Ok(Self::Login { database, login: Login(login.to_owned()) })
            }
            (Some(database), None, Some(id)) => Ok(Self::User { database, id }),
            (None, None, Some(_)) => {
                bad("a user id is of one database only; name the database, too")
            }
            (_, Some(_), Some(_)) => {
                bad("a user id already says which login it is; name the one or the other")
            }
            (None, None, None) => bad("a rule needs a database, a login or a user id"),
        }
    }

    /// Reads the text that it is shown as. What is written in another way is none, so that each
    /// rule has one text.
    pub fn parse(text: &str) -> Result<Self, BadRule> {
        let (mut database, mut login, mut user_id) = (None, None, None);
        for part in text.split(' ') {
            let name = |word: &str| {
                let bytes = word::decode(word);
                bytes.and_then(|bytes| String::from_utf8(bytes).ok())
            };
            if let Some(word) = part.strip_prefix(DATABASE) {
                database = name(word);
            } else if let Some(word) = part.strip_prefix(LOGIN) {
                login = name(word);
            } else if let Some(word) = part.strip_prefix(USER_ID) {
                user_id = word.parse().ok();
            }
        }
        let selector = Self::new(database.as_deref(), login.as_deref(), user_id)?;
        if selector.to_string() != text {
            return bad("it is not written as sessionfs writes a rule");
        }
        Ok(selector)
    }

    /// Its database, if it has one.
    pub fn database(&self) -> Option<&str> {
        match self {
            Self::Database(database) | Self::User { database, .. } => Some(database),
            Self::Login { database, .. } => database.as_deref(),
        }
    }

    /// Its login or pattern, if it has one.
    pub fn login(&self) -> Option<&Login> {
        match self {
            Self::Login { login, .. } => Some(login),
            Self::Database(_) | Self::User { .. } => None,
        }
    }

    /// Its user id, if it has one.
    pub fn user_id(&self) -> Option<i64> {
        match self {
            Self::User { id, .. } => Some(*id),
            Self::Database(_) | Self::Login { .. } => None,
        }
    }

    /// Whether it is for the sessions of this owner.
    pub fn matches(&self, owner: &Content) -> bool {
        let is_of = |database: &str| owner.db.as_deref() == Some(database);
        match self {
            Self::Database(database) => is_of(database),
            Self::User { database, id } => is_of(database) && owner.uid == Some(*id),
            Self::Login { database, login } => {
                database.as_deref().is_none_or(is_of)
                    && owner.login.as_deref().is_some_and(|text| login.matches(text))
            }
        }
    }

    /// What goes before what, where several match: a user id, a login, a pattern with more literal
    /// characters, a database alone; with a database before without; the order of the text.
    pub(super) fn precedence(&self) -> impl Ord + use<> {
        let (kind, literals) = match self {
            Self::User { .. } => (3, 0),
            Self::Login { login, .. } if login.is_pattern() => (1, login.literals()),
            Self::Login { .. } => (2, 0),
            Self::Database(_) => (0, 0),
        };
        (Reverse((kind, literals, self.database().is_some())), self.to_string())
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.database().map(|name| format!("{DATABASE}{}", word::encode(name))));
        parts.extend(self.login().map(|login| {
            let words: Vec<_> = login.parts().into_iter().map(word::encode).collect();
            format!("{LOGIN}{}", words.join("*"))
        }));
        parts.extend(self.user_id().map(|id| format!("{USER_ID}{id}")));
        f.write_str(&parts.join(" "))
    }
}

/// One value, for some sessions.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Rule {
    pub setting: Setting,
    pub selector: Selector,
    /// Milliseconds; `None`: no limit.
    pub ms: Option<u64>,
    pub source: Source,
}

impl Rule {
    /// A rule, if there can be such a one.
    pub fn new(
        setting: Setting,
        selector: Selector,
        ms: Option<u64>,
        source: Source,
    ) -> Result<Self, BadRule> {
        if setting.class() == Class::Anonymous && !matches!(selector, Selector::Database(_)) {
            return bad("a visitor has no login and no user id; name a database alone");
        }
        Ok(Self { setting, selector, ms, source })
    }

    /// Its key and its selector: where it is kept.
    pub fn place(&self) -> String {
        let source = if self.source == Source::Odoo { OF_ODOO } else { "" };
        format!("{} {}{source}", self.setting.key(), self.selector)
    }

    /// By this rules are ordered: of those that set the same, the first that matches holds.
    pub(super) fn precedence(&self) -> impl Ord + use<> {
        (self.setting, self.selector.precedence(), self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_has_one_text() {
        let texts = [
            "database=shop",
            "login=till*",
            "login=*@example.com",
            "database=shop login=till*",
            "database=a%20b%0A login=%25-*%2Dx",
            "database=shop user_id=-7",
        ];
        for text in texts {
            assert_eq!(Selector::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            " database=shop",
            "database=shop ",
            "login=a database=shop",
            "database=shop login=%2A",
            "database=%73hop",
            "database=%FF",
            "database=shop user_id=+7",
            "database=shop login=a user_id=7",
            "user_id=7",
            "database=s*",
            "login=a*b*c*d",
            "database=shop colour=red",
        ] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
        assert!(Selector::new(None, Some(&"x".repeat(10_000)), None).is_err());
        assert!(Selector::new(Some(""), None, None).is_err());
    }

    #[test]
    fn a_pattern_fits_as_a_shell_would_say() {
        let cases = [
            ("till*", "till", true),
            ("till*", "till 1", true),
            ("till*", "atill", false),
            ("*@x.y", "a@x.y", true),
            ("*@x.y", "a@xzy", false),
            ("a*b", "ab", true),
            ("a*a", "a", false),
            ("*a*", "bab", true),
            ("*a*", "bb", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*bc*c", "abc", false),
            ("*", "", true),
            ("**", "x", true),
            ("a", "a", true),
            ("a", "aa", false),
            ("*20", "a ", false),
        ];
        for (pattern, login, fits) in cases {
            assert_eq!(Login(pattern.to_owned()).matches(login), fits, "{pattern} {login}");
        }
    }

    #[test]
    fn a_visitor_has_no_login() {
        let by_login = Selector::new(Some("shop"), Some("a"), None).unwrap();
        let rule = Rule::new(Setting::AnonymousIdle, by_login, Some(1), Source::File);
        assert!(rule.unwrap_err().to_string().contains("a database alone"));
    }
}
