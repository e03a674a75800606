//! Lifetimes: a pure function of settings, class and times.
//!
//! [`rules`] says which lifetimes a session has, [`Lifetimes`] when it ends by them. The scripts in
//! `redis/scripts` judge by the same rules on Redis's clock; the model test holds the two against
//! each other.

pub mod preset;
pub mod rule;
pub mod rules;

use serde::{Deserialize, Serialize};

use super::content::Class;

/// The settings that decide when a session ends. All in milliseconds.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Lifetimes {
    /// An authenticated session ends this long after its last activity.
    pub idle_ms: u64,
    pub anonymous_idle_ms: u64,
    /// An anonymous one that was never opened after its first save.
    pub anonymous_unopened_ms: u64,
    /// An authenticated session ends this long after its login, whatever its activity; `None`: never.
    pub absolute_ms: Option<u64>,
    /// How long the dead session is kept so that it can be recognised.
    pub grace_ms: u64,
    /// How long the tombstone of an unlinked or expired session is kept.
    pub tombstone_ms: u64,
}

impl Default for Lifetimes {
    fn default() -> Self {
        const MINUTE_MS: u64 = 60 * 1000;
        Self {
            idle_ms: 15 * MINUTE_MS,
            anonymous_idle_ms: 7 * 24 * 60 * MINUTE_MS,
            anonymous_unopened_ms: 60 * MINUTE_MS,
            absolute_ms: None,
            grace_ms: 10 * MINUTE_MS,
            tombstone_ms: 60 * MINUTE_MS,
        }
    }
}

/// What lifetimes that Odoo's administrators set are held to, so that a mistyped one does not lock out who would correct it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Bounds {
    /// The shortest, idle or absolute.
    pub min_ms: u64,
    /// The longest; `None`: any.
    pub idle_max_ms: Option<u64>,
    pub absolute_max_ms: Option<u64>,
}

/// The times of one session, in milliseconds of Redis's clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Times {
    /// When its owner logged in (for an anonymous one: its first save).
    pub login_ms: u64,
    pub activity_ms: u64,
    /// Whether it was ever opened by a person after its first save.
    pub opened: bool,
}

/// Which of the limits ends a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Limit {
    /// Nobody was active for too long.
    Idle,
    /// The login is too long ago.
    Absolute,
    /// Nobody ever came back to it.
    Unopened,
}

impl Limit {
    /// The word for it in events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Absolute => "absolute",
            Self::Unopened => "unopened",
        }
    }
}

impl Lifetimes {
    /// The first millisecond in which the session is dead.
    pub fn end_ms(&self, class: Class, times: Times) -> u64 {
        self.end(class, times).0
    }

    /// The same, with the limit that ends it; where two end it at once, it is [`Limit::Idle`].
    pub fn end(&self, class: Class, times: Times) -> (u64, Limit) {
        let after_activity = |span_ms| times.activity_ms.saturating_add(span_ms);
        let (idle_ms, other) = match class {
            Class::Authenticated => {
                let absolute =
                    self.absolute_ms.map(|span_ms| times.login_ms.saturating_add(span_ms));
                (self.idle_ms, absolute.map(|end_ms| (end_ms, Limit::Absolute)))
            }
            Class::Anonymous => {
                let end_ms = after_activity(self.anonymous_unopened_ms);
                (self.anonymous_idle_ms, (!times.opened).then_some((end_ms, Limit::Unopened)))
            }
        };
        let idle = (after_activity(idle_ms), Limit::Idle);
        other.filter(|&(end_ms, _)| end_ms < idle.0).unwrap_or(idle)
    }

    /// Which limit has ended the session by `now_ms`; `None` while it lives.
    pub fn ended(&self, class: Class, times: Times, now_ms: u64) -> Option<Limit> {
        let (end_ms, limit) = self.end(class, times);
        (now_ms >= end_ms).then_some(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIMES: Lifetimes = Lifetimes {
        idle_ms: 100,
        anonymous_idle_ms: 1000,
        anonymous_unopened_ms: 50,
        absolute_ms: None,
        grace_ms: 0,
        tombstone_ms: 0,
    };
    const TIMES: Times = Times { login_ms: 10, activity_ms: 20, opened: false };

    #[test]
    fn an_authenticated_session_ends_by_idleness() {
        assert_eq!(LIFETIMES.end(Class::Authenticated, TIMES), (120, Limit::Idle));
        let opened = Times { opened: true, ..TIMES };
        assert_eq!(LIFETIMES.end_ms(Class::Authenticated, opened), 120);
    }

    #[test]
    fn an_authenticated_session_ends_by_age_whatever_its_activity() {
        let lifetimes = Lifetimes { absolute_ms: Some(60), ..LIFETIMES };
        let busy = Times { activity_ms: 69, ..TIMES };
        assert_eq!(lifetimes.end(Class::Authenticated, busy), (70, Limit::Absolute));
        let later = Lifetimes { absolute_ms: Some(500), ..LIFETIMES };
        assert_eq!(later.end(Class::Authenticated, TIMES), (120, Limit::Idle));
        let together = Lifetimes { absolute_ms: Some(110), ..LIFETIMES };
        assert_eq!(together.end(Class::Authenticated, TIMES), (120, Limit::Idle));
    }

    #[test]
    fn an_anonymous_session_lives_longer_once_opened() {
        let lifetimes = Lifetimes { absolute_ms: Some(1), ..LIFETIMES };
        assert_eq!(lifetimes.end(Class::Anonymous, TIMES), (70, Limit::Unopened));
        let opened = Times { opened: true, ..TIMES };
        assert_eq!(lifetimes.end(Class::Anonymous, opened), (1020, Limit::Idle));
        let short = Lifetimes { anonymous_idle_ms: 30, ..LIFETIMES };
        assert_eq!(short.end(Class::Anonymous, TIMES), (50, Limit::Idle));
    }

    #[test]
    fn dead_in_the_very_millisecond() {
        let ended = |now_ms| LIFETIMES.ended(Class::Authenticated, TIMES, now_ms);
        assert_eq!((ended(119), ended(120)), (None, Some(Limit::Idle)));
    }

    #[test]
    fn the_end_of_time_is_no_overflow() {
        let forever = Lifetimes { idle_ms: u64::MAX, absolute_ms: Some(u64::MAX), ..LIFETIMES };
        assert_eq!(forever.end_ms(Class::Authenticated, TIMES), u64::MAX);
        let unopened = Lifetimes { anonymous_unopened_ms: u64::MAX, ..LIFETIMES };
        assert_eq!(unopened.end_ms(Class::Anonymous, TIMES), 1020);
    }

    #[test]
    fn limits_have_words() {
        let words = [Limit::Idle, Limit::Absolute, Limit::Unopened].map(Limit::as_str);
        assert_eq!(words, ["idle", "absolute", "unopened"]);
    }
}
