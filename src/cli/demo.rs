//! `sessionfs demo`: the job done once, by Odoo's own calls, with a look at what Redis holds of it.

mod stage;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::output::{self, HEADING, styled, visible};
use crate::bench::operation::{self, Fault};
use crate::bench::session::{Format, Paths};
use crate::exit::{ExitCode, Failure};
use crate::host::signals::Signals;
use crate::redis::envelope::{Header, State, class_text, text, uid_text};
use crate::redis::keys::Keys;
use crate::session::name::Sid;
use stage::Stage;

/// Odoo 18 and 19: a file in a shard directory, named by the cookie, JSON.
const FORMAT: Format = Format::Odoo18;
/// From the last click of a person to the end of his session, here.
const IDLE: Duration = Duration::from_secs(5);
/// What may pass between a click and Redis's note of it.
const MARGIN: Duration = Duration::from_millis(500);

/// Save, read, list and expire sessions as Odoo does, on a temporary mount, and show what Redis
/// stores for them
///
/// It takes about ten seconds, needs root, and leaves nothing behind: the mount, its private Redis
/// and their data are removed at the end. Here a user's session ends after 5 s without a click.
#[derive(clap::Args, Debug)]
pub(super) struct Demo {
    /// Empty directory to mount on, or one that does not exist; it is restored or removed at the
    /// end (default: a new directory in /tmp)
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Demo {
    /// Shows it.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut signals = Signals::receive()?;
        let mut stage = Stage::set(self.dir.as_deref(), IDLE, &mut signals)?;
        let shown = show(&mut stage, &mut signals);
        let cleared = stage.clear();
        shown.and(cleared)?;
        output::say("The mount, its directory and its Redis have been removed.")
    }
}

/// A session as Odoo makes it.
struct Made {
    sid: Sid,
    paths: Paths,
    content: String,
}

impl Made {
    /// A new one, not saved yet.
    fn new(dir: &Path, content: String) -> Result<Self, Failure> {
        let id = FORMAT.random_id(&mut rand::rng());
        let sid =
            Sid::parse(&id).ok_or_else(|| Failure::internal("create a cookie", "its form"))?;
        Ok(Self { paths: Paths::new(FORMAT, dir, &id), sid, content })
    }

    /// Odoo's `save`.
    fn save(&self, dir: &Path) -> Result<(), Failure> {
        let temporary = FORMAT.random_temporary(&mut rand::rng(), dir);
        operation::save(FORMAT, &self.paths, &temporary, self.content.as_bytes())
            .map_err(|fault| failed(&fault))?;
        step(&format!(
            "mkstemp, write {} bytes, close, rename to {}, chmod: ok",
            self.content.len(),
            self.place()
        ))
    }

    /// Odoo's `get`: what it finds.
    fn read(&self) -> Result<Option<Vec<u8>>, Failure> {
        let mut bytes = Vec::new();
        let found = operation::read(FORMAT, &self.paths, &mut bytes);
        Ok(found.map_err(|fault| failed(&fault))?.then_some(bytes))
    }

    /// Reads what was saved.
    fn read_again(&self) -> Result<(), Failure> {
        expect(
            self.read()?.as_deref() == Some(self.content.as_bytes()),
            "a session was read with other content than was saved",
        )?;
        let place = self.place();
        step(&format!("open {place}, fstat, read {} bytes: as saved", self.content.len()))
    }

    /// Its path, with a word in the place of the cookie, which nobody is to see.
    fn place(&self) -> String {
        format!("{}/<cookie>", self.sid.shard().as_str())
    }
}

/// All of it, in order.
fn show(stage: &mut Stage, signals: &mut Signals) -> Result<(), Failure> {
    let dir = stage.directory().to_owned();
    output::say(format!(
        "sessionfs {} is mounted on {}, with a private Redis. Here a user's session ends after \
         {} s without a click, a visitor's after 7 days.",
        env!("CARGO_PKG_VERSION"),
        visible(&dir.to_string_lossy(), 200),
        IDLE.as_secs()
    ))?;
    let token = FORMAT.random_id(&mut rand::rng());
    let person = Made::new(&dir, person(&token))?;
    let visitor = Made::new(&dir, visitor())?;

    heading("A user logs in, and a visitor fills a cart: Odoo saves")?;
    person.save(&dir)?;
    visitor.save(&dir)?;
    heading("Their next clicks: Odoo reads")?;
    visitor.read_again()?;
    person.read_again()?;
    let clicked = Instant::now();
    heading("Odoo lists the directory")?;
    list(&dir, &[&person, &visitor])?;
    heading("Redis")?;
    look(stage, &person, &token)?;

    heading(&format!("No clicks for {} s", IDLE.as_secs()))?;
    wait(signals, clicked + IDLE + MARGIN)?;
    expect(person.read()?.is_none(), "a session outlived its idle time")?;
    step(&format!("open {}: ENOENT, and Odoo asks for a login", person.place()))?;
    expect(visitor.read()?.is_some(), "a visitor's session ended too early")?;
    step(&format!("open {}: the visitor's cart still exists", visitor.place()))?;
    look_after(stage, &person)
}

