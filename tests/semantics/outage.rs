//! What callers see while Redis is away. Bounds are generous: the machine may be busy.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::support::mount::{Mount, anonymous, authenticated, errno, in_thread, sid, temp_name};
use crate::support::redis::Redis;
use crate::{HEX, node};

const OUTAGE: &str = "[outage]\nwait_step = \"200ms\"\nwait_total = \"2s\"";
const WAIT_TOTAL: Duration = Duration::from_secs(2);
/// An outage whose budget no test spends: who waits for it waits longer than [`QUICK`].
const LONG_OUTAGE: &str = "[outage]\nwait_step = \"200ms\"\nwait_total = \"5min\"";
/// What may not wait takes less, even here.
const QUICK: Duration = Duration::from_secs(15);

/// `open` without the retries of the standard library.
fn open(path: &Path) -> nix::Result<OwnedFd> {
    nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
}

/// Opens until the answer is another than EINTR; returns it with the number of EINTR before.
fn open_as_python(path: &Path) -> (nix::Result<OwnedFd>, usize) {
    for waited in 0..1000 {
        match open(path) {
            Err(Errno::EINTR) => {}
            answer => return (answer, waited),
        }
    }
    panic!("never answered");
}

/// For a [`LONG_OUTAGE`].
fn quickly<T>(work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let value = work();
    assert!(begun.elapsed() < QUICK, "it took {:?}", begun.elapsed());
    value
}

/// A node with a session, whose Redis stands still.
fn paused(configuration: &str) -> (Redis, Mount) {
    let (mut redis, mount) = node(configuration);
    in_thread(|| mount.save(HEX, &authenticated("old")).unwrap());
    redis.pause();
    (redis, mount)
}

/// The same, when this node has noticed: until then a first write is taken, since the link was
/// heard of a moment ago.
fn paused_and_noticed(configuration: &str) -> (Redis, Mount) {
    let (redis, mount) = paused(configuration);
    assert_eq!(in_thread(|| open(&mount.sharded(HEX)).unwrap_err()), Errno::EINTR);
    (redis, mount)
}

/// Waits, as a thread of its own, until the link is well again.
fn wait_until_served(mount: &Mount) {
    in_thread(|| until(mount, || mount.read(HEX).is_ok()));
}

/// Waits until something holds, as it must when the link is well.
fn until(mount: &Mount, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time:\n{}", mount.log());
        std::thread::yield_now();
    }
}

#[test]
fn an_open_waits_in_steps_of_eintr_and_then_fails_with_eio() {
    let (mut redis, mount) = paused(OUTAGE);
    let begun = Instant::now();
    let (answer, waited) = open_as_python(&mount.sharded(HEX));
    assert_eq!(answer.unwrap_err(), Errno::EIO);
    assert!(waited >= 2, "{waited} steps");
    let took = begun.elapsed();
    assert!(took > WAIT_TOTAL / 2 && took < WAIT_TOTAL * 3, "{took:?}");
    redis.resume();
}

#[test]
fn an_open_that_lacks_a_right_waits_as_in_any_outage() {
    let (redis, mount) = node(OUTAGE);
    in_thread(|| mount.save(HEX, &authenticated("old")).unwrap());
    let _: String = redis.run("ACL SETUSER default -evalsha");
    let (answer, waited) = in_thread(|| open_as_python(&mount.sharded(HEX)));
    assert_eq!(answer.unwrap_err(), Errno::EIO);
    assert!(waited >= 2, "{waited} steps");
    mount.wait_for_log("NOPERM");
    let _: String = redis.run("ACL SETUSER default +evalsha");
    wait_until_served(&mount);
    assert_eq!(in_thread(|| mount.read(HEX)).unwrap(), authenticated("old"));
}

