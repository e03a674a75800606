//! System calls that the worker never makes, and that whoever took it over would want: to start
//! another program, to look into other processes, to reach the kernel by its widest doors.
//!
//! What is denied is listed, not what is allowed: the worker's libraries may change what they use,
//! and a session must not fail for that. Its rights are taken away otherwise; this is on top.

use std::io;

use libc::{BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use libc::{sock_filter, sock_fprog};

/// The architecture as `seccomp(2)` reports it (`linux/audit.h`).
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

/// Calls of the x32 interface have this bit, and other numbers. No 64-bit call is that large.
const X32: u32 = 0x4000_0000;

/// Where `struct seccomp_data` has the number of the call, and the architecture.
const NUMBER_OFFSET: u32 = 0;
const ARCHITECTURE_OFFSET: u32 = 4;

const DENIED: [libc::c_long; 29] = [
    // Other programs, other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    // Other trees and namespaces.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Large and rarely used parts of the kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
];

/// Denies these calls (`EPERM`) to this thread and all that it will start. Needs `no_new_privs`.
pub(super) fn deny() -> io::Result<()> {
    let mut program = filter();
    let length = program.len().try_into().map_err(io::Error::other)?;
    let call = sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: seccomp reads a program of the given length, which lives through the call.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const call)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn filter() -> Vec<sock_filter> {
    let deny = statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32);
    let mut program = vec![
        statement(BPF_LD | BPF_W | BPF_ABS, ARCHITECTURE_OFFSET),
        skip_next_if(BPF_JEQ, NATIVE),
        deny,
        statement(BPF_LD | BPF_W | BPF_ABS, NUMBER_OFFSET),
    ];
    program.extend([skip_next_unless(BPF_JGE, X32), deny]);
    for number in DENIED {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        program.extend([skip_next_unless(BPF_JEQ, number), deny]);
    }
    program.push(statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW));
    program
}

fn statement(code: u32, value: u32) -> sock_filter {
    instruction(code, value, 0, 0)
}

fn skip_next_if(comparison: u32, value: u32) -> sock_filter {
    instruction(BPF_JMP | comparison | BPF_K, value, 1, 0)
}

fn skip_next_unless(comparison: u32, value: u32) -> sock_filter {
    instruction(BPF_JMP | comparison | BPF_K, value, 0, 1)
}

fn instruction(code: u32, value: u32, then_skip: u8, else_skip: u8) -> sock_filter {
    // All codes are of sixteen bits.
    let code = u16::try_from(code).unwrap_or_default();
    sock_filter { code, jt: then_skip, jf: else_skip, k: value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_program_cannot_be_started_and_all_else_goes_on() {
        let outcome = std::thread::spawn(|| {
            nix::sys::prctl::set_no_new_privs().unwrap();
            deny().unwrap();
            let denied = std::process::Command::new("/bin/true").status().unwrap_err();
            std::fs::read("/proc/self/status").unwrap();
            denied.raw_os_error()
        });
        assert_eq!(outcome.join().unwrap(), Some(libc::EPERM));
    }
}
