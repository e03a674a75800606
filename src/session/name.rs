//! Names: the secret session id, the alias under which it is kept, and what a directory entry can be.
//!
//! See `docs/semantics.md`, "Names". A [`Sid`] is a bearer token: its `Debug` is its alias, and it
//! has no `Display`.

use std::fmt;

/// A session id as the cookie carries it: 40 lower-case hex digits (Odoo 14 to 17) or 84 to 86
/// base64url characters (18 and later). Secret.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Sid(Box<str>);

/// The only form in which a session is stored, listed, logged or counted: of the shape of a
/// session id (40 hex or 84 base64url characters), and not to be turned back into one.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Alias(Box<str>);

/// The first two characters of a session id: Odoo's sub-directory, and the Redis hash tag.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Shard([u8; 2]);

/// Under which of its two names a session was saved last.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Form {
    /// `ab/<sid>`: Odoo 16 and later.
    Sharded,
    /// `werkzeug_<sid>.sess` in the root: Odoo 14 and 15.
    Flat,
}

/// A directory entry's name that may belong to a session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SessionName {
    /// The name read as a session id. Every candidate is tried as one first.
    pub sid: Sid,
    /// The name read as an alias, where its shape allows it (an 85 or 86 character name cannot be).
    pub alias: Option<Alias>,
    /// Which of the two forms it has.
    pub form: Form,
}

/// What a name in the root directory can be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RootName {
    /// A shard directory.
    Shard(Shard),
    /// `werkzeug_<40 hex>.sess`.
    Session(SessionName),
    /// `tmpXXXXXXXX.__wz_sess` or `tmpXXXXXXXX.__tx_sess__`, the `mkstemp` names of a save.
    Staging,
    /// `werkzeug_<40 hex>_<32 hex>.file`, where Odoo 14 and 15 spool an upload.
    Spool(SpoolName),
    /// Nothing that Odoo would ever name.
    Other,
}

/// The name of an upload spool file of Odoo 14 and 15.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SpoolName {
    /// The part that names the session, read as a session id.
    pub sid: Sid,
    /// The 32 hex digits of the file's own uuid.
    pub uuid: Box<str>,
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sid(alias {})", self.alias())
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Sid {
    /// Takes `text` for a session id if it has the shape of one.
    pub fn parse(text: &str) -> Option<Self> {
        unimplemented!("{}", text.len())
    }
    /// The id itself. For the seal and for names that go back to the kernel, nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
    /// The alias under which this session is kept.
    pub fn alias(&self) -> Alias {
        unimplemented!()
    }
    /// Its shard.
    pub fn shard(&self) -> Shard {
        unimplemented!()
    }
}

impl Alias {
    /// Takes `text` for an alias if it has the shape of one (40 hex or 84 base64url characters).
    pub fn parse(text: &str) -> Option<Self> {
        unimplemented!("{}", text.len())
    }
    /// The alias as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Its shard, which is that of its session id.
    pub fn shard(&self) -> Shard {
        unimplemented!()
    }
    /// The first 42 characters, which all sessions of one device share (Odoo 18 and later);
    /// `None` for a 40-character one.
    pub fn family(&self) -> Option<&str> {
        unimplemented!()
    }
    /// The directory entry of a session of this alias: the alias itself, or the flat name.
    pub fn entry(&self, form: Form) -> String {
        unimplemented!("{form:?}")
    }
}

impl Shard {
    /// How many shards there can be: 64 characters in each of two places.
    pub const COUNT: u16 = 64 * 64;
    /// Takes a two-character directory name for a shard.
    pub fn parse(text: &str) -> Option<Self> {
        unimplemented!("{}", text.len())
    }
    /// A number below [`Shard::COUNT`] for each shard, and back by [`Shard::from_index`].
    pub fn index(self) -> u16 {
        unimplemented!()
    }
    /// The shard of that number; `None` at or above [`Shard::COUNT`].
    pub fn from_index(index: u16) -> Option<Self> {
        unimplemented!("{index}")
    }
    /// The two characters.
    pub fn as_str(&self) -> &str {
        unimplemented!()
    }
}

impl SessionName {
    /// Reads a name inside the directory of `shard`: `None` if no session can have it.
    pub fn in_shard(shard: Shard, name: &str) -> Option<Self> {
        unimplemented!("{shard:?}{}", name.len())
    }
}

impl RootName {
    /// Reads a name inside the root directory.
    pub fn parse(name: &str) -> Self {
        unimplemented!("{}", name.len())
    }
}

impl SpoolName {
    /// The name under which the file is kept and listed: with the alias in the place of the id.
    pub fn aliased(&self) -> String {
        unimplemented!()
    }
}
