//! What is wrong or missing, from the mount to the process of Odoo that uses it.
//!
//! One file for each subject. Each gathers facts, which touches the world, and judges them, which
//! does not. Every question has a bound; what cannot be seen is said, not guessed.

pub(crate) mod files;
pub(crate) mod host;
pub(crate) mod kept;
pub(crate) mod mount;
pub(crate) mod odoo;
pub(crate) mod parameters;
pub(crate) mod redis;
pub(crate) mod requests;
pub(crate) mod service;
pub(crate) mod trail;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::config::flags::{Flags, Place};
use crate::config::{self, Config, secret_file};
use crate::exit::{ExitCode, Failure};
use crate::host::mount_table::Mounted;
use crate::odoo::Odoo;
use crate::odoo::root::Root;
use crate::session::secret::{Keyring, Secret};
use service::Configured;

/// How many directories are looked at at once.
const AT_ONCE: usize = 8;

/// How much a finding matters, the most first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Sessions are lost, unsafe or not where they should be, or soon will be.
    Error,
    /// It works, and something should be mended.
    Warning,
    /// Good to know.
    Note,
    /// As it should be.
    Ok,
}

/// Declares every finding once: its name, how much it matters and what it is called.
macro_rules! ids {
    ($($(#[doc = $doc:literal])+ $name:ident: $severity:ident = $text:literal,)+) => {
        /// What can be found, in order of importance within each severity: a cause comes before
        /// what it causes.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub(crate) enum Id {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Id {
            /// Every one, with its name, its severity and its meaning.
            pub(crate) const ALL: &[(Id, &str, Severity, &str)] = &[
                $((Id::$name, $text, Severity::$severity, concat!($($doc),+)),)+
            ];
        }
    };
}

ids! {
    /// The configuration cannot be used.
    Configuration: Error = "config.unusable",
    /// Redis cannot be reached.
    Unreachable: Error = "redis.unreachable",
    /// Redis refuses the user or the password.
    Password: Error = "redis.password",
    /// Redis refuses a command that is needed.
    Rights: Error = "redis.rights",
    /// The secret that Redis is written with is not on this server.
    Secret: Error = "redis.secret",
    /// Redis cannot be used for another reason.
    Unusable: Error = "redis.unusable",
    /// Redis is full.
    Full: Error = "redis.full",
    /// Redis cannot write its data to disk.
    Failing: Error = "redis.failing",
    /// Nothing is mounted on Odoo's session directory.
    NotMounted: Error = "mount.missing",
    /// Another filesystem is mounted there.
    Foreign: Error = "mount.foreign",
    /// Another filesystem is mounted over the sessionfs.
    Covered: Error = "mount.covered",
    /// The process that served the mount does not exist any more.
    Dead: Error = "mount.dead",
    /// The mount does not answer.
    Silent: Error = "mount.silent",
    /// A session cannot be saved, read and ended.
    Unserved: Error = "mount.unserved",
    /// A running Odoo does not see the mount.
    Blind: Error = "odoo.blind",
    /// A running Odoo sees a mount that has ended.
    Stale: Error = "odoo.stale",
    /// An Odoo keeps its sessions in another directory, and no Odoo uses the mount.
    Elsewhere: Error = "odoo.elsewhere",
    /// A module stores the sessions outside the directory.
    Module: Error = "odoo.module",
    /// The tree belongs to another user than Odoo's.
    Owner: Error = "odoo.owner",
    /// Odoo's processes cannot be identified.
    Callers: Error = "odoo.callers",
    /// Changes that were kept on this host cannot be sent to Redis.
    KeptUnsendable: Error = "spool.unsendable",
    /// No more changes can be kept on this host.
    KeptFull: Error = "spool.full",
    /// Changes are kept on this host for a mount that is not served.
    KeptLeft: Error = "spool.left",
    /// Session files are still written to the underlying directory.
    BelowFresh: Error = "files.underlying-written",
    /// Session files are still written to another directory.
    Fresh: Error = "files.fresh",
    /// Redis evicts sessions when it is full.
    Evicts: Error = "redis.evicts",
    /// Redis can be reached from the network without a password.
    Open: Error = "redis.open",
    /// `/dev/fuse` is missing.
    NoFuse: Error = "host.fuse",
    /// Several mounts are stacked on the directory.
    Layers: Warning = "mount.layers",
    /// Changes are kept on this host until Redis takes them.
    Kept: Warning = "spool.kept",
    /// The mount has no keeper.
    NoKeeper: Warning = "mount.keeper",
    /// Redis loses all data at a restart.
    Volatile: Warning = "redis.volatile",
    /// Redis goes back to an old state at a restart.
    Snapshots: Warning = "redis.snapshots",
    /// Redis does not sync its append-only file.
    Fsync: Warning = "redis.fsync",
    /// Redis has no memory limit.
    NoBound: Warning = "redis.no-bound",
    /// Redis is nearly full.
    Filling: Warning = "redis.filling",
    /// A failover of Redis may lose saves and logouts.
    Replicas: Warning = "redis.replicas",
    /// Fewer sentinels answer than are named: a failover may not be noticed.
    Sentinels: Warning = "redis.sentinels",
    /// Redis answers slowly.
    Slow: Warning = "redis.slow",
    /// There are session files in the underlying directory.
    Below: Warning = "files.underlying",
    /// Without the mount, Odoo would write to the disk unnoticed.
    BelowUsable: Warning = "files.unguarded",
    /// An Odoo in a container would lose the mount when sessionfs is stopped and started again.
    Volume: Warning = "odoo.volume",
    /// An Odoo answers on a port on which requests are not told apart.
    Ports: Warning = "activity.ports",
    /// An Odoo has no workers, and requests to it are not told apart.
    Workers: Warning = "odoo.workers",
    /// Odoo is behind a proxy but has no `proxy_mode`.
    Proxy: Warning = "odoo.proxy-mode",
    /// Code in Odoo's addons loads sessions by their listed names, and finds none.
    Loads: Warning = "odoo.loads-sessions",
    /// A configuration file of Odoo cannot be read.
    OdooConfiguration: Warning = "odoo.conf",
    /// A system parameter of Odoo is not used as it is, or cannot be read.
    Parameters: Warning = "parameters.problem",
    /// Nothing mounts sessionfs after a reboot.
    ByHand: Warning = "service.by-hand",
    /// The unit is not started at boot.
    Disabled: Warning = "service.disabled",
    /// Odoo's unit may start before the mount.
    Order: Warning = "service.order",
    /// A condition of Odoo's unit names the mount, and systemd may wait for it.
    Condition: Warning = "service.condition",
    /// The kernel is older than the oldest supported one.
    OldKernel: Warning = "host.kernel",
    /// The file of the audit trail takes no entries.
    TrailRefused: Warning = "trail.refused",
    /// A part of the audit trail may be in the log of a server alone.
    TrailParted: Warning = "trail.parted",
    /// Entries of the audit trail could not be kept.
    TrailLeftOut: Warning = "trail.left-out",
    /// Little memory is available.
    Memory: Warning = "host.memory",
    /// The staging directory's filesystem is nearly full.
    Staging: Warning = "host.staging",
    /// Not everything can be checked without root.
    NotRoot: Note = "check.not-root",
    /// No Odoo runs.
    NoOdoo: Note = "odoo.none",
    /// No running Odoo uses this directory, and one uses another mount.
    Unused: Note = "odoo.unused",
    /// Requests that a browser sends by itself cannot be told from a person's.
    Requests: Note = "activity.requests",
    /// They are not told apart because that is switched off.
    RequestsOff: Note = "activity.requests-off",
    /// A second Odoo keeps its sessions in another directory.
    OtherOdoo: Note = "odoo.other",
    /// The mount namespace of an Odoo cannot be checked.
    Unseen: Note = "odoo.unseen",
    /// A configuration file that no known Odoo uses has another directory.
    OtherFile: Note = "odoo.other-conf",
    /// Lifetimes that Odoo's system parameters gave still hold, and this server does not follow those.
    ParametersLeft: Note = "parameters.left",
    /// Old session files are left in another directory.
    Left: Note = "files.left",
    /// Code in Odoo's addons lists sessions, and finds their aliases.
    Lists: Note = "odoo.lists-sessions",
    /// Odoo's addons were not searched completely.
    AddonsPartly: Note = "odoo.addons",
    /// The underlying directory cannot be checked.
    BelowUnseen: Note = "files.unseen",
    /// Redis does not show this user its settings.
    RedisUnseen: Note = "redis.unseen",
    /// Every user of this host can use Redis without a password.
    OpenHere: Note = "redis.open-here",
    /// Redis's clock differs from this host's.
    Clock: Note = "redis.clock",
    /// updatedb lists every session each night.
    Updatedb: Note = "host.updatedb",
    /// The clock of this host is not synchronised by NTP.
    Unsynchronised: Note = "host.clock",
    /// The kernel has no Landlock, or it is switched off.
    NoLandlock: Note = "host.landlock",
    /// A newer kernel would have more features.
    Kernel: Note = "host.kernel-features",
    /// systemd does not run here.
    NoSystemd: Note = "service.none",
    /// The mount serves.
    MountOk: Ok = "mount.ok",
    /// Requests that a browser sends by itself are told from a person's.
    RequestsOk: Ok = "activity.ok",
    /// Odoo sees the mount.
    OdooOk: Ok = "odoo.ok",
    /// Odoo's system parameters are followed.
    ParametersOk: Ok = "parameters.ok",
    /// No problem was found with Redis.
    RedisOk: Ok = "redis.ok",
    /// The service starts at boot, before Odoo.
    ServiceOk: Ok = "service.ok",
    /// The audit trail is written.
    TrailOk: Ok = "trail.ok",
    /// No problem was found with the host.
    HostOk: Ok = "host.ok",
}

impl Id {
    fn entry(self) -> (&'static str, Severity) {
        Self::ALL
            .iter()
            .find(|(id, ..)| *id == self)
            .map_or(("", Severity::Error), |(_, name, severity, _)| (name, *severity))
    }

    /// Its stable name.
    pub(crate) fn name(self) -> &'static str {
        self.entry().0
    }

    /// How much it matters.
    pub(crate) fn severity(self) -> Severity {
        self.entry().1
    }

    /// The thing that it is about, as the beginning of its name says.
    pub(crate) fn subject(self) -> &'static str {
        match self.name().split('.').next() {
            Some("config") => "configuration of sessionfs",
            Some("redis") => "Redis",
            Some("mount") => "mount",
            Some("odoo") => "Odoo and the mount",
            Some("spool") => "changes kept on this host",
            Some("files") => "session files on the disk",
            Some("parameters") => "system parameters of Odoo",
            Some("activity") => "requests that a browser sends by itself",
            Some("service") => "service",
            Some("trail") => "audit trail",
            _ => "host",
        }
    }

    /// What it means.
    pub(crate) fn meaning(self) -> &'static str {
        Self::ALL.iter().find(|(id, ..)| *id == self).map_or("", |(.., meaning)| meaning.trim())
    }

    /// Whether Redis, as it is now, keeps a mount from serving.
    fn is_fault_of_redis(self) -> bool {
        let is_state = matches!(self, Self::Evicts | Self::Open);
        self.severity() == Severity::Error && self.name().starts_with("redis.") && !is_state
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One thing that was found.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Finding {
    /// Which.
    pub id: Id,
    /// How much it matters.
    pub severity: Severity,
    /// What is so, in one line.
    pub what: String,
    /// What to do about it, in one line; empty if nothing is to be done.
    pub remedy: String,
}

impl Finding {
    /// Something with its remedy.
    pub(crate) fn new(id: Id, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { id, severity: id.severity(), what: what.into(), remedy: remedy.into() }
    }

    /// Something that is as it should be.
    pub(crate) fn ok(id: Id, what: impl Into<String>) -> Self {
        Self::new(id, what, "")
    }
}

/// All that was found of one directory, the most important first.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// The directory it is about.
    pub directory: PathBuf,
    /// Where its sessions are: what was asked, else what its keeper was told, else its configuration.
    #[serde(skip)]
    pub place: Place,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many are of this severity.
    pub(crate) fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// How the command ends.
pub(crate) fn outcome(reports: &[Report]) -> Result<(), Failure> {
    let count =
        |severity| reports.iter().map(|report| report.count(severity)).sum::<usize>() as u64;
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let directories: Vec<String> =
        reports.iter().map(|report| report.directory.display().to_string()).collect();
    let summary = format!(
        "{}: {}, {}",
        directories.join(", "),
        counted(errors, "error"),
        counted(warnings, "warning")
    );
    match (errors, warnings) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure::new(ExitCode::CheckWarning, summary)),
        _ => Err(Failure::new(ExitCode::CheckFailed, summary)),
    }
}

