//! Attaching a BPF program by a descriptor that can be handed to another process: aya keeps its own.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// `BPF_RAW_TRACEPOINT_OPEN` of `include/uapi/linux/bpf.h`.
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;

/// The part of `union bpf_attr` that this command reads.
#[repr(C)]
struct Attributes {
    /// No name: a program of BTF knows its tracepoint.
    name: u64,
    program: u32,
    reserved: u32,
}

/// Attaches a loaded program to the tracepoint that it was loaded for. It is detached when the descriptor is closed.
pub(crate) fn attach(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let program = u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?;
    let attributes = Attributes { name: 0, program, reserved: 0 };
    // SAFETY: the kernel reads so many bytes of the attributes, and there is no pointer in them.
    let link = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            RAW_TRACEPOINT_OPEN,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    let link = RawFd::try_from(link).map_err(io::Error::other)?;
    if link < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for us, with close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}
