//! Holds `docs/configuration.md` against the program: its keys, their defaults, the exit codes.

use std::collections::BTreeSet;
use std::path::Path;

use super::file::keys;
use super::flags::{Flags, Place};
use super::reference::{TEXT, quoted, rows, sections};
use super::units::duration_text;
use super::{Config, file};
use crate::exit::ExitCode;
use crate::session::policy::preset::PRESETS;

/// Each documented key with the cell of its default.
fn documented() -> Vec<(&'static str, &'static str)> {
    let keys = sections().into_iter().flat_map(|section| section.keys);
    keys.map(|key| (key.name, key.default)).collect()
}

#[test]
fn every_documented_key_is_accepted_and_every_accepted_key_is_documented() {
    let in_text: BTreeSet<_> = documented().into_iter().map(|(key, _)| key).collect();
    let accepted: BTreeSet<_> = keys().collect();
    assert_eq!(in_text, accepted);
    assert_eq!(documented().len(), in_text.len(), "each once");
}

#[test]
fn every_documented_default_is_the_one_that_is_used() {
    let mut table = toml::Table::new();
    let mut count = 0;
    for (key, cell) in documented() {
        let Some(value) = quoted(cell) else { continue };
        let value: toml::Table = format!("value = {value}").parse().unwrap();
        let (within, name) = key.rsplit_once('.').unwrap_or(("", key));
        let target = if within.is_empty() {
            &mut table
        } else {
            let inner = table.entry(within).or_insert_with(|| toml::Table::new().into());
            inner.as_table_mut().unwrap()
        };
        target.insert(name.to_owned(), value["value"].clone());
        count += 1;
    }
    assert!(count > 15, "only {count} defaults were found in the text");
    let resolve = |text: String| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let place = Place { config: Some(file.path().to_owned()), ..Place::default() };
        let flags = Flags { place, ..Flags::default() };
        let mut config = Config::resolve(Path::new("/mnt"), &flags).unwrap();
        // Whoever runs the tests may have set it.
        config.log =
            config.log.replace(&std::env::var(super::LOG_VARIABLE).unwrap_or_default(), "");
        serde_json::to_value(config).unwrap()
    };
    assert_eq!(resolve(table.to_string()), resolve(String::new()));
}

#[test]
fn every_exit_code_is_documented_with_its_meaning() {
    let in_text: Vec<_> = rows(TEXT)
        .filter(|cells| cells.len() == 2)
        .filter_map(|cells| Some((cells[0].parse::<u8>().ok()?, cells[1])))
        .filter(|(code, _)| *code != 0)
        .collect();
    let defined: Vec<_> =
        ExitCode::ALL.iter().map(|(code, meaning)| (u8::from(*code), meaning.trim())).collect();
    assert_eq!(in_text, defined);
}

#[test]
fn every_preset_is_documented_with_its_values() {
    let text = include_str!("../../docs/lifetimes.md");
    let in_text: Vec<_> = rows(text)
        .filter(|cells| cells.len() == 4)
        .filter_map(|cells| {
            let word = |place: usize| quoted(cells[place]).unwrap_or("not set").to_owned();
            Some((quoted(cells[0])?.to_owned(), word(1), word(2)))
        })
        .collect();
    let defined: Vec<_> = PRESETS
        .iter()
        .map(|preset| {
            let absolute = preset.absolute_ms.map(duration_text);
            let absolute = absolute.unwrap_or_else(|| "not set".to_owned());
            (preset.name.to_owned(), duration_text(preset.idle_ms), absolute)
        })
        .collect();
    assert_eq!(in_text, defined);
}

#[test]
fn the_default_file_is_the_documented_one() {
    assert!(TEXT.contains(file::DEFAULT_PATH));
    assert!(TEXT.contains(super::LOG_VARIABLE));
}
