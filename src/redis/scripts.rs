//! The Lua scripts: loading, calling, and reading their answers.
//!
//! Each is its arguments by name ([`super::args`]), `clock.lua`, `rules.lua`, `session.lua` and its own
//! file, so that every rule exists once. All answers have one shape: `{now, status, {expired...}, ...}`.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::time::Instant;

use super::args::{
    self, AmendArgs, Argument, Arguments as _, FetchArgs, FindArgs, HeadersArgs, ImportArgs,
    LeaseArgs, ListArgs, OfScript, PieceArgs, PolicyArgs, ProbeArgs, PublishArgs, RoomArgs,
    SetArgs, SettingsArgs, TouchArgs, UnlinkArgs, prologue,
};
use super::envelope::{self, FORMAT, Header, OLDEST_FORMAT, Unreadable};
use super::errors::{Effect, ErrorCode, ServerError};
use super::link::{Fault, Link, Need, Reply};
use super::primary::Primary;
use super::rules::Judged;
use crate::session::name::Alias;
use crate::session::policy::Lifetimes;
use crate::store::{ChangeId, StoreError};

const CLOCK: &str = include_str!("scripts/clock.lua");
const RULES: &str = include_str!("scripts/rules.lua");
const SESSION: &str = include_str!("scripts/session.lua");
/// By this `session.lua` says that a value is no session of ours.
const UNREADABLE: &str = "UNREADABLE ";
/// And by this, that a session is in an index that it was not given.
const OTHER_INDEX: &[u8] = b"OTHERINDEX";

#[derive(Debug)]
pub struct Scripts {
    pub(super) fetch: Script,
    pub(super) piece: Script,
    pub(super) publish: Script,
    pub(super) unlink: Script,
    pub(super) amend: Script,
    pub(super) touch: Script,
    pub(super) list: Script,
    pub(super) headers: Script,
    pub(super) find: Script,
    pub(super) room: Script,
    pub(super) import: Script,
    pub(super) settings: Script,
    pub(super) set: Script,
    pub(super) lease: Script,
    pub(super) probe: Script,
    /// The clock is Redis's own, so what seems a jump is one.
    pub(super) own_clock: bool,
}

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
        Self {
            fetch: Script::new::<FetchArgs>("fetch", clock, include_str!("scripts/fetch.lua")),
            piece: Script::new::<PieceArgs>("piece", clock, include_str!("scripts/piece.lua")),
            publish: Script::new::<PublishArgs>(
                "publish",
                clock,
                include_str!("scripts/publish.lua"),
            ),
            unlink: Script::new::<UnlinkArgs>("unlink", clock, include_str!("scripts/unlink.lua")),
            amend: Script::new::<AmendArgs>("amend", clock, include_str!("scripts/amend.lua")),
            touch: Script::new::<TouchArgs>("touch", clock, include_str!("scripts/touch.lua")),
            list: Script::new::<ListArgs>("list", clock, include_str!("scripts/list.lua")),
            headers: Script::new::<HeadersArgs>(
                "headers",
                clock,
                include_str!("scripts/headers.lua"),
            ),
            find: Script::new::<FindArgs>("find", clock, include_str!("scripts/find.lua")),
            room: Script::new::<RoomArgs>("room", clock, include_str!("scripts/room.lua")),
            import: Script::new::<ImportArgs>("import", clock, include_str!("scripts/import.lua")),
            settings: Script::new::<SettingsArgs>(
                "settings",
                clock,
                include_str!("scripts/settings.lua"),
            ),
            set: Script::new::<SetArgs>("set", clock, include_str!("scripts/set.lua")),
            lease: Script::new::<LeaseArgs>("lease", clock, include_str!("scripts/lease.lua")),
            probe: Script::new::<ProbeArgs>("probe", clock, include_str!("scripts/probe.lua")),
            own_clock: false,
        }
    }

    /// With another clock that is taken for Redis's own, so that its jumps are heeded.
    #[must_use]
    pub fn heeding_jumps(self) -> Self {
        Self { own_clock: true, ..self }
    }

    /// A call of the script that takes these arguments.
    pub(super) fn call<'a, A: OfScript<'a>>(
        &'a self,
        policy: &Policy<'a>,
        arguments: A,
    ) -> Call<'a> {
        let mut call = Call { script: A::script(self), keys: Vec::new(), arguments: Vec::new() };
        policy.args().write(&mut call.keys, &mut call.arguments);
        arguments.write(&mut call.keys, &mut call.arguments);
        call
    }

    pub(super) fn all(&self) -> [&Script; 15] {
        [
            &self.fetch,
            &self.piece,
            &self.publish,
            &self.unlink,
            &self.amend,
            &self.touch,
            &self.list,
            &self.headers,
            &self.find,
            &self.room,
            &self.import,
            &self.settings,
            &self.set,
            &self.lease,
            &self.probe,
        ]
    }
}

