//! The Odoo whose parameters are read: how it was started, and what it reads.

use std::path::{Path, PathBuf};

use crate::host::process::started_ticks;
use crate::odoo::configuration::USUAL_PLACES;
use crate::odoo::process::Process;
use crate::odoo::root::Root;
use crate::odoo::{self, Odoo, Sign, account};

/// Where Debian's package has Odoo's modules.
const PACKAGED: &str = "/usr/lib/python3/dist-packages";

/// How it was started, and what it reads.
pub(super) struct Instance {
    pub argv: Vec<String>,
    /// Each as `NAME=value`.
    pub environ: Vec<String>,
    /// The text of its configuration file; empty if it has none.
    pub file: String,
    /// Its user, by name.
    pub user: String,
    pub home: Option<PathBuf>,
    /// Its major version, as far as that can be seen.
    pub version: Option<u32>,
    /// What it takes for `/`.
    pub root: Root,
    /// It runs.
    pub process: Option<Started>,
}

/// A process, by its number and when it was started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Started {
    pid: i32,
    ticks: Option<u64>,
}

impl Started {
    fn of(pid: i32) -> Self {
        Self { pid, ticks: started_ticks(pid) }
    }

    /// Whether it runs still.
    pub(super) fn runs(self) -> bool {
        self.ticks.is_some() && Self::of(self.pid) == self
    }
}

