//! The one error type of the filesystem: what went wrong, and the errno that the caller will see.
//!
//! The errno decides what Odoo does next (a retry, a login page, an HTTP 500), so it is chosen where
//! the fault is understood. The adapter only replies, logs and counts it.

use std::fmt;

/// The level at which an error is logged. An `ENOENT` is an everyday answer; an `EIO` is not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Level {
    /// An everyday answer, logged at debug level.
    Expected,
    /// Something an administrator should look at; logged as a warning.
    Warning,
}

/// A failure of one filesystem operation.
///
/// Its message never holds a session id, only aliases.
#[derive(Debug)]
pub struct Error {
    errno: i32,
    level: Level,
    message: String,
}

impl Error {
    /// An everyday answer such as `ENOENT`: `errno` from `libc`, and the reason in words.
    pub fn expected(errno: i32, message: impl Into<String>) -> Self {
        Self { errno, level: Level::Expected, message: message.into() }
    }

    /// A fault that an administrator should see.
    pub fn fault(errno: i32, message: impl Into<String>) -> Self {
        Self { errno, level: Level::Warning, message: message.into() }
    }

    /// The errno that the calling process receives.
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// The level at which it is logged.
    pub fn level(&self) -> Level {
        self.level
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The result of one filesystem operation.
pub type Result<T> = std::result::Result<T, Error>;
