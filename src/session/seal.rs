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
            Self::Broken => f.write_str("the session's seal is broken"),
            Self::UnknownFormat(format) => {
                write!(f, "the session is sealed in format {format}, which is not known here")
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
