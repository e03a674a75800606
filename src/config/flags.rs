//! What the command line says about the configuration, as written.

use std::ffi::OsString;
use std::path::PathBuf;

/// Where the sessions are: the flags of every command that talks to Redis.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Place {
    /// URL of Redis: `redis://`, `rediss://`, `unix:`, `redis-sentinel://` or `redis-cluster://`
    /// (default: the private Redis)
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// Configuration file (default: /etc/sessionfs/sessionfs.toml, if it exists)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The flags of `mount`. Each overrides the key of the same meaning in the file.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Flags {
    /// Redis and file.
    #[command(flatten)]
    pub place: Place,
    /// Owner of the tree: Odoo's user (default: `odoo`, or root where there is no such user)
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
    /// Group of the tree (default: the owner's own group)
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Permission bits of the root directory, in octal (default: 0700)
    #[arg(long, value_name = "OCTAL")]
    pub mode: Option<String>,
    /// Also write each session to a plain file in DIR when it is used, for a rollback
    #[arg(long, value_name = "DIR")]
    pub mirror: Option<PathBuf>,
    /// Import no session file whose last save is longer ago, such as `30days` (default: the file's
    /// `import.max_age`, else `7days`)
    #[arg(long, value_name = "DURATION")]
    pub import_max_age: Option<String>,
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or a list such as
    /// `info,sessionfs::fs=debug` (default: `$SESSIONFS_LOG`, else the file's `log`, else `info`)
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

impl Flags {
    /// The words of a command line that says the same.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let Self { place, owner, group, mode, mirror, import_max_age, log } = self;
        let Place { redis, config } = place;
        let words = [
            ("--redis", redis),
            ("--owner", owner),
            ("--group", group),
            ("--mode", mode),
            ("--import-max-age", import_max_age),
            ("--log", log),
        ];
        let words = words.map(|(flag, word)| (flag, word.as_ref().map(OsString::from)));
        let paths = [("--config", config), ("--mirror", mirror)];
        let paths = paths.map(|(flag, path)| (flag, path.as_ref().map(OsString::from)));
        let given = words.into_iter().chain(paths);
        // In one word: a value may begin with a hyphen.
        given
            .filter_map(|(flag, value)| {
                let mut argument = OsString::from(flag);
                argument.push("=");
                argument.push(value?);
                Some(argument)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        flags: Flags,
    }

    #[test]
    fn its_arguments_are_understood_as_the_same() {
        let flags = Flags {
            place: Place { redis: Some("unix:/r".into()), config: Some("a b".into()) },
            owner: Some("-x".into()),
            group: Some("g".into()),
            mode: Some("0750".into()),
            mirror: Some("/m".into()),
            import_max_age: Some("1days".into()),
            log: Some("a=b,c".into()),
        };
        for flags in [flags, Flags::default()] {
            let arguments = [vec!["sessionfs".into()], flags.arguments()].concat();
            let parsed = <Command as clap::Parser>::parse_from(arguments).flags;
            assert_eq!(format!("{parsed:?}"), format!("{flags:?}"));
        }
    }
}
