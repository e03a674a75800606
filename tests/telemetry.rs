//! What a node tells of itself: counters that move with what is done, status, the cluster's list.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there
#![allow(clippy::float_cmp, reason = "the text has numbers as floats; what is counted is whole")]

mod support;

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};

use serde_json::Value;
use support::http::{control, exchange, get, metric, until};
use support::mount::{Mount, anonymous, authenticated, sid};
use support::redis::Redis;

/// The value of one line of the metrics.
fn value(mount: &Mount, line: &str) -> f64 {
    metric(mount, line).unwrap_or_else(|| panic!("{line} is not in {}", get(mount, "/metrics")))
}

fn status(mount: &Mount) -> Value {
    serde_json::from_str(&get(mount, "/status")).unwrap()
}

fn command(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sessionfs")).args(arguments).output().unwrap()
}

fn nodes(mount: &Mount) -> Vec<String> {
    let status = status(mount);
    let cluster = status["cluster"].as_array().cloned().unwrap_or_default();
    cluster.iter().map(|node| node["mountpoint"].as_str().unwrap().to_owned()).collect()
}

fn name(mount: &Mount) -> String {
    mount.path().to_str().unwrap().to_owned()
}

#[test]
fn counters_move_with_what_is_done() {
    let redis = Redis::start();
    let node = Mount::start(&redis, "[lifetime]\nanonymous_unopened = \"1s\"\n");
    let one = sid("ab", 1);
    let request = |operation: &str, outcome: &str| {
        let labels = format!("{{operation=\"{operation}\",outcome=\"{outcome}\"}}");
        value(&node, &format!("sessionfs_requests_total{labels}"))
    };
    let names = [
        ("rename", "ok"),
        ("open", "ok"),
        ("unlink", "ok"),
        ("lookup", "absent"),
        ("rename", "refused"),
    ];
    let before = names.map(|(operation, outcome)| request(operation, outcome));

    node.save(&one, &authenticated("x")).unwrap();
    node.read(&one).unwrap();
    node.unlink(&one).unwrap();
    assert!(node.read(&one).is_err());
    // Somebody who never opened it brings back a session that has ended.
    support::mount::in_thread(|| node.save(&one, &authenticated("y")).unwrap_err());

    let moved: Vec<f64> = names
        .iter()
        .zip(before)
        .map(|((operation, outcome), before)| request(operation, outcome) - before)
        .collect();
    assert!(moved.iter().all(|more| *more >= 1.0), "{names:?}: {moved:?}");
    assert_eq!(moved[0], 1.0);
    assert_eq!(moved[4], 1.0);
    assert_eq!(value(&node, "sessionfs_saves_refused_total{reason=\"ended\"}"), 1.0);
    let saved = "sessionfs_request_duration_seconds_count{operation=\"rename\"}";
    assert_eq!(value(&node, saved), 2.0);
    assert!(value(&node, "sessionfs_redis_round_trips_total") > 3.0);
    assert_eq!(value(&node, "sessionfs_redis_link_state{state=\"up\"}"), 1.0);
    until("activity is written", || value(&node, "sessionfs_activity_writes_total") >= 1.0);

    // A visitor's session that nobody opens ends after a second.
    let visitor = sid("cd", 2);
    node.save(&visitor, &anonymous("x")).unwrap();
    let expired = "sessionfs_sessions_expired_total{limit=\"unopened\"}";
    assert_eq!(value(&node, expired), 0.0);
    until("it expires", || {
        // Looked at by another than its saver, whose own look-ups are answered without asking.
        support::mount::in_thread(|| std::fs::metadata(node.sharded(&visitor))).is_err()
    });
    assert_eq!(value(&node, expired), 1.0);
    assert_eq!(status(&node)["server"]["traffic"]["expired_last_minute"], 1);

    let temp = node.stage(b"12345").unwrap();
    assert_eq!(value(&node, "sessionfs_staging_bytes"), 4096.0);
    std::fs::remove_file(temp).unwrap();
    assert_eq!(value(&node, "sessionfs_staging_bytes"), 0.0);
}

