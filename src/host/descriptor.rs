//! Descriptors that another process has handed over, and those that take the place of another.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::exit::{ExitCode, Failure};

/// Takes over a descriptor that was named on the command line.
pub(crate) fn take(raw: RawFd) -> Result<OwnedFd, Failure> {
    let by_hand =
        || Failure::new(ExitCode::Usage, "this command is only started by 'sessionfs mount'");
    if raw <= libc::STDERR_FILENO {
        return Err(by_hand());
    }
    // SAFETY: the number is only looked up; a closed one gives EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
    // No further child is to inherit it.
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|_| by_hand())?;
    // SAFETY: it is open, was handed to this process for this purpose, and nothing else in it
    // knows the number: this is the first thing the process does.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Puts what `by` leads to in the place of what `place` leads to: whoever reads or writes by that number meets
/// the other from now on.
pub(crate) fn put_over(place: BorrowedFd<'_>, by: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both numbers are open as long as they are borrowed. The number of the first stays open, and its owner
    // goes on to own it.
    let result = unsafe { libc::dup3(by.as_raw_fd(), place.as_raw_fd(), libc::O_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Names the descriptors that a program hands to the one that it executes in its own place: its process id, a colon, and
/// NAME=NUMBER separated by commas. Its children are other processes, so it is not for them.
const HANDED_VARIABLE: &str = "SESSIONFS_DESCRIPTORS";

/// Executes a program in the place of this one, with the same signals and environment, and hands it these descriptors.
/// Returns only if that fails.
pub(crate) fn execute_with(
    program: &Path,
    arguments: &[OsString],
    descriptors: &[(&str, BorrowedFd<'_>)],
) -> io::Error {
    let execute = || -> io::Result<std::convert::Infallible> {
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::other);
        let arguments: Vec<CString> =
            arguments.iter().map(|one| text(one)).collect::<io::Result<_>>()?;
        let handed = format!("{HANDED_VARIABLE}={}:{}", std::process::id(), list(descriptors));
        let mut environment = vec![text(OsStr::new(&handed))?];
        for (name, value) in std::env::vars_os().filter(|(name, _)| name != HANDED_VARIABLE) {
            environment.push(text(&[name.as_os_str(), value.as_os_str()].join(OsStr::new("=")))?);
        }
        for (_, descriptor) in descriptors {
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok(nix::unistd::execve(&text(program.as_os_str())?, &arguments, &environment)?)
    };
    let Err(error) = execute();
    for (_, descriptor) in descriptors {
        let _ = fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
    }
    error
}

/// The descriptors that the program which was executed in our place before has handed over, by their names. To be called
/// once, while there is one thread.
pub(crate) fn handed() -> BTreeMap<String, OwnedFd> {
    let value = std::env::var(HANDED_VARIABLE).unwrap_or_default();
    taken(numbers_for(&value, std::process::id()))
}

/// Names the descriptors that a child is offered: NAME=NUMBER separated by commas. A version that does not know a name goes
/// on without it, where a flag that it does not know would end it.
const OFFERED_VARIABLE: &str = "SESSIONFS_OFFERED_DESCRIPTORS";

/// The variable that offers a child these descriptors, and its value.
pub(crate) fn offer(descriptors: &[(&str, BorrowedFd<'_>)]) -> (&'static str, String) {
    (OFFERED_VARIABLE, list(descriptors))
}

/// The descriptors that this process was offered, by their names. To be called once, while there is one thread.
pub(crate) fn offered() -> BTreeMap<String, OwnedFd> {
    let value = std::env::var(OFFERED_VARIABLE).unwrap_or_default();
    taken(numbers(&value))
}

/// Their names and numbers.
fn list(descriptors: &[(&str, BorrowedFd<'_>)]) -> String {
    let named = descriptors.iter().map(|(name, fd)| format!("{name}={}", fd.as_raw_fd()));
    named.collect::<Vec<_>>().join(",")
}

/// Takes them over, as far as they are open.
fn taken(numbers: BTreeMap<RawFd, String>) -> BTreeMap<String, OwnedFd> {
    let taken = numbers.into_iter().filter_map(|(number, name)| Some((name, take(number).ok()?)));
    taken.collect()
}

/// The numbers that are meant for this process, each with its name.
fn numbers_for(value: &str, pid: u32) -> BTreeMap<RawFd, String> {
    let list = value.split_once(':').filter(|(process, _)| process.parse() == Ok(pid));
    list.map_or_else(BTreeMap::new, |(_, list)| numbers(list))
}

/// Each number once.
fn numbers(list: &str) -> BTreeMap<RawFd, String> {
    let pairs = list.split(',').filter_map(|one| one.split_once('='));
    pairs.filter_map(|(name, number)| Some((number.parse().ok()?, name.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_this_process_and_each_has_one_name() {
        let found = |value, pid| Vec::from_iter(numbers_for(value, pid));
        let value = "12:device=9,memory=7";
        assert_eq!(found(value, 12), [(7, "memory".to_owned()), (9, "device".to_owned())]);
        assert_eq!(found(value, 13), []);
        assert_eq!(found("12:device=7,memory=7", 12).len(), 1);
        assert_eq!(found("12:device=x", 12), []);
        assert_eq!(found("", 12), []);
    }
}
