//! What can be learnt of the Odoo on this host, and where it keeps its sessions.
//!
//! Odoo names no directory of sessions itself: it is `sessions` in its `data_dir`, which comes from
//! the command line, else the configuration file, else the home of its user. So each sign of an
//! Odoo (a process, a systemd unit, a file) is followed to its end. Everything is read below a
//! [`Root`].

pub(crate) mod addons;
pub(crate) mod configuration;
pub(crate) mod launch;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod root;
pub(crate) mod service;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::host::mount_table::{MountTable, Mounted};
use configuration::Configuration;
use launch::Launch;
use process::Process;
use root::{Account, Root};
use service::Service;

/// The name of the directory in Odoo's `data_dir`.
const SESSIONS: &str = "sessions";
/// Where Odoo keeps its data if its user has no home.
const HOMELESS: &str = "/var/lib/odoo";
const DATA_BELOW_HOME: &str = ".local/share/Odoo";

/// What a directory of sessions is known by, the surest first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Sign {
    Process(Box<Process>),
    /// A unit of systemd.
    Service(Box<Service>),
    /// A configuration file in one of the usual places.
    File,
    /// The directory itself, in one of the usual places.
    Directory,
}

/// One Odoo, as far as a sign tells of it.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub sign: Sign,
    pub account: Account,
    /// Its configuration file, if it has one.
    pub configuration: Option<Configuration>,
    /// Where its sessions are by its own words, without symbolic links.
    pub sessions: PathBuf,
    /// The same as Odoo itself may write it: with the symbolic links.
    #[cfg_attr(not(feature = "bpf"), expect(dead_code, reason = "only for what BPF observes"))]
    pub named: PathBuf,
    /// The same directory on this host, if it is to be seen here.
    pub sessions_here: Option<PathBuf>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Odoo {
    /// In order of certainty.
    pub instances: Vec<Instance>,
    /// Every process, workers included.
    pub processes: Vec<Process>,
    /// What is mounted on this host.
    pub mounts: MountTable,
}

/// A directory in which Odoo may keep its sessions.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Candidate {
    /// On this host, without symbolic links.
    pub path: PathBuf,
    /// Odoo's user: a name, or a number where it has none here.
    pub owner: String,
    pub group: String,
    pub source: String,
    /// Whether it is there.
    pub exists: bool,
    /// Whether a sessionfs is mounted on it.
    pub mounted: bool,
    /// The systemd units whose Odoo keeps its sessions there, sorted.
    pub units: Vec<String>,
    /// Whether the Odoo that runs will see a mount that is made on it from now on.
    pub sees_mount: Sees,
}

/// Whether a running Odoo will see what is mounted on its session directory from now on. One that
/// is started later sees it in any case.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sees {
    /// It runs in the same mount namespace, or in one that mounts are passed on to.
    Yes,
    /// It is not known.
    Unknown,
    /// It has to be restarted.
    No,
}

impl Sees {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Unknown => "unknown",
            Self::No => "no",
        }
    }
}

impl Odoo {
    /// Looks at a host, and at a configuration file that was named.
    pub(crate) fn look(host: &Root, named: Option<&Path>) -> Self {
        let processes = Process::all(host);
        let mounts =
            MountTable::read(&host.join(Path::new("/proc/self/mountinfo"))).unwrap_or_default();
        let look = Look { host, mounts: &mounts };
        let is_odoo = |pid: i32| processes.iter().any(|process| process.pid == pid);
        // Workers share everything with the process that started them.
        let running = processes.iter().filter(|process| !is_odoo(process.parent));
        let mut instances: Vec<Instance> =
            running.map(|process| look.at_process(process)).collect();
        // A unit whose process was looked at tells nothing more.
        let seen: Vec<&str> = processes
            .iter()
            .filter(|process| process.readable)
            .filter_map(|process| process.unit.as_deref())
            .collect();
        let services = Service::all(host);
        let unseen = services.into_iter().filter(|service| !seen.contains(&service.name.as_str()));
        instances.extend(unseen.map(|service| look.at_service(service)));
        let files: Vec<&Path> = named
            .into_iter()
            .chain(configuration::USUAL_PLACES.map(Path::new))
            .filter(|path| {
                !instances.iter().any(|known| {
                    known.configuration.as_ref().is_some_and(|file| file.path == *path)
                })
            })
            .collect();
        instances.extend(files.into_iter().filter_map(|path| look.at_file(path)));
        instances.extend(look.usual_directories());
        Self { instances, processes, mounts }
    }

