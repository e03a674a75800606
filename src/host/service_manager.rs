//! What a service manager is notified of: that the mount is served, in words how things stand, and that
//! the keeper is alive (`sd_notify(3)`); and descriptors that it keeps for the next process. Without a service manager nothing of this does anything.
//!
//! Nobody waits until the service manager reads: what does not fit into its socket waits in the [`outbox`].

mod outbox;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sd_notify::NotifyState;

use super::descriptor;
use outbox::{About, Message, Outbox};

/// What a service manager says by the environment is for the keeper alone.
const VARIABLES: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// While starting or reloading, how often more time is asked for, and how much: what they wait for has its own bounds,
/// and its own words when they are over. systemd allows it for as long as it is asked again within the time that it has
/// given.
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
    more_time: Option<MoreTime>,
    said: String,
}

/// More time is asked for.
struct MoreTime {
    next: Instant,
    /// No longer than this: whatever it is for is over then.
    until: Instant,
}

impl Manager {
    /// Whether one has started us.
    pub(crate) fn is_there() -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }

    /// The one that started us. It may take this long until the mount is served.
    pub(crate) fn from_environment(start_within: Duration) -> Self {
        let mut manager = Self {
            alive_every: sd_notify::watchdog_enabled().map(|dead_after| dead_after / 3),
            next_alive: Instant::now(),
            more_time: None,
            said: String::new(),
        };
        manager.ask_for(start_within);
        manager
    }

    /// Until the mount is served, it may take this long from now on. Otherwise the service manager has its own bound
    /// (`TimeoutStartSec=`, for a reload, too), and would give up before.
    pub(crate) fn ask_for(&mut self, within: Duration) {
        let now = Instant::now();
        let until = self.more_time.as_ref().map_or(now, |asked| asked.until).max(now + within);
        self.more_time = Some(MoreTime { next: now, until });
    }

    /// To be called whenever the keeper's loop has turned; says when it has to turn again.
    pub(crate) fn turned(&mut self, words: &str) -> Option<Instant> {
        let now = Instant::now();
        if self.said != words {
            words.clone_into(&mut self.said);
            tell(About::Status, &[NotifyState::Status(words)]);
        }
        if let Some(every) = self.alive_every
            && now >= self.next_alive
        {
            alive();
            self.next_alive = now + every;
        }
        self.more_time = self.more_time.take().filter(|asked| now < asked.until);
        if let Some(asked) = self.more_time.as_mut().filter(|asked| now >= asked.next) {
            tell(About::MoreTime, &[NotifyState::ExtendTimeoutUsec(ASK_FOR_USEC)]);
            asked.next = now + ASK_EVERY;
        }
        outbox(Outbox::send);
        let next_ask = self.more_time.as_ref().map(|asked| asked.next);
        self.alive_every.map(|_| self.next_alive).into_iter().chain(next_ask).min()
    }

    /// The mount is served; or it is again, after a reload.
    pub(crate) fn ready(&mut self) {
        self.more_time = None;
        tell(About::Ready, &[NotifyState::Ready]);
    }
}

/// Gives descriptors to the service manager, each under its name: if this process dies, the next one is handed them
/// ([`stored`]). What it has already it does not take twice, as long as there is room for one more
/// (`service_add_fd_store` in systemd's src/core/service.c). It does not poll them: it would be woken by each request
/// of the device, and drop one that the kernel has ended without the others.
pub(crate) fn store(descriptors: &[(&'static str, BorrowedFd<'_>)]) {
    for &(name, descriptor) in descriptors {
        match descriptor.try_clone_to_owned() {
            Ok(descriptor) => put(Message {
                about: About::Store(name),
                text: format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n"),
                descriptor: Some(descriptor),
            }),
            Err(error) => {
                tracing::warn!(%error, "cannot store descriptors with the service manager");
            }
        }
    }
}

/// They are of no use any more.
pub(crate) fn forget(names: &[&'static str]) {
    for &name in names {
        let text = format!("FDSTOREREMOVE=1\nFDNAME={name}\n");
        put(Message { about: About::Forget(name), text, descriptor: None });
    }
}

/// The descriptors that a process before this one has stored, by their names. To be called once, while there is one
/// thread.
pub(crate) fn stored() -> BTreeMap<String, OwnedFd> {
    let Ok(all) = sd_notify::listen_fds_with_names() else { return BTreeMap::new() };
    all.filter_map(|(raw, name)| Some((name, descriptor::take(raw).ok()?))).collect()
}

/// The keeper is alive, though its loop may not have turned yet.
pub(crate) fn alive() {
    tell(About::Alive, &[NotifyState::Watchdog]);
}

/// A reload has begun; [`Manager::ready`] ends it, however it went.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(About::Reloading, &[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "no monotonic time"),
    }
}

/// The end has begun.
pub(crate) fn stopping(words: &str) {
    tell(About::Stopping, &[NotifyState::Stopping, NotifyState::Status(words)]);
}

/// Waits until all is sent that was said, but no longer than this. Whether it is.
pub(crate) fn deliver(within: Duration) -> bool {
    let until = Instant::now() + within;
    loop {
        outbox(Outbox::send);
        let Some(socket) = waits_for() else { return true };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], timeout);
    }
}

fn tell(about: About, states: &[NotifyState<'_>]) {
    let mut text = String::new();
    for state in states {
        // To a string it cannot fail.
        let _ = writeln!(text, "{state}");
    }
    put(Message { about, text, descriptor: None });
}

fn put(message: Message) {
    outbox(|outbox| outbox.put(message));
}

/// While something waits to be sent, what becomes writable when it can be.
pub(crate) fn waits_for() -> Option<Arc<UnixDatagram>> {
    outbox(|outbox| outbox.waits_for()).flatten()
}

/// Does it with the outbox of this process, if it has a service manager.
fn outbox<T>(act: impl FnOnce(&mut Outbox) -> T) -> Option<T> {
    /// It is told from many places, and there is one for a process.
    static OUTBOX: LazyLock<Option<Mutex<Outbox>>> = LazyLock::new(|| {
        let path = std::env::var_os("NOTIFY_SOCKET")?;
        Some(Mutex::new(Outbox::to(path.into())))
    });
    let outbox = OUTBOX.as_ref()?;
    let mut outbox: MutexGuard<'_, Outbox> = outbox.lock().unwrap_or_else(PoisonError::into_inner);
    Some(act(&mut outbox))
}
