//! What the integration tests share.

#![allow(dead_code)] // each test program uses its own part of it
#![allow(clippy::unwrap_used)] // a test that meets the unexpected ends there
#![allow(clippy::unused_self)] // what is done to a mount is asked of the mount

pub mod authority;
pub mod crowd;
pub mod deployment;
pub mod http;
pub mod index;
pub mod kernel;
pub mod line;
pub mod load;
pub mod memory;
pub mod model;
pub mod mount;
pub mod postgres;
pub mod processes;
pub mod redis;
pub mod store;
