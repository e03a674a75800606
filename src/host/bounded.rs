//! Work that may never end: a filesystem or a directory service that does not answer holds a thread of its own alone.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Works on a thread of this name, and waits for that no longer than the bound: `None` if it is not done by then. Fails if
/// there can be no thread.
pub(crate) fn within<T: Send + 'static>(
    name: &str,
    bound: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (tell, told) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name(name.into()).spawn(move || {
        // Perhaps nobody listens any more.
        let _ = tell.send(work());
    })?;
    let outcome = told.recv_timeout(bound).ok();
    if outcome.is_some() {
        // It has nothing left to do, and is no further thread of this process from now on.
        let _ = thread.join();
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_end_is_given_up() {
        assert_eq!(within("quick", Duration::from_secs(60), || 7).unwrap(), Some(7));
        let (go_on, held) = mpsc::channel::<()>();
        assert_eq!(within("held", Duration::from_millis(1), move || held.recv()).unwrap(), None);
        drop(go_on);
    }
}
