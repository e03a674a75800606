//! Client-side caching: a server tells of each change of what was read by a connection (`CLIENT TRACKING`).
//!
//! It is asked for on the connection that carries the requests: there the news of a change cannot overtake an answer.
//! With `NOLOOP` it does not tell of changes by that connection itself, so those that are made below the layer that keeps
//! sessions are told here. A script has to read a session after it has changed it, or its next change is not told.
//!
//! Redis remembers all keys of a script; those that are no session's are passed over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use redis::{Cmd, PushInfo, Value};

use super::keys::Keys;
use crate::session::name::Alias;
use crate::store::Changes;

/// What is told, and to whom.
pub(crate) struct Tracking {
    keys: Keys,
    is_wanted: bool,
    hearers: RwLock<Vec<Arc<dyn Changes>>>,
    /// It was logged that a server does not tell.
    is_refusal_told: AtomicBool,
}

impl Tracking {
    /// `is_wanted`: whether servers are asked to tell.
    pub(super) fn new(keys: Keys, is_wanted: bool) -> Self {
        let hearers = RwLock::default();
        Self { keys, is_wanted, hearers, is_refusal_told: AtomicBool::new(false) }
    }

    /// Who hears of changes from now on, too.
    pub(super) fn tell(&self, hearer: Arc<dyn Changes>) {
        self.hearers.write().unwrap_or_else(PoisonError::into_inner).push(hearer);
    }

    fn tell_all(&self, news: impl Fn(&dyn Changes)) {
        let hearers = self.hearers.read().unwrap_or_else(PoisonError::into_inner);
        hearers.iter().for_each(|hearer| news(&**hearer));
    }

    /// What a connection is asked for, if anything.
    pub(super) fn command(&self) -> Option<Cmd> {
        self.is_wanted.then(|| {
            let mut command = redis::cmd("CLIENT");
            command.arg("TRACKING").arg("ON").arg("NOLOOP");
            command
        })
    }

    /// A server does not tell of changes. Logged once.
    pub(super) fn refused(&self, why: &str) {
        if !self.is_refusal_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                event = "changes_not_told",
                why,
                "Redis does not tell of changes (CLIENT TRACKING): no session is kept in the near cache, every open \
                 asks Redis"
            );
        }
    }

    /// What a server sends unasked, of the kind `invalidate`.
    pub(super) fn hear(&self, push: &PushInfo) {
        let Some(Value::Array(keys)) = push.data.first() else {
            // Everything was deleted, or it is not known what was.
            return self.all_changed();
        };
        for key in keys {
            match key {
                Value::BulkString(key) => {
                    if let Some(alias) = self.keys.alias_of(key) {
                        self.changed(&alias);
                    }
                }
                _ => self.all_changed(),
            }
        }
    }

    /// This session was changed.
    pub(super) fn changed(&self, alias: &Alias) {
        self.tell_all(|hearer| hearer.changed(alias));
    }

    /// Anything may have changed.
    pub(super) fn all_changed(&self) {
        self.tell_all(|hearer| hearer.all_changed());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use redis::PushKind;

    use super::*;
    use crate::sync::lock;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Changes for Heard {
        fn changed(&self, alias: &Alias) {
            lock(&self.0).push(alias.to_string());
        }

        fn all_changed(&self) {
            lock(&self.0).push("all".to_owned());
        }
    }

    #[test]
    fn changes_of_sessions_are_told_and_of_nothing_else() {
        let tracking = Tracking::new(Keys::new("p"), true);
        let heard = Arc::new(Heard::default());
        tracking.tell(Arc::clone(&heard) as Arc<dyn Changes>);
        let alias = "a".repeat(40);
        let hear = |data: Value| {
            tracking.hear(&PushInfo { kind: PushKind::Invalidate, data: vec![data] });
            std::mem::take(&mut *lock(&heard.0))
        };
        let keys = |keys: &[&str]| {
            Value::Array(keys.iter().map(|key| Value::BulkString(key.as_bytes().into())).collect())
        };
        let session = format!("p:s:{{aa}}:{alias}");
        assert_eq!(hear(keys(&["p:a:{aa}", &session, "other"])), [alias]);
        assert_eq!(hear(keys(&["p:s:{aa}:x", "p:s:{ab}:", ""])), [""; 0]);
        assert_eq!(hear(Value::Nil), ["all"]);
        assert_eq!(hear(Value::Array(vec![Value::Int(1)])), ["all"]);
    }
}
