//! The buffers that fuser reads requests into, laid into memory that outlives the process: so the kernel itself
//! records each request, in the same step in which it is read.
//!
//! fuser allocates one buffer for each of its threads, of a size that nothing else has, and has no other way to be
//! given one. So the program's allocator knows that size. It serves as many such buffers as were laid out
//! ([`lay_out`]), and everything else from the system's allocator.
//!
//! That is sound: a range is given out once, for good (it is not used again when it is freed); it is mapped until the
//! process ends, begins with a page, is as long as asked for, and reads as zeros when it is given out.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::shared_memory::SharedMemory;

/// The size of fuser's buffers (0.18: `MAX_WRITE_SIZE` and a page).
pub(crate) const BUFFER_BYTES: usize = 16 * 1024 * 1024 + 4096;
/// How many can be laid out.
pub(crate) const MAX_BUFFERS: usize = 2;

/// Laid out, and not yet given out.
static WAITING: [AtomicPtr<u8>; MAX_BUFFERS] = [const { AtomicPtr::new(null_mut()) }; MAX_BUFFERS];
/// Where the first one begins; they follow one another. 0: none was laid out.
static BEGIN: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The buffer that this thread was given.
    static MINE: Cell<*const u8> = const { Cell::new(std::ptr::null()) };
}

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

struct Allocator;

impl Allocator {
    fn is_buffer(address: *mut u8) -> bool {
        let begin = BEGIN.load(Ordering::Relaxed);
        begin != 0 && (begin..begin + MAX_BUFFERS * BUFFER_BYTES).contains(&address.addr())
    }
}

// SAFETY: all is the system's allocator, but for the buffers; of those see the head of this file.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() == BUFFER_BYTES && layout.align() == 1 {
            for waiting in &WAITING {
                let buffer = waiting.swap(null_mut(), Ordering::AcqRel);
                if !buffer.is_null() {
                    // It fails in a thread that is ending, which does not begin to read.
                    let _ = MINE.try_with(|mine| mine.set(buffer));
                    return buffer;
                }
            }
        }
        // SAFETY: as for the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        if Self::is_buffer(address) {
            return;
        }
        // SAFETY: as for the caller; it comes from the system's allocator.
        unsafe { System.dealloc(address, layout) }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !Self::is_buffer(address) {
            // SAFETY: as for the caller; it comes from the system's allocator.
            return unsafe { System.realloc(address, layout, new_size) };
        }
        // SAFETY: the caller's layout is valid, and the new size does not overflow with its alignment.
        let new =
            unsafe { System.alloc(Layout::from_size_align_unchecked(new_size, layout.align())) };
        if !new.is_null() {
            // SAFETY: both have so many bytes, and do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(address, new, layout.size().min(new_size)) };
        }
        new
    }
}

/// Lays out the buffers of the threads that fuser will start next, from `at` on. What was recorded there is gone. Of
/// each, `request_max_bytes` are taken now: the kernel fails a request if it has no memory for it, or if the reader is
/// being killed while a page is fetched. To be called once in a process.
pub(crate) fn lay_out(
    memory: &'static SharedMemory,
    at: usize,
    request_max_bytes: usize,
) -> io::Result<()> {
    let begin =
        memory.address(at, MAX_BUFFERS * BUFFER_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
    if BEGIN.swap(begin.addr().get(), Ordering::AcqRel) != 0 {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    for index in 0..MAX_BUFFERS {
        memory.clear(at + index * BUFFER_BYTES, BUFFER_BYTES, request_max_bytes)?;
    }
    for (index, waiting) in WAITING.iter().enumerate() {
        // SAFETY: the range was checked for all of them.
        waiting.store(unsafe { begin.add(index * BUFFER_BYTES) }.as_ptr(), Ordering::Release);
    }
    Ok(())
}

/// Looks at the first bytes of what this thread has read last; `None` if it has no buffer of these.
pub(crate) fn with_last_read<T>(length: usize, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
    let mine = MINE.try_with(Cell::get).ok().filter(|mine| !mine.is_null())?;
    // SAFETY: it is one of the buffers, which are never unmapped. Only this thread writes there, by reading a
    // request, and it does not while `look` is called.
    Some(look(unsafe { std::slice::from_raw_parts(mine, length.min(BUFFER_BYTES)) }))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::super::shared_memory;
    use super::*;

    /// As fuser does it.
    fn buffer() -> Vec<u8> {
        vec![0; BUFFER_BYTES]
    }

    #[test]
    fn the_threads_that_ask_first_are_served_and_then_the_system_serves() {
        let length = MAX_BUFFERS * BUFFER_BYTES;
        let file = shared_memory::create("test", length).unwrap();
        let memory = Box::leak(Box::new(SharedMemory::map(file.as_fd(), length).unwrap()));
        assert!(memory.write(BUFFER_BYTES, b"former"));
        lay_out(memory, 0, 8192).unwrap();
        assert!(lay_out(memory, 0, 8192).is_err());
        let read = |byte: u8| {
            std::thread::spawn(move || {
                let mut buffer = buffer();
                assert!(buffer[..100].iter().all(|byte| *byte == 0));
                buffer[0] = byte;
                let seen = with_last_read(1, |bytes| bytes[0]);
                buffer.push(1);
                assert_eq!((buffer[0], buffer.len()), (byte, BUFFER_BYTES + 1));
                seen
            })
            .join()
            .unwrap()
        };
        assert_eq!([read(1), read(2), read(3)], [Some(1), Some(2), None]);
        let mut recorded = [0; 2];
        assert!(
            memory.read(0, &mut recorded[..1]) && memory.read(BUFFER_BYTES, &mut recorded[1..])
        );
        assert_eq!(recorded, [1, 2]);
    }
}