#[test]
fn an_outage_has_one_budget_whoever_waits() {
    let (mut redis, mount) = paused(OUTAGE);
    assert_eq!(open_as_python(&mount.sharded(HEX)).0.unwrap_err(), Errno::EIO);
    let (answer, waited) = in_thread(|| open_as_python(&mount.sharded(HEX)));
    assert_eq!((answer.unwrap_err(), waited), (Errno::EIO, 0));
    let mut file = in_thread(|| {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(mount.path().join(temp_name()))
            .unwrap()
    });
    assert_eq!(in_thread(|| errno(file.write(b"x"))), libc::EIO);
    redis.resume();
}

#[test]
fn a_request_that_waits_succeeds_when_redis_is_back() {
    let (mut redis, mount) = paused(LONG_OUTAGE);
    let script = "
import sys
print('reading', flush=True)
with open(sys.argv[1], 'rb') as f: print(len(f.read()))";
    let mut reader = Command::new("python3")
        .args(["-c", script])
        .arg(mount.sharded(HEX))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "reading");
    // One step here is one step there.
    assert_eq!(open(&mount.sharded(HEX)).unwrap_err(), Errno::EINTR);
    redis.resume();
    assert_eq!(lines.next().unwrap().unwrap(), authenticated("old").len().to_string());
    assert!(reader.wait().unwrap().success());
}

#[test]
fn a_failed_open_makes_the_threads_next_create_fail_once() {
    let (mut redis, mount) = paused(OUTAGE);
    in_thread(|| {
        assert_eq!(open_as_python(&mount.sharded(HEX)).0.unwrap_err(), Errno::EIO);
        redis.resume();
        wait_until_served(&mount);
        // Others are not concerned.
        in_thread(|| mount.save(&sid("cd", 1), &anonymous("")).unwrap());
        assert_eq!(errno(mount.stage(&anonymous(""))), libc::EIO);
        let temp = mount.stage(&anonymous("")).unwrap();
        fs::remove_file(temp).unwrap();
    });
}

#[test]
fn a_successful_open_settles_what_a_failed_one_owes() {
    let (mut redis, mount) = paused(OUTAGE);
    in_thread(|| {
        assert_eq!(open_as_python(&mount.sharded(HEX)).0.unwrap_err(), Errno::EIO);
        redis.resume();
        wait_until_served(&mount);
        mount.read(HEX).unwrap();
        mount.save(HEX, &authenticated("new")).unwrap();
    });
    assert_eq!(mount.read(HEX).unwrap(), authenticated("new"));
}

#[test]
fn after_a_failed_open_anonymous_content_does_not_replace_a_session() {
    let (mut redis, mount) = paused(OUTAGE);
    in_thread(|| {
        assert_eq!(open_as_python(&mount.sharded(HEX)).0.unwrap_err(), Errno::EIO);
        redis.resume();
        wait_until_served(&mount);
        assert_eq!(errno(mount.save(HEX, &anonymous("empty"))), libc::EIO);
        assert_eq!(errno(mount.save(HEX, &anonymous("empty"))), libc::EACCES);
    });
    assert_eq!(mount.read(HEX).unwrap(), authenticated("old"));
}

#[test]
fn a_first_write_waits_in_steps_of_eintr_and_then_fails_with_eio() {
    let (mut redis, mount) = paused_and_noticed(OUTAGE);
    let temp = mount.path().join(temp_name());
    let file = OpenOptions::new().write(true).create_new(true).open(&temp).unwrap();
    let begun = Instant::now();
    let mut waited = 0;
    let failed = loop {
        match nix::unistd::write(&file, b"x") {
            Err(Errno::EINTR) => waited += 1,
            answer => break answer,
        }
    };
    assert_eq!(failed, Err(Errno::EIO));
    assert!(waited >= 2 && begun.elapsed() < WAIT_TOTAL * 3, "{waited}, {:?}", begun.elapsed());
    redis.resume();
    wait_until_served(&mount);
    assert_eq!(mount.read(HEX).unwrap(), authenticated("old"));
}

