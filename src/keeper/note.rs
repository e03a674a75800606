//! What a keeper notes for the next one beside the connection itself: in a file without a name that only keepers open.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::uio::{pread, pwrite};
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// The text and its length before it.
const LENGTH_BYTES: usize = 4;
const TEXT_MAX_BYTES: usize = 256 * 1024;

/// Of one mount.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Note {
    /// The kernel's first request, as it has sent it.
    pub init: Vec<u8>,
    /// The number of the filesystem's device, as the mount table shows it.
    pub filesystem: String,
    /// What it is served with: some of it cannot change while it is mounted.
    pub config: Config,
    /// Since when no worker has served it for long: milliseconds of the monotonic clock.
    pub unserved_since_ms: Option<u64>,
    /// The name under which the program was installed, and its successor will be.
    #[serde(default)]
    pub program: Option<PathBuf>,
    /// What the last reload failed of.
    #[serde(default)]
    pub last_reload_error: Option<String>,
    /// The private Redis, if it goes on.
    #[serde(default)]
    pub private_redis_pid: Option<i32>,
}

/// The file.
#[derive(Debug)]
pub(super) struct NoteFile(OwnedFd);

impl NoteFile {
    /// An empty one.
    pub(super) fn create() -> io::Result<Self> {
        Ok(Self(memfd_create("sessionfs-note", MFdFlags::MFD_CLOEXEC)?))
    }

    /// One that an earlier keeper has written.
    pub(super) fn found(file: OwnedFd) -> Self {
        Self(file)
    }

    /// In the place of what is in it.
    pub(super) fn write(&self, note: &Note) -> io::Result<()> {
        let text = serde_json::to_vec(note)?;
        let length = u32::try_from(text.len()).map_err(io::Error::other)?;
        if text.len() > TEXT_MAX_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let all = [&length.to_le_bytes()[..], &text].concat();
        match pwrite(&self.0, &all, 0)? {
            written if written == all.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    pub(super) fn read(&self) -> io::Result<Note> {
        let mut bytes = vec![0; LENGTH_BYTES + TEXT_MAX_BYTES];
        let read = pread(&self.0, &mut bytes, 0)?;
        let (length, rest) =
            bytes[..read].split_first_chunk::<LENGTH_BYTES>().ok_or(io::ErrorKind::InvalidData)?;
        let text =
            rest.get(..u32::from_le_bytes(*length) as usize).ok_or(io::ErrorKind::InvalidData)?;
        Ok(serde_json::from_slice(text)?)
    }
}

impl AsFd for NoteFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
