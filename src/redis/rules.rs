//! The rules of lifetimes as one argument of every script; `scripts/rules.lua` reads it.
//!
//! A line for each database with what all its sessions have and which lines follow it: one for each
//! user id, one for each login, one for all patterns that begin with the same letter or digit, and one for
//! the patterns that do not begin with any. `*`, the first, is the line of no database in particular. So
//! a script finds what it needs of a session by a few plain searches, and tries few patterns. Without
//! rules the argument is empty.
//!
//! Names are words of [`crate::session::word`], as in the header line, so no name can be taken for
//! another line. A pattern is one of Lua's that fits the decoded name; a `%`, and all that is no
//! visible character, is percent-encoded in it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use crate::session::policy::rule::{Login, Rule, Selector, Setting};
use crate::session::policy::rules::Rules;
use crate::session::word;

/// The lifetimes of all sessions, with what is sent of them.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub rules: Arc<Rules>,
    /// The text of its rules.
    pub argument: Arc<str>,
    /// The longest idle time of somebody who is logged in.
    pub longest_idle_ms: u64,
}

impl Default for Judged {
    fn default() -> Self {
        Rules::default().into()
    }
}

impl From<Rules> for Judged {
    fn from(rules: Rules) -> Self {
        let longest_idle_ms = rules.longest_idle_ms();
        Self { argument: argument(&rules).into(), longest_idle_ms, rules: Arc::new(rules) }
    }
}

/// Stands for any database, and for any beginning: no word has it.
const ANY: char = '*';

/// What some sessions are given, by setting.
type Values = BTreeMap<Setting, Option<u64>>;

/// What is said of one database.
#[derive(Default)]
struct Group<'a> {
    all: Values,
    users: BTreeMap<i64, Values>,
    logins: BTreeMap<&'a Login, Values>,
    /// By what they begin with, and in the order in which they go before each other.
    patterns: BTreeMap<char, Vec<(&'a Login, Values)>>,
}

impl<'a> Group<'a> {
    fn values(&mut self, selector: &'a Selector) -> &mut Values {
        match selector {
            Selector::Database(_) => &mut self.all,
            Selector::User { id, .. } => self.users.entry(*id).or_default(),
            Selector::Login { login, .. } if !login.is_pattern() => {
                self.logins.entry(login).or_default()
            }
            Selector::Login { login, .. } => {
                let alike = self.patterns.entry(initial(login)).or_default();
                let at = alike.iter().position(|(known, _)| *known == login);
                let at = at.unwrap_or_else(|| {
                    alike.push((login, Values::new()));
                    alike.len() - 1
                });
                &mut alike[at].1
            }
        }
    }
}

/// What a login begins with that a pattern fits; [`ANY`] if that is no letter and no digit, or may be
/// anything.
fn initial(pattern: &Login) -> char {
    pattern.as_str().chars().next().filter(char::is_ascii_alphanumeric).unwrap_or(ANY)
}

/// With which character lines of logins are listed: what their word begins with, and `0` where that is
/// no letter and no digit.
fn initial_of_word(word: &str) -> char {
    word.chars().next().filter(char::is_ascii_alphanumeric).unwrap_or('0')
}

