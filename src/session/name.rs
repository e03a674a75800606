//! Names: the secret session id, the alias under which it is kept, and what a directory entry can be.
//!
//! See `docs/semantics.md`, "Names". A [`Sid`] is a bearer token: its `Debug` is its alias, and it
//! has no `Display`.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
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
pub struct Sid(Arc<str>);

/// The only form in which a session is stored, listed, logged or counted: of the shape of a
/// session id (40 hex or 84 base64url characters), and not to be turned back into one. Shared, since several tables
/// name a session.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Alias(Arc<str>);

/// A name of the shape of an alias that nobody has shown to be one: it may be a session id, and so
/// a secret. It can neither be printed nor logged. A listing that has shown it makes it an
/// [`Alias`] ([`CandidateAlias::among`]).
#[derive(Clone, Eq, PartialEq)]
pub struct CandidateAlias(Alias);

/// The first two characters of a session id: Odoo's sub-directory, and the Redis hash tag.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Shard([u8; 2]);

/// Under which of its two names a session was saved last.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
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
    pub candidate: Option<CandidateAlias>,
    /// Which of the two forms it has.
    pub form: Form,
}

/// What a name in the root directory can be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RootName {
    Shard(Shard),
    /// `werkzeug_<40 hex>.sess`.
    Session(SessionName),
    /// `tmp….__wz_sess` or `tmp….__tx_sess__`, the `mkstemp` names of a save.
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

