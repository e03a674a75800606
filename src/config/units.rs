//! Values as people write them: `15min`, `4MiB`, `0700`.

use std::time::Duration;

/// A duration such as `15min` or `1h 30min`, in milliseconds. Less than a millisecond, or more
/// than a hundred years, is refused.
pub fn duration_ms(text: &str) -> Result<u64, String> {
    const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);
    let duration = humantime::parse_duration(text.trim())
        .map_err(|e| format!("is no duration ({e}); write for example \"15min\""))?;
    if duration > LONGEST {
        return Err("is longer than a hundred years".into());
    }
    match u64::try_from(duration.as_millis()) {
        Ok(0) | Err(_) => Err("is shorter than a millisecond".into()),
        Ok(ms) => Ok(ms),
    }
}

/// A size such as `4MiB`, in bytes.
pub fn size_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 5] =
        [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1), ("", 1)];
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let number = digits.trim_end().parse::<u64>().ok();
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    match (number, factor) {
        (Some(number), Some(factor)) => {
            number.checked_mul(factor).ok_or_else(|| "is too large".to_owned())
        }
        _ => Err("is no size; write for example \"4MiB\" (B, KiB, MiB, GiB)".into()),
    }
}

/// Permission bits in octal.
pub fn mode(text: &str) -> Result<u32, String> {
    let digits = text.trim();
    let octal = !digits.is_empty() && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    u32::from_str_radix(digits, 8)
        .ok()
        .filter(|mode| octal && *mode <= 0o777)
        .ok_or_else(|| "is no mode; write for example \"0700\"".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration_ms("15min"), Ok(900_000));
        assert_eq!(duration_ms("1h 30m"), Ok(5_400_000));
        assert_eq!(duration_ms("250ms"), Ok(250));
        for bad in ["", "15", "0s", "10us", "-1s", "off", "1000years"] {
            assert!(duration_ms(bad).is_err(), "{bad}");
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
