//! `/health`, and what `status`, the metrics and the append-only file say of the same.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

use std::collections::HashMap;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use support::http::{ask, ask_port, control, exchange, get, metric, until};
use support::mount::{Mount, anonymous, authenticated, sid};
use support::redis::{Redis, free_port};

/// The code, the word and the reason.
fn health(mount: &Mount, path: &str) -> (u16, String, String) {
    let (code, body) = ask(mount, path);
    let body: Value = serde_json::from_str(&body).unwrap();
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    (code, text("status"), text("reason"))
}

fn status(mount: &Mount) -> (Option<i32>, String, Value) {
    let run = |more: &[&str]| {
        let path = mount.path();
        let output = Command::new(env!("CARGO_BIN_EXE_sessionfs"))
            .args(["status", path.to_str().unwrap()])
            .args(more)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = run(&[]);
    let (_, json) = run(&["--json"]);
    (code, text, serde_json::from_str(&json).unwrap())
}

#[test]
fn a_server_that_serves_is_healthy_wherever_it_is_asked() {
    let redis = Redis::start();
    let port = free_port();
    let node = Mount::start(&redis, &format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n"));
    let (code, body) = ask(&node, "/health");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &body), (200, &json!({"status": "ok", "reason": null})));
    assert_eq!(ask_port(port, "/health").0, 200);
    assert_eq!(ask_port(port, "/health?strict").0, 200);
    assert_eq!(ask_port(port, "/healthy").0, 404);
    let at_port =
        |method| exchange(TcpStream::connect(("127.0.0.1", port)).unwrap(), method, "/health");
    let (head, body) = at_port("HEAD");
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("cache-control: no-store"),
        "{head}"
    );
    assert_eq!(body, "");
    assert!(at_port("POST").0.starts_with("HTTP/1.1 405 "));
}

#[test]
fn a_redis_that_takes_no_writes_is_told_everywhere_and_keeps_the_server_in() {
    let redis = Redis::start();
    let node = Mount::start(&redis, "[outage]\nwait_step = \"100ms\"\nwait_total = \"500ms\"");
    node.save(&sid("ab", 1), &authenticated("x")).unwrap();
    assert_eq!(status(&node).0, Some(0));
    until("it is known", || metric(&node, "sessionfs_redis_takes_writes") == Some(1.0));

    let _: String = redis.run("CONFIG SET maxmemory 1");
    until("it is noticed", || health(&node, "/health").1 == "degraded");
    let (code, _, reason) = health(&node, "/health");
    assert_eq!(code, 200);
    assert!(reason.starts_with("Redis accepts no writes: OOM command not allowed"), "{reason}");
    assert_eq!(health(&node, "/health?strict").0, 503);
    assert_eq!(metric(&node, "sessionfs_redis_takes_writes"), Some(0.0));
    assert_eq!(metric(&node, "sessionfs_redis_link_state{state=\"read_only\"}"), Some(1.0));
    let (code, text, json) = status(&node);
    assert_eq!(code, Some(43), "{text}");
    let words =
        "sessions can be read but not saved: Redis accepts no writes: OOM command not allowed";
    assert!(text.contains(words), "{text}");
    let told = &json["mounts"][0]["status"]["redis"];
    assert_eq!(told["takes_writes"], false);
    assert!(told["writes_refused"].as_str().unwrap().starts_with("OOM "), "{told}");
    assert_eq!(json["mounts"][0]["serves"], false);
    // Who is in is served.
    assert_eq!(node.read(&sid("ab", 1)).unwrap(), authenticated("x"));
    assert!(node.save(&sid("ab", 1), &authenticated("y")).is_err());

    let _: String = redis.run("CONFIG SET maxmemory 0");
    until("it heals", || health(&node, "/health") == (200, "ok".into(), String::new()));
    assert_eq!(status(&node).0, Some(0));
    let log = node.stop();
    assert_eq!(log.matches("state=\"read_only\"").count(), 1, "{log}");
    assert_eq!(log.matches("it accepts writes").count(), 1, "{log}");
}

#[test]
fn a_redis_that_took_no_writes_and_has_gone_is_not_called_one_that_is_read() {
    let mut redis = Redis::start_with(&["--unixsocketperm", "777"]);
    let node = Mount::start(&redis, "");
    let _: String = redis.run("CONFIG SET maxmemory 1");
    until("it is noticed", || status(&node).1.contains("sessions can be read but not saved"));
    redis.kill();
    until("it is gone", || status(&node).2["mounts"][0]["status"]["server"]["link"] == "down");
    let (code, text, _) = status(&node);
    assert_eq!(code, Some(43), "{text}");
    assert!(text.contains("  not served: Redis is down: "), "{text}");
}

#[test]
fn an_outage_takes_the_server_out_when_requests_wait_no_more() {
    let mut redis = Redis::start_with(&["--unixsocketperm", "777"]);
    let patient = Mount::start(&redis, "[outage]\nwait_total = \"10min\"\n");
    let short = Mount::start(&redis, "[outage]\nwait_total = \"100ms\"\nwait_step = \"100ms\"\n");
    redis.kill();
    until("it is noticed", || health(&patient, "/health").1 == "degraded");
    let (code, _, reason) = health(&patient, "/health");
    assert_eq!(code, 200);
    assert!(reason.contains("requests wait for up to 600 s"), "{reason}");
    assert_eq!(health(&patient, "/health?strict").0, 503);
    until("it goes out", || health(&short, "/health").0 == 503);
    let (_, word, reason) = health(&short, "/health");
    assert_eq!(word, "down");
    assert!(reason.starts_with("Redis has been down for "), "{reason}");
    redis.restart();
    for node in [&patient, &short] {
        until("it comes back", || health(node, "/health") == (200, "ok".into(), String::new()));
    }
}

