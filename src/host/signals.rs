//! Signals and waiting: the keeper's only way to pause.
//!
//! SIGTERM and SIGINT ask for the end, SIGHUP for a reload; a SIGHUP of the kernel's own says that
//! the terminal is gone, and asks for the end as well. Signals are read from a descriptor, so that every wait of the keeper is a bounded `poll` that a
//! signal ends at once. Nothing is done inside a signal handler.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::exit::Failure;

/// The signals that are received.
const RECEIVED: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Reads the signals that the keeper is sent.
pub(crate) struct Signals {
    descriptor: SignalFd,
    received: u32,
    reload: bool,
}

/// Keeps these signals away from this thread, and from those it will start.
pub(crate) fn block() -> Result<SigSet, Failure> {
    let set: SigSet = RECEIVED.into_iter().collect();
    set.thread_block().map_err(|e| Failure::internal("block signals", e))?;
    Ok(set)
}

impl Signals {
    /// From now on signals are only noted. To be called while there is one thread.
    pub(crate) fn receive() -> Result<Self, Failure> {
        let descriptor =
            SignalFd::with_flags(&block()?, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
                .map_err(|e| Failure::internal("receive signals", e))?;
        Ok(Self { descriptor, received: 0, reload: false })
    }

    /// How many times an end was asked for.
    pub(crate) fn received(&mut self) -> u32 {
        while let Ok(Some(signal)) = self.descriptor.read_signal() {
            let hangup = signal.ssi_signo == Signal::SIGHUP as u32;
            if hangup && signal.ssi_code != libc::SI_KERNEL {
                self.reload = true;
            } else {
                self.received = self.received.saturating_add(1);
            }
        }
        self.received
    }

    /// Whether a reload has been asked for since this was asked last.
    pub(crate) fn take_reload(&mut self) -> bool {
        self.received();
        std::mem::take(&mut self.reload)
    }

    /// Waits until a signal has come, one of the descriptors has something to say, or `until` is
    /// over; whoever waits looks at everything again. Without `until`, a minute at most.
    pub(crate) fn wait(&mut self, descriptors: &[BorrowedFd<'_>], until: Option<Instant>) {
        self.wait_or_write(descriptors, None, until);
    }

    /// The same, and until one can be written.
    pub(crate) fn wait_or_write(
        &mut self,
        descriptors: &[BorrowedFd<'_>],
        written: Option<BorrowedFd<'_>>,
        until: Option<Instant>,
    ) {
        const LONGEST: Duration = Duration::from_secs(60);
        let left = until.map_or(LONGEST, |until| until.saturating_duration_since(Instant::now()));
        // Rounded up: waking before the time would be a busy loop.
        let left_ms = left.min(LONGEST).as_micros().div_ceil(1000);
        let timeout = i32::try_from(left_ms).ok().and_then(|ms| PollTimeout::try_from(ms).ok());
        let mut polled: Vec<PollFd<'_>> = [self.descriptor.as_fd()]
            .iter()
            .chain(descriptors)
            .map(|descriptor| PollFd::new(*descriptor, PollFlags::POLLIN))
            .chain(written.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLOUT)))
            .collect();
        let result = poll(&mut polled, timeout.unwrap_or(PollTimeout::ZERO));
        drop(polled);
        if let Err(error) = result
            && error != Errno::EINTR
        {
            // Not expected; looking again a little later does no harm.
            tracing::warn!(%error, "poll");
            std::thread::sleep(Duration::from_millis(50));
        }
        // Read here, or the next wait would end at once.
        self.received();
    }
}

/// Set by the signal handler. Nothing else can be done in one.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_interrupt(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// For a command that works in many threads and cleans up behind itself. While this lives, SIGINT, SIGTERM and SIGHUP (the
/// terminal is gone) are noted ([`Interrupts::noted`]) and do not end the process.
pub(crate) struct Interrupts(Vec<(Signal, SigAction)>);

impl Interrupts {
    /// The second SIGINT, SIGTERM or SIGHUP ends it, since cleaning up may hang.
    pub(crate) fn note() -> Self {
        Self::note_with(SaFlags::SA_RESETHAND)
    }

    /// None ends it: for a command whose cleaning up has a bound, and matters more than an end at once.
    pub(crate) fn note_all() -> Self {
        Self::note_with(SaFlags::empty())
    }

    fn note_with(flags: SaFlags) -> Self {
        INTERRUPTED.store(false, Ordering::Relaxed);
        let handler = SigHandler::Handler(note_interrupt);
        let action = SigAction::new(handler, flags | SaFlags::SA_RESTART, SigSet::empty());
        let former = RECEIVED.into_iter().filter_map(|signal| {
            // SAFETY: the handler only stores to an atomic, which is safe in a signal handler.
            let former = unsafe { sigaction(signal, &action) }.ok()?;
            // Whoever uses nohup wants it to go on.
            if signal == Signal::SIGHUP && matches!(former.handler(), SigHandler::SigIgn) {
                // SAFETY: puts back the action that was in force before.
                let _ = unsafe { sigaction(signal, &former) };
                return None;
            }
            Some((signal, former))
        });
        Self(former.collect())
    }

    /// Whether one has come.
    pub(crate) fn noted() -> bool {
        INTERRUPTED.load(Ordering::Relaxed)
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        for (signal, former) in &self.0 {
            // SAFETY: puts back the action that was in force before.
            let _ = unsafe { sigaction(*signal, former) };
        }
    }
}
