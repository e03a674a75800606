//! `sessionfs reload`: what has changed is taken up while Odoo goes on, or nothing is.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use sessionfs::exit::ExitCode;
use support::http::{ask, ask_port, until};
use support::load::{Load, OWNER, Seen};
use support::mount::{Mount, authenticated, errno, install, sid, temp_name};
use support::redis::{Redis, free_port};

fn node(configuration: &str) -> (Redis, Mount) {
    let redis = Redis::start();
    let mount = Mount::start(&redis, configuration);
    (redis, mount)
}

#[track_caller]
fn reload(mount: &Mount) {
    let (code, said) = mount.command("reload");
    assert_eq!(code, Some(0), "{said}\n{}", mount.log());
}

/// The reload fails with these words, and the same worker goes on.
#[track_caller]
fn refuses(mount: &Mount, words: &[&str]) {
    let worker = mount.worker();
    let (code, said) = mount.command("reload");
    assert_eq!(code, Some(u8::from(ExitCode::ReloadFailed).into()), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for word in words {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
    assert_eq!(mount.worker(), worker);
    mount.save(&sid("zz", 1), &authenticated("after")).unwrap();
}

#[test]
fn a_changed_file_is_followed_and_sessions_stay() {
    let (_redis, mount) = node("[limits]\nsession = \"4KiB\"\n");
    let (known, large) = (sid("aa", 1), sid("bb", 2));
    let long = authenticated(&"x".repeat(8000));
    mount.save(&known, &authenticated("before")).unwrap();
    assert_eq!(errno(mount.save(&large, &long)), libc::EFBIG);
    let worker = mount.worker();
    std::fs::write(mount.configuration(), "[limits]\nsession = \"64KiB\"\n").unwrap();
    reload(&mount);
    assert_ne!(mount.worker(), worker);
    assert_eq!(mount.read(&known).unwrap(), authenticated("before"));
    mount.save(&large, &long).unwrap();
}

#[test]
fn a_later_worker_gives_other_inode_numbers() {
    let (_redis, mount) = node("");
    let session = sid("aa", 1);
    mount.save(&session, &authenticated("x")).unwrap();
    let after_a_reload = || {
        reload(&mount);
        std::fs::metadata(mount.sharded(&session)).unwrap().ino()
    };
    assert_ne!(after_a_reload(), after_a_reload());
}

#[test]
fn a_reload_is_a_few_lines_that_alarm_nobody() {
    let (_redis, mount) = node("");
    reload(&mount);
    let log = mount.log();
    let (_, reloaded) = log.split_once("reloading").unwrap();
    let lines: Vec<&str> = reloaded
        .lines()
        .filter(|line| [" INFO ", " WARN ", "ERROR "].iter().any(|level| line.contains(level)))
        .collect();
    assert!(lines.len() <= 6, "{lines:#?}");
    for words in ["no longer", "left=0", " WARN ", "ERROR "] {
        assert!(
            !reloaded.lines().any(|line| line.contains(words) && !line.contains("DEBUG")),
            "{lines:#?}"
        );
    }
}

#[test]
fn a_broken_file_changes_nothing() {
    let (_redis, mount) = node("");
    for (text, words) in [
        ("idel = 1", &["unknown key 'idel'"][..]),
        ("[lifetime]\nidle = \"1\"", &["lifetime.idle: '1'"]),
        ("staging_dir = \"/dev/shm/elsewhere\"", &["staging_dir was changed", "restart"]),
        ("[worker]\nuser = \"daemon\"", &["worker.user was changed", "restart"]),
    ] {
        std::fs::write(mount.configuration(), text).unwrap();
        refuses(&mount, words);
    }
    std::fs::write(mount.configuration(), "").unwrap();
    reload(&mount);
}

#[test]
fn metrics_are_had_where_a_changed_file_says() {
    let (_redis, mount) = node("");
    let (first, second) = (free_port(), free_port());
    let listen = |at: &str| {
        std::fs::write(mount.configuration(), format!("[metrics]\nlisten = \"{at}\"\n")).unwrap();
    };
    let answers = |port: u16| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    listen(&format!("127.0.0.1:{first}"));
    reload(&mount);
    assert_eq!(ask_port(first, "/health").0, 200);
    // The same file again: nobody lets go of the port.
    reload(&mount);
    assert_eq!(ask_port(first, "/health").0, 200);
    // One that cannot be had changes nothing.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listen(&taken.local_addr().unwrap().to_string());
    refuses(&mount, &["metrics.listen", "name another address"]);
    assert_eq!(ask_port(first, "/health").0, 200);
    listen(&format!("127.0.0.1:{second}"));
    reload(&mount);
    assert_eq!(ask_port(second, "/health").0, 200);
    until("the old port is let go", || !answers(first));
    let socket = mount.path().parent().unwrap().join("metrics.sock");
    listen(&format!("unix:{}", socket.display()));
    reload(&mount);
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok());
    until("the port is let go", || !answers(second));
    listen("off");
    reload(&mount);
    assert!(!socket.exists());
    assert_eq!(ask(&mount, "/health").0, 200);
}

#[test]
fn a_worker_that_does_not_get_ready_changes_nothing() {
    let (mut redis, mount) = node("");
    std::fs::write(mount.configuration(), "[redis]\nstart_wait = \"500ms\"\n").unwrap();
    redis.pause();
    let (code, said) = mount.command("reload");
    redis.resume();
    assert_eq!(code, Some(u8::from(ExitCode::ReloadFailed).into()), "{said}");
    assert!(said.contains("(tried for 500ms)"), "{said}");
    mount.save(&sid("aa", 1), &authenticated("after")).unwrap();
}

#[test]
fn without_a_keeper_it_says_so() {
    let (_redis, mount) = node("");
    let path = mount.path();
    assert_eq!(mount.command("unmount").0, Some(0));
    let (code, said) = mount.command("reload");
    assert_eq!(code, Some(u8::from(ExitCode::NotMounted).into()));
    assert!(said.contains(path.to_str().unwrap()) && said.contains("findmnt"), "{said}");
}

#[test]
fn a_save_that_began_before_ends_after() {
    let (_redis, mount) = node("");
    let sid = sid("aa", 1);
    let temp = mount.stage(&authenticated("across")).unwrap();
    reload(&mount);
    std::fs::rename(&temp, mount.sharded(&sid)).unwrap();
    assert_eq!(mount.read(&sid).unwrap(), authenticated("across"));
    // One that is begun after it finds its name free or taken as before.
    let temp = mount.stage(&authenticated("next")).unwrap();
    reload(&mount);
    assert_eq!(temp.metadata().unwrap().len(), authenticated("next").len() as u64);
    std::fs::remove_file(&temp).unwrap();
    assert_eq!(errno(std::fs::rename(&temp, mount.sharded(&sid))), libc::ENOENT);
}

#[test]
fn a_save_that_is_written_across_is_whole() {
    let (_redis, mount) = node("");
    let sid = sid("aa", 1);
    let temp = mount.path().join(temp_name());
    let mut file = std::fs::File::create_new(&temp).unwrap();
    file.write_all(b"half").unwrap();
    reload(&mount);
    // By the new worker, which has found the half of it.
    assert_eq!(temp.metadata().unwrap().len(), 4);
    file.write_all(b" and half").unwrap();
    drop(file);
    std::fs::rename(&temp, mount.sharded(&sid)).unwrap();
    assert_eq!(mount.read(&sid).unwrap(), b"half and half");
}

#[test]
fn an_open_file_is_read_to_its_end() {
    let (_redis, mount) = node("");
    let sid = sid("aa", 1);
    mount.save(&sid, &authenticated("old")).unwrap();
    let mut open = std::fs::File::open(mount.sharded(&sid)).unwrap();
    reload(&mount);
    mount.save(&sid, &authenticated("new")).unwrap();
    let mut content = Vec::new();
    open.read_to_end(&mut content).unwrap();
    assert_eq!(content, authenticated("old"));
    assert_eq!(mount.read(&sid).unwrap(), authenticated("new"));
}

#[test]
fn an_upgraded_program_serves_from_then_on() {
    let redis = Redis::start();
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("sessionfs");
    let install = || install(&program);
    install();
    let mut mount = Mount::start_in(&redis, "", Command::new(&program));
    let session = sid("aa", 1);
    mount.save(&session, &authenticated("x")).unwrap();
    let mut open = std::fs::File::open(mount.sharded(&session)).unwrap();
    let runs = |pid: u32| Path::new(&format!("/proc/{pid}/exe")).metadata().unwrap().ino();
    install();
    reload(&mount);
    // Said once more, by the upgraded keeper.
    mount.wait_until_served();
    let installed = program.metadata().unwrap().ino();
    // All of it is done when the reload has ended. The keeper is the same process.
    assert_eq!(runs(mount.worker()), installed);
    assert_eq!(runs(mount.keeper()), installed);
    for pid in [mount.keeper(), mount.worker()] {
        assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "sessionfs\n");
    }
    assert_eq!(mount.read(&session).unwrap(), authenticated("x"));
    let mut content = Vec::new();
    open.read_to_end(&mut content).unwrap();
    assert_eq!(content, authenticated("x"));
    // The one that is started when this one dies is the upgraded one, too, even after removal.
    std::fs::remove_file(&program).unwrap();
    refuses(&mount, &[program.to_str().unwrap(), "install it"]);
    let worker = mount.worker();
    kill(worker);
    mount.wait_for_log("worker_died");
    mount.wait_until_served();
    assert_ne!(mount.worker(), worker);
    assert_eq!(runs(mount.worker()), installed);
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// Prints what `docs/systemd.md` shows.
#[test]
fn a_busy_odoo_sees_no_error_of_twenty_reloads() {
    const RELOADS: u32 = 20;
    println!("{:<8} {:>8} {:>10} {:>9}  errors", "way", "reloads", "operations", "worst");
    for (way, without) in [("RESEND", ""), ("replay", "resend")] {
        let redis = Redis::start();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sessionfs"));
        command.env("SESSIONFS_KERNEL_WITHOUT", without);
        let mount = Mount::start_owned_in(&redis, "", OWNER, command);
        let load = Load::start(&mount, 1);
        for _ in 0..RELOADS {
            reload(&mount);
        }
        let Seen { operations, worst_ms, errors, .. } = load.end(&mount);
        println!("{way:<8} {RELOADS:>8} {operations:>10} {worst_ms:>6} ms  {errors:?}");
        assert!(errors.is_empty(), "{errors:?}\n{}", mount.log());
        assert!(operations > 50, "{operations}");
    }
}
