//! What the integration tests share.

#![allow(dead_code)] // each test program uses its own part of it

pub mod redis;
pub mod store;
