//! A change that is kept, and its file: a line with length and checksum, a line of facts, and the
//! sealed content. A session id is never in it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::session::content::{Class, Content};
use crate::session::name::{Alias, Form, Shard};
use crate::session::packing;
use crate::session::seal::hint_of;
use crate::session::secret::HINT_BYTES;
use crate::store::{Amend, ChangeId, Claim, Mtime, Publish, Stamp, Unlink};

/// Begins every file. Another format has another number.
const MAGIC: &str = "sessionfs-kept 1";
/// The same where the content is packed: a version that cannot unpack it does not send it, and sets the file aside.
const MAGIC_PACKED: &str = "sessionfs-kept 2";
/// A file is no longer than this and its contents. The facts are bounded texts.
pub(super) const FACTS_MAX_BYTES: u64 = 16 * 1024;

/// The Redis that a change is for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Place {
    /// Its address, without credentials.
    pub url: String,
    /// Begins its keys.
    pub prefix: String,
}

/// One change that is kept.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// Its place in the order of this server's changes.
    pub number: u64,
    /// When it was kept: milliseconds since the epoch, by this host's clock.
    pub kept_ms: u64,
    pub place: Place,
    pub change: Change,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Save(Box<Save>),
    Removal(Unlink),
    Amend(Amend),
}

#[derive(Clone, Debug)]
pub(super) struct Save {
    pub publish: Publish,
    /// The content sealed for the life that this save would begin, if its other one is that of a life
    /// which it would go on with.
    pub own: Option<Bytes>,
}

impl Save {
    /// Only a visitor's save may begin a life although its thread has opened one.
    pub(super) fn new(publish: Publish) -> Self {
        let begins = publish.content.class == Class::Anonymous && publish.birth != publish.stamp.id;
        let own = begins.then(|| publish.rebound(publish.stamp.id)).flatten();
        Self { own: own.map(|own| own.sealed), publish }
    }

    /// The same save, sealed for the life of that birth.
    pub(super) fn for_birth(&self, birth: ChangeId) -> Option<Publish> {
        if birth == self.publish.birth {
            return Some(self.publish.clone());
        }
        match &self.own {
            Some(own) if birth == self.publish.stamp.id => {
                Some(Publish { birth, sealed: own.clone(), ..self.publish.clone() })
            }
            _ => self.publish.rebound(birth),
        }
    }
}

impl Change {
    pub(super) fn stamp(&self) -> Stamp {
        match self {
            Self::Save(save) => save.publish.stamp,
            Self::Removal(unlink) => unlink.stamp,
            Self::Amend(amend) => amend.stamp,
        }
    }

    /// The session that it is most likely of.
    pub(super) fn alias(&self) -> &Alias {
        match self {
            Self::Save(save) => &save.publish.alias,
            Self::Removal(unlink) => unlink.listed.as_ref().unwrap_or(&unlink.alias),
            Self::Amend(amend) => &amend.alias,
        }
    }

    /// Every session that it may change.
    pub(super) fn aliases(&self) -> impl Iterator<Item = &Alias> {
        let other = match self {
            Self::Removal(unlink) if unlink.listed.is_some() => Some(&unlink.alias),
            _ => None,
        };
        std::iter::once(self.alias()).chain(other)
    }

    /// The session that it is the rotation of.
    pub(super) fn rotates(&self) -> Option<&Alias> {
        match self {
            Self::Save(save) => save.publish.claim.sibling.as_ref(),
            Self::Removal(_) | Self::Amend(_) => None,
        }
    }

    /// Both names of a removal are of one shard.
    pub(super) fn shard(&self) -> Shard {
        self.alias().shard()
    }

    /// The word for it in logs.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Save(_) => "save",
            Self::Removal(_) => "removal",
            Self::Amend(_) => "change of attributes",
        }
    }

    fn is_packed(&self) -> bool {
        matches!(self, Self::Save(save) if save.publish.packing != packing::PLAIN)
    }

    /// By which the secret is named that its content is sealed with.
    pub(super) fn secret_hint(&self) -> Option<[u8; HINT_BYTES]> {
        match self {
            Self::Save(save) => hint_of(&save.publish.sealed),
            Self::Removal(_) | Self::Amend(_) => None,
        }
    }
}

impl Record {
    /// The name of its file: their order is that of the changes.
    pub(super) fn file_name(&self) -> String {
        format!("{:020}-{:032x}", self.number, self.change.stamp().id.0)
    }

