//! Which lifetimes a session has: those of all, but for what a rule says.
//!
//! For each setting on its own the most specific rule holds: a user id goes before a login, a login
//! before a pattern, a pattern with more literal characters before one with fewer, and those before
//! a database alone. With a database goes before without, where they are alike otherwise; then the
//! order of the text decides.

use std::fmt;

use super::Lifetimes;
use super::rule::{Rule, Selector, Setting};
use crate::session::content::{Class, Content};

/// How many rules there may be. They are sent with each request.
pub const RULES_MAX: usize = 200;
/// How long their keys and selectors may be together, bytes.
pub const TEXT_MAX_BYTES: usize = 16 * 1024;

/// The lifetimes of all sessions.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rules {
    general: Lifetimes,
    /// Of those of one setting, the first that matches holds.
    rules: Vec<Rule>,
}

/// More than each request can carry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TooMany {
    /// More than [`RULES_MAX`].
    Rules(usize),
    /// More than [`TEXT_MAX_BYTES`].
    Bytes(usize),
}

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules(count) => write!(
                f,
                "{count} rules for lifetimes; there can be at most {RULES_MAX}: use patterns of logins"
            ),
            Self::Bytes(bytes) => write!(
                f,
                "the rules for lifetimes have {bytes} bytes; there can be at most {TEXT_MAX_BYTES}: use patterns of logins"
            ),
        }
    }
}

impl From<Lifetimes> for Rules {
    /// The same lifetimes for all.
    fn from(general: Lifetimes) -> Self {
        Self { general, rules: Vec::new() }
    }
}

impl Rules {
    /// In any order. Of two rules for the same sessions the one with the first
    /// [source](super::rule::Source) holds.
    pub fn new(general: Lifetimes, mut rules: Vec<Rule>) -> Result<Self, TooMany> {
        rules.sort_by_cached_key(Rule::precedence);
        rules.dedup_by(|second, first| {
            (second.setting, &second.selector) == (first.setting, &first.selector)
        });
        if rules.len() > RULES_MAX {
            return Err(TooMany::Rules(rules.len()));
        }
        let bytes = rules.iter().map(|rule| rule.place().len()).sum();
        if bytes > TEXT_MAX_BYTES {
            return Err(TooMany::Bytes(bytes));
        }
        Ok(Self { general, rules })
    }

    /// What holds where no rule says otherwise.
    pub fn general(&self) -> &Lifetimes {
        &self.general
    }

    /// By setting, and those of a setting by what goes first.
    pub fn all(&self) -> &[Rule] {
        &self.rules
    }

    /// The same rules with other lifetimes for all others.
    #[must_use]
    pub fn with_general(&self, general: Lifetimes) -> Self {
        Self { general, rules: self.rules.clone() }
    }

    /// The same with another rule, in the place of one for the same sessions.
    pub fn with(&self, rule: Rule) -> Result<Self, TooMany> {
        let mut rules = self.without(rule.setting, &rule.selector).rules;
        rules.push(rule);
        Self::new(self.general, rules)
    }

    /// The same without the rule for these sessions.
    #[must_use]
    pub fn without(&self, setting: Setting, selector: &Selector) -> Self {
        let is_other = |rule: &&Rule| (rule.setting, &rule.selector) != (setting, selector);
        let rules = self.rules.iter().filter(is_other).cloned().collect();
        Self { general: self.general, rules }
    }

