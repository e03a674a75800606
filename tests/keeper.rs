//! A keeper that dies, fails or executes another program: whoever waits for the mount is served or released.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

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
