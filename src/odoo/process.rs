//! Odoo's running processes, by `/proc`.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::launch::Launch;
use super::root::Root;
use crate::host::mount_table::MountTable;
use crate::host::unit;

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Process {
    pub pid: i32,
    pub parent: i32,
    pub uid: u32,
    pub gid: u32,
    /// Its command line.
    pub launch: Launch,
    /// Working directory, if it may be known.
    pub working_dir: Option<PathBuf>,
    /// What of its environment matters, if it may be known: see [`VARIABLES`].
    pub environment: Vec<(String, String)>,
    /// The systemd unit it belongs to.
    pub unit: Option<String>,
    /// What it sees mounted, if it may be known.
    pub mounts: Option<MountTable>,
    /// Whether its `/` is another directory than ours: a container.
    pub contained: bool,
    /// Whether a sessionfs runs where it runs: then what it sees may be that one's mount.
    pub has_own_sessionfs: bool,
    /// Whether we may see its environment and its `/`; else all but its command line is a guess.
    pub readable: bool,
}

/// What is kept of a process's environment; the rest may hold secrets.
pub(crate) const VARIABLES: [&str; 6] = [
    "HOME",
    "XDG_DATA_HOME",
    "ODOO_RC",
    "OPENERP_SERVER",
    "ODOO_SESSION_REDIS",
    "ODOO_SESSION_REDIS_HOST",
];

/// The processes that run now.
pub(crate) fn pids(root: &Root) -> Vec<i32> {
    root.list(Path::new("/proc")).iter().filter_map(|name| name.parse().ok()).collect()
}

impl Process {
    pub(crate) fn all(root: &Root) -> Vec<Self> {
        let pids = pids(root);
        let namespace = |pid: i32| std::fs::read_link(root.join(&proc_file(pid, "ns/mnt"))).ok();
        let serving: Vec<PathBuf> = pids
            .iter()
            .filter(|pid| is_sessionfs(root, **pid))
            .filter_map(|pid| namespace(*pid))
            .collect();
        let mut found: Vec<Self> = pids.iter().filter_map(|pid| Self::look(root, *pid)).collect();
        for process in &mut found {
            process.has_own_sessionfs =
                namespace(process.pid).is_some_and(|namespace| serving.contains(&namespace));
        }
        found
    }

    /// The value of a kept variable.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The files as this process sees them, as far as we may look.
    pub(crate) fn root(&self, host: &Root) -> Root {
        let own = host.join(&proc_file(self.pid, "root"));
        if self.contained && own.is_dir() { Root::at(own) } else { host.clone() }
    }

    fn look(root: &Root, pid: i32) -> Option<Self> {
        let launch = Launch::parse(&words(&root.read(&proc_file(pid, "cmdline")).ok()?))?;
        let status = root.read_text(&proc_file(pid, "status")).ok()?;
        let field = |name: &str, position: usize| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().nth(position)?.parse::<u32>().ok()
        };
        let environment = root.read(&proc_file(pid, "environ"));
        // In a container without the capability SYS_PTRACE, the one may be seen without the other.
        let readable = environment.is_ok() && !is_barred(root, &proc_file(pid, "root"));
        let environment = words(&environment.unwrap_or_default());
        Some(Self {
            pid,
            parent: i32::try_from(field("PPid:", 0)?).ok()?,
            uid: field("Uid:", 1)?,
            gid: field("Gid:", 1)?,
            launch,
            working_dir: std::fs::read_link(root.join(&proc_file(pid, "cwd"))).ok(),
            environment: environment
                .iter()
                .filter_map(|pair| pair.split_once('='))
                .filter(|(name, _)| VARIABLES.contains(name))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            unit: unit_of(root, pid),
            mounts: MountTable::read(&root.join(&proc_file(pid, "mountinfo"))).ok(),
            contained: is_elsewhere(root, &proc_file(pid, "root")),
            has_own_sessionfs: false,
            readable,
        })
    }
}

fn is_sessionfs(root: &Root, pid: i32) -> bool {
    let words = words(&root.read(&proc_file(pid, "cmdline")).unwrap_or_default());
    words.first().is_some_and(|program| Path::new(program).ends_with("sessionfs"))
        && words.get(1).is_some_and(|command| command == "mount")
}

fn proc_file(pid: i32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

fn words(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    text.trim_end_matches('\0').split('\0').map(ToOwned::to_owned).collect()
}

/// The systemd unit that a process belongs to.
pub(crate) fn unit_of(root: &Root, pid: i32) -> Option<String> {
    let text = root.read_text(&proc_file(pid, "cgroup")).ok()?;
    unit::in_cgroup(&text).map(ToOwned::to_owned)
}

fn is_barred(root: &Root, path: &Path) -> bool {
    root.join(path).metadata().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

fn is_elsewhere(root: &Root, theirs: &Path) -> bool {
    let identity = |path: &Path| {
        let found = root.join(path).metadata().ok()?;
        Some((found.dev(), found.ino()))
    };
    match (identity(theirs), identity(Path::new("/"))) {
        (Some(theirs), Some(ours)) => theirs != ours,
        // Not ours to see, or not there in a made-up tree.
        _ => false,
    }
}
