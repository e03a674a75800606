//! The outbox of the audit trail: what the scripts say has happened, in the step that did it, until a server has
//! written it (`super::auditor`).
//!
//! It is a sorted set by Redis's time, so that the same entry is in it once. In a Cluster each shard has its own, as a
//! script stays within one slot; what commands say is in the first one everywhere.

use redis::cluster_routing::Slot;
use redis::{Cmd, FromRedisValue as _, Value};

use super::envelope::{decode_text, text};
use super::keys::Keys;
use super::link::Need;
use super::listing::counts;
use super::requests::size;
use super::{Inner, RedisStore};
use crate::session::name::{Alias, Shard};
use crate::store::StoreError;
use crate::trail::entry::{Entry, Event, Identity};

/// How many entries are written together.
pub(super) const PAGE: usize = 1000;
/// How many of each shard of a Cluster.
pub(super) const PAGE_OF_SHARD: usize = 100;
/// How many the scripts put into one outbox (`session.lua` holds the same number), and which member counts the others.
#[cfg(test)]
const MOST: usize = 50_000;
const LEFT_OUT: &[u8] = b"-";
/// A longer member is not ours.
const MEMBER_MAX_BYTES: usize = 8192;

/// Who asks for what is written to Redis.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin {
    /// The name of this host.
    pub server: String,
    /// Who typed the command; `None`: it is no command.
    pub by: Option<String>,
}

impl Default for Origin {
    /// This host, and nobody.
    fn default() -> Self {
        let server = nix::unistd::gethostname().unwrap_or_default();
        Self { server: server.to_string_lossy().into_owned(), by: None }
    }
}

impl Origin {
    /// As the scripts are told it: two words.
    pub(super) fn words(&self) -> String {
        const NAME_CHARS: usize = 64;
        const BY_CHARS: usize = 200;
        let cut = |whole: &str, chars| whole.chars().take(chars).collect::<String>();
        let by = self.by.as_deref().map(|by| cut(by, BY_CHARS));
        format!("{} {}", text(Some(&cut(&self.server, NAME_CHARS))), text(by.as_deref()))
    }
}

/// What is in one outbox.
pub(super) struct Page {
    key: String,
    slot: Slot,
    members: Vec<Vec<u8>>,
    /// How many were left out, as the scripts have counted.
    left_out: u64,
    pub entries: Vec<Entry>,
    /// Whether there may be more.
    pub is_full: bool,
}

impl Page {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

/// The entry that a member stands for.
fn entry(member: &[u8], score: f64) -> Option<Entry> {
    if member == LEFT_OUT {
        let reason = Some("the outbox in Redis was full".to_owned());
        return Some(Entry { count: Some(whole(-score)), reason, ..Entry::new(0, Event::LeftOut) });
    }
    let text = std::str::from_utf8(member).ok().filter(|text| text.len() <= MEMBER_MAX_BYTES)?;
    if text.starts_with('{') {
        let entry = Entry::parse(member)?;
        return Some(Entry { at_ms: whole(score), ..entry });
    }
    told(text, whole(score))
}

/// The entry that a script says so: `tell` in `session.lua`.
pub(super) fn told(words: &str, at_ms: u64) -> Option<Entry> {
    let mut words = words.split(' ');
    let mut next = || words.next();
    let (what, how, life) = (next()?, next()?, next()?);
    let (alias, other) = (next()?, next()?);
    let (uid, database, login) = (next()?, next()?, next()?);
    let (age, idle, server, by) = (next()?, next()?, next()?, next()?);
    let former = match what {
        "became" => Some((next()?, next()?, next()?)),
        _ => None,
    };
    if next().is_some() {
        return None;
    }
    let by = decode_text(by)?;
    let (event, reason) = match (what, how) {
        ("began", "rotation") => (Event::SessionRotated, None),
        ("began", how) => (Event::SessionBegan, Some(how)),
        // Odoo's own removals have nobody who typed them.
        ("ended", "logout" | "removed") if by.is_some() => (Event::SessionEnded, Some("killed")),
        ("ended", how) => (Event::SessionEnded, Some(how)),
        ("refused", how) => (Event::SaveRefused, Some(how)),
        ("became", _) => (Event::IdentityChanged, None),
        _ => return None,
    };
    let is_lost = reason == Some("lost");
    let milliseconds =
        |word: &str| word.parse().ok().filter(|_| event != Event::SaveRefused && !is_lost);
    let former = match former {
        Some(former) => Some(identity(former)?),
        None => None,
    };
    let Identity { database, login, user_id } = identity((uid, database, login))?;
    Some(Entry {
        reason: reason.map(ToOwned::to_owned),
        alias: Some(Alias::parse(alias)?.to_string()),
        from: Alias::parse(other).map(|other| other.to_string()),
        life: Some(life.to_owned()).filter(|_| !is_lost),
        database,
        login,
        user_id,
        former,
        age_ms: milliseconds(age).filter(|_| event != Event::SessionBegan),
        idle_ms: milliseconds(idle).filter(|_| event == Event::SessionEnded),
        server: decode_text(server)?,
        by,
        ..Entry::new(at_ms, event)
    })
}

/// Of the words of a user id, a database and a login.
fn identity((uid, database, login): (&str, &str, &str)) -> Option<Identity> {
    Some(Identity {
        database: decode_text(database)?,
        login: decode_text(login)?,
        user_id: uid.parse().ok(),
    })
}

/// A score, which was a whole number when it was written.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
pub(super) fn whole(score: f64) -> u64 {
    score as u64
}

fn first(key: &str, count: usize) -> Cmd {
    let mut command = redis::cmd("ZRANGEBYSCORE");
    command.arg(key).arg("-inf").arg("+inf").arg("WITHSCORES").arg("LIMIT").arg(0).arg(count);
    command
}

impl Keys {
    /// The outbox of the store, or in a Cluster what commands say.
    pub(crate) fn outbox(&self) -> String {
        format!("{}:trail", self.prefix())
    }

