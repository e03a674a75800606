//! The keys of `[lifetime]` as text: in the file, and live in Redis. The same words are understood
//! in both, within the same ranges.

use super::file::{self, LIFETIME_KEYS};
use super::units::duration_text;
use super::{HOUR_MS, SECOND_MS, YEAR_MS, duration};
use crate::exit::{ExitCode, Failure};
use crate::redis::live::Rules;
use crate::session::policy::Lifetimes;

const OFF: &str = "off";

/// What can be changed while the nodes serve, and how its text is taken.
pub const LIVE: Rules = Rules {
    keys: LIFETIME_KEYS,
    set: |lifetimes, key, text| set(lifetimes, key, text).map_err(|failure| failure.to_string()),
};

/// Each key with its text in the file.
pub(crate) fn written(file: &file::Lifetime) -> impl Iterator<Item = (&'static str, Option<&str>)> {
    let file::Lifetime { idle, anonymous_idle, anonymous_unopened, absolute, grace, tombstone } =
        file;
    let texts = [idle, anonymous_idle, anonymous_unopened, absolute, grace, tombstone];
    LIFETIME_KEYS.iter().copied().zip(texts.map(Option::as_deref))
}

/// Takes over one value.
pub fn set(lifetimes: &mut Lifetimes, key: &str, text: &str) -> Result<(), Failure> {
    let range = match key {
        "lifetime.grace" => SECOND_MS..=24 * HOUR_MS,
        "lifetime.tombstone" => SECOND_MS..=30 * 24 * HOUR_MS,
        _ => SECOND_MS..=10 * YEAR_MS,
    };
    if key == "lifetime.absolute" && text == OFF {
        lifetimes.absolute_ms = None;
        return Ok(());
    }
    let ms = duration(key, Some(text), 0, range).map_err(|Failure { code, message }| {
        let off = if key == "lifetime.absolute" { "; \"off\" means no limit" } else { "" };
        Failure::new(code, format!("{message}{off}"))
    })?;
    match key {
        "lifetime.idle" => lifetimes.idle_ms = ms,
        "lifetime.anonymous_idle" => lifetimes.anonymous_idle_ms = ms,
        "lifetime.anonymous_unopened" => lifetimes.anonymous_unopened_ms = ms,
        "lifetime.absolute" => lifetimes.absolute_ms = Some(ms),
        "lifetime.grace" => lifetimes.grace_ms = ms,
        "lifetime.tombstone" => lifetimes.tombstone_ms = ms,
        _ => return Err(not_live(key)),
    }
    Ok(())
}

/// One value in the words that [`set`] understands; none for another key.
pub fn text(lifetimes: &Lifetimes, key: &str) -> Option<String> {
    let ms = match key {
        "lifetime.idle" => lifetimes.idle_ms,
        "lifetime.anonymous_idle" => lifetimes.anonymous_idle_ms,
        "lifetime.anonymous_unopened" => lifetimes.anonymous_unopened_ms,
        "lifetime.absolute" => match lifetimes.absolute_ms {
            None => return Some(OFF.to_owned()),
            Some(ms) => ms,
        },
        "lifetime.grace" => lifetimes.grace_ms,
        "lifetime.tombstone" => lifetimes.tombstone_ms,
        _ => return None,
    };
    Some(duration_text(ms))
}

/// A value as [`text`] writes it, whoever has typed it.
pub fn canonical(key: &str, value: &str) -> Result<String, Failure> {
    let mut lifetimes = Lifetimes::default();
    set(&mut lifetimes, key, value)?;
    text(&lifetimes, key).ok_or_else(|| not_live(key))
}

/// The key as it is listed, if it can be changed live.
pub fn known(key: &str) -> Result<&'static str, Failure> {
    LIFETIME_KEYS.iter().find(|known| **known == key).copied().ok_or_else(|| not_live(key))
}

fn not_live(key: &str) -> Failure {
    if file::keys().any(|known| known == key) {
        return Failure::new(
            ExitCode::BadValue,
            format!("{key} is read from each server's file; change it there"),
        );
    }
    file::unknown_key(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_reads_back() {
        let mut lifetimes = Lifetimes::default();
        for (key, said) in LIFETIME_KEYS.iter().zip(["8h", "30days", "2h", "12h", "5min", "1day"]) {
            set(&mut lifetimes, key, said).unwrap();
            assert_eq!(text(&lifetimes, key).as_deref(), Some(said));
        }
        set(&mut lifetimes, "lifetime.absolute", OFF).unwrap();
        assert_eq!(text(&lifetimes, "lifetime.absolute").as_deref(), Some(OFF));
    }

    #[test]
    fn the_file_is_taken_key_by_key() {
        let file = file::Lifetime {
            idle: Some("1s".into()),
            anonymous_idle: Some("2s".into()),
            anonymous_unopened: Some("3s".into()),
            absolute: Some("4s".into()),
            grace: Some("5s".into()),
            tombstone: Some("6s".into()),
        };
        let lifetimes = super::super::lifetimes(&file).unwrap();
        for (key, said) in written(&file) {
            assert_eq!(text(&lifetimes, key).as_deref(), said);
        }
    }

    #[test]
    fn other_keys_are_told_with_the_remedy() {
        let cases = [
            ("worker.user", ExitCode::BadValue, "each server's file; change it there"),
            ("lifetime.idel", ExitCode::UnknownKey, "did you mean 'lifetime.idle'?"),
            ("idle", ExitCode::UnknownKey, "did you mean 'lifetime.idle'?"),
        ];
        for (key, code, words) in cases {
            let failure = known(key).unwrap_err();
            assert_eq!(failure.code, code, "{key}");
            assert!(failure.to_string().contains(words), "{failure}");
        }
    }

    #[test]
    fn a_value_out_of_range_is_told_with_the_range() {
        let said = |key, text| set(&mut Lifetimes::default(), key, text).unwrap_err().to_string();
        assert_eq!(
            said("lifetime.absolute", "0"),
            "lifetime.absolute: '0' is not between 1s and 10years; \"off\" means no limit"
        );
        assert_eq!(
            said("lifetime.grace", "2days"),
            "lifetime.grace: '2days' is not between 1s and 1day"
        );
    }

    #[test]
    fn a_refused_value_changes_nothing() {
        let mut lifetimes = Lifetimes::default();
        for key in LIFETIME_KEYS {
            for text in ["", "1ms", "never", "1000years"] {
                let failure = set(&mut lifetimes, key, text).unwrap_err();
                assert!(failure.to_string().starts_with(key), "{failure}");
            }
        }
        assert_eq!(lifetimes, Lifetimes::default());
    }
}