impl Script {
    fn new<A: OfScript<'static>>(name: &'static str, clock: &str, body: &'static str) -> Self {
        let code = [&prologue::<A>(), clock, RULES, SESSION, body].join("\n");
        let sha = redis::Script::new(&code).get_hash().to_owned();
        Self { name, code, sha }
    }

    /// What the server answers that knows it.
    pub(super) fn loaded(&self) -> Value {
        Value::BulkString(self.sha.clone().into_bytes())
    }

    /// The command that makes the server know it.
    pub(super) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(&self.code);
        command
    }
}

/// By what a script judges.
#[derive(Clone, Debug)]
pub(super) struct Policy<'a> {
    pub lifetimes: Judged,
    /// The owner of the session that is asked for, in the place of the rules: see [`super::owners`].
    pub owner: Arc<str>,
    /// For how long session files are imported after their last save.
    pub import_max_age_ms: u64,
    pub formats: Formats,
    pub clock: ClockView,
    /// For how long who asks may have waited in an outage.
    pub waited_ms: u64,
    /// For how long the use of a session may not have been written down: that long beyond its end it is
    /// not at its end.
    pub unwritten_ms: u64,
    /// Where it is said what has happened: see [`super::outbox`]. '' is nowhere.
    pub outbox: &'a str,
    /// Who asks, as [`super::outbox::Origin::words`].
    pub origin: &'a str,
}

/// The formats of headers that a server handles, from the oldest on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Formats {
    /// What it writes: one that all servers read.
    pub written: u32,
    /// What it reads.
    pub newest: u32,
}

impl Default for Formats {
    /// What every version reads, and what this one does.
    fn default() -> Self {
        Self { written: OLDEST_FORMAT, newest: FORMAT }
    }
}

impl<'a> Policy<'a> {
    /// For what judges no session.
    pub(super) fn unknowing() -> Self {
        Self {
            lifetimes: Judged::default(),
            owner: Arc::default(),
            import_max_age_ms: 0,
            formats: Formats::default(),
            clock: ClockView::Unknown,
            waited_ms: 0,
            unwritten_ms: 0,
            outbox: "",
            origin: "",
        }
    }

    fn args(&self) -> PolicyArgs<'a> {
        let Lifetimes {
            idle_ms,
            anonymous_idle_ms,
            anonymous_unopened_ms,
            absolute_ms,
            grace_ms,
            tombstone_ms,
        } = *self.lifetimes.rules.general();
        PolicyArgs {
            idle_ms: args::number(idle_ms),
            anonymous_idle_ms: args::number(anonymous_idle_ms),
            anonymous_unopened_ms: args::number(anonymous_unopened_ms),
            absolute_ms: absolute_ms.map_or_else(|| args::text("-1"), args::number),
            grace_ms: args::number(grace_ms),
            tombstone_ms: args::number(tombstone_ms),
            import_max_age_ms: args::number(self.import_max_age_ms),
            written_format: args::number(self.formats.written),
            newest_format: args::number(self.formats.newest),
            clock: match self.clock {
                ClockView::Unknown => args::text(""),
                ClockView::NotJudged => args::text("lenient"),
                ClockView::Jumped { ago_ms, .. } => args::text(format!("jumped {ago_ms}")),
                ClockView::Expected(now_ms) => args::number(now_ms),
            },
            ahead_ms: match self.clock {
                ClockView::Jumped { ahead_ms, .. } => args::number(ahead_ms),
                ClockView::Unknown | ClockView::NotJudged | ClockView::Expected(_) => {
                    args::number(0)
                }
            },
            unwritten_ms: args::number(self.unwritten_ms),
            waited_ms: args::number(self.waited_ms),
            rules: match &*self.lifetimes.argument {
                "" => args::text(""),
                _ if !self.owner.is_empty() => args::text(self.owner.to_string()),
                rules => args::text(rules.to_owned()),
            },
            outbox: args::text(self.outbox),
            origin: args::text(self.origin),
        }
    }
}

