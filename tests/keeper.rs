//! A keeper that dies, fails or executes another program: whoever waits for the mount is served or released.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use sessionfs::exit::ExitCode;
use support::http::until;
use support::mount::{Mount, authenticated, sid};
use support::redis::Redis;

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// A copy of the first descriptor of a process that leads there.
fn descriptor_of(pid: u32, target: &str) -> OwnedFd {
    let number = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        let leads_there = path.read_link().is_ok_and(|to| to.to_str().unwrap().starts_with(target));
        leads_there.then(|| path.file_name().unwrap().to_str().unwrap().parse().unwrap())
    });
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    pidfd_getfd(process, number.expect("a descriptor"), PidfdGetfdFlags::empty()).unwrap()
}

/// Who asks in a request of the kernel (`struct fuse_in_header`).
fn asker(request: &[u8]) -> u32 {
    u32::from_ne_bytes(request[32..36].try_into().unwrap())
}

/// Nobody can kill who waits for an answer that a server has begun to work on.
#[test]
fn a_keeper_whose_probe_is_not_answered_releases_who_waits_when_it_is_killed() {
    let redis = Redis::start();
    let mut mount = Mount::start(&redis, "[worker]\nanswer_within = \"6s\"\n");
    let session = sid("aa", 1);
    mount.save(&session, &authenticated("x")).unwrap();
    let mut device = File::from(descriptor_of(mount.keeper(), "/dev/fuse"));
    until("it asks", || mount.prober().is_some());
    let prober = mount.prober().unwrap();
    send(mount.worker(), Signal::SIGSTOP);
    // In the place of the worker, and like one that is stuck.
    let mut request = vec![0; 1024 * 1024];
    while device.read(&mut request).is_ok() && asker(&request) != prober {}
    drop(device);
    let path = mount.sharded(&session);
    let reader = thread::spawn(move || std::fs::read(path));
    mount.kill();
    until("it is released", || reader.is_finished());
    assert!(reader.join().unwrap().is_err());
    until("nobody waits any more", || !Path::new(&format!("/proc/{prober}")).exists());
}

/// A thread of the worker that waits in the kernel for a caller, and so cannot be ended, holds the device like this.
#[test]
fn a_keeper_that_is_killed_releases_who_waits_though_somebody_holds_the_device() {
    let redis = Redis::start();
    let mut mount = Mount::start(&redis, "");
    let session = sid("aa", 1);
    mount.save(&session, &authenticated("x")).unwrap();
    until("it is guarded", || mount.child_of_kind("guard").is_some());
    let device = descriptor_of(mount.keeper(), "/dev/fuse");
    send(mount.worker(), Signal::SIGSTOP);
    let path = mount.sharded(&session);
    let reader = thread::spawn(move || std::fs::read(path));
    mount.kill();
    until("it is released", || reader.is_finished());
    assert!(reader.join().unwrap().is_err());
    let error = std::fs::metadata(mount.path()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    drop(device);
}

/// Its questions say nothing of the worker while it has no time to ask them.
#[test]
fn a_prober_that_does_not_run_is_replaced_and_the_worker_serves_on() {
    let redis = Redis::start();
    let mount = Mount::start(&redis, "[worker]\nanswer_within = \"1s\"\n");
    until("it asks", || mount.prober().is_some());
    let (worker, prober) = (mount.worker(), mount.prober());
    send(prober.unwrap(), Signal::SIGSTOP);
    until("another one asks", || mount.prober().is_some_and(|it| Some(it) != prober));
    assert_eq!(mount.worker(), worker);
}

/// A program that another one is installed in the place of.
struct Installed {
    directory: tempfile::TempDir,
}

impl Installed {
    fn new() -> Self {
        let installed = Self { directory: tempfile::tempdir().unwrap() };
        installed.replace(env!("CARGO_BIN_EXE_sessionfs"));
        installed
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("sessionfs")
    }

    fn replace(&self, by: &str) {
        let new = self.directory.path().join("new");
        // Not by this process: a test beside this one may start another just now, which would hold the file open for
        // writing, and the kernel executes none that is.
        assert!(Command::new("cp").arg(by).arg(&new).status().unwrap().success());
        std::fs::rename(new, self.path()).unwrap();
    }

    fn is_run_by(&self, pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}/exe")).metadata().unwrap().ino()
            == self.path().metadata().unwrap().ino()
    }
}

