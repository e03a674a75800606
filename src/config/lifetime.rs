//! The keys of `[lifetime]` as text: in the file, and live in Redis. The same words are understood
//! in both, within the same ranges.

use super::file;
#[cfg(test)]
use super::file::LIFETIME_KEYS;
use super::units::duration_text;
use super::{HOUR_MS, SECOND_MS, YEAR_MS, duration};
use crate::exit::{ExitCode, Failure};
use crate::redis::live::Schema;
use crate::session::policy::Lifetimes;
use crate::session::policy::preset::{PRESETS, Preset};
use crate::session::policy::rule::{OF_ODOO, Rule, Selector, Setting, Source};
use crate::session::policy::rules::Rules;

const OFF: &str = "off";
/// Says what holds for keys that are not written, so no server can follow it live.
const PRESET: &str = "lifetime.preset";
const RULES: &str = "lifetime.rules";

/// What can be changed while the nodes serve.
pub const LIVE_KEYS: &[&str] = &[
    "lifetime.idle",
    "lifetime.anonymous_idle",
    "lifetime.anonymous_unopened",
    "lifetime.absolute",
    "lifetime.grace",
    "lifetime.tombstone",
];

/// The same, and how its text is taken.
pub const LIVE: Schema = Schema {
    keys: LIVE_KEYS,
    set: |lifetimes, key, text| set(lifetimes, key, text).map_err(|failure| failure.to_string()),
    rule: |place, text| rule(place, text).map_err(|failure| failure.to_string()),
};

/// The lifetimes that a file asks for.
pub(crate) fn own(file: &file::Lifetime) -> Result<Rules, Failure> {
    let mut general = match preset(file)? {
        Some(preset) => preset.lifetimes(),
        None => Lifetimes::default(),
    };
    for key in LIVE_KEYS {
        if let Some(text) = written(file, key) {
            set(&mut general, key, text)?;
        }
    }
    let mut rules: Vec<Rule> = Vec::new();
    for (table, number) in file.rules.iter().zip(1..) {
        let bad = |why: &str| wrong(RULES, &format!("rule {number}{why}"));
        let of_table = rules_of(table).map_err(|why| bad(&format!(": {why}")))?;
        if of_table.is_empty() {
            return Err(bad(
                " sets nothing; write idle, absolute, anonymous_idle or anonymous_unopened",
            ));
        }
        for rule in of_table {
            let place = rule.place();
            if rules.iter().any(|known| known.place() == place) {
                return Err(bad(&format!(": '{place}' is there twice; remove one")));
            }
            rules.push(rule);
        }
    }
    Rules::new(general, rules).map_err(|why| wrong(RULES, &why.to_string()))
}

/// The rules of one table of the file.
fn rules_of(table: &file::LifetimeRule) -> Result<Vec<Rule>, String> {
    let file::LifetimeRule {
        database,
        login,
        user_id,
        idle,
        absolute,
        anonymous_idle,
        anonymous_unopened,
    } = table;
    let selector = Selector::new(database.as_deref(), login.as_deref(), *user_id)
        .map_err(|why| why.to_string())?;
    let texts = [
        (Setting::Idle, idle),
        (Setting::Absolute, absolute),
        (Setting::AnonymousIdle, anonymous_idle),
        (Setting::AnonymousUnopened, anonymous_unopened),
    ];
    let texts = texts.into_iter().filter_map(|(setting, text)| Some((setting, text.as_ref()?)));
    texts
        .map(|(setting, text)| {
            let ms = value_ms(setting, text).map_err(|failure| failure.to_string())?;
            Rule::new(setting, selector.clone(), ms, Source::File).map_err(|why| why.to_string())
        })
        .collect()
}

/// The preset that a file names.
fn preset(file: &file::Lifetime) -> Result<Option<&'static Preset>, Failure> {
    let Some(name) = &file.preset else { return Ok(None) };
    Preset::named(name).map(Some).ok_or_else(|| {
        let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
        let shown = name.escape_debug();
        wrong(PRESET, &format!("'{shown}' is none; there are {}", names.join(", ")))
    })
}

