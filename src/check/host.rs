//! The host: kernel, memory, clock, rights, and our own configuration on it.

use std::path::{Path, PathBuf};

use super::{Finding, Id, what_and_remedy};
use crate::config::Config;
use crate::exit::{ExitCode, Failure};
use crate::host::{clock, confine};
use crate::odoo::root::Root;

/// The oldest kernel that is supported.
const OLDEST: (u32, u32) = (5, 15);
/// The one that can leave out a request at each close.
const NOFLUSH: (u32, u32) = (5, 16);
/// What plocate and mlocate read.
const UPDATEDB: &str = "/etc/updatedb.conf";
/// Below it the kernel may end Redis at any time.
const MEMORY_LEAST_BYTES: u64 = 64 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Whether we are root.
    pub root: bool,
    /// Whether there is a `/dev/fuse`.
    pub fuse: bool,
    /// The kernel's version, as it says it itself.
    pub kernel: String,
    /// Whether the kernel can limit which files a process opens.
    pub landlock: bool,
    /// What can still be given to programs.
    pub memory_bytes: Option<u64>,
    /// Whether the clock is kept by NTP.
    pub synchronised: Option<bool>,
    /// Where saves under way lie, what is free there, and what they may take.
    pub staging: Option<(PathBuf, u64, u64)>,
    /// Whether updatedb passes sessionfs over; `None` if it is not here.
    pub pruned: Option<bool>,
    /// Why our configuration cannot be used.
    pub configuration: Option<Failure>,
}

impl Facts {
    pub(crate) fn gather(mut configured: Result<Config, Failure>) -> Self {
        let root = nix::unistd::geteuid().is_root();
        let staging = configured.as_mut().ok().and_then(|config| {
            config.leave_room_on_tmpfs();
            let base = config.staging_dir.parent()?;
            let there = nix::sys::statvfs::statvfs(base).ok()?;
            let free = there.blocks_available().saturating_mul(there.fragment_size());
            Some((base.to_owned(), free, config.limits.staging_bytes))
        });
        let unreadable = |failure: &Failure| !root && failure.code == ExitCode::UnreadableFile;
        Self {
            root,
            fuse: Path::new("/dev/fuse").exists(),
            kernel: nix::sys::utsname::uname()
                .map(|name| name.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
            landlock: confine::has_landlock(),
            memory_bytes: memory(),
            synchronised: clock::is_synchronised(),
            staging,
            pruned: Root::host().read_text(Path::new(UPDATEDB)).ok().map(|text| is_pruned(&text)),
            // Only root needs to be able to read it.
            configuration: configured.err().filter(|failure| !unreadable(failure)),
        }
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if let Some(failure) = &self.configuration {
            let text = failure.to_string();
            let otherwise = "correct it; man sessionfs.toml has all keys";
            let (what, remedy) = what_and_remedy(&text, otherwise);
            found.push(Finding::new(Id::Configuration, what, remedy));
        }
        if !self.fuse {
            found.push(Finding::new(
                Id::NoFuse,
                "/dev/fuse is missing: cannot mount",
                "modprobe fuse; in a container, add --device /dev/fuse",
            ));
        }
        let version = version(&self.kernel);
        if version < OLDEST {
            found.push(Finding::new(
                Id::OldKernel,
                format!("kernel {} is older than {}.{}", self.kernel, OLDEST.0, OLDEST.1),
                "upgrade the system; older kernels are not tested",
            ));
        } else if version < NOFLUSH {
            found.push(Finding::new(
                Id::Kernel,
                format!(
                    "kernel {} sends one more request at every close than newer kernels",
                    self.kernel
                ),
                "no action needed; 5.16 and later are slightly faster",
            ));
        }
        if !self.landlock {
            found.push(Finding::new(
                Id::NoLandlock,
                "the kernel has no Landlock, or it is switched off: the worker can open every file \
                 that its user can open",
                "no action needed; to switch it on, add landlock to the kernel parameter lsm=",
            ));
        }
        if let Some(free) = self.memory_bytes.filter(|free| *free < MEMORY_LEAST_BYTES) {
            found.push(Finding::new(
                Id::Memory,
                format!(
                    "only {} MiB of memory are available: the kernel may kill Redis or Odoo",
                    free >> 20
                ),
                "add memory, or use fewer Odoo workers",
            ));
        }
        if let Some((dir, free, wanted)) =
            self.staging.as_ref().filter(|(_, free, wanted)| free < wanted)
        {
            found.push(Finding::new(
                Id::Staging,
                format!(
                    "{} has {} MiB free, but saves in progress may need {} MiB",
                    dir.display(),
                    free >> 20,
                    wanted >> 20
                ),
                "remove what fills it, enlarge that tmpfs, or lower limits.staging",
            ));
        }
        if self.pruned == Some(false) {
            found.push(Finding::new(
                Id::Updatedb,
                format!(
                    "updatedb lists every session each night: fuse.sessionfs is not in PRUNEFS \
                     ({UPDATEDB})"
                ),
                format!("add fuse.sessionfs to PRUNEFS in {UPDATEDB}"),
            ));
        }
        if self.synchronised == Some(false) {
            found.push(Finding::new(
                Id::Unsynchronised,
                "the clock of this host is not synchronised by NTP; if Redis runs here, sessions \
                 end by this clock",
                "start systemd-timesyncd or chrony",
            ));
        }
        if !self.root {
            found.push(Finding::new(
                Id::NotRoot,
                "without root, other users' processes and the underlying directory cannot be \
                 checked",
                "sudo sessionfs check",
            ));
        }
        if found.iter().all(|finding| finding.id.severity() > super::Severity::Warning) {
            found.push(Finding::ok(
                Id::HostOk,
                format!("kernel {}, /dev/fuse, memory", self.kernel),
            ));
        }
        found
    }
}

/// Whether a filesystem's type is among those that updatedb.conf(5) passes over, in any case of
/// letters.
fn is_pruned(text: &str) -> bool {
    let values = text.lines().filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "PRUNEFS").then(|| value.trim().trim_matches('"'))
    });
    values.flat_map(str::split_whitespace).any(|one| one.eq_ignore_ascii_case("fuse.sessionfs"))
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or_default());
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
}

fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updatedb_is_asked_in_its_own_words() {
        for text in ["PRUNEFS=\"nfs fuse.sessionfs\"\n", "#x\n PRUNEFS = \"a FUSE.SessionFS b\""] {
            assert!(is_pruned(text), "{text}");
        }
        for text in [
            "",
            "PRUNEFS=\"nfs fuse.sshfs\"",
            "# PRUNEFS=\"fuse.sessionfs\"",
            "PRUNEPATHS=\"fuse.sessionfs\"",
        ] {
            assert!(!is_pruned(text), "{text}");
        }
    }
}
