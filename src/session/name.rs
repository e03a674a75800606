//! Names: the secret session id, the alias under which it is kept, and what a directory entry can be.
//!
//! See `docs/semantics.md`, "Names". A [`Sid`] is a bearer token: its `Debug` is its alias, and it
//! has no `Display`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

/// Hashed in front of the session id. The alias is a stored format: another derivation needs
/// another number here.
const ALIAS_DOMAIN: &[u8] = b"sessionfs:1:";
const HEX_LEN: usize = 40;
const LONG_LEN: usize = 84;
/// Odoo 19.1 draws 86 characters and accepts what its predecessors drew.
const LONGEST_LEN: usize = 86;
const FAMILY_LEN: usize = 42;
const SHARD_LEN: usize = 2;
const UUID_LEN: usize = 32;
/// The characters that Python's `tempfile` puts between prefix and suffix.
const STAGING_RANDOM_LEN: usize = 8;
const STAGING_SUFFIXES: [&str; 2] = [".__wz_sess", ".__tx_sess__"];
const FLAT_PREFIX: &str = "werkzeug_";
const FLAT_SUFFIX: &str = ".sess";
const SPOOL_SUFFIX: &str = ".file";
const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

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
#[derive(Clone, Eq, PartialEq)]
pub struct SessionName {
    /// The name read as a session id. Every candidate is tried as one first.
    pub sid: Sid,
    /// The name read as an alias, where its shape allows it (an 85 or 86 character name cannot be).
    /// **Never to be logged**: of a name that is a session id this is the session id.
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

impl fmt::Debug for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The candidate alias is left out: it may be the secret itself.
        f.debug_struct("SessionName")
            .field("sid", &self.sid)
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
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
        let long = (LONG_LEN..=LONGEST_LEN).contains(&text.len()) && is_base64url(text);
        (long || is_hex(text, HEX_LEN)).then(|| Self(text.into()))
    }
    /// The id itself. For the seal and for names that go back to the kernel, nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
    /// The alias under which this session is kept.
    pub fn alias(&self) -> Alias {
        let hash = Sha256::new().chain_update(ALIAS_DOMAIN).chain_update(self.0.as_bytes());
        let hash: [u8; 32] = hash.finalize().into();
        let hex = self.0.len() == HEX_LEN;
        let (kept, len) = if hex { (SHARD_LEN, HEX_LEN) } else { (FAMILY_LEN, LONG_LEN) };
        let mut alias = String::with_capacity(LONGEST_LEN);
        alias.push_str(&self.0[..kept]);
        if hex {
            push_hex(&mut alias, &hash);
        } else {
            URL_SAFE_NO_PAD.encode_string(hash, &mut alias);
        }
        alias.truncate(len);
        Alias(alias.into())
    }
    /// The directory entry by which Odoo names this session. As secret as the id.
    pub fn entry(&self, form: Form) -> String {
        entry(&self.0, form)
    }
    /// Its shard.
    pub fn shard(&self) -> Shard {
        Shard::of(&self.0)
    }
}

impl Alias {
    /// Takes `text` for an alias if it has the shape of one (40 hex or 84 base64url characters).
    pub fn parse(text: &str) -> Option<Self> {
        let long = text.len() == LONG_LEN && is_base64url(text);
        (long || is_hex(text, HEX_LEN)).then(|| Self(text.into()))
    }
    /// The alias as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Its shard, which is that of its session id.
    pub fn shard(&self) -> Shard {
        Shard::of(&self.0)
    }
    /// The first 42 characters, which all sessions of one device share (Odoo 18 and later);
    /// `None` for a 40-character one.
    pub fn family(&self) -> Option<&str> {
        (self.0.len() == LONG_LEN).then(|| &self.0[..FAMILY_LEN])
    }
    /// The directory entry of a session of this alias: the alias itself, or the flat name.
    pub fn entry(&self, form: Form) -> String {
        entry(&self.0, form)
    }
}

/// The directory entry of a session by its id or alias.
fn entry(id: &str, form: Form) -> String {
    match form {
        Form::Sharded => id.to_owned(),
        Form::Flat => format!("{FLAT_PREFIX}{id}{FLAT_SUFFIX}"),
    }
}

impl Shard {
    /// How many shards there can be: 64 characters in each of two places.
    pub const COUNT: u16 = 64 * 64;
    /// Takes a two-character directory name for a shard.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 2] = text.as_bytes().try_into().ok()?;
        is_base64url(text).then_some(Self(bytes))
    }
    /// A number below [`Shard::COUNT`] for each shard, and back by [`Shard::from_index`].
    pub fn index(self) -> u16 {
        self.0.into_iter().fold(0, |index, byte| index * 64 + u16::from(base64url_value(byte)))
    }
    /// The shard of that number; `None` at or above [`Shard::COUNT`].
    pub fn from_index(index: u16) -> Option<Self> {
        let first = BASE64URL.get(usize::from(index / 64))?;
        Some(Self([*first, BASE64URL[usize::from(index % 64)]]))
    }
    /// The two characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a shard is made of ASCII only")
    }
    /// The shard of a session id or an alias, both of which are longer ASCII.
    fn of(name: &str) -> Self {
        let bytes = name.as_bytes();
        Self([bytes[0], bytes[1]])
    }
}

impl SessionName {
    /// Reads a name inside the directory of `shard`: `None` if no session can have it.
    pub fn in_shard(shard: Shard, name: &str) -> Option<Self> {
        let name = Self::of(name, Form::Sharded)?;
        (name.sid.shard() == shard).then_some(name)
    }

    fn of(text: &str, form: Form) -> Option<Self> {
        Some(Self { sid: Sid::parse(text)?, alias: Alias::parse(text), form })
    }
}

impl RootName {
    /// Reads a name inside the root directory.
    pub fn parse(name: &str) -> Self {
        if let Some(shard) = Shard::parse(name) {
            return Self::Shard(shard);
        }
        if is_staging(name) {
            return Self::Staging;
        }
        name.strip_prefix(FLAT_PREFIX).and_then(Self::parse_flat).unwrap_or(Self::Other)
    }

    fn parse_flat(rest: &str) -> Option<Self> {
        if let Some(id) = rest.strip_suffix(FLAT_SUFFIX) {
            // Odoo 14 and 15 know only the short ids, so no long one can have a flat name.
            return is_hex(id, HEX_LEN)
                .then(|| SessionName::of(id, Form::Flat))
                .flatten()
                .map(Self::Session);
        }
        let (id, uuid) = rest.strip_suffix(SPOOL_SUFFIX)?.split_once('_')?;
        (is_hex(id, HEX_LEN) && is_hex(uuid, UUID_LEN))
            .then(|| Self::Spool(SpoolName { sid: Sid(id.into()), uuid: uuid.into() }))
    }
}

impl SpoolName {
    /// The name under which the file is kept and listed: with the alias in the place of the id.
    pub fn aliased(&self) -> String {
        format!("{FLAT_PREFIX}{}_{}{SPOOL_SUFFIX}", self.sid.alias(), self.uuid)
    }
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_base64url(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn is_staging(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("tmp") else { return false };
    let Some((random, suffix)) = rest.split_at_checked(STAGING_RANDOM_LEN) else { return false };
    let drawn = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    random.bytes().all(drawn) && STAGING_SUFFIXES.contains(&suffix)
}

fn base64url_value(byte: u8) -> u8 {
    match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'-' => 62,
        _ => 63,
    }
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            out.push(char::from(DIGITS[usize::from(nibble)]));
        }
    }
}