/// The text of a key in the file.
pub(crate) fn written<'a>(file: &'a file::Lifetime, key: &str) -> Option<&'a str> {
    let text = match key {
        "lifetime.idle" => &file.idle,
        "lifetime.anonymous_idle" => &file.anonymous_idle,
        "lifetime.anonymous_unopened" => &file.anonymous_unopened,
        "lifetime.absolute" => &file.absolute,
        "lifetime.grace" => &file.grace,
        "lifetime.tombstone" => &file.tombstone,
        _ => return None,
    };
    text.as_deref()
}

/// Where the value of a server's own comes from: its file, the preset that is named there, or the default.
pub(crate) fn origin(file: &file::Lifetime, key: &str) -> String {
    let preset = file.preset.as_deref().and_then(Preset::named);
    match preset {
        _ if written(file, key).is_some() => Source::File.as_str().to_owned(),
        Some(preset) if preset.sets(key) => format!("preset {}", preset.name),
        _ => "default".to_owned(),
    }
}

/// A live rule.
fn rule(place: &str, text: &str) -> Result<Rule, Failure> {
    let shown = place.escape_debug();
    let Some((key, selector)) = place.split_once(' ') else {
        return Err(wrong(RULES, &format!("'{shown}' names no sessions")));
    };
    let setting = by_rule(key)?;
    let (selector, source) = match selector.strip_suffix(OF_ODOO) {
        Some(selector) => (selector, Source::Odoo),
        None => (selector, Source::Live),
    };
    let selector = Selector::parse(selector)
        .map_err(|why| wrong(RULES, &format!("'{shown}' is no rule: {why}")))?;
    let ms = value_ms(setting, text).map_err(|failure| wrong(place, &failure.to_string()))?;
    Rule::new(setting, selector, ms, source)
        .map_err(|why| wrong(RULES, &format!("'{shown}' is no rule: {why}")))
}

/// The setting of that key, if a rule can set it.
pub fn by_rule(key: &str) -> Result<Setting, Failure> {
    let key = known(key)?;
    Setting::of_key(key).ok_or_else(|| {
        let keys: Vec<_> = Setting::ALL.into_iter().map(Setting::key).collect();
        wrong(key, &format!("it holds for all sessions; a rule can set {}", keys.join(", ")))
    })
}

/// The text of a setting in milliseconds; `None`: no limit.
pub fn value_ms(setting: Setting, text: &str) -> Result<Option<u64>, Failure> {
    let mut lifetimes = Lifetimes::default();
    set(&mut lifetimes, setting.key(), text)?;
    Ok(setting.get(&lifetimes))
}

/// The same as text.
pub fn value_text(ms: Option<u64>) -> String {
    ms.map_or_else(|| OFF.to_owned(), duration_text)
}

fn wrong(key: &str, why: &str) -> Failure {
    Failure::new(ExitCode::BadValue, format!("{key}: {why}"))
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
    LIVE_KEYS.iter().find(|known| **known == key).copied().ok_or_else(|| not_live(key))
}

