//! Who is observed: Odoo's processes, the ports they listen on, and the words by which they name the session directory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Error;
use crate::host::bounded;
use crate::host::mount_table::MountTable;
use crate::odoo::launch::{self, Launch};
use crate::odoo::process::pids;
use crate::odoo::root::Root;
use crate::odoo::{Odoo, Sign};

/// Directories at which relative names begin, and names of all kinds.
const NAMES_MAX: usize = 15;
/// Processes that are observed from the start.
const PROCESSES_MAX: usize = 4096;
/// Descriptors of a process that are looked at.
const DESCRIPTORS_MAX: usize = 65_536;
/// How long it may take to look for Odoo: a mount that one of them uses may be dead.
const LOOK_BOUND: Duration = Duration::from_secs(20);
/// The first process. With socket activation systemd holds Odoo's socket, too, and everything comes from it.
const INIT: i32 = 1;
/// `TCP_LISTEN` of `include/net/tcp_states.h`, as `/proc/net/tcp` writes it.
const LISTENS: &str = "0A";

/// What helps where no Odoo is found.
const NAME_IT: &str = "name Odoo's port with --port or its process with --pid";

/// Whom to observe.
#[derive(Clone, Debug)]
pub(crate) enum Whom {
    /// The Odoo that keeps its sessions in the directory.
    Odoo,
    /// These processes.
    Processes(Vec<i32>),
    /// Those that listen on this port.
    Port(u16),
}

/// How a process serves requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Each thread one at a time.
    Ordinary = 1,
    /// One thread many at a time: Odoo's evented process (`gevent`).
    Evented = 2,
}

/// A path that leads to the session directory.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Name {
    /// Where it begins; `None`: at the root.
    pub start: Option<PathBuf>,
    pub path: PathBuf,
}

/// Who is observed, as far as it is known at the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched {
    /// Those that were named or found; what they have started is observed with them.
    pub first: Vec<i32>,
    /// The ports of which requests are read.
    pub ports: BTreeSet<u16>,
    pub names: Vec<Name>,
}

impl Watched {
    /// Looks for them. `directory` has no symbolic links; `asked` is its absolute path as it was asked for.
    pub(crate) fn find(whom: &Whom, directory: &Path, asked: &Path) -> Result<Self, Error> {
        let host = Root::host();
        let mut names: BTreeSet<Name> = [directory, asked].into_iter().map(absolute).collect();
        let odoo = bounded::within("odoo", LOOK_BOUND, || Odoo::look(&Root::host(), None));
        let odoo = odoo.ok().flatten();
        let first = match (whom, &odoo) {
            (Whom::Processes(pids), _) => pids.clone(),
            (Whom::Port(port), _) => listeners(&host, *port),
            (Whom::Odoo, Some(odoo)) => first_of(odoo, directory)?,
            (Whom::Odoo, None) => {
                let why = "it takes too long to look for Odoo: a mount that one uses may be dead";
                return Err(Error::Nobody(format!("{why}; {NAME_IT}")));
            }
        };
        let tree = Tree::read(&host);
        let gone = |pid: &i32| !tree.parents.contains_key(pid);
        if let Some(pid) = first.iter().find(|pid| gone(pid)) {
            return Err(Error::Nobody(format!("there is no process {pid}; name a running one")));
        }
        if let (Whom::Port(port), []) = (whom, first.as_slice()) {
            let remedy = "name the port of Odoo's http_port, or its process with --pid";
            return Err(Error::Nobody(format!("no process listens on port {port}; {remedy}")));
        }
        for pid in &first {
            names.extend(names_of(&host, *pid, directory));
        }
        names.extend(odoo.iter().flat_map(|odoo| names_by_odoo(odoo, directory, &tree, &first)));
        let ports = match whom {
            Whom::Port(port) => [*port].into(),
            _ => ports(&host, &tree.with_descendants(&first)),
        };
        let names = names.into_iter().take(NAMES_MAX).collect();
        Ok(Self { first, ports, names })
    }

    /// All of them that run now, with what they have started, and how they serve.
    pub(crate) fn running(&self) -> BTreeMap<i32, Kind> {
        let host = Root::host();
        let kind = |pid: i32| {
            let line = command_line(&host, pid);
            if launch::is_evented(&words(&line)) { Kind::Evented } else { Kind::Ordinary }
        };
        Tree::read(&host)
            .with_descendants(&self.first)
            .into_iter()
            .map(|pid| (pid, kind(pid)))
            .collect()
    }
}

