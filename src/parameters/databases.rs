//! Which databases an Odoo serves: `dbfilter` (`odoo/http.py`, `db_filter`).

use regex_lite::{Regex, RegexBuilder};

/// `dbfilter`.
#[derive(Clone, Default)]
pub(super) struct Filter(Option<Regex>);

impl Filter {
    /// Of that pattern. What stands for the host that a browser has asked for may be anything here; so may all of a pattern
    /// that Python alone understands: then more databases are asked than are served, which changes no session.
    pub(super) fn of(pattern: Option<&str>) -> Self {
        const SIZE_MAX_BYTES: usize = 1 << 20;
        Self(pattern.and_then(|pattern| {
            let pattern = pattern.replace("%h", ".*").replace("%d", ".*");
            // As Python's `match`: from the beginning, but not to the end.
            let anchored = format!("^(?:{pattern})");
            RegexBuilder::new(&anchored).size_limit(SIZE_MAX_BYTES).build().ok()
        }))
    }

    /// Whether a database of this name may be served.
    pub(super) fn lets_through(&self, database: &str) -> bool {
        self.0.as_ref().is_none_or(|pattern| pattern.is_match(database))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_pattern_from_the_beginning() {
        let cases = [
            (None, "any", true),
            (Some("shop"), "shop2", true),
            (Some("shop"), "my_shop", false),
            (Some("^shop$"), "shop2", false),
            (Some("a|b"), "ab", true),
            (Some("a|b"), "cb", false),
            (Some("^%d$"), "any", true),
            (Some("^%h_test$"), "shop_test", true),
            (Some("^%h_test$"), "shop", false),
            // Python's alone.
            (Some("(?!shop)x"), "any", true),
        ];
        for (pattern, database, expected) in cases {
            let found = Filter::of(pattern).lets_through(database);
            assert_eq!(found, expected, "{pattern:?} {database}");
        }
    }
}
