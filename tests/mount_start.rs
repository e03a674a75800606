//! How `sessionfs mount` starts and ends: every bad input has its exit code and its one line, and
//! whatever happens, nothing stays mounted and no process stays.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::unnecessary_debug_formatting, reason = "a path's debug form is a TOML string")]

#[path = "mount_start/lab.rs"]
mod lab;
#[path = "mount_start/private_redis.rs"]
mod private_redis;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use sessionfs::exit::ExitCode;

use lab::{Keeper, Lab, OwnRedis, in_namespace, kill_hard, status, wait_gone};

/// The command fails with this code and one line that has all these words, and leaves nothing.
#[track_caller]
fn fails(lab: &Lab, command: Command, code: ExitCode, expected: &[&str]) {
    let (status, said) = Keeper::start(command).wait();
    let told: Vec<_> = said.iter().filter(|line| line.starts_with("sessionfs: ")).collect();
    assert_eq!(status.code(), Some(u8::from(code).into()), "{said:#?}");
    assert_eq!(told.len(), 1, "{said:#?}");
    assert_eq!(said.last(), told.last().copied(), "{said:#?}");
    for word in expected {
        assert!(told[0].contains(word), "'{word}' is not in: {}", told[0]);
    }
    lab.assert_clean();
}

/// The same for `mount` with this configuration.
#[track_caller]
fn refuses(config: &str, code: ExitCode, expected: &[&str]) {
    let lab = Lab::new();
    fails(&lab, lab.mount_command(config), code, expected);
}

/// The same for `mount` with a Redis at this address.
#[track_caller]
fn refuses_redis(lab: &Lab, url: &str, code: ExitCode, expected: &[&str]) {
    let config = format!("[redis]\nurl = {url:?}\nstart_wait = \"300ms\"\n");
    fails(lab, lab.mount_command(&config), code, expected);
}

mod configuration {
    use super::*;

    #[test]
    fn an_unknown_key() {
        refuses(
            "[lifetime]\nidel = \"1h\"",
            ExitCode::UnknownKey,
            &["sessionfs.toml", "'lifetime.idel'", "did you mean 'lifetime.idle'?"],
        );
    }

    #[test]
    fn a_file_that_cannot_be_read() {
        let lab = Lab::new();
        for file in [lab.path("missing.toml"), lab.path("mnt")] {
            let command = lab.command([
                OsString::from("mount"),
                lab.mountpoint().into(),
                "--config".into(),
                file.clone().into(),
            ]);
            fails(&lab, command, ExitCode::UnreadableFile, &[file.to_str().unwrap(), "--config"]);
        }
    }

    #[test]
    fn a_password_file_that_cannot_be_read() {
        refuses(
            "[redis]\nurl = \"redis://h\"\npassword_file = \"/nonexistent/secret\"",
            ExitCode::UnreadableFile,
            &["redis.password_file", "/nonexistent/secret"],
        );
    }

    #[test]
    fn a_bad_value() {
        refuses("owner = ", ExitCode::BadValue, &["sessionfs.toml:1: "]);
        refuses("mode = \"rwx\"", ExitCode::BadValue, &["mode: 'rwx'"]);
        refuses("[lifetime]\nidle = \"1\"", ExitCode::BadValue, &["lifetime.idle: '1'"]);
        refuses("log = \"sessionfs=loud\"", ExitCode::BadValue, &["log filter 'sessionfs=loud'"]);
        refuses(
            "log = \"loud\"",
            ExitCode::BadValue,
            &["log filter 'loud': 'loud' is not a level"],
        );
        refuses("owner = 101", ExitCode::BadValue, &["toml:1: owner: ", "write it in quotes"]);
        refuses("[worker]\nuser = \"root\"", ExitCode::BadValue, &["worker.user: 'root'"]);
    }

    #[test]
    fn a_bad_url_is_not_repeated() {
        for url in ["localhost:6379", "http://:secret@h", "redis://:secret@"] {
            let lab = Lab::new();
            let mut command = lab.mount_command("");
            command.args(["--redis", url]);
            let (_, said) = Keeper::start(command).wait();
            assert!(!said.concat().contains("secret"), "{said:#?}");
            refuses_redis(&lab, url, ExitCode::BadUrl, &["redis://HOST:PORT/DB"]);
        }
    }

