//! Values as people write them: `15min`, `4MiB`, `0700`.

use std::time::Duration;

/// A duration such as `15min` or `1h 30min`, in whole milliseconds.
pub(crate) fn duration_ms(text: &str) -> Result<u64, String> {
    let duration = humantime::parse_duration(text.trim())
        .map_err(|e| format!("is not a duration ({e}); write for example \"15min\""))?;
    Ok(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// A duration in the words of the documentation: `15min`, `1h 30min`, `7days`.
pub(crate) fn duration_text(ms: u64) -> String {
    let text = humantime::format_duration(Duration::from_millis(ms)).to_string();
    let words = text.split(' ').map(|word| match word.strip_suffix('m') {
        Some(minutes) => format!("{minutes}min"),
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

const SIZE_UNITS: [(&str, u64); 5] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1), ("", 1)];

/// A size in the largest unit that has no fraction: `4MiB`.
pub(crate) fn size_text(bytes: u64) -> String {
    let fits = |(_, factor): &&(&str, u64)| bytes >= *factor && bytes.is_multiple_of(*factor);
    let (unit, factor) = SIZE_UNITS.iter().find(fits).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / factor)
}

/// A size such as `4MiB`, in bytes.
pub(crate) fn size_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let number = digits.trim_end().parse::<u64>().ok();
    let factor = SIZE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    match (number, factor) {
        (Some(number), Some(factor)) => {
            number.checked_mul(factor).ok_or_else(|| "is too large".to_owned())
        }
        _ => Err("is not a size; write for example \"4MiB\" (B, KiB, MiB, GiB)".into()),
    }
}

/// Permission bits in octal.
pub(crate) fn mode(text: &str) -> Result<u32, String> {
    let digits = text.trim();
    let octal = !digits.is_empty() && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    u32::from_str_radix(digits, 8)
        .ok()
        .filter(|mode| octal && *mode <= 0o777)
        .ok_or_else(|| "is not a mode; write for example \"0700\"".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_they_are_read() {
        for text in ["4KiB", "64MiB", "1GiB", "1024GiB", "1025B", "0B"] {
            assert_eq!(size_text(size_bytes(text).unwrap()), text);
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration_ms("15min"), Ok(900_000));
        assert_eq!(duration_ms("1h 30m"), Ok(5_400_000));
        assert_eq!(duration_ms("250ms"), Ok(250));
        assert_eq!(duration_ms("10us"), Ok(0));
        for bad in ["", "15", "-1s", "off"] {
            assert!(duration_ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_written_in_one_way() {
        for text in ["15min", "1h 30min", "250ms", "7days", "1day", "10years", "2h 1min 5s"] {
            assert_eq!(duration_text(duration_ms(text).unwrap()), text);
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size_bytes("4MiB"), Ok(4 << 20));
        assert_eq!(size_bytes("4 MiB"), Ok(4 << 20));
        assert_eq!(size_bytes("4096"), Ok(4096));
        assert_eq!(size_bytes("512B"), Ok(512));
        for bad in ["", "MiB", "4MB", "4.5MiB", "-4MiB", "99999999999GiB"] {
            assert!(size_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn modes() {
        assert_eq!(mode("0700"), Ok(0o700));
        assert_eq!(mode("750"), Ok(0o750));
        for bad in ["", "0o700", "799", "1777", "+700", "rwx"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }
}
