//! One line for each event; of those that repeat, one in some seconds.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tracing::{Event, Level, Subscriber};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::Layer;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FormatFields as _, MakeWriter};
use tracing_subscriber::layer::Context;

use super::journal;
use super::repeats::{Repeated, Repeats};
use crate::foreign::is_obeyed;
use crate::sync::lock;
use crate::telemetry::line::Line;

/// How a line begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    Timed,
    /// With the priority: the journal has the time.
    Journal,
}

/// Events below a warning that somebody without a login can cause, one a request.
const FOLDED: [&str; 2] = ["save_refused", "name_refused"];

/// Writes lines. Clones share what they know.
pub(super) struct Lines<W>(Arc<Inner<W>>);

struct Inner<W> {
    writer: W,
    form: Form,
    /// `None`: each line is written.
    repeats: Option<Mutex<Repeats>>,
    /// How many lines could not be written since one could.
    lost: AtomicU64,
}

impl<W> Clone for Lines<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W> Lines<W>
where
    W: for<'w> MakeWriter<'w>,
{
    pub(super) fn new(writer: W, form: Form, folds: bool) -> Self {
        Self(Arc::new(Inner {
            writer,
            form,
            repeats: folds.then(Mutex::default),
            lost: AtomicU64::new(0),
        }))
    }

    /// Tells of what was not written, where it is time for that.
    pub(super) fn tell_repeated(&self) {
        self.tell(false);
    }

    /// Tells of all that was not written.
    pub(super) fn tell_all_repeated(&self) {
        self.tell(true);
    }

    fn tell(&self, all: bool) {
        let Some(repeats) = &self.0.repeats else { return };
        // Written without the lock: whoever logs is not to wait for that.
        let due = lock(repeats).due(Instant::now(), all);
        for Repeated { count, within_seconds, level, text } in due {
            let mut line = self.begin(level, "sessionfs");
            // Writing to a String cannot fail.
            let _ =
                write!(line, "{count} more of this kind in {within_seconds} s, the last: {text}");
            self.write(&line);
        }
    }

    fn is_new(&self, event: &Event<'_>) -> bool {
        let Some(repeats) = &self.0.repeats else { return true };
        let (level, line) = (*event.metadata().level(), Line::of(event));
        if level > Level::WARN && !FOLDED.contains(&line.event.as_str()) {
            return true;
        }
        lock(repeats).is_new(line.kind(event), level, || line.text(), Instant::now())
    }

    fn begin(&self, level: Level, target: &str) -> String {
        let mut line = String::new();
        // Writing to a String cannot fail.
        let _ = match self.0.form {
            Form::Journal => write!(line, "<{}>{level} {target}: ", journal::priority(level)),
            Form::Timed => {
                let _ = SystemTime.format_time(&mut Writer::new(&mut line));
                write!(line, " {level:>5} {target}: ")
            }
        };
        line
    }

    /// What could not be written is told when a line can be written again.
    fn write(&self, text: &str) {
        let mut lost = self.0.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let mut line = self.begin(Level::WARN, "sessionfs");
            // Writing to a String cannot fail.
            let _ = write!(line, "{lost} lines of the log are lost: nobody read them in time");
            if self.write_line(&line).is_ok() {
                lost = 0;
            }
        }
        if lost > 0 || self.write_line(text).is_err() {
            self.0.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }

    /// Whatever it is made of, it is one line.
    fn write_line(&self, text: &str) -> io::Result<()> {
        let mut line = String::with_capacity(text.len() + 1);
        for c in text.chars() {
            if is_obeyed(c) {
                line.extend(c.escape_unicode());
            } else {
                line.push(c);
            }
        }
        line.push('\n');
        self.0.writer.make_writer().write_all(line.as_bytes())
    }

    fn add_fields(line: &mut String, fields: impl RecordFields) {
        let _ = DefaultFields::new().format_fields(Writer::new(line), fields);
    }
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if !self.is_new(event) {
            return;
        }
        // What comes from the `log` crate names its origin in its fields.
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        let mut line = self.begin(*metadata.level(), metadata.target());
        Self::add_fields(&mut line, event);
        self.write(&line);
    }
}