/// What this server knows of Redis's clock.
#[derive(Clone, Copy, Debug)]
pub(super) enum ClockView {
    Unknown,
    /// Nothing is judged stale: it is not ours to judge.
    NotJudged,
    /// A session whose idle time is longer than the time since the jump is not judged stale.
    Jumped {
        /// Since the jump, milliseconds.
        ago_ms: u64,
        /// By how much it has moved forward, milliseconds: for that long beyond its end a session
        /// is not at its end.
        ahead_ms: u64,
    },
    /// This is what it shows at least, in milliseconds. A call that finds another time was sent
    /// long ago, or the clock has jumped: it judges nothing stale, and prolongs nothing.
    Expected(u64),
}

/// One call, being put together.
pub(super) struct Call<'a> {
    script: &'a Script,
    keys: Vec<String>,
    arguments: Vec<Argument<'a>>,
}

impl<'a> Call<'a> {
    pub(super) fn key(&mut self, key: String) -> &mut Self {
        self.keys.push(key);
        self
    }

    pub(super) fn argument(&mut self, argument: Argument<'a>) -> &mut Self {
        self.arguments.push(argument);
        self
    }

    pub(super) fn command(&self) -> Cmd {
        self.packed("EVALSHA", &self.script.sha)
    }

    fn packed(&self, verb: &str, which: &str) -> Cmd {
        let mut command = redis::cmd(verb);
        command.arg(which).arg(self.keys.len());
        for key in &self.keys {
            command.arg(key);
        }
        for argument in &self.arguments {
            command.arg(argument.as_ref());
        }
        command
    }

    /// The bytes that it carries.
    pub(super) fn length_bytes(&self) -> usize {
        self.arguments.iter().map(|argument| argument.len()).sum()
    }

    /// Sends it: one round trip, or two if the server has lost the script. The answer may tell of a
    /// [fault](Answer::or_fault).
    pub(super) async fn send(
        &self,
        primary: &Primary,
        way: Way,
        bound: Duration,
    ) -> Result<Answer, CallFault> {
        let reply = match way.request(primary, &self.command(), bound).await {
            Err(Fault::Server(error, _)) if error.code == ErrorCode::NoScript => {
                Box::pin(way.request(primary, &self.packed("EVAL", &self.script.code), bound)).await
            }
            other => other,
        };
        match reply {
            Ok(reply) => Answer::read(self.script.name, reply, &primary.link),
            Err(Fault::NotSent(text)) => Err(CallFault::NotSent(text)),
            Err(Fault::NoAnswer(text)) => Err(CallFault::Lost(text)),
            Err(Fault::Server(error, generation)) => Err(CallFault::Server(error, generation)),
        }
    }
}

/// By which connection a call is sent.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// The link itself, if it is in that state.
    Link(Need),
    /// The second connection, for an answer that is large.
    BulkRead,
    /// The second connection, for a call that is large.
    BulkWrite,
    /// The link itself, of a server that is just being given the key.
    Asking(Need),
}

impl Way {
    async fn request(
        self,
        primary: &Primary,
        command: &Cmd,
        bound: Duration,
    ) -> Result<Reply, Fault> {
        let Primary { link, bulk, .. } = primary;
        match self {
            Self::Link(need) => link.request(command, need, bound).await,
            Self::Asking(need) => Box::pin(link.request_asking(command, need, bound)).await,
            // Boxed: they are rare, and every call would be as large as they are.
            Self::BulkRead => Box::pin(bulk.read(link, command, bound)).await,
            Self::BulkWrite => Box::pin(bulk.write(link, command, bound)).await,
        }
    }
}

/// Why a call has no result.
#[derive(Debug)]
pub(super) enum CallFault {
    NotSent(String),
    /// It may have been carried out.
    Lost(String),
    /// The server's own answer, directly or inside the script, by the connection of this generation.
    Server(ServerError, u64),
    /// What is stored there, or the answer itself, cannot be read.
    Unreadable(StoreError),
    /// A session is in an index that the script was not given: of this session nothing was written.
    OtherIndex,
}

impl From<CallFault> for StoreError {
    fn from(fault: CallFault) -> Self {
        match fault {
            CallFault::NotSent(text) | CallFault::Lost(text) => Self::Unavailable(text),
            CallFault::Server(error, _) => error.into(),
            CallFault::Unreadable(error) => error,
            CallFault::OtherIndex => Self::Unreadable("a session is in no known index".into()),
        }
    }
}

/// A session that a call has ended.
#[derive(Debug)]
pub(super) struct Expired {
    pub alias: Alias,
    /// `idle`, `absolute` or `unopened`.
    pub limit: String,
}

