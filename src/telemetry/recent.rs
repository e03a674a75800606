//! The last warnings and errors of the log, kept for `sessionfs status`: whoever asks what is
//! wrong should not have to look for the log first. They are the log's own lines, so they hold no
//! session id, either.

use std::collections::VecDeque;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::line::Line;
use crate::sync::lock;
use crate::telemetry::now_ms;

/// How many are kept.
const MOST: usize = 20;

/// A warning or an error.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Recent {
    /// When it came last: milliseconds since the epoch, by this host's clock.
    pub at_ms: u64,
    /// `warning` or `error`.
    pub level: String,
    /// What happened, as in the log.
    pub text: String,
    /// How often it came since it was first kept: lines of the same kind are kept once.
    pub count: u64,
    /// What makes two lines one of a kind.
    kind: String,
}

static RECENT: Mutex<VecDeque<Recent>> = Mutex::new(VecDeque::new());

/// The last ones, oldest first.
pub(crate) fn recent() -> Vec<Recent> {
    lock(&RECENT).iter().cloned().collect()
}

/// Takes over what another process of this mount has kept.
pub(crate) fn inherit(earlier: Vec<Recent>) {
    for one in earlier {
        keep(&mut lock(&RECENT), one);
    }
}

/// A line of a kind that is kept already takes its place, and becomes the newest.
fn keep(kept: &mut VecDeque<Recent>, mut newest: Recent) {
    if let Some(same) = kept.iter().position(|one| one.kind == newest.kind)
        && let Some(earlier) = kept.remove(same)
    {
        newest.count += earlier.count;
    }
    while kept.len() >= MOST {
        kept.pop_front();
    }
    kept.push_back(newest);
}

/// Keeps what is logged.
pub(crate) struct Keep;

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = Line::of(event);
        let is_error = *event.metadata().level() == Level::ERROR;
        let newest = Recent {
            at_ms: now_ms(),
            level: if is_error { "error" } else { "warning" }.to_owned(),
            text: line.text(),
            count: 1,
            kind: line.kind(event),
        };
        keep(&mut lock(&RECENT), newest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    fn one(kind: &str, at_ms: u64) -> Recent {
        let (level, text) = ("warning".to_owned(), format!("{kind} at {at_ms}"));
        Recent { at_ms, level, text, count: 1, kind: kind.to_owned() }
    }

    #[test]
    fn the_same_kind_is_kept_once_and_the_oldest_go() {
        let mut kept = VecDeque::new();
        for at_ms in 0..1000 {
            keep(&mut kept, one("flood", at_ms));
        }
        keep(&mut kept, one("rare", 1000));
        keep(&mut kept, one("flood", 1001));
        let seen: Vec<_> = kept.iter().map(|one| (one.at_ms, one.count)).collect();
        assert_eq!(seen, [(1000, 1), (1001, 1001)]);
        for kind in 0..100 {
            keep(&mut kept, one(&kind.to_string(), 2000));
        }
        assert_eq!(kept.len(), MOST);
        assert_eq!(kept.back().unwrap().kind, "99");
    }

    #[test]
    fn a_line_reads_as_the_log_does() {
        let subscriber = tracing_subscriber::registry().with(Keep);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(event = "link", state = "down", cause = "recent_test refused");
            tracing::error!(operation = "recent_test", errno = 5, "cannot\nbe read");
        });
        let texts: Vec<_> = recent().into_iter().map(|one| (one.level, one.text)).collect();
        let has = |level: &str, text: &str| {
            texts.iter().any(|(found, line)| found == level && line == text)
        };
        assert!(has("warning", "link, state down, cause recent_test refused"), "{texts:?}");
        assert!(has("error", "cannot be read; operation recent_test, errno 5"), "{texts:?}");
    }
}
