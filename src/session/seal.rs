//! How content is kept: encrypted and authenticated with a key that needs both the session id, which
//! only the cookie's holder has, and the cluster's secret, which only its servers have.
//!
//! A sealed content is a format byte, 4 bytes that name the secret, a random nonce of 24 bytes, and
//! the ciphertext with its tag of 16 bytes. What is [`Bound`] to it is stored beside it, in the open,
//! and cannot be exchanged: the content does not open with anything else.
//!
//! One that is packed has another format, without a nonce: it follows from what is bound. That is never the same for
//! two contents of a session, since each save draws its id at random, so no nonce is used twice with a key.

use std::fmt;

use chacha20poly1305::aead::OsRng;
use chacha20poly1305::{AeadCore, AeadInPlace, Key, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};

use super::change::ChangeId;
use super::content::{Class, Content};
use super::name::{Alias, Sid};
use super::packing;
use super::secret::{HINT_BYTES, Keyring, Secret};

/// By how many bytes sealed content is longer than one that is not packed.
pub const OVERHEAD_BYTES: usize = 1 + HINT_BYTES + NONCE_BYTES + TAG_BYTES;

const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// How it is sealed: its number is the first byte.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Format {
    /// With a random nonce.
    Random = 2,
    /// With a nonce that follows from what is bound.
    Derived = 3,
}

impl Format {
    /// What a content is sealed in. All who read packed contents read the newer one.
    fn of(bound: &Bound) -> Self {
        if bound.packing == packing::PLAIN { Self::Random } else { Self::Derived }
    }

    fn of_number(number: u8) -> Option<Self> {
        [Self::Random, Self::Derived].into_iter().find(|format| *format as u8 == number)
    }

    /// What the key is derived for.
    fn key_info(self) -> &'static [u8] {
        match self {
            Self::Random => b"sessionfs:seal:2",
            Self::Derived => b"sessionfs:seal:3",
        }
    }

    /// The length of the nonce that is stored.
    fn stored_nonce_bytes(self) -> usize {
        match self {
            Self::Random => NONCE_BYTES,
            Self::Derived => 0,
        }
    }
}

/// What is bound to a content: whoever changes any of it breaks the seal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bound {
    /// The session that it belongs to.
    pub alias: Alias,
    /// Class and identity.
    pub content: Content,
    /// The birth of the life that it was saved in.
    pub birth: ChangeId,
    /// The save that brought it. A change of mode or mtime keeps it.
    pub save: ChangeId,
    /// How it is packed: one of those of [`packing`], or something that this version cannot unpack.
    pub packing: u16,
}

/// Why sealed content could not be opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SealError {
    /// It was not sealed with this session's key, or it or what is bound to it was changed since.
    Broken,
    /// It was sealed by another version of sessionfs, in a format that this one does not know.
    UnknownFormat(u8),
    /// It was packed by another version of sessionfs, in a way that this one does not know.
    UnknownPacking(u16),
    /// It was sealed with a secret that this server does not hold.
    UnknownSecret,
}

impl SealError {
    /// Whether nobody can open it any more. Otherwise another server may.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Broken)
    }
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken => f.write_str("the seal of the session is broken"),
            Self::UnknownFormat(format) => {
                write!(f, "the session is sealed in the unknown format {format}")
            }
            Self::UnknownPacking(packing) => {
                write!(f, "the session is packed in the unknown way {packing}")
            }
            Self::UnknownSecret => {
                f.write_str("the session is sealed with a secret that this server does not hold")
            }
        }
    }
}

impl std::error::Error for SealError {}