    /// The running Odoo that keeps its sessions in this directory of a disk: where it looks, no
    /// sessionfs is mounted.
    pub(crate) fn running_in(&self, directory: &Path) -> Option<&Process> {
        self.instances.iter().find_map(|instance| {
            let Sign::Process(process) = &instance.sign else { return None };
            let theirs = process.mounts.as_ref().unwrap_or(&self.mounts);
            let on_disk = !theirs.covering(&instance.sessions).is_some_and(Mounted::is_ours);
            let is_it = on_disk && instance.sessions_here.as_deref() == Some(directory);
            is_it.then_some(&**process)
        })
    }

    /// The directories of those signs that are as sure as the surest, and those that a sessionfs
    /// is mounted on: what an old or a second installation has left behind does not count beside a
    /// running Odoo. Each real directory once.
    pub(crate) fn candidates(&self, host: &Root) -> Vec<Candidate> {
        let surest = self.instances.iter().map(|instance| instance.sign.doubt()).min();
        let mut found: Vec<Candidate> = Vec::new();
        for instance in &self.instances {
            let Some(path) = instance.sessions_here.clone() else { continue };
            if matches!(&instance.sign, Sign::Process(process) if !process.readable) {
                continue;
            }
            let mounted = self.mounts.at(&path).is_some_and(Mounted::is_ours);
            let counts = mounted || Some(instance.sign.doubt()) == surest;
            if !counts {
                continue;
            }
            let sees_mount = instance.sees_mount(&self.mounts);
            if let Some(known) = found.iter_mut().find(|known| known.path == path) {
                known.sees_mount = known.sees_mount.max(sees_mount);
                continue;
            }
            found.push(Candidate {
                sees_mount,
                owner: instance.account.name.clone(),
                group: instance.group(host),
                source: instance.source(),
                // What is mounted there may not answer.
                exists: self.mounts.at(&path).is_some() || host.is_dir(&path),
                mounted,
                units: self.units(&path),
                path,
            });
        }
        found
    }

    /// The systemd units whose Odoo keeps its sessions in that directory. A container's belongs to
    /// whoever runs containers.
    fn units(&self, sessions: &Path) -> Vec<String> {
        let theirs =
            self.instances.iter().filter(|found| found.sessions_here.as_deref() == Some(sessions));
        let mut units: Vec<String> = theirs.filter_map(Instance::unit).collect();
        units.sort_unstable();
        units.dedup();
        units
    }

    /// Every systemd unit that is known to start an Odoo, whatever directory that uses.
    pub(crate) fn all_units(&self) -> Vec<String> {
        let mut units: Vec<String> = self.instances.iter().filter_map(Instance::unit).collect();
        units.sort_unstable();
        units.dedup();
        units
    }
}

impl Sign {
    /// A unit that is not running is as sure as a process: it will run.
    fn doubt(&self) -> u8 {
        match self {
            Self::Process(_) | Self::Service(_) => 0,
            Self::File => 1,
            Self::Directory => 2,
        }
    }
}

impl Instance {
    /// Its group, by the name that this host has for it, as with its user.
    fn group(&self, host: &Root) -> String {
        match &self.sign {
            Sign::Process(process) if process.contained => self.account.gid.to_string(),
            _ => host.group(self.account.gid),
        }
    }

    /// How it is known, in words.
    pub(crate) fn source(&self) -> String {
        let by = match &self.configuration {
            Some(file) if file.unreadable.is_none() => format!("{}", file.path.display()),
            _ => "its defaults".to_owned(),
        };
        match &self.sign {
            Sign::Process(process) if process.contained => {
                format!("Odoo runs in a container (pid {}, {by} in it)", process.pid)
            }
            Sign::Process(process) => format!("Odoo runs (pid {}, {by})", process.pid),
            Sign::Service(service) => format!("unit {} starts Odoo ({by})", service.name),
            Sign::File => format!("configuration file {by}"),
            Sign::Directory => "the directory exists".to_owned(),
        }
    }

