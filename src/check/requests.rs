//! Whether requests that a browser sends by itself are told from those of a person, and if not, why.

use std::path::Path;

use super::{Finding, Id};
use crate::config::Config;
use crate::config::paths::control_socket;
use crate::control::client;
use crate::loader::{LOADED_WITHIN, Loading};
use crate::request::{Hook, State};

/// What is missing where they are not.
const MISSING: &str = "polling by a browser tab that nobody uses counts as activity, unless Odoo's evented process serves it";

#[derive(Clone, Debug)]
pub(crate) enum Facts {
    /// Only root can ask or try.
    Unseen,
    /// What the mount says of itself.
    Mounted(State),
    /// What a mount would find: it was tried, and is over.
    Tried(State),
}

impl Facts {
    /// Asks the mount; where there is none, tries.
    pub(crate) fn gather(directory: &Path, config: Option<&Config>, is_served: bool) -> Self {
        if !nix::unistd::geteuid().is_root() {
            return Self::Unseen;
        }
        if is_served {
            // One that does not answer has worse findings.
            let status = client::status(&control_socket(directory)).ok();
            return status.map_or(Self::Unseen, |status| Self::Mounted(status.requests));
        }
        let Some(config) = config else { return Self::Unseen };
        let Some(requests) = &config.activity.requests else { return Self::Tried(State::Off) };
        let Ok(program) = std::env::current_exe() else { return Self::Unseen };
        let Ok(loading) = Loading::start(&program, requests, LOADED_WITHIN) else {
            return Self::Unseen;
        };
        Self::Tried(match loading.finish() {
            Ok(loaded) => State::Running(loaded.running),
            Err(error) => State::Failed { why: error.to_string() },
        })
    }

    /// Whether a mount that serves tells them apart.
    pub(crate) fn are_told(&self) -> bool {
        matches!(self, Self::Mounted(State::Running(_)))
    }

    /// The ports of these Odoos on which they are not. Each with its name.
    pub(crate) fn unwatched(&self, odoos: &[(String, u16)]) -> Option<Finding> {
        let (Self::Mounted(State::Running(running)) | Self::Tried(State::Running(running))) = self
        else {
            return None;
        };
        let missing = odoos.iter().filter(|(_, port)| !running.ports.contains(port));
        let missing: Vec<String> =
            missing.map(|(who, port)| format!("{who} on port {port}")).collect();
        (!missing.is_empty()).then(|| {
            Finding::new(
                Id::Ports,
                format!(
                    "requests are seen on port {} alone, and not those to {}: {MISSING}",
                    running.port_list(),
                    missing.join(", ")
                ),
                "reload sessionfs, which looks for Odoo's ports again; where activity.ports is set, \
                 add the port to it before",
            )
        })
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        let (state, does) = match self {
            Self::Unseen => return Vec::new(),
            Self::Mounted(state) => (state, "are told"),
            Self::Tried(state) => (state, "can be told"),
        };
        vec![match state {
            State::Off => Finding::new(
                Id::RequestsOff,
                format!(
                    "requests that a browser sends by itself are not told from a person's: {MISSING}"
                ),
                "no action needed; to switch it on, set activity.requests = \"auto\" and reload",
            ),
            State::Failed { why } => Finding::new(
                Id::Requests,
                format!(
                    "requests that a browser sends by itself are not told from a person's: {why}; {MISSING}"
                ),
                "EPERM: systemctl daemon-reload and restart sessionfs, as a reload gives no new rights, or make the \
                 container anew (docs/ebpf.md); otherwise mend it and reload; activity.requests = \"off\" switches it off",
            ),
            State::Running(running) => {
                let torn = match running.hook {
                    Hook::Calls => "",
                    Hook::Segments => "; a request line in several segments counts as activity",
                };
                Finding::ok(
                    Id::RequestsOk,
                    format!(
                        "requests that a browser sends by itself {does} from a person's: port {}, by {}{torn}",
                        running.port_list(),
                        running.hook.name()
                    ),
                )
            }
        }]
    }
}
