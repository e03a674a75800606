//! Loading a BPF object and attaching its programs. It needs the capabilities BPF and PERFMON, and no other.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::Map;
use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, BtfError, Ebpf, EbpfError, EbpfLoader};

use super::{Error, Step};
use crate::host;

/// Where the kernel shows its types.
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// An object whose maps are made. Its programs are loaded one by one.
pub(crate) struct Object {
    ebpf: Ebpf,
    btf: Btf,
}

impl Object {
    /// Fits an object to this kernel, and makes its maps. `globals` are the constants that the object leaves open.
    pub(crate) fn load(object: &[u8], globals: &[(&str, u64)]) -> Result<Self, Error> {
        let btf = Btf::from_sys_fs().map_err(|error| failed(Step::Btf, KERNEL_BTF, &error))?;
        let mut loader = EbpfLoader::new();
        // Maps that only programs use.
        loader.btf(Some(&btf)).allow_unsupported_maps();
        for (name, value) in globals {
            loader.override_global(name, value, true);
        }
        let ebpf = loader.load(object).map_err(|error| match &error {
            EbpfError::MapError(_) => failed(Step::Map, "", &error),
            _ => failed(Step::Object, "", &error),
        })?;
        Ok(Self { ebpf, btf })
    }

    /// Loads a program and attaches it to a tracepoint. It is detached when the descriptor is closed.
    pub(crate) fn attach(&mut self, name: &str, tracepoint: &str) -> Result<OwnedFd, Error> {
        self.load_program(name, tracepoint)?;
        self.attach_loaded(name)
    }

    /// Loads a program for a tracepoint.
    pub(crate) fn load_program(&mut self, name: &str, tracepoint: &str) -> Result<(), Error> {
        let Self { ebpf, btf } = self;
        program(ebpf, name)?.load(tracepoint, btf).map_err(|error| match error {
            ProgramError::Btf(BtfError::UnknownBtfTypeName { .. }) => {
                Error::new(Step::Tracepoint, tracepoint, "this kernel does not have it")
            }
            ProgramError::LoadError { io_error, verifier_log } => {
                let refused = failed(Step::Program, name, &io_error);
                Error { detail: last_words(&verifier_log.to_string()), ..refused }
            }
            error => failed(Step::Program, name, &error),
        })
    }

    /// Attaches a program to the tracepoint that it was loaded for. It is detached when the descriptor is closed.
    pub(crate) fn attach_loaded(&mut self, name: &str) -> Result<OwnedFd, Error> {
        let program = program(&mut self.ebpf, name)?;
        let loaded = program.fd().map_err(|error| failed(Step::Program, name, &error))?;
        host::bpf::attach(loaded.as_fd()).map_err(|error| failed(Step::Attach, name, &error))
    }

    /// Takes a map. It has to live until the programs that use it are loaded.
    pub(crate) fn take_map(&mut self, name: &str) -> Result<Map, Error> {
        let missing = || Error::new(Step::Object, name, "the object has no such map");
        self.ebpf.take_map(name).ok_or_else(missing)
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut BtfTracePoint, Error> {
    let missing = || Error::new(Step::Object, name, "the object has no such program");
    let program = ebpf.program_mut(name).ok_or_else(missing)?;
    program.try_into().map_err(|error| failed(Step::Program, name, &error))
}

/// What has failed, with the answer of the kernel where that is the cause.
pub(crate) fn failed(step: Step, what: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    let mut errno = None;
    let mut words = Vec::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            errno = error.raw_os_error();
        }
        words.push(error.to_string());
        cause = error.source();
    }
    // The cause says it.
    let detail = if errno.is_some() { String::new() } else { plain(&words.join(": ")) };
    Error { errno, ..Error::new(step, what, detail) }
}

/// Why the verifier refuses a program: it says so before its sums. Empty where it was not asked.
fn last_words(log: &str) -> String {
    const SUMS: [&str; 3] = ["processed ", "verification ", "stack depth "];
    let is_sum = |line: &&str| SUMS.iter().any(|sum| line.starts_with(sum));
    plain(
        log.lines().rev().find(|line| !line.trim().is_empty() && !is_sum(line)).unwrap_or_default(),
    )
}

/// One short line.
fn plain(words: &str) -> String {
    const CHARS_MAX: usize = 300;
    let shown = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { ' ' };
    words.chars().take(CHARS_MAX).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_the_verifier_are_kept() {
        let log = "0: R1=ctx()\n9: (85) call bpf_x#1\ncannot call bpf_x\nprocessed 9 insns (limit 1000000)\n\n";
        assert_eq!(last_words(log), "cannot call bpf_x");
        assert_eq!(last_words(""), "");
    }

    #[test]
    fn the_answer_of_the_kernel_is_found_below_other_errors() {
        #[derive(Debug)]
        struct Above(io::Error);
        impl std::fmt::Display for Above {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("above")
            }
        }
        impl std::error::Error for Above {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }
        let error = failed(Step::Map, "marks", &Above(io::Error::from_raw_os_error(libc::EPERM)));
        assert_eq!((error.errno, error.detail.as_str()), (Some(libc::EPERM), ""));
        let error = failed(Step::Object, "", &Above(io::Error::other("no\nsuch thing")));
        assert_eq!((error.errno, error.detail.as_str()), (None, "above: no such thing"));
    }
}