/// What is to be looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// Odoo's session directory, if it is named.
    pub directory: Option<PathBuf>,
    /// Where the sessions are.
    pub place: Place,
    /// Odoo's configuration file, if it is named.
    pub odoo_conf: Option<PathBuf>,
}

/// Looks at everything: at the directory that is named, else at each of this host. What is said of
/// one is not said again of the next.
pub(crate) fn check(asked: &Asked) -> Result<Vec<Report>, Failure> {
    let host = Root::host();
    let odoo = Odoo::look(&host, asked.odoo_conf.as_deref());
    let configured = Configured::all(&host);
    let mut reports: Vec<Report> = Vec::new();
    let directories = directories(asked, &odoo, &configured, &host)?;
    for report in look_at_all(&directories, |one| look(one, asked, &odoo, &configured, &host)) {
        let mut report = report?;
        report.findings.retain(|finding| {
            let is_same = |other: &Finding| (other.id, &other.what) == (finding.id, &finding.what);
            !reports.iter().flat_map(|other| &other.findings).any(is_same)
        });
        reports.push(report);
    }
    Ok(reports)
}

/// Looks at several at once: each may have to be waited for.
fn look_at_all<T: Send>(directories: &[PathBuf], look: impl Fn(PathBuf) -> T + Sync) -> Vec<T> {
    let (mut found, look) = (Vec::new(), &look);
    for some in directories.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let looking: Vec<_> =
                some.iter().map(|one| scope.spawn(move || look(one.clone()))).collect();
            let looked = looking.into_iter().map(|one| match one.join() {
                Ok(found) => found,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            found.extend(looked);
        });
    }
    found
}

