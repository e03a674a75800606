//! The framing of what the kernel and a filesystem send each other (`linux/fuse.h`), as far as a connection is
//! passed from one worker to the next. Pure: no descriptor, no kernel.
//!
//! All numbers are in the byte order of the machine.

use std::io;

/// A request begins with so many bytes (`struct fuse_in_header`).
pub(crate) const HEADER_BYTES: usize = 40;
/// An answer begins with so many (`struct fuse_out_header`).
const ANSWER_HEADER_BYTES: usize = 16;
/// The first request of a connection.
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
/// The kernel has sent it before (`FUSE_UNIQUE_RESEND`, 6.9 and later).
const SENT_AGAIN: u64 = 1 << 63;
/// What is written is about the interruption of a request (`FUSE_INT_REQ_BIT`).
const INTERRUPTION: u64 = 1;
/// `FUSE_NOTIFY_RESEND`.
const NOTIFY_RESEND: i32 = 7;
/// `FUSE_HAS_RESEND`, a bit of the second word of flags.
const HAS_RESEND: u32 = 1 << (39 - 32);

/// The identity of a request, given by the kernel and never to a second one of a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Unique(pub(crate) u64);

impl Unique {
    /// The same for every sending of a request.
    pub(crate) fn of_request(self) -> u64 {
        self.0 & !SENT_AGAIN
    }

    /// Whether the kernel says that it has sent the request before.
    pub(crate) fn is_sent_again(self) -> bool {
        self.0 & SENT_AGAIN != 0
    }
}

/// What every request says of itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Header {
    /// The whole request, with this header.
    pub(crate) length_bytes: usize,
    /// What is asked for.
    pub(crate) operation: u32,
    pub(crate) unique: Unique,
    pub(crate) inode: u64,
    /// Whose it is.
    pub(crate) uid: u32,
    /// The thread that waits for it.
    pub(crate) pid: u32,
}

impl Header {
    /// The header of the request at the beginning of `bytes`, if a whole one is there.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let header = Self {
            length_bytes: usize::try_from(word(bytes, 0)?).ok()?,
            operation: word(bytes, 4)?,
            unique: Unique(long(bytes, 8)?),
            inode: long(bytes, 16)?,
            uid: word(bytes, 24)?,
            pid: word(bytes, 32)?,
        };
        let is_whole = (HEADER_BYTES..=bytes.len()).contains(&header.length_bytes);
        (is_whole && header.unique.0 != 0).then_some(header)
    }

    /// Whether the kernel waits for an answer to it.
    pub(crate) fn is_answered(&self) -> bool {
        const FORGET: u32 = 2;
        const DESTROY: u32 = 38;
        const BATCH_FORGET: u32 = 42;
        ![FORGET, INTERRUPT, DESTROY, BATCH_FORGET].contains(&self.operation)
    }

    /// Whether it writes a content.
    pub(crate) fn is_write(&self) -> bool {
        const WRITE: u32 = 16;
        self.operation == WRITE
    }

    /// Whether it only says that another one was interrupted.
    pub(crate) fn is_interruption(&self) -> bool {
        self.operation == INTERRUPT
    }
}

/// The first request of a connection, as the kernel has sent it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Init(Vec<u8>);

