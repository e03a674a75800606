//! What a keeper notes for the next one beside the connection itself: in a file without a name that only keepers open.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::uio::{pread, pwrite};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::Config;
use crate::config::flags::Flags;
use crate::handoff::Ended;

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
    /// How the last worker has ended, if its keeper has left the mount to another one on purpose. Otherwise that keeper
    /// has died, and its worker with it.
    #[serde(default)]
    pub left: Option<Ended>,
    /// The worker that was told to serve last: its number, and when it was started in ticks of proc(5).
    #[serde(default)]
    pub worker: Option<(i32, u64)>,
    /// How many keepers in a row have served it and have died before a worker served it for long.
    #[serde(default)]
    pub short_lived: u32,
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
        parse(text)
    }
}

/// The note of whichever version. A key that this one has and that one had not is what it is without a configuration.
fn parse(text: &[u8]) -> io::Result<Note> {
    let mut noted: Value = serde_json::from_slice(text)?;
    if let Ok(note) = Note::deserialize(&noted) {
        return Ok(note);
    }
    let config = &mut noted["config"];
    let mountpoint = config["mountpoint"].as_str().ok_or(io::ErrorKind::InvalidData)?;
    let defaults = Config::resolve(Path::new(mountpoint), &Flags::default());
    let mut complete = serde_json::to_value(defaults.map_err(io::Error::other)?)?;
    lay_over(&mut complete, config.take());
    *config = complete;
    Ok(Note::deserialize(&noted)?)
}

/// Each key of the second takes the place of that of the first.
fn lay_over(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                lay_over(below.entry(key).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above,
    }
}

impl AsFd for NoteFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As version 0.1 writes it. A later version can go on with its mounts.
    const OF_0_1: &str = include_str!("../../tests/fixtures/note-0.1.json");

    #[test]
    fn the_note_of_a_released_version_is_read() {
        let note = parse(OF_0_1.as_bytes()).unwrap();
        assert_eq!(note.filesystem, "0:88");
        assert_eq!(note.config.mountpoint, Path::new("/var/lib/odoo/sessions"));
    }

    #[test]
    fn a_key_that_the_other_version_does_not_have_is_none_that_is_missed() {
        let whole: Value = serde_json::from_str(OF_0_1).unwrap();
        let keys = whole["config"].as_object().unwrap().keys().filter(|key| *key != "mountpoint");
        for key in keys {
            let mut less = whole.clone();
            less["config"].as_object_mut().unwrap().remove(key);
            less["config"]["of_another_version"] = 1.into();
            less["of_another_version"] = 1.into();
            let note = parse(less.to_string().as_bytes()).unwrap();
            assert_eq!(note.config.mountpoint, Path::new("/var/lib/odoo/sessions"), "{key}");
        }
        let mut less = whole;
        less["config"]["limits"].as_object_mut().unwrap().remove("inodes");
        less["config"]["limits"]["session_bytes"] = 7.into();
        let limits = parse(less.to_string().as_bytes()).unwrap().config.limits;
        assert_eq!((limits.session_bytes, limits.inodes), (7, 1_000_000));
    }
}
