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
                "see docs/ebpf.md for what it needs, then reload; activity.requests = \"off\" switches it off",
            ),
            State::Running(running) => {
                let ports: Vec<String> = running.ports.iter().map(ToString::to_string).collect();
                let torn = match running.hook {
                    Hook::Calls => "",
                    Hook::Segments => "; a request line in several segments counts as activity",
                };
                Finding::ok(
                    Id::RequestsOk,
                    format!(
                        "requests that a browser sends by itself {does} from a person's: port {}, by {}{torn}",
                        ports.join(", "),
                        running.hook.name()
                    ),
                )
            }
        }]
    }
}
