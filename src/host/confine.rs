//! How the worker gives up everything that root may do, for good; and the disk server all but what
//! it is there for.
//!
//! The worker parses what comes from Odoo, from Redis and from a browser's cookie; nothing of that
//! is parsed with a right that an ordinary user lacks.
//!
//! - [`files`]: which files may be opened
//! - [`calls`]: which system calls are denied

mod calls;
mod files;

use std::io;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
    set_capabilities, set_keep_capabilities,
};

use crate::exit::{ExitCode, Failure};
use calls::{Execution, Filter};
use files::Domain;
pub(crate) use files::{Files, Right, is_available as has_landlock};

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    /// Its only group.
    pub gid: u32,
}

/// What of the confinement this kernel or this container does not have. Rights are given up all the
/// same; these come on top.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Missing {
    /// The filter of system calls.
    pub filter: bool,
    /// Landlock.
    pub files: bool,
}

impl Missing {
    /// Logs it.
    pub(crate) fn tell(self) {
        if self.filter {
            tracing::warn!("no seccomp here: this process runs without a filter of system calls");
        }
        if self.files {
            tracing::info!(
                "no Landlock here: this process can open every file that its user may open"
            );
        }
    }
}

/// Becomes the worker's user, confined to these files, and ends with the keeper. To be called while
/// there is one thread. `files` is called as that user.
pub(crate) fn become_worker(
    worker: &User,
    files: impl FnOnce() -> io::Result<Files>,
) -> Result<Missing, Failure> {
    let missing = become_unprivileged(worker, files)?;
    // After the change of user, which clears it. A keeper that has died before this is noticed by
    // the end of the conversation.
    end_with_parent()?;
    Ok(missing)
}

/// Becomes the worker's user, confined to these files. To be called while there is one thread. `files`
/// is called as that user.
pub(crate) fn become_unprivileged(
    worker: &User,
    files: impl FnOnce() -> io::Result<Files>,
) -> Result<Missing, Failure> {
    fn failed<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Failure {
        move |error| {
            Failure::new(
                ExitCode::WorkerRights,
                format!(
                    "the worker cannot {what}: {error}; start sessionfs as root with the \
                     capabilities SETUID, SETGID and SETPCAP"
                ),
            )
        }
    }
    let (uid, gid) = (Uid::from_raw(worker.uid), Gid::from_raw(worker.gid));
    setgroups(&[]).map_err(failed("drop its groups"))?;
    setresgid(gid, gid, gid).map_err(failed("change its group"))?;
    // Needs a capability, so it comes before these go.
    empty_bounding_set().map_err(failed("clear its bounding set"))?;
    setresuid(uid, uid, uid).map_err(failed("change its user"))?;
    keep_capabilities(CapabilitySet::empty()).map_err(failed("drop its capabilities"))?;
    prctl::set_no_new_privs().map_err(failed("set no_new_privs"))?;
    // Sessions are in its memory: no core file, and no ptrace by others of the same user.
    prctl::set_dumpable(false).map_err(failed("forbid core files"))?;
    check(worker)?;
    let files = files().map_err(|e| Failure::internal("confine the worker", e))?;
    confine(&files).map_err(|e| Failure::internal("confine the worker", e))
}

/// Confines this thread, and all that it starts, to these files and to a worker's system calls.
fn confine(files: &Files) -> io::Result<Missing> {
    let domain = files.domain()?;
    if let Some(domain) = &domain {
        domain.enter()?;
    }
    // A kernel or a container without seccomp.
    let filter = Filter::new(Execution::Denied).set().is_err();
    Ok(Missing { filter, files: domain.is_none() })
}

/// The confinement of a program that is started by a child of ours, made before the fork.
pub(crate) struct Prepared {
    domain: Option<Domain>,
    filter: Filter,
}

impl Prepared {
    /// Confined to these files. What it starts is confined in the same way.
    pub(crate) fn new(files: &Files) -> io::Result<Self> {
        Ok(Self { domain: files.domain()?, filter: Filter::new(Execution::Allowed) })
    }

    /// Confines this thread, which has `no_new_privs`. Makes system calls only, so it may be called
    /// between fork and exec. What the kernel does not have is left out.
    pub(crate) fn enter(&self) -> io::Result<()> {
        if let Some(domain) = &self.domain {
            domain.enter()?;
        }
        let _ = self.filter.set();
        Ok(())
    }
}

/// The kernel ends this process when the thread that has started it ends.
pub(crate) fn end_with_parent() -> Result<(), Failure> {
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|e| Failure::internal("set the parent death signal", e))
}

