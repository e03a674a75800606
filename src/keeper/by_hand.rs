//! What is said to a person who mounts by hand: what to do now, and how the directory is given back.
//!
//! A service manager needs none of it: there the installer has noted the way back.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::config::flags::Flags;
use crate::host::service_manager::Manager;
use crate::shell;
use crate::telemetry::log;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Caller {
    /// A person at a shell, unless a service manager has started us.
    Command,
    /// `mount(8)`: the daemon has no terminal.
    MountHelper,
}

/// The words for one mount.
#[derive(Debug)]
pub(super) struct ByHand {
    program: String,
    options: String,
    mountpoint: String,
    give_back: String,
    private_redis: Option<PathBuf>,
}

impl ByHand {
    /// Looks at the directory before it is mounted on. `None` where no person reads the words.
    pub(super) fn look(caller: Caller, config: &Config, flags: &Flags) -> Option<Self> {
        let is_service = Manager::is_there() || log::goes_to_journal();
        if caller == Caller::MountHelper || is_service {
            return None;
        }
        let mountpoint = shell_word(&config.mountpoint);
        let place = &flags.place;
        let file = place.config.as_deref().map(|file| option_word("--config", file));
        let redis = place.redis.as_deref().map(|url| option_word("--redis", Path::new(url)));
        let (file, redis) = (file.unwrap_or_default(), redis.unwrap_or_default());
        let program = program();
        Some(Self {
            give_back: format!("{program} release{file}{} {mountpoint}", otherwise(flags)),
            options: file + &redis,
            program,
            mountpoint,
            private_redis: config.private_redis.as_ref().map(|private| private.dir.clone()),
        })
    }

    /// The mount serves: three lines.
    pub(super) fn ready(&self) {
        let Self { program, options, mountpoint, give_back, .. } = self;
        say(&format!(
            "  list:          {program} list{options}   (in another terminal)\n  stop it:       \
             Ctrl-C, or {program} unmount {mountpoint}\n  undo:          after it has stopped, \
             {give_back}\n"
        ));
    }

    /// It has ended in order: what the directory is now, and the way back.
    pub(super) fn ended(&self) {
        let Self { mountpoint, give_back, .. } = self;
        let mut text = format!(
            "{mountpoint} now belongs to root, with mode 0000, so that Odoo cannot save sessions \
             to this disk unnoticed.\n  undo:      {give_back}\n"
        );
        if let Some(dir) = &self.private_redis {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  sessions:  kept in {0} for the next mount; rm -r {0} deletes them",
                shell_word(dir)
            );
        }
        say(&text);
    }
}

/// The terminal may have gone.
fn say(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// The options that `release` needs where the directory does not tell whose it was.
fn otherwise(flags: &Flags) -> String {
    let given = [("--owner", &flags.owner), ("--group", &flags.group), ("--mode", &flags.mode)];
    given
        .into_iter()
        .filter_map(|(option, value)| {
            value.as_ref().map(|value| option_word(option, Path::new(value)))
        })
        .collect()
}

/// An option with its value, to follow a command.
fn option_word(option: &str, value: &Path) -> String {
    format!(" {option} {}", shell_word(value))
}

/// How this program is called again: by the name that it was called by, if that is no path.
fn program() -> String {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    match std::env::current_exe() {
        Ok(path) if called.components().count() > 1 => shell_word(&path),
        _ => shell_word(&called),
    }
}

/// A path as one word of a shell.
fn shell_word(path: &Path) -> String {
    shell::word(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        for path in ["/srv/sessions", "/opt/odoo 17/sessions", "/a'b$(c)", ""] {
            let command = format!("printf %s {}", shell_word(Path::new(path)));
            let said = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&said.stdout), path);
        }
        assert_eq!(shell_word(Path::new("/srv/sessions")), "/srv/sessions");
    }
}
