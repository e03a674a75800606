//! Which HTTP request a thread of Odoo serves, as far as it tells whether a person is behind it.
//!
//! An `open` of a session file names the thread, and not the request. A BPF program (`bpf/requests.bpf.c`) sees the request
//! lines that arrive on Odoo's HTTP ports, finds the class of each path by rules, and leaves it in an array under the id of
//! the thread. The worker has that array in its memory and looks it up without a system call. What is not known, torn,
//! too old or another thread's counts as activity: a session that lives too long is the lesser harm.
//!
//! - [`rules`]: which paths are of which class
//! - [`word`]: what is in the array for a thread, and what it is worth
//!
//! The program is loaded by a process of its own (`src/loader.rs`).

pub(crate) mod rules;
pub(crate) mod word;

use serde::{Deserialize, Serialize};

/// What is known of a thread's request. The numbers are those of `bpf/requests.bpf.c`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Class {
    /// Nothing.
    #[default]
    Unknown = 0,
    /// A person may be behind it.
    Active = 1,
    /// The browser has sent it by itself.
    Passive = 2,
    /// The same, for as long as the thread gets no other request. A rule says so of requests that become a websocket.
    Held = 3,
}

impl Class {
    /// As it is called in metrics, each with the classes that it stands for.
    pub(crate) const LABELS: [&str; 3] = ["unknown", "active", "passive"];

    /// Its place among [`Class::LABELS`].
    pub(crate) fn label(self) -> usize {
        match self {
            Self::Unknown => 0,
            Self::Active => 1,
            Self::Passive | Self::Held => 2,
        }
    }

    /// Whether no person is behind it.
    pub(crate) fn is_passive(self) -> bool {
        matches!(self, Self::Passive | Self::Held)
    }

    fn of_number(number: u64) -> Self {
        match number {
            1 => Self::Active,
            2 => Self::Passive,
            3 => Self::Held,
            _ => Self::Unknown,
        }
    }
}

/// What runs, as `status` and `check` say it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum State {
    /// It is switched off, or the keeper is of a version that does not know it.
    #[default]
    Off,
    Running(Running),
    /// Why it does not run.
    Failed {
        why: String,
    },
}

/// How requests are seen.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Running {
    pub hook: Hook,
    /// Odoo's HTTP ports.
    pub ports: Vec<u16>,
    /// How many rules there are.
    pub rules: usize,
}

impl Running {
    /// The ports as a list for people.
    pub(crate) fn port_list(&self) -> String {
        let ports: Vec<String> = self.ports.iter().map(ToString::to_string).collect();
        ports.join(", ")
    }
}

/// The tracepoints by which received bytes are seen.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Hook {
    /// `sock_recv_length` and `sock_send_length`, since Linux 6.3.
    Calls,
    /// `tcp_rcv_space_adjust`: a request line in several segments is not known.
    Segments,
}

impl Hook {
    /// The name of its tracepoint.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Calls => "sock_recv_length",
            Self::Segments => "tcp_rcv_space_adjust",
        }
    }
}
