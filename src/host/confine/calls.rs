//! System calls that a confined process never makes, and that whoever took it over would want: to
//! start another program, to look into other processes, to reach the kernel by its widest doors.
//!
//! What is denied is listed, not what is allowed: the libraries may change what they use, and a
//! session must not fail for that. Rights are taken away otherwise; this is on top.

use std::io;

use libc::{BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W};
use libc::{c_long, sock_filter, sock_fprog};

/// The architecture as `seccomp(2)` reports it (`linux/audit.h`).
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

/// Calls of the x32 interface have this bit, and other numbers. No 64-bit call is that large.
const X32: u32 = 0x4000_0000;

/// Where `struct seccomp_data` has the number of the call, the architecture, and the lower half of the
/// first two arguments (both architectures are little-endian).
const NUMBER_OFFSET: u32 = 0;
const ARCHITECTURE_OFFSET: u32 = 4;
const FIRST_ARGUMENT_OFFSET: u32 = 16;
const SECOND_ARGUMENT_OFFSET: u32 = 24;

/// Numbers that the C library's table lacks; calls of the last years have one number on every
/// architecture.
const SYS_FCHMODAT2: c_long = 452;
const SYS_SETXATTRAT: c_long = 463;
const SYS_REMOVEXATTRAT: c_long = 466;
const SYS_OPEN_TREE_ATTR: c_long = 467;
const SYS_FILE_SETATTR: c_long = 469;

/// To start another program.
const EXECUTING: [c_long; 2] = [libc::SYS_execve, libc::SYS_execveat];

/// To change whose a file is and who may use it, by its name: Landlock looks at none of these, and the
/// disk server has the right to. It does so by descriptors, which it gets for its own files alone.
const ATTRIBUTES: &[c_long] = &[
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    SYS_SETXATTRAT,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    SYS_REMOVEXATTRAT,
];
#[cfg(target_arch = "x86_64")]
const ATTRIBUTES_HERE: &[c_long] = &[libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown];
#[cfg(target_arch = "aarch64")]
const ATTRIBUTES_HERE: &[c_long] = &[];

const DENIED: &[c_long] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kcmp,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Other trees and namespaces.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    SYS_OPEN_TREE_ATTR,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    SYS_FILE_SETATTR,
    // Files without their name, and who uses which.
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    // Large and rarely used parts of the kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_memfd_secret,
    libc::SYS_vhangup,
    libc::SYS_lookup_dcookie,
    libc::SYS_remap_file_pages,
    // The machine as a whole.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_personality,
];

/// Calls of this architecture only: further ways to other programs, to the hardware and to what the
/// kernel keeps for old programs.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[c_long] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS__sysctl,
];
#[cfg(target_arch = "aarch64")]
const DENIED_HERE: &[c_long] = &[];

/// New namespaces, which `clone(2)` makes as well. (`CLONE_NEWTIME` is a signal's number there.)
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET)
    .cast_unsigned();

/// To type into a terminal (`ioctl_tty(2)`): the shell that has started us, which is root's, would
/// carry it out. The kernel, too, looks at the lower half alone.
const TYPING: [u32; 2] = [number_of(libc::TIOCSTI), number_of(libc::TIOCLINUX)];

/// Whether a program may be started: one that is not ours, which also changes files by their names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Execution {
    Denied,
    /// By what is confined now: the next program is confined in the same way.
    Allowed,
}

/// A filter that is ready to be set.
pub(crate) struct Filter(Vec<sock_filter>);

impl Filter {
    pub(crate) fn new(execution: Execution) -> Self {
        let mut filter = Self(vec![
            load(ARCHITECTURE_OFFSET),
            jump(BPF_JEQ, NATIVE, 1, 0),
            refuse(libc::EPERM),
            load(NUMBER_OFFSET),
            jump(BPF_JGE, X32, 0, 1),
            refuse(libc::EPERM),
        ]);
        if execution == Execution::Denied {
            filter.deny(&EXECUTING, libc::EPERM);
            filter.deny(ATTRIBUTES, libc::EPERM);
            filter.deny(ATTRIBUTES_HERE, libc::EPERM);
        }
        filter.deny(DENIED, libc::EPERM);
        filter.deny(DENIED_HERE, libc::EPERM);
        // Its flags are in memory, where a filter cannot look. The C library then calls clone(2).
        filter.deny(&[libc::SYS_clone3], libc::ENOSYS);
        filter.0.extend([
            jump(BPF_JEQ, number(libc::SYS_clone), 0, 4),
            load(FIRST_ARGUMENT_OFFSET),
            jump(BPF_JSET, NAMESPACES, 0, 1),
            refuse(libc::EPERM),
            allow(),
            jump(BPF_JEQ, number(libc::SYS_ioctl), 0, 4),
            load(SECOND_ARGUMENT_OFFSET),
            jump(BPF_JEQ, TYPING[0], 1, 0),
            jump(BPF_JEQ, TYPING[1], 0, 1),
            refuse(libc::EPERM),
            allow(),
        ]);
        filter
    }

    fn deny(&mut self, calls: &[c_long], errno: i32) {
        for call in calls {
            self.0.extend([jump(BPF_JEQ, number(*call), 0, 1), refuse(errno)]);
        }
    }