fn not_live(key: &str) -> Failure {
    if key.strip_prefix(RULES).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
        let how = "to set a rule live, set its key with --database, --login or --user-id";
        return wrong(key, how);
    }
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
        for (key, said) in LIVE_KEYS.iter().zip(["8h", "30days", "2h", "12h", "5min", "1day"]) {
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
            preset: Some("owasp-high".into()),
            anonymous_idle: Some("2s".into()),
            anonymous_unopened: Some("3s".into()),
            absolute: Some("4s".into()),
            grace: Some("5s".into()),
            tombstone: Some("6s".into()),
            rules: vec![],
            ..Default::default()
        };
        let rules = own(&file).unwrap();
        for key in LIVE_KEYS {
            assert!(written(&file, key).is_some(), "{key}");
            assert_eq!(text(rules.general(), key).as_deref(), written(&file, key));
        }
    }

    #[test]
    fn all_but_the_preset_can_be_changed_live() {
        let bounds = ["lifetime.idle_min", "lifetime.idle_max", "lifetime.absolute_max"];
        let live: Vec<_> = LIVE_KEYS.iter().chain([&PRESET]).chain(&bounds).collect();
        assert_eq!(live, LIFETIME_KEYS.iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_preset_says_what_the_file_does_not() {
        let preset = || file::Lifetime { preset: Some("nist-aal2".into()), ..Default::default() };
        let lifetimes = *own(&preset()).unwrap().general();
        assert_eq!(text(&lifetimes, "lifetime.idle").as_deref(), Some("30min"));
        assert_eq!(text(&lifetimes, "lifetime.absolute").as_deref(), Some("12h"));
        let file = file::Lifetime { idle: Some("20min".into()), ..preset() };
        let lifetimes = *own(&file).unwrap().general();
        assert_eq!(text(&lifetimes, "lifetime.idle").as_deref(), Some("20min"));
        assert_eq!(text(&lifetimes, "lifetime.absolute").as_deref(), Some("12h"));
        assert_eq!(origin(&file, "lifetime.idle"), "file");
        assert_eq!(origin(&file, "lifetime.absolute"), "preset nist-aal2");
        assert_eq!(origin(&file, "lifetime.grace"), "default");
        let wrong = file::Lifetime { preset: Some("owasp".into()), ..Default::default() };
        assert_eq!(
            own(&wrong).unwrap_err().to_string(),
            "lifetime.preset: 'owasp' is none; there are pci-dss-8.2.8, owasp-low, owasp-high, \
             nist-aal2, nist-aal3"
        );
    }

    #[test]
    fn rules_of_the_file_are_told_apart() {
        let table = |database: &str, idle: Option<&str>| file::LifetimeRule {
            database: Some(database.into()),
            idle: idle.map(Into::into),
            ..Default::default()
        };
        let of = |rules| own(&file::Lifetime { rules, ..Default::default() });
        let rules = of(vec![table("a", Some("5min")), table("b", Some("6min"))]).unwrap();
        assert_eq!(rules.all().len(), 2);
        assert_eq!(rules.all()[0].place(), "lifetime.idle database=a");
        let said = |rules| of(rules).unwrap_err().to_string();
        assert_eq!(
            said(vec![table("a", Some("5min")), table("b", None)]),
            "lifetime.rules: rule 2 sets nothing; write idle, absolute, anonymous_idle or \
             anonymous_unopened"
        );
        assert_eq!(
            said(vec![table("a", Some("0s"))]),
            "lifetime.rules: rule 1: lifetime.idle: '0s' is not between 1s and 10years"
        );
        assert!(said(vec![table("a", Some("5min")); 2]).contains("is there twice"));
        let many = (0..1000).map(|n| table(&format!("d{n}"), Some("5min"))).collect();
        assert!(said(many).contains("at most 200"));
        let nobody = file::LifetimeRule { idle: Some("5min".into()), ..Default::default() };
        assert!(said(vec![nobody]).contains("a database, a login or a user id"));
    }

    #[test]
    fn a_live_rule_is_its_place_and_a_value() {
        let read = |place: &str, text: &str| rule(place, text).map_err(|e| e.to_string());
        let found = read("lifetime.absolute database=shop login=till*", "off").unwrap();
        assert_eq!(found.place(), "lifetime.absolute database=shop login=till*");
        assert_eq!((found.ms, found.source), (None, Source::Live));
        let found = read("lifetime.idle database=shop source=odoo", "5min").unwrap();
        assert_eq!(found.place(), "lifetime.idle database=shop source=odoo");
        assert_eq!((found.ms, found.source), (Some(300_000), Source::Odoo));
        for (place, text, words) in [
            ("lifetime.grace database=shop", "5min", "holds for all sessions"),
            ("lifetime.idle database=shop", "never", "lifetime.idle database=shop: "),
            ("lifetime.idle shop", "5min", "'lifetime.idle shop'"),
            ("lifetime.anonymous_idle login=a", "5min", "a database alone"),
        ] {
            let why = read(place, text).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn other_keys_are_told_with_the_remedy() {
        let cases = [
            ("worker.user", ExitCode::BadValue, "each server's file; change it there"),
            ("lifetime.preset", ExitCode::BadValue, "each server's file; change it there"),
            ("lifetime.rules.idle", ExitCode::BadValue, "--database"),
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
        for key in LIVE_KEYS {
            for text in ["", "1ms", "never", "1000years"] {
                let failure = set(&mut lifetimes, key, text).unwrap_err();
                assert!(failure.to_string().starts_with(key), "{failure}");
            }
        }
        assert_eq!(lifetimes, Lifetimes::default());
    }
}