    #[test]
    fn a_user_that_does_not_exist() {
        refuses(
            "owner = \"no-such\"",
            ExitCode::UnknownUser,
            &["owner: there is no user 'no-such'"],
        );
        refuses("group = \"no-such\"", ExitCode::UnknownUser, &["group: there is no group"]);
        refuses(
            "[worker]\nuser = \"no-such\"",
            ExitCode::UnknownUser,
            &["worker.user: there is no"],
        );
    }

    #[test]
    fn a_command_line_that_is_none() {
        let lab = Lab::new();
        for (arguments, expected) in [
            (&["mount", "/x", "--rediss"][..], "--rediss"),
            (&["mout", "/x"], "mount"),
            (&[], "sessionfs --help"),
            (
                &["worker", "--status-fd", "1", "--config-fd", "2", "--fuse-fd", "3"],
                "sessionfs mount",
            ),
        ] {
            fails(&lab, lab.command(arguments), ExitCode::Usage, &[expected]);
        }
    }
}

mod mountpoint {
    use super::*;

    #[test]
    fn is_named_nowhere() {
        let lab = Lab::new();
        let file = lab.configure("");
        for command in ["mount", "unmount"] {
            let command = lab.command([command, "--config", file.to_str().unwrap()]);
            let words = &["name DIR, or set the key 'mountpoint' in", file.to_str().unwrap()];
            fails(&lab, command, ExitCode::Usage, words);
        }
    }

    #[test]
    fn is_named_by_the_file_unless_the_command_line_does() {
        let lab = Lab::new();
        let redis = OwnRedis::start(&lab, &[]);
        let url = OwnRedis::url(&lab);
        let mountpoint = lab.mountpoint();
        let file = lab.configure(&format!("mountpoint = {mountpoint:?}\n[redis]\nurl = {url:?}\n"));
        let file = file.to_str().unwrap();
        let other = lab.path("other");
        std::fs::create_dir(&other).unwrap();
        let dir = other.to_str().unwrap();
        let there = Keeper::start(lab.command(["mount", dir, "--config", file]));
        assert_eq!(there.wait_out("ready "), format!("ready {dir}"));
        let here = Keeper::start(lab.command(["mount", "--config", file]));
        assert_eq!(here.wait_out("ready "), format!("ready {}", lab.mountpoint().display()));
        assert!(lab.command(["unmount", "--config", file]).status().unwrap().success());
        assert!(here.wait().0.success());
        there.end(Signal::SIGTERM);
        drop(redis);
        lab.assert_clean();
    }

    #[test]
    fn is_named_by_a_path_that_is_not_absolute() {
        let lab = Lab::new();
        let file = lab.configure("mountpoint = \"sessions\"\n");
        let command = lab.command(["mount", "--config", file.to_str().unwrap()]);
        fails(&lab, command, ExitCode::BadValue, &["mountpoint: 'sessions'", "absolute"]);
    }

    #[test]
    fn is_missing() {
        let lab = Lab::new();
        let command = lab.mount_command("");
        std::fs::remove_dir(lab.mountpoint()).unwrap();
        let mountpoint = lab.mountpoint();
        let words = &[mountpoint.to_str().unwrap(), "mkdir -p"];
        fails(&lab, command, ExitCode::MountpointMissing, words);
    }

    #[test]
    fn is_no_directory() {
        let lab = Lab::new();
        let command = lab.mount_command("");
        std::fs::remove_dir(lab.mountpoint()).unwrap();
        std::fs::write(lab.mountpoint(), "").unwrap();
        fails(&lab, command, ExitCode::NotADirectory, &["is not a directory"]);
    }

    /// `data -> ../real`, in a directory of user 1234's, on the way to the session directory.
    fn by_a_link_in_odoos_directory(lab: &Lab, owner: u32) -> OsString {
        let odoo = lab.path("odoo");
        std::fs::create_dir_all(lab.path("real/sessions")).unwrap();
        std::fs::create_dir(&odoo).unwrap();
        std::os::unix::fs::chown(&odoo, Some(1234), Some(1234)).unwrap();
        std::os::unix::fs::symlink("../real", odoo.join("data")).unwrap();
        std::os::unix::fs::lchown(odoo.join("data"), Some(owner), Some(owner)).unwrap();
        odoo.join("data/sessions").into()
    }

