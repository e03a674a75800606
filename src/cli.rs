//! The command line: what can be asked for. One file per command.

mod bench;
mod humane;
mod mount;
mod output;
mod place;
mod reload;
mod status;
mod unmount;
mod worker;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::exit::{ExitCode, Failure};

/// Odoo's session directory as a filesystem: every session is a Redis key.
#[derive(Debug, Parser)]
#[command(name = "sessionfs", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Args),
    Mount(mount::Mount),
    Reload(reload::Reload),
    Status(status::Status),
    Unmount(unmount::Unmount),
    #[command(hide = true)]
    Worker(worker::Worker),
}

/// Does what the command line asks for.
pub fn run() -> Result<(), Failure> {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    match arguments.command {
        Command::Bench(bench) => bench.run(),
        Command::Mount(mount) => mount.run(),
        Command::Reload(reload) => reload.run(),
        Command::Status(status) => status.run(),
        Command::Unmount(unmount) => unmount.run(),
        Command::Worker(worker) => worker.run(),
    }
}

/// Help and version are answers; anything else is told in one line, like every failure.
fn refuse(error: &clap::Error) -> Result<(), Failure> {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return error.print().map_err(|e| Failure::internal("print", e));
    }
    let text = error.to_string();
    let said = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "no command is given".to_owned(),
        _ => text.strip_prefix("error: ").unwrap_or(&text).replace("\n\n", "; "),
    };
    let reason = said.split("; Usage:").next().unwrap_or_default();
    Err(Failure::new(ExitCode::Usage, format!("{reason}; see 'sessionfs --help'")))
}
