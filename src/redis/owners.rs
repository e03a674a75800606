//! Whose a session was when it was last seen here, and its limits by the rules: so that they are sent in
//! the place of all rules to the script that reads it again. It says so if the session is another's by now.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lru::LruCache;

use super::envelope::{class_text, text, uid_text};
use super::rules::Judged;
use crate::session::content::{Class, Content};
use crate::session::name::Alias;
use crate::session::policy::rules::Rules;
use crate::sync::lock;

/// How many are remembered: some hundred bytes for each. Anybody can make sessions.
const OWNERS_MAX: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// Remembers owners, while there are rules.
pub(super) struct Owners(Mutex<LruCache<Alias, Seen>>);

struct Seen {
    owner: Content,
    /// By which the line was written.
    rules: Arc<Rules>,
    line: Arc<str>,
}

impl Default for Owners {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(OWNERS_MAX)))
    }
}

impl Owners {
    /// What is sent in the place of the rules for a session that was seen before; '' for others.
    pub(super) fn line(&self, alias: &Alias, judged: &Judged) -> Arc<str> {
        if judged.argument.is_empty() {
            return Arc::default();
        }
        let mut seen = lock(&self.0);
        let Some(seen) = seen.get_mut(alias) else { return Arc::default() };
        if !Arc::ptr_eq(&seen.rules, &judged.rules) {
            (seen.rules, seen.line) = (Arc::clone(&judged.rules), line(&seen.owner, &judged.rules));
        }
        Arc::clone(&seen.line)
    }

    /// A session is another owner's by now.
    pub(super) fn forget(&self, alias: &Alias) {
        lock(&self.0).pop(alias);
    }

    /// A session has been seen.
    pub(super) fn saw(&self, alias: &Alias, owner: &Content, judged: &Judged) {
        if judged.argument.is_empty() {
            return;
        }
        let mut seen = lock(&self.0);
        if seen.peek(alias).is_some_and(|seen| seen.owner == *owner) {
            return;
        }
        let rules = Arc::clone(&judged.rules);
        let line = line(owner, &rules);
        seen.put(alias.clone(), Seen { owner: owner.clone(), rules, line });
    }
}

/// The owner as the header has it, and what limits the life of its session.
fn line(owner: &Content, rules: &Rules) -> Arc<str> {
    let limits = rules.of(owner);
    let Content { class, uid, db, login } = owner;
    let mut line = class_text(*class).to_owned();
    // Writing to a String cannot fail.
    let _ = write!(line, " {} {} {} ", uid_text(*uid), text(db.as_deref()), text(login.as_deref()));
    let _ = match (class, limits.absolute_ms) {
        (Class::Authenticated, Some(ms)) => write!(line, "{} {ms}", limits.idle_ms),
        (Class::Authenticated, None) => write!(line, "{} -1", limits.idle_ms),
        (Class::Anonymous, _) => {
            write!(line, "{} {}", limits.anonymous_idle_ms, limits.anonymous_unopened_ms)
        }
    };
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::policy::Lifetimes;
    use crate::session::policy::rule::{Rule, Selector, Setting, Source};

    fn judged(ms: u64) -> Judged {
        let selector = Selector::parse("database=a%20b").unwrap();
        let rule = Rule::new(Setting::Idle, selector, Some(ms), Source::Live).unwrap();
        Rules::new(Lifetimes::default(), vec![rule]).unwrap().into()
    }

    #[test]
    fn a_line_is_of_who_was_seen_and_of_the_present_rules() {
        let owners = Owners::default();
        let alias = Alias::parse(&"a".repeat(84)).unwrap();
        let owner = Content {
            class: Class::Authenticated,
            uid: Some(7),
            db: Some("a b".into()),
            login: None,
        };
        let (one, other) = (judged(1), judged(2));
        assert_eq!(&*owners.line(&alias, &one), "");
        owners.saw(&alias, &owner, &one);
        assert_eq!(&*owners.line(&alias, &one), "auth 7 a%20b - 1 -1");
        assert_eq!(&*owners.line(&alias, &other), "auth 7 a%20b - 2 -1");
        let visitor = Content { class: Class::Anonymous, uid: None, ..owner };
        owners.saw(&alias, &visitor, &other);
        assert_eq!(&*owners.line(&alias, &other), "anon - a%20b - 604800000 3600000");
        assert_eq!(&*owners.line(&alias, &Judged::default()), "");
        owners.forget(&alias);
        assert_eq!(&*owners.line(&alias, &other), "");
    }
}
