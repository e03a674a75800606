//! A panic ends the worker. Otherwise the request would be answered with EIO, which Odoo takes for the end of a session,
//! and a thread less would serve. A successor answers it instead; if it is the request itself, it fails at the third
//! try.

use std::panic::PanicHookInfo;

/// From now on, in all threads.
pub(super) fn end_process() {
    std::panic::set_hook(Box::new(|panic| {
        tell(panic);
        std::process::abort();
    }));
}

/// A message that was put together may contain what somebody has sent, a session id as well. So only a literal one is
/// shown.
fn tell(panic: &PanicHookInfo) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or_default();
    tracing::error!(place, message, "a panic: this worker ends, and another takes its place");
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_panic_ends_the_process_and_says_nothing_of_what_it_was_given() {
        const CHILD: &str = "SESSIONFS_TEST_PANICS";
        const NAME: &str =
            "worker::panic::tests::a_panic_ends_the_process_and_says_nothing_of_what_it_was_given";
        if std::env::var_os(CHILD).is_some() {
            crate::telemetry::log::init("error").unwrap();
            end_process();
            let given = String::from("somebody's cookie");
            let _ = std::thread::spawn(move || assert_eq!(given, "")).join();
            return;
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("a panic") && said.contains("panic.rs"), "{said}");
        assert!(!said.contains("cookie"), "{said}");
    }
}
