//! The processes that touch session files on disks for the worker, which has no right to.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::runtime::Runtime;

use crate::disk::client::{Disk, DiskError, SERVING_WITHIN};
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

/// Speaks with a disk server. Its end is ours, too, since sessions would be missed without it; the
/// keeper starts both anew.
pub(super) fn connect(
    channel: &Arc<Channel>,
    socket: OwnedFd,
    runtime: &Runtime,
) -> Result<Disk, Failure> {
    let _entered = runtime.enter();
    let channel = Arc::clone(channel);
    let on_gone = move || {
        let failure = Failure::internal("serve", DiskError::Gone);
        // The keeper sees the end, if it does not hear of it.
        let _ = channel.send(&Report::Failed(failure));
        std::process::exit(u8::from(ExitCode::Internal).into());
    };
    Disk::connect(socket, SERVING_WITHIN, on_gone)
        .map_err(|e| Failure::internal("ask for session files", e))
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
    let refused = |e| Failure::new(ExitCode::MirrorRefused, format!("mirror: {e}"));
    let (store, keyring) = (store.clone(), keyring.clone());
    if first {
        return runtime.block_on(mirror::Writer::start(disk, store, keyring)).map_err(refused);
    }
    let _entered = runtime.enter();
    Ok(mirror::Writer::start_later(disk, store, keyring, move |error| {
        tracing::error!(
            failure = %refused(error),
            "the mirror is not written; correct the cause and run 'sessionfs reload'"
        );
    }))
}