#[test]
fn a_save_that_waits_succeeds_when_redis_is_back() {
    let (mut redis, mount) = paused_and_noticed(LONG_OUTAGE);
    let (begun, begins) = channel();
    std::thread::scope(|scope| {
        let (mount, begun) = (&mount, begun);
        let saver = scope.spawn(move || {
            let temp = mount.path().join(temp_name());
            let file = OpenOptions::new().write(true).create_new(true).open(&temp).unwrap();
            // The session was loaded before the outage: this is its save's first write.
            let first = nix::unistd::write(&file, b"{}");
            begun.send(first).unwrap();
            (&file).write_all(b"{}").unwrap();
            fs::rename(&temp, mount.sharded(&sid("cd", 1))).unwrap();
        });
        assert_eq!(begins.recv().unwrap(), Err(Errno::EINTR));
        redis.resume();
        saver.join().unwrap();
    });
    assert_eq!(mount.read(&sid("cd", 1)).unwrap(), b"{}");
}

#[test]
fn a_rename_without_redis_succeeds_soon_and_is_sent_later() {
    let (mut redis, mount) = paused(LONG_OUTAGE);
    redis.resume();
    in_thread(|| {
        mount.read(HEX).unwrap();
        let temp = mount.stage(&authenticated("new")).unwrap();
        redis.pause();
        quickly(|| fs::rename(&temp, mount.sharded(HEX))).unwrap();
        assert_eq!(quickly(|| mount.read(HEX)).unwrap(), authenticated("new"));
    });
    redis.resume();
    mount.wait_for_log("change_sent");
    let other = Mount::start(&redis, "");
    assert_eq!(other.read(HEX).unwrap(), authenticated("new"));
}

#[test]
fn an_unlink_without_redis_succeeds_soon_and_is_sent_later() {
    let (mut redis, mount) = paused_and_noticed(LONG_OUTAGE);
    in_thread(|| quickly(|| mount.unlink(HEX)).unwrap());
    assert_eq!(in_thread(|| quickly(|| errno(mount.read(HEX)))), libc::ENOENT);
    redis.resume();
    mount.wait_for_log("change_sent");
    let other = Mount::start(&redis, "");
    assert_eq!(errno(other.read(HEX)), libc::ENOENT);
}

#[test]
fn a_stat_in_an_outage_says_that_it_is_there() {
    let (mut redis, mount) = paused(LONG_OUTAGE);
    in_thread(|| quickly(|| assert!(fs::metadata(mount.sharded(HEX)).unwrap().is_file())));
    // Nobody can say that it is not.
    in_thread(|| quickly(|| assert!(fs::metadata(mount.sharded(&sid("cd", 1))).is_ok())));
    redis.resume();
    wait_until_served(&mount);
    until(&mount, || {
        let absent = fs::metadata(mount.sharded(&sid("cd", 1)));
        absent.is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT))
    });
}

#[test]
fn lookup_and_create_do_not_wait() {
    let (mut redis, mount) = paused(LONG_OUTAGE);
    // With a dead connection as with a silent one.
    for round in 0..2 {
        std::thread::scope(|scope| {
            // Somebody waits in an open meanwhile.
            scope.spawn(|| open(&mount.sharded(HEX)));
            for seed in 0..5 {
                let mount = &mount;
                scope.spawn(move || {
                    quickly(|| fs::metadata(mount.sharded(&sid("cd", seed))).unwrap());
                });
                scope.spawn(move || {
                    quickly(|| {
                        let temp = mount.path().join(temp_name());
                        OpenOptions::new().write(true).create_new(true).open(temp).unwrap();
                    });
                });
            }
        });
        if round == 0 {
            redis.resume();
            redis.kill();
        }
    }
}

#[test]
fn a_listing_in_an_outage_is_eio_and_never_empty() {
    let (mut redis, mount) = paused(OUTAGE);
    assert_eq!(quickly(|| errno(fs::read_dir(mount.path().join("ab")))), libc::EIO);
    assert_eq!(quickly(|| errno(fs::read_dir(mount.path()))), libc::EIO);
    redis.resume();
}

