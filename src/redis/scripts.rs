//! The Lua scripts: loading, calling, and reading their answers.
//!
//! Each is `clock.lua` + `session.lua` + its own file, so that every rule exists once. All answers
//! have one shape: `{now, status, {expired...}, ...}`.

use std::time::Duration;

use redis::{Cmd, Value};

use super::envelope::{Header, Unreadable};
use super::errors::{ErrorCode, ServerError};
use super::link::{Fault, Link, Need};
use crate::session::name::Alias;
use crate::session::policy::Lifetimes;
use crate::store::StoreError;

const CLOCK: &str = include_str!("scripts/clock.lua");
const SESSION: &str = include_str!("scripts/session.lua");
/// By this `session.lua` says that a value is no session of ours.
const UNREADABLE: &str = "UNREADABLE ";

/// All scripts.
#[derive(Debug)]
pub struct Scripts {
    pub(super) fetch: Script,
    pub(super) publish: Script,
    pub(super) unlink: Script,
    pub(super) amend: Script,
    pub(super) touch: Script,
    pub(super) list: Script,
    pub(super) import: Script,
    pub(super) settings: Script,
    pub(super) set: Script,
    pub(super) probe: Script,
    /// The clock is Redis's own, and so tells of its jumps.
    pub(super) own_clock: bool,
}

/// One script.
#[derive(Debug)]
pub struct Script {
    pub(super) name: &'static str,
    code: String,
    sha: String,
}

impl Default for Scripts {
    fn default() -> Self {
        Self { own_clock: true, ..Self::with_clock(CLOCK) }
    }
}

impl Scripts {
    /// The scripts with another clock: Lua that defines `now_ms()`. For tests, which let hours
    /// pass without waiting; such a jump is not taken for one of Redis's clock.
    pub fn with_clock(clock: &str) -> Self {
        let script = |name, body: &str| {
            let code = [clock, SESSION, body].join("\n");
            let sha = redis::Script::new(&code).get_hash().to_owned();
            Script { name, code, sha }
        };
        Self {
            fetch: script("fetch", include_str!("scripts/fetch.lua")),
            publish: script("publish", include_str!("scripts/publish.lua")),
            unlink: script("unlink", include_str!("scripts/unlink.lua")),
            amend: script("amend", include_str!("scripts/amend.lua")),
            touch: script("touch", include_str!("scripts/touch.lua")),
            list: script("list", include_str!("scripts/list.lua")),
            import: script("import", include_str!("scripts/import.lua")),
            settings: script("settings", include_str!("scripts/settings.lua")),
            set: script("set", include_str!("scripts/set.lua")),
            probe: script("probe", include_str!("scripts/probe.lua")),
            own_clock: false,
        }
    }

    /// With another clock that is taken for Redis's own, so that its jumps are heeded.
    #[must_use]
    pub fn heeding_jumps(self) -> Self {
        Self { own_clock: true, ..self }
    }

    /// Every script.
    pub(super) fn all(&self) -> [&Script; 10] {
        [
            &self.fetch,
            &self.publish,
            &self.unlink,
            &self.amend,
            &self.touch,
            &self.list,
            &self.import,
            &self.settings,
            &self.set,
            &self.probe,
        ]
    }
}

impl Script {
    /// The command that makes the server know it.
    pub(super) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(&self.code);
        command
    }

    /// A call of it.
    pub(super) fn call(&self, policy: &Policy) -> Call<'_> {
        let mut call = Call { script: self, keys: Vec::new(), arguments: Vec::new() };
        let lifetimes = &policy.lifetimes;
        call.argument(lifetimes.idle_ms.to_string());
        call.argument(lifetimes.anonymous_idle_ms.to_string());
        call.argument(lifetimes.anonymous_unopened_ms.to_string());
        call.argument(lifetimes.absolute_ms.map_or_else(|| "-1".into(), |ms| ms.to_string()));
        call.argument(lifetimes.grace_ms.to_string());
        call.argument(lifetimes.tombstone_ms.to_string());
        call.argument(match policy.clock {
            ClockView::Unknown => String::new(),
            ClockView::Jumped => "lenient".to_owned(),
            ClockView::Expected(now_ms) => now_ms.to_string(),
        });
        call
    }
}

