//! The errors that a Redis server answers: each is read once, here, and is a code from then on.
//!
//! What follows from a code is a question to it ([`ErrorCode::effect`] and its like), so
//! that no two places answer it differently. Errors of the connection itself are no answers of a
//! server; [`super::link`] knows those.

use std::fmt;

use redis::RedisError;

use super::acl;
use crate::foreign::one_line;
use crate::store::StoreError;

/// As much of a server's words is kept.
const WORDS_MAX_CHARS: usize = 200;

/// What kind of error it is: one for each that needs an answer of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ErrorCode {
    /// `NOAUTH`: it wants a password.
    NoAuth,
    /// `WRONGPASS`: it knows no such user, or the password is another one.
    WrongPass,
    /// `NOPERM`: the user may not run this command (named if the server names it), or not on this
    /// key.
    NoPerm {
        /// As in an ACL: `set`, `config|get`.
        command: Option<String>,
    },
    /// `READONLY`: it is a replica.
    ReadOnly,
    /// `LOADING`: it is reading its file.
    Loading,
    /// `MASTERDOWN`: a replica that may not answer with old data.
    MasterDown,
    /// `BUSY`: a script keeps it from answering.
    Busy,
    /// `OOM`: its memory has reached `maxmemory`.
    Oom,
    /// `MISCONF`: it cannot write to its disk.
    MisConf,
    /// `NOREPLICAS`: fewer replicas follow it than `min-replicas-to-write` asks for.
    NoReplicas,
    /// `NOSCRIPT`: the script has to be sent again.
    NoScript,
    /// `WRONGTYPE`: the key is of another type, so another program's.
    WrongType,
    /// It has as many clients as `maxclients` allows.
    MaxClients,
    /// The database's number is not below `databases`.
    NoDatabase,
    /// `DENIED`: protected mode refuses everybody but this host.
    ProtectedMode,
    /// `MOVED`, or Valkey's `REDIRECT`: another server has this key from now on.
    Moved,
    /// `ASK`: another server has this key for this request.
    Ask,
    /// `TRYAGAIN`: the keys are just being moved.
    TryAgain,
    /// `CLUSTERDOWN`: the Cluster serves nobody.
    ClusterDown,
    /// It is too old for the command, or has it renamed.
    UnknownCommand,
    Other,
}

/// What an error of the server says of the connection that it came by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Effect {
    /// Nothing: it concerns this request alone.
    Nothing,
    /// It serves no reads. What helps is another connection, whose greeting says when it does.
    Lost,
    /// It takes no changes, whatever the key, and may answer reads.
    ReadOnly,
}

impl ErrorCode {
    pub(super) fn effect(&self) -> Effect {
        match self {
            Self::Loading
            | Self::MasterDown
            | Self::ClusterDown
            | Self::NoAuth
            | Self::WrongPass
            | Self::MaxClients
            | Self::Busy => Effect::Lost,
            Self::Oom | Self::MisConf | Self::ReadOnly | Self::NoReplicas => Effect::ReadOnly,
            Self::NoPerm { command } => match command.as_deref() {
                Some(command) if acl::is_for_writes(command) => Effect::ReadOnly,
                Some(command) if !acl::is_for_reads(command) => Effect::Nothing,
                // A script of Redis 6 does not say which command it is, and nobody which key.
                _ => Effect::Lost,
            },
            Self::NoScript
            | Self::WrongType
            | Self::NoDatabase
            | Self::ProtectedMode
            | Self::Moved
            | Self::Ask
            | Self::TryAgain
            | Self::UnknownCommand
            | Self::Other => Effect::Nothing,
        }
    }

    /// Whether another server of the Cluster has the key, or soon will.
    pub(super) fn redirects(&self) -> bool {
        matches!(self, Self::Moved | Self::Ask | Self::TryAgain)
    }

    /// Whether the user lacks a right.
    pub(super) fn is_no_perm(&self) -> bool {
        matches!(self, Self::NoPerm { .. })
    }

