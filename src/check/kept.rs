//! What Redis has not taken yet: how much of it, since when, and what cannot be sent.

use std::path::Path;

use super::{Finding, Id, counted};
use crate::config::Config;
use crate::config::paths::control_socket;
use crate::control::client;
use crate::store::Kept;

#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// What the mount says, if it is served.
    pub kept: Option<Kept>,
    /// Files of a mount that is not served.
    pub left: u64,
    /// The unit that serves the mount, or would.
    pub unit: String,
}

impl Facts {
    /// Asks the mount; without one, looks into the directories that it would use.
    pub(crate) fn gather(
        directory: &Path,
        config: Option<&Config>,
        served: bool,
        unit: &str,
    ) -> Self {
        let mut facts = Self { unit: unit.to_owned(), ..Self::default() };
        if served {
            facts.kept = client::status(&control_socket(directory)).ok().map(|status| status.kept);
        } else if let Some(spool) = config.and_then(|config| config.spool.as_ref()) {
            let count = |dir: &Path| std::fs::read_dir(dir).map_or(0, |found| found.count() as u64);
            // The same files, unless the host was started anew.
            facts.left = count(&spool.memory_dir).max(count(&spool.disk_dir));
        }
        facts
    }

    /// Judges. Where Redis is the cause (its finding), it is sent when Redis is back.
    pub(crate) fn findings(&self, cause: Option<Id>) -> Vec<Finding> {
        let mut found = Vec::new();
        let unit = &self.unit;
        if self.left > 0 {
            let what = format!(
                "{} kept on this host for a mount that is not served",
                are(self.left, "is", "are")
            );
            found.push(Finding::new(Id::KeptLeft, what, format!("systemctl start {unit}")));
        }
        let Some(kept) = &self.kept else { return found };
        if kept.is_full {
            found.push(Finding::new(
                Id::KeptFull,
                "no more changes can be kept on this host, so saves fail",
                "correct the cause in Redis, or set a larger outage.spool_max and reload",
            ));
        }
        if kept.changes > 0 {
            let what = format!(
                "Redis has not taken {}, the oldest for {} s; they are kept on this host",
                counted(kept.changes, "change"),
                kept.oldest_seconds
            );
            let remedy = match cause {
                Some(cause) => {
                    format!("correct {}; they are sent when Redis is back", cause.name())
                }
                None => format!("they are sent now; if they stay, see journalctl -u {unit}"),
            };
            found.push(Finding::new(Id::Kept, what, remedy));
        }
        if kept.unsendable > 0 {
            let why = kept.why_unsendable.as_deref().unwrap_or("see the log");
            found.push(Finding::new(
                Id::KeptUnsendable,
                format!(
                    "{} kept on this host and cannot be sent: {why}",
                    are(kept.unsendable, "is", "are")
                ),
                format!(
                    "name that Redis, or add that secret, and systemctl restart {unit}; or remove \
                     the files (docs/high-availability.md, \"The spool\")"
                ),
            ));
        }
        found
    }
}

fn are(number: u64, one: &str, several: &str) -> String {
    format!("{} {}", counted(number, "change"), if number == 1 { one } else { several })
}
