//! Which system calls are looked at, and what their arguments mean: the table of `bpf/observe.bpf.c`.
//!
//! The numbers are those of the C library for this architecture. arm64 lacks the older calls.

use serde::{Deserialize, Serialize};

/// What a call does, as the report names it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Operation {
    Open,
    Read,
    Write,
    Rename,
    Unlink,
    /// All that asks for attributes: `stat`, `fstat`, `access`.
    Stat,
    Close,
    /// `getdents`.
    List,
    /// What Python and Odoo do besides: `ioctl`, `lseek`, `chmod`, `mkdir`.
    Other,
}

impl Operation {
    /// In the order of the numbers that the table has for them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Open,
        Self::Read,
        Self::Write,
        Self::Rename,
        Self::Unlink,
        Self::Stat,
        Self::Close,
        Self::List,
        Self::Other,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Rename => "rename",
            Self::Unlink => "unlink",
            Self::Stat => "stat",
            Self::Close => "close",
            Self::List => "list",
            Self::Other => "other",
        }
    }
}

/// What a call is on.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// A descriptor, its first argument.
    Descriptor,
    /// A path, its first argument.
    Path,
    /// Two paths, its first arguments.
    TwoPaths,
    /// A path, its second argument, in the directory that is the first.
    PathAt,
    /// Two paths, its second and fourth arguments, each in a directory.
    TwoPathsAt,
    /// A path that it opens.
    Open,
    /// A path that it opens, in a directory.
    OpenAt,
}

impl Target {
    /// The target and the numbers of the arguments that are paths.
    const fn word(self) -> u32 {
        let (target, path, second) = match self {
            Self::Descriptor => (1, 0, 0),
            Self::Path => (2, 0, 0),
            Self::TwoPaths => (2, 0, 1),
            Self::PathAt => (3, 1, 0),
            Self::TwoPathsAt => (3, 1, 3),
            Self::Open => (4, 0, 0),
            Self::OpenAt => (5, 1, 0),
        };
        target << 4 | path << 8 | second << 12
    }
}

/// What a call does with a connection, its first argument.
#[derive(Clone, Copy, Debug)]
enum Role {
    /// Receives into a buffer.
    Receive = 1,
    /// Receives into several.
    ReceiveVector = 2,
    /// Receives into those of a `struct msghdr`.
    ReceiveMessage = 3,
    Send = 4,
    Accept = 5,
}

/// The calls on files, which may be connections, too.
const ON_FILES: &[(libc::c_long, Operation, Target, Option<Role>)] = {
    use Operation as O;
    use Target as T;
    &[
        (libc::SYS_openat, O::Open, T::OpenAt, None),
        (libc::SYS_openat2, O::Open, T::OpenAt, None),
        (libc::SYS_read, O::Read, T::Descriptor, Some(Role::Receive)),
        (libc::SYS_pread64, O::Read, T::Descriptor, None),
        (libc::SYS_readv, O::Read, T::Descriptor, Some(Role::ReceiveVector)),
        (libc::SYS_preadv, O::Read, T::Descriptor, None),
        (libc::SYS_preadv2, O::Read, T::Descriptor, None),
        (libc::SYS_write, O::Write, T::Descriptor, Some(Role::Send)),
        (libc::SYS_pwrite64, O::Write, T::Descriptor, None),
        (libc::SYS_writev, O::Write, T::Descriptor, Some(Role::Send)),
        (libc::SYS_pwritev, O::Write, T::Descriptor, None),
        (libc::SYS_pwritev2, O::Write, T::Descriptor, None),
        (libc::SYS_renameat, O::Rename, T::TwoPathsAt, None),
        (libc::SYS_renameat2, O::Rename, T::TwoPathsAt, None),
        (libc::SYS_unlinkat, O::Unlink, T::PathAt, None),
        (libc::SYS_newfstatat, O::Stat, T::PathAt, None),
        (libc::SYS_statx, O::Stat, T::PathAt, None),
        (libc::SYS_faccessat, O::Stat, T::PathAt, None),
        (libc::SYS_faccessat2, O::Stat, T::PathAt, None),
        (libc::SYS_fstat, O::Stat, T::Descriptor, None),
        (libc::SYS_close, O::Close, T::Descriptor, None),
        (libc::SYS_getdents64, O::List, T::Descriptor, None),
        (libc::SYS_ioctl, O::Other, T::Descriptor, None),
        (libc::SYS_lseek, O::Other, T::Descriptor, None),
        (libc::SYS_fsync, O::Other, T::Descriptor, None),
        (libc::SYS_fdatasync, O::Other, T::Descriptor, None),
        (libc::SYS_ftruncate, O::Other, T::Descriptor, None),
        (libc::SYS_fchmod, O::Other, T::Descriptor, None),
        (libc::SYS_fchown, O::Other, T::Descriptor, None),
        (libc::SYS_truncate, O::Other, T::Path, None),
        (libc::SYS_fchmodat, O::Other, T::PathAt, None),
        (FCHMODAT2, O::Other, T::PathAt, None),
        (libc::SYS_fchownat, O::Other, T::PathAt, None),
        (libc::SYS_mkdirat, O::Other, T::PathAt, None),
        (libc::SYS_utimensat, O::Other, T::PathAt, None),
    ]
};

