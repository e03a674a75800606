//! What of BPF is done by descriptors: attaching a program so that another process may hold it (aya keeps that to itself),
//! and an array in the memory of a process that may make no call of `bpf(2)`.

#![cfg_attr(
    not(feature = "bpf"),
    allow(dead_code, reason = "nothing is loaded, and what is handed over is still read")
)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap};

/// `BPF_MAP_FREEZE` of `include/uapi/linux/bpf.h`.
const MAP_FREEZE: libc::c_int = 22;
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

/// Leaves an array to the programs: from now on nobody else writes to it.
pub(crate) fn freeze(array: BorrowedFd<'_>) -> io::Result<()> {
    let number = array.as_raw_fd();
    // SAFETY: the kernel reads so many bytes, which are the number of the descriptor.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, MAP_FREEZE, &raw const number, size_of::<RawFd>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An array of numbers that programs write, to be read only. It is mapped until this process ends.
#[derive(Debug)]
pub(crate) struct Numbers {
    base: NonNull<AtomicU64>,
    length: usize,
}

// SAFETY: it is an address and a length, and what is there is only read, as an atomic.
unsafe impl Send for Numbers {}
// SAFETY: as above.
unsafe impl Sync for Numbers {}

impl Numbers {
    /// Maps an array of so many numbers, made with `BPF_F_MMAPABLE`. Fails if it is smaller.
    pub(crate) fn map(array: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        // SAFETY: the kernel chooses the address, so nothing that is mapped is replaced. It refuses what is longer than the
        // array, and an array never becomes shorter.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                length * size_of::<u64>(),
                ProtFlags::READ,
                MapFlags::SHARED,
                array,
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, length })
    }

    /// The number at this place; 0 beyond the end.
    pub(crate) fn at(&self, place: usize) -> u64 {
        if place >= self.length {
            return 0;
        }
        // SAFETY: it is inside the mapping, which begins at a page, so it is aligned. Every value is a number.
        unsafe { self.base.add(place).as_ref() }.load(Ordering::Relaxed)
    }
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