    /// Begins the outbox of each shard.
    pub(crate) fn outboxes(&self) -> String {
        format!("{}:trail:", self.prefix())
    }

    fn outbox_of(&self, shard: Shard) -> String {
        format!("{}{{{}}}", self.outboxes(), shard.as_str())
    }

    /// Who writes the trail now.
    pub(crate) fn lease(&self) -> String {
        format!("{}:trail-lease", self.prefix())
    }
}

impl Inner {
    /// What the outbox that is not of a shard holds.
    pub(super) async fn outbox(&self) -> Result<Page, StoreError> {
        let key = self.keys.outbox();
        let asked = vec![(Slot::for_key(&key), key)];
        let mut pages = self.outboxes(asked, PAGE).await?;
        pages.pop().ok_or_else(|| StoreError::Unreadable("no answer".into()))
    }

    /// What those of some shards hold.
    pub(super) async fn outboxes_of(&self, shards: &[Shard]) -> Result<Vec<Page>, StoreError> {
        let asked = shards.iter().map(|shard| (Keys::slot(*shard), self.keys.outbox_of(*shard)));
        self.outboxes(asked.collect(), PAGE_OF_SHARD).await
    }

    /// How many entries wait.
    pub(super) async fn waiting(&self) -> Result<u64, StoreError> {
        let key = self.keys.outbox();
        let mut sizes = vec![(Slot::for_key(&key), size(&key))];
        if self.primaries.is_cluster() {
            let of = |shard: Shard| (Keys::slot(shard), size(&self.keys.outbox_of(shard)));
            sizes.extend(Shard::all().map(of));
        }
        Ok(counts(self.ask_indexes(sizes).await?, "an outbox")?.iter().sum())
    }

    async fn outboxes(
        &self,
        asked: Vec<(Slot, String)>,
        count: usize,
    ) -> Result<Vec<Page>, StoreError> {
        let commands = asked.iter().map(|(slot, key)| (*slot, first(key, count))).collect();
        let answers = self.ask_all(commands, Need::Up).await?;
        let members = Vec::<Vec<(Vec<u8>, f64)>>::from_redis_value(Value::Array(answers))
            .map_err(|_| StoreError::Unreadable("an outbox of another shape".into()))?;
        let now_ms = self.now_of_servers_ms();
        let pages = asked.into_iter().zip(members).map(|((slot, key), members)| {
            let is_full = members.len() >= count;
            let mut unreadable = 0;
            let mut entries = Vec::with_capacity(members.len());
            for (member, score) in &members {
                match entry(member, *score) {
                    Some(entry) => entries.push(entry),
                    None => unreadable += 1,
                }
            }
            if unreadable > 0 {
                let reason = Some("not an entry of the trail".to_owned());
                entries.push(Entry {
                    count: Some(unreadable),
                    reason,
                    ..Entry::new(now_ms, Event::LeftOut)
                });
            }
            for entry in entries.iter_mut().filter(|entry| entry.at_ms == 0) {
                entry.at_ms = now_ms;
            }
            let counted = members.iter().find(|(member, _)| member == LEFT_OUT);
            Page {
                key,
                slot,
                left_out: counted.map_or(0, |(_, score)| whole(-score)),
                members: members.into_iter().map(|(member, _)| member).collect(),
                entries,
                is_full,
            }
        });
        Ok(pages.collect())
    }

    /// These are written: they leave the outbox. What was left out is counted down by as much as was read of it, since more
    /// may have been meanwhile.
    pub(super) async fn written(&self, page: &Page) -> Result<(), StoreError> {
        let remove = |members: &[&[u8]]| {
            let mut command = redis::cmd("ZREM");
            command.arg(&page.key).arg(members);
            command
        };
        let is_counted = |member: &&[u8]| *member == LEFT_OUT;
        let (counted, others): (Vec<&[u8]>, Vec<&[u8]>) =
            page.members.iter().map(Vec::as_slice).partition(is_counted);
        if !others.is_empty() {
            self.ask(page.slot, &remove(&others)).await?;
        }
        if counted.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("ZADD");
        command.arg(&page.key).arg("XX").arg("INCR").arg(page.left_out).arg(LEFT_OUT);
        let left = Option::<f64>::from_redis_value(self.ask(page.slot, &command).await?);
        // There is room again by now, so nothing is counted that this would take away.
        if left.is_ok_and(|left| left.is_some_and(|left| left >= 0.0)) {
            self.ask(page.slot, &remove(&counted)).await?;
        }
        Ok(())
    }

