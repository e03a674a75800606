//! Text that somebody else wrote: Redis, another server, a worker. A terminal obeys some characters,
//! and others make a line read as what it is not, so such text is escaped wherever a person reads it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Text from outside. `Display` escapes it, in one line; programs (JSON) get it as it is.
#[derive(Clone, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub(crate) struct Foreign(String);

impl<T: Into<String>> From<T> for Foreign {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl PartialEq<str> for Foreign {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&escaped(&self.0))
    }
}

/// With an escape for each character that a terminal would obey, line feeds among them.
pub(crate) fn escaped(text: &str) -> String {
    escaped_but(text, |_| None)
}

/// In one line: control characters become blanks.
pub(crate) fn one_line(text: &str) -> String {
    escaped_but(text, |c| c.is_control().then_some(' '))
}

fn escaped_but(text: &str, instead: impl Fn(char) -> Option<char>) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match instead(c) {
            Some(other) => shown.push(other),
            None if is_obeyed(c) => shown.extend(c.escape_unicode()),
            None => shown.push(c),
        }
    }
    shown
}

/// Control characters, and those that turn or hide what stands beside them.
pub(crate) fn is_obeyed(c: char) -> bool {
    let unseen = [
        '\u{ad}'..='\u{ad}',
        '\u{34f}'..='\u{34f}',
        '\u{61c}'..='\u{61c}',
        '\u{115f}'..='\u{1160}',
        '\u{17b4}'..='\u{17b5}',
        '\u{180b}'..='\u{180f}',
        '\u{200b}'..='\u{200f}',
        '\u{2028}'..='\u{202e}',
        '\u{2060}'..='\u{206f}',
        '\u{3164}'..='\u{3164}',
        '\u{fe00}'..='\u{fe0f}',
        '\u{feff}'..='\u{feff}',
        '\u{ffa0}'..='\u{ffa0}',
        '\u{fff0}'..='\u{fffb}',
        '\u{1d173}'..='\u{1d17a}',
        '\u{e0000}'..='\u{e0fff}',
    ];
    c.is_control() || unseen.iter().any(|range| range.contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_is_shown_and_not_obeyed() {
        let hostile = Foreign::from("a\x1b]52;c;eA==\x07\n\u{9b}2J\u{202e}b\u{200b}\u{e0041}");
        let shown = "a\\u{1b}]52;c;eA==\\u{7}\\u{a}\\u{9b}2J\\u{202e}b\\u{200b}\\u{e0041}";
        assert_eq!(hostile.to_string(), shown);
        assert!(!shown.chars().any(is_obeyed));
        assert_eq!(one_line("two\r\nlines\u{202e}"), "two  lines\\u{202e}");
        assert_eq!(format!("{:>4}", Foreign::from("Zo\u{eb}")), " Zo\u{eb}");
        // A program gets what was written.
        let json = serde_json::to_string(&hostile).unwrap();
        assert_eq!(serde_json::from_str::<Foreign>(&json).unwrap(), hostile);
    }
}
