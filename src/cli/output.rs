//! How commands print: a table for people, JSON for programs; colours on a terminal alone.

use std::fmt;
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::exit::Failure;

/// Whether a command's answer is for a program.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Format {
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// For what is well.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// For what needs attention.
pub const WARNING: Style = AnsiColor::Yellow.on_default();
/// For what is wrong.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// For headings.
pub const HEADING: Style = Style::new().bold();

/// A piece of text in a style; where no colours are wanted, [`say`] leaves the style out.
pub fn styled(style: Style, text: impl fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Prints lines on standard output. A reader that has gone (`| head`) is no failure. Colours are
/// left out unless it is a terminal, and where `NO_COLOR` is set.
pub fn say(text: impl fmt::Display) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::internal("write to standard output", error))
        }
        _ => Ok(()),
    }
}

/// Prints a value as indented JSON.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::internal("print", e))?;
    say(text)
}

/// Lines under a heading, each column as wide as it needs; the columns in `numbers` stand to the
/// right.
pub fn table<const COLUMNS: usize>(
    heading: [&str; COLUMNS],
    numbers: &[usize],
    lines: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(heading.map(|title| title.to_uppercase()));
    for line in lines {
        table.add_row(line);
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
    fn columns_are_as_wide_as_they_need() {
        let lines = [["shop".to_owned(), "7".to_owned()], ["b".to_owned(), "1234".to_owned()]];
        let text = table(["database", "sessions"], &[1], lines);
        let expected = "DATABASE  SESSIONS\nshop             7\nb             1234";
        assert_eq!(text, expected);
    }
}
