//! The filesystem without a kernel: names to versions, reads, saves, listings.

pub mod store;
