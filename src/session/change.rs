//! The identity of a change.

/// The id of one change: random and never reused, so that a change can be sent twice.
///
/// The *version* of a session is the id of the change that made it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ChangeId(pub u128);