#[test]
fn a_listing_waits_until_redis_is_back() {
    let (mut redis, mount) = paused_and_noticed(LONG_OUTAGE);
    std::thread::scope(|scope| {
        let listing = scope.spawn(|| mount.list(&mount.path()));
        in_thread(|| assert_eq!(open(&mount.sharded(HEX)).unwrap_err(), Errno::EINTR));
        redis.resume();
        assert!(listing.join().unwrap().contains(&HEX[..2].to_owned()));
    });
}

/// A process that says when it is about to wait, and is killed then.
fn dies_waiting(mount: &Mount, script: &str, waits: &str) {
    let waiting = |log: &str| log.matches(waits).count();
    let before = waiting(&mount.log());
    let mut process = Command::new("python3")
        .args(["-c", script])
        .arg(mount.sharded(HEX))
        .arg(mount.path().join(temp_name()))
        .spawn()
        .unwrap();
    until(mount, || waiting(&mount.log()) > before);
    let killed = Instant::now();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(killed.elapsed() < QUICK, "{:?}", killed.elapsed());
}

#[test]
fn a_process_that_is_killed_while_it_waits_is_gone_with_its_step() {
    let (mut redis, mount) = paused_and_noticed(LONG_OUTAGE);
    dies_waiting(&mount, "import sys; open(sys.argv[1], 'rb')", "operation=\"open\" errno=EINTR");
    let write = "
import os, sys
os.write(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL | os.O_WRONLY), b'x')";
    dies_waiting(&mount, write, "operation=\"write\" errno=EINTR");
    redis.resume();
    wait_until_served(&mount);
}

#[test]
fn the_evented_process_waits_for_less_than_people() {
    let (mut redis, mount) = paused_and_noticed(
        "[outage]\nwait_step = \"200ms\"\nwait_total = \"5min\"\nwait_background = \"500ms\"",
    );
    let script = "
import sys
try:
    open(sys.argv[2], 'rb')
except OSError as error:
    print(error.errno)";
    let evented = |script: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", script, "gevent"]).arg(mount.sharded(HEX));
        quickly(|| String::from_utf8(command.output().unwrap().stdout).unwrap())
    };
    for _ in 0..2 {
        assert_eq!(evented(script).trim(), libc::EIO.to_string());
    }
    // A person goes on waiting.
    in_thread(|| assert_eq!(open(&mount.sharded(HEX)).unwrap_err(), Errno::EINTR));
    redis.resume();
    wait_until_served(&mount);
}

#[test]
fn a_save_waits_at_its_first_write_for_a_redis_that_takes_none() {
    let (redis, mount) = node(LONG_OUTAGE);
    in_thread(|| mount.save(HEX, &authenticated("old")).unwrap());
    let _: String = redis.run("CONFIG SET maxmemory 1");
    mount.wait_for_log("state=\"read_only\"");
    std::thread::scope(|scope| {
        let saver = scope.spawn(|| mount.save_in_request(HEX, &authenticated("new")));
        mount.wait_for_log("operation=\"write\" errno=EINTR");
        // Whoever reads does not wait.
        in_thread(|| {
            quickly(|| assert_eq!(mount.read(HEX).unwrap(), authenticated("old")));
            quickly(|| assert!(mount.list(&mount.path()).contains(&HEX[..2].to_owned())));
        });
        let _: String = redis.run("CONFIG SET maxmemory 0");
        saver.join().unwrap().unwrap();
    });
    in_thread(|| assert_eq!(mount.read(HEX).unwrap(), authenticated("new")));
}

