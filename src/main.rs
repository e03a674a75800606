//! The `sessionfs` command.

use std::io::Write;
use std::process::{ExitCode, Termination};

use sessionfs::cli::mount_helper;

fn main() -> ExitCode {
    if let Some(arguments) = mount_helper::arguments() {
        return mount_helper::run(arguments);
    }
    match sessionfs::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody may be reading; the exit code says it, too.
            let _ = writeln!(std::io::stderr(), "sessionfs: {failure}");
            failure.report()
        }
    }
}
