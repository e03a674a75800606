//! The BPF program that sees which requests Odoo serves. The keeper holds what the loader has made, so it outlives the
//! workers; nothing of it is pinned, and all is gone with the keeper.

use std::cell::{Cell, OnceCell};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::rc::Rc;

use super::program::Program;
use crate::bpf::{Error, Step};
use crate::config::{Config, Requests as Settings};
use crate::loader::{Loaded, Loading};
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
    /// `None`: it is switched off.
    outcome: OnceCell<Option<Result<Loaded, Error>>>,
}

impl Requests {
    /// Begins to load it, if it is switched on.
    pub(super) fn begin(config: &Config, program: &Program) -> Self {
        let settings = config.activity.requests.clone();
        let loading = settings.as_ref().map(|settings| {
            Loading::start(&program.path(), settings)
                .map_err(|error| Error::of_io(Step::Loader, "", &error))
        });
        let shared = Shared { loading: Cell::new(loading), outcome: OnceCell::new() };
        Self { settings, shared: Rc::new(shared) }
    }

    /// The same for a changed configuration. What has failed is tried again.
    pub(super) fn renewed(&self, config: &Config, program: &Program) -> Self {
        let has_failed = matches!(self.shared.outcome.get(), Some(Some(Err(_))));
        if self.settings == config.activity.requests && !has_failed {
            return self.clone();
        }
        Self::begin(config, program)
    }

    /// What has come of it. Waits for that at the first call, for some seconds at most.
    fn outcome(&self) -> Option<&Result<Loaded, Error>> {
        let wait = || {
            let outcome = self.shared.loading.take()?.and_then(Loading::finish);
            tell(&outcome);
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

fn tell(outcome: &Result<Loaded, Error>) {
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
