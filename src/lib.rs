//! sessionfs: Odoo's session directory as a FUSE filesystem over Redis.
//!
//! `docs/design.md` draws the modules and which of them uses which ("The house").

#![deny(unsafe_code)]
// What another crate may use is `pub`: for the program, the tests and the benchmarks. So the compiler finds the rest unused.
#![warn(unreachable_pub)]

mod audit;
mod bench;
mod bpf;
mod check;
pub mod cli;
pub mod config;
pub mod control;
mod disk;
pub mod error;
pub mod exit;
mod foreign;
pub mod fs;
pub mod fuse;
pub mod handoff;
mod host;
mod html;
mod import;
pub mod keeper;
mod layers;
mod loader;
mod mirror;
#[cfg(feature = "bpf")]
mod observe;
mod odoo;
mod parameters;
pub mod redis;
mod report;
mod request;
pub mod session;
mod shell;
pub mod store;
mod supervision;
mod sync;
pub mod telemetry;
mod tls;
pub mod trail;
mod worker;