    #[test]
    fn is_reached_by_a_link_of_odoos_user() {
        let lab = Lab::new();
        let dir = by_a_link_in_odoos_directory(&lab, 1234);
        let config = lab.configure("");
        let link = lab.path("odoo/data");
        let words = ["symbolic link that belongs to user 1234", link.to_str().unwrap(), "chown -h"];
        for more in [&[][..], &["--dry-run"]] {
            let mut command = lab.command(["mount".into(), dir.clone(), "--config".into()]);
            command.arg(&config).args(more);
            fails(&lab, command, ExitCode::NotADirectory, &words);
        }
        for command in ["unmount", "reload"] {
            let command = lab.command([command.into(), dir.clone()]);
            fails(&lab, command, ExitCode::NotADirectory, &words);
        }
        let command = lab.command(["release".into(), dir, "--config".into(), config.into()]);
        fails(&lab, command, ExitCode::NotADirectory, &words);
    }

    #[test]
    fn is_reached_by_a_link_of_roots() {
        let lab = Lab::new();
        let dir = by_a_link_in_odoos_directory(&lab, 0);
        let config = lab.configure("");
        let keeper =
            Keeper::start(lab.command(["mount".into(), dir, "--config".into(), config.into()]));
        let real = lab.path("real/sessions");
        assert_eq!(keeper.wait_out("ready "), format!("ready {}", real.display()));
        keeper.end(Signal::SIGTERM);
        lab.assert_clean();
    }

    #[test]
    fn is_not_empty_and_stays_as_it_is() {
        let lab = Lab::new();
        let file = lab.mountpoint().join("precious");
        std::fs::write(&file, "kept").unwrap();
        let mode = lab.mountpoint().metadata().unwrap().mode();
        fails(&lab, lab.mount_command(""), ExitCode::NotEmpty, &["move them away"]);
        assert_eq!(std::fs::read_to_string(file).unwrap(), "kept");
        assert_eq!(lab.mountpoint().metadata().unwrap().mode(), mode);
    }

