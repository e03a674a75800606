//! The service: whether the mount comes back after a reboot, and before Odoo; and whether systemd may have to wait for
//! it.

mod condition;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Finding, Id};
use crate::config::file::File;
use crate::host::ask::ask;
use crate::odoo::process::unit_of;
use crate::odoo::root::Root;
pub(crate) use condition::Condition;

/// The unit that an installation brings.
const UNIT: &str = "sessionfs.service";
/// Where the files of several mounts lie: `shop.toml` is that of `sessionfs@shop`.
const CONFIGURATIONS: &str = "/etc/sessionfs";
/// The most of them that are looked at.
const CONFIGURATIONS_MAX: usize = 100;
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Whether systemd runs here.
    pub systemd: bool,
    /// Whether somebody serves the mount, and by which unit.
    pub served: bool,
    /// The unit that serves the mount, or would.
    pub unit: Option<String>,
    /// The same, if it is masked.
    pub masked: Option<Masked>,
    /// Whether it starts at boot.
    pub enabled: bool,
    /// Odoo's units that do not wait for it.
    pub early: Vec<String>,
    /// Of Odoo's units, with which systemd asks the mount itself.
    pub conditions: Vec<Condition>,
}

/// A unit that systemd may not start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Masked {
    pub unit: String,
    /// Until the next boot.
    pub until_boot: bool,
}

impl Masked {
    fn unmask(&self) -> String {
        let option = if self.until_boot { "--runtime " } else { "" };
        format!("systemctl unmask {option}{}", self.unit)
    }
}

/// A mount that is configured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Configured {
    /// The unit that reads the file, without `.service`.
    pub unit: String,
    pub path: PathBuf,
    /// The directory that it names.
    pub mountpoint: PathBuf,
    /// Whether `sessionfs-setup --uninstall` has taken this instance away: its configuration stays
    /// for a later setup, and nothing has to be mounted.
    pub is_removed: bool,
}

impl Configured {
    /// All of this host, that of `sessionfs.service` first. A file that cannot be used is
    /// skipped: a start with it says why.
    pub(crate) fn all(host: &Root) -> Vec<Self> {
        let directory = Path::new(CONFIGURATIONS);
        let mut found: Vec<Self> = host
            .list(directory)
            .into_iter()
            .take(CONFIGURATIONS_MAX)
            .filter_map(|name| {
                let path = directory.join(&name);
                let mountpoint = File::load(Some(&host.join(&path))).ok()?.mountpoint?;
                let (unit, is_removed) = match name.strip_suffix(".toml")? {
                    "sessionfs" => ("sessionfs".to_owned(), false),
                    instance => (format!("sessionfs@{instance}"), is_removed(instance, host)),
                };
                Some(Self { unit, path, mountpoint, is_removed })
            })
            .collect();
        found.sort_by_key(|one| (one.unit != "sessionfs", one.unit.clone()));
        found
    }
}

/// Whether the installation's record of this instance is what an uninstallation leaves: one that
/// names no directory.
fn is_removed(instance: &str, host: &Root) -> bool {
    let record = Path::new(CONFIGURATIONS).join(format!("{instance}.installed"));
    host.read_text(&record)
        .is_ok_and(|text| !text.lines().any(|line| line.starts_with("mountpoint=")))
}

/// The unit that a keeper runs in, if it is one of ours.
pub(crate) fn own_unit_of(keeper: i32, host: &Root) -> Option<String> {
    unit_of(host, keeper).filter(|unit| unit.starts_with("sessionfs"))
}

/// The unit that serves a mount, or would, without `.service`.
pub(crate) fn unit_for(
    keeper: Option<i32>,
    configured: Option<&Configured>,
    host: &Root,
) -> String {
    let serving = keeper.and_then(|pid| own_unit_of(pid, host));
    let unit = serving.or_else(|| configured.map(|found| found.unit.clone()));
    let unit = unit.unwrap_or_else(|| UNIT.to_owned());
    unit.strip_suffix(".service").unwrap_or(&unit).to_owned()
}