#[test]
fn a_reload_does_not_wait_for_a_worker_that_is_stopped() {
    let redis = Redis::start();
    let mount = Mount::start(&redis, "[worker]\nanswer_within = \"10min\"\n");
    let session = sid("aa", 1);
    mount.save(&session, &authenticated("x")).unwrap();
    send(mount.worker(), Signal::SIGSTOP);
    let (code, said) = mount.command("reload");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(mount.read(&session).unwrap(), authenticated("x"));
}

#[test]
fn a_program_that_could_not_serve_changes_nothing() {
    let (redis, installed) = (Redis::start(), Installed::new());
    let mount = Mount::start_in(&redis, "", Command::new(installed.path()));
    let (keeper, worker) = (mount.keeper(), mount.worker());
    let runs = |pid: u32| Path::new(&format!("/proc/{pid}/exe")).metadata().unwrap().ino();
    let before = runs(keeper);
    installed.replace("/bin/false");
    let (code, said) = mount.command("reload");
    assert_eq!(code, Some(u8::from(ExitCode::ReloadFailed).into()), "{said}");
    for words in ["cannot go on with this mount: ended with exit code 1", "nothing was changed"] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!((mount.worker(), runs(keeper)), (worker, before));
    mount.save(&sid("aa", 1), &authenticated("x")).unwrap();
}

/// As if a worker of another version had written what a worker leaves.
fn write_in_another_format(mount: &Mount) {
    let memory = File::from(descriptor_of(mount.keeper(), "/memfd:sessionfs "));
    memory.write_all_at(b"another", 0).unwrap();
}

#[test]
fn a_program_that_cannot_read_what_is_left_needs_a_restart() {
    let (redis, installed) = (Redis::start(), Installed::new());
    let mount = Mount::start_in(&redis, "", Command::new(installed.path()));
    let session = sid("aa", 1);
    mount.save(&session, &authenticated("x")).unwrap();
    let mut open = File::open(mount.sharded(&session)).unwrap();
    let worker = mount.worker();
    write_in_another_format(&mount);
    installed.replace(env!("CARGO_BIN_EXE_sessionfs"));
    let (code, said) = mount.command("reload");
    assert_eq!(code, Some(u8::from(ExitCode::ReloadFailed).into()), "{said}\n{}", mount.log());
    for words in ["It needs a restart of sessionfs", "nothing was changed"] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(mount.worker(), worker);
    let mut content = Vec::new();
    open.read_to_end(&mut content).unwrap();
    assert_eq!(content, authenticated("x"));
    assert_eq!(mount.command("unmount").0, Some(0));
}

#[test]
fn an_upgraded_keeper_tries_again_what_has_failed() {
    let (redis, installed) = (Redis::start(), Installed::new());
    let mut mount = Mount::start_in(&redis, "", Command::new(installed.path()));
    let session = sid("aa", 1);
    mount.save(&session, &authenticated("x")).unwrap();
    let socket = sessionfs::config::paths::control_socket(&mount.path());
    std::fs::remove_file(&socket).unwrap();
    std::fs::create_dir(&socket).unwrap();
    installed.replace(env!("CARGO_BIN_EXE_sessionfs"));
    send(mount.keeper(), Signal::SIGHUP);
    mount.wait_for_log("cannot go on with the mount yet");
    std::fs::remove_dir(&socket).unwrap();
    mount.wait_until_served();
    assert_eq!(mount.read(&session).unwrap(), authenticated("x"));
    assert!(installed.is_run_by(mount.keeper()));
}

#[test]
fn an_end_that_is_asked_for_during_an_upgrade_is_one() {
    let (redis, installed) = (Redis::start(), Installed::new());
    let mut mount = Mount::start_in(&redis, "", Command::new(installed.path()));
    installed.replace(env!("CARGO_BIN_EXE_sessionfs"));
    send(mount.keeper(), Signal::SIGHUP);
    mount.wait_for_log("executing the upgraded program");
    send(mount.keeper(), Signal::SIGTERM);
    assert_eq!(mount.wait(), Some(0), "{}", mount.log());
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(mount.path().to_str().unwrap()));
}

/// The new program has been told of none that came before.
#[test]
fn a_reload_that_is_asked_for_during_an_upgrade_is_done() {
    let (redis, installed) = (Redis::start(), Installed::new());
    let mount = Mount::start_in(&redis, "", Command::new(installed.path()));
    installed.replace(env!("CARGO_BIN_EXE_sessionfs"));
    send(mount.keeper(), Signal::SIGHUP);
    mount.wait_for_log("executing the upgraded program");
    send(mount.keeper(), Signal::SIGHUP);
    until("the second has begun", || mount.log().matches("keeper: reloading").count() == 2);
    mount.wait_for_log("keeper: reloaded");
    assert!(installed.is_run_by(mount.keeper()));
}
