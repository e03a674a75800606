//! The `sessionfs` command.

use std::process::{ExitCode, Termination};

use sessionfs::cli::mount_helper;

fn main() -> ExitCode {
    if let Some(arguments) = mount_helper::arguments() {
        return mount_helper::run(arguments);
    }
    match sessionfs::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            sessionfs::cli::complain(&failure);
            failure.report()
        }
    }
}
