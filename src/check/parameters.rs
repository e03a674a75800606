//! Odoo's system parameters: whether they are followed, what holds by them, and what is wrong with them.

use std::path::Path;

use super::{Finding, Id, counted};
use crate::config::Config;
use crate::config::paths::control_socket;
use crate::control::client;
use crate::foreign::escaped;
use crate::parameters::follow::{Followed, State};
use crate::telemetry::now_ms;

/// More databases, and more problems, are counted.
const SHOWN: usize = 20;

#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Whether the file says that they are followed.
    pub configured: bool,
    /// What the mount says, if it is served.
    pub mounted: Option<Mounted>,
    /// By this host's clock.
    pub now_ms: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Mounted {
    /// If it follows them.
    pub state: Option<State>,
    /// The rules that they gave, where it does not.
    pub left: Vec<String>,
}

impl Facts {
    /// Asks the mount. One that does not answer has worse findings.
    pub(crate) fn gather(directory: &Path, config: Option<&Config>, is_served: bool) -> Self {
        let status = is_served.then(|| client::status(&control_socket(directory)).ok()).flatten();
        Self {
            configured: config.is_some_and(|config| config.odoo.parameters.is_some()),
            mounted: status
                .map(|status| Mounted { state: status.parameters, left: status.parameters_left }),
            now_ms: now_ms(),
        }
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        let Some(Mounted { state, left }) = &self.mounted else { return Vec::new() };
        let Some(state) = state else { return self.unfollowed(left) };
        let mut found = Vec::new();
        if state.is_silent(self.now_ms) {
            found.push(Finding::new(
                Id::Parameters,
                "nobody asks PostgreSQL for Odoo's system parameters; the last values stay",
                "see the log of sessionfs, then: sessionfs reload",
            ));
        }
        let problems: Vec<_> = state.problems().collect();
        for (database, why) in problems.iter().take(SHOWN) {
            let whose = database.map_or_else(
                || "Odoo's system parameters".to_owned(),
                |name| format!("Odoo's system parameters of database {}", escaped(name)),
            );
            found.push(Finding::new(
                Id::Parameters,
                format!("{whose}: {}", escaped(why)),
                "correct the parameter in Odoo, or what keeps PostgreSQL from answering (docs/odoo-parameters.md)",
            ));
        }
        if let Some(more) = problems.len().checked_sub(SHOWN + 1) {
            found.push(Finding::new(
                Id::Parameters,
                format!("Odoo's system parameters: {} more", counted(more as u64 + 1, "problem")),
                "sessionfs status --json lists all",
            ));
        }
        if state.problem.is_none() && !state.is_silent(self.now_ms) {
            found.push(Finding::ok(Id::ParametersOk, words(state)));
        }
        found
    }

    fn unfollowed(&self, left: &[String]) -> Vec<Finding> {
        if self.configured {
            return vec![Finding::new(
                Id::Parameters,
                "odoo.follow_parameters is set, and the mount does not follow Odoo's system parameters yet",
                "sessionfs reload",
            )];
        }
        if left.is_empty() {
            return Vec::new();
        }
        vec![Finding::new(
            Id::ParametersLeft,
            format!(
                "this server does not follow Odoo's system parameters, and {} that they gave still {}",
                counted(left.len() as u64, "lifetime"),
                if left.len() == 1 { "holds" } else { "hold" }
            ),
            "if no other server follows them, sessionfs config get lists these lifetimes with the source odoo; remove \
             each: sessionfs config unset KEY --database NAME",
        )]
    }
}

/// What holds in each database.
fn words(state: &State) -> String {
    let one = |(name, Followed { idle, absolute, .. }): (&String, &Followed)| {
        let value = |key: &str, text: &Option<String>| {
            text.as_ref().map(|text| format!(" {key} {}", escaped(text)))
        };
        let values = [value("idle", idle), value("absolute", absolute)];
        let values: String = values.into_iter().flatten().collect();
        let values = if values.is_empty() { " no parameter".to_owned() } else { values };
        format!("{}:{values}", escaped(name))
    };
    let mut shown: Vec<String> = state.databases.iter().take(SHOWN).map(one).collect();
    if let Some(more) = state.databases.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        shown.push(format!("{more} more"));
    }
    match shown.as_slice() {
        [] => "Odoo's system parameters are followed, and Odoo has no database".to_owned(),
        shown => format!("Odoo's system parameters are followed: {}", shown.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(state: Option<State>, left: &[&str], configured: bool) -> Vec<(Id, String)> {
        let left = left.iter().map(ToString::to_string).collect();
        let mounted = Some(Mounted { state, left });
        let found = Facts { configured, mounted, now_ms: 200_000 }.findings();
        found
            .into_iter()
            .map(|finding| (finding.id, format!("{} {}", finding.what, finding.remedy)))
            .collect()
    }

    fn state(asked_ms: u64, databases: &[(&str, Followed)]) -> State {
        let databases =
            databases.iter().map(|(name, followed)| ((*name).to_owned(), followed.clone()));
        State { asked_ms, problem: None, databases: databases.collect() }
    }

    #[test]
    fn it_is_said_for_each_database_what_holds_or_why_not() {
        let shop = Followed { idle: Some("15min".into()), ..Followed::default() };
        let bad =
            Followed { problems: vec!["session.timeout: \u{1b}".into()], ..Followed::default() };
        let found = findings(Some(state(190_000, &[("bad", bad), ("shop", shop)])), &[], true);
        assert_eq!(found[0].0, Id::Parameters);
        assert!(found[0].1.contains("of database bad: session.timeout: \\u{1b}"), "{found:?}");
        assert_eq!(found[1].0, Id::ParametersOk);
        assert!(found[1].1.contains("bad: no parameter; shop: idle 15min"), "{found:?}");
        let many: Vec<_> = (0..30)
            .map(|n| {
                (format!("d{n:02}"), Followed { problems: vec!["x".into()], ..Followed::default() })
            })
            .collect();
        let many: Vec<_> = many.iter().map(|(name, one)| (name.as_str(), one.clone())).collect();
        let found = findings(Some(state(190_000, &many)), &[], true);
        assert_eq!(found.len(), 22);
        assert!(
            found[20].1.contains("10 problems more") && found[21].1.contains("10 more"),
            "{found:?}"
        );
    }

    #[test]
    fn who_asks_no_more_is_told() {
        let silent = findings(Some(state(1, &[])), &[], true);
        assert!(silent.len() == 1 && silent[0].1.contains("nobody asks"), "{silent:?}");
        let unfollowed = findings(None, &[], true);
        assert!(unfollowed.len() == 1 && unfollowed[0].1.contains("reload"), "{unfollowed:?}");
        assert_eq!(findings(None, &[], false), []);
    }

    #[test]
    fn what_is_left_is_told_with_the_command_that_removes_it() {
        let found = findings(None, &["lifetime.idle database=shop"], false);
        assert_eq!(found[0].0, Id::ParametersLeft);
        assert!(found[0].1.contains("1 lifetime that they gave still holds"), "{found:?}");
        assert!(found[0].1.contains("config unset"), "{found:?}");
    }
}