    /// The service of systemd that starts it on this host.
    pub(crate) fn unit(&self) -> Option<String> {
        match &self.sign {
            Sign::Process(process) if !process.contained => {
                process.unit.clone().filter(|unit| unit.ends_with(".service"))
            }
            Sign::Service(service) => Some(service.name.clone()),
            Sign::Process(_) | Sign::File | Sign::Directory => None,
        }
    }

    /// Whether it will see a mount that is made on its session directory from now on, on a host
    /// with these mounts.
    pub(crate) fn sees_mount(&self, host: &MountTable) -> Sees {
        let Sign::Process(process) = &self.sign else { return Sees::Yes };
        let both = process.mounts.as_ref().zip(self.sessions_here.as_ref());
        match both.and_then(|(theirs, here)| host.propagates(here, theirs, &self.sessions)) {
            Some(true) => Sees::Yes,
            Some(false) => Sees::No,
            None => Sees::Unknown,
        }
    }

    /// The command line that started it, or will.
    pub(crate) fn launch(&self) -> Option<&Launch> {
        match &self.sign {
            Sign::Process(process) => Some(&process.launch),
            Sign::Service(service) => Some(&service.launch),
            Sign::File | Sign::Directory => None,
        }
    }

    /// How many HTTP workers it has; `None` if nobody says so: then Odoo's default, 0.
    pub(crate) fn workers(&self) -> Option<u32> {
        let said = self.launch().and_then(|launch| launch.workers.as_deref()?.parse().ok());
        said.or_else(|| self.configuration.as_ref()?.workers)
    }

    /// The port on which it answers HTTP; `None` if there is none, or it cannot be known.
    pub(crate) fn http_port(&self) -> Option<u16> {
        let (launch, file) = (self.launch()?, self.configuration.as_ref());
        let has_told = match &self.sign {
            // A title hides what the command line said; without its environment its file is not known.
            Sign::Process(process) => process.readable && !launch.titled,
            _ => true,
        };
        let is_known = has_told && file.is_none_or(|file| file.unreadable.is_none());
        (is_known || launch.http_port.is_some()).then(|| ports::of(launch, file))?
    }

    /// Whether it trusts a proxy's headers (`proxy_mode`).
    pub(crate) fn proxy_mode(&self) -> bool {
        self.launch().is_some_and(|launch| launch.proxy_mode)
            || self.configuration.as_ref().is_some_and(|file| file.proxy_mode)
    }

    /// The port of its evented process, which answers websockets; Odoo's default if nobody says another.
    pub(crate) fn gevent_port(&self) -> u16 {
        let told = self.launch().and_then(|launch| launch.gevent_port);
        told.or_else(|| self.configuration.as_ref()?.gevent_port).unwrap_or(ports::GEVENT_DEFAULT)
    }

    /// Whether it shows its databases to everybody (`list_db`).
    pub(crate) fn lists_databases(&self) -> bool {
        let hides = self.launch().is_some_and(|launch| launch.hides_databases);
        !hides && self.configuration.as_ref().and_then(|file| file.list_db).unwrap_or(true)
    }

    /// The pattern of the databases that it serves (`dbfilter`).
    pub(crate) fn db_filter(&self) -> Option<String> {
        let told = self.launch().and_then(|launch| launch.db_filter.clone());
        told.or_else(|| self.configuration.as_ref()?.db_filter.clone())
    }

    /// The databases that it serves, as far as they are named (`db_name`).
    pub(crate) fn databases(&self) -> Vec<String> {
        match self.launch().and_then(|launch| launch.databases.as_deref()) {
            Some(text) => configuration::names(text),
            None => {
                self.configuration.as_ref().map(|file| file.databases.clone()).unwrap_or_default()
            }
        }
    }

    /// Its log, if that is a file (`logfile`), in the words of its own `/`.
    pub(crate) fn log_file(&self) -> Option<PathBuf> {
        let told = self.launch().and_then(|launch| launch.log_file.clone());
        told.or_else(|| self.configuration.as_ref()?.log_file.clone())
    }

    /// Where its addons are, as far as it is told, in the words of its own `/`.
    pub(crate) fn addons(&self) -> Vec<PathBuf> {
        let mut paths = match self.launch().and_then(|launch| launch.addons.as_deref()) {
            Some(text) => configuration::paths(text),
            None => self.configuration.as_ref().map(|file| file.addons.clone()).unwrap_or_default(),
        };
        // Odoo adds these itself.
        paths.extend(self.sessions.parent().map(|data_dir| data_dir.join("addons")));
        paths
    }