    /// Sets it for this thread and all that it will start. Needs `no_new_privs`. Makes one system
    /// call and nothing else, so it may be called between fork and exec.
    pub(crate) fn set(&self) -> io::Result<()> {
        let length = u16::try_from(self.0.len()).unwrap_or(u16::MAX);
        let call = sock_fprog { len: length, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: seccomp only reads a program of the given length, which lives through the call.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const call)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

fn number(call: c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

/// The number of an `ioctl`, whose type is another one in each C library.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::unnecessary_cast)]
const fn number_of(request: libc::Ioctl) -> u32 {
    request as u32
}

fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn allow() -> sock_filter {
    statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW)
}

fn refuse(errno: i32) -> sock_filter {
    statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned())
}

fn statement(code: u32, value: u32) -> sock_filter {
    instruction(code, value, 0, 0)
}

fn jump(comparison: u32, value: u32, then_skip: u8, else_skip: u8) -> sock_filter {
    instruction(BPF_JMP | comparison | BPF_K, value, then_skip, else_skip)
}

fn instruction(code: u32, value: u32, then_skip: u8, else_skip: u8) -> sock_filter {
    // All codes are of sixteen bits.
    let code = u16::try_from(code).unwrap_or_default();
    sock_filter { code, jt: then_skip, jf: else_skip, k: value }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd as _;

    use super::*;

    /// What a call comes to under the filter. Its arguments are of no use to it: one that is let
    /// through fails of them, or does nothing.
    fn errno(call: c_long, first: i64) -> i32 {
        std::thread::spawn(move || {
            nix::sys::prctl::set_no_new_privs().unwrap();
            Filter::new(Execution::Denied).set().unwrap();
            // SAFETY: the call is denied; if it were not, null pointers and -1 as a descriptor are
            // refused by the kernel.
            let result = unsafe { libc::syscall(call, first, 0, 0, 0, 0) };
            if result == -1 { io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
        })
        .join()
        .unwrap()
    }

    #[test]
    fn every_call_that_is_listed_is_denied() {
        let attributes = ATTRIBUTES.iter().chain(ATTRIBUTES_HERE);
        for call in EXECUTING.iter().chain(attributes).chain(DENIED).chain(DENIED_HERE) {
            assert_eq!(errno(*call, -1), libc::EPERM, "call {call}");
        }
        assert_eq!(errno(libc::SYS_clone3, 0), libc::ENOSYS);
    }

    #[test]
    fn no_namespace_is_made_by_clone() {
        for bit in 0..32 {
            let flag = 1_u32 << bit;
            if NAMESPACES & flag != 0 {
                for with in [0, libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD] {
                    let flags = i64::from(flag | with.cast_unsigned());
                    assert_eq!(errno(libc::SYS_clone, flags), libc::EPERM, "{flags:x}");
                }
            }
        }
        // What lies above the flags does not matter.
        let flags = i64::from(libc::CLONE_NEWUSER) | 1 << 40;
        assert_eq!(errno(libc::SYS_clone, flags), libc::EPERM);
    }

    #[test]
    fn nothing_is_typed_into_a_terminal() {
        let ioctl = |request: u64| {
            std::thread::spawn(move || {
                let terminal = File::options().read(true).write(true).open("/dev/ptmx").unwrap();
                nix::sys::prctl::set_no_new_privs().unwrap();
                Filter::new(Execution::Denied).set().unwrap();
                let fd = terminal.as_raw_fd();
                let mut byte = 0_u64;
                // SAFETY: the requests read or write no more than a few bytes at that address.
                let result = unsafe { libc::syscall(libc::SYS_ioctl, fd, request, &raw mut byte) };
                if result == -1 { io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
            })
            .join()
            .unwrap()
        };
        for typing in TYPING {
            assert_eq!(ioctl(u64::from(typing)), libc::EPERM, "{typing:x}");
            // What lies above the number does not matter.
            assert_eq!(ioctl(u64::from(typing) | 1 << 32), libc::EPERM, "{typing:x}");
        }
        // The size of its window.
        assert_eq!(ioctl(u64::from(number_of(libc::TIOCGWINSZ))), 0);
    }

    #[test]
    fn another_program_cannot_be_started_and_all_else_goes_on() {
        let outcome = std::thread::spawn(|| {
            nix::sys::prctl::set_no_new_privs().unwrap();
            Filter::new(Execution::Denied).set().unwrap();
            let denied = std::process::Command::new("/bin/true").status().unwrap_err();
            std::fs::read("/proc/self/status").unwrap();
            // Threads are made by clone.
            std::thread::spawn(|| ()).join().unwrap();
            denied.raw_os_error()
        });
        assert_eq!(outcome.join().unwrap(), Some(libc::EPERM));
    }

    #[test]
    fn a_program_that_may_be_started_is_confined_in_the_same_way() {
        let outcome = std::thread::spawn(|| {
            nix::sys::prctl::set_no_new_privs().unwrap();
            Filter::new(Execution::Allowed).set().unwrap();
            std::process::Command::new("unshare").args(["--user", "true"]).status().unwrap()
        });
        assert!(!outcome.join().unwrap().success());
    }
}
