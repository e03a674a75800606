//! The BPF program that sees which requests Odoo serves. The keeper holds what the loader has made, so it outlives the
//! workers; nothing of it is pinned, and all is gone with the keeper.

use std::cell::{Cell, OnceCell};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use super::program::Program;
use crate::bpf::{Error, Step};
use crate::config::{Config, Requests as Settings};
use crate::loader::{LOADED_WITHIN_WHILE_MOUNTED, Loaded, Loading};
use crate::request::State;

/// What runs for one configuration. Copies share it, and it ends with the last one.
#[derive(Clone)]
pub(super) struct Requests {
    settings: Option<Settings>,
    shared: Rc<Shared>,
}

struct Shared {
    /// Until somebody has waited for it.
    loading: Cell<Option<Result<Loading, Error>>>,
    /// What ran for the same settings, until then.
    before: Cell<Option<Rc<Loaded>>>,
    /// `None`: it is switched off.
    outcome: OnceCell<Option<Result<Rc<Loaded>, Error>>>,
}

impl Requests {
    /// Begins to load it, if it is switched on. It may take this long.
    pub(super) fn begin(config: &Config, program: &Program, within: Duration) -> Self {
        let settings = config.activity.requests.clone();
        let loading = settings.as_ref().map(|settings| {
            Loading::start(&program.path(), settings, within)
                .map_err(|error| Error::of_io(Step::Loader, "", &error))
        });
        let (loading, before) = (Cell::new(loading), Cell::default());
        let shared = Shared { loading, before, outcome: OnceCell::new() };
        Self { settings, shared: Rc::new(shared) }
    }

    /// The same for a configuration that may have changed. What has failed is tried again, and ports that are not
    /// configured are looked for again.
    pub(super) fn renewed(&self, config: &Config, program: &Program) -> Self {
        let has_failed = matches!(self.shared.outcome.get(), Some(Some(Err(_))));
        let finds_ports = self.settings.as_ref().is_some_and(|settings| settings.ports.is_empty());
        let is_same = self.settings == config.activity.requests;
        if is_same && !has_failed && !finds_ports {
            return self.clone();
        }
        let renewed = Self::begin(config, program, LOADED_WITHIN_WHILE_MOUNTED);
        if let (true, Some(Some(Ok(loaded)))) = (is_same, self.shared.outcome.get()) {
            renewed.shared.before.set(Some(Rc::clone(loaded)));
        }
        renewed
    }

    /// What has come of it. Waits for that at the first call, for some seconds at most.
    fn outcome(&self) -> Option<&Result<Rc<Loaded>, Error>> {
        let wait = || {
            let outcome = self.shared.loading.take()?.and_then(Loading::finish).map(Rc::new);
            let before = self.shared.before.take();
            match (&outcome, before) {
                (Err(error), Some(before)) => {
                    tracing::warn!(
                        "requests are seen as before, and Odoo's ports were not looked for again: {error}"
                    );
                    return Some(Ok(before));
                }
                // A reload that changes nothing says nothing.
                (Ok(loaded), Some(before)) if loaded.running == before.running => {}
                _ => tell(&outcome),
            }
            Some(outcome)
        };
        self.shared.outcome.get_or_init(wait).as_ref()
    }

    /// What a worker is told.
    pub(super) fn state(&self) -> State {
        match self.outcome() {
            None => State::Off,
            Some(Ok(loaded)) => State::Running(loaded.running.clone()),
            Some(Err(error)) => State::Failed { why: error.to_string() },
        }
    }

    /// The array of threads, for a worker.
    pub(super) fn marks(&self) -> Option<BorrowedFd<'_>> {
        self.outcome()?.as_ref().ok().map(|loaded| loaded.marks.as_fd())
    }
}

fn tell(outcome: &Result<Rc<Loaded>, Error>) {
    match outcome {
        Ok(loaded) => {
            let running = &loaded.running;
            tracing::info!(
                hook = running.hook.name(), ports = ?running.ports, rules = running.rules,
                "requests that a browser sends by itself are told from those of a person"
            );
        }
        Err(error) => tracing::warn!(
            "a request that a browser sends by itself counts as activity: {error} (see docs/ebpf.md; \
             activity.requests = \"off\" silences this)"
        ),
    }
}
