//! The indexes of a shard: sorted sets of its sessions by last activity.
//!
//! There are two kinds. The long one names each session by its alias. Of the short ones there are four, so that each
//! stays small enough for Redis to keep it as a list; a session is in the one that two bits of its alias say, by an
//! entry of 64 bytes: two *marks*, by which the sessions of a user and those with a flat name are found, and the *tail*,
//! the alias without what the shard says. `session.lua` has the same rules: a session is in a short one if its header
//! is short.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::envelope::{Header, text, uid_text};
use crate::session::content::Content;
use crate::session::name::{Alias, Form, Shard};

/// How many short indexes a shard has.
pub(super) const QUARTERS: usize = 4;
/// How many indexes a shard has. They are numbered: the long one, and then the short ones.
pub(super) const INDEXES: usize = FIRST_SHORT + QUARTERS;
pub(super) const LONG: usize = 0;
pub(super) const FIRST_SHORT: usize = 1;

/// The marks of an entry: of the user id and the form of the name, and of the login.
pub(super) type Marks = [u8; 2];

/// An entry of an index.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Entry {
    pub alias: Alias,
    /// `None` in the long index.
    pub marks: Option<Marks>,
}

impl Entry {
    /// Reads a member of the index of that number of a shard. Strangers are none, nor is an entry of another index.
    pub(super) fn read(shard: Shard, index: usize, member: &[u8]) -> Option<Self> {
        if index == LONG {
            let alias = Alias::parse(std::str::from_utf8(member).ok()?)?;
            return (alias.shard() == shard).then_some(Self { alias, marks: None });
        }
        Self::read_short(shard, member).filter(|entry| quarter(&entry.alias) == index - FIRST_SHORT)
    }

    /// The same of a member that is in one of the short indexes.
    pub(super) fn read_short(shard: Shard, member: &[u8]) -> Option<Self> {
        let (marks, tail) = member.split_first_chunk()?;
        Some(Self { alias: with_tail(shard, tail)?, marks: Some(*marks) })
    }

    /// Whether it is the entry of a session with that header, which is stored so (`entry` in `session.lua`).
    pub(super) fn is_own(&self, stored: &[u8], header: &Header) -> bool {
        let marks = Header::is_short(stored).then(|| {
            let Content { uid, login, .. } = &header.content;
            let flat = u8::from(header.form == Form::Flat);
            [user_mark(&uid_text(*uid)) * 2 + flat, mark(&text(login.as_deref()))]
        });
        self.marks == marks
    }
}

/// What an entry ends with: the bytes of an alias after the first one.
pub(super) fn tail(alias: &Alias) -> Vec<u8> {
    let text = alias.as_str();
    let bytes = match alias.family() {
        Some(_) => URL_SAFE_NO_PAD.decode(text).ok(),
        None => from_hex(text),
    };
    // An alias has the shape of what is decoded here.
    bytes.unwrap_or_default().split_off(1)
}

/// Which of the short indexes a session would be in.
pub(super) fn quarter(alias: &Alias) -> usize {
    tail(alias).get(1).map_or(0, |byte| usize::from(*byte) * QUARTERS / 256)
}

/// The alias of a shard that ends so.
fn with_tail(shard: Shard, tail: &[u8]) -> Option<Alias> {
    let first_long = URL_SAFE_NO_PAD.decode([shard.as_str(), "AA"].concat()).ok()?[0];
    let long = || Alias::parse(&URL_SAFE_NO_PAD.encode([&[first_long], tail].concat()));
    let hex = || {
        Alias::parse(&tail.iter().fold(shard.to_string(), |text, byte| format!("{text}{byte:02x}")))
    };
    long().or_else(hex).filter(|alias| alias.shard() == shard)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.as_bytes()
        .chunks(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?))
        .collect()
}

/// The mark of a user id, of which the entry has seven bits.
pub(super) fn user_mark(uid: &str) -> u8 {
    mark(uid) % 128
}

/// A number below 251 by which sessions of one user are found; `session.lua` has the same.
pub(super) fn mark(text: &str) -> u8 {
    let sum = text.bytes().fold(0_u32, |sum, byte| (sum * 31 + u32::from(byte)) % 251);
    u8::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_alias_is_read_back_from_its_entry(
            long in "[A-Za-z0-9_-]{84}", hex in "[0-9a-f]{40}", marks: [u8; 2],
        ) {
            for (text, length) in [(long, 64), (hex, 21)] {
                let alias = Alias::parse(&text).unwrap();
                let member = [&marks[..], &tail(&alias)].concat();
                prop_assert_eq!(member.len(), length);
                let entry = Entry { alias: alias.clone(), marks: Some(marks) };
                let own = quarter(&alias);
                for number in 0..QUARTERS {
                    let expected = (number == own).then(|| entry.clone());
                    prop_assert_eq!(Entry::read(alias.shard(), FIRST_SHORT + number, &member), expected);
                }
                let entry = Entry { alias: alias.clone(), marks: None };
                prop_assert_eq!(Entry::read(alias.shard(), LONG, text.as_bytes()), Some(entry));
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..70)) {
            for shard in ["ab", "-_", "Zz"].map(|text| Shard::parse(text).unwrap()) {
                for index in [LONG, FIRST_SHORT] {
                    if let Some(entry) = Entry::read(shard, index, &bytes) {
                        prop_assert_eq!(entry.alias.shard(), shard);
                    }
                }
            }
        }
    }
}
