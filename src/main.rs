//! The `sessionfs` command.

use std::io::Write;
use std::process::{ExitCode, Termination};

fn main() -> ExitCode {
    match sessionfs::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody may be reading; the exit code says it, too.
            let _ = writeln!(std::io::stderr(), "sessionfs: {failure}");
            failure.report()
        }
    }
}
