//! Which files a confined process may open, by Landlock (since Linux 5.13). The kernel asks whenever a
//! name is looked up from then on; descriptors that are open already are not concerned.
//!
//! What is confined so cannot look into processes outside either (`ptrace(2)`, `/proc/PID/mem`,
//! `/proc/PID/environ`), and since Linux 6.12 it cannot send them signals.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError, Scope,
};

/// The newest rights that are denied where they are not given. (Connecting to a socket by its name is
/// one of a later version, and stays allowed.)
const NEWEST: ABI = ABI::V6;

/// What the C library opens to find the address of a name. The files in /etc are replaced by whoever
/// changes them, and a rule for a file would not outlive that; so it is the directory. The modules that
/// it loads are libraries.
const RESOLVER: [&str; 9] = [
    "/etc",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/nscd",
];

/// Whether the kernel has Landlock, and it is switched on.
pub(crate) fn is_available() -> bool {
    has(AccessFs::Execute)
}

/// What may be done with a file or with everything in a directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Right {
    Read,
    /// Read, and started as a program.
    Execute,
    /// Read and written; files and directories in it are made, moved within it and removed.
    Own,
}

impl Right {
    fn accesses(self) -> BitFlags<AccessFs> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        match self {
            Self::Read => read,
            Self::Execute => read | AccessFs::Execute,
            Self::Own => {
                read | AccessFs::WriteFile
                    | AccessFs::Truncate
                    | AccessFs::MakeReg
                    | AccessFs::MakeDir
                    | AccessFs::MakeSock
                    | AccessFs::RemoveFile
                    | AccessFs::RemoveDir
                    | AccessFs::Refer
            }
        }
    }
}

/// Files, each with a right. All others are denied.
#[derive(Default)]
pub(crate) struct Files {
    given: Vec<(OwnedFd, Right)>,
    moves: bool,
}

impl Files {
    /// Adds what is needed to find the address of a name.
    pub(crate) fn with_names(self) -> Self {
        self.paths(RESOLVER, Right::Read)
    }

    /// Adds a path and what is beneath it. One that is not there now, or that leads through a directory
    /// that this user cannot enter, is left out.
    pub(crate) fn path(mut self, path: impl AsRef<Path>, right: Right) -> Self {
        if let Ok(found) = PathFd::new(path)
            && let Ok(held) = found.as_fd().try_clone_to_owned()
        {
            self.given.push((held, right));
        }
        self
    }

    pub(crate) fn paths(
        self,
        paths: impl IntoIterator<Item = impl AsRef<Path>>,
        right: Right,
    ) -> Self {
        paths.into_iter().fold(self, |files, path| files.path(path, right))
    }

    /// Adds what a descriptor leads to.
    pub(crate) fn descriptor(mut self, held: BorrowedFd<'_>, right: Right) -> io::Result<Self> {
        self.given.push((held.try_clone_to_owned()?, right));
        Ok(self)
    }

    /// Files are moved from one directory to another. The first version of Landlock (before Linux 5.19)
    /// never allows that, so there everything stays open.
    pub(crate) fn with_moves(mut self) -> Self {
        self.moves = true;
        self
    }

    /// Makes the domain; `None` where the kernel cannot.
    pub(crate) fn domain(&self) -> io::Result<Option<Domain>> {
        let made =
            if self.moves && !has(AccessFs::Refer) { return Ok(None) } else { self.ruleset() };
        Ok(Option::<OwnedFd>::from(made.map_err(io::Error::other)?).map(Domain))
    }

    fn ruleset(&self) -> Result<RulesetCreated, RulesetError> {
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?;
        for (held, right) in &self.given {
            rules = rules.add_rule(PathBeneath::new(held, right.accesses()))?;
        }
        Ok(rules)
    }
}

/// Whether the kernel can deny this.
fn has(access: AccessFs) -> bool {
    let required = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    required.handle_access(access).is_ok()
}

/// Rules that are ready to be entered.
pub(crate) struct Domain(OwnedFd);

