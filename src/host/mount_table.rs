//! The kernel's table of mounts (`mountinfo`, proc(5)), and what a path leads to by it.
//!
//! It is asked instead of the filesystem: a mount that does not answer cannot hold up who only
//! reads the table. One process's table may differ from another's.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// What the table calls a mount of sessionfs.
pub(crate) const FSTYPE: &str = "fuse.sessionfs";

/// A host with many containers has some thousand lines.
const LENGTH_MAX_BYTES: u64 = 16 << 20;

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Mounted {
    id: u64,
    parent: u64,
    /// Major and minor number: the same for all mounts of one filesystem.
    pub device: String,
    /// Which directory of the filesystem is mounted.
    pub root: PathBuf,
    pub mountpoint: PathBuf,
    /// The kind of filesystem.
    pub fstype: String,
    /// Of a FUSE filesystem: whose it is.
    user: Option<u32>,
    /// The peer group that it passes mounts on to, and gets them from.
    shared: Option<u64>,
    /// The peer group that it only gets mounts from.
    master: Option<u64>,
}

impl Mounted {
    /// Whether it is a sessionfs. A user's own FUSE mount may have any name for its kind, but not root
    /// for its user.
    pub(crate) fn is_ours(&self) -> bool {
        self.fstype == FSTYPE && self.user == Some(0)
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
        let (id, parent) = (number()?, number()?);
        let device = String::from_utf8_lossy(fields.next()?).into_owned();
        let root = path(fields.next()?);
        let mountpoint = path(fields.next()?);
        // Optional fields follow the options and end with a lone hyphen; the kind follows it.
        let optional: Vec<&[u8]> =
            fields.by_ref().skip(1).take_while(|field| *field != b"-").collect();
        let group = |name: &[u8]| {
            let number = optional.iter().find_map(|field| field.strip_prefix(name))?;
            std::str::from_utf8(number).ok()?.parse().ok()
        };
        let fstype = String::from_utf8_lossy(fields.next()?).into_owned();
        let (shared, master) = (group(b"shared:"), group(b"master:"));
        // The last field but one is the source; the last has the options of the filesystem itself.
        let user =
            fields.nth(1).into_iter().flat_map(|options| options.split(|byte| *byte == b','));
        let user = user
            .filter_map(|option| std::str::from_utf8(option.strip_prefix(b"user_id=")?).ok())
            .find_map(|id| id.parse().ok());
        Some(Self { id, parent, device, root, mountpoint, fstype, user, shared, master })
    }
}

/// All mounts that one process sees.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct MountTable(Vec<Mounted>);

impl MountTable {
    pub(crate) fn own() -> io::Result<Self> {
        Self::read(Path::new("/proc/self/mountinfo"))
    }

    /// From a file such as `/proc/PID/mountinfo`.
    pub(crate) fn read(file: &Path) -> io::Result<Self> {
        let mut text = Vec::new();
        std::fs::File::open(file)?.take(LENGTH_MAX_BYTES).read_to_end(&mut text)?;
        Ok(Self::parse(&text))
    }

    /// Lines that make no sense are passed over.
    pub(crate) fn parse(text: &[u8]) -> Self {
        Self(text.split(|byte| *byte == b'\n').filter_map(Mounted::parse).collect())
    }

    /// The mount that a path (absolute, without symbolic links) leads to.
    pub(crate) fn covering(&self, path: &Path) -> Option<&Mounted> {
        self.walk(path, |_| true)
    }

    /// The walk of a name, from each mount on to the first one in the way, among those that `is_in`
    /// takes.
    fn walk(&self, path: &Path, is_in: impl Fn(&Mounted) -> bool) -> Option<&Mounted> {
        let next = |parent: Option<&Mounted>| {
            self.0
                .iter()
                .filter(|mounted| is_in(mounted))
                .filter(|mounted| match parent {
                    Some(parent) => mounted.parent == parent.id && mounted.id != parent.id,
                    None => !self.0.iter().any(|other| other.id == mounted.parent),
                })
                .filter(|mounted| path.starts_with(&mounted.mountpoint))
                .min_by_key(|mounted| mounted.mountpoint.as_os_str().len())
        };
        let mut found = next(None)?;
        // A table that changed while it was read may lead round in a circle.
        for _ in 0..self.0.len() {
            match next(Some(found)) {
                Some(deeper) => found = deeper,
                None => break,
            }
        }
        Some(found)
    }

    /// What is mounted on this very directory; the uppermost, if several are.
    pub(crate) fn at(&self, mountpoint: &Path) -> Option<&Mounted> {
        self.covering(mountpoint).filter(|mounted| mounted.mountpoint == mountpoint)
    }

