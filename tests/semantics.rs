//! What each operation does: one test for each line of `docs/semantics.md`.

#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there

mod support;

#[path = "semantics/births.rs"]
mod births;
#[path = "semantics/callers.rs"]
mod callers;
#[path = "semantics/files.rs"]
mod files;
#[path = "semantics/lifetimes.rs"]
mod lifetimes;
#[path = "semantics/names.rs"]
mod names;
#[path = "semantics/odoo.rs"]
mod odoo;
#[path = "semantics/outage.rs"]
mod outage;
#[path = "semantics/rights.rs"]
mod rights;
#[path = "semantics/secrets.rs"]
mod secrets;
#[path = "semantics/tools.rs"]
mod tools;

use std::collections::BTreeSet;
use std::path::Path;

use support::mount::Mount;
use support::redis::Redis;

/// 40 hex digits: Odoo 14 to 17.
const HEX: &str = "ab0123456789012345678901234567890123456f";

/// A user other than root that every Debian has, as the tree's owner.
const NOBODY: u32 = 65534;

/// An empty Redis and one node on it. (What is bound first is dropped last: the mount goes first.)
fn node(configuration: &str) -> (Redis, Mount) {
    let redis = Redis::start();
    let mount = Mount::start(&redis, configuration);
    (redis, mount)
}

/// Every open asks Redis. With a near cache a node is behind others by a moment (`tests/near_cache.rs`).
const STRICT: &str = "[near_cache]\nfreshness = \"strict\"\n";

/// Two nodes on one Redis.
fn two_nodes() -> (Redis, Mount, Mount) {
    let (redis, first) = node(STRICT);
    let second = Mount::start(&redis, STRICT);
    (redis, first, second)
}

#[test]
fn every_line_has_its_test_and_every_test_its_line() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_to_string(root.join("docs/semantics.md")).unwrap();
    // The last cell of a table's row names the tests that hold it.
    let mut named = BTreeSet::new();
    for row in docs.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| --")) {
        let last = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let tests: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty() || last == "test", "no test is named: {row}");
        named.extend(tests.into_iter().map(ToOwned::to_owned));
    }
    let mut written = BTreeSet::new();
    for file in std::fs::read_dir(root.join("tests/semantics")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let after_attribute = text.split("#[test]\n").skip(1);
        written.extend(after_attribute.map(|text| {
            let name = text.trim_start().strip_prefix("fn ").expect("a function");
            name.split('(').next().unwrap().to_owned()
        }));
    }
    assert_eq!(named, written, "documented (left) and written (right)");
}
