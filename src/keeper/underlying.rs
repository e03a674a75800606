//! The underlying directory of a mount: made unusable to Odoo when it is mounted on, and given back
//! as it was.
//!
//! Whose it was is noted on the directory itself, in an extended attribute that only root can read
//! or write. So the note goes where the directory goes, and no mount is without one, whoever set it
//! up. A filesystem without such attributes has none: then the configuration says whose it is.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};

use crate::disk::directory::Directory;
use crate::exit::{ExitCode, Failure};
use crate::host::directory::{self, Ownership};
use crate::host::mount::{beneath, is_ours};

const NOTE: &str = "trusted.sessionfs.underlying";
/// Two numbers of ten digits, a mode, and colons.
const NOTE_MAX_BYTES: usize = 32;
const PERMISSIONS: u32 = 0o7777;

/// Takes a directory away from Odoo's user: whenever the mount is missing, Odoo then gets an error,
/// and does not silently go on with sessions on this disk.
pub(crate) fn make_unusable(directory: &File) -> io::Result<()> {
    let found = directory.metadata()?;
    let is_roots = found.uid() == 0 && found.gid() == 0;
    if is_roots && is_closed(&found) {
        return Ok(());
    }
    let owner = Ownership::of(&found);
    if let Err(error) = note(directory, &owner) {
        tracing::debug!(%error, "cannot record the former owner of the underlying directory in an \
                                 extended attribute");
    }
    if !is_roots {
        fchown(directory, Some(0), Some(0))?;
    }
    directory.set_permissions(Permissions::from_mode(0o000))
}

/// Gives the underlying directory back as it was, mounted on or not; to `otherwise` where that is
/// not noted. Tells whose it is then; one that is usable stays as it is.
pub(crate) fn release(path: &Path, otherwise: &Ownership) -> Result<Ownership, Failure> {
    let failed = |error: io::Error| {
        let code = match error.kind() {
            io::ErrorKind::NotADirectory => ExitCode::NotADirectory,
            _ => ExitCode::MountpointMissing,
        };
        Failure::new(
            code,
            format!("directory {}: {error}; name Odoo's session directory", path.display()),
        )
    };
    let directory = open(path).map_err(failed)?;
    let found = directory.metadata().map_err(failed)?;
    if found.uid() != 0 || !is_closed(&found) {
        return Ok(Ownership::of(&found));
    }
    let owner = noted(&directory).unwrap_or(*otherwise);
    fchown(&directory, Some(owner.owner_uid), Some(owner.owner_gid))
        .and_then(|()| directory.set_permissions(Permissions::from_mode(owner.mode)))
        .map_err(|e| Failure::internal(format!("give {} back", path.display()), e))?;
    forget(&directory);
    Ok(owner)
}

/// Moves the files of imports that were not completed back to where Odoo has put them, for Odoo to
/// find. How many they were.
pub(crate) fn restore(path: &Path, owner: &Ownership) -> Result<u64, Failure> {
    let failed = |e| Failure::internal(format!("restore session files of {}", path.display()), e);
    let directory = Directory {
        root: open(path).map_err(failed)?.into(),
        archive: None,
        owner: Some((owner.owner_uid, owner.owner_gid)),
        session_max_bytes: 0,
    };
    directory.restore().map_err(failed)
}

/// Whether it has none of its nine permission bits, so that nobody but root can use it.
fn is_closed(found: &Metadata) -> bool {
    matches!(found.mode() & 0o777, 0)
}

/// Opens the underlying directory, without touching what is mounted on it.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    if is_ours(path) {
        beneath(path).and_then(|(_tree, path)| directory::open(&path))
    } else {
        directory::open(path)
    }
}

fn note(directory: &File, owner: &Ownership) -> io::Result<()> {
    let text = format!("{}:{}:{:o}", owner.owner_uid, owner.owner_gid, owner.mode);
    fsetxattr(directory, NOTE, text.as_bytes(), XattrFlags::empty())?;
    Ok(())
}

fn noted(directory: &File) -> Option<Ownership> {
    let mut text = [0_u8; NOTE_MAX_BYTES];
    let length = fgetxattr(directory, NOTE, &mut text).ok()?;
    parse(std::str::from_utf8(text.get(..length)?).ok()?)
}

fn parse(text: &str) -> Option<Ownership> {
    let mut parts = text.split(':');
    let (uid, gid, mode) = (parts.next()?, parts.next()?, parts.next()?);
    let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= PERMISSIONS)?;
    let owner = Ownership { owner_uid: uid.parse().ok()?, owner_gid: gid.parse().ok()?, mode };
    parts.next().is_none().then_some(owner)
}

/// A note that stays is overwritten at the next mount.
fn forget(directory: &File) {
    let _ = fremovexattr(directory, NOTE);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELSEWHERE: Ownership = Ownership { owner_uid: 4242, owner_gid: 4343, mode: 0o700 };

    fn state(path: &Path) -> (u32, u32, u32) {
        let found = path.metadata().unwrap();
        (found.uid(), found.gid(), found.mode() & PERMISSIONS)
    }

    // As root, like every test that mounts.
    #[test]
    fn a_directory_is_given_back_as_it_was() {
        // Not every tmpfs and no NFS has such attributes, so both ways are tried on one that may.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path();
        fchown(File::open(path).unwrap(), Some(1234), Some(2345)).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(0o2751)).unwrap();
        let directory = open(path).unwrap();
        make_unusable(&directory).unwrap();
        assert_eq!(state(path), (0, 0, 0));
        // A second mount does not note root's.
        make_unusable(&directory).unwrap();
        assert_eq!(release(path, &ELSEWHERE).unwrap().owner_uid, 1234);
        assert_eq!(state(path), (1234, 2345, 0o2751));
        assert_eq!(noted(&directory), None);
        // Usable as it is.
        release(path, &ELSEWHERE).unwrap();
        assert_eq!(state(path), (1234, 2345, 0o2751));
        make_unusable(&directory).unwrap();
        forget(&directory);
        assert_eq!(release(path, &ELSEWHERE).unwrap(), ELSEWHERE);
        assert_eq!(state(path), (4242, 4343, 0o700));
    }

    #[test]
    fn only_a_whole_note_is_believed() {
        assert_eq!(parse("1:2:755"), Some(Ownership { owner_uid: 1, owner_gid: 2, mode: 0o755 }));
        for text in ["", "1", "1:2", "1:2:", "1:2:8", "1:2:77777", "-1:2:7", "1:2:7:0", "a:b:c"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
