//! Where the audit trail is written: nowhere but in the log, in a file, or on a unix socket.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The longest path that a socket's address has room for (unix(7)).
const PATH_MAX_BYTES: usize = 107;

/// The audit trail.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Audit {
    pub place: Place,
    /// How large the file may become.
    pub max_bytes: u64,
}

/// What takes its lines.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Place {
    File(PathBuf),
    /// Somebody listens there, for datagrams or for a stream.
    Unix(PathBuf),
}

impl Place {
    /// From `off`, a path, or `unix:/PATH`; the error is a half sentence.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        const REMEDY: &str =
            "write \"off\", \"/var/log/sessionfs/trail.jsonl\" or \"unix:/run/collector.sock\"";
        let text = text.trim();
        if text == "off" {
            return Ok(None);
        }
        let (path, is_socket) = match text.strip_prefix("unix:") {
            Some(path) => (PathBuf::from(path), true),
            None => (PathBuf::from(text), false),
        };
        if !path.is_absolute() {
            return Err(format!("has no absolute path; {REMEDY}"));
        }
        if is_socket && path.as_os_str().len() > PATH_MAX_BYTES {
            return Err(format!(
                "has a path of more than {PATH_MAX_BYTES} bytes; name a shorter one"
            ));
        }
        Ok(Some(if is_socket { Self::Unix(path) } else { Self::File(path) }))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_path_or_a_socket() {
        assert_eq!(Place::parse("off"), Ok(None));
        for text in ["/var/log/trail.jsonl", "unix:/run/collector.sock"] {
            assert_eq!(Place::parse(text).unwrap().unwrap().to_string(), text);
        }
        let long = format!("unix:/{}", "x".repeat(PATH_MAX_BYTES));
        for text in ["", "trail.jsonl", "unix:", "unix:trail", &long] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }
}