/// Looks at everything that one mount needs.
fn look(
    directory: PathBuf,
    asked: &Asked,
    odoo: &Odoo,
    configured: &[Configured],
    host: &Root,
) -> Result<Report, Failure> {
    let serving = crate::keeper::serving(&directory);
    let keeper = serving.map(|(pid, _)| pid);
    let since = serving.map(|(_, since)| since);
    let own = configured.iter().find(|found| real(found.mountpoint.clone(), odoo) == directory);
    let unit = service::unit_for(keeper, own, host);
    let place = place(&asked.place, keeper, own, host);

    let flags = Flags { place: place.clone(), ..Flags::default() };
    let config = Config::resolve(&directory, &flags);
    let is_named = asked.place.config.is_some() || asked.place.redis.is_some();
    let is_set_up = is_named || keeper.is_some() || own.is_some_and(|found| !found.is_removed);
    let mount = mount::Facts::gather(&directory, &odoo.mounts, keeper, &unit, is_set_up);
    let max_age =
        config.as_ref().map_or(config::IMPORT_MAX_AGE_MS, |config| config.import.max_age_ms);
    let max_age = Duration::from_millis(max_age);
    let files = files::Facts::gather(&directory, odoo, since, max_age, &unit);
    let odoo = odoo::Facts::gather(&directory, odoo.clone(), mount.owner, host);
    let mut findings = Vec::new();
    // The private one runs as long as somebody serves, and is root's and the worker's alone.
    let is_private = config.as_ref().is_ok_and(|config| config.private_redis.is_some());
    if !is_private || serving.is_some() {
        // Other things than Redis may be wrong with the configuration.
        if let Ok(mut settings) = Config::resolve_redis(&place) {
            let file = secrets(config.as_ref().ok(), keeper, host);
            settings.keyring = file.and_then(|file| keyring(&file, &mut findings));
            findings.extend(redis::Facts::gather(&settings, is_private)?.findings());
        }
    }
    let cause = findings.iter().map(|finding| finding.id).find(|id| id.is_fault_of_redis());
    let service = service::Facts::gather(keeper, &unit, odoo.units(), &directory, host);
    findings.extend(mount.findings(cause, service.before_start().as_deref()));
    let kept = kept::Facts::gather(&directory, config.as_ref().ok(), serving.is_some(), &unit);
    findings.extend(kept.findings(cause));
    let parameters = parameters::Facts::gather(&directory, config.as_ref().ok(), serving.is_some());
    findings.extend(parameters.findings());
    let requests = requests::Facts::gather(&directory, config.as_ref().ok(), serving.is_some());
    findings.extend(trail::Facts::gather(&directory, serving.is_some()).findings());
    let unwatched = requests.unwatched(&odoo.http_ports());
    // What is said of an Odoo without workers is of background requests alone.
    let are_told = requests.are_told() && unwatched.is_none();
    let matters = |finding: &Finding| finding.id != Id::Workers || !are_told;
    findings.extend(odoo.findings().into_iter().filter(matters));
    findings.extend(unwatched);
    findings.extend(requests.findings());
    findings.extend(files.findings(odoo.is_used()));
    findings.extend(host::Facts::gather(config).findings());
    findings.extend(service.findings());
    findings.sort_by_key(|finding| (finding.severity, finding.id));
    // Two signs of one Odoo may tell the same.
    findings.dedup_by(|a, b| (a.id, &a.what) == (b.id, &b.what));
    Ok(Report { directory, place, findings })
}

