//! Whether a Redis may be used at all. A server that starts without one has not checked it: version,
//! rights and secret are looked at when it comes, and until then no connection is used.

use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// Open, unless somebody has closed it; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Admission(Arc<Mutex<Option<String>>>);

impl Admission {
    /// No connection is used, for this reason.
    pub fn refuse(&self, reason: String) {
        *lock(&self.0) = Some(reason);
    }

    /// Connections are used from now on.
    pub fn open(&self) {
        *lock(&self.0) = None;
    }

    /// Why none is used.
    pub(super) fn refusal(&self) -> Option<String> {
        lock(&self.0).clone()
    }
}
