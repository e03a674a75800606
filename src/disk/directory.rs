//! One directory of session files, by its descriptor: every call is relative to it and follows no
//! symbolic link, so nothing outside can be reached, whoever renames what meanwhile.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};
use serde::{Deserialize, Serialize};

use super::names::is_tolerated;
use super::{IMPORT_DIRECTORY, Place, Stage};
use crate::session::name::{Form, RootName, SessionName, Shard};

const NS_PER_SECOND: i64 = 1_000_000_000;
/// How many names of foreign files are listed.
const FOREIGN_TOLD: usize = 10;
/// How often a file is moved to the import directory, which another import may just be removing.
const TAKE_ATTEMPTS: u32 = 5;

/// A directory of session files.
#[derive(Debug)]
pub(crate) struct Directory {
    pub root: OwnedFd,
    /// Where retired files go, in the same layout; without it they are deleted.
    pub archive: Option<OwnedFd>,
    /// Whose the files are: user and group. No other's are touched, since their owner may have moved
    /// a file here that he must not read. `None` for a directory that only root can write to.
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
    /// Tells it from another file of the same name.
    pub inode: u64,
}

/// What became of moving a file to the import directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Take {
    /// It is there now.
    Done,
    /// The file was gone, or it was another one.
    Changed,
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
    /// Every session file, in no order; what else is there is counted. Those in the import directory
    /// come last: a file that is moved there meanwhile is seen in one of its two places.
    pub(crate) fn list(
        &self,
        mut each: impl FnMut(String) -> io::Result<()>,
    ) -> io::Result<Others> {
        let mut others = Others::default();
        list_tree(self.root.as_fd(), &mut others, &mut each)?;
        let Ok(taken) = self.import_directory() else {
            // Somebody else has put it there, and nothing is imported past it.
            others.note_foreign(IMPORT_DIRECTORY);
            return Ok(others);
        };
        if let Some(taken) = taken {
            let mut each_taken = |path: String| each(format!("{IMPORT_DIRECTORY}/{path}"));
            list_tree(taken.as_fd(), &mut others, &mut each_taken)?;
        }
        Ok(others)
    }

    /// What stands at the top that Odoo would never name so, in a form that can be shown; whether
    /// there is anything of Odoo's at all.
    pub(crate) fn look_at_top(root: BorrowedFd<'_>) -> io::Result<(bool, Others)> {
        let mut others = Others::default();
        let mut any = false;
        for_each_entry(root, |name, kind| {
            let text = name.to_string_lossy();
            if is_tolerated(&text, kind) {
                any |= text == IMPORT_DIRECTORY;
                return Ok(());
            }
            any = true;
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
        self.check(&stat)?;
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
            inode: stat.st_ino,
        }))
    }

    /// Moves a file that waits to the import directory, if it still is the one with that inode.
    pub(crate) fn take(&self, place: &Place, inode: u64) -> io::Result<Take> {
        let taken = place.at(Stage::Taken);
        let name = place.sid.entry(place.form);
        let is_it = |parent: &OwnedFd| -> io::Result<bool> {
            let stat = fstatat(parent, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
            let found = absent_as_none(stat.map_err(io::Error::from))?;
            Ok(found.is_some_and(|stat| stat.st_ino == inode))
        };
        for _ in 0..TAKE_ATTEMPTS {
            let Some(parent) = absent_as_none(self.parent(place))? else { break };
            if !is_it(&parent)? {
                break;
            }
            // Another import may have removed the directories, which were empty.
            let Some(target) = absent_as_none(self.made_parent(&taken))? else { continue };
            match renameat(&parent, name.as_str(), &target, name.as_str()) {
                Ok(()) if is_it(&target)? => return Ok(Take::Done),
                Ok(()) => break,
                Err(Errno::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Take::Changed)
    }

    /// Moves a file to the archive, or deletes it. A missing one is no error.
    pub(crate) fn retire(&self, place: &Place) -> io::Result<()> {
        let Some(parent) = absent_as_none(self.parent(place))? else { return Ok(()) };
        let name = place.sid.entry(place.form);
        let stat = fstatat(&parent, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        let Some(stat) = absent_as_none(stat.map_err(io::Error::from))? else { return Ok(()) };
        self.check(&stat)?;
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
                    write_file(target.as_fd(), target.as_fd(), &name, &found, self.owner)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        match unlinkat(&parent, name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses what its owner could have had others read for him: we may read every file, he may not.
    fn check(&self, stat: &FileStat) -> io::Result<()> {
        let refused = |why| Err(io::Error::other(why));
        if !is_regular(stat.st_mode) {
            return refused("it is not a regular file".to_owned());
        }
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        // A backup of hard links (`cp -al`) has the owner's own.
        if stat.st_uid == uid {
            return Ok(());
        }
        // As root saves it, by an Odoo that is started by hand.
        let is_readable =
            stat.st_mode & 0o004 != 0 || (stat.st_mode & 0o040 != 0 && stat.st_gid == gid);
        if stat.st_uid != 0 || !is_readable {
            return refused(format!(
                "it belongs to user {}, and the owner of the tree is user {uid}",
                stat.st_uid
            ));
        }
        if stat.st_nlink != 1 {
            return refused("it belongs to root and has a second name".to_owned());
        }
        Ok(())
    }

    /// Whether files can be moved out of the directory and its shards: why not, if they cannot.
    /// Changes nothing.
    pub(crate) fn check_movable(root: BorrowedFd<'_>) -> io::Result<()> {
        let shards = shards_of(root)?;
        check_writable(root)?;
        for shard in shards {
            if let Some(directory) = absent_as_none(subdirectory(root, shard))? {
                check_writable(directory.as_fd())?;
            }
        }
        open_import_directory(root).map(|_| ())
    }

    /// Moves the files of imports that were not completed back to where Odoo has put them. A file
    /// that Odoo has written there since stays instead. How many were moved.
    pub(crate) fn restore(&self) -> io::Result<u64> {
        let Some(taken) = self.import_directory()? else { return Ok(0) };
        let mut names = Vec::new();
        list_tree(taken.as_fd(), &mut Others::default(), &mut |path| {
            names.push(path);
            Ok(())
        })?;
        let mut restored = 0;
        for place in names.iter().filter_map(|path| Place::parse(path)) {
            let name = place.sid.entry(place.form);
            let Some(parent) = absent_as_none(self.parent(&place.at(Stage::Taken)))? else {
                continue;
            };
            let target = self.made_parent(&place)?;
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&parent, &name, &target, &name, flags) {
                Ok(()) => restored += 1,
                Err(rustix::io::Errno::EXIST) => {
                    unlinkat(&parent, name.as_str(), UnlinkatFlags::NoRemoveDir)?;
                }
                // It was completed at this moment.
                Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        remove_empty_shards(taken.as_fd())?;
        remove_if_empty(self.root.as_fd(), IMPORT_DIRECTORY)?;
        Ok(restored)
    }

    /// Writes a file anew, as Odoo does: a temp file in the root, then a rename.
    pub(crate) fn write(&self, place: &Place, found: &Found) -> io::Result<()> {
        let target = self.made_parent(place)?;
        let name = place.sid.entry(place.form);
        write_file(self.root.as_fd(), target.as_fd(), &name, found, self.owner)
    }

    /// Removes the shard directories that are empty, and the import directory if it is.
    pub(crate) fn tidy(&self) -> io::Result<()> {
        remove_empty_shards(self.root.as_fd())?;
        let Some(taken) = self.import_directory()? else { return Ok(()) };
        remove_empty_shards(taken.as_fd())?;
        remove_if_empty(self.root.as_fd(), IMPORT_DIRECTORY)
    }

    /// The directory that a file stands in.
    fn parent(&self, place: &Place) -> io::Result<OwnedFd> {
        let root = match place.stage {
            Stage::Waiting => self.root.try_clone()?,
            Stage::Taken => self.import_directory()?.ok_or(Errno::ENOENT)?,
        };
        match place.form {
            Form::Flat => Ok(root),
            Form::Sharded => subdirectory(root.as_fd(), place.sid.shard()),
        }
    }

    /// The same, made if it is not there.
    fn made_parent(&self, place: &Place) -> io::Result<OwnedFd> {
        let (root, mode) = match place.stage {
            Stage::Waiting => (self.root.try_clone()?, 0o755),
            Stage::Taken => (self.made_import_directory()?, 0o700),
        };
        if place.form == Form::Flat {
            return Ok(root);
        }
        let (directory, new) = made_subdirectory(root.as_fd(), place.sid.shard(), mode)?;
        if let (true, Stage::Waiting, Some((uid, gid))) = (new, place.stage, self.owner) {
            fchown(&directory, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        Ok(directory)
    }

    fn import_directory(&self) -> io::Result<Option<OwnedFd>> {
        open_import_directory(self.root.as_fd())
    }

    fn made_import_directory(&self) -> io::Result<OwnedFd> {
        if let Some(directory) = self.import_directory()? {
            return Ok(directory);
        }
        match mkdirat(&self.root, IMPORT_DIRECTORY, Mode::from_bits_truncate(0o700)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.import_directory()?.ok_or(Errno::ENOENT)?)
    }
}

/// Opens the import directory, if it is there. One that another user has made is refused: he could
/// take files away that are on their way.
fn open_import_directory(root: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let Some(opened) = absent_as_none(directory_in(root, IMPORT_DIRECTORY))? else {
        return Ok(None);
    };
    let found = fstat(&opened)?;
    if found.st_uid != 0 || found.st_mode & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "{IMPORT_DIRECTORY} in it is not accessible only by root (0700); move it away"
        )));
    }
    Ok(Some(opened))
}

/// Every session file of a directory and of its shards.
fn list_tree(
    root: BorrowedFd<'_>,
    others: &mut Others,
    each: &mut dyn FnMut(String) -> io::Result<()>,
) -> io::Result<()> {
    let mut shards = Vec::new();
    for_each_entry(root, |name, kind| {
        let Some(text) = name.to_str().ok() else {
            others.note_foreign(&name.to_string_lossy());
            return Ok(());
        };
        match (RootName::parse(text), kind) {
            (RootName::Shard(shard), Type::Directory) => shards.push(shard),
            (RootName::Session(_), Type::File) => each(text.to_owned())?,
            (RootName::Staging | RootName::Spool(_), Type::File) => others.temporary += 1,
            _ if is_tolerated(text, kind) => {}
            _ => others.note_foreign(text),
        }
        Ok(())
    })?;
    for shard in shards {
        let Some(directory) = absent_as_none(subdirectory(root, shard))? else { continue };
        for_each_entry(directory.as_fd(), |name, kind| {
            let text = name.to_string_lossy();
            match SessionName::in_shard(shard, &text) {
                Some(_) if kind == Type::File => each(format!("{shard}/{text}"))?,
                _ if is_tolerated(&text, kind) => {}
                _ => others.note_foreign(&format!("{shard}/{text}")),
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The shards that have a directory in `root`.
fn shards_of(root: BorrowedFd<'_>) -> io::Result<Vec<Shard>> {
    let mut shards = Vec::new();
    for_each_entry(root, |name, kind| {
        if kind == Type::Directory {
            shards.extend(name.to_str().ok().and_then(Shard::parse));
        }
        Ok(())
    })?;
    Ok(shards)
}

fn remove_empty_shards(root: BorrowedFd<'_>) -> io::Result<()> {
    shards_of(root)?.iter().try_for_each(|shard| remove_if_empty(root, shard.as_str()))
}

fn remove_if_empty(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether names can be made in and removed from a directory.
fn check_writable(directory: BorrowedFd<'_>) -> io::Result<()> {
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    Ok(rustix::fs::accessat(directory, ".", access, rustix::fs::AtFlags::empty())?)
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
            None => match nix::sys::stat::fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
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
    directory_in(root, shard.as_str())
}

fn directory_in(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

/// The same, made if it is not there; whether it was.
fn made_subdirectory(root: BorrowedFd<'_>, shard: Shard, mode: u32) -> io::Result<(OwnedFd, bool)> {
    // Mostly it is there.
    if let Some(directory) = absent_as_none(subdirectory(root, shard))? {
        return Ok((directory, false));
    }
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
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
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
        Found { bytes: bytes.to_vec(), mtime_ns: 1_600_000_000_123_456_789, mode: 0o640, inode: 0 }
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
        let others = disk.list(|_| Ok(())).unwrap();
        assert_eq!(others.foreign_names, ["ab"]);
        assert_eq!(std::fs::read(outside.path().join(HEX)).unwrap(), b"secret");
    }

    /// Odoo's user moves or links a file into his directory that he must not read.
    #[test]
    fn what_its_owner_may_not_read_is_not_touched_for_him() {
        const OWNER: (u32, u32) = (1234, 2345);
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let disk = Directory { owner: Some(OWNER), ..directory(root.path(), None) };
        let place = place(&format!("werkzeug_{HEX}.sess"));
        let path = root.path().join(place.path());
        for (uid, gid, mode, links, may) in [
            (1234, 0, 0o600, 1, true),
            (1234, 0, 0o600, 2, true),
            (0, 0, 0o600, 1, false),
            (0, 0, 0o640, 1, false),
            (0, 0, 0o644, 1, true),
            (0, 0, 0o644, 2, false),
            (0, 2345, 0o640, 1, true),
            (0, 2345, 0o600, 1, false),
            (5678, 2345, 0o644, 1, false),
        ] {
            let case = format!("{uid}:{gid} {mode:o} {links}");
            std::fs::write(&path, "{}").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
            let link = outside.path().join(&case);
            if links == 2 {
                std::fs::hard_link(&path, link).unwrap();
            }
            assert_eq!(disk.read(&place).is_ok(), may, "{case}");
            assert_eq!(disk.retire(&place).is_ok(), may, "{case}");
            assert_eq!(path.exists(), !may, "{case}");
            let _ = std::fs::remove_file(&path);
        }
        // Where only root can have put it.
        let disk = directory(root.path(), None);
        std::fs::write(&path, "{}").unwrap();
        std::os::unix::fs::chown(&path, Some(5678), None).unwrap();
        disk.retire(&place).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_is_taken_once_and_only_if_it_is_the_one_that_was_read() {
        let (root, archive) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let disk = directory(root.path(), Some(archive.path()));
        for name in [format!("ab/{HEX}"), format!("werkzeug_{HEX}.sess")] {
            let waiting = place(&name);
            let taken = waiting.at(Stage::Taken);
            disk.write(&waiting, &found(b"{}")).unwrap();
            let Look::Found(read) = disk.read(&waiting).unwrap() else { panic!("not there") };
            assert_eq!(disk.take(&waiting, read.inode + 1).unwrap(), Take::Changed);
            assert_eq!(disk.take(&waiting, read.inode).unwrap(), Take::Done);
            assert_eq!(disk.take(&waiting, read.inode).unwrap(), Take::Changed);
            assert!(matches!(disk.read(&waiting).unwrap(), Look::Absent));
            assert!(matches!(disk.read(&taken).unwrap(), Look::Found(_)));
            let mut names = Vec::new();
            disk.list(|name| {
                names.push(name);
                Ok(())
            })
            .unwrap();
            assert_eq!(names, [format!("{IMPORT_DIRECTORY}/{name}")]);
            let made = std::fs::metadata(root.path().join(IMPORT_DIRECTORY)).unwrap();
            assert_eq!(made.mode() & 0o777, 0o700);
            disk.retire(&taken).unwrap();
            assert!(archive.path().join(&name).exists());
        }
        disk.tidy().unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_import_directory_of_somebody_else_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let disk = directory(root.path(), None);
        Directory::check_movable(disk.root.as_fd()).unwrap();
        let place = place(&format!("ab/{HEX}"));
        disk.write(&place, &found(b"{}")).unwrap();
        let Look::Found(read) = disk.read(&place).unwrap() else { panic!("not there") };
        let made = root.path().join(IMPORT_DIRECTORY);
        std::fs::create_dir(&made).unwrap();
        for (uid, mode) in [(0, 0o755), (5678, 0o700)] {
            std::fs::set_permissions(&made, std::fs::Permissions::from_mode(mode)).unwrap();
            std::os::unix::fs::chown(&made, Some(uid), None).unwrap();
            assert!(Directory::check_movable(disk.root.as_fd()).is_err());
            assert!(disk.take(&place, read.inode).is_err());
        }
        std::fs::remove_dir(&made).unwrap();
        symlink("/etc", &made).unwrap();
        assert!(Directory::check_movable(disk.root.as_fd()).is_err());
        assert!(disk.take(&place, read.inode).is_err());
        assert!(root.path().join(place.path()).exists());
    }

    #[test]
    fn what_was_taken_and_not_imported_goes_back() {
        let root = tempfile::tempdir().unwrap();
        let disk = Directory { owner: Some((1234, 2345)), ..directory(root.path(), None) };
        assert_eq!(disk.restore().unwrap(), 0);
        let (sharded, flat) = (place(&format!("ab/{HEX}")), place(&format!("werkzeug_{HEX}.sess")));
        for place in [&sharded, &flat] {
            disk.write(place, &found(b"{}")).unwrap();
            let Look::Found(read) = disk.read(place).unwrap() else { panic!("not there") };
            disk.take(place, read.inode).unwrap();
        }
        disk.tidy().unwrap();
        assert!(!root.path().join("ab").exists());
        // Odoo has written one of them again.
        disk.write(&flat, &found(b"{\"new\": 1}")).unwrap();
        assert_eq!(disk.restore().unwrap(), 1);
        assert!(!root.path().join(IMPORT_DIRECTORY).exists());
        assert!(matches!(disk.read(&sharded).unwrap(), Look::Found(_)));
        assert_eq!(std::fs::metadata(root.path().join("ab")).unwrap().uid(), 1234);
        let Look::Found(kept) = disk.read(&flat).unwrap() else { panic!("not there") };
        assert_eq!(kept.bytes, b"{\"new\": 1}");
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
            std::fs::write(root.path().join(".gitkeep"), "").unwrap();
            std::fs::write(root.path().join("ab/.nfs000000000123abcd00000001"), "").unwrap();
            std::fs::create_dir(root.path().join("lost+found")).unwrap();
            directory(root.path(), None).list(|_| Ok(())).unwrap()
        };
        let expected =
            Others { temporary: 1, foreign: 1, foreign_names: vec!["ab/abc".to_owned()] };
        assert_eq!(others, expected);
    }
}
