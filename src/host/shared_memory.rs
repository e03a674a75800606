//! Memory that outlives a process: a file without a name, mapped by one process after another.
//!
//! Its length is sealed, so that nobody can cut it off under whoever uses it. What is in it may have been written by
//! a process that was taken over, so all positions are checked.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create,
};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap};

/// The seals without which a length means nothing.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// The mapping of such a file. It is mapped until the process ends.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: it is an address and a length. What is at the address is only reached by the methods below, which say what
// they ask of their callers.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

/// Makes the file, full of zeros. Pages are only taken when they are written.
pub(crate) fn create(name: &str, length: usize) -> io::Result<OwnedFd> {
    let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, u64::try_from(length).map_err(io::Error::other)?)?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file)
}

impl SharedMemory {
    /// Maps a file that has this length.
    pub(crate) fn map(file: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        let wrong = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if !fcntl_get_seals(file)?.contains(SEALS) {
            return wrong("its length is not sealed");
        }
        if usize::try_from(fstat(file)?.st_size) != Ok(length) {
            return wrong("it has another length");
        }
        // SAFETY: the kernel chooses the address, so nothing that is mapped is replaced.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file.as_fd(),
                0,
            )
        }?;
        // SAFETY: it only keeps the range out of core dumps. Contents and session ids are in it.
        unsafe { madvise(base, length, Advice::LinuxDontDump) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, length })
    }

    /// Copies what is at `at`; false if that is not all in the memory. Nobody may be writing there.
    pub(crate) fn read(&self, at: usize, into: &mut [u8]) -> bool {
        let Some(from) = self.address(at, into.len()) else { return false };
        // SAFETY: the range was checked, and `into` is memory of the caller's own.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), into.len()) };
        true
    }

    /// Copies bytes to `at`; false if there is no room for all. Nobody else may be reading or writing there.
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) -> bool {
        let Some(to) = self.address(at, bytes.len()) else { return false };
        // SAFETY: the range was checked, and `bytes` is memory of the caller's own.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
        true
    }

    /// The number at `at`, a multiple of eight.
    pub(crate) fn number(&self, at: usize) -> Option<&AtomicU64> {
        let address = self.address(at, size_of::<AtomicU64>())?.cast::<AtomicU64>();
        if !address.is_aligned() {
            return None;
        }
        // SAFETY: range and alignment were checked. Every value is a number, and as long as this reference lives all
        // of the program treats it as an atomic one.
        Some(unsafe { address.as_ref() })
    }

    /// Fills a range with zeros, and takes all pages of its first `taken` bytes, so that who writes there needs no
    /// memory any more. They stay in memory as far as this process may lock so much (`RLIMIT_MEMLOCK`).
    pub(crate) fn clear(&self, at: usize, length: usize, taken: usize) -> io::Result<()> {
        let out_of_range = || io::Error::from(io::ErrorKind::InvalidInput);
        let from = self.address(at, length).filter(|_| taken <= length).ok_or_else(out_of_range)?;
        let from = from.as_ptr().cast();
        // SAFETY: the range was checked. It goes on to be mapped, and reads as zeros.
        unsafe { madvise(from, length, Advice::LinuxRemove) }?;
        // SAFETY: it only fills the page table.
        unsafe { madvise(from, taken, Advice::LinuxPopulateWrite) }?;
        // SAFETY: it changes nothing that can be read. Without it a page may be swapped out, which matters at the
        // moment of a death alone.
        let _ = unsafe { mlock(from, taken) };
        Ok(())
    }

    /// Where a range begins.
    pub(super) fn address(&self, at: usize, length: usize) -> Option<NonNull<u8>> {
        let is_inside = at.checked_add(length).is_some_and(|end| end <= self.length);
        // SAFETY: `at` is inside the mapping.
        is_inside.then(|| unsafe { self.base.add(at) })
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_one_mapping_writes_another_reads() {
        let file = create("test", 64 * 1024).unwrap();
        let [first, second] = [(); 2].map(|()| SharedMemory::map(file.as_fd(), 64 * 1024).unwrap());
        assert!(first.write(100, b"abc"));
        first.number(8).unwrap().store(7, Ordering::Release);
        let mut read = [0; 3];
        assert!(second.read(100, &mut read));
        assert_eq!((&read, second.number(8).unwrap().load(Ordering::Acquire)), (b"abc", 7));
        second.clear(0, 8192, 4096).unwrap();
        assert!(first.read(100, &mut read));
        assert_eq!(read, [0; 3]);
    }

    #[test]
    fn nothing_leads_out_of_it() {
        let file = create("test", 4096).unwrap();
        let memory = SharedMemory::map(file.as_fd(), 4096).unwrap();
        let mut two = [0; 2];
        for at in [4095, 4096, usize::MAX] {
            assert!(!memory.read(at, &mut two) && !memory.write(at, &two), "{at}");
            assert!(memory.number(at).is_none(), "{at}");
        }
        assert!(memory.number(4).is_none());
        assert!(memory.clear(0, 8192, 0).is_err());
        assert!(memory.clear(0, 4096, 8192).is_err());
    }

    #[test]
    fn a_file_that_could_be_cut_off_is_refused() {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4096).unwrap();
        assert!(SharedMemory::map(file.as_fd(), 4096).is_err());
        let sealed = create("test", 4096).unwrap();
        assert!(SharedMemory::map(sealed.as_fd(), 8192).is_err());
        assert!(ftruncate(&sealed, 0).is_err());
    }
}
