//! What a service manager is notified of: that the mount is served, in words how things stand, and that
//! the keeper is alive (`sd_notify(3)`); and descriptors that it keeps for the next process. Without a service manager nothing of this does anything.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::descriptor;

/// What a service manager says by the environment is for the keeper alone.
const VARIABLES: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// While starting, how often more time is asked for, and how much: what a start waits for has its
/// own bounds, and its own words when they are over.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ASK_FOR_USEC: u32 = 30_000_000;

/// Keeps the variables of the service manager away from what the keeper starts.
pub(crate) fn keep_from(command: &mut Command) -> &mut Command {
    VARIABLES.iter().fold(command, |command, name| command.env_remove(name))
}

/// The service manager, as far as there is one.
pub(crate) struct Manager {
    /// A third of the time after which it takes us for dead, if it does.
    alive_every: Option<Duration>,
    next_alive: Instant,
    next_ask: Option<Instant>,
    said: String,
}

impl Manager {
    /// Whether one has started us.
    pub(crate) fn is_there() -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }

    /// The one that started us.
    pub(crate) fn from_environment() -> Self {
        let now = Instant::now();
        Self {
            alive_every: sd_notify::watchdog_enabled().map(|dead_after| dead_after / 3),
            next_alive: now,
            next_ask: Some(now),
            said: String::new(),
        }
    }

    /// To be called whenever the keeper's loop has turned; says when it has to turn again.
    pub(crate) fn turned(&mut self, words: &str) -> Option<Instant> {
        let now = Instant::now();
        if self.said != words {
            words.clone_into(&mut self.said);
            tell(&[NotifyState::Status(words)]);
        }
        if let Some(every) = self.alive_every
            && now >= self.next_alive
        {
            tell(&[NotifyState::Watchdog]);
            self.next_alive = now + every;
        }
        if self.next_ask.is_some_and(|next| now >= next) {
            tell(&[NotifyState::ExtendTimeoutUsec(ASK_FOR_USEC)]);
            self.next_ask = Some(now + ASK_EVERY);
        }
        self.alive_every.map(|_| self.next_alive).into_iter().chain(self.next_ask).min()
    }

    /// The mount is served; or it is again, after a reload.
    pub(crate) fn ready(&mut self) {
        self.next_ask = None;
        tell(&[NotifyState::Ready]);
    }
}

/// Gives descriptors to the service manager, each under its name: if this process dies, the next one is handed them
/// ([`stored`]). What it has already it does not take twice (`fd_store_add` in systemd's src/core/service.c). It does not
/// poll them: it would be woken by each request of the device, and drop one that the kernel has ended without the others.
pub(crate) fn store(descriptors: &[(&str, BorrowedFd<'_>)]) {
    for (name, descriptor) in descriptors {
        let unpolled = NotifyState::Custom("FDPOLL=0");
        let states = [NotifyState::FdStore, NotifyState::FdName(name), unpolled];
        if let Err(error) = sd_notify::notify_with_fds(&states, &[*descriptor]) {
            tracing::warn!(%error, "cannot store descriptors with the service manager");
        }
    }
}

/// They are of no use any more.
pub(crate) fn forget(names: &[&str]) {
    for name in names {
        tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
    }
}

/// The descriptors that a process before this one has stored, by their names. To be called once, while there is one
/// thread.
pub(crate) fn stored() -> BTreeMap<String, OwnedFd> {
    let Ok(all) = sd_notify::listen_fds_with_names() else { return BTreeMap::new() };
    all.filter_map(|(raw, name)| Some((name, descriptor::take(raw).ok()?))).collect()
}

/// The keeper is alive, though its loop has not turned yet.
pub(crate) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// A reload has begun; [`Manager::ready`] ends it, however it went.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "no monotonic time"),
    }
}

/// The end has begun.
pub(crate) fn stopping(words: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(words)]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
