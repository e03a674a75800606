//! What is asked on a new connection before it is used.
//!
//! The server learns the scripts, and says its time, what all servers agree on, and the live
//! settings. So no session is read or judged by a connection before that is known.

use std::sync::Arc;

use redis::{Cmd, Value};
use tokio::time::Instant;

use super::agreement::{self, Agreement};
use super::clock::Time;
use super::keys::Keys;
use super::live::Live;
use super::scripts::Scripts;
use super::servers;

/// One command, and what is done with its answer and the time at which it was sent. It can say that
/// this connection must not be used, with the reason.
pub(crate) struct Question {
    pub command: Cmd,
    pub hear: Box<dyn FnOnce(Value, Instant) -> Result<(), String> + Send>,
}

impl Question {
    fn new(
        command: Cmd,
        hear: impl FnOnce(Value, Instant) -> Result<(), String> + Send + 'static,
    ) -> Self {
        Self { command, hear: Box::new(hear) }
    }
}

/// Makes the questions.
pub(super) struct Greeter {
    keys: Keys,
    loads: Vec<Cmd>,
    settings: Option<Cmd>,
    live: Arc<Live>,
    agreement: Arc<Agreement>,
}

impl Greeter {
    pub(super) fn new(
        keys: &Keys,
        scripts: &Scripts,
        live: &Arc<Live>,
        agreement: &Arc<Agreement>,
    ) -> Self {
        Self {
            keys: keys.clone(),
            loads: scripts.all().iter().map(|script| script.load()).collect(),
            settings: live.request(scripts, keys),
            live: Arc::clone(live),
            agreement: Arc::clone(agreement),
        }
    }

    /// Those for the server of this clock.
    pub(super) fn questions(&self, time: &Arc<Time>) -> Vec<Question> {
        let load = |load: &Cmd| Question::new(load.clone(), |_, _| Ok(()));
        let mut questions: Vec<_> = self.loads.iter().map(load).collect();
        let (own, live) = (Arc::clone(time), Arc::clone(&self.live));
        questions.push(Question::new(redis::cmd("TIME"), move |answer, sent| {
            own.observe_answer(&answer, sent, live.lifetimes().idle_ms);
            Ok(())
        }));
        let agreement = Arc::clone(&self.agreement);
        questions
            .push(Question::new(agreement::fingerprint_command(&self.keys), move |answer, _| {
                agreement.follow_secret(answer).map(drop)
            }));
        let (agreement, own) = (Arc::clone(&self.agreement), Arc::clone(time));
        questions.push(Question::new(servers::members(&self.keys), move |answer, _| {
            agreement.follow_members(answer, own.now_ms())
        }));
        if let Some(settings) = &self.settings {
            let live = Arc::clone(&self.live);
            questions.push(Question::new(settings.clone(), move |answer, _| {
                live.take_in(answer);
                Ok(())
            }));
        }
        questions
    }
}