impl Facts {
    /// Looks. `would` is the unit of a mount that nobody serves, `odoo` are those of the Odoos that
    /// use it.
    pub(crate) fn gather(
        keeper: Option<i32>,
        would: &str,
        odoo: Vec<String>,
        mountpoint: &Path,
        host: &Root,
    ) -> Self {
        let systemd = host.is_dir(Path::new("/run/systemd/system"));
        if !systemd {
            return Self::default();
        }
        let serving = keeper.and_then(|pid| unit_of(host, pid));
        let unit = match (&serving, keeper) {
            (Some(unit), _) => Some(unit.clone()),
            (None, Some(_)) => None,
            (None, None) => Some(format!("{would}.service")),
        };
        let show = |unit: &str, property: &str| {
            let mut command = Command::new("systemctl");
            command.args(["show", "--value", "--property", property, unit]);
            ask(&mut command, ANSWER_WITHIN).unwrap_or_default().trim().to_owned()
        };
        let state = unit.as_deref().map(|unit| show(unit, "LoadState")).unwrap_or_default();
        let masked = unit.clone().filter(|_| state == "masked").map(|unit| Masked {
            until_boot: show(&unit, "UnitFileState") == "masked-runtime",
            unit,
        });
        let unit = unit.filter(|_| state == "loaded");
        let enabled = unit.as_deref().is_some_and(|unit| {
            ["enabled", "enabled-runtime", "static", "generated"]
                .contains(&show(unit, "UnitFileState").as_str())
        });
        let after = |odoo: &str| {
            let after = show(odoo, "After");
            unit.as_deref().is_some_and(|unit| after.split_whitespace().any(|name| name == unit))
        };
        let conditions = odoo.iter().flat_map(|odoo| conditions(odoo, mountpoint)).collect();
        let early =
            odoo.into_iter().filter(|_| unit.is_some()).filter(|odoo| !after(odoo)).collect();
        Self { systemd, served: keeper.is_some(), unit, masked, enabled, early, conditions }
    }

    /// What has to be done before systemd can start the unit.
    pub(crate) fn before_start(&self) -> Option<String> {
        self.masked.as_ref().map(Masked::unmask)
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        if !self.systemd {
            return vec![Finding::new(
                Id::NoSystemd,
                "systemd does not run here, so it will not mount sessionfs after a reboot",
                "have the init system of this host run 'sessionfs mount' before Odoo",
            )];
        }
        let mut found: Vec<Finding> = self.conditions.iter().map(Condition::finding).collect();
        if let Some(masked) = &self.masked {
            let (unit, unmask) = (&masked.unit, masked.unmask());
            found.push(Finding::new(
                Id::Disabled,
                if self.served {
                    format!(
                        "{unit} is masked: systemd ends it after WatchdogSec=, and does not start it again"
                    )
                } else {
                    format!("{unit} is masked: systemd does not start it")
                },
                format!("{unmask}, then systemctl enable --now {unit}"),
            ));
            return found;
        }
        let Some(unit) = &self.unit else {
            let what = if self.served {
                "sessionfs was started by hand: it is not mounted after a reboot"
            } else {
                "there is no unit sessionfs.service: sessionfs is not mounted after a reboot"
            };
            found.push(Finding::new(
                Id::ByHand,
                what,
                "install it (install.sh or the package), and run systemctl enable --now sessionfs",
            ));
            return found;
        };
        if !self.enabled {
            found.push(Finding::new(
                Id::Disabled,
                format!("{unit} is not enabled: sessionfs is not mounted after a reboot"),
                format!("systemctl enable {unit}"),
            ));
        }
        for odoo in &self.early {
            found.push(Finding::new(
                Id::Order,
                format!(
                    "{odoo} does not wait for {unit}: after a reboot it may start without the mount"
                ),
                format!("add a drop-in with After={unit} and Wants={unit} (systemctl edit {odoo})"),
            ));
        }
        if found.is_empty() {
            found.push(Finding::ok(Id::ServiceOk, format!("{unit} starts at boot, before Odoo")));
        }
        found
    }
}

/// Those of a unit with all its drop-ins, as systemd has read them.
fn conditions(unit: &str, mountpoint: &Path) -> Vec<Condition> {
    let mut command = Command::new("systemctl");
    command.args(["cat", "--no-pager", "--", unit]);
    let text = ask(&mut command, ANSWER_WITHIN).unwrap_or_default();
    Condition::all(unit, &text, mountpoint)
}
