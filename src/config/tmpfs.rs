//! The limits of what a mount keeps on a tmpfs. That is mostly `/run`, which the whole host needs: once it is full, systemd
//! reads no units, and no keeper can write what it has to. Whoever can write through the mount must not fill it.

use super::Config;
use crate::host::directory::filesystem_bytes;

/// What staging files may take, and kept changes as well, is the size of the tmpfs divided by this.
const PARTS: u64 = 4;

impl Config {
    /// Lowers the limits of what lies on the tmpfs of the staging directory, each to a quarter of its size. Returns
    /// what was lowered: the key, and its limit in bytes.
    pub(crate) fn leave_room_on_tmpfs(&mut self) -> Vec<(&'static str, u64)> {
        let Some(size_bytes) = self.staging_dir.parent().and_then(filesystem_bytes) else {
            return Vec::new();
        };
        let most_bytes = size_bytes / PARTS;
        let spool_bytes =
            self.spool.as_mut().map(|spool| ("outage.spool_max", &mut spool.max_bytes));
        let limits = [Some(("limits.staging", &mut self.limits.staging_bytes)), spool_bytes];
        let mut lowered = Vec::new();
        for (key, bytes) in limits.into_iter().flatten() {
            if *bytes > most_bytes {
                *bytes = most_bytes;
                lowered.push((key, most_bytes));
            }
        }
        lowered
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::flags::Flags;

    #[test]
    fn what_lies_on_a_tmpfs_leaves_half_of_it_to_others() {
        let mut config = Config::resolve(Path::new("/mnt"), &Flags::default()).unwrap();
        config.staging_dir = "/dev/shm/sessionfs/mnt".into();
        let size_bytes = filesystem_bytes(Path::new("/dev/shm")).unwrap();
        config.limits.staging_bytes = size_bytes;
        config.spool.as_mut().unwrap().max_bytes = size_bytes / PARTS;
        assert_eq!(config.leave_room_on_tmpfs(), [("limits.staging", size_bytes / PARTS)]);
        assert_eq!(config.limits.staging_bytes, size_bytes / PARTS);
        // It is low enough now.
        assert_eq!(config.leave_room_on_tmpfs(), []);
        config.spool.as_mut().unwrap().max_bytes += 1;
        assert_eq!(config.leave_room_on_tmpfs(), [("outage.spool_max", size_bytes / PARTS)]);
    }
}