    /// What its file holds.
    pub(super) fn encode(&self) -> Bytes {
        let mut body = serde_json::to_vec(&Facts::of(self)).expect("plain facts are JSON");
        body.push(b'\n');
        if let Change::Save(save) = &self.change {
            body.extend_from_slice(&save.publish.sealed);
            body.extend_from_slice(save.own.as_deref().unwrap_or_default());
        }
        let magic = if self.change.is_packed() { MAGIC_PACKED } else { MAGIC };
        let mut file = format!("{magic} {} {}\n", body.len(), checksum(&body)).into_bytes();
        file.append(&mut body);
        file.into()
    }

    /// Reads what [`Record::encode`] wrote; an error says what is wrong with it.
    pub(super) fn decode(file: &Bytes) -> Result<Self, String> {
        let head_end = file.iter().position(|&byte| byte == b'\n').ok_or("it has no first line")?;
        let head = std::str::from_utf8(&file[..head_end]).map_err(|_| "it is no text")?;
        let rest = [MAGIC, MAGIC_PACKED].iter().find_map(|magic| head.strip_prefix(magic));
        let rest = rest.ok_or("it is of another format")?;
        let body = file.slice(head_end + 1..);
        let mut words = rest.split_whitespace();
        if words.next().and_then(|word| word.parse().ok()) != Some(body.len()) {
            return Err("it is cut off".into());
        }
        if words.next() != Some(checksum(&body).as_str()) {
            return Err("its checksum is wrong".into());
        }
        let facts_end = body.iter().position(|&byte| byte == b'\n').ok_or("it has no facts")?;
        let facts: Facts =
            serde_json::from_slice(&body[..facts_end]).map_err(|error| error.to_string())?;
        facts.record(&body.slice(facts_end + 1..)).map_err(|Wrong| "a fact is wrong".into())
    }
}

/// The change that a file of that name holds.
pub(super) fn change_of(name: impl AsRef<str>) -> Option<ChangeId> {
    let (_, id) = name.as_ref().split_once('-')?;
    u128::from_str_radix(id, 16).ok().map(ChangeId)
}

fn checksum(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The line of facts.
#[derive(Debug, Deserialize, Serialize)]
struct Facts {
    number: u64,
    kept_ms: u64,
    #[serde(flatten)]
    place: Place,
    id: String,
    first_ms: u64,
    alias: String,
    #[serde(flatten)]
    kind: Kind,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "change", rename_all = "lowercase")]
enum Kind {
    Save {
        flat: bool,
        authenticated: bool,
        uid: Option<i64>,
        db: Option<String>,
        login: Option<String>,
        size_bytes: u64,
        birth: String,
        opened: Option<String>,
        held_removal: Option<String>,
        sibling: Option<String>,
        after_failed_read: bool,
        background: bool,
        is_activity: bool,
        /// How the content is packed.
        #[serde(default, skip_serializing_if = "is_plain")]
        packing: u16,
        /// How much of what follows is sealed for `birth`.
        sealed_bytes: usize,
    },
    Removal {
        listed: Option<String>,
        held: Option<String>,
        opened: bool,
        /// It was a visitor's session.
        #[serde(default)]
        visitor: bool,
    },
    Amend {
        mode: Option<u32>,
        /// The store's own now, if there is `now` and no number.
        mtime_ns: Option<i64>,
        now: bool,
    },
}

