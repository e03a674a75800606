//! The systemd unit that a process belongs to, and what systemd is about to do with it.
//!
//! systemd is asked by systemctl(1), as root over its own socket, which needs no D-Bus. Within a bound: a keeper that
//! ends has not much time.

use std::process::Command;
use std::time::{Duration, Instant};

use super::ask::ask;
use super::service_manager;

/// The service in a process's cgroup (`0::/system.slice/odoo.service`). Where the older hierarchies
/// are used, too, it is in one of their lines.
pub(crate) fn in_cgroup(cgroup: &str) -> Option<&str> {
    let service = |line: &'_ str| line.split('/').position(|part| part.ends_with(".service"));
    let line = cgroup.lines().find(|line| service(line).is_some())?;
    let name = line.split('/').nth(service(line)?)?;
    // Below the manager of a user are that user's own units, of any name that a directory can have.
    (is_unit_name(name) && !name.starts_with("user@")).then_some(name)
}

/// The service of the innermost service manager: in a container that has one, but no cgroup namespace, the path begins
/// with the unit of the container itself.
fn innermost(cgroup: &str) -> Option<&str> {
    let line = cgroup.lines().find(|line| in_cgroup(line).is_some())?;
    line.split('/').rfind(|part| part.ends_with(".service")).filter(|name| is_unit_name(name))
}

/// Whether systemd takes it for the name of a unit.
fn is_unit_name(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b))
}

/// A unit that systemd is asked about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Unit(String);

/// What systemd says of a unit.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct State {
    /// The type of the job that is carried out for it: `start`, `stop`, `restart`, ... From when a restart is asked for
    /// until the old process has ended it is `restart` (systemd's `src/core/job.c`).
    pub job: Option<String>,
    /// How many descriptors are stored for its next process.
    pub stored: usize,
}

impl Unit {
    /// The one that this process belongs to.
    pub(crate) fn own() -> Option<Self> {
        let cgroup = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        innermost(&cgroup).map(|name| Self(name.to_owned()))
    }

    /// What systemd says of it now; `None` if that cannot be found out within this time.
    pub(crate) fn state(&self, within: Duration) -> Option<State> {
        let until = Instant::now() + within;
        let unit = show(&self.0, "Job,NFileDescriptorStore", until)?;
        let stored = value(&unit, "NFileDescriptorStore")?.parse().ok()?;
        let job = match value(&unit, "Job").filter(|job| *job != "0") {
            Some(job) => Some(value(&show(job, "JobType", until)?, "JobType")?.to_owned()),
            None => None,
        };
        Some(State { job, stored })
    }
}

/// The properties of a unit, or of the job of a number, in lines `NAME=VALUE`.
fn show(what: &str, properties: &str, until: Instant) -> Option<String> {
    let mut command = Command::new("systemctl");
    service_manager::keep_from(&mut command).args(["show", "--property", properties, "--", what]);
    ask(&mut command, until.saturating_duration_since(Instant::now()))
}

fn value<'a>(properties: &'a str, name: &str) -> Option<&'a str> {
    properties
        .lines()
        .filter_map(|line| line.split_once('='))
        .find_map(|(found, value)| (found == name && !value.is_empty()).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_read_from_the_cgroup() {
        assert_eq!(in_cgroup("0::/system.slice/odoo.service\n"), Some("odoo.service"));
        assert_eq!(in_cgroup("0::/user.slice/user@1000.service/app.slice/x.scope\n"), None);
        let hybrid = "3:pids:/\n1:name=systemd:/system.slice/odoo.service\n0::/\n";
        assert_eq!(in_cgroup(hybrid), Some("odoo.service"));
        assert_eq!(in_cgroup(""), None);
    }

    #[test]
    fn a_unit_of_a_user_is_none_of_this_host() {
        let below = "/user.slice/user-1000.slice/user@1000.service";
        assert_eq!(in_cgroup(&format!("0::{below}/app.slice/odoo.service\n")), None);
        assert_eq!(
            in_cgroup(&format!("1:name=systemd:{below}/odoo.service\n0::{below}/x\n")),
            None
        );
        // Whoever may make cgroups may name them.
        assert_eq!(in_cgroup("0::/system.slice/a|;1etouch${IFS}owned;.service\n"), None);
        assert_eq!(in_cgroup("0::/system.slice/odoo two.service\n"), None);
        assert_eq!(in_cgroup("0::/a.slice/odoo@a\\x2db.service\n"), Some("odoo@a\\x2db.service"));
    }

    #[test]
    fn in_a_container_the_own_unit_is_the_innermost() {
        let inside = "0::/machine.slice/systemd-nspawn@shop.service/payload/system.slice/sessionfs.service\n";
        assert_eq!(innermost(inside), Some("sessionfs.service"));
        assert_eq!(innermost("0::/system.slice/sessionfs.service\n"), Some("sessionfs.service"));
        assert_eq!(innermost("0::/user.slice/user@1000.service/app.slice/x.service\n"), None);
    }

    #[test]
    fn properties_are_read_by_their_name() {
        let said = "NFileDescriptorStore=2\nJob=17\nStatusText=Job=stop\n";
        assert_eq!(value(said, "Job"), Some("17"));
        assert_eq!(value(said, "NFileDescriptorStore"), Some("2"));
        assert_eq!(value(said, "JobType"), None);
        assert_eq!(value("Job=\n", "Job"), None);
    }
}