/// Stays root, with the rights to read, give away and change files, and no other, confined to these
/// files. To be called while there is one thread.
pub(crate) fn become_disk_server(files: &Files) -> Result<(), Failure> {
    const NEEDED: CapabilitySet =
        CapabilitySet::CHOWN.union(CapabilitySet::DAC_OVERRIDE).union(CapabilitySet::FOWNER);
    let give_up = || -> io::Result<()> {
        setgroups(&[])?;
        empty_bounding_set()?;
        keep_capabilities(NEEDED)?;
        prctl::set_no_new_privs()?;
        prctl::set_dumpable(false)?;
        confine(files)?;
        Ok(())
    };
    give_up().map_err(|e| Failure::internal("drop capabilities that are not needed", e))?;
    end_with_parent()
}

/// Becomes an unprivileged user with those of the capabilities BPF and PERFMON that this process has, to load BPF programs.
/// It can read what the kernel tells of itself and open nothing else. To be called while there is one thread.
pub(crate) fn become_loader() -> Result<(), Failure> {
    const NOBODY: u32 = 65534;
    const NEEDED: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::PERFMON);
    let give_up = || -> io::Result<()> {
        let kept = capabilities(None)?.permitted.intersection(NEEDED);
        setgroups(&[])?;
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        setresgid(gid, gid, gid)?;
        empty_bounding_set()?;
        set_keep_capabilities(true)?;
        setresuid(uid, uid, uid)?;
        keep_capabilities(kept)?;
        prctl::set_no_new_privs()?;
        prctl::set_dumpable(false)?;
        let files = Files::default().path("/proc", Right::Read).path("/sys", Right::Read);
        if let Some(domain) = files.domain()? {
            domain.enter()?;
        }
        Ok(())
    };
    give_up().map_err(|e| Failure::internal("drop capabilities that are not needed", e))?;
    // After the change of user, which clears it.
    end_with_parent()
}

fn empty_bounding_set() -> rustix::io::Result<()> {
    for bit in 0..CapabilitySet::all().bits().count_ones() {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            // One more than this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Keeps these capabilities, in effect and permitted, none inheritable. A change from root to another
/// user has emptied the sets that count already; a container may have given inheritable ones, which it
/// has not.
fn keep_capabilities(kept: CapabilitySet) -> rustix::io::Result<()> {
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })
}

/// Believes nothing of the above: asks the kernel.
fn check(worker: &User) -> Result<(), Failure> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|e| Failure::internal("read /proc/self/status", e))?;
    match excess(&status, worker) {
        None => Ok(()),
        Some(line) => Err(Failure::new(
            ExitCode::WorkerRights,
            format!(
                "the worker still has a privilege that it must not have ({line}); please report \
                 this"
            ),
        )),
    }
}

/// The line of `/proc/self/status` that tells of a right too many.
fn excess(status: &str, worker: &User) -> Option<String> {
    let line = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or("?")
    };
    let wrong = |name: &str, right: bool| (!right).then(|| format!("{name}:{}", line(name)));
    let all_are = |name: &str, id: u32| {
        let mut ids = line(name).split_whitespace();
        ids.clone().count() == 4 && ids.all(|found| found.parse() == Ok(id))
    };
    let empty = |name: &str| u64::from_str_radix(line(name).trim(), 16) == Ok(0);
    wrong("Uid", all_are("Uid", worker.uid))
        .or_else(|| wrong("Gid", all_are("Gid", worker.gid)))
        .or_else(|| wrong("Groups", line("Groups").trim().is_empty()))
        .or_else(|| wrong("NoNewPrivs", line("NoNewPrivs").trim() == "1"))
        .or_else(|| {
            ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
                .into_iter()
                .find_map(|name| wrong(name, empty(name)))
        })
}

/// What a directory lacks for the worker: it must be able to make files in it.
pub(crate) fn check_directory(dir: &std::path::Path, worker: &User) -> Result<(), Failure> {
    use nix::unistd::{AccessFlags, access};
    access(dir, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK).map_err(|e| {
        let error = io::Error::from(e);
        Failure::new(
            ExitCode::WorkerRights,
            format!(
                "user {} cannot use {}: {error}; allow it (chmod o+x on the directories above) or \
                 name another directory",
                worker.name,
                dir.display()
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFINED: &str = "Name:\tsessionfs\nUid:\t5\t5\t5\t5\nGid:\t6\t6\t6\t6\nGroups:\t \n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
        CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n";

    #[test]
    fn every_right_too_many_is_found() {
        let worker = User { name: "w".into(), uid: 5, gid: 6 };
        assert_eq!(excess(CONFINED, &worker), None);
        for (from, to) in [
            ("Uid:\t5\t5\t5\t5", "Uid:\t5\t5\t0\t5"),
            ("Gid:\t6\t6\t6\t6", "Gid:\t6"),
            ("Groups:\t ", "Groups:\t0 "),
            ("CapBnd:\t0000000000000000", "CapBnd:\t0000000000000001"),
            ("CapEff:\t0000000000000000\n", ""),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
        ] {
            let changed = CONFINED.replace(from, to);
            assert_ne!(changed, CONFINED);
            assert!(excess(&changed, &worker).is_some(), "{to}");
        }
    }
}
