//! An entry of the trail. As a line of JSON it is a format that others read: fields are added, none is renamed.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tracing::{info, warn};

use crate::foreign::is_obeyed;
use crate::session::name::Alias;
use crate::session::policy::Lifetimes;
use crate::session::policy::rule::Rule;

/// What an entry tells of.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Somebody is logged in: a life begins. `reason`: `login`, `import`, or `taken_back` (a removal that was held).
    SessionBegan,
    /// A life begins under a new id, in the place of another session of the same person: `from`.
    SessionRotated,
    /// It is another user's from now on, by a save in the same life; `former` says whose it was.
    IdentityChanged,
    /// It ended. `reason`: `idle`, `absolute`, `logout`, `removed` (by a name that Odoo had listed), `killed`, `lost`
    /// (its key was not there any more).
    SessionEnded,
    /// A save was refused that would have revived or destroyed a session. `reason`: why.
    SaveRefused,
    /// A live setting was changed: `what`.
    SettingChanged,
    /// A command that changes sessions was run: `what`, and how many it was about.
    Command,
    /// What holds at that moment: `lifetimes`, and how many sessions live.
    State,
    /// Redis has lost what it held, and `count` sessions of people with it, as far as that is known.
    RedisLost,
    /// For `lasted_ms`, until now, nothing was ended by this server. `reason`: what kept it from that.
    NothingEnded,
    /// `count` entries could not be kept. `reason`: why.
    LeftOut,
    /// An event of a later version.
    #[serde(other)]
    Other,
}

impl Event {
    /// Every one that this version writes, in the order of declaration.
    pub const ALL: [Self; 11] = [
        Self::SessionBegan,
        Self::SessionRotated,
        Self::IdentityChanged,
        Self::SessionEnded,
        Self::SaveRefused,
        Self::SettingChanged,
        Self::Command,
        Self::State,
        Self::RedisLost,
        Self::NothingEnded,
        Self::LeftOut,
    ];

    /// Its word in lines, logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::SessionBegan => "session_began",
            Self::SessionRotated => "session_rotated",
            Self::IdentityChanged => "identity_changed",
            Self::SessionEnded => "session_ended",
            Self::SaveRefused => "save_refused",
            Self::SettingChanged => "setting_changed",
            Self::Command => "command",
            Self::State => "state",
            Self::RedisLost => "redis_lost",
            Self::NothingEnded => "nothing_ended",
            Self::LeftOut => "left_out",
            Self::Other => "other",
        }
    }
}

/// One entry. What it does not tell of is left out of its line.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Entry {
    /// When, by Redis's clock: milliseconds since the epoch. A line has RFC 3339.
    #[serde(rename = "time", serialize_with = "write_time", deserialize_with = "read_time")]
    pub at_ms: u64,
    pub event: Event,
    /// Why, or how: a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Which session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// The session that it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Which of the lives of that name: its beginning and its end have the same. Of a refused save, the save.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<i64>,
    /// Whose it was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Identity>,
    /// Since its login, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// Since its last use, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
    /// The host whose sessionfs did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Who typed the command that did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What was done, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// For how long it was so, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasted_ms: Option<u64>,
    /// How many sessions of people live, and of visitors; an estimate where there are many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anonymous: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetimes: Option<Lifetimes>,
    /// Which sessions have others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// Whose a session is, as far as that is known.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Identity {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<i64>,
}

impl Entry {
    /// One that tells of nothing more yet.
    pub fn new(at_ms: u64, event: Event) -> Self {
        Self {
            at_ms,
            event,
            reason: None,
            alias: None,
            from: None,
            life: None,
            database: None,
            login: None,
            user_id: None,
            former: None,
            age_ms: None,
            idle_ms: None,
            server: None,
            by: None,
            what: None,
            count: None,
            lasted_ms: None,
            authenticated: None,
            anonymous: None,
            lifetimes: None,
            rules: Vec::new(),
        }
    }

