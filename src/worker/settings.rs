//! What the core and the store are given of the configuration.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::exit::Failure;
use crate::fs::{self, caller::Proc};
use crate::host::bpf::Numbers;
use crate::host::confine::check_directory;
use crate::layers::{near_cache, spool};
use crate::redis;
use crate::request::word::{SLOTS, Words};
use crate::session::secret::Keyring;
use crate::supervision::credentials;
use crate::telemetry::Event;
use crate::telemetry::unidentified::Unidentified;
use crate::trail::Trail;

/// The settings of the store, without secrets. Passwords and certificates that are in files are asked of the keeper
/// at each connection.
pub(super) fn store(config: &Config, asked: Option<OwnedFd>) -> Result<redis::Settings, Failure> {
    let mut settings = redis::Settings {
        takes_up: true,
        // For a command Redis would remember each session that it imports.
        tracks_changes: config.near_cache.is_some(),
        ..config.store_settings(None)
    };
    let asked = asked.filter(|_| !config.credential_files().is_empty());
    if let Some(asked) = asked {
        let keeper = credentials::Worker::new(asked)
            .map_err(|e| Failure::internal("ask for credentials", e))?;
        settings.credentials = settings.credentials.asking(move |name| keeper.ask(name));
    }
    Ok(settings)
}

/// Where the audit trail is written. Without a file it is in the log.
pub(super) fn trail(config: &Config, handed: Option<OwnedFd>) -> Trail {
    let Some(audit) = &config.audit else { return Trail::default() };
    // The keeper has told why it could not open it.
    let Some(descriptor) = handed else { return Trail::missing() };
    Trail::to(descriptor, audit.max_bytes).unwrap_or_else(|error| {
        tracing::error!(%error, "the audit trail cannot be written; its entries wait in Redis");
        Trail::missing()
    })
}

/// How changes are kept that Redis does not take.
pub(super) fn spool(config: &Config, keyring: Keyring) -> spool::Settings {
    const MAX_CHANGES: u64 = 10_000;
    let place = spool::Place { url: config.redis.url.clone(), prefix: config.redis.prefix.clone() };
    spool::Settings {
        directories: directories(config),
        limits: spool::Limits {
            changes: MAX_CHANGES,
            bytes: config.spool.as_ref().map_or(0, |spool| spool.max_bytes),
        },
        session_max_bytes: config.limits.session_bytes,
        place,
        keyring,
    }
}

/// What is answered without asking Redis.
pub(super) fn near_cache(config: &Config) -> Option<near_cache::Settings> {
    let settings = config.near_cache.as_ref()?;
    Some(near_cache::Settings {
        max_bytes: usize::try_from(settings.memory_bytes).unwrap_or(usize::MAX),
        grace: Duration::from_millis(settings.grace_ms),
    })
}

/// The directories that this user can use.
fn directories(config: &Config) -> Option<spool::Directories> {
    let Some(dirs) = &config.spool else {
        tracing::warn!(
            "the keeper is of an older version and has no directory for changes that Redis does not \
             take: they fail until the service is restarted"
        );
        return None;
    };
    let can_use = |dir: &PathBuf| match check_directory(dir, &config.worker.account()) {
        Ok(()) => true,
        Err(failure) => {
            tracing::warn!(%failure, "changes that Redis does not take are not kept there");
            false
        }
    };
    let disk = Some(&dirs.disk_dir).filter(|dir| can_use(dir)).cloned();
    let memory = Some(&dirs.memory_dir).filter(|dir| can_use(dir)).cloned()?;
    Some(spool::Directories { memory, disk })
}

/// The processes of this host, as the keeper sees them. If others' are hidden all the same, that is told
/// before anybody calls.
fn processes(handed: Option<OwnedFd>) -> Arc<Proc> {
    let processes = handed.map_or_else(Proc::default, Proc::at);
    if !processes.sees_others() {
        Event::UnidentifiedCaller { why: Unidentified::Hidden }.emit();
    }
    Arc::new(processes)
}

/// What is known of requests, if that is handed over and can be read.
pub(super) fn requests(handed: Option<OwnedFd>) -> Option<Arc<dyn Words>> {
    match Numbers::map(handed?.as_fd(), SLOTS) {
        Ok(array) => Some(Arc::new(Array(array))),
        Err(error) => {
            tracing::warn!(%error, "what is known of requests cannot be read: all are activity");
            None
        }
    }
}

/// The array that the BPF program writes.
#[derive(Debug)]
struct Array(Numbers);

impl Words for Array {
    fn at(&self, slot: usize) -> u64 {
        self.0.at(slot)
    }
}

/// How long the kernel may keep a name. It is told of changes, so this counts only where it could not be.
const NAME_VALID_MS: u64 = 60_000;

/// The settings of the filesystem's core, with the processes of this host as they were handed over.
pub(super) fn core(config: &Config, handed: Option<OwnedFd>) -> fs::Settings {
    let of_near_cache = config.near_cache.as_ref().map_or(0, |cache| cache.memory_bytes);
    let max_memory_bytes = config.limits.memory_bytes.saturating_sub(of_near_cache);
    fs::Settings {
        staging_dir: config.staging_dir.clone(),
        max_session_bytes: config.limits.session_bytes,
        max_anonymous_bytes: config.limits.anonymous_bytes,
        max_staging_bytes: config.limits.staging_bytes,
        max_staging_files: config.limits.staging_files,
        max_inodes: usize::try_from(config.limits.inodes).unwrap_or(usize::MAX),
        max_memory_bytes: usize::try_from(max_memory_bytes).unwrap_or(usize::MAX),
        name_valid_ms: config.near_cache.as_ref().map_or(0, |_| NAME_VALID_MS),
        open_step_ms: config.outage.wait_step_ms,
        open_budget_ms: config.outage.wait_total_ms,
        background_argv: config.activity.background_argv.clone(),
        background_titles: config.activity.background_title.clone(),
        processes: processes(handed),
        ..fs::Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::flags::{Flags, Place};

    #[test]
    fn the_cores_defaults_are_those_of_the_configuration() {
        // A core that is told nothing has no near cache.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[near_cache]\nfreshness = \"strict\"\n").unwrap();
        let place = Place {
            config: Some(file.path().to_owned()),
            redis: Some("redis://127.0.0.1".to_owned()),
        };
        let flags = Flags { place, ..Flags::default() };
        let resolved = core(&Config::resolve(Path::new("/mnt"), &flags).unwrap(), None);
        let default = fs::Settings::default();
        assert_eq!(resolved.max_session_bytes, default.max_session_bytes);
        assert_eq!(resolved.max_anonymous_bytes, default.max_anonymous_bytes);
        assert_eq!(resolved.max_staging_bytes, default.max_staging_bytes);
        assert_eq!(resolved.max_staging_files, default.max_staging_files);
        assert_eq!(resolved.max_inodes, default.max_inodes);
        assert_eq!(resolved.max_memory_bytes, default.max_memory_bytes);
        assert_eq!(resolved.name_valid_ms, default.name_valid_ms);
        assert_eq!(resolved.open_step_ms, default.open_step_ms);
        assert_eq!(resolved.open_budget_ms, default.open_budget_ms);
        assert_eq!(resolved.background_argv, default.background_argv);
        assert_eq!(resolved.background_titles, default.background_titles);
    }
}
