//! The `sessionfs` command.

use std::process::{ExitCode, Termination};

fn main() -> ExitCode {
    match sessionfs::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("sessionfs: {failure}");
            failure.report()
        }
    }
}