    #[test]
    fn has_something_mounted_already() {
        let lab = Lab::new();
        mount(Some("t"), &lab.mountpoint(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let (status, said) = Keeper::start(lab.mount_command("")).wait();
        assert_eq!(status.code(), Some(u8::from(ExitCode::AlreadyMounted).into()));
        assert!(said.last().unwrap().contains("already mounted (tmpfs)"), "{said:?}");
        umount2(&lab.mountpoint(), MntFlags::empty()).unwrap();
        lab.assert_clean();
    }

    /// A dry run refuses what a mount refuses, with the same words, and changes nothing.
    #[test]
    fn is_looked_at_by_a_dry_run_as_by_a_mount() {
        let lab = Lab::new();
        let dry = || {
            let output = lab.mount_command("").arg("--dry-run").output().unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            let (said, error) = (text(output.stdout), text(output.stderr));
            (output.status.code(), said, error.lines().last().map(ToOwned::to_owned))
        };
        let words_of_mount = || {
            let (status, said) = Keeper::start(lab.mount_command("")).wait();
            (status.code(), said.last().cloned())
        };
        let shard = lab.mountpoint().join("ab");
        std::fs::create_dir(&shard).unwrap();
        std::fs::write(shard.join(format!("ab{}", "0".repeat(82))), "{}").unwrap();
        let before = lab.mountpoint().metadata().unwrap().mode();
        let mountpoint = lab.mountpoint().display().to_string();
        assert_eq!(dry(), (Some(0), format!("mountpoint {mountpoint}\nsessions 1\n"), None));

        std::fs::write(lab.mountpoint().join("notes.txt"), "").unwrap();
        let (code, _, error) = dry();
        assert_eq!(code, Some(u8::from(ExitCode::NotEmpty).into()));
        assert_eq!((code, error), words_of_mount());

        mount(Some("t"), &lab.mountpoint(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let (code, _, error) = dry();
        assert_eq!(code, Some(u8::from(ExitCode::AlreadyMounted).into()));
        assert_eq!((code, error), words_of_mount());
        umount2(&lab.mountpoint(), MntFlags::empty()).unwrap();
        assert_eq!(lab.mountpoint().metadata().unwrap().mode(), before);
        lab.assert_clean();
    }

    /// The mirror, too: one that a mount would refuse, and one that it would make.
    #[test]
    fn has_a_mirror_that_a_dry_run_looks_at() {
        let lab = Lab::new();
        let mirror = lab.path("mirror");
        let config = format!("mirror = {mirror:?}\n");
        let dry = || lab.mount_command(&config).arg("--dry-run").output().unwrap();
        assert!(dry().status.success());
        assert!(!mirror.exists());
        std::fs::create_dir(&mirror).unwrap();
        std::fs::set_permissions(&mirror, std::fs::Permissions::from_mode(0o755)).unwrap();
        let refused = dry();
        assert_eq!(refused.status.code(), Some(u8::from(ExitCode::MirrorRefused).into()));
        let error = String::from_utf8(refused.stderr).unwrap();
        let (status, said) = Keeper::start(lab.mount_command(&config)).wait();
        assert_eq!(status.code(), refused.status.code());
        assert_eq!(error.lines().last(), said.last().map(String::as_str));
        assert!(error.contains("chmod 700"), "{error}");
        lab.assert_clean();
    }

    /// Mounted or not, whoever set it up.
    #[test]
    fn is_given_back_as_it_was() {
        let lab = Lab::new();
        let state = || {
            let found = lab.mountpoint().metadata().unwrap();
            (found.uid(), found.gid(), found.mode() & 0o7777)
        };
        std::os::unix::fs::chown(lab.mountpoint(), Some(1234), Some(2345)).unwrap();
        std::fs::set_permissions(lab.mountpoint(), std::fs::Permissions::from_mode(0o2751))
            .unwrap();
        let config = lab.configure("owner = \"root\"\n");
        let release = || {
            let dir: OsString = lab.mountpoint().into();
            let arguments = ["release".into(), dir, "--config".into(), config.clone().into()];
            let (status, said) = Keeper::start(lab.command(arguments)).wait();
            assert!(status.success(), "{said:?}");
        };
        for while_mounted in [true, false] {
            let keeper = lab.mount("owner = \"root\"\n");
            if while_mounted {
                release();
            }
            keeper.end(Signal::SIGTERM);
            if !while_mounted {
                assert_eq!(state(), (0, 0, 0));
                release();
            }
            assert_eq!(state(), (1234, 2345, 0o2751), "while mounted: {while_mounted}");
        }
        lab.assert_clean();
    }

    #[test]
    fn is_served_by_another_daemon() {
        let lab = Lab::new();
        let keeper = lab.mount("");
        let (status, said) = Keeper::start(lab.mount_command("")).wait();
        assert_eq!(status.code(), Some(u8::from(ExitCode::SecondDaemon).into()));
        let pid = format!("(pid {})", keeper.pid());
        assert!(said.last().unwrap().contains(&pid), "{said:?}");
        assert_eq!(lab.mounts().len(), 1);
        keeper.end(Signal::SIGTERM);
        lab.assert_clean();
    }
}

mod host {
    use super::*;

    #[test]
    fn not_root() {
        let lab = Lab::new();
        let mut command = lab.mount_command("");
        let program = lab.path("sessionfs");
        std::fs::copy(command.get_program(), &program).unwrap();
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).uid(65534).gid(65534);
        fails(&lab, command, ExitCode::NotRoot, &["needs root"]);
    }

    #[test]
    fn no_dev_fuse() {
        let lab = Lab::new();
        let mut command = lab.mount_command("staging_dir = \"/dev/staging\"");
        in_namespace(&mut command, || {
            mount(Some("t"), "/dev", Some("tmpfs"), MsFlags::empty(), None::<&str>)
        });
        fails(&lab, command, ExitCode::NoFuse, &["/dev/fuse", "modprobe fuse"]);
    }

    #[test]
    fn the_kernel_refuses_the_mount() {
        let lab = Lab::new();
        let mut command = lab.mount_command("");
        in_namespace(&mut command, || {
            mount(Some("/dev/null"), "/dev/fuse", None::<&str>, MsFlags::MS_BIND, None::<&str>)
        });
        let mountpoint = lab.mountpoint();
        fails(&lab, command, ExitCode::MountRefused, &[mountpoint.to_str().unwrap()]);
    }

    #[test]
    fn staging_is_not_on_a_tmpfs() {
        let lab = Lab::new();
        let dir = lab.path("staging");
        let config = format!("staging_dir = {dir:?}");
        fails(
            &lab,
            lab.mount_command(&config),
            ExitCode::Staging,
            &[dir.to_str().unwrap(), "tmpfs"],
        );
    }

    #[test]
    fn staging_that_others_can_write_to() {
        let lab = Lab::new();
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let config = format!("staging_dir = {:?}", dir.path());
        fails(
            &lab,
            lab.mount_command(&config),
            ExitCode::Staging,
            &["writable for users other than root"],
        );
    }

    #[test]
    fn staging_that_the_worker_cannot_reach() {
        let lab = Lab::new();
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let config = format!("staging_dir = {:?}", dir.path());
        let words = &["cannot use", dir.path().to_str().unwrap(), "chmod o+x"];
        fails(&lab, lab.mount_command(&config), ExitCode::WorkerRights, words);
    }
}

mod redis {
    use super::*;

    #[test]
    fn cannot_be_reached() {
        let lab = Lab::new();
        let url = format!("unix:{}", lab.path("none.sock").display());
        refuses_redis(&lab, &url, ExitCode::RedisUnreachable, &["none.sock", "300ms"]);
    }

    #[test]
    fn refuses_the_connection() {
        let lab = Lab::new();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("redis://127.0.0.1:{port}");
        let words = &[url.as_str(), "refused"];
        refuses_redis(&lab, &url, ExitCode::RedisUnreachable, words);
    }

    #[test]
    fn never_answers() {
        let lab = Lab::new();
        // Accepts by its queue, and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", silent.local_addr().unwrap());
        refuses_redis(&lab, &url, ExitCode::RedisUnreachable, &[&url]);
    }

    /// Answers every request with these bytes, once for each connection.
    fn impostor(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while matches!(stream.read(&mut buffer), Ok(1..)) {
                        // One answer for each command: they begin with a star.
                        let commands = buffer.split(|b| *b == b'*').skip(1).count();
                        for _ in 0..commands.max(1) {
                            if stream.write_all(answer).is_err() {
                                return;
                            }
                        }
                        buffer.fill(0);
                    }
                });
            }
        });
        url
    }

    #[test]
    fn is_too_old() {
        let lab = Lab::new();
        let url = impostor(b"-ERR unknown command `HELLO`, with args beginning with: \r\n");
        refuses_redis(&lab, &url, ExitCode::RedisTooOld, &[&url, "6.0 or newer"]);
    }

    #[test]
    fn is_something_else() {
        let lab = Lab::new();
        let url = impostor(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        refuses_redis(&lab, &url, ExitCode::NotRedis, &[&url, "does not use the Redis protocol"]);
    }

    #[test]
    fn refuses_the_password() {
        let lab = Lab::new();
        let _redis = OwnRedis::start(&lab, &["--requirepass", "right"]);
        let url = OwnRedis::url(&lab);
        refuses_redis(&lab, &url, ExitCode::RedisPassword, &["redis.password_file"]);
        let wrong = format!("{url}?pass=wrong");
        refuses_redis(&lab, &wrong, ExitCode::RedisPassword, &["correct redis.username"]);
        let right = format!("[redis]\nurl = \"{url}?pass=right\"");
        lab.mount(&right).end(Signal::SIGTERM);
    }

    #[test]
    fn has_no_such_database() {
        let lab = Lab::new();
        let _redis = OwnRedis::start(&lab, &[]);
        let url = format!("{}?db=99", OwnRedis::url(&lab));
        refuses_redis(&lab, &url, ExitCode::RedisRefuses, &["out of range", "correct redis.url"]);
    }

    #[test]
    fn has_a_socket_that_the_worker_may_not_use() {
        let lab = Lab::new();
        let _redis = OwnRedis::start(&lab, &["--unixsocketperm", "700"]);
        let url = OwnRedis::url(&lab);
        refuses_redis(&lab, &url, ExitCode::WorkerRights, &["no permission", "own.sock"]);
    }

    #[test]
    fn is_waited_for_at_the_first_start() {
        let lab = Lab::new();
        let config = format!("[redis]\nurl = {:?}", OwnRedis::url(&lab));
        let keeper = Keeper::start(lab.mount_command(&config));
        keeper.wait_log("waiting for Redis at");
        assert_eq!(lab.mounts(), Vec::<String>::new(), "nothing is mounted before Redis answers");
        let redis = OwnRedis::start(&lab, &[]);
        keeper.wait_ready();
        keeper.end(Signal::SIGTERM);
        drop(redis);
        lab.assert_clean();
    }

    #[test]
    fn a_signal_ends_the_wait() {
        let lab = Lab::new();
        let config = format!("[redis]\nurl = {:?}", OwnRedis::url(&lab));
        let keeper = Keeper::start(lab.mount_command(&config));
        keeper.wait_log("waiting for Redis at");
        keeper.end(Signal::SIGINT);
        lab.assert_clean();
    }
}

