//! The host: the system calls that are made, one subject a file.
//!
//! Nothing here knows sessions, the configuration or the parts of this program; all of them may use
//! this. All `unsafe` of the program is here, since the crate denies it elsewhere.
//!
//! Two crates wrap the system calls. nix has the calls of POSIX, and the whole program uses it.
//! rustix has the calls of Linux that nix lacks or offers as `unsafe` only: the mount API, `statx`,
//! `openat2`, pidfds, capabilities, extended attributes. The rest is called by libc, here.
//!
//! - [`bounded`]: work that may never end
//! - [`bpf`]: attaching a BPF program so that another process may hold it
//! - [`clock`]: whether the clock is synchronised
//! - [`confine`]: giving up the rights of root
//! - [`descriptor`]: descriptors that another process handed over, and those that take the place of another
//! - [`device`]: the device through which the kernel asks a filesystem
//! - [`directory`]: directories of root's own, and paths that nobody else may lead astray
//! - [`heap`]: the memory of this process
//! - [`lock`]: locks by `flock`
//! - [`mount`]: what is mounted on a directory, and its end; [`mount_table`]: mountinfo; [`mount_api`]: a filesystem made
//!   before it has a place; [`prober`]: whether a mounted filesystem answers
//! - [`open_files`]: the limit of open files
//! - [`packet`]: packets that carry descriptors
//! - [`process`]: children, and processes held by a descriptor
//! - [`procfs`]: the processes of the host for who is not root
//! - [`shared_memory`]: memory that outlives a process; [`read_buffer`]: fuser's buffers in it
//! - [`service_manager`]: notifying systemd by `sd_notify`
//! - [`signals`]: signals read from a descriptor, and waiting
//! - [`terminal`]: its width
//! - [`unit`]: the systemd unit of a process; [`ask`]: a question to another program

#![allow(unsafe_code, reason = "the one floor where system calls are made")]

pub(crate) mod ask;
pub(crate) mod bounded;
pub(crate) mod bpf;
pub(crate) mod clock;
pub(crate) mod confine;
pub(crate) mod descriptor;
pub(crate) mod device;
pub(crate) mod directory;
pub(crate) mod heap;
pub(crate) mod lock;
pub(crate) mod mount;
pub(crate) mod mount_api;
pub(crate) mod mount_table;
pub(crate) mod open_files;
pub(crate) mod packet;
pub(crate) mod prober;
pub(crate) mod process;
pub(crate) mod procfs;
pub(crate) mod read_buffer;
pub(crate) mod service_manager;
pub(crate) mod shared_memory;
pub(crate) mod signals;
pub(crate) mod terminal;
pub(crate) mod unit;
