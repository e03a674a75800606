//! The secrets of a cluster: contents are sealed with a key that is drawn from one of them, so that
//! whoever can write Redis cannot plant content.
//!
//! All servers that share a Redis hold the same secrets. One of them is written with; the others
//! only open what was sealed with them before, so that a secret can be exchanged while people are
//! logged in.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::OsRng;
use chacha20poly1305::aead::rand_core::RngCore as _;
use hkdf::Hkdf;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use zeroize::Zeroizing;

/// The length of a secret.
pub const SECRET_BYTES: usize = 32;
/// The most secrets that a server holds at a time: one that is written with, and a few that were.
pub const SECRETS_MAX: usize = 8;
/// By how many bytes a sealed content names its secret.
pub const HINT_BYTES: usize = 4;

const FINGERPRINT_BYTES: usize = 8;
const FINGERPRINT_INFO: &[u8] = b"sessionfs:secret:fingerprint:1";

/// A secret of 32 bytes. Its memory is overwritten when it is dropped.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(Zeroizing<[u8; SECRET_BYTES]>);

impl Secret {
    /// A new one, from the randomness of the system.
    pub fn generate() -> Self {
        let mut secret = Self::from([0; SECRET_BYTES]);
        OsRng.fill_bytes(&mut secret.0[..]);
        secret
    }

    /// Reads [`Secret::text`].
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(BASE64.decode(text).ok()?);
        Some(Self::from(<[u8; SECRET_BYTES]>::try_from(bytes.as_slice()).ok()?))
    }

    /// The secret as text: base64, 44 characters.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(*self.0))
    }

    /// The bytes, for drawing keys from them.
    pub fn expose(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }

    /// By what it is named, in Redis and to people. The secret cannot be found from it.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut bytes = [0; FINGERPRINT_BYTES];
        Hkdf::<Sha256>::new(None, &self.0[..])
            .expand(FINGERPRINT_INFO, &mut bytes)
            .expect("HKDF gives far more than a fingerprint");
        Fingerprint(bytes)
    }
}

impl From<[u8; SECRET_BYTES]> for Secret {
    fn from(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Secret {
    /// The fingerprint alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.fingerprint())
    }
}

impl Serialize for Secret {
    /// As its text, for the pipe between keeper and worker.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        // Without the text: an error is printed.
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("this is not a secret"))
    }
}

/// Names a secret: 16 hex digits.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Fingerprint([u8; FINGERPRINT_BYTES]);

impl Fingerprint {
    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        // The standard library would take a sign for a digit.
        let is_hex = text.len() == 2 * FINGERPRINT_BYTES
            && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let number = is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten()?;
        Some(Self(number.to_be_bytes()))
    }

    /// The beginning of it, by which a sealed content names its secret.
    pub fn hint(self) -> [u8; HINT_BYTES] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("this is not a fingerprint"))
    }
}

/// The secrets that a server holds: at least one, at most [`SECRETS_MAX`]. Clones share them, so
/// that all parts of a server follow when others are handed over or another is written with.
#[derive(Clone)]
pub struct Keyring(Arc<RwLock<Held>>);

struct Held {
    secrets: Vec<Arc<Secret>>,
    /// Its place in `secrets`.
    written: usize,
}

impl Keyring {
    /// Holds these secrets, and writes with the first. `None` if there is none, or more than
    /// [`SECRETS_MAX`].
    pub fn new(secrets: Vec<Secret>) -> Option<Self> {
        Self::take(secrets).map(|secrets| Self(Arc::new(RwLock::new(Held { secrets, written: 0 }))))
    }

    /// One secret that everybody knows.
    pub fn for_tests() -> Self {
        let secrets = vec![Arc::new(Secret::from([7; SECRET_BYTES]))];
        Self(Arc::new(RwLock::new(Held { secrets, written: 0 })))
    }

    fn take(secrets: Vec<Secret>) -> Option<Vec<Arc<Secret>>> {
        (1..=SECRETS_MAX)
            .contains(&secrets.len())
            .then(|| secrets.into_iter().map(Arc::new).collect())
    }

    fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Held> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The secret that is written with.
    pub fn writing(&self) -> Arc<Secret> {
        let held = self.read();
        Arc::clone(&held.secrets[held.written])
    }

    /// The secret that a sealed content names.
    pub fn find(&self, hint: [u8; HINT_BYTES]) -> Option<Arc<Secret>> {
        let held = self.read();
        held.secrets.iter().find(|secret| secret.fingerprint().hint() == hint).cloned()
    }

    /// Writes with this one from now on. `false`, and no change, if it is not held.
    pub fn write_with(&self, fingerprint: Fingerprint) -> bool {
        let mut held = self.change();
        let found = held.secrets.iter().position(|secret| secret.fingerprint() == fingerprint);
        if let Some(found) = found {
            held.written = found;
        }
        found.is_some()
    }

