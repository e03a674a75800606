//! Names and contents of sessions as the versions of Odoo write them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rand::Rng;
use serde::Serialize;

/// Whose names, contents and calls are used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, clap::ValueEnum)]
pub(crate) enum Format {
    /// Odoo 19.1 and later: 86 characters, JSON, no look-up of a flat name first.
    #[value(name = "19.1")]
    #[serde(rename = "19.1")]
    Odoo191,
    /// Odoo 18 and 19.0: 84 characters, JSON.
    #[value(name = "18", alias = "19")]
    #[serde(rename = "18")]
    Odoo18,
    /// Odoo 16 and 17: 40 hex digits, pickle.
    #[value(name = "16", alias = "17")]
    #[serde(rename = "16")]
    Odoo16,
    /// Odoo 14 and 15: 40 hex digits in a flat directory, pickle.
    #[value(name = "14", alias = "15")]
    #[serde(rename = "14")]
    Odoo14,
}

/// Digits of the content that differ between two versions of a session.
const STAMP_DIGITS: usize = 16;
/// Above this, Python cuts a pickle into several frames, which is not reproduced here.
const PICKLE_MAX_BYTES: usize = 60 * 1024;
/// The default limit of the mount for one session.
const JSON_MAX_BYTES: usize = 4 * 1024 * 1024;

impl Format {
    /// The number of the first version of Odoo that does it so.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Odoo191 => "19.1",
            Self::Odoo18 => "18",
            Self::Odoo16 => "16",
            Self::Odoo14 => "14",
        }
    }

    /// Whether contents are JSON; else pickle.
    pub(crate) fn json(self) -> bool {
        matches!(self, Self::Odoo191 | Self::Odoo18)
    }

    /// Whether sessions lie in shard directories; else in the root.
    pub(crate) fn sharded(self) -> bool {
        self != Self::Odoo14
    }

    /// Whether a read looks for the flat name first, and a save for the shard directory.
    pub(crate) fn probes(self) -> bool {
        matches!(self, Self::Odoo18 | Self::Odoo16)
    }

    /// The end of the name of a temporary file.
    pub(crate) fn temporary_suffix(self) -> &'static str {
        if self == Self::Odoo191 { ".__tx_sess__" } else { ".__wz_sess" }
    }

    /// A new session id.
    pub(crate) fn random_id(self, random: &mut impl Rng) -> String {
        const BASE64: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        match self {
            Self::Odoo191 => characters(random, BASE64, 86),
            Self::Odoo18 => characters(random, BASE64, 84),
            Self::Odoo16 | Self::Odoo14 => characters(random, b"0123456789abcdef", 40),
        }
    }

    /// The path of a new temporary file, as Python's `mkstemp` names it.
    pub(crate) fn random_temporary(self, random: &mut impl Rng, directory: &Path) -> PathBuf {
        let middle = characters(random, b"abcdefghijklmnopqrstuvwxyz0123456789_", 8);
        directory.join(format!("tmp{middle}{}", self.temporary_suffix()))
    }
}

fn characters(random: &mut impl Rng, alphabet: &[u8], count: usize) -> String {
    (0..count).map(|_| char::from(alphabet[random.random_range(0..alphabet.len())])).collect()
}

/// The paths of one session. They are made before the clock runs.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub session: PathBuf,
    /// Its shard directory, in a format that has them.
    pub shard: Option<PathBuf>,
    /// The flat name that is looked for first, in a format that does that.
    pub probe: Option<PathBuf>,
    /// The shard directory that a save looks for first, in a format that does that.
    pub save_probe: Option<PathBuf>,
}

impl Paths {
    /// The paths of the session `id` in `directory`.
    pub(crate) fn new(format: Format, directory: &Path, id: &str) -> Self {
        let flat = directory.join(format!("werkzeug_{id}.sess"));
        if !format.sharded() {
            return Self { session: flat, shard: None, probe: None, save_probe: None };
        }
        let shard = directory.join(&id[..2]);
        Self {
            session: shard.join(id),
            probe: format.probes().then_some(flat),
            save_probe: format.probes().then(|| shard.clone()),
            shard: Some(shard),
        }
    }
}

