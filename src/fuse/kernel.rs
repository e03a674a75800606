//! What the kernel offers beyond the oldest one that is supported (5.15), and what is asked of it.
//!
//! Everything here makes things faster or smoother, never possible at all; each can be switched
//! off, to show that, and for a kernel that has one of them broken.

use fuser::{FopenFlags, InitFlags, KernelConfig};

/// Names what is not to be used, separated by commas.
pub const WITHOUT_VARIABLE: &str = "SESSIONFS_KERNEL_WITHOUT";

/// Asked for at INIT, with the name by which each is switched off.
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

/// One mount put beneath another (6.5 and later); without it a reload leaves a gap.
const MOUNT_BENEATH: &str = "mount_beneath";

/// What is used of the kernel's offers.
#[derive(Clone, Debug, Default)]
pub struct Offers {
    without: Vec<String>,
}

impl Offers {
    /// All but what [`WITHOUT_VARIABLE`] names.
    pub fn from_environment() -> Self {
        let named = std::env::var(WITHOUT_VARIABLE).unwrap_or_default();
        Self { without: named.split(',').map(|name| name.trim().to_owned()).collect() }
    }

    /// Whether a reload may put one mount beneath another.
    pub fn mount_beneath(&self) -> bool {
        self.wanted(MOUNT_BENEATH)
    }

    /// Asks for what is wanted; what an older kernel lacks is gone without.
    pub fn ask(&self, config: &mut KernelConfig) {
        for (name, flags) in AT_INIT {
            if !self.wanted(name) {
                tracing::info!(name, "switched off: not asked of the kernel");
            } else if config.add_capabilities(flags).is_err() {
                tracing::info!(name, "the kernel does not offer this; going on without it");
            }
        }
    }

    /// For the reply to an open: an older kernel ignores what it does not know.
    pub fn open_flags(&self) -> FopenFlags {
        if self.wanted(NOFLUSH) { FopenFlags::FOPEN_NOFLUSH } else { FopenFlags::empty() }
    }

    fn wanted(&self, name: &str) -> bool {
        !self.without.iter().any(|without| without == name)
    }
}