    /// Its server-wide modules, as far as they are named.
    pub(crate) fn modules(&self) -> Vec<String> {
        match self.launch().and_then(|launch| launch.modules.as_deref()) {
            Some(text) => configuration::names(text),
            None => {
                self.configuration.as_ref().map(|file| file.modules.clone()).unwrap_or_default()
            }
        }
    }
}

/// What signs are followed by.
struct Look<'a> {
    host: &'a Root,
    mounts: &'a MountTable,
}

impl Look<'_> {
    fn at_process(&self, process: &Process) -> Instance {
        let root = process.root(self.host);
        let mut account = account(&root, process.uid, process.gid);
        if let Some(home) = process.variable("HOME") {
            account.home = Some(home.into());
        }
        let configuration = configuration_of(
            &root,
            &process.launch,
            |name| process.variable(name),
            process.working_dir.as_deref(),
            &account,
        );
        let sessions = sessions_of(
            &root,
            &process.launch,
            configuration.as_ref(),
            process.variable("XDG_DATA_HOME"),
            process.working_dir.as_deref(),
            &account,
        );
        let named = sessions.clone();
        let theirs = process.mounts.as_ref().unwrap_or(self.mounts);
        let (sessions, sessions_here) = if process.contained {
            let here = self.mounts.translate(theirs, &sessions);
            (sessions, here)
        } else {
            let sessions = self.resolved(&sessions);
            (sessions.clone(), Some(sessions))
        };
        // The name that this host has for it. In a container the same number is somebody else.
        let number = process.uid.to_string();
        let known = self.host.account(&number).filter(|_| !process.contained);
        let account = Account { name: known.map_or(number, |known| known.name), ..account };
        let sign = Sign::Process(Box::new(process.clone()));
        Instance { sign, account, configuration, sessions, named, sessions_here }
    }

    fn at_service(&self, service: Service) -> Instance {
        let mut account = self.host.account(&service.user).unwrap_or_else(|| Account {
            name: service.user.clone(),
            uid: u32::MAX,
            gid: u32::MAX,
            home: None,
        });
        if let Some(gid) = service.group.as_deref().and_then(|group| self.host.group_id(group)) {
            account.gid = gid;
        }
        if let Some(home) = service.variable("HOME") {
            account.home = Some(home.into());
        }
        let configuration = configuration_of(
            self.host,
            &service.launch,
            |name| service.variable(name),
            service.working_dir.as_deref(),
            &account,
        );
        let named = sessions_of(
            self.host,
            &service.launch,
            configuration.as_ref(),
            service.variable("XDG_DATA_HOME"),
            service.working_dir.as_deref(),
            &account,
        );
        let sessions = self.resolved(&named);
        let sessions_here = Some(sessions.clone());
        Instance {
            sign: Sign::Service(Box::new(service)),
            account,
            configuration,
            sessions,
            named,
            sessions_here,
        }
    }

    fn at_file(&self, path: &Path) -> Option<Instance> {
        let configuration = Configuration::read(self.host, path)?;
        let account = self.usual_account();
        let launch = Launch::default();
        let named = sessions_of(self.host, &launch, Some(&configuration), None, None, &account);
        let sessions = self.resolved(&named);
        let sessions_here = Some(sessions.clone());
        let configuration = Some(configuration);
        let sign = Sign::File;
        Some(Instance { sign, account, configuration, sessions, named, sessions_here })
    }

    /// Whoever would run an Odoo that nothing else tells of.
    fn usual_account(&self) -> Account {
        ["odoo", "openerp"]
            .iter()
            .find_map(|name| self.host.account(name))
            .unwrap_or_else(|| account(self.host, 0, 0))
    }

    fn usual_directories(&self) -> Vec<Instance> {
        let mut homes = vec![PathBuf::from("/root"), PathBuf::from(HOMELESS)];
        for above in ["/home", "/opt", "/srv"].map(Path::new) {
            homes.extend(self.host.list(above).iter().map(|name| above.join(name)));
        }
        homes.extend(self.usual_account().home);
        let below = |home: &PathBuf| home.join(DATA_BELOW_HOME).join(SESSIONS);
        let mut directories: Vec<PathBuf> = homes.iter().map(below).collect();
        directories.push(Path::new(HOMELESS).join(SESSIONS));
        let mut found: Vec<Instance> = Vec::new();
        for directory in directories {
            let sessions = self.resolved(&directory);
            if self.mounts.at(&sessions).is_none() && !self.host.is_dir(&sessions)
                || found.iter().any(|known| known.sessions == sessions)
            {
                continue;
            }
            // The directory's own owner may be a mount's; the one above is Odoo's.
            let above = self.host.join(sessions.parent().unwrap_or(Path::new("/")));
            let account = above.metadata().map_or_else(
                |_| self.usual_account(),
                |found| {
                    use std::os::unix::fs::MetadataExt as _;
                    account(self.host, found.uid(), found.gid())
                },
            );
            let sessions_here = Some(sessions.clone());
            let sign = Sign::Directory;
            found.push(Instance {
                sign,
                account,
                configuration: None,
                sessions,
                named: directory,
                sessions_here,
            });
        }
        found
    }

    /// Without symbolic links, as far as it exists, and without a question to what is mounted on
    /// it.
    fn resolved(&self, path: &Path) -> PathBuf {
        let host = self.host.join(Path::new("/"));
        let inside = |real: PathBuf| {
            real.strip_prefix(&host).map(|rest| Path::new("/").join(rest)).unwrap_or(real)
        };
        let mut missing = PathBuf::new();
        let mut existing = path.to_owned();
        loop {
            if self.mounts.at(&existing).is_some() && existing.parent().is_some() {
                let parent = existing.parent().unwrap_or(Path::new("/"));
                let real = self.host.join(parent).canonicalize().map_or(parent.to_owned(), inside);
                let name = existing.file_name().unwrap_or_default();
                return real.join(name).join(missing).components().collect();
            }
            if let Ok(real) = self.host.join(&existing).canonicalize() {
                return inside(real).join(missing).components().collect();
            }
            let Some((parent, name)) = existing.parent().zip(existing.file_name()) else {
                return path.to_owned();
            };
            missing = Path::new(name).join(missing);
            existing = parent.to_owned();
        }
    }
}