impl Kind {
    fn of_save(publish: &Publish) -> Self {
        Self::Save {
            flat: publish.form == Form::Flat,
            authenticated: publish.content.class == Class::Authenticated,
            uid: publish.content.uid,
            db: publish.content.db.clone(),
            login: publish.content.login.clone(),
            size_bytes: publish.size_bytes,
            birth: text_of(publish.birth),
            opened: publish.claim.opened.map(text_of),
            held_removal: publish.claim.held_removal.map(text_of),
            sibling: publish.claim.sibling.as_ref().map(ToString::to_string),
            after_failed_read: publish.claim.after_failed_read,
            background: publish.background,
            is_activity: publish.is_activity,
            packing: publish.packing,
            sealed_bytes: publish.sealed.len(),
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde asks
fn is_plain(packing: &u16) -> bool {
    *packing == packing::PLAIN
}

fn class_of(is_authenticated: bool) -> Class {
    if is_authenticated { Class::Authenticated } else { Class::Anonymous }
}

fn text_of(id: ChangeId) -> String {
    format!("{:032x}", id.0)
}

fn id_of(text: &str) -> Option<ChangeId> {
    u128::from_str_radix(text, 16).ok().map(ChangeId)
}

/// A fact that may be missing, and must not be wrong.
fn maybe<T>(text: Option<&String>, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Wrong> {
    text.map(|text| read(text).ok_or(Wrong)).transpose()
}

/// A fact that cannot be.
struct Wrong;

impl Facts {
    fn of(record: &Record) -> Self {
        let stamp = record.change.stamp();
        let alias = match &record.change {
            Change::Removal(unlink) => &unlink.alias,
            change => change.alias(),
        };
        let kind = match &record.change {
            Change::Save(save) => Kind::of_save(&save.publish),
            Change::Removal(unlink) => Kind::Removal {
                listed: unlink.listed.as_ref().map(ToString::to_string),
                held: unlink.held.map(text_of),
                opened: unlink.opened.is_some(),
                visitor: unlink.opened == Some(Class::Anonymous),
            },
            Change::Amend(amend) => Kind::Amend {
                mode: amend.mode,
                mtime_ns: amend.mtime.and_then(|mtime| match mtime {
                    Mtime::Ns(ns) => Some(ns),
                    Mtime::Now => None,
                }),
                now: amend.mtime == Some(Mtime::Now),
            },
        };
        Self {
            number: record.number,
            kept_ms: record.kept_ms,
            place: record.place.clone(),
            id: text_of(stamp.id),
            first_ms: stamp.first_ms,
            alias: alias.to_string(),
            kind,
        }
    }

    fn record(self, contents: &Bytes) -> Result<Record, Wrong> {
        let alias = Alias::parse(&self.alias).ok_or(Wrong)?;
        let stamp = Stamp::new(id_of(&self.id).ok_or(Wrong)?, self.first_ms).again();
        let change = match self.kind {
            Kind::Removal { listed, held, opened, visitor } => Change::Removal(Unlink {
                stamp,
                alias,
                listed: maybe(listed.as_ref(), Alias::parse)?,
                held: maybe(held.as_ref(), id_of)?,
                opened: opened.then_some(class_of(!visitor)),
            }),
            Kind::Amend { mode, mtime_ns, now } => {
                let mtime = mtime_ns.map(Mtime::Ns).or_else(|| now.then_some(Mtime::Now));
                Change::Amend(Amend { stamp, alias, mode, mtime })
            }
            Kind::Save {
                flat,
                authenticated,
                uid,
                db,
                login,
                size_bytes,
                birth,
                opened,
                held_removal,
                sibling,
                after_failed_read,
                background,
                is_activity,
                packing,
                sealed_bytes,
            } => {
                let class = class_of(authenticated);
                if sealed_bytes > contents.len() {
                    return Err(Wrong);
                }
                let own = contents.slice(sealed_bytes..);
                let publish = Publish {
                    stamp,
                    alias,
                    form: if flat { Form::Flat } else { Form::Sharded },
                    content: Content { class, uid, db, login },
                    size_bytes,
                    birth: id_of(&birth).ok_or(Wrong)?,
                    packing,
                    sealed: contents.slice(..sealed_bytes),
                    sealer: None,
                    claim: Claim {
                        opened: maybe(opened.as_ref(), id_of)?,
                        held_removal: maybe(held_removal.as_ref(), id_of)?,
                        sibling: maybe(sibling.as_ref(), Alias::parse)?,
                        after_failed_read,
                    },
                    background,
                    is_activity,
                };
                let own = (!own.is_empty()).then_some(own);
                Change::Save(Box::new(Save { publish, own }))
            }
        };
        Ok(Record { number: self.number, kept_ms: self.kept_ms, place: self.place, change })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::session::name::Sid;
    use crate::session::packing::Packed;
    use crate::session::seal;
    use crate::session::secret::Keyring;
    use crate::store::{Bound, Sealer};

    pub(in super::super) fn sid() -> Sid {
        Sid::parse(&"ab".repeat(42)).expect("a session id")
    }

    pub(in super::super) fn alias(number: u32) -> Alias {
        Alias::parse(&format!("ab{number:082}")).expect("an alias")
    }

    pub(in super::super) fn place() -> Place {
        Place { url: "redis://localhost:6379/0".into(), prefix: "sessionfs".into() }
    }

    pub(in super::super) fn stamp(id: u128) -> Stamp {
        Stamp::new(ChangeId(id), 1000).again()
    }

    /// A save, by who has opened that birth.
    pub(in super::super) fn save(id: u128, class: Class, opened: Option<u128>) -> Publish {
        Publish {
            stamp: stamp(id),
            alias: alias(1),
            form: Form::Sharded,
            content: Content { class, uid: Some(7), db: Some("shop".into()), login: None },
            size_bytes: 3,
            birth: ChangeId(opened.unwrap_or(id)),
            packing: packing::PLAIN,
            sealed: Bytes::from_static(b"\nabc\n"),
            sealer: None,
            claim: Claim { opened: opened.map(ChangeId), ..Claim::default() },
            background: false,
            is_activity: true,
        }
    }

    pub(in super::super) fn sealer() -> Sealer {
        Sealer::new(Keyring::for_tests(), sid(), Packed::plain(Bytes::from_static(b"abc")))
    }

    pub(in super::super) fn is_sealed_for(birth: u128, publish: &Publish) -> bool {
        let bound = Bound { birth: ChangeId(birth), ..publish.bound() };
        seal::open(&Keyring::for_tests(), &sid(), &bound, &publish.sealed)
            .is_ok_and(|plain| plain == b"abc")
    }

    pub(in super::super) fn removal(id: u128) -> Unlink {
        let opened = Some(Class::Authenticated);
        Unlink { stamp: stamp(id), alias: alias(1), listed: None, held: None, opened }
    }

    fn record(change: Change) -> Record {
        Record { number: 12, kept_ms: 34, place: place(), change }
    }

    fn changes() -> Vec<Change> {
        let rich = Publish {
            form: Form::Flat,
            claim: Claim {
                opened: Some(ChangeId(5)),
                held_removal: Some(ChangeId(u128::MAX)),
                sibling: Some(alias(2)),
                after_failed_read: true,
            },
            background: true,
            is_activity: false,
            ..save(9, Class::Anonymous, Some(5))
        };
        vec![
            Change::Save(Box::new(Save::new(save(8, Class::Authenticated, None)))),
            Change::Save(Box::new(Save { publish: rich, own: Some(Bytes::from_static(b"own")) })),
            Change::Removal(removal(1)),
            Change::Removal(Unlink {
                listed: Some(alias(3)),
                held: Some(ChangeId(4)),
                opened: None,
                ..removal(2)
            }),
            Change::Removal(Unlink { opened: Some(Class::Anonymous), ..removal(3) }),
            Change::Amend(Amend {
                stamp: stamp(3),
                alias: alias(1),
                mode: Some(0o600),
                mtime: Some(Mtime::Now),
            }),
            Change::Amend(Amend {
                stamp: stamp(3),
                alias: alias(1),
                mode: None,
                mtime: Some(Mtime::Ns(-5)),
            }),
        ]
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for change in changes() {
            let written = record(change);
            let read = Record::decode(&written.encode()).unwrap();
            // When a change was made is told by the age of its file.
            let shown = |record: &Record| {
                let text = format!("{record:?}");
                let (head, made) = text.split_once("made: ").unwrap();
                format!("{head}{}", made.split_once('}').unwrap().1)
            };
            assert_eq!(shown(&read), shown(&written));
        }
    }

    #[test]
    fn a_file_that_is_cut_off_or_changed_anywhere_is_recognised() {
        for change in changes() {
            let file = record(change).encode();
            for end in 0..file.len() {
                assert!(Record::decode(&file.slice(..end)).is_err(), "cut off at {end}");
            }
            for at in 0..file.len() {
                let mut other = file.to_vec();
                other[at] ^= 0x20;
                assert!(Record::decode(&other.into()).is_err(), "changed at {at}");
            }
        }
    }

    #[test]
    fn the_order_of_the_names_is_that_of_the_changes() {
        let name = |number| Record { number, ..record(Change::Removal(removal(1))) }.file_name();
        assert!(name(9) < name(10) && name(10) < name(u64::MAX));
    }

    #[test]
    fn a_save_is_sealed_for_both_lives_that_it_can_belong_to() {
        let visitor = Publish { sealer: Some(sealer()), ..save(9, Class::Anonymous, Some(5)) };
        let kept = Save::new(visitor);
        // After our own death, too.
        let read = Record::decode(&record(Change::Save(Box::new(kept.clone()))).encode()).unwrap();
        let Change::Save(read) = read.change else { panic!("a save") };
        for kept in [&kept, &read] {
            assert_eq!(kept.for_birth(ChangeId(5)).unwrap().sealed, &b"\nabc\n"[..]);
            assert!(is_sealed_for(9, &kept.for_birth(ChangeId(9)).unwrap()));
        }
        // Any other needs the session id.
        assert!(is_sealed_for(7, &kept.for_birth(ChangeId(7)).unwrap()));
        assert!(read.for_birth(ChangeId(7)).is_none());
        // Nobody is logged in by a save of a life that has ended.
        let person = Publish { sealer: Some(sealer()), ..save(9, Class::Authenticated, Some(5)) };
        assert_eq!(Save::new(person).own, None);
    }
}
