//! The host: what the kernel is asked for, one subject a file. Nothing here knows of sessions.

pub mod confine;
pub mod descriptor;
pub mod filesystem;
pub mod lock;
pub mod mount_table;
pub mod process;
pub mod service_manager;
pub mod signals;