impl Domain {
    /// Puts this thread and all that it will start under the rules. Needs `no_new_privs`. Makes one
    /// system call and nothing else, so it may be called between fork and exec.
    pub(crate) fn enter(&self) -> io::Result<()> {
        // SAFETY: the call takes a descriptor, which is open, and flags.
        let result =
            unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.0.as_raw_fd(), 0) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::CapabilitySet;
    use std::fs;

    /// Runs it confined to these files. Fails where there is no Landlock.
    fn confined<T: Send>(files: &Files, act: impl FnOnce() -> T + Send) -> T {
        let domain = files.domain().unwrap().expect("this kernel has Landlock");
        std::thread::scope(|scope| {
            let confined = scope.spawn(|| {
                nix::sys::prctl::set_no_new_privs().unwrap();
                domain.enter().unwrap();
                act()
            });
            confined.join().unwrap()
        })
    }

    fn is_denied<T>(outcome: io::Result<T>) -> bool {
        outcome.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    #[test]
    fn nothing_outside_is_opened_and_nothing_that_is_read_is_written() {
        let (own, read) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (own, read) = (own.path(), read.path());
        fs::write(read.join("file"), "x").unwrap();
        let files = Files::default().path(own, Right::Own).path(read, Right::Read);
        confined(&files.path("/nonexistent", Right::Read), || {
            fs::write(own.join("file"), "x").unwrap();
            fs::rename(own.join("file"), own.join("other")).unwrap();
            fs::remove_file(own.join("other")).unwrap();
            assert_eq!(fs::read(read.join("file")).unwrap(), b"x");
            assert!(is_denied(fs::write(read.join("file"), "y")));
            assert!(is_denied(fs::write(read.join("other"), "y")));
            assert!(is_denied(fs::remove_file(read.join("file"))));
            for path in ["/etc/passwd", "/proc/1/environ", "/dev/null", "/root", "/"] {
                assert!(is_denied(fs::File::open(path)), "{path}");
            }
            assert!(is_denied(fs::write("/tmp/sessionfs-outside", "x")));
        });
    }

    #[test]
    fn files_are_moved_between_directories_of_two_descriptors() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (from.path(), to.path());
        fs::create_dir(from.join("ab")).unwrap();
        fs::write(from.join("ab/file"), "x").unwrap();
        let held = [from, to].map(|path| fs::File::open(path).unwrap());
        let files = held.iter().fold(Files::default().with_moves(), |files, held| {
            files.descriptor(held.as_fd(), Right::Own).unwrap()
        });
        confined(&files, || {
            fs::rename(from.join("ab/file"), from.join("file")).unwrap();
            fs::rename(from.join("file"), to.join("file")).unwrap();
        });
        assert!(to.join("file").exists());
    }

    #[test]
    fn no_process_outside_is_looked_into() {
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = other.id();
        let look = |file: &str| fs::File::open(format!("/proc/{pid}/{file}"));
        assert!(look("mem").is_ok(), "it is this user's own");
        confined(&Files::default().path("/proc", Right::Own), || {
            // The capability PERFMON is enough to read, Landlock or not; a worker has none.
            super::super::keep_capabilities(CapabilitySet::empty()).unwrap();
            assert!(is_denied(look("mem")));
            assert!(is_denied(fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/mem"))));
            assert!(is_denied(fs::read(format!("/proc/{pid}/environ"))));
            // What is known of every process is not hidden.
            fs::read(format!("/proc/{pid}/stat")).unwrap();
            fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        });
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn only_programs_that_may_be_started_are() {
        let files = Files::default()
            .paths(["/usr", "/lib", "/lib64"], Right::Read)
            .path("/usr/lib", Right::Execute)
            .path("/lib64", Right::Execute)
            .path("/usr/bin/true", Right::Execute)
            .path("/dev/null", Right::Own);
        confined(&files, || {
            let run = |program: &str| std::process::Command::new(program).status();
            assert!(run("/usr/bin/true").unwrap().success());
            assert!(is_denied(run("/usr/bin/false")));
        });
    }
}
