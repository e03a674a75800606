//! The calling thread: which one it is, and whether it is a background process.
//!
//! Odoo's evented process (websockets, long polling) and its cron read sessions without a person
//! behind them. If that counted as activity, an open browser tab would keep a session alive for
//! ever.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::Settings;
use crate::sync::lock;
use crate::telemetry::Event;
use crate::telemetry::unidentified::Unidentified;

/// How long what was read in `/proc` is trusted. No thread id is given out again so soon.
const TRUSTED: Duration = Duration::from_secs(1);
/// How many threads are known at a time. One that is forgotten is read anew.
const MAX_KNOWN: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
const MAX_CMDLINE_BYTES: usize = 4096;

/// The caller of a request, as the kernel names it.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The thread's id in our PID namespace; 0 for one that cannot be seen from it.
    pub tid: u32,
    pub uid: u32,
}

/// The caller of a request, identified once per request.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub uid: u32,
    /// The thread; `None` if it is in a PID namespace that cannot be seen from ours.
    pub thread: Option<ThreadId>,
    /// It acts for nobody. A thread that cannot be identified counts as a person: a session that
    /// lives too long is the lesser harm.
    pub background: bool,
}

/// A thread. The kernel gives thread ids out again; the start time tells one from the next.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ThreadId {
    tid: u32,
    /// Clock ticks since boot; `None` if `/proc` hides it.
    start_ticks: Option<u64>,
}

/// The processes of this host, and the clock.
pub trait Processes: fmt::Debug + Send + Sync {
    /// When a thread began, in clock ticks since boot; `None` if it cannot be seen.
    fn start_ticks(&self, tid: u32) -> Option<u64>;

    /// The command line of a thread's process, or the title that it has set.
    fn cmdline(&self, tid: u32) -> Option<Vec<u8>>;

    fn now(&self) -> Instant;
}

/// Those that `/proc` shows.
#[derive(Debug)]
pub struct Proc;

impl Processes for Proc {
    /// Field 22 of `/proc/<tid>/stat` (proc(5)), counted after the command's closing parenthesis
    /// because the command may hold spaces and parentheses itself.
    fn start_ticks(&self, tid: u32) -> Option<u64> {
        let stat = std::fs::read(format!("/proc/{tid}/stat")).ok()?;
        let after = stat.iter().rposition(|&byte| byte == b')')? + 1;
        std::str::from_utf8(&stat[after..]).ok()?.split_ascii_whitespace().nth(19)?.parse().ok()
    }

    fn cmdline(&self, tid: u32) -> Option<Vec<u8>> {
        std::fs::read(format!("/proc/{tid}/cmdline")).ok()
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// Identifies callers, and remembers the answer for a moment.
pub(super) struct Callers {
    known: Mutex<LruCache<u32, Known>>,
    background_argv: Vec<Vec<u8>>,
    background_titles: Vec<Vec<u8>>,
    processes: Arc<dyn Processes>,
}

#[derive(Clone, Copy)]
struct Known {
    start_ticks: u64,
    background: bool,
    checked: Instant,
}

impl Callers {
    /// With the configured signs of a background process.
    pub(super) fn new(settings: &Settings) -> Self {
        let bytes = |list: &[String]| list.iter().map(|s| s.clone().into_bytes()).collect();
        Self {
            known: Mutex::new(LruCache::new(MAX_KNOWN)),
            background_argv: bytes(&settings.background_argv),
            background_titles: bytes(&settings.background_titles),
            processes: Arc::clone(&settings.processes),
        }
    }

    pub(super) fn identify(&self, Caller { tid, uid }: Caller) -> Identity {
        if tid == 0 {
            return Identity { uid, thread: None, background: false };
        }
        let known = self.known(tid);
        Identity {
            uid,
            thread: Some(ThreadId { tid, start_ticks: known.map(|known| known.start_ticks) }),
            background: known.is_some_and(|known| known.background),
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.processes.now()
    }

    /// Reports a caller that could not be identified.
    pub(super) fn report_unidentified(&self, by: Identity) {
        if let Some(why) = self.unidentified(by) {
            Event::UnidentifiedCaller { why }.emit();
        }
    }

    /// Why this caller could not be identified; `None` if it has only ended meanwhile.
    fn unidentified(&self, by: Identity) -> Option<Unidentified> {
        match by.thread {
            None => Some(Unidentified::PidNamespace),
            // There always is a process 1, and everybody may see it, unless processes are hidden.
            Some(ThreadId { start_ticks: None, .. }) if self.processes.start_ticks(1).is_none() => {
                Some(Unidentified::Hidden)
            }
            Some(_) => None,
        }
    }

    fn known(&self, tid: u32) -> Option<Known> {
        let checked = self.processes.now();
        let before = lock(&self.known).get(&tid).copied();
        if let Some(known) = before.filter(|known| checked - known.checked < TRUSTED) {
            return Some(known);
        }
        let start_ticks = self.processes.start_ticks(tid)?;
        let background = self.processes.cmdline(tid).is_some_and(|mut cmdline| {
            cmdline.truncate(MAX_CMDLINE_BYTES);
            self.is_background_cmdline(&cmdline)
        });
        let known = Known { start_ticks, background, checked };
        lock(&self.known).put(tid, known);
        Some(known)
    }

    /// `setproctitle` writes the title over the arguments, so both are read from one place.
    fn is_background_cmdline(&self, cmdline: &[u8]) -> bool {
        self.background_titles.iter().any(|title| cmdline.starts_with(title))
            || cmdline.split(|&byte| byte == 0).any(|argument| {
                self.background_argv.iter().any(|background| background == argument)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callers() -> Callers {
        Callers::new(&Settings::default())
    }

    fn caller(tid: u32) -> Caller {
        Caller { tid, uid: 0 }
    }

    #[test]
    fn evented_and_cron_processes_act_for_no_person() {
        let callers = callers();
        assert!(callers.is_background_cmdline(b"/usr/bin/python3\0/usr/bin/odoo\0gevent\0-c\0x\0"));
        assert!(callers.is_background_cmdline(b"odoo: WorkerCron 812 shop\0"));
    }

    #[test]
    fn workers_and_lookalikes_act_for_a_person() {
        let callers = callers();
        assert!(!callers.is_background_cmdline(b"odoo: WorkerHTTP 812 \0"));
        assert!(
            !callers.is_background_cmdline(b"/usr/bin/python3\0/usr/bin/odoo\0-d\0gevent-shop\0")
        );
    }

    #[test]
    fn this_thread_is_found_and_a_foreign_one_is_a_person() {
        let tid = std::process::id();
        assert!(Proc.start_ticks(tid).is_some());
        assert!(!callers().identify(caller(tid)).background);
        assert!(!callers().identify(caller(0)).background);
    }

    #[test]
    fn a_thread_that_has_ended_is_no_foreign_one() {
        let callers = callers();
        let gone = std::thread::spawn(|| nix::unistd::gettid().as_raw()).join().unwrap();
        let gone = callers.identify(caller(u32::try_from(gone).unwrap()));
        assert_eq!(callers.unidentified(gone), None);
        let foreign = callers.identify(caller(0));
        assert_eq!(callers.unidentified(foreign), Some(Unidentified::PidNamespace));
    }
}
