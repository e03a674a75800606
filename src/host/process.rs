//! One process, held by a descriptor: its number may be given to another process, the descriptor
//! never means another one.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, getppid, setsid};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use super::confine::Prepared;
use super::{descriptor, service_manager};

/// Who was killed ends at once, unless a disk or a network filesystem holds it in the kernel.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// A process: a child of ours, or one that was found. A child that is dropped is ended by force, so
/// that no error on the way leaves one unwatched.
#[derive(Debug)]
pub(crate) struct Process {
    pid: i32,
    descriptor: OwnedFd,
    child: Option<Child>,
    /// Whether it may go on without us, or has been ended already.
    let_go: bool,
}

impl Process {
    /// A child of ours, which is not spared when memory runs out though we may be. If it cannot be held it is ended:
    /// nothing may run unwatched.
    pub(crate) fn of_child(mut child: Child) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        match descriptor_of(pid) {
            Ok(descriptor) => {
                let process = Self { pid, descriptor, child: Some(child), let_go: false };
                process.spare_not();
                Ok(process)
            }
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// A process that was found running. Its number may meanwhile be another's: the caller checks
    /// afterwards that the one it meant is still alive.
    pub(crate) fn found(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, descriptor: descriptor_of(pid)?, child: None, let_go: true })
    }

    /// Its number, for messages.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it lives, and all its user ids are this one.
    pub(crate) fn runs_as(&self, uid: u32) -> bool {
        let text =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let ids = text.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        let are_all = ids.split_whitespace().all(|id| id.parse() == Ok(uid));
        // Looked at last: then the number was still its own.
        !ids.is_empty() && are_all && !self.has_ended()
    }

    /// Sends it a signal. One that has ended already is no error.
    pub(crate) fn signal(&self, signal: Signal) {
        let sent = rustix::process::Signal::from_named_raw(signal as i32)
            .ok_or(rustix::io::Errno::INVAL)
            .and_then(|signal| pidfd_send_signal(&self.descriptor, signal));
        match sent {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::warn!(pid = self.pid, %signal, %error, "cannot send a signal"),
        }
    }

    /// Has the kernel end it like any other process when memory runs out, though its parent is spared (`oom_score_adj`
    /// in proc(5)): the keeper is small, and what it starts may grow by what it is asked for.
    fn spare_not(&self) {
        let path = format!("/proc/{}/oom_score_adj", self.pid);
        let is_spared = std::fs::read_to_string(&path).is_ok_and(|adjusted| is_spared(&adjusted));
        if is_spared && let Err(error) = std::fs::write(&path, "0") {
            tracing::warn!(pid = self.pid, %error, "when memory runs out this process is ended late");
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        let mut polled = [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut polled, PollTimeout::ZERO), Ok(1))
    }

    /// Whether all of it has ended but for threads that were killed and never come back from the kernel: those of this
    /// name, which may be held there for long, and those that a disk holds.
    pub(crate) fn has_ended_but_for(&self, thread: &str) -> bool {
        let tasks = format!("/proc/{}/task", self.pid);
        let is_left = |id: &str| {
            // One that has just ended has no file any more.
            let stat = std::fs::read_to_string(format!("{tasks}/{id}/stat")).unwrap_or_default();
            let (before, after) = stat.rsplit_once(") ").unwrap_or_default();
            let has_ended = stat.is_empty() || after.starts_with(['Z', 'X', 'D']);
            !has_ended && before.split_once(" (").is_none_or(|(_, name)| name != thread)
        };
        // Most of the time this thread lives, and nothing else has to be looked at.
        let main = format!("{tasks}/{0}/stat", self.pid);
        let is_zombie = std::fs::read_to_string(main)
            .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')));
        is_zombie
            && std::fs::read_dir(&tasks).is_ok_and(|threads| {
                threads.flatten().all(|thread| !is_left(&thread.file_name().to_string_lossy()))
            })
    }

    /// How it ended, where that can be known. To be called once it has.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        if let Some(child) = &mut self.child {
            return child.wait().ok();
        }
        // It may be a child of the program that was executed here before. If it is none, nothing happens.
        let _ = waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
        None
    }

    /// Leaves it alone from now on, also when this is dropped: it ends by itself.
    pub(crate) fn let_go(&mut self) {
        self.let_go = true;
    }

    /// Ends it by force. It may be in a system call that it has to complete first.
    pub(crate) fn kill_without_waiting(&mut self) {
        self.let_go = true;
        self.signal(Signal::SIGKILL);
    }

    /// Ends it by force, and waits for that: the kernel ends what is killed at once.
    pub(crate) fn kill(&mut self) -> Option<ExitStatus> {
        self.kill_within(KILLED_WITHIN)
    }

    /// The same, but waits no longer than this.
    pub(crate) fn kill_within(&mut self, bound: Duration) -> Option<ExitStatus> {
        self.kill_until(bound, |_| false)
    }

    /// The same, but does not wait for threads of this name.
    pub(crate) fn kill_but_for(&mut self, thread: &str) -> Option<ExitStatus> {
        self.kill_until(KILLED_WITHIN, |process| process.has_ended_but_for(thread))
    }

    fn kill_until(
        &mut self,
        bound: Duration,
        is_over: impl Fn(&Self) -> bool,
    ) -> Option<ExitStatus> {
        const EVERY_MS: u8 = 20;
        // Who does not end within that is not waited for a second time.
        self.kill_without_waiting();
        let until = Instant::now() + bound;
        loop {
            let mut polled = [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)];
            if poll(&mut polled, EVERY_MS) == Ok(1) {
                return self.status();
            }
            if is_over(self) || Instant::now() >= until {
                self.reap_later();
                return None;
            }
        }
    }

    /// No process remains when it has ended at last.
    fn reap_later(&mut self) {
        if self.child.take().is_some() {
            unreaped().push(self.pid);
        }
    }
}

