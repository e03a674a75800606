//! `sessionfs report`: what the audit trail says of a period, for an auditor.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::output::{json, say};
use crate::config::Config;
use crate::config::audit::Place;
use crate::config::units::duration_ms;
use crate::exit::{ExitCode, Failure};
use crate::report::merge::Source;
use crate::report::{Period, Reader, document};
use crate::telemetry::now_ms;
use crate::trail::entry::time_ms;

/// A longer first line is not one of the trail.
const PEEKED_BYTES: usize = 64 * 1024;

/// Report what was configured and enforced in a period, from the audit trail
///
/// Reads the files of the audit trail (audit.trail), of all servers and with those that were rotated. Says which
/// lifetimes held, how many sessions began and ended and why, the longest idle time and the longest life, what was
/// changed by whom, and what is not known; with what PCI DSS and OWASP ASVS ask for.
#[derive(clap::Args, Debug)]
pub(super) struct Report {
    /// Files of the trail; - is standard input (default: the file that the configuration names)
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// From when on: `2026-11-01`, `2026-11-01T08:00:00Z` (UTC), or so long ago: `30d`
    #[arg(long, value_name = "TIME", default_value = "30d")]
    from: String,
    /// Until when, written in the same way (default: now)
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Text for people, JSON for programs, or a page that stands alone
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Form::Text)]
    format: Form,
    /// Configuration file (default: /etc/sessionfs/sessionfs.toml, if it exists)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

type Lines = BufReader<Box<dyn io::Read>>;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    Text,
    Json,
    Html,
}

impl Report {
    /// Reads the files and prints.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let now_ms = now_ms();
        let period = Period {
            from_ms: moment("--from", &self.from, now_ms)?,
            to_ms: self.to.as_deref().map_or(Ok(now_ms), |to| moment("--to", to, now_ms))?,
        };
        if period.from_ms >= period.to_ms {
            return Err(Failure::new(ExitCode::Usage, "--from: is not before --to"));
        }
        let mut reader = Reader::new(period);
        let files =
            if self.files.is_empty() { vec![self.configured()?] } else { self.files.clone() };
        let files = files.iter().map(|path| open(path)).collect::<Result<_, _>>()?;
        reader.read(files).map_err(|found| unreadable(&found.path, &found.error))?;
        let report = reader.finish(now_ms);
        match self.format {
            Form::Text => say(document::text(&report).trim_end()),
            Form::Json => json(&document::json(&report)),
            Form::Html => say(document::html(&report).trim_end()),
        }
    }

    fn configured(&self) -> Result<PathBuf, Failure> {
        match Config::resolve_audit(self.config.as_deref())?.map(|audit| audit.place) {
            Some(Place::File(path)) => Ok(path),
            Some(Place::Unix(_)) => Err(Failure::new(
                ExitCode::Usage,
                "audit.trail is a socket; name the files that its reader writes",
            )),
            None => Err(Failure::new(
                ExitCode::Usage,
                "audit.trail is not set; set it in the configuration, or name the files of a trail",
            )),
        }
    }
}

/// One file.
fn open(path: &Path) -> Result<Source<Lines>, Failure> {
    let source = || {
        let read: Box<dyn io::Read> = if path == Path::new("-") {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path)?)
        };
        Source::new(path.to_owned(), BufReader::with_capacity(PEEKED_BYTES, read))
    };
    source().map_err(|error| unreadable(path, &error))
}

/// A day, a moment, or so long ago.
fn moment(flag: &str, text: &str, now_ms: u64) -> Result<u64, Failure> {
    let text = text.trim();
    let day = format!("{text}T00:00:00Z");
    time_ms(text)
        .or_else(|| time_ms(&day))
        .or_else(|| duration_ms(text).ok().map(|ms| now_ms.saturating_sub(ms)))
        .ok_or_else(|| {
            Failure::new(
                ExitCode::BadValue,
                format!("{flag}: '{text}' is no time; write for example 2026-11-01, 2026-11-01T08:00:00Z or 30d"),
            )
        })
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let remedy =
        if error.kind() == io::ErrorKind::PermissionDenied { "; run it with sudo" } else { "" };
    Failure::new(ExitCode::UnreadableFile, format!("{}: {error}{remedy}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_day_a_moment_or_so_long_ago() {
        let now_ms = 1_800_000_000_000;
        assert_eq!(moment("--from", "2027-01-15", now_ms).unwrap(), 1_799_971_200_000);
        assert_eq!(moment("--from", "2027-01-15T08:00:00Z", now_ms).unwrap(), now_ms);
        assert_eq!(moment("--from", "1h", now_ms).unwrap(), now_ms - 3_600_000);
        for text in ["", "yesterday", "2027-13-01", "2027-01-15T"] {
            assert_eq!(
                moment("--to", text, now_ms).unwrap_err().code,
                ExitCode::BadValue,
                "{text}"
            );
        }
    }
}