/// What `listdir` says of the sessions: their aliases, not the cookies.
fn list(dir: &Path, sessions: &[&Made]) -> Result<(), Failure> {
    for session in sessions {
        let shard = dir.join(session.sid.shard().as_str());
        let names: Vec<String> = std::fs::read_dir(&shard)
            .and_then(|entries| {
                entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
            })
            .map_err(|e| Failure::internal(format!("list {}", shard.display()), e))?;
        let alias = session.sid.alias();
        expect(names.iter().any(|name| name == alias.as_str()), "a session is not listed")?;
        expect(
            !names.iter().any(|name| name == session.sid.expose()),
            "the listing shows a cookie instead of its alias",
        )?;
        let shard = session.sid.shard();
        step(&format!("{}/{}: an alias, not the cookie", shard.as_str(), alias.as_str()))?;
    }
    Ok(())
}

/// The person's key: its name, its time to live, and that neither it nor its value is of use to
/// whoever reads it there.
fn look(stage: &mut Stage, person: &Made, token: &str) -> Result<(), Failure> {
    let key = key(person);
    let ttl_ms: i64 = stage.ask(redis::cmd("PTTL").arg(&key))?;
    let value: Vec<u8> = stage.ask(redis::cmd("GET").arg(&key))?;
    expect(ttl_ms > 0, "a session's key has no time to live")?;
    let cookie = person.sid.expose();
    expect(!key.contains(cookie), "the key shows the cookie")?;
    for (secret, what) in [(cookie, "cookie"), (token, "session token")] {
        expect(!holds(&value, secret), &format!("the value shows the {what}"))?;
    }
    let (header, sealed) = parts(&value);
    step(&format!("key    {key}"))?;
    step(&format!(
        "TTL    {} s: Redis itself removes a session that nobody uses",
        (ttl_ms + 999) / 1000
    ))?;
    step(&format!("value  {}, and {sealed} bytes sealed with the cookie", words(&header)))?;
    step("the cookie: neither in the key nor in the value; the session token: not in the value")
}

/// What has become of the key.
fn look_after(stage: &mut Stage, person: &Made) -> Result<(), Failure> {
    let value: Vec<u8> = stage.ask(redis::cmd("GET").arg(key(person)))?;
    let (header, sealed) = parts(&value);
    expect(sealed == 0, "the content of an ended session still exists")?;
    step(&format!("Redis has no content of it any more, only a tombstone ({})", words(&header)))
}

fn key(session: &Made) -> String {
    Keys::new(stage::PREFIX).session(&session.sid.alias())
}

/// The header line of a value, and the bytes after it.
fn parts(value: &[u8]) -> (String, usize) {
    let end = value.iter().position(|&byte| byte == b'\n').map_or(value.len(), |at| at + 1);
    (String::from_utf8_lossy(&value[..end]).into_owned(), value.len() - end)
}

/// What of a header line says something to a person.
fn words(header: &str) -> String {
    let Ok((header, _)) = Header::parse(header.as_bytes()) else { return "no header".to_owned() };
    let state = if header.state == State::Alive { "alive" } else { "gone" };
    let content = &header.content;
    let words = [
        format!("{state} {} uid={}", class_text(content.class), uid_text(content.uid)),
        format!("db={} user={}", text(content.db.as_deref()), text(content.login.as_deref())),
    ];
    visible(&words.join(" "), 200)
}

fn holds(bytes: &[u8], secret: &str) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
}

fn person(token: &str) -> String {
    format!(
        "{{\"context\": {{\"lang\": \"en_US\", \"tz\": \"Europe/Brussels\", \"uid\": 2}}, \"db\": \
         \"shop\", \"debug\": \"\", \"login\": \"admin\", \"uid\": 2, \"session_token\": \
         \"{token}\"}}"
    )
}

fn visitor() -> String {
    "{\"context\": {\"lang\": \"en_US\"}, \"db\": \"shop\", \"debug\": \"\", \"login\": null, \
     \"uid\": null, \"session_token\": null, \"sale_order_id\": 41}"
        .to_owned()
}

/// Waits, unless the end is asked for.
fn wait(signals: &mut Signals, until: Instant) -> Result<(), Failure> {
    while Instant::now() < until {
        interrupted(signals)?;
        signals.wait(&[], Some(until));
    }
    interrupted(signals)
}

fn interrupted(signals: &mut Signals) -> Result<(), Failure> {
    if signals.received() == 0 {
        return Ok(());
    }
    Err(Failure::new(ExitCode::Interrupted, "demo: interrupted; everything was removed"))
}

fn heading(text: &str) -> Result<(), Failure> {
    output::say(format!("\n{}", styled(HEADING, text)))
}

fn step(text: &str) -> Result<(), Failure> {
    output::say(format!("  {text}"))
}

fn expect(is_so: bool, otherwise: &str) -> Result<(), Failure> {
    if is_so { Ok(()) } else { Err(Failure::new(ExitCode::Internal, format!("demo: {otherwise}"))) }
}

fn failed(fault: &Fault) -> Failure {
    Failure::internal(fault.step, fault.errno.desc())
}