/// What a script answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub now_ms: u64,
    /// When the call was sent.
    pub sent_at: Instant,
    /// By which connection of the link.
    pub generation: u64,
    /// Sessions that were ended on the way because their time was over.
    pub expired: Vec<Expired>,
    /// The same because of a removal that was held.
    pub ended: Vec<Alias>,
    /// What the outbox has not taken.
    pub untold: Vec<String>,
    pub status: String,
    rest: std::vec::IntoIter<Value>,
    script: &'static str,
}

impl Answer {
    fn read(script: &'static str, reply: Reply, link: &Link) -> Result<Self, CallFault> {
        let Reply { value, generation, sent_at } = reply;
        // Whoever answers something else than was asked for is no Redis, or not ours alone.
        let mut answer = Self::parts(script, value).map_err(|strange| {
            let cause = strange.to_string();
            link.lost(generation, &cause);
            CallFault::Lost(cause)
        })?;
        (answer.sent_at, answer.generation) = (sent_at, generation);
        Ok(answer)
    }

    /// The fault that the server has met in the script, if it did. What was ended before is ended all the same.
    pub(super) fn or_fault(mut self, link: &Link) -> Result<Self, CallFault> {
        if self.status == "failed"
            && matches!(self.rest.as_slice(), [Value::BulkString(why)] if why == OTHER_INDEX)
        {
            return Err(CallFault::OtherIndex);
        }
        match self.failure().map_err(CallFault::Unreadable)? {
            Some(error) => Err(match link.met(self.generation, &error) {
                Effect::Lost => CallFault::Lost(error.to_string()),
                Effect::ReadOnly | Effect::Nothing => CallFault::Server(error, self.generation),
            }),
            None => Ok(self),
        }
    }

    /// Reads the shape that all answers have.
    pub(super) fn parts(script: &'static str, value: Value) -> Result<Self, StoreError> {
        let Value::Array(values) = value else { return Err(strange(script)) };
        let mut answer = Self::of(script, values);
        answer.now_ms = answer.number()?;
        answer.status = answer.text()?;
        for ended in answer.array()? {
            let Value::Array(values) = ended else { return Err(strange(script)) };
            let mut facts = Self::of(script, values);
            let name = facts.text()?;
            if name.is_empty() {
                answer.untold.push(facts.text()?);
                continue;
            }
            let alias = Alias::parse(&name).ok_or_else(|| strange(script))?;
            if !facts.more() {
                answer.ended.push(alias);
                continue;
            }
            answer.expired.push(Expired { alias, limit: facts.text()? });
        }
        Ok(answer)
    }

    fn of(script: &'static str, values: Vec<Value>) -> Self {
        let rest = values.into_iter();
        Self {
            now_ms: 0,
            sent_at: Instant::now(),
            generation: 0,
            expired: Vec::new(),
            ended: Vec::new(),
            untold: Vec::new(),
            status: String::new(),
            rest,
            script,
        }
    }

    /// An answer that this operation has no use for: its script and we do not fit together.
    pub(super) fn strange(&self) -> StoreError {
        strange(self.script)
    }

    /// Whether something is left to read.
    pub(super) fn more(&self) -> bool {
        self.rest.len() > 0
    }

    pub(super) fn number(&mut self) -> Result<u64, StoreError> {
        match self.rest.next() {
            // Never negative but for a clock set back.
            Some(Value::Int(number)) => Ok(u64::try_from(number).unwrap_or(0)),
            _ => Err(self.strange()),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        match self.rest.next() {
            Some(Value::BulkString(bytes)) => Ok(bytes),
            _ => Err(self.strange()),
        }
    }

    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        String::from_utf8(self.bytes()?).map_err(|_| self.strange())
    }

    /// The server's error, if one was met inside the script. A value that the script could not read
    /// is no error of the server's.
    pub(super) fn failure(&mut self) -> Result<Option<ServerError>, StoreError> {
        if self.status != "failed" {
            return Ok(None);
        }
        let why = self.text()?;
        match why.strip_prefix(UNREADABLE) {
            Some(what) => Err(StoreError::Unreadable(what.trim().to_owned())),
            None => Ok(Some(why.as_str().into())),
        }
    }

    pub(super) fn array(&mut self) -> Result<Vec<Value>, StoreError> {
        match self.rest.next() {
            Some(Value::Array(values)) => Ok(values),
            _ => Err(self.strange()),
        }
    }

    pub(super) fn alias(&mut self) -> Result<Alias, StoreError> {
        Alias::parse(&self.text()?).ok_or_else(|| self.strange())
    }

    /// The id of a change.
    pub(super) fn id(&mut self) -> Result<ChangeId, StoreError> {
        envelope::parse_id(&self.text()?).ok_or_else(|| self.strange())
    }

