//! The processes that touch session files on disks for the worker, which has no right to.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Runtime;

use crate::config::Config;
use crate::disk::client::{Disk, DiskError, OPENED_WITHIN, SERVING_WITHIN};
use crate::disk::mirror::late;
use crate::disk::opened::NotServed;
use crate::exit::{ExitCode, Failure};
use crate::mirror;
use crate::redis::RedisStore;
use crate::session::secret::Keyring;
use crate::supervision::{Channel, Report};

/// By which to ask the disk servers.
pub(super) struct Disks {
    pub underlying: Option<OwnedFd>,
    pub mirror: Option<OwnedFd>,
}

impl Disks {
    /// To ask those of the underlying directory and of the mirror. The first worker waits until they have opened what
    /// they serve.
    pub(super) fn open(
        self,
        channel: &Arc<Channel>,
        config: &Config,
        first: bool,
        runtime: &Runtime,
    ) -> Result<(Option<Disk>, Option<Disk>), Failure> {
        let connect = |socket| connect(channel, socket, runtime);
        let mut underlying = self.underlying.map(connect).transpose()?;
        let mirror = self.mirror.map(connect).transpose()?;
        if first {
            if let Some(disk) = underlying {
                underlying = await_underlying(disk, config, runtime)?;
            }
            if let Some((disk, dir)) = mirror.as_ref().zip(config.mirror.as_ref()) {
                await_mirror(disk, dir, runtime)?;
            }
        }
        Ok((underlying, mirror))
    }
}

/// Speaks with a disk server. Its end is ours, too, since sessions would be missed without it; the
/// keeper starts both anew.
fn connect(channel: &Arc<Channel>, socket: OwnedFd, runtime: &Runtime) -> Result<Disk, Failure> {
    let _entered = runtime.enter();
    let channel = Arc::clone(channel);
    let on_gone = move || {
        let failure = Failure::internal("serve", DiskError::Gone);
        // The keeper sees the end, if it does not hear of it.
        let _ = channel.send(&Report::Failed(failure));
        std::process::exit(u8::from(ExitCode::Internal).into());
    };
    Disk::connect(socket, SERVING_WITHIN, 1, on_gone)
        .map_err(|e| Failure::internal("ask for session files", e))
}

/// The first worker waits until the underlying directory and its archive are opened, and fails if they cannot be.
/// `None` if the session files stay where they are.
fn await_underlying(
    disk: Disk,
    config: &Config,
    runtime: &Runtime,
) -> Result<Option<Disk>, Failure> {
    match runtime.block_on(disk.look()) {
        Ok(()) => Ok(Some(disk)),
        Err(DiskError::NotServed(NotServed::Unusable(failure))) => Err(failure),
        Err(DiskError::NotServed(why @ NotServed::Unmovable { .. })) => {
            why.tell();
            Ok(None)
        }
        Err(DiskError::Overdue) => {
            let (dir, within) = (config.mountpoint.display(), OPENED_WITHIN.as_secs());
            let what =
                format!("directory {dir}, or the archive beside it: no answer within {within} s");
            Err(Failure::new(ExitCode::Staging, format!("{what}; see the disk that it is on")))
        }
        Err(error) => Err(cannot_list(error)),
    }
}

/// The same for the mirror.
fn await_mirror(disk: &Disk, dir: &Path, runtime: &Runtime) -> Result<(), Failure> {
    runtime.block_on(disk.look()).map_err(|error| match error {
        DiskError::Overdue => late(dir, OPENED_WITHIN),
        error => mirror_refused(error),
    })
}

pub(super) fn cannot_list(error: DiskError) -> Failure {
    Failure::internal("list the session files of the underlying directory", error)
}

/// Starts the mirror. A later worker waits neither for its disk nor for Redis, and serves without it if it must.
pub(super) fn keep_mirror(
    disk: Disk,
    store: &RedisStore,
    keyring: &Keyring,
    runtime: &Runtime,
    first: bool,
) -> Result<(mirror::notes::Sender, mirror::Writer), Failure> {
    let (store, keyring) = (store.clone(), keyring.clone());
    if first {
        return runtime
            .block_on(mirror::Writer::start(disk, store, keyring))
            .map_err(mirror_refused);
    }
    let _entered = runtime.enter();
    Ok(mirror::Writer::start_later(disk, store, keyring, move |error| {
        tracing::error!(
            failure = %mirror_refused(error),
            "the mirror is not written; correct the cause and run 'sessionfs reload'"
        );
    }))
}

fn mirror_refused(error: DiskError) -> Failure {
    match error {
        DiskError::NotServed(NotServed::Unusable(failure)) => failure,
        error => Failure::new(ExitCode::MirrorRefused, format!("mirror: {error}")),
    }
}