#[test]
fn an_open_handle_reads_on_in_an_outage() {
    let (mut redis, mount) = node(LONG_OUTAGE);
    mount.save(HEX, &authenticated("old")).unwrap();
    let mut open = fs::File::open(mount.sharded(HEX)).unwrap();
    redis.kill();
    let mut content = Vec::new();
    quickly(|| std::io::Read::read_to_end(&mut open, &mut content).unwrap());
    assert_eq!(content, authenticated("old"));
    assert_eq!(quickly(|| open.metadata().unwrap().len()), content.len() as u64);
}

#[test]
fn changes_of_attributes_in_an_outage_are_eio() {
    let (mut redis, mount) = paused_and_noticed(LONG_OUTAGE);
    let path = mount.sharded(HEX);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    assert_eq!(quickly(|| errno(fs::set_permissions(&path, mode))), libc::EIO);
    redis.resume();
    wait_until_served(&mount);
    // A link that is slow for a moment tells no mode, and may take no change.
    until(&mount, || {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        let changed = fs::set_permissions(&path, mode);
        let now = fs::metadata(&path).unwrap().permissions();
        changed.is_ok() && std::os::unix::fs::PermissionsExt::mode(&now) & 0o777 == 0o640
    });
}

#[test]
fn everything_heals_when_redis_is_back() {
    let (mut redis, mount) = paused(OUTAGE);
    assert_eq!(in_thread(|| open_as_python(&mount.sharded(HEX)).0.unwrap_err()), Errno::EIO);
    redis.resume();
    wait_until_served(&mount);
    assert_eq!(mount.read(HEX).unwrap(), authenticated("old"));
    // And when it was restarted (this one forgets what it held).
    redis.kill();
    assert_eq!(in_thread(|| open_as_python(&mount.sharded(HEX)).0.unwrap_err()), Errno::EIO);
    redis.restart();
    fs::set_permissions(redis.socket(), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let id = sid("ef", 1);
    in_thread(|| {
        while mount.save(&id, &authenticated("new")).is_err() {
            assert!(Instant::now() < deadline, "{}", mount.log());
            std::thread::yield_now();
        }
    });
    in_thread(|| assert_eq!(mount.read(&id).unwrap(), authenticated("new")));
    assert!(mount.list(&mount.path()).contains(&"ef".to_owned()));
    in_thread(|| assert_eq!(errno(mount.read(HEX)), libc::ENOENT));
}

#[test]
fn redis_is_found_again_whatever_callers_have_open() {
    const LIMIT: &str = "ulimit -n 256 && exec \"$0\" \"$@\"";
    let durable = ["--appendonly", "yes", "--appendfsync", "always", "--unixsocketperm", "777"];
    let mut redis = Redis::start_with(&durable);
    let mut command = Command::new("sh");
    command.args(["-c", LIMIT, env!("CARGO_BIN_EXE_sessionfs")]);
    let patient = "[outage]\nwait_step = \"200ms\"\nwait_total = \"2min\"";
    let mount = Mount::start_in(&redis, patient, command);
    in_thread(|| mount.save(HEX, &authenticated("a")).unwrap());
    // What the connection has used is free now, for whoever comes first.
    redis.kill();
    let create = |_| fs::File::create_new(mount.path().join(temp_name()));
    let (mut open, refused): (Vec<_>, Vec<_>) = (0..300).map(create).partition(Result::is_ok);
    assert!(open.len() >= 32);
    for one in refused {
        assert_eq!(errno(one), libc::EMFILE);
    }
    redis.restart();
    in_thread(|| assert_eq!(mount.read(HEX).unwrap(), authenticated("a")));
    open.pop();
    // The kernel tells of a closed file (RELEASE) after `close` has returned.
    let save = || mount.save_in_request(HEX, &authenticated("b"));
    in_thread(|| {
        until(&mount, || match save() {
            Err(error) if error.raw_os_error() == Some(libc::EMFILE) => false,
            saved => saved.map(|()| true).unwrap(),
        });
    });
    in_thread(|| assert_eq!(mount.read(HEX).unwrap(), authenticated("b")));
}