    /// What is one cause, however a server words it.
    pub(super) fn kind(&self) -> Self {
        match self {
            Self::NoPerm { .. } => Self::NoPerm { command: None },
            other => other.clone(),
        }
    }

    /// Whether another server may be the master by now, to which the same name leads.
    pub(super) fn may_move(&self) -> bool {
        matches!(self, Self::ReadOnly | Self::MisConf)
    }
}

/// An error that a server answered, directly or inside a script.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerError {
    pub code: ErrorCode,
    words: String,
}

impl ServerError {
    /// From an error of the crate; `None` if no server answered it.
    pub(super) fn of(error: &RedisError) -> Option<Self> {
        let code = error.code()?;
        let words = match error.detail() {
            Some(detail) => format!("{code} {detail}"),
            None => error.to_string(),
        };
        Some(Self::from(words.as_str()))
    }

    /// The server's words, in one line and without the place in the script: the code first, where
    /// the server gives one.
    pub fn words(&self) -> &str {
        &self.words
    }
}

impl From<&str> for ServerError {
    /// From the server's words.
    fn from(words: &str) -> Self {
        let words = outside_script(words.trim());
        let code = read_code(words);
        let words: String = words.chars().take(WORDS_MAX_CHARS).collect();
        Self { code, words: one_line(&words) }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for ServerError {}

impl From<ServerError> for StoreError {
    fn from(error: ServerError) -> Self {
        match error.code {
            ErrorCode::WrongType => Self::Unreadable(error.words),
            code if code.redirects() => Self::Unavailable(error.words),
            _ => Self::Refused(error.words),
        }
    }
}

/// The words without what a server puts around those of a command in a script.
fn outside_script(words: &str) -> &str {
    // Redis 6: "ERR Error running script (call to f_SHA): @user_script:84: @user_script: 84: -OOM
    // ...", and in pcall the second half of that.
    let mut inner = match words.strip_prefix("ERR Error running script (call to f_") {
        Some(rest) => rest.split_once("): ").map_or(rest, |(_, inner)| inner),
        None => words,
    };
    while let Some(rest) = inner.strip_prefix("@user_script:") {
        let Some((_, words)) = rest.split_once(": ") else { break };
        inner = words;
    }
    // Redis 7: "OOM ... script: SHA, on @user_script:84."
    let inner = match inner.rfind(" script: ") {
        Some(at) if inner[at..].contains(", on @user_script:") => &inner[..at],
        _ => inner,
    };
    inner.trim_start_matches('-')
}

fn read_code(words: &str) -> ErrorCode {
    let (code, rest) = words.split_once(' ').unwrap_or((words, ""));
    match code {
        "NOAUTH" => ErrorCode::NoAuth,
        "WRONGPASS" => ErrorCode::WrongPass,
        "NOPERM" => ErrorCode::NoPerm { command: refused_command(rest) },
        "READONLY" => ErrorCode::ReadOnly,
        "LOADING" => ErrorCode::Loading,
        "MASTERDOWN" => ErrorCode::MasterDown,
        "BUSY" => ErrorCode::Busy,
        "OOM" => ErrorCode::Oom,
        "MISCONF" => ErrorCode::MisConf,
        "NOREPLICAS" => ErrorCode::NoReplicas,
        "NOSCRIPT" => ErrorCode::NoScript,
        "WRONGTYPE" => ErrorCode::WrongType,
        "DENIED" => ErrorCode::ProtectedMode,
        "MOVED" | "REDIRECT" => ErrorCode::Moved,
        "ASK" => ErrorCode::Ask,
        "TRYAGAIN" => ErrorCode::TryAgain,
        "CLUSTERDOWN" => ErrorCode::ClusterDown,
        "ERR" => read_sentence(rest),
        // Redis 6 gives errors of its script engine without a code.
        _ => read_sentence(words),
    }
}

/// The errors that have no code of their own.
fn read_sentence(words: &str) -> ErrorCode {
    let begins = |beginnings: &[&str]| beginnings.iter().any(|start| words.starts_with(start));
    // Redis 6 and 7.0, then 7.2 and later: a command in a script.
    if begins(&["The user executing the script can't", "ACL failure in script"]) {
        ErrorCode::NoPerm { command: refused_command(words) }
    } else if begins(&["unknown command", "Unknown Redis command", "Unknown command"]) {
        ErrorCode::UnknownCommand
    } else if begins(&["DB index is out of range", "Redis server refused to switch database"]) {
        ErrorCode::NoDatabase
    } else if begins(&["max number of clients"]) {
        ErrorCode::MaxClients
    } else if begins(&["invalid password", "AUTH <password> called without any password"]) {
        ErrorCode::WrongPass
    } else {
        ErrorCode::Other
    }
}

/// The command in "... no permissions to run the 'config|get' command".
fn refused_command(words: &str) -> Option<String> {
    let (_, rest) = words.split_once("to run the '")?;
    let (command, _) = rest.split_once('\'')?;
    Some(command.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of Redis 6.0, 7.0 and 8.0 and Valkey 8.1, as they came from those servers.
    #[test]
    fn a_code_is_the_same_from_every_version_directly_and_inside_a_script() {
        let none = || ErrorCode::NoPerm { command: None };
        let set = || ErrorCode::NoPerm { command: Some("set".into()) };
        let config = || ErrorCode::NoPerm { command: Some("config|get".into()) };
        for (words, code) in [
            (
                "NOPERM this user has no permissions to run the 'set' command or its subcommand",
                set(),
            ),
            ("NOPERM this user has no permissions to run the 'config|get' command", config()),
            ("NOPERM User u has no permissions to run the 'set' command", set()),
            (
                "NOPERM this user has no permissions to access one of the keys used as arguments",
                none(),
            ),
            ("NOPERM No permissions to access a key", none()),
            (
                "ERR Error running script (call to f_2c08): @user_script:1: @user_script: 1: The user executing the script can't run this command or subcommand",
                none(),
            ),
            (
                "@user_script: 1: The user executing the script can't access at least one of the keys mentioned in the command arguments",
                none(),
            ),
            (
                "ERR The user executing the script can't run this command or subcommand script: 2c08, on @user_script:1.",
                none(),
            ),
            (
                "ERR ACL failure in script: User u has no permissions to run the 'set' command script: 2c08, on @user_script:1.",
                set(),
            ),
            ("ERR ACL failure in script: No permissions to access a key", none()),
            ("OOM command not allowed when used memory > 'maxmemory'.", ErrorCode::Oom),
            (
                "ERR Error running script (call to f_2c08): @user_script:1: @user_script: 1: -OOM command not allowed when used memory > 'maxmemory'.",
                ErrorCode::Oom,
            ),
            (
                "@user_script: 84: -READONLY You can't write against a read only replica.",
                ErrorCode::ReadOnly,
            ),
            (
                "READONLY You can't write against a read only replica. script: 2c08, on @user_script:1.",
                ErrorCode::ReadOnly,
            ),
            (
                "ERR Error running script (call to f_26dd): @user_script:1: WRONGTYPE Operation against a key holding the wrong kind of value",
                ErrorCode::WrongType,
            ),
            (
                "ERR unknown command `FOO`, with args beginning with: `p:a`, ",
                ErrorCode::UnknownCommand,
            ),
            (
                "ERR unknown command 'FOO', with args beginning with: 'READONLY' ",
                ErrorCode::UnknownCommand,
            ),
            (
                "@user_script: 1: Unknown Redis command called from Lua script",
                ErrorCode::UnknownCommand,
            ),
            (
                "ERR Unknown Redis command called from script script: 985c, on @user_script:1.",
                ErrorCode::UnknownCommand,
            ),
            (
                "ERR Unknown command called from script script: 985c, on @user_script:1.",
                ErrorCode::UnknownCommand,
            ),
            ("ERR DB index is out of range", ErrorCode::NoDatabase),
            ("ERR max number of clients reached", ErrorCode::MaxClients),
            ("ERR max number of clients + cluster connections reached", ErrorCode::MaxClients),
            ("ERR invalid password", ErrorCode::WrongPass),
            ("WRONGPASS invalid username-password pair or user is disabled.", ErrorCode::WrongPass),
            (
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
                ErrorCode::WrongPass,
            ),
            (
                "ERR user_script:1: attempt to perform arithmetic on a nil value script: d13b, on @user_script:1.",
                ErrorCode::Other,
            ),
        ] {
            assert_eq!(ServerError::from(words).code, code, "{words}");
        }
    }

    /// Every code of an error reply in the sources of Redis 7.4 and Valkey 8.
    #[test]
    fn every_code_of_redis_and_valkey_has_its_class() {
        let mut all = vec![
            ("NOAUTH", ErrorCode::NoAuth),
            ("WRONGPASS", ErrorCode::WrongPass),
            ("NOPERM", ErrorCode::NoPerm { command: None }),
            ("READONLY", ErrorCode::ReadOnly),
            ("LOADING", ErrorCode::Loading),
            ("MASTERDOWN", ErrorCode::MasterDown),
            ("BUSY", ErrorCode::Busy),
            ("OOM", ErrorCode::Oom),
            ("MISCONF", ErrorCode::MisConf),
            ("NOREPLICAS", ErrorCode::NoReplicas),
            ("NOSCRIPT", ErrorCode::NoScript),
            ("WRONGTYPE", ErrorCode::WrongType),
            ("DENIED", ErrorCode::ProtectedMode),
            ("MOVED", ErrorCode::Moved),
            ("REDIRECT", ErrorCode::Moved),
            ("ASK", ErrorCode::Ask),
            ("TRYAGAIN", ErrorCode::TryAgain),
            ("CLUSTERDOWN", ErrorCode::ClusterDown),
        ];
        for other in [
            "BUSYGROUP",
            "BUSYKEY",
            "CROSSSLOT",
            "ERR",
            "EXECABORT",
            "INPROG",
            "INVALIDOBJ",
            "IOERR",
            "NOGOODSLAVE",
            "NOGROUP",
            "NOMASTERLINK",
            "NOPROTO",
            "NOQUORUM",
            "NOSUB",
            "NOTBUSY",
            "UNBLOCKED",
            "UNKILLABLE",
        ] {
            all.push((other, ErrorCode::Other));
        }
        for (code, class) in all {
            // Words that are another error's are no reason to take it for that one.
            for words in [format!("{code} OOM READONLY NOPERM"), code.to_owned()] {
                assert_eq!(ServerError::from(words.as_str()).code, class, "{words}");
                let in_script = format!("@user_script: 84: -{words}");
                assert_eq!(ServerError::from(in_script.as_str()).code, class, "{in_script}");
            }
        }
    }

    #[test]
    fn the_words_are_one_short_line_without_the_place_in_the_script() {
        let words = |text: &str| ServerError::from(text).words().to_owned();
        let oom = "OOM command not allowed when used memory > 'maxmemory'.";
        for text in [
            oom.to_owned(),
            format!("@user_script: 84: -{oom}"),
            format!("{oom} script: 0123, on @user_script:84."),
        ] {
            assert_eq!(words(&text), oom);
        }
        assert_eq!(words("ERR two\r\nlines"), "ERR two  lines");
        assert_eq!(words(&"x".repeat(10_000)).len(), WORDS_MAX_CHARS);
    }

    #[test]
    fn an_error_of_the_crate_keeps_code_and_words() {
        let error = RedisError::from(std::io::Error::other("gone"));
        assert_eq!(ServerError::of(&error), None);
        let kind = redis::ErrorKind::Server(redis::ServerErrorKind::ReadOnly);
        let error = RedisError::from((kind, "said", "You can't write".to_owned()));
        let read = ServerError::of(&error).expect("a server's");
        assert_eq!((read.words(), &read.code), ("READONLY You can't write", &ErrorCode::ReadOnly));
    }
}