/// Not in every C library's list; the same on each architecture since Linux 6.6.
const FCHMODAT2: libc::c_long = 452;

/// Those that only x86-64 has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[(libc::c_long, Operation, Target, Option<Role>)] = {
    use Operation as O;
    use Target as T;
    &[
        (libc::SYS_open, O::Open, T::Open, None),
        (libc::SYS_creat, O::Open, T::Open, None),
        (libc::SYS_rename, O::Rename, T::TwoPaths, None),
        (libc::SYS_unlink, O::Unlink, T::Path, None),
        (libc::SYS_stat, O::Stat, T::Path, None),
        (libc::SYS_lstat, O::Stat, T::Path, None),
        (libc::SYS_access, O::Stat, T::Path, None),
        (libc::SYS_getdents, O::List, T::Descriptor, None),
        (libc::SYS_chmod, O::Other, T::Path, None),
        (libc::SYS_chown, O::Other, T::Path, None),
        (libc::SYS_mkdir, O::Other, T::Path, None),
        (libc::SYS_rmdir, O::Unlink, T::Path, None),
    ]
};
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[(libc::c_long, Operation, Target, Option<Role>)] = &[];

/// The calls on connections alone.
const ON_CONNECTIONS: &[(libc::c_long, Role)] = &[
    (libc::SYS_recvfrom, Role::Receive),
    (libc::SYS_recvmsg, Role::ReceiveMessage),
    (libc::SYS_sendto, Role::Send),
    (libc::SYS_sendmsg, Role::Send),
    (libc::SYS_sendfile, Role::Send),
    (libc::SYS_accept, Role::Accept),
    (libc::SYS_accept4, Role::Accept),
];

/// The number of each call with its word.
pub(crate) fn table() -> impl Iterator<Item = (u32, u32)> {
    let on_files = ON_FILES.iter().chain(OLDER).map(|&(call, operation, target, role)| {
        let role = role.map_or(0, |role| role as u32);
        (call, operation as u32 | target.word() | role << 16)
    });
    let on_connections = ON_CONNECTIONS.iter().map(|&(call, role)| (call, (role as u32) << 16));
    on_files
        .chain(on_connections)
        .filter_map(|(call, word)| Some((u32::try_from(call).ok()?, word)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn each_call_is_there_once_and_has_room() {
        let all: Vec<(u32, u32)> = table().collect();
        let by_number: HashMap<u32, u32> = all.iter().copied().collect();
        assert_eq!(by_number.len(), all.len());
        assert!(all.iter().all(|(call, word)| *call < 512 && *word != 0));
        let operations: Vec<u32> =
            Operation::ALL.iter().map(|&operation| operation as u32).collect();
        assert_eq!(operations, (0..9).collect::<Vec<u32>>());
    }

    #[test]
    fn words_say_where_the_paths_are() {
        let by_number: HashMap<u32, u32> = table().collect();
        let word = |call: libc::c_long| by_number[&u32::try_from(call).unwrap()];
        assert_eq!(word(libc::SYS_renameat2), 3 | 3 << 4 | 1 << 8 | 3 << 12);
        assert_eq!(word(libc::SYS_openat), 5 << 4 | 1 << 8);
        assert_eq!(word(libc::SYS_read), 1 | 1 << 4 | 1 << 16);
        assert_eq!(word(libc::SYS_accept4), 5 << 16);
    }
}