/// Children of this process that nobody waits for, by their numbers: these are theirs until [`reap`].
fn unreaped() -> MutexGuard<'static, Vec<i32>> {
    static UNREAPED: Mutex<Vec<i32>> = Mutex::new(Vec::new());
    UNREAPED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets the children that were killed and have ended since. To be called now and then.
pub(crate) fn reap() {
    let lives = |pid: &mut i32| {
        let found = waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG));
        matches!(found, Ok(WaitStatus::StillAlive) | Err(Errno::EINTR))
    };
    unreaped().retain_mut(lives);
}

/// How many children were killed and have not ended yet, as far as [`reap`] has seen.
pub(crate) fn unended() -> usize {
    unreaped().len()
}

/// Takes over the children of the program that was executed here before, but for this one: they were killed. To be called
/// before this program starts any.
pub(crate) fn adopt(but: Option<i32>) {
    let path = format!("/proc/self/task/{}/children", std::process::id());
    let children = std::fs::read_to_string(path).unwrap_or_default();
    let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    unreaped().extend(pids.filter(|pid| Some(*pid) != but));
    reap();
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.let_go {
            self.kill();
        }
        if self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None))) {
            self.reap_later();
        }
    }
}

impl AsFd for Process {
    /// Readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Whether that is what the kernel shows of a process that it ends later than others when memory runs out.
fn is_spared(oom_score_adj: &str) -> bool {
    oom_score_adj.trim().parse::<i32>().is_ok_and(|adjusted| adjusted < 0)
}

fn descriptor_of(pid: i32) -> io::Result<OwnedFd> {
    let pid = (pid > 0).then_some(pid).and_then(rustix::process::Pid::from_raw);
    Ok(pidfd_open(pid.ok_or(ErrorKind::InvalidInput)?, PidfdFlags::empty())?)
}

/// A command that starts this program (`program`) as a child with one of its subcommands.
///
/// The child inherits the descriptors that its flags name, those that it is offered by a name without dashes
/// ([`descriptor::offered`]), and no others; they must stay open until it is spawned.
pub(crate) fn prepare(
    program: &Path,
    command: &str,
    descriptors: &[(&'static str, BorrowedFd<'_>)],
) -> Command {
    let inherited: Vec<BorrowedFd<'_>> = descriptors.iter().map(|(_, fd)| *fd).collect();
    let (flags, offered): (Vec<_>, Vec<_>) =
        descriptors.iter().copied().partition(|(name, _)| name.starts_with("--"));
    let (variable, value) = descriptor::offer(&offered);
    let mut child = Command::new(program);
    service_manager::keep_from(&mut child)
        .arg0("sessionfs")
        .arg(command)
        .args(flags.iter().flat_map(|(flag, fd)| [(*flag).to_owned(), fd.as_raw_fd().to_string()]))
        .env(variable, value)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr_to_write())
        .current_dir("/");
    Setup { inherited: &inherited, ..Setup::default() }.apply(&mut child);
    child
}

