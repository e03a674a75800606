//! How contents are made shorter before they are sealed: by zstd, with a dictionary of what Odoo's sessions have in
//! common. A session is too short for a compressor that begins with nothing.
//!
//! The number of a way of packing is stored beside the content, so it never stands for another way. A further
//! dictionary gets a further number.

use std::cell::RefCell;
use std::sync::LazyLock;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};
use zstd::zstd_safe::{CParameter, get_frame_content_size};

/// As it is.
pub const PLAIN: u16 = 0;
/// A frame of zstd with the dictionary `odoo-1.dict`, without the number that each frame begins with.
pub const ZSTD_1: u16 = 1;
/// What each frame begins with (RFC 8878, 3.1.1).
const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// Trained on sessions of Odoo 14 to 19, by `benches/dictionary`. Contents that are stored need it: it never changes.
const DICTIONARY_1: &[u8] = include_bytes!("packing/odoo-1.dict");
/// More saves little and takes time.
const LEVEL: i32 = 3;
/// A longer content is kept as it is: it is rare, and takes a thread that others wait for.
const MAX_BYTES: usize = 1024 * 1024;

static ENCODER: LazyLock<EncoderDictionary<'static>> =
    LazyLock::new(|| EncoderDictionary::copy(DICTIONARY_1, LEVEL));
static DECODER: LazyLock<DecoderDictionary<'static>> =
    LazyLock::new(|| DecoderDictionary::copy(DICTIONARY_1));

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = RefCell::new(compressor());
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> =
        RefCell::new(Decompressor::with_prepared_dictionary(&DECODER).ok());
}

fn compressor() -> Option<Compressor<'static>> {
    let mut compressor = Compressor::with_prepared_dictionary(&ENCODER).ok()?;
    // The number of the packing says it, beside the content.
    compressor.set_parameter(CParameter::DictIdFlag(false)).ok()?;
    Some(compressor)
}

/// A content as it is sealed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Packed {
    /// In which way it is packed.
    pub packing: u16,
    pub bytes: Bytes,
}

impl Packed {
    /// The content as it is.
    pub fn plain(plain: Bytes) -> Self {
        Self { packing: PLAIN, bytes: plain }
    }

    /// The content, packed if it may be and that makes it shorter.
    pub fn of(plain: Bytes, may_pack: bool) -> Self {
        if !may_pack || plain.len() > MAX_BYTES {
            return Self::plain(plain);
        }
        let packed =
            COMPRESSOR.with_borrow_mut(|compressor| compressor.as_mut()?.compress(&plain).ok());
        let packed = packed.filter(|packed| packed.starts_with(&MAGIC));
        let bytes = packed.map(|packed| Bytes::from(packed).slice(MAGIC.len()..));
        match bytes {
            Some(bytes) if bytes.len() < plain.len() => Self { packing: ZSTD_1, bytes },
            _ => Self::plain(plain),
        }
    }
}

/// Whether contents that are packed so can be unpacked.
pub(super) fn is_known(packing: u16) -> bool {
    matches!(packing, PLAIN | ZSTD_1)
}

/// The content; `None` if it is none, or longer than what is ever packed.
pub(super) fn unpack(packing: u16, packed: Vec<u8>) -> Option<Vec<u8>> {
    if packing == PLAIN {
        return Some(packed);
    }
    let packed = [&MAGIC[..], &packed].concat();
    let length = usize::try_from(get_frame_content_size(&packed).ok()??).ok()?;
    if length > MAX_BYTES {
        return None;
    }
    DECOMPRESSOR
        .with_borrow_mut(|decompressor| decompressor.as_mut()?.decompress(&packed, length).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SESSION: &str = r#"{"context": {"lang": "en_US", "tz": "Europe/Brussels", "uid": 2}, "db": "shop", "debug": "", "login": "admin", "uid": 2, "session_token": "5f1c9a0d3b7e42a18c6f5d2e9b0a7c4d1e8f3b6a9c2d5e7f0a1b4c8d9e2f3a6b"}"#;

    fn unpacked(packed: &Packed) -> Option<Vec<u8>> {
        unpack(packed.packing, packed.bytes.to_vec())
    }

    /// What is stored has to be read for ever.
    #[test]
    fn a_content_that_was_packed_once_is_unpacked() {
        let stored = include_bytes!("packing/golden-1.zst");
        assert_eq!(unpack(ZSTD_1, stored.to_vec()).as_deref(), Some(SESSION.as_bytes()));
    }

    #[test]
    fn a_session_of_odoo_takes_a_part_of_its_length() {
        let packed = Packed::of(Bytes::from_static(SESSION.as_bytes()), true);
        assert_eq!(packed.packing, ZSTD_1);
        assert!(packed.bytes.len() < SESSION.len() / 2, "{}", packed.bytes.len());
    }

    #[test]
    fn what_is_not_made_shorter_or_long_is_kept_as_it_is() {
        let noise: Bytes = (0..500).map(|_| rand::random::<u8>()).collect();
        assert_eq!(Packed::of(noise.clone(), true), Packed::plain(noise));
        assert_eq!(Packed::of(Bytes::new(), true), Packed::plain(Bytes::new()));
        let long = Bytes::from(vec![0; MAX_BYTES + 1]);
        assert_eq!(Packed::of(long.clone(), true), Packed::plain(long));
        assert_eq!(Packed::of(Bytes::from(vec![0; MAX_BYTES]), true).packing, ZSTD_1);
        assert_eq!(Packed::of(Bytes::from(vec![0; MAX_BYTES]), false).packing, PLAIN);
    }

    #[test]
    fn no_frame_makes_us_take_more_memory_than_there_is_for_a_content() {
        let bomb = zstd::bulk::compress(&vec![0; MAX_BYTES + 1], LEVEL).unwrap();
        assert_eq!(unpack(ZSTD_1, bomb[MAGIC.len()..].to_vec()), None);
    }

    proptest! {
        #[test]
        fn each_content_is_what_it_was(plain in proptest::collection::vec(any::<u8>(), 0..2000), repeated in 1..20_usize) {
            let plain = plain.repeat(repeated);
            prop_assert_eq!(unpacked(&Packed::of(plain.clone().into(), true)), Some(plain));
        }

        #[test]
        fn any_bytes_are_refused_or_unpacked(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = unpack(ZSTD_1, bytes);
        }
    }
}
