//! The `sessionfs` command.

use std::process::{ExitCode, Termination};

use sessionfs::cli::mount_helper;

fn main() -> ExitCode {
    // Otherwise one that is executed by a descriptor has its number for a name.
    let _ = nix::sys::prctl::set_name(c"sessionfs");
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