/// By what a script judges.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    pub lifetimes: Lifetimes,
    pub clock: ClockView,
}

/// What this node thinks of Redis's clock.
#[derive(Clone, Copy, Debug)]
pub(super) enum ClockView {
    /// Nothing.
    Unknown,
    /// It has jumped not long ago: nothing is judged stale.
    Jumped,
    /// This is what it should be at, in milliseconds. If it is not, nothing is judged stale.
    Expected(u64),
}

/// One call, being put together.
pub(super) struct Call<'a> {
    script: &'a Script,
    keys: Vec<String>,
    arguments: Vec<Argument<'a>>,
}

enum Argument<'a> {
    Text(String),
    Bytes(&'a [u8]),
}

impl<'a> Call<'a> {
    pub fn key(&mut self, key: String) -> &mut Self {
        self.keys.push(key);
        self
    }

    pub fn argument(&mut self, text: impl Into<String>) -> &mut Self {
        self.arguments.push(Argument::Text(text.into()));
        self
    }

    pub fn bytes(&mut self, bytes: &'a [u8]) -> &mut Self {
        self.arguments.push(Argument::Bytes(bytes));
        self
    }

    pub fn command(&self) -> Cmd {
        self.packed("EVALSHA", &self.script.sha)
    }

    fn packed(&self, verb: &str, which: &str) -> Cmd {
        let mut command = redis::cmd(verb);
        command.arg(which).arg(self.keys.len());
        for key in &self.keys {
            command.arg(key);
        }
        for argument in &self.arguments {
            match argument {
                Argument::Text(text) => command.arg(text),
                Argument::Bytes(bytes) => command.arg(*bytes),
            };
        }
        command
    }

    /// Sends it: one round trip, or a second one if the server had to be told the script again.
    pub async fn send(
        &self,
        link: &Link,
        need: Need,
        bound: Duration,
    ) -> Result<Answer, CallFault> {
        let reply = match link.request(&self.command(), need, bound).await {
            Err(Fault::Server(error, _)) if error.code == ErrorCode::NoScript => {
                link.request(&self.packed("EVAL", &self.script.code), need, bound).await
            }
            other => other,
        };
        match reply {
            Ok(reply) => Answer::read(self.script.name, reply.value, reply.generation, link),
            Err(Fault::NotSent(text)) => Err(CallFault::NotSent(text)),
            Err(Fault::NoAnswer(text)) => Err(CallFault::Lost(text)),
            Err(Fault::Server(error, generation)) => Err(CallFault::Server(error, generation)),
        }
    }
}

/// Why a call has no result.
#[derive(Debug)]
pub(super) enum CallFault {
    /// It was not sent.
    NotSent(String),
    /// It may have been carried out.
    Lost(String),
    /// The server's own answer, directly or inside the script, by the connection of this generation.
    Server(ServerError, u64),
    /// What is stored there, or the answer itself, cannot be read.
    Unreadable(StoreError),
}

impl From<CallFault> for StoreError {
    fn from(fault: CallFault) -> Self {
        match fault {
            CallFault::NotSent(text) | CallFault::Lost(text) => Self::Unavailable(text),
            CallFault::Server(error, _) => error.into(),
            CallFault::Unreadable(error) => error,
        }
    }
}

/// A session that a call has ended.
#[derive(Debug)]
pub(super) struct Expired {
    pub alias: Alias,
    pub header: Header,
    pub limit: String,
    pub age_ms: u64,
    pub idle_ms: u64,
}

/// What a script answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// Redis's time.
    pub now_ms: u64,
    /// Sessions that were ended on the way.
    pub expired: Vec<Expired>,
    pub status: String,
    rest: std::vec::IntoIter<Value>,
    script: &'static str,
}

impl Answer {
    fn read(
        script: &'static str,
        value: Value,
        generation: u64,
        link: &Link,
    ) -> Result<Self, CallFault> {
        let mut answer = Self::parts(script, value).map_err(CallFault::Unreadable)?;
        match answer.failure().map_err(CallFault::Unreadable)? {
            Some(error) => {
                link.refused(generation, &error);
                Err(CallFault::Server(error, generation))
            }
            None => Ok(answer),
        }
    }