/// The content of a session: that of a logged-in user with a few devices, of a given size.
///
/// Some digits of it, the stamp, tell one version from another; the size is always the same.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    bytes: Vec<u8>,
    stamp_at: usize,
}

impl Content {
    /// A content of exactly `size` bytes, or why that cannot be.
    pub(crate) fn new(format: Format, size: usize) -> Result<Self, String> {
        let make: fn(usize, usize) -> Vec<u8> = match format {
            Format::Odoo191 | Format::Odoo18 => json,
            Format::Odoo16 => |_, padding| pickle(true, padding),
            Format::Odoo14 => |_, padding| pickle(false, padding),
        };
        let most = if format.json() { JSON_MAX_BYTES } else { PICKLE_MAX_BYTES };
        let least = make(0, 0).len();
        if size < least || size > most {
            return Err(format!(
                "--size {size}: with format {}, use {least} to {most} bytes",
                format.name()
            ));
        }
        // Four devices at most, which is what a person has. The rest is padding.
        let devices = (0..=4).rev().find(|&devices| make(devices, 0).len() <= size).unwrap_or(0);
        let bytes = make(devices, size - make(devices, 0).len());
        let stamp_at = find(&bytes, &[b'0'; STAMP_DIGITS]).ok_or("no place for a stamp")?;
        Ok(Self { bytes, stamp_at })
    }

    /// Makes this the version `stamp`, and gives its bytes.
    pub(crate) fn stamped(&mut self, stamp: u64) -> &[u8] {
        let mut digits = String::with_capacity(STAMP_DIGITS);
        // Writing to a string cannot fail.
        let _ = write!(digits, "{stamp:016x}");
        self.bytes[self.stamp_at..self.stamp_at + STAMP_DIGITS].copy_from_slice(digits.as_bytes());
        &self.bytes
    }