/// The file of secrets: the environment of who serves may name another than the configuration.
fn secrets(config: Option<&Config>, keeper: Option<i32>, host: &Root) -> Option<PathBuf> {
    let environment = keeper
        .and_then(|pid| host.read(Path::new(&format!("/proc/{pid}/environ"))).ok())
        .unwrap_or_default();
    let named = environment.split(|byte| *byte == 0).find_map(|entry| {
        entry.strip_prefix(config::SECRET_VARIABLE.as_bytes())?.strip_prefix(b"=")
    });
    match named {
        Some(path) if !path.is_empty() => Some(PathBuf::from(OsStr::from_bytes(path))),
        _ => Some(config?.secret_file.clone()),
    }
}

/// What a mount would hold, as far as this user may know.
fn keyring(file: &Path, findings: &mut Vec<Finding>) -> Option<Keyring> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    match secret_file::read(file) {
        // A mount would make one, with which no Redis can be written yet.
        Ok(secrets) if secrets.is_empty() => Keyring::new(vec![Secret::generate()]),
        Ok(secrets) => Keyring::new(secrets),
        Err(failure) => {
            let text = failure.to_string();
            let (what, remedy) = what_and_remedy(&text, "correct secret.file");
            findings.push(Finding::new(Id::Secret, what, remedy));
            None
        }
    }
}