/// Seals a content for the holder of `sid`, with the secret that is written with. It is packed as `bound` says.
pub fn seal(keyring: &Keyring, sid: &Sid, bound: &Bound, packed: &[u8]) -> Vec<u8> {
    let secret = keyring.writing();
    let format = Format::of(bound);
    let associated = associated(format, bound);
    let mut sealed = Vec::with_capacity(packed.len() + OVERHEAD_BYTES);
    sealed.push(format as u8);
    sealed.extend_from_slice(&secret.fingerprint().hint());
    let nonce = match format {
        Format::Random => {
            let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
            sealed.extend_from_slice(&nonce);
            nonce
        }
        Format::Derived => derived_nonce(&associated),
    };
    let head_bytes = sealed.len();
    sealed.extend_from_slice(packed);
    let tag = cipher(format, &secret, sid)
        .encrypt_in_place_detached(&nonce, &associated, &mut sealed[head_bytes..])
        .expect("no session comes near the cipher's limit of 256 GiB");
    sealed.extend_from_slice(&tag);
    sealed
}

/// Opens what [`seal`] made with the same `bound`, and unpacks it.
pub fn open(
    keyring: &Keyring,
    sid: &Sid,
    bound: &Bound,
    sealed: &[u8],
) -> Result<Vec<u8>, SealError> {
    let (&number, rest) = sealed.split_first().ok_or(SealError::Broken)?;
    let format = Format::of_number(number).ok_or(SealError::UnknownFormat(number))?;
    if !packing::is_known(bound.packing) {
        return Err(SealError::UnknownPacking(bound.packing));
    }
    let (hint, rest) = rest.split_first_chunk::<HINT_BYTES>().ok_or(SealError::Broken)?;
    let (stored, rest) =
        rest.split_at_checked(format.stored_nonce_bytes()).ok_or(SealError::Broken)?;
    let (content, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(SealError::Broken)?;
    let secret = keyring.find(*hint).ok_or(SealError::UnknownSecret)?;
    let associated = associated(format, bound);
    let nonce = match format {
        Format::Random => *XNonce::from_slice(stored),
        Format::Derived => derived_nonce(&associated),
    };
    let mut packed = content.to_vec();
    cipher(format, &secret, sid)
        .decrypt_in_place_detached(&nonce, &associated, &mut packed, Tag::from_slice(tag))
        .map_err(|_| SealError::Broken)?;
    packing::unpack(bound.packing, packed).ok_or(SealError::Broken)
}

/// By which the secret is named that a content is sealed with, if it can be read.
pub fn hint_of(sealed: &[u8]) -> Option<[u8; HINT_BYTES]> {
    sealed.split_first()?.1.first_chunk().copied()
}

/// The nonce of what is bound, written as associated data.
fn derived_nonce(associated: &[u8]) -> XNonce {
    *XNonce::from_slice(&Sha256::digest(associated)[..NONCE_BYTES])
}

fn cipher(format: Format, secret: &Secret, sid: &Sid) -> XChaCha20Poly1305 {
    let mut key = Key::default();
    Hkdf::<Sha256>::new(Some(secret.expose()), sid.expose().as_bytes())
        .expand(format.key_info(), &mut key)
        .expect("HKDF gives far more than one key");
    XChaCha20Poly1305::new(&key)
}

/// The associated data: the format, so that a later one cannot be passed off as this one, and what
/// is bound. Each text follows its length, so that no two of them are written alike.
fn associated(format: Format, bound: &Bound) -> Vec<u8> {
    let Bound { alias, content: Content { class, uid, db, login }, birth, save, packing } = bound;
    let mut data = vec![format as u8];
    data.extend(packing.to_be_bytes());
    data.extend(birth.0.to_be_bytes());
    data.extend(save.0.to_be_bytes());
    data.push(match class {
        Class::Anonymous => 0,
        Class::Authenticated => 1,
    });
    append(&mut data, uid.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
    append(&mut data, Some(alias.as_str().as_bytes()));
    append(&mut data, db.as_deref().map(str::as_bytes));
    append(&mut data, login.as_deref().map(str::as_bytes));
    data
}

/// 0 for none; 1, the length (4 bytes, the highest first) and the bytes for some.
fn append(data: &mut Vec<u8>, text: Option<&[u8]>) {
    let Some(text) = text else { return data.push(0) };
    data.push(1);
    // All are a few hundred bytes at most: a longer one would only bind a wrong length.
    data.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    data.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::secret::SECRET_BYTES;
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    fn sid(text: &str) -> Sid {
        Sid::parse(text).expect("a session id")
    }

    fn bound(sid: &Sid) -> Bound {
        Bound {
            alias: sid.alias(),
            content: Content {
                class: Class::Authenticated,
                uid: Some(7),
                db: Some("shop".into()),
                login: None,
            },
            birth: ChangeId(1),
            save: ChangeId(2),
            packing: packing::PLAIN,
        }
    }

    fn sealed(plain: &[u8]) -> Vec<u8> {
        seal(&Keyring::for_tests(), &sid(ID), &bound(&sid(ID)), plain)
    }

    fn opened(sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        open(&Keyring::for_tests(), &sid(ID), &bound(&sid(ID)), sealed)
    }

    fn bytes_of(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
    }

    /// The seal is a stored format. This literal was made apart from this code, by Python's
    /// `hmac` and OpenSSL's ChaCha20-Poly1305 under a hand-written `HChaCha20`.
    #[test]
    fn opens_what_another_sealed() {
        let hex = "02425c535e000102030405060708090a0b0c0d0e0f10111213141516178f474e04297f56a0a1d6\
                   94240d4afe970f704d6fb51059c22884";
        assert_eq!(opened(&bytes_of(hex)).unwrap(), b"{\"uid\": 7}");
    }

    fn packed() -> (Bound, &'static [u8]) {
        let bound = Bound { packing: packing::ZSTD_1, ..bound(&sid(ID)) };
        (bound, include_bytes!("packing/golden-1.zst"))
    }

    /// The same of a packed content, by Python's `hmac` and libsodium.
    #[test]
    fn opens_what_another_sealed_packed() {
        let hex = "03425c535e38b8180397e6d818ada05c204322b09cb5469f0e95ea03aea0959e0e5768ab769dfe\
                   bb7075b71a71b888e6a7c11576cc53f09cb55386d5a45e9ef1f4f770a38c7ee22ea953b193328c\
                   c5c51ec5b1fb5899ae1e3847616ce78bc1f6f96dce";
        let (bound, packed) = packed();
        let opened = open(&Keyring::for_tests(), &sid(ID), &bound, &bytes_of(hex)).unwrap();
        assert_eq!(packing::unpack(packing::ZSTD_1, packed.to_vec()), Some(opened));
        assert_eq!(seal(&Keyring::for_tests(), &sid(ID), &bound, packed), bytes_of(hex));
    }

    /// Its nonce is of what is bound, so another save has another one.
    #[test]
    fn no_two_saves_of_a_packed_content_are_sealed_alike() {
        let (first, packed) = packed();
        let others = [
            Bound { save: ChangeId(3), ..first.clone() },
            Bound { birth: ChangeId(2), ..first.clone() },
            Bound { packing: 2, ..first.clone() },
        ];
        let sealed = |bound: &Bound| seal(&Keyring::for_tests(), &sid(ID), bound, packed);
        assert_eq!(sealed(&first).len(), packed.len() + OVERHEAD_BYTES - NONCE_BYTES);
        for other in others {
            let (one, other) = (sealed(&first), sealed(&other));
            let alike = one.iter().zip(&other).skip(1 + HINT_BYTES).filter(|(a, b)| a == b).count();
            assert!(alike < packed.len() / 8, "{alike}");
        }
        for len in 1..1 + HINT_BYTES + TAG_BYTES {
            let opened = open(&Keyring::for_tests(), &sid(ID), &first, &sealed(&first)[..len]);
            assert_eq!(opened, Err(SealError::Broken));
        }
    }

    #[test]
    fn no_two_seals_are_alike() {
        let first = sealed(b"content");
        assert_ne!(first, sealed(b"content"));
        assert_eq!(first.len(), b"content".len() + OVERHEAD_BYTES);
    }

    #[test]
    fn an_empty_content_is_sealed_too() {
        let sealed = sealed(b"");
        assert_eq!(sealed.len(), OVERHEAD_BYTES);
        assert_eq!(opened(&sealed), Ok(Vec::new()));
    }

    #[test]
    fn another_format_is_told_from_a_broken_seal() {
        let mut other = sealed(b"content");
        for number in [1, 4] {
            other[0] = number;
            assert_eq!(opened(&other), Err(SealError::UnknownFormat(number)));
        }
        assert_eq!(opened(b""), Err(SealError::Broken));
        for len in 1..OVERHEAD_BYTES {
            assert_eq!(opened(&sealed(b"")[..len]), Err(SealError::Broken));
        }
        let packed = Bound { packing: 9, ..bound(&sid(ID)) };
        let sealed = seal(&Keyring::for_tests(), &sid(ID), &packed, b"content");
        let opened = open(&Keyring::for_tests(), &sid(ID), &packed, &sealed);
        assert_eq!(opened, Err(SealError::UnknownPacking(9)));
    }

    #[test]
    fn only_the_secret_that_sealed_it_opens_it() {
        let [one, two] = [1, 2].map(|byte| Secret::from([byte; SECRET_BYTES]));
        let writer = Keyring::new(vec![one.clone()]).unwrap();
        let sid = sid(ID);
        let mut sealed = seal(&writer, &sid, &bound(&sid), b"content");
        let rotated = Keyring::new(vec![two.clone(), one]).unwrap();
        assert_eq!(open(&rotated, &sid, &bound(&sid), &sealed).unwrap(), b"content");
        let other = Keyring::new(vec![two.clone()]).unwrap();
        assert_eq!(open(&other, &sid, &bound(&sid), &sealed), Err(SealError::UnknownSecret));
        // Nor does it name another one with success.
        sealed[1..=HINT_BYTES].copy_from_slice(&two.fingerprint().hint());
        assert_eq!(open(&rotated, &sid, &bound(&sid), &sealed), Err(SealError::Broken));
    }

    #[test]
    fn the_alias_opens_nothing() {
        let owner = sid(ID);
        let thief = sid(owner.alias().as_str());
        let opened = open(&Keyring::for_tests(), &thief, &bound(&owner), &sealed(b"content"));
        assert_eq!(opened, Err(SealError::Broken));
    }

    #[test]
    fn nothing_that_is_bound_can_be_exchanged() {
        let content = bound(&sid(ID)).content;
        let changed = [
            Bound { alias: sid(&"f".repeat(40)).alias(), ..bound(&sid(ID)) },
            Bound { birth: ChangeId(2), ..bound(&sid(ID)) },
            Bound { save: ChangeId(1), ..bound(&sid(ID)) },
            Bound {
                content: Content { class: Class::Anonymous, ..content.clone() },
                ..bound(&sid(ID))
            },
            Bound { content: Content { uid: None, ..content.clone() }, ..bound(&sid(ID)) },
            Bound { content: Content { uid: Some(8), ..content.clone() }, ..bound(&sid(ID)) },
            Bound { content: Content { db: None, ..content.clone() }, ..bound(&sid(ID)) },
            // The same text as another one's.
            Bound {
                content: Content { db: None, login: Some("shop".into()), ..content },
                ..bound(&sid(ID))
            },
        ];
        for other in changed {
            let opened = open(&Keyring::for_tests(), &sid(ID), &other, &sealed(b"content"));
            assert_eq!(opened, Err(SealError::Broken), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn opens_what_it_sealed_and_nothing_changed(
            plain in proptest::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            flip in 1..=255_u8,
        ) {
            let mut sealed = sealed(&plain);
            prop_assert_eq!(opened(&sealed), Ok(plain));
            let at = at.index(sealed.len());
            sealed[at] ^= flip;
            prop_assert!(opened(&sealed).is_err());
        }

        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(opened(&bytes).is_err());
        }
    }
}
