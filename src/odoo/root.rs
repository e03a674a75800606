//! A directory that is taken for `/`: this host's, a container's as one of its processes sees it,
//! or one made up for a test. Every read is bounded, and nothing in it can hold up the reader.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User};

/// A large site's passwd file; everything else that is read is shorter.
const LENGTH_MAX_BYTES: u64 = 1 << 20;
/// Entries of one directory that are looked at.
const ENTRIES_MAX: usize = 50_000;

/// What is taken for `/`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Root(PathBuf);

/// Somebody who may own sessions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Account {
    /// The user's name, or its number where it has none.
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// Home directory, if it is known.
    pub home: Option<PathBuf>,
}

impl Root {
    /// This host as this process sees it.
    pub(crate) fn host() -> Self {
        Self("/".into())
    }

    /// A directory in its place.
    pub(crate) fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where an absolute path leads.
    pub(crate) fn join(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The beginning of a regular file. Never waits, whatever is put in its place.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        // Odoo's user may have put a pipe there.
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(self.join(path))?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "is not a regular file"));
        }
        let mut content = Vec::new();
        file.take(LENGTH_MAX_BYTES).read_to_end(&mut content)?;
        Ok(content)
    }

    /// The same as text.
    pub(crate) fn read_text(&self, path: &Path) -> io::Result<String> {
        self.read(path).map(|content| String::from_utf8_lossy(&content).into_owned())
    }

    /// The names in a directory, sorted; none if it cannot be listed.
    pub(crate) fn list(&self, directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.join(directory))
            .into_iter()
            .flatten()
            .take(ENTRIES_MAX)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names
    }

    /// Whether it is a directory.
    pub(crate) fn is_dir(&self, path: &Path) -> bool {
        self.join(path).is_dir()
    }

    /// The account of this name or number.
    pub(crate) fn account(&self, who: &str) -> Option<Account> {
        let number = who.parse::<u32>().ok();
        let passwd = self.read_text(Path::new("/etc/passwd")).unwrap_or_default();
        let listed = passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
            (fields[0] == who || Some(uid) == number).then(|| Account {
                name: fields[0].to_owned(),
                uid,
                gid,
                home: fields.get(5).filter(|home| !home.is_empty()).map(PathBuf::from),
            })
        });
        // A directory service knows more, and only of this host.
        listed.or_else(|| {
            let user = match number {
                _ if self.0 != Path::new("/") => None,
                Some(uid) => User::from_uid(Uid::from_raw(uid)).ok().flatten(),
                None => User::from_name(who).ok().flatten(),
            }?;
            Some(Account {
                name: user.name,
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
                home: Some(user.dir),
            })
        })
    }

    /// The name of a group, or its number.
    pub(crate) fn group(&self, gid: u32) -> String {
        let groups = self.read_text(Path::new("/etc/group")).unwrap_or_default();
        let listed = groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
        });
        let known = || match Group::from_gid(Gid::from_raw(gid)) {
            Ok(Some(group)) if self.0 == Path::new("/") => Some(group.name),
            _ => None,
        };
        listed.or_else(known).unwrap_or_else(|| gid.to_string())
    }

    /// The number of a group's name.
    pub(crate) fn group_id(&self, name: &str) -> Option<u32> {
        let groups = self.read_text(Path::new("/etc/group")).unwrap_or_default();
        let listed = groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
        });
        listed.or_else(|| name.parse().ok())
    }
}
