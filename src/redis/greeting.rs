//! What is asked on a new connection before it is used.
//!
//! The server learns the scripts, and says its time, what all servers agree on, and the live
//! settings. So no session is read or judged by a connection before that is known. The [`Probe`]
//! follows: whether the server lets us read, and takes changes.

use std::sync::Arc;

use redis::cluster_routing::Slot;
use redis::{Cmd, Value};
use tokio::time::Instant;

use super::admission::Admission;
use super::agreement::{self, Agreement};
use super::clock::Time;
use super::keys::Keys;
use super::live::Live;
use super::primary::Slots;
use super::probe;
use super::requests::{Requests, size};
use super::scripts::Scripts;
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
#[derive(Default)]
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
        let requests = Requests::unserved(scripts, keys);
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
    scripts: Arc<Scripts>,
    settings: Option<Cmd>,
    live: Arc<Live>,
    agreement: Arc<Agreement>,
    admission: Admission,
}

impl Greeter {
    pub(super) fn new(
        keys: &Keys,
        scripts: &Arc<Scripts>,
        live: &Arc<Live>,
        agreement: &Arc<Agreement>,
        admission: &Admission,
    ) -> Self {
        Self {
            keys: keys.clone(),
            loads: scripts.all().iter().map(|script| (script.load(), script.loaded())).collect(),
            scripts: Arc::clone(scripts),
            settings: live.request(scripts, keys),
            live: Arc::clone(live),
            agreement: Arc::clone(agreement),
            admission: admission.clone(),
        }
    }

    /// What follows them, to a server with these slots. One without a shard has no session.
    pub(super) fn probe(&self, slots: &Slots) -> Probe {
        let probe = |shard| Probe::new(&self.scripts, &self.keys, shard);
        slots.shard().map(probe).unwrap_or_default()
    }

    /// Those for the server of this clock and these slots. Each server of a Cluster is asked for what
    /// it has, and is used once the others have said what they have.
    pub(super) fn questions(
        &self,
        time: &Arc<Time>,
        slots: &Slots,
        asks_role: bool,
    ) -> Vec<Question> {
        if let Some(refusal) = self.admission.refusal() {
            return vec![Question::new(redis::cmd("TIME"), |_, _| Err(refusal))];
        }
        let mut questions = Vec::new();
        if asks_role {
            questions.push(Self::role());
        }
        questions.extend(self.loads.iter().map(Self::load));
        questions.push(self.time(time));
        let has = |key: String| slots.has(Slot::for_key(key));
        if has(self.keys.secret()) {
            questions.push(self.secret());
        }
        if has(self.keys.servers()) {
            questions.push(self.members(time));
        }
        if has(self.keys.config()) {
            questions.extend(self.settings());
        }
        if let Some(shard) = slots.shard().filter(|_| slots.is_part()) {
            questions.push(self.others(shard));
        }
        questions
    }

    /// Whether it is a master.
    fn role() -> Question {
        let hello = redis::cmd("HELLO").arg(3).to_owned();
        Question::new(hello, |answer, _| match probe::fact(&answer, "role") {
            Some(role) if role != "master" => Err(format!("it is a {role}, and not the master")),
            _ => Ok(()),
        })
    }

    fn load((load, loaded): &(Cmd, Value)) -> Question {
        let loaded = loaded.clone();
        Question::new(load.clone(), move |answer, _| {
            // A proxy, or whatever else answers everybody.
            let is_redis = answer == loaded;
            is_redis.then_some(()).ok_or_else(|| "what answers there is not Redis".to_owned())
        })
    }

    fn time(&self, time: &Arc<Time>) -> Question {
        let (time, live) = (Arc::clone(time), Arc::clone(&self.live));
        Question::new(redis::cmd("TIME"), move |answer, sent| {
            time.observe_answer(&answer, sent, live.longest_idle_ms());
            Ok(())
        })
    }

    fn secret(&self) -> Question {
        let agreement = Arc::clone(&self.agreement);
        let command = agreement::fingerprint_command(&self.keys);
        Question::new(command, move |answer, _| agreement.follow_secret(answer).map(drop))
    }

    fn members(&self, time: &Arc<Time>) -> Question {
        let (time, agreement) = (Arc::clone(time), Arc::clone(&self.agreement));
        Question::new(servers::members(&self.keys), move |answer, _| {
            agreement.follow_members(answer, time.now_ms())
        })
    }

    fn settings(&self) -> Option<Question> {
        let live = Arc::clone(&self.live);
        Some(Question::new(self.settings.clone()?, move |answer, _| {
            live.take_in(answer);
            Ok(())
        }))
    }

    /// Asked of a server of a Cluster last: by then it must be known what all agree on, also where
    /// others have that.
    fn others(&self, shard: Shard) -> Question {
        let (agreement, live) = (Arc::clone(&self.agreement), Arc::clone(&self.live));
        Question::new(size(&self.keys.index(shard)), move |_, _| {
            agreement.is_usable()?;
            if live.is_known() {
                return Ok(());
            }
            Err("the server that has the live settings has not answered yet".to_owned())
        })
    }
}
