//! Everything that a benchmark created, so that nothing of it stays.

use std::collections::HashSet;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::unlink;

use super::Error;

/// Files and shard directories to remove. A panic removes them, too.
#[derive(Debug, Default)]
pub(crate) struct Made {
    sessions: HashSet<PathBuf>,
    shards: HashSet<PathBuf>,
}

impl Made {
    /// Remembers a session before it is created, so that no moment is left uncovered.
    pub(crate) fn session(&mut self, path: &std::path::Path) {
        if !self.sessions.contains(path) {
            self.sessions.insert(path.to_owned());
        }
    }

    /// Remembers a shard directory that was created for one.
    pub(crate) fn shard(&mut self, path: &std::path::Path) {
        self.shards.insert(path.to_owned());
    }

    /// Removes one session now.
    pub(crate) fn unlink(&mut self, path: &std::path::Path) -> Result<(), Errno> {
        self.sessions.remove(path);
        remove(path)
    }

    /// Takes over what `other` remembers.
    pub(crate) fn merge(&mut self, mut other: Self) {
        self.sessions.extend(std::mem::take(&mut other.sessions));
        self.shards.extend(std::mem::take(&mut other.shards));
    }

    /// Removes everything; the first failure is reported after all was tried.
    pub(crate) fn remove(mut self) -> Result<(), Error> {
        self.remove_all()
    }

    fn remove_all(&mut self) -> Result<(), Error> {
        let mut first = None;
        let mut failed = 0_usize;
        for path in self.sessions.drain() {
            if let Err(errno) = remove(&path) {
                failed += 1;
                first.get_or_insert((path, errno));
            }
        }
        for shard in self.shards.drain() {
            // Odoo, or another benchmark, may have put a session there meanwhile.
            let _ = std::fs::remove_dir(shard);
        }
        let Some((path, errno)) = first else { return Ok(()) };
        let folder = path.parent().unwrap_or(&path);
        Err(Error::Directory {
            path: folder.to_owned(),
            what: format!("cannot remove {failed} sessions of this benchmark: {}", errno.desc()),
            remedy: "on a mount they expire; elsewhere delete the newest files",
        })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = self.remove_all();
    }
}

/// Unlinks; that it is gone already is as good.
fn remove(path: &std::path::Path) -> Result<(), Errno> {
    loop {
        match unlink(path) {
            Err(Errno::EINTR) => {}
            Err(Errno::ENOENT) => return Ok(()),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_was_made_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, shared) = (folder.path().join("aa"), folder.path().join("bb"));
        let mut made = Made::default();
        for shard in [&ours, &shared] {
            std::fs::create_dir(shard).unwrap();
            made.shard(shard);
            std::fs::write(shard.join("x"), "").unwrap();
            made.session(&shard.join("x"));
        }
        std::fs::write(shared.join("real"), "").unwrap();
        made.session(&folder.path().join("never created"));
        made.remove().unwrap();
        assert!(!ours.exists());
        assert!(shared.join("real").exists() && !shared.join("x").exists());
    }

    #[test]
    fn dropped_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "").unwrap();
        let mut made = Made::default();
        made.session(&path);
        drop(made);
        assert!(!path.exists());
    }
}
