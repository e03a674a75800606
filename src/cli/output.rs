//! How commands print: a table for people, JSON for programs; colours on a terminal alone.

use std::fmt;
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::exit::Failure;
use crate::foreign::{escaped as without_commands, is_obeyed};

/// Whether a command's answer is for a program.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(super) struct Format {
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// For what is well.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// For what needs attention.
pub(super) const WARNING: Style = AnsiColor::Yellow.on_default();
/// For what is wrong.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
/// For headings.
pub(super) const HEADING: Style = Style::new().bold();

/// A piece of text in a style; where no colours are wanted, [`say`] leaves the style out. Commands to
/// a terminal in the text are escaped.
pub(super) fn styled(style: Style, text: impl fmt::Display) -> String {
    format!("{style}{}{style:#}", without_commands(&text.to_string()))
}

/// Prints lines on standard output. A reader that has gone (`| head`) is no failure. Colours are
/// left out unless it is a terminal, and where `NO_COLOR` is set. Commands to a terminal are escaped,
/// except the styles above.
pub(super) fn say(text: impl fmt::Display) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    match writeln!(out, "{}", only_own_styles(&text.to_string())).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::internal("write to standard output", error))
        }
        _ => Ok(()),
    }
}

fn only_own_styles(text: &str) -> String {
    let styles = [GOOD, WARNING, BAD, HEADING];
    let own: Vec<String> = styles
        .iter()
        .flat_map(|style| [style.render().to_string(), style.render_reset().to_string()])
        .collect();
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let style = own.iter().find(|style| rest.starts_with(style.as_str()));
        let taken = style.map_or(c.len_utf8(), String::len);
        let (piece, later) = rest.split_at(taken);
        if style.is_some() || matches!(c, '\n' | '\t') || !is_obeyed(c) {
            shown.push_str(piece);
        } else {
            shown.extend(c.escape_unicode());
        }
        rest = later;
    }
    shown
}

/// Text from outside in one line of at most `chars` characters, with nothing in it that a terminal
/// would obey, or that would show as what it is not.
pub(super) fn visible(text: &str, chars: usize) -> String {
    let mut shown = String::new();
    let mut length = 0;
    for c in text.chars() {
        let piece = if is_obeyed(c) { c.escape_unicode().to_string() } else { c.to_string() };
        length += piece.chars().count();
        if length > chars {
            // Room for the mark that something is missing.
            while shown.chars().count() >= chars {
                shown.pop();
            }
            shown.push('\u{2026}');
            return shown;
        }
        shown.push_str(&piece);
    }
    shown
}

/// Lines that a terminal need not fold, one below the other; the first begins where `indent` ends.
pub(super) fn folded(text: &str, indent: usize) -> String {
    const WIDTH: usize = 100;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && indent + last + 1 + word.chars().count() > WIDTH {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join(&format!("\n{:indent$}", ""))
}

/// Prints a value as indented JSON.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    say(json_text(value)?)
}

/// A value as indented JSON.
pub(super) fn json_text(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map(|text| escaped(&text))
        .map_err(|e| Failure::internal("print", e))
}

/// A value as JSON in one line.
pub(super) fn json_line(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map(|text| escaped(&text))
        .map_err(|e| Failure::internal("print", e))
}

/// JSON with escapes for what a terminal would obey; outside of strings there is none of it but
/// line feeds.
fn escaped(json: &str) -> String {
    use fmt::Write;
    json.chars().fold(String::with_capacity(json.len()), |mut text, c| {
        if c != '\n' && is_obeyed(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(c);
        }
        text
    })
}

/// Lines under a heading, each column as wide as it needs; the columns in `numbers` stand to the
/// right.
pub(super) fn table<const COLUMNS: usize>(
    heading: [&str; COLUMNS],
    numbers: &[usize],
    lines: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(heading.map(str::to_uppercase));
    for line in lines {
        table.add_row(line.map(|cell| without_commands(&cell)));
    }
    for (position, column) in table.column_iter_mut().enumerate() {
        // No blanks before the first, two between.
        column.set_padding((0, 2));
        if numbers.contains(&position) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_commands_no_terminal() {
        assert_eq!(visible("admin", 10), "admin");
        assert_eq!(visible("\x1b[2Ja\r\u{202e}b", 99), "\\u{1b}[2Ja\\u{d}\\u{202e}b");
        assert_eq!(visible("Zo\u{eb} \u{4e2d}", 10), "Zo\u{eb} \u{4e2d}");
        assert_eq!(visible("abcdef", 5), "abcd\u{2026}");
        assert!(visible("abc\x1b\x1b", 5).chars().count() <= 5);
    }

    #[test]
    fn json_commands_no_terminal_and_means_the_same() {
        let value = ["\x1b[2J\u{9b}1m\u{202e}\u{e0001}\n", "plain \u{eb}"];
        for text in [json_text(&value).unwrap(), json_line(&value).unwrap()] {
            assert!(!text.chars().any(|c| c != '\n' && is_obeyed(c)), "{text:?}");
            assert_eq!(serde_json::from_str::<Vec<String>>(&text).unwrap(), value);
        }
    }

    #[test]
    fn what_is_said_commands_no_terminal_but_for_our_styles() {
        let own = format!("{}\n\t{}", styled(BAD, "a\x1b[2Jb"), styled(HEADING, "c"));
        let kept = own.clone();
        assert_eq!(only_own_styles(&own), kept);
        assert!(kept.contains("a\\u{1b}[2Jb"));
        let said = only_own_styles("\x1b]52;c;eA==\x07\r\u{202e}\u{9b}m\x1b[32mx");
        assert_eq!(said, "\\u{1b}]52;c;eA==\\u{7}\\u{d}\\u{202e}\\u{9b}m\x1b[32mx");
        let cell = table(["a"], &[], [["\x1b[32m".to_owned()]]);
        assert!(cell.ends_with("\\u{1b}[32m"), "{cell}");
    }

    #[test]
    fn columns_are_as_wide_as_they_need() {
        let lines = [["shop".to_owned(), "7".to_owned()], ["b".to_owned(), "1234".to_owned()]];
        let text = table(["database", "sessions"], &[1], lines);
        let expected = "DATABASE  SESSIONS\nshop             7\nb             1234";
        assert_eq!(text, expected);
    }
}
