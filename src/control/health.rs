//! `GET /health`: whether this server can serve sessions, for a load balancer.
//!
//! A balancer takes a server out for what is wrong on that server alone. So it is `down` when the
//! mount is not served, and when all of Redis has been away for longer than requests wait: the
//! errors that follow are better met at once. What all servers meet together and what heals by itself is
//! `degraded`, and still 200: else every server would leave at the same moment. `?strict` makes
//! that 503, too.

use std::time::Duration;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::Stage;
use crate::redis::writes::Writes;

/// No reason is longer.
const REASON_MAX_CHARS: usize = 200;

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Health {
    pub status: Verdict,
    /// What is wrong, in one line; nothing if nothing is.
    pub reason: Option<String>,
}

/// Whether sessions are served.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// They are read and saved.
    Ok,
    /// Requests wait, or saves fail.
    Degraded,
    Down,
}

/// By what it is judged.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub stage: Stage,
    /// Since the kernel has last been answered, and the longest that this lasts on a mount that is
    /// served: the keeper asks all the time.
    pub unasked: Duration,
    pub unasked_max: Duration,
    /// How long Redis has been away, why, and for how long requests wait.
    pub outage: Option<(Duration, String)>,
    /// How long all of it has been away, not only some servers of a Cluster.
    pub whole_outage: Option<Duration>,
    pub wait_total: Duration,
    pub writes: Writes,
}

impl Facts {
    pub(super) fn health(&self) -> Health {
        let seconds = |time: Duration| time.as_secs();
        if self.stage != Stage::Active {
            return Health::new(Verdict::Down, "the mount is about to stop");
        }
        if self.unasked > self.unasked_max {
            let reason = format!(
                "the mount has answered no request for {} s, although its keeper sends requests \
                 all the time",
                seconds(self.unasked)
            );
            return Health::new(Verdict::Down, &reason);
        }
        if let Some((outage, cause)) = &self.outage {
            let (away, wait) = (seconds(*outage), seconds(self.wait_total));
            return if self.whole_outage.is_some_and(|outage| outage > self.wait_total) {
                Health::new(Verdict::Down, &format!("Redis has been down for {away} s: {cause}"))
            } else if *outage > self.wait_total {
                let reason = format!(
                    "a part of Redis has been down for {away} s; requests for the sessions in it \
                     fail: {cause}"
                );
                Health::new(Verdict::Degraded, &reason)
            } else {
                let reason = format!(
                    "Redis has been down for {away} s; requests wait for up to {wait} s: {cause}"
                );
                Health::new(Verdict::Degraded, &reason)
            };
        }
        match self.writes.refusal() {
            Some(why) => Health::new(Verdict::Degraded, &format!("Redis accepts no writes: {why}")),
            None => Health { status: Verdict::Ok, reason: None },
        }
    }
}

impl Health {
    fn new(status: Verdict, reason: &str) -> Self {
        let reason = reason.chars().take(REASON_MAX_CHARS).collect();
        Self { status, reason: Some(reason) }
    }

    /// The answer's code.
    pub(crate) fn code(&self, strict: bool) -> StatusCode {
        match self.status {
            Verdict::Degraded if !strict => StatusCode::OK,
            Verdict::Ok => StatusCode::OK,
            Verdict::Degraded | Verdict::Down => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Facts {
        Facts {
            stage: Stage::Active,
            unasked: Duration::from_secs(5),
            unasked_max: Duration::from_secs(7),
            outage: None,
            whole_outage: None,
            wait_total: Duration::from_secs(20),
            writes: Writes::Taken,
        }
    }

    fn away(seconds: u64) -> Facts {
        let whole_outage = Some(Duration::from_secs(seconds));
        let outage = whole_outage.map(|outage| (outage, "connection refused".into()));
        Facts { outage, whole_outage, ..well() }
    }

    #[test]
    fn what_is_wrong_here_alone_is_down_and_what_all_meet_is_not() {
        let ok = well().health();
        assert_eq!(serde_json::to_string(&ok).unwrap(), r#"{"status":"ok","reason":null}"#);
        let refused = Writes::Refused("OOM command not allowed".into());
        let cases = [
            (well(), Verdict::Ok, [200, 200]),
            (Facts { writes: Writes::Unknown, ..well() }, Verdict::Ok, [200, 200]),
            (Facts { writes: refused.clone(), ..well() }, Verdict::Degraded, [200, 503]),
            (away(20), Verdict::Degraded, [200, 503]),
            (Facts { writes: refused, ..away(21) }, Verdict::Down, [503, 503]),
            // One server of a Cluster: all hosts meet it, and the others have their sessions.
            (Facts { whole_outage: None, ..away(21) }, Verdict::Degraded, [200, 503]),
            (
                Facts { whole_outage: away(20).whole_outage, ..away(21) },
                Verdict::Degraded,
                [200, 503],
            ),
            (Facts { unasked: Duration::from_secs(8), ..well() }, Verdict::Down, [503, 503]),
            (Facts { stage: Stage::Leaving, ..well() }, Verdict::Down, [503, 503]),
        ];
        for (facts, verdict, codes) in cases {
            let health = facts.health();
            assert_eq!(health.status, verdict, "{facts:?}");
            assert_eq!([false, true].map(|strict| health.code(strict).as_u16()), codes);
            assert_eq!(health.reason.is_none(), verdict == Verdict::Ok);
        }
    }

    #[test]
    fn the_reason_is_bounded() {
        let outage = Some((Duration::from_secs(99), "x".repeat(10_000)));
        let reason = Facts { outage, ..away(99) }.health().reason.unwrap();
        assert_eq!(reason.len(), REASON_MAX_CHARS);
        assert!(reason.starts_with("Redis has been down for 99 s: "));
    }
}
