//! The processes of a host as a test wants them, with a clock that stands still.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sessionfs::fs::caller::Processes;

/// When the directory was mounted, on the clock by which processes begin.
const MOUNTED_TICKS: u64 = 1000;

/// Every thread is visible, the only one of its process, began after the mount, and is Odoo's HTTP
/// worker, unless a test says otherwise. Clones share it.
#[derive(Clone, Debug)]
pub struct Host(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    now: Instant,
    /// Since the directory was mounted.
    passed: Duration,
    hidden: bool,
    processes: BTreeMap<u32, u32>,
    start_ticks: BTreeMap<u32, u64>,
    cmdlines: BTreeMap<u32, Vec<u8>>,
    /// How often `/proc` was read.
    reads: u64,
}

impl Host {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            now: Instant::now(),
            passed: Duration::ZERO,
            hidden: false,
            processes: BTreeMap::new(),
            start_ticks: BTreeMap::new(),
            cmdlines: BTreeMap::new(),
            reads: 0,
        })))
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().expect("no test panics with it"))
    }

    pub fn pass(&self, time: Duration) {
        self.with(|state| {
            state.now += time;
            state.passed += time;
        });
    }

    /// The thread has ended, and another one has its id.
    pub fn reuse(&self, tid: u32) {
        self.with(|state| *state.start_ticks.entry(tid).or_insert(MOUNTED_TICKS + 1) += 1);
    }

    pub fn set_cmdline(&self, tid: u32, cmdline: &[u8]) {
        self.with(|state| state.cmdlines.insert(tid, cmdline.to_vec()));
    }

    /// The thread is one of that process.
    pub fn set_process(&self, tid: u32, process: u32) {
        self.with(|state| state.processes.insert(tid, process));
    }

    /// The thread's process began before the directory was mounted.
    pub fn set_old(&self, tid: u32) {
        self.with(|state| state.start_ticks.insert(tid, MOUNTED_TICKS));
    }

    /// No process can be seen, as with hidepid.
    pub fn hide(&self) {
        self.with(|state| state.hidden = true);
    }

    pub fn reads(&self) -> u64 {
        self.with(|state| state.reads)
    }
}

impl Processes for Host {
    fn start_ticks(&self, tid: u32) -> Option<u64> {
        self.with(|state| {
            state.reads += 1;
            let ticks = state.start_ticks.get(&tid).copied().unwrap_or(MOUNTED_TICKS + 1);
            (!state.hidden).then_some(ticks)
        })
    }

    fn process(&self, tid: u32) -> Option<u32> {
        self.with(|state| {
            let process = state.processes.get(&tid).copied().unwrap_or(tid);
            (!state.hidden).then_some(process)
        })
    }

    fn cmdline(&self, tid: u32) -> Option<Vec<u8>> {
        self.with(|state| {
            let cmdline = state.cmdlines.get(&tid).cloned();
            (!state.hidden).then(|| cmdline.unwrap_or_else(|| b"odoo: WorkerHTTP".to_vec()))
        })
    }

    fn now_ticks(&self) -> u64 {
        const MS_PER_TICK: u64 = 10;
        let passed = self.with(|state| state.passed);
        MOUNTED_TICKS + u64::try_from(passed.as_millis()).expect("a short time") / MS_PER_TICK
    }

    fn now(&self) -> Instant {
        self.with(|state| state.now)
    }
}
