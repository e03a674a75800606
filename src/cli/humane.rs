//! Numbers as people read them.

use std::time::Duration;

/// The two largest units of a duration: `3days 4h`, `2m 5s`, `340ms`.
pub fn duration(time: Duration) -> String {
    let rounded = if time >= Duration::from_secs(1) {
        Duration::from_secs(time.as_secs())
    } else {
        Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(0))
    };
    let text = humantime::format_duration(rounded).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// How long something took: `140 us`, `2.1 ms`, `1.3 s`, `-` where nothing was measured.
pub fn latency(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 1e-3 => format!("{:.0} us", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1} s"),
    }
}

/// A count with its thousands apart: `12,345`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size: `512 B`, `3.4 KiB`, `12.0 MiB`.
#[expect(clippy::cast_precision_loss, reason = "one digit after the point")]
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 3] = ["KiB", "MiB", "GiB"];
    let mut size = number as f64;
    let mut unit = "B";
    for larger in UNITS {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{number} B") } else { format!("{size:.1} {unit}") }
}

/// `1 save`, `2 saves`, `no saves`.
pub fn some(number: u64, what: &str) -> String {
    match number {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{} {what}s", count(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(duration(Duration::from_secs(3 * 86_400 + 4 * 3600 + 5)), "3days 4h");
        assert_eq!(duration(Duration::from_millis(125_900)), "2m 5s");
        assert_eq!(duration(Duration::from_micros(340_200)), "340ms");
        assert_eq!(duration(Duration::ZERO), "0s");
        assert_eq!(latency(Some(0.000_14)), "140 us");
        assert_eq!(latency(Some(0.0021)), "2.1 ms");
        assert_eq!(latency(Some(1.25)), "1.2 s");
        assert_eq!(latency(None), "-");
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([12, 3482, 12 << 20].map(bytes), ["12 B", "3.4 KiB", "12.0 MiB"]);
        assert_eq!([0, 1, 2].map(|n| some(n, "save")), ["no saves", "1 save", "2 saves"]);
    }
}
