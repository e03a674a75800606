//! Layers: each implements [`crate::store::Sessions`] over another, and adds one thing.
//!
//! - [`import_on_access`]: session files of the underlying directory become sessions when they
//!   are first accessed
//! - [`near_cache`]: what was read or saved here a moment ago is answered without asking Redis
//! - [`single_flight`]: who asks for the same session at the same time shares the answer
//! - [`spool`]: what Redis does not take is kept on this host, and sent when it does

pub(crate) mod import_on_access;
pub(crate) mod near_cache;
pub(crate) mod single_flight;
pub(crate) mod spool;
