//! Odoo: whether each one on this host really uses the mount, and whether its configuration fits.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::{Finding, Id, ago, counted};
use crate::config::paths::control_socket;
use crate::control::client;
use crate::control::status::UnidentifiedCallers;
use crate::host::mount_table::{MountTable, Mounted};
use crate::odoo::addons::{self, Access};
use crate::odoo::process::Process;
use crate::odoo::root::Root;
use crate::odoo::{Instance, Odoo, Sees, Sign};
use crate::shell;

/// Programs that stand between browsers and Odoo.
const PROXIES: [&str; 6] = ["nginx", "haproxy", "apache2", "httpd", "caddy", "traefik"];

/// Parts of the names of modules that keep sessions elsewhere (`session_redis`, `session_db`,
/// `smile_redis_session_store`, `muk_session_store`).
const ELSEWHERE: [&str; 6] = ["redis", "db", "store", "memcache", "dynamodb", "postgres"];

#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Where the mount is, or should be.
    pub directory: PathBuf,
    /// The mount's user.
    pub owner: Option<u32>,
    /// Each Odoo, the surest first.
    pub instances: Vec<Instance>,
    /// Every process, with its parent.
    pub processes: Vec<(i32, i32)>,
    /// What is mounted on this host.
    pub mounts: MountTable,
    /// A proxy that runs on this host.
    pub proxy: Option<String>,
    /// The name of a user id.
    pub owner_name: String,
    /// Code in the addons of an Odoo that lists sessions: whose, and what was found.
    pub addons: Vec<(String, addons::Found)>,
    /// Who used the mount and could not be identified, by the mount's own word.
    pub unidentified: Vec<UnidentifiedCallers>,
}

/// What an Odoo finds where it looks for its sessions.
#[derive(Clone, Debug, Eq, PartialEq)]
enum View {
    Mount,
    /// A mount that has ended.
    Stale,
    /// The directory without the mount: what kind of filesystem it has instead.
    Blind(String),
    Elsewhere,
    /// Another mount of ours.
    Other,
    /// It cannot be seen.
    Unseen,
}

impl Facts {
    pub(crate) fn gather(directory: &Path, odoo: Odoo, owner: Option<u32>, host: &Root) -> Self {
        let proc = Path::new("/proc");
        let proxy = host
            .list(proc)
            .into_iter()
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
            .filter_map(|pid| host.read_text(&proc.join(pid).join("comm")).ok())
            .map(|name| name.trim().to_owned())
            .find(|name| PROXIES.contains(&name.as_str()));
        let owner_name = owner.map_or(String::new(), |uid| {
            host.account(&uid.to_string()).map_or(uid.to_string(), |account| account.name)
        });
        Self {
            addons: addons_of(directory, &odoo.instances, host),
            directory: directory.to_owned(),
            owner,
            processes: odoo.processes.iter().map(|found| (found.pid, found.parent)).collect(),
            instances: odoo.instances,
            mounts: odoo.mounts,
            proxy,
            owner_name,
            // Where nobody answers, that is said of the mount.
            unidentified: client::status(&control_socket(directory))
                .map(|status| status.unidentified_callers)
                .unwrap_or_default(),
        }
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut running = false;
        let mut seeing = Vec::new();
        let mut elsewhere = None;
        for instance in &self.instances {
            let view = self.view(instance);
            if let Sign::Process(process) = &instance.sign {
                running |= view != View::Other;
                if view == View::Other {
                    elsewhere = elsewhere.or(Some(instance));
                }
                if view == View::Mount {
                    seeing.push((process.pid, instance.account.name.clone()));
                }
            }
            // Another mount's Odoo is another check's.
            if view != View::Other {
                found.extend(self.place(instance, &view));
                found.extend(self.settings(instance, &view));
            }
        }
        if let [(pid, user), others @ ..] = seeing.as_slice() {
            let others = if others.is_empty() {
                String::new()
            } else {
                format!(" and {} more", others.len())
            };
            found.push(Finding::ok(
                Id::OdooOk,
                format!(
                    "Odoo (pid {pid}{others}, {} in all, user {user}) sees the mount",
                    counted(self.family(seeing.iter().map(|(pid, _)| *pid)), "process")
                ),
            ));
        }
        found.extend(self.addons.iter().flat_map(|(who, searched)| in_addons(who, searched)));
        found.extend(self.unidentified.iter().filter(|callers| callers.is_current()).map(
            |callers| {
                let last = UNIX_EPOCH + Duration::from_millis(callers.last_ms);
                let times = counted(callers.count, "time");
                let what = format!("{} (seen {times}, {})", callers.reason.text(), ago(last));
                Finding::new(Id::Callers, what, callers.reason.remedy())
            },
        ));
        if let (false, Some(instance)) = (running, elsewhere) {
            let at = shell::path(instance.sessions_here.as_ref().unwrap_or(&instance.sessions));
            found.push(Finding::new(
                Id::Unused,
                format!(
                    "no running Odoo uses {}; {} uses {at}, where sessionfs is also mounted",
                    self.directory.display(),
                    name(instance)
                ),
                format!(
                    "check that directory (sessionfs check {at}), or start the Odoo that uses this \
                     one"
                ),
            ));
        } else if !running {
            found.push(Finding::new(
                Id::NoOdoo,
                "no Odoo runs here, so the use of the mount cannot be checked",
                "start Odoo, open its login page, and run the check again",
            ));
        }
        found
    }

