//! The program called as mount(8)'s helper: it returns when sessions are served, or says why not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::unnecessary_debug_formatting, reason = "a path's debug form is a TOML string")]

#[allow(dead_code, reason = "each test program uses its own part of it")]
#[path = "mount_start/lab.rs"]
mod lab;

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use lab::{Lab, wait_gone, words};

/// Calls the helper as mount(8) does.
fn help(lab: &Lab, options: &str) -> Output {
    let mut command = lab.command(["none", lab.mountpoint().to_str().unwrap(), "-o", options]);
    command.arg0("/sbin/mount.sessionfs").output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The keeper that the helper left in the background.
fn keeper(lab: &Lab) -> i32 {
    let is_keeper = |pid: &i32| words(*pid).first().is_some_and(|word| word.contains("mount."));
    lab.processes().into_iter().find(is_keeper).expect("a keeper runs")
}

fn log(lab: &Lab) -> PathBuf {
    lab.path("log")
}

#[test]
fn it_mounts_goes_on_in_the_background_and_ends_with_umount() {
    let lab = Lab::new();
    let file = lab.configure("");
    let options = format!(
        "rw,_netdev,noatime,config={},owner=root,log_file={}",
        file.display(),
        log(&lab).display()
    );
    let output = help(&lab, &options);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!((output.stdout.len(), output.stderr.len()), (0, 0));
    assert!(lab.mounts()[0].contains("fuse.sessionfs"));
    assert_eq!(std::fs::read_dir(lab.mountpoint()).unwrap().count(), 0);
    let keeper = keeper(&lab);
    // Its own session, no terminal, no directory of the caller's, no open file but its own.
    assert_eq!(
        nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(keeper))).unwrap().as_raw(),
        keeper
    );
    assert_eq!(std::fs::read_link(format!("/proc/{keeper}/cwd")).unwrap(), PathBuf::from("/"));
    assert!(std::fs::read_to_string(log(&lab)).unwrap().contains("ready"));
    assert!(Command::new("umount").arg(lab.mountpoint()).status().unwrap().success());
    wait_gone(keeper);
    lab.assert_clean();
}

#[test]
fn an_upgrade_goes_on_with_the_mount_and_the_private_redis() {
    let lab = Lab::new();
    let program = lab.path("sessionfs");
    let install = || {
        let new = lab.path("new");
        // Not by this process, which another test may fork meanwhile: nobody may hold it open for writing.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_sessionfs")).arg(&new).status();
        assert!(copied.unwrap().success());
        std::fs::rename(new, &program).unwrap();
    };
    install();
    let file = lab.configure("");
    let options = format!("config={},log_file={}", file.display(), log(&lab).display());
    let mountpoint = lab.mountpoint();
    let like = lab.command(["none", mountpoint.to_str().unwrap(), "-o", &options]);
    let mut command = Command::new(&program);
    command.args(like.get_args()).arg0("/sbin/mount.sessionfs");
    command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let (keeper, redis) = (keeper(&lab), lab.redis_pids());
    install();
    let mut reload = lab.command(["reload", mountpoint.to_str().unwrap()]);
    let output = reload.output().unwrap();
    let log = || std::fs::read_to_string(log(&lab)).unwrap();
    assert!(output.status.success(), "{}\n{}", said(&output), log());
    let runs = std::fs::metadata(format!("/proc/{keeper}/exe")).unwrap();
    assert_eq!(runs.ino(), program.metadata().unwrap().ino(), "{}", log());
    assert_eq!(lab.redis_pids(), redis);
    assert_eq!(std::fs::read_dir(lab.mountpoint()).unwrap().count(), 0);
    // Once more, with the command line of the first upgrade.
    install();
    assert!(reload.output().unwrap().status.success(), "{}", log());
    let runs = std::fs::metadata(format!("/proc/{keeper}/exe")).unwrap();
    assert_eq!(runs.ino(), program.metadata().unwrap().ino(), "{}", log());
    assert!(Command::new("umount").arg(lab.mountpoint()).status().unwrap().success());
    wait_gone(keeper);
    lab.assert_clean();
}

#[test]
fn a_start_that_fails_is_told_with_mounts_own_exit_code() {
    let lab = Lab::new();
    let file = lab.configure("[worker]\nuser = \"no-such\"\n");
    let options = format!("config={},log_file={}", file.display(), log(&lab).display());
    let output = help(&lab, &options);
    assert_eq!(output.status.code(), Some(32));
    assert!(said(&output).starts_with("mount.sessionfs: worker.user"), "{}", said(&output));
    assert!(said(&output).contains("there is no user 'no-such'"), "{}", said(&output));
    assert_eq!(said(&output).lines().count(), 1);
    lab.assert_clean();
}

#[test]
fn an_unknown_option_is_told_before_anything_is_done() {
    let lab = Lab::new();
    let output = help(&lab, "rediss=x");
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("unknown mount option 'rediss=x'"), "{}", said(&output));
    lab.assert_clean();
}

#[test]
fn without_a_file_it_logs_to_the_system() {
    let lab = Lab::new();
    let file = lab.configure("");
    // A logger of the test's own stands before the system's in the path.
    let logger = lab.path("logger");
    std::fs::write(&logger, format!("#!/bin/sh\nexec cat > {}\n", log(&lab).display())).unwrap();
    std::fs::set_permissions(&logger, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", logger.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut command = lab.command(["none", lab.mountpoint().to_str().unwrap(), "-o"]);
    command.arg(format!("config={}", file.display())).arg0("mount.fuse.sessionfs");
    let output = command.env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let keeper = keeper(&lab);
    assert!(
        lab.command(["unmount", lab.mountpoint().to_str().unwrap()]).status().unwrap().success()
    );
    wait_gone(keeper);
    for pid in lab.processes() {
        wait_gone(pid);
    }
    assert!(std::fs::read_to_string(log(&lab)).unwrap().contains("worker started"));
    lab.assert_clean();
}
