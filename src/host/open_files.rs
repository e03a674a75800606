//! The limit of open files of this process (`RLIMIT_NOFILE`, getrlimit(2)), and who may use how much
//! of it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many descriptors are kept for the process's own needs, whatever callers do: the next
/// connection to Redis, `/proc` of a caller, clients of the control socket.
const OWN: u64 = 192;

/// The descriptors that this process may have open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenFiles {
    limit: u64,
}

impl OpenFiles {
    /// Raises the soft limit to the hard one, which is anybody's right: the soft one is for programs
    /// that use select(2).
    pub(crate) fn raise() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: maximum, maximum };
        let limit = match setrlimit(Resource::Nofile, raised) {
            Ok(()) => maximum,
            Err(error) => {
                tracing::warn!(%error, "cannot raise the soft limit of open files");
                current
            }
        };
        Self { limit: limit.unwrap_or(u64::MAX) }
    }

    /// How many the files of callers may take: the limit less [`OWN`], which nothing else can use
    /// up.
    pub(crate) fn for_callers(self) -> usize {
        let share = self.limit.saturating_sub(OWN).max(self.limit / 4);
        usize::try_from(share).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let raised = OpenFiles::raise();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!((current, raised.limit), (maximum, maximum.unwrap_or(u64::MAX)));
    }

    #[test]
    fn callers_never_get_all() {
        for limit in [64, 256, 1024, 65_536, u64::MAX] {
            let share = OpenFiles { limit }.for_callers() as u64;
            assert!(share > 0 && limit - share >= OWN.min(limit / 2), "{limit}: {share}");
        }
    }
}
