//! Optional features of kernels newer than the oldest supported one (5.15).
//!
//! Nothing depends on them: they only make things faster or smoother. Each can be switched off, to
//! test that, and for a kernel in which one of them is broken.

use fuser::{FopenFlags, InitFlags, KernelConfig};

use super::MAX_WRITE_BYTES;

/// The environment variable that names the features to switch off, separated by commas.
pub(crate) const WITHOUT_VARIABLE: &str = "SESSIONFS_KERNEL_WITHOUT";

/// Requested at INIT, with the name by which each is switched off.
const AT_INIT: [(&str, InitFlags); 3] = [
    // Look-ups in one directory side by side; without it one after another.
    ("parallel_dirops", InitFlags::FUSE_PARALLEL_DIROPS),
    // O_TRUNC comes with OPEN; without it as a SETATTR before it.
    ("atomic_o_trunc", InitFlags::FUSE_ATOMIC_O_TRUNC),
    // Listings with attributes; without it a look-up for each name that is stat'ed.
    ("readdirplus", InitFlags::FUSE_DO_READDIRPLUS.union(InitFlags::FUSE_READDIRPLUS_AUTO)),
];
/// No FLUSH at close (5.16 and later); without it one more request.
const NOFLUSH: &str = "noflush";

/// The kernel sends requests again that a dead worker has read (6.9 and later); without it they are replayed here.
const RESEND: &str = "resend";

/// The kernel is given what was just saved; without it, it asks at the next read. (A kernel without the mend of
/// CVE-2024-44947 shows who maps the file what was in the rest of the page before.)
const NOTIFY_STORE: &str = "notify_store";

/// `/proc` mounted once more, without `hidepid`; without it the one that everybody has is used.
const PROC_MOUNT: &str = "proc_mount";

/// The features that are used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offers {
    without: Vec<String>,
}

impl Offers {
    /// All but what [`WITHOUT_VARIABLE`] names.
    pub(crate) fn from_environment() -> Self {
        let named = std::env::var(WITHOUT_VARIABLE).unwrap_or_default();
        Self { without: named.split(',').map(|name| name.trim().to_owned()).collect() }
    }

    /// Whether the kernel may be asked to send requests again.
    pub(super) fn resend(&self) -> bool {
        self.wanted(RESEND)
    }

    /// Whether the kernel may be given what was saved.
    pub(super) fn notify_store(&self) -> bool {
        self.wanted(NOTIFY_STORE)
    }

    /// Whether `/proc` may be mounted once more.
    pub(crate) fn proc_mount(&self) -> bool {
        self.wanted(PROC_MOUNT)
    }

    /// Whether a program may be attached to this tracepoint.
    #[cfg(feature = "bpf")]
    pub(crate) fn tracepoint(&self, name: &str) -> bool {
        self.wanted(name)
    }

    /// Requests the features that the kernel has.
    pub(crate) fn ask(&self, config: &mut KernelConfig) {
        for (name, flags) in AT_INIT {
            if !self.wanted(name) {
                tracing::info!(name, "a kernel feature is switched off");
            } else if config.add_capabilities(flags).is_err() {
                tracing::info!(name, "the kernel lacks this feature, which is optional");
            }
        }
        // Below what fuser allows in any case.
        let _ = config.set_max_write(MAX_WRITE_BYTES);
    }

    /// For the reply to an open: an older kernel ignores what it does not know.
    pub(crate) fn open_flags(&self) -> FopenFlags {
        if self.wanted(NOFLUSH) { FopenFlags::FOPEN_NOFLUSH } else { FopenFlags::empty() }
    }

    fn wanted(&self, name: &str) -> bool {
        !self.without.iter().any(|without| without == name)
    }
}
