//! Layers: each implements [`crate::store::Sessions`] over another, and adds one thing.
//!
//! - [`import_on_access`]: session files of the underlying directory become sessions when they
//!   are first accessed

pub(crate) mod import_on_access;