    /// Whether an Odoo that runs sees the mount.
    pub(crate) fn is_used(&self) -> bool {
        self.instances.iter().any(|instance| {
            matches!(instance.sign, Sign::Process(_)) && self.view(instance) == View::Mount
        })
    }

    /// Each Odoo that uses the mount, or should, with the port on which it answers HTTP.
    pub(crate) fn http_ports(&self) -> Vec<(String, u16)> {
        let theirs = self.instances.iter().filter(|instance| concerns(&self.view(instance)));
        theirs.filter_map(|instance| Some((name(instance), instance.http_port()?))).collect()
    }

    /// The units of the Odoos that use the directory, or should.
    pub(crate) fn units(&self) -> Vec<String> {
        let mut units: Vec<String> = Vec::new();
        for instance in &self.instances {
            let unit = match &instance.sign {
                Sign::Process(process) if !process.contained => process.unit.clone(),
                Sign::Service(service) => Some(service.name.clone()),
                _ => None,
            };
            let there = instance.sessions_here.as_deref() == Some(&self.directory);
            if let Some(unit) = unit.filter(|_| there || self.view(instance) == View::Mount)
                && !units.contains(&unit)
            {
                units.push(unit);
            }
        }
        units
    }

    /// How many processes these have with their workers.
    fn family(&self, roots: impl Iterator<Item = i32>) -> u64 {
        let mut family: Vec<i32> = roots.collect();
        let mut seen = 0;
        while let Some(pid) = family.get(seen).copied() {
            seen += 1;
            let children =
                self.processes.iter().filter(|(child, parent)| *parent == pid && *child != pid);
            let children: Vec<i32> =
                children.map(|(child, _)| *child).filter(|child| !family.contains(child)).collect();
            family.extend(children);
        }
        family.len() as u64
    }

    fn view(&self, instance: &Instance) -> View {
        let there = instance.sessions_here.as_deref() == Some(&self.directory);
        let Sign::Process(process) = &instance.sign else {
            let other = instance
                .sessions_here
                .as_ref()
                .is_some_and(|path| self.mounts.ours().contains(&path.as_path()));
            return match (there, other) {
                (true, _) => View::Mount,
                (false, true) => View::Other,
                (false, false) => View::Elsewhere,
            };
        };
        let Some(theirs) = process.mounts.as_ref().filter(|_| process.readable) else {
            return View::Unseen;
        };
        let Some(seen) = theirs.covering(&instance.sessions) else { return View::Unseen };
        let is_device = |path: &Path| {
            self.mounts.at(path).is_some_and(|ours| ours.is_ours() && ours.device == seen.device)
        };
        let is_other = |found: &Mounted| {
            let in_container = process.contained && process.has_own_sessionfs;
            found.is_ours() && (in_container || self.mounts.ours().into_iter().any(is_device))
        };
        if is_device(&self.directory) {
            View::Mount
        } else if is_other(seen) {
            View::Other
        } else if seen.is_ours() {
            View::Stale
        } else if there && self.mounts.at(&self.directory).is_some() {
            View::Blind(seen.fstype.clone())
        } else if there {
            // Nothing is mounted: that is said of the mount.
            View::Unseen
        } else {
            View::Elsewhere
        }
    }