mod worker {
    use super::*;

    #[test]
    fn has_no_right_that_an_ordinary_user_lacks() {
        let lab = Lab::new();
        let keeper = lab.mount("");
        let worker = keeper.worker();
        for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&status(worker, field), 16), Ok(0), "{field}");
        }
        assert_eq!(status(worker, "NoNewPrivs"), "1");
        // Under a filter of system calls.
        assert_eq!(status(worker, "Seccomp"), "2");
        assert_eq!(status(worker, "Groups"), "");
        for field in ["Uid", "Gid"] {
            assert!(status(worker, field).split_whitespace().all(|id| id != "0"), "{field}");
        }
        let environment = std::fs::read(format!("/proc/{worker}/cmdline")).unwrap();
        assert!(!String::from_utf8_lossy(&environment).contains("redis"));
        keeper.end(Signal::SIGTERM);
    }

    #[test]
    fn its_password_is_in_no_argument_and_no_environment() {
        let lab = Lab::new();
        let _redis = OwnRedis::start(&lab, &["--requirepass", "s3cret"]);
        std::fs::write(lab.path("password"), "s3cret\n").unwrap();
        let config = format!(
            "[redis]\nurl = {:?}\npassword_file = {:?}",
            OwnRedis::url(&lab),
            lab.path("password")
        );
        let keeper = lab.mount(&config);
        for pid in [keeper.pid(), keeper.worker()] {
            for file in ["cmdline", "environ"] {
                let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
                assert!(!String::from_utf8_lossy(&text).contains("s3cret"));
            }
        }
        let said = keeper.end(Signal::SIGTERM);
        assert!(!said.concat().contains("s3cret"));
    }

    #[test]
    fn is_replaced_by_a_fresh_one_when_it_dies() {
        let lab = Lab::new();
        let keeper = lab.mount("");
        for crash in 1..=3 {
            let worker = keeper.worker();
            kill_hard(worker);
            // Later ones within ten seconds are counted in the log, not written.
            if crash == 1 {
                keeper.wait_log("worker_died");
            }
            keeper.wait_ready();
            assert_ne!(keeper.worker(), worker);
            assert_eq!(lab.mounts().len(), 1);
            assert!(lab.mountpoint().metadata().unwrap().is_dir());
        }
        keeper.end(Signal::SIGTERM);
        lab.assert_clean();
    }

    #[test]
    fn is_replaced_even_while_redis_is_away() {
        let lab = Lab::new();
        let redis = OwnRedis::start(&lab, &[]);
        let config = format!("[redis]\nurl = {:?}", OwnRedis::url(&lab));
        let keeper = lab.mount(&config);
        drop(redis);
        kill_hard(keeper.worker());
        keeper.wait_ready();
        keeper.end(Signal::SIGTERM);
        lab.assert_clean();
    }

    #[test]
    fn dies_with_its_keeper_and_the_next_one_replaces_the_dead_mount() {
        let lab = Lab::new();
        let keeper = lab.mount("");
        let worker = keeper.worker();
        keeper.kill();
        wait_gone(worker);
        let error = nix::sys::statfs::statfs(&lab.mountpoint()).unwrap_err();
        assert_eq!(error, nix::errno::Errno::ENOTCONN);
        let keeper = Keeper::start(lab.mount_command(""));
        keeper.wait_log("replacing the mount of an earlier sessionfs");
        keeper.wait_ready();
        assert_eq!(lab.mounts().len(), 1);
        keeper.end(Signal::SIGTERM);
        lab.assert_clean();
    }

    #[test]
    fn leaves_the_end_to_its_keeper() {
        let lab = Lab::new();
        let keeper = lab.mount("");
        let worker = keeper.worker();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker), signal).unwrap();
        }
        assert_eq!(keeper.worker(), worker);
        assert!(lab.mountpoint().metadata().is_ok());
        keeper.end(Signal::SIGTERM);
        lab.assert_clean();
    }
}

