//! The command line: what can be asked for. One file per command.

mod audit;
mod bench;
mod check;
mod completions;
mod config;
mod demo;
mod discover;
mod disk;
mod guard;
mod import;
mod kill;
mod list;
mod loader;
mod man;
mod mount;
pub mod mount_helper;
mod mountpoint;
mod observe;
mod output;
mod parameters;
mod probe;
mod prober;
mod redis;
mod redis_acl;
mod release;
mod reload;
mod report;
mod secret;
mod sessions;
mod show;
mod status;
mod system_log;
mod unmount;
mod worker;

use std::io::Write as _;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use crate::exit::{ExitCode, Failure};
use crate::telemetry::log::goes_to_journal;

/// Odoo's session directory as a filesystem: every session is a Redis key.
#[derive(Debug, Parser)]
#[command(name = "sessionfs", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Audit(audit::Audit),
    Bench(bench::Args),
    Check(check::Check),
    Completions(completions::Completions),
    Config(config::Config),
    Demo(demo::Demo),
    Discover(discover::Discover),
    #[command(hide = true)]
    Disk(disk::Disk),
    #[command(hide = true)]
    Guard(guard::Guard),
    Import(import::Import),
    Kill(kill::Kill),
    List(list::List),
    #[command(hide = true)]
    Loader(loader::Loader),
    #[command(hide = true)]
    Parameters(parameters::Parameters),
    Man(man::Man),
    Mount(mount::Mount),
    Observe(observe::Observe),
    #[command(hide = true)]
    Probe(probe::Probe),
    #[command(hide = true)]
    Prober(prober::Prober),
    RedisAcl(redis_acl::RedisAcl),
    Release(release::Release),
    Reload(reload::Reload),
    Report(report::Report),
    Secret(secret::SecretCommand),
    Show(show::Show),
    Status(status::Status),
    Unmount(unmount::Unmount),
    #[command(hide = true)]
    Worker(worker::Worker),
}

/// The whole table.
fn table() -> clap::Command {
    Arguments::command()
}

/// The table of all that a person may ask for: what the manual and the completions are made from.
fn public_table() -> clap::Command {
    let all = table();
    // A command cannot be taken out of a table.
    clap::Command::new("sessionfs")
        .version(env!("CARGO_PKG_VERSION"))
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .subcommand_required(true)
        .subcommands(all.get_subcommands().filter(|command| !command.is_hide_set()).cloned())
}

/// Says on standard error, in one line, why a command fails. In the journal that is an error.
pub fn complain(failure: &Failure) {
    let priority = if goes_to_journal() { "<3>" } else { "" };
    // Nobody may be reading; the exit code says it, too.
    let _ = writeln!(std::io::stderr(), "{priority}sessionfs: {failure}");
}

/// Does what the command line asks for.
pub fn run() -> Result<(), Failure> {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    match arguments.command {
        Command::Audit(audit) => audit.run(),
        Command::Bench(bench) => bench.run(),
        Command::Check(check) => check.run(),
        Command::Completions(completions) => completions.run(),
        Command::Config(config) => config.run(),
        Command::Demo(demo) => demo.run(),
        Command::Discover(discover) => discover.run(),
        Command::Disk(disk) => disk.run(),
        Command::Guard(guard) => guard.run(),
        Command::Import(import) => import.run(),
        Command::Kill(kill) => kill.run(),
        Command::List(list) => list.run(),
        Command::Loader(loader) => loader.run(),
        Command::Parameters(parameters) => parameters.run(),
        Command::Man(man) => man.run(),
        Command::Mount(mount) => mount.run(),
        Command::Observe(observe) => observe.run(),
        Command::Probe(probe) => probe.run(),
        Command::Prober(prober) => prober.run(),
        Command::RedisAcl(redis_acl) => redis_acl.run(),
        Command::Release(release) => release.run(),
        Command::Reload(reload) => reload.run(),
        Command::Report(report) => report.run(),
        Command::Secret(secret) => secret.run(),
        Command::Show(show) => show.run(),
        Command::Status(status) => status.run(),
        Command::Unmount(unmount) => unmount.run(),
        Command::Worker(worker) => worker.run(),
    }
}

/// Help and version are answers; anything else is reported in one line, like every failure, and where
/// the command's own help is.
fn refuse(error: &clap::Error) -> Result<(), Failure> {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return error.print().map_err(|e| Failure::internal("print", e));
    }
    let text = error.to_string();
    let said = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "no command is given",
        _ => text.strip_prefix("error: ").unwrap_or(&text),
    };
    let said: Vec<&str> = said
        .split("\n\n")
        .take_while(|part| !part.starts_with("Usage:") && !part.starts_with("For more information"))
        .map(str::trim)
        .collect();
    let command = named(std::env::args().skip(1));
    Err(Failure::new(ExitCode::Usage, format!("{}; see '{command} --help'", said.join("; "))))
}

/// The command that these arguments name, as far as they do: `sessionfs config get`.
fn named(arguments: impl Iterator<Item = String>) -> String {
    let mut command = table();
    let mut words = vec!["sessionfs".to_owned()];
    for argument in arguments {
        let Some(found) = command.find_subcommand(&argument).cloned() else { break };
        words.push(argument);
        command = found;
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_is_meant_is_named() {
        let said = |line: &str| named(line.split(' ').map(ToOwned::to_owned));
        assert_eq!(said("list --sort foo"), "sessionfs list");
        assert_eq!(said("config"), "sessionfs config");
        assert_eq!(said("config set lifetime.idle"), "sessionfs config set");
        assert_eq!(said("lst"), "sessionfs");
    }

    /// An alias is base64url. No option of these commands has one letter but `-h`.
    #[test]
    fn an_alias_may_begin_with_a_hyphen() {
        let alias = |line: &str| {
            let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
            format!("{:?}", arguments.command)
        };
        for alias_of in ["-a", "-_x9", "-hello", "--", "-----", "--Yes", "--json-"] {
            for line in [
                format!("sessionfs show {alias_of}0 --json"),
                format!("sessionfs list --json {alias_of}0"),
                format!("sessionfs kill {alias_of}0 --yes"),
                format!("sessionfs kill --yes -- {alias_of}0"),
            ] {
                let parsed = alias(&line);
                assert!(parsed.contains(&format!("alias: Some(\"{alias_of}0\")")), "{parsed}");
            }
        }
        // An option that does not exist is not an alias.
        for line in ["kill --frob", "show --frob", "list --all-of-them", "kill -- --frob"] {
            let arguments = format!("sessionfs {line}");
            let refused = Arguments::try_parse_from(arguments.split(' ')).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ValueValidation, "{line}");
        }
        assert!(alias("sessionfs kill --all --yes").contains("alias: None"));
    }
}