    /// The rule that gives this setting to the sessions of this owner; none: what holds for all.
    pub fn giver(&self, setting: Setting, owner: &Content) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.setting == setting && rule.selector.matches(owner))
    }

    /// The lifetimes of the sessions of this owner.
    pub fn of(&self, owner: &Content) -> Lifetimes {
        let mut lifetimes = self.general;
        if self.rules.is_empty() {
            return lifetimes;
        }
        for setting in Setting::ALL {
            if let Some(rule) = self.giver(setting, owner) {
                setting.put(&mut lifetimes, rule.ms);
            }
        }
        lifetimes
    }

    /// After so long without use a session of this owner that was opened ends, milliseconds.
    pub fn idle_ms(&self, owner: &Content) -> u64 {
        let lifetimes = self.of(owner);
        match owner.class {
            Class::Authenticated => lifetimes.idle_ms,
            Class::Anonymous => lifetimes.anonymous_idle_ms,
        }
    }

    /// The longest idle time of somebody who is logged in, milliseconds.
    pub fn longest_idle_ms(&self) -> u64 {
        let of_rules = self.rules.iter().filter(|rule| rule.setting == Setting::Idle);
        of_rules.filter_map(|rule| rule.ms).fold(self.general.idle_ms, u64::max)
    }

    /// The longest that sessions may have: of each setting the longest value, whoever it is for.
    pub fn longest(&self) -> Lifetimes {
        let mut longest = self.general;
        for Rule { setting, ms, .. } in &self.rules {
            if let Some(known_ms) = setting.get(&longest) {
                setting.put(&mut longest, ms.map(|ms| ms.max(known_ms)));
            }
        }
        longest
    }

    /// The rule for exactly these sessions.
    pub fn rule(&self, setting: Setting, selector: &Selector) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.setting == setting && rule.selector == *selector)
    }

    /// What a setting may be for the sessions of this selector, but for rules that go before one for it:
    /// the value of that rule if there is one, or else those of all that it would go before. `None` is
    /// no limit.
    pub fn possible_ms(&self, setting: Setting, selector: &Selector) -> Vec<Option<u64>> {
        if let Some(own) = self.rule(setting, selector) {
            return vec![own.ms];
        }
        let place = selector.precedence();
        let behind = self
            .rules
            .iter()
            .filter(|rule| rule.setting == setting && rule.selector.precedence() > place);
        behind.map(|rule| rule.ms).chain([setting.get(&self.general)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::Source;
    use super::*;

    fn rule(setting: Setting, selector: &str, ms: u64) -> Rule {
        let selector = Selector::parse(selector).unwrap();
        Rule::new(setting, selector, Some(ms), Source::File).unwrap()
    }

    fn owner(db: &str, login: &str, uid: i64) -> Content {
        Content {
            class: Class::Authenticated,
            uid: Some(uid),
            db: Some(db.to_owned()),
            login: Some(login.to_owned()),
        }
    }

    #[test]
    fn the_most_specific_holds_for_each_setting() {
        let order = [
            "database=shop user_id=7",
            "database=shop login=till1",
            "login=till1",
            "database=shop login=till*",
            "login=till*",
            "database=shop login=til*",
            "login=*",
            "database=shop",
        ];
        for skipped in 0..order.len() {
            // Whatever the order in which they are given.
            let given = order.iter().enumerate().skip(skipped).rev();
            let rules = given.map(|(n, text)| rule(Setting::Idle, text, n as u64 + 1)).collect();
            let rules = Rules::new(Lifetimes::default(), rules).unwrap();
            let lifetimes = rules.of(&owner("shop", "till1", 7));
            assert_eq!(lifetimes.idle_ms, skipped as u64 + 1, "{}", order[skipped]);
            assert_eq!(lifetimes.absolute_ms, None);
        }
    }

    #[test]
    fn each_setting_has_a_rule_of_its_own() {
        let rules = vec![
            rule(Setting::Idle, "database=shop", 1),
            rule(Setting::Absolute, "login=till*", 2),
            rule(Setting::AnonymousIdle, "database=shop", 3),
        ];
        let rules = Rules::new(Lifetimes::default(), rules).unwrap();
        let default = Lifetimes::default();
        let here = rules.of(&owner("shop", "till", 1));
        assert_eq!((here.idle_ms, here.absolute_ms, here.anonymous_idle_ms), (1, Some(2), 3));
        let elsewhere = rules.of(&owner("b", "till", 1));
        assert_eq!((elsewhere.idle_ms, elsewhere.absolute_ms), (default.idle_ms, Some(2)));
        assert_eq!(rules.of(&owner("b", "x", 1)), default);
        let nobody = Content { class: Class::Anonymous, uid: None, db: None, login: None };
        assert_eq!(rules.of(&nobody), default);
    }

    #[test]
    fn the_longest_is_that_of_a_rule_or_of_all() {
        let general = Lifetimes { idle_ms: 10, absolute_ms: Some(20), ..Lifetimes::default() };
        let longest = |rules| Rules::new(general, rules).unwrap().longest();
        assert_eq!(longest(vec![]), general);
        let rules = vec![
            rule(Setting::Idle, "database=a", 5),
            rule(Setting::Idle, "database=b", 15),
            rule(Setting::Absolute, "database=a", 5),
        ];
        assert_eq!(longest(rules), Lifetimes { idle_ms: 15, ..general });
        let endless = Rule { ms: None, ..rule(Setting::Absolute, "database=a", 5) };
        assert_eq!(
            longest(vec![endless, rule(Setting::Absolute, "database=b", 99)]).absolute_ms,
            None
        );
    }

    #[test]
    fn a_live_rule_goes_before_that_of_the_file() {
        let file = rule(Setting::Idle, "database=shop", 1);
        let live = Rule { ms: Some(2), source: Source::Live, ..file.clone() };
        for rules in [vec![file.clone(), live.clone()], vec![live.clone(), file]] {
            let rules = Rules::new(Lifetimes::default(), rules).unwrap();
            assert_eq!(rules.all(), std::slice::from_ref(&live));
        }
    }

    #[test]
    fn there_are_at_most_so_many() {
        let many = |count| (0..count).map(|n| rule(Setting::Idle, &format!("login=u{n}"), 1));
        assert!(Rules::new(Lifetimes::default(), many(RULES_MAX).collect()).is_ok());
        let refused = Rules::new(Lifetimes::default(), many(1000).collect()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "1000 rules for lifetimes; there can be at most 200: use patterns of logins"
        );
        let long = |n| rule(Setting::Idle, &format!("login={n}{}", "x".repeat(120)), 1);
        assert!(Rules::new(Lifetimes::default(), (0..100).map(long).collect()).is_ok());
        let refused = Rules::new(Lifetimes::default(), (0..200).map(long).collect()).unwrap_err();
        assert!(refused.to_string().ends_with("at most 16384: use patterns of logins"));
    }
}