mod end {
    use super::*;

    #[test]
    fn when_the_first_worker_dies() {
        let lab = Lab::new();
        let config = format!("[redis]\nurl = {:?}", OwnRedis::url(&lab));
        let keeper = Keeper::start(lab.mount_command(&config));
        keeper.wait_log("waiting for Redis at");
        kill_hard(keeper.worker());
        let (status, said) = keeper.wait();
        assert_eq!(status.code(), Some(u8::from(ExitCode::WorkerFailed).into()), "{said:#?}");
        assert!(said.last().unwrap().contains("signal 9"), "{said:#?}");
        lab.assert_clean();
    }

    #[test]
    fn not_because_nobody_reads_the_log() {
        let lab = Lab::new();
        let mut keeper = lab.mount("");
        keeper.close_log();
        kill_hard(keeper.worker());
        keeper.wait_ready();
        keeper.end(Signal::SIGTERM);
        lab.assert_clean();
    }

    #[test]
    fn by_each_signal_leaves_nothing() {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let lab = Lab::new();
            let keeper = lab.mount("");
            // The temp files, and the changes that are kept.
            assert_eq!(lab.staging().len(), 2);
            keeper.end(signal);
            lab.assert_clean();
        }
    }

    #[test]
    fn while_the_mount_is_in_use() {
        let lab = Lab::new();
        let keeper = lab.mount("");
        let held = std::fs::File::open(lab.mountpoint()).unwrap();
        let said = keeper.end(Signal::SIGTERM);
        assert!(
            said.iter().any(|line| line.contains("the mount is in use: its users get errors")),
            "{said:#?}"
        );
        lab.assert_clean();
        drop(held);
    }

    #[test]
    fn by_the_unmount_command() {
        let lab = Lab::new();
        let keeper = lab.mount("");
        let unmount = || lab.command([OsString::from("unmount"), lab.mountpoint().into()]);
        let (status, said) = Keeper::start(unmount()).wait();
        assert!(status.success(), "{said:#?}");
        let (status, said) = keeper.wait();
        assert!(status.success(), "{said:#?}");
        lab.assert_clean();
        fails(&lab, unmount(), ExitCode::NotMounted, &["findmnt"]);
    }

    #[test]
    fn the_unmount_command_clears_a_dead_mount() {
        let lab = Lab::new();
        let keeper = lab.mount("");
        let worker = keeper.worker();
        keeper.kill();
        wait_gone(worker);
        let (status, said) =
            Keeper::start(lab.command([OsString::from("unmount"), lab.mountpoint().into()])).wait();
        assert!(status.success(), "{said:#?}");
        assert_eq!(lab.mounts(), Vec::<String>::new());
    }

    #[test]
    fn by_a_plain_umount() {
        let lab = Lab::new();
        let keeper = lab.mount("");
        umount2(&lab.mountpoint(), MntFlags::empty()).unwrap();
        let (status, said) = keeper.wait();
        assert!(status.success(), "{said:#?}");
        lab.assert_clean();
    }

    #[test]
    fn by_a_lazy_umount_while_the_mount_is_in_use() {
        let lab = Lab::new();
        let keeper = lab.mount("[worker]\nanswer_within = \"1s\"\n");
        let held = std::fs::File::open(lab.mountpoint()).unwrap();
        umount2(&lab.mountpoint(), MntFlags::MNT_DETACH).unwrap();
        let (status, said) = keeper.wait();
        assert!(status.success(), "{said:#?}");
        assert!(said.iter().any(|line| line.contains("unmounted with umount(8)")), "{said:#?}");
        lab.assert_clean();
        drop(held);
    }

    #[test]
    fn the_directory_below_cannot_be_used_by_odoo() {
        let lab = Lab::new();
        std::os::unix::fs::chown(lab.mountpoint(), Some(12345), Some(12345)).unwrap();
        lab.mount("").end(Signal::SIGTERM);
        let below = lab.mountpoint().metadata().unwrap();
        assert_eq!((below.uid(), below.mode() & 0o777), (0, 0));
    }
}

