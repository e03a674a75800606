//! The private Redis: its start, its crash, its keeper's crash, and who may use its directory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use lab::{ask, children, copy_descriptor};

#[test]
fn there_is_no_program() {
    let lab = Lab::new();
    let config = format!("[private_redis]\nserver = \"/nonexistent\"\ndir = {:?}", lab.state());
    let words = &["'/nonexistent'", "install redis-server"];
    fails(&lab, lab.mount_command(&config), ExitCode::NoRedisServer, words);
    let mut command = lab.mount_command("");
    command.env("PATH", "");
    in_namespace(&mut command, || {
        for program in ["redis-server", "valkey-server"] {
            for directory in ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin"] {
                let path = format!("{directory}/{program}");
                match mount(
                    Some("/dev/null"),
                    path.as_str(),
                    None::<&str>,
                    MsFlags::MS_BIND,
                    None::<&str>,
                ) {
                    Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    });
    fails(&lab, command, ExitCode::NoRedisServer, &["install redis-server", "--redis"]);
}

#[test]
fn it_does_not_start() {
    let lab = Lab::new();
    let config = format!("[private_redis]\nserver = \"/bin/false\"\ndir = {:?}", lab.state());
    let words = &[lab.state().to_str().unwrap().to_owned(), "exited at once".to_owned()];
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    fails(&lab, lab.mount_command(&config), ExitCode::PrivateRedis, &words);
}

#[test]
fn its_directory_is_too_deep_for_a_socket() {
    let lab = Lab::new();
    let dir = lab.path(&"x".repeat(120));
    let config = format!("[private_redis]\ndir = {dir:?}");
    fails(&lab, lab.mount_command(&config), ExitCode::BadValue, &["shorter path"]);
}

#[test]
fn its_user_cannot_reach_the_directory() {
    let lab = Lab::new();
    let closed = lab.path("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    let config = format!("[private_redis]\ndir = {:?}", closed.join("state"));
    fails(&lab, lab.mount_command(&config), ExitCode::WorkerRights, &["cannot enter", "closed"]);
}

#[test]
fn its_directory_belongs_to_somebody_else() {
    let lab = Lab::new();
    std::fs::create_dir(lab.state()).unwrap();
    std::os::unix::fs::chown(lab.state(), Some(12345), Some(12345)).unwrap();
    fails(&lab, lab.mount_command(""), ExitCode::WorkerRights, &["uid 12345", "chown -R"]);
}

#[test]
fn survives_a_restart_with_its_data() {
    let lab = Lab::new();
    let keeper = lab.mount("");
    assert_eq!(lab.state().metadata().unwrap().mode() & 0o777, 0o700);
    assert_ne!(status(lab.redis_pids()[0], "Uid").split_whitespace().next(), Some("0"));
    assert_eq!(lab.redis("SET kept 1"), "+OK");
    keeper.end(Signal::SIGTERM);
    lab.assert_clean();
    let keeper = lab.mount("");
    assert_eq!(lab.redis("GET kept"), "$1\r\n1");
    keeper.end(Signal::SIGTERM);
    lab.assert_clean();
}

#[test]
fn is_confined_and_can_still_write_its_file_anew() {
    let lab = Lab::new();
    let keeper = lab.mount("");
    let (worker, server) = (keeper.worker(), lab.redis_pids()[0]);
    for process in [worker, server] {
        assert_eq!(status(process, "Seccomp").trim(), "2");
        assert_eq!(status(process, "NoNewPrivs").trim(), "1");
        assert_eq!(status(process, "CapEff").trim(), "0000000000000000");
    }
    assert_eq!(lab.redis("SET kept 1"), "+OK");
    // A child of its own, a new file and a rename.
    assert!(lab.redis("BGREWRITEAOF").starts_with('+'));
    let until = Instant::now() + Duration::from_secs(60);
    while !lab.redis("INFO persistence").contains("aof_rewrite_in_progress:0") {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = lab.redis("INFO persistence");
    assert!(said.contains("aof_last_bgrewrite_status:ok"), "{said}");
    keeper.end(Signal::SIGTERM);
    lab.assert_clean();
}

/// The kernel's list is one of a thread: a server of another thread would end with that one.
#[test]
fn is_a_child_of_the_keepers_main_thread() {
    let lab = Lab::new();
    let keeper = lab.mount("");
    assert_eq!(lab.redis_pids().len(), 1);
    assert!(children(keeper.pid()).contains(&lab.redis_pids()[0]));
    keeper.end(Signal::SIGTERM);
    lab.assert_clean();
}

#[test]
fn ends_in_order_with_a_keeper_that_is_killed() {
    let lab = Lab::new();
    let keeper = lab.mount("");
    let server = lab.redis_pids()[0];
    assert_eq!(lab.redis("SET kept 1"), "+OK");
    keeper.kill();
    wait_gone(server);
    let log = std::fs::read_to_string(lab.state().join("redis.log")).unwrap();
    assert!(log.contains("User requested shutdown"), "{log}");
    let keeper = lab.mount("");
    assert_eq!(lab.redis("GET kept"), "$1\r\n1");
    keeper.end(Signal::SIGTERM);
    lab.assert_clean();
}

/// The keeper is killed while four threads save, and the next one is started at once.
#[test]
fn no_save_that_was_acknowledged_is_lost_with_its_keeper() {
    const ROUNDS: usize = 3;
    const SAVES: usize = 200;
    let lab = Lab::new();
    let mut keeper = lab.mount("");
    let mut saved = Vec::new();
    for round in 0..ROUNDS {
        let (report, reports) = std::sync::mpsc::channel();
        let savers: Vec<_> = (0..4)
            .map(|saver| {
                let (dir, report) = (lab.mountpoint(), report.clone());
                std::thread::spawn(move || {
                    let numbers = 0_u32..;
                    let names = numbers.map(|n| format!("{round:032x}{saver:x}{n:07x}"));
                    for sid in names.take_while(|sid| save(&dir, sid).is_ok()) {
                        report.send(sid).unwrap();
                    }
                })
            })
            .collect();
        drop(report);
        saved.extend(reports.iter().take(SAVES));
        keeper.kill();
        keeper = lab.mount("");
        saved.extend(reports);
        for saver in savers {
            saver.join().unwrap();
        }
    }
    assert!(saved.len() >= SAVES * ROUNDS);
    let dir = lab.mountpoint();
    let lost: Vec<_> = saved
        .iter()
        .filter(|sid| std::fs::read(file(&dir, sid)).ok() != Some(content(sid)))
        .collect();
    assert!(lost.is_empty(), "{} of {}: {lost:?}", lost.len(), saved.len());
    keeper.end(Signal::SIGTERM);
    lab.assert_clean();
}

fn file(dir: &Path, sid: &str) -> PathBuf {
    dir.join(format!("werkzeug_{sid}.sess"))
}

fn content(sid: &str) -> Vec<u8> {
    format!(r#"{{"db": "shop", "login": "admin", "uid": 2, "session_token": "{sid}"}}"#).into()
}

/// Saves as Odoo does.
fn save(dir: &Path, sid: &str) -> std::io::Result<()> {
    let temp = dir.join(format!("tmp{}.__wz_sess", &sid[sid.len() - 8..]));
    std::fs::write(&temp, content(sid))?;
    std::fs::rename(&temp, file(dir, sid))
}

/// The server holds the lock as long as it lives, and longer where a child of it rewrites its file.
#[test]
fn is_not_started_before_an_earlier_one_has_let_go_of_its_lock() {
    let lab = Lab::new();
    let keeper = lab.mount("");
    let server = lab.redis_pids()[0];
    assert_eq!(lab.redis("SET kept 1"), "+OK");
    let lock = copy_descriptor(server, &lab.state().join("redis.lock"));
    keeper.kill();
    wait_gone(server);
    let keeper = Keeper::start(lab.mount_command(""));
    keeper.wait_log("waiting for the private Redis of an earlier sessionfs to end");
    assert!(lab.redis_pids().is_empty());
    drop(lock);
    keeper.wait_ready();
    assert_eq!(lab.redis_pids().len(), 1);
    assert_eq!(lab.redis("GET kept"), "$1\r\n1");
    keeper.end(Signal::SIGTERM);
    lab.assert_clean();
}

/// Without the death signal a server goes on when its keeper is killed.
#[test]
fn one_that_outlived_its_keeper_is_ended_and_its_data_is_kept() {
    let lab = Lab::new();
    lab.mount("").end(Signal::SIGTERM);
    let (state, owner) = (lab.state(), lab.state().metadata().unwrap());
    let mut orphan = Command::new("flock");
    orphan
        .arg(state.join("redis.lock"))
        .args(["setpriv", "--clear-groups"])
        .args([format!("--reuid={}", owner.uid()), format!("--regid={}", owner.gid())])
        .args(["redis-server", "--port", "0", "--unixsocket", "redis.sock", "--dir", "."])
        .args(["--appendonly", "yes", "--save", ""])
        .current_dir(&state);
    let orphan = Keeper::start(orphan);
    orphan.wait_out("ready to accept connections");
    assert_eq!(lab.redis("SET kept 1"), "+OK");
    let keeper = Keeper::start(lab.mount_command(""));
    keeper.wait_log("waiting for the private Redis of an earlier sessionfs to end");
    keeper.wait_ready();
    assert!(orphan.wait().0.success());
    assert_eq!(lab.redis_pids().len(), 1);
    assert_eq!(lab.redis("GET kept"), "$1\r\n1");
    keeper.end(Signal::SIGTERM);
    lab.assert_clean();
}

#[test]
fn is_replaced_after_its_own_crash_with_its_data() {
    let lab = Lab::new();
    let keeper = lab.mount("");
    let worker = keeper.worker();
    assert_eq!(lab.redis("SET kept 1"), "+OK");
    lab.wait_appended();
    for _ in 0..3 {
        let died = lab.redis_pids()[0];
        kill_hard(died);
        lab.wait_for_other_redis(died);
        assert_eq!(lab.redis_pids().len(), 1);
        assert_eq!(lab.redis("GET kept"), "$1\r\n1");
    }
    assert_eq!(keeper.worker(), worker, "the worker goes on");
    // Further ones within ten seconds are counted in the log, not written.
    keeper.wait_log("the private Redis died");
    keeper.end(Signal::SIGTERM);
    lab.assert_clean();
}

#[test]
fn its_directory_belongs_to_one_mount_and_its_socket_can_be_used_by_another() {
    let lab = Lab::new();
    let first = lab.mount("");
    let server = lab.redis_pids();
    let other = lab.path("other");
    std::fs::create_dir(&other).unwrap();
    let url = format!("unix:{}", lab.state().join("redis.sock").display());
    let config = lab.configure("");
    let command = |more: &[&str]| {
        let mut command = lab.command(["mount", other.to_str().unwrap(), "--config"]);
        command.arg(&config).args(more);
        command
    };
    let (status, said) = Keeper::start(command(&[])).wait();
    assert_eq!(status.code(), Some(u8::from(ExitCode::PrivateRedis).into()), "{said:?}");
    let remedy = format!("--redis {url}");
    for word in [lab.state().to_str().unwrap(), lab.mountpoint().to_str().unwrap(), &remedy] {
        assert!(said.last().unwrap().contains(word), "'{word}' is not in {said:?}");
    }
    assert_eq!(lab.redis_pids(), server, "the first mount has not noticed");

    let second = Keeper::start(command(&["--redis", &url]));
    second.wait_ready();
    let saved = "0".repeat(40);
    save(&lab.mountpoint(), &saved).unwrap();
    assert_eq!(std::fs::read(file(&other, &saved)).unwrap(), content(&saved));
    second.end(Signal::SIGTERM);
    assert_eq!(lab.redis_pids(), server, "it belongs to the first mount");
    first.end(Signal::SIGTERM);
    lab.assert_clean();
}

/// The worker's user could put it there, where the kernel lets users link what is not theirs.
#[test]
fn a_lock_that_is_another_file_too_is_refused_and_that_file_is_left_alone() {
    let lab = Lab::new();
    lab.mount("").end(Signal::SIGTERM);
    let precious = lab.path("precious");
    std::fs::write(&precious, "words").unwrap();
    for name in ["mount.lock", "redis.lock"] {
        let lock = lab.state().join(name);
        std::fs::remove_file(&lock).unwrap();
        std::fs::hard_link(&precious, &lock).unwrap();
        fails(&lab, lab.mount_command(""), ExitCode::PrivateRedis, &[name, "another name"]);
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "words");
        std::fs::remove_file(&lock).unwrap();
    }
    lab.mount("").end(Signal::SIGTERM);
    lab.assert_clean();
}

#[test]
fn a_stale_socket_is_replaced() {
    let lab = Lab::new();
    lab.mount("").end(Signal::SIGTERM);
    drop(std::os::unix::net::UnixListener::bind(lab.state().join("redis.sock")).unwrap());
    lab.mount("").end(Signal::SIGTERM);
    lab.assert_clean();
}

/// The worker's user could put a link there.
#[test]
fn a_link_to_another_servers_socket_is_replaced_and_that_server_is_left_alone() {
    let lab = Lab::new();
    lab.mount("").end(Signal::SIGTERM);
    let redis = OwnRedis::start(&lab, &[]);
    std::os::unix::fs::symlink(lab.path("own.sock"), lab.state().join("redis.sock")).unwrap();
    let lock = std::fs::File::open(lab.state().join("redis.lock")).unwrap();
    lock.lock().unwrap();
    let keeper = Keeper::start(lab.mount_command(""));
    keeper.wait_log("waiting for the private Redis of an earlier sessionfs to end");
    drop(lock);
    keeper.wait_ready();
    assert_eq!(lab.redis_pids().len(), 1);
    assert_eq!(ask(&lab.path("own.sock"), "ECHO alive"), "$5\r\nalive");
    keeper.end(Signal::SIGTERM);
    drop(redis);
    lab.assert_clean();
}

/// A socket tells who has called listen(2), and its process may be another's by then.
#[test]
fn a_process_that_is_not_the_workers_any_more_is_sent_no_signal() {
    let lab = Lab::new();
    lab.mount("").end(Signal::SIGTERM);
    let owner = lab.state().metadata().unwrap().uid();
    let script = "import os, socket, sys
os.seteuid(int(sys.argv[2]))
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
os.seteuid(0)
print('listening', flush=True)
while True:
    stream, _ = listener.accept()
    try:
        stream.recv(64)
        stream.sendall(b'+PONG\\r\\n')
    except OSError:
        pass";
    let socket = lab.state().join("redis.sock");
    // The worker's user may remove it.
    let _ = std::fs::remove_file(&socket);
    let mut other = Command::new("python3");
    other.args(["-c", script]).arg(&socket).arg(owner.to_string());
    let other = Keeper::start(other);
    other.wait_out("listening");
    let lock = std::fs::File::open(lab.state().join("redis.lock")).unwrap();
    lock.lock().unwrap();
    let keeper = Keeper::start(lab.mount_command(""));
    keeper.wait_log("waiting for the private Redis of an earlier sessionfs to end");
    drop(lock);
    keeper.wait_ready();
    assert_eq!(status(other.pid(), "State").chars().next(), Some('S'));
    other.kill();
    keeper.end(Signal::SIGTERM);
    lab.assert_clean();
}