/// Our standard error. A terminal is opened anew: whoever holds ours could also read what is typed there.
fn stderr_to_write() -> Stdio {
    let stderr = io::stderr();
    if !stderr.is_terminal() {
        return Stdio::inherit();
    }
    let path = format!("/proc/self/fd/{}", stderr.as_raw_fd());
    let opened = File::options().write(true).custom_flags(libc::O_NOCTTY).open(path);
    opened.map_or_else(|_| Stdio::null(), Stdio::from)
}

/// What a child changes of itself between `fork` and `exec`, after the change of user that its
/// command asks for.
///
/// It also leaves our session. So a Ctrl-C does not reach it, and the terminal of whoever started us is
/// not its own: it cannot type there.
#[derive(Clone, Default)]
pub(crate) struct Setup<'a> {
    /// Descriptors that the new program inherits besides the standard three. It gets no others. They
    /// must stay open until the child is spawned.
    pub inherited: &'a [BorrowedFd<'a>],
    /// The file mode creation mask; `None` keeps ours.
    pub umask: Option<u32>,
    /// Lets all signals through. A child inherits what its parent blocks.
    pub unblock_signals: bool,
    /// The program and its children gain no rights by an `exec`.
    pub no_new_privs: bool,
    /// Which files it may open and which system calls are denied to it.
    pub confinement: Option<Arc<Prepared>>,
    /// The signal that the child gets when the *thread* that spawns it ends.
    pub parent_death_signal: Option<Signal>,
}

impl Setup<'_> {
    /// Has the command do this in each child that it spawns.
    pub(crate) fn apply(self, command: &mut Command) {
        let inherited: Vec<RawFd> = self.inherited.iter().map(AsRawFd::as_raw_fd).collect();
        let Self {
            umask: mask,
            unblock_signals,
            no_new_privs,
            confinement,
            parent_death_signal,
            ..
        } = self;
        let parent = Pid::this();
        let set_up = move || {
            setsid()?;
            if let Some(mask) = mask {
                umask(Mode::from_bits_truncate(mask));
            }
            if unblock_signals {
                SigSet::empty().thread_set_mask()?;
            }
            if no_new_privs {
                prctl::set_no_new_privs()?;
            }
            if let Some(signal) = parent_death_signal {
                prctl::set_pdeathsig(signal)?;
                // A parent that ended before this sends no signal any more.
                if getppid() != parent {
                    return Err(Errno::ESRCH.into());
                }
            }
            inherit_only(&inherited)?;
            confinement.as_ref().map_or(Ok(()), |confinement| confinement.enter())
        };
        // SAFETY: between fork and exec this only makes system calls, which are async-signal-safe; a
        // descriptor that is not open any more makes the start fail.
        unsafe {
            command.pre_exec(set_up);
        }
    }
}

