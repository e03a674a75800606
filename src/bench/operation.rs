//! One read and one save, system call for system call as Python makes them for Odoo.
//!
//! The calls were taken from traces of real servers, and are listed in `docs/performance.md`.

use std::io::IsTerminal as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat, stat};
use nix::unistd::{Whence, close, lseek, mkdir, read as read_fd, unlink, write};

use super::session::{Format, Paths};

/// What a buffered writer of Python hands to the kernel at a time.
const WRITE_BYTES: usize = 8192;
/// What `pickle.load` reads at a time.
const PICKLE_READ_BYTES: usize = 4096;

/// A call that failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub step: &'static str,
    pub errno: Errno,
}

/// Calls again after an interruption, as Python does for its own calls (PEP 475).
fn again<T>(step: &'static str, mut call: impl FnMut() -> nix::Result<T>) -> Result<T, Fault> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other.map_err(|errno| Fault { step, errno }),
        }
    }
}

/// Reads a session into `bytes`; `false` if there is none.
pub(crate) fn read(format: Format, paths: &Paths, bytes: &mut Vec<u8>) -> Result<bool, Fault> {
    if let Some(probe) = &paths.probe {
        // Odoo moves a flat file to its shard, unless there is one already: on a mount both names
        // may lead to the one session.
        if exists("look up the flat name", probe)? && !exists("look up a session", &paths.session)?
        {
            return Err(Fault { step: "look up a session", errno: Errno::ENOENT });
        }
    }
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let file = match again("open a session", || open(&paths.session, flags, Mode::empty())) {
        Err(Fault { errno: Errno::ENOENT, .. }) => return Ok(false),
        other => other?,
    };
    status(&file)?;
    file.is_terminal();
    position(&file)?;
    if format.json() {
        position(&file)?;
        let size = usize::try_from(status(&file)?).unwrap_or(0);
        bytes.resize(size + 1, 0);
        let mut filled = 0;
        // To the end of the file, which only a read of nothing shows.
        loop {
            let count = again("read a session", || read_fd(&file, &mut bytes[filled..]))?;
            filled += count;
            if count == 0 || filled == bytes.len() {
                break;
            }
        }
        bytes.truncate(filled);
    } else {
        read_pickle(&file, bytes)?;
    }
    finish("close a session", file)?;
    Ok(true)
}

