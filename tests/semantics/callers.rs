//! Callers whose processes cannot be looked at, and where that is told.

use std::process::Command;

use serde_json::Value;

use crate::odoo::STORE;
use crate::support::mount::{Mount, in_a_pid_namespace_below, sid};
use crate::support::redis::Redis;

/// Two devices are logged in, and one logs the other out.
const REVOCATION: &str = "
here, there = sys.argv[2:]
for sid in (here, there): save(sid, {'uid': 2, 'login': 'x', 'session_token': 'y'})
get(here)
delete_from_identifiers([there[:42]])
get(here)
print(os.path.exists(filename(there)))";

/// Odoo's user: neither root, who may remove what it has not listed, nor whoever the worker runs as.
const ODOO: (&str, &str) = ("daemon", "daemon");

/// Revokes a device as Odoo's user, in the namespaces that `enter` goes into. Says whether the
/// device is still logged in.
fn revoke(mount: &Mount, enter: &[&str]) -> String {
    let (here, there) = (sid("ab", 1), sid("cd", 2));
    let all = ["env"].iter().chain(enter).chain(&[
        "setpriv",
        "--reuid=daemon",
        "--regid=daemon",
        "--clear-groups",
        "/usr/bin/python3",
        "-c",
    ]);
    let all: Vec<&str> = all.copied().collect();
    let output = Command::new(all[0])
        .args(&all[1..])
        .arg(format!("{STORE}{REVOCATION}"))
        .arg(mount.path())
        .args([&here, &there])
        .current_dir("/")
        .output()
        .expect("env runs");
    assert!(output.status.success(), "{output:?}\n{}", mount.log());
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// Who could not be identified, by the mount's own word.
fn unidentified(mount: &Mount) -> Vec<Value> {
    let socket = sessionfs::config::paths::control_socket(&mount.path());
    let status = sessionfs::control::client::get(&socket, "/status").expect("an answer");
    let status: Value = serde_json::from_slice(&status).expect("JSON");
    status["unidentified_callers"].as_array().expect("a list").clone()
}

fn status_of(mount: &Mount) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
    let output = command.arg("status").arg(mount.path()).output().expect("sessionfs runs");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn a_caller_in_another_pid_namespace_revokes_no_device_and_that_is_told() {
    let redis = Redis::start();
    // The mount's processes are in a namespace below ours, from which ours cannot be seen.
    let mount = Mount::start_owned_in(&redis, "", ODOO, in_a_pid_namespace_below());
    assert_eq!(revoke(&mount, &[]), "True");

    let told = unidentified(&mount);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["reason"], "pid_namespace");
    // Two saves and a read.
    assert!(told[0]["count"].as_u64().unwrap() >= 3, "{told:?}");
    let lost = "device logout and background detection do not work";
    let status = status_of(&mount);
    assert!(status.contains(&format!("error:  {lost}: ")), "{status}");
    assert!(status.contains("shareProcessNamespace"), "{status}");
    assert_eq!(mount.log().matches(lost).count(), 1, "{}", mount.log());
}

#[test]
fn a_caller_in_a_pid_namespace_below_is_seen() {
    let redis = Redis::start();
    let mount = Mount::start_owned(&redis, "", ODOO);
    assert_eq!(revoke(&mount, &["unshare", "--pid", "--fork", "--kill-child"]), "False");
    assert_eq!(unidentified(&mount), Vec::<Value>::new());
}

#[test]
fn a_caller_that_proc_hides_is_told() {
    let redis = Redis::start();
    let mut hiding = hiding();
    hiding.env("SESSIONFS_KERNEL_WITHOUT", "proc_mount");
    let mount = Mount::start_owned_in(&redis, "", ODOO, hiding);
    // The mount is in that namespace alone. A caller has an id there, by which it is known; its
    // command line is hidden.
    let enter = format!("--mount=/proc/{}/ns/mnt", mount.keeper());
    assert_eq!(revoke(&mount, &["nsenter", &enter]), "False");
    let told = unidentified(&mount);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["reason"], "hidden");
    let lost = "background detection does not work: /proc hides";
    assert_eq!(mount.log().matches(lost).count(), 1, "{}", mount.log());
}

#[test]
fn a_caller_that_proc_hides_from_others_is_seen() {
    let redis = Redis::start();
    let mount = Mount::start_owned_in(&redis, "", ODOO, hiding());
    let enter = format!("--mount=/proc/{}/ns/mnt", mount.keeper());
    assert_eq!(revoke(&mount, &["nsenter", &enter]), "False");
    assert_eq!(unidentified(&mount), Vec::<Value>::new());
}

/// `sessionfs` where `/proc` hides the processes of others.
fn hiding() -> Command {
    let mut hiding = Command::new("unshare");
    hiding.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-ec",
        "mount -t proc -o hidepid=2 proc /proc; exec \"$@\"",
        "sh",
        env!("CARGO_BIN_EXE_sessionfs"),
    ]);
    hiding
}

#[test]
fn a_caller_that_can_be_seen_is_no_matter() {
    let redis = Redis::start();
    let mount = Mount::start_owned(&redis, "", ODOO);
    assert_eq!(revoke(&mount, &[]), "False");
    assert_eq!(unidentified(&mount), Vec::<Value>::new());
    assert!(!status_of(&mount).contains("error:"));
}