/// The directory that is named; else all that are configured or mounted; else the one that Odoo
/// uses.
fn directories(
    asked: &Asked,
    odoo: &Odoo,
    configured: &[Configured],
    host: &Root,
) -> Result<Vec<PathBuf>, Failure> {
    let named = match (&asked.directory, &asked.place.config) {
        (Some(named), _) => Some(named.clone()),
        (None, Some(file)) => config::mountpoint(None, Some(file)).ok(),
        (None, None) => None,
    };
    if let Some(named) = named {
        let absolute = std::path::absolute(&named)
            .map_err(|error| Failure::internal(format!("find {}", named.display()), error))?;
        return Ok(vec![real(absolute, odoo)]);
    }
    let mut found: Vec<PathBuf> = Vec::new();
    for one in configured.iter().filter(|one| !one.is_removed) {
        let path = real(one.mountpoint.clone(), odoo);
        if !found.contains(&path) {
            found.push(path);
        }
    }
    found.extend(mounted(odoo, &found));
    if !found.is_empty() {
        return Ok(found);
    }
    let used: Vec<PathBuf> =
        odoo.candidates(host).into_iter().map(|candidate| candidate.path).collect();
    match used.as_slice() {
        [_] => Ok(used),
        [] => Err(Failure::new(
            ExitCode::SessionsNotFound,
            "nothing is mounted and no Odoo was found, so there is nothing to check; name the \
             directory",
        )),
        several => {
            let all: Vec<_> = several.iter().map(|path| path.display().to_string()).collect();
            Err(Failure::new(
                ExitCode::Usage,
                format!("several directories were found; name one of {}", all.join(", ")),
            ))
        }
    }
}

