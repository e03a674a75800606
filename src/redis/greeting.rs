//! What is asked on a new connection before it is used.
//!
//! The server learns the scripts, and says its time, what all servers agree on, and the live
//! settings. So no session is read or judged by a connection before that is known. The [`Probe`]
//! follows: whether the server lets us read, and takes changes.

use std::sync::Arc;

use redis::{Cmd, Value};
use tokio::time::Instant;

use super::admission::Admission;
use super::agreement::{self, Agreement};
use super::clock::Time;
use super::keys::Keys;
use super::live::Live;
use super::requests::Requests;
use super::scripts::{Policy, Scripts};
use super::servers;
use crate::session::name::{Alias, Shard};

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

/// Whatever sessions need, done to nothing: it changes nothing, and adds nothing to an append-only
/// file. It is a part of each greeting, and sent again to find out whether changes are taken.
#[derive(Clone, Default)]
pub(crate) struct Probe {
    /// What reads need: one that is refused, and the connection is not used.
    pub reads: Vec<Cmd>,
    /// What changes need besides: one that is refused, and the link is read-only.
    pub writes: Vec<Cmd>,
}

impl Probe {
    /// Of this shard.
    pub(super) fn new(scripts: &Scripts, keys: &Keys, shard: Shard) -> Self {
        // No session has such an alias: nobody hashes to that.
        let alias = Alias::parse(&format!("{}{}", shard.as_str(), "-".repeat(82)));
        let Some(alias) = alias else { return Self::default() };
        let (session, index, alias) = (keys.session(&alias), keys.index(shard), alias.as_str());
        let requests =
            Requests { scripts, keys, policy: Policy::unknowing(), attempt_ms: 0, now_ms: 0 };
        let mut reads = commands(&[
            &["GETRANGE", &session, "0", "0"],
            &["STRLEN", &session],
            &["PTTL", &session],
            &["ZSCORE", &index, alias],
        ]);
        reads.push(requests.run_nothing(shard).command());
        let mut writes = vec![requests.write_nothing(shard)];
        writes.extend(commands(&[
            &["ZADD", &index, "XX", "0", alias],
            &["ZREM", &index, alias],
            &["DEL", &session],
            &["PEXPIRE", &session, "1"],
        ]));
        Self { reads, writes }
    }

    pub(super) fn commands(&self) -> impl Iterator<Item = &Cmd> {
        self.reads.iter().chain(&self.writes)
    }
}

fn commands(all: &[&[&str]]) -> Vec<Cmd> {
    all.iter()
        .map(|words| {
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]);
            command
        })
        .collect()
}

/// Makes the questions.
pub(super) struct Greeter {
    keys: Keys,
    /// Each script, and what a server answers that has loaded it.
    loads: Vec<(Cmd, Value)>,
    probe: Probe,
    settings: Option<Cmd>,
    live: Arc<Live>,
    agreement: Arc<Agreement>,
    admission: Admission,
}

impl Greeter {
    pub(super) fn new(
        keys: &Keys,
        scripts: &Scripts,
        live: &Arc<Live>,
        agreement: &Arc<Agreement>,
        admission: &Admission,
    ) -> Self {
        Self {
            keys: keys.clone(),
            loads: scripts.all().iter().map(|script| (script.load(), script.loaded())).collect(),
            probe: Probe::new(scripts, keys, Shard::FIRST),
            settings: live.request(scripts, keys),
            live: Arc::clone(live),
            agreement: Arc::clone(agreement),
            admission: admission.clone(),
        }
    }

    /// What follows them.
    pub(super) fn probe(&self) -> Probe {
        self.probe.clone()
    }

    /// Those for the server of this clock.
    pub(super) fn questions(&self, time: &Arc<Time>) -> Vec<Question> {
        if let Some(refusal) = self.admission.refusal() {
            return vec![Question::new(redis::cmd("TIME"), |_, _| Err(refusal))];
        }
        let load = |(load, loaded): &(Cmd, Value)| {
            let loaded = loaded.clone();
            Question::new(load.clone(), move |answer, _| {
                // A proxy, or whatever else answers everybody.
                let is_redis = answer == loaded;
                is_redis.then_some(()).ok_or_else(|| "what answers there is not Redis".to_owned())
            })
        };
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
