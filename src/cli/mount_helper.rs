//! `mount -t sessionfs sessionfs DIR -o OPTIONS` and a line in `/etc/fstab`: mount(8) calls this program
//! by the name `mount.sessionfs` or `mount.fuse.sessionfs`.
//!
//! The daemon runs in the background. What it logs goes to the system's log by way of
//! `logger(1)`, or to a file. The exit codes are mount(8)'s.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use crate::config::flags::Flags;
use crate::exit::{self, Failure};
use crate::host::process;
use crate::keeper::{self, Caller};

/// By these names mount(8) finds its helper, for both ways to write the kind of filesystem.
const NAMES: [&str; 2] = ["mount.sessionfs", "mount.fuse.sessionfs"];

/// Of mount(8)'s exit codes: the call is wrong.
pub const WRONG_CALL: u8 = 1;
/// The mount failed; the reason is printed and logged.
pub const MOUNT_FAILED: u8 = 32;

/// Our own options: name, value and meaning. All but the last are flags of `sessionfs mount`.
pub const OPTIONS: [(&str, &str, &str); 7] = [
    (
        "config",
        "FILE",
        "The configuration file (default: `/etc/sessionfs/sessionfs.toml`, if it exists).",
    ),
    ("redis", "URL", "URL of Redis."),
    ("owner", "USER", "Odoo's user."),
    ("group", "GROUP", "Group of the files."),
    ("mode", "OCTAL", "Permission bits of the root directory."),
    ("log", "FILTER", "What is logged."),
    (
        "log_file",
        "FILE",
        "Log file (default: the system log, by logger(1) with the tag `sessionfs`).",
    ),
];

/// What every filesystem accepts (mount(8)), and FUSE: it concerns mount(8) or systemd, or is so in any
/// case, or means nothing here.
pub const ACCEPTED: [&str; 48] = [
    "defaults",
    "rw",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "async",
    "sync",
    "dirsync",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "symfollow",
    "nosymfollow",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "silent",
    "loud",
    "acl",
    "noacl",
    "allow_other",
    "default_permissions",
    "nonempty",
    "auto_unmount",
    "user_id=0",
    "group_id=0",
    "fsname=sessionfs",
    "subtype=sessionfs",
];

/// What mount(8) asks for.
#[derive(Debug, Default)]
struct Call {
    dir: PathBuf,
    flags: Flags,
    log_file: Option<PathBuf>,
    fake: bool,
}

/// The arguments, if this program was called as mount(8)'s helper.
pub fn arguments() -> Option<Vec<OsString>> {
    let mut arguments = std::env::args_os();
    let program = PathBuf::from(arguments.next()?);
    let name = program.file_name().and_then(OsStr::to_str)?;
    NAMES.contains(&name).then(|| arguments.collect())
}

/// Mounts, and returns when a session can be served, or says why not.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let outcome = match Call::parse(arguments) {
        Ok(call) if call.fake => Ok(()),
        Ok(call) => start(&call).map_err(|failure| (failure.to_string(), MOUNT_FAILED)),
        Err(reason) => Err((reason, WRONG_CALL)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err((reason, code)) => {
            // Nobody may be reading; the exit code says it, too.
            let _ = writeln!(std::io::stderr(), "mount.sessionfs: {reason}");
            code.into()
        }
    }
}

