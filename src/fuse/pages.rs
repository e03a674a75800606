//! Gives the kernel what was just saved, so that it need not ask for it at the next read (`FUSE_NOTIFY_STORE`).

use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, Notifier};
use tokio::runtime::Handle;

use crate::fs::save::Saved;

/// A longer content is rare, and read by a READ as well.
const MAX_BYTES: usize = 64 * 1024;

/// The pages of files in the kernel. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages(Arc<OnceLock<Notifier>>);

impl Pages {
    /// From now on the kernel can be given something. Once.
    pub(super) fn begin(&self, notifier: Notifier) {
        let _ = self.0.set(notifier);
    }

    /// Gives it a content that has not been read, before the save is answered. It is not needed, so it may fail.
    pub(super) fn give(&self, saved: &Saved) {
        let Saved { inode, content } = saved;
        let is_short = (1..=MAX_BYTES).contains(&content.len());
        // A thread that reads requests must not wait for a page: the request that holds it may be the next one.
        let on_runtime = Handle::try_current().is_ok();
        if let Some(notifier) = self.0.get()
            && is_short
            && on_runtime
        {
            let _ = notifier.store(INodeNo(inode.0), 0, content);
        }
    }
}