    /// The id of a change, or nothing.
    pub(super) fn optional_id(&mut self) -> Result<Option<ChangeId>, StoreError> {
        let text = self.text()?;
        if text.is_empty() {
            return Ok(None);
        }
        envelope::parse_id(&text).map(Some).ok_or_else(|| self.strange())
    }

    pub(super) fn header(&mut self) -> Result<Header, StoreError> {
        let (header, _) = Header::parse_read(&self.bytes()?)?;
        Ok(header)
    }

    /// What is inside the next value, an array.
    pub(super) fn nested(&mut self) -> Result<Self, StoreError> {
        Ok(Self::of(self.script, self.array()?))
    }
}

impl From<Unreadable> for StoreError {
    fn from(unreadable: Unreadable) -> Self {
        Self::Unreadable(unreadable.0)
    }
}

fn strange(script: &str) -> StoreError {
    StoreError::Unreadable(format!("the script {script} returned an unexpected format"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::args::{Arguments, IndexArgs};
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
            assert!(script.code.contains(CLOCK) && script.code.contains(SESSION));
            assert_eq!(script.sha.len(), 40);
        }
    }

    /// The names after `table.` in Lua, comments aside.
    fn names_read<'a>(lua: &'a str, table: &str) -> BTreeSet<&'a str> {
        let prefix = format!("{table}.");
        let code = lua.lines().map(|line| line.split("--").next().unwrap_or_default());
        let rest = code.flat_map(|line| line.match_indices(&*prefix).map(|(at, _)| &line[at..]));
        rest.map(|rest| {
            let name = &rest[prefix.len()..];
            let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            &name[..end.unwrap_or(name.len())]
        })
        .collect()
    }

    #[test]
    fn lua_reads_exactly_the_arguments_that_are_sent() {
        fn check<'a, A: Arguments<'a>>(name: &str, body: &str) {
            let policy = PolicyArgs::argument_names().into_iter().collect();
            let change: BTreeSet<_> = ["first_ms", "waits_ms"].into();
            let indexes_named: BTreeSet<_> = IndexArgs::argument_names().into_iter().collect();
            let shared = &names_read(RULES, "args") | &names_read(SESSION, "args");
            assert_eq!(shared, &(&policy | &change) | &indexes_named);
            let indexes: BTreeSet<_> = IndexArgs::key_names().into_iter().collect();
            assert_eq!(names_read(SESSION, "keys"), indexes);
            let sent: BTreeSet<_> = A::argument_names().into_iter().collect();
            let mut read = names_read(body, "args");
            // Whether it is a retry is the question of `is_retry` alone.
            if body.contains("is_retry()") {
                read.append(&mut change.clone());
            }
            if A::key_names().contains(&"index") {
                read.append(&mut indexes_named.clone());
            }
            // A file has no earlier attempt: it is imported once, and known after that.
            let unread: BTreeSet<_> = if name == "import" { change } else { BTreeSet::new() };
            assert_eq!(&read | &unread, sent, "{name}");
            let sent: BTreeSet<_> = A::key_names().into_iter().collect();
            let mut read = names_read(body, "keys");
            if indexes.is_subset(&sent) {
                read.append(&mut indexes.clone());
            }
            assert_eq!(read, sent, "{name}");
            for bare in ["ARGV[", "KEYS["] {
                let numbers = body
                    .split(bare)
                    .skip(1)
                    .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
                assert_eq!(numbers.count(), 0, "{name} reads {bare} by its number");
            }
        }
        check::<FetchArgs>("fetch", include_str!("scripts/fetch.lua"));
        check::<PieceArgs>("piece", include_str!("scripts/piece.lua"));
        check::<PublishArgs>("publish", include_str!("scripts/publish.lua"));
        check::<UnlinkArgs>("unlink", include_str!("scripts/unlink.lua"));
        check::<AmendArgs>("amend", include_str!("scripts/amend.lua"));
        check::<TouchArgs>("touch", include_str!("scripts/touch.lua"));
        check::<ListArgs>("list", include_str!("scripts/list.lua"));
        check::<HeadersArgs>("headers", include_str!("scripts/headers.lua"));
        check::<FindArgs>("find", include_str!("scripts/find.lua"));
        check::<RoomArgs>("room", include_str!("scripts/room.lua"));
        check::<ImportArgs>("import", include_str!("scripts/import.lua"));
        check::<SettingsArgs>("settings", include_str!("scripts/settings.lua"));
        check::<SetArgs>("set", include_str!("scripts/set.lua"));
        check::<LeaseArgs>("lease", include_str!("scripts/lease.lua"));
    }
}