impl CandidateAlias {
    /// The alias, if `is_known` says that it is one.
    pub fn among(&self, is_known: impl FnOnce(&Alias) -> bool) -> Option<Alias> {
        is_known(&self.0).then(|| self.0.clone())
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
    /// The length of those of Odoo 18 and later; others are shorter.
    pub const LONG_CHARS: usize = LONG_LEN;

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
    /// Every shard.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).filter_map(Self::from_index)
    }
    /// Whether ids of 40 hexadecimal digits are in it, the only ones that a flat name may have.
    pub(crate) fn may_be_hex(self) -> bool {
        self.0.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
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
        Some(Self {
            sid: Sid::parse(text)?,
            candidate: Alias::parse(text).map(CandidateAlias),
            form,
        })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef01234567";
    const LONG: &str =
        "-_Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0";
    const UUID: &str = "00112233445566778899aabbccddeeff";

    fn sid(text: &str) -> Sid {
        Sid::parse(text).expect("a session id")
    }

    /// The alias is a stored format: these literals were made by Python's hashlib and never change.
    #[test]
    fn alias_vectors() {
        for (id, alias) in [
            (HEX, "0115709189904fdd574f94e7ddba197ec21b1161"),
            (
                &LONG[..84],
                "-_Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ac2XAPTGVdBgZ9WgQ0gAE3pszxwmGJwvnbSdpl0gA8j",
            ),
            (
                &LONG[..85],
                "-_Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0AhdVpXWVHwQbf_xG5Z1au3_wM8mnehmXTzG-BbXhT4X",
            ),
            (
                LONG,
                "-_Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ab0Ah2qAYc4_AZtEbM-KY4Cc-1HYs8jaCBG8O8l91vc41d",
            ),
        ] {
            assert_eq!(sid(id).alias().as_str(), alias);
        }
    }

    #[test]
    fn sids_and_aliases_have_odoos_shapes() {
        for good in [HEX, &LONG[..84], &LONG[..85], LONG] {
            assert!(Sid::parse(good).is_some());
            assert_eq!(Alias::parse(good).is_some(), good.len() <= 84);
        }
        let newline = format!("{HEX}\n");
        let upper = HEX.to_uppercase();
        let spaced = LONG.replace('0', " ");
        let dotted = LONG.replace("Ab0", "../");
        let wide = "\u{e4}".repeat(42);
        let padded = format!("{}==", &LONG[..84]);
        let long_newline = format!("{}\n", &LONG[..84]);
        for bad in [
            "",
            &HEX[1..],
            &newline,
            &upper,
            &LONG[..83],
            &format!("{LONG}0"),
            &spaced,
            &dotted,
            &wide,
            &padded,
            &long_newline,
        ] {
            assert_eq!((Sid::parse(bad), Alias::parse(bad)), (None, None), "{bad:?}");
        }
    }

    #[test]
    fn families_are_the_long_ones() {
        assert_eq!(sid(HEX).alias().family(), None);
        assert_eq!(sid(LONG).alias().family(), Some(&LONG[..42]));
    }

    #[test]
    fn every_shard_has_one_number() {
        for index in 0..Shard::COUNT {
            let shard = Shard::from_index(index).expect("below the count");
            assert_eq!(shard.index(), index);
            assert_eq!(Shard::parse(shard.as_str()), Some(shard));
        }
        assert_eq!(Shard::from_index(Shard::COUNT), None);
        assert_eq!(Shard::from_index(u16::MAX), None);
        for bad in ["", "a", "abc", "..", "a/", "\u{e4}", "a\n"] {
            assert_eq!(Shard::parse(bad), None);
        }
    }

    #[test]
    fn a_shard_holds_only_its_own() {
        let shard = sid(LONG).shard();
        let name = SessionName::in_shard(shard, LONG).expect("its own");
        assert!(name.candidate.is_none() && name.form == Form::Sharded);
        let name = SessionName::in_shard(shard, &LONG[..84]).expect("its own");
        assert!(name.candidate == Alias::parse(&LONG[..84]).map(CandidateAlias));
        assert_eq!(SessionName::in_shard(shard, HEX), None);
        assert_eq!(SessionName::in_shard(shard, "-_"), None);
    }

    #[test]
    fn root_names() {
        use RootName::{Other, Session, Spool, Staging};
        let flat = |id: &str| RootName::parse(&format!("werkzeug_{id}.sess"));
        assert!(matches!(flat(HEX), Session(name) if name.sid == sid(HEX)
            && name.candidate == Alias::parse(HEX).map(CandidateAlias) && name.form == Form::Flat));
        assert_eq!(flat(&LONG[..84]), Other);
        assert_eq!(flat(&HEX.to_uppercase()), Other);
        assert_eq!(RootName::parse("--"), RootName::Shard(Shard(*b"--")));
        assert_eq!(RootName::parse("tmpabc_01yz.__wz_sess"), Staging);
        assert_eq!(RootName::parse("tmp________.__tx_sess__"), Staging);
        let spool = RootName::parse(&format!("werkzeug_{HEX}_{UUID}.file"));
        assert_eq!(spool, Spool(SpoolName { sid: sid(HEX), uuid: UUID.into() }));
        for other in [
            "",
            "..",
            "tmpABCDEFGH.__wz_sess",
            "tmpabc_01y.__wz_sess",
            "tmpabc_01yz0.__wz_sess",
            "tmpabc_01yz.__wz_sess__",
            "tmp\u{e4}bcdefg.__wz_sess",
            "tmpabcdefg\u{e4}",
            "werkzeug_.sess",
            HEX,
            &format!("werkzeug_{HEX}.sess\n"),
            &format!("werkzeug_{HEX}.file"),
            &format!("werkzeug_{HEX}_{HEX}.file"),
            &format!("werkzeug_{HEX}_{UUID}_{UUID}.file"),
        ] {
            assert_eq!(RootName::parse(other), Other, "{other:?}");
        }
    }

    #[test]
    fn entries_are_found_again() {
        let alias = sid(HEX).alias();
        assert_eq!(alias.entry(Form::Sharded), alias.as_str());
        let RootName::Session(name) = RootName::parse(&alias.entry(Form::Flat)) else {
            panic!("a flat name")
        };
        assert!(name.candidate == Some(CandidateAlias(alias.clone())));
        let spool = SpoolName { sid: sid(HEX), uuid: UUID.into() };
        assert_eq!(spool.aliased(), format!("werkzeug_{alias}_{UUID}.file"));
    }

    #[test]
    fn debug_shows_no_session_id() {
        let shard = sid(LONG).shard();
        let spool = SpoolName { sid: sid(HEX), uuid: UUID.into() };
        let shown = [
            format!("{:?}", sid(LONG)),
            format!("{:?}", SessionName::in_shard(shard, &LONG[..84])),
            format!("{:?}", RootName::parse(&format!("werkzeug_{HEX}.sess"))),
            format!("{spool:?}"),
        ];
        for text in shown {
            assert!(!text.contains(&HEX[2..]) && !text.contains(&LONG[42..84]), "{text}");
            assert!(text.contains("alias"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_alias_stands_where_its_session_does(
            text in "[0-9a-f]{40}|[A-Za-z0-9_-]{84,86}",
        ) {
            let sid = sid(&text);
            let alias = sid.alias();
            prop_assert_eq!(Alias::parse(alias.as_str()), Some(alias.clone()));
            prop_assert_eq!(alias.shard(), sid.shard());
            let listed = alias.entry(Form::Sharded);
            let name = SessionName::in_shard(sid.shard(), &listed).expect("a session's name");
            prop_assert!(name.candidate == Some(CandidateAlias(alias.clone())));
            // An alias taken for a session id is never the same session.
            prop_assert_ne!(name.sid.alias(), alias);
        }

        #[test]
        fn any_name_is_read(name in any::<String>(), near in "(tmp|werkzeug_)?[0-9a-f_]{0,44}.{0,12}") {
            for name in [name, near] {
                let _ = (RootName::parse(&name), Sid::parse(&name), Alias::parse(&name));
                let _ = SessionName::in_shard(Shard(*b"00"), &name);
            }
        }
    }
}
