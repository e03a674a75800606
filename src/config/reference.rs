//! `docs/configuration.md` as data: the manual page is made from it, and tests hold it against the
//! program.

use crate::exit::Failure;

/// The whole text.
pub(crate) const TEXT: &str = include_str!("../../docs/configuration.md");

/// A table of the configuration file.
#[derive(Debug, Default)]
pub(crate) struct Section {
    /// Its heading, such as `` `[redis]` ``.
    pub title: &'static str,
    /// What stands before its keys, a paragraph each.
    pub introduction: Vec<&'static str>,
    pub keys: Vec<Key>,
    /// What stands after them.
    pub closing: Vec<&'static str>,
}

/// A key, with its cells of the table.
#[derive(Debug)]
pub(crate) struct Key {
    /// In full, such as `redis.url`.
    pub name: &'static str,
    /// What holds if it is not written; in backquotes where it is a value.
    pub default: &'static str,
    /// Which values there are.
    pub range: &'static str,
    pub meaning: &'static str,
}

/// The paragraph that begins with these words. The lines of a paragraph are still apart.
pub(crate) fn paragraph(beginning: &str) -> Result<&'static str, Failure> {
    TEXT.split("\n\n").map(str::trim).find(|text| text.starts_with(beginning)).ok_or_else(|| {
        Failure::internal("make the manual", format!("nothing begins with '{beginning}'"))
    })
}

/// The cells of the lines of all tables.
pub(crate) fn rows(text: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    text.lines().filter_map(|line| {
        let inner = line.strip_prefix("| ")?.strip_suffix(" |")?;
        Some(inner.split(" | ").map(str::trim).collect())
    })
}

/// The text of a cell that is one word in backquotes.
pub(crate) fn quoted(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`').filter(|inner| !inner.contains('`'))
}

/// The tables of the file, in the order of the text.
pub(crate) fn sections() -> Vec<Section> {
    let keys = TEXT.split("\n## ").find(|part| part.starts_with("Keys\n")).unwrap_or_default();
    keys.split("\n### ").skip(1).map(section).collect()
}

fn section(text: &'static str) -> Section {
    let (title, rest) = text.split_once('\n').unwrap_or((text, ""));
    let mut section = Section { title, ..Section::default() };
    for block in rest.split("\n\n").map(str::trim).filter(|block| !block.is_empty()) {
        if block.starts_with('|') {
            section.keys.extend(rows(block).filter_map(|cells| key(&cells)));
        } else if section.keys.is_empty() {
            section.introduction.push(block);
        } else {
            section.closing.push(block);
        }
    }
    section
}

fn key(cells: &[&'static str]) -> Option<Key> {
    let [name, default, range, meaning] = *cells else { return None };
    Some(Key { name: quoted(name)?, default, range, meaning })
}