    /// Whether it finds the mount, and may use it.
    fn place(&self, instance: &Instance, view: &View) -> Option<Finding> {
        let who = name(instance);
        let dir = shell::path(&self.directory);
        let at = shell::path(instance.sessions_here.as_ref().unwrap_or(&instance.sessions));
        match (view, &instance.sign) {
            (View::Blind(kind), Sign::Process(process)) => Some(Finding::new(
                Id::Blind,
                format!(
                    "{who} does not see the mount: in its mount namespace, {} is on {kind}, so it \
                     still writes files",
                    shell::path(&instance.sessions)
                ),
                again(process),
            )),
            (View::Stale, Sign::Process(process)) => Some(Finding::new(
                Id::Stale,
                format!("{who} uses a sessionfs mount that has ended: it gets errors"),
                again(process),
            )),
            (View::Elsewhere, Sign::Process(_) | Sign::Service(_)) if self.is_used() => {
                Some(Finding::new(
                    Id::OtherOdoo,
                    format!("{who} keeps its sessions in {at}, not in {dir} as another does"),
                    format!(
                        "those sessions are its own, do not import them here; set it up with \
                         sessionfs-setup --instance NAME --sessions {at}"
                    ),
                ))
            }
            (View::Elsewhere, Sign::Process(process)) if process.contained => Some(Finding::new(
                Id::Elsewhere,
                format!("{who} keeps its sessions in {at}, not in {dir}"),
                format!(
                    "in its container, use {dir} as a volume with propagation in place of its \
                     sessions (-v {dir}:{}:rslave)",
                    shell::path(&instance.sessions)
                ),
            )),
            (View::Elsewhere, Sign::Process(_) | Sign::Service(_)) => Some(Finding::new(
                Id::Elsewhere,
                format!("{who} keeps its sessions in {at}, not in {dir}"),
                format!(
                    "set up sessionfs there (sessionfs-setup --sessions {at}), or change its \
                     data_dir and restart it"
                ),
            )),
            (View::Elsewhere, Sign::File) if is_read(instance) => Some(Finding::new(
                Id::OtherFile,
                format!("{who}, which no known Odoo uses, has its sessions in {at}"),
                "if an Odoo uses it, set up sessionfs there, too; else delete it",
            )),
            (View::Unseen, Sign::Process(process))
                if process.mounts.is_none() || !process.readable =>
            {
                Some(Finding::new(
                    Id::Unseen,
                    format!("the mount namespace of {who} cannot be checked"),
                    "run as root; in a container, with the capability SYS_PTRACE",
                ))
            }
            (View::Mount, Sign::Process(process)) => self
                .owned_by_another(instance, process)
                .or_else(|| self.lost_later(instance, process)),
            _ => None,
        }
    }

    /// It sees the mount, and may not use it.
    fn owned_by_another(&self, instance: &Instance, process: &Process) -> Option<Finding> {
        let owner = self.owner.filter(|owner| *owner != process.uid && process.uid != 0)?;
        Some(Finding::new(
            Id::Owner,
            format!(
                "{} runs as {}, but {} belongs to {} ({owner}): Odoo has no access",
                name(instance),
                instance.account.name,
                self.directory.display(),
                self.owner_name
            ),
            format!(
                "set owner = \"{}\" in the configuration of sessionfs, and reload it (sessionfs \
                 reload {})",
                instance.account.name,
                shell::path(&self.directory)
            ),
        ))
    }

    /// It sees the mount of now, and would not see the next one.
    fn lost_later(&self, instance: &Instance, process: &Process) -> Option<Finding> {
        (process.contained && instance.sees_mount(&self.mounts) == Sees::No).then(|| {
            Finding::new(
                Id::Volume,
                format!(
                    "{} loses the mount when sessionfs is stopped and started again: its volume \
                     has no mount propagation",
                    name(instance)
                ),
                "use the directory above the sessions (data_dir) as its volume, with propagation \
                 (-v DIR:DIR:rslave)",
            )
        })
    }

