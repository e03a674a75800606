//! Lifetimes that a standard asks for, by name.
//!
//! Where a source gives a range of idle times, the preset has its upper end. OWASP's range of 4 to 8
//! hours for a whole session is divided: 8 hours where the risk is low, 4 where it is high.

use super::Lifetimes;

const MINUTE_MS: u64 = 60 * 1000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// Lifetimes of who is logged in, by the name of what asks for them.
#[derive(Debug, Eq, PartialEq)]
pub struct Preset {
    /// As it is written in the configuration.
    pub name: &'static str,
    /// What asks for it: document, edition, section, and what that says.
    pub source: &'static str,
    pub idle_ms: u64,
    /// `None`: the source asks for none, and the default holds.
    pub absolute_ms: Option<u64>,
}

/// All of them.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "pci-dss-8.2.8",
        source: "PCI DSS 4.0.1, requirement 8.2.8: after more than 15 minutes without activity a user \
                 logs in again",
        idle_ms: 15 * MINUTE_MS,
        absolute_ms: None,
    },
    Preset {
        name: "owasp-low",
        source: "OWASP Session Management Cheat Sheet, session expiration: 15 to 30 minutes idle for \
                 low-risk applications; 4 to 8 hours in all for office work",
        idle_ms: 30 * MINUTE_MS,
        absolute_ms: Some(8 * HOUR_MS),
    },
    Preset {
        name: "owasp-high",
        source: "OWASP Session Management Cheat Sheet, session expiration: 2 to 5 minutes idle for \
                 high-value applications; 4 to 8 hours in all for office work",
        idle_ms: 5 * MINUTE_MS,
        absolute_ms: Some(4 * HOUR_MS),
    },
    Preset {
        name: "nist-aal2",
        source: "NIST SP 800-63B revision 3, section 4.2.3: 30 minutes idle, 12 hours in all (revision \
                 4, section 2.2.3, asks for less: 1 hour idle, 24 hours in all)",
        idle_ms: 30 * MINUTE_MS,
        absolute_ms: Some(12 * HOUR_MS),
    },
    Preset {
        name: "nist-aal3",
        source: "NIST SP 800-63B revision 3, section 4.3.3, and revision 4, section 2.3.3: 15 minutes \
                 idle, 12 hours in all",
        idle_ms: 15 * MINUTE_MS,
        absolute_ms: Some(12 * HOUR_MS),
    },
];

impl Preset {
    /// The preset of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// These lifetimes for all.
    pub fn lifetimes(&self) -> Lifetimes {
        let default = Lifetimes::default();
        Lifetimes {
            idle_ms: self.idle_ms,
            absolute_ms: self.absolute_ms.or(default.absolute_ms),
            ..default
        }
    }

    /// Whether it says anything of the setting with that key.
    pub fn sets(&self, key: &str) -> bool {
        key == "lifetime.idle" || (key == "lifetime.absolute" && self.absolute_ms.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_of_its_own() {
        for preset in PRESETS {
            assert_eq!(Preset::named(preset.name), Some(preset));
        }
        assert_eq!(Preset::named("owasp"), None);
    }
}
