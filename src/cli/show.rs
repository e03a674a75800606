//! `sessionfs show`.

use serde_json::{Map, Value, json};

use super::output::{Format, HEADING, json, json_text, say, styled, visible};
use super::redis::{Reached, failed, reach};
use super::secret;
use super::sessions::{self, Shown, class_word, find_one, name, none, read_sid, span, time, usage};
use crate::config::flags::Place;
use crate::config::lifetime;
use crate::exit::{ExitCode, Failure};
use crate::redis::RedisStore;
use crate::redis::scan::{LiveSession, Name, limit_words};
use crate::session::name::{Form, Sid};
use crate::session::policy::rule::Setting;
use crate::session::policy::rules::Rules;
use crate::session::secret::Keyring;
use crate::store::current::{Current, current};

/// Show one session: its user, its times, and what will end it; with its cookie also its content
#[derive(clap::Args, Debug)]
pub(super) struct Show {
    /// Alias as `list` shows it, or the beginning of one
    #[arg(
        value_name = "ALIAS",
        required_unless_present = "sid",
        allow_hyphen_values = true,
        value_parser = sessions::alias
    )]
    alias: Option<String>,
    /// Read the session's cookie from standard input, and show the content
    #[arg(long, value_name = "-", allow_hyphen_values = true, conflicts_with = "alias")]
    sid: Option<String>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

impl Show {
    /// Shows it.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let sid = self.sid.as_deref().map(read_sid).transpose()?;
        let wanted = match (&sid, &self.alias) {
            (Some(sid), _) => Name::whole(&sid.alias()),
            (None, Some(alias)) => name(alias)?,
            (None, None) => return Err(usage("no session is named")),
        };
        let Reached { runtime, store } = reach(&self.place)?;
        let living = runtime.block_on(find_one(&store, wanted))?;
        if living.left_ms == 0 {
            return Err(none("the session has ended"));
        }
        let content = match &sid {
            Some(sid) => {
                let keyring = secret::keyring(&self.place)?;
                Some(runtime.block_on(open(&store, &keyring, sid))?)
            }
            None => None,
        };
        let rules = store.rules();
        if self.format.json {
            let shown = Shown::new(&living, &rules);
            let mut value =
                serde_json::to_value(shown).map_err(|e| Failure::internal("print", e))?;
            if let (Some(content), Some(fields)) = (content, value.as_object_mut()) {
                fields.insert("content".into(), content.into_json());
            }
            return json(&value);
        }
        let owner = &living.header.content;
        let (ends_ms, limit) = rules.of(owner).end(owner.class, living.times());
        for (label, text) in lines(&living).into_iter().chain(limits(&living, &rules)) {
            say(line(label, &text))?;
        }
        let left = span(living.left_ms);
        let ends = format!("{} (in {left}), {}", time(ends_ms), limit_words(limit));
        say(line("ends", &ends))?;
        match content {
            Some(content) => say(format!("\n{}", content.into_text()?)),
            None => Ok(()),
        }
    }
}

fn line(label: &str, text: &str) -> String {
    format!("{}{text}", styled(HEADING, format!("{label:<12}")))
}

fn lines(living: &LiveSession) -> Vec<(&'static str, String)> {
    const TEXT_CHARS: usize = 128;
    let header = &living.header;
    let content = &header.content;
    let text = |text: &Option<String>| {
        text.as_deref().map_or_else(|| "none".to_owned(), |text| visible(text, TEXT_CHARS))
    };
    let ago = |ms: u64| format!("{} ({} ago)", time(ms), span(living.now_ms.saturating_sub(ms)));
    let mut lines = vec![("alias", living.alias.to_string()), ("database", text(&content.db))];
    lines.push((
        "login",
        match content.uid {
            Some(uid) => format!("{} (user id {uid})", text(&content.login)),
            None => text(&content.login),
        },
    ));
    lines.push(("class", class_word(content.class).to_owned()));
    lines.push(("since", ago(header.login_ms)));
    lines.push(("last saved", ago(header.saved_ms)));
    lines.push(("last used", ago(living.activity_ms)));
    let form = match header.form {
        Form::Sharded => "a file in a directory of two characters (Odoo 16 and later)",
        Form::Flat => "werkzeug_....sess (Odoo 14 and 15)",
    };
    lines.push(("size", format!("{} bytes, saved as {form}", header.size_bytes)));
    lines
}

