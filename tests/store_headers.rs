//! The scripts read exactly the headers that the program reads, and the same of each.

mod support;

use std::cell::{Cell, RefCell};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sessionfs::redis::envelope::{COMPACT_FORMAT, FORMAT, Header, OLDEST_FORMAT};
use support::redis::Redis;

/// Reads each of ARGV as a header and answers its length and its line as the scripts would write
/// it, or nothing.
fn reader() -> redis::Script {
    redis::Script::new(&format!(
        "local args = {{ clock = '', written_format = '{FORMAT}', newest_format = '{FORMAT}' }}
         setmetatable(args, {{ __index = function() return '1' end }})
         local function now_ms() return 0 end
         {}
         local read = {{}}
         for i = 1, #ARGV do
           local h = parse(ARGV[i])
           read[i] = h and {{ h.length, line(h) }} or {{}}
         end
         return read",
        include_str!("../src/redis/scripts/session.lua")
    ))
}

const FIELDS: [(&str, &str); 22] = [
    ("s", "a"),
    ("v", "00000000000000000000000000000007"),
    ("w", "-"),
    ("b", "ffffffffffffffffffffffffffffffff"),
    ("n", "1700000000000"),
    ("p", "anon"),
    ("r", "-"),
    ("e", "0"),
    ("t", "1700000000000"),
    ("m", "1700000000000000000"),
    ("l", "1"),
    ("a", "2"),
    ("o", "1"),
    ("f", "0"),
    ("c", "auth"),
    ("i", "7"),
    ("d", "my%20shop"),
    ("u", "-"),
    ("z", "740"),
    ("k", "0"),
    ("x", "644"),
    ("y", "f"),
];

/// The same of a short header.
const COMPACT_FIELDS: [(&str, &str); 22] = [
    ("s", "a"),
    ("v", "0000000000000007"),
    ("w", "-"),
    ("b", "ffffffffffffffffffffffffffffffff"),
    ("n", "1700000000000"),
    ("p", "v"),
    ("r", "-"),
    ("e", "0"),
    ("t", "3600000"),
    ("m", "-"),
    ("l", "-5"),
    ("a", "-2000"),
    ("o", "1"),
    ("f", "0"),
    ("c", "u"),
    ("i", "7"),
    ("d", "my%20shop"),
    ("u", "-"),
    ("z", "740"),
    ("k", "1"),
    ("x", "644"),
    ("y", "f"),
];

/// Values at each edge of what some field may hold.
const HOSTILE: [&str; 75] = [
    "+990031",
    "+000000",
    "+00000",
    "+0000000",
    "+12345a",
    "u",
    "v",
    "-u",
    "uv",
    "0000000000000009",
    "-00000000000000a",
    "000000000000000g",
    "-1700000000000",
    "-1700000000001",
    "-999999999999999",
    "",
    "-",
    "--",
    "0",
    "-0",
    "+1",
    "00",
    "1",
    "2",
    "-1",
    "7777",
    "07777",
    "10000",
    "8",
    "644",
    "0x10",
    "1e3",
    "1.0",
    "999999999999999",
    "1000000000000000",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "00000000000000000000009223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999",
    "65535",
    "65536",
    "00000000000065535",
    "a",
    "g",
    "alive",
    "auth",
    "anon",
    "-anon",
    "guest",
    "s",
    "f",
    "f9",
    "f ",
    "flat",
    "-000000000000000000000000000000a",
    "fffffffffffffffffffffffffffffff-",
    " ",
    "a b",
    "%",
    "%4",
    "%41",
    "%zz",
    "%+1",
    "%FF",
    "%%4141",
    "a%0Ab",
    "tab\there",
    "\u{e9}",
    "+0000000000000000000000000000007",
    "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF",
    "0000000000000000000000000000007",
];

fn value() -> impl Strategy<Value = Vec<u8>> {
    let field = (0..FIELDS.len(), prop::sample::select(&HOSTILE[..]));
    let edit = (any::<prop::sample::Index>(), prop::option::of(any::<u8>()), any::<bool>());
    let tail = prop::sample::select(&["", "", "", " color=blue", " ", "x", "\tx", " \u{e9}"][..]);
    let edits = prop_oneof![2 => Just(vec![]), 1 => vec(edit, 1..3)];
    (vec(field, 0..3), edits, tail, 0..3000_usize, any::<bool>()).prop_map(
        |(fields, edits, tail, long, is_compact)| {
            let mut all = if is_compact { COMPACT_FIELDS } else { FIELDS };
            for (number, hostile) in fields {
                all[number].1 = hostile;
            }
            let word = |(name, text): &(&str, &str)| {
                if is_compact { (*text).to_owned() } else { format!("{name}={text}") }
            };
            let words: Vec<_> = all.iter().map(word).collect();
            let format = if is_compact { COMPACT_FORMAT } else { OLDEST_FORMAT };
            // One in six is near or beyond the longest header that there may be.
            let long = if long < 500 { "y".repeat(1000 + long) } else { String::new() };
            let mut bytes =
                format!("sessionfs {format} {}{tail}{long}\nsealed", words.join(" ")).into_bytes();
            for (at, byte, insert) in edits {
                let at = at.index(bytes.len());
                match byte {
                    Some(byte) if insert => bytes.insert(at, byte),
                    Some(byte) => bytes[at] = byte,
                    None => {
                        bytes.remove(at);
                    }
                }
            }
            bytes
        },
    )
}

/// 200 rounds of 50 headers.
#[test]
fn the_scripts_read_the_headers_that_the_program_reads() {
    let redis = Redis::start();
    let connection = RefCell::new(redis.connection());
    let reader = reader();
    let counts = Cell::new((0, 0));
    let mut runner =
        TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&vec(value(), 50), |values| {
        let mut call = reader.prepare_invoke();
        for value in &values {
            call.arg(value.as_slice());
        }
        let answers: Vec<redis::Value> =
            call.invoke(&mut *connection.borrow_mut()).expect("answered");
        for (value, answer) in values.iter().zip(answers) {
            let redis::Value::Array(answer) = answer else { panic!("{answer:?}") };
            let lua = match &answer[..] {
                [redis::Value::Int(length), redis::Value::BulkString(line)] => {
                    let (header, _) = Header::parse(line).expect("a line of our own script");
                    Some((header, usize::try_from(*length).expect("a length")))
                }
                _ => None,
            };
            let (read, refused) = counts.get();
            counts.set(if lua.is_some() { (read + 1, refused) } else { (read, refused + 1) });
            let shown = String::from_utf8_lossy(value).into_owned();
            prop_assert_eq!(Header::parse(value).ok(), lua, "{}", shown);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    // It says something only if many are read and many refused.
    let (read, refused) = counts.get();
    assert!(read > 1000 && refused > 1000, "{read} are read, {refused} refused");
}
