//! Class and identity, read from the bytes of a session without ever unpickling them.
//!
//! Odoo 14 to 17 write a pickle of a plain dict (protocol 2 to 5), 18 and later JSON. What cannot
//! be read counts as authenticated, because an authenticated session is the one that must expire.
//!
//! The token alone decides, as it does in Odoo: without one that fits, a `uid` logs nobody in, and
//! between password and second factor there is a `pre_uid` but no token yet. Whatever is not
//! plainly absent or null is a token, an empty text or a number too.
//!
//! No content may look anonymous here and authenticated to the Python that reads it. So of a
//! repeated key the last value counts, in both formats, as it does in Python.

mod json;
mod pickle;

use serde::{Deserialize, Serialize};

/// Whether somebody is logged in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Class {
    /// A `session_token` is there, or the content could not be read.
    Authenticated,
    /// Nobody is logged in (a visitor, or a password given and the second factor still due).
    Anonymous,
}

/// What the content says of its owner. Strings are cut at [`MAX_TEXT_BYTES`] on a character boundary.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Content {
    /// Whether somebody is logged in.
    pub class: Class,
    /// Odoo's user id, if it can be read.
    pub uid: Option<i64>,
    /// The database's name.
    pub db: Option<String>,
    /// As [`login`] writes it.
    pub login: Option<String>,
}

/// The longest text kept of `db` and `login`.
pub const MAX_TEXT_BYTES: usize = 128;
/// How many blanks before a text are passed over, bytes.
const BLANKS_MAX_BYTES: usize = 1024;

/// A login as it is kept, compared and shown: in small letters, without blanks around it. Odoo keeps in the session what was
/// typed, and where it asks an LDAP server (`auth_ldap`) any such spelling logs the same user in.
pub fn login(typed: &str) -> String {
    cut(&typed.trim_matches(is_blank).to_lowercase()).to_owned()
}

/// What Python's `strip()` takes away.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// As much of a text as is kept.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Reads the content of a session file. Bounded in time and memory by the length of `bytes`.
pub fn read(bytes: &[u8]) -> Content {
    // Neither can be taken for the other: no JSON begins with this byte, and what JSON of an object
    // begins with is no opcode of a pickle.
    let fields = match bytes.first() {
        Some(&pickle::PROTO) => pickle::read(bytes),
        _ => json::read(bytes),
    };
    fields.map_or(UNREADABLE, Fields::into_content)
}

/// Whether the content of a file can be that of a session at all. What only cannot be read is one:
/// Odoo may be able to.
pub fn may_be_session(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(&(pickle::PROTO | b'{')))
}

const UNREADABLE: Content =
    Content { class: Class::Authenticated, uid: None, db: None, login: None };

/// The top-level values that matter, each as it was set last.
#[derive(Default)]
struct Fields {
    token: Scalar,
    uid: Scalar,
    db: Scalar,
    login: Scalar,
}

/// A value, as far as it matters.
#[derive(Default)]
enum Scalar {
    #[default]
    Null,
    Int(i64),
    Text(String),
    Other,
}

impl Fields {
    /// Where the value of this key belongs; `None` for keys that do not matter.
    fn slot(&mut self, key: &[u8]) -> Option<&mut Scalar> {
        match key {
            b"session_token" => Some(&mut self.token),
            b"uid" => Some(&mut self.uid),
            b"db" => Some(&mut self.db),
            b"login" => Some(&mut self.login),
            _ => None,
        }
    }

    fn into_content(self) -> Content {
        let class = match self.token {
            Scalar::Null => Class::Anonymous,
            _ => Class::Authenticated,
        };
        let uid = match self.uid {
            Scalar::Int(uid) => Some(uid),
            _ => None,
        };
        let login = self.login.into_text().map(|typed| login(&typed));
        Content { class, uid, db: self.db.into_text(), login }
    }
}

impl Scalar {
    fn text(text: &str) -> Self {
        let is_passed_over =
            |(at, c): &(usize, char)| *at + c.len_utf8() <= BLANKS_MAX_BYTES && is_blank(*c);
        let begin: usize =
            text.char_indices().take_while(is_passed_over).map(|(_, c)| c.len_utf8()).sum();
        Self::Text(cut(&text[begin..]).to_owned())
    }

    fn into_text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
