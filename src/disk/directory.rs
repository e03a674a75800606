//! One directory of session files, by its descriptor: every call is relative to it and follows no
//! symbolic link, so nothing outside can be reached, whoever renames what meanwhile.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};
use serde::{Deserialize, Serialize};

use super::Place;
use crate::session::name::{Form, RootName, SessionName, Shard};

const NS_PER_SECOND: i64 = 1_000_000_000;
/// How many names of foreign files are listed.
const FOREIGN_TOLD: usize = 10;

/// A directory of session files.
#[derive(Debug)]
pub(crate) struct Directory {
    pub root: OwnedFd,
    /// Where retired files go, in the same layout; without it they are deleted.
    pub archive: Option<OwnedFd>,
    /// Whose the written files are: user and group.
    pub owner: Option<(u32, u32)>,
    /// A longer file is no session.
    pub session_max_bytes: u64,
}

/// What lies beside session files.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Others {
    /// Temp files of saves and upload spools: Odoo's own, and of no use to anybody any more.
    pub temporary: u64,
    /// What Odoo would never name so.
    pub foreign: u64,
    /// The first of those, in a form that can be shown.
    pub foreign_names: Vec<String>,
}

/// A file's content and what is kept of its inode.
#[derive(Debug)]
pub(crate) struct Found {
    pub bytes: Vec<u8>,
    /// Its mtime, nanoseconds since the epoch.
    pub mtime_ns: i64,
    pub mode: u32,
}

/// What a look for a file came to.
#[derive(Debug)]
pub(crate) enum Look {
    Found(Found),
    Absent,
    /// It is longer than a session may be.
    TooLong,
}

impl Directory {
    /// Every session file, in no order; what else is there is counted.
    pub(crate) fn list(
        &self,
        mut each: impl FnMut(String) -> io::Result<()>,
    ) -> io::Result<Others> {
        let mut others = Others::default();
        let mut shards = Vec::new();
        for_each_entry(self.root.as_fd(), |name, kind| {
            let Some(text) = name.to_str().ok() else {
                others.note_foreign(&name.to_string_lossy());
                return Ok(());
            };
            match (RootName::parse(text), kind) {
                (RootName::Shard(shard), Type::Directory) => shards.push(shard),
                (RootName::Session(_), Type::File) => each(text.to_owned())?,
                (RootName::Staging | RootName::Spool(_), Type::File) => others.temporary += 1,
                _ => others.note_foreign(text),
            }
            Ok(())
        })?;
        for shard in shards {
            let Some(directory) = absent_as_none(subdirectory(self.root.as_fd(), shard))? else {
                continue;
            };
            for_each_entry(directory.as_fd(), |name, kind| {
                let text = name.to_string_lossy();
                match SessionName::in_shard(shard, &text) {
                    Some(_) if kind == Type::File => each(format!("{shard}/{text}")),
                    _ => {
                        others.note_foreign(&format!("{shard}/{text}"));
                        Ok(())
                    }
                }
            })?;
        }
        Ok(others)
    }

    /// What stands at the top that Odoo would never name so, in a form that can be shown; whether
    /// there is anything at all.
    pub(crate) fn look_at_top(root: BorrowedFd<'_>) -> io::Result<(bool, Others)> {
        let mut others = Others::default();
        let mut any = false;
        for_each_entry(root, |name, kind| {
            any = true;
            let text = name.to_string_lossy();
            let odoos = match RootName::parse(&text) {
                RootName::Shard(_) => kind == Type::Directory,
                RootName::Session(_) | RootName::Staging | RootName::Spool(_) => kind == Type::File,
                RootName::Other => false,
            };
            if !odoos {
                others.note_foreign(&text);
            }
            Ok(())
        })?;
        Ok((any, others))
    }

