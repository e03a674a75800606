//! Callers that cannot be identified: the reasons, what they break, and the remedies.

use serde::{Deserialize, Serialize};

/// Why the filesystem cannot identify a calling process.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unidentified {
    /// The kernel gives its id as 0: it is in a PID namespace that cannot be seen from ours.
    PidNamespace,
    /// `/proc` hides the processes of other users (hidepid).
    Hidden,
}

impl Unidentified {
    /// Every reason, in the order of declaration.
    pub const ALL: &[Self] = &[Self::PidNamespace, Self::Hidden];

    /// The label in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::PidNamespace => "pid_namespace",
            Self::Hidden => "hidden",
        }
    }

    /// What does not work, and why.
    pub const fn text(self) -> &'static str {
        match self {
            Self::PidNamespace => {
                "device logout and background detection do not work: Odoo is in another PID namespace"
            }
            Self::Hidden => {
                "background detection does not work: /proc hides Odoo's processes (hidepid)"
            }
        }
    }

    pub const fn remedy(self) -> &'static str {
        match self {
            Self::PidNamespace => {
                "share the PID namespace of the host (pid: host, hostPID) or of Odoo \
                 (shareProcessNamespace)"
            }
            Self::Hidden => "mount /proc without hidepid=, or with gid= of the worker's group",
        }
    }
}