    /// Whether its configuration fits.
    fn settings(&self, instance: &Instance, view: &View) -> Vec<Finding> {
        let mut found = Vec::new();
        let who = name(instance);
        let file = instance.configuration.as_ref();
        let path = file.map_or_else(|| "odoo.conf".into(), |file| file.path.display().to_string());
        if let Some((file, why)) = file.and_then(|file| Some((file, file.unreadable.as_ref()?))) {
            found.push(Finding::new(
                Id::OdooConfiguration,
                format!("Odoo's configuration {} cannot be read: {why}", file.path.display()),
                "correct it, or run as root",
            ));
            return found;
        }
        if !concerns(view) || matches!(instance.sign, Sign::File | Sign::Directory) {
            return found;
        }
        let by_variable = match &instance.sign {
            Sign::Process(process) => {
                process.variable("ODOO_SESSION_REDIS").is_some_and(|value| value != "0")
            }
            _ => false,
        };
        let module = instance.modules().into_iter().find(|name| {
            name.contains("session") && ELSEWHERE.iter().any(|part| name.contains(part))
        });
        if let Some(module) = module {
            found.push(Finding::new(
                Id::Module,
                format!(
                    "{who} loads {module}, which stores the sessions elsewhere: none are stored \
                     here"
                ),
                format!("remove it from server_wide_modules in {path}, and restart Odoo"),
            ));
        } else if by_variable {
            found.push(Finding::new(
                Id::Module,
                format!(
                    "{who} runs with ODOO_SESSION_REDIS: a module stores its sessions elsewhere"
                ),
                "remove the variable from its environment, and restart Odoo",
            ));
        }
        if instance.workers().unwrap_or(0) == 0 {
            found.push(Finding::new(
                Id::Workers,
                format!(
                    "{who} has no workers: its background polls cannot be distinguished from \
                     requests of users, so an open tab keeps its session alive"
                ),
                format!("set workers = 2 or more in {path}, and restart Odoo"),
            ));
        }
        if let Some(proxy) = self.proxy.as_ref().filter(|_| !instance.proxy_mode()) {
            found.push(Finding::new(
                Id::Proxy,
                format!(
                    "{proxy} runs here, but {who} has no proxy_mode: every request seems to come \
                     from the proxy"
                ),
                format!("set proxy_mode = True in {path}, and restart Odoo"),
            ));
        }
        found
    }
}

/// Searches the addons of each Odoo that keeps its sessions there, each directory once.
fn addons_of(
    directory: &Path,
    instances: &[Instance],
    host: &Root,
) -> Vec<(String, addons::Found)> {
    let mut searched: Vec<(Root, PathBuf)> = Vec::new();
    let is_here = |instance: &&Instance| {
        matches!(instance.sign, Sign::Process(_) | Sign::Service(_))
            && instance.sessions_here.as_deref() == Some(directory)
    };
    let search = |instance: &Instance| {
        let root = match &instance.sign {
            Sign::Process(process) => process.root(host),
            _ => host.clone(),
        };
        let mut paths = instance.addons();
        paths.retain(|path| !searched.contains(&(root.clone(), path.clone())));
        searched.extend(paths.iter().map(|path| (root.clone(), path.clone())));
        (name(instance), addons::search(&root, &paths))
    };
    instances.iter().filter(is_here).map(search).collect()
}

fn in_addons(who: &str, searched: &addons::Found) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for place in &searched.uses {
        let at = format!("{}:{}", place.file.display(), place.line);
        found.push(match place.access {
            Access::Load => Finding::new(
                Id::Loads,
                format!("{at} may load the sessions that it has listed: it finds none of them"),
                "use 'sessionfs list' and 'sessionfs kill' instead; see \"When not to use \
                 sessionfs\" in docs/compare.md",
            ),
            Access::List => Finding::new(
                Id::Lists,
                format!(
                    "{at} lists sessions: it finds their aliases, which can be counted, and \
                     removed by a process that serves no requests"
                ),
                "see docs/nightly-jobs.md; names of sessions are not ids, and open none",
            ),
        });
    }
    if searched.partly {
        found.push(Finding::new(
            Id::AddonsPartly,
            format!("only a part of the addons of {who} was searched for code that lists sessions"),
            "search the rest: grep -rn 'session_store\\|session_dir' DIR",
        ));
    }
    found
}

/// Whether it uses the mount, or should.
fn concerns(view: &View) -> bool {
    matches!(view, View::Mount | View::Blind(_) | View::Stale)
}

fn is_read(instance: &Instance) -> bool {
    instance.configuration.as_ref().is_some_and(|file| file.unreadable.is_none())
}

fn name(instance: &Instance) -> String {
    match &instance.sign {
        Sign::Process(process) if process.contained => {
            format!("Odoo in a container (pid {})", process.pid)
        }
        Sign::Process(process) => format!("Odoo (pid {})", process.pid),
        Sign::Service(service) => format!("the Odoo of unit {}", service.name),
        Sign::File => instance
            .configuration
            .as_ref()
            .map_or_else(|| "a configuration file".into(), |file| file.path.display().to_string()),
        Sign::Directory => "somebody".into(),
    }
}

/// How such a process comes to see the mount.
fn again(process: &Process) -> String {
    match (&process.unit, process.contained) {
        (_, true) => "restart the container; use the directory above as a volume with propagation \
                      (-v DIR:DIR:rslave)"
            .into(),
        (Some(unit), false) => format!(
            "systemctl restart {unit}; if that does not help, its mount namespace has no \
             propagation: check MountFlags= and PrivateMounts= (systemctl cat {unit})"
        ),
        (None, false) => "restart it from a shell that sees the mount".into(),
    }
}
