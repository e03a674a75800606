//! What commands write to a terminal when somebody else's text is hostile: a server's report in
//! Redis, the words of a Redis, its version.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use support::mount::{Mount, anonymous, sid};
use support::redis::Redis;

/// Writes the clipboard, clears the screen, sets the title, turns the text, hides in it, and ends
/// in a colour that is one of our own.
const HOSTILE: &str =
    "x\x1b]52;c;ZXZpbA==\x07\x1b[2J\x1b]0;t\x1b\\\u{9b}2J\u{202e}evil\u{200b}\u{e0041}\r\x1b[32m";

/// Runs a command of sessionfs on a terminal of its own; everything that it writes there.
fn on_a_terminal(arguments: &[&str]) -> String {
    const SCRIPT: &str = "
import os, pty, sys
os.environ.update(TERM='xterm-256color')
os.environ.pop('NO_COLOR', None)
pty.spawn(sys.argv[1:], lambda fd: os.read(fd, 65536), lambda fd: b'')
";
    let output = Command::new("python3")
        .args(["-c", SCRIPT, env!("CARGO_BIN_EXE_sessionfs")])
        .args(arguments)
        .output()
        .expect("python3 runs");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Only styles of our own are left, and nothing that a terminal would obey otherwise.
#[track_caller]
fn is_harmless(arguments: &[&str], written: &str) {
    // The last clears the line of a progress bar.
    let styles = ["\r\x1b[2K", "\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m"];
    let plain =
        styles.iter().fold(written.replace("\r\n", "\n"), |text, style| text.replace(style, ""));
    let obeyed = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{200b}'..='\u{200f}' | '\u{e0000}'..='\u{e007f}')
    };
    assert!(!plain.contains(obeyed), "{arguments:?}: {written:?}");
    // The hostile colour is not taken for ours.
    assert!(!written.contains("\x1b[32m\x1b[0m") && !written.contains("evil\x1b[32m"));
}

#[test]
fn a_hostile_server_in_redis_commands_no_terminal() {
    let redis = Redis::start();
    let mount = Mount::start(&redis, "");
    mount.save(&sid("ab", 1), &anonymous("x")).unwrap();
    let traffic = serde_json::json!({
        "window_seconds": 1.0, "requests_per_second": 0.0, "failed_last_minute": 0,
        "waited_last_minute": 0, "expired_last_minute": 0, "expired_last_hour": 0,
        "opens_total": 0, "saves_total": 0, "operations": {HOSTILE: {"per_second": 0.0}},
        "redis": {"per_second": 0.0},
    });
    let report = serde_json::json!({
        "id": HOSTILE, "host": HOSTILE, "mountpoint": HOSTILE, "version": HOSTILE,
        "since_ms": 1, "link": HOSTILE, "traffic": traffic,
    });
    let mut connection = redis.connection();
    let run = |connection: &mut redis::Connection, words: &[&str]| {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]).exec(connection).unwrap();
    };
    let time: (u64, u64) = redis::cmd("TIME").query(&mut connection).unwrap();
    let now_ms = (time.0 * 1000).to_string();
    run(&mut connection, &["SET", "sessionfs:server:evil", &report.to_string()]);
    run(&mut connection, &["ZADD", "sessionfs:servers", &now_ms, "evil"]);
    run(&mut connection, &["HSET", "sessionfs:config", HOSTILE, HOSTILE, "lifetime.idle", HOSTILE]);
    let url = redis.url();
    let directory = mount.path().to_string_lossy().into_owned();
    for arguments in [
        vec!["status", "--redis", &url],
        vec!["status", "--redis", &url, "--json"],
        vec!["check", &directory, "--redis", &url],
        vec!["list", "--redis", &url],
        vec!["list", HOSTILE, "--redis", &url],
        vec!["list", "--db", HOSTILE, "--redis", &url],
        vec!["show", HOSTILE, "--redis", &url],
        vec!["kill", "--login", HOSTILE, "--redis", &url],
        vec!["config", "get", "--redis", &url],
        vec!["config", "set", "lifetime.idle", HOSTILE, "--redis", &url],
        vec!["config", "get", HOSTILE],
        vec!["unmount", HOSTILE],
        vec![HOSTILE],
    ] {
        let written = on_a_terminal(&arguments);
        is_harmless(&arguments, &written);
        if arguments[0] == "status" && arguments.len() == 3 {
            assert!(written.contains("\\u{1b}]52;"), "the server is not shown: {written:?}");
        }
    }
}

/// A server that answers every command with `answer`, in RESP.
fn answering(answer: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || serve(&mut client, &answer));
        }
    });
    port
}

fn serve(client: &mut TcpStream, answer: &str) {
    let mut asked = [0; 4096];
    while let Ok(length @ 1..) = client.read(&mut asked) {
        // An array of bulk strings for each command.
        let commands = String::from_utf8_lossy(&asked[..length]).matches('*').count().max(1);
        if client.write_all(answer.repeat(commands).as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn a_hostile_redis_commands_no_terminal() {
    // No line may end in the words of an error.
    let words = HOSTILE.replace('\r', "");
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let hello = format!(
        "%3\r\n{}{}{}{}{}:3\r\n",
        bulk("server"),
        bulk(HOSTILE),
        bulk("version"),
        bulk(HOSTILE),
        bulk("proto")
    );
    for answer in [
        format!("-ERR {words}\r\n"),
        format!("-{words}\r\n"),
        format!("-NOPERM {words}\r\n"),
        format!("-LOADING {words}\r\n"),
        format!("-OOM {words}\r\n"),
        hello,
        format!("+{words}\r\n"),
        format!("{words}\r\n"),
    ] {
        let url = format!("redis://127.0.0.1:{}", answering(answer));
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().to_string_lossy().into_owned();
        let quick = directory.clone() + "/sessionfs.toml";
        std::fs::write(
            &quick,
            format!(
                "[redis]\nurl = {url:?}\nconnect_timeout = \"100ms\"\nstart_wait = \"1ms\"\n\
                 [outage]\nwait_step = \"100ms\"\nwait_total = \"100ms\"\n"
            ),
        )
        .unwrap();
        for arguments in [
            vec!["status", "--config", &quick],
            vec!["check", &directory, "--config", &quick],
            vec!["list", "--config", &quick],
            vec!["kill", "--all", "--yes", "--config", &quick],
            vec!["config", "get", "--config", &quick],
            vec!["mount", &directory, "--config", &quick],
        ] {
            let written = on_a_terminal(&arguments);
            assert!(!written.is_empty(), "{arguments:?}");
            is_harmless(&arguments, &written);
        }
    }
}