    /// The content of a file.
    pub(crate) fn read(&self, place: &Place) -> io::Result<Look> {
        let Some(parent) = absent_as_none(self.parent(place))? else { return Ok(Look::Absent) };
        let opened = openat(
            parent.as_fd(),
            place.sid.entry(place.form).as_str(),
            // NONBLOCK: a FIFO put in its place would be waited for.
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC,
            Mode::empty(),
        );
        let Some(file) = absent_as_none(opened.map_err(io::Error::from))? else {
            return Ok(Look::Absent);
        };
        let stat = fstat(&file)?;
        // With a second name it may be a file that its namer had no right to read; we have. A backup
        // of hard links (`cp -al`) has the owner's own.
        let is_owners = self.owner.is_some_and(|(uid, _)| uid == stat.st_uid);
        if !is_regular(stat.st_mode) || (stat.st_nlink != 1 && !is_owners) {
            return Err(io::Error::other("not a regular file with one name"));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or(0).min(1 << 20));
        File::from(file).take(self.session_max_bytes + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > self.session_max_bytes {
            return Ok(Look::TooLong);
        }
        Ok(Look::Found(Found {
            bytes,
            mtime_ns: stat
                .st_mtime
                .saturating_mul(NS_PER_SECOND)
                .saturating_add(stat.st_mtime_nsec),
            mode: stat.st_mode & 0o777,
        }))
    }

    /// Moves a file to the archive, or deletes it. A missing one is no error.
    pub(crate) fn retire(&self, place: &Place) -> io::Result<()> {
        let Some(parent) = absent_as_none(self.parent(place))? else { return Ok(()) };
        let name = place.sid.entry(place.form);
        if let Some(archive) = &self.archive {
            let target = match place.form {
                Form::Flat => archive.try_clone()?,
                Form::Sharded => made_subdirectory(archive.as_fd(), place.sid.shard(), 0o700)?.0,
            };
            match renameat(&parent, name.as_str(), &target, name.as_str()) {
                Ok(()) | Err(Errno::ENOENT) => return Ok(()),
                // The archive is on another filesystem: a copy, then the removal.
                Err(Errno::EXDEV) => {
                    let Look::Found(found) = self.read(place)? else { return Ok(()) };
                    write_file(target.as_fd(), target.as_fd(), &name, &found, None)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        match unlinkat(&parent, name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a file anew, as Odoo does: a temp file in the root, then a rename.
    pub(crate) fn write(&self, place: &Place, found: &Found) -> io::Result<()> {
        let target = match place.form {
            Form::Flat => self.root.try_clone()?,
            Form::Sharded => {
                let (directory, new) =
                    made_subdirectory(self.root.as_fd(), place.sid.shard(), 0o755)?;
                if let (true, Some((uid, gid))) = (new, self.owner) {
                    fchown(&directory, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
                }
                directory
            }
        };
        let name = place.sid.entry(place.form);
        write_file(self.root.as_fd(), target.as_fd(), &name, found, self.owner)
    }

    /// Removes the shard directories that are empty.
    pub(crate) fn tidy(&self) -> io::Result<()> {
        let mut shards = Vec::new();
        for_each_entry(self.root.as_fd(), |name, kind| {
            if kind == Type::Directory {
                shards.extend(name.to_str().ok().and_then(Shard::parse));
            }
            Ok(())
        })?;
        for shard in shards {
            match unlinkat(&self.root, shard.as_str(), UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The directory that a file stands in.
    fn parent(&self, place: &Place) -> io::Result<OwnedFd> {
        match place.form {
            Form::Flat => self.root.try_clone(),
            Form::Sharded => subdirectory(self.root.as_fd(), place.sid.shard()),
        }
    }
}

impl Others {
    /// The foreign ones in words.
    pub(crate) fn names(&self) -> String {
        let more = self.foreign.saturating_sub(self.foreign_names.len() as u64);
        let names = self.foreign_names.join(", ");
        if more == 0 { names } else { format!("{names} and {more} more") }
    }

    fn note_foreign(&mut self, name: &str) {
        self.foreign += 1;
        if self.foreign_names.len() < FOREIGN_TOLD {
            self.foreign_names.push(showable(name));
        }
    }
}

/// A foreign name as it may be shown: somebody's copy of a session file has the session id in its
/// name, so every long word keeps its first characters only.
pub(crate) fn showable(name: &str) -> String {
    const WORD_MAX_CHARS: usize = 24;
    const KEPT_CHARS: usize = 4;
    const LENGTH_MAX_CHARS: usize = 80;
    let mut shown = String::new();
    let in_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    for part in name.split_inclusive(|c| !in_word(c)) {
        let word = part.trim_end_matches(|c| !in_word(c));
        if word.len() > WORD_MAX_CHARS {
            // Only ASCII is in a word.
            let _ = write!(shown, "{}...", &word[..KEPT_CHARS]);
        } else {
            shown.push_str(word);
        }
        shown.extend(part[word.len()..].escape_debug());
    }
    shown.chars().take(LENGTH_MAX_CHARS).collect()
}

/// Calls `each` with the names in a directory and what they are.
fn for_each_entry(
    directory: BorrowedFd<'_>,
    mut each: impl FnMut(&std::ffi::CStr, Type) -> io::Result<()>,
) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut listing = Dir::openat(directory, ".", flags, Mode::empty())?;
    for entry in listing.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            Some(kind) => kind,
            // Some filesystems do not tell.
            None => match nix::sys::stat::fstatat(
                directory,
                name,
                nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
            ) {
                Ok(stat) if is_regular(stat.st_mode) => Type::File,
                Ok(stat) if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() => {
                    Type::Directory
                }
                Ok(_) => Type::Symlink,
                Err(Errno::ENOENT) => continue,
                Err(error) => return Err(error.into()),
            },
        };
        each(name, kind)?;
    }
    Ok(())
}

fn is_regular(mode: u32) -> bool {
    mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits()
}

fn subdirectory(root: BorrowedFd<'_>, shard: Shard) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(root, shard.as_str(), flags, Mode::empty())?)
}

/// The same, made if it is not there; whether it was.
fn made_subdirectory(root: BorrowedFd<'_>, shard: Shard, mode: u32) -> io::Result<(OwnedFd, bool)> {
    let new = match mkdirat(root, shard.as_str(), Mode::from_bits_truncate(mode)) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(error) => return Err(error.into()),
    };
    Ok((subdirectory(root, shard)?, new))
}

/// Writes `name` in `target` by way of a temp file in `root`.
fn write_file(
    root: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    name: &str,
    found: &Found,
    owner: Option<(u32, u32)>,
) -> io::Result<()> {
    // The shape of mkstemp's names: Odoo's own leftovers look alike and are left alone alike.
    let temp = format!("tmp{:08x}.__wz_sess", rand::random::<u32>());
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
    let file =
        openat(root, temp.as_str(), flags | OFlag::O_CLOEXEC, Mode::from_bits_truncate(0o600))?;
    let written = (|| {
        let mut file = File::from(file);
        file.write_all(&found.bytes)?;
        if let Some((uid, gid)) = owner {
            fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        fchmod(&file, Mode::from_bits_truncate(found.mode & 0o777))?;
        let (seconds, ns) =
            (found.mtime_ns.div_euclid(NS_PER_SECOND), found.mtime_ns.rem_euclid(NS_PER_SECOND));
        let mtime = TimeSpec::new(seconds, ns);
        futimens(&file, &mtime, &mtime)?;
        renameat(root, temp.as_str(), target, name)?;
        Ok(())
    })();
    if written.is_err() {
        // What could not be written is not left lying about; that it cannot be removed changes
        // nothing of what is listed.
        let _ = unlinkat(root, temp.as_str(), UnlinkatFlags::NoRemoveDir);
    }
    written
}

fn absent_as_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::Path;

    use super::*;

    const HEX: &str = "ab0123456789012345678901234567890123456f";

    fn open(path: &Path) -> OwnedFd {
        File::open(path).expect("a directory").into()
    }

    fn directory(root: &Path, archive: Option<&Path>) -> Directory {
        Directory {
            root: open(root),
            archive: archive.map(open),
            owner: None,
            session_max_bytes: 100,
        }
    }

    fn place(path: &str) -> Place {
        Place::parse(path).expect("a place")
    }

    fn found(bytes: &[u8]) -> Found {
        Found { bytes: bytes.to_vec(), mtime_ns: 1_600_000_000_123_456_789, mode: 0o640 }
    }

    #[test]
    fn what_is_written_is_read_listed_and_retired() {
        let (root, archive) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let disk = directory(root.path(), Some(archive.path()));
        for path in [format!("ab/{HEX}"), format!("werkzeug_{HEX}.sess")] {
            let place = place(&path);
            assert!(matches!(disk.read(&place).unwrap(), Look::Absent));
            disk.write(&place, &found(b"{}")).unwrap();
            let Look::Found(read) = disk.read(&place).unwrap() else { panic!("not there") };
            assert_eq!((read.bytes.as_slice(), read.mode), (&b"{}"[..], 0o640));
            assert_eq!(read.mtime_ns, found(b"").mtime_ns);
            let mut names = Vec::new();
            let others = disk
                .list(|name| {
                    names.push(name);
                    Ok(())
                })
                .unwrap();
            assert_eq!((names, others), (vec![path.clone()], Others::default()));
            disk.retire(&place).unwrap();
            disk.retire(&place).unwrap();
            assert!(matches!(disk.read(&place).unwrap(), Look::Absent));
            let moved = std::fs::metadata(archive.path().join(&path)).unwrap();
            assert_eq!(moved.mtime(), 1_600_000_000);
        }
        disk.tidy().unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn nothing_outside_is_reached_by_links() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let disk = directory(root.path(), None);
        std::fs::write(outside.path().join(HEX), "secret").unwrap();
        symlink(outside.path(), root.path().join("ab")).unwrap();
        let sharded = place(&format!("ab/{HEX}"));
        assert!(disk.read(&sharded).is_err());
        assert!(disk.write(&sharded, &found(b"x")).is_err());
        assert!(disk.retire(&sharded).is_err());
        let flat = place(&format!("werkzeug_{HEX}.sess"));
        let path = root.path().join(flat.path());
        symlink(outside.path().join(HEX), &path).unwrap();
        assert!(disk.read(&flat).is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::hard_link(outside.path().join(HEX), &path).unwrap();
        assert!(disk.read(&flat).is_err());
        let others = disk.list(|_| Ok(())).unwrap();
        assert_eq!(others.foreign_names, ["ab"]);
        assert_eq!(std::fs::read(outside.path().join(HEX)).unwrap(), b"secret");
    }

    #[test]
    fn a_file_that_is_too_long_is_told_from_one_that_fits() {
        let root = tempfile::tempdir().unwrap();
        let disk = directory(root.path(), None);
        let place = place(&format!("ab/{HEX}"));
        disk.write(&place, &found(&[b'x'; 100])).unwrap();
        assert!(matches!(disk.read(&place).unwrap(), Look::Found(_)));
        disk.write(&place, &found(&[b'x'; 101])).unwrap();
        assert!(matches!(disk.read(&place).unwrap(), Look::TooLong));
        disk.retire(&place).unwrap();
        assert!(matches!(disk.read(&place).unwrap(), Look::Absent));
    }

    #[test]
    fn foreign_names_are_shown_without_a_session_id() {
        assert_eq!(showable("README.txt"), "README.txt");
        assert_eq!(showable(&format!("werkzeug_{HEX}.sess.bak")), "werk....sess.bak");
        assert_eq!(showable(&format!("{HEX}.bak")), "ab01....bak");
        assert_eq!(showable("a\nb"), "a\\nb");
        let others = {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir(root.path().join("ab")).unwrap();
            std::fs::write(root.path().join("ab/abc"), "").unwrap();
            std::fs::write(root.path().join("tmpabcdefgh.__wz_sess"), "").unwrap();
            directory(root.path(), None).list(|_| Ok(())).unwrap()
        };
        let expected =
            Others { temporary: 1, foreign: 1, foreign_names: vec!["ab/abc".to_owned()] };
        assert_eq!(others, expected);
    }
}
