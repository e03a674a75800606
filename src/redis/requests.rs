//! Every request about sessions, as it is sent. The store sends them, and so does the probe before
//! the first session: what the probe may do, the store may.

use std::sync::Arc;
use std::time::Duration;

use redis::Cmd;

use super::args::{
    self, AmendArgs, ChangeArgs, ContentArgs, FetchArgs, FindArgs, HeadersArgs, ImportArgs,
    IndexArgs, LeaseArgs, ListArgs, PieceArgs, ProbeArgs, PublishArgs, RoomArgs, SetArgs,
    SettingsArgs, TouchArgs, UnlinkArgs,
};
use super::bulk::{LARGE_BYTES, extra_time};
use super::envelope::{COMPACT_FORMAT, mode_text, text, uid_text};
use super::headers::Scored;
use super::index::{self, Entry};
use super::keys::Keys;
use super::scripts::{Call, ClockView, Policy, Scripts};
use crate::session::content::Content;
use crate::session::name::{Alias, Form, Shard};
use crate::store::{
    Amend, Attempt, ChangeId, HELD_IN_STORE_MS, Import, Mtime, Publish, Stamp, Unlink,
};

/// How many entries one script goes through, of which few are wanted: two milliseconds of Redis's time.
const FOUND_MAX: usize = 10_000;

/// By which marks entries are sought; those that are `None` may be any.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sought {
    pub user: Option<u8>,
    pub login: Option<u8>,
    /// Of flat names alone.
    pub flat: bool,
}

/// What becomes of the entry of a session that is not there any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Dead {
    /// It leaves its index.
    Leave,
    Stay,
}

/// Which indexes of a shard a script is given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Indexes {
    /// Those that sessions are likely to be in, by what is written. The script says so if one is in another.
    Likely,
    /// Those of the other kind.
    Others,
    /// Both. While a slot of a Cluster is moved, no script is run that is given these.
    All,
}

impl Indexes {
    /// What is tried after it.
    pub(super) fn next(self) -> Self {
        if self == Self::Likely { Self::Others } else { Self::All }
    }
}

/// What requests are made of.
#[derive(Clone)]
pub(super) struct Requests<'a> {
    pub scripts: &'a Scripts,
    pub keys: &'a Keys,
    pub policy: Policy<'a>,
    /// How long the sender of a change waits before it sends it again.
    pub attempt_ms: u64,
    /// Redis's time, for stamps that were made before it was known; 0 while it is not.
    pub now_ms: u64,
    /// For how long the store holds a removal.
    pub hold_ms: u64,
    pub indexes: Indexes,
}

impl<'a> Requests<'a> {
    /// Those of a connection that serves nobody yet.
    pub(super) fn unserved(scripts: &'a Scripts, keys: &'a Keys) -> Self {
        let policy = Policy::unknowing();
        Self {
            scripts,
            keys,
            policy,
            attempt_ms: 0,
            now_ms: 0,
            hold_ms: HELD_IN_STORE_MS,
            indexes: Indexes::All,
        }
    }

    /// The same, that judge nothing stale, so end nothing.
    pub(super) fn judging_nothing(self) -> Self {
        let policy = Policy { clock: ClockView::NotJudged, ..self.policy };
        Self { policy, ..self }
    }

    /// The same, that write nothing into the outbox of the trail: where room is made it would take that again, and a server
    /// that is just being given a slot gets its outbox later. The answers carry it.
    pub(super) fn telling_in_answers(self) -> Self {
        let outbox = if self.policy.outbox.is_empty() { "" } else { "-" };
        Self { policy: Policy { outbox, ..self.policy }, ..self }
    }

    /// The same, asked for by somebody else, as [`super::outbox::Origin::words`].
    pub(super) fn asked_by(self, origin: &'a str) -> Self {
        Self { policy: Policy { origin, ..self.policy }, ..self }
    }

