//! The records as the released version has written them. Another version finds them in the memory when it takes over.
//!
//! A record that is written otherwise is another format. A new field needs a default, so that what is here can still be
//! read; a variant that is renamed or dropped cannot be read, and counts as not kept.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;

const META: &str = concat!(
    r#"{"version":1,"birth":340282366920938463463374607431768211455,"mtime_ns":-5,"mode":420,"#,
    r#""size_bytes":7,"class":"Authenticated","form":"Flat","activity_ms":8,"left_ms":3}"#
);

fn meta() -> Meta {
    Meta {
        version: ChangeId(1),
        birth: ChangeId(u128::MAX),
        mtime_ns: -5,
        mode: 0o644,
        size_bytes: 7,
        class: Class::Authenticated,
        form: Form::Flat,
        activity_ms: 8,
        left_ms: 3,
    }
}

/// Whether a record is written as it was, and what was written is read as it was meant.
fn check<T: Debug + Serialize + DeserializeOwned>(record: &T, golden: &str) -> Vec<String> {
    let written = String::from_utf8(encode(record)).unwrap();
    let read = decode::<T>(golden.as_bytes()).map(|read| format!("{read:?}"));
    let is_same = written == golden && read == Some(format!("{record:?}"));
    if is_same { Vec::new() } else { vec![written] }
}

#[test]
fn records_are_written_as_they_were() {
    let text = || "a".to_owned();
    let thread: ThreadId = decode(br#"{"tid":1,"start_ticks":2}"#).unwrap();
    let id = ChangeId(9);
    let claim = ClaimRecord {
        opened: Some(id),
        held_removal: None,
        sibling: Some(text()),
        after_failed_read: true,
    };
    let removal = KnownRecord::Removal {
        listed: Some(text()),
        held: Some(id),
        opened: Some(Class::Anonymous),
    };
    let change = |known| ChangeRecord { id, first_ms: 5, made: None, known };
    let early: ChangeRecord =
        decode(br#"{"id":9,"first_ms":0,"made_ns":1000000,"known":"Nothing"}"#).unwrap();
    let inodes = [
        (InodeRecord::Staging, r#""Staging""#.to_owned()),
        (
            InodeRecord::Version { sid: text(), alias: text(), meta: meta() },
            format!(r#"{{"Version":{{"sid":"a","alias":"a","meta":{META}}}}}"#),
        ),
        (
            InodeRecord::AliasView { alias: text(), meta: meta() },
            format!(r#"{{"AliasView":{{"alias":"a","meta":{META}}}}}"#),
        ),
        (
            InodeRecord::Superseded { sid: text(), size_bytes: 1, mtime_ns: 2, mode: None },
            r#"{"Superseded":{"sid":"a","size_bytes":1,"mtime_ns":2,"mode":null}}"#.to_owned(),
        ),
        (
            InodeRecord::Provisional { sid: text(), form: Form::Sharded, found_bytes: Some(2) },
            r#"{"Provisional":{"sid":"a","form":"Sharded","found_bytes":2}}"#.to_owned(),
        ),
    ];
    let handles = [
        (HandleRecord::Version, r#""Version""#),
        (HandleRecord::Staging { inode: 1 }, r#"{"Staging":{"inode":1}}"#),
        (HandleRecord::Directory { inode: 1, first: 0 }, r#"{"Directory":{"inode":1}}"#),
        (HandleRecord::Directory { inode: 1, first: 2 }, r#"{"Directory":{"inode":1,"first":2}}"#),
    ];
    let changes = [
        (change(KnownRecord::Nothing), r#"{"id":9,"first_ms":5,"known":"Nothing"}"#),
        (early, r#"{"id":9,"first_ms":0,"made_ns":1000000,"known":"Nothing"}"#),
        (
            change(KnownRecord::Save(claim)),
            r#"{"id":9,"first_ms":5,"known":{"Save":{"opened":9,"held_removal":null,"sibling":"a","after_failed_read":true}}}"#,
        ),
        (
            change(removal),
            r#"{"id":9,"first_ms":5,"known":{"Removal":{"listed":"a","held":9,"opened":"Anonymous"}}}"#,
        ),
    ];
    let held = RemovalRecord {
        thread,
        id,
        first_ms: 5,
        made: None,
        alias: text(),
        listed: None,
        held: Some(id),
        opened: Some(Class::Authenticated),
        is_marked: true,
        is_taken_back: false,
    };
    let known = |failed_save| ThreadRecord {
        opened: Some((text(), id, Class::Anonymous)),
        must_fail_next_save: true,
        failed_save,
        failed_read: Some(text()),
    };
    let listing = ListingRecord { thread: Some(thread), at_ticks: 4 };
    let mut differing = Vec::new();
    differing.extend(inodes.iter().flat_map(|(record, golden)| check(record, golden)));
    differing.extend(handles.iter().flat_map(|(record, golden)| check(record, golden)));
    differing.extend(changes.iter().flat_map(|(record, golden)| check(record, golden)));
    differing.extend(check(&held, r#"{"thread":{"tid":1,"start_ticks":2},"id":9,"first_ms":5,"alias":"a","listed":null,"held":9,"opened":"Authenticated","is_marked":true,"is_taken_back":false}"#));
    differing.extend(check(
        &known(None),
        r#"{"opened":["a",9,"Anonymous"],"must_fail_next_save":true,"failed_read":"a"}"#,
    ));
    differing.extend(check(
        &known(Some(6)),
        r#"{"opened":["a",9,"Anonymous"],"must_fail_next_save":true,"failed_save":6,"failed_read":"a"}"#,
    ));
    differing.extend(check(&listing, r#"{"thread":{"tid":1,"start_ticks":2},"at_ticks":4}"#));
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
