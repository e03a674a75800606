//! What a request is about, as the core names it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::super::wire::{HEADER_BYTES, Header, long};
use super::Unanswered;
use crate::fs::caller::{Caller, Request};
use crate::fs::inode::InodeId;
use crate::fs::poison::{Does, Subject};

const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const UNLINK: u32 = 10;
const RENAME: u32 = 12;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const CREATE: u32 = 35;
const RENAME2: u32 = 45;

pub(super) fn of(request: &Unanswered) -> Subject<'_> {
    let Unanswered { header, bytes } = request;
    let number = header.unique.of_request();
    let caller = Caller {
        tid: header.pid,
        uid: header.uid,
        request: Some(Request { number, is_repeated: true }),
    };
    let does = match header.operation {
        LOOKUP | OPEN | READ => Does::Read,
        CREATE | WRITE | RENAME | RENAME2 => Does::Save,
        GETATTR | SETATTR => Does::Attributes,
        _ => Does::Other,
    };
    Subject { caller, does, inode: InodeId(header.inode), target: target(header, bytes) }
}

/// The directory and the name of what it looks up, removes or replaces.
fn target<'a>(header: &Header, bytes: &'a [u8]) -> Option<(InodeId, &'a OsStr)> {
    let body = bytes.get(HEADER_BYTES..header.length_bytes)?;
    // Each name ends with a zero (`struct fuse_rename_in`, `struct fuse_rename2_in`).
    let name = |after: usize, nth: usize| {
        body.get(after..)?.split(|byte| *byte == 0).nth(nth).map(OsStr::from_bytes)
    };
    let (directory, name) = match header.operation {
        LOOKUP | UNLINK => (header.inode, name(0, 0)?),
        RENAME => (long(body, 0)?, name(8, 1)?),
        RENAME2 => (long(body, 0)?, name(16, 1)?),
        _ => return None,
    };
    Some((InodeId(directory), name))
}

#[cfg(test)]
mod tests {
    use super::super::super::wire::tests::request;
    use super::*;

    #[test]
    fn what_a_request_names_is_found_in_it() {
        let directory = 9_u64.to_ne_bytes();
        for (operation, body, named) in [
            (LOOKUP, b"one\0".to_vec(), Some((7, "one"))),
            (UNLINK, b"one\0".to_vec(), Some((7, "one"))),
            (RENAME, [&directory[..], b"one\0two\0"].concat(), Some((9, "two"))),
            (RENAME2, [&directory[..], &[0; 8], b"one\0two\0"].concat(), Some((9, "two"))),
            (RENAME2, directory.to_vec(), None),
            (OPEN, vec![0; 8], None),
            (WRITE, vec![0; 40], None),
        ] {
            let bytes = request(operation, 6, &body);
            let header = Header::parse(&bytes).unwrap();
            let found = Unanswered { header, bytes };
            let Subject { inode, target, caller, .. } = of(&found);
            let named = named.map(|(inode, name)| (InodeId(inode), OsStr::new(name)));
            assert_eq!((inode, target), (InodeId(7), named), "{operation}");
            assert_eq!(caller.request.map(|request| request.number), Some(6));
        }
    }
}
