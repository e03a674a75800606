//! Reading a content: no panic, and nothing read of its owner that is longer than promised.
#![no_main]

// Taken in as source: a session knows nobody, so the rest of the crate need not be built for this.
#[allow(dead_code)]
#[path = "../../src/session"]
mod session {
    pub mod content;
}

use libfuzzer_sys::fuzz_target;
use session::content::{Content, MAX_TEXT_BYTES, read};

fuzz_target!(|bytes: &[u8]| {
    let Content { db, login, .. } = read(bytes);
    for text in [db, login].into_iter().flatten() {
        assert!(text.len() <= MAX_TEXT_BYTES);
    }
});
