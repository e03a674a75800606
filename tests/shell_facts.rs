//! What an installer asks the program: answers that a shell can take for themselves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sessionfs");

/// What bash prints for `said` after it has evaluated the facts.
#[track_caller]
fn evaluated(command: &[&str], said: &str) -> String {
    let script = format!("set -eu; facts=$(\"$@\"); eval \"$facts\"; printf '%s' {said}");
    let output = Command::new("bash")
        .args(["-c", &script, "bash", PROGRAM])
        .args(command)
        .output()
        .expect("bash");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn written(dir: &tempfile::TempDir, text: &str) -> String {
    let path = dir.path().join("shop.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_configuration_is_told_whatever_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let owned = dir.path().join("owned");
    let hostile = format!("/srv/'; touch {}; '$(id)\\\\\\\"`id`", owned.display());
    let file = written(
        &dir,
        &format!(
            "'mountpoint' = \"{hostile}\"\nredis.url = 'redis://:secret@h:1/0'\n\
             redis.prefix = \"two\"\nlifetime = {{ idle = '8h' }}\n"
        ),
    );
    let show = ["config", "show", "--shell", "--config", &file];
    let meant = hostile.replace("\\\\", "\\").replace("\\\"", "\"");
    assert_eq!(evaluated(&show, "\"$config_mountpoint\""), meant);
    assert!(!owned.exists());
    assert_eq!(evaluated(&show, "\"$config_redis_url\""), "redis://:secret@h:1/0");
    assert_eq!(evaluated(&show, "\"$config_redis_prefix $config_lifetime_idle\""), "two 8h");
    assert_eq!(
        evaluated(&show, "\"${default_lifetime_idle-none} $default_lifetime_grace\""),
        "none 10min"
    );
    // People and their terminals see no password.
    let output =
        Command::new(PROGRAM).args(["config", "show", "--config", &file]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("redis://h:1/0") && !text.contains("secret"), "{text}");
}

#[test]
fn a_configuration_that_no_mount_would_take_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (text, code, word) in [
        ("ownr = 'x'", 11, "did you mean 'owner'"),
        ("lifetime.idle = 'soon'", 12, "lifetime.idle"),
    ] {
        let file = written(&dir, text);
        let arguments = ["config", "show", "--shell", "--config", &file];
        let output = Command::new(PROGRAM).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains(word));
    }
}

#[test]
fn the_rights_in_redis_are_those_of_the_documentation_for_any_prefix() {
    let documented = std::fs::read_to_string("docs/redis.md").unwrap();
    let line = documented.lines().find(|line| line.contains("ACL SETUSER")).unwrap();
    let rights = line.split_once(">PASSWORD ").unwrap().1;
    let told = |arguments: &[&str]| {
        let output = Command::new(PROGRAM).arg("redis-acl").args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    assert_eq!(told(&["--prefix", "sessionfs"]), (Some(0), rights.to_owned()));
    let two = rights.replace("~sessionfs:*", "~shop-2:*");
    assert_eq!(told(&["--prefix", "shop-2"]), (Some(0), two.clone()));
    let more = format!("{two} +ping +info +config|get");
    assert_eq!(told(&["--prefix", "shop-2", "--with-check"]), (Some(0), more));
    // It would widen what the user may do.
    assert_eq!(told(&["--prefix", "*"]).0, Some(12));
    let dir = tempfile::tempdir().unwrap();
    let file = written(&dir, "redis.prefix = 'shop-2'\n");
    assert_eq!(told(&["--config", &file]), (Some(0), two.clone()));
    // The servers of a Cluster are asked more, and sentinels something else.
    let cluster = format!("{two} +cluster|slots +asking");
    let url = "redis-cluster://a,b";
    assert_eq!(told(&["--config", &file, "--redis", url]), (Some(0), cluster.clone()));
    let file = written(&dir, &format!("redis.prefix = 'shop-2'\nredis.url = '{url}'\n"));
    assert_eq!(told(&["--config", &file]), (Some(0), cluster));
    assert_eq!(told(&["--redis", "redis-cluster://a/1"]).0, Some(13));
    let line = documented
        .lines()
        .find_map(|line| line.trim().strip_prefix("user sessionfs on >PASSWORD "));
    assert_eq!(told(&["--sentinel"]), (Some(0), line.unwrap().to_owned()));
}

/// Whether any Odoo runs here or not, a shell can take the answer.
#[test]
fn what_is_discovered_is_counted() {
    let script = "facts=$(\"$1\" discover --shell); eval \"$facts\"
        for ((n = 0; n < discovered; n++)); do
            for word in path owner group source exists mounted units; do
                variable=discovered_${n}_$word; : \"${!variable?}\"
            done
        done; : \"${discovered_units?}\"; printf %s \"$discovered\"";
    let output = Command::new("bash").args(["-uc", script, "bash", PROGRAM]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8(output.stdout).unwrap().parse::<u32>().is_ok());
    assert!(Path::new(PROGRAM).exists());
}
