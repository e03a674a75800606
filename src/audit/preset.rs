//! What authorities ask of the lifetimes of sessions.

/// The longest lifetimes that an authority allows.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Preset {
    pub name: &'static str,
    /// Where it says so, and what.
    pub source: &'static str,
    pub idle_ms: u64,
    pub absolute_ms: Option<u64>,
}

const MINUTE_MS: u64 = 60 * 1000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// All of them.
pub(crate) const PRESETS: &[Preset] = &[
    Preset {
        name: "pci-dss-8.2.8",
        source: "PCI DSS 4.0.1, requirement 8.2.8: log in again after 15 min without use",
        idle_ms: 15 * MINUTE_MS,
        absolute_ms: None,
    },
    Preset {
        name: "owasp-low",
        source: "OWASP Session Management Cheat Sheet: at most 30 min without use for low risk, 8 h in all",
        idle_ms: 30 * MINUTE_MS,
        absolute_ms: Some(8 * HOUR_MS),
    },
    Preset {
        name: "owasp-high",
        source: "OWASP Session Management Cheat Sheet: at most 5 min without use for high value, 4 h in all",
        idle_ms: 5 * MINUTE_MS,
        absolute_ms: Some(4 * HOUR_MS),
    },
    Preset {
        name: "nist-aal2",
        source: "NIST SP 800-63B (revision 3), 4.2.3: at most 30 min without use, 12 h in all",
        idle_ms: 30 * MINUTE_MS,
        absolute_ms: Some(12 * HOUR_MS),
    },
    Preset {
        name: "nist-aal3",
        source: "NIST SP 800-63B (revision 3), 4.3.3: at most 15 min without use, 12 h in all",
        idle_ms: 15 * MINUTE_MS,
        absolute_ms: Some(12 * HOUR_MS),
    },
];

impl Preset {
    /// The preset of that name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }
}