    /// The same, for a session whose owner may be that one, or whoever it is (''), by the rules.
    pub(super) fn for_owner(self, owner: Arc<str>) -> Self {
        Self { policy: Policy { owner, ..self.policy }, ..self }
    }

    /// The current version under a name.
    pub(super) fn fetch(&self, alias: &'a Alias, listed: Option<&'a Alias>) -> Call<'a> {
        let listed = of_shard(listed, alias);
        self.scripts.call(
            &self.policy,
            FetchArgs {
                indexes: self.likely(alias, listed),
                session: self.keys.session(alias),
                listed_session: self.keys.session(listed.unwrap_or(alias)),
                alias: args::alias(Some(alias)),
                tail: args::tail(Some(alias)),
                listed: args::alias(listed),
                listed_tail: args::tail(listed),
                most: args::number(LARGE_BYTES),
            },
        )
    }

    fn all_indexes(&self, shard: Shard) -> IndexArgs<'a> {
        let [index, quarter_0, quarter_1, quarter_2, quarter_3] = self.keys.indexes(shard);
        let indexes = args::text("all");
        IndexArgs { index, quarter_0, quarter_1, quarter_2, quarter_3, indexes }
    }

    /// The long index alone.
    fn long_index(&self, shard: Shard) -> IndexArgs<'a> {
        let named = self.keys.index(shard);
        let [quarter_0, quarter_1, quarter_2, quarter_3] = std::array::from_fn(|_| named.clone());
        let indexes = args::text("long");
        IndexArgs { index: named, quarter_0, quarter_1, quarter_2, quarter_3, indexes }
    }

    /// The short indexes alone that these sessions would be in, all of one shard with this one.
    fn short_indexes<'b>(
        &self,
        alias: &Alias,
        others: impl Iterator<Item = &'b Alias>,
    ) -> IndexArgs<'a> {
        let quarters = self.keys.quarters(alias.shard());
        let first = quarters[index::quarter(alias)].clone();
        let mut named: [String; index::QUARTERS] = std::array::from_fn(|_| first.clone());
        for number in others.map(index::quarter) {
            named[number].clone_from(&quarters[number]);
        }
        let [quarter_0, quarter_1, quarter_2, quarter_3] = named;
        let indexes = args::text("short");
        IndexArgs { index: first, quarter_0, quarter_1, quarter_2, quarter_3, indexes }
    }

    /// The indexes that one session is likely to be in, or another one of its shard.
    fn likely(&self, alias: &Alias, other: Option<&Alias>) -> IndexArgs<'a> {
        self.likely_of(alias, other.into_iter())
    }

    /// The same of several.
    fn likely_of<'b>(
        &self,
        alias: &Alias,
        others: impl Iterator<Item = &'b Alias>,
    ) -> IndexArgs<'a> {
        let writes_short = self.policy.formats.written >= COMPACT_FORMAT;
        match self.indexes {
            Indexes::All => self.all_indexes(alias.shard()),
            likely if (likely == Indexes::Likely) == writes_short => {
                self.short_indexes(alias, others)
            }
            Indexes::Likely | Indexes::Others => self.long_index(alias.shard()),
        }
    }

    /// The indexes that these entries are in.
    fn of_entries(&self, shard: Shard, entries: &[Entry]) -> IndexArgs<'a> {
        let are_long = entries.iter().all(|entry| entry.marks.is_none());
        let are_short = entries.iter().all(|entry| entry.marks.is_some());
        match (self.indexes, entries.first()) {
            (Indexes::Likely, _) if are_long => self.long_index(shard),
            (Indexes::Likely, Some(first)) if are_short => {
                self.short_indexes(&first.alias, entries.iter().map(|entry| &entry.alias))
            }
            _ => self.all_indexes(shard),
        }
    }

    /// At most `most` bytes of the content of one save.
    pub(super) fn piece(
        &self,
        alias: &Alias,
        save: ChangeId,
        from: usize,
        most: usize,
    ) -> Call<'a> {
        self.scripts.call(
            &self.policy,
            PieceArgs {
                session: self.keys.session(alias),
                save: args::id(Some(save)),
                from: args::number(from),
                most: args::number(most),
            },
        )
    }

    /// A change of this session, perhaps by way of another one of its shard.
    fn change(
        &self,
        alias: &'a Alias,
        other: Option<&Alias>,
        stamp: &Stamp,
        attempt: Attempt,
    ) -> ChangeArgs<'a> {
        self.large_change(alias, other, stamp, attempt, 0)
    }

    /// The same that carries `bytes`.
    fn large_change(
        &self,
        alias: &'a Alias,
        other: Option<&Alias>,
        stamp: &Stamp,
        attempt: Attempt,
        bytes: usize,
    ) -> ChangeArgs<'a> {
        let extra_ms = extra_time(bytes).as_millis();
        ChangeArgs {
            indexes: self.likely(alias, other),
            session: self.keys.session(alias),
            alias: args::alias(Some(alias)),
            tail: args::tail(Some(alias)),
            id: args::id(Some(stamp.id)),
            first_ms: args::number(stamp.first_ms_at(self.now_ms)),
            waits_ms: match attempt {
                Attempt::First => args::number(u128::from(self.attempt_ms) + extra_ms),
                Attempt::Again => args::text("again"),
            },
        }
    }

    pub(super) fn publish(&self, publish: &'a Publish, attempt: Attempt) -> Call<'a> {
        let claim = &publish.claim;
        let sibling = of_shard(claim.sibling.as_ref(), &publish.alias);
        let Publish { content, size_bytes, form, packing, sealed, .. } = publish;
        let change =
            self.large_change(&publish.alias, sibling, &publish.stamp, attempt, sealed.len());
        self.scripts.call(
            &self.policy,
            PublishArgs {
                content: content_args(change, content, *size_bytes, *form, (*packing, sealed)),
                sibling_session: self.keys.session(sibling.unwrap_or(&publish.alias)),
                birth: args::id(Some(publish.birth)),
                opened: args::id(claim.opened),
                held_removal: args::id(claim.held_removal),
                sibling: args::alias(sibling),
                sibling_tail: args::tail(sibling),
                background: args::flag(publish.background),
                is_activity: args::flag(publish.is_activity),
                after_failed_read: args::flag(claim.after_failed_read),
            },
        )
    }

    pub(super) fn unlink(&self, unlink: &'a Unlink, attempt: Attempt) -> Call<'a> {
        let listed = of_shard(unlink.listed.as_ref(), &unlink.alias);
        self.scripts.call(
            &self.policy,
            UnlinkArgs {
                change: self.change(&unlink.alias, listed, &unlink.stamp, attempt),
                listed_session: self.keys.session(listed.unwrap_or(&unlink.alias)),
                listed: args::alias(listed),
                listed_tail: args::tail(listed),
                held: args::id(unlink.held),
                hold_ms: args::number(self.hold_ms),
            },
        )
    }

    /// No removal after all: that one, which is held.
    pub(super) fn take_back(&self, alias: &'a Alias, removal: ChangeId) -> Call<'a> {
        let stamp = Stamp::new(removal, 0).again();
        self.scripts.call(
            &self.policy,
            UnlinkArgs {
                change: self.change(alias, None, &stamp, Attempt::Again),
                listed_session: self.keys.session(alias),
                listed: args::alias(None),
                listed_tail: args::tail(None),
                held: args::id(Some(removal)),
                hold_ms: args::number(0),
            },
        )
    }

    /// A change of mode or mtime.
    pub(super) fn amend(&self, amend: &'a Amend, attempt: Attempt) -> Call<'a> {
        self.scripts.call(
            &self.policy,
            AmendArgs {
                change: self.change(&amend.alias, None, &amend.stamp, attempt),
                mode: args::text(amend.mode.map(mode_text).unwrap_or_default()),
                mtime: match amend.mtime {
                    None => args::text(""),
                    Some(Mtime::Now) => args::text("now"),
                    Some(Mtime::Ns(ns)) => args::number(ns),
                },
            },
        )
    }

    /// A session file that becomes a session.
    pub(super) fn import(&self, import: &'a Import, attempt: Attempt) -> Call<'a> {
        const NS_PER_MS: i64 = 1_000_000;
        let Import { content, size_bytes, form, packing, sealed, .. } = import;
        let change = self.large_change(&import.alias, None, &import.stamp, attempt, sealed.len());
        self.scripts.call(
            &self.policy,
            ImportArgs {
                content: content_args(change, content, *size_bytes, *form, (*packing, sealed)),
                mtime: args::number(import.mtime_ns),
                mtime_ms: args::number(import.mtime_ns / NS_PER_MS),
                mode: args::text(mode_text(import.mode)),
            },
        )
    }

    /// Activity of sessions of one shard; without a time their keys are only kept.
    pub(super) fn touch(&self, shard: Shard, touches: &'a [(Alias, Option<u64>)]) -> Call<'a> {
        let indexes = match touches.first() {
            Some((first, _)) => self.likely_of(first, touches.iter().map(|(alias, _)| alias)),
            None => self.all_indexes(shard),
        };
        let mut call = self.scripts.call(&self.policy, TouchArgs { indexes });
        for (alias, at_ms) in touches {
            call.key(self.keys.session(alias)).argument(args::alias(Some(alias)));
            call.argument(args::tail(Some(alias)));
            call.argument(at_ms.map_or_else(|| args::text(""), args::number));
        }
        call
    }

    /// The living sessions among these, all of one shard.
    pub(super) fn list(&self, shard: Shard, entries: &'a [Entry], dead: Dead) -> Call<'a> {
        let indexes = self.of_entries(shard, entries);
        let tidies = args::flag(dead == Dead::Leave);
        let mut call = self.scripts.call(&self.policy, ListArgs { indexes, tidies });
        for Entry { alias, marks } in entries {
            call.key(self.keys.session(alias)).argument(args::alias(Some(alias)));
            call.argument(marks.as_ref().map_or(&[][..], |marks| marks).into());
            call.argument(args::tail(Some(alias)));
        }
        call
    }

    /// The headers of what these entries name, all of one shard.
    pub(super) fn headers(&self, entries: &[Scored]) -> Call<'a> {
        let mut call = self.scripts.call(&self.policy, HeadersArgs {});
        for (entry, _) in entries {
            call.key(self.keys.session(&entry.alias));
        }
        call
    }

    /// The entries of a shard that may bear these marks.
    pub(super) fn find(&self, shard: Shard, marks: Sought) -> Call<'a> {
        let mark = |mark: Option<u8>| mark.map_or_else(|| args::text(""), args::number);
        self.scripts.call(
            &self.policy,
            FindArgs {
                indexes: self.all_indexes(shard),
                most: args::number(FOUND_MAX),
                user: mark(marks.user),
                login: mark(marks.login),
                flat: args::flag(marks.flat),
                long: args::number(Alias::LONG_CHARS),
            },
        )
    }

    /// The end of these visitors' sessions, all of one shard.
    pub(super) fn room(&self, shard: Shard, visitors: &'a [(Alias, ChangeId)]) -> Call<'a> {
        let indexes = self.all_indexes(shard);
        let mut call = self.scripts.call(&self.policy, RoomArgs { indexes });
        for (alias, version) in visitors {
            call.key(self.keys.session(alias)).argument(args::alias(Some(alias)));
            call.argument(args::tail(Some(alias)));
            call.argument(args::id(Some(*version)));
        }
        call
    }

    /// The live settings of these names.
    pub(super) fn settings(&self, names: &'static [&'static str]) -> Call<'a> {
        let settings = self.keys.config();
        let mut call = self.scripts.call(&self.policy, SettingsArgs { settings });
        for name in names {
            call.argument(args::text(*name));
        }
        call
    }

    /// Another text of one live setting; '' takes it away.
    pub(super) fn set(&self, name: &'a str, text: &'a str) -> Call<'a> {
        let settings = self.keys.config();
        let (name, text) = (args::text(name), args::text(text));
        self.scripts.call(&self.policy, SetArgs { settings, name, text })
    }

    /// The lease on the audit trail, for that long. `rank`: a digit; 0 gives it up.
    pub(super) fn lease(&self, holder: &'a str, rank: u8, lease: Duration) -> Call<'a> {
        self.scripts.call(
            &self.policy,
            LeaseArgs {
                lease: self.keys.lease(),
                holder: args::text(holder),
                rank: args::number(rank),
                lease_ms: args::number(lease.as_millis()),
            },
        )
    }

    /// A write that changes nothing: refused where writes are.
    pub(super) fn write_nothing(&self, shard: Shard) -> Cmd {
        let mut command = redis::cmd("SET");
        // Should somebody have made that key, it ends at once.
        command.arg(self.keys.write_probe(shard)).arg("").arg("XX").arg("PX").arg(1);
        command
    }

    /// Whether scripts may be run.
    pub(super) fn run_nothing(&self, shard: Shard) -> Call<'a> {
        self.scripts.call(&self.policy, ProbeArgs { probe: self.keys.write_probe(shard) })
    }
}

/// `count` members of an index from `from` (a score) on, but for the first `skipped`, with their scores.
pub(super) fn page(index: &str, from: &str, skipped: u64, count: usize) -> Cmd {
    let mut command = redis::cmd("ZRANGEBYSCORE");
    command.arg(index).arg(from).arg("+inf").arg("WITHSCORES");
    command.arg("LIMIT").arg(skipped).arg(count);
    command
}

/// At most `count` members of an index with scores between these times, with both, with their scores.
pub(super) fn between(index: &str, from_ms: u64, to_ms: u64, count: usize) -> Cmd {
    let mut command = redis::cmd("ZRANGEBYSCORE");
    command.arg(index).arg(from_ms).arg(to_ms).arg("WITHSCORES").arg("LIMIT").arg(0).arg(count);
    command
}

/// The `count` members of an index with the highest scores, of `floor` at least.
pub(super) fn latest(index: &str, floor: f64, count: usize) -> Cmd {
    let mut command = redis::cmd("ZREVRANGEBYSCORE");
    command.arg(index).arg("+inf").arg(floor).arg("WITHSCORES");
    command.arg("LIMIT").arg(0).arg(count);
    command
}

/// The size of an index.
pub(super) fn size(index: &str) -> Cmd {
    let mut command = redis::cmd("ZCARD");
    command.arg(index);
    command
}

/// How many of these indexes, all of one shard, are there.
pub(super) fn exists(indexes: &[String]) -> Cmd {
    let mut command = redis::cmd("EXISTS");
    command.arg(indexes);
    command
}

/// The length of what is kept of a session; 0 if its name is not known.
pub(super) fn length(keys: &Keys, alias: &Alias) -> Cmd {
    let mut command = redis::cmd("STRLEN");
    command.arg(keys.session(alias));
    command
}

fn content_args<'a>(
    change: ChangeArgs<'a>,
    content: &'a Content,
    size_bytes: u64,
    form: Form,
    (packing, sealed): (u16, &'a [u8]),
) -> ContentArgs<'a> {
    ContentArgs {
        change,
        class: args::class(content.class),
        uid: args::text(uid_text(content.uid)),
        db: args::text(text(content.db.as_deref())),
        user: args::text(text(content.login.as_deref())),
        size: args::number(size_bytes),
        packing: args::number(packing),
        form: args::form(form),
        sealed: sealed.into(),
    }
}

/// The other one if it is of the same shard: a script stays within one.
fn of_shard<'a>(other: Option<&'a Alias>, alias: &Alias) -> Option<&'a Alias> {
    other.filter(|other| other.shard() == alias.shard())
}
