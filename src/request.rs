//! Which request a thread of Odoo serves, and whether a person is behind it.

#[cfg(feature = "bpf")]
pub(crate) mod program;