    /// Puts an entry of our own into the outbox.
    pub(super) async fn tell(&self, entry: &Entry) -> Result<(), StoreError> {
        let key = self.keys.outbox();
        let mut line = entry.line();
        line.pop();
        let mut command = redis::cmd("ZADD");
        command.arg(&key).arg("NX").arg(entry.at_ms).arg(line);
        self.ask(Slot::for_key(&key), &command).await.map(|_| ())
    }
}

impl RedisStore {
    /// Says in the audit trail what a command has done, and to how many sessions, if it is about sessions.
    pub async fn tell_trail(
        &self,
        event: Event,
        what: &str,
        count: Option<u64>,
    ) -> Result<(), StoreError> {
        let by = self.inner.settings.origin.by.clone();
        self.tell_trail_by(event, what, count, by).await
    }

    /// The same of somebody who typed no command.
    pub(crate) async fn tell_trail_by(
        &self,
        event: Event,
        what: &str,
        count: Option<u64>,
        by: Option<String>,
    ) -> Result<(), StoreError> {
        const WHAT_CHARS: usize = 500;
        let server = self.inner.settings.origin.server.clone();
        let entry = Entry {
            what: Some(what.chars().take(WHAT_CHARS).collect()),
            count,
            server: Some(server),
            by,
            ..Entry::new(self.inner.now_of_servers_ms(), event)
        };
        self.inner.tell(&entry).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_scripts_say_is_read() {
        let alias = "ab".repeat(20);
        let said = format!("ended idle 00ff {alias} - 7 shop anna%20b 5000 4000 web1 -");
        let entry = told(&said, 9).unwrap();
        assert_eq!((entry.event, entry.reason.as_deref()), (Event::SessionEnded, Some("idle")));
        assert_eq!((entry.login.as_deref(), entry.user_id), (Some("anna b"), Some(7)));
        assert_eq!((entry.age_ms, entry.idle_ms, entry.at_ms), (Some(5000), Some(4000), 9));
        assert_eq!((entry.server.as_deref(), entry.by), (Some("web1"), None));
        let typed = format!("ended logout 00ff {alias} - - - - 5 4 web1 root%20on%20tty1");
        let entry = told(&typed, 9).unwrap();
        assert_eq!(
            (entry.reason.as_deref(), entry.by.as_deref()),
            (Some("killed"), Some("root on tty1"))
        );
        let rotated = format!("began rotation 00ff {alias} {alias} 7 shop anna 5000 4000 web1 -");
        let entry = told(&rotated, 9).unwrap();
        assert_eq!((entry.event, entry.from.as_deref()), (Event::SessionRotated, Some(&*alias)));
        let became = format!("became - 00ff {alias} - 1 shop root 5000 0 web1 - 7 shop anna%20b");
        let entry = told(&became, 9).unwrap();
        assert_eq!((entry.event, entry.user_id), (Event::IdentityChanged, Some(1)));
        let former = entry.former.unwrap();
        assert_eq!((former.login.as_deref(), former.user_id), (Some("anna b"), Some(7)));
        let others = ["", "ended", "x y z", &format!("{said} more"), &said.replace(&alias, "..")];
        for other in others.into_iter().chain([&*format!("{became} more")]) {
            assert_eq!(told(other, 9), None, "{other}");
        }
    }

    #[test]
    fn lua_and_rust_agree_on_the_outbox() {
        let lua = include_str!("scripts/session.lua");
        assert!(lua.contains(&format!("local OUTBOX_MOST = {MOST}\n")));
        assert!(lua.contains("local LEFT_OUT = '-'\n"));
    }

    #[test]
    fn whatever_lies_there_is_read_without_panic() {
        let long = vec![b'{'; MEMBER_MAX_BYTES + 1];
        for member in [&b""[..], b"\xff", b"{}", b"{\"event\":1}", &long] {
            assert_eq!(entry(member, 1.0), None);
        }
        assert_eq!(entry(b"-", -12.0).unwrap().count, Some(12));
        assert_eq!(entry(b"-", f64::NAN).unwrap().count, Some(0));
    }

    #[test]
    fn an_origin_is_two_words_however_it_is_called() {
        let origin = Origin { server: "a b\n".repeat(100), by: Some("- x".into()) };
        let words = origin.words();
        assert_eq!(words.split(' ').count(), 2);
        assert!(words.ends_with(" %2D%20x"), "{words}");
    }
}
