//! Whether the audit trail is written, by whom, and what of it waits or is lost.

use std::path::Path;

use super::{Finding, Id, counted};
use crate::config::paths::control_socket;
use crate::control::client;
use crate::control::status::Trail;

/// What the mount says, if it is served.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts(pub Option<Trail>);

impl Facts {
    /// Asks the mount.
    pub(crate) fn gather(directory: &Path, is_served: bool) -> Self {
        let status = is_served.then(|| client::status(&control_socket(directory)).ok()).flatten();
        Self(status.and_then(|status| status.trail))
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        let Some(trail) = &self.0 else { return Vec::new() };
        let mut found = Vec::new();
        if let Some((what, remedy)) = trail.refused() {
            found.push(Finding::new(Id::TrailRefused, what, remedy));
        }
        if let Some((what, remedy)) = trail.parted() {
            found.push(Finding::new(Id::TrailParted, what, remedy));
        }
        if trail.left_out > 0 {
            found.push(Finding::new(
                Id::TrailLeftOut,
                format!(
                    "{} of the audit trail could not be kept",
                    counted(trail.left_out, "event")
                ),
                "the log names each cause (left_out); sessionfs report counts them",
            ));
        }
        if found.is_empty() {
            found
                .push(Finding::ok(Id::TrailOk, format!("the audit trail is in {}", trail.words())));
        }
        found
    }
}