/// As `os.path.isfile`, but an unexpected error is not taken for an absence.
fn exists(step: &'static str, path: &Path) -> Result<bool, Fault> {
    match again(step, || stat(path)) {
        Ok(_) => Ok(true),
        Err(Fault { errno: Errno::ENOENT, .. }) => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// A pickle says itself where it ends: what fits into one buffer takes one read.
fn read_pickle(file: &OwnedFd, bytes: &mut Vec<u8>) -> Result<(), Fault> {
    bytes.clear();
    loop {
        let start = bytes.len();
        bytes.resize(start + PICKLE_READ_BYTES, 0);
        let count = again("read a session", || read_fd(file, &mut bytes[start..]))?;
        bytes.truncate(start + count);
        if count < PICKLE_READ_BYTES {
            return Ok(());
        }
    }
}

/// Saves `content` as a session by way of `temporary`. Says whether it made the shard directory.
///
/// The temporary file does not stay, whatever happens.
pub(crate) fn save(
    format: Format,
    paths: &Paths,
    temporary: &Path,
    content: &[u8],
) -> Result<bool, Fault> {
    let mut made = false;
    if let Some(shard) = &paths.save_probe
        && !exists("look up a shard directory", shard)?
    {
        made = make_shard(shard)?;
    }
    let flags =
        OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let private = Mode::S_IRUSR | Mode::S_IWUSR;
    let file = again("create a temporary file", || open(temporary, flags, private))?;
    let published = fill(format, file, content).and_then(|()| {
        match rename(temporary, &paths.session) {
            // 19.1 makes the directory only when it is missed.
            Err(Fault { errno: Errno::ENOENT, .. }) if paths.save_probe.is_none() => {
                if let Some(shard) = &paths.shard {
                    made = make_shard(shard)?;
                }
                rename(temporary, &paths.session)
            }
            other => other,
        }
    });
    if published.is_err() {
        // The first fault is the one to report.
        let _ = unlink(temporary);
    }
    published?;
    let readable = std::fs::Permissions::from_mode(0o644);
    again("chmod a session", || {
        std::fs::set_permissions(&paths.session, readable.clone()).map_err(|error| errno(&error))
    })?;
    Ok(made)
}

/// Writes and closes the temporary file.
fn fill(format: Format, file: OwnedFd, content: &[u8]) -> Result<(), Fault> {
    status(&file)?;
    file.is_terminal();
    position(&file)?;
    position(&file)?;
    // A pickle is one frame, written as a whole.
    let at_a_time = if format.json() { WRITE_BYTES } else { content.len().max(1) };
    for mut part in content.chunks(at_a_time) {
        while !part.is_empty() {
            let count = again("write a temporary file", || write(&file, part))?;
            part = &part[count..];
        }
    }
    finish("close a temporary file", file)
}

fn make_shard(shard: &Path) -> Result<bool, Fault> {
    let mode = Mode::from_bits_truncate(0o755);
    match again("create a shard directory", || mkdir(shard, mode)) {
        Ok(()) => Ok(true),
        // Another thread was quicker.
        Err(Fault { errno: Errno::EEXIST, .. }) => Ok(false),
        Err(fault) => Err(fault),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), Fault> {
    again("rename a temporary file", || std::fs::rename(from, to).map_err(|error| errno(&error)))
}

fn status(file: &impl AsFd) -> Result<i64, Fault> {
    again("fstat a file", || fstat(file)).map(|status| status.st_size)
}

fn position(file: &impl AsFd) -> Result<i64, Fault> {
    again("lseek in a file", || lseek(file, 0, Whence::SeekCur))
}

/// Never tried again: after an interrupted close the descriptor is gone.
fn finish(step: &'static str, file: OwnedFd) -> Result<(), Fault> {
    close(file).map_err(|errno| Fault { step, errno })
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::session::Content;

    #[test]
    fn what_is_saved_is_read_back_in_every_format() {
        let folder = tempfile::tempdir().unwrap();
        let mut random = rand::rng();
        for format in [Format::Odoo191, Format::Odoo18, Format::Odoo16, Format::Odoo14] {
            for size in [740, 4096, 20_000] {
                let mut content = Content::new(format, size).unwrap();
                let id = format.random_id(&mut random);
                let paths = Paths::new(format, folder.path(), &id);
                let mut bytes = Vec::new();
                assert!(!read(format, &paths, &mut bytes).unwrap());
                for stamp in [1, 2] {
                    let temporary = format.random_temporary(&mut random, folder.path());
                    let made = save(format, &paths, &temporary, content.stamped(stamp)).unwrap();
                    assert_eq!(made, format.sharded() && stamp == 1);
                    assert!(!temporary.exists());
                    assert!(read(format, &paths, &mut bytes).unwrap());
                    assert_eq!(content.stamp_of(&bytes), Some(stamp));
                }
                let mode = std::fs::metadata(&paths.session).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o644);
                std::fs::remove_file(&paths.session).unwrap();
                if let Some(shard) = &paths.shard {
                    std::fs::remove_dir(shard).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_save_that_fails_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let format = Format::Odoo14;
        let paths = Paths::new(format, folder.path(), "ab");
        // A directory in the place of the session makes the rename fail.
        std::fs::create_dir(&paths.session).unwrap();
        let temporary = folder.path().join("tmp12345678.__wz_sess");
        let fault = save(format, &paths, &temporary, b"x").unwrap_err();
        assert_eq!((fault.step, fault.errno), ("rename a temporary file", Errno::EISDIR));
        assert!(!temporary.exists());
    }
}
