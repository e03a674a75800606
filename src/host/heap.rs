//! The memory of this process.

/// Gives free memory back to the system. glibc keeps it otherwise, if anything behind it is in use.
pub(crate) fn give_back() {
    // SAFETY: it takes no pointer, and touches nothing that is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