/// Between fork and exec: lets these descriptors, and no others above the standard three, go on to
/// the new program. Others may have come from whoever started us. Makes system calls only.
fn inherit_only(descriptors: &[RawFd]) -> io::Result<()> {
    // Closing them here would close the one through which the fork reports a failed exec.
    // SAFETY: close_range with this flag takes numbers, and only marks descriptors.
    let marked =
        unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(marked)?;
    for raw in descriptors {
        // SAFETY: the caller keeps it open until the new program has been started.
        let descriptor = unsafe { BorrowedFd::borrow_raw(*raw) };
        fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    Ok(())
}

/// Whether this process has one thread.
pub(crate) fn has_one_thread() -> io::Result<bool> {
    Ok(std::fs::read_dir("/proc/self/task")?.count() == 1)
}

/// Forks this process, which has one thread.
pub(crate) fn fork() -> io::Result<ForkResult> {
    if !has_one_thread()? {
        return Err(io::Error::other("a process with several threads does not fork"));
    }
    // SAFETY: this process has one thread, as was just seen, so its child may go on like any program.
    Ok(unsafe { nix::unistd::fork() }?)
}

/// When a process was started, in clock ticks since boot: with its number, this names it for good.
pub(crate) fn started_ticks(pid: i32) -> Option<u64> {
    const FIELDS_BEFORE: usize = 19;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets, and may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(FIELDS_BEFORE)?.parse().ok()
}

/// The longest a process that was asked to end is waited for, before it is ended by force.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_is_ended_and_its_end_is_seen() {
        let mut process =
            Process::of_child(Command::new("sleep").arg("1000").spawn().unwrap()).unwrap();
        assert!(!process.has_ended());
        let status = process.kill().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
        assert!(process.has_ended());
        process.signal(Signal::SIGTERM);
    }

    #[test]
    fn whose_a_process_is_can_be_told_while_it_lives() {
        let mut child =
            Process::of_child(Command::new("sleep").arg("1000").spawn().unwrap()).unwrap();
        let own = nix::unistd::getuid().as_raw();
        assert!(child.runs_as(own));
        assert!(!child.runs_as(own + 1));
        child.kill();
        assert!(!child.runs_as(own));
    }

    #[test]
    fn only_who_is_spared_is_made_like_others() {
        assert!(is_spared("-500\n"));
        assert!(!is_spared("0\n") && !is_spared("300\n") && !is_spared(""));
        let child = Process::of_child(Command::new("sleep").arg("1000").spawn().unwrap()).unwrap();
        let adjusted = format!("/proc/{}/oom_score_adj", child.pid());
        std::fs::write(&adjusted, "300").unwrap();
        child.spare_not();
        assert_eq!(std::fs::read_to_string(&adjusted).unwrap(), "300\n");
    }

    #[test]
    fn a_child_that_is_dropped_is_ended() {
        let child = Process::of_child(Command::new("sleep").arg("1000").spawn().unwrap()).unwrap();
        let seen = Process::found(child.pid()).unwrap();
        drop(child);
        assert!(seen.has_ended());
    }

    #[test]
    fn a_process_with_one_thread_left_has_ended_but_for_that_one() {
        const SCRIPT: &str = "
import ctypes, os, threading, time
libc = ctypes.CDLL(None)
def left():
    libc.prctl(15, b'left', 0, 0, 0)
    print('left', flush=True)
    time.sleep(1000)
threading.Thread(target=left).start()
import sys; sys.stdin.read()
libc.syscall({'x86_64': 60, 'aarch64': 93}[os.uname().machine], 0)
";
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        let mut process = Process::of_child(child).unwrap();
        io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut String::new()).unwrap();
        assert!(!process.has_ended_but_for("left"));
        // Its main thread ends.
        drop(stdin);
        while !process.has_ended_but_for("left") {
            std::thread::yield_now();
        }
        assert!(!process.has_ended_but_for("other"));
        assert!(!process.has_ended());
        process.kill();
        assert!(process.has_ended());
    }

    #[test]
    fn a_child_is_set_up_before_its_program_starts() {
        let (kept, _writer) = io::pipe().unwrap();
        let (other, _other_writer) = io::pipe().unwrap();
        // As if whoever started us had left it open.
        fcntl(&other, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let script = format!(
            "read -r _ _ _ _ _ session _ </proc/self/stat; [ $session = $$ ] && echo alone; umask; \
             grep -E '^(NoNewPrivs|SigBlk):' /proc/self/status; for fd in {} {}; do [ -e \
             /proc/self/fd/$fd ] && echo $fd; done; :",
            kept.as_raw_fd(),
            other.as_raw_fd()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        Setup {
            inherited: &[kept.as_fd()],
            umask: Some(0o027),
            unblock_signals: true,
            no_new_privs: true,
            confinement: None,
            parent_death_signal: Some(Signal::SIGTERM),
        }
        .apply(&mut command);
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGHUP);
        let spawn = std::thread::spawn(move || {
            blocked.thread_block().unwrap();
            command.output().unwrap()
        });
        let output = spawn.join().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<&str> = said.lines().collect();
        let kept = kept.as_raw_fd().to_string();
        assert_eq!(lines, ["alone", "0027", "SigBlk:\t0000000000000000", "NoNewPrivs:\t1", &kept]);
    }

    #[test]
    fn a_child_ends_with_the_thread_that_started_it() {
        let spawn = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("1000");
            Setup { parent_death_signal: Some(Signal::SIGKILL), ..Setup::default() }
                .apply(&mut command);
            command.spawn().unwrap()
        });
        let mut child = spawn.join().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
    }

    #[test]
    fn a_process_with_threads_does_not_fork() {
        assert!(std::thread::spawn(fork).join().unwrap().is_err());
    }

    #[test]
    fn start_times_tell_processes_apart() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(started_ticks(own).unwrap() > 0);
        assert_eq!(started_ticks(-1), None);
        assert!(Process::found(-1).is_err());
        assert!(Process::found(0).is_err());
    }
}
