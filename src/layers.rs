//! Layers over a store of sessions: each is such a store itself, and adds one thing.
//!
//! - [`import_on_access`]: session files of the underlying directory become sessions as they are asked for

pub mod import_on_access;
