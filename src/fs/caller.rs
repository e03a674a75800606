//! The calling thread: which one it is, of which process, and whether that is a background process.
//!
//! Odoo's evented process (websockets, long polling) and its cron read sessions without a person
//! behind them. If that counted as activity, an open browser tab would keep a session alive for
//! ever. The same goes for requests that a browser sends by itself (`src/request.rs`).
//!
//! - [`background`]: by which command line such a process is known
//! - [`proc`]: what `/proc` shows of a process

mod background;
mod proc;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lru::LruCache;
use serde::{Deserialize, Serialize};

use self::background::Background;
pub use self::proc::{Proc, Processes};
use super::Settings;
use crate::request::Class;
use crate::request::word::{Word, Words};
use crate::sync::lock;
use crate::telemetry::Event;
use crate::telemetry::unidentified::Unidentified;

/// How long what was read in `/proc` is trusted. No thread id is given out again so soon.
const TRUSTED: Duration = Duration::from_secs(1);
/// How many threads are known at a time. One that is forgotten is read anew.
const MAX_KNOWN: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// The caller of a request, as the kernel names it.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The thread's id in our PID namespace; 0 for one that cannot be seen from it.
    pub tid: u32,
    pub uid: u32,
    /// Its request; `None` without a kernel.
    pub request: Option<Request>,
}

/// A request of the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Request {
    /// No other request of the mount has this number, whichever worker it goes to.
    pub number: u64,
    /// A worker that has died may have carried it out, and has not answered it.
    pub is_repeated: bool,
}

/// The caller of a request, identified once per request.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The thread's id as the kernel has named it; 0 for one that cannot be seen.
    pub tid: u32,
    pub uid: u32,
    /// The thread; `None` if it is in a PID namespace that cannot be seen from ours.
    pub thread: Option<ThreadId>,
    /// The thread's process; `None` if it cannot be seen.
    pub process: Option<ProcessId>,
    /// It acts for nobody. A thread that cannot be identified counts as a person: a session that
    /// lives too long is the lesser harm.
    pub background: bool,
    /// What is known of the HTTP request that the thread serves. It does not matter in a background process, which serves
    /// many in a thread.
    pub serves: Class,
    pub request: Option<Request>,
}

impl Identity {
    /// Whether what it does is activity of its session.
    pub(super) fn is_activity(self) -> bool {
        !self.background && !self.serves.is_passive()
    }

    /// Whether its request may have been carried out by a worker that has died.
    pub(super) fn is_repeated(self) -> bool {
        self.request.is_some_and(|request| request.is_repeated)
    }
}

/// Clock ticks are hundredths of a second on every architecture that is supported.
pub(super) const MS_PER_TICK: u64 = 10;

/// A thread. The kernel gives thread ids out again; the start time tells one from the next.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct ThreadId {
    tid: u32,
    /// Clock ticks since boot; `None` if `/proc` hides it.
    start_ticks: Option<u64>,
}

impl ThreadId {
    /// A number that no other thread has.
    pub(super) fn number(self) -> u64 {
        // No thread id has more than 22 bits (PID_MAX_LIMIT in include/linux/threads.h). The rest is enough for
        // thousands of years of ticks.
        const TICKS: u64 = (1 << 42) - 1;
        u64::from(self.tid) << 42 | self.start_ticks.map_or(TICKS, |ticks| ticks & TICKS)
    }
}

#[cfg(test)]
impl ThreadId {
    /// Some thread of that number.
    pub(super) const fn of_test(tid: u32) -> Self {
        Self { tid, start_ticks: Some(0) }
    }
}

/// A process, by its first thread.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ProcessId {
    pub tid: u32,
    /// When it began, in clock ticks since boot.
    pub start_ticks: u64,
}

/// Identifies callers, and remembers the answer for a moment.
pub(super) struct Callers {
    known: Mutex<LruCache<u32, Known>>,
    signs: Background,
    processes: Arc<dyn Processes>,
    requests: Option<Arc<dyn Words>>,
}

