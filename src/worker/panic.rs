//! A panic ends the worker. Otherwise the request would be answered with EIO, which Odoo takes for the end of a session,
//! and a thread less would serve. A successor answers it instead; if it is the request itself, it fails at the third
//! try. What a worker can do without (the status, the metrics, the mirror) ends alone: otherwise something that panics
//! whenever it is begun would take the mount with it.

use std::panic::PanicHookInfo;

use crate::sync::is_optional;

/// From now on, in all threads, but not for [`crate::sync::optional`] work.
pub(super) fn end_process() {
    std::panic::set_hook(Box::new(|panic| {
        if is_optional() {
            tell(panic, "a panic: this part of the worker is off until its next start");
        } else {
            tell(panic, "a panic: this worker ends, and another takes its place");
            std::process::abort();
        }
    }));
}

/// A message that was put together may contain what somebody has sent, a session id as well. So only a literal one is
/// shown.
fn tell(panic: &PanicHookInfo, what: &str) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or_default();
    tracing::error!(place, message, "{what}");
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
            // That part ends alone.
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let optional = crate::sync::optional(async { panic!("of no use") });
            let ended = runtime.block_on(async { tokio::spawn(optional).await });
            let ended: Result<(), _> = ended;
            assert!(ended.unwrap_err().is_panic() && !is_optional());
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
        assert!(said.contains("of no use"), "{said}");
        assert!(!said.contains("cookie"), "{said}");
    }
}