    /// Everything that is mounted on this very directory, one over another.
    pub(crate) fn layers(&self, mountpoint: &Path) -> impl Iterator<Item = &Mounted> {
        self.0.iter().filter(move |mounted| mounted.mountpoint == mountpoint)
    }

    /// The mountpoints that lead to a sessionfs.
    pub(crate) fn ours(&self) -> Vec<&Path> {
        let mut found: Vec<&Path> = self
            .0
            .iter()
            .filter(|mounted| self.at(&mounted.mountpoint).is_some_and(Mounted::is_ours))
            .map(|mounted| mounted.mountpoint.as_path())
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Whether a mount that is made on the directory `here` appears on `there` in another process's
    /// view, where both are names of one directory; `None` where that is not known. What of a
    /// sessionfs is mounted there already is looked past.
    pub(crate) fn propagates(&self, here: &Path, theirs: &Self, there: &Path) -> Option<bool> {
        let below = |table: &Self, path: &Path| {
            let is_below = |mounted: &Mounted| !(mounted.is_ours() && mounted.mountpoint == path);
            table.walk(path, is_below).cloned()
        };
        let (here, there) = (below(self, here)?, below(theirs, there)?);
        // One mount in both views: one mount namespace.
        if here.id == there.id {
            return Some(true);
        }
        let (Some(group), true) = (here.shared, here.device == there.device) else {
            return Some(false);
        };
        // From group to master, as far as the two tables tell of them. A group's members may all be
        // in a third namespace, and then nobody here knows its master.
        let mut reached: Vec<u64> = there.shared.into_iter().chain(there.master).collect();
        let mut followed = 0;
        let mut is_lost = false;
        while let Some(one) = reached.get(followed).copied() {
            if one == group {
                return Some(true);
            }
            let members: Vec<&Mounted> =
                self.0.iter().chain(&theirs.0).filter(|other| other.shared == Some(one)).collect();
            is_lost |= members.is_empty();
            for master in members.iter().filter_map(|member| member.master) {
                if !reached.contains(&master) {
                    reached.push(master);
                }
            }
            followed += 1;
        }
        (!is_lost).then_some(false)
    }

    /// The name that a path of another process's view has in this one's, by the filesystem that
    /// both have mounted; a container's volume, for one.
    pub(crate) fn translate(&self, theirs: &Self, path: &Path) -> Option<PathBuf> {
        let there = theirs.covering(path)?;
        let inside = there.root.join(path.strip_prefix(&there.mountpoint).ok()?);
        self.0
            .iter()
            .filter(|here| here.device == there.device)
            .filter_map(|here| Some((here, inside.strip_prefix(&here.root).ok()?)))
            .max_by_key(|(here, _)| here.root.as_os_str().len())
            .map(|(here, rest)| here.mountpoint.join(rest))
            .map(|joined| joined.components().collect())
    }
}

/// The table writes blanks and backslashes of a path as three octal digits.
fn path(field: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    std::ffi::OsString::from_vec(unescaped(field)).into()
}

fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let escape = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(escape.unwrap_or(*first));
        rest = &after[if escape.is_some() { 3 } else { 0 }..];
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 22 0:40 / /srv/a\\040b rw,nosuid shared:5 - fuse.sessionfs sessionfs rw,user_id=0
31 22 0:41 / /srv/two rw - tmpfs tmpfs rw
32 31 0:42 / /srv/two rw master:1 shared:2 - fuse.sessionfs sessionfs rw,user_id=0,group_id=0
40 22 0:43 / /srv/hidden/sessions rw - fuse.sessionfs sessionfs rw,user_id=0,group_id=0
41 22 0:44 / /srv/hidden rw - tmpfs tmpfs rw
50 22 8:1 / /var/lib/docker rw - ext4 /dev/sda1 rw
broken line
";

    fn covering(path: &str) -> String {
        MountTable::parse(TABLE).covering(Path::new(path)).unwrap().fstype.clone()
    }

    #[test]
    fn a_path_is_followed_through_blanks_layers_and_what_hides_another() {
        assert_eq!(covering("/srv/a b"), FSTYPE);
        assert_eq!(covering("/srv/a b/xy/file"), FSTYPE);
        assert_eq!(covering("/srv/two"), FSTYPE);
        assert_eq!(covering("/srv/hidden/sessions"), "tmpfs");
        assert_eq!(covering("/srv/a"), "ext4");
        let table = MountTable::parse(TABLE);
        assert_eq!(table.at(Path::new("/srv/a b/xy")), None);
        assert_eq!(table.layers(Path::new("/srv/two")).count(), 2);
        assert_eq!(table.ours(), [Path::new("/srv/a b"), Path::new("/srv/two")]);
    }

