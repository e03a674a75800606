//! Reading a header: no panic, and the scripts' reader and the program's read the same.
#![no_main]

// Taken in as source: these modules need little, so the rest of the crate need not be built for this.
#[allow(dead_code)]
#[path = "../../src/session"]
mod session {
    pub mod change;
    pub mod content;
    pub mod name;
    pub mod word;

    /// What the reader of headers takes from it. The module itself would bring a compressor along.
    pub mod packing {
        pub const PLAIN: u16 = 0;
    }
}

/// What the reader of headers takes from the port. The port itself would bring the ciphers along.
#[allow(dead_code)]
mod store {
    pub use crate::session::change::ChangeId;
    use crate::session::content::{Class, Content};
    use crate::session::name::{Alias, Form};

    pub struct Meta {
        pub version: ChangeId,
        pub birth: ChangeId,
        pub mtime_ns: i64,
        pub mode: u32,
        pub size_bytes: u64,
        pub class: Class,
        pub form: Form,
        pub activity_ms: u64,
        pub left_ms: u64,
    }

    pub struct Bound {
        pub alias: Alias,
        pub content: Content,
        pub birth: ChangeId,
        pub save: ChangeId,
        pub packing: u16,
    }
}

#[allow(dead_code)]
#[path = "../../src/redis/envelope.rs"]
mod envelope;

use envelope::{FORMAT, Header};
use libfuzzer_sys::fuzz_target;
use mlua::{BString, Function, Lua};

/// What all scripts share, with a function that reads a header and writes it again. Redis runs Lua
/// 5.1, as this is.
const SCRIPTS: &str = concat!(
    "local args = setmetatable({ clock = '', written_format = FORMAT, newest_format = FORMAT },\n",
    "  { __index = function() return '1' end })\n",
    "local keys = {}\n",
    "local function now_ms() return 0 end\n",
    include_str!("../../src/redis/scripts/session.lua"),
    "\nreturn function(bytes) local h = parse(bytes) if h then return h.length, line(h) end end"
);

thread_local! {
    /// Lua, which must outlive its function, and that function.
    static READ: (Lua, Function) = {
        let lua = Lua::new();
        lua.globals().set("FORMAT", FORMAT.to_string()).expect("a global");
        let read = lua.load(SCRIPTS).eval().expect("the scripts' own text");
        (lua, read)
    };
}

fuzz_target!(|bytes: &[u8]| {
    let read: (Option<usize>, Option<BString>) =
        READ.with(|(_, read)| read.call(BString::from(bytes))).expect("the scripts raise no error");
    let by_scripts = match read {
        (Some(length), Some(line)) => {
            let (header, _) = Header::parse(&line).expect("a line of the scripts' own");
            Some((header, length))
        }
        _ => None,
    };
    assert_eq!(Header::parse(bytes).ok(), by_scripts);
});