    /// Reads the shape that all answers have.
    pub fn parts(script: &'static str, value: Value) -> Result<Self, StoreError> {
        let Value::Array(values) = value else { return Err(strange(script)) };
        let mut answer = Self {
            now_ms: 0,
            expired: Vec::new(),
            status: String::new(),
            rest: values.into_iter(),
            script,
        };
        answer.now_ms = answer.number()?;
        answer.status = answer.text()?;
        for ended in answer.array()? {
            let Value::Array(values) = ended else { return Err(strange(script)) };
            let mut facts = Self {
                now_ms: 0,
                expired: Vec::new(),
                status: String::new(),
                rest: values.into_iter(),
                script,
            };
            answer.expired.push(Expired {
                alias: facts.alias()?,
                header: facts.header()?,
                limit: facts.text()?,
                age_ms: facts.number()?,
                idle_ms: facts.number()?,
            });
        }
        Ok(answer)
    }

    /// An answer that this operation has no use for: its script and we do not fit together.
    pub fn strange(&self) -> StoreError {
        strange(self.script)
    }

    /// Whether something is left to read.
    pub fn more(&self) -> bool {
        self.rest.len() > 0
    }

    pub fn number(&mut self) -> Result<u64, StoreError> {
        match self.rest.next() {
            // Never negative but for a clock set back.
            Some(Value::Int(number)) => Ok(u64::try_from(number).unwrap_or(0)),
            _ => Err(self.strange()),
        }
    }

    pub fn bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        match self.rest.next() {
            Some(Value::BulkString(bytes)) => Ok(bytes),
            _ => Err(self.strange()),
        }
    }

    pub fn text(&mut self) -> Result<String, StoreError> {
        String::from_utf8(self.bytes()?).map_err(|_| self.strange())
    }

    /// The server's error, if one was met inside the script. A value that the script could not read
    /// is no error of the server's.
    pub fn failure(&mut self) -> Result<Option<ServerError>, StoreError> {
        if self.status != "failed" {
            return Ok(None);
        }
        let why = self.text()?;
        match why.strip_prefix(UNREADABLE) {
            Some(what) => Err(StoreError::Unreadable(what.trim().to_owned())),
            None => Ok(Some(why.as_str().into())),
        }
    }

    pub fn array(&mut self) -> Result<Vec<Value>, StoreError> {
        match self.rest.next() {
            Some(Value::Array(values)) => Ok(values),
            _ => Err(self.strange()),
        }
    }

    pub fn alias(&mut self) -> Result<Alias, StoreError> {
        Alias::parse(&self.text()?).ok_or_else(|| self.strange())
    }

    pub fn header(&mut self) -> Result<Header, StoreError> {
        let (header, _) = Header::parse(&self.bytes()?)?;
        Ok(header)
    }

    /// Goes on reading inside the next value, an array.
    pub fn enter(&mut self) -> Result<(), StoreError> {
        self.rest = self.array()?.into_iter();
        Ok(())
    }
}

impl From<Unreadable> for StoreError {
    fn from(unreadable: Unreadable) -> Self {
        Self::Unreadable(unreadable.0)
    }
}

fn strange(script: &str) -> StoreError {
    StoreError::Unreadable(format!("the script {script} gave an answer of another shape"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_any_other_shape_are_errors() {
        for value in [
            Value::Nil,
            Value::Int(1),
            Value::Array(vec![]),
            Value::Array(vec![Value::Int(1), Value::Int(2), Value::Array(vec![])]),
            Value::Array(vec![
                Value::Int(1),
                Value::BulkString(b"absent".to_vec()),
                Value::Array(vec![Value::Array(vec![Value::BulkString(b"x".to_vec())])]),
            ]),
            Value::Array(vec![Value::Int(1), Value::BulkString(vec![255]), Value::Array(vec![])]),
        ] {
            assert!(matches!(Answer::parts("fetch", value), Err(StoreError::Unreadable(_))));
        }
    }

    #[test]
    fn every_script_is_complete() {
        let scripts = Scripts::default();
        for script in scripts.all() {
            assert!(script.code.starts_with(CLOCK));
            assert_eq!(script.sha.len(), 40);
        }
    }
}
