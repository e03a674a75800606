//! The secrets of the cluster, read from their file for the workers, which have no right to it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::config::secret_file;
use crate::exit::{ExitCode, Failure};
use crate::session::secret::Secret;
use crate::sync::lock;

/// What was read last. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Secrets(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    /// From where.
    path: PathBuf,
    secrets: Vec<Secret>,
    /// Why the file cannot be used, if that was logged.
    complaint: Option<String>,
}

impl Secrets {
    /// The secrets in the file; none if there is no file. Where it cannot be used any more, those
    /// that were read before: a mount is not given up for a file that nobody needs now.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<Secret>, Failure> {
        let mut known = lock(&self.0);
        let was_read = known.path == path;
        let complaint = match secret_file::read(path) {
            Ok(secrets) if !secrets.is_empty() => {
                let path = path.to_owned();
                *known = Known { path, secrets: secrets.clone(), complaint: None };
                return Ok(secrets);
            }
            found if !was_read => return found,
            Ok(_) => format!("secret file {}: there is no such file", path.display()),
            Err(failure) => failure.to_string(),
        };
        if known.complaint.as_ref() != Some(&complaint) {
            tracing::error!(
                "{complaint}; this server goes on with what it has read before, and cannot start \
                 again without: copy it from another server, or from the backup"
            );
            known.complaint = Some(complaint);
        }
        Ok(known.secrets.clone())
    }

    /// Whether another keeper finds what was read: it has not what this one has read before.
    pub(super) fn check(&self, path: &Path) -> Result<(), Failure> {
        let found = secret_file::read(path)?;
        let known = lock(&self.0);
        if found.is_empty() && !known.secrets.is_empty() && known.path == path {
            return Err(Failure::new(
                ExitCode::Secret,
                format!(
                    "secret file {}: there is no such file; copy it from another server, or from \
                     the backup",
                    path.display()
                ),
            ));
        }
        Ok(())
    }

    /// Makes the file if there is none: this is the first server of its Redis.
    pub(super) fn make(&self, path: &Path) -> Result<Vec<Secret>, Failure> {
        let secrets = self.read(path)?;
        if !secrets.is_empty() {
            return Ok(secrets);
        }
        if let Some(made) = secret_file::create(path)? {
            tracing::warn!(
                event = "secret_made",
                file = %path.display(), secret = %made.fingerprint(),
                "made the secret of this Redis: copy it to a backup, and to every further server \
                 (sessionfs secret export)"
            );
        }
        self.read(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_lost_later_costs_nothing_now() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let secrets = Secrets::default();
        assert_eq!(secrets.read(&path).unwrap(), []);
        let made = secrets.make(&path).unwrap();
        assert_eq!(made.len(), 1);
        assert_eq!(secrets.make(&path).unwrap(), made);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(secrets.read(&path).unwrap(), made);
        std::fs::write(&path, "rubbish").unwrap();
        assert_eq!(secrets.read(&path).unwrap(), made);
        // Who has never read it fails.
        assert!(Secrets::default().read(&path).is_err());
    }
}