/// The text of these rules.
fn argument(rules: &Rules) -> String {
    // That of no database comes first.
    let mut groups: BTreeMap<Option<&str>, Group<'_>> = BTreeMap::new();
    for Rule { setting, selector, ms, .. } in rules.all() {
        let group = groups.entry(selector.database()).or_default();
        group.values(selector).insert(*setting, *ms);
    }
    let mut text = String::new();
    for (database, group) in &mut groups {
        // Those that came with another setting stand behind.
        for alike in group.patterns.values_mut() {
            alike.sort_by_cached_key(|(login, _)| (Reverse(login.literals()), encoded(login)));
        }
        write(&mut text, &database.map_or_else(|| ANY.to_string(), word::encode), group);
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

fn encoded(login: &Login) -> String {
    login.parts().into_iter().map(word::encode).collect::<Vec<_>>().join("*")
}

/// Writing to a String cannot fail.
fn write(text: &mut String, name: &str, group: &Group<'_>) {
    let Group { all, users, logins, patterns } = group;
    let beginnings: BTreeSet<char> =
        logins.keys().map(|login| initial_of_word(&word::encode(login.as_str()))).collect();
    let _ = write!(
        text,
        "\n{name} {},{},{} {},{},{}",
        of_people(all),
        ms(all, Setting::AnonymousIdle),
        ms(all, Setting::AnonymousUnopened),
        if users.is_empty() { "" } else { "#" },
        beginnings.into_iter().collect::<String>(),
        patterns.keys().collect::<String>(),
    );
    for (id, values) in users {
        let _ = write!(text, "\n{name} #{id} {}", of_people(values));
    }
    for (login, values) in logins {
        let _ = write!(text, "\n{name} ={} {}", word::encode(login.as_str()), of_people(values));
    }
    for (initial, alike) in patterns {
        let _ = write!(text, "\n{name} ~{initial} ");
        for (login, values) in alike {
            let pattern = lua(login);
            // What has to be decoded is marked, so that nothing else is looked at for it.
            let mark = if pattern.contains('%') { "%" } else { "" };
            let values = of_people(values);
            let _ = write!(text, "{mark}{pattern} {} {values} ", login.literals());
        }
    }
}

/// What ends the sessions of who is logged in.
fn of_people(values: &Values) -> String {
    format!("{},{}", ms(values, Setting::Idle), ms(values, Setting::Absolute))
}

/// A value; -1 is no limit, and nothing is none of this rule.
fn ms(values: &Values, setting: Setting) -> String {
    match values.get(&setting) {
        None => String::new(),
        Some(None) => "-1".to_owned(),
        Some(Some(ms)) => ms.to_string(),
    }
}

/// A pattern as one of Lua's. What any characters may stand before or behind is not bound to that end:
/// so a name is gone through once.
fn lua(login: &Login) -> String {
    let parts = login.parts();
    let [first, middle @ .., last] = parts.as_slice() else { return String::new() };
    let mut pattern = String::new();
    if !first.is_empty() {
        pattern.push('^');
        pattern.push_str(&literal(first));
    }
    for part in middle {
        if !pattern.is_empty() && !part.is_empty() {
            pattern.push_str(".*");
        }
        pattern.push_str(&literal(part));
    }
    if !last.is_empty() {
        if !pattern.is_empty() {
            pattern.push_str(".*");
        }
        pattern.push_str(&literal(last));
        pattern.push('$');
    }
    // What fits everything.
    if pattern.is_empty() { "^".to_owned() } else { pattern }
}

/// Characters that Lua takes as they are.
fn literal(part: &str) -> String {
    let mut text = String::new();
    for byte in part.bytes() {
        match byte {
            // Each is itself in a set of its own.
            b'(' | b')' | b'.' | b'[' | b']' | b'*' | b'+' | b'-' | b'?' | b'$' => {
                text.extend(['[', char::from(byte), ']']);
            }
            b'^' => text.push_str("%25%5E"),
            b'%' => text.push_str("%25%25"),
            // Lua's patterns end at a zero.
            0 => text.push_str("%25z"),
            _ if byte.is_ascii_graphic() => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::policy::Lifetimes;
    use crate::session::policy::rule::Source;

    fn text(rules: &[(Setting, &str, Option<u64>)]) -> String {
        let rules = rules.iter().map(|(setting, selector, ms)| {
            let selector = Selector::parse(selector).unwrap();
            Rule::new(*setting, selector, *ms, Source::Live).unwrap()
        });
        argument(&Rules::new(Lifetimes::default(), rules.collect()).unwrap())
    }

    #[test]
    fn no_rules_are_no_text() {
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn a_database_has_its_lines_together() {
        let rules = [
            (Setting::Idle, "database=shop", Some(1)),
            (Setting::Absolute, "database=shop", None),
            (Setting::AnonymousIdle, "database=shop", Some(2)),
            (Setting::Idle, "database=shop user_id=7", Some(3)),
            (Setting::Absolute, "database=shop login=a%20b", Some(4)),
            (Setting::Absolute, "database=shop login=till1*", Some(5)),
            (Setting::Idle, "database=shop login=till*", Some(6)),
            (Setting::Idle, "login=*@x.y", Some(7)),
        ];
        let expected = "\n* ,,, ,,*\n* ~* @x[.]y$ 4 7, \
                        \nshop 1,-1,2, #,a,t\nshop #7 3,\nshop =a%20b ,4\
                        \nshop ~t ^till1 5 ,5 ^till 4 6, \n";
        assert_eq!(text(&rules), expected);
    }

    #[test]
    fn no_pattern_breaks_out_of_its_place() {
        let selector = Selector::new(None, Some("a b\n* ,9 %^*z\0"), None).unwrap();
        let Selector::Login { login, .. } = &selector else { panic!("a login") };
        let pattern = lua(login);
        assert!(pattern.bytes().all(|byte| byte.is_ascii_graphic()), "{pattern}");
        assert_eq!(pattern, "^a%20b%0A.*%20,9%20%25%25%25%5E.*z%25z$");
    }
}