impl Instance {
    /// The Odoo of this user that keeps its sessions there, or the only one of which that cannot be seen. With a
    /// configuration file that is named: what that says, and the Odoo that reads it, if one does.
    pub(super) fn find(
        root: &Root,
        uid: u32,
        sessions: &Path,
        named: Option<&Path>,
    ) -> Result<Self, String> {
        let odoo = Odoo::look(root, None);
        let running: Vec<(&odoo::Instance, &Process)> = odoo
            .instances
            .iter()
            .filter_map(|instance| match &instance.sign {
                Sign::Process(process) if process.uid == uid => Some((instance, &**process)),
                _ => None,
            })
            .filter(|(_, process)| !process.launch.titled)
            .collect();
        let reads = |(instance, process): &&(&odoo::Instance, &Process)| {
            let file = instance.configuration.as_ref().map(|file| file.path.as_path());
            !process.contained && file == named
        };
        let uses = |instance: &odoo::Instance| instance.sessions_here.as_deref() == Some(sessions);
        let found = match named {
            Some(_) => running.iter().find(reads),
            None => running.iter().find(|(instance, _)| uses(instance)).or_else(|| {
                let mut unseen = running.iter().filter(|(instance, process)| {
                    instance.sessions_here.is_none() || !process.readable
                });
                unseen.next().filter(|_| unseen.next().is_none())
            }),
        };
        // One that does not run now.
        let service = odoo
            .instances
            .iter()
            .find(|instance| matches!(instance.sign, Sign::Service(_)) && uses(instance));
        let its_root = found.map_or_else(|| root.clone(), |(_, process)| process.root(root));
        let (file_root, file) = match (named, found, service) {
            (Some(named), ..) => (root, Some(named)),
            (None, Some((instance, _)), _) => (&its_root, path_of(instance)),
            (None, None, Some(service)) => (root, path_of(service)),
            (None, None, None) => (root, usual_place(root)),
        };
        let file = file.map(|path| {
            let text = file_root.read_text(path);
            text.map_err(|error| format!("cannot read {}: {error}", path.display()))
        });
        let words = |file: &str| {
            let path = found.map(|(_, process)| format!("/proc/{}/{file}", process.pid));
            let bytes = path.and_then(|path| root.read(Path::new(&path)).ok()).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            text.split('\0').map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        let (argv, environ) = (words("cmdline"), words("environ"));
        let gid = found.map_or(0, |(_, process)| process.gid);
        let account = account(&its_root, uid, gid);
        let mut odoo = Self {
            file: file.transpose()?.unwrap_or_default(),
            user: account.name,
            home: account.home,
            version: version(&its_root, &argv),
            root: its_root,
            process: found.map(|(_, process)| Started::of(process.pid)),
            argv,
            environ,
        };
        let home = odoo.variable("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        odoo.home = home.or(odoo.home);
        Ok(odoo)
    }

    /// The value of a variable of its environment.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environ.iter().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

fn path_of(instance: &odoo::Instance) -> Option<&Path> {
    instance.configuration.as_ref().map(|file| file.path.as_path())
}

fn usual_place(root: &Root) -> Option<&'static Path> {
    USUAL_PLACES.iter().map(Path::new).find(|place| root.read(place).is_ok())
}

/// The version of the Odoo that this command line starts, as its `odoo/release.py` says.
fn version(root: &Root, argv: &[String]) -> Option<u32> {
    let beside = argv.iter().take(4).filter_map(|word| Path::new(word).parent());
    let places = beside.filter(|place| place.is_absolute()).chain([Path::new(PACKAGED)]);
    let text = places
        .map(|place| place.join("odoo/release.py"))
        .find_map(|release| root.read_text(&release).ok())?;
    // version_info = (19, 0, 0, FINAL, 0, ''), or ('saas~18', 2, ...)
    let info = text.lines().find_map(|line| line.strip_prefix("version_info"))?;
    let digits = info.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_program_or_of_the_package() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let argv = ["/usr/bin/python3", "/opt/odoo/odoo-bin"].map(ToOwned::to_owned);
        assert_eq!(version(&root, &argv), None);
        let release = [
            ("usr/lib/python3/dist-packages", "version_info = (19, 0, 0, FINAL, 0, '')\n", 19),
            ("opt/odoo", "x = 7\nversion_info = ('saas~18', 2, 0, FINAL, 0, '')\n", 18),
        ];
        for (place, text, expected) in release {
            let place = dir.path().join(place).join("odoo");
            std::fs::create_dir_all(&place).unwrap();
            std::fs::write(place.join("release.py"), text).unwrap();
            assert_eq!(version(&root, &argv), Some(expected));
        }
    }

    /// A host on which these Odoos run, each with its number, its user and its session directory.
    fn host(odoos: &[(i32, u32, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("etc/passwd", "odoo:x:5:5::/srv:/bin/sh\n");
        write("etc/odoo/odoo.conf", "of the usual place");
        write("srv/named.conf", "named");
        for (pid, uid, data) in odoos {
            write(
                &format!("proc/{pid}/cmdline"),
                &format!("odoo\0-c\0/srv/{pid}.conf\0-D\0{data}\0"),
            );
            write(&format!("proc/{pid}/environ"), &format!("PGPASSWORD=secret{pid}\0"));
            let status = format!("PPid:\t1\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t5\t5\t5\t5\n");
            write(&format!("proc/{pid}/status"), &status);
            write(&format!("srv/{pid}.conf"), &format!("of {pid}"));
        }
        dir
    }

    fn found(odoos: &[(i32, u32, &str)], named: Option<&str>) -> (String, Option<String>) {
        let dir = host(odoos);
        let root = Root::at(dir.path());
        let odoo =
            Instance::find(&root, 5, Path::new("/a/sessions"), named.map(Path::new)).unwrap();
        assert_eq!(odoo.user, "odoo");
        let password = odoo.variable("PGPASSWORD").map(ToOwned::to_owned);
        (odoo.file, password)
    }

    #[test]
    fn it_is_that_of_the_directory_and_of_the_user() {
        let secret = |pid| Some(format!("secret{pid}"));
        assert_eq!(found(&[], None), ("of the usual place".to_owned(), None));
        assert_eq!(found(&[(10, 6, "/a"), (11, 5, "/a")], None), ("of 11".to_owned(), secret(11)));
        let two = [(10, 5, "/b"), (11, 5, "/a")];
        assert_eq!(found(&two, None), ("of 11".to_owned(), secret(11)));
        assert_eq!(found(&[(10, 5, "/b")], None), ("of the usual place".to_owned(), None));
    }

    #[test]
    fn a_file_that_is_named_goes_with_who_reads_it() {
        let two = [(10, 5, "/b"), (11, 5, "/a")];
        let named = found(&two, Some("/srv/10.conf"));
        assert_eq!(named, ("of 10".to_owned(), Some("secret10".to_owned())));
        assert_eq!(found(&two, Some("/srv/named.conf")), ("named".to_owned(), None));
        let dir = host(&[]);
        let missing = Some(Path::new("/srv/missing.conf"));
        let why = Instance::find(&Root::at(dir.path()), 5, Path::new("/a"), missing).err().unwrap();
        assert!(why.starts_with("cannot read /srv/missing.conf: "), "{why}");
    }
}
