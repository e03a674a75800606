//! Who a calling thread is, and whether it acts for a person.
//!
//! Odoo's evented process (websockets, long polling) and its cron read sessions without a human
//! behind them; if that counted as activity, an open browser tab would keep a session alive for
//! ever. Nothing outside this file knows how the question is answered.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::{Settings, lock};
use crate::telemetry::Event;
use crate::telemetry::unidentified::Unidentified;

/// How long what was read in `/proc` is trusted. A thread id is not given out again so soon.
const TRUSTED: Duration = Duration::from_secs(1);
/// How many threads are known at a time.
const MAX_KNOWN: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// How much of a command line is looked at.
const MAX_CMDLINE_BYTES: usize = 4096;

/// The threads seen lately.
pub struct Callers {
    known: Mutex<LruCache<u32, Known>>,
    background_argv: Vec<Vec<u8>>,
    background_titles: Vec<Vec<u8>>,
}

#[derive(Clone, Copy)]
struct Known {
    /// Clock ticks since boot at which the thread began; tells a reused id from the old thread.
    start_ticks: u64,
    checked: Instant,
    background: bool,
}

impl Callers {
    /// With the configured signs of a background caller.
    pub fn new(settings: &Settings) -> Self {
        let bytes = |list: &[String]| list.iter().map(|s| s.clone().into_bytes()).collect();
        Self {
            known: Mutex::new(LruCache::new(MAX_KNOWN)),
            background_argv: bytes(&settings.background_argv),
            background_titles: bytes(&settings.background_titles),
        }
    }

    /// Whether this thread acts for no person. One that cannot be looked at counts as a person:
    /// a session that lives too long is the lesser harm. That it could not is told.
    pub fn is_background(&self, tid: u32) -> bool {
        let known = self.identify(tid).0;
        if known.is_none()
            && let Some(why) = unidentified(tid)
        {
            Event::UnidentifiedCaller { why }.emit();
        }
        known.is_some_and(|known| known.background)
    }

    /// Whether this id belongs to another thread than when it was last asked about.
    pub fn is_new(&self, tid: u32) -> bool {
        self.identify(tid).1
    }

    fn identify(&self, tid: u32) -> (Option<Known>, bool) {
        if tid == 0 {
            return (None, false);
        }
        let before = lock(&self.known).get(&tid).copied();
        if let Some(known) = before.filter(|known| known.checked.elapsed() < TRUSTED) {
            return (Some(known), false);
        }
        let Some(start_ticks) = start_ticks(tid) else { return (None, false) };
        let known =
            Known { start_ticks, checked: Instant::now(), background: self.reads_background(tid) };
        lock(&self.known).put(tid, known);
        (Some(known), before.is_some_and(|before| before.start_ticks != start_ticks))
    }

    fn reads_background(&self, tid: u32) -> bool {
        let Ok(mut cmdline) = std::fs::read(format!("/proc/{tid}/cmdline")) else { return false };
        cmdline.truncate(MAX_CMDLINE_BYTES);
        self.is_background_cmdline(&cmdline)
    }

    /// `setproctitle` writes the title over the arguments, so both are read from one place.
    fn is_background_cmdline(&self, cmdline: &[u8]) -> bool {
        self.background_titles.iter().any(|title| cmdline.starts_with(title))
            || cmdline.split(|&byte| byte == 0).any(|argument| {
                self.background_argv.iter().any(|background| background == argument)
            })
    }
}

/// Why this thread could not be identified; nothing if it has only ended meanwhile.
fn unidentified(tid: u32) -> Option<Unidentified> {
    // There always is a process 1, and everybody may see it, unless processes are hidden.
    match tid {
        0 => Some(Unidentified::PidNamespace),
        _ if start_ticks(1).is_none() => Some(Unidentified::Hidden),
        _ => None,
    }
}

/// Field 22 of `/proc/<tid>/stat` (proc(5)), counted after the command's closing parenthesis
/// because the command may hold spaces and parentheses itself.
fn start_ticks(tid: u32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{tid}/stat")).ok()?;
    let after = stat.iter().rposition(|&byte| byte == b')')? + 1;
    std::str::from_utf8(&stat[after..]).ok()?.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callers() -> Callers {
        Callers::new(&Settings::default())
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
        assert!(start_ticks(tid).is_some());
        assert!(!callers().is_background(tid));
        assert!(!callers().is_background(0));
    }

    #[test]
    fn a_thread_that_has_ended_is_no_foreign_one() {
        let gone = std::thread::spawn(|| nix::unistd::gettid().as_raw()).join().unwrap();
        assert_eq!(unidentified(u32::try_from(gone).unwrap()), None);
        assert_eq!(unidentified(0), Some(Unidentified::PidNamespace));
    }
}