    /// The entry of a line, without its line feed.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let entry: Self = serde_json::from_slice(line).ok()?;
        // Whoever wrote a line by hand: only an alias is shown as one.
        let is_alias =
            |text: &Option<String>| text.as_deref().is_none_or(|text| Alias::parse(text).is_some());
        (is_alias(&entry.alias) && is_alias(&entry.from)).then_some(entry)
    }

    /// The same of a line that a later version may have written: of what cannot be read the time is known.
    pub(crate) fn parse_any(line: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Head {
            #[serde(deserialize_with = "read_time")]
            time: u64,
            #[serde(rename = "event")]
            _event: String,
        }
        Self::parse(line).or_else(|| {
            let head: Head = serde_json::from_slice(line).ok()?;
            Some(Self::new(head.time, Event::Other))
        })
    }

    /// One line of JSON, with its line feed. What a terminal would obey is escaped, also where JSON does not ask for it.
    pub fn line(&self) -> Vec<u8> {
        // Text, numbers and options of them always can be written.
        let json = serde_json::to_string(self).unwrap_or_default();
        let mut line = String::with_capacity(json.len() + 1);
        for c in json.chars() {
            if is_obeyed(c) {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(line, "\\u{unit:04x}");
                }
            } else {
                line.push(c);
            }
        }
        line.push('\n');
        line.into_bytes()
    }

    /// Two entries that have the same are one, written twice: a server died between the line and its acknowledgement.
    pub(crate) fn identity(&self) -> String {
        format!("{self:?}")
    }

    /// Writes it to the log, but for what holds, which is no news, and for sessions that are imported: there may be a million
    /// of them, and the command says how many there were.
    pub(crate) fn log(&self) {
        let Self {
            reason,
            alias,
            from,
            life,
            login,
            user_id,
            age_ms,
            idle_ms,
            server,
            by,
            what,
            count,
            database,
            former,
            ..
        } = self;
        let event = self.event.label();
        let is_import = self.event == Event::SessionBegan && reason.as_deref() == Some("import");
        if is_import || self.event == Event::State {
            return;
        }
        if matches!(self.event, Event::RedisLost | Event::NothingEnded | Event::LeftOut) {
            warn!(target: "sessionfs::trail", event, reason, count, lasted_ms = self.lasted_ms, server);
            return;
        }
        info!(
            target: "sessionfs::trail", event, reason, alias, from, life, database, login, user_id,
            former_database = former.as_ref().and_then(|former| former.database.as_deref()),
            former_login = former.as_ref().and_then(|former| former.login.as_deref()),
            former_user_id = former.as_ref().and_then(|former| former.user_id),
            age_ms, idle_ms, server, by, what, count
        );
    }
}

/// A time as RFC 3339, with milliseconds.
pub(crate) fn time_text(at_ms: u64) -> String {
    // A later time has no such form; no clock shows it.
    const LAST_MS: u64 = 253_402_300_799_999;
    let time = UNIX_EPOCH + Duration::from_millis(at_ms.min(LAST_MS));
    humantime::format_rfc3339_millis(time).to_string()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
pub(crate) fn write_time<S: Serializer>(at_ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time_text(*at_ms))
}

fn read_time<'d, D: Deserializer<'d>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    time_ms(&text).ok_or_else(|| serde::de::Error::custom("not a time"))
}

/// The milliseconds since the epoch that RFC 3339 writes so.
pub(crate) fn time_ms(text: &str) -> Option<u64> {
    let time = humantime::parse_rfc3339_weak(text).ok()?;
    u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_is_documented_and_is_read_back() {
        let entry = Entry {
            reason: Some("idle".into()),
            alias: Some("ab".repeat(20)),
            life: Some("0".repeat(32)),
            database: Some("shop".into()),
            login: Some("anna\n\u{1b}[2J\u{9b}\u{202e}\u{e0001}".into()),
            user_id: Some(7),
            age_ms: Some(3_600_000),
            idle_ms: Some(900_012),
            server: Some("web1".into()),
            ..Entry::new(1_800_000_000_123, Event::SessionEnded)
        };
        let line = entry.line();
        let text = String::from_utf8(line.clone()).unwrap();
        let expected = r#"{"time":"2027-01-15T08:00:00.123Z","event":"session_ended","reason":"idle","alias":"abababababababababababababababababababab","life":"00000000000000000000000000000000","database":"shop","login":"anna\n\u001b[2J\u009b\u202e\udb40\udc01","user_id":7,"age_ms":3600000,"idle_ms":900012,"server":"web1"}"#;
        assert_eq!(text.trim_end(), expected);
        assert_eq!(Entry::parse(&line), Some(entry));
    }

    #[test]
    fn lines_of_others_are_none_and_those_of_later_versions_are() {
        for line in ["", "{", "{}", "null", r#"{"time":"yesterday","event":"state"}"#] {
            assert_eq!(Entry::parse(line.as_bytes()), None, "{line}");
        }
        let secret =
            r#"{"time":"2027-01-15T08:00:00Z","event":"session_ended","alias":"<script>"}"#;
        assert_eq!(Entry::parse(secret.as_bytes()), None);
        let later = br#"{"time":"2027-01-15T08:00:00Z","event":"of_a_later_version","more":[1]}"#;
        assert_eq!(Entry::parse(later).unwrap().event, Event::Other);
    }

    #[test]
    fn every_event_is_written_by_its_label() {
        for event in Event::ALL {
            assert_eq!(serde_json::to_string(&event).unwrap(), format!("\"{}\"", event.label()));
        }
        assert_eq!(Event::ALL.map(Event::label), crate::telemetry::metrics::TRAILED);
    }
}