#[test]
fn metrics_are_had_on_a_port_of_this_host_and_on_a_socket() {
    let redis = Redis::start();
    let port = Mount::start(&redis, "[metrics]\nlisten = \"127.0.0.1:0\"\n");
    let log = port.log();
    let address =
        log.split("serving metrics address=\"").nth(1).unwrap().split('"').next().unwrap();
    let at_port = |method, path| exchange(TcpStream::connect(address).unwrap(), method, path);
    let (head, body) = at_port("GET", "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(body.contains("sessionfs_build_info{version="), "{body}");
    assert!(at_port("GET", "/status").0.starts_with("HTTP/1.1 404 "));
    assert!(at_port("POST", "/metrics").0.starts_with("HTTP/1.1 405 "));

    let path = redis.directory().join("metrics.sock");
    let socket =
        Mount::start(&redis, &format!("[metrics]\nlisten = \"unix:{}\"\n", path.display()));
    let at_socket = |path_asked| exchange(UnixStream::connect(&path).unwrap(), "GET", path_asked);
    assert!(at_socket("/metrics").1.contains("sessionfs_build_info"));
    assert!(at_socket("/status").0.starts_with("HTTP/1.1 404 "));
    // Whoever holds a connection and says nothing keeps nobody else from an answer.
    let silent: Vec<_> = (0..5).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert!(at_socket("/metrics").0.starts_with("HTTP/1.1 200 "));
    drop(silent);

    let root_only = std::fs::metadata(control(&socket)).unwrap().permissions().mode() & 0o777;
    assert_eq!(root_only, 0o600);
    let left = control(&socket);
    socket.stop();
    assert!(!left.exists() && !path.exists());
}

#[test]
fn the_sockets_outlive_a_worker_and_its_end_is_counted() {
    let redis = Redis::start();
    let node = Mount::start(&redis, "");
    let id = status(&node)["server"]["id"].clone();
    let worker = nix::unistd::Pid::from_raw(i32::try_from(node.worker()).unwrap());
    nix::sys::signal::kill(worker, nix::sys::signal::Signal::SIGKILL).unwrap();
    // The question waits in the socket for the next worker.
    assert_eq!(value(&node, "sessionfs_worker_restarts_total"), 1.0);
    let status = status(&node);
    assert_eq!(status["server"]["id"], id);
    let recent = status["recent"].as_array().unwrap();
    let told = recent.iter().any(|one| one["text"].as_str().unwrap().contains("worker_died"));
    assert!(told, "{recent:?}");
}

#[test]
fn nodes_see_each_other_and_those_that_end_or_die_are_gone() {
    let redis = Redis::start();
    let one = Mount::start(&redis, "");
    let two = Mount::start(&redis, "");
    let mut dying = Mount::start(&redis, "");
    let both =
        |mount: &Mount| nodes(mount).contains(&name(&one)) && nodes(mount).contains(&name(&two));
    until("they see each other", || both(&one) && both(&two) && nodes(&one).len() == 3);

    let ended = name(&two);
    two.stop();
    assert!(!nodes(&one).contains(&ended), "one that ended in order is gone at once");

    let killed = name(&dying);
    dying.kill();
    assert!(redis.run::<i64>("ZCARD sessionfs:servers") >= 1);
    // Said to be there, with the time since it was seen, until its registration ends by itself.
    let seen = |mount: &Mount, name: &str| {
        let status = status(mount);
        let cluster = status["cluster"].as_array().unwrap().clone();
        let of = cluster.iter().find(|server| server["mountpoint"] == name).cloned();
        of.map(|server| server["seen_seconds_ago"].as_u64())
    };
    until("it is said how long ago it was seen", || {
        seen(&one, &killed).flatten().is_some_and(|seconds| seconds >= 1)
    });
    assert_eq!(seen(&one, &name(&one)), Some(None), "who tells is seen now");
    let life_max_ms = 90_000;
    let registered: Vec<String> = redis.run("KEYS sessionfs:server:*");
    assert!(registered.len() >= 2, "{registered:?}");
    for key in &registered {
        assert!(redis.run::<i64>(&format!("PTTL {key}")) <= life_max_ms);
    }
    // What Redis does when that time is over.
    for key in registered {
        if redis.run::<String>(&format!("GET {key}")).contains(&killed) {
            let _: i64 = redis.run(&format!("PEXPIRE {key} 1"));
        }
    }
    until("one that died is gone when its time is over", || !nodes(&one).contains(&killed));
    // Left by the killed keeper, for the next one at this mountpoint.
    std::fs::remove_file(control(&dying)).unwrap();
    for key in redis.run::<Vec<String>>("KEYS sessionfs:server*") {
        assert!(redis.run::<i64>(&format!("PTTL {key}")) > 0, "{key} lives for ever");
    }
}

#[test]
fn the_command_tells_of_a_mount_and_says_by_its_exit_code_whether_it_is_served() {
    let mut redis = Redis::start();
    let node = Mount::start(&redis, "");
    let one = sid("ab", 7);
    node.save(&one, &authenticated("x")).unwrap();
    until("it is registered", || !nodes(&node).is_empty());
    let path = name(&node);

    let output = command(&["status", &path]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for part in [&format!("{path}  serving"), "sessions  1 in Redis", "  1 server", "redis  "] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains('\x1b'), "colours are for terminals");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");

    let output = command(&["status", &path, "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mount = &found["mounts"][0];
    assert_eq!(mount["serves"], true);
    assert_eq!(mount["status"]["sessions"], 1);
    assert_eq!(mount["status"]["worker"]["pid"], node.worker());
    assert_eq!(found["clusters"][0]["servers"][0]["mountpoint"], path.as_str());

    // The cluster of a Redis that is named.
    let output = command(&["status", &path, "--json", "--redis", &redis.url()]);
    let named: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(named["clusters"][0]["servers"][0]["mountpoint"], path.as_str());

    // Neither the cookie nor a name of anybody.
    for told in [get(&node, "/status"), get(&node, "/metrics"), text, found.to_string()] {
        assert!(!told.contains(&one) && !told.contains("admin"), "{told}");
    }
    let registered = String::from_utf8_lossy(&redis.dump()).into_owned();
    assert!(!registered.contains(&one));

    // Redis is down: that is said, with the reason.
    redis.kill();
    until("it is noticed", || command(&["status", &path]).status.code() == Some(43));
    let output = command(&["status", &path]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("not served: Redis is down"), "{text}");
    assert!(value(&node, "sessionfs_redis_link_down_total") >= 1.0);
    assert!(value(&node, "sessionfs_redis_outage_seconds_total") > 0.0);
    redis.restart();
}

#[test]
fn nothing_mounted_is_an_error_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let output = command(&["status", directory.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(43));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no sessionfs is mounted there"), "{said}");
}

#[test]
fn an_address_that_other_hosts_reach_is_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("sessionfs.toml");
    std::fs::write(&config, "[metrics]\nlisten = \"0.0.0.0:9401\"\n").unwrap();
    let mountpoint = directory.path().join("mnt");
    std::fs::create_dir_all(&mountpoint).unwrap();
    let [mountpoint, config] = [&mountpoint, &config].map(|path| path.to_str().unwrap());
    let output =
        command(&["mount", mountpoint, "--config", config, "--redis", "redis://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(12));
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = "can be reached from other hosts";
    assert!(said.contains(expected) && said.contains("metrics.listen"), "{said}");
}

#[test]
fn sessions_are_served_without_metrics_where_those_cannot_be() {
    let redis = Redis::start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let missing = format!("unix:{}", redis.directory().join("missing/metrics.sock").display());
    for (listen, remedy) in
        [(port, "name another address"), (missing, "create its directory, or name another")]
    {
        let mount = Mount::start(&redis, &format!("[metrics]\nlisten = \"{listen}\"\n"));
        let log = mount.log();
        assert!(log.contains("metrics are not served: metrics.listen"), "{log}");
        assert!(log.contains(remedy), "{log}");
        assert!(get(&mount, "/metrics").contains("sessionfs_build_info"));
    }
}
