//! The identity of a change.

use serde::{Deserialize, Serialize};

/// The id of one change: random and never reused, so that a change can be sent twice.
///
/// The *version* of a session is the id of the change that made it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct ChangeId(pub u128);