/// What limits its life, and which rule says so.
fn limits(living: &LiveSession, rules: &Rules) -> Vec<(&'static str, String)> {
    const RULE_CHARS: usize = 200;
    let owner = &living.header.content;
    let lifetimes = rules.of(owner);
    let settings = Setting::ALL.into_iter().filter(|setting| setting.class() == owner.class);
    settings
        .map(|setting| {
            let label = match setting {
                Setting::Idle | Setting::AnonymousIdle => "idle limit",
                Setting::Absolute => "age limit",
                Setting::AnonymousUnopened => "unopened",
            };
            let value = lifetime::value_text(setting.get(&lifetimes));
            let text = match rules.giver(setting, owner) {
                Some(rule) => {
                    let selector = visible(&rule.selector.to_string(), RULE_CHARS);
                    format!("{value}, by the rule {selector} ({})", rule.source.as_str())
                }
                None => value,
            };
            (label, text)
        })
        .collect()
}

/// What the holder of the cookie may read.
enum Content {
    Json(Value),
    Pickle { size_bytes: usize },
    Other { size_bytes: usize },
}

async fn open(store: &RedisStore, keyring: &Keyring, sid: &Sid) -> Result<Content, Failure> {
    const PICKLE: u8 = 0x80;
    let alias = sid.alias();
    let found = current(store, keyring, sid, &alias).await.map_err(|error| failed(&error))?;
    let plain = match found {
        Current::Version { plain, .. } => plain,
        Current::Gone | Current::AliasOnly { .. } | Current::Large { .. } => {
            return Err(none("the session has ended"));
        }
        Current::Unopened(error) => {
            return Err(Failure::new(
                ExitCode::UnreadableSession,
                format!("session {alias}: {error}"),
            ));
        }
    };
    let size_bytes = plain.len();
    Ok(match plain.first() {
        // Unpickling runs what the pickle says.
        Some(&PICKLE) => Content::Pickle { size_bytes },
        _ => match serde_json::from_slice(&plain) {
            Ok(value) => Content::Json(redacted(value)),
            Err(_) => Content::Other { size_bytes },
        },
    })
}

impl Content {
    fn into_json(self) -> Value {
        match self {
            Self::Json(value) => value,
            Self::Pickle { size_bytes } => json!({ "pickle_bytes": size_bytes }),
            Self::Other { size_bytes } => json!({ "unreadable_bytes": size_bytes }),
        }
    }

    fn into_text(self) -> Result<String, Failure> {
        match self {
            Self::Json(value) => json_text(&value),
            Self::Pickle { size_bytes } => Ok(format!(
                "a pickle of {size_bytes} bytes (Odoo 14 to 17), which sessionfs never opens"
            )),
            Self::Other { size_bytes } => {
                Ok(format!("{size_bytes} bytes that are neither JSON nor a pickle"))
            }
        }
    }
}

/// The same without what opens a door by itself: this is printed, and what is printed is copied
/// into tickets.
fn redacted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| {
                let value = if is_secret(&key) { hidden(value) } else { redacted(value) };
                (hide_sid(key), value)
            });
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(redacted).collect()),
        Value::String(text) => Value::String(hide_sid(text)),
        other => other,
    }
}

fn is_secret(key: &str) -> bool {
    const WORDS: [&str; 6] = ["token", "secret", "password", "passwd", "csrf", "sid"];
    let key = key.to_ascii_lowercase();
    WORDS.iter().any(|word| key.contains(word)) || key.ends_with("key")
}

/// Null says that there is none, which is no secret.
fn hidden(value: Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) => value,
        Value::String(text) => format!("(hidden, {} characters)", text.chars().count()).into(),
        _ => "(hidden)".into(),
    }
}

/// Whatever key it stands under, or within whatever text.
fn hide_sid(text: String) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if text.split(|c| !is_part(c)).any(|word| Sid::parse(word).is_some()) {
        format!("(hidden, {} characters)", text.chars().count())
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opens_a_door_is_hidden() {
        let sid = "ab".repeat(42);
        let content = json!({
            "uid": 7, "login": "admin", "debug": "", "session_token": "5f5f", "next_sid": sid,
            "_csrf": [1], "other": {"deep": [format!("/x?session_id={sid}")], "api_key": "k"},
            "identity-check-last": 5, "deletion_token": null, sid.clone(): 1,
        });
        let shown = redacted(content);
        let text = shown.to_string();
        assert!(!text.contains(&sid) && !text.contains("5f5f"), "{text}");
        assert_eq!(shown["uid"], 7);
        assert_eq!(shown["login"], "admin");
        assert_eq!(shown["session_token"], "(hidden, 4 characters)");
        assert_eq!(shown["other"]["api_key"], "(hidden, 1 characters)");
        assert_eq!(shown["_csrf"], "(hidden)");
        assert_eq!(shown["deletion_token"], Value::Null);
        assert_eq!(shown["identity-check-last"], 5);
    }
}
