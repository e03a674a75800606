//! Whether what Redis holds gives a session id away: for the audit, which knows one and looks for it.
//!
//! Within bounds, and by a connection of its own; nothing is changed.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use super::keys::Keys;
use super::probe::places::{Places, Server};
use super::settings::Settings;
use crate::session::name::Sid;

/// Everything together.
const WITHIN: Duration = Duration::from_secs(20);
/// Names of keys that are looked at on one server.
const KEYS_MAX: u64 = 200_000;
/// Of one step.
const KEYS_AT_ONCE: u64 = 1000;
/// Entries of an index that are looked at.
const ENTRIES_MAX: u64 = 10_000;

/// What was looked at, and what of it has the id.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Searched {
    /// Names of keys.
    pub keys: u64,
    /// Contents: of the session's own key and of its indexes.
    pub contents: u64,
    /// Whether every key was looked at; if not, why.
    pub partly: Option<String>,
    /// What has the id in it: the name of a key without the id, or what a content is of.
    pub found: Vec<String>,
}

impl Searched {
    fn look(&mut self, what: &str, bytes: &[u8], sid: &Sid) {
        if contains(bytes, sid.expose().as_bytes()) && !self.found.iter().any(|known| known == what)
        {
            self.found.push(what.to_owned());
        }
    }
}

/// Looks for the id in the names of keys, and in what is kept of its own session.
pub(crate) async fn search(settings: &Settings, sid: &Sid) -> Result<Searched, String> {
    let endpoint = settings.endpoint().map_err(|error| error.to_string())?;
    let bound = Duration::from_millis(settings.connect_timeout_ms);
    let places = Places::new(endpoint, &settings.credentials, bound);
    let mut searched = Searched::default();
    let asked = async {
        for server in places.servers().await.map_err(|error| error.to_string())? {
            let mut connection =
                places.connect(&server).await.map_err(|error| error.to_string())?;
            names(&mut connection, sid, &mut searched).await;
            own(&mut connection, &server, settings, sid, &mut searched).await?;
        }
        Ok(())
    };
    match timeout(WITHIN, asked).await {
        Ok(Ok(())) => Ok(searched),
        Ok(Err(why)) => Err(why),
        Err(_) => {
            searched.partly = Some("it took too long".to_owned());
            Ok(searched)
        }
    }
}

/// The names of all keys. An ACL user for sessions may not ask for them.
async fn names(connection: &mut MultiplexedConnection, sid: &Sid, searched: &mut Searched) {
    let mut cursor = 0_u64;
    let mut seen = 0_u64;
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("COUNT").arg(KEYS_AT_ONCE);
        let answer: Result<(u64, Vec<Vec<u8>>), _> = scan.query_async(connection).await;
        let (next, keys) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let why = error.code().unwrap_or("an error").to_owned();
                searched.partly = Some(format!("this user of Redis may not list keys: {why}"));
                return;
            }
        };
        seen += keys.len() as u64;
        searched.keys += keys.len() as u64;
        for key in keys {
            searched.look("the name of a key", &key, sid);
        }
        cursor = next;
        if cursor == 0 {
            return;
        }
        if seen >= KEYS_MAX {
            searched.partly = Some(format!("there are more than {KEYS_MAX} keys"));
            return;
        }
    }
}

/// What is kept of the session itself, if this server has it.
async fn own(
    connection: &mut MultiplexedConnection,
    server: &Server,
    settings: &Settings,
    sid: &Sid,
    searched: &mut Searched,
) -> Result<(), String> {
    let alias = sid.alias();
    if server.slots.as_ref().is_some_and(|slots| !slots.contains(&Keys::slot(alias.shard()))) {
        return Ok(());
    }
    let keys = Keys::new(settings.prefix.clone());
    let failed = |error: redis::RedisError| format!("Redis refuses to show it: {error}");
    let content: Option<Vec<u8>> = redis::cmd("GET")
        .arg(keys.session(&alias))
        .query_async(connection)
        .await
        .map_err(failed)?;
    if let Some(content) = content {
        searched.contents += 1;
        searched.look("the content of the session", &content, sid);
    }
    for index in keys.indexes(alias.shard()) {
        let entries: Vec<Vec<u8>> = redis::cmd("ZRANGEBYSCORE")
            .arg(index)
            .arg(&["-inf", "+inf", "LIMIT", "0"])
            .arg(ENTRIES_MAX)
            .query_async(connection)
            .await
            .map_err(failed)?;
        searched.contents += entries.len() as u64;
        for entry in entries {
            searched.look("an index", &entry, sid);
        }
    }
    Ok(())
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|found| found == wanted)
}