pub(crate) fn account(root: &Root, uid: u32, gid: u32) -> Account {
    let known = root.account(&uid.to_string());
    Account {
        name: known.as_ref().map_or_else(|| uid.to_string(), |account| account.name.clone()),
        uid,
        gid,
        home: known.and_then(|account| account.home),
    }
}

/// The file that Odoo reads: named, else in the environment, else in the home.
pub(crate) fn configuration_of<'a>(
    root: &Root,
    launch: &Launch,
    variable: impl Fn(&str) -> Option<&'a str>,
    working_dir: Option<&Path>,
    account: &Account,
) -> Option<Configuration> {
    let named = launch
        .config
        .clone()
        .or_else(|| variable("ODOO_RC").map(PathBuf::from))
        .or_else(|| variable("OPENERP_SERVER").map(PathBuf::from));
    match named {
        Some(path) => Configuration::read(root, &absolute(&path, working_dir, account)),
        None => [".odoorc", ".openerp_serverrc"]
            .iter()
            .find_map(|name| Configuration::read(root, &account.home.as_ref()?.join(name))),
    }
}

/// Where an Odoo that was started so keeps its sessions.
fn sessions_of(
    root: &Root,
    launch: &Launch,
    configuration: Option<&Configuration>,
    data_home: Option<&str>,
    working_dir: Option<&Path>,
    account: &Account,
) -> PathBuf {
    let named = launch.data_dir.as_ref().or_else(|| configuration?.data_dir.as_ref());
    let data_dir = match (named, &account.home) {
        (Some(named), _) => absolute(named, working_dir, account),
        (None, Some(home)) if root.is_dir(home) => match data_home.filter(|dir| !dir.is_empty()) {
            Some(dir) => Path::new(dir).join("Odoo"),
            None => home.join(DATA_BELOW_HOME),
        },
        _ => PathBuf::from(HOMELESS),
    };
    data_dir.join(SESSIONS)
}

/// As Odoo reads a path: `~` is the home, and what is relative begins where it was started.
fn absolute(path: &Path, working_dir: Option<&Path>, account: &Account) -> PathBuf {
    match (path.strip_prefix("~"), &account.home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => working_dir.unwrap_or(Path::new("/")).join(path),
    }
}

#[cfg(test)]
mod tests;