impl Call {
    fn parse(arguments: Vec<OsString>) -> Result<Self, String> {
        const CALL: &str = "mount.sessionfs SOURCE DIR [-sfnv] [-o OPTIONS]";
        let mut call = Self::default();
        let (mut named, mut options, mut sloppy) = (Vec::new(), Vec::new(), false);
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let Some(text) = argument.to_str() else {
                named.push(argument);
                continue;
            };
            match text.strip_prefix('-').filter(|letters| !letters.is_empty()) {
                None => named.push(argument),
                Some("o") => options.push(value(arguments.next(), "-o")?),
                // The kind of filesystem is known.
                Some("t") => drop(value(arguments.next(), "-t")?),
                Some("N") => {
                    return Err(
                        "-N: not supported; use nsenter(1) to mount in another namespace".into()
                    );
                }
                Some(letters) if letters.chars().all(|letter| "sfnvw".contains(letter)) => {
                    sloppy |= letters.contains('s');
                    call.fake |= letters.contains('f');
                }
                Some(_) => return Err(format!("unknown option {text}; call it as {CALL}")),
            }
        }
        // The source means nothing: what is served is in the configuration.
        let [_, dir] = named.as_slice() else { return Err(format!("call it as {CALL}")) };
        call.dir = dir.into();
        for option in options.iter().flat_map(|options| options.split(',')) {
            call.take(option, sloppy)?;
        }
        Ok(call)
    }

    fn take(&mut self, option: &str, sloppy: bool) -> Result<(), String> {
        let flags = &mut self.flags;
        match option.split_once('=') {
            Some(("config", file)) => flags.place.config = Some(absolute("config", file)?),
            Some(("log_file", file)) => self.log_file = Some(absolute("log_file", file)?),
            Some(("redis", url)) => flags.place.redis = Some(url.into()),
            Some(("owner", user)) => flags.owner = Some(user.into()),
            Some(("group", group)) => flags.group = Some(group.into()),
            Some(("mode", mode)) => flags.mode = Some(mode.into()),
            Some(("log", filter)) => flags.log = Some(filter.into()),
            _ if option == "ro" => {
                return Err(
                    "ro: read-only mounts are not supported, since a login is a write".into()
                );
            }
            _ if option == "remount" => {
                return Err("remount: no option can be changed while it is mounted; change the \
                            configuration and run 'sessionfs reload'"
                    .into());
            }
            _ if option.is_empty() || ACCEPTED.contains(&option) || sloppy => {}
            _ if option.starts_with("x-") || option.starts_with("X-") => {}
            Some(("comment", _)) => {}
            _ => {
                let ours = OPTIONS.map(|(name, ..)| name).join(", ");
                return Err(format!(
                    "unknown mount option '{option}'; use {ours}, each with a value"
                ));
            }
        }
        Ok(())
    }
}

fn value(argument: Option<OsString>, option: &str) -> Result<String, String> {
    argument
        .and_then(|value| value.into_string().ok())
        .ok_or_else(|| format!("{option} needs a value"))
}

/// The daemon works in the root directory, wherever mount(8) was called.
fn absolute(option: &str, path: &str) -> Result<PathBuf, String> {
    let path = Path::new(path);
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(format!("{option}={}: use an absolute path", path.display()))
}

/// Starts the daemon, and waits until it is ready or has failed.
fn start(call: &Call) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::internal("start in the background", e);
    let dir = std::path::absolute(&call.dir).map_err(|e| failed(&e))?;
    let log = log(call.log_file.as_deref())?;
    let (reader, writer) = std::io::pipe().map_err(|e| failed(&e))?;
    match process::fork().map_err(|e| failed(&e))? {
        ForkResult::Parent { child } => {
            drop(writer);
            let outcome = wait(reader);
            if outcome.is_err() {
                // It has nothing left to do but to end; whoever called finds nothing of it.
                let _ = waitpid(child, None);
            }
            outcome
        }
        ForkResult::Child => {
            drop(reader);
            let served = detach(&writer, &log)
                .map_err(|e| failed(&e))
                .and_then(|()| keeper::mount(Some(&dir), &call.flags, Caller::MountHelper));
            let Err(failure) = served else { std::process::exit(0) };
            // To whoever waits, if it was the start that failed, and to the log.
            let _ = writeln!(std::io::stdout(), "{failure}");
            let _ = writeln!(std::io::stderr(), "sessionfs: {failure}");
            std::process::exit(u8::from(failure.code).into())
        }
    }
}