    /// The version of `bytes`; `None` if they are not a whole content.
    pub(crate) fn stamp_of(&self, bytes: &[u8]) -> Option<u64> {
        let (start, end) = (self.stamp_at, self.stamp_at + STAMP_DIGITS);
        let whole = bytes.len() == self.bytes.len()
            && bytes[..start] == self.bytes[..start]
            && bytes[end..] == self.bytes[end..];
        if !whole {
            return None;
        }
        u64::from_str_radix(std::str::from_utf8(&bytes[start..end]).ok()?, 16).ok()
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// The rest of the token, after the stamp.
const TOKEN_REST: &str = "3f5b1c9e7a2d4860b7c1e5f92a8d3640c9b1f7e5d2a38461";

/// As `json.dump` writes it: ASCII, a blank behind each comma and colon.
fn json(devices: usize, padding: usize) -> Vec<u8> {
    let trace: Vec<String> = (0..devices)
        .map(|device| {
            format!(
                "{{\"platform\": \"linux\", \"browser\": \"chrome\", \"ip_address\": \
                 \"203.0.113.{}\", \"first_activity\": 1764000000, \"last_activity\": 1764003600}}",
                device + 10
            )
        })
        .collect();
    format!(
        "{{\"context\": {{\"lang\": \"en_US\", \"tz\": \"Europe/Brussels\", \"uid\": 2}}, \
         \"create_time\": 1764000000.25, \"db\": \"shop\", \"debug\": \"\", \"login\": \"admin\", \
         \"uid\": 2, \"session_token\": \"{}{TOKEN_REST}\", \"_trace\": [{}], \
         \"benchmark_padding\": \"{}\"}}",
        "0".repeat(STAMP_DIGITS),
        trace.join(", "),
        "x".repeat(padding),
    )
    .into_bytes()
}

/// As `pickle.dump` writes it with protocol 5, in one frame.
fn pickle(geoip: bool, padding: usize) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &str) {
        if let Ok(length) = u8::try_from(text.len()) {
            out.extend([0x8c, length]);
        } else {
            long(out, text.len());
        }
        out.extend(text.as_bytes());
        out.push(MEMOIZE);
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most PICKLE_MAX_BYTES")]
    fn long(out: &mut Vec<u8>, length: usize) {
        out.push(b'X');
        out.extend((length as u32).to_le_bytes());
    }
    const MEMOIZE: u8 = 0x94;
    let mut out = vec![b'}', MEMOIZE, b'('];
    text(&mut out, "context");
    out.extend([b'}', MEMOIZE, b'(']);
    for (key, value) in [("lang", "en_US"), ("tz", "Europe/Brussels")] {
        text(&mut out, key);
        text(&mut out, value);
    }
    text(&mut out, "uid");
    out.extend([b'K', 2, b'u']);
    for (key, value) in [("db", "shop"), ("debug", ""), ("login", "admin")] {
        text(&mut out, key);
        text(&mut out, value);
    }
    text(&mut out, "uid");
    out.extend([b'K', 2]);
    text(&mut out, "session_token");
    text(&mut out, &format!("{}{TOKEN_REST}", "0".repeat(STAMP_DIGITS)));
    if geoip {
        text(&mut out, "_geoip");
        out.extend([b'}', MEMOIZE]);
    }
    text(&mut out, "benchmark_padding");
    // Always in the long form, so that every size can be reached.
    long(&mut out, padding);
    out.extend(std::iter::repeat_n(b'x', padding));
    out.extend([MEMOIZE, b'u', b'.']);
    let mut whole = vec![0x80, 5, 0x95];
    whole.extend((out.len() as u64).to_le_bytes());
    whole.extend(out);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FORMATS: [Format; 4] = [Format::Odoo191, Format::Odoo18, Format::Odoo16, Format::Odoo14];

    #[test]
    fn every_size_within_the_limits_is_met() {
        for format in FORMATS {
            for size in 400..1500 {
                assert_eq!(Content::new(format, size).unwrap().bytes.len(), size);
            }
            assert!(Content::new(format, 50).unwrap_err().contains("--size 50"));
            assert!(Content::new(format, 5 << 20).is_err());
        }
    }

    #[test]
    fn json_is_json_with_a_token() {
        let mut content = Content::new(Format::Odoo18, 740).unwrap();
        let value: serde_json::Value = serde_json::from_slice(content.stamped(7)).unwrap();
        let token = value["session_token"].as_str().unwrap();
        assert_eq!(token.len(), 64);
        assert!(token.starts_with("0000000000000007"));
    }

    #[test]
    fn names_have_the_shape_of_their_version() {
        let mut random = rand::rng();
        for (format, length) in FORMATS.into_iter().zip([86, 84, 40, 40]) {
            let id = format.random_id(&mut random);
            assert_eq!(id.len(), length);
            assert!(id.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_'));
        }
        let paths = Paths::new(Format::Odoo14, Path::new("/d"), "ab12");
        assert_eq!(paths.session, Path::new("/d/werkzeug_ab12.sess"));
        let paths = Paths::new(Format::Odoo16, Path::new("/d"), "ab12");
        assert_eq!(paths.session, Path::new("/d/ab/ab12"));
        assert_eq!(paths.probe.as_deref(), Some(Path::new("/d/werkzeug_ab12.sess")));
    }

    proptest! {
        #[test]
        fn a_stamp_comes_back_and_a_torn_content_has_none(stamp: u64, cut in 0_usize..740) {
            let mut content = Content::new(Format::Odoo18, 740).unwrap();
            let bytes = content.stamped(stamp).to_vec();
            prop_assert_eq!(content.stamp_of(&bytes), Some(stamp));
            prop_assert_eq!(content.stamp_of(&bytes[..cut]), None);
        }
    }
}
