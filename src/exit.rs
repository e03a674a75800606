//! How a command ends: one exit code per class of failure, and one line that names the thing and
//! the remedy.
//!
//! The codes are documented in `docs/configuration.md` and never change their meaning: unit files
//! and scripts decide by them whether trying again can help.

use std::fmt;
use std::process::Termination;

use serde::{Deserialize, Serialize};

use crate::foreign::is_obeyed;

/// Declares the codes once, so that the enum, the number and the table of the documentation
/// cannot disagree.
macro_rules! exit_codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal,)+) => {
        /// Why a command failed, as its exit code.
        #[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
        #[repr(u8)]
        pub enum ExitCode {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl ExitCode {
            /// Every code with its meaning.
            pub const ALL: &[(ExitCode, &str)] = &[
                $((ExitCode::$name, concat!($($doc),+)),)+
            ];
        }
    };
}

exit_codes! {
    /// Internal error; the message gives details.
    Internal = 1,
    /// The command line cannot be understood.
    Usage = 2,
    /// A file named in the configuration, or the configuration itself, cannot be read.
    UnreadableFile = 10,
    /// The configuration has an unknown key.
    UnknownKey = 11,
    /// A setting has an invalid value.
    BadValue = 12,
    /// The Redis URL is invalid.
    BadUrl = 13,
    /// A user or group does not exist.
    UnknownUser = 14,
    /// Not started as root.
    NotRoot = 20,
    /// `/dev/fuse` is missing or cannot be opened.
    NoFuse = 21,
    /// The kernel refused the mount.
    MountRefused = 22,
    /// The mountpoint does not exist.
    MountpointMissing = 23,
    /// The mountpoint is not a directory.
    NotADirectory = 24,
    /// The mountpoint contains files that are not Odoo's.
    NotEmpty = 25,
    /// Something is already mounted on the mountpoint.
    AlreadyMounted = 26,
    /// Another sessionfs serves this mountpoint.
    SecondDaemon = 27,
    /// No sessionfs is mounted there.
    NotMounted = 28,
    /// `unmount`: the mount is still in use.
    Busy = 29,
    /// Redis cannot be reached.
    RedisUnreachable = 30,
    /// Redis refuses the user or the password.
    RedisPassword = 31,
    /// Redis is too old.
    RedisTooOld = 32,
    /// The server is not Redis.
    NotRedis = 33,
    /// Redis refuses a command that sessionfs needs.
    RedisRefuses = 34,
    /// There is no `redis-server` or `valkey-server` for the private Redis.
    NoRedisServer = 35,
    /// The private Redis does not start.
    PrivateRedis = 36,
    /// The file of secrets cannot be used, or does not hold the secret that this Redis is written with.
    Secret = 37,
    /// The staging directory is not on a tmpfs, or not safe to use.
    Staging = 40,
    /// The worker's user lacks a permission, or has a privilege that it must not have.
    WorkerRights = 41,
    /// The worker exited before it served.
    WorkerFailed = 42,
    /// `status`: a mount is not served, or nothing is mounted.
    NotServed = 43,
    /// `reload`: nothing was changed; the message says why.
    ReloadFailed = 44,
    /// `bench`: a directory cannot be measured.
    BenchDirectory = 50,
    /// `bench`: the result cannot be written.
    BenchOutput = 51,
    /// `audit`, `bench`, `demo`, `observe`: interrupted by a signal; the result so far was printed.
    Interrupted = 52,
    /// `list`, `show`, `kill`: there is no such session.
    NoSuchSession = 53,
    /// `show`, `kill`: several sessions match the alias.
    AmbiguousSession = 54,
    /// `show --sid`: the content cannot be opened with this cookie.
    UnreadableSession = 55,
    /// `import`: some sessions could not be imported, and their files were left.
    ImportIncomplete = 56,
    /// The mirror cannot be used.
    MirrorRefused = 57,
    /// `config`: nothing was changed, because a lifetime becomes shorter and `--yes` was not given.
    Unconfirmed = 58,
    /// `import`: an Odoo on this host is using the directory, and nothing is mounted there.
    InUse = 59,
    /// `check`: there is a warning.
    CheckWarning = 60,
    /// `check`: there is an error.
    CheckFailed = 61,
    /// `discover`: no Odoo and no session directory was found.
    SessionsNotFound = 62,
    /// `observe`: this kernel, or this program as it was built, cannot run BPF programs.
    NoBpf = 70,
    /// `observe`: BPF programs are not allowed.
    BpfRefused = 71,
    /// `observe`: there is no process to observe.
    NobodyObserved = 72,
    /// `observe`: the directory cannot be used.
    ObservedDirectory = 73,
    /// `observe`: the result to compare with cannot be read.
    NothingToCompare = 74,
    /// `audit`: something should be mended, or could not be looked at.
    AuditWarning = 80,
    /// `audit`: something is wrong.
    AuditFailed = 81,
    /// `audit`: the site is not on this host, and nobody has said that it is theirs.
    AuditRefused = 82,
    /// `audit`: nobody answers at the site's address.
    AuditUnanswered = 83,
    /// `audit`: the report cannot be written.
    AuditOutput = 84,
}