/// The first line is `ready DIR`, or says what failed.
fn wait(reader: impl std::io::Read) -> Result<(), Failure> {
    let mut line = String::new();
    let _ = BufReader::new(reader).read_line(&mut line);
    match line.trim() {
        ready if ready.starts_with("ready ") => Ok(()),
        "" => Err(Failure::internal("mount", "the daemon died; see the log")),
        failure => Err(Failure::new(exit::ExitCode::Internal, failure)),
    }
}

/// Leaves the terminal, the working directory, and the standard files of whoever called.
fn detach(writer: &impl AsFd, log: &impl AsFd) -> nix::Result<()> {
    setsid()?;
    umask(Mode::from_bits_truncate(0o022));
    nix::unistd::chdir("/")?;
    let null = File::open("/dev/null")
        .map_err(|e| nix::Error::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
    dup2_stdin(null.as_fd())?;
    dup2_stdout(writer.as_fd())?;
    dup2_stderr(log.as_fd())
}

/// Where the log goes: a file, or the system's log. logger(1) ends with the last writer.
fn log(file: Option<&Path>) -> Result<OwnedFd, Failure> {
    if let Some(path) = file {
        return File::options()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(path)
            .map(OwnedFd::from)
            .map_err(|e| {
                Failure::new(
                    exit::ExitCode::UnreadableFile,
                    format!("log_file {}: {e}; name a file that can be written", path.display()),
                )
            });
    }
    let spawned = Command::new("logger")
        .args(["--tag", "sessionfs"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .spawn();
    match spawned.map(|mut logger| logger.stdin.take()) {
        Ok(Some(stdin)) => Ok(stdin.into()),
        // Without it there is nowhere to log to, which is no reason to serve no sessions.
        _ => File::options()
            .write(true)
            .open("/dev/null")
            .map(OwnedFd::from)
            .map_err(|e| Failure::internal("open /dev/null", e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Call, String> {
        Call::parse(words.split(' ').map(OsString::from).collect())
    }

    #[test]
    fn what_mount_says_is_understood() {
        let call = parse(
            "none /srv/sessions -nv -o rw,noatime,_netdev,x-systemd.requires=redis.service,config=/etc/a.toml -o owner=odoo,mode=0750",
        )
        .unwrap();
        assert_eq!(call.dir, Path::new("/srv/sessions"));
        assert_eq!(call.flags.place.config.as_deref(), Some(Path::new("/etc/a.toml")));
        assert_eq!(call.flags.owner.as_deref(), Some("odoo"));
        assert_eq!(call.flags.mode.as_deref(), Some("0750"));
        assert!(!call.fake && parse("none /srv -f").unwrap().fake);
        assert!(parse("none /srv -t fuse.sessionfs").is_ok());
    }

    #[test]
    fn options_of_every_filesystem_and_what_the_mount_table_shows_are_accepted() {
        for options in [
            "dirsync,lazytime,nolazytime,strictatime,nodiratime,iversion,mand,silent,loud,sync",
            "default_permissions,nonempty,auto_unmount,allow_other",
            "rw,nosuid,nodev,noexec,noatime,user_id=0,group_id=0,allow_other",
            "nosymfollow,comment=sessions,X-mount.mkdir,x-systemd.automount",
        ] {
            parse(&format!("none /srv -o {options}")).unwrap();
        }
    }

    #[test]
    fn what_it_should_not_say_is_told() {
        for (words, expected) in [
            ("none", "SOURCE DIR"),
            ("none /srv extra", "SOURCE DIR"),
            ("none /srv -o", "-o needs a value"),
            ("none /srv -x", "unknown option -x"),
            ("none /srv -o rediss=x", "unknown mount option 'rediss=x'"),
            ("none /srv -o ro", "ro: "),
            ("none /srv -o remount,noatime", "remount: "),
            ("none /srv -o user_id=1000", "unknown mount option 'user_id=1000'"),
            ("none /srv -o config=a.toml", "config=a.toml: use an absolute path"),
        ] {
            let reason = parse(words).unwrap_err();
            assert!(reason.contains(expected), "{words}: {reason}");
        }
        assert!(parse("none /srv -s -o unknown=1").is_ok());
    }
}