fn absolute(path: &Path) -> Name {
    Name { start: None, path: path.to_owned() }
}

fn of(pid: i32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

fn command_line(host: &Root, pid: i32) -> String {
    let line = host.read(&of(pid, "cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).into_owned()
}

fn words(line: &str) -> Vec<&str> {
    line.trim_end_matches('\0').split('\0').collect()
}

/// The first processes of the Odoo that keeps its sessions in this directory.
fn first_of(odoo: &Odoo, directory: &Path) -> Result<Vec<i32>, Error> {
    let mut first = Vec::new();
    let mut elsewhere = None;
    for instance in &odoo.instances {
        let Sign::Process(process) = &instance.sign else { continue };
        if instance.sessions_here.as_deref() == Some(directory) {
            first.push(process.pid);
        } else {
            elsewhere = Some(format!("{} uses {}", process.pid, instance.sessions.display()));
        }
    }
    if first.is_empty() {
        let found = elsewhere.map_or_else(String::new, |found| format!(" (pid {found})"));
        return Err(Error::Nobody(format!(
            "no Odoo runs that is known to keep its sessions in {}{found}; {NAME_IT}",
            directory.display()
        )));
    }
    Ok(first)
}

/// What the Odoo that these processes belong to calls the directory: with the symbolic links of its configuration, and without.
fn names_by_odoo(odoo: &Odoo, directory: &Path, tree: &Tree, first: &[i32]) -> Vec<Name> {
    let observed = tree.with_descendants(first);
    let is_theirs = |pid: i32| {
        observed.contains(&pid)
            || tree.with_descendants(&[pid]).iter().any(|pid| first.contains(pid))
    };
    let mut names = Vec::new();
    for instance in &odoo.instances {
        let Sign::Process(process) = &instance.sign else { continue };
        if instance.sessions_here.as_deref() == Some(directory) && is_theirs(process.pid) {
            names.extend([&instance.sessions, &instance.named].map(|path| absolute(path)));
        }
    }
    names
}

/// What a process may call the directory: from its working directory, from its root, and by its own mounts, if it has any (a
/// container).
fn names_of(host: &Root, pid: i32, directory: &Path) -> Vec<Name> {
    let link = |name: &str| std::fs::read_link(host.join(&of(pid, name))).ok();
    let mut names = Vec::new();
    if let Some(start) = link("cwd")
        && let Ok(path) = directory.strip_prefix(&start)
        && path != Path::new("")
    {
        names.push(Name { start: Some(start), path: path.to_owned() });
    }
    if let Some(root) = link("root")
        && root != Path::new("/")
        && let Ok(path) = directory.strip_prefix(&root)
    {
        names.push(absolute(&Path::new("/").join(path)));
    }
    let own = std::fs::read_link(host.join(Path::new("/proc/self/ns/mnt"))).ok();
    if link("ns/mnt") != own
        && let Ok(theirs) = MountTable::read(&host.join(&of(pid, "mountinfo")))
        && let Ok(here) = MountTable::own()
        && let Some(path) = theirs.translate(&here, directory)
    {
        names.push(absolute(&path));
    }
    names
}

/// Which process has started which.
struct Tree {
    parents: HashMap<i32, i32>,
}

impl Tree {
    fn read(host: &Root) -> Self {
        let parent = |pid: i32| parent(&host.read_text(&of(pid, "stat")).ok()?);
        let pids = pids(host);
        Self { parents: pids.into_iter().filter_map(|pid| Some((pid, parent(pid)?))).collect() }
    }

    /// These, as far as they run, and all that come from them, sorted.
    fn with_descendants(&self, first: &[i32]) -> Vec<i32> {
        let is_one = |pid: i32| {
            // As many steps as there are processes: a table that changed meanwhile may lead round in a circle.
            std::iter::successors(Some(pid), |pid| self.parents.get(pid).copied())
                .take(self.parents.len())
                .any(|pid| first.contains(&pid))
        };
        let mut found: Vec<i32> = self.parents.keys().copied().filter(|pid| is_one(*pid)).collect();
        found.sort_unstable();
        found.truncate(PROCESSES_MAX);
        found
    }
}

/// The parent, by `/proc/PID/stat`. The name of the program may have blanks and parentheses.
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The listening sockets in the network of a process, each with its port.
fn listening(host: &Root, pid: i32) -> HashMap<u64, u16> {
    ["net/tcp", "net/tcp6"]
        .iter()
        .filter_map(|table| host.read_text(&of(pid, table)).ok())
        .flat_map(|table| table.lines().filter_map(socket).collect::<Vec<_>>())
        .collect()
}

/// A line of `/proc/net/tcp`: inode and port of a socket that listens.
fn socket(line: &str) -> Option<(u64, u16)> {
    let fields: Vec<&str> = line.split_whitespace().take(10).collect();
    let [_, local, _, LISTENS, .., inode] = fields.as_slice() else { return None };
    let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    Some((inode.parse().ok()?, port))
}

/// The ports among those that a process has a socket of.
fn own_ports(host: &Root, pid: i32, listening: &HashMap<u64, u16>) -> BTreeSet<u16> {
    let folder = host.join(&of(pid, "fd"));
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .take(DESCRIPTORS_MAX)
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|target| listening.get(&inode(target.as_os_str())?).copied())
        .collect()
}

/// What a descriptor of a socket leads to: `socket:[123]`.
fn inode(target: &OsStr) -> Option<u64> {
    let number = target.as_bytes().strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// The sockets that listen in the network of each process. Processes of one network share them.
struct Networks<'a> {
    host: &'a Root,
    known: HashMap<PathBuf, HashMap<u64, u16>>,
}

impl<'a> Networks<'a> {
    fn new(host: &'a Root) -> Self {
        Self { host, known: HashMap::new() }
    }

    fn ports_of(&mut self, pid: i32) -> BTreeSet<u16> {
        let Ok(network) = std::fs::read_link(self.host.join(&of(pid, "ns/net"))) else {
            return BTreeSet::new();
        };
        let listening = self.known.entry(network).or_insert_with(|| listening(self.host, pid));
        if listening.is_empty() { BTreeSet::new() } else { own_ports(self.host, pid, listening) }
    }
}

/// The processes that listen on a port, in whatever network. The first process is one only if it is an Odoo, as in a container.
fn listeners(host: &Root, port: u16) -> Vec<i32> {
    let mut networks = Networks::new(host);
    let is_init =
        |pid: i32| pid == INIT && Launch::parse(&words(&command_line(host, pid))).is_none();
    let pids = pids(host).into_iter().filter(|pid| !is_init(*pid));
    pids.filter(|pid| networks.ports_of(*pid).contains(&port)).collect()
}

/// The ports that processes listen on.
fn ports(host: &Root, pids: &[i32]) -> BTreeSet<u16> {
    let mut networks = Networks::new(host);
    pids.iter().flat_map(|pid| networks.ports_of(*pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_the_kernel_are_read() {
        assert_eq!(parent("42 (a) b (c)) S 7 42 42"), Some(7));
        assert_eq!(parent("42 (a"), None);
        let line = "   0: 0100007F:1F85 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 8123 1 0";
        assert_eq!(socket(line), Some((8123, 8069)));
        assert_eq!(socket(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(socket("  sl  local_address rem_address   st"), None);
        assert_eq!(inode(OsStr::new("socket:[8123]")), Some(8123));
        assert_eq!(inode(OsStr::new("pipe:[8123]")), None);
    }

    #[test]
    fn descendants_are_found_and_a_circle_ends() {
        let tree = Tree {
            parents: HashMap::from([(1, 0), (5, 1), (6, 5), (7, 6), (8, 1), (10, 11), (11, 10)]),
        };
        assert_eq!(tree.with_descendants(&[5]), [5, 6, 7]);
        assert_eq!(tree.with_descendants(&[9]), [] as [i32; 0]);
    }

    #[test]
    fn who_listens_is_found_with_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let host = Root::host();
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(listeners(&host, port), [own]);
        assert!(ports(&host, &[own]).contains(&port));
    }

    #[test]
    fn a_working_directory_above_gives_a_relative_name() {
        let directory = std::env::current_dir().unwrap().join("sub");
        let own = i32::try_from(std::process::id()).unwrap();
        let names = names_of(&Root::host(), own, &directory);
        let start = Some(std::env::current_dir().unwrap());
        assert_eq!(names, [Name { start, path: "sub".into() }]);
    }
}