#[derive(Clone, Copy)]
struct Known {
    start_ticks: u64,
    process: Option<ProcessId>,
    background: bool,
    checked: Instant,
}

impl Callers {
    /// With the configured signs of a background process.
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            known: Mutex::new(LruCache::new(MAX_KNOWN)),
            signs: Background::new(&settings.background_argv, &settings.background_titles),
            processes: Arc::clone(&settings.processes),
            requests: settings.requests.clone(),
        }
    }

    pub(super) fn identify(&self, Caller { tid, uid, request }: Caller) -> Identity {
        if tid == 0 {
            let (background, serves) = (false, Class::Unknown);
            return Identity { tid, uid, thread: None, process: None, background, serves, request };
        }
        let known = self.known(tid);
        Identity {
            tid,
            uid,
            thread: Some(ThreadId { tid, start_ticks: known.map(|known| known.start_ticks) }),
            process: known.and_then(|known| known.process),
            background: known.is_some_and(|known| known.background),
            serves: known.map_or(Class::Unknown, |known| self.serves(tid, known)),
            request,
        }
    }

    /// What is known of the request that a thread serves. Makes no system call.
    fn serves(&self, tid: u32, known: Known) -> Class {
        let Some(requests) = &self.requests else { return Class::Unknown };
        let word = Word::new(requests.at(Word::slot(tid)));
        word.class(tid, known.start_ticks, || self.processes.now_ticks())
    }

    pub(super) fn now(&self) -> Instant {
        self.processes.now()
    }

    /// Now, in clock ticks since boot, by which processes tell when they began.
    pub(super) fn now_ticks(&self) -> u64 {
        self.processes.now_ticks()
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
        let known = Known {
            start_ticks,
            process: self.process(tid, start_ticks),
            background: self.processes.cmdline(tid).is_some_and(|cmdline| self.signs.is(&cmdline)),
            checked,
        };
        lock(&self.known).put(tid, known);
        Some(known)
    }

    fn process(&self, tid: u32, start_ticks: u64) -> Option<ProcessId> {
        let first = self.processes.process(tid)?;
        let start_ticks =
            if first == tid { start_ticks } else { self.processes.start_ticks(first)? };
        Some(ProcessId { tid: first, start_ticks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callers() -> Callers {
        Callers::new(&Settings::default())
    }

    fn caller(tid: u32) -> Caller {
        Caller { tid, uid: 0, request: None }
    }

    #[test]
    fn this_thread_is_found_and_a_foreign_one_is_a_person() {
        let tid = std::process::id();
        assert!(Proc::default().start_ticks(tid).is_some());
        let found = callers().identify(caller(tid));
        assert!(!found.background);
        assert_eq!(found.process.map(|process| process.tid), Some(tid));
        assert!(!callers().identify(caller(0)).background);
    }

    /// The word of one thread, wherever it is looked for.
    #[derive(Debug)]
    struct Said(u64);

    impl Words for Said {
        fn at(&self, _: usize) -> u64 {
            self.0
        }
    }

    #[test]
    fn a_request_that_a_browser_sends_by_itself_is_no_activity_and_shares_its_thread_with_none() {
        let tid = std::process::id();
        let now = Proc::default().now_ticks();
        let said = |class: Class| u64::from(tid) << 42 | (class as u64) << 34 | now;
        for (class, is_activity) in [
            (Class::Unknown, true),
            (Class::Active, true),
            (Class::Passive, false),
            (Class::Held, false),
        ] {
            let requests: Option<Arc<dyn Words>> = Some(Arc::new(Said(said(class))));
            let callers = Callers::new(&Settings { requests, ..Settings::default() });
            let found = callers.identify(caller(tid));
            assert_eq!((found.serves, found.is_activity()), (class, is_activity));
            assert!(!found.background);
            // Nobody knows of a thread that cannot be seen.
            assert!(callers.identify(caller(0)).is_activity());
        }
        let background = Settings { background_titles: vec![String::new()], ..Settings::default() };
        assert!(!Callers::new(&background).identify(caller(tid)).is_activity());
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
