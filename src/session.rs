//! What a session is, apart from where it is kept: its names, its content, its seal, its lifetime.
//!
//! Nothing here knows FUSE, Redis or a clock.

pub mod change;
pub mod content;
pub mod name;
pub mod packing;
pub mod policy;
pub mod seal;
pub mod secret;
pub mod word;

pub use seal::SealError;
