//! How content is kept: encrypted and authenticated with a key that needs both the session id, which
//! only the cookie's holder has, and the cluster's secret, which only its servers have.
//!
//! A sealed content is a format byte, 4 bytes that name the secret, a random nonce of 24 bytes, and
//! the ciphertext with its tag of 16 bytes. What is [`Bound`] to it is stored beside it, in the open,
//! and cannot be exchanged: the content does not open with anything else.

use std::fmt;

use chacha20poly1305::aead::OsRng;
use chacha20poly1305::{AeadCore, AeadInPlace, Key, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use sha2::Sha256;

use super::change::ChangeId;
use super::content::{Class, Content};
use super::name::{Alias, Sid};
use super::packing;
use super::secret::{HINT_BYTES, Keyring, Secret};

/// By how many bytes sealed content is longer than plain.
pub const OVERHEAD_BYTES: usize = HEAD_BYTES + TAG_BYTES;

const FORMAT: u8 = 2;
const KEY_INFO: &[u8] = b"sessionfs:seal:2";
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const HEAD_BYTES: usize = 1 + HINT_BYTES + NONCE_BYTES;

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
    let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
    let mut sealed = Vec::with_capacity(packed.len() + OVERHEAD_BYTES);
    sealed.push(FORMAT);
    sealed.extend_from_slice(&secret.fingerprint().hint());
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(packed);
    let tag = cipher(&secret, sid)
        .encrypt_in_place_detached(&nonce, &associated(bound), &mut sealed[HEAD_BYTES..])
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
    let (&format, rest) = sealed.split_first().ok_or(SealError::Broken)?;
    if format != FORMAT {
        return Err(SealError::UnknownFormat(format));
    }
    if !packing::is_known(bound.packing) {
        return Err(SealError::UnknownPacking(bound.packing));
    }
    let (hint, rest) = rest.split_first_chunk::<HINT_BYTES>().ok_or(SealError::Broken)?;
    let (nonce, rest) = rest.split_at_checked(NONCE_BYTES).ok_or(SealError::Broken)?;
    let (content, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(SealError::Broken)?;
    let secret = keyring.find(*hint).ok_or(SealError::UnknownSecret)?;
    let mut packed = content.to_vec();
    cipher(&secret, sid)
        .decrypt_in_place_detached(
            XNonce::from_slice(nonce),
            &associated(bound),
            &mut packed,
            Tag::from_slice(tag),
        )
        .map_err(|_| SealError::Broken)?;
    packing::unpack(bound.packing, packed).ok_or(SealError::Broken)
}

/// By which the secret is named that a content is sealed with, if it can be read.
pub fn hint_of(sealed: &[u8]) -> Option<[u8; HINT_BYTES]> {
    sealed.split_first()?.1.first_chunk().copied()
}

fn cipher(secret: &Secret, sid: &Sid) -> XChaCha20Poly1305 {
    let mut key = Key::default();
    Hkdf::<Sha256>::new(Some(secret.expose()), sid.expose().as_bytes())
        .expand(KEY_INFO, &mut key)
        .expect("HKDF gives far more than one key");
    XChaCha20Poly1305::new(&key)
}

/// The associated data: the format, so that a later one cannot be passed off as this one, and what
/// is bound. Each text follows its length, so that no two of them are written alike.
fn associated(bound: &Bound) -> Vec<u8> {
    let Bound { alias, content: Content { class, uid, db, login }, birth, save, packing } = bound;
    let mut data = vec![FORMAT];
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

    /// The seal is a stored format. This literal was made apart from this code, by Python's
    /// `hmac` and OpenSSL's ChaCha20-Poly1305 under a hand-written `HChaCha20`.
    #[test]
    fn opens_what_another_sealed() {
        let hex = "02425c535e000102030405060708090a0b0c0d0e0f10111213141516178f474e04297f56a0a1d6\
                   94240d4afe970f704d6fb51059c22884";
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        let sealed: Vec<u8> =
            digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect();
        assert_eq!(opened(&sealed).unwrap(), b"{\"uid\": 7}");
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
        other[0] = 1;
        assert_eq!(opened(&other), Err(SealError::UnknownFormat(1)));
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
