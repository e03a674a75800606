//! BPF programs: what loads them, and what keeps them from running.
//!
//! Their sources and objects are in `bpf/`. Nothing is pinned: a program runs as long as a descriptor of it is open, and
//! so it ends with whoever holds that.
//!
//! - [`load`]: loading an object and attaching its programs

#[cfg(feature = "bpf")]
pub(crate) mod load;

use std::fmt;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// What a program that does not run has failed of.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(not(feature = "bpf"), allow(dead_code, reason = "nothing is tried"))]
pub(crate) enum Step {
    /// This program was built without BPF.
    Build,
    /// To ask the process that loads it.
    Loader,
    /// To find out by which numbers threads are known here.
    Namespace,
    /// To read the types of the kernel.
    Btf,
    /// To fit the object to this kernel.
    Object,
    /// To make a map.
    Map,
    /// To find the tracepoint to attach to.
    Tracepoint,
    /// To load a program.
    Program,
    /// To attach a program.
    Attach,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Build => "use BPF",
            Self::Loader => "ask the process that loads BPF",
            Self::Namespace => "find the PID namespace",
            Self::Btf => "read the types of the kernel",
            Self::Object => "fit the BPF object to this kernel",
            Self::Map => "make the BPF map",
            Self::Tracepoint => "find the tracepoint",
            Self::Program => "load the BPF program",
            Self::Attach => "attach the BPF program",
        })
    }
}

/// Why a program does not run.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Error {
    pub step: Step,
    /// The file, map, program or tracepoint.
    pub what: String,
    /// What the kernel has answered.
    pub errno: Option<i32>,
    /// More about it, in one line.
    pub detail: String,
}

impl Error {
    /// In this step, at this file, map, program or tracepoint.
    pub(crate) fn new(step: Step, what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { step, what: what.into(), errno: None, detail: detail.into() }
    }

    /// The same of a system call.
    pub(crate) fn of_io(step: Step, what: impl Into<String>, error: &std::io::Error) -> Self {
        let errno = error.raw_os_error();
        let detail = if errno.is_some() { String::new() } else { error.to_string() };
        Self { errno, ..Self::new(step, what, detail) }
    }

    /// Whether the kernel allows BPF, and its verifier refuses this program. It answers EACCES, too, and says why.
    pub(crate) fn is_by_verifier(&self) -> bool {
        self.step == Step::Program && (self.errno == Some(libc::EACCES) || !self.detail.is_empty())
    }

    /// What to do about it.
    fn remedy(&self) -> &'static str {
        match (self.step, self.errno.map(Errno::from_raw)) {
            (Step::Build, _) => "; build it with the cargo feature bpf",
            (Step::Btf, Some(Errno::ENOENT)) => {
                "; this kernel was built without BTF (CONFIG_DEBUG_INFO_BTF)"
            }
            (Step::Btf, _) => "; see whether /sys is mounted and the file can be read",
            (Step::Namespace, _) => "; see whether /proc is mounted",
            (Step::Loader, _) => "; reload sessionfs, which starts that process again",
            (Step::Program, _) if self.is_by_verifier() => {
                "; this kernel refuses the program, please report it with the kernel's version"
            }
            (_, Some(Errno::EPERM)) if is_confidential() => {
                "; the kernel is locked down (confidentiality), which forbids BPF programs to read"
            }
            (_, Some(Errno::EPERM)) => {
                "; it needs the capabilities BPF and PERFMON, and a container must be given them"
            }
            (Step::Map, Some(Errno::ENOMEM)) => "; free some memory of the kernel",
            (Step::Tracepoint, _) => "; it needs Linux 5.15 or newer",
            (Step::Object | Step::Map | Step::Program | Step::Attach, _) => {
                "; please report it with the kernel's version"
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.step)?;
        if !self.what.is_empty() {
            write!(f, " {}", self.what)?;
        }
        if let Some(errno) = self.errno {
            write!(f, ": {}", Errno::from_raw(errno))?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        f.write_str(self.remedy())
    }
}

impl std::error::Error for Error {}

/// Whether the kernel is locked down so far that programs may not read its memory (`kernel_lockdown(7)`). Where that cannot
/// be read it is not known to be.
fn is_confidential() -> bool {
    std::fs::read_to_string("/sys/kernel/security/lockdown")
        .is_ok_and(|modes| modes.contains("[confidentiality]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_step_the_thing_and_the_errno() {
        let mut error = Error::new(Step::Program, "received", "");
        error.errno = Some(libc::EINVAL);
        assert_eq!(
            error.to_string(),
            "cannot load the BPF program received: EINVAL: Invalid argument; please report it with the kernel's version"
        );
        error.errno = Some(libc::EACCES);
        assert!(error.to_string().contains("this kernel refuses the program"), "{error}");
        error.errno = Some(libc::EPERM);
        assert!(error.to_string().contains("capabilities BPF and PERFMON"), "{error}");
        let error = Error { errno: Some(libc::ENOENT), ..Error::new(Step::Btf, "", "") };
        assert!(error.to_string().contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
    }
}
