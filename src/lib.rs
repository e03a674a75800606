//! sessionfs: Odoo's session directory as a FUSE filesystem over Redis.
//!
//! Where to look:
//! - [`session`]: names, contents, seal and lifetimes of a session; knows nobody else.
//! - [`store`]: the port: what the filesystem needs from the place where sessions are kept.
//! - [`fs`]: the core of the filesystem. It runs without a kernel, over that port.
//! - [`layers`]: layers over a store of sessions, each such a store itself.
//! - [`redis`]: the port on Redis: link, keys, envelope, scripts.
//! - [`disk`]: session files on a disk, touched by a small process of their own.
//! - [`import`]: session files of before become sessions in Redis.
//! - [`mirror`]: sessions written back to a disk, for the way back.
//! - [`fuse`]: the adapter that decodes requests, checks permission, calls the core and replies.
//! - [`host`]: system calls, one subject a file; all `unsafe` is there.
//! - [`config`]: file and command line, resolved into the settings of the parts.
//! - [`keeper`]: owns the mount; starts and watches the worker and the private Redis.
//! - [`worker`]: the unprivileged process that serves; puts its parts together.
//! - [`supervision`]: what the keeper and its worker send each other.
//! - [`odoo`]: what can be learnt of the Odoo on this host, and where it keeps its sessions.
//! - [`control`]: the status of a server: HTTP on its sockets, its registration in the cluster.
//! - [`telemetry`]: events that are a log line and a metric at once.
//! - [`check`]: what is wrong or missing, from the mount to the process of Odoo that uses it.
//! - [`bench`]: Odoo's reads and saves on any directories, measured side by side.
//! - [`cli`]: one file per command; [`exit`]: how one ends.
//! - [`shell`]: words that a shell takes for themselves, for scripts and for people.

#![deny(unsafe_code)]

pub mod bench;
pub mod check;
pub mod cli;
pub mod config;
pub mod control;
pub mod disk;
pub mod error;
pub mod exit;
pub mod fs;
pub mod fuse;
pub mod host;
pub mod import;
pub mod keeper;
pub mod layers;
pub mod mirror;
pub mod odoo;
pub mod redis;
pub mod session;
pub mod shell;
pub mod store;
pub mod supervision;
mod sync;
pub mod telemetry;
pub mod worker;