#[test]
fn the_tree_belongs_to_whom_it_is_given() {
    let lab = Lab::new();
    let keeper = lab.mount("owner = \"12345\"\ngroup = \"54321\"\nmode = \"0750\"");
    let root = lab.mountpoint().metadata().unwrap();
    assert_eq!((root.uid(), root.gid(), root.mode()), (12345, 54321, 0o040_750));
    keeper.end(Signal::SIGTERM);
    lab.assert_clean();
}

/// For whoever mounts by hand.
mod by_hand {
    use super::*;

    /// What was said after a label.
    fn told(said: &[String], label: &str) -> String {
        let line = said.iter().rev().find_map(|line| line.trim_start().strip_prefix(label));
        line.unwrap_or_else(|| panic!("no '{label}' in {said:#?}")).trim().to_owned()
    }

    #[test]
    fn the_way_back_is_told_and_leads_back() {
        let lab = Lab::new();
        std::os::unix::fs::chown(lab.mountpoint(), Some(65534), Some(12)).unwrap();
        std::fs::set_permissions(lab.mountpoint(), PermissionsExt::from_mode(0o750)).unwrap();
        let keeper = lab.mount("");
        let end = keeper.wait_log("  stop it:");
        keeper.end(Signal::SIGINT);
        assert!(end.contains("unmount"), "{end}");
        // It is root's by now, and yet known whose it was.
        let said = lab.mount("").end(Signal::SIGINT);
        assert_eq!(lab.mountpoint().metadata().unwrap().mode() & 0o7777, 0, "taken");
        assert!(told(&said, "sessions:").contains(lab.state().to_str().unwrap()), "{said:#?}");
        let back = told(&said, "undo:");
        assert!(Command::new("sh").args(["-c", &back]).status().unwrap().success(), "{back}");
        let found = lab.mountpoint().metadata().unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (65534, 12, 0o750));
        lab.assert_clean();
    }

    #[test]
    fn where_nobody_knows_whose_it_was_it_leads_to_the_owner_of_the_tree() {
        let lab = Lab::new();
        std::fs::set_permissions(lab.mountpoint(), PermissionsExt::from_mode(0o000)).unwrap();
        let said = lab.mount("owner = \"games\"").end(Signal::SIGTERM);
        let back = told(&said, "undo:");
        assert!(Command::new("sh").args(["-c", &back]).status().unwrap().success(), "{back}");
        let found = lab.mountpoint().metadata().unwrap();
        let games = nix::unistd::User::from_name("games").unwrap().unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (games.uid.as_raw(), 0o700));
    }

    #[test]
    fn a_service_manager_and_a_start_that_fails_are_told_nothing_of_it() {
        let lab = Lab::new();
        let mut command = lab.mount_command("");
        // Nobody listens there, which is no reason not to serve.
        command.env("NOTIFY_SOCKET", lab.path("notify"));
        let keeper = Keeper::start(command);
        keeper.wait_ready();
        let said = keeper.end(Signal::SIGTERM);
        assert!(!said.iter().any(|line| line.contains("undo:")), "{said:#?}");
        std::fs::write(lab.mountpoint().join("notes.txt"), "").unwrap();
        let (status, said) = Keeper::start(lab.mount_command("")).wait();
        assert_eq!(status.code(), Some(25));
        assert!(!said.iter().any(|line| line.contains("undo:")), "{said:#?}");
    }
}