/// Without symbolic links. What is mounted there may not answer: it is not asked for its name.
fn real(path: PathBuf, odoo: &Odoo) -> PathBuf {
    match odoo.mounts.at(&path) {
        Some(_) => path,
        None => path.canonicalize().unwrap_or(path),
    }
}

/// Where a sessionfs is mounted, beside those that are `known`. One that is bound to a second place
/// (a container's volume) is one, known by the place that its keeper made.
fn mounted(odoo: &Odoo, known: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<&Mounted> = Vec::new();
    for mounted in odoo.mounts.ours().into_iter().filter_map(|path| odoo.mounts.at(path)) {
        if known
            .iter()
            .any(|path| odoo.mounts.at(path).map(|at| &at.device) == Some(&mounted.device))
        {
            continue;
        }
        match found.iter_mut().find(|one| one.device == mounted.device) {
            Some(one) if crate::keeper::serving(&one.mountpoint).is_none() => *one = mounted,
            Some(_) => {}
            None => found.push(mounted),
        }
    }
    found.into_iter().map(|mounted| mounted.mountpoint.clone()).collect()
}

/// What is named, else what the keeper that serves was told, else the mount's own configuration.
fn place(
    asked: &Place,
    keeper: Option<i32>,
    configured: Option<&Configured>,
    host: &Root,
) -> Place {
    let mut place = asked.clone();
    if let (None, None, None, Some(configured)) = (&asked.redis, &asked.config, keeper, configured)
    {
        place.config = Some(configured.path.clone());
    }
    let told = keeper
        .filter(|_| asked.redis.is_none() && asked.config.is_none())
        .and_then(|pid| host.read_text(Path::new(&format!("/proc/{pid}/cmdline"))).ok());
    let words: Vec<&str> = told.as_deref().unwrap_or_default().split('\0').collect();
    for (position, word) in words.iter().enumerate() {
        let value = |name: &str| match word.strip_prefix(name)?.strip_prefix('=') {
            Some(value) => Some((*value).to_owned()),
            None if *word == name => words.get(position + 1).map(|next| (*next).to_owned()),
            None => None,
        };
        place.redis = value("--redis").or(place.redis);
        place.config = value("--config").map(PathBuf::from).or(place.config);
    }
    place
}

/// How long ago, in the largest unit that fits.
fn ago(since: std::time::SystemTime) -> String {
    let seconds = since.elapsed().unwrap_or_default().as_secs();
    let (number, unit) = match seconds {
        0..120 => (seconds, "s"),
        120..7200 => (seconds / 60, "min"),
        7200..172_800 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{number} {unit} ago")
}

/// What a failure says, and what to do about it; `otherwise` if it does not say that.
fn what_and_remedy<'a>(failure: &'a str, otherwise: &'a str) -> (&'a str, &'a str) {
    failure.rsplit_once("; ").unwrap_or((failure, otherwise))
}

/// A number of things.
fn counted(number: u64, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        _ if thing.ends_with('s') => format!("{number} {thing}es"),
        _ => format!("{number} {thing}s"),
    }
}

#[cfg(test)]
mod tests;