impl Init {
    /// Of these bytes, if they are that request.
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Self> {
        const MAJOR_AT: usize = HEADER_BYTES;
        let wrong =
            || io::Error::new(io::ErrorKind::InvalidData, "the kernel's first request is not INIT");
        let header = Header::parse(bytes).filter(|header| header.operation == INIT);
        let length_bytes = header.ok_or_else(wrong)?.length_bytes;
        word(bytes, MAJOR_AT).ok_or_else(wrong)?;
        Ok(Self(bytes[..length_bytes].to_vec()))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the kernel can send again what was not answered.
    pub(crate) fn has_resend(&self) -> bool {
        const SECOND_FLAGS_AT: usize = HEADER_BYTES + 16;
        word(&self.0, SECOND_FLAGS_AT).is_some_and(|flags| flags & HAS_RESEND != 0)
    }
}

/// Asks whether a request still waits for its answer, which leaves it as it is: the kernel says `ENOENT` if it does
/// not. (It takes this for "an interruption of that request was seen".)
pub(crate) fn probe(unique: Unique) -> [u8; ANSWER_HEADER_BYTES] {
    answer(unique.0 | INTERRUPTION, 0)
}

/// Fails a request with this error number.
pub(crate) fn failure(unique: Unique, errno: i32) -> [u8; ANSWER_HEADER_BYTES] {
    answer(unique.0, -errno)
}

/// Asks the kernel to send again all that was read and not answered.
pub(crate) fn resend() -> [u8; ANSWER_HEADER_BYTES] {
    answer(0, NOTIFY_RESEND)
}

/// Ends a session of fuser, which answers it. It is no request of the kernel: its unique is 0.
pub(crate) fn end_of_session() -> [u8; HEADER_BYTES] {
    const DESTROY: u32 = 38;
    let mut bytes = [0; HEADER_BYTES];
    bytes[..4].copy_from_slice(&40_u32.to_ne_bytes());
    bytes[4..8].copy_from_slice(&DESTROY.to_ne_bytes());
    bytes
}

/// What answers [`mark`]. No request of the kernel has an odd number: these are of interruptions.
pub(crate) const MARK: Unique = Unique(INTERRUPTION);

/// A request that the adapter answers at once, without the core (FSYNCDIR). When it is answered, the thread that has
/// read it is done with all that it has read before.
pub(crate) fn mark() -> [u8; HEADER_BYTES + 16] {
    const FSYNCDIR: u32 = 30;
    const ROOT: u64 = 1;
    let mut bytes = [0; HEADER_BYTES + 16];
    bytes[..4].copy_from_slice(&56_u32.to_ne_bytes());
    bytes[4..8].copy_from_slice(&FSYNCDIR.to_ne_bytes());
    bytes[8..16].copy_from_slice(&MARK.0.to_ne_bytes());
    bytes[16..24].copy_from_slice(&ROOT.to_ne_bytes());
    bytes
}

/// Which request this answers; `None` for a message that answers none.
pub(crate) fn answered(answer: &[u8]) -> Option<Unique> {
    long(answer, 8).filter(|unique| *unique != 0).map(Unique)
}

fn answer(unique: u64, error: i32) -> [u8; ANSWER_HEADER_BYTES] {
    let mut bytes = [0; ANSWER_HEADER_BYTES];
    bytes[..4].copy_from_slice(&16_u32.to_ne_bytes());
    bytes[4..8].copy_from_slice(&error.to_ne_bytes());
    bytes[8..].copy_from_slice(&unique.to_ne_bytes());
    bytes
}

/// The word of an operation, for the log.
pub(crate) fn operation_name(operation: u32) -> &'static str {
    match operation {
        1 => "lookup",
        3 => "getattr",
        4 => "setattr",
        8 => "mknod",
        9 => "mkdir",
        10 => "unlink",
        11 => "rmdir",
        12 | 45 => "rename",
        14 => "open",
        15 => "read",
        16 => "write",
        17 => "statfs",
        18 => "release",
        27 => "opendir",
        28 => "readdir",
        29 => "releasedir",
        34 => "access",
        35 => "create",
        39 => "ioctl",
        44 => "readdirplus",
        _ => "another operation",
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A request with this operation, unique and body.
    pub(crate) fn request(operation: u32, unique: u64, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        let mut bytes = Vec::new();
        bytes.extend(length.to_ne_bytes());
        bytes.extend(operation.to_ne_bytes());
        bytes.extend(unique.to_ne_bytes());
        bytes.extend(7_u64.to_ne_bytes());
        for word in [1000_u32, 1000, 42] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_header_is_read_of_a_whole_request_only() {
        let bytes = request(14, 6, &[1; 8]);
        let unique = Unique(6);
        let header =
            Header { length_bytes: 48, operation: 14, unique, inode: 7, uid: 1000, pid: 42 };
        assert_eq!(Header::parse(&bytes), Some(header));
        // What lies behind it in a buffer does not matter.
        assert_eq!(Header::parse(&[&bytes[..], &[9; 100]].concat()), Some(header));
        for cut in 0..bytes.len() {
            assert_eq!(Header::parse(&bytes[..cut]), None, "{cut}");
        }
        assert_eq!(Header::parse(&[0; 4096]), None);
        assert_eq!(Header::parse(&[0xff; 4096]), None);
        // Shorter than its own header.
        let mut short = bytes;
        short[0] = 39;
        assert_eq!(Header::parse(&short), None);
    }

    #[test]
    fn a_request_is_the_same_however_often_it_is_sent() {
        let again = Unique(SENT_AGAIN | 6);
        assert_eq!(again.of_request(), Unique(6).of_request());
        assert!(again.is_sent_again() && !Unique(6).is_sent_again());
    }

    #[test]
    fn forgets_and_interrupts_are_not_waited_for() {
        for (operation, is_answered) in
            [(1, true), (2, false), (36, false), (38, false), (42, false)]
        {
            let header = Header::parse(&request(operation, 2, &[])).unwrap();
            assert_eq!(header.is_answered(), is_answered, "{operation}");
        }
    }

    #[test]
    fn init_of_an_old_and_of_a_new_kernel() {
        // Linux 5.15: four words. Since 5.17: sixteen, the fifth of which has further flags.
        let old = Init::parse(&request(INIT, 2, &[1; 16])).unwrap();
        assert!(!old.has_resend());
        assert_eq!(old.bytes().len(), HEADER_BYTES + 16);
        let mut body = [0; 64];
        body[16..20].copy_from_slice(&HAS_RESEND.to_ne_bytes());
        let in_a_buffer = [request(INIT, 2, &body), vec![0; 1000]].concat();
        let new = Init::parse(&in_a_buffer).unwrap();
        assert!(new.has_resend());
        assert_eq!(new.bytes(), &in_a_buffer[..HEADER_BYTES + 64]);
        assert!(Init::parse(&request(1, 2, b"name\0")).is_err());
        assert!(Init::parse(&request(INIT, 2, &[])).is_err());
        assert!(Init::parse(&[]).is_err());
    }

    #[test]
    fn what_is_written_is_as_the_kernel_reads_it() {
        let unique = Unique(0x0102_0304_0506_0708);
        let words = |bytes: [u8; 16]| {
            let error = i32::from_ne_bytes(bytes[4..8].try_into().unwrap());
            (word(&bytes, 0).unwrap(), error, long(&bytes, 8).unwrap())
        };
        assert_eq!(words(probe(unique)), (16, 0, unique.0 | 1));
        assert_eq!(words(failure(unique, libc::EIO)), (16, -libc::EIO, unique.0));
        assert_eq!(words(resend()), (16, 7, 0));
        assert_eq!(answered(&failure(unique, libc::EIO)), Some(unique));
        assert_eq!(answered(&resend()), None);
    }
}