/// `sessionfs demo`.
mod demo {
    use super::*;

    fn demo(lab: &Lab, dir: Option<&std::path::Path>) -> Command {
        let mut command = lab.command(["demo"]);
        command.args(dir).env("TMPDIR", lab.path(""));
        command
    }

    /// Only what was there before is in the lab.
    fn left(lab: &Lab) -> Vec<String> {
        let entries = std::fs::read_dir(lab.path("")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn it_shows_the_whole_life_of_a_session_and_leaves_nothing() {
        let lab = Lab::new();
        for dir in [None, Some(lab.path("made by it")), Some(lab.mountpoint())] {
            let output = demo(&lab, dir.as_deref()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{output:?}");
            for shown in ["rename", "as saved", "key    sessionfs:s:{", "TTL", "ENOENT", "cart"] {
                assert!(said.contains(shown), "no '{shown}' in {said}");
            }
            assert_eq!(left(&lab), ["mnt"]);
            lab.assert_clean();
        }
        assert_eq!(lab.mountpoint().metadata().unwrap().mode() & 0o7777, 0o755);
    }

    #[test]
    fn what_lies_in_a_directory_is_left_alone() {
        let lab = Lab::new();
        std::fs::create_dir(lab.mountpoint().join("ab")).unwrap();
        fails(&lab, demo(&lab, Some(&lab.mountpoint())), ExitCode::NotEmpty, &["not empty"]);
        std::fs::write(lab.path("file"), "").unwrap();
        fails(&lab, demo(&lab, Some(&lab.path("file"))), ExitCode::NotADirectory, &["file"]);
        assert_eq!(left(&lab), ["file", "mnt"]);
    }

    #[test]
    fn an_interrupt_takes_everything_away() {
        let lab = Lab::new();
        let keeper = Keeper::start(demo(&lab, Some(&lab.mountpoint())));
        keeper.wait_out("No clicks");
        keeper.signal(Signal::SIGINT);
        let (status, said) = keeper.wait();
        assert_eq!(status.code(), Some(u8::from(ExitCode::Interrupted).into()), "{said:#?}");
        assert_eq!(left(&lab), ["mnt"]);
        lab.assert_clean();
    }
}
