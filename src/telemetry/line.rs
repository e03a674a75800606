//! An event as text, and what makes two events one of a kind: then one of them is written, and the
//! others are counted.

use std::fmt::{self, Write};

use tracing::Event;
use tracing::field::{Field, Visit};

use crate::foreign::one_line;

/// A longer line is cut.
const LENGTH_MAX_CHARS: usize = 300;

/// Fields that tell one kind from another, where one line of the program logs several.
const TELLING: [&str; 7] = ["event", "operation", "errno", "server", "state", "reason", "key"];

/// An event's message and fields.
#[derive(Default)]
pub(crate) struct Line {
    /// The word in the field `event`, if it has one.
    pub event: String,
    message: String,
    fields: String,
    telling: String,
}

impl Line {
    pub(crate) fn of(event: &Event<'_>) -> Self {
        let mut line = Self::default();
        event.record(&mut line);
        line
    }

    /// For a person, in one line.
    pub(crate) fn text(&self) -> String {
        let blank = if self.message.is_empty() || self.fields.is_empty() { "" } else { "; " };
        let whole = format!("{}{blank}{}", self.message, self.fields);
        one_line(&whole).chars().take(LENGTH_MAX_CHARS).collect()
    }

    /// Two events of one kind have the same.
    pub(crate) fn kind(&self, event: &Event<'_>) -> String {
        let metadata = event.metadata();
        format!("{}:{:?}{}", metadata.target(), metadata.line(), self.telling)
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "event" {
            value.clone_into(&mut self.event);
        }
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
            return;
        }
        if field.name().starts_with("log.") {
            return;
        }
        if TELLING.contains(&field.name()) {
            let _ = write!(self.telling, ",{value:?}");
        }
        let blank = if self.fields.is_empty() { "" } else { ", " };
        let _ = match field.name() {
            "error" | "event" => write!(self.fields, "{blank}{value:?}"),
            name => write!(self.fields, "{blank}{name} {value:?}"),
        };
    }
}