#[test]
fn a_mount_that_answers_nobody_takes_the_server_out() {
    let redis = Redis::start();
    let node = Mount::start(&redis, "[worker]\nanswer_within = \"1s\"\n");
    assert_eq!(health(&node, "/health").0, 200);
    // With its keeper nobody asks any more whether the mount answers.
    let keeper = nix::unistd::Pid::from_raw(node.keeper().try_into().unwrap());
    kill(keeper, Signal::SIGSTOP).unwrap();
    until("it goes out", || health(&node, "/health").0 == 503);
    assert!(health(&node, "/health").2.starts_with("the mount has answered no request for "));
    kill(keeper, Signal::SIGCONT).unwrap();
    until("it comes back", || health(&node, "/health").0 == 200);

    // Whoever asks a worker that is dead is answered by the next, when its mount is in its place.
    let worker = nix::unistd::Pid::from_raw(node.worker().try_into().unwrap());
    kill(worker, Signal::SIGKILL).unwrap();
    let (head, _) = exchange(UnixStream::connect(control(&node)).unwrap(), "GET", "/health");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(node.read(&sid("ab", 1)).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound));
}

#[test]
fn sessions_by_class_and_the_fill_of_redis_are_had_where_it_says() {
    let redis = Redis::start();
    let node = Mount::start(&redis, "");
    for number in 0..3 {
        node.save(&sid("ab", number), &authenticated("x")).unwrap();
    }
    node.save(&sid("cd", 9), &anonymous("x")).unwrap();
    let _: String = redis.run("CONFIG SET maxmemory 64mb");
    assert_eq!(metric(&node, "sessionfs_sessions{class=\"authenticated\"}"), Some(3.0));
    assert_eq!(metric(&node, "sessionfs_sessions{class=\"anonymous\"}"), Some(1.0));
    assert_eq!(metric(&node, "sessionfs_redis_memory_max_bytes"), Some(64.0 * 1024.0 * 1024.0));
    assert!(metric(&node, "sessionfs_redis_memory_used_bytes").unwrap() > 100_000.0);
    let (_, text, _) = status(&node);
    assert!(
        text.contains("sessions  4 in Redis, of all servers: 3 of users, 1 of visitors"),
        "{text}"
    );
    assert!(text.contains(" of 64.00 MiB used, "), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");

    // A user who may not ask how full Redis is: no line, and one refusal in Redis's log.
    let documented = include_str!("../docs/redis.md");
    let line = documented.lines().find(|line| line.contains("ACL SETUSER")).unwrap();
    let _: String = redis.run(&line.trim().replace("PASSWORD", "geheim"));
    let password = redis.directory().join("password");
    std::fs::write(&password, "geheim\n").unwrap();
    std::fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    let few = Mount::start(
        &redis,
        &format!("[redis]\nusername = \"sessionfs\"\npassword_file = \"{}\"\n", password.display()),
    );
    for _ in 0..3 {
        let text = get(&few, "/metrics");
        assert!(text.contains("sessionfs_redis_takes_writes 1\n"), "{text}");
        assert!(!text.contains("sessionfs_redis_memory"), "{text}");
    }
    let refused: Vec<HashMap<String, redis::Value>> = redis.run("ACL LOG");
    let counts: Vec<_> = refused.iter().map(|entry| &entry["count"]).collect();
    assert_eq!(counts, [&redis::Value::Int(1)], "{refused:?}");
}

/// `cargo test --test health idle -- --nocapture` prints the rate.
#[test]
fn an_idle_server_writes_little_into_the_append_only_file() {
    const DAY_MS: u64 = 86_400_000;
    let redis = Redis::start_with(&["--appendonly", "yes"]);
    let node = Mount::start(&redis, "");
    // When it registered last, by Redis's clock.
    let registered_ms = || {
        let seen: Vec<(String, f64)> = redis.run("ZRANGE sessionfs:servers 0 -1 WITHSCORES");
        seen.first().map(|(_, at_ms)| *at_ms)
    };
    let bytes = || {
        let info: String = redis.run("INFO persistence");
        let size = info.lines().find_map(|line| line.strip_prefix("aof_current_size:"));
        size.unwrap().trim().parse::<u64>().unwrap()
    };
    let next = |last: Option<f64>| {
        until("it registers", || registered_ms().is_some() && registered_ms() != last);
        // What follows it in the same call is written with it.
        (registered_ms(), bytes())
    };
    let (first_ms, first_bytes) = next(None);
    let (second_ms, second_bytes) = next(first_ms);
    let span_ms = second_ms.unwrap() - first_ms.unwrap();
    let written = second_bytes - first_bytes;
    assert!(written > 0, "a registration is written");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds")]
    let a_day = written * DAY_MS / (span_ms as u64);
    println!("{written} bytes in {span_ms} ms: {} KB a day", a_day / 1000);
    assert!(a_day < 5_000_000, "{a_day} bytes a day");
    drop(node);
}
