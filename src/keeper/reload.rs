//! Reload: what may change while the mount is served, how its outcome is reported, and the command that
//! asks for it.
//!
//! A signal has no answer. So the keeper writes down how many reloads it has begun and ended, and
//! how the last one went; whoever sent the signal reads that.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::mount;
use crate::config::Config;
use crate::config::paths::{lock_file, reload_record};
use crate::exit::{ExitCode, Failure};
use crate::host::mount::is_ours;
use crate::host::signals::Signals;

/// How often the command looks for the outcome.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// From the signal until the keeper has begun (it may have another reload under way first).
const BEGUN_WITHIN: Duration = Duration::from_secs(60);

/// The first key that differs between these two and cannot change while the mount is served.
pub(crate) fn needs_restart(now: &Config, then: &Config) -> Option<&'static str> {
    let private = |config: &Config| config.private_redis.clone();
    let (had, has) = (private(now), private(then));
    let differs = [
        ("mountpoint", now.mountpoint != then.mountpoint),
        ("staging_dir", now.staging_dir != then.staging_dir),
        ("worker.user", (now.worker.uid, now.worker.gid) != (then.worker.uid, then.worker.gid)),
        ("redis.url", had.is_some() != has.is_some()),
        ("private_redis", had != has),
    ];
    differs.into_iter().find_map(|(key, differs)| differs.then_some(key))
}

/// How many reloads have been begun and ended, and what came of the last.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Record {
    begun: u64,
    ended: u64,
    /// The longest that the one under way can take.
    within_ms: u64,
    failure: Option<Failure>,
}

/// The keeper's record of its reloads.
pub(crate) struct Outcomes {
    path: PathBuf,
    record: Record,
}

impl Outcomes {
    /// Of the mount at this place, which has had none yet.
    pub(crate) fn new(mountpoint: &Path) -> Self {
        Self::of(mountpoint, Record::default())
    }

    /// The same, after those of the program that was executed here before: somebody may be waiting for one.
    pub(crate) fn resumed(mountpoint: &Path) -> Self {
        Self::of(mountpoint, read(&reload_record(mountpoint)).unwrap_or_default())
    }

    fn of(mountpoint: &Path, record: Record) -> Self {
        let outcomes = Self { path: reload_record(mountpoint), record };
        outcomes.write();
        outcomes
    }

    /// Whether one has begun and not ended.
    pub(crate) fn is_under_way(&self) -> bool {
        self.record.ended < self.record.begun
    }

    /// One begins, and ends within this time.
    pub(crate) fn begin(&mut self, within: Duration) {
        self.record.begun += 1;
        self.record.within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.write();
    }

    /// It has ended.
    pub(crate) fn end(&mut self, failure: Option<Failure>) {
        self.record.ended = self.record.begun;
        self.record.failure = failure;
        self.write();
    }

    /// At once as a whole, for whoever reads it meanwhile.
    fn write(&self) {
        let new = self.path.with_extension("reload-new");
        let written = serde_json::to_vec(&self.record)
            .map_err(std::io::Error::other)
            .and_then(|text| std::fs::write(&new, text))
            .and_then(|()| std::fs::rename(&new, &self.path));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "cannot report the result of a reload");
        }
    }
}

impl Drop for Outcomes {
    fn drop(&mut self) {
        // The next keeper writes it anew.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn read(path: &Path) -> Option<Record> {
    const LENGTH_MAX_BYTES: u64 = 16 * 1024;
    let text = crate::config::file::read_bounded(path, LENGTH_MAX_BYTES).ok()?;
    serde_json::from_str(&text).ok()
}

/// Asks the keeper of a mountpoint for a reload, and waits for its outcome.
pub(crate) fn ask(dir: &Path) -> Result<(), Failure> {
    let mountpoint = mount::resolve_trusted(dir)?;
    let shown = mountpoint.display();
    let failed = |what: String| Failure::new(ExitCode::ReloadFailed, format!("{shown}: {what}"));
    Failure::unless_root("reload needs root; use sudo")?;
    let mut signals = Signals::receive()?;
    let lock = lock_file(&mountpoint);
    if !super::is_held(&lock) {
        return Err(if is_ours(&mountpoint) {
            Failure::new(
                ExitCode::NotServed,
                format!(
                    "{shown}: its keeper has ended; start it again, as with 'systemctl restart sessionfs'"
                ),
            )
        } else {
            super::not_mounted(&mountpoint)
        });
    }
    let keeper = super::holder(&lock)
        .ok_or_else(|| failed("its keeper cannot be found; run the reload where it runs".into()))?;
    let path = reload_record(&mountpoint);
    let before = read(&path).ok_or_else(|| failed("its keeper is not ready yet".into()))?.begun;
    keeper.signal(Signal::SIGHUP);
    let mut until = Instant::now() + BEGUN_WITHIN;
    let mut begun = false;
    loop {
        match read(&path) {
            Some(Record { ended, failure, .. }) if ended > before => {
                return failure.map_or(Ok(()), |failure| Err(failed(failure.to_string())));
            }
            Some(record) if record.begun > before && !begun => {
                begun = true;
                until = Instant::now() + Duration::from_millis(record.within_ms);
            }
            _ => {}
        }
        if keeper.has_ended() {
            return Err(failed(format!("its keeper (pid {}) has exited", keeper.pid())));
        }
        if Instant::now() >= until || signals.received() > 0 {
            return Err(failed(format!("its keeper (pid {}) has not answered", keeper.pid())));
        }
        signals.wait(&[keeper.as_fd()], Some(Instant::now() + LOOK_EVERY));
    }
}