impl ExitCode {
    /// After these trying again cannot help: the units have them in `RestartPreventExitStatus=`.
    pub const FINAL: [Self; 5] =
        [Self::Usage, Self::UnknownKey, Self::BadValue, Self::BadUrl, Self::UnknownUser];
}

impl From<ExitCode> for u8 {
    fn from(code: ExitCode) -> u8 {
        code as u8
    }
}

/// The end of a command that did not do what was asked.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Failure {
    /// The class of failure.
    pub code: ExitCode,
    /// What failed, and what to do about it. One line, without a secret in it.
    pub message: String,
}

impl Failure {
    /// A failure of this class.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Fails with this message for everybody but root.
    pub(crate) fn unless_root(message: &str) -> Result<(), Self> {
        if nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        Err(Self::new(ExitCode::NotRoot, message))
    }

    /// A system call that should have worked did not.
    pub fn internal(doing: impl fmt::Display, error: impl fmt::Display) -> Self {
        Self::new(ExitCode::Internal, format!("cannot {doing}: {error}"))
    }
}

impl fmt::Display for Failure {
    /// As one line, whatever the message was made of: a library's own text may have several, and
    /// a worker's report is not to be trusted to have one. Commands to a terminal are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LENGTH_MAX_CHARS: usize = 1000;
        let mut blank = false;
        for c in self.message.trim().chars().take(LENGTH_MAX_CHARS) {
            if c.is_whitespace() {
                blank = true;
                continue;
            }
            if std::mem::take(&mut blank) {
                f.write_str(" ")?;
            }
            if is_obeyed(c) {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

impl Termination for Failure {
    fn report(self) -> std::process::ExitCode {
        u8::from(self.code).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        let failure = Failure::new(ExitCode::Internal, "\none\n  two\tthree\x1b[1m \n");
        assert_eq!(failure.to_string(), "one two three\\u{1b}[1m");
    }

    #[test]
    fn the_units_have_the_final_codes() {
        for unit in [
            include_str!("../systemd/sessionfs.service"),
            include_str!("../systemd/sessionfs@.service"),
        ] {
            let listed =
                unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus="));
            let codes = ExitCode::FINAL.map(|code| u8::from(code).to_string());
            assert_eq!(listed, Some(codes.join(" ").as_str()));
        }
    }

    #[test]
    fn codes_are_unique_and_not_a_shells_own() {
        let mut codes: Vec<u8> = ExitCode::ALL.iter().map(|(code, _)| (*code).into()).collect();
        assert!(codes.iter().all(|code| (1..=125).contains(code)));
        let count = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), count);
    }
}
