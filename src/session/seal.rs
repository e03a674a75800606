//! How content is kept: encrypted and authenticated with a key that only the cookie's holder has.
//!
//! A sealed content is a format byte, a random nonce of 24 bytes, and the ciphertext with its tag
//! of 16 bytes. The key is drawn from the session id, which no store ever sees.

use std::fmt;

use chacha20poly1305::aead::OsRng;
use chacha20poly1305::{AeadCore, AeadInPlace, Key, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use sha2::Sha256;

use super::name::Sid;

/// By how many bytes sealed content is longer than plain.
pub const OVERHEAD_BYTES: usize = HEAD_BYTES + TAG_BYTES;

const FORMAT: u8 = 1;
const KEY_INFO: &[u8] = b"sessionfs:seal:1";
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const HEAD_BYTES: usize = 1 + NONCE_BYTES;

/// Why sealed content could not be opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SealError {
    /// It was not sealed with this session's key, or was changed since.
    Broken,
    /// It was sealed by another version of sessionfs, in a format that this one does not know.
    UnknownFormat(u8),
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken => f.write_str("the seal of the session is broken"),
            Self::UnknownFormat(format) => {
                write!(f, "the session is sealed in the unknown format {format}")
            }
        }
    }
}

impl std::error::Error for SealError {}

/// Seals `plain` for the holder of `sid`, with the alias as associated data.
pub fn seal(sid: &Sid, plain: &[u8]) -> Vec<u8> {
    let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
    let mut sealed = Vec::with_capacity(plain.len() + OVERHEAD_BYTES);
    sealed.push(FORMAT);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let tag = cipher(sid)
        .encrypt_in_place_detached(&nonce, &associated(sid), &mut sealed[HEAD_BYTES..])
        .expect("no session comes near the cipher's limit of 256 GiB");
    sealed.extend_from_slice(&tag);
    sealed
}

/// Opens what [`seal`] made.
pub fn open(sid: &Sid, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let (&format, rest) = sealed.split_first().ok_or(SealError::Broken)?;
    if format != FORMAT {
        return Err(SealError::UnknownFormat(format));
    }
    let (nonce, rest) = rest.split_at_checked(NONCE_BYTES).ok_or(SealError::Broken)?;
    let (content, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(SealError::Broken)?;
    let mut plain = content.to_vec();
    cipher(sid)
        .decrypt_in_place_detached(
            XNonce::from_slice(nonce),
            &associated(sid),
            &mut plain,
            Tag::from_slice(tag),
        )
        .map_err(|_| SealError::Broken)?;
    Ok(plain)
}

fn cipher(sid: &Sid) -> XChaCha20Poly1305 {
    let mut key = Key::default();
    Hkdf::<Sha256>::new(None, sid.expose().as_bytes())
        .expand(KEY_INFO, &mut key)
        .expect("HKDF gives far more than one key");
    XChaCha20Poly1305::new(&key)
}

/// What is bound beside the content: the format, so that a later one cannot be passed off as this
/// one, and the alias, so that no content can be moved to another session.
fn associated(sid: &Sid) -> Vec<u8> {
    let alias = sid.alias();
    [&[FORMAT], alias.as_str().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    fn sid(text: &str) -> Sid {
        Sid::parse(text).expect("a session id")
    }

    /// The seal is a stored format. This literal was made apart from this code, by Python's
    /// `hmac` and OpenSSL's ChaCha20-Poly1305 under a hand-written `HChaCha20`.
    #[test]
    fn opens_what_another_sealed() {
        let hex = "01000102030405060708090a0b0c0d0e0f10111213141516173ca593bca904945b761a1f19\
                   fac20adac2f896ec9bcc45a56c57";
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        let sealed: Vec<u8> =
            digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect();
        assert_eq!(open(&sid(ID), &sealed).unwrap(), b"{\"uid\": 7}");
    }

    #[test]
    fn no_two_seals_are_alike() {
        let first = seal(&sid(ID), b"content");
        assert_ne!(first, seal(&sid(ID), b"content"));
        assert_eq!(first.len(), b"content".len() + OVERHEAD_BYTES);
    }

    #[test]
    fn an_empty_content_is_sealed_too() {
        let sealed = seal(&sid(ID), b"");
        assert_eq!(sealed.len(), OVERHEAD_BYTES);
        assert_eq!(open(&sid(ID), &sealed), Ok(Vec::new()));
    }

    #[test]
    fn another_format_is_told_from_a_broken_seal() {
        let mut sealed = seal(&sid(ID), b"content");
        sealed[0] = 2;
        assert_eq!(open(&sid(ID), &sealed), Err(SealError::UnknownFormat(2)));
        assert_eq!(open(&sid(ID), b""), Err(SealError::Broken));
        for len in 1..OVERHEAD_BYTES {
            assert_eq!(open(&sid(ID), &seal(&sid(ID), b"")[..len]), Err(SealError::Broken));
        }
    }

    #[test]
    fn the_alias_opens_nothing() {
        let owner = sid(ID);
        let thief = sid(owner.alias().as_str());
        assert_eq!(open(&thief, &seal(&owner, b"content")), Err(SealError::Broken));
    }

    proptest! {
        #[test]
        fn opens_what_it_sealed_and_nothing_changed(
            plain in proptest::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            flip in 1..=255_u8,
        ) {
            let sid = sid(ID);
            let mut sealed = seal(&sid, &plain);
            prop_assert_eq!(open(&sid, &sealed), Ok(plain));
            let at = at.index(sealed.len());
            sealed[at] ^= flip;
            prop_assert!(open(&sid, &sealed).is_err());
        }

        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(open(&sid(ID), &bytes).is_err());
        }
    }
}
