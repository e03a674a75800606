//! The processes of this host, as `/proc` shows them.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

/// No file is read beyond this: a command line may have megabytes.
const LENGTH_MAX_BYTES: u64 = 4096;

/// The processes of this host, and the clock.
pub trait Processes: fmt::Debug + Send + Sync {
    /// When a thread began, in clock ticks since boot; `None` if it cannot be seen.
    fn start_ticks(&self, tid: u32) -> Option<u64>;

    /// The id of a thread's process, which is that of its first thread; `None` if it cannot be seen.
    fn process(&self, tid: u32) -> Option<u32>;

    /// The command line of a thread's process, or the title that it has set.
    fn cmdline(&self, tid: u32) -> Option<Vec<u8>>;

    /// Now, on the clock of [`Processes::start_ticks`].
    fn now_ticks(&self) -> u64;

    fn now(&self) -> Instant;
}

/// Those that `/proc` shows, or another mount of the same kind.
#[derive(Debug, Default)]
pub struct Proc {
    /// `None`: `/proc` by its path.
    directory: Option<OwnedFd>,
}

impl Proc {
    /// Reads by the open root of a `proc` filesystem, whatever is mounted on `/proc`.
    pub fn at(directory: OwnedFd) -> Self {
        Self { directory: Some(directory) }
    }

    /// Whether processes of other users can be seen. If they are hidden (`hidepid`), it is not known
    /// which callers are background processes.
    pub fn sees_others(&self) -> bool {
        // There always is a process 1, and everybody may see it, unless processes are hidden.
        self.start_ticks(1).is_some()
    }

    fn read(&self, tid: u32, name: &str) -> Option<Vec<u8>> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let file = match &self.directory {
            Some(directory) => {
                openat(directory.as_fd(), format!("{tid}/{name}").as_str(), flags, Mode::empty())
            }
            None => openat(AT_FDCWD, format!("/proc/{tid}/{name}").as_str(), flags, Mode::empty()),
        };
        let mut content = Vec::new();
        File::from(file.ok()?).take(LENGTH_MAX_BYTES).read_to_end(&mut content).ok()?;
        Some(content)
    }
}

impl Processes for Proc {
    /// Field 22 of `/proc/<tid>/stat` (proc(5)), counted after the command's closing parenthesis
    /// because the command may hold spaces and parentheses itself.
    fn start_ticks(&self, tid: u32) -> Option<u64> {
        let stat = self.read(tid, "stat")?;
        let after = stat.iter().rposition(|&byte| byte == b')')? + 1;
        std::str::from_utf8(&stat[after..]).ok()?.split_ascii_whitespace().nth(19)?.parse().ok()
    }

    /// The line `Tgid` of `/proc/<tid>/status`. The command's name is on a line before it, in which
    /// the kernel escapes line feeds.
    fn process(&self, tid: u32) -> Option<u32> {
        let status = self.read(tid, "status")?;
        let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"));
        std::str::from_utf8(line?).ok()?.trim().parse().ok()
    }

    fn cmdline(&self, tid: u32) -> Option<Vec<u8>> {
        self.read(tid, "cmdline")
    }

    /// As the kernel counts it: since boot, in units of `_SC_CLK_TCK`. The end of time if that
    /// cannot be asked.
    fn now_ticks(&self) -> u64 {
        let ticks = || -> Result<Option<u64>, Errno> {
            let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
            let Some(a_second) = sysconf(SysconfVar::CLK_TCK)? else { return Ok(None) };
            let whole = since_boot.tv_sec().checked_mul(a_second);
            let part = since_boot.tv_nsec().saturating_mul(a_second) / 1_000_000_000;
            Ok(whole.and_then(|whole| u64::try_from(whole + part).ok()))
        };
        ticks().ok().flatten().unwrap_or(u64::MAX)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    fn kinds() -> [Proc; 2] {
        let directory: OwnedFd = File::open("/proc").unwrap().into();
        [Proc::default(), Proc::at(directory)]
    }

    #[test]
    fn a_thread_is_found_with_its_process() {
        let own = std::process::id();
        for proc in kinds() {
            let thread = || u32::try_from(nix::unistd::gettid().as_raw()).unwrap();
            let other = std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    let tid = thread();
                    (proc.process(tid), proc.start_ticks(tid), tid)
                });
                other.join().unwrap()
            });
            assert_eq!(other.0, Some(own));
            assert!(other.1 >= proc.start_ticks(own));
            assert_ne!(other.2, own);
            assert!(proc.cmdline(own).is_some_and(|cmdline| !cmdline.is_empty()));
            // No thread has an id beyond PID_MAX_LIMIT.
            assert_eq!(proc.process(u32::MAX), None);
            assert!(proc.start_ticks(own).is_some_and(|began| began <= proc.now_ticks()));
        }
    }

    #[test]
    fn others_are_seen_unless_they_are_hidden() {
        for proc in kinds() {
            assert!(proc.sees_others());
        }
        let nothing: OwnedFd = File::open("/sys").unwrap().into();
        assert!(!Proc::at(nothing).sees_others());
    }
}
