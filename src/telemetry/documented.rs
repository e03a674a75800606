//! Holds `docs/monitoring.md`, the alerts and the board against the registry.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::links::Observed;
use super::metrics::{Now, metrics};
use super::request::Outcome;
use crate::store::{Health, Kept, Usage};

const TEXT: &str = include_str!("../../docs/monitoring.md");
const ALERTS: &str = include_str!("../../docs/alerts.yml");
const BOARD: &str = include_str!("../../docs/grafana.json");

/// Every metric with its type, as they are served.
fn served() -> BTreeMap<String, String> {
    let link = Observed::new();
    link.is(Health::Up, Some("server"));
    let all = Now {
        in_use: Usage::default(),
        kept: Kept::default(),
        takes_writes: Some(true),
        redis_memory_used_bytes: Some(1),
        redis_memory_max_bytes: Some(2),
        authenticated_sessions: Some(3),
        anonymous_sessions: Some(4),
    };
    let text = metrics().encode(&all).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

/// Every metric that a text names; of a histogram, by its own name.
fn named(text: &str) -> BTreeSet<String> {
    let served = served();
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("sessionfs_"))
        .map(|word| {
            let histogram = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| word.strip_suffix(suffix))
                .find(|name| served.get(*name).is_some_and(|kind| kind == "histogram"));
            histogram.unwrap_or(word).to_owned()
        })
        .collect()
}

/// The cells of the lines of tables that begin with a quoted word.
fn rows() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    TEXT.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix("| `")?.split(" | ").collect();
        let (first, rest) = cells.split_first()?;
        Some((first.strip_suffix('`')?, rest.to_vec()))
    })
}

#[test]
fn every_metric_is_documented_with_its_type_and_no_other() {
    let documented: BTreeMap<String, String> = rows()
        .filter(|(name, _)| name.starts_with("sessionfs_"))
        .map(|(name, rest)| (name.to_owned(), rest[0].to_owned()))
        .collect();
    assert_eq!(documented, served());
}

#[test]
fn every_outcome_is_documented() {
    for outcome in Outcome::ALL {
        assert!(rows().any(|(name, _)| name == outcome.label()), "{outcome:?}");
    }
}

/// Each event that the sources log, with the text of the calls that log it.
fn logged() -> BTreeMap<String, Vec<String>> {
    fn read(dir: &Path, found: &mut BTreeMap<String, Vec<String>>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, found);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            for (at, _) in text.match_indices("event = \"") {
                let name = text[at..].split('"').nth(1).unwrap();
                let begin = text[..at].rfind("!(").unwrap();
                let begin = text[..begin].rfind([' ', ':']).unwrap() + 1;
                let length = text[begin..].find(");").unwrap();
                let call = text[begin..begin + length].to_owned();
                found.entry(name.to_owned()).or_default().push(call);
            }
        }
    }
    let mut found = BTreeMap::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found
}

#[test]
fn every_event_is_documented_with_its_levels_and_fields_and_no_other() {
    let section = TEXT.split("\n## ").find(|part| part.starts_with("Events in the log\n"));
    let documented: BTreeMap<&str, Vec<&str>> = section
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"))
        .map(|line| line.split('|').map(|cell| cell.trim().trim_end_matches('`')).collect())
        .filter_map(|cells: Vec<&str>| Some((*cells.first()?, cells)))
        .filter(|(name, _)| *name != "event")
        .collect();
    let logged = logged();
    let names: BTreeSet<&str> = logged.keys().map(String::as_str).collect();
    assert_eq!(documented.keys().copied().collect::<BTreeSet<_>>(), names);
    for (name, cells) in documented {
        let calls = &logged[name];
        for level in ["error", "warn", "info"] {
            let is_used = calls.iter().any(|call| call.starts_with(&format!("{level}!")));
            assert_eq!(cells[1].contains(&level.to_uppercase()), is_used, "{name}: {level}");
        }
        for field in cells[2].split(", ").map(|field| field.trim_matches('`')) {
            assert!(calls.iter().all(|call| call.contains(field)), "{name} has no {field}");
        }
    }
}

#[test]
fn alerts_and_board_name_only_what_there_is() {
    let served = served();
    for (text, least) in [(ALERTS, 4), (BOARD, 15)] {
        let named = named(text);
        assert!(named.len() >= least, "only {named:?}");
        for name in named {
            assert!(served.contains_key(&name), "{name} is not served");
        }
    }
}

#[test]
fn the_eight_alerts_are_those_of_the_document() {
    let alerts: Vec<_> =
        ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert_eq!(alerts.len(), 8);
    for alert in alerts {
        assert!(rows().any(|(name, _)| name == alert), "{alert}");
    }
}

#[test]
fn the_board_is_json_with_panels_that_ask() {
    let board: serde_json::Value = serde_json::from_str(BOARD).unwrap();
    let panels = board["panels"].as_array().unwrap();
    assert!(panels.len() > 10);
    for panel in panels {
        let targets = panel["targets"].as_array().unwrap();
        assert!(targets.iter().all(|target| target["expr"].as_str().is_some()), "{panel}");
    }
}
