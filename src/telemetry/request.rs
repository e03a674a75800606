//! What the kernel asks for and how it is answered, as the labels of the metrics.

/// Declares an enum with a label for each of its values, so that counters can be kept in an array
/// and nothing is looked up by text where requests are answered.
macro_rules! labels {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $value_doc:literal])+ $value:ident = $label:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub(crate) enum $name {
            $($(#[doc = $value_doc])+ $value,)+
        }

        impl $name {
            /// All of them, in the order of their numbers.
            pub(crate) const ALL: &[Self] = &[$(Self::$value,)+];

            /// What it is called in metrics and logs.
            pub(crate) const fn label(self) -> &'static str {
                match self { $(Self::$value => $label,)+ }
            }
        }
    };
}

labels! {
    /// A request of the kernel.
    Operation {
        /// May it be used? (access)
        Access = "access",
        /// The temp file of a save is made.
        Create = "create",
        /// Attributes of a file.
        Getattr = "getattr",
        /// A name is resolved: the step of a read that asks Redis.
        Lookup = "lookup",
        /// A shard is made (it is there already).
        Mkdir = "mkdir",
        /// Another kind of file is made (refused).
        Mknod = "mknod",
        /// A session or a temp file is opened.
        Open = "open",
        /// A directory is opened, which lists it.
        Opendir = "opendir",
        /// Bytes are read.
        Read = "read",
        /// A page of a listing.
        Readdir = "readdir",
        /// A page of a listing, with attributes.
        Readdirplus = "readdirplus",
        /// A save is published.
        Rename = "rename",
        /// A directory is removed (refused).
        Rmdir = "rmdir",
        /// Mode, mtime or size is set.
        Setattr = "setattr",
        /// How much room there is: what the keeper asks again and again, to see that it is served.
        Statfs = "statfs",
        /// A session or a temp file is removed.
        Unlink = "unlink",
        /// Bytes are written.
        Write = "write",
    }
}

labels! {
    /// How a request was answered: success, or the class of its errno.
    Outcome {
        /// Done.
        Ok = "ok",
        /// ENOENT: no such session. Everyday.
        Absent = "absent",
        /// EACCES, EPERM: not allowed, or a save that would revive an ended session.
        Refused = "refused",
        /// ESTALE: replaced meanwhile; the kernel looks again by itself.
        Stale = "stale",
        /// EINTR: Redis is away, and the caller is asked to wait on.
        Waiting = "waiting",
        /// EIO: it failed, and Odoo sees it.
        Failed = "failed",
        /// EFBIG, ENOSPC: beyond a limit of the configuration.
        Limit = "limit",
        /// Any other errno.
        Other = "other",
    }
}

impl Outcome {
    /// The class of an errno.
    pub(crate) const fn of_errno(errno: i32) -> Self {
        match errno {
            libc::ENOENT => Self::Absent,
            libc::EACCES | libc::EPERM => Self::Refused,
            libc::ESTALE => Self::Stale,
            libc::EINTR => Self::Waiting,
            libc::EIO => Self::Failed,
            libc::EFBIG | libc::ENOSPC => Self::Limit,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_the_numbers() {
        for (index, operation) in Operation::ALL.iter().enumerate() {
            assert_eq!(*operation as usize, index);
        }
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
        }
    }
}