    #[test]
    fn a_users_own_mount_is_not_ours() {
        let table = |options: &str| {
            let line =
                format!("30 22 0:40 / /home/ada/mnt rw - fuse.sessionfs sessionfs {options}\n");
            MountTable::parse(line.as_bytes())
        };
        assert_eq!(table("rw,user_id=0,group_id=0").ours(), [Path::new("/home/ada/mnt")]);
        for options in ["rw,user_id=1000,group_id=0", "rw,user_id=,x=user_id=0", "rw", ""] {
            assert!(table(options).ours().is_empty(), "{options}");
        }
    }

    #[test]
    fn a_circle_ends() {
        let table = MountTable::parse(
            b"1 0 0:1 / / rw - ext4 a rw\n2 3 0:2 / / rw - ext4 b rw\n3 2 0:3 / / rw - ext4 c rw\n3 1 0:3 / / rw - ext4 c rw\n",
        );
        assert!(table.covering(Path::new("/a")).is_some());
        assert_eq!(MountTable::default().covering(Path::new("/")), None);
    }

    #[test]
    fn a_volume_of_a_container_is_found_on_the_host() {
        let theirs = MountTable::parse(
            b"90 1 0:60 / / rw - overlay overlay rw\n\
              91 90 8:1 /volumes/odoo/_data /var/lib/odoo rw - ext4 /dev/sda1 rw\n",
        );
        let found =
            MountTable::parse(TABLE).translate(&theirs, Path::new("/var/lib/odoo/sessions"));
        assert_eq!(found.unwrap(), Path::new("/var/lib/docker/volumes/odoo/_data/sessions"));
        let found = MountTable::parse(TABLE).translate(&theirs, Path::new("/elsewhere"));
        assert_eq!(found, None);
    }

    #[test]
    fn a_mount_reaches_peers_and_slaves_and_nobody_else() {
        let host = MountTable::parse(
            b"20 1 8:1 / / rw,noatime shared:1 - ext4 /dev/sda1 rw\n\
              21 20 0:40 / /srv/odoo/sessions rw shared:9 - fuse.sessionfs s rw,user_id=0\n",
        );
        let here = Path::new("/srv/odoo/sessions");
        let sees = |volume: &str, there: &str| {
            let theirs = format!("80 70 0:60 / / rw - overlay overlay rw\n{volume}\n");
            host.propagates(here, &MountTable::parse(theirs.as_bytes()), Path::new(there))
        };
        let bound = |at: &str, how: &str| {
            format!("81 80 8:1 /srv/odoo/{at} /x rw,relatime {how} - ext4 /dev/sda1 rw")
        };
        let inside = "/x/sessions";
        // By `rslave`, by `rshared`, and without either (Docker's and podman's default).
        assert_eq!(sees(&bound("", "master:1"), inside), Some(true));
        assert_eq!(sees(&bound("", "shared:1"), inside), Some(true));
        assert_eq!(sees(&bound("", ""), inside), Some(false));
        // The mount of now is there all the same, and the next one will not be.
        let now = "82 81 0:40 / /x/sessions rw - fuse.sessionfs s rw,user_id=0";
        assert_eq!(sees(&format!("{}\n{now}", bound("", "")), inside), Some(false));
        assert_eq!(sees(&format!("{}\n{now}", bound("", "master:1")), inside), Some(true));
        // The directory itself as the volume: before the mount, and after it.
        assert_eq!(sees(&bound("sessions", "master:1"), "/x"), Some(true));
        let itself = "81 80 0:40 / /x rw master:9 - fuse.sessionfs s rw,user_id=0";
        assert_eq!(sees(itself, "/x"), Some(false));
        // A slave of a slave; and a group of which nothing is known here.
        let slave =
            format!("{}\n83 80 8:1 / /y rw shared:5 master:1 - ext4 a rw", bound("", "master:5"));
        assert_eq!(sees(&slave, inside), Some(true));
        assert_eq!(sees(&bound("", "master:6"), inside), None);
        // One namespace, whose mounts are private.
        let private = MountTable::parse(b"20 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
        assert_eq!(private.propagates(here, &private, here), Some(true));
    }

    #[test]
    fn odd_escapes_do_no_harm() {
        for field in [&b"\\"[..], b"\\0", b"\\999", b"a\\04", b"\\\\"] {
            assert_eq!(unescaped(field), field);
        }
        assert_eq!(unescaped(b"\\134\\040"), b"\\ ");
    }
}