    /// Holds these instead, and still the one that is written with: without it no session could be
    /// opened. `false`, and no change, if there is none or there are more than [`SECRETS_MAX`].
    pub fn replace(&self, secrets: Vec<Secret>) -> bool {
        let Some(mut secrets) = Self::take(secrets) else { return false };
        let mut held = self.change();
        let written = Arc::clone(&held.secrets[held.written]);
        let found = secrets.iter().position(|secret| *secret == written);
        held.written = found.unwrap_or_else(|| {
            secrets.push(written);
            secrets.len() - 1
        });
        held.secrets = secrets;
        true
    }

    /// What it holds.
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        self.read().secrets.iter().map(|secret| secret.fingerprint()).collect()
    }

    /// Whether it holds this one.
    pub fn holds(&self, fingerprint: Fingerprint) -> bool {
        self.fingerprints().contains(&fingerprint)
    }
}

impl fmt::Debug for Keyring {
    /// Fingerprints alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keyring").field(&self.fingerprints()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> Secret {
        Secret::from([byte; SECRET_BYTES])
    }

    /// The fingerprint is stored in Redis. This literal was made apart from this code, by Python's
    /// hmac: HKDF-SHA256 of 32 bytes 07 without salt.
    #[test]
    fn the_fingerprint_is_the_documented_one() {
        assert_eq!(secret(7).fingerprint().to_string(), "425c535e2d107025");
    }

    #[test]
    fn text_reads_back_and_nothing_else_does() {
        let made = Secret::generate();
        assert_eq!(Secret::parse(&made.text()), Some(made.clone()));
        assert_ne!(made, Secret::generate());
        let text = made.text();
        for other in ["", "x", &text[1..], &format!("{}A", *text), &format!("{} ", *text)] {
            assert_eq!(Secret::parse(other), None, "{other}");
        }
    }

    #[test]
    fn nothing_that_is_printed_holds_a_secret() {
        let made = Secret::generate();
        let text = made.text();
        let keyring = Keyring::new(vec![made.clone()]).unwrap();
        for shown in [format!("{made:?}"), format!("{keyring:?}"), made.fingerprint().to_string()] {
            assert!(!shown.contains(text.as_str()), "{shown}");
            assert!(shown.contains(&made.fingerprint().to_string()), "{shown}");
        }
        let error = serde_json::from_str::<Secret>("\"c2VjcmV0\"").unwrap_err().to_string();
        assert!(!error.contains("c2VjcmV0"), "{error}");
    }

    #[test]
    fn a_fingerprint_reads_back_and_nothing_else_does() {
        let print = secret(1).fingerprint();
        assert_eq!(Fingerprint::parse(&print.to_string()), Some(print));
        for other in ["", "0", "+123456789abcdef", "0123456789ABCDEF", "0123456789abcdef0"] {
            assert_eq!(Fingerprint::parse(other), None, "{other}");
        }
    }

    #[test]
    fn clones_follow_what_is_written_with_and_what_is_held() {
        let (first, second, third) = (secret(1), secret(2), secret(3));
        let keyring = Keyring::new(vec![first.clone(), second.clone()]).unwrap();
        let follower = keyring.clone();
        assert_eq!(*follower.writing(), first);
        assert!(keyring.write_with(second.fingerprint()));
        assert_eq!(*follower.writing(), second);
        assert!(!keyring.write_with(third.fingerprint()));
        assert_eq!(*follower.writing(), second);
        // What is written with stays so, wherever it stands among the new ones.
        assert!(keyring.replace(vec![third.clone(), second.clone()]));
        assert_eq!(*follower.writing(), second);
        assert_eq!(follower.find(third.fingerprint().hint()).as_deref(), Some(&third));
        assert_eq!(follower.find(first.fingerprint().hint()), None);
        // Not even if it is not among them, until another one is written with.
        assert!(keyring.replace(vec![third.clone()]));
        assert_eq!(*follower.writing(), second);
        assert!(keyring.write_with(third.fingerprint()) && keyring.replace(vec![third.clone()]));
        assert_eq!(follower.fingerprints(), [third.fingerprint()]);
    }

    #[test]
    fn a_keyring_is_neither_empty_nor_endless() {
        let many = || (0..=u8::try_from(SECRETS_MAX).unwrap()).map(secret).collect::<Vec<_>>();
        assert!(Keyring::new(Vec::new()).is_none() && Keyring::new(many()).is_none());
        let keyring = Keyring::for_tests();
        assert!(!keyring.replace(Vec::new()) && !keyring.replace(many()));
        assert_eq!(keyring.fingerprints(), [secret(7).fingerprint()]);
    }
}
